"""Slow, obvious twins of the kernels of flows in volumes, and of the stitching of planes.

Written from what Cellpose 3.1.1.3 and 4.2.1.1 do, defects included. Signatures are those of cellrt.kernels without
`threads`. For tests only: small inputs, plain loops.
"""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
from numpy.typing import NDArray
from reference_flow_masks import MARGIN, by_appearance, torch_order, without_small

Floats = NDArray[np.float32]
Bin = tuple[int, ...]

NEIGHBOURS_6 = [step for step in itertools.product((-1, 0, 1), repeat=3) if np.abs(step).sum() == 1]
NEIGHBOURS_26 = [step for step in itertools.product((-1, 0, 1), repeat=3) if any(step)]


def flow_follow_3d(
    flow: Floats, cellprob: Floats, cellprob_threshold: float, n_iter: int
) -> tuple[NDArray[np.int64], Floats]:
    """Every step of every voxel inside a cell: trilinear in float32 on coordinates in [-1, 1], half a voxel off."""
    inside = cellprob > np.float32(cellprob_threshold)
    sides = np.array(cellprob.shape)[:, np.newaxis]
    last = (sides - 1).astype(np.float32)
    unit = np.where(sides > 1, 2 / np.maximum(sides - 1, 1), 0).astype(np.float32)
    field = np.where(inside, flow / np.float32(5), np.float32(0)) * unit[:, :, np.newaxis, np.newaxis]
    padded = np.pad(field, ((0, 0), (1, 1), (1, 1), (1, 1)))
    start = np.argwhere(inside).T.astype(np.float32)
    # An axis of one voxel, where the original divides by 0: the middle, for ever.
    p = np.where(sides > 1, start / np.maximum(last, 1) * np.float32(2) - np.float32(1), np.float32(0))
    for _ in range(n_iter):
        voxel = ((p + np.float32(1)) * sides.astype(np.float32) - np.float32(1)) / np.float32(2)
        corner = np.floor(voxel)
        near, far = voxel - corner, (corner + np.float32(1)) - voxel
        z, y, x = corner.astype(np.int64) + 1
        step = np.zeros_like(p)
        for dz, dy, dx in itertools.product((0, 1), repeat=3):
            weight = (near if dx else far)[2] * (near if dy else far)[1] * (near if dz else far)[0]
            step = step + padded[:, z + dz, y + dy, x + dx] * weight
        p = np.clip(p + step, np.float32(-1), np.float32(1))
    return np.flatnonzero(inside), np.ascontiguousarray(((p + np.float32(1)) * np.float32(0.5) * last).T)


def flow_masks_3d(
    voxels: NDArray[np.int64], positions: Floats, shape: tuple[int, int, int], max_size_fraction: float
) -> tuple[NDArray[np.int32], int]:
    """Count where voxels end, grow the peaks, paint them, look up where each voxel ended."""
    ends = [
        tuple(min(max(int(value), -MARGIN), side - 1) for value, side in zip(end, shape, strict=True))
        for end in positions.tolist()
    ]
    counts: Counter[Bin] = Counter(ends)
    seeds = sorted(bin_ for bin_ in counts if counts[bin_] > 10 and counts[bin_] == largest_around(counts, bin_))
    mask_of_bin: dict[Bin, int] = {}
    for mask, k in enumerate(torch_order([counts[seed] for seed in seeds]), start=1):
        for bin_ in grown(counts, seeds[k]):
            mask_of_bin[bin_] = mask
    masks = np.zeros(shape, np.int32)
    for voxel, end in zip(voxels.tolist(), ends, strict=True):
        masks.reshape(-1)[voxel] = mask_of_bin.get(end, 0)
    for mask in np.unique(masks):
        if np.sum(masks == mask) > masks.size * max_size_fraction:
            masks[masks == mask] = 0
    return by_appearance(masks)


def largest_around(counts: Counter[Bin], seed: Bin) -> int:
    """The largest of 5 x 5 x 5 bins."""
    return max(counts[beside(seed, step)] for step in itertools.product(range(-2, 3), repeat=3))


def grown(counts: Counter[Bin], seed: Bin) -> set[Bin]:
    """Five steps to those of the 26 neighbours that hold more than 2."""
    mask = {seed}
    for _ in range(5):
        around = {beside(bin_, step) for bin_ in mask for step in NEIGHBOURS_26}
        mask |= {bin_ for bin_ in around if counts[bin_] > 2}
    return mask


def beside(bin_: Bin, step: tuple[int, ...]) -> Bin:
    return tuple(place + way for place, way in zip(bin_, step, strict=True))


def clean_labels_3d(labels: NDArray[np.int32], min_size: int, dynamics: str) -> tuple[NDArray[np.int32], int]:
    """Drop small labels, fill the cavities of each in ascending order, drop small ones again."""
    if labels.size == 0:
        return labels.copy(), 0
    labels = without_small(labels, min_size, dynamics)
    filled = labels.copy()
    for number, label in enumerate(np.unique(labels[labels > 0]).tolist(), start=1):
        filled[with_cavities(filled == label)] = number
    filled = without_small(filled, min_size, dynamics)
    return filled, int(filled.max())


def with_cavities(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """A mask and all that cannot leave the volume along faces of voxels without crossing it."""
    outside = np.pad(~mask, 1, constant_values=True)
    reached: set[Bin] = {(0, 0, 0)}
    front: list[Bin] = [(0, 0, 0)]
    while front:
        at = front.pop()
        for step in NEIGHBOURS_6:
            voxel = beside(at, step)
            is_inside = all(0 <= place < side for place, side in zip(voxel, outside.shape, strict=True))
            if is_inside and voxel not in reached and outside[voxel]:
                reached.add(voxel)
                front.append(voxel)
    filled = np.ones(outside.shape, np.bool_)
    for voxel in reached:
        filled[voxel] = False
    return filled[1:-1, 1:-1, 1:-1]


def stitch(planes: NDArray[np.int32], threshold: float) -> NDArray[np.int32]:
    """Plane after plane with whole tables of intersections over union, as upstream has them."""
    planes = planes.copy()
    last, has_begun = int(planes[0].max()), False
    for before, plane in itertools.pairwise(planes):
        n, n_before = int(plane.max()), int(before.max())
        if n == 0 or n_before == 0:
            if has_begun:
                plane[plane > 0] += last
                last += n
            else:
                last = n
            continue
        iou = np.zeros((n, n_before))
        for i, j in np.ndindex(iou.shape):
            common = np.sum((plane == i + 1) & (before == j + 1))
            if common:
                iou[i, j] = common / np.sum((plane == i + 1) | (before == j + 1))
        iou[iou < threshold] = 0
        iou[iou < iou.max(axis=0)] = 0
        numbers = np.append(0, iou.argmax(axis=1) + 1)
        for label in range(1, n + 1):
            if iou[label - 1].max() == 0:
                last += 1
                numbers[label] = last
        plane[:] = numbers[plane]
        has_begun = True
    return planes
