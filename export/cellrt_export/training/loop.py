"""The training loop: samples -> a network, resumable at any checkpoint to the same bytes.

Every random choice of step k comes from a generator seeded by (seed, k), so the state of a run is the weights,
the optimiser and k. Not here: reading data, choosing thresholds, the command line.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cellrt_export.nets import StarConfig2D, StarNet2D
from cellrt_export.training.augment import random_patch
from cellrt_export.training.data import Sample
from cellrt_export.training.loss import star_loss
from cellrt_export.training.targets import edt_probability, star_distances

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run does; the same plan and samples give the same network."""

    steps: int
    """Optimiser steps."""
    seed: int = 0
    batch_size: int = 8
    """Patches per step."""
    patch_size: int = 128
    """Height and width of a patch, pixels."""
    learning_rate: float = 1e-3
    """Peak of the schedule: linear warm-up, then half a cosine down to 1 % of it."""
    warmup: int = 200
    """Steps of the warm-up."""
    checkpoint_every: int = 250
    """Steps between checkpoints."""

    def rate(self, step: int) -> float:
        """Learning rate of a step."""
        rise = min(1.0, (step + 1) / self.warmup)
        fall = 0.5 * (1 + np.cos(np.pi * min(1.0, step / self.steps)))
        return float(self.learning_rate * rise * (0.01 + 0.99 * fall))


def train(
    config: StarConfig2D,
    sets: list[list[Sample]],
    plan: Plan,
    *,
    initial: StarNet2D | None = None,
    checkpoint: Path | None = None,
    at_checkpoint: Callable[[StarNet2D, int], None] | None = None,
) -> tuple[StarNet2D, list[float]]:
    """Train a network on `sets`, from which patches are drawn with equal probability.

    Parameters
    ----------
    initial : network of the same configuration whose weights to start from; default: random ones.
    checkpoint : file to resume from where it exists, and to write every `plan.checkpoint_every` steps.
    at_checkpoint : called with the network and the number of steps done after each checkpoint.

    Returns
    -------
    net, losses : the network, and the loss of every step of this call.
    """
    torch.manual_seed(plan.seed)
    net = StarNet2D(config)
    if initial is not None:
        net.load_state_dict(initial.state_dict())
    optimiser = torch.optim.Adam(net.parameters(), lr=plan.learning_rate)
    first = 0
    if checkpoint is not None and checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        net.load_state_dict(state["net"])
        optimiser.load_state_dict(state["optimiser"])
        first = state["step"]
        log.info("resumed at step %d", first)

    losses: list[float] = []
    started = time.monotonic()
    for step in range(first, plan.steps):
        net.train()
        image, prob, dist = _batch(np.random.default_rng((plan.seed, step)), sets, config, plan)
        for group in optimiser.param_groups:
            group["lr"] = plan.rate(step)
        loss = star_loss(*net.logit_and_dist(image), prob, dist)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(net.parameters(), 10.0)
        optimiser.step()
        losses.append(loss.item())

        done = step + 1
        if done % 50 == 0:
            pace = (time.monotonic() - started) / (done - first)
            log.info("step %d/%d loss %.4f, %.2f s per step", done, plan.steps, np.mean(losses[-50:]), pace)
        if done % plan.checkpoint_every == 0 or done == plan.steps:
            if checkpoint is not None:
                _save(checkpoint, {"net": net.state_dict(), "optimiser": optimiser.state_dict(), "step": done})
            if at_checkpoint is not None:
                at_checkpoint(net, done)
    return net, losses


def _batch(
    rng: np.random.Generator, sets: list[list[Sample]], config: StarConfig2D, plan: Plan
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw image (N, 1, Y, X), prob (N, 1, y, x) and dist (N, n_rays, y, x)."""
    images, probs, dists = [], [], []
    for _ in range(plan.batch_size):
        samples = sets[rng.integers(len(sets))]
        sample = samples[_draw(rng, samples)]
        patch, labels = random_patch(rng, sample.image, sample.labels, size=plan.patch_size, diameter=sample.diameter)
        images.append(patch[None])
        probs.append(edt_probability(labels, grid=config.grid)[None])
        dists.append(star_distances(labels, n_rays=config.n_rays, grid=config.grid))
    image, prob, dist = (torch.from_numpy(np.stack(arrays)) for arrays in (images, probs, dists))
    return image, prob, dist


def _draw(rng: np.random.Generator, samples: list[Sample]) -> int:
    """Draw an image; the weight of a cluster grows with the root of its size, so that rare kinds are seen."""
    clusters = np.array([s.cluster for s in samples])
    weights = 1 / np.sqrt(np.bincount(clusters)[clusters])
    return int(rng.choice(len(samples), p=weights / weights.sum()))


def _save(path: Path, state: dict[str, Any]) -> None:
    """Write under another name first: a run killed here keeps its previous checkpoint."""
    part = path.with_suffix(".part")
    torch.save(state, part)
    part.replace(path)
