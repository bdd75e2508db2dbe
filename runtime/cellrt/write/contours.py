"""The outermost pixels of every label, in the order in which one walks around it.

The walk keeps to pixels that touch at a side or a corner, as OpenCV's `findContours` does (Suzuki and Abe, 1985, outer
borders only), begins at the first pixel of each part by rows and goes counterclockwise on a screen. `Instances` has
outlines of another kind: along the edges of pixels, of parts that touch at a side. Knows label images; never files.
"""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray


def contours(labels: NDArray[np.int32]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int32]]:
    """Walk around every part of every label.

    Parameters
    ----------
    labels : int32 (Y, X)
        0 is background.

    Returns
    -------
    pixels : int64 (m, 2)
        (y, x). A pixel where the part is one pixel wide occurs each time that the walk passes it.
    offsets : int64 (k + 1,)
        Part i has the pixels ``pixels[offsets[i]:offsets[i + 1]]``.
    owners : int32 (k,)
        The label of each part, which are in the order of their first pixels by rows. A part that lies in a hole of the
        same label is listed too, which OpenCV would not.
    """
    width = labels.shape[1] + 2
    framed = np.pad(labels, 1).reshape(-1)
    ahead = (1, width, -1, -width)  # steps right, down, left, up
    # An edge between a pixel and another label is walked along with the pixel at the left hand: `inside[d]` are the
    # pixels whose edge is walked in direction d, the other label being at the right hand.
    inside = [
        np.flatnonzero((framed != 0) & (framed != np.roll(framed, -ahead[(direction + 1) % 4])))
        for direction in range(4)
    ]
    begins = [0, *itertools.accumulate(map(len, inside))]
    following = np.empty(begins[4], np.int64)
    for direction, at in enumerate(inside):
        right, left = (direction + 1) % 4, (direction - 1) % 4
        front = at + ahead[direction]
        corner = front + ahead[right]
        to_corner = framed[corner] == framed[at]
        to_front = ~to_corner & (framed[front] == framed[at])
        around = ~to_corner & ~to_front
        target = following[begins[direction] : begins[direction + 1]]
        for chosen, pixels, turned in ((to_corner, corner, right), (to_front, front, direction), (around, at, left)):
            target[chosen] = begins[turned] + np.searchsorted(inside[turned], pixels[chosen])

    walks: list[int] = []
    offsets, owners = [0], []
    pixel_of, successor = np.concatenate(inside).tolist(), following.tolist()
    # Every walk comes down along the left side of a pixel. Of an outer one the first such pixel by rows has nothing of
    # its label up and left of it; around a hole that pixel is at the right of the hole's first row, whose upper side
    # is the label's.
    is_outer = framed[inside[1] - width - 1] != framed[inside[1]]
    for first, outer in zip(range(begins[1], begins[2]), is_outer.tolist(), strict=True):
        edge = first
        walk: list[int] = []
        while successor[edge] >= 0:
            if not walk or pixel_of[edge] != walk[-1]:  # once, along however many of its sides the walk leads
                walk.append(pixel_of[edge])
            successor[edge], edge = -1, successor[edge]
        if not walk or not outer:
            continue
        if len(walk) > 1 and walk[-1] == walk[0]:
            del walk[-1]
        walks += walk
        offsets.append(len(walks))
        owners.append(framed[walk[0]])
    found = np.array(walks, np.int64)
    pixels = np.stack([found // width - 1, found % width - 1], axis=1)
    return pixels, np.array(offsets, np.int64), np.array(owners, np.int32)
