"""The weights of a Cellpose 1 to 3 network (CPnet) -> one self-describing ONNX file.

The table of contents of this exporter: torch_weights reads the file and size_model the one beside it, cpnet_graph makes
layers and nodes, calibration makes 8 bits of them, receptive_field bounds, peak_memory adds up, selftest runs the
recipe, onnxfile checks and writes, summary says what was done. torch is needed to read the weights, and for nothing
else.
"""

from __future__ import annotations

import math
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import cellrt
from cellrt.errors import CellrtError, ModelError
from cellrt.heads import flow
from cellrt.manifest import FlowSpec, InputSpec, Manifest, Normalize99Spec, SourceSpec, TileSpec
from cellrt.session import Session
from cellrt_export import (
    calibration,
    cpnet_graph,
    onnxfile,
    peak_memory,
    receptive_field,
    selftest,
    size_model,
    torch_weights,
)
from cellrt_export.cpnet_graph import CpnetSizes
from cellrt_export.onnxfile import GraphBuilder
from cellrt_export.summary import ExportSummary, by
from cellrt_export.torch_weights import TorchWeights

_TILE = 224  # pixels: side of Cellpose's tiles
_LICENCE_NOTE = "Cellpose's own weights are CC-BY-NC; say what yours are with --licence"


def export(
    weights: str | Path,
    output: str | Path,
    *,
    force: bool = False,
    size_model_file: str | Path | None = None,
    normalize: Normalize99Spec | None = None,
    name: str | None = None,
    licence: str | None = None,
    description: str = "",
    precision: str = "fp32",
    calibrate: calibration.Images | None = None,
    calibrate_diameter: float | None = None,
    diam_mean: float | None = None,
    flow_threshold: float | None = None,
    cellprob_threshold: float | None = None,
    min_size: int | None = None,
    tiles: str = FlowSpec.tiles,
    resample: bool = FlowSpec.resample,
) -> ExportSummary:
    """Export a Cellpose 1 to 3 network as one ONNX file that says everything about itself.

    Parameters
    ----------
    weights : path
        What Cellpose saves or downloads, such as "cyto3" or a model of your own. Nothing in it is run.
    output : path
        The file to write; its folder must exist.
    force : bool
        Replace a file that is there.
    size_model_file : path, optional
        The `*_size.npy` beside the weights, by which unknown diameters are estimated. Default: none.
    normalize : Normalize99Spec, optional
        How images are normalised by default. Default: percentiles 1 and 99 of each channel.
    name : str, optional
        What the model calls itself. Default: the file's name.
    licence : str, optional
        Licence of the weights. Default: "not stated".
    description : str, optional
        What the model finds, in a few words.
    precision : "fp32", "fp16" or "int8"
        How weights are stored: as they are, or rounded to float16 in half the space, with arithmetic in float32 in
        both; or as int8 in a quarter of it, with arithmetic in integers but for the last layers. What that costs in
        accuracy and gains in time on this machine, the summary says.
    calibrate : sequence of paths or arrays, with "int8" only
        Images of the kind that will be segmented, as `FlowModel.segment` takes them: about 8, at least 2. They tell
        the range of every layer. A quarter of them, the last at least, is held back to measure on.
    calibrate_diameter : float, optional
        Of the objects in these images, in pixels. Default: as `FlowModel.segment` has it.
    diam_mean : float, optional
        Pixels: the diameter that objects were scaled to for training. Default: as the weights say. Cellpose's own
        models have 30, whatever their files say, and 17 for "nuclei".
    flow_threshold, cellprob_threshold, min_size : number, optional
        What segmentation takes by default. Default: those of Cellpose, 0.4, 0 and 15.
    tiles, resample : "upstream" or "large", bool
        The same, see `FlowModel.segment`. Default: as Cellpose does, "upstream" and True; "large" and False are faster.

    Returns
    -------
    ExportSummary
        `str()` of it is a table.

    Raises
    ------
    FileError
        If a file is missing or cannot be written, or `output` is there and not `force`.
    ModelError
        If a file is damaged or holds another network than CPnet, or the size model does not fit the weights.
    ImageError
        If an image to calibrate with does not fit the network.
    CellrtError
        If torch is not installed, an option has no such value, or there are too few images to calibrate with.

    Notes
    -----
    With `precision` "fp32" the maps and styles equal those of Cellpose 3.1 to float32 rounding. Source: Stringer et
    al., "Cellpose: a generalist algorithm for cellular segmentation", Nature Methods 2021;
    https://github.com/MouseLand/cellpose.
    """
    start = time.perf_counter()
    weights, output = Path(weights), Path(output)
    onnxfile.require_free(output, force=force)
    onnxfile.require_precision(precision, calibrate)
    for key, value in (
        ("diam_mean", diam_mean),
        ("calibrate_diameter", calibrate_diameter),
        ("flow_threshold", flow_threshold),
        ("cellprob_threshold", cellprob_threshold),
        ("min_size", min_size),
    ):
        if value is not None and not math.isfinite(value):
            raise CellrtError(f"expected {key} to be a finite number, got {value!r}; leave it out for the default")

    stored = torch_weights.read(weights)
    network = cpnet_graph.sizes(stored)
    graph = onnxfile.in_precision(cpnet_graph.build(network, stored), precision)
    scaled_to, diam_labels = _diameters(stored, diam_mean)
    head = FlowSpec(
        dynamics="v3",
        diam_mean=scaled_to,
        diam_labels=diam_labels,
        tile=_TILE,
        n_style=network.n_style,
        flow_threshold=float(FlowSpec.flow_threshold if flow_threshold is None else flow_threshold),
        cellprob_threshold=float(FlowSpec.cellprob_threshold if cellprob_threshold is None else cellprob_threshold),
        min_size=int(FlowSpec.min_size if min_size is None else min_size),
        tiles=tiles,
        resample=resample,
        size_model=None if size_model_file is None else size_model.read(size_model_file, n_style=network.n_style),
    )

    def assemble(graph: GraphBuilder, manifest: Manifest | None) -> bytes:
        return onnxfile.assemble(
            graph,
            n_channels=network.n_channels,
            n_maps=head.n_maps,
            grid=head.grid,
            version=cellrt.__version__,
            manifest=manifest,
            n_style=network.n_style,
        )

    tile = _tile_spec(network)
    manifest = Manifest(
        name=name or weights.resolve().stem,
        head=head,
        input=InputSpec(n_channels=network.n_channels),
        normalize=normalize or Normalize99Spec(),
        tile=tile,
        source=SourceSpec(
            upstream="cellpose",
            name=weights.resolve().name,
            sha256=stored.sha256,
            licence=licence or "not stated",
            exporter=f"cellrt {cellrt.__version__}",
        ),
        description=description,
    )
    details = _details(network, head, tile, precision)
    if calibrate is not None:
        graph, cost = calibration.quantize_graph(
            graph, assemble, manifest, calibrate, keep=cpnet_graph.LAST_NODES, diameter=calibrate_diameter
        )
        details |= cost.rows()
    # On the CPU: the reference that every other provider is compared with.
    recorded = selftest.record(
        Session(assemble(graph, None), providers=["cpu"]).run,
        partial(flow.decode, spec=head),
        n_channels=network.n_channels,
        multiple=tile.multiple,
        tolerance=selftest.TOLERANCES[precision],
    )
    memory = peak_memory.spec(graph, n_channels=network.n_channels, multiple=tile.multiple, outputs=("maps", "style"))
    manifest = replace(manifest, memory=memory, selftest=recorded)
    model = assemble(graph, manifest)
    onnxfile.check(model, Session(model, providers=["cpu"]).run, manifest=manifest)
    onnxfile.write(model, output, force=force)
    return ExportSummary(
        output=output,
        manifest=manifest,
        weights_file=stored.file_name,
        n_parameters=sum(math.prod(shape) for _, shape in network.shapes()),
        n_nodes=len(graph.nodes),
        n_bytes=len(model),
        seconds=time.perf_counter() - start,
        details=details,
        licence_note="" if licence else _LICENCE_NOTE,
    )


