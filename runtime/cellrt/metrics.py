"""How well predicted objects agree with true ones: the measures of StarDist, of Cellpose and of Kumar et al.

    from cellrt import metrics

    metrics.matching(truth, labels).f1                             # at an intersection over union of 0.5
    metrics.matching_dataset(zip(truths, predictions)).accuracy    # over all images
    metrics.average_precision(truths, predictions)[0]              # (images, thresholds)
    metrics.aggregated_jaccard_index(truth, labels)

Takes label images of any integer type, strides and number of dimensions, 0 being background; numbers may have gaps.
Knows arrays; never files.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cellrt.errors import CellrtError
from cellrt.overlaps import Overlaps, overlaps_of

Criterion = Literal["iou", "iot", "iop"]

_COUNTS = ("fp", "tp", "fn", "n_true", "n_pred")
_RATES = ("precision", "recall", "accuracy", "f1", "mean_matched_score", "panoptic_quality")


@dataclass(frozen=True, eq=False)
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

    The matching is the one with the most pairs that reach the threshold; of those with as many, the one with the
    largest sum of scores, pairs below the threshold included. Where several are as good, to the rounding of single
    precision, StarDist may report another, with another mean score; the counts are the same.

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
    overlaps = overlaps_of(truth, predicted)
    found = tuple(_matching(overlaps, one, criterion) for one in thresholds)
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
        False pools the objects of all images. True averages the images' rates; one without objects counts with 0.

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
    found = tuple(pool_scores(one, by_image=by_image) for one in zip(*images, strict=True))
    return found[0] if is_one else found


def pool_scores(images: Sequence[Scores], *, by_image: bool) -> DatasetMatching:
    """The scores of several images at one threshold as those of a data set; see `matching_dataset`."""
    counts: dict[str, Any] = {name: sum(getattr(image, name) for image in images) for name in _COUNTS}
    total = np.float32(0)  # in single precision, as upstream adds up
    for image in images:
        total += np.float32(image.mean_true_score) * np.float32(1 if by_image else image.n_true)
    if by_image:
        rates: dict[str, Any] = {name: sum(getattr(image, name) for image in images) / len(images) for name in _RATES}
        rates["mean_true_score"] = float(total / np.float32(len(images)))
    else:
        rates = _rates(counts["tp"], counts["fp"], counts["fn"], total)
    return DatasetMatching(
        criterion=images[0].criterion,
        threshold=images[0].threshold,
        **counts,
        **rates,
        by_image=by_image,
        n_images=len(images),
    )


def average_precision(
    truths: ArrayLike | Sequence[ArrayLike],
    predictions: ArrayLike | Sequence[ArrayLike],
    *,
    thresholds: float | Sequence[float] = (0.5, 0.75, 0.9),
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Average precision ``tp / (tp + fp + fn)`` of images at thresholds, as Cellpose 4's ``average_precision``.

    Parameters
    ----------
    truths, predictions : list of integer arrays, or one array each
        Label images, as for `matching`.
    thresholds : float or sequence of float
        Intersections over union in (0, 1], compared in double precision, as upstream does.

    Returns
    -------
    ap : float32 (n_images, n_thresholds); for arrays that are not in a list (n_thresholds,)
        NaN for an image without objects in either.
    tp, fp, fn : int64, the same shape

    Raises
    ------
    ImageError, CellrtError, CapacityError
        As `matching`; CellrtError also if there are not as many predictions as truths.

    Notes
    -----
    Objects are counted as version 4 does, gaps in the numbering left out (version 3 counts up to the largest label).
    In an image without any background pixel the original counts one object too few, so that its precision can exceed
    1; here all are counted.
    """
    values, _ = _thresholds(thresholds)
    is_list = isinstance(truths, list | tuple)
    pairs: list[Any] = _paired(truths, predictions) if is_list else [(truths, predictions)]
    tp, fp, fn = np.zeros((3, len(pairs), len(values)), np.int64)
    for image, pair in enumerate(pairs):
        overlaps = overlaps_of(*pair)
        scores = overlaps.scores("iou")
        for at, threshold in enumerate(values):
            tp[image, at] = len(overlaps.matches(scores, threshold))
        fp[image] = len(overlaps.predicted_labels) - tp[image]
        fn[image] = len(overlaps.true_labels) - tp[image]
    with np.errstate(invalid="ignore"):
        ap = np.divide(tp, tp + fp + fn, dtype=np.float32)
    return (ap, tp, fp, fn) if is_list else (ap[0], tp[0], fp[0], fn[0])


