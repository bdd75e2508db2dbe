"""Volumes through networks of planes: Cellpose's answers, stitching and its twin, streams, memory, doors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flow_network
import numpy as np
import pytest
import reference_flow_3d
from conftest import GOLDEN_CELLPOSE, cellpose_reference_file
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from test_parity_cellpose import average_precision, normalization

import cellrt
from cellrt.errors import CellrtError, ImageError
from cellrt.flow_model import FlowMaps
from cellrt.manifest import Normalize99Spec
from cellrt.normalize99 import normalize99
from cellrt.planes import Stitcher, stitch, stitch_instances

DIAMETER = flow_network.DIAMETER
CASES = [path.stem for path in sorted((GOLDEN_CELLPOSE / "volumes").glob("*.npz"))]
REFERENCE_CASES = ["v3_3d", "v3_stitch"]


@pytest.fixture(scope="module")
def model() -> cellrt.FlowModel:
    opened = cellrt.load(flow_network.model(), providers=["cpu"], threads=1)
    assert isinstance(opened, cellrt.FlowModel)
    return opened


def balls(shape: tuple[int, int, int] = (30, 52, 56), diameter: float = DIAMETER, flatness: float = 1.0) -> Any:
    """Bright balls on a cubic lattice, float32 (Z, Y, X), with some noise; and how many."""
    random = np.random.default_rng(0)
    z, y, x = np.indices(shape, np.float32)
    pixels = random.normal(0, 0.01, shape).astype(np.float32)
    pitch = 1.6 * diameter
    axes = [np.arange(p / 2, side, p) for side, p in zip(shape, (pitch / flatness, pitch, pitch), strict=True)]
    for centre in np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, 3):
        distance = np.sqrt((flatness * (z - centre[0])) ** 2 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2)
        pixels += 1 / (1 + np.exp((distance - diameter / 2) / (diameter / 16)))
    return pixels, int(np.prod([len(axis) for axis in axes]))


# ---- Cellpose's answers -------------------------------------------------------------------------------------------


def asked(parameters: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arguments of our `predict` and `decode`."""
    predicting = {
        key: parameters[key] for key in ("anisotropy", "resample", "augment", "diameter") if key in parameters
    }
    predicting |= {"channels": tuple(parameters["channels"]), "normalize": normalization(parameters)}
    predicting["do_3D" if parameters.get("do_3D") else "stack"] = True
    predicting["axes"] = "ZYXC" if parameters.get("channel_axis") == 3 else "ZYX"
    same = ("flow_threshold", "cellprob_threshold", "niter", "min_size", "max_size_fraction", "flow3D_smooth")
    decoding = {key: parameters[key] for key in (*same, "stitch_threshold") if key in parameters}
    return predicting, decoding


@pytest.mark.parametrize("name", [*CASES, *REFERENCE_CASES])
def test_volumes_are_those_of_cellpose(name: str, exported_cellpose: Callable[[Path], Path]) -> None:
    if name in REFERENCE_CASES:
        path, source = cellpose_reference_file(f"{name}.npz"), cellpose_reference_file("models", "cpnet_synth")
    else:
        path, source = GOLDEN_CELLPOSE / "volumes" / f"{name}.npz", GOLDEN_CELLPOSE / "models" / "cells"
    case = dict(np.load(path))
    predicting, decoding = asked(json.loads(str(case["params"])))
    opened = cellrt.load(exported_cellpose(source), providers=["cpu"])
    assert isinstance(opened, cellrt.FlowModel)
    predicting.setdefault("diameter", opened.head.diam_labels)
    maps = opened.predict(case["image"], **predicting)
    if "sample" in case:
        ours, recorded = maps.maps.reshape(len(maps.maps), -1)[:, case["sample"]], case["sample_maps"]
    else:
        recorded = case["maps"] if "maps" in case else np.concatenate([case["dP"], case["cellprob"][np.newaxis]])
        ours = maps.maps
    smoothed = "flow3D_smooth" in decoding  # upstream smooths before it gives them
    rows = slice(3, None) if smoothed else slice(None)
    assert np.abs(ours - recorded)[rows].max() <= 1e-4 * max(1, np.abs(recorded).max())
    assert maps.style is not None
    assert np.abs(maps.style - case["style"]).max() <= 1e-4

    cells = opened.decode(maps, **decoding)
    assert cells.is_volume
    assert len(cells) == case["masks"].max()
    assert np.mean(cells.labels == case["masks"]) >= 0.999
    assert average_precision(cells.labels, case["masks"], 0.9) == 1.0
    if "maps" in case:  # from its own maps on, nothing is added in another order
        exact = opened.decode(FlowMaps(case["maps"], maps.shape, None, maps.diameter, maps.steps), **decoding)
        np.testing.assert_array_equal(exact.labels, case["masks"])


