"""Images larger than memory: the cells of the whole image, whatever the tiles; interrupted runs; sources and sinks."""

import errno
import json
import tracemalloc
from dataclasses import replace

import flow_network
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage import measure
from test_minimal import blobs

import cellrt
from cellrt import flow_decoding, kernels, metrics
from cellrt.errors import CapacityError, CellrtError, FileError, ImageError
from cellrt.heads import flow
from cellrt.image import as_image
from cellrt.large import settle
from cellrt.large import sink as sinks
from cellrt.large.files import open_image
from cellrt.large.flow import FlowRun
from cellrt.large.flow import segment as segment_flow
from cellrt.large.paint import PolygonPainter
from cellrt.large.percentiles import percentiles
from cellrt.large.source import Source
from cellrt.manifest import InputSpec, Normalize99Spec, StarSpec, TileSpec

SMALL = 40_000  # pixels of a tile: several to an image of these tests
FINGERPRINT = 8 * 8 * 64 * 64 + 1  # pixels that are read to tell an image from others


def pointwise(batch):
    """A stand-in for the network of "nuclei": its maps know one pixel each, so that tiles cannot matter to a bit."""
    pixels = batch[0, 0, ::2, ::2]
    maps = np.empty((33, *pixels.shape), np.float32)
    maps[0] = np.clip(pixels, 0, 1) * np.float32(0.99)
    maps[1:] = 4 + 5 * maps[0] + np.sin(np.arange(32, dtype=np.float32))[:, None, None]
    return {"maps": maps[np.newaxis]}


def textured(shape=(301, 407), seed=0, dtype=np.uint16):
    """Bright spots of all sizes on noise, some of which the stand-in takes for cells."""
    random = np.random.default_rng(seed)
    rough = random.random((shape[0] // 8 + 2, shape[1] // 8 + 2))
    smooth = np.kron(rough, np.ones((8, 8)))[: shape[0], : shape[1]]
    return (1000 * smooth**2 + 20 * random.random(shape)).astype(dtype)


@pytest.fixture
def toy(monkeypatch):
    """A star model with the stand-in, and how often it ran."""
    model = cellrt.load("nuclei", providers=["cpu"], threads=1)
    head = StarSpec(n_rays=32, grid=(2, 2), prob_thresh=0.6, nms_thresh=0.3)
    tile = TileSpec(multiple=(16, 16), receptive_field=(94, 94), halo=(94, 94))
    manifest = replace(model.manifest, head=head, tile=tile, input=InputSpec(n_channels=1), selftest=None)
    monkeypatch.setattr(model, "head", head)
    monkeypatch.setattr(model, "manifest", manifest)
    runs = []
    monkeypatch.setattr(model, "_network", lambda batch: runs.append(batch.shape) or pointwise(batch))
    model.runs = runs
    return model


@pytest.fixture(scope="module")
def flow_model():
    return cellrt.load(flow_network.model(), providers=["cpu"], threads=1)


def large(model, image, **options):
    """Labels and what else is known."""
    plane = [side for side in np.shape(image) if side > 4]
    labels = np.full(plane, -1, np.int32)
    return labels, model.segment_large(image, labels, **options)


# ---- Star models: equal to the whole image ------------------------------------------------------------------------


@pytest.mark.parametrize("tile_pixels", [10**9, 60_000, 40_000])
@pytest.mark.parametrize("shape", [(301, 407), (512, 320), (64, 900)])
def test_star_cells_are_those_of_the_whole_image(toy, shape, tile_pixels):
    image = textured(shape)
    want = toy.segment(image)
    labels, cells = large(toy, image, tile_pixels=tile_pixels)
    assert len(want) > 20
    assert labels.tobytes() == want.labels.tobytes()
    for name in ("scores", "points"):
        assert np.array_equal(getattr(cells, name), getattr(want, name))
    assert all(np.array_equal(ours, theirs) for ours, theirs in zip(cells.outlines, want.outlines, strict=True))
    assert cells.n_tiles == 1 or tile_pixels < 10**9
    assert (len(cells), cells.shape, cells.n_resumed) == (len(want), shape, 0)


@pytest.mark.parametrize("scale", [0.5, 1.4, (1.3, 0.7)])
def test_star_scale(toy, scale):
    image = textured((457, 691))
    labels, cells = large(toy, image, scale=scale, tile_pixels=SMALL)
    assert cells.n_tiles > 1
    assert np.array_equal(labels, toy.segment(image, scale=scale).labels)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float32, np.float64])
