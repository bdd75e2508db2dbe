"""The manifest: JSON and back, unknown keys ignored, everything wrong said clearly."""

import json
import logging

import pytest

from cellrt.errors import ModelError
from cellrt.manifest import (
    InputSpec,
    Manifest,
    PercentileSpec,
    SelfTestSpec,
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
        ("head.kind", "hexagons", "expected a head of kind 'star', got 'hexagons'"),
        ("head", 3, "expected a head of kind"),
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
