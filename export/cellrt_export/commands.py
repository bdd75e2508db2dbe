"""`cellrt export ...`, which the runtime looks up by name, and `python -m cellrt_export ...`.

Exit codes: 0 exported (and verified, where that was asked for), 1 failed, 2 the command itself is wrong.
"""

from __future__ import annotations

import argparse
import logging
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from cellrt.errors import CellrtError
from cellrt.manifest import FLOW_TILES, FlowSpec, Normalize99Spec, PercentileSpec
from cellrt_export.verify import verify

OK, FAILED = 0, 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run `cellrt export` with the arguments after it; returns the exit code."""
    parser = argparse.ArgumentParser(prog="cellrt export", description="Export a trained model to one ONNX file.")
    add_arguments(parser)
    try:
        arguments = parser.parse_args(argv)
        low, high = getattr(arguments, "percentiles", (0, 100))
        if not 0 <= low < high <= 100:
            parser.error(f"expected --percentiles 0 <= LOW < HIGH <= 100, got {low:g} {high:g}")
    except SystemExit as stop:  # argparse has said what is wrong, or printed its help
        return stop.code if isinstance(stop.code, int) else FAILED
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    try:
        return run(arguments)
    except CellrtError as error:
        print(f"cellrt export: {error}", file=sys.stderr)
    except OSError as error:  # such as a folder on the way that may not be entered
        print(f"cellrt export: expected to use {error.filename}, got {error.strerror or error}", file=sys.stderr)
    except ImportError as error:
        missing = "expected the requirements of the exporter to be installed"
        print(f'cellrt export: {missing}, got: {error}; run: pip install "cellrt[export]"', file=sys.stderr)
    return FAILED


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add one sub-command per upstream program."""
    upstreams = parser.add_subparsers(dest="upstream", required=True, metavar="UPSTREAM")

    star = upstreams.add_parser(
        "stardist",
        help="a StarDist model folder, 2D or 3D",
        description="Export a StarDist model folder, 2D or 3D; no TensorFlow.",
    )
    star.add_argument("folder", type=Path, help="folder with config.json, thresholds.json and weights (*.h5)")
    _add_common(star, default_name="the folder's name", recorded="image, prob and dist of StarDist's predict")
    _add_percentiles(star, 1.0, 99.8)
    star.add_argument("--per-channel", action="store_true", help="percentiles of each channel, not of all jointly")
    star.add_argument("--prob-thresh", type=_threshold, metavar="P", help="instead of the one in thresholds.json")
    star.add_argument("--nms-thresh", type=_threshold, metavar="T", help="instead of the one in thresholds.json")
    star.set_defaults(export=_stardist)

    network = upstreams.add_parser(
        "cellpose",
        help="the weights of a Cellpose 1, 2 or 3 network",
        description="Export the weights of a Cellpose 1, 2 or 3 network; needs torch to read them, and no Cellpose.",
    )
    network.add_argument("weights", type=Path, help="file that Cellpose saved or downloaded, such as cyto3")
    _add_common(network, default_name="the file's name", recorded="net_input, net_maps and net_style of its network")
    network.add_argument("--size-model", type=Path, metavar="NPY", help="the *_size.npy that estimates diameters")
    network.add_argument(
        "--diam-mean",
        type=_positive,
        metavar="PIXELS",
        help="diameter that objects were scaled to for training (default: as the weights say; Cellpose's own models: "
        "30, and 17 for nuclei)",
    )
    _add_percentiles(network, Normalize99Spec.low, Normalize99Spec.high)
    _add_flow_options(network)
    network.add_argument(
        "--tiles",
        choices=FLOW_TILES,
        default=FlowSpec.tiles,
        help="that images are cut into by default; large ones are faster and change cells here and there (default: "
        "%(default)s)",
    )
    network.add_argument(
        "--no-resample",
        dest="resample",
        action="store_false",
        help="follow flows at the network's resolution by default: faster",
    )
    network.set_defaults(export=_cellpose)

    sam = upstreams.add_parser(
        "cellpose-sam",
        help="the weights of Cellpose-SAM (Cellpose 4)",
        description="Export the weights of Cellpose-SAM (Cellpose 4); needs torch to read them, and no Cellpose.",
    )
    sam.add_argument("weights", type=Path, help="file that Cellpose 4 saved or downloaded, such as cpsam")
    _add_common(sam, default_name="the file's name", recorded="net_input and net_maps of its network")
    _add_flow_options(sam)
    sam.set_defaults(export=_cellpose_sam)


