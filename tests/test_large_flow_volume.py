"""`do_3D` on volumes larger than memory: the cells of the whole, whatever the blocks; interruptions, disks, doors."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flow_network
import numpy as np
import pytest
from numpy.typing import NDArray
from test_flow_windows_3d import noisy_cells
from test_stacks import balls

import cellrt
from cellrt import kernels
from cellrt.errors import CellrtError, FileError, ImageError
from cellrt.heads import flow_3d
from cellrt.large import cavities, flow_masks, flow_volume
from cellrt.large.bricks import Bricks
from cellrt.large.cavities import CavityFiller
from cellrt.large.tally import Tally
from cellrt.manifest import FlowSpec, Normalize99Spec

SHAPE = (26, 40, 44)


@pytest.fixture(scope="module")
def model() -> cellrt.FlowModel:
    opened = cellrt.load(flow_network.model(), providers=["cpu"], threads=2)
    assert isinstance(opened, cellrt.FlowModel)
    return opened


@pytest.fixture(scope="module")
def volume() -> NDArray[np.float32]:
    pixels: NDArray[np.float32] = balls(SHAPE)[0]
    return pixels


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks and slabs of which even a small volume has many."""
    monkeypatch.setattr(flow_masks.Decoding, "block", (16, 16, 32))
    monkeypatch.setattr(flow_volume, "_SLAB", 1 << 18)
    monkeypatch.setattr(flow_volume, "_PIECE", 1 << 17)


def large(model: cellrt.FlowModel, volume: NDArray[Any], **options: Any) -> tuple[NDArray[np.int32], Any]:
    """Labels and objects of `segment_large`."""
    sink = np.full(volume.shape[:3], -1, np.int32)
    found = model.segment_large(volume, sink, do_3D=True, **options)
    return sink, found


def check(model: cellrt.FlowModel, volume: NDArray[Any], **options: Any) -> int:
    """Compare with the whole volume at once; gives the number of objects."""
    expected = model.segment(volume, do_3D=True, **options)
    labels, found = large(model, volume, **options)
    np.testing.assert_array_equal(labels, expected.labels)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-6)
    np.testing.assert_allclose(found.points, expected.points, atol=1e-4)
    return len(found)


@pytest.mark.parametrize(
    ("options", "n"),
    [
        ({}, 4),
        ({"anisotropy": 1.4}, 4),
        ({"diameter": 11.0}, 4),
        ({"diameter": 21.0, "resample": False, "tiles": "large"}, 4),
        ({"flow3D_smooth": (0.5, 1, 0)}, 4),
        ({"flow3D_smooth": (0, 0, 2), "anisotropy": 1.4}, 4),
        ({"flow3D_smooth": 1, "diameter": 21.0, "resample": False}, 4),
        ({"niter": 7, "min_size": 0, "cellprob_threshold": 1.0}, 4),
        ({"min_size": 1000, "normalize": (5, 95)}, 3),
        ({"normalize": Normalize99Spec(lowhigh=(0.1, 1.2)), "invert": False}, 4),
        ({"max_size_fraction": 0.04}, 2),
    ],
)
def test_cells_are_those_of_the_whole_volume(model, volume, small, options, n):
    assert check(model, volume, **options) == n


def test_channels_and_integers(model, volume, small):
    pixels = np.stack([volume * 0, volume], axis=-1)
    pixels = (1000 * pixels.clip(0)).astype(np.uint16)
    assert check(model, pixels, axes="ZYXC", channels=[2, 1]) == 4


def test_the_sample_for_percentiles_is_that_of_the_volume(model, volume, small, monkeypatch):
    monkeypatch.setattr("cellrt.normalize99._SIDE", 11)
    monkeypatch.setattr("cellrt.normalize99._PLANES", 5)
    monkeypatch.setattr("cellrt.large.source._BLOCK_PIXELS", 700)
    assert check(model, volume) == 4


def test_cellpose_4(volume, small):
    assert check(cellrt.load(flow_network.model(dynamics="v4", n_style=0), providers=["cpu"]), volume) == 4


