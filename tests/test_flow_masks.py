"""Masks from the ends of flows, and their cleaning: what Cellpose did, slow twins, worst cases, doors."""

from __future__ import annotations

import numpy as np
import pytest
import reference_flow_masks
from conftest import ROOT
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from cellrt import kernels
from cellrt.errors import DataError, KernelError
from cellrt.resize import resize_nearest

RECORDED = ROOT.parent / "shared" / "reference" / "cellpose"
CASES = [
    "v3_stardist_img2d_crop",
    "v3_synth2ch",
    "v3_synth_augment_tilenorm",  # has equal seeds that touch
    "v3_synth_noresample_nointerp",  # masks are resized before they are cleaned
]
THREADS = st.integers(0, 3)
DYNAMICS = st.sampled_from(["v3", "v4"])

Ends = tuple[NDArray[np.int64], NDArray[np.float32]]


def masks_of(
    pixels: NDArray[np.int64],
    positions: NDArray[np.float32],
    shape: tuple[int, int],
    max_size_fraction: float = 0.4,
    threads: int = 1,
) -> tuple[NDArray[np.int32], int]:
    return kernels.flow_masks_2d(pixels, positions, shape=shape, max_size_fraction=max_size_fraction, threads=threads)


def recorded(name: str) -> np.lib.npyio.NpzFile:
    """A case of the large set of recordings, or skip the test."""
    path = RECORDED / f"{name}.npz"
    if not path.exists():
        pytest.skip(f"the recorded outputs of Cellpose are not here ({name})")
    return np.load(path)


# ---- the originals ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", CASES)
def test_masks_are_those_that_cellpose_recorded(name, threads):
    case = recorded(name)
    shape = case["cellprob"].shape
    pixels = np.ravel_multi_index(tuple(case["inds"]), shape).astype(np.int64)
    for ends in (case["p_final"], case["p_int"].astype(np.float32)):
        masks, n_masks = masks_of(pixels, np.ascontiguousarray(ends.T), shape, threads=threads)
        np.testing.assert_array_equal(masks, case["masks_before_qc"])
        assert n_masks == len(case["flow_errors"])

    masks[np.isin(masks, 1 + np.flatnonzero(case["flow_errors"] > 0.4))] = 0
    if masks.shape != case["masks"].shape:
        masks = np.ascontiguousarray(resize_nearest(masks, case["masks"].shape))
    cleaned, n_labels = kernels.clean_labels_2d(masks, min_size=15, dynamics="v3", threads=threads)
    np.testing.assert_array_equal(cleaned, case["masks"])
    assert n_labels == case["masks"].max()


def test_equal_seeds_that_touch_are_ordered_as_in_cellpose():
    # 60 peaks of 11 to 14 pixels in three chains: the order of equal ones shows in the areas (a stable one: 31 masks).
    ends = []
    for row in range(3):
        for k in range(20):
            for dx, count in ((-1, 3), (0, 11 + (7 * k * k + 3 * row + k) % 4), (1, 3)):
                ends += [(2 + 6 * row, 3 * k + 1 + dx)] * count
    masks, n_masks = masks_of(np.arange(len(ends)), np.array(ends, np.float32), (20, 60))
    recorded_areas = (
        "14 17 61 11 55 61 17 11 55 17 41 43 18 58 18 58 18 58 12 18 64 15 41 17 55 17 55 17 11 55 17 61 14"
    )
    areas = [int(area) for area in recorded_areas.split()]
    assert n_masks == len(areas)
    np.testing.assert_array_equal(masks.ravel(), np.repeat([*range(1, n_masks + 1), 0], [*areas, 100]))


