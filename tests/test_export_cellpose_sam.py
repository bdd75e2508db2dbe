"""`cellrt export cellpose-sam`: parity with the original, errors, what the file holds, models beyond protobuf's limit.

Two sources of truth: outputs of Cellpose 4.2 in ../shared/reference, where it is there; and `twin`, the network in
plain torch operations, on small random weights of the same names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
torch = pytest.importorskip("torch", reason="torch, which reads the weights, is not installed")

import cellrt  # noqa: E402
from cellrt.errors import CellrtError, FileError, ModelError  # noqa: E402
from cellrt.manifest import (  # noqa: E402
    FlowSpec,
    InputSpec,
    Manifest,
    Normalize99Spec,
    SelfTestSpec,
    SourceSpec,
    TileSpec,
)
from cellrt.session import Session  # noqa: E402
from cellrt_export import cellpose_sam, commands, onnxfile, sam_graph  # noqa: E402
from cellrt_export.sam_graph import SamSizes  # noqa: E402

REFERENCE = Path(__file__).parents[2] / "shared" / "reference" / "cellpose"
SIZES = SamSizes(n_channels=3, patch=8, grid=12, width=24, depth=3, head_width=8, hidden=40, features=10)
ROWS = (27, 23, 127)  # of the tables of distances: resized up, as they are, and down
SIDE = SIZES.side

State = dict[str, "torch.Tensor"]


def draw(sizes: SamSizes = SIZES, seed: int = 0) -> State:
    """Random weights, strong enough that every part of the network shows in the maps."""
    random = np.random.default_rng(seed)
    state = {"diam_labels": np.array([27.0]), "diam_mean": np.array([30.0])}
    for name, shape in sizes.shapes():
        if name == "W2":
            state[name] = np.eye(shape[0]).reshape(shape)
        elif "rel_pos" in name:
            state[name] = random.normal(0, 1, (ROWS[int(name.split(".")[2]) % 3], shape[1]))
        elif "pos_embed" in name:
            state[name] = random.normal(0, 0.5, shape)
        elif len(shape) == 1:
            state[name] = random.normal(1 if name.endswith("weight") else 0, 0.3, shape)
        else:
            state[name] = random.normal(0, 1.5 / np.sqrt(np.prod(shape[1:])), shape)
    return {name: torch.from_numpy(np.asarray(value, np.float32)) for name, value in state.items()}


def twin(state: State, image: np.ndarray) -> np.ndarray:
    """The network of Cellpose-SAM, straight from its description."""
    functional = torch.nn.functional
    state = {name: value.double() for name, value in state.items()}

    def norm(key: str, x: torch.Tensor) -> torch.Tensor:
        return functional.layer_norm(x, x.shape[-1:], state[f"{key}.weight"], state[f"{key}.bias"], 1e-6)

    def linear(key: str, x: torch.Tensor) -> torch.Tensor:
        return functional.linear(x, state[f"{key}.weight"], state[f"{key}.bias"])

    kernel = state["encoder.patch_embed.proj.weight"]
    patch, width = kernel.shape[2], kernel.shape[0]
    x = functional.conv2d(torch.from_numpy(image).double(), kernel, state["encoder.patch_embed.proj.bias"], patch)
    x = x.permute(0, 2, 3, 1) + state["encoder.pos_embed"]  # (N, grid, grid, width)
    n, grid = x.shape[:2]
    depth = sum(name.endswith("qkv.weight") for name in state)
    for block in (f"encoder.blocks.{index}" for index in range(depth)):
        head_width = state[f"{block}.attn.rel_pos_h"].shape[1]
        parts = linear(f"{block}.attn.qkv", norm(f"{block}.norm1", x)).reshape(n, grid * grid, 3, -1, head_width)
        query, key, value = parts.permute(2, 0, 3, 1, 4)  # (N, head, token, head_width)
        logits = query / head_width**0.5 @ key.transpose(2, 3)
        for axis, name in enumerate(("rel_pos_h", "rel_pos_w")):
            table = state[f"{block}.attn.{name}"].T[None]
            table = functional.interpolate(table, 2 * grid - 1, mode="linear")[0].T
            at = torch.arange(grid * grid)
            at = at // grid if axis == 0 else at % grid
            distances = table[at[:, None] - at[None] + grid - 1]  # (token of the query, of the key, head_width)
            logits = logits + torch.einsum("nhqc,qkc->nhqk", query, distances)
        seen = (logits.softmax(-1) @ value).permute(0, 2, 1, 3).reshape(n, grid, grid, width)
        x = x + linear(f"{block}.attn.proj", seen)
        wide = functional.gelu(linear(f"{block}.mlp.lin1", norm(f"{block}.norm2", x)))
        x = x + linear(f"{block}.mlp.lin2", wide)
    x = functional.conv2d(x.permute(0, 3, 1, 2), state["encoder.neck.0.weight"])
    x = norm("encoder.neck.1", x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    x = functional.conv2d(x, state["encoder.neck.2.weight"], padding=1)
    x = norm("encoder.neck.3", x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    x = functional.conv2d(x, state["out.weight"], state["out.bias"])
    return functional.conv_transpose2d(x, state["W2"], stride=patch).numpy()


def save(state: Any, path: Path) -> Path:
    """What torch writes of it."""
    torch.save(state, path)
    return path


def images(n: int = 2, side: int = SIDE) -> np.ndarray:
    """Noise, float32 (N, 3, side, side)."""
    return np.random.default_rng(1).random((n, 3, side, side), np.float32)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Small networks are slower on several threads, and much slower on a busy machine."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network's file."""
    return save(draw(), tmp_path_factory.mktemp("weights") / "cells.pth")


