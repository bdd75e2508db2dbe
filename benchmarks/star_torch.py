"""A StarDist network that others trained in torch, for the accuracy tables: StarDist's torch port by Ashis Ravindran.

Its weights (BSD-3-Clause) were trained on the paper's subset of the 2018 Data Science Bowl: a U-Net of 32 to 128
channels with group normalisation and ELU, bilinear upsampling, 32 rays at every pixel. Only the layout of its state
dict is known here, and the order of its operations.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

from cellrt.heads import star
from cellrt.manifest import StarSpec

PROB, NMS = 0.4, 0.3  # as its author evaluates it
_GROUP = 8  # channels that are normalised together


class StarTorch:
    """The network; `segment` takes an image (Y, X) that is normalised to percentiles 1 and 99.8."""

    def __init__(self, path):
        self._weights = torch.load(path, weights_only=True, map_location="cpu")

    @torch.no_grad()
    def segment(self, image):
        """Instances of an image float32 (Y, X)."""
        padding = [(0, -side % 8) for side in image.shape]
        prob, dist = self._maps(torch.from_numpy(np.pad(image, padding, mode="reflect"))[None, None])
        maps = torch.cat([prob, dist], 1)[0].numpy()
        spec = StarSpec(n_rays=len(maps) - 1, grid=(1, 1), prob_thresh=PROB, nms_thresh=NMS)
        return star.decode(maps, spec, shape=image.shape)

    def _maps(self, x):
        levels = [self._pair("inc.conv", x)]
        for level in (1, 2, 3):
            levels.append(self._pair(f"down{level}.mpconv.1", functional.max_pool2d(levels[-1], 2)))
        x = levels.pop()
        for level in (1, 2, 3):
            x = functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
            x = self._pair(f"up{level}.conv", torch.cat([levels.pop(), x], 1))
        x = self._conv("features", x)
        return torch.sigmoid(self._conv("out_prob.conv", x)), functional.relu(self._conv("out_ray.conv", x))

    def _pair(self, name, x):
        """Two convolutions, each with group normalisation and ELU."""
        for index in (0, 3):
            x = self._conv(f"{name}.conv.{index}", x)
            norm = f"{name}.conv.{index + 1}"
            groups = x.shape[1] // _GROUP
            x = functional.elu(
                functional.group_norm(x, groups, self._weights[f"{norm}.weight"], self._weights[f"{norm}.bias"])
            )
        return x

    def _conv(self, name, x):
        weight = self._weights[f"{name}.weight"]
        return functional.conv2d(x, weight, self._weights[f"{name}.bias"], padding=weight.shape[-1] // 2)