# Recorded with cellpose 3.1.1.3 and 4.2.1.1: min_size, the image, what each makes of it.
PICTURES = {
    "a ring around a cell with a lower label": (
        0,
        """
        222222..
        2....2..
        2.11.2.3
        2....2..
        222222..
        """,
        """
        222222..
        222222..
        222222.3
        222222..
        222222..
        """,
    ),
    "a ring around a cell with a higher label, and gaps": (
        0,
        """
        222222..
        2....2.9
        2.55.2..
        2....2..
        2222227.
        """,
        """
        111111..
        111111.4
        111111..
        111111..
        1111113.
        """,
    ),
    "rings that cross diagonally": (
        0,
        """
        ...2....
        ..2.21..
        .2..121.
        2..1..21
        .2..121.
        ..2.21..
        ...2....
        """,
        """
        ...2....
        ..2.21..
        .2..111.
        2..11111
        .2..111.
        ..2.21..
        ...2....
        """,
    ),
    "a ring within a ring within a ring": (
        1,
        """
        3333333333
        3........3
        3.111111.3
        3.1....1.3
        3.1.22.1.3
        3.1.2222.3
        3.1..2.1.3
        3.111111.3
        3........3
        3333333333
        """,
        """
        1111111111
        1111111111
        1111111111
        1111111111
        1111111111
        1111111111
        1111111111
        1111111111
        1111111111
        1111111111
        """,
    ),
    "no background": (
        4,
        """
        1112222
        1312552
        1112222
        4444444
        """,
        """
        111....
        111.22.
        111....
        .......
        """,
        """
        1112222
        1112222
        1112222
        3333333
        """,
    ),
    "small labels, with gaps in the numbering": (
        4,
        """
        2222.3..
        2222.33.
        ........
        5555.66.
        .....66.
        """,
        """
        ........
        ........
        ........
        1111.22.
        .....22.
        """,
        """
        1111....
        1111....
        ........
        2222.33.
        .....33.
        """,
    ),
    "small labels after one was swallowed": (
        3,
        """
        1111111.33
        1.777.1.3.
        1.222.1...
        1.222.1.44
        1.....1.44
        1111111.2.
        55555...66
        .......66.
        """,
        """
        1111111.22
        1111111.2.
        1111111...
        1111111.33
        1111111.33
        1111111.4.
        55555...66
        .......66.
        """,
        """
        1111111.22
        1111111.2.
        1111111...
        1111111.33
        1111111.33
        1111111...
        44444...55
        .......55.
        """,
    ),
    "a diamond in a tight ring": (
        0,
        """
        2222222
        2221222
        221.122
        2221222
        2222222
        """,
        """
        2222222
        2222222
        2222222
        2222222
        2222222
        """,
    ),
    "no background, and the first label is small": (
        3,
        """
        1333
        3333
        3333
        """,
        """
        1222
        2222
        2222
        """,
    ),
    "diagonal rings": (
        2,
        """
        ..1....2..
        .1.1..2.2.
        1...12...2
        .1.1..2.2.
        ..1.33.2..
        ...3.3....
        """,
        """
        ..1....2..
        .111..222.
        1111122222
        .111..222.
        ..1.33.2..
        ...3.3....
        """,
    ),
}


def image_of(picture: str) -> NDArray[np.int32]:
    return np.array([[int(label) for label in row.replace(".", "0")] for row in picture.split()], np.int32)


@pytest.mark.parametrize("dynamics", ["v3", "v4"])
@pytest.mark.parametrize("name", PICTURES)
def test_labels_are_cleaned_as_by_cellpose(name, dynamics):
    min_size, before, *after = PICTURES[name]
    expected = image_of(after[-1] if dynamics == "v4" else after[0])
    cleaned, n_labels = kernels.clean_labels_2d(image_of(before), min_size=min_size, dynamics=dynamics, threads=1)
    np.testing.assert_array_equal(cleaned, expected)
    assert n_labels == expected.max()
    np.testing.assert_array_equal(
        reference_flow_masks.clean_labels_2d(image_of(before), min_size, dynamics)[0], expected
    )


# ---- masks --------------------------------------------------------------------------------------------------------


