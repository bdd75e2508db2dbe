"""Cellpose's normalisation: grey values become numbers between 0 and 1, channel by channel.

Grey values that are given; or else smoothing and sharpening, then percentiles of the channel or of its blocks; at last
inversion. A stack is normalised as a whole. Knows nothing of networks and tiles. What it computes is
`transforms.normalize_img` of Cellpose 3.1 and 4.2 as `eval` calls it for one image or, with `norm3D`, one stack, from
numpy alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellrt import kernels
from cellrt.errors import ImageError
from cellrt.manifest import Normalize99Spec

_CONTRAST = np.float32(1e-3)  # grey values between the percentiles; with less, there is nothing to normalise by
_SIDE = 224  # pixels: an image of more than the cube of it is sampled for its percentiles, every (side // 224)-th pixel
_PLANES = 50  # and every (planes // 50)-th plane of a stack
_BLOCKS_PER_SIDE = 1.2  # blocks of percentiles, times their side, over the side of the image: a tenth overlap each


def normalize99(pixels: NDArray[Any], spec: Normalize99Spec, *, threads: int) -> NDArray[np.float32]:
    """Normalise an image or a stack as Cellpose does.

    Parameters
    ----------
    pixels : array (C, Y, X) or (C, Z, Y, X)
        Any integer or floating dtype, any strides; read as float32. Not written to.
    spec : Normalize99Spec
        What to do, and by the rules of which version: in v3 a constant channel stays as it is, and inversion does
        nothing after percentiles of blocks; in v4 a constant channel becomes 0 and inversion always works.
    threads : int
        0: all usable cores.

    Returns
    -------
    float32, the shape of `pixels`

    Raises
    ------
    ImageError
        If a pixel is NaN or infinite, if the range of the pixels does not fit float32, or if there are neither two
        grey values in `spec.lowhigh` nor two for each channel.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # what does not fit float32 becomes infinite, and is refused
        image = np.asarray(pixels, np.float32)
        if not _is_finite(image):
            raise ImageError(
                "expected finite pixels, got NaN or infinity; replace them first, for example with numpy.nan_to_num"
            )
        if spec.lowhigh is not None:
            return _scaled(image, None, spec, threads)
        if spec.smooth_radius > 0 or spec.sharpen_radius > 0:
            image = _filter(image, spec.smooth_radius, spec.sharpen_radius)
        if spec.tile_blocksize > 0:
            normalized = _by_blocks(image, spec, threads)
            _invert(normalized, [spec.invert and spec.rules == "v4"] * len(image))
            return normalized
        return _scaled(image, _scaling_of(image, spec, threads), spec, threads)


@dataclass(frozen=True)
class Scaling99:
    """What percentiles say about each channel of an image: enough to normalise any part of it."""

    low: tuple[float, ...]  # what becomes 0
    divisor: tuple[float, ...]  # the distance from there to what becomes 1
    is_blank: tuple[bool, ...]  # every pixel becomes 0
    is_normalized: tuple[bool, ...]  # the others stay as they are, and are not inverted either


