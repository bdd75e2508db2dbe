"""The overlay: an image with the outline of every object, as a picture for people.

Takes the image as (C, Y, X) and outlines as coords and offsets, or a volume as (C, Z, Y, X) and its labels, of which
three sections are shown: outlines of whole bodies would cover each other. Gives RGB pixels. Knows no files and no
formats.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellrt import kernels
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
_GAP = 4  # pixels between sections
_MOST_STRETCH = 4  # times the longer of the other sides: z becomes no longer by an anisotropy

_Outlines = tuple[NDArray[np.float32], NDArray[np.int64]]


def draw(image: NDArray[Any], outlines: _Outlines) -> NDArray[np.uint8]:
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
    picture, coords = _enlarged(_picture(image, _contrast(image)), outlines[0])
    palette = _palette(picture)
    _draw_lines(picture, coords, outlines[1], _colours(coords, outlines[1], picture.shape[:2], len(palette)), palette)
    return picture


def draw_sections(
    image: NDArray[Any], labels: NDArray[np.int32], boxes: NDArray[np.int32], anisotropy: float
) -> NDArray[np.uint8]:
    """Draw the outlines of labels into three sections through a volume, each where it cuts the most objects.

    Parameters
    ----------
    image : array (C, Z, Y, X)
        Shown as an image's channels are; the contrast is that of the three sections.
    labels : int32 (Z, Y, X)
        0..n. Of a label that a section cuts into parts, the largest is outlined.
    boxes : int32 (n, 6)
        Of the labels, as `kernels.label_regions_3d` has them. An object has one colour in all sections.
    anisotropy : float
        From plane to plane, pixels: the sections along z are stretched by it.

    Returns
    -------
    uint8 (height, width, 3)
        At the upper left a plane (Y, X), with the section (Y, Z) at its right and (Z, X) below. White ticks between
        them are where the others cut. Enlarged as in `draw`.
    """
    n_z, n_y, n_x = labels.shape
    cuts = [_richest(boxes[:, axis], boxes[:, axis + 3], side) for axis, side in enumerate(labels.shape)]
    z, y, x = cuts
    images = image[:, z], image[:, :, y], image[..., x].swapaxes(1, 2)
    planes = labels[z], labels[:, y], labels[..., x].T
    depth = max(1, min(round(n_z * anisotropy), max(n_z, _MOST_STRETCH * max(n_y, n_x))))
    anisotropy = depth / n_z
    below, beside = n_y + _GAP, n_x + _GAP
    places = ((0, 0, n_y, n_x), (below, 0, depth, n_x), (0, beside, n_y, depth))  # row, column, height, width

    picture = np.zeros((below + depth, beside + depth, 3), np.uint8)
    limits = _contrast(np.concatenate([section.reshape(len(image), 1, -1) for section in images], axis=2))
    shown, coords, counts = [], [], []
    for section, plane, (row, column, height, width) in zip(images, planes, places, strict=True):
        shown.append(_resized(_picture(section, limits), height, width))
        picture[row : row + height, column : column + width] = shown[-1]
        vertices, offsets = kernels.label_outlines_2d(np.ascontiguousarray(plane), n_labels=len(boxes), threads=1)
        stretch = np.divide((height, width), plane.shape)
        coords.append((vertices + 0.5) * stretch - 0.5 + (row, column))
        counts.append(np.diff(offsets))
    stretched_z = min(int((z + 0.5) * depth / n_z), depth - 1)
    picture[[y, below + stretched_z], n_x + 1 : beside - 1] = 255
    picture[n_y + 1 : below - 1, [x, beside + stretched_z]] = 255

    palette = _palette(np.concatenate([part.reshape(1, -1, 3) for part in shown], axis=1))
    # An object that no section shows takes no colour away from others.
    is_shown = np.any((boxes[:, :3] <= cuts) & (cuts < boxes[:, 3:]), axis=1)
    corners = boxes[is_shown].reshape(-1, 3) * np.array([anisotropy, 1, 1])
    colours = _colours(corners, np.append(0, np.cumsum(2 * is_shown)), (depth, n_y, n_x), len(palette))
    picture, lines = _enlarged(picture, np.concatenate(coords))
    ends = np.append(0, np.cumsum(np.concatenate(counts)))
    _draw_lines(picture, lines, ends, np.tile(colours, 3), palette)
    return picture


def _richest(begins: NDArray[np.int32], ends: NDArray[np.int32], side: int) -> int:
    """Of the places 0..side - 1 one that the most ranges begin..end hold; of several the one next to the middle."""
    steps = np.bincount(begins, minlength=side + 1) - np.bincount(ends, minlength=side + 1)
    held = np.cumsum(steps)[:side]
    places = np.flatnonzero(held == held.max())
    return int(places[np.abs(2 * places - (side - 1)).argmin()])


def _enlarged(picture: NDArray[np.uint8], coords: NDArray[Any]) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """A small picture and coordinates in it, enlarged."""
    height, width = picture.shape[:2]
    factor = int(np.clip(-(-MIN_SIDE // max(height, width)), 1, MAX_FACTOR))
    # A pixel's centre is at its integer coordinate: after enlarging, pixel 0's is at (factor - 1) / 2.
    moved = coords.astype(np.float64) * factor + (factor - 1) / 2
    return _resized(picture, height * factor, width * factor), moved


def _resized(picture: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """The picture in another size."""
    from PIL import Image

    if picture.shape[:2] == (height, width):
        return picture
    return np.array(Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC))


def _palette(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Line colours for a picture."""
    return np.array(PALETTE_ON_BRIGHT if np.median(picture[::7, ::7]) > 127 else PALETTE_ON_DARK, np.uint8)


