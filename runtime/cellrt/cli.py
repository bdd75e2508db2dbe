"""The command line: `cellrt segment | info | selftest | export`.

Exit codes: 0 all well; 1 something failed, said on stderr; 2 the command itself is wrong; 130 and 143 stopped by Ctrl-C
and SIGTERM. An expected error is one line on stderr, never a traceback. Results go to stdout, progress and errors to
stderr.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import io
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TextIO

import cellrt
from cellrt import readers, write
from cellrt.errors import CellrtError, FileError
from cellrt.image import as_image
from cellrt.manifest import Manifest
from cellrt.model import Model, Normalize, bundled_models, load

OK, FAILED, INTERRUPTED, TERMINATED = 0, 1, 130, 143  # and 2, with which argparse exits


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    argv = sys.argv[1:] if argv is None else list(argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # file names may hold what the console's encoding does not
            stream.reconfigure(errors="backslashreplace")
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    try:
        with _stopped_by_sigterm():
            return _run(argv)
    except CellrtError as error:
        _complain(str(error))
        return FAILED
    except _Terminated:
        _complain("terminated")
        return TERMINATED
    except KeyboardInterrupt:
        _complain("interrupted")
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output went away, as in `cellrt info ... | head`: it knows
        _say("", sys.stdout, end="")
        return FAILED
    except OSError as error:
        _say("", sys.stdout, end="")  # it may be what failed, and is silenced then
        _complain(f"expected files and streams to work, got: {error}; check the disk and the paths")
        return FAILED


def _run(argv: list[str]) -> int:
    """Run one command, with its output out of the door."""
    try:
        if argv[:1] == ["export"]:
            return _export(argv[1:])
        arguments = _parser().parse_args(argv)
        return int(arguments.run(arguments))
    finally:
        print(end="", flush=True)  # here a disk that is full can still be said; at exit Python would, in its own way


class _Terminated(KeyboardInterrupt):
    """SIGTERM, as an exception that passes wherever Ctrl-C does."""


@contextlib.contextmanager
def _stopped_by_sigterm() -> Iterator[None]:
    """Let SIGTERM unwind the stack as Ctrl-C does, so that no temporary file stays behind."""

    def stop(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not interrupt the cleaning up
        raise _Terminated

    if threading.current_thread() is not threading.main_thread():  # only there may handlers be set
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


def _say(line: str, stream: TextIO | None, end: str = "\n") -> bool:
    """Print a line; False if the stream cannot take it (the disk is full, its reader is gone)."""
    if stream is None:  # closed before we began: nobody asks for it
        return True
    try:
        print(line, end=end, file=stream, flush=True)
    except OSError:
        _silence(stream)
        return False
    return True


def _complain(message: str) -> None:
    """Print an error; where not even stderr takes it, the exit code has to do."""
    _say(f"cellrt: {message}", sys.stderr)


def _silence(stream: TextIO) -> None:
    """Send what a stream still holds, and all that follows, to nowhere: else Python fails on it again at exit."""
    with contextlib.suppress(OSError):  # a host program's stream may have no number
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _parser() -> argparse.ArgumentParser:
    """The arguments of every command; argparse exits with 2 when they are wrong."""
    parser = argparse.ArgumentParser(prog="cellrt", description="Run trained cell-segmentation networks.")
    parser.add_argument("--version", action="version", version=f"cellrt {cellrt.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    segment = commands.add_parser(
        "segment",
        help="find the cells of images",
        description="Find the cells of images and write them as labels, tables and polygons. An image that fails is "
        "listed at the end and the others are done.",
        epilog="Results are named after the image's file without its extension: cell.tif gives cell_labels.tif and "
        "cell.csv. Where two images of one call would share a name, the extension tells them apart (cell_tif, "
        "cell_png), else the folder (A1/cell). A later call replaces results of the same name, also those of another "
        "image: d.tif and then d.png both give d.csv. Images and files that cellrt did not write are never replaced. "
        "Results that an earlier call left for an image that now fails are renamed to *.old.",
    )
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
    segment.add_argument("--axes", type=_axes, help="axes of the images, such as CYX (default: as the file says)")
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
    """Segment a batch; what would stop all of it is found out before the first image."""
    images = readers.find_images(arguments.images, write.is_output)
    stems = [arguments.output / stem for stem in readers.unique_stems(images)]
    formats = write.check(arguments.save)
    readers.require_for(images)
    outputs = [write.paths_of(stem, formats) for stem in stems]
    _check_outputs(images, (path for paths in outputs for path in paths))
    model = load(arguments.model, providers=arguments.providers, threads=arguments.threads)
    _make_folder(arguments.output)
    for folder in {arguments.output, *(stem.parent for stem in stems)}:
        write.sweep(folder)

    failures: list[str] = []
    told = True
    progress = sys.stderr is not None and sys.stderr.isatty()
    for index, (image, stem, paths) in enumerate(zip(images, stems, outputs, strict=True)):
        if progress:
            _say(f"\r{index + 1}/{len(images)} {image.name}\x1b[K", sys.stderr, end="")
        try:
            line = _segment_one(model, image, stem, arguments)
        except (CellrtError, OSError, MemoryError) as error:
            advice = "expected the image to fit in memory; ask for more and smaller tiles with --tiles"
            reason = advice if isinstance(error, MemoryError) else str(error)
            # Results of an earlier run must not pass for this one's. They are not deleted either: a wrong option would
            # cost all of them.
            older = ", ".join(path.name for path in write.set_aside(paths))
            stale = ", ".join(path.name for path in paths if os.path.exists(path))
            reason += f" (results of an earlier run are kept as {older})" if older else ""
            reason += f" ({stale}: still of an earlier run)" if stale else ""
            failures.append(f"{image}: {reason}")
            line = f"{image}  failed"
        if progress:
            _say("\r\x1b[K", sys.stderr, end="")
        # The files are the product and the lines a report: a batch that runs over night is not given up because its
        # log's disk is full or its pager was closed.
        told = _say(line, sys.stdout) and told
    for failure in failures:
        _complain(failure)
    if failures:
        _complain(f"{len(failures)} of {len(images)} images failed")
    if not told:
        _complain(
            f"expected to print a line for each image, got a stdout that cannot be written; all {len(images)} images "
            f"were worked on, see {arguments.output}"
        )
    return FAILED if failures or not told else OK


def _check_outputs(images: Iterable[Path], outputs: Iterable[Path]) -> None:
    """Raise if a result would take the place of an image of this run, or of a file that is not cellrt's."""
    # by what the file system says: one file has many paths (links, upper and lower case)
    taken = {_identity(image) for image in images}
    for output in outputs:
        if not os.path.lexists(output):
            continue
        if output.exists() and _identity(output) in taken:
            raise FileError(
                f"expected results with names of their own, got {output}, which is also an image of this run; name the "
                "folder or quote the pattern, so that cellrt leaves out its own files, or choose another -o"
            )
        if not write.is_output(output):
            raise FileError(
                f"expected to replace only what cellrt wrote, got {output}, which it did not; move that, or choose "
                "another -o"
            )


