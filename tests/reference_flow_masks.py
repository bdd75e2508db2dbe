"""Slow, obvious twins of the kernels that make masks of flows and clean them.

Written from what Cellpose 3.1.1.3 and 4.2.1.1 do, defects included. Signatures are those of cellrt.kernels without
`threads`. For tests only: small inputs, plain loops.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
from numpy.typing import NDArray

MARGIN = 20  # of the histogram
NEIGHBOURS_4 = ((-1, 0), (0, -1), (0, 1), (1, 0))
NEIGHBOURS_8 = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0)]

Bin = tuple[int, int]


def flow_masks_2d(
    pixels: NDArray[np.int64], positions: NDArray[np.float32], shape: tuple[int, int], max_size_fraction: float
) -> tuple[NDArray[np.int32], int]:
    """Count where pixels end, grow the peaks, paint them, look up where each pixel ended."""
    ends = [
        tuple(min(max(int(value), -MARGIN), side - 1) for value, side in zip(end, shape, strict=True))
        for end in positions.tolist()
    ]
    counts = Counter(ends)
    seeds = sorted(bin_ for bin_ in counts if counts[bin_] > 10 and counts[bin_] == largest_around(counts, bin_))
    mask_of_bin: dict[Bin, int] = {}
    for mask, k in enumerate(torch_order([counts[seed] for seed in seeds]), start=1):
        for bin_ in grown(counts, seeds[k]):
            mask_of_bin[bin_] = mask

    masks = np.zeros(shape, np.int32)
    for pixel, end in zip(pixels.tolist(), ends, strict=True):
        masks[divmod(pixel, shape[1])] = mask_of_bin.get(end, 0)
    for mask in np.unique(masks):
        if np.sum(masks == mask) > shape[0] * shape[1] * max_size_fraction:
            masks[masks == mask] = 0
    return by_appearance(masks)


def largest_around(counts: Counter[Bin], seed: Bin) -> int:
    """The largest of 5 x 5 bins."""
    y, x = seed
    return max(counts[y + dy, x + dx] for dy in range(-2, 3) for dx in range(-2, 3))


def grown(counts: Counter[Bin], seed: Bin) -> set[Bin]:
    """Five steps to those of the 8 neighbours that hold more than 2."""
    mask = {seed}
    for _ in range(5):
        mask |= {(y + dy, x + dx) for y, x in mask for dy, dx in NEIGHBOURS_8 if counts[y + dy, x + dx] > 2}
    return mask


def torch_order(keys: list[int]) -> list[int]:
    """What torch.argsort gives for int32 on a Linux CPU: not stable below 2**15 keys, since it is std::sort.

    The partitions of GNU's introsort, then insertion, which is stable. Its change to a heap is left out.
    """
    order = list(range(len(keys)))

    def split(begin: int, end: int, depth: int) -> None:
        while end - begin > 16 and depth > 0:
            depth -= 1
            three = (begin + 1, (begin + end) // 2, end - 1)
            a, b, c = (keys[order[i]] for i in three)
            if a < b:
                median = three[1] if b < c else three[2] if a < c else three[0]
            else:
                median = three[0] if a < c else three[2] if b < c else three[1]
            order[begin], order[median] = order[median], order[begin]
            pivot = keys[order[begin]]
            low, high = begin + 1, end
            while True:
                while keys[order[low]] < pivot:
                    low += 1
                high -= 1
                while keys[order[high]] > pivot:
                    high -= 1
                if low >= high:
                    break
                order[low], order[high] = order[high], order[low]
                low += 1
            split(low, end, depth)
            end = low

    if len(keys) < 2**15:
        split(0, len(keys), 2 * (len(keys).bit_length() - 1))
    return sorted(order, key=lambda k: keys[k])


def by_appearance(labels: NDArray[np.int32]) -> tuple[NDArray[np.int32], int]:
    """Number labels in the order in which they appear by rows."""
    numbers = {0: 0}
    for label in labels.ravel().tolist():
        numbers.setdefault(label, len(numbers))
    renumbered = np.array([numbers[label] for label in labels.ravel().tolist()], np.int32).reshape(labels.shape)
    return renumbered, len(numbers) - 1


def clean_labels_2d(labels: NDArray[np.int32], min_size: int, dynamics: str) -> tuple[NDArray[np.int32], int]:
    """Drop small labels, fill the holes of each in ascending order, drop small ones again."""
    if labels.size == 0:
        return labels.copy(), 0
    labels = without_small(labels, min_size, dynamics)
    filled = labels.copy()
    for number, label in enumerate(np.unique(labels[labels > 0]).tolist(), start=1):
        filled[with_holes(filled == label)] = number
    filled = without_small(filled, min_size, dynamics)
    return filled, int(filled.max())


def without_small(labels: NDArray[np.int32], min_size: int, dynamics: str) -> NDArray[np.int32]:
    """Drop labels of fewer pixels and renumber.

    The first label that occurs is taken for the background, whatever it is. v3 takes the position among the others for
    the label.
    """
    if min_size <= 0:
        return labels
    occurring, areas = np.unique(labels, return_counts=True)
    small = np.flatnonzero(areas[1:] < min_size)
    dropped = small + 1 if dynamics == "v3" else occurring[1:][small]
    return by_appearance(np.where(np.isin(labels, dropped), np.int32(0), labels))[0]


def with_holes(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """A mask and all that cannot leave the image in 4-connected steps without crossing it."""
    outside = np.pad(~mask, 1, constant_values=True)
    reached = {(0, 0)}
    front = [(0, 0)]
    while front:
        y, x = front.pop()
        for dy, dx in NEIGHBOURS_4:
            pixel = (y + dy, x + dx)
            if pixel in reached or not (0 <= pixel[0] < outside.shape[0] and 0 <= pixel[1] < outside.shape[1]):
                continue
            if outside[pixel]:
                reached.add(pixel)
                front.append(pixel)
    filled = np.ones(outside.shape, np.bool_)
    for pixel in reached:
        filled[pixel] = False
    return filled[1:-1, 1:-1]