@pytest.fixture(scope="module")
def exported(weights: Path) -> Path:
    """The same, exported."""
    return cellpose_sam.export(weights, weights.with_name("cells.onnx")).output


# ---- parity -------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not REFERENCE.is_dir(), reason="no ../shared/reference beside the repository")
def test_maps_are_those_of_cellpose_4(tmp_path: Path) -> None:
    path, recorded = REFERENCE / "cpsam_tiny_random.pth", np.load(REFERENCE / "v4_tiny_forward.npz")
    summary = cellpose_sam.export(path, tmp_path / "m.onnx")
    maps = Session(summary.output).run(recorded["x"])["maps"]
    assert np.abs(maps - recorded["y"]).max() < 1e-5
    assert summary.manifest.head.tile == 256

    arrays = {name: value.numpy() for name, value in torch.load(path).items()}
    graph = sam_graph.build(arrays, sam_graph.read_sizes({name: a.shape for name, a in arrays.items()}))
    half = onnxfile.in_precision(graph, "fp16")
    model = onnxfile.assemble(half, n_channels=3, n_maps=3, grid=(1, 1), version="test", side=256)
    difference = np.abs(Session(model).run(recorded["x"][:1])["maps"] - recorded["y"][:1])
    assert difference.max() < 4e-3  # where the maps have a deviation of 0.6


@pytest.mark.parametrize("n", [1, 2, 3])
def test_maps_are_those_of_the_twin(n: int, weights: Path, exported: Path) -> None:
    wanted = twin(torch.load(weights), images(n))
    assert wanted.std() > 0.5
    np.testing.assert_allclose(Session(exported).run(images(n))["maps"], wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "sizes",
    [
        SamSizes(n_channels=3, patch=8, grid=16, width=16, depth=1, head_width=16, hidden=16, features=256),
        SamSizes(n_channels=1, patch=16, grid=7, width=30, depth=2, head_width=5, hidden=7, features=3),
    ],
)
def test_sizes_are_read_off_the_weights(sizes: SamSizes, tmp_path: Path) -> None:
    state = draw(sizes)
    output = cellpose_sam.export(save(state, tmp_path / "m"), tmp_path / "m.onnx").output
    image = images(2, sizes.side)[:, : sizes.n_channels]
    maps = Session(output).run(np.ascontiguousarray(image))["maps"]
    np.testing.assert_allclose(maps, twin(state, image), rtol=0, atol=1e-4)


