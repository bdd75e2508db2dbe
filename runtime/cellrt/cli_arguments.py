"""The arguments of the command line: what may be said, what is refused at once, what belongs to which kind of model."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import cellrt
from cellrt import memory, write
from cellrt.catalogue import bundled_models
from cellrt.cli_evaluate import THRESHOLDS
from cellrt.errors import CellrtError
from cellrt.heads.flow import MAX_STEPS
from cellrt.heads.star_3d import MODES
from cellrt.manifest import FLOW_TILES

DEFAULT_MODEL = "nuclei"  # of `segment`
_KINDS = {
    "star": "star models (StarDist)",
    "flow": "flow models (Cellpose)",
    "star3d": "star models of volumes (StarDist 3D)",
}
# Options of `segment` that not every kind of model has, by the names of their values, which are None unless given.
_OPTIONS = (
    (("star", "star3d"), _KINDS["star"], ("prob_thresh", "nms_thresh", "scale")),
    (("star3d",), _KINDS["star3d"], ("mode", "overlap_label")),
    (
        ("flow",),
        _KINDS["flow"],
        (
            *("diameter", "invert", "flow_threshold", "cellprob_threshold", "niter", "min_size", "resample", "augment"),
            *("do_3D", "anisotropy", "flow3D_smooth"),
        ),
    ),
    (("star", "flow"), "models of images", ("stitch_threshold",)),
)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parse a command line; `command` is its first word. Exits with 2 when it is wrong, as argparse does."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.command == "segment":
        unfit = {
            "--save": arguments.save not in (None, ["labels"]),
            "--profile": arguments.profile,
            "--tiles Y,X": isinstance(arguments.tiles, tuple),
        }
        if arguments.large and any(unfit.values()):
            given = ", ".join(name for name, is_given in unfit.items() if is_given)
            parser.error(
                f"expected --large without {given}: it saves labels, and --memory decides on tiles; leave that out"
            )
        arguments.save = arguments.save or (["labels"] if arguments.large else ["labels", "csv"])
    return arguments


def check_kind(arguments: argparse.Namespace, kind: str) -> None:
    """Raise a `CellrtError` if `segment` was given options that a model of this kind ("star", "flow", ...) lacks."""
    for kinds, owners, names in _OPTIONS:
        given = [_flag(name) for name in names if getattr(arguments, name) is not None]
        if given and kind not in kinds:
            raise CellrtError(
                f"expected options for {_KINDS[kind]}, got {', '.join(given)} for {owners}; leave that out, or choose "
                "another model"
            )
    tiles = arguments.tiles
    if tiles is None:
        return
    want = {"flow": " or ".join(FLOW_TILES), "star": "Y,X", "star3d": "Z,Y,X"}[kind]
    fits = tiles in FLOW_TILES if kind == "flow" else isinstance(tiles, tuple) and len(tiles) == want.count(",") + 1
    if not fits:
        got = tiles if isinstance(tiles, str) else ",".join(map(str, tiles))
        raise CellrtError(f"expected --tiles {want} for {_KINDS[kind]}, got {got}; correct it, or leave it out")


def are_volumes(arguments: argparse.Namespace, kind: str) -> bool:
    """Whether `segment` takes each image for a volume, with a model of this kind."""
    return kind == "star3d" or bool(arguments.do_3D) or arguments.stitch_threshold is not None


def _flag(name: str) -> str:
    """The option that a value comes from."""
    return {"resample": "--[no-]resample"}.get(name, f"--{name.replace('_', '-')}")


def _parser() -> argparse.ArgumentParser:
    """The arguments of every command."""
    parser = argparse.ArgumentParser(prog="cellrt", description="Run trained cell-segmentation networks.")
    parser.add_argument("--version", action="version", version=f"cellrt {cellrt.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command", required=True)

    segment = commands.add_parser(
        "segment",
        help="find the cells of images",
        description="Find the cells of images and write them as labels, tables and polygons. An image that fails is "
        "listed at the end and the others are done.",
        epilog="Results are named after the image's file without its extension: cell.tif gives cell_labels.tif and "
        "cell.csv. Where two images of one call would share a name, the extension tells them apart (cell_tif, "
        "cell_png), else the folder (A1/cell). A later call replaces results of the same name, also those of another "
        "image: d.tif and then d.png both give d.csv. Images and files that cellrt did not write are never replaced, "
        "and masks that were corrected with Cellpose's program are not cellrt's any more. Results that an earlier "
        "call left for an image that now fails are renamed to *.old.",
    )
    segment.add_argument("images", nargs="+", metavar="IMAGE", help="image files, folders of images, or globs")
    model_help = f"a file written by `cellrt export`, or a bundled model: {', '.join(bundled_models())}"
    segment.add_argument("-m", "--model", default=DEFAULT_MODEL, help=f"{model_help} (default: %(default)s)")
    segment.add_argument(
        "-o", "--output", default=Path(), type=Path, metavar="DIR", help="folder of the results (default: this one)"
    )
    segment.add_argument(
        "--save",
        type=_formats,
        metavar="FORMATS",
        help=f"which results to write, of {','.join(write.FORMATS)} (default: labels,csv); seg and outlines are "
        "Cellpose's _seg.npy and _cp_outlines.txt",
    )
    segment.add_argument(
        "--channels",
        type=_channels,
        metavar="N[,N]",
        help="channels of the image to use. Star models: counted from 0. Flow models: Cellpose's numbers, counted from "
        "1: the channel to segment (0: the mean of all) and the one of nuclei (0: none); for models of Cellpose 4 up "
        "to three. Default: the first ones",
    )
    segment.add_argument("--axes", type=_axes, help="axes of the images, such as CYX (default: as the file says)")
    segment.add_argument(
        "--normalize",
        type=_percentiles,
        default="model",
        metavar="LOW,HIGH",
        help="percentiles that become 0 and 1, none for normalised images, or model (default)",
    )
    segment.add_argument(
        "--tiles",
        type=_tiles,
        metavar="TILES",
        help="star models: numbers of tiles of the network's input as Y,X, of volumes Z,Y,X (default: by size). Flow "
        "models: upstream for tiles as Cellpose has them, or large ones, which are faster and change cells here and "
        "there (default: the model's)",
    )
    segment.add_argument(
        "--large",
        action="store_true",
        help="images, stacks and volumes need not fit in memory: they are read part by part (TIFF, .npy, zarr, "
        "OME-Zarr) and give labels only, as a tiled TIFF; an interrupted call goes on where it was",
    )
    segment.add_argument(
        "--stitch-threshold",
        type=_fraction,
        metavar="IOU",
        help="images are stacks (Z): segment their planes one by one and join objects of neighbouring planes that "
        "overlap by at least this much",
    )
    segment.add_argument(
        "--profile", action="store_true", help="say at the end how long reading, network, decoding and writing took"
    )
    star = segment.add_argument_group(f"options of {_KINDS['star']}")
    star.add_argument("--prob-thresh", type=_fraction, help="least probability of an object (default: the model's)")
    star.add_argument("--nms-thresh", type=_fraction, help="most overlap of two objects (default: the model's)")
    star.add_argument(
        "--scale",
        type=_scale,
        metavar="FACTOR[,FACTOR]",
        help="rescale images for the network, all axes or each (Y,X or Z,Y,X): 0.5 if objects are too large",
    )
    star.add_argument(
        "--mode",
        choices=MODES,
        help="volumes: which voxels an object has: all inside it (full, the default), those that see its whole "
        "surface, those of its convex hull, or of its box",
    )
    star.add_argument(
        "--overlap-label",
        type=_label,
        metavar="LABEL",
        help="volumes: what voxels of several objects become (default: the label of the most probable one)",
    )
    flow = segment.add_argument_group(f"options of {_KINDS['flow']}")
    flow.add_argument(
        "--diameter",
        type=_diameter,
        metavar="PIXELS",
        help="of the objects; model for those that the model was trained on (default: estimated for each image by the "
        "size model, or the model's if there is none)",
    )
    flow.add_argument(
        "--flow-threshold",
        type=_flow_threshold,
        metavar="ERROR",
        help="largest error of the flow of an object; more finds more, 0 keeps all (default: the model's)",
    )
    flow.add_argument(
        "--cellprob-threshold",
        type=_logit,
        metavar="LOGIT",
        help="least logit of a pixel in a cell; less gives more and larger cells (default: the model's)",
    )
    flow.add_argument("--niter", type=_steps, metavar="N", help="steps along the flow (default: by the diameter)")
    flow.add_argument(
        "--min-size", type=_pixels, metavar="PIXELS", help="least size of an object, 0 keeps all (default: the model's)"
    )
    flow.add_argument(
        "--resample",
        action=argparse.BooleanOptionalAction,
        help="follow the flow at the image's resolution, or at the network's (default: the model's)",
    )
    flow.add_argument(
        "--augment", action="store_const", const=True, help="average over flipped tiles that overlap by half: slower"
    )
    flow.add_argument("--invert", action="store_const", const=True, help="cells are dark on a bright ground")
    flow.add_argument(
        "--do-3D",
        dest="do_3D",
        action="store_const",
        const=True,
        help="images are volumes (Z): run the network on planes along all three axes and follow flows in space",
    )
    flow.add_argument(
        "--anisotropy",
        type=_ratio,
        metavar="RATIO",
        help="with --do-3D: distance of planes over that of pixels (default: 1)",
    )
    flow.add_argument(
        "--flow3D-smooth",
        dest="flow3D_smooth",
        type=_sigmas,
        metavar="SIGMA",
        help="with --do-3D: smooth flows by a Gaussian of this many voxels, or Z,Y,X (default: 0, not at all)",
    )
    _add_session(segment)
    segment.add_argument(
        "--memory",
        type=_memory,
        metavar="SIZE",
        help="about how much memory to use at most, such as 500MB or 1.5GB; the network then runs on smaller tiles",
    )

    evaluate = commands.add_parser(
        "evaluate",
        help="compare predicted labels with true ones",
        description="Compare predicted labels with true ones: average precision (true positives over all objects of "
        "either), F1 and panoptic quality as StarDist counts them, the aggregated Jaccard index of Kumar et al., for "
        "each image and for the objects of all images together.",
        epilog="Files belong together by their names, without extension and without _labels, _cp_masks, _masks or "
        "_seg: cell_labels.tif and cell.png. Label images are TIFF, PNG, .npy, or Cellpose's _seg.npy. Images without "
        "a partner or of another shape are listed at the end and the others are compared.",
    )
    for side, of in (("--pred", "predicted"), ("--truth", "true")):
        evaluate.add_argument(
            side, nargs="+", required=True, metavar="FILE", help=f"{of} labels: files, folders of them, or globs"
        )
    evaluate.add_argument(
        "--threshold",
        type=_overlaps,
        default=THRESHOLDS,
        metavar="IOU[,IOU]",
        help="least intersections over union of a match, for the average precision (default: 0.5,0.55,...,0.9)",
    )
    evaluate.add_argument("--json", type=Path, metavar="FILE", help="write the figures here, for programs")
    evaluate.add_argument("--csv", type=Path, metavar="FILE", help="write a row for each image here")

    info = commands.add_parser("info", help="show what a model file says about itself")
    info.add_argument("model", metavar="MODEL", help=model_help)
    info.add_argument("--json", action="store_true", help="print the manifest as JSON")
    _add_session(info)

    selftest = commands.add_parser("selftest", help="check that a model gives the right results on this machine")
    selftest.add_argument("model", metavar="MODEL", help=model_help)
    _add_session(selftest)

    commands.add_parser(
        "models",
        help="list the models that ship with cellrt",
        description="List the models that ship with cellrt, with what was measured of them: average precision at an "
        "overlap of 0.5 on images that they were not trained on, and the time of one image.",
    )
    commands.add_parser("export", help="make a model file from a trained network (needs cellrt[export])")
    commands.add_parser("train", help="train a network, or fine-tune one on corrected images (needs cellrt[train])")
    return parser


def _add_session(parser: argparse.ArgumentParser) -> None:
    """The arguments that every command which opens a model takes."""
    parser.add_argument(
        "--providers",
        type=lambda text: text.split(","),
        metavar="NAMES",
        help="execution providers in order of preference, such as cuda,cpu, or cuda:device_id=1 with ONNX Runtime's "
        "options (default: cuda where it works, else cpu)",
    )
    parser.add_argument("--threads", type=_threads, help="threads of network and kernels (default: all usable cores)")


def _formats(text: str) -> list[str]:
    """--save: names of output formats."""
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in write.FORMATS:
            raise argparse.ArgumentTypeError(f"expected formats of {','.join(write.FORMATS)}, got {name!r}")
    return names


def _number(text: str, want: str, low: float, high: float) -> float:
    """A number in [low, high]."""
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not low <= value <= high:
        raise argparse.ArgumentTypeError(f"expected {want}, got {text!r}")
    return value


def _fraction(text: str) -> float:
    """A threshold."""
    return _number(text, "a number from 0 to 1", 0, 1)


def _overlaps(text: str) -> tuple[float, ...]:
    """--threshold of `evaluate`."""
    want = "numbers above 0 and up to 1, such as 0.5,0.75"
    return tuple(_number(part, want, math.ulp(0), 1) for part in text.split(","))


def _ratio(text: str) -> float:
    """--anisotropy, as far as pictures can be stretched."""
    return _number(text, "a number from 0.01 to 100", 0.01, 100)


def _factor(text: str) -> float:
    """One of --scale."""
    return _number(text, "a number from 0.001 to 1000", 0.001, 1000)


def _scale(text: str) -> float | tuple[float, ...]:
    """--scale."""
    factors = tuple(_factor(part) for part in text.split(","))
    if len(factors) > 3:
        raise argparse.ArgumentTypeError(f"expected up to three numbers, such as 0.5 or 1,0.5,0.5, got {text!r}")
    return factors if len(factors) > 1 else factors[0]


def _sigmas(text: str) -> float | tuple[float, ...]:
    """--flow3D-smooth."""
    sigmas = tuple(_number(part, "a number of voxels from 0 to 100", 0, 100) for part in text.split(","))
    if len(sigmas) not in (1, 3):
        raise argparse.ArgumentTypeError(f"expected one number of voxels or three, such as 1 or 0.5,1,1, got {text!r}")
    return sigmas if len(sigmas) > 1 else sigmas[0]


def _diameter(text: str) -> float | Literal["model"]:
    """--diameter."""
    return "model" if text == "model" else _number(text, "pixels from 0.1 to 10000, or model", 0.1, 10_000)


def _flow_threshold(text: str) -> float:
    """--flow-threshold."""
    return _number(text, "a number from 0 to 1000", 0, 1000)


def _logit(text: str) -> float:
    """--cellprob-threshold."""
    return _number(text, "a number from -1000 to 1000", -1000, 1000)


def _integers(text: str, want: str, least: int) -> tuple[int, ...]:
    """Integers of at least `least`, separated by commas."""
    try:
        values = tuple(int(part) for part in text.split(","))
    except ValueError:
        values = ()
    if not values or min(values) < least:
        raise argparse.ArgumentTypeError(f"expected {want}, got {text!r}")
    return values


def _integer(text: str, want: str, least: int, most: int) -> int:
    """One integer in [least, most]."""
    values = _integers(text, want, least)
    if len(values) != 1 or values[0] > most:
        raise argparse.ArgumentTypeError(f"expected {want}, got {text!r}")
    return values[0]


def _steps(text: str) -> int:
    """--niter."""
    return _integer(text, f"a number of steps from 1 to {MAX_STEPS}", 1, MAX_STEPS)


def _pixels(text: str) -> int:
    """--min-size."""
    return _integer(text, "a number of pixels, 0 or more", 0, 1 << 30)


def _label(text: str) -> int:
    """--overlap-label."""
    return _integer(text, f"a whole number from {1 - 2**31} to {2**31 - 1}", 1 - 2**31, 2**31 - 1)


def _memory(text: str) -> int:
    """--memory."""
    try:
        return memory.parse(text)
    except CellrtError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _threads(text: str) -> int:
    """--threads."""
    return _integer(text, "a number of threads up to 4096, 0 for all usable cores", 0, 4096)


def _axes(text: str) -> str:
    """--axes."""
    letters = text.upper()
    if not set("YX") <= set(letters) <= set("TZCSYX") or len(set(letters)) != len(letters):
        raise argparse.ArgumentTypeError(
            f"expected letters out of TZCSYX, Y and X among them, each once, such as CYX, got {text!r}"
        )
    return letters


def _channels(text: str) -> tuple[int, ...]:
    """--channels."""
    return _integers(text, "channel numbers, such as 0 or 0,1,2", 0)


def _tiles(text: str) -> tuple[int, ...] | str:
    """--tiles."""
    if text in FLOW_TILES:
        return text
    want = f"two or three numbers of tiles, such as 2,3, or {' or '.join(FLOW_TILES)}"
    values = _integers(text, want, 1)
    if len(values) not in (2, 3):
        raise argparse.ArgumentTypeError(f"expected {want}, got {text!r}")
    return values


def _percentiles(text: str) -> tuple[float, float] | Literal["model"] | None:
    """--normalize."""
    if text == "none":
        return None
    if text == "model":
        return "model"
    low, comma, high = text.partition(",")
    values = (_number(low, "LOW,HIGH in 0..100", 0, 100), _number(high, "LOW,HIGH in 0..100", 0, 100))
    if not comma or values[0] >= values[1]:
        raise argparse.ArgumentTypeError(f"expected LOW,HIGH with LOW below HIGH, or none, got {text!r}")
    return values
