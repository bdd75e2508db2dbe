"""Kernels with code for more than one instruction set give the same bytes with each (see also the tests of each)."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import numpy as np
from conftest import ROOT
from test_star_nms import LATTICES, SHAPES, count_pairs, crowd, spread, suppress

from cellrt import kernels


def suppressed() -> str:
    """Digest of what survives, and of how many comparisons that takes."""
    outputs = hashlib.sha256()
    for seed, shape in enumerate(SHAPES):
        for n_rays, radius, centre in ((3, 9.0, (0, 0)), (32, 12.0, (-700, 90)), (33, 90.0, (20_000, 30_000))):
            candidates = crowd(seed, n=300, n_rays=n_rays, radius=radius, shape=shape, centre=centre)
            for nms_thresh in (0.1, 0.4, 0.8):
                outputs.update(suppress(candidates, nms_thresh, threads=2).tobytes())
            outputs.update(str(count_pairs(candidates, 0.4)).encode())
    for spacing, shape in LATTICES:
        outputs.update(suppress(spread(8_000, spacing, shape=shape), 0.4).tobytes())
    return outputs.hexdigest()


def masked() -> str:
    """Digest of the masks of end positions inside the image, on its edge and far beyond."""
    outputs = hashlib.sha256()
    random = np.random.default_rng(0)
    shape = (70, 91)
    pixels = np.arange(shape[0] * shape[1])
    middles = random.uniform(0, 90, (40, 2))
    for spread_of_ends, farthest in ((0.7, 0.0), (3.0, 0.0), (0.7, 25.0), (0.7, 1e12)):
        ends = middles[random.integers(0, 40, len(pixels))] + random.normal(0, spread_of_ends, (len(pixels), 2))
        if farthest:
            ends[::50] = random.uniform(-farthest, farthest, ends[::50].shape)
        else:
            ends = np.clip(ends, -0.9, np.array(shape) - 1)
        for n in (len(pixels), 4, 3, 1):
            positions = np.ascontiguousarray(ends[:n], np.float32)
            masks, _ = kernels.flow_masks_2d(pixels[:n], positions, shape=shape, max_size_fraction=0.9, threads=2)
            outputs.update(masks.tobytes())
    return outputs.hexdigest()


def outlined() -> str:
    """Digest of the vertices of stars with all kinds of ray numbers, scales and sizes."""
    outputs = hashlib.sha256()
    random = np.random.default_rng(0)
    for n_rays in (3, 8, 31, 32, 96):
        dist = (10.0 ** random.uniform(-3, 5, (50, n_rays))).astype(np.float32)
        points = random.uniform(-1e5, 1e5, (50, 2))
        for scale in ((1.0, 1.0), (0.37, 2.9)):
            outputs.update(kernels.star_outlines_2d(dist, points, scale=scale, threads=1).tobytes())
    return outputs.hexdigest()


def test_every_instruction_set_gives_the_same_bytes():
    path = os.pathsep.join(str(ROOT / folder) for folder in ("runtime", "tests"))
    result = subprocess.run(
        [sys.executable, "-c", "from test_instruction_sets import *; print(suppressed(), masked(), outlined())"],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
        env=os.environ | {"CELLRT_SIMD": "baseline", "PYTHONPATH": path},
    )
    assert result.stdout.split() == [suppressed(), masked(), outlined()]