def test_every_weight_shows_in_the_maps() -> None:
    sizes = SamSizes(n_channels=1, patch=4, grid=5, width=12, depth=1, head_width=6, hidden=9, features=7)
    state, image = draw(sizes), images(1, sizes.side)[:, :1]
    maps, random = twin(state, image), np.random.default_rng(2)
    for name, shape in sizes.shapes():
        other = torch.from_numpy(random.normal(0, 0.3, [*state[name].shape]).astype(np.float32))
        assert np.abs(twin(state | {name: state[name] + other}, image) - maps).max() > 1e-3, (name, shape)


def test_last_layer_that_mixes_its_outputs_is_multiplied_in(tmp_path: Path) -> None:
    state = draw()
    state["W2"] = torch.from_numpy(np.random.default_rng(0).normal(0, 0.1, state["W2"].shape).astype(np.float32))
    output = cellpose_sam.export(save(state, tmp_path / "m"), tmp_path / "m.onnx").output
    np.testing.assert_allclose(Session(output).run(images())["maps"], twin(state, images()), rtol=0, atol=1e-4)


def test_prefix_of_parallel_training_goes(weights: Path, exported: Path, tmp_path: Path) -> None:
    state = {f"module.{name}": value for name, value in draw().items()}
    output = cellpose_sam.export(save(state, tmp_path / "m"), tmp_path / "m.onnx").output
    np.testing.assert_array_equal(Session(output).run(images())["maps"], Session(exported).run(images())["maps"])


def test_half_precision_stores_half_and_computes_whole(weights: Path, exported: Path, tmp_path: Path) -> None:
    output = cellpose_sam.export(weights, tmp_path / "m.onnx", precision="fp16").output
    assert output.stat().st_size < 0.65 * exported.stat().st_size
    difference = np.abs(Session(output).run(images())["maps"] - Session(exported).run(images())["maps"])
    assert 0 < difference.max() < 0.03
    rounded = {name: value if value.ndim == 1 else value.half().float() for name, value in draw().items()}
    # what is scaled or resized is rounded afterwards: nearly, not quite the network of rounded weights
    assert np.abs(Session(output).run(images())["maps"] - twin(rounded, images())).max() < 0.03


@settings(max_examples=40)
@given(st.integers(1, 200), st.integers(1, 200), st.integers(0, 99))
def test_tables_are_resized_as_torch_does(n_rows: int, wanted: int, seed: int) -> None:
    table = np.random.default_rng(seed).normal(0, 1, (n_rows, 3)).astype(np.float32)
    theirs = torch.nn.functional.interpolate(torch.from_numpy(table).T[None], wanted, mode="linear")[0].T
    np.testing.assert_allclose(sam_graph.resize_table(table, wanted), theirs.numpy(), rtol=0, atol=5e-5)


def test_onnx_runtime_runs_gelu_as_one_operator(exported: Path, tmp_path: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(str(exported), options, providers=["CPUExecutionProvider"])
    operators = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
    assert operators.count("Gelu") == SIZES.depth
    assert "Erf" not in operators


# ---- what the file holds ------------------------------------------------------------------------------------


def test_file_describes_itself_and_nothing_else(weights: Path, tmp_path: Path) -> None:
    summary = cellpose_sam.export(
        weights,
        tmp_path / "m.onnx",
        name="mine",
        licence="CC0-1.0",
        flow_threshold=0.6,
        cellprob_threshold=-1,
        min_size=9,
    )
    model = onnx.load(summary.output)
    onnx.checker.check_model(model, full_check=True)
    assert (model.ir_version, model.producer_name) == (8, "cellrt")
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 17)]
    shapes = [
        (value.name, [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim])
        for value in (*model.graph.input, *model.graph.output)
    ]
    assert shapes == [("image", ["N", 3, SIDE, SIDE]), ("maps", ["N", 3, SIDE, SIDE])]
    assert not any(node.doc_string or node.metadata_props for node in model.graph.node)
    assert str(tmp_path).encode() not in summary.output.read_bytes()

    manifest = Manifest.from_json(model.metadata_props[0].value)
    assert manifest == summary.manifest
    assert manifest.head == FlowSpec(
        dynamics="v4",
        diam_mean=30.0,
        diam_labels=30.0,
        tile=SIDE,
        fixed_tile=True,
        flow_threshold=0.6,
        cellprob_threshold=-1.0,
        min_size=9,
    )
    assert (manifest.name, manifest.input.n_channels, manifest.normalize) == ("mine", 3, Normalize99Spec(rules="v4"))
    assert manifest.tile.multiple == (SIDE, SIDE)
    assert (manifest.source.upstream, manifest.source.name) == ("cellpose-sam", "cells.pth")
    assert manifest.source.licence == "CC0-1.0"
    assert manifest.selftest is not None
    assert manifest.selftest.shape == (SIDE, SIDE)


