"""How much memory a network needs while it runs, told from its graph: what goes into the manifest as `MemorySpec`.

Graph -> bytes per pixel of the input. The nodes are walked in their order, with the shapes that ONNX infers, and three
habits of ONNX Runtime on a CPU are followed: convolutions and poolings work on blocks of channels, and a tensor that
another kind of node wants too is there a second time (in 2D; in 3D all tensors lie alike); some nodes write where
their input lay; blocks of memory that were freed are taken again where they fit, and are kept. Of a graph in 8 bits
(quantize), a node between rounded tensors becomes one that computes in integers. Measured on an x86-64 CPU, that comes
within a fifth of what ONNX Runtime 1.31 takes, and mostly within a twentieth.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from cellrt.manifest import MemorySpec
from cellrt_export.onnxfile import OPSET, GraphBuilder

_SIDES = {2: 512, 3: 64}  # pixels, by the number of axes: what does not grow with the image counts for little
_FIXED = 256  # pixels: networks with steps from this size on take one size
_KEPT = 4096  # numbers: smaller constants are shown to shape inference, which needs some of them
_MARGIN = 17 / 16  # what a run takes beside tensors, and what this walk does not see

# How often the weights are in memory once a file is open, measured: those of convolutions in 2D as read, unpacked and
# in blocks; those of matrix products, and of convolutions in 3D, once, and once more in half the size where they are
# stored as float16.
CONVOLUTIONS = 3.0
MATRICES = {"fp32": 1.1, "fp16": 1.6}

_IN_BLOCKS = ("Conv", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool")
_IN_EITHER = ("BatchNormalization", "Relu", "Sigmoid", "Tanh", "Add", "Mul", "Concat", "Resize")  # as their inputs are
_IN_PLACE = (
    *("Abs", "Add", "BatchNormalization", "Clip", "Div", "Elu", "Exp", "Flatten", "Identity", "LeakyRelu", "Mul"),
    *("Relu", "Reshape", "Sigmoid", "Softplus", "Sqrt", "Squeeze", "Sub", "Tanh", "Unsqueeze"),
)


def spec(
    graph: GraphBuilder,
    *,
    n_channels: int,
    multiple: tuple[int, ...],
    outputs: Sequence[str] = ("maps",),
    copies: float = CONVOLUTIONS,
) -> MemorySpec:
    """What the manifest says of a network.

    Parameters
    ----------
    graph : GraphBuilder
    n_channels : int
        Of `image`, its input.
    multiple : tuple of int
        Sides of the image are multiples of this.
    outputs : sequence of str
    copies : float
        How often the weights, as float32 or int8, are in memory.
    """
    sides = tuple(-(-_SIDES[len(multiple)] // step) * step for step in multiple)
    if max(multiple) >= _FIXED:  # a network of one size: its attention would grow with the square of the pixels
        sides = multiple
    sizes, constants = _sizes(graph, (1, n_channels, *sides), outputs)
    arena, seen = _Arena(), _Layouts(sizes, constants, blocks=len(multiple) == 2)
    steps = [step for node in _fused(graph, constants, sizes) for step in seen.steps(node)]
    results = set(outputs)
    last = {name: index for index, step in enumerate(steps) for name in step.inputs}
    place: dict[str, int] = {}
    users: dict[int, int] = {}
    for index, step in enumerate(steps):
        ending = [name for name in step.inputs if last[name] == index and name not in results and name in place]
        reused = [
            place[name]
            for name in ending
            if step.in_place and users[place[name]] == 1 and sizes[name] == sizes[step.outputs[0]]
        ]
        for name in step.outputs:
            place[name] = reused[0] if reused else arena.take(sizes[name])
            users[place[name]] = users.get(place[name], 0) + 1
        for name in (*ending, *(name for name in step.outputs if name not in last and name not in results)):
            users[place[name]] -= 1
            if not users[place[name]]:
                arena.give(place[name])
    # beside the arena: the input, and the outputs as they are handed over
    total = arena.size + sizes["image"] + sum(sizes[name] for name in results)
    weights = sum((1 if value.dtype == np.int8 else 4) * value.size for value in graph.constants.values())
    return MemorySpec(bytes_per_pixel=math.ceil(_MARGIN * total / math.prod(sides)), weights=int(copies * weights))


def _sizes(graph: GraphBuilder, image: tuple[int, ...], outputs: Sequence[str]) -> tuple[dict[str, int], set[str]]:
    """Bytes of every tensor for an image of that shape, and the names of those that are constant."""
    inputs = [helper.make_tensor_value_info("image", TensorProto.FLOAT, image)]
    stored = []
    for name, value in graph.constants.items():
        if value.size <= _KEPT:
            stored.append(numpy_helper.from_array(value, name))
        else:  # a gigabyte, perhaps: its shape will do
            kind = helper.np_dtype_to_tensor_dtype(value.dtype)
            inputs.append(helper.make_tensor_value_info(name, kind, value.shape))
    results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    model = helper.make_model(
        helper.make_graph(graph.nodes, "cellrt", inputs, results, stored),
        opset_imports=[helper.make_opsetid("", OPSET)],
    )
    known = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    sizes = {}
    for info in (*known.input, *known.value_info, *known.output):
        tensor = info.type.tensor_type
        sides = [side.dim_value for side in tensor.shape.dim]
        sizes[info.name] = math.prod(sides) * helper.tensor_dtype_to_np_dtype(tensor.elem_type).itemsize
    constants = set(graph.constants)
    for node in graph.nodes:
        if node.input and all(name in constants for name in node.input if name):
            constants.update(node.output)  # computed once, when the file is opened
    return sizes, constants


def _fused(graph: GraphBuilder, constants: Collection[str], sizes: dict[str, int]) -> Iterator[onnx.NodeProto]:
    """The nodes that run: of what `quantize` writes, one for a node with those that round its inputs and its result.

    A convolution in integers has a table of pointers to samples, one per sample of the result and of the kernel.
    """
    rounded = {node.output[0]: node.input[0] for node in graph.nodes if node.op_type == "DequantizeLinear"}
    readers: dict[str, list[onnx.NodeProto]] = {node.output[0]: [] for node in graph.nodes}
    for node in graph.nodes:
        for name in {*node.input} & readers.keys():
            readers[name].append(node)
    integer: dict[str, onnx.NodeProto] = {}  # by the name of the node that it is in place of
    gone: set[str] = set()
    for node in graph.nodes:
        inputs = [name for name in node.input if name and name not in constants]
        end, followers = node, readers[node.output[0]]
        if [follower.op_type for follower in followers] == ["Relu"]:
            end, followers = followers[0], readers[followers[0].output[0]]
        if [follower.op_type for follower in followers] != ["QuantizeLinear"] or not {*inputs} <= rounded.keys():
            continue
        outputs = [followers[0].output[0]]
        if node.op_type == "Conv":
            kernel = graph.constants[rounded[node.input[1]]]
            n_samples = sizes[node.output[0]] // (4 * len(kernel))
            outputs.append(f"{node.name} pointers")
            sizes[outputs[1]] = 8 * math.prod(kernel.shape[2:]) * n_samples
        integer[node.name] = helper.make_node("Integer", [rounded[name] for name in inputs], outputs, name=node.name)
        gone |= {end.name, followers[0].name} - {node.name}
    for node in graph.nodes:
        unread = node.output[0] in rounded and all(reader.name in integer for reader in readers[node.output[0]])
        if node.name not in gone and not unread:
            yield integer.get(node.name, node)


@dataclass(frozen=True)
class _Step:
    """A node, or the copy of a tensor into another order."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    in_place: bool = False


