"""The normalisation that a network was trained with, exactly as upstream computes it, with the padding it needs.

One pass over the pixels writes the network's float32 input, padded at the end of each axis. Knows percentiles and
channels; never tiles or sessions.
"""

from __future__ import annotations

from typing import Any, Literal, NoReturn

import numpy as np
from numpy.typing import NDArray

from cellrt import kernels
from cellrt.errors import CellrtError, DataError, ImageError
from cellrt.manifest import PercentileSpec

NOT_FINITE = "expected finite pixels, got NaN or infinity; replace them first, for example with numpy.nan_to_num"
_KERNEL_DTYPES = (np.uint8, np.uint16, np.float32)


Normalize = PercentileSpec | tuple[float, float] | Literal["model"] | None  # what `segment` of star models takes


def asked_for(normalize: Normalize, default: PercentileSpec) -> PercentileSpec | None:
    """The normalisation that an argument of `segment` asks for; `default` is the model's."""
    if normalize is None or isinstance(normalize, PercentileSpec):
        return normalize
    if isinstance(normalize, str) and normalize == "model":
        return default
    try:
        low, high = (float(percent) for percent in normalize)
        return PercentileSpec(low=low, high=high, joint=default.joint, eps=default.eps)
    except (TypeError, ValueError):
        raise CellrtError(
            f"expected normalize to be two percentiles 0 <= low < high <= 100, None or 'model', got {normalize!r}"
        ) from None


def normalize(
    pixels: NDArray[Any], spec: PercentileSpec | None, *, out_shape: tuple[int, int], threads: int
) -> NDArray[np.float32]:
    """Normalise, cast and pad an image.

    csbdeep's ``normalize``: (image - low) / (high - low + eps) in float32, the percentiles taken from the raw pixels as
    `numpy.percentile` does (linear interpolation, in double precision for integers and in float32 for float32).

    Parameters
    ----------
    pixels : array (C, Y, X)
        Any integer or floating dtype, any strides.
    spec : PercentileSpec or None
        None casts and pads only: the image is normalised already.
    out_shape : (int, int)
        Sides (y, x) of the result, at least those of the image; the rest mirrors the image (`numpy.pad` "reflect").
    threads : int
        0: all usable cores.

    Returns
    -------
    float32 (C, y, x)

    Raises
    ------
    ImageError
        If a pixel is NaN or infinite, or if there is no contrast between the percentiles.
    """
    with np.errstate(over="ignore"):  # what does not fit float32 becomes infinite, and is refused
        low, divisor = _range(pixels, spec, threads)
    return scaled(pixels, low, divisor, out_shape=out_shape, threads=threads)


def scaled(
    pixels: NDArray[Any],
    low: NDArray[np.float32],
    divisor: NDArray[np.float32],
    *,
    out_shape: tuple[int, int],
    threads: int,
) -> NDArray[np.float32]:
    """(image - low) / divisor, channel by channel, cast and padded; the rest as in `normalize`."""
    try:
        with np.errstate(over="ignore"):
            if pixels.dtype not in _KERNEL_DTYPES:
                pixels = pixels.astype(np.float32)
            return kernels.normalize(pixels, low, divisor, out_shape=out_shape, threads=threads)
    except DataError:
        raise ImageError(NOT_FINITE) from None


def normalize_volume(
    pixels: NDArray[Any], spec: PercentileSpec | None, *, out_shape: tuple[int, int, int], threads: int
) -> NDArray[np.float32]:
    """Normalise, cast and pad a volume (C, Z, Y, X) to (C, z, y, x); the rest as in `normalize`."""
    with np.errstate(over="ignore"):
        low, divisor = _range(pixels, spec, threads)
    return scaled_volume(pixels, low, divisor, out_shape=out_shape, threads=threads)


