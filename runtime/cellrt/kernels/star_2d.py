"""Star-convex polygons: suppression, outlines, painting, and training targets."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cellrt.errors import CapacityError, KernelError
from cellrt.kernels.native import (
    ERROR_ARGUMENT,
    ERROR_CAPACITY,
    MAX_INT32,
    MAX_INT64,
    MAX_SIDE,
    _engine,
    _kernels,
    cancellable,
    check_array,
    check_status,
    pair,
    thread_count,
    whole_number,
)
from cellrt.kernels.star_candidates import Candidates

_MAX_TARGET_SIDE = 2**20


def star_nms_2d(
    prob: NDArray[np.float32],
    dist: NDArray[np.float32],
    points: NDArray[np.int32],
    *,
    nms_thresh: float,
    max_pairs: int,
    threads: int,
) -> NDArray[np.int64]:
    """Greedy non-maximum suppression of star-convex polygons, with StarDist's decisions.

    Parameters
    ----------
    prob : float32 (n,)
    dist : float32 (n, n_rays)
        Ray lengths in pixels, 0 < dist <= 2^20.
    points : int32 (n, 2)
        (y, x) in pixels.
    nms_thresh : float
        In [0, 1]: overlap (intersection over the smaller area) above which the weaker candidate is dropped.
    max_pairs : int
        Limit on the work; more gives a `CapacityError`. A pair is the comparison of a candidate with a survivor whose
        box touches its own; every 64 grid cells and boxes looked at in one search for survivors count as one more.
    threads : int
        0 uses every usable core.

    Returns
    -------
    int64 (n_kept,)
        Indices of the survivors in descending order of probability, ties in ascending order of index.
    """
    check_array("prob", prob, np.float32, (-1,))
    n = len(prob)
    check_array("dist", dist, np.float32, (n, -1))
    check_array("points", points, np.int32, (n, 2))
    _check_rays(dist)
    if not 0 <= nms_thresh <= 1:
        raise KernelError(f"expected nms_thresh between 0 and 1, got {nms_thresh}", ERROR_ARGUMENT)
    max_pairs = whole_number("max_pairs", max_pairs, 0, MAX_INT64)
    kept, n_threads = np.empty(n, np.int64), thread_count(threads)
    status, n_kept = cancellable(
        lambda cancel: _kernels.star_nms_2d(prob, dist, points, nms_thresh, max_pairs, cancel, n_threads, kept)
    )
    if status == ERROR_CAPACITY:
        raise CapacityError(
            f"expected at most {max_pairs} pairs of overlapping candidates to compare, got more from {n} "
            "candidates: raise prob_thresh or max_pairs",
            status,
        )
    check_status(status, "star_nms_2d", "prob without NaN, 0 < dist <= 2^20 and points within 2^30, got others")
    return kept[:n_kept].copy()


class StarNms2D(_engine.StarNms2D):
    """Suppression of star-convex candidates that arrive tile by tile.

    The survivors are those of `star_nms_2d` on all candidates in row-major order of their points, in whichever order
    the tiles came, as long as no two tiles have the same point. Candidates are copied and kept until the object goes.
    Any thread may call any method; calls on one object wait for each other, without the GIL.

    Parameters
    ----------
    n_rays : int
        3..1024.
    n_class_channels : int
        Values that each candidate carries along; 0: none.
    max_candidates : int
        Most candidates that may be added, below 2^32.

    Raises
    ------
    KernelError
        A number is out of range.
    """

    def survivors(self, nms_thresh: float, max_pairs: int, n_threads: int) -> Candidates:
        """Survivors of all candidates so far, best first; more candidates may be added afterwards.

        Parameters
        ----------
        nms_thresh : float
            In [0, 1]: overlap (intersection over the smaller area) above which the weaker candidate is dropped.
        max_pairs : int
            Limit on the work, as for `star_nms_2d`.
        n_threads : int
            0 uses every usable core; the result is the same for any number.

        Returns
        -------
        prob : float32 (n,)
            Descending; ties in ascending order of (y, x), then of arrival.
        dist : float32 (n, n_rays)
        points : int32 (n, 2)
        class_prob : float32 (n, n_class_channels) or None

        Raises
        ------
        CapacityError
            It would take more pairs.
        KernelError
            A number is out of range.
        KeyboardInterrupt
            Ctrl-C on the main thread, within about 0.1 s; so does whatever another signal's handler raises.
        """
        return cancellable(lambda cancel: self.suppressed(nms_thresh, max_pairs, cancel, n_threads))


def star_outlines_2d(
    dist: NDArray[np.float32], points: NDArray[np.float64], *, scale: tuple[float, float], threads: int
) -> NDArray[np.float32]:
    """Vertices of star-convex polygons, bit for bit StarDist's ``dist_to_coord``.

    Parameters
    ----------
    dist : float32 (n, n_rays)
        Ray lengths in pixels of the network's input; finite.
    points : float64 (n, 2)
        (y, x) in pixels of the image: already scaled; finite.
    scale : (float, float)
        Pixels of the image per pixel of the network's input (y, x).
    threads : int
        0 uses every usable core.

    Returns
    -------
    float32 (n, n_rays, 2)
        (y, x) in pixels of the image.
    """
    check_array("dist", dist, np.float32, (-1, -1))
    check_array("points", points, np.float64, (len(dist), 2))
    _check_rays(dist)
    scale_y, scale_x = scale
    if not (np.isfinite(scale_y) and np.isfinite(scale_x)):
        raise KernelError(f"expected a finite scale, got {tuple(scale)}", ERROR_ARGUMENT)
    coords = np.empty((*dist.shape, 2), np.float32)
    status = _kernels.star_outlines_2d(dist, points, scale_y, scale_x, thread_count(threads), coords)
    check_status(status, "star_outlines_2d", "finite lengths and points, got NaN or infinity")
    return coords


def paint_polygons_2d(
    coords: NDArray[np.float32],
    offsets: NDArray[np.int64],
    order: NDArray[np.int64],
    *,
    shape: tuple[int, int],
    threads: int,
) -> NDArray[np.int32]:
    """Fill polygons into a label image, pixel for pixel as ``skimage.draw.polygon`` does.

    Parameters
    ----------
    coords : float32 (m, 2)
        Vertices (y, x) of all polygons, one after the other, in pixels.
    offsets : int64 (n + 1,)
        Polygon i has the vertices ``coords[offsets[i]:offsets[i + 1]]``.
    order : int64 (n,)
        The polygons in painting order, later over earlier.
    shape : (int, int)
        Sides (y, x) of the image.
    threads : int
        0 uses every usable core.

    Returns
    -------
    int32 (y, x)
        0 where no polygon is; polygon i paints i + 1.
    """
    check_array("coords", coords, np.float32, (-1, 2))
    check_array("offsets", offsets, np.int64, (-1,))
    n = len(offsets) - 1
    if n < 0 or offsets[0] != 0 or offsets[-1] != len(coords) or (np.diff(offsets) < 0).any():
        raise KernelError(
            f"expected offsets that rise from 0 to {len(coords)}, the number of vertices, got {offsets}",
            ERROR_ARGUMENT,
        )
    check_array("order", order, np.int64, (n,))
    if n and not (order.min() >= 0 and order.max() < n):
        raise KernelError(
            f"expected order to hold indices of {n} polygons, got {order.min()} to {order.max()}", ERROR_ARGUMENT
        )
    labels = np.empty(pair("shape", shape, 0, MAX_SIDE), np.int32)
    status = _kernels.paint_polygons_2d(coords, offsets, order, thread_count(threads), labels)
    check_status(status, "paint_polygons_2d", "coordinates that are finite and within 2^40 pixels, got others")
    return labels


def star_distances_2d(
    labels: NDArray[np.int32], *, n_rays: int, grid: tuple[int, int], threads: int
) -> NDArray[np.float32]:
    """Length of each ray from each grid sample to the border of its object: StarDist's ``star_dist``.

    Parameters
    ----------
    labels : int32 (Y, X)
        Contiguous; 0 is the background. Sides up to 2^20.
    n_rays : int
        Ray k points along (y, x) = (sin, cos)(2 pi k / n_rays).
    grid : (int, int)
        Pixels per sample (y, x).
    threads : int
        0 uses every usable core.

    Returns
    -------
    float32 (n_rays, ceil(Y / grid_y), ceil(X / grid_x))
        Pixels; 0 in the background. With 8, 16 or 32 rays bit for bit StarDist's; of others, few rays differ in the
        last digit.
    """
    _check_target_labels(labels)
    n_rays = whole_number("n_rays", n_rays, 3, 1024)
    grid_y, grid_x = pair("grid", grid, 1, MAX_SIDE)
    n_y, n_x = labels.shape
    dist = np.empty((n_rays, -(-n_y // grid_y), -(-n_x // grid_x)), np.float32)
    status = _kernels.star_distances_2d(labels, grid_y, grid_x, thread_count(threads), dist)
    check_status(status, "star_distances_2d", "labels")
    return dist


def object_probability_2d(labels: NDArray[np.int32], *, n_labels: int, threads: int) -> NDArray[np.float32]:
    """Euclidean distance to the nearest pixel of another label, over the largest such distance in the own label.

    Parameters
    ----------
    labels : int32 (Y, X)
        Contiguous, at most `n_labels`; 0 is the background, and negative labels are no objects either. Sides up to
        2^20.
    n_labels : int
    threads : int
        0 uses every usable core.

    Returns
    -------
    float32 (Y, X)
        In [0, 1], 0 where there is no object: StarDist's ``edt_prob``. The frame of the image is not a border, unless
        one object covers everything.
    """
    _check_target_labels(labels)
    n_labels = whole_number("n_labels", n_labels, 0, MAX_INT32)
    prob = np.empty(labels.shape, np.float32)
    status = _kernels.object_probability_2d(labels, n_labels, thread_count(threads), prob)
    if status == ERROR_ARGUMENT and labels.size:
        raise KernelError(f"expected labels of at most {n_labels}, got {labels.max()}", status)
    check_status(status, "object_probability_2d", "labels")
    return prob


def _check_rays(dist: NDArray[np.float32]) -> None:
    """Refuse polygons of fewer than 3 or more than 1024 rays."""
    if not 3 <= dist.shape[1] <= 1024:
        raise KernelError(f"expected 3 to 1024 rays per polygon, got {dist.shape[1]}", ERROR_ARGUMENT)


def _check_target_labels(labels: NDArray[np.int32]) -> None:
    """Refuse labels (Y, X) of which no training targets can be computed."""
    check_array("labels", labels, np.int32, (-1, -1))
    if max(labels.shape) > _MAX_TARGET_SIDE:
        raise KernelError(f"expected labels with sides up to {_MAX_TARGET_SIDE}, got {labels.shape}", ERROR_ARGUMENT)
