"""Parity with StarDist 0.9.2 in three dimensions: what the original recorded, held against what cellrt computes.

Network outputs agree to 1e-5 (probability) and 1e-3 voxels (ray lengths). From recorded candidates on, survivors and
labels must be equal to the bit; from our own maps, a voxel here and there may lie on the other side of a face.
The small recordings are part of the project (tests/golden/stardist_3d); the large ones are used where they are there.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from conftest import GOLDEN_3D, reference_file

import cellrt
from cellrt.heads import star_3d

LARGE = {  # the model's folder, and what was asked of predict_instances
    "3d_unet_crop": ("3d_unet", {}),
    "3d_unet_img3d": ("3d_unet", {}),
    "3d_unet_tiled": ("3d_unet", {"tiles": (1, 2, 2)}),
    "3d_unet_overlap": ("3d_unet", {"overlap_label": -3}),
    "3d_unet_scale": ("3d_unet", {"scale": (1, 0.75, 0.75)}),
    "3d_resnet_img3d": ("3d_resnet", {}),
}
SMALL = sorted(path.stem for path in (GOLDEN_3D / "cases").glob("*.npz"))
CASES = [*SMALL, *LARGE]
WITH_MAPS = [*(case for case in SMALL if case.endswith("__odd")), "3d_unet_crop"]
WITH_CANDIDATES = [
    *(case for case in SMALL if not case.endswith(("__scale", "__tiles"))),
    *(case for case in LARGE if case.endswith(("crop", "img3d"))),
]


class Recording(NamedTuple):
    """One case: the arrays, the model, and the arguments of `segment` that were those of the original."""

    arrays: dict[str, Any]
    model: cellrt.StarModel3D
    arguments: dict[str, Any]

    @property
    def input(self) -> np.ndarray:
        """The normalised volume where that is recorded, or the raw one."""
        return self.arrays["norm" if "norm" in self.arrays else "raw"]

    @property
    def handling(self) -> dict[str, Any]:
        """How `input` is to be taken."""
        axes = "ZYX" if self.input.ndim == 3 else "ZYXC"
        return {"axes": axes, "normalize": None if "norm" in self.arrays else (1, 99.8)}

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.input.shape[:3]

    @property
    def thresholds(self) -> dict[str, float]:
        return {key: float(self.arrays[key]) for key in ("prob_thresh", "nms_thresh")}

    @property
    def maps(self) -> np.ndarray:
        """The recorded maps as a network gives them; the original crops them, after padding, to the volume."""
        parts = [self.arrays["prob"][..., None], self.arrays["dist"]]
        parts += [self.arrays["prob_class"]] if "prob_class" in self.arrays else []
        return np.ascontiguousarray(np.moveaxis(np.concatenate(parts, axis=-1), -1, 0))

    def collector(self, padded: tuple[int, int, int]) -> star_3d.Collector3D:
        head = self.model.manifest.head
        return star_3d.Collector3D(head, shape=self.shape, padded=padded, threads=2, **self.thresholds)


@pytest.fixture
def recording(exported: Callable[[Path], Path]) -> Callable[[str], Recording]:
    """A case by its name, or skip the test."""

    def read(case: str) -> Recording:
        if case in LARGE:
            file, (name, arguments) = reference_file("cases", f"{case}.npz"), LARGE[case]
            folder = reference_file("models", name)
        else:
            file, arguments = GOLDEN_3D / "cases" / f"{case}.npz", {}
        with np.load(file, allow_pickle=False) as arrays:
            arrays = dict(arrays)
        if case not in LARGE:
            folder = GOLDEN_3D / "models" / str(arrays["model"])
            if "scale" in arrays:
                arguments["scale"] = tuple(arrays["scale"])
            if "n_tiles" in arrays:
                arguments["tiles"] = tuple(int(n) for n in arrays["n_tiles"])
            if "overlap_label" in arrays:
                arguments["overlap_label"] = int(arrays["overlap_label"])
        model = cellrt.load(exported(folder), providers=["cpu"])
        return Recording(arrays, model, arguments)

    return read


def assert_same_labels(ours: np.ndarray, cells: cellrt.Instances, theirs: np.ndarray, *, voxels: float) -> None:
    """All but so many voxels are the same; the original closes gaps that hidden objects leave in the numbering."""
    assert ours.shape == theirs.shape
    assert set(np.unique(ours)) <= {0, cells.overlap_label, *range(1, len(cells) + 1)}
    of_one = (ours > 0) & (ours != cells.overlap_label)
    closed = np.where(of_one, np.searchsorted(np.unique(ours[of_one]), ours) + 1, ours)
    assert np.count_nonzero(closed != theirs) <= voxels


@pytest.mark.parametrize("case", CASES)
def test_cells_are_the_originals(case, recording):
    recorded = recording(case)
    arrays = recorded.arrays
    cells = recorded.model.segment(recorded.input, **recorded.handling, **recorded.thresholds, **recorded.arguments)

    # strong and weak ones are close in probability here and there: the order may differ, the cells may not
    want = arrays["sparse_points"].astype(np.float32)
    assert sorted(map(tuple, cells.points)) == sorted(map(tuple, want))
    places = [int(np.flatnonzero((cells.points == point).all(axis=1))[0]) for point in want]
    assert np.allclose(cells.scores[places], arrays["sparse_prob"], atol=1e-5)
    assert np.allclose(cells.polyhedra.dist[places], arrays["sparse_dist"], atol=1e-3)
    if "class_id" in arrays:
        assert np.allclose(cells.class_prob[places], arrays["class_prob"], atol=1e-5)
        assert np.array_equal(cells.classes[places], arrays["class_id"])

    ids = np.zeros(len(cells) + 1, np.int32)
    ids[np.array(places, int) + 1] = np.arange(1, len(places) + 1)
    ours = np.where(cells.labels > 0, ids[np.maximum(cells.labels, 0)], cells.labels)
    # between rays of one direction last digits decide on all voxels of a plane
    share = 5e-4 if recorded.model.manifest.head.rays.name == "Rays_Cartesian" else 1e-4
    assert_same_labels(ours, cells, arrays["labels"], voxels=share * ours.size)


@pytest.mark.parametrize("case", WITH_CANDIDATES)
def test_recorded_candidates_give_the_recorded_labels(case, recording):
    recorded = recording(case)
    arrays = recorded.arrays
    collector = recorded.collector(recorded.shape)
    collector.take(
        arrays["cand_prob"],
        arrays["cand_dist"],
        arrays["cand_points"].astype(np.int32),
        class_prob=arrays.get("cand_prob_class"),
    )
    painting = star_3d.Painting(overlap_label=recorded.arguments.get("overlap_label"))
    cells = collector.finish(out_shape=recorded.shape, painting=painting)
    assert np.array_equal(cells.points, arrays["sparse_points"].astype(np.float32))
    assert np.array_equal(cells.scores, arrays["sparse_prob"])
    assert np.array_equal(cells.polyhedra.dist, arrays["sparse_dist"])
    if "class_id" in arrays:
        assert np.array_equal(cells.class_prob, arrays["class_prob"])
        assert np.array_equal(cells.classes, arrays["class_id"])
    assert_same_labels(cells.labels, cells, arrays["labels"], voxels=0)


@pytest.mark.parametrize("case", WITH_MAPS)
def test_recorded_maps_give_the_recorded_candidates(case, recording):
    recorded = recording(case)
    maps, head = recorded.maps, recorded.model.manifest.head
    assert len(maps) == head.n_maps
    depth, height, width = maps.shape[1:]
    padded = tuple(side * g for side, g in zip(maps.shape[1:], head.grid, strict=True))
    prob, _, points, _ = recorded.collector(padded).candidates(
        maps, origin=(0, 0, 0), window=(0, depth, 0, height, 0, width)
    )
    # the recorded maps are cropped to the image, where the border rule excludes more than on the padded ones
    assert {tuple(point) for point in points} <= {tuple(point) for point in recorded.arrays["cand_points"]}
    assert len(prob) == np.count_nonzero(
        maps[0][tuple(slice(2, n - 2) for n in maps.shape[1:])] > np.float32(recorded.thresholds["prob_thresh"])
    )


@pytest.mark.parametrize("case", WITH_MAPS)
def test_recorded_maps_that_were_cropped_give_the_dense_labels(case, recording):
    # The original's dense mode has the border rule on the cropped maps: a head that takes them for whole agrees.
    recorded = recording(case)
    arrays = recorded.arrays
    cells = star_3d.decode(
        recorded.maps, recorded.model.manifest.head, shape=recorded.shape, threads=2, **recorded.thresholds
    )
    assert np.array_equal(cells.points, arrays["dense_points"].astype(np.float32))
    assert np.array_equal(cells.scores, arrays["dense_prob"])
    assert np.array_equal(cells.polyhedra.dist, arrays["dense_dist"])
    assert_same_labels(cells.labels, cells, arrays["dense_labels"], voxels=0)


@pytest.mark.parametrize("case", ["unet__tiles", "3d_unet_crop", "3d_resnet_img3d"])
def test_tiles_do_not_matter(case, recording):
    recorded = recording(case)
    whole = recorded.model.segment(recorded.input, **recorded.handling)
    tiled = recorded.model.segment(recorded.input, **recorded.handling, tiles=(1, 2, 2))
    assert np.array_equal(tiled.points, whole.points)
    assert np.count_nonzero(tiled.labels != whole.labels) <= 1e-4 * whole.labels.size


@pytest.mark.parametrize("case", WITH_MAPS)
def test_predicted_maps_are_the_originals(case, recording):
    recorded = recording(case)
    arrays = recorded.arrays
    maps = recorded.model.predict(recorded.input, **recorded.handling)
    assert np.abs(maps["prob"] - arrays["prob"]).max() <= 1e-5
    lengths = np.maximum(maps["dist"], np.float32(1e-3))  # as upstream clips them
    assert np.abs(lengths - np.moveaxis(arrays["dist"], -1, 0)).max() <= 1e-3
    assert ("class_prob" in maps) == ("prob_class" in arrays)
    if "class_prob" in maps:
        assert np.abs(maps["class_prob"] - np.moveaxis(arrays["prob_class"], -1, 0)).max() <= 1e-5


@pytest.mark.parametrize("case", [*(case for case in SMALL if case.endswith("__odd")), "3d_unet_img3d"])
def test_raw_pixels_are_normalised_as_recorded(case, recording):
    recorded = recording(case)
    raw, norm = (np.moveaxis(recorded.arrays[key].reshape(*recorded.shape, -1), -1, 0) for key in ("raw", "norm"))
    ours = recorded.model._prepare(raw, (1, 99.8), (1.0, 1.0, 1.0), 1)[0]
    inside = tuple(slice(side) for side in recorded.shape)
    assert np.abs(ours[(slice(None), *inside)] - norm).max() < 1e-6


@pytest.mark.parametrize("case", SMALL)
def test_the_exported_file_says_what_the_original_measured(case, recording):
    recorded = recording(case)
    arrays, manifest = recorded.arrays, recorded.model.manifest
    assert manifest.tile.receptive_field == tuple(arrays["tile_overlap"])
    scale = recorded.arguments.get("scale", (1.0, 1.0, 1.0))
    bodies = star_3d.polyhedra(manifest.head, arrays["sparse_dist"], scale=(1 / scale[0], 1 / scale[1], 1 / scale[2]))
    # sines in single precision, which these are made of, differ in the last digit between processors
    away = 1e-7 if manifest.head.rays.name == "Rays_Cartesian" else 0
    np.testing.assert_allclose(bodies.rays, arrays["rays_vertices"], rtol=0, atol=away)
    ours, theirs = (  # triangles, whichever corner they begin with
        {tuple(np.roll(face, -int(np.argmin(face)))) for face in faces}
        for faces in (bodies.faces, arrays["rays_faces"])
    )
    assert ours == theirs


def test_hidden_objects_keep_their_labels(recording):
    # Where other objects cover one completely, the original numbers the voxels anew, and its label i is no longer
    # the i-th of its details.
    recorded = recording("unet__hidden")
    cells = recorded.model.segment(recorded.input, **recorded.handling, **recorded.thresholds)
    seen = np.unique(cells.labels[cells.labels > 0])
    assert len(seen) == recorded.arrays["labels"].max() < len(cells)
    for label in seen:  # an object's point lies in it, or in a more probable one
        point = tuple(np.rint(cells.points[label - 1]).astype(int))
        assert 1 <= cells.labels[point] <= label


def test_a_label_for_overlaps_stays_what_was_asked_for(recording):
    # The original makes of 1000 the number after that of the last object.
    recorded = recording("unet__overlap")
    cells = recorded.model.segment(recorded.input, **recorded.handling, **recorded.thresholds, overlap_label=1000)
    theirs = recorded.arrays["labels"]
    assert_same_labels(cells.labels, cells, np.where(theirs == -3, 1000, theirs), voxels=1e-4 * theirs.size)


def test_a_volume_that_is_all_border_has_no_cells(recording):
    recorded = recording("unet__thin")
    assert len(recorded.arrays["sparse_prob"]) == 0
    cells = recorded.model.segment(recorded.input, **recorded.handling)
    assert len(cells) == 0
    assert cells.labels.dtype == np.int32
    assert not cells.labels.any()