def test_star_dtypes_and_options(toy, dtype):
    image = textured(dtype=np.float64) / 4
    image = image.astype(dtype)
    for options in ({}, {"normalize": (5, 95)}, {"prob_thresh": 0.4, "nms_thresh": 0.1}):
        labels, cells = large(toy, image, tile_pixels=SMALL, **options)
        assert np.array_equal(labels, toy.segment(image, **options).labels)
        assert cells.n_tiles > 1


def test_star_grey_values_and_normalised_input(toy):
    image = textured().astype(np.float32)
    ready = (image - np.float32(100)) / np.float32(600)
    want = toy.segment(ready, normalize=None).labels
    assert np.array_equal(large(toy, ready, normalize=None, tile_pixels=SMALL)[0], want)
    assert np.array_equal(large(toy, image, lowhigh=(100, 700), tile_pixels=SMALL)[0], want)


def test_star_with_the_network():
    """Where its convolutions round the same at every size, to the byte; else but for a pixel here and there."""
    model = cellrt.load("nuclei", providers=["cpu"])
    image, n_nuclei = blobs(side=640)
    want = model.segment(image)
    labels, cells = large(model, image, tile_pixels=80_000)
    assert cells.n_tiles > 1
    assert len(cells) == len(want) == n_nuclei
    assert metrics.matching(want.labels, labels, threshold=0.9).tp == n_nuclei
    assert np.mean(labels > 0) == pytest.approx(np.mean(want.labels > 0), abs=1e-4)


def test_candidates_are_decided_along_with_the_tiles(toy, monkeypatch):
    monkeypatch.setattr(settle, "_ENOUGH", 0)
    image = textured((900, 200))
    most = []
    settled = settle.Settler.settle
    monkeypatch.setattr(
        settle.Settler,
        "settle",
        lambda self, boundary: (settled(self, boundary), most.append(sum(map(len, self._waiting)))),
    )
    labels, _ = large(toy, image, tile_pixels=SMALL)
    want = toy.segment(image)
    assert np.array_equal(labels, want.labels)
    assert max(most) < 40 * len(want)


def test_long_rays_are_decided_at_the_end(toy, monkeypatch):
    def long_rays(batch):
        outputs = pointwise(batch)
        outputs["maps"][0, 1:] *= np.where(outputs["maps"][0, 0] > 0.97, 80, 1)
        return outputs

    monkeypatch.setattr(settle, "_ENOUGH", 0)
    monkeypatch.setattr(toy, "_network", long_rays)
    image = textured((700, 200))
    assert np.array_equal(large(toy, image, tile_pixels=SMALL)[0], toy.segment(image).labels)


@given(st.integers(0, 10**6))
@settings(max_examples=15)
def test_settling_changes_nothing(seed):
    random = np.random.default_rng(seed)
    spec = StarSpec(n_rays=8, grid=(1, 1), prob_thresh=0.5, nms_thresh=0.3, n_classes=1)
    height, width, step = int(random.integers(200, 900)), int(random.integers(20, 90)), int(random.integers(40, 400))
    points = np.ascontiguousarray(np.argwhere(random.random((height, width)) < 0.02), np.int32)
    n = len(points)
    prob = (random.random(n) if seed % 2 else random.integers(5, 9, n) / 10).astype(np.float32)  # many are equal
    dist = (random.uniform(2, 15) * random.uniform(0.7, 1.3, (n, 8))).astype(np.float32)
    class_prob = random.random((n, 2)).astype(np.float32)
    whole = kernels.StarNms2D(8, 2, 10**6)
    whole.add(prob, dist, points, class_prob)
    settler = settle.Settler(spec, nms_thresh=0.3, max_candidates=10**6, along=True, threads=1)
    settler._enough = 0
    for y in range(0, height, step):
        settle._ENOUGH, before = 0, settle._ENOUGH
        here = (points[:, 0] >= y) & (points[:, 0] < y + step)
        settler.add((prob[here], dist[here], points[here], class_prob[here]))
        settler.settle(y + step)
        settle._ENOUGH = before
    for got, want in zip(settler.survivors(), whole.survivors(0.3, 10**9, 1), strict=True):
        assert np.array_equal(got, want)


