"""The layers of Cellpose-SAM (Cellpose 4's CPSAM), read off its weights, and their ONNX graph.

    image (N, C, S, S)      S = patch * grid = 8 * 32 = 256 pixels, no other size
      patches      one token of `width` values per 8 x 8 pixels, plus its position's
      blocks       x + attention(norm(x)), then x + perceptron(norm(x)); every token sees every token
      neck         `features` values per token: 1 x 1, norm, 3 x 3 over the grid of tokens, norm
      out          8 x 8 pixels of each map per token
    maps (N, 3, S, S): flow y, flow x, cell logit

Tokens are the rows of matrices (N * grid * grid, width) throughout, so that a linear layer is one matrix product with
its bias in it. Attention adds to the product of query and key what the query says to the distance between the two
tokens along y and along x (SAM's decomposed relative positions); the tables of these distances are resized here, once,
where the original does it in every run. Source: Pachitariu et al., "Cellpose-SAM", bioRxiv 2025; Kirillov et al.,
"Segment Anything", ICCV 2023; https://github.com/MouseLand/cellpose.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cellrt.errors import ModelError
from cellrt_export.onnxfile import GraphBuilder

N_MAPS = 3
_EPSILON = 1e-6  # of every norm: SAM's, not torch's default

Weights = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class SamSizes:
    """The sizes of a network."""

    n_channels: int
    patch: int  # pixels: side of the square that becomes a token
    grid: int  # tokens along y and along x
    width: int  # values of a token
    depth: int  # blocks
    head_width: int  # values of a token that one head of attention compares
    hidden: int  # values of a token inside the perceptron
    features: int  # values of a token after the neck

    @property
    def side(self) -> int:
        """Pixels along y and x of the only image size."""
        return self.patch * self.grid

    @property
    def n_heads(self) -> int:
        """Heads of attention per block."""
        return self.width // self.head_width

    def shapes(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Names and shapes of the weights; a table of distances has as many rows as it has (0 here)."""
        width, hidden, features = self.width, self.hidden, self.features
        yield "encoder.pos_embed", (1, self.grid, self.grid, width)
        yield "encoder.patch_embed.proj.weight", (width, self.n_channels, self.patch, self.patch)
        yield "encoder.patch_embed.proj.bias", (width,)
        for index in range(self.depth):
            block = f"encoder.blocks.{index}"
            for norm in ("norm1", "norm2"):
                yield f"{block}.{norm}.weight", (width,)
                yield f"{block}.{norm}.bias", (width,)
            yield f"{block}.attn.rel_pos_h", (0, self.head_width)
            yield f"{block}.attn.rel_pos_w", (0, self.head_width)
            for layer, n_out, n_in in (
                ("attn.qkv", 3 * width, width),
                ("attn.proj", width, width),
                ("mlp.lin1", hidden, width),
                ("mlp.lin2", width, hidden),
            ):
                yield f"{block}.{layer}.weight", (n_out, n_in)
                yield f"{block}.{layer}.bias", (n_out,)
        yield "encoder.neck.0.weight", (features, width, 1, 1)
        yield "encoder.neck.2.weight", (features, features, 3, 3)
        for norm in ("1", "3"):
            yield f"encoder.neck.{norm}.weight", (features,)
            yield f"encoder.neck.{norm}.bias", (features,)
        n_out = N_MAPS * self.patch**2
        yield "out.weight", (n_out, features, 1, 1)
        yield "out.bias", (n_out,)
        yield "W2", (n_out, N_MAPS, self.patch, self.patch)


