"""The star head on maps alone: tiles give the whole, ties and overpainting follow the rules, bad maps are refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cellrt.errors import CapacityError, CellrtError
from cellrt.heads import star
from cellrt.instances import Instances
from cellrt.manifest import StarSpec
from cellrt.tile import plan


def spec(**changes):
    return StarSpec(**{"n_rays": 8, "grid": (2, 2), "prob_thresh": 0.5, "nms_thresh": 0.3, **changes})


def random_maps(rng, head, height, width):
    """Maps with many candidates, among them ties of the probability."""
    prob = np.round(rng.random((1, height, width)), 2)
    dist = rng.uniform(1, 9, (head.n_rays, height, width))
    class_prob = rng.random((head.n_class_channels, height, width))
    return np.concatenate([prob, dist, class_prob]).astype(np.float32)


def collected(head, maps, shape, tiles, order):
    """The instances of maps that arrive tile by tile."""
    (gy, gx), (_, height, width) = head.grid, maps.shape
    collector = star.Collector(
        head,
        shape=shape,
        padded=(height * gy, width * gx),
        prob_thresh=head.prob_thresh,
        nms_thresh=head.nms_thresh,
        threads=1,
    )
    for tile in order(tiles):
        (y0, y1), (x0, x1) = tile.read_y, tile.read_x
        part = np.ascontiguousarray(maps[:, y0 // gy : y1 // gy, x0 // gx : x1 // gx])
        collector.add(part, origin=tile.origin, window=tile.window(head.grid))
    return collector.finish(out_shape=shape)


def assert_identical(a: Instances, b: Instances):
    for name in ("labels", "scores", "points", "classes", "class_prob"):
        assert np.array_equal(getattr(a, name), getattr(b, name)), name
    assert np.array_equal(a.outlines[0], b.outlines[0])


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 10**6),
    st.sampled_from([(1, 1), (2, 2), (4, 2)]),
    st.integers(8, 40),
    st.integers(8, 40),
    st.tuples(st.integers(1, 4), st.integers(1, 4)),
    st.sampled_from([None, 2]),
)
def test_tiles_in_any_order_give_the_whole(seed, grid, height, width, counts, n_classes):
    rng = np.random.default_rng(seed)
    head = spec(grid=grid, n_classes=n_classes)
    maps = random_maps(rng, head, height, width)
    padded = (height * grid[0], width * grid[1])
    shape = (int(rng.integers(1, padded[0] + 1)), int(rng.integers(1, padded[1] + 1)))
    whole = star.decode(maps, head, shape=shape)
    tiles = plan(padded, halo=(grid[0], 2 * grid[1]), multiple=grid, max_pixels=1, tiles=counts)
    assert_identical(collected(head, maps, shape, tiles, list), whole)
    assert_identical(collected(head, maps, shape, tiles, lambda tiles: rng.permutation(np.array(tiles, object))), whole)


@pytest.mark.parametrize(("maps", "shape"), [((9, 7), (7, 7)), ((9, 7, 7), (7, 7, 7)), ((9, 1, 7, 7), (7, 7))])
def test_maps_of_other_axes_are_refused(maps, shape):
    with pytest.raises(CellrtError, match="expected maps of 3 axes, channels first, and shape of 2, got maps"):
        star.decode(np.zeros(maps, np.float32), spec(), shape=shape)


def test_border_and_threshold_rules():
    head = spec(grid=(1, 1), nms_thresh=1.0)
    maps = np.full((9, 7, 7), 0.75, np.float32)
    points = {tuple(point) for point in star.decode(maps, head, shape=(7, 7)).points.astype(int)}
    assert points == {(y, x) for y in range(2, 5) for x in range(2, 5)}
    # Padding of 3 below: the border is that of the padded map, then what lies outside the image goes.
    points = {tuple(point) for point in star.decode(maps, head, shape=(4, 7)).points.astype(int)}
    assert points == {(y, x) for y in range(2, 4) for x in range(2, 5)}
    assert len(star.decode(maps, head, shape=(7, 7), prob_thresh=0.75)) == 0  # strictly above


@pytest.mark.parametrize("side", [1, 2, 4, 5])
def test_maps_no_larger_than_their_border(side):
    maps = np.full((9, side, side), 0.75, np.float32)
    assert len(star.decode(maps, spec(), shape=(2 * side, 2 * side))) == (side == 5)


def test_ties_go_row_by_row_and_ids_align_when_overpainted():
    head = spec(grid=(1, 1))
    maps = np.zeros((9, 20, 20), np.float32)
    maps[1:] = 3
    maps[0, 5, 5] = maps[0, 5, 6] = 0.75  # the same object twice, equally probable
    maps[0, 14, 14], maps[1:, 14, 14] = 0.6, 0.4  # a speck that hides below ...
    maps[0, 14, 15] = 0.9  # ... a stronger, larger one
    cells = star.decode(maps, spec(grid=(1, 1), nms_thresh=1.0), shape=(20, 20))
    assert cells.points.astype(int).tolist() == [[14, 15], [5, 5], [5, 6], [14, 14]]
    assert 4 not in cells.labels
    assert cells.labels[14, 14] == 1
    # Without room for overlap the first in row-major order stays; a speck without area overlaps nothing.
    assert [5, 6] not in star.decode(maps, head, shape=(20, 20)).points.astype(int).tolist()


def test_classes():
    head = spec(grid=(1, 1), n_classes=2)
    maps = np.zeros((12, 10, 10), np.float32)
    maps[1:9] = 2
    maps[0, 4, 4], maps[9:, 4, 4] = 0.9, (0.1, 0.2, 0.7)
    cells = star.decode(maps, head, shape=(10, 10))
    assert cells.classes.tolist() == [2]
    assert np.array_equal(cells.class_prob, np.array([[0.1, 0.2, 0.7]], np.float32))
    assert star.decode(maps[:9], spec(grid=(1, 1)), shape=(10, 10)).classes is None


@pytest.mark.parametrize("bad", [np.nan, np.inf, 2.0**21])
def test_unusable_ray_lengths_are_refused(bad):
    maps = np.ones((9, 10, 10), np.float32)
    maps[3, 5, 5] = bad
    with pytest.raises(CellrtError, match="expected finite ray lengths from the network"):
        star.decode(maps, spec(grid=(1, 1)), shape=(10, 10))


def test_work_is_bounded():
    maps = np.random.default_rng(0).uniform(15, 25, (9, 128, 128)).astype(np.float32)
    maps[0] = 0.9
    with pytest.raises(CapacityError, match="raise prob_thresh or lower nms_thresh"):
        star.decode(maps, spec(nms_thresh=1.0), shape=(256, 256))


def test_wrong_number_of_maps_is_refused():
    with pytest.raises(CellrtError, match=r"expected 9 maps .* got 5"):
        star.decode(np.zeros((5, 10, 10), np.float32), spec(), shape=(20, 20))
