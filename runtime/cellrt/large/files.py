"""Image files that are read window by window: OME-Zarr and zarr, tiled TIFF, and what can be mapped into memory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cellrt.errors import CellrtError, FileError
from cellrt.large.source import Sliceable
from cellrt.readers import read, require

_AXES = set("TZCSYX")


@contextlib.contextmanager
def open_image(path: str | Path) -> Iterator[tuple[Sliceable, str | None]]:
    """Open an image without reading its pixels; what is given reads as long as the context lasts.

    Parameters
    ----------
    path : str or Path
        A folder: a zarr array, or OME-Zarr, of which the full resolution is taken. A TIFF: compressed ones are read
        tile by tile, which needs ``cellrt[screen]``; others are mapped into memory, as are .npy files. Pictures are
        read at once.

    Yields
    ------
    pixels : object with shape, dtype and slices
        For `segment_large`.
    axes : str or None
        A letter per axis, where the file tells.

    Raises
    ------
    FileError
        If there is no image at the path.
    CellrtError
        If a package is missing.
    """
    path = Path(path)
    if path.is_dir():
        yield _zarr(path)
        return
    compressed = _compressed_tiff(path)
    if compressed is None:
        yield read(path)
        return
    zarr = require_zarr("read this image in parts")
    with require("tifffile").TiffFile(path) as tif:
        series = tif.series[compressed]
        with series.aszarr(level=0) as store:
            yield zarr.open_array(store, mode="r"), _letters(series.axes)


def _compressed_tiff(path: Path) -> int | None:
    """The number of the largest series of a TIFF whose pixels do not lie in the file as they are; None for others."""
    with contextlib.suppress(Exception), path.open("rb") as file:  # tifffile raises anything; `read` says what is wrong
        if file.read(4) not in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
            return None
        with require("tifffile").TiffFile(path) as tif:
            sizes = [series.size for series in tif.series]
            largest = sizes.index(max(sizes)) if sizes else None
            return None if largest is None or tif.series[largest].dataoffset is not None else largest
    return None


def _zarr(path: Path) -> tuple[Sliceable, str | None]:
    """An array in a folder, or the first data set of its first image."""
    zarr = require_zarr("read this image in parts")
    try:
        node = zarr.open(path, mode="r")
        if hasattr(node, "dtype"):
            names = getattr(node.metadata, "dimension_names", None)
            return node, _letters("".join(name or "?" for name in names)) if names else None
        attributes = dict(node.attrs)
        image = attributes.get("ome", attributes)["multiscales"][0]
        axes = "".join(axis["name"] if isinstance(axis, dict) else axis for axis in image.get("axes", ()))
        return node[image["datasets"][0]["path"]], _letters(axes)
    except Exception as error:  # zarr raises anything on foreign folders
        raise FileError(
            f"expected a zarr array or OME-Zarr, got {path}: {error!r}; name the folder of the image, or write it again"
        ) from error


def _letters(axes: str) -> str | None:
    """The axes in capitals, if all are known."""
    letters = axes.upper()
    return letters if letters and set(letters) <= _AXES else None


def require_zarr(purpose: str) -> Any:
    """The package zarr, or an error that says how to install it."""
    try:
        import zarr
    except ImportError as error:
        raise CellrtError(
            f'expected zarr to be installed to {purpose}, got {error}; run: pip install "cellrt[screen]"'
        ) from error
    return zarr
