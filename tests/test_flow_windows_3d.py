"""Flows and masks of a volume, window by window: bit for bit those of the whole volume, or nothing."""

from __future__ import annotations

import hashlib
import itertools
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cellrt import kernels
from cellrt.errors import DataError, KernelError

Floats = NDArray[np.float32]


def noisy_cells(seed: int, shape: tuple[int, int, int], radius: float, strength: float = 5.0) -> tuple[Floats, Floats]:
    """A flow towards the centres of balls on a lattice, with noise, and a cell logit."""
    random = np.random.default_rng(seed)
    to_centre = radius - np.indices(shape, np.float32) % (2 * radius) + random.normal(0, 0.7, (3, 1, 1, 1))
    distance = np.linalg.norm(to_centre, axis=0)
    flow = strength * to_centre / np.maximum(distance, 1.5) + random.normal(0, 1, (3, *shape))
    return flow.astype(np.float32), (radius - distance + random.normal(0, 0.3, shape)).astype(np.float32)


def blocks(shape: tuple[int, ...], block: tuple[int, ...]) -> Any:
    """Begins and ends of the blocks of a volume."""
    for corner in itertools.product(*(range(0, n, step) for n, step in zip(shape, block, strict=True))):
        yield corner, tuple(min(n, at + step) for at, step, n in zip(corner, block, shape, strict=True))


def window(shape: tuple[int, ...], begin: Any, end: Any, margin: int) -> tuple[tuple[int, ...], tuple[slice, ...]]:
    """The corner of a block with a margin, and where it is."""
    low = tuple(max(0, at - margin) for at in begin)
    return low, tuple(slice(a, min(n, b + margin)) for a, b, n in zip(low, end, shape, strict=True))


def follow(flow: Floats, cellprob: Floats, begin: Any, end: Any, margin: int, **options: Any) -> tuple[Any, Floats]:
    """Where the voxels of a block end, by its window; and which they are in the volume."""
    origin, inside = window(cellprob.shape, begin, end, margin)
    part = np.ascontiguousarray(cellprob[inside])
    keep = tuple((a - o, b - o) for a, b, o in zip(begin, end, origin, strict=True))
    voxels, positions = kernels.flow_follow_window_3d(
        np.ascontiguousarray(flow[(slice(None), *inside)]),
        part,
        volume=cellprob.shape,
        origin=origin,
        keep=keep,
        **({"cellprob_threshold": 0.0, "n_iter": 200, "threads": 1} | options),
    )
    place = [at + o for at, o in zip(np.unravel_index(voxels, part.shape), origin, strict=True)]
    return np.ravel_multi_index(place, cellprob.shape), positions


@settings(max_examples=40)
@given(
    st.integers(0, 2**32 - 1),
    st.tuples(st.integers(1, 30), st.integers(1, 40), st.integers(1, 50)),
    st.tuples(st.integers(4, 40), st.integers(4, 40), st.integers(4, 40)),
    st.integers(1, 14),
    st.floats(0.1, 200),
    st.integers(0, 60),
    st.integers(1, 3),
)
def test_windows_tell_where_voxels_end_or_that_they_cannot(seed, shape, block, margin, strength, n_iter, threads):
    flow, cellprob = noisy_cells(seed, shape, 6, strength)
    voxels, ends = kernels.flow_follow_3d(flow, cellprob, cellprob_threshold=0.0, n_iter=n_iter, threads=1)
    expected = np.full((cellprob.size, 3), np.inf, np.float32)
    expected[voxels] = ends
    seen = []
    for begin, end in blocks(shape, block):
        of_block, positions = follow(flow, cellprob, begin, end, margin, n_iter=n_iter, threads=threads)
        seen.append(of_block)
        is_lost = np.isnan(positions).all(axis=1)
        assert not np.isnan(positions[~is_lost]).any()
        np.testing.assert_array_equal(positions[~is_lost], expected[of_block[~is_lost]])
        is_whole = all(a - margin <= 0 and b + margin >= n for a, b, n in zip(begin, end, shape, strict=True))
        assert not (is_whole and is_lost.any())
    np.testing.assert_array_equal(np.sort(np.concatenate(seen)), voxels)


