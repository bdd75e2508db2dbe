"""The command line: `cellrt segment | info | selftest | export`.

Exit codes: 0 all well; 1 something failed, said on stderr; 2 the command itself is wrong. An expected error is one line
on stderr, never a traceback. Results go to stdout, progress and errors to stderr.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import logging
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import cellrt
from cellrt import readers, write
from cellrt.errors import CellrtError, FileError
from cellrt.image import as_image
from cellrt.manifest import Manifest
from cellrt.model import Model, Normalize, bundled_models, load

OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    argv = sys.argv[1:] if argv is None else list(argv)
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    try:
        if argv[:1] == ["export"]:
            return _export(argv[1:])
        arguments = _parser().parse_args(argv)
        return int(arguments.run(arguments))
    except CellrtError as error:
        print(f"cellrt: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("cellrt: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output went away, as in `cellrt info ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED


def _parser() -> argparse.ArgumentParser:
    """The arguments of every command; argparse exits with 2 when they are wrong."""
    parser = argparse.ArgumentParser(prog="cellrt", description="Run trained cell-segmentation networks.")
    parser.add_argument("--version", action="version", version=f"cellrt {cellrt.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    segment = commands.add_parser("segment", help="find the cells of images", description=_segment.__doc__)
    segment.set_defaults(run=_segment)
    segment.add_argument("images", nargs="+", metavar="IMAGE", help="image files, folders of images, or globs")
    model_help = f"a file written by `cellrt export`, or a bundled model: {', '.join(bundled_models())}"
    segment.add_argument("-m", "--model", required=True, help=model_help)
    segment.add_argument("-o", "--output", required=True, type=Path, metavar="DIR", help="folder of the results")
    segment.add_argument(
        "--save",
        default="labels,csv",
        type=_formats,
        metavar="FORMATS",
        help=f"which results to write, of {','.join(write.FORMATS)} (default: labels,csv)",
    )
    segment.add_argument("--prob-thresh", type=_fraction, help="least probability of an object (default: the model's)")
    segment.add_argument("--nms-thresh", type=_fraction, help="most overlap of two objects (default: the model's)")
    segment.add_argument("--scale", type=_positive, help="rescale images for the network; 0.5 if objects are too large")
    segment.add_argument("--channels", type=_channels, metavar="N[,N]", help="channels of the image to use, from 0")
    segment.add_argument("--axes", help="axes of the images, such as CYX (default: as the file says)")
    segment.add_argument(
        "--normalize",
        type=_percentiles,
        default="model",
        metavar="LOW,HIGH",
        help="percentiles that become 0 and 1, none for normalised images, or model (default)",
    )
    segment.add_argument("--tiles", type=_tiles, metavar="Y,X", help="tiles of the network's input (default: by size)")
    _add_session(segment)

    info = commands.add_parser("info", help="show what a model file says about itself")
    info.set_defaults(run=_info)
    info.add_argument("model", metavar="MODEL", help=model_help)
    info.add_argument("--json", action="store_true", help="print the manifest as JSON")
    _add_session(info)

    selftest = commands.add_parser("selftest", help="check that a model gives the right results on this machine")
    selftest.set_defaults(run=_selftest)
    selftest.add_argument("model", metavar="MODEL", help=model_help)
    _add_session(selftest)

    commands.add_parser("export", help="make a model file from a trained network (needs cellrt[export])")
    return parser


def _add_session(parser: argparse.ArgumentParser) -> None:
    """The arguments that every command which opens a model takes."""
    parser.add_argument(
        "--providers",
        type=lambda text: text.split(","),
        metavar="NAMES",
        help="execution providers in order of preference, such as cuda,cpu (default: cuda where it works, else cpu)",
    )
    parser.add_argument("--threads", type=_threads, help="threads of network and kernels (default: all usable cores)")


def _segment(arguments: argparse.Namespace) -> int:
    """Find the cells of images and write them as labels, tables and polygons; an image that fails is listed at the
    end and the others are done."""
    paths = readers.find_images(arguments.images)
    stems = readers.unique_stems(paths)
    model = load(arguments.model, providers=arguments.providers, threads=arguments.threads)
    _make_folder(arguments.output)
    progress = sys.stderr.isatty()
    failures: list[str] = []
    for index, (path, stem) in enumerate(zip(paths, stems, strict=True)):
        if progress:
            print(f"\r{index + 1}/{len(paths)} {path.name}\x1b[K", end="", file=sys.stderr, flush=True)
        try:
            line = _segment_one(model, path, arguments.output / stem, arguments)
        except CellrtError as error:
            failures.append(f"{path}: {error}")
            line = f"{path}  failed"
        except MemoryError:
            failures.append(f"{path}: expected the image to fit in memory; ask for more and smaller tiles with --tiles")
            line = f"{path}  failed"
        if progress:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
        print(line, flush=True)
    for failure in failures:
        print(f"cellrt: {failure}", file=sys.stderr)
    if failures:
        print(f"cellrt: {len(failures)} of {len(paths)} images failed", file=sys.stderr)
    return FAILED if failures else OK


def _segment_one(model: Model, path: Path, stem: Path, arguments: argparse.Namespace) -> str:
    """Read, segment and write one image; returns the line to print."""
    start = time.perf_counter()
    array, axes = readers.read(path)
    pixels = as_image(array, arguments.axes or axes, arguments.channels, n_channels=model.manifest.input.n_channels)
    cells = model.segment(
        pixels,
        axes="CYX",
        normalize=arguments.normalize,
        prob_thresh=arguments.prob_thresh,
        nms_thresh=arguments.nms_thresh,
        scale=arguments.scale,
        tiles=arguments.tiles,
    )
    write.write(cells, stem, arguments.save, image=pixels, class_names=model.manifest.head.class_names)
    seconds = time.perf_counter() - start
    rate = cells.labels.size / 1e6 / seconds
    return f"{path}  {len(cells)} objects  {seconds:.2f} s  {rate:.2f} megapixels/s"


def _info(arguments: argparse.Namespace) -> int:
    """Print a model's manifest."""
    model = load(arguments.model, providers=arguments.providers, threads=arguments.threads)
    if arguments.json:
        print(model.manifest.to_json())
    else:
        for key, value in _rows(model.manifest):
            print(f"{key:<17} {value}")
    return OK