@given(st.integers(0, 10**6))
@settings(max_examples=20)
def test_painting_by_blocks_changes_nothing(seed):
    random = np.random.default_rng(seed)
    shape = tuple(int(side) for side in random.integers(1, 300, 2))
    block = tuple(int(side) for side in random.integers(1, 150, 2))
    n, n_rays = int(random.integers(0, 100)), int(random.integers(3, 20))
    centres = random.uniform(-20, np.array(shape) + 20, (n, 1, 2))
    rays = random.uniform(0.5, random.choice([5, 30, 300]), (n, n_rays))
    angles = np.arange(n_rays) * 2 * np.pi / n_rays
    coords = centres + np.stack([rays * np.sin(angles), rays * np.cos(angles)], axis=-1)
    coords = (coords if seed % 3 else np.round(coords * 2) / 2).astype(np.float32)  # on edges, every third time
    order = random.permutation(n).astype(np.int64)
    offsets = np.arange(n + 1, dtype=np.int64) * n_rays
    want = kernels.paint_polygons_2d(coords.reshape(-1, 2), offsets, order, shape=shape, threads=1)
    painter = PolygonPainter(coords, order, shape=shape, block=block, threads=1)
    got = np.full(shape, -1)
    sink = sinks.open_sink(got.astype(np.int32), shape)
    sink.block = block
    sink.write(painter)
    assert np.array_equal(sink._array, want)


# ---- Percentiles and sources --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["?", "u1", "i1", "u2", ">u2", "i2", "f2", "u4", "i4", "f4", "u8", "i8", "f8"])
@pytest.mark.parametrize("joint", [True, False])
def test_percentiles_are_numpys(dtype, joint):
    values = np.random.default_rng(0).normal(0, 60, (2, 61, 83))
    image = (abs(values) if np.dtype(dtype).kind in "bu" else values).astype(dtype)
    image[0, :3] = 0  # and -0.0 among the floats
    percents = (0.0, 1.0, 50.0, 99.8, 100.0)
    got = percentiles(Source(image, axes="CYX", channels=None, n_channels=2), percents, joint=joint)
    pixels = as_image(image, "CYX", n_channels=2)
    groups = [pixels] if joint else [pixels[:1], pixels[1:]]
    for group, ours in zip(groups, got, strict=True):
        assert ours.tolist() == [float(np.percentile(group, percent)) for percent in percents]


class Counting:
    """An array that notes what is read of it, and has no other way to its pixels."""

    def __init__(self, array, chunks=None):
        self._array, self.shape, self.dtype = array, array.shape, array.dtype
        self.pixels, self.largest, self.indices = 0, 0, []
        if chunks is not None:
            self.chunks = chunks

    def __getitem__(self, index):
        block = self._array[index]
        self.indices.append(index)
        self.pixels += block.size
        self.largest = max(self.largest, block.size)
        return block


@pytest.mark.parametrize("chunks", [None, (128, 96)])
def test_pixels_are_read_in_blocks_once_a_pass(toy, chunks):
    image = textured((700, 620))
    source = Counting(image, chunks)
    labels, cells = large(toy, source, tile_pixels=90_000)
    assert np.array_equal(labels, toy.segment(image).labels)
    assert cells.n_tiles >= 4
    halos = sum(shape[2] * shape[3] for shape in toy.runs[: cells.n_tiles])
    assert image.size < source.pixels <= image.size + halos + FINGERPRINT
    assert source.largest <= max(90_000, 1 << 20)


def test_axes_and_channels(toy):
    image = textured()
    want = toy.segment(image).labels
    stack = np.stack([image * 0, image, image + 5], axis=-1)
    assert np.array_equal(large(toy, stack, channels=1, tile_pixels=SMALL)[0], want)
    source = Counting(stack.transpose(2, 0, 1)[:, np.newaxis])
    labels = np.zeros(image.shape, np.uint32)
    toy.segment_large(source, labels, axes="CZYX", channels=[1], tile_pixels=SMALL)
    assert np.array_equal(labels, want)
    assert all(index[0] == slice(1, 2) for index in source.indices)  # one channel of three


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        (np.zeros((0, 64), np.uint8), ImageError, "with pixels"),
        (np.zeros((64, 64), "U1"), ImageError, "image of numbers"),
        (np.zeros((64, 64, 3), np.uint8), ImageError, "choose among its channels"),
        ([[1, 2], [3, 4]], ImageError, "expected an image with shape, dtype and slices, got list"),
        (np.full((70, 70), 7, np.uint16), ImageError, "expected contrast between percentiles 1 and 99.8, got both 7"),
    ],
)
def test_bad_sources_are_refused(toy, source, error, message):
    with pytest.raises(error, match=message):
        toy.segment_large(source, np.zeros((64, 64) if np.shape(source) != (70, 70) else (70, 70), np.int32))


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("options", [{}, {"normalize": None}])
def test_pixels_that_are_not_finite_are_found(toy, value, options):
    image = textured().astype(np.float32)
    image[250, 300] = value
    with pytest.raises(ImageError, match=r"got NaN or infinity in rows \d+ to \d+, columns \d+ to \d+; replace"):
        large(toy, image, tile_pixels=SMALL, **options)