def test_windows_wider_than_cells_lose_nothing():
    shape = (40, 50, 60)
    flow, cellprob = noisy_cells(1, shape, 6)
    for begin, end in blocks(shape, (16, 16, 16)):
        _, positions = follow(flow, cellprob, begin, end, 16)
        assert not np.isnan(positions).any()


def test_a_flow_that_leaves_the_window_is_lost_and_one_along_the_edge_of_the_volume_is_not():
    shape = (8, 8, 40)
    cellprob = np.ones(shape, np.float32)
    flow = np.zeros((3, *shape), np.float32)
    flow[2] = 5  # a voxel per step, along x
    _, positions = follow(flow, cellprob, (0, 0, 0), (8, 8, 10), 10, n_iter=14)
    of_middle = positions.reshape(8, 8, 10, 3)[2:6, 2:6]
    assert np.isnan(of_middle[:, :, 7:]).all()  # these would come near the window's last voxel, 19
    assert not np.isnan(of_middle[:, :, :3]).any()
    _, positions = follow(flow, cellprob, (0, 0, 30), (8, 8, 40), 10, n_iter=1000)
    assert (positions[:, 2] > 38.9).all()


@pytest.mark.parametrize("strength", [1e4, 1e20, 3e38])
def test_steps_beyond_everything_are_lost_or_right(strength):
    shape = (20, 20, 20)
    random = np.random.default_rng(0)
    flow = (random.choice([-1, 1], (3, *shape)) * strength).astype(np.float32)
    cellprob = np.ones(shape, np.float32)
    _, ends = kernels.flow_follow_3d(flow, cellprob, cellprob_threshold=0.0, n_iter=5, threads=1)
    for begin, end in blocks(shape, (10, 10, 10)):
        voxels, positions = follow(flow, cellprob, begin, end, 3, n_iter=5)
        is_known = ~np.isnan(positions).any(axis=1)
        np.testing.assert_array_equal(positions[is_known], ends[voxels[is_known]])


def digest_of_windows() -> str:
    """Of where voxels end in some windows; NaN, whose bits may differ, is lost with every instruction set."""
    flow, cellprob = noisy_cells(3, (30, 33, 35), 6, 9)
    digest = hashlib.sha256()
    for begin, end in blocks(cellprob.shape, (16, 16, 16)):
        _, positions = follow(flow, cellprob, begin, end, 5)
        digest.update(np.where(np.isnan(positions), np.float32(np.nan), positions).tobytes())
    return digest.hexdigest()


def test_the_same_bits_without_vectors():
    path = os.pathsep.join([str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    run = subprocess.run(
        [sys.executable, "-c", "import test_flow_windows_3d as t; print(t.digest_of_windows())"],
        env=os.environ | {"CELLRT_SIMD": "baseline", "PYTHONPATH": path},
        check=True,
        capture_output=True,
        text=True,
    )
    assert run.stdout.strip() == digest_of_windows()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"keep": ((0, 8), (1, 7), (1, 7))}, "without the outermost voxels"),
        ({"keep": ((1, 8), (1, 7), (1, 7))}, "without the outermost voxels"),
        ({"keep": ((5, 4), (1, 7), (1, 7))}, "expected a window"),
        ({"keep": ((1, 7), (1, 7))}, "three axes"),
        ({"keep": (1, 7, 1, 7, 1, 7)}, "three axes"),
        ({"keep": ((1, 7), (1.5, 7), (1, 7))}, r"expected keep\[1\]\[0\] to be a whole number"),
        ({"origin": (4, 4, 4.7)}, r"expected origin\[2\] to be a whole number"),
        ({"origin": None}, "expected origin to be three numbers"),
        ({"origin": (-1, 4, 4)}, "expected a window"),
        ({"origin": (9, 4, 4)}, "expected a window"),
        ({"volume": (8, 16)}, "three numbers"),
        ({"n_iter": -1}, "n_iter"),
        ({"cellprob_threshold": float("nan")}, "NaN"),
    ],
)
def test_bad_windows_are_refused(changes, message):
    good: dict[str, Any] = {
        "volume": (16, 16, 16),
        "origin": (4, 4, 4),
        "keep": ((1, 7), (1, 7), (1, 7)),
        "cellprob_threshold": 0.0,
        "n_iter": 1,
        "threads": 1,
    }
    flow, cellprob = np.zeros((3, 8, 8, 8), np.float32), np.ones((8, 8, 8), np.float32)
    assert len(kernels.flow_follow_window_3d(flow, cellprob, **good)[0]) == 6**3
    with pytest.raises(KernelError, match=message):
        kernels.flow_follow_window_3d(flow, cellprob, **good | changes)


