"""What the manifest keeps of the self-test: the recipe of `cellrt selftest`, run by the machine that exports."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from cellrt import selftest
from cellrt.errors import ModelError
from cellrt.instances import Instances
from cellrt.manifest import SelfTestSpec
from cellrt_export.onnxfile import RunAll

_SIDE = 96  # pixels: holds sixteen objects of the recipe, and runs in milliseconds


def record(
    run: RunAll, decode: Callable[[NDArray[np.float32]], Instances], *, n_channels: int, multiple: tuple[int, int]
) -> SelfTestSpec:
    """Run the recipe through the network and its head.

    Parameters
    ----------
    run : callable
        image float32 (N, C, Y, X) -> outputs by name, `maps` among them.
    decode : callable
        maps float32 (M, y, x) -> instances.
    n_channels : int
        C.
    multiple : (int, int)
        Sides of the image are multiples of this; the smallest legal size from 96 pixels on is taken.

    Raises
    ------
    ModelError
        If the maps are not finite.
    """
    shape = (-(-_SIDE // multiple[0]) * multiple[0], -(-_SIDE // multiple[1]) * multiple[1])
    maps = run(selftest.recipe(n_channels, shape))["maps"][0]
    if not np.isfinite(maps).all():
        raise ModelError("expected finite maps, got NaN or infinity from the self-test; use other weights")
    return selftest.summarise(maps, decode(maps), shape)
