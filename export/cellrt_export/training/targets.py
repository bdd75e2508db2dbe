"""What a star network must predict: labels (Y, X) -> object probability and ray lengths on the grid.

The kernels give what StarDist's `star_dist` (C++, 2D) and `edt_prob` give, so that a network trained here means the
same as one trained there. Not here: augmentation, shape completion, 3D.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cellrt import kernels


def star_distances(labels: NDArray[np.integer], *, n_rays: int, grid: tuple[int, int]) -> NDArray[np.float32]:
    """Length of each ray from each grid point to the border of its object.

    Parameters
    ----------
    labels : (Y, X), 0 = background.
    n_rays : rays at equal angles; ray 0 points to +x, the angle grows towards +y.
    grid : every `grid`-th pixel along y and x is a grid point.

    Returns
    -------
    dist : (n_rays, ceil(Y / grid_y), ceil(X / grid_x)) float32, pixels; 0 in the background.

    Notes
    -----
    Each ray walks in unit steps, in float32, to the first pixel of another label or outside the image. Then
    (1 - 0.5 / max(|sin|, |cos|)) of a step is taken back: the border lies between the last two pixels. Sines and
    cosines are rounded from double precision: StarDist's to the bit with 8, 16 or 32 rays, and within 2e-6 with others.
    Source: `_COMMON_star_dist` in stardist/lib/stardist2d.cpp.
    """
    return kernels.star_distances_2d(_as_labels(labels), n_rays=n_rays, grid=grid, threads=1)


def edt_probability(labels: NDArray[np.integer], *, grid: tuple[int, int]) -> NDArray[np.float32]:
    """Object probability: Euclidean distance to the border of the own object over its maximum there.

    Parameters
    ----------
    labels : (Y, X), 0 = background.
    grid : the labels are subsampled first, as StarDist does in 2D.

    Returns
    -------
    prob : (ceil(Y / grid_y), ceil(X / grid_x)) float32 in [0, 1], 0 in the background.

    Notes
    -----
    The frame of the image is not a border: an object cut by it may be highest there.
    Source: `_edt_prob_scipy` in stardist/utils.py.
    """
    coarse = _as_labels(labels[:: grid[0], :: grid[1]])
    return kernels.object_probability_2d(coarse, n_labels=int(coarse.max(initial=0)), threads=1)


def _as_labels(labels: NDArray[np.integer]) -> NDArray[np.int32]:
    """What the kernels take: contiguous int32."""
    return np.ascontiguousarray(labels, np.int32)