def test_flows_that_are_not_finite_are_refused():
    flow, cellprob = noisy_cells(0, (8, 8, 8), 4)
    flow[1, 4, 4, 4], cellprob[4, 4, 4] = np.nan, 1
    with pytest.raises(DataError, match="finite flows"):
        follow(flow, cellprob, (2, 2, 2), (6, 6, 6), 2)


# ---- Masks --------------------------------------------------------------------------------------------------------


def histogram(positions: Floats, shape: tuple[int, ...]) -> NDArray[np.int32]:
    """How many voxels end in each bin."""
    bins = np.ravel_multi_index(positions.astype(np.int64).T, shape)
    return np.bincount(bins, minlength=int(np.prod(shape))).reshape(shape).astype(np.int32)


def seeds_of(counts: NDArray[np.int32], block: tuple[int, ...], threads: int = 1) -> kernels.MaskSeeds3D:
    """The seeds of a volume, block by block."""
    seeds = kernels.MaskSeeds3D(counts.shape)
    for begin, end in blocks(counts.shape, block):
        origin, inside = window(counts.shape, begin, end, seeds.FIND_MARGIN)
        seeds.find(np.ascontiguousarray(counts[inside]), origin, begin, end, threads)
    return seeds


@settings(max_examples=25)
@given(
    st.integers(0, 2**32 - 1),
    st.tuples(st.integers(1, 30), st.integers(1, 40), st.integers(1, 50)),
    st.tuples(st.integers(3, 50), st.integers(3, 50), st.integers(3, 50)),
    st.sampled_from([3, 6, 20]),
    st.integers(0, 80),
    st.integers(1, 3),
)
def test_masks_of_windows_are_those_of_the_volume(seed, shape, block, radius, n_iter, threads):
    flow, cellprob = noisy_cells(seed, shape, radius)
    voxels, positions = kernels.flow_follow_3d(flow, cellprob, cellprob_threshold=-1.0, n_iter=n_iter, threads=1)
    expected, _ = kernels.flow_masks_3d(voxels, positions, shape=shape, max_size_fraction=1.0, threads=1)
    counts = histogram(positions, shape)
    seeds = seeds_of(counts, block, threads)
    masks = np.zeros(shape, np.int32)
    for begin, end in blocks(shape, block):
        origin, inside = window(shape, begin, end, seeds.PAINT_MARGIN)
        painted = counts[inside].copy()
        seeds.paint(painted, origin, threads)
        own = tuple(slice(a - o, b - o) for a, b, o in zip(begin, end, origin, strict=True))
        masks[tuple(map(slice, begin, end))] = painted[own]
    of_voxels = masks[tuple(positions.astype(np.int64).T)]
    assert of_voxels.max(initial=0) <= len(seeds)
    pairs = np.unique(np.stack([of_voxels, expected.reshape(-1)[voxels]]), axis=1)
    assert all(len(np.unique(names)) == pairs.shape[1] for names in pairs)  # one to one
    assert set(pairs[1][pairs[0] == 0]) <= {0}
    assert set(pairs[0][pairs[1] == 0]) <= {0}


