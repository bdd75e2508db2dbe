"""The geometry of tiles: integers only, no arrays.

|<------------------- read ------------------->|          All tiles read the same number of pixels. Neighbours
+----------------------------------------------+          overlap by at least twice the halo; each keeps what is
|  halo  |<------------ keep ------------>| halo|          further than the halo from a cut. At the image's own
+----------------------------------------------+          edges nothing is cut, so nothing is dropped there.
"""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass
from typing import TypeVar, cast

from cellrt.errors import CellrtError

Span = tuple[int, int]  # begin, end: half open, in pixels
Sides = TypeVar("Sides", tuple[int, int], tuple[int, int, int])  # a number per axis: (y, x) or (z, y, x)
Window = tuple[int, int, int, int]  # y_begin, y_end, x_begin, x_end: half open, in samples of a map
Window3D = tuple[int, int, int, int, int, int]  # the same with z_begin, z_end before


@dataclass(frozen=True)
class Tile:
    """One call of the network: what it reads of the padded image, and which part of its output counts."""

    read_y: Span
    read_x: Span
    keep_y: Span
    keep_x: Span

    @property
    def origin(self) -> tuple[int, int]:
        """The pixel (y, x) of the padded image at which the tile begins."""
        return (self.read_y[0], self.read_x[0])

    @property
    def shape(self) -> tuple[int, int]:
        """The sides (y, x) of what it reads."""
        return self.read_y[1] - self.read_y[0], self.read_x[1] - self.read_x[0]

    @property
    def reads(self) -> tuple[Span, ...]:
        """What it reads, axis by axis."""
        return self.read_y, self.read_x

    @property
    def keeps(self) -> tuple[Span, ...]:
        """What it keeps, axis by axis."""
        return self.keep_y, self.keep_x

    def window(self, grid: tuple[int, int]) -> Window:
        """What the tile keeps, in samples of its own maps; `grid` is the pixels per sample (y, x)."""
        (top, left), (gy, gx) = self.origin, grid
        return (
            (self.keep_y[0] - top) // gy,
            (self.keep_y[1] - top) // gy,
            (self.keep_x[0] - left) // gx,
            (self.keep_x[1] - left) // gx,
        )


