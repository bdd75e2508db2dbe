"""Flows in volumes: integration and masks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cellrt.errors import KernelError
from cellrt.kernels.native import (
    ERROR_ARGUMENT,
    ERROR_CAPACITY,
    MAX_INT32,
    MAX_SIDE,
    _engine,
    _kernels,
    cancellable,
    check_array,
    check_status,
    thread_count,
    triple,
    whole_number,
)

MAX_VOLUME_SIDE = 2**20

MaskSeeds3D = _engine.MaskSeeds3D


def flow_follow_3d(
    flow: NDArray[np.float32],
    cellprob: NDArray[np.float32],
    *,
    cellprob_threshold: float,
    n_iter: int,
    threads: int,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Follow the flow from every voxel inside a cell: Euler steps of ``flow / 5``, clamped to the volume.

    Parameters
    ----------
    flow : float32 (3, Z, Y, X)
        (z, y, x) components, 5 per voxel and step. Contiguous; finite inside cells; sides up to 2^20.
    cellprob : float32 (Z, Y, X)
        A voxel is inside a cell where this exceeds `cellprob_threshold`.
    cellprob_threshold : float
        Compared in float32.
    n_iter : int
        Number of steps.
    threads : int
        0 uses every usable core.

    Returns
    -------
    voxels : int64 (n,)
        Flat index of each voxel inside a cell, ascending.
    positions : float32 (n, 3)
        Where it ends, (z, y, x) in voxels.
    """
    check_array("flow", flow, np.float32, (3, -1, -1, -1))
    check_array("cellprob", cellprob, np.float32, flow.shape[1:])
    _check_sides("flow", cellprob.shape)
    n_threads, n_iter = thread_count(threads), whole_number("n_iter", n_iter, 0, MAX_INT32)
    if np.isnan(cellprob_threshold):
        raise KernelError("expected cellprob_threshold to be a number, got NaN", ERROR_ARGUMENT)
    status, n = _kernels.count_flow_follow_3d(flow, cellprob, cellprob_threshold, n_threads)
    voxels, positions = np.empty(n, np.int64), np.empty((n, 3), np.float32)
    if status == ERROR_CAPACITY:
        status = cancellable(
            lambda cancel: _kernels.flow_follow_3d(
                flow, cellprob, cellprob_threshold, n_iter, cancel, n_threads, voxels, positions
            )
        )
    check_status(status, "flow_follow_3d", "finite flows inside cells, got NaN or infinity")
    return voxels, positions


