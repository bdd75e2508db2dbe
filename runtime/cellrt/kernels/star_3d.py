"""Star-convex polyhedra: suppression, painting. Everything is z before y before x, in voxels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellrt.errors import CapacityError, KernelError
from cellrt.kernels.native import (
    ERROR_ARGUMENT,
    ERROR_CAPACITY,
    MAX_INT32,
    MAX_INT64,
    MAX_SIDE,
    _kernels,
    cancellable,
    check_array,
    check_status,
    thread_count,
    triple,
    whole_number,
)

_MAX_CANDIDATES = 2**22
STAR_DROPPED, STAR_KEPT, STAR_UNDECIDED = _kernels.STAR_DROPPED, _kernels.STAR_KEPT, _kernels.STAR_UNDECIDED
_MODES = {
    "full": _kernels.POLYHEDRON_FULL,
    "kernel": _kernels.POLYHEDRON_KERNEL,
    "hull": _kernels.POLYHEDRON_HULL,
    "bbox": _kernels.POLYHEDRON_BBOX,
}


def star_nms_3d(
    prob: NDArray[np.float32],
    dist: NDArray[np.float32],
    points: NDArray[np.int32],
    rays: NDArray[np.float32],
    faces: NDArray[np.int32],
    *,
    nms_thresh: float,
    max_work: int,
    threads: int,
) -> NDArray[np.int64]:
    """Greedy non-maximum suppression of star-convex polyhedra, with StarDist's decisions.

    Parameters
    ----------
    prob : float32 (n,)
    dist : float32 (n, n_rays)
        Ray lengths in voxels, 0 < dist <= 2^20.
    points : int32 (n, 3)
        (z, y, x) in voxels, within 2^20.
    rays : float32 (n_rays, 3)
        Unit vectors (z, y, x).
    faces : int32 (n_faces, 3)
        Triangles between the ends of rays.
    nms_thresh : float
        In [0, 1]: overlap (shared volume over the smaller volume) above which the weaker candidate is dropped.
    max_work : int
        Limit on the work; more gives a `CapacityError`. The unit is a row of voxels or a face looked at for a pair of
        polyhedra whose boxes overlap (see cellrt.h).
    threads : int
        0 uses every usable core.

    Returns
    -------
    int64 (n_kept,)
        Indices of the survivors in descending order of probability, ties in ascending order of index.

    Notes
    -----
    The decisions are those of ``non_maximum_suppression_3d_inds`` on one thread (Weigert et al., WACV 2020): bounds by
    boxes, spheres, kernels and hulls, and counted voxels. With more threads the original's bounds by spheres depend on
    which thread comes first. Kernels and hulls are measured only where the count is close to the threshold or the boxes
    share no more than three layers of voxels (cellrt.h).
    """
    n = _check_candidates(prob, dist, points, rays, faces, nms_thresh)
    max_work = whole_number("max_work", max_work, 0, MAX_INT64)
    kept = np.empty(n, np.int64)
    n_threads = thread_count(threads)
    status, n_kept = cancellable(
        lambda cancel: _kernels.star_nms_3d(
            prob, dist, points, rays, faces, nms_thresh, max_work, cancel, n_threads, kept
        )
    )
    _check_suppressed(status, "star_nms_3d", n, max_work)
    return kept[:n_kept].copy()


def star_settle_3d(
    prob: NDArray[np.float32],
    dist: NDArray[np.float32],
    points: NDArray[np.int32],
    rays: NDArray[np.float32],
    faces: NDArray[np.int32],
    is_open: NDArray[np.uint8],
    *,
    nms_thresh: float,
    max_work: int,
    threads: int,
) -> NDArray[np.uint8]:
    """What `star_nms_3d` decides about some candidates, whatever others may come.

    Parameters
    ----------
    prob, dist, points, rays, faces
        As of `star_nms_3d`; in the same order from call to call, for ties.
    is_open : uint8 (n,)
        1 where candidates that are not given may overlap this one, else 0.
    nms_thresh, max_work, threads
        As of `star_nms_3d`.

    Returns
    -------
    uint8 (n,)
        `STAR_DROPPED`, `STAR_KEPT` or `STAR_UNDECIDED`. Given again with those that came since, until none is open, the
        undecided ones end as they would have among all candidates (but see cellrt.h about the bounds by spheres).
    """
    n = _check_candidates(prob, dist, points, rays, faces, nms_thresh)
    check_array("is_open", is_open, np.uint8, (n,))
    max_work = whole_number("max_work", max_work, 0, MAX_INT64)
    states = np.empty(n, np.uint8)
    n_threads = thread_count(threads)
    status = cancellable(
        lambda cancel: _kernels.star_settle_3d(
            prob, dist, points, rays, faces, is_open, nms_thresh, max_work, cancel, n_threads, states
        )
    )
    _check_suppressed(status, "star_settle_3d", n, max_work)
    return states


def paint_polyhedra_3d(
    dist: NDArray[np.float32],
    points: NDArray[np.floating[Any]],
    rays: NDArray[np.float32],
    faces: NDArray[np.int32],
    order: NDArray[np.int64],
    *,
    origin: tuple[int, int, int],
    shape: tuple[int, int, int],
    mode: str,
    overlap_label: int | None,
    threads: int,
) -> NDArray[np.int32]:
    """Paint star-convex polyhedra into a block of a label volume, voxel for voxel as StarDist does.

    Parameters
    ----------
    dist : float32 (n, n_rays)
        Ray lengths in voxels, 0 < dist <= 2^20.
    points : float32 or float64 (n, 3)
        Centres (z, y, x) in voxels, within 2^20; taken to float32, as upstream does.
    rays : float32 (n_rays, 3)
        Directions (z, y, x); of a rescaled image, multiplied by its scale.
    faces : int32 (n_faces, 3)
        Triangles between the ends of rays.
    order : int64 (n,)
        The polyhedra in painting order; the first to come to a voxel has it.
    origin : (int, int, int)
        The block's first voxel (z, y, x): it gets what painting the whole volume would give it.
    shape : (int, int, int)
        Sides (z, y, x) of the block.
    mode : "full", "kernel", "hull" or "bbox"
        All of the polyhedron, or the voxels behind all of its faces, in its convex hull, in its bounding box.
    overlap_label : int or None
        What a voxel gets that a second polyhedron comes to; None leaves it to the first.
    threads : int
        0 uses every usable core.

    Returns
    -------
    int32 (z, y, x)
        0 where no polyhedron is; polyhedron i paints i + 1.

    Notes
    -----
    The rule is that of ``polyhedron_to_label`` (Weigert et al., WACV 2020), except that a polyhedron whose vertices lie
    in one plane has an empty hull, where Qhull ends the original with an error. Where rays of one direction differ in
    length, as at the poles of Rays_Cartesian, little or nothing is behind all faces, there as here.
    """
    check_array("dist", dist, np.float32, (-1, -1))
    n, n_rays = dist.shape
    centres = points.astype(np.float32) if getattr(points, "dtype", None) == np.float64 else points
    check_array("points", centres, np.float32, (n, 3))
    _check_mesh(rays, faces, n_rays)
    check_array("order", order, np.int64, (n,))
    if n and not (order.min() >= 0 and order.max() < n):
        raise KernelError(
            f"expected order to hold indices of {n} polyhedra, got {order.min()} to {order.max()}", ERROR_ARGUMENT
        )
    if mode not in _MODES:
        raise KernelError(f"expected mode to be one of {', '.join(_MODES)}, got {mode!r}", ERROR_ARGUMENT)
    marks_overlap = overlap_label is not None
    label = whole_number("overlap_label", overlap_label, -MAX_INT32, MAX_INT32) if overlap_label is not None else 0
    labels = np.empty(triple("shape", shape, 0, MAX_SIDE), np.int32)
    where, n_threads = triple("origin", origin, -MAX_SIDE, MAX_SIDE), thread_count(threads)
    stars, rule = (dist, centres, order, rays, faces), (_MODES[mode], marks_overlap, label)
    status = cancellable(lambda cancel: _kernels.paint_polyhedra_3d(*stars, *where, *rule, cancel, n_threads, labels))
    check_status(
        status, "paint_polyhedra_3d", "0 < dist <= 2^20, points within 2^20 and vertices within 2^21 voxels, got others"
    )
    return labels


def _check_candidates(
    prob: NDArray[np.float32],
    dist: NDArray[np.float32],
    points: NDArray[np.int32],
    rays: NDArray[np.float32],
    faces: NDArray[np.int32],
    nms_thresh: float,
) -> int:
    """Refuse what is no set of candidates to suppress; gives their number."""
    check_array("prob", prob, np.float32, (-1,))
    n = len(prob)
    check_array("dist", dist, np.float32, (n, -1))
    check_array("points", points, np.int32, (n, 3))
    _check_mesh(rays, faces, dist.shape[1])
    if n > _MAX_CANDIDATES:
        raise CapacityError(
            f"expected at most {_MAX_CANDIDATES} candidates, got {n}: raise prob_thresh or cut the volume into blocks",
            ERROR_CAPACITY,
        )
    if not 0 <= nms_thresh <= 1:
        raise KernelError(f"expected nms_thresh between 0 and 1, got {nms_thresh}", ERROR_ARGUMENT)
    return n


def _check_suppressed(status: int, function: str, n: int, max_work: int) -> None:
    """Raise unless suppression succeeded."""
    if status == ERROR_CAPACITY:
        raise CapacityError(
            f"expected at most {max_work} rows of voxels to compare, got more from {n} candidates: raise prob_thresh "
            "or max_work",
            status,
        )
    check_status(status, function, "prob without NaN, 0 < dist <= 2^20 and points within 2^20 voxels, got others")


def _check_mesh(rays: NDArray[np.float32], faces: NDArray[np.int32], n_rays: int) -> None:
    """Refuse rays and faces that are none of polyhedra of `n_rays` rays."""
    if not 3 <= n_rays <= 1024:
        raise KernelError(f"expected 3 to 1024 rays per polyhedron, got {n_rays}", ERROR_ARGUMENT)
    check_array("rays", rays, np.float32, (n_rays, 3))
    check_array("faces", faces, np.int32, (-1, 3))
    if not 1 <= len(faces) <= 2048:
        raise KernelError(f"expected 1 to 2048 faces, got {len(faces)}", ERROR_ARGUMENT)
    if faces.min() < 0 or faces.max() >= n_rays:
        raise KernelError(
            f"expected faces to hold indices of {n_rays} rays, got {faces.min()} to {faces.max()}", ERROR_ARGUMENT
        )
