"""The door of images: axes, channels, dtypes; views where they can be."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellrt.errors import ImageError
from cellrt.image import as_image, as_volume, cellpose_channels, cellpose_numbers


@pytest.mark.parametrize(
    ("shape", "axes", "channels", "n_channels", "expected"),
    [
        ((5, 6), None, None, 1, (1, 5, 6)),
        ((5, 6, 3), None, None, 3, (3, 5, 6)),
        ((3, 5, 6), None, None, 3, (3, 5, 6)),
        ((3, 5, 3), None, None, 3, (3, 3, 5)),  # both fit: the last axis, as upstream
        ((1, 5, 6), None, None, 1, (1, 5, 6)),
        ((5, 6, 1), None, None, 1, (1, 5, 6)),
        ((5, 6, 3), None, 1, 1, (1, 5, 6)),
        ((4, 50, 60), None, (3, 0), 2, (2, 50, 60)),
        ((6, 5), "XY", None, 1, (1, 5, 6)),
        ((1, 1, 5, 6), "TZYX", None, 1, (1, 5, 6)),
        ((1, 5, 6, 3), "CYXS", None, 3, (3, 5, 6)),
        ((2, 5, 6, 1), "CYXS", None, 2, (2, 5, 6)),
        ((5, 3, 6), "ycx", None, 3, (3, 5, 6)),
    ],
)
def test_axes(shape, axes, channels, n_channels, expected):
    array = np.arange(np.prod(shape), dtype=np.uint16).reshape(shape)
    result = as_image(array, axes, channels, n_channels=n_channels)
    assert result.shape == expected
    if channels != (3, 0):  # anything but a shuffle of channels is a view
        assert np.shares_memory(result, array)


def test_channel_order_and_pixels():
    array = np.random.default_rng(0).integers(0, 255, (4, 5, 3), np.uint8)
    assert np.array_equal(as_image(array, n_channels=3), np.moveaxis(array, -1, 0))
    assert np.array_equal(as_image(array, channels=(2, 0), n_channels=2)[1], array[..., 0])
    assert np.array_equal(as_image(array, axes="XYC", n_channels=3), array.transpose(2, 1, 0))


@given(st.sampled_from(["?", "i1", "u1", ">u2", "<u2", "i4", "u8", "f2", ">f4", "f8"]))
def test_dtypes_keep_their_values(dtype):
    array = np.array([[0, 1], [1, 0]]).astype(dtype)
    result = as_image(array, n_channels=1)
    assert result.dtype.isnative
    assert np.array_equal(result[0], array.astype(float))


def test_unaligned_record_field():
    records = np.zeros((3, 4), dtype=[("flag", "u1"), ("value", "<f4")])
    records["value"] = np.arange(12).reshape(3, 4)
    result = as_image(records["value"], n_channels=1)
    assert result.flags.aligned
    assert np.array_equal(result[0], records["value"])


@pytest.mark.parametrize(
    ("array", "arguments", "message"),
    [
        (np.zeros((0, 5)), {}, "expected an image with pixels"),
        (np.zeros(5), {}, "2 or 3 axes"),
        (np.zeros((2, 3, 4, 5)), {}, "name them"),
        (np.zeros((5, 6, 3)), {}, "choose among its channels"),
        (np.zeros((5, 6)), {"n_channels": 3}, "expected an image with 3 channels, got 1 channel"),
        (np.zeros((7, 5, 6)), {"axes": "ZYX"}, "segment the planes one by one"),
        (np.zeros((5, 6)), {"axes": "YXC"}, "expected 3 axes"),
        (np.zeros((5, 6)), {"axes": "YY"}, "expected axes of the letters"),
        (np.zeros((5, 6)), {"axes": "YQ"}, "expected axes of the letters"),
        (np.zeros((5, 6, 3)), {"channels": 3}, r"expected channels in 0\.\.2, got 3"),
        (np.zeros((5, 6, 3)), {"channels": (-1,)}, r"expected channels in 0\.\.2, got -1"),
        (np.zeros((5, 6, 3)), {"channels": "red"}, "counted from 0"),
        (np.zeros((5, 6), complex), {}, "expected an image of numbers"),
        (np.array([["a"]]), {}, "expected an image of numbers"),
    ],
)
def test_bad_images_are_refused(array, arguments, message):
    with pytest.raises(ImageError, match=message):
        as_image(array, **{"n_channels": 1, **arguments})


@pytest.mark.parametrize(
    ("shape", "expected"), [((5, 6), (1, 5, 6)), ((50, 60, 3), (3, 50, 60)), ((2, 50, 60), (2, 50, 60))]
)
def test_any_number_of_channels(shape, expected):
    assert as_image(np.zeros(shape), n_channels=None).shape == expected


def test_a_stack_is_not_taken_for_channels():
    with pytest.raises(ImageError, match=r"expected an image with up to 10 channels, got shape .*planes of a stack"):
        as_image(np.zeros((24, 72, 80)), n_channels=None)


RGB = np.random.default_rng(0).integers(0, 255, (3, 4, 5)).astype(np.uint8)


@pytest.mark.parametrize(
    ("pixels", "channels", "pair", "n_channels", "expected"),
    [
        (RGB, (2, 3), True, 2, [RGB[1], RGB[2]]),
        (RGB, (3, 0), True, 2, [RGB[2], 0]),
        (RGB, (0, 0), True, 2, [RGB.astype(np.float32).mean(axis=0), 0]),
        (RGB, (0, 2), True, 2, [RGB.astype(np.float32).mean(axis=0), 0]),  # grey has no second channel
        (RGB[:1], (0, 0), True, 2, [RGB[0], 0]),
        (RGB[:1], (2, 1), True, 2, [RGB[0], 0]),  # the numbers count for nothing in an image of one channel
        (RGB, None, True, 2, [RGB[0], RGB[1]]),
        (RGB[:1], None, True, 2, [RGB[0], 0]),
        (RGB[:2], None, False, 3, [RGB[0], RGB[1]]),
        (RGB, (3, 1), False, 3, [RGB[2], RGB[0]]),
    ],
)
def test_cellpose_channels(pixels, channels, pair, n_channels, expected):
    chosen = cellpose_channels(pixels, channels, n_channels=n_channels, pair=pair)
    assert chosen.dtype == np.float32
    assert not np.shares_memory(chosen, pixels)
    for got, want in zip(chosen, expected, strict=True):
        assert np.allclose(got, want)


@pytest.mark.parametrize(
    ("channels", "pair", "message"),
    [
        ((4, 0), True, "expected channels in 0..3, counted from 1 as Cellpose counts, got 4"),
        ((1, 7), True, "expected channels in 0..3.*got 7 for an image with 3 channels"),
        ((-1, 0), True, "expected channels in 0..3"),
        ((1,), True, "expected channels as two numbers"),
        ((1, 2, 3), True, "expected channels as two numbers"),
        ("12", True, r"expected channels as numbers counted from 1, .* got '12'; pass \(1, 0\)"),
        (5.0, True, "expected channels as numbers counted from 1"),
        ([[0, 0]], True, "expected channels as numbers counted from 1"),
        ((0, 1), False, "expected channels in 1..3"),
        ((1, 2, 3, 1), False, "expected at most 3 channels"),
    ],
)
def test_bad_cellpose_channels(channels, pair, message):
    n_channels = 2 if pair else 3
    with pytest.raises(ImageError, match=message):
        cellpose_channels(RGB, cellpose_numbers(channels, n_channels, pair), n_channels=n_channels, pair=pair)


@pytest.mark.parametrize(
    ("shape", "axes", "channels", "n_channels", "expected"),
    [
        ((4, 5, 6), None, None, 1, (1, 4, 5, 6)),
        ((4, 5, 6, 2), None, None, 2, (2, 4, 5, 6)),
        ((2, 4, 5, 6), None, None, 2, (2, 4, 5, 6)),
        ((4, 2, 5, 6), None, None, 2, (2, 4, 5, 6)),
        ((2, 2, 5, 2), None, None, 2, (2, 2, 2, 5)),  # all fit: the last axis
        ((4, 3, 50, 60), None, 1, 1, (1, 4, 50, 60)),
        ((4, 3, 50, 60), None, None, None, (3, 4, 50, 60)),
        ((6, 5, 4), "XYZ", None, 1, (1, 4, 5, 6)),
        ((1, 4, 3, 5, 6), "TZCYX", (2, 0), 2, (2, 4, 5, 6)),
        ((4, 5, 6, 3), "ZYXS", None, 3, (3, 4, 5, 6)),
        ((1, 4, 1, 5, 6, 3), "TZCYXS", None, 3, (3, 4, 5, 6)),  # ImageJ's stacks in colour
    ],
)
def test_volumes_become_czyx(shape, axes, channels, n_channels, expected):
    array = np.arange(np.prod(shape), dtype=np.uint16).reshape(shape)
    volume = as_volume(array, axes, channels, n_channels=n_channels)
    assert volume.shape == expected
    assert np.shares_memory(volume, array) or channels == (2, 0)


@pytest.mark.parametrize(
    ("array", "axes", "channels", "message"),
    [
        (np.zeros((5, 6)), None, None, r"expected a volume with 3 or 4 axes, got an image of shape \(5, 6\); name the"),
        (np.zeros((5, 6)), "YX", None, r"expected a volume with an axis Z, got axes YX \(5, 6\)"),
        (np.zeros((5, 6, 3)), "YXS", None, "expected a volume with an axis Z"),
        (np.zeros((1, 1, 4, 5, 6)), None, None, "expected a volume with 3 or 4 axes, got shape .* axes='TCZYX'"),
        (np.zeros((2, 4, 5, 6)), "TZYX", None, "expected one volume, got axis T of length 2 .* segment the volumes"),
        (np.zeros((4, 5, 6, 3)), None, None, "expected a volume with 1 channel, got shape"),
        (np.zeros((4, 3, 5, 6)), "ZCYX", None, "expected an image with 1 channel, got 3 channels"),
        (np.zeros((4, 3, 5, 6)), "ZCYX", 3, "expected channels in 0..2"),
        (np.zeros((0, 5, 6)), None, None, "expected an image with pixels"),
        (np.array([["a"]]), None, None, "expected an image of numbers"),
    ],
)
def test_what_is_no_volume_is_refused(array, axes, channels, message):
    with pytest.raises(ImageError, match=message):
        as_volume(array, axes, channels, n_channels=1)


def test_a_volume_with_unknown_channels_has_few():
    with pytest.raises(ImageError, match="expected a volume with up to 10 channels"):
        as_volume(np.zeros((20, 21, 22, 23)), n_channels=None)
