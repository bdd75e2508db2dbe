"""The manifest: what a model file says about itself.

JSON in ``metadata_props["cellrt"]`` of the ONNX file <-> frozen dataclasses, validated when they are built. Unknown
keys are ignored with a warning, so an older cellrt reads a newer file of the same schema; a missing required key is an
error. Knows no arrays, no onnx and no onnxruntime.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import logging
import math
import types
import typing
from dataclasses import dataclass, field
from typing import Any, Self

from cellrt.errors import ModelError

SCHEMA = 1
METADATA_KEY = "cellrt"  # the key of the manifest among an ONNX file's metadata_props
FLOW_TILES = ("upstream", "large")
DYNAMICS = ("v3", "v4")  # whose post-processing a flow model needs: Cellpose 1 to 3, or 4
AXES = ("YX", "ZYX")  # of what a network takes: images or volumes

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class InputSpec:
    """What the network takes: float32 (N, C, Y, X) or (N, C, Z, Y, X), named `image` in the graph."""

    n_channels: int  # C
    axes: str = "YX"  # spatial axes, in order: "YX" or "ZYX"

    def __post_init__(self) -> None:
        _require(self.n_channels >= 1, "input.n_channels", "at least 1", self.n_channels)
        _require(self.axes in AXES, "input.axes", f"one of {', '.join(AXES)}", self.axes)


@dataclass(frozen=True)
class PercentileSpec:
    """(image - low) / (high - low + eps), low and high being percentiles of the image (csbdeep's `normalize`)."""

    low: float = 1.0  # percent
    high: float = 99.8  # percent
    joint: bool = True  # percentiles over all channels together, or of each channel
    eps: float = 1e-20
    kind: str = "percentile"

    def __post_init__(self) -> None:
        _require(0 <= self.low < self.high <= 100, "percentiles", "0 <= low < high <= 100", (self.low, self.high))
        _require(0 <= self.eps < 1, "normalize.eps", "a number in [0, 1)", self.eps)


@dataclass(frozen=True)
class Normalize99Spec:
    """(image - low) / (high - low) of each channel, with what Cellpose offers around it (its `normalize_img`)."""

    low: float = 1.0  # percent
    high: float = 99.0  # percent
    lowhigh: tuple[float, ...] | None = None  # grey values instead of percentiles: low, high of all or of each channel
    smooth_radius: float = 0.0  # pixels; 0: off
    sharpen_radius: float = 0.0  # pixels; 0: off
    tile_blocksize: int = 0  # pixels; percentiles of blocks of this side instead of the whole image; 0: off
    invert: bool = False  # 1 - image afterwards, for dark cells on a bright ground
    rules: str = (
        "v3"  # v3 leaves a constant channel as it is and does not invert after blocks; v4 sets it to 0 and does
    )
    kind: str = "normalize99"

    def __post_init__(self) -> None:
        _require(0 <= self.low < self.high <= 100, "percentiles", "0 <= low < high <= 100", (self.low, self.high))
        if self.lowhigh is not None:
            pairs = list(zip(self.lowhigh[::2], self.lowhigh[1::2], strict=False))
            rising = len(self.lowhigh) % 2 == 0 and pairs and all(low < high for low, high in pairs)
            _require(bool(rising), "normalize.lowhigh", "pairs of rising grey values", self.lowhigh)
        for name, value in (("smooth_radius", self.smooth_radius), ("sharpen_radius", self.sharpen_radius)):
            is_radius = isinstance(value, (int, float)) and 0 <= value <= 1e6
            _require(is_radius, f"normalize.{name}", "a number from 0 to 1e6", value)
        is_side = isinstance(self.tile_blocksize, int) and 0 <= self.tile_blocksize <= 1 << 30
        _require(is_side, "normalize.tile_blocksize", "a whole number from 0 to 2^30", self.tile_blocksize)
        _require(self.rules in DYNAMICS, "normalize.rules", f"one of {', '.join(DYNAMICS)}", self.rules)


@dataclass(frozen=True)
class TileSpec:
    """Which input sizes are legal, and how far a pixel's influence reaches; (y, x) or (z, y, x) in pixels."""

    multiple: tuple[int, ...]  # sides of the input are multiples of this
    receptive_field: tuple[int, ...]  # measured by an impulse, as StarDist's `_axes_tile_overlap` does
    halo: tuple[int, ...]  # bound from the layers: beyond it, output does not know of a cut at a multiple of `multiple`

    def __post_init__(self) -> None:
        lengths = (len(self.multiple), len(self.receptive_field), len(self.halo))
        _require(lengths in ((2,) * 3, (3,) * 3), "tile", "two or three numbers of each kind", lengths)
        _require(all(1 <= m <= 4096 for m in self.multiple), "tile.multiple", "1..4096 per axis", self.multiple)
        _require(all(0 <= h <= 65536 for h in self.halo), "tile.halo", "0..65536 per axis", self.halo)
        _require(min(self.receptive_field) >= 0, "tile.receptive_field", "no negative", self.receptive_field)


@dataclass(frozen=True)
class MemorySpec:
    """How much memory the network needs on a CPU: as computed by the exporter, within a fifth of what it takes."""

    bytes_per_pixel: float  # of what a run reads: all that is alive at once between the layers, input and output too
    weights: int  # bytes that opening the file leaves in memory

    def __post_init__(self) -> None:
        _require(1 <= self.bytes_per_pixel <= 1e9, "memory.bytes_per_pixel", "1..1e9", self.bytes_per_pixel)
        _require(0 <= self.weights <= 1 << 50, "memory.weights", "0..2^50 bytes", self.weights)


@dataclass(frozen=True)
class StarSpec:
    """The `star` head: the maps are probability, n_rays lengths in pixels, then n_classes + 1 class probabilities."""

    n_rays: int
    grid: tuple[int, int]  # pixels per map sample, (y, x)
    prob_thresh: float
    nms_thresh: float
    n_classes: int | None = None  # without background; None: the network tells no classes apart
    border: int = 2  # samples at each edge of the map in which no candidate is taken
    class_names: tuple[str, ...] | None = None
    kind: str = "star"

    def __post_init__(self) -> None:
        _require_star(self)

    @property
    def n_class_channels(self) -> int:
        """Channels of the maps that hold class probabilities."""
        return 0 if self.n_classes is None else self.n_classes + 1

    @property
    def n_maps(self) -> int:
        """Channels of the maps."""
        return 1 + self.n_rays + self.n_class_channels


@dataclass(frozen=True)
class RaysSpec:
    """The rays of a 3D star head: where they point, and the triangles between them, which cover each direction once.

    They are a closed surface round the origin, which may only be open between rays of one direction, such as
    Rays_Cartesian has at either pole. An object with the lengths `dist` has the corners
    ``point + dist[k] * vertices[k]``. The numbers are float32, which JSON gives back exactly.
    Source: StarDist's `rays3d`.
    """

    name: str  # StarDist's: "Rays_GoldenSpiral", ...
    vertices: tuple[tuple[float, float, float], ...]  # (z, y, x) in pixels per pixel of length, one per ray
    faces: tuple[tuple[int, int, int], ...]  # indices of vertices, ordered so that their determinant is negative

    def __post_init__(self) -> None:
        n = len(self.vertices)
        _require(4 <= n <= 1024, "rays.vertices", "4..1024 of them", n)
        for vertex in self.vertices:
            _require(
                all(map(math.isfinite, vertex)) and 1e-3 <= math.hypot(*vertex) <= 1e3,
                "rays.vertices",
                "of a length from 0.001 to 1000",
                vertex,
            )
        n_faces = len(self.faces)
        _require(n_faces <= 2 * n - 4, "rays.faces", f"at most {2 * n - 4} triangles for {n} rays", n_faces)
        edges: set[tuple[int, ...]] = set()
        for face in self.faces:
            _require(all(0 <= corner < n for corner in face), "rays.faces", f"indices below {n}", face)
            _require(_determinant(*(self.vertices[k] for k in face)) < 0, "rays.faces", "of negative determinant", face)
            edges.update(itertools.pairwise((*face, face[0])))
        units = [tuple(at / math.hypot(*vertex) for at in vertex) for vertex in self.vertices]
        # as many directed edges as corners, and each beside its reverse: every edge belongs to exactly two faces, or is
        # a point as seen from the origin
        closed = len(edges) == 3 * n_faces and all(
            (end, begin) in edges or math.dist(units[begin], units[end]) < 1e-6 for begin, end in edges
        )
        _require(closed, "rays.faces", "a closed surface", "edges that do not belong to two faces, one in each sense")
        bare = sorted(set(range(n)).difference(begin for begin, _ in edges))
        _require(not bare, "rays.faces", "triangles with a corner at every ray", f"none at {bare[:5]}")
        # such a surface could still go round the origin several times
        turns = sum(_solid_angle(*(units[k] for k in face)) for face in self.faces) / (4 * math.pi)
        _require(abs(turns - 1) < 1e-3, "rays.faces", "once round the origin", f"{turns:.3f} times")


@dataclass(frozen=True)
class Star3DSpec:
    """The `star3d` head: as `star`, with rays in space: probability, n_rays lengths, n_classes + 1 probabilities."""

    n_rays: int
    grid: tuple[int, int, int]  # pixels per map sample, (z, y, x)
    prob_thresh: float
    nms_thresh: float
    rays: RaysSpec
    anisotropy: tuple[float, float, float] | None  # size of a pixel in z, y and x, in some unit; None: not stated
    n_classes: int | None = None  # without background; None: the network tells no classes apart
    border: int = 2  # samples at each face of the map in which no candidate is taken
    class_names: tuple[str, ...] | None = None
    kind: str = "star3d"

    def __post_init__(self) -> None:
        _require_star(self)
        n_vertices = len(self.rays.vertices)
        _require(n_vertices == self.n_rays, "rays.vertices", f"{self.n_rays} of them, one per ray", n_vertices)
        if self.anisotropy is not None:
            sizes = all(1e-3 <= size <= 1e3 for size in self.anisotropy)
            _require(sizes, "head.anisotropy", "numbers from 0.001 to 1000", self.anisotropy)

    @property
    def n_class_channels(self) -> int:
        """Channels of the maps that hold class probabilities."""
        return 0 if self.n_classes is None else self.n_classes + 1

    @property
    def n_maps(self) -> int:
        """Channels of the maps."""
        return 1 + self.n_rays + self.n_class_channels


@dataclass(frozen=True)
class SizeModelSpec:
    """Cellpose's size model: diameter = max(5, diam_mean * exp(weights . (style - style_mean) + offset)) pixels."""

    weights: tuple[float, ...]
    style_mean: tuple[float, ...]
    diam_mean: float  # pixels
    offset: float

    def __post_init__(self) -> None:
        n = len(self.weights)
        _require(
            n >= 1 and len(self.style_mean) == n, "size_model", "as many means as weights", (n, len(self.style_mean))
        )
        _require(0 < self.diam_mean < 1e4, "size_model.diam_mean", "a number of pixels in (0, 10000)", self.diam_mean)


@dataclass(frozen=True)
class FlowSpec:
    """The `flow` head: the maps are the y and x components of the flow (5 per pixel and step) and the cell logit."""

    dynamics: str  # "v3" or "v4": whose integration, quality control and cleaning
    diam_mean: float  # pixels: the diameter of objects as the network was trained to see them
    diam_labels: float  # pixels: mean diameter of the objects it was trained on; what an unknown diameter is taken for
    tile: int  # pixels: side of upstream's tiles
    fixed_tile: bool = False  # the network takes inputs of exactly that side
    n_style: int = 0  # length of the second output, `style` (N, n_style); 0: there is none
    flow_threshold: float = 0.4  # largest error of a mask's flow
    cellprob_threshold: float = 0.0  # least logit of a pixel inside a cell
    min_size: int = 15  # pixels of a mask
    tiles: str = "upstream"  # "upstream" or "large": which tiles the network gets unless told otherwise
    resample: bool = True  # follow the flow at the image's resolution unless told otherwise, not at the network's
    size_model: SizeModelSpec | None = None
    kind: str = "flow"

    def __post_init__(self) -> None:
        _require(self.dynamics in DYNAMICS, "head.dynamics", f"one of {', '.join(DYNAMICS)}", self.dynamics)
        _require(0 < self.diam_mean < 1e4, "head.diam_mean", "a number of pixels in (0, 10000)", self.diam_mean)
        _require(0 < self.diam_labels < 1e4, "head.diam_labels", "a number of pixels in (0, 10000)", self.diam_labels)
        _require(64 <= self.tile <= 4096, "head.tile", "64..4096", self.tile)
        _require(0 <= self.n_style <= 65536, "head.n_style", "0..65536", self.n_style)
        _require(self.tiles in FLOW_TILES, "head.tiles", f"one of {', '.join(FLOW_TILES)}", self.tiles)
        _require(
            not (self.fixed_tile and self.tiles == "large"), "head.tiles", '"upstream" with fixed_tile', self.tiles
        )
        _require(self.flow_threshold >= 0, "head.flow_threshold", "at least 0", self.flow_threshold)
        _require(-1 <= self.min_size <= 1 << 40, "head.min_size", "-1..2^40", self.min_size)  # -1: off, upstream's way
        if self.size_model is not None:
            n_weights = len(self.size_model.weights)
            _require(n_weights == self.n_style, "size_model", f"{self.n_style} weights, one per style value", n_weights)
            _require(self.dynamics == "v3", "size_model", "null for Cellpose 4", "one")

    @property
    def grid(self) -> tuple[int, int]:
        """Pixels per sample of the maps."""
        return (1, 1)

    @property
    def n_maps(self) -> int:
        """Channels of the maps."""
        return 3


@dataclass(frozen=True)
class SourceSpec:
    """Where the weights came from."""

    upstream: str  # "stardist", "cellrt"
    name: str  # of the folder or file that was exported
    sha256: str  # of the weights file
    licence: str = "not stated"
    exporter: str = ""  # "cellrt 0.1.0"


@dataclass(frozen=True)
class SelfTestSpec:
    """A recipe of an input and what must come out: `cellrt selftest` qualifies an installation with it.

    The input is ``cellrt.selftest.recipe(n_channels, shape)``, not normalised. `digest` is the sha256 of the float32
    maps as they came out of the exporting machine's CPU; other processors round differently, so the means and the
    number of objects decide, and the digest tells whether even the bits agree.
    """

    shape: tuple[int, ...]  # (y, x) or (z, y, x) of the input, a legal size
    digest: str
    means: tuple[float, ...]  # mean of each map
    n_objects: int  # found with the model's own thresholds
    tolerance: float = 1e-3  # largest difference of a mean, relative to max(1, its magnitude)

    def __post_init__(self) -> None:
        _require(all(1 <= side <= 4096 for side in self.shape), "selftest.shape", "1..4096 per axis", self.shape)
        _require(all(math.isfinite(mean) for mean in self.means), "selftest.means", "finite", self.means)
        _require(self.n_objects >= 0, "selftest.n_objects", "at least 0", self.n_objects)
        _require(0 < self.tolerance < 1, "selftest.tolerance", "a number in (0, 1)", self.tolerance)


@dataclass(frozen=True)
class Manifest:
    """Everything a model file says about itself."""

    name: str
    head: StarSpec | FlowSpec | Star3DSpec
    input: InputSpec
    normalize: PercentileSpec | Normalize99Spec
    tile: TileSpec
    source: SourceSpec
    selftest: SelfTestSpec | None = None
    memory: MemorySpec | None = None
    description: str = ""
    schema: int = field(default=SCHEMA)

    def __post_init__(self) -> None:
        grid, multiple, n_axes = self.head.grid, self.tile.multiple, len(self.input.axes)
        axes = AXES[len(grid) - 2]
        _require(self.input.axes == axes, "input.axes", f"{axes!r} for a {self.head.kind} head", self.input.axes)
        _require(len(multiple) == n_axes, "tile", f"{n_axes} numbers of each kind, one per axis", len(multiple))
        divides = all(m % g == 0 for m, g in zip(multiple, grid, strict=True))
        _require(divides, "tile.multiple", f"a multiple of the grid {grid}", multiple)
        if self.selftest is not None:
            n_means = len(self.selftest.means)
            _require(n_means == self.head.n_maps, "selftest.means", f"{self.head.n_maps} numbers", n_means)
            shape = self.selftest.shape
            _require(len(shape) == n_axes, "selftest.shape", f"{n_axes} numbers, one per axis", shape)

    def to_json(self) -> str:
        """The manifest as the JSON text that goes into the file."""
        return json.dumps(dataclasses.asdict(self), indent=1, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read a manifest. Raises `ModelError` if it is not one, or of a newer schema."""
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ModelError(f"expected a manifest in JSON, got {error}; export the model again") from error
        if not isinstance(data, dict) or not isinstance(data.get("schema"), int):
            raise ModelError("expected a manifest with a schema number, got none; export the model again")
        if not 1 <= data["schema"] <= SCHEMA:
            raise ModelError(f"expected a manifest of schema 1 to {SCHEMA}, got {data['schema']}; upgrade cellrt")
        manifest: Self = _build(cls, data, "manifest")
        return manifest


def pair(values: tuple[int, ...]) -> tuple[int, int]:
    """The two numbers (y, x) that a 2D model has of what 3D models have three of. Raises `ModelError` otherwise."""
    _require(len(values) == 2, "a pair of numbers in the manifest", "two, (y, x)", values)
    return values[0], values[1]


def triple(values: tuple[int, ...]) -> tuple[int, int, int]:
    """The three numbers (z, y, x) of a 3D model; the rest as of `pair`."""
    _require(len(values) == 3, "a triple of numbers in the manifest", "three, (z, y, x)", values)
    return values[0], values[1], values[2]


def _require_star(head: StarSpec | Star3DSpec) -> None:
    """What 2D and 3D star heads have in common."""
    _require(3 <= head.n_rays <= 1024, "head.n_rays", "3..1024", head.n_rays)
    _require(all(1 <= g <= 256 for g in head.grid), "head.grid", "1..256 per axis", head.grid)
    _require(0 < head.prob_thresh < 1, "head.prob_thresh", "a number in (0, 1)", head.prob_thresh)
    _require(0 <= head.nms_thresh <= 1, "head.nms_thresh", "a number in [0, 1]", head.nms_thresh)
    _require(head.n_classes is None or head.n_classes >= 1, "head.n_classes", "null or at least 1", head.n_classes)
    _require(0 <= head.border <= 64, "head.border", "0..64", head.border)
    if head.class_names is not None:
        _require(len(head.class_names) == head.n_classes, "head.class_names", "one per class", head.class_names)


def _determinant(a: tuple[float, ...], b: tuple[float, ...], c: tuple[float, ...]) -> float:
    """Six times the signed volume of the tetrahedron between the origin and three points."""
    return a[0] * (b[1] * c[2] - b[2] * c[1]) + a[1] * (b[2] * c[0] - b[0] * c[2]) + a[2] * (b[0] * c[1] - b[1] * c[0])


def _solid_angle(a: tuple[float, ...], b: tuple[float, ...], c: tuple[float, ...]) -> float:
    """What a triangle between three unit vectors of negative determinant covers of the sphere (Van Oosterom, 1983)."""
    dot = sum(x * y + y * z + z * x for x, y, z in zip(a, b, c, strict=True))
    return 2 * math.atan2(-_determinant(a, b, c), 1 + dot)


def _require(condition: bool, key: str, want: str, got: object) -> None:
    """Raise unless the condition holds."""
    if not condition:
        raise ModelError(f"expected {key} to be {want}, got {got!r}; correct it, or export the model again")


def _build(cls: type, data: object, path: str) -> Any:
    """A dataclass from a JSON object: nested dataclasses, tuples and optional values by the fields' types."""
    if not isinstance(data, dict):
        raise ModelError(f"expected {path} to be a JSON object, got {type(data).__name__}; export the model again")
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}
    if unknown := sorted(set(data) - set(fields)):
        _log.warning("%s: ignoring unknown keys %s (a newer cellrt may have written them)", path, ", ".join(unknown))
    required = {
        name
        for name, f in fields.items()
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    }
    if missing := sorted(required - set(data)):
        raise ModelError(f"expected {path} to have {', '.join(missing)}, got no such key; export the model again")
    return cls(**{name: _value(hints[name], data[name], f"{path}.{name}") for name in fields if name in data})


def _value(hint: Any, value: object, path: str) -> Any:
    """A JSON value as the type `hint` says, or `ModelError`."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):  # "X | None", or several dataclasses that say of which kind they are
        choices = [argument for argument in arguments if argument is not types.NoneType]
        if value is None and len(choices) < len(arguments):
            return None
        return _value(choices[0] if len(choices) == 1 else _of_kind(choices, value, path), value, path)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _build(hint, value, path)
    if origin is tuple and isinstance(value, list):
        if arguments[-1] is not Ellipsis and len(value) != len(arguments):
            raise ModelError(f"expected {path} to have {len(arguments)} values, got {len(value)}; export again")
        return tuple(_value(arguments[0], item, path) for item in value)
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300:
        return float(value)
    if hint in (int, str, bool) and type(value) is hint:
        return value
    wanted = getattr(hint, "__name__", str(hint))
    raise ModelError(f"expected {path} to be {wanted}, got {value!r}; export the model again")


def _of_kind(choices: list[Any], value: object, path: str) -> Any:
    """The dataclass whose `kind` a JSON object names; the first where it names none, as files of cellrt 0.1 do."""
    kinds = {choice.kind: choice for choice in choices}
    kind = value.get("kind", choices[0].kind) if isinstance(value, dict) else None
    if kind not in kinds:
        raise ModelError(
            f"expected {path} of kind {' or '.join(map(repr, kinds))}, got {kind!r}; upgrade cellrt or export the "
            "model again"
        )
    return kinds[kind]
