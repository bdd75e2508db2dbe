"""The layers of a StarDist U-Net, their weights out of a Keras file, and their ONNX graph.

    image (N, C, [Z,] Y, X)
      grid stage   convolutions + pooling until the maps have their grid
      U-Net        down: convolutions, remember, pool; middle; up: upsample, concatenate, convolutions
      heads        features -> prob (sigmoid), dist (linear); features_class -> prob_class (softmax)
    maps (N, 1 + rays [+ classes + 1], [Z/gz,] Y/gy, X/gx), in that order

`trunk` lists the layers once; matching weights, writing nodes, reading them back and measuring reach (receptive_field)
all walk that list. Layers meet their weights by order and shape, as StarDist itself loads them: automatic names such as
conv2d_7 depend on the session that wrote the file. Another trunk, of the same heads, is in star_resnet. Source:
`StarDist2D._build`, `StarDist3D._build`, CSBDeep's `unet_block`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from cellrt.errors import ModelError
from cellrt.manifest import Star3DSpec, StarSpec
from cellrt_export import activations
from cellrt_export.keras_h5 import StoredLayer, StoredWeights
from cellrt_export.onnx_graph import StoredGraph
from cellrt_export.onnxfile import GraphBuilder
from cellrt_export.star_folder import ResnetConfig, Sides, StarConfig

_BATCH_NORM_EPSILON = 1e-3  # Keras's default, which StarDist does not change
MOST_FILTERS = 65536
# Names that StarDist gives its last layers in every version: where the file has one, it must be at its place.
_HEAD_NAMES = frozenset({"features", "features_class", "prob", "dist", "prob_class"})


@dataclass(frozen=True)
class Conv:
    """A convolution, [batch normalisation,] an activation: as many samples out as in, or each `stride`-th of them."""

    name: str
    kernel: Sides
    n_in: int
    n_out: int
    activation: str
    batch_norm: bool = False
    stride: Sides | None = None  # None: 1 along every axis
    may_lack_bias: bool = False  # the file can be without: versions of CSBDeep differ where normalisation follows

    @property
    def pads(self) -> tuple[Sides, Sides]:
        """Zeros before and after, for sides that are multiples of the stride: TensorFlow's padding "same"."""
        strides = self.stride or (1,) * len(self.kernel)
        zeros = [max(0, size - step) for size, step in zip(self.kernel, strides, strict=True)]
        return tuple(n // 2 for n in zeros), tuple(n - n // 2 for n in zeros)  # an odd one comes after


@dataclass(frozen=True)
class Pool:
    """The largest of each ([z,] y, x) block."""

    name: str
    size: Sides


@dataclass(frozen=True)
class Remember:
    """Keep these maps for the `Up` that mirrors this level, or the `Add` that ends this block."""


@dataclass(frozen=True)
class Up:
    """Repeat each sample `size` times, then append the channels of the maps remembered last."""

    name: str
    size: Sides


@dataclass(frozen=True)
class Add:
    """Add the maps remembered last, through a convolution where there is one; then an activation."""

    name: str
    shortcut: Conv | None
    activation: str


Step = Conv | Pool | Remember | Up | Add


@dataclass(frozen=True)
class Network:
    """The layers in the order in which they run, which is the order in the weights file."""

    trunk: tuple[Step, ...]
    features: Conv | None
    features_class: Conv | None
    prob: Conv
    dist: Conv
    prob_class: Conv | None

    def convolutions(self) -> Iterator[Conv]:
        """The layers that have weights, in the order of the file."""
        for step in self.trunk:
            if isinstance(step, Conv):
                yield step
            elif isinstance(step, Add) and step.shortcut is not None:
                yield step.shortcut
        heads = (self.features, self.features_class, self.prob, self.dist, self.prob_class)
        yield from (head for head in heads if head is not None)


def network(config: StarConfig) -> Network:
    """List the layers of a configuration.

    Raises `ModelError` for an activation without ONNX form, absurd widths, or a grid that pooling by 2 never reaches.
    """
    if any(size < 1 or size & (size - 1) for size in config.grid):
        number = "two" if len(config.grid) == 2 else "three"
        raise ModelError(f"expected grid to be {number} powers of 2, got {config.grid}; StarDist has no other grids")
    for activation in (config.unet_activation, config.unet_last_activation):
        activations.require_supported(activation)
    steps: list[Step] = []
    n_channels = config.n_channel_in
    per_level = config.unet_n_conv_per_depth

    def conv(name: str, n_out: int, activation: str = config.unet_activation, batch_norm: bool = False) -> None:
        nonlocal n_channels
        if not 1 <= n_out <= MOST_FILTERS:
            raise ModelError(
                f"expected 1..{MOST_FILTERS} filters in layer {name}, got {n_out} by unet_n_filter_base and "
                "unet_expansion in config.json; use the config.json StarDist wrote"
            )
        steps.append(Conv(name, config.unet_kernel_size, n_channels, n_out, activation, batch_norm))
        n_channels = n_out

    pooled: Sides = (1,) * len(config.grid)
    stage = 0
    while pooled != config.grid:  # never with batch normalisation, whatever the U-Net has
        size = halving(config.grid, pooled)
        for index in range(per_level):
            conv(f"grid_{stage}_no_{index}", config.unet_n_filter_base)
        steps.append(Pool(f"grid_pool_{stage}", size))
        pooled = tuple(done * by for done, by in zip(pooled, size, strict=True))
        stage += 1

    norm, depth = config.unet_batch_norm, config.unet_n_depth
    n_skip = []
    for level in range(depth):
        for index in range(per_level):
            conv(f"down_level_{level}_no_{index}", config.n_filters(level), batch_norm=norm)
        n_skip.append(n_channels)
        steps += [Remember(), Pool(f"max_{level}", config.unet_pool)]
    for index in range(per_level - 1):
        conv(f"middle_{index}", config.n_filters(depth), batch_norm=norm)
    conv(f"middle_{per_level}", config.n_filters(max(0, depth - 1)), batch_norm=norm)
    for level in reversed(range(depth)):
        steps.append(Up(f"up_{level}", config.unet_pool))
        n_channels += n_skip[level]
        for index in range(per_level - 1):
            conv(f"up_level_{level}_no_{index}", config.n_filters(level), batch_norm=norm)
        last = config.unet_activation if level > 0 else config.unet_last_activation
        conv(f"up_level_{level}_no_{per_level}", config.n_filters(max(0, level - 1)), last, norm)

    return with_heads(
        steps, n_channels, config, config.net_conv_after_unet, config.unet_kernel_size, config.unet_activation
    )


def halving(grid: Sides, done: Sides) -> Sides:
    """By what the next stage divides each side on the way to a grid: 2, or 1 where it is reached."""
    return tuple(1 + (goal > reached) for goal, reached in zip(grid, done, strict=True))


def with_heads(
    trunk: Sequence[Step],
    n_channels: int,
    config: StarConfig | ResnetConfig,
    n_features: int,
    kernel: Sides,
    activation: str,
) -> Network:
    """A trunk that ends with `n_channels`, and the layers behind it, with `n_features` in between unless that is 0."""

    def features(name: str) -> Conv | None:
        return Conv(name, kernel, n_channels, n_features, activation) if n_features else None

    def head(name: str, n_out: int, activation: str) -> Conv:
        return Conv(name, (1,) * len(kernel), n_features or n_channels, n_out, activation)

    classes = config.n_classes
    return Network(
        trunk=tuple(trunk),
        features=features("features"),
        features_class=None if classes is None else features("features_class"),
        prob=head("prob", 1, "sigmoid"),
        dist=head("dist", config.n_rays, "linear"),
        prob_class=None if classes is None else head("prob_class", classes + 1, "softmax"),
    )


Kernels = dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]  # name: ((out, in, [kz,] ky, kx), (out,))


