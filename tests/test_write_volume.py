"""Files of volumes: what other programs read back is what the instances hold, and no failure leaves anything behind."""

from __future__ import annotations

import csv
import errno
import json
import os
import sys
import tempfile
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import reference_file
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cellrt import readers
from cellrt import write as write_module
from cellrt.errors import CellrtError, FileError
from cellrt.heads.flow import from_labels
from cellrt.instances import Instances, Polyhedra
from cellrt.large.files import open_image
from cellrt.readers import find_images
from cellrt.seg_file import read_seg
from cellrt.write import FORMATS, check, is_output, meshes, set_aside, sweep, write
from cellrt.write.overlay import PALETTE_ON_BRIGHT, PALETTE_ON_DARK, draw_sections

tifffile = pytest.importorskip("tifffile")
zarr = pytest.importorskip("zarr")
Image = pytest.importorskip("PIL.Image")

OF_VOLUMES = [name for name, form in FORMATS.items() if form.only != "images"]
# An octahedron in (z, y, x): corners and, counterclockwise from outside in (x, y, z), triangles.
RAYS = np.array([(1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1)], np.float32)
FACES = np.array([(4, 2, 0), (2, 5, 0), (5, 3, 0), (3, 4, 0), (2, 4, 1), (5, 2, 1), (3, 5, 1), (4, 3, 1)], np.int32)


def bodies(
    points: np.ndarray, radius: float, shape: tuple[int, int, int], classes: np.ndarray | None = None
) -> Instances:
    """Octahedra; a later one covers the earlier ones."""
    points = np.reshape(points, (-1, 3))
    labels = np.zeros(shape, np.int32)
    for label, point in enumerate(points, start=1):
        labels[np.abs(np.moveaxis(np.indices(shape), 0, -1) - point).sum(axis=-1) <= radius] = label
    n = len(points)
    return Instances(
        labels=labels,
        scores=np.linspace(0.9, 0.5, n, dtype=np.float32),
        points=points.astype(np.float32),
        outlines=None,
        classes=classes,
        polyhedra=Polyhedra(np.full((n, len(RAYS)), radius, np.float32), RAYS, FACES),
    )


def labelled(labels: np.ndarray, n: int) -> Instances:
    """Objects of a volume, or of an image, of which only the labels matter."""
    if labels.ndim == 2:
        return from_labels(labels, n)
    return Instances(labels, np.ones(n, np.float32), np.zeros((n, 3), np.float32), None)


THREE = bodies(np.array([(5, 8, 9), (6, 20.5, 12.25), (4, 9, 11)]), 4.0, (12, 30, 24))
NONE = bodies(np.zeros((0, 3)), 4.0, (12, 30, 24))
PICTURE = np.random.default_rng(0).integers(0, 4000, (1, 12, 30, 24), dtype=np.uint16)