@dataclass(frozen=True)
class Tile3D:
    """The same of a volume."""

    read_z: Span
    read_y: Span
    read_x: Span
    keep_z: Span
    keep_y: Span
    keep_x: Span

    @property
    def origin(self) -> tuple[int, int, int]:
        """The voxel (z, y, x) of the padded volume at which the tile begins."""
        return (self.read_z[0], self.read_y[0], self.read_x[0])

    @property
    def shape(self) -> tuple[int, int, int]:
        """The sides (z, y, x) of what it reads."""
        depth, height, width = (end - begin for begin, end in self.reads)
        return depth, height, width

    @property
    def reads(self) -> tuple[Span, ...]:
        """What it reads, axis by axis."""
        return self.read_z, self.read_y, self.read_x

    @property
    def keeps(self) -> tuple[Span, ...]:
        """What it keeps, axis by axis."""
        return self.keep_z, self.keep_y, self.keep_x

    def window(self, grid: tuple[int, int, int]) -> Window3D:
        """What the tile keeps, in samples of its own maps; `grid` is the voxels per sample (z, y, x)."""
        (z0, z1), (y0, y1), (x0, x1) = (
            ((begin - origin) // g, (end - origin) // g)
            for (begin, end), origin, g in zip((self.keep_z, self.keep_y, self.keep_x), self.origin, grid, strict=True)
        )
        return z0, z1, y0, y1, x0, x1


def padded(shape: Sides, multiple: Sides) -> Sides:
    """The smallest legal input that holds an image of `shape`."""
    return cast(Sides, tuple(-(-side // step) * step for side, step in zip(shape, multiple, strict=True)))


def plan(
    shape: tuple[int, int],
    *,
    halo: tuple[int, int],
    multiple: tuple[int, int],
    max_pixels: int,
    tiles: tuple[int, int] | None = None,
) -> tuple[Tile, ...]:
    """Cover an image with tiles in row-major order, every pixel kept once.

    Parameters
    ----------
    shape : (int, int)
        The padded image, multiples of `multiple`.
    halo : (int, int)
        How far a cut spoils the output; rounded up to `multiple`.
    multiple : (int, int)
        Reads begin and end at multiples of this.
    max_pixels : int
        Most pixels that a tile may read, as far as the halo allows. Of the divisions that respect it, the one that
        computes the fewest pixels in all is taken.
    tiles : (int, int), optional
        How many tiles along y and x, instead; fewer are used where the halo leaves no room for as many.
    """
    halo = padded(halo, multiple)
    counts = checked(tiles)
    if counts is None:
        counts = _best_counts(shape, halo, multiple, max_pixels)
    rows, columns = (_axis(*axis) for axis in zip(shape, halo, multiple, counts, strict=True))
    return tuple(Tile(ry, rx, ky, kx) for ry, ky in rows for rx, kx in columns)


def plan_3d(
    shape: tuple[int, int, int],
    *,
    halo: tuple[int, int, int],
    multiple: tuple[int, int, int],
    max_voxels: int,
    tiles: tuple[int, int, int] | None = None,
) -> tuple[Tile3D, ...]:
    """Cover a volume with tiles, as `plan` does an image: in the order of z, y, x.

    Where the halo is wide, tiles read more than `max_voxels`: up to three halos along each axis.
    """
    halo = padded(halo, multiple)
    counts = checked_3d(tiles)
    if counts is None:
        # of less a tile keeps next to nothing, and there would be millions
        least = (min(side, max(3 * width, step)) for side, width, step in zip(shape, halo, multiple, strict=True))
        max_voxels = max(max_voxels, math.prod(least))
        counts = _best_counts_3d(shape, halo, multiple, max_voxels)
    slabs, rows, columns = (_axis(*axis) for axis in zip(shape, halo, multiple, counts, strict=True))
    return tuple(Tile3D(rz, ry, rx, kz, ky, kx) for rz, kz in slabs for ry, ky in rows for rx, kx in columns)


def checked(tiles: object) -> tuple[int, int] | None:
    """Numbers of tiles (y, x) as `plan` takes them, or an error."""
    counts = _counts(tiles, 2)
    if tiles is not None and counts is None:
        raise CellrtError(f"expected tiles as two whole numbers (y, x), at least 1 each, got {tiles!r}")
    return None if counts is None else (counts[0], counts[1])


def checked_3d(tiles: object) -> tuple[int, int, int] | None:
    """Numbers of tiles (z, y, x) as `plan_3d` takes them, or an error."""
    counts = _counts(tiles, 3)
    if tiles is not None and counts is None:
        raise CellrtError(f"expected tiles as three whole numbers (z, y, x), at least 1 each, got {tiles!r}")
    return None if counts is None else (counts[0], counts[1], counts[2])


def _counts(tiles: object, n_axes: int) -> list[int] | None:
    """As many whole numbers of at least 1 as there are axes; None for anything else."""
    if not isinstance(tiles, (tuple, list)) or len(tiles) != n_axes:
        return None
    counts = [int(count) for count in tiles if isinstance(count, numbers.Integral)]
    return counts if len(counts) == n_axes and min(counts) >= 1 else None


def _best_counts(
    shape: tuple[int, int], halo: tuple[int, int], multiple: tuple[int, int], max_pixels: int
) -> tuple[int, int]:
    """The numbers of tiles along y and x that compute the fewest pixels within `max_pixels` a tile."""
    most_y, most_x = (max(1, side // step) for side, step in zip(shape, multiple, strict=True))
    best, best_cost = (1, 1), (True, shape[0] * shape[1] + 1)
    for n_y in range(1, most_y + 1):
        height = _read_size(shape[0], halo[0], multiple[0], n_y)
        n_x, width = 1, shape[1]
        while height * width > max_pixels and n_x < most_x:
            n_x += 1
            width = _read_size(shape[1], halo[1], multiple[1], n_x)
        too_large = height * width > max_pixels
        cost = (too_large, height * width if too_large else n_y * height * n_x * width)
        if cost < best_cost:
            best, best_cost = (n_y, n_x), cost
        if n_x == 1 and not too_large:
            break  # more rows than this only add overlap
    return best


def _best_counts_3d(
    shape: tuple[int, int, int], halo: tuple[int, int, int], multiple: tuple[int, int, int], max_voxels: int
) -> tuple[int, int, int]:
    """The numbers of tiles along z, y and x that compute the fewest voxels within `max_voxels` a tile."""
    best, best_cost = (1, 1, 1), (True, math.prod(shape) + 1)
    for n_z in range(1, max(1, shape[0] // multiple[0]) + 1):
        depth = _read_size(shape[0], halo[0], multiple[0], n_z)
        if not best_cost[0] and n_z * depth * shape[1] * shape[2] >= best_cost[1]:
            continue  # the slabs alone overlap by more
        n_y, n_x = _best_counts(shape[1:], halo[1:], multiple[1:], max_voxels // depth)
        height = _read_size(shape[1], halo[1], multiple[1], n_y)
        width = _read_size(shape[2], halo[2], multiple[2], n_x)
        voxels = depth * height * width
        too_large = voxels > max_voxels
        cost = (too_large, voxels if too_large else n_z * n_y * n_x * voxels)
        if cost < best_cost:
            best, best_cost = (n_z, n_y, n_x), cost
        if n_y == n_x == 1 and not too_large:
            break  # more slabs than this only add overlap
    return best


def _read_size(side: int, halo: int, multiple: int, n: int) -> int:
    """What each of n tiles along an axis reads."""
    if n == 1:
        return side
    read = -(-(side + 2 * halo * (n - 1)) // n)
    return min(side, -(-read // multiple) * multiple)


def _axis(side: int, halo: int, multiple: int, n: int) -> list[tuple[Span, Span]]:
    """Read and keep spans along one axis."""
    read = _read_size(side, halo, multiple, n)
    stride = read - 2 * halo
    spans: list[tuple[Span, Span]] = []
    begin = keep = 0
    while begin + read < side:
        keep_end = begin + read - halo
        spans.append(((begin, begin + read), (keep, keep_end)))
        keep = keep_end
        begin = min(begin + stride, side - read)
    spans.append(((begin, begin + read), (keep, side)))
    return spans


def cellpose_padding(side: int, *, smallest: int) -> tuple[int, int]:
    """Zeros before and after a side, as Cellpose's `get_pad_yx` has them.

    To a multiple of 16, and 8 more on either end; a side below `smallest`, for networks of one size: to just that.
    """
    pad = -side % 16 if side >= smallest else max(0, smallest - side - 16)
    return 8 + pad // 2, 8 + pad - pad // 2


def overlapping(shape: tuple[int, int], *, side: int, overlap: float) -> tuple[list[Span], list[Span]]:
    """Cellpose's tiles: what each row and each column of tiles reads, evenly spread, all of one size.

    Parameters
    ----------
    shape : (int, int)
        The padded image.
    side : int
        Largest side of a tile.
    overlap : float
        Share of a tile that neighbours have in common at least, 0.05 to 0.5.
    """
    rows, columns = (
        _spread(length, min(side, length), 1 if length <= side else math.ceil((1 + 2 * overlap) * length / side))
        for length in shape
    )
    return rows, columns


def halving(shape: tuple[int, int], *, side: int) -> tuple[list[Span], list[Span]]:
    """Cellpose's tiles for test-time augmentation: each overlaps its neighbours by half, two of them at least."""
    rows, columns = (_spread(length, side, max(2, math.ceil(2 * length / side))) for length in shape)
    return rows, columns


def largest(
    shape: tuple[int, int], *, multiple: tuple[int, int], overlap: int, max_pixels: int
) -> tuple[list[Span], list[Span]]:
    """The whole image as one tile, or as few as read at most `max_pixels` each and have `overlap` pixels in common."""
    tiles = plan(shape, halo=(overlap // 2, overlap // 2), multiple=multiple, max_pixels=max_pixels)
    return sorted({tile.read_y for tile in tiles}), sorted({tile.read_x for tile in tiles})


def _spread(length: int, side: int, n: int) -> list[Span]:
    """n spans of `side` from 0 to `length`, begun at even distances that are truncated."""
    last = length - side
    begins = [int(i * (last / (n - 1))) for i in range(n - 1)] + [last if n > 1 else 0]
    return [(begin, begin + side) for begin in begins]
