"""How wrong a network is: StarDist's loss of probability and rays, Cellpose's of flow and cell logit."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

# StarDist's defaults: train_loss_weights[1] and train_background_reg.
DIST_WEIGHT = 0.2
BACKGROUND_WEIGHT = 1e-4
FLOW_SCALE = 5.0  # Cellpose's networks give flows of this length per step


def star_loss(logit: Tensor, dist: Tensor, true_prob: Tensor, true_dist: Tensor) -> Tensor:
    """Scalar loss of logit (N, 1, y, x) and dist (N, R, y, x) against prob (N, 1, y, x) and dist (N, R, y, x).

    Rays count in proportion to the probability of their pixel: the middle of an object decides its outline.
    In the background they are pulled gently to 0. Distances in pixels.
    Source: `masked_loss_mae` and `prepare_model` in stardist/models/base.py.
    """
    entropy = functional.binary_cross_entropy_with_logits(logit, true_prob)
    error = (true_prob * (dist - true_dist).abs()).mean() / (true_prob.mean() + torch.finfo(dist.dtype).eps)
    background = ((1 - true_prob) * dist.abs()).mean()
    return entropy + DIST_WEIGHT * (error + BACKGROUND_WEIGHT * background)


def flow_loss(maps: Tensor, true_flow: Tensor, inside: Tensor) -> Tensor:
    """Scalar loss of maps (N, 3, Y, X) against flow (N, 2, Y, X) of length 1 or 0 and inside (N, Y, X), 1 in cells.

    Source: `_loss_fn_seg` in cellpose/train.py.
    """
    flow = functional.mse_loss(maps[:, :2], FLOW_SCALE * true_flow) / 2
    return flow + functional.binary_cross_entropy_with_logits(maps[:, 2], inside)
