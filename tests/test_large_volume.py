"""Volumes larger than memory: the cells of the whole, whatever the tiles; interrupted runs; sources and sinks."""

import errno
import shutil
import tracemalloc
from collections import namedtuple

import numpy as np
import pytest
import star_network_3d
from hypothesis import given, settings
from hypothesis import strategies as st
from star_network_3d import volume

import cellrt
from cellrt.errors import CapacityError, CellrtError, FileError, ImageError
from cellrt.heads import star_3d
from cellrt.instances import Polyhedra
from cellrt.large import settle
from cellrt.large import sink as sinks
from cellrt.large.files import open_image
from cellrt.large.paint import PolyhedronPainter
from cellrt.large.percentiles import percentiles
from cellrt.large.source import Source, boxes

SHAPE = (30, 70, 66)  # of most volumes of these tests
SMALL = 40_000  # voxels of a tile: two, two and four of them along the axes of such a volume
FINGERPRINT = 4**3 * 16**3 + 1  # voxels that are read to tell a volume from others


@pytest.fixture
def model():
    return cellrt.load(star_network_3d.model(), providers=["cpu"], threads=1)


def large(model, image, **options):
    """Labels and what else is known."""
    labels = np.full([side for side in np.shape(image) if side > 4], -7, np.int32)
    return labels, model.segment_large(image, labels, **options)


# ---- Equal to the whole volume ------------------------------------------------------------------------------------


@pytest.mark.parametrize("tile_voxels", [10**9, 60_000, SMALL])
@pytest.mark.parametrize("shape", [SHAPE, (65, 64, 30), (5, 70, 131)])
def test_cells_are_those_of_the_whole_volume(model, shape, tile_voxels):
    image = volume(shape)
    want = model.segment(image)
    labels, cells = large(model, image, tile_voxels=tile_voxels)
    assert len(want) > 10
    assert labels.tobytes() == want.labels.tobytes()
    for name in ("scores", "points"):
        assert np.array_equal(getattr(cells, name), getattr(want, name))
    for name in ("dist", "rays", "faces"):
        assert np.array_equal(getattr(cells.polyhedra, name), getattr(want.polyhedra, name))
    assert (cells.n_tiles == 1) == (tile_voxels >= np.prod(shape))
    assert (len(cells), cells.shape, cells.n_resumed, cells.outlines) == (len(want), shape, 0, None)
    assert repr(cells).startswith(f"LargeInstances({len(cells)} objects in {shape[0]} x {shape[1]} x {shape[2]} voxels")


@pytest.mark.parametrize("scale", [0.7, (1.5, 0.8, 0.6)])
def test_scale(model, scale):
    image = volume((45, 60, 70))
    labels, cells = large(model, image, scale=scale, tile_voxels=20_000)
    want = model.segment(image, scale=scale)
    assert cells.n_tiles > 1
    assert len(want) > 10
    assert np.array_equal(labels, want.labels)
    assert np.array_equal(cells.polyhedra.rays, want.polyhedra.rays)


@pytest.mark.parametrize("mode", ["full", "kernel", "hull", "bbox"])
@pytest.mark.parametrize("overlap_label", [None, -3, 0, 7])
def test_painting(model, mode, overlap_label, monkeypatch):
    monkeypatch.setattr(sinks, "_BLOCK", {3: (16, 32, 64)})
    image = volume((20, 50, 70))
    options = {"mode": mode, "overlap_label": overlap_label, "nms_thresh": 0.5}
    labels, cells = large(model, image, tile_voxels=SMALL, **options)
    assert cells.n_tiles > 1
    assert np.array_equal(labels, model.segment(image, **options).labels)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float32, np.float64])
def test_dtypes_and_options(model, dtype):
    image = (volume((20, 50, 70), dtype=np.float64) / 4).astype(dtype)
    for options in ({}, {"normalize": (5, 95)}, {"prob_thresh": 0.4, "nms_thresh": 0.1}):
        labels, cells = large(model, image, tile_voxels=SMALL, **options)
        assert cells.n_tiles > 1
        assert np.array_equal(labels, model.segment(image, **options).labels)
    ready = (image.astype(np.float32) - np.float32(10)) / np.float32(160)
    want = model.segment(ready, normalize=None).labels
    assert np.array_equal(large(model, ready, normalize=None, tile_voxels=SMALL)[0], want)
    assert np.array_equal(large(model, image, lowhigh=(10, 170), tile_voxels=SMALL)[0], want)


