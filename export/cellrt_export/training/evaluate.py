"""How good label images are: average precision over all objects of a data set, at rising overlaps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cellrt.overlaps import overlaps_of

IOUS = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9)


def count(truth: NDArray[np.int32], found: NDArray[np.int32], kept: Sequence[int]) -> NDArray[np.int64]:
    """(true positives, false positives, false negatives) at each of IOUS, of the objects found up to a number.

    Parameters
    ----------
    truth, found : int32 (Y, X)
        Label images.
    kept : sequence of int
        Of `found`, the objects 1..kept count.

    Returns
    -------
    int64 (len(kept), len(IOUS), 3)
        From 0.5 on an object has at most one partner (two only if it is cut into exact halves), so counting is
        matching.
    """
    overlaps = overlaps_of(truth, found)
    scores = overlaps.scores("iou")
    number = overlaps.predicted_labels[overlaps.pairs[:, 1]]
    total = np.empty((len(kept), len(IOUS), 3), np.int64)
    for i, last in enumerate(kept):
        n_found = np.count_nonzero(overlaps.predicted_labels <= last)
        tp = np.array([np.count_nonzero((scores >= iou) & (number <= last)) for iou in IOUS])
        total[i] = np.stack([tp, n_found - tp, len(overlaps.true_labels) - tp], 1)
    return total


@dataclass(frozen=True)
class Score:
    """Average precision, tp / (tp + fp + fn) over all objects of a data set, at each of IOUS."""

    thresholds: Mapping[str, float]
    """What the maps were decoded with."""
    precision: tuple[float, ...]

    @classmethod
    def of(cls, thresholds: Mapping[str, float], total: NDArray[np.int64]) -> Score:
        """From the summed `counts` (len(IOUS), 3) of a data set."""
        precision = total[:, 0] / np.maximum(total.sum(1), 1)
        return cls(dict(thresholds), tuple(float(p) for p in precision))

    @property
    def mean(self) -> float:
        """Mean over IOUS."""
        return float(np.mean(self.precision))