# ---- From maps ----------------------------------------------------------------------------------------------------


def decoded(
    maps: NDArray[np.float32], folder: Path, *, shape: tuple[int, int, int] | None = None, **options: Any
) -> tuple[NDArray[np.int32], flow_masks.Masks]:
    """Labels and objects by blocks."""
    stored = Bricks(folder / "maps.bricks", 4, maps.shape[1:], np.float32)
    stored.write(maps, 0, 0, 0)
    usual: dict[str, Any] = {
        "steps": 60,
        "cellprob_threshold": 0.0,
        "min_size": 15,
        "max_size_fraction": 0.4,
        "dynamics": "v3",
        "reach": 8,
        "longest": 64,
        "threads": 2,
    }
    decoding = flow_masks.Decoding(**usual | options)
    steps: list[None] = []
    out_shape = shape or maps.shape[1:]
    masks = flow_masks.decode(stored, decoding, shape=out_shape, folder=folder, step=lambda: steps.append(None))
    assert len(steps) == flow_masks.n_steps(stored.shape, out_shape, decoding)
    labels = masks.labels(*((0, side) for side in out_shape))
    for bricks in (stored, *masks.files):
        bricks.remove()
    assert not list(folder.iterdir())
    return labels, masks


def whole(maps: NDArray[np.float32], *, dynamics: str = "v3", shape: Any = None, **options: Any) -> cellrt.Instances:
    """The same at once."""
    spec = FlowSpec(diam_mean=30.0, diam_labels=30.0, tile=224, dynamics=dynamics)
    usual: dict[str, Any] = {"steps": 60, "cellprob_threshold": 0.0, "min_size": 15}
    return flow_3d.decode(maps, spec, out_shape=shape, **usual | options)


def maps_of(seed: int, *, holes: float, radius: float = 6.0, shape: tuple[int, int, int] = (30, 41, 50)) -> Any:
    """Maps of noisy cells, of which a share of voxels is not inside."""
    flow, cellprob = noisy_cells(seed, shape, radius)
    is_hole = np.random.default_rng(seed).random(shape) < holes
    return np.concatenate([flow, np.where(is_hole, -3, cellprob)[np.newaxis]]).astype(np.float32)


@pytest.mark.parametrize("dynamics", ["v3", "v4"])
@pytest.mark.parametrize("min_size", [-1, 15, 300])
@pytest.mark.parametrize("seed", range(4))
def test_masks_with_holes_are_those_of_the_whole_volume(tmp_path, small, seed, min_size, dynamics):
    maps = maps_of(seed, holes=(0, 0.02, 0.2, 0.5)[seed])
    shape = (30, 41, 50) if seed % 2 else (23, 50, 61)
    expected = whole(maps, dynamics=dynamics, min_size=min_size, shape=shape)
    labels, masks = decoded(maps, tmp_path, dynamics=dynamics, min_size=min_size, shape=shape)
    assert len(expected) > 3
    np.testing.assert_array_equal(labels, expected.labels)
    np.testing.assert_allclose(masks.scores, expected.scores, atol=1e-6)
    np.testing.assert_allclose(masks.points, expected.points, atol=1e-4)


def test_volumes_full_of_cells_or_empty(tmp_path, small):
    for maps in (np.full((4, 20, 20, 40), 1, np.float32), np.full((4, 20, 20, 40), -1, np.float32)):
        expected = whole(maps, max_size_fraction=1.0)
        labels, masks = decoded(maps, tmp_path, max_size_fraction=1.0)
        np.testing.assert_array_equal(labels, expected.labels)
        assert len(masks.scores) == len(expected)


def shells(shape: tuple[int, int, int], centres: Any, radius: float) -> NDArray[np.int32]:
    """Hollow balls, numbered, each with a small ball of another number in it."""
    labels = np.zeros(shape, np.int32)
    places = np.indices(shape)
    for index, centre in enumerate(centres):
        distance = np.linalg.norm(places - np.array(centre).reshape(3, 1, 1, 1), axis=0)
        labels[distance < radius] = 2 * index + 1
        labels[distance < radius - 3] = 0
        labels[distance < radius - 6] = 2 * index + 2
    return labels


