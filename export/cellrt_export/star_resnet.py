"""The layers of a StarDist 3D ResNet, in the terms of star_graph, and the order of their weights in a Keras file.

    image (N, C, Z, Y, X)
      two convolutions without activation
      blocks       convolutions, the first with stride 2 where the grid is not reached; + the block's input, through a
                   1 x 1 x 1 convolution where its shape differs; activation
      heads        as of the U-Net
    maps (N, 1 + rays [+ classes + 1], Z/gz, Y/gy, X/gx)

Source: `StarDist3D._build_resnet`, CSBDeep's `resnet_block`.
"""

from __future__ import annotations

from dataclasses import replace

from cellrt.errors import ModelError
from cellrt_export import activations
from cellrt_export.keras_h5 import StoredLayer, StoredWeights
from cellrt_export.star_folder import ResnetConfig, Sides
from cellrt_export.star_graph import MOST_FILTERS, Add, Conv, Network, Remember, Step, halving, with_heads


def network(config: ResnetConfig) -> Network:
    """List the layers of a configuration. Raises `ModelError` for an activation without ONNX form or absurd widths."""
    activations.require_supported(config.resnet_activation)
    kernel, norm = config.resnet_kernel_size, config.resnet_batch_norm
    n_filters = config.resnet_n_filter_base
    steps: list[Step] = [
        Conv("conv_0", (7,) * len(kernel), config.n_channel_in, n_filters, "linear"),
        Conv("conv_1", (3,) * len(kernel), n_filters, n_filters, "linear"),
    ]
    pooled: Sides = (1,) * len(config.grid)
    for block in range(config.resnet_n_blocks):
        stride = halving(config.grid, pooled)
        pooled = tuple(done * by for done, by in zip(pooled, stride, strict=True))
        n_in, strided = n_filters, max(stride) > 1
        n_filters *= 2 if strided else 1
        if n_filters > MOST_FILTERS:
            raise ModelError(
                f"expected 1..{MOST_FILTERS} filters in block {block}, got {n_filters} by resnet_n_filter_base in "
                "config.json; use the config.json StarDist wrote"
            )
        first = Conv(
            f"block_{block}_no_0",
            kernel,
            n_in,
            n_filters,
            config.resnet_activation,
            norm,
            stride if strided else None,
            may_lack_bias=norm,
        )
        n_more = config.resnet_n_conv_per_block - 1
        more = [
            replace(first, name=f"block_{block}_no_{index}", n_in=n_filters, stride=None)
            for index in range(1, 1 + n_more)
        ]
        more[-1] = replace(more[-1], activation="linear")
        shortcut = None
        if strided:
            shortcut = Conv(
                f"block_{block}_shortcut", (1,) * len(kernel), n_in, n_filters, "linear", False, stride, norm
            )
        steps += [Remember(), first, *more, Add(f"block_{block}", shortcut, config.resnet_activation)]
    return with_heads(steps, n_filters, config, config.net_conv_after_resnet, kernel, config.resnet_activation)


def in_running_order(layers: Network, stored: StoredWeights) -> StoredWeights:
    """Weights with the convolution of each shortcut behind the others of its block, where `Network` lists it.

    Keras sorts layers by their distance from the outputs, which puts it before the last convolution of its block, or,
    with batch normalisation, between that and its normalisation. It is told by the shape of its kernel: where there is
    one the channels double, so only the first convolution of a block can have the same.
    """
    ordered: list[StoredLayer] = []
    waiting = list(stored.layers)
    block: list[StoredLayer] = []
    for step in layers.trunk:
        if isinstance(step, Remember):
            ordered, block = ordered + block, []
        elif isinstance(step, Conv):
            n_layers = 2 if step.batch_norm else 1
            block, waiting = block + waiting[:n_layers], waiting[n_layers:]
        elif isinstance(step, Add) and step.shortcut is not None:
            block, waiting = block + waiting[:1], waiting[1:]
            kernel = (*step.shortcut.kernel, step.shortcut.n_in, step.shortcut.n_out)
            others = [layer for layer in block[1:] if layer.shapes[0] != kernel]
            block = block[:1] + others + [layer for layer in block[1:] if layer.shapes[0] == kernel]
    return replace(stored, layers=(*ordered, *block, *waiting))
