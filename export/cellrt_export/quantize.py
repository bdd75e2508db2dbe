"""A float32 graph and the extremes of its tensors -> the same graph in 8-bit arithmetic, where that keeps accuracy.

Passes the door: a `GraphBuilder` whose convolutions have constant kernels, and what `observing` saw its tensors hold.
Comes out: a graph in which these tensors are rounded to uint8 (QuantizeLinear) and taken as what they mean again
(DequantizeLinear). ONNX Runtime's CPU provider fuses such pairs with the node between them into one that computes in
integers; other providers run the nodes as they stand. Not here: images, and what rounding costs (calibration).

Activations have a scale and a zero point per tensor, from the extremes: cutting outliers off cost objects. Kernels are
int8, symmetric, with a scale per channel of the result and at most 64 in magnitude. x86-64 CPUs without VNNI add two
products in 16 bits and saturate there; 2 * 255 * 64 is below 2^15, so that all CPUs have the same sums, and the full
speed of 8 bits. Measured, the bit that this gives away costs up to 0.03 of AP at IoU 0.9; uint8 kernels, which need no
such limit, make `nuclei` slower than float32 on a CPU with AVX2 (0.9x, for 1.3x with these).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from cellrt.errors import ModelError
from cellrt_export.onnxfile import GraphBuilder

Extremes = Mapping[str, tuple[float, float]]  # least and largest value, by the tensor's name

_MOVES = ("MaxPool", "Resize", "Concat")  # operators that move values, or choose among them
_SAME_VALUES = ("MaxPool", "Resize")  # whose results are values of their one input: rounding again would lose
_MOST_WEIGHT = 64  # see above
_MOST_BIAS = 2**30  # what an int32 sum can begin with, and half of what it can hold
_LEAST_SCALE = 1e-9  # of tensors and kernels; products of two stay normal numbers


@dataclass(frozen=True)
class Plan:
    """What of a graph is computed in 8 bits."""

    nodes: frozenset[str]  # by name
    tensors: tuple[str, ...]  # that are rounded to 8 bits, in the order of the nodes that make them


def plan(graph: GraphBuilder, *, keep: Collection[str] = ()) -> Plan:
    """Decide what is computed in 8 bits: convolutions, ReLU behind them, and what moves their results about.

    Sums stay in float32, and so does what is computed of them: of residual networks, whose sums run through all layers,
    more objects differ otherwise (measured on `cells`: AP 0.91 instead of 0.95 at IoU 0.9), for a gain that is small.

    Parameters
    ----------
    graph : GraphBuilder
    keep : collection of str
        Names of nodes that stay in float32.
    """
    readers = _readers(graph)
    nodes: set[str] = set()
    tensors: set[str] = set()
    results: dict[str, onnx.NodeProto] = {}  # of the nodes so far, by tensor
    for node in graph.nodes:
        inputs = [name for name in node.input if name and name not in graph.constants]
        (output,) = node.output
        if node.name in keep:
            continue
        if node.op_type == "Conv" and node.input[1] in graph.constants:
            tensors.update(inputs)
        elif node.op_type == "Relu" and inputs[0] in results and _become_one(results[inputs[0]], readers[inputs[0]]):
            tensors.discard(inputs[0])  # the two round once
        elif node.op_type not in _MOVES or not all(name in tensors and name in results for name in inputs):
            continue
        nodes.add(node.name)
        results[output] = node
        if readers[output]:
            tensors.add(output)
    produced = ["image", *(name for node in graph.nodes for name in node.output)]
    return Plan(frozenset(nodes), tuple(name for name in produced if name in tensors))


def observing(model: bytes, tensors: Collection[str]) -> bytes:
    """A model that has two more outputs per tensor, its least and its largest value: see `extremes_in`."""
    observed = onnx.load_model_from_string(model)
    for name in _made(tensors):
        for operator, output in zip(("ReduceMin", "ReduceMax"), _outputs_of(name), strict=True):
            observed.graph.node.append(helper.make_node(operator, [name], [output], name=output, keepdims=0))
            observed.graph.output.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, []))
    content: bytes = observed.SerializeToString(deterministic=True)
    return content


def extremes_in(outputs: Mapping[str, NDArray[np.float32]], tensors: Collection[str]) -> dict[str, tuple[float, float]]:
    """What a model of `observing` says of tensors, out of its outputs; of all but `image`, its input."""
    found = {}
    for name in _made(tensors):
        least, largest = (float(outputs[key]) for key in _outputs_of(name))
        found[name] = least, largest
    return found


def quantized(graph: GraphBuilder, plan: Plan, extremes: Extremes) -> GraphBuilder:
    """The graph with the tensors of a plan rounded to uint8 and the kernels of its convolutions to int8.

    Parameters
    ----------
    graph : GraphBuilder
        Float32; not changed.
    plan : Plan
        What `plan` decided for this graph.
    extremes : mapping of str to (float, float)
        Of every tensor of the plan.

    Raises
    ------
    ModelError
        If an extreme is not finite.
    """
    scales = _scales(graph, plan, extremes)
    result = GraphBuilder()
    rounded: dict[str, str] = {}  # tensor: the name of what it is after rounding

    def round_to_8_bits(name: str) -> None:
        scale, zero = scales[name]
        # Not by `constant`, which makes numbers arrays of one: some integer operators want numbers.
        result.constants |= {f"{name}_scale": np.array(scale, np.float32), f"{name}_zero": np.array(zero, np.uint8)}
        parameters = [f"{name}_scale", f"{name}_zero"]
        stored = result.node("QuantizeLinear", f"{name}_uint8", [name, *parameters])
        rounded[name] = result.node("DequantizeLinear", f"{name}_rounded", [stored, *parameters])

    if "image" in plan.tensors:
        round_to_8_bits("image")
    for node in graph.nodes:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.input[:] = [rounded.get(name, name) for name in node.input]
        if node.op_type == "Conv" and node.name in plan.nodes:
            scale, _ = scales[node.input[0]]
            copy.input[1:] = _round_weights(result, node, graph.constants, scale)
        result.nodes.append(copy)
        for name in node.output:
            if name in plan.tensors:
                round_to_8_bits(name)
    used = {name for node in result.nodes for name in node.input}
    kept = {name: value for name, value in graph.constants.items() if name in used}
    result.constants = kept | result.constants
    return result


def _readers(graph: GraphBuilder) -> dict[str, list[onnx.NodeProto]]:
    """The nodes that take each tensor."""
    readers: dict[str, list[onnx.NodeProto]] = {name: [] for node in graph.nodes for name in node.output}
    for node in graph.nodes:
        for name in {*node.input} & readers.keys():
            readers[name].append(node)
    return readers


def _become_one(node: onnx.NodeProto, readers: list[onnx.NodeProto]) -> bool:
    """Whether a convolution's only reader can be computed along with it."""
    return node.op_type == "Conv" and len(readers) == 1


