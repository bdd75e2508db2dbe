"""Volumes in files: windows of any shape are read and written in few pieces.

A file holds bricks of 16 x 16 x 16 voxels, each with all of its channels, so that planes across any axis are as near at
hand as blocks are. What was never written is 0 and, where the file system can, takes no space. Knows nothing of what
the numbers mean.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from cellrt.errors import FileError
from cellrt.tile import Span

SIDE = 16  # of a brick, in voxels

Triple = tuple[int, int, int]


class Bricks:
    """A volume (C, Z, Y, X) in a file.

    One thread uses it at a time. `FileError` from any method if the file cannot be read or written, as when the disk is
    full.

    Parameters
    ----------
    path : Path
    n_channels : int
    shape : (int, int, int)
        Sides (z, y, x) in voxels.
    dtype : numpy.dtype
    keep : bool
        Open the file that is there; else it becomes one of zeros.
    """

    def __init__(self, path: Path, n_channels: int, shape: Triple, dtype: DTypeLike, *, keep: bool = False) -> None:
        self.path, self.n_channels, self.shape = path, n_channels, shape
        self._dtype = np.dtype(dtype)
        self._grid = tuple(-(-side // SIDE) for side in shape)
        self._brick_bytes = n_channels * SIDE**3 * self._dtype.itemsize
        n_bytes = math.prod(self._grid) * self._brick_bytes
        with self._explained():
            if not keep:
                with path.open("wb") as file:
                    file.truncate(n_bytes)
            elif path.stat().st_size != n_bytes:
                raise FileError(
                    f"expected {n_bytes} bytes in {path}, as an earlier run left it, got {path.stat().st_size}; remove "
                    "the folder to start anew"
                )
            self._file = path.open("r+b", buffering=0)

    def read(self, *spans: Span) -> NDArray[Any]:
        """The voxels of a window, (C, z, y, x), contiguous; a span for each axis."""
        out = np.empty((self.n_channels, *(end - begin for begin, end in spans)), self._dtype)
        for row, outside, inside in self._rows(spans):
            bricks = self._load(row, *_bricks_along(spans[2]))
            out[(slice(None), *outside)] = bricks[(slice(None), *inside)]
        return out

    def write(self, values: NDArray[Any], *begins: int) -> None:
        """Put (C, z, y, x), or (z, y, x) where there is one channel, to a corner of the volume."""
        values = values.reshape(self.n_channels, *values.shape[-3:])
        spans = tuple((begin, begin + side) for begin, side in zip(begins, values.shape[1:], strict=True))
        first, last = _bricks_along(spans[2])
        is_whole_x = spans[2][0] % SIDE == 0 and (spans[2][1] % SIDE == 0 or spans[2][1] == self.shape[2])
        for row, outside, inside in self._rows(spans):
            is_whole = is_whole_x and all(
                one.start == 0 and (one.stop == SIDE or at * SIDE + one.stop == side)
                for one, at, side in zip(inside, row, self.shape, strict=False)
            )
            if is_whole:
                bricks = np.zeros((self.n_channels, SIDE, SIDE, (last - first) * SIDE), self._dtype)
            else:
                bricks = self._load(row, first, last)
            bricks[(slice(None), *inside)] = values[(slice(None), *outside)]
            self._store(bricks, row, first)

    def sync(self) -> None:
        """Return when everything written would survive a power failure."""
        with self._explained():
            os.fsync(self._file.fileno())

    def remove(self) -> None:
        """Close and delete the file."""
        self.close()
        with contextlib.suppress(OSError):
            self.path.unlink()

    def close(self) -> None:
        """Close the file and keep it."""
        self._file.close()

    def _rows(self, spans: tuple[Span, ...]) -> Iterator[tuple[tuple[int, ...], tuple[slice, ...], tuple[slice, ...]]]:
        """The rows of bricks that a window has part in: which (z, y), where in the window, where in the bricks."""
        (front, _), (top, _), (left, right) = spans
        origin = left // SIDE * SIDE
        columns = slice(0, right - left), slice(left - origin, right - origin)
        for row in itertools.product(*(range(*_bricks_along(span)) for span in spans[:2])):
            outside, inside = [], []
            for at, (begin, end), corner in zip(row, spans, (front, top), strict=False):
                low, high = max(begin, at * SIDE), min(end, (at + 1) * SIDE)
                outside.append(slice(low - corner, high - corner))
                inside.append(slice(low - at * SIDE, high - at * SIDE))
            yield row, (*outside, columns[0]), (*inside, columns[1])

    def _load(self, row: tuple[int, ...], first: int, last: int) -> NDArray[Any]:
        """Bricks of a row, one beside the other, (C, 16, 16, x)."""
        stored = np.empty((last - first, self.n_channels, SIDE, SIDE, SIDE), self._dtype)
        with self._explained():
            self._file.seek(self._offset(row, first))
            _whole(self._file.readinto, stored)
        return stored.transpose(1, 2, 3, 0, 4).reshape(self.n_channels, SIDE, SIDE, -1)

    def _store(self, bricks: NDArray[Any], row: tuple[int, ...], first: int) -> None:
        """Write bricks of a row, given one beside the other."""
        stored = bricks.reshape(self.n_channels, SIDE, SIDE, -1, SIDE).transpose(3, 0, 1, 2, 4)
        with self._explained():
            self._file.seek(self._offset(row, first))
            _whole(self._file.write, np.ascontiguousarray(stored))

    def _offset(self, row: tuple[int, ...], first: int) -> int:
        """Where a brick begins in the file."""
        return ((row[0] * self._grid[1] + row[1]) * self._grid[2] + first) * self._brick_bytes

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Say what to do about an error of the file."""
        try:
            yield
        except OSError as error:
            raise FileError(
                f"expected to read and write {self.path}, got {error.strerror or error}; free space there, or choose "
                "another folder with work="
            ) from error


def n_bytes(n_channels: int, shape: Triple, dtype: DTypeLike) -> int:
    """What the file of a volume takes at most."""
    return math.prod(-(-side // SIDE) * SIDE for side in shape) * n_channels * np.dtype(dtype).itemsize


def _bricks_along(span: Span) -> tuple[int, int]:
    """Begin and end of the bricks of an axis that a span has part in."""
    return span[0] // SIDE, -(-span[1] // SIDE)


def _whole(transfer: Callable[[memoryview], int | None], array: NDArray[Any]) -> None:
    """Read or write all of an array: a call may do a part."""
    left = array.data.cast("B")
    while left:
        done = transfer(left)
        if not done:
            raise OSError("the file is shorter than it was")
        left = left[done:]
