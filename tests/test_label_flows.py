"""label_flows_2d and flow_errors_2d against their slow twins, against the originals' recordings, and at their doors.

Heat is added up in the same order by all, so flows must be equal to the bit: a pixel at which a symmetric mask has no
gradient points wherever rounding errors do. Errors are means, which numpy adds up in another order.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference_label_flows as reference
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from cellrt import kernels
from cellrt.errors import DataError, KernelError

RECORDINGS = ROOT.parent / "shared" / "reference" / "cellpose"
DYNAMICS = ["v3", "v4"]
RANDOM = np.random.default_rng(3)


def flows(labels: NDArray[np.int32], dynamics: str, n_iter: int = 0, threads: int = 1) -> NDArray[np.float32]:
    n_labels = int(labels.max(initial=0))
    return kernels.label_flows_2d(labels, n_labels=n_labels, dynamics=dynamics, n_iter=n_iter, threads=threads)


def assert_flows_of_twin(labels: NDArray[np.int32], dynamics: str, n_iter: int = 0, threads: int = 1) -> None:
    expected = reference.label_flows_2d(labels, dynamics, n_iter).astype(np.float32)
    np.testing.assert_array_equal(flows(labels, dynamics, n_iter, threads), expected)


def cells(n: int, radius: float, spacing: int) -> NDArray[np.int32]:
    """n x n discs of about the same size that touch in places."""
    y, x = np.mgrid[: n * spacing, : n * spacing]
    labels = np.zeros(y.shape, np.int32)
    for i, (row, column) in enumerate(np.ndindex(n, n)):
        centre_y, centre_x = (np.array([row, column]) + 0.5) * spacing + RANDOM.uniform(-2, 2, 2)
        labels[(y - centre_y) ** 2 + (x - centre_x) ** 2 < radius**2] = i + 1
    return labels


def large_mask() -> NDArray[np.int32]:
    """A mask with holes in a box too large to be diffused in one piece if there are 190 steps, and a small one."""
    labels = np.zeros((391, 420), np.int32)
    labels[3:380, 5:410] = 2
    labels[100:160, 200:330] = 0
    labels[RANDOM.random(labels.shape) < 0.05] = 0
    labels[120:130, 230:249] = 1
    return labels


def thin_mask() -> NDArray[np.int32]:
    """Lines one pixel wide: many tiles, most of them empty."""
    labels = np.eye(700, dtype=np.int32)
    labels[350, :] = 1
    return labels


# ---- Twins


@given(
    arrays(np.int32, st.tuples(st.integers(1, 11), st.integers(1, 14)), elements=st.integers(0, 3)),
    st.sampled_from(DYNAMICS),
    st.sampled_from([0, 0, 1, 2, 7]),
    st.integers(0, 3),
)
def test_flows_are_those_of_the_twin(labels, dynamics, n_iter, threads):
    assert_flows_of_twin(labels, dynamics, n_iter, threads)


@given(
    arrays(np.int32, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.sampled_from([0, 1, 1, 1, 2, 4])),
    st.sampled_from(DYNAMICS),
    st.integers(0, 3),
    st.integers(0, 2**32 - 1),
)
def test_errors_are_those_of_the_twin(labels, dynamics, threads, seed):
    flow = np.random.default_rng(seed).normal(0, 4, (2, *labels.shape)).astype(np.float32)
    errors = kernels.flow_errors_2d(labels, flow, n_labels=5, dynamics=dynamics, threads=threads)
    expected = reference.flow_errors_2d(labels, flow, 5, dynamics)
    np.testing.assert_allclose(errors, expected, rtol=1e-12, atol=0)
    np.testing.assert_array_equal(errors[[2, 4]], 0)  # 3 and 5 never occur


@pytest.mark.parametrize("dynamics", DYNAMICS)
def test_flows_of_cells_that_touch(dynamics):
    assert_flows_of_twin(cells(3, 9.3, 17), dynamics)


@pytest.mark.parametrize("dynamics", DYNAMICS)
@pytest.mark.parametrize("n_iter", [190, 20])
def test_flows_of_large_masks(dynamics, n_iter):
    assert_flows_of_twin(large_mask(), dynamics, n_iter, threads=2)


@pytest.mark.parametrize("dynamics", DYNAMICS)
def test_any_number_of_threads_gives_the_same_bytes(dynamics):
    for labels, n_iter in ((cells(6, 9.3, 17), 0), (large_mask(), 200), (thin_mask(), 300)):
        network = RANDOM.normal(0, 3, (2, *labels.shape)).astype(np.float32)
        n_labels = int(labels.max())
        first, *others = (flows(labels, dynamics, n_iter, threads).tobytes() for threads in (1, 2, 3, 7))
        assert others == [first] * 3
        if n_iter == 0:
            first, *others = (
                kernels.flow_errors_2d(labels, network, n_labels=n_labels, dynamics=dynamics, threads=threads).tobytes()
                for threads in (1, 2, 3, 7)
            )
            assert others == [first] * 3


def test_any_instruction_set_gives_the_same_bytes():
    program = "import test_label_flows; print(test_label_flows.digest())"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "tests"), *sys.path])}
    answers = [
        subprocess.run(
            [sys.executable, "-c", program], env=environment | simd, check=True, capture_output=True, text=True
        ).stdout
        for simd in ({"CELLRT_SIMD": ""}, {"CELLRT_SIMD": "baseline"})
    ]
    assert len(answers[0].split()) == 4
    assert answers[0] == answers[1]


def digest() -> str:
    """Of flows that two processes compute from the same labels."""
    labels = [(cells(4, 9.3, 17), 0), (large_mask(), 190)]
    results = [flows(image, dynamics, n_iter) for image, n_iter in labels for dynamics in DYNAMICS]
    return " ".join(hashlib.sha256(result.tobytes()).hexdigest() for result in results)


# ---- Laws


@pytest.mark.parametrize("dynamics", DYNAMICS)
def test_flows_point_to_the_centre_and_have_length_1(dynamics):
    labels = cells(1, 12.5, 31)
    flow = flows(labels, dynamics)
    y, x = np.nonzero(labels)
    lengths = np.hypot(*flow[:, y, x])
    to_centre = flow[0, y, x] * (y.mean() - y) + flow[1, y, x] * (x.mean() - x)
    far = np.hypot(y - y.mean(), x - x.mean()) > 2
    assert (lengths[far] > 0.999999).all()
    assert (to_centre[far] > 0).all()
    assert not flow[:, labels == 0].any()


@pytest.mark.parametrize("dynamics", DYNAMICS)
def test_a_pixel_alone_has_no_flow(dynamics):
    assert not flows(np.array([[1, 0, 2], [0, 0, 0], [3, 0, 4]], np.int32), dynamics).any()


@pytest.mark.parametrize("dynamics", DYNAMICS)
def test_heat_stays_in_the_piece_of_the_centre(dynamics):
    labels = np.zeros((9, 40), np.int32)
    labels[2:7, 2:22] = 1
    labels[4, 30:34] = 1
    labels[7, 22:24] = 1  # connected over a corner
    flow = flows(labels, dynamics)
    assert (np.hypot(*flow[:, 2:7, 2:4]) > 0.99).all()
    assert flow[1, 7, 22] > 0
    assert not flow[:, 4, 30:34].any()


def test_masks_that_touch_have_their_own_flow_under_v3_only():
    pair = np.zeros((12, 20), np.int32)
    pair[1:11, 1:10] = 1
    alone = flows(pair, "v3"), flows(pair, "v4")
    pair[2:9, 10:18] = 2
    both = flows(pair, "v3"), flows(pair, "v4")
    assert (both[0] == alone[0])[:, pair == 1].all()
    assert not (both[1] == alone[1])[:, pair == 1].all()


def test_v4_takes_as_many_steps_for_all_masks_as_the_largest_needs():
    labels = np.zeros((30, 60), np.int32)
    labels[2:8, 2:9] = 1
    alone = flows(labels, "v4")
    labels[20, 2:58] = 2
    with_longer = flows(labels, "v4")
    assert not np.array_equal(alone[:, :10], with_longer[:, :10])
    np.testing.assert_array_equal(with_longer, flows(labels, "v4", n_iter=2 * (1 + 56 + 2)))


@pytest.mark.parametrize("dynamics", DYNAMICS)
def test_heat_that_does_not_change_any_more_is_not_diffused_further(dynamics):
    """10^9 steps: without that rule they would take hours."""
    labels = cells(2, 4.5, 9)
    expected = reference.label_flows_2d(labels, dynamics, 800).astype(np.float32)
    np.testing.assert_array_equal(flows(labels, dynamics, n_iter=10**9), expected)
    thin = np.eye(400, dtype=np.int32)
    np.testing.assert_array_equal(flows(thin, dynamics, 10**9), flows(thin, dynamics, 10**4))


@pytest.mark.parametrize("dynamics", DYNAMICS)
def test_labels_in_pieces_far_apart_cost_what_their_pixels_cost(dynamics):
    """5000 labels, each with a box of nearly the whole image: going through the boxes would take an hour."""
    labels = RANDOM.integers(1, 5001, (400, 400)).astype(np.int32)
    network = np.zeros((2, *labels.shape), np.float32)
    errors = kernels.flow_errors_2d(labels, network, n_labels=5000, dynamics=dynamics, threads=2)
    assert ((errors >= 0) & (errors <= 1 + 1e-12)).all()


# ---- Recordings of the originals


def recording(name: str) -> Any:
    path: Path = RECORDINGS / f"{name}.npz"
    if not path.exists():
        pytest.skip(f"the recorded outputs of Cellpose are not here ({path.name})")
    return np.load(path)


@pytest.mark.parametrize(
    "name",
    ["v3_synth2ch", "v3_stardist_img2d_crop", "v3_synth_augment_tilenorm", "v3_synth_noresample_nointerp"],
)
def test_parity_with_cellpose_3(name):
    case = recording(name)
    labels, flow = case["masks_before_qc"].astype(np.int32), case["dP"]
    np.testing.assert_array_equal(flows(labels, "v3"), case["flows_from_masks"])
    errors = kernels.flow_errors_2d(labels, flow, n_labels=int(labels.max()), dynamics="v3", threads=2)
    np.testing.assert_array_equal(errors, case["flow_errors"])


@pytest.mark.parametrize("name", ["v3_synth2ch", "v3_stardist_img2d_crop", "v3_synth_augment_tilenorm"])
def test_parity_with_cellpose_4(name):
    """The recorded program diffused the masks that Cellpose 3 had found, before quality control."""
    case, recorded = recording(name), recording("v4_dynamics_on_v3_flows")
    labels, flow = case["masks_before_qc"].astype(np.int32), case["dP"]
    np.testing.assert_array_equal(flows(labels, "v4"), recorded[f"{name}_mu"])
    errors = kernels.flow_errors_2d(labels, flow, n_labels=int(labels.max()), dynamics="v4", threads=2)
    np.testing.assert_allclose(errors, recorded[f"{name}_err"], rtol=1e-13, atol=0)
    np.testing.assert_array_equal(errors > 0.4, recorded[f"{name}_err"] > 0.4)


# ---- Doors


@pytest.mark.parametrize("dynamics", DYNAMICS)
@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (5, 0), (4, 6)])
def test_images_without_masks(shape, dynamics):
    labels = np.zeros(shape, np.int32)
    flow = kernels.label_flows_2d(labels, n_labels=2, dynamics=dynamics, n_iter=0, threads=2)
    assert flow.shape == (2, *shape)
    assert not flow.any()
    nothing = np.full((2, *shape), np.nan, np.float32)  # outside masks the flow does not matter
    np.testing.assert_array_equal(
        kernels.flow_errors_2d(labels, nothing, n_labels=2, dynamics=dynamics, threads=2), [0, 0]
    )


@pytest.mark.parametrize("bad", [-1, 3])
def test_labels_out_of_range_are_refused(bad):
    labels = np.ones((40, 3), np.int32)
    labels[39, 2] = bad
    message = rf"expected labels in 0\.\.2, got {min(bad, 1)} to {max(bad, 1)}"
    with pytest.raises(KernelError, match=message) as caught:
        kernels.label_flows_2d(labels, n_labels=2, dynamics="v3", n_iter=0, threads=2)
    assert caught.value.status == kernels.ERROR_ARGUMENT
    with pytest.raises(KernelError, match=message):
        kernels.flow_errors_2d(labels, np.zeros((2, 40, 3), np.float32), n_labels=2, dynamics="v4", threads=2)


@pytest.mark.parametrize("dynamics", DYNAMICS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_flows_that_are_not_finite_are_refused(bad, dynamics):
    labels = cells(2, 4.5, 9)
    flow = np.zeros((2, *labels.shape), np.float32)
    flow[1][labels == 3] = 3e38  # as large as it may be
    kernels.flow_errors_2d(labels, flow, n_labels=4, dynamics=dynamics, threads=2)
    y, x = np.argwhere(labels == 4)[-1]
    flow[0, y, x] = bad
    with pytest.raises(DataError, match="expected finite flows inside labels, got NaN or infinity"):
        kernels.flow_errors_2d(labels, flow, n_labels=4, dynamics=dynamics, threads=2)


def test_parameters_that_are_refused():
    labels, flow = np.ones((3, 4), np.int32), np.zeros((2, 3, 4), np.float32)
    with pytest.raises(KernelError, match="expected dynamics to be one of v3, v4, got 'v5'"):
        kernels.label_flows_2d(labels, n_labels=1, dynamics="v5", n_iter=0, threads=1)
    with pytest.raises(KernelError, match="expected n_iter to be a whole number from 0 to 2147483647, got -1"):
        kernels.label_flows_2d(labels, n_labels=1, dynamics="v3", n_iter=-1, threads=1)
    with pytest.raises(KernelError, match="expected labels as a int32 array, got int64"):
        kernels.label_flows_2d(labels.astype(np.int64), n_labels=1, dynamics="v3", n_iter=0, threads=1)
    with pytest.raises(KernelError, match=r"expected flow of shape \(2, 3, 4\), got \(2, 4, 3\)"):
        kernels.flow_errors_2d(labels, flow.reshape(2, 4, 3), n_labels=1, dynamics="v3", threads=1)
    with pytest.raises(KernelError, match="expected labels contiguous, got strides"):
        kernels.flow_errors_2d(labels[:, ::2], flow[:, :, ::2], n_labels=1, dynamics="v3", threads=1)
