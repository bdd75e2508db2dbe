"""Stacks larger than memory: what `segment` gives for the whole, from planes; interrupted runs, sources and sinks."""

import errno
import itertools
import tempfile
import tracemalloc
from dataclasses import replace

import flow_network
import numpy as np
import pytest
from reference_flow_3d import clean_labels_3d
from test_large import Counting, interrupt_at, pointwise, textured
from test_large_volume import FINGERPRINT
from test_stacks import balls

import cellrt
from cellrt import kernels
from cellrt.errors import CapacityError, CellrtError, FileError, ImageError
from cellrt.heads import flow, volume
from cellrt.instances import Instances
from cellrt.large import planes, scratch
from cellrt.large import sink as sinks
from cellrt.large.journal import Journal
from cellrt.large.sink import open_sink
from cellrt.large.source import Source
from cellrt.large.tally import Tally
from cellrt.manifest import InputSpec, Normalize99Spec, StarSpec, TileSpec
from cellrt.planes import PlanesWork, stitch
from cellrt.pool import Found

DIAMETER = flow_network.DIAMETER
STITCH = {"stitch_threshold": 0.3}


@pytest.fixture(params=["v3", "v4"])
def model(request):
    return cellrt.load(flow_network.model(dynamics=request.param), providers=["cpu"], threads=1)


@pytest.fixture
def stars(monkeypatch):
    """A star model of two classes, with a stand-in for its network that knows one pixel at a time."""
    opened = cellrt.load("nuclei", providers=["cpu"], threads=1)
    head = StarSpec(n_rays=32, grid=(2, 2), prob_thresh=0.6, nms_thresh=0.3, n_classes=2)
    tile = TileSpec(multiple=(16, 16), receptive_field=(94, 94), halo=(94, 94))
    manifest = replace(opened.manifest, head=head, tile=tile, input=InputSpec(n_channels=1), selftest=None)

    def network(batch):
        maps = pointwise(batch)["maps"]
        first = np.abs(np.sin(37 * maps[:, :1]))
        return {"maps": np.concatenate([maps, 0 * first, first, 1 - first], axis=1)}

    for name, value in (("head", head), ("manifest", manifest), ("_network", network)):
        monkeypatch.setattr(opened, name, value)
    return opened


def stack():
    """Balls with an empty plane among them."""
    pixels, _ = balls()
    pixels[10] = 0
    return pixels


def spots(depth=7, shape=(70, 90)):
    """Bright spots of all sizes, most of which go on from plane to plane."""
    first, last = textured(shape, seed=1, dtype=np.float64), textured(shape, seed=2, dtype=np.float64)
    shares = np.linspace(0, 1, depth)[:, np.newaxis, np.newaxis]
    return ((1 - shares) * first + shares * last).astype(np.uint16)


def large(model, image, shape=None, **options):
    """Labels and what else is known."""
    labels = np.full(np.shape(image) if shape is None else shape, -1, np.int32)
    return labels, model.segment_large(image, labels, **options)


def assert_same(found, want):
    labels, cells = found
    assert labels.tobytes() == want.labels.tobytes()
    assert len(cells) == len(want)
    assert cells.shape == want.labels.shape
    assert cells.points.tobytes() == want.points.tobytes()
    np.testing.assert_allclose(cells.scores, want.scores, rtol=1e-6)
    assert cells.scores.dtype == np.float32
    for name in ("classes", "class_prob"):
        np.testing.assert_array_equal(getattr(cells, name), getattr(want, name))
    assert cells.outlines is None


