"""Tile outputs -> whole maps. Knows which part of a tile counts, or how much; never what the maps mean."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cellrt.tile import Span, Tile


def place(whole: NDArray[np.float32], maps: NDArray[np.float32], tile: Tile, grid: tuple[int, ...]) -> None:
    """Write the part of a tile's maps that counts to its place.

    Parameters
    ----------
    whole : float32 (C, Y / grid[0], X / grid[1]) or (C, Z / grid[0], Y / grid[1], X / grid[2])
        Maps of the whole padded image or volume; written to.
    maps : float32 (C, y / grid[0], x / grid[1]) or (C, z / grid[0], y / grid[1], x / grid[2])
        Maps of what the tile read.
    tile : Tile
        Spans in pixels, multiples of `grid`.
    grid : (int, int) or (int, int, int)
        Pixels per sample of the maps.
    """
    window = tile.window(grid)
    spans = list(zip(window[::2], window[1::2], strict=True))
    first = [origin // step for origin, step in zip(tile.origin, grid, strict=True)]
    there = [slice(at + begin, at + end) for at, (begin, end) in zip(first, spans, strict=True)]
    whole[(slice(None), *there)] = maps[(slice(None), *(slice(*span) for span in spans))]


class Blend:
    """The weighted mean of overlapping tiles, as Cellpose's `average_tiles` takes it: weights fall towards their edges.

    Parameters
    ----------
    n_maps : int
    rows, columns : sequence of (begin, end)
        What each row and each column of tiles covers; together they cover the whole.
    """

    def __init__(self, n_maps: int, rows: Sequence[Span], columns: Sequence[Span]) -> None:
        self._sum = np.zeros((n_maps, rows[-1][1], columns[-1][1]), np.float32)
        # Tiles form a grid, so the weights of all at a pixel add up to the product of what its row and its column have.
        self._weights = [np.zeros(side) for side in self._sum.shape[1:]]
        for weights, spans in zip(self._weights, (rows, columns), strict=True):
            for begin, end in spans:
                weights[begin:end] += _taper(end - begin)

    def add(self, maps: NDArray[np.float32], row: Span, column: Span) -> None:
        """Add the maps (C, y, x) of one tile."""
        weights = _taper(row[1] - row[0])[:, None] * _taper(column[1] - column[0])
        self._sum[:, slice(*row), slice(*column)] += maps * weights

    def finish(self) -> NDArray[np.float32]:
        """The mean, float32 (C, Y, X)."""
        self._sum /= self._weights[0][:, None] * self._weights[1]
        return self._sum


@functools.lru_cache(maxsize=64)
def _taper(side: int) -> NDArray[np.float64]:
    """How much each pixel of a tile counts along an axis: a logistic function, half 20 pixels from the edge.

    A tile of fewer than 224 pixels has the middle of the weights of one of 224, as upstream has it.
    """
    full = max(224, side)
    distance = np.abs(np.arange(full) - (full - 1) / 2)
    weights: NDArray[np.float64] = 1 / (1 + np.exp((distance - (full / 2 - 20)) / 7.5))
    begin = full // 2 - side // 2
    return weights[begin : begin + side]
