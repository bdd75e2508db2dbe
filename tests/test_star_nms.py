"""Suppression of star-convex polygons: the original's decisions, a slow twin, worst cases, and tile by tile."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from typing import Any

import numpy as np
import pytest
import reference_nms
from conftest import GOLDEN, reference_file
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from cellrt import kernels
from cellrt.errors import CapacityError, DataError, KernelError

Candidates = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int32]]
SHAPES = ("smooth", "wobbly", "rough", "spiky", "needle")


def suppress(candidates: Candidates, nms_thresh: float, *, max_pairs: int = 10**9, threads: int = 1):
    return kernels.star_nms_2d(*candidates, nms_thresh=nms_thresh, max_pairs=max_pairs, threads=threads)


def star_lengths(random: np.random.Generator, shape: str, n: int, n_rays: int, radius: float) -> NDArray[np.float32]:
    """Ray lengths (n, n_rays) of stars of about a radius."""
    angles = np.linspace(0, 2 * np.pi, n_rays, endpoint=False)
    if shape == "smooth":
        waves = (
            random.normal(0, 0.1 / k, (n, 1)) * np.cos(k * angles + random.uniform(0, 6, (n, 1))) for k in (1, 2, 3)
        )
        lengths = 1 + sum(waves)
    elif shape == "wobbly":
        lengths = 1 + random.normal(0, 0.06, (n, n_rays))
    elif shape == "rough":
        lengths = random.uniform(0.5, 1.5, (n, n_rays))
    elif shape == "spiky":
        lengths = np.where(random.random((n, n_rays)) < 0.2, 2.0, 0.4) * random.uniform(0.5, 1.5, (n, n_rays))
    else:
        lengths = np.where(np.arange(n_rays) == random.integers(0, n_rays, (n, 1)), 3.0, 0.05)
    return np.maximum(1e-3, radius * lengths * random.uniform(0.6, 1.4, (n, 1))).astype(np.float32)


def crowd(
    seed: int,
    *,
    n: int = 40,
    n_rays: int = 32,
    radius: float = 8,
    shape: str = "wobbly",
    centre: tuple[int, int] = (0, 0),
) -> Candidates:
    """Candidates around a few objects, as a network gives them; some probabilities are equal."""
    random = np.random.default_rng(seed)
    n_objects = max(1, n // 12)
    objects = random.uniform(-1, 1, (n_objects, 2)) * radius * 1.5 * n_objects**0.5
    points = np.rint(objects[random.integers(0, n_objects, n)] + random.normal(0, 0.35 * radius, (n, 2)))
    prob = np.round(random.random(n), 2).astype(np.float32)
    return prob, star_lengths(random, shape, n, n_rays, radius), (points + centre).astype(np.int32)


# ---- The original's decisions -------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted((GOLDEN / "kernels").glob("nms_*.npz")), ids=lambda path: path.stem)
def test_recorded_decisions(path):
    case = np.load(path)
    shuffle = np.random.default_rng(0).permutation(len(case["prob"]))
    candidates = case["prob"], case["dist"], case["points"].astype(np.int32)
    for threshold, keep in zip(case["thresholds"], case["keep"], strict=True):
        kept = suppress(candidates, threshold)
        np.testing.assert_array_equal(kept, np.flatnonzero(keep))  # recorded in descending order
        shuffled = suppress(tuple(array[shuffle] for array in candidates), threshold)  # type: ignore[arg-type]
        np.testing.assert_array_equal(shuffle[shuffled], kept)


@pytest.mark.parametrize("name", ["ll_nms2d_a", "ll_nms2d_b"])
def test_recorded_decisions_of_the_large_set(name):
    case = np.load(reference_file("cases", f"{name}.npz"))
    candidates = case["prob"], case["dist"], case["points"].astype(np.int32)
    for key in (key for key in case if key.startswith("keep_")):
        flags = np.zeros(len(case["prob"]), bool)
        flags[suppress(candidates, float(key.removeprefix("keep_")))] = True
        np.testing.assert_array_equal(flags, case[key], err_msg=key)


@pytest.mark.parametrize("name", ["2d_fluo_img2d", "2d_fluo_odd229x251", "2d_rgb_synth"])
def test_survivors_of_real_candidates(name):
    case = np.load(reference_file("cases", f"{name}.npz"))
    prob, points = case["cand_prob"], case["cand_points"].astype(np.int32)
    y, x = (points // 2).T  # the grid of these models
    dist = np.ascontiguousarray(np.maximum(case["dist"][y, x], 1e-3))
    kept = suppress((prob, dist, points), float(case["nms_thresh"]))
    np.testing.assert_array_equal(points[kept], case["sparse_points"])
    np.testing.assert_array_equal(prob[kept], case["sparse_prob"])


# ---- The twin -----------------------------------------------------------------------------------------------------


@given(
    st.integers(0, 2**32),
    st.sampled_from(["smooth", "wobbly"]),
    st.sampled_from([3, 4, 8, 16, 32, 33]),
    st.sampled_from([0.5, 1.5, 4.0, 10.0, 40.0]),
    st.sampled_from([(0, 0), (700, -90), (-2000, 3000)]),
    st.floats(0, 1, width=32),
)
@settings(max_examples=60, deadline=None)
def test_decisions_are_those_of_the_clipper(seed, shape, n_rays, radius, centre, nms_thresh):
    pytest.importorskip("pyclipper", reason="the slow twin asks pyclipper")
    candidates = crowd(seed, n=24, n_rays=n_rays, radius=radius, shape=shape, centre=centre)
    kept = suppress(candidates, nms_thresh)
    np.testing.assert_array_equal(kept, reference_nms.star_nms_2d(*candidates, nms_thresh))


@given(
    st.integers(0, 2**32),
    st.sampled_from(SHAPES),
    st.sampled_from([3, 5, 8, 16, 32]),
    st.sampled_from([1.0, 5.0, 30.0]),
    st.floats(0.0625, 0.9375, width=32),
)
@settings(max_examples=80, deadline=None)
def test_decisions_are_those_of_the_exact_area_where_rounding_cannot_matter(seed, shape, n_rays, radius, nms_thresh):
    prob, dist, points = crowd(seed, n=2, n_rays=n_rays, radius=radius, shape=shape)
    one, other = (reference_nms.vertices(*star) for star in zip(dist, points, strict=True))
    overlap = reference_nms.overlap(one, other, reference_nms.exact_area)
    # Every crossing point moves by a pixel at most, so the area by no more than the length of the outlines.
    length = sum(np.hypot(*(np.array(p) - np.roll(p, 1, 0)).T).sum() for p in (one, other))
    smaller = min(reference_nms.area(one), reference_nms.area(other))
    if smaller == 0 or abs(overlap - nms_thresh) * smaller < length:
        return
    assert len(suppress((prob, dist, points), nms_thresh)) == (1 if overlap > nms_thresh else 2)


def test_self_crossing_polygons_are_filled_by_the_nonzero_rule():
    # Truncation towards zero folds this star over itself around the origin; the twin agrees.
    pytest.importorskip("pyclipper", reason="the slow twin asks pyclipper")
    random = np.random.default_rng(3)
    prob = random.random(60, np.float32)
    dist = star_lengths(random, "rough", 60, 24, 1.2)
    points = random.integers(-1, 2, (60, 2)).astype(np.int32)
    for nms_thresh in (0.05, 0.3, 0.6, 0.9):
        kept = suppress((prob, dist, points), nms_thresh)
        np.testing.assert_array_equal(kept, reference_nms.star_nms_2d(prob, dist, points, nms_thresh))


# ---- Laws and worst cases -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_the_same_for_any_number_of_threads(shape):
    candidates = crowd(5, n=6000, n_rays=16, radius=6, shape=shape)
    one, two, three = (suppress(candidates, 0.4, threads=threads) for threads in (1, 2, 3))
    assert one.tobytes() == two.tobytes() == three.tobytes()
    prob = candidates[0]
    assert one[0] == prob.argmax()
    assert np.all(np.diff(prob[one]) <= 0)


def test_ties_go_to_the_first():
    prob, dist, points = crowd(6, n=50)
    prob[:] = 0.5
    same = prob, np.ascontiguousarray(np.broadcast_to(dist[0], dist.shape)), np.zeros_like(points)
    assert suppress(same, 0.4).tolist() == [0]
    kept = suppress((prob, dist, points), 0.4)
    assert kept[0] == 0
    assert np.all(np.diff(kept) > 0)
    prob[::2] = -0.0
    prob[1::2] = 0.0
    assert suppress((prob, dist, points), 0.4).tolist() == kept.tolist()


def test_thresholds_at_the_ends():
    candidates = crowd(7, n=60, radius=5)
    assert len(suppress(candidates, 1.0)) == 60
    apart = suppress(candidates, 0.0)
    assert 1 <= len(apart) < 20


def count_pairs(candidates: Candidates, nms_thresh: float, threads: int = 1) -> int:
    """The smallest limit on pairs that is enough."""
    low, high = 0, 10**9
    while low < high:
        middle = (low + high) // 2
        try:
            suppress(candidates, nms_thresh, max_pairs=middle, threads=threads)
            high = middle
        except CapacityError:
            low = middle + 1
    return low


def slivers(n: int) -> Candidates:
    """Polygons as long as can be and a line wide, side by side: none touches another, and all are near each other."""
    dist = np.tile(np.array([5e5, 1e-3, 5e5, 1e-3], np.float32), (n, 1))
    points = np.stack([3 * np.arange(n), np.zeros(n)], axis=1).astype(np.int32)
    return np.linspace(1, 0, n, dtype=np.float32), dist, points


def test_the_limit_on_pairs_is_the_same_for_any_number_of_threads():
    limits = {count_pairs(crowd(8, n=2000, n_rays=8, radius=4), 0.5, threads) for threads in (1, 2, 3)}
    assert len(limits) == 1
    assert 2000 <= limits.pop() < 2000 * 40
    # Where only the looking counts, and where looking and comparing do: needles of all lengths over each other.
    for candidates in (slivers(3000), crowd(8, n=2000, n_rays=8, radius=300, shape="needle")):
        assert len({count_pairs(candidates, 0.9, threads) for threads in (1, 2, 3)}) == 1


def test_looking_without_comparing_is_limited_too():
    few = count_pairs(slivers(2000), 0.5)
    assert few > 2000
    assert 3 * few < count_pairs(slivers(4000), 0.5) < 5 * few  # it is quadratic, and so is the count
    with pytest.raises(CapacityError):
        suppress(slivers(4000), 0.5, max_pairs=0)
    begin = time.process_time()
    with pytest.raises(CapacityError):
        suppress(slivers(200_000), 0.5, max_pairs=10**6)
    assert time.process_time() - begin < 2  # without the limit: a minute


@pytest.mark.parametrize("name", ["ll_nms2d_a", "ll_nms2d_b"])
def test_usual_candidates_take_few_pairs(name):
    case = np.load(reference_file("cases", f"{name}.npz"))
    candidates = case["prob"], case["dist"], case["points"].astype(np.int32)
    for nms_thresh, most in ((0.3, 1.1), (0.5, 1.2), (0.8, 3)):
        assert count_pairs(candidates, nms_thresh) < most * len(candidates[0])


@pytest.mark.parametrize(
    ("array", "value"),
    [("prob", np.nan), ("dist", np.nan), ("dist", np.inf), ("dist", 0), ("dist", -1), ("dist", 2.0**20 + 1)],
)
def test_values_that_cannot_be_used(array, value):
    prob, dist, points = crowd(9)
    {"prob": prob, "dist": dist}[array].reshape(-1)[-1] = value
    with pytest.raises(DataError, match="prob without NaN, 0 < dist <= 2\\^20"):
        suppress((prob, dist, points), 0.4)
    stream = kernels.StarNms2D(32, 0, 100)
    with pytest.raises(DataError, match="prob without NaN, 0 < dist <= 2\\^20"):
        stream.add(prob, dist, points, None)
    assert len(stream) == 0


def test_points_beyond_the_limit():
    prob, dist, points = crowd(9)
    points[3] = (2**30, -(2**30))
    assert 3 in suppress((prob, dist, points), 0.4)
    points[3, 1] -= 1
    with pytest.raises(DataError, match="points within"):
        suppress((prob, dist, points), 0.4)


def test_the_longest_rays_at_the_farthest_points():
    points = np.array([(2**30, 2**30), (2**30, 2**30), (-(2**30), -(2**30)), (2**30, -(2**30))], np.int32)
    dist = np.full((4, 32), 2.0**20, np.float32)
    prob = np.array([0.5, 0.4, 0.3, 0.2], np.float32)
    assert suppress((prob, dist, points), 0.5).tolist() == [0, 2, 3]
    assert suppress((prob, dist * np.float32(1e-9), points), 0.5).tolist() == [0, 1, 2, 3]
    random = np.random.default_rng(0)
    wild = (2.0**20 * random.random((300, 64)) ** 8).astype(np.float32) + np.float32(1e-3)
    centres = random.integers(-(2**20), 2**20, (300, 2)).astype(np.int32)
    assert len(suppress((random.random(300, np.float32), wild, centres), 0.2)) >= 1


def test_polygons_without_area_neither_suppress_nor_go():
    prob, _, points = crowd(10, n=50, centre=(200, 200))
    dots = np.full((50, 8), 1e-7, np.float32)  # adds nothing to a coordinate in float32
    assert len(suppress((prob, dots, points), 0.0)) == 50
    dots[:, 0] = 30
    assert len(suppress((prob, dots, points), 0.0)) == 50


def spread(n: int, spacing: float, *, radius: float = 9, n_rays: int = 16, shape: str = "smooth", seed: int = 0):
    """One polygon per place of a square lattice, in row-major order; all probabilities differ."""
    random = np.random.default_rng(seed)
    side = int(np.ceil(n**0.5))
    points = (np.stack(np.divmod(np.arange(n), side), axis=1) * spacing).astype(np.int32)
    prob = (random.permutation(n).astype(np.float32) + 1) / np.float32(n + 1)
    return prob, star_lengths(random, shape, n, n_rays, radius), points


# Apart, overlapping a little, suppressing each other, and so long that each crosses hundreds.
LATTICES = [(40.0, "smooth"), (14.0, "wobbly"), (3.0, "rough"), (14.0, "needle")]


@pytest.mark.parametrize(("spacing", "shape"), LATTICES)
def test_where_a_candidate_stands_in_memory_does_not_matter(spacing, shape):
    candidates = spread(12_000, spacing, shape=shape)
    kept = suppress(candidates, 0.4)
    shuffle = np.random.default_rng(1).permutation(len(candidates[0]))
    for threads in (1, 3):
        shuffled = suppress(tuple(array[shuffle] for array in candidates), 0.4, threads=threads)  # type: ignore[arg-type]
        np.testing.assert_array_equal(shuffle[shuffled], kept)


def test_probabilities_that_make_one_long_chunk():
    prob, dist, points = spread(12_000, 3.0, shape="wobbly")
    kept = suppress((prob, dist, points), 0.4)
    # Nearly all within a billionth of what the two others are apart: no order by a coarse key is left.
    squeezed = np.float32(0.25) + prob * np.float32(1e-3)
    assert len(np.unique(squeezed)) == len(prob)
    far = np.array([[10**6, 0], [0, 10**6]], np.int32)
    together = (
        np.concatenate([squeezed, np.array([1e30, -1e30], np.float32)]),
        np.concatenate([dist, dist[:2]]),
        np.concatenate([points, far]),
    )
    np.testing.assert_array_equal(suppress(together, 0.4), [len(prob), *kept, len(prob) + 1])


def test_the_work_of_adversaries_is_bounded():
    """Comparisons, and looks that take as long, per candidate: what the time is made of, but does not flake."""

    def work(candidates: Candidates, nms_thresh: float = 0.4) -> float:
        return count_pairs(candidates, nms_thresh) / len(candidates[0])

    prob, dist, points = spread(20_000, 2.0)  # some 50 candidates per object
    usual = work((prob, dist, points))
    assert usual < 1.5
    assert work(spread(5_000, 40.0)) < 0.1  # nothing touches
    assert work(spread(5_000, 20.0)) < 5  # boxes touch those beside them

    one_huge = dist.copy()
    one_huge[7] = 2.0**20
    for rank in (2.0, -1.0):  # it suppresses all others; or goes at the first look
        prob[7] = rank
        assert work((prob, one_huge, points)) < usual + 0.1
    one_huge[7] = 1e-3
    one_huge[7, [0, 8]] = 2.0**20  # strongest, as long as can be, and thin: crosses a few and suppresses none
    prob[7] = 2.0
    assert work((prob, one_huge, points)) < usual + 0.1

    two_sizes = dist.copy()
    two_sizes[::100] *= 100
    assert work((prob, two_sizes, points)) < 1.5
    two_sizes = spread(5_000, 40.0)
    two_sizes[1][::100] *= 10  # boxes as large as those of twenty of the others, which they touch
    assert work(two_sizes) < 5


def test_a_huge_polygon_suppresses_what_lies_inside_and_not_what_lies_in_its_notch():
    n_rays = 64
    points = np.array([[0, 0], [300, 700], [2, 600], [0, -600], [900, 900]], np.int32)
    dist = np.full((5, n_rays), 9, np.float32)
    dist[0] = 1000
    dist[0, :2] = dist[0, -1] = 5  # a notch around the ray to the right, 200 px wide where the third lies
    prob = np.array([0.9, 0.8, 0.7, 0.6, 0.5], np.float32)
    assert suppress((prob, dist, points), 0.4).tolist() == [0, 2, 4]
    # The other way round it goes as soon as it meets one that lies inside of it, the smaller of both.
    prob[0] = 0.1
    assert suppress((prob, dist, points), 0.4).tolist() == [1, 2, 3, 4]


def seconds(candidates: Candidates, nms_thresh: float) -> float:
    begin = time.process_time()
    suppress(candidates, nms_thresh)
    return time.process_time() - begin


def test_one_huge_polygon_does_not_slow_the_others():
    prob, dist, points = crowd(11, n=20000, n_rays=16, radius=6)
    usual = min(seconds((prob, dist, points), 0.4) for _ in range(3))
    # Weakest: compared with every kept polygon in turn only until one suppresses it. Strongest and thin: touches many.
    dist[0] = 2.0**20
    prob[0] = -1
    assert min(seconds((prob, dist, points), 0.4) for _ in range(3)) < 5 * usual + 0.05
    dist[0], dist[0, 0], prob[0] = 1e-3, 2.0**20, 2
    assert min(seconds((prob, dist, points), 0.4) for _ in range(3)) < 5 * usual + 0.05


def test_many_candidates_in_one_place():
    n = 20000
    random = np.random.default_rng(12)
    points = random.integers(0, 4, (n, 2)).astype(np.int32)
    dist = star_lengths(random, "wobbly", n, 16, 12)
    assert seconds((random.random(n, np.float32), dist, points), 0.4) < 2
    with pytest.raises(CapacityError, match="pairs"):
        suppress((random.random(n, np.float32), dist, points), 1.0, max_pairs=10**5)


def test_nothing_at_all():
    empty = np.empty(0, np.float32), np.empty((0, 8), np.float32), np.empty((0, 2), np.int32)
    assert suppress(empty, 0.4).shape == (0,)
    stream = kernels.StarNms2D(8, 3, 0)
    prob, dist, points, class_prob = stream.survivors(0.4, 0, 1)
    assert [a.shape for a in (prob, dist, points, class_prob)] == [(0,), (0, 8), (0, 2), (0, 3)]


LONG_SUPPRESSION = """
import signal, sys
import numpy as np
from cellrt import kernels