# ---- Equal to the whole stack -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stitch_threshold": 0.9},
        {"stitch_threshold": 0.01, "min_size": 0},
        {"min_size": -1, "diameter": 12.0},
        {"min_size": 300},
        {"resample": False, "diameter": 22.0},
        {"augment": True, "batch_size": 3, "flow_threshold": 0.0},
        {"tiles": "large", "normalize": (2, 97), "invert": False},
        {"normalize": Normalize99Spec(lowhigh=(0.0, 1.2)), "cellprob_threshold": -1.0, "niter": 50},
        {"normalize": None, "max_size_fraction": 0.02},
    ],
)
def test_flow_cells_are_those_of_the_whole_stack(model, options):
    options = STITCH | {"diameter": DIAMETER} | options
    image = stack()[: 12 if "augment" in options else 30]
    found = large(model, image, **options)
    assert_same(found, model.segment(image, **options))
    assert len(found[1]) > 0 or "max_size_fraction" in options
    assert (found[1].n_tiles, found[1].n_resumed) == (len(image), 0)


def test_flow_axes_and_dtypes(model):
    image = np.clip(np.round(stack() * 10_000 + 5000), 0, 65535).astype(np.uint16)
    two = np.stack([image[::-1], image], axis=1)
    want = model.segment(two, channels=(2, 1), **STITCH)
    assert len(want) > 0
    turned = two.transpose(3, 0, 2, 1)
    assert_same(large(model, turned, image.shape, axes="XZYC", channels=(2, 1), **STITCH), want)
    assert_same(large(model, two, image.shape, channels=(2, 1), **STITCH), want)


def test_flow_percentiles_are_those_of_the_whole_stack(model, monkeypatch):
    """Also where the original takes a sample of planes, rows and columns."""
    from cellrt import normalize99

    monkeypatch.setattr(normalize99, "_SIDE", 15)  # sampled from 15^3 voxels on
    monkeypatch.setattr(normalize99, "_PLANES", 9)
    monkeypatch.setattr("cellrt.large.source._BLOCK_PIXELS", 1000)
    image = stack()
    image[::3] *= 1.5
    want = normalize99.normalize99(image[np.newaxis], Normalize99Spec(rules=model.head.dynamics), threads=1)
    seen = []
    begin = type(model._runner).work
    monkeypatch.setattr(
        type(model._runner), "work", lambda self, plane, *others: seen.append(plane) or begin(self, plane, *others)
    )
    large(model, image, diameter=DIAMETER, **STITCH)
    assert np.array_equal(np.stack([plane[0] for plane in seen]), want[0])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stitch_threshold": 0.8},
        {"scale": (1.3, 0.7)},
        {"normalize": (5, 95), "prob_thresh": 0.4, "nms_thresh": 0.1},
        {"axes": "YZX"},
    ],
)
@pytest.mark.parametrize("dtype", [np.uint16, np.float32, np.int32])
def test_star_cells_are_those_of_the_whole_stack(stars, options, dtype):
    image = spots().astype(dtype)
    image[4] = 0  # an empty plane
    if "axes" in options:
        image = np.ascontiguousarray(image.swapaxes(0, 1))
    options = STITCH | options
    want = stars.segment(image, **options)
    assert len(want) > 20
    assert len(np.unique(want.classes)) == 2
    assert_same(large(stars, image, want.labels.shape, **options), want)


def test_star_grey_values_and_normalised_input(stars):
    image = spots().astype(np.float32)
    ready = (image - np.float32(100)) / np.float32(600)
    want = stars.segment(ready, normalize=None, **STITCH)
    assert_same(large(stars, ready, normalize=None, **STITCH), want)
    assert_same(large(stars, image, lowhigh=(100, 700), **STITCH), want)


def test_star_models_of_the_package():
    model = cellrt.load("nuclei", providers=["cpu"], threads=1)
    image = balls((26, 90, 96), diameter=20)[0][8:18]
    want = model.segment(image, **STITCH)
    assert len(want) > 0
    assert_same(large(model, image, **STITCH), want)


