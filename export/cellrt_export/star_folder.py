"""A StarDist model folder -> what it says: configuration, thresholds, and which weights file counts.

Passes the door: a folder with config.json, optionally thresholds.json, and *.h5 or *.hdf5 files. Everything in it is
read as JSON and checked by type and range; nothing is evaluated (the original evaluates the name of the rays).
Keys that older versions did not write take the defaults of StarDist's constructor; unknown keys are warned about.
Not here: the weights themselves (keras_h5), the layers (star_graph).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cellrt.errors import FileError, ModelError

Pair = tuple[int, int]  # along y, along x

_log = logging.getLogger(__name__)

# What StarDist 0.9.2 takes for a key that a 2D config.json lacks (Config2D.__init__).
_DEFAULTS: Mapping[str, Any] = {
    "n_dim": 2,
    "axes": "YXC",
    "n_channel_in": 1,
    "n_rays": 32,
    "grid": [1, 1],
    "backbone": "unet",
    "n_classes": None,
    "unet_n_depth": 3,
    "unet_kernel_size": [3, 3],
    "unet_n_filter_base": 32,
    "unet_n_conv_per_depth": 2,
    "unet_pool": [2, 2],
    "unet_activation": "relu",
    "unet_last_activation": "relu",
    "unet_batch_norm": False,
    "unet_expansion": 2,
    "net_conv_after_unet": 128,
}
# Known keys without a say in what the network computes (prefix: layer names; dropout: training). So are train_*.
_NO_EFFECT = frozenset({"n_channel_out", "unet_dropout", "unet_prefix", "net_input_shape", "net_mask_shape", "use_gpu"})


@dataclass(frozen=True)
class StarConfig:
    """What decides the layers of a StarDist 2D U-Net; names as in config.json."""

    n_channel_in: int
    n_rays: int
    grid: Pair  # pixels per sample of the maps, powers of 2
    n_classes: int | None  # without background
    unet_n_depth: int
    unet_kernel_size: Pair
    unet_n_filter_base: int
    unet_n_conv_per_depth: int
    unet_pool: Pair
    unet_activation: str
    unet_last_activation: str
    unet_batch_norm: bool
    unet_expansion: float  # filters grow by this from level to level
    net_conv_after_unet: int  # filters of the layer "features", 0: there is none

    @property
    def multiple(self) -> Pair:
        """Sides of the input are multiples of this, in pixels."""
        return (
            self.unet_pool[0] ** self.unet_n_depth * self.grid[0],
            self.unet_pool[1] ** self.unet_n_depth * self.grid[1],
        )

    def n_filters(self, level: int) -> int:
        """Filters of a U-Net level, 0 being the finest; truncated as CSBDeep does."""
        return int(self.unet_n_filter_base * self.unet_expansion**level)


@dataclass(frozen=True)
class Thresholds:
    """Least probability of a candidate, and largest overlap that two objects may have."""

    prob: float = 0.5
    nms: float = 0.4


def read_config(folder: Path) -> StarConfig:
    """Read and check config.json of a StarDist 2D folder.

    Raises
    ------
    FileError
        If the folder or its config.json is missing.
    ModelError
        If it is not JSON, describes a 3D or ResNet model, or a value is out of range.
    """
    if not folder.is_dir():
        got = "a file" if folder.exists() else "nothing there"
        raise FileError(f"expected a StarDist model folder at {folder}, got {got}; give the folder with config.json")
    data = {**_DEFAULTS, **_read_json(folder / "config.json", required=True)}
    _refuse_other_kinds(data)
    known = set(_DEFAULTS) | _NO_EFFECT
    if unknown := sorted(key for key in data if key not in known and not key.startswith("train_")):
        _log.warning("config.json: ignoring unknown keys %s", ", ".join(unknown))

    classes = data["n_classes"]
    activation = _activation(data, "unet_activation")
    config = StarConfig(
        n_channel_in=_integer(data, "n_channel_in", 1, 1024),
        n_rays=_integer(data, "n_rays", 3, 1024),
        grid=_pair(data, "grid", 1, 256),
        n_classes=None if classes is None else _integer(data, "n_classes", 1, 1023),
        unet_n_depth=_integer(data, "unet_n_depth", 0, 12),
        unet_kernel_size=_pair(data, "unet_kernel_size", 1, 255),
        unet_n_filter_base=_integer(data, "unet_n_filter_base", 1, 65536),
        unet_n_conv_per_depth=_integer(data, "unet_n_conv_per_depth", 0, 64),
        unet_pool=_pair(data, "unet_pool", 1, 64),
        unet_activation=activation,
        # CSBDeep takes "none" for "the same as the others"
        unet_last_activation=(
            activation if data["unet_last_activation"] is None else _activation(data, "unet_last_activation")
        ),
        unet_batch_norm=_boolean(data, "unet_batch_norm"),
        unet_expansion=_expansion(data),
        net_conv_after_unet=_integer(data, "net_conv_after_unet", 0, 65536),
    )
    if any(size & (size - 1) for size in config.grid):
        raise _wrong("grid", "two powers of 2", data["grid"])
    if max(config.multiple) > 4096:
        raise _wrong("unet_pool ** unet_n_depth * grid", "at most 4096", config.multiple)
    return config


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


def _refuse_other_kinds(data: Mapping[str, Any]) -> None:
    """3D models, other backbones, and axes in an order that the runtime does not have."""
    axes, backbone, grid = data["axes"], data["backbone"], data["grid"]
    is_3d = data["n_dim"] == 3 or "rays_json" in data or (isinstance(axes, str) and "Z" in axes.upper())
    if is_3d or (isinstance(grid, list) and len(grid) == 3):
        raise ModelError("expected a StarDist 2D model, got 3D; StarDist 3D is not yet supported, export a 2D folder")
    if not isinstance(backbone, str) or backbone.lower() != "unet":
        raise ModelError(
            f"expected backbone 'unet', got {backbone!r}; other backbones are not yet supported, export a U-Net folder"
        )
    if not isinstance(axes, str) or axes.upper().replace("C", "") != "YX":
        raise _wrong("axes", "'YXC'", axes)


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


def _pair(data: Mapping[str, Any], key: str, low: int, high: int) -> Pair:
    value = data[key]
    if not isinstance(value, list) or len(value) != 2 or not all(_is_integer(item, low, high) for item in value):
        raise _wrong(key, f"two whole numbers {low}..{high}", value)
    return value[0], value[1]


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
