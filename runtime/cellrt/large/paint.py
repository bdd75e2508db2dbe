"""Polygons or polyhedra -> the labels of a window, with work that grows with those there and not with all of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from cellrt import kernels
from cellrt.heads.star_3d import Painting, paint
from cellrt.instances import Polyhedra
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
        shape: tuple[int, ...],
        block: tuple[int, ...],
        threads: int,
    ) -> None:
        self._coords, self._threads = coords, threads
        # The pixels that a polygon can touch, along y and x.
        self._low = np.floor(self._coords.min(axis=1, initial=np.inf)).astype(np.int64)
        high = np.ceil(self._coords.max(axis=1, initial=-np.inf)).astype(np.int64) + 1
        self._near = _Near(order, self._low, high, shape=shape, block=block)

    def __call__(self, rows: Span, columns: Span) -> NDArray[np.int32]:
        """The labels of a block, int32 (y, x)."""
        polygons = self._near(rows, columns)
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


class PolyhedronPainter:
    """Star-convex bodies, ready to be painted block by block: voxel for voxel what painting them at once gives.

    Parameters
    ----------
    bodies : Polyhedra
        In descending order of probability; body i gets the label i + 1.
    points : float64 (n, 3)
        Where they are, (z, y, x) in voxels.
    painting : Painting
        How they become labels.
    shape : (int, int, int)
        The volume, (Z, Y, X).
    block : (int, int, int)
        Sides of the blocks that will be asked for, in row-major order.
    threads : int
        0: all usable cores.
    """

    def __init__(
        self,
        bodies: Polyhedra,
        points: NDArray[np.float64],
        painting: Painting,
        *,
        shape: tuple[int, ...],
        block: tuple[int, ...],
        threads: int,
    ) -> None:
        self._bodies, self._points, self._threads = bodies, points, threads
        # Whatever else voxels of several bodies are to become, -1 is no body's number in a block. (0 says that the next
        # body may have them.)
        self._overlap_label = painting.overlap_label or 0
        self._painting = replace(painting, overlap_label=-1) if self._overlap_label else painting
        # The voxels that a body can touch; one more on either side for what rounds.
        least, most = extents(bodies.dist, bodies.rays)
        low, high = np.floor(points + least).astype(np.int64) - 1, np.ceil(points + most).astype(np.int64) + 2
        self._near = _Near(np.arange(len(bodies)), low, high, shape=shape, block=block)

    def __call__(self, *spans: Span) -> NDArray[np.int32]:
        """The labels of a block, int32 (z, y, x)."""
        inside = self._near(*spans)
        (origin_z, origin_y, origin_x), (n_z, n_y, n_x) = zip(
            *((begin, end - begin) for begin, end in spans), strict=True
        )
        if not len(inside):
            return np.zeros((n_z, n_y, n_x), np.int32)
        labels = paint(
            Polyhedra(self._bodies.dist[inside], self._bodies.rays, self._bodies.faces),
            self._points[inside],
            self._painting,
            origin=(origin_z, origin_y, origin_x),
            shape=(n_z, n_y, n_x),
            threads=self._threads,
        )
        names = np.zeros(len(inside) + 2, np.int32)
        names[1:-1], names[-1] = inside + 1, self._overlap_label
        painted: NDArray[np.int32] = names[labels]  # -1 is the last one
        return painted


def extents(dist: NDArray[np.float32], rays: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The least and the largest coordinates of polygons' or polyhedra's vertices around their points.

    Parameters
    ----------
    dist : float32 (n, n_rays)
    rays : float32 (n_rays, n_axes)

    Returns
    -------
    low, high : float32 (n, n_axes)
    """
    low, high = (np.empty((len(dist), rays.shape[1]), np.float32) for _ in range(2))
    for axis, direction in enumerate(rays.T):
        along = dist * direction
        low[:, axis], high[:, axis] = along.min(axis=1, initial=0), along.max(axis=1, initial=0)
    return low, high


class _Near:
    """Which objects can touch a block, in their order; asked for blocks in row-major order.

    Objects are sorted into layers of blocks along the first axis; those of a layer, when it is asked for, along the
    second, and so on.
    """

    def __init__(
        self,
        order: NDArray[np.int64],
        low: NDArray[np.int64],
        high: NDArray[np.int64],
        *,
        shape: tuple[int, ...],
        block: tuple[int, ...],
    ) -> None:
        self._low, self._high, self._shape, self._block = low, high, shape, block
        self._at = [-1] * len(shape)  # the block along each axis that was asked for last
        self._inside = [order] * (len(shape) + 1)  # objects in it; before the first axis all
        self._sorted = [self._along(0)] * len(shape)  # along the others once a layer is known

    def __call__(self, *spans: Span) -> NDArray[np.int64]:
        """The objects that can touch a block."""
        changed = False
        for axis, (begin, _) in enumerate(spans):
            at = begin // self._block[axis]
            if changed:
                self._sorted[axis] = self._along(axis)
            if changed or at != self._at[axis]:
                members, starts = self._sorted[axis]
                self._inside[axis + 1] = members[starts[at] : starts[at + 1]]
                self._at[axis], changed = at, True
        return self._inside[-1]

    def _along(self, axis: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The objects of the layers before an axis, sorted into blocks along it."""
        inside = self._inside[axis]
        low, high = self._low[inside, axis], self._high[inside, axis]
        return _buckets(inside, low, high, self._block[axis], self._shape[axis])


def _buckets(
    objects: NDArray[np.int64], low: NDArray[np.int64], high: NDArray[np.int64], side: int, length: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which objects touch each piece of `side` pixels along an axis, in their order; as members and starts."""
    n_pieces = -(-length // side)
    first = np.clip(low // side, 0, n_pieces)
    last = np.clip(-(-high // side), 0, n_pieces)
    counts = np.maximum(last - first, 0)
    places = np.repeat(np.arange(len(objects)), counts)
    before = np.cumsum(counts) - counts
    pieces = np.arange(len(places)) - before[places] + first[places]
    sorted_places = np.argsort(pieces, kind="stable")
    starts = np.searchsorted(pieces[sorted_places], np.arange(n_pieces + 1))
    return objects[places[sorted_places]], starts
