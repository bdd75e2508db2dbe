"""Labels of a volume that does not fit in memory: small ones dropped, cavities filled, all numbered.

In the order of events that `kernels.clean_labels_3d` has, with the result that it has for the whole volume, but that
objects which are longer than a given length keep their cavities. Tables say what labels become; only filling looks at
voxels. Knows labels; nothing of how they came about, of files and networks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cellrt import kernels
from cellrt.tile import Span

Read = Callable[..., NDArray[np.int32]]  # a span for each axis -> the labels there


@dataclass(eq=False)
class Statistics:
    """What is to be known of the labels 0..n of a volume, gathered block by block."""

    areas: NDArray[np.int64]  # (n + 1,) voxels
    first: NDArray[np.int64]  # (n + 1,) flat index of the first voxel; the largest int64 if there is none
    boxes: NDArray[np.int64]  # (n + 1, 6) begin (z, y, x), end (z, y, x)
    sums: NDArray[np.float64]  # (n + 1, 3) of the coordinates of its voxels

    @classmethod
    def of_labels(cls, n: int) -> Statistics:
        """Of n labels of which nothing is known yet."""
        most = np.iinfo(np.int64).max
        boxes = np.full((n + 1, 6), most)
        boxes[:, 3:] = 0
        return cls(np.zeros(n + 1, np.int64), np.full(n + 1, most), boxes, np.zeros((n + 1, 3)))

    def add(self, labels: NDArray[np.int32], origin: tuple[int, ...], shape: tuple[int, ...]) -> NDArray[np.intp]:
        """Count a block (z, y, x) at its place in a volume of a shape; gives the labels that occur in it."""
        flat = labels.reshape(-1)
        counts = np.bincount(flat, minlength=1)
        found = np.flatnonzero(counts)
        self.areas[found] += counts[found]
        rank = np.zeros(len(counts), np.int32)
        rank[found] = np.arange(len(found))
        local = rank[flat]
        first = np.empty(len(found), np.int64)
        first[local[::-1]] = np.arange(len(flat) - 1, -1, -1)  # the last one that is assigned stays
        place = np.unravel_index(first, labels.shape)
        of_volume = np.ravel_multi_index([at + begin for at, begin in zip(place, origin, strict=True)], shape)
        self.first[found] = np.minimum(self.first[found], of_volume)
        _, boxes, centroids = kernels.label_regions_3d(
            (local + 1).reshape(labels.shape), n_labels=len(found), threads=1
        )
        corner = np.array(origin)
        self.boxes[found, :3] = np.minimum(self.boxes[found, :3], boxes[:, :3] + corner)
        self.boxes[found, 3:] = np.maximum(self.boxes[found, 3:], boxes[:, 3:] + corner)
        areas = counts[found, np.newaxis]
        self.sums[found] += np.rint(centroids * areas) + corner * areas  # whole numbers, as far as doubles go
        return found


def numbered(first: NDArray[np.int64], is_kept: NDArray[np.bool_]) -> NDArray[np.int32]:
    """What labels become when those that are kept are numbered by first appearance; the others become 0."""
    table = np.zeros(len(first), np.int32)
    kept = np.flatnonzero(is_kept)
    table[kept[np.argsort(first[kept], kind="stable")]] = np.arange(1, len(kept) + 1)
    return table


def ranked(areas: NDArray[np.int64]) -> NDArray[np.int32]:
    """What labels become when those that occur are numbered without gaps, in their order."""
    is_found = areas > 0
    is_found[0] = False
    return np.where(is_found, np.cumsum(is_found), 0).astype(np.int32)


def without_small(
    areas: NDArray[np.int64], first: NDArray[np.int64], min_size: int, dynamics: str, *, names: NDArray[np.intp]
) -> NDArray[np.int32]:
    """What labels become when small ones are dropped and the others numbered by first appearance.

    As in `kernels.clean_labels_3d`: the first label that occurs, the background or else the smallest, is never too
    small; and in v3 the position of a small label among those that occur is taken for the label, if it is among
    `names`.
    """
    occurring = np.flatnonzero(areas)
    position = np.flatnonzero(areas[occurring] < min_size)
    position = position[position > 0]
    is_dropped = np.zeros(len(areas), np.bool_)
    is_dropped[occurring[position] if dynamics == "v4" else np.intersect1d(position, names)] = True
    is_dropped[0] = True
    return numbered(first, ~is_dropped & (areas > 0))


class CavityFiller:
    """Fills cavities block by block.

    A cavity that is found in a window is one of the whole volume if it does not touch the window's faces; and it is
    found if the window holds all of the label around it. So the window of a block holds the boxes of all labels that
    may have part in it.

    Parameters
    ----------
    read : callable
        The labels of a window.
    boxes : int64 (n + 1, 6)
        As of `Statistics`.
    shape : (int, int, int)
        The volume.
    longest : int
        Voxels: a label whose box is longer along any axis keeps its cavities.
    dynamics : "v3" or "v4"
    threads : int
    """

    def __init__(
        self,
        read: Read,
        boxes: NDArray[np.int64],
        *,
        shape: tuple[int, ...],
        longest: int,
        dynamics: str,
        threads: int,
    ) -> None:
        self._read, self._boxes, self._shape = read, boxes, np.array(shape)
        self._dynamics, self._threads = dynamics, threads
        is_short: NDArray[np.bool_] = (boxes[:, 3:] - boxes[:, :3]).max(axis=1) <= longest
        self._is_long = ~is_short
        is_short[0] = False
        self._short = np.flatnonzero(is_short)

    def __call__(self, *spans: Span) -> NDArray[np.int32]:
        """The labels of a block, filled, int32 (z, y, x)."""
        begin, end = np.array(spans).T
        boxes = self._boxes[self._short]
        near = boxes[((boxes[:, :3] < end) & (boxes[:, 3:] > begin)).all(axis=1)]
        if not len(near):
            return self._read(*spans)
        low = np.maximum(np.minimum(begin, near[:, :3].min(axis=0) - 1), 0)
        high = np.minimum(np.maximum(end, near[:, 3:].max(axis=0) + 1), self._shape)
        labels = self._read(*zip(low.tolist(), high.tolist(), strict=True))
        names = np.flatnonzero(np.bincount(labels.reshape(-1))).astype(np.int32)
        if names[0] != 0:
            names = np.concatenate([np.zeros(1, np.int32), names])
        ranks, _ = kernels.clean_labels_3d(labels, min_size=0, dynamics=self._dynamics, threads=self._threads)
        inside = tuple(slice(*span) for span in zip((begin - low).tolist(), (end - low).tolist(), strict=True))
        filled, labels = names[ranks[inside]], labels[inside]
        return np.where(self._is_long[filled], labels, filled)