@st.composite
def ends(draw: st.DrawFn) -> tuple[Ends, tuple[int, int]]:
    """Pixels of an image that end on a lattice, at a few points, in many equal peaks, or anywhere."""
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    n_y, n_x = shape = tuple(random.integers(1, random.choice([8, 40, 40, 40]), 2).tolist())
    pixels = np.flatnonzero(random.random(n_y * n_x) < random.choice([1, 1, 0.9, 0.5]))
    start = np.stack(np.divmod(pixels, n_x), axis=1).astype(np.float64)
    kind = draw(st.sampled_from(["peaks", "lattice", "points", "outside", "anywhere"]))
    step = int(random.integers(4, 10))
    if kind == "anywhere":
        position = random.uniform(-0.9, np.divide(shape, step), start.shape)
    elif kind == "points":
        position = random.uniform(0, shape, (step, 2))[random.integers(0, step, len(start))]
        position += random.normal(0, 1.2, start.shape)
    elif kind == "peaks":
        position = start // [3, 4] * [1, 3] + random.choice([0, 1], start.shape, p=[0.8, 0.2])
    else:
        position = np.round(start / step) * step + random.normal(0, random.choice([0, 0.4, 0.8]), start.shape)
    if kind == "outside":  # no further than 15 pixels: there upstream's windows leave the histogram
        position = np.maximum(position * 1.5 - random.integers(0, 25, 2), -15)
    else:
        position = np.clip(position, 0, np.subtract(shape, 1))
    return (pixels, position.astype(np.float32)), shape


@given(ends(), st.sampled_from([0, 0.01, 0.1, 0.4, 1]), THREADS)
def test_masks_are_those_of_the_twin(case, max_size_fraction, threads):
    (pixels, positions), shape = case
    masks, n_masks = masks_of(pixels, positions, shape, max_size_fraction, threads)
    expected, n_expected = reference_flow_masks.flow_masks_2d(pixels, positions, shape, max_size_fraction)
    np.testing.assert_array_equal(masks, expected)
    assert n_masks == n_expected


@pytest.mark.parametrize("spread", [1, 60])
def test_masks_do_not_depend_on_the_number_of_threads(spread):
    random = np.random.default_rng(1)
    shape = (400, 350)
    start = np.indices(shape).reshape(2, -1).T
    positions = (np.round(start / 12) * 12 + random.normal(0, spread, start.shape)).astype(np.float32, order="C")
    positions[::7] = start[::7] // 40 * 40
    pixels = np.arange(len(start))
    one, n_one = masks_of(pixels, positions, shape)
    assert n_one >= 50
    for threads in (2, 3, 8):
        several, n_several = masks_of(pixels, positions, shape, threads=threads)
        np.testing.assert_array_equal(several, one)
        assert n_several == n_one


def test_large_masks_are_dropped_only_beyond_the_fraction():
    pixels = np.arange(100)
    positions = np.repeat(np.float32([[2, 2], [9, 9]]), [40, 60], axis=0)
    for fraction, areas in ((0.6, [0, 40, 60]), (0.59, [60, 40]), (0.4, [60, 40]), (0.39, [100])):
        masks, n_masks = masks_of(pixels, positions, (10, 10), fraction)
        assert np.bincount(masks.ravel(), minlength=n_masks + 1).tolist() == areas


def test_few_pixels_make_no_mask():
    for count, n_expected in ((10, 0), (11, 1)):
        masks, n_masks = masks_of(np.arange(count), np.full((count, 2), 3.9, np.float32), (9, 9))
        assert n_masks == n_expected
        assert masks.sum() == count * n_expected


def test_positions_far_outside_count_at_the_edge():
    pixels, positions = np.arange(60), np.repeat(np.float32([[-1e30, 3e38], [3e9, -3e9]]), 30, axis=0)
    masks, n_masks = masks_of(pixels, positions, (6, 10), 0.5)
    np.testing.assert_array_equal(masks.ravel(), np.repeat([1, 2], 30))
    assert n_masks == 2


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (5, 0), (3, 4)])
def test_no_pixels_no_masks(shape):
    masks, n_masks = masks_of(np.empty(0, np.int64), np.empty((0, 2), np.float32), shape)
    np.testing.assert_array_equal(masks, np.zeros(shape, np.int32))
    assert n_masks == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("threads", [1, 2])
