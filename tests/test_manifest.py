"""The manifest: JSON and back, unknown keys ignored, everything wrong said clearly."""

import dataclasses
import json
import logging

import pytest

from cellrt.errors import ModelError
from cellrt.manifest import (
    FlowSpec,
    InputSpec,
    Manifest,
    Normalize99Spec,
    PercentileSpec,
    SelfTestSpec,
    SizeModelSpec,
    SourceSpec,
    StarSpec,
    TileSpec,
)


@pytest.fixture
def manifest():
    return Manifest(
        name="example",
        head=StarSpec(n_rays=32, grid=(2, 2), prob_thresh=0.5, nms_thresh=0.4, n_classes=2, class_names=("a", "b")),
        input=InputSpec(n_channels=3),
        normalize=PercentileSpec(joint=False),
        tile=TileSpec(multiple=(16, 16), receptive_field=(94, 94), halo=(106, 106)),
        source=SourceSpec(upstream="stardist", name="example", sha256="0" * 64),
        selftest=SelfTestSpec(shape=(96, 96), digest="1" * 64, means=(0.25,) * 36, n_objects=9),
    )


def test_round_trip(manifest):
    assert Manifest.from_json(manifest.to_json()) == manifest
    assert manifest.head.n_maps == 1 + 32 + 3


def test_unknown_keys_warn(manifest, caplog):
    data = json.loads(manifest.to_json())
    data["head"]["sparkle"] = True
    with caplog.at_level(logging.WARNING):
        assert Manifest.from_json(json.dumps(data)) == manifest
    assert "sparkle" in caplog.text


def edited(manifest, path, value):
    """The JSON of a manifest with one value replaced, or removed if the value is ..."""
    data = json.loads(manifest.to_json())
    *parents, key = path.split(".")
    target = data
    for parent in parents:
        target = target[parent]
    if value is ...:
        del target[key]
    else:
        target[key] = value
    return json.dumps(data)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("schema", 99, "expected a manifest of schema 1 to 1, got 99; upgrade"),
        ("schema", -3, "expected a manifest of schema 1 to 1, got -3"),
        ("schema", ..., "with a schema number"),
        ("head.kind", "hexagons", "expected manifest.head of kind 'star' or 'flow', got 'hexagons'"),
        ("head", 3, "expected manifest.head of kind"),
        ("head.n_rays", ..., "expected manifest.head to have n_rays"),
        ("head.n_rays", 2, r"expected head.n_rays to be 3\.\.1024, got 2"),
        ("head.n_rays", True, "expected manifest.head.n_rays to be int, got True"),
        ("head.n_rays", "32", "expected manifest.head.n_rays to be int, got '32'"),
        ("head.grid", [2], "to have 2 values, got 1"),
        ("head.grid", [2, 0], "expected head.grid"),
        ("head.prob_thresh", 0, "expected head.prob_thresh"),
        ("head.nms_thresh", 1.5, "expected head.nms_thresh"),
        ("head.class_names", ["a"], "one per class"),
        ("input.n_channels", 0, "expected input.n_channels"),
        ("input", [], "expected manifest.input to be a JSON object, got list"),
        ("normalize.low", 99.9, "expected percentiles"),
        ("normalize.low", 10**400, "expected manifest.normalize.low to be float"),
        ("head.grid", [3, 2], r"expected tile.multiple to be a multiple of the grid"),
        ("selftest.means", [0.5], "expected selftest.means to be 36 numbers"),
        ("selftest.shape", [-5, 97], "expected selftest.shape"),
        ("selftest.tolerance", float("inf"), "expected manifest.selftest.tolerance"),
        ("tile.multiple", [0, 16], "expected tile.multiple"),
        ("tile.halo", [-1, 0], "expected tile.halo"),
    ],
)
def test_bad_values_are_refused(manifest, path, value, message):
    with pytest.raises(ModelError, match=message):
        Manifest.from_json(edited(manifest, path, value))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"schema": "1"}', "[" * 100_000])
def test_not_a_manifest(text):
    with pytest.raises(ModelError, match="expected a manifest"):
        Manifest.from_json(text)


def flow_manifest():
    return Manifest(
        name="cyto",
        head=FlowSpec(
            dynamics="v3",
            diam_mean=30,
            diam_labels=25.5,
            tile=224,
            n_style=2,
            size_model=SizeModelSpec(weights=(0.5, -1), style_mean=(0, 0.25), diam_mean=30, offset=0.1),
        ),
        input=InputSpec(n_channels=2),
        normalize=Normalize99Spec(lowhigh=(0, 10)),
        tile=TileSpec(multiple=(8, 8), receptive_field=(100, 100), halo=(100, 100)),
        source=SourceSpec(upstream="cellpose", name="cyto", sha256="0" * 64),
    )


def test_a_flow_manifest_survives_json():
    assert Manifest.from_json(flow_manifest().to_json()) == flow_manifest()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("dynamics", "v5", "expected head.dynamics to be one of v3, v4"),
        ("diam_mean", 0, "expected head.diam_mean"),
        ("diam_labels", float("nan"), "expected head.diam_labels"),
        ("tile", 0, "expected head.tile"),
        ("flow_threshold", -1, "expected head.flow_threshold"),
        ("tiles", "small", "expected head.tiles"),
        ("min_size", -2, "expected head.min_size"),
        ("n_style", 3, "expected size_model to be 3 weights, one per style value"),
    ],
)
def test_bad_flow_heads_are_refused(key, value, message):
    with pytest.raises(ModelError, match=message):
        dataclasses.replace(flow_manifest().head, **{key: value})


@pytest.mark.parametrize(
    "options",
    [
        {"low": 99.0, "high": 1.0},
        {"lowhigh": (1.0,)},
        {"lowhigh": (2.0, 1.0)},
        {"smooth_radius": float("inf")},
        {"sharpen_radius": "x"},
        {"tile_blocksize": 0.5},
        {"rules": "v2"},
    ],
)
def test_bad_normalisations_are_refused(options):
    with pytest.raises(ModelError, match=r"expected (percentiles|normalize\.)"):
        Normalize99Spec(**options)
