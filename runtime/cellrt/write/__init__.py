"""Files out: instances -> label images, tables, polygons, overlays and the files of Cellpose.

Every file is written under a temporary name and renamed when it is whole. The files of one image appear together or not
at all, and older ones of that name are replaced together or not at all. Each carries a mark by which `is_output` knows
it again. The same instances give the same bytes. Knows formats; never models.

Coordinates in the table are those of `Instances`: pixel centres at integers. ImageJ and QuPath put the corner of the
first pixel at (0, 0), so their polygons lie half a pixel further down and right. Cellpose's files count pixels.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import io
import os
import re
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from cellrt import kernels
from cellrt.errors import CellrtError, FileError
from cellrt.instances import Instances
from cellrt.readers import require
from cellrt.write.contours import contours
from cellrt.write.overlay import draw
from cellrt.write.polygons import GEOJSON_MARK, ROIS_MARK, write_geojson, write_rois
from cellrt.write.seg import SEG_MARK, write_seg

__all__ = ["FORMATS", "Format", "check", "is_output", "paths_of", "replacing", "set_aside", "sweep", "write"]

_LIMIT = 10_000_000  # pixels: larger coordinates are no image's, and products of two of them would not be exact
_TABLE = ["id", "class", "score", "y", "x", "area", "y_begin", "x_begin", "y_end", "x_end"]
_TABLE_MARK = ",".join(_TABLE).encode()
# Readers of the file of outlines take 12 and +0000000000000000012 for the same number; only cellrt writes the latter.
_OUTLINES_MARK = b"+00000000000"
_TEMPORARY = re.compile(r"\.cellrt-[0-9a-f]{12}\.part")
_STALE = 3600  # seconds: no file takes that long to write


@dataclass(frozen=True)
class _Result:
    """All that is known of one image when its files are written."""

    instances: Instances
    image: NDArray[Any] | None  # (C, Y, X)
    class_names: Mapping[int, str]  # of the classes that occur
    areas: NDArray[np.int64]  # (n,) pixels in the label image
    boxes: NDArray[np.int32]  # (n, 4) y_begin, x_begin, y_end, x_end in the label image
    maps: NDArray[np.float32] | None  # (3, y, x) flow along y and x, cell logit
    channels: tuple[int, int]  # by Cellpose's numbers
    diameter: float | None  # pixels
    source: str | os.PathLike[str] | None  # the image's file


@dataclass(frozen=True)
class Format:
    """A format that results can be saved in."""

    suffix: str  # what follows the stem in the file's name
    description: str
    mark: bytes  # what its files hold in their first kilobyte or at their end, and other programs' do not
    write: Callable[[_Result, BinaryIO], None]
    package: str | None = None  # the optional package that writes it
    may_be_empty: bool = False  # whether a file without a byte is one, of no objects


def write(
    instances: Instances,
    stem: str | Path,
    formats: Iterable[str] = ("labels", "csv"),
    *,
    image: NDArray[Any] | None = None,
    class_names: Sequence[str] | None = None,
    maps: NDArray[np.float32] | None = None,
    channels: Sequence[int] | None = None,
    diameter: float | None = None,
    source: str | os.PathLike[str] | None = None,
) -> list[Path]:
    """Write the objects of one image in several formats.

    Parameters
    ----------
    instances : Instances
        The objects.
    stem : str or Path
        Folder and name of the files without their endings, such as ``results/cell``. The folder is created.
    formats : sequence of str
        Names out of `FORMATS`.
    image : array (C, Y, X), optional
        What the overlay is drawn on, as `image.as_image` gives it.
    class_names : sequence of str, optional
        Names of the classes 1, 2, ...; class 0 is "background". Default: their numbers.
    maps : float32 (3, y, x), optional
        What a flow model predicted (`FlowMaps.maps`), for "seg": Cellpose's program then shows it and can apply other
        thresholds. At another resolution than the labels it is resized.
    channels : sequence of int, optional
        For "seg": the channels that were segmented, by Cellpose's numbers. Default: 0, 0.
    diameter : float, optional
        For "seg": of the objects, pixels.
    source : path, optional
        For "seg": the image's file, which Cellpose's program opens with it.

    Returns
    -------
    list of Path
        The files, in the order of `formats`. Files of that name are replaced.

    Raises
    ------
    FileError
        If a file cannot be written; none of this call's is left, and older files of these names are as they were.
    CellrtError
        If a format is unknown, the package for it is not installed, or the image, maps or class names do not fit.
    """
    names = check(formats)
    if "overlay" in names and image is None:
        raise CellrtError("expected an image to draw the overlay on, got none; pass image=, or leave out 'overlay'")
    result = _result(instances, image, class_names, maps, channels, diameter, source)
    paths = paths_of(stem, names)
    with replacing(paths) as files:
        for name, file in zip(names, files, strict=True):
            FORMATS[name].write(result, file)
    return paths


def check(formats: Iterable[str]) -> list[str]:
    """The names of formats, each once; a `CellrtError` if one is unknown or the package for it is not installed."""
    names = list(dict.fromkeys(formats))
    for name in names:
        if name not in FORMATS:
            raise CellrtError(f"expected formats out of {', '.join(FORMATS)}, got {name!r}")
        package = FORMATS[name].package
        if package is not None:
            require(package)
    return names


def paths_of(stem: str | Path, formats: Iterable[str]) -> list[Path]:
    """The files that `write` makes."""
    stem = Path(stem)
    return [stem.with_name(stem.name + FORMATS[name].suffix) for name in formats]


def is_output(path: Path) -> bool:
    """Whether cellrt wrote a file: its name ends as a format's and it carries the mark of that format."""
    for form in FORMATS.values():
        if path.name.removesuffix(".old").endswith(form.suffix):
            try:
                with path.open("rb") as file:
                    head = file.read(1024)
                    file.seek(max(0, os.fstat(file.fileno()).st_size - len(form.mark)))
                    return form.mark in head or file.read() == form.mark or (form.may_be_empty and not head)
            except OSError:
                return False
    return False