def _identity(path: Path) -> tuple[int, int]:
    """Device and number of a file."""
    status = path.stat()
    return status.st_dev, status.st_ino


def _segment_one(model: Model, path: Path, stem: Path, arguments: argparse.Namespace) -> str:
    """Read, segment and write one image; returns the line to print."""
    start = time.perf_counter()
    array, axes = readers.read(path, arguments.axes)
    pixels = as_image(array, axes, arguments.channels, n_channels=model.manifest.input.n_channels)
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
    found = f"{outcome.n_objects} of {outcome.n_expected} objects"
    print(f"{model.manifest.name} on {', '.join(model.providers)}: {verdict} ({found}, {agreement})")
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
    return _integers(text, "channel numbers from 0, such as 0 or 0,1,2", 0)


def _tiles(text: str) -> tuple[int, ...]:
    """--tiles."""
    values = _integers(text, "two numbers of tiles, such as 2,3", 1)
    if len(values) != 2:
        raise argparse.ArgumentTypeError(f"expected two numbers of tiles, such as 2,3, got {text!r}")
    return values


def _threads(text: str) -> int:
    """--threads."""
    want = "a number of threads up to 4096, 0 for all usable cores"
    values = _integers(text, want, 0)
    if len(values) != 1 or values[0] > 4096:
        raise argparse.ArgumentTypeError(f"expected {want}, got {text!r}")
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
