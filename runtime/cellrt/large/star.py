"""Star models on images larger than memory: candidates, not maps, are kept of each tile, and suppressed all together.

The cells are those of `StarModel.segment` on the whole image: percentiles are the whole image's, a candidate comes from
where its tile knows as much as the whole would, and suppression and painting know no tiles.
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
from cellrt.heads import star
from cellrt.large.ahead import ahead
from cellrt.large.journal import Journal, journal_for
from cellrt.large.paint import PolygonPainter
from cellrt.large.percentiles import percentiles
from cellrt.large.result import LargeInstances
from cellrt.large.settle import LongRaysError, Settler
from cellrt.large.sink import open_sink
from cellrt.large.source import Sliceable, Source
from cellrt.manifest import Manifest, PercentileSpec, StarSpec, pair
from cellrt.normalize import scaled, scaling
from cellrt.resize import zoom_linear_part, zoom_source
from cellrt.tile import Span, Tile, padded, plan

_MAX_SIDE = 1 << 30  # of what the kernels can address


@dataclass(frozen=True)
class StarRun:
    """How a star model is run on a large image; units and defaults are those of `StarModel.segment_large`."""

    axes: str | None
    channels: int | Sequence[int] | None
    normalize: PercentileSpec | None
    lowhigh: tuple[float, float] | None  # grey values instead of percentiles
    prob_thresh: float
    nms_thresh: float
    factors: tuple[float, float]  # pixels that the network sees per pixel of the image, (y, x)
    tile_pixels: int
    max_candidates: int
    threads: int


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
    """Segment an image tile by tile; see `StarModel.segment_large`.

    `network` takes float32 (1, C, y, x) and gives ``maps`` float32 (1, M, y / grid, x / grid).
    """
    head = manifest.head
    assert isinstance(head, StarSpec)  # of a star model
    image = Source(source, axes=run.axes, channels=run.channels, n_channels=manifest.input.n_channels)
    out_shape = (image.shape[1], image.shape[2])
    out = open_sink(sink, out_shape)
    shape = _scaled_shape(out_shape, run.factors)
    multiple = pair(manifest.tile.multiple)
    full = padded(shape, multiple)
    tiles = plan(full, halo=pair(manifest.tile.halo), multiple=multiple, max_pixels=run.tile_pixels)
    collector = star.Collector(
        head,
        shape=shape,
        padded=full,
        prob_thresh=run.prob_thresh,
        nms_thresh=run.nms_thresh,
        threads=run.threads,
        max_candidates=run.max_candidates,
    )
    with journal_for(sink, work, _key(image, manifest, run, tiles), scratch=False) as journal:
        low, divisor = _range(image, run, journal)
        computed: set[int] = set()

        def prepared(index: int) -> tuple[int, star.Candidates | NDArray[np.float32]]:
            """The candidates of a tile from an earlier run, or what the network gets."""
            found = None if journal is None else _restored(journal, index)
            return index, found or _network_input(image, tiles[index], low, divisor, run, shape)

        def candidates(item: tuple[int, star.Candidates | NDArray[np.float32]]) -> star.Candidates:
            """Of a tile, from the network or from an earlier run."""
            index, found = item
            if isinstance(found, tuple):
                return found
            computed.add(index)
            tile = tiles[index]
            maps = network(found[np.newaxis])["maps"][0]
            found = collector.candidates(maps, origin=tile.origin, window=tile.window(head.grid))
            if journal is not None:
                names = ("prob", "dist", "points", "class_prob")
                arrays = {name: array for name, array in zip(names, found, strict=True) if array is not None}
                journal.write(index, compress=False, **arrays)
            return found

        def stream() -> Generator[star.Candidates]:
            """The candidates of all tiles: one is read while the network has another and a third one is decided."""
            return ahead(candidates, ahead(prepared, range(len(tiles))))

        try:
            survivors = _survivors(tiles, stream(), head, run, along=True, progress=progress)
        except LongRaysError:  # once more, from the journal where there is one
            survivors = _survivors(tiles, stream(), head, run, along=False, progress=progress)
        scale = (1 / run.factors[0], 1 / run.factors[1])
        polygons = star.outlined(head, survivors, scale=scale, threads=run.threads)
        painter = PolygonPainter(
            polygons.outlines[0].reshape(-1, head.n_rays, 2),
            star.painting_order(polygons.prob),
            shape=out_shape,
            block=out.block,
            threads=run.threads,
        )
        out.write(painter)
    return LargeInstances(
        out_shape,
        polygons.prob,
        polygons.points,
        polygons.outlines,
        polygons.classes,
        polygons.class_prob,
        n_tiles=len(tiles),
        n_resumed=len(tiles) - len(computed),
    )


def _survivors(
    tiles: Sequence[Tile],
    candidates: Generator[star.Candidates],
    head: StarSpec,
    run: StarRun,
    *,
    along: bool,
    progress: Callable[[int, int], None] | None,
) -> star.Candidates:
    """The survivors of all tiles' candidates; `along` as for `Settler`."""
    settler = Settler(
        head, nms_thresh=run.nms_thresh, max_candidates=run.max_candidates, along=along, threads=run.threads
    )
    with contextlib.closing(candidates):
        for index, (tile, found) in enumerate(zip(tiles, candidates, strict=True)):
            settler.add(found)
            if tile.keep_x[1] == tiles[-1].keep_x[1]:  # the last of a row of tiles
                settler.settle(tile.keep_y[1])
            if progress is not None:
                progress(index + 1, len(tiles))
    return settler.survivors()