def match_weights(layers: Network, stored: StoredWeights) -> Kernels:
    """Give every convolution its kernel and bias, batch normalisation folded in.

    Raises
    ------
    ModelError
        If the number of layers or a shape differs from the configuration, or a named layer is not at its place.
    """
    remaining = iter(stored.layers)
    kernels: Kernels = {}
    position = 0

    def take(conv: Conv, role: str, shapes: tuple[tuple[int, ...], ...], *, n_least: int | None = None) -> StoredLayer:
        nonlocal position
        position += 1
        layer = next(remaining, None)
        misplaced = layer is not None and layer.name in _HEAD_NAMES and layer.name != conv.name
        if layer is None or layer.shapes not in (shapes, shapes[:n_least]) or misplaced:
            got = "the end of the file" if layer is None else f"{_shapes(layer.shapes)} ({layer.name})"
            raise ModelError(
                f"weights do not fit config.json: expected layer {position} with weights to be {conv.name} "
                f"({role} {_shapes(shapes)}), got {got} in {stored.file_name}; "
                "use the config.json that was saved beside these weights"
            )
        return layer

    for conv in layers.convolutions():
        shapes = ((*conv.kernel, conv.n_in, conv.n_out), (conv.n_out,))
        kernel, *rest = take(conv, "kernel, bias", shapes, n_least=1 if conv.may_lack_bias else None).arrays
        bias = rest[0] if rest else np.zeros(conv.n_out, np.float32)
        if conv.batch_norm:
            norm = take(conv, "batch normalisation", ((conv.n_out,),) * 4)
            kernel, bias = _fold(kernel, bias, norm)
        kernels[conv.name] = np.moveaxis(kernel, (-1, -2), (0, 1)), bias
    if extra := [layer.name for layer in remaining]:
        raise ModelError(
            f"weights do not fit config.json: expected {position} layers with weights, got {len(extra)} more in "
            f"{stored.file_name} (from {extra[0]} on); use the config.json that was saved beside these weights"
        )
    return kernels


