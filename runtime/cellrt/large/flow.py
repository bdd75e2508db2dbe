"""Flow models on images larger than memory: each tile becomes labels, and what lies on seams is put together.

A tile is segmented like an image of its own, normalised by the whole image's grey values. What differs from the whole
image at once: the network's style is a tile's; resized tiles begin where their samples fall on the whole image's, to
about a hundredth of a pixel; and the network sees zeros beyond a tile's cuts, at least a halo away from what counts.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellrt import kernels
from cellrt.errors import CellrtError
from cellrt.instances import Instances
from cellrt.large.journal import Journal, journal_for
from cellrt.large.planes import Cleaning, Plane, Way
from cellrt.large.planes import segment as segment_planes
from cellrt.large.result import LargeInstances
from cellrt.large.seams import Found, SeamPainter, describe, merge
from cellrt.large.sink import open_sink
from cellrt.large.source import Sliceable, Source
from cellrt.manifest import Manifest, Normalize99Spec
from cellrt.normalize99 import Scaling99, sample_steps, scaled99, scaling99
from cellrt.pool import Network, Work
from cellrt.tile import Span, Tile, padded, plan

_STEP = 16  # pixels: tiles are laid out on such a lattice
_SEARCH = 32  # pixels: how far a tile may be extended to begin or end where samples fall together
_CACHE = 1 << 27  # bytes of labels that are kept while seams are compared and labels are painted


@dataclass(frozen=True)
class StackRun:
    """How a flow model is run on the planes of a large stack; units are those of `FlowModel.segment_large`."""

    axes: str | None
    normalize: Normalize99Spec | None
    threads: int
    options: Mapping[str, Any]  # whatever else the result depends on, as JSON has it


@dataclass(frozen=True)
class FlowRun(StackRun):
    """The same of a large image, which is cut into tiles."""

    rescale: np.floating[Any]  # pixels that the network sees per pixel of the image
    halo: int
    tile_pixels: int


def segment(
    source: Sliceable,
    sink: Any,
    *,
    manifest: Manifest,
    choose: Callable[[NDArray[Any]], NDArray[np.float32]],
    decode: Callable[[NDArray[np.float32]], Instances],
    run: FlowRun,
    work: str | Path | None,
    progress: Callable[[int, int], None] | None,
) -> LargeInstances:
    """Segment an image tile by tile; see `FlowModel.segment_large`.

    `choose` takes pixels (C, y, x) and gives the channels that the network gets; `decode` takes them, normalised.
    """
    require_parts(run.normalize)
    image = Source(source, axes=run.axes, channels=None, n_channels=None, convert=choose)
    shape = (image.shape[1], image.shape[2])
    out = open_sink(sink, shape)
    tiles = _tiles(shape, run)
    key = _key(image, manifest, run) | {"tiles": [list(dataclasses.astuple(tile)) for tile in tiles]}
    with journal_for(sink, work, key, scratch=True) as journal:
        assert journal is not None  # there is one in any case
        scaling = scaling_of(image, run.normalize, journal, threads=run.threads)
        found, n_resumed = [], 0
        for index, tile in enumerate(tiles):
            one = _restored(journal, index)
            n_resumed += one is not None
            if one is None:
                pixels = np.asarray(image.read(tile.read_y, tile.read_x), np.float32)
                if run.normalize is not None:
                    pixels = scaled99(pixels, scaling, run.normalize, threads=run.threads)
                cells = decode(pixels)
                one = describe(cells.labels, cells.scores, tile, shape)
                dtype = np.uint16 if len(cells) <= np.iinfo(np.uint16).max else np.int32
                arrays = {field.name: getattr(one, field.name) for field in dataclasses.fields(Found)}
                journal.write(index, compress=True, labels=cells.labels.astype(dtype), **arrays)
            found.append(one)
            if progress is not None:
                progress(index + 1, len(tiles))
        labels = _Labels(journal)
        merged = merge(tiles, found, labels, threads=run.threads)
        out.write(SeamPainter(tiles, merged, labels))
    return LargeInstances(
        shape, merged.scores, merged.points, None, None, None, n_tiles=len(tiles), n_resumed=n_resumed
    )


def segment_stack(
    source: Sliceable,
    sink: Any,
    *,
    manifest: Manifest,
    choose: Callable[[NDArray[Any]], NDArray[np.float32]],
    begin: Callable[[NDArray[np.float32]], Work],
    end: Callable[[Work, int], Plane],
    network: Network,
    threshold: float,
    min_size: int,
    dynamics: str,
    run: StackRun,
    work: str | Path | None,
    progress: Callable[[int, int], None] | None,
) -> LargeInstances:
    """Segment a stack plane by plane; see `FlowModel.segment_large`.

    `choose` takes pixels (C, z, y, x) and gives the channels that the network gets; `begin` takes them, normalised, of
    a plane; `end` decodes a plane, whose objects have at least so many pixels.
    """
    require_parts(run.normalize)
    image = Source(source, axes=run.axes, channels=None, n_channels=None, convert=choose, n_axes=3)
    out = open_sink(sink, image.shape[1:])
    key = _key(image, manifest, run) | {"stitch_threshold": threshold}
    with journal_for(sink, work, key, scratch=True) as journal:
        assert journal is not None  # there is one in any case
        scaling = scaling_of(image, run.normalize, journal, threads=run.threads)

        def normalized(pixels: NDArray[np.float32]) -> Work:
            if run.normalize is not None:
                pixels = scaled99(pixels, scaling, run.normalize, threads=run.threads)
            return begin(pixels)

        # What is small in a plane may be the end of something large.
        of_plane = min_size if image.shape[1] == 1 else -1
        way = Way(
            begin=normalized,
            end=lambda plane: end(plane, of_plane),
            network=network,
            threshold=threshold,
            cleaning=Cleaning(min_size, dynamics),
            threads=run.threads,
        )
        return segment_planes(image, out, journal, way=way, progress=progress)


def require_parts(spec: Normalize99Spec | None) -> None:
    """Refuse a normalisation that the grey values of the whole image do not suffice for."""
    if spec is not None and (spec.smooth_radius > 0 or spec.sharpen_radius > 0 or spec.tile_blocksize > 0):
        raise CellrtError(
            "expected a normalisation by percentiles or grey values for a large image, got smoothing, sharpening or "
            "blocks, which need the whole image; leave them out or prepare the image before"
        )


def _key(image: Source, manifest: Manifest, run: StackRun) -> dict[str, Any]:
    """What makes a run the same: all that the labels of a tile or a plane depend on."""
    return {
        "model": hashlib.sha256(manifest.to_json().encode()).hexdigest(),
        "cellrt": kernels.version(),
        "image": image.fingerprint(),
        "normalize": None if run.normalize is None else dataclasses.asdict(run.normalize),
        **run.options,
    }


def scaling_of(image: Source, spec: Normalize99Spec | None, journal: Journal, *, threads: int) -> Scaling99 | None:
    """What the percentiles of the whole image or volume say; noted for the next run."""
    if journal.found is not None:
        stored = journal.found["scaling"]
        return None if stored is None else Scaling99(**{name: tuple(values) for name, values in stored.items()})
    scaling = None
    if spec is not None and spec.lowhigh is None:
        scaling = _measured(image, spec, threads)
    journal.begin({"scaling": None if scaling is None else dataclasses.asdict(scaling)})
    return scaling


def _measured(image: Source, spec: Normalize99Spec, threads: int) -> Scaling99:
    """The percentiles of the sample that `normalize99` takes of the whole, and which channels are constant."""
    n_channels, *sides = image.shape
    steps = sample_steps(tuple(sides))
    sample = np.empty((n_channels, *(-(-side // step) for side, step in zip(sides, steps, strict=True))), np.float32)
    least, most = np.full(n_channels, np.inf), np.full(n_channels, -np.inf)
    spatial = tuple(range(1, sample.ndim))
    for spans, block in image.blocks():
        np.minimum(least, block.min(axis=spatial), out=least)
        np.maximum(most, block.max(axis=spatial), out=most)
        first = [-begin % step for (begin, _), step in zip(spans, steps, strict=True)]
        part = block[(slice(None), *(slice(at, None, step) for at, step in zip(first, steps, strict=True)))]
        corner = [(begin + at) // step for (begin, _), at, step in zip(spans, first, steps, strict=True)]
        window = tuple(slice(at, at + n) for at, n in zip(corner, part.shape[1:], strict=True))
        sample[(slice(None), *window)] = part
    percents = np.array([spec.low, spec.high], np.float64)
    planes = sample.reshape(n_channels, -1, *sample.shape[-2:])
    percentiles = np.array([kernels.percentiles(one, percents, threads=threads) for one in planes])
    return scaling99(percentiles, (least == most).tolist(), spec)


def _restored(journal: Journal, index: int) -> Found | None:
    """What an earlier run found in a tile."""
    stored = journal.read(index)
    return None if stored is None else Found(**{field.name: stored[field.name] for field in dataclasses.fields(Found)})


class _Labels:
    """The labels of tiles, from the journal; the last ones that were asked for are at hand."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._held: OrderedDict[int, NDArray[Any]] = OrderedDict()

    def __call__(self, tile: int) -> NDArray[Any]:
        """The labels (y, x) that a tile found in what it read."""
        if tile not in self._held:
            stored = self._journal.read(tile)
            if stored is None:
                raise CellrtError(
                    f"expected tile {tile} in {self._journal.folder}, got nothing: somebody removed it; start again"
                )
            self._held[tile] = stored["labels"]
            while len(self._held) > 1 and sum(labels.nbytes for labels in self._held.values()) > _CACHE:
                self._held.popitem(last=False)
        self._held.move_to_end(tile)
        return self._held[tile]


