"""`cellrt export ...`, which the runtime looks up by name, and `python -m cellrt_export ...`.

Exit codes: 0 exported (and verified, where that was asked for), 1 failed, 2 the command itself is wrong.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from cellrt.errors import CellrtError
from cellrt.manifest import PercentileSpec
from cellrt_export import stardist
from cellrt_export.verify import verify

OK, FAILED = 0, 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run `cellrt export` with the arguments after it; returns the exit code."""
    parser = argparse.ArgumentParser(prog="cellrt export", description="Export a trained model to one ONNX file.")
    add_arguments(parser)
    try:
        arguments = parser.parse_args(argv)
        low, high = arguments.percentiles
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
    return FAILED


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add one sub-command per upstream program."""
    upstreams = parser.add_subparsers(dest="upstream", required=True, metavar="UPSTREAM")
    star = upstreams.add_parser(
        "stardist", help="a StarDist 2D model folder", description="Export a StarDist 2D model folder; no TensorFlow."
    )
    star.add_argument("folder", type=Path, help="folder with config.json, thresholds.json and weights (*.h5)")
    star.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="the ONNX file to write")
    star.add_argument("--force", action="store_true", help="replace FILE if it is there")
    star.add_argument("--name", help="what the model calls itself (default: the folder's name)")
    star.add_argument("--licence", help="licence of the weights (default: not stated)")
    star.add_argument(
        "--percentiles",
        type=float,
        nargs=2,
        default=(1.0, 99.8),
        metavar=("LOW", "HIGH"),
        help="normalisation the network was trained with (default: 1 99.8)",
    )
    star.add_argument("--per-channel", action="store_true", help="percentiles of each channel, not of all jointly")
    star.add_argument("--prob-thresh", type=_threshold, metavar="P", help="instead of the one in thresholds.json")
    star.add_argument("--nms-thresh", type=_threshold, metavar="T", help="instead of the one in thresholds.json")
    star.add_argument(
        "--verify", type=Path, metavar="NPZ", help="compare with a recorded image, prob and dist of StarDist2D.predict"
    )


def run(arguments: argparse.Namespace) -> int:
    """Export as parsed arguments say; returns the exit code. Raises `CellrtError`."""
    low, high = arguments.percentiles
    summary = stardist.export(
        arguments.folder,
        arguments.output,
        force=arguments.force,
        normalize=PercentileSpec(low, high, joint=not arguments.per_channel),
        name=arguments.name,
        licence=arguments.licence,
        prob_thresh=arguments.prob_thresh,
        nms_thresh=arguments.nms_thresh,
    )
    print(summary)
    if arguments.verify is None:
        return OK
    differences = verify(arguments.output, arguments.verify)
    print(*differences, sep="\n")
    return OK if all(difference.passed for difference in differences) else FAILED


def _threshold(text: str) -> float:
    """A number in (0, 1)."""
    try:
        value = float(text)
    except ValueError:
        value = -1
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"expected a number between 0 and 1, got {text!r}")
    return value