def _shapes(shapes: tuple[tuple[int, ...], ...]) -> str:
    return " and ".join(str(shape) for shape in shapes)


def _fold(
    kernel: NDArray[np.float32], bias: NDArray[np.float32], norm: StoredLayer
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Fold (x - mean) / sqrt(variance + eps) * gamma + beta into the convolution before it; kernel (..., in, out).

    In float64, so that one rounding is all that differs from the two layers.
    """
    gamma, beta, mean, variance = (array.astype(np.float64) for array in norm.arrays)
    if (variance < 0).any():
        raise ModelError(
            f"expected variances of at least 0 in layer {norm.name!r}, got {variance.min():g}; "
            "the weights file is damaged, copy it again"
        )
    factor = gamma / np.sqrt(variance + _BATCH_NORM_EPSILON)
    return (kernel * factor).astype(np.float32), ((bias - mean) * factor + beta).astype(np.float32)


def build(layers: Network, kernels: Kernels, *, keras_version: int) -> GraphBuilder:
    """Write the nodes: input `image`, output `maps`."""
    graph = GraphBuilder()

    def convolve(conv: Conv, x: str) -> str:
        weight, bias = kernels[conv.name]
        name = conv.name if conv.activation == "linear" else f"{conv.name}_conv"
        before, after = conv.pads
        constants = [graph.constant(f"{conv.name}_kernel", weight), graph.constant(f"{conv.name}_bias", bias)]
        strides = {} if conv.stride is None else {"strides": conv.stride}
        x = graph.node("Conv", name, [x, *constants], kernel_shape=conv.kernel, pads=before + after, **strides)
        return activations.add_activation(graph, conv.activation, x, name=conv.name, keras_version=keras_version)

    x = "image"
    remembered: list[str] = []
    for step in layers.trunk:
        if isinstance(step, Conv):
            x = convolve(step, x)
        elif isinstance(step, Pool):
            x = graph.node("MaxPool", step.name, [x], kernel_shape=step.size, strides=step.size)
        elif isinstance(step, Remember):
            remembered.append(x)
        elif isinstance(step, Add):
            skipped = remembered.pop()
            skipped = skipped if step.shortcut is None else convolve(step.shortcut, skipped)
            name = step.name if step.activation == "linear" else f"{step.name}_sum"
            x = graph.node("Add", name, [skipped, x])
            x = activations.add_activation(graph, step.activation, x, name=step.name, keras_version=keras_version)
        else:
            sizes = "_".join(map(str, step.size))
            scales = graph.constant(f"scales_{sizes}", np.array([1, 1, *step.size], np.float32))
            nearest = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
            x = graph.node("Resize", f"{step.name}_repeat", [x, "", scales], **nearest)
            x = graph.node("Concat", step.name, [x, remembered.pop()], axis=1)

    shared = x if layers.features is None else convolve(layers.features, x)
    maps = [convolve(layers.prob, shared), convolve(layers.dist, shared)]
    if layers.prob_class is not None:
        of_class = x if layers.features_class is None else convolve(layers.features_class, x)
        maps.append(convolve(layers.prob_class, of_class))
    graph.node("Concat", "maps", maps, axis=1)
    return graph


def read(stored: StoredGraph) -> tuple[StarConfig, Kernels]:
    """What `build` wrote: the configuration, without the batch normalisation that is folded, and the kernels.

    What a network does not show, such as the expansion of one with a single width, takes StarDist's default.

    Raises
    ------
    ModelError
        If the file holds another kind of network, or not exactly what `build` writes for its configuration.
    """
    head = stored.manifest.head
    if isinstance(head, Star3DSpec):
        raise ModelError(
            f"expected a StarDist 2D network in {stored.file_name}, got a 3D one; it can be run, but not trained here"
        )
    if not isinstance(head, StarSpec):
        raise ModelError(
            f"expected a StarDist network in {stored.file_name}, got one with the head {head.kind!r}; use a file that "
            "cellrt export stardist wrote"
        )
    config = _config(stored, head)
    layers = network(config)
    kernels: Kernels = {}
    for conv in layers.convolutions():
        kernel, bias = (stored.constants.get(f"{conv.name}_{array}", np.zeros(0)) for array in ("kernel", "bias"))
        wanted = (conv.n_out, conv.n_in, *conv.kernel), (conv.n_out,)
        if (kernel.shape, bias.shape) != wanted:
            raise _unreadable(stored, f"{conv.name} with {_shapes(wanted)}", _shapes((kernel.shape, bias.shape)))
        kernels[conv.name] = kernel, bias
    stored.require_like(build(layers, kernels, keras_version=3))
    return config, kernels


def _config(stored: StoredGraph, head: StarSpec) -> StarConfig:
    """The configuration that names, shapes and activations speak of."""
    nodes = stored.nodes
    kernels = {
        name.removesuffix("_kernel"): value.shape
        for name, value in stored.constants.items()
        if name.endswith("_kernel") and value.ndim == 4
    }
    n_convs = max((int(name[7:]) for name in kernels if re.fullmatch(r"middle_\d{1,2}", name)), default=0)
    depth = sum(re.fullmatch(r"max_\d{1,2}", name) is not None for name in nodes)
    # the last convolution of each level, which is there however few it has
    middle, last = f"middle_{n_convs}", [f"up_level_{level}_no_{n_convs}" for level in range(depth)]
    if missing := [name for name in (middle, *last) if name not in kernels]:
        raise _unreadable(stored, f"a layer {missing[0]}", ", ".join([*kernels][:3]) or "none")
    widths = {max(0, level - 1): kernels[name][0] for level, name in enumerate([*last, middle])}
    if n_convs > 1 and "middle_0" in kernels:
        widths[depth] = kernels["middle_0"][0]

    def activation(conv: str) -> str:
        if conv in nodes and nodes[conv].op_type == "Conv":
            return "linear"
        found = activations.recognize(nodes, f"{conv}_conv", name=conv)
        if found is None:
            got = nodes[conv].op_type if conv in nodes else "none"
            raise _unreadable(stored, f"one of Keras 3's activations behind {conv}", got)
        return found

    return StarConfig(
        n_channel_in=stored.manifest.input.n_channels,
        n_rays=head.n_rays,
        grid=head.grid,
        n_classes=head.n_classes,
        unet_n_depth=depth,
        unet_kernel_size=kernels[middle][2:],
        unet_n_filter_base=widths[0],
        unet_n_conv_per_depth=n_convs,
        unet_pool=_pool(nodes["max_0"]) if depth and "max_0" in nodes else (2, 2),
        unet_activation=activation(middle),
        unet_last_activation=activation(last[0] if depth else middle),
        unet_batch_norm=False,
        unet_expansion=_expansion(stored, widths),
        net_conv_after_unet=kernels.get("features", (0,))[0],
    )


def _pool(node: onnx.NodeProto) -> Sides:
    """The size of a pooling."""
    return tuple(next(attribute.ints for attribute in node.attribute if attribute.name == "kernel_shape"))


def _expansion(stored: StoredGraph, widths: Mapping[int, int]) -> float:
    """The shortest number by which filters grow from level to level to these widths; any that does is the same."""
    base, deeper = widths[0], {level: width for level, width in widths.items() if level}
    if not deeper:
        return 2
    least = max((width / base) ** (1 / level) for level, width in deeper.items())
    for digits in range(16):
        expansion = math.ceil(least * 10**digits - 1e-9) / 10**digits  # roots are rounded either way
        if all(int(base * expansion**level) == width for level, width in deeper.items()):
            return int(expansion) if digits == 0 else expansion
    raise _unreadable(stored, "filters that grow by one factor from level to level", f"{widths}")


def _unreadable(stored: StoredGraph, wanted: str, got: str) -> ModelError:
    return ModelError(
        f"expected {wanted} in {stored.file_name}, got {got}; use a file as cellrt export stardist wrote it"
    )
