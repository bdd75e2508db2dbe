"""Slow, obvious twins of the native kernels, written from their descriptions in csrc/include/cellrt.h.

Signatures are those of cellrt.kernels without `threads`. For tests only: small inputs, plain loops.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray


def percentiles(image: NDArray[Any], percents: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sort everything, then interpolate as numpy.percentile does: float32 pixels in float32, others in float64."""
    number = np.float32 if image.dtype == np.float32 else np.float64
    ordered = [number(value) for value in sorted(image.ravel().tolist())]
    values = []
    for percent in percents:
        position = (len(ordered) - 1) * (percent / 100)
        rank = min(math.floor(position), len(ordered) - 1)
        a, b = ordered[rank], ordered[min(rank + 1, len(ordered) - 1)]
        fraction = position - rank
        values.append(b - (b - a) * number(1 - fraction) if fraction >= 0.5 else a + (b - a) * number(fraction))
    return np.array(values, np.float64)


def normalize(
    image: NDArray[Any], low: NDArray[np.float32], divisor: NDArray[np.float32], out_shape: tuple[int, int]
) -> NDArray[np.float32]:
    """Pixel by pixel, the source of each found by walking back and forth over the image."""

    def source(i: int, n: int) -> int:
        position, step = 0, 1
        for _ in range(i):
            if n > 1 and not 0 <= position + step < n:
                step = -step
            position += step if n > 1 else 0
        return position

    n_channels, n_y, n_x = image.shape
    out = np.empty((n_channels, *out_shape), np.float32)
    for c, y, x in np.ndindex(*out.shape):
        pixel = np.float32(image[c, source(y, n_y), source(x, n_x)])
        out[c, y, x] = (pixel - low[c]) / divisor[c]
    return out


def star_candidates_2d(
    maps: NDArray[np.float32],
    n_rays: int,
    window: tuple[int, int, int, int],
    prob_thresh: float,
    grid: tuple[int, int],
    origin: tuple[int, int],
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int32], NDArray[np.float32]]:
    """Look at every sample of the window in turn."""
    y_begin, y_end, x_begin, x_end = window
    samples = [
        (y, x) for y in range(y_begin, y_end) for x in range(x_begin, x_end) if maps[0, y, x] > np.float32(prob_thresh)
    ]
    prob = [maps[0, y, x] for y, x in samples]
    dist = [np.maximum(maps[1 : 1 + n_rays, y, x], np.float32(1e-3)) for y, x in samples]
    points = [(origin[0] + grid[0] * y, origin[1] + grid[1] * x) for y, x in samples]
    class_prob = [maps[1 + n_rays :, y, x] for y, x in samples]
    n = len(samples)
    return (
        np.array(prob, np.float32),
        np.array(dist, np.float32).reshape(n, n_rays),
        np.array(points, np.int32).reshape(n, 2),
        np.array(class_prob, np.float32).reshape(n, len(maps) - 1 - n_rays),
    )


def star_outlines_2d(
    dist: NDArray[np.float32], points: NDArray[np.float64], scale: tuple[float, float]
) -> NDArray[np.float32]:
    """StarDist's dist_to_coord with the last two axes swapped."""
    angles = np.linspace(0, 2 * np.pi, dist.shape[1], endpoint=False)
    coords = (dist[:, np.newaxis] * np.array([np.sin(angles), np.cos(angles)])).astype(np.float32)
    coords *= np.asarray(scale, np.float64).reshape(1, 2, 1)
    coords += points[..., np.newaxis]
    return coords.transpose(0, 2, 1)


def point_in_polygon(vertices: NDArray[np.float32], y: int, x: int) -> bool:
    """O'Rourke's test: inside by the even-odd rule, or on an edge or a vertex."""
    left = right = 0
    for (y1, x1), (y0, x0) in zip(np.roll(vertices, 1, axis=0).tolist(), vertices.tolist(), strict=True):
        y0, y1, x0, x1 = y0 - y, y1 - y, x0 - x, x1 - x
        if abs(x0) < 1e-12 and abs(y0) < 1e-12:
            return True
        if (y0 > 0) != (y1 > 0):
            right += (x0 * y1 - x1 * y0) / (y1 - y0) > 0
        if (y0 < 0) != (y1 < 0):
            left += (x0 * y1 - x1 * y0) / (y1 - y0) < 0
    return left % 2 == 1 or right % 2 == 1


def paint_polygons_2d(
    coords: NDArray[np.float32], offsets: NDArray[np.int64], order: NDArray[np.int64], shape: tuple[int, int]
) -> NDArray[np.int32]:
    """Test every pixel against every polygon."""
    labels = np.zeros(shape, np.int32)
    for i in order:
        vertices = coords[offsets[i] : offsets[i + 1]]
        for y, x in np.ndindex(*shape):
            if point_in_polygon(vertices, y, x):
                labels[y, x] = i + 1
    return labels


def label_regions_2d(
    labels: NDArray[np.int32], n_labels: int
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float64]]:
    """One label at a time."""
    areas = np.zeros(n_labels, np.int64)
    boxes = np.zeros((n_labels, 4), np.int32)
    centroids = np.full((n_labels, 2), -1.0)
    for label in range(1, n_labels + 1):
        y, x = np.nonzero(labels == label)
        if len(y):
            areas[label - 1] = len(y)
            boxes[label - 1] = y.min(), x.min(), y.max() + 1, x.max() + 1
            centroids[label - 1] = y.sum() / len(y), x.sum() / len(x)
    return areas, boxes, centroids


def label_regions_3d(
    labels: NDArray[np.int32], n_labels: int
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float64]]:
    """One label at a time."""
    areas = np.zeros(n_labels, np.int64)
    boxes = np.zeros((n_labels, 6), np.int32)
    centroids = np.full((n_labels, 3), -1.0)
    for label in range(1, n_labels + 1):
        voxels = np.argwhere(labels == label)
        if len(voxels):
            areas[label - 1] = len(voxels)
            boxes[label - 1] = *voxels.min(0), *(voxels.max(0) + 1)
            centroids[label - 1] = voxels.sum(0) / len(voxels)
    return areas, boxes, centroids


def relabel(labels: NDArray[np.int32]) -> tuple[NDArray[np.int32], int]:
    """Rank of each label among those that occur."""
    occurring = sorted(set(labels.ravel().tolist()) - {0})
    new_labels = {label: i for i, label in enumerate(occurring, start=1)} | {0: 0}
    relabelled = np.array([new_labels[label] for label in labels.ravel().tolist()], np.int32)
    return relabelled.reshape(labels.shape), len(occurring)
