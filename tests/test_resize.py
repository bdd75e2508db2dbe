"""Resampling against its twin, against recordings of OpenCV, and at its doors."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
import reference_labels
from conftest import cellpose_reference_file
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cellrt import kernels
from cellrt.errors import KernelError
from cellrt.resize import resize_nearest, zoom_linear, zoom_linear_3d

# What cv2.resize(INTER_LINEAR) of opencv-python-headless 5.0.0.93 made of image(planes, y, x) on an x86-64 processor
# with AVX2: the beginning of the sha256 of the planes. It has one routine for images of two channels or with a side of
# one pixel (single_precision, which halves both sides in another way again) and one for others.
OPENCV_LINEAR = [
    ((1, 40, 50), (63, 71), False, "d0878d6cccf57f6c"),
    ((1, 64, 64), (128, 128), False, "ec6f1645548324c9"),
    ((1, 64, 64), (32, 32), False, "156e2dc6e26b08ff"),
    ((1, 33, 129), (150, 500), False, "bc96955d20dc3aff"),
    ((1, 300, 200), (17, 31), False, "56d8e954d2c054be"),
    ((3, 155, 165), (256, 272), False, "1ff8177fe6808a59"),
    ((3, 90, 100), (40, 51), False, "bf8980f9ae98d56c"),
    ((3, 20, 30), (20, 30), False, "f2dd589f95239b81"),
    ((2, 155, 165), (256, 272), True, "d2cb4aa81126912c"),
    ((2, 90, 100), (40, 51), True, "485e0132173cee15"),
    ((2, 64, 60), (32, 30), True, "ac8a5b82dc4aa06c"),
    ((2, 31, 33), (31, 33), True, "b056ed3771eb7456"),
    ((1, 1, 40), (9, 70), True, "c965e3974d76ec6d"),
    ((3, 35, 1), (80, 4), True, "925e7a3bf2ccbe90"),
    ((2, 16, 150), (33, 2000), True, "a35fec2e6a368c59"),
]

# What cv2.resize(INTER_NEAREST) made of a row of so many pixels: the beginning of the sha256 of the indices, int32.
OPENCV_NEAREST = [
    (6, 34, "bc6c0cb3a0439d62"),  # 3 * (6 / 34) and 3 / (34 / 6) are not the same number
    (49, 7, "24047fa5be998ecb"),
    (89, 98, "74c0d92fe7d44fcd"),
    (7, 7, "e1a613aa4b331588"),
    (239, 120, "7c4b441f063328bb"),
]


def image(*shape: int) -> NDArray[np.float32]:
    """Numbers between -0.3 and 0.7, the same on every machine."""
    numbers = np.arange(np.prod(shape, dtype=np.int64)) * 7919 % 10007
    return (numbers.astype(np.float32) / np.float32(10007) - np.float32(0.3)).reshape(shape)


def digest(array: NDArray[np.generic]) -> str:
    return hashlib.sha256(array.tobytes()).hexdigest()[:16]


# ---- linear -------------------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(
    st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9)),
    st.tuples(st.integers(1, 12), st.integers(1, 12)),
    st.booleans(),
    st.integers(0, 2**32 - 1),
    st.integers(0, 3),
)
@example((2, 8, 6), (4, 3), True, 0, 2)
@example((2, 8, 6), (4, 3), False, 0, 2)
@example((1, 8, 7), (4, 3), True, 0, 1)
def test_linear_is_that_of_the_twin(shape, out_shape, single_precision, seed, threads):
    planes = np.random.default_rng(seed).normal(0, 1000, shape).astype(np.float32)
    resized = kernels.resize_linear(planes, out_shape=out_shape, single_precision=single_precision, threads=threads)
    np.testing.assert_array_equal(resized, reference_labels.resize_linear(planes, out_shape, single_precision))


@pytest.mark.parametrize(("shape", "out_shape", "single_precision", "expected"), OPENCV_LINEAR)
def test_linear_is_that_of_opencv(shape, out_shape, single_precision, expected):
    resized = kernels.resize_linear(image(*shape), out_shape=out_shape, single_precision=single_precision, threads=2)
    assert digest(resized) == expected


@pytest.mark.parametrize("single_precision", [False, True])
def test_linear_gives_a_ramp_back(single_precision):
    """Sample d lies at (d + 0.5) * n / out - 0.5, and beyond the outer pixels is what they are."""
    y, x = np.arange(23, dtype=np.float32), np.arange(17, dtype=np.float32)
    for out_y, out_x in [(46, 17), (11, 60), (23, 5), (1, 1)]:
        resized = kernels.resize_linear(
            (100 * y[:, np.newaxis] + x)[np.newaxis],
            out_shape=(out_y, out_x),
            single_precision=single_precision,
            threads=1,
        )
        at_y, at_x = (
            np.clip((np.arange(n_out) + 0.5) * n / n_out - 0.5, 0, n - 1) for n, n_out in [(23, out_y), (17, out_x)]
        )
        np.testing.assert_allclose(resized[0], 100 * at_y[:, np.newaxis] + at_x, atol=3e-4)


@pytest.mark.parametrize("shape", [(2, 70, 300), (1, 200, 900)])
@pytest.mark.parametrize("out_shape", [(90, 9001), (100, 450)])
def test_single_precision_with_any_number_of_threads(shape, out_shape):
    one, *others = (
        kernels.resize_linear(image(*shape), out_shape=out_shape, single_precision=True, threads=threads)
        for threads in (1, 2, 3, 0)
    )
    assert all(np.array_equal(one, other) for other in others)


@pytest.mark.parametrize(("shape", "out_shape"), [((2, 70, 300), (90, 9001)), ((3, 1500, 40), (700, 50))])
def test_linear_of_images_in_several_blocks(shape, out_shape):
    planes = image(*shape)
    resized = kernels.resize_linear(planes, out_shape=out_shape, single_precision=False, threads=1)
    for threads in (2, 3, 0):
        again = kernels.resize_linear(planes, out_shape=out_shape, single_precision=False, threads=threads)
        assert np.array_equal(resized, again)
    axes = []
    for n, n_out in zip(shape[1:], out_shape, strict=True):
        position = (np.arange(n_out) + 0.5) * (n / n_out) - 0.5
        before = np.floor(position).astype(np.int64)
        fraction = np.where((before < 0) | (before >= n - 1), 0, position - before).astype(np.float32)
        before = before.clip(0, n - 1)
        axes.append((before, np.minimum(before + 1, n - 1), fraction.astype(np.float64)))
    (above, below, down), (left, right, along) = axes
    stretched = (planes[..., left] + (planes[..., right] - planes[..., left]) * along).astype(np.float32)
    upper, lower = stretched[:, above], stretched[:, below]
    assert np.array_equal(resized, (upper + (lower - upper) * down[:, np.newaxis]).astype(np.float32))


def test_linear_has_the_same_bytes_without_wide_instructions():
    script = (
        "import hashlib, numpy as np; from cellrt import kernels; "
        "planes = np.random.default_rng(3).normal(size=(2, 61, 83)).astype(np.float32); "
        "shapes = [(200, 190), (30, 33), (61, 83), (7, 1)]; "
        "resized = [kernels.resize_linear(planes, out_shape=shape, single_precision=single, threads=1) "
        "for shape in shapes for single in (False, True)]; "
        "print(hashlib.sha256(b''.join(array.tobytes() for array in resized)).hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "CELLRT_SIMD": simd},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout
        for simd in ("baseline", "")
    }
    assert len(digests) == 1


def test_linear_keeps_what_is_not_finite_to_its_neighbours():
    planes = np.zeros((1, 9, 9), np.float32)
    planes[0, 4, 4] = np.nan
    resized = kernels.resize_linear(planes, out_shape=(18, 18), single_precision=False, threads=1)
    assert np.array_equal(np.argwhere(np.isnan(resized[0])), [(y, x) for y in range(7, 11) for x in range(7, 11)])


@pytest.mark.parametrize(
    ("planes", "out_shape", "message"),
    [
        (np.zeros((1, 4, 4)), (2, 2), "expected image as a float32 array, got float64"),
        (np.zeros((4, 4), np.float32), (2, 2), r"expected image of shape \('any', 'any', 'any'\), got \(4, 4\)"),
        (np.zeros((1, 4, 8), np.float32)[..., ::2], (2, 2), "expected image contiguous"),
        (np.zeros((1, 0, 4), np.float32), (2, 2), "expected an image of at least one pixel"),
        (np.zeros((1, 4, 4), np.float32), (0, 2), r"expected out_shape\[0\] to be a whole number from 1 to"),
        (np.zeros((1, 4, 4), np.float32), (2,), r"expected out_shape to be two numbers \(y, x\)"),
    ],
)
def test_linear_refuses(planes, out_shape, message):
    with pytest.raises(KernelError, match=message) as caught:
        kernels.resize_linear(planes, out_shape=out_shape, single_precision=False, threads=1)
    assert caught.value.status == kernels.ERROR_ARGUMENT


@pytest.mark.parametrize("name", ["v3_stardist_img2d_crop", "v3_synth2ch", "v3_synth_augment_tilenorm"])
def test_linear_of_the_networks_output_is_that_of_cellpose(name):
    case = np.load(cellpose_reference_file(f"{name}.npz"))
    maps = np.ascontiguousarray(np.moveaxis(case["net_out_netres"][0], -1, 0))
    resized = kernels.resize_linear(maps, out_shape=case["cellprob"].shape, single_precision=False, threads=2)
    assert np.array_equal(resized[:2], case["dP"])
    assert np.array_equal(resized[2], case["cellprob"])


# ---- nearest ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("old", "new", "expected"), OPENCV_NEAREST)
def test_nearest_is_that_of_opencv(old, new, expected):
    indices = np.arange(old, dtype="<i4")
    assert digest(resize_nearest(indices[np.newaxis], (1, new))[0]) == expected
    assert digest(resize_nearest(indices[:, np.newaxis], (new, 1))[:, 0]) == expected


@given(st.tuples(st.integers(1, 300), st.integers(1, 300)), st.tuples(st.integers(1, 300), st.integers(1, 300)))
def test_nearest_takes_the_pixel_that_a_sample_begins_in(old, new):
    labels = np.arange(old[0] * old[1], dtype=np.int32).reshape(old)
    resized = resize_nearest(labels, new)
    assert resized.shape == new
    assert resized.dtype == labels.dtype
    for axis, taken in enumerate((resized[:, 0] // old[1], resized[0] % old[1])):
        exact = np.arange(new[axis]) * old[axis] / new[axis]
        assert ((exact - taken > -1e-9) & (exact - taken < 1 + 1e-9)).all()


# ---- zoom, against scipy ------------------------------------------------------------------------------------------

factors = st.floats(0.2, 3.0)
# of 5 and more, so that something is left of them
sides, short_sides = (st.integers(5, 40),) * 2, (st.integers(5, 12),) * 3


@given(st.tuples(*sides), factors, factors)
@example((90, 90), 0.5, 0.5)  # where scipy gives 0 beyond the last sample
def test_zoom_is_scipys(shape, y, x):
    ndimage = pytest.importorskip("scipy.ndimage", reason="scipy is not installed")
    planes = image(2, *shape)
    want = np.stack([ndimage.zoom(plane, (y, x), order=1) for plane in planes])
    np.testing.assert_array_equal(zoom_linear(planes, (y, x)), want)


@given(st.tuples(*short_sides), factors, factors, factors)
@example((90, 4, 90), 0.5, 1.0, 0.5)
@example((1, 1, 7), 1.0, 3.0, 2.5)
@settings(deadline=None)
def test_zoom_of_volumes_is_scipys(shape, z, y, x):
    ndimage = pytest.importorskip("scipy.ndimage", reason="scipy is not installed")
    volumes = image(2, *shape)
    want = np.stack([ndimage.zoom(volume, (z, y, x), order=1) for volume in volumes])
    np.testing.assert_array_equal(zoom_linear_3d(volumes, (z, y, x)), want)
