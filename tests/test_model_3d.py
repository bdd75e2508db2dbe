"""Models of volumes: cells that are there, options, tiles, streams, memory limits, and what is refused."""

import time

import numpy as np
import pytest
import star_network_3d

import cellrt
from cellrt.errors import CapacityError, CellrtError, ImageError, ModelError
from cellrt.heads.star_3d import Collector3D, decode
from cellrt.manifest import Manifest

NOISE = np.random.default_rng(0).random((5, 20, 30))


@pytest.fixture(scope="module")
def balls():
    return cellrt.load(star_network_3d.ball_model(), providers=["cpu"], threads=2)


@pytest.fixture(scope="module")
def volume():
    return star_network_3d.balls()


def test_every_ball_is_found_once(balls, volume):
    voxels, n = volume
    cells = balls.segment(voxels)
    assert isinstance(balls, cellrt.StarModel3D)
    assert len(cells) == n == len(np.unique(cells.labels)) - 1
    assert cells.labels.shape == voxels.shape
    assert cells.is_volume
    assert (np.diff(cells.scores) <= 0).all()
    centres = np.rint(cells.points).astype(int)
    assert np.array_equal(cells.labels[tuple(centres.T)], np.arange(1, n + 1))
    assert (voxels[tuple(centres.T)] > 800).all()
    sizes = np.bincount(cells.labels.ravel())[1:]
    assert (sizes > 0.75 * 4 / 3 * np.pi * star_network_3d.RADIUS**3).all()  # 32 rays cut some of a ball off
    assert (sizes < 4 / 3 * np.pi * star_network_3d.RADIUS**3).all()


def test_axes_and_channels(volume):
    voxels, n = volume
    two = cellrt.load(star_network_3d.ball_model(n_channels=2), providers=["cpu"])
    stack = np.stack([voxels, voxels[::-1]])
    want = two.segment(stack).labels
    assert want.max() == n
    for array, axes in ((np.moveaxis(stack, 0, 1), None), (np.moveaxis(stack, 0, -1), None), (stack.T, "XYZC")):
        assert np.array_equal(two.segment(array, axes=axes).labels, want)
    three = np.concatenate([stack, stack[:1]])
    assert np.array_equal(two.segment(three, channels=(0, 1)).labels, want)
    with pytest.raises(ImageError, match="expected a volume with 2 channels, got shape"):
        two.segment(three)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32, np.float64])
def test_dtypes(balls, volume, dtype):
    voxels, n = volume
    scaled = (voxels / 8).astype(dtype)
    assert len(balls.segment(scaled)) == n
    assert len(balls.segment(scaled[:, ::-1, ::-1])) == n


def test_neither_tiles_nor_threads_nor_the_way_matter(balls, volume):
    voxels, _ = volume
    want = balls.segment(voxels)
    one = cellrt.load(star_network_3d.ball_model(), providers=["cpu"], threads=1)
    (streamed,) = balls.stream([voxels])
    others = (balls.segment(voxels, tiles=(2, 3, 2)), one.segment(voxels), streamed.instances)
    for cells in others:
        assert np.array_equal(cells.points, want.points)
        assert np.array_equal(cells.labels, want.labels)
        assert np.allclose(cells.scores, want.scores, atol=1e-6)
    maps, tiled = balls.predict(voxels), balls.predict(voxels, tiles=(2, 3, 2))
    assert maps["dist"].shape == (32, 24, 32, 36)
    assert np.allclose(maps["prob"], tiled["prob"], atol=1e-6)


def test_odd_sides_are_padded_and_cut(balls, volume):
    voxels, n = volume
    cells = balls.segment(voxels[:23, :61, :71])
    assert cells.labels.shape == (23, 61, 71)
    assert len(cells) == n
    maps = balls.predict(voxels[:23, :61, :71])
    assert maps["prob"].shape == (23, 31, 36)


def test_scale_gives_voxels_of_the_volume(balls, volume):
    voxels, n = volume
    double = np.repeat(np.repeat(np.repeat(voxels, 2, 0), 2, 1), 2, 2)
    cells = balls.segment(double, scale=0.5)
    assert cells.labels.shape == double.shape
    assert len(cells) == n
    each = balls.segment(np.repeat(voxels, 2, 0), scale=(0.5, 1, 1))
    assert len(each) == n
    assert np.allclose(each.polyhedra.rays[:, 1:], balls.segment(voxels).polyhedra.rays[:, 1:])
    assert np.ptp(each.polyhedra.rays[:, 0]) == pytest.approx(4)  # twice as long along z


def test_modes_of_painting(balls, volume):
    voxels, _ = volume
    full, hull, kernel, box = (
        balls.segment(voxels, mode=mode).labels > 0 for mode in ("full", "hull", "kernel", "bbox")
    )
    assert (full <= hull).all()
    assert (kernel <= full).all()
    assert (hull <= box).all()
    assert box.sum() > hull.sum()


def test_overlaps_get_their_own_label(balls):
    voxels, _ = star_network_3d.balls()
    crowded = np.maximum(voxels, np.roll(voxels, 8, axis=2))
    cells = balls.segment(crowded, nms_thresh=0.9, overlap_label=-7)
    assert (cells.labels == -7).any()
    assert not (balls.segment(crowded, nms_thresh=0.9).labels < 0).any()


def test_classes(volume):
    voxels, n = volume
    model = cellrt.load(star_network_3d.ball_model(n_classes=2), providers=["cpu"])
    cells = model.segment(voxels)
    assert len(cells) == n
    assert (cells.classes == 2).all()
    assert cells.class_prob.shape == (n, 3)
    assert model.predict(voxels)["class_prob"].shape == (3, 24, 32, 36)


