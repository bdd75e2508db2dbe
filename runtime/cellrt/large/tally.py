"""What is known of the labels of a volume whose planes come one after the other.

Enough to number labels, to drop small ones as `kernels.clean_labels_3d` does, and to say where each lies, without
holding the volume. Knows label planes and numbers; nothing of what made them.
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
    sums : int64 (n + 1, 3)
        Of the coordinates z, y, x; none of the background.
    weights : float64 (n + 1,)
        Of what `add` is given; none of the background.
    """

    def __init__(self, n: int = 0, *, threads: int) -> None:
        self._threads = threads
        self.areas = np.zeros(n + 1, np.int64)
        self.firsts = np.full(n + 1, _NOWHERE)
        self.sums = np.zeros((n + 1, 3), np.int64)
        self.weights = np.zeros(n + 1)

    def add(
        self,
        z: int,
        labels: NDArray[np.int32],
        numbers: NDArray[np.int32],
        weights: NDArray[np.float64] | None = None,
    ) -> None:
        """Add a plane.

        Parameters
        ----------
        z : int
            Its index.
        labels : int32 (Y, X)
            In 0..m; contiguous.
        numbers : int32 (m + 1,)
            The label in the volume that each of them is; 0 becomes 0.
        weights : float64 (m,), optional
            Of labels 1..m.
        """
        self._reserve(int(numbers.max()) + 1)
        areas, _, centroids = kernels.label_regions_2d(labels, n_labels=len(numbers) - 1, threads=self._threads)
        self.areas[0] += labels.size - areas.sum()
        np.add.at(self.areas, numbers[1:], areas)
        coordinates = np.column_stack([np.full(len(areas), z), centroids]) * areas[:, np.newaxis]
        np.add.at(self.sums, numbers[1:], np.rint(coordinates).astype(np.int64))
        if weights is not None:
            np.add.at(self.weights, numbers[1:], weights)
        flat = labels.reshape(-1)
        begins = np.flatnonzero(np.diff(flat, prepend=-1))  # of pixels in a row that are alike
        np.minimum.at(self.firsts, numbers[flat[begins]], begins + z * flat.size)

    def renumbered(self, numbers: NDArray[np.int32]) -> Tally:
        """The same of labels that became others: `numbers[label]` is the new one."""
        other = Tally(int(numbers.max()), threads=self._threads)
        np.add.at(other.areas, numbers, self.areas)
        np.minimum.at(other.firsts, numbers, self.firsts)
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
        kept = self.areas > 0
        kept[occurring[positions] if dynamics == "v4" else positions] = False  # v3 takes a position for the label
        left = np.flatnonzero(kept[1:]) + 1
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
            self.sums = np.pad(self.sums, ((0, more), (0, 0)))
            self.weights = np.pad(self.weights, (0, more))
