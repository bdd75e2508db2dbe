"""A StarDist model folder, 2D or 3D -> what it says: configuration, rays, thresholds, and which weights file counts.

Passes the door: a folder with config.json, optionally thresholds.json, and *.h5 or *.hdf5 files. Everything in it is
read as JSON and checked by type and range; nothing is evaluated (the original evaluates the name of the rays).
Keys that older versions did not write take the defaults of StarDist's constructor; unknown keys are warned about.
Not here: the weights themselves (keras_h5), the layers (star_graph, star_resnet), where rays point (star_rays).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cellrt.errors import FileError, ModelError
from cellrt.manifest import RaysSpec
from cellrt_export import star_rays

Sides = tuple[int, ...]  # along (z,) y, x

_log = logging.getLogger(__name__)

_NUMBERS = {2: "two", 3: "three"}
# Known keys without a say in what the network computes (prefix: layer names; dropout, init: training). So are train_*.
_NO_EFFECT = frozenset(
    [
        *("n_channel_out", "unet_dropout", "unet_prefix", "resnet_kernel_init"),
        *("net_input_shape", "net_mask_shape", "use_gpu"),
    ]
)


def _defaults(n_dim: int, backbone: str) -> dict[str, Any]:
    """What StarDist 0.9.2 takes for a key that config.json lacks (Config2D.__init__, Config3D.__init__)."""
    general: dict[str, Any] = {
        "n_dim": n_dim,
        "axes": "YXC" if n_dim == 2 else "ZYXC",
        "n_channel_in": 1,
        "grid": [1] * n_dim,
        "backbone": backbone,
        "n_classes": None,
        **({"n_rays": 32} if n_dim == 2 else {"n_rays": 96, "rays_json": None, "anisotropy": None}),
    }
    if backbone == "resnet":
        return general | {
            "resnet_n_blocks": 4,
            "resnet_kernel_size": [3] * n_dim,
            "resnet_n_filter_base": 32,
            "resnet_n_conv_per_block": 3,
            "resnet_activation": "relu",
            "resnet_batch_norm": False,
            "net_conv_after_resnet": 128,
        }
    return general | {
        "unet_n_depth": 3 if n_dim == 2 else 2,
        "unet_kernel_size": [3] * n_dim,
        "unet_n_filter_base": 32,
        "unet_n_conv_per_depth": 2,
        "unet_pool": [2] * n_dim,
        "unet_activation": "relu",
        "unet_last_activation": "relu",
        "unet_batch_norm": False,
        "unet_expansion": 2,
        "net_conv_after_unet": 128,
    }


@dataclass(frozen=True)
class StarConfig:
    """What decides the layers of a StarDist U-Net, 2D or 3D; names as in config.json."""

    n_channel_in: int
    n_rays: int
    grid: Sides  # pixels per sample of the maps, powers of 2
    n_classes: int | None  # without background
    unet_n_depth: int
    unet_kernel_size: Sides
    unet_n_filter_base: int
    unet_n_conv_per_depth: int
    unet_pool: Sides
    unet_activation: str
    unet_last_activation: str
    unet_batch_norm: bool
    unet_expansion: float  # filters grow by this from level to level
    net_conv_after_unet: int  # filters of the layer "features", 0: there is none

    @property
    def multiple(self) -> Sides:
        """Sides of the input are multiples of this, in pixels."""
        return tuple(pool**self.unet_n_depth * step for pool, step in zip(self.unet_pool, self.grid, strict=True))

    def n_filters(self, level: int) -> int:
        """Filters of a U-Net level, 0 being the finest; truncated as CSBDeep does."""
        return int(self.unet_n_filter_base * self.unet_expansion**level)


@dataclass(frozen=True)
class ResnetConfig:
    """What decides the layers of a StarDist 3D ResNet; names as in config.json."""

    n_channel_in: int
    n_rays: int
    grid: Sides  # pixels per sample of the maps, powers of 2
    n_classes: int | None  # without background
    resnet_n_blocks: int
    resnet_kernel_size: Sides
    resnet_n_filter_base: int  # before the first halving; each doubles them
    resnet_n_conv_per_block: int
    resnet_activation: str
    resnet_batch_norm: bool
    net_conv_after_resnet: int  # filters of the layer "features", 0: there is none

    @property
    def multiple(self) -> Sides:
        """Sides of the input are multiples of this, in pixels."""
        return self.grid


@dataclass(frozen=True)
class Space:
    """What a 3D folder says beyond its layers."""

    rays: RaysSpec
    anisotropy: star_rays.Anisotropy | None  # size of a pixel along z, y, x


@dataclass(frozen=True)
class Thresholds:
    """Least probability of a candidate, and largest overlap that two objects may have."""

    prob: float = 0.5
    nms: float = 0.4


def read_config(folder: Path) -> StarConfig | ResnetConfig:
    """Read and check config.json of a StarDist folder.

    Raises
    ------
    FileError
        If the folder or its config.json is missing.
    ModelError
        If it is not JSON, of a kind that is not known here, or a value is out of range.
    """
    data = _read_data(folder)
    known = set(_defaults(data["n_dim"], data["backbone"])) | _NO_EFFECT
    if unknown := sorted(key for key in data if key not in known and not key.startswith("train_")):
        _log.warning("config.json: ignoring unknown keys %s", ", ".join(unknown))
    config = _resnet(data) if data["backbone"] == "resnet" else _unet(data)
    if any(size & (size - 1) for size in config.grid):
        raise _wrong("grid", f"{_NUMBERS[data['n_dim']]} powers of 2", data["grid"])
    if max(config.multiple) > 4096:
        raise _wrong("unet_pool ** unet_n_depth * grid", "at most 4096", config.multiple)
    return config


def read_space(folder: Path) -> Space:
    """Read the rays and the anisotropy of a 3D folder. Raises `FileError` and `ModelError` as `read_config`."""
    return _space(_read_data(folder))


def read_thresholds(folder: Path) -> Thresholds:
    """Read thresholds.json; a missing file or value, or one outside (0, 1), gives StarDist's default."""
    data = _read_json(folder / "thresholds.json", required=False)
    values = {"prob": Thresholds.prob, "nms": Thresholds.nms}
    for key, default in values.items():
        value = data.get(key)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < 1:
            values[key] = float(value)
        else:
            _log.warning("thresholds.json: no %s in (0, 1), taking StarDist's default %g", key, default)
    return Thresholds(**values)