@pytest.mark.parametrize("min_size", [-1, 0, 15, 10**6])
def test_a_stack_of_one_plane_is_that_plane(model, stars, min_size):
    image, _ = flow_network.image()
    image = image[np.newaxis]
    options = STITCH | {"min_size": min_size}
    assert_same(large(model, image, **options), model.segment(image, **options))
    assert_same(large(stars, spots(1), **STITCH), stars.segment(spots(1), **STITCH))


def test_stacks_without_cells(model, stars):
    for image in (np.zeros((4, 20, 22)), np.full((4, 20, 22), 7, np.uint8)):
        found = large(model, image, **STITCH)
        assert_same(found, model.segment(image, **STITCH))
        assert found[1].points.shape == (0, 3)
    assert_same(large(stars, spots(), prob_thresh=1.0, **STITCH), stars.segment(spots(), prob_thresh=1.0, **STITCH))


def test_tiles_of_several_planes_share_batches(model, monkeypatch):
    sizes, network = [], model._network
    monkeypatch.setattr(model, "_network", lambda batch: sizes.append(len(batch)) or network(batch))
    large(model, balls((9, 20, 22))[0], diameter=DIAMETER, batch_size=4, **STITCH)
    assert sizes == [4, 4, 1]


@pytest.mark.parametrize("threads", [1, 3])
def test_the_same_bytes_for_any_number_of_threads(threads):
    model = cellrt.load(flow_network.model(), providers=["cpu"], threads=threads)
    labels, _ = large(model, stack(), diameter=DIAMETER, **STITCH)
    one = cellrt.load(flow_network.model(), providers=["cpu"], threads=1)
    assert labels.tobytes() == one.segment(stack(), diameter=DIAMETER, **STITCH).labels.tobytes()


# ---- Cleaning -----------------------------------------------------------------------------------------------------


class Echo:
    """A plane that comes back as it is, without any network."""

    n_tiles = batch_size = 1

    def __init__(self, pixels):
        self._pixels, self.tile_shape, self.is_done = pixels, pixels.shape[1:], False

    def tile(self, index):
        return self._pixels

    def take(self, index, maps, style):
        self.maps, self.is_done = maps.copy(), True

    def finish(self):
        return Found(None)


def cleaned(labels, probability, folder, *, threshold, min_size, dynamics, network=None, sink=None):
    """What becomes of label planes and the probability of their pixels, by way of `planes.segment`."""

    def end(work):
        return planes.Plane(work.maps[0].astype(np.int32), probability=work.maps[1])

    pixels = np.stack([labels, probability]).astype(np.float32)
    out = np.full(labels.shape, -1, np.int32) if sink is None else sink
    way = planes.Way(
        begin=Echo,
        end=end,
        network=network or (lambda batch: {"maps": batch}),
        threshold=threshold,
        cleaning=planes.Cleaning(min_size, dynamics),
        threads=1,
    )
    journal = Journal(folder, {})
    journal.begin({})
    image = Source(pixels, axes="CZYX", channels=None, n_channels=2, n_axes=3)
    return out, planes.segment(image, open_sink(out, labels.shape), journal, way=way, progress=None)


def expected(labels, probability, *, threshold, min_size, dynamics):
    """The same of the whole volume, with a slow twin for the cleaning."""
    found, n = clean_labels_3d(stitch(labels, threshold), min_size, dynamics)
    logit = np.log(probability / (1 - probability))
    return volume.from_labels(found, n, scores=flow.mean_probability(found, logit, n))


def chunky(random):
    """Label planes in which many labels go on and enclose one another, and some numbers do not occur."""
    shape = tuple(random.integers(3, 8, 3))
    labels = random.integers(0, random.integers(2, 6), shape)
    again = random.random(shape) < random.choice([0.3, 0.8])
    for z in range(1, shape[0]):
        labels[z] = np.where(again[z], labels[z - 1], labels[z])
    if random.random() < 0.7:  # a shell around what there is
        walls = np.pad(np.zeros(np.array(shape) - 2, bool), 1, constant_values=True)
        labels[walls & (random.random(shape) < random.choice([1, 1, 0.97]))] = random.integers(1, 7)
        labels = np.pad(labels, 1)
    labels[random.random(len(labels)) < 0.05] = 0
    return labels.astype(np.int32), random.uniform(0.1, 0.9, labels.shape).astype(np.float32)