@pytest.mark.parametrize("version", ["v3", "v4"])
def test_planes_are_stitched_as_by_cellpose(version: str) -> None:
    case = np.load(GOLDEN_CELLPOSE / "kernels" / f"{version}_stitch.npz")
    names = [name for name in case if name.startswith("stitched")]
    assert len(names) == 15
    for name in names:
        _, index, threshold = name.split("_")
        np.testing.assert_array_equal(stitch(case[f"planes_{index}"], float(threshold)), case[name], name)


# ---- Stitching ----------------------------------------------------------------------------------------------------


@st.composite
def stacks(draw: st.DrawFn) -> NDArray[np.int32]:
    """Planes of blocks that go on, end, merge and split; some planes empty, some numbers left out."""
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    n_planes, n_labels = int(random.integers(1, 7)), int(random.integers(1, 7))
    blocks = random.integers(0, n_labels + 1, (n_planes, *random.integers(1, 4, 2)))
    blocks[1:] = np.where(random.random(blocks[1:].shape) < 0.5, blocks[:-1], blocks[1:])
    stack = np.kron(blocks, np.ones((1, 2, 3), int)).astype(np.int32)
    stack[random.random(stack.shape) < 0.2] = 0
    stack[random.random(n_planes) < 0.2] = 0
    return stack


@given(stacks(), st.sampled_from([0.01, 0.25, 1 / 3, 0.5, 1]), st.integers(1, 2))
@settings(max_examples=150)
def test_stitching_is_that_of_the_twin(stack: NDArray[np.int32], threshold: float, threads: int) -> None:
    before = stack.copy()
    np.testing.assert_array_equal(stitch(stack, threshold, threads=threads), reference_flow_3d.stitch(stack, threshold))
    np.testing.assert_array_equal(stack, before)


def test_numbers_begin_anew_after_an_empty_second_plane() -> None:
    plane = np.array([[1, 1, 0, 2]])
    assert stitch([plane, 0 * plane, plane], 0.5)[2].tolist() == [[1, 1, 0, 2]]  # upstream's; others would be 3 and 4
    assert stitch([plane, plane, 0 * plane, plane], 0.5)[3].tolist() == [[3, 3, 0, 4]]


def test_any_integers_are_stitched() -> None:
    planes = [np.array([[0, 3, 3]], np.uint8), np.array([[0, 200, 200]], np.uint64), np.array([[0, 1, 1]], np.int8)]
    assert stitch(iter(planes), 0.5).tolist() == [[[0, 3, 3]]] * 3
    stitcher = Stitcher(0.5)
    assert stitcher.add(planes[0]).tolist() == [[0, 3, 3]]
    assert stitcher.numbers.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("planes", "message"),
    [
        ([], "expected planes to stitch, got none"),
        ([np.zeros((2, 3))], r"expected planes of integer labels \(Y, X\) with pixels, got float64 \(2, 3\)"),
        ([np.zeros(3, int)], r"expected planes of integer labels \(Y, X\)"),
        ([np.zeros((0, 3), int)], r"expected planes of integer labels \(Y, X\) with pixels"),
        ([np.zeros((2, 3), int), np.zeros((3, 2), int)], r"expected planes of one shape, got \(3, 2\) after \(2, 3\)"),
        ([np.full((2, 3), -1)], "expected labels from 0 to 16777216, got -1 to -1"),
        ([np.full((2, 3), 2**40)], "expected labels from 0 to 16777216, got 1099511627776 to"),
    ],
)
def test_planes_that_are_refused(planes: list[Any], message: str) -> None:
    with pytest.raises(ImageError, match=message):
        stitch(planes, 0.5)


@pytest.mark.parametrize("threshold", [0, -0.1, 1.1, np.nan, "0.3", None, True])
def test_thresholds_that_are_refused(threshold: Any) -> None:
    with pytest.raises(CellrtError, match="expected stitch_threshold above 0, at most 1, got"):
        stitch([np.zeros((2, 3), int)], threshold)


