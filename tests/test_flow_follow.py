"""Where flows carry pixels: the originals' positions to the bit, a slow twin, circles, instruction sets, doors."""

from __future__ import annotations

import hashlib
import itertools
import os
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference_flow_follow
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cellrt import kernels
from cellrt.errors import DataError, KernelError

REFERENCE = ROOT.parent / "shared" / "reference" / "cellpose"
KINDS = [("v3", True), ("v3", False), ("v4", True)]


def follow(
    flow: NDArray[np.float32],
    cellprob: NDArray[np.float32],
    dynamics: str,
    interpolate: bool = True,
    *,
    n_iter: int = 200,
    cellprob_threshold: float = 0.0,
    threads: int = 1,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    return kernels.flow_follow_2d(
        flow,
        cellprob,
        cellprob_threshold=cellprob_threshold,
        dynamics=dynamics,
        interpolate=interpolate,
        n_iter=n_iter,
        threads=threads,
    )


def recording(name: str) -> Path:
    path = REFERENCE / f"{name}.npz"
    if not path.exists():
        pytest.skip(f"the recorded outputs of Cellpose are not here ({name})")
    return path


def cells(seed: int, shape: tuple[int, int], radius: float = 9.0) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A flow towards the centres of round cells on a grid, about 5 long as a network gives it, and a probability."""
    random = np.random.default_rng(seed)
    y, x = np.indices(shape, np.float32)
    to_centre = np.stack([radius - y % (2 * radius), radius - x % (2 * radius)]) + random.normal(0, 0.7, (2, 1, 1))
    distance = np.hypot(*to_centre)
    flow = 5 * to_centre / np.maximum(distance, 1.5) + random.normal(0, 0.3, (2, *shape))
    return flow.astype(np.float32), (radius - distance).astype(np.float32)


# ---- The originals' positions -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "interpolate"),
    [
        ("v3_synth2ch", True),
        ("v3_stardist_img2d_crop", True),
        ("v3_synth_augment_tilenorm", True),
        ("v3_synth_noresample_nointerp", False),
    ],
)
def test_recorded_positions_of_v3(name, interpolate):
    case = np.load(recording(name))
    pixels, positions = follow(case["dP"], case["cellprob"], "v3", interpolate, n_iter=int(case["niter"]))
    np.testing.assert_array_equal(pixels, np.ravel_multi_index(tuple(case["inds"]), case["cellprob"].shape))
    np.testing.assert_array_equal(positions, case["p_final"].T)


@pytest.mark.parametrize("name", ["v3_synth2ch", "v3_stardist_img2d_crop", "v3_synth_augment_tilenorm"])
def test_recorded_positions_of_v4(name):
    case = np.load(recording(name))
    recorded = np.load(recording("v4_dynamics_on_v3_flows"))[f"{name}_p"].T
    _, positions = follow(case["dP"], case["cellprob"], "v4", n_iter=int(case["niter"]))
    np.testing.assert_array_equal(positions, recorded)


# ---- The twin -----------------------------------------------------------------------------------------------------


@given(
    st.integers(0, 2**32),
    st.sampled_from(KINDS),
    st.tuples(st.integers(1, 14), st.integers(1, 14)),
    st.sampled_from([0.0, 1e-40, 0.01, 5.0, 20.0, 1e30]),
    st.sampled_from([-0.5, 0.0, 0.6]),
    st.sampled_from([0, 1, 2, 7, 24, 25, 40, 300]),
)
@settings(max_examples=100)
def test_positions_are_those_of_the_twin(seed, kind, shape, length, threshold, n_iter):
    random = np.random.default_rng(seed)
    flow = (random.normal(0, 1, (2, *shape)) * length).astype(np.float32)
    cellprob = random.uniform(-1, 1, shape).astype(np.float32)
    pixels, positions = follow(flow, cellprob, *kind, n_iter=n_iter, cellprob_threshold=threshold)
    expected_pixels, expected = reference_flow_follow.flow_follow_2d(flow, cellprob, threshold, *kind, n_iter)
    np.testing.assert_array_equal(pixels, expected_pixels)
    np.testing.assert_array_equal(positions, expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(90, 131), (2, 40_000), (40_000, 1)])
def test_larger_images(kind, shape):
    flow, cellprob = cells(1, shape)
    expected = reference_flow_follow.flow_follow_2d(flow, cellprob, 0.0, *kind, 20)
    for threads in (1, 2, 3):
        for got, wanted in zip(follow(flow, cellprob, *kind, n_iter=20, threads=threads), expected, strict=True):
            assert got.tobytes() == wanted.tobytes()


@given(st.integers(0, 2**32))
@settings(max_examples=20)
def test_the_twins_fused_multiply_add_is_exact(seed):
    random = np.random.default_rng(seed)
    a, b, c = (np.ldexp(random.uniform(-1, 1, 50), random.integers(-30, 30, 50)).astype(np.float32) for _ in range(3))
    got = reference_flow_follow.fused(a, b, c)
    below, above = (np.nextafter(got, np.float32(end)) for end in (-np.inf, np.inf))
    for numbers in zip(a, b, c, got, below, above, strict=True):
        p, q, r, nearest, *others = (Fraction(float(number)) for number in numbers)
        assert all(abs(p * q + r - nearest) <= abs(p * q + r - other) for other in others)


def half_way() -> NDArray[np.float32]:
    """Where a pixel ends whose second step is 2^-67 short of half way between two floats, so in double half way."""
    flow, cellprob = np.zeros((2, 3, 3), np.float32), np.ones((3, 3), np.float32)
    flow[1, 1, 0] = float.fromhex("0x1.0aaaa8p+4")  # to 2^-21 before the third column
    flow[0, 1, 1] = float.fromhex("-0x1.400002p+22")
    flow[0, 1, 2] = float.fromhex("-0x1.40000ap-23")
    return follow(flow, cellprob, "v4", n_iter=2)[1][3]


def test_sums_are_rounded_once():
    assert half_way()[0] == 0.5 - 2.0**-24  # rounded twice: 0.5 - 2^-23


# ---- Circles ------------------------------------------------------------------------------------------------------


def there_and_back() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Two pixels whose flows exchange them, between two that do not move."""
    flow = np.zeros((2, 1, 4), np.float32)
    flow[1, 0, 1], flow[1, 0, 2] = 5, -5
    return flow, np.ones((1, 4), np.float32)


@pytest.mark.parametrize("interpolate", [True, False])
@pytest.mark.parametrize(("n_iter", "columns"), [(2**31 - 1, [0, 2, 1, 3]), (2**31 - 2, [0, 1, 2, 3])])
def test_circles_end_where_they_would_after_any_number_of_steps(interpolate, n_iter, columns):
    _, positions = follow(*there_and_back(), "v3", interpolate, n_iter=n_iter)
    assert positions[:, 1].tolist() == columns


@pytest.mark.parametrize("dynamics", ["v3", "v4"])
def test_every_end_is_that_of_all_steps(dynamics):
    flow, cellprob = cells(2, (22, 26))
    for n_iter in (23, 24, 25, 33, 200, 700):
        _, expected = reference_flow_follow.flow_follow_2d(flow, cellprob, 0.0, dynamics, True, n_iter)
        np.testing.assert_array_equal(follow(flow, cellprob, dynamics, n_iter=n_iter)[1], expected)


def test_circles_of_every_length_are_found():
    # Round a rectangle of 2 x n pixels, one pixel a step: a circle of 2 n steps.
    for n in (1, 2, 3, 5, 8, 13, 31, 62, 64):
        flow, cellprob = np.zeros((2, 2, n), np.float32), np.ones((2, n), np.float32)
        flow[1, 0, :-1], flow[0, 0, -1], flow[1, 1, 1:], flow[0, 1, 0] = 5, 5, -5, -5
        way = [(0, x) for x in range(n)] + [(1, x) for x in reversed(range(n))]
        begin = time.process_time()
        _, positions = follow(flow, cellprob, "v3", False, n_iter=2 * 10**9 + 3)
        assert time.process_time() - begin < 1  # all steps: a minute
        ends = {way[i]: way[(i + 2 * 10**9 + 3) % (2 * n)] for i in range(2 * n)}
        assert [tuple(end) for end in positions] == [ends[start] for start in np.ndindex(2, n)]


# ---- Laws ---------------------------------------------------------------------------------------------------------


def digest() -> str:
    """Of every output for a few images and all kinds."""
    outputs = hashlib.sha256()
    for seed, kind, n_iter in itertools.product((3, 4), KINDS, (3, 200)):
        flow, cellprob = cells(seed, (90, 103), radius=7.0 + seed)
        for array in follow(flow * np.float32(1 + seed % 2), cellprob, *kind, n_iter=n_iter, threads=2):
            outputs.update(array.tobytes())
    return outputs.hexdigest()


def test_every_instruction_set_gives_the_same_bytes():
    path = os.pathsep.join(str(ROOT / folder) for folder in ("runtime", "tests"))
    script = "from test_flow_follow import digest, half_way; print(digest(), half_way().tobytes().hex())"
    result = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env=os.environ | {"CELLRT_SIMD": "baseline", "PYTHONPATH": path},
    )
    assert result.stdout.split() == [digest(), half_way().tobytes().hex()]


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_for_any_number_of_threads(kind):
    flow, cellprob = cells(5, (300, 211))
    one, two, three = (follow(flow, cellprob, *kind, threads=threads) for threads in (1, 2, 3))
    for outputs in zip(one, two, three, strict=True):
        assert len({output.tobytes() for output in outputs}) == 1


