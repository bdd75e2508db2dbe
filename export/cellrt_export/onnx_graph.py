"""An ONNX file that `cellrt export` wrote -> its nodes and constants, as a graph room wrote them, and its manifest.

Passes the door: a path, or the name of a bundled model. Comes out: what `onnxfile.GraphBuilder` held, float32 again
where weights are stored as float16. Not here: what the layers are, which star_graph and cpnet_graph know.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from cellrt import catalogue
from cellrt.errors import FileError, ModelError
from cellrt.manifest import METADATA_KEY, Manifest
from cellrt_export.onnxfile import GraphBuilder


@dataclass(frozen=True)
class StoredGraph:
    """What a model file holds."""

    file_name: str
    manifest: Manifest
    nodes: Mapping[str, onnx.NodeProto]  # by name, in order; less those that cast stored weights
    constants: Mapping[str, NDArray[Any]]  # by name
    halved: bool  # some constants were stored as float16

    def require_like(self, graph: GraphBuilder) -> None:
        """Raise `ModelError` unless these are the nodes of a graph, with constants of the same names and shapes."""
        wanted = {node.name: node for node in graph.nodes}
        shapes = {name: value.shape for name, value in graph.constants.items()}
        differ = [name for name in {**wanted, **self.nodes} if self.nodes.get(name) != wanted.get(name)]
        got = {name: value.shape for name, value in self.constants.items()}
        differ += [name for name in {**shapes, **got} if shapes.get(name) != got.get(name)]
        if differ:
            raise ModelError(
                f"expected the layers that this cellrt exports in {self.file_name}, got others (at {differ[0]}); "
                "export the model again, and change nothing in the file"
            )


def read(model: str | Path) -> StoredGraph:
    """Read a model file.

    Raises
    ------
    FileError
        If it cannot be read at all.
    ModelError
        If it is not an ONNX file that `cellrt export` wrote, its weights lie in another file, or are int8.
    """
    path = catalogue.find(model)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise FileError(f"expected to read {path}, got {error.strerror}; check the path and its permissions") from error
    try:
        stored = onnx.load_model_from_string(content)
    except Exception as error:  # protobuf's, which is a package of its own
        raise ModelError(f"expected a whole ONNX model, got {path.name}; copy or export it again") from error
    manifest = {entry.key: entry.value for entry in stored.metadata_props}.get(METADATA_KEY)
    if manifest is None:
        raise ModelError(
            f"expected an ONNX file with cellrt's manifest, got {path.name} without one; export it with: cellrt export"
        )
    constants: dict[str, NDArray[Any]] = {}
    for tensor in stored.graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL:
            raise ModelError(
                f"expected the weights in {path.name} itself, got {tensor.name} in a file beside it; networks of this "
                "size are not trained here"
            )
        constants[tensor.name] = numpy_helper.to_array(tensor)
    if any(node.op_type == "QuantizeLinear" for node in stored.graph.node):
        raise ModelError(
            f"expected weights of float32 or float16 in {path.name}, got int8, which cannot be trained on; use one "
            "exported with --precision fp32, and make int8 of the trained network with: cellrt export"
        )
    nodes: dict[str, onnx.NodeProto] = {}
    halved = False
    for node in stored.graph.node:
        if node.op_type == "Cast" and node.input[0] in constants:  # see onnxfile.in_precision
            constants[node.output[0]] = constants.pop(node.input[0]).astype(np.float32)
            halved = True
        else:
            nodes[node.name] = node
    return StoredGraph(path.name, Manifest.from_json(manifest), nodes, constants, halved)