def test_many_seeds_keep_their_order():
    """From 2^15 seeds on another order counts, that of all of them together."""
    counts = np.zeros((48, 288, 288), np.int32)
    counts[1::3, 1::3, 1::3] = np.random.default_rng(0).integers(11, 14, (16, 96, 96))
    whole = seeds_of(counts, counts.shape)
    parts = seeds_of(counts, (16, 100, 120))
    assert len(whole) == len(parts) > 1 << 15
    one, other = counts.copy(), counts.copy()
    whole.paint(one, (0, 0, 0), 1)
    parts.paint(other, (0, 0, 0), 2)
    np.testing.assert_array_equal(one, other)
    at_seeds = one[counts > 0]
    assert (np.diff(counts[counts > 0][np.argsort(at_seeds)]) >= 0).all()  # the largest is painted last


def test_bad_windows_of_histograms_are_refused():
    with pytest.raises(KernelError, match="sides of 1"):
        kernels.MaskSeeds3D((4, 0, 4))
    seeds = kernels.MaskSeeds3D((8, 8, 8))
    counts = np.zeros((4, 4, 4), np.int32)
    for origin, begin, end in (
        ((5, 0, 0), (5, 0, 0), (9, 4, 4)),
        ((-1, 0, 0), (0, 0, 0), (3, 4, 4)),
        ((0, 0, 0), (0, 0, 0), (5, 4, 4)),
        ((0, 0, 0), (3, 0, 0), (2, 4, 4)),
    ):
        with pytest.raises(KernelError, match="window of the volume"):
            seeds.find(counts, origin, begin, end, 1)
    with pytest.raises(KernelError, match="window of the volume"):
        seeds.paint(counts, (5, 0, 0), 1)
    with pytest.raises(KernelError, match="int32"):
        seeds.find(counts.astype(np.int64), (0, 0, 0), (0, 0, 0), (4, 4, 4), 1)
    with pytest.raises(KernelError, match="contiguous"):
        seeds.find(np.zeros((4, 4, 8), np.int32)[:, :, ::2], (0, 0, 0), (0, 0, 0), (4, 4, 4), 1)
    with pytest.raises(KernelError, match=r"three axes \(z, y, x\), got shape \(4, 4\)"):
        seeds.find(counts[0], (0, 0, 0), (0, 0, 0), (4, 4, 4), 1)
    with pytest.raises(KernelError, match="n_threads of at least 0, got -1"):
        seeds.find(counts, (0, 0, 0), (0, 0, 0), (4, 4, 4), -1)
    assert len(seeds) == 0


def test_bad_histograms_are_not_painted():
    seeds = kernels.MaskSeeds3D((4, 4, 4))
    counts = np.zeros((4, 4, 4), np.int32)
    read_only = counts.copy()
    read_only.flags.writeable = False
    for bad, message in (
        (counts.astype(np.int64), "int32"),
        (counts.tolist(), "int32"),
        (np.zeros((4, 4, 8), np.int32)[:, :, ::2], "contiguous"),
        (read_only, "can be written"),
        (counts[0], "three axes"),
    ):
        with pytest.raises(KernelError, match=message):
            seeds.paint(bad, (0, 0, 0), 1)
    with pytest.raises(KernelError, match="n_threads of at least 0, got -1"):
        seeds.paint(counts, (0, 0, 0), -1)


@pytest.mark.parametrize("count", [-1, -(2**31)])
def test_negative_counts_are_refused(count):
    """They would be taken for masks that were painted."""
    seeds = kernels.MaskSeeds3D((4, 4, 4))
    counts = np.zeros((4, 4, 4), np.int32)
    counts[3, 3, 3] = count
    with pytest.raises(DataError, match="counts of at least 0"):
        seeds.find(counts, (0, 0, 0), (0, 0, 0), (4, 4, 4), 1)
    with pytest.raises(DataError, match="counts of at least 0"):
        seeds.paint(counts, (0, 0, 0), 2)
    assert counts[3, 3, 3] == count