def test_defaults_are_those_of_cellpose(exported: Path) -> None:
    manifest = cellrt.load(exported).manifest
    head = manifest.head
    assert isinstance(head, FlowSpec)
    assert (head.flow_threshold, head.cellprob_threshold, head.min_size, head.n_style) == (0.4, 0, 15, 0)
    assert (manifest.name, manifest.source.licence) == ("cells", "not stated")


def test_exported_file_runs_in_cellrt(exported: Path) -> None:
    model = cellrt.load(exported, providers=["cpu"])
    assert model.selftest().passed
    cells = model.segment(images(1)[0, :, :80, :70], axes="CYX")
    assert cells.labels.shape == (80, 70)


def test_same_weights_give_the_same_bytes(weights: Path, exported: Path, tmp_path: Path) -> None:
    output = cellpose_sam.export(weights, tmp_path / "again.onnx").output
    assert output.read_bytes() == exported.read_bytes()


def test_summary_is_a_table(weights: Path, tmp_path: Path) -> None:
    text = str(cellpose_sam.export(weights, tmp_path / "m.onnx", precision="fp16"))
    for words in (
        "flow, dynamics of Cellpose 4",
        "3 blocks, 24 wide, 3 heads",
        "float16, cast to float32",
        "96 x 96 pixels, no other size",
        "flow 0.4, cellprob 0, at least 15",
        "not stated (Cellpose's own models were trained on CC-BY-NC data",
        " MB",
    ):
        assert words in text


