"""The command line: `cellrt segment | models | evaluate | info | selftest | export | train`.

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
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from cellrt import cli_arguments, cli_evaluate, readers, write
from cellrt.catalogue import bundled_figures, bundled_models, load
from cellrt.errors import CellrtError, FileError
from cellrt.flow_model import FlowModel
from cellrt.flow_work import FlowMaps
from cellrt.manifest import FlowSpec, Manifest, Normalize99Spec, Star3DSpec, StarSpec
from cellrt.star_model import StarModel
from cellrt.star_model_3d import StarModel3D
from cellrt.stream import STAGES, Segmented

AnyModel = StarModel | StarModel3D | FlowModel

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
        if argv[:1] in (["export"], ["train"]):
            return _hand_over(argv[0], argv[1:])
        arguments = cli_arguments.parse(argv)
        commands = {
            "segment": _segment,
            "models": _models,
            "evaluate": _evaluate,
            "info": _info,
            "selftest": _selftest,
        }
        return commands[arguments.command](arguments)
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


def _segment(arguments: argparse.Namespace) -> int:
    """Segment a batch; what would stop all of it is found out before the first image."""
    images = _find_images(arguments)
    stems = [arguments.output / stem for stem in readers.unique_stems(images)]
    formats = write.check(arguments.save)
    readers.require_for(images)
    outputs = [write.paths_of(stem, formats) for stem in stems]
    _check_outputs(images, (path for paths in outputs for path in paths))
    model = load(arguments.model, providers=arguments.providers, threads=arguments.threads, memory=arguments.memory)
    kind = model.manifest.head.kind
    cli_arguments.check_kind(arguments, kind)
    of = "volumes" if cli_arguments.are_volumes(arguments, kind) else "images"
    write.check(formats, of, has_polyhedra=kind == "star3d")
    options = _flow_options(model, arguments) if isinstance(model, FlowModel) else _star_options(model, arguments)
    if not arguments.large:
        model.stream((), **options).close()  # of no image: it checks the options
    _make_folder(arguments.output)
    for folder in {arguments.output, *(stem.parent for stem in stems)}:
        write.sweep(folder)

    failures: list[str] = []
    told = True
    progress = sys.stderr is not None and sys.stderr.isatty()
    if arguments.large:
        outcomes = _segment_large(model, images, [paths[0] for paths in outputs], options, progress)
    else:
        outcomes = _segment_stream(model, images, stems, options, arguments)
    with contextlib.closing(outcomes):
        for index, (outcome, image, paths) in enumerate(zip(outcomes, images, outputs, strict=True)):
            if isinstance(outcome, str):
                line = f"{image}  {outcome}"
            else:
                failures.append(f"{image}: {_reason(outcome, model, paths)}")
                line = f"{image}  failed"
            if progress:
                _say("\r\x1b[K", sys.stderr, end="")
            # The files are the product and the lines a report: a batch that runs over night is not given up because
            # its log's disk is full or its pager was closed.
            told = _say(line, sys.stdout) and told
            if progress and index + 1 < len(images):
                _say(f"\r{index + 1}/{len(images)} done", sys.stderr, end="")
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


def _find_images(arguments: argparse.Namespace) -> list[Path]:
    """The images that a command names; with --large folders that are zarr arrays are images too."""
    if not arguments.large:
        return readers.find_images(arguments.images, write.is_output)
    found: list[Path] = []
    for argument in arguments.images:
        path = Path(argument)
        is_zarr = path.is_dir() and any((path / name).exists() for name in ("zarr.json", ".zarray", ".zgroup"))
        found += [path] if is_zarr else readers.find_images([argument], write.is_output)
    return list({os.path.abspath(path): path for path in found}.values())


def _segment_stream(
    model: AnyModel,
    images: Sequence[Path],
    stems: Sequence[Path],
    options: dict[str, Any],
    arguments: argparse.Namespace,
) -> Generator[str | Exception]:
    """What to say of each image, or why it failed; and where the time went, if that was asked for."""

    def save(result: Segmented) -> None:
        _save(model, result, stems[result.index], arguments)

    with model.stream(images, write=save, **options) as results:
        for result in results:
            if result.error is None:
                yield _told(result, arguments)
            elif isinstance(result.error, (CellrtError, OSError, MemoryError)):
                yield result.error
            else:
                raise result.error
    if arguments.profile:
        _say(_occupancy(results.profile), sys.stderr)


def _segment_large(
    model: AnyModel, images: Sequence[Path], sinks: Sequence[Path], options: dict[str, Any], progress: bool
) -> Generator[str | Exception]:
    """The same for images that are read and written part by part."""
    from cellrt.large.files import open_image

    axes = options.pop("axes")
    parts = tiles = "tiles" if options.get("stitch_threshold") is None else "planes"
    if options.get("do_3D"):  # which ends with steps of other kinds
        parts, tiles = "steps", "groups of planes"

    def tell(done: int, total: int) -> None:
        if progress:
            _say(f"\r{done}/{total} {parts}\x1b[K", sys.stderr, end="")

    for image, sink in zip(images, sinks, strict=True):
        start = time.perf_counter()
        try:
            with open_image(image) as (pixels, stored_axes):
                found = model.segment_large(pixels, sink, axes=axes or stored_axes, progress=tell, **options)
            seconds = time.perf_counter() - start
            resumed = f"{found.n_resumed} of {found.n_tiles} {tiles} were done before  " if found.n_resumed else ""
            rate = math.prod(found.shape) / 1e6 / seconds
            unit = "megavoxels" if len(found.shape) == 3 else "megapixels"
            yield f"{len(found)} objects  {resumed}{seconds:.2f} s  {rate:.2f} {unit}/s"
        except (CellrtError, OSError, MemoryError) as error:
            yield error


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


def _told(result: Segmented, arguments: argparse.Namespace) -> str:
    """The line of an image that was done."""
    assert result.instances is not None
    seconds = sum(result.seconds.values())
    rate = result.instances.labels.size / 1e6 / seconds
    unit = "megavoxels" if result.instances.is_volume else "megapixels"
    estimated = isinstance(result.maps, FlowMaps) and arguments.diameter is None
    remark = f"diameter {result.maps.diameter:.1f}  " if estimated else ""
    return f"{len(result.instances)} objects  {remark}{seconds:.2f} s  {rate:.2f} {unit}/s"


def _reason(error: Exception, model: AnyModel, paths: Sequence[Path]) -> str:
    """Why an image failed, and what became of the results of earlier runs for it."""
    smaller = "--tiles upstream" if isinstance(model, FlowModel) else "more and smaller tiles with --tiles"
    advice = f"expected the image to fit in memory; ask for {smaller}, or cut the image"
    reason = advice if isinstance(error, MemoryError) else str(error)
    # Results of an earlier run must not pass for this one's. They are not deleted either: a wrong option would cost all
    # of them.
    older = ", ".join(path.name for path in write.set_aside(paths))
    stale = ", ".join(path.name for path in paths if os.path.exists(path))
    reason += f" (results of an earlier run are kept as {older})" if older else ""
    return reason + (f" ({stale}: still of an earlier run)" if stale else "")


def _occupancy(profile: dict[str, float]) -> str:
    """Where the time of a run went, as text."""
    passed = profile["passed"]
    rows = [f"{stage:<10} {profile[stage]:8.2f} s  {profile[stage] / passed:4.0%}" for stage in (*STAGES, "idle")]
    told = "Stages, added up over images; workers overlap, the network runs alone and idles while it waits for them:"
    return "\n".join([told, *rows, f"{'passed':<10} {passed:8.2f} s"])


def _save(model: AnyModel, result: Segmented, stem: Path, arguments: argparse.Namespace) -> None:
    """Write the files of one image."""
    assert result.instances is not None
    assert result.pixels is not None
    if not isinstance(model, FlowModel):
        write.write(
            result.instances,
            stem,
            arguments.save,
            image=result.pixels,
            class_names=model.head.class_names,
            anisotropy=_anisotropy(model, arguments),
            source=result.source,
        )
        return
    write.write(
        result.instances,
        stem,
        arguments.save,
        image=result.pixels if "overlay" in arguments.save else None,
        maps=None if result.instances.is_volume else result.maps.maps,
        anisotropy=_anisotropy(model, arguments),
        channels=arguments.channels or ((0, 0) if len(result.pixels) == 1 else (1, 2)),
        diameter=result.maps.diameter,
        source=result.source,
    )


def _anisotropy(model: AnyModel, arguments: argparse.Namespace) -> float:
    """The distance of a volume's planes, in pixels, for its pictures."""
    if isinstance(model, StarModel3D) and model.head.anisotropy is not None:
        return min(max(model.head.anisotropy[0] / model.head.anisotropy[2], 0.01), 100)  # what pictures can show
    return float(arguments.anisotropy or 1)


