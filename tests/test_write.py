"""Files out: what other programs read back is what the instances hold, and no failure leaves a file behind."""

from __future__ import annotations

import csv
import errno
import io
import itertools
import json
import os
import sys
import uuid
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cellrt import write as write_module
from cellrt.errors import CellrtError, FileError
from cellrt.heads.flow import from_labels
from cellrt.instances import Instances
from cellrt.write import FORMATS, Format, check, is_output, set_aside, sweep, write
from cellrt.write.contours import contours
from cellrt.write.overlay import MIN_SIDE, PALETTE_ON_BRIGHT, PALETTE_ON_DARK, draw
from cellrt.write.polygons import write_geojson

tifffile = pytest.importorskip("tifffile")
roifile = pytest.importorskip("roifile")
Image = pytest.importorskip("PIL.Image")

N_RAYS = 16
FILES = [name for name, form in FORMATS.items() if form.only != "volumes" and not form.head]  # for images


def discs(points: np.ndarray, radius: float, shape: tuple[int, int], classes: np.ndarray | None = None) -> Instances:
    """Round objects; a later one covers the earlier ones."""
    n = len(points)
    y, x = np.ogrid[: shape[0], : shape[1]]
    labels = np.zeros(shape, np.int32)
    for label, point in enumerate(points, start=1):
        labels[(y - point[0]) ** 2 + (x - point[1]) ** 2 <= radius**2] = label
    angles = np.linspace(0, 2 * np.pi, N_RAYS, endpoint=False)
    rays = radius * np.stack([np.sin(angles), np.cos(angles)], axis=1)
    coords = (np.reshape(points, (-1, 1, 2)) + rays).reshape(-1, 2).astype(np.float32)
    return Instances(
        labels=labels,
        scores=np.linspace(0.9, 0.5, n, dtype=np.float32),
        points=np.reshape(points, (-1, 2)).astype(np.float32),
        outlines=(coords, np.arange(n + 1, dtype=np.int64) * N_RAYS),
        classes=classes,
    )


def outlined(polygons: list[np.ndarray]) -> Instances:
    """Instances of which only the outlines matter."""
    n = len(polygons)
    offsets = np.concatenate([[0], np.cumsum([len(polygon) for polygon in polygons])]).astype(np.int64)
    coords = np.concatenate([np.zeros((0, 2)), *polygons]).astype(np.float32)
    return Instances(
        np.zeros((4, 4), np.int32), np.ones(n, np.float32), np.full((n, 2), 3, np.float32), (coords, offsets)
    )


def geojson(instances: Instances) -> dict[str, Any]:
    """Instances -> GeoJSON -> Python."""
    buffer = io.BytesIO()
    write_geojson(instances, np.zeros(len(instances), np.int64), {}, buffer)
    content: dict[str, Any] = json.loads(buffer.getvalue())
    return content


THREE = discs(np.array([(10, 12), (30.5, 20.25), (11, 14)]), 6.0, (48, 40))
NONE = discs(np.zeros((0, 2)), 6.0, (48, 40))
PICTURE = np.random.default_rng(0).integers(0, 4000, (1, 48, 40), dtype=np.uint16)


# ---- formats


def test_labels_read_back(tmp_path: Path) -> None:
    (path,) = write(THREE, tmp_path / "cell", ["labels"])
    assert path == tmp_path / "cell_labels.tif"
    with tifffile.TiffFile(path) as tif:
        assert (tif.series[0].axes, tif.series[0].dtype) == ("YX", np.uint16)
        assert tif.pages[0].compression == tifffile.COMPRESSION.ADOBE_DEFLATE
        np.testing.assert_array_equal(tif.asarray(), THREE.labels)


def test_more_labels_than_uint16_holds(tmp_path: Path) -> None:
    n = 65_536
    labels = np.arange(256 * 257, dtype=np.int32).reshape(256, 257) % (n + 1)
    many = Instances(
        labels,
        np.ones(n, np.float32),
        np.zeros((n, 2), np.float32),
        (np.zeros((0, 2), np.float32), np.zeros(n + 1, np.int64)),
    )
    (path,) = write(many, tmp_path / "cell", ["labels"])
    got = tifffile.imread(path)
    assert got.dtype == np.uint32
    np.testing.assert_array_equal(got, labels)