@pytest.mark.parametrize("dynamics", ["v3", "v4"])
def test_cleaning_plane_by_plane_is_that_of_the_volume(dynamics, tmp_path):
    n_filled = n_lost = 0
    for seed in range(80):
        random = np.random.default_rng(seed)
        labels, probability = chunky(random)
        options = {"threshold": [0.01, 0.3][seed % 2], "dynamics": dynamics}
        options["min_size"] = int(random.choice([-1, 0, 1, 2, 9, 40]))
        want = expected(labels, probability, **options)
        found = cleaned(labels, probability, tmp_path / str(seed), **options)
        assert_same(found, want)
        stitched = stitch(labels, options["threshold"])
        n_filled += np.count_nonzero((stitched == 0) & (want.labels > 0)) > 0
        n_lost += len(np.unique(stitched)) > len(np.unique(want.labels))
    assert n_filled > 10
    assert n_lost > 10


def halves(n=3, depth=9, pitch=4):
    """Rings of two equal halves in every plane but those that cover them; each half is without a hole."""
    labels = np.zeros((depth, 9, 10 * n), np.int32)
    for i in range(n):
        ring = labels[1:-1, 1:8, 10 * i + 1 : 10 * i + 8]
        ring[:, :, :3], ring[:, :, 4:] = 2 * i + 1, 2 * i + 2
        ring[:, :3, 3], ring[:, 4:, 3] = 2 * i + 1, 2 * i + 2
        ring[::pitch, :, :] = 2 * i + 1  # covers
        ring[:, 3, 3] = np.where(np.arange(depth - 2) % pitch == 0, 2 * i + 1, 0)
        ring[:, 3, 2:5] = np.where(np.arange(depth - 2)[:, None] % pitch == 0, 2 * i + 1, 0)
    return labels


def test_only_planes_with_holes_are_held_for_cavities(tmp_path, monkeypatch):
    """Parts without holes that are stitched to one object enclose a cavity: it is filled, few planes at a time."""
    labels = halves()
    probability = np.random.default_rng(0).uniform(0.1, 0.9, labels.shape).astype(np.float32)
    options = {"threshold": 0.1, "min_size": 15, "dynamics": "v3"}
    want = expected(labels, probability, **options)
    assert np.count_nonzero(want.labels) > np.count_nonzero(labels)
    held = []
    clean = planes.kernels.clean_labels_3d
    monkeypatch.setattr(
        planes.kernels, "clean_labels_3d", lambda slab, **others: held.append(len(slab)) or clean(slab, **others)
    )
    assert_same(cleaned(labels, probability, tmp_path / "a", **options), want)
    # Three planes with holes and two around; two, and those around, whose holes are open below.
    assert held == [5, 4]
    # Where there is none, no volume is cleaned at all.
    held.clear()
    labels[labels % 2 == 0] = 0
    assert_same(cleaned(labels, probability, tmp_path / "b", **options), expected(labels, probability, **options))
    assert not held


def test_planes_with_cavities_know_their_own_labels_only(tmp_path, monkeypatch):
    """Not those of the volume: of many objects in many planes that would be more than the labels take."""
    labels = np.concatenate([halves(), halves(), halves()])
    probability = np.random.default_rng(0).uniform(0.1, 0.9, labels.shape).astype(np.float32)
    options = {"threshold": 0.1, "min_size": 15, "dynamics": "v3"}
    known, add = [], Tally.add

    def counted(self, labels, numbers, *others):
        known.append(len(numbers))
        add(self, labels, numbers, *others)

    monkeypatch.setattr(Tally, "add", counted)
    found = cleaned(labels, probability, tmp_path, **options)
    assert len(known) == 2 * len(labels)  # as planes came, and again when cavities were filled
    assert max(known) <= 1 + labels.max() < 1 + len(found[1])
    assert_same(found, expected(labels, probability, **options))


