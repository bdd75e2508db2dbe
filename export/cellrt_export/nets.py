"""The torch networks: shapes in comments, layer names of the original program.

Doors: a network takes a float32 image (N, C, Y, X) and gives float32 maps (N, M, Y/g, X/g), channels in the
order the runtime expects; `load_keras_h5` and `save_keras_folder` move the weights of `StarNet2D` from and to
a StarDist model folder, which the original program and `cellrt export stardist` both read. `CPNet` needs none: what
`torch.save` makes of its state dict is a Cellpose model, for Cellpose itself and for `cellrt export cellpose`.
Not here: normalisation, padding, training, ONNX.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import h5py
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from cellrt.errors import ModelError
from cellrt_export import keras_h5

# Options of a StarDist configuration that StarNet2D has one way of doing; another value is refused.
_FIXED_OPTIONS: dict[str, Any] = {
    "n_dim": 2,
    "backbone": "unet",
    "n_classes": None,
    "unet_kernel_size": [3, 3],
    "unet_pool": [2, 2],
    "unet_activation": "relu",
    "unet_last_activation": "relu",
    "unet_batch_norm": False,
    "unet_dropout": 0.0,
    "unet_expansion": 2,
    "unet_prefix": "",
}


@dataclass(frozen=True, kw_only=True)
class StarConfig2D:
    """Architecture of a 2D StarDist U-Net; the field names are the keys of its config.json."""

    n_channel_in: int = 1
    """Image channels."""
    n_rays: int = 32
    """Ray lengths predicted per grid point."""
    grid: tuple[int, int] = (2, 2)
    """Subsampling of the maps along y and x, powers of 2."""
    unet_n_depth: int = 3
    """Number of poolings inside the U-Net (those that reach the grid come on top)."""
    unet_n_filter_base: int = 32
    """Filters at the finest level; each level has twice as many as the one above."""
    unet_n_conv_per_depth: int = 2
    """Convolutions per level."""
    net_conv_after_unet: int = 128
    """Filters of the last shared convolution, 0 for none."""

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> StarConfig2D:
        """Read a parsed config.json; missing keys take StarDist's defaults, where grid is (1, 1)."""
        for key, expected in _FIXED_OPTIONS.items():
            value = config.get(key, expected)
            value = list(value) if isinstance(value, tuple) else value
            if value != expected:
                raise ModelError(f"expected {key} = {expected!r}, got {value!r}: StarNet2D has no such option")
        known = {"grid": (1, 1)} | {f.name: config[f.name] for f in fields(cls) if f.name in config}
        return cls(**known | {"grid": tuple(known["grid"])})

    def to_dict(self) -> dict[str, Any]:
        """Give every architecture key of config.json, fixed ones included."""
        chosen = asdict(self) | {"grid": list(self.grid)}
        shape = [None, None, self.n_channel_in]
        derived = {"axes": "YXC", "n_channel_out": 1 + self.n_rays, "net_input_shape": shape}
        return _FIXED_OPTIONS | chosen | derived | {"net_mask_shape": [None, None, 1]}

    @property
    def multiple(self) -> tuple[int, int]:
        """Image sizes along y and x must be multiples of these, pixels."""
        return self.grid[0] * 2**self.unet_n_depth, self.grid[1] * 2**self.unet_n_depth