def test_axes_channels_and_classes():
    model = cellrt.load(star_network_3d.model(n_channels=2, n_classes=2), providers=["cpu"], threads=1)
    image = np.stack([volume(SHAPE, seed=1), volume(SHAPE), volume(SHAPE, seed=2)], axis=-1)
    want = model.segment(image, channels=(1, 0))
    labels = np.zeros(image.shape[:3], np.uint32)
    cells = model.segment_large(image.transpose(3, 2, 0, 1), labels, axes="CXZY", channels=(1, 0), tile_voxels=SMALL)
    assert np.array_equal(labels, want.labels)
    assert np.array_equal(cells.classes, want.classes)
    assert np.array_equal(cells.class_prob, want.class_prob)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_the_same_bytes_for_any_number_of_threads(threads):
    model = cellrt.load(star_network_3d.model(), providers=["cpu"], threads=threads)
    labels, cells = large(model, volume(SHAPE), tile_voxels=SMALL)
    one = cellrt.load(star_network_3d.model(), providers=["cpu"], threads=1)
    assert labels.tobytes() == one.segment(volume(SHAPE)).labels.tobytes()
    assert len(cells) == labels.max()


def test_candidates_are_decided_along_with_the_tiles(model, monkeypatch):
    monkeypatch.setattr(settle, "_ENOUGH", 0)
    image = volume((150, 80, 30))
    most, corners = [], []
    settled = settle.Settler.settle

    def watched(self, boundary, corner=None):
        settled(self, boundary, corner)
        most.append(sum(map(len, self._waiting)))
        corners.append(corner)

    monkeypatch.setattr(settle.Settler, "settle", watched)
    want = model.segment(image)
    labels, cells = large(model, image, tile_voxels=SMALL)
    assert np.array_equal(labels, want.labels)
    assert np.array_equal(cells.points, want.points)
    assert any(corner is None for corner in corners)
    assert any(corner is not None for corner in corners)
    candidates = star_3d_candidates(model, image)
    assert max(most) < len(candidates) / 2


def star_3d_candidates(model, image):
    """The probabilities of all candidates."""
    prob = model.predict(image)["prob"][2:-2, 2:-2, 2:-2]
    return prob[prob > model.head.prob_thresh]


def test_a_ray_that_reaches_what_was_decided_begins_anew(model, monkeypatch):
    network = model._network

    def long_rays(batch):
        outputs = network(batch)
        if batch[0, 0].max() > 2:
            outputs["maps"][0, 1:] *= 8
        return outputs

    monkeypatch.setattr(settle, "_ENOUGH", 0)
    monkeypatch.setattr(model, "_network", long_rays)
    image = volume((100, 60, 50)).astype(np.float32) / 1000
    image[-1, -1, -1] = 3
    raised = []
    settled = settle.Settler.add

    def watched(self, candidates):
        try:
            settled(self, candidates)
        except settle.LongRaysError:
            raised.append(self._settled)
            raise

    monkeypatch.setattr(settle.Settler, "add", watched)
    labels, cells = large(model, image, tile_voxels=SMALL, normalize=None)
    assert len(raised) == 1
    assert raised[0] > 0
    # Only the tiles' own candidates have long rays: a whole volume would have no others.
    assert len(cells) == labels.max()