def test_cavities_after_an_interruption(tmp_path):
    """What a cavity's voxels add to a score is known from the run before."""
    labels = halves()
    probability = np.random.default_rng(0).uniform(0.1, 0.9, labels.shape).astype(np.float32)
    options = {"threshold": 0.1, "min_size": 15, "dynamics": "v4"}
    want = expected(labels, probability, **options)

    class Broken:
        shape, dtype = labels.shape, np.dtype(np.int32)

        def __setitem__(self, index, block):
            raise KeyboardInterrupt

    def network(batch):
        if len(list(tmp_path.glob("tile_*"))) == 4:
            raise KeyboardInterrupt
        return {"maps": batch}

    with pytest.raises(KeyboardInterrupt):
        cleaned(labels, probability, tmp_path, network=network, **options)
    with pytest.raises(KeyboardInterrupt):
        cleaned(labels, probability, tmp_path, sink=Broken(), **options)
    found = cleaned(labels, probability, tmp_path, network=lambda batch: pytest.fail("all was done"), **options)
    assert_same(found, want)
    assert found[1].n_resumed == len(labels)


def test_a_tally_is_that_of_the_volume():
    random = np.random.default_rng(0)
    labels = random.integers(0, 60, (5, 12, 13)).astype(np.int32)
    labels[labels % 7 == 0] = 0
    tally = Tally(labels.shape, threads=1)
    for z, y in itertools.product(range(0, 5, 2), range(0, 12, 5)):
        block = np.ascontiguousarray(labels[z : z + 2, y : y + 5])
        numbers = np.arange(block.max() + 1, dtype=np.int32)
        tally.add(block, numbers, (z, y, 0), np.bincount(block.reshape(-1))[1:] / 2)
    n = int(labels.max())
    want = volume.from_labels(labels, n)
    assert np.array_equal(tally.points(n), want.points)
    assert np.array_equal(tally.means(n), np.where(want.points[:, 0] < 0, 0, 0.5).astype(np.float32))
    assert np.array_equal(tally.areas[: n + 1], np.bincount(labels.reshape(-1)))
    first = {label: int(np.flatnonzero(labels.reshape(-1) == label)[0]) for label in np.unique(labels)}
    assert all(tally.firsts[label] == place for label, place in first.items())
    _, boxes, _ = kernels.label_regions_3d(labels, n_labels=n, threads=1)
    found = np.unique(labels[labels > 0])
    assert np.array_equal(np.hstack([tally.begins, tally.ends])[found], boxes[found - 1])
    order = tally.in_order()
    assert np.array_equal(order[labels], np.unique(labels, return_inverse=True)[1].reshape(labels.shape))


# ---- Sources and sinks --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("held", [0, 1 << 27])
@pytest.mark.parametrize("chunks", [None, (1, 90, 90), (3, 32, 40), (64, 64, 64)])
def test_voxels_are_read_twice_in_blocks(stars, chunks, held, monkeypatch):
    """Once for percentiles and once for planes, whatever chunks they are in; large slabs lie on disk."""
    monkeypatch.setattr("cellrt.large.source._BLOCK_PIXELS", 5000)
    monkeypatch.setattr(scratch, "_HELD", held)
    image = spots()
    source = Counting(image, chunks)
    assert_same(large(stars, source, image.shape, **STITCH), stars.segment(image, **STITCH))
    assert 2 * image.size < source.pixels + 1 <= 2 * image.size + FINGERPRINT
    assert source.largest <= max(5000, np.prod(np.minimum(chunks or 1, image.shape)))


