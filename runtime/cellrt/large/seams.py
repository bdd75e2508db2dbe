"""Objects of overlapping tiles -> objects of the whole image, each once.

What several tiles see is compared where they overlap. Two objects are the same if they share more than half of the
pixels that the smaller has there. Of objects that are the same and whole, that is not cut off at the edge of what their
tile read, one stays, whole: the one that lies most inside what its tile keeps. Objects that are cut off give way to a
whole one that is the same; where there is none, as for objects larger than the overlap, those that are the same are
united, each within what its tile keeps. Knows labels and tiles; nothing of images and files.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellrt import kernels
from cellrt.tile import Span, Tile

Labels = Callable[[int], NDArray[Any]]  # the labels (y, x) that a tile found in what it read

_CUT = 3  # pixels: an object that comes so close to a cut may continue beyond


@dataclass(frozen=True, eq=False)
class Found:
    """The objects that a tile found, without their pixels; object i has the label i + 1 there."""

    scores: NDArray[np.float32]  # (n,)
    points: NDArray[np.float64]  # (n, 2) mean (y, x) of the pixels, in the whole image
    areas: NDArray[np.int64]  # (n,) pixels
    kept: NDArray[np.int64]  # (n,) pixels in what the tile keeps
    is_cut: NDArray[np.bool_]  # (n,)


@dataclass(frozen=True, eq=False)
class Merged:
    """The objects of the whole image, numbered by tile and by label there."""

    scores: NDArray[np.float32]  # (n,) of united parts: the mean over their kept pixels
    points: NDArray[np.float32]  # (n, 2)
    kept: list[NDArray[np.int32]]  # per tile: label -> number in what the tile keeps, 0 for none
    beyond: list[NDArray[np.int32]]  # per tile: the same for objects that continue beyond what the tile keeps


def describe(labels: NDArray[np.int32], scores: NDArray[np.float32], tile: Tile, shape: tuple[int, int]) -> Found:
    """What is to be known of the objects of a tile.

    Parameters
    ----------
    labels : int32 (y, x)
        Of what the tile read.
    scores : float32 (n,)
    tile : Tile
        In pixels of the whole image.
    shape : (int, int)
        The whole image.
    """
    areas, boxes, centroids = kernels.label_regions_2d(labels, n_labels=len(scores), threads=1)
    top, left = tile.origin
    y_begin, y_end, x_begin, x_end = tile.window((1, 1))
    kept = np.bincount(labels[y_begin:y_end, x_begin:x_end].reshape(-1), minlength=len(scores) + 1)[1:]
    is_cut = np.zeros(len(scores), np.bool_)
    for axis, (read, side) in enumerate(zip((tile.read_y, tile.read_x), shape, strict=True)):
        if read[0] > 0:
            is_cut |= boxes[:, axis] < _CUT
        if read[1] < side:
            is_cut |= boxes[:, axis + 2] > read[1] - read[0] - _CUT
    return Found(scores, centroids + np.array([top, left]), areas, kept, is_cut)


def merge(tiles: Sequence[Tile], found: Sequence[Found], labels: Labels, *, threads: int) -> Merged:
    """Decide which object of which tile stays.

    Parameters
    ----------
    tiles : sequence of Tile
        In row-major order.
    found : sequence of Found
        What `describe` says of each.
    labels : callable
        Tile number -> its labels; asked for a few times per tile.
    threads : int
        0: all usable cores.
    """
    offsets = np.cumsum([0, *(len(one.scores) for one in found)])
    links = _links(tiles, labels, offsets, threads)
    areas, kept, is_cut = (
        np.concatenate([getattr(one, name) for one in found]) for name in ("areas", "kept", "is_cut")
    )
    stays = _winners(links, kept / np.maximum(areas, 1), is_cut) & (areas > 0)
    # Objects that are cut off give way to whole ones.
    shadowed = np.zeros(len(areas), np.bool_)
    for i, j in ((0, 1), (1, 0)):
        shadowed[links[is_cut[links[:, i]] & ~is_cut[links[:, j]], i]] = True
    parts = is_cut & ~shadowed & (kept > 0)
    roots = _united(links[parts[links].all(axis=1)], len(areas))
    first = stays | (parts & (roots == np.arange(len(areas))))
    numbers = np.zeros(len(areas), np.int32)
    numbers[first] = np.arange(1, np.count_nonzero(first) + 1)
    numbers[parts] = numbers[roots[parts]]
    scores, points = _means(numbers, found, np.where(parts, kept, 1))
    in_kept, in_beyond = np.where(stays | parts, numbers, 0), np.where(stays & (kept < areas), numbers, 0)
    return Merged(scores, points, _tables(in_kept, offsets), _tables(in_beyond, offsets))


class SeamPainter:
    """The merged objects, block by block.

    A pixel belongs to what the tile that keeps it has there; where that is nothing, to the first tile's object that
    reaches there.

    Parameters
    ----------
    tiles, labels
        As for `merge`.
    merged : Merged
        What it gave.
    """

    def __init__(self, tiles: Sequence[Tile], merged: Merged, labels: Labels) -> None:
        self._tiles, self._merged, self._labels = tiles, merged, labels
        self._rows: Span | None = None
        self._near: list[int] = []  # the tiles that read any of those rows

    def __call__(self, rows: Span, columns: Span) -> NDArray[np.int32]:
        """The numbers of the objects in a window of the whole image, int32 (y, x)."""
        if rows != self._rows:
            spans = [_common(rows, tile.read_y) for tile in self._tiles]
            self._rows, self._near = rows, [index for index, (begin, end) in enumerate(spans) if begin < end]
        out = np.zeros((rows[1] - rows[0], columns[1] - columns[0]), np.int32)
        for tables, is_kept in ((self._merged.kept, True), (self._merged.beyond, False)):
            for index in self._near:
                tile, table = self._tiles[index], tables[index]
                y = _common(rows, tile.keep_y if is_kept else tile.read_y)
                x = _common(columns, tile.keep_x if is_kept else tile.read_x)
                if y[0] >= y[1] or x[0] >= x[1] or not table.any():
                    continue
                here = table[_window(self._labels(index), tile, y, x)]
                there = out[y[0] - rows[0] : y[1] - rows[0], x[0] - columns[0] : x[1] - columns[0]]
                np.copyto(there, here, where=is_kept or there == 0)
        return out


def _common(one: Span, other: Span) -> Span:
    """What two spans have in common; it ends before it begins if that is nothing."""
    return max(one[0], other[0]), min(one[1], other[1])


def _links(tiles: Sequence[Tile], labels: Labels, offsets: NDArray[np.int64], threads: int) -> NDArray[np.int64]:
    """Pairs of objects of different tiles that are the same, (n, 2), numbered over all tiles."""
    by_row: defaultdict[Span, list[int]] = defaultdict(list)
    for index, tile in enumerate(tiles):
        by_row[tile.read_y].append(index)
    found = [np.zeros((0, 2), np.int64)]
    for i, tile in enumerate(tiles):
        for read_y, others in by_row.items():
            y = _common(tile.read_y, read_y)
            if y[0] >= y[1]:
                continue
            for j in others:
                x = _common(tile.read_x, tiles[j].read_x)
                if j > i and x[0] < x[1]:
                    pairs = _same(_window(labels(i), tile, y, x), _window(labels(j), tiles[j], y, x), threads)
                    found.append(pairs + offsets[[i, j]] - 1)
    return np.concatenate(found)


def _window(labels: NDArray[Any], tile: Tile, y: Span, x: Span) -> NDArray[np.int32]:
    """The labels of a tile in a window of the whole image."""
    top, left = tile.origin
    return np.ascontiguousarray(labels[y[0] - top : y[1] - top, x[0] - left : x[1] - left], np.int32)


def _same(one: NDArray[np.int32], other: NDArray[np.int32], threads: int) -> NDArray[np.int64]:
    """Pairs of labels that share more than half of the smaller one's pixels."""
    pairs, counts = kernels.label_overlaps(one, other, threads=threads)
    areas = [np.bincount(pairs[:, axis], counts) for axis in range(2)]
    smaller = np.minimum(areas[0][pairs[:, 0]], areas[1][pairs[:, 1]]) if len(pairs) else np.zeros(0)
    return pairs[(pairs > 0).all(axis=1) & (2 * counts > smaller)].astype(np.int64)


