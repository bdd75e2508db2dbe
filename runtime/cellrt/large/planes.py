"""Stacks larger than memory: planes go through a model one by one, and their objects become those of the volume.

Each plane's labels are kept in the journal as they come, stitched to the plane before. At the end the volume is
numbered, or cleaned as Cellpose does it, from sums over planes (`tally`); what comes out is what stitching and cleaning
the whole volume gives. Knows pixels, planes and works (`pool`); neither what a network's maps mean nor how pixels are
normalised.

Cavities need no more planes than they go through. In each of its planes a cavity of a label is one or several holes of
the label there: it lies in planes with such holes and ends before one without. So it is filled among planes in a row
that have holes and the two around. Planes that come cleaned, as those of flow models do, have none but where two
objects of a plane, each without a hole, were stitched to one in the plane before: as a rule there are none at all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellrt import kernels
from cellrt.errors import CellrtError
from cellrt.large.cavities import occurring
from cellrt.large.journal import Journal
from cellrt.large.result import LargeInstances
from cellrt.large.scratch import scratch
from cellrt.large.sink import Sink
from cellrt.large.source import Source, boxes
from cellrt.large.tally import Tally
from cellrt.planes import PlanesWork, Stitcher
from cellrt.pool import Found, Network, Work, complete
from cellrt.tile import Span


@dataclass(frozen=True, eq=False)
class Plane:
    """What was found in a plane: objects have scores of their own, or the mean of what their pixels have."""

    labels: NDArray[np.int32]  # (Y, X), 0 is background
    scores: NDArray[np.float32] | None = None  # (n,), of labels 1..n; the last ones may be covered by others
    class_prob: NDArray[np.float32] | None = None  # (n, n_classes + 1)
    probability: NDArray[np.float32] | None = None  # (Y, X), where there are no scores


@dataclass(frozen=True)
class Cleaning:
    """How labels of the volume are cleaned; parameters of `kernels.clean_labels_3d`."""

    min_size: int
    dynamics: str


@dataclass(frozen=True, eq=False)
class Way:
    """How planes go through a model."""

    begin: Callable[[NDArray[Any]], Work]
    """Pixels (C, Y, X), as the source gives them -> a plane on its way. All have tiles of one number and shape."""
    end: Callable[[Work], Plane]
    """A plane whose tiles came back -> what was found."""
    network: Network
    threshold: float
    """Of `planes.stitch`."""
    cleaning: Cleaning | None
    """None: labels are numbered anew, in their order. A stack of one plane is not cleaned either."""
    threads: int


def segment(
    image: Source, out: Sink, journal: Journal, *, way: Way, progress: Callable[[int, int], None] | None
) -> LargeInstances:
    """Segment a stack (C, Z, Y, X) plane by plane; a tile of the journal is a plane."""
    depth = image.shape[1]
    volume = _Volume(journal, image.shape[1:], way)
    left = [z for z in range(depth) if journal.read(z) is None]
    pixels = _Pixels(image, journal.folder)

    def tell() -> None:
        if progress is not None:
            progress(len(volume), depth)

    def restore(end: int) -> None:
        """Take planes that an earlier run finished."""
        while len(volume) < end:
            volume.restore()
            tell()

    def end(index: int, work: Work) -> None:
        restore(left[index])
        volume.add(way.end(work))
        tell()

    if left:
        complete(PlanesWork(len(left), lambda i: way.begin(pixels(left[i])), end, lambda: Found(None)), way.network)
    restore(depth)
    volume.finish()
    out.write(_Painter(volume.labels, out.shape, journal.folder))
    return volume.objects(n_resumed=depth - len(left))


class _Pixels:
    """The planes of a stack; of a source in chunks that go through several planes, so many are read at once."""

    def __init__(self, image: Source, folder: Path) -> None:
        self._image, self._folder = image, folder
        self._depth, *block = image.block_shape()
        self._block = tuple(block)
        self._begin = -1
        self._slab: NDArray[Any] | None = None

    def __call__(self, z: int) -> NDArray[Any]:
        """The pixels (C, Y, X) of a plane."""
        begin = z - z % self._depth
        if self._slab is None or begin != self._begin:
            n_channels, depth, *sides = self._image.shape
            end = min(depth, begin + self._depth)
            self._slab = None  # before there is another
            slab = scratch((n_channels, end - begin, *sides), self._image.dtype, self._folder)
            for rows, columns in boxes(tuple(sides), self._block):
                slab[:, :, slice(*rows), slice(*columns)] = self._image.read((begin, end), rows, columns)
            self._begin, self._slab = begin, slab
        return np.ascontiguousarray(self._slab[:, z - self._begin])


class _Volume:
    """The planes so far. Their labels are in the journal, and what they are in the volume is here."""

    def __init__(self, journal: Journal, shape: tuple[int, ...], way: Way) -> None:
        self._journal, self._shape, self._way = journal, shape, way
        self._stitcher = Stitcher(way.threshold, threads=way.threads)
        self._tally = Tally(shape, threads=way.threads)
        self._best = _Best()
        self._numbers: list[NDArray[np.int32]] = []  # per plane: what its labels are in the volume
        self._has_holes: list[bool] = []  # per plane: whether labels of the volume have some there
        self._filled: set[int] = set()  # planes that a second tile of the journal has as they are now

    def __len__(self) -> int:
        return len(self._numbers)

    def add(self, plane: Plane) -> None:
        """The next plane."""
        labels = plane.labels
        stitched = self._stitcher.add(labels)
        has_holes = self._way.cleaning is not None and _has_holes(stitched, self._way.threads)
        found: dict[str, NDArray[Any]] = {"labels": _small(labels)}
        if plane.probability is not None:
            found["weights"] = _weights(labels, plane.probability, len(self._stitcher.numbers) - 1)
            if has_holes:
                found["probability"] = plane.probability
        if plane.scores is not None:
            found["scores"] = plane.scores
        if plane.class_prob is not None:
            found["class_prob"] = plane.class_prob
        self._journal.write(len(self), compress=True, **found)
        self._take(labels, found, has_holes)

    def restore(self) -> None:
        """The next plane, as an earlier run left it."""
        found = self._stored(len(self))
        labels = found["labels"].astype(np.int32)
        self._stitcher.add(labels)
        self._take(labels, found, "probability" in found)

    def finish(self) -> None:
        """Give labels their final numbers, once all planes are there."""
        cleaning = self._way.cleaning
        if cleaning is None:
            numbers = self._tally.in_order()
            self._best.keep(np.flatnonzero(numbers))
            self._renumber(numbers)
        elif len(self) > 1:
            self._clean(cleaning)

    def labels(self, z: int) -> NDArray[np.int32]:
        """The labels (Y, X) of a plane as they are now."""
        labels: NDArray[np.int32] = self._numbers[z][self._stored(self._tile(z))["labels"]]
        return labels

    def objects(self, *, n_resumed: int) -> LargeInstances:
        """What is known of the objects at the end."""
        n = int(np.flatnonzero(self._tally.areas)[-1])
        class_prob = self._best.class_prob
        return LargeInstances(
            self._shape,
            self._tally.means(n) if self._way.cleaning is not None else self._best.scores,
            self._tally.points(n),
            None,
            None if class_prob is None else class_prob.argmax(axis=1).astype(np.int32),
            class_prob,
            n_tiles=len(self),
            n_resumed=n_resumed,
        )

    def _take(self, labels: NDArray[np.int32], found: dict[str, NDArray[Any]], has_holes: bool) -> None:
        """Count a plane that was stitched just now."""
        numbers = self._stitcher.numbers
        self._tally.add(labels[np.newaxis], numbers, (len(self), 0, 0), found.get("weights"))
        if "scores" in found:
            self._best.add(numbers, found["scores"], found.get("class_prob"))
        self._numbers.append(numbers)
        self._has_holes.append(has_holes)

    def _clean(self, cleaning: Cleaning) -> None:
        """Drop small labels, fill cavities, drop what became small."""
        if cleaning.min_size <= 0:
            self._renumber(self._tally.in_order())
            self._fill(cleaning.dynamics)
            return
        self._renumber(self._tally.without_small(cleaning.min_size, cleaning.dynamics))
        self._fill(cleaning.dynamics)
        self._renumber(self._tally.without_small(cleaning.min_size, cleaning.dynamics))

    def _renumber(self, numbers: NDArray[np.int32]) -> None:
        """Give every label another number, 0 for none."""
        self._tally = self._tally.renumbered(numbers)
        self._numbers = [numbers[of_plane] for of_plane in self._numbers]

    def _fill(self, dynamics: str) -> None:
        """Fill the cavities of all labels."""
        n = len(self._tally.areas) - 1
        for begin, end in _stretches(self._has_holes):
            first = max(0, begin - 1)
            around = np.stack([self.labels(z) for z in range(first, min(len(self), end + 1))])
            names = occurring(around)
            filled, _ = kernels.clean_labels_3d(around, min_size=0, dynamics=dynamics, threads=self._way.threads)
            for z in range(begin, end):
                labels = names[filled[z - first]]
                if not np.array_equal(labels, around[z - first]):
                    numbers = occurring(labels)
                    labels = np.searchsorted(numbers, labels).astype(np.int32)
                    weights = _weights(labels, self._stored(z)["probability"], len(numbers) - 1)
                    self._journal.write(len(self) + z, compress=True, labels=_small(labels), weights=weights)
                    self._filled.add(z)
                    self._numbers[z] = numbers
        if self._filled:
            self._tally = Tally(self._shape, n, threads=self._way.threads)
            for z, numbers in enumerate(self._numbers):
                stored = self._stored(self._tile(z))
                labels = stored["labels"].astype(np.int32)
                self._tally.add(labels[np.newaxis], numbers, (z, 0, 0), stored["weights"])

    def _tile(self, z: int) -> int:
        """Where the journal has a plane."""
        return len(self) + z if z in self._filled else z

    def _stored(self, tile: int) -> dict[str, NDArray[Any]]:
        """The arrays of a tile of the journal that was there."""
        stored = self._journal.read(tile)
        if stored is None:
            raise CellrtError(
                f"expected tile {tile} in {self._journal.folder}, got nothing: somebody removed it; start again"
            )
        return stored


class _Best:
    """Of each object, by number, the score and the class probabilities of its best part; of equals the first."""

    def __init__(self) -> None:
        self.scores = np.full(1, -np.inf, np.float32)
        self.class_prob: NDArray[np.float32] | None = None

    def add(
        self, numbers: NDArray[np.int32], scores: NDArray[np.float32], class_prob: NDArray[np.float32] | None
    ) -> None:
        """The parts in a plane, as of `Plane`; `numbers` are those of its labels."""
        n = min(len(scores), len(numbers) - 1)
        own, scores = numbers[1 : n + 1], scores[:n]
        order = np.lexsort((-scores, own))
        best = order[np.unique(own[order], return_index=True)[1]]
        more = max(0, int(numbers.max()) + 1 - len(self.scores))
        self.scores = np.pad(self.scores, (0, more), constant_values=-np.inf)
        best = best[scores[best] > self.scores[own[best]]]
        self.scores[own[best]] = scores[best]
        if class_prob is not None:
            if self.class_prob is None:
                self.class_prob = np.zeros((1, class_prob.shape[1]), np.float32)
            self.class_prob = np.pad(self.class_prob, ((0, len(self.scores) - len(self.class_prob)), (0, 0)))
            self.class_prob[own[best]] = class_prob[best]

    def keep(self, labels: NDArray[np.intp]) -> None:
        """Those that these labels have."""
        self.scores = self.scores[labels]
        if self.class_prob is not None:
            self.class_prob = self.class_prob[labels]


class _Painter:
    """The labels of a volume, block by block; planes are read once for all blocks that go through the same ones."""

    def __init__(self, labels: Callable[[int], NDArray[np.int32]], shape: tuple[int, ...], folder: Path) -> None:
        self._labels, self._sides, self._folder = labels, shape[1:], folder
        self._planes: Span | None = None
        self._slab: NDArray[np.int32] | None = None

    def __call__(self, planes: Span, rows: Span, columns: Span) -> NDArray[np.int32]:
        """The labels of a block, int32 (z, y, x)."""
        if self._slab is None or planes != self._planes:
            self._slab = None  # before there is another
            slab: NDArray[np.int32] = scratch((planes[1] - planes[0], *self._sides), np.int32, self._folder)
            for index, z in enumerate(range(*planes)):
                slab[index] = self._labels(z)
            self._planes, self._slab = planes, slab
        return np.ascontiguousarray(self._slab[:, slice(*rows), slice(*columns)])


def _has_holes(labels: NDArray[np.int32], threads: int) -> bool:
    """Whether a label of a plane has holes."""
    filled, _ = kernels.clean_labels_2d(labels, min_size=0, dynamics="v4", threads=threads)
    numbered, _ = kernels.relabel(labels, threads=threads)
    return not np.array_equal(filled, numbered)


def _stretches(flags: list[bool]) -> list[Span]:
    """Where flags in a row are set."""
    edges = np.flatnonzero(np.diff(np.array(flags, np.int8), prepend=0, append=0))
    return [(int(begin), int(end)) for begin, end in edges.reshape(-1, 2)]


def _weights(labels: NDArray[np.int32], probability: NDArray[np.float32], n: int) -> NDArray[np.float64]:
    """Sums of a plane's probability over labels 1..n, float64 (n,)."""
    return np.asarray(np.bincount(labels.reshape(-1), probability.reshape(-1), n + 1)[1:], np.float64)


def _small(labels: NDArray[np.int32]) -> NDArray[Any]:
    """Labels with half the bytes, where that will do."""
    return labels.astype(np.uint16) if labels.max() <= np.iinfo(np.uint16).max else labels
