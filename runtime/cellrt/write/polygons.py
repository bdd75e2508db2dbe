"""Outlines as polygons for other programs: ROIs of ImageJ, GeoJSON for QuPath.

Both put the corner of the first pixel at (0, 0), `Instances` its centre: half a pixel is added here, and nowhere else.
"""

from __future__ import annotations

import io
import itertools
import json
import logging
import struct
import uuid
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from cellrt.instances import Instances

# QuPath keeps hundredths of a pixel. A file in hundredths passes its import unchanged; a finer one is rounded there.
_PER_PIXEL = 100
_MOST_STEPS = 10_000_000  # pixels: of a longer outline only the vertices are compared
ROIS_MARK = b"cellrt"  # the comment that ends the archive
GEOJSON_MARK = b'{"type":"FeatureCollection","features":[\n'  # no other writer breaks the line there
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "cellrt")
_CLASS_COLOURS = ((220, 40, 40), (40, 160, 60), (50, 90, 220), (230, 160, 20), (160, 60, 200), (20, 180, 190))
_log = logging.getLogger(__name__)

_Ring = NDArray[np.int64]  # (vertices, 2) as (x, y) in hundredths of a pixel, not closed


def write_rois(instances: Instances, file: BinaryIO) -> None:
    """Write the ROI zip that ImageJ and Fiji open: a polygon per object, as StarDist's `export_imagej_rois` does.

    A ROI is called ``001_<label>``. Coordinates are float32 (ImageJ's sub-pixel resolution); the date of
    every file is 1980-01-01 and none is compressed, so that the same instances give the same bytes.
    """
    width = max(3, len(str(len(instances))))
    whole = io.BytesIO()  # an archive goes back to fill in sizes after each entry, which is slow in a file
    with zipfile.ZipFile(whole, "w") as archive:
        archive.comment = ROIS_MARK
        for label, (outline, point) in enumerate(zip(instances.polygons(), instances.points, strict=True), start=1):
            name = f"001_{label:0{width}d}"
            entry = zipfile.ZipInfo(f"{name}.roi")  # its date is 1980-01-01 unless told otherwise
            entry.create_system = 3  # the same on every platform
            entry.external_attr = 0o644 << 16
            corners = outline if len(outline) >= 3 else _pixel_square(point)
            archive.writestr(entry, _roi(corners[:, ::-1] + np.float32(0.5), name))
    file.write(whole.getbuffer())


def write_geojson(
    instances: Instances, areas: NDArray[np.int64], class_names: Mapping[int, str], file: BinaryIO
) -> None:
    """Write the FeatureCollection that QuPath imports: a detection with a polygon per object, one per line.

    QuPath 0.6 and later refuse a whole file for one polygon that crosses or touches itself, so every ring written here
    is simple, also after rounding: such an outline becomes its largest simple part, else its convex hull, else the
    pixel that its point is in. Rings run counterclockwise in (x, y), as RFC 7946 asks.

    Parameters
    ----------
    instances : Instances
        The objects.
    areas : int64 (n,)
        Their pixels in the label image.
    class_names : mapping of int to str
        Name of each class that occurs. Class 0, background, is left unclassified.
    file : binary file
        Written feature by feature.
    """
    classes = instances.classes.tolist() if instances.classes is not None else [0] * len(instances)
    measures = zip(instances.scores.tolist(), areas.tolist(), strict=True)
    separator = GEOJSON_MARK
    for index, (ring, (score, area)) in enumerate(zip(_simple_rings(instances), measures, strict=True)):
        closed = np.concatenate([ring, ring[:1]]) / _PER_PIXEL
        coordinates = json.dumps([closed.tolist()], separators=(",", ":"))
        properties: dict[str, Any] = {"objectType": "detection"}
        if classes[index] > 0:
            colour = _CLASS_COLOURS[(classes[index] - 1) % len(_CLASS_COLOURS)]
            properties["classification"] = {"name": class_names[classes[index]], "color": colour}
        properties["measurements"] = {"label": index + 1, "score": round(score, 6), "area": area}
        feature = (
            f'{{"type":"Feature","id":"{uuid.uuid5(_NAMESPACE, f"{index} {coordinates}")}",'
            f'"geometry":{{"type":"Polygon","coordinates":{coordinates}}},'
            f'"properties":{json.dumps(properties, separators=(",", ":"))}}}'
        )
        file.write(separator + feature.encode())
        separator = b",\n"
    file.write((separator if len(instances) == 0 else b"") + b"\n]}\n")


