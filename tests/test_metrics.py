"""The measures against recordings of StarDist 0.9.2 and Cellpose 4.2.1.1, against slow twins, and at their doors."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import reference_matching
from conftest import GOLDEN_METRICS, reference_file
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

import cellrt
from cellrt import kernels, metrics
from cellrt.errors import CapacityError, CellrtError, DataError, ImageError, KernelError

RANDOM = np.random.default_rng(0)
CRITERIA = ("iou", "iot", "iop")
LARGEST = 2**31 - 1


def recording(name: str) -> dict[str, NDArray[Any]]:
    with np.load(GOLDEN_METRICS / f"{name}.npz") as file:
        return dict(file)


STARDIST, CELLPOSE, LABELS = recording("stardist"), recording("cellpose"), recording("labels")
CASES = {name: (LABELS[f"{name}_truth"], LABELS[f"{name}_predicted"]) for name in LABELS["names"].tolist()}


def label_pairs(max_label: int) -> st.SearchStrategy[tuple[NDArray[np.int32], NDArray[np.int32]]]:
    shapes = st.one_of(st.tuples(st.integers(0, 7), st.integers(1, 7)), st.tuples(*[st.integers(1, 4)] * 3))
    one = st.integers(0, max_label)
    return shapes.flatmap(lambda shape: st.tuples(*[arrays(np.int32, shape, elements=one)] * 2))


# ---- against the originals ----------------------------------------------------------------------------------------


def numbers(found: tuple[metrics.Scores, ...]) -> NDArray[np.float64]:
    return np.array([[float(getattr(one, field)) for field in STARDIST["fields"].tolist()] for one in found])


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("name", CASES)
def test_matching_is_that_of_stardist(name, criterion):
    found = metrics.matching(*CASES[name], threshold=STARDIST["thresholds"], criterion=criterion)
    np.testing.assert_array_equal(numbers(found), STARDIST[f"{name}_{criterion}"])
    pairs = np.concatenate([one.matched_pairs for one in found])
    scores = np.concatenate([one.matched_scores for one in found])
    if criterion == "iou" and name != "halves":  # where pairs are equally good StarDist takes others
        np.testing.assert_array_equal(pairs, STARDIST[f"{name}_{criterion}_pairs"])
    np.testing.assert_array_equal(scores, STARDIST[f"{name}_{criterion}_scores"])


@pytest.mark.parametrize("by_image", [False, True])
@pytest.mark.parametrize("criterion", CRITERIA)
def test_matching_of_a_data_set_is_that_of_stardist(criterion, by_image):
    found = metrics.matching_dataset(
        iter(CASES.values()), threshold=STARDIST["thresholds"], criterion=criterion, by_image=by_image
    )
    np.testing.assert_array_equal(numbers(found), STARDIST[f"dataset_{criterion}_{by_image}"])
    assert {(one.by_image, one.n_images) for one in found} == {(by_image, len(CASES))}


def test_average_precision_is_that_of_cellpose():
    truths, predictions = map(list, zip(*CASES.values(), strict=True))
    found = metrics.average_precision(truths, predictions, thresholds=CELLPOSE["thresholds"])
    for name, array in zip(("ap", "tp", "fp", "fn"), found, strict=True):
        np.testing.assert_array_equal(array, CELLPOSE[name])
    assert found[0].dtype == np.float32
    alone = metrics.average_precision(truths[6], predictions[6], thresholds=0.5)
    assert [array.tolist() for array in alone] == [array[6, 4:5].tolist() for array in found]


def test_cellposes_aggregated_jaccard_index_is_that_of_cellpose():
    found = [metrics.aggregated_jaccard_index(*pair, definition="cellpose") for pair in CASES.values()]
    np.testing.assert_array_equal(found, CELLPOSE["index"])


def test_matching_of_the_larger_recording():
    with np.load(reference_file("cases", "ll_matching.npz")) as case:
        truth, predicted, recorded = case["y_true"], case["y_pred"], json.loads(str(case["result"]))
    for one in recorded:
        found = metrics.matching(truth, predicted, threshold=one["thresh"], criterion=one["criterion"])
        assert {name: getattr(found, name) for name in STARDIST["fields"]} == {
            name: one[name] for name in STARDIST["fields"]
        }


# ---- overlaps against the twin ------------------------------------------------------------------------------------


@given(label_pairs(3), st.sampled_from([1, LARGEST // 3]), st.integers(0, 3))
def test_overlaps_are_those_of_the_twin(labels, step, threads):
    truth, predicted = (array * np.int32(step) for array in labels)
    pairs, counts = kernels.label_overlaps(truth, predicted, threads=threads)
    expected = reference_matching.label_overlaps(truth, predicted)
    assert list(map(tuple, pairs.tolist())) == list(expected)
    assert counts.tolist() == list(expected.values())


@pytest.mark.parametrize("n_labels", [40, 3000, LARGEST])
def test_overlaps_of_large_images_for_any_number_of_threads(n_labels):
    # more pairs than there is room for at first, in pieces that are worth a thread
    truth, predicted = RANDOM.integers(0, n_labels, (2, 700, 1200), np.int32)
    both, expected = np.unique(truth.ravel().astype(np.int64) << 31 | predicted.ravel(), return_counts=True)
    for threads in (1, 2, 3):
        pairs, counts = kernels.label_overlaps(truth, predicted, threads=threads)
        np.testing.assert_array_equal(pairs[:, 0].astype(np.int64) << 31 | pairs[:, 1], both)
        np.testing.assert_array_equal(counts, expected)


# ---- matchings against the twin -----------------------------------------------------------------------------------


@st.composite
def scored_pairs(draw: st.DrawFn) -> tuple[list[tuple[int, int]], list[float]]:
    """Some of the pairs of up to five rows and columns, with few different scores and many ties, or any."""
    places = st.tuples(st.integers(0, 4), st.integers(0, 4))
    pairs = sorted(draw(st.sets(places, max_size=12)))
    scores = st.one_of(st.integers(0, 8).map(lambda eighths: eighths / 8), st.floats(2**-10, 1, width=16))
    return pairs, draw(st.lists(scores, min_size=len(pairs), max_size=len(pairs)))


def match(pairs: list[tuple[int, int]], scores: list[float], threshold: float) -> list[int]:
    array = np.array(pairs, np.int32).reshape(-1, 2)
    sides = {"n_rows": 5, "n_columns": 5}
    found = kernels.match_pairs(array, np.array(scores), **sides, threshold=threshold, max_steps=10**6)
    return np.flatnonzero(found).tolist()


@given(scored_pairs(), st.sampled_from([0.0, 0.125, 0.3, 0.5, 1.0, 2.0]))
def test_matchings_are_as_good_as_the_best_of_all(scored, threshold):
    pairs, scores = scored
    chosen = match(pairs, scores, threshold)
    for side in (0, 1):
        assert len({pairs[i][side] for i in chosen}) == len(chosen)
    assert reference_matching.value(scores, chosen, threshold) == reference_matching.best_value(
        pairs, scores, threshold
    )


@pytest.mark.parametrize("n_rows", [30, 200, 400])
@pytest.mark.parametrize("n_per_row", [2, 6, 60])
def test_large_matchings_are_as_good_as_scipys(n_rows, n_per_row):
    optimize = pytest.importorskip("scipy.optimize")
    n_columns = 200
    dense = np.zeros((n_rows, n_columns))
    dense[RANDOM.integers(0, n_rows, n_rows * n_per_row), RANDOM.integers(0, n_columns, n_rows * n_per_row)] = 1
    dense *= RANDOM.random(dense.shape)
    pairs = np.argwhere(dense > 0).astype(np.int32, order="C")
    scores = dense[dense > 0]
    for threshold in (0.05, 0.4, 0.8):
        chosen = kernels.match_pairs(
            pairs, scores, n_rows=n_rows, n_columns=n_columns, threshold=threshold, max_steps=10**9
        )
        rows, columns = optimize.linear_sum_assignment((dense >= threshold) * 1000.0 + dense, maximize=True)
        assert np.count_nonzero(scores[chosen] >= threshold) == np.count_nonzero(dense[rows, columns] >= threshold)
        assert math.isclose(scores[chosen].sum(), dense[rows, columns].sum(), rel_tol=1e-12)


def test_a_matching_that_takes_too_long_is_given_up():
    pairs = np.indices((60, 60), np.int32).reshape(2, -1).T.copy()
    scores = (pairs[:, 0] + 1) * (pairs[:, 1] + 1) / 3600.0
    with pytest.raises(CapacityError, match="expected a matching of 3600 pairs within 100 steps"):
        kernels.match_pairs(pairs, scores, n_rows=60, n_columns=60, threshold=0.1, max_steps=100)


# ---- measures against the twins, and laws -------------------------------------------------------------------------


@given(label_pairs(4), st.sampled_from([0.05, 0.2, 0.34, 0.5, 0.75, 1.0]), st.sampled_from(CRITERIA))
def test_matching_counts_what_the_twin_does(labels, threshold, criterion):
    truth, predicted = map(reference_matching.objects, labels)
    every = [(i, j) for i in truth for j in predicted if truth[i] & predicted[j]]
    scores = [float(np.float32(reference_matching.score(truth[i], predicted[j], criterion))) for i, j in every]
    expected_tp, _ = reference_matching.best_value(every, scores, float(np.float32(threshold)))
    found = metrics.matching(*labels, threshold=threshold, criterion=criterion)
    assert (found.tp, found.fp, found.fn) == (expected_tp, len(predicted) - expected_tp, len(truth) - expected_tp)
    assert (found.n_true, found.n_pred) == (len(truth), len(predicted))
    assert [scores[every.index(tuple(pair))] for pair in found.matched_pairs.tolist()] == found.matched_scores.tolist()
    if found.tp:
        assert math.isclose(found.mean_matched_score, found.matched_scores.mean(), rel_tol=1e-6)
        assert math.isclose(found.panoptic_quality, found.f1 * found.mean_matched_score, rel_tol=1e-6)


@given(label_pairs(4))
def test_the_aggregated_jaccard_index_is_that_of_the_twin(labels):
    found, expected = metrics.aggregated_jaccard_index(*labels), reference_matching.aggregated_jaccard_index(*labels)
    assert found == expected or (math.isnan(found) and math.isnan(expected))


@given(label_pairs(4), st.sampled_from([0.1, 0.5, 0.8]))
def test_swapping_truth_and_prediction_swaps_their_counts(labels, threshold):
    truth, predicted = labels
    there = metrics.matching(truth, predicted, threshold=threshold)
    back = metrics.matching(predicted, truth, threshold=threshold)
    assert (there.tp, there.fp, there.fn) == (back.tp, back.fn, back.fp)
    there, back = (metrics.average_precision(*pair, thresholds=threshold)[1] for pair in (labels, labels[::-1]))
    assert there.tolist() == back.tolist()


def test_kinds_of_integers_strides_and_gaps_make_no_difference():
    truth, predicted = CASES["dense"]
    expected = metrics.matching(truth, predicted, threshold=0.3)
    for dtype in (np.int16, ">u2", np.int32, np.uint32, np.int64, np.uint64):
        padded = np.full((2 * truth.shape[0], truth.shape[1]), -1).astype(dtype)
        padded[1::2] = truth[:, ::-1]
        view = padded[1::2, ::-1]
        view.flags.writeable = False
        found = metrics.matching(view, np.asfortranarray(predicted), threshold=0.3)
        assert numbers((found,)).tolist() == numbers((expected,)).tolist()
    far = truth.astype(np.int64) * (LARGEST // int(truth.max()))
    assert metrics.matching(far, predicted, threshold=0.3).tp == expected.tp


def test_objects_that_fill_the_image_are_all_counted():
    """Where the original of average_precision counts one too few."""
    labels = np.repeat([1, 2, 3], 4).reshape(3, 4)
    ap, tp, fp, fn = metrics.average_precision([labels], [labels], thresholds=[0.5])
    assert (ap.item(), tp.item(), fp.item(), fn.item()) == (1, 3, 0, 0)
    assert metrics.matching(labels, labels).f1 == 1
    assert metrics.aggregated_jaccard_index(labels, labels) == 1


def test_images_without_objects_or_pixels():
    for empty in (np.zeros((5, 4), np.uint8), np.zeros((0, 4), np.int32)):
        found = metrics.matching(empty, empty)
        assert (found.tp, found.fp, found.fn, found.f1, found.panoptic_quality) == (0, 0, 0, 0, 0)
        assert found.matched_pairs.shape == (0, 2)
        assert np.isnan(metrics.average_precision(empty, empty)[0]).all()
        for definition in ("kumar", "cellpose"):
            assert math.isnan(metrics.aggregated_jaccard_index(empty, empty, definition=definition))
    assert metrics.average_precision([], [])[0].shape == (0, 3)


def test_the_package_names_it():
    assert cellrt.metrics is metrics


# ---- doors --------------------------------------------------------------------------------------------------------

SQUARE = np.ones((4, 4), np.int32)


@pytest.mark.parametrize(
    ("truth", "predicted", "message"),
    [
        (SQUARE, SQUARE[:3], r"expected predicted of shape \(4, 4\) as truth, got \(3, 4\); check"),
        (SQUARE.astype(float), SQUARE, "expected truth as an array of integer labels, got dtype float64; number"),
        (SQUARE, SQUARE > 0, "expected predicted as an array of integer labels, got dtype bool; number"),
        (
            SQUARE,
            -SQUARE,
            "expected predicted with labels from 0 to 2147483647, got -1 to -1; number the objects again",
        ),
        (SQUARE.astype(np.int64) << 31, SQUARE, "expected truth with labels from 0 to 2147483647, got 2147483648 to"),
    ],
)
def test_what_is_not_labels_is_refused(truth, predicted, message):
    for measure in (metrics.matching, metrics.average_precision, metrics.aggregated_jaccard_index):
        with pytest.raises(ImageError, match=message):
            measure(truth, predicted)


@pytest.mark.parametrize("threshold", [0, -0.1, 1.01, math.nan, [], [0.5, 2], "half", None, [[0.5]]])
def test_thresholds_out_of_range_are_refused(threshold):
    with pytest.raises(CellrtError, match="expected thresholds above 0 and up to 1, got"):
        metrics.matching(SQUARE, SQUARE, threshold=threshold)
    with pytest.raises(CellrtError, match="expected thresholds above 0 and up to 1, got"):
        metrics.average_precision(SQUARE, SQUARE, thresholds=threshold)


def test_other_wrong_arguments_are_refused():
    with pytest.raises(CellrtError, match="expected a criterion out of iou, iot, iop, got 'dice'"):
        metrics.matching(SQUARE, SQUARE, criterion="dice")
    with pytest.raises(CellrtError, match="expected a definition out of kumar, cellpose, got 'mine'"):
        metrics.aggregated_jaccard_index(SQUARE, SQUARE, definition="mine")
    with pytest.raises(CellrtError, match="expected a list of 2 predictions, got 1"):
        metrics.average_precision([SQUARE, SQUARE], [SQUARE])
    with pytest.raises(CellrtError, match="expected a list of 1 predictions, got ndarray"):
        metrics.average_precision([SQUARE], SQUARE)
    with pytest.raises(CellrtError, match="expected at least one pair of label images, got none"):
        metrics.matching_dataset([])


def test_kernels_refuse_what_they_cannot_use():
    with pytest.raises(KernelError, match="expected labels that are not negative, got -1"):
        kernels.label_overlaps(SQUARE, -SQUARE, threads=1)
    with pytest.raises(KernelError, match=r"expected predicted of shape \(4, 4\)"):
        kernels.label_overlaps(SQUARE, SQUARE.reshape(2, 8), threads=1)
    pairs, sides = np.array([[0, 0], [0, 1]], np.int32), {"n_rows": 1, "n_columns": 2, "max_steps": 10}
    with pytest.raises(KernelError, match="expected pairs ascending inside 1 rows and 2 columns"):
        kernels.match_pairs(pairs[::-1].copy(), np.ones(2), threshold=0.5, **sides)
    with pytest.raises(KernelError, match="and a threshold, got others"):
        kernels.match_pairs(pairs, np.ones(2), threshold=math.nan, **sides)
    with pytest.raises(DataError, match="expected scores from 0 to 1"):
        kernels.match_pairs(pairs, np.array([0.5, math.nan]), threshold=0.5, **sides)