def _diameters(stored: TorchWeights, diam_mean: float | None) -> tuple[float, float]:
    """What objects were scaled to for training, and what their mean diameter was before; pixels."""
    scaled_to, before = (
        float(stored.arrays[key][0]) if key in stored.arrays else None for key in cpnet_graph.DIAMETERS
    )
    scaled_to = scaled_to if diam_mean is None else float(diam_mean)
    if scaled_to is None:
        raise ModelError(
            f"expected diam_mean in {stored.file_name}, got weights of Cellpose 1, which have none; say it with "
            "--diam-mean (Cellpose's own models: 30, and 17 for nuclei)"
        )
    return scaled_to, scaled_to if before is None else before


def _tile_spec(network: CpnetSizes) -> TileSpec:
    """Legal sizes, and how far influence reaches, apart from the style.

    The style is a mean over the whole input, so every pixel reaches every other by it, and an impulse measures nothing
    but that. What is bounded here are the convolutions, by which a cut at the edge of a tile is seen.
    """
    multiple = (network.multiple, network.multiple)
    halo = receptive_field.halo(network.steps(), None, grid=(1, 1), multiple=multiple)
    return TileSpec(multiple=multiple, receptive_field=halo, halo=halo)


def _details(network: CpnetSizes, head: FlowSpec, tile: TileSpec, precision: str) -> dict[str, str]:
    """Rows of the summary."""
    size = head.size_model
    return {
        "head": "flow, dynamics of Cellpose 3",
        "diameters": f"{head.diam_mean:.4g} pixels in the network, {head.diam_labels:.4g} in its training images",
        "network": f"CPnet, {len(network.widths)} levels of {', '.join(map(str, network.widths))} channels, style",
        "weights": onnxfile.PRECISIONS[precision],
        "size model": "none (give it with --size-model)" if size is None else f"{len(size.weights)} weights",
        "receptive field": f"halo {by(tile.halo)} pixels; the style sees all of a tile",
        "thresholds": f"flow {head.flow_threshold:.4g}, cellprob {head.cellprob_threshold:.4g}, "
        f"at least {head.min_size} pixels",
    }
