"""`cellrt export cellpose`: parity with the original, refusals, and what the file holds.

Three sources of truth: outputs of Cellpose 3.1.1.3 in tests/golden and, where it is there, ../shared/reference; and
`CPNet`, the network in torch with a normalisation before every convolution and nothing folded, with random weights.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import cellrt  # noqa: E402
from cellrt.errors import CellrtError, FileError, ModelError  # noqa: E402
from cellrt.manifest import Manifest, Normalize99Spec  # noqa: E402
from cellrt.session import Session  # noqa: E402
from cellrt_export import cellpose, commands, cpnet_graph, size_model, torch_weights  # noqa: E402
from cellrt_export.cpnet import CPNet  # noqa: E402
from cellrt_export.verify import verify  # noqa: E402

GOLDEN = Path(__file__).parent / "golden" / "cellpose"
REFERENCE = Path(__file__).parents[2] / "shared" / "reference" / "cellpose"
SYNTH = REFERENCE / "models" / "cpnet_synth"
CASES = ("v3_synth2ch", "v3_stardist_img2d_crop", "v3_synth_noresample_nointerp")

needs_golden = pytest.mark.skipif(not (GOLDEN / "models" / "cells").exists(), reason="tests/golden is not recorded")
needs_reference = pytest.mark.skipif(not SYNTH.exists(), reason="no ../shared/reference beside the repository")


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Networks this small gain nothing by threads, and torch's spin while they wait."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def random_net(n_channels: int = 2, widths: tuple[int, ...] = (4, 8, 8, 16), seed: int = 0) -> CPNet:
    """A network whose every number counts: negative and zero gammas, and statistics of what really comes by."""
    torch.manual_seed(seed)
    net = CPNet(n_channels, widths, diam_mean=17.0).train()
    norms = [module for module in net.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm in norms:
        torch.nn.init.uniform_(norm.weight, -1.5, 1.5)
        norm.weight.data[0] = 0
        torch.nn.init.normal_(norm.bias, 0, 0.3)
        norm.momentum = 1.0
    with torch.no_grad():
        maps, _ = net(torch.rand(4, n_channels, 4 * net.multiple, 4 * net.multiple))
    assert maps.std((0, 2, 3)).min() > 0.05
    net.diam_labels.fill_(21.5)
    return net.eval()


def weights_of(net: CPNet) -> OrderedDict[str, Any]:
    return OrderedDict((key, value.clone()) for key, value in net.state_dict().items())


def saved(content: Any, path: Path, **options: Any) -> Path:
    torch.save(content, path, **options)
    return path


def run(model: Path | bytes, image: np.ndarray) -> dict[str, np.ndarray]:
    return Session(model, providers=["cpu"]).run(image.astype(np.float32))


def assert_like_torch(model: Path | bytes, net: CPNet, shape: tuple[int, ...], tolerance: float) -> None:
    """Maps within the tolerance, relative to the largest of them; torch computes as `net` does, float32 or float64."""
    image = np.random.default_rng(1).random(shape, np.float32)
    outputs = run(model, image)
    with torch.no_grad():
        maps, style = net(torch.from_numpy(image).to(net.diam_mean.dtype))
    scale = max(1, float(maps.abs().max()))
    np.testing.assert_allclose(outputs["maps"], maps.numpy(), rtol=0, atol=tolerance * scale)
    np.testing.assert_allclose(outputs["style"], style.numpy(), rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def net() -> CPNet:
    return random_net()


@pytest.fixture
def weights(net: CPNet, tmp_path: Path) -> Path:
    """A small valid file."""
    return saved(weights_of(net), tmp_path / "cells")


# ---- parity with the original -------------------------------------------------------------------------------


def padded(image: np.ndarray) -> tuple[np.ndarray, tuple[slice, slice]]:
    """(Y, X, C) -> (1, C, y, x) with the margins that Cellpose adds, and where the image lies in it."""
    pads = [(8 + (-side % 16) // 2, 8 + (-side % 16) - (-side % 16) // 2) for side in image.shape[:2]]
    inside = tuple(slice(low, low + side) for (low, _), side in zip(pads, image.shape, strict=False))
    return np.pad(image, [*pads, (0, 0)]).transpose(2, 0, 1)[None], (inside[0], inside[1])


@needs_golden
def test_golden_weights_give_the_maps_and_style_of_the_original(tmp_path: Path) -> None:
    recorded = np.load(GOLDEN / "cases" / "grey.npz")  # one tile, not resized
    summary = cellpose.export(GOLDEN / "models" / "cells", tmp_path / "m.onnx")
    image, inside = padded(recorded["normalized"])
    outputs = run(summary.output, image)
    maps = outputs["maps"][0][:, inside[0], inside[1]].transpose(1, 2, 0)
    np.testing.assert_allclose(maps, recorded["net_out_netres"], rtol=0, atol=2e-5)
    np.testing.assert_allclose(outputs["style"][0], recorded["style"], rtol=0, atol=1e-5)


@needs_golden
def test_the_torch_network_has_the_names_of_the_originals() -> None:
    stored = torch.load(GOLDEN / "models" / "cells", weights_only=True)
    net = CPNet(2, (8, 16, 32, 64))
    assert list(net.state_dict()) == list(stored)
    net.load_state_dict(stored)
    assert float(net.diam_mean) == 17


@pytest.fixture(scope="module")
def synth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reference model, exported once."""
    output = tmp_path_factory.mktemp("reference") / "synth.onnx"
    return cellpose.export(SYNTH, output, size_model_file=f"{SYNTH}_size.npy").output


