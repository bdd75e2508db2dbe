"""cellrt.kernels against slow twins, against the originals, and at its doors."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import reference
from conftest import GOLDEN, reference_file
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from cellrt import kernels
from cellrt.errors import CapacityError, DataError, KernelError

DTYPES = st.sampled_from([np.uint8, np.uint16, np.float32])
THREADS = st.integers(0, 3)
RANDOM = np.random.default_rng(0)


def finite(limit: float) -> st.SearchStrategy[float]:
    return st.floats(-limit, limit, width=32, allow_nan=False)


@st.composite
def images(draw: st.DrawFn) -> NDArray[Any]:
    """(C, Y, X) of every dtype and memory layout: transposed, interleaved, flipped, stepped, read-only."""
    dtype = draw(DTYPES)
    shape = draw(st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 9)))
    elements = finite(np.float32(1e30).item()) if dtype == np.float32 else None
    image = draw(arrays(dtype, shape, elements=elements))
    axes = draw(st.permutations(range(3)))
    image = np.ascontiguousarray(image.transpose(axes)).transpose(np.argsort(axes))
    steps = draw(st.tuples(*[st.sampled_from([1, -1, 2, -2])] * 3))
    image = image[tuple(slice(None, None, step) for step in steps)]
    image.flags.writeable = draw(st.booleans())
    return image


# ---- percentiles and normalize ------------------------------------------------------------------------------------


@given(images(), st.lists(st.floats(0, 100), min_size=0, max_size=6), THREADS)
def test_percentiles_are_those_of_the_twin_and_of_numpy(image, percents, threads):
    values = kernels.percentiles(image, np.array(percents, np.float64), threads=threads)
    np.testing.assert_array_equal(values, reference.percentiles(image, np.array(percents)))
    np.testing.assert_array_equal(values, [np.percentile(image, percent) for percent in percents])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_percentiles_of_a_large_image(dtype, threads):
    raw = RANDOM.gamma(2, 40, (3, 301, 997))
    image = (raw - 30 if dtype == np.float32 else raw.clip(0, 255)).astype(dtype)
    percents = np.array([0, 0.01, 1, 3, 50, 99.8, 99.99, 100])
    for view in (image, image.transpose(0, 2, 1), image[:, ::-1, ::-3], np.moveaxis(image, 0, -1)[:, :, :2]):
        expected = [np.percentile(view, percent) for percent in percents.tolist()]
        np.testing.assert_array_equal(kernels.percentiles(view, percents, threads=threads), expected)


def test_percentiles_of_a_broadcast_image():
    image = np.broadcast_to(np.arange(5, dtype=np.uint16), (2, 3, 5))
    assert kernels.percentiles(image, np.array([50.0]), threads=1) == [2]


def test_percentiles_order_floats_of_every_size():
    tiny = np.float32(1e-45)
    image = np.array([[[3e38, -tiny, tiny, 0, -3e38, 1, -1, -0.0, 2e-38]]], np.float32)
    percents = np.linspace(0, 100, image.size)
    np.testing.assert_array_equal(kernels.percentiles(image, percents, threads=1), np.sort(image.ravel()))


@given(images(), st.data(), THREADS)
def test_normalize_is_that_of_the_twin(image, data, threads):
    n_channels, n_y, n_x = image.shape
    low = data.draw(arrays(np.float32, n_channels, elements=finite(1e4)))
    divisor = data.draw(arrays(np.float32, n_channels, elements=finite(1e4).filter(lambda value: value != 0)))
    out_shape = (n_y + data.draw(st.integers(0, 20)), n_x + data.draw(st.integers(0, 20)))
    with np.errstate(over="ignore"):
        expected = reference.normalize(image, low, divisor, out_shape)
        padding = ((0, 0), (0, out_shape[0] - n_y), (0, out_shape[1] - n_x))
        by_numpy = (image.astype(np.float32) - low[:, None, None]) / divisor[:, None, None]
    out = kernels.normalize(image, low, divisor, out_shape=out_shape, threads=threads)
    np.testing.assert_array_equal(out, expected)
    np.testing.assert_array_equal(out, np.pad(by_numpy, padding, mode="reflect"))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_pixels_that_are_not_finite_are_refused(bad):
    image = RANDOM.normal(size=(1, 70, 80)).astype(np.float32)
    image[0, 69, 79] = bad
    one = np.ones(1, np.float32)
    with pytest.raises(KernelError, match="expected finite pixels, got NaN or infinity") as caught:
        kernels.percentiles(image, np.array([50.0]), threads=2)
    assert caught.value.status == kernels.ERROR_DATA
    with pytest.raises(KernelError, match="expected finite pixels, got NaN or infinity"):
        kernels.normalize(image, one, one, out_shape=(70, 80), threads=2)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((1, 2, 2)), "expected an image of uint8, uint16 or float32, got float64"),
        (np.zeros((1, 2, 2), np.int16), "got int16"),
        ([[[1]]], "got list"),
        (np.zeros((2, 2), np.uint8), r"expected an image \(C, Y, X\) of at least one pixel, got shape \(2, 2\)"),
        (np.zeros((1, 0, 2), np.uint8), r"at least one pixel, got shape \(1, 0, 2\)"),
        (np.zeros((1, 2, 2), ">u2"), "got >u2: convert it first"),
        (np.zeros(9, np.uint8)[1:].view(np.float32).reshape(1, 1, 2), "expected an image whose pixels are aligned"),
        (np.zeros((1, 2, 2), "u1,u2")["f1"], "strides are multiples of 2 bytes, got strides"),
    ],
)
def test_images_that_are_refused(image, message):
    one = np.ones(1, np.float32)
    with pytest.raises(KernelError, match=message) as caught:
        kernels.percentiles(image, np.array([50.0]), threads=1)
    assert caught.value.status == kernels.ERROR_ARGUMENT
    with pytest.raises(KernelError, match=message):
        kernels.normalize(image, one, one, out_shape=(2, 2), threads=1)


def test_parameters_that_percentiles_and_normalize_refuse():
    image, one = np.zeros((1, 3, 4), np.uint8), np.ones(1, np.float32)
    for bad in (-1.0, 100.1, np.nan):
        with pytest.raises(KernelError, match="expected percents between 0 and 100, got"):
            kernels.percentiles(image, np.array([bad]), threads=1)
    with pytest.raises(KernelError, match="expected percents as a float64 array, got int64"):
        kernels.percentiles(image, np.array([1]), threads=1)
    with pytest.raises(KernelError, match=r"expected threads to be a whole number from 0 to 2147483647, got -1"):
        kernels.percentiles(image, np.array([50.0]), threads=-1)
    with pytest.raises(KernelError, match=r"expected out_shape of at least \(3, 4\), got \(3, 3\)"):
        kernels.normalize(image, one, one, out_shape=(3, 3), threads=1)
    with pytest.raises(KernelError, match=r"expected low of shape \(1,\), got \(2,\)"):
        kernels.normalize(image, np.ones(2, np.float32), one, out_shape=(3, 4), threads=1)
    with pytest.raises(KernelError, match="expected finite low and finite divisor other than 0"):
        kernels.normalize(image, one, 0 * one, out_shape=(3, 4), threads=1)


# ---- star_candidates_2d ---------------------------------------------------------------------------------------------


@given(
    st.integers(3, 5),
    st.sampled_from([0, 2, 3]),
    st.integers(1, 7),
    st.integers(1, 7),
    st.floats(0, 1),
    st.data(),
    THREADS,
)
def test_star_candidates_are_those_of_the_twin(n_rays, n_class_channels, n_y, n_x, prob_thresh, data, threads):
    n_maps = 1 + n_rays + n_class_channels
    maps = data.draw(arrays(np.float32, (n_maps, n_y, n_x), elements=st.floats(-1, 2, width=32)))
    maps[0].flat[data.draw(st.integers(0, n_y * n_x - 1))] = np.nan
    y = sorted(data.draw(st.tuples(st.integers(0, n_y), st.integers(0, n_y))))
    x = sorted(data.draw(st.tuples(st.integers(0, n_x), st.integers(0, n_x))))
    grid = data.draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    origin = data.draw(st.tuples(st.integers(-100, 100), st.integers(-100, 100)))
    window = (*y, *x)
    got = kernels.star_candidates_2d(
        maps,
        n_rays=n_rays,
        n_class_channels=n_class_channels,
        window=window,
        prob_thresh=prob_thresh,
        grid=grid,
        origin=origin,
        max_candidates=49,
        threads=threads,
    )
    expected = reference.star_candidates_2d(maps, n_rays, window, prob_thresh, grid, origin)
    for ours, twin in zip(got[:3], expected[:3], strict=True):
        np.testing.assert_array_equal(ours, twin)
    if n_class_channels:
        np.testing.assert_array_equal(got[3], expected[3])
    else:
        assert got[3] is None


def candidates_of(maps: NDArray[np.float32], **changes: Any) -> Any:
    """Candidates of all samples of maps with 3 rays."""
    parameters = {
        "n_rays": 3,
        "n_class_channels": 0,
        "window": (0, maps.shape[1], 0, maps.shape[2]),
        "prob_thresh": 0.5,
        "grid": (1, 1),
        "origin": (0, 0),
        "max_candidates": 100,
        "threads": 1,
    }
    return kernels.star_candidates_2d(maps, **(parameters | changes))


def test_star_candidates_of_a_read_only_map():
    maps = np.ones((4, 2, 2), np.float32)
    maps.flags.writeable = False
    assert candidates_of(maps)[2].tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]


def test_star_candidates_has_a_limit():
    maps = np.ones((4, 5, 5), np.float32)
    with pytest.raises(CapacityError, match="expected at most 24 candidates, got 25: raise prob_thresh") as caught:
        candidates_of(maps, max_candidates=24)
    assert caught.value.status == kernels.ERROR_CAPACITY
    assert len(candidates_of(maps, max_candidates=25)[0]) == 25


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 2.0**20 + 1])
def test_ray_lengths_that_cannot_be_used_are_refused(bad):
    maps = np.ones((4, 5, 5), np.float32)
    maps[0, 4, 4] = 0.1
    maps[2, 4, 4] = bad
    assert len(candidates_of(maps)[0]) == 24  # not a candidate: its lengths do not matter
    maps[2, 3, 3] = bad
    with pytest.raises(KernelError, match=r"expected ray lengths that are finite and at most 2\^20 pixels") as caught:
        candidates_of(maps)
    assert caught.value.status == kernels.ERROR_DATA


def test_star_candidates_refuses_maps_that_do_not_fit():
    maps = np.ones((4, 5, 5), np.float32)
    with pytest.raises(KernelError, match=r"expected maps of shape \(5, 'any', 'any'\), got \(4, 5, 5\)"):
        candidates_of(maps, n_rays=4)
    with pytest.raises(KernelError, match="expected maps contiguous"):
        candidates_of(maps[:, ::2])
    with pytest.raises(KernelError, match="expected maps as a float32 array, got float64"):
        candidates_of(maps.astype(np.float64))
    with pytest.raises(KernelError, match=r"expected a window inside \(5, 5\) samples, got \(0, 6, 0, 5\)"):
        candidates_of(maps, window=(0, 6, 0, 5))
    with pytest.raises(KernelError, match="out of range"):
        candidates_of(maps, origin=(2**30, 0))
    with pytest.raises(KernelError, match=r"expected grid\[0\] to be a whole number from 1 to 1073741824, got 2147"):
        candidates_of(maps, grid=(2**31, 1))
    with pytest.raises(KernelError, match=r"expected grid to be two numbers \(y, x\), got 1"):
        candidates_of(maps, grid=1)
    with pytest.raises(KernelError, match=r"expected origin\[1\] to be a whole number"):
        candidates_of(maps, origin=(0, -(2**40)))
    with pytest.raises(KernelError, match="expected n_rays to be a whole number from 3 to 1024, got -1"):
        candidates_of(maps, n_rays=-1)
    with pytest.raises(KernelError, match="expected max_candidates to be a whole number"):
        candidates_of(maps, max_candidates=-1)
    with pytest.raises(KernelError, match="out of range"):
        candidates_of(maps, prob_thresh=np.nan)


# ---- star_nms_2d, star_outlines_2d --------------------------------------------------------------------------------


def crowd(n: int, n_rays: int = 8) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int32]]:
    """n wobbly polygons, several on every spot of a square."""
    side = int(8 * n**0.5)
    prob = RANDOM.random(n, np.float32)
    dist = RANDOM.uniform(3, 12, (n, n_rays)).astype(np.float32)
    return prob, dist, RANDOM.integers(0, side, (n, 2)).astype(np.int32)


def test_star_nms_is_the_same_for_any_number_of_threads():
    prob, dist, points = crowd(3000)
    one, two, three = (
        kernels.star_nms_2d(prob, dist, points, nms_thresh=0.3, max_pairs=10**9, threads=threads)
        for threads in (1, 2, 3)
    )
    assert 100 < len(one) < 3000
    assert one[0] == prob.argmax()
    assert one.tobytes() == two.tobytes() == three.tobytes()


def test_star_nms_at_its_doors():
    prob, dist, points = crowd(50)
    parameters = {"nms_thresh": 0.3, "max_pairs": 10**6, "threads": 1}
    none = kernels.star_nms_2d(prob[:0], dist[:0], points[:0], **parameters)
    assert (none.dtype, none.shape) == (np.int64, (0,))
    with pytest.raises(CapacityError, match="expected at most 3 pairs of overlapping candidates"):
        kernels.star_nms_2d(prob, dist, points, **parameters | {"max_pairs": 3})
    for max_pairs in (-1, 2**70, 1.5):
        with pytest.raises(KernelError, match="expected max_pairs to be a whole number from 0 to"):
            kernels.star_nms_2d(prob, dist, points, **parameters | {"max_pairs": max_pairs})
    with pytest.raises(KernelError, match="expected prob as a float32 array, got float"):
        kernels.star_nms_2d(1.0, dist, points, **parameters)
    with pytest.raises(KernelError, match=r"expected nms_thresh between 0 and 1, got 1\.5"):
        kernels.star_nms_2d(prob, dist, points, **parameters | {"nms_thresh": 1.5})
    with pytest.raises(KernelError, match=r"expected points as a int32 array, got int64"):
        kernels.star_nms_2d(prob, dist, points.astype(np.int64), **parameters)
    with pytest.raises(KernelError, match="expected 3 to 1024 rays per polygon, got 2"):
        kernels.star_nms_2d(prob, dist[:, :2].copy(), points, **parameters)
    with pytest.raises(KernelError, match="prob without NaN, 0 < dist"):
        kernels.star_nms_2d(prob, -dist, points, **parameters)


@given(st.integers(0, 5), st.integers(3, 40), st.data(), THREADS)
def test_star_outlines_are_those_of_the_twin(n, n_rays, data, threads):
    dist = data.draw(arrays(np.float32, (n, n_rays), elements=st.floats(0, 1000, width=32)))
    points = data.draw(arrays(np.float64, (n, 2), elements=st.floats(-1e5, 1e5)))
    scale = data.draw(st.tuples(st.floats(0.1, 10), st.floats(0.1, 10)))
    coords = kernels.star_outlines_2d(dist, points, scale=scale, threads=threads)
    np.testing.assert_array_equal(coords, reference.star_outlines_2d(dist, points, scale))


@pytest.mark.parametrize("case", ["2d_fluo_img2d", "2d_rgb_synth", "2d_fluo_lowthresh", "2d_fluo_odd229x251"])
def test_star_outlines_and_labels_are_those_of_the_original(case):
    original = np.load(reference_file("cases", f"{case}.npz"))
    coords = np.ascontiguousarray(original["sparse_coord"].transpose(0, 2, 1))
    n, n_rays, _ = coords.shape
    order = np.argsort(original["sparse_prob"], kind="stable")
    offsets = np.arange(n + 1) * n_rays
    shape = original["labels"].shape
    labels = kernels.paint_polygons_2d(coords.reshape(-1, 2), offsets, order, shape=shape, threads=0)
    np.testing.assert_array_equal(labels, original["labels"])


@pytest.mark.parametrize("name", ["ll_nms2d_a", "ll_nms2d_b"])
def test_star_outlines_of_the_original(name):
    original = np.load(reference_file("cases", f"{name}.npz"))
    n = len(original["coord"])
    # The recorded outlines are those of the survivors at one of the thresholds.
    keep = next(original[key] for key in original.files if key.startswith("keep") and original[key].sum() == n)
    points, dist = original["points"][keep].astype(np.float64), original["dist"][keep]
    coords = kernels.star_outlines_2d(np.ascontiguousarray(dist), points, scale=(1, 1), threads=1)
    np.testing.assert_array_equal(coords, original["coord"].transpose(0, 2, 1))


@pytest.mark.parametrize("name", ["paint_smooth32", "paint_rough16", "paint_odd5"])
@pytest.mark.parametrize("prefix", ["", "scaled_"])
def test_outlines_and_painting_of_the_original(name, prefix):
    original = np.load(GOLDEN / "kernels" / f"{name}.npz")
    scale = tuple(original["scale"]) if prefix else (1.0, 1.0)
    points = original[f"{prefix}points"].astype(np.float64)
    coords = kernels.star_outlines_2d(original["dist"], points, scale=scale, threads=2)
    np.testing.assert_array_equal(coords, original[f"{prefix}coord"].transpose(0, 2, 1))
    n, n_rays, _ = coords.shape
    order = np.argsort(original["prob"], kind="stable")
    labels = original[f"{prefix}labels"]
    offsets = np.arange(n + 1) * n_rays
    got = kernels.paint_polygons_2d(coords.reshape(-1, 2), offsets, order, shape=labels.shape, threads=2)
    np.testing.assert_array_equal(got, labels)


def test_painting_awkward_polygons_as_the_original():
    original = np.load(GOLDEN / "kernels" / "paint_corners.npz")
    for vertices, inside in zip(original["coord"].transpose(0, 2, 1), original["inside"], strict=True):
        np.testing.assert_array_equal(paint(vertices, shape=tuple(original["shape"])) > 0, inside)


def test_star_outlines_at_their_doors():
    dist, points = np.ones((2, 4), np.float32), np.zeros((2, 2))
    with pytest.raises(KernelError, match="expected points as a float64 array, got int64"):
        kernels.star_outlines_2d(dist, points.astype(np.int64), scale=(1, 1), threads=1)
    with pytest.raises(KernelError, match=r"expected points of shape \(2, 2\), got \(1, 2\)"):
        kernels.star_outlines_2d(dist, points[:1], scale=(1, 1), threads=1)
    with pytest.raises(KernelError, match="expected a finite scale, got"):
        kernels.star_outlines_2d(dist, points, scale=(1, np.inf), threads=1)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("threads", [1, 2])
def test_outlines_that_would_not_be_finite_are_refused(bad, threads):
    dist, points = np.ones((600, 4), np.float32), np.zeros((600, 2))
    for array in (dist, points):
        array[-1, 0] = bad
        with pytest.raises(DataError, match="expected finite lengths and points, got NaN or infinity"):
            kernels.star_outlines_2d(dist, points, scale=(1, 1), threads=threads)
        array[-1, 0] = 1
    dist[0, 0] = 3e38
    with pytest.raises(DataError):
        kernels.star_outlines_2d(dist, points, scale=(1, 10), threads=threads)


# ---- paint_polygons_2d --------------------------------------------------------------------------------------------


def paint(vertices: NDArray[np.float32], shape: tuple[int, int], threads: int = 1) -> NDArray[np.int32]:
    """Paint one polygon."""
    coords = np.ascontiguousarray(vertices, np.float32)
    return kernels.paint_polygons_2d(coords, np.array([0, len(coords)]), np.array([0]), shape=shape, threads=threads)


# Whole and half pixels meet the rule's corner cases; near-whole ones meet the rounding; others the rest.
COORDINATES = st.one_of(
    st.integers(-3, 14).map(float),
    st.integers(-6, 28).map(lambda value: value / 2),
    st.integers(-3, 14).map(lambda value: np.nextafter(np.float32(value), np.float32(99)).item()),
    st.sampled_from([1e-13, -1e-13, 1e-12, 1e-11, -1e-11]).map(lambda value: np.float32(value).item()),
    finite(20),
    finite(1e6),
)
POLYGONS = st.lists(st.tuples(COORDINATES, COORDINATES), min_size=1, max_size=9).map(
    lambda vertices: np.array(vertices, np.float32)
)


@given(POLYGONS, THREADS)
@example(np.array([[2, 1], [2, 5]], np.float32), 1)
@example(np.array([[1, 1], [9, 9], [1, 9], [9, 1]], np.float32), 1)
def test_painting_is_the_point_test_of_the_twin_and_of_skimage(vertices, threads):
    shape = (11, 12)
    got = paint(vertices, shape, threads)
    expected = reference.paint_polygons_2d(vertices, np.array([0, len(vertices)]), np.array([0]), shape)
    np.testing.assert_array_equal(got, expected)
    draw = pytest.importorskip("skimage.draw", reason="scikit-image is not installed")
    by_skimage = np.zeros(shape, np.int32)
    by_skimage[draw.polygon(vertices[:, 0], vertices[:, 1], shape)] = 1
    np.testing.assert_array_equal(got, by_skimage)


@pytest.mark.parametrize("kind", ["round", "jagged", "whole"])
def test_painting_many_polygons_as_skimage_does(kind):
    draw = pytest.importorskip("skimage.draw", reason="scikit-image is not installed")
    n, n_rays, shape = 300, 32, (400, 500)
    dist = RANDOM.uniform(*((9, 12) if kind == "round" else (1, 90)), (n, n_rays)).astype(np.float32)
    coords = kernels.star_outlines_2d(dist, RANDOM.uniform(-20, 520, (n, 2)), scale=(1, 1), threads=1)
    if kind == "whole":
        coords = np.round(coords)
    order = RANDOM.permutation(n)
    expected = np.zeros(shape, np.int32)
    for i in order:
        expected[draw.polygon(coords[i, :, 0], coords[i, :, 1], shape)] = i + 1
    offsets = np.arange(n + 1) * n_rays
    for threads in (1, 2, 3):
        got = kernels.paint_polygons_2d(coords.reshape(-1, 2), offsets, order, shape=shape, threads=threads)
        np.testing.assert_array_equal(got, expected)


def test_painting_polygons_of_different_lengths_and_none():
    coords = np.array([[0, 0], [0, 2], [2, 0], [1, 1], [3, 3]], np.float32)
    offsets = np.array([0, 3, 3, 4, 5])  # a triangle, nothing, two points
    got = kernels.paint_polygons_2d(coords, offsets, np.array([3, 2, 1, 0]), shape=(4, 4), threads=1)
    assert got.tolist() == [[1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 4]]
    got = kernels.paint_polygons_2d(coords, offsets, np.array([0, 1, 2, 3]), shape=(4, 4), threads=1)
    assert got[1, 1] == 3
    nothing = kernels.paint_polygons_2d(coords[:0], np.array([0]), offsets[:0], shape=(2, 3), threads=1)
    assert nothing.tolist() == [[0, 0, 0], [0, 0, 0]]
    assert kernels.paint_polygons_2d(coords, offsets, offsets[:4] * 0, shape=(0, 5), threads=1).shape == (0, 5)


def test_painting_huge_polygons_is_bounded_by_the_image():
    angles = np.linspace(0, 2 * np.pi, 1024, endpoint=False)
    star = np.stack([np.sin(angles), np.cos(angles)], axis=1) * np.where(np.arange(1024) % 2, 1e9, 1e7)[:, None]
    begin = time.perf_counter()
    labels = paint(star, (3000, 3000), threads=2)
    assert labels.min() == 1
    assert time.perf_counter() - begin < 5


def test_painting_refuses_what_it_cannot_use():
    coords, offsets, order = np.zeros((3, 2), np.float32), np.array([0, 3]), np.array([0])
    parameters = {"shape": (4, 4), "threads": 1}
    for bad in (np.nan, np.inf, 3e12):
        broken = coords.copy()
        broken[1, 1] = bad
        with pytest.raises(KernelError, match=r"expected coordinates that are finite and within 2\^40 pixels"):
            kernels.paint_polygons_2d(broken, offsets, order, **parameters)
    for wrong in ([0, 2], [1, 3], [0, 4], [], [0, 3, 2, 3]):
        with pytest.raises(KernelError, match="expected offsets that rise from 0 to 3"):
            kernels.paint_polygons_2d(coords, np.array(wrong, np.int64), order, **parameters)
    for wrong in ([1], [-1]):
        with pytest.raises(KernelError, match="expected order to hold indices of 1 polygons, got"):
            kernels.paint_polygons_2d(coords, offsets, np.array(wrong), **parameters)
    with pytest.raises(KernelError, match=r"expected order of shape \(1,\), got \(2,\)"):
        kernels.paint_polygons_2d(coords, offsets, np.array([0, 0]), **parameters)
    for shape in ((-1, 4), (2**31, 4), (2.5, 4)):
        with pytest.raises(KernelError, match=r"expected shape\[0\] to be a whole number from 0 to 1073741824, got"):
            kernels.paint_polygons_2d(coords, offsets, order, shape=shape, threads=1)


# ---- label_regions_2d, relabel ------------------------------------------------------------------------------------

LABELS = arrays(np.int32, st.tuples(st.integers(0, 9), st.integers(0, 9)), elements=st.integers(0, 6))


@given(LABELS, st.integers(6, 9), THREADS)
def test_label_regions_are_those_of_the_twin(labels, n_labels, threads):
    got = kernels.label_regions_2d(labels, n_labels=n_labels, threads=threads)
    for ours, twin in zip(got, reference.label_regions_2d(labels, n_labels), strict=True):
        np.testing.assert_array_equal(ours, twin)


@given(arrays(np.int32, st.tuples(*[st.integers(0, 6)] * 3), elements=st.integers(0, 6)), st.integers(6, 9), THREADS)
def test_label_regions_of_volumes_are_those_of_the_twin(labels, n_labels, threads):
    got = kernels.label_regions_3d(labels, n_labels=n_labels, threads=threads)
    for ours, twin in zip(got, reference.label_regions_3d(labels, n_labels), strict=True):
        np.testing.assert_array_equal(ours, twin)


@given(LABELS, THREADS)
def test_a_plane_is_a_volume_of_one_plane_in_each_direction(labels, threads):
    areas, boxes, centroids = kernels.label_regions_2d(labels, n_labels=6, threads=threads)
    is_there = (areas > 0)[:, None]
    for axis in range(3):
        volume = np.expand_dims(labels, axis)
        found = kernels.label_regions_3d(volume, n_labels=6, threads=threads)
        np.testing.assert_array_equal(found[0], areas)
        np.testing.assert_array_equal(np.delete(found[1], [axis, 3 + axis], axis=1), boxes)
        np.testing.assert_array_equal(found[1][:, [axis, 3 + axis]], np.where(is_there, [0, 1], 0))
        np.testing.assert_array_equal(np.delete(found[2], axis, axis=1), centroids)


@given(LABELS, st.sampled_from([1, 7, 100_000]), THREADS)
def test_relabel_is_that_of_the_twin(labels, gap, threads):
    relabelled, n_labels = kernels.relabel(labels * gap, threads=threads)
    expected, n_expected = reference.relabel(labels)
    np.testing.assert_array_equal(relabelled, expected)
    assert n_labels == n_expected


def test_labels_of_a_large_image_are_the_same_for_any_number_of_threads():
    labels = np.kron(RANDOM.integers(0, 5000, (90, 110)), np.ones((9, 7), np.int64)).astype(np.int32)
    labels.flags.writeable = False
    regions = [kernels.label_regions_2d(labels, n_labels=5000, threads=threads) for threads in (1, 2, 3)]
    for other in regions[1:]:
        assert [part.tobytes() for part in other] == [part.tobytes() for part in regions[0]]
    np.testing.assert_array_equal(regions[0][0], np.bincount(labels.ravel(), minlength=5001)[1:])
    volume = labels.reshape(9, 90, 770)
    of_volume = [kernels.label_regions_3d(volume, n_labels=5000, threads=threads) for threads in (1, 2, 3)]
    for other in of_volume[1:]:
        assert [part.tobytes() for part in other] == [part.tobytes() for part in of_volume[0]]
    np.testing.assert_array_equal(of_volume[0][0], regions[0][0])
    relabelled = [kernels.relabel(labels, threads=threads) for threads in (1, 2, 3)]
    for other in relabelled[1:]:
        np.testing.assert_array_equal(other[0], relabelled[0][0])
    _, inverse = np.unique(labels, return_inverse=True)
    np.testing.assert_array_equal(relabelled[0][0], inverse.reshape(labels.shape))


def test_labels_that_are_refused():
    labels = np.array([[0, 3], [-2, 1]], np.int32)
    with pytest.raises(KernelError, match=r"expected labels in 0\.\.5, got -2 to 3"):
        kernels.label_regions_2d(labels, n_labels=5, threads=1)
    with pytest.raises(KernelError, match=r"expected labels in 0\.\.2, got 0 to 3"):
        kernels.label_regions_2d(abs(labels), n_labels=2, threads=2)
    with pytest.raises(KernelError, match=r"expected labels in 0\.\.5, got -2 to 3"):
        kernels.label_regions_3d(labels[np.newaxis], n_labels=5, threads=1)
    with pytest.raises(KernelError, match=r"expected labels of shape \('any', 'any', 'any'\), got \(2, 2\)"):
        kernels.label_regions_3d(abs(labels), n_labels=5, threads=1)
    with pytest.raises(KernelError, match="expected labels that are not negative, got -2"):
        kernels.relabel(labels, threads=1)
    with pytest.raises(KernelError, match="expected labels as a int32 array, got int64"):
        kernels.relabel(labels.astype(np.int64), threads=1)
    with pytest.raises(KernelError, match="expected labels contiguous"):
        kernels.relabel(labels.T, threads=1)
    with pytest.raises(KernelError, match="expected labels as a int32 array, got list"):
        kernels.relabel([1, 2], threads=1)
    for n_labels in (-1, 2**31):
        with pytest.raises(KernelError, match="expected n_labels to be a whole number from 0 to 2147483647, got"):
            kernels.label_regions_2d(abs(labels), n_labels=n_labels, threads=1)
    for threads in (-1, 2**40, 1.5, None):
        with pytest.raises(KernelError, match="expected threads to be a whole number from 0 to 2147483647, got"):
            kernels.relabel(abs(labels), threads=threads)


# ---- All of them ----------------------------------------------------------------------------------------------------


def test_usable_cores_is_at_least_one_and_found_once():
    assert kernels.usable_cores() >= 1
    begin = time.process_time()
    for _ in range(1000):
        kernels.usable_cores()
    assert time.process_time() - begin < 0.05


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity masks")
def test_usable_cores_are_those_of_the_affinity_mask():
    core = min(os.sched_getaffinity(0))
    code = f"import os; os.sched_setaffinity(0, {{{core}}}); from cellrt import kernels; print(kernels.usable_cores())"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "1\n"


def long_calls() -> dict[str, Callable[[], object]]:
    """One call of each kernel that takes tens of milliseconds at least."""
    image = RANDOM.normal(size=(1, 4000, 4000)).astype(np.float32)
    one = np.ones(1, np.float32)
    prob, dist, points = crowd(60_000, 32)
    labels = np.zeros((5000, 5000), np.int32)
    maps = RANDOM.random((33, 1000, 1000), np.float32)
    coords = RANDOM.uniform(0, 3000, (400 * 32, 2)).astype(np.float32)
    return {
        "percentiles": lambda: kernels.percentiles(image, np.array([1, 99.8]), threads=1),
        "normalize": lambda: kernels.normalize(image, one, one, out_shape=(4000, 4000), threads=1),
        "star_candidates_2d": lambda: candidates_of(maps, n_rays=32, max_candidates=10**6),
        "star_nms_2d": lambda: kernels.star_nms_2d(prob, dist, points, nms_thresh=0.3, max_pairs=10**9, threads=1),
        "star_outlines_2d": lambda: kernels.star_outlines_2d(
            np.tile(dist, (10, 1)), np.zeros((600_000, 2)), scale=(1, 1), threads=1
        ),
        "star_distances_2d": lambda: kernels.star_distances_2d(labels, n_rays=4, grid=(1, 1), threads=1),
        "object_probability_2d": lambda: kernels.object_probability_2d(labels, n_labels=0, threads=1),
        "paint_polygons_2d": lambda: kernels.paint_polygons_2d(
            coords, np.arange(401) * 32, np.arange(400), shape=(3000, 3000), threads=1
        ),
        "label_regions_2d": lambda: kernels.label_regions_2d(labels, n_labels=1, threads=1),
        "label_regions_3d": lambda: kernels.label_regions_3d(labels.reshape(50, 500, 1000), n_labels=1, threads=1),
        "relabel": lambda: kernels.relabel(labels, threads=1),
    }


def test_python_runs_on_during_every_call():
    """A heartbeat thread goes on ticking: the GIL is not held. (Switching takes it up to 5 ms each time.)"""
    beats: list[float] = []
    stop = threading.Event()

    def beat() -> None:
        while not stop.is_set():
            beats.append(time.perf_counter())
            time.sleep(0.001)

    calls = long_calls()
    heart = threading.Thread(target=beat)
    heart.start()
    try:
        for name, call in calls.items():
            for _ in range(20):  # a loaded machine may not have run the heart: one good run proves it
                begin = time.perf_counter()
                call()
                end = time.perf_counter()
                during = [t for t in beats if begin + 0.1 * (end - begin) < t < end - 0.1 * (end - begin)]
                if len(during) >= 2:
                    break
            else:
                pytest.fail(f"{name} held the GIL: {len(during)} heartbeats in {end - begin:.3f} s")
    finally:
        stop.set()
        heart.join()


def test_several_threads_may_call_at_once():
    image = RANDOM.integers(0, 1000, (1, 300, 300)).astype(np.uint16)
    expected = kernels.percentiles(image, np.array([1, 50, 99.8]), threads=1)
    results: list[NDArray[np.float64]] = []
    callers = [
        threading.Thread(target=lambda: results.append(kernels.percentiles(image, np.array([1, 50, 99.8]), threads=2)))
        for _ in range(8)
    ]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(results) == 8
    assert all(result.tobytes() == expected.tobytes() for result in results)