def choose_weights(folder: Path) -> Path:
    """The weights file that StarDist would load: the newest with "best" in its name, else the newest.

    Of files with the same time (a copied folder) the first by name counts; StarDist leaves that to the file system.
    Names that begin with a dot are other systems' bookkeeping, not weights.
    """
    files = [
        path
        for pattern in ("*.h5", "*.hdf5")
        for path in folder.glob(pattern)
        if path.is_file() and not path.name.startswith(".")
    ]
    if not files:
        raise FileError(f"expected weights (*.h5 or *.hdf5) in {folder}, got none; copy weights_best.h5 there")
    files.sort(key=lambda path: (-path.stat().st_mtime_ns, path.name))
    return next((path for path in files if "best" in path.name), files[0])


def _read_json(path: Path, *, required: bool) -> dict[str, Any]:
    """A JSON object; empty if the file is missing and may be."""
    try:
        data = json.loads(path.read_bytes())
    except FileNotFoundError:
        if not required:
            return {}
        raise FileError(f"expected {path.name} in {path.parent}, got no such file; give a StarDist folder") from None
    except OSError as error:
        raise FileError(f"expected to read {path}, got {error.strerror}; check its permissions") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"expected JSON in {path.name}, got {error}; copy the file again") from error
    if not isinstance(data, dict):
        raise ModelError(f"expected a JSON object in {path.name}, got {type(data).__name__}; copy the file again")
    return data


def _read_data(folder: Path) -> dict[str, Any]:
    """What config.json says, with the defaults of its kind; `n_dim`, `axes` and `backbone` are known to be legal."""
    if not folder.is_dir():
        got = "a file" if folder.exists() else "nothing there"
        raise FileError(f"expected a StarDist model folder at {folder}, got {got}; give the folder with config.json")
    data = _read_json(folder / "config.json", required=True)
    axes, grid, backbone = data.get("axes"), data.get("grid"), data.get("backbone", "unet")
    is_3d = "rays_json" in data or (isinstance(axes, str) and "Z" in axes.upper())
    n_dim = data.get("n_dim", 3 if is_3d or (isinstance(grid, list) and len(grid) == 3) else 2)
    if not _is_integer(n_dim, 2, 3):
        raise _wrong("n_dim", "2 or 3", n_dim)
    if n_dim == 2 and "rays_json" in data:
        raise ModelError(
            "expected no rays_json in the config.json of a 2D model, got one; use the config.json StarDist wrote"
        )
    backbone = backbone.lower() if isinstance(backbone, str) else backbone
    if backbone not in (("unet",) if n_dim == 2 else ("unet", "resnet")):
        raise _wrong("backbone", "'unet'" if n_dim == 2 else "'unet' or 'resnet'", data["backbone"])
    data = {**_defaults(n_dim, backbone), **data, "backbone": backbone}
    wanted = "YX" if n_dim == 2 else "ZYX"
    if not isinstance(data["axes"], str) or data["axes"].upper().replace("C", "") != wanted:
        raise _wrong("axes", f"'{wanted}C'", data["axes"])
    return data


