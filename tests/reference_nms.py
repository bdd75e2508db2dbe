"""Slow, obvious twins of the suppression of star-convex polygons: greedy, every pair compared, plain loops.

`star_nms_2d` takes the function that measures an intersection: `clipped_area` asks the polygon clipper whose rounding
StarDist's decisions depend on (pyclipper, for tests only), `exact_area` is the true area in rational numbers.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

Polygon = list[tuple[int, int]]  # (y, x)


def vertices(dist: NDArray[np.float32], point: NDArray[np.int32]) -> Polygon:
    """Corners of one star, truncated towards zero; every step in float32."""
    step = np.float32(2 * math.pi / len(dist))
    corners = []
    for k, length in enumerate(dist):
        angle = step * np.float32(k)
        y = np.float32(point[0]) + length * np.float32(math.sin(float(angle)))
        x = np.float32(point[1]) + length * np.float32(math.cos(float(angle)))
        corners.append((int(y), int(x)))
    return corners


def area(polygon: Polygon) -> np.float32:
    """Shoelace formula, summed in float32."""
    total = np.float32(0)
    for (y, x), (next_y, next_x) in itertools.pairwise([*polygon, polygon[0]]):
        total += np.float32(x * next_y - y * next_x)
    return np.float32(0.5 * abs(float(total)))


def clipped_area(one: Polygon, other: Polygon) -> np.float32:
    """Area of the intersection as pyclipper gives it: crossing points rounded to integers, non-zero filling."""
    import pyclipper

    clipper = pyclipper.Pyclipper()
    try:
        clipper.AddPath([(x, y) for y, x in one], pyclipper.PT_CLIP, True)
        clipper.AddPath([(x, y) for y, x in other], pyclipper.PT_SUBJECT, True)
        pieces = clipper.Execute(pyclipper.CT_INTERSECTION, pyclipper.PFT_NONZERO, pyclipper.PFT_NONZERO)
    except pyclipper.ClipperException:  # a polygon without area
        return np.float32(0)
    total = np.float32(0)
    for piece in pieces:
        total += area([(y, x) for x, y in piece])
    return total


def exact_area(one: Polygon, other: Polygon) -> np.float32:
    """True area of the intersection under non-zero filling: slabs between all corners and crossings."""
    edges = [
        (a, b, owner)
        for owner, polygon in enumerate((one, other))
        for a, b in itertools.pairwise([*polygon, polygon[0]])
        if a[0] != b[0]
    ]
    levels = {Fraction(y) for polygon in (one, other) for y, _ in polygon}
    for (a, b, _), (c, d, _) in itertools.combinations(edges, 2):
        turn = (b[0] - a[0]) * (d[1] - c[1]) - (b[1] - a[1]) * (d[0] - c[0])
        if turn:
            along = Fraction((c[0] - a[0]) * (d[1] - c[1]) - (c[1] - a[1]) * (d[0] - c[0]), turn)
            if 0 < along < 1:
                levels.add(a[0] + along * (b[0] - a[0]))
    total = Fraction(0)
    for low, high in itertools.pairwise(sorted(levels)):
        middle = (low + high) / 2
        crossed = sorted(
            (a[1] + (middle - a[0]) * Fraction(b[1] - a[1], b[0] - a[0]), 1 if b[0] > a[0] else -1, owner)
            for a, b, owner in edges
            if min(a[0], b[0]) < middle < max(a[0], b[0])
        )
        winding = [0, 0]
        for (x, direction, owner), (next_x, _, _) in itertools.pairwise(crossed):
            winding[owner] += direction
            if all(winding):
                total += (next_x - x) * (high - low)
    return np.float32(total)


def overlap(one: Polygon, other: Polygon, intersection: Callable[[Polygon, Polygon], np.float32]) -> np.float32:
    """Intersection over the smaller area."""
    smaller = min(float(area(one)) + 1e-10, float(area(other)) + 1e-10)
    return np.float32(float(intersection(one, other)) / smaller)


def star_nms_2d(
    prob: NDArray[np.float32],
    dist: NDArray[np.float32],
    points: NDArray[np.int32],
    nms_thresh: float,
    intersection: Callable[[Polygon, Polygon], np.float32] = clipped_area,
) -> NDArray[np.int64]:
    """Indices of the survivors: strongest first, ties by index; one goes if a kept one overlaps it by more."""
    polygons = [vertices(lengths, point) for lengths, point in zip(dist, points, strict=True)]
    kept: list[int] = []
    for i in sorted(range(len(prob)), key=lambda i: (-float(prob[i]), i)):
        if not any(overlap(polygons[k], polygons[i], intersection) > np.float32(nms_thresh) for k in kept):
            kept.append(i)
    return np.array(kept, np.int64)