def test_command_line(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["cellpose-sam", str(weights), "-o", str(tmp_path / "m.onnx"), "--precision", "fp16"]
    assert commands.main(arguments) == commands.OK
    assert "3 blocks" in capsys.readouterr().out
    assert cellrt.load(tmp_path / "m.onnx").manifest.head.kind == "flow"
    assert commands.main(arguments) == commands.FAILED
    assert "--force" in capsys.readouterr().err


# ---- errors -------------------------------------------------------------------------------------------------


def refused(state: Any, folder: Path, error: type[CellrtError], *words: str, **options: Any) -> None:
    """Export fails with these words, and leaves nothing behind."""
    path = save(state, folder / "refused.pth")
    before = sorted(folder.iterdir())
    with pytest.raises(error) as caught:
        cellpose_sam.export(path, folder / "refused.onnx", **options)
    message = str(caught.value)
    assert message.startswith("expected")
    assert "\n" not in message
    assert [word for word in words if word not in message] == [], message
    assert sorted(folder.iterdir()) == before


def without(name: str) -> State:
    return {key: value for key, value in draw().items() if key != name}


def test_other_networks_are_named(tmp_path: Path) -> None:
    tensor = torch.zeros(1)
    cpnet = {"downsample.down.res_down_0.conv.conv_0.0.weight": tensor, "output.2.weight": tensor}
    refused(cpnet, tmp_path, ModelError, "Cellpose 1 to 3 in refused.pth", "run: cellrt export cellpose")
    dino = {"encoder.cls_token": tensor, "W2": tensor}
    refused(dino, tmp_path, ModelError, "CPDINO in refused.pth", "not supported")
    refused({"layer.weight": tensor}, tmp_path, ModelError, "another network in refused.pth (layer.weight, ...)")


@pytest.mark.parametrize("name", [name for name, _ in SIZES.shapes() if ".1." not in name and name != "W2"])
def test_missing_weight_is_named(name: str, tmp_path: Path) -> None:
    refused(without(name), tmp_path, ModelError, f"none named {name}")


def test_missing_block_is_named(tmp_path: Path) -> None:
    state = {name: value for name, value in draw().items() if "blocks.1." not in name}
    refused(state, tmp_path, ModelError, "none named encoder.blocks.1.norm1.weight")


@pytest.mark.parametrize(
    ("name", "shape", "words"),
    [
        ("encoder.blocks.2.attn.qkv.weight", (72, 23), ["(72, 24)", "got (72, 23)"]),
        ("encoder.blocks.1.mlp.lin2.bias", (25,), ["(24)", "got (25,)"]),
        ("encoder.blocks.0.attn.rel_pos_w", (27, 9), ["(any, 8)", "got (27, 9)"]),
        ("encoder.blocks.0.attn.rel_pos_w", (0, 8), ["(any, 8)", "got (0, 8)"]),
        ("encoder.blocks.0.mlp.lin1.weight", (0, 24), ["got (0, 24)"]),
        ("encoder.pos_embed", (1, 12, 13, 24), ["(1, 12, 12, 24)"]),
        ("encoder.pos_embed", (144, 24), ["4 dimensions", "(144, 24)"]),
        ("encoder.patch_embed.proj.weight", (24, 3, 8, 7), ["(24, 3, 8, 8)"]),
        ("encoder.patch_embed.proj.weight", (24, 3, 0, 0), ["got (24, 3, 0, 0)"]),
        ("out.weight", (320, 10, 1, 1), ["(192, 10, 1, 1)"]),
        ("W2", (320, 5, 8, 8), ["3 maps", "(320, 5, 8, 8)", "classes"]),
    ],
)
def test_wrong_shape_is_named(name: str, shape: tuple[int, ...], words: list[str], tmp_path: Path) -> None:
    refused(draw() | {name: torch.zeros(shape)}, tmp_path, ModelError, name, *words)


def test_heads_must_divide_the_width(tmp_path: Path) -> None:
    tables = {f"encoder.blocks.{i}.attn.rel_pos_{axis}": torch.zeros(27, 7) for i in range(3) for axis in "hw"}
    refused(draw() | tables, tmp_path, ModelError, "divides 24, got 7")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite(value: float, tmp_path: Path) -> None:
    state = draw()
    state["encoder.blocks.1.attn.proj.bias"][3] = value
    refused(state, tmp_path, ModelError, "NaN or infinity in 'encoder.blocks.1.attn.proj.bias'")


def test_network_that_overflows(tmp_path: Path) -> None:
    refused(without("out.weight") | {"out.weight": torch.full((192, 10, 1, 1), 3e38)}, tmp_path, ModelError, "finite")


def test_weights_too_large_for_half_precision(tmp_path: Path) -> None:
    state = draw()
    state["encoder.blocks.0.mlp.lin1.weight"][0, 0] = 7e4
    refused(state, tmp_path, ModelError, "65504", "got 70000", "block0_wide_weight", precision="fp16")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"precision": "int8"}, ["precision", "fp32, fp16", "'int8'"]),
        ({"flow_threshold": float("nan")}, ["flow_threshold", "nan"]),
        ({"cellprob_threshold": float("inf")}, ["cellprob_threshold", "inf"]),
        ({"flow_threshold": -1}, ["flow_threshold", "at least 0", "-1"]),
    ],
)
def test_options_out_of_range(options: dict[str, Any], words: list[str], tmp_path: Path) -> None:
    refused(draw(), tmp_path, CellrtError, *words, **options)


def test_nothing_is_overwritten_without_force(weights: Path, tmp_path: Path) -> None:
    output = tmp_path / "m.onnx"
    output.write_bytes(b"precious")
    with pytest.raises(FileError, match=r"expected no file at .*m\.onnx, got one; .*--force"):
        cellpose_sam.export(weights, output)
    assert output.read_bytes() == b"precious"
    cellpose_sam.export(weights, output, force=True)
    assert cellrt.load(output).manifest.name == "cells"


# ---- models beyond the limit of a file ----------------------------------------------------------------------

SIGNATURE: dict[str, Any] = {"n_channels": 3, "n_maps": 3, "grid": (1, 1), "version": "test", "side": SIDE}


