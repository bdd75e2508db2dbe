"""Labels out, block by block: a tiled TIFF, a zarr array, or any object that slices can be assigned to.

Planes and volumes: everything here has 2 or 3 axes. Files appear whole or not at all: they are written under a
temporary name and renamed. Only label images of cellrt are replaced. Knows nothing of how labels come about:
`Sink.write` asks for them, block by block in row-major order.
"""

from __future__ import annotations

import contextlib
import math
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
from cellrt.large.source import boxes, chunk_shape
from cellrt.memory import written
from cellrt.readers import require
from cellrt.write import replacing, sweep
from cellrt.write.labels import LABELS_MARK, as_ome

Paint = Callable[..., NDArray[np.int32]]  # a span for each axis -> the labels there

_TIFF_TILE = 512  # pixels
_TIFF_SLAB = 1 << 25  # voxels of a volume, 128 MB, that are painted at once before they are written plane by plane
# Sides of a zarr chunk, and of what an object gets that does not tell its chunks: 4 MB and 16 MB of labels.
_BLOCK = {2: (1024, 1024), 3: (64, 256, 256)}
_MARK = "cellrt"
_DEFLATE = 1032  # bytes that deflate makes one of, at best
_AXES = "ZYX"


class Sink(ABC):
    """Where the labels of an image go.

    Attributes
    ----------
    shape : (int, int) or (int, int, int)
        Of the image.
    block : (int, int) or (int, int, int)
        Sides of the blocks that `write` asks for; at the far edges they are smaller.
    is_signed : bool
        Whether it takes negative labels.
    """

    def __init__(self, shape: tuple[int, ...], block: tuple[int, ...], *, is_signed: bool = False) -> None:
        self.shape, self.block, self.is_signed = shape, block, is_signed

    @abstractmethod
    def write(self, paint: Paint) -> None:
        """Ask for the labels of each block, in row-major order, and keep them."""


class _Tiff(Sink):
    """A BigTIFF of uint32 tiles, deflate; of a volume OME-TIFF, plane after plane."""

    def __init__(self, path: Path, shape: tuple[int, ...]) -> None:
        tile = (_TIFF_TILE, _TIFF_TILE)
        # Polyhedra go through many planes, of which the file wants one after the other.
        super().__init__(shape, tile if len(shape) == 2 else (max(1, _TIFF_SLAB // math.prod(shape[1:])), *tile))
        require("tifffile")
        self._path = path
        if path.exists():
            _require_own(path, path)
        _prepare(path)
        require_space(path, 4 * math.prod(shape) // _DEFLATE)

    def write(self, paint: Paint) -> None:
        tifffile = require("tifffile")
        options: dict[str, Any] = {"metadata": {"axes": "YX", "software": _MARK}}
        if len(self.shape) == 3:
            options = as_ome(self.shape, np.dtype(np.uint32))
        byteorder = options.pop("byteorder", None)
        with replacing([self._path]) as (file,), tifffile.TiffWriter(file, bigtiff=True, byteorder=byteorder) as writer:
            writer.write(
                self._tiles(paint),
                shape=self.shape,
                dtype=np.uint32,
                tile=self.block[-2:],
                photometric="minisblack",
                compression="zlib",
                compressionargs={"level": 1},
                software=_MARK,
                **options,
            )

    def _tiles(self, paint: Paint) -> Iterator[NDArray[np.uint32]]:
        """The labels of all tiles in the order of the file."""
        if len(self.shape) == 2 or self.block[0] == 1:
            for spans in boxes(self.shape, self.block):
                yield paint(*spans).astype(np.uint32).reshape([end - begin for begin, end in spans[-2:]])
            return
        depth, *tile = self.block
        windows = list(boxes(self.shape[1:], (tile[0], tile[1])))
        for begin in range(0, self.shape[0], depth):
            planes = (begin, min(self.shape[0], begin + depth))
            slab = [paint(planes, *window) for window in windows]
            for plane in range(planes[1] - planes[0]):
                for block in slab:
                    yield block[plane].astype(np.uint32)


class _Zarr(Sink):
    """A zarr array of uint32 in a folder."""

    def __init__(self, path: Path, shape: tuple[int, ...]) -> None:
        super().__init__(shape, _BLOCK[len(shape)])
        zarr = require_zarr(f"write {path.name}")
        self._path, self._create = path, zarr.create_array
        if path.exists():
            _require_own(path, path / "zarr.json")
        _prepare(path)

    def write(self, paint: Paint) -> None:
        temporary = self._path.with_name(f".cellrt-{uuid.uuid4().hex[:12]}.part")
        older = temporary.with_suffix(".old")
        axes = _AXES[-len(self.shape) :]
        try:
            labels = self._create(
                temporary,
                shape=self.shape,
                chunks=self.block,
                dtype="uint32",
                fill_value=0,
                attributes={"software": _MARK, "axes": axes},
                dimension_names=tuple(axes.lower()),
            )
            for spans in boxes(self.shape, self.block):
                labels[tuple(slice(*span) for span in spans)] = paint(*spans)
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

    def __init__(self, array: Any, shape: tuple[int, ...]) -> None:
        is_signed = np.dtype(array.dtype).kind == "i"
        super().__init__(shape, chunk_shape(array) or _BLOCK[len(shape)], is_signed=is_signed)
        self._array = array

    def write(self, paint: Paint) -> None:
        for spans in boxes(self.shape, self.block):
            self._array[tuple(slice(*span) for span in spans)] = paint(*spans)


def open_sink(sink: Any, shape: tuple[int, ...]) -> Sink:
    """Check where labels are to go, before any work is done.

    Parameters
    ----------
    sink : str, Path or array
        A file that ends in ``.tif`` or ``.tiff``, a folder that ends in ``.zarr``, or an object with shape, dtype
        (int32, uint32, int64 or uint64) and slices that can be assigned to.
    shape : (int, int) or (int, int, int)
        The image, (Y, X) or (Z, Y, X).

    Raises
    ------
    FileError
        If there is something else than a label image of cellrt at the path, or nothing can be written there, or there
        is less space than even an empty label image takes.
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
        if LABELS_MARK in text:
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


def require_space(path: Path, n_bytes: int) -> None:
    """Refuse to begin what cannot end: the file takes that much in any case."""
    free = shutil.disk_usage(path.parent).free
    if free < n_bytes:
        raise FileError(
            f"expected at least {written(n_bytes)} of free space for {path}, got {written(free)}; free space there or "
            "choose another folder"
        )
