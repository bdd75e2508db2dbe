"""The planes of a stack: through the network as one work, and their objects stitched into those of a volume.

`stitch` joins objects of neighbouring planes by their overlap, as Cellpose's `stitch3D` does; it takes label images,
whatever made them. `PlanesWork` pools the tiles of all planes in full batches. Knows neither models nor what maps mean.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cellrt import kernels
from cellrt.errors import CellrtError, ImageError
from cellrt.heads import volume
from cellrt.instances import Instances
from cellrt.pool import Found, Work

_Plane = TypeVar("_Plane", bound=Work)
_LARGEST_LABEL = 1 << 24  # of a plane: tables of that length are made


def stitch(planes: Iterable[ArrayLike], threshold: float, *, threads: int = 0) -> NDArray[np.int32]:
    """Join the objects of planes that lie above one another.

    An object goes on as the one in the plane before that it overlaps most, if their intersection over union is at least
    the threshold and no other object of its plane has a larger one with that; otherwise it begins a new one. Numbers
    are those of Cellpose's `stitch3D`, which begins anew after an empty plane as long as no two planes in a row had
    objects: if the first has some, and the second none, those of the third get numbers that the first has used.

    Parameters
    ----------
    planes : iterable of integer array (Y, X)
        Label images, all of one shape; 0 is background.
    threshold : float
        Above 0, at most 1.
    threads : int
        0: all usable cores.

    Returns
    -------
    int32 (Z, Y, X)

    Raises
    ------
    ImageError
        If there is no plane, or the planes differ in shape or are no label images.
    CellrtError
        If the threshold is out of range.
    """
    stitcher = Stitcher(threshold, threads=threads)
    stitched = [stitcher.add(plane) for plane in planes]
    if not stitched:
        raise ImageError("expected planes to stitch, got none")
    return np.stack(stitched)


class Stitcher:
    """`stitch`, plane by plane; parameters and errors as there."""

    def __init__(self, threshold: float, *, threads: int = 0) -> None:
        self._threshold, self._threads = checked_threshold(threshold), threads
        self._before: NDArray[np.int32] | None = None  # the last plane, as it came out
        self._last = 0  # the largest number given, as upstream counts
        self._has_begun = False  # whether two planes in a row had objects
        self.numbers = np.zeros(1, np.int32)  # what each label of the last plane became; index 0 is background

    def add(self, plane: ArrayLike) -> NDArray[np.int32]:
        """The next plane (Y, X), with the numbers of the volume."""
        labels = np.asarray(plane)
        if labels.ndim != 2 or labels.dtype.kind not in "iu" or not labels.size:
            raise ImageError(f"expected planes of integer labels (Y, X) with pixels, got {labels.dtype} {labels.shape}")
        if self._before is not None and labels.shape != self._before.shape:
            raise ImageError(f"expected planes of one shape, got {labels.shape} after {self._before.shape}")
        if labels.min() < 0 or labels.max() > _LARGEST_LABEL:
            raise ImageError(
                f"expected labels from 0 to {_LARGEST_LABEL}, got {labels.min()} to {labels.max()}; number them again"
            )
        labels = labels.astype(np.int32, order="C")
        if self._before is None:
            self._last = int(labels.max())
            self.numbers = np.arange(self._last + 1, dtype=np.int32)
        else:
            self.numbers = self._numbers(labels, self._before)
        self._before = self.numbers[labels]
        return self._before

    def _numbers(self, labels: NDArray[np.int32], before: NDArray[np.int32]) -> NDArray[np.int32]:
        """`numbers` of a plane."""
        n = int(labels.max())
        numbers_of = np.arange(n + 1, dtype=np.int32)
        if n == 0 or before.max() == 0:
            if self._has_begun:
                numbers_of[1:] += self._last
                self._last += n
            else:
                self._last = n
            return numbers_of
        self._has_begun = True
        is_new = np.ones(n + 1, np.bool_)
        is_new[0] = False
        for label, predecessor in self._continued(labels, before):
            numbers_of[label], is_new[label] = predecessor, False
        n_new = int(np.count_nonzero(is_new))
        numbers_of[is_new] = np.arange(self._last + 1, self._last + n_new + 1, dtype=np.int32)
        self._last += n_new
        return numbers_of

    def _continued(self, labels: NDArray[np.int32], before: NDArray[np.int32]) -> NDArray[np.int32]:
        """The labels that go on, and as what, (n, 2)."""
        pairs, counts = kernels.label_overlaps(labels, before, threads=self._threads)
        areas, areas_before = (np.bincount(of_plane, counts) for of_plane in pairs.T)
        of_objects = (pairs > 0).all(axis=1)
        (own, other), common = pairs[of_objects].T, counts[of_objects]
        iou = common / (areas[own] + areas_before[other] - common)
        best_of_other = np.zeros(len(areas_before))
        np.maximum.at(best_of_other, other, np.where(iou >= self._threshold, iou, 0))
        candidates = np.flatnonzero((iou >= self._threshold) & (iou == best_of_other[other]))
        # by label, then by overlap, then by predecessor: the first of each label is the one
        candidates = candidates[np.lexsort((other[candidates], -iou[candidates], own[candidates]))]
        _, first = np.unique(own[candidates], return_index=True)
        continued: NDArray[np.int32] = np.stack([own, other], axis=1)[candidates[first]]
        return continued


def stitch_instances(planes: Iterable[Instances], threshold: float, *, threads: int = 0) -> Instances:
    """Join the objects of the planes of a stack; parameters and errors as in `stitch`.

    Score and class of an object are those of its part with the highest score.
    """
    stitcher = Stitcher(threshold, threads=threads)
    stitched, parts, scores, class_prob = [], [], [], []
    for plane in planes:
        stitched.append(stitcher.add(plane.labels))
        n_visible = min(len(plane), len(stitcher.numbers) - 1)  # the last ones may be covered by others
        parts.append(stitcher.numbers[1 : n_visible + 1])
        scores.append(plane.scores[:n_visible])
        if plane.class_prob is not None:
            class_prob.append(plane.class_prob[:n_visible])
    if not stitched:
        raise ImageError("expected planes to stitch, got none")
    labels = np.stack(stitched)
    del stitched
    found = np.flatnonzero(np.bincount(labels.reshape(-1)))
    found = found[found > 0]
    labels, n = kernels.relabel(labels, threads=threads)
    number, score = np.concatenate(parts), np.concatenate(scores)
    order = np.lexsort((-score, number))
    best = order[np.unique(number[order], return_index=True)[1]]
    best = best[np.isin(number[best], found)]
    objects = volume.from_labels(labels, n, scores=score[best], threads=threads)
    if not class_prob:
        return objects
    of_objects = np.concatenate(class_prob)[best]
    return replace(objects, class_prob=of_objects, classes=of_objects.argmax(axis=1).astype(np.int32))


def checked_threshold(threshold: Any) -> float:
    """A threshold of stitching, if it is one."""
    is_number = isinstance(threshold, numbers.Real) and not isinstance(threshold, bool)
    if not is_number or math.isnan(threshold) or not 0 < threshold <= 1:
        raise CellrtError(f"expected stitch_threshold above 0, at most 1, got {threshold!r}")
    return float(threshold)


class PlanesWork(Generic[_Plane]):
    """The planes of a stack on their way; see `pool.Work`. Batches go on from one plane to the next.

    Parameters
    ----------
    n_planes : int
    begin : callable
        The work of a plane by its index: asked for when its first tile is, so that few planes are padded at once. All
        have tiles of one number and shape.
    end : callable
        What becomes of a plane whose tiles came back: its index and its work, in order.
    then : callable
        What `finish` does.
    """

    def __init__(
        self,
        n_planes: int,
        begin: Callable[[int], _Plane],
        end: Callable[[int, _Plane], None],
        then: Callable[[], Work | Found],
    ) -> None:
        self._begin, self._end, self._then = begin, end, then
        self._planes = {0: begin(0)}
        first = self._planes[0]
        self._tiles_per_plane = first.n_tiles
        self.n_tiles = self._left = n_planes * first.n_tiles
        self.tile_shape, self.batch_size = first.tile_shape, first.batch_size

    @property
    def is_done(self) -> bool:
        """Whether all tiles came back."""
        return self._left == 0

    def tile(self, index: int) -> NDArray[np.float32]:
        """The network's input for one tile."""
        plane, tile = divmod(index, self._tiles_per_plane)
        if plane not in self._planes:
            self._planes[plane] = self._begin(plane)
        return self._planes[plane].tile(tile)

    def take(self, index: int, maps: NDArray[np.float32], style: NDArray[np.float32] | None) -> None:
        """Take the network's output for one tile; tiles come in order."""
        plane, tile = divmod(index, self._tiles_per_plane)
        work = self._planes[plane]
        work.take(tile, maps, style)
        self._left -= 1
        if work.is_done:
            del self._planes[plane]
            self._end(plane, work)

    def finish(self) -> Work | Found:
        """Whatever follows."""
        return self._then()
