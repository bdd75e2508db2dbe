"""Candidates of star-convex objects: where a network's maps say that one is likely."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from cellrt.errors import CapacityError, KernelError
from cellrt.kernels.native import (
    ERROR_ARGUMENT,
    ERROR_CAPACITY,
    MAX_COUNT,
    MAX_SIDE,
    _kernels,
    check_array,
    check_status,
    pair,
    thread_count,
    triple,
    whole_number,
)

# prob, dist, points, class_prob: see `star_candidates_2d`
Candidates = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int32], NDArray[np.float32] | None]


def star_candidates_2d(
    maps: NDArray[np.float32],
    *,
    n_rays: int,
    n_class_channels: int,
    window: tuple[int, int, int, int],
    prob_thresh: float,
    grid: tuple[int, int],
    origin: tuple[int, int],
    max_candidates: int,
    threads: int,
) -> Candidates:
    """Grid samples whose probability exceeds a threshold, in row-major order.

    Parameters
    ----------
    maps : float32 (1 + n_rays + n_class_channels, Y, X)
        The network's output: probability, ray lengths in pixels, class probabilities. Contiguous.
    n_rays, n_class_channels : int
        What the maps hold; `n_class_channels` is 0 or the number of classes + 1.
    window : (y_begin, y_end, x_begin, x_end)
        The samples to look at, half open, inside the maps.
    prob_thresh : float
        Strict, compared in float32.
    grid : (int, int)
        Pixels per sample (y, x).
    origin : (int, int)
        Pixel (y, x) of sample (0, 0), added to every point.
    max_candidates : int
        More give a `CapacityError`, before any memory is taken for them.
    threads : int
        0 uses every usable core.

    Returns
    -------
    prob : float32 (n,)
    dist : float32 (n, n_rays)
        At least 1e-3 pixels.
    points : int32 (n, 2)
        (y, x) in pixels.
    class_prob : float32 (n, n_class_channels) or None
        None when `n_class_channels` is 0.
    """
    where = n_rays, n_class_channels, window, prob_thresh, grid, origin
    return _candidates(2, maps, *where, max_candidates, threads)


def star_candidates_3d(
    maps: NDArray[np.float32],
    *,
    n_rays: int,
    n_class_channels: int,
    window: tuple[int, int, int, int, int, int],
    prob_thresh: float,
    grid: tuple[int, int, int],
    origin: tuple[int, int, int],
    max_candidates: int,
    threads: int,
) -> Candidates:
    """Grid samples whose probability exceeds a threshold, in row-major order.

    Parameters
    ----------
    maps : float32 (1 + n_rays + n_class_channels, Z, Y, X)
        The network's output: probability, ray lengths in voxels, class probabilities. Contiguous.
    n_rays, n_class_channels : int
        What the maps hold; `n_class_channels` is 0 or the number of classes + 1.
    window : (z_begin, z_end, y_begin, y_end, x_begin, x_end)
        The samples to look at, half open, inside the maps.
    prob_thresh : float
        Strict, compared in float32.
    grid : (int, int, int)
        Voxels per sample (z, y, x).
    origin : (int, int, int)
        Voxel (z, y, x) of sample (0, 0, 0), added to every point.
    max_candidates : int
        More give a `CapacityError`, before any memory is taken for them.
    threads : int
        0 uses every usable core.

    Returns
    -------
    prob : float32 (n,)
    dist : float32 (n, n_rays)
        At least 1e-3 voxels.
    points : int32 (n, 3)
        (z, y, x) in voxels.
    class_prob : float32 (n, n_class_channels) or None
        None when `n_class_channels` is 0.
    """
    where = n_rays, n_class_channels, window, prob_thresh, grid, origin
    return _candidates(3, maps, *where, max_candidates, threads)


def _candidates(
    n_axes: int,
    maps: NDArray[np.float32],
    n_rays: int,
    n_class_channels: int,
    window: tuple[int, ...],
    prob_thresh: float,
    grid: tuple[int, ...],
    origin: tuple[int, ...],
    max_candidates: int,
    threads: int,
) -> Candidates:
    """Count, allocate, find."""
    name, unit = f"star_candidates_{n_axes}d", "pixels" if n_axes == 2 else "voxels"
    numbers: Callable[..., tuple[int, ...]] = pair if n_axes == 2 else triple
    n_rays = whole_number("n_rays", n_rays, 3, 1024)
    n_class_channels = whole_number("n_class_channels", n_class_channels, 0, 1 << 20)
    max_candidates = whole_number("max_candidates", max_candidates, 0, MAX_COUNT)
    grid, origin = numbers("grid", grid, 1, MAX_SIDE), numbers("origin", origin, -MAX_SIDE, MAX_SIDE)
    check_array("maps", maps, np.float32, (1 + n_rays + n_class_channels, *(-1,) * n_axes))
    sides = maps.shape[1:]
    spans = zip(window[::2], window[1::2], sides, strict=True)
    if not all(0 <= begin <= end <= side for begin, end, side in spans):
        raise KernelError(f"expected a window inside {sides} samples, got {tuple(window)}", ERROR_ARGUMENT)
    where = (n_rays, n_class_channels, *window, prob_thresh, *grid, *origin, thread_count(threads))
    status, n = getattr(_kernels, f"count_{name}")(maps, *where)
    if status != ERROR_CAPACITY:
        check_status(status, name, "finite maps")
    if n > max_candidates:
        raise CapacityError(
            f"expected at most {max_candidates} candidates, got {n}: raise prob_thresh ({prob_thresh}) or "
            "max_candidates",
            ERROR_CAPACITY,
        )
    prob, dist = np.empty(n, np.float32), np.empty((n, n_rays), np.float32)
    points, class_prob = np.empty((n, n_axes), np.int32), np.empty((n, n_class_channels), np.float32)
    status = getattr(_kernels, name)(maps, *where, prob, dist, points, class_prob)
    check_status(
        status,
        name,
        f"ray lengths that are finite and at most 2^20 {unit}, got others: the network does not suit this image",
    )
    return prob, dist, points, class_prob if n_class_channels else None
