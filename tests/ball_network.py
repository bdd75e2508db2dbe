"""A star network of volumes without training: it finds bright balls of one radius.

Probability is high where a ball of the network's radius would be full of light, and all rays are as long as that.
"""

import functools

import numpy as np

from cellrt.manifest import InputSpec, Manifest, PercentileSpec, SourceSpec, Star3DSpec, TileSpec

RADIUS = 5.0
GRID = (1, 2, 2)
HALO = (6, 6, 6)


def volume(shape=(24, 64, 72), seed=0):
    """Bright balls at places that are far enough from each other, uint16 (Z, Y, X), with some noise; and how many."""
    random = np.random.default_rng(seed)
    z, y, x = np.mgrid[: shape[0], : shape[1], : shape[2]].astype(np.float32)
    voxels = random.normal(100, 5, shape).astype(np.float32)
    pitch = 3 * RADIUS
    places = [np.arange(1.7 * RADIUS, side - 1.3 * RADIUS, pitch) for side in shape]
    centres = np.stack(np.meshgrid(*places, indexing="ij"), axis=-1).reshape(-1, 3)
    for centre in centres + random.uniform(-0.5, 0.5, centres.shape):
        distance = np.sqrt((z - centre[0]) ** 2 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2)
        voxels += 1000 / (1 + np.exp(np.minimum((distance - RADIUS) * 3, 50)))
    return voxels.clip(0).astype(np.uint16), len(centres)


@functools.cache
def model(*, n_channels=1, n_rays=32, n_classes=None, anisotropy=None):
    """The file's bytes; skips the test where the exporter's needs are not installed."""
    import pytest

    pytest.importorskip("onnx")
    from cellrt_export import onnxfile, star_rays

    offset = np.arange(-6, 7, dtype=np.float32)
    z, y, x = offset[:, None, None], offset[:, None], offset
    ball = 1 / (1 + np.exp(np.minimum((np.sqrt(z**2 + y**2 + x**2) - RADIUS) * 3, 50)))
    kernel = np.zeros((1, n_channels, 13, 13, 13), np.float32)
    kernel[0, 0] = 40 * (ball - ball.mean()) / np.abs(ball - ball.mean()).sum()
    graph = onnxfile.GraphBuilder()
    bias = graph.constant("bias", np.array([-9], np.float32))
    logit = graph.node(
        "Conv", "logit", ["image", graph.constant("ball", kernel), bias], pads=[6] * 6, strides=list(GRID)
    )
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
    rays = star_rays.rays({"name": "Rays_GoldenSpiral", "kwargs": {"n": n_rays}}, anisotropy)
    head = Star3DSpec(
        n_rays=n_rays,
        grid=GRID,
        prob_thresh=0.5,
        nms_thresh=0.3,
        rays=rays,
        anisotropy=anisotropy,
        n_classes=n_classes,
    )
    manifest = Manifest(
        name="balls",
        head=head,
        input=InputSpec(n_channels=n_channels, axes="ZYX"),
        normalize=PercentileSpec(),
        tile=TileSpec(multiple=(2, 4, 4), receptive_field=HALO, halo=HALO),
        source=SourceSpec(upstream="cellrt", name="balls", sha256="0" * 64, licence="BSD-3-Clause"),
    )
    return onnxfile.assemble(
        graph, n_channels=n_channels, n_maps=head.n_maps, grid=GRID, version="0", manifest=manifest
    )