class _Layouts:
    """Which tensors lie in blocks of channels, and the copies that nodes of the other kind need."""

    def __init__(self, sizes: dict[str, int], constants: set[str], *, blocks: bool) -> None:
        self._sizes, self._constants, self._blocks = sizes, constants, blocks
        self._in_blocks: dict[str, bool] = {"image": False}
        self._copies: dict[str, str] = {}

    def steps(self, node: onnx.NodeProto) -> Iterator[_Step]:
        """What a node takes: copies of its inputs, where needed, and itself."""
        inputs = [name for name in dict.fromkeys(node.input) if name and name not in self._constants]
        if not inputs and node.output[0] in self._constants:
            return
        wanted = self._blocks and node.op_type in _IN_BLOCKS
        if node.op_type in _IN_EITHER:
            wanted = all(self._in_blocks[name] for name in inputs)
        for index, name in enumerate(inputs):
            if self._in_blocks[name] == wanted or name == "image":  # a convolution takes the image as it is
                continue
            copy = f"{name} reordered"
            if name not in self._copies:
                self._copies[name], self._sizes[copy] = copy, self._sizes[name]
                yield _Step((name,), (copy,))
            inputs[index] = copy
        outputs = tuple(name for name in node.output if name)
        self._in_blocks.update(dict.fromkeys(outputs, wanted))
        yield _Step(tuple(inputs), outputs, node.op_type in _IN_PLACE)


class _Arena:
    """Memory as ONNX Runtime's arena hands it out: the smallest free piece that fits, else a new region."""

    def __init__(self) -> None:
        self.size = 0
        self._regions: list[list[list[int]]] = []  # of pieces [bytes, number of the taker or 0], in their order
        self._n_taken = 0

    def take(self, size: int) -> int:
        """Take a piece; returns its number."""
        self._n_taken += 1
        free = [
            (piece[0], region, index)
            for region in self._regions
            for index, piece in enumerate(region)
            if not piece[1] and piece[0] >= size
        ]
        if not free:
            self.size += size
            self._regions.append([[size, self._n_taken]])
            return self._n_taken
        length, region, index = min(free, key=lambda entry: entry[0])
        if length >= 2 * size:  # else the rest is left unused
            region[index : index + 1] = [[size, self._n_taken], [length - size, 0]]
        else:
            region[index][1] = self._n_taken
        return self._n_taken

    def give(self, number: int) -> None:
        """Give a piece back; free neighbours become one."""
        for region in self._regions:
            for piece in region:
                if piece[1] == number:
                    piece[1] = 0
                    merged = [region[0]]
                    for follower in region[1:]:
                        if merged[-1][1] or follower[1]:
                            merged.append(follower)
                        else:
                            merged[-1][0] += follower[0]
                    region[:] = merged
                    return