def _unet(data: Mapping[str, Any]) -> StarConfig:
    """The configuration of a U-Net."""
    classes = data["n_classes"]
    activation = _activation(data, "unet_activation")
    return StarConfig(
        n_channel_in=_integer(data, "n_channel_in", 1, 1024),
        n_rays=_n_rays(data),
        grid=_sides(data, "grid", 1, 256),
        n_classes=None if classes is None else _integer(data, "n_classes", 1, 1023),
        unet_n_depth=_integer(data, "unet_n_depth", 0, 12),
        unet_kernel_size=_sides(data, "unet_kernel_size", 1, 255),
        unet_n_filter_base=_integer(data, "unet_n_filter_base", 1, 65536),
        unet_n_conv_per_depth=_integer(data, "unet_n_conv_per_depth", 0, 64),
        unet_pool=_sides(data, "unet_pool", 1, 64),
        unet_activation=activation,
        # CSBDeep takes "none" for "the same as the others"
        unet_last_activation=(
            activation if data["unet_last_activation"] is None else _activation(data, "unet_last_activation")
        ),
        unet_batch_norm=_boolean(data, "unet_batch_norm"),
        unet_expansion=_expansion(data),
        net_conv_after_unet=_integer(data, "net_conv_after_unet", 0, 65536),
    )


def _resnet(data: Mapping[str, Any]) -> ResnetConfig:
    """The configuration of a ResNet."""
    classes = data["n_classes"]
    config = ResnetConfig(
        n_channel_in=_integer(data, "n_channel_in", 1, 1024),
        n_rays=_n_rays(data),
        grid=_sides(data, "grid", 1, 256),
        n_classes=None if classes is None else _integer(data, "n_classes", 1, 1023),
        resnet_n_blocks=_integer(data, "resnet_n_blocks", 0, 64),
        resnet_kernel_size=_sides(data, "resnet_kernel_size", 1, 255),
        resnet_n_filter_base=_integer(data, "resnet_n_filter_base", 1, 65536),
        resnet_n_conv_per_block=_integer(data, "resnet_n_conv_per_block", 2, 64),
        resnet_activation=_activation(data, "resnet_activation"),
        resnet_batch_norm=_boolean(data, "resnet_batch_norm"),
        net_conv_after_resnet=_integer(data, "net_conv_after_resnet", 0, 65536),
    )
    most = 2**config.resnet_n_blocks
    if max(config.grid) > most:
        raise _wrong("grid", f"at most {most}, for resnet_n_blocks {config.resnet_n_blocks} halve it", data["grid"])
    return config


def _n_rays(data: Mapping[str, Any]) -> int:
    """How many rays there are; in 3D the number that config.json states has no say, as in StarDist."""
    return _integer(data, "n_rays", 3, 1024) if data["n_dim"] == 2 else len(_space(data).rays.vertices)


def _space(data: Mapping[str, Any]) -> Space:
    """The rays and the anisotropy of a 3D model."""
    if data["n_dim"] == 2:
        raise ModelError("expected a StarDist 3D model, got a 2D one; it has no rays in space")
    anisotropy = star_rays.pixel_sizes(data["anisotropy"], "anisotropy")
    described = data["rays_json"]
    if described is None:
        described = {"name": "Rays_GoldenSpiral", "kwargs": {"n": data["n_rays"]}}
    return Space(star_rays.rays(described, anisotropy), anisotropy)


def _wrong(key: str, want: str, got: object) -> ModelError:
    """The error for a value of config.json."""
    return ModelError(f"expected {key} in config.json to be {want}, got {got!r}; use the config.json StarDist wrote")


def _is_integer(value: object, low: int, high: int) -> bool:
    return type(value) is int and low <= value <= high


def _integer(data: Mapping[str, Any], key: str, low: int, high: int) -> int:
    value = data[key]
    if not _is_integer(value, low, high):
        raise _wrong(key, f"a whole number {low}..{high}", value)
    return int(value)


def _sides(data: Mapping[str, Any], key: str, low: int, high: int) -> Sides:
    value, n_dim = data[key], data["n_dim"]
    if not isinstance(value, list) or len(value) != n_dim or not all(_is_integer(item, low, high) for item in value):
        raise _wrong(key, f"{_NUMBERS[n_dim]} whole numbers {low}..{high}", value)
    return tuple(value)


def _boolean(data: Mapping[str, Any], key: str) -> bool:
    value = data[key]
    if not isinstance(value, bool):
        raise _wrong(key, "true or false", value)
    return value


def _activation(data: Mapping[str, Any], key: str) -> str:
    value = data[key]
    if value is None:  # Keras: no activation
        return "linear"
    if not isinstance(value, str):
        raise _wrong(key, "the name of a Keras activation", value)
    return value


def _expansion(data: Mapping[str, Any]) -> float:
    value = data["unet_expansion"]
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 64:
        raise _wrong("unet_expansion", "a number in (0, 64]", value)
    return value  # not converted: an int gives exact powers
