"""How far a pixel's influence reaches: measured on the network, and bounded by its layers.

Two numbers, because they answer two questions. StarDist measures the reach of one impulse in float32, which is what
its tiling uses and what a user compares; weights near zero make it smaller. `halo` asks the layers alone, so tiles
cut with it give the untiled result whatever the weights are.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cellrt_export.onnxfile import Run
from cellrt_export.star_folder import Sides
from cellrt_export.star_graph import Add, Conv, Pool, Remember, Step

_SAMPLES = {2: 128, 3: 64}  # along each side of the maps, by the number of axes: StarDist's


def measure(run: Run, *, n_channels: int, grid: Sides, multiple: Sides) -> Sides | None:
    """Measure the reach of one bright pixel on the probability map, as StarDist's `_compute_receptive_field` does.

    Parameters
    ----------
    run : callable
        image float32 (N, C, [Z,] Y, X) -> maps float32 (N, M, [Z/gz,] Y/gy, X/gx).
    n_channels : int
        C.
    grid, multiple : tuple of int
        Pixels per sample of the maps; sides of the image must be multiples of the second.

    Returns
    -------
    tuple of int or None
        The larger of both sides along (z,) y and x, in pixels; None if no pixel of the map changed.
    """
    n_samples = _SAMPLES[len(grid)]  # where StarDist's own network cannot take that size, the next that fits
    shape = tuple(-(-n_samples * g // m) * m for g, m in zip(grid, multiple, strict=True))
    image = np.zeros((1, n_channels, *shape), np.float32)
    dark = run(image)[0, 0]
    middle = np.ravel_multi_index([side // 2 for side in shape], shape)
    image.reshape(n_channels, -1)[:, middle] = 1
    changed = run(image)[0, 0] != dark
    if not changed.any():
        return None
    reach = []
    for axis, side in enumerate(shape):
        others = tuple(other for other in range(len(shape)) if other != axis)
        hit = np.flatnonzero(changed.any(others)[_zoomed(changed.shape[axis], side)])
        reach.append(int(max(side // 2 - hit[0], hit[-1] - side // 2)))
    return tuple(reach)


def _zoomed(n_in: int, n_out: int) -> NDArray[np.int64]:
    """Which sample `scipy.ndimage.zoom(order=0)` shows at each of n_out places: corners stay on corners."""
    step = (n_in - 1) / (n_out - 1) if n_out > 1 else 0.0
    sample: NDArray[np.int64] = np.floor(np.arange(n_out) * step + 0.5).astype(np.int64)
    return sample


def halo(trunk: tuple[Step, ...], features: Conv | None, *, grid: Sides, multiple: Sides) -> Sides:
    """Bound how far a cut in the image spoils the maps, from the layers alone.

    The cut lies at a multiple of `multiple`, where tiles begin and end. Samples further than this many pixels from it
    see only pixels on their side, whatever the weights: the number is exact if no weight is zero.

    Returns
    -------
    tuple of int
        Along (z,) y and x, in pixels.
    """
    return tuple(_halo(trunk, features, axis, grid, multiple) for axis in range(len(grid)))


def _halo(trunk: tuple[Step, ...], features: Conv | None, axis: int, grid: Sides, multiple: Sides) -> int:
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
    waiting: list[tuple[int, int]] = []  # what concatenations and additions want of the remembered maps
    for step in reversed(steps):
        if isinstance(step, Conv):
            low, high = _convolved(step, axis, low, high)
        elif isinstance(step, Pool):
            low, high = low * step.size[axis], high * step.size[axis] + step.size[axis] - 1
        elif isinstance(step, Remember):
            wanted = waiting.pop()
            low, high = min(low, wanted[0]), max(high, wanted[1])
        elif isinstance(step, Add):
            waiting.append((low, high) if step.shortcut is None else _convolved(step.shortcut, axis, low, high))
        else:
            waiting.append((low, high))
            low, high = low // step.size[axis], high // step.size[axis]
    return low, high


def _convolved(conv: Conv, axis: int, low: int, high: int) -> tuple[int, int]:
    """The first and last sample before a convolution that those from `low` to `high` behind it depend on."""
    step, before = 1 if conv.stride is None else conv.stride[axis], conv.pads[0][axis]
    return low * step - before, high * step - before + conv.kernel[axis] - 1