def rows(path: Path) -> list[dict[str, str]]:
    """A table."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_table(tmp_path: Path) -> None:
    covered = discs(np.array([(10, 12), (30.5, 20.25), (10, 12)]), 6.0, (48, 40))
    (path,) = write(covered, tmp_path / "cell", ["csv"])
    table = rows(path)
    assert [row["id"] for row in table] == ["1", "2", "3"]
    for label, row in enumerate(table, start=1):
        y, x = np.nonzero(covered.labels == label)
        assert int(row["area"]) == len(y)
        box = [int(row[key]) for key in ("y_begin", "x_begin", "y_end", "x_end")]
        # the first object is covered by the third: its row stays, so that ids are labels
        assert box == ([0, 0, 0, 0] if label == 1 else [y.min(), x.min(), y.max() + 1, x.max() + 1])
        assert float(row["score"]) == pytest.approx(covered.scores[label - 1], abs=1e-6)
        assert [float(row["y"]), float(row["x"])] == pytest.approx(covered.points[label - 1].tolist(), abs=0.005)
        assert row["class"] == ""


def test_classes(tmp_path: Path) -> None:
    classes = np.array([2, 0, 1], np.int32)
    sorted_cells = discs(np.array([(10, 12), (30, 20), (40, 8)]), 5.0, (48, 40), classes)
    (path,) = write(sorted_cells, tmp_path / "cell", ["csv"])
    assert [row["class"] for row in rows(path)] == ["2", "0", "1"]
    names = ["Tumor, round", "Stroma é"]
    table, features = write(sorted_cells, tmp_path / "cell", ["csv", "geojson"], class_names=names)
    assert [row["class"] for row in rows(table)] == ["Stroma é", "background", "Tumor, round"]
    found = [feature["properties"].get("classification") for feature in json.loads(features.read_bytes())["features"]]
    assert [entry and entry["name"] for entry in found] == ["Stroma é", None, "Tumor, round"]
    assert found[0]["color"] != found[2]["color"]
    with pytest.raises(CellrtError, match=r"expected names for 2 classes, got \['one'\]"):
        write(sorted_cells, tmp_path / "cell", ["csv"], class_names=["one"])


def test_rois_read_back_in_imagej_coordinates(tmp_path: Path) -> None:
    (path,) = write(THREE, tmp_path / "cell", ["rois"])
    found = roifile.roiread(path)
    assert [roi.name for roi in found] == ["001_001", "001_002", "001_003"]
    for roi, outline in zip(found, THREE.polygons(), strict=True):
        assert roi.roitype == roifile.ROI_TYPE.POLYGON
        assert roi.subpixelresolution
        assert roi.position == 1
        # the pixel's corner is ImageJ's origin: half a pixel more, (x, y), to the bit
        np.testing.assert_array_equal(roi.subpixel_coordinates, outline[:, ::-1] + np.float32(0.5))
        corners = np.rint(roi.subpixel_coordinates)
        np.testing.assert_array_equal(roi.integer_coordinates + np.array([roi.left, roi.top]), corners)
        assert (roi.right, roi.bottom) == tuple(corners.max(0))


def test_geojson_as_qupath_reads_it(tmp_path: Path) -> None:
    (path,) = write(THREE, tmp_path / "cell", ["geojson"])
    content = json.loads(path.read_bytes())
    assert content["type"] == "FeatureCollection"
    areas = np.bincount(THREE.labels.ravel())[1:]
    for index, (feature, outline) in enumerate(zip(content["features"], THREE.polygons(), strict=True)):
        assert feature["type"] == "Feature"
        assert feature["geometry"]["type"] == "Polygon"
        (ring,) = feature["geometry"]["coordinates"]
        assert ring[0] == ring[-1]
        np.testing.assert_allclose(ring[:-1], outline[:, ::-1] + 0.5, atol=0.00501)
        assert feature["properties"]["objectType"] == "detection"
        measurements = feature["properties"]["measurements"]
        assert measurements["label"] == index + 1
        assert measurements["area"] == areas[index]
        assert measurements["score"] == pytest.approx(THREE.scores[index], abs=1e-6)
        assert "classification" not in feature["properties"]
    ids = [uuid.UUID(feature["id"]) for feature in content["features"]]
    assert len(set(ids)) == len(THREE)


def crosses(ring: list[tuple[int, int]]) -> bool:
    """Slow twin: whether two edges of a closed ring share more than the vertex between neighbours."""

    def side(a: tuple[int, int], b: tuple[int, int], c: tuple[int, int]) -> int:
        product = (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
        return (product > 0) - (product < 0)

    def between(a: tuple[int, int], b: tuple[int, int], c: tuple[int, int]) -> bool:
        return min(a[0], b[0]) <= c[0] <= max(a[0], b[0]) and min(a[1], b[1]) <= c[1] <= max(a[1], b[1])

    n = len(ring) - 1
    for i in range(n):
        for j in range(i + 1, n):
            a, b, c, d = ring[i], ring[i + 1], ring[j], ring[j + 1]
            shared = {a, b} & {c, d}
            if len(shared) > (j - i in (1, n - 1)):
                return True
            for p, q, r in ((a, b, c), (a, b, d), (c, d, a), (c, d, b)):
                if r not in shared and side(p, q, r) == 0 and between(p, q, r):
                    return True
            if side(a, b, c) * side(a, b, d) < 0 and side(c, d, a) * side(c, d, b) < 0:
                return True
    return False


def assert_simple(feature: dict[str, Any]) -> None:
    """A polygon that JTS calls valid, counterclockwise, in hundredths."""
    (ring,) = feature["geometry"]["coordinates"]
    vertices = [(round(x * 100), round(y * 100)) for x, y in ring]
    np.testing.assert_allclose(np.array(vertices) / 100, ring, atol=1e-9)
    assert len(vertices) >= 4
    assert not crosses(vertices)
    a = np.array(vertices)
    assert np.sum(a[:-1, 0] * a[1:, 1] - a[1:, 0] * a[:-1, 1]) > 0


@given(st.lists(hnp.arrays(np.int8, st.tuples(st.integers(0, 9), st.just(2)), elements=st.integers(0, 4)), max_size=4))
def test_every_outline_becomes_a_simple_ring(polygons: list[np.ndarray]) -> None:
    features = geojson(outlined(polygons))["features"]
    assert len(features) == len(polygons)
    for feature in features:
        assert_simple(feature)


@given(
    hnp.arrays(np.float32, 12, elements=st.sampled_from([0.001, 0.004, 0.01, 0.5, 3.0, 7.25])),
    st.tuples(st.integers(0, 2000), st.integers(0, 2000)),
)
def test_stars_with_rays_near_zero_become_simple_rings(rays: np.ndarray, point: tuple[int, int]) -> None:
    angles = np.linspace(0, 2 * np.pi, len(rays), endpoint=False)
    outline = np.array(point) + rays[:, None] * np.stack([np.sin(angles), np.cos(angles)], axis=1)
    assert_simple(geojson(outlined([outline]))["features"][0])


def assert_same_ground(ring: np.ndarray, mask: np.ndarray) -> None:
    """A ring (x, y) around the pixels of a mask and no others, after its holes are filled."""
    y, x = np.mgrid[: mask.shape[0], : mask.shape[1]] + 0.5
    crossings = np.zeros(mask.shape, int)
    for (x0, y0), (x1, y1) in itertools.pairwise(ring):
        crossings += (x0 == x1) & (x0 < x) & (min(y0, y1) < y) & (y < max(y0, y1))
    np.testing.assert_array_equal(crossings % 2 == 1, mask)


@settings(max_examples=60)
@given(hnp.arrays(np.int32, st.tuples(st.integers(1, 7), st.integers(1, 7)), elements=st.integers(0, 2)))
def test_outlines_along_pixels_become_simple_rings(labels: np.ndarray) -> None:
    labels = np.kron(labels, np.ones((2, 1), np.int32))
    for feature in geojson(from_labels(labels, 2))["features"]:
        assert_simple(feature)


def test_outlines_along_pixels_stay_as_they_are() -> None:
    labels = np.zeros((20, 30), np.int32)
    labels[2:9, 3:11] = 1
    labels[4:6, 8:15] = 1  # not a star
    labels[12:19, 3:10] = 2
    labels[12:14, 5:8] = 0
    labels[10:16, 20:29] = 3
    labels[12:14, 22:26] = 0  # a hole, which a polygon cannot show
    features = geojson(from_labels(labels, 3))["features"]
    for label, feature in enumerate(features, start=1):
        (ring,) = feature["geometry"]["coordinates"]
        assert_same_ground(np.array(ring), (labels == label) | ((label == 3) & (labels == 0) & inside(labels == 3)))
    # a pocket that is closed at a corner only: the ring may not touch itself there, and the pocket is lost
    pocket = np.ones((4, 4), np.int32)
    pocket[1, 1] = pocket[0, 0] = 0
    ((ring,),) = [feature["geometry"]["coordinates"] for feature in geojson(from_labels(pocket, 1))["features"]]
    assert_same_ground(np.array(ring), (pocket == 1) | (np.indices((4, 4)) == 1).all(0))


def inside(mask: np.ndarray) -> np.ndarray:
    """Where the hole of the third object is."""
    hole = np.zeros_like(mask)
    hole[12:14, 22:26] = True
    return hole


def comb(teeth: int) -> np.ndarray:
    """One object with a long outline."""
    labels = np.zeros((6, 2 * teeth + 1), np.int32)
    labels[3:] = 1
    labels[:, ::2] = 1
    return labels


def test_long_outlines_are_written_by_every_format(tmp_path: Path) -> None:
    labels = comb(16_400)
    cells = from_labels(labels, 1)
    assert len(cells.outlines[0]) > 65_536  # as many as ImageJ's field of 16 bits can count
    paths = write(cells, tmp_path / "cell", FILES, image=np.zeros((1, *labels.shape), np.uint8))
    (roi,) = roifile.roiread(paths[2])
    np.testing.assert_array_equal(roi.subpixel_coordinates, cells.outlines[0][:, ::-1] + np.float32(0.5))
    (feature,) = json.loads(paths[3].read_bytes())["features"]
    assert len(feature["geometry"]["coordinates"][0]) == len(cells.outlines[0]) + 1


def test_repairs_keep_the_shape_that_they_can_keep() -> None:
    square = np.array([(0, 0), (0, 8), (8, 8), (8, 0)])
    tail = np.array(
        [(0, 0), (0, 8), (8, 8), (8, 0), (0, 0), (-3, 0), (-3, -3)]
    )  # a square and a triangle at its corner
    bow = np.array([(0, 0), (8, 8), (8, 0), (0, 8)])
    line = np.array([(0, 0), (0, 8), (0, 4)])
    features = geojson(outlined([square, square[::-1], tail, bow, line, np.zeros((0, 2))]))["features"]
    rings = [np.array(feature["geometry"]["coordinates"][0][:-1]) - 0.5 for feature in features]
    corners = {(0, 0), (0, 8), (8, 0), (8, 8)}
    for ring in rings[:4]:  # of the bow the hull
        assert {tuple(corner) for corner in ring.tolist()} == corners
    for ring in rings[4:]:  # without an area: the pixel of the point, (3, 3)
        assert {tuple(corner) for corner in ring.tolist()} == {(2.5, 2.5), (2.5, 3.5), (3.5, 2.5), (3.5, 3.5)}


# ---- overlay


def one_square(top: float, left: float, side: float) -> tuple[np.ndarray, np.ndarray]:
    """The outline of a square."""
    corners = np.array([(0, 0), (0, 1), (1, 1), (1, 0)]) * side + (top, left)
    return corners.astype(np.float32), np.array([0, 4])


def test_overlay_draws_on_the_outline_and_nowhere_else() -> None:
    picture = draw(np.zeros((1, MIN_SIDE, 60), np.uint8), one_square(10, 20, 30))
    assert picture.shape == (MIN_SIDE, 60, 3)
    lit = picture.any(axis=2)
    assert lit[10, 20:51].all()
    assert lit[10:41, 50].all()
    assert {tuple(colour) for colour in picture[10, 22:49]} == {PALETTE_ON_DARK[0]}
    lit[8:43, 18:53] = False
    assert not lit.any()
    assert not picture[13:38, 23:48].any()


def test_overlay_of_a_small_image_is_enlarged_with_its_outline_in_place() -> None:
    image = np.zeros((1, 100, 200), np.float32)
    image[:, 40:60, 90:120] = 1
    picture = draw(image, one_square(39.5, 89.5, 20))
    assert picture.shape == (600, 1200, 3)
    # the edge of the bright block, between pixels 89 and 90, is where the left line is
    coloured = np.nonzero(np.ptp(picture[300].astype(int), axis=1) > 50)[0]
    assert abs(coloured[coloured < 600].mean() - (90 * 6 - 0.5)) < 0.6


@pytest.mark.parametrize(
    ("channels", "dtype"), [(1, np.float32), (1, bool), (2, np.uint16), (3, np.uint8), (3, np.uint16), (5, np.int16)]
)
def test_overlay_of_any_image(channels: int, dtype: type) -> None:
    image = np.random.default_rng(0).integers(0, 2, (channels, 30, 33)).astype(dtype)
    assert draw(image, one_square(5, 5, 9)).shape == (240, 264, 3)  # eightfold is the limit
    constant = draw(np.ones((channels, 30, 33), dtype), (np.zeros((0, 2), np.float32), np.zeros(1, np.int64)))
    assert len(np.unique(constant)) == 1


def test_overlay_gives_objects_that_touch_different_colours() -> None:
    points = np.stack(np.meshgrid(np.arange(20, 300, 18), np.arange(20, 300, 18)), axis=-1).reshape(-1, 2)
    crowd = discs(points, 10.0, (MIN_SIDE, 320))
    picture = draw(np.zeros((1, *crowd.labels.shape), np.uint8), crowd.outlines)
    colours = [tuple(picture[y + 10, x].tolist()) for y, x in points]  # at the bottom, where no other outline is
    assert set(colours) <= set(PALETTE_ON_DARK)
    for i, a in enumerate(points):
        for j, b in enumerate(points[:i]):
            assert np.hypot(*(a - b)) > 20 or colours[i] != colours[j]


def test_overlay_on_a_bright_image_uses_dark_lines() -> None:
    image = np.full((3, MIN_SIDE, 60), 230, np.uint8)
    image[:, :100] = 40
    picture = draw(image, one_square(510, 20, 30))
    assert tuple(picture[510, 30]) == PALETTE_ON_BRIGHT[0]


def test_overlay_survives_outlines_beyond_the_image() -> None:
    far = one_square(-5e6, -5e6, 1e7)
    assert not draw(np.zeros((1, 64, MIN_SIDE), np.uint8), far).any()
    across = (np.array([(-5e6, 30), (5e6, 30), (5e6, 5e6)], np.float32), np.array([0, 3]))
    lit = draw(np.zeros((1, 64, MIN_SIDE), np.uint8), across).any(axis=2)
    assert lit[:, 30].all()


# ---- Cellpose's outlines


def outer_border(mask: np.ndarray) -> set[tuple[int, int]]:
    """Slow twin: pixels of a mask with a side to the ground outside, which is reached across sides from beyond."""
    framed = np.pad(mask, 1)
    ground, reached, border = [(0, 0)], {(0, 0)}, set()
    while ground:
        y, x = ground.pop()
        for there in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
            if 0 <= there[0] < framed.shape[0] and 0 <= there[1] < framed.shape[1]:
                if framed[there]:
                    border.add((there[0] - 1, there[1] - 1))
                elif there not in reached:
                    reached.add(there)
                    ground.append(there)
    return border


def parts(mask: np.ndarray) -> list[np.ndarray]:
    """Slow twin: what of a mask touches at sides or corners, in the order of first pixels by rows."""
    left = {(y, x) for y, x in np.argwhere(mask).tolist()}
    found = []
    while left:
        todo, part = [min(left)], np.zeros_like(mask)
        left.discard(todo[0])
        while todo:
            y, x = todo.pop()
            part[y, x] = True
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            todo += near
        found.append(part)
    return found


@settings(max_examples=80)
@given(
    hnp.arrays(np.int32, st.tuples(st.integers(1, 8), st.integers(1, 8)), elements=st.integers(0, 3)),
    st.sampled_from([(1, 1), (2, 2), (1, 3)]),
)
def test_contours_walk_around_every_part(labels: np.ndarray, zoom: tuple[int, int]) -> None:
    labels = np.kron(labels, np.ones(zoom, np.int32))
    pixels, offsets, owners = contours(labels)
    walks = np.split(pixels, offsets[1:-1])
    for label in range(1, 4):
        own = [walk for walk, owner in zip(walks, owners, strict=False) if owner == label]
        wanted = parts(labels == label)
        assert len(own) == len(wanted)
        for walk, part in zip(own, wanted, strict=True):
            assert walk[0].tolist() == np.argwhere(part)[0].tolist()
            assert {(y, x) for y, x in walk.tolist()} == outer_border(part)
            closed = np.concatenate([walk, walk[:1]])
            step = np.abs(np.diff(closed, axis=0)).max(axis=1)
            assert (step == (len(walk) > 1)).all()
            y, x = closed.T
            assert np.sum(x[:-1] * y[1:] - x[1:] * y[:-1]) <= 0  # counterclockwise on a screen


def numbers(path: Path) -> list[list[int]]:
    """The file as Cellpose's ImageJ macro reads it."""
    with path.open() as file:
        return [list(map(int, line.rstrip().split(","))) for line in file]


