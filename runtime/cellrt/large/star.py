"""Star models on images larger than memory: candidates, not maps, are kept of each tile, and suppressed all together.

Planes and volumes go the same way; what each does of its own is in `_layout` and `_objects`. The cells are those of
`segment` on the whole image: percentiles are the whole image's, a candidate comes from where its tile knows as much as
the whole would, and suppression and painting know no tiles.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import numbers
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellrt import kernels
from cellrt.errors import CellrtError
from cellrt.heads import star, star_3d
from cellrt.large.ahead import ahead
from cellrt.large.journal import Journal, journal_for
from cellrt.large.paint import PolygonPainter, PolyhedronPainter
from cellrt.large.percentiles import percentiles
from cellrt.large.planes import Plane, Way
from cellrt.large.planes import segment as segment_planes
from cellrt.large.result import LargeInstances
from cellrt.large.settle import LongRaysError, Settler
from cellrt.large.sink import Paint, Sink, open_sink
from cellrt.large.source import Sliceable, Source
from cellrt.manifest import Manifest, PercentileSpec, Star3DSpec, StarSpec, TileSpec, pair, triple
from cellrt.normalize import scaled, scaled_volume, scaling
from cellrt.pool import Network, Work
from cellrt.resize import zoom_linear_part, zoom_linear_part_3d, zoom_source
from cellrt.tile import Span, Tile, padded, plan

_MAX_SIDE = 1 << 30  # of what the kernels can address


@dataclass(frozen=True)
class StarRun:
    """How a star model is run on a large image; units and defaults are those of the models' `segment_large`."""

    axes: str | None
    channels: int | Sequence[int] | None
    normalize: PercentileSpec | None
    lowhigh: tuple[float, float] | None  # grey values instead of percentiles
    prob_thresh: float
    nms_thresh: float
    factors: tuple[float, ...]  # pixels that the network sees per pixel of the image, (y, x) or (z, y, x)
    tile_pixels: int
    max_candidates: int
    threads: int
    painting: star_3d.Painting | None = None  # of volumes


def segment(
    source: Sliceable,
    sink: Any,
    *,
    manifest: Manifest,
    network: Callable[[NDArray[np.float32]], dict[str, NDArray[np.float32]]],
    run: StarRun,
    work: str | Path | None,
    progress: Callable[[int, int], None] | None,
) -> LargeInstances:
    """Segment an image tile by tile; see `StarModel.segment_large`, and `StarModel3D.segment_large` for volumes.

    `network` takes float32 (1, C, y, x) and gives ``maps`` float32 (1, M, y / grid, x / grid), z before y for volumes.
    """
    head = manifest.head
    assert isinstance(head, (StarSpec, Star3DSpec))  # of a star model
    n_axes = len(head.grid)
    image = Source(source, axes=run.axes, channels=run.channels, n_channels=manifest.input.n_channels, n_axes=n_axes)
    out_shape = image.shape[1:]
    out = open_sink(sink, out_shape)
    overlap_label = None if run.painting is None else run.painting.overlap_label
    if overlap_label is not None and overlap_label < 0 and not out.is_signed:
        raise CellrtError(
            f"expected an overlap_label of at least 0 for labels without a sign, got {overlap_label}; choose another, "
            "or write to an array of int32"
        )
    shape = _scaled_shape(out_shape, run.factors)
    tiles, candidates_in = _layout(head, manifest.tile, shape, run)
    key = _key(image, manifest, run) | {"tiles": [len(tiles), *tiles[0].shape]}
    with journal_for(sink, work, key, scratch=False) as journal:
        low, divisor = _range(image, run, journal)
        computed: set[int] = set()

        def prepared(index: int) -> tuple[int, kernels.Candidates | NDArray[np.float32]]:
            """The candidates of a tile from an earlier run, or what the network gets."""
            found = None if journal is None else _restored(journal, index)
            return index, found or _network_input(image, tiles[index], low, divisor, run, shape)

        def candidates(item: tuple[int, kernels.Candidates | NDArray[np.float32]]) -> kernels.Candidates:
            """Of a tile, from the network or from an earlier run."""
            index, found = item
            if isinstance(found, tuple):
                return found
            computed.add(index)
            found = candidates_in(network(found[np.newaxis])["maps"][0], tiles[index])
            if journal is not None:
                names = ("prob", "dist", "points", "class_prob")
                arrays = {name: array for name, array in zip(names, found, strict=True) if array is not None}
                journal.write(index, compress=False, **arrays)
            return found

        def stream() -> Generator[kernels.Candidates]:
            """The candidates of all tiles: one is read while the network has another and a third one is decided."""
            return ahead(candidates, ahead(prepared, range(len(tiles))))

        try:
            survivors = _survivors(tiles, stream(), head, run, along=True, progress=progress)
        except LongRaysError:  # once more, from the journal where there is one
            survivors = _survivors(tiles, stream(), head, run, along=False, progress=progress)
        objects, painter = _objects(head, survivors, out, run)
        out.write(painter)
    return dataclasses.replace(objects, n_tiles=len(tiles), n_resumed=len(tiles) - len(computed))


