"""The torch networks against what they are twins of: recorded outputs of the originals, and exported ONNX files."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import GOLDEN, GOLDEN_CELLPOSE, cellpose_reference_file

h5py = pytest.importorskip("h5py")
onnx = pytest.importorskip("onnx")
torch = pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

import cellrt  # noqa: E402
from cellrt.errors import CellrtError, FileError, ModelError  # noqa: E402
from cellrt.session import Session  # noqa: E402
from cellrt_export import (  # noqa: E402
    activations,
    cellpose,
    commands,
    cpnet,
    cpnet_graph,
    onnx_graph,
    onnxfile,
    star_net,
    stardist,
    torch_weights,
)
from cellrt_export.star_folder import StarConfig, Thresholds  # noqa: E402
from cellrt_export.star_net import StarNet2D  # noqa: E402

MODELS = sorted(path.stem for path in (GOLDEN / "networks").glob("*.npz"))
CELLS = GOLDEN / "models" / "cells"
TINY = StarConfig(
    n_channel_in=1,
    n_rays=8,
    grid=(2, 2),
    n_classes=None,
    unet_n_depth=1,
    unet_kernel_size=(3, 3),
    unet_n_filter_base=4,
    unet_n_conv_per_depth=2,
    unet_pool=(2, 2),
    unet_activation="relu",
    unet_last_activation="relu",
    unet_batch_norm=False,
    unet_expansion=2,
    net_conv_after_unet=8,
)
THRESHOLDS = Thresholds(0.6, 0.3)

needs_golden = pytest.mark.skipif(not MODELS, reason="tests/golden is not recorded")


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Networks this small gain nothing by threads, and torch's spin while they wait."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def answer(net: torch.nn.Module, image: np.ndarray) -> Any:
    """What a network makes of an image (N, C, Y, X)."""
    with torch.no_grad():
        return net(torch.from_numpy(image))


def run(model: Path, image: np.ndarray) -> dict[str, np.ndarray]:
    return Session(model, providers=["cpu"], threads=1).run(image)


def changed(model: Path, change: Callable[[onnx.ModelProto], Any]) -> Path:
    """A copy of a model file that says something else."""
    stored = onnx.load(model)
    change(stored)
    path = model.with_name("changed.onnx")
    path.write_bytes(stored.SerializeToString())
    return path


# ---- StarDist: what a folder and its export say -------------------------------------------------------------


@needs_golden
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
def test_star_twins_answer_as_the_original(name: str, exported: Callable[[Path], Path]) -> None:
    folder = GOLDEN / "models" / name
    net, twin = star_net.load_folder(folder), star_net.load_onnx(exported(folder))
    recorded = np.load(GOLDEN / "networks" / f"{name}.npz")
    image = recorded["image"].reshape(*recorded["image"].shape[:2], -1).transpose(2, 0, 1)
    padding = [(0, -size % multiple) for size, multiple in zip(image.shape[1:], net.config.multiple, strict=True)]
    image = np.pad(image, [(0, 0), *padding], mode="reflect")[np.newaxis].astype(np.float32)

    maps = answer(net, image)[0].permute(1, 2, 0).numpy()
    n_rays = net.config.n_rays
    np.testing.assert_allclose(maps[..., 0], recorded["net_prob"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(maps[..., 1 : 1 + n_rays], recorded["net_dist"], rtol=0, atol=1e-3)
    assert ("net_prob_class" in recorded) == (net.config.n_classes is not None)
    if net.config.n_classes is not None:
        np.testing.assert_allclose(maps[..., 1 + n_rays :], recorded["net_prob_class"], rtol=0, atol=1e-5)

    # the exporter folds as load_folder does, so the weights are the same to the bit
    assert torch.equal(answer(twin, image), answer(net, image))
    wanted = run(exported(folder), image)["maps"]
    np.testing.assert_allclose(answer(twin, image).numpy()[:, 0], wanted[:, 0], rtol=0, atol=1e-5)
    np.testing.assert_allclose(answer(twin, image).numpy(), wanted, rtol=0, atol=1e-3)
    same = {"swish": "silu"}  # one function, two names
    wanted_config = dataclasses.replace(
        net.config, unet_activation=same.get(net.config.unet_activation, net.config.unet_activation)
    )
    assert twin.config == wanted_config
    assert (net.training, twin.training) == (False, False)


@needs_golden
@pytest.mark.parametrize("name", [name for name in MODELS if name != "offset_names"])  # which counts on from others
def test_layers_are_named_as_stardist_names_them(name: str) -> None:
    folder = GOLDEN / "models" / name
    config = json.loads((folder / "config.json").read_text())
    path = next(folder.glob("*.h5"))
    with h5py.File(path) as file:
        root = file.get("model_weights", file)
        recorded = [key if isinstance(key, str) else key.decode() for key in root.attrs["layer_names"]]
    folded_away = ("batch_normalization", "activation", "dropout")
    prefix = config.get("unet_prefix", "")
    wanted = [key.removeprefix(prefix) for key in recorded if not key.startswith(folded_away)]
    assert list(star_net._keras_layers(star_net.load_folder(folder).plan)) == wanted


def test_the_bundled_model_has_a_twin() -> None:
    net = star_net.load_onnx("nuclei")
    assert (net.config.grid, net.config.n_rays, net.config.unet_expansion) == ((2, 2), 32, 2)
    with pytest.raises(
        ModelError, match=r"expected a model file or one of the bundled models \(.*nuclei.*\), got 'nothing'"
    ):
        star_net.load_onnx("nothing")


@pytest.mark.parametrize("name", activations.SUPPORTED)
def test_every_activation_has_a_twin(name: str) -> None:
    graph = onnxfile.GraphBuilder()
    result = activations.add_activation(graph, name, "image", name="result", keras_version=3)
    graph.node("Concat", "maps", [result], axis=1)
    model = onnxfile.assemble(graph, n_channels=3, n_maps=3, grid=(1, 1), version="test")
    image = np.random.default_rng(0).normal(0, 2, (1, 3, 4, 5)).astype(np.float32)
    twin = star_net._ACTIVATIONS[name](torch.from_numpy(image))
    wanted = Session(model, providers=["cpu"], threads=1).run(image)["maps"]
    np.testing.assert_allclose(twin.numpy(), wanted, rtol=2e-6, atol=2e-6)
    nodes = {node.name: node for node in graph.nodes}
    if name != "linear":  # which leaves no node
        again = activations.recognize(nodes, "image", name="result")
        assert (again, name) in {(name, name), ("silu", "swish"), ("hard_silu", "hard_swish")}


@pytest.mark.parametrize(
    "change",
    [
        {"unet_expansion": 1.5, "unet_n_filter_base": 5, "unet_n_depth": 3},
        {"unet_expansion": 1, "unet_n_depth": 2},
        {"unet_expansion": 3, "unet_n_depth": 3, "unet_n_filter_base": 2},
        {"unet_expansion": 2.25, "unet_n_filter_base": 16, "unet_n_depth": 2},
        {"unet_expansion": 5, "unet_n_conv_per_depth": 1, "unet_n_depth": 2},
        {"unet_n_conv_per_depth": 0, "unet_n_depth": 3, "grid": (1, 4)},
        {"unet_n_depth": 0, "unet_n_conv_per_depth": 0, "net_conv_after_unet": 0},
        {"unet_n_conv_per_depth": 3, "unet_kernel_size": (1, 5), "unet_pool": (3, 1), "n_channel_in": 2},
        {"unet_activation": "linear", "unet_last_activation": "mish", "n_classes": 2},
        {"unet_activation": "sparse_plus", "unet_last_activation": "linear"},
    ],
)
def test_any_configuration_goes_round(change: dict[str, Any], tmp_path: Path) -> None:
    """A network -> folder -> ONNX file -> the same network."""
    config = dataclasses.replace(TINY, **change)
    torch.manual_seed(0)
    net = StarNet2D(config).eval()
    star_net.save_folder(net, tmp_path / "m", thresholds=THRESHOLDS, training={})
    twin = star_net.load_onnx(stardist.export(tmp_path / "m", tmp_path / "m.onnx").output)
    shape = [2 * multiple for multiple in config.multiple]
    image = np.random.default_rng(0).random((2, config.n_channel_in, *shape), np.float32)
    assert torch.equal(answer(twin, image), answer(net, image))
    widths = [[net.config.n_filters(level) for level in range(4)] for net in (net, twin)]
    depth = config.unet_n_depth + (config.unet_n_conv_per_depth > 1)  # the levels that show
    assert widths[0][:depth] == widths[1][:depth]
    ignored = {"unet_expansion": 2.0, "unet_last_activation": ""}  # does not show at every depth
    assert dataclasses.replace(twin.config, **ignored) == dataclasses.replace(config, **ignored)


def test_folder_round_trip(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = StarNet2D(TINY).eval()
    star_net.save_folder(net, tmp_path / "m", thresholds=THRESHOLDS, training={"train_batch_size": 8})
    again = star_net.load_folder(tmp_path / "m")
    assert again.config == TINY
    image = np.random.default_rng(0).random((1, 1, 16, 24), np.float32)
    assert torch.equal(answer(net, image), answer(again, image))
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    assert (config["n_channel_out"], config["train_batch_size"], config["grid"]) == (9, 8, [2, 2])
    assert json.loads((tmp_path / "m" / "thresholds.json").read_text()) == {"prob": 0.6, "nms": 0.3}
    files = {"config.json", "thresholds.json", "weights_best.h5"}
    assert {path.name for path in (tmp_path / "m").iterdir()} == files
    star_net.save_folder(again, tmp_path / "m", thresholds=Thresholds(), training={})
    assert {path.name for path in (tmp_path / "m").iterdir()} == files
    head = stardist.export(tmp_path / "m", tmp_path / "m.onnx").manifest.head
    assert (head.prob_thresh, head.nms_thresh) == (0.5, 0.4)


def test_saved_keys_are_those_of_stardist(tmp_path: Path) -> None:
    """Every key of the architecture, with the value that StarDist wrote."""
    name = "cells_classes"
    star_net.save_folder(star_net.load_folder(GOLDEN / "models" / name), tmp_path, thresholds=THRESHOLDS, training={})
    recorded = json.loads((GOLDEN / "models" / name / "config.json").read_text())
    recorded = {key: value for key, value in recorded.items() if not key.startswith(("train_", "use_gpu"))}
    assert json.loads((tmp_path / "config.json").read_text()) == recorded


def test_normalisation_is_folded_when_it_is_saved(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = StarNet2D(dataclasses.replace(TINY, n_classes=2), batch_norm=True)
    heads = ("prob", "dist", "prob_class")
    assert {name for name, layer in net.layers.items() if layer.norm is None} == set(heads)
    for norm in (module for module in net.modules() if isinstance(module, torch.nn.BatchNorm2d)):
        norm.momentum = 1.0
        torch.nn.init.uniform_(norm.weight, -1.5, 1.5)
        torch.nn.init.normal_(norm.bias, 0, 0.3)
    image = np.random.default_rng(0).random((2, 1, 16, 24), np.float32)
    answer(net.train(), image)  # takes the statistics of what really comes by
    wanted = answer(net.eval(), image).numpy()
    star_net.save_folder(net, tmp_path / "m", thresholds=THRESHOLDS, training={})
    folded = answer(star_net.load_folder(tmp_path / "m"), image).numpy()
    np.testing.assert_allclose(folded, wanted, rtol=0, atol=1e-4)  # of lengths; the scales amplify rounding
    output = stardist.export(tmp_path / "m", tmp_path / "m.onnx").output
    np.testing.assert_allclose(run(output, image)["maps"], wanted, rtol=0, atol=1e-4)
    fresh = star_net.load_folder(tmp_path / "m", batch_norm=True)
    assert sum(isinstance(module, torch.nn.BatchNorm2d) for module in fresh.modules()) == len(net.layers) - len(heads)


def test_training_sees_logits(tmp_path: Path) -> None:
    net = StarNet2D(TINY).eval()
    image = np.random.default_rng(0).random((1, 1, 8, 8), np.float32)
    with torch.no_grad():
        logit, dist = net.logit_and_dist(torch.from_numpy(image))
    assert torch.equal(torch.cat([torch.sigmoid(logit), dist], 1), answer(net, image))


# ---- StarDist: refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize("grid", [(3, 1), (0, 1), (2, 6)])
def test_grids_that_pooling_does_not_reach(grid: tuple[int, int]) -> None:
    with pytest.raises(ModelError, match="expected grid to be two powers of 2, got"):
        StarNet2D(dataclasses.replace(TINY, grid=grid))


def test_folders_that_do_not_fit(tmp_path: Path) -> None:
    star_net.save_folder(StarNet2D(TINY), tmp_path, thresholds=THRESHOLDS, training={})
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    for change, message in (
        ({"unet_n_filter_base": 5}, "weights do not fit config.json: expected layer 1"),
        ({"unet_n_depth": 2}, "weights do not fit config.json"),
        ({"unet_activation": "glu"}, "expected an activation out of celu"),
    ):
        path.write_text(json.dumps(config | change))
        with pytest.raises(ModelError, match=message):
            star_net.load_folder(tmp_path)


def test_hard_sigmoid_of_keras_2_is_not_taken_for_that_of_keras_3(tmp_path: Path) -> None:
    config = dataclasses.replace(TINY, unet_last_activation="hard_sigmoid")
    star_net.save_folder(StarNet2D(config), tmp_path / "m", thresholds=THRESHOLDS, training={})
    star_net.load_folder(tmp_path / "m")
    with h5py.File(tmp_path / "m" / "weights_best.h5", "a") as file:
        file.attrs["keras_version"] = "2.15.0"
    with pytest.raises(ModelError, match=r"expected the hard_sigmoid of Keras 3, got weights of Keras 2 in weights_be"):
        star_net.load_folder(tmp_path / "m")
    output = stardist.export(tmp_path / "m", tmp_path / "m.onnx").output
    with pytest.raises(ModelError, match=r"expected one of Keras 3's activations behind up_level_0_no_2 .*HardSigmoid"):
        star_net.load_onnx(output)


def _constant(model: onnx.ModelProto, name: str, value: np.ndarray | None) -> None:
    """Replace a constant, or take it away."""
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    if value is None:
        model.graph.initializer.remove(tensor)
    else:
        tensor.CopyFrom(onnx.numpy_helper.from_array(value.astype(np.float32), name))


def _node(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if node.name == name)


@needs_golden
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda model: model.metadata_props.pop(), "with cellrt's manifest, got changed.onnx without one; export it"),
        (
            lambda model: model.graph.initializer[0].__setattr__("data_location", onnx.TensorProto.EXTERNAL),
            "expected the weights in changed.onnx itself, got grid_0_no_0_kernel in a file beside it",
        ),
        (lambda model: _constant(model, "middle_2_kernel", None), r"expected middle_0 with \(32, 1, 3, 3\)"),
        (
            lambda model: _constant(model, "up_level_0_no_2_kernel", None),
            r"expected a layer up_level_0_no_2 in changed",
        ),
        (
            lambda model: _constant(model, "dist_bias", np.zeros(7)),
            r"expected dist with \(32, 20, 1, 1\) and \(32,\) in changed.onnx, got \(32, 20, 1, 1\) and \(7,\); use",
        ),
        (
            lambda model: _constant(model, "down_level_1_no_1_kernel", np.zeros((9, 16, 3, 3))),
            r"expected down_level_1_no_1 with \(16, 16, 3, 3\) .* got \(9, 16, 3, 3\)",
        ),
        (
            lambda model: _constant(model, "middle_0_kernel", np.zeros((8, 16, 3, 3))),
            "expected filters that grow by one factor from level to level in changed.onnx, got",
        ),
        (
            lambda model: _node(model, "middle_0").__setattr__("op_type", "Elu"),
            r"expected the layers that this cellrt exports in changed.onnx, got others \(at middle_0\); export the",
        ),
        (
            lambda model: _node(model, "middle_2").__setattr__("op_type", "Sin"),
            "activations behind middle_2 .* got Sin",
        ),
        (lambda model: model.graph.node.pop(), r"got others \(at maps\)"),
    ],
)
def test_changed_files_are_refused(
    change: Callable[[onnx.ModelProto], Any], message: str, exported: Callable[[Path], Path]
) -> None:
    with pytest.raises(ModelError, match=message):
        star_net.load_onnx(changed(exported(CELLS), change))


@needs_golden
def test_files_that_are_no_networks(
    exported: Callable[[Path], Path], exported_cellpose: Callable[[Path], Path], tmp_path: Path
) -> None:
    with pytest.raises(FileError, match=r"expected to read .*nowhere\.onnx, got No such file"):
        star_net.load_onnx(tmp_path / "nowhere.onnx")
    star, flow = exported(CELLS), exported_cellpose(GOLDEN_CELLPOSE / "models" / "cells")
    (tmp_path / "cut.onnx").write_bytes(star.read_bytes()[:-700])
    with pytest.raises(ModelError, match=r"expected a whole ONNX model, got cut\.onnx; copy or export it again"):
        star_net.load_onnx(tmp_path / "cut.onnx")
    with pytest.raises(
        ModelError, match=r"expected a StarDist network in .*, got one with the head 'flow'; use a file"
    ):
        star_net.load_onnx(flow)
    with pytest.raises(
        ModelError, match=r"expected a Cellpose 1 to 3 network in .*, got one with the head 'star'; use"
    ):
        cpnet.load_onnx(star)


# ---- Cellpose -----------------------------------------------------------------------------------------------


def random_net(n_channels: int, widths: tuple[int, ...], seed: int) -> cpnet.CPNet:
    """A network whose every number counts, some of the scales 0 or negative."""
    torch.manual_seed(seed)
    net = cpnet.CPNet(n_channels, widths, diam_mean=17.0)
    for norm in (module for module in net.modules() if isinstance(module, torch.nn.BatchNorm2d)):
        torch.nn.init.uniform_(norm.weight, -1.5, 1.5)
        norm.weight.data[0] = 0
        torch.nn.init.normal_(norm.bias, 0, 0.3)
        norm.momentum = 1.0
    answer(net.train(), np.random.default_rng(seed).random((2, n_channels, *[4 * net.multiple] * 2), np.float32))
    net.diam_labels.fill_(21.5)
    return net.eval()


def saved(net: cpnet.CPNet, path: Path) -> Path:
    torch.save(net.state_dict(), path)
    return path


def assert_like(net: cpnet.CPNet, model: Path, tolerance: float = 1e-4) -> None:
    """Maps and style are those of ONNX Runtime; the maps to this share of the largest of them, or of 1."""
    n_channels = net.state_dict()["downsample.down.res_down_0.proj.1.weight"].shape[1]
    image = np.random.default_rng(3).random((2, n_channels, 2 * net.multiple, 3 * net.multiple), np.float32)
    wanted = run(model, image)
    maps, style = answer(net, image)
    scale = max(1.0, float(np.abs(wanted["maps"]).max()))
    np.testing.assert_allclose(maps.numpy(), wanted["maps"], rtol=0, atol=tolerance * scale)
    np.testing.assert_allclose(style.numpy(), wanted["style"], rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    ("n_channels", "widths"), [(2, (4, 8, 8, 16)), (1, (3, 5)), (3, (4,)), (2, (2, 3, 4, 5, 6)), (2, (32, 48))]
)
def test_cellpose_twin_answers_as_the_file(n_channels: int, widths: tuple[int, ...], tmp_path: Path) -> None:
    output = cellpose.export(saved(random_net(n_channels, widths, 1), tmp_path / "w"), tmp_path / "m.onnx").output
    twin = cpnet.load_onnx(output)
    assert_like(twin, output)
    assert (float(twin.diam_mean), float(twin.diam_labels)) == (17, 21.5)
    assert not twin.training
    # what a fine-tuned twin would be saved as exports to a network that answers the same
    again = cellpose.export(saved(twin, tmp_path / "twin"), tmp_path / "twin.onnx").output
    assert_like(twin, again)


@needs_golden
@pytest.mark.parametrize("name", ["cells", "cpnet_synth"])
def test_cellpose_files_have_twins(name: str, exported_cellpose: Callable[[Path], Path]) -> None:
    weights = GOLDEN_CELLPOSE / "models" / name
    if not weights.exists():
        weights = cellpose_reference_file("models", name)
    for net in (cpnet.load_weights(weights), cpnet.load_onnx(exported_cellpose(weights))):
        assert_like(net, exported_cellpose(weights))


@needs_golden
def test_cellpose_twins_answer_as_the_original(exported_cellpose: Callable[[Path], Path]) -> None:
    recorded = np.load(GOLDEN_CELLPOSE / "cases" / "grey.npz")  # one tile, not resized
    weights = GOLDEN_CELLPOSE / "models" / "cells"
    image = recorded["normalized"]
    pads = [(8 + (-side % 16) // 2, 8 + (-side % 16) - (-side % 16) // 2) for side in image.shape[:2]]
    inside = tuple(slice(low, low + side) for (low, _), side in zip(pads, image.shape, strict=False))
    batch = np.ascontiguousarray(np.pad(image, [*pads, (0, 0)]).transpose(2, 0, 1)[np.newaxis], np.float32)
    for net in (cpnet.load_weights(weights), cpnet.load_onnx(exported_cellpose(weights))):
        maps, style = answer(net, batch)
        found = maps[0].permute(1, 2, 0).numpy()[inside]
        np.testing.assert_allclose(found, recorded["net_out_netres"], rtol=0, atol=2e-5)
        np.testing.assert_allclose(style[0].numpy(), recorded["style"], rtol=0, atol=1e-5)
        assert float(net.diam_mean) == 17


def test_what_was_folded_and_what_stayed(tmp_path: Path) -> None:
    net = random_net(2, (3, 4), 0)
    twin = cpnet.load_onnx(cellpose.export(saved(net, tmp_path / "w"), tmp_path / "m.onnx").output)
    maps = torch.rand(1, 4, 8, 8)
    folded = ("proj.0", "conv_3.0", "conv_3.conv.0", "res_down_0.conv.conv_1.0", "res_down_1.conv.conv_1.0")
    for name, norm in twin.named_modules():
        if not isinstance(norm, torch.nn.BatchNorm2d):
            continue
        if name.endswith(folded):
            x = maps[:, : norm.num_features]
            assert torch.allclose(norm(x), x, rtol=1e-6), name
        else:
            for array in ("weight", "bias", "running_mean", "running_var"):
                assert torch.equal(getattr(norm, array), getattr(net.get_submodule(name), array)), name
    # a kernel behind repeated samples is put together again, where anything is seen of it
    kernel, scale = "upsample.up.res_up_0.conv.conv_0.2.weight", "upsample.up.res_up_0.conv.conv_1.conv.0.weight"
    found, wanted, seen = twin.state_dict()[kernel], net.state_dict()[kernel], net.state_dict()[scale] != 0
    np.testing.assert_allclose(found[seen].numpy(), wanted[seen].numpy(), rtol=0, atol=1e-6)
    assert not found[~seen].any()


def test_weights_without_diameters_and_with_faults(tmp_path: Path) -> None:
    net = random_net(2, (3, 4), 0)
    state = net.state_dict()
    path = tmp_path / "w"
    torch.save({name: value for name, value in state.items() if "diam" not in name and "tracked" not in name}, path)
    assert float(cpnet.load_weights(path).diam_mean) == 30
    for change, message in (
        ({"W2": torch.ones(3)}, "got those of Cellpose-SAM"),
        ({"output.0.bias": torch.ones(7)}, r"expected output.0.bias of shape \(3,\) in w, got \(7,\)"),
        ({"output.0.running_var": -torch.ones(3)}, "expected variances of at least 0 at output.0 in w, got -1"),
        ({"more": torch.ones(3)}, "got further ones: more"),
    ):
        torch.save({**state, **change}, path)
        with pytest.raises(ModelError, match=message):
            cpnet.load_weights(path)
    with pytest.raises(FileError, match="expected to read"):
        cpnet.load_weights(tmp_path / "nowhere")


def test_changed_cellpose_files_are_refused(tmp_path: Path) -> None:
    output = cellpose.export(saved(random_net(2, (3, 4), 0), tmp_path / "w"), tmp_path / "m.onnx").output

    def first_phase(model: onnx.ModelProto) -> None:
        _constant(model, "up_0_conv_0_00_kernel", np.ones((3, 4, 2, 2)))

    for change, message in (
        (first_phase, "expected four kernels of 2 x 2 that are sums of one of 3 x 3 at up_0_conv_0 in changed.onnx"),
        (lambda model: _constant(model, "down_0_proj_kernel", None), r"expected 1 to 5 levels .*, got \[\]; use"),
        (lambda model: _constant(model, "down_1_proj_kernel", None), r"the last 4 channels wide, got \[3\]"),
        (lambda model: _constant(model, "maps_bias", np.zeros(4)), r"exports in .*, got others \(at maps_bias\)"),
        (lambda model: _constant(model, "output_weight", None), r"got others \(at output_weight\)"),
    ):
        with pytest.raises(ModelError, match=message):
            cpnet.load_onnx(changed(output, change))


# ---- weights stored as float16 ------------------------------------------------------------------------------


@needs_golden
def test_star_weights_stored_as_float16(exported: Callable[[Path], Path], tmp_path: Path) -> None:
    summary = stardist.export(CELLS, tmp_path / "half.onnx", precision="fp16")
    assert "float16, cast to float32" in str(summary)
    assert summary.output.stat().st_size < 0.7 * exported(CELLS).stat().st_size
    stored = onnx.load(summary.output)
    kinds = {tensor.name: tensor.data_type for tensor in stored.graph.initializer}
    for name, kind in kinds.items():
        assert kind == (onnx.TensorProto.FLOAT16 if name.endswith("_kernel_half") else onnx.TensorProto.FLOAT), name
    whole, half = onnx_graph.read(exported(CELLS)), onnx_graph.read(summary.output)
    assert (whole.halved, half.halved) == (False, True)
    assert list(whole.nodes) == list(half.nodes)
    for name, value in whole.constants.items():
        rounded = value.astype(np.float16).astype(np.float32) if value.ndim > 1 else value
        assert np.array_equal(half.constants[name], rounded), name

    image = np.random.default_rng(0).random((1, 1, 64, 64), np.float32)
    maps = run(summary.output, image)["maps"]
    np.testing.assert_allclose(answer(star_net.load_onnx(summary.output), image).numpy(), maps, rtol=0, atol=1e-3)
    assert 0 < np.abs(maps - run(exported(CELLS), image)["maps"]).max() < 0.5  # pixels, of lengths
    assert summary.manifest.selftest is not None
    assert cellrt.load(summary.output).selftest().identical
    assert summary.manifest.selftest.digest != cellrt.load(exported(CELLS)).manifest.selftest.digest


def test_cellpose_weights_stored_as_float16(tmp_path: Path) -> None:
    weights = saved(random_net(2, (16, 24, 32), 2), tmp_path / "w")
    whole = cellpose.export(weights, tmp_path / "m.onnx")
    half = cellpose.export(weights, tmp_path / "half.onnx", precision="fp16")
    assert half.n_bytes < 0.6 * whole.n_bytes
    assert "float16, cast to float32" in str(half)
    assert "weights          float32\n" in str(whole)
    # the four kernels behind repeated samples were rounded apart: one kernel is as close as that
    assert_like(cpnet.load_onnx(half.output), half.output, 1e-2)
    assert cellrt.load(half.output).selftest().identical


def test_weights_beyond_float16(tmp_path: Path) -> None:
    graph = onnxfile.GraphBuilder()
    graph.constant("small", np.full((2, 2), 65504, np.float32))
    graph.constant("vector", np.full(2, 1e30, np.float32))
    halved = onnxfile.in_precision(graph, "fp16")
    assert [node.op_type for node in halved.nodes] == ["Cast"]
    assert {name: value.dtype.name for name, value in halved.constants.items()} == {
        "small_half": "float16",
        "vector": "float32",
    }
    assert onnxfile.in_precision(graph, "fp32") is graph
    graph.constant("large", np.full((2, 2), -7e4, np.float32))
    with pytest.raises(ModelError, match="of at most 65504 for float16, got 70000 in large; export with fp32"):
        onnxfile.in_precision(graph, "fp16")
    for export in (stardist.export, cellpose.export):
        with pytest.raises(CellrtError, match="expected precision to be one of fp32, fp16, int8, got 'int4'"):
            export(tmp_path, tmp_path / "m.onnx", precision="int4")


@needs_golden
def test_precision_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = saved(random_net(1, (2, 2), 0), tmp_path / "w")
    for upstream, source in (("stardist", CELLS), ("cellpose", weights)):
        output = tmp_path / f"{upstream}.onnx"
        assert commands.main([upstream, str(source), "-o", str(output), "--precision", "fp16"]) == commands.OK
        assert "float16, cast to float32" in capsys.readouterr().out
        assert onnx_graph.read(output).halved
    assert commands.main(["stardist", str(CELLS), "-o", "m.onnx", "--precision", "fp8"]) == 2


def test_casts_are_folded_when_the_file_is_opened(tmp_path: Path) -> None:
    """What runs is the graph of float32 weights: no cast is left in what ONNX Runtime makes of the file."""
    import onnxruntime

    output = cellpose.export(
        saved(random_net(2, (4, 8), 0), tmp_path / "w"), tmp_path / "m.onnx", precision="fp16"
    ).output
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    onnxruntime.InferenceSession(str(output), options, providers=["CPUExecutionProvider"])
    assert "Cast" in {node.op_type for node in onnx.load(output).graph.node}
    assert "Cast" not in {node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node}


def test_twins_of_weights_and_graph_have_the_same_names(tmp_path: Path) -> None:
    net = random_net(2, (3, 4), 0)
    path = saved(net, tmp_path / "w")
    read = cpnet_graph.read(onnx_graph.read(cellpose.export(path, tmp_path / "m.onnx").output))
    assert set(read.arrays) == {name for name in torch_weights.read(path).arrays if not name.endswith("tracked")}