def test_pixels_of_a_cell_meet_and_no_others():
    flow, cellprob = cells(6, (54, 54))
    pixels, positions = follow(flow, cellprob, "v3")
    y, x = np.unravel_index(pixels, cellprob.shape)
    meeting: dict[tuple[int, int], set[tuple[int, int]]] = {}
    for cell, end in zip(zip(y // 18, x // 18, strict=True), np.rint(positions).astype(int), strict=True):
        meeting.setdefault(cell, set()).add(tuple(end))
    assert len(meeting) == 9
    assert all(len(ends) <= 2 for ends in meeting.values())


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1)])
def test_v4_does_not_move_along_an_axis_of_one_pixel(shape):
    flow = np.full((2, *shape), 50, np.float32)
    _, positions = follow(flow, np.ones(shape, np.float32), "v4")
    for axis, side in enumerate(shape):
        assert np.all(positions[:, axis] == side - 1)  # the far end, which is the only one on an axis of one pixel


# ---- Doors --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("axis", [0, 1])
def test_flows_that_are_not_finite(kind, value, axis):
    flow, cellprob = cells(7, (20, 30))
    cellprob[5, 6], cellprob[8, 9] = 1, -1
    elsewhere = flow.copy()
    elsewhere[axis, 8, 9] = value  # outside every cell: it counts as 0
    expected = follow(flow, cellprob, *kind)
    for got, wanted in zip(follow(elsewhere, cellprob, *kind), expected, strict=True):
        np.testing.assert_array_equal(got, wanted)
    flow[axis, 5, 6] = value
    with pytest.raises(DataError, match="flow_follow_2d: expected finite flows inside cells, got NaN or infinity"):
        follow(flow, cellprob, *kind)


