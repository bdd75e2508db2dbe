"""`cellrt export stardist` of 3D folders: parity with the original, breadth of configurations, rays, errors.

Three sources of truth: outputs of StarDist 0.9.2 in ../shared/reference where it is there, scipy's convex hull, and
`Twin`, a slow numpy U-Net and ResNet that writes its random weights as Keras lays them out.
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
from conftest import GOLDEN, REFERENCE, reference_file
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.lib.stride_tricks import sliding_window_view

h5py = pytest.importorskip("h5py")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

import cellrt  # noqa: E402
from cellrt.errors import CellrtError, ModelError  # noqa: E402
from cellrt.manifest import METADATA_KEY, Manifest, PercentileSpec  # noqa: E402
from cellrt.session import Session  # noqa: E402
from cellrt_export import commands, receptive_field, star_rays, star_resnet, stardist  # noqa: E402
from cellrt_export.star_folder import ResnetConfig, read_config, read_space  # noqa: E402
from cellrt_export.verify import verify  # noqa: E402

needs_reference = pytest.mark.skipif(not REFERENCE.is_dir(), reason="no ../shared/reference beside the repository")


# ---- the slow twin ------------------------------------------------------------------------------------------


class Twin:
    """A StarDist 3D network in numpy float64, channels last as in Keras, with random weights.

    Layers are made in the order in which `predict` first meets them, which is Keras's: by distance from the outputs.
    """

    def __init__(self, config: dict[str, Any], seed: int = 0, *, bias_with_norm: bool = False) -> None:
        defaults: dict[str, Any] = {
            "n_dim": 3,
            "axes": "ZYXC",
            "n_channel_in": 1,
            "n_channel_out": 7,
            "n_rays": 6,
            "grid": [1, 1, 1],
            "anisotropy": None,
            "rays_json": {"name": "Rays_Octo", "kwargs": {"n_level": 1}},
            "n_classes": None,
            "backbone": "unet",
        }
        unet: dict[str, Any] = {
            "unet_n_depth": 1,
            "unet_kernel_size": [3, 3, 3],
            "unet_n_filter_base": 3,
            "unet_n_conv_per_depth": 2,
            "unet_pool": [2, 2, 2],
            "unet_activation": "relu",
            "unet_last_activation": "relu",
            "unet_batch_norm": False,
            "unet_expansion": 2,
            "unet_prefix": "",
            "net_conv_after_unet": 4,
        }
        resnet: dict[str, Any] = {
            "resnet_n_blocks": 2,
            "resnet_kernel_size": [3, 3, 3],
            "resnet_kernel_init": "he_normal",
            "resnet_n_filter_base": 3,
            "resnet_n_conv_per_block": 3,
            "resnet_activation": "relu",
            "resnet_batch_norm": False,
            "net_conv_after_resnet": 4,
        }
        self.is_resnet = config.get("backbone") == "resnet"
        self.config = defaults | (resnet if self.is_resnet else unet) | config
        self.bias_with_norm = bias_with_norm
        self.random = np.random.default_rng(seed)
        self.layers: dict[str, list[np.ndarray]] = {}  # name: kernel[, bias] or gamma, beta, mean, variance
        self.n_rays = len(star_rays.rays(self.config["rays_json"], None).vertices)

    @property
    def multiple(self) -> tuple[int, ...]:
        """Sides of the input must be multiples of this."""
        c = self.config
        if self.is_resnet:
            return tuple(c["grid"])
        return tuple(p ** c["unet_n_depth"] * g for p, g in zip(c["unet_pool"], c["grid"], strict=True))

    def predict(self, image: np.ndarray) -> np.ndarray:
        """Image (Z, Y, X, C) -> maps (Z/gz, Y/gy, X/gx, 1 + rays [+ classes + 1])."""
        c, self.n_automatic = self.config, 7  # as in a session that made other networks before
        x = (self._resnet if self.is_resnet else self._unet)(image.astype(np.float64))
        kind = "resnet" if self.is_resnet else "unet"

        def features(name: str) -> np.ndarray:
            n = c[f"net_conv_after_{kind}"]
            return self._conv(name, x, n, c[f"{kind}_kernel_size"], c[f"{kind}_activation"]) if n else x

        shared = features("features")
        of_class = None if c["n_classes"] is None else features("features_class")
        one = [1, 1, 1]
        maps = [self._conv("prob", shared, 1, one, "sigmoid"), self._conv("dist", shared, self.n_rays, one)]
        if of_class is not None:
            maps.append(self._conv("prob_class", of_class, c["n_classes"] + 1, one, "softmax"))
        return np.concatenate(maps, -1)

    def _unet(self, x: np.ndarray) -> np.ndarray:
        c, prefix, norm = self.config, self.config["unet_prefix"], self.config["unet_batch_norm"]
        base, expansion, depth = c["unet_n_filter_base"], c["unet_expansion"], c["unet_n_depth"]
        n_conv, kernel, act = c["unet_n_conv_per_depth"], c["unet_kernel_size"], c["unet_activation"]

        def conv(name: str, x: np.ndarray, level: int, activation: str = act) -> np.ndarray:
            return self._conv(prefix + name, x, int(base * expansion**level), kernel, activation, norm=norm)

        pooled = [1, 1, 1]
        while pooled != c["grid"]:
            pool = [2 if goal > done else 1 for goal, done in zip(c["grid"], pooled, strict=True)]
            for _ in range(n_conv):
                x = self._conv(self._automatic("conv3d"), x, base, kernel, act)
            x = _max_pool(x, pool)
            pooled = [p * q for p, q in zip(pooled, pool, strict=True)]
        skips = []
        for n in range(depth):
            for i in range(n_conv):
                x = conv(f"down_level_{n}_no_{i}", x, n)
            skips.append(x)
            x = _max_pool(x, c["unet_pool"])
        for i in range(n_conv - 1):
            x = conv(f"middle_{i}", x, depth)
        x = conv(f"middle_{n_conv}", x, max(0, depth - 1))
        for n in reversed(range(depth)):
            for axis, size in enumerate(c["unet_pool"]):
                x = x.repeat(size, axis)
            x = np.concatenate([x, skips[n]], -1)
            for i in range(n_conv - 1):
                x = conv(f"up_level_{n}_no_{i}", x, n)
            x = conv(f"up_level_{n}_no_{n_conv}", x, max(0, n - 1), act if n > 0 else c["unet_last_activation"])
        return x

    def _resnet(self, x: np.ndarray) -> np.ndarray:
        c, norm = self.config, self.config["resnet_batch_norm"]
        kernel, act, n_filters = c["resnet_kernel_size"], c["resnet_activation"], c["resnet_n_filter_base"]
        bias = not norm or self.bias_with_norm
        x = self._conv(self._automatic("conv3d"), x, n_filters, [7, 7, 7])
        x = self._conv(self._automatic("conv3d"), x, n_filters, [3, 3, 3])
        pooled = [1, 1, 1]
        for _ in range(c["resnet_n_blocks"]):
            stride = [2 if goal > done else 1 for goal, done in zip(c["grid"], pooled, strict=True)]
            pooled = [p * q for p, q in zip(pooled, stride, strict=True)]
            n_filters *= 2 if max(stride) > 1 else 1
            whole = x
            for i in range(c["resnet_n_conv_per_block"] - 1):
                step = stride if i == 0 else [1, 1, 1]
                x = self._conv(self._automatic("conv3d"), x, n_filters, kernel, act, norm=norm, stride=step, bias=bias)
            names = self._automatic("conv3d"), self._automatic("conv3d")  # of the last one and of the shortcut

            def shortcut(whole=whole, name=names[1], n_filters=n_filters, stride=stride) -> np.ndarray:
                if max(stride) == 1:
                    return whole
                return self._conv(name, whole, n_filters, [1, 1, 1], stride=stride, bias=bias)

            if norm:  # between the convolution and its normalisation
                x = self._conv(names[0], x, n_filters, kernel, bias=bias)
                whole = shortcut()
                x = self._norm(f"batch_normalization_{names[0]}", x)
            else:  # before the convolution
                whole = shortcut()
                x = self._conv(names[0], x, n_filters, kernel, bias=bias)
            x = _activate(x + whole, act)
        return x

    def save(self, folder: Path) -> Path:
        """Write the folder; weightless layers are in the list as they are in Keras's files."""
        if not self.layers:
            self.predict(np.zeros((*self.multiple, self.config["n_channel_in"])))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(self.config))
        (folder / "thresholds.json").write_text('{"prob": 0.6, "nms": 0.3}')
        with h5py.File(folder / "weights_best.h5", "w") as file:
            names = ["input", *self.layers, "top_level"]
            file.attrs["layer_names"] = names
            file.attrs["keras_version"] = "3.15.1"
            for name in names:
                group, arrays = file.create_group(name), self.layers.get(name, [])
                keys = ["kernel", "bias"] if len(arrays) < 3 else ["gamma", "beta", "moving_mean", "moving_variance"]
                paths = [f"{name}/{key}" for key in keys[: len(arrays)]]
                group.attrs["weight_names"] = paths or np.zeros(0)
                for path, array in zip(paths, arrays, strict=True):
                    group.create_dataset(path, data=array)
        return folder

    def _automatic(self, kind: str) -> str:
        self.n_automatic += 1
        return f"{kind}_{self.n_automatic}"

    def _conv(
        self,
        name: str,
        x: np.ndarray,
        n_out: int,
        kernel: list[int],
        activation: str = "linear",
        *,
        norm: bool = False,
        stride: list[int] | None = None,
        bias: bool = True,
    ) -> np.ndarray:
        """TensorFlow's padding "same": as many samples as strides begin in, zeros to match, an odd one at the end."""
        n_in, stride = x.shape[-1], stride or [1, 1, 1]
        if name not in self.layers:
            scale = np.sqrt(1.7 / (np.prod(kernel) * n_in))
            arrays = self.random.normal(0, scale, (*kernel, n_in, n_out)), self.random.normal(0, 0.3, n_out)
            self.layers[name] = [array.astype(np.float32) for array in arrays[: 1 + bias]]
        weight, *rest = (array.astype(np.float64) for array in self.layers[name])
        missing = [max(0, (-(-n // s) - 1) * s + k - n) for n, s, k in zip(x.shape, stride, kernel, strict=False)]
        padded = np.pad(x, [*((n // 2, n - n // 2) for n in missing), (0, 0)])
        windows = sliding_window_view(padded, tuple(kernel), (0, 1, 2))[tuple(slice(None, None, s) for s in stride)]
        x = np.einsum("zyxcijk,ijkco->zyxo", windows, weight, optimize=True) + (rest[0] if rest else 0)
        return _activate(self._norm(f"batch_normalization_{name}", x) if norm else x, activation)

    def _norm(self, name: str, x: np.ndarray) -> np.ndarray:
        n, uniform, normal = x.shape[-1], self.random.uniform, self.random.normal
        if name not in self.layers:
            arrays = uniform(-1.5, 1.5, n), normal(0, 0.3, n), normal(0, 0.3, n), uniform(0.3, 2, n)
            self.layers[name] = [array.astype(np.float32) for array in arrays]
        gamma, beta, mean, variance = (array.astype(np.float64) for array in self.layers[name])
        return (x - mean) / np.sqrt(variance + 1e-3) * gamma + beta


def _max_pool(x: np.ndarray, size: list[int]) -> np.ndarray:
    z, y, x_size = (side // step for side, step in zip(x.shape, size, strict=False))
    return x.reshape(z, size[0], y, size[1], x_size, size[2], -1).max((1, 3, 5))


def _activate(x: np.ndarray, name: str) -> np.ndarray:
    functions = {
        "linear": lambda: x,
        "relu": lambda: np.maximum(x, 0),
        "elu": lambda: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
        "tanh": lambda: np.tanh(x),
        "sigmoid": lambda: 1 / (1 + np.exp(-x)),
        "softmax": lambda: np.exp(x) / np.exp(x).sum(-1, keepdims=True),
    }
    return functions[name]()


def run(model: Path, image: np.ndarray) -> np.ndarray:
    """Image (Z, Y, X, C) through an exported file -> maps (Z/gz, Y/gy, X/gx, M)."""
    batch = np.ascontiguousarray(np.moveaxis(image, -1, 0)[None], np.float32)
    return np.moveaxis(Session(model, providers=["cpu"]).run(batch)["maps"][0], 0, -1)


def assert_like_twin(twin: Twin, output: Path) -> None:
    shape = [times * step for times, step in zip((2, 3, 2), twin.multiple, strict=True)]
    image = np.random.default_rng(1).normal(0, 1, (*shape, twin.config["n_channel_in"])).astype(np.float32)
    maps, wanted = run(output, image), twin.predict(image)
    assert maps.shape == wanted.shape
    scale = max(1, np.abs(wanted).max())  # the tolerances of verify are for lengths of tens of pixels
    np.testing.assert_allclose(maps, wanted, rtol=0, atol=2e-5 * scale)


@pytest.fixture(autouse=True)
def short_measurement(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure the reach of an impulse, which takes most of an export, in a small volume where no test looks at it."""
    if "exported" not in request.fixturenames and request.function is not test_any_configuration:
        monkeypatch.setitem(receptive_field._SAMPLES, 3, 8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small valid model folder."""
    return Twin({"unet_n_depth": 0}).save(tmp_path / "cells")


def change(folder: Path, **values: Any) -> None:
    """Change keys of config.json, or remove those that become `...`."""
    path = folder / "config.json"
    merged = json.loads(path.read_text()) | values
    path.write_text(json.dumps({key: value for key, value in merged.items() if value is not ...}))


# ---- parity with the original -------------------------------------------------------------------------------


@needs_reference
def test_maps_are_those_of_the_original(exported) -> None:
    differences = verify(exported(REFERENCE / "models" / "3d_unet"), reference_file("cases", "3d_unet_crop.npz"))
    assert [d.maps for d in differences] == ["prob", "dist"]
    assert all(d.passed for d in differences), "\n".join(map(str, differences))


@needs_reference
@pytest.mark.parametrize("case", ["3d_unet_crop", "3d_unet_img3d", "3d_resnet_img3d"])
def test_candidates_are_those_of_the_original(case: str, exported) -> None:
    recorded = np.load(reference_file("cases", f"{case}.npz"))
    model = exported(REFERENCE / "models" / "_".join(case.split("_")[:2]))
    manifest = Manifest.from_json(Session(model).metadata[METADATA_KEY])
    pads = [(0, -side % step) for side, step in zip(recorded["norm"].shape, manifest.tile.multiple, strict=True)]
    maps = run(model, np.pad(recorded["norm"], pads, mode="reflect")[..., None])
    found = maps[tuple((recorded["cand_points"] // manifest.head.grid).T)]
    np.testing.assert_allclose(found[:, 0], recorded["cand_prob"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(np.maximum(found[:, 1:], 1e-3), recorded["cand_dist"], rtol=0, atol=1e-3)
    # no others: none beyond the border of 2 samples, nor in what was padded
    inner = np.argwhere(maps[2:-2, 2:-2, 2:-2, 0] > np.float32(recorded["prob_thresh"])) + 2
    inside = (inner * manifest.head.grid < recorded["norm"].shape).all(1)
    assert len(recorded["cand_points"]) == inside.sum() > 100


@needs_reference
@pytest.mark.parametrize(("name", "halo"), [("3d_unet", (23, 46, 46)), ("3d_resnet", (17, 30, 30))])
def test_manifest_says_what_the_folder_says(name: str, halo: tuple[int, ...], exported) -> None:
    manifest = Manifest.from_json(Session(exported(REFERENCE / "models" / name)).metadata[METADATA_KEY])
    recorded = np.load(reference_file("cases", f"{name}_img3d.npz"))
    assert manifest.tile.receptive_field == tuple(recorded["tile_overlap"][:3])
    assert manifest.tile.halo == halo
    assert (manifest.input.axes, manifest.head.kind, manifest.head.grid) == ("ZYX", "star3d", (1, 2, 2))
    assert manifest.head.anisotropy == (2, 1, 1)
    assert manifest.head.prob_thresh == recorded["prob_thresh"]
    assert manifest.head.nms_thresh == recorded["nms_thresh"]
    rays = np.load(reference_file("cases", "ll_rays.npz"))
    vertices = np.array(manifest.head.rays.vertices, np.float32)
    assert vertices.tobytes() == rays[f"v_{manifest.head.n_rays}_2.0x1.0x1.0"].tobytes()


# ---- rays ---------------------------------------------------------------------------------------------------


def rolled(faces: Any) -> set[tuple[int, ...]]:
    """Triangles whichever corner they begin with, in whatever order."""
    return {tuple(np.roll(face, -int(np.argmin(face))).tolist()) for face in np.asarray(faces)}


def spiral(n: int, anisotropy: Any = None) -> Any:
    return star_rays.rays({"name": "Rays_GoldenSpiral", "kwargs": {"n": n, "anisotropy": anisotropy}}, None)


@needs_reference
@pytest.mark.parametrize("n", [32, 64, 96, 128])
@pytest.mark.parametrize("anisotropy", [None, [2.0, 1.0, 1.0], [7.1, 1.0, 1.3]])
def test_spirals_are_those_of_the_original(n: int, anisotropy: list[float] | None) -> None:
    recorded = np.load(reference_file("cases", "ll_rays.npz"))
    key = f"{n}_{'iso' if anisotropy is None else 'x'.join(map(str, anisotropy))}"
    made = spiral(n, anisotropy)
    assert np.array(made.vertices, np.float32).tobytes() == recorded[f"v_{key}"].tobytes()
    assert rolled(made.faces) == rolled(recorded[f"f_{key}"])


@settings(max_examples=40, deadline=None)
@given(st.integers(5, 300), st.none() | st.lists(st.floats(0.2, 10), min_size=3, max_size=3))
def test_triangles_are_those_of_the_convex_hull(n: int, anisotropy: list[float] | None) -> None:
    spatial = pytest.importorskip("scipy.spatial")
    made = spiral(n, anisotropy)  # RaysSpec has checked that they close
    steps = np.arange(n)
    z = 2 * steps / (n - 1) - 1
    points = np.stack([z, *(np.sqrt(1 - z**2) * f(steps * np.pi * (3 - 5**0.5)) for f in (np.sin, np.cos))], 1)
    points /= anisotropy or 1
    np.testing.assert_allclose(made.vertices, points / np.linalg.norm(points, axis=1)[:, None], atol=1e-6)
    wanted = spatial.ConvexHull(points).simplices
    assert rolled(made.faces) == rolled([f[::-1] if np.linalg.det(points[f]) > 0 else f for f in wanted])


def test_the_most_rays_there_can_be() -> None:
    assert len(spiral(1024).faces) == 2044
    assert spiral(1024) == spiral(1024)


@pytest.mark.parametrize(
    ("name", "level", "n"),
    [
        *(("Rays_Tetra", level, n) for level, n in enumerate([4, 10, 34, 130, 514], 1)),
        *(("Rays_Octo", level, n) for level, n in enumerate([6, 18, 66, 258], 1)),
    ],
)
def test_subdivided_bodies(name: str, level: int, n: int) -> None:
    made = star_rays.rays({"name": name, "kwargs": {"n_level": level}}, (2, 1, 1))  # which only spirals follow
    vertices = np.array(made.vertices)
    assert (len(vertices), len(made.faces)) == (n, 2 * n - 4)
    np.testing.assert_allclose(np.linalg.norm(vertices, axis=1), 1, atol=1e-6)
    if level > 1:  # the corners of the level before, then the middles of its edges
        coarser = star_rays.rays({"name": name, "kwargs": {"n_level": level - 1}}, None)
        corners = np.array(coarser.vertices)
        edges = {(min(edge), max(edge)) for a, b, c in coarser.faces for edge in ((a, b), (b, c), (c, a))}
        middles = np.array([corners[a] + corners[b] for a, b in sorted(edges)])
        middles /= np.linalg.norm(middles, axis=1)[:, None]
        assert made.vertices[: len(corners)] == coarser.vertices
        away = np.linalg.norm(vertices[len(corners) :, None] - middles, axis=2)
        assert away.shape == (n - len(corners),) * 2
        assert max(away.min(0).max(), away.min(1).max()) < 1e-6


@pytest.mark.parametrize(
    ("case", "n_x", "n_z"), [("cartesian55", 11, 5), ("cartesian48", 8, 6), ("thin_cartesian40", 8, 5)]
)
def test_cartesian_rays_are_those_of_the_original(case: str, n_x: int, n_z: int) -> None:
    recorded = np.load(GOLDEN / "kernels" / f"polyhedra_{case}.npz")
    made = star_rays.rays({"name": "Rays_Cartesian", "kwargs": {"n_rays_x": n_x, "n_rays_z": n_z}}, (2, 1, 1))
    vertices = np.array(made.vertices)
    np.testing.assert_allclose(vertices, recorded["rays"], rtol=0, atol=1e-7)  # float32 sines of other processors
    is_small = np.abs(recorded["rays"]) < 1e-9  # at the poles
    np.testing.assert_allclose(vertices[is_small], recorded["rays"][is_small], rtol=0, atol=1e-15)
    assert np.array_equal(made.faces, recorded["faces"])


@pytest.mark.parametrize(("n_x", "n_z"), [(3, 3), (3, 341), (341, 3), (4, 256), (32, 32)])
def test_the_fewest_and_most_cartesian_rays(n_x: int, n_z: int) -> None:
    made = star_rays.rays({"name": "Rays_Cartesian", "kwargs": {"n_rays_x": n_x, "n_rays_z": n_z}}, None)
    assert (len(made.vertices), len(made.faces)) == (n_x * n_z, 2 * n_x * (n_z - 1))  # RaysSpec has checked the rest


def test_levels_and_numbers_have_defaults() -> None:
    assert len(star_rays.rays({"name": "Rays_Octo"}, None).vertices) == 258
    assert len(star_rays.rays({"name": "Rays_Tetra", "kwargs": {}}, None).vertices) == 130
    assert len(star_rays.rays({"name": "Rays_GoldenSpiral", "kwargs": {}}, None).vertices) == 70
    assert len(star_rays.rays({"name": "Rays_Cartesian", "kwargs": {}}, None).vertices) == 55


def test_a_spiral_without_anisotropy_takes_the_models() -> None:
    data = {"name": "Rays_GoldenSpiral", "kwargs": {"n": 20, "anisotropy": None}}
    assert star_rays.rays(data, (2, 1, 1)) == spiral(20, [2, 1, 1]) != spiral(20)
    assert star_rays.rays({"name": "Rays_GoldenSpiral", "kwargs": {"n": 20, "anisotropy": [3, 1, 1]}}, (2, 1, 1)) == (
        spiral(20, [3, 1, 1])
    )


def test_explicit_rays_are_taken_as_they_are() -> None:
    octahedron = star_rays.rays({"name": "Rays_Octo", "kwargs": {"n_level": 1}}, None)
    vertices, faces = [[2 * v for v in vertex] for vertex in octahedron.vertices], [*map(list, octahedron.faces)]
    made = star_rays.rays({"name": "Rays_Explicit", "kwargs": {"vertices0": vertices, "faces0": faces}}, None)
    assert made.vertices == tuple(map(tuple, vertices))
    assert made.faces == octahedron.faces


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"name": "Rays_Cartesian", "kwargs": {"n_rays_x": 2}}, ["n_rays_x", "3..341", "got 2"]),
        ({"name": "Rays_Cartesian", "kwargs": {"n_rays_z": 2}}, ["n_rays_z", "3..341", "got 2"]),
        ({"name": "Rays_Cartesian", "kwargs": {"n_rays_x": 32, "n_rays_z": 33}}, ["at most 1024 rays", "got 1056"]),
        ({"name": "Rays_Cartesian", "kwargs": {"n": 9}}, ["n_rays_x, n_rays_z", "'n'"]),
        ({"name": "Rays_SubDivide", "kwargs": {}}, ["rays out of Rays_GoldenSpiral", "'Rays_SubDivide'"]),
        ({"name": "__import__('os').abort", "kwargs": {}}, ["rays out of", "abort"]),
        ({"name": "x" * 10**6, "kwargs": {}}, ["rays out of", "xxx..."]),
        ({"name": 3, "kwargs": {}}, ["a name and its kwargs"]),
        ({"name": "Rays_Octo", "kwargs": []}, ["a name and its kwargs"]),
        ({}, ["a name and its kwargs"]),
        ("Rays_Octo", ["a name and its kwargs", "'Rays_Octo'"]),
        ({"name": "Rays_Octo", "kwargs": {"level": 2}}, ["Rays_Octo", "n_level", "'level'"]),
        ({"name": "Rays_Octo", "kwargs": {"n_level": 5}}, ["n_level", "1..4", "got 5"]),
        ({"name": "Rays_Tetra", "kwargs": {"n_level": 0}}, ["n_level", "1..5", "got 0"]),
        ({"name": "Rays_Tetra", "kwargs": {"n_level": True}}, ["n_level", "got True"]),
        ({"name": "Rays_GoldenSpiral", "kwargs": {"n": 4}}, ["5..1024", "got 4"]),
        ({"name": "Rays_GoldenSpiral", "kwargs": {"n": 1025}}, ["5..1024", "got 1025"]),
        ({"name": "Rays_GoldenSpiral", "kwargs": {"n": 9.0}}, ["5..1024", "got 9.0"]),
        ({"name": "Rays_GoldenSpiral", "kwargs": {"anisotropy": [0, 1, 1]}}, ["anisotropy of rays_json", "0.001"]),
        ({"name": "Rays_GoldenSpiral", "kwargs": {"anisotropy": [1, 1]}}, ["anisotropy of rays_json", "[1, 1]"]),
        ({"name": "Rays_GoldenSpiral", "kwargs": {"anisotropy": "2"}}, ["anisotropy of rays_json", "'2'"]),
        ({"name": "Rays_Explicit", "kwargs": {}}, ["vertices0 and faces0"]),
        ({"name": "Rays_Explicit", "kwargs": {"vertices0": [[1, 2]], "faces0": [[0, 1, 2]]}}, ["vertices0"]),
        ({"name": "Rays_Explicit", "kwargs": {"vertices0": [[1, 0, np.nan]], "faces0": [[0, 0, 0]]}}, ["vertices0"]),
        ({"name": "Rays_Explicit", "kwargs": {"vertices0": [[1, 0, 1]] * 4, "faces0": [[0, 1, 2]] * 4}}, ["faces"]),
        ({"name": "Rays_Explicit", "kwargs": {"vertices0": [[0, 0, 1]] * 9999, "faces0": []}}, ["vertices0"]),
        ({"name": "Rays_Explicit", "kwargs": {"vertices0": [[0, 0, 10**400]], "faces0": [[0, 0, 0]]}}, ["vertices0"]),
        ({"name": "Rays_GoldenSpiral", "kwargs": {"anisotropy": [10**400, 1, 1]}}, ["anisotropy of rays_json"]),
    ],
)
def test_rays_are_refused(data: Any, words: list[str]) -> None:
    with pytest.raises(ModelError, match="expected") as caught:
        star_rays.rays(data, None)
    message = str(caught.value)
    assert [word for word in words if word not in message] == [], message
    assert len(message) < 400


# ---- breadth: the twin --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "config",
    [
        {"grid": [1, 2, 2], "n_classes": 2, "unet_prefix": "x_"},
        {"grid": [4, 1, 2], "unet_batch_norm": True, "unet_n_conv_per_depth": 3, "net_conv_after_unet": 0},
        {"unet_kernel_size": [1, 3, 4], "unet_pool": [1, 2, 3], "unet_activation": "elu", "unet_expansion": 1.5},
        {"unet_n_depth": 2, "n_channel_in": 2, "unet_n_filter_base": 2, "unet_last_activation": "linear"},
        {"unet_n_depth": 0, "rays_json": {"name": "Rays_GoldenSpiral", "kwargs": {"n": 9, "anisotropy": [3, 1, 1]}}},
    ],
)
def test_unets(config: dict[str, Any], tmp_path: Path) -> None:
    twin = Twin(config)
    assert_like_twin(twin, stardist.export(twin.save(tmp_path / "m"), tmp_path / "m.onnx").output)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"grid": [1, 2, 2], "n_classes": 2},
        {"grid": [4, 2, 1], "n_channel_in": 2, "resnet_n_conv_per_block": 2},
        {"grid": [1, 4, 1], "resnet_n_blocks": 3, "resnet_kernel_size": [3, 5, 4], "net_conv_after_resnet": 0},
        {"grid": [2, 2, 2], "resnet_kernel_size": [1, 1, 1], "resnet_activation": "tanh"},
        {
            "grid": [2, 1, 1],
            "resnet_kernel_size": [2, 1, 7],
            "resnet_n_conv_per_block": 4,
            "resnet_activation": "linear",
        },
        {"resnet_n_blocks": 0},
    ],
)
@pytest.mark.parametrize("batch_norm", [False, True])
def test_resnets(config: dict[str, Any], batch_norm: bool, tmp_path: Path) -> None:
    twin = Twin(config | {"backbone": "resnet", "resnet_batch_norm": batch_norm})
    assert_like_twin(twin, stardist.export(twin.save(tmp_path / "m"), tmp_path / "m.onnx").output)


def test_versions_of_csbdeep_differ_in_biases(tmp_path: Path) -> None:
    twin = Twin({"backbone": "resnet", "resnet_batch_norm": True, "grid": [1, 2, 1]}, bias_with_norm=True)
    assert_like_twin(twin, stardist.export(twin.save(tmp_path / "m"), tmp_path / "m.onnx").output)


@st.composite
def configs(draw: st.DrawFn) -> dict[str, Any]:
    def pick(*values: Any) -> Any:
        return draw(st.sampled_from(values))

    config = {
        "n_channel_in": pick(1, 2),
        "grid": pick([1, 1, 1], [1, 2, 2], [2, 1, 1], [1, 4, 1]),
        "n_classes": pick(None, 1, 3),
        "rays_json": {"name": "Rays_Octo", "kwargs": {"n_level": pick(1, 2)}},
    }
    kernel = [pick(1, 2, 3), pick(3, 5), pick(3, 4)]
    activation = pick("relu", "elu", "tanh", "sigmoid", "linear")
    if draw(st.booleans()):
        return config | {
            "backbone": "resnet",
            "resnet_n_blocks": pick(2, 3),
            "resnet_kernel_size": kernel,
            "resnet_n_filter_base": draw(st.integers(1, 4)),
            "resnet_n_conv_per_block": pick(2, 3),
            "resnet_activation": activation,
            "resnet_batch_norm": draw(st.booleans()),
            "net_conv_after_resnet": pick(0, 5),
        }
    return config | {
        "unet_n_depth": pick(0, 1, 2),
        "unet_kernel_size": kernel,
        "unet_n_filter_base": draw(st.integers(1, 4)),
        "unet_n_conv_per_depth": pick(1, 2),
        "unet_pool": [pick(1, 2), pick(2, 1), pick(2, 3)],
        "unet_activation": activation,
        "unet_batch_norm": draw(st.booleans()),
        "unet_expansion": pick(1, 2),
        "net_conv_after_unet": pick(0, 5),
    }


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(configs(), st.integers(0, 2**16))
def test_any_configuration(tmp_path_factory: pytest.TempPathFactory, config: dict[str, Any], seed: int) -> None:
    scratch = tmp_path_factory.mktemp("any")
    twin = Twin(config, seed)
    summary = stardist.export(twin.save(scratch / "m"), scratch / "m.onnx")
    assert_like_twin(twin, summary.output)
    tile = summary.manifest.tile
    assert tile.multiple == twin.multiple
    # an impulse is measured from its pixel and through a zoom that shifts by up to half a sample, a halo from a cut
    for measured, halo, step in zip(tile.receptive_field, tile.halo, tile.multiple, strict=True):
        assert measured <= halo + 2 * step
    shutil.rmtree(scratch)


def test_old_files_take_the_defaults_of_the_constructor(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"axes": "ZYXC", "anisotropy": [2, 1, 1]}')
    config = read_config(tmp_path)
    assert (config.n_rays, config.grid, config.multiple) == (96, (1, 1, 1), (4, 4, 4))
    assert read_space(tmp_path).rays == spiral(96, [2, 1, 1])
    (tmp_path / "config.json").write_text('{"n_dim": 3, "n_rays": 40, "backbone": "ResNet", "grid": [1, 2, 2]}')
    config = read_config(tmp_path)
    assert isinstance(config, ResnetConfig)
    assert (config.n_rays, config.multiple, config.resnet_n_blocks) == (40, (1, 2, 2), 4)
    assert read_space(tmp_path).anisotropy is None


def test_the_network_of_the_original_demo_has_as_many_parameters(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        '{"n_dim": 3, "backbone": "resnet", "grid": [1, 2, 2], "anisotropy": [2, 1, 1], "rays_json": '
        '{"name": "Rays_GoldenSpiral", "kwargs": {"n": 96, "anisotropy": [2, 1, 1]}}}'
    )
    config = read_config(tmp_path)
    assert isinstance(config, ResnetConfig)
    layers = star_resnet.network(config).convolutions()
    assert sum(int(np.prod(conv.kernel)) * conv.n_in * conv.n_out + conv.n_out for conv in layers) == 1_547_201


def test_the_number_of_rays_is_that_of_the_rays(folder: Path, tmp_path: Path) -> None:
    change(folder, n_rays=77)  # StarDist ignores it
    assert stardist.export(folder, tmp_path / "m.onnx").manifest.head.n_rays == 6


# ---- receptive field and halo -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "config",
    [
        {"unet_n_depth": 2, "grid": [1, 2, 1], "unet_kernel_size": [3, 3, 1]},
        {"grid": [2, 1, 1], "unet_pool": [1, 2, 3], "unet_kernel_size": [3, 2, 3], "unet_n_conv_per_depth": 1},
        {"backbone": "resnet", "grid": [1, 2, 4], "resnet_kernel_size": [3, 3, 3]},
        {"backbone": "resnet", "grid": [2, 2, 1], "resnet_kernel_size": [5, 2, 1], "resnet_n_conv_per_block": 2},
        {"backbone": "resnet", "grid": [4, 1, 1], "resnet_n_blocks": 3, "resnet_kernel_size": [3, 1, 4]},
    ],
)
def test_halo_is_exactly_what_a_cut_spoils(config: dict[str, Any], tmp_path: Path) -> None:
    kind = "resnet" if config.get("backbone") == "resnet" else "unet"
    linear = {f"{kind}_activation": "linear", f"{kind}_last_activation": "linear"}
    twin = Twin(config | {key: value for key, value in linear.items() if key != "resnet_last_activation"})
    twin.save(tmp_path / "m")
    for arrays in twin.layers.values():  # no weight is zero, so infinity reaches whatever can see it
        arrays[0][:] = 1 / arrays[0][..., 0].size
    summary = stardist.export(twin.save(tmp_path / "m"), tmp_path / "m.onnx")
    for axis, step in enumerate(summary.manifest.tile.multiple):
        halo, grid = summary.manifest.tile.halo[axis], summary.manifest.head.grid[axis]
        shape = list(summary.manifest.tile.multiple)
        cut = step * (1 + halo // step)
        shape[axis] = 2 * cut
        counts = []
        for side in (slice(0, cut), slice(cut, None)):
            image = np.zeros((*shape, 1), np.float32)
            image[(slice(None),) * axis + (side,)] = np.inf
            others = tuple(other for other in range(4) if other != axis)
            reached = ~np.isfinite(run(summary.output, image)[..., 1:]).all(others)
            counts.append(int(reached.sum()) - cut // grid)
        assert max(counts) == halo // grid
        assert halo % grid == 0


def test_tiles_cut_at_the_halo_give_the_untiled_maps(tmp_path: Path) -> None:
    twin = Twin({"backbone": "resnet", "grid": [1, 2, 2]})
    summary = stardist.export(twin.save(tmp_path / "m"), tmp_path / "m.onnx")
    image = np.random.default_rng(0).normal(0, 1, (9, 64, 66, 1)).astype(np.float32)
    halo = -(-max(summary.manifest.tile.halo[1:]) // 2) * 2
    whole, corner = run(summary.output, image), run(summary.output, image[:, 14:, 10:])
    keep = corner[:, halo // 2 :, halo // 2 :], whole[:, (14 + halo) // 2 :, (10 + halo) // 2 :]
    assert keep[0].size > 1000
    np.testing.assert_allclose(*keep, rtol=0, atol=1e-4)


# ---- what the file holds ------------------------------------------------------------------------------------


def test_file_describes_itself_and_nothing_else(tmp_path: Path) -> None:
    folder = Twin({"grid": [1, 2, 4], "anisotropy": [2.5, 1, 1]}).save(tmp_path / "cells")
    normalize = PercentileSpec(3, 99, joint=False)
    summary = stardist.export(folder, tmp_path / "m.onnx", normalize=normalize, name="mine", licence="CC0-1.0")
    model = onnx.load(summary.output)
    onnx.checker.check_model(model, full_check=True)
    assert (model.ir_version, model.opset_import[0].version) == (8, 17)
    shapes = [
        (value.name, [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim])
        for value in (*model.graph.input, *model.graph.output)
    ]
    assert shapes == [("image", ["N", 1, "Z", "Y", "X"]), ("maps", ["N", 7, "Z", "Y/2", "X/4"])]
    content = summary.output.read_bytes()
    for private in (str(tmp_path), os.path.expanduser("~") + "/", "weights_best", __file__):
        assert private.encode() not in content
    manifest = Manifest.from_json(model.metadata_props[0].value)
    assert manifest == summary.manifest
    assert (manifest.input.axes, manifest.normalize, manifest.name) == ("ZYX", normalize, "mine")
    assert manifest.head.anisotropy == (2.5, 1, 1)
    assert manifest.head.rays.name == "Rays_Octo"


@pytest.mark.parametrize("backbone", ["unet", "resnet"])
def test_exported_file_passes_its_own_self_test(backbone: str, tmp_path: Path) -> None:
    twin = Twin({"backbone": backbone, "grid": [1, 2, 2], "n_classes": 1})
    summary = stardist.export(twin.save(tmp_path / "m"), tmp_path / "m.onnx")
    assert summary.manifest.selftest.shape == (48, 48, 48)
    outcome = cellrt.load(summary.output, providers=["cpu"]).selftest()
    assert outcome.passed
    assert outcome.n_objects == outcome.n_expected


def test_same_folder_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    first, second = (stardist.export(folder, tmp_path / f"{n}.onnx", name="m").output for n in "ab")
    assert first.read_bytes() == second.read_bytes()


def test_weights_in_half_the_space(tmp_path: Path) -> None:
    twin = Twin({"unet_n_filter_base": 12})
    whole, half = (
        stardist.export(twin.save(tmp_path / "m"), tmp_path / f"{p}.onnx", precision=p) for p in ("fp32", "fp16")
    )
    assert half.n_bytes < 0.6 * whole.n_bytes
    image = np.random.default_rng(0).random((4, 8, 8, 1))
    np.testing.assert_allclose(run(half.output, image), run(whole.output, image), atol=0.02)


def test_summary_is_a_table(tmp_path: Path) -> None:
    unet = str(
        stardist.export(Twin({"grid": [1, 2, 2], "anisotropy": [2.5, 1, 1]}).save(tmp_path / "u"), tmp_path / "u.onnx")
    )
    for words in (
        "star3d, 6 rays, grid 1 x 2 x 2",
        "U-Net, depth 1",
        "pool 2 x 2 x 2",
        "multiples of 2 x 4 x 4",
        "2.5 x 1 x 1",
    ):
        assert words in unet
    twin = Twin({"backbone": "resnet", "resnet_batch_norm": True})
    resnet = str(stardist.export(twin.save(tmp_path / "r"), tmp_path / "r.onnx"))
    for words in ("ResNet, 2 blocks, 3 filters", "relu, batch normalisation (folded)", "multiples of 1 x 1 x 1"):
        assert words in resnet


def test_command_line(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output, recorded = tmp_path / "m.onnx", tmp_path / "recorded.npz"
    twin = Twin({"grid": [1, 2, 2]})
    twin.save(folder)
    image = np.random.default_rng(0).random((4, 8, 8, 1)).astype(np.float32)
    maps = twin.predict(image)
    np.savez(recorded, image=image[..., 0], net_prob=maps[..., 0], net_dist=maps[..., 1:])
    assert commands.main(["stardist", str(folder), "-o", str(output), "--verify", str(recorded)]) == 0
    out = capsys.readouterr().out
    assert "star3d, 6 rays" in out
    assert "(tolerance 1e-05): ok" in out
    np.savez(recorded, image=image[0, ..., 0], prob=maps[..., 0], dist=maps[..., 1:])
    with pytest.raises(ModelError, match=r"expected an image \(Z, Y, X\) or \(Z, Y, X, C\) with 1 channels"):
        verify(output, recorded)


GROWTH = """
import sys
import numpy as np
from cellrt.session import Session
session = Session(sys.argv[1], providers=["cpu"], threads=2)
peaks = []
for side in (32, 96):
    session.run(np.ones((1, 1, side, side, side), np.float32))["maps"].copy()
    line = next(line for line in open("/proc/self/status") if line.startswith("VmHWM:"))
    peaks.append(int(line.split()[1]) * 1024)
print((peaks[1] - peaks[0]) / (96**3 - 32**3))
"""


@needs_reference
@pytest.mark.skipif(sys.platform != "linux", reason="the peak of one process is read from /proc")
@pytest.mark.parametrize("name", ["3d_unet", "3d_resnet"])
def test_networks_take_the_memory_that_is_said(name: str, exported) -> None:
    path = exported(REFERENCE / "models" / name)
    said = Manifest.from_json(Session(path).metadata[METADATA_KEY]).memory.bytes_per_pixel
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "131072"}
    command = [sys.executable, "-c", GROWTH, str(path)]
    result = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert 0.8 < said / float(result.stdout) < 1.2


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
        ({"n_dim": 2}, ["no rays_json", "2D model"]),
        ({"axes": "YXC"}, ["axes", "'ZYXC'", "got 'YXC'"]),
        ({"axes": "XYZC"}, ["axes", "'ZYXC'", "got 'XYZC'"]),
        ({"grid": [2, 2]}, ["grid", "three whole numbers", "[2, 2]"]),
        ({"grid": [1, 3, 1]}, ["grid", "three powers of 2", "[1, 3, 1]"]),
        ({"unet_pool": [2, 2]}, ["unet_pool", "three whole numbers"]),
        ({"unet_kernel_size": [3, 3]}, ["unet_kernel_size", "three whole numbers"]),
        ({"backbone": "vit"}, ["backbone", "'unet' or 'resnet'", "'vit'"]),
        ({"anisotropy": [0, 1, 1]}, ["anisotropy", "from 0.001 to 1000", "[0, 1, 1]"]),
        ({"anisotropy": [-1, 1, 1]}, ["anisotropy", "from 0.001 to 1000"]),
        ({"anisotropy": [float("nan"), 1, 1]}, ["anisotropy", "from 0.001 to 1000", "nan"]),
        ({"anisotropy": [float("inf"), 1, 1]}, ["anisotropy", "from 0.001 to 1000", "inf"]),
        ({"anisotropy": [True, 1, 1]}, ["anisotropy", "True"]),
        ({"anisotropy": 2}, ["anisotropy", "null or three numbers", "got 2"]),
        ({"rays_json": {"name": "__import__('os').abort()", "kwargs": {}}}, ["rays out of Rays_GoldenSpiral"]),
        ({"rays_json": ..., "n_rays": 2}, ["Rays_GoldenSpiral", "5..1024", "got 2"]),
        ({"rays_json": 3}, ["rays_json", "a name and its kwargs", "got 3"]),
        ({"unet_n_depth": 12, "unet_pool": [4, 1, 1]}, ["unet_pool ** unet_n_depth * grid", "at most 4096"]),
    ],
)
def test_config_is_refused(change_to: dict[str, Any], words: list[str], folder: Path) -> None:
    change(folder, **change_to)
    refused(folder, ModelError, *words)


@pytest.mark.parametrize(
    ("change_to", "words"),
    [
        ({"grid": [1, 8, 2]}, ["grid", "at most 4", "resnet_n_blocks 2", "[1, 8, 2]"]),
        ({"resnet_n_blocks": -1}, ["resnet_n_blocks", "0..64"]),
        ({"resnet_n_conv_per_block": 1}, ["resnet_n_conv_per_block", "2..64"]),
        ({"resnet_batch_norm": 1}, ["resnet_batch_norm", "true or false"]),
        ({"resnet_activation": "glu"}, ["an activation out of celu", "'glu'"]),
        ({"resnet_n_filter_base": 65536, "grid": [2, 1, 1]}, ["filters in block 0", "131072"]),
    ],
)
def test_config_of_a_resnet_is_refused(change_to: dict[str, Any], words: list[str], tmp_path: Path) -> None:
    folder = Twin({"backbone": "resnet"}).save(tmp_path / "cells")
    change(folder, **change_to)
    refused(folder, ModelError, *words)


@pytest.mark.parametrize(
    ("change_to", "words"),
    [
        (
            {"grid": [1, 1, 2]},
            ["expected layer 3 with weights to be block_0_no_0", "(3, 3, 3, 3, 6)", "(3, 3, 3, 3, 3)"],
        ),
        ({"resnet_n_blocks": 1}, ["features", "(3, 3, 3, 3, 4)"]),
        ({"resnet_n_blocks": 3}, ["block_2_no_0", "(features)"]),
        ({"resnet_batch_norm": True}, ["block_0_no_0", "batch normalisation (3,)"]),
        ({"n_classes": 1}, ["features_class", "(prob)"]),
        ({"rays_json": {"name": "Rays_Octo", "kwargs": {"n_level": 2}}}, ["dist", "(1, 1, 1, 4, 18)"]),
    ],
)
def test_weights_of_a_resnet_that_do_not_fit(change_to: dict[str, Any], words: list[str], tmp_path: Path) -> None:
    folder = Twin({"backbone": "resnet"}).save(tmp_path / "cells")
    change(folder, **change_to)
    refused(folder, ModelError, "weights do not fit config.json", *words)


def test_a_shortcut_without_its_weights(tmp_path: Path) -> None:
    twin = Twin({"backbone": "resnet", "grid": [1, 2, 2]})
    twin.save(tmp_path / "m")
    twin.layers = {
        name: a for name, a in twin.layers.items() if a[0].shape[:3] != (1, 1, 1) or name in ("prob", "dist")
    }
    refused(
        twin.save(tmp_path / "m"), ModelError, "weights do not fit config.json", "block_0_shortcut", "(1, 1, 1, 3, 6)"
    )


def test_weights_of_a_plane_for_a_volume(folder: Path, tmp_path: Path) -> None:
    with h5py.File(folder / "weights_best.h5", "r+") as file:
        del file["middle_0/middle_0/kernel"]
        file["middle_0/middle_0/kernel"] = np.zeros((3, 3, 1, 3), np.float32)
    refused(folder, ModelError, "weights do not fit config.json", "middle_0", "(3, 3, 3, 1, 3)", "(3, 3, 1, 3)")


def test_training_starts_from_2d_alone(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="training needs torch")
    from cellrt_export import star_net

    with pytest.raises(ModelError, match=r"expected a StarDist 2D model folder, got a 3D one .*not trained here"):
        star_net.load_folder(folder)
    output = stardist.export(folder, tmp_path / "m.onnx").output
    with pytest.raises(ModelError, match=r"expected a StarDist 2D network in m\.onnx, got a 3D one"):
        star_net.load_onnx(output)


def test_8_bits_are_refused(folder: Path) -> None:
    images = [np.zeros((8, 32, 32), np.float32)] * 2
    with pytest.raises(CellrtError, match=r"expected a 2D network for int8, got one of volumes, .* fp32 or fp16"):
        stardist.export(folder, folder.parent / "int8.onnx", precision="int8", calibrate=images)
    assert not (folder.parent / "int8.onnx").exists()


def test_a_network_that_its_test_image_confuses_gets_no_self_test(folder: Path, monkeypatch, caplog) -> None:
    monkeypatch.setattr("cellrt.heads.star_3d.Collector3D._most", 1)
    (folder / "thresholds.json").write_text('{"prob": 0.001, "nms": 0.4}')
    written = stardist.export(folder, folder.parent / "confused.onnx")
    assert written.manifest.selftest is None
    assert "the model gets no self-test, since its test image gives too many objects: expected at most 1" in caplog.text
