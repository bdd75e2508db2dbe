"""The torch network of Cellpose 1 to 3, shapes in comments, layer names of the original program.

Doors: `CPNet` takes a float32 image (N, C, Y, X) and gives float32 maps (N, 3, Y, X) and the style (N, S). Its state
dict, saved with `torch.save`, is a Cellpose model: for Cellpose itself and for `cellrt export cellpose`. `load_weights`
opens such a file, `load_onnx` what the exporter makes of one. Not here: normalisation, training, writing ONNX.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from cellrt_export import cpnet_graph, onnx_graph, torch_weights
from cellrt_export.torch_weights import TorchWeights


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
        self.n_channels = n_channels
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


def load_weights(path: str | Path) -> CPNet:
    """Open a file that Cellpose 1 to 3, or the training here, saved.

    Diameters that it does not say, as Cellpose 1, are 30. Raises `FileError` or `ModelError` as `torch_weights.read`
    and `cpnet_graph.sizes` do.
    """
    return _filled(torch_weights.read(path))


def load_onnx(model: str | Path) -> CPNet:
    """Open a file that `cellrt export cellpose` wrote.

    In evaluation mode the network answers as the file does in ONNX Runtime, to float32 rounding, or to that of float16
    where weights are stored so. Train it with its batch normalisations in evaluation mode: of those that the exporter
    folded into convolutions the running statistics are lost, and what stands for them does nothing as long as they
    stay as they are.

    Raises `FileError` or `ModelError` as `onnx_graph.read` and `cpnet_graph.read` do.
    """
    return _filled(cpnet_graph.read(onnx_graph.read(model)))


def _filled(weights: TorchWeights) -> CPNet:
    """The network that weights belong to, in evaluation mode."""
    network = cpnet_graph.sizes(weights)
    net = CPNet(network.n_channels, network.widths)
    known = [*dict(network.shapes()), *cpnet_graph.DIAMETERS]
    # what may be missing are diameters and counters, which nothing here asks
    net.load_state_dict({name: torch.tensor(weights.arrays[name]) for name in known if name in weights.arrays}, False)
    return net.eval()
