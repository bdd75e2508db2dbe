"""The self-test: a recipe of an input that every machine makes to the bit, and what must come out of the network.

The exporter records the outcome in the manifest; `cellrt selftest MODEL` repeats it, so that an installation qualifies
itself on the spot, without data.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cellrt.instances import Instances
from cellrt.manifest import SelfTestSpec


def recipe(n_channels: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """An input with round bright objects on a dark ground, float32 (1, C, [Z,] Y, X), roughly in [0, 1].

    Integer arithmetic and one exact division: the same bits on every platform.
    """
    *z, y, x = np.ogrid[tuple(slice(side) for side in shape)]
    image = np.zeros((1, n_channels, *shape), np.float32)
    for channel in range(n_channels):
        pitch = 24 + 8 * channel
        # squared distance to the centre of the cell of a square or cubic lattice; objects of radius pitch / 3
        distance = sum((axis % pitch - pitch // 2) ** 2 for axis in (*z, y, x))
        texture = (y * 7 + x * 13 + y * x + sum(3 * axis for axis in z)) % 32
        image[0, channel] = (np.where(9 * distance < pitch * pitch, 192, 32) + texture) / np.float32(256)
    return image


def summarise(maps: NDArray[np.float32], cells: Instances, shape: tuple[int, ...]) -> SelfTestSpec:
    """What the manifest keeps of the maps (C, [Z,] Y, X) and the cells that came out of the recipe of `shape`."""
    import hashlib  # here: it costs a tenth of the import of this package, and only the self-test needs it

    means = maps.astype(np.float64).mean(axis=tuple(range(1, maps.ndim)))
    return SelfTestSpec(
        shape=shape,
        digest=hashlib.sha256(np.ascontiguousarray(maps, np.float32).tobytes()).hexdigest(),
        means=tuple(float(mean) for mean in means),
        n_objects=len(cells),
    )


@dataclass(frozen=True)
class Outcome:
    """How a self-test went."""

    passed: bool
    identical: bool  # the maps are those of the exporting machine to the bit
    largest_difference: float  # of a map's mean, relative to max(1, its magnitude)
    n_objects: int  # found here
    n_expected: int  # found where the model was exported


def compare(maps: NDArray[np.float32], cells: Instances, spec: SelfTestSpec) -> Outcome:
    """Hold the maps (C, [Z,] Y, X) and the cells that came out of the recipe against the manifest.

    The number of cells may differ by 2 %, or by one: another processor rounds differently, and a candidate at a
    threshold can go either way.
    """
    got = summarise(maps, cells, spec.shape)
    wanted = np.array(spec.means)
    differences = np.abs(np.array(got.means) - wanted) / np.maximum(1, np.abs(wanted))
    largest = float(differences.max())
    close = abs(got.n_objects - spec.n_objects) <= max(1, spec.n_objects // 50)
    return Outcome(
        passed=largest <= spec.tolerance and close,
        identical=got.digest == spec.digest and got.n_objects == spec.n_objects,
        largest_difference=largest,
        n_objects=got.n_objects,
        n_expected=spec.n_objects,
    )