n, n_rays = 20_000, 32
random = np.random.default_rng(0)
stream = kernels.StarNms2D(n_rays, 0, n)
dist = random.uniform(15, 25, (n, n_rays)).astype(np.float32)
stream.add(random.random(n, np.float32), dist, random.integers(0, 100, (n, 2)).astype(np.int32), None)
calls = []
signal.signal(signal.SIGTERM, lambda *_: calls.append("handled"))
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are born deaf to it
print("ready", flush=True)
try:
    stream.survivors(1.0, 10**15, int(sys.argv[1]))
except KeyboardInterrupt:
    print("interrupted", *calls, len(stream), flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals are sent otherwise there")
@pytest.mark.parametrize("threads", [1, 2])
def test_ctrl_c_ends_a_long_suppression(threads):
    command = [sys.executable, "-c", LONG_SUPPRESSION, str(threads)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            time.sleep(0.3)
            process.send_signal(signal.SIGTERM)  # a handler that returns: the call goes on
            time.sleep(0.3)
            assert process.poll() is None
            begin = time.perf_counter()
            process.send_signal(signal.SIGINT)
            assert process.stdout.readline() == "interrupted handled 20000\n"
            assert time.perf_counter() - begin < 2  # usually 0.05; the whole would take a minute
            assert process.wait(10) == 0
        finally:
            process.kill()


def test_suppression_on_another_thread_than_the_main_one():
    prob, dist, points = row_major(*crowd(17, n=500, n_rays=8, radius=5))
    stream = kernels.StarNms2D(8, 0, len(prob))
    stream.add(prob, dist, points, None)
    found: list[NDArray[np.float32]] = []
    worker = threading.Thread(target=lambda: found.append(stream.survivors(0.4, 10**9, 2)[0]))
    worker.start()
    worker.join()
    np.testing.assert_array_equal(found[0], stream.survivors(0.4, 10**9, 2)[0])


# ---- Tile by tile -------------------------------------------------------------------------------------------------


def row_major(prob: NDArray[Any], dist: NDArray[Any], points: NDArray[Any]) -> Candidates:
    """One candidate per point, in the order of a whole image."""
    points, first = np.unique(points, axis=0, return_index=True)
    return prob[first], dist[first], np.ascontiguousarray(points)


@given(st.integers(0, 2**32), st.integers(1, 60), st.integers(1, 60), st.integers(0, 3), st.randoms())
@settings(max_examples=40, deadline=None)
def test_any_tiles_in_any_order_give_the_untiled_survivors(seed, tile_y, tile_x, n_classes, shuffler):
    prob, dist, points = row_major(*crowd(seed, n=150, n_rays=8, radius=6, centre=(30, 30)))
    class_prob = np.random.default_rng(seed).random((len(prob), n_classes), np.float32)
    kept = suppress((prob, dist, points), 0.3)

    stream = kernels.StarNms2D(8, n_classes, len(prob))
    tile = points // (tile_y, tile_x)
    tiles = np.unique(tile, axis=0).tolist()
    shuffler.shuffle(tiles)
    for wanted in tiles:
        inside = (tile == wanted).all(axis=1)
        arrays = [array[inside] for array in (prob, dist, points)]
        stream.add(*arrays, class_prob[inside] if n_classes else None)
    assert len(stream) == len(prob)
    got = stream.survivors(0.3, 10**9, 2)
    assert (got[3] is None) == (n_classes == 0)
    for array, wanted in zip(got, (prob, dist, points, class_prob), strict=True):
        if array is not None:
            assert array.dtype == wanted.dtype
            np.testing.assert_array_equal(array, wanted[kept])


def test_as_many_as_do_not_fit_in_one_block():
    n_rays, n_classes = 3, 40_000  # few candidates fill a block of about a megabyte
    prob, dist, points = spread(100, 12.0, n_rays=n_rays)
    class_prob = np.arange(100, dtype=np.float32)[:, np.newaxis] + np.linspace(0, 0.5, n_classes, dtype=np.float32)
    stream = kernels.StarNms2D(n_rays, n_classes, 100)
    for part in np.split(np.arange(100), [1, 8, 30]):
        stream.add(prob[part], dist[part], points[part], class_prob[part])
    kept = suppress((prob, dist, points), 0.1)
    assert 1 < len(kept) < 100
    for array, wanted in zip(stream.survivors(0.1, 10**9, 1), (prob, dist, points, class_prob), strict=True):
        np.testing.assert_array_equal(array, wanted[kept])


def test_the_cap_leaves_everything_as_it_was():
    prob, dist, points = crowd(14, n=30)
    stream = kernels.StarNms2D(32, 0, 40)
    stream.add(prob, dist, points, None)
    before = stream.survivors(0.4, 10**6, 1)
    with pytest.raises(CapacityError, match="expected at most 40 candidates, got 30 more") as caught:
        stream.add(prob, dist, points, None)
    assert caught.value.status == kernels.ERROR_CAPACITY
    assert len(stream) == 30
    for array, wanted in zip(stream.survivors(0.4, 10**6, 1)[:3], before[:3], strict=True):
        np.testing.assert_array_equal(array, wanted)
    stream.add(prob[:10], dist[:10], points[:10] + np.int32(500), None)
    assert len(stream) == 40
    assert len(stream.survivors(0.4, 10**6, 1)[0]) > len(before[0])


def test_the_doors_of_the_stream():
    prob, dist, points = crowd(15, n=30)
    class_prob = np.zeros((30, 2), np.float32)
    for arguments in ((2, 0, 1), (1025, 0, 1), (8, -1, 1), (8, 0, -1), (8, 0, 2**32)):
        with pytest.raises(KernelError, match="expected n_rays in"):
            kernels.StarNms2D(*arguments)
    stream = kernels.StarNms2D(32, 2, 100)
    wrong: list[tuple[list[Any], str]] = [
        ([prob.astype(np.float64), dist, points, class_prob], "expected prob as a float32 array, got float64"),
        ([prob, dist[:, :31], points, class_prob], r"expected dist of shape \(30, 32\), got \(30, 31\)"),
        ([prob, dist, points[:29], class_prob], r"expected points of shape \(30, 2\), got \(29, 2\)"),
        ([prob, np.asfortranarray(dist), points, class_prob], "expected dist contiguous"),
        ([prob, dist, points.astype(np.int64), class_prob], "expected points as a int32 array, got int64"),
        ([prob, dist, points, None], "expected class_prob as a float32 array, got NoneType"),
        ([prob, dist, points, class_prob[:, :1]], r"expected class_prob of shape \(30, 2\)"),
        ([prob.tolist(), dist, points, class_prob], "expected prob as a float32 array, got list"),
        ([None, dist, points, class_prob], "expected prob as a float32 array, got NoneType"),
        ([np.float32(1), dist, points, class_prob], "expected prob as a float32 array"),
    ]
    for arrays, message in wrong:
        with pytest.raises(KernelError, match=message):
            stream.add(*arrays)
    assert len(stream) == 0
    for array in (prob, dist, points, class_prob):
        array.flags.writeable = False
    stream.add(prob, dist, points, class_prob)
    for parameters in ((np.nan, 9, 1), (1.5, 9, 1), (0.4, -1, 1), (0.4, 9, -1)):
        with pytest.raises(KernelError, match="expected n"):
            stream.survivors(*parameters)
    with pytest.raises(CapacityError, match="expected at most 1 pairs"):
        stream.survivors(0.4, 1, 1)


def test_several_threads_on_one_stream():
    prob, dist, points = row_major(*crowd(16, n=4000, n_rays=8, radius=5))
    stream = kernels.StarNms2D(8, 0, len(prob))
    parts = np.array_split(np.arange(len(prob)), 16)
    workers = [
        threading.Thread(target=lambda part=part: stream.add(prob[part], dist[part], points[part], None))
        for part in parts
    ]
    for worker in workers:
        worker.start()
    stream.survivors(0.4, 10**9, 1)
    for worker in workers:
        worker.join()
    kept = suppress((prob, dist, points), 0.4)
    np.testing.assert_array_equal(stream.survivors(0.4, 10**9, 1)[2], points[kept])