def _rows(manifest: Manifest) -> list[tuple[str, str]]:
    """A manifest as lines for people."""
    head, tile, source = manifest.head, manifest.tile, manifest.source
    percentiles = manifest.normalize
    channels = "jointly" if percentiles.joint else "each channel"
    rows = [
        ("name", manifest.name),
        ("description", manifest.description),
        ("head", f"{head.kind}: {head.n_rays} rays, grid {head.grid[0]} x {head.grid[1]}"),
        ("classes", "" if head.n_classes is None else ", ".join(head.class_names or [f"{head.n_classes}"])),
        ("channels", str(manifest.input.n_channels)),
        ("thresholds", f"probability {head.prob_thresh:.4g}, overlap {head.nms_thresh:.4g}"),
        ("normalisation", f"percentiles {percentiles.low:g} and {percentiles.high:g}, {channels}"),
        ("receptive field", f"{tile.receptive_field[0]} x {tile.receptive_field[1]} pixels, halo {tile.halo}"),
        ("sizes", f"multiples of {tile.multiple[0]} x {tile.multiple[1]}; other images are padded"),
        ("source", f"{source.upstream}: {source.name}"),
        ("weights sha256", source.sha256),
        ("licence", source.licence),
        ("exported by", source.exporter),
        ("self-test", "yes" if manifest.selftest else "no"),
    ]
    return [(key, value) for key, value in rows if value]


def _selftest(arguments: argparse.Namespace) -> int:
    """Run a model's self-test on this machine."""
    model = load(arguments.model, providers=arguments.providers, threads=arguments.threads)
    outcome = model.selftest()
    agreement = "identical bits" if outcome.identical else f"largest difference {outcome.largest_difference:.2g}"
    verdict = "passed" if outcome.passed else "FAILED"
    print(f"{model.manifest.name} on {', '.join(model.providers)}: {verdict} ({agreement})")
    return OK if outcome.passed else FAILED


def _export(argv: list[str]) -> int:
    """Hand over to the exporter: a package of its own with requirements of its own, which announces this command."""
    try:
        (entry,) = importlib.metadata.entry_points(group="cellrt.commands", name="export")
        command = entry.load()
    except (ImportError, ValueError) as error:  # ValueError: no such entry point
        raise CellrtError(
            f"expected the exporter to be installed, got: {error}; run: pip install 'cellrt[export]'"
        ) from None
    return int(command(argv))


def _make_folder(folder: Path) -> None:
    """Create the output folder, or say why not, before any work is done."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"expected to create the folder {folder}, got: {error.strerror}; choose another -o") from error
    if not os.access(folder, os.W_OK):
        raise FileError(f"expected to write into {folder}, got no permission; choose another -o")


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


def _positive(text: str) -> float:
    """--scale."""
    return _number(text, "a number from 0.001 to 1000", 0.001, 1000)


def _integers(text: str, want: str, least: int) -> tuple[int, ...]:
    """Integers of at least `least`, separated by commas."""
    try:
        values = tuple(int(part) for part in text.split(","))
    except ValueError:
        values = ()
    if not values or min(values) < least:
        raise argparse.ArgumentTypeError(f"expected {want}, got {text!r}")
    return values


def _channels(text: str) -> tuple[int, ...]:
    """--channels."""
    return _integers(text, "channel numbers from 0, such as 0 or 0,1,2", 0)


def _tiles(text: str) -> tuple[int, ...]:
    """--tiles."""
    values = _integers(text, "two numbers of tiles, such as 2,3", 1)
    if len(values) != 2:
        raise argparse.ArgumentTypeError(f"expected two numbers of tiles, such as 2,3, got {text!r}")
    return values


def _threads(text: str) -> int:
    """--threads."""
    values = _integers(text, "a number of threads, 0 for all usable cores", 0)
    return values[0]


def _percentiles(text: str) -> Normalize:
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
