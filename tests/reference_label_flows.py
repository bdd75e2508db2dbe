"""Slow, obvious twins of cellrt_label_flows_2d and cellrt_flow_errors_2d, written from csrc/include/cellrt.h.

Every mask is diffused in its box, one step after the other, nothing left out. Sums are taken in the order that the
originals have, so that heat is the same to the last bit.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# (y, x) of the pixels of a 3 x 3 average, in the order in which they are added.
NEIGHBOURS = [(0, 0), (-1, 0), (1, 0), (0, -1), (0, 1), (-1, -1), (-1, 1), (1, -1), (1, 1)]


def label_flows_2d(labels: NDArray[np.int32], dynamics: str, n_iter: int = 0) -> NDArray[np.float64]:
    """The flow of every mask, float64 (2, Y, X)."""
    boxes = {label: _box(labels == label) for label in _present(labels)}
    longest = max((sum(labels[box].shape) for box in boxes.values()), default=0)
    together = np.zeros(np.array(labels.shape) + 2)  # with a margin of one pixel
    flow = np.zeros((2, *labels.shape))
    for label, box in boxes.items():
        inside = labels[box] == label
        steps = 2 * (sum(inside.shape) + 4 if dynamics == "v3" else longest + 2)
        heat = _diffuse(np.pad(inside, 1), _centre(inside, dynamics), n_iter or steps, dynamics)
        together[1:-1, 1:-1][box][inside] = heat[1:-1, 1:-1][inside]
        if dynamics == "v3":
            flow[:, *box][:, inside] = _gradient(heat)[:, inside]
    if dynamics == "v4":
        flow[:, labels > 0] = _gradient(together)[:, labels > 0]
    return flow / (1e-60 + np.sqrt(flow[0] ** 2 + flow[1] ** 2))


def flow_errors_2d(
    labels: NDArray[np.int32], flow: NDArray[np.float32], n_labels: int, dynamics: str
) -> NDArray[np.float64]:
    """Mean squared distance of the flow of every mask from `flow` / 5; 0 for a label that does not occur."""
    squares = ((label_flows_2d(labels, dynamics) - flow / np.float32(5)) ** 2).sum(axis=0)
    errors = np.zeros(n_labels)
    for label in _present(labels):
        errors[label - 1] = squares[labels == label].mean()
    return errors


def _present(labels: NDArray[np.int32]) -> list[int]:
    return [label for label in np.unique(labels).tolist() if label > 0]


def _box(inside: NDArray[np.bool_]) -> tuple[slice, slice]:
    y, x = np.nonzero(inside)
    return slice(y.min(), y.max() + 1), slice(x.min(), x.max() + 1)


def _centre(inside: NDArray[np.bool_], dynamics: str) -> tuple[int, int]:
    """Of a mask in its box, the pixel nearest to the mean of all, which v4 rounds to even; the first by rows.

    v3 counts from 1: that decides, by rounding errors, between pixels that are equally near.
    """
    y, x = np.nonzero(inside)
    if dynamics == "v3":
        nearest = np.argmin((y + 1 - np.mean(y + 1)) ** 2 + (x + 1 - np.mean(x + 1)) ** 2)
    else:
        nearest = np.argmin((y - np.round(np.mean(y))) ** 2 + (x - np.round(np.mean(x))) ** 2)
    return int(y[nearest]), int(x[nearest])


def _diffuse(inside: NDArray[np.bool_], centre: tuple[int, int], n_steps: int, dynamics: str) -> NDArray[np.float64]:
    """Heat after n_steps; `inside` and the result have a margin of one pixel, `centre` counts without it."""
    n_y, n_x = inside.shape
    heat = np.zeros(inside.shape)
    for _ in range(n_steps):
        heat[centre[0] + 1, centre[1] + 1] += 1
        total = np.zeros((n_y - 2, n_x - 2))
        for y, x in NEIGHBOURS:
            total += heat[1 + y : n_y - 1 + y, 1 + x : n_x - 1 + x]
        mean = total * (1 / 9) if dynamics == "v3" else total / 9
        heat[1:-1, 1:-1] = np.where(inside[1:-1, 1:-1], mean, 0)
    return heat


def _gradient(heat: NDArray[np.float64]) -> NDArray[np.float64]:
    """Differences of the neighbours below and above, right and left; without the margin."""
    return np.stack([heat[2:, 1:-1] - heat[:-2, 1:-1], heat[1:-1, 2:] - heat[1:-1, :-2]])
