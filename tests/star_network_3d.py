"""A 3D star network without training: every voxel on the grid is a candidate as strong as it is bright.

Its maps know one voxel each, computed without sums, so that tiles cannot matter to a bit: enough to try everything
around a network.
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
N_RAYS = 24


def volume(shape=(40, 90, 110), seed=0, dtype=np.uint16):
    """Bright spots of all sizes on noise, (Z, Y, X), some of which the network takes for cells."""
    random = np.random.default_rng(seed)
    smooth = random.random([side // 6 + 2 for side in shape])
    for axis, side in enumerate(shape):
        smooth = np.repeat(smooth, 6, axis)[(slice(None),) * axis + (slice(side),)]
    return (1000 * smooth**3 + 20 * random.random(shape)).astype(dtype)


def head(n_classes=None):
    """What its maps mean; skips the test where the exporter's needs are missing."""
    import pytest

    pytest.importorskip("onnx")
    from cellrt_export.star_rays import rays

    return Star3DSpec(
        n_rays=N_RAYS,
        grid=GRID,
        prob_thresh=0.5,
        nms_thresh=0.3,
        rays=rays({"name": "Rays_GoldenSpiral", "kwargs": {"n": N_RAYS}}, None),
        anisotropy=None,
        n_classes=n_classes,
    )


@functools.cache
def model(*, n_channels=1, n_classes=None, size=3.0):
    """The file's bytes; `size` is the least length of a ray. Skips the test where the exporter's needs are missing."""
    import pytest

    pytest.importorskip("onnx")
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
    spec = head(n_classes)
    manifest = Manifest(
        name="bright",
        head=spec,
        input=InputSpec(n_channels=n_channels, axes="ZYX"),
        normalize=PercentileSpec(low=1, high=99.8),
        tile=TileSpec(multiple=(2, 4, 4), receptive_field=(5, 10, 9), halo=(5, 10, 9)),
        source=SourceSpec(upstream="cellrt", name="bright", sha256="0" * 64, licence="BSD-3-Clause"),
        memory=MemorySpec(bytes_per_pixel=100.0, weights=1000),
    )
    return onnxfile.assemble(
        graph, n_channels=n_channels, n_maps=spec.n_maps, grid=GRID, version="0", manifest=manifest
    )
