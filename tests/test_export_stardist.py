"""`cellrt export stardist`: parity with the original, breadth of configurations, errors, and what the file holds.

Three sources of truth: outputs of StarDist 0.9.2 in tests/golden and, where it is there, ../shared/reference; and
`Twin`, a slow numpy U-Net that writes its random weights as Keras 2 and Keras 3 lay them out.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.lib.stride_tricks import sliding_window_view

h5py = pytest.importorskip("h5py")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import cellrt  # noqa: E402
from cellrt.errors import CellrtError, FileError, ModelError  # noqa: E402
from cellrt.manifest import Manifest, PercentileSpec  # noqa: E402
from cellrt.session import Session  # noqa: E402
from cellrt_export import activations, commands, onnxfile, stardist  # noqa: E402
from cellrt_export.star_folder import choose_weights, read_config  # noqa: E402
from cellrt_export.verify import verify  # noqa: E402

GOLDEN = Path(__file__).parent / "golden" / "stardist"
REFERENCE = Path(__file__).parents[2] / "shared" / "reference" / "stardist"
MODELS = sorted(path.stem for path in (GOLDEN / "networks").glob("*.npz"))
# cases with the network's maps; the others hold only what was decoded from them
CASES = ("2d_fluo_img2d", "2d_fluo_odd229x251", "2d_rgb_synth")

needs_golden = pytest.mark.skipif(not MODELS, reason="tests/golden/stardist is not recorded")
needs_reference = pytest.mark.skipif(not REFERENCE.is_dir(), reason="no ../shared/reference beside the repository")


# ---- the slow twin ------------------------------------------------------------------------------------------


class Twin:
    """A StarDist 2D network in numpy float64, channels last as in Keras, with random weights.

    Layers are made in the order in which `predict` first meets them; `save` writes them in Keras's order.
    """

    def __init__(self, config: dict[str, Any], seed: int = 0) -> None:
        defaults: dict[str, Any] = {
            "n_channel_in": 1,
            "n_rays": 4,
            "grid": [1, 1],
            "n_classes": None,
            "unet_n_depth": 1,
            "unet_kernel_size": [3, 3],
            "unet_n_filter_base": 3,
            "unet_n_conv_per_depth": 2,
            "unet_pool": [2, 2],
            "unet_activation": "relu",
            "unet_last_activation": "relu",
            "unet_batch_norm": False,
            "unet_expansion": 2,
            "unet_prefix": "",
            "net_conv_after_unet": 4,
            "train_epochs": 1,
        }
        self.config = defaults | config
        self.random = np.random.default_rng(seed)
        self.layers: dict[str, list[np.ndarray]] = {}  # name: kernel, bias or gamma, beta, mean, variance

    def predict(self, image: np.ndarray) -> np.ndarray:
        """Image (Y, X, C) -> maps (Y/gy, X/gx, 1 + rays [+ classes + 1])."""
        c = self.config
        self.n_automatic = 7  # as in a session that made other networks before
        base, expansion, depth = c["unet_n_filter_base"], c["unet_expansion"], c["unet_n_depth"]
        n_conv, kernel, act = c["unet_n_conv_per_depth"], c["unet_kernel_size"], c["unet_activation"]
        x, pooled = image.astype(np.float64), [1, 1]
        while pooled != c["grid"]:
            pool = [2 if goal > done else 1 for goal, done in zip(c["grid"], pooled, strict=True)]
            for _ in range(n_conv):
                self.n_automatic += 1
                x = self._conv(f"conv2d_{self.n_automatic}", x, base, kernel, act)
            x = _max_pool(x, pool)
            pooled = [p * q for p, q in zip(pooled, pool, strict=True)]
        skips = []
        for n in range(depth):
            for i in range(n_conv):
                x = self._unet_conv(f"down_level_{n}_no_{i}", x, int(base * expansion**n), act)
            skips.append(x)
            x = _max_pool(x, c["unet_pool"])
        for i in range(n_conv - 1):
            x = self._unet_conv(f"middle_{i}", x, int(base * expansion**depth), act)
        x = self._unet_conv(f"middle_{n_conv}", x, int(base * expansion ** max(0, depth - 1)), act)
        for n in reversed(range(depth)):
            x = x.repeat(c["unet_pool"][0], 0).repeat(c["unet_pool"][1], 1)
            x = np.concatenate([x, skips[n]], -1)
            for i in range(n_conv - 1):
                x = self._unet_conv(f"up_level_{n}_no_{i}", x, int(base * expansion**n), act)
            last = act if n > 0 else c["unet_last_activation"]
            x = self._unet_conv(f"up_level_{n}_no_{n_conv}", x, int(base * expansion ** max(0, n - 1)), last)

        def features(name: str) -> np.ndarray:
            n_features = c["net_conv_after_unet"]
            return self._conv(name, x, n_features, kernel, act) if n_features else x

        shared = features("features")
        of_class = None if c["n_classes"] is None else features("features_class")
        maps = [self._conv("prob", shared, 1, [1, 1], "sigmoid"), self._conv("dist", shared, c["n_rays"], [1, 1])]
        if of_class is not None:
            maps.append(self._conv("prob_class", of_class, c["n_classes"] + 1, [1, 1], "softmax"))
        return np.concatenate(maps, -1)

    def save(self, folder: Path, *, keras: int = 3, nested: bool = False) -> Path:
        """Write the folder; weightless layers are in the list as they are in Keras's files."""
        if not self.layers:
            self.predict(np.zeros((*read_multiple(self.config), self.config["n_channel_in"])))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(self.config))
        (folder / "thresholds.json").write_text('{"prob": 0.6, "nms": 0.3}')
        with h5py.File(folder / "weights_best.h5", "w") as file:
            root = file.create_group("model_weights") if nested else file
            names = ["input", *self.layers, "top_level"]
            root.attrs["layer_names"] = [name.encode() for name in names] if keras == 2 else names
            root.attrs["keras_version"] = np.bytes_(b"2.2.4") if keras == 2 else "3.15.1"
            for name in names:
                group, arrays = root.create_group(name), self.layers.get(name, [])
                keys = ["kernel", "bias"] if len(arrays) == 2 else ["gamma", "beta", "moving_mean", "moving_variance"]
                paths = [f"{name}/{key}{':0' if keras == 2 else ''}" for key in keys[: len(arrays)]]
                group.attrs["weight_names"] = [p.encode() for p in paths] if keras == 2 else (paths or np.zeros(0))
                for path, array in zip(paths, arrays, strict=True):
                    group.create_dataset(path, data=array)
        return folder

    def _unet_conv(self, name: str, x: np.ndarray, n_out: int, activation: str) -> np.ndarray:
        name = self.config["unet_prefix"] + name
        if not self.config["unet_batch_norm"]:
            return self._conv(name, x, n_out, self.config["unet_kernel_size"], activation)
        x = self._conv(name, x, n_out, self.config["unet_kernel_size"])
        uniform, normal = self.random.uniform, self.random.normal
        norm = f"batch_normalization_{name}"
        if norm not in self.layers:
            arrays = uniform(-1.5, 1.5, n_out), normal(0, 0.3, n_out), normal(0, 0.3, n_out), uniform(0.3, 2, n_out)
            self.layers[norm] = [array.astype(np.float32) for array in arrays]
        gamma, beta, mean, variance = (array.astype(np.float64) for array in self.layers[norm])
        return _activate((x - mean) / np.sqrt(variance + 1e-3) * gamma + beta, activation)

    def _conv(self, name: str, x: np.ndarray, n_out: int, kernel: list[int], activation: str = "linear") -> np.ndarray:
        n_in = x.shape[-1]
        if name not in self.layers:
            scale = np.sqrt(1.7 / (kernel[0] * kernel[1] * n_in))
            arrays = self.random.normal(0, scale, (*kernel, n_in, n_out)), self.random.normal(0, 0.3, n_out)
            self.layers[name] = [array.astype(np.float32) for array in arrays]
        weight, bias = (array.astype(np.float64) for array in self.layers[name])
        padded = np.pad(x, [*(((k - 1) // 2, k // 2) for k in kernel), (0, 0)])
        windows = sliding_window_view(padded, tuple(kernel), (0, 1))  # (y, x, in, ky, kx)
        return _activate(np.einsum("yxcij,ijco->yxo", windows, weight, optimize=True) + bias, activation)


def read_multiple(config: dict[str, Any]) -> tuple[int, ...]:
    """Sides of the input must be multiples of this."""
    return tuple(p ** config["unet_n_depth"] * g for p, g in zip(config["unet_pool"], config["grid"], strict=True))


def _max_pool(x: np.ndarray, size: list[int]) -> np.ndarray:
    y, x_size, n = x.shape
    return x.reshape(y // size[0], size[0], x_size // size[1], size[1], n).max((1, 3))


def _activate(x: np.ndarray, name: str) -> np.ndarray:
    functions = {
        "linear": lambda: x,
        "relu": lambda: np.maximum(x, 0),
        "elu": lambda: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
        "tanh": lambda: np.tanh(x),
        "sigmoid": lambda: 1 / (1 + np.exp(-x)),
        "softplus": lambda: np.logaddexp(x, 0),
        "swish": lambda: x / (1 + np.exp(-x)),
        "softmax": lambda: np.exp(x) / np.exp(x).sum(-1, keepdims=True),
    }
    return functions[name]()


def run(model: Path | bytes, image: np.ndarray) -> np.ndarray:
    """Image (Y, X, C) through an exported file -> maps (Y/gy, X/gx, M)."""
    batch = np.ascontiguousarray(image.transpose(2, 0, 1)[None], np.float32)
    return Session(model, providers=["cpu"]).run(batch)["maps"][0].transpose(1, 2, 0)


def assert_like_twin(twin: Twin, output: Path) -> None:
    multiple = read_multiple(twin.config)
    shape = (2 * multiple[0], 3 * multiple[1], twin.config["n_channel_in"])
    image = np.random.default_rng(1).normal(0, 1, shape).astype(np.float32)
    maps, wanted = run(output, image), twin.predict(image)
    assert maps.shape == wanted.shape
    scale = max(1, np.abs(wanted).max())  # the tolerances of verify are for lengths of tens of pixels
    np.testing.assert_allclose(maps, wanted, rtol=0, atol=2e-5 * scale)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small valid model folder."""
    return Twin({}).save(tmp_path / "cells")


def change(folder: Path, **values: Any) -> None:
    """Change keys of config.json."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


# ---- parity with the original -------------------------------------------------------------------------------


@needs_golden
@pytest.mark.parametrize("name", MODELS)
def test_golden_folder_gives_the_maps_of_the_original(name: str, tmp_path: Path) -> None:
    recorded = np.load(GOLDEN / "networks" / f"{name}.npz")
    summary = stardist.export(GOLDEN / "models" / name, tmp_path / "model.onnx")
    differences = verify(summary.output, GOLDEN / "networks" / f"{name}.npz")
    assert [d.maps for d in differences] == ["prob", "dist", "prob_class"][: 2 + ("net_prob_class" in recorded)]
    assert all(d.passed for d in differences), "\n".join(map(str, differences))
    manifest = summary.manifest
    assert manifest.tile.multiple == tuple(recorded["div_by"])
    if "tile_overlap" in recorded:
        # the original asks which samples changed at all: at the fringe rounding decides, so one sample of the grid
        assert np.abs(recorded["tile_overlap"] - manifest.tile.receptive_field).max() <= max(manifest.head.grid)
    assert manifest.head.prob_thresh == recorded["prob_thresh"]
    assert manifest.head.nms_thresh == recorded["nms_thresh"]


@pytest.fixture(scope="module")
def reference_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The 2D reference folders, exported once."""
    scratch = tmp_path_factory.mktemp("reference")
    names = ("2d_fluo", "2d_multi", "2d_rgb")
    return {n: stardist.export(REFERENCE / "models" / n, scratch / f"{n}.onnx").output for n in names}


@needs_reference
@pytest.mark.parametrize("case", CASES)
def test_reference_case_gives_the_maps_of_the_original(case: str, reference_models: dict[str, Path]) -> None:
    model = reference_models["_".join(case.split("_")[:2])]
    differences = verify(model, REFERENCE / "cases" / f"{case}.npz")
    assert len(differences) == 2
    assert all(d.passed for d in differences), "\n".join(map(str, differences))
    overlap = np.load(REFERENCE / "cases" / f"{case}.npz")["tile_overlap"]
    tile = cellrt.load(model).manifest.tile
    assert tile.receptive_field == tuple(overlap[:2]) == (94, 94)
    assert tile.halo == (94, 94)


@needs_reference
def test_reference_multi_class_folder(reference_models: dict[str, Path]) -> None:
    model = cellrt.load(reference_models["2d_multi"])
    assert (model.manifest.head.n_classes, model.manifest.head.n_maps) == (2, 36)
    maps = run(reference_models["2d_multi"], np.random.default_rng(0).random((64, 48, 1)))
    np.testing.assert_allclose(maps[..., 33:].sum(-1), 1, atol=1e-5)


# ---- breadth: the twin --------------------------------------------------------------------------------------


@pytest.mark.parametrize("keras", [2, 3])
@pytest.mark.parametrize("nested", [False, True])
def test_both_layouts(keras: int, nested: bool, tmp_path: Path) -> None:
    twin = Twin({"grid": [2, 4], "n_classes": 2, "unet_batch_norm": True, "unet_prefix": "x_"})
    output = stardist.export(twin.save(tmp_path / "m", keras=keras, nested=nested), tmp_path / "m.onnx").output
    assert_like_twin(twin, output)


@st.composite
def configs(draw: st.DrawFn) -> dict[str, Any]:
    def pick(*values: Any) -> Any:
        return draw(st.sampled_from(values))

    names = ("relu", "elu", "tanh", "sigmoid", "softplus", "swish", "linear")
    return {
        "n_channel_in": pick(1, 2, 3),
        "n_rays": draw(st.integers(3, 12)),
        "grid": [pick(1, 2, 4), pick(1, 2, 8)],
        "n_classes": pick(None, 1, 3),
        "unet_n_depth": pick(0, 1, 2, 3),
        "unet_kernel_size": [pick(1, 2, 3, 4), pick(3, 5)],
        "unet_n_filter_base": draw(st.integers(1, 5)),
        "unet_n_conv_per_depth": pick(0, 1, 2, 3),
        "unet_pool": [pick(1, 2, 3), pick(2, 1)],
        "unet_activation": pick(*names),
        "unet_last_activation": pick(*names),
        "unet_batch_norm": draw(st.booleans()),
        "unet_expansion": pick(1, 2, 1.5, 3),
        "unet_prefix": pick("", "net_"),
        "net_conv_after_unet": pick(0, 5),
    }


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(configs(), st.sampled_from([2, 3]), st.integers(0, 2**16))
def test_any_configuration(
    tmp_path_factory: pytest.TempPathFactory, config: dict[str, Any], keras: int, seed: int
) -> None:
    scratch = tmp_path_factory.mktemp("any")
    twin = Twin(config, seed)
    summary = stardist.export(twin.save(scratch / "m", keras=keras), scratch / "m.onnx")
    assert_like_twin(twin, summary.output)
    tile = summary.manifest.tile
    assert tile.multiple == read_multiple(config)
    # an impulse is measured from its pixel and through a zoom that shifts by up to half a sample, a halo from a cut
    for measured, halo, step in zip(tile.receptive_field, tile.halo, tile.multiple, strict=True):
        assert measured <= halo + 2 * step
    shutil.rmtree(scratch)


@needs_golden
@pytest.mark.parametrize("name", activations.SUPPORTED)
def test_activation_is_that_of_keras(name: str) -> None:
    recorded = np.load(GOLDEN / "kernels" / "activations.npz")
    if name not in recorded:
        assert name in ("softmax", "log_softmax")  # these mix the channels: the twin and golden folders have one
        return
    x = recorded["x"]
    y = activate(name, x, keras_version=3)
    np.testing.assert_allclose(y, recorded[name], rtol=2e-6, atol=2e-6)


def activate(name: str, x: np.ndarray, keras_version: int) -> np.ndarray:
    """An activation as the exporter writes it, run."""
    graph = onnxfile.GraphBuilder()
    result = activations.add_activation(graph, name, "image", name="result", keras_version=keras_version)
    graph.node("Concat", "maps", [result], axis=1)
    model = onnxfile.assemble(graph, n_channels=1, n_maps=1, grid=(1, 1), version="test")
    return Session(model, providers=["cpu"]).run(x.reshape(1, 1, 1, -1))["maps"].ravel()


def test_hard_sigmoid_of_keras_2() -> None:
    x = np.linspace(-4, 4, 33, dtype=np.float32)
    np.testing.assert_allclose(activate("hard_sigmoid", x, 2), np.clip(0.2 * x + 0.5, 0, 1), atol=1e-6)
    np.testing.assert_allclose(activate("hard_sigmoid", x, 3), np.clip(x / 6 + 0.5, 0, 1), atol=1e-6)


def test_old_file_takes_the_defaults_of_the_constructor(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"n_rays": 32, "unet_activation": null, "unet_last_activation": null}')
    config = read_config(tmp_path)
    assert (config.grid, config.net_conv_after_unet, config.unet_n_depth) == ((1, 1), 128, 3)
    assert (config.unet_n_filter_base, config.n_classes, config.unet_batch_norm) == (32, None, False)
    assert config.unet_activation == config.unet_last_activation == "linear"


def test_unknown_keys_warn(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    change(folder, unet_novelty=1, train_novelty=2)
    stardist.export(folder, tmp_path / "m.onnx")
    assert "unknown keys unet_novelty" in caplog.text
    assert "train_novelty" not in caplog.text


# ---- receptive field and halo -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "config",
    [
        {"unet_n_depth": 3, "grid": [1, 2]},
        {"grid": [4, 2], "unet_pool": [2, 3], "unet_kernel_size": [3, 2]},
        {"grid": [1, 8], "unet_kernel_size": [5, 1], "unet_n_conv_per_depth": 1},
        {"unet_n_depth": 0, "net_conv_after_unet": 0, "unet_kernel_size": [4, 7]},
    ],
)
@pytest.mark.parametrize("axis", [0, 1])
def test_halo_is_exactly_what_a_cut_spoils(config: dict[str, Any], axis: int, tmp_path: Path) -> None:
    twin = Twin(config | {"unet_activation": "linear", "unet_last_activation": "linear"})
    twin.save(tmp_path / "m")
    for arrays in twin.layers.values():  # no weight is zero, so infinity reaches whatever can see it
        arrays[0][:] = 1 / arrays[0][..., 0].size
    summary = stardist.export(twin.save(tmp_path / "m"), tmp_path / "m.onnx")
    halo, step = summary.manifest.tile.halo[axis], summary.manifest.tile.multiple[axis]
    grid = summary.manifest.head.grid[axis]
    shape = [2 * m for m in summary.manifest.tile.multiple]
    cut = step * (1 + halo // step)
    shape[axis] = 2 * cut
    counts = []
    for side in (slice(0, cut), slice(cut, None)):
        image = np.zeros((*shape, 1), np.float32)
        image[(slice(None),) * axis + (side,)] = np.inf
        reached = ~np.isfinite(run(summary.output, image)[..., 1:]).all((1 - axis, 2))
        counts.append(int(reached.sum()) - cut // grid)
    assert max(counts) == halo // grid
    assert halo % grid == 0


def test_tiles_cut_at_the_halo_give_the_untiled_maps(tmp_path: Path) -> None:
    twin = Twin({"grid": [2, 2], "unet_n_depth": 2})
    summary = stardist.export(twin.save(tmp_path / "m"), tmp_path / "m.onnx")
    image = np.random.default_rng(0).normal(0, 1, (160, 176, 1)).astype(np.float32)
    halo = -(-max(summary.manifest.tile.halo) // 8) * 8
    whole, corner = run(summary.output, image), run(summary.output, image[64:, 56:])
    keep = (corner[halo // 2 :, halo // 2 :], whole[(64 + halo) // 2 :, (56 + halo) // 2 :])
    assert keep[0].size > 1000
    np.testing.assert_allclose(*keep, rtol=0, atol=1e-4)


def test_network_that_an_impulse_does_not_move_takes_the_bound(tmp_path: Path) -> None:
    twin = Twin({})
    twin.save(tmp_path / "m")
    twin.layers["prob"][0][:] = 0
    tile = stardist.export(twin.save(tmp_path / "m"), tmp_path / "m.onnx").manifest.tile
    assert tile.receptive_field == tile.halo == (9, 9)


# ---- what the file holds ------------------------------------------------------------------------------------


def test_file_describes_itself_and_nothing_else(folder: Path, tmp_path: Path) -> None:
    normalize = PercentileSpec(3, 99, joint=False)
    summary = stardist.export(
        folder, tmp_path / "m.onnx", normalize=normalize, name="mine", licence="CC0-1.0", prob_thresh=0.7
    )
    model = onnx.load(summary.output)
    onnx.checker.check_model(model, full_check=True)
    assert (model.ir_version, model.opset_import[0].version, model.producer_name) == (8, 17, "cellrt")
    assert [entry.key for entry in model.metadata_props] == ["cellrt"]
    shapes = [
        (value.name, [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim])
        for value in (*model.graph.input, *model.graph.output)
    ]
    assert shapes == [("image", ["N", 1, "Y", "X"]), ("maps", ["N", 5, "Y", "X"])]
    assert not model.doc_string
    assert not model.graph.doc_string
    assert not any(node.doc_string or node.metadata_props for node in model.graph.node)
    content = summary.output.read_bytes()
    for private in (str(tmp_path), os.path.expanduser("~") + "/", "weights_best", __file__):
        assert private.encode() not in content

    manifest = Manifest.from_json(model.metadata_props[0].value)
    assert manifest == summary.manifest
    assert (manifest.name, manifest.normalize, manifest.source.licence) == ("mine", normalize, "CC0-1.0")
    assert (manifest.source.upstream, manifest.source.name) == ("stardist", "cells")
    assert (manifest.head.prob_thresh, manifest.head.nms_thresh) == (0.7, 0.3)
    assert manifest.selftest is not None
    assert manifest.selftest.shape == (96, 96)


def test_dimensions_of_the_maps_are_named_by_the_grid(tmp_path: Path) -> None:
    output = stardist.export(Twin({"grid": [2, 8]}).save(tmp_path / "m"), tmp_path / "m.onnx").output
    assert Session(output).outputs["maps"] == ["N", 5, "Y/2", "X/8"]


def test_exported_file_passes_its_own_self_test(folder: Path, tmp_path: Path) -> None:
    outcome = cellrt.load(stardist.export(folder, tmp_path / "m.onnx").output, providers=["cpu"]).selftest()
    assert outcome.passed


def test_same_folder_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    first, second = (stardist.export(folder, tmp_path / f"{n}.onnx", name="m").output for n in "ab")
    assert first.read_bytes() == second.read_bytes()


def test_summary_is_a_table(folder: Path, tmp_path: Path) -> None:
    text = str(stardist.export(folder, tmp_path / "m.onnx"))
    for words in ("star, 4 rays", "depth 1", "halo 9 x 9", "multiples of 2 x 2", "prob 0.6, nms 0.3", " MB"):
        assert words in text


def test_exporter_needs_neither_tensorflow_nor_torch() -> None:
    code = "import sys, cellrt_export.commands; print({'tensorflow', 'keras', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# ---- which files of the folder count ------------------------------------------------------------------------


def test_weights_are_the_newest_best_or_the_newest(tmp_path: Path) -> None:
    def touch(name: str, time: int) -> None:
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (time, time))

    touch("weights_last.h5", 300)
    touch("weights_now.hdf5", 300)
    touch("._weights_best.h5", 900)
    assert choose_weights(tmp_path).name == "weights_last.h5"  # a tie: the first by name
    touch("weights_best.h5", 100)
    touch("my_best.hdf5", 200)
    assert choose_weights(tmp_path).name == "my_best.hdf5"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ('{"prob": 0.7, "nms": 0.2}', (0.7, 0.2)),
        ('{"prob": 1.0, "nms": 0}', (0.5, 0.4)),
        ('{"prob": null, "nms": "0.3"}', (0.5, 0.4)),
        ('{"nms": 0.25, "more": 1}', (0.5, 0.25)),
        (None, (0.5, 0.4)),
    ],
)
def test_thresholds(text: str | None, wanted: tuple[float, float], folder: Path, tmp_path: Path) -> None:
    (folder / "thresholds.json").unlink()
    if text is not None:
        (folder / "thresholds.json").write_text(text)
    head = stardist.export(folder, tmp_path / "m.onnx").manifest.head
    assert (head.prob_thresh, head.nms_thresh) == wanted


# ---- errors -------------------------------------------------------------------------------------------------


def refused(folder: Path, error: type[CellrtError], *words: str) -> None:
    """Export fails with these words, and leaves nothing behind."""
    output = folder.parent / "refused.onnx"
    before = sorted(folder.parent.iterdir())
    with pytest.raises(error) as caught:
        stardist.export(folder, output)
    message = str(caught.value)
    assert "expected" in message
    assert "\n" not in message
    assert [word for word in words if word not in message] == [], message
    assert sorted(folder.parent.iterdir()) == before


@pytest.mark.parametrize(
    ("change_to", "words"),
    [
        ({"n_dim": 3, "n_rays": 8}, ["grid", "three whole numbers", "[1, 1]"]),
        ({"n_dim": 4}, ["n_dim", "2 or 3", "got 4"]),
        ({"n_dim": True}, ["n_dim", "2 or 3", "got True"]),
        ({"axes": "ZYXC", "n_rays": 8}, ["grid", "three whole numbers", "[1, 1]"]),
        ({"n_dim": 2, "axes": "ZYXC"}, ["axes", "'YXC'", "'ZYXC'"]),
        ({"grid": [1, 2, 2], "n_rays": 8}, ["unet_kernel_size", "three whole numbers", "[3, 3]"]),
        ({"rays_json": {"name": "__import__('os').abort()"}}, ["rays out of Rays_GoldenSpiral", "__import__"]),
        ({"n_dim": 2, "rays_json": {"name": "Rays_Octo"}}, ["no rays_json", "2D model"]),
        ({"backbone": "resnet"}, ["backbone", "'unet'", "'resnet'"]),
        ({"backbone": 3}, ["backbone", "'unet'", "got 3"]),
        ({"axes": "XYC"}, ["axes", "'XYC'"]),
        ({"grid": [3, 3]}, ["grid", "powers of 2"]),
        ({"grid": 2}, ["grid", "two whole numbers"]),
        ({"n_rays": 2}, ["n_rays", "3..1024", "got 2"]),
        ({"n_rays": "32"}, ["n_rays", "got '32'"]),
        ({"n_channel_in": True}, ["n_channel_in", "got True"]),
        ({"n_classes": 0}, ["n_classes"]),
        ({"unet_n_depth": 10**9}, ["unet_n_depth", "0..12"]),
        ({"unet_n_depth": 12, "unet_pool": [4, 1]}, ["unet_pool ** unet_n_depth * grid", "at most 4096"]),
        ({"unet_kernel_size": [3, 3, 3]}, ["unet_kernel_size", "[3, 3, 3]"]),
        ({"unet_expansion": -1}, ["unet_expansion"]),
        ({"unet_expansion": 0.01}, ["filters in layer", "got 0", "unet_expansion"]),
        ({"unet_batch_norm": "no"}, ["unet_batch_norm", "true or false"]),
        ({"unet_activation": "glu"}, ["an activation out of celu", "'glu'"]),
        ({"unet_activation": {"class_name": "Lambda"}}, ["unet_activation", "Lambda"]),
    ],
)
def test_config_is_refused(change_to: dict[str, Any], words: list[str], folder: Path) -> None:
    change(folder, **change_to)
    refused(folder, ModelError, *words)


@pytest.mark.parametrize(
    ("change_to", "words"),
    [
        ({"unet_kernel_size": [5, 3]}, ["layer 1 with", "down_level_0_no_0", "(5, 3, 1, 3)", "got (3, 3, 1, 3)"]),
        ({"n_rays": 8}, ["dist", "(1, 1, 4, 8) and (8,)", "got (1, 1, 4, 4) and (4,)"]),
        ({"unet_n_depth": 2}, ["layer 4", "down_level_1_no_1", "(3, 3, 6, 6)", "got (3, 3, 6, 3)"]),
        ({"unet_batch_norm": True}, ["batch normalisation (3,) and (3,) and (3,) and (3,)"]),
        ({"n_classes": 2}, ["features_class", "(prob)"]),
        ({"unet_n_conv_per_depth": 1}, ["layer 3", "up_level_0_no_1", "(middle_0)"]),
    ],
)
def test_weights_that_do_not_fit(change_to: dict[str, Any], words: list[str], folder: Path) -> None:
    change(folder, **change_to)
    refused(folder, ModelError, "weights do not fit config.json", "weights_best.h5", *words)


def test_weights_with_more_layers_than_the_config(tmp_path: Path) -> None:
    twin = Twin({"n_rays": 4})
    twin.save(tmp_path / "m")
    twin.layers["extra"] = [np.zeros((1, 1, 4, 2), np.float32), np.zeros(2, np.float32)]
    refused(twin.save(tmp_path / "m"), ModelError, "expected 9 layers", "got 1 more", "from extra on")


def test_named_layers_must_be_at_their_place(tmp_path: Path) -> None:
    # features and features_class have the same shapes: only their names tell a file in another order
    twin = Twin({"n_classes": 2})
    twin.save(tmp_path / "m")
    names = list(twin.layers)
    first, second = names.index("features"), names.index("features_class")
    names[first], names[second] = names[second], names[first]
    twin.layers = {name: twin.layers[name] for name in names}
    refused(twin.save(tmp_path / "m"), ModelError, "to be features", "(features_class)")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite(value: float, tmp_path: Path) -> None:
    twin = Twin({})
    twin.save(tmp_path / "m")
    twin.layers["middle_0"][1][1] = value
    refused(twin.save(tmp_path / "m"), ModelError, "expected finite weights", "'middle_0'", "earlier epoch")


def test_negative_variance(tmp_path: Path) -> None:
    twin = Twin({"unet_batch_norm": True})
    twin.save(tmp_path / "m")
    twin.layers["batch_normalization_middle_0"][3][0] = -1
    refused(twin.save(tmp_path / "m"), ModelError, "variances of at least 0", "got -1")


def test_network_that_overflows(tmp_path: Path) -> None:
    twin = Twin({"unet_activation": "linear"})
    twin.save(tmp_path / "m")
    for arrays in twin.layers.values():
        arrays[0][:] = 1e30
    refused(twin.save(tmp_path / "m"), ModelError, "finite maps", "NaN or infinity")


@pytest.mark.parametrize("n_bytes", [0, 7, 700, 6000])
def test_truncated_weights(n_bytes: int, folder: Path) -> None:
    path = folder / "weights_best.h5"
    path.write_bytes(path.read_bytes()[:n_bytes])
    refused(folder, ModelError, "complete Keras HDF5 weights file", "weights_best.h5", "copy it again")


def test_every_truncation_is_an_error_or_a_whole_file(folder: Path) -> None:
    path = folder / "weights_best.h5"
    content = path.read_bytes()
    for n_bytes in range(100, len(content), len(content) // 40):
        path.write_bytes(content[:n_bytes])
        with pytest.raises(ModelError):
            stardist.export(folder, folder.parent / "m.onnx")


def test_foreign_hdf5(folder: Path) -> None:
    path = folder / "weights_best.h5"
    with h5py.File(path, "w") as file:
        file["layers/conv2d/vars/0"] = np.zeros(3)
    refused(folder, ModelError, "layer_names", "without", "weights_best.h5")
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = ["conv2d"]
    refused(folder, ModelError, "complete Keras HDF5 weights file")
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = ["conv2d"]
        file.create_group("conv2d").attrs["weight_names"] = ["conv2d/kernel"]
        file.create_dataset("conv2d/conv2d/kernel", (10**6, 10**6), np.float32)  # claims 4 TB, holds nothing
    refused(folder, ModelError, "under 2 GiB", "got more")
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = ["conv2d"]
        file.create_group("conv2d").attrs["weight_names"] = ["conv2d/kernel"]
        file["conv2d/conv2d/kernel"] = "text"
    refused(folder, ModelError, "complete Keras HDF5 weights file")


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", "[" * 100_000, "\xff"])
@pytest.mark.parametrize("name", ["config.json", "thresholds.json"])
def test_json_that_is_none(text: str, name: str, folder: Path) -> None:
    (folder / name).write_bytes(text.encode("latin-1"))
    refused(folder, ModelError, "JSON", name, "copy the file again")


def test_missing_files_are_named(folder: Path, tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", FileError, "StarDist model folder", "nowhere", "nothing there")
    refused(folder / "config.json", FileError, "got a file")
    (folder / "weights_best.h5").rename(tmp_path / "moved.h5")
    refused(folder, FileError, "expected weights (*.h5 or *.hdf5)", "got none")
    (folder / "config.json").unlink()
    refused(folder, FileError, "expected config.json", "no such file")


def test_threshold_out_of_range(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CellrtError, match=r"expected nms_thresh in \(0, 1\), got 1"):
        stardist.export(folder, tmp_path / "m.onnx", nms_thresh=1)


# ---- writing ------------------------------------------------------------------------------------------------


def test_nothing_is_overwritten_without_force(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "m.onnx"
    output.write_bytes(b"precious")
    with pytest.raises(FileError, match=r"expected no file at .*m\.onnx, got one; .*--force"):
        stardist.export(folder, output)
    assert output.read_bytes() == b"precious"
    stardist.export(folder, output, force=True)
    assert cellrt.load(output).manifest.name == "cells"


def test_a_failure_leaves_the_old_file_and_no_other(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "m.onnx"
    output.write_bytes(b"precious")
    before = sorted(tmp_path.iterdir())

    def fail(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(FileError, match="No space left on device"):
        stardist.export(folder, output, force=True)
    monkeypatch.undo()
    monkeypatch.setattr(onnxfile, "check", lambda *_, **__: (_ for _ in ()).throw(ModelError("expected")))
    with pytest.raises(ModelError):
        stardist.export(folder, output, force=True)
    assert output.read_bytes() == b"precious"
    assert sorted(tmp_path.iterdir()) == before


def test_output_that_cannot_be(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"expected a folder for m\.onnx"):
        stardist.export(folder, tmp_path / "nowhere" / "m.onnx")
    with pytest.raises(FileError, match=r"got the folder .*add a name such as model\.onnx"):
        stardist.export(folder, tmp_path)


# ---- verify and the command line ----------------------------------------------------------------------------


def test_verify_tells_another_models_maps(folder: Path, tmp_path: Path) -> None:
    output = stardist.export(folder, tmp_path / "m.onnx").output
    image = np.random.default_rng(0).random((11, 13)).astype(np.float32)
    maps = run(output, np.pad(image, [(0, 1), (0, 1)], mode="reflect")[..., None])[:11, :13]
    recorded = tmp_path / "recorded.npz"
    np.savez(recorded, image=image, prob=maps[..., 0], dist=maps[..., 1:] + 0.5)
    differences = verify(output, recorded)
    assert [d.passed for d in differences] == [True, False]
    assert "dist" in str(differences[1])
    assert "DIFFERS" in str(differences[1])
    np.savez(recorded, image=image, prob=maps[..., 0])
    with pytest.raises(ModelError, match=r"expected image \(or norm\), prob and dist"):
        verify(output, recorded)
    np.savez(recorded, image=image, prob=maps[..., 0], dist=maps[..., 2:])
    with pytest.raises(ModelError, match=r"expected dist of shape \(11, 13, 4\).*got \(11, 13, 3\)"):
        verify(output, recorded)
    np.savez(recorded, image=np.zeros((8, 8, 2)), prob=maps[..., 0], dist=maps[..., 1:])
    with pytest.raises(ModelError, match="with 1 channels"):
        verify(output, recorded)
    recorded.write_bytes(b"PK\x03\x04")
    with pytest.raises(FileError, match=r"expected a \.npz"):
        verify(output, recorded)
    with pytest.raises(FileError, match="no such file"):
        verify(output, tmp_path / "nowhere.npz")


def test_command_line(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "m.onnx"
    arguments = ["stardist", str(folder), "-o", str(output)]
    options = ["--per-channel", "--percentiles", "3", "99", "--licence", "MIT", "--nms-thresh", "0.45"]
    assert commands.main(arguments + options) == 0
    assert "receptive field" in capsys.readouterr().out
    manifest = cellrt.load(output).manifest
    assert (manifest.normalize, manifest.head.nms_thresh) == (PercentileSpec(3, 99, joint=False), 0.45)

    assert commands.main(arguments) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("cellrt export: expected no file at")
    assert captured.err.count("\n") == 1
    assert commands.main([*arguments, "--force", "--percentiles", "99", "1"]) == 2

    for wrong in (["stardist", str(folder)], ["stardist"], [], ["keras", "x"], [*arguments, "--prob-thresh", "2"]):
        assert commands.main(wrong) == 2
    assert commands.main(["stardist", "--help"]) == 0
    capsys.readouterr()
    assert commands.main(["stardist", str(folder), "-o", str(tmp_path / ("m" * 300))]) == 1  # no file system takes it
    assert "File name too long" in capsys.readouterr().err


def test_command_line_verifies(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output, recorded = tmp_path / "m.onnx", tmp_path / "recorded.npz"
    twin = Twin({})
    twin.save(folder)
    image = np.random.default_rng(0).random((12, 14, 1)).astype(np.float32)
    maps = twin.predict(image)
    np.savez(recorded, image=image, net_prob=maps[..., 0], net_dist=maps[..., 1:])
    arguments = ["stardist", str(folder), "-o", str(output), "--force", "--verify", str(recorded)]
    assert commands.main(arguments) == 0
    assert "(tolerance 1e-05): ok" in capsys.readouterr().out
    np.savez(recorded, image=image, net_prob=maps[..., 0] + 0.1, net_dist=maps[..., 1:])
    assert commands.main(arguments) == 1
    assert "DIFFERS" in capsys.readouterr().out


def test_module_runs(folder: Path, tmp_path: Path) -> None:
    arguments = ["stardist", folder / "nowhere", "-o", tmp_path / "m.onnx"]
    done = subprocess.run([sys.executable, "-m", "cellrt_export", *arguments], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert "Traceback" not in done.stderr
