"""The layers of Cellpose 1 to 3's network (CPnet), read off its weights, and their ONNX graph.

    image (N, C, Y, X)
      down     four 3 x 3 convolutions per level in two residual steps; the largest of 2 x 2 samples between levels
      style    mean of the deepest level's maps, scaled to length 1 (with no epsilon, as the original)
      up       the same blocks from the deepest level to the finest, each twice as fine as the one before, with the maps
               of the way down added, and a linear function of the style at three places
      output   a 1 x 1 convolution
    maps (N, 3, Y, X): flow y, flow x (5 per pixel and step), cell logit; style (N, S)

Before every convolution come batch normalisation and ReLU, which leaves three ways to be exact and faster (`read` goes
all of them back). A
normalisation that only sees one convolution is folded into it, or into the two terms of a sum that only it sees. One
without ReLU (`proj`) is folded into the convolution behind it. And what is computed of samples that were just repeated
2 x 2 times is computed before: `proj`, normalisation and ReLU do not mind, and of a 3 x 3 convolution each of the four
results per sample sees only 2 x 2 different ones, so that four kernels of sums do 4/9 of the work. Folding is done in
float64. Source: Stringer et al., "Cellpose", Nature Methods 2021; https://github.com/MouseLand/cellpose.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellrt.errors import ModelError
from cellrt.manifest import FlowSpec
from cellrt_export.onnx_graph import StoredGraph
from cellrt_export.onnxfile import GraphBuilder
from cellrt_export.star_graph import Conv, Pool, Remember, Step, Up
from cellrt_export.torch_weights import TorchWeights

N_MAPS = 3
LAST_NODES = frozenset({"maps"})  # what stays in float32 if all before it is rounded to 8 bits
DIAMETERS = ("diam_mean", "diam_labels")  # in the weights of Cellpose 2 and later, (1,) each, pixels
_EPSILON = 1e-5  # of every batch normalisation
_NORM = ("weight", "bias", "running_mean", "running_var")  # the arrays of one
_KERNEL = 3
_MOST_LEVELS = 5  # Cellpose pads images to multiples of 16, which is what five levels need
_MOST_CHANNELS = 65536
_NAMED = 3  # names that a message lists


@dataclass(frozen=True)
class CpnetSizes:
    """The sizes of a network."""

    n_channels: int
    widths: tuple[int, ...]  # channels of the maps of each level, the finest first

    @property
    def multiple(self) -> int:
        """Sides of the image are multiples of this."""
        return 1 << (len(self.widths) - 1)

    @property
    def n_style(self) -> int:
        """Values of the style."""
        return self.widths[-1]

    def shapes(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Names and shapes of the weights."""

        def normed(layer: str, n_in: int, n_out: int, kernel: int = _KERNEL, conv: int = 2) -> Any:
            for array in _NORM:
                yield f"{layer}.0.{array}", (n_in,)
            yield f"{layer}.{conv}.weight", (n_out, n_in, kernel, kernel)
            yield f"{layer}.{conv}.bias", (n_out,)

        for level, (n_in, n_out) in enumerate(pairwise((self.n_channels, *self.widths))):
            block = _down(level)
            yield from normed(f"{block}.proj", n_in, n_out, 1, conv=1)
            yield from normed(f"{block}.conv.conv_0", n_in, n_out)
            for t in (1, 2, 3):
                yield from normed(f"{block}.conv.conv_{t}", n_out, n_out)
        for level, (n_out, n_in) in enumerate(pairwise((*self.widths, self.n_style))):
            block = _up(level)
            yield from normed(f"{block}.proj", n_in, n_out, 1, conv=1)
            yield from normed(f"{block}.conv.conv_0", n_in, n_out)
            for t in (1, 2, 3):
                yield from normed(f"{block}.conv.conv_{t}.conv", n_out, n_out)
                yield f"{block}.conv.conv_{t}.full.weight", (n_out, self.n_style)
                yield f"{block}.conv.conv_{t}.full.bias", (n_out,)
        yield from normed("output", self.widths[0], N_MAPS, 1)

    def steps(self) -> tuple[Step, ...]:
        """The layers by which a pixel reaches its neighbours, for `receptive_field`: the style is not among them."""
        convolution = Conv("", (_KERNEL, _KERNEL), 1, 1, "relu")
        block: tuple[Step, ...] = (convolution,) * 4
        steps: tuple[Step, ...] = (*block, *block)  # of the deepest level
        for _ in self.widths[1:]:
            steps = (*block, Remember(), Pool("", (2, 2)), *steps, Up("", (2, 2)), *block)
        return steps


