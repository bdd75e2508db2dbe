"""The manifest: JSON and back, unknown keys ignored, everything wrong said clearly."""

import dataclasses
import json
import logging

import numpy as np
import pytest

from cellrt.errors import ModelError
from cellrt.manifest import (
    FlowSpec,
    InputSpec,
    Manifest,
    MemorySpec,
    Normalize99Spec,
    PercentileSpec,
    RaysSpec,
    SelfTestSpec,
    SizeModelSpec,
    SourceSpec,
    Star3DSpec,
    StarSpec,
    TileSpec,
    pair,
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
        memory=MemorySpec(bytes_per_pixel=270.5, weights=17_000_000),
    )


def test_round_trip(manifest):
    assert Manifest.from_json(manifest.to_json()) == manifest
    assert manifest.head.n_maps == 1 + 32 + 3


def test_files_of_before_do_not_say_how_much_memory(manifest):
    assert Manifest.from_json(edited(manifest, "memory", ...)) == dataclasses.replace(manifest, memory=None)


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
        ("head.kind", "hexagons", "expected manifest.head of kind 'star' or 'flow' or 'star3d', got 'hexagons'"),
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
        ("memory.bytes_per_pixel", 0, "expected memory.bytes_per_pixel"),
        ("memory.weights", -1, "expected memory.weights"),
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


OCTAHEDRON = RaysSpec(
    name="Rays_Octo",
    vertices=((0, 0, 1), (0, 1, 0), (0, 0, -1), (0, -1, 0), (1, 0, 0), (-1, 0, 0)),
    faces=((0, 1, 4), (0, 5, 1), (1, 2, 4), (1, 5, 2), (2, 3, 4), (2, 5, 3), (3, 0, 4), (3, 5, 0)),
)


def manifest_3d():
    return Manifest(
        name="nuclei in a volume",
        head=Star3DSpec(
            n_rays=6,
            grid=(1, 2, 2),
            prob_thresh=0.7,
            nms_thresh=0.3,
            rays=OCTAHEDRON,
            anisotropy=(2, 1, 1),
            n_classes=2,
            class_names=("a", "b"),
        ),
        input=InputSpec(n_channels=1, axes="ZYX"),
        normalize=PercentileSpec(),
        tile=TileSpec(multiple=(4, 8, 8), receptive_field=(20, 40, 40), halo=(22, 44, 44)),
        source=SourceSpec(upstream="stardist", name="example", sha256="0" * 64),
        selftest=SelfTestSpec(shape=(48, 48, 48), digest="1" * 64, means=(0.25,) * 10, n_objects=8),
    )


def test_a_manifest_of_volumes_survives_json():
    manifest = manifest_3d()
    assert Manifest.from_json(manifest.to_json()) == manifest
    assert (manifest.head.kind, manifest.head.n_maps, manifest.head.n_class_channels) == ("star3d", 10, 3)


def test_float32_rays_read_back_to_the_bit():
    # 1/3 and its like are no short decimals; nextafter shows that no bit of a float32 is lost
    corners = np.array(OCTAHEDRON.vertices, np.float32) * np.float32(1 / 3)
    corners[corners > 0] = np.nextafter(corners[corners > 0], np.float32(1))
    rays = dataclasses.replace(OCTAHEDRON, vertices=tuple(map(tuple, corners.tolist())))
    manifest = dataclasses.replace(manifest_3d(), head=dataclasses.replace(manifest_3d().head, rays=rays))
    back = np.array(Manifest.from_json(manifest.to_json()).head.rays.vertices, np.float32)
    assert back.tobytes() == corners.tobytes()


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("input.axes", "YX", "expected input.axes to be 'ZYX' for a star3d head, got 'YX'"),
        ("input.axes", "XYZ", "expected input.axes to be one of YX, ZYX, got 'XYZ'"),
        ("head.grid", [2, 2], "expected manifest.head.grid to have 3 values, got 2"),
        ("head.rays", ..., "expected manifest.head to have rays"),
        ("head.anisotropy", ..., "expected manifest.head to have anisotropy"),
        ("head.anisotropy", [1, 0, 1], "expected head.anisotropy to be numbers from 0.001 to 1000"),
        ("head.anisotropy", [1, -1, 1], "expected head.anisotropy"),
        ("head.anisotropy", [1, float("nan"), 1], "expected manifest.head.anisotropy to be float, got nan"),
        ("head.anisotropy", [1, 1], "expected manifest.head.anisotropy to have 3 values"),
        ("head.n_rays", 5, "expected rays.vertices to be 5 of them, one per ray, got 6"),
        ("head.prob_thresh", 1, "expected head.prob_thresh"),
        ("head.class_names", ["a"], "one per class"),
        ("head.border", 65, "expected head.border"),
        ("tile.multiple", [8, 8], "expected tile to be two or three numbers of each kind"),
        ("tile.multiple", [4, 8, 9], r"a multiple of the grid \(1, 2, 2\)"),
        ("tile", {"multiple": [8, 8], "receptive_field": [9, 9], "halo": [9, 9]}, "tile to be 3 numbers of each kind"),
        ("selftest.shape", [48, 48], "expected selftest.shape to be 3 numbers, one per axis"),
        ("selftest.means", [0.5], "expected selftest.means to be 10 numbers"),
    ],
)
def test_bad_manifests_of_volumes_are_refused(path, value, message):
    with pytest.raises(ModelError, match=message):
        Manifest.from_json(edited(manifest_3d(), path, value))


