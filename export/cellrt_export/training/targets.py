"""What a star network must predict: labels (Y, X) -> object probability and ray lengths on the grid.

Exact twins of StarDist's `star_dist` (C++, 2D) and `edt_prob`, so that a network trained here means the same
as one trained there. Not here: augmentation, shape completion, 3D.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage


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
    (1 - 0.5 / max(|sin|, |cos|)) of a step is taken back: the border lies between the last two pixels.
    Source: `_COMMON_star_dist` in stardist/lib/stardist2d.cpp.
    """
    angles = np.arange(n_rays, dtype=np.float32) * np.float32(2 * np.pi / n_rays)
    step_y, step_x = np.sin(angles), np.cos(angles)
    taken_back = 1 - np.float32(0.5) / np.maximum(np.abs(step_y), np.abs(step_x))

    height, width = labels.shape
    frame = np.pad(labels, 1)  # outside is background, and no walk goes further than one pixel out
    start_y = np.arange(0, height, grid[0], dtype=np.float32)
    start_x = np.arange(0, width, grid[1], dtype=np.float32)
    dist = np.zeros((n_rays, start_y.size, start_x.size), np.float32)

    # every (ray, object pixel) pair walks at once; those that have arrived leave the lists
    gy, gx = np.nonzero(labels[:: grid[0], :: grid[1]])
    rays = np.arange(n_rays)[:, None]
    at_y, at_x = (rays * start_y.size + gy).ravel(), (rays * start_x.size + gx).ravel()
    place = ((rays * start_y.size + gy) * start_x.size + gx).ravel()
    own = np.tile(labels[gy * grid[0], gx * grid[1]], n_rays)
    # the offset is a running float32 sum, as in the original: k * step rounds differently
    offset_y, offset_x = np.zeros(n_rays, np.float32), np.zeros(n_rays, np.float32)
    while place.size:
        offset_y += step_y
        offset_x += step_x
        # a pixel depends on y through (ray, gy) alone, and on x through (ray, gx): two small tables
        y = np.clip(np.rint(start_y + offset_y[:, None]), -1, height).astype(np.intp) + 1
        x = np.clip(np.rint(start_x + offset_x[:, None]), -1, width).astype(np.intp) + 1
        pixel = (y * frame.shape[1]).ravel()[at_y] + x.ravel()[at_x]
        inside = frame.ravel()[pixel] == own

        length = np.hypot(offset_y - taken_back * step_y, offset_x - taken_back * step_x)
        arrived = place[~inside]
        dist.ravel()[arrived] = length[arrived // (start_y.size * start_x.size)]
        at_y, at_x, place, own = at_y[inside], at_x[inside], place[inside], own[inside]
    return dist


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
    coarse = np.ascontiguousarray(labels[:: grid[0], :: grid[1]])
    prob = np.zeros(coarse.shape, np.float32)
    if coarse.size and coarse.min() == coarse.max() > 0:
        # one object and no border anywhere: the frame has to serve
        whole: NDArray[np.float64] = ndimage.distance_transform_edt(np.pad(np.ones(coarse.shape), 1))
        return np.asarray(whole[1:-1, 1:-1] / (whole.max() + 1e-10), np.float32)
    for label, box in enumerate(ndimage.find_objects(coarse), start=1):
        if box is None:
            continue
        # one pixel more where there is one, so that the box itself is no border
        grown = tuple(slice(max(0, s.start - 1), s.stop + 1) for s in box)
        mask = coarse[grown] == label
        edt = ndimage.distance_transform_edt(mask)
        prob[grown][mask] = (edt / (edt.max() + 1e-10))[mask]
    return prob
