"""Outlines of labels against the twin that lays arrows along edges, and against painting."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import reference_labels
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from cellrt import kernels
from cellrt.errors import KernelError

RANDOM = np.random.default_rng(0)


def label_images(max_label: int) -> st.SearchStrategy[NDArray[np.int32]]:
    shapes = st.tuples(st.integers(1, 9), st.integers(1, 9))
    return shapes.flatmap(lambda shape: arrays(np.int32, shape, elements=st.integers(0, max_label)))


def image(*rows: str) -> NDArray[np.int32]:
    return np.array([[0 if pixel == "." else int(pixel) for pixel in row] for row in rows], np.int32)


def outline(labels: NDArray[np.int32], label: int = 1) -> list[list[float]]:
    coords, offsets = kernels.label_outlines_2d(labels, n_labels=max(label, int(labels.max())), threads=1)
    return coords[offsets[label - 1] : offsets[label]].tolist()


def discs(side: int, spacing: int) -> NDArray[np.int32]:
    """Discs of many sizes on a lattice, later ones over earlier ones."""
    labels = np.zeros((side, side), np.int32)
    y, x = np.mgrid[:spacing, :spacing] * 2 - spacing
    for label, (top, left) in enumerate(itertools.product(range(0, side - spacing, spacing // 2), repeat=2), 1):
        window = labels[top : top + spacing, left : left + spacing]
        window[np.hypot(y, x) < RANDOM.uniform(0.4, 1.2) * spacing] = label
    return labels


# ---- against the twin ---------------------------------------------------------------------------------------------


@given(label_images(3), st.integers(3, 6), st.integers(0, 3))
def test_outlines_are_those_of_the_twin(labels, n_labels, threads):
    coords, offsets = kernels.label_outlines_2d(labels, n_labels=n_labels, threads=threads)
    expected_coords, expected_offsets = reference_labels.label_outlines_2d(labels, n_labels)
    assert np.array_equal(coords, expected_coords)
    assert np.array_equal(offsets, expected_offsets)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_parts_that_cross_the_bands_of_rows(threads):
    for labels in (RANDOM.random((200, 24)) < 0.62, RANDOM.integers(0, 3, (200, 12)), discs(140, 40)):
        labels = labels.astype(np.int32)
        n_labels = int(labels.max())
        coords, offsets = kernels.label_outlines_2d(labels, n_labels=n_labels, threads=threads)
        expected_coords, expected_offsets = reference_labels.label_outlines_2d(labels, n_labels)
        assert np.array_equal(coords, expected_coords)
        assert np.array_equal(offsets, expected_offsets)


# ---- laws ---------------------------------------------------------------------------------------------------------


def assert_painting_fills_the_largest_parts(labels: NDArray[np.int32]) -> None:
    n_labels = int(labels.max())
    coords, offsets = kernels.label_outlines_2d(labels, n_labels=n_labels, threads=2)
    painted = kernels.paint_polygons_2d(coords, offsets, np.arange(n_labels), shape=labels.shape, threads=1)
    expected = np.zeros_like(labels)
    for label in range(1, n_labels + 1):
        part = reference_labels.largest_part(labels == label)
        if part:
            expected[reference_labels.without_holes(part, labels.shape)] = label
    assert np.array_equal(painted, expected)


@settings(max_examples=50)
@given(label_images(2))
def test_painting_fills_the_largest_parts(labels):
    assert_painting_fills_the_largest_parts(labels)


def test_painting_gives_labels_back():
    labels = discs(150, 20)
    n_labels = int(labels.max())
    for label in range(1, n_labels + 1):  # the largest discs lie over their neighbours and may cut them
        in_one_piece = np.zeros(labels.shape, bool)
        for pixel in reference_labels.largest_part(labels == label):
            in_one_piece[pixel] = True
        labels[(labels == label) & ~in_one_piece] = 0
    coords, offsets = kernels.label_outlines_2d(labels, n_labels=n_labels, threads=0)
    painted = kernels.paint_polygons_2d(coords, offsets, np.arange(n_labels), shape=labels.shape, threads=1)
    assert np.array_equal(painted, labels)


@settings(max_examples=50)
@given(label_images(2))
def test_vertices_are_corners_of_rectilinear_polygons(labels):
    coords, offsets = kernels.label_outlines_2d(labels, n_labels=2, threads=1)
    for begin, end in itertools.pairwise(offsets):
        polygon = coords[begin:end].astype(np.float64)
        if len(polygon) == 0:
            continue
        assert np.array_equal(polygon % 1, np.full_like(polygon, 0.5))
        steps = np.roll(polygon, -1, axis=0) - polygon
        assert ((steps == 0).sum(axis=1) == 1).all()  # along rows or columns
        assert ((steps[:, 0] == 0) != (np.roll(steps[:, 0], 1) == 0)).all()  # in turn, so that every vertex is a turn
        assert tuple(polygon[0]) == min(map(tuple, polygon))
        assert steps[0, 1] > 0  # clockwise on a screen


def test_the_number_of_threads_does_not_matter():
    labels = discs(500, 16)
    n_labels = int(labels.max())
    coords, offsets = kernels.label_outlines_2d(labels, n_labels=n_labels, threads=1)
    for threads in (2, 3, 7, 0):
        other_coords, other_offsets = kernels.label_outlines_2d(labels, n_labels=n_labels, threads=threads)
        assert np.array_equal(coords, other_coords)
        assert np.array_equal(offsets, other_offsets)


def test_boxes_as_large_as_the_image_cost_nothing():
    """Thousands of labels, each with a pixel at either end: whoever looks at boxes does not come back."""
    labels = np.zeros((1500, 1500), np.int32)
    labels[:3] = labels[-3:] = np.arange(1, 4501).reshape(3, 1500)
    coords, offsets = kernels.label_outlines_2d(labels, n_labels=4500, threads=2)
    assert np.array_equal(offsets, np.arange(0, 4 * 4501, 4))
    assert np.array_equal(coords[:4], [[-0.5, -0.5], [-0.5, 0.5], [0.5, 0.5], [0.5, -0.5]])
    assert coords[:, 0].max() == 2.5


def test_patterns_with_as_many_parts_as_pixels():
    y, x = np.mgrid[:700, :600]
    coords, offsets = kernels.label_outlines_2d(((y + x) % 2).astype(np.int32), n_labels=1, threads=2)
    assert coords.tolist() == [[-0.5, 0.5], [-0.5, 1.5], [0.5, 1.5], [0.5, 0.5]]
    coords, offsets = kernels.label_outlines_2d((1 + (y + x) % 500).astype(np.int32), n_labels=500, threads=2)
    assert np.array_equal(offsets, np.arange(501) * 4)


# ---- what it looks like -------------------------------------------------------------------------------------------


def test_one_pixel():
    assert outline(image("1")) == [[-0.5, -0.5], [-0.5, 0.5], [0.5, 0.5], [0.5, -0.5]]


def test_begins_at_the_topmost_then_leftmost_corner_and_goes_clockwise():
    expected = [[-0.5, 0.5], [-0.5, 2.5], [0.5, 2.5], [0.5, 1.5], [1.5, 1.5], [1.5, -0.5], [0.5, -0.5], [0.5, 0.5]]
    assert outline(image(".11", "11.")) == expected


def test_pixels_that_meet_at_a_corner_are_not_joined():
    labels = image("11.", "1.1", ".11")
    assert outline(labels) == [[-0.5, -0.5], [-0.5, 1.5], [0.5, 1.5], [0.5, 0.5], [1.5, 0.5], [1.5, -0.5]]


def test_a_part_that_touches_itself_at_a_corner_is_one_polygon():
    labels = image("111", "1.1", "11.")
    corner = [0.5 + 1, 0.5 + 1]
    assert outline(labels).count(corner) == 2


def test_of_equal_parts_the_first_by_rows_is_traced_and_of_others_the_largest():
    assert outline(image("..1", "1..")) == [[-0.5, 1.5], [-0.5, 2.5], [0.5, 2.5], [0.5, 1.5]]
    assert outline(image("1.1", "..1")) == [[-0.5, 1.5], [-0.5, 2.5], [1.5, 2.5], [1.5, 1.5]]


def test_holes_are_not_traced():
    assert outline(image("111", "1.1", "111")) == [[-0.5, -0.5], [-0.5, 2.5], [2.5, 2.5], [2.5, -0.5]]
    assert outline(image("111", "121", "111"), label=2) == [[0.5, 0.5], [0.5, 1.5], [1.5, 1.5], [1.5, 0.5]]


def test_labels_that_do_not_occur_have_no_vertices():
    coords, offsets = kernels.label_outlines_2d(image(".2"), n_labels=3, threads=1)
    assert offsets.tolist() == [0, 0, 4, 4]
    assert coords.dtype == np.float32
    assert offsets.dtype == np.int64


# ---- doors --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (5, 0)])
def test_empty_images(shape):
    coords, offsets = kernels.label_outlines_2d(np.zeros(shape, np.int32), n_labels=2, threads=1)
    assert coords.shape == (0, 2)
    assert offsets.tolist() == [0, 0, 0]


def test_no_labels():
    coords, offsets = kernels.label_outlines_2d(np.zeros((3, 4), np.int32), n_labels=0, threads=1)
    assert coords.shape == (0, 2)
    assert offsets.tolist() == [0]


def test_too_small_a_capacity_writes_the_offsets_alone():
    labels = image("1.22", "11.2")
    needed = kernels.label_outlines_2d(labels, n_labels=2, threads=1)[1]
    offsets, coords = np.full(3, -1, np.int64), np.full((needed[-1] - 1, 2), -9, np.float32)
    assert kernels._kernels.label_outlines_2d(labels, 1, offsets, coords) == kernels.ERROR_CAPACITY
    assert np.array_equal(offsets, needed)
    assert (coords == -9).all()


@pytest.mark.parametrize(
    ("labels", "n_labels", "message"),
    [
        (np.array([[0, 5]], np.int32), 3, r"expected labels in 0..3, got 0 to 5"),
        (np.array([[-1, 2]], np.int32), 3, r"expected labels in 0..3, got -1 to 2"),
        (np.zeros((2, 2), np.int64), 3, "expected labels as a int32 array, got int64"),
        (np.zeros(4, np.int32), 3, r"expected labels of shape \('any', 'any'\), got \(4,\)"),
        (np.zeros((4, 4), np.int32)[:, ::2], 3, "expected labels contiguous"),
        (np.zeros((2, 2), np.int32), -1, "expected n_labels to be a whole number from 0 to 2147483647, got -1"),
    ],
)
def test_arguments_that_are_refused(labels, n_labels, message):
    with pytest.raises(KernelError, match=message) as caught:
        kernels.label_outlines_2d(labels, n_labels=n_labels, threads=2)
    assert caught.value.status == kernels.ERROR_ARGUMENT
