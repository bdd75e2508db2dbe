"""Label images: measuring, renumbering, cleaning, tracing, comparing."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cellrt.errors import CapacityError, KernelError
from cellrt.kernels.native import (
    ERROR_ARGUMENT,
    ERROR_CAPACITY,
    MAX_COUNT,
    MAX_INT32,
    MAX_INT64,
    _kernels,
    check_array,
    check_labels_status,
    check_status,
    dynamics_number,
    thread_count,
    whole_number,
)


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
    check_array("labels", labels, np.int32, (-1, -1))
    n_labels = whole_number("n_labels", n_labels, 0, MAX_INT32)
    areas = np.empty(n_labels, np.int64)
    boxes = np.empty((n_labels, 4), np.int32)
    centroids = np.empty((n_labels, 2), np.float64)
    status = _kernels.label_regions_2d(labels, thread_count(threads), areas, boxes, centroids)
    check_labels_status(status, "label_regions_2d", labels, n_labels)
    return areas, boxes, centroids


def label_regions_3d(
    labels: NDArray[np.int32], *, n_labels: int, threads: int
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float64]]:
    """Volume, bounding box and centroid of every label 1..n_labels.

    Parameters
    ----------
    labels : int32 (Z, Y, X)
        Contiguous, 0..n_labels.
    n_labels : int
    threads : int
        0 uses every usable core.

    Returns
    -------
    areas : int64 (n_labels,)
        Voxels; 0 for a label that does not occur.
    boxes : int32 (n_labels, 6)
        z_begin, y_begin, x_begin, z_end, y_end, x_end, half open; 0 for a label that does not occur.
    centroids : float64 (n_labels, 3)
        Mean (z, y, x); -1 for a label that does not occur.
    """
    check_array("labels", labels, np.int32, (-1, -1, -1))
    n_labels = whole_number("n_labels", n_labels, 0, MAX_INT32)
    areas = np.empty(n_labels, np.int64)
    boxes = np.empty((n_labels, 6), np.int32)
    centroids = np.empty((n_labels, 3), np.float64)
    status = _kernels.label_regions_3d(labels, thread_count(threads), areas, boxes, centroids)
    check_labels_status(status, "label_regions_3d", labels, n_labels)
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
    check_array("labels", labels, np.int32, None)
    table = np.empty(int(labels.max(initial=0)) + 1, np.int32)
    relabelled = np.empty_like(labels)
    status, n_labels = _kernels.relabel(labels.reshape(-1), thread_count(threads), table, relabelled.reshape(-1))
    if status == ERROR_ARGUMENT and labels.size:
        raise KernelError(f"expected labels that are not negative, got {labels.min()}", status)
    check_status(status, "relabel", "labels")
    return relabelled, n_labels


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
    check_array("labels", labels, np.int32, (-1, -1))
    if labels.min(initial=0) < 0:
        raise KernelError(f"expected labels that are not negative, got {labels.min()}", ERROR_ARGUMENT)
    min_size = whole_number("min_size", min_size, -MAX_COUNT, MAX_COUNT)
    cleaned = np.empty_like(labels)
    status, n_labels = _kernels.clean_labels_2d(
        labels, int(labels.max(initial=0)), min_size, dynamics_number(dynamics), thread_count(threads), cleaned
    )
    check_status(status, "clean_labels_2d", "labels")
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
    check_array("labels", labels, np.int32, (-1, -1))
    offsets = np.zeros(whole_number("n_labels", n_labels, 0, MAX_INT32) + 1, np.int64)
    # Room for cells as they mostly are, and no more than there can be: tracing twice would take twice as long.
    coords = np.empty((min(64 * n_labels, 4 * labels.size), 2), np.float32)
    status = _kernels.label_outlines_2d(labels, thread_count(threads), offsets, coords)
    if status == ERROR_CAPACITY:
        coords = np.empty((int(offsets[-1]), 2), np.float32)
        status = _kernels.label_outlines_2d(labels, thread_count(threads), offsets, coords)
    check_labels_status(status, "label_outlines_2d", labels, n_labels)
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
    check_array("truth", truth, np.int32, None)
    check_array("predicted", predicted, np.int32, truth.shape)
    flat = truth.reshape(-1), predicted.reshape(-1), thread_count(threads)
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
    check_status(status, "label_overlaps", "labels")
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
    check_array("pairs", pairs, np.int32, (-1, 2))
    check_array("scores", scores, np.float64, (len(pairs),))
    n_rows = whole_number("n_rows", n_rows, 0, MAX_INT32)
    n_columns = whole_number("n_columns", n_columns, 0, MAX_INT32)
    max_steps = whole_number("max_steps", max_steps, 0, MAX_INT64)
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
    check_status(status, "match_pairs", "scores from 0 to 1, got others")
    return is_matched.view(np.bool_)