def _made(tensors: Collection[str]) -> list[str]:
    """The tensors that nodes make."""
    return [name for name in tensors if name != "image"]


def _outputs_of(name: str) -> tuple[str, str]:
    """The names of the outputs that say what a tensor holds."""
    return f"{name}_least", f"{name}_largest"


def _scales(graph: GraphBuilder, plan: Plan, extremes: Extremes) -> dict[str, tuple[np.float32, int]]:
    """Scale and zero point of every tensor: 0 is exact, and padding is 0."""
    scales: dict[str, tuple[np.float32, int]] = {}
    same = {
        node.output[0]: node.input[0]
        for node in graph.nodes
        if node.op_type in _SAME_VALUES and node.name in plan.nodes and node.input[0] in plan.tensors
    }
    for name in plan.tensors:  # inputs come before what is made of them
        if name in same:
            scales[name] = scales[same[name]]
            continue
        least, largest = extremes[name]
        if not (np.isfinite(least) and np.isfinite(largest)):
            raise ModelError(f"expected finite values in {name}, got {least:g} to {largest:g}; use other weights")
        least, largest = min(0.0, least), max(0.0, largest)
        scale = np.float32(max((largest - least) / 255, _LEAST_SCALE))
        scales[name] = scale, int(np.clip(np.rint(-least / scale), 0, 255))
    return scales


def _round_weights(
    result: GraphBuilder, node: onnx.NodeProto, constants: Mapping[str, NDArray[np.float32]], input_scale: np.float32
) -> list[str]:
    """Store kernel and bias of a convolution as integers; returns the names of what they mean.

    A channel of a small kernel and a large bias gets the scale at which its bias still fits.
    """
    kernel = constants[node.input[1]].astype(np.float64)
    axes = tuple(range(1, kernel.ndim))
    bias = constants[node.input[2]].astype(np.float64) if len(node.input) > 2 else np.zeros(len(kernel))
    least = np.maximum(np.abs(bias) / (float(input_scale) * _MOST_BIAS), _LEAST_SCALE)
    scale = np.maximum(np.abs(kernel).max(axes, initial=0) / _MOST_WEIGHT, least).astype(np.float32)
    stored = np.clip(np.rint(kernel / np.expand_dims(scale, axes)), -_MOST_WEIGHT, _MOST_WEIGHT).astype(np.int8)
    parameters = [
        result.constant(f"{node.name}_kernel_scale", scale),
        result.constant(f"{node.name}_kernel_zero", np.zeros(len(scale), np.int8)),
    ]
    weights = result.constant(f"{node.name}_kernel_int8", stored)
    names = [result.node("DequantizeLinear", f"{node.name}_kernel_rounded", [weights, *parameters], axis=0)]
    if len(node.input) > 2:
        bias_scale = input_scale * scale  # of the sums, in float32 as the integer operator has it
        whole = result.constant(f"{node.name}_bias_int32", np.rint(bias / bias_scale).astype(np.int32))
        parameter = result.constant(f"{node.name}_bias_scale", bias_scale)
        names.append(result.node("DequantizeLinear", f"{node.name}_bias_rounded", [whole, parameter], axis=0))
    return names