@pytest.fixture
def graph() -> onnxfile.GraphBuilder:
    """A network with constants large enough to go into a file of their own."""
    sizes = SamSizes(n_channels=3, patch=8, grid=12, width=144, depth=1, head_width=16, hidden=160, features=10)
    state = {name: value.numpy() for name, value in draw(sizes).items()}
    return sam_graph.build(state, sizes)


def manifest(tile: int = SIDE, n_style: int = 0, *, fixed: bool = True) -> Manifest:
    """Any manifest of a flow model."""
    multiple = (tile, tile) if fixed else (8, 8)
    return Manifest(
        name="m",
        head=FlowSpec(dynamics="v4", diam_mean=30.0, diam_labels=30.0, tile=tile, fixed_tile=fixed, n_style=n_style),
        input=InputSpec(n_channels=3),
        normalize=Normalize99Spec(),
        tile=TileSpec(multiple=multiple, receptive_field=(1, 1), halo=(1, 1)),
        source=SourceSpec(upstream="test", name="m", sha256=""),
        selftest=SelfTestSpec(shape=multiple, digest="", means=(0.0, 0.0, 0.0), n_objects=0),
    )


def test_saved_and_described_is_assembled(graph: onnxfile.GraphBuilder, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnxfile.save(graph, path, **SIGNATURE)
    onnxfile.describe(path, manifest())
    assert path.read_bytes() == onnxfile.assemble(graph, manifest=manifest(), **SIGNATURE)
    assert list(tmp_path.iterdir()) == [path]


def test_weights_beyond_the_limit_lie_beside_the_model(graph: onnxfile.GraphBuilder, tmp_path: Path) -> None:
    output = tmp_path / "m.onnx"
    with onnxfile.staging(output) as staged:
        onnxfile.save(graph, staged, limit=1000, **SIGNATURE)
        onnxfile.describe(staged, manifest())
        onnxfile.check(staged, Session(staged).run, manifest=manifest())
        n_bytes = onnxfile.publish(staged, output, force=False)
    data = tmp_path / "m.onnx.data"
    assert sorted(tmp_path.iterdir()) == [output, data]
    assert n_bytes == output.stat().st_size + data.stat().st_size
    assert data.stat().st_size > 10 * output.stat().st_size

    external = [
        {entry.key: entry.value for entry in tensor.external_data}
        for tensor in onnx.load(output, load_external_data=False).graph.initializer
        if tensor.external_data
    ]
    assert len(external) > 5
    assert {entry["location"] for entry in external} == {"m.onnx.data"}
    assert all(int(entry["offset"]) % 65536 == 0 for entry in external)
    embedded = Session(onnxfile.assemble(graph, **SIGNATURE))
    np.testing.assert_array_equal(Session(output).run(images())["maps"], embedded.run(images())["maps"])


def publish(graph: onnxfile.GraphBuilder, output: Path, *, force: bool, limit: int = 1000) -> None:
    """Everything between a graph and its file, less the checks."""
    with onnxfile.staging(output) as staged:
        onnxfile.save(graph, staged, limit=limit, **SIGNATURE)
        onnxfile.publish(staged, output, force=force)


def test_neither_file_is_overwritten_without_force(graph: onnxfile.GraphBuilder, tmp_path: Path) -> None:
    output, data = tmp_path / "m.onnx", tmp_path / "m.onnx.data"
    data.write_bytes(b"precious")
    with pytest.raises(FileError, match=r"expected no file at .*m\.onnx\.data, got one; .*--force"):
        publish(graph, output, force=False)
    assert list(tmp_path.iterdir()) == [data]
    publish(graph, output, force=True)
    assert data.stat().st_size > 1000
    publish(graph, output, force=True)
    assert sorted(tmp_path.iterdir()) == [output, data]


@pytest.mark.parametrize("n_renames", [0, 1, 2])
@pytest.mark.parametrize("existing", [True, False])
def test_a_failed_rename_leaves_what_was_there(
    graph: onnxfile.GraphBuilder, n_renames: int, existing: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, data = tmp_path / "m.onnx", tmp_path / "m.onnx.data"
    if existing:
        output.write_bytes(b"precious")
        data.write_bytes(b"and large")
    rename, done = Path.replace, []

    def fail(self: Path, target: Path) -> Path:
        done.append(target)
        if len(done) > n_renames:
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", fail)
    if n_renames < 2 + existing:
        with pytest.raises(FileError, match="No space left on device"):
            publish(graph, output, force=True)
        assert [path.read_bytes() for path in sorted(tmp_path.iterdir())] == [b"precious", b"and large"][: 2 * existing]
    else:
        publish(graph, output, force=True)
        assert sorted(tmp_path.iterdir()) == [output, data]


def test_a_full_disk_is_said_and_leaves_nothing(
    graph: onnxfile.GraphBuilder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Path, *_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "open", fail)
    with pytest.raises(FileError, match=r"expected to write .*m\.onnx, got No space left"):
        publish(graph, tmp_path / "m.onnx", force=False)
    assert list(tmp_path.iterdir()) == []


# ---- the check ----------------------------------------------------------------------------------------------


def assembled(spec: Manifest) -> bytes:
    """A network whose maps are its image, and whose style is the image's mean."""
    graph = onnxfile.GraphBuilder()
    graph.node("Identity", "maps", ["image"])
    if spec.head.n_style:
        graph.node("ReduceMean", "style", ["image"], axes=[2, 3], keepdims=0)
    side = spec.head.tile if spec.head.fixed_tile else None
    return onnxfile.assemble(
        graph,
        n_channels=3,
        n_maps=3,
        grid=(1, 1),
        version="test",
        manifest=spec,
        n_style=spec.head.n_style,
        side=side,
    )


@pytest.mark.parametrize(
    ("spec", "shapes"),
    [
        (manifest(n_style=3), [(2, 3, 96, 96), (1, 3, 96, 96)]),
        (manifest(n_style=3, fixed=False), [(2, 3, 8, 16), (1, 3, 8, 16), (2, 3, 24, 8), (1, 3, 24, 8)]),
    ],
)
def test_check_runs_legal_sizes_in_two_batches(spec: Manifest, shapes: list[tuple[int, ...]]) -> None:
    model, seen = assembled(spec), []
    session = Session(model)

    def run(image: np.ndarray) -> dict[str, np.ndarray]:
        seen.append(image.shape)
        return session.run(image)

    onnxfile.check(model, run, manifest=spec)
    assert seen == shapes
    names = {name: list(shape) for name, shape in session.outputs.items()}
    sides = [96, 96] if spec.head.fixed_tile else ["Y", "X"]
    assert names == {"maps": ["N", 3, *sides], "style": ["N", 3]}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda maps, style: {"maps": maps}, r"expected style \(2, 3\) .* got none"),
        (lambda maps, style: {"maps": maps, "style": style[:, :2]}, r"expected style \(2, 3\) .* got \(2, 2\)"),
        (lambda maps, style: {"maps": maps[..., 1:], "style": style}, r"expected maps \(2, 3, 96, 96\)"),
        (lambda maps, style: {"maps": maps, "style": style * np.nan}, "expected finite style"),
        (lambda maps, style: {"maps": maps * np.inf, "style": style}, "expected finite maps"),
        (lambda maps, style: {"maps": maps, "style": style * len(style)}, "the same style in a batch of 1 and of 2"),
    ],
)
def test_check_refuses(change: Callable[..., dict[str, np.ndarray]], words: str) -> None:
    spec = manifest(n_style=3)
    model = assembled(spec)
    session = Session(model)
    with pytest.raises(ModelError, match=words):
        onnxfile.check(model, lambda image: change(**session.run(image)), manifest=spec)


def test_check_refuses_a_tile_that_is_no_legal_size(graph: onnxfile.GraphBuilder) -> None:
    spec = manifest(64)
    other = Manifest.from_json(spec.to_json().replace('"multiple": [\n   64,', '"multiple": [\n   48,'))
    with pytest.raises(ModelError, match=r"multiples of \(48, 64\), got the fixed size \(64, 64\)"):
        onnxfile.check(assembled(other), Session(assembled(other)).run, manifest=other)