def _star_options(model: StarModel | StarModel3D, arguments: argparse.Namespace) -> dict[str, Any]:
    """What the command line asks of a star model, as options of its `segment` or `segment_large`."""
    names = ["axes", "channels", "normalize", "prob_thresh", "nms_thresh", "scale"]
    if isinstance(model, StarModel3D):
        names.append("overlap_label")
    if isinstance(model, StarModel):
        names.append("stitch_threshold")
    if not arguments.large:
        names.append("tiles")
    options = {name: getattr(arguments, name) for name in names}
    return options if arguments.mode is None else options | {"mode": arguments.mode}


def _flow_options(model: FlowModel, arguments: argparse.Namespace) -> dict[str, Any]:
    """What the command line asks of a flow model, as options of its `segment` or `segment_large`."""
    names = (
        *("axes", "channels", "normalize", "invert", "flow_threshold", "cellprob_threshold", "niter", "min_size"),
        *("resample", "tiles", "stitch_threshold", "anisotropy"),
    )
    options = {name: getattr(arguments, name) for name in names}
    options |= {"do_3D": bool(arguments.do_3D), "flow3D_smooth": arguments.flow3D_smooth or 0.0}
    return options | {
        "diameter": model.head.diam_labels if arguments.diameter == "model" else arguments.diameter,
        "augment": arguments.augment is not None,
    }