def test_nothing_is_found_in_nothing(balls):
    noise = np.random.default_rng(0).normal(size=(10, 20, 30))
    cells = balls.segment(noise)
    assert len(cells) == 0
    assert cells.labels.dtype == np.int32
    assert cells.labels.shape == (10, 20, 30)
    assert len(cells.polyhedra) == 0


def test_a_memory_limit_cuts_tiles(volume):
    voxels, n = volume
    limited = cellrt.load(star_network_3d.ball_model(), providers=["cpu"], memory="120MB")
    assert len(limited.segment(voxels)) == n
    with pytest.raises(CellrtError, match=r"expected a memory limit of at least .* MB for this, got 90 MB"):
        cellrt.load(star_network_3d.ball_model(), providers=["cpu"], memory="90MB").segment(voxels)


@pytest.mark.parametrize(
    ("array", "options", "error", "message"),
    [
        (np.zeros((20, 30)), {}, ImageError, "expected a volume with 3 or 4 axes, got an image"),
        (np.zeros((20, 30)), {"axes": "YX"}, ImageError, "expected a volume with an axis Z"),
        (np.zeros((5, 20, 30)), {}, ImageError, "expected contrast"),
        (np.full((5, 20, 30), np.nan), {}, ImageError, "expected finite pixels"),
        (np.zeros((0, 20, 30)), {}, ImageError, "expected an image with pixels"),
        (np.ones((5, 20, 30)), {"mode": "half"}, CellrtError, "expected mode to be one of full, kernel, hull, bbox"),
        (np.ones((5, 20, 30)), {"overlap_label": 0.5}, CellrtError, "expected overlap_label as a whole number"),
        (np.ones((5, 20, 30)), {"overlap_label": 2**31}, CellrtError, "expected overlap_label from -2147483647 to"),
        (np.ones((5, 20, 30)), {"overlap_label": -(2**31)}, CellrtError, "expected overlap_label from -2147483647 to"),
        (np.ones((5, 20, 30)), {"scale": (1, 1)}, CellrtError, "expected scale to be a positive number or three"),
        (np.ones((5, 20, 30)), {"scale": 0}, CellrtError, "expected scale to be a positive number or three"),
        (np.ones((5, 20, 30)), {"scale": (1, 1, 9e-4)}, CellrtError, "expected scale of a volume to be at least"),
        (np.ones((5, 20, 30)), {"scale": 1e-3, "normalize": None}, ImageError, "expected a rescaled volume of 1 to"),
        (NOISE, {"prob_thresh": 2}, CellrtError, "expected prob_thresh to be a number from 0 to 1"),
        (NOISE, {"tiles": (1, 2)}, CellrtError, "expected tiles as three whole"),
    ],
)
def test_what_cannot_be_segmented_is_refused(balls, array, options, error, message):
    with pytest.raises(error, match=message):
        balls.segment(array, **options)


def test_options_of_a_stream_are_checked_before_the_first_volume(balls):
    for options in ({"mode": "half"}, {"scale": (1, 1)}, {"tiles": (0, 1, 1)}, {"prob_thresh": -1}):
        with pytest.raises(CellrtError, match="expected"):
            balls.stream([], **options)


def test_a_model_of_images_refuses_a_volume():
    with pytest.raises(ImageError, match=r"expected one plane, got axis Z of length 5 .* the planes one by one"):
        cellrt.load("nuclei", providers=["cpu"]).segment(np.ones((5, 64, 64)), axes="ZYX")


def test_a_manifest_of_another_kind_is_refused(balls):
    manifest = Manifest.from_json(balls.manifest.to_json())
    assert manifest == balls.manifest
    with pytest.raises(ModelError, match="expected a head with the normalisation of its kind"):
        cellrt.StarModel3D(balls._session, cellrt.load("nuclei", providers=["cpu"]).manifest, threads=1)


def test_candidates_are_bounded(balls):
    shape, maps = (8, 16, 16), np.full((33, 8, 8, 8), 0.5, np.float32)
    options = {"shape": shape, "padded": shape, "prob_thresh": 0.1, "nms_thresh": 0.3, "threads": 1}
    everything = {"origin": (0, 0, 0), "window": (0, 8, 0, 8, 0, 8)}
    enough = Collector3D(balls.head, **options, max_candidates=64)  # 8 less 2 * 2 samples along each axis
    enough.add(maps, **everything)
    assert len(enough) == 64
    with pytest.raises(CapacityError, match="expected at most 64 candidates, got more with prob_thresh"):
        enough.add(maps, **everything)
    found = Collector3D(balls.head, **options).candidates(maps, **everything)
    with pytest.raises(CapacityError, match="expected at most 63 candidates"):
        Collector3D(balls.head, **options, max_candidates=63).take(*found)


def test_candidates_that_cannot_be_are_refused(balls):
    maps = np.full((33, 8, 8, 8), 0.5, np.float32)
    maps[5] = np.nan
    with pytest.raises(CellrtError, match="expected finite ray lengths from the network, got NaN"):
        decode(maps, balls.head, shape=(8, 16, 16), prob_thresh=0.1)
    with pytest.raises(CellrtError, match="expected 33 maps"):
        decode(maps[:20], balls.head, shape=(8, 16, 16))


def test_a_closed_stream_does_not_wait_for_a_long_suppression(balls):
    noise = np.random.default_rng(0).random((48, 192, 192), np.float32)  # every voxel is a candidate, none goes
    stream = balls.stream([noise], prob_thresh=0, nms_thresh=1.0)
    deadline = time.monotonic() + 60
    while stream.profile["network"] == 0 and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)
    start = time.monotonic()
    stream.close()
    assert time.monotonic() - start < 5