@needs_reference
def test_reference_weights_give_the_maps_of_torch(synth: Path) -> None:
    net = CPNet()
    net.load_state_dict(torch.load(SYNTH, weights_only=True))
    for shape in ((3, 2, 64, 64), (2, 2, 64, 64), (1, 2, 160, 272), (1, 2, 224, 224)):
        assert_like_torch(synth, net.eval(), shape, tolerance=1e-5)


@needs_reference
@pytest.mark.parametrize("case", CASES)
def test_reference_case_gives_the_maps_of_the_original(case: str, synth: Path) -> None:
    recorded = np.load(REFERENCE / f"{case}.npz")
    model = cellrt.load(synth)
    diameter = json.loads(str(recorded["params"]))["diameter"]
    # what the original gave its network, before resizing; tiles and their blend are the runtime's
    maps = model.predict(recorded["normalized"][0], axes="YXC", normalize=None, diameter=diameter, resample=False)
    np.testing.assert_allclose(maps.maps.transpose(1, 2, 0), recorded["net_out_netres"][0], rtol=0, atol=1e-4)
    np.testing.assert_allclose(maps.style, recorded["style"], rtol=0, atol=1e-5)


@needs_reference
def test_reference_size_model(synth: Path) -> None:
    head = cellrt.load(synth).manifest.head
    recorded = np.load(f"{SYNTH}_size.npy", allow_pickle=True).item()
    assert (head.diam_mean, head.size_model.diam_mean, head.n_style) == (17, 17, 256)
    assert head.size_model.offset == float(recorded["ymean"])
    assert np.array_equal(head.size_model.weights, recorded["A"])
    assert np.array_equal(np.float32(head.size_model.style_mean), recorded["smean"])


# ---- every network ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n_channels", "widths", "shapes"),
    [
        (2, (4, 8, 8, 16), [(1, 64, 64), (3, 8, 16), (2, 40, 24)]),
        (2, (32, 48), [(1, 18, 22)]),  # channels by sixteens, for which ONNX Runtime has other kernels
        (1, (3, 5), [(2, 2, 4), (1, 14, 6)]),
        (3, (4,), [(1, 5, 7)]),
        (2, (2, 3, 4, 5, 6), [(1, 16, 48)]),
    ],
)
def test_maps_and_style_equal_torch(
    n_channels: int, widths: tuple[int, ...], shapes: list[tuple[int, int, int]], tmp_path: Path
) -> None:
    net = random_net(n_channels, widths, seed=len(widths))
    summary = cellpose.export(saved(weights_of(net), tmp_path / "w"), tmp_path / "m.onnx")
    multiple = 2 ** (len(widths) - 1)
    assert summary.manifest.tile.multiple == (multiple, multiple)
    assert (summary.manifest.input.n_channels, summary.manifest.head.n_style) == (n_channels, widths[-1])
    for n, y, x in shapes:  # random weights of this size amplify rounding, in torch as much
        assert_like_torch(summary.output, net.double(), (n, n_channels, y, x), tolerance=3e-5)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**20), n=st.integers(1, 3), y=st.integers(1, 5), x=st.integers(1, 5))