@given(st.integers(0, 10**6))
@settings(max_examples=15)
def test_settling_changes_nothing(seed):
    """Candidates that come by boxes in row-major order survive as they do among all candidates.

    Their mean box is as long as wide as high: else the suppression's spheres know who else is there.
    """
    random = np.random.default_rng(seed)
    spec = star_network_3d.head(n_classes=1)
    shape = tuple(int(side) for side in random.integers(20, 90, 3))
    block = tuple(int(side) for side in random.integers(10, 60, 3))
    points = np.ascontiguousarray(np.argwhere(random.random(shape) < 600 / np.prod(shape)), np.int32)
    n = len(points)
    prob = (random.random(n) if seed % 2 else random.integers(5, 9, n) / 10).astype(np.float32)  # many are equal
    dist = np.repeat(random.uniform(2, 9, (n, 1)), spec.n_rays, axis=1).astype(np.float32)
    dist *= random.uniform(0.9, 1.1, dist.shape).astype(np.float32)
    class_prob = random.random((n, 2)).astype(np.float32)
    kept = star_3d.suppress(spec, prob, dist, points, nms_thresh=0.3, threads=1)
    settler = settle.Settler(spec, nms_thresh=0.3, max_candidates=10**6, along=True, threads=1)
    settler._enough = 0
    for spans in boxes(shape, block):
        settle._ENOUGH, before = 0, settle._ENOUGH
        here = np.all([(points[:, i] >= begin) & (points[:, i] < end) for i, (begin, end) in enumerate(spans)], axis=0)
        settler.add((prob[here], dist[here], points[here], class_prob[here]))
        (first, last), (_, row), (_, column) = spans
        if column == shape[2] and row == shape[1]:
            settler.settle(last)
        elif column == shape[2]:
            settler.settle(first, (last, row))
        settle._ENOUGH = before
    for got, want in zip(settler.survivors(), (prob, dist, points, class_prob), strict=True):
        assert np.array_equal(got, want[kept])


@given(st.integers(0, 10**6))
@settings(max_examples=20)
def test_painting_by_blocks_changes_nothing(seed):
    random = np.random.default_rng(seed)
    rays, faces = star_3d.directions(star_network_3d.head())
    shape, block = (tuple(int(side) for side in random.integers(1, most, 3)) for most in (60, 40))
    n = int(random.integers(0, 40))
    points = random.uniform(-10, np.array(shape) + 10, (n, 3))
    points = points if seed % 3 else np.round(points)
    dist = random.uniform(0.5, random.choice([3, 12, 80]), (n, len(rays))).astype(np.float32)
    bodies = Polyhedra(dist, rays * np.float32(random.choice([1, 1.7])), faces)
    overlap_label = [None, -5, 3][seed % 3]
    painting = star_3d.Painting(["full", "kernel", "hull", "bbox"][seed % 4], overlap_label)
    want = star_3d.paint(bodies, points, painting, origin=(0, 0, 0), shape=shape, threads=1)
    painter = PolyhedronPainter(bodies, points, painting, shape=shape, block=block, threads=1)
    sink = sinks.open_sink(np.full(shape, -7, np.int32), shape)
    sink.block = block
    sink.write(painter)
    assert np.array_equal(sink._array, want)


# ---- Sources and percentiles --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["u1", "u2", ">u2", "i2", "f2", "i4", "f4", "f8"])
@pytest.mark.parametrize("joint", [True, False])
def test_percentiles_are_numpys(dtype, joint, monkeypatch):
    monkeypatch.setattr("cellrt.large.source._BLOCK_PIXELS", 1000)
    values = np.random.default_rng(0).normal(0, 60, (2, 11, 23, 31))
    image = (abs(values) if np.dtype(dtype).kind == "u" else values).astype(dtype)
    percents = (0.0, 1.0, 50.0, 99.8, 100.0)
    source = Source(image, axes="CZYX", channels=None, n_channels=2, n_axes=3)
    got = percentiles(source, percents, joint=joint)
    native = image.astype(np.float32 if dtype == "f2" else image.dtype.newbyteorder("="))
    groups = [native] if joint else [native[:1], native[1:]]
    for group, ours in zip(groups, got, strict=True):
        assert ours.tolist() == [float(np.percentile(group, percent)) for percent in percents]


class Counting:
    """An array that notes what is read of it, and has no other way to its voxels."""

    def __init__(self, array, chunks=None):
        self._array, self.shape, self.dtype = array, array.shape, array.dtype
        self.voxels, self.largest = 0, 0
        if chunks is not None:
            self.chunks = chunks

    def __getitem__(self, index):
        block = self._array[index]
        self.voxels += block.size
        self.largest = max(self.largest, block.size)
        return block


@pytest.mark.parametrize("chunks", [None, (16, 32, 48)])
def test_voxels_are_read_in_blocks_once_a_pass(model, chunks, monkeypatch):
    monkeypatch.setattr("cellrt.large.source._BLOCK_PIXELS", SMALL)
    image = volume((60, 120, 130))
    source = Counting(image, chunks)
    seen = []
    network = model._network
    monkeypatch.setattr(model, "_network", lambda batch: seen.append(batch.size) or network(batch))
    labels, cells = large(model, source, tile_voxels=SMALL, prob_thresh=0.9)
    assert cells.n_tiles == len(seen) > 4
    assert image.size < source.voxels <= image.size + sum(seen) + FINGERPRINT
    assert source.largest <= SMALL
    assert len(cells) > 10
    assert np.array_equal(labels, model.segment(image, prob_thresh=0.9).labels)


