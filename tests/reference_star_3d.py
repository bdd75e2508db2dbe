"""Slow, obvious twins for star-convex polyhedra: every voxel and every pair, with numpy and the words of the original.

Everything is (z, y, x) in voxels. `contains` and `kernel` are float32 determinants and half spaces operation by
operation; a hull is scipy's, whose planes differ from ours in the last digits, and so are volumes.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import ConvexHull, HalfspaceIntersection, QhullError

F32 = np.float32


def vertices(dist: NDArray[np.float32], point: NDArray[Any], rays: NDArray[np.float32]) -> NDArray[np.float32]:
    """Ends of the rays (n_rays, 3)."""
    return point.astype(F32) + dist[:, None] * rays


def determinant(q: NDArray[Any], a: NDArray[Any], b: NDArray[Any], c: NDArray[Any]) -> NDArray[Any]:
    """Of the differences from `a`, in the arithmetic of its arguments."""
    m0, m1, m2 = b - a, c - a, q - a
    return (
        m0[..., 0] * (m1[..., 1] * m2[..., 2] - m2[..., 1] * m1[..., 2])
        - m0[..., 1] * (m1[..., 0] * m2[..., 2] - m1[..., 2] * m2[..., 0])
        + m0[..., 2] * (m1[..., 0] * m2[..., 1] - m1[..., 1] * m2[..., 0])
    )


def box(ends: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First and last voxel of each axis; there is no last one before -1."""
    voxels = np.rint(ends).astype(np.int64)
    return voxels.min(0), np.maximum(voxels.max(0), -1)


def voxels_of(first: NDArray[np.int64], last: NDArray[np.int64]) -> NDArray[np.float32]:
    """Coordinates of all voxels of a box."""
    axes = (np.arange(low, high + 1) for low, high in zip(first, last, strict=True))
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3).astype(F32)


def contains(q: NDArray[np.float32], ends: NDArray[np.float32], point: NDArray[Any], faces: NDArray[np.int32]) -> Any:
    """Whether voxels are in a tetrahedron between the centre and a face."""
    centre, inside = point.astype(F32), np.zeros(len(q), bool)
    for a, b, c in ends[faces]:
        inside |= (
            (determinant(q, a, b, c) >= 0)
            & (determinant(q, centre, b, a) >= 0)
            & (determinant(q, centre, c, b) >= 0)
            & (determinant(q, centre, a, c) >= 0)
        )
    return inside


def kernel(ends: NDArray[np.float32], faces: NDArray[np.int32]) -> NDArray[np.float64]:
    """Half spaces (n_faces, 4) behind each face: coefficients in float32."""
    a, b, c = (ends[faces[:, k]] for k in range(3))
    p, q = b - a, c - a
    normal = -np.stack(
        [
            p[:, 1] * q[:, 2] - p[:, 2] * q[:, 1],
            p[:, 2] * q[:, 0] - p[:, 0] * q[:, 2],
            p[:, 0] * q[:, 1] - p[:, 1] * q[:, 0],
        ],
        1,
    )
    offset = -(a[:, 0] * normal[:, 0] + a[:, 1] * normal[:, 1] + a[:, 2] * normal[:, 2])
    return np.concatenate([normal, offset[:, None]], 1).astype(np.float64)


def hull(ends: NDArray[np.float32]) -> NDArray[np.float64]:
    """Half spaces of the convex hull."""
    return ConvexHull(ends.astype(np.float64)).equations


def behind(q: NDArray[np.float32], half_spaces: NDArray[np.float64]) -> Any:
    """Whether voxels are behind all half spaces."""
    z, y, x = q.astype(np.float64).T[:, :, None]
    h = half_spaces.T
    return (z * h[0] + y * h[1] + x * h[2] + h[3] <= 0).all(1)


def paint_polyhedra_3d(
    dist: NDArray[np.float32],
    points: NDArray[Any],
    rays: NDArray[np.float32],
    faces: NDArray[np.int32],
    order: NDArray[np.int64],
    shape: tuple[int, int, int],
    mode: str,
    overlap_label: int | None = None,
) -> NDArray[np.int32]:
    """Labels of a whole volume."""
    labels = np.zeros(shape, np.int32)
    for i in order:
        ends = vertices(dist[i], points[i], rays)
        first, last = box(ends)
        q = voxels_of(np.maximum(first, 0), np.minimum(last, np.array(shape) - 1))
        if mode == "full":
            inside = behind(q, kernel(ends, faces)) | (behind(q, hull(ends)) & contains(q, ends, points[i], faces))
        elif mode == "kernel":
            inside = behind(q, kernel(ends, faces))
        elif mode == "hull":
            inside = behind(q, hull(ends))
        else:
            inside = np.ones(len(q), bool)
        where = tuple(q[inside].astype(int).T)
        before = labels[where]
        labels[where] = np.where(before == 0, i + 1, before if overlap_label is None else overlap_label)
    return labels