def content_of(path: Path) -> dict[str, bytes]:
    """A file, or all files in a folder."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in files if file.is_file()}


# ---- labels


def test_labels_of_a_volume_are_ome_tiff(tmp_path: Path) -> None:
    (path,) = write(THREE, tmp_path / "cell", ["labels"])
    assert path.name == "cell_labels.tif"
    with tifffile.TiffFile(path) as tif:
        assert tif.is_ome
        (series,) = tif.series
        assert (series.axes, series.dtype, len(tif.pages)) == ("ZYX", np.uint16, 12)
        assert tif.pages[0].compression == tifffile.COMPRESSION.ADOBE_DEFLATE
        np.testing.assert_array_equal(tif.asarray(), THREE.labels)
        root = ET.fromstring(tif.ome_metadata)
    name = "{http://www.openmicroscopy.org/Schemas/OME/2016-06}"
    assert root.tag == f"{name}OME"
    (image,) = root
    assert [child.tag for child in image] == [f"{name}Description", f"{name}Pixels"]
    pixels = image[1].attrib
    assert [pixels[f"Size{axis}"] for axis in "XYZCT"] == ["24", "30", "12", "1", "1"]
    assert (pixels["Type"], pixels["DimensionOrder"]) == ("uint16", "XYZCT")
    assert [child.tag for child in image[1]] == [f"{name}Channel", f"{name}TiffData"]
    array, axes = readers.read(path)
    assert axes == "ZYX"
    np.testing.assert_array_equal(array, THREE.labels)


def test_more_labels_than_uint16_holds(tmp_path: Path) -> None:
    labels = np.arange(2 * 256 * 129, dtype=np.int32).reshape(2, 256, 129) % 65_537
    tiff, folder = write(labelled(labels, 65_536), tmp_path / "cell", ["labels", "zarr"])
    for got in (tifffile.imread(tiff), zarr.open_array(folder / "0", mode="r")[...]):
        assert got.dtype == np.uint32
        np.testing.assert_array_equal(got, labels)


@settings(max_examples=25, deadline=None)
@given(hnp.arrays(np.int32, hnp.array_shapes(min_dims=2, max_dims=3, max_side=9), elements=st.integers(0, 6)))
def test_labels_come_back(labels: np.ndarray) -> None:
    with tempfile.TemporaryDirectory() as folder:
        tiff, group = write(labelled(labels, 6), Path(folder) / "cell", ["labels", "zarr"])
        np.testing.assert_array_equal(tifffile.imread(tiff).reshape(labels.shape), labels)
        with open_image(group) as (pixels, axes):
            assert axes == "ZYX"[-labels.ndim :]
            np.testing.assert_array_equal(pixels[...], labels)


@pytest.mark.parametrize("labels", [THREE.labels, THREE.labels[5]])
def test_zarr_keeps_to_ngff(tmp_path: Path, labels: np.ndarray) -> None:
    (path,) = write(labelled(labels, 3), tmp_path / "cell", ["zarr"], anisotropy=2.5)
    assert path.name == "cell_labels.zarr"
    node = json.loads((path / "zarr.json").read_text())
    assert (node["zarr_format"], node["node_type"]) == (3, "group")
    ome = node["attributes"]["ome"]
    assert ome["version"] == ome["image-label"]["version"] == "0.5"
    (image,) = ome["multiscales"]
    names = ["z", "y", "x"][-labels.ndim :]
    assert image["axes"] == [{"name": name, "type": "space"} for name in names]
    (level,) = image["datasets"]
    (transformation,) = level["coordinateTransformations"]
    assert transformation == {"type": "scale", "scale": [2.5, 1.0, 1.0][-labels.ndim :]}
    array = json.loads((path / level["path"] / "zarr.json").read_text())
    assert (array["node_type"], array["dimension_names"]) == ("array", names)
    assert (array["data_type"], array["shape"]) == ("uint16", list(labels.shape))
    np.testing.assert_array_equal(zarr.open_group(path, mode="r")["0"][...], labels)


def test_zarr_is_cut_into_chunks(tmp_path: Path) -> None:
    (path,) = write(labelled(np.zeros((40, 300, 20), np.int32), 0), tmp_path / "cell", ["zarr"])
    assert zarr.open_group(path, mode="r")["0"].chunks == (32, 256, 20)


# ---- table


def test_table(tmp_path: Path) -> None:
    covered = bodies(
        np.array([(5, 8, 9), (6, 20.5, 12.25), (5, 8, 9)]), 4.0, (12, 30, 24), np.array([2, 0, 1], np.int32)
    )
    (path,) = write(covered, tmp_path / "cell", ["csv"], class_names=["round", "flat"])
    with path.open(newline="", encoding="utf-8") as file:
        header = file.readline().strip()
        file.seek(0)
        table = list(csv.DictReader(file))
    assert header == "id,class,score,z,y,x,volume,z_begin,y_begin,x_begin,z_end,y_end,x_end"
    assert [row["class"] for row in table] == ["flat", "background", "round"]
    for label, row in enumerate(table, start=1):
        voxels = np.argwhere(covered.labels == label)
        assert (int(row["id"]), int(row["volume"])) == (label, len(voxels))
        box = [int(row[f"{axis}_{end}"]) for end in ("begin", "end") for axis in "zyx"]
        # the first object is covered by the third: its row stays, so that ids are labels
        assert box == ([0] * 6 if label == 1 else [*voxels.min(0), *(voxels.max(0) + 1)])
        assert float(row["score"]) == pytest.approx(covered.scores[label - 1], abs=1e-6)
        assert [float(row[axis]) for axis in "zyx"] == pytest.approx(covered.points[label - 1].tolist(), abs=0.005)


# ---- meshes


def read_ply(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The vertices, as records, and the triangles of a binary PLY file, by what its header says."""
    head, body = path.read_bytes().split(b"end_header\n", 1)
    lines = head.decode("ascii").splitlines()
    assert lines[:2] == ["ply", "format binary_little_endian 1.0"]
    kinds = {"float": "<f4", "uchar": "u1", "int": "<i4"}
    elements: list[tuple[int, list[tuple[Any, ...]]]] = []
    for line in lines[2:]:
        words = line.split()
        if words[0] == "element":
            elements.append((int(words[2]), []))
        elif words[:2] == ["property", "list"]:
            elements[-1][1].extend([("count", kinds[words[2]]), (words[4], kinds[words[3]], 3)])
        elif words[0] == "property":
            elements[-1][1].append((words[2], kinds[words[1]]))
        else:
            assert words[0] == "comment"
    (n_vertices, vertex), (n_faces, face) = elements
    vertices = np.frombuffer(body, np.dtype(vertex), n_vertices)
    faces = np.frombuffer(body, np.dtype(face), n_faces, vertices.nbytes)
    assert vertices.nbytes + faces.nbytes == len(body)
    assert (faces["count"] == 3).all()
    return vertices, faces["vertex_indices"]


