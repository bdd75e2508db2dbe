"""cellrt runs trained cell-segmentation networks: the cells of StarDist, without TensorFlow.

    import cellrt

    model = cellrt.load("nuclei")          # or the path of a file written by `cellrt export`
    cells = model.segment(image)           # any (Y, X), (Y, X, C) or (C, Y, X) array
    cells.labels                           # int32 (Y, X), 0 is background
    cells.scores, cells.points             # float32 (n,), (n, 2) as (y, x)
    for outline in cells.polygons():       # float32 (vertices, 2) as (y, x)
        ...

Importing this package loads numpy and nothing else; ONNX Runtime is loaded with the first model.
"""

from cellrt.errors import (
    CapacityError,
    CellrtError,
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