def test_outlines_are_the_points_of_cellpose(tmp_path: Path) -> None:
    labels = np.zeros((9, 9), np.int32)
    labels[1:4, 2:5] = labels[4, 3] = labels[0, 3] = labels[2, 5] = labels[3, 6] = 2
    labels[6:9, 0:3] = 1
    labels[8, 8] = labels[6, 8] = 1  # smaller parts
    labels[7, 1] = 0  # a hole
    labels[5, 5:7] = 4
    (path,) = write(from_labels(labels, 4), tmp_path / "cell", ["outlines"])
    assert path.name == "cell_cp_outlines.txt"
    assert numbers(path) == [
        [0, 6, 0, 7, 0, 8, 1, 8, 2, 8, 2, 7, 2, 6, 1, 6],
        [3, 0, 2, 1, 2, 2, 2, 3, 3, 4, 4, 3, 5, 2, 6, 3, 5, 2, 4, 1],  # as OpenCV 5.0's findContours lists it
        [5, 5, 6, 5],
    ]
    assert path.read_bytes().startswith(b"+0000000000000000000,6,0,7,")
    assert path.read_bytes().endswith(b"\n5,5,6,5\n")


def test_of_parts_with_outlines_of_one_length_the_last_is_written(tmp_path: Path) -> None:
    labels = np.zeros((9, 9), np.int32)
    labels[0:2, 0:2] = labels[0:2, 5:7] = labels[6:8, 3:5] = labels[4, 0] = 1
    (path,) = write(from_labels(labels, 1), tmp_path / "cell", ["outlines"])
    assert numbers(path) == [[3, 6, 3, 7, 4, 7, 4, 6]]