def read_obj(path: Path) -> tuple[list[str], np.ndarray, np.ndarray]:
    """The names of the objects, the vertices and the triangles of an OBJ file, from 0."""
    names, vertices, faces = [], [], []
    for line in path.read_text(encoding="ascii").splitlines():
        kind, *words = line.split()
        if kind == "o":
            names.append(words[0])
        elif kind == "v":
            vertices.append(list(map(float, words)))
        elif kind == "f":
            faces.append([int(word) - 1 for word in words])
        else:
            assert kind == "#"
    return names, np.array(vertices).reshape(-1, 3), np.array(faces, np.int64).reshape(-1, 3)


def volume_within(vertices: np.ndarray, faces: np.ndarray) -> float:
    """Of closed surfaces whose triangles are counterclockwise from outside."""
    a, b, c = np.moveaxis(vertices[faces], 1, 0)
    return float(np.sum(a * np.cross(b, c)) / 6)


@pytest.mark.parametrize("at_once", [1, 13, 1 << 18])
def test_meshes_are_the_polyhedra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    monkeypatch.setattr(meshes, "_VERTICES_AT_ONCE", at_once)
    ply, obj = write(THREE, tmp_path / "cell", ["ply", "obj"])
    records, faces = read_ply(ply)
    vertices = np.stack([records[axis] for axis in "xyz"], axis=1)
    for index, point in enumerate(THREE.points):
        own = slice(6 * index, 6 * index + 6)
        np.testing.assert_array_equal(vertices[own], (point + 4 * RAYS)[:, ::-1])  # voxel centres at integers
        assert (records["label"][own] == index + 1).all()
        np.testing.assert_array_equal(faces[8 * index : 8 * index + 8], FACES + 6 * index)
        assert volume_within(vertices.astype(float), faces[8 * index : 8 * index + 8]) == pytest.approx(4 / 3 * 4**3)
    colours = np.stack([records[name] for name in ("red", "green", "blue")], axis=1)
    assert len(np.unique(colours, axis=0)) == 3
    names, places, triangles = read_obj(obj)
    assert names == ["label_1", "label_2", "label_3"]
    np.testing.assert_allclose(places, vertices, atol=0.0005)
    np.testing.assert_array_equal(triangles, faces)


