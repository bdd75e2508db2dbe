"""Cavities of labels in a volume that does not fit in memory, filled as `kernels.clean_labels_3d` does in the whole.

Knows labels; nothing of how they came about, of files and networks.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from cellrt import kernels
from cellrt.large.tally import Tally
from cellrt.tile import Span

_LONGEST = 160  # voxels
_MOST_VOXELS = 1 << 25  # of a window: twice the longest label along each axis


class CavityFiller:
    """Fills cavities block by block.

    A cavity that is found in a window is one of the whole volume if it does not touch the window's faces; and it is
    found if the window holds all of the label around it. So the window of a block holds the boxes of all labels that
    may have part in it. Where that is too much, there are fewer of them in each half of the block.

    Parameters
    ----------
    read : callable
        A span for each axis -> the labels there, int32 (z, y, x).
    tally : Tally
        Of all labels.
    shape : (int, int, int)
        The volume.
    longest : int
        Voxels, at most 160: a label whose box is longer along any axis keeps its cavities.
    dynamics : "v3" or "v4"
    threads : int
    """

    def __init__(
        self,
        read: Callable[..., NDArray[np.int32]],
        tally: Tally,
        *,
        shape: tuple[int, ...],
        longest: int,
        dynamics: str,
        threads: int,
    ) -> None:
        self._read, self._shape, self._dynamics, self._threads = read, np.array(shape), dynamics, threads
        lengths = (tally.ends - tally.begins).max(axis=1)  # of labels that do not occur, below 0
        self._is_long = lengths > min(longest, _LONGEST)
        is_short = (tally.areas > 0) & ~self._is_long
        is_short[0] = False
        self._begins, self._ends = tally.begins[is_short], tally.ends[is_short]

    def __call__(self, *spans: Span) -> NDArray[np.int32]:
        """The labels of a block, filled, int32 (z, y, x)."""
        begin, end = np.array(spans).T
        is_near = np.all((self._begins < end) & (self._ends > begin), axis=1)
        if not is_near.any():
            return self._read(*spans)
        low = np.maximum(np.minimum(begin, self._begins[is_near].min(axis=0) - 1), 0)
        high = np.minimum(np.maximum(end, self._ends[is_near].max(axis=0) + 1), self._shape)
        sides = end - begin
        if math.prod((high - low).tolist()) > _MOST_VOXELS and sides.max() > 1:
            axis = int(sides.argmax())
            middle = int(begin[axis] + sides[axis] // 2)
            first, second = list(spans), list(spans)
            first[axis], second[axis] = (spans[axis][0], middle), (middle, spans[axis][1])
            return np.concatenate([self(*first), self(*second)], axis=axis)
        labels = self._read(*zip(low.tolist(), high.tolist(), strict=True))
        names = occurring(labels)
        ranks, _ = kernels.clean_labels_3d(labels, min_size=0, dynamics=self._dynamics, threads=self._threads)
        inside = tuple(slice(*span) for span in zip((begin - low).tolist(), (end - low).tolist(), strict=True))
        filled, labels = names[ranks[inside]], labels[inside]
        return np.where(self._is_long[filled], labels, filled)


def occurring(labels: NDArray[np.int32]) -> NDArray[np.int32]:
    """The labels that occur, ascending, and 0 in any case."""
    found = np.flatnonzero(np.bincount(labels.reshape(-1)))
    return np.concatenate([[0], found[found > 0]]).astype(np.int32)
