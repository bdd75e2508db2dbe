"""Tile outputs -> whole maps. Knows which part of a tile counts; never what the maps mean."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cellrt.tile import Tile


def place(whole: NDArray[np.float32], maps: NDArray[np.float32], tile: Tile, grid: tuple[int, int]) -> None:
    """Write the part of a tile's maps that counts to its place.

    Parameters
    ----------
    whole : float32 (C, Y / grid[0], X / grid[1])
        Maps of the whole padded image; written to.
    maps : float32 (C, y / grid[0], x / grid[1])
        Maps of what the tile read.
    tile : Tile
        Spans in pixels, multiples of `grid`.
    grid : (int, int)
        Pixels per sample of the maps.
    """
    y_begin, y_end, x_begin, x_end = tile.window(grid)
    top, left = (origin // g for origin, g in zip(tile.origin, grid, strict=True))
    whole[:, top + y_begin : top + y_end, left + x_begin : left + x_end] = maps[:, y_begin:y_end, x_begin:x_end]
