"""How well a star network segments: maps -> instances -> matching -> average precision.

The instances are the product's own (`cellrt.heads.star`), so thresholds chosen here are right there.
Not here: which thresholds to try, and which score decides.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from cellrt.heads import star
from cellrt.instances import Instances
from cellrt.manifest import StarSpec
from cellrt_export.nets import StarNet2D
from cellrt_export.training.data import Sample

IOUS = (0.5, 0.6, 0.7, 0.8, 0.9)


@torch.no_grad()
def predict(net: StarNet2D, image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Normalised image (Y, X), padded by reflection at the end of each axis -> maps (1 + n_rays, y, x)."""
    padding = [(0, -size % multiple) for size, multiple in zip(image.shape, net.config.multiple, strict=True)]
    padded = np.pad(image, padding, mode="reflect")
    maps: NDArray[np.float32] = net(torch.from_numpy(padded)[None, None])[0].numpy()
    return maps


def decode(
    maps: NDArray[np.float32], shape: tuple[int, int], *, grid: tuple[int, int], prob: float, nms: float
) -> Instances:
    """Instances of an image of `shape` from maps (1 + n_rays, y, x), most probable first."""
    spec = StarSpec(n_rays=len(maps) - 1, grid=grid, prob_thresh=prob, nms_thresh=nms)
    return star.decode(maps, spec, shape=shape, threads=1)


def overlaps(truth: NDArray[np.integer], found: NDArray[np.integer]) -> NDArray[np.float64]:
    """Intersection over union (n_true, n_found) of the objects of two label images; absent ids are left out of rows."""
    n_found = int(found.max(initial=0))  # an instance that is drawn over entirely and last has no column
    table = np.bincount((truth.astype(np.int64) * (n_found + 1) + found).ravel())
    table = np.pad(table, (0, -table.size % (n_found + 1))).reshape(-1, n_found + 1)
    union = table.sum(1, keepdims=True) + table.sum(0, keepdims=True) - table
    iou = table / np.maximum(union, 1)
    return np.asarray(iou[1:, 1:][table[1:].sum(1) > 0])


def counts(iou: NDArray[np.float64], threshold: float) -> NDArray[np.int64]:
    """(true positives, false positives, false negatives) at an IoU threshold of at least 0.5.

    From 0.5 on an object has at most one partner (two only if it is cut into exact halves), so counting is
    matching.
    """
    hits = iou >= threshold
    tp = min(hits.any(0).sum(), hits.any(1).sum())
    return np.array([tp, iou.shape[1] - tp, iou.shape[0] - tp])


@dataclass(frozen=True)
class Score:
    """Average precision, tp / (tp + fp + fn) over all objects of a data set, at each of IOUS."""

    prob: float
    nms: float
    precision: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean over IOUS."""
        return float(np.mean(self.precision))


def evaluate(net: StarNet2D, samples: list[Sample], *, probs: tuple[float, ...], nms: tuple[float, ...]) -> list[Score]:
    """Score a network on samples for every pair of thresholds.

    One suppression serves all `probs`: the greedy order is descending, so a higher threshold only takes the
    tail of the instances away.
    """
    net.eval()
    total = np.zeros((len(nms), len(probs), len(IOUS), 3), np.int64)
    for sample in samples:
        maps = predict(net, sample.image)
        for i, nms_threshold in enumerate(nms):
            decoded = decode(maps, sample.labels.shape, grid=net.config.grid, prob=min(probs), nms=nms_threshold)
            iou = overlaps(sample.labels, decoded.labels)
            for j, prob in enumerate(probs):
                kept = iou[:, : int((decoded.scores > prob).sum())]
                for k, threshold in enumerate(IOUS):
                    total[i, j, k] += counts(kept, threshold)
    precision = total[..., 0] / np.maximum(total.sum(-1), 1)
    return [
        Score(prob, nms_threshold, tuple(float(p) for p in precision[i, j]))
        for i, nms_threshold in enumerate(nms)
        for j, prob in enumerate(probs)
    ]