def sizes(stored: TorchWeights) -> CpnetSizes:
    """Tell the sizes of the network that weights belong to, and that they are all there and fit.

    Raises
    ------
    ModelError
        If they are another network's, incomplete, damaged, or do not fit each other. The message says which.
    """
    shapes, file = stored.shapes, stored.file_name
    what = f"expected the weights of a Cellpose 1 to 3 network in {file}"
    if "W2" in shapes:
        raise ModelError(f"{what}, got those of Cellpose-SAM (Cellpose 4); use: cellrt export cellpose-sam")
    if any(name.startswith("encoder.") for name in shapes):
        raise ModelError(f"{what}, got those of one with a transformer; export one with Cellpose's default backbone")
    head, first = shapes.get("output.2.weight", ()), shapes.get(f"{_down(0)}.proj.1.weight", ())
    if len(head) not in (4, 5) or len(head) != len(first):
        raise ModelError(f"{what}, got {_listed(shapes)}; use a file that Cellpose's own training wrote")
    if len(head) == 5:
        raise ModelError(f"{what}, got one of 3-D convolutions; export one of Cellpose's 2-D networks")
    if head[0] != N_MAPS:
        guess = "; networks that restore images (denoise, deblur, upsample) find no cells" if head[0] < N_MAPS else ""
        raise ModelError(
            f"expected a network of {N_MAPS} maps in {file} (flow y, flow x, cell logit), got {head[0]}{guess}; "
            "use a segmentation network"
        )
    widths: list[int] = []
    while len(shape := shapes.get(f"{_down(len(widths))}.proj.1.weight", ())) == 4:
        widths.append(shape[0])
    if len(widths) > _MOST_LEVELS or not all(1 <= n <= _MOST_CHANNELS for n in (first[1], *widths)):
        raise ModelError(
            f"expected 1 to {_MOST_LEVELS} levels of 1 to {_MOST_CHANNELS} channels in {file}, got "
            f"{', '.join(map(str, (first[1], *widths)))}; use a file that Cellpose's own training wrote"
        )
    found = CpnetSizes(first[1], tuple(widths))
    _require_fit(dict(found.shapes()), shapes, file)
    for name, array in stored.arrays.items():
        if name.endswith(".running_var") and (array < 0).any():
            raise ModelError(
                f"expected variances of at least 0 at {name.removesuffix('.running_var')} in {file}, got "
                f"{array.min():g}; the file is damaged, copy it again"
            )
    return found


def _require_fit(wanted: Mapping[str, tuple[int, ...]], shapes: Mapping[str, tuple[int, ...]], file: str) -> None:
    """Compare names and shapes with those of the network that the file seems to hold."""
    advice = "use the file that Cellpose wrote, whole"
    if missing := [name for name in wanted if name not in shapes]:
        raise ModelError(f"expected {len(wanted)} arrays in {file}, got none named {_listed(missing)}; {advice}")
    optional = dict.fromkeys(DIAMETERS, (1,))
    extra = [
        name for name in shapes if name not in wanted and name not in optional and not name.endswith("batches_tracked")
    ]
    if extra:
        raise ModelError(f"expected {len(wanted)} arrays in {file}, got further ones: {_listed(extra)}; {advice}")
    for name, shape in (*wanted.items(), *optional.items()):
        if shapes.get(name, shape) != shape:
            raise ModelError(f"expected {name} of shape {shape} in {file}, got {shapes[name]}; {advice}")


