"""Slow, obvious twins of the kernels that resample images and trace labels, from their descriptions in cellrt.h.

Signatures are those of cellrt.kernels without `threads`. For tests only: small inputs, plain loops.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def resize_linear(
    image: NDArray[np.float32], out_shape: tuple[int, int], single_precision: bool
) -> NDArray[np.float32]:
    """Sample by sample: between two pixels of each of two rows, then between the rows."""
    if single_precision and image.shape[1:] == (2 * out_shape[0], 2 * out_shape[1]):
        total = image[:, ::2, ::2] + image[:, ::2, 1::2]
        total = total + image[:, 1::2, ::2]
        return (total + image[:, 1::2, 1::2]) * np.float32(0.25)

    def neighbours(d: int, n: int, n_out: int) -> tuple[int, int, np.float32]:
        if single_precision:
            position = float(np.float32((d + 0.5) * (1 / (n_out / n)) - 0.5))
        else:
            position = (d + 0.5) * (n / n_out) - 0.5
        before = math.floor(position)
        clamped = [min(max(pixel, 0), n - 1) for pixel in (before, before + 1)]
        return clamped[0], clamped[1], np.float32(position - before)

    def between(a: np.float32, b: np.float32, fraction: np.float32) -> np.float32:
        if single_precision:
            return a * (np.float32(1) - fraction) + b * fraction
        return np.float32(float(b - a) * float(fraction) + float(a))

    out = np.empty((len(image), *out_shape), np.float32)
    for c, y, x in np.ndindex(*out.shape):
        above, below, down = neighbours(y, image.shape[1], out_shape[0])
        left, right, along = neighbours(x, image.shape[2], out_shape[1])
        if left == right:  # not so between rows: there, weights that do not add up to 1 tell
            along = np.float32(0)
        upper = between(image[c, above, left], image[c, above, right], along)
        lower = between(image[c, below, left], image[c, below, right], along)
        out[c, y, x] = between(upper, lower, down)
    return out


def parts(mask: NDArray[np.bool_], diagonally: bool) -> list[set[tuple[int, int]]]:
    """The connected parts of a mask, by their first pixel in row-major order; 4-connected, or 8-connected."""
    around = [(-1, 0), (0, -1), (0, 1), (1, 0)] + [(-1, -1), (-1, 1), (1, -1), (1, 1)] * diagonally
    left = {(int(y), int(x)) for y, x in np.argwhere(mask)}
    found = []
    for start in sorted(left):
        if start not in left:
            continue
        left.remove(start)
        part, border = {start}, [start]
        while border:
            y, x = border.pop()
            for pixel in [(y + dy, x + dx) for dy, dx in around]:
                if pixel in left:
                    left.remove(pixel)
                    part.add(pixel)
                    border.append(pixel)
        found.append(part)
    return found


def largest_part(mask: NDArray[np.bool_]) -> set[tuple[int, int]]:
    """The 4-connected part of most pixels, of equal ones the first; empty if there is none."""
    return max(parts(mask, diagonally=False), key=len, default=set())


def without_holes(part: set[tuple[int, int]], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """The part and all that no way around it leads to, diagonal steps allowed."""
    outside = np.ones((shape[0] + 2, shape[1] + 2), bool)
    for y, x in part:
        outside[y + 1, x + 1] = False
    filled = np.ones_like(outside)
    for y, x in parts(outside, diagonally=True)[0]:
        filled[y, x] = False
    return filled[1:-1, 1:-1]


def label_outlines_2d(labels: NDArray[np.int32], n_labels: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Lay an arrow along each edge between the part and what is not, the part on its right, and follow the arrows."""
    coords: list[tuple[float, float]] = []
    offsets = [0]
    for label in range(1, n_labels + 1):
        part = largest_part(labels == label)
        arrows: dict[tuple[int, int], set[tuple[int, int]]] = {}  # from a corner, towards
        for y, x in part:
            sides = [((-1, 0), (y, x), (0, 1)), ((0, 1), (y, x + 1), (1, 0))]  # the pixel beyond, corner, direction
            sides += [((1, 0), (y + 1, x + 1), (0, -1)), ((0, -1), (y + 1, x), (-1, 0))]
            for (dy, dx), corner, direction in sides:
                if (y + dy, x + dx) not in part:
                    arrows.setdefault(corner, set()).add(direction)
        if part:
            start = corner = min(part)
            direction = (0, 1)
            turns = [start]
            while (corner := (corner[0] + direction[0], corner[1] + direction[1])) != start:
                rightward = (direction[1], -direction[0])
                (towards,) = arrows[corner] if len(arrows[corner]) == 1 else [rightward]
                if towards != direction:
                    turns.append(corner)
                direction = towards
            coords += [(y - 0.5, x - 0.5) for y, x in turns]
        offsets.append(len(coords))
    return np.array(coords, np.float32).reshape(-1, 2), np.array(offsets, np.int64)
