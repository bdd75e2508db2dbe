"""A flow network without training: it follows the gradient of brightness, so that bright blobs are its cells.

The flow is the direction in which a wide Gaussian of the image rises, the logit is brightness less a half, the style a
mixture of moments: enough to try everything around a network.
"""

import functools

import numpy as np

from cellrt.manifest import FlowSpec, InputSpec, Manifest, Normalize99Spec, SizeModelSpec, SourceSpec, TileSpec

DIAMETER = 16.0
N_STYLE = 4


def image(shape=(96, 120), diameter=DIAMETER, seed=0):
    """Bright blobs of about that diameter on a square lattice, float32 (Y, X), with some noise; and how many."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    pixels = random.normal(0, 0.01, shape).astype(np.float32)
    pitch = 1.6 * diameter
    centres = [(i, j) for i in np.arange(pitch / 2, shape[0], pitch) for j in np.arange(pitch / 2, shape[1], pitch)]
    for centre_y, centre_x in centres:
        distance = np.hypot(y - centre_y, x - centre_x)
        pixels += 1 / (1 + np.exp((distance - diameter / 2) / (diameter / 16)))
    return pixels, len(centres)


@functools.cache
def model(*, dynamics="v3", size_model=False, n_style=N_STYLE, fixed_tile=False, n_channels=2, side=None):
    """The file's bytes; `side` is that of tiles. Skips the test where the exporter's needs are not installed."""
    import pytest

    pytest.importorskip("onnx")
    from cellrt_export import onnxfile

    offset = np.arange(-10, 11, dtype=np.float64)
    bell = np.exp(-(offset**2) / (2 * 4.0**2))
    slope = offset * bell  # a convolution of ONNX is a correlation: bright pixels ahead give a positive flow
    kernel = np.zeros((2, n_channels, 21, 21), np.float32)
    kernel[0, 0], kernel[1, 0] = slope[:, None] * bell, slope * bell[:, None]
    brightness = np.zeros((1, n_channels, 1, 1), np.float32)
    brightness[0, 0] = 10
    graph = onnxfile.GraphBuilder()
    climb = graph.node("Conv", "climb", ["image", graph.constant("slopes", kernel)], pads=[10, 10, 10, 10])
    steepness = graph.node("ReduceL2", "steepness", [climb], axes=[1], keepdims=1)
    some = graph.node("Add", "some_steepness", [steepness, graph.scalar(1.0)])
    direction = graph.node("Div", "direction", [climb, some])
    flow = graph.node("Mul", "flow", [direction, graph.scalar(5.0)])
    bias = graph.constant("bias", np.array([-5], np.float32))
    logit = graph.node("Conv", "logit", ["image", graph.constant("brightness", brightness), bias])
    graph.node("Concat", "maps", [flow, logit], axis=1)
    if n_style:
        mixture = np.random.default_rng(0).normal(size=(n_style, 3, 1, 1)).astype(np.float32)
        squares = graph.node("Abs", "magnitudes", ["maps"])
        mixed = graph.node("Conv", "mixed", [squares, graph.constant("mixture", mixture)])
        mean = graph.node("ReduceMean", "mean", [mixed], axes=[2, 3], keepdims=0)
        length = graph.node("ReduceL2", "length", [mean], axes=[1], keepdims=1)
        graph.node("Div", "style", [mean, length])
    side = side or (256 if fixed_tile else 224)
    zeros = (0.0,) * max(n_style, 1)
    size = SizeModelSpec(weights=zeros, style_mean=zeros, diam_mean=DIAMETER, offset=0.3)
    manifest = Manifest(
        name="gradient",
        head=FlowSpec(
            dynamics=dynamics,
            diam_mean=DIAMETER,
            diam_labels=DIAMETER,
            tile=side,
            fixed_tile=fixed_tile,
            n_style=n_style,
            size_model=size if size_model else None,
        ),
        input=InputSpec(n_channels=n_channels),
        normalize=Normalize99Spec(rules=dynamics),
        tile=TileSpec(multiple=(8, 8), receptive_field=(6, 6), halo=(8, 8)),
        source=SourceSpec(upstream="cellrt", name="gradient", sha256="0" * 64, licence="BSD-3-Clause"),
    )
    return onnxfile.assemble(
        graph,
        n_channels=n_channels,
        n_maps=3,
        grid=(1, 1),
        version="0",
        manifest=manifest,
        n_style=n_style,
        side=side if fixed_tile else None,
    )
