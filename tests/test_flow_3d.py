"""Flows in volumes: the originals to the bit, slow twins, laws, worst cases, doors."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from typing import Any

import numpy as np
import pytest
import reference_flow_3d
from conftest import GOLDEN_CELLPOSE, ROOT, cellpose_reference_file
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cellrt import kernels
from cellrt.errors import CellrtError, DataError, KernelError
from cellrt.heads import flow_3d
from cellrt.manifest import FlowSpec

Floats = NDArray[np.float32]
THREADS = st.integers(1, 3)


def golden(pattern: str) -> list[str]:
    return [path.stem for path in sorted((GOLDEN_CELLPOSE / "kernels").glob(f"{pattern}.npz"))]


def fixture(name: str) -> dict[str, NDArray[Any]]:
    return dict(np.load(GOLDEN_CELLPOSE / "kernels" / f"{name}.npz"))


def follow(
    flow: Floats, cellprob: Floats, *, n_iter: int = 200, cellprob_threshold: float = 0.0, threads: int = 1
) -> tuple[NDArray[np.int64], Floats]:
    return kernels.flow_follow_3d(flow, cellprob, cellprob_threshold=cellprob_threshold, n_iter=n_iter, threads=threads)


def masks_of(
    voxels: NDArray[np.int64], positions: Floats, shape: tuple[int, int, int], fraction: float = 0.4, threads: int = 1
) -> tuple[NDArray[np.int32], int]:
    return kernels.flow_masks_3d(voxels, positions, shape=shape, max_size_fraction=fraction, threads=threads)


def cells(seed: int, shape: tuple[int, int, int], radius: float = 6.0) -> tuple[Floats, Floats]:
    """A flow towards the centres of balls on a lattice, about 5 long as a network gives it, and a probability."""
    random = np.random.default_rng(seed)
    places = np.indices(shape, np.float32)
    to_centre = radius - places % (2 * radius) + random.normal(0, 0.7, (3, 1, 1, 1))
    distance = np.linalg.norm(to_centre, axis=0)
    flow = 5 * to_centre / np.maximum(distance, 1.5) + random.normal(0, 0.3, (3, *shape))
    return flow.astype(np.float32), (radius - distance).astype(np.float32)


# ---- The originals ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", golden("v?_3d_follow_*"))
@pytest.mark.parametrize("threads", [1, 2])
def test_recorded_positions_and_masks(name, threads):
    case = fixture(name)
    voxels, positions = follow(case["flow"], case["cellprob"], n_iter=int(case["n_iter"]), threads=threads)
    np.testing.assert_array_equal(positions, case["p_final"].T)
    labels, n_labels = masks_of(voxels, positions, case["cellprob"].shape, threads=threads)
    np.testing.assert_array_equal(labels, case["masks"])
    assert n_labels == case["masks"].max()


@pytest.mark.parametrize("name", golden("v?_3d_clean_*"))
@pytest.mark.parametrize("threads", [1, 2])
def test_recorded_cleaning(name, threads):
    case = fixture(name)
    for index, min_size in enumerate(case["min_sizes"]):
        cleaned, n_labels = kernels.clean_labels_3d(
            case["labels"], min_size=int(min_size), dynamics=name[:2], threads=threads
        )
        np.testing.assert_array_equal(cleaned, case[f"cleaned_{index}"], f"min_size {min_size}")
        assert n_labels == cleaned.max()


def test_the_large_recordings():
    case = np.load(cellpose_reference_file("v3_3d.npz"))
    of_v4 = np.load(cellpose_reference_file("v4_dynamics_on_v3_flows.npz"))
    flow, cellprob = np.ascontiguousarray(case["dP"]), np.ascontiguousarray(case["cellprob"])
    voxels, positions = follow(flow, cellprob, n_iter=int(case["niter"]), threads=2)
    np.testing.assert_array_equal(voxels, np.ravel_multi_index(tuple(case["inds"]), cellprob.shape))
    np.testing.assert_array_equal(positions, case["p_final"].T)
    np.testing.assert_array_equal(positions, of_v4["v3_3d_p"].T)
    labels, _ = masks_of(voxels, positions, cellprob.shape, threads=2)
    np.testing.assert_array_equal(labels, case["masks_before_qc"])
    for dynamics, masks in (("v3", case["masks"]), ("v4", of_v4["v3_3d_masks"])):
        cleaned, _ = kernels.clean_labels_3d(labels, min_size=15, dynamics=dynamics, threads=2)
        np.testing.assert_array_equal(cleaned, masks)


@pytest.mark.parametrize("name", ["volume", "volume_smooth"])
def test_cellpose_4_on_recorded_maps(name):
    maps = np.load(GOLDEN_CELLPOSE / "volumes" / "volume.npz")["maps"]
    case = np.load(GOLDEN_CELLPOSE / "dynamics_v4" / "volumes" / f"{name}.npz")
    spec = FlowSpec(dynamics="v4", diam_mean=17, diam_labels=17, tile=224)
    smooth, steps = case["flow3D_smooth"], int(case["niter"])
    found = flow_3d.decode(maps, spec, steps=steps, flow_smooth=smooth if smooth.ndim else float(smooth))
    np.testing.assert_array_equal(found.labels, case["masks"])
    assert found.is_volume
    assert len(found) == case["masks"].max()
    assert ((found.scores > 0.5) & (found.scores <= 1)).all()


def test_smoothing_is_scipys():
    ndimage = pytest.importorskip("scipy.ndimage")
    random = np.random.default_rng(0)
    for shape in ((24, 30, 20), (1, 40, 3), (3, 150, 200)):
        values = random.normal(0, 5, shape).astype(np.float32)
        for sigmas in ((1, 1, 1), (2.0, 0, 0.7), (0, 8.3, 0), (1e-16, 1e-3, 0)):
            expected = ndimage.gaussian_filter(values, sigmas)
            assert flow_3d.smoothed(values, sigmas).tobytes() == expected.tobytes()


# ---- The twins ----------------------------------------------------------------------------------------------------


@given(
    st.integers(0, 2**32),
    st.tuples(st.integers(1, 7), st.integers(1, 8), st.integers(1, 8)),
    st.sampled_from([0.0, 1e-40, 0.01, 5.0, 20.0, 1e30]),
    st.sampled_from([-0.5, 0.0, 0.6]),
    st.sampled_from([0, 1, 2, 7, 24, 25, 40, 300]),
)
@settings(max_examples=60)
def test_positions_are_those_of_the_twin(seed, shape, length, threshold, n_iter):
    random = np.random.default_rng(seed)
    flow = (random.normal(0, 1, (3, *shape)) * length).astype(np.float32)
    cellprob = random.uniform(-1, 1, shape).astype(np.float32)
    voxels, positions = follow(flow, cellprob, n_iter=n_iter, cellprob_threshold=threshold)
    expected_voxels, expected = reference_flow_3d.flow_follow_3d(flow, cellprob, threshold, n_iter)
    np.testing.assert_array_equal(voxels, expected_voxels)
    np.testing.assert_array_equal(positions, expected)


@pytest.mark.parametrize("shape", [(19, 23, 41), (2, 3, 9000), (9000, 1, 3), (3, 9000, 2)])
def test_larger_volumes(shape):
    flow, cellprob = cells(1, shape)
    expected = reference_flow_3d.flow_follow_3d(flow, cellprob, 0.0, 20)
    for threads in (1, 2, 3):
        for got, wanted in zip(follow(flow, cellprob, n_iter=20, threads=threads), expected, strict=True):
            assert got.tobytes() == wanted.tobytes()


def test_every_end_is_that_of_all_steps():
    flow, cellprob = cells(2, (13, 12, 14))
    for n_iter in (23, 24, 25, 33, 200, 500):
        _, expected = reference_flow_3d.flow_follow_3d(flow, cellprob, 0.0, n_iter)
        np.testing.assert_array_equal(follow(flow, cellprob, n_iter=n_iter)[1], expected)


@st.composite
def ends(draw: st.DrawFn) -> tuple[tuple[NDArray[np.int64], Floats], tuple[int, int, int]]:
    """Voxels of a volume that end on a lattice, at a few points, in many equal peaks, or anywhere."""
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    shape = tuple(random.integers(1, random.choice([4, 12, 12]), 3).tolist())
    n = int(np.prod(shape))
    voxels = np.flatnonzero(random.random(n) < random.choice([1, 0.9, 0.5]))
    start = np.stack(np.unravel_index(voxels, shape), axis=1).astype(np.float64)
    kind = draw(st.sampled_from(["peaks", "lattice", "points", "outside", "anywhere"]))
    step = int(random.integers(3, 7))
    if kind == "anywhere":
        position = random.uniform(-0.9, np.divide(shape, step), start.shape)
    elif kind == "points":
        position = random.uniform(0, shape, (step, 3))[random.integers(0, step, len(start))]
        position += random.normal(0, 1.2, start.shape)
    elif kind == "peaks":
        position = start // [3, 2, 4] * [1, 1, 3] + random.choice([0, 1], start.shape, p=[0.8, 0.2])
    else:
        position = np.round(start / step) * step + random.normal(0, random.choice([0, 0.4, 0.8]), start.shape)
    if kind == "outside":  # no further than 15 voxels: there upstream's windows leave the histogram
        position = np.maximum(position * 1.5 - random.integers(0, 25, 3), -15)
    else:
        position = np.clip(position, 0, np.subtract(shape, 1))
    return (voxels, position.astype(np.float32)), shape


@given(ends(), st.sampled_from([0, 0.01, 0.1, 0.4, 1]), THREADS)
@settings(max_examples=60)
def test_masks_are_those_of_the_twin(case, fraction, threads):
    (voxels, positions), shape = case
    masks, n_masks = masks_of(voxels, positions, shape, fraction, threads)
    expected, n_expected = reference_flow_3d.flow_masks_3d(voxels, positions, shape, fraction)
    np.testing.assert_array_equal(masks, expected)
    assert n_masks == n_expected


@st.composite
def label_volumes(draw: st.DrawFn) -> NDArray[np.int32]:
    """Noise, blocks, or shells that nest and touch; with and without background and gaps in the numbering."""
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    shape = tuple(random.integers(1, random.choice([4, 11, 11]), 3).tolist())
    n_labels = int(random.integers(1, 7))
    kind = draw(st.sampled_from(["shells", "blocks", "noise", "full"]))
    if kind == "shells":
        labels = np.full(shape, random.choice([0, 0, n_labels + 1]))
        places = np.ogrid[tuple(slice(side) for side in shape)]
        for label in random.permutation(n_labels) + 1:
            away = [abs(place - random.integers(0, side)) for place, side in zip(places, shape, strict=True)]
            distance = sum(away) if random.random() < 0.5 else np.maximum(np.maximum(away[0], away[1]), away[2])
            labels[distance == random.integers(1, 5)] = label
    elif kind == "blocks":
        labels = np.kron(random.integers(0, n_labels + 1, shape), np.ones((3, 3, 3), int))
        labels = labels[: shape[0], : shape[1], : shape[2]]
        labels = np.where(random.random(shape) < 0.1, random.integers(0, n_labels + 1, shape), labels)
    else:
        n_labels = min(n_labels, 2)
        labels = random.integers(int(kind == "full"), n_labels + 1, shape)
    names = np.append(0, np.sort(random.choice(np.arange(1, 30), n_labels + 1, replace=False)))
    gaps = draw(st.sampled_from(["none", "few", "shuffled", "huge"]))
    if gaps == "shuffled":
        names[1:] = random.permutation(names[1:])
    elif gaps == "huge":
        names[1:] += 2**31 - 100
    return (labels if gaps == "none" else names[labels]).astype(np.int32)


@given(label_volumes(), st.integers(-1, 12), st.sampled_from(["v3", "v4"]), THREADS)
def test_cleaned_labels_are_those_of_the_twin(labels, min_size, dynamics, threads):
    before = labels.copy()
    cleaned, n_labels = kernels.clean_labels_3d(labels, min_size=min_size, dynamics=dynamics, threads=threads)
    expected, n_expected = reference_flow_3d.clean_labels_3d(labels, min_size, dynamics)
    np.testing.assert_array_equal(cleaned, expected)
    assert n_labels == n_expected
    np.testing.assert_array_equal(labels, before)


# ---- Laws and worst cases -----------------------------------------------------------------------------------------


def digest() -> str:
    """Of every output for some volumes."""
    outputs = hashlib.sha256()
    for seed, n_iter in ((3, 3), (4, 200), (5, 37)):
        flow, cellprob = cells(seed, (22, 37, 43), radius=4.0 + seed / 2)
        for array in follow(flow * np.float32(seed - 2), cellprob, n_iter=n_iter, threads=2):
            outputs.update(array.tobytes())
    return outputs.hexdigest()


def test_every_instruction_set_gives_the_same_bytes():
    path = os.pathsep.join(str(ROOT / folder) for folder in ("runtime", "tests"))
    result = subprocess.run(
        [sys.executable, "-c", "from test_flow_3d import digest; print(digest())"],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
        env=os.environ | {"CELLRT_SIMD": "baseline", "PYTHONPATH": path},
    )
    assert result.stdout.split() == [digest()]


def test_the_same_for_any_number_of_threads():
    flow, cellprob = cells(5, (40, 61, 70))
    outputs = []
    for threads in (1, 2, 3, 8):
        voxels, positions = follow(flow, cellprob, threads=threads)
        labels, n_labels = masks_of(voxels, positions, cellprob.shape, threads=threads)
        cleaned, _ = kernels.clean_labels_3d(labels, min_size=5, dynamics="v4", threads=threads)
        assert n_labels > 50
        outputs.append(positions.tobytes() + labels.tobytes() + cleaned.tobytes())
    assert len(set(outputs)) == 1


def test_transposed_volumes_give_transposed_cells():
    flow, cellprob = cells(6, (24, 24, 24))
    voxels, positions = follow(flow, cellprob)
    labels, n_labels = masks_of(voxels, positions, cellprob.shape)
    turned = np.ascontiguousarray(flow[::-1].transpose(0, 3, 2, 1)), np.ascontiguousarray(cellprob.transpose(2, 1, 0))
    other, n_other = masks_of(*follow(*turned), turned[1].shape)
    assert n_labels == n_other
    pairs = np.unique(np.stack([labels.ravel(), other.transpose(2, 1, 0).ravel()]), axis=1)
    assert pairs.shape[1] <= n_labels + 3  # all but voxels where rounding decides


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 9), (1, 9, 1), (9, 1, 1)])
def test_no_way_along_an_axis_of_one_voxel(shape):
    _, positions = follow(np.full((3, *shape), 50, np.float32), np.ones(shape, np.float32))
    for axis, side in enumerate(shape):
        assert np.all(positions[:, axis] == side - 1)  # the far end, which is the only one on an axis of one voxel


def test_many_steps_end_where_circles_do():
    to_centre = (5.5 - np.indices((12, 12, 12))).astype(np.float32)
    inside = np.linalg.norm(to_centre, axis=0) < 6
    begin = time.process_time()
    _, positions = follow(to_centre, inside.astype(np.float32), n_iter=2**31 - 1)
    assert time.process_time() - begin < 5  # all steps: hours
    _, expected = follow(to_centre, inside.astype(np.float32), n_iter=3000)
    assert np.abs(positions - expected).max() < 1e-5
    assert np.abs(positions - positions.mean(axis=0)).max() < 1e-3  # they meet


def test_deep_nesting_of_shells():
    # Every shell around all the smaller ones: what is filled must not be visited again by each.
    side = 101
    distance = abs(np.arange(side) - side // 2)
    radius = np.maximum(np.maximum.outer(distance, distance)[..., np.newaxis], distance)
    for labels in (radius + 1, side // 2 + 1 - radius):
        cleaned, n_labels = kernels.clean_labels_3d(labels.astype(np.int32), min_size=0, dynamics="v4", threads=1)
        assert (cleaned == n_labels).all()


def test_many_labels_that_span_the_volume():
    # Upstream goes through the whole volume once for each.
    n_labels, side = 20_000, 100
    labels = (np.arange(side**3) % n_labels).reshape(side, side, side).astype(np.int32)
    begin = time.process_time()
    cleaned, n_cleaned = kernels.clean_labels_3d(labels, min_size=5, dynamics="v4", threads=1)
    assert time.process_time() - begin < 10
    np.testing.assert_array_equal(cleaned, labels)
    assert n_cleaned == n_labels - 1


def test_every_bin_a_seed():
    # As many seeds as there can be, with windows that all overlap.
    shape = (22, 24, 26)
    voxels = np.arange(np.prod(shape))
    positions = np.stack(np.unravel_index(voxels // 11, shape), axis=1).astype(np.float32)
    masks, n_masks = masks_of(voxels, positions, shape, fraction=1)
    assert n_masks > 50
    for threads in (2, 3):
        np.testing.assert_array_equal(masks_of(voxels, positions, shape, 1, threads)[0], masks)


# ---- Doors --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_flows_that_are_not_finite(value, axis):
    flow, cellprob = cells(8, (9, 12, 11))
    cellprob[4, 5, 6], cellprob[4, 8, 9] = 1, -1
    elsewhere = flow.copy()
    elsewhere[axis, 4, 8, 9] = value  # outside every cell: it counts as 0
    for got, wanted in zip(follow(elsewhere, cellprob), follow(flow, cellprob), strict=True):
        np.testing.assert_array_equal(got, wanted)
    flow[axis, 4, 5, 6] = value
    with pytest.raises(DataError, match="flow_follow_3d: expected finite flows inside cells, got NaN or infinity"):
        follow(flow, cellprob)


def test_probabilities_that_are_not_numbers_are_outside():
    flow, cellprob = np.zeros((3, 1, 2, 2), np.float32), np.array([[[np.nan, np.inf], [-np.inf, 0.5]]], np.float32)
    assert follow(flow, cellprob)[0].tolist() == [1, 3]
    assert follow(flow, cellprob, cellprob_threshold=0.5)[0].tolist() == [1]  # strictly above


@pytest.mark.parametrize("shape", [(0, 0, 0), (0, 5, 3), (5, 3, 0), (3, 4, 5)])
def test_nothing_inside(shape):
    voxels, positions = follow(np.zeros((3, *shape), np.float32), np.full(shape, -1, np.float32))
    assert positions.shape == (0, 3)
    masks, n_masks = masks_of(voxels, positions, shape)
    assert masks.shape == shape
    assert n_masks == masks.sum() == 0
    assert kernels.clean_labels_3d(masks, min_size=15, dynamics="v3", threads=1)[1] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_iter": -1}, "expected n_iter to be a whole number from 0 to 2147483647, got -1"),
        ({"threads": -1}, "expected threads to be a whole number from 0"),
        ({"cellprob_threshold": np.nan}, "expected cellprob_threshold to be a number, got NaN"),
        ({"flow": np.zeros((3, 4, 5, 6))}, "expected flow as a float32 array, got float64"),
        ({"flow": np.zeros((2, 4, 5, 6), np.float32)}, r"expected flow of shape \(3, 'any', 'any', 'any'\), got"),
        ({"cellprob": np.zeros((4, 6, 5), np.float32)}, r"expected cellprob of shape \(4, 5, 6\), got \(4, 6, 5\)"),
        ({"flow": np.zeros((3, 4, 6, 5), np.float32).swapaxes(2, 3)}, "expected flow contiguous"),
        (
            {"flow": np.zeros((3, 0, 2**20 + 1, 0), np.float32), "cellprob": np.zeros((0, 2**20 + 1, 0), np.float32)},
            r"expected flow\[1\] to be a whole number from 0 to 1048576, got 1048577",
        ),
    ],
)
def test_fields_that_are_refused(arguments, message):
    usual: dict[str, Any] = {"flow": np.zeros((3, 4, 5, 6), np.float32), "cellprob": np.zeros((4, 5, 6), np.float32)}
    with pytest.raises(KernelError, match=message):
        follow(**(usual | arguments))


@pytest.mark.parametrize(
    ("voxels", "positions", "message"),
    [
        (np.array([1, 1]), np.ones((2, 3), np.float32), r"expected voxels ascending inside \(3, 4, 2\), got others"),
        (np.array([0, 24]), np.ones((2, 3), np.float32), r"expected voxels ascending inside \(3, 4, 2\), got others"),
        (np.array([1]), np.ones((2, 3), np.float32), r"expected positions of shape \(1, 3\), got \(2, 3\)"),
        (np.array([1]), np.ones((1, 3)), "expected positions as a float32 array, got float64"),
    ],
)
def test_ends_that_are_refused(voxels, positions, message):
    with pytest.raises(KernelError, match=message):
        masks_of(voxels, positions, (3, 4, 2))


def test_positions_that_are_not_finite_and_fractions_below_0():
    with pytest.raises(DataError, match="expected finite positions, got NaN or infinity"):
        masks_of(np.arange(2), np.array([[1, 1, 1], [1, np.nan, 1]], np.float32), (3, 4, 2))
    with pytest.raises(KernelError, match="expected max_size_fraction of at least 0, got -1"):
        masks_of(np.arange(2), np.ones((2, 3), np.float32), (3, 4, 2), -1)
    with pytest.raises(KernelError, match=r"expected shape to be three numbers \(z, y, x\), got \(3, 4\)"):
        masks_of(np.arange(2), np.ones((2, 3), np.float32), (3, 4))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.array([[[0, -3]]], np.int32), "expected labels that are not negative, got -3"),
        (np.zeros((2, 2, 2), np.uint16), "expected labels as a int32 array, got uint16"),
        (np.zeros((2, 2), np.int32), "expected labels of shape"),
        (np.zeros((4, 4, 4), np.int32)[..., ::2], "expected labels contiguous, got strides"),
    ],
)
def test_labels_that_are_refused(labels, message):
    with pytest.raises(KernelError, match=message):
        kernels.clean_labels_3d(labels, min_size=1, dynamics="v3", threads=1)


@pytest.mark.parametrize(
    ("maps", "options", "message"),
    [
        (np.zeros((3, 4, 5), np.float32), {}, r"expected maps as float32 \(4, Z, Y, X\) with voxels, got float32"),
        (np.zeros((4, 0, 5, 5), np.float32), {}, r"expected maps as float32 \(4, Z, Y, X\) with voxels"),
        (np.full((4, 3, 3, 3), np.inf, np.float32), {}, "expected finite flows from the network, got NaN or infinity"),
        (None, {"flow_smooth": -1}, "expected flow3D_smooth as a number of voxels from 0 to 1000, or three of them"),
        (None, {"flow_smooth": (1, 2)}, r"or three of them \(z, y, x\), got \(1, 2\)"),
        (None, {"flow_smooth": np.nan}, "expected flow3D_smooth as a number"),
        (None, {"flow_smooth": "1"}, "expected flow3D_smooth as a number"),
        (None, {"steps": -1}, "expected niter as a whole number"),
        (None, {"min_size": 1.5}, "expected min_size as a whole number"),
        (None, {"cellprob_threshold": np.nan}, "expected cellprob_threshold to be a number, got nan"),
    ],
)
def test_maps_and_options_that_are_refused(maps, options, message):
    spec = FlowSpec(dynamics="v3", diam_mean=17, diam_labels=17, tile=224)
    with pytest.raises(CellrtError, match=message):
        flow_3d.decode(np.zeros((4, 2, 3, 4), np.float32) if maps is None else maps, spec, **options)
