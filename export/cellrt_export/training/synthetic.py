"""Drawn microscopy images with exact masks: what the real sets lack, and ground without objects.

Doors: `nuclei(seed, n)` and `cells(seed, n)` give samples; the same seed gives the same images. They are rough on
purpose: their use is variety of size, density, light, blur and noise, not likeness.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cellrt_export.training.data import Normalise, Sample

Array = NDArray[np.float64]
Drawing = Callable[[np.random.Generator], tuple[Array, NDArray[np.int32]]]

_SIDE = 288  # pixels


def nuclei(seed: int, n: int, normalise: Normalise) -> list[Sample]:
    """Fluorescent nuclei of 8 to 50 pixels, single and in clumps; every twelfth image is empty ground."""
    return _samples("nuclei", seed, n, normalise, _draw_nuclei)


def cells(seed: int, n: int, normalise: Normalise) -> list[Sample]:
    """Whole cells of 20 to 60 pixels, sparse to confluent: filled, with dark or bright nuclei, or rims only."""
    return _samples("cells", seed, n, normalise, _draw_cells)


def _samples(name: str, seed: int, n: int, normalise: Normalise, draw: Drawing) -> list[Sample]:
    samples = []
    for k in range(n):
        image, labels = draw(np.random.default_rng((seed, k)))
        low, high = image.min(), image.max()
        pixels = np.rint((image - low) / (high - low) * 65535).astype(np.uint16)
        samples.append(Sample(f"synthetic {name}/{k}", pixels[None], labels, normalise, cluster=k))
    return samples


def _draw_nuclei(rng: np.random.Generator) -> tuple[Array, NDArray[np.int32]]:
    """One image (Y, X) and its labels."""
    diameter = float(np.exp(rng.uniform(np.log(8), np.log(50))))
    most = int(rng.uniform(0.02, 0.9) * (_SIDE / diameter) ** 2)
    n = 0 if rng.random() < 1 / 12 else max(1, most)
    n_clumps = max(1, int(n * rng.uniform(0.05, 0.6)))
    clumps = rng.uniform(0, _SIDE, (n_clumps, 2))
    labels = np.zeros((_SIDE, _SIDE), np.int32)
    light = np.zeros((_SIDE, _SIDE))
    contrast = rng.uniform(0.1, 0.6)  # between nuclei
    touching = rng.uniform(0.75, 1.05)  # overlap that is allowed: 1 and more is none
    placed: list[tuple[float, float, float]] = []
    for _ in range(4 * n):
        if len(placed) == n:
            break
        loose = rng.random() < 0.5
        y, x = rng.uniform(0, _SIDE, 2) if loose else clumps[rng.integers(n_clumps)] + rng.normal(0, 2 * diameter, 2)
        radius = diameter / 2 * float(np.exp(rng.normal(0, 0.2)))
        if any((y - v) ** 2 + (x - u) ** 2 < (touching * (radius + r)) ** 2 for v, u, r in placed):
            continue
        placed.append((y, x, radius))
        box, inside, depth = _blob(rng, y, x, radius)
        free = inside & (labels[box] == 0)
        if not free.any():
            continue
        labels[box][free] = len(placed)
        texture = 1 + rng.uniform(0, 0.35) * _texture(rng, inside.shape, radius / rng.uniform(2, 6))
        height = float(np.exp(rng.normal(0, contrast))) * texture * depth ** rng.uniform(0, 0.7)
        light[box] = np.where(inside, np.maximum(light[box], height), light[box])
    labels = _renumber(labels)
    image = ndimage.gaussian_filter(light, rng.uniform(0.5, max(0.8, min(2.5, diameter / 10))))
    if rng.random() < 0.5:  # out of focus, above or below
        ghosts = ndimage.gaussian_filter(
            np.roll(light, rng.integers(0, _SIDE, 2), (0, 1)), diameter * rng.uniform(0.3, 1)
        )
        image = image + rng.uniform(0, 0.5) * ghosts
    ground = rng.uniform(0, 0.4) * (1 + rng.uniform(0, 0.6) * _texture(rng, image.shape, rng.uniform(10, 80)))
    return _noisy(rng, image + ground), labels


def _draw_cells(rng: np.random.Generator) -> tuple[Array, NDArray[np.int32]]:
    """One image (Y, X) and its labels: regions around centres, cut where they meet, with warped borders."""
    diameter = float(np.exp(rng.uniform(np.log(20), np.log(60))))
    n = max(2, int(rng.uniform(0.1, 1.3) * (_SIDE / diameter) ** 2))
    centres = rng.uniform(-diameter / 2, _SIDE + diameter / 2, (n, 2))
    sizes = diameter / 2 * np.exp(rng.normal(0, 0.25, n))
    turns, lengths = rng.uniform(0, np.pi, n), np.exp(np.abs(rng.normal(0, 0.35, n)))
    warp = rng.uniform(0.02, 0.16) * diameter
    y, x = np.indices((_SIDE, _SIDE)).astype(float)
    y += warp * _texture(rng, y.shape, diameter * 0.35)
    x += warp * _texture(rng, x.shape, diameter * 0.35)
    nearest = np.full((_SIDE, _SIDE), 1.0)  # distance from a centre over the size of its cell; 1: the border
    labels = np.zeros((_SIDE, _SIDE), np.int32)
    for k, ((cy, cx), size, turn, length) in enumerate(zip(centres, sizes, turns, lengths, strict=True), 1):
        along = (y - cy) * np.sin(turn) + (x - cx) * np.cos(turn)
        across = (y - cy) * np.cos(turn) - (x - cx) * np.sin(turn)
        distance = np.hypot(along / length, across * length**0.5) / size
        closer = distance < nearest
        nearest[closer], labels[closer] = distance[closer], k
    labels = _renumber(_largest_pieces(labels))
    inside = labels > 0
    rim = inside & ~ndimage.binary_erosion(_uniform(labels), iterations=max(1, round(diameter / 25)))
    own = np.exp(rng.normal(0, rng.uniform(0.1, 0.5), labels.max() + 1))[labels] * inside
    texture = 1 + rng.uniform(0, 0.4) * _texture(rng, labels.shape, diameter / rng.uniform(4, 15))
    kind = rng.integers(4)
    if kind == 0:  # a dye in the cytoplasm, less or more in the nucleus
        image = own * texture * np.clip(1.2 - nearest, 0.15, 1) ** rng.uniform(0, 1)
        core = np.clip((0.45 - nearest) / 0.1, 0, 1)
        image *= 1 + rng.choice([-0.8, 0.8]) * rng.uniform(0, 1) * core
    elif kind == 1:  # a dye in the membrane
        image = own * (0.15 * texture + rim)
    elif kind == 2:  # phase contrast: grey cells with a bright fringe outside and dark organelles
        fringe = ndimage.gaussian_filter((~inside).astype(float), diameter / 12) * ndimage.binary_dilation(
            inside, iterations=3
        )
        image = 1 - rng.uniform(0.1, 0.5) * inside * texture + rng.uniform(0.2, 1.2) * fringe * (~inside | rim)
    else:  # absorbing, on bright ground
        image = 1.5 - own * texture * rng.uniform(0.3, 0.8)
    image = ndimage.gaussian_filter(image, rng.uniform(0.5, 1.8))
    ground = rng.uniform(0, 0.3) * (1 + 0.5 * _texture(rng, image.shape, rng.uniform(15, 80)))
    return _noisy(rng, image + ground), labels


def _blob(
    rng: np.random.Generator, y: float, x: float, radius: float
) -> tuple[tuple[slice, slice], NDArray[np.bool_], Array]:
    """A wobbly ellipse: its box in the image, its pixels there, how deep each lies: 1 in the middle, 0 at the edge."""
    reach = int(1.6 * radius) + 2
    rows, columns = (slice(*np.clip((int(v) - reach, int(v) + reach + 1), 0, _SIDE).tolist()) for v in (y, x))
    dy, dx = np.mgrid[rows, columns] - np.array([y, x])[:, None, None]
    angle, long = rng.uniform(0, np.pi), float(np.exp(np.abs(rng.normal(0, 0.18))))
    along, across = dy * np.sin(angle) + dx * np.cos(angle), dy * np.cos(angle) - dx * np.sin(angle)
    bearing = np.arctan2(across, along)
    edge = radius * (1 + sum(rng.normal(0, 0.05) * np.cos(k * bearing + rng.uniform(0, 6.3)) for k in (2, 3, 4)))
    away = np.hypot(along / long, across * long) / edge
    return (rows, columns), away < 1, np.sqrt(np.clip(1 - away**2, 0, 1))


def _texture(rng: np.random.Generator, shape: tuple[int, ...], scale: float) -> Array:
    """Smooth noise of standard deviation 1 whose grains are `scale` pixels wide."""
    coarse = [max(2, int(side / max(scale, 1.0)) + 2) for side in shape]
    field = ndimage.zoom(rng.normal(size=coarse), [side / c for side, c in zip(shape, coarse, strict=True)], order=1)
    field = field[: shape[0], : shape[1]]
    return np.asarray((field - field.mean()) / (field.std() + 1e-9))


def _noisy(rng: np.random.Generator, image: Array) -> Array:
    """Uneven light, photon noise and the camera's own."""
    image = image * np.exp(rng.uniform(0, 0.25) * _texture(rng, image.shape, _SIDE / 2.5))
    photons = float(np.exp(rng.uniform(np.log(15), np.log(2000))))
    image = rng.poisson(np.clip(image, 0, None) * photons) / photons
    return np.asarray(image + rng.normal(0, rng.uniform(0, 0.04), image.shape))


def _uniform(labels: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Pixels inside a cell whose neighbours belong to it too."""
    largest = ndimage.maximum_filter(labels, 3)
    smallest = ndimage.minimum_filter(labels, 3)
    return np.asarray((labels > 0) & (largest == smallest))


def _largest_pieces(labels: NDArray[np.int32]) -> NDArray[np.int32]:
    """Labels without the pieces that a warped border cut off."""
    kept = np.zeros_like(labels)
    for label, box in enumerate(ndimage.find_objects(labels), 1):
        if box is None:
            continue
        pieces, n = ndimage.label(labels[box] == label)
        if n:
            kept[box][pieces == np.argmax(np.bincount(pieces.ravel())[1:]) + 1] = label
    return kept


def _renumber(labels: NDArray[np.int32]) -> NDArray[np.int32]:
    """Labels 1..n without objects of fewer than 12 pixels, which are what is left of one under others."""
    areas = np.bincount(labels.ravel())
    keep = areas >= 12
    keep[0] = False
    table = np.zeros(len(areas), np.int32)
    table[keep] = np.arange(1, keep.sum() + 1)
    return table[labels]
