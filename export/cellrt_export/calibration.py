"""Images and a float32 network -> the network in 8 bits (quantize), and an account of what that costs and gains here.

Passes the door: images as `segment` takes them, or their paths, and a graph with its manifest. The network sees them as
the runtime shows them to it, normalised, resized and cut: a model segments them while its session notes the extremes of
every tensor. A quarter of the images is held back; both networks segment these, and `Cost` compares their objects, maps
and times. Not here: what is computed in 8 bits and how, which quantize knows.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cellrt import metrics, readers
from cellrt.errors import CellrtError, ImageError
from cellrt.flow_model import FlowModel
from cellrt.instances import Instances
from cellrt.manifest import FlowSpec, Manifest
from cellrt.session import Outputs, Session
from cellrt.star_model import StarModel
from cellrt_export import quantize
from cellrt_export.onnxfile import GraphBuilder

Images = Sequence[str | Path | ArrayLike]
Assemble = Callable[[GraphBuilder, Manifest | None], bytes]

_LEAST_IMAGES = 2  # one to calibrate with, one to measure on
_HELD_BACK = 4  # every fourth image
_PAIRS = 5  # of runs that are timed
_FASTER = 1.05  # times as fast: less is nothing that a user would notice
_IOUS = (0.5, 0.9)


@dataclass(frozen=True)
class Cost:
    """What 8 bits cost and gain: both networks on images that the ranges were not taken from, on this machine."""

    n_images: int
    n_objects: tuple[int, int]  # found by float32, by int8
    agreement: tuple[float, float]  # average precision of int8's objects against float32's at IoU 0.5 and 0.9
    differences: Mapping[str, float]  # largest difference of each kind of map
    seconds: tuple[float, float]  # medians of segmenting the largest of the images, in float32 and in int8
    ratio: float  # median of the pairs' ratios: above 1, int8 is faster

    def rows(self) -> dict[str, str]:
        """Rows of the summary."""
        n_float, n_int8 = self.n_objects
        images = f"{self.n_images} image{'s' if self.n_images > 1 else ''} held back"
        if n_float or n_int8:
            at_half, at_most = self.agreement
            found = (
                f"{n_float} objects by float32, {n_int8} by int8 on {images}; AP {at_half:.3f} at IoU 0.5, "
                f"{at_most:.3f} at 0.9"
            )
        else:
            found = f"NOT KNOWN: no objects by either on {images}; calibrate with images that have some"
        apart = ", ".join(f"{name} {value:.2g}" for name, value in self.differences.items())
        before, after = (f"{1000 * value:.3g} ms" for value in self.seconds)
        speed = f"{self.ratio:.2f}x as fast as float32" if self.ratio > _FASTER else "NOT FASTER than float32"
        return {
            "int8 accuracy": found,
            "int8 maps": f"largest differences: {apart}",
            "int8 speed": f"{speed} on this machine: {after} against {before} for an image, median of {_PAIRS} pairs",
        }


def quantize_graph(
    graph: GraphBuilder,
    assemble: Assemble,
    manifest: Manifest,
    images: Images,
    *,
    keep: Collection[str],
    diameter: float | None = None,
) -> tuple[GraphBuilder, Cost]:
    """Make a network of 8 bits, and measure it.

    Parameters
    ----------
    graph : GraphBuilder
        Float32.
    assemble : callable
        A graph and the manifest -> the model's bytes.
    manifest : Manifest
        Of the float32 network; self-test and memory are not looked at.
    images : sequence of paths or arrays
        At least 2, as `segment` takes them, of the kind that will be segmented. Every fourth, or the last of fewer, is
        held back to measure on.
    keep : collection of str
        Nodes that stay in float32.
    diameter : float, optional
        Of the objects in the images, for a flow model. Default: as `FlowModel.segment` has it.

    Returns
    -------
    GraphBuilder
        The network in 8 bits. The same graph and images give the same one.
    Cost

    Raises
    ------
    FileError
        If an image cannot be read.
    ImageError
        If an image does not fit the network. The message says which.
    CellrtError
        If there are too few images.
    """
    if isinstance(images, (str, Path)):
        raise CellrtError(f"expected several images to calibrate with, got one path, {images}; give a list of paths")
    if len(images) < _LEAST_IMAGES:
        raise CellrtError(
            f"expected at least {_LEAST_IMAGES} images to calibrate with, one of them to measure on, got "
            f"{len(images)}; name more, about 8 of the kind that will be segmented"
        )
    options: dict[str, Any] = {} if diameter is None else {"diameter": diameter}
    step = min(_HELD_BACK, len(images))
    held_back: list[_Image] = []
    shown: list[_Image] = []
    for number, image in enumerate(images, 1):
        (shown if number % step else held_back).append(_Image(number, image))

    chosen = quantize.plan(graph, keep=keep)
    session = _Observed(assemble(graph, manifest), chosen.tensors)
    model = _model(session, manifest)
    for one in shown:
        one.segment(model, options)
    rounded = quantize.quantized(graph, chosen, session.extremes)
    exact, ours = (
        _model(Session(assemble(network, manifest), providers=["cpu"]), manifest) for network in (graph, rounded)
    )
    return rounded, _compare(exact, ours, held_back, options)


class _Observed(Session):
    """A network that keeps the extremes that tensors have had over all runs, beside giving its own outputs."""

    def __init__(self, model: bytes, tensors: Collection[str]) -> None:
        super().__init__(quantize.observing(model, tensors), providers=["cpu"])
        self._tensors = tensors
        self.extremes: dict[str, tuple[float, float]] = {}

    def run(self, batch: NDArray[np.float32]) -> Outputs:
        outputs = super().run(batch)
        found = {"image": (float(batch.min()), float(batch.max()))}
        for name, (least, largest) in (quantize.extremes_in(outputs, self._tensors) | found).items():
            before = self.extremes.get(name, (least, largest))
            self.extremes[name] = min(before[0], least), max(before[1], largest)
        return {name: outputs[name] for name in ("maps", "style") if name in outputs}


class _Image:
    """One of the images, read again whenever it is wanted: all of them together may not fit into memory."""

    def __init__(self, number: int, image: str | Path | ArrayLike) -> None:
        self._image = image
        self._name = str(image) if isinstance(image, (str, Path)) else f"image {number}"

    def segment(self, model: StarModel | FlowModel, options: Mapping[str, Any]) -> Instances:
        """Its objects."""
        pixels, axes = self.pixels()
        try:
            return model.segment(pixels, axes=axes, **options)
        except ImageError as error:
            raise ImageError(f"{self._name} of the images to calibrate with: {error}") from error

    def pixels(self) -> tuple[ArrayLike, str | None]:
        """The pixels, and the axes where the file tells them."""
        return readers.read(self._image) if isinstance(self._image, (str, Path)) else (self._image, None)


def _model(session: Session, manifest: Manifest) -> StarModel | FlowModel:
    """The model of a network and its manifest."""
    kind = FlowModel if isinstance(manifest.head, FlowSpec) else StarModel
    return kind(session, manifest, threads=0)


def _compare(
    exact: StarModel | FlowModel, ours: StarModel | FlowModel, images: Sequence[_Image], options: Mapping[str, Any]
) -> Cost:
    """Segment images by both networks."""
    scores, counts, differences = [], [], dict[str, float]()
    largest, most_pixels = images[0], 0
    for image in images:
        wanted, found = image.segment(exact, options), image.segment(ours, options)
        counts.append((len(wanted), len(found)))
        scores.append(metrics.matching(wanted.labels, found.labels, threshold=_IOUS))
        for name, value in _differences(exact, ours, image, options).items():
            differences[name] = max(differences.get(name, 0.0), value)
        if wanted.labels.size > most_pixels:
            largest, most_pixels = image, wanted.labels.size
    pooled = [metrics.pool_scores(one, by_image=False) for one in zip(*scores, strict=True)]
    times = [(_seconds(exact, largest, options), _seconds(ours, largest, options)) for _ in range(_PAIRS)]
    return Cost(
        n_images=len(images),
        n_objects=(sum(n for n, _ in counts), sum(n for _, n in counts)),
        agreement=(pooled[0].accuracy, pooled[1].accuracy),
        differences=differences,
        seconds=(statistics.median(before for before, _ in times), statistics.median(after for _, after in times)),
        ratio=statistics.median(before / after for before, after in times),
    )


def _differences(
    exact: StarModel | FlowModel, ours: StarModel | FlowModel, image: _Image, options: Mapping[str, Any]
) -> dict[str, float]:
    """The largest difference of each kind of map; of lengths and flows only where float32 sees an object."""
    pixels, axes = image.pixels()
    if isinstance(exact, FlowModel) and isinstance(ours, FlowModel):
        flows = exact.predict(pixels, axes=axes, **options)
        rounded = ours.predict(pixels, axes=axes, diameter=flows.diameter)
        inside = flows.cellprob > exact.head.cellprob_threshold
        kinds = [("flow", flows.flow, rounded.flow), ("cellprob", flows.cellprob, rounded.cellprob)]
    else:
        assert isinstance(exact, StarModel)
        assert isinstance(ours, StarModel)
        maps, other = exact.predict(pixels, axes=axes), ours.predict(pixels, axes=axes)
        inside = maps["prob"] >= exact.head.prob_thresh
        kinds = [(name, maps[name], other[name]) for name in maps]
    found = {}
    for name, one, two in kinds:
        apart = np.abs(one - two)
        found[name] = float((apart[:, inside] if name in ("dist", "flow") else apart).max(initial=0))
    return found


def _seconds(model: StarModel | FlowModel, image: _Image, options: Mapping[str, Any]) -> float:
    """How long segmenting an image takes once it is read."""
    pixels, axes = image.pixels()
    start = time.perf_counter()
    model.segment(pixels, axes=axes, **options)
    return time.perf_counter() - start