def read_sizes(shapes: Mapping[str, tuple[int, ...]]) -> SamSizes:
    """The sizes of the network whose weights have these names and shapes.

    Raises
    ------
    ModelError
        If a weight is missing or has another shape than the others ask for, or the network has other outputs.
    """
    pos_embed = _shape(shapes, "encoder.pos_embed", 4)
    width, n_channels, patch, _ = _shape(shapes, "encoder.patch_embed.proj.weight", 4)
    blocks = [int(found[1]) for name in shapes if (found := re.match(r"encoder\.blocks\.(\d{1,4})\.", name))]
    n_maps = _shape(shapes, "W2", 4)[1]
    if n_maps != N_MAPS:
        raise ModelError(
            f"expected a network with {N_MAPS} maps (two flows and the cell logit), got W2 {shapes['W2']}; networks "
            "that tell classes apart are not supported"
        )
    sizes = SamSizes(
        n_channels=n_channels,
        patch=patch,
        grid=pos_embed[1],
        width=width,
        depth=max(blocks, default=0) + 1,
        head_width=_shape(shapes, "encoder.blocks.0.attn.rel_pos_h", 2)[1],
        hidden=_shape(shapes, "encoder.blocks.0.mlp.lin1.weight", 2)[0],
        features=_shape(shapes, "encoder.neck.0.weight", 4)[0],
    )
    for name, wanted in sizes.shapes():
        got = _shape(shapes, name, len(wanted))
        if min(got) == 0 or any(w not in (g, 0) for g, w in zip(got, wanted, strict=True)):
            text = ", ".join(str(size) if size else "any" for size in wanted)
            raise ModelError(f"expected {name} of shape ({text}), got {got}; download or save the weights again")
    if width % sizes.head_width:
        raise ModelError(
            f"expected heads whose width divides {width}, got {sizes.head_width}; download or save the weights again"
        )
    return sizes


def build(weights: Weights, sizes: SamSizes) -> GraphBuilder:
    """Write the nodes: input `image`, output `maps`."""
    network = _Writer(weights, sizes)
    x = network.tokens("image")
    for index in range(sizes.depth):
        x = network.block(f"block{index}", f"encoder.blocks.{index}", x)
    network.maps(network.neck(x))
    return network.graph


def resize_table(table: NDArray[np.float32], n_rows: int) -> NDArray[np.float32]:
    """Resize a table (L, W) to (n_rows, W) linearly between the centres of its rows, as torch's `interpolate` does."""
    if len(table) == n_rows:
        return table
    scale = np.float32(len(table)) / np.float32(n_rows)
    position = np.maximum(scale * (np.arange(n_rows, dtype=np.float32) + np.float32(0.5)) - np.float32(0.5), 0)
    before = np.minimum(position.astype(np.int64), len(table) - 1)
    after = np.minimum(before + 1, len(table) - 1)
    share = (position - before).astype(np.float32)[:, np.newaxis]
    resized: NDArray[np.float32] = table[before] * (1 - share) + table[after] * share
    return resized


