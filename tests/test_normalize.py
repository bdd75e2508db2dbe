"""Normalisation and resampling against the plain numpy and scipy expressions that upstream evaluates."""

import warnings

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cellrt.errors import ImageError
from cellrt.manifest import PercentileSpec
from cellrt.normalize import normalize
from cellrt.resize import zoom_linear


def csbdeep(pixels, low, high, axis):
    """The expression of csbdeep's normalize."""
    bottom = np.percentile(pixels, low, axis=axis, keepdims=True).astype(np.float32)
    top = np.percentile(pixels, high, axis=axis, keepdims=True).astype(np.float32)
    return (pixels.astype(np.float32) - bottom) / (top - bottom + np.float32(1e-20))


@pytest.mark.parametrize("dtype", ["u1", "u2", "f4", "i2", "i4", "u4", "i8", "f8"])
@pytest.mark.parametrize("joint", [True, False])
def test_equals_upstream(dtype, joint):
    values = np.random.default_rng(1).gamma(2, 30, (37, 41, 3))
    image = np.minimum(values, 120 if dtype == "i1" else 255).astype(dtype)
    pixels = np.moveaxis(image, -1, 0)  # interleaved, as it comes from a camera
    spec = PercentileSpec(low=1, high=99.8, joint=joint)
    result = normalize(pixels, spec, out_shape=(48, 48), threads=2)
    expected = csbdeep(pixels, 1, 99.8, None if joint else (1, 2))
    assert np.array_equal(result, np.pad(expected, ((0, 0), (0, 11), (0, 7)), mode="reflect"))


@pytest.mark.parametrize("view", ["reversed", "strided", "read-only", "fortran"])
def test_any_strides(view):
    base = np.random.default_rng(2).integers(0, 4000, (1, 30, 40), np.uint16)
    pixels = {
        "reversed": base[:, ::-1, ::-1],
        "strided": base[:, ::2, 1::3],
        "read-only": np.frombuffer(base.tobytes(), np.uint16).reshape(base.shape),
        "fortran": np.asfortranarray(base),
    }[view]
    shape = pixels.shape[1:]
    result = normalize(pixels, PercentileSpec(), out_shape=shape, threads=1)
    assert np.array_equal(result, csbdeep(pixels, 1, 99.8, None))


def test_memory_mapped(tmp_path):
    image = np.random.default_rng(3).integers(0, 255, (20, 30), np.uint8)
    np.save(tmp_path / "image.npy", image)
    mapped = np.load(tmp_path / "image.npy", mmap_mode="r")
    result = normalize(mapped[np.newaxis], PercentileSpec(), out_shape=(20, 30), threads=1)
    assert np.array_equal(result[0], csbdeep(image, 1, 99.8, None))


def test_none_casts_and_pads_only():
    pixels = np.arange(6, dtype=np.float32).reshape(1, 2, 3)
    result = normalize(pixels, None, out_shape=(5, 8), threads=1)
    assert np.array_equal(result, np.pad(pixels, ((0, 0), (0, 3), (0, 5)), mode="reflect"))
    one = normalize(np.full((1, 1, 1), 7, np.uint8), None, out_shape=(4, 4), threads=1)
    assert np.array_equal(one, np.full((1, 4, 4), 7, np.float32))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("spec", [PercentileSpec(), None])
def test_pixels_that_are_not_finite_are_refused(dtype, bad, spec):
    pixels = np.random.default_rng(4).random((1, 16, 16)).astype(dtype)
    pixels[0, 3, 5] = bad
    with pytest.raises(ImageError, match="expected finite pixels"):
        normalize(pixels, spec, out_shape=(16, 16), threads=1)


def test_double_beyond_single_precision_is_refused():
    pixels = np.linspace(0, 1e39, 64).reshape(1, 8, 8)
    with pytest.raises(ImageError, match="expected"):
        normalize(pixels, None, out_shape=(8, 8), threads=1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_range_beyond_single_precision_is_refused(dtype):
    top = 3e38 if dtype == np.float32 else 1e300
    pixels = np.linspace(-top, top, 64).astype(dtype).reshape(1, 8, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ImageError, match="range of pixels that fits float32"):
            normalize(pixels, PercentileSpec(), out_shape=(8, 8), threads=1)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.int32])
def test_no_contrast_is_refused(dtype):
    constant = np.full((1, 16, 16), 7, dtype)
    with pytest.raises(ImageError, match=r"expected contrast .* got every pixel 7; check exposure"):
        normalize(constant, PercentileSpec(), out_shape=(16, 16), threads=1)
    nearly = np.zeros((1, 64, 64), dtype)
    nearly[0, 1, 1] = 100
    with pytest.raises(ImageError, match=r"got both 0; .*normalize="):
        normalize(nearly, PercentileSpec(), out_shape=(64, 64), threads=1)


@settings(deadline=None, max_examples=200)
@example((90, 76), (0.5, 0.5))  # rounding puts the last row beyond the image
@given(
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.tuples(st.floats(0.3, 3), st.floats(0.3, 3)),
)
def test_zoom_equals_scipy(shape, scale):
    ndimage = pytest.importorskip("scipy.ndimage")
    plane = np.random.default_rng(5).normal(size=shape).astype(np.float32)
    if min(round(side * factor) for side, factor in zip(shape, scale, strict=True)) < 1:
        return
    expected = ndimage.zoom(plane, scale, order=1)
    result = zoom_linear(plane[np.newaxis], scale)[0]
    assert np.array_equal(result, expected)