# ---- all or nothing


def test_every_format_writes_an_empty_result(tmp_path: Path) -> None:
    paths = write(NONE, tmp_path / "new" / "cell", FILES, image=PICTURE)
    assert [path.name for path in paths] == ["cell" + FORMATS[name].suffix for name in FILES]
    assert sorted(paths) == sorted((tmp_path / "new").iterdir())
    labels, table, rois, features, overlay, _, outlines = paths
    assert not tifffile.imread(labels).any()
    assert rows(table) == []
    assert list(roifile.roiread(rois)) == []
    assert json.loads(features.read_bytes()) == {"type": "FeatureCollection", "features": []}
    assert Image.open(overlay).size == (320, 384)
    assert outlines.read_bytes() == b""
    assert is_output(outlines)


def test_the_same_instances_give_the_same_bytes(tmp_path: Path) -> None:
    first = write(THREE, tmp_path / "a" / "cell", FILES, image=PICTURE)
    second = write(THREE, tmp_path / "b" / "other", FILES, image=PICTURE)
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name


def test_files_have_the_usual_permissions(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    (path,) = write(THREE, tmp_path / "cell.with.dots", ["csv"])
    assert path.name == "cell.with.dots.csv"
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


def failing(error: BaseException) -> Format:
    """A format that fails in the middle of its file."""

    def fail(_: Any, file: BinaryIO) -> None:
        file.write(b"half")
        raise error

    return Format(".fail", "", (b"fail",), fail)


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), FileError),
        (KeyboardInterrupt(), KeyboardInterrupt),
        (MemoryError(), MemoryError),
    ],
)
def test_a_failure_leaves_neither_new_files_nor_changed_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, raised: type[BaseException]
) -> None:
    monkeypatch.setitem(FORMATS, "fail", failing(error))
    (tmp_path / "cell.csv").write_text("older")
    with pytest.raises(raised) as caught:
        write(THREE, tmp_path / "cell", ["labels", "csv", "fail"])
    assert [path.name for path in tmp_path.iterdir()] == ["cell.csv"]
    assert (tmp_path / "cell.csv").read_text() == "older"
    if raised is FileError:
        assert str(caught.value).startswith("expected to write cell_labels.tif, cell.csv, cell.fail into ")
        assert str(caught.value).endswith("No space left on device; free space there or choose another folder")