def segment_stack(
    source: Sliceable,
    sink: Any,
    *,
    manifest: Manifest,
    begin: Callable[[NDArray[np.float32]], Work],
    end: Callable[[Work], Plane],
    network: Network,
    threshold: float,
    run: StarRun,
    work: str | Path | None,
    progress: Callable[[int, int], None] | None,
) -> LargeInstances:
    """Segment a stack plane by plane; see `StarModel.segment_large`.

    `begin` takes the pixels (C, y, x) of a plane, normalised, `end` the plane when its tiles came back.
    """
    n_channels = manifest.input.n_channels
    image = Source(source, axes=run.axes, channels=run.channels, n_channels=n_channels, n_axes=3)
    out = open_sink(sink, image.shape[1:])
    key = _key(image, manifest, run) | {"nms_thresh": run.nms_thresh, "stitch_threshold": threshold}
    with journal_for(sink, work, key, scratch=True) as journal:
        assert journal is not None  # there is one in any case
        low, divisor = _range(image, run, journal)
        way = Way(
            begin=lambda pixels: begin(_scaled(pixels, low, divisor, pixels.shape[1:], run.threads)),
            end=end,
            network=network,
            threshold=threshold,
            cleaning=None,
            threads=run.threads,
        )
        return segment_planes(image, out, journal, way=way, progress=progress)


def _layout(
    head: StarSpec | Star3DSpec, spec: TileSpec, shape: tuple[int, ...], run: StarRun
) -> tuple[Sequence[Tile], Callable[[NDArray[np.float32], Tile], kernels.Candidates]]:
    """The tiles of an image as the network sees it, and what finds the candidates of one, given its maps and itself."""
    options: dict[str, Any] = {
        "prob_thresh": run.prob_thresh,
        "nms_thresh": run.nms_thresh,
        "threads": run.threads,
        "max_candidates": run.max_candidates,
    }
    full = padded(shape, spec.multiple)
    tiles = plan(full, halo=spec.halo, multiple=spec.multiple, max_pixels=run.tile_pixels)
    collector: star.Collector | star_3d.Collector3D
    if isinstance(head, StarSpec):
        collector = star.Collector(head, shape=shape, padded=full, **options)
    else:
        collector = star_3d.Collector3D(head, shape=shape, padded=full, **options)

    def in_tile(maps: NDArray[np.float32], tile: Tile) -> kernels.Candidates:
        return collector.candidates(maps, origin=tile.origin, window=tile.window(head.grid))

    return tiles, in_tile