def _evaluate(arguments: argparse.Namespace) -> int:
    """Compare predicted with true labels; what cannot be compared is listed at the end."""
    predicted, truth = cli_evaluate.find(arguments.pred), cli_evaluate.find(arguments.truth)
    outputs = [path for path in (arguments.json, arguments.csv) if path is not None]
    cli_evaluate.check_outputs(outputs, [*predicted, *truth])
    evaluation = cli_evaluate.evaluate(predicted, truth, arguments.threshold)
    if evaluation.rows:
        cli_evaluate.save(evaluation, arguments.json, arguments.csv)
        for line in cli_evaluate.table(evaluation):
            print(line)
    for problem in evaluation.problems:
        _complain(problem)
    if evaluation.problems:
        n_images = len(evaluation.rows) + len(evaluation.problems)
        _complain(f"{len(evaluation.problems)} of {n_images} images were not compared")
    return FAILED if evaluation.problems else OK


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
    head, tile, source, memory = manifest.head, manifest.tile, manifest.source, manifest.memory
    rows = [
        ("name", manifest.name),
        ("description", manifest.description),
        *(_flow_rows(head) if isinstance(head, FlowSpec) else _star_rows(head)),
        ("channels", str(manifest.input.n_channels)),
        ("normalisation", _normalisation(manifest)),
        ("receptive field", f"{_by(tile.receptive_field)} pixels, halo {tile.halo}"),
        ("sizes", f"multiples of {_by(tile.multiple)}; other images are padded"),
        ("memory", "" if memory is None else f"about {memory.bytes_per_pixel / 1000:.2f} kB per pixel"),
        ("source", f"{source.upstream}: {source.name}"),
        ("weights sha256", source.sha256),
        ("licence", source.licence),
        ("exported by", source.exporter),
        ("self-test", "yes" if manifest.selftest else "no"),
    ]
    return [(key, value) for key, value in rows if value]


def _by(sides: tuple[int, ...]) -> str:
    """Sides as people write them."""
    return " x ".join(map(str, sides))


def _star_rows(head: StarSpec | Star3DSpec) -> list[tuple[str, str]]:
    """What is particular to star models."""
    return [
        ("head", f"{head.kind}: {head.n_rays} rays, grid {_by(head.grid)}"),
        ("rays", _rays(head) if isinstance(head, Star3DSpec) else ""),
        ("classes", "" if head.n_classes is None else ", ".join(head.class_names or [f"{head.n_classes}"])),
        ("thresholds", f"probability {head.prob_thresh:.4g}, overlap {head.nms_thresh:.4g}"),
    ]