@pytest.mark.parametrize(("longest", "most_voxels"), [(100, 1 << 25), (100, 22**3), (100, 1), (15, 1 << 25)])
def test_cavities_over_blocks_are_filled_unless_objects_are_long(longest, most_voxels, monkeypatch):
    monkeypatch.setattr(cavities, "_MOST_VOXELS", most_voxels)
    labels = shells((40, 40, 64), [(15, 18, 20), (20, 20, 46)], 10)
    expected, _ = kernels.clean_labels_3d(labels, min_size=0, dynamics="v4", threads=1)
    assert (expected != labels).any()
    tally = Tally(labels.shape, threads=1)
    tally.add(labels, np.arange(5, dtype=np.int32), (0, 0, 0))
    filler = CavityFiller(
        lambda *spans: np.ascontiguousarray(labels[tuple(slice(*span) for span in spans)]),
        tally,
        shape=labels.shape,
        longest=longest,
        dynamics="v4",
        threads=1,
    )
    for spans in flow_masks._blocks(labels.shape, (16, 16, 16)):
        block = filler(*spans)
        inside = tuple(slice(*span) for span in spans)
        np.testing.assert_array_equal(block, (expected if longest == 100 else labels)[inside])


def test_windows_grow_until_no_trajectory_leaves(tmp_path, small):
    """Cells that are long in comparison with what the window reaches at first."""
    maps = maps_of(5, holes=0, radius=14, shape=(30, 60, 60))
    expected = whole(maps)
    labels, _ = decoded(maps, tmp_path, reach=1)
    np.testing.assert_array_equal(labels, expected.labels)
    assert len(expected) > 1


def test_voxels_that_cannot_be_followed_are_counted(tmp_path, small, monkeypatch, caplog):
    monkeypatch.setattr(flow_masks, "_MOST_VOXELS", 1)
    maps = maps_of(5, holes=0, radius=14, shape=(30, 60, 60))
    with caplog.at_level(logging.WARNING):
        labels, _ = decoded(maps, tmp_path, reach=1)
    assert "voxels belong to no object" in caplog.text
    assert 0 < np.count_nonzero(labels) < np.count_nonzero(whole(maps).labels)


def test_windows_grow_as_far_as_memory_is_meant_for(tmp_path, small, monkeypatch):
    """Not only by doubling: where twice the reach would be too much, there may be enough in between."""
    maps = maps_of(5, holes=0, radius=14, shape=(30, 60, 60))
    expected = whole(maps)
    monkeypatch.setattr(flow_masks, "_MOST_VOXELS", 30 * 50 * 52)
    read, largest = Bricks.read, [0]

    def counted(self: Bricks, *spans: Any) -> Any:
        values = read(self, *spans)
        largest[0] = max(largest[0], values[0].size if self.path.name == "maps.bricks" else 0)
        return values

    monkeypatch.setattr(Bricks, "read", counted)
    labels, _ = decoded(maps, tmp_path, reach=10)
    np.testing.assert_array_equal(labels, expected.labels)
    assert largest[0] <= 30 * 50 * 52


def test_smoothing_takes_no_more_memory_the_wider_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(flow_volume, "_SLAB", 1 << 20)
    maps = maps_of(0, holes=0, shape=(40, 60, 70))
    stored = Bricks(tmp_path / "maps.bricks", 4, maps.shape[1:], np.float32)
    stored.write(maps, 0, 0, 0)
    read, largest = Bricks.read, [0]

    def counted(self: Bricks, *spans: Any) -> Any:
        values = read(self, *spans)
        largest[0] = max(largest[0], values.size)
        return values

    monkeypatch.setattr(Bricks, "read", counted)
    out = flow_volume._smoothed(stored, (9.0, 0.0, 12.0))
    assert largest[0] < maps.size // 3
    smooth = out.read(*((0, side) for side in out.shape))
    expected = np.stack([flow_3d.smoothed(component, (9.0, 0.0, 12.0)) for component in maps[:3]])
    np.testing.assert_array_equal(smooth, np.concatenate([expected, maps[3:]]))


