"""What is known of the objects of a large image, beside the labels in its sink."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cellrt.instances import Polyhedra


@dataclass(frozen=True, eq=False)
class LargeInstances:
    """The n objects of an image whose labels are in a sink; object i has the label i + 1.

    Attributes
    ----------
    shape : (int, int) or (int, int, int)
        The image's sides, (Y, X) or (Z, Y, X).
    scores : float32 (n,)
        Confidence in [0, 1], in descending order for star models but of stitched stacks.
    points : float32 (n, 2) or (n, 3)
        A point (y, x) or (z, y, x) of each object, in pixels of the image.
    outlines : (float32 (m, 2), int64 (n + 1,)) or None
        Polygons as of `Instances`; None for flow models and volumes.
    classes : int32 (n,) or None
    class_prob : float32 (n, n_classes + 1) or None
        As of `Instances`.
    n_tiles : int
        Tiles that the image was cut into; of a stitched stack its planes, of flows in a volume groups of planes.
    n_resumed : int
        Those that an interrupted run had finished before.
    polyhedra : Polyhedra or None
        As of `Instances`: of star models' volumes.
    """

    shape: tuple[int, ...]
    scores: NDArray[np.float32] = field(repr=False)
    points: NDArray[np.float32] = field(repr=False)
    outlines: tuple[NDArray[np.float32], NDArray[np.int64]] | None = field(repr=False)
    classes: NDArray[np.int32] | None = field(repr=False)
    class_prob: NDArray[np.float32] | None = field(repr=False)
    n_tiles: int = 0
    n_resumed: int = 0
    polyhedra: Polyhedra | None = field(default=None, repr=False)

    def __len__(self) -> int:
        """How many objects there are."""
        return len(self.scores)

    def __repr__(self) -> str:
        sides, unit = " x ".join(map(str, self.shape)), "pixels" if len(self.shape) == 2 else "voxels"
        return f"LargeInstances({len(self)} objects in {sides} {unit}, {self.n_tiles} tiles)"
