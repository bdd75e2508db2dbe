"""Tiles: every pixel kept once, halos respected, little computed twice."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellrt.errors import CellrtError
from cellrt.stitch import Blend, place
from cellrt.tile import halving, largest, overlapping, padded, plan

axes = st.tuples(st.integers(1, 60), st.integers(0, 70), st.sampled_from([1, 2, 4, 16]), st.integers(1, 9))


@given(axes, axes, st.sampled_from([256, 4096, 100_000, 10**9]), st.booleans())
def test_laws(y, x, max_pixels, chosen):
    multiple = (y[2], x[2])
    shape, halo = (y[0] * multiple[0], x[0] * multiple[1]), (y[1], x[1])
    tiles = plan(shape, halo=halo, multiple=multiple, max_pixels=max_pixels, tiles=(y[3], x[3]) if chosen else None)
    covered = np.zeros(shape, int)
    sizes = set()
    for tile in tiles:
        covered[slice(*tile.keep_y), slice(*tile.keep_x)] += 1
        sizes.add((tile.read_y[1] - tile.read_y[0], tile.read_x[1] - tile.read_x[0]))
        spans = ((tile.read_y, tile.keep_y), (tile.read_x, tile.keep_x))
        for (read, keep), side, reach, step in zip(spans, shape, halo, multiple, strict=True):
            assert all(edge % step == 0 for edge in (*read, *keep))
            assert 0 <= read[0] <= keep[0] < keep[1] <= read[1] <= side
            assert read[0] == 0 or keep[0] - read[0] >= reach  # cut edges are a halo away
            assert read[1] == side or read[1] - keep[1] >= reach
    assert (covered == 1).all()
    assert len(sizes) == 1  # one fixed shape
    if not chosen and len(tiles) > 1:
        ((height, width),) = sizes
        assert height * width <= max_pixels or min(height - 2 * halo[0], width - 2 * halo[1]) <= 4 * max(multiple)


short_axes = st.tuples(st.integers(1, 12), st.integers(0, 20), st.sampled_from([1, 2, 4]), st.integers(1, 4))


@given(short_axes, short_axes, short_axes, st.sampled_from([256, 4096, 10**9]), st.booleans())
def test_laws_of_volumes(z, y, x, max_voxels, chosen):
    axes = (z, y, x)
    multiple, halo = tuple(axis[2] for axis in axes), tuple(axis[1] for axis in axes)
    shape = tuple(axis[0] * axis[2] for axis in axes)
    counts = tuple(axis[3] for axis in axes) if chosen else None
    tiles = plan(shape, halo=halo, multiple=multiple, max_pixels=max_voxels, tiles=counts)
    covered = np.zeros(shape, int)
    for tile in tiles:
        covered[tuple(slice(*span) for span in tile.keeps)] += 1
        assert tile.shape == tuple(end - begin for begin, end in tile.reads)
        for read, keep, side, reach, step in zip(tile.reads, tile.keeps, shape, halo, multiple, strict=True):
            assert all(edge % step == 0 for edge in (*read, *keep))
            assert 0 <= read[0] <= keep[0] < keep[1] <= read[1] <= side
            assert read[0] == 0 or keep[0] - read[0] >= reach
            assert read[1] == side or read[1] - keep[1] >= reach
    assert (covered == 1).all()
    assert len({tile.shape for tile in tiles}) == 1
    least = [
        min(side, max(3 * reach, step))
        for side, reach, step in zip(shape, padded(halo, multiple), multiple, strict=True)
    ]
    if not chosen and len(tiles) > 1 and np.prod(tiles[0].shape) > max(max_voxels, np.prod(least)):  # as halos allow
        assert all(
            length - 2 * reach <= 4 * step or length == side
            for length, reach, step, side in zip(tiles[0].shape, halo, multiple, shape, strict=True)
        )


def test_a_flat_volume_is_planned_as_an_image():
    flat = plan((8, 2048, 2048), halo=(4, 96, 96), multiple=(8, 16, 16), max_pixels=8 * 2_500_000)
    planes = plan((2048, 2048), halo=(96, 96), multiple=(16, 16), max_pixels=2_500_000)
    assert [(t.read_y, t.read_x, t.keep_y, t.keep_x) for t in flat] == [
        (t.read_y, t.read_x, t.keep_y, t.keep_x) for t in planes
    ]


def test_large_volumes_plan_quickly():
    tiles = plan((2000, 4000, 4000), halo=(20, 40, 40), multiple=(4, 8, 8), max_pixels=4_000_000)
    assert len(tiles) * np.prod(tiles[0].shape) < 5 * 2000 * 4000 * 4000  # a cube would read as many


def test_wide_halos_take_more_than_is_asked_for():
    """Tiles of just more than two halos would be 281,216 here, and each keep a thousandth of what it reads."""
    tiles = plan((200, 1024, 1024), halo=(46, 92, 92), multiple=(4, 8, 8), max_pixels=3_000_000)
    assert len(tiles) < 200
    assert 3_000_000 < np.prod(tiles[0].shape) <= (3 * 48) * (3 * 96) ** 2


def test_one_tile_when_it_fits():
    assert len(plan((512, 512), halo=(96, 96), multiple=(16, 16), max_pixels=512 * 512)) == 1


def test_few_pixels_are_computed_twice():
    tiles = plan((2048, 2048), halo=(112, 112), multiple=(16, 16), max_pixels=2_500_000)
    computed = sum((t.read_y[1] - t.read_y[0]) * (t.read_x[1] - t.read_x[0]) for t in tiles)
    assert computed / 2048**2 < 1.12


def test_large_images_plan_quickly():
    tiles = plan((100_000, 100_000), halo=(112, 112), multiple=(16, 16), max_pixels=2_500_000)
    assert 4000 < len(tiles) < 8000


@pytest.mark.parametrize("tiles", [(0, 1), (1, -1), (1, 2, 3)])
def test_bad_counts_are_refused(tiles):
    with pytest.raises(CellrtError, match="expected tiles as two whole numbers"):
        plan((64, 64), halo=(8, 8), multiple=(16, 16), max_pixels=10**6, tiles=tiles)


@pytest.mark.parametrize("tiles", [(0, 1, 1), (1, 1), (1, 1, 1.5), 3])
def test_bad_counts_of_a_volume_are_refused(tiles):
    with pytest.raises(CellrtError, match="expected tiles as three whole numbers"):
        plan((8, 8, 8), halo=(0, 0, 0), multiple=(1, 1, 1), max_pixels=10**6, tiles=tiles)


def test_padded():
    assert padded((229, 256), (16, 16)) == (240, 256)
    assert padded((1, 1), (8, 16)) == (8, 16)


def test_place_puts_tiles_together():
    whole = np.random.default_rng(0).random((3, 40, 60)).astype(np.float32)
    result = np.full_like(whole, np.nan)
    for tile in plan((80, 240), halo=(8, 16), multiple=(4, 8), max_pixels=10**9, tiles=(3, 4)):
        (y0, y1), (x0, x1) = tile.read_y, tile.read_x
        place(result, whole[:, y0 // 2 : y1 // 2, x0 // 4 : x1 // 4], tile, (2, 4))
    assert np.array_equal(result, whole)


def test_place_puts_volumes_together():
    whole = np.random.default_rng(0).random((3, 20, 40, 60)).astype(np.float32)
    result = np.full_like(whole, np.nan)
    for tile in plan((20, 80, 240), halo=(2, 8, 16), multiple=(4, 4, 8), max_pixels=10**9, tiles=(2, 3, 4)):
        (z0, z1), (y0, y1), (x0, x1) = tile.reads
        place(result, whole[:, z0:z1, y0 // 2 : y1 // 2, x0 // 4 : x1 // 4], tile, (1, 2, 4))
    assert np.array_equal(result, whole)


@given(st.integers(16, 900), st.integers(16, 900), st.sampled_from([64, 224]), st.floats(0.05, 0.5))
def test_overlapping_tiles_are_upstreams(height, width, side, overlap):
    """Against `make_tiles` of Cellpose, as the specification has it: numpy's linspace, truncated."""
    for length, spans in zip((height, width), overlapping((height, width), side=side, overlap=overlap), strict=True):
        tile = min(side, length)
        n = 1 if length <= side else int(np.ceil((1.0 + 2 * overlap) * length / side))
        begins = np.linspace(0, length - tile, n).astype(int)
        assert spans == [(begin, begin + tile) for begin in begins]
        assert spans[-1][1] == length


