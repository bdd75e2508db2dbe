"""Suppression of polyhedra while more may come: what is decided stays so, whatever comes."""

import numpy as np
import pytest
import star_network_3d
from hypothesis import given, settings
from hypothesis import strategies as st

from cellrt import kernels
from cellrt.errors import CapacityError, KernelError
from cellrt.heads import star_3d

N_RAYS = star_network_3d.N_RAYS
RAYS, FACES = star_3d.directions(star_network_3d.head())
DROPPED, KEPT, UNDECIDED = kernels.STAR_DROPPED, kernels.STAR_KEPT, kernels.STAR_UNDECIDED


def candidates(seed, n=400, side=45):
    """Round bodies at random places; in every second set many are equally strong."""
    random = np.random.default_rng(seed)
    prob = (random.random(n) if seed % 2 else random.integers(5, 9, n) / 10).astype(np.float32)
    dist = np.repeat(random.uniform(2, 9, (n, 1)), N_RAYS, axis=1).astype(np.float32)
    dist *= random.uniform(0.9, 1.1, dist.shape).astype(np.float32)
    points = random.integers(0, side, (n, 3)).astype(np.int32)
    return prob, dist, points[np.lexsort(points.T[::-1])]


def nms(prob, dist, points, threads=1):
    options = {"nms_thresh": 0.3, "max_work": 10**9, "threads": threads}
    return kernels.star_nms_3d(prob, dist, points, RAYS, FACES, **options)


def settle(prob, dist, points, is_open, threads=1, max_work=10**9):
    is_open = np.asarray(is_open).astype(np.uint8)
    options = {"nms_thresh": 0.3, "max_work": max_work, "threads": threads}
    return kernels.star_settle_3d(prob, dist, points, RAYS, FACES, is_open, **options)


@given(st.integers(0, 10**6))
@settings(max_examples=20)
def test_with_nothing_open_all_is_decided_as_ever(seed):
    some = candidates(seed)
    states = settle(*some, np.zeros(len(some[0])))
    assert not (states == UNDECIDED).any()
    assert np.array_equal(np.flatnonzero(states == KEPT), np.sort(nms(*some)))


@given(st.integers(0, 10**6))
@settings(max_examples=30)
def test_decisions_are_those_among_all_candidates(seed):
    """Some candidates are hidden; those whose boxes touch a hidden one's are open."""
    random = np.random.default_rng(seed)
    prob, dist, points = candidates(seed)
    reach = dist.max(axis=1) + 2
    # hidden are those beyond a plane, as in a volume that comes in layers
    hidden = points[:, 0] >= random.integers(5, 40)
    away = abs(points[:, None] - points[None, hidden]).max(axis=2)
    is_open = (away <= reach[:, None] + reach[None, hidden]).any(axis=1)
    shown = ~hidden
    states = settle(prob[shown], dist[shown], points[shown], is_open[shown])
    is_kept = np.zeros(len(prob), bool)
    is_kept[nms(prob, dist, points)] = True
    decided = states != UNDECIDED
    assert np.array_equal(states[decided] == KEPT, is_kept[shown][decided])
    # Undecided ones with the rest end as they would among all.
    left = np.sort(np.concatenate([np.flatnonzero(shown)[~decided], np.flatnonzero(hidden)]))
    assert np.array_equal(
        np.sort(left[nms(prob[left], dist[left], points[left])]), np.intersect1d(left, is_kept.nonzero())
    )


def test_what_the_kept_suppress_goes_though_it_is_open():
    prob = np.array([0.9, 0.8, 0.7, 0.6], np.float32)
    dist = np.full((4, N_RAYS), 6, np.float32)
    points = np.array([[5, 5, 5], [5, 5, 6], [5, 5, 30], [5, 5, 31]], np.int32)
    assert settle(prob, dist, points, [0, 1, 0, 0]).tolist() == [KEPT, DROPPED, KEPT, DROPPED]
    assert settle(prob, dist, points, [1, 0, 0, 0]).tolist() == [UNDECIDED, UNDECIDED, KEPT, DROPPED]
    assert settle(prob, dist, points, [0, 0, 0, 1]).tolist() == [KEPT, DROPPED, KEPT, DROPPED]


@pytest.mark.parametrize("threads", [2, 3, 8])
def test_the_same_for_any_number_of_threads(threads):
    some = candidates(1, n=6000, side=110)
    is_open = some[2][:, 0] > 70
    assert np.array_equal(settle(*some, is_open, threads), settle(*some, is_open, 1))


def test_doors():
    prob, dist, points = candidates(0, n=10)
    with pytest.raises(KernelError, match=r"expected is_open .* got"):
        settle(prob, dist, points, np.zeros(9))
    is_open = np.zeros(10, np.uint8)
    with pytest.raises(KernelError, match="expected nms_thresh between 0 and 1"):
        kernels.star_settle_3d(prob, dist, points, RAYS, FACES, is_open, nms_thresh=2, max_work=9, threads=1)
    with pytest.raises(CapacityError, match="expected at most 1 rows of voxels to compare"):
        settle(*candidates(0, n=300), np.zeros(300), max_work=1)
    assert settle(prob[:0], dist[:0], points[:0], np.zeros(0)).shape == (0,)