def aggregated_jaccard_index(
    truth: ArrayLike, predicted: ArrayLike, *, definition: Literal["kumar", "cellpose"] = "kumar"
) -> float:
    """The aggregated Jaccard index: pixels that objects share with their partners over pixels that either covers.

    Parameters
    ----------
    truth, predicted : integer array, the same shape
        Label images, as for `matching`.
    definition : "kumar" or "cellpose"
        They differ in who is whose partner and in what the intersections are divided by.

        "kumar": as Kumar et al., IEEE Transactions on Medical Imaging 2017, define it. The partner of a true object is
        the predicted one with the largest intersection over union (of equal ones that of the lowest label), even if it
        is another's partner too. Divided by the unions of all these pairs, the areas of true objects that nothing
        overlaps, and those of predicted objects that are nobody's partner.

        "cellpose": as Cellpose's ``aggregated_jaccard_index``. Partners are matched one to one, the most with an
        intersection over union of at least 0.5, then for the largest sum of all. Divided by the pixels that are an
        object's in either image.

    Returns
    -------
    float
        NaN if there is no object in either image.

    Raises
    ------
    ImageError, CapacityError
        As `matching`.
    CellrtError
        If the definition is unknown.
    """
    shared, covered = aggregated_jaccard_pixels(truth, predicted, definition=definition)
    return shared / covered if covered else float("nan")


def aggregated_jaccard_pixels(
    truth: ArrayLike, predicted: ArrayLike, *, definition: Literal["kumar", "cellpose"] = "kumar"
) -> tuple[int, int]:
    """Numerator and denominator of `aggregated_jaccard_index`, to be added up over images."""
    if definition not in ("kumar", "cellpose"):
        raise CellrtError(f"expected a definition out of kumar, cellpose, got {definition!r}; choose one")
    overlaps = overlaps_of(truth, predicted)
    rows, columns = overlaps.pairs.T
    scores = overlaps.scores("iou")
    if definition == "cellpose":
        is_matched = overlaps.match(scores, 0.5)
        return int(overlaps.counts[is_matched].sum()), overlaps.n_foreground
    best_first = np.lexsort((columns, -scores, rows))
    partners = best_first[np.diff(rows[best_first], prepend=-1) > 0]
    is_alone = np.ones(len(overlaps.true_labels), bool)
    is_alone[rows] = False
    is_nobodys = np.ones(len(overlaps.predicted_labels), bool)
    is_nobodys[columns[partners]] = False
    covered = overlaps.unions()[partners].sum()
    covered += overlaps.true_areas[is_alone].sum() + overlaps.predicted_areas[is_nobodys].sum()
    return int(overlaps.counts[partners].sum()), int(covered)


def _thresholds(threshold: float | Sequence[float]) -> tuple[tuple[float, ...], bool]:
    """Thresholds as floats, and whether it was one and not a sequence."""
    try:
        values = np.asarray(threshold, np.float64)
    except (TypeError, ValueError):
        values = np.full(1, np.nan)
    if values.ndim > 1 or values.size == 0 or not np.all((values > 0) & (values <= 1)):
        raise CellrtError(f"expected thresholds above 0 and up to 1, got {threshold!r}; pass one or a sequence of them")
    return tuple(values.reshape(-1).tolist()), values.ndim == 0


def _paired(truths: Any, predictions: Any) -> list[tuple[ArrayLike, ArrayLike]]:
    """Label images of two lists by their places."""
    if not isinstance(predictions, list | tuple) or len(predictions) != len(truths):
        got = f"{len(predictions)}" if isinstance(predictions, list | tuple) else type(predictions).__name__
        raise CellrtError(f"expected a list of {len(truths)} predictions, got {got}; pass one for each truth")
    return list(zip(truths, predictions, strict=True))


def _matching(overlaps: Overlaps, threshold: float, criterion: Criterion) -> Matching:
    """The scores of one image at one threshold."""
    scores = overlaps.scores(criterion).astype(np.float32)
    matches = overlaps.matches(scores.astype(np.float64), float(np.float32(threshold)))
    tp, n_true, n_pred = len(matches), len(overlaps.true_labels), len(overlaps.predicted_labels)
    rows, columns = overlaps.pairs[matches].T
    return Matching(
        criterion=criterion,
        threshold=threshold,
        fp=n_pred - tp,
        tp=tp,
        fn=n_true - tp,
        n_true=n_true,
        n_pred=n_pred,
        **_rates(tp, n_pred - tp, n_true - tp, scores[matches].sum()),
        matched_pairs=np.stack([overlaps.true_labels[rows], overlaps.predicted_labels[columns]], axis=1),
        matched_scores=scores[matches],
    )


def _rates(tp: int, fp: int, fn: int, total: np.float32) -> dict[str, Any]:
    """What follows from the counts and the sum of the matches' scores, in the precision of the original."""
    return {
        "precision": tp / (tp + fp) if tp else 0.0,
        "recall": tp / (tp + fn) if tp else 0.0,
        "accuracy": tp / (tp + fp + fn) if tp else 0.0,
        "f1": 2 * tp / (2 * tp + fp + fn) if tp else 0.0,
        "mean_true_score": float(total / np.float32(tp + fn)) if tp else 0.0,
        "mean_matched_score": float(total) / tp if tp else 0.0,
        "panoptic_quality": float(total) / (tp + fp / 2 + fn / 2) if tp else 0.0,
    }
