"""Slow, obvious twins of the kernels of a star network's training targets, written from csrc/include/cellrt.h.

Signatures are those of cellrt.kernels without `threads`. For tests only: small inputs, plain loops.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def star_distances_2d(labels: NDArray[np.int32], n_rays: int, grid: tuple[int, int]) -> NDArray[np.float32]:
    """One pixel, one ray, one step at a time."""
    height, width = labels.shape
    samples = labels[:: grid[0], :: grid[1]]
    dist = np.zeros((n_rays, *samples.shape), np.float32)
    one, half = np.float32(1), np.float32(0.5)
    for i, j in np.argwhere(samples):
        own = samples[i, j]
        for k in range(n_rays):
            angle = float(np.float32(k) * np.float32(2 * math.pi / n_rays))
            step_y, step_x = np.float32(math.sin(angle)), np.float32(math.cos(angle))
            y = x = np.float32(0)
            row, column = i * grid[0], j * grid[1]
            while 0 <= row < height and 0 <= column < width and labels[row, column] == own:
                y, x = y + step_y, x + step_x
                row = int(np.rint(np.float32(i * grid[0]) + y))
                column = int(np.rint(np.float32(j * grid[1]) + x))
            back = one - half / max(abs(step_y), abs(step_x))
            y, x = y - back * step_y, x - back * step_x
            dist[k, i, j] = np.sqrt(y * y + x * x)
    return dist


def object_probability_2d(labels: NDArray[np.int32]) -> NDArray[np.float32]:
    """Every pixel of an object against every pixel of another label; the frame counts for one object that is all."""
    is_whole = labels.size > 0 and labels.min() == labels.max() > 0
    framed = np.pad(labels, 1) if is_whole else labels
    pixels = np.argwhere(np.ones(framed.shape, bool))
    prob = np.zeros(framed.shape, np.float32)
    for label in np.unique(framed[framed > 0]):
        inside, outside = pixels[framed.ravel() == label], pixels[framed.ravel() != label]
        nearest = np.sqrt(((inside[:, None] - outside[None]) ** 2).sum(2).min(1))
        prob[tuple(inside.T)] = nearest / (nearest.max() + 1e-10)
    return prob[1:-1, 1:-1] if is_whole else prob
