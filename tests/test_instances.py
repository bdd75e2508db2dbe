"""Instances: invariants are checked once, and nobody's arrays change."""

import numpy as np
import pytest

from cellrt import CellrtError, Instances
from cellrt.instances import Polyhedra


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


def volume(**changes):
    """Two tetrahedra."""
    rays = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], np.float32)
    faces = np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]], np.int32)
    return {
        "labels": np.zeros((3, 8, 9), np.int32),
        "scores": np.array([0.9, 0.8], np.float32),
        "points": np.zeros((2, 3), np.float32),
        "outlines": None,
        "polyhedra": Polyhedra(np.ones((2, 4), np.float32), rays, faces),
        **changes,
    }


def test_objects_of_a_volume_have_bodies_and_no_outlines():
    cells = Instances(**volume())
    assert cells.is_volume
    assert repr(cells) == "Instances(2 objects in 3 x 8 x 9 voxels)"
    assert not Instances(**parts()).is_volume
    with pytest.raises(
        CellrtError, match=r"expected the objects of an image, .* got Instances\(2 objects in 3 x 8 x 9"
    ):
        list(cells.polygons())
    with pytest.raises(ValueError, match="read-only"):
        cells.polyhedra.dist[0, 0] = 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"outlines": parts()["outlines"]}, "expected outlines of an image's objects, and none of a volume's"),
        ({"points": np.zeros((2, 2), np.float32)}, r"expected points as float32 \(2, 3\)"),
        ({"labels": np.zeros((8, 9), np.int32), "points": np.zeros((2, 2), np.float32)}, "expected outlines of"),
        ({"labels": np.zeros((1, 1, 8, 9), np.int32)}, "expected labels as int32"),
        (
            {"polyhedra": Polyhedra(*(np.zeros(s, t) for s, t in (((1, 4), "f4"), ((4, 3), "f4"), ((0, 3), "i4"))))},
            "2 po",
        ),
    ],
)
def test_what_does_not_fit_a_volume_is_refused(changes, message):
    with pytest.raises(CellrtError, match=message):
        Instances(**volume(**changes))


def test_polyhedra_have_faces_of_their_rays():
    with pytest.raises(CellrtError, match="expected faces of rays 0 to 3"):
        Polyhedra(np.ones((1, 4), np.float32), np.ones((4, 3), np.float32), np.array([[0, 1, 4]], np.int32))
    with pytest.raises(CellrtError, match=r"expected rays as float32 \(4, 3\)"):
        Polyhedra(np.ones((1, 4), np.float32), np.ones((5, 3), np.float32), np.zeros((0, 3), np.int32))
