"""Networks in 8 bits: the arithmetic against a slow twin, what stays in float32, what is said, and what is refused.

Accuracy is a law on the models that ship: drawn cells, found by float32 and by int8.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

h5py = pytest.importorskip("h5py")
onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from test_export_stardist import Twin  # noqa: E402
from test_peak_memory import measured  # noqa: E402

import cellrt  # noqa: E402
from cellrt import metrics  # noqa: E402
from cellrt.errors import CellrtError, FileError, ImageError, ModelError  # noqa: E402
from cellrt.manifest import Manifest  # noqa: E402
from cellrt.session import Session  # noqa: E402
from cellrt_export import (  # noqa: E402
    calibration,
    commands,
    cpnet_graph,
    onnx_graph,
    onnxfile,
    quantize,
    selftest,
    star_graph,
    stardist,
)
from cellrt_export.onnxfile import GraphBuilder  # noqa: E402


def drawn(shape: tuple[int, int], seed: int, radius: tuple[float, float] = (7, 11)) -> NDArray[np.uint16]:
    """Bright ellipses on a noisy ground."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    image = random.normal(300, 15, shape)
    for _ in range(shape[0] * shape[1] // 1100):
        at, turn = random.uniform(0, shape), random.uniform(0, np.pi)
        long_axis, short_axis = random.uniform(*radius, 2)
        along = (y - at[0]) * np.cos(turn) + (x - at[1]) * np.sin(turn)
        across = (x - at[1]) * np.cos(turn) - (y - at[0]) * np.sin(turn)
        level = 8 * (np.hypot(along / long_axis, across / short_axis) - 1)
        image = np.maximum(image, 300 + random.uniform(600, 2500) / (1 + np.exp(np.clip(level, -60, 60))))
    return image.astype(np.uint16)


def one_layer(kernel: NDArray[np.float32], bias: NDArray[np.float32]) -> GraphBuilder:
    """A convolution, ReLU, and a copy, which is in float32."""
    graph = GraphBuilder()
    constants = [graph.constant("kernel", kernel), graph.constant("bias", bias)]
    side = kernel.shape[-1]
    x = graph.node("Conv", "layer_conv", ["image", *constants], kernel_shape=[side] * 2, pads=[side // 2] * 4)
    x = graph.node("Relu", "layer", [x])
    graph.node("Identity", "maps", [x])
    return graph


def assembled(graph: GraphBuilder, n_channels: int, n_maps: int, manifest: Manifest | None = None) -> bytes:
    return onnxfile.assemble(graph, n_channels=n_channels, n_maps=n_maps, grid=(1, 1), version="0", manifest=manifest)


def twin(
    image: NDArray[np.float32], kernel: NDArray[np.float32], bias: NDArray[np.float32], most: float, largest: float
) -> tuple[NDArray[np.float64], float]:
    """Convolution and ReLU of `one_layer` in integers, (out, y, x), and the step of the result.

    The image has values from -most to most, the result those from 0 to largest.
    """
    step, zero = np.float32(2 * most / 255), 128
    whole = np.clip(np.rint(image / step) + zero, 0, 255).astype(np.int64) - zero
    scale = np.abs(kernel).max((1, 2, 3)).astype(np.float64) / 64
    weights = np.rint(kernel / scale[:, None, None, None]).astype(np.int64)
    side = kernel.shape[-1]
    windows = sliding_window_view(np.pad(whole, ((0, 0), *[(side // 2,) * 2] * 2)), (side, side), (1, 2))
    sums = (
        np.einsum("cyxij,ocij->oyx", windows, weights) + np.rint(bias / (step * scale)).astype(np.int64)[:, None, None]
    )
    result = largest / 255
    return np.clip(np.rint(sums * (step * scale / result)[:, None, None]), 0, 255) * result, result


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 2**32 - 1),
    channels=st.tuples(st.integers(1, 9), st.integers(1, 17)),
    side=st.sampled_from([1, 3, 5]),
    saturating=st.booleans(),
)
def test_a_layer_is_that_of_the_twin(seed: int, channels: tuple[int, int], side: int, saturating: bool) -> None:
    random = np.random.default_rng(seed)
    n_in, n_out = channels
    kernel = random.normal(0, 1, (n_out, n_in, side, side)).astype(np.float32)
    image = random.uniform(-1, 1, (n_in, 12, 20)).astype(np.float32)
    if saturating:  # products of the largest numbers of one sign: where 16 bits would not hold two of them
        kernel, image = np.ones_like(kernel), np.where(np.abs(image) < 0.9, np.float32(1), image)
    bias = random.normal(0, 1, n_out).astype(np.float32)
    graph = one_layer(kernel, bias)
    largest = 0.9 * float(Session(assembled(graph, n_in, n_out), providers=["cpu"]).run(image[None])["maps"].max())
    largest = max(largest, 0.1)
    plan = quantize.plan(graph)
    assert plan.tensors == ("image", "layer")
    rounded = quantize.quantized(graph, plan, {"image": (-1.0, 1.0), "layer": (0.0, largest)})
    maps = Session(assembled(rounded, n_in, n_out), providers=["cpu"]).run(image[None])["maps"][0]
    wanted, step = twin(image, kernel, bias, 1.0, largest)
    apart = np.abs(maps - wanted)
    assert apart.max() < 1.01 * step  # at a tie, rounding in float32 may go the other way
    assert (apart > 1e-5 * largest).mean() < 0.02


def test_a_large_bias_on_a_small_kernel_survives() -> None:
    """Its scale in the sums would be beyond 32 bits; a dead channel may have any bias."""
    kernel = np.full((2, 1, 3, 3), 1e-7, np.float32)
    kernel[1] = 0
    graph = one_layer(kernel, np.array([3.0, 5.0], np.float32))
    rounded = quantize.quantized(graph, quantize.plan(graph), {"image": (0.0, 1.0), "layer": (0.0, 5.0)})
    maps = Session(assembled(rounded, 1, 2), providers=["cpu"]).run(np.ones((1, 1, 8, 8), np.float32))["maps"]
    assert np.allclose(maps[0, 0], 3, atol=5 / 255)
    assert np.allclose(maps[0, 1], 5, atol=5 / 255)


@pytest.mark.parametrize("extremes", [(np.nan, 1.0), (0.0, np.inf)])
def test_a_range_that_is_not_finite_is_refused(extremes: tuple[float, float]) -> None:
    graph = one_layer(np.ones((1, 1, 3, 3), np.float32), np.zeros(1, np.float32))
    with pytest.raises(ModelError, match=r"expected finite values in layer, got .*; use other weights"):
        quantize.quantized(graph, quantize.plan(graph), {"image": (0.0, 1.0), "layer": extremes})


def test_a_layer_that_is_always_zero_runs() -> None:
    graph = one_layer(np.zeros((1, 1, 1, 1), np.float32), np.zeros(1, np.float32))
    rounded = quantize.quantized(graph, quantize.plan(graph), {"image": (0.0, 0.0), "layer": (0.0, 0.0)})
    maps = Session(assembled(rounded, 1, 1), providers=["cpu"]).run(np.ones((1, 1, 8, 8), np.float32))["maps"]
    assert not maps.any()


# ---- whole networks -----------------------------------------------------------------------------------------


def bundled_graph(name: str) -> tuple[GraphBuilder, Manifest, frozenset[str]]:
    """The graph of a model that ships, its manifest, and what stays in float32."""
    stored = onnx_graph.read(name)
    if stored.manifest.head.kind == "star":
        config, kernels = star_graph.read(stored)
        layers = star_graph.network(config)
        graph = star_graph.build(layers, kernels, keras_version=3)
        return graph, stored.manifest, star_graph.last_nodes(layers)
    weights = cpnet_graph.read(stored)
    return cpnet_graph.build(cpnet_graph.sizes(weights), weights), stored.manifest, cpnet_graph.LAST_NODES


Made = tuple[bytes, calibration.Cost, GraphBuilder]  # a file, what was measured, its graph


def in_8_bits(name: str, images: Sequence[Any]) -> Made:
    """The file of a model that ships, made int8 with images."""
    graph, manifest, keep = bundled_graph(name)

    def assemble(graph: GraphBuilder, manifest: Manifest | None) -> bytes:
        assert manifest is not None
        n_style = getattr(manifest.head, "n_style", 0)
        return onnxfile.assemble(
            graph,
            n_channels=manifest.input.n_channels,
            n_maps=manifest.head.n_maps,
            grid=manifest.head.grid,
            version="0",
            manifest=manifest,
            n_style=n_style,
        )

    rounded, cost = calibration.quantize_graph(graph, assemble, manifest, images, keep=keep)
    return assemble(rounded, manifest), cost, rounded


@pytest.fixture(scope="module")
def nuclei() -> Made:
    return in_8_bits("nuclei", [drawn((160, 192), seed) for seed in range(4)])


DARK = [255 - drawn((176, 208), seed, (12, 18)) // 16 for seed in range(3)]


@pytest.fixture(scope="module")
def cells() -> Made:
    return in_8_bits("cells", DARK)


def operators(model: bytes, path: Path) -> Counter[str]:
    """How often ONNX Runtime runs each operator on the CPU."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(path)
    options.log_severity_level = 4
    onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(path).graph.node)


def test_all_but_the_last_layers_compute_in_integers(nuclei: Made, tmp_path: Path) -> None:
    graph, _, keep = bundled_graph("nuclei")
    n_convs = sum(node.op_type == "Conv" for node in graph.nodes)
    n_kept = sum(node.op_type == "Conv" and node.name in keep for node in graph.nodes)
    assert n_kept == 3  # features, prob, dist
    found = operators(nuclei[0], tmp_path / "optimized.onnx")
    assert found["QLinearConv"] == n_convs - n_kept
    assert found["Conv"] + found["FusedConv"] == n_kept
    assert (found["QuantizeLinear"], found["DequantizeLinear"]) == (1, 1)  # in and out
    assert found["Relu"] == 0


def test_nuclei_are_found_as_in_float32(nuclei: Made) -> None:
    """Measured on images drawn like these: 1.0 at IoU 0.5, 0.97 and more at 0.9."""
    exact, ours = cellrt.load("nuclei", providers=["cpu"]), cellrt.load(nuclei[0], providers=["cpu"])
    images = [drawn((192, 224), seed) for seed in (10, 11)]
    pairs = [(exact.segment(image).labels, ours.segment(image).labels) for image in images]
    at_half, at_most = metrics.matching_dataset(pairs, threshold=(0.5, 0.9))
    assert at_half.n_true > 30
    assert at_half.accuracy >= 0.98
    assert at_most.accuracy >= 0.93
    cost = nuclei[1]
    assert cost.n_images == 1
    assert min(cost.n_objects) > 10
    assert cost.agreement[0] >= 0.95
    assert set(cost.differences) == {"prob", "dist"}
    assert all(value > 0 for value in (*cost.differences.values(), *cost.seconds, cost.ratio))


def test_cells_are_found_as_in_float32(cells: Made) -> None:
    model, cost, _ = cells
    assert len(model) < 0.65 * cellrt.bundled_models()["cells"].stat().st_size  # which stores float16
    assert set(cost.differences) == {"flow", "cellprob"}
    exact, ours = cellrt.load("cells", providers=["cpu"]), cellrt.load(model, providers=["cpu"])
    pairs = [(exact.segment(image).labels, ours.segment(image).labels) for image in DARK]
    at_half = metrics.matching_dataset(pairs, threshold=0.5)
    assert at_half.n_true > 20
    assert at_half.accuracy >= 0.95


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of one process is read from /proc")
@pytest.mark.parametrize("name", ["nuclei", "cells"])
def test_the_memory_is_what_is_said(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    from cellrt_export import peak_memory

    model, _, graph = request.getfixturevalue(name)
    path = tmp_path / "model.onnx"
    path.write_bytes(model)
    outputs = ("maps", "style") if name == "cells" else ("maps",)
    spec = peak_memory.spec(graph, n_channels=1, multiple=(16, 16), outputs=outputs)
    assert 0.8 < spec.bytes_per_pixel / measured(path) < 1.2


@pytest.mark.parametrize("name", ["nuclei", "cells"])
def test_any_number_of_threads_gives_the_same_maps(name: str, request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue(name)[0]
    image = np.random.default_rng(0).random((1, 1, 96, 128), np.float32)
    one, two, three = (Session(model, providers=["cpu"], threads=n).run(image)["maps"] for n in (1, 2, 3))
    assert np.array_equal(one, two)
    assert np.array_equal(one, three)


def test_other_activations_run_between_layers_in_8_bits(tmp_path: Path) -> None:
    source = Twin({"unet_activation": "elu", "unet_batch_norm": True, "grid": [2, 2]}).save(tmp_path / "elu")
    images = [drawn((48, 64), seed) for seed in range(2)]
    stardist.export(source, tmp_path / "exact.onnx")
    stardist.export(source, tmp_path / "int8.onnx", precision="int8", calibrate=images)
    exact, ours = (cellrt.load(tmp_path / f"{name}.onnx", providers=["cpu"]) for name in ("exact", "int8"))
    wanted, found = exact.predict(images[0]), ours.predict(images[0])
    assert np.abs(wanted["prob"] - found["prob"]).max() < 0.1


# ---- export -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A StarDist folder with a small network of random weights."""
    return Twin({"n_rays": 8, "unet_n_filter_base": 8}).save(tmp_path_factory.mktemp("folder") / "small")


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Four images as files."""
    where = tmp_path_factory.mktemp("images")
    for seed in range(4):
        np.save(where / f"{seed}.npy", drawn((64, 80), seed))
    return sorted(where.iterdir())


def test_an_export_is_whole_says_what_it_costs_and_leaves_nothing_else(
    folder: Path, paths: list[Path], tmp_path: Path
) -> None:
    summary = stardist.export(folder, tmp_path / "int8.onnx", precision="int8", calibrate=paths)
    again = stardist.export(folder, tmp_path / "again.onnx", precision="int8", calibrate=[np.load(p) for p in paths])
    exact = stardist.export(folder, tmp_path / "exact.onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again.onnx", "exact.onnx", "int8.onnx"]
    assert (tmp_path / "int8.onnx").read_bytes() == (tmp_path / "again.onnx").read_bytes()
    assert again.manifest == summary.manifest
    for field in ("head", "normalize", "tile", "source", "input", "name"):
        assert getattr(summary.manifest, field) == getattr(exact.manifest, field)
    stored = onnx.load(tmp_path / "int8.onnx")
    assert (stored.ir_version, stored.opset_import[0].version) == (onnxfile.IR_VERSION, onnxfile.OPSET)
    assert [entry.key for entry in stored.metadata_props] == ["cellrt"]
    assert not any(node.doc_string for node in stored.graph.node)

    text = str(summary)
    assert "weights          int8 (7 bits of it) and activations uint8, float32 in the last layers" in text
    rows = summary.details
    assert "1 image held back" in rows["int8 accuracy"]
    assert rows["int8 maps"].startswith("largest differences: prob ")
    assert "on this machine: " in rows["int8 speed"]

    model = cellrt.load(tmp_path / "int8.onnx", providers=["cpu"])
    assert model.selftest().identical
    assert model.manifest.selftest is not None
    assert model.manifest.selftest.tolerance == selftest.TOLERANCES["int8"] == 0.01


@pytest.mark.parametrize(
    ("ratio", "objects", "said"),
    [
        (1.9, (5, 6), ["1.90x as fast as float32 on this machine: 10 ms against 19 ms", "5 objects by float32, 6 by"]),
        (0.9, (0, 0), ["NOT FASTER than float32 on this machine", "NOT KNOWN: no objects by either on 2 images"]),
    ],
)
def test_what_was_measured_is_said_plainly(ratio: float, objects: tuple[int, int], said: list[str]) -> None:
    rows = calibration.Cost(2, objects, (0.98, 0.9), {"prob": 0.1}, (0.019, 0.010), ratio).rows()
    text = "\n".join(rows.values())
    assert all(part in text for part in said)


def test_a_quarter_is_held_back(monkeypatch: pytest.MonkeyPatch) -> None:
    for n, held in ((2, [2]), (3, [3]), (4, [4]), (7, [4]), (8, [4, 8])):
        seen: list[list[str]] = []
        monkeypatch.setattr(
            calibration,
            "_compare",
            lambda exact, ours, images, options, s=seen: s.append([image._name for image in images]),
        )
        graph, manifest, keep = bundled_graph("nuclei")
        calibration.quantize_graph(
            graph,
            lambda graph, manifest: onnxfile.assemble(
                graph, n_channels=1, n_maps=33, grid=manifest.head.grid, version="0", manifest=manifest
            ),
            manifest,
            [drawn((32, 32), 0)] * n,
            keep=keep,
        )
        assert seen == [[f"image {k}" for k in held]]


# ---- who is refused -----------------------------------------------------------------------------------------


def test_what_cannot_be_done_is_refused_first(folder: Path, paths: list[Path], tmp_path: Path) -> None:
    output = tmp_path / "m.onnx"

    def refused(error: type[CellrtError], message: str, **options: Any) -> None:
        with pytest.raises(error, match=message):
            stardist.export(folder, output, **options)
        assert not any(tmp_path.iterdir())

    refused(
        CellrtError, "expected images to calibrate with for precision int8.*got none.*--calibrate", precision="int8"
    )
    refused(CellrtError, "expected no images to calibrate with for precision fp32, got some", calibrate=paths)
    refused(CellrtError, "for precision fp16, got some; leave", precision="fp16", calibrate=paths)
    few = {"precision": "int8", "calibrate": paths[:1]}
    refused(CellrtError, "expected at least 2 images to calibrate with.*got 1; name more", **few)
    refused(CellrtError, "got one path, .*; give a list of paths", precision="int8", calibrate=str(paths[0]))
    missing = [*paths[:2], tmp_path / "missing.tif"]
    refused(FileError, "missing.tif", precision="int8", calibrate=missing)
    coloured = [paths[0], np.zeros((32, 32, 5), np.uint8), paths[1]]
    refused(
        ImageError, "image 2 of the images to calibrate with: expected .*channel", precision="int8", calibrate=coloured
    )
    flat = [paths[0], np.zeros((32, 32), np.uint8)]
    refused(ImageError, "image 2 of the images to calibrate with: ", precision="int8", calibrate=flat)


def test_it_cannot_be_trained_on(nuclei: Made, tmp_path: Path) -> None:
    path = tmp_path / "int8.onnx"
    path.write_bytes(nuclei[0])
    with pytest.raises(ModelError, match=r"float32 or float16 in int8.onnx, got int8, which cannot be trained on; use"):
        onnx_graph.read(path)


def test_a_training_run_does_not_end_in_it(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from cellrt_export.training.run import run

    nothing: Any = None
    with pytest.raises(CellrtError, match=r"one of fp32, fp16, got 'int8'; choose one; cellrt export makes int8 of"):
        run(nothing, [], nothing, tmp_path / "run", precision="int8")
    assert not any(tmp_path.iterdir())


def test_the_command_line(folder: Path, paths: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "m.onnx"
    arguments = ["stardist", str(folder), "-o", str(output), "--precision", "int8"]
    assert commands.main(arguments) == 1
    assert "expected images to calibrate with" in capsys.readouterr().err
    assert commands.main([*arguments, "--calibrate"]) == 2
    assert commands.main([*arguments, "--calibrate", *map(str, paths)]) == 0
    text = capsys.readouterr().out
    for row in ("int8 accuracy", "int8 maps", "int8 speed"):
        assert f"\n{row}" in text
    assert commands.main(["cellpose-sam", "cpsam", "-o", str(tmp_path / "s.onnx"), "--precision", "int8"]) == 1
    assert "what 8 bits cost its transformer has not been measured" in capsys.readouterr().err
    assert commands.main(["cellpose", "w", "-o", str(output), "--calibrate-diameter", "-3"]) == 2


def test_a_cpnet_is_exported_with_a_style(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from test_export_cellpose import random_net, saved, weights_of

    from cellrt_export import cellpose

    weights = saved(weights_of(random_net()), tmp_path / "cells")
    images = [np.stack([drawn((64, 80), seed), drawn((64, 80), seed + 9)]) for seed in range(2)]
    options = {"precision": "int8", "calibrate": images, "calibrate_diameter": 20.0}
    summary = cellpose.export(weights, tmp_path / "m.onnx", **options)
    assert "flow" in summary.details["int8 maps"]
    assert cellrt.load(tmp_path / "m.onnx", providers=["cpu"]).selftest().identical
    with pytest.raises(CellrtError, match="calibrate_diameter"):
        cellpose.export(weights, tmp_path / "n.onnx", **(options | {"calibrate_diameter": float("nan")}))