def _rays(head: Star3DSpec) -> str:
    """Which directions, and how pixels are stretched, in words."""
    if head.anisotropy is None:
        return head.rays.name
    return f"{head.rays.name}, anisotropy {' x '.join(f'{size:.4g}' for size in head.anisotropy)} (z, y, x)"


def _flow_rows(head: FlowSpec) -> list[tuple[str, str]]:
    """What is particular to flow models."""
    dialect = {"v3": "Cellpose 1 to 3", "v4": "Cellpose 4"}[head.dynamics]
    thresholds = f"flow error {head.flow_threshold:.4g}, cell logit {head.cellprob_threshold:.4g}"
    return [
        ("head", f"{head.kind}: dynamics {head.dynamics} ({dialect})"),
        ("diameter", f"{head.diam_mean:.4g} pixels for the network; trained on {head.diam_labels:.4g}"),
        ("size model", "no" if head.size_model is None else "yes: the diameter is estimated for each image"),
        ("thresholds", f"{thresholds}, at least {head.min_size} pixels"),
        ("tiles", f"{head.tile} x {head.tile} pixels{_other_tiles(head)}"),
        ("flows", f"followed at the {'image' if head.resample else 'network'}'s resolution"),
        ("style", f"{head.n_style} values" if head.n_style else "none"),
    ]


def _other_tiles(head: FlowSpec) -> str:
    """Whether tiles may be of another size."""
    if head.fixed_tile:
        return ", no others"
    return ", or large ones, which are used unless told otherwise" if head.tiles == "large" else ", or large ones"


def _normalisation(manifest: Manifest) -> str:
    """The normalisation in words."""
    spec = manifest.normalize
    if not isinstance(spec, Normalize99Spec):
        return f"percentiles {spec.low:g} and {spec.high:g}, {'jointly' if spec.joint else 'each channel'}"
    steps = [
        f"smoothed by {spec.smooth_radius:g} pixels" if spec.smooth_radius else "",
        f"sharpened by {spec.sharpen_radius:g} pixels" if spec.sharpen_radius else "",
        f"percentiles {spec.low:g} and {spec.high:g}, each channel" if spec.lowhigh is None else "fixed grey values",
        f"in blocks of {spec.tile_blocksize} pixels" if spec.tile_blocksize and spec.lowhigh is None else "",
        "inverted" if spec.invert else "",
    ]
    return ", ".join(step for step in steps if step)


def _selftest(arguments: argparse.Namespace) -> int:
    """Run a model's self-test on this machine."""
    model = load(arguments.model, providers=arguments.providers, threads=arguments.threads)
    outcome = model.selftest()
    agreement = "identical bits" if outcome.identical else f"largest difference {outcome.largest_difference:.2g}"
    verdict = "passed" if outcome.passed else "FAILED"
    found = f"{outcome.n_objects} of {outcome.n_expected} objects"
    print(f"{model.manifest.name} on {', '.join(model.providers)}: {verdict} ({found}, {agreement})")
    return OK if outcome.passed else FAILED


def _models(arguments: argparse.Namespace) -> int:
    """List the bundled models."""
    figures = bundled_figures()
    rows = [("NAME", "FINDS", "KIND", "SIZE", "LICENCE", "PRECISION", "TIME")]
    for name, path in bundled_models().items():
        manifest, found = load(name, providers=["cpu"]).manifest, figures.get(name)
        measured = ("", "")
        if found is not None:
            measured = (
                f"{found.ap50:.2f} on {found.images} images",
                f"{found.seconds:.2g} s for {found.side} x {found.side}, {found.threads} threads",
            )
        size = f"{path.stat().st_size / 1e6:.1f} MB"
        rows.append((name, manifest.description, manifest.head.kind, size, manifest.source.licence, *measured))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
    return OK


def _hand_over(name: str, argv: list[str]) -> int:
    """Run a command of the exporter: a package of its own with requirements of its own, which announces it."""
    try:
        (entry,) = importlib.metadata.entry_points(group="cellrt.commands", name=name)
        command = entry.load()
    except (ImportError, ValueError) as error:  # ValueError: no such entry point
        raise CellrtError(
            f"expected the requirements of `cellrt {name}` to be installed, got: {error}; "
            f"run: pip install 'cellrt[{name}]'"
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
