"""One random training patch from one image: geometry first, intensity second.

Door: `random_patch(rng, image, labels, ...)`; all randomness comes from `rng`. Images are bright objects on
darker ground and stay so: inverting them would teach the network to see nuclei in the gaps between nuclei.
Not here: targets.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

# Median object diameters, pixels, that zooming may produce: below, shapes vanish; above, objects outgrow
# the receptive field of a depth-3 U-Net.
_DIAMETERS = (8.0, 50.0)

Float = NDArray[np.float32]
Labels = NDArray[np.integer]


def random_patch(
    rng: np.random.Generator, image: Float, labels: Labels, *, size: int, diameter: float
) -> tuple[Float, Labels]:
    """Cut and change a patch of image (Y, X), normalised so that most values lie in [0, 1], and its labels.

    Parameters
    ----------
    size : height and width of the patch, pixels.
    diameter : median diameter of the objects in the image, pixels; it bounds the zoom.

    Returns
    -------
    patch : (size, size) float32.
    labels : (size, size), the ids of the source.
    """
    coordinates = _random_coordinates(rng, labels, size=size, diameter=diameter)
    # mirror: a patch larger than its image repeats cells and never sees an artificial edge
    patch = ndimage.map_coordinates(image, coordinates, order=1, mode="mirror")
    cut = ndimage.map_coordinates(labels, coordinates, order=0, mode="mirror")
    return _random_intensity(rng, patch), cut


def _random_coordinates(rng: np.random.Generator, labels: Labels, *, size: int, diameter: float) -> NDArray[np.float64]:
    """Source coordinates (2, size, size) of the pixels of a patch."""
    height, width = labels.shape
    centre = rng.uniform(0, (height, width))
    if rng.random() < 0.9:  # most patches hold an object: pick one of its pixels, then shift
        objects = np.flatnonzero(labels)
        if objects.size:
            centre = np.array(np.divmod(rng.choice(objects), width)) + rng.uniform(-size / 3, size / 3, 2)

    angle, zoom = float(np.pi / 2 * rng.integers(4)), 1.0
    warped = rng.random() < 0.6  # the others keep the exact pixels, and with them the texture of the noise
    if warped:
        angle = rng.uniform(0, 2 * np.pi)
        zoom = float(np.exp(rng.uniform(np.log(0.5), np.log(2))))
        zoom = min(max(zoom, _DIAMETERS[0] / diameter), _DIAMETERS[1] / diameter)
    # keep the patch inside the image where it fits
    margin = np.minimum(size / 2 / zoom, np.array([height, width]) / 2)
    centre = np.clip(centre, margin, (height, width) - margin) - 0.5
    if not warped:
        centre = np.rint(centre) + 0.5 * (size % 2 == 0)

    offset = np.indices((size, size)) - (size - 1) / 2
    stretch = np.diag(rng.uniform(0.85, 1.18, 2) if warped else (1.0, 1.0))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    flip = np.diag([1, rng.choice([-1, 1])])
    coordinates = np.tensordot(turn @ stretch @ flip / zoom, offset, axes=1) + centre[:, None, None]
    if warped and rng.random() < 0.5:
        strength = rng.uniform(0.5, 3.0) / zoom  # pixels of the source
        for axis in range(2):
            coordinates[axis] += strength * _smooth_field(rng, size, knots=6)
    return np.asarray(coordinates)


def _random_intensity(rng: np.random.Generator, patch: Float) -> Float:
    """Contrast, light, blur, noise, and an imperfect normalisation."""
    x: NDArray[np.floating] = np.clip(patch, 0, None)
    if rng.random() < 0.5:
        x = x ** np.exp(rng.normal(0, 0.35))
    if rng.random() < 0.4:
        x = x * np.exp(0.4 * _smooth_field(rng, len(x), knots=4))
    if rng.random() < 0.3:
        x = x + rng.uniform(0, 0.25) * np.abs(_smooth_field(rng, len(x), knots=4))
    if rng.random() < 0.25:
        x = ndimage.gaussian_filter(x, rng.uniform(0.3, 1.5))
    if rng.random() < 0.5:
        grain = rng.normal(size=x.shape)
        if rng.random() < 0.5:  # the noise of a resampled or compressed image has neighbours
            radius = rng.uniform(0.4, 1.2)
            grain = ndimage.gaussian_filter(grain, radius) * 2 * np.sqrt(np.pi) * radius  # smoothing shrinks it by this
        x = x + rng.uniform(0, 0.1) * grain + rng.uniform(0, 0.2) * grain * x
    # other percentiles, another field of view: the zero and the scale of a normalised image wander
    return np.asarray(x * rng.uniform(0.6, 1.8) + rng.uniform(-0.2, 0.2), np.float32)


def _smooth_field(rng: np.random.Generator, size: int, *, knots: int) -> NDArray[np.float64]:
    """A smooth random field (size, size) with a standard deviation near 1."""
    coarse = rng.normal(size=(knots, knots))
    at = np.linspace(0, knots - 1, size)
    return np.asarray(ndimage.map_coordinates(coarse, np.meshgrid(at, at, indexing="ij"), order=3, mode="mirror"))