def _contrast(image: NDArray[Any]) -> NDArray[np.float32]:
    """What becomes black and white in each channel of an image (C, Y, X) that is shown; (2, C)."""
    image = image[:3]
    step = max(1, round((image[0].size / _SAMPLES) ** 0.5))
    sample = image[:, ::step, ::step].astype(np.float32)
    # colours of 8 bits are a picture already: one stretch for all of them keeps the hues
    joint = len(image) == 3 and image.dtype == np.uint8
    limits = np.percentile(sample, _CONTRAST, axis=None if joint else (1, 2)).astype(np.float32)
    return np.broadcast_to(limits.reshape(2, -1), (2, len(image)))


def _picture(image: NDArray[Any], limits: NDArray[np.float32]) -> NDArray[np.uint8]:
    """(C, Y, X) -> uint8 (Y, X, 3) with the contrast stretched."""
    image = image[:3]
    planes = np.empty(image.shape, np.uint8)
    for plane, channel, black, white in zip(planes, image, *limits, strict=True):
        gain = 255 / max(white - black, np.float32(1e-20))
        plane[:] = np.clip((channel.astype(np.float32) - black) * gain + 0.5, 0, 255)
    if len(planes) == 2:
        planes = planes[[1, 0, 1]]  # the first channel green, the second magenta
    return np.ascontiguousarray(np.broadcast_to(planes, (3, *planes.shape[1:])).transpose(1, 2, 0))


def _colours(
    coords: NDArray[np.float64], offsets: NDArray[np.int64], shape: tuple[int, ...], n_colours: int
) -> NDArray[np.uint16]:
    """A colour number for each object, by preference one that no object near it has; uint16 (n,).

    `coords` are points of each object in two or three dimensions, whose box counts; `shape` is that of the image.
    """
    cell = 8  # pixels: bits of the colours around are kept on a grid of these
    taken = np.zeros([side // cell + 3 for side in shape], np.uint8)
    uses = [0] * n_colours
    colours = np.zeros(len(offsets) - 1, np.uint16)
    limits = np.array(taken.shape) - 1
    for i, (begin, end) in enumerate(zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)):
        if begin == end:
            continue
        cells = np.clip(coords[begin:end] // cell, -1, limits).astype(np.int64)
        around = taken[tuple(map(slice, np.maximum(cells.min(0), 0).tolist(), (cells.max(0) + 2).tolist()))]
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