def test_meshes_of_recorded_rays_are_closed_and_turned_outward(tmp_path: Path) -> None:
    with np.load(reference_file("cases", "ll_rays.npz")) as arrays:
        rays, faces = arrays["v_96_2.0x1.0x1.0"].astype(np.float32), arrays["f_96_2.0x1.0x1.0"].astype(np.int32)
    dist = np.random.default_rng(0).uniform(3, 9, (5, 96)).astype(np.float32)
    points = np.random.default_rng(1).uniform(0, 50, (5, 3)).astype(np.float32)
    cells = Instances(
        np.zeros((2, 2, 2), np.int32), np.ones(5, np.float32), points, None, polyhedra=Polyhedra(dist, rays, faces)
    )
    (path,) = write(cells, tmp_path / "cell", ["ply"])
    records, triangles = read_ply(path)
    vertices = np.stack([records[axis] for axis in "xyz"], axis=1).astype(float)
    edges = np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]])
    forward, backward = (np.unique(pairs, axis=0, return_counts=True) for pairs in (edges, edges[:, ::-1]))
    assert (forward[1] == 1).all()
    np.testing.assert_array_equal(forward[0], backward[0])  # every edge is walked once each way
    for index in range(5):
        assert volume_within(vertices, triangles[188 * index : 188 * index + 188]) > 0


# ---- overlay


def one_block() -> tuple[np.ndarray, np.ndarray]:
    """A block of voxels in a volume, and its box."""
    labels = np.zeros((10, 300, 900), np.int32)
    labels[2:7, 100:160, 200:280] = 1
    return labels, np.array([(2, 100, 200, 7, 160, 280)], np.int32)