class _Writer:
    """The parts of the network; each method takes and gives the name of a tensor."""

    def __init__(self, weights: Weights, sizes: SamSizes) -> None:
        self.graph = GraphBuilder()
        self._weights, self._sizes = weights, sizes

    def tokens(self, image: str) -> str:
        """Image -> tokens (N * T, width), row by row."""
        sizes = self._sizes
        constants = [
            self.graph.constant("patches_kernel", self._weights["encoder.patch_embed.proj.weight"]),
            self.graph.constant("patches_bias", self._weights["encoder.patch_embed.proj.bias"]),
        ]
        side = [sizes.patch, sizes.patch]
        x = self.graph.node("Conv", "patches", [image, *constants], kernel_shape=side, strides=side)
        x = self._reshape("patches_flat", x, [-1, sizes.width, sizes.grid**2])
        x = self.graph.node("Transpose", "patches_last", [x], perm=[0, 2, 1])
        positions = self._weights["encoder.pos_embed"].reshape(sizes.grid**2, sizes.width)
        x = self.graph.node("Add", "placed", [x, self.graph.constant("positions", positions)])
        return self._reshape("tokens", x, [-1, sizes.width])

    def block(self, name: str, key: str, x: str) -> str:
        """One block: attention, then a perceptron, each added to its input."""
        attended = self._attention(name, f"{key}.attn", self._norm(f"{name}_norm1", f"{key}.norm1", x))
        x = self.graph.node("Add", f"{name}_middle", [x, attended])
        y = self._norm(f"{name}_norm2", f"{key}.norm2", x)
        y = self._linear(f"{name}_wide", f"{key}.mlp.lin1", y)
        y = self._gelu(f"{name}_gelu", y)
        y = self._linear(f"{name}_narrow", f"{key}.mlp.lin2", y)
        return self.graph.node("Add", name, [x, y])

    def neck(self, x: str) -> str:
        """Tokens of `width` -> tokens of `features`. A norm over channels is one over the values of a token."""
        features = self._sizes.features
        weight = self._weights["encoder.neck.0.weight"].reshape(features, self._sizes.width)
        x = self.graph.node("Gemm", "neck0", [x, self.graph.constant("neck0_weight", weight)], transB=1)
        x = self._norm("neck1", "encoder.neck.1", x)
        x = self.graph.node("Transpose", "neck1_first", [self._as_grid("neck1", x)], perm=[0, 3, 1, 2])
        kernel = self.graph.constant("neck2_kernel", self._weights["encoder.neck.2.weight"])
        x = self.graph.node("Conv", "neck2", [x, kernel], kernel_shape=[3, 3], pads=[1, 1, 1, 1])
        x = self.graph.node("Transpose", "neck2_last", [x], perm=[0, 2, 3, 1])
        x = self._reshape("neck2_tokens", x, [-1, features])
        return self._norm("neck3", "encoder.neck.3", x)

    def maps(self, x: str) -> str:
        """Tokens -> the pixels of their squares."""
        sizes = self._sizes
        weight, bias = _readout(self._weights)
        constants = [self.graph.constant("out_weight", weight), self.graph.constant("out_bias", bias)]
        x = self.graph.node("Gemm", "out", [x, *constants], transB=1)
        x = self._reshape("out_squares", x, [-1, sizes.grid, sizes.grid, N_MAPS, sizes.patch, sizes.patch])
        x = self.graph.node("Transpose", "out_rows", [x], perm=[0, 3, 1, 4, 2, 5])
        return self._reshape("maps", x, [-1, N_MAPS, sizes.side, sizes.side])

    def _attention(self, name: str, key: str, x: str) -> str:
        """Attention over all tokens of an image."""
        sizes, graph = self._sizes, self.graph
        grid, n_heads, head_width = sizes.grid, sizes.n_heads, sizes.head_width
        # The keys are scaled, not the queries: the distances are asked for by queries as they are.
        scales = {"query": 1.0, "key": 1 / math.sqrt(head_width), "value": 1.0}
        weight, bias = self._weights[f"{key}.qkv.weight"], self._weights[f"{key}.qkv.bias"]
        heads = {}
        for position, (role, scale) in enumerate(scales.items()):
            rows = slice(position * sizes.width, (position + 1) * sizes.width)
            part = weight[rows], bias[rows]
            if scale != 1:
                part = part[0] * np.float32(scale), part[1] * np.float32(scale)
            constants = [
                self.graph.constant(f"{name}_{role}_weight", part[0]),
                graph.constant(f"{name}_{role}_bias", part[1]),
            ]
            y = graph.node("Gemm", f"{name}_{role}", [x, *constants], transB=1)
            y = self._reshape(f"{name}_{role}_split", y, [-1, grid**2, n_heads, head_width])
            perm = [0, 2, 3, 1] if role == "key" else [0, 2, 1, 3]
            heads[role] = graph.node("Transpose", f"{name}_{role}_heads", [y], perm=perm)

        logits = graph.node("MatMul", f"{name}_logits", [heads["query"], heads["key"]])
        logits = self._reshape(f"{name}_logits_grid", logits, [-1, n_heads, grid, grid, grid, grid])
        # (N, head, y, x, width): matrices of a row of tokens, one table of distances for each row ...
        query = self._reshape(f"{name}_query_rows", heads["query"], [-1, n_heads, grid, grid, head_width])
        y = graph.node("MatMul", f"{name}_y", [query, self._distances(f"{name}_y_table", f"{key}.rel_pos_h")])
        y = graph.node("Unsqueeze", f"{name}_y_all", [y, graph.constant("last", np.array([5], np.int64))])
        # ... and of a column
        query = graph.node("Transpose", f"{name}_query_columns", [query], perm=[0, 1, 3, 2, 4])
        z = graph.node("MatMul", f"{name}_x", [query, self._distances(f"{name}_x_table", f"{key}.rel_pos_w")])
        z = graph.node("Transpose", f"{name}_x_rows", [z], perm=[0, 1, 3, 2, 4])
        z = graph.node("Unsqueeze", f"{name}_x_all", [z, graph.constant("last_but_one", np.array([4], np.int64))])
        logits = graph.node("Add", f"{name}_logits_y", [logits, y])
        logits = graph.node("Add", f"{name}_logits_x", [logits, z])
        logits = self._reshape(f"{name}_logits_flat", logits, [-1, n_heads, grid**2, grid**2])

        attention = graph.node("Softmax", f"{name}_attention", [logits], axis=-1)
        y = graph.node("MatMul", f"{name}_seen", [attention, heads["value"]])
        y = graph.node("Transpose", f"{name}_seen_tokens", [y], perm=[0, 2, 1, 3])
        y = self._reshape(f"{name}_seen_flat", y, [-1, sizes.width])
        return self._linear(f"{name}_attended", f"{key}.proj", y)

    def _distances(self, name: str, key: str) -> str:
        """What a query at i is multiplied with to get its say on a key at j: (grid, width, grid) by i, value and j."""
        grid = self._sizes.grid
        table = resize_table(self._weights[key], 2 * grid - 1)
        at = np.arange(grid)
        return self.graph.constant(name, table[at[:, np.newaxis] - at + grid - 1].transpose(0, 2, 1))

    def _linear(self, name: str, key: str, x: str) -> str:
        """A linear layer."""
        weight, bias = self._weights[f"{key}.weight"], self._weights[f"{key}.bias"]
        constants = [self.graph.constant(f"{name}_weight", weight), self.graph.constant(f"{name}_bias", bias)]
        return self.graph.node("Gemm", name, [x, *constants], transB=1)

    def _norm(self, name: str, key: str, x: str) -> str:
        """Mean 0 and variance 1 over the values of each token, then a factor and an offset for each value."""
        constants = [
            self.graph.constant(f"{name}_{part}", self._weights[f"{key}.{part}"]) for part in ("weight", "bias")
        ]
        return self.graph.node("LayerNormalization", name, [x, *constants], axis=-1, epsilon=_EPSILON)

    def _gelu(self, name: str, x: str) -> str:
        """x / 2 * (1 + erf(x / sqrt(2))), written as ONNX Runtime recognises it to run it as one operator."""
        graph = self.graph
        y = graph.node("Div", f"{name}_scaled", [x, graph.scalar(math.sqrt(2))])
        y = graph.node("Add", f"{name}_share", [graph.node("Erf", f"{name}_erf", [y]), graph.scalar(1)])
        y = graph.node("Mul", f"{name}_double", [x, y])
        return graph.node("Mul", name, [y, graph.scalar(0.5)])

    def _as_grid(self, name: str, x: str) -> str:
        """Tokens (N * T, values) -> (N, grid, grid, values)."""
        return self._reshape(f"{name}_grid", x, [-1, self._sizes.grid, self._sizes.grid, self._sizes.features])

    def _reshape(self, name: str, x: str, shape: list[int]) -> str:
        text = "_".join(map(str, shape[1:]))
        return self.graph.node("Reshape", name, [x, self.graph.constant(f"shape_{text}", np.array(shape, np.int64))])


def _readout(weights: Weights) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The last layer, (values of a square, features) and its bias.

    `W2` says how its outputs make the pixels of a square. In every published network it only puts them in order; one
    that mixes them is multiplied in.
    """
    weight, bias = weights["out.weight"][:, :, 0, 0], weights["out.bias"]
    order = weights["W2"].reshape(len(weight), -1)
    if np.array_equal(order, np.eye(len(weight))):
        return weight, bias
    mixing = order.astype(np.float64).T
    return (mixing @ weight).astype(np.float32), (mixing @ bias).astype(np.float32)


def _shape(shapes: Mapping[str, tuple[int, ...]], name: str, n_dimensions: int) -> tuple[int, ...]:
    """The shape of a weight that must be there."""
    if name not in shapes:
        raise ModelError(f"expected the weights of Cellpose-SAM, got none named {name}; download or save them again")
    if len(shapes[name]) != n_dimensions:
        raise ModelError(
            f"expected {name} with {n_dimensions} dimensions, got {shapes[name]}; download or save the weights again"
        )
    return shapes[name]
