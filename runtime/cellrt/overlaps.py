"""Which objects of two label images overlap, by how much, and which of them match: what every measure is made of.

A table of the pairs that have pixels in common. Its size is that of what the images hold: nothing is as large as true
times predicted objects. Knows labels and scores; never what is made of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cellrt import kernels
from cellrt.errors import CellrtError, ImageError

_MOST_STEPS = 2_000_000_000  # looks at a pair while matching: half a minute; thousands of cells take a few thousand
_LARGEST_LABEL = np.iinfo(np.int32).max


@dataclass(frozen=True, eq=False)
class Overlaps:
    """The objects of two label images and the pairs of them that overlap.

    Attributes
    ----------
    true_labels, predicted_labels : int32 (n_true,), (n_pred,)
        Ascending, without 0.
    true_areas, predicted_areas : int64
        Their pixels.
    pairs : int32 (n, 2)
        Index of the true and of the predicted object, ascending.
    counts : int64 (n,)
        Pixels in common.
    n_foreground : int
        Pixels that are an object's in either image.
    """

    true_labels: NDArray[np.int32]
    predicted_labels: NDArray[np.int32]
    true_areas: NDArray[np.int64]
    predicted_areas: NDArray[np.int64]
    pairs: NDArray[np.int32]
    counts: NDArray[np.int64]
    n_foreground: int

    def unions(self) -> NDArray[np.int64]:
        """Pixels of either object of each pair."""
        unions: NDArray[np.int64] = (
            self.true_areas[self.pairs[:, 0]] + self.predicted_areas[self.pairs[:, 1]] - self.counts
        )
        return unions

    def scores(self, criterion: str) -> NDArray[np.float64]:
        """Of each pair, in (0, 1]."""
        if criterion == "iou":
            return self.counts / self.unions()
        if criterion == "iot":
            return self.counts / self.true_areas[self.pairs[:, 0]]
        if criterion == "iop":
            return self.counts / self.predicted_areas[self.pairs[:, 1]]
        raise CellrtError(f"expected a criterion out of iou, iot, iop, got {criterion!r}; choose one")

    def match(self, scores: NDArray[np.float64], threshold: float) -> NDArray[np.bool_]:
        """Which pairs are in the best one-to-one matching, those below the threshold included."""
        return kernels.match_pairs(
            self.pairs,
            scores,
            n_rows=len(self.true_labels),
            n_columns=len(self.predicted_labels),
            threshold=threshold,
            max_steps=_MOST_STEPS,
        )

    def matches(self, scores: NDArray[np.float64], threshold: float) -> NDArray[np.intp]:
        """Indices of the matched pairs that reach the threshold."""
        reaching = np.flatnonzero(scores >= threshold)
        rows, columns = self.pairs[reaching].T
        # Mostly nothing is in two of them: there cannot be two intersections over union above 0.5 for one object.
        if max(np.bincount(rows).max(initial=0), np.bincount(columns).max(initial=0)) <= 1:
            return reaching
        return np.flatnonzero(self.match(scores, threshold) & (scores >= threshold))


def overlaps_of(truth: ArrayLike, predicted: ArrayLike) -> Overlaps:
    """The table of two label images.

    Parameters
    ----------
    truth, predicted : integer array, the same shape
        Any integer type, strides and number of dimensions; none negative, 0 is background.

    Raises
    ------
    ImageError
        If the shapes differ, or an array does not hold labels.
    """
    true_pixels, predicted_pixels = _labels("truth", truth), _labels("predicted", predicted)
    if true_pixels.shape != predicted_pixels.shape:
        raise ImageError(
            f"expected predicted of shape {true_pixels.shape} as truth, got {predicted_pixels.shape}; check that both "
            "belong to one image"
        )
    pairs, counts = kernels.label_overlaps(true_pixels, predicted_pixels, threads=0)
    true_labels, true_areas, rows = _objects(pairs[:, 0], counts)
    predicted_labels, predicted_areas, columns = _objects(pairs[:, 1], counts)
    is_shared = (rows >= 0) & (columns >= 0)
    return Overlaps(
        true_labels=true_labels,
        predicted_labels=predicted_labels,
        true_areas=true_areas,
        predicted_areas=predicted_areas,
        pairs=np.stack([rows, columns], axis=1)[is_shared].astype(np.int32),
        counts=counts[is_shared],
        n_foreground=int(counts[pairs.any(axis=1)].sum()),
    )


def _objects(
    labels: NDArray[np.int32], counts: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.intp]]:
    """The labels that occur, without 0, their areas, and which of them each given one is; -1 for 0."""
    found, index = np.unique(labels, return_inverse=True)
    areas = np.bincount(index, counts, len(found)).astype(np.int64)  # doubles hold numbers of pixels exactly
    n_background = int(np.count_nonzero(found == 0))  # 0 or 1: an image may be full of objects
    return found[n_background:], areas[n_background:], index - n_background


def _labels(name: str, array: ArrayLike) -> NDArray[np.int32]:
    """A label image as the kernels take it, or an error."""
    labels = np.asarray(array)
    if labels.dtype.kind not in "iu":
        raise ImageError(
            f"expected {name} as an array of integer labels, got dtype {labels.dtype}; number the objects, or convert "
            "labels that are whole numbers with .astype('int32')"
        )
    if labels.dtype not in (np.uint8, np.uint16) and labels.size:
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high > _LARGEST_LABEL:
            raise ImageError(
                f"expected {name} with labels from 0 to {_LARGEST_LABEL}, got {low} to {high}; number the objects again"
            )
    return np.asarray(labels, np.int32, order="C")