def test_files_are_opened_in_parts(model, tmp_path):
    zarr = pytest.importorskip("zarr", reason="zarr is not installed")
    import tifffile

    image = volume(SHAPE)
    want = model.segment(image).labels
    tifffile.imwrite(tmp_path / "deflate.tif", image, compression="zlib", metadata={"axes": "ZYX"})
    tifffile.imwrite(tmp_path / "tiled.tif", image, tile=(64, 48), compression="zlib", metadata={"axes": "ZYX"})
    tifffile.imwrite(tmp_path / "plain.ome.tif", image, metadata={"axes": "ZYX"})
    np.save(tmp_path / "array.npy", image)
    group = zarr.create_group(tmp_path / "image.zarr")
    full = group.create_array("0", shape=(1, 1, *image.shape), chunks=(1, 1, 16, 32, 32), dtype=image.dtype)
    full[:] = image[np.newaxis, np.newaxis]
    group.attrs["multiscales"] = [{"axes": [{"name": name} for name in "tczyx"], "datasets": [{"path": "0"}]}]
    for name, axes in (
        ("deflate.tif", "ZYX"),
        ("tiled.tif", "ZYX"),
        ("plain.ome.tif", "ZYX"),
        ("array.npy", None),
        ("image.zarr", "TCZYX"),
    ):
        with open_image(tmp_path / name) as (voxels, found):
            assert found == axes or (name == "array.npy" and found is not None)
            options = {} if name == "array.npy" else {"axes": found}
            assert np.array_equal(large(model, voxels, tile_voxels=SMALL, **options)[0], want), name


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("options", [{}, {"normalize": None}])
def test_voxels_that_are_not_finite_are_found(model, value, options):
    image = volume(SHAPE).astype(np.float32)
    image[23, 50, 40] = value
    where = r"got NaN or infinity in planes (\d+) to (\d+), rows (\d+) to (\d+), columns (\d+) to (\d+); replace"
    with pytest.raises(ImageError, match=where) as info:
        large(model, image, tile_voxels=SMALL, **options)
    import re

    found = [int(number) for number in re.search(where, str(info.value)).groups()]
    assert all(begin <= at <= end for begin, at, end in zip(found[::2], (23, 50, 40), found[1::2], strict=True))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (np.zeros((64, 64), np.uint8), "expected a volume with 3 or 4 axes"),
        (np.zeros((0, 64, 64), np.uint8), "with pixels"),
        (np.zeros((8, 64, 64, 3), np.uint8), "choose among its channels"),
        (np.zeros((2, 8, 64, 64, 1), np.uint8), "name them, for example axes='TCZYX'"),
        ([[[1, 2], [3, 4]]], "expected an image with shape, dtype and slices, got list"),
        (np.full((9, 70, 70), 7, np.uint16), "expected contrast between percentiles 1 and 99.8, got both 7"),
    ],
)
def test_bad_sources_are_refused(model, source, message):
    with pytest.raises(ImageError, match=message):
        model.segment_large(source, np.zeros((9, 70, 70), np.int32))


# ---- Sinks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["labels.tif", "labels.ome.tif", "labels.zarr"])
def test_files(model, tmp_path, name, monkeypatch):
    import tifffile

    zarr = pytest.importorskip("zarr", reason="zarr is not installed")
    monkeypatch.setattr(sinks, "_TIFF_TILE", 64)
    monkeypatch.setattr(sinks, "_BLOCK", {2: (64, 64), 3: (16, 32, 64)})
    image = volume(SHAPE)
    want = model.segment(image).labels
    # slabs of one plane, of some planes, of all
    for slab in (1, 7 * 70 * 66, 1 << 30):  # an older result is replaced
        monkeypatch.setattr(sinks, "_TIFF_SLAB", slab)
        assert model.segment_large(image, tmp_path / name, tile_voxels=SMALL).n_resumed == 0
        if name.endswith("zarr"):
            labels = zarr.open(tmp_path / name, mode="r")
            assert labels.dtype == np.uint32
            assert labels.chunks == (16, 32, 64)
            assert labels.metadata.dimension_names == ("z", "y", "x")
            assert np.array_equal(labels[:], want)
        else:
            with tifffile.TiffFile(tmp_path / name) as tif:
                assert tif.is_bigtiff
                assert tif.is_ome
                assert tif.series[0].axes == "ZYX"
                assert len(tif.pages) == len(image)
                assert tif.pages[0].is_tiled
                assert tif.pages[0].dtype == np.uint32
                assert np.array_equal(tif.asarray(), want)
        with open_image(tmp_path / name) as (voxels, axes):
            assert axes == "ZYX"
            assert np.array_equal(np.asarray(voxels[:]), want)
    assert {path.name for path in tmp_path.iterdir()} == {name}


