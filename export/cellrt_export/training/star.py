"""What a star network learns: patches -> object probability and ray lengths; how well it does on whole images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cellrt.heads import star
from cellrt.manifest import PercentileSpec, StarSpec, pair
from cellrt.normalize import normalize
from cellrt_export import stardist
from cellrt_export.star_folder import StarConfig, Thresholds
from cellrt_export.star_net import StarNet2D, save_folder
from cellrt_export.summary import ExportSummary
from cellrt_export.training import synthetic
from cellrt_export.training.augment import Augmentation, random_patch, require_multiple
from cellrt_export.training.data import Sample
from cellrt_export.training.evaluate import IOUS, Score, count
from cellrt_export.training.loop import Batch
from cellrt_export.training.loss import BACKGROUND_WEIGHT, DIST_WEIGHT, star_loss
from cellrt_export.training.sampling import Sampler
from cellrt_export.training.targets import edt_probability, star_distances

# Thresholds tried at the end.
_PROBS = tuple(round(0.30 + 0.025 * i, 3) for i in range(19))
_NMS = (0.3, 0.4, 0.5)


@dataclass(frozen=True, kw_only=True)
class StarTask:
    """Train a StarDist network."""

    network: Callable[[], StarNet2D]
    """Makes the network to begin with."""
    sampler: Sampler
    augmentation: Augmentation
    n_rays: int = 32
    grid: tuple[int, int] = (2, 2)
    batch_size: int = 8
    """Patches per step."""
    patch_size: int = 192
    """Height and width of a patch, pixels."""

    def batch(self, rng: np.random.Generator, progress: float) -> Batch:
        """Draw image (N, C, Y, X), prob (N, 1, y, x) and dist (N, n_rays, y, x)."""
        images, probs, dists = [], [], []
        augmentation = self.augmentation.at(progress)
        for _ in range(self.batch_size):
            patch, labels = random_patch(rng, self.sampler.draw(rng), augmentation, size=self.patch_size)
            images.append(patch)
            probs.append(edt_probability(labels, grid=self.grid)[None])
            dists.append(star_distances(labels, n_rays=self.n_rays, grid=self.grid))
        image, prob, dist = (torch.from_numpy(np.stack(arrays)) for arrays in (images, probs, dists))
        return image.contiguous(memory_format=torch.channels_last), prob, dist

    def loss(self, net: StarNet2D, batch: Batch) -> Tensor:
        """StarDist's loss."""
        image, prob, dist = batch
        return star_loss(*net.logit_and_dist(image), prob, dist)