def test_positions_that_are_not_finite_are_refused(bad, threads):
    positions = np.ones((900, 2), np.float32)
    positions[899, 1] = bad
    with pytest.raises(DataError, match="expected finite positions, got NaN or infinity"):
        masks_of(np.arange(900), positions, (30, 30), threads=threads)


@pytest.mark.parametrize(
    ("pixels", "positions", "message"),
    [
        (np.array([1, 1]), np.ones((2, 2), np.float32), r"expected pixels ascending inside \(3, 4\), got others"),
        (np.array([0, 12]), np.ones((2, 2), np.float32), r"expected pixels ascending inside \(3, 4\), got others"),
        (np.array([-1]), np.ones((1, 2), np.float32), r"expected pixels ascending inside \(3, 4\), got others"),
        (np.array([1]), np.ones((2, 2), np.float32), r"expected positions of shape \(1, 2\), got \(2, 2\)"),
        (np.array([1]), np.ones((1, 2)), "expected positions as a float32 array, got float64"),
        (np.array([1], np.int32), np.ones((1, 2), np.float32), "expected pixels as a int64 array, got int32"),
    ],
)
def test_ends_that_are_refused(pixels, positions, message):
    with pytest.raises(KernelError, match=message):
        masks_of(pixels, positions, (3, 4))


@pytest.mark.parametrize("fraction", [-0.1, np.nan])
def test_fractions_that_are_refused(fraction):
    with pytest.raises(KernelError, match="expected max_size_fraction of at least 0, got"):
        masks_of(np.arange(2), np.ones((2, 2), np.float32), (3, 4), fraction)


# ---- cleaning -----------------------------------------------------------------------------------------------------


@st.composite
def label_images(draw: st.DrawFn) -> NDArray[np.int32]:
    """Noise, blocks, or rings that nest, touch and cross diagonally; with and without background and gaps."""
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    n_y, n_x = shape = tuple(random.integers(1, random.choice([6, 24, 24]), 2).tolist())
    n_labels = int(random.integers(1, 9))
    kind = draw(st.sampled_from(["rings", "blocks", "noise", "full"]))
    if kind == "rings":
        labels = np.full(shape, random.choice([0, 0, n_labels + 1]))
        y, x = np.ogrid[:n_y, :n_x]
        for label in random.permutation(n_labels) + 1:
            dy, dx = abs(y - random.integers(0, n_y)), abs(x - random.integers(0, n_x))
            distance = dy + dx if random.random() < 0.5 else np.maximum(dy, dx)
            labels[distance == random.integers(1, 7)] = label
    elif kind == "blocks":
        labels = np.kron(random.integers(0, n_labels + 1, shape), np.ones((5, 5), int))[:n_y, :n_x]
        labels = np.where(random.random(shape) < 0.1, random.integers(0, n_labels + 1, shape), labels)
    else:
        n_labels = min(n_labels, 3)
        labels = random.integers(int(kind == "full"), n_labels + 1, shape)
    names = np.append(0, np.sort(random.choice(np.arange(1, 30), n_labels + 1, replace=False)))
    gaps = draw(st.sampled_from(["none", "few", "shuffled", "huge"]))
    if gaps == "shuffled":
        names[1:] = random.permutation(names[1:])
    elif gaps == "huge":
        names[1:] += 2**31 - 100
    return (labels if gaps == "none" else names[labels]).astype(np.int32)


@given(label_images(), st.integers(-1, 12), DYNAMICS, THREADS)
@example(np.full((1, 1), 2**31 - 1, np.int32), 0, "v3", 1)
def test_cleaned_labels_are_those_of_the_twin(labels, min_size, dynamics, threads):
    before = labels.copy()
    cleaned, n_labels = kernels.clean_labels_2d(labels, min_size=min_size, dynamics=dynamics, threads=threads)
    expected, n_expected = reference_flow_masks.clean_labels_2d(labels, min_size, dynamics)
    np.testing.assert_array_equal(cleaned, expected)
    assert n_labels == n_expected
    np.testing.assert_array_equal(labels, before)


