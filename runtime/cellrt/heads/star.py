"""The `star` head: probability and ray lengths -> star-convex instances (StarDist 2D, Schmidt et al., MICCAI 2018).

`decode` takes whole maps; `Collector` takes them tile by tile, so that candidates and not maps are kept. Both give the
cells of StarDist 0.9.2's default (sparse) mode. Knows no files, sessions or normalisation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellrt import kernels
from cellrt.errors import CapacityError
from cellrt.heads.candidates import AnyCollector
from cellrt.instances import Instances
from cellrt.manifest import StarSpec

MAX_CANDIDATES = 1 << 22  # 0.6 GB at 32 rays; an image of 100 megapixels has about two million
# Recorded images need 1 to 8 at the thresholds that models come with. Suppression at nms_thresh=1 of all that a network
# is sure of needs about 100; ten thousand candidates at this limit take three seconds of one core.
MAX_PAIRS_PER_CANDIDATE = 256


@dataclass(frozen=True, eq=False)
class Polygons:
    """Objects that are not painted yet; the fields are those of `Instances`."""

    prob: NDArray[np.float32]
    points: NDArray[np.float32]
    outlines: tuple[NDArray[np.float32], NDArray[np.int64]]
    classes: NDArray[np.int32] | None
    class_prob: NDArray[np.float32] | None


class Collector(AnyCollector[StarSpec]):
    """Candidates of one image, tile by tile, in any order; parameters as of `AnyCollector`."""

    _find = staticmethod(kernels.star_candidates_2d)
    _most = MAX_CANDIDATES
    _words = ("image", "pixels")

    def _start(self) -> None:
        """Be ready for the first tile."""
        self._nms = kernels.StarNms2D(self._spec.n_rays, self._spec.n_class_channels, self._max_candidates)

    def __len__(self) -> int:
        """How many candidates there are."""
        return len(self._nms)

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


def outlined(spec: StarSpec, survivors: kernels.Candidates, *, scale: tuple[float, float], threads: int) -> Polygons:
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
    options: dict[str, Any] = {"prob_thresh": prob_thresh, "nms_thresh": nms_thresh, "threads": threads}
    return Collector.of_maps(maps, spec, shape=shape, **options).finish(out_shape=shape)
