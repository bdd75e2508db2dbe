"""cellrt runs trained cell-segmentation networks: the cells of StarDist and Cellpose, without TensorFlow or PyTorch.

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
    import cellrt.metrics as metrics
    import cellrt.zoo as zoo
    from cellrt.catalogue import bundled_models, load
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
    from cellrt.flow_model import FlowModel
    from cellrt.flow_work import FlowMaps
    from cellrt.instances import Instances, Polyhedra
    from cellrt.large.result import LargeInstances
    from cellrt.manifest import Manifest, Normalize99Spec, PercentileSpec
    from cellrt.model import Model
    from cellrt.seg_file import SegFile, read_seg
    from cellrt.star_model import StarModel
    from cellrt.star_model_3d import StarModel3D

__version__ = "0.1.0"

__all__ = [
    "CapacityError",
    "CellrtError",
    "DataError",
    "FileError",
    "FlowMaps",
    "FlowModel",
    "ImageError",
    "Instances",
    "KernelError",
    "LargeInstances",
    "Manifest",
    "Model",
    "ModelError",
    "Normalize99Spec",
    "PercentileSpec",
    "Polyhedra",
    "ProviderError",
    "SegFile",
    "StarModel",
    "StarModel3D",
    "bundled_models",
    "load",
    "metrics",
    "read_seg",
    "zoo",
]

_ROOMS = {
    "FlowMaps": "flow_work",
    "FlowModel": "flow_model",
    "Instances": "instances",
    "LargeInstances": "large.result",
    "Manifest": "manifest",
    "Model": "model",
    "Normalize99Spec": "manifest",
    "PercentileSpec": "manifest",
    "Polyhedra": "instances",
    "SegFile": "seg_file",
    "StarModel": "star_model",
    "StarModel3D": "star_model_3d",
    "bundled_models": "catalogue",
    "load": "catalogue",
    "metrics": "metrics",
    "read_seg": "seg_file",
    "zoo": "zoo",
}


def __getattr__(name: str) -> Any:
    """Load the room that a public name lives in, when the name is first used (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module 'cellrt' has no attribute {name!r}")
    room = importlib.import_module(f"cellrt.{_ROOMS.get(name, 'errors')}")
    value = room if name == _ROOMS.get(name) else getattr(room, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names, loaded or not."""
    return sorted({*globals(), *__all__})