def test_repeated_samples_are_convolved_before_they_are_repeated(seed: int, n: int, y: int, x: int) -> None:
    """Four kernels of 2 x 2 are a 3 x 3 kernel on repeated samples, at the edges as well."""
    random = np.random.default_rng(seed)
    samples = random.normal(size=(n, 3, y, x)).astype(np.float32)
    kernel = cpnet_graph._Kernel(random.normal(size=(2, 3, 3, 3)), random.normal(size=2))
    layers = cpnet_graph._Layers(torch_weights.TorchWeights("w", "", {}))
    layers.convolve_repeated("out", "image", kernel, like="shape")
    layers.graph.constant("shape", np.zeros((n, 2, 2 * y, 2 * x), np.float32))
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        layers.graph.nodes,
        "test",
        [value("image", onnx.TensorProto.FLOAT, samples.shape)],
        [value("out", onnx.TensorProto.FLOAT, (n, 2, 2 * y, 2 * x))],
        [onnx.numpy_helper.from_array(array, name) for name, array in layers.graph.constants.items()],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    repeated = torch.from_numpy(samples.repeat(2, 2).repeat(2, 3)).double()
    wanted = torch.nn.functional.conv2d(
        repeated, torch.from_numpy(kernel.weight), torch.from_numpy(kernel.bias), padding=1
    )
    out = run(model.SerializeToString(), samples)["out"]
    np.testing.assert_allclose(out, wanted.numpy(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("widths", [(2, 2, 2, 2), (2, 2, 2), (2,)])
def test_halo_is_how_far_a_cut_reaches(widths: tuple[int, ...], tmp_path: Path) -> None:
    """Ones on one side of a cut, in a network that makes zeros of zeros and something of anything else."""
    net = CPNet(1, widths).eval()
    for name, value in net.state_dict().items():
        if value.ndim == 4:
            value.fill_(0.5)
        elif name.endswith("bias") or "full" in name:  # without a say of the style
            value.fill_(0)
    summary = cellpose.export(saved(net.state_dict(), tmp_path / "w"), tmp_path / "m.onnx")
    tile = summary.manifest.tile
    assert tile.receptive_field == tile.halo
    halo, multiple = tile.halo[0], tile.multiple[0]
    cut = -(-halo // multiple) * multiple
    image = np.zeros((1, 1, multiple, 2 * cut + multiple), np.float32)
    image[..., :cut] = 1
    reached = np.flatnonzero(run(summary.output, image)["maps"][0].any((0, 1)))
    image = image[..., ::-1]
    from_behind = np.flatnonzero(run(summary.output, np.ascontiguousarray(image))["maps"][0].any((0, 1)))
    spoiled = reached.max() + 1 - cut, image.shape[-1] - cut - from_behind.min()
    assert max(spoiled) == halo
    if widths == (2, 2, 2, 2):
        assert halo == 124  # of every network that Cellpose publishes


def test_float16_legacy_and_prefixed_files(net: CPNet, weights: Path, tmp_path: Path) -> None:
    state = weights_of(net)
    wanted = torch_weights.read(weights).arrays
    legacy = saved(state, tmp_path / "legacy", _use_new_zipfile_serialization=False)
    prefixed = saved({f"module.{key}": value for key, value in state.items()}, tmp_path / "prefixed")
    double = saved({key: value.double() for key, value in state.items()}, tmp_path / "double")
    half = saved({key: value.half() for key, value in state.items()}, tmp_path / "half")
    for path in (legacy, prefixed, double, half):
        arrays = torch_weights.read(path).arrays
        assert list(arrays) == list(wanted)
        for key, array in arrays.items():
            np.testing.assert_allclose(array, wanted[key], rtol=0, atol=1e-2 if path is half else 0)
    counters = [key for key in state if key.endswith("batches_tracked")]
    old = saved({key: value for key, value in state.items() if key not in counters}, tmp_path / "old")
    assert cpnet_graph.sizes(torch_weights.read(old)) == cpnet_graph.sizes(torch_weights.read(half))


def test_the_same_weights_give_the_same_bytes(weights: Path, tmp_path: Path) -> None:
    first, second = (cellpose.export(weights, tmp_path / f"{n}.onnx").output.read_bytes() for n in range(2))
    assert first == second
    assert str(tmp_path).encode() not in first


def test_maps_and_style_know_of_nothing_but_their_own_image(net: CPNet, weights: Path, tmp_path: Path) -> None:
    output = cellpose.export(weights, tmp_path / "m.onnx").output
    batch = np.random.default_rng(0).random((3, 2, 24, 32), np.float32)
    whole = run(output, batch)
    for index in range(3):
        alone = run(output, batch[index : index + 1])
        np.testing.assert_allclose(alone["maps"][0], whole["maps"][index], rtol=0, atol=1e-5)
        np.testing.assert_allclose(alone["style"][0], whole["style"][index], rtol=0, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(whole["style"], axis=1), 1, atol=1e-6)


# ---- what the file says -------------------------------------------------------------------------------------


def test_manifest(weights: Path, tmp_path: Path) -> None:
    summary = cellpose.export(weights, tmp_path / "m.onnx")
    model = cellrt.load(summary.output)
    manifest = model.manifest
    assert manifest == summary.manifest
    head = manifest.head
    assert (head.kind, head.dynamics, head.diam_mean, head.diam_labels, head.tile) == ("flow", "v3", 17, 21.5, 224)
    assert (head.flow_threshold, head.cellprob_threshold, head.min_size) == (0.4, 0, 15)
    assert (head.n_style, head.fixed_tile, head.size_model) == (16, False, None)
    assert manifest.normalize == Normalize99Spec(1, 99, rules="v3")
    assert (manifest.name, manifest.source.name, manifest.source.upstream) == ("cells", "cells", "cellpose")
    assert manifest.source.licence == "not stated"
    assert len(manifest.source.sha256) == 64
    assert model.selftest().identical
    text = str(summary)
    assert "CC-BY-NC" in text
    assert "halo 124 x 124" in text
    assert max(map(len, text.split("\n"))) <= 160

    stored = onnx.load(summary.output)
    assert stored.opset_import[0].version == 17
    assert [output.name for output in stored.graph.output] == ["maps", "style"]
    common = {
        "Conv",
        "BatchNormalization",
        "Relu",
        "Add",
        "MaxPool",
        "Resize",
        "Concat",
        "Shape",
        "Reshape",
        "Unsqueeze",
    }
    assert {node.op_type for node in stored.graph.node} == {
        *common,
        "GlobalAveragePool",
        "Flatten",
        "ReduceL2",
        "Div",
        "Gemm",
    }


def test_options(weights: Path, tmp_path: Path) -> None:
    summary = cellpose.export(
        weights,
        tmp_path / "m.onnx",
        normalize=Normalize99Spec(2, 98),
        name="mine",
        licence="CC-BY-4.0",
        diam_mean=30,
        flow_threshold=0.6,
        cellprob_threshold=-2,
        min_size=-1,
    )
    manifest = cellrt.load(summary.output).manifest
    head = manifest.head
    assert (head.diam_mean, head.diam_labels) == (30, 21.5)
    assert (head.flow_threshold, head.cellprob_threshold, head.min_size) == (0.6, -2, -1)
    assert (manifest.name, manifest.source.licence, manifest.normalize.low) == ("mine", "CC-BY-4.0", 2)
    assert "CC-BY-NC" not in str(summary)


def test_weights_of_cellpose_1_have_no_diameter(net: CPNet, tmp_path: Path) -> None:
    state = {key: value for key, value in weights_of(net).items() if "diam" not in key}
    weights = saved(state, tmp_path / "nuclei")
    with pytest.raises(
        ModelError, match=r"expected diam_mean in nuclei, got .* none; say it with --diam-mean .*17 for"
    ):
        cellpose.export(weights, tmp_path / "m.onnx")
    head = cellpose.export(weights, tmp_path / "m.onnx", diam_mean=17).manifest.head
    assert (head.diam_mean, head.diam_labels) == (17, 17)


@pytest.mark.parametrize("option", ["diam_mean", "flow_threshold", "cellprob_threshold", "min_size"])
def test_numbers_that_are_none(option: str, weights: Path, tmp_path: Path) -> None:
    with pytest.raises(CellrtError, match=f"expected {option} to be a finite number, got nan"):
        cellpose.export(weights, tmp_path / "m.onnx", **{option: float("nan")})
    if option in ("diam_mean", "flow_threshold"):
        with pytest.raises(CellrtError, match=option):
            cellpose.export(weights, tmp_path / "m.onnx", **{option: -1})


# ---- networks that are refused ------------------------------------------------------------------------------


def _without(*names: str) -> Callable[[dict[str, Any]], None]:
    def change(state: dict[str, Any]) -> None:
        for name in names:
            del state[name]

    return change


def _with(name: str, *shape: int, value: float = 0.5) -> Callable[[dict[str, Any]], None]:
    return lambda state: state.update({name: torch.full(shape, value)})


def _six_levels(state: dict[str, Any]) -> None:
    state.clear()
    state.update(CPNet(2, (1, 1, 1, 1, 1, 1)).state_dict())


def _three_dimensions(state: dict[str, Any]) -> None:
    state.update({key: value[..., None] for key, value in state.items() if value.ndim == 4})


def _only(*names: str) -> Callable[[dict[str, Any]], None]:
    def change(state: dict[str, Any]) -> None:
        state.clear()
        state.update({name: torch.zeros(1) for name in names})

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_with("W2", 192, 3, 8, 8), "got those of Cellpose-SAM .*; use: cellrt export cellpose-sam"),
        (_with("encoder.patch_embed.proj.weight", 8, 2, 7, 7), "got those of one with a transformer"),
        (_only("weight", "bias"), "got weight, bias; use a file that Cellpose's own training wrote"),
        (_only("a", "b", "c", "d", "e"), "got a, b, c and 2 more"),
        (_only("output.2.weight"), "got output.2.weight; use"),
        (_three_dimensions, "3-D convolutions; export one of Cellpose's 2-D"),
        (_with("output.2.weight", 1, 4, 1, 1), r"network of 3 maps in w .*, got 1; networks that restore images \(den"),
        (_with("output.2.weight", 5, 4, 1, 1), "network of 3 maps in w .*, got 5; use a segmentation network"),
        (_six_levels, "expected 1 to 5 levels of .* in w, got 2, 1, 1, 1, 1, 1, 1;"),
        (
            _with("downsample.down.res_down_0.proj.1.weight", 4, 0, 1, 1),
            "expected 1 to 5 levels of 1 to 65536 channels",
        ),
        (_without("output.0.bias"), "expected 270 arrays in w, got none named output.0.bias; use the file"),
        (
            lambda state: _without(*[key for key in state if "res_up_1" in key])(state),
            r"got none named upsample\.up\.res_up_1\.proj\.0\.weight, .* and 33 more; use the file that Cellpose wrote",
        ),
        (_with("output.3.weight", 3), "expected 270 arrays in w, got further ones: output.3.weight"),
        (_with("output.0.bias", 5), r"expected output.0.bias of shape \(4,\) in w, got \(5,\)"),
        (_with("upsample.up.res_up_2.conv.conv_3.full.weight", 8, 8), r"shape \(8, 16\) in w, got \(8, 8\)"),
        (
            _with("downsample.down.res_down_2.conv.conv_0.2.weight", 8, 8, 5, 5),
            r"\(8, 8, 3, 3\) in w, got \(8, 8, 5, 5\)",
        ),
        (_with("diam_mean", 2), r"expected diam_mean of shape \(1,\) in w, got \(2,\)"),
        (_with("diam_mean", 1, value=0), r"expected head.diam_mean to be a number of pixels in \(0, 10000\), got 0"),
        (_with("output.0.running_var", 4, value=-1), "expected variances of at least 0 at output.0 in w, got -1"),
        (_with("output.2.bias", 3, value=float("nan")), "got NaN or infinity in 'output.2.bias' of w; the training"),
        (_with("output.2.bias", 3, value=3e38), "expected finite maps|finite"),
    ],
)
def test_refused_network(change: Callable[[dict[str, Any]], None], message: str, net: CPNet, tmp_path: Path) -> None:
    state = weights_of(net)
    change(state)
    if "finite maps" in message:  # the sum of two of these is infinite
        state["output.2.weight"].fill_(3e38)
    weights = saved(state, tmp_path / "w")
    with pytest.raises(ModelError, match=message):
        cellpose.export(weights, tmp_path / "m.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["w"]


# ---- files that are refused ---------------------------------------------------------------------------------


class Hostile:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


def in_bytes(content: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["zip", "legacy", "pickle"])
def test_hostile_weights_are_not_run(kind: str, net: CPNet, tmp_path: Path) -> None:
    folder, path = tmp_path / "made", tmp_path / "w"
    content = {**weights_of(net), "output.4.weight": Hostile(folder)}
    if kind == "pickle":
        path.write_bytes(pickle.dumps({"a": Hostile(folder)}, protocol=2))
    else:
        saved(content, path, _use_new_zipfile_serialization=kind == "zip")
    with pytest.raises(
        ModelError, match=r"expected w to hold tensors by name, got a file that asks for \S*mkdir, which"
    ):
        cellpose.export(path, tmp_path / "m.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["w"]
    if kind == "pickle":
        pickle.loads(path.read_bytes())
        assert folder.is_dir()  # it would have


def _archive(size: int) -> bytes:
    """A zip file that says that it unpacks to this size."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("w/data.pkl", b"0" * 100)
    content = buffer.getvalue()
    at = content.index(b"PK\x01\x02") + 24
    return content[:at] + struct.pack("<I", size) + content[at + 4 :]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected a complete file of torch.save, got w, which cannot be read; copy it again"),
        (b"\x89PNG\r\n\x1a\n", "expected a complete file of torch.save"),
        (in_bytes({"a": torch.ones(9)})[:-30], "expected a complete file of torch.save"),
        (in_bytes({"a": torch.ones(9)}, _use_new_zipfile_serialization=False)[:-9], "expected a complete file of"),
        (_archive(100), "expected a complete file of torch.save"),
        (_archive(2**32 - 2), "expected under 2 GiB of weights in w, got more"),
        (
            in_bytes(torch.nn.Linear(2, 2)),
            r"asks for torch.nn.modules.linear.Linear, .* save the network with torch.save",
        ),
        (in_bytes(torch.ones(3)), "expected w to hold a state dict, got Tensor; save it with torch.save"),
        (in_bytes([torch.ones(3)]), "expected w to hold a state dict, got list"),
        (in_bytes({}), "expected w to hold a state dict, got an empty dict"),
        (
            in_bytes({"state_dict": {}, "epoch": 3}),
            "tensors by name, got dict at 'state_dict'; save the network's state",
        ),
        (in_bytes({1: torch.ones(3)}), "expected w to hold tensors by name, got Tensor at '1'"),
        (in_bytes({"a": torch.ones(1).expand(10**6, 10**6)}), "expected under 2 GiB of weights in w, got more"),
        (
            in_bytes({"a": torch.eye(3).to_sparse()}),
            r"expected plain tensors in w, got torch.float32 \(torch.sparse_coo",
        ),
        (in_bytes({"a": torch.ones(3, device="meta")}), "expected plain tensors in w, got .*, meta"),
        (in_bytes({"a": torch.ones(3, dtype=torch.complex64)}), "expected plain tensors in w, got torch.complex64"),
    ],
)
def test_refused_file(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "w"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=message):
        cellpose.export(path, tmp_path / "m.onnx")


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), zipped=st.booleans())
def test_damaged_files_give_weights_or_an_error_of_ours(data: st.DataObject, zipped: bool, tmp_path: Path) -> None:
    state = {"output.2.weight": torch.arange(12.0), "diam_mean": torch.ones(1)}
    content = bytearray(in_bytes(state, _use_new_zipfile_serialization=zipped))
    at = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content = content[:at]
    else:
        content[at] ^= data.draw(st.integers(1, 255))
    path = tmp_path / "w"
    path.write_bytes(content)
    message = "; "
    try:
        assert torch_weights.read(path).arrays
    except CellrtError as error:
        message = str(error)
    assert "; " in message  # what to do


def test_files_that_are_not_there(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"expected to read .*nowhere, got No such file"):
        cellpose.export(tmp_path / "nowhere", tmp_path / "m.onnx")
    with pytest.raises(FileError, match=r"expected to read .*, got Is a directory"):
        cellpose.export(tmp_path, tmp_path / "m.onnx")
    with pytest.raises(FileError, match=r"expected a folder for m\.onnx"):
        cellpose.export(weights, tmp_path / "nowhere" / "m.onnx")
    output = tmp_path / "m.onnx"
    output.write_bytes(b"precious")
    with pytest.raises(FileError, match="got one; give another name, or --force"):
        cellpose.export(weights, output)
    assert output.read_bytes() == b"precious"
    cellpose.export(weights, output, force=True)
    assert cellrt.load(output).selftest().passed


def test_without_torch(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(
        CellrtError, match=r'expected torch to be installed, .*; run: pip install "cellrt\[export-torch\]"'
    ):
        cellpose.export(weights, tmp_path / "m.onnx")

    monkeypatch.undo()
    monkeypatch.setattr(torch, "__version__", "2.5.1+cpu")
    with pytest.raises(CellrtError, match=r"expected torch 2\.6 or later, .*, got 2\.5\.1\+cpu; run: pip install"):
        cellpose.export(weights, tmp_path / "m.onnx")


def test_stardist_is_exported_without_torch() -> None:
    code = "import sys, cellrt_export.commands, cellrt_export.stardist; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


# ---- size models --------------------------------------------------------------------------------------------


def size_dict(n: int = 16, **values: Any) -> dict[str, Any]:
    random = np.random.default_rng(3)
    known = {"A": random.normal(size=n), "smean": random.normal(size=n).astype(np.float32), "diam_mean": 17.0}
    return {**known, "ymean": np.float32(0.25), **values}


def saved_size(content: Any, path: Path) -> Path:
    np.save(path, content, allow_pickle=True)
    return path


@pytest.mark.parametrize("offset", [0.25, np.float64(0.25), np.array(0.25), np.array([0.25], np.float32)])
def test_size_model(offset: Any, tmp_path: Path) -> None:
    content = size_dict(ymean=offset)
    size = size_model.read(saved_size(content, tmp_path / "cells_size.npy"), n_style=16)
    assert np.array_equal(size.weights, content["A"])
    assert np.array_equal(np.float32(size.style_mean), content["smean"])
    assert (size.diam_mean, size.offset) == (17, 0.25)


def test_size_model_of_numpy_1(tmp_path: Path) -> None:
    path = tmp_path / "cells_size.npy"
    saved_size(size_dict(), path)
    header = path.read_bytes()[: path.read_bytes().index(b"\n") + 1]
    array = np.empty((), object)
    array[()] = size_dict()
    # NumPy 1 pickled by protocol 3, in which names are written out
    path.write_bytes(header + pickle.dumps(array, protocol=3).replace(b"numpy._core", b"numpy.core"))
    assert b"numpy.core.multiarray" in path.read_bytes()
    assert size_model.read(path, n_style=16).offset == 0.25


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (size_dict(n=17), "expected 16 numbers, one per value of the style, as A in s.npy, got 17; use the"),
        (size_dict(smean=np.zeros(3)), "expected 16 numbers, .* as smean in s.npy, got 3"),
        (size_dict(ymean=np.zeros(2)), "expected one number as ymean in s.npy, got 2"),
        (size_dict(ymean=None), "expected one number as ymean in s.npy, got NoneType"),
        (size_dict(A=[0.5] * 16), "expected 16 numbers, .* as A in s.npy, got list"),
        (size_dict(A=np.array(["0.5"] * 16)), "expected 16 numbers, .* as A in s.npy, got ndarray"),
        (size_dict(A=np.full(16, np.nan)), "expected finite numbers as A in s.npy, got NaN"),
        (size_dict(diam_mean=-1.0), r"size_model.diam_mean to be a number of pixels in \(0, 10000\), got -1"),
        ({"A": 1, "b": 2}, "expected A, smean, diam_mean, ymean in s.npy, got a dict of A, b; use the"),
        ({}, "got a dict of nothing"),
        ("text", "expected A, smean, diam_mean, ymean in s.npy, got str"),
        (np.zeros(16), "expected a size model in s.npy, got a file that is none: it holds an array"),
    ],
)
def test_refused_size_model(content: Any, message: str, weights: Path, tmp_path: Path) -> None:
    path = saved_size(np.array(content) if isinstance(content, str) else content, tmp_path / "s.npy")
    if isinstance(content, str):
        array = np.empty((), object)
        array[()] = content
        saved_size(array, path)
    with pytest.raises(ModelError, match=message):
        cellpose.export(weights, tmp_path / "m.onnx", size_model_file=path)
    assert not (tmp_path / "m.onnx").exists()


def test_hostile_and_damaged_size_models(weights: Path, tmp_path: Path) -> None:
    path, folder = tmp_path / "s.npy", tmp_path / "made"
    array = np.empty((), object)
    array[()] = size_dict(ymean=Hostile(folder))
    saved_size(array, path)
    with pytest.raises(ModelError, match=r"expected a size model in s.npy, got a file that is none: .*mkdir"):
        cellpose.export(weights, tmp_path / "m.onnx", size_model_file=path)
    assert not folder.exists()
    content = saved_size(size_dict(), path).read_bytes()
    for damaged in (content[:-30], content[:60], b"", b"text", weights.read_bytes()):
        path.write_bytes(damaged)
        with pytest.raises(ModelError, match=r"expected a size model in s\.npy, got a file that is none: "):
            size_model.read(path, n_style=16)
    with path.open("wb") as file:
        file.truncate(1 << 25)
    with pytest.raises(ModelError, match="got a file of 33,554,432 bytes"):
        size_model.read(path, n_style=16)
    with pytest.raises(FileError, match=r"expected to read .*, got No such file"):
        size_model.read(tmp_path / "nowhere.npy", n_style=16)


# ---- verify and the command line ----------------------------------------------------------------------------


def recording(net: CPNet, path: Path, **changes: Any) -> Path:
    """What a user would save of the network's input and outputs."""
    image = np.random.default_rng(2).random((2, 2, 16, 24), np.float32)
    with torch.no_grad():
        maps, style = net(torch.from_numpy(image))
    arrays = {"net_input": image, "net_maps": maps.numpy(), "net_style": style.numpy()} | changes
    np.savez(path, **{key: value for key, value in arrays.items() if value is not None})
    return path


def test_verify(net: CPNet, weights: Path, tmp_path: Path) -> None:
    output, path = cellpose.export(weights, tmp_path / "m.onnx").output, tmp_path / "recorded.npz"
    differences = verify(output, recording(net, path))
    assert [(d.maps, d.passed) for d in differences] == [("maps", True), ("style", True)]
    differences = verify(output, recording(net, path, net_style=None))
    assert [d.maps for d in differences] == ["maps"]
    differences = verify(output, recording(net, path, net_style=np.full((2, 16), np.nan)))
    assert [d.passed for d in differences] == [True, False]
    for changes, message in (
        ({"net_maps": None}, "expected net_input and net_maps in .*, got net_input, net_style; save a batch"),
        ({"net_maps": np.zeros((2, 3, 8, 8))}, r"expected net_maps of shape \(2, 3, 16, 24\) .*, got \(2, 3, 8, 8\)"),
        ({"net_input": np.zeros((2, 16, 24))}, r"expected net_input \(N, C, Y, X\) with 2 channels, got \(2, 16, 24\)"),
        ({"net_input": np.zeros((1, 3, 8, 8))}, r"with 2 channels, got \(1, 3, 8, 8\)"),
    ):
        with pytest.raises(ModelError, match=message):
            verify(output, recording(net, path, **changes))


def test_command_line(net: CPNet, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "m.onnx"
    size = saved_size(size_dict(), tmp_path / "cells_size.npy")
    arguments = ["cellpose", str(weights), "-o", str(output)]
    options = "--name nuclei --licence MIT --diam-mean 12.5 --flow-threshold 0.5 --cellprob-threshold -1 --min-size 9"
    recorded = str(recording(net, tmp_path / "recorded.npz"))
    more = ["--percentiles", "3", "97", "--size-model", str(size), "--verify", recorded]
    assert commands.main([*arguments, *options.split(), *more]) == 0
    text = capsys.readouterr().out
    assert "halo 124 x 124" in text
    assert text.count(": ok") == 2
    manifest = cellrt.load(output).manifest
    head = manifest.head
    assert (manifest.name, manifest.source.licence, head.diam_mean) == ("nuclei", "MIT", 12.5)
    assert (head.flow_threshold, head.cellprob_threshold, head.min_size) == (0.5, -1, 9)
    assert manifest.normalize == Normalize99Spec(3, 97)
    assert head.size_model == size_model.read(size, n_style=16)

    assert commands.main(arguments) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("cellrt export: expected no file at")
    assert captured.err.count("\n") == 1
    recording(net, Path(recorded), net_style=np.zeros((2, 16)))
    assert commands.main([*arguments, "--force", "--verify", recorded]) == 1
    assert "DIFFERS" in capsys.readouterr().out
    assert commands.main([*arguments, "--force"]) == 0
    assert "CC-BY-NC" in capsys.readouterr().out

    for wrong in (
        ["cellpose"],
        ["cellpose", str(weights)],
        [*arguments, "--percentiles", "99", "1"],
        [*arguments, "--diam-mean", "0"],
        [*arguments, "--flow-threshold", "-1"],
        [*arguments, "--cellprob-threshold", "nan"],
        [*arguments, "--min-size", "2.5"],
        [*arguments, "--prob-thresh", "0.5"],
        ["cellpose-sam", str(weights), "-o", str(output), "--precision", "int4"],
    ):
        assert commands.main(wrong) == 2
    assert "expected a number above 0, got '0'" in capsys.readouterr().err
    assert commands.main(["cellpose", "--help"]) == 0
    assert commands.main(["cellpose-sam", "--help"]) == 0


def test_command_line_hands_cellpose_sam_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cellpose_sam = pytest.importorskip("cellrt_export.cellpose_sam")
    calls = []
    monkeypatch.setattr(cellpose_sam, "export", lambda *paths, **options: calls.append((paths, options)) or "exported")
    output = tmp_path / "m.onnx"
    arguments = ["cellpose-sam", "cpsam", "-o", str(output), "--precision", "fp16", "--min-size", "3", "--force"]
    arguments += ["--description", "anything"]
    assert commands.main(arguments) == 0
    assert capsys.readouterr().out == "exported\n"
    chosen = {"force": True, "precision": "fp16", "min_size": 3, "description": "anything"}
    unset = dict.fromkeys(("name", "licence", "flow_threshold", "cellprob_threshold"))
    assert calls == [((Path("cpsam"), output), chosen | unset)]


def test_command_line_names_what_is_not_installed(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "cellrt_export.cellpose", None)
    monkeypatch.delattr("cellrt_export.cellpose")
    assert commands.main(["cellpose", str(weights), "-o", str(tmp_path / "m.onnx")]) == 1
    assert 'run: pip install "cellrt[export]"' in capsys.readouterr().err


def test_an_exported_model_segments(weights: Path, tmp_path: Path) -> None:
    model = cellrt.load(cellpose.export(weights, tmp_path / "m.onnx").output)
    assert Manifest.from_json(model.manifest.to_json()) == model.manifest
    image = np.random.default_rng(0).integers(0, 255, (2, 40, 50), np.uint8)
    cells = model.segment(image, axes="CYX")
    assert cells.labels.shape == (40, 50)
