"""What the manifest keeps of the self-test: the recipe of `cellrt selftest`, run by the machine that exports."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from cellrt import selftest
from cellrt.errors import CapacityError, ModelError
from cellrt.instances import Instances
from cellrt.manifest import SelfTestSpec
from cellrt_export.onnxfile import RunAll

_log = logging.getLogger(__name__)

_SIDES = {2: 96, 3: 48}  # pixels, by the number of axes: sixteen and eight objects of the recipe, and a short run

# Largest difference of a map's mean on another machine, relative to max(1, magnitude), by how weights are stored. Sums
# of int8 are the same everywhere (see quantize), but what is rounded between layers of float32 can go either way: with
# nodes fused, and as they stand, which is how other providers run them, means of a CPnet differed by 1e-3.
TOLERANCES = {"fp32": 1e-3, "fp16": 1e-3, "int8": 1e-2}


def record(
    run: RunAll,
    decode: Callable[[NDArray[np.float32]], Instances],
    *,
    n_channels: int,
    multiple: tuple[int, ...],
    tolerance: float = TOLERANCES["fp32"],
) -> SelfTestSpec | None:
    """Run the recipe through the network and its head.

    None, with a warning, if the head finds more in it than it can decide about: a network that it confuses may do
    well on images.

    Parameters
    ----------
    run : callable
        image float32 (N, C, [Z,] Y, X) -> outputs by name, `maps` among them.
    decode : callable
        maps float32 (M, [z,] y, x) -> instances.
    n_channels : int
        C.
    multiple : tuple of int
        Sides of the image are multiples of this; the smallest legal size from 96 pixels on is taken, 48 in 3D.
    tolerance : float
        One of `TOLERANCES`.

    Raises
    ------
    ModelError
        If the maps are not finite.
    """
    shape = tuple(-(-_SIDES[len(multiple)] // step) * step for step in multiple)
    maps = run(selftest.recipe(n_channels, shape))["maps"][0]
    if not np.isfinite(maps).all():
        raise ModelError("expected finite maps, got NaN or infinity from the self-test; use other weights")
    try:
        instances = decode(maps)
    except CapacityError as error:
        _log.warning("the model gets no self-test, since its test image gives too many objects: %s", error)
        return None
    return replace(selftest.summarise(maps, instances, shape), tolerance=tolerance)