class _Conv(nn.Conv2d):
    """Convolution with a bias and padding "same": kernels are odd and strides 1, so both sides get as much."""

    bias: Tensor

    def __init__(self, channels: int, filters: int, kernel: int) -> None:
        super().__init__(channels, filters, kernel, padding=kernel // 2)
        nn.init.kaiming_normal_(self.weight, nonlinearity="relu")
        nn.init.zeros_(self.bias)


class StarNet2D(nn.Module):
    """The StarDist 2D network: image (N, C, Y, X) -> maps (N, 1 + n_rays, Y/grid, X/grid).

    Channel 0 of the maps is the object probability in [0, 1], the others are ray lengths in pixels of the image.
    `layer_names` lists StarDist's layers in the order of its weight files, those without weights (input, pooling,
    upsampling, concatenation) included; `layers` has the convolutions among them.

    Source: Schmidt et al. 2018, "Cell Detection with Star-convex Polygons"; the U-Net block of CSBDeep.
    """

    def __init__(self, config: StarConfig2D) -> None:
        super().__init__()
        self.config = config
        self.convs = nn.ModuleDict()
        self.layer_names = ["input"]
        base, depth, repeats = config.unet_n_filter_base, config.unet_n_depth, config.unet_n_conv_per_depth
        channels = config.n_channel_in

        def conv(name: str, filters: int, kernel: int = 3) -> None:
            nonlocal channels
            self.convs[name] = _Conv(channels, filters, kernel)
            self.layer_names.append(name)
            channels = filters

        def weightless(kind: str, index: int) -> None:
            # Keras numbers automatic names from the second on: concatenate, concatenate_1, ...
            self.layer_names.append(kind if index == 0 else f"{kind}_{index}")

        # grid stage: pool until the maps have their subsampling
        self.grid_pools: list[tuple[int, int]] = []
        pooled = (1, 1)
        while pooled != config.grid:
            pool = tuple(2 if goal > done else 1 for goal, done in zip(config.grid, pooled, strict=True))
            pooled = (pooled[0] * pool[0], pooled[1] * pool[1])
            if pooled[0] > config.grid[0] or pooled[1] > config.grid[1]:
                raise ModelError(f"expected a grid of powers of 2, got {config.grid}")
            for i in range(repeats):
                index = len(self.grid_pools) * repeats + i
                conv("conv2d" if index == 0 else f"conv2d_{index}", base)
            weightless("max_pooling2d", len(self.grid_pools))
            self.grid_pools.append((pool[0], pool[1]))

        for n in range(depth):
            for i in range(repeats):
                conv(f"down_level_{n}_no_{i}", base * 2**n)
            self.layer_names.append(f"max_{n}")
        for i in range(repeats - 1):
            conv(f"middle_{i}", base * 2**depth)
        conv(f"middle_{repeats}", base * 2 ** max(0, depth - 1))
        for n in reversed(range(depth)):
            weightless("up_sampling2d", depth - 1 - n)
            weightless("concatenate", depth - 1 - n)
            channels += base * 2**n  # the skip connection
            for i in range(repeats - 1):
                conv(f"up_level_{n}_no_{i}", base * 2**n)
            conv(f"up_level_{n}_no_{repeats}", base * 2 ** max(0, n - 1))

        if config.net_conv_after_unet > 0:
            conv("features", config.net_conv_after_unet)
        shared = channels
        conv("prob", 1, kernel=1)
        channels = shared
        conv("dist", config.n_rays, kernel=1)

    @property
    def layers(self) -> dict[str, _Conv]:
        """The convolutions by StarDist's names, in the order of `layer_names`."""
        return {name: layer for name, layer in self.convs.items() if isinstance(layer, _Conv)}

    def forward(self, image: Tensor) -> Tensor:
        logit, dist = self.logit_and_dist(image)
        return torch.cat([torch.sigmoid(logit), dist], dim=1)

    def logit_and_dist(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Image (N, C, Y, X) -> logit of the probability (N, 1, y, x), ray lengths (N, n_rays, y, x), pixels.

        Training needs the logit: the cross-entropy of a saturated sigmoid has no gradient.
        """
        x = self._trunk(image)
        layers = self.layers
        return layers["prob"](x), layers["dist"](x)

    def _trunk(self, x: Tensor) -> Tensor:
        """Everything before the heads, in the order of `layer_names`."""
        layers = iter(self.layers.values())
        repeats, depth = self.config.unet_n_conv_per_depth, self.config.unet_n_depth

        def convs(x: Tensor) -> Tensor:
            for _ in range(repeats):
                x = functional.relu(next(layers)(x))
            return x

        for pool in self.grid_pools:
            x = functional.max_pool2d(convs(x), pool)
        skips = []
        for _ in range(depth):
            x = convs(x)
            skips.append(x)
            x = functional.max_pool2d(x, 2)
        x = convs(x)
        for skip in reversed(skips):
            x = functional.interpolate(x, scale_factor=2, mode="nearest")
            x = convs(torch.cat([x, skip], dim=1))
        if self.config.net_conv_after_unet > 0:
            x = functional.relu(next(layers)(x))
        return x


def load_keras_h5(net: StarNet2D, path: str | Path) -> None:
    """Fill `net` with the weights of a StarDist .h5 file (Keras 2 or 3 layout).

    Layers are matched by their order, as Keras does: automatic names such as conv2d_7 depend on the session
    that wrote the file. Kernels are (ky, kx, in, out) in the file, (out, in, ky, kx) in torch.
    """
    stored = keras_h5.read(Path(path)).layers
    if len(stored) != len(net.layers):
        raise ModelError(
            f"expected {len(net.layers)} layers with weights, got {len(stored)} in {path}: "
            "build the network from the config.json of the same folder"
        )
    for conv, layer in zip(net.layers.values(), stored, strict=True):
        kernel, bias = layer.arrays
        weight = torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy())
        if weight.shape != conv.weight.shape:
            raise ModelError(
                f"expected a kernel {tuple(conv.weight.shape)} (out, in, y, x) for layer {layer.name}, "
                f"got {tuple(weight.shape)}: the file belongs to another configuration"
            )
        with torch.no_grad():
            conv.weight.copy_(weight)
            conv.bias.copy_(torch.from_numpy(bias))


def save_keras_h5(net: StarNet2D, path: str | Path) -> None:
    """Write the weights of `net` as StarDist's Keras 3 does: `<layer>/<layer>/kernel` and `.../bias`."""
    layers = net.layers
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = net.layer_names
        file.attrs["backend"] = "tensorflow"  # whose kernel layout this is
        file.attrs["keras_version"] = "3.0.0"
        for name in [*net.layer_names, "top_level_model_weights"]:
            group = file.create_group(name)
            conv = layers.get(name)
            if conv is None:
                group.attrs["weight_names"] = np.zeros(0)
                continue
            group.attrs["weight_names"] = [f"{name}/kernel", f"{name}/bias"]
            weights = group.create_group(name)
            weights["kernel"] = conv.weight.detach().cpu().numpy().transpose(2, 3, 1, 0)
            weights["bias"] = conv.bias.detach().cpu().numpy()


def save_keras_folder(
    net: StarNet2D,
    folder: str | Path,
    *,
    thresholds: Mapping[str, float],
    training: Mapping[str, Any],
) -> None:
    """Write a StarDist model folder: config.json, thresholds.json, weights_best.h5.

    Parameters
    ----------
    thresholds : {"prob": ..., "nms": ...}, each in (0, 1).
    training : the `train_...` keys of config.json; StarDist accepts only keys it knows.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(net.config.to_dict() | dict(training)))
    (folder / "thresholds.json").write_text(json.dumps({key: thresholds[key] for key in ("prob", "nms")}))
    save_keras_h5(net, folder / "weights_best.h5")


def load_keras_folder(folder: str | Path) -> StarNet2D:
    """Open a StarDist 2D model folder as a torch network (weights_best.h5)."""
    folder = Path(folder)
    net = StarNet2D(StarConfig2D.from_dict(json.loads((folder / "config.json").read_text())))
    load_keras_h5(net, folder / "weights_best.h5")
    return net.eval()


class _Normed(nn.Sequential):
    """[ReLU of] batch normalisation, then a convolution that keeps y and x; layer 0 and the last have weights."""

    def __init__(self, channels: int, filters: int, kernel: int, *, relu: bool = True) -> None:
        norm = nn.BatchNorm2d(channels, eps=1e-5, momentum=0.05)
        conv = nn.Conv2d(channels, filters, kernel, padding=kernel // 2)
        super().__init__(*([norm, nn.ReLU(), conv] if relu else [norm, conv]))


class _Styled(nn.Module):
    """A `_Normed` whose input (N, C, Y, X) is shifted by a linear function of the style (N, S), each channel alike."""

    def __init__(self, channels: int, n_style: int) -> None:
        super().__init__()
        self.conv = _Normed(channels, channels, 3)
        self.full = nn.Linear(n_style, channels)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        out: Tensor = self.conv(x + self.full(style)[:, :, None, None])
        return out


class _Down(nn.Module):
    """Two residual steps of two convolutions each: (N, C, Y, X) -> (N, filters, Y, X)."""

    def __init__(self, channels: int, filters: int) -> None:
        super().__init__()
        inputs = (channels, filters, filters, filters)
        self.conv = nn.ModuleDict({f"conv_{t}": _Normed(n, filters, 3) for t, n in enumerate(inputs)})
        self.proj = _Normed(channels, filters, 1, relu=False)

    def forward(self, x: Tensor) -> Tensor:
        conv = self.conv
        x = self.proj(x) + conv["conv_1"](conv["conv_0"](x))
        out: Tensor = x + conv["conv_3"](conv["conv_2"](x))
        return out


class _Up(nn.Module):
    """As `_Down`, with the maps `skip` (N, filters, Y, X) of the way down added, and the style at three places."""

    def __init__(self, channels: int, filters: int, n_style: int) -> None:
        super().__init__()
        self.conv = nn.ModuleDict({"conv_0": _Normed(channels, filters, 3)})
        self.conv.update({f"conv_{t}": _Styled(filters, n_style) for t in (1, 2, 3)})
        self.proj = _Normed(channels, filters, 1, relu=False)

    def forward(self, x: Tensor, skip: Tensor, style: Tensor) -> Tensor:
        conv = self.conv
        x = self.proj(x) + conv["conv_1"](conv["conv_0"](x) + skip, style)
        out: Tensor = x + conv["conv_3"](conv["conv_2"](x, style), style)
        return out


class CPNet(nn.Module):
    """The network of Cellpose 1 to 3: image (N, C, Y, X) -> maps (N, 3, Y, X), style (N, widths[-1]).

    The maps are the flow along y and x, 5 per pixel and step, and the logit of being inside a cell. The style is the
    mean of the deepest level's maps, scaled to length 1. Y and X are multiples of `multiple`. The names of the state
    dict are those of Cellpose's files; they include `diam_mean` and `diam_labels`, pixels: what objects were scaled
    to for training, and the mean diameter that they had before.

    Source: Stringer et al. 2021, "Cellpose: a generalist algorithm for cellular segmentation".
    """

    diam_mean: Tensor
    diam_labels: Tensor

    def __init__(
        self, n_channels: int = 2, widths: Sequence[int] = (32, 64, 128, 256), *, diam_mean: float = 30.0
    ) -> None:
        super().__init__()
        self.multiple = 2 ** (len(widths) - 1)
        down = {f"res_down_{n}": _Down(*pair) for n, pair in enumerate(pairwise((n_channels, *widths)))}
        up = {f"res_up_{n}": _Up(*pair[::-1], widths[-1]) for n, pair in enumerate(pairwise((*widths, widths[-1])))}
        self.downsample = nn.ModuleDict({"down": nn.ModuleDict(down)})
        self.upsample = nn.ModuleDict({"up": nn.ModuleDict(up)})
        self.output = _Normed(widths[0], 3, 1)
        for name in ("diam_mean", "diam_labels"):
            self.register_buffer(name, torch.full((1,), diam_mean))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        down, up = cast(nn.ModuleDict, self.downsample["down"]), cast(nn.ModuleDict, self.upsample["up"])
        levels: list[Tensor] = []
        for block in down.values():
            levels.append(block(functional.max_pool2d(levels[-1], 2) if levels else image))
        x = levels[-1]
        style = x.mean((2, 3))
        style = style / style.square().sum(1, keepdim=True).sqrt()
        for block, skip in zip([*up.values()][::-1], levels[::-1], strict=True):
            if skip is not levels[-1]:
                x = functional.interpolate(x, scale_factor=2, mode="nearest")
            x = block(x, skip, style)
        return self.output(x), style