def test_maps_and_chunked_arrays(model, tmp_path):
    zarr = pytest.importorskip("zarr", reason="zarr is not installed")
    image = volume(SHAPE)
    want = model.segment(image).labels
    mapped = np.lib.format.open_memmap(tmp_path / "labels.npy", "w+", np.uint32, image.shape)
    chunked = zarr.create_array(tmp_path / "mine.zarr", shape=image.shape, chunks=(7, 40, 50), dtype="uint64")
    for sink in (mapped, chunked):
        model.segment_large(image, sink, tile_voxels=SMALL)
        assert np.array_equal(sink[:], want)


def test_bad_sinks_are_refused_before_any_work(model, tmp_path, monkeypatch):
    image = volume(SHAPE)
    runs = []
    monkeypatch.setattr(model, "_network", runs.append)
    for sink, options, error, message in (
        (np.zeros((3, 4), np.int32), {}, CellrtError, r"shape \(30, 70, 66\) for the labels, got int32 \(3, 4\)"),
        (np.zeros(image.shape, np.uint16), {}, CellrtError, "expected an array of int32"),
        ("labels.png", {}, FileError, "expected a path that ends in .tif, .tiff or .zarr"),
        (np.zeros(image.shape, np.uint32), {"overlap_label": -1}, CellrtError, "overlap_label of at least 0"),
        (tmp_path / "labels.tif", {"overlap_label": -1}, CellrtError, "labels without a sign, got -1; choose another"),
    ):
        with pytest.raises(error, match=message):
            model.segment_large(image, sink, **options)
    assert not runs
    assert not list(tmp_path.iterdir())


def test_a_disk_that_is_too_small_is_refused_before_any_work(model, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    runs = []
    monkeypatch.setattr(model, "_network", runs.append)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**6, 10**6 - 1000, 1000))
    with pytest.raises(FileError, match=r"expected at least 1 MB of free space for .*labels.tif, got 1 MB; free space"):
        model.segment_large(volume((40, 90, 110)), tmp_path / "labels.tif")
    assert not runs
    assert not list(tmp_path.iterdir())


# ---- Options ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lowhigh": (5, 5)}, "expected lowhigh as two grey values that rise"),
        ({"tile_voxels": 0}, "expected tile_voxels as a whole number"),
        ({"prob_thresh": 2}, "expected prob_thresh"),
        ({"nms_thresh": "low"}, "expected nms_thresh"),
        ({"scale": (1, 2)}, "expected scale to be a positive number or three"),
        ({"scale": 1e-3}, "expected a rescaled image with sides"),
        ({"scale": 1e-9}, "expected scale of a volume to be at least 1/1024"),
        ({"normalize": (1, 2, 3)}, "expected normalize"),
        ({"mode": "fast"}, "expected mode to be one of full, kernel, hull, bbox, got 'fast'"),
        ({"overlap_label": 1.5}, "expected overlap_label as a whole number"),
        ({"max_candidates": 0}, "expected max_candidates from 1 to 4194304, a whole number, got 0"),
        ({"max_candidates": 10**8}, "expected max_candidates from 1 to 4194304, a whole number, got 100000000"),
        ({"max_candidates": 2.5}, "a whole number, got 2.5"),
        ({"max_candidates": "9"}, "a whole number, got '9'"),
    ],
)
def test_bad_options_are_refused(model, options, message):
    with pytest.raises(CellrtError, match=message):
        large(model, volume(SHAPE), **options)


