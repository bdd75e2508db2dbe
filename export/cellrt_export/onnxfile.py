"""Graph nodes -> a checked, self-describing ONNX file.

`GraphBuilder` collects nodes and constants; `assemble` makes the model with its manifest, and nothing else about the
machine or the files it came from; `check` proves that the result is valid ONNX and runs; `write` puts it on disk
whole or not at all. Reads everywhere: opset 17, IR 8.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from cellrt.errors import FileError, ModelError
from cellrt.manifest import METADATA_KEY, Manifest

OPSET = 17
IR_VERSION = 8

Run = Callable[[NDArray[np.float32]], NDArray[np.float32]]  # image (N, C, Y, X) -> maps (N, M, Y/g, X/g)


class GraphBuilder:
    """Nodes and constants of a graph, in order; tensors are named by the node that makes them."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}

    def node(self, operator: str, name: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Append a node with one output; returns the output's name, which is the node's."""
        self.nodes.append(helper.make_node(operator, list(inputs), [name], name=name, **attributes))
        return name

    def constant(self, name: str, value: NDArray[Any]) -> str:
        """Store an array under a name; returns the name. The same name must mean the same array."""
        if name not in self.constants:
            self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def scalar(self, value: float) -> str:
        """Store a float32 number; returns its name."""
        return self.constant(f"constant_{value:.9g}", np.array(value, np.float32))


def assemble(
    graph: GraphBuilder,
    *,
    n_channels: int,
    n_maps: int,
    grid: tuple[int, int],
    version: str,
    manifest: Manifest | None = None,
) -> bytes:
    """Make the model: `image` float32 (N, C, Y, X) -> `maps` float32 (N, M, Y/gy, X/gx), N, Y and X free.

    The same graph and manifest give the same bytes. Raises `ModelError` if the manifest holds NaN or infinity.
    """
    sides = [axis if step == 1 else f"{axis}/{step}" for axis, step in zip("YX", grid, strict=True)]
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "cellrt",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", n_channels, "Y", "X"])],
            [helper.make_tensor_value_info("maps", TensorProto.FLOAT, ["N", n_maps, *sides])],
            list(graph.constants.values()),
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="cellrt",
        producer_version=version,
    )
    if manifest is not None:
        helper.set_model_props(model, {METADATA_KEY: manifest.to_json()})
    serialized: bytes = model.SerializeToString(deterministic=True)
    return serialized


def check(model: bytes, run: Run, *, manifest: Manifest) -> None:
    """Prove that a model is valid ONNX, says what `manifest` says, and runs at two sizes and two batch lengths.

    Raises
    ------
    ModelError
        If one of these does not hold. That is a defect of the exporter or a network whose weights overflow.
    """
    report = "report this with the model's config.json"
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ModelError(f"expected valid ONNX, got {error}; {report}") from error
    stored = {entry.key: entry.value for entry in onnx.load_from_string(model).metadata_props}
    if Manifest.from_json(stored[METADATA_KEY]) != manifest:
        raise ModelError(f"expected the manifest to survive being written, got another one back; {report}")

    random = np.random.default_rng(0)
    step, grid = manifest.tile.multiple, manifest.head.grid
    for factors in ((1, 2), (3, 1)):
        shape = (factors[0] * step[0], factors[1] * step[1])
        batch = random.random((2, manifest.input.n_channels, *shape), np.float32)
        both, first = run(batch), run(batch[:1])
        wanted = (2, manifest.head.n_maps, shape[0] // grid[0], shape[1] // grid[1])
        if both.shape != wanted:
            raise ModelError(f"expected maps {wanted} from an image {batch.shape}, got {both.shape}; {report}")
        if not np.isfinite(both).all():
            raise ModelError("expected finite maps, got NaN or infinity from noise in [0, 1]; use other weights")
        if not np.allclose(both[:1], first, rtol=1e-4, atol=1e-4):
            raise ModelError(f"expected the same maps in a batch of 1 and of 2, got others; {report}")


def require_free(output: Path, *, force: bool) -> None:
    """Refuse an output path that cannot be written, before any work is done. Raises `FileError`."""
    if not output.parent.is_dir():
        raise FileError(f"expected a folder for {output.name} at {output.parent}, got none there; make it first")
    if output.is_dir():
        raise FileError(f"expected a file name to write to, got the folder {output}; add a name such as model.onnx")
    if output.exists() and not force:
        raise FileError(f"expected no file at {output}, got one; give another name, or --force to replace it")


def write(model: bytes, output: Path, *, force: bool) -> None:
    """Write a file whole or not at all: a temporary name in the same folder, then a rename.

    Raises `FileError` if there is a file and not `force`, or the folder cannot be written.
    """
    require_free(output, force=force)
    temporary = output.with_name(f".{output.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(model)
        temporary.replace(output)
    except OSError as error:
        raise FileError(
            f"expected to write {output}, got {error.strerror or error}; check permissions and disk space"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