def test_images_are_no_volumes(manifest):
    with pytest.raises(ModelError, match=r"expected input\.axes to be 'YX' for a star head, got 'ZYX'"):
        Manifest.from_json(edited(manifest, "input.axes", "ZYX"))
    with pytest.raises(ModelError, match=r"expected input\.axes to be 'YX' for a flow head, got 'ZYX'"):
        Manifest.from_json(edited(flow_manifest(), "input.axes", "ZYX"))
    with pytest.raises(ModelError, match="expected tile to be 2 numbers of each kind"):
        dataclasses.replace(manifest, tile=manifest_3d().tile)
    with pytest.raises(ModelError, match=r"a pair of numbers in the manifest to be two, \(y, x\), got \(4, 8, 8\)"):
        pair(manifest_3d().tile.multiple)


def spoiled(**changes):
    return lambda: dataclasses.replace(OCTAHEDRON, **changes)


def meridians(n, step, *, n_poles=1, apart=0.0):
    """Rays on the equator every `step` degrees and at the poles, there `n_poles` that are `apart`."""
    around = np.deg2rad(step) * np.arange(n)
    equator = np.stack([0 * around, np.sin(around), np.cos(around)], 1)
    poles = [np.stack([np.full(n, z), *apart * equator.T[1:]], 1)[:n_poles] for z in (1.0, -1.0)]
    vertices = np.concatenate([equator, *poles])
    faces = []
    for k in range(n):
        after = (k + 1) % n
        above, below = n + k % n_poles, n + n_poles + k % n_poles
        faces += [(above, k, after), (below, after, k)]
        if n_poles > 1:
            faces += [(above, after, n + after), (below, n + n_poles + after, after)]
    return RaysSpec("Rays_Explicit", tuple(map(tuple, vertices.tolist())), tuple(faces))


def test_rays_of_one_direction_may_leave_the_surface_open():
    assert len(meridians(6, 60).faces) == 12
    assert len(meridians(6, 60, n_poles=6, apart=1e-7).faces) == 24
    with pytest.raises(ModelError, match=r"expected rays\.faces to be a closed surface"):
        meridians(6, 60, n_poles=6, apart=1e-3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (spoiled(vertices=OCTAHEDRON.vertices[:3]), r"expected rays.vertices to be 4\.\.1024 of them, got 3"),
        (spoiled(vertices=((0, 0, 0), *OCTAHEDRON.vertices[1:])), "of a length from 0.001 to 1000"),
        (spoiled(vertices=((0, 0, float("nan")), *OCTAHEDRON.vertices[1:])), "of a length from 0.001 to 1000"),
        (spoiled(vertices=((0, 0, 1e9), *OCTAHEDRON.vertices[1:])), "of a length from 0.001 to 1000"),
        (spoiled(faces=OCTAHEDRON.faces[1:]), "expected rays.faces to be a closed surface"),
        (spoiled(faces=()), "expected rays.faces to be triangles with a corner at every ray, got 'none at "),
        (spoiled(faces=OCTAHEDRON.faces * 2), "expected rays.faces to be at most 8 triangles for 6 rays, got 16"),
        (spoiled(vertices=(*OCTAHEDRON.vertices, (1, 1, 1))), r"a corner at every ray, got 'none at \[6\]'"),
        (spoiled(faces=((0, 1, 6), *OCTAHEDRON.faces[1:])), "indices below 6"),
        (spoiled(faces=((0, 1, -2), *OCTAHEDRON.faces[1:])), "indices below 6"),
        (spoiled(faces=((1, 0, 4), *OCTAHEDRON.faces[1:])), "of negative determinant"),
        (spoiled(faces=((0, 1, 1), *OCTAHEDRON.faces[1:])), "of negative determinant"),
        (spoiled(faces=OCTAHEDRON.faces[:7] + OCTAHEDRON.faces[:1]), "expected rays.faces to be a closed surface"),
        # as many directed edges as a closed surface has, but one face in the place of another
        (spoiled(faces=((5, 4, 1), *OCTAHEDRON.faces[1:])), r"negative determinant|closed surface"),
        # a surface that is closed and goes round twice: from pole to pole along six meridians, 120 degrees apart
        (lambda: meridians(6, 120), r"expected rays.faces to be once round the origin, got '2\.000 times'"),
    ],
)
def test_rays_that_enclose_nothing_are_refused(make, message):
    with pytest.raises(ModelError, match=message):
        make()
