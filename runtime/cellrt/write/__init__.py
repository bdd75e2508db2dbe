"""Files out: instances -> label images, tables, polygons, meshes, overlays and the files of Cellpose.

Every file is written under a temporary name and renamed when it is whole. The files of one image appear together or not
at all, and older ones of that name are replaced together or not at all. Each carries a mark by which `is_output` knows
it again. The same instances give the same bytes. Knows formats; never models.

Coordinates in tables and meshes are those of `Instances`: pixel centres at integers. ImageJ and QuPath put the corner
of the first pixel at (0, 0), so their polygons lie half a pixel further down and right. Cellpose's files count pixels.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from cellrt.errors import CellrtError, FileError
from cellrt.instances import Instances
from cellrt.readers import require
from cellrt.write.contours import contours
from cellrt.write.labels import LABELS_MARK, ZARR_HEAD, write_tiff, write_zarr
from cellrt.write.meshes import OBJ_MARK, PLY_MARK, write_obj, write_ply
from cellrt.write.overlay import draw, draw_sections
from cellrt.write.polygons import GEOJSON_MARK, ROIS_MARK, write_geojson, write_rois
from cellrt.write.result import Result, result_of
from cellrt.write.seg import SEG_MARK, write_seg
from cellrt.write.table import TABLE_MARKS, write_table
from cellrt.write.whole import remove, renaming, replacing, sweep

__all__ = ["FORMATS", "Format", "check", "is_output", "paths_of", "replacing", "set_aside", "sweep", "write"]

# Readers of the file of outlines take 12 and +0000000000000000012 for the same number; only cellrt writes the latter.
_OUTLINES_MARK = b"+00000000000"
_IMAGES, _VOLUMES = "images", "volumes"


@dataclass(frozen=True)
class Format:
    """A format that results can be saved in."""

    suffix: str  # what follows the stem in the file's name
    description: str
    marks: tuple[bytes, ...]  # one is in the file's first kilobyte or at its end, and in other programs' files none is
    write: Callable[[Result, Any], None]  # into an open file, or an empty folder
    package: str | None = None  # the optional package that writes it
    may_be_empty: bool = False  # whether a file without a byte is one, of no objects
    only: str | None = None  # "images" or "volumes", if it can hold no others
    head: str = ""  # which file carries the mark, if the format is a folder


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
    anisotropy: float | None = None,
) -> list[Path]:
    """Write the objects of one image or volume in several formats.

    Parameters
    ----------
    instances : Instances
        The objects.
    stem : str or Path
        Folder and name of the files without their endings, such as ``results/cell``. The folder is created.
    formats : sequence of str
        Names out of `FORMATS`. Polygons and outlines are of images only, meshes of volumes that a star model segmented.
    image : array (C, Y, X) or (C, Z, Y, X), optional
        What the overlay is drawn on, as `image.as_image` or `image.as_volume` gives it.
    class_names : sequence of str, optional
        Names of the classes 1, 2, ...; class 0 is "background". Default: their numbers.
    maps : float32 (3, y, x), optional
        What a flow model predicted (`FlowMaps.maps`), for "seg": Cellpose's program then shows it and can apply other
        thresholds. At another resolution than the labels it is resized. Of a volume it is left out.
    channels : sequence of int, optional
        For "seg": the channels that were segmented, by Cellpose's numbers. Default: 0, 0.
    diameter : float, optional
        For "seg": of the objects, pixels.
    source : path, optional
        For "seg": the image's file, which Cellpose's program opens with it.
    anisotropy : float, optional
        Of a volume: from plane to plane, pixels. The overlay and "zarr" are stretched by it. Default: 1.

    Returns
    -------
    list of Path
        The files, in the order of `formats`. Files of that name are replaced.

    Raises
    ------
    FileError
        If a file cannot be written; none of this call's is left, and older files of these names are as they were.
    CellrtError
        If a format is unknown or cannot hold such objects, the package for it is not installed, or the image, maps or
        class names do not fit.
    """
    kind = _VOLUMES if instances.is_volume else _IMAGES
    names = check(formats, kind, has_polyhedra=instances.polyhedra is not None)
    if "overlay" in names and image is None:
        raise CellrtError("expected an image to draw the overlay on, got none; pass image=, or leave out 'overlay'")
    result = result_of(
        instances,
        image=image,
        class_names=class_names,
        maps=maps,
        channels=channels,
        diameter=diameter,
        source=source,
        anisotropy=anisotropy,
    )
    paths = paths_of(stem, names)
    folders = [path for name, path in zip(names, paths, strict=True) if FORMATS[name].head]
    for path in folders:
        if os.path.lexists(path) and not is_output(path):  # whatever is in it would be lost
            raise FileError(
                f"expected a new folder or an older label image of cellrt at {path}, got something else; choose "
                "another name or remove it"
            )
    with renaming(paths, folders) as parts:
        for name, path, part in zip(names, paths, parts, strict=True):
            if path in folders:
                FORMATS[name].write(result, part)
            else:
                with part.open("wb") as file:
                    FORMATS[name].write(result, file)
    return paths


def check(formats: Iterable[str], kind: str | None = None, *, has_polyhedra: bool = True) -> list[str]:
    """The names of formats, each once.

    Parameters
    ----------
    formats : sequence of str
    kind : "images" or "volumes", optional
        What the objects are of, if that is known.
    has_polyhedra : bool
        Whether those of a volume have them, which meshes need: star models of volumes find such.

    Raises
    ------
    CellrtError
        If a format is unknown, the package for it is not installed, or it cannot hold objects of this kind.
    """
    names = list(dict.fromkeys(formats))
    for name in names:
        if name not in FORMATS:
            raise CellrtError(f"expected formats out of {', '.join(FORMATS)}, got {name!r}")
        if kind is not None and FORMATS[name].only not in (None, kind):
            fitting = ", ".join(other for other, form in FORMATS.items() if form.only in (None, kind))
            raise CellrtError(f"expected formats for {kind}, which are {fitting}, got {name!r}")
        if FORMATS[name].only == _VOLUMES and not has_polyhedra:
            others = ", ".join(other for other, form in FORMATS.items() if form.only is None)
            raise CellrtError(
                f"expected objects with polyhedra, which star models of volumes find, for {name!r}, got others; choose "
                f"out of {others}"
            )
        package = FORMATS[name].package
        if package is not None:
            require(package)
    return names


def paths_of(stem: str | Path, formats: Iterable[str]) -> list[Path]:
    """The files that `write` makes."""
    stem = Path(stem)
    return [stem.with_name(stem.name + FORMATS[name].suffix) for name in formats]


def is_output(path: Path) -> bool:
    """Whether cellrt wrote a file or folder: its name ends as a format's and it carries the mark of that format."""
    for form in FORMATS.values():
        if path.name.removesuffix(".old").endswith(form.suffix):
            try:
                with (path / form.head).open("rb") as file:
                    head = file.read(1024)
                    file.seek(max(0, os.fstat(file.fileno()).st_size - 1024))
                    end = file.read()
                    has_mark = any(mark in head or end.endswith(mark) for mark in form.marks)
                    return has_mark or (form.may_be_empty and not head)
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
                if path.is_dir():  # which cannot take the place of another
                    remove([older])
                os.replace(path, older)
                done.append(older)
    return done


