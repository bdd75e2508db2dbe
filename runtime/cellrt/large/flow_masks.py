"""Maps of a volume in a file -> its labels: what `heads.flow_3d.decode` makes of the whole volume, block by block.

Every step looks at a window around a block and knows there what it would know in the whole volume: the flow is followed
in coordinates of the whole, from the voxels of the block, in a window that grows until no trajectory leaves it; where
voxels end is counted in one histogram of the volume; seeds come from that, and so do masks. What is left, cleaning,
takes sums over labels (`tally`) and `cavities`.
Knows files of maps; nothing of networks, images and sinks.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellrt import kernels
from cellrt.errors import CellrtError, DataError
from cellrt.heads.flow import NOT_FINITE, probability
from cellrt.large import bricks
from cellrt.large.bricks import Bricks, Triple
from cellrt.large.cavities import CavityFiller, occurring
from cellrt.large.source import boxes
from cellrt.large.tally import Tally
from cellrt.resize import nearest
from cellrt.tile import Span

# Sides of blocks and, at first, of their windows, in voxels: the flow is followed with 32 bytes for each of a window.
_LARGEST_BLOCK, _SMALLEST_BLOCK, _WINDOW = 128, 32, 256
_MOST_VOXELS = 1 << 25  # of the window of a block that trajectories leave
_log = logging.getLogger(__name__)

Spans = tuple[Span, Span, Span]


@dataclass(frozen=True)
class Decoding:
    """How maps become labels; units and defaults are those of `heads.flow_3d.decode`."""

    steps: int
    cellprob_threshold: float
    min_size: int
    max_size_fraction: float
    dynamics: str
    reach: int  # voxels of the maps: how far trajectories go, mostly
    longest: int  # voxels of the image: longer objects keep their cavities
    threads: int

    @property
    def block(self) -> Triple:
        """Sides of the blocks."""
        side = max(_SMALLEST_BLOCK, min(_LARGEST_BLOCK, _WINDOW - 2 * self.reach)) // bricks.SIDE * bricks.SIDE
        return side, side, side


@dataclass(frozen=True, eq=False)
class Masks:
    """The objects of a volume; object i has the label i + 1."""

    labels: Callable[..., NDArray[np.int32]]  # a span for each axis -> int32 (z, y, x)
    scores: NDArray[np.float32]  # (n,)
    points: NDArray[np.float32]  # (n, 3)
    files: tuple[Bricks, ...]  # that the labels are read from


def n_bytes(maps_shape: Triple, shape: Triple) -> int:
    """What the files of `decode` take at most."""
    return 2 * bricks.n_bytes(1, maps_shape, np.int32) + bricks.n_bytes(1, shape, np.int32)


def n_steps(maps_shape: Triple, shape: Triple, decoding: Decoding) -> int:
    """How often `decode` calls `step`."""
    of_maps, of_image = (sum(1 for _ in boxes(sides, decoding.block)) for sides in (maps_shape, shape))
    return 3 * of_maps + 2 * of_image


def decode(maps: Bricks, decoding: Decoding, *, shape: Triple, folder: Path, step: Callable[[], None]) -> Masks:
    """The objects of maps (4, z, y, x) in an image of a shape; files go to the folder, `step` is called for each block.

    Objects are those of `heads.flow_3d.decode`, with two exceptions that are logged or stated: voxels whose trajectory
    leaves a window of 2^25 voxels around their block belong to no object, and objects that are longer than
    ``decoding.longest`` keep their cavities.
    """
    counts = Bricks(folder / "counts.bricks", 1, maps.shape, np.int32)
    n_lost = 0
    for spans in _blocks(maps.shape, decoding.block):
        _, bins, n_lost_here = _ends(maps, spans, decoding)
        n_lost += n_lost_here
        _count(counts, bins)
        step()
    if n_lost:
        _log.warning("%d voxels belong to no object: the flow leads from them further than can be followed", n_lost)
    seeds = kernels.MaskSeeds3D(maps.shape)
    for spans in _blocks(maps.shape, decoding.block):
        window = _around(spans, kernels.MaskSeeds3D.FIND_MARGIN, maps.shape)
        begin, end = _corners(spans)
        seeds.find(counts.read(*window)[0], _corners(window)[0], begin, end, decoding.threads)
        step()
    raw = Bricks(folder / "masks.bricks", 1, maps.shape, np.int32)
    tally = Tally(maps.shape, len(seeds), threads=decoding.threads)
    for spans in _blocks(maps.shape, decoding.block):
        voxels, bins, _ = _ends(maps, spans, decoding)
        block = np.zeros([end - begin for begin, end in spans], np.int32)
        block.reshape(-1)[voxels] = _masks_of(counts, seeds, bins, decoding.threads)
        _add(tally, block, spans)
        raw.write(block, *_corners(spans)[0])
        step()
    counts.remove()
    most = math.prod(maps.shape) * decoding.max_size_fraction
    numbers = tally.by_first_voxel((tally.areas > 0) & (tally.areas <= most))
    masks = _cleaned(_Resized(raw, shape, numbers), maps, decoding, folder=folder, step=step)
    raw.remove()
    return masks


def _blocks(shape: Triple, block: Triple) -> list[Spans]:
    """The blocks of a volume."""
    return [(z, y, x) for z, y, x in boxes(shape, block)]


def _ends(maps: Bricks, spans: Spans, decoding: Decoding) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """The voxels of a block that the flow carries somewhere, flat indices in it, and into which bins (n, 3).

    At last how many it carries out of reach.
    """
    shape, reach = maps.shape, min(decoding.reach, (_WINDOW - _SMALLEST_BLOCK) // 2)
    while True:
        window = _around(spans, reach, shape)
        values = maps.read(*window)
        origin, _ = _corners(window)
        keep = tuple((begin - low, end - low) for (begin, end), low in zip(spans, origin, strict=True))
        try:
            voxels, positions = kernels.flow_follow_window_3d(
                values[:3],
                values[3],
                volume=shape,
                origin=origin,
                keep=(keep[0], keep[1], keep[2]),
                cellprob_threshold=decoding.cellprob_threshold,
                n_iter=decoding.steps,
                threads=decoding.threads,
            )
        except DataError:
            raise CellrtError(NOT_FINITE) from None
        is_lost = np.isnan(positions[:, 0])
        wider = _wider(spans, reach, shape)
        if not is_lost.any() or wider == reach:
            break
        reach = wider
    place = np.stack(np.unravel_index(voxels[~is_lost], values.shape[1:]), axis=-1)
    begins, ends = np.array(keep).T
    of_block = np.ravel_multi_index((place - begins).T, tuple(ends - begins))
    bins = np.clip(positions[~is_lost].astype(np.int64), 0, np.array(shape) - 1)
    return of_block, bins, int(np.count_nonzero(is_lost))


def _wider(spans: Spans, reach: int, shape: Triple) -> int:
    """Up to twice the reach, as far as the window does not become too large."""
    for wider in range(2 * reach, reach, -1):
        if math.prod(end - begin for begin, end in _around(spans, wider, shape)) <= _MOST_VOXELS:
            return wider
    return reach


def _count(counts: Bricks, bins: NDArray[np.int64]) -> None:
    """Add voxels that ended in bins (n, 3) to the histogram."""
    if len(bins):
        window, local = _window_of(bins)
        there = counts.read(*window)
        there += np.bincount(local, minlength=there.size).reshape(there.shape).astype(np.int32)
        counts.write(there, *_corners(window)[0])


def _masks_of(counts: Bricks, seeds: kernels.MaskSeeds3D, bins: NDArray[np.int64], threads: int) -> NDArray[np.int32]:
    """The masks, 1..n in the order of painting, that bins (n, 3) belong to; 0 for none."""
    if not len(bins):
        return np.zeros(0, np.int32)
    window = _around(_window_of(bins)[0], kernels.MaskSeeds3D.PAINT_MARGIN, counts.shape)
    painted: NDArray[np.int32] = counts.read(*window)[0]
    origin, _ = _corners(window)
    seeds.paint(painted, origin, threads)
    masks: NDArray[np.int32] = painted[tuple((bins - np.array(origin)).T)]
    return masks


def _add(tally: Tally, labels: NDArray[np.int32], spans: Spans, weights: NDArray[np.float32] | None = None) -> None:
    """Add a block of labels, and the sums of weights (z, y, x) over their voxels."""
    names = occurring(labels)
    ranks = np.zeros(int(names[-1]) + 1, np.int32)
    ranks[names] = np.arange(len(names))
    local, sums = ranks[labels], None
    if weights is not None:
        sums = np.bincount(local.reshape(-1), weights.reshape(-1), len(names))[1:].astype(np.float64)
    tally.add(local, names, _corners(spans)[0], sums)


def _cleaned(labels: _Resized, maps: Bricks, decoding: Decoding, *, folder: Path, step: Callable[[], None]) -> Masks:
    """The objects that are left of labels when they are cleaned."""
    shape, dynamics, min_size = labels.shape, decoding.dynamics, decoding.min_size
    before = Tally(shape, labels.n, threads=decoding.threads)
    for spans in _blocks(shape, decoding.block):
        _add(before, labels(*spans), spans)
        step()
    table = before.without_small(min_size, dynamics) if min_size > 0 else before.in_order()
    labels, before = labels.renamed(table), before.renumbered(table)
    filler = CavityFiller(
        labels, before, shape=shape, longest=decoding.longest, dynamics=dynamics, threads=decoding.threads
    )
    filled = Bricks(folder / "labels.bricks", 1, shape, np.int32)
    after = Tally(shape, labels.n, threads=decoding.threads)
    cellprob = _Nearest(maps, shape)
    for spans in _blocks(shape, decoding.block):
        block = filler(*spans)
        filled.write(block, *_corners(spans)[0])
        _add(after, block, spans, probability(cellprob.read(*spans)[3]))
        step()
    if min_size > 0:
        table = after.without_small(min_size, dynamics)
        after = after.renumbered(table)
    else:  # a label that was swallowed leaves its number out
        table = np.arange(labels.n + 1, dtype=np.int32)
    n = int(np.flatnonzero(after.areas)[-1])
    return Masks(_Resized(filled, shape, table), after.means(n), after.points(n), (filled,))


class _Nearest:
    """A volume in a file at another shape, as `resize.resize_nearest` gives it."""

    def __init__(self, volume: Bricks, shape: Triple) -> None:
        self._volume = volume
        self._places = [nearest(new, old) for new, old in zip(shape, volume.shape, strict=True)]

    def read(self, *spans: Span) -> NDArray[Any]:
        """The voxels of a window, (C, z, y, x)."""
        places = [places[begin:end] for places, (begin, end) in zip(self._places, spans, strict=True)]
        there = self._volume.read(*((int(place[0]), int(place[-1]) + 1) for place in places))
        return there[(slice(None), *np.ix_(*(place - place[0] for place in places)))]


class _Resized:
    """Labels in a file, at the shape of the image and by other names."""

    def __init__(self, masks: Bricks, shape: Triple, table: NDArray[np.int32]) -> None:
        self.shape, self.n = shape, int(table.max())
        self._masks, self._table = masks, table
        self._nearest = _Nearest(masks, shape)

    def __call__(self, *spans: Span) -> NDArray[np.int32]:
        """The labels of a window, int32 (z, y, x)."""
        labels: NDArray[np.int32] = self._table[self._nearest.read(*spans)[0]]
        return labels

    def renamed(self, table: NDArray[np.int32]) -> _Resized:
        """The same by yet other names."""
        return _Resized(self._masks, self.shape, table[self._table])


def _around(spans: Spans, margin: int, shape: Triple) -> Spans:
    """A window with a margin, as far as the volume goes."""
    z, y, x = (
        (max(0, begin - margin), min(side, end + margin)) for (begin, end), side in zip(spans, shape, strict=True)
    )
    return z, y, x


def _corners(spans: Spans) -> tuple[Triple, Triple]:
    """The first voxel of a window and the one after its last."""
    (front, back), (top, bottom), (left, right) = spans
    return (front, top, left), (back, bottom, right)


def _window_of(bins: NDArray[np.int64]) -> tuple[Spans, NDArray[np.int64]]:
    """The smallest window that holds bins (n, 3), and their flat indices in it."""
    low, high = bins.min(axis=0), bins.max(axis=0) + 1
    z, y, x = zip(low.tolist(), high.tolist(), strict=True)
    return (z, y, x), np.ravel_multi_index((bins - low).T, tuple(high - low))
