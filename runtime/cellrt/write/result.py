"""What is known of one image or volume when its files are written: checked and measured once, for every format."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellrt import kernels
from cellrt.errors import CellrtError
from cellrt.instances import Instances

_LIMIT = 10_000_000  # pixels: larger coordinates are no image's, and products of two of them would not be exact


@dataclass(frozen=True)
class Result:
    """The objects and what belongs to them; in a volume areas are volumes, pixels voxels."""

    instances: Instances
    image: NDArray[Any] | None  # (C, Y, X) or (C, Z, Y, X)
    objects: NDArray[np.int32]  # the label image, 0 where overlaps have a label that is no object's
    class_names: Mapping[int, str]  # of the classes that occur
    areas: NDArray[np.int64]  # (n,) pixels in the label image
    boxes: NDArray[np.int32]  # (n, 4) y_begin, x_begin, y_end, x_end in the label image, or (n, 6) with z before y
    maps: NDArray[np.float32] | None  # (3, y, x) flow along y and x, cell logit; of an image
    channels: tuple[int, int]  # by Cellpose's numbers
    diameter: float | None  # pixels
    source: str | os.PathLike[str] | None  # the image's file
    anisotropy: float  # from plane to plane of a volume, pixels


def result_of(
    instances: Instances,
    *,
    image: NDArray[Any] | None,
    class_names: Sequence[str] | None,
    maps: NDArray[np.float32] | None,
    channels: Sequence[int] | None,
    diameter: float | None,
    source: str | os.PathLike[str] | None,
    anisotropy: float | None,
) -> Result:
    """Check what belongs to the instances, and measure them; parameters and errors as of `write`."""
    labels, classes = instances.labels, instances.classes
    if image is not None and image.shape[1:] != labels.shape:
        sides = ", ".join(map(str, labels.shape))
        raise CellrtError(f"expected an image (C, {sides}), got shape {image.shape}")
    if instances.is_volume:
        maps = None
    if maps is not None and (maps.dtype != np.float32 or maps.ndim != 3 or len(maps) != 3 or maps.size == 0):
        raise CellrtError(f"expected maps as float32 (3, y, x), got {maps.dtype} {maps.shape}; pass FlowMaps.maps")
    if anisotropy is not None and not 0.01 <= anisotropy <= 100:
        raise CellrtError(f"expected an anisotropy of 0.01 to 100 pixels from plane to plane, got {anisotropy}")
    for name, array in _coordinates(instances):
        if not np.all(np.abs(array) < _LIMIT):
            raise CellrtError(f"expected finite {name} of at most {_LIMIT}, got others; check what made the instances")
    found = [] if classes is None else np.unique(classes).tolist()
    if class_names is not None and found and found[-1] > len(class_names):
        raise CellrtError(f"expected names for {found[-1]} classes, got {list(class_names)}; pass one per class")
    names = {k: str(k) if class_names is None else ("background", *class_names)[k] for k in found}
    overlap = instances.overlap_label
    if overlap is not None and not 0 <= overlap <= len(instances):
        labels = np.where(labels == overlap, np.int32(0), labels)
    # A few numbers per label: not worth a second thread.
    regions = kernels.label_regions_3d if instances.is_volume else kernels.label_regions_2d
    areas, boxes, _ = regions(labels, n_labels=len(instances), threads=1)
    first, second, *_ = (*(channels or ()), 0, 0)
    return Result(
        instances=instances,
        image=image,
        objects=labels,
        class_names=names,
        areas=areas,
        boxes=boxes,
        maps=maps,
        channels=(first, second),
        diameter=diameter,
        source=source,
        anisotropy=1.0 if anisotropy is None else float(anisotropy),
    )


def _coordinates(instances: Instances) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """The numbers that end up in files, and what they are called."""
    yield "scores", instances.scores
    yield "points", instances.points
    if instances.outlines is not None:
        yield "outlines", instances.outlines[0]
    if instances.polyhedra is not None:
        yield "lengths of rays", instances.polyhedra.dist
        yield "rays", instances.polyhedra.rays