@pytest.mark.parametrize("failing_call", range(1, 7))
@pytest.mark.parametrize("error", [PermissionError(errno.EACCES, "Permission denied"), KeyboardInterrupt()])
def test_a_rename_that_fails_midway_brings_all_older_files_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing_call: int, error: BaseException
) -> None:
    formats = ["labels", "csv", "geojson"]
    older = {path: path.read_bytes() for path in write(THREE, tmp_path / "cell", formats)}
    calls = 0
    replace = os.replace

    def held(source: Path, target: Path) -> None:
        nonlocal calls
        calls += 1
        if calls == failing_call:  # three go out of the way, then three take their places
            raise error
        replace(source, target)

    monkeypatch.setattr(os, "replace", held)
    with pytest.raises((FileError, KeyboardInterrupt)) as caught:
        write(NONE, tmp_path / "cell", formats)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == older
    if isinstance(caught.value, FileError):
        name = [path.name for path in older][(failing_call - 1) % 3]
        assert str(caught.value).endswith(f"; close {name} in other programs or choose another folder")


def test_older_files_are_replaced_together(tmp_path: Path) -> None:
    older = {path: path.read_bytes() for path in write(THREE, tmp_path / "cell", FILES, image=PICTURE)}
    write(NONE, tmp_path / "cell", FILES, image=PICTURE)
    assert sorted(tmp_path.iterdir()) == sorted(older)
    assert all(path.read_bytes() != content for path, content in older.items())