def run(arguments: argparse.Namespace) -> int:
    """Export as parsed arguments say; returns the exit code. Raises `CellrtError`."""
    print(arguments.export(arguments))
    if arguments.verify is None:
        return OK
    differences = verify(arguments.output, arguments.verify)
    print(*differences, sep="\n")
    return OK if all(difference.passed for difference in differences) else FAILED


# What each needs to be installed is imported when it is asked for.


def _stardist(arguments: argparse.Namespace) -> object:
    """Export a StarDist folder; returns the summary."""
    from cellrt_export import stardist

    low, high = arguments.percentiles
    return stardist.export(
        arguments.folder,
        arguments.output,
        force=arguments.force,
        normalize=PercentileSpec(low, high, joint=not arguments.per_channel),
        name=arguments.name,
        licence=arguments.licence,
        description=arguments.description,
        precision=arguments.precision,
        prob_thresh=arguments.prob_thresh,
        nms_thresh=arguments.nms_thresh,
    )


def _cellpose(arguments: argparse.Namespace) -> object:
    """Export a Cellpose 1 to 3 network; returns the summary."""
    from cellrt_export import cellpose

    low, high = arguments.percentiles
    return cellpose.export(
        arguments.weights,
        arguments.output,
        force=arguments.force,
        size_model_file=arguments.size_model,
        normalize=Normalize99Spec(low, high),
        name=arguments.name,
        licence=arguments.licence,
        description=arguments.description,
        precision=arguments.precision,
        diam_mean=arguments.diam_mean,
        flow_threshold=arguments.flow_threshold,
        cellprob_threshold=arguments.cellprob_threshold,
        min_size=arguments.min_size,
        tiles=arguments.tiles,
        resample=arguments.resample,
    )


def _cellpose_sam(arguments: argparse.Namespace) -> object:
    """Export Cellpose-SAM; returns the summary."""
    from cellrt_export import cellpose_sam

    return cellpose_sam.export(
        arguments.weights,
        arguments.output,
        force=arguments.force,
        name=arguments.name,
        licence=arguments.licence,
        description=arguments.description,
        precision=arguments.precision,
        flow_threshold=arguments.flow_threshold,
        cellprob_threshold=arguments.cellprob_threshold,
        min_size=arguments.min_size,
    )


def _add_common(parser: argparse.ArgumentParser, *, default_name: str, recorded: str) -> None:
    """Options that every sub-command has."""
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="the ONNX file to write")
    parser.add_argument("--force", action="store_true", help="replace FILE if it is there")
    parser.add_argument("--name", help=f"what the model calls itself (default: {default_name})")
    parser.add_argument("--licence", help="licence of the weights (default: not stated)")
    parser.add_argument("--description", default="", help="what the model finds, in a few words")
    parser.add_argument(
        "--precision",
        choices=("fp32", "fp16"),
        default="fp32",
        help="how weights are stored: fp16 takes half the space, rounded (default: fp32)",
    )
    parser.add_argument("--verify", type=Path, metavar="NPZ", help=f"compare with a recorded {recorded}")


def _add_percentiles(parser: argparse.ArgumentParser, low: float, high: float) -> None:
    """Percentiles of the normalisation."""
    parser.add_argument(
        "--percentiles",
        type=float,
        nargs=2,
        default=(low, high),
        metavar=("LOW", "HIGH"),
        help=f"normalisation the network was trained with (default: {low:g} {high:g})",
    )


def _add_flow_options(parser: argparse.ArgumentParser) -> None:
    """What segmentation with a flow model takes by default."""
    parser.add_argument(
        "--flow-threshold", type=_at_least_0, metavar="E", help="largest error of a mask's flow (default: 0.4)"
    )
    parser.add_argument(
        "--cellprob-threshold", type=_finite, metavar="L", help="least logit of a pixel inside a cell (default: 0)"
    )
    parser.add_argument("--min-size", type=int, metavar="N", help="pixels of the smallest mask (default: 15)")


def _threshold(text: str) -> float:
    """A number in (0, 1)."""
    return _number(text, lambda value: 0 < value < 1, "between 0 and 1")


def _positive(text: str) -> float:
    """A number above 0."""
    return _number(text, lambda value: value > 0, "above 0")


def _at_least_0(text: str) -> float:
    """A number of at least 0."""
    return _number(text, lambda value: value >= 0, "of at least 0")


def _finite(text: str) -> float:
    """A number."""
    return _number(text, lambda value: True, "that is finite")


def _number(text: str, fits: Callable[[float], bool], wanted: str) -> float:
    """A finite number that fits."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or not fits(value):
        raise argparse.ArgumentTypeError(f"expected a number {wanted}, got {text!r}")
    return value