@pytest.mark.parametrize("name", ["labels.tif", "labels.zarr"])
@pytest.mark.parametrize("held", [0, 1 << 27])
def test_files(stars, model, tmp_path, name, held, monkeypatch):
    import tifffile

    zarr = pytest.importorskip("zarr", reason="zarr is not installed")
    monkeypatch.setattr(scratch, "_HELD", held)
    monkeypatch.setattr(sinks, "_TIFF_TILE", 32)
    monkeypatch.setattr(sinks, "_BLOCK", {3: (3, 32, 64)})
    source = zarr.create_array(tmp_path / "source.zarr", shape=spots().shape, chunks=(4, 32, 32), dtype="uint16")
    source[:] = spots()
    want = stars.segment(spots(), **STITCH).labels
    for slab in (1, 3 * 70 * 90, 1 << 30):  # an older result is replaced
        monkeypatch.setattr(sinks, "_TIFF_SLAB", slab)
        cells = stars.segment_large(source, tmp_path / name, **STITCH)
        assert cells.n_resumed == 0
        found = zarr.open(tmp_path / name, mode="r")[:] if name.endswith("zarr") else tifffile.imread(tmp_path / name)
        assert found.dtype == np.uint32
        assert np.array_equal(found, want)
    assert {path.name for path in tmp_path.iterdir()} == {"source.zarr", name}


def test_arrays_of_others(stars, tmp_path):
    zarr = pytest.importorskip("zarr", reason="zarr is not installed")
    want = stars.segment(spots(), **STITCH).labels
    mapped = np.lib.format.open_memmap(tmp_path / "labels.npy", "w+", np.uint32, want.shape)
    chunked = zarr.create_array(tmp_path / "mine.zarr", shape=want.shape, chunks=(4, 40, 50), dtype="uint64")
    for sink in (mapped, chunked):
        stars.segment_large(spots(), sink, **STITCH)
        assert np.array_equal(sink[:], want)


def test_planes_are_painted_once_for_all_blocks(stars, monkeypatch):
    monkeypatch.setattr(sinks, "_BLOCK", {3: (3, 16, 16)})
    painted = []
    inner = planes._Volume.labels
    monkeypatch.setattr(planes._Volume, "labels", lambda self, z: painted.append(z) or inner(self, z))
    large(stars, spots(), **STITCH)
    assert painted == list(range(7))


def test_a_disk_without_room_for_slabs(stars, tmp_path, monkeypatch):
    monkeypatch.setattr(scratch, "_HELD", 0)

    class Full:
        def __init__(self, **_):
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "TemporaryFile", Full)
        with pytest.raises(FileError, match=r"expected 1 MB of space in .*work, got: No space left on device; free"):
            large(stars, spots(), work=tmp_path / "work", **STITCH)
    assert_same(large(stars, spots(), work=tmp_path / "work", **STITCH), stars.segment(spots(), **STITCH))


