"""Star networks of volumes without training.

`model` takes every voxel on the grid for a candidate as strong as it is bright: its maps know one voxel each, computed
without sums, so that tiles cannot matter to a bit. `ball_model` looks around and finds bright balls of one radius.
"""

import functools

import numpy as np

from cellrt.manifest import (
    InputSpec,
    Manifest,
    MemorySpec,
    PercentileSpec,
    SourceSpec,
    Star3DSpec,
    TileSpec,
)

GRID = (1, 2, 2)
N_RAYS = 24  # of `model`
RADIUS = 5.0  # of balls


def volume(shape=(40, 90, 110), seed=0, dtype=np.uint16):
    """Bright spots of all sizes on noise, (Z, Y, X), some of which `model` takes for cells."""
    random = np.random.default_rng(seed)
    smooth = random.random([side // 6 + 2 for side in shape])
    for axis, side in enumerate(shape):
        smooth = np.repeat(smooth, 6, axis)[(slice(None),) * axis + (slice(side),)]
    return (1000 * smooth**3 + 20 * random.random(shape)).astype(dtype)


def balls(shape=(24, 64, 72), seed=0):
    """Bright balls at places that are far enough from each other, uint16 (Z, Y, X), with some noise; and how many."""
    random = np.random.default_rng(seed)
    z, y, x = np.mgrid[: shape[0], : shape[1], : shape[2]].astype(np.float32)
    voxels = random.normal(100, 5, shape).astype(np.float32)
    pitch = 3 * RADIUS
    places = [np.arange(1.7 * RADIUS, side - 1.3 * RADIUS, pitch) for side in shape]
    centres = np.stack(np.meshgrid(*places, indexing="ij"), axis=-1).reshape(-1, 3)
    for centre in centres + random.uniform(-0.5, 0.5, centres.shape):
        voxels += 1000 * _ball(z - centre[0], y - centre[1], x - centre[2])
    return voxels.clip(0).astype(np.uint16), len(centres)


def _ball(z, y, x):
    """1 inside a ball around the origin, 0 outside."""
    return 1 / (1 + np.exp(np.minimum((np.sqrt(z**2 + y**2 + x**2) - RADIUS) * 3, 50)))


def head(*, n_rays=N_RAYS, n_classes=None, anisotropy=None):
    """What maps mean; skips the test where the exporter's needs are missing."""
    import pytest

    pytest.importorskip("onnx")
    from cellrt_export.star_rays import rays

    return Star3DSpec(
        n_rays=n_rays,
        grid=GRID,
        prob_thresh=0.5,
        nms_thresh=0.3,
        rays=rays({"name": "Rays_GoldenSpiral", "kwargs": {"n": n_rays}}, anisotropy),
        anisotropy=anisotropy,
        n_classes=n_classes,
    )


@functools.cache
def model(*, n_channels=1, n_classes=None, size=3.0):
    """The file's bytes; `size` is the least length of a ray. Skips the test where the exporter's needs are missing."""
    spec = head(n_classes=n_classes)
    from cellrt_export import onnxfile

    n_more = 0 if n_classes is None else n_classes + 1
    graph = onnxfile.GraphBuilder()
    samples = graph.node(
        "Slice",
        "samples",
        [
            "image",
            graph.constant("begins", np.zeros(4, np.int64)),
            graph.constant("ends", np.array([1, *(1 << 30,) * 3])),
            graph.constant("axes", np.arange(1, 5)),
            graph.constant("steps", np.array([1, *GRID])),
        ],
    )
    bounds = [graph.scalar(0.0), graph.scalar(1.0)]
    bright = graph.node("Clip", "bright", [samples, *bounds])
    prob = graph.node("Mul", "prob", [bright, graph.scalar(0.99)])
    offsets = np.sin(np.arange(N_RAYS, dtype=np.float32)).reshape(1, N_RAYS, 1, 1, 1) + np.float32(size)
    longer = graph.node("Mul", "longer", [prob, graph.scalar(2.0)])
    maps = [prob, graph.node("Add", "dist", [longer, graph.constant("offsets", offsets)])]
    if n_more:
        weights = np.arange(1, n_more + 1, dtype=np.float32).reshape(1, n_more, 1, 1, 1)
        maps.append(graph.node("Mul", "class_prob", [prob, graph.constant("weights", weights)]))
    graph.node("Concat", "maps", maps, axis=1)
    memory = MemorySpec(bytes_per_pixel=100.0, weights=1000)
    return _file(graph, spec, "bright", n_channels=n_channels, halo=(5, 10, 9), memory=memory)


@functools.cache
def ball_model(*, n_channels=1, n_rays=32, n_classes=None, anisotropy=None):
    """The same of the other network: probability is high where a ball would be full of light, all rays are `RADIUS`."""
    spec = head(n_rays=n_rays, n_classes=n_classes, anisotropy=anisotropy)
    from cellrt_export import onnxfile

    offset = np.arange(-6, 7, dtype=np.float32)
    ball = _ball(offset[:, None, None], offset[:, None], offset)
    kernel = np.zeros((1, n_channels, 13, 13, 13), np.float32)
    kernel[0, 0] = 40 * (ball - ball.mean()) / np.abs(ball - ball.mean()).sum()
    graph = onnxfile.GraphBuilder()
    inputs = ["image", graph.constant("ball", kernel), graph.constant("bias", np.array([-9], np.float32))]
    logit = graph.node("Conv", "logit", inputs, pads=[6] * 6, strides=list(GRID))
    prob = graph.node("Sigmoid", "prob", [logit])
    weights = graph.constant("no_weights", np.zeros((n_rays, 1, 1, 1, 1), np.float32))
    lengths = graph.constant("lengths", np.full(n_rays, RADIUS, np.float32))
    maps = [prob, graph.node("Conv", "dist", [prob, weights, lengths])]
    if n_classes is not None:
        of_class = np.zeros((n_classes + 1, n_channels, 1, 1, 1), np.float32)
        of_class[1:, 0, 0, 0, 0] = np.arange(n_classes)
        scores = graph.node("Conv", "scores", ["image", graph.constant("of_class", of_class)], strides=list(GRID))
        maps.append(graph.node("Softmax", "class_prob", [scores], axis=1))
    graph.node("Concat", "maps", maps, axis=1)
    return _file(graph, spec, "balls", n_channels=n_channels, halo=(6, 6, 6))


def _file(graph, spec, name, *, n_channels, halo, memory=None):
    """The bytes of a graph with what it says about itself."""
    from cellrt_export import onnxfile

    manifest = Manifest(
        name=name,
        head=spec,
        input=InputSpec(n_channels=n_channels, axes="ZYX"),
        normalize=PercentileSpec(),
        tile=TileSpec(multiple=(2, 4, 4), receptive_field=halo, halo=halo),
        source=SourceSpec(upstream="cellrt", name=name, sha256="0" * 64, licence="BSD-3-Clause"),
        memory=memory,
    )
    return onnxfile.assemble(
        graph, n_channels=n_channels, n_maps=spec.n_maps, grid=GRID, version="0", manifest=manifest
    )