@given(st.integers(64, 900), st.integers(64, 900))
def test_halving_tiles_overlap_by_half(height, width):
    for length, spans in zip((height, width), halving((height, width), side=64), strict=True):
        begins = np.linspace(0, length - 64, max(2, int(np.ceil(2.0 * length / 64)))).astype(int)
        assert spans == [(begin, begin + 64) for begin in begins]


def test_large_tiles_cover_the_image_and_overlap():
    multiple = (16, 16)
    assert largest((512, 512), multiple=multiple, overlap=64, max_pixels=512 * 512) == ([(0, 512)], [(0, 512)])
    rows, columns = largest((2048, 1024), multiple=multiple, overlap=64, max_pixels=1_200_000)
    assert rows[0][0] == 0
    assert rows[-1][1] == 2048
    assert columns == [(0, 1024)]
    assert all(end - begin >= 64 for (begin, _), (_, end) in zip(rows[1:], rows[:-1], strict=True))


@given(st.integers(20, 300), st.integers(20, 300), st.integers(0, 3))
def test_a_blend_of_equal_tiles_is_the_image(height, width, seed):
    whole = np.random.default_rng(seed).normal(size=(3, height, width)).astype(np.float32)
    rows, columns = overlapping((height, width), side=96, overlap=0.1)
    blend = Blend(3, rows, columns)
    for row in rows:
        for column in columns:
            blend.add(whole[:, slice(*row), slice(*column)], row, column)
    assert np.allclose(blend.finish(), whole, atol=1e-5)


def test_a_blend_weighs_as_upstream_does():
    """Cellpose's `average_tiles`: weights 1 / (1 + exp((|i - middle| - (side / 2 - 20)) / 7.5)), multiplied in 2D."""
    rows, columns = overlapping((400, 224), side=224, overlap=0.1)
    distance = np.abs(np.arange(224) - 111.5)
    weight = 1 / (1 + np.exp((distance - (112 - 20)) / 7.5))
    weight = weight * weight[:, None]
    values, blend = np.arange(1, len(rows) + 1), Blend(1, rows, columns)
    total, mean = np.zeros((400, 224)), np.zeros((400, 224))
    for value, (begin, end) in zip(values, rows, strict=True):
        blend.add(np.full((1, 224, 224), value, np.float32), (begin, end), columns[0])
        total[begin:end] += weight
        mean[begin:end] += weight * value
    assert len(rows) == 3
    assert np.allclose(blend.finish()[0], mean / total, atol=1e-6)
