"""Labels out, block by block: a tiled TIFF, a zarr array, or any object that slices can be assigned to.

Files appear whole or not at all: they are written under a temporary name and renamed. Only label images of cellrt are
replaced. Knows nothing of how labels come about: `Sink.write` asks for them, block by block in row-major order.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellrt.errors import CellrtError, FileError
from cellrt.large.files import require_zarr
from cellrt.large.source import chunk_shape
from cellrt.readers import require
from cellrt.tile import Span
from cellrt.write import replacing, sweep

Paint = Callable[[Span, Span], NDArray[np.int32]]  # rows and columns -> the labels there

_TIFF_TILE = 512  # pixels
_BLOCK = 1024  # pixels: side of a zarr chunk, and of what an object gets that does not tell its chunks
_MARK = "cellrt"


class Sink(ABC):
    """Where the labels of an image go.

    Attributes
    ----------
    block : (int, int)
        Sides (y, x) of the blocks that `write` asks for; at the far edges they are smaller.
    """

    def __init__(self, shape: tuple[int, int], block: tuple[int, int]) -> None:
        self.shape, self.block = shape, block

    @abstractmethod
    def write(self, paint: Paint) -> None:
        """Ask for the labels of each block, in row-major order, and keep them."""

    def _windows(self) -> Iterator[tuple[Span, Span]]:
        """Rows and columns of the blocks."""
        (n_y, n_x), (height, width) = self.shape, self.block
        for y in range(0, n_y, height):
            for x in range(0, n_x, width):
                yield (y, min(n_y, y + height)), (x, min(n_x, x + width))


class _Tiff(Sink):
    """A BigTIFF of uint32 tiles, deflate."""

    def __init__(self, path: Path, shape: tuple[int, int]) -> None:
        super().__init__(shape, (_TIFF_TILE, _TIFF_TILE))
        require("tifffile")
        self._path = path
        if path.exists():
            _require_own(path, path)
        _prepare(path)

    def write(self, paint: Paint) -> None:
        tifffile = require("tifffile")
        tiles = (paint(rows, columns).astype(np.uint32) for rows, columns in self._windows())
        with replacing([self._path]) as (file,), tifffile.TiffWriter(file, bigtiff=True) as writer:
            writer.write(
                tiles,
                shape=self.shape,
                dtype=np.uint32,
                tile=self.block,
                photometric="minisblack",
                compression="zlib",
                compressionargs={"level": 1},
                metadata={"axes": "YX", "software": _MARK},
                software=_MARK,
            )


class _Zarr(Sink):
    """A zarr array of uint32 in a folder."""

    def __init__(self, path: Path, shape: tuple[int, int]) -> None:
        super().__init__(shape, (_BLOCK, _BLOCK))
        zarr = require_zarr(f"write {path.name}")
        self._path, self._create = path, zarr.create_array
        if path.exists():
            _require_own(path, path / "zarr.json")
        _prepare(path)

    def write(self, paint: Paint) -> None:
        temporary = self._path.with_name(f".cellrt-{uuid.uuid4().hex[:12]}.part")
        older = temporary.with_suffix(".old")
        try:
            labels = self._create(
                temporary,
                shape=self.shape,
                chunks=self.block,
                dtype="uint32",
                fill_value=0,
                attributes={"software": _MARK, "axes": "YX"},
                dimension_names=("y", "x"),
            )
            for rows, columns in self._windows():
                labels[slice(*rows), slice(*columns)] = paint(rows, columns)
            if self._path.exists():
                os.replace(self._path, older)
            try:
                os.replace(temporary, self._path)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.replace(older, self._path)
                raise
        except OSError as error:
            raise FileError(
                f"expected to write {self._path}, got: {error.strerror or error}; free space there or choose another "
                "folder"
            ) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
            shutil.rmtree(older, ignore_errors=True)


class _Object(Sink):
    """An array that somebody else made."""

    def __init__(self, array: Any, shape: tuple[int, int]) -> None:
        chunks = chunk_shape(array)
        super().__init__(shape, (_BLOCK, _BLOCK) if chunks is None else (chunks[0], chunks[1]))
        self._array = array

    def write(self, paint: Paint) -> None:
        for rows, columns in self._windows():
            self._array[slice(*rows), slice(*columns)] = paint(rows, columns)


def open_sink(sink: Any, shape: tuple[int, int]) -> Sink:
    """Check where labels are to go, before any work is done.

    Parameters
    ----------
    sink : str, Path or array
        A file that ends in ``.tif`` or ``.tiff``, a folder that ends in ``.zarr``, or an object with shape, dtype
        (int32, uint32, int64 or uint64) and slices that can be assigned to.
    shape : (int, int)
        The image, (Y, X).

    Raises
    ------
    FileError
        If there is something else than a label image of cellrt at the path, or nothing can be written there.
    CellrtError
        If an array has the wrong shape or dtype or is read-only, or a package is missing.
    """
    if isinstance(sink, (str, os.PathLike)):
        path = Path(sink)
        kinds: dict[str, type[_Tiff] | type[_Zarr]] = {".tif": _Tiff, ".tiff": _Tiff, ".zarr": _Zarr}
        if path.suffix.lower() not in kinds:
            raise FileError(f"expected a path that ends in .tif, .tiff or .zarr, got {path}; choose one of them")
        return kinds[path.suffix.lower()](path, shape)
    if not all(hasattr(sink, name) for name in ("shape", "dtype", "__setitem__")):
        raise CellrtError(
            f"expected a path or an array to write labels to, got {type(sink).__name__}; name a .tif file or pass a "
            "memory map"
        )
    dtype = np.dtype(sink.dtype)
    if tuple(sink.shape) != shape or dtype.kind not in "iu" or dtype.itemsize < 4:
        raise CellrtError(
            f"expected an array of int32, uint32 or 64-bit integers and shape {shape} for the labels, got {dtype} "
            f"{tuple(sink.shape)}; make it as numpy.zeros({shape}, 'int32')"
        )
    if isinstance(sink, np.ndarray) and not sink.flags.writeable:
        raise CellrtError("expected an array that can be written to for the labels, got a read-only one; copy it")
    return _Object(sink, shape)


def _require_own(path: Path, head: Path) -> None:
    """Refuse to replace what is no label image of cellrt: a slide in its place would be lost."""
    with contextlib.suppress(OSError), head.open("rb") as file:
        text = b" ".join(file.read(1 << 16).split())
        if f'"software": "{_MARK}"'.encode() in text:
            return
    raise FileError(
        f"expected a new file or an older label image of cellrt at {path}, got something else; choose another name or "
        "remove it"
    )


def _prepare(path: Path) -> None:
    """The folder of a path, made and proven to take files; what killed runs left there goes."""
    probe = path.with_name(f".cellrt-{uuid.uuid4().hex[:12]}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise FileError(
            f"expected a folder that can be written to, got {path.parent}: {error.strerror or error}; check its "
            "permissions or choose another"
        ) from error
    sweep(path.parent)