def sample_steps(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The percentiles of a channel ([z,] y, x) are those of every so many planes, rows and columns."""
    if math.prod(shape) <= _SIDE**3:
        return (1,) * len(shape)
    usual = (_PLANES, _SIDE, _SIDE)[-len(shape) :]
    return tuple(max(1, side // most) for side, most in zip(shape, usual, strict=True))


def scaling99(percentiles: NDArray[np.float64], is_constant: Sequence[bool], spec: Normalize99Spec) -> Scaling99:
    """What to do with channels whose two percentiles (C, 2), of the sample, are known.

    `is_constant` says of each channel whether all of its pixels are equal.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        first, last = percentiles.astype(np.float32).T
        differences = last - first
        has_contrast = differences > _CONTRAST
        low, divisor = np.where(has_contrast, first, 0), np.where(has_contrast, differences, 1)
    _require_range(bool(np.isfinite(divisor).all()))
    return Scaling99(
        low=tuple(low.tolist()),
        divisor=tuple(divisor.tolist()),
        is_blank=tuple(
            spec.rules == "v4" if alike else not contrast
            for alike, contrast in zip(is_constant, has_contrast.tolist(), strict=True)
        ),
        is_normalized=tuple(not alike for alike in is_constant),
    )


def scaled99(
    pixels: NDArray[np.float32], scaling: Scaling99 | None, spec: Normalize99Spec, *, threads: int
) -> NDArray[np.float32]:
    """Normalise finite pixels, float32 (C, Y, X), as `scaling` says, or by the grey values of `spec` without one.

    Raises `ImageError` if the range of the pixels does not fit float32, or the grey values not the channels.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        if scaling is None:
            assert spec.lowhigh is not None  # the callers ask
            normalized, is_normalized = _by_grey_values(pixels, spec.lowhigh), (True,) * len(pixels)
        else:
            low, divisor = np.array(scaling.low, np.float32), np.array(scaling.divisor, np.float32)
            normalized = kernels.normalize(pixels, low, divisor, out_shape=pixels.shape[1:], threads=threads)
            normalized[np.array(scaling.is_blank)] = 0
            is_normalized = scaling.is_normalized
        _invert(normalized, [spec.invert and normal for normal in is_normalized])
    return normalized


def _scaled(
    image: NDArray[np.float32], scaling: Scaling99 | None, spec: Normalize99Spec, threads: int
) -> NDArray[np.float32]:
    """`scaled99` of an image or a stack, whose planes are one above the other for it."""
    rows = image.reshape(len(image), -1, image.shape[-1])
    return scaled99(rows, scaling, spec, threads=threads).reshape(image.shape)


def _invert(normalized: NDArray[np.float32], inverts: Sequence[bool]) -> None:
    """Turn channels upside down, in place, and refuse what left the range of float32."""
    for channel, wanted in zip(normalized, inverts, strict=True):
        if wanted:
            np.subtract(1, channel, out=channel)
    _require_range(_is_finite(normalized))


def _is_finite(image: NDArray[np.float32]) -> bool:
    """No pixel is NaN or infinite: then neither is their sum, for double precision has room for it."""
    return bool(np.isfinite(image.sum(dtype=np.float64)))


def _require_range(condition: bool) -> None:
    """Refuse finite pixels with which the arithmetic leaves the range of float32."""
    if not condition:
        raise ImageError("expected grey values whose differences fit float32, got larger ones; rescale the image")


def _by_grey_values(pixels: NDArray[np.float32], lowhigh: tuple[float, ...]) -> NDArray[np.float32]:
    """(image - low) / (high - low), in double precision and rounded to float32 after each step, as upstream."""
    if len(lowhigh) not in (2, 2 * len(pixels)):
        raise ImageError(
            f"expected lowhigh of 2 numbers or of {2 * len(pixels)} for {len(pixels)} channels, got {len(lowhigh)}: "
            "give the grey values that become 0 and 1, for all channels or for each"
        )
    pairs = np.resize(np.array(lowhigh, np.float64), (len(pixels), 2))
    normalized = np.empty(pixels.shape, np.float32)
    for channel, out, (low, high) in zip(pixels, normalized, pairs, strict=True):
        np.subtract(channel, low, out=out, dtype=np.float64, casting="same_kind")
        np.divide(out, high - low, out=out, dtype=np.float64, casting="same_kind")
    return normalized


def _scaling_of(pixels: NDArray[np.float32], spec: Normalize99Spec, threads: int) -> Scaling99:
    """What the percentiles of each channel say."""
    sample = tuple(slice(None, None, step) for step in sample_steps(pixels.shape[1:]))
    percents = np.array([spec.low, spec.high], np.float64)
    percentiles = np.array(
        [kernels.percentiles(_planes(channel[sample]), percents, threads=threads) for channel in pixels]
    )
    is_constant = [
        bool(low == high and channel.min() == channel.max())
        for channel, (low, high) in zip(pixels, percentiles, strict=True)
    ]
    return scaling99(percentiles, is_constant, spec)


def _planes(channel: NDArray[np.float32]) -> NDArray[np.float32]:
    """A channel (Y, X) or (Z, Y, X) as planes (Z, Y, X): a view."""
    return channel[np.newaxis] if channel.ndim == 2 else channel


def _by_blocks(pixels: NDArray[np.float32], spec: Normalize99Spec, threads: int) -> NDArray[np.float32]:
    """(image - low) / (high - low) with percentiles of overlapping blocks, interpolated between them."""
    blocks = np.array([[_block_percentiles(plane, spec) for plane in _planes(channel)] for channel in pixels])
    low, high = np.ascontiguousarray(np.moveaxis(blocks, 2, 0))
    for plane_low, plane_high in zip(low.reshape(-1, *low.shape[2:]), high.reshape(-1, *high.shape[2:]), strict=True):
        is_empty = plane_high - plane_low < _CONTRAST
        if is_empty.all():
            plane_low[:], plane_high[:] = 0, 1
        elif is_empty.any():
            nearest = _nearest(~is_empty)
            plane_low[:], plane_high[:] = plane_low[nearest], plane_high[nearest]
    _require_range(bool(np.isfinite(high.max() - low.min())))
    low, high = _smooth_blocks(low), _smooth_blocks(high)
    single_precision = len(low) not in (1, 3, 4) or 1 in low.shape[1:]  # which of OpenCV's routines upstream gets
    low, high = (
        kernels.resize_linear(
            grids,
            out_shape=pixels.shape[-2:],
            single_precision=single_precision,
            threads=threads,
        )
        for grids in (low, high)
    )
    high -= low
    if pixels.ndim == 4:
        low, high = low[:, np.newaxis], high[:, np.newaxis]
    normalized = pixels - low
    normalized /= high
    return normalized


def _block_percentiles(channel: NDArray[np.float32], spec: Normalize99Spec) -> NDArray[np.float32]:
    """The two percentiles of every block, (2, rows of blocks, blocks in a row), as `numpy.percentile` has them."""
    # numpy's own: a kernel call for each small block would spend its time on setting up histograms.
    height, width = (min(spec.tile_blocksize, side) for side in channel.shape)
    rows, columns = (_block_starts(side, spec.tile_blocksize) for side in channel.shape)
    bands = []
    for y in rows:
        blocks = np.array([channel[y : y + height, x : x + width].ravel() for x in columns])
        bands.append(np.percentile(blocks, [spec.low, spec.high], axis=1, overwrite_input=True))
    return np.stack(bands, axis=1).astype(np.float32)


def _block_starts(side: int, blocksize: int) -> list[int]:
    """Where the blocks along an axis begin."""
    if side <= blocksize:
        return [0]
    n = int(np.ceil(_BLOCKS_PER_SIDE * side / blocksize))
    return [int(start) for start in np.linspace(0, side - blocksize, n)]


def _nearest(is_good: NDArray[np.bool_]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Row and column of the good block nearest to each block; of equally near ones the first by rows. At least one."""
    n_rows, n_columns = is_good.shape
    columns = np.arange(n_columns)
    far = n_rows + n_columns  # further away than any block
    left = np.maximum.accumulate(np.where(is_good, columns, -far), axis=1)
    right = np.minimum.accumulate(np.where(is_good, columns, n_columns + far)[:, ::-1], axis=1)[:, ::-1]
    nearest_in_row = np.where(columns - left <= right - columns, left, right)
    squares = (nearest_in_row - columns) ** 2
    rows = np.array([((np.arange(n_rows)[:, np.newaxis] - y) ** 2 + squares).argmin(axis=0) for y in range(n_rows)])
    return rows, nearest_in_row[rows, columns]


def _smooth_blocks(grids: NDArray[np.float32]) -> NDArray[np.float32]:
    """Grids (C, planes, rows, columns) smoothed, and their mean over planes, (C, rows, columns).

    Upstream means the two axes of the grid, but its arrays begin with z: it smooths along z, which does nothing to one
    plane, and along y; then along y once more.
    """
    for axis in (1, 2, 2):
        grids = _smooth_along(grids, axis)
    mean: NDArray[np.float32] = np.ascontiguousarray(grids.mean(axis=1))
    return mean


def _smooth_along(grids: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """`scipy.ndimage.gaussian_filter1d(grids, 1, axis)`."""
    radius = 4
    weights = np.exp(-0.5 * np.arange(-radius, radius + 1) ** 2.0)
    margins = [(radius, radius) if i == axis else (0, 0) for i in range(grids.ndim)]
    padded = np.pad(grids, margins, mode="symmetric")
    windows = np.lib.stride_tricks.sliding_window_view(padded, len(weights), axis=axis)
    smoothed: NDArray[np.float32] = (windows @ (weights / weights.sum())).astype(np.float32)
    return smoothed


def _filter(pixels: NDArray[np.float32], smooth_radius: float, sharpen_radius: float) -> NDArray[np.float32]:
    """Each plane smoothed by a Gaussian, less the plane smoothed by a wider one; a radius of 0 leaves out its half.

    Only sharpened, it is the plane less the smoothed one; but upstream sets the middle of that filter to 1, where 1
    less the Gaussian was meant. Agrees with upstream to about 1e-5: the Fourier transforms are not the same.
    """
    n_y, n_x = pixels.shape[-2:]
    if smooth_radius > 0:
        transfer = _transfer(smooth_radius, n_y, n_x)[0]
        if sharpen_radius > 0:
            transfer -= _transfer(sharpen_radius, n_y, n_x)[0]
    else:
        transfer, middle = _transfer(sharpen_radius, n_y, n_x)
        np.subtract(np.float32(1 + middle), transfer, out=transfer)
    filtered = np.empty(pixels.shape, np.float32)
    for plane, out in zip(pixels.reshape(-1, n_y, n_x), filtered.reshape(-1, n_y, n_x), strict=True):
        spectrum = np.fft.rfft2(plane)
        spectrum *= transfer
        out[:] = np.fft.irfft2(spectrum, s=(n_y, n_x))
    _require_range(_is_finite(filtered))
    return filtered


def _transfer(radius: float, n_y: int, n_x: int) -> tuple[NDArray[np.complex64], float]:
    """What a Gaussian does to each frequency of a real image, and the weight in its middle.

    Upstream's Gaussian: its samples lie a little more than a pixel apart, beside the middle, and those along x are
    spread over as many pixels as there are along y.
    """
    spectra, middle = [], 1.0
    for n, transform in ((n_y, np.fft.fft), (n_x, np.fft.rfft)):
        exponents = np.linspace(-n_y / 2, n_y / 2 + 1, n) ** 2 / (2 * radius**2)
        weights = np.exp(exponents.min() - exponents)  # the common factor keeps small radii from underflow
        weights /= weights.sum()
        middle *= float(weights[n // 2])
        spectra.append(transform(np.roll(weights, -(n // 2))).conj().astype(np.complex64))
    return np.multiply.outer(spectra[0], spectra[1]), middle