def _objects(
    head: StarSpec | Star3DSpec, survivors: kernels.Candidates, out: Sink, run: StarRun
) -> tuple[LargeInstances, Paint]:
    """What is known of the objects, and what paints them."""
    *scale_z, scale_y, scale_x = (1 / factor for factor in run.factors)
    if isinstance(head, StarSpec):
        polygons = star.outlined(head, survivors, scale=(scale_y, scale_x), threads=run.threads)
        objects = LargeInstances(
            out.shape, polygons.prob, polygons.points, polygons.outlines, polygons.classes, polygons.class_prob
        )
        return objects, PolygonPainter(
            polygons.outlines[0].reshape(-1, head.n_rays, 2),
            star.painting_order(polygons.prob),
            shape=out.shape,
            block=out.block,
            threads=run.threads,
        )
    prob, dist, points, class_prob = survivors
    scale = (scale_z[0], scale_y, scale_x)
    bodies = star_3d.polyhedra(head, dist, scale=scale)
    centres = points.astype(np.float64) * scale
    classes = None if class_prob is None else class_prob.argmax(axis=1).astype(np.int32)
    objects = LargeInstances(out.shape, prob, centres.astype(np.float32), None, classes, class_prob, polyhedra=bodies)
    return objects, PolyhedronPainter(
        bodies,
        centres,
        run.painting or star_3d.Painting(),
        shape=out.shape,
        block=out.block,
        threads=run.threads,
    )


def _survivors(
    tiles: Sequence[Tile],
    candidates: Generator[kernels.Candidates],
    head: StarSpec | Star3DSpec,
    run: StarRun,
    *,
    along: bool,
    progress: Callable[[int, int], None] | None,
) -> kernels.Candidates:
    """The survivors of all tiles' candidates; `along` as for `Settler`."""
    settler = Settler(
        head, nms_thresh=run.nms_thresh, max_candidates=run.max_candidates, along=along, threads=run.threads
    )
    with contextlib.closing(candidates):
        for index, (tile, found) in enumerate(zip(tiles, candidates, strict=True)):
            settler.add(found)
            ends, last = ([end for _, end in one.keeps] for one in (tile, tiles[-1]))
            if ends[1:] == last[1:]:  # the last of a row of tiles, or of a layer
                settler.settle(ends[0])
            elif ends[2:] and ends[2:] == last[2:]:  # of a row in a layer
                settler.settle(tile.keeps[0][0], (ends[0], ends[1]))
            if progress is not None:
                progress(index + 1, len(tiles))
    return settler.survivors()


def _scaled_shape(shape: tuple[int, ...], factors: tuple[float, ...]) -> tuple[int, ...]:
    """The image as the network sees it, before padding."""
    sides = tuple(round(side * factor) for side, factor in zip(shape, factors, strict=True))
    if not 1 <= min(sides) <= max(sides) < _MAX_SIDE:
        new, old = (" x ".join(map(str, numbers)) for numbers in (sides, shape))
        raise CellrtError(
            f"expected a rescaled image with sides of 1 to {_MAX_SIDE - 1}, got {new} from {old} with scale {factors}; "
            "choose another"
        )
    return sides


def _key(image: Source, manifest: Manifest, run: StarRun) -> dict[str, Any]:
    """What makes a run the same: all that the candidates of a tile, or the labels of a plane depend on."""
    return {
        "model": hashlib.sha256(manifest.to_json().encode()).hexdigest(),
        "cellrt": kernels.version(),
        "image": image.fingerprint(),
        "normalize": None if run.normalize is None else dataclasses.asdict(run.normalize),
        "lowhigh": run.lowhigh,
        "prob_thresh": run.prob_thresh,
        "scale": run.factors,
    }