@torch.no_grad()
def predict(net: StarNet2D, image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Normalised image (C, Y, X), padded by reflection at the end of each axis -> maps (1 + n_rays, y, x)."""
    padding = [(0, -size % multiple) for size, multiple in zip(image.shape[1:], net.config.multiple, strict=True)]
    padded = torch.from_numpy(np.pad(image, [(0, 0), *padding], mode="reflect"))[None]
    device = next(net.parameters()).device
    maps: NDArray[np.float32] = net(padded.to(device))[0].contiguous().cpu().numpy()
    return maps


def evaluate(
    net: StarNet2D, samples: Sequence[Sample], *, probs: tuple[float, ...], nms: tuple[float, ...]
) -> list[Score]:
    """Score a network on samples for every pair of thresholds, `nms` the slower one.

    One suppression serves all `probs`: the greedy order is descending, so a higher threshold only takes the
    tail of the instances away.
    """
    net.eval()
    total = np.zeros((len(nms), len(probs), len(IOUS), 3), np.int64)
    for sample in samples:
        maps = predict(net, sample.image)
        for i, nms_threshold in enumerate(nms):
            spec = StarSpec(
                n_rays=net.config.n_rays, grid=pair(net.config.grid), prob_thresh=min(probs), nms_thresh=nms_threshold
            )
            decoded = star.decode(maps, spec, shape=sample.labels.shape, threads=1)
            total[i] += count(sample.labels, decoded.labels, [int((decoded.scores > prob).sum()) for prob in probs])
    return [
        Score.of({"prob": prob, "nms": nms_threshold}, total[i, j])
        for i, nms_threshold in enumerate(nms)
        for j, prob in enumerate(probs)
    ]


@dataclass(frozen=True, kw_only=True)
class StarKind:
    """How `run` trains a StarDist network. The fields up to `start` decide a new one; `start` brings its own."""

    n_channels: int = 1
    """Image channels."""
    n_rays: int = 32
    grid: int = 2
    """Pixels per sample of the maps, a power of 2."""
    n_filters: int = 16
    """Filters at the finest level; each level below has twice as many."""
    n_features: int = 48
    """Filters of the last shared convolution."""
    depth: int = 3
    """Poolings inside the U-Net."""
    start: StarNet2D | None = None
    """Network to begin with."""
    start_thresholds: Thresholds = field(default_factory=Thresholds)
    """What a run without held-out images publishes."""
    augmentation: Augmentation
    batch_size: int = 8
    patch_size: int = 192
    normalize: PercentileSpec = field(default_factory=PercentileSpec)

    @property
    def config(self) -> StarConfig:
        """The architecture."""
        if self.start is not None:
            return self.start.config
        return StarConfig(
            n_channel_in=self.n_channels,
            n_rays=self.n_rays,
            grid=(self.grid, self.grid),
            n_classes=None,
            unet_n_depth=self.depth,
            unet_kernel_size=(3, 3),
            unet_n_filter_base=self.n_filters,
            unet_n_conv_per_depth=2,
            unet_pool=(2, 2),
            unet_activation="relu",
            unet_last_activation="relu",
            unet_batch_norm=False,
            unet_expansion=2,
            net_conv_after_unet=self.n_features,
        )

    def normalise(self, pixels: NDArray[Any]) -> NDArray[np.float32]:
        """Image (C, Y, X) -> what the network sees, as its manifest will say."""
        return normalize(pixels, self.normalize, out_shape=(pixels.shape[1], pixels.shape[2]), threads=1)

    def drawn(self, n: int, seed: int) -> list[Sample]:
        """Synthetic images."""
        return synthetic.nuclei(seed, n, self.normalise)

    def task(self, sampler: Sampler, samples: Sequence[Sample]) -> StarTask:
        """What is learned."""
        config = self.config
        require_multiple(self.patch_size, max(config.multiple))
        return StarTask(
            network=lambda: StarNet2D(config, batch_norm=True) if self.start is None else deepcopy(self.start),
            sampler=sampler,
            augmentation=self.augmentation,
            n_rays=config.n_rays,
            grid=pair(config.grid),
            batch_size=self.batch_size,
            patch_size=self.patch_size,
        )

    def quick(self, net: StarNet2D, samples: Sequence[Sample]) -> list[Score]:
        """How well a network does at a few thresholds, to compare checkpoints by."""
        return evaluate(net, samples, probs=(0.5, 0.6, 0.7), nms=(0.3,))

    def scores(self, net: StarNet2D, samples: Sequence[Sample]) -> list[Score]:
        """How well a network does at all thresholds worth trying."""
        return evaluate(net, samples, probs=_PROBS, nms=_NMS)

    def choose(self, means: Sequence[float], scores: Sequence[Score]) -> int:
        """The lowest probability threshold whose mean precision is within 0.01 of the best, the better of equals.

        The precision rises slowly with the threshold and then falls off a cliff, as objects reach no higher: the best
        place on these images is the edge, where other images lose their dimmer cells.
        """
        good = [i for i, mean in enumerate(means) if mean >= max(means) - 0.01]
        return min(good, key=lambda i: (scores[i].thresholds["prob"], -means[i]))

    def thresholds(self) -> dict[str, float]:
        """What is published where no image was held out to choose by."""
        return {"prob": self.start_thresholds.prob, "nms": self.start_thresholds.nms}

    def publish(
        self,
        net: StarNet2D,
        folder: Path,
        name: str,
        thresholds: Mapping[str, float],
        *,
        licence: str | None,
        description: str,
        precision: str,
    ) -> ExportSummary:
        """Write a StarDist folder and the ONNX file beside it."""
        record = {
            "train_patch_size": [self.patch_size] * 2,
            "train_background_reg": BACKGROUND_WEIGHT,
            "train_loss_weights": [1, DIST_WEIGHT],
            "train_batch_size": self.batch_size,
        }
        save_folder(net, folder / name, thresholds=Thresholds(**thresholds), training=record)
        return stardist.export(
            folder / name,
            folder / f"{name}.onnx",
            force=True,
            normalize=self.normalize,
            licence=licence,
            description=description,
            precision=precision,
        )

    def maps(self, net: StarNet2D, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """The network's maps of a batch (N, C, Y, X), to compare with those of the ONNX file."""
        return np.stack([predict(net, image) for image in batch])
