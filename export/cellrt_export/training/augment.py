"""One random training patch from one image: geometry first, intensity second.

Door: `random_patch(rng, sample, spec, size=...)`; all randomness comes from `rng`. What may happen to an image depends
on what it shows, which `Augmentation.kind` says:

    fluorescence   bright objects on darker ground, and they stay so: inverted, the gaps between nuclei would be nuclei
    stain          colours in transmitted light: dyes vary, one by one, before the image is normalised
    contrast       phase contrast and the like: objects both darker and brighter than the ground

Not here: targets.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch.nn import functional

from cellrt.errors import CellrtError
from cellrt_export.training.data import Sample

_LATE = 0.6  # of the steps of a run

Float = NDArray[np.float32]
Labels = NDArray[np.int32]


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How far patches may stray from their images."""

    kind: Literal["fluorescence", "stain", "contrast"]
    zoom: tuple[float, float] = (0.5, 2.0)
    """Least and largest scale."""
    diameters: tuple[float, float] = (7.0, 60.0)
    """Median diameters of objects, pixels, that zooming may produce: below, shapes vanish; above, objects outgrow what
    the network sees."""
    to_diameter: float | None = None
    """Scale images to this median diameter of their objects first, pixels; None: leave them as they are."""
    invert: float = 0.0
    """Share of patches that are inverted."""
    border: float = 0.0
    """Share of patches of which a part is the zeros that Cellpose pads images with."""
    strength: float = 1.0
    """Scales how often and how far patches are changed, turns and flips apart; 0: not at all."""
    late_strength: float | None = None
    """The same for the last 40 % of a run: what was learned from much variety settles on images as they are."""

    def at(self, progress: float) -> Augmentation:
        """What holds at a point of the run, 0 to 1."""
        if self.late_strength is None or progress < _LATE:
            return self
        return replace(self, strength=self.late_strength)


def require_multiple(size: int, multiple: int) -> None:
    """Raise `CellrtError` for a side of patches that the network does not take."""
    if size < multiple or size % multiple:
        raise CellrtError(f"expected --patch as a multiple of {multiple} pixels for this network, got {size}; round it")


