"""Slow, obvious twins of the following of flows: all pixels at once in numpy, every step made, nothing shared.

The order of the operations and the precision of each are those of the originals, to the bit. Cellpose 4's grid_sample
runs in torch's vector code, which compilers turn into fused multiply-adds; `fused` is one, exactly rounded.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def fused(a: Floats, b: Floats, c: Floats) -> Floats:
    """a * b + c, rounded once: in double, to the odd neighbour where inexact, so that float32 rounds the true value."""
    product = a.astype(np.float64) * b.astype(np.float64)  # exact
    total = product + c
    virtual = total - product
    error = (product - (total - virtual)) + (c - virtual)  # exact too (Knuth)
    is_even = total.view(np.int64) % 2 == 0
    towards = np.where(error > 0, np.inf, -np.inf)
    odd = np.where((error != 0) & is_even, np.nextafter(total, towards), total)
    return odd.astype(np.float32)


def flow_follow_2d(
    flow: Floats, cellprob: Floats, cellprob_threshold: float, dynamics: str, interpolate: bool, n_iter: int
) -> tuple[NDArray[np.int64], Floats]:
    """Every step of every pixel inside a cell."""
    inside = cellprob > np.float32(cellprob_threshold)
    field = np.where(inside, flow / np.float32(5), np.float32(0))
    start = np.argwhere(inside).T.astype(np.float32)
    follow = follow_v4 if dynamics == "v4" else follow_v3 if interpolate else truncated_v3
    return np.flatnonzero(inside), np.ascontiguousarray(follow(field, start, n_iter).T)


def follow_v3(field: Floats, p: Floats, n_iter: int) -> Floats:
    """Bilinear; mostly in double, as numba types it: `1 - y` is a double, `flow * y` is not."""
    last = np.array(field.shape[1:])[:, np.newaxis] - 1
    for _ in range(n_iter):
        (y0, x0), (y1, x1) = p.astype(np.int64), np.minimum(p.astype(np.int64) + 1, last)
        y, x = p - np.floor(p)
        from_y, from_x = 1 - y.astype(np.float64), 1 - x.astype(np.float64)
        step = (
            field[:, y0, x0] * from_y * from_x
            + field[:, y0, x1] * from_y * x
            + field[:, y1, x0] * y * from_x
            + field[:, y1, x1] * y * x
        )
        p = np.clip(p + step.astype(np.float32), np.float32(0), last.astype(np.float32))
    return p


def truncated_v3(field: Floats, p: Floats, n_iter: int) -> Floats:
    """The flow of the pixel that the position truncates to."""
    last = np.array(field.shape[1:], np.float32)[:, np.newaxis] - 1
    for _ in range(n_iter):
        y, x = p.astype(np.int64)
        p = np.clip(p + field[:, y, x], np.float32(0), last)
    return p


def follow_v4(field: Floats, p: Floats, n_iter: int) -> Floats:
    """Bilinear in float32 on coordinates in [-1, 1], half a pixel off; zero beyond the image."""
    sides = np.array(field.shape[1:])[:, np.newaxis]
    last, half = (sides - 1).astype(np.float32), sides.astype(np.float32) / 2
    unit = np.where(sides > 1, 2 / np.maximum(sides - 1, 1), 0).astype(np.float32)
    padded = np.pad(field * unit[:, np.newaxis], ((0, 0), (1, 1), (1, 1)))
    # An axis of one pixel, where the original divides by 0: the middle, for ever.
    p = np.where(sides > 1, p / np.maximum(last, 1) * np.float32(2) - np.float32(1), np.float32(0))
    for _ in range(n_iter):
        pixel = fused(p + np.float32(1), np.broadcast_to(half, p.shape), np.full_like(p, -0.5))
        y, x = np.floor(pixel).astype(np.int64) + 1
        n, w = pixel - np.floor(pixel)
        s, e = 1 - n, 1 - w
        step = padded[:, y, x] * (e * s)
        for corner, weight in (((y, x + 1), w * s), ((y + 1, x), e * n), ((y + 1, x + 1), w * n)):
            step = fused(padded[:, *corner], weight, step)
        p = np.clip(p + step, np.float32(-1), np.float32(1))
    return (p + np.float32(1)) * np.float32(0.5) * last