# ---- Flow models --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dynamics", ["v3", "v4"])
def test_every_ball_is_found(dynamics: str) -> None:
    model = cellrt.load(flow_network.model(dynamics=dynamics), providers=["cpu"])
    volume, n_balls = balls()
    for options in ({"do_3D": True}, {"stitch_threshold": 0.3, "min_size": 100}):
        cells = model.segment(volume, diameter=DIAMETER, **options)
        assert len(cells) == n_balls == len(np.unique(cells.labels)) - 1
        assert cells.labels.shape == volume.shape
        assert cells.outlines is None
        assert ((cells.scores > 0.5) & (cells.scores <= 1)).all()
        inside = cells.labels[tuple(np.rint(cells.points).astype(int).T)]
        np.testing.assert_array_equal(inside, np.arange(1, n_balls + 1))


def test_a_volume_of_flat_cells(model: cellrt.FlowModel) -> None:
    volume, n_balls = balls((18, 52, 56), flatness=2)
    cells = model.segment(volume, diameter=DIAMETER, do_3D=True, anisotropy=2.0, interpolate=np.True_)
    assert len(cells) == n_balls
    maps = model.predict(volume, diameter=2 * DIAMETER, do_3D=True, anisotropy=2.0, resample=False)
    assert maps.maps.shape == (4, 18, 26, 28)
    assert maps.shape == (18, 52, 56)
    assert maps.steps == 200
    assert model.decode(maps).labels.shape == (18, 52, 56)


def test_three_passes_are_added_up(model: cellrt.FlowModel) -> None:
    volume, _ = balls((20, 27, 31))
    ready = normalize99(volume[np.newaxis], Normalize99Spec(), threads=1)[0]
    options: dict[str, Any] = {"diameter": DIAMETER, "normalize": None}
    maps = model.predict(ready, do_3D=True, **options)
    along_z = model.predict(ready, stack=True, **options)
    along_y = model.predict(ready.transpose(1, 0, 2), stack=True, **options)
    along_x = model.predict(ready.transpose(2, 0, 1), stack=True, **options)
    flow_y, flow_x, logit = along_z.maps
    np.testing.assert_array_equal(maps.maps[0], along_y.maps[0].transpose(1, 0, 2) + along_x.maps[0].transpose(1, 2, 0))
    np.testing.assert_array_equal(maps.maps[1], flow_y + along_x.maps[1].transpose(1, 2, 0))
    np.testing.assert_array_equal(maps.maps[2], flow_x + along_y.maps[1].transpose(1, 0, 2))
    of_others = along_y.maps[2].transpose(1, 0, 2), along_x.maps[2].transpose(1, 2, 0)
    np.testing.assert_array_equal(maps.maps[3], logit + of_others[0] + of_others[1])
    np.testing.assert_array_equal(maps.style, along_x.style)
    assert maps.flow.shape == (3, 20, 27, 31)
    np.testing.assert_array_equal(maps.cellprob, maps.maps[3])


def test_volumes_are_normalised_as_a_whole(model: cellrt.FlowModel) -> None:
    volume, _ = balls((6, 40, 44))
    volume[3] *= 0.5
    alone = model.predict(volume[3], diameter=DIAMETER).maps
    maps = model.predict(volume, diameter=DIAMETER, stack=True).maps
    assert np.abs(maps[:, 3] - alone).max() > 1
    large = np.random.default_rng(1).random((1, 100, 340, 345), np.float32)  # every second plane is sampled
    scaled = normalize99(large, Normalize99Spec(), threads=1)
    sample = large[0, ::2]
    low, high = np.percentile(sample, [1, 99])
    assert np.abs(scaled - (large - low) / (high - low)).max() < 1e-5


@pytest.mark.parametrize("options", [{"do_3D": True}, {"stitch_threshold": 0.3}])
def test_nothing_depends_on_batches_layout_or_streams(model: cellrt.FlowModel, options: dict[str, Any]) -> None:
    volume, _ = balls((20, 40, 44))
    whole = np.clip(np.round(volume * 10_000 + 5000), 0, 65535).astype(np.uint16)
    want = model.segment(whole, diameter=DIAMETER, batch_size=1, **options)
    assert len(want) > 0
    for image, axes in ((whole.transpose(2, 0, 1), "XZY"), (whole[..., np.newaxis], None), (whole[::-1][::-1], "ZYX")):
        cells = model.segment(image, axes=axes, diameter=DIAMETER, batch_size=7, **options)
        np.testing.assert_array_equal(cells.labels, want.labels)
    frozen = whole.copy()
    frozen.flags.writeable = False
    images = [frozen, np.zeros((4, 5)), whole[:, :30], lambda: (whole.transpose(1, 2, 0), "YXZ")]
    with model.stream(images, diameter=DIAMETER, batch_size=3, **options) as results:
        first, flat, cut, turned = results
    np.testing.assert_array_equal(first.instances.labels, want.labels)
    np.testing.assert_array_equal(turned.instances.labels, want.labels)
    assert cut.instances.labels.shape == (20, 30, 44)
    assert first.maps.maps.ndim == 4
    assert isinstance(flat.error, ImageError)
    assert "expected a volume with 3 or 4 axes" in str(flat.error)