def random_patch(rng: np.random.Generator, sample: Sample, spec: Augmentation, *, size: int) -> tuple[Float, Labels]:
    """Cut and change a patch of an image and its labels.

    Returns
    -------
    patch : float32 (C, size, size), normalised: most values lie in [0, 1].
    labels : int32 (size, size), the ids of the source.
    """
    coordinates = _random_coordinates(rng, sample, spec, size)
    labels = _sample(sample.labels[None], coordinates, "nearest")[0].astype(np.int32)
    if spec.kind == "stain":
        patch = _random_stain(rng, sample, coordinates, spec.strength)
    else:
        patch = _sample(sample.image, coordinates, "bilinear")
    patch = _random_intensity(rng, patch, spec)
    if spec.border and rng.random() < spec.border:
        turns, width = int(rng.integers(4)), int(rng.integers(1, max(2, size // 6)))
        for array in (patch, labels):
            np.rot90(array, turns, axes=(-2, -1))[..., :width, :] = 0
    return patch, labels


def _sample(source: NDArray[Any], coordinates: Float, mode: str) -> Float:
    """Source (C, Y, X) at coordinates (2, y, x), pixels, as float32 (C, y, x); mirrored outside."""
    # mirror: a patch larger than its image repeats cells and never sees an artificial edge
    sides = np.array(source.shape[1:], np.float32)[:, None, None]
    unit = 2 * coordinates / np.maximum(sides - 1, 1) - 1
    grid = torch.from_numpy(np.ascontiguousarray(unit[::-1].transpose(1, 2, 0)))[None]  # (x, y) in -1..1
    tensor = torch.from_numpy(np.ascontiguousarray(source, np.float32))[None]
    taken: Float = functional.grid_sample(tensor, grid, mode, "reflection", align_corners=True)[0].numpy()
    return taken


def _random_coordinates(rng: np.random.Generator, sample: Sample, spec: Augmentation, size: int) -> Float:
    """Source coordinates (2, size, size) of the pixels of a patch."""
    height, width = sample.labels.shape
    centre = rng.uniform(0, (height, width))
    if rng.random() < 0.9:  # most patches hold an object: pick one of its pixels, then shift
        objects = np.flatnonzero(sample.labels)
        if objects.size:
            centre = np.array(np.divmod(objects[rng.integers(objects.size)], width)) + rng.uniform(
                -size / 3, size / 3, 2
            )

    angle = float(np.pi / 2 * rng.integers(4))
    base = 1.0 if spec.to_diameter is None else spec.to_diameter / sample.diameter
    zoom = base
    warped = (
        rng.random() < 0.65 * spec.strength
    )  # the others keep the exact pixels, and with them the texture of the noise
    if warped:
        angle = rng.uniform(0, 2 * np.pi)
        zoom = base * float(np.exp(rng.uniform(*np.log(spec.zoom)) * spec.strength))
        zoom = min(max(zoom, spec.diameters[0] / sample.diameter), spec.diameters[1] / sample.diameter)
    # keep the patch inside the image where it fits
    margin = np.minimum(size / 2 / zoom, np.array([height, width]) / 2)
    centre = np.clip(centre, margin, (height, width) - margin) - 0.5
    if not warped and zoom == 1:
        centre = np.rint(centre) + 0.5 * (size % 2 == 0)

    offset = (np.indices((size, size)) - (size - 1) / 2).astype(np.float32)
    stretch = np.diag(rng.uniform(0.85, 1.18, 2) if warped else (1.0, 1.0))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    flip = np.diag([1, rng.choice([-1, 1])])
    affine = (turn @ stretch @ flip / zoom).astype(np.float32)
    coordinates = np.tensordot(affine, offset, axes=1) + centre[:, None, None].astype(np.float32)
    if warped and rng.random() < 0.4:
        strength = rng.uniform(0.5, 3.0) / zoom  # pixels of the source
        for axis in range(2):
            coordinates[axis] += strength * _smooth_field(rng, size, knots=6)
    return np.asarray(coordinates, np.float32)


# What haematoxylin, eosin and a third dye absorb of red, green and blue (Ruifrok and Johnston 2001), rows of length 1.
_STAINS = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
_STAINS /= np.linalg.norm(_STAINS, axis=1, keepdims=True)


def _random_stain(rng: np.random.Generator, sample: Sample, coordinates: Float, strength: float) -> Float:
    """A patch (3, y, x) whose dyes and light differ, normalised as the whole image would be then."""
    dye = 1 + strength * rng.normal(0, 0.18, (3, 1)).clip(-0.6, 0.8)
    excess = strength * rng.normal(0, 0.05, (3, 1))
    colours = np.eye(3) + strength * rng.normal(0, 0.06, (3, 3))  # other dyes, another camera
    light = 1 + strength * rng.normal(0, 0.04, (3, 1))
    gamma = float(np.exp(strength * rng.normal(0, 0.12)))
    scale = float(np.iinfo(sample.pixels.dtype).max) if sample.pixels.dtype.kind in "iu" else 1.0

    def change(pixels: NDArray[Any]) -> NDArray[np.float32]:
        absorbed = -np.log(pixels.reshape(3, -1).astype(np.float64) / scale + 0.004)
        dyes = np.linalg.solve(_STAINS.T, absorbed) * dye + excess
        changed = np.exp(-(colours @ (_STAINS.T @ dyes))) * light
        return (changed.clip(0, 1) ** gamma).reshape(pixels.shape).astype(np.float32)

    # percentiles of every ninth pixel of the changed image stand for those of all
    whole = change(np.ascontiguousarray(sample.pixels[:, ::3, ::3]))
    patch = change(np.clip(_sample(sample.pixels, coordinates, "bilinear"), 0, None))
    low, high = np.percentile(whole, (1, 99.8))
    return ((patch - np.float32(low)) / np.float32(max(high - low, 0.02))).astype(np.float32)


def _random_intensity(rng: np.random.Generator, patch: Float, spec: Augmentation) -> Float:
    """Contrast, light, blur, noise, few grey levels, and an imperfect normalisation; patch (C, Y, X)."""
    size = patch.shape[-1]
    x: NDArray[np.floating] = patch
    if spec.kind == "fluorescence":
        x = np.clip(x, 0, None)
    if rng.random() < 0.5 * spec.strength:
        x = np.sign(x) * np.abs(x) ** float(np.exp(rng.normal(0, 0.35 if spec.kind == "fluorescence" else 0.2)))
    if rng.random() < spec.invert * spec.strength:
        x = 1 - x
    if rng.random() < 0.35 * spec.strength:
        x = x * np.exp((0.4 if spec.kind != "stain" else 0.1) * _smooth_field(rng, size, knots=4))
    if rng.random() < 0.25 * spec.strength:
        light = _smooth_field(rng, size, knots=4)
        x = x + rng.uniform(0, 0.25 if spec.kind != "stain" else 0.08) * (
            np.abs(light) if spec.kind == "fluorescence" else light
        )
    if rng.random() < 0.25 * spec.strength:
        radius = rng.uniform(0.3, 1.5)
        x = ndimage.gaussian_filter(x, (0, radius, radius))
    if rng.random() < 0.5 * spec.strength:
        grain = rng.normal(size=x.shape)
        if rng.random() < 0.5:  # the noise of a resampled or compressed image has neighbours
            radius = rng.uniform(0.4, 1.2)
            # smoothing shrinks the noise by this factor
            grain = ndimage.gaussian_filter(grain, (0, radius, radius)) * 2 * np.sqrt(np.pi) * radius
        shot = np.sqrt(np.clip(x, 0, None))  # of photons, which grows with the root of their number
        x = x + rng.uniform(0, 0.1) * grain + rng.uniform(0, 0.15) * grain * shot
    if rng.random() < 0.15 * spec.strength:  # dim images of few grey levels
        levels = np.exp(rng.uniform(np.log(8), np.log(128)))
        x = np.rint(x * levels) / levels
    if rng.random() < 0.1 * spec.strength:
        x = np.minimum(x, rng.uniform(0.6, 1.0))  # saturated
    # other percentiles, another field of view: the zero and the scale of a normalised image wander
    spread = (0.45 if spec.kind == "fluorescence" else 0.2) * spec.strength
    return np.asarray(x * np.exp(rng.uniform(-spread, spread)) + rng.uniform(-0.15, 0.15) * spec.strength, np.float32)


def _smooth_field(rng: np.random.Generator, size: int, *, knots: int) -> Float:
    """A smooth random field (size, size) with a standard deviation near 1."""
    coarse = torch.from_numpy(rng.normal(size=(1, 1, knots, knots)).astype(np.float32))
    field: Float = functional.interpolate(coarse, (size, size), mode="bicubic", align_corners=True)[0, 0].numpy()
    return field
