"""Weights out of a file that `torch.save` wrote of a state dict: names and arrays, and nothing in the file is run.

Passes the door: a path. Comes out: one array per name, floating-point ones as float32; the names less the prefix that
training on several GPUs puts before each. Not here: what the names mean. Needs torch, which is imported on use.
"""

from __future__ import annotations

import hashlib
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cellrt.errors import CellrtError, FileError, ModelError

if TYPE_CHECKING:
    import torch

_MOST_BYTES = 2**31 - 2**20  # of float32: what fits one ONNX file, and a third more than the largest Cellpose has
_SAFE = (2, 6)  # torch before could be made to run what a file holds (CVE-2025-32434)
_PREFIX = "module."  # of torch's DataParallel
_REFUSED = re.compile(r"GLOBAL (\S+)")  # how torch's loader names what it would not run


@dataclass(frozen=True)
class TorchWeights:
    """What a weights file holds."""

    file_name: str
    sha256: str  # of the file
    arrays: Mapping[str, NDArray[Any]]  # float32; counters as int64

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each array."""
        return {name: array.shape for name, array in self.arrays.items()}


def read(path: str | Path) -> TorchWeights:
    """Read a state dict.

    Parameters
    ----------
    path : path
        A file that ``torch.save(network.state_dict(), path)`` wrote, in torch's zip format or the one before it.

    Returns
    -------
    TorchWeights

    Raises
    ------
    FileError
        If the file cannot be read at all.
    ModelError
        If it is truncated, not a torch file, holds anything but tensors by name, NaN or infinite weights, or more
        than 2 GiB of them.
    CellrtError
        If torch is not installed, or so old that reading foreign files with it is not safe.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            file.seek(0)
            content = _load(file, path.name)
    except OSError as error:
        reason = error.strerror or error
        raise FileError(f"expected to read {path}, got {reason}; check the path and its permissions") from error
    return TorchWeights(path.name, sha256, _arrays(_tensors(content, path.name), path.name))


def _load(file: IO[bytes], name: str) -> Any:
    """What torch makes of the file, by its loader that knows tensors and containers only."""
    try:
        import torch  # here: StarDist's exporter does without, and it takes seconds to import
    except ImportError as error:
        raise CellrtError(
            'expected torch to be installed, which reads this file, got none; run: pip install "cellrt[export-torch]"'
        ) from error
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < _SAFE:
        raise CellrtError(
            f"expected torch 2.6 or later, which reads files without running them, got {torch.__version__}; "
            'run: pip install "cellrt[export-torch]"'
        )
    try:
        if zipfile.is_zipfile(file):  # which may say that it unpacks to any size
            with zipfile.ZipFile(file) as archive:
                if sum(entry.file_size for entry in archive.infolist()) > 2 * _MOST_BYTES:  # float64, at the most
                    raise _too_large(name)
        file.seek(0)
        with warnings.catch_warnings(action="ignore"):  # about formats: the file is read or it is not
            return torch.load(file, map_location="cpu", weights_only=True)
    except ModelError:
        raise
    except Exception as error:  # whatever torch's loader stumbles over in bytes that are not its own
        refused = _REFUSED.search(str(error))
        if refused is not None:
            raise ModelError(
                f"expected {name} to hold tensors by name, got a file that asks for {refused[1][:80]}, which is never "
                "run; save the network with torch.save(network.state_dict(), path)"
            ) from error
        raise ModelError(
            f"expected a complete file of torch.save, got {name}, which cannot be read; "
            "copy it again from where it was trained"
        ) from error


def _tensors(content: Any, name: str) -> dict[str, torch.Tensor]:
    """The tensors by name, if that is what the file holds."""
    import torch

    if not isinstance(content, dict) or not content:
        got = "an empty dict" if isinstance(content, dict) else type(content).__name__
        raise ModelError(
            f"expected {name} to hold a state dict, got {got}; save it with torch.save(network.state_dict(), path)"
        )
    n_bytes = 0
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, torch.Tensor):
            raise ModelError(
                f"expected {name} to hold tensors by name, got {type(value).__name__} at {str(key)[:80]!r}; "
                "save the network's state_dict() alone"
            )
        plain = value.layout == torch.strided and value.device.type == "cpu"
        if not plain or value.is_quantized or value.is_nested or value.is_complex():
            raise ModelError(
                f"expected plain tensors in {name}, got {value.dtype} ({value.layout}, {value.device.type}) at "
                f"{key[:80]!r}; save the network as it was trained, in float32"
            )
        n_bytes += 4 * value.numel()
        if n_bytes > _MOST_BYTES:  # before anything is copied: a few bytes can be a tensor of any size
            raise _too_large(name)
    return content


def _arrays(tensors: dict[str, torch.Tensor], name: str) -> dict[str, NDArray[Any]]:
    """The tensors as arrays; finite."""
    prefixed = all(key.startswith(_PREFIX) for key in tensors)
    arrays: dict[str, NDArray[Any]] = {}
    for key, value in tensors.items():
        tensor = value.detach().resolve_neg()
        array = (tensor.float() if tensor.is_floating_point() else tensor.long()).numpy()
        if not np.isfinite(array).all():
            raise ModelError(
                f"expected finite weights, got NaN or infinity in {key!r} of {name}; the training diverged, use the "
                "weights of an earlier epoch"
            )
        arrays[key.removeprefix(_PREFIX) if prefixed else key] = array
    return arrays


def _too_large(name: str) -> ModelError:
    return ModelError(f"expected under 2 GiB of weights in {name}, got more; use the file that was trained")