def _winners(links: NDArray[np.int64], share: NDArray[np.float64], is_cut: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which whole objects stay: greedily by the share of their pixels that their own tile keeps.

    One that no other tile sees stays if its own tile keeps at least half of it: else it is the other's to say.
    """
    is_seen = np.zeros(len(share), np.bool_)
    is_seen[links] = True
    stays = ~is_cut & (is_seen | (share >= 0.5))
    links = links[~is_cut[links].any(axis=1)]
    rivals: defaultdict[int, list[int]] = defaultdict(list)
    for i, j in links.tolist():
        rivals[i].append(j)
        rivals[j].append(i)
    contested = np.array(sorted(rivals), np.int64)
    stays[contested] = False
    for i in contested[np.argsort(-share[contested], kind="stable")].tolist():
        stays[i] = not any(stays[j] for j in rivals[i])
    return stays


def _united(links: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """For each of n objects the first of those that links join it to: a union-find."""
    parents = np.arange(n)

    def root(i: int) -> int:
        while parents[i] != i:
            parents[i] = parents[parents[i]]
            i = int(parents[i])
        return i

    for i, j in links.tolist():
        low, high = sorted((root(i), root(j)))
        parents[high] = low
    for i in np.unique(links).tolist():
        parents[i] = root(i)
    return parents


def _means(
    numbers: NDArray[np.int32], found: Sequence[Found], weights: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Score and point of each numbered object: the weighted mean of its parts'."""
    n = int(numbers.max(initial=0)) + 1
    scores = np.concatenate([one.scores for one in found])
    points = np.concatenate([one.points for one in found])
    total = np.maximum(np.bincount(numbers, weights, n), 1)
    columns = [np.bincount(numbers, weights * values, n) / total for values in (scores, *points.T)]
    return columns[0][1:].astype(np.float32), np.stack(columns[1:], axis=1)[1:].astype(np.float32)


def _tables(numbers: NDArray[np.int32], offsets: NDArray[np.int64]) -> list[NDArray[np.int32]]:
    """Per tile: label -> number, 0 -> 0."""
    return [np.concatenate([[0], numbers[begin:end]]).astype(np.int32) for begin, end in itertools.pairwise(offsets)]
