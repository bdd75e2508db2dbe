"""Resampling, with the exact rule of each upstream.

StarDist rescales with `scipy.ndimage.zoom(order=1)`, which is `zoom_linear`; Cellpose with OpenCV's `resize`, which is
`resize_linear` for images and flows and `resize_nearest` for labels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellrt import kernels
from cellrt.errors import ImageError

MAX_PIXELS = 1 << 28  # of a rescaled image: 1 GB of float32 per channel
MAX_VOXELS = 1 << 31  # of a rescaled volume: 8 GB
_Table = tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float64], NDArray[np.float64]]  # see `_interpolation`
_BAND = 64  # rows at a time: the double-precision intermediates of a whole plane would be six times its size


def require_size(new: Sequence[int], old: Sequence[int], why: str) -> None:
    """Raise `ImageError` unless a rescaled image has pixels, and at most `MAX_PIXELS`; a volume `MAX_VOXELS`."""
    kind, unit, most = ("image", "pixels", MAX_PIXELS) if len(new) == 2 else ("volume", "voxels", MAX_VOXELS)
    if min(new) < 1 or math.prod(new) > most:
        after, before = (" x ".join(str(side) for side in sides) for sides in (new, old))
        raise ImageError(
            f"expected a rescaled {kind} of 1 to {most} {unit}, got {after} from {before} with {why}; choose another"
        )


def zoom_linear(image: NDArray[np.float32], scale: tuple[float, float]) -> NDArray[np.float32]:
    """Rescale the planes of an image by linear interpolation between corner-aligned grids.

    Parameters
    ----------
    image : float32 (C, Y, X)
    scale : (float, float)
        Factors (y, x); the sides become ``round(side * factor)``.

    Returns
    -------
    float32 (C, round(Y * scale[0]), round(X * scale[1]))
        Bit for bit `scipy.ndimage.zoom(plane, scale, order=1)`. That includes its edge: where rounding puts the last
        sample of an axis beyond the image (as for 90 samples to 45), scipy gives 0, and so the network saw 0 there.
    """
    return _zoom(image, _interpolation(image.shape[1], scale[0]), _interpolation(image.shape[2], scale[1]))


def zoom_linear_3d(volume: NDArray[np.float32], scale: tuple[float, float, float]) -> NDArray[np.float32]:
    """Rescale a volume, float32 (C, Z, Y, X), by factors (z, y, x) as `zoom_linear` does an image."""
    planes, rows, columns = map(_interpolation, volume.shape[1:], scale)
    return _zoom_3d(volume, planes, rows, columns)


def zoom_source(side: int, factor: float, span: tuple[int, int]) -> tuple[int, int]:
    """Begin and end of the samples of an axis that `zoom_linear` takes a span of its new samples from."""
    before, after, _, _ = _interpolation(side, factor)
    return int(before[span[0]]), int(after[span[1] - 1]) + 1


def zoom_linear_part(
    part: NDArray[np.float32],
    scale: tuple[float, float],
    *,
    shape: tuple[int, int],
    spans: tuple[tuple[int, int], tuple[int, int]],
) -> NDArray[np.float32]:
    """What `zoom_linear` gives in a window of its result, from no more than it takes there.

    Parameters
    ----------
    part : float32 (C, y, x)
        The image where `zoom_source` says for either axis.
    scale : (float, float)
        Factors (y, x).
    shape : (int, int)
        The image, (Y, X).
    spans : ((begin, end), (begin, end))
        The window in the result, along y and x.
    """
    rows, columns = map(_interpolation_part, shape, scale, spans)
    return _zoom(part, rows, columns)


def zoom_linear_part_3d(
    part: NDArray[np.float32],
    scale: tuple[float, float, float],
    *,
    shape: tuple[int, int, int],
    spans: tuple[tuple[int, int], tuple[int, int], tuple[int, int]],
) -> NDArray[np.float32]:
    """What `zoom_linear_3d` gives in a window of its result, as `zoom_linear_part` does for an image."""
    planes, rows, columns = map(_interpolation_part, shape, scale, spans)
    return _zoom_3d(part, planes, rows, columns)


def _zoom(image: NDArray[np.float32], rows: _Table, columns: _Table) -> NDArray[np.float32]:
    """Interpolate between the two neighbours that each row and each column has."""
    zoomed = np.empty((len(image), len(rows[0]), len(columns[0])), np.float32)
    for plane, out in zip(image, zoomed, strict=True):
        _zoom_plane([(plane, None)], rows, columns, out)
    return zoomed


def _zoom_3d(volume: NDArray[np.float32], planes: _Table, rows: _Table, columns: _Table) -> NDArray[np.float32]:
    """The same with the two neighbours that each plane has."""
    front, back, front_weight, back_weight = planes
    zoomed = np.empty((len(volume), len(front), len(rows[0]), len(columns[0])), np.float32)
    for channel, out in zip(volume, zoomed, strict=True):
        for z, plane in enumerate(out):
            pair = ((channel[front[z]], front_weight[z]), (channel[back[z]], back_weight[z]))
            _zoom_plane(pair, rows, columns, plane)
    return zoomed


def _zoom_plane(
    planes: Sequence[tuple[NDArray[np.float32], np.float64 | None]],
    rows: _Table,
    columns: _Table,
    out: NDArray[np.float32],
) -> None:
    """Write the sum of planes (Y, X), each times its weight where it has one, interpolated, to `out` (y, x)."""
    above, below, upper_weight, lower_weight = rows
    left, right, left_weight, right_weight = columns
    for begin in range(0, len(out), _BAND):
        band = slice(begin, begin + _BAND)
        total = np.zeros((len(above[band]), len(left)))
        for plane, weight in planes:
            for neighbours, row_weight in ((above, upper_weight), (below, lower_weight)):
                row = plane[neighbours[band]].astype(np.float64)
                if weight is not None:
                    row *= weight
                row *= row_weight[band, None]
                total += row[:, left] * left_weight
                total += row[:, right] * right_weight
        out[band] = total


def _interpolation(side: int, factor: float) -> _Table:
    """For each new sample of an axis: its two old neighbours and their weights, 0 beyond the image."""
    new_side = max(1, round(side * factor))
    step = (side - 1) / (new_side - 1) if new_side > 1 else 1.0
    positions = np.arange(new_side) * step
    inside = positions <= side - 1
    before = np.minimum(np.floor(positions).astype(np.intp), side - 1)
    first = 1 - (positions - before)
    second = 1 - first  # not the position's own fraction: scipy makes the weights add up to 1 this way
    return before, np.minimum(before + 1, side - 1), np.where(inside, first, 0), np.where(inside, second, 0)


def _interpolation_part(side: int, factor: float, span: tuple[int, int]) -> _Table:
    """The same of a span of new samples, for the part of the axis that `zoom_source` says."""
    before, after, first, second = _interpolation(side, factor)
    inside, origin = slice(*span), before[span[0]]
    return before[inside] - origin, after[inside] - origin, first[inside], second[inside]


def resize_linear(planes: NDArray[np.float32], shape: tuple[int, int], *, threads: int) -> NDArray[np.float32]:
    """Planes (C, Y, X) at another shape, by the routine that OpenCV has for as many channels."""
    single_precision = len(planes) not in (1, 3, 4) or 1 in planes.shape[1:]
    return kernels.resize_linear(planes, out_shape=shape, single_precision=single_precision, threads=threads)


def resize_linear_volume(
    volume: NDArray[np.float32], shape: tuple[int, int, int], *, threads: int
) -> NDArray[np.float32]:
    """A volume (C, Z, Y, X) at another shape, as Cellpose does it: planes of z first, then those of y."""
    depth, *sides = shape
    resized = volume
    if resized.shape[2:] != (sides[0], sides[1]):
        resized = np.empty((len(volume), volume.shape[1], *sides), np.float32)
        for z in range(volume.shape[1]):
            plane = np.ascontiguousarray(volume[:, z])
            resized[:, z] = resize_linear(plane, (sides[0], sides[1]), threads=threads)
    if resized.shape[1] != depth:
        before, resized = resized, np.empty((len(volume), *shape), np.float32)
        for y in range(sides[0]):
            plane = np.ascontiguousarray(before[:, :, y])
            resized[:, :, y] = resize_linear(plane, (depth, sides[1]), threads=threads)
    return resized


def resize_nearest(image: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """The image (Y, X) at another shape, each sample taken from a pixel: OpenCV's `resize(INTER_NEAREST)`.

    Sample d of n new ones takes old pixel ``floor(d * step)``, where OpenCV has ``1 / (n / old)`` for the step: in
    double precision that is not always ``old / n``, and now and then the pixel is the one before. Axes do not depend on
    each other, so that a volume (Z, Y, X) may be given as well.
    """
    resized: NDArray[Any] = image[np.ix_(*(nearest(new, old) for new, old in zip(shape, image.shape, strict=True)))]
    return resized


def nearest(new: int, old: int) -> NDArray[np.intp]:
    """The old sample of an axis that `resize_nearest` takes for each new one, ascending."""
    return np.minimum((np.arange(new) * (1 / (new / old))).astype(np.intp), old - 1)
