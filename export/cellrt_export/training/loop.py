"""The training loop: a task -> a network, resumable at any checkpoint to the same numbers.

Every random choice of step k comes from a generator seeded by (seed, k), so the state of a run is the weights, their
running average, the optimiser and k. Not here: what is learned (star, flow), reading data, choosing thresholds.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from cellrt.errors import FileError

log = logging.getLogger(__name__)

Batch = tuple[Tensor, ...]
Net = TypeVar("Net", bound=nn.Module)


class Task(Protocol[Net]):
    """What a network learns."""

    def network(self) -> Net:
        """A network to begin with; random weights come from torch's generator."""

    def batch(self, rng: np.random.Generator, progress: float) -> Batch:
        """The arrays of one step, `progress` of the run being done, 0 to 1; everything random from `rng`."""

    def loss(self, net: Net, batch: Batch) -> Tensor:
        """Scalar loss of the network on a batch."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run does; the same plan and samples give the same network on the same machine."""

    steps: int
    """Optimiser steps."""
    seed: int = 0
    learning_rate: float = 2e-3
    """Peak of the schedule: linear warm-up, then half a cosine down to 1 % of it."""
    weight_decay: float = 1e-4
    warmup: int = 200
    """Steps of the warm-up."""
    average: float = 0.998
    """The result is a running average of the weights, in which those before a step keep this share."""
    checkpoint_every: int = 250
    """Steps between checkpoints."""
    compile: bool = False
    """Translate the network with the machine's C++ compiler: a minute at the start, then up to 1.5 times the speed."""
    freeze_norms: bool = False
    """Leave the statistics of batch normalisations as they are: a few images are too few to measure others."""
    patience: int | None = None
    """Stop after this many checkpoints without a better one; None: never."""

    def rate(self, step: int) -> float:
        """Learning rate of a step."""
        rise = min(1.0, (step + 1) / self.warmup)
        fall = 0.5 * (1 + np.cos(np.pi * min(1.0, step / self.steps)))
        return float(self.learning_rate * rise * (0.01 + 0.99 * fall))


def train(
    task: Task[Net],
    plan: Plan,
    *,
    checkpoint: Path | None = None,
    at_checkpoint: Callable[[Net, int], float] | None = None,
) -> tuple[Net, list[float]]:
    """Train a network.

    Parameters
    ----------
    checkpoint : file to resume from where it exists, and to write every `plan.checkpoint_every` steps.
    at_checkpoint : called with the averaged network and the number of steps done after each checkpoint; gives a score,
        the higher the better, by which `plan.patience` stops.

    Returns
    -------
    net, losses : the averaged network, in evaluation mode, and the loss of every step of this call.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(plan.seed)
    net = task.network().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = deepcopy(net)
    optimiser = torch.optim.AdamW(net.parameters(), lr=plan.learning_rate, weight_decay=plan.weight_decay)
    first, best, stale = 0, -np.inf, 0
    if checkpoint is not None and checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True, map_location=device)
        net.load_state_dict(state["net"])
        average.load_state_dict(state["average"])
        optimiser.load_state_dict(state["optimiser"])
        first, best, stale = state["step"], state["best"], state["stale"]
        log.info("resumed at step %d", first)

    # the loss of a batch, not the network: a network may offer training more than its forward
    loss_of = torch.compile(task.loss) if plan.compile else task.loss
    losses: list[float] = []
    started = time.monotonic()
    net.train()
    if plan.freeze_norms:
        for layer in net.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.eval()
    for step, batch in _batches(task, plan, first):
        for group in optimiser.param_groups:
            group["lr"] = plan.rate(step)
        loss = loss_of(net, tuple(array.to(device) for array in batch))
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(net.parameters(), 10.0)
        optimiser.step()
        _average(average, net, min(plan.average, (1 + step) / (10 + step)))
        losses.append(loss.item())

        done = step + 1
        if done % 50 == 0:
            pace = (time.monotonic() - started) / (done - first)
            left = pace * (plan.steps - done) / 60
            log.info(
                "step %d/%d loss %.4f, %.2f s per step, %.0f min left",
                done,
                plan.steps,
                np.mean(losses[-50:]),
                pace,
                left,
            )
        if done % plan.checkpoint_every == 0 or done == plan.steps:
            if at_checkpoint is not None:
                score = at_checkpoint(average.eval(), done)
                best, stale = (score, 0) if score > best else (best, stale + 1)
            if checkpoint is not None:
                state = {"net": net.state_dict(), "average": average.state_dict(), "optimiser": optimiser.state_dict()}
                save(checkpoint, state | {"step": done, "best": best, "stale": stale})
            if plan.patience is not None and stale >= plan.patience:
                log.info("stopped: no better network for %d checkpoints", stale)
                break
    return average.eval(), losses


def _batches(task: Task[Any], plan: Plan, first: int) -> Iterator[tuple[int, Batch]]:
    """(step, batch) from `first` on, the next few made by a thread while the network works."""
    with ThreadPoolExecutor(1) as pool:
        waiting: deque[Future[Batch]] = deque()
        try:
            for step in range(first, plan.steps):
                while len(waiting) < 3 and step + len(waiting) < plan.steps:
                    ahead = step + len(waiting)
                    rng = np.random.default_rng((plan.seed, ahead))
                    waiting.append(pool.submit(task.batch, rng, ahead / plan.steps))
                yield step, waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


@torch.no_grad()
def _average(average: nn.Module, net: nn.Module, keep: float) -> None:
    """Move the averaged weights and statistics towards the network's."""
    for old, new in zip(average.state_dict().values(), net.state_dict().values(), strict=True):
        if old.is_floating_point():
            old.lerp_(new, 1 - keep)
        else:
            old.copy_(new)


def save(path: Path, state: dict[str, Any]) -> None:
    """Write under another name first: a run killed here keeps what it had. Raises `FileError` where it cannot."""
    part = path.with_suffix(".part")
    try:
        torch.save(state, part)
        part.replace(path)
    except (OSError, RuntimeError) as error:  # torch's own for a disk that is full
        part.unlink(missing_ok=True)
        raise FileError(f"expected to write {path}, got: {error}; check permissions and disk space") from error