def successors(offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each vertex the index of the next one in its ring."""
    following = np.arange(1, offsets[-1] + 1)
    begin, end = offsets[:-1], offsets[1:]
    following[end[end > begin] - 1] = begin[end > begin]
    return following


def _pixel_square(point: NDArray[np.float32]) -> NDArray[np.float32]:
    """The outline (y, x) of the pixel that a point is in: for an object without an area."""
    corners = np.array([(-0.5, -0.5), (-0.5, 0.5), (0.5, 0.5), (0.5, -0.5)], np.float32)
    return np.rint(point) + corners


def _roi(corners: NDArray[np.float32], name: str) -> bytes:
    """A polygon (x, y) in ImageJ's file format (ij.io.RoiDecoder, big endian), version 227."""
    rounded = np.rint(corners).astype(np.int64)
    (left, top), (right, bottom) = rounded.min(0), rounded.max(0)
    after_coordinates = 64 + len(corners) * (2 * 2 + 2 * 4)
    # 16 bits wrap beyond 32767, as ImageJ expects up to 60535; what it shows are the float coordinates anyway
    n = len(corners)
    header = struct.pack(
        ">4shBx4HHi28xH4xii",
        b"Iout",
        227,  # version
        0,  # type: polygon
        *(int(side) & 0xFFFF for side in (top, left, bottom, right)),
        n if n < 1 << 16 else 0,
        n if n >= 1 << 16 else 0,  # the number's second place
        128,  # options: sub-pixel resolution
        1,  # position: the first plane
        after_coordinates,  # where the second header is
    )
    relative = (rounded - (left, top)).T.astype(">u2").tobytes()
    exact = corners.T.astype(">f4").tobytes()
    second = struct.pack(">16xii40x", after_coordinates + 64, len(name))
    return b"".join((header, relative, exact, second, name.encode("utf-16-be")))


def _simple_rings(instances: Instances) -> Iterator[_Ring]:
    """A simple counterclockwise ring for each object."""
    coords, offsets = instances.rings
    points = np.rint((instances.points[:, ::-1].astype(np.float64) + 0.5) * _PER_PIXEL).astype(np.int64)
    vertices = np.rint((coords[:, ::-1].astype(np.float64) + 0.5) * _PER_PIXEL).astype(np.int64)
    owner = np.repeat(np.arange(len(instances)), np.diff(offsets))
    differs = np.any(vertices != vertices[successors(offsets)], axis=1)  # from the next vertex of its ring
    vertices, owner = vertices[differs], owner[differs]
    offsets = np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=len(instances)))])

    # A ring is simple if its edges run around the point in one sense, each by less than half a turn, in one turn in
    # all. That is a few exact integer operations per vertex, and true of every proper star.
    spokes = vertices - points[owner]
    following = spokes[successors(offsets)]
    backward = spokes[:, 0] * following[:, 1] <= spokes[:, 1] * following[:, 0]
    upward = (spokes[:, 1] < 0) & (following[:, 1] >= 0)
    turns = np.bincount(owner[upward], minlength=len(instances))
    proper = (turns == 1) & (np.bincount(owner[backward], minlength=len(instances)) == 0)
    repaired = 0
    for index, (begin, end) in enumerate(itertools.pairwise(offsets.tolist())):
        ring = vertices[begin:end]
        if not proper[index] and not _is_simple(ring):
            repaired += 1
            ring = _repair(ring)
            if len(ring) == 0:
                ring = np.rint((_pixel_square(instances.points[index])[:, ::-1] + 0.5) * _PER_PIXEL).astype(np.int64)
        yield ring if proper[index] or _area(ring) > 0 else ring[::-1]
    if repaired:
        _log.info("replaced %d of %d outlines that cross or touch themselves", repaired, len(instances))


