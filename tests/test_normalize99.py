"""Cellpose's normalisation against slow twins, against recordings of Cellpose, and at its doors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import reference
import reference_labels
from conftest import cellpose_reference_file
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from cellrt import normalize99 as room
from cellrt.errors import ImageError
from cellrt.manifest import Normalize99Spec
from cellrt.normalize99 import normalize99

RANDOM = np.random.default_rng(0)
RULES = st.sampled_from(["v3", "v4"])

# What Cellpose 4.2.1.1 made of scene(), at the pixels AT, and where 3.1.1.3 made something else, that.
AT = ([0, 0, 0, 1, 1, 2, 2], [0, 20, 39, 13, 30, 5, 25], [0, 16, 35, 2, 30, 5, 7])  # channels, rows, columns
RECORDED: list[tuple[dict[str, Any], list[float]]] = [
    ({}, [-0.06650877, 0.6696326, 0.9640891, 0.4946174, 0.4946174, 0.1702128, 0.9148936]),
    ({"low": 2, "high": 99.5}, [-0.1033558, 0.6395143, 0.9366623, 0.4780488, 0.4780488, 0.1489362, 0.893617]),
    ({"invert": True}, [1.066509, 0.3303674, 0.0359109, 0.5053826, 0.5053826, 0.8297873, 0.08510637]),
    ({"lowhigh": (3, 77.5)}, [-0.04026845, 1.503356, 2.120805, 0.7114094, 0.7114094, 0.08053691, 0.5503356]),
    (
        {"lowhigh": (3, 77.5, 1, 50, 0, 9), "invert": True},
        [1.040268, -0.5033557, -1.120805, -0.1224489, -0.1224489, 0.0, -3.888889],
    ),
    ({"smooth_radius": 1.5}, [0.6783844, 0.4660359, 0.8872387, 0.5621521, 0.8608014, 0.000731819, 0.9302425]),
    ({"sharpen_radius": 4}, [-0.1624749, 0.7472298, 1.017363, 0.4998816, 0.4432724, 0.4064639, 0.8809635]),
    (
        {"smooth_radius": 1, "sharpen_radius": 3},
        [0.9009113, 0.4761688, 0.9850099, 0.4898561, 0.7617946, 0.3241416, 0.5625181],
    ),
    ({"tile_blocksize": 10}, [-0.1570766, 0.7491946, 0.9999744, 0.5603324, 0.4320337, 0.1862078, 0.9111083]),
    (
        {"tile_blocksize": 15, "invert": True},
        [1.150964, 0.2702231, -0.0185436, 0.4454817, 0.5701774, 0.8426303, 0.08271813],
    ),
    (
        {"tile_blocksize": 15, "invert": True, "rules": "v3"},
        [-0.1509635, 0.7297769, 1.018543, 0.5545182, 0.4298225, 0.1573697, 0.9172818],
    ),
    (
        {"tile_blocksize": 12, "sharpen_radius": 3, "low": 2, "high": 99.5},
        [-0.2815823, 0.7557722, 1.000198, 0.5226458, 0.4119684, 0.4175526, 0.9185436],
    ),
    ({"tile_blocksize": 100}, [-0.06650877, 0.6696326, 0.9640891, 0.4946174, 0.4946174, 0.1702128, 0.9148936]),
]


def scene() -> NDArray[np.float32]:
    """Three channels of 40 x 36 pixels, the same on every machine; half of the last is constant."""
    y, x = np.mgrid[:40, :36]
    channels = [(y * 37 + x * 91) % 101 + 2 * y, (y * y + 3 * x * y + x) % 97 + x / 2]
    channels.append(np.where(y < 20, 9, (y * 11 + x * 17) % 50))
    return np.stack(channels).astype(np.float32)


# ---- twins: float64 and loops, one channel at a time ----------------------------------------------------------------


def filtered(channel: NDArray[np.float32], smooth_radius: float, sharpen_radius: float) -> NDArray[np.float64]:
    """Every pixel as a sum over all pixels, the image repeating itself beyond its edges."""
    n_y, n_x = channel.shape

    def gaussian(radius: float) -> NDArray[np.float64]:
        y, x = np.linspace(-n_y / 2, n_y / 2 + 1, n_y), np.linspace(-n_y / 2, n_y / 2 + 1, n_x)
        kernel = np.exp(-(y[:, np.newaxis] ** 2 + x**2) / (2 * radius**2))
        return kernel / kernel.sum()

    if smooth_radius > 0:
        kernel = gaussian(smooth_radius) - (gaussian(sharpen_radius) if sharpen_radius > 0 else 0)
    else:
        kernel = -gaussian(sharpen_radius)
        kernel[n_y // 2, n_x // 2] = 1
    out = np.zeros((n_y, n_x))
    for y, x in np.ndindex(n_y, n_x):
        for ky, kx in np.ndindex(n_y, n_x):
            out[y, x] += kernel[ky, kx] * channel[(y + ky - n_y // 2) % n_y, (x + kx - n_x // 2) % n_x]
    return out


def smoothed_rows(grid: NDArray[np.float64]) -> NDArray[np.float64]:
    """A Gaussian of sigma 1 along y, cut after 4 samples, the grid mirrored with its edge at its edge."""
    weights = [np.exp(-(offset**2) / 2) for offset in range(-4, 5)]
    out = np.zeros_like(grid)
    for y in range(len(grid)):
        for offset, weight in zip(range(-4, 5), weights, strict=True):
            source = (y + offset) % (2 * len(grid))
            out[y] += weight / sum(weights) * grid[min(source, 2 * len(grid) - 1 - source)]
    return out


def by_blocks(channel: NDArray[np.float32], blocksize: int, low: float, high: float) -> NDArray[np.float64]:
    """Percentiles of blocks, one block at a time."""
    height, width = (min(blocksize, side) for side in channel.shape)
    counts = [1 if side <= blocksize else int(np.ceil(1.2 * side / blocksize)) for side in channel.shape]
    starts = [
        [round(i * (side - step) / max(n - 1, 1) - 0.5 + 1e-9) for i in range(n)]
        for side, step, n in zip(channel.shape, (height, width), counts, strict=True)
    ]
    grids = np.zeros((2, *counts))
    for i, j in np.ndindex(*counts):
        y, x = starts[0][i], starts[1][j]
        grids[:, i, j] = reference.percentiles(channel[y : y + height, x : x + width], np.array([low, high]))
    is_good = grids[1] - grids[0] >= np.float32(1e-3)
    if not is_good.any():
        grids[0], grids[1] = 0, 1
    else:
        good = np.argwhere(is_good)
        for i, j in np.argwhere(~is_good):
            grids[:, i, j] = grids[:, *good[((good - [i, j]) ** 2).sum(axis=1).argmin()]]
    smooth = np.stack([smoothed_rows(smoothed_rows(grid)) for grid in grids]).astype(np.float32)
    bottom, top = reference_labels.resize_linear(smooth, channel.shape, single_precision=False).astype(np.float64)
    return (channel - bottom) / (top - bottom)


def by_percentiles(pixels: NDArray[np.float32], spec: Normalize99Spec) -> NDArray[np.float32]:
    """Channel by channel in float32, as the original evaluates it."""
    out = pixels.copy()
    for channel in out:
        low, high = reference.percentiles(channel, np.array([spec.low, spec.high])).astype(np.float32)
        if channel.min() == channel.max():
            channel[:] = channel if spec.rules == "v3" else 0
            continue
        channel[:] = (channel - low) / (high - low) if high - low > np.float32(1e-3) else 0
        if spec.invert:
            channel[:] = 1 - channel
    return out


# ---- against the twins ----------------------------------------------------------------------------------------------


@given(
    arrays(
        np.float32,
        st.tuples(st.integers(1, 3), st.integers(1, 8), st.integers(1, 8)),
        elements=st.sampled_from([0.0, 0.0005, 1.0, 7.25, -3.0, 1000.0]),
    ),
    RULES,
    st.booleans(),
    st.sampled_from([(1.0, 99.0), (0.0, 100.0), (20.0, 60.5)]),
    st.integers(0, 2),
)
def test_percentiles_are_those_of_the_twin(pixels, rules, invert, percents, threads):
    spec = Normalize99Spec(*percents, invert=invert, rules=rules)
    np.testing.assert_array_equal(normalize99(pixels, spec, threads=threads), by_percentiles(pixels, spec))


@settings(max_examples=40)
@given(
    st.tuples(st.integers(2, 30), st.integers(2, 30)),
    st.integers(2, 12),
    st.sampled_from([0.0, 0.5, 0.9, 1.0]),
    st.integers(0, 2**32 - 1),
    RULES,
)
def test_blocks_are_those_of_the_twin(shape, blocksize, blank, seed, rules):
    random = np.random.default_rng(seed)
    channel = random.gamma(2, 30, shape).astype(np.float32)
    rows, columns = random.random(shape[0]) < blank, random.random(shape[1]) < blank
    blank_pixels = rows[:, np.newaxis] | columns
    channel[blank_pixels] = random.uniform(5, 5.0005, np.count_nonzero(blank_pixels))  # too little contrast to count
    spec = Normalize99Spec(tile_blocksize=blocksize, low=2, high=98, rules=rules)
    normalized = normalize99(channel[np.newaxis], spec, threads=1)[0]
    expected = by_blocks(channel, blocksize, 2, 98)
    np.testing.assert_allclose(normalized, expected, rtol=1e-5, atol=1e-5 * max(1, np.abs(expected).max()))


@pytest.mark.parametrize("radii", [(2.0, 0.0), (0.0, 3.5), (1.5, 4.0), (0.4, 0.0)])
@pytest.mark.parametrize("shape", [(9, 12), (12, 7), (1, 6), (6, 1), (1, 1)])
def test_filters_are_those_of_the_twin(shape, radii):
    channel = RANDOM.gamma(2, 30, shape).astype(np.float32)
    expected = filtered(channel, *radii)
    span = np.ptp(expected)
    if span > 1e-3:  # lowhigh leaves out filters, so it is undone by hand
        low, high = reference.percentiles(expected.astype(np.float32), np.array([1.0, 99.0]))
        expected = (expected - low) / (high - low)
        spec = Normalize99Spec(smooth_radius=radii[0], sharpen_radius=radii[1])
        np.testing.assert_allclose(normalize99(channel[np.newaxis], spec, threads=1)[0], expected, atol=2e-5)
    else:
        assert shape == (1, 1)


def test_large_images_are_sampled_for_their_percentiles(monkeypatch):
    pixels = RANDOM.gamma(2, 30, (2, 40, 75)).astype(np.float32)
    monkeypatch.setattr(room, "_SIDE", 9)
    sample = pixels[:, ::4, ::8]
    low, high = np.array([reference.percentiles(channel, np.array([1.0, 99.0])) for channel in sample]).T
    low, high = low.astype(np.float32)[:, None, None], high.astype(np.float32)[:, None, None]
    normalized = normalize99(pixels, Normalize99Spec(), threads=1)
    assert np.array_equal(normalized, (pixels - low) / (high - low))
    monkeypatch.setattr(room, "_SIDE", 15)  # 15^3 pixels are more than 40 x 75
    assert np.array_equal(normalize99(pixels, Normalize99Spec(), threads=1), by_percentiles(pixels, Normalize99Spec()))


# ---- against recordings ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("options", "expected"), RECORDED)
def test_cellpose_recorded_the_same(options, expected):
    spec = Normalize99Spec(**{"rules": "v4", **options})
    np.testing.assert_allclose(normalize99(scene(), spec, threads=2)[AT], expected, rtol=2e-6, atol=2e-6)
    if not (spec.invert and spec.tile_blocksize):  # 3.1 rounds percentiles in numpy's older way
        spec = Normalize99Spec(**{**options, "rules": "v3"})
        np.testing.assert_allclose(normalize99(scene(), spec, threads=2)[AT], expected, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize(
    ("name", "options", "tolerance"),
    [
        ("v3_stardist_img2d_crop", {}, 1e-6),
        ("v3_synth2ch", {}, 1e-6),
        ("v3_synth_noresample_nointerp", {}, 1e-6),
        (
            "v3_synth_augment_tilenorm",
            {"tile_blocksize": 60, "sharpen_radius": 4, "low": 2, "high": 99.5},
            1e-5,
        ),
    ],
)
def test_large_recordings(name, options, tolerance):
    case = np.load(cellpose_reference_file(f"{name}.npz"))
    image = case["image"]
    # channels [1, 2] of the one with two; [0, 0] of a grey one adds an empty channel
    pixels = np.moveaxis(image, -1, 0) if image.ndim == 3 else np.stack([image, np.zeros_like(image)])
    normalized = normalize99(pixels, Normalize99Spec(**options), threads=2)
    assert np.abs(normalized - np.moveaxis(case["normalized"][0], -1, 0)).max() <= tolerance


# ---- rules and doors ------------------------------------------------------------------------------------------------


def test_constant_channels():
    pixels = np.stack([np.full((6, 7), 4.0), np.zeros((6, 7)), RANDOM.random((6, 7))]).astype(np.float32)
    for invert in (False, True):
        v3 = normalize99(pixels, Normalize99Spec(invert=invert, rules="v3"), threads=1)
        v4 = normalize99(pixels, Normalize99Spec(invert=invert, rules="v4"), threads=1)
        assert np.array_equal(v3[:2], pixels[:2])
        assert not v4[:2].any()
        assert np.array_equal(v3[2], v4[2])


def test_low_contrast_becomes_zero_and_inverted_one():
    pixels = np.full((1, 20, 20), 3, np.float32)
    pixels[0, 0, 0] = 900  # one pixel is beyond the percentiles
    for rules in ("v3", "v4"):
        assert not normalize99(pixels, Normalize99Spec(rules=rules), threads=1).any()
        assert (normalize99(pixels, Normalize99Spec(rules=rules, invert=True), threads=1) == 1).all()


def test_grey_values_leave_out_everything_but_inversion():
    pixels = scene()
    spec = Normalize99Spec(lowhigh=(10.1, 60.7), smooth_radius=3, tile_blocksize=10, rules="v3")
    lifted = (pixels.astype(np.float64) - 10.1).astype(np.float32)
    expected = (lifted.astype(np.float64) / (60.7 - 10.1)).astype(np.float32)
    assert np.array_equal(normalize99(pixels, spec, threads=1), expected)


@pytest.mark.parametrize("dtype", ["u1", "u2", "i2", ">u2", "i8", "f2", "f8"])
def test_dtypes_are_read_as_float32(dtype):
    pixels = RANDOM.integers(0, 100, (2, 15, 16)).astype(dtype)
    for options in ({}, {"lowhigh": (0, 50)}, {"tile_blocksize": 8}, {"sharpen_radius": 3}):
        spec = Normalize99Spec(**options)
        normalized = normalize99(pixels, spec, threads=1)
        assert normalized.dtype == np.float32
        assert np.array_equal(normalized, normalize99(pixels.astype(np.float32), spec, threads=1))


@pytest.mark.parametrize(
    "options",
    [{}, {"invert": True}, {"lowhigh": (0, 50)}, {"tile_blocksize": 8}, {"smooth_radius": 2}, {"rules": "v4"}],
)
def test_any_strides_any_threads_and_nothing_written(options):
    spec = Normalize99Spec(**options)
    base = np.moveaxis(RANDOM.gamma(2, 30, (41, 60, 3)).astype(np.float32), -1, 0)
    for view in (base, base[:, ::-1, ::-2], base[::2, 3:20], base.transpose(0, 2, 1)):
        before = view.copy()
        view.flags.writeable = False
        normalized = normalize99(view, spec, threads=1)
        assert np.array_equal(view, before)
        assert not np.shares_memory(normalized, view)
        assert normalized.flags.c_contiguous
        assert np.array_equal(normalized, normalize99(before, spec, threads=3))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
@pytest.mark.parametrize("options", [{}, {"lowhigh": (0, 50)}, {"tile_blocksize": 8}, {"sharpen_radius": 3}])
def test_pixels_that_are_not_finite_are_refused(bad, options):
    pixels = RANDOM.random((2, 12, 13))
    pixels[1, 3, 4] = bad
    with pytest.raises(ImageError, match=r"expected finite pixels, got NaN or infinity; replace them first"):
        normalize99(pixels, Normalize99Spec(**options), threads=1)


@pytest.mark.parametrize(
    "options", [{}, {"lowhigh": (0, 1e-30)}, {"tile_blocksize": 8}, {"smooth_radius": 3}, {"tile_blocksize": 30}]
)
def test_a_range_beyond_float32_is_refused(options):
    pixels = np.where(RANDOM.random((1, 16, 16)) < 0.5, 3e38, -3e38)
    with pytest.raises(
        ImageError, match="expected grey values whose differences fit float32, got larger ones; rescale"
    ):
        normalize99(pixels, Normalize99Spec(**options), threads=1)


@pytest.mark.parametrize(("lowhigh", "n_channels"), [((1, 2, 3, 4), 1), ((1, 2, 3, 4), 3), ((1, 2, 3, 4, 5, 6), 2)])
def test_grey_values_for_other_channels_are_refused(lowhigh, n_channels):
    expected = (
        f"expected lowhigh of 2 numbers or of {2 * n_channels} for {n_channels} channels, got {len(lowhigh)}: give"
    )
    with pytest.raises(ImageError, match=expected):
        normalize99(np.ones((n_channels, 4, 4)), Normalize99Spec(lowhigh=lowhigh), threads=1)
