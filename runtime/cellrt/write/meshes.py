"""Surfaces of star-convex bodies for programs that show meshes: PLY and OBJ, all objects in one file.

Coordinates are x, y, z in voxels, voxel centres at integers, as in the table and in StarDist's own OBJ files: a mesh
lies in place over a volume whose first voxel is centred at the origin. Triangles are counterclockwise seen from
outside. Bodies are whole here, also where others cover them in the label image.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from cellrt.errors import CellrtError
from cellrt.instances import Instances, Polyhedra

PLY_MARK = b"comment surfaces by cellrt\n"
OBJ_MARK = b"# surfaces by cellrt\n"
_VERTICES_AT_ONCE = 1 << 18
_PLY_VERTEX = np.dtype([("place", "<f4", 3), ("colour", "u1", 3), ("label", "<i4")])
_PLY_FACE = np.dtype([("count", "u1"), ("corners", "<i4", 3)])
_GOLDEN = (5**0.5 - 1) / 2  # of a turn: hues of successive labels, and of any run of them, lie far apart


def write_ply(instances: Instances, file: BinaryIO) -> None:
    """Write a binary PLY file: every vertex with a colour and with the label of its object."""
    polyhedra = _polyhedra(instances)
    n, n_rays = polyhedra.dist.shape
    if n * n_rays > np.iinfo(np.int32).max:
        raise CellrtError(
            f"expected at most {np.iinfo(np.int32).max} vertices in a PLY file, got {n * n_rays}; save as 'obj'"
        )
    file.write(
        b"ply\nformat binary_little_endian 1.0\n"
        + PLY_MARK
        + f"element vertex {n * n_rays}\n"
        "property float x\nproperty float y\nproperty float z\n"
        "property uchar red\nproperty uchar green\nproperty uchar blue\nproperty int label\n"
        f"element face {n * len(polyhedra.faces)}\nproperty list uchar int vertex_indices\nend_header\n".encode()
    )
    for begin, vertices in _blocks(instances, polyhedra):
        records = np.empty(vertices.shape[:2], _PLY_VERTEX)
        labels = np.arange(begin + 1, begin + 1 + len(vertices))
        records["place"] = vertices
        records["colour"] = _colours(labels)[:, None]
        records["label"] = labels[:, None]
        file.write(records.data)
    for begin, vertices in _blocks(instances, polyhedra):
        faces = np.empty((len(vertices), len(polyhedra.faces)), _PLY_FACE)
        faces["count"] = 3
        faces["corners"] = _corners(begin, len(vertices), polyhedra)
        file.write(faces.data)


def write_obj(instances: Instances, file: BinaryIO) -> None:
    """Write a Wavefront OBJ file: an object per label, called ``label_7``, with coordinates in thousandths."""
    polyhedra = _polyhedra(instances)
    n_rays, n_faces = len(polyhedra.rays), len(polyhedra.faces)
    file.write(OBJ_MARK)
    # One conversion for the text of an object: a call per number, or per line, would take several times as long.
    template = "o label_%d\n" + n_rays * "v %.3f %.3f %.3f\n" + n_faces * "f %d %d %d\n"
    for begin, vertices in _blocks(instances, polyhedra):
        corners = _corners(begin, len(vertices), polyhedra).reshape(len(vertices), -1) + 1
        places = vertices.reshape(len(vertices), -1) + np.float32(0)  # no -0
        texts = (
            template % (label, *place, *corner)
            for label, (place, corner) in enumerate(zip(places.tolist(), corners.tolist(), strict=True), begin + 1)
        )
        file.write("".join(texts).encode())


def _polyhedra(instances: Instances) -> Polyhedra:
    """The bodies, which `write` has made sure of."""
    assert instances.polyhedra is not None
    return instances.polyhedra


def _blocks(instances: Instances, polyhedra: Polyhedra) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Runs of objects: the index of the first, and the vertices x, y, z of all, float32 (objects, n_rays, 3)."""
    size = max(1, _VERTICES_AT_ONCE // max(1, len(polyhedra.rays)))
    for begin in range(0, len(polyhedra), size):
        dist, points = polyhedra.dist[begin : begin + size], instances.points[begin : begin + size]
        vertices = points[:, None] + dist[:, :, None] * polyhedra.rays
        yield begin, vertices[:, :, ::-1]


def _corners(begin: int, n: int, polyhedra: Polyhedra) -> NDArray[np.int64]:
    """The vertices at the corners of the triangles of n objects, counted over the whole file; (n, n_faces, 3)."""
    first = np.arange(begin, begin + n, dtype=np.int64) * len(polyhedra.rays)
    return first[:, None, None] + polyhedra.faces


def _colours(labels: NDArray[np.int64]) -> NDArray[np.uint8]:
    """A bright colour for each label, uint8 (n, 3): hues a golden section of the circle apart."""
    hue = labels * _GOLDEN % 1
    rise = np.abs((hue[:, None] * 6 + np.array([0, 4, 2])) % 6 - 3) - 1
    colours: NDArray[np.uint8] = (55 + 200 * np.clip(rise, 0, 1)).astype(np.uint8)
    return colours
