"""Graph nodes -> a checked, self-describing ONNX file.

`GraphBuilder` collects nodes and constants; `assemble` makes the model with its manifest, and nothing else about the
machine or the files it came from; `check` proves that the result is valid ONNX and runs; `write` puts it on disk
whole or not at all. Reads everywhere: opset 17, IR 8. `in_precision` halves the space that weights take.

A network of a gigabyte goes another way, so that no copies of it pile up in memory: `save` the graph under a name from
`staging`, run it from there, `describe` it by its manifest, `check` and `publish` it. Protobuf, and so an ONNX file,
ends at 2 GiB: beyond that, `save` puts the weights into one file beside the model, `model.onnx.data`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from cellrt.errors import CellrtError, FileError, ModelError
from cellrt.manifest import AXES, METADATA_KEY, FlowSpec, Manifest

OPSET = 17
IR_VERSION = 8
# How weights are stored, as a summary says it.
PRECISIONS = {
    "fp32": "float32",
    "fp16": "float16, cast to float32",
    "int8": "int8 (7 bits of it) and activations uint8, float32 in the last layers",
}
EMBEDDED_LIMIT = 2_000_000_000  # bytes of weights in the model file; protobuf's 2 GiB less names and nodes
_LEAST_EXTERNAL = 65_536  # bytes: smaller constants stay in the model, where shape inference sees them
_HALF_MAX = float(np.finfo(np.float16).max)
_ALIGNMENT = 65_536  # bytes: what every system can map into memory is a multiple of this

# image (N, C, [Z,] Y, X) -> maps (N, M, [Z/g,] Y/g, X/g), or all outputs by name, as a session gives them
Run = Callable[[NDArray[np.float32]], NDArray[np.float32]]
RunAll = Callable[[NDArray[np.float32]], Mapping[str, NDArray[np.float32]]]


class GraphBuilder:
    """Nodes and constants of a graph, in order; tensors are named by the node that makes them."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, NDArray[Any]] = {}

    def node(self, operator: str, name: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Append a node with one output; returns the output's name, which is the node's."""
        self.nodes.append(helper.make_node(operator, list(inputs), [name], name=name, **attributes))
        return name

    def constant(self, name: str, value: NDArray[Any]) -> str:
        """Store an array under a name; returns the name. The same name must mean the same array."""
        if name not in self.constants:
            self.constants[name] = np.ascontiguousarray(value)
        return name

    def scalar(self, value: float) -> str:
        """Store a float32 number; returns its name."""
        return self.constant(f"constant_{value:.9g}", np.array(value, np.float32))


def require_precision(precision: str, calibrate: Sized | None = None) -> None:
    """Refuse a way of storing weights that there is not, and 8 bits without images or images without 8 bits.

    Before any work is done. Raises `CellrtError`.
    """
    if precision not in PRECISIONS:
        raise CellrtError(f"expected precision to be one of {', '.join(PRECISIONS)}, got {precision!r}; choose one")
    if precision == "int8" and calibrate is None:
        raise CellrtError(
            "expected images to calibrate with for precision int8, which tell the range of every layer, got none; name "
            "about 8 of the kind that will be segmented, with --calibrate (calibrate=)"
        )
    if precision != "int8" and calibrate is not None:
        raise CellrtError(f"expected no images to calibrate with for precision {precision}, got some; leave them out")


def in_precision(graph: GraphBuilder, precision: str) -> GraphBuilder:
    """The same network with its weights stored as "fp32" or "fp16" says; arithmetic is float32 in both. ("int8" is the
    work of `calibration`, which begins with "fp32".)

    As float16 are stored the matrices and kernels, which make up the size of the file. ONNX Runtime casts them once,
    when it opens the file. Vectors, such as biases and the numbers of a normalisation, stay as they are.

    Raises
    ------
    ModelError
        If a weight is beyond the range of float16.
    """
    if precision != "fp16":
        return graph
    halved = GraphBuilder()
    for name, value in graph.constants.items():
        if value.dtype != np.float32 or value.ndim < 2:
            halved.constant(name, value)
            continue
        largest = float(np.abs(value).max(initial=0))
        if largest > _HALF_MAX:
            raise ModelError(
                f"expected weights of at most {_HALF_MAX:g} for float16, got {largest:g} in {name}; export with fp32"
            )
        halved.node("Cast", name, [halved.constant(f"{name}_half", value.astype(np.float16))], to=TensorProto.FLOAT)
    halved.nodes += graph.nodes
    return halved


def assemble(
    graph: GraphBuilder,
    *,
    n_channels: int,
    n_maps: int,
    grid: tuple[int, ...],
    version: str,
    manifest: Manifest | None = None,
    n_style: int = 0,
    side: int | None = None,
) -> bytes:
    """Make the model: `image` float32 (N, C, Y, X) -> `maps` float32 (N, M, Y/gy, X/gx), N, Y and X free.

    With a grid of three numbers there is a Z before the Y of both. With `n_style` there is a second output, `style`
    float32 (N, n_style); with `side`, Y and X are that number of pixels. The graph has to make tensors of these names.
    The same graph and manifest give the same bytes. Raises `ModelError` if the manifest holds NaN or infinity.
    """
    model = _empty(graph, n_channels=n_channels, n_maps=n_maps, grid=grid, version=version, n_style=n_style, side=side)
    for name, value in graph.constants.items():
        model.graph.initializer.append(numpy_helper.from_array(value, name))
    if manifest is not None:
        helper.set_model_props(model, {METADATA_KEY: manifest.to_json()})
    return _serialized(model)


def save(
    graph: GraphBuilder,
    path: Path,
    *,
    n_channels: int,
    n_maps: int,
    grid: tuple[int, ...],
    version: str,
    n_style: int = 0,
    side: int | None = None,
    limit: int = EMBEDDED_LIMIT,
) -> None:
    """Write what `assemble` makes into a new file, without a manifest (see `describe`).

    Where the constants have more than `limit` bytes, those that count go into a second file of the same name with
    `.data` behind it, which has to stay beside the first.
    """
    model = _empty(graph, n_channels=n_channels, n_maps=n_maps, grid=grid, version=version, n_style=n_style, side=side)
    try:
        if sum(value.nbytes for value in graph.constants.values()) <= limit:
            for name, value in graph.constants.items():
                model.graph.initializer.append(numpy_helper.from_array(value, name))
        else:
            with data_file(path).open("xb") as file:
                for name, value in graph.constants.items():
                    if value.nbytes < _LEAST_EXTERNAL:
                        model.graph.initializer.append(numpy_helper.from_array(value, name))
                        continue
                    file.seek(-file.tell() % _ALIGNMENT, os.SEEK_CUR)
                    model.graph.initializer.append(_external(name, value, data_file(path).name, file.tell()))
                    value.astype(value.dtype.newbyteorder("<"), copy=False).tofile(file)
        with path.open("xb") as file:
            file.write(_serialized(model))
    except OSError as error:
        raise _cannot_write(path, error) from error


def describe(path: Path, manifest: Manifest) -> None:
    """Give the file that `save` wrote its manifest. Raises `ModelError` if the manifest holds NaN or infinity.

    A protobuf message that follows another is merged into it, and metadata are the last field of a model: appended,
    they give the same bytes as writing everything again.
    """
    props = onnx.ModelProto()
    helper.set_model_props(props, {METADATA_KEY: manifest.to_json()})
    try:
        with path.open("ab") as file:
            file.write(_serialized(props))
    except OSError as error:
        raise _cannot_write(path, error) from error


def data_file(path: Path) -> Path:
    """Where the weights of a model lie that does not hold them itself."""
    return path.with_name(f"{path.name}.data")


def check(model: bytes | Path, run: RunAll, *, manifest: Manifest) -> None:
    """Prove that a model is valid ONNX, says what `manifest` says, and runs at two sizes and two batch lengths.

    A network of one fixed size runs at that one.

    Raises
    ------
    ModelError
        If one of these does not hold. That is a defect of the exporter or a network whose weights overflow.
    """
    report = "report this with the model that you exported"
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ModelError(f"expected valid ONNX, got {error}; {report}") from error
    stored = onnx.load_from_string(model) if isinstance(model, bytes) else onnx.load(model, load_external_data=False)
    props = {entry.key: entry.value for entry in stored.metadata_props}
    del stored  # a gigabyte, perhaps
    if Manifest.from_json(props[METADATA_KEY]) != manifest:
        raise ModelError(f"expected the manifest to survive being written, got another one back; {report}")

    random = np.random.default_rng(0)
    step, head = manifest.tile.multiple, manifest.head
    n_style = head.n_style if isinstance(head, FlowSpec) else 0
    for shape in _sizes(manifest):
        if any(side % multiple for side, multiple in zip(shape, step, strict=True)):
            raise ModelError(f"expected sides that are multiples of {step}, got the fixed size {shape}; {report}")
        batch = random.random((2, manifest.input.n_channels, *shape), np.float32)
        both, first = run(batch), run(batch[:1])
        samples = (side // size for side, size in zip(shape, head.grid, strict=True))
        wanted: dict[str, tuple[int, ...]] = {"maps": (2, head.n_maps, *samples)}
        if n_style:
            wanted["style"] = (2, n_style)
        for name, wanted_shape in wanted.items():
            if name not in both or both[name].shape != wanted_shape:
                got = both[name].shape if name in both else "none"
                raise ModelError(f"expected {name} {wanted_shape} from an image {batch.shape}, got {got}; {report}")
            if not np.isfinite(both[name]).all():
                raise ModelError(f"expected finite {name}, got NaN or infinity from noise in [0, 1]; use other weights")
            if not np.allclose(both[name][:1], first[name], rtol=1e-4, atol=1e-4):
                raise ModelError(f"expected the same {name} in a batch of 1 and of 2, got others; {report}")


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
        raise _cannot_write(output, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def staging(output: Path) -> Iterator[Path]:
    """A path of the same name in a temporary folder beside `output`; whatever is left there goes at the end.

    The name of the data file is written in the model, so both get their final names there, and `publish` renames.
    """
    folder = output.with_name(f".{output.name}.{os.getpid()}.tmp")
    try:
        folder.mkdir()
    except OSError as error:
        raise _cannot_write(output, error) from error
    try:
        yield folder / output.name
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def publish(staged: Path, output: Path, *, force: bool) -> int:
    """Rename a staged model to its final name, its data file first; returns the bytes of both.

    Raises `FileError` if there is a file and not `force`, or the folder cannot be written; what was there is there
    then.
    """
    require_free(output, force=force)
    staged_data, data = data_file(staged), data_file(output)
    external = staged_data.exists()
    if external:
        require_free(data, force=force)
    kept = staged.with_name("replaced")  # the data of the model that is replaced, until the new one is in place
    try:
        n_bytes = sum(path.stat().st_size for path in (staged, staged_data)[: 1 + external])
        if external and data.exists():
            data.replace(kept)
        try:
            if external:
                staged_data.replace(data)
            staged.replace(output)
        except OSError:
            if external and not staged_data.exists():
                data.unlink()
            if kept.exists():
                os.replace(kept, data)
            raise
    except OSError as error:
        raise _cannot_write(output, error) from error
    return n_bytes


def _empty(
    graph: GraphBuilder,
    *,
    n_channels: int,
    n_maps: int,
    grid: tuple[int, ...],
    version: str,
    n_style: int,
    side: int | None,
) -> onnx.ModelProto:
    """The model without its constants."""
    sizes: list[str | int] = [*AXES[len(grid) - 2]] if side is None else [side] * len(grid)
    samples = [
        size if step == 1 else f"{size}/{step}" if isinstance(size, str) else size // step
        for size, step in zip(sizes, grid, strict=True)
    ]
    outputs = [helper.make_tensor_value_info("maps", TensorProto.FLOAT, ["N", n_maps, *samples])]
    if n_style:
        outputs.append(helper.make_tensor_value_info("style", TensorProto.FLOAT, ["N", n_style]))
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", n_channels, *sizes])
    return helper.make_model(
        helper.make_graph(graph.nodes, "cellrt", [image], outputs),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="cellrt",
        producer_version=version,
    )


def _external(name: str, value: NDArray[Any], location: str, offset: int) -> onnx.TensorProto:
    """A constant whose bytes lie in another file."""
    tensor = onnx.TensorProto(
        name=name,
        dims=value.shape,
        data_type=helper.np_dtype_to_tensor_dtype(value.dtype),
        data_location=onnx.TensorProto.EXTERNAL,
    )
    for key, text in (("location", location), ("offset", str(offset)), ("length", str(value.nbytes))):
        tensor.external_data.add(key=key, value=text)
    return tensor


def _serialized(message: onnx.ModelProto) -> bytes:
    content: bytes = message.SerializeToString(deterministic=True)
    return content


def _sizes(manifest: Manifest) -> list[tuple[int, ...]]:
    """Sides ([z,] y, x) of images that the network must take."""
    head, step = manifest.head, manifest.tile.multiple
    if isinstance(head, FlowSpec) and head.fixed_tile:
        return [(head.tile, head.tile)]
    return [(*step[:-1], 2 * step[-1]), (3 * step[0], *step[1:])]


def _cannot_write(path: Path, error: OSError) -> FileError:
    return FileError(f"expected to write {path}, got {error.strerror or error}; check permissions and disk space")