def test_more_candidates_than_allowed(model):
    with pytest.raises(CapacityError, match="expected at most 10 candidates"):
        large(model, volume(SHAPE), max_candidates=10)
    with pytest.raises(CapacityError, match="expected at most 500 candidates at a time"):
        large(model, volume(SHAPE), max_candidates=500, tile_voxels=3000)


def test_a_memory_limit_decides_on_tiles():
    image = volume((80, 160, 160))
    for memory, is_one in (("2GB", True), ("1050MB", False)):
        model = cellrt.load(star_network_3d.model(), providers=["cpu"], threads=1, memory=memory)
        cells = large(model, image, prob_thresh=1.0)[1]  # tiles are those of any number of cells
        assert (cells.n_tiles == 1) == is_one


# ---- Interrupted runs ---------------------------------------------------------------------------------------------


def interrupt_at(monkeypatch, model, count, error=KeyboardInterrupt):
    """Let the network fail at its count-th run from now on; gives the list of its runs."""
    inner, runs = model._network, []

    def run(batch):
        if len(runs) == count:
            raise error
        runs.append(batch.shape)
        return inner(batch)

    monkeypatch.setattr(model, "_network", run)
    return runs


def test_an_interrupted_run_continues(model, tmp_path, monkeypatch):
    image, sink = volume(SHAPE), tmp_path / "labels.tif"
    want = model.segment(image)
    n_tiles = large(model, image, tile_voxels=SMALL)[1].n_tiles
    with monkeypatch.context() as patch:
        interrupt_at(patch, model, 4)
        with pytest.raises(KeyboardInterrupt):
            model.segment_large(image, sink, tile_voxels=SMALL)
    assert {path.name for path in tmp_path.iterdir()} == {"labels.tif.progress"}
    names = sorted(path.name for path in (tmp_path / "labels.tif.progress").iterdir())
    assert names == ["plan.json", "run.lock", *(f"tile_00000{i}.npz" for i in range(4))]
    # A tile that did not reach the disk whole is computed again.
    damaged = tmp_path / "labels.tif.progress" / "tile_000001.npz"
    damaged.write_bytes(damaged.read_bytes()[:200])
    runs = interrupt_at(monkeypatch, model, -1)
    source = Counting(image)
    seen = []
    cells = model.segment_large(source, sink, tile_voxels=SMALL, progress=lambda *numbers: seen.append(numbers))
    assert (cells.n_resumed, len(runs)) == (3, n_tiles - 3)
    # What those tiles read, and the fingerprint: the percentiles are known.
    assert source.voxels <= sum(int(np.prod(shape)) for shape in runs) + FINGERPRINT
    assert seen == [(i + 1, n_tiles) for i in range(n_tiles)]
    import tifffile

    assert np.array_equal(tifffile.imread(sink), want.labels)
    assert np.array_equal(cells.polyhedra.dist, want.polyhedra.dist)
    assert {path.name for path in tmp_path.iterdir()} == {"labels.tif"}


def test_other_options_for_labels_continue_the_same_run(model, tmp_path, monkeypatch):
    """What tiles do not depend on may change: they are not computed again."""
    image, work = volume(SHAPE), tmp_path / "work"
    with monkeypatch.context() as patch:
        interrupt_at(patch, model, 4)
        with pytest.raises(KeyboardInterrupt):
            large(model, image, tile_voxels=SMALL, work=work)
    options = {"mode": "hull", "overlap_label": -1, "nms_thresh": 0.2}
    labels, cells = large(model, image, tile_voxels=SMALL, work=work, **options)
    assert cells.n_resumed == 4
    assert np.array_equal(labels, model.segment(image, **options).labels)


@pytest.mark.parametrize(
    ("change", "named"),
    [({"prob_thresh": 0.3}, "prob_thresh"), ({"tile_voxels": 60_000}, "tiles"), ({"scale": 1.5}, "scale, tiles")],
)
def test_a_work_folder_of_another_run_is_refused(model, tmp_path, monkeypatch, change, named):
    options = {"tile_voxels": SMALL, "work": tmp_path / "work"}
    with monkeypatch.context() as patch:
        interrupt_at(patch, model, 2)
        with pytest.raises(KeyboardInterrupt):
            large(model, volume(SHAPE), **options)
    with pytest.raises(FileError, match=f"of this run, got one of another: {named} differ; remove it to start anew"):
        large(model, volume(SHAPE), **options | change)
    with pytest.raises(FileError, match="got one of another: image differ"):
        large(model, volume(SHAPE, seed=1), **options)
    assert large(model, volume(SHAPE), **options)[1].n_resumed == 2


