"""`cellrt train star|flow`: what may be said, and what a run is made of that.

Exit codes: 0 trained and exported, 1 failed, 2 the command itself is wrong, 130 stopped by Ctrl-C: the same command
goes on from the last checkpoint.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from cellrt.catalogue import bundled_models
from cellrt.errors import CellrtError
from cellrt.manifest import FlowSpec, Normalize99Spec, PercentileSpec, StarSpec
from cellrt_export import cpnet, onnx_graph, star_net
from cellrt_export.cpnet import CPNet
from cellrt_export.star_folder import Thresholds, read_thresholds
from cellrt_export.training.augment import Augmentation
from cellrt_export.training.flow import FlowKind
from cellrt_export.training.loop import Plan
from cellrt_export.training.run import ImageSet, Kind, Outcome, run
from cellrt_export.training.star import StarKind

OK, FAILED, INTERRUPTED = 0, 1, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run `cellrt train` with the arguments after it; returns the exit code."""
    parser = _parser()
    try:
        arguments = parser.parse_args(argv)
        if len(arguments.images) != len(arguments.masks):
            parser.error(
                f"expected a --masks for each --images, got {len(arguments.masks)} and {len(arguments.images)}"
            )
        for name in ("share", "validation"):
            if len(getattr(arguments, name) or [0]) not in (1, len(arguments.images)):
                parser.error(f"expected --{name} once, or once for each of --images")
    except SystemExit as stop:  # argparse has said what is wrong, or printed its help
        return stop.code if isinstance(stop.code, int) else FAILED
    # force: `cellrt` has set up its own already, which tells warnings only
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", level=logging.INFO, force=True)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    try:
        if arguments.compile and not any(map(shutil.which, ("c++", "g++", "clang++", "cl"))):
            raise CellrtError("expected a C++ compiler for --compile, got none on the PATH; leave it out")
        kind = _star(arguments) if arguments.kind == "star" else _flow(arguments)
        print(_told(_run(kind, arguments)))
    except CellrtError as error:
        print(f"cellrt train: {error}", file=sys.stderr)
        return FAILED
    except OSError as error:
        print(f"cellrt train: expected to use {error.filename}, got {error.strerror or error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("cellrt train: interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        return INTERRUPTED
    return OK


def _parser() -> argparse.ArgumentParser:
    """The arguments of both kinds."""
    parser = argparse.ArgumentParser(
        prog="cellrt train",
        description="Train a network on images with masks, or fine-tune one on a few corrected images; the result is "
        "an ONNX file for cellrt and a model of the original program.",
    )
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")
    star = kinds.add_parser("star", help="a StarDist network: star-convex objects such as nuclei")
    _add_common(star, patch=192, kinds=("fluorescence", "stain", "contrast"))
    star.add_argument(
        "--filters", type=_whole, default=StarKind.n_filters, help="at the finest level (default: %(default)s)"
    )
    star.add_argument(
        "--features", type=_whole, default=StarKind.n_features, help="of the last layer (default: %(default)s)"
    )
    star.add_argument(
        "--depth", type=_whole, default=StarKind.depth, help="poolings in the U-Net (default: %(default)s)"
    )
    star.add_argument("--rays", type=_whole, default=StarKind.n_rays, help="per object (default: %(default)s)")
    star.add_argument("--grid", type=_whole, default=StarKind.grid, help="pixels per sample (default: %(default)s)")
    flow = kinds.add_parser("flow", help="a Cellpose network: cells of any shape")
    _add_common(flow, patch=128, kinds=("contrast", "fluorescence", "stain"))
    flow.add_argument(
        "--widths",
        type=_whole,
        nargs="+",
        default=list(FlowKind.widths),
        help="channels of each (default: %(default)s)",
    )
    flow.add_argument(
        "--diameter",
        type=float,
        default=FlowKind.diameter,
        help="that objects are scaled to, pixels (default: %(default)s)",
    )
    return parser


def _add_common(parser: argparse.ArgumentParser, *, patch: int, kinds: tuple[str, ...]) -> None:
    """Options that both kinds have."""
    add = parser.add_argument
    add("--images", nargs="+", type=Path, required=True, metavar="DIR", help="folders of images, one per set")
    add("--masks", nargs="+", type=Path, required=True, metavar="DIR", help="folders of label images or _seg.npy files")
    add(
        "-o", "--output", type=Path, required=True, metavar="DIR", help="folder of the run; the same command resumes it"
    )
    add("--start", metavar="MODEL", help="fine-tune this: a bundled model, an exported file, or the original's weights")
    add("--share", nargs="+", type=float, metavar="S", help="how often each set is drawn from (default: equally often)")
    add(
        "--validation",
        nargs="+",
        type=float,
        metavar="F",
        help="share of each set that is held out, by fields of view (default: 0.15; with --start 0)",
    )
    add("--drawn", type=_whole, default=0, metavar="N", help="add N synthetic images")
    add("--drawn-share", type=float, default=0.2, metavar="S", help="how often they are drawn (default: %(default)s)")
    add("--augmentation", choices=kinds, default=kinds[0], help="what the images show (default: %(default)s)")
    add("--strength", type=float, default=1.0, metavar="S", help="of augmentation, 0 to 1 (default: %(default)s)")
    add("--late-strength", type=float, metavar="S", help="the same in the last 40 %% of the run (default: as before)")
    add("--channels", type=_whole, default=1, metavar="C", help="of the images (default: %(default)s)")
    add("--steps", type=_whole, metavar="N", help="of the optimiser (default: 6000; with --start 300)")
    add("--rate", type=float, metavar="R", help="peak learning rate (default: 0.002; with --start 0.0003)")
    add("--patience", type=_whole, metavar="N", help="stop after N checkpoints without a better one")
    add("--every", type=_whole, default=250, metavar="N", help="steps between checkpoints (default: %(default)s)")
    add("--batch", type=_whole, default=8, metavar="N", help="patches per step (default: %(default)s)")
    add("--patch", type=_whole, default=patch, metavar="PIXELS", help="side of a patch (default: %(default)s)")
    add("--seed", type=int, default=0, help="of everything random (default: %(default)s)")
    add("--split-seed", type=int, default=0, help="of what is held out (default: %(default)s)")
    add("--threads", type=_whole, metavar="N", help="of torch (default: all cores)")
    add("--compile", action="store_true", help="translate the network with the C++ compiler first: faster long runs")
    add("--name", help="what the model calls itself (default: the folder's name)")
    add("--licence", help="licence of the weights (default: not stated)")
    add("--description", default="", help="what the model finds, in a few words")
    add("--precision", choices=("fp32", "fp16"), default="fp32", help="how weights are stored (default: %(default)s)")


def _run(kind: Kind, arguments: argparse.Namespace) -> Outcome:
    """The run that was asked for."""
    tuned = arguments.start is not None
    n_sets = len(arguments.images)
    shares, held_out = arguments.share or [1.0], arguments.validation or [0.0 if tuned else 0.15]
    sets = [
        ImageSet(images=images, masks=masks, share=share, validation=fraction)
        for images, masks, share, fraction in zip(
            arguments.images,
            arguments.masks,
            shares * (n_sets // len(shares)),
            held_out * (n_sets // len(held_out)),
            strict=True,
        )
    ]
    steps = arguments.steps or (300 if tuned else 6000)
    plan = Plan(
        steps=steps,
        seed=arguments.seed,
        learning_rate=arguments.rate or (3e-4 if tuned else 2e-3),
        warmup=min(200, max(1, steps // 10)),
        checkpoint_every=arguments.every,
        patience=arguments.patience,
        compile=arguments.compile,
        freeze_norms=tuned,
    )
    return run(
        kind,
        sets,
        plan,
        arguments.output,
        name=arguments.name,
        licence=arguments.licence,
        description=arguments.description,
        precision=arguments.precision,
        n_drawn=arguments.drawn,
        drawn_share=arguments.drawn_share,
        split_seed=arguments.split_seed,
    )


def _star(arguments: argparse.Namespace) -> StarKind:
    """A StarDist network as asked for."""
    kind = StarKind(
        n_channels=arguments.channels,
        n_rays=arguments.rays,
        grid=arguments.grid,
        n_filters=arguments.filters,
        n_features=arguments.features,
        depth=arguments.depth,
        augmentation=Augmentation(
            kind=arguments.augmentation, strength=arguments.strength, late_strength=arguments.late_strength
        ),
        batch_size=arguments.batch,
        patch_size=arguments.patch,
    )
    if arguments.start is None:
        return kind
    return _start_star(kind, arguments.start)


def _start_star(kind: StarKind, model: str) -> StarKind:
    """Begin with a StarDist folder, an exported file or a bundled model, and with what that says of itself."""
    if Path(model).is_dir():
        net, thresholds, spec = star_net.load_folder(model), read_thresholds(Path(model)), kind.normalize
    else:
        manifest = onnx_graph.read(model).manifest
        head = manifest.head
        if not isinstance(head, StarSpec) or not isinstance(manifest.normalize, PercentileSpec):
            raise CellrtError(f"expected a star model to start from, got {model}, a {head.kind} model")
        net, thresholds = star_net.load_onnx(model), Thresholds(head.prob_thresh, head.nms_thresh)
        spec = manifest.normalize
    if net.config.n_classes is not None:
        raise CellrtError(f"expected a network without classes to start from, got {model}, which has them")
    return replace(kind, start=net, start_thresholds=thresholds, n_channels=net.config.n_channel_in, normalize=spec)


def _flow(arguments: argparse.Namespace) -> FlowKind:
    """A Cellpose network as asked for."""
    start = None if arguments.start is None else _start_flow(arguments.start)
    diameter = arguments.diameter if start is None else float(start.diam_mean)
    kind = _flow_kind(arguments, start, diameter)
    if start is None or not _is_exported(arguments.start):
        return kind
    manifest = onnx_graph.read(arguments.start).manifest
    assert isinstance(manifest.head, FlowSpec)  # as cpnet.load_onnx has made sure
    assert isinstance(manifest.normalize, Normalize99Spec)
    thresholds = (manifest.head.flow_threshold, manifest.head.cellprob_threshold)
    return replace(kind, start_thresholds=thresholds, normalize=manifest.normalize)


def _flow_kind(arguments: argparse.Namespace, start: CPNet | None, diameter: float) -> FlowKind:
    """As asked for, but for what an exported file says of itself."""
    return FlowKind(
        n_channels=arguments.channels if start is None else start.n_channels,
        widths=tuple(arguments.widths),
        diameter=diameter,
        start=start,
        # as far as Cellpose goes for its own networks, and a little further towards small cells
        augmentation=Augmentation(
            kind=arguments.augmentation,
            strength=arguments.strength,
            late_strength=arguments.late_strength,
            to_diameter=diameter,
            zoom=(0.5, 1.7),
            diameters=(8, 70),
            invert=0.1,
            border=0.3,
        ),
        batch_size=arguments.batch,
        patch_size=arguments.patch,
    )


def _start_flow(model: str) -> CPNet:
    """The network of a file of Cellpose, an exported file or a bundled model."""
    return cpnet.load_onnx(model) if _is_exported(model) else cpnet.load_weights(model)


def _is_exported(model: str) -> bool:
    return model.endswith(".onnx") or model in bundled_models()


def _whole(text: str) -> int:
    """A whole number above 0."""
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 2**31:
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, got {text!r}")
    return int(text)


def _told(outcome: Outcome) -> str:
    """What a run gave, as text."""
    lines = [
        f"{name}: AP {score.precision[0]:.3f} at IoU 0.5, {score.mean:.3f} over 0.5-0.9, held-out images"
        for name, score in outcome.scores.items()
    ]
    return "\n".join([str(outcome.summary), *lines])
