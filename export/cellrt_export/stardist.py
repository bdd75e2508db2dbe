"""A StarDist model folder, 2D or 3D -> one self-describing ONNX file. No TensorFlow, no torch.

The table of contents of this exporter: star_folder reads the folder, star_rays makes the rays of a 3D model, keras_h5
reads the weights, star_graph and star_resnet list layers, star_graph makes nodes of them, receptive_field measures,
peak_memory adds up, selftest runs the recipe, onnxfile checks and writes, summary says what was done.
"""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import cellrt
from cellrt.errors import CellrtError
from cellrt.heads import star, star_3d
from cellrt.instances import Instances
from cellrt.manifest import AXES, InputSpec, Manifest, PercentileSpec, SourceSpec, Star3DSpec, StarSpec, TileSpec, pair
from cellrt.session import Session
from cellrt_export import onnxfile, peak_memory, receptive_field, selftest, star_graph, star_resnet
from cellrt_export.keras_h5 import read
from cellrt_export.star_folder import (
    ResnetConfig,
    StarConfig,
    Thresholds,
    choose_weights,
    read_config,
    read_space,
    read_thresholds,
)
from cellrt_export.summary import ExportSummary, by


def export(
    folder: str | Path,
    output: str | Path,
    *,
    force: bool = False,
    normalize: PercentileSpec | None = None,
    name: str | None = None,
    licence: str | None = None,
    description: str = "",
    precision: str = "fp32",
    prob_thresh: float | None = None,
    nms_thresh: float | None = None,
) -> ExportSummary:
    """Export a StarDist model folder, 2D or 3D, as one ONNX file that says everything about itself.

    Parameters
    ----------
    folder : path
        With config.json, weights (*.h5 or *.hdf5) and, optionally, thresholds.json, as StarDist writes them.
    output : path
        The file to write; its folder must exist.
    force : bool
        Replace a file that is there.
    normalize : PercentileSpec, optional
        The normalisation that the network was trained with. Default: percentiles 1 and 99.8, joint over channels.
    name : str, optional
        What the model calls itself. Default: the folder's name.
    licence : str, optional
        Licence of the weights. Default: "not stated".
    description : str, optional
        What the model finds, in a few words.
    precision : "fp32" or "fp16"
        How weights are stored: as they are, or rounded to float16 in half the space. Arithmetic is float32 in both.
    prob_thresh, nms_thresh : float, optional
        In (0, 1), instead of those in thresholds.json.

    Returns
    -------
    ExportSummary
        `str()` of it is a table.

    Raises
    ------
    FileError
        If a file is missing or cannot be written, or `output` is there and not `force`.
    ModelError
        If the folder is not a StarDist model, is damaged, or its weights and configuration do not fit.
    CellrtError
        If an option has no such value.

    Notes
    -----
    With `precision` "fp32" the maps equal those of StarDist 0.9.2 to float32 rounding. Source: Schmidt et al., "Cell
    Detection with Star-convex Polygons", MICCAI 2018; Weigert et al., "Star-convex Polyhedra for 3D Object Detection
    and Segmentation in Microscopy", WACV 2020; https://github.com/stardist/stardist.
    """
    start = time.perf_counter()
    folder, output = Path(folder), Path(output)
    onnxfile.require_free(output, force=force)
    onnxfile.require_precision(precision)
    for key, value in (("prob_thresh", prob_thresh), ("nms_thresh", nms_thresh)):
        if value is not None and not 0 < value < 1:
            raise CellrtError(f"expected {key} in (0, 1), got {value!r}; leave it out for the folder's own")

    config = read_config(folder)
    thresholds = read_thresholds(folder)
    weights = read(choose_weights(folder))
    if isinstance(config, ResnetConfig):
        layers = star_resnet.network(config)
        kernels = star_graph.match_weights(layers, star_resnet.in_running_order(layers, weights))
    else:
        layers = star_graph.network(config)
        kernels = star_graph.match_weights(layers, weights)
    graph = star_graph.build(layers, kernels, keras_version=weights.keras_version)
    graph = onnxfile.in_precision(graph, precision)

    thresholds = Thresholds(
        prob=thresholds.prob if prob_thresh is None else prob_thresh,
        nms=thresholds.nms if nms_thresh is None else nms_thresh,
    )
    head = _head(folder, config, thresholds)

    def assemble(manifest: Manifest | None) -> bytes:
        return onnxfile.assemble(
            graph,
            n_channels=config.n_channel_in,
            n_maps=head.n_maps,
            grid=config.grid,
            version=cellrt.__version__,
            manifest=manifest,
        )

    # On the CPU: the reference that every other provider is compared with.
    run = Session(assemble(None), providers=["cpu"]).run
    tile = _tile_spec(config, layers, run)
    manifest = Manifest(
        name=name or folder.resolve().name,
        head=head,
        input=InputSpec(n_channels=config.n_channel_in, axes=AXES[len(config.grid) - 2]),
        normalize=normalize or PercentileSpec(),
        tile=tile,
        source=SourceSpec(
            upstream="stardist",
            name=folder.resolve().name,
            sha256=weights.sha256,
            licence=licence or "not stated",
            exporter=f"cellrt {cellrt.__version__}",
        ),
        description=description,
        memory=peak_memory.spec(
            graph,
            n_channels=config.n_channel_in,
            multiple=tile.multiple,
            copies=peak_memory.CONVOLUTIONS if isinstance(head, StarSpec) else peak_memory.MATRICES[precision],
        ),
        selftest=selftest.record(run, partial(_decode, head), n_channels=config.n_channel_in, multiple=tile.multiple),
    )
    model = assemble(manifest)
    onnxfile.check(model, Session(model, providers=["cpu"]).run, manifest=manifest)
    onnxfile.write(model, output, force=force)
    return ExportSummary(
        output=output,
        manifest=manifest,
        weights_file=weights.file_name,
        n_parameters=weights.n_parameters,
        n_nodes=len(graph.nodes),
        n_bytes=len(model),
        seconds=time.perf_counter() - start,
        details=_details(config, head, tile, precision),
    )