def _area(ring: _Ring) -> int:
    """Twice the signed area, positive if counterclockwise."""
    following = np.roll(ring, -1, axis=0)
    return int(np.sum(ring[:, 0] * following[:, 1] - ring[:, 1] * following[:, 0]))


def _is_simple(ring: _Ring) -> bool:
    """Whether a ring without consecutive equal vertices has an area and neither crosses nor touches itself."""
    n = len(ring)
    if n < 3 or _area(ring) == 0:
        return False
    following = np.roll(ring, -1, axis=0)
    along = following - ring
    if not np.any(ring % _PER_PIXEL) and not np.any(np.all(along, axis=1)):  # along the edges of pixels
        steps = np.abs(along).max(axis=1) // _PER_PIXEL
        if steps.sum() <= _MOST_STEPS:
            return not _passes_a_corner_twice(ring // _PER_PIXEL, np.sign(along), steps)
    turned = np.roll(along, -1, axis=0)
    if np.any((_cross(along, turned) == 0) & (np.sum(along * turned, axis=1) < 0)):
        return False  # a spike: it goes back where it came from
    for i in range(n - 2):
        others = slice(i + 2, n - (i == 0))  # the edges that share no vertex with edge i
        a, b, p, q = ring[i], following[i], ring[others], following[others]
        from_ab = np.sign(_cross(b - a, p - a)) * np.sign(_cross(b - a, q - a))
        from_pq = np.sign(_cross(q - p, a - p)) * np.sign(_cross(q - p, b - p))
        overlap = np.all((np.minimum(p, q) <= np.maximum(a, b)) & (np.maximum(p, q) >= np.minimum(a, b)), axis=1)
        if np.any((from_ab <= 0) & (from_pq <= 0) & overlap):
            return False
    return True


def _passes_a_corner_twice(ring: _Ring, directions: NDArray[np.int64], steps: NDArray[np.int64]) -> bool:
    """Whether a ring along the edges of pixels touches itself; it is (x, y) in pixels here, with the steps of edges."""
    past = np.arange(steps.sum()) - np.repeat(np.cumsum(steps) - steps, steps)
    corners = np.repeat(ring, steps, axis=0) + np.repeat(directions, steps, axis=0) * past[:, None]
    corners = corners[np.lexsort(corners.T)]
    return bool(np.any(np.all(corners[1:] == corners[:-1], axis=1)))


def _cross(a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.int64]:
    """Cross product of vectors (x, y)."""
    product: NDArray[np.int64] = a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
    return product


def _repair(ring: _Ring) -> _Ring:
    """The largest simple part of a ring, cut where it comes back to a vertex; else its convex hull, or nothing."""
    parts: list[_Ring] = []
    path: list[tuple[int, int]] = []
    place: dict[tuple[int, int], int] = {}  # of each vertex in the path
    for x, y in ring.tolist():
        if (x, y) in place:
            begin = place[x, y]
            parts.append(np.array(path[begin:], np.int64).reshape(-1, 2))
            for vertex in path[begin:]:
                del place[vertex]
            del path[begin:]
        place[x, y] = len(path)
        path.append((x, y))
    parts.append(np.array(path, np.int64).reshape(-1, 2))
    largest = max(parts, key=lambda part: abs(_area(part)))
    if _is_simple(largest):
        return largest
    hull: list[tuple[int, int]] = []
    corners = sorted(set(map(tuple, ring.tolist())))  # Andrew's monotone chain: the lower side, then the upper one
    for side in (corners, corners[::-1]):
        chain: list[tuple[int, int]] = []
        for x, y in side:
            while len(chain) > 1 and _left_turn(chain[-2], chain[-1], (x, y)) <= 0:
                chain.pop()
            chain.append((x, y))
        hull += chain[:-1]
    return np.array(hull if len(hull) > 2 else [], np.int64).reshape(-1, 2)


def _left_turn(a: tuple[int, int], b: tuple[int, int], c: tuple[int, int]) -> int:
    """Positive if a, b, c turn left."""
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
