"""Files out: instances -> label images, tables, polygons and overlays.

Every file is written under a temporary name and renamed when it is whole, and the files of one image appear together
or not at all. The same instances give the same bytes. Knows formats; never models.

Coordinates in the table are those of `Instances`: pixel centres at integers. ImageJ and QuPath put the corner of the
first pixel at (0, 0), so their polygons lie half a pixel further down and right.
"""

from __future__ import annotations

import contextlib
import csv
import io
import os
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
from cellrt.write.overlay import draw
from cellrt.write.polygons import write_geojson, write_rois

__all__ = ["FORMATS", "Format", "write"]

_LIMIT = 10_000_000  # pixels: larger coordinates are no image's, and products of two of them would not be exact


@dataclass(frozen=True)
class _Result:
    """All that is known of one image when its files are written."""

    instances: Instances
    image: NDArray[Any] | None  # (C, Y, X)
    class_names: Mapping[int, str]  # of the classes that occur
    areas: NDArray[np.int64]  # (n,) pixels in the label image
    boxes: NDArray[np.int32]  # (n, 4) y_begin, x_begin, y_end, x_end in the label image


@dataclass(frozen=True)
class Format:
    """A format that results can be saved in."""

    suffix: str  # what follows the stem in the file's name
    description: str
    write: Callable[[_Result, BinaryIO], None]


def write(
    instances: Instances,
    stem: str | Path,
    formats: Iterable[str] = ("labels", "csv"),
    *,
    image: NDArray[Any] | None = None,
    class_names: Sequence[str] | None = None,
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

    Returns
    -------
    list of Path
        The files, in the order of `formats`. Files of that name are replaced.

    Raises
    ------
    FileError
        If a file cannot be written; none of this call's is left.
    CellrtError
        If a format is unknown, the package for it is not installed, or the image or class names do not fit.
    """
    names = list(dict.fromkeys(formats))
    for name in names:
        if name not in FORMATS:
            raise CellrtError(f"expected formats out of {', '.join(FORMATS)}, got {name!r}")
    result = _result(instances, image, class_names, overlay="overlay" in names)
    stem = Path(stem)
    paths = [stem.with_name(stem.name + FORMATS[name].suffix) for name in names]
    with _replacing(paths) as files:
        for name, file in zip(names, files, strict=True):
            FORMATS[name].write(result, file)
    return paths


def _result(
    instances: Instances, image: NDArray[Any] | None, class_names: Sequence[str] | None, overlay: bool
) -> _Result:
    """Check what belongs to the instances, and measure them."""
    labels, classes = instances.labels, instances.classes
    if overlay and image is None:
        raise CellrtError("expected an image to draw the overlay on, got none; pass image=, or leave out 'overlay'")
    if image is not None and (image.ndim != 3 or image.shape[1:] != labels.shape):
        raise CellrtError(f"expected an image (C, {labels.shape[0]}, {labels.shape[1]}), got shape {image.shape}")
    for name, array in (("outlines", instances.outlines[0]), ("scores", instances.scores)):
        if not np.all(np.abs(array) < _LIMIT):
            raise CellrtError(f"expected finite {name} of at most {_LIMIT}, got others; check what made the instances")
    found = [] if classes is None else np.unique(classes).tolist()
    if class_names is not None and found and found[-1] > len(class_names):
        raise CellrtError(f"expected names for {found[-1]} classes, got {list(class_names)}; pass one per class")
    names = {k: str(k) if class_names is None else ("background", *class_names)[k] for k in found}
    # A few numbers per label: not worth a second thread.
    areas, boxes, _ = kernels.label_regions_2d(labels, n_labels=len(instances), threads=1)
    return _Result(instances, image, names, areas, boxes)


@contextlib.contextmanager
def _replacing(paths: Sequence[Path]) -> Iterator[list[BinaryIO]]:
    """Open a temporary file beside each path; at the end rename them all, or remove them all after an error."""
    current = paths[0] if paths else Path()
    temporary: list[Path] = []
    done: list[Path] = []
    try:
        with contextlib.ExitStack() as stack:
            files: list[BinaryIO] = []
            for current in paths:
                current.parent.mkdir(parents=True, exist_ok=True)
                # a short name of its own: a long one plus an ending could pass the file system's limit
                temporary.append(current.parent / f".cellrt-{uuid.uuid4().hex[:12]}.part")
                files.append(stack.enter_context(temporary[-1].open("xb")))
            yield files
        for current, part in zip(paths, temporary, strict=True):
            os.replace(part, current)
            done.append(current)
    except BaseException as error:
        # an OSError of the writers above belongs to this block too: the disk is full, the network drive is gone
        for path in temporary + done:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            folder = current.parent
            raise FileError(
                f"expected to write {', '.join(path.name for path in paths)} into {folder}, got: "
                f"{error.strerror or error}; free space there or choose another folder"
            ) from error
        raise


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
        metadata={"axes": "YX"},
        software="cellrt",
    )


def _write_csv(result: _Result, file: BinaryIO) -> None:
    """Table with a row per object, also for an object of which no pixel is left (area 0)."""
    instances = result.instances
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["id", "class", "score", "y", "x", "area", "y_begin", "x_begin", "y_end", "x_end"])
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


def _write_overlay(result: _Result, file: BinaryIO) -> None:
    """Picture of the image with the outlines, PNG."""
    require("PIL")
    from PIL import Image

    assert result.image is not None  # checked in _result
    Image.fromarray(draw(result.image, result.instances.outlines)).save(file, format="PNG", compress_level=1)


FORMATS = {
    "labels": Format("_labels.tif", "label image: uint16 or uint32 TIFF", _write_labels),
    "csv": Format(".csv", "table: class, score, point, area and box of each object", _write_csv),
    "rois": Format("_rois.zip", "polygons: ROIs of ImageJ and Fiji", _write_rois),
    "geojson": Format(".geojson", "polygons: detections of QuPath", _write_geojson),
    "overlay": Format("_overlay.png", "picture: the image with the outlines", _write_overlay),
}