def build(network: CpnetSizes, stored: TorchWeights) -> GraphBuilder:
    """Write the nodes: input `image`, outputs `maps` and `style`. `network` is what `sizes` says of `stored`."""
    layers = _Layers(stored)
    graph = layers.graph
    skips: list[str] = []
    for level in range(len(network.widths)):
        x = "image"
        if level:
            x = graph.node("MaxPool", f"pool_{level}", [skips[-1]], kernel_shape=[2, 2], strides=[2, 2])
        skips.append(layers.down(level, x))

    mean = graph.node("Flatten", "mean", [graph.node("GlobalAveragePool", "mean_map", [skips[-1]])])
    graph.node("Div", "style", [mean, graph.node("ReduceL2", "length", [mean], axes=[1], keepdims=1)])

    x = layers.up(len(skips) - 1, skips[-1], skips[-1], repeat=False)
    for level in reversed(range(len(skips) - 1)):
        x = layers.up(level, x, skips[level], repeat=True)
    layers.convolve("maps", layers.relu("output", layers.normalize("output", "output.0", x)), layers.kernel("output.2"))
    return graph


@dataclass(frozen=True)
class _Kernel:
    """A convolution or a linear layer: weights (out, in, ...) and bias (out,), float64."""

    weight: NDArray[np.float64]
    bias: NDArray[np.float64]

    def then(self, scale: NDArray[np.float64], shift: NDArray[np.float64] | float) -> _Kernel:
        """This, then channel * scale + shift."""
        return _Kernel(np.einsum("o...,o->o...", self.weight, scale), self.bias * scale + shift)

    def before(self, scale: NDArray[np.float64]) -> _Kernel:
        """What gives this if channel * scale follows; 0 where the scale is 0, behind which nothing is seen of it."""
        inverse = np.divide(1, scale, out=np.zeros_like(scale), where=scale != 0)
        return self.then(inverse, 0)

    def after(self, scale: NDArray[np.float64], shift: NDArray[np.float64]) -> _Kernel:
        """Channel * scale + shift, then this; 1 x 1, because padding would have to be shifted too."""
        return _Kernel(np.einsum("oi...,i->oi...", self.weight, scale), self.bias + self.weight[:, :, 0, 0] @ shift)