def _tiles(shape: tuple[int, int], run: FlowRun) -> list[Tile]:
    """The tiles of an image, in row-major order, extended to where samples fall together."""
    halo, least = (run.halo, run.halo), (3 * run.halo) ** 2
    if shape[0] * shape[1] > run.tile_pixels < least:
        raise CellrtError(
            f"expected tile_pixels of at least {least} with a halo of {run.halo} pixels, got {run.tile_pixels}; tiles "
            "would be hardly more than their halos"
        )
    lattice = (_STEP, _STEP)
    planned = plan(padded(shape, lattice), halo=halo, multiple=lattice, max_pixels=run.tile_pixels)
    rows = {tile.read_y: _aligned(tile.read_y, shape[0], run.rescale) for tile in planned}
    columns = {tile.read_x: _aligned(tile.read_x, shape[1], run.rescale) for tile in planned}
    return [
        Tile(
            (rows[tile.read_y], columns[tile.read_x]),
            ((tile.keep_y[0], min(tile.keep_y[1], shape[0])), (tile.keep_x[0], min(tile.keep_x[1], shape[1]))),
        )
        for tile in planned
    ]


def _aligned(span: Span, side: int, rescale: np.floating[Any]) -> Span:
    """A span, a little longer, whose resized samples lie where those of the whole side lie.

    Resizing puts n samples at even distances between the edges of a side. Those of a part are the same if it begins and
    ends where samples of the whole meet, and if there are as many of them as between there.
    """
    begin, end = span[0], min(span[1], side)
    if rescale == 1 or (begin, end) == (0, side):
        return begin, end
    precision = type(rescale)
    samples = int(precision(side) * rescale) / side  # per pixel

    def mismatch(first: int, last: int) -> float:
        """How far the samples at both ends lie from those of the whole, in samples."""
        before = round(first * samples)
        at_end = last * samples - before - int(precision(last - first) * rescale)
        return abs(first * samples - before) + abs(at_end)

    begins = range(max(0, begin - _SEARCH), begin + 1) if begin else (0,)
    ends = range(end, min(side, end + _SEARCH) + 1) if end < side else (side,)
    choices = [(mismatch(first, last), last - first, (first, last)) for first in begins for last in ends]
    return min(choices)[2]