# ---- Options ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stitch_threshold": 0}, "expected stitch_threshold above 0, at most 1, got 0"),
        ({"stitch_threshold": True}, "expected stitch_threshold above 0, at most 1, got True"),
        ({"halo": 40}, "expected no halo with a stitch_threshold, got 40: planes are whole; leave it out"),
        ({"tile_pixels": 10**6}, "expected no tile_pixels with a stitch_threshold, got 1000000"),
        ({"normalize": Normalize99Spec(sharpen_radius=3.0)}, "got smoothing, sharpening or blocks"),
        ({"min_size": "15"}, "expected min_size as a whole number"),
        ({"flow_threshold": -1}, "expected flow_threshold to be a number of at least 0, got -1"),
        ({"diameter": 0}, "expected diameter"),
        ({"tiles": "small"}, "expected tiles="),
        ({"axes": "CYX"}, "expected a volume with an axis Z, got axes CYX"),
    ],
)
def test_flow_options_that_are_refused(model, options, message, monkeypatch):
    monkeypatch.setattr(model, "_network", lambda batch: pytest.fail("the network ran"))
    with pytest.raises(CellrtError, match=message):
        large(model, stack(), **STITCH | options)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"stitch_threshold": 1.5}, CellrtError, "expected stitch_threshold above 0, at most 1, got 1.5"),
        ({"tile_pixels": 10**6}, CellrtError, "expected no tile_pixels with a stitch_threshold, got 1000000"),
        ({"prob_thresh": 2}, CellrtError, "expected prob_thresh"),
        ({"nms_thresh": "low"}, CellrtError, "expected nms_thresh"),
        ({"scale": 0}, CellrtError, "expected scale to be a positive number"),
        ({"lowhigh": (5, 5)}, CellrtError, "expected lowhigh as two grey values that rise"),
    ],
)
def test_star_options_that_are_refused(stars, options, error, message, monkeypatch):
    monkeypatch.setattr(stars, "_network", lambda batch: pytest.fail("the network ran"))
    with pytest.raises(error, match=message):
        large(stars, spots(), **STITCH | options)


def test_more_candidates_than_allowed(stars):
    with pytest.raises(CapacityError, match="expected at most 10 candidates"):
        large(stars, spots(), max_candidates=10, **STITCH)


def test_stacks_that_are_refused(model, stars):
    for opened in (model, stars):
        with pytest.raises(ImageError, match="expected a volume with 3 or 4 axes, got an image of shape"):
            large(opened, np.eye(40), **STITCH)
        image = spots().astype(np.float32)
        image[3, 20, 30] = np.nan
        with pytest.raises(ImageError, match=r"got NaN or infinity in planes \d+ to \d+, rows \d+ to \d+, columns"):
            large(opened, image, **STITCH)
        with pytest.raises(CellrtError, match=r"shape \(7, 70, 90\) for the labels, got int32 \(7, 70\)"):
            opened.segment_large(spots(), np.zeros((7, 70), np.int32), **STITCH)
    with pytest.raises(ImageError, match="expected contrast between percentiles"):
        large(stars, np.full((3, 70, 70), 7, np.uint16), **STITCH)


def test_memory_limits_count_a_plane(monkeypatch):
    image = np.zeros((60, 400, 400), np.uint8)
    tight = cellrt.load(flow_network.model(), providers=["cpu"], memory="480MB")

    def network(batch):
        return {"maps": np.full((len(batch), 3, *batch.shape[2:]), -1, np.float32), "style": np.ones((len(batch), 4))}

    monkeypatch.setattr(tight, "_network", network)
    with pytest.raises(CellrtError, match=r"expected a memory limit of at least .* for this, got 480 MB; allow more"):
        tight.segment(image, **STITCH)
    assert len(large(tight, image, **STITCH)[1]) == 0
    with pytest.raises(CellrtError, match=r"expected a memory limit of at least .* for this, got 480 MB; allow more"):
        large(tight, np.broadcast_to(np.uint8(0), (2, 3000, 3000)), **STITCH)