def test_space_is_counted_where_files_do_not_tell_their_blocks(model, volume, small, tmp_path, monkeypatch):
    """As on Windows."""
    sink = tmp_path / "labels.tif"
    with monkeypatch.context() as patch:
        patch.setattr(flow_masks, "_ends", stop_after(0, flow_masks._ends))
        with pytest.raises(InterruptedError_):
            model.segment_large(volume, sink, do_3D=True)
    stat = Path.stat
    monkeypatch.setattr(Path, "stat", lambda *args, **options: os.stat_result(tuple(stat(*args, **options))[:10]))
    assert model.segment_large(volume, sink, do_3D=True).n_resumed


# ---- Interruptions ------------------------------------------------------------------------------------------------


class InterruptedError_(Exception):
    """What stops a run in these tests."""


def stop_after(count: int, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, which raises at the call after `count` others."""
    calls = [0]

    def counted(*arguments: Any, **options: Any) -> Any:
        calls[0] += 1
        if calls[0] > count:
            raise InterruptedError_
        return function(*arguments, **options)

    return counted


@pytest.mark.parametrize("count", [0, 1, 7, 12])
@pytest.mark.parametrize("what", ["network", "sums", "decode"])
def test_an_interrupted_run_continues(model, volume, small, tmp_path, monkeypatch, what, count):
    """Wherever it was stopped: in the network, between noting planes and adding them, or in what follows."""
    expected = model.segment(volume, do_3D=True)
    sink = tmp_path / "labels.tif"
    with monkeypatch.context() as patch:
        if what == "network":
            patch.setattr(model, "_network", stop_after(count, model._network))
        elif what == "sums":
            patch.setattr(Bricks, "sync", stop_after(count, Bricks.sync))
        else:
            patch.setattr(flow_masks, "_ends", stop_after(count, flow_masks._ends))
        with pytest.raises(InterruptedError_):
            model.segment_large(volume, sink, do_3D=True)
    assert not sink.exists()
    calls: list[int] = []
    run = model._network
    monkeypatch.setattr(model, "_network", lambda batch: calls.append(len(batch)) or run(batch))
    done: list[tuple[int, int]] = []
    found = model.segment_large(volume, sink, do_3D=True, progress=lambda *numbers: done.append(numbers))
    assert done[-1][0] == done[-1][1]
    tifffile = pytest.importorskip("tifffile")
    np.testing.assert_array_equal(tifffile.imread(sink), expected.labels)
    assert list(tmp_path.iterdir()) == [sink]
    if what == "decode":
        assert found.n_resumed == found.n_tiles
        assert not calls
    elif count >= 7:
        assert 0 < found.n_resumed < found.n_tiles


def test_two_runs_do_not_share_a_work_folder(model, volume, small, tmp_path):
    """The second would begin the sums anew while the first adds to them."""
    expected = model.segment(volume, do_3D=True)
    sink, refused = tmp_path / "labels.tif", []

    def again(done: int, total: int) -> None:
        if done in (1, total // 2):
            with pytest.raises(FileError, match="no other run"):
                model.segment_large(volume, sink, do_3D=True)
            refused.append(done)

    assert model.segment_large(volume, sink, do_3D=True, progress=again).n_resumed == 0
    assert len(refused) == 2
    tifffile = pytest.importorskip("tifffile")
    np.testing.assert_array_equal(tifffile.imread(sink), expected.labels)
    assert list(tmp_path.iterdir()) == [sink]


class Killed(BaseException):
    """A process that is gone: nothing it would do on its way out is done."""


@pytest.mark.parametrize("count", range(8))
def test_a_run_that_was_killed_while_it_renamed_continues(model, volume, small, tmp_path, monkeypatch, count):
    """No planes are added twice, whichever rename was the last; some of an earlier slab's sums may be in the file."""
    expected = model.segment(volume, do_3D=True)
    sink, rename, left = tmp_path / "labels.tif", os.replace, [12 + count]

    def replace(*paths: Any) -> None:
        left[0] -= 1
        if left[0] < 0:  # nor is anything put back
            raise Killed
        rename(*paths)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        patch.setattr("cellrt.write.whole.remove", lambda paths: None)
        with pytest.raises(Killed):
            model.segment_large(volume, sink, do_3D=True)
    found = model.segment_large(volume, sink, do_3D=True)
    assert 0 < found.n_resumed < found.n_tiles
    tifffile = pytest.importorskip("tifffile")
    np.testing.assert_array_equal(tifffile.imread(sink), expected.labels)
    assert list(tmp_path.iterdir()) == [sink]


@pytest.mark.parametrize("damage", ["marker", "sums", "pending"])
def test_damaged_work_folders_are_refused(model, volume, small, tmp_path, monkeypatch, damage):
    sink, folder = tmp_path / "labels.tif", tmp_path / "labels.tif.progress"
    with monkeypatch.context() as patch:
        patch.setattr(Bricks, "sync", stop_after(7, Bricks.sync))  # six slabs are added, of one it is not known
        with pytest.raises(InterruptedError_):
            model.segment_large(volume, sink, do_3D=True)
    if damage == "marker":
        (folder / "tile_000002.npz").unlink()
    else:
        path = folder / "sums.bricks" if damage == "sums" else max(folder.glob("tile_*"))
        with path.open("r+b") as file:
            file.truncate(1000)
    with pytest.raises(FileError, match="remove the folder"):
        model.segment_large(volume, sink, do_3D=True)


def test_lost_sums_are_noticed(model, volume, small, tmp_path, monkeypatch):
    sink = tmp_path / "labels.tif"
    with monkeypatch.context() as patch:
        patch.setattr(flow_masks, "_ends", stop_after(0, flow_masks._ends))
        with pytest.raises(InterruptedError_):
            model.segment_large(volume, sink, do_3D=True)
    (tmp_path / "labels.tif.progress" / "sums.bricks").unlink()
    with pytest.raises(FileError, match=r"sums\.bricks .* remove the folder"):
        model.segment_large(volume, sink, do_3D=True)


def test_other_options_are_another_run(model, volume, small, tmp_path, monkeypatch):
    sink = tmp_path / "labels.tif"
    with monkeypatch.context() as patch:
        patch.setattr(flow_masks, "_ends", stop_after(0, flow_masks._ends))
        with pytest.raises(InterruptedError_):
            model.segment_large(volume, sink, do_3D=True)
    with pytest.raises(FileError, match="network, slabs differ"):
        model.segment_large(volume, sink, do_3D=True, anisotropy=2.0)
    # what the network has no part in may change
    expected = model.segment(volume, do_3D=True, cellprob_threshold=2.0)
    found = model.segment_large(volume, sink, do_3D=True, cellprob_threshold=2.0)
    assert found.n_resumed == found.n_tiles
    assert len(found) == len(expected)


def test_a_full_disk_is_refused_before_any_work(model, volume, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10**6))
    monkeypatch.setattr(model, "_network", lambda batch: pytest.fail("the network ran"))
    with pytest.raises(FileError, match="free space"):
        model.segment_large(volume, tmp_path / "labels.tif", do_3D=True)
    assert not list(tmp_path.iterdir())