def _scaled_shape(shape: tuple[int, int], factors: tuple[float, float]) -> tuple[int, int]:
    """The image as the network sees it, before padding."""
    height, width = (round(side * factor) for side, factor in zip(shape, factors, strict=True))
    if not 1 <= min(height, width) <= max(height, width) < _MAX_SIDE:
        raise CellrtError(
            f"expected a rescaled image with sides of 1 to {_MAX_SIDE - 1}, got {height} x {width} from {shape[0]} x "
            f"{shape[1]} with scale {factors}; choose another"
        )
    return height, width


def _key(image: Source, manifest: Manifest, run: StarRun, tiles: Sequence[Tile]) -> dict[str, Any]:
    """What makes a run the same: all that the candidates of a tile depend on."""
    return {
        "model": hashlib.sha256(manifest.to_json().encode()).hexdigest(),
        "cellrt": kernels.version(),
        "image": image.fingerprint(),
        "normalize": None if run.normalize is None else dataclasses.asdict(run.normalize),
        "lowhigh": run.lowhigh,
        "prob_thresh": run.prob_thresh,
        "scale": run.factors,
        "tiles": [len(tiles), tiles[0].read_y[1], tiles[0].read_x[1]],
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


def _restored(journal: Journal, index: int) -> star.Candidates | None:
    """The candidates of a tile that an earlier run finished."""
    stored = journal.read(index)
    return None if stored is None else (stored["prob"], stored["dist"], stored["points"], stored.get("class_prob"))


def _network_input(
    image: Source,
    tile: Tile,
    low: NDArray[np.float32],
    divisor: NDArray[np.float32],
    run: StarRun,
    shape: tuple[int, int],
) -> NDArray[np.float32]:
    """What the network gets for a tile, float32 (C, y, x): as if cut from the whole image, normalised and padded."""
    wanted = (tile.read_y, tile.read_x)
    spans = tuple(_mirrored(span, side) for span, side in zip(wanted, shape, strict=True))
    out_shape = (wanted[0][1] - spans[0][0], wanted[1][1] - spans[1][0])
    if run.factors == (1.0, 1.0):
        ready = scaled(image.read(*spans), low, divisor, out_shape=out_shape, threads=run.threads)
    else:
        sides = (image.shape[1], image.shape[2])
        rows, columns = (zoom_source(*axis) for axis in zip(sides, run.factors, spans, strict=True))
        window = (rows[1] - rows[0], columns[1] - columns[0])
        part = scaled(image.read(rows, columns), low, divisor, out_shape=window, threads=run.threads)
        zoomed = zoom_linear_part(part, run.factors, shape=sides, spans=(spans[0], spans[1]))
        same = np.zeros(len(zoomed), np.float32), np.ones(len(zoomed), np.float32)
        ready = scaled(zoomed, *same, out_shape=out_shape, threads=run.threads)
    return np.ascontiguousarray(ready[:, wanted[0][0] - spans[0][0] :, wanted[1][0] - spans[1][0] :])


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
