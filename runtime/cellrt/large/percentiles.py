"""Percentiles of an image that is read block by block: exactly those of all its pixels at once.

Pixels are counted by value, 16 bits at a time: one pass over the image for integers of up to 16 bits, two for 32 bits,
four for 64. Floating-point numbers are counted by their bits, put in an order that is theirs.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellrt.large.source import Source

_DIGIT = 16  # bits that a pass counts


def percentiles(source: Source, percents: tuple[float, ...], *, joint: bool) -> NDArray[np.float64]:
    """Percentiles as `numpy.percentile` gives them for the whole image.

    Parameters
    ----------
    source : Source
    percents : tuple of float
        In [0, 100].
    joint : bool
        Of all channels together, or of each.

    Returns
    -------
    float64 (1 or C, len(percents))
        Interpolated in double precision, but in single precision for float32 pixels.
    """
    n_groups = 1 if joint else source.shape[0]
    n_pixels = math.prod(source.shape) // n_groups
    positions = [_neighbours(percent, n_pixels) for percent in percents]
    ranks = [rank for rank, _ in positions for rank in (rank, min(rank + 1, n_pixels - 1))]
    keys = _select(source, ranks, n_groups)
    single = source.dtype == np.float32
    result = np.empty((n_groups, len(percents)))
    for group, found in enumerate(keys):
        values = _values(np.array(found, np.uint64), source.dtype)
        values = values if single else values.astype(np.float64)
        for i, (_, fraction) in enumerate(positions):
            result[group, i] = _between(values[2 * i], values[2 * i + 1], fraction)
    return result


def _neighbours(percent: float, n_pixels: int) -> tuple[int, float]:
    """The order statistic below a percentile, and how far from there to the next it lies: numpy's "linear" rule."""
    position = (n_pixels - 1) * (percent / 100)
    if position >= n_pixels - 1:
        return n_pixels - 1, 0.0
    below = math.floor(position)
    return below, position - below


def _between(low: np.floating[Any], high: np.floating[Any], fraction: float) -> float:
    """Interpolation from the nearer end, in the precision of the numbers, as numpy does it."""
    with np.errstate(over="ignore"):  # a range that does not fit is refused by whoever divides by it
        difference = high - low
        precision = type(low)
        return float(
            high - difference * precision(1 - fraction) if fraction >= 0.5 else low + difference * precision(fraction)
        )


def _select(source: Source, ranks: list[int], n_groups: int) -> list[list[int]]:
    """The keys of the pixels of given ranks (0 is the smallest), for each group of channels."""
    bits = 8 * source.dtype.itemsize
    width = min(_DIGIT, bits)
    prefixes = [[0] * len(ranks) for _ in range(n_groups)]
    left = [list(ranks) for _ in range(n_groups)]
    for shift in range(bits - width, -1, -width):
        counts = [{prefix: np.zeros(1 << width, np.int64) for prefix in found} for found in prefixes]
        for _, block in source.blocks():
            for group, pixels in enumerate([block] if n_groups == 1 else block):
                _count(_keys(pixels), counts[group], shift, width, bits)
        for group in range(n_groups):
            for i, prefix in enumerate(prefixes[group]):
                cumulated = np.cumsum(counts[group][prefix])
                digit = int(np.searchsorted(cumulated, left[group][i], side="right"))
                left[group][i] -= int(cumulated[digit - 1]) if digit else 0
                prefixes[group][i] = prefix << width | digit
    return prefixes


def _count(keys: NDArray[Any], counts: dict[int, NDArray[np.int64]], shift: int, width: int, bits: int) -> None:
    """Count a digit of the keys that begin with each prefix."""
    is_first = shift + width == bits
    mask = keys.dtype.type((1 << width) - 1)
    for prefix, count in counts.items():
        chosen = keys if is_first else keys[keys >> keys.dtype.type(shift + width) == prefix]
        digits = chosen if bits == width else (chosen >> keys.dtype.type(shift)) & mask
        count += np.bincount(digits.astype(np.intp), minlength=len(count))


def _keys(pixels: NDArray[Any]) -> NDArray[Any]:
    """Unsigned integers that order as the pixels do; -0.0 counts as 0.0."""
    flat = pixels.reshape(-1)
    if flat.dtype.kind == "u":
        return flat
    unsigned = np.dtype(f"u{flat.dtype.itemsize}").type
    top = unsigned(1 << (8 * flat.dtype.itemsize - 1))
    keys: NDArray[Any] = flat.view(unsigned) if flat.dtype.kind == "i" else (flat + flat.dtype.type(0)).view(unsigned)
    keys = keys ^ (top if flat.dtype.kind == "i" else np.where(keys & top, ~unsigned(0), top))
    return keys


def _values(keys: NDArray[np.uint64], dtype: np.dtype[Any]) -> NDArray[Any]:
    """The pixels that keys were made of."""
    unsigned = np.dtype(f"u{dtype.itemsize}").type
    bits, top = keys.astype(unsigned), unsigned(1 << (8 * dtype.itemsize - 1))
    if dtype.kind != "u":
        bits ^= top if dtype.kind == "i" else np.where(bits & top, top, ~unsigned(0))
    values: NDArray[Any] = bits.view(dtype)
    return values
