"""Star-convex polyhedra: the original's survivors and labels, slow twins, laws, worst cases and doors."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference_star_3d
from conftest import GOLDEN, reference_file
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial import ConvexHull

from cellrt import kernels
from cellrt.errors import CapacityError, DataError, KernelError

Candidates = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int32]]
Mesh = tuple[NDArray[np.float32], NDArray[np.int32]]
MODES = ("full", "kernel", "hull", "bbox")
RECORDED = sorted((GOLDEN / "kernels").glob("polyhedra_*.npz"))


def mesh_of(n_rays: int, anisotropy: tuple[float, float, float] = (1, 1, 1)) -> Mesh:
    """Directions on a golden spiral and the faces of their hull, turned as StarDist's are."""
    z = np.linspace(-1, 1, n_rays)
    angle = (3 - np.sqrt(5)) * np.pi * np.arange(n_rays)
    radius = np.sqrt(1 - z**2)
    ends = np.stack([z, radius * np.sin(angle), radius * np.cos(angle)], 1) / anisotropy
    faces = np.array([face if np.linalg.det(ends[face]) < 0 else face[::-1] for face in ConvexHull(ends).simplices])
    rays = ends / np.linalg.norm(ends, axis=1, keepdims=True)
    return rays.astype(np.float32), np.ascontiguousarray(faces, np.int32)


def cartesian_mesh(n_around: int, n_down: int) -> Mesh:
    """Rings of directions from pole to pole; at either pole, but for 1e-12, a ring of one, as of Rays_Cartesian."""
    around = 2 * np.pi / n_around * np.arange(n_around)
    down = np.pi / n_down * np.array([1e-12, *range(1, n_down - 1), n_down - 1e-12])
    wide = np.stack([np.sin(around), np.cos(around)], 1)
    rays = np.concatenate(
        [np.broadcast_to(np.cos(down)[:, None, None], (n_down, n_around, 1)), np.sin(down)[:, None, None] * wide],
        axis=2,
    )
    first = np.arange((n_down - 1) * n_around)
    second = first // n_around * n_around + (first + 1) % n_around
    faces = np.stack([first, second + n_around, second, first, first + n_around, second + n_around], 1)
    return rays.reshape(-1, 3).astype(np.float32), np.ascontiguousarray(faces.reshape(-1, 3), np.int32)


