"""Suppression that goes along with the tiles: what is decided is not kept.

A candidate's fate depends on the stronger ones that it touches, and theirs on stronger ones again. When all candidates
above a row are known, those whose chains end before they come near that row are decided, exactly as among all
candidates of the image: survivors are set aside, the suppressed forgotten. What is left waits for the next rows. So
memory grows with the image's width and its objects, not with its candidates, several dozens to an object.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellrt import kernels
from cellrt.errors import CapacityError
from cellrt.heads.star import MAX_PAIRS_PER_CANDIDATE, Candidates
from cellrt.manifest import StarSpec

_CELL = 8  # pixels: whether polygons touch is decided on such a lattice, in favour of touching
_LEAST_REACH = 128  # pixels
_LONGEST_RAY = 512  # pixels: polygons of longer ones cover so much of the lattice that waiting is cheaper
_ENOUGH = 1 << 20  # candidates, 160 MB at 32 rays: fewer may wait, as deciding takes longer near rows to come
_LEVELS = 64  # of probability: candidates of a level are looked at together


class LongRaysError(Exception):
    """A polygon reached into rows that were settled without it: settle at the end only."""


class Settler:
    """Candidates of tiles in row-major order -> survivors.

    Parameters
    ----------
    spec : StarSpec
    nms_thresh : float
        As for `heads.star.Collector`.
    max_candidates : int
        Most candidates that wait at a time.
    along : bool
        Decide what can be decided before the end.
    threads : int
        0: all usable cores.
    """

    def __init__(self, spec: StarSpec, *, nms_thresh: float, max_candidates: int, along: bool, threads: int) -> None:
        self._along = along
        self._spec, self._nms_thresh, self._max, self._threads = spec, nms_thresh, max_candidates, threads
        angles = np.arange(spec.n_rays) * (2 * np.pi / spec.n_rays)
        self._directions = np.stack([np.sin(angles), np.cos(angles)]).astype(np.float32)
        self._waiting: list[_Group] = []
        self._survivors: list[_Group] = []
        self._none = self._group(
            (
                np.zeros(0, np.float32),
                np.zeros((0, spec.n_rays), np.float32),
                np.zeros((0, 2), np.int32),
                np.zeros((0, spec.n_class_channels), np.float32) if spec.n_class_channels else None,
            )
        )
        self._enough = _ENOUGH
        self._longest = 0.0  # ray so far, pixels
        self._settled = -(1 << 40)  # no polygon that is still to come may reach rows before this

    def add(self, candidates: Candidates) -> None:
        """Take the candidates of a tile.

        Raises
        ------
        CapacityError
            If too many wait.
        LongRaysError
            If one should have been known before.
        """
        group = self._group(candidates)
        if sum(len(one) for one in (*self._waiting, group)) > self._max:
            raise CapacityError(
                f"expected at most {self._max} candidates at a time, got more; raise prob_thresh or max_candidates",
                kernels.ERROR_CAPACITY,
            )
        if len(group):
            self._longest = max(self._longest, float(group.dist.max()))
            if self._along and (self._longest > _LONGEST_RAY or group.boxes[:, 0].min() < self._settled):
                raise LongRaysError
            self._waiting.append(group)

    def settle(self, boundary: int) -> None:
        """Decide what can be decided when all candidates above a row are known, if there is enough of it."""
        if not self._along or sum(len(one) for one in self._waiting) <= self._enough:
            return
        waiting = self._all_waiting()
        # Twice the longest ray so far: a longer one is noticed when it comes.
        self._settled = max(self._settled, boundary - max(_LEAST_REACH, int(2 * self._longest) + 2))
        lattice = _Lattice(waiting)
        is_open = _open(waiting, lattice, self._settled)
        kept = self._suppress(waiting, np.flatnonzero(~is_open))
        # A survivor waits as long as it may have to suppress others that do.
        is_near = lattice.highest(kept) > -np.inf
        self._survivors.append(waiting.take(kept[~is_near]))
        self._waiting = [waiting.take(np.concatenate([np.flatnonzero(is_open), kept[is_near]]))]
        self._enough = max(_ENOUGH, 2 * len(self._waiting[0]))

    def survivors(self) -> Candidates:
        """All survivors, best first; equal ones by rows. To be asked for when there are no more candidates."""
        if self._waiting:
            waiting = self._all_waiting()
            self._survivors.append(waiting.take(self._suppress(waiting, np.arange(len(waiting)))))
        every = _concatenated([self._none, *self._survivors])
        every = every.take(np.lexsort((every.points[:, 1], every.points[:, 0], -every.prob)))
        return every.prob, every.dist, every.points, every.class_prob

    def _all_waiting(self) -> _Group:
        """Those that wait, handed over."""
        waiting, self._waiting = self._waiting, []
        return _concatenated(waiting)

    def _suppress(self, group: _Group, which: NDArray[np.int64]) -> NDArray[np.int64]:
        """Which of some candidates survive among themselves."""
        # Equal ones count in row-major order.
        which = which[np.lexsort((group.points[which, 1], group.points[which, 0]))]
        some = group.take(which)
        try:
            kept = kernels.star_nms_2d(
                some.prob,
                some.dist,
                some.points,
                nms_thresh=self._nms_thresh,
                max_pairs=MAX_PAIRS_PER_CANDIDATE * max(len(some), 256),
                threads=self._threads,
            )
        except CapacityError as error:
            raise CapacityError(
                f"expected at most {MAX_PAIRS_PER_CANDIDATE} comparisons per candidate, got more among {len(some)} "
                f"candidates with nms_thresh={self._nms_thresh:g}; raise prob_thresh or lower nms_thresh",
                error.status,
            ) from None
        return which[kept]

    def _group(self, candidates: Candidates) -> _Group:
        """Candidates with their boxes."""
        prob, dist, points, class_prob = candidates
        boxes = np.empty((len(prob), 4), np.int32)
        for axis, direction in enumerate(self._directions):
            along = dist * direction
            # The suppression cuts vertices off to whole pixels; a pixel more than that.
            boxes[:, axis] = np.floor(along.min(axis=1, initial=0)) + points[:, axis] - 2
            boxes[:, axis + 2] = np.ceil(along.max(axis=1, initial=0)) + points[:, axis] + 2
        return _Group(prob, dist, points, class_prob, boxes)


class _Group:
    """Some candidates."""

    def __init__(
        self,
        prob: NDArray[np.float32],
        dist: NDArray[np.float32],
        points: NDArray[np.int32],
        class_prob: NDArray[np.float32] | None,
        boxes: NDArray[np.int32],
    ) -> None:
        self.prob, self.dist, self.points, self.class_prob = prob, dist, points, class_prob
        self.boxes = boxes  # (n, 4) y_first, x_first, y_last, x_last: no vertex lies outside

    def __len__(self) -> int:
        return len(self.prob)

    def take(self, which: NDArray[Any]) -> _Group:
        """Those of the given indices, in that order."""
        class_prob = None if self.class_prob is None else self.class_prob[which]
        return _Group(self.prob[which], self.dist[which], self.points[which], class_prob, self.boxes[which])


def _concatenated(groups: list[_Group]) -> _Group:
    """All in one; at least one."""
    if len(groups) == 1:
        return groups[0]
    class_prob = [group.class_prob for group in groups if group.class_prob is not None]
    return _Group(
        np.concatenate([group.prob for group in groups]),
        np.concatenate([group.dist for group in groups]),
        np.concatenate([group.points for group in groups]),
        np.concatenate(class_prob) if class_prob else None,
        np.concatenate([group.boxes for group in groups]),
    )


class _Lattice:
    """The highest probability of the polygons that were put down near each place."""

    def __init__(self, group: _Group) -> None:
        # Boxes that touch still do when what lies beyond all points is moved to the edge of where they are.
        low, high = (np.tile(edge, 2) for edge in (group.points.min(axis=0), group.points.max(axis=0)))
        self._cells = (np.clip(group.boxes, low, high) - low) // _CELL
        self._values = np.full(self._cells[:, 2:].max(axis=0) + 1, -np.inf, np.float32)

    def put(self, which: NDArray[np.int64], prob: NDArray[np.float32]) -> None:
        """Put polygons down."""
        for y, x, places in self._each(which):
            np.maximum.at(self._values, (y, x), prob[places])

    def highest(self, which: NDArray[np.int64]) -> NDArray[np.float32]:
        """The highest probability of all that was put down where each polygon lies; minus infinity for none."""
        result = np.full(len(which), -np.inf, np.float32)
        for y, x, places in self._each(which):
            result[places] = np.maximum(result[places], self._values[y, x])
        return result

    def _each(
        self, which: NDArray[np.int64]
    ) -> Iterator[tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int64]]]:
        """The first cells of all polygons, then the second ones of those that have as many, and so on."""
        cells = self._cells[which]
        heights, widths = (cells[:, 2:] - cells[:, :2] + 1).T
        places = np.arange(len(which))
        for i in range(int(heights.max(initial=0))):
            tall = places[heights > i]
            for j in range(int(widths[tall].max(initial=0))):
                here = tall[widths[tall] > j]
                yield cells[here, 0] + i, cells[here, 1] + j, here


def _open(group: _Group, lattice: _Lattice, settled: int) -> NDArray[np.bool_]:
    """Which candidates cannot be decided: those that reach rows where more may come, and all that a stronger or equal
    one that cannot be decided may touch."""
    is_open = group.boxes[:, 2] >= settled
    order = np.argsort(-group.prob, kind="stable")
    reached = settled  # rows above it hold nothing open
    falling = -group.prob[order]
    cuts = np.searchsorted(falling, falling[:: max(1, len(order) // _LEVELS)])  # equal ones stay together
    for level in np.split(order, np.unique(cuts)):
        new = level[is_open[level]]
        rest = level[~is_open[level]]
        while True:
            lattice.put(new, group.prob[new])
            reached = min(reached, int(group.boxes[new, 0].min(initial=reached)) - _CELL)
            rest = rest[~is_open[rest]]
            near = rest[group.boxes[rest, 2] >= reached]
            new = near[lattice.highest(near) >= group.prob[near]]
            if not len(new):
                break
            is_open[new] = True
    return is_open
