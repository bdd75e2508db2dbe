"""Command line of the training: folders of images and masks -> a StarDist model folder.

    python -m cellrt_export.training SET [SET ...] --out RUN --steps 6000 --seed 0

RUN gets `last.pt` (to resume: the same command again), `best/` (a model folder, the best validation so far) and
at the end `final/` (the same weights with chosen thresholds) and `metrics.json`.
"""

from __future__ import annotations

import argparse
import json
import logging
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from cellrt_export.nets import StarConfig2D, StarNet2D, load_keras_folder, save_keras_folder
from cellrt_export.training.data import Sample, read_set, split
from cellrt_export.training.evaluate import IOUS, Score, evaluate
from cellrt_export.training.loop import Plan, train
from cellrt_export.training.loss import BACKGROUND_WEIGHT, DIST_WEIGHT

log = logging.getLogger("cellrt_export.training")

# Thresholds tried at the end, and the pair used to compare checkpoints.
_PROBS = tuple(round(0.30 + 0.025 * i, 3) for i in range(19))
_NMS = (0.3, 0.4, 0.5)
_DURING = {"prob": 0.5, "nms": 0.4}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m cellrt_export.training", description=__doc__.split("\n")[0])
    parser.add_argument("sets", nargs="+", type=Path, help="folders with images/ and masks/")
    parser.add_argument("--out", required=True, type=Path, help="folder of the run")
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--split-seed", type=int, default=0, help="which clusters are held out")
    parser.add_argument("--init", type=Path, help="model folder to start from; it decides the architecture")
    parser.add_argument("--rate", type=float, default=1e-3, help="peak learning rate")
    parser.add_argument("--filters", type=int, default=16, help="filters of the finest level")
    parser.add_argument("--features", type=int, default=64, help="filters of the last shared convolution")
    parser.add_argument("--batch", type=int, default=8, help="patches per step")
    parser.add_argument("--patch", type=int, default=128, help="height and width of a patch, pixels")
    parser.add_argument("--validation", type=float, default=0.15, help="share of images held out of each set")
    parser.add_argument("--quick", type=int, default=12, help="images per set validated at each checkpoint")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(arguments.threads)
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)

    initial = None if arguments.init is None else load_keras_folder(arguments.init)
    config = StarConfig2D(unet_n_filter_base=arguments.filters, net_conv_after_unet=arguments.features)
    if initial is not None:
        config = initial.config
    plan = Plan(
        steps=arguments.steps,
        seed=arguments.seed,
        batch_size=arguments.batch,
        patch_size=arguments.patch,
        learning_rate=arguments.rate,
    )
    divided = [split(read_set(f), fraction=arguments.validation, seed=arguments.split_seed) for f in arguments.sets]
    training, validation = [d[0] for d in divided], [d[1] for d in divided]
    names = {"training": _names(training), "validation": _names(validation)}
    (out / "split.json").write_text(json.dumps(names, indent=1))
    record = {
        "train_patch_size": [plan.patch_size] * 2,
        "train_background_reg": BACKGROUND_WEIGHT,
        "train_loss_weights": [1, DIST_WEIGHT],
        "train_learning_rate": plan.learning_rate,
        "train_batch_size": plan.batch_size,
        "train_epochs": plan.steps // plan.checkpoint_every,
        "train_steps_per_epoch": plan.checkpoint_every,
    }

    best_file = out / "best.json"
    quick = [samples[:: max(1, len(samples) // arguments.quick)] for samples in validation]

    def validate(net: StarNet2D, step: int) -> None:
        scores = [_at(evaluate(net, s, probs=(_DURING["prob"],), nms=(_DURING["nms"],))) for s in quick]
        mean = float(np.mean([s.mean for s in scores]))
        best = json.loads(best_file.read_text())["mean"] if best_file.exists() else -1.0
        log.info(
            "step %d: AP@0.5 %s, mean AP %.4f%s",
            step,
            " ".join(f"{s.precision[0]:.4f}" for s in scores),
            mean,
            " (best)" if mean > best else "",
        )
        if mean > best:
            save_keras_folder(net, out / "best", thresholds=_DURING, training=record)
            best_file.write_text(json.dumps({"step": step, "mean": mean}))

    train(config, training, plan, initial=initial, checkpoint=out / "last.pt", at_checkpoint=validate)

    net = load_keras_folder(out / "best")
    grids = [evaluate(net, samples, probs=_PROBS, nms=_NMS) for samples in validation]
    chosen = _choose([float(np.mean([grid[i].mean for grid in grids])) for i in range(len(grids[0]))], grids[0])
    thresholds = {"prob": grids[0][chosen].prob, "nms": grids[0][chosen].nms}
    save_keras_folder(net, out / "final", thresholds=thresholds, training=record)
    metrics = {
        "thresholds": thresholds,
        "ious": IOUS,
        "validation": {
            folder.name: asdict(grid[chosen]) | {"mean": grid[chosen].mean, "images": len(samples)}
            for folder, grid, samples in zip(arguments.sets, grids, validation, strict=True)
        },
    }
    (out / "metrics.json").write_text(json.dumps(metrics, indent=1))
    log.info("%s", json.dumps(metrics))


def _choose(means: list[float], scores: list[Score]) -> int:
    """The lowest probability threshold whose mean precision is within 0.01 of the best, the better of equals.

    The precision rises slowly with the threshold and then falls off a cliff, as objects reach no higher: the best
    place on these images is the edge, where other images lose their dimmer cells.
    """
    good = [i for i, mean in enumerate(means) if mean >= max(means) - 0.01]
    return min(good, key=lambda i: (scores[i].prob, -means[i]))


def _names(sets: list[list[Sample]]) -> list[str]:
    return [sample.name for samples in sets for sample in samples]


def _at(scores: list[Score]) -> Score:
    """The only score of an evaluation with one pair of thresholds."""
    (score,) = scores
    return score


if __name__ == "__main__":
    main()