def crowd(
    seed: int, mesh: Mesh, *, n: int = 40, radius: float = 5, roughness: float = 0.06, centre: Any = (0, 0, 0)
) -> Candidates:
    """Candidates around a few objects; some probabilities are equal."""
    random = np.random.default_rng(seed)
    n_objects = max(1, n // 12)
    objects = random.uniform(-1, 1, (n_objects, 3)) * radius * 1.5 * n_objects ** (1 / 3)
    points = np.rint(objects[random.integers(0, n_objects, n)] + random.normal(0, 0.35 * radius, (n, 3)) + centre)
    stars = 1 + random.normal(0, roughness, (n, len(mesh[0])))
    dist = np.maximum(0.05, radius * stars * random.uniform(0.7, 1.3, (n, 1))).astype(np.float32)
    prob = np.round(random.random(n), 2).astype(np.float32)
    return prob, dist, points.astype(np.int32)


CARTESIAN = [cartesian_mesh(3, 3), cartesian_mesh(5, 4), cartesian_mesh(8, 5)]


def suppress(
    candidates: Candidates, mesh: Mesh, nms_thresh: float, *, max_work: int = 10**12, threads: int = 1
) -> NDArray[np.int64]:
    return kernels.star_nms_3d(*candidates, *mesh, nms_thresh=nms_thresh, max_work=max_work, threads=threads)


def paint(dist: Any, points: Any, mesh: Mesh, order: Any, shape: Any, mode: str = "full", **options: Any) -> Any:
    given = {"origin": (0, 0, 0), "overlap_label": None, "threads": 1} | options
    points = points if points.dtype.kind == "f" else points.astype(np.float32)
    return kernels.paint_polyhedra_3d(dist, points, *mesh, np.asarray(order, np.int64), shape=shape, mode=mode, **given)


# ---- The original -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_recorded_decisions(path):
    case = np.load(path)
    mesh = case["rays"], case["faces"]
    candidates = case["prob"], case["dist"], case["points"].astype(np.int32)
    shuffle = np.random.default_rng(0).permutation(len(case["prob"]))
    for threshold, keep in zip(case["thresholds"], case["keep"], strict=True):
        kept = suppress(candidates, mesh, threshold)
        np.testing.assert_array_equal(kept, np.flatnonzero(keep))  # recorded in descending order
        shuffled = suppress(tuple(array[shuffle] for array in candidates), mesh, threshold)  # type: ignore[arg-type]
        np.testing.assert_array_equal(shuffle[shuffled], kept)


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_recorded_labels(path: Path):
    case = np.load(path)
    mesh = case["rays"], case["faces"]
    kept = case["keep"][list(case["thresholds"]).index(0.3)]
    dist, points, shape = case["dist"][kept], case["points"][kept], case["full"].shape
    order = np.arange(len(dist))  # recorded in descending order
    for mode in MODES:
        np.testing.assert_array_equal(paint(dist, points, mesh, order, shape, mode), case[mode], err_msg=mode)
    np.testing.assert_array_equal(paint(dist, points, mesh, order, shape, overlap_label=-3), case["overlap"])
    scaled = paint(dist, points * case["scale"], (case["scaled_rays"], case["faces"]), order, shape)
    np.testing.assert_array_equal(scaled, case["scaled"])


def reference_mesh(n_rays: int) -> Mesh:
    rays = np.load(reference_file("cases", "ll_rays.npz"))
    return rays[f"v_{n_rays}_2.0x1.0x1.0"].astype(np.float32), rays[f"f_{n_rays}_2.0x1.0x1.0"].astype(np.int32)


def test_recorded_decisions_of_the_large_set():
    case = np.load(reference_file("cases", "ll_nms3d_a.npz"))
    mesh = case["rays_vertices"].astype(np.float32), case["rays_faces"].astype(np.int32)
    thresholds = [key for key in case if key.startswith("keep_")]
    assert len(thresholds) == 7
    for key in thresholds:
        flags = np.zeros(len(case["prob"]), bool)
        candidates = case["prob"], case["dist"], case["points"].astype(np.int32)
        flags[suppress(candidates, mesh, float(key.removeprefix("keep_")))] = True
        np.testing.assert_array_equal(flags, case[key], err_msg=key)
    kept = case["keep_0.3"]
    dist, points, shape = case["dist"][kept], case["points"][kept], case["render_full"].shape
    order = np.argsort(-case["prob"][kept], kind="stable")
    for mode in ("full", "kernel", "hull"):
        np.testing.assert_array_equal(paint(dist, points, mesh, order, shape, mode), case[f"render_{mode}"])
    overlap = paint(dist, points, mesh, order, shape, overlap_label=-1)
    np.testing.assert_array_equal(overlap, case["render_overlap"])


@pytest.mark.parametrize("name", ["3d_unet_crop", "3d_unet_img3d", "3d_resnet_img3d"])
def test_survivors_of_real_candidates(name):
    case = np.load(reference_file("cases", f"{name}.npz"))
    dist = np.ascontiguousarray(case["cand_dist"])
    candidates = case["cand_prob"], dist, case["cand_points"].astype(np.int32)
    kept = suppress(candidates, reference_mesh(dist.shape[1]), float(case["nms_thresh"]))
    np.testing.assert_array_equal(candidates[2][kept], case["sparse_points"])
    np.testing.assert_array_equal(candidates[0][kept], case["sparse_prob"])


@pytest.mark.parametrize(
    "name", ["3d_unet_crop", "3d_unet_img3d", "3d_unet_tiled", "3d_unet_overlap", "3d_unet_scale", "3d_resnet_img3d"]
)
def test_labels_of_real_survivors(name):
    case = np.load(reference_file("cases", f"{name}.npz"))
    dist = np.ascontiguousarray(case["sparse_dist"])
    rays, faces = reference_mesh(dist.shape[1])
    if name.endswith("scale"):
        rays = (rays / np.array((1, 0.75, 0.75))).astype(np.float32)
    order = np.argsort(-case["sparse_prob"], kind="stable")
    overlap_label = -3 if name.endswith("overlap") else None
    labels = paint(dist, case["sparse_points"], (rays, faces), order, case["labels"].shape, overlap_label=overlap_label)
    np.testing.assert_array_equal(labels, case["labels"])


# ---- The twins ----------------------------------------------------------------------------------------------------


@given(
    st.integers(0, 2**32),
    st.sampled_from([mesh_of(8), mesh_of(11), mesh_of(16), mesh_of(32), mesh_of(64), *CARTESIAN]),
    st.sampled_from([0.5, 1.5, 3.0, 5.0]),
    st.sampled_from([0.03, 0.3, 1.0]),
    st.sampled_from([0.0, 0.5, 0.3]),
    st.sampled_from([0, 900, 60000]),
    st.sampled_from(MODES),
    st.sampled_from([None, -1, 7]),
)
@settings(max_examples=80)
def test_painting_is_that_of_the_twin(seed, mesh, radius, roughness, shift, away, mode, overlap_label):
    _, dist, points = crowd(seed, mesh, n=6, radius=radius, roughness=roughness, centre=(6, 7, 8))
    points = points.astype(np.float32) + np.float32(shift)
    order = np.random.default_rng(seed).permutation(6)
    shape = (12, 14, 17)
    # The twin paints whole volumes, so a far-away block is painted by shifting the origin of both.
    expected = reference_star_3d.paint_polyhedra_3d(dist, points, *mesh, order, shape, mode, overlap_label)
    found = paint(dist, points, mesh, order, shape, mode, overlap_label=overlap_label)
    np.testing.assert_array_equal(found, expected)
    # Far from the origin float32 is coarse: a block has the voxels of the whole volume there, which the twin asks for.
    if away and mode == "full" and overlap_label is None:
        far = points + np.float32(away)
        for i in range(6):
            ends = reference_star_3d.vertices(dist[i], far[i], mesh[0])
            first, last = reference_star_3d.box(ends)
            q = reference_star_3d.voxels_of(np.maximum(first, away), np.minimum(last, np.array(shape) + away - 1))
            inside = reference_star_3d.behind(q, reference_star_3d.kernel(ends, mesh[1])) | (
                reference_star_3d.behind(q, reference_star_3d.hull(ends))
                & reference_star_3d.contains(q, ends, far[i], mesh[1])
            )
            alone = paint(dist[i : i + 1], far[i : i + 1], mesh, [0], shape, mode, origin=(away,) * 3)
            # Vertices lie on a coarse grid there, and voxels on facets: rounding decides, theirs and ours.
            values = q.astype(np.float64) @ reference_star_3d.hull(ends)[:, :3].T + reference_star_3d.hull(ends)[:, 3]
            is_clear = np.abs(values.max(1)) > 1e-6
            np.testing.assert_array_equal(alone[tuple(q[is_clear].astype(int).T - away)] > 0, inside[is_clear])


@given(
    st.integers(0, 2**32),
    st.sampled_from([*(mesh_of(n_rays, (2, 1, 1)) for n_rays in (8, 16, 32)), *CARTESIAN]),
    st.sampled_from([1.5, 3.0, 6.0]),
    st.sampled_from([0.03, 0.2]),
    st.sampled_from([0.05, 0.3, 0.5, 0.7]),
)
@settings(max_examples=25)
def test_decisions_are_those_of_the_twin(seed, mesh, radius, roughness, nms_thresh):
    candidates = crowd(seed, mesh, n=14, radius=radius, roughness=roughness, centre=(40, 40, 40))
    expected, closest = reference_star_3d.star_nms_3d(*candidates, *mesh, nms_thresh)
    if closest < 1e-4:  # as close as the twin's volumes are known
        return
    assert suppress(candidates, mesh, nms_thresh).tolist() == expected


@given(st.integers(0, 2**32), st.integers(3, 9), st.integers(0, 2), st.sampled_from([1, 3]))
@settings(max_examples=40)
def test_candidates_are_those_of_the_twin(seed, n_rays, n_class_channels, threads):
    random = np.random.default_rng(seed)
    n_z, n_y, n_x = shape = tuple(random.integers(1, 9, 3))
    maps = random.uniform(-1, 9, (1 + n_rays + n_class_channels, *shape)).astype(np.float32)
    maps[0] = random.random(shape, np.float32)
    begin = random.integers(0, np.array(shape) + 1)
    end = np.array([random.integers(low, high + 1) for low, high in zip(begin, shape, strict=True)])
    grid, origin = (1, 2, 3), (-5, 7, 11)
    prob, dist, points, class_prob = kernels.star_candidates_3d(
        maps,
        n_rays=n_rays,
        n_class_channels=n_class_channels,
        window=tuple(int(value) for pair in zip(begin, end, strict=True) for value in pair),  # type: ignore[arg-type]
        prob_thresh=0.6,
        grid=grid,
        origin=origin,
        max_candidates=1000,
        threads=threads,
    )
    samples = [
        (z, y, x)
        for z, y, x in itertools.product(range(n_z), range(n_y), range(n_x))
        if maps[0, z, y, x] > np.float32(0.6) and all(b <= s < e for b, s, e in zip(begin, (z, y, x), end, strict=True))
    ]
    assert points.tolist() == [[o + g * s for o, g, s in zip(origin, grid, sample, strict=True)] for sample in samples]
    assert prob.tolist() == [maps[(0, *sample)] for sample in samples]
    for i, (z, y, x) in enumerate(samples):
        np.testing.assert_array_equal(dist[i], np.maximum(maps[1 : 1 + n_rays, z, y, x], np.float32(1e-3)))
        if class_prob is not None:
            np.testing.assert_array_equal(class_prob[i], maps[1 + n_rays :, z, y, x])
    assert (class_prob is None) == (n_class_channels == 0)


# ---- Laws and worst cases -----------------------------------------------------------------------------------------


def test_the_same_for_any_number_of_threads():
    mesh = mesh_of(32)
    candidates = crowd(5, mesh, n=4000, radius=5, roughness=0.1, centre=(60, 60, 60))
    one, two, three = (suppress(candidates, mesh, 0.4, threads=threads) for threads in (1, 2, 3))
    assert one.tobytes() == two.tobytes() == three.tobytes()
    prob, dist, points = candidates
    assert one[0] == prob.argmax()
    assert np.all(np.diff(prob[one]) <= 0)
    for mode in MODES:
        one, three = (
            paint(dist, points, mesh, np.arange(len(prob)), (90, 90, 90), mode, threads=threads, overlap_label=-1)
            for threads in (1, 3)
        )
        assert one.tobytes() == three.tobytes()


@pytest.mark.parametrize("mode", MODES)
def test_blocks_are_those_of_the_whole_volume(mode):
    mesh = mesh_of(32)
    _, dist, points = crowd(6, mesh, n=60, radius=5, roughness=0.3, centre=(20, 20, 20))
    order = np.arange(60)
    whole = paint(dist, points, mesh, order, (40, 41, 90), mode)
    for z, y, x in itertools.product((0, 13), (0, 19), (0, 5, 21)):
        block = paint(dist, points, mesh, order, (9, 22, 11), mode, origin=(z, y, x))
        np.testing.assert_array_equal(block, whole[z : z + 9, y : y + 22, x : x + 11])


def test_large_polyhedra_are_painted_in_pieces():
    mesh = mesh_of(32)
    random = np.random.default_rng(0)
    dist = random.uniform(100, 160, (2, 32)).astype(np.float32)
    points = np.array([[40.0, 100.0, 200.0], [50.0, 90.0, 90.0]], np.float32)
    labels = paint(dist, points, mesh, [1, 0], (80, 200, 400), threads=2)
    block = paint(dist, points, mesh, [1, 0], (3, 200, 400), origin=(63, 0, 0))
    np.testing.assert_array_equal(labels[63:66], block)
    q = np.stack(np.meshgrid(np.arange(80), np.arange(0, 200, 23), np.arange(0, 400, 29), indexing="ij"), -1)
    q = q.reshape(-1, 3)
    for i in (0, 1):
        ends = reference_star_3d.vertices(dist[i], points[i], mesh[0])
        inside = reference_star_3d.contains(q.astype(np.float32), ends, points[i], mesh[1])
        found = labels[tuple(q.T)]
        assert np.all(found[inside] > 0)
        assert np.all(found[~inside] != i + 1)


def test_ties_go_to_the_first():
    mesh = mesh_of(16)
    prob, dist, points = crowd(6, mesh, n=50)
    prob[:] = 0.5
    same = prob, np.ascontiguousarray(np.broadcast_to(dist[0], dist.shape)), np.zeros_like(points)
    assert suppress(same, mesh, 0.4).tolist() == [0]
    kept = suppress((prob, dist, points), mesh, 0.4)
    assert kept[0] == 0
    assert np.all(np.diff(kept) > 0)


def test_polyhedra_too_small_for_a_box_are_kept():
    # The boxes of such have no volume, and the original takes that for an upper bound.
    mesh = mesh_of(32)
    n = 20_000
    prob = np.random.default_rng(0).random(n, np.float32)
    tiny = prob, np.full((n, 32), 1e-3, np.float32), np.zeros((n, 3), np.int32)
    start = time.perf_counter()
    assert len(suppress(tiny, mesh, 0.3, max_work=10**5)) == n
    assert time.perf_counter() - start < 20
    labels = paint(tiny[1][:100], tiny[2][:100], mesh, np.arange(100), (3, 3, 3))
    assert labels.sum() == labels[0, 0, 0] == 1


def test_work_is_limited():
    mesh = mesh_of(32)
    candidates = crowd(7, mesh, n=300, radius=5)
    with pytest.raises(CapacityError, match=r"expected at most 1000 rows of voxels to compare, got more from 300"):
        suppress(candidates, mesh, 0.4, max_work=1000)
    # Two that overlap over more voxels than can be counted.
    prob, dist, points = (array[:2] for array in candidates)
    dist = np.where(np.arange(32) % 2 == 0, 1.0, 2.0**20).astype(np.float32) * np.ones((2, 1), np.float32)
    with pytest.raises(CapacityError, match=r"expected at most 100000 rows"):
        suppress((prob, dist, points), mesh, 0.9, max_work=100_000)


def test_one_huge_polyhedron_costs_the_others_little():
    mesh = mesh_of(32)
    prob, dist, points = crowd(8, mesh, n=600, radius=4, centre=(50, 50, 50))
    work = smallest_work((prob, dist, points), mesh)
    dist[prob.argmin()] = 3000
    assert smallest_work((prob, dist, points), mesh) < 1.5 * work + 10**6


def smallest_work(candidates: Candidates, mesh: Mesh) -> int:
    """The smallest limit on the work that is enough, within a tenth."""
    low, high = 1, 10**10
    while high > 1.1 * low:
        middle = int((low * high) ** 0.5)
        try:
            suppress(candidates, mesh, 0.4, max_work=middle)
            high = middle
        except CapacityError:
            low = middle
    return high


@pytest.mark.parametrize("mode", MODES)
def test_degenerate_polyhedra_do_no_harm(mode):
    mesh = mesh_of(32)
    flat = np.full((6, 32), 1e-3, np.float32)
    flat[1, 3] = 30  # a needle
    flat[2, ::2] = 20
    flat[3] = 1e-6
    flat[4] = np.where(np.abs(mesh[0][:, 0]) < 0.3, 9, 1e-3)  # a disc
    flat[5, 5] = 2.0**20
    points = np.full((6, 3), 9.5, np.float32)
    labels = paint(flat, points, mesh, np.arange(6), (20, 20, 20), mode)
    assert labels.min() >= 0
    assert labels.max() <= 6
    two_rays = mesh[0].copy()
    two_rays[:, 0] = 0  # all vertices in a plane: no hull
    labels = paint(np.full((1, 32), 5, np.float32), points[:1], (two_rays, mesh[1]), [0], (20, 20, 20), mode)
    if mode == "hull":
        assert labels.max() == 0


# ---- Doors --------------------------------------------------------------------------------------------------------


def test_nothing_in_nothing_out():
    mesh = mesh_of(8)
    none = np.zeros(0, np.float32), np.zeros((0, 8), np.float32), np.zeros((0, 3), np.int32)
    assert suppress(none, mesh, 0.4).shape == (0,)
    assert paint(none[1], none[2], mesh, [], (2, 3, 4)).tolist() == np.zeros((2, 3, 4)).tolist()
    assert paint(none[1], none[2], mesh, [], (2, 0, 4)).shape == (2, 0, 4)


def test_the_door_of_candidates():
    maps = np.zeros((6, 2, 3, 4), np.float32)
    given: dict[str, Any] = {
        "n_rays": 5,
        "n_class_channels": 0,
        "window": (0, 2, 0, 3, 0, 4),
        "prob_thresh": 0.5,
        "grid": (1, 1, 1),
        "origin": (0, 0, 0),
        "max_candidates": 3,
        "threads": 1,
    }
    with pytest.raises(KernelError, match=r"expected a window inside \(2, 3, 4\) samples, got \(0, 3, 0, 3, 0, 4\)"):
        kernels.star_candidates_3d(maps, **given | {"window": (0, 3, 0, 3, 0, 4)})
    with pytest.raises(KernelError, match=r"expected grid to be three numbers \(z, y, x\), got \(1, 1\)"):
        kernels.star_candidates_3d(maps, **given | {"grid": (1, 1)})
    with pytest.raises(KernelError, match=r"expected maps of shape \(6, 'any', 'any', 'any'\)"):
        kernels.star_candidates_3d(maps[0], **given)
    maps[0] = 1
    with pytest.raises(CapacityError, match=r"expected at most 3 candidates, got 24: raise prob_thresh"):
        kernels.star_candidates_3d(maps, **given)
    maps[2, 1, 1, 1] = np.nan
    with pytest.raises(DataError, match=r"ray lengths that are finite and at most 2\^20 voxels"):
        kernels.star_candidates_3d(maps, **given | {"max_candidates": 100})


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0, -1.0, 2.0**21])
def test_lengths_that_cannot_be_used_are_refused(value):
    mesh = mesh_of(8)
    prob, dist, points = crowd(1, mesh, n=5)
    dist[3, 4] = value
    with pytest.raises(DataError, match=r"expected prob without NaN, 0 < dist <= 2\^20 and points within 2\^20 voxels"):
        suppress((prob, dist, points), mesh, 0.4)
    with pytest.raises(DataError, match=r"expected 0 < dist <= 2\^20, points within 2\^20"):
        paint(dist, points, mesh, np.arange(5), (9, 9, 9))