def set_aside(paths: Iterable[Path]) -> list[Path]:
    """Rename files of an earlier run (``cell.csv.old``): they are kept, and do not pass for those of this one.

    Returns their new paths.
    """
    done: list[Path] = []
    for path in paths:
        older = path.with_name(f"{path.name}.old")
        if is_output(path) and (is_output(older) or not os.path.lexists(older)):
            with contextlib.suppress(OSError):
                os.replace(path, older)
                done.append(older)
    return done


def sweep(folder: Path) -> None:
    """Remove the temporary files that a killed run left in a folder; a young one may belong to a run under way."""
    with contextlib.suppress(OSError):
        for path in list(folder.iterdir()):
            if _TEMPORARY.fullmatch(path.name):
                with contextlib.suppress(OSError):
                    if time.time() - path.stat().st_mtime > _STALE:
                        path.unlink()


def _result(
    instances: Instances,
    image: NDArray[Any] | None,
    class_names: Sequence[str] | None,
    maps: NDArray[np.float32] | None,
    channels: Sequence[int] | None,
    diameter: float | None,
    source: str | os.PathLike[str] | None,
) -> _Result:
    """Check what belongs to the instances, and measure them."""
    labels, classes = instances.labels, instances.classes
    if image is not None and (image.ndim != 3 or image.shape[1:] != labels.shape):
        raise CellrtError(f"expected an image (C, {labels.shape[0]}, {labels.shape[1]}), got shape {image.shape}")
    if maps is not None and (maps.dtype != np.float32 or maps.ndim != 3 or len(maps) != 3 or maps.size == 0):
        raise CellrtError(f"expected maps as float32 (3, y, x), got {maps.dtype} {maps.shape}; pass FlowMaps.maps")
    for name, array in (("outlines", instances.rings[0]), ("scores", instances.scores)):
        if not np.all(np.abs(array) < _LIMIT):
            raise CellrtError(f"expected finite {name} of at most {_LIMIT}, got others; check what made the instances")
    found = [] if classes is None else np.unique(classes).tolist()
    if class_names is not None and found and found[-1] > len(class_names):
        raise CellrtError(f"expected names for {found[-1]} classes, got {list(class_names)}; pass one per class")
    names = {k: str(k) if class_names is None else ("background", *class_names)[k] for k in found}
    # A few numbers per label: not worth a second thread.
    areas, boxes, _ = kernels.label_regions_2d(labels, n_labels=len(instances), threads=1)
    numbers = [*(channels or ()), 0, 0]
    return _Result(instances, image, names, areas, boxes, maps, (numbers[0], numbers[1]), diameter, source)


@contextlib.contextmanager
def replacing(paths: Sequence[Path]) -> Iterator[list[BinaryIO]]:
    """Open a temporary file beside each path; at the end rename them all. After an error everything is as it was."""
    current = paths[0] if paths else Path()
    temporary: list[Path] = []
    older: list[Path] = []
    renamed: list[tuple[Path, Path]] = []  # each is noted before it is done: undoing what was not done does nothing
    try:
        with contextlib.ExitStack() as stack:
            files: list[BinaryIO] = []
            for current in paths:
                current.parent.mkdir(parents=True, exist_ok=True)
                # a short name of its own: a long one plus an ending could pass the file system's limit
                temporary.append(current.parent / f".cellrt-{uuid.uuid4().hex[:12]}.part")
                files.append(stack.enter_context(temporary[-1].open("xb")))
            yield files
        # First all older files out of the way: one that another program holds open stops us here, nothing replaced.
        for current, part in zip(paths, temporary, strict=True):
            if current.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            if os.path.lexists(current):
                older.append(part.with_suffix(".old"))
                renamed.append((current, older[-1]))
                os.replace(current, older[-1])
        for current, part in zip(paths, temporary, strict=True):
            renamed.append((part, current))
            os.replace(part, current)
    except BaseException as error:
        # an OSError of the writers above belongs to this block too: the disk is full, the network drive is gone
        for before, after in reversed(renamed):
            with contextlib.suppress(OSError):
                os.replace(after, before)
        _unlink(temporary)
        if isinstance(error, OSError):
            held = isinstance(error, PermissionError)
            advice = f"close {current.name} in other programs" if held else "free space there"
            raise FileError(
                f"expected to write {', '.join(path.name for path in paths)} into {current.parent}, got: "
                f"{error.strerror or error}; {advice} or choose another folder"
            ) from error
        raise
    _unlink(older)