def test_a_full_disk_can_be_mended(model, tmp_path, monkeypatch):
    save, saved = np.savez, []

    def full(file, **arrays):
        if len(saved) == 3:
            file.write(b"some")
            raise OSError(errno.ENOSPC, "No space left on device")
        saved.append(arrays)
        save(file, **arrays)

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", full)
        with pytest.raises(FileError, match=r"No space left on device; free space there"):
            model.segment_large(volume(SHAPE), tmp_path / "l.tif", tile_voxels=SMALL)
    left = {path.name for path in (tmp_path / "l.tif.progress").iterdir()}
    assert left == {"plan.json", "run.lock", "tile_000000.npz", "tile_000001.npz", "tile_000002.npz"}
    assert model.segment_large(volume(SHAPE), tmp_path / "l.tif", tile_voxels=SMALL).n_resumed == 3


@pytest.mark.parametrize("name", ["labels.tif", "labels.zarr"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(errno.ENOSPC, "No space left on device")])
def test_an_interrupted_sink_leaves_nothing_behind(model, tmp_path, monkeypatch, name, error):
    if name.endswith("zarr"):
        pytest.importorskip("zarr", reason="zarr is not installed")
    older = model.segment_large(volume(SHAPE, seed=1), tmp_path / name, tile_voxels=SMALL)
    calls = []
    paint = PolyhedronPainter.__call__

    def fail(self, *spans):
        calls.append(spans)
        if len(calls) == 2:
            raise error
        return paint(self, *spans)

    with monkeypatch.context() as patch:
        patch.setattr(PolyhedronPainter, "__call__", fail)
        patch.setattr(sinks, "_TIFF_TILE", 64)
        patch.setattr(sinks, "_BLOCK", {3: (16, 64, 64)})
        with pytest.raises(KeyboardInterrupt if error is KeyboardInterrupt else FileError):
            model.segment_large(volume(SHAPE), tmp_path / name, tile_voxels=SMALL)
    assert {path.name for path in tmp_path.iterdir()} == {name, f"{name}.progress"}
    runs = interrupt_at(monkeypatch, model, -1)
    cells = model.segment_large(volume(SHAPE), tmp_path / name, tile_voxels=SMALL)
    assert not runs
    assert cells.n_resumed == cells.n_tiles == older.n_tiles


def test_volumes_without_objects(model, tmp_path):
    import tifffile

    cells = model.segment_large(volume(SHAPE), tmp_path / "none.tif", prob_thresh=1.0, tile_voxels=SMALL)
    assert len(cells) == len(cells.polyhedra) == 0
    assert cells.points.shape == (0, 3)
    labels = tifffile.imread(tmp_path / "none.tif")
    assert labels.shape == SHAPE
    assert not labels.any()


# ---- Memory -------------------------------------------------------------------------------------------------------


def test_memory_does_not_grow_with_the_volume(model, monkeypatch):
    """What Python and numpy hold: some blocks, the candidates that wait, the objects. Labels would be 36 MB."""
    monkeypatch.setattr(settle, "_ENOUGH", 2000)
    monkeypatch.setattr(sinks, "_BLOCK", {3: (16, 64, 64)})
    monkeypatch.setattr("cellrt.large.source._BLOCK_PIXELS", 1 << 18)
    peaks = []
    for depth in (60, 6 * 60):
        tile = volume((60, 140, 180))

        class Repeated:
            shape, dtype = (depth, 140, 180), tile.dtype

            def __getitem__(self, index):
                planes = np.arange(*index[0].indices(self.shape[0])) % 60
                return tile[planes][:, index[1], index[2]]  # noqa: B023

        class Nowhere:
            shape, dtype = (depth, 140, 180), np.dtype(np.int32)

            def __setitem__(self, index, block):
                assert block.size <= 16 * 64 * 64

        tracemalloc.start()
        options = {"tile_voxels": 150_000, "lowhigh": (0, 1000), "prob_thresh": 0.9}
        cells = model.segment_large(Repeated(), Nowhere(), **options)
        peaks.append(tracemalloc.get_traced_memory()[1] - 8 * (star_network_3d.N_RAYS + 8) * len(cells))
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0] + 3e6
