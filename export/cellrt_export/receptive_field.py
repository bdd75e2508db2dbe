"""How far a pixel's influence reaches: measured on the network, and bounded by its layers.

Two numbers, because they answer two questions. StarDist measures the reach of one impulse in float32, which is what
its tiling uses and what a user compares; weights near zero make it smaller. `halo` asks the layers alone, so tiles
cut with it give the untiled result whatever the weights are.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cellrt_export.onnxfile import Run
from cellrt_export.star_folder import Pair
from cellrt_export.star_graph import Conv, Pool, Remember, Step


def measure(run: Run, *, n_channels: int, grid: Pair, multiple: Pair) -> Pair | None:
    """Measure the reach of one bright pixel on the probability map, as StarDist's `_compute_receptive_field` does.

    Parameters
    ----------
    run : callable
        image float32 (N, C, Y, X) -> maps float32 (N, M, Y/gy, X/gx).
    n_channels : int
        C.
    grid, multiple : (int, int)
        Pixels per sample of the maps; sides of the image must be multiples of the second.

    Returns
    -------
    (int, int) or None
        The larger of both sides along y and x, in pixels; None if no pixel of the map changed.
    """
    # StarDist takes 128 samples; where its own network cannot take that size, the next that fits
    shape = tuple(-(-128 * g // m) * m for g, m in zip(grid, multiple, strict=True))
    image = np.zeros((1, n_channels, *shape), np.float32)
    dark = run(image)[0, 0]
    image[:, :, shape[0] // 2, shape[1] // 2] = 1
    changed = run(image)[0, 0] != dark
    if not changed.any():
        return None
    reach = []
    for axis in (0, 1):
        hit = np.flatnonzero(changed.any(1 - axis)[_zoomed(changed.shape[axis], shape[axis])])
        middle = shape[axis] // 2
        reach.append(int(max(middle - hit[0], hit[-1] - middle)))
    return reach[0], reach[1]


def _zoomed(n_in: int, n_out: int) -> NDArray[np.int64]:
    """Which sample `scipy.ndimage.zoom(order=0)` shows at each of n_out places: corners stay on corners."""
    step = (n_in - 1) / (n_out - 1) if n_out > 1 else 0.0
    sample: NDArray[np.int64] = np.floor(np.arange(n_out) * step + 0.5).astype(np.int64)
    return sample


def halo(trunk: tuple[Step, ...], features: Conv | None, *, grid: Pair, multiple: Pair) -> Pair:
    """Bound how far a cut in the image spoils the maps, from the layers alone.

    The cut lies at a multiple of `multiple`, where tiles begin and end. Samples further than this many pixels from it
    see only pixels on their side, whatever the weights: the number is exact if no weight is zero.

    Returns
    -------
    (int, int)
        Along y and x, in pixels.
    """
    return _halo(trunk, features, 0, grid, multiple), _halo(trunk, features, 1, grid, multiple)


def _halo(trunk: tuple[Step, ...], features: Conv | None, axis: int, grid: Pair, multiple: Pair) -> int:
    """The bound along one axis, with the cut between pixels -1 and 0."""
    steps = trunk if features is None else (*trunk, features)
    g, period = grid[axis], multiple[axis] // grid[axis]  # the layers see every `period`-th sample alike
    spoiled = 0
    for phase in range(period):
        # Sample phase + k * period begins at pixel phase * g + k * multiple and sees low + k * multiple onwards.
        low, high = _seen(steps, axis, phase)
        last_after = (-low - 1) // multiple[axis]  # the largest k that sees pixel -1
        if last_after >= 0:
            spoiled = max(spoiled, last_after * multiple[axis] + (phase + 1) * g)
        first_before = -(high // multiple[axis])  # the smallest k that sees pixel 0
        if first_before < 0:
            spoiled = max(spoiled, -first_before * multiple[axis] - phase * g)
    return spoiled


def _seen(steps: tuple[Step, ...], axis: int, sample: int) -> tuple[int, int]:
    """The first and last pixel that a sample of the maps depends on, backwards through the layers."""
    low = high = sample
    waiting: list[tuple[int, int]] = []  # what the concatenations want of the remembered maps
    for step in reversed(steps):
        if isinstance(step, Conv):
            low -= (step.kernel[axis] - 1) // 2
            high += step.kernel[axis] // 2
        elif isinstance(step, Pool):
            low, high = low * step.size[axis], high * step.size[axis] + step.size[axis] - 1
        elif isinstance(step, Remember):
            wanted = waiting.pop()
            low, high = min(low, wanted[0]), max(high, wanted[1])
        else:
            waiting.append((low, high))
            low, high = low // step.size[axis], high // step.size[axis]
    return low, high
