"""The overlay: an image with the outline of every object, as a picture for people.

Takes the image as (C, Y, X) and outlines as coords and offsets; gives RGB pixels. Knows no files and no formats.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellrt.write.polygons import successors

MIN_SIDE = 1024  # pixels: smaller images are enlarged to about this, so that a line is thin beside a cell
MAX_FACTOR = 8
# Line colours that differ from each other and from the picture: for fluorescence and for stained or brightfield images.
PALETTE_ON_DARK = (
    (255, 221, 51), (0, 212, 255), (102, 238, 68), (255, 119, 34), (255, 85, 204), (85, 136, 255), (255, 255, 255),
)  # fmt: skip
PALETTE_ON_BRIGHT = (
    (0, 140, 60), (16, 16, 16), (220, 50, 0), (0, 120, 170), (255, 225, 0), (0, 230, 190),
)  # fmt: skip
_HALF_WIDTH = 0.8  # of a line, pixels of the picture
_SPACING = 0.5  # of the samples of a line, pixels of the picture
_CONTRAST = (0.3, 99.7)  # percentiles that become black and white
_SAMPLES = 1_000_000  # pixels that the contrast is measured on, samples that are drawn at once


def draw(image: NDArray[Any], outlines: tuple[NDArray[np.float32], NDArray[np.int64]]) -> NDArray[np.uint8]:
    """Draw outlines into an image.

    Parameters
    ----------
    image : array (C, Y, X)
        Any numeric dtype. One channel is shown in gray, two in green and magenta, the first three of more as red,
        green and blue.
    outlines : (float32 (m, 2), int64 (n + 1,))
        As in `Instances`; objects near each other get different colours.

    Returns
    -------
    uint8 (Y * f, X * f, 3)
        f is a whole number, 1 for images of `MIN_SIDE` pixels and more.
    """
    from PIL import Image

    picture = _picture(image)
    height, width = picture.shape[:2]
    factor = int(np.clip(-(-MIN_SIDE // max(height, width)), 1, MAX_FACTOR))
    if factor > 1:
        enlarged = Image.fromarray(picture).resize((width * factor, height * factor), Image.Resampling.BICUBIC)
        picture = np.array(enlarged)
    # A pixel's centre is at its integer coordinate: after enlarging, pixel 0's is at (factor - 1) / 2.
    coords = outlines[0].astype(np.float64) * factor + (factor - 1) / 2
    palette = np.array(PALETTE_ON_BRIGHT if np.median(picture[::7, ::7]) > 127 else PALETTE_ON_DARK, np.uint8)
    colours = _colours(coords, outlines[1], picture.shape, len(palette))
    _draw_lines(picture, coords, outlines[1], colours, palette)
    return picture


def _picture(image: NDArray[Any]) -> NDArray[np.uint8]:
    """(C, Y, X) -> uint8 (Y, X, 3) with the contrast stretched."""
    image = image[:3]
    step = max(1, round((image[0].size / _SAMPLES) ** 0.5))
    sample = image[:, ::step, ::step].astype(np.float32)
    # colours of 8 bits are a picture already: one stretch for all of them keeps the hues
    joint = len(image) == 3 and image.dtype == np.uint8
    low, high = np.percentile(sample, _CONTRAST, axis=None if joint else (1, 2), keepdims=True).astype(np.float32)
    planes = np.empty(image.shape, np.uint8)
    for plane, channel, black, white in zip(
        planes, image, np.broadcast_to(low.ravel(), len(image)), np.broadcast_to(high.ravel(), len(image)), strict=True
    ):
        gain = 255 / max(white - black, np.float32(1e-20))
        plane[:] = np.clip((channel.astype(np.float32) - black) * gain + 0.5, 0, 255)
    if len(planes) == 2:
        planes = planes[[1, 0, 1]]  # the first channel green, the second magenta
    return np.ascontiguousarray(np.broadcast_to(planes, (3, *planes.shape[1:])).transpose(1, 2, 0))


def _colours(
    coords: NDArray[np.float64], offsets: NDArray[np.int64], shape: tuple[int, ...], n_colours: int
) -> NDArray[np.uint16]:
    """A colour number for each object, by preference one that no object near it has; uint16 (n,)."""
    cell = 8  # pixels: bits of the colours around are kept on a grid of these
    taken = np.zeros((shape[0] // cell + 3, shape[1] // cell + 3), np.uint8)
    uses = [0] * n_colours
    colours = np.zeros(len(offsets) - 1, np.uint16)
    limits = np.array(taken.shape) - 1
    for i, (begin, end) in enumerate(zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)):
        if begin == end:
            continue
        cells = np.clip(coords[begin:end] // cell, -1, limits).astype(np.int64)
        y_begin, x_begin = np.maximum(cells.min(0), 0).tolist()
        y_end, x_end = (cells.max(0) + 2).tolist()
        around = taken[y_begin:y_end, x_begin:x_end]
        used = int(np.bitwise_or.reduce(around, axis=None))
        free = [colour for colour in range(n_colours) if not used >> colour & 1]
        colour = min(free or range(n_colours), key=uses.__getitem__)
        around |= np.uint8(1 << colour)
        uses[colour] += 1
        colours[i] = colour
    return colours


def _draw_lines(
    picture: NDArray[np.uint8],
    coords: NDArray[np.float64],
    offsets: NDArray[np.int64],
    colours: NDArray[np.uint16],
    palette: NDArray[np.uint8],
) -> None:
    """Draw closed polygons into the picture (Y, X, 3), with smooth edges; where lines meet, the nearer one shows."""
    margin = 3  # so that what a line outside of the picture covers needs no check
    counts = np.diff(offsets)
    delta = coords[successors(offsets)] - coords
    # Cut the edges off at the picture's sides (Liang and Barsky): no outline costs more than the picture is long.
    with np.errstate(divide="ignore", invalid="ignore"):
        low = (-1.5 - coords) / delta
        high = (np.array(picture.shape[:2]) + 0.5 - coords) / delta
    enter = np.maximum(np.fmax.reduce(np.fmin(low, high), axis=1), 0)
    leave = np.minimum(np.fmin.reduce(np.fmax(low, high), axis=1), 1)
    inside = enter < leave
    enter, leave, delta = enter[inside, None], leave[inside, None], delta[inside]
    start, delta = coords[inside] + delta * enter, delta * (leave - enter)
    colour = np.repeat(colours, counts)[inside]

    # Per pixel coverage * 256 + colour: the maximum is the nearest line, whatever the order.
    layer = np.zeros((picture.shape[0] + 2 * margin, picture.shape[1] + 2 * margin), np.uint16)
    steps = np.ceil(np.hypot(*delta.T) / _SPACING).astype(np.int64) + 1
    ends = np.cumsum(steps)
    for first, last in _chunks(ends):
        k = steps[first:last]
        at = (np.arange(k.sum()) - np.repeat(ends[first:last] - k - (ends[first] - k[0]), k)) / np.repeat(k, k)
        points = np.repeat(start[first:last], k, axis=0) + np.repeat(delta[first:last], k, axis=0) * at[:, None]
        nearest = np.rint(points).astype(np.int64)
        for step in itertools.product((-1, 0, 1), repeat=2):
            pixel = nearest + np.array(step)
            coverage = np.clip(_HALF_WIDTH + 0.5 - np.hypot(*(pixel - points).T), 0, 1) * 255
            key = coverage.astype(np.uint16) * np.uint16(256) + np.repeat(colour[first:last], k)
            np.maximum.at(layer, (pixel[:, 0] + margin, pixel[:, 1] + margin), key)
    layer = layer[margin:-margin, margin:-margin]
    y, x = np.nonzero(layer >= 256)
    alpha = (layer[y, x] >> 8).astype(np.float32)[:, None] / 255
    picture[y, x] = picture[y, x] * (1 - alpha) + palette[layer[y, x] & 255] * alpha + 0.5


def _chunks(ends: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Runs of edges of about `_SAMPLES` samples each; `ends` is the running sum of the samples."""
    first = 0
    while first < len(ends):
        done = int(ends[first - 1]) if first else 0
        last = max(first + 1, int(np.searchsorted(ends, done + _SAMPLES, side="right")))
        yield first, last
        first = last