def test_a_disk_that_fills_up_is_explained(tmp_path, monkeypatch):
    bricks = Bricks(tmp_path / "full.bricks", 1, (16, 16, 16), np.float32)
    bricks._file.close()
    with Path("/dev/full").open("r+b", buffering=0) as full:
        bricks._file = full
        with pytest.raises(FileError, match="free space there"):
            bricks.write(np.ones((16, 16, 16), np.float32), 0, 0, 0)


@pytest.mark.parametrize("seed", range(30))
def test_bricks_hold_any_window(tmp_path, seed):
    random = np.random.default_rng(seed)
    shape = tuple(random.integers(1, 60, 3).tolist())
    n_channels = int(random.integers(1, 4))
    bricks = Bricks(tmp_path / "some.bricks", n_channels, shape, np.float32)
    expected = np.zeros((n_channels, *shape), np.float32)
    for step in range(6):
        begins = [int(random.integers(0, side)) for side in shape]
        ends = [int(random.integers(begin + 1, side + 1)) for begin, side in zip(begins, shape, strict=True)]
        if step % 2:
            begins = [begin // 16 * 16 for begin in begins]
        values = random.normal(size=(n_channels, *np.subtract(ends, begins))).astype(np.float32)
        bricks.write(values, *begins)
        expected[(slice(None), *map(slice, begins, ends))] = values
        begins = [int(random.integers(0, side)) for side in shape]
        window = tuple(
            (begin, int(random.integers(begin + 1, side + 1))) for begin, side in zip(begins, shape, strict=True)
        )
        read = bricks.read(*window)
        np.testing.assert_array_equal(read, expected[(slice(None), *(slice(*span) for span in window))])
        assert read.flags.c_contiguous
    bricks.close()
    kept = Bricks(tmp_path / "some.bricks", n_channels, shape, np.float32, keep=True)
    np.testing.assert_array_equal(kept.read(*((0, side) for side in shape)), expected)
    kept.close()
    fresh = Bricks(tmp_path / "some.bricks", n_channels, shape, np.float32)
    assert not fresh.read(*((0, side) for side in shape)).any()
    fresh.remove()
    assert not list(tmp_path.iterdir())


# ---- Doors --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"tile_pixels": 10**6}, CellrtError, "no tile_pixels with do_3D"),
        ({"interpolate": False}, CellrtError, "interpolate=True"),
        ({"normalize": Normalize99Spec(sharpen_radius=2.0)}, CellrtError, "need the whole image"),
        ({"anisotropy": 0}, CellrtError, "anisotropy as a positive number"),
        ({"anisotropy": -1.0}, CellrtError, "anisotropy as a positive number"),
        ({"flow3D_smooth": -1}, CellrtError, "flow3D_smooth"),
        ({"anisotropy": 1e9}, ImageError, "choose another"),
        ({"axes": "YX"}, ImageError, "axes"),
        ({"halo": -1}, CellrtError, "halo"),
    ],
)
def test_bad_options_are_refused_before_any_work(model, volume, monkeypatch, tmp_path, options, error, message):
    monkeypatch.setattr(model, "_network", lambda batch: pytest.fail("the network ran"))
    with pytest.raises(error, match=message):
        model.segment_large(volume, tmp_path / "labels.tif", do_3D=True, **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("options", [{"anisotropy": 2.0}, {"flow3D_smooth": 1.0}])
def test_options_of_volumes_are_not_for_images(model, volume, options):
    with pytest.raises(CellrtError, match="do_3D=True only"):
        model.segment_large(volume[0], np.zeros(SHAPE[1:], np.int32), **options)


@pytest.mark.parametrize("image", [np.zeros((20, 20)), np.zeros((1, 20, 20))])
def test_planes_are_no_volumes(model, image):
    with pytest.raises(ImageError, match=r"volume|ZYX|planes"):
        model.segment_large(image, np.zeros(image.shape, np.int32), do_3D=True)


def test_voxels_that_are_not_finite_are_found(model, volume):
    pixels = volume.copy()
    pixels[20, 30, 40] = np.nan
    for normalize in ("model", None):
        with pytest.raises(ImageError, match="NaN or infinity in planes"):
            model.segment_large(pixels, np.zeros(SHAPE, np.int32), do_3D=True, normalize=normalize)


def test_an_empty_volume(model, small, tmp_path):
    labels, found = large(model, np.zeros(SHAPE, np.float32))
    assert len(found) == 0
    assert not labels.any()
    assert "0 objects in 26 x 40 x 44 voxels" in repr(found)