def test_other_values_that_cannot_be_used_are_refused():
    mesh = mesh_of(8)
    prob, dist, points = crowd(1, mesh, n=5)
    far = points + 2**20 + 100
    with pytest.raises(DataError, match="points within"):
        suppress((prob, dist, far), mesh, 0.4)
    with pytest.raises(DataError, match="points within"):
        paint(dist, points.astype(np.float64) * np.nan, mesh, np.arange(5), (9, 9, 9))
    prob[2] = np.nan
    with pytest.raises(DataError, match="prob without NaN"):
        suppress((prob, dist, points), mesh, 0.4)


def test_the_doors_of_polyhedra():
    rays, faces = mesh_of(8)
    prob, dist, points = crowd(1, (rays, faces), n=5)
    with pytest.raises(KernelError, match=r"expected rays of shape \(8, 3\), got \(7, 3\)"):
        suppress((prob, dist, points), (rays[:7], faces), 0.4)
    with pytest.raises(KernelError, match="expected faces to hold indices of 8 rays, got 0 to 8"):
        suppress((prob, dist, points), (rays, np.where(faces == 7, 8, faces).astype(np.int32)), 0.4)
    with pytest.raises(KernelError, match="expected 1 to 2048 faces, got 0"):
        suppress((prob, dist, points), (rays, faces[:0]), 0.4)
    with pytest.raises(KernelError, match="expected faces as a int32 array, got int64"):
        suppress((prob, dist, points), (rays, faces.astype(np.int64)), 0.4)
    with pytest.raises(KernelError, match=r"expected nms_thresh between 0 and 1, got 1\.5"):
        suppress((prob, dist, points), (rays, faces), 1.5)
    with pytest.raises(KernelError, match="expected mode to be one of full, kernel, hull, bbox, got 'debug'"):
        paint(dist, points, (rays, faces), np.arange(5), (9, 9, 9), "debug")
    with pytest.raises(KernelError, match="expected order to hold indices of 5 polyhedra, got 1 to 5"):
        paint(dist, points, (rays, faces), np.arange(5) + 1, (9, 9, 9))
    with pytest.raises(KernelError, match=r"expected shape to be three numbers \(z, y, x\), got \(9, 9\)"):
        paint(dist, points, (rays, faces), np.arange(5), (9, 9))
    with pytest.raises(KernelError, match="expected overlap_label to be a whole number"):
        paint(dist, points, (rays, faces), np.arange(5), (9, 9, 9), overlap_label=0.5)


@pytest.mark.parametrize("mode", MODES)
def test_painting_is_stopped_by_a_flag(mode: str) -> None:
    dist, points = np.full((9, 32), 5, np.float32), np.zeros((9, 3), np.float32)
    with kernels.stopped_by(np.ones(1, np.int32)), pytest.raises(KernelError) as stopped:
        paint(dist, points, mesh_of(32), np.arange(9), (4, 4, 4), mode)
    assert stopped.value.status == kernels.ERROR_CANCELLED
    assert paint(dist, points, mesh_of(32), np.arange(9), (4, 4, 4), mode).max() == 1
