"""What is known of the labels of a volume whose blocks or planes come one after the other.

Enough to number labels, to drop small ones as `kernels.clean_labels_3d` does, and to say where each lies, without
holding the volume. Knows labels and numbers; nothing of what made them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cellrt import kernels

_NOWHERE = np.iinfo(np.int64).max


class Tally:
    """Sums over the voxels of each label; 0 is background. Labels that do not occur may be at the end.

    Parameters
    ----------
    shape : (int, int, int)
        Sides (z, y, x) of the volume.
    n : int
        The largest label, as far as it is known.
    threads : int
        0: all usable cores.

    Attributes
    ----------
    areas : int64 (n + 1,)
        Voxels.
    firsts : int64 (n + 1,)
        Index of the first voxel in the volume, in row-major order.
    begins, ends : int64 (n + 1, 3)
        The box (z, y, x) of its voxels, half open; of a label that does not occur, it ends before it begins. None of
        the background.
    sums : int64 (n + 1, 3)
        Of the coordinates z, y, x; none of the background.
    weights : float64 (n + 1,)
        Of what `add` is given; none of the background.
    """

    def __init__(self, shape: tuple[int, ...], n: int = 0, *, threads: int) -> None:
        self._shape, self._threads = shape, threads
        self.areas = np.zeros(n + 1, np.int64)
        self.firsts = np.full(n + 1, _NOWHERE)
        self.begins = np.full((n + 1, 3), _NOWHERE)
        self.ends = np.zeros((n + 1, 3), np.int64)
        self.sums = np.zeros((n + 1, 3), np.int64)
        self.weights = np.zeros(n + 1)

    def add(
        self,
        labels: NDArray[np.int32],
        numbers: NDArray[np.int32],
        origin: tuple[int, int, int],
        weights: NDArray[np.float64] | None = None,
    ) -> None:
        """Add a block.

        Parameters
        ----------
        labels : int32 (z, y, x)
            In 0..m; contiguous.
        numbers : int32 (m + 1,)
            The label in the volume that each of them is; 0 becomes 0.
        origin : (int, int, int)
            The block's first voxel in the volume.
        weights : float64 (m,), optional
            Of labels 1..m.
        """
        self._reserve(int(numbers.max()) + 1)
        areas, boxes, centroids = kernels.label_regions_3d(labels, n_labels=len(numbers) - 1, threads=self._threads)
        self.areas[0] += labels.size - areas.sum()
        found = np.flatnonzero(areas)
        own, corner = numbers[1:][found], np.array(origin)
        np.add.at(self.areas, own, areas[found])
        np.minimum.at(self.begins, own, boxes[found, :3] + corner)
        np.maximum.at(self.ends, own, boxes[found, 3:] + corner)
        coordinates = np.rint(centroids[found] * areas[found, np.newaxis]).astype(np.int64)
        np.add.at(self.sums, own, coordinates + corner * areas[found, np.newaxis])
        if weights is not None:
            np.add.at(self.weights, numbers[1:], weights)
        flat = labels.reshape(-1)
        begins = np.flatnonzero(np.diff(flat, prepend=-1))  # of voxels in a row that are alike
        place = np.array(np.unravel_index(begins, labels.shape)) + corner[:, np.newaxis]
        np.minimum.at(self.firsts, numbers[flat[begins]], np.ravel_multi_index(tuple(place), self._shape))

    def renumbered(self, numbers: NDArray[np.int32]) -> Tally:
        """The same of labels that became others: `numbers[label]` is the new one."""
        other = Tally(self._shape, int(numbers.max()), threads=self._threads)
        np.add.at(other.areas, numbers, self.areas)
        np.minimum.at(other.firsts, numbers, self.firsts)
        np.minimum.at(other.begins, numbers, self.begins)
        np.maximum.at(other.ends, numbers, self.ends)
        np.add.at(other.sums, numbers, self.sums)
        np.add.at(other.weights, numbers, self.weights)
        return other

    def in_order(self) -> NDArray[np.int32]:
        """What each label becomes if those that occur are numbered 1..n in their order, int32 (n + 1,)."""
        return self._numbers(np.flatnonzero(self.areas[1:]) + 1)

    def without_small(self, min_size: int, dynamics: str) -> NDArray[np.int32]:
        """What each label becomes if small ones are dropped and the others numbered by their first voxels.

        Parameters
        ----------
        min_size : int
            Voxels that a label must have, above 0.
        dynamics : "v3" or "v4"
            Which Cellpose drops them: `kernels.clean_labels_3d` says how they differ.
        """
        occurring = np.flatnonzero(self.areas)
        positions = np.flatnonzero(self.areas[occurring] < min_size)
        positions = positions[positions > 0]  # both take the first label that occurs for the background
        is_kept = self.areas > 0
        is_kept[occurring[positions] if dynamics == "v4" else positions] = False  # v3 takes a position for the label
        return self.by_first_voxel(is_kept)

    def by_first_voxel(self, is_kept: NDArray[np.bool_]) -> NDArray[np.int32]:
        """What each label becomes if those that are kept are numbered by their first voxels, and the others dropped.

        `is_kept` is bool (n + 1,), only of labels that occur.
        """
        left = np.flatnonzero(is_kept[1:]) + 1
        return self._numbers(left[np.argsort(self.firsts[left])])

    def points(self, n: int) -> NDArray[np.float32]:
        """Mean (z, y, x) of the voxels of labels 1..n, float32 (n, 3); -1 for a label that does not occur."""
        areas = self.areas[1 : n + 1, np.newaxis]
        points = np.full((n, 3), -1.0)
        np.divide(self.sums[1 : n + 1], areas, out=points, where=areas > 0)
        return points.astype(np.float32)

    def means(self, n: int) -> NDArray[np.float32]:
        """Mean weight of the voxels of labels 1..n, float32 (n,); 0 for a label that does not occur."""
        means: NDArray[np.float32] = (self.weights[1 : n + 1] / np.maximum(self.areas[1 : n + 1], 1)).astype(np.float32)
        return means

    def _numbers(self, labels: NDArray[np.int64]) -> NDArray[np.int32]:
        """A table in which these labels have the numbers 1..n and all others 0."""
        numbers = np.zeros(len(self.areas), np.int32)
        numbers[labels] = np.arange(1, len(labels) + 1)
        return numbers

    def _reserve(self, n: int) -> None:
        """Make room for that many labels; twice as much as there was, so that it happens seldom."""
        more = max(n, 2 * len(self.areas)) - len(self.areas)
        if n > len(self.areas):
            self.areas = np.pad(self.areas, (0, more))
            self.firsts = np.pad(self.firsts, (0, more), constant_values=_NOWHERE)
            self.begins = np.pad(self.begins, ((0, more), (0, 0)), constant_values=_NOWHERE)
            self.ends = np.pad(self.ends, ((0, more), (0, 0)))
            self.sums = np.pad(self.sums, ((0, more), (0, 0)))
            self.weights = np.pad(self.weights, (0, more))