def test_every_option_of_volumes_goes_through_a_stream() -> None:
    content = flow_network.model(side=64)  # an augmented plane takes four tiles at least
    model = cellrt.load(content, providers=["cpu"])
    volume, _ = balls((10, 40, 44), flatness=2)
    options: dict[str, Any] = {"do_3D": True, "anisotropy": 1.9, "flow3D_smooth": (1, 0.5, 0), "diameter": 18.0}
    options |= {"niter": 60, "cellprob_threshold": 1.0, "min_size": 40, "max_size_fraction": 0.3, "augment": True}
    want = model.segment(volume, **options)
    assert len(want) > 0
    (result,) = model.stream([volume], **options)
    np.testing.assert_array_equal(result.instances.labels, want.labels)
    plain = {name: options[name] for name in ("do_3D", "anisotropy", "diameter", "augment")}
    np.testing.assert_array_equal(result.maps.maps, model.predict(volume, **plain).maps)


def test_tiles_of_all_planes_share_batches(model: cellrt.FlowModel, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    network = model._network
    monkeypatch.setattr(model, "_network", lambda batch: sizes.append(len(batch)) or network(batch))
    volume, _ = balls((9, 20, 22))
    model.predict(volume, diameter=DIAMETER, do_3D=True, batch_size=8)
    assert sizes == [8, 1, 8, 8, 4, 8, 8, 6]
    sizes.clear()
    model.predict(np.zeros((3, 300, 40)), diameter=DIAMETER, stack=True, batch_size=4)
    assert sizes == [4, 2]  # two tiles in each plane


def test_planes_are_padded_as_the_network_comes_to_them(model: cellrt.FlowModel, monkeypatch: Any) -> None:
    from cellrt.planes import PlanesWork

    most = 0
    take = PlanesWork.take

    def counted(self: Any, *arguments: Any) -> None:
        nonlocal most
        most = max(most, len(self._planes))
        take(self, *arguments)

    monkeypatch.setattr(PlanesWork, "take", counted)
    model.predict(np.zeros((30, 20, 22)), diameter=DIAMETER, stack=True, batch_size=4)
    assert most == 4


def test_networks_of_one_size_see_volumes_too() -> None:
    content = flow_network.model(dynamics="v4", fixed_tile=True, n_style=0, n_channels=3, side=64)
    model = cellrt.load(content, providers=["cpu"])
    volume, n_balls = balls((20, 30, 32))
    maps = model.predict(volume, diameter=DIAMETER, do_3D=True, batch_size=8)
    assert maps.style is None
    assert len(model.decode(maps)) == n_balls


def test_decoding_again_needs_no_network(model: cellrt.FlowModel) -> None:
    volume, n_balls = balls((20, 40, 44))
    maps = model.predict(volume, diameter=DIAMETER, do_3D=True)
    assert len(model.decode(maps)) == n_balls
    assert len(model.decode(maps, flow3D_smooth=(1, 0, 0))) == n_balls
    assert len(model.decode(maps, cellprob_threshold=20.0)) == 0
    assert len(model.decode(maps, min_size=10**6)) == 0
    assert len(model.decode(maps, max_size_fraction=1e-4)) == 0
    assert len(model.decode(maps, flow_threshold=1e-9)) == n_balls  # masks of volumes are not compared with flows
    stack = model.predict(volume, diameter=DIAMETER, stack=True)
    loose, strict = model.decode(stack, stitch_threshold=0.1), model.decode(stack, stitch_threshold=1.0)
    assert len(loose) < len(strict)


def test_a_stack_of_one_plane_is_that_plane(model: cellrt.FlowModel) -> None:
    pixels, _ = flow_network.image()
    cells = model.segment(pixels[np.newaxis], diameter=DIAMETER, stitch_threshold=0.3)
    np.testing.assert_array_equal(cells.labels[0], model.segment(pixels, diameter=DIAMETER).labels)


def test_volumes_without_cells(model: cellrt.FlowModel) -> None:
    for volume in (np.zeros((4, 20, 22)), np.full((4, 20, 22), 7, np.uint8)):
        for options in ({"do_3D": True}, {"stitch_threshold": 0.3}):
            cells = model.segment(volume, diameter=DIAMETER, **options)
            assert len(cells) == 0
            assert cells.labels.shape == volume.shape
            assert cells.points.shape == (0, 3)


def test_memory_limits_count_the_volume() -> None:
    volume, _ = balls((20, 40, 44))
    content = flow_network.model()
    assert len(cellrt.load(content, providers=["cpu"], memory="2GB").segment(volume, do_3D=True)) > 0
    tight = cellrt.load(content, providers=["cpu"], memory="460MB")
    tight.segment(volume[0])
    with pytest.raises(CellrtError, match=r"expected a memory limit of at least .* for this, got 460 MB; allow more"):
        tight.segment(np.zeros((60, 400, 400), np.uint8), do_3D=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"do_3D": True, "stitch_threshold": 0.3}, "expected do_3D=True or a stitch_threshold, got both; choose one"),
        ({"do_3D": 1}, "expected do_3D to be True or False, got 1"),
        ({"do_3D": True, "anisotropy": 0}, "expected anisotropy as a positive number, .*got 0; leave it out"),
        ({"do_3D": True, "anisotropy": -1.0}, "expected anisotropy as a positive number"),
        ({"do_3D": True, "anisotropy": np.nan}, "expected anisotropy as a positive number.*got nan"),
        ({"do_3D": True, "anisotropy": "2"}, "expected anisotropy as a positive number.*got '2'"),
        ({"do_3D": True, "anisotropy": 1e-3}, "expected a rescaled volume of 1 to .* anisotropy 0.001; choose another"),
        ({"do_3D": True, "anisotropy": 1e9}, "expected a rescaled volume of 1 to"),
        ({"do_3D": True, "anisotropy": 1e308}, "expected a rescaled volume of 1 to"),
        ({"do_3D": True, "diameter": 1e-4}, "expected a rescaled volume of 1 to"),
        ({"do_3D": True, "diameter": 1e-40}, "expected a rescaled volume of 1 to"),
        ({"stitch_threshold": 0.3, "diameter": 1e-40}, "expected a rescaled image of 1 to"),
        ({"anisotropy": 2.0}, "expected anisotropy with do_3D=True only, got 2.0; leave it out"),
        ({"stitch_threshold": 0.3, "anisotropy": 2.0}, "expected anisotropy with do_3D=True only"),
        ({"flow3D_smooth": 1}, "expected flow3D_smooth with do_3D=True only, got 1; leave it out"),
        ({"stitch_threshold": 0.3, "flow3D_smooth": 1}, "expected flow3D_smooth with do_3D=True only"),
        ({"do_3D": True, "flow3D_smooth": (1, 2)}, "expected flow3D_smooth as a number of voxels"),
        ({"stitch_threshold": 0}, "expected stitch_threshold above 0, at most 1, got 0"),
        ({"stitch_threshold": 2}, "expected stitch_threshold above 0, at most 1, got 2"),
        ({"do_3D": True, "interpolate": False}, "expected interpolate=True with do_3D=True, got False; leave it out"),
        ({"do_3D": True, "interpolate": "no"}, "expected interpolate=True with do_3D=True, got 'no'; leave it out"),
        ({"do_3D": True, "flow_threshold": -1}, "expected flow_threshold to be a number of at least 0, got -1"),
        ({"do_3D": True, "min_size": "15"}, "expected min_size as a whole number"),
        ({"stitch_threshold": 0.5, "min_size": "15"}, "expected min_size as a whole number"),
        ({"stitch_threshold": 0.5, "niter": -1}, "expected niter as a whole number"),
    ],
)
def test_options_that_are_refused(model: cellrt.FlowModel, options: dict[str, Any], message: str) -> None:
    volume, _ = balls((4, 20, 22))
    with pytest.raises(CellrtError, match=message):
        model.segment(volume, axes="ZYX" if "do_3D" in options else None, **options)
    if "rescaled" not in message:  # sides are not known before there is an image
        with pytest.raises(CellrtError, match=message):
            model.stream([volume], **options)


