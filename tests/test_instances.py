"""Instances: invariants are checked once, and nobody's arrays change."""

import numpy as np
import pytest

from cellrt import CellrtError, Instances


def parts(**changes):
    """Two triangles."""
    return {
        "labels": np.zeros((8, 9), np.int32),
        "scores": np.array([0.9, 0.8], np.float32),
        "points": np.zeros((2, 2), np.float32),
        "outlines": (np.zeros((6, 2), np.float32), np.array([0, 3, 6])),
        **changes,
    }


def test_arrays_are_read_only_but_the_callers_are_not():
    labels = np.zeros((8, 9), np.int32)
    cells = Instances(**parts(labels=labels))
    with pytest.raises(ValueError, match="read-only"):
        cells.labels[0, 0] = 1
    labels[0, 0] = 1
    assert len(cells) == 2
    assert [polygon.shape for polygon in cells.polygons()] == [(3, 2), (3, 2)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": np.zeros((8, 9), np.int64)}, r"expected labels as int32 \(any, any\), got int64 \(8, 9\)"),
        ({"labels": np.zeros(8, np.int32)}, "expected labels"),
        ({"labels": [[0]]}, "expected labels as int32 .* got list"),
        ({"points": np.zeros((3, 2), np.float32)}, r"expected points as float32 \(2, 2\), got float32 \(3, 2\)"),
        ({"outlines": (np.zeros((6, 3), np.float32), np.array([0, 3, 6]))}, "expected outlines coords"),
        ({"outlines": (np.zeros((6, 2), np.float32), np.array([0, 6]))}, "expected outlines offsets"),
        ({"outlines": (np.zeros((6, 2), np.float32), np.array([0, 7, 6]))}, "expected outline offsets that rise"),
        ({"outlines": (np.zeros((6, 2), np.float32), np.array([1, 3, 6]))}, "expected outline offsets that rise"),
        ({"classes": np.zeros(2, np.int64)}, "expected classes"),
        ({"class_prob": np.zeros((3, 2), np.float32)}, "expected class_prob"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    with pytest.raises(CellrtError, match=message):
        Instances(**parts(**changes))
