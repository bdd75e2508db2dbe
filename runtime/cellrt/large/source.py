"""Pixels in blocks: anything with shape, dtype and slices -> (C, y, x) or (C, z, y, x) arrays of a window.

Takes numpy arrays and memory maps, zarr and dask arrays, and whatever else gives pixels for slices; knows axes and
channels as `image.as_image` and `as_volume` do. Reads what it is asked for and keeps nothing.
"""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cellrt.errors import CellrtError, ImageError
from cellrt.image import as_image, as_volume, axes_of, volume_axes_of
from cellrt.tile import Span

# Of a tile. Networks take the same time per pixel at every size, and tiles have their halos in common: a quarter of the
# pixels are computed twice at this size, half at a megapixel.
TILE_PIXELS = 2_500_000
_BLOCK_PIXELS = 1 << 20  # of a block of `Source.blocks`, as far as the chunks of the source allow
# Of the fingerprint: so many windows along each axis, of that side; 2^18 pixels for either number of axes.
_SAMPLES = {2: (8, 64), 3: (4, 16)}


class Sliceable(Protocol):
    """What an image is read from."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Sides."""

    @property
    def dtype(self) -> Any:
        """Of the pixels: numpy's, or what `numpy.dtype` understands."""

    def __getitem__(self, index: tuple[slice, ...], /) -> Any:
        """The pixels of a window, as `numpy.asarray` understands them."""


