"""Pixels in blocks: anything with shape, dtype and slices -> (C, y, x) arrays of a window.

Takes numpy arrays and memory maps, zarr and dask arrays, and whatever else gives pixels for slices; knows axes and
channels as `image.as_image` does. Reads what it is asked for and keeps nothing.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cellrt.errors import CellrtError, ImageError
from cellrt.image import as_image, axes_of
from cellrt.tile import Span

# Of a tile. Networks take the same time per pixel at every size, and tiles have their halos in common: a quarter of the
# pixels are computed twice at this size, half at a megapixel.
TILE_PIXELS = 2_500_000
_BLOCK_PIXELS = 1 << 20  # of a block of `Source.blocks`, as far as the chunks of the source allow
_SAMPLES, _SAMPLE_SIDE = 8, 64  # of the fingerprint: so many windows along each axis, of that side


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

    Attributes
    ----------
    shape : (int, int, int)
        (C, Y, X) of what `read` gives in all.
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
    ) -> None:
        if not all(hasattr(pixels, name) for name in ("shape", "dtype", "__getitem__")):
            raise ImageError(
                f"expected an image with shape, dtype and slices, got {type(pixels).__name__}; pass an array, a memory "
                "map or a zarr array"
            )
        self._pixels, self._convert = pixels, convert
        full = tuple(int(side) for side in pixels.shape)
        self._letters = axes_of(_stand_in(full, np.dtype(pixels.dtype)), axes, channels, n_channels=n_channels)
        if np.dtype(pixels.dtype).itemsize > 8:
            raise ImageError(f"expected pixels of up to 64 bits, got {pixels.dtype}; convert the image first")
        _, n_y, n_x = as_image(
            _stand_in(full, np.dtype(np.uint8)), self._letters, channels, n_channels=n_channels
        ).shape
        self._n_channels, self._channels, self._planes = n_channels, channels, slice(None)
        if channels is not None and "C" in self._letters:  # of a chunked image, others are not even read
            wanted = np.atleast_1d(np.asarray(channels))
            first = int(wanted.min())
            self._planes, self._channels = slice(first, int(wanted.max()) + 1), (wanted - first).tolist()
        corner = self.read((0, 1), (0, 1))
        self.shape, self.dtype = (len(corner), n_y, n_x), corner.dtype

    def read(self, rows: Span, columns: Span) -> NDArray[Any]:
        """The pixels of a window, (C, y, x), finite."""
        slices = {"Y": slice(*rows), "X": slice(*columns), "C": self._planes}
        block = np.asarray(self._pixels[tuple(slices.get(letter, slice(None)) for letter in self._letters)])
        pixels = as_image(block, self._letters, self._channels, n_channels=self._n_channels)
        window = (rows[1] - rows[0], columns[1] - columns[0])
        if pixels.shape[1:] != window:
            raise ImageError(f"expected a block of {window} pixels from the source, got {pixels.shape[1:]}; check it")
        if self._convert is not None:
            pixels = self._convert(pixels)
        if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
            raise ImageError(
                f"expected finite pixels, got NaN or infinity in rows {rows[0]} to {rows[1] - 1}, columns {columns[0]} "
                f"to {columns[1] - 1}; replace them first, for example with numpy.nan_to_num"
            )
        return pixels

    def blocks(self) -> Iterator[tuple[Span, Span, NDArray[Any]]]:
        """Rows, columns and pixels of blocks that cover the image, each read once, along the source's chunks."""
        _, n_y, n_x = self.shape
        height, width = self._block_shape()
        for y in range(0, n_y, height):
            for x in range(0, n_x, width):
                rows, columns = (y, min(n_y, y + height)), (x, min(n_x, x + width))
                yield rows, columns, self.read(rows, columns)

    def fingerprint(self) -> dict[str, Any]:
        """Shape, dtype and a checksum of some of the pixels: what tells one image from another, mostly."""
        checksum = 0
        for y in self._samples(self.shape[1]):
            for x in self._samples(self.shape[2]):
                checksum = zlib.crc32(self.read(y, x).tobytes(), checksum)
        return {"shape": list(self.shape), "dtype": self.dtype.str, "checksum": checksum}

    def _samples(self, side: int) -> list[Span]:
        """Windows along an axis, evenly spread."""
        length = min(side, _SAMPLE_SIDE)
        begins = sorted({(side - length) * i // (_SAMPLES - 1) for i in range(_SAMPLES)})
        return [(begin, begin + length) for begin in begins]

    def _block_shape(self) -> tuple[int, int]:
        """Sides (y, x) of the blocks."""
        n_x = self.shape[2]
        chunks = chunk_shape(self._pixels)
        if chunks is None:
            width = min(n_x, _BLOCK_PIXELS)
            return max(1, _BLOCK_PIXELS // width), width
        height, width = chunks[self._letters.index("Y")], chunks[self._letters.index("X")]
        more = max(1, min(_BLOCK_PIXELS // (height * width), -(-n_x // width)))
        return height, width * more


def require_tile_pixels(tile_pixels: int | None, most: int) -> int:
    """How many pixels a tile may have: as asked for, or `TILE_PIXELS` as far as the model takes as many."""
    if tile_pixels is None:
        return min(TILE_PIXELS, most)
    if isinstance(tile_pixels, bool) or not isinstance(tile_pixels, (int, np.integer)) or tile_pixels < 1:
        raise CellrtError(f"expected tile_pixels as a whole number of at least 1, got {tile_pixels!r}")
    return int(tile_pixels)


def chunk_shape(array: Any) -> tuple[int, ...] | None:
    """The sides of the pieces that an array is stored in; None if it does not tell, or they differ."""
    chunks = getattr(array, "shards", None) or getattr(array, "chunks", None)
    if not isinstance(chunks, tuple) or not all(isinstance(side, int) and side > 0 for side in chunks):
        return None
    return chunks


def _stand_in(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """An array of a shape that takes no memory."""
    return np.broadcast_to(np.zeros((), dtype), shape)