def _head(folder: Path, config: StarConfig | ResnetConfig, thresholds: Thresholds) -> StarSpec | Star3DSpec:
    """What the maps mean."""
    if len(config.grid) == 2:
        return StarSpec(
            n_rays=config.n_rays,
            grid=pair(config.grid),
            prob_thresh=thresholds.prob,
            nms_thresh=thresholds.nms,
            n_classes=config.n_classes,
        )
    space = read_space(folder)
    z, y, x = config.grid
    return Star3DSpec(
        n_rays=config.n_rays,
        grid=(z, y, x),
        prob_thresh=thresholds.prob,
        nms_thresh=thresholds.nms,
        rays=space.rays,
        anisotropy=space.anisotropy,
        n_classes=config.n_classes,
    )


def _tile_spec(config: StarConfig | ResnetConfig, layers: star_graph.Network, run: onnxfile.RunAll) -> TileSpec:
    """Legal sizes, and how far influence reaches."""
    grid, multiple = config.grid, config.multiple
    halo = receptive_field.halo(layers.trunk, layers.features, grid=grid, multiple=multiple)
    measured = receptive_field.measure(
        lambda image: run(image)["maps"], n_channels=config.n_channel_in, grid=grid, multiple=multiple
    )
    # A network that an impulse does not move: StarDist then measures one with random weights, we take the bound.
    return TileSpec(multiple=multiple, receptive_field=measured or halo, halo=halo)


def _decode(head: StarSpec | Star3DSpec, maps: NDArray[np.float32]) -> Instances:
    """The objects of whole maps."""
    *depth, height, width = (side * step for side, step in zip(maps.shape[1:], head.grid, strict=True))
    if isinstance(head, StarSpec):
        return star.decode(maps, head, shape=(height, width))
    return star_3d.decode(maps, head, shape=(depth[0], height, width))


def _details(
    config: StarConfig | ResnetConfig, head: StarSpec | Star3DSpec, tile: TileSpec, precision: str
) -> dict[str, str]:
    """Rows of the summary."""
    classes = "" if head.n_classes is None else f", {head.n_classes} classes"
    return {
        "head": f"{head.kind}, {head.n_rays} rays, grid {by(head.grid)}{classes}",
        **({} if isinstance(head, StarSpec) else {"rays": _rays(head)}),
        "network": _described(config),
        "weights": onnxfile.PRECISIONS[precision],
        "receptive field": f"{by(tile.receptive_field)} pixels measured, halo {by(tile.halo)} pixels",
        "thresholds": f"prob {head.prob_thresh:.4g}, nms {head.nms_thresh:.4g}",
    }


def _rays(head: Star3DSpec) -> str:
    """The rays of a 3D model in a few words."""
    sizes = head.anisotropy
    return f"{head.rays.name}, anisotropy {'not stated' if sizes is None else ' x '.join(f'{s:g}' for s in sizes)}"


def _described(config: StarConfig | ResnetConfig) -> str:
    """The architecture in a few words."""
    norm = ", batch normalisation (folded)"
    if isinstance(config, ResnetConfig):
        return (
            f"ResNet, {config.resnet_n_blocks} blocks, {config.resnet_n_filter_base} filters, kernel "
            f"{by(config.resnet_kernel_size)}, {config.resnet_activation}{norm if config.resnet_batch_norm else ''}"
        )
    return (
        f"U-Net, depth {config.unet_n_depth}, {config.unet_n_filter_base} filters, kernel "
        f"{by(config.unet_kernel_size)}, pool {by(config.unet_pool)}, {config.unet_activation}"
        f"{norm if config.unet_batch_norm else ''}"
    )
