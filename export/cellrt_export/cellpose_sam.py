"""The weights of Cellpose-SAM (Cellpose 4's CPSAM) -> one self-describing ONNX file.

The table of contents of this exporter: torch_weights reads the file, sam_graph makes layers and nodes, peak_memory adds
up, selftest runs the recipe, onnxfile checks and writes, summary says what was done. torch is needed to read the
weights, and for nothing else.

The network has a gigabyte of weights. precision="fp16" stores them in half of that: as float16, cast to float32 when
the model is opened, and all arithmetic in float32. It saves space on disk, not memory, and no time. Arithmetic in
float16 would gain nothing on a CPU either, for which ONNX Runtime has none: it casts before and after every operator
(benchmarks/sam_export.py compares).
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import cellrt
from cellrt.errors import CellrtError, ModelError
from cellrt.heads import flow
from cellrt.manifest import FlowSpec, InputSpec, Manifest, MemorySpec, Normalize99Spec, SourceSpec, TileSpec
from cellrt.session import Session
from cellrt_export import onnxfile, peak_memory, sam_graph, selftest, torch_weights
from cellrt_export.sam_graph import SamSizes
from cellrt_export.summary import ExportSummary

_LICENCE_NOTE = "Cellpose's own models were trained on CC-BY-NC data; say what yours are with --licence"
_DIAMETER = 30.0  # pixels: what Cellpose 4 brings objects to; one that is unknown counts as this, so nothing is resized


def export(
    weights: str | Path,
    output: str | Path,
    *,
    force: bool = False,
    name: str | None = None,
    licence: str | None = None,
    description: str = "",
    precision: str = "fp32",
    flow_threshold: float | None = None,
    cellprob_threshold: float | None = None,
    min_size: int | None = None,
) -> ExportSummary:
    """Export Cellpose-SAM, as published or fine-tuned, as one ONNX file that says everything about itself.

    Parameters
    ----------
    weights : path
        What Cellpose 4 saves or downloads: "cpsam", or a model of your own.
    output : path
        The file to write; its folder must exist.
    force : bool
        Replace a file that is there.
    name : str, optional
        What the model calls itself. Default: the file's name.
    licence : str, optional
        Licence of the weights. Default: "not stated".
    description : str, optional
        What the model finds, in a few words.
    precision : "fp32" or "fp16"
        How weights are stored: as they are, or rounded to float16 in half the space. Arithmetic is float32 in both.
    flow_threshold, cellprob_threshold, min_size : number, optional
        What segmentation takes by default. Default: those of Cellpose, 0.4, 0 and 15.

    Returns
    -------
    ExportSummary
        `str()` of it is a table.

    Raises
    ------
    FileError
        If a file is missing or cannot be written, or `output` is there and not `force`.
    ModelError
        If the file is damaged or holds another network than Cellpose-SAM.
    CellrtError
        If torch is not installed, or an option has no such value.

    Notes
    -----
    The maps equal those of Cellpose 4.2 in float32 (``use_bfloat16=False``) to rounding. Cellpose itself computes in
    bfloat16 by default, which is further from float32 than ``precision="fp16"`` is. Source: Pachitariu et al.,
    "Cellpose-SAM", bioRxiv 2025; https://github.com/MouseLand/cellpose.
    """
    start = time.perf_counter()
    weights, output = Path(weights), Path(output)
    onnxfile.require_free(output, force=force)
    if precision == "int8":
        raise CellrtError(
            "expected precision to be one of fp32, fp16 for Cellpose-SAM, got 'int8': what 8 bits cost its transformer "
            "has not been measured; choose fp16 for a smaller file"
        )
    onnxfile.require_precision(precision)
    for key, value in (
        ("flow_threshold", flow_threshold),
        ("cellprob_threshold", cellprob_threshold),
        ("min_size", min_size),
    ):
        if value is not None and not math.isfinite(value):
            raise CellrtError(f"expected {key} to be a finite number, got {value!r}; leave it out for Cellpose's own")

    with onnxfile.staging(output) as staged:
        network = _save(weights, staged, precision)
        side = network.sizes.side
        head = FlowSpec(
            dynamics="v4",
            diam_mean=_DIAMETER,
            diam_labels=_DIAMETER,
            tile=side,
            fixed_tile=True,
            flow_threshold=float(FlowSpec.flow_threshold if flow_threshold is None else flow_threshold),
            cellprob_threshold=float(FlowSpec.cellprob_threshold if cellprob_threshold is None else cellprob_threshold),
            min_size=int(FlowSpec.min_size if min_size is None else min_size),
        )
        manifest = Manifest(
            name=name or weights.resolve().name.removesuffix(".pth"),
            head=head,
            description=description,
            input=InputSpec(n_channels=network.sizes.n_channels),
            normalize=Normalize99Spec(rules="v4"),
            # every pixel of a tile knows of every other, and of nothing beyond
            tile=TileSpec(multiple=(side, side), receptive_field=(side, side), halo=(side, side)),
            memory=network.memory,
            source=SourceSpec(
                upstream="cellpose-sam",
                name=weights.resolve().name,
                sha256=network.sha256,
                licence=licence or "not stated",
                exporter=f"cellrt {cellrt.__version__}",
            ),
        )
        manifest = _complete(staged, manifest, head)
        n_bytes = onnxfile.publish(staged, output, force=force)
    return ExportSummary(
        output=output,
        manifest=manifest,
        weights_file=network.file_name,
        n_parameters=network.n_parameters,
        n_nodes=network.n_nodes,
        n_bytes=n_bytes,
        seconds=time.perf_counter() - start,
        details=_details(network.sizes, head, precision),
        licence_note="" if licence else _LICENCE_NOTE,
    )


@dataclass(frozen=True)
class _Network:
    """What is to be known of a network whose weights are no longer in memory."""

    sizes: SamSizes
    file_name: str
    sha256: str
    n_parameters: int
    n_nodes: int
    memory: MemorySpec


def _save(weights: Path, path: Path, precision: str) -> _Network:
    """Read the weights and write the graph."""
    stored = torch_weights.read(weights)
    _require_sam(stored.arrays, stored.file_name)
    sizes = sam_graph.read_sizes(stored.shapes)
    graph = onnxfile.in_precision(sam_graph.build(stored.arrays, sizes), precision)
    onnxfile.save(
        graph,
        path,
        n_channels=sizes.n_channels,
        n_maps=sam_graph.N_MAPS,
        grid=(1, 1),
        version=cellrt.__version__,
        side=sizes.side,
    )
    memory = peak_memory.spec(
        graph,
        n_channels=sizes.n_channels,
        multiple=(sizes.side, sizes.side),
        copies=peak_memory.MATRICES[precision],
    )
    n_parameters = sum(stored.arrays[key].size for key, _ in sizes.shapes())
    return _Network(sizes, stored.file_name, stored.sha256, n_parameters, len(graph.nodes), memory)


def _complete(path: Path, manifest: Manifest, head: FlowSpec) -> Manifest:
    """Run the self-test, add the manifest to the file and check the file; returns the manifest."""
    # On the CPU: the reference that every other provider is compared with. One session: it holds a gigabyte.
    run = Session(path, providers=["cpu"]).run
    decode = partial(flow.decode, spec=head)
    n_channels, multiple = manifest.input.n_channels, manifest.tile.multiple
    manifest = replace(manifest, selftest=selftest.record(run, decode, n_channels=n_channels, multiple=multiple))
    onnxfile.describe(path, manifest)
    onnxfile.check(path, run, manifest=manifest)
    return manifest


def _require_sam(weights: Mapping[str, object], file_name: str) -> None:
    """Refuse other networks by what only they have."""
    if "encoder.cls_token" in weights:
        raise ModelError(
            f"expected the weights of Cellpose-SAM, got those of CPDINO in {file_name}, which is not supported; use a "
            "Cellpose-SAM model"
        )
    if "output.2.weight" in weights or any(key.startswith("downsample.") for key in weights):
        raise ModelError(
            f"expected the weights of Cellpose-SAM, got those of Cellpose 1 to 3 in {file_name}; run: cellrt export "
            "cellpose"
        )
    if "W2" not in weights:
        names = ", ".join(sorted(weights)[:3])
        raise ModelError(
            f"expected the weights of Cellpose-SAM, got another network in {file_name} ({names}, ...); use a file that "
            "Cellpose 4 wrote"
        )


def _details(sizes: SamSizes, head: FlowSpec, precision: str) -> dict[str, str]:
    """Rows of the summary."""
    return {
        "head": f"flow, dynamics of Cellpose 4, objects of about {head.diam_mean:g} pixels",
        "network": f"vision transformer, {sizes.depth} blocks, {sizes.width} wide, {sizes.n_heads} heads, "
        f"patches of {sizes.patch} x {sizes.patch} pixels",
        "weights": onnxfile.PRECISIONS[precision],
        "tile": f"{sizes.side} x {sizes.side} pixels, no other size",
        "thresholds": f"flow {head.flow_threshold:.4g}, cellprob {head.cellprob_threshold:.4g}, "
        f"at least {head.min_size} pixels",
    }