class _Layers:
    """The layers as nodes; names are short forms of those in the weights."""

    def __init__(self, stored: TorchWeights) -> None:
        self.graph = GraphBuilder()
        self._arrays = stored.arrays

    def down(self, level: int, x: str) -> str:
        """A block on the way down."""
        block, name = f"{_down(level)}.conv.conv_", f"down_{level}"
        x = self.add(f"{name}_middle", self.project(name, f"{_down(level)}.proj", x), self.pair(name, block, 0, x))
        return self.add(name, x, self.pair(name, block, 2, x))

    def pair(self, name: str, block: str, t: int, x: str) -> str:
        """Two convolutions, the second one's normalisation folded into the first."""
        name = f"{name}_{t}"
        x = self.relu(name, self.normalize(name, f"{block}{t}.0", x))
        first = self.kernel(f"{block}{t}.2").then(*self.affine(f"{block}{t + 1}.0"))
        x = self.relu(f"{name}_first", self.convolve(f"{name}_conv", x, first))
        return self.convolve(f"{name}_second", x, self.kernel(f"{block}{t + 1}.2"))

    def up(self, level: int, x: str, skip: str, *, repeat: bool) -> str:
        """A block on the way up; with `repeat`, every sample of `x` becomes 2 x 2."""
        block, name = f"{_up(level)}.conv.conv_", f"up_{level}"
        norms = {t: self.affine(f"{block}{t}.conv.0") for t in (1, 2, 3)}

        # scale * (convolution + skip + style) + shift, term by term: only this normalisation sees the sum
        scale, _ = norms[1]
        shortcut = self.project(name, f"{_up(level)}.proj", x)
        x = self.relu(f"{name}_0", self.normalize(f"{name}_0", f"{block}0.0", x))
        first = self.kernel(f"{block}0.2").then(scale, 0)
        if repeat:
            shortcut = self.repeat(f"{name}_repeat", shortcut)
            x = self.convolve_repeated(f"{name}_conv_0", x, first, like=skip)
        else:
            x = self.convolve(f"{name}_conv_0", x, first)
        x = self.add(f"{name}_sum", x, self.normalize(f"{name}_1", f"{block}1.conv.0", skip))
        x = self.relu(f"{name}_1", self.add_style(f"{name}_1", x, f"{block}1.full", scale))
        x = self.add(f"{name}_middle", shortcut, self.convolve(f"{name}_conv_1", x, self.kernel(f"{block}1.conv.2")))

        shortcut, (scale, _) = x, norms[2]
        x = self.normalize(f"{name}_2", f"{block}2.conv.0", x)
        x = self.relu(f"{name}_2", self.add_style(f"{name}_2", x, f"{block}2.full", scale))
        scale, shift = norms[3]
        x = self.convolve(f"{name}_conv_2", x, self.kernel(f"{block}2.conv.2").then(scale, shift))
        x = self.relu(f"{name}_3", self.add_style(f"{name}_3", x, f"{block}3.full", scale))
        return self.add(name, shortcut, self.convolve(f"{name}_conv_3", x, self.kernel(f"{block}3.conv.2")))

    def add_style(self, name: str, x: str, layer: str, scale: NDArray[np.float64]) -> str:
        """Add scale * (a linear layer of the style), alike at every sample."""
        linear = self.kernel(layer).then(scale, 0)
        constants = self._constants(f"{name}_linear", linear)
        vector = self.graph.node("Gemm", f"{name}_linear", ["style", *constants], transB=1)
        axes = self.graph.constant("axes_y_x", np.array([2, 3], np.int64))
        return self.add(f"{name}_styled", x, self.graph.node("Unsqueeze", f"{name}_shift", [vector, axes]))

    def project(self, name: str, layer: str, x: str) -> str:
        """The shortcut of a block: a normalisation without ReLU, folded into the 1 x 1 convolution behind it."""
        return self.convolve(f"{name}_proj", x, self.kernel(f"{layer}.1").after(*self.affine(f"{layer}.0")))

    def convolve(self, name: str, x: str, kernel: _Kernel) -> str:
        """A convolution of as many samples out as in."""
        side = kernel.weight.shape[-1]
        constants = self._constants(name, kernel)
        return self.graph.node("Conv", name, [x, *constants], kernel_shape=[side, side], pads=[side // 2] * 4)

    def convolve_repeated(self, name: str, x: str, kernel: _Kernel, *, like: str) -> str:
        """Repeat every sample 2 x 2 times, then a 3 x 3 convolution; the result has the shape of `like`.

        Sample 2i of the result sees samples 2i-1, 2i and 2i+1 of what is repeated, which are i-1, i and i again;
        sample 2i+1 sees i, i and i+1. So the even and the odd ones along each axis have a kernel of two of their own,
        padded on one side. Their maps are woven together.
        """
        node, constant = self.graph.node, self.graph.constant
        bias = constant(f"{name}_bias", kernel.bias.astype(np.float32))
        last = constant("axis_last", np.array([4], np.int64))
        rows = []
        for odd_y in (0, 1):
            samples = []
            for odd_x in (0, 1):
                weight = _merged(_merged(kernel.weight, 2, odd_y), 3, odd_x).astype(np.float32)
                place = f"{name}_{odd_y}{odd_x}"
                pads = [1 - odd_y, 1 - odd_x, odd_y, odd_x]
                inputs = [x, constant(f"{place}_kernel", weight), bias]
                maps = node("Conv", place, inputs, kernel_shape=[2, 2], pads=pads)
                samples.append(node("Unsqueeze", f"{place}_samples", [maps, last]))
            row = node("Concat", f"{name}_{odd_y}_woven", samples, axis=4)  # (N, C, y, x, 2)
            rows.append(node("Flatten", f"{name}_{odd_y}", [row], axis=3))  # (N C y, 2 x)
        woven = node("Concat", f"{name}_woven", rows, axis=1)  # an even row, then the odd one below it
        return node("Reshape", name, [woven, node("Shape", f"{name}_shape", [like])])

    def repeat(self, name: str, x: str) -> str:
        """Every sample 2 x 2 times."""
        scales = self.graph.constant("scales_2_2", np.array([1, 1, 2, 2], np.float32))
        nearest = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        return self.graph.node("Resize", name, [x, "", scales], **nearest)

    def normalize(self, name: str, layer: str, x: str) -> str:
        """A batch normalisation that stays one, because others see its input too."""
        inputs = [self.graph.constant(f"{name}_{array}", self._arrays[f"{layer}.{array}"]) for array in _NORM]
        return self.graph.node("BatchNormalization", f"{name}_norm", [x, *inputs], epsilon=_EPSILON)

    def relu(self, name: str, x: str) -> str:
        """The values above 0."""
        return self.graph.node("Relu", f"{name}_relu", [x])

    def add(self, name: str, x: str, y: str) -> str:
        """The sum."""
        return self.graph.node("Add", name, [x, y])

    def kernel(self, layer: str) -> _Kernel:
        """A convolution's or linear layer's weights."""
        weight, bias = (self._arrays[f"{layer}.{array}"].astype(np.float64) for array in ("weight", "bias"))
        return _Kernel(weight, bias)

    def affine(self, layer: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Scale and shift of a batch normalisation."""
        return _affine(*(self._arrays[f"{layer}.{array}"] for array in _NORM))

    def _constants(self, name: str, kernel: _Kernel) -> tuple[str, str]:
        """Names of the two arrays, rounded once."""
        return (
            self.graph.constant(f"{name}_kernel", kernel.weight.astype(np.float32)),
            self.graph.constant(f"{name}_bias", kernel.bias.astype(np.float32)),
        )


def read(stored: StoredGraph) -> TorchWeights:
    """What `build` wrote, as weights that give the same maps and style: the inverse of folding and splitting.

    A normalisation that was folded away comes back as one that changes nothing (in evaluation mode); one that stayed
    comes back as it was. The 3 x 3 kernels behind repeated samples are those whose sums are closest to the four that
    are stored: exact to float32 rounding, or to that of float16 where weights are stored so.

    Raises
    ------
    ModelError
        If the file holds another network, or not exactly what `build` writes.
    """
    head, file = stored.manifest.head, stored.file_name
    if not isinstance(head, FlowSpec) or head.dynamics != "v3":
        got = f"one with the head {head.kind!r}" if not isinstance(head, FlowSpec) else "Cellpose-SAM"
        raise ModelError(
            f"expected a Cellpose 1 to 3 network in {file}, got {got}; use a file that cellrt export cellpose wrote"
        )
    widths: list[int] = []
    while (name := f"down_{len(widths)}_proj_kernel") in stored.constants:
        widths.append(stored.constants[name].shape[0])
    if not 1 <= len(widths) <= _MOST_LEVELS or head.n_style != widths[-1]:
        raise ModelError(
            f"expected 1 to {_MOST_LEVELS} levels in {file}, the last {head.n_style} channels wide, got {widths}; "
            "use a file as cellrt export cellpose wrote it"
        )
    network = CpnetSizes(stored.manifest.input.n_channels, tuple(widths))
    blank = {name: np.ones(shape, np.float32) for name, shape in network.shapes()}
    stored.require_like(build(network, TorchWeights(file, "", blank)))

    layers = _StoredLayers(stored)
    for level in range(len(widths)):
        layers.down(level)
        layers.up(level)
    layers.normalization("output", "output.0")
    layers.set_kernel("output.2", layers.kernel("maps"))
    diameters = {name: np.array([getattr(head, name)], np.float32) for name in DIAMETERS}
    return TorchWeights(file, stored.manifest.source.sha256, layers.arrays | diameters)


class _StoredLayers:
    """What `_Layers` wrote, back into weights; methods mirror its own."""

    def __init__(self, stored: StoredGraph) -> None:
        self.arrays: dict[str, NDArray[np.float32]] = {}
        self._constants = stored.constants
        self._file = stored.file_name
        # The four kernels agree on one to a rounding or two of what is stored.
        self._precision = np.finfo(np.float16 if stored.halved else np.float32)

    def down(self, level: int) -> None:
        """A block on the way down."""
        block, name = f"{_down(level)}.conv.conv_", f"down_{level}"
        self.projection(name, f"{_down(level)}.proj")
        for t in (0, 2):
            self.normalization(f"{name}_{t}", f"{block}{t}.0")
            first = self.kernel(f"{name}_{t}_conv")
            self.set_kernel(f"{block}{t}.2", first)
            self.identity(f"{block}{t + 1}.0", len(first.bias))
            self.set_kernel(f"{block}{t + 1}.2", self.kernel(f"{name}_{t}_second"))

    def up(self, level: int) -> None:
        """A block on the way up."""
        block, name = f"{_up(level)}.conv.conv_", f"up_{level}"
        self.projection(name, f"{_up(level)}.proj")
        self.normalization(f"{name}_0", f"{block}0.0")
        scales = {t: self.normalization(f"{name}_{t}", f"{block}{t}.conv.0") for t in (1, 2)}
        self.set_kernel(f"{block}0.2", self.kernel(f"{name}_conv_0").before(scales[1]))
        for t in (1, 2, 3):
            self.set_kernel(f"{block}{t}.conv.2", self.kernel(f"{name}_conv_{t}"))
            style = self.kernel(f"{name}_{t}_linear")
            self.set_kernel(f"{block}{t}.full", style.before(scales[t]) if t in scales else style)
        self.identity(f"{block}3.conv.0", len(scales[1]))

    def projection(self, name: str, layer: str) -> None:
        """The shortcut of a block."""
        kernel = self.kernel(f"{name}_proj")
        self.set_kernel(f"{layer}.1", kernel)
        self.identity(f"{layer}.0", kernel.weight.shape[1])

    def kernel(self, name: str) -> _Kernel:
        """A convolution or linear layer; of four kernels for repeated samples the one that they are made of."""
        bias = self._constants[f"{name}_bias"].astype(np.float64)
        if f"{name}_kernel" in self._constants:
            return _Kernel(self._constants[f"{name}_kernel"].astype(np.float64), bias)
        four = np.block([[self._constants[f"{name}_{y}{x}_kernel"].astype(np.float64) for x in (0, 1)] for y in (0, 1)])
        weight = _SPLIT @ four @ _SPLIT.T
        difference = np.abs(_SUMS @ weight @ _SUMS.T - four).max()
        if difference > 4 * self._precision.eps * max(np.abs(four).max(), self._precision.smallest_normal):
            raise ModelError(
                f"expected four kernels of 2 x 2 that are sums of one of 3 x 3 at {name} in {self._file}, got a "
                f"difference of {difference:g}; export the model again, and change nothing in the file"
            )
        return _Kernel(weight, bias)

    def normalization(self, name: str, layer: str) -> NDArray[np.float64]:
        """A batch normalisation that stayed one; returns its scale."""
        arrays = [self._constants[f"{name}_{array}"] for array in _NORM]
        self.arrays |= {f"{layer}.{key}": array for key, array in zip(_NORM, arrays, strict=True)}
        return _affine(*arrays)[0]

    def identity(self, layer: str, n_channels: int) -> None:
        """A batch normalisation that changes nothing, where one was folded."""
        scale = np.full(n_channels, np.sqrt(1 + _EPSILON), np.float32)
        arrays = scale, np.zeros_like(scale), np.zeros_like(scale), np.ones_like(scale)
        self.arrays |= {f"{layer}.{key}": array for key, array in zip(_NORM, arrays, strict=True)}

    def set_kernel(self, layer: str, kernel: _Kernel) -> None:
        """A convolution's or linear layer's weights."""
        self.arrays |= {
            f"{layer}.weight": kernel.weight.astype(np.float32),
            f"{layer}.bias": kernel.bias.astype(np.float32),
        }


def _affine(*norm: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Scale and shift of a batch normalisation."""
    gamma, beta, mean, variance = (array.astype(np.float64) for array in norm)
    scale = gamma / np.sqrt(variance + _EPSILON)
    return scale, beta - mean * scale


def _merged(weight: NDArray[np.float64], axis: int, odd: int) -> NDArray[np.float64]:
    """The two weights along an axis that are left of three where two of the samples they see are the same."""
    first, middle, last = np.moveaxis(weight, axis, 0)
    pair = (first + middle, last) if odd else (first, middle + last)
    return np.moveaxis(np.stack(pair), 0, axis)


# A kernel of three -> the sums of both kernels of two, one below the other; and the way back, by least squares.
_SUMS = np.concatenate([_merged(np.eye(_KERNEL), 0, odd) for odd in (0, 1)])
_SPLIT = np.linalg.pinv(_SUMS)


def _down(level: int) -> str:
    return f"downsample.down.res_down_{level}"


def _up(level: int) -> str:
    return f"upsample.up.res_up_{level}"


def _listed(names: Iterator[str] | Mapping[str, Any] | list[str]) -> str:
    """A few names, and how many more there are."""
    names = [name[:80] for name in names]
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
