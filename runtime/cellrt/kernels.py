"""The one door to native code: one function per function of csrc/include/cellrt.h, plus the streaming suppression.

Takes contiguous arrays of one dtype (images may have any strides), allocates the outputs, calls the native function
without the GIL and turns a status that is not 0 into a `KernelError`. Holds no policy and no defaults: callers say
everything. `threads` is 0 for every usable core, or a number; the result is the same to the byte.
"""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from cellrt.errors import CapacityError, CellrtError, DataError, KernelError

try:
    from cellrt import _kernels
    from cellrt._engine import StarNms2D
    from cellrt._kernels import (
        DYNAMICS_V3,
        DYNAMICS_V4,
        ERROR_ARGUMENT,
        ERROR_CANCELLED,
        ERROR_CAPACITY,
        ERROR_DATA,
        ERROR_INTERNAL,
        ERROR_MEMORY,
    )
except ImportError as error:
    raise CellrtError(
        f"expected the native modules of cellrt beside {__file__}, got: {error}. Reinstall with "
        "`pip install --force-reinstall cellrt`; in a source checkout run `make build`."
    ) from error

__all__ = [
    "ERROR_ARGUMENT",
    "ERROR_CANCELLED",
    "ERROR_CAPACITY",
    "ERROR_DATA",
    "ERROR_INTERNAL",
    "ERROR_MEMORY",
    "StarNms2D",
    "clean_labels_2d",
    "flow_errors_2d",
    "flow_follow_2d",
    "flow_masks_2d",
    "label_flows_2d",
    "label_outlines_2d",
    "label_overlaps",
    "label_regions_2d",
    "match_pairs",
    "normalize",
    "object_probability_2d",
    "paint_polygons_2d",
    "percentiles",
    "relabel",
    "resize_linear",
    "star_candidates_2d",
    "star_distances_2d",
    "star_nms_2d",
    "star_outlines_2d",
    "usable_cores",
    "version",
]

# The limits of the C interface (csrc/include/cellrt.h).
_MAX_SIDE = 2**30
_MAX_TARGET_SIDE = 2**20
_MAX_COUNT = 2**40
_MAX_INT32 = 2**31 - 1
_MAX_INT64 = 2**63 - 1
_DYNAMICS = {"v3": DYNAMICS_V3, "v4": DYNAMICS_V4}


def version() -> int:
    """Version of the native code: 10000 * major + 100 * minor + patch."""
    return _kernels.version()


def usable_cores() -> int:
    """Cores this process may use: the affinity mask and, on Linux, the container's CPU quota; read once."""
    return _kernels.usable_cores()


def percentiles(image: NDArray[Any], percents: NDArray[np.float64], *, threads: int) -> NDArray[np.float64]:
    """Exact percentiles of all pixels of an image, channels together.

    Parameters
    ----------
    image : uint8, uint16 or float32 (C, Y, X)
        Any strides; read-only is fine. At least one pixel; float32 without NaN or infinity.
    percents : float64 (n,)
        In [0, 100].
    threads : int
        0 uses every usable core.

    Returns
    -------
    float64 (n,)
        Bit for bit ``[numpy.percentile(image, percent) for percent in percents]``: interpolated in double precision,
        but in single precision for float32 pixels. -0.0 counts as 0.0.
    """
    _check_image(image)
    _check_array("percents", percents, np.float64, (-1,))
    if not np.all((percents >= 0) & (percents <= 100)):
        raise KernelError(f"expected percents between 0 and 100, got {percents.tolist()}", ERROR_ARGUMENT)
    values = np.empty(len(percents))
    status = _kernels.percentiles(image, percents, _threads(threads), values)
    _check_status(status, "percentiles", "finite pixels, got NaN or infinity: replace them first")
    return values