def _write_rois(result: Result, file: BinaryIO) -> None:
    """ImageJ ROI zip."""
    write_rois(result.instances, file)


def _write_geojson(result: Result, file: BinaryIO) -> None:
    """GeoJSON for QuPath."""
    write_geojson(result.instances, result.areas, result.class_names, file)


def _write_ply(result: Result, file: BinaryIO) -> None:
    """Mesh as PLY."""
    write_ply(result.instances, file)


def _write_obj(result: Result, file: BinaryIO) -> None:
    """Mesh as OBJ."""
    write_obj(result.instances, file)


def _write_outlines(result: Result, file: BinaryIO) -> None:
    """Cellpose's text file of outlines: a line per object, x,y,x,y,... of its outermost pixels.

    The points are those of Cellpose: of an object in parts the longest walk around one. Two differences: the first
    number is written at length, and an object with no more than four points has them, where Cellpose leaves the line
    empty and its ImageJ macro stops there. An object without a pixel has no line.
    """
    pixels, offsets, owners = contours(result.objects)
    # parts sorted by label, then length, then place: the last one of each label counts
    order = np.lexsort((np.arange(len(owners)), np.diff(offsets), owners))
    longest = order[np.diff(owners[order], append=0) != 0]
    for number, part in enumerate(longest.tolist()):
        numbers = list(map(str, pixels[offsets[part] : offsets[part + 1], ::-1].reshape(-1).tolist()))
        if number == 0:
            numbers[0] = f"+{int(numbers[0]):019d}"
        file.write(",".join(numbers).encode() + b"\n")


def _write_seg(result: Result, file: BinaryIO) -> None:
    """Cellpose's file of masks and flows."""
    write_seg(
        result.objects,
        result.maps,
        channels=result.channels,
        diameter=result.diameter,
        source=result.source,
        file=file,
    )


def _write_overlay(result: Result, file: BinaryIO) -> None:
    """Picture of the image with the outlines, PNG."""
    require("PIL")
    from PIL import Image, PngImagePlugin

    assert result.image is not None  # checked in write
    text = PngImagePlugin.PngInfo()
    text.add_text("Software", "cellrt")
    if result.instances.is_volume:
        picture = draw_sections(result.image, result.objects, result.boxes, result.anisotropy)
    else:
        picture = draw(result.image, result.instances.rings)
    Image.fromarray(picture).save(file, format="PNG", compress_level=1, pnginfo=text)


FORMATS = {
    "labels": Format(
        "_labels.tif",
        "label image: uint16 or uint32 TIFF, of volumes OME-TIFF",
        (LABELS_MARK,),
        write_tiff,
        package="tifffile",
    ),
    "csv": Format(".csv", "table: class, score, point, area and box of each object", TABLE_MARKS, write_table),
    "rois": Format("_rois.zip", "polygons: ROIs of ImageJ and Fiji", (ROIS_MARK,), _write_rois, only=_IMAGES),
    "geojson": Format(".geojson", "polygons: detections of QuPath", (GEOJSON_MARK,), _write_geojson, only=_IMAGES),
    "zarr": Format("_labels.zarr", "label image: OME-Zarr", (LABELS_MARK,), write_zarr, package="zarr", head=ZARR_HEAD),
    "ply": Format(".ply", "meshes: binary PLY with colours and labels", (PLY_MARK,), _write_ply, only=_VOLUMES),
    "obj": Format(".obj", "meshes: Wavefront OBJ", (OBJ_MARK,), _write_obj, only=_VOLUMES),
    "overlay": Format(
        "_overlay.png",
        "picture: the image with the outlines, of volumes three sections",
        (b"Software\0cellrt",),
        _write_overlay,
        package="PIL",
    ),
    "seg": Format("_seg.npy", "masks and flows: for correction with Cellpose's program", (SEG_MARK,), _write_seg),
    "outlines": Format(
        "_cp_outlines.txt",
        "outlines: Cellpose's text file",
        (_OUTLINES_MARK,),
        _write_outlines,
        may_be_empty=True,
        only=_IMAGES,
    ),
}