def flow_follow_window_3d(
    flow: NDArray[np.float32],
    cellprob: NDArray[np.float32],
    *,
    volume: tuple[int, int, int],
    origin: tuple[int, int, int],
    keep: tuple[tuple[int, int], tuple[int, int], tuple[int, int]],
    cellprob_threshold: float,
    n_iter: int,
    threads: int,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """`flow_follow_3d` in a window of a volume: voxels end where they would in the whole, bit for bit.

    Parameters
    ----------
    flow, cellprob, cellprob_threshold, n_iter, threads
        As there, of the window. Its outermost voxels are not used on sides where the volume goes on.
    volume : (int, int, int)
        Sides (z, y, x) of the whole volume.
    origin : (int, int, int)
        The window's first voxel in it.
    keep : three of (int, int)
        Begin and end along z, y and x of the voxels to follow, in the window; none of those not used.

    Returns
    -------
    voxels : int64 (n,)
        Flat index of each voxel inside a cell, in the window, ascending.
    positions : float32 (n, 3)
        Where it ends, (z, y, x) in voxels of the whole volume; NaN where that takes a larger window to tell.
    """
    check_array("flow", flow, np.float32, (3, -1, -1, -1))
    check_array("cellprob", cellprob, np.float32, flow.shape[1:])
    _check_sides("flow", cellprob.shape)
    _check_sides("volume", volume)
    n_threads, n_iter = thread_count(threads), whole_number("n_iter", n_iter, 0, MAX_INT32)
    if np.isnan(cellprob_threshold):
        raise KernelError("expected cellprob_threshold to be a number, got NaN", ERROR_ARGUMENT)
    corner, box = (
        np.array(numbers, np.int64) for numbers in (triple("origin", origin, -MAX_SIDE, MAX_SIDE), _edges(keep))
    )
    sides = np.array(volume, np.int64)
    status, n = _kernels.count_flow_follow_window_3d(flow, cellprob, sides, corner, box, cellprob_threshold, n_threads)
    voxels, positions = np.empty(n, np.int64), np.empty((n, 3), np.float32)
    if status == ERROR_CAPACITY:
        status = cancellable(
            lambda cancel: _kernels.flow_follow_window_3d(
                flow, cellprob, sides, corner, box, cellprob_threshold, n_iter, cancel, n_threads, voxels, positions
            )
        )
    if status == ERROR_ARGUMENT:
        raise KernelError(
            f"expected a window of {volume} and in it what to follow, without the outermost voxels where the volume "
            f"goes on, got origin {origin}, window {cellprob.shape} and keep {keep}",
            status,
        )
    check_status(status, "flow_follow_window_3d", "finite flows inside cells, got NaN or infinity")
    return voxels, positions


def flow_masks_3d(
    voxels: NDArray[np.int64],
    positions: NDArray[np.float32],
    *,
    shape: tuple[int, int, int],
    max_size_fraction: float,
    threads: int,
) -> tuple[NDArray[np.int32], int]:
    """Masks from where the voxels ended: Cellpose's ``get_masks`` of a volume.

    Parameters
    ----------
    voxels : int64 (n,)
        Flat index of each voxel, ascending.
    positions : float32 (n, 3)
        Where it ended, (z, y, x) in voxels; finite.
    shape : (int, int, int)
        Sides (z, y, x) of the volume.
    max_size_fraction : float
        A mask of more than this fraction of the volume is dropped.
    threads : int
        0 uses every usable core.

    Returns
    -------
    labels : int32 (z, y, x)
        Numbered in order of first appearance.
    n_labels : int
    """
    check_array("voxels", voxels, np.int64, (-1,))
    check_array("positions", positions, np.float32, (len(voxels), 3))
    if not max_size_fraction >= 0:
        raise KernelError(f"expected max_size_fraction of at least 0, got {max_size_fraction}", ERROR_ARGUMENT)
    _check_sides("shape", shape)
    labels = np.empty(shape, np.int32)
    status, n_labels = _kernels.flow_masks_3d(voxels, positions, max_size_fraction, thread_count(threads), labels)
    if status == ERROR_ARGUMENT:
        raise KernelError(f"expected voxels ascending inside {labels.shape}, got others", status)
    check_status(status, "flow_masks_3d", "finite positions, got NaN or infinity")
    return labels, n_labels


def _edges(keep: tuple[tuple[int, int], tuple[int, int], tuple[int, int]]) -> list[int]:
    """Begin and end of each axis in turn."""
    try:
        (z_begin, z_end), (y_begin, y_end), (x_begin, x_end) = keep
    except (TypeError, ValueError):
        raise KernelError(f"expected keep as (begin, end) of three axes, got {keep!r}", ERROR_ARGUMENT) from None
    edges = z_begin, z_end, y_begin, y_end, x_begin, x_end
    return [whole_number(f"keep[{i // 2}][{i % 2}]", edge, -MAX_SIDE, MAX_SIDE) for i, edge in enumerate(edges)]


def _check_sides(name: str, shape: tuple[int, ...]) -> None:
    """Refuse what the C interface does not take for a volume."""
    if not isinstance(shape, tuple) or len(shape) != 3:
        raise KernelError(f"expected {name} to be three numbers (z, y, x), got {shape!r}", ERROR_ARGUMENT)
    for axis, side in enumerate(shape):
        whole_number(f"{name}[{axis}]", side, 0, MAX_VOLUME_SIDE)
    if shape[0] * shape[1] > MAX_INT32:
        raise KernelError(f"expected {name} with fewer than 2^31 rows, got {shape}: cut the volume", ERROR_ARGUMENT)