def test_probabilities_that_are_not_numbers_are_outside():
    flow, cellprob = np.zeros((2, 2, 2), np.float32), np.array([[np.nan, np.inf], [-np.inf, 0.5]], np.float32)
    assert follow(flow, cellprob, "v3")[0].tolist() == [1, 3]
    assert follow(flow, cellprob, "v3", cellprob_threshold=0.5)[0].tolist() == [1]  # strictly above
    assert follow(flow, cellprob, "v3", cellprob_threshold=np.inf)[0].tolist() == []


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (5, 0), (4, 5)])
@pytest.mark.parametrize("kind", KINDS)
def test_no_pixel_inside_a_cell(shape, kind):
    pixels, positions = follow(np.zeros((2, *shape), np.float32), np.full(shape, -1, np.float32), *kind)
    assert pixels.shape == (0,)
    assert positions.shape == (0, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dynamics": "v5"}, "expected dynamics to be one of v3, v4, got 'v5'"),
        ({"dynamics": "v4", "interpolate": False}, "expected interpolate=True with dynamics 'v4', got False"),
        ({"n_iter": -1}, "expected n_iter to be a whole number from 0 to 2147483647, got -1"),
        ({"n_iter": 2**31}, "expected n_iter to be a whole number from 0 to 2147483647, got 2147483648"),
        ({"threads": -1}, "expected threads to be a whole number from 0"),
        ({"cellprob_threshold": np.nan}, "expected cellprob_threshold to be a number, got NaN"),
        ({"flow": np.zeros((2, 4, 5))}, "expected flow as a float32 array, got float64"),
        ({"flow": np.zeros((3, 4, 5), np.float32)}, r"expected flow of shape \(2, 'any', 'any'\), got \(3, 4, 5\)"),
        ({"cellprob": np.zeros((5, 4), np.float32)}, r"expected cellprob of shape \(4, 5\), got \(5, 4\)"),
        ({"flow": np.zeros((2, 5, 4), np.float32).transpose(0, 2, 1)}, "expected flow contiguous"),
    ],
)
def test_arguments_that_are_refused(arguments, message):
    usual: dict[str, Any] = {
        "flow": np.zeros((2, 4, 5), np.float32),
        "cellprob": np.zeros((4, 5), np.float32),
        "dynamics": "v3",
    }
    with pytest.raises(KernelError, match=message):
        follow(**(usual | arguments))
