"""Polygons -> the labels of a window, with work that grows with the polygons there and not with all of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cellrt import kernels
from cellrt.tile import Span


class PolygonPainter:
    """Star-convex polygons, ready to be painted block by block: pixel for pixel what painting them at once gives.

    Parameters
    ----------
    coords : float32 (n, n_rays, 2)
        Vertices (y, x) in pixels.
    order : int64 (n,)
        Later is painted over earlier; polygon i gets the label i + 1.
    shape : (int, int)
        The image, (Y, X).
    block : (int, int)
        Sides of the blocks that will be asked for, in row-major order; larger ones cost memory, others time.
    threads : int
        0: all usable cores.
    """

    def __init__(
        self,
        coords: NDArray[np.float32],
        order: NDArray[np.int64],
        *,
        shape: tuple[int, int],
        block: tuple[int, int],
        threads: int,
    ) -> None:
        self._coords, self._threads, self._block, self._width = coords, threads, block, shape[1]
        # The pixels that a polygon can touch, along y and x.
        self._low = np.floor(self._coords.min(axis=1, initial=np.inf)).astype(np.int64)
        self._high = np.ceil(self._coords.max(axis=1, initial=-np.inf)).astype(np.int64) + 1
        self._members, self._starts = _buckets(order, self._low[order, 0], self._high[order, 0], block[0], shape[0])
        self._row = -1  # the row of blocks whose columns are known
        self._row_members, self._row_starts = self._members, self._starts

    def __call__(self, rows: Span, columns: Span) -> NDArray[np.int32]:
        """The labels of a block, int32 (y, x)."""
        row, column = rows[0] // self._block[0], columns[0] // self._block[1]
        if row != self._row:
            inside = self._members[self._starts[row] : self._starts[row + 1]]
            low, high = self._low[inside, 1], self._high[inside, 1]
            self._row_members, self._row_starts = _buckets(inside, low, high, self._block[1], self._width)
            self._row = row
        polygons = self._row_members[self._row_starts[column] : self._row_starts[column + 1]]
        if not len(polygons):
            return np.zeros((rows[1] - rows[0], columns[1] - columns[0]), np.int32)
        # The kernel paints from (0, 0). A vertex moves there without rounding if it is no less than half the distance:
        # else the picture begins earlier. Only polygons that large, or at the image's begin, ask for that.
        begins = zip((rows[0], columns[0]), self._least(polygons), strict=True)
        origin = [begin if 2 * low >= begin else low for begin, low in begins]
        moved = self._coords[polygons] - np.array(origin, np.float32)
        n, n_rays, _ = moved.shape
        labels = kernels.paint_polygons_2d(
            moved.reshape(-1, 2),
            np.arange(n + 1, dtype=np.int64) * n_rays,
            np.arange(n, dtype=np.int64),
            shape=(rows[1] - origin[0], columns[1] - origin[1]),
            threads=self._threads,
        )
        names = np.zeros(n + 1, np.int32)
        names[1:] = polygons + 1
        painted: NDArray[np.int32] = names[labels[rows[0] - origin[0] :, columns[0] - origin[1] :]]
        return painted

    def _least(self, polygons: NDArray[np.int64]) -> tuple[int, int]:
        """The first row and column inside the image that the polygons can touch."""
        y, x = np.maximum(self._low[polygons].min(axis=0), 0).tolist()
        return y, x


def _buckets(
    polygons: NDArray[np.int64], low: NDArray[np.int64], high: NDArray[np.int64], side: int, length: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which polygons touch each piece of `side` pixels along an axis, in their order; as members and starts."""
    n_pieces = -(-length // side)
    first = np.clip(low // side, 0, n_pieces)
    last = np.clip(-(-high // side), 0, n_pieces)
    counts = np.maximum(last - first, 0)
    places = np.repeat(np.arange(len(polygons)), counts)
    before = np.cumsum(counts) - counts
    pieces = np.arange(len(places)) - before[places] + first[places]
    sorted_places = np.argsort(pieces, kind="stable")
    starts = np.searchsorted(pieces[sorted_places], np.arange(n_pieces + 1))
    return polygons[places[sorted_places]], starts
