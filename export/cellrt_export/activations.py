"""Keras activations by their name in a config.json -> ONNX nodes.

Every activation of Keras 3 that works value by value, and the softmaxes over channels. Keras 2 had fewer, and
`hard_sigmoid` with another slope. Formulas: keras/src/activations/activations.py and the TensorFlow backend.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx

from cellrt.errors import ModelError
from cellrt_export.onnxfile import GraphBuilder

# name: (ONNX operator of opset 17, attributes); an alpha that is not given is Keras's default and ONNX's alike
_OPERATORS: dict[str, tuple[str, dict[str, Any]]] = {
    "celu": ("Celu", {"alpha": 1.0}),
    "elu": ("Elu", {"alpha": 1.0}),
    "exponential": ("Exp", {}),
    "hard_shrink": ("Shrink", {"lambd": 0.5, "bias": 0.0}),
    "hard_silu": ("HardSwish", {}),
    "hard_swish": ("HardSwish", {}),
    "leaky_relu": ("LeakyRelu", {"alpha": 0.2}),
    "log_softmax": ("LogSoftmax", {"axis": 1}),
    "relu": ("Relu", {}),
    "selu": ("Selu", {}),
    "sigmoid": ("Sigmoid", {}),
    "soft_shrink": ("Shrink", {"lambd": 0.5, "bias": 0.5}),
    "softmax": ("Softmax", {"axis": 1}),
    "softplus": ("Softplus", {}),
    "softsign": ("Softsign", {}),
    "sparse_sigmoid": ("HardSigmoid", {"alpha": 0.5, "beta": 0.5}),
    "tanh": ("Tanh", {}),
}
_HARD_SIGMOID = {2: {"alpha": 0.2, "beta": 0.5}, 3: {"alpha": 1 / 6, "beta": 0.5}}
_COMPOSED = ("gelu", "hard_tanh", "log_sigmoid", "mish", "relu6", "silu", "sparse_plus", "squareplus", "swish")
SUPPORTED = tuple(sorted({*_OPERATORS, *_COMPOSED, "hard_sigmoid", "linear", "tanh_shrink"}))


def require_supported(activation: str) -> None:
    """Raise `ModelError` if the activation has no ONNX form here."""
    if activation not in SUPPORTED:
        raise ModelError(
            f"expected an activation out of {', '.join(SUPPORTED)}, got {activation!r} in config.json; "
            "a network with another one cannot be exported"
        )


def add_activation(graph: GraphBuilder, activation: str, x: str, *, name: str, keras_version: int) -> str:
    """Append the nodes of an activation on tensor `x`; returns the name of the result, `name` or `x` for linear.

    `keras_version` is the major version that wrote the weights: the network was trained with its definitions.
    """
    require_supported(activation)
    if activation == "linear":
        return x
    if activation == "hard_sigmoid":
        return graph.node("HardSigmoid", name, [x], **_HARD_SIGMOID[2 if keras_version < 3 else 3])
    if activation in _OPERATORS:
        operator, attributes = _OPERATORS[activation]
        return graph.node(operator, name, [x], **attributes)
    return _composed(graph, activation, x, name)


def recognize(nodes: Mapping[str, onnx.NodeProto], x: str, *, name: str) -> str | None:
    """The activation whose nodes `add_activation` appended on tensor `x` under `name`, by Keras 3's definitions.

    The first one of those that are the same (silu and swish); None if it is none of them.
    """
    for activation in SUPPORTED:
        graph = GraphBuilder()
        result = add_activation(graph, activation, x, name=name, keras_version=3)
        if result != x and all(nodes.get(node.name) == node for node in graph.nodes):
            return activation
    return None


def _composed(graph: GraphBuilder, activation: str, x: str, name: str) -> str:
    """The activations that are no single operator of opset 17."""
    node, scalar = graph.node, graph.scalar
    if activation in ("silu", "swish"):  # x sigmoid(x)
        return node("Mul", name, [x, node("Sigmoid", f"{name}_sigmoid", [x])])
    if activation == "gelu":  # x (1 + erf(x / sqrt 2)) / 2
        erf = node("Erf", f"{name}_erf", [node("Mul", f"{name}_scaled", [x, scalar(0.5**0.5)])])
        half = node("Mul", f"{name}_half", [x, scalar(0.5)])
        return node("Mul", name, [half, node("Add", f"{name}_gate", [erf, scalar(1)])])
    if activation == "mish":  # x tanh(softplus(x))
        softplus = node("Softplus", f"{name}_softplus", [x])
        return node("Mul", name, [x, node("Tanh", f"{name}_gate", [softplus])])
    if activation == "relu6":
        return node("Clip", name, [x, scalar(0), scalar(6)])
    if activation == "hard_tanh":
        return node("Clip", name, [x, scalar(-1), scalar(1)])
    if activation == "tanh_shrink":
        return node("Sub", name, [x, node("Tanh", f"{name}_tanh", [x])])
    if activation == "log_sigmoid":  # -softplus(-x)
        softplus = node("Softplus", f"{name}_softplus", [node("Neg", f"{name}_minus", [x])])
        return node("Neg", name, [softplus])
    if activation == "squareplus":  # (x + sqrt(x^2 + 4)) / 2
        square = node("Add", f"{name}_square_plus_4", [node("Mul", f"{name}_square", [x, x]), scalar(4)])
        total = node("Add", f"{name}_sum", [x, node("Sqrt", f"{name}_root", [square])])
        return node("Mul", name, [total, scalar(0.5)])
    # sparse_plus: 0 up to -1, (x + 1)^2 / 4 up to 1, then x, which is (clip(x, -1, 1) + 1)^2 / 4 + relu(x - 1)
    inner = node("Clip", f"{name}_clip", [x, scalar(-1), scalar(1)])
    root = node("Mul", f"{name}_root", [node("Add", f"{name}_shifted", [inner, scalar(1)]), scalar(0.5)])
    square = node("Mul", f"{name}_square", [root, root])
    above = node("Relu", f"{name}_above", [node("Sub", f"{name}_excess", [x, scalar(1)])])
    return node("Add", name, [square, above])
