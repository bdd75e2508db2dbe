"""Objects of volumes from label volumes, however those were made. Knows no maps."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cellrt import kernels
from cellrt.instances import Instances


def from_labels(
    labels: NDArray[np.int32], n_labels: int, *, scores: NDArray[np.float32] | None = None, threads: int = 0
) -> Instances:
    """Instances of a label volume, int32 (Z, Y, X) in 0..n_labels; `scores` (n_labels,) are 1 by default.

    `points` are the means of their voxels, -1 for a label that does not occur, as for images.
    """
    _, _, centroids = kernels.label_regions_3d(labels, n_labels=n_labels, threads=threads)
    if scores is None:
        scores = np.ones(n_labels, np.float32)
    return Instances(labels, scores, centroids.astype(np.float32), None)