def test_cleaning_does_not_depend_on_the_number_of_threads():
    random = np.random.default_rng(2)
    labels = np.kron(random.integers(0, 2000, (100, 90)), np.ones((4, 4), int)).astype(np.int32)
    labels[random.random(labels.shape) < 0.05] = 0
    one, n_one = kernels.clean_labels_2d(labels, min_size=5, dynamics="v4", threads=1)
    assert 500 < n_one < 2000
    assert np.count_nonzero(one) > np.count_nonzero(labels)
    for threads in (2, 3, 8):
        several, n_several = kernels.clean_labels_2d(labels, min_size=5, dynamics="v4", threads=threads)
        np.testing.assert_array_equal(several, one)
        assert n_several == n_one


def test_labels_may_be_cleaned_in_place():
    labels = image_of(PICTURES["a ring within a ring within a ring"][1])
    expected, n_labels = kernels.clean_labels_2d(labels, min_size=0, dynamics="v4", threads=1)
    result = kernels._kernels.clean_labels_2d(labels, 3, 0, 4, 2, labels)
    assert result == (0, n_labels)
    np.testing.assert_array_equal(labels, expected)


@pytest.mark.parametrize("order", ["inner first", "outer first"])
@pytest.mark.parametrize("shape", ["squares", "diamonds"])
def test_deep_nesting(shape, order):
    # Every ring around all the smaller ones: what is filled must not be visited again by each.
    side = 801
    distance = abs(np.arange(side) - side // 2)
    radius = (np.maximum if shape == "squares" else np.add).outer(distance, distance)
    n_rings = side // 2 + 1
    inside = radius < n_rings
    labels = np.where(inside, radius + 1 if order == "inner first" else n_rings - radius, 0).astype(np.int32)
    cleaned, n_labels = kernels.clean_labels_2d(labels, min_size=0, dynamics="v4", threads=1)
    assert n_labels == (n_rings if order == "inner first" else 1)
    np.testing.assert_array_equal(cleaned, np.where(inside, n_labels, 0))


def test_many_labels_that_span_the_image():
    # Upstream goes through the whole image once for each.
    n_labels, side = 30_000, 1000
    labels = (np.arange(side * side) % n_labels).reshape(side, side).astype(np.int32)
    cleaned, n_cleaned = kernels.clean_labels_2d(labels, min_size=5, dynamics="v4", threads=1)
    np.testing.assert_array_equal(cleaned, labels)
    assert n_cleaned == n_labels - 1


def test_many_holes():
    side = 901
    labels = np.ones((side, side), np.int32)
    labels[1::2, 1::2] = np.arange(2, 2 + (side // 2) ** 2).reshape(side // 2, -1)
    cleaned, n_labels = kernels.clean_labels_2d(labels, min_size=1, dynamics="v3", threads=2)
    assert n_labels == 1
    assert cleaned.all()


@pytest.mark.parametrize("shape", [(0, 0), (0, 7), (7, 0)])
def test_an_empty_image_stays_empty(shape):
    cleaned, n_labels = kernels.clean_labels_2d(np.zeros(shape, np.int32), min_size=15, dynamics="v3", threads=1)
    assert cleaned.shape == shape
    assert n_labels == 0


@pytest.mark.parametrize(
    ("labels", "arguments", "message"),
    [
        (np.array([[0, -3]], np.int32), {}, "expected labels that are not negative, got -3"),
        (np.zeros((2, 2), np.uint16), {}, "expected labels as a int32 array, got uint16"),
        (np.zeros((2, 2, 2), np.int32), {}, "expected labels of shape"),
        (np.zeros((4, 4), np.int32)[:, ::2], {}, "expected labels contiguous, got strides"),
        (np.zeros((2, 2), np.int32), {"min_size": 1.5}, "expected min_size to be a whole number"),
        (np.zeros((2, 2), np.int32), {"dynamics": "v5"}, "expected dynamics to be one of v3, v4, got 'v5'"),
    ],
)
def test_labels_that_are_refused(labels, arguments, message):
    with pytest.raises(KernelError, match=message):
        kernels.clean_labels_2d(labels, **{"min_size": 1, "dynamics": "v3", "threads": 1, **arguments})
