"""The geometry of tiles: integers only, no arrays.

|<------------------- read ------------------->|          All tiles read the same number of pixels. Neighbours
+----------------------------------------------+          overlap by at least twice the halo; each keeps what is
|  halo  |<------------ keep ------------>| halo|          further than the halo from a cut. At the image's own
+----------------------------------------------+          edges nothing is cut, so nothing is dropped there.
"""

from __future__ import annotations

import itertools
import math
import numbers
from dataclasses import dataclass
from typing import TypeVar, cast

from cellrt.errors import CellrtError

Span = tuple[int, int]  # begin, end: half open, in pixels
Sides = TypeVar("Sides", bound=tuple[int, ...])  # a number per axis: (y, x) or (z, y, x)


@dataclass(frozen=True)
class Tile:
    """One call of the network: what it reads of the padded image or volume, and which part of its output counts."""

    reads: tuple[Span, ...]
    """Along each axis: y and x, or z, y and x."""
    keeps: tuple[Span, ...]

    @property
    def read_y(self) -> Span:
        """The rows that it reads."""
        return self.reads[-2]

    @property
    def read_x(self) -> Span:
        """The columns that it reads."""
        return self.reads[-1]

    @property
    def keep_y(self) -> Span:
        """The rows that it keeps."""
        return self.keeps[-2]

    @property
    def keep_x(self) -> Span:
        """The columns that it keeps."""
        return self.keeps[-1]

    @property
    def origin(self) -> tuple[int, ...]:
        """The pixel of the padded image at which it begins."""
        return tuple(begin for begin, _ in self.reads)

    @property
    def shape(self) -> tuple[int, ...]:
        """The sides of what it reads."""
        return tuple(end - begin for begin, end in self.reads)

    def window(self, grid: tuple[int, ...]) -> tuple[int, ...]:
        """What it keeps, begin and end of each axis in turn, in samples of its own maps: `grid` pixels each."""
        axes = zip(self.keeps, self.origin, grid, strict=True)
        return tuple((edge - first) // step for span, first, step in axes for edge in span)


def padded(shape: Sides, multiple: Sides) -> Sides:
    """The smallest legal input that holds an image of `shape`."""
    return cast(Sides, tuple(-(-side // step) * step for side, step in zip(shape, multiple, strict=True)))


def plan(
    shape: tuple[int, ...],
    *,
    halo: tuple[int, ...],
    multiple: tuple[int, ...],
    max_pixels: int,
    tiles: tuple[int, ...] | None = None,
) -> tuple[Tile, ...]:
    """Cover an image or a volume with tiles in row-major order, every pixel kept once.

    Parameters
    ----------
    shape : (int, int) or (int, int, int)
        The padded image, multiples of `multiple`.
    halo : (int, int) or (int, int, int)
        How far a cut spoils the output; rounded up to `multiple`.
    multiple : (int, int) or (int, int, int)
        Reads begin and end at multiples of this.
    max_pixels : int
        Most pixels that a tile may read, as far as the halo allows; of a volume with a wide halo, up to three halos
        along each axis. Of the divisions that respect it, the one that computes the fewest pixels in all is taken.
    tiles : (int, int) or (int, int, int), optional
        How many tiles along each axis, instead; fewer are used where the halo leaves no room for as many.
    """
    halo = padded(halo, multiple)
    counts = checked(tiles, len(shape))
    if counts is None:
        if len(shape) == 3:  # of less a tile keeps next to nothing, and there would be millions
            least = (min(side, max(3 * width, step)) for side, width, step in zip(shape, halo, multiple, strict=True))
            max_pixels = max(max_pixels, math.prod(least))
        counts = _best_counts(shape, halo, multiple, max_pixels)
    axes = (_axis(*axis) for axis in zip(shape, halo, multiple, counts, strict=True))
    return tuple(
        Tile(tuple(read for read, _ in spans), tuple(keep for _, keep in spans)) for spans in itertools.product(*axes)
    )


def checked(tiles: object, n_axes: int) -> tuple[int, ...] | None:
    """Numbers of tiles as `plan` takes them, or an error."""
    if tiles is None:
        return None
    given = tuple(tiles) if isinstance(tiles, (tuple, list)) else ()
    counts = tuple(int(count) for count in given if isinstance(count, numbers.Integral) and int(count) >= 1)
    if not len(counts) == len(given) == n_axes:
        wanted = "two whole numbers (y, x)" if n_axes == 2 else "three whole numbers (z, y, x)"
        raise CellrtError(f"expected tiles as {wanted}, at least 1 each, got {tiles!r}")
    return counts


def _best_counts(
    shape: tuple[int, ...], halo: tuple[int, ...], multiple: tuple[int, ...], max_pixels: int
) -> tuple[int, ...]:
    """The numbers of tiles along each axis that compute the fewest pixels within `max_pixels` a tile."""
    side, most = shape[0], max(1, shape[0] // multiple[0])
    if len(shape) == 1:
        fitting = (n for n in range(1, most) if _read_size(side, halo[0], multiple[0], n) <= max_pixels)
        return (next(fitting, most),)
    best, best_cost = (1,) * len(shape), (True, math.prod(shape) + 1)
    for n in range(1, most + 1):
        length = _read_size(side, halo[0], multiple[0], n)
        if len(shape) == 3 and not best_cost[0] and n * length * math.prod(shape[1:]) >= best_cost[1]:
            continue  # the slabs alone overlap by more
        others = _best_counts(shape[1:], halo[1:], multiple[1:], max_pixels // length)
        pixels = length * math.prod(map(_read_size, shape[1:], halo[1:], multiple[1:], others))
        too_large = pixels > max_pixels
        cost = (too_large, pixels if too_large else n * math.prod(others) * pixels)
        if cost < best_cost:
            best, best_cost = (n, *others), cost
        if math.prod(others) == 1 and not too_large:
            break  # more than this along the first axis only add overlap
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