def normalize(
    image: NDArray[Any],
    low: NDArray[np.float32],
    divisor: NDArray[np.float32],
    *,
    out_shape: tuple[int, int],
    threads: int,
) -> NDArray[np.float32]:
    """Normalise, cast and pad in one pass: ``(float32(image) - low) / divisor``, then mirrored at the far ends.

    Parameters
    ----------
    image : uint8, uint16 or float32 (C, Y, X)
        Any strides; read-only is fine. At least one pixel; float32 without NaN or infinity.
    low, divisor : float32 (C,)
        Finite; no divisor is 0.
    out_shape : (int, int)
        Sides (y, x) of the output, at least those of the image: padding is added at the end of each axis.
    threads : int
        0 uses every usable core.

    Returns
    -------
    float32 (C, out_y, out_x)
        The padding is that of ``numpy.pad(..., mode="reflect")``.
    """
    _check_image(image)
    n_channels, n_y, n_x = image.shape
    _check_array("low", low, np.float32, (n_channels,))
    _check_array("divisor", divisor, np.float32, (n_channels,))
    if not (np.isfinite(low).all() and np.isfinite(divisor).all() and divisor.all()):
        raise KernelError(
            f"expected finite low and finite divisor other than 0, got {low.tolist()} and {divisor.tolist()}",
            ERROR_ARGUMENT,
        )
    out_y, out_x = _pair("out_shape", out_shape, 0, _MAX_SIDE)
    if out_y < n_y or out_x < n_x:
        raise KernelError(f"expected out_shape of at least {(n_y, n_x)}, got {tuple(out_shape)}", ERROR_ARGUMENT)
    out = np.empty((n_channels, out_y, out_x), np.float32)
    status = _kernels.normalize(image, low, divisor, _threads(threads), out)
    _check_status(status, "normalize", "finite pixels, got NaN or infinity: replace them first")
    return out


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
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int32], NDArray[np.float32] | None]:
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
    n_rays = _whole_number("n_rays", n_rays, 3, 1024)
    n_class_channels = _whole_number("n_class_channels", n_class_channels, 0, 1 << 20)
    max_candidates = _whole_number("max_candidates", max_candidates, 0, _MAX_COUNT)
    grid, origin = _pair("grid", grid, 1, _MAX_SIDE), _pair("origin", origin, -_MAX_SIDE, _MAX_SIDE)
    _check_array("maps", maps, np.float32, (1 + n_rays + n_class_channels, -1, -1))
    _, n_y, n_x = maps.shape
    y_begin, y_end, x_begin, x_end = window
    if not (0 <= y_begin <= y_end <= n_y and 0 <= x_begin <= x_end <= n_x):
        raise KernelError(f"expected a window inside {(n_y, n_x)} samples, got {tuple(window)}", ERROR_ARGUMENT)
    where = (n_rays, n_class_channels, *window, prob_thresh, *grid, *origin, _threads(threads))
    status, n = _kernels.count_star_candidates_2d(maps, *where)
    if status != ERROR_CAPACITY:
        _check_status(status, "star_candidates_2d", "finite maps")
    if n > max_candidates:
        raise CapacityError(
            f"expected at most {max_candidates} candidates, got {n}: raise prob_thresh ({prob_thresh}) or "
            "max_candidates",
            ERROR_CAPACITY,
        )
    prob = np.empty(n, np.float32)
    dist = np.empty((n, n_rays), np.float32)
    points = np.empty((n, 2), np.int32)
    class_prob = np.empty((n, n_class_channels), np.float32)
    status = _kernels.star_candidates_2d(maps, *where, prob, dist, points, class_prob)
    _check_status(
        status,
        "star_candidates_2d",
        "ray lengths that are finite and at most 2^20 pixels, got others: the network does not suit this image",
    )
    return prob, dist, points, class_prob if n_class_channels else None


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
    _check_array("prob", prob, np.float32, (-1,))
    n = len(prob)
    _check_array("dist", dist, np.float32, (n, -1))
    _check_array("points", points, np.int32, (n, 2))
    _check_rays(dist)
    if not 0 <= nms_thresh <= 1:
        raise KernelError(f"expected nms_thresh between 0 and 1, got {nms_thresh}", ERROR_ARGUMENT)
    max_pairs = _whole_number("max_pairs", max_pairs, 0, _MAX_INT64)
    kept = np.empty(n, np.int64)
    status, n_kept = _kernels.star_nms_2d(prob, dist, points, nms_thresh, max_pairs, _threads(threads), kept)
    if status == ERROR_CAPACITY:
        raise CapacityError(
            f"expected at most {max_pairs} pairs of overlapping candidates to compare, got more from {n} "
            "candidates: raise prob_thresh or max_pairs",
            status,
        )
    _check_status(status, "star_nms_2d", "prob without NaN, 0 < dist <= 2^20 and points within 2^30, got others")
    return kept[:n_kept].copy()


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
    _check_array("dist", dist, np.float32, (-1, -1))
    _check_array("points", points, np.float64, (len(dist), 2))
    _check_rays(dist)
    scale_y, scale_x = scale
    if not (np.isfinite(scale_y) and np.isfinite(scale_x)):
        raise KernelError(f"expected a finite scale, got {tuple(scale)}", ERROR_ARGUMENT)
    coords = np.empty((*dist.shape, 2), np.float32)
    status = _kernels.star_outlines_2d(dist, points, scale_y, scale_x, _threads(threads), coords)
    _check_status(status, "star_outlines_2d", "finite lengths and points, got NaN or infinity")
    return coords


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
    n_rays = _whole_number("n_rays", n_rays, 3, 1024)
    grid_y, grid_x = _pair("grid", grid, 1, _MAX_SIDE)
    n_y, n_x = labels.shape
    dist = np.empty((n_rays, -(-n_y // grid_y), -(-n_x // grid_x)), np.float32)
    status = _kernels.star_distances_2d(labels, grid_y, grid_x, _threads(threads), dist)
    _check_status(status, "star_distances_2d", "labels")
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
    n_labels = _whole_number("n_labels", n_labels, 0, _MAX_INT32)
    prob = np.empty(labels.shape, np.float32)
    status = _kernels.object_probability_2d(labels, n_labels, _threads(threads), prob)
    if status == ERROR_ARGUMENT and labels.size:
        raise KernelError(f"expected labels of at most {n_labels}, got {labels.max()}", status)
    _check_status(status, "object_probability_2d", "labels")
    return prob


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
    _check_array("coords", coords, np.float32, (-1, 2))
    _check_array("offsets", offsets, np.int64, (-1,))
    n = len(offsets) - 1
    if n < 0 or offsets[0] != 0 or offsets[-1] != len(coords) or (np.diff(offsets) < 0).any():
        raise KernelError(
            f"expected offsets that rise from 0 to {len(coords)}, the number of vertices, got {offsets}",
            ERROR_ARGUMENT,
        )
    _check_array("order", order, np.int64, (n,))
    if n and not (order.min() >= 0 and order.max() < n):
        raise KernelError(
            f"expected order to hold indices of {n} polygons, got {order.min()} to {order.max()}", ERROR_ARGUMENT
        )
    labels = np.empty(_pair("shape", shape, 0, _MAX_SIDE), np.int32)
    status = _kernels.paint_polygons_2d(coords, offsets, order, _threads(threads), labels)
    _check_status(status, "paint_polygons_2d", "coordinates that are finite and within 2^40 pixels, got others")
    return labels


def label_regions_2d(
    labels: NDArray[np.int32], *, n_labels: int, threads: int
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float64]]:
    """Area, bounding box and centroid of every label 1..n_labels.

    Parameters
    ----------
    labels : int32 (Y, X)
        Contiguous, 0..n_labels.
    n_labels : int
    threads : int
        0 uses every usable core.

    Returns
    -------
    areas : int64 (n_labels,)
        Pixels; 0 for a label that does not occur.
    boxes : int32 (n_labels, 4)
        y_begin, x_begin, y_end, x_end, half open; 0 for a label that does not occur.
    centroids : float64 (n_labels, 2)
        Mean (y, x); -1 for a label that does not occur.
    """
    _check_array("labels", labels, np.int32, (-1, -1))
    n_labels = _whole_number("n_labels", n_labels, 0, _MAX_INT32)
    areas = np.empty(n_labels, np.int64)
    boxes = np.empty((n_labels, 4), np.int32)
    centroids = np.empty((n_labels, 2), np.float64)
    status = _kernels.label_regions_2d(labels, _threads(threads), areas, boxes, centroids)
    _check_labels_status(status, "label_regions_2d", labels, n_labels)
    return areas, boxes, centroids


def relabel(labels: NDArray[np.int32], *, threads: int) -> tuple[NDArray[np.int32], int]:
    """Renumber labels to 1..n without gaps, keeping their order; 0 stays 0.

    Parameters
    ----------
    labels : int32, any shape
        Contiguous, none negative.
    threads : int
        0 uses every usable core.

    Returns
    -------
    relabelled : int32, the same shape
    n_labels : int
    """
    _check_array("labels", labels, np.int32, None)
    table = np.empty(int(labels.max(initial=0)) + 1, np.int32)
    relabelled = np.empty_like(labels)
    status, n_labels = _kernels.relabel(labels.reshape(-1), _threads(threads), table, relabelled.reshape(-1))
    if status == ERROR_ARGUMENT and labels.size:
        raise KernelError(f"expected labels that are not negative, got {labels.min()}", status)
    _check_status(status, "relabel", "labels")
    return relabelled, n_labels


def resize_linear(
    image: NDArray[np.float32], *, out_shape: tuple[int, int], single_precision: bool, threads: int
) -> NDArray[np.float32]:
    """Bilinear resampling of planes, as OpenCV's ``resize(INTER_LINEAR)`` computes it for float32.

    Parameters
    ----------
    image : float32 (C, Y, X)
        Contiguous, at least one pixel.
    out_shape : (int, int)
        Sides (y, x) of the result, at least 1.
    single_precision : bool
        Positions and weights in float32, as OpenCV computes images of two channels; else as it computes all others.
    threads : int
        0 uses every usable core.

    Returns
    -------
    float32 (C, out_y, out_x)
    """
    _check_array("image", image, np.float32, (-1, -1, -1))
    if image.size == 0:
        raise KernelError(f"expected an image of at least one pixel, got shape {image.shape}", ERROR_ARGUMENT)
    out = np.empty((len(image), *_pair("out_shape", out_shape, 1, _MAX_SIDE)), np.float32)
    status = _kernels.resize_linear(image, int(single_precision), _threads(threads), out)
    _check_status(status, "resize_linear", "pixels")
    return out


def flow_follow_2d(
    flow: NDArray[np.float32],
    cellprob: NDArray[np.float32],
    *,
    cellprob_threshold: float,
    dynamics: str,
    interpolate: bool,
    n_iter: int,
    threads: int,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Follow the flow from every pixel inside a cell: Euler steps of ``flow / 5``, clamped to the image.

    Parameters
    ----------
    flow : float32 (2, Y, X)
        (y, x) components as the network gives them, 5 per pixel and step. Contiguous; finite inside cells.
    cellprob : float32 (Y, X)
        A pixel is inside a cell where this exceeds `cellprob_threshold`.
    cellprob_threshold : float
        Compared in float32.
    dynamics : "v3" or "v4"
        Which Cellpose's integration.
    interpolate : bool
        False takes the flow of the nearest pixel below (v3 only).
    n_iter : int
        Number of steps.
    threads : int
        0 uses every usable core.

    Returns
    -------
    pixels : int64 (n,)
        Flat index of each pixel inside a cell, ascending.
    positions : float32 (n, 2)
        Where it ends, (y, x) in pixels.
    """
    _check_array("flow", flow, np.float32, (2, -1, -1))
    _check_array("cellprob", cellprob, np.float32, flow.shape[1:])
    version, n_threads = _dynamics(dynamics), _threads(threads)
    n_iter = _whole_number("n_iter", n_iter, 0, _MAX_INT32)
    if not interpolate and dynamics != "v3":
        raise KernelError(f"expected interpolate=True with dynamics {dynamics!r}, got False", ERROR_ARGUMENT)
    if np.isnan(cellprob_threshold):
        raise KernelError("expected cellprob_threshold to be a number, got NaN", ERROR_ARGUMENT)
    status, n = _kernels.count_flow_follow_2d(flow, cellprob, cellprob_threshold, version, n_threads)
    pixels, positions = np.empty(n, np.int64), np.empty((n, 2), np.float32)
    if status == ERROR_CAPACITY:
        status = _kernels.flow_follow_2d(
            flow, cellprob, cellprob_threshold, version, int(interpolate), n_iter, n_threads, pixels, positions
        )
    _check_status(status, "flow_follow_2d", "finite flows inside cells, got NaN or infinity")
    return pixels, positions


def flow_masks_2d(
    pixels: NDArray[np.int64],
    positions: NDArray[np.float32],
    *,
    shape: tuple[int, int],
    max_size_fraction: float,
    threads: int,
) -> tuple[NDArray[np.int32], int]:
    """Masks from where the pixels ended: Cellpose's ``get_masks``.

    Parameters
    ----------
    pixels : int64 (n,)
        Flat index of each pixel, ascending.
    positions : float32 (n, 2)
        Where it ended, (y, x) in pixels; finite.
    shape : (int, int)
        Sides (y, x) of the image.
    max_size_fraction : float
        A mask of more than this fraction of the image is dropped.
    threads : int
        0 uses every usable core.

    Returns
    -------
    labels : int32 (y, x)
        Numbered in order of first appearance by rows.
    n_labels : int
    """
    _check_array("pixels", pixels, np.int64, (-1,))
    _check_array("positions", positions, np.float32, (len(pixels), 2))
    if not max_size_fraction >= 0:
        raise KernelError(f"expected max_size_fraction of at least 0, got {max_size_fraction}", ERROR_ARGUMENT)
    labels = np.empty(_pair("shape", shape, 0, _MAX_SIDE), np.int32)
    status, n_labels = _kernels.flow_masks_2d(pixels, positions, max_size_fraction, _threads(threads), labels)
    if status == ERROR_ARGUMENT:
        raise KernelError(f"expected pixels ascending inside {labels.shape}, got others", status)
    _check_status(status, "flow_masks_2d", "finite positions, got NaN or infinity")
    return labels, n_labels


def label_flows_2d(
    labels: NDArray[np.int32], *, n_labels: int, dynamics: str, n_iter: int, threads: int
) -> NDArray[np.float32]:
    """The flow that labels should have: the gradient of heat that diffuses from their centres, of length 1.

    Parameters
    ----------
    labels : int32 (Y, X)
        Contiguous, 0..n_labels.
    n_labels : int
    dynamics : "v3" or "v4"
        Each mask alone, or (v4) as many steps for all and gradients across masks that touch.
    n_iter : int
        Steps of diffusion; 0 for the rule of `dynamics`.
    threads : int
        0 uses every usable core.

    Returns
    -------
    float32 (2, Y, X)
        (y, x) components; 0 outside labels.
    """
    _check_array("labels", labels, np.int32, (-1, -1))
    n_labels = _whole_number("n_labels", n_labels, 0, _MAX_INT32)
    n_iter = _whole_number("n_iter", n_iter, 0, _MAX_INT32)
    flow = np.empty((2, *labels.shape), np.float32)
    status = _kernels.label_flows_2d(labels, n_labels, _dynamics(dynamics), n_iter, _threads(threads), flow)
    _check_labels_status(status, "label_flows_2d", labels, n_labels)
    return flow


def flow_errors_2d(
    labels: NDArray[np.int32], flow: NDArray[np.float32], *, n_labels: int, dynamics: str, threads: int
) -> NDArray[np.float64]:
    """How far the network's flow is from the one each label should have: the mean of ``|label flow - flow / 5|^2``.

    Parameters
    ----------
    labels : int32 (Y, X)
        Contiguous, 0..n_labels.
    flow : float32 (2, Y, X)
        As the network gives it; finite inside labels.
    n_labels : int
    dynamics : "v3" or "v4"
    threads : int
        0 uses every usable core.

    Returns
    -------
    float64 (n_labels,)
        0 for a label that does not occur.
    """
    _check_array("labels", labels, np.int32, (-1, -1))
    _check_array("flow", flow, np.float32, (2, *labels.shape))
    errors = np.empty(_whole_number("n_labels", n_labels, 0, _MAX_INT32), np.float64)
    status = _kernels.flow_errors_2d(labels, flow, _dynamics(dynamics), _threads(threads), errors)
    _check_labels_status(status, "flow_errors_2d", labels, n_labels)
    return errors


def clean_labels_2d(
    labels: NDArray[np.int32], *, min_size: int, dynamics: str, threads: int
) -> tuple[NDArray[np.int32], int]:
    """Fill holes and drop small labels: Cellpose's ``fill_holes_and_remove_small_masks``.

    Parameters
    ----------
    labels : int32 (Y, X)
        Contiguous, none negative.
    min_size : int
        Pixels that a label must have; at most 0 drops none.
    dynamics : "v3" or "v4"
        v3 counts labels where v4 numbers them: with gaps in the numbering, it drops others.
    threads : int
        0 uses every usable core.

    Returns
    -------
    cleaned : int32 (Y, X)
    n_labels : int
        The largest label.
    """
    _check_array("labels", labels, np.int32, (-1, -1))
    if labels.min(initial=0) < 0:
        raise KernelError(f"expected labels that are not negative, got {labels.min()}", ERROR_ARGUMENT)
    min_size = _whole_number("min_size", min_size, -_MAX_COUNT, _MAX_COUNT)
    cleaned = np.empty_like(labels)
    status, n_labels = _kernels.clean_labels_2d(
        labels, int(labels.max(initial=0)), min_size, _dynamics(dynamics), _threads(threads), cleaned
    )
    _check_status(status, "clean_labels_2d", "labels")
    return cleaned, n_labels


def label_outlines_2d(
    labels: NDArray[np.int32], *, n_labels: int, threads: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The outer boundary of every label along the edges of its pixels; of a label in parts, that of the largest.

    Parameters
    ----------
    labels : int32 (Y, X)
        Contiguous, 0..n_labels.
    n_labels : int
    threads : int
        0 uses every usable core.

    Returns
    -------
    coords : float32 (m, 2)
        Vertices (y, x), half way between pixel centres, clockwise on a screen.
    offsets : int64 (n_labels + 1,)
        Label i + 1 has the vertices ``coords[offsets[i]:offsets[i + 1]]``.
    """
    _check_array("labels", labels, np.int32, (-1, -1))
    offsets = np.zeros(_whole_number("n_labels", n_labels, 0, _MAX_INT32) + 1, np.int64)
    # Room for cells as they mostly are, and no more than there can be: tracing twice would take twice as long.
    coords = np.empty((min(64 * n_labels, 4 * labels.size), 2), np.float32)
    status = _kernels.label_outlines_2d(labels, _threads(threads), offsets, coords)
    if status == ERROR_CAPACITY:
        coords = np.empty((int(offsets[-1]), 2), np.float32)
        status = _kernels.label_outlines_2d(labels, _threads(threads), offsets, coords)
    _check_labels_status(status, "label_outlines_2d", labels, n_labels)
    return coords[: offsets[-1]].copy(), offsets


def label_overlaps(
    truth: NDArray[np.int32], predicted: NDArray[np.int32], *, threads: int
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Every pair of labels that have pixels in common in two label images, background included.

    Parameters
    ----------
    truth, predicted : int32, the same shape
        Contiguous, none negative.
    threads : int
        0 uses every usable core.

    Returns
    -------
    pairs : int32 (n, 2)
        Label in `truth`, label in `predicted`; ascending by the first, then the second.
    counts : int64 (n,)
        Pixels that have both. The area of a label is the sum over its pairs.
    """
    _check_array("truth", truth, np.int32, None)
    _check_array("predicted", predicted, np.int32, truth.shape)
    flat = truth.reshape(-1), predicted.reshape(-1), _threads(threads)
    # Room for the pairs of most images: counting them first would take twice as long.
    room = min(truth.size, 1 << 16)
    pairs, counts = np.empty((room, 2), np.int32), np.empty(room, np.int64)
    status, n = _kernels.label_overlaps(*flat, pairs, counts)
    if status == ERROR_CAPACITY:
        pairs, counts = np.empty((n, 2), np.int32), np.empty(n, np.int64)
        status, n = _kernels.label_overlaps(*flat, pairs, counts)
    if status == ERROR_ARGUMENT and truth.size:
        least = min(truth.min(), predicted.min())
        raise KernelError(f"expected labels that are not negative, got {least}", status)
    _check_status(status, "label_overlaps", "labels")
    return pairs[:n].copy(), counts[:n].copy()


def match_pairs(
    pairs: NDArray[np.int32],
    scores: NDArray[np.float64],
    *,
    n_rows: int,
    n_columns: int,
    threshold: float,
    max_steps: int,
) -> NDArray[np.bool_]:
    """Match rows and columns one to one: the most pairs that reach a threshold, then the largest sum of all scores.

    Parameters
    ----------
    pairs : int32 (n, 2)
        Row and column; ascending by row, then column, each pair once.
    scores : float64 (n,)
        In [0, 1]. Those below the threshold count in the sum only.
    n_rows, n_columns : int
    threshold : float
    max_steps : int
        Limit on the work; more gives a `CapacityError`. A step is one look at a pair.

    Returns
    -------
    bool (n,)
        Which pairs are in the matching.
    """
    _check_array("pairs", pairs, np.int32, (-1, 2))
    _check_array("scores", scores, np.float64, (len(pairs),))
    n_rows = _whole_number("n_rows", n_rows, 0, _MAX_INT32)
    n_columns = _whole_number("n_columns", n_columns, 0, _MAX_INT32)
    max_steps = _whole_number("max_steps", max_steps, 0, _MAX_INT64)
    is_matched = np.empty(len(pairs), np.uint8)
    status = _kernels.match_pairs(pairs, scores, n_rows, n_columns, threshold, max_steps, is_matched)
    if status == ERROR_CAPACITY:
        raise CapacityError(
            f"expected a matching of {len(pairs)} pairs within {max_steps} steps, got no end: raise the threshold or "
            "max_steps, or leave out pairs of low scores",
            status,
        )
    if status == ERROR_ARGUMENT:
        raise KernelError(
            f"expected pairs ascending inside {n_rows} rows and {n_columns} columns, and a threshold, got others",
            status,
        )
    _check_status(status, "match_pairs", "scores from 0 to 1, got others")
    return is_matched.view(np.bool_)


def _check_array(name: str, array: NDArray[Any], dtype: DTypeLike, shape: tuple[int, ...] | None) -> None:
    """Refuse anything but a contiguous array of the dtype and shape (-1: any length; None: any shape)."""
    dtype = np.dtype(dtype)
    if not isinstance(array, np.ndarray) or array.dtype != dtype:
        got = getattr(array, "dtype", type(array).__name__)
        raise KernelError(
            f"expected {name} as a {dtype} array, got {got!s}: use numpy.asarray({name}, ...)", ERROR_ARGUMENT
        )
    if shape is not None and (
        array.ndim != len(shape) or any(n not in (-1, m) for n, m in zip(shape, array.shape, strict=True))
    ):
        wanted = tuple("any" if n == -1 else n for n in shape)
        raise KernelError(f"expected {name} of shape {wanted}, got {array.shape}", ERROR_ARGUMENT)
    if not array.flags.c_contiguous:
        raise KernelError(
            f"expected {name} contiguous, got strides {array.strides}: use numpy.ascontiguousarray", ERROR_ARGUMENT
        )


def _check_image(image: NDArray[Any]) -> None:
    """Refuse anything but pixels (C, Y, X) that the C interface can step through."""
    if not isinstance(image, np.ndarray) or image.dtype not in (np.uint8, np.uint16, np.float32):
        got = getattr(image, "dtype", type(image).__name__)
        raise KernelError(
            f"expected an image of uint8, uint16 or float32, got {got!s}: convert it first", ERROR_ARGUMENT
        )
    if image.ndim != 3 or image.size == 0:
        raise KernelError(f"expected an image (C, Y, X) of at least one pixel, got shape {image.shape}", ERROR_ARGUMENT)
    if not image.flags.aligned or any(stride % image.itemsize for stride in image.strides):
        raise KernelError(
            f"expected an image whose pixels are aligned and whose strides are multiples of {image.itemsize} bytes, "
            f"got strides {image.strides}: use numpy.ascontiguousarray",
            ERROR_ARGUMENT,
        )


def _check_rays(dist: NDArray[np.float32]) -> None:
    """Refuse polygons of fewer than 3 or more than 1024 rays."""
    if not 3 <= dist.shape[1] <= 1024:
        raise KernelError(f"expected 3 to 1024 rays per polygon, got {dist.shape[1]}", ERROR_ARGUMENT)


def _check_target_labels(labels: NDArray[np.int32]) -> None:
    """Refuse labels (Y, X) of which no training targets can be computed."""
    _check_array("labels", labels, np.int32, (-1, -1))
    if max(labels.shape) > _MAX_TARGET_SIDE:
        raise KernelError(f"expected labels with sides up to {_MAX_TARGET_SIDE}, got {labels.shape}", ERROR_ARGUMENT)


def _threads(threads: int) -> int:
    """The number of threads, if it is one; 0 is every usable core."""
    return _whole_number("threads", threads, 0, _MAX_INT32)


def _whole_number(name: str, value: int, low: int, high: int) -> int:
    """The value, if it is a whole number that the C interface can take."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or not low <= number <= high:
        raise KernelError(f"expected {name} to be a whole number from {low} to {high}, got {value!r}", ERROR_ARGUMENT)
    return number


def _pair(name: str, values: tuple[int, int], low: int, high: int) -> tuple[int, int]:
    """The values (y, x), if they are whole numbers that the C interface can take."""
    try:
        y, x = values
    except (TypeError, ValueError):
        raise KernelError(f"expected {name} to be two numbers (y, x), got {values!r}", ERROR_ARGUMENT) from None
    return _whole_number(f"{name}[0]", y, low, high), _whole_number(f"{name}[1]", x, low, high)


def _dynamics(dynamics: str) -> int:
    """The number of a dialect of Cellpose."""
    if dynamics not in _DYNAMICS:
        raise KernelError(f"expected dynamics to be one of {', '.join(_DYNAMICS)}, got {dynamics!r}", ERROR_ARGUMENT)
    return _DYNAMICS[dynamics]


def _check_labels_status(status: int, function: str, labels: NDArray[np.int32], n_labels: int) -> None:
    """`_check_status` of a function for which labels beyond `n_labels` are an error."""
    if status == ERROR_ARGUMENT and labels.size:
        raise KernelError(f"expected labels in 0..{n_labels}, got {labels.min()} to {labels.max()}", status)
    _check_status(status, function, "finite flows inside labels, got NaN or infinity")


def _check_status(status: int, function: str, expected: str) -> None:
    """Turn a status that is not 0 into an error; `expected` says what the data should have been."""
    if status == _kernels.OK:
        return
    if status == ERROR_DATA:
        raise DataError(f"{function}: expected {expected}", status)
    raise KernelError(f"{function}: {_kernels.status_text(status)} (status {status})", status)
