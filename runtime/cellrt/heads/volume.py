"""Objects of volumes from label volumes, however those were made. Knows no maps."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cellrt.instances import Instances


def from_labels(
    labels: NDArray[np.int32], n_labels: int, *, scores: NDArray[np.float32] | None = None, threads: int = 0
) -> Instances:
    """Instances of a label volume, int32 (Z, Y, X) in 0..n_labels; `scores` (n_labels,) are 1 by default.

    `points` are the means of their voxels, -1 for a label that does not occur, as for images.
    """
    counts = np.zeros(n_labels + 1)
    sums = np.zeros((3, n_labels + 1))
    for z, plane in enumerate(labels):
        inside = np.flatnonzero(plane)
        found = plane.reshape(-1)[inside]
        y, x = np.divmod(inside, plane.shape[1])
        of_plane = np.bincount(found, minlength=n_labels + 1)
        counts += of_plane
        sums[0] += z * of_plane
        sums[1] += np.bincount(found, y, n_labels + 1)
        sums[2] += np.bincount(found, x, n_labels + 1)
    points = np.where(counts > 0, sums / np.maximum(counts, 1), -1)[:, 1:].T.astype(np.float32, order="C")
    if scores is None:
        scores = np.ones(n_labels, np.float32)
    return Instances(labels, scores, points, None)
