"""The `flow` head in volumes: flows along three axes and cell logits -> instances (Cellpose with `do_3D`).

`decode` smooths the flow if that is asked for, follows it from every voxel inside a cell, makes a mask of the voxels
that end together, fills cavities and drops small masks: as Cellpose 3.1 and 4 do, which differ in cleaning only. Masks
are not compared with the flow, as upstream does not. Knows no planes, files or sessions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cellrt import kernels
from cellrt.errors import CellrtError, DataError
from cellrt.heads import volume
from cellrt.heads.flow import MAX_SIZE_FRACTION, MAX_STEPS, NOT_FINITE, STEPS, mean_probability, number, whole
from cellrt.instances import Instances
from cellrt.manifest import FlowSpec
from cellrt.resize import resize_nearest

Smoothing = float | Sequence[float]
_LARGEST_SIGMA = 1000.0  # voxels
_TRUNCATE = 4.0  # sigmas, upstream's
_BAND = 1 << 20  # voxels that are smoothed at a time, in double precision


def decode(
    maps: NDArray[np.float32],
    spec: FlowSpec,
    *,
    steps: int = STEPS,
    flow_smooth: Smoothing = 0,
    cellprob_threshold: float | None = None,
    min_size: int | None = None,
    max_size_fraction: float = MAX_SIZE_FRACTION,
    out_shape: tuple[int, int, int] | None = None,
    threads: int = 0,
) -> Instances:
    """Instances of whole maps.

    Parameters
    ----------
    maps : float32 (4, Z, Y, X)
        Flow along z, y and x, each the sum of two passes of the network, and the sum of three cell logits. Contiguous.
    spec : FlowSpec
    steps : int
        Of the integration (upstream's `niter`).
    flow_smooth : float or three of them
        Standard deviation, in voxels (of z, y and x), of the Gaussian that the flow is smoothed by; 0: not at all.
    cellprob_threshold, min_size, max_size_fraction
        As in `flow.decode`, for voxels.
    out_shape : (int, int, int), optional
        Sides (z, y, x) of the labels, where they differ from those of the maps: the masks are resized.
    threads : int
        0: all usable cores.

    Returns
    -------
    Instances
        Of a volume: `scores` are the mean cell probability of each mask, `points` the mean of its voxels.

    Notes
    -----
    Memory beside the maps: 16 bytes per voxel for the flow, 20 per voxel inside a cell, 8 per voxel for labels; 12 per
    voxel more if the flow is smoothed.
    """
    limit = spec.cellprob_threshold if cellprob_threshold is None else cellprob_threshold
    limit = number("cellprob_threshold", limit, -math.inf)
    min_size = whole("min_size", spec.min_size if min_size is None else min_size, -(1 << 40), 1 << 40)
    max_size_fraction = number("max_size_fraction", max_size_fraction, 0)
    steps = whole("niter", steps, 0, MAX_STEPS)
    sigmas = checked_smoothing(flow_smooth)
    if (
        not isinstance(maps, np.ndarray)
        or maps.ndim != 4
        or len(maps) != 4
        or maps.dtype != np.float32
        or not maps.size
    ):
        got = f"{maps.dtype} {maps.shape}" if isinstance(maps, np.ndarray) else type(maps).__name__
        raise CellrtError(f"expected maps as float32 (4, Z, Y, X) with voxels, got {got}")
    flow, cellprob = maps[:3], maps[3]
    if any(sigmas):
        flow = np.stack([smoothed(component, sigmas) for component in flow])
    try:
        voxels, positions = kernels.flow_follow_3d(
            flow, cellprob, cellprob_threshold=limit, n_iter=steps, threads=threads
        )
    except DataError:
        raise CellrtError(NOT_FINITE) from None
    labels, _ = kernels.flow_masks_3d(
        voxels, positions, shape=cellprob.shape, max_size_fraction=max_size_fraction, threads=threads
    )
    del voxels, positions
    if out_shape is not None and out_shape != labels.shape:
        labels = resize_nearest(labels, out_shape)
        cellprob = resize_nearest(cellprob, out_shape)
    labels, n = kernels.clean_labels_3d(labels, min_size=min_size, dynamics=spec.dynamics, threads=threads)
    return volume.from_labels(labels, n, scores=mean_probability(labels, cellprob, n), threads=threads)


def checked_smoothing(flow_smooth: Smoothing) -> tuple[float, float, float]:
    """Standard deviations (z, y, x) that an option asks for."""
    single = isinstance(flow_smooth, (int, float, np.number)) and not isinstance(flow_smooth, bool)
    values = (
        (flow_smooth,) * 3 if single else tuple(flow_smooth) if isinstance(flow_smooth, (Sequence, np.ndarray)) else ()
    )
    numbers = [value for value in values if isinstance(value, (int, float, np.number)) and not isinstance(value, bool)]
    if len(values) != 3 or len(numbers) != 3 or not all(0 <= value <= _LARGEST_SIGMA for value in numbers):
        raise CellrtError(
            f"expected flow3D_smooth as a number of voxels from 0 to {_LARGEST_SIGMA:g}, or three of them (z, y, x), "
            f"got {flow_smooth!r}"
        )
    z, y, x = (float(value) for value in numbers)
    return z, y, x


def smoothed(values: NDArray[np.float32], sigmas: tuple[float, float, float]) -> NDArray[np.float32]:
    """Bit for bit `scipy.ndimage.gaussian_filter(values, sigmas)` of a volume (Z, Y, X), float32."""
    for axis, sigma in enumerate(sigmas):
        if sigma > 1e-15:  # scipy's limit
            values = _smoothed_along(values, sigma, axis)
    return values


def _smoothed_along(values: NDArray[np.float32], sigma: float, axis: int) -> NDArray[np.float32]:
    """Along one axis, in double precision and in scipy's order: the middle, then pairs from the outermost inwards."""
    radius = int(_TRUNCATE * sigma + 0.5)
    weights = np.exp(-0.5 / (sigma * sigma) * np.arange(-radius, radius + 1) ** 2)
    weights /= weights.sum()
    source = np.moveaxis(values, axis, 0)
    n = len(source)
    place = np.arange(-radius, n + radius) % (2 * n)  # the volume goes on mirrored, its last voxel twice
    place = np.where(place < n, place, 2 * n - 1 - place)
    out = np.empty(values.shape, np.float32)
    target = np.moveaxis(out, axis, 0)
    rows = max(1, _BAND // (len(place) * source.shape[2]))
    for begin in range(0, source.shape[1], rows):
        band = source[place, begin : begin + rows].astype(np.float64)
        total = band[radius : radius + n] * weights[radius]
        for k in range(radius):
            total += (band[k : k + n] + band[2 * radius - k : 2 * radius - k + n]) * weights[k]
        target[:, begin : begin + rows] = total
    return out
