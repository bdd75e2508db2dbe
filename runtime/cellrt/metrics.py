"""How well predicted objects agree with true ones: the measures of StarDist, of Cellpose and of Kumar et al.

    from cellrt import metrics

    metrics.matching(truth, labels).f1                             # at an intersection over union of 0.5
    metrics.matching_dataset(zip(truths, predictions)).accuracy    # over all images
    metrics.average_precision(truths, predictions)[0]              # (images, thresholds)
    metrics.aggregated_jaccard_index(truth, labels)

Takes label images of any integer type, strides and number of dimensions, 0 being background; numbers may have gaps.
Everything follows from the table of labels that overlap, whose size is that of the image's contents: nothing is as large as
true times predicted objects. Knows arrays; never files.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cellrt import kernels
from cellrt.errors import CellrtError, ImageError

Criterion = Literal["iou", "iot", "iop"]

_CRITERIA = ("iou", "iot", "iop")
_MOST_STEPS = 2_000_000_000  # looks at a pair while matching: half a minute; thousands of cells take a few thousand
_LARGEST_LABEL = np.iinfo(np.int32).max


@dataclass(frozen=True)
class Scores:
    """What StarDist's ``matching`` counts and computes, the same names and values.

    Attributes
    ----------
    criterion : "iou", "iot" or "iop"
        The score of a pair: intersection over union, over the true, or over the predicted object.
    threshold : float
        Least score of a pair that counts as a match.
    fp, tp, fn : int
        Predicted objects without a match, matches, true objects without one.
    precision, recall, accuracy, f1 : float
        ``tp / (tp + fp)``, ``tp / (tp + fn)``, ``tp / (tp + fp + fn)``, ``2 tp / (2 tp + fp + fn)``; 0 without a match,
        also where there is no object at all.
    n_true, n_pred : int
        Objects.
    mean_true_score, mean_matched_score : float
        Sum of the matches' scores over `n_true`, and over `tp`; 0 for 0 / 0. In single precision, as upstream's.
    panoptic_quality : float
        That sum over ``tp + fp / 2 + fn / 2``: equation 1 of Kirillov et al., CVPR 2019.
    """

    criterion: Criterion
    threshold: float
    fp: int
    tp: int
    fn: int
    precision: float
    recall: float
    accuracy: float
    f1: float
    n_true: int
    n_pred: int
    mean_true_score: float
    mean_matched_score: float
    panoptic_quality: float


@dataclass(frozen=True, eq=False)
class Matching(Scores):
    """The scores of one image, and who matches whom.

    Attributes
    ----------
    matched_pairs : int32 (tp, 2)
        True and predicted label of each match, ascending by the first.
    matched_scores : float32 (tp,)
    """

    matched_pairs: NDArray[np.int32]
    matched_scores: NDArray[np.float32]


@dataclass(frozen=True)
class DatasetMatching(Scores):
    """The scores of several images.

    Attributes
    ----------
    by_image : bool
        Whether the rates are means over the images, and not those of all objects together. Counts are sums either way.
    n_images : int
    """

    by_image: bool
    n_images: int


@overload
def matching(
    truth: ArrayLike, predicted: ArrayLike, *, threshold: float = ..., criterion: Criterion = ...
) -> Matching: ...
@overload
def matching(
    truth: ArrayLike, predicted: ArrayLike, *, threshold: Sequence[float], criterion: Criterion = ...
) -> tuple[Matching, ...]: ...
def matching(
    truth: ArrayLike,
    predicted: ArrayLike,
    *,
    threshold: float | Sequence[float] = 0.5,
    criterion: Criterion = "iou",
) -> Matching | tuple[Matching, ...]:
    """Match predicted with true objects one to one and count, as StarDist 0.9.2's ``matching`` does.

    The matching is the one with the most pairs that reach the threshold; of those with as many, the one with the largest
    sum of scores, pairs below the threshold included. Where several are as good, StarDist may report others, with
    another mean score.

    Parameters
    ----------
    truth, predicted : integer array, the same shape
        Label images (Y, X) or volumes (Z, Y, X). An image without objects, or without pixels, is one.
    threshold : float or sequence of float
        Least score of a match, in (0, 1]; compared in single precision, as upstream does.
    criterion : "iou", "iot" or "iop"

    Returns
    -------
    Matching, or a tuple of them for a sequence of thresholds

    Raises
    ------
    ImageError
        If the shapes differ, or an array does not hold labels.
    CellrtError
        If a threshold is not in (0, 1], or the criterion is unknown.
    CapacityError
        If the matching takes too long: at a low threshold, with thousands of objects that all overlap one another.
    """
    thresholds, is_one = _thresholds(threshold)
    table = _Overlaps(truth, predicted)
    scores = table.scores(criterion).astype(np.float32)
    found = tuple(_match(table, scores, one, criterion) for one in thresholds)
    return found[0] if is_one else found


@overload
def matching_dataset(
    pairs: Iterable[tuple[ArrayLike, ArrayLike]],
    *,
    threshold: float = ...,
    criterion: Criterion = ...,
    by_image: bool = ...,
) -> DatasetMatching: ...
@overload
def matching_dataset(
    pairs: Iterable[tuple[ArrayLike, ArrayLike]],
    *,
    threshold: Sequence[float],
    criterion: Criterion = ...,
    by_image: bool = ...,
) -> tuple[DatasetMatching, ...]: ...
def matching_dataset(
    pairs: Iterable[tuple[ArrayLike, ArrayLike]],
    *,
    threshold: float | Sequence[float] = 0.5,
    criterion: Criterion = "iou",
    by_image: bool = False,
) -> DatasetMatching | tuple[DatasetMatching, ...]:
    """The scores of several images together, as StarDist 0.9.2's ``matching_dataset`` computes them.

    Parameters
    ----------
    pairs : iterable of (truth, predicted)
        As for `matching`; taken one after the other, so that not all need to be in memory.
    threshold, criterion
        As for `matching`.
    by_image : bool
        False pools the objects of all images. True averages the images' rates; one without objects counts with rates of 0.

    Returns
    -------
    DatasetMatching, or a tuple of them for a sequence of thresholds

    Raises
    ------
    CellrtError
        If there is no pair; else as `matching`.
    """
    thresholds, is_one = _thresholds(threshold)
    images = [matching(*pair, threshold=thresholds, criterion=criterion) for pair in pairs]
    if not images:
        raise CellrtError("expected at least one pair of label images, got none; pass (truth, predicted) tuples")
    found = tuple(pool(at_threshold, by_image=by_image) for at_threshold in zip(*images, strict=True))
    return found[0] if is_one else found


def pool(images: Sequence[Scores], *, by_image: bool) -> DatasetMatching:
    """The scores of several images, at least one, all at one threshold; parameters as in `matching_dataset`."""
    first, n_images = images[0], len(images)
    counts = {name: sum(getattr(image, name) for image in images) for name in ("tp", "fp", "fn", "n_true", "n_pred")}
    if by_image:
        rates = {name: sum(getattr(image, name) for image in images) / n_images for name in _RATES}
        single = np.float32(0)
        for image in images:
            single += np.float32(image.mean_true_score)
        rates["mean_true_score"] = float(single / np.float32(n_images))
    else:
        total = np.float32(0)
        for image in images:
            total += np.float32(image.mean_true_score) * np.float32(image.n_true)
        rates = _rates(counts["tp"], counts["fp"], counts["fn"], total)
    return DatasetMatching(first.criterion, first.threshold, **counts, **rates, by_image=by_image, n_images=n_images)
