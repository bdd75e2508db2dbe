"""Weights out of a Keras HDF5 file, in the order of the layers; no TensorFlow.

Passes the door: a file that `save_weights` or `save` of Keras 2 or 3 wrote in the HDF5 layout which StarDist uses
(`layer_names` at the root or under `model_weights`, `weight_names` in each layer's group). Comes out: one
`StoredLayer` per layer that has weights, in the file's order, which is the order of the network.
Not here: what the layers are; names are kept for messages only, because Keras numbers automatic ones per session.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from cellrt.errors import FileError, ModelError

_MOST_BYTES = 2**31 - 2**20  # an ONNX file is one protobuf message, which holds less than 2 GiB


@dataclass(frozen=True)
class StoredLayer:
    """One layer that has weights."""

    name: str  # in the file; may be automatic (conv2d_7)
    arrays: tuple[NDArray[np.float32], ...]  # in the file's order: kernel, bias or gamma, beta, mean, variance

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shape of each array."""
        return tuple(array.shape for array in self.arrays)


@dataclass(frozen=True)
class StoredWeights:
    """What a weights file holds."""

    file_name: str
    sha256: str  # of the file
    keras_version: int  # the major version that wrote it
    layers: tuple[StoredLayer, ...]

    @property
    def n_parameters(self) -> int:
        """Numbers in all layers together."""
        return sum(array.size for layer in self.layers for array in layer.arrays)


def read(path: Path) -> StoredWeights:
    """Read a Keras HDF5 weights file.

    Raises
    ------
    FileError
        If the file cannot be read at all.
    ModelError
        If it is truncated, not HDF5, not in this layout, too large for ONNX, or holds NaN or infinite weights.
    """
    try:
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise FileError(f"expected to read {path}, got {error.strerror}; check the path and its permissions") from error
    try:
        with h5py.File(path, "r") as file:
            root = file["model_weights"] if "model_weights" in file and "layer_names" not in file.attrs else file
            if not list(_attribute(root, "layer_names")):
                raise ModelError(
                    f"expected the layer_names of a Keras weights file in {path.name}, got an HDF5 file without; "
                    "use the weights_best.h5 that StarDist wrote (not a file in Keras 3's own .weights.h5 layout)"
                )
            version = _text(root.attrs.get("keras_version", file.attrs.get("keras_version", "2")))
            layers = tuple(_layers(root, path.name))
    except (OSError, KeyError, RuntimeError, ValueError, TypeError, AttributeError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(
            f"expected a complete Keras HDF5 weights file, got {path.name}, which cannot be read ({error}); "
            "copy it again from where it was trained"
        ) from error
    major = version.split(".")[0]
    return StoredWeights(path.name, sha256, int(major) if major.isdecimal() else 2, layers)


def _layers(root: h5py.Group, file_name: str) -> Iterator[StoredLayer]:
    """The layers that have weights."""
    n_bytes = 0
    for layer_name in _attribute(root, "layer_names"):
        group = root[layer_name]
        arrays = []
        for weight_name in _attribute(group, "weight_names"):
            dataset = group[weight_name]
            n_bytes += 4 * dataset.size
            if n_bytes > _MOST_BYTES:  # before it is read: an HDF5 file of a few bytes can claim any size
                raise ModelError(
                    f"expected under 2 GiB of weights in {file_name}, got more; ONNX cannot hold them in one file"
                )
            array = np.asarray(dataset[()], np.float32)
            if not np.isfinite(array).all():
                raise ModelError(
                    f"expected finite weights, got NaN or infinity in layer {layer_name!r} of {file_name}; "
                    "the training diverged, use the weights of an earlier epoch"
                )
            arrays.append(array)
        if arrays:
            yield StoredLayer(layer_name, tuple(arrays))


def _attribute(group: h5py.Group, key: str) -> Iterator[str]:
    """The strings of a list attribute; Keras cuts those beyond 64 KB into key0, key1, ..."""
    if key in group.attrs:
        yield from map(_text, group.attrs[key])
        return
    chunk = 0
    while f"{key}{chunk}" in group.attrs:
        yield from map(_text, group.attrs[f"{key}{chunk}"])
        chunk += 1


def _text(value: str | bytes) -> str:
    """Keras 2 stored bytes, Keras 3 stores text."""
    return value.decode() if isinstance(value, bytes) else str(value)