def sphere_volume(r1: float, p1: NDArray[Any], r2: float, p2: NDArray[Any], stretch: NDArray[Any]) -> float:
    """What two spheres in the stretched space share; of one inside the other not shrunk back, as in the original."""
    d = math.sqrt((((p1 - p2) * stretch) ** 2).sum())
    low, high = min(r1, r2), max(r1, r2)
    if d > r1 + r2:
        return 0.0
    if high >= d + low - 1e-10:
        return 4 / 3 * math.pi * low**3
    t = (r1 + r2 - d) / 2 / d
    h1, h2 = (r2 - r1 + d) * t, (r1 - r2 + d) * t
    return math.pi / 3 * (h1 * h1 * (3 * r1 - h1) + h2 * h2 * (3 * r2 - h2)) / float(np.prod(stretch))


def shared_volume(half_spaces: NDArray[np.float64], middle: NDArray[Any], otherwise: float) -> float:
    """Volume behind all half spaces, or `otherwise` where Qhull gives up."""
    try:
        return float(ConvexHull(HalfspaceIntersection(half_spaces, middle).intersections).volume)
    except QhullError:
        return otherwise


def star_nms_3d(
    prob: NDArray[np.float32],
    dist: NDArray[np.float32],
    points: NDArray[np.int32],
    rays: NDArray[np.float32],
    faces: NDArray[np.int32],
    nms_thresh: float,
) -> tuple[list[int], float]:
    """Indices of the survivors, and how close any decision was to the threshold, as a share of the smaller volume."""
    ranked = np.argsort(-prob, kind="stable")
    ends = [vertices(d, p, rays) for d, p in zip(dist, points, strict=True)]
    boxes = [box(e) for e in ends]
    flat = np.zeros(3, F32)
    corners = [(d[:, None] * rays)[faces] for d in dist]
    volumes = [float(sum((F32(determinant(flat, *face) / F32(6)) for face in some), F32(0))) for some in corners]
    extents = np.mean([last - first for first, last in boxes], axis=0)
    stretch = extents.max() / extents
    outer, inner = [], []
    for d in dist:
        stretched = d[:, None] * rays * stretch
        a, b, c = (stretched[faces[:, k]] for k in range(3))
        normal = np.cross(c - a, b - a)
        outer.append(float(np.sqrt((stretched**2).sum(1).max())))
        inner.append(float(((a * normal).sum(1) / np.linalg.norm(normal, axis=1)).min()))

    closest = math.inf
    kept: list[int] = []
    for j in ranked:
        suppressed = False
        for i in kept:
            smaller = min(volumes[i], volumes[j]) + 1e-10
            first, last = (f(x, y) for f, x, y in zip((np.maximum, np.minimum), boxes[i], boxes[j], strict=True))
            above = min(
                sphere_volume(outer[i], points[i], outer[j], points[j], stretch),
                float(np.maximum(0, last - first).prod()),
            )
            closest = min(closest, abs(above / smaller - nms_thresh))
            if above < 1e-10 or min(1, above / smaller) <= nms_thresh:
                continue
            below = sphere_volume(inner[i], points[i], inner[j], points[j], stretch)
            middle = (points[i] + points[j]) / 2
            kernels = np.concatenate([kernel(ends[i], faces), kernel(ends[j], faces)])
            hulls = np.concatenate([hull(ends[i]), hull(ends[j])])
            in_kernels, in_hulls = shared_volume(kernels, middle, 0.0), shared_volume(hulls, middle, 1e10)
            closest = min(closest, *(abs(bound / smaller - nms_thresh) for bound in (below, in_kernels, in_hulls)))
            if below / smaller > nms_thresh or in_kernels / smaller > nms_thresh:
                suppressed = True
            elif in_hulls / smaller > nms_thresh:
                q = voxels_of(*boxes[i])
                both = contains(q, ends[i], points[i], faces) & contains(q, ends[j], points[j], faces)
                closest = min(closest, abs(both.sum() / smaller - nms_thresh))
                suppressed = both.sum() / smaller > nms_thresh
            if suppressed:
                break
        if not suppressed:
            kept.append(int(j))
    return kept, closest
