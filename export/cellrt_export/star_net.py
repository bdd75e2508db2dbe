"""The torch network of StarDist 2D: what `star_graph` lists, as layers that can be trained.

Doors: `StarNet2D` takes a float32 image (N, C, Y, X) and gives float32 maps (N, M, Y/g, X/g), channels in the order the
runtime expects. `load_folder` and `load_onnx` open a StarDist model folder and what `cellrt export stardist` makes of
one; `save_folder` writes a folder, which the original program and the exporter read. Not here: normalisation of images,
padding to legal sizes, training, writing ONNX.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from cellrt.errors import ModelError
from cellrt.manifest import pair
from cellrt_export import keras_h5, onnx_graph, star_graph
from cellrt_export.star_folder import StarConfig, Thresholds, choose_weights, read_config
from cellrt_export.star_graph import Conv, Kernels, Network, Pool, Remember, Up

# What `activations` writes as ONNX, with Keras 3's parameters.
_ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "celu": functional.celu,
    "elu": functional.elu,
    "exponential": torch.exp,
    "gelu": functional.gelu,
    "hard_shrink": functional.hardshrink,
    "hard_sigmoid": functional.hardsigmoid,
    "hard_silu": functional.hardswish,
    "hard_swish": functional.hardswish,
    "hard_tanh": functional.hardtanh,
    "leaky_relu": partial(functional.leaky_relu, negative_slope=0.2),
    "linear": lambda x: x,
    "log_sigmoid": functional.logsigmoid,
    "log_softmax": partial(functional.log_softmax, dim=1),
    "mish": functional.mish,
    "relu": functional.relu,
    "relu6": functional.relu6,
    "selu": functional.selu,
    "sigmoid": torch.sigmoid,
    "silu": functional.silu,
    "soft_shrink": functional.softshrink,
    "softmax": partial(functional.softmax, dim=1),
    "softplus": functional.softplus,
    "softsign": functional.softsign,
    "sparse_plus": lambda x: ((x.clamp(-1, 1) + 1) / 2).square() + functional.relu(x - 1),
    "sparse_sigmoid": lambda x: (x.clamp(-1, 1) + 1) / 2,
    "squareplus": lambda x: (x + (x.square() + 4).sqrt()) / 2,
    "swish": functional.silu,
    "tanh": torch.tanh,
    "tanh_shrink": functional.tanhshrink,
}


class _Convolution(nn.Conv2d):
    """With a bias, and as many samples out as in; an even kernel sees one sample more at the end, as in Keras."""

    bias: Tensor

    def __init__(self, conv: Conv) -> None:
        super().__init__(conv.n_in, conv.n_out, pair(conv.kernel), padding="same")
        nn.init.kaiming_normal_(self.weight, nonlinearity="relu")
        nn.init.zeros_(self.bias)


class _Layer(nn.Module):
    """Convolution, [batch normalisation,] activation: (N, C, Y, X) -> (N, F, Y, X)."""

    def __init__(self, conv: Conv, *, batch_norm: bool) -> None:
        super().__init__()
        self.conv = _Convolution(conv)
        self.norm = nn.BatchNorm2d(conv.n_out, eps=1e-3, momentum=0.05) if batch_norm else None  # eps of Keras
        self.activation = _ACTIVATIONS[conv.activation]

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.linear(x))

    def linear(self, x: Tensor) -> Tensor:
        """Everything before the activation."""
        x = self.conv(x)
        return x if self.norm is None else self.norm(x)

    @torch.no_grad()
    def folded(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Kernel (out, in, ky, kx) and bias (out,) of a convolution that does alone what `linear` does."""
        weight, bias = self.conv.weight.double(), self.conv.bias.double()
        if self.norm is not None:
            mean, variance = cast(Tensor, self.norm.running_mean), cast(Tensor, self.norm.running_var)
            factor = self.norm.weight / (variance.double() + self.norm.eps).sqrt()
            weight, bias = weight * factor[:, None, None, None], (bias - mean) * factor + self.norm.bias
        return weight.float().cpu().numpy(), bias.float().cpu().numpy()