# ---- Interrupted runs ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["flow", "star"])
def test_an_interrupted_run_continues(model, stars, kind, tmp_path, monkeypatch):
    opened, image = (model, stack()) if kind == "flow" else (stars, spots(30, (50, 60)))
    options = STITCH | ({"diameter": DIAMETER, "batch_size": 2} if kind == "flow" else {})
    want, sink = opened.segment(image, **options), tmp_path / "labels.tif"
    with monkeypatch.context() as patch:
        interrupt_at(patch, opened, 5)
        with pytest.raises(KeyboardInterrupt):
            opened.segment_large(image, sink, **options)
    n_done = 10 if kind == "flow" else 5
    work = tmp_path / "labels.tif.progress"
    assert {path.name for path in tmp_path.iterdir()} == {work.name}
    names = {path.name for path in work.iterdir()}
    assert names == {"plan.json", "run.lock", *(f"tile_{z:06d}.npz" for z in range(n_done))}
    damaged = work / "tile_000002.npz"  # it did not reach the disk whole, and is computed again
    damaged.write_bytes(damaged.read_bytes()[:100])
    with pytest.raises(FileError, match="of this run, got one of another: stitch_threshold differ; remove it"):
        opened.segment_large(image, sink, **options | {"stitch_threshold": 0.4})
    source, seen = Counting(image, (1, *image.shape[1:])), []
    cells = opened.segment_large(source, sink, progress=lambda *numbers: seen.append(numbers), **options)
    assert (cells.n_resumed, cells.n_tiles) == (n_done - 1, 30)
    assert seen == [(z + 1, 30) for z in range(30)]
    assert source.pixels <= (30 - n_done + 1) * image[0].size + FINGERPRINT  # the percentiles are known
    import tifffile

    assert_same((tifffile.imread(sink).astype(np.int32), cells), want)
    assert {path.name for path in tmp_path.iterdir()} == {"labels.tif"}


def test_a_plane_that_somebody_removes(stars, tmp_path, monkeypatch):
    inner = planes._Painter.__call__

    def remove(self, *spans):
        (tmp_path / "work" / "tile_000003.npz").unlink()
        return inner(self, *spans)

    monkeypatch.setattr(planes._Painter, "__call__", remove)
    with pytest.raises(CellrtError, match=r"expected tile 3 in .*work, got nothing: somebody removed it; start again"):
        large(stars, spots(), work=tmp_path / "work", **STITCH)


def test_images_and_stacks_have_work_of_their_own(stars, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt_at(patch, stars, 2)
        with pytest.raises(KeyboardInterrupt):
            large(stars, spots(), work=tmp_path / "work", **STITCH)
    with pytest.raises(FileError, match="of this run, got one of another"):
        large(stars, spots()[0], work=tmp_path / "work")


# ---- Memory -------------------------------------------------------------------------------------------------------


def test_memory_does_not_grow_with_the_stack(model, monkeypatch):
    """What Python and numpy hold: a few planes. Labels of the longer stack would be 12 MB, its maps 37."""
    monkeypatch.setattr(sinks, "_BLOCK", {3: (4, 64, 64)})
    monkeypatch.setattr("cellrt.large.source._BLOCK_PIXELS", 1 << 16)
    peaks = []
    for depth in (30, 5 * 30):
        tile = np.kron(balls((30, 46, 50))[0], np.ones((1, 3, 3), np.float32))

        class Repeated:
            shape, dtype = (depth, *tile.shape[1:]), tile.dtype

            def __getitem__(self, index):
                planes_there = np.arange(*index[0].indices(self.shape[0])) % 30
                return tile[planes_there][:, index[1], index[2]]  # noqa: B023

        class Nowhere:
            shape, dtype = (depth, *tile.shape[1:]), np.dtype(np.int32)

            def __setitem__(self, index, block):
                assert block.size <= 4 * 64 * 64

        options = {"normalize": Normalize99Spec(lowhigh=(0.0, 1.0)), "diameter": 3 * DIAMETER, "batch_size": 2}
        tracemalloc.start()
        cells = model.segment_large(Repeated(), Nowhere(), **options, **STITCH)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert len(cells) > 3
    assert peaks[1] < 1.1 * peaks[0] + 2e5


def test_few_planes_are_under_way_at_once(model, monkeypatch):
    most, take = 0, PlanesWork.take

    def counted(self, *arguments):
        nonlocal most
        most = max(most, len(self._planes))
        take(self, *arguments)

    monkeypatch.setattr(PlanesWork, "take", counted)
    large(model, np.zeros((30, 20, 22)), diameter=DIAMETER, batch_size=4, **STITCH)
    assert most == 4
    assert isinstance(model.segment(np.zeros((3, 20, 22)), **STITCH), Instances)