def test_sections_show_the_outline_where_it_is() -> None:
    labels, boxes = one_block()
    picture = draw_sections(np.zeros((1, *labels.shape), np.uint8), labels, boxes, 20.0)
    assert picture.shape == (300 + 4 + 200, 900 + 4 + 200, 3)
    lit = picture.any(axis=2)
    lit[300:304] = lit[:, 900:904] = False  # ticks, see below
    colour = PALETTE_ON_DARK[0]
    for y_begin, y_end, x_begin, x_end in (
        (100, 160, 200, 280),  # (Y, X)
        (304 + 40, 304 + 140, 200, 280),  # (Z, X), stretched
        (100, 160, 904 + 40, 904 + 140),  # (Y, Z)
    ):
        assert lit[y_begin, x_begin + 2 : x_end - 2].all()
        assert lit[y_begin + 2 : y_end - 2, x_end - 1].all()
        # the line runs half way between pixels, and covers about four fifths of the ones beside it
        assert picture[y_begin, (x_begin + x_end) // 2].astype(int) == pytest.approx(np.array(colour) * 0.8, abs=20)
        assert not picture[y_begin + 3 : y_end - 3, x_begin + 3 : x_end - 3].any()
        lit[y_begin - 3 : y_end + 3, x_begin - 3 : x_end + 3] = False
    assert not lit.any()


def test_ticks_are_where_the_sections_cut() -> None:
    labels, boxes = one_block()
    picture = draw_sections(np.zeros((1, *labels.shape), np.uint8), labels, boxes, 20.0)
    # of the planes that cut the block those nearest the middle of the volume
    z, y, x = 4, 149, 279
    white = (picture == 255).all(axis=2)
    assert np.flatnonzero(white[302]).tolist() == [x, 904 + 20 * z + 10]
    assert np.flatnonzero(white[:, 902]).tolist() == [y, 304 + 20 * z + 10]


def test_sections_cut_the_most_objects() -> None:
    labels = np.zeros((9, 20, 20), np.int32)
    labels[1, 2:5, 2:5], labels[1, 8:11, 2:5], labels[7, 2:5, 2:5] = 1, 2, 3
    image = np.zeros((1, 9, 20, 20), np.uint8)
    image[:, 1] = 200
    (path,) = [
        draw_sections(
            image, labels, np.array([(1, 2, 2, 2, 5, 5), (1, 8, 2, 2, 11, 5), (7, 2, 2, 8, 5, 5)], np.int32), 1.0
        )
    ]
    assert (path[: 8 * 20, : 8 * 20].min(axis=2) == 255).mean() > 0.5  # the bright plane, enlarged eightfold


@pytest.mark.parametrize(
    ("channels", "dtype"), [(1, np.float32), (1, bool), (2, np.uint16), (3, np.uint8), (3, np.uint16), (5, np.int16)]
)
@pytest.mark.parametrize("anisotropy", [0.01, 1.0, 3.3])
def test_overlay_of_any_volume(tmp_path: Path, channels: int, dtype: type, anisotropy: float) -> None:
    image = np.random.default_rng(0).integers(0, 2, (channels, *THREE.labels.shape)).astype(dtype)
    (path,) = write(THREE, tmp_path / "cell", ["overlay"], image=image, anisotropy=anisotropy)
    depth = max(1, round(12 * anisotropy))
    assert Image.open(path).size == (8 * (24 + 4 + depth), 8 * (30 + 4 + depth))


def test_overlay_on_a_bright_volume_uses_dark_lines() -> None:
    labels, boxes = one_block()
    image = np.full((3, *labels.shape), 230, np.uint8)
    image[:, :, :20] = 40
    picture = draw_sections(image, labels, boxes, 20.0)
    assert picture[100, 240].astype(int) == pytest.approx(0.8 * np.array(PALETTE_ON_BRIGHT[0]) + 0.2 * 255, abs=20)


# ---- Cellpose's file


def test_seg_of_a_volume_has_the_outlines_of_its_planes(tmp_path: Path) -> None:
    (path,) = write(THREE, tmp_path / "cell", ["seg"], maps=np.zeros((4, 12, 30, 24), np.float32))
    seg = read_seg(path)
    np.testing.assert_array_equal(seg.labels, THREE.labels)
    assert repr(seg) == "SegFile(3 masks in 12 x 30 x 24 voxels of '')"
    assert seg.outlines is not None
    assert seg.maps is None
    for plane, outlines in zip(THREE.labels, seg.outlines, strict=True):
        flat = from_labels(np.ascontiguousarray(plane), 3)
        (alone,) = write(flat, tmp_path / "plane", ["seg"])
        np.testing.assert_array_equal(read_seg(alone).outlines, outlines)


# ---- all or nothing


def test_every_format_writes_an_empty_result(tmp_path: Path) -> None:
    paths = write(NONE, tmp_path / "new" / "cell", OF_VOLUMES, image=PICTURE)
    assert sorted(paths) == sorted((tmp_path / "new").iterdir())
    found = dict(zip(OF_VOLUMES, paths, strict=True))
    assert not tifffile.imread(found["labels"]).any()
    assert found["csv"].read_text().count("\n") == 1
    vertices, faces = read_ply(found["ply"])
    assert len(vertices) == len(faces) == 0
    assert read_obj(found["obj"])[0] == []
    assert not zarr.open_group(found["zarr"], mode="r")["0"][...].any()


def test_the_same_instances_give_the_same_bytes(tmp_path: Path) -> None:
    first = write(THREE, tmp_path / "a" / "cell", OF_VOLUMES, image=PICTURE)
    second = write(THREE, tmp_path / "b" / "other", OF_VOLUMES, image=PICTURE)
    for one, other in zip(first, second, strict=True):
        assert content_of(one) == content_of(other), one.name


@pytest.mark.parametrize("instances", [THREE, NONE])
def test_own_files_are_known_by_their_mark_and_others_are_not(tmp_path: Path, instances: Instances) -> None:
    for path in write(instances, tmp_path / "cell", OF_VOLUMES, image=PICTURE):
        assert is_output(path)
        marked = path / "zarr.json" if path.is_dir() else path
        marked.write_bytes(b"of somebody else")
        assert not is_output(path)
    (tmp_path / "empty_labels.zarr").mkdir()
    assert not is_output(tmp_path / "empty_labels.zarr")


def test_older_results_are_replaced_set_aside_and_left_out_of_images(tmp_path: Path) -> None:
    older = {path: content_of(path) for path in write(THREE, tmp_path / "cell", OF_VOLUMES, image=PICTURE)}
    tifffile.imwrite(tmp_path / "cell.tif", PICTURE[0])
    assert find_images([tmp_path], is_output) == [tmp_path / "cell.tif"]
    write(NONE, tmp_path / "cell", OF_VOLUMES, image=PICTURE)
    assert sorted(tmp_path.iterdir()) == sorted([*older, tmp_path / "cell.tif"])
    for path, content in older.items():
        assert content_of(path) != content
    aside = set_aside([tmp_path / "cell_labels.zarr"])
    assert [path.name for path in aside] == ["cell_labels.zarr.old"]
    assert is_output(aside[0])
    kept = content_of(write(THREE, tmp_path / "cell", ["zarr"])[0])
    assert set_aside([tmp_path / "cell_labels.zarr"]) == aside
    assert content_of(aside[0]) == kept


@pytest.mark.parametrize("failing_call", range(1, 5))
@pytest.mark.parametrize("error", [PermissionError(errno.EACCES, "Permission denied"), KeyboardInterrupt()])
def test_a_rename_that_fails_midway_brings_older_folders_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing_call: int, error: BaseException
) -> None:
    paths = write(THREE, tmp_path / "cell", ["zarr", "csv"])
    older = {path: content_of(path) for path in paths}
    calls = 0
    replace = os.replace

    def held(source: Path, target: Path) -> None:
        nonlocal calls
        calls += Path(target).parent == tmp_path  # not what zarr renames inside its folder
        if calls == failing_call:  # two go out of the way, then two take their places
            calls += 1
            raise error
        replace(source, target)

    monkeypatch.setattr(os, "replace", held)
    with pytest.raises((FileError, KeyboardInterrupt)):
        write(NONE, tmp_path / "cell", ["zarr", "csv"])
    assert sorted(tmp_path.iterdir()) == sorted(paths)
    assert {path: content_of(path) for path in paths} == older


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: Any, folder: Path) -> None:
        (folder / "0").mkdir()
        (folder / "0" / "zarr.json").write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setitem(
        FORMATS, "zarr", write_module.Format("_labels.zarr", "", FORMATS["zarr"].marks, full, head="zarr.json")
    )
    with pytest.raises(FileError, match=r"cell.csv, cell_labels.zarr into .*: No space left on device; free space"):
        write(THREE, tmp_path / "cell", ["csv", "zarr"])
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_cellrts_own_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "cell_labels.zarr").mkdir()
    (tmp_path / "cell_labels.zarr" / "slide").touch()
    with pytest.raises(
        FileError, match=r"expected a new folder or an older label image of cellrt at .*; choose another"
    ):
        write(THREE, tmp_path / "cell", ["csv", "zarr"])
    assert [path.name for path in tmp_path.iterdir()] == ["cell_labels.zarr"]
    (tmp_path / "other_labels.zarr").write_bytes(b'"software": "cellrt"')
    with pytest.raises(FileError, match="got something else"):
        write(THREE, tmp_path / "other", ["zarr"])
    (tmp_path / "third_labels.tif").mkdir()
    with pytest.raises(FileError, match="Is a directory"):
        write(THREE, tmp_path / "third", ["labels", "zarr"])
    assert not (tmp_path / "third_labels.zarr").exists()


