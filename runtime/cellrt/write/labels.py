"""Label images: TIFF, OME-TIFF for volumes, and OME-Zarr (NGFF 0.5, whose metadata is written by hand here).

Pixels are uint16 if that holds every label, else uint32; int32 where overlaps have a negative label.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from cellrt.readers import require
from cellrt.write.result import Result

LABELS_MARK = b'"software": "cellrt"'  # in the description of a TIFF, and in the attributes of a zarr group
ZARR_HEAD = "zarr.json"  # the file of a zarr group that carries them
_CHUNKS = {2: (1024, 1024), 3: (32, 256, 256)}  # pixels, at most: 4 MiB of uint16 before compression
_OME = (
    '<?xml version="1.0" encoding="UTF-8"?>'
    '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
    'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" '
    'xsi:schemaLocation="http://www.openmicroscopy.org/Schemas/OME/2016-06 '
    'http://www.openmicroscopy.org/Schemas/OME/2016-06/ome.xsd" Creator="cellrt">'
    '<Image ID="Image:0" Name="labels"><Description>{{{mark}}}</Description>'
    '<Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="{dtype}" BigEndian="false" '
    'SizeX="{x}" SizeY="{y}" SizeZ="{z}" SizeC="1" SizeT="1">'
    '<Channel ID="Channel:0:0" SamplesPerPixel="1"/><TiffData IFD="0" PlaneCount="{z}"/></Pixels></Image></OME>'
)


def write_tiff(result: Result, file: BinaryIO) -> None:
    """Write the label image as TIFF, that of a volume as OME-TIFF with a page per plane; deflate."""
    tifffile = require("tifffile")
    labels = _narrowed(result)
    options: dict[str, Any] = {"metadata": {"axes": "YX", "software": "cellrt"}}  # the mark
    if labels.ndim == 3:
        options = as_ome(labels.shape, labels.dtype)
    # Level 1 takes a third of level 6's time for twice the size, which is a fiftieth of the pixels' either way.
    tifffile.imwrite(
        file,
        labels,
        photometric="minisblack",
        compression="zlib",
        compressionargs={"level": 1},
        software="cellrt",  # for people: this tag lies beyond all strips' places, where no reader of marks looks
        **options,
    )


def as_ome(shape: tuple[int, ...], dtype: np.dtype[Any]) -> dict[str, Any]:
    """What `tifffile` needs to be told for labels (Z, Y, X) to be an OME-TIFF with a page per plane."""
    z, y, x = shape
    ome = _OME.format(mark=LABELS_MARK.decode(), dtype=dtype.name, z=z, y=y, x=x)
    return {"metadata": None, "description": ome, "byteorder": "<"}


def write_zarr(result: Result, folder: Path) -> None:
    """Write the label image as OME-Zarr into an empty folder: one resolution, in chunks, zstd.

    It is an image of its own and a label image, so it can be opened as it is, and be moved into the group "labels" of
    the image that it belongs to. No unit is known: lengths are in pixels, those along z by the anisotropy.
    """
    zarr = require("zarr")
    labels = _narrowed(result)
    axes = "zyx"[-labels.ndim :]
    scale = [result.anisotropy, 1.0, 1.0][-labels.ndim :]
    level = {"path": "0", "coordinateTransformations": [{"type": "scale", "scale": scale}]}
    ome = {
        "version": "0.5",
        "multiscales": [
            {"name": "labels", "axes": [{"name": name, "type": "space"} for name in axes], "datasets": [level]}
        ],
        "image-label": {"version": "0.5"},
    }
    # The mark is in front: it must be found without reading the file to its end.
    group = zarr.create_group(folder, zarr_format=3, attributes={"software": "cellrt", "ome": ome})
    array = group.create_array(
        "0",
        shape=labels.shape,
        chunks=tuple(max(1, min(sides)) for sides in zip(labels.shape, _CHUNKS[labels.ndim], strict=True)),
        dtype=labels.dtype,
        fill_value=0,
        dimension_names=tuple(axes),
    )
    array[...] = labels


def _narrowed(result: Result) -> NDArray[np.integer[Any]]:
    """The label image in the smallest dtype that holds its labels."""
    labels = result.instances.labels
    if labels.min(initial=0) < 0:  # a label for overlaps
        return labels
    wide = max(len(result.instances), labels.max(initial=0)) > np.iinfo(np.uint16).max
    return labels.astype(np.uint32 if wide else np.uint16)
