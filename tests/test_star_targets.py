"""Training targets of star networks against slow twins, StarDist's own, and the laws that they follow."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
import reference_star_targets as reference
from conftest import GOLDEN, ROOT, reference_file
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from cellrt import kernels
from cellrt.errors import KernelError


def label_images(min_label: int, max_label: int, longest_side: int) -> st.SearchStrategy[NDArray[np.int32]]:
    """Noise of a few labels, each pixel of it repeated down and across, so that there are runs of all lengths."""
    shapes = st.tuples(st.integers(1, longest_side), st.integers(1, longest_side))
    noise = shapes.flatmap(lambda shape: arrays(np.int32, shape, elements=st.integers(min_label, max_label)))
    repeats = st.tuples(noise, st.integers(1, 5), st.integers(1, 5))
    return repeats.map(lambda drawn: np.ascontiguousarray(drawn[0].repeat(drawn[1], 0).repeat(drawn[2], 1)))


def discs(shape: tuple[int, int], count: int, seed: int) -> NDArray[np.int32]:
    """Overlapping discs, some cut by the frame."""
    random = np.random.default_rng(seed)
    labels = np.zeros(shape, np.int32)
    y, x = np.indices(shape)
    for label in range(1, count + 1):
        centre_y, centre_x = random.uniform(0, shape)
        labels[(y - centre_y) ** 2 + (x - centre_x) ** 2 <= random.uniform(2, 14) ** 2] = label
    return labels


def distances(labels: NDArray[np.int32], n_rays: int = 32, grid: tuple[int, int] = (1, 1), threads: int = 1):
    return kernels.star_distances_2d(labels, n_rays=n_rays, grid=grid, threads=threads)


def probability(labels: NDArray[np.int32], threads: int = 1):
    return kernels.object_probability_2d(labels, n_labels=max(0, int(labels.max(initial=0))), threads=threads)


# ---- against the twins --------------------------------------------------------------------------------------------

GRIDS = st.tuples(st.integers(1, 4), st.integers(1, 4)) | st.just((1000, 2**30))


@settings(max_examples=60)
@given(label_images(-1, 3, 6), st.integers(3, 13), GRIDS, st.integers(0, 3))
def test_distances_are_those_of_the_twin(labels, n_rays, grid, threads):
    dist = distances(labels, n_rays, grid, threads)
    assert dist.dtype == np.float32
    assert np.array_equal(dist, reference.star_distances_2d(labels, n_rays, grid))


@pytest.mark.parametrize("n_rays", [12, 32])  # of 12 rays, some go on by half a pixel: ties in every other step
@pytest.mark.parametrize("shape", [(3, 2**20), (2**20, 3), (40, 5000)])
def test_coordinates_are_rounded_as_in_single_precision(n_rays, shape):
    """Far from the origin which pixel a step ends in depends on where it began, and not only on the ray."""
    labels = np.zeros(shape, np.int32)
    corner = tuple(slice(max(0, side - 30), side) for side in shape)
    labels[corner] = discs(labels[corner].shape, 4, seed=1)
    assert np.array_equal(distances(labels, n_rays), reference.star_distances_2d(labels, n_rays, (1, 1)))


@pytest.mark.parametrize("grid", [(1, 1), (2, 2), (1, 3), (5, 1), (17, 40)])
def test_distances_in_discs_are_those_of_the_twin(grid):
    labels = discs((61, 83), 20, seed=2)  # more than a block of samples in a row
    assert np.array_equal(distances(labels, 9, grid), reference.star_distances_2d(labels, 9, grid))


@settings(max_examples=200)
@given(label_images(-1, 3, 6), st.integers(0, 3))
def test_probabilities_are_those_of_the_twin(labels, threads):
    prob = probability(labels, threads)
    assert prob.dtype == np.float32
    assert np.array_equal(prob, reference.object_probability_2d(labels))


def test_probabilities_in_discs_are_those_of_the_twin_and_of_scipy():
    ndimage = pytest.importorskip("scipy.ndimage")
    labels = discs((57, 64), 12, seed=3)
    assert np.array_equal(probability(labels), reference.object_probability_2d(labels))
    labels = discs((300, 400), 200, seed=4)
    expected = np.zeros(labels.shape, np.float32)
    for label in np.unique(labels[labels > 0]):
        distance = ndimage.distance_transform_edt(labels == label)
        expected[labels == label] = (distance / (distance.max() + 1e-10))[labels == label]
    assert np.array_equal(probability(labels), expected)


# ---- against StarDist ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cells", "noise"])
def test_targets_are_those_that_stardist_computes(name):
    with np.load(GOLDEN / "kernels" / "targets.npz") as case:
        labels = case[f"{name}_labels"]
        for key in (key for key in case if key.startswith(f"{name}_dist_")):
            n_rays, *grid = map(int, key.split("_")[2:])
            assert np.array_equal(distances(labels, n_rays, tuple(grid)), case[key].transpose(2, 0, 1)), key
        assert np.array_equal(probability(labels), case[f"{name}_prob"])
        whole = np.full((7, 12), 3, np.int32)
        assert np.array_equal(probability(whole), case["whole_prob"])


def test_targets_are_those_of_the_large_set_of_recordings():
    with np.load(reference_file("cases", "ll_stardist_targets.npz")) as case:
        labels = case["lbl2"].astype(np.int32)
        assert np.array_equal(distances(labels), case["dist2"].transpose(2, 0, 1))
        assert np.array_equal(distances(labels, grid=(2, 2)), case["dist2_grid"].transpose(2, 0, 1))
        assert np.array_equal(probability(labels), case["prob2"])


# ---- laws ---------------------------------------------------------------------------------------------------------


@settings(max_examples=50)
@given(label_images(0, 3, 8))
def test_every_object_is_somewhere_certain_and_the_background_nowhere(labels):
    prob = probability(labels)
    for label in np.unique(labels[labels > 0]):
        assert prob[labels == label].max() == 1
        assert prob[labels == label].min() > 0
    assert (prob[labels == 0] == 0).all()


@settings(max_examples=50)
@given(label_images(0, 3, 8))
def test_names_of_labels_do_not_matter(labels):
    renamed = np.array([0, 70_000, 3, 40], np.int32)[labels]
    assert np.array_equal(probability(renamed), probability(labels))
    assert np.array_equal(distances(renamed, 8), distances(labels, 8))


@settings(max_examples=50)
@given(label_images(0, 3, 8))
def test_rows_and_columns_are_treated_alike(labels):
    assert np.array_equal(probability(np.ascontiguousarray(labels.T)), probability(labels).T)


@settings(max_examples=50)
@given(label_images(0, 3, 8), st.integers(1, 4), st.integers(1, 4))
def test_a_grid_takes_every_so_many_samples(labels, grid_y, grid_x):
    assert np.array_equal(distances(labels, 7, (grid_y, grid_x)), distances(labels, 7)[:, ::grid_y, ::grid_x])


def test_rays_reach_the_border_of_a_disc():
    y, x = np.indices((61, 61)) - 30
    labels = (y**2 + x**2 <= 25**2).astype(np.int32)
    assert np.abs(distances(labels)[:, 30, 30] - 25.5).max() < 1


def digest() -> str:
    """Of the ray lengths of many discs, with rays of which some end on borders between pixels."""
    labels = discs((150, 170), 60, seed=5)
    lengths = [distances(labels, n_rays, grid) for n_rays in (12, 32) for grid in ((1, 1), (2, 3))]
    return hashlib.sha256(b"".join(length.tobytes() for length in lengths)).hexdigest()


def test_every_instruction_set_gives_the_same_bytes():
    path = os.pathsep.join(str(ROOT / folder) for folder in ("runtime", "tests"))
    result = subprocess.run(
        [sys.executable, "-c", "from test_star_targets import digest; print(digest())"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env=os.environ | {"CELLRT_SIMD": "baseline", "PYTHONPATH": path},
    )
    assert result.stdout.strip() == digest()


def test_the_number_of_threads_does_not_matter():
    labels = discs((311, 600), 300, seed=6)  # columns and rows of several grains
    for threads in (2, 3, 7, 0):
        assert distances(labels, threads=threads).tobytes() == distances(labels).tobytes()
        assert probability(labels, threads).tobytes() == probability(labels).tobytes()


def test_long_thin_and_scattered_objects_end_soon():
    """A comb whose teeth are as long as the image, and one label in as many parts as there may be."""
    y, x = np.indices((1000, 1000))
    comb = ((x % 2 == 0) | (y == 0)).astype(np.int32)
    assert distances(comb, 4)[0, 0, 0] == 999.5
    assert distances(comb, 4)[1, 0, 0] == 999.5
    assert probability(comb).max() == 1
    chessboard = ((y + x) % 2).astype(np.int32)
    assert np.array_equal(probability(chessboard), chessboard)


# ---- what it looks like -------------------------------------------------------------------------------------------


def test_one_pixel():
    labels = np.array([[5]], np.int32)
    assert distances(labels, 4).ravel().tolist() == [0.5, 0.5, 0.5, 0.5]
    assert probability(labels).tolist() == [[1.0]]


def test_the_frame_is_no_border_of_an_object_unless_there_is_no_other():
    assert probability(np.array([[7, 7, 7, 0]], np.int32)).tolist() == [[1.0, np.float32(2 / 3), np.float32(1 / 3), 0]]
    assert probability(np.full((3, 5), 7, np.int32))[1].tolist() == [0.5, 1, 1, 1, 0.5]


def test_negative_labels_are_no_objects_but_borders():
    labels = np.array([[-1, -1, 2, 2]], np.int32)
    assert probability(labels).tolist() == [[0, 0, 0.5, 1]]
    assert distances(labels, 4)[2].tolist() == [[0.5, 1.5, 0.5, 1.5]]


# ---- doors --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (5, 0)])
def test_empty_images(shape):
    labels = np.zeros(shape, np.int32)
    assert distances(labels, 3, (2, 2)).shape == (3, -(-shape[0] // 2), -(-shape[1] // 2))
    assert probability(labels).shape == shape


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros((2, 2), np.int64), "expected labels as a int32 array, got int64"),
        (np.zeros(4, np.int32), r"expected labels of shape \('any', 'any'\), got \(4,\)"),
        (np.zeros((4, 4), np.int32)[:, ::2], "expected labels contiguous"),
        (np.zeros((1, 2**20 + 1), np.int32), r"expected labels with sides up to 1048576, got \(1, 1048577\)"),
    ],
)
def test_labels_that_are_refused(labels, message):
    for call in (distances, probability):
        with pytest.raises(KernelError, match=message) as caught:
            call(labels)
        assert caught.value.status == kernels.ERROR_ARGUMENT


def test_parameters_that_are_refused():
    labels = np.array([[0, 5]], np.int32)
    for n_rays in (2, 1025):
        with pytest.raises(KernelError, match=f"expected n_rays to be a whole number from 3 to 1024, got {n_rays}"):
            distances(labels, n_rays)
    with pytest.raises(KernelError, match=r"expected grid\[1\] to be a whole number from 1 to 1073741824, got 0"):
        distances(labels, grid=(1, 0))
    for call in (distances, probability):
        with pytest.raises(KernelError, match="expected threads to be a whole number"):
            call(labels, threads=-1)
    for labels in (np.array([[0, 5]], np.int32), np.array([[5, 5]], np.int32)):
        with pytest.raises(KernelError, match="expected labels of at most 4, got 5"):
            kernels.object_probability_2d(labels, n_labels=4, threads=1)