def test_sweep_removes_old_folders_but_none_that_is_written_to(tmp_path: Path) -> None:
    for name, age in (("0123456789ab", 1e9), ("ba9876543210", None)):
        folder = tmp_path / f".cellrt-{name}.part"
        (folder / "0").mkdir(parents=True)
        (folder / "0" / "chunk").touch()
        if age is not None:
            os.utime(folder / "0" / "chunk", (age, age))
            os.utime(folder / "0", (age, age))
        os.utime(folder, (1e9, 1e9))
    sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".cellrt-ba9876543210.part"]


# ---- doors


def changed(**arrays: np.ndarray) -> Instances:
    """`THREE` with something else in it."""
    dist, rays = arrays.pop("dist", THREE.polyhedra.dist), arrays.pop("rays", THREE.polyhedra.rays)
    parts = {"labels": THREE.labels, "scores": THREE.scores, "points": THREE.points} | arrays
    return Instances(**parts, outlines=None, polyhedra=Polyhedra(dist, rays, FACES))


def test_bad_arguments_are_refused_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without = labelled(THREE.labels, 3)
    flat = from_labels(np.ascontiguousarray(THREE.labels[5]), 3)
    huge = np.full_like(THREE.polyhedra.dist, 1e30)
    for instances, formats, options, message in [
        (
            THREE,
            ["csv", "geojson"],
            {},
            "expected formats for volumes, which are labels, csv, zarr, ply, .*, got 'geojson'",
        ),
        (THREE, ["rois"], {}, "got 'rois'"),
        (THREE, ["outlines"], {}, "got 'outlines'"),
        (flat, ["ply"], {}, "expected formats for images, which are labels, csv, rois, .*, got 'ply'"),
        (
            without,
            ["csv", "obj"],
            {},
            "expected objects with polyhedra, .* for 'obj', .*; choose out of labels, csv, zarr",
        ),
        (THREE, ["overlay"], {}, "expected an image to draw the overlay on, got none"),
        (THREE, ["overlay"], {"image": PICTURE[0]}, r"expected an image \(C, 12, 30, 24\), got shape \(12, 30, 24\)"),
        (THREE, ["overlay"], {"image": PICTURE, "anisotropy": 0.0}, "expected an anisotropy of 0.01 to 100 .* got 0.0"),
        (THREE, ["zarr"], {"anisotropy": float("nan")}, "expected an anisotropy of 0.01 to 100 .* got nan"),
        (changed(points=np.full((3, 3), np.nan, np.float32)), ["csv"], {}, "expected finite points"),
        (changed(dist=huge), ["ply"], {}, "expected finite lengths of rays of at most 10000000, got others"),
        (changed(rays=np.full_like(RAYS, np.inf)), ["obj"], {}, "expected finite rays"),
        (changed(labels=THREE.labels + 1), ["labels"], {}, r"expected labels in 0\.\.3, got 1 to 4"),
        (changed(scores=np.full(3, np.nan, np.float32)), ["csv"], {}, "expected finite scores"),
    ]:
        with pytest.raises(CellrtError, match=message):
            write(instances, tmp_path / "cell", formats, **options)
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(CellrtError, match=r'expected zarr to be installed .*; run: pip install "cellrt\[screen\]"'):
        write(THREE, tmp_path / "cell", ["csv", "zarr"])
    assert list(tmp_path.iterdir()) == []


def test_formats_are_checked_before_there_are_objects() -> None:
    assert check(["csv", "ply", "csv"], "volumes") == ["csv", "ply"]
    assert check(["csv", "ply"]) == ["csv", "ply"]
    with pytest.raises(CellrtError, match=r"expected formats for images, which are labels, .*, got 'ply'"):
        check(["csv", "ply"], "images")


def test_table_meshes_and_seg_need_no_optional_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("tifffile", "PIL", "zarr"):
        monkeypatch.setitem(sys.modules, module, None)
    assert len(write(THREE, tmp_path / "cell", ["csv", "ply", "obj", "seg"])) == 4