def _unlink(paths: Iterable[Path]) -> None:
    """Remove files, as far as that is possible."""
    for path in paths:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def _write_labels(result: _Result, file: BinaryIO) -> None:
    """Label image as TIFF: deflate, uint16 if that holds every label, else uint32."""
    tifffile = require("tifffile")
    wide = len(result.instances) > np.iinfo(np.uint16).max
    labels = result.instances.labels.astype(np.uint32 if wide else np.uint16)
    # Level 1 takes a third of level 6's time for twice the size, which is a fiftieth of the pixels' either way.
    tifffile.imwrite(
        file,
        labels,
        photometric="minisblack",
        compression="zlib",
        compressionargs={"level": 1},
        metadata={"axes": "YX", "software": "cellrt"},  # the mark; the tag of that name lies beyond all strips' places
        software="cellrt",
    )


def _write_csv(result: _Result, file: BinaryIO) -> None:
    """Table with a row per object, also for an object of which no pixel is left (area 0)."""
    instances = result.instances
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(_TABLE)
    columns = (instances.scores.tolist(), instances.points.tolist(), result.areas.tolist(), result.boxes.tolist())
    for index, (score, (y, x), area, box) in enumerate(zip(*columns, strict=True)):
        name = "" if instances.classes is None else result.class_names[int(instances.classes[index])]
        table.writerow([index + 1, name, f"{score:.6f}", f"{y:.2f}", f"{x:.2f}", area, *box])
    file.write(text.getvalue().encode())


def _write_rois(result: _Result, file: BinaryIO) -> None:
    """ImageJ ROI zip."""
    write_rois(result.instances, file)


def _write_geojson(result: _Result, file: BinaryIO) -> None:
    """GeoJSON for QuPath."""
    write_geojson(result.instances, result.areas, result.class_names, file)


def _write_outlines(result: _Result, file: BinaryIO) -> None:
    """Cellpose's text file of outlines: a line per object, x,y,x,y,... of its outermost pixels.

    The points are those of Cellpose: of an object in parts the longest walk around one. Two differences: the first
    number is written at length, and an object with no more than four points has them, where Cellpose leaves the line
    empty and its ImageJ macro stops there. An object without a pixel has no line.
    """
    pixels, offsets, owners = contours(result.instances.labels)
    # parts sorted by label, then length, then place: the last one of each label counts
    order = np.lexsort((np.arange(len(owners)), np.diff(offsets), owners))
    longest = order[np.diff(owners[order], append=0) != 0]
    for number, part in enumerate(longest.tolist()):
        numbers = list(map(str, pixels[offsets[part] : offsets[part + 1], ::-1].reshape(-1).tolist()))
        if number == 0:
            numbers[0] = f"+{int(numbers[0]):019d}"
        file.write(",".join(numbers).encode() + b"\n")


def _write_seg(result: _Result, file: BinaryIO) -> None:
    """Cellpose's file of masks and flows."""
    write_seg(
        result.instances.labels,
        result.maps,
        channels=result.channels,
        diameter=result.diameter,
        source=result.source,
        file=file,
    )


def _write_overlay(result: _Result, file: BinaryIO) -> None:
    """Picture of the image with the outlines, PNG."""
    require("PIL")
    from PIL import Image, PngImagePlugin

    assert result.image is not None  # checked in _result
    text = PngImagePlugin.PngInfo()
    text.add_text("Software", "cellrt")
    picture = Image.fromarray(draw(result.image, result.instances.rings))
    picture.save(file, format="PNG", compress_level=1, pnginfo=text)


FORMATS = {
    "labels": Format(
        "_labels.tif", "label image: uint16 or uint32 TIFF", b'"software": "cellrt"', _write_labels, package="tifffile"
    ),
    "csv": Format(".csv", "table: class, score, point, area and box of each object", _TABLE_MARK, _write_csv),
    "rois": Format("_rois.zip", "polygons: ROIs of ImageJ and Fiji", ROIS_MARK, _write_rois),
    "geojson": Format(".geojson", "polygons: detections of QuPath", GEOJSON_MARK, _write_geojson),
    "overlay": Format(
        "_overlay.png", "picture: the image with the outlines", b"Software\0cellrt", _write_overlay, package="PIL"
    ),
    "seg": Format("_seg.npy", "masks and flows: for correction with Cellpose's program", SEG_MARK, _write_seg),
    "outlines": Format(
        "_cp_outlines.txt", "outlines: Cellpose's text file", _OUTLINES_MARK, _write_outlines, may_be_empty=True
    ),
}