def _range(image: Source, run: StarRun, journal: Journal | None) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What becomes 0 in each channel and the distance from there to what becomes 1; noted for the next run."""
    if journal is not None and journal.found is not None:
        return np.array(journal.found["low"], np.float32), np.array(journal.found["divisor"], np.float32)
    n_channels = image.shape[0]
    if run.lowhigh is not None:
        first, last = run.lowhigh
        low, divisor = np.full(n_channels, first, np.float32), np.full(n_channels, last - first, np.float32)
    elif run.normalize is not None:
        spec = run.normalize
        found = percentiles(image, (spec.low, spec.high), joint=spec.joint)
        low, divisor = scaling(found, spec, n_channels=n_channels)
    else:
        low, divisor = np.zeros(n_channels, np.float32), np.ones(n_channels, np.float32)
    if journal is not None:
        journal.begin({"low": low.tolist(), "divisor": divisor.tolist()})
    return low, divisor


def _restored(journal: Journal, index: int) -> kernels.Candidates | None:
    """The candidates of a tile that an earlier run finished."""
    stored = journal.read(index)
    return None if stored is None else (stored["prob"], stored["dist"], stored["points"], stored.get("class_prob"))


def _network_input(
    image: Source,
    tile: Tile,
    low: NDArray[np.float32],
    divisor: NDArray[np.float32],
    run: StarRun,
    shape: tuple[int, ...],
) -> NDArray[np.float32]:
    """What the network gets for a tile, float32 (C, ...): as if cut from the whole image, normalised and padded."""
    spans = tuple(_mirrored(span, side) for span, side in zip(tile.reads, shape, strict=True))
    out_shape = tuple(end - begin for (_, end), (begin, _) in zip(tile.reads, spans, strict=True))
    if all(factor == 1 for factor in run.factors):
        ready = _scaled(image.read(*spans), low, divisor, out_shape, run.threads)
    else:
        sides = image.shape[1:]
        window = [zoom_source(*axis) for axis in zip(sides, run.factors, spans, strict=True)]
        window_shape = tuple(end - begin for begin, end in window)
        part = _scaled(image.read(*window), low, divisor, window_shape, run.threads)
        zoomed = _zoomed(part, run.factors, sides, spans)
        same = np.zeros(len(zoomed), np.float32), np.ones(len(zoomed), np.float32)
        ready = _scaled(zoomed, *same, out_shape, run.threads)
    begins = (slice(wanted - begin, None) for (wanted, _), (begin, _) in zip(tile.reads, spans, strict=True))
    return np.ascontiguousarray(ready[(slice(None), *begins)])


def _scaled(
    pixels: NDArray[Any],
    low: NDArray[np.float32],
    divisor: NDArray[np.float32],
    out_shape: tuple[int, ...],
    threads: int,
) -> NDArray[np.float32]:
    """The pixels of a plane or a volume, normalised and padded at the end of each axis."""
    if len(out_shape) == 2:
        return scaled(pixels, low, divisor, out_shape=pair(out_shape), threads=threads)
    return scaled_volume(pixels, low, divisor, out_shape=triple(out_shape), threads=threads)


def _zoomed(
    part: NDArray[np.float32], factors: tuple[float, ...], sides: tuple[int, ...], spans: tuple[Span, ...]
) -> NDArray[np.float32]:
    """A window of the rescaled plane or volume."""
    *span_z, span_y, span_x = spans
    *factor_z, factor_y, factor_x = factors
    if not span_z:
        return zoom_linear_part(part, (factor_y, factor_x), shape=pair(sides), spans=(span_y, span_x))
    factors_3d, spans_3d = (factor_z[0], factor_y, factor_x), (span_z[0], span_y, span_x)
    return zoom_linear_part_3d(part, factors_3d, shape=triple(sides), spans=spans_3d)


def _mirrored(span: Span, side: int) -> Span:
    """What to read along an axis for a span that may reach beyond the image, where it is mirrored."""
    beyond = max(0, span[1] - side)
    return (min(span[0], max(0, side - 1 - beyond)) if beyond else span[0]), span[1] - beyond


def require_pair(lowhigh: Any) -> tuple[float, float]:
    """Two grey values that rise, or an error."""
    values = tuple(lowhigh) if isinstance(lowhigh, (tuple, list, np.ndarray)) else ()
    real = len(values) == 2 and all(isinstance(value, numbers.Real) for value in values)
    if not real or not -np.inf < values[0] < values[1] < np.inf:
        raise CellrtError(f"expected lowhigh as two grey values that rise, got {lowhigh!r}")
    return float(values[0]), float(values[1])