@pytest.mark.parametrize("instances", [THREE, NONE])
def test_own_files_are_known_by_their_mark_and_others_are_not(tmp_path: Path, instances: Instances) -> None:
    for path in write(instances, tmp_path / "cell", FILES, image=PICTURE):
        assert is_output(path)
        assert not is_output(path.rename(path.with_name("other" + path.suffix + ".bak")))
        path.write_bytes(b"of somebody else")
        assert not is_output(path)
    tifffile.imwrite(tmp_path / "cell_labels.tif", THREE.labels)
    Image.fromarray(PICTURE[0].astype(np.uint8)).save(tmp_path / "cell_overlay.png")
    assert not is_output(tmp_path / "cell_labels.tif")
    assert not is_output(tmp_path / "cell_overlay.png")
    assert not is_output(tmp_path / "none_labels.tif")


def test_labels_in_many_strips_carry_their_mark_in_front(tmp_path: Path) -> None:
    empty = discs(np.zeros((0, 2)), 6.0, (3000, 6000))
    assert is_output(*write(empty, tmp_path / "large", ["labels"]))


def test_set_aside_keeps_what_is_there_and_touches_only_own_files(tmp_path: Path) -> None:
    labels, table = write(THREE, tmp_path / "cell", ["labels", "csv"])
    table.write_text("by hand")
    content = labels.read_bytes()
    set_aside([labels, table, tmp_path / "none.csv"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cell.csv", "cell_labels.tif.old"]
    assert (tmp_path / "cell_labels.tif.old").read_bytes() == content
    (tmp_path / "cell_labels.tif.old").write_text("by hand")
    write(THREE, tmp_path / "cell", ["labels"])
    set_aside([labels])
    assert labels.exists()  # better than to lose the other one
    assert (tmp_path / "cell_labels.tif.old").read_text() == "by hand"


def test_sweep_removes_only_old_temporary_files_of_cellrt(tmp_path: Path) -> None:
    names = [".cellrt-0123456789ab.part", ".cellrt-ba9876543210.part", ".cellrt-notes.part", "cell.part"]
    for name in names:
        (tmp_path / name).touch()
        if name != names[1]:  # this one is of a run under way
            os.utime(tmp_path / name, (1e9, 1e9))
    sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names[1:])
    sweep(tmp_path / "none")


def test_a_rename_that_fails_leaves_nothing_of_this_call(tmp_path: Path) -> None:
    (tmp_path / "cell_rois.zip").mkdir()
    with pytest.raises(FileError):
        write(THREE, tmp_path / "cell", ["labels", "rois"])
    assert [path.name for path in tmp_path.iterdir()] == ["cell_rois.zip"]


def test_folders_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FileError, match="choose another folder"):
        write(THREE, tmp_path / "file" / "cell", ["csv"])

    def denied(*_: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "replace", denied)
    with pytest.raises(FileError, match="Permission denied"):
        write(THREE, tmp_path / "cell", ["csv"])
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_bad_arguments_are_refused_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nan = outlined([np.full((3, 2), np.nan)])
    for arguments, message in [
        ((THREE, ["labels", "xml"], None), "expected formats out of labels, csv, .*, seg, outlines, got 'xml'"),
        ((THREE, ["overlay"], None), "expected an image to draw the overlay on, got none"),
        ((THREE, ["overlay"], PICTURE[0]), r"expected an image \(C, 48, 40\), got shape \(48, 40\)"),
        ((nan, ["labels"], None), "expected finite outlines"),
    ]:
        instances, formats, image = arguments
        with pytest.raises(CellrtError, match=message):
            write(instances, tmp_path / "cell", formats, image=image)
    for maps in (PICTURE, np.zeros((2, 48, 40), np.float32), np.zeros((3, 0, 40), np.float32)):
        with pytest.raises(CellrtError, match=r"expected maps as float32 \(3, y, x\), got .*; pass FlowMaps.maps"):
            write(THREE, tmp_path / "cell", ["seg"], maps=maps)
    with pytest.raises(CellrtError, match="expected finite pixels, got NaN"):
        write(THREE, tmp_path / "cell", ["seg"], maps=np.full((3, 48, 40), np.nan, np.float32))
    for module, form in (("tifffile", "labels"), ("PIL", "overlay")):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(CellrtError, match=r'pip install "cellrt\[io\]"'):
            write(THREE, tmp_path / "cell", ["csv", form], image=PICTURE)
        with pytest.raises(CellrtError, match="expected"):
            check(["csv", form])
    assert list(tmp_path.iterdir()) == []
    assert write(THREE, tmp_path / "cell", []) == []


def test_table_and_polygons_need_no_optional_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("tifffile", "PIL", "roifile"):
        monkeypatch.setitem(sys.modules, module, None)
    assert len(write(THREE, tmp_path / "cell", ["csv", "rois", "geojson", "seg", "outlines"])) == 5


def test_formats_have_different_names() -> None:
    assert len({form.suffix for form in write_module.FORMATS.values()}) == len(FORMATS)