class StarNet2D(nn.Module):
    """A StarDist 2D U-Net: image (N, C, Y, X) -> maps (N, 1 + n_rays [+ n_classes + 1], Y/grid, X/grid).

    Channel 0 of the maps is the object probability in [0, 1]; n_rays lengths in pixels of the image follow, then the
    class probabilities of a network that tells classes apart.

    Parameters
    ----------
    config : StarConfig
        Architecture, as in a folder's config.json.
    batch_norm : bool
        Normalise behind every convolution but the last ones, whatever the configuration says. Training converges
        sooner with it, and `save_folder` folds it into the convolutions.

    Source: Schmidt et al. 2018, "Cell Detection with Star-convex Polygons"; the layers are those of
    `star_graph.network`.
    """

    def __init__(self, config: StarConfig, *, batch_norm: bool = False) -> None:
        super().__init__()
        self.config = config
        self.plan = star_graph.network(config)
        heads = (self.plan.prob, self.plan.dist, self.plan.prob_class)
        self.layers = nn.ModuleDict(
            {
                conv.name: _Layer(conv, batch_norm=conv.batch_norm or (batch_norm and conv not in heads))
                for conv in self.plan.convolutions()
            }
        )

    def layer(self, conv: Conv) -> _Layer:
        """The layer of a convolution that `star_graph` lists."""
        return cast(_Layer, self.layers[conv.name])

    def forward(self, image: Tensor) -> Tensor:
        x = self._unet(image)
        logit, dist = self._heads(x)
        maps = [torch.sigmoid(logit), dist]
        if self.plan.prob_class is not None:
            maps.append(self.layer(self.plan.prob_class)(self._optional(self.plan.features_class, x)))
        return torch.cat(maps, dim=1)

    def logit_and_dist(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Image (N, C, Y, X) -> logit of the probability (N, 1, y, x), ray lengths (N, n_rays, y, x), pixels.

        Training needs the logit: the cross-entropy of a saturated sigmoid has no gradient.
        """
        return self._heads(self._unet(image))

    def _heads(self, x: Tensor) -> tuple[Tensor, Tensor]:
        shared = self._optional(self.plan.features, x)
        return self.layer(self.plan.prob).linear(shared), self.layer(self.plan.dist)(shared)

    def _optional(self, conv: Conv | None, x: Tensor) -> Tensor:
        return x if conv is None else self.layer(conv)(x)

    def _unet(self, x: Tensor) -> Tensor:
        """The steps of the U-Net, in order."""
        skips: list[Tensor] = []
        for step in self.plan.trunk:
            if isinstance(step, Conv):
                x = self.layer(step)(x)
            elif isinstance(step, Pool):
                x = functional.max_pool2d(x, step.size)
            elif isinstance(step, Remember):
                skips.append(x)
            elif isinstance(step, Up):
                x = functional.interpolate(x, scale_factor=[float(size) for size in step.size], mode="nearest")
                x = torch.cat([x, skips.pop()], dim=1)
        return x


def load_folder(folder: str | Path, *, batch_norm: bool = False) -> StarNet2D:
    """Open a StarDist 2D model folder as a torch network; batch normalisation in its weights is folded.

    Parameters
    ----------
    batch_norm : bool
        Put a fresh normalisation behind each convolution, for training on. The network answers as the original does
        only without.

    Raises
    ------
    FileError, ModelError
        As `star_folder.read_config`, `keras_h5.read` and `star_graph.match_weights` do, and `ModelError` if Keras 2
        meant another function by the name of an activation.
    """
    folder = Path(folder)
    config = read_config(folder)
    if not isinstance(config, StarConfig) or len(config.grid) != 2:
        raise ModelError(
            f"expected a StarDist 2D model folder, got a 3D one at {folder}; it can be exported, but not trained here"
        )
    stored = keras_h5.read(choose_weights(folder))
    if stored.keras_version < 3 and "hard_sigmoid" in (config.unet_activation, config.unet_last_activation):
        raise ModelError(
            f"expected the hard_sigmoid of Keras 3, got weights of Keras {stored.keras_version} in {stored.file_name}, "
            "where it has another slope; this network can be exported, but not trained here"
        )
    return _filled(config, star_graph.match_weights(star_graph.network(config), stored), batch_norm=batch_norm)


def load_onnx(model: str | Path, *, batch_norm: bool = False) -> StarNet2D:
    """Open a file that `cellrt export stardist` wrote, or a bundled model by its name, as a torch network.

    It answers as the file does in ONNX Runtime, to float32 rounding; weights stored as float16 count as they are
    stored. `batch_norm` as in `load_folder`. Raises `FileError` or `ModelError` as `onnx_graph.read` and
    `star_graph.read` do.
    """
    return _filled(*star_graph.read(onnx_graph.read(model)), batch_norm=batch_norm)


def _filled(config: StarConfig, kernels: Kernels, *, batch_norm: bool) -> StarNet2D:
    """A network with these weights, into which the configuration's batch normalisation is folded."""
    net = StarNet2D(replace(config, unet_batch_norm=False), batch_norm=batch_norm)
    with torch.no_grad():
        for conv in net.plan.convolutions():
            layer = net.layer(conv).conv
            for parameter, array in zip((layer.weight, layer.bias), kernels[conv.name], strict=True):
                parameter.copy_(torch.tensor(array))
    return net.eval()


def save_folder(net: StarNet2D, folder: str | Path, *, thresholds: Thresholds, training: Mapping[str, Any]) -> None:
    """Write a StarDist model folder: config.json, thresholds.json, weights_best.h5. Normalisation is folded.

    Parameters
    ----------
    folder : path
        Made if it is not there; files of these names are replaced, each as a whole.
    thresholds : Thresholds
        Each in (0, 1).
    training : mapping
        The `train_...` keys of config.json; StarDist accepts only keys it knows.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = _config_json(replace(net.config, unet_batch_norm=False)) | dict(training)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".") as name:
        staged = Path(name)
        (staged / "config.json").write_text(json.dumps(config))
        (staged / "thresholds.json").write_text(json.dumps(asdict(thresholds)))
        _save_h5(net, staged / "weights_best.h5")
        for path in staged.iterdir():
            path.replace(folder / path.name)


def _config_json(config: StarConfig) -> dict[str, Any]:
    """Every architecture key of config.json, in StarDist's names."""
    return asdict(config) | {
        "n_dim": 2,
        "axes": "YXC",
        "backbone": "unet",
        "n_channel_out": 1 + config.n_rays,  # without the classes, as StarDist counts
        "net_input_shape": [None, None, config.n_channel_in],
        "net_mask_shape": [None, None, 1],
        "unet_dropout": 0.0,
        "unet_prefix": "",
    }


def _save_h5(net: StarNet2D, path: Path) -> None:
    """Write the weights as StarDist's Keras 3 does: `<layer>/<layer>/kernel` (ky, kx, in, out) and `.../bias`."""
    layers = _keras_layers(net.plan)
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = list(layers)
        file.attrs["backend"] = "tensorflow"  # whose kernel layout this is
        file.attrs["keras_version"] = "3.0.0"
        for name, conv in {**layers, "top_level_model_weights": None}.items():
            group = file.create_group(name)
            if conv is None:
                group.attrs["weight_names"] = np.zeros(0)
                continue
            group.attrs["weight_names"] = [f"{name}/kernel", f"{name}/bias"]
            weights = group.create_group(name)
            kernel, bias = net.layer(conv).folded()
            weights["kernel"] = kernel.transpose(2, 3, 1, 0)
            weights["bias"] = bias


def _keras_layers(plan: Network) -> dict[str, Conv | None]:
    """Keras's layers by name, in the order of its files; None for those without weights."""
    layers: dict[str, Conv | None] = {"input": None}
    counts: Counter[str] = Counter()

    def automatic(kind: str, conv: Conv | None = None) -> None:
        """Keras numbers automatic names from the second on: concatenate, concatenate_1, ..."""
        layers[f"{kind}_{counts[kind]}" if counts[kind] else kind] = conv
        counts[kind] += 1

    for step in plan.trunk:
        if isinstance(step, Up):
            automatic("up_sampling2d")
            automatic("concatenate")
        elif isinstance(step, Conv) and step.name.startswith("grid_"):  # StarDist names only the layers of the U-Net
            automatic("conv2d", step)
        elif isinstance(step, Pool) and step.name.startswith("grid_"):
            automatic("max_pooling2d")
        elif isinstance(step, Conv | Pool):
            layers[step.name] = step if isinstance(step, Conv) else None
    in_trunk = layers.values()
    return layers | {conv.name: conv for conv in plan.convolutions() if conv not in in_trunk}