def test_zarr_and_tiff(toy, tmp_path):
    zarr = pytest.importorskip("zarr", reason="zarr is not installed")
    import tifffile

    image = textured()
    want = toy.segment(image).labels
    source = zarr.create_array(tmp_path / "source.zarr", shape=image.shape, chunks=(100, 128), dtype=image.dtype)
    source[:] = image
    for _ in range(2):  # an older result is replaced
        assert toy.segment_large(source, tmp_path / "labels.zarr", tile_pixels=SMALL).n_resumed == 0
        toy.segment_large(source, tmp_path / "labels.tif", tile_pixels=SMALL)
    labels = zarr.open(tmp_path / "labels.zarr", mode="r")
    assert labels.dtype == np.uint32
    assert np.array_equal(labels[:], want)
    with tifffile.TiffFile(tmp_path / "labels.tif") as tif:
        assert tif.is_bigtiff
        assert tif.pages[0].is_tiled
        assert tif.pages[0].dtype == np.uint32
        assert np.array_equal(tif.asarray(), want)
    assert {path.name for path in tmp_path.iterdir()} == {"source.zarr", "labels.zarr", "labels.tif"}
    with pytest.raises(FileError, match="expected a new file or an older label image of cellrt"):
        toy.segment_large(image, tmp_path / "source.zarr")


def test_files_are_opened_in_parts(toy, tmp_path):
    zarr = pytest.importorskip("zarr", reason="zarr is not installed")
    import tifffile

    image = textured()
    want = toy.segment(image).labels
    tifffile.imwrite(tmp_path / "tiled.tif", image, tile=(64, 80), compression="zlib", metadata={"axes": "YX"})
    tifffile.imwrite(tmp_path / "plain.tif", image)
    np.save(tmp_path / "array.npy", image)
    group = zarr.create_group(tmp_path / "image.zarr")
    full = group.create_array("full", shape=(1, *image.shape), chunks=(1, 100, 128), dtype=image.dtype)
    full[:] = image[np.newaxis]
    group.attrs["ome"] = {
        "multiscales": [{"axes": [{"name": name} for name in "cyx"], "datasets": [{"path": "full"}, {"path": "half"}]}]
    }
    for name, axes in (("tiled.tif", "YX"), ("plain.tif", "YX"), ("array.npy", "YX"), ("image.zarr", "CYX")):
        with open_image(tmp_path / name) as (pixels, found):
            assert found == axes
            assert name == "array.npy" or not isinstance(pixels, np.ndarray) or isinstance(pixels, np.memmap)
            labels = np.zeros(image.shape, np.int32)
            toy.segment_large(pixels, labels, axes=found, tile_pixels=SMALL)
        assert np.array_equal(labels, want)
    (tmp_path / "empty").mkdir()
    for name, message in (("empty", "expected a zarr array or OME-Zarr"), ("none.tif", "none.tif")):
        with pytest.raises(FileError, match=message), open_image(tmp_path / name):
            pass


# ---- Sinks and options that are refused ---------------------------------------------------------------------------


