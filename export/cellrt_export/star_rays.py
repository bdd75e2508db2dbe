"""The rays of a StarDist 3D model: what `rays_json` in its config.json names -> directions and the triangles between.

Passes the door: a JSON object with the name of one of StarDist's factories and its arguments. Nothing is evaluated (the
original evaluates the name), and a name outside the known ones is an error. Comes out: a `RaysSpec`, its directions the
float32 numbers of the original, its faces the same triangles, though not in the same order.
Source: Weigert et al., "Star-convex Polyhedra for 3D Object Detection and Segmentation in Microscopy", WACV 2020;
StarDist's `rays3d`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellrt.errors import ModelError
from cellrt.manifest import RaysSpec

Anisotropy = tuple[float, float, float]  # size of a pixel along z, y, x
Points = NDArray[np.float64]  # (n, 3), (z, y, x)
Faces = list[tuple[int, int, int]]

_MOST_RAYS = 1024
_TETRAHEDRON: Points = np.array(
    [
        [math.sqrt(8 / 9), 0, -1 / 3],
        [-math.sqrt(2 / 9), math.sqrt(2 / 3), -1 / 3],
        [-math.sqrt(2 / 9), -math.sqrt(2 / 3), -1 / 3],
        [0, 0, 1],
    ]
)
_OCTAHEDRON: Points = np.array([[0, 0, 1], [0, 1, 0], [0, 0, -1], [0, -1, 0], [1, 0, 0], [-1, 0, 0]], np.float64)


def rays(data: object, anisotropy: Anisotropy | None) -> RaysSpec:
    """Make the rays that `rays_json` describes.

    Parameters
    ----------
    data : object
        A JSON object with `name` and `kwargs`.
    anisotropy : (float, float, float), optional
        The model's, which a spiral takes that states none of its own, as in StarDist.

    Raises
    ------
    ModelError
        If it is none of StarDist's kinds of rays, an argument is out of range, or the triangles do not cover every
        direction once.
    """
    name = data.get("name") if isinstance(data, Mapping) else None
    arguments = data.get("kwargs", {}) if isinstance(data, Mapping) else None
    if not isinstance(name, str) or not isinstance(arguments, Mapping):
        raise ModelError(
            f"expected rays_json in config.json to be a name and its kwargs, got {_short(data)}; use the config.json "
            "StarDist wrote"
        )
    if name not in _KINDS:
        raise ModelError(
            f"expected rays out of {', '.join(_KINDS)}, got {_short(name)} in config.json; use the config.json "
            "StarDist wrote"
        )
    allowed, make = _KINDS[name]
    if unknown := sorted(set(arguments) - set(allowed)):
        raise _wrong(name, f"to take {', '.join(allowed)}", unknown)
    points, faces = make(arguments, anisotropy)
    vertices = points.astype(np.float32).tolist()
    return RaysSpec(name=name, vertices=tuple((z, y, x) for z, y, x in vertices), faces=tuple(faces))


def pixel_sizes(value: object, where: str) -> Anisotropy | None:
    """Check an `anisotropy` of config.json: null, or three positive numbers. Raises `ModelError`."""
    if value is None:
        return None
    if isinstance(value, list) and len(value) == 3 and all(_is_number(size) and 1e-3 <= size <= 1e3 for size in value):
        return float(value[0]), float(value[1]), float(value[2])
    raise ModelError(
        f"expected {where} in config.json to be null or three numbers from 0.001 to 1000 (z, y, x), got "
        f"{_short(value)}; use the config.json StarDist wrote"
    )


def _golden_spiral(arguments: Mapping[str, Any], anisotropy: Anisotropy | None) -> tuple[Points, Faces]:
    """Points at even steps along z, each turned by the golden angle; seen in pixels, so nearer where these are long."""
    n = _whole(
        arguments.get("n", 70), "Rays_GoldenSpiral", "n", 5, _MOST_RAYS
    )  # of 4, two and the origin are on a line
    sizes = pixel_sizes(arguments.get("anisotropy"), "the anisotropy of rays_json") or anisotropy
    angle = (3 - np.sqrt(5)) * np.pi * np.arange(n)
    z = np.linspace(-1, 1, n)
    radius = np.sqrt(1 - z**2)
    points = np.stack([z, radius * np.sin(angle), radius * np.cos(angle)], axis=1)
    faces = _hull(points)  # of the ball: stretching it along its axes changes no triangle of its hull
    if sizes is not None:
        points = points / np.array(sizes)
    return points / np.linalg.norm(points, axis=1, keepdims=True), faces


def _tetra(arguments: Mapping[str, Any], anisotropy: Anisotropy | None) -> tuple[Points, Faces]:
    """A tetrahedron, its faces split into four again and again."""
    n_level = _whole(arguments.get("n_level", 4), "Rays_Tetra", "n_level", 1, 5)  # 4, 10, 34, 130, 514 rays
    return _split(_TETRAHEDRON, [(0, 1, 2), (0, 3, 1), (0, 2, 3), (1, 3, 2)], n_level - 1)


def _octo(arguments: Mapping[str, Any], anisotropy: Anisotropy | None) -> tuple[Points, Faces]:
    """An octahedron, its faces split into four again and again."""
    n_level = _whole(arguments.get("n_level", 4), "Rays_Octo", "n_level", 1, 4)  # 6, 18, 66, 258 rays
    equator = ((0, 1), (1, 2), (2, 3), (3, 0))
    faces = [face for a, b in equator for face in ((a, b, 4), (a, 5, b))]
    return _split(_OCTAHEDRON, faces, n_level - 1)


def _cartesian(arguments: Mapping[str, Any], anisotropy: Anisotropy | None) -> tuple[Points, Faces]:
    """Rings of rays from pole to pole: a grid of two angles.

    At either pole a whole ring of rays has one direction, but for 1e-12, and each its own length. The step before the
    last pole is twice as long as the others. Single precision as in the original on NumPy 2, last digits included.
    """
    n_x = _whole(arguments.get("n_rays_x", 11), "Rays_Cartesian", "n_rays_x", 3, _MOST_RAYS // 3)
    n_z = _whole(arguments.get("n_rays_z", 5), "Rays_Cartesian", "n_rays_z", 3, _MOST_RAYS // 3)
    if n_x * n_z > _MOST_RAYS:
        raise _wrong("Rays_Cartesian", f"to have at most {_MOST_RAYS} rays, n_rays_x * n_rays_z", n_x * n_z)
    around = np.arange(n_x, dtype=np.float32) * np.float32(2 * np.pi / n_x)
    down = np.arange(n_z, dtype=np.float32) * np.float32(np.pi / n_z)
    unit = np.stack([np.sin(around), np.cos(around)], axis=1)
    points = np.empty((n_z, n_x, 3))
    points[..., 0] = np.cos(down)[:, None]
    points[..., 1:] = np.sin(down)[:, None, None] * unit
    for ring, angle in ((0, 1e-12), (-1, np.pi - 1e-12)):
        points[ring, :, 0] = np.cos(angle)
        points[ring, :, 1:] = np.sin(angle) * unit.astype(np.float64) + 1e-12
    faces: Faces = []
    for ring in range(0, (n_z - 1) * n_x, n_x):
        for k in range(n_x):
            a, b = ring + k, ring + (k + 1) % n_x
            faces += [(a, b + n_x, b), (a, a + n_x, b + n_x)]
    return points.reshape(-1, 3), faces


def _explicit(arguments: Mapping[str, Any], anisotropy: Anisotropy | None) -> tuple[Points, Faces]:
    """Directions and triangles as they are given."""
    vertices = _table(arguments.get("vertices0"), _is_number)
    faces = _table(arguments.get("faces0"), lambda item: type(item) is int)
    if vertices is None or faces is None:
        raise _wrong("Rays_Explicit", "to have vertices0 and faces0, lists of three numbers each", [*arguments])
    return np.array(vertices, np.float64), [(a, b, c) for a, b, c in faces]


# name: (arguments, function of them and of the model's anisotropy)
_KINDS: dict[str, tuple[tuple[str, ...], Callable[[Mapping[str, Any], Anisotropy | None], tuple[Points, Faces]]]] = {
    "Rays_GoldenSpiral": (("n", "anisotropy"), _golden_spiral),
    "Rays_Tetra": (("n_level",), _tetra),
    "Rays_Octo": (("n_level",), _octo),
    "Rays_Cartesian": (("n_rays_x", "n_rays_z"), _cartesian),
    "Rays_Explicit": (("vertices0", "faces0"), _explicit),
}


def _split(points: Points, faces: Faces, times: int) -> tuple[Points, Faces]:
    """Split each triangle into four at the middles of its edges, which move out to the unit sphere."""
    corners = list(points)
    for _ in range(times):
        middles: dict[tuple[int, int], int] = {}

        def middle(a: int, b: int, middles: dict[tuple[int, int], int] = middles) -> int:
            edge = (min(a, b), max(a, b))
            if edge not in middles:
                between = (corners[a] + corners[b]) * 0.5
                middles[edge] = len(corners)
                corners.append(between * (1 / np.linalg.norm(between)))
            return middles[edge]

        smaller: Faces = []
        for a, b, c in faces:
            ab, bc, ca = middle(a, b), middle(b, c), middle(c, a)
            smaller += [(a, ab, ca), (b, bc, ab), (c, ca, bc), (ab, bc, ca)]
        faces = smaller
    return np.array(corners), faces


def _hull(points: Points) -> Faces:
    """Triangles of the convex hull of points on the unit sphere, each of negative determinant; point by point.

    No four neighbours on a spiral come near to one plane, so the signs of float64 volumes are those of the points.
    """
    a, b, c, d = range(4)
    if np.linalg.det(points[[b, c, d]] - points[a]) < 0:
        c, d = d, c
    faces = np.array([(a, b, c), (a, c, d), (a, d, b), (b, d, c)])
    for new in range(4, len(points)):
        corners = points[faces] - points[new]
        seen = np.linalg.det(corners) > 0
        # the rim of what is seen: edges whose other face is not
        lit = faces[seen]
        edges = np.concatenate([lit[:, [0, 1]], lit[:, [1, 2]], lit[:, [2, 0]]]).tolist()
        reverse = {(end, begin) for begin, end in edges}
        rim = [(begin, end, new) for begin, end in edges if (begin, end) not in reverse]
        faces = np.concatenate([faces[~seen], np.array(rim)])
    return [(a, b, c) for a, b, c in faces.tolist()]


def _whole(value: object, kind: str, key: str, low: int, high: int) -> int:
    """A whole number within limits."""
    if type(value) is not int or not low <= value <= high:
        raise _wrong(kind, f"to have {key}, a whole number {low}..{high}", value)
    return value


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300  # JSON has any


def _table(value: object, fits: Callable[[object], bool]) -> list[list[Any]] | None:
    """A list of lists of three values that fit, at least one and no more than rays or faces can be; None otherwise."""
    if not isinstance(value, list) or not 1 <= len(value) <= 2 * _MOST_RAYS:
        return None
    return value if all(isinstance(row, list) and len(row) == 3 and all(map(fits, row)) for row in value) else None


def _wrong(kind: str, wanted: str, got: object) -> ModelError:
    return ModelError(f"expected {kind} in config.json {wanted}, got {_short(got)}; use the config.json StarDist wrote")


def _short(value: object) -> str:
    """A value as a message shows it: a file can hold any."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
