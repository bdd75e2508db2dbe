"""cellrt runs trained cell-segmentation networks: the cells of StarDist, without TensorFlow.

    import cellrt

    model = cellrt.load("nuclei")          # or the path of a file written by `cellrt export`
    cells = model.segment(image)           # any (Y, X), (Y, X, C) or (C, Y, X) array
    cells.labels                           # int32 (Y, X), 0 is background
    cells.scores, cells.points             # float32 (n,), (n, 2) as (y, x)
    for outline in cells.polygons():       # float32 (vertices, 2) as (y, x)
        ...

Importing this package takes a few milliseconds: numpy is loaded with the first name that is used, ONNX Runtime with the
first model.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cellrt.errors import (
        CapacityError,
        CellrtError,
        DataError,
        FileError,
        ImageError,
        KernelError,
        ModelError,
        ProviderError,
    )
    from cellrt.instances import Instances
    from cellrt.manifest import Manifest, PercentileSpec
    from cellrt.model import Model, bundled_models, load

__version__ = "0.1.0"

__all__ = [
    "CapacityError",
    "CellrtError",
    "DataError",
    "FileError",
    "ImageError",
    "Instances",
    "KernelError",
    "Manifest",
    "Model",
    "ModelError",
    "PercentileSpec",
    "ProviderError",
    "bundled_models",
    "load",
]

_ROOMS = {"Instances": "instances", "Manifest": "manifest", "PercentileSpec": "manifest"} | dict.fromkeys(
    ("Model", "bundled_models", "load"), "model"
)


def __getattr__(name: str) -> Any:
    """Load the room that a public name lives in, when the name is first used (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module 'cellrt' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"cellrt.{_ROOMS.get(name, 'errors')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names, loaded or not."""
    return sorted({*globals(), *__all__})