def test_bad_sinks_are_refused_before_any_work(toy, tmp_path):
    image = textured()
    frozen = np.zeros(image.shape, np.int32)
    frozen.flags.writeable = False
    slide = tmp_path / "slide.tif"
    slide.write_bytes(b"II*\0 somebody's slide")
    (tmp_path / "file").write_bytes(b"")
    for sink, error, message in (
        (np.zeros((3, 4), np.int32), CellrtError, r"shape \(301, 407\) for the labels, got int32 \(3, 4\)"),
        (np.zeros(image.shape, np.uint16), CellrtError, "expected an array of int32"),
        (np.zeros(image.shape, np.float32), CellrtError, "expected an array of int32"),
        (frozen, CellrtError, "read-only"),
        ("labels.png", FileError, "expected a path that ends in .tif, .tiff or .zarr"),
        (5, CellrtError, "expected a path or an array"),
        (slide, FileError, "got something else; choose another name"),
        (tmp_path / "file" / "labels.tif", FileError, "expected a folder that can be written to"),
    ):
        with pytest.raises(error, match=message):
            toy.segment_large(image, sink)
    assert not toy.runs
    assert slide.read_bytes().endswith(b"slide")
    assert {path.name for path in tmp_path.iterdir()} == {"slide.tif", "file"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lowhigh": (5, 5)}, "expected lowhigh as two grey values that rise"),
        ({"lowhigh": 5}, "expected lowhigh"),
        ({"tile_pixels": 0}, "expected tile_pixels as a whole number"),
        ({"tile_pixels": 1e6}, "expected tile_pixels"),
        ({"prob_thresh": 2}, "expected prob_thresh"),
        ({"nms_thresh": "low"}, "expected nms_thresh"),
        ({"scale": -1}, "expected scale"),
        ({"scale": 1e-9}, "expected a rescaled image with sides"),
        ({"normalize": (1, 2, 3)}, "expected normalize"),
        ({"max_candidates": 0}, "expected max_candidates from 1 to 4294967295, a whole number, got 0"),
        ({"max_candidates": 2.5}, "a whole number, got 2.5"),
        ({"max_candidates": None}, "a whole number, got None"),
        ({"max_candidates": 2**32}, "a whole number, got 4294967296"),
    ],
)
def test_bad_options_are_refused(toy, options, message):
    with pytest.raises(CellrtError, match=message):
        large(toy, textured(), **options)
    assert not toy.runs


def test_more_candidates_than_allowed(toy):
    with pytest.raises(CapacityError, match="expected at most 10 candidates"):
        large(toy, textured(), max_candidates=10)


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


def test_an_interrupted_run_continues(toy, tmp_path, monkeypatch):
    image, sink = textured(), tmp_path / "labels.tif"
    want = toy.segment(image)
    n_tiles = large(toy, image, tile_pixels=SMALL)[1].n_tiles
    with monkeypatch.context() as patch:
        interrupt_at(patch, toy, 3)
        with pytest.raises(KeyboardInterrupt):
            toy.segment_large(image, sink, tile_pixels=SMALL)
    assert {path.name for path in tmp_path.iterdir()} == {"labels.tif.progress"}
    names = {path.name for path in (tmp_path / "labels.tif.progress").iterdir()}
    assert names == {"plan.json", "run.lock", "tile_000000.npz", "tile_000001.npz", "tile_000002.npz"}
    # A tile that did not reach the disk whole is computed again.
    damaged = tmp_path / "labels.tif.progress" / "tile_000001.npz"
    damaged.write_bytes(damaged.read_bytes()[:200])
    toy.runs.clear()
    source = Counting(image)
    seen = []
    cells = toy.segment_large(source, sink, tile_pixels=SMALL, progress=lambda *numbers: seen.append(numbers))
    assert (cells.n_resumed, len(toy.runs)) == (2, n_tiles - 2)
    # What those tiles read, and the fingerprint: the percentiles are known.
    assert source.pixels <= sum(shape[2] * shape[3] for shape in toy.runs) + FINGERPRINT
    assert seen == [(i + 1, n_tiles) for i in range(n_tiles)]
    import tifffile

    assert np.array_equal(tifffile.imread(sink), want.labels)
    assert np.array_equal(cells.scores, want.scores)
    assert {path.name for path in tmp_path.iterdir()} == {"labels.tif"}