class Source:
    """An image that is read window by window.

    Parameters
    ----------
    pixels : object with shape, dtype and slices
        The image.
    axes : str, optional
        As for `image.as_image`.
    channels : int or sequence of int, optional
        Which channels to take, in order. Default: all.
    n_channels : int or None
        How many channels there must be.
    convert : callable, optional
        What makes the pixels to use of those read, (C, y, x) -> (C', y, x), pixel by pixel.
    n_axes : 2 or 3
        Whether the image is a plane or a volume.

    Attributes
    ----------
    shape : (int, int, int) or (int, int, int, int)
        (C, Y, X) or (C, Z, Y, X) of what `read` gives in all.
    dtype : numpy.dtype
        Of what `read` gives.

    Raises
    ------
    ImageError
        As `image.as_image`, or if the object has no shape, dtype and slices.
    """

    def __init__(
        self,
        pixels: Sliceable,
        *,
        axes: str | None,
        channels: int | Sequence[int] | None,
        n_channels: int | None,
        convert: Callable[[NDArray[Any]], NDArray[Any]] | None = None,
        n_axes: int = 2,
    ) -> None:
        if not all(hasattr(pixels, name) for name in ("shape", "dtype", "__getitem__")):
            raise ImageError(
                f"expected an image with shape, dtype and slices, got {type(pixels).__name__}; pass an array, a memory "
                "map or a zarr array"
            )
        self._pixels, self._convert = pixels, convert
        self._spatial = "ZYX"[-n_axes:]
        self._view = as_image if n_axes == 2 else as_volume
        full = tuple(int(side) for side in pixels.shape)
        stand_in = _stand_in(full, np.dtype(pixels.dtype))
        if n_axes == 2:
            self._letters = axes_of(stand_in, axes, channels, n_channels=n_channels)
        else:
            self._letters = volume_axes_of(stand_in, axes, channels, n_channels=n_channels)
        if np.dtype(pixels.dtype).itemsize > 8:
            raise ImageError(f"expected pixels of up to 64 bits, got {pixels.dtype}; convert the image first")
        stand_in = _stand_in(full, np.dtype(np.uint8))
        _, *sides = self._view(stand_in, self._letters, channels, n_channels=n_channels).shape
        self._n_channels, self._channels, self._planes = n_channels, channels, slice(None)
        if channels is not None and "C" in self._letters:  # of a chunked image, others are not even read
            wanted = np.atleast_1d(np.asarray(channels))
            first = int(wanted.min())
            self._planes, self._channels = slice(first, int(wanted.max()) + 1), (wanted - first).tolist()
        corner = self.read(*((0, 1) for _ in sides))
        self.shape, self.dtype = (len(corner), *sides), corner.dtype

    def read(self, *spans: Span) -> NDArray[Any]:
        """The pixels of a window, (C, y, x) or (C, z, y, x), finite; a span for each axis."""
        slices = {letter: slice(*span) for letter, span in zip(self._spatial, spans, strict=True)}
        slices["C"] = self._planes
        block = np.asarray(self._pixels[tuple(slices.get(letter, slice(None)) for letter in self._letters)])
        pixels = self._view(block, self._letters, self._channels, n_channels=self._n_channels)
        window = tuple(end - begin for begin, end in spans)
        if pixels.shape[1:] != window:
            raise ImageError(f"expected a block of {window} pixels from the source, got {pixels.shape[1:]}; check it")
        if self._convert is not None:
            pixels = self._convert(pixels)
        if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
            names = ("planes", "rows", "columns")[-len(spans) :]
            where = ", ".join(f"{name} {begin} to {end - 1}" for name, (begin, end) in zip(names, spans, strict=True))
            raise ImageError(
                f"expected finite pixels, got NaN or infinity in {where}; replace them first, for example with "
                "numpy.nan_to_num"
            )
        return pixels

    def block_shape(self) -> tuple[int, ...]:
        """Sides of the pieces to read the image in, (y, x) or (z, y, x): whole chunks of the source."""
        sides, chunks = self.shape[1:], chunk_shape(self._pixels)
        if chunks is None:
            block, left = [], _BLOCK_PIXELS
            for side in reversed(sides):
                block.append(max(1, min(side, left)))
                left //= block[-1]
            return tuple(reversed(block))
        *others, width = (chunks[self._letters.index(letter)] for letter in self._spatial)
        more = max(1, min(_BLOCK_PIXELS // (math.prod(others) * width), -(-sides[-1] // width)))
        return (*others, width * more)

    def blocks(self) -> Iterator[tuple[tuple[Span, ...], NDArray[Any]]]:
        """Spans and pixels of blocks that cover the image, each read once, along the source's chunks."""
        for spans in boxes(self.shape[1:], self.block_shape()):
            yield spans, self.read(*spans)

    def fingerprint(self) -> dict[str, Any]:
        """Shape, dtype and a checksum of some of the pixels: what tells one image from another, mostly."""
        checksum = 0
        for spans in itertools.product(*(self._samples(side) for side in self.shape[1:])):
            checksum = zlib.crc32(self.read(*spans).tobytes(), checksum)
        return {"shape": list(self.shape), "dtype": self.dtype.str, "checksum": checksum}

    def _samples(self, side: int) -> list[Span]:
        """Windows along an axis, evenly spread."""
        n, most = _SAMPLES[len(self._spatial)]
        length = min(side, most)
        begins = sorted({(side - length) * i // (n - 1) for i in range(n)})
        return [(begin, begin + length) for begin in begins]


def require_tile_pixels(tile_pixels: int | None, most: int, *, name: str = "tile_pixels") -> int:
    """How many pixels a tile may have: as asked for, or `TILE_PIXELS` as far as the model takes as many."""
    if tile_pixels is None:
        return min(TILE_PIXELS, most)
    if isinstance(tile_pixels, bool) or not isinstance(tile_pixels, (int, np.integer)) or tile_pixels < 1:
        raise CellrtError(f"expected {name} as a whole number of at least 1, got {tile_pixels!r}")
    return int(tile_pixels)


def refuse_tiles(**options: Any) -> None:
    """Refuse options of tiles where a stack goes through the network plane by plane."""
    for name, value in options.items():
        if value is not None:
            raise CellrtError(
                f"expected no {name} with a stitch_threshold, got {value!r}: planes are whole; leave it out"
            )


def boxes(sides: tuple[int, ...], block: tuple[int, ...]) -> Iterator[tuple[Span, ...]]:
    """A span for each axis of the blocks that cover an array, in row-major order; at the far edges they are smaller."""
    begins = (range(0, side, step) for side, step in zip(sides, block, strict=True))
    for corner in itertools.product(*begins):
        yield tuple((at, min(side, at + step)) for at, side, step in zip(corner, sides, block, strict=True))


def chunk_shape(array: Any) -> tuple[int, ...] | None:
    """The sides of the pieces that an array is stored in; None if it does not tell, or they differ."""
    chunks = getattr(array, "shards", None) or getattr(array, "chunks", None)
    if not isinstance(chunks, tuple) or not all(isinstance(side, int) and side > 0 for side in chunks):
        return None
    return chunks


def _stand_in(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """An array of a shape that takes no memory."""
    return np.broadcast_to(np.zeros((), dtype), shape)