@pytest.mark.parametrize(
    ("volume", "options", "message"),
    [
        (np.zeros((20, 22)), {"do_3D": True}, "expected a volume with 3 or 4 axes, got an image of shape"),
        (np.zeros((20, 22)), {"stitch_threshold": 0.3}, "expected a volume with 3 or 4 axes, got an image of shape"),
        (np.zeros((1, 20, 22)), {"do_3D": True}, "expected a volume of several planes with do_3D=True, got shape"),
        (np.full((3, 20, 22), np.nan), {"do_3D": True}, "expected finite pixels, got NaN or infinity"),
        (np.full((3, 20, 22), np.inf), {"stitch_threshold": 0.3}, "expected finite pixels, got NaN or infinity"),
        (np.zeros((3, 0, 22)), {"do_3D": True}, "expected an image with pixels"),
        (np.zeros((2, 3, 3, 20, 22)), {"do_3D": True}, "expected a volume with 3 or 4 axes, got shape"),
        (np.zeros((3, 20, 22)), {"do_3D": True, "axes": "CYX"}, "expected a volume with an axis Z, got axes CYX"),
    ],
)
def test_volumes_that_are_refused(
    model: cellrt.FlowModel, volume: NDArray[Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ImageError, match=message):
        model.segment(volume, **options)


def test_maps_are_decoded_with_the_options_that_they_were_made_with(model: cellrt.FlowModel) -> None:
    volume, _ = balls((4, 20, 22))
    through, stack, plane = (
        model.predict(image, diameter=DIAMETER, **options)
        for image, options in ((volume, {"do_3D": True}), (volume, {"stack": True}), (volume[0], {}))
    )
    with pytest.raises(CellrtError, match="expected a stitch_threshold with maps of a stack, got None"):
        model.decode(stack)
    for maps in (through, plane):
        with pytest.raises(CellrtError, match=r"expected no stitch_threshold with these maps, got 0\.3"):
            model.decode(maps, stitch_threshold=0.3)
    with pytest.raises(CellrtError, match="expected flow3D_smooth with do_3D=True only, got 1"):
        model.decode(plane, flow3D_smooth=1)
    with pytest.raises(CellrtError, match="expected do_3D=True or stack=True, got both; choose one"):
        model.predict(volume, do_3D=True, stack=True)


# ---- Star models --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stars() -> cellrt.StarModel:
    opened = cellrt.load("nuclei", providers=["cpu"])
    assert isinstance(opened, cellrt.StarModel)
    return opened


def test_planes_of_star_models_are_stitched(stars: cellrt.StarModel) -> None:
    volume, n_balls = balls((26, 90, 96), diameter=20)
    cells = stars.segment(volume, stitch_threshold=0.3)
    assert cells.is_volume
    assert len(cells) == n_balls == len(np.unique(cells.labels)) - 1 > 0
    inside = cells.labels[tuple(np.rint(cells.points).astype(int).T)]
    np.testing.assert_array_equal(inside, np.arange(1, len(cells) + 1))
    # the same by hand, from planes that are normalised as the volume is
    low, high = np.percentile(volume, [stars._normalize.low, stars._normalize.high])
    ready = ((volume - np.float32(low)) / (np.float32(high) - np.float32(low) + np.float32(1e-20))).astype(np.float32)
    planes = [stars.segment(plane, normalize=None) for plane in ready]
    np.testing.assert_array_equal(cells.labels, stitch_instances(planes, 0.3).labels)
    labels = stitch([plane.labels for plane in planes], 0.3)
    np.testing.assert_array_equal(np.unique(labels, return_inverse=True)[1].reshape(labels.shape), cells.labels)
    assert cells.scores.max() == max(plane.scores.max() for plane in planes if len(plane))
    with stars.stream([volume, volume[:, :60]], stitch_threshold=0.3) as results:
        np.testing.assert_array_equal(next(results).instances.labels, cells.labels)


def test_star_models_refuse_what_is_no_stack(stars: cellrt.StarModel) -> None:
    with pytest.raises(ImageError, match="expected a volume with 3 or 4 axes, got an image of shape"):
        stars.segment(np.eye(40), stitch_threshold=0.3)
    for refused in (
        lambda: stars.segment(np.eye(40), stitch_threshold=0),
        lambda: stars.stream([], stitch_threshold=0),
    ):
        with pytest.raises(CellrtError, match="expected stitch_threshold above 0, at most 1, got 0"):
            refused()
    empty = stars.segment(balls((3, 64, 64))[0], prob_thresh=1.0, stitch_threshold=0.3)
    assert len(empty) == 0
    assert empty.labels.shape == (3, 64, 64)