def test_an_interrupted_flow_run_continues(flow_model, tmp_path, monkeypatch):
    image, _ = flow_network.image((200, 260))
    options = {"diameter": 16.0, "halo": 32, "tile_pixels": 110 * 110, "work": tmp_path / "work"}
    want, whole = large(flow_model, image, **options)
    with monkeypatch.context() as patch:
        interrupt_at(patch, flow_model, 4)
        with pytest.raises(KeyboardInterrupt):
            large(flow_model, image, **options)
    assert len(list((tmp_path / "work").glob("tile_*.npz"))) == 4
    labels, cells = large(flow_model, image, **options)
    assert (cells.n_resumed, cells.n_tiles) == (4, whole.n_tiles)
    assert np.array_equal(labels, want)
    assert np.array_equal(cells.points, whole.points)
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"prob_thresh": 0.3}, "prob_thresh"),
        ({"tile_pixels": 60_000}, "tiles"),
        ({"normalize": (2, 99)}, "normalize"),
        ({"image": 1}, "image"),
    ],
)
def test_a_work_folder_of_another_run_is_refused(toy, tmp_path, monkeypatch, change, named):
    options = {"image": 0, "tile_pixels": SMALL, "work": tmp_path / "work"}

    def run(image, **others):
        return large(toy, textured(seed=image), **others)

    with monkeypatch.context() as patch:
        interrupt_at(patch, toy, 2)
        with pytest.raises(KeyboardInterrupt):
            run(**options)
    before = sorted((tmp_path / "work").iterdir())
    with pytest.raises(FileError, match=f"of this run, got one of another: {named} differ; remove it to start anew"):
        run(**options | change)
    assert sorted((tmp_path / "work").iterdir()) == before
    assert run(**options)[1].n_resumed == 2


def test_foreign_work_folders_are_refused(toy, tmp_path):
    work = tmp_path / "work"
    work.mkdir()
    (work / "thesis.doc").write_text("mine")
    with pytest.raises(FileError, match=r"expected an empty work folder or one of this run, got .*thesis.doc"):
        large(toy, textured(), work=work)
    (work / "thesis.doc").rename(work / "plan.json")
    with pytest.raises(FileError, match="expected a plan in"):
        large(toy, textured(), work=work)
    assert (work / "plan.json").read_text() == "mine"
    with pytest.raises(FileError, match="expected a work folder that can be written to"):
        large(toy, textured(), work=work / "plan.json" / "below")


def test_a_full_disk_can_be_mended(toy, tmp_path, monkeypatch):
    save = np.savez

    def full(file, **arrays):
        if "000002" in str(sorted((tmp_path / "l.tif.progress").glob("tile_*"))[-1:]) or len(toy.runs) == 4:
            file.write(b"some")
            raise OSError(errno.ENOSPC, "No space left on device")
        save(file, **arrays)

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", full)
        with pytest.raises(FileError, match=r"No space left on device; free space there"):
            toy.segment_large(textured(), tmp_path / "l.tif", tile_pixels=SMALL)
    left = {path.name for path in (tmp_path / "l.tif.progress").iterdir()}
    assert left == {"plan.json", "run.lock", "tile_000000.npz", "tile_000001.npz", "tile_000002.npz"}
    assert toy.segment_large(textured(), tmp_path / "l.tif", tile_pixels=SMALL).n_resumed == 3


@pytest.mark.parametrize("name", ["labels.tif", "labels.zarr"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(errno.ENOSPC, "No space left on device")])
def test_an_interrupted_sink_leaves_nothing_behind(toy, tmp_path, monkeypatch, name, error):
    if name.endswith("zarr"):
        pytest.importorskip("zarr", reason="zarr is not installed")
    older = toy.segment_large(textured(seed=1), tmp_path / name, tile_pixels=SMALL)
    calls = []

    def fail(self, rows, columns):
        calls.append(rows)
        if len(calls) == 2 or name.endswith("zarr"):
            raise error
        return np.zeros((rows[1] - rows[0], columns[1] - columns[0]), np.int32)

    with monkeypatch.context() as patch:
        patch.setattr(PolygonPainter, "__call__", fail)
        patch.setattr(sinks, "_TIFF_TILE", 256)
        with pytest.raises(KeyboardInterrupt if error is KeyboardInterrupt else FileError):
            toy.segment_large(textured(), tmp_path / name, tile_pixels=SMALL)
    assert {path.name for path in tmp_path.iterdir()} == {name, f"{name}.progress"}
    plan = json.loads((tmp_path / f"{name}.progress" / "plan.json").read_text())
    assert set(plan) == {"run", "found"}
    toy.runs.clear()
    cells = toy.segment_large(textured(), tmp_path / name, tile_pixels=SMALL)
    assert not toy.runs
    assert cells.n_resumed == cells.n_tiles
    assert older.n_tiles == cells.n_tiles


