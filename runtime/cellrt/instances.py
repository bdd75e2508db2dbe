"""Instances: what a segmentation is, however it was made.

Checks its invariants once, when it is built; every array is then read-only. Knows nothing of models or files.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellrt.errors import CellrtError


@dataclass(frozen=True, eq=False)
class Polyhedra:
    """Star-convex bodies of n objects: vertex k of object i is ``points[i] + dist[i, k] * rays[k]``.

    Attributes
    ----------
    dist : float32 (n, n_rays)
        Lengths along the rays.
    rays : float32 (n_rays, 3)
        Directions (z, y, x) from the point of an object, times which lengths are in voxels of the image.
    faces : int32 (n_faces, 3)
        The rays at the corners of each triangle of the surface, the same for all objects: counterclockwise seen from
        outside, in a right-handed system of x, y and z.
    """

    dist: NDArray[np.float32]
    rays: NDArray[np.float32]
    faces: NDArray[np.int32]

    def __post_init__(self) -> None:
        _check("dist", self.dist, np.float32, (None, None))
        _check("rays", self.rays, np.float32, (self.dist.shape[1], 3))
        _check("faces", self.faces, np.int32, (None, 3))
        if self.faces.size and not 0 <= self.faces.min() <= self.faces.max() < len(self.rays):
            raise CellrtError(f"expected faces of rays 0 to {len(self.rays) - 1}, got others; check what made them")
        for name in ("dist", "rays", "faces"):
            object.__setattr__(self, name, _read_only(getattr(self, name)))

    def __len__(self) -> int:
        """How many objects there are."""
        return len(self.dist)


@dataclass(frozen=True, eq=False)
class Instances:
    """The n objects of one image or volume; object i has the label i + 1.

    Attributes
    ----------
    labels : int32 (Y, X) or (Z, Y, X)
        0 is background. The label of an object that others cover completely does not occur.
    scores : float32 (n,)
        Confidence in [0, 1], in descending order for star models.
    points : float32 (n, 2) or (n, 3)
        A point (y, x) or (z, y, x) inside each object, in pixels of the image.
    outlines : (float32 (m, 2), int64 (n + 1,)) or None
        Polygons as coords and offsets: object i has the vertices ``coords[offsets[i]:offsets[i + 1]]``, (y, x) in
        pixels of the image, pixel centres at integers, not closed (the last vertex differs from the first). Objects of
        an image have them, those of a volume do not.
    classes : int32 (n,) or None
        Class of each object, when the model tells classes apart; 0 is background and can occur.
    class_prob : float32 (n, n_classes + 1) or None
        Probability of each class, background first.
    polyhedra : Polyhedra or None
        The bodies of a volume's objects, of star models.
    overlap_label : int or None
        What voxels of several objects have for a label, where that was asked for.
    """

    labels: NDArray[np.int32]
    scores: NDArray[np.float32]
    points: NDArray[np.float32]
    outlines: tuple[NDArray[np.float32], NDArray[np.int64]] | None
    classes: NDArray[np.int32] | None = None
    class_prob: NDArray[np.float32] | None = field(default=None, repr=False)
    polyhedra: Polyhedra | None = field(default=None, repr=False)
    overlap_label: int | None = None

    def __post_init__(self) -> None:
        n = len(self.scores)
        n_axes = 3 if getattr(self.labels, "ndim", 2) == 3 else 2
        _check("labels", self.labels, np.int32, (None,) * n_axes)
        _check("scores", self.scores, np.float32, (n,))
        _check("points", self.points, np.float32, (n, n_axes))
        if (self.outlines is None) != self.is_volume:
            raise CellrtError("expected outlines of an image's objects, and none of a volume's, got the reverse")
        if self.outlines is not None:
            coords, offsets = self.outlines
            _check("outlines coords", coords, np.float32, (None, 2))
            _check("outlines offsets", offsets, np.int64, (n + 1,))
            if offsets[0] != 0 or offsets[-1] != len(coords) or np.any(np.diff(offsets) < 0):
                raise CellrtError(f"expected outline offsets that rise from 0 to {len(coords)}, got {offsets}")
            object.__setattr__(self, "outlines", (_read_only(coords), _read_only(offsets)))
        if self.polyhedra is not None and (not self.is_volume or len(self.polyhedra) != n):
            raise CellrtError(f"expected {n} polyhedra of a volume, got {len(self.polyhedra)}; check what made them")
        if self.classes is not None:
            _check("classes", self.classes, np.int32, (n,))
        if self.class_prob is not None:
            _check("class_prob", self.class_prob, np.float32, (n, None))
        # Views, so that the arrays of whoever built this stay as they are.
        for name in ("labels", "scores", "points", "classes", "class_prob"):
            object.__setattr__(self, name, _read_only(getattr(self, name)))

    @property
    def is_volume(self) -> bool:
        """Whether these are the objects of a volume."""
        return self.labels.ndim == 3

    @property
    def rings(self) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """`outlines`, or an error if these are the objects of a volume."""
        if self.outlines is None:
            raise CellrtError(f"expected the objects of an image, which have outlines, got {self}")
        return self.outlines

    def __len__(self) -> int:
        """How many objects there are."""
        return len(self.scores)

    def __repr__(self) -> str:
        sides, unit = " x ".join(map(str, self.labels.shape)), "voxels" if self.is_volume else "pixels"
        return f"Instances({len(self)} objects in {sides} {unit})"

    def polygons(self) -> Iterator[NDArray[np.float32]]:
        """Yield the outline of each object of an image, float32 (vertices, 2), (y, x)."""
        coords, offsets = self.rings
        for begin, end in itertools.pairwise(offsets):
            yield coords[begin:end]


def _read_only(array: NDArray[Any] | None) -> NDArray[Any] | None:
    """A view that cannot be written to."""
    if array is None:
        return None
    view = array.view()
    view.flags.writeable = False
    return view


def _check(name: str, array: Any, dtype: type, shape: tuple[int | None, ...]) -> None:
    """Raise unless `array` has the dtype and the shape (None: any length)."""
    fits = (
        isinstance(array, np.ndarray)
        and array.dtype == dtype
        and array.ndim == len(shape)
        and all(want is None or got == want for got, want in zip(array.shape, shape, strict=True))
    )
    if not fits:
        want = ", ".join("any" if side is None else str(side) for side in shape)
        got = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
        raise CellrtError(f"expected {name} as {np.dtype(dtype).name} ({want}), got {got}")
