"""Suppression that goes along with the tiles: what is decided is not kept.

A candidate's fate depends on the stronger ones that it touches, and theirs on stronger ones again. When all candidates
above a row are known, those whose chains end before they come near that row are decided, exactly as among all
candidates of the image: survivors are set aside, the suppressed forgotten. What is left waits for the next rows. So
memory grows with the image's width and its objects, not with its candidates, several dozens to an object.

In volumes, where such chains go everywhere, the suppression itself tells what is decided (`kernels.star_settle_3d`):
most candidates lie in objects that are kept for certain. Planes take the part of rows there, and in the layer of tiles
that is under way what lies well before the end of its whole rows of tiles is decided as well: memory grows with the
area of a plane.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellrt import kernels
from cellrt.errors import CapacityError
from cellrt.heads import star_3d
from cellrt.heads.star import MAX_PAIRS_PER_CANDIDATE
from cellrt.large.paint import extents
from cellrt.manifest import Star3DSpec, StarSpec

_CELL = 8  # pixels: whether polygons touch is decided on such a lattice, in favour of touching
_LEAST_REACH = {2: 128, 3: 16}  # pixels, of images with so many axes
_LONGEST_RAY = 512  # pixels: polygons of longer ones cover so much of the lattice that waiting is cheaper
# Candidates of 32 rays, 160 MB, or as much of more rays: fewer may wait, as deciding takes longer near rows to come.
_ENOUGH = 1 << 20
_LEVELS = 64  # of probability: candidates of a level are looked at together
_AT_ONCE = 1 << 16  # candidates that are moved at a time


class LongRaysError(Exception):
    """A polygon reached into rows that were settled without it: settle at the end only."""


class Settler:
    """Candidates of tiles in row-major order -> survivors.

    Parameters
    ----------
    spec : StarSpec or Star3DSpec
    nms_thresh : float
        As for the head's `Collector`.
    max_candidates : int
        Most candidates that wait at a time.
    along : bool
        Decide what can be decided before the end.
    threads : int
        0: all usable cores.
    """

    def __init__(
        self, spec: StarSpec | Star3DSpec, *, nms_thresh: float, max_candidates: int, along: bool, threads: int
    ) -> None:
        self._along = along
        self._spec, self._nms_thresh, self._max, self._threads = spec, nms_thresh, max_candidates, threads
        if isinstance(spec, StarSpec):
            angles = np.arange(spec.n_rays) * (2 * np.pi / spec.n_rays)
            self._rays = np.stack([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)
        else:
            self._rays, _ = star_3d.directions(spec)
        self._waiting: list[_Group] = []
        self._survivors: list[_Group] = []
        self._none = self._group(
            (
                np.zeros(0, np.float32),
                np.zeros((0, spec.n_rays), np.float32),
                np.zeros((0, self._rays.shape[1]), np.int32),
                np.zeros((0, spec.n_class_channels), np.float32) if spec.n_class_channels else None,
            )
        )
        self._enough = self._least_enough()
        self._longest = 0.0  # ray so far, pixels
        self._reach = np.zeros(2, np.int64)  # farthest along the first two axes so far, pixels
        self._settled = -(1 << 40)  # no polygon that is still to come may reach rows before this
        self._corners: list[tuple[int, int]] = []  # nor what is before both of such numbers along the first two axes

    def add(self, candidates: kernels.Candidates) -> None:
        """Take the candidates of a tile; the arrays are handed over.

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
            first = group.boxes[:, :2]
            self._reach = np.maximum(self._reach, (group.points[:, :2] - first).max(axis=0))
            is_long = isinstance(self._spec, StarSpec) and self._longest > _LONGEST_RAY
            if self._along and (is_long or self._is_settled(first).any()):
                raise LongRaysError
            self._waiting.append(group)

    def settle(self, boundary: int, corner: tuple[int, int] | None = None) -> None:
        """Decide what can be decided, if there is enough of it.

        Parameters
        ----------
        boundary : int
            All candidates above this row, or plane, are known.
        corner : (int, int), optional
            So are those that lie before both of these along the first two axes.
        """
        if not self._along or sum(len(one) for one in self._waiting) <= self._enough:
            return
        n_axes = self._rays.shape[1]
        # Twice as far as any has reached so far: one that reaches farther is noticed when it comes.
        reach = np.maximum(_LEAST_REACH[n_axes], 2 * self._reach + 2).tolist()
        self._settled = max(self._settled, boundary - reach[0])
        if corner is not None:
            self._corners.append((corner[0] - reach[0], corner[1] - reach[1]))
        self._corners = [one for one in self._corners if one[0] > self._settled]
        done, left = self._decide_2d() if n_axes == 2 else self._decide_3d()
        self._survivors.append(done)
        self._waiting = [left]
        self._enough = max(self._least_enough(), 2 * len(left))

    def survivors(self) -> kernels.Candidates:
        """All survivors, best first; equal ones by rows. To be asked for when there are no more candidates."""
        if self._waiting:
            waiting = self._all_waiting()
            self._survivors.append(waiting.take(self._suppress(waiting, np.arange(len(waiting)))))
        every = _concatenated([self._none, *self._survivors])
        every = every.take(np.lexsort((*every.points.T[::-1], -every.prob)))
        return every.prob, every.dist, every.points, every.class_prob

    def _decide_2d(self) -> tuple[_Group, _Group]:
        """Survivors that have no more to suppress, and those that go on to wait."""
        waiting = self._all_waiting()
        lattice = _Lattice(waiting)
        is_open = _open(waiting, lattice, self._settled)
        kept = self._suppress(waiting, np.flatnonzero(~is_open))
        # A survivor waits as long as it may have to suppress others that do.
        is_near = lattice.highest(kept) > -np.inf
        return waiting.take(kept[~is_near]), waiting.take(np.concatenate([np.flatnonzero(is_open), kept[is_near]]))

    def _decide_3d(self) -> tuple[_Group, _Group]:
        """The same. What a survivor suppresses goes at once: it never waits."""
        assert isinstance(self._spec, Star3DSpec)
        waiting = self._all_waiting()
        waiting.order_equals()
        states = star_3d.settle(
            self._spec,
            waiting.prob,
            waiting.dist,
            waiting.points,
            ~self._is_settled(waiting.boxes[:, 3:5]),
            nms_thresh=self._nms_thresh,
            threads=self._threads,
        )
        done = waiting.take(np.flatnonzero(states == kernels.STAR_KEPT))
        waiting.keep(np.flatnonzero(states == kernels.STAR_UNDECIDED))
        return done, waiting

    def _is_settled(self, pixels: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Which pixels, told by the first two coordinates of each, nothing that is still to come may reach."""
        is_settled = pixels[:, 0] < self._settled
        for first, second in self._corners:
            is_settled |= (pixels[:, 0] < first) & (pixels[:, 1] < second)
        return is_settled

    def _least_enough(self) -> int:
        """Candidates that may wait in any case."""
        return _ENOUGH * 40 // (self._spec.n_rays + 8)  # each has 8 numbers beside its rays

    def _all_waiting(self) -> _Group:
        """Those that wait, handed over."""
        waiting, self._waiting = self._waiting, []
        first, *others = waiting
        for field in first.fields:
            parts = [getattr(one, field) for one in waiting]
            for one in others:
                setattr(one, field, None)
            setattr(first, field, _joined(parts))
        return first

    def _suppress(self, group: _Group, which: NDArray[np.int64]) -> NDArray[np.int64]:
        """Which of some candidates survive among themselves."""
        # Equal ones count in row-major order.
        which = which[np.lexsort(group.points[which].T[::-1])]
        some = group.take(which)
        if isinstance(self._spec, Star3DSpec):
            options: dict[str, Any] = {"nms_thresh": self._nms_thresh, "threads": self._threads}
            return which[star_3d.suppress(self._spec, some.prob, some.dist, some.points, **options)]
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

    def _group(self, candidates: kernels.Candidates) -> _Group:
        """Candidates with their boxes."""
        prob, dist, points, class_prob = candidates
        low, high = extents(dist, self._rays)
        # The suppression cuts vertices off to whole pixels, or rounds them; a pixel more than that.
        boxes = np.concatenate([np.floor(low) + points - 2, np.ceil(high) + points + 2], axis=1).astype(np.int32)
        return _Group(prob, dist, points, class_prob, boxes)


class _Group:
    """Some candidates. There may be gigabytes of them: what can be done in place is."""

    def __init__(
        self,
        prob: NDArray[np.float32],
        dist: NDArray[np.float32],
        points: NDArray[np.int32],
        class_prob: NDArray[np.float32] | None,
        boxes: NDArray[np.int32],
    ) -> None:
        self.prob, self.dist, self.points, self.class_prob = prob, dist, points, class_prob
        self.boxes = boxes  # (n, 4 or 6) (z_first,) y_first, x_first, (z_last,) y_last, x_last: no vertex lies outside

    def __len__(self) -> int:
        return len(self.prob)

    @property
    def fields(self) -> list[str]:
        """The names of its arrays."""
        return [name for name, array in vars(self).items() if array is not None]

    def order_equals(self) -> None:
        """Put candidates of equal probability into row-major order, in the places that they have."""
        by_place = np.lexsort((*self.points.T[::-1], self.prob))
        prob = self.prob[by_place]
        runs = np.cumsum(np.concatenate([[False], prob[1:] != prob[:-1]]))
        places = by_place[np.lexsort((by_place, runs))]
        is_moved = places != by_place
        for field in self.fields:
            array = getattr(self, field)
            array[places[is_moved]] = array[by_place[is_moved]]

    def keep(self, which: NDArray[np.int64]) -> None:
        """Drop all but those of the given indices, ascending."""
        for field in self.fields:
            array = getattr(self, field)
            for begin in range(0, len(which), _AT_ONCE):
                some = which[begin : begin + _AT_ONCE]
                array[begin : begin + len(some)] = array[some]  # none is written to before it was read
            setattr(self, field, _resized(array, len(which)))

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


def _joined(parts: list[NDArray[Any]]) -> NDArray[Any]:
    """Arrays one after the other. The list is emptied: each is let go of once it is copied behind the first."""
    total, at = sum(map(len, parts)), len(parts[0])
    parts.reverse()
    joined = _resized(parts.pop(), total)
    while parts:
        part = parts.pop()
        joined[at : at + len(part)] = part
        at += len(part)
    return joined


def _resized(array: NDArray[Any], n: int) -> NDArray[Any]:
    """The array, which is handed over, with another length; where it can, the system moves no memory for that."""
    if not (array.flags.owndata and array.flags.writeable and array.flags.c_contiguous):
        array = array.copy()
    array.resize((n, *array.shape[1:]), refcheck=False)  # nobody else has it
    return array


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
