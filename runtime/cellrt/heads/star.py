"""The `star` head: probability and ray lengths -> star-convex instances (StarDist 2D, Schmidt et al., MICCAI 2018).

`decode` takes whole maps; `Collector` takes them tile by tile, so that candidates and not maps are kept. Both give the
cells of StarDist 0.9.2's default (sparse) mode. Knows no files, sessions or normalisation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cellrt import kernels
from cellrt.errors import CapacityError, CellrtError, DataError
from cellrt.instances import Instances
from cellrt.manifest import StarSpec

MAX_CANDIDATES = 1 << 22  # 0.6 GB at 32 rays; an image of 100 megapixels has about two million
# Recorded images need 1 to 8 at the thresholds that models come with. Suppression at nms_thresh=1 of all that a network
# is sure of needs about 100; ten thousand candidates at this limit take three seconds of one core.
MAX_PAIRS_PER_CANDIDATE = 256

Candidates = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int32], NDArray[np.float32] | None]


@dataclass(frozen=True, eq=False)
class Polygons:
    """Objects that are not painted yet; the fields are those of `Instances`."""

    prob: NDArray[np.float32]
    points: NDArray[np.float32]
    outlines: tuple[NDArray[np.float32], NDArray[np.int64]]
    classes: NDArray[np.int32] | None
    class_prob: NDArray[np.float32] | None


class Collector:
    """Candidates of one image, tile by tile, in any order.

    Parameters
    ----------
    spec : StarSpec
    shape : (int, int)
        The image as the network saw it, before padding, (y, x): points beyond it are dropped.
    padded : (int, int)
        The same with padding: no candidate is taken within `spec.border` samples of its edges.
    prob_thresh : float
        In [0, 1]; a candidate's probability is above it.
    nms_thresh : float
        In [0, 1]; of two polygons that overlap by more (of the smaller one's area), the weaker goes.
    threads : int
        0: all usable cores.
    max_candidates : int
        Most candidates that are kept. Default: `MAX_CANDIDATES`.
    """

    def __init__(
        self,
        spec: StarSpec,
        *,
        shape: tuple[int, int],
        padded: tuple[int, int],
        prob_thresh: float,
        nms_thresh: float,
        threads: int,
        max_candidates: int | None = None,
    ) -> None:
        self._prob_thresh = threshold("prob_thresh", prob_thresh)
        self._nms_thresh = threshold("nms_thresh", nms_thresh)
        self._spec, self._threads = spec, threads
        self._max_candidates = MAX_CANDIDATES if max_candidates is None else max_candidates
        self._nms = kernels.StarNms2D(spec.n_rays, spec.n_class_channels, self._max_candidates)
        # In samples, half open: the border rule holds on the padded map, then points outside the image go.
        self._begin = spec.border
        self._end = [
            min(full // g - spec.border, -(-side // g)) for side, full, g in zip(shape, padded, spec.grid, strict=True)
        ]

    def add(self, maps: NDArray[np.float32], *, origin: tuple[int, int], window: tuple[int, int, int, int]) -> None:
        """Find the candidates of one tile and take them; parameters as in `candidates`."""
        self.take(*self.candidates(maps, origin=origin, window=window))

    def take(
        self,
        prob: NDArray[np.float32],
        dist: NDArray[np.float32],
        points: NDArray[np.int32],
        class_prob: NDArray[np.float32] | None,
    ) -> None:
        """Take what `candidates` found, in this run or in an earlier one."""
        try:
            self._nms.add(prob, dist, points, class_prob)
        except CapacityError as error:
            raise self._too_many(error.status) from None

    def candidates(
        self, maps: NDArray[np.float32], *, origin: tuple[int, int], window: tuple[int, int, int, int]
    ) -> Candidates:
        """The candidates of one tile: probability, ray lengths, points and, with classes, their probabilities.

        Parameters
        ----------
        maps : float32 (1 + n_rays + n_class_channels, y, x)
            The network's output for the tile.
        origin : (int, int)
            The tile's first pixel (y, x) in the padded image, a multiple of the grid.
        window : (int, int, int, int)
            y_begin, y_end, x_begin, x_end: which samples of `maps` count, half open.
        """
        spans: list[int] = []
        for axis in range(2):
            first = origin[axis] // self._spec.grid[axis]
            begin, end = window[2 * axis], window[2 * axis + 1]
            begin = min(max(begin, self._begin - first), end)
            spans += [begin, max(begin, min(end, self._end[axis] - first))]
        if len(maps) != self._spec.n_maps:
            raise CellrtError(
                f"expected {self._spec.n_maps} maps (probability, {self._spec.n_rays} rays, "
                f"{self._spec.n_class_channels} class probabilities), got {len(maps)}; export the model again"
            )
        try:
            return kernels.star_candidates_2d(
                maps,
                n_rays=self._spec.n_rays,
                n_class_channels=self._spec.n_class_channels,
                window=(spans[0], spans[1], spans[2], spans[3]),
                prob_thresh=self._prob_thresh,
                grid=self._spec.grid,
                origin=origin,
                max_candidates=self._max_candidates - len(self._nms),
                threads=self._threads,
            )
        except CapacityError as error:
            raise self._too_many(error.status) from None
        except DataError:
            raise CellrtError(
                "expected finite ray lengths from the network, got NaN, infinity or more than 2^20 pixels; check the "
                "image's contrast and normalisation"
            ) from None

    def finish(self, *, out_shape: tuple[int, int], scale: tuple[float, float] = (1.0, 1.0)) -> Instances:
        """Suppress, outline and paint.

        Parameters
        ----------
        out_shape : (int, int)
            The image that the user gave, (y, x).
        scale : (float, float)
            Pixels of that image per pixel of the image that the network saw.
        """
        polygons = self.polygons(scale)
        coords, offsets = polygons.outlines
        labels = kernels.paint_polygons_2d(
            coords, offsets, painting_order(polygons.prob), shape=out_shape, threads=self._threads
        )
        return Instances(
            labels, polygons.prob, polygons.points, polygons.outlines, polygons.classes, polygons.class_prob
        )

    def polygons(self, scale: tuple[float, float]) -> Polygons:
        """Suppress and outline: the objects in descending order of probability; `scale` as in `finish`."""
        max_pairs = MAX_PAIRS_PER_CANDIDATE * max(len(self._nms), 256)
        try:
            prob, dist, points, class_prob = self._nms.survivors(self._nms_thresh, max_pairs, self._threads)
        except CapacityError as error:
            raise CapacityError(
                f"expected at most {MAX_PAIRS_PER_CANDIDATE} comparisons per candidate, got more among "
                f"{len(self._nms)} candidates with prob_thresh={self._prob_thresh:g} and "
                f"nms_thresh={self._nms_thresh:g}; raise prob_thresh or lower nms_thresh",
                error.status,
            ) from None
        return outlined(self._spec, (prob, dist, points, class_prob), scale=scale, threads=self._threads)

    def _too_many(self, status: int) -> CapacityError:
        """The error of too many candidates."""
        return CapacityError(
            f"expected at most {self._max_candidates} candidates, got more with prob_thresh={self._prob_thresh:g}; "
            "raise prob_thresh, or segment the image in parts",
            status,
        )


def outlined(spec: StarSpec, survivors: Candidates, *, scale: tuple[float, float], threads: int) -> Polygons:
    """The polygons of survivors, best first; `scale` as in `Collector.finish`."""
    prob, dist, points, class_prob = survivors
    centres = points.astype(np.float64) * scale
    coords = kernels.star_outlines_2d(dist, centres, scale=scale, threads=threads).reshape(-1, 2)
    offsets = np.arange(len(prob) + 1, dtype=np.int64) * spec.n_rays
    classes = None if class_prob is None else class_prob.argmax(axis=1).astype(np.int32)
    return Polygons(prob, centres.astype(np.float32), (coords, offsets), classes, class_prob)


def painting_order(prob: NDArray[np.float32]) -> NDArray[np.int64]:
    """Stronger over weaker; of equals the later, as upstream's stable ascending sort has it."""
    return np.argsort(prob, kind="stable").astype(np.int64)


def decode(
    maps: NDArray[np.float32],
    spec: StarSpec,
    *,
    shape: tuple[int, int],
    prob_thresh: float | None = None,
    nms_thresh: float | None = None,
    threads: int = 0,
) -> Instances:
    """Instances of whole maps.

    Parameters
    ----------
    maps : float32 (1 + n_rays + n_class_channels, Y / grid[0], X / grid[1])
        The network's output for the padded image.
    spec : StarSpec
    shape : (int, int)
        The image without padding, (y, x).
    prob_thresh, nms_thresh : float, optional
        Default: those of `spec`.
    threads : int
        0: all usable cores.
    """
    height, width = maps.shape[1:]
    collector = Collector(
        spec,
        shape=shape,
        padded=(height * spec.grid[0], width * spec.grid[1]),
        prob_thresh=spec.prob_thresh if prob_thresh is None else prob_thresh,
        nms_thresh=spec.nms_thresh if nms_thresh is None else nms_thresh,
        threads=threads,
    )
    collector.add(np.ascontiguousarray(maps), origin=(0, 0), window=(0, height, 0, width))
    return collector.finish(out_shape=shape)


def threshold(name: str, value: float) -> float:
    """The value, if it is a number in [0, 1], or an error."""
    if not isinstance(value, (int, float, np.number)) or not 0 <= value <= 1:
        raise CellrtError(f"expected {name} to be a number from 0 to 1, got {value!r}")
    return float(value)
