"""Slow, obvious twins of what compares label images: overlaps, one-to-one matchings, the measures made of them.

For tests only: small inputs, plain loops, every matching tried.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray


def label_overlaps(truth: NDArray[np.int32], predicted: NDArray[np.int32]) -> dict[tuple[int, int], int]:
    """Pixels of every pair of labels, counted one by one."""
    found: dict[tuple[int, int], int] = {}
    for true_label, predicted_label in zip(truth.ravel().tolist(), predicted.ravel().tolist(), strict=True):
        found[true_label, predicted_label] = found.get((true_label, predicted_label), 0) + 1
    return dict(sorted(found.items()))


def matchings(pairs: list[tuple[int, int]]) -> Iterator[list[int]]:
    """Every way to choose pairs so that no row and no column is chosen twice, as indices."""
    if not pairs:
        yield []
        return
    last = len(pairs) - 1
    for chosen in matchings(pairs[:-1]):
        yield chosen
        if all(pairs[i][0] != pairs[last][0] and pairs[i][1] != pairs[last][1] for i in chosen):
            yield [*chosen, last]


def value(scores: list[float], chosen: list[int], threshold: float) -> tuple[int, Fraction]:
    """How good a matching is: pairs that reach the threshold, then the sum of all scores, without rounding."""
    return sum(scores[i] >= threshold for i in chosen), sum((Fraction(scores[i]) for i in chosen), Fraction())


def best_value(pairs: list[tuple[int, int]], scores: list[float], threshold: float) -> tuple[int, Fraction]:
    """The value of the best matching."""
    return max(value(scores, chosen, threshold) for chosen in matchings(pairs))


def objects(labels: NDArray[np.int32]) -> dict[int, set[int]]:
    """The pixels of every label but 0."""
    return {int(label): set(np.flatnonzero(labels == label).tolist()) for label in np.unique(labels) if label}


def score(true_pixels: set[int], predicted_pixels: set[int], criterion: str) -> float:
    """Of two objects."""
    parts = {"iou": true_pixels | predicted_pixels, "iot": true_pixels, "iop": predicted_pixels}
    return len(true_pixels & predicted_pixels) / len(parts[criterion])


def aggregated_jaccard_index(truth: NDArray[np.int32], predicted: NDArray[np.int32]) -> float:
    """Algorithm 1 of Kumar et al. 2017, object by object."""
    shared = covered = 0
    unused = objects(predicted)
    found = objects(predicted)
    for pixels in objects(truth).values():
        partner = max(found, key=lambda label: (score(pixels, found[label], "iou"), -label), default=None)
        if partner is None or not pixels & found[partner]:
            covered += len(pixels)
            continue
        shared += len(pixels & found[partner])
        covered += len(pixels | found[partner])
        unused.pop(partner, None)
    covered += sum(map(len, unused.values()))
    return shared / covered if covered else float("nan")