def scaled_volume(
    pixels: NDArray[Any],
    low: NDArray[np.float32],
    divisor: NDArray[np.float32],
    *,
    out_shape: tuple[int, int, int],
    threads: int,
) -> NDArray[np.float32]:
    """(volume - low) / divisor, channel by channel, cast and padded; the rest as in `normalize_volume`."""
    n_z, (depth, *sides) = pixels.shape[1], out_shape
    out_planes = (sides[0], sides[1])
    volume: NDArray[np.float32] | None = None
    mirrored = np.pad(np.arange(n_z), (0, depth - n_z), mode="reflect")[n_z:]
    for channel, planes in enumerate(pixels):  # the kernel takes the planes for channels, all of one range
        of_planes = (np.repeat(values[channel], n_z) for values in (low, divisor))
        inside = scaled(planes, *of_planes, out_shape=out_planes, threads=threads)
        if len(pixels) == 1 and depth == n_z:
            return inside[np.newaxis]
        if volume is None:
            volume = np.empty((len(pixels), *out_shape), np.float32)
        volume[channel, :n_z] = inside
        for z, source in enumerate(mirrored, n_z):
            volume[channel, z] = inside[source]
    assert volume is not None  # an image has channels
    return volume


def scaling(
    percentiles: NDArray[np.float64], spec: PercentileSpec, *, n_channels: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What becomes 0 in each channel, and the distance from there to what becomes 1.

    Parameters
    ----------
    percentiles : float64 (1 or n_channels, 2)
        The two percentiles of all channels together or of each.
    spec : PercentileSpec
    n_channels : int

    Raises
    ------
    ImageError
        If there is no contrast between two percentiles, or they do not fit float32.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        ranges = percentiles.astype(np.float32)
        low, high = np.broadcast_to(ranges, (n_channels, 2)).T
        divisor = high - low + np.float32(spec.eps)
    if not np.isfinite(divisor).all():
        raise ImageError(f"expected a range of pixels that fits float32, got {low.min():g} to {high.max():g}; rescale")
    if not (high > low).all():
        _refuse_contrast(spec, f"both {float(low[~(high > low)][0]):g}")
    return low.copy(), divisor


def _range(
    pixels: NDArray[Any], spec: PercentileSpec | None, threads: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What becomes 0 in each channel, and the distance from there to what becomes 1."""
    if spec is None:
        return np.zeros(len(pixels), np.float32), np.ones(len(pixels), np.float32)
    groups = [pixels] if spec.joint else [pixels[c : c + 1] for c in range(len(pixels))]
    percentiles = np.array([_percentiles(group, spec, threads) for group in groups])
    return scaling(percentiles, spec, n_channels=len(pixels))


def _percentiles(pixels: NDArray[Any], spec: PercentileSpec, threads: int) -> tuple[float, float]:
    """The two percentiles of all given pixels; raises if they leave no contrast."""
    percents = np.array([spec.low, spec.high], np.float64)
    if pixels.dtype in _KERNEL_DTYPES:
        try:
            low, high = kernels.percentiles(_as_planes(pixels), percents, threads=threads)
        except DataError:
            raise ImageError(NOT_FINITE) from None
    else:
        low, high = np.percentile(pixels, percents)
        if not np.isfinite(low) or not np.isfinite(high):
            raise ImageError(NOT_FINITE)
    if not np.float32(high) > np.float32(low):
        constant = bool((pixels == pixels.flat[0]).all())
        got = f"every pixel {pixels.flat[0]:g}" if constant else f"both {low:g}"
        _refuse_contrast(spec, got)
    return float(low), float(high)


def _as_planes(pixels: NDArray[Any]) -> NDArray[Any]:
    """An image as it is; a volume (C, Z, Y, X) as planes in any order, a view where its strides allow one."""
    if pixels.ndim == 3:
        return pixels
    for volume in (pixels, pixels.swapaxes(0, 1)):
        n, m = volume.shape[:2]
        if 1 in (n, m) or volume.strides[0] == m * volume.strides[1]:
            return volume.reshape(n * m, *volume.shape[2:])
    return pixels.reshape(-1, *pixels.shape[2:])


def _refuse_contrast(spec: PercentileSpec, got: str) -> NoReturn:
    """Raise what says that two percentiles leave no contrast."""
    raise ImageError(
        f"expected contrast between percentiles {spec.low:g} and {spec.high:g}, got {got}; check exposure and "
        "channel, pass other percentiles as normalize=(low, high), or normalize=None for normalised input"
    )