# ---- Memory -------------------------------------------------------------------------------------------------------


def test_memory_does_not_grow_with_the_image(toy, monkeypatch):
    """What Python and numpy hold: the network's maps of a tile, some blocks, the objects. Labels would be 11 MB."""
    monkeypatch.setattr(settle, "_ENOUGH", 20_000)
    peaks = []
    for height in (900, 6 * 900):
        tile = textured((900, 500))

        class Repeated:
            shape, dtype = (height, 500), tile.dtype

            def __getitem__(self, index):
                rows = np.arange(*index[0].indices(self.shape[0])) % 900
                return tile[rows][:, index[1]]  # noqa: B023

        class Nowhere:
            shape, dtype = (height, 500), np.dtype(np.int32)

            def __setitem__(self, index, block):
                assert block.size <= 1 << 20

        tracemalloc.start()
        cells = toy.segment_large(Repeated(), Nowhere(), tile_pixels=250_000, lowhigh=(0, 1000))
        peaks.append(tracemalloc.get_traced_memory()[1] - 1000 * len(cells))
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0] + 5e6


# ---- Flow models --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("diameter", "side"), [(10.0, 200), (16.0, 160), (16.0, 330), (27.0, 330)])
def test_flow_cells_are_those_of_the_whole_image(flow_model, diameter, side):
    image, _ = flow_network.image((300, 380), diameter, seed=3)
    want = flow_model.segment(image, diameter=diameter, tiles="large")
    labels, cells = large(flow_model, image, diameter=diameter, halo=int(2.5 * diameter), tile_pixels=side**2)
    assert cells.n_tiles > 1
    matched = metrics.matching(want.labels, labels, threshold=0.9)
    assert (matched.tp, matched.fp, matched.fn) == (len(want), 0, 0)
    assert np.mean((labels > 0) != (want.labels > 0)) < 1e-3
    assert np.array_equal(np.unique(labels), np.arange(len(want) + 1))
    assert measure.label(labels, background=0, connectivity=2).max() == len(want)  # each in one piece
    by_point = np.argsort(labels[tuple(cells.points.round().astype(int).T)])
    assert np.array_equal(by_point, np.arange(len(cells)))
    assert cells.outlines is None


def test_flow_channels_and_normalisation(flow_model):
    image, n_blobs = flow_network.image((200, 260))
    two = np.stack([np.zeros_like(image), np.round(image * 10_000 + 500)]).astype(np.uint16)
    for options in (
        {"channels": (2, 0)},
        {"channels": (0, 0), "normalize": (2, 98)},
        {"channels": (2, 1), "normalize": Normalize99Spec(lowhigh=(500.0, 10_500.0))},
        {"channels": (2, 1), "invert": False},
    ):
        want = flow_model.segment(two, diameter=16.0, tiles="large", **options)
        labels, cells = large(flow_model, two, diameter=16.0, halo=40, tile_pixels=150**2, **options)
        assert len(want) == len(cells) == n_blobs
        assert metrics.matching(want.labels, labels, threshold=0.9).tp == n_blobs


def test_flow_percentiles_are_those_of_the_whole_image(flow_model, monkeypatch):
    """Also where the original takes a sample of rows and columns: nothing differs but for tiles."""
    from cellrt import normalize99
    from cellrt.flow_work import FlowRunner

    monkeypatch.setattr(normalize99, "_SIDE", 32)  # sampled from 32^3 pixels on
    image, _ = flow_network.image((400, 300))
    image[:, 150:] *= 1.5
    want = normalize99.normalize99(image[np.newaxis], Normalize99Spec(), threads=1)
    seen = []
    work = FlowRunner.work
    monkeypatch.setattr(
        FlowRunner, "work", lambda self, image, *others: seen.append(image) or work(self, image, *others)
    )
    large(flow_model, image, diameter=16.0, halo=40, tile_pixels=200**2)
    assert len(seen) > 1
    assert np.array_equal(seen[0], np.pad(want, ((0, 1), (0, 0), (0, 0)))[:, : seen[0].shape[1], : seen[0].shape[2]])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"normalize": Normalize99Spec(sharpen_radius=3.0)}, "got smoothing, sharpening or blocks"),
        ({"normalize": Normalize99Spec(tile_blocksize=64)}, "need the whole image"),
        ({"halo": 60, "tile_pixels": 10_000}, "expected tile_pixels of at least 32400 with a halo of 60 pixels"),
        ({"halo": -1}, "expected halo as a whole number of pixels"),
        ({"diameter": 0}, "expected diameter"),
        ({"tiles": "small"}, "expected tiles="),
        ({"flow_threshold": "low"}, "expected flow_threshold"),
    ],
)
def test_bad_flow_options_are_refused(flow_model, options, message):
    image, _ = flow_network.image((150, 150))
    with pytest.raises(CellrtError, match=message):
        large(flow_model, image, **options)


def components(pixels):
    """A stand-in for network and decoder: the connected pieces of what is bright."""
    labels = measure.label(pixels[0] > 0.5, connectivity=1).astype(np.int32)
    return flow.from_labels(labels, int(labels.max()), threads=1)


def pieces(mask, halo, tile_pixels):
    """The labels of a mask, found by `components` tile by tile."""
    labels = np.full(mask.shape, -1, np.int32)
    run = FlowRun(
        axes=None,
        normalize=None,
        rescale=np.float64(1),
        halo=halo,
        tile_pixels=tile_pixels,
        threads=1,
        options={},
    )
    segment_flow(
        mask.astype(np.float32),
        labels,
        manifest=cellrt.load("cells", providers=["cpu"]).manifest,
        choose=lambda pixels: pixels,
        decode=components,
        run=run,
        work=None,
        progress=None,
    )
    return labels


def test_objects_over_seams_are_whole():
    """What every tile sees alike comes out as it is, small or longer than all overlaps; nothing is cut or doubled."""
    random = np.random.default_rng(0)
    mask = np.zeros((260, 330), bool)
    y, x = np.mgrid[:260, :330]
    for centre_y, centre_x in random.uniform(0, (260, 330), (150, 2)):
        mask |= np.hypot(y - centre_y, x - centre_x) < random.uniform(2, 9)
    mask[127:133, 10:320] = True  # longer than a tile
    mask[20:240, 160:166] = True
    mask[5:8, 20:300] = True  # a frame that is open below
    mask[5:110, 20:23] = mask[5:110, 297:300] = True
    want = measure.label(mask, connectivity=1)
    got = pieces(mask, 24, 90 * 90)
    assert np.array_equal(got > 0, mask)
    pairs = np.unique(np.stack([got[mask], want[mask]]), axis=1)
    assert pairs.shape[1] == want.max() == got.max()
    # Numbered by tiles in rows: the first object of all lies in the first tile.
    assert np.argwhere(got == 1).min(axis=0).max() < 90


def test_tiles_that_disagree_leave_each_pixel_to_one_object(flow_model, monkeypatch):
    """Tiles that find other objects in what they have in common: still no pixel of two, no object twice."""
    image, n_blobs = flow_network.image((260, 330))
    decode, calls = flow_decoding.decode, []

    def moody(maps, head, **options):
        calls.append(0)
        options["cellprob_threshold"] = (-2.0, 2.0)[len(calls) % 2]
        return decode(maps, head, **options)

    monkeypatch.setattr(flow_decoding, "decode", moody)
    labels, cells = large(flow_model, image, diameter=16.0, halo=40, tile_pixels=140**2)
    assert len(calls) - 1 == cells.n_tiles > 4  # one checks the options
    assert len(cells) == labels.max() == n_blobs
    assert measure.label(labels, background=0, connectivity=2).max() == n_blobs


def test_flow_large_tiles_of_the_network_are_the_default(flow_model):
    fixed = cellrt.load(flow_network.model(fixed_tile=True), providers=["cpu"], threads=1)
    image, n_blobs = flow_network.image((150, 190))
    assert len(large(fixed, image, diameter=16.0)[1]) == n_blobs


def test_images_without_objects(toy, flow_model, tmp_path):
    import tifffile

    cells = toy.segment_large(textured(), tmp_path / "none.tif", prob_thresh=1.0, tile_pixels=SMALL)
    assert len(cells) == 0
    assert cells.points.shape == (0, 2)
    assert not tifffile.imread(tmp_path / "none.tif").any()
    for image in (np.zeros((150, 190), np.uint16), np.random.default_rng(0).random((150, 190)) / 100):
        labels, cells = large(flow_model, image, diameter=16.0, normalize=None, halo=30, tile_pixels=100**2)
        assert cells.n_tiles > 1
        assert len(cells) == 0
        assert not labels.any()
