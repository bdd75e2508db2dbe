"""What a flow network learns: patches -> flows to the cells' centres and the logit of being inside; how well."""

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

from cellrt import kernels
from cellrt.heads import flow
from cellrt.manifest import FlowSpec, Normalize99Spec
from cellrt.normalize99 import normalize99
from cellrt.tile import cellpose_padding
from cellrt_export import cellpose
from cellrt_export.cpnet import CPNet
from cellrt_export.summary import ExportSummary
from cellrt_export.training import synthetic
from cellrt_export.training.augment import Augmentation, random_patch, require_multiple
from cellrt_export.training.data import Sample
from cellrt_export.training.evaluate import IOUS, Score, count
from cellrt_export.training.loop import Batch
from cellrt_export.training.loss import flow_loss
from cellrt_export.training.sampling import Sampler

# Flows point to the centre of the whole cell, also where the patch cuts it: they are computed so many pixels around.
_MARGIN = 16
# Thresholds tried at the end.
_CELLPROBS = (-1.0, -0.5, 0.0, 0.5, 1.0)
_FLOW_THRESHOLDS = (0.4, 0.6, 0.8)


@dataclass(frozen=True, kw_only=True)
class FlowTask:
    """Train a Cellpose network."""

    network: Callable[[], CPNet]
    """Makes the network to begin with."""
    sampler: Sampler
    augmentation: Augmentation
    batch_size: int = 8
    """Patches per step."""
    patch_size: int = 192
    """Height and width of a patch, pixels."""

    def batch(self, rng: np.random.Generator, progress: float) -> Batch:
        """Draw image (N, C, Y, X), flow (N, 2, Y, X) and inside (N, Y, X)."""
        images, flows, insides = [], [], []
        inner = slice(_MARGIN, _MARGIN + self.patch_size)
        augmentation = self.augmentation.at(progress)
        for _ in range(self.batch_size):
            sample = self.sampler.draw(rng)
            patch, labels = random_patch(rng, sample, augmentation, size=self.patch_size + 2 * _MARGIN)
            images.append(patch[:, inner, inner])
            flows.append(true_flow(labels)[:, inner, inner])
            insides.append((labels[inner, inner] > 0).astype(np.float32))
        image, true, inside = (torch.from_numpy(np.stack(arrays)) for arrays in (images, flows, insides))
        return image.contiguous(memory_format=torch.channels_last), true, inside

    def loss(self, net: CPNet, batch: Batch) -> Tensor:
        """Cellpose's loss."""
        image, true, inside = batch
        return flow_loss(net(image)[0], true, inside)


def true_flow(labels: NDArray[np.int32]) -> NDArray[np.float32]:
    """Flow (2, Y, X) of length 1 in the objects of labels (Y, X), as Cellpose 3 computes it for training."""
    ids, index = np.unique(labels, return_inverse=True)
    first = 0 if ids[0] == 0 else 1  # no background at all
    numbered = (index.reshape(labels.shape) + first).astype(np.int32)
    return kernels.label_flows_2d(numbered, n_labels=int(numbered.max()), dynamics="v3", n_iter=0, threads=1)


@torch.no_grad()
def predict(net: CPNet, image: NDArray[np.float32], scale: float) -> NDArray[np.float32]:
    """Normalised image (C, Y, X) -> maps (3, y, x) of what the network sees: the image scaled, as `segment` does."""
    shape = (image.shape[1], image.shape[2])
    size = (max(1, int(shape[0] * scale)), max(1, int(shape[1] * scale)))
    small = _resized(image, size)
    pads = [cellpose_padding(side, smallest=0) for side in size]
    padded = torch.from_numpy(np.pad(small, [(0, 0), *pads]))[None]
    (top, _), (left, _) = pads
    maps = net(padded.to(next(net.parameters()).device))[0][0, :, top : top + size[0], left : left + size[1]]
    return np.ascontiguousarray(maps.cpu().numpy())


def _resized(planes: NDArray[np.float32], shape: tuple[int, int]) -> NDArray[np.float32]:
    if planes.shape[1:] == shape:
        return planes
    return kernels.resize_linear(planes, out_shape=shape, single_precision=True, threads=1)


def evaluate(
    net: CPNet,
    samples: Sequence[Sample],
    *,
    scale: Callable[[Sample], float],
    cellprobs: tuple[float, ...],
    flow_thresholds: tuple[float, ...],
) -> list[Score]:
    """Score a network on samples for every pair of thresholds, `flow_thresholds` the slower one.

    `scale` says how much an image is scaled for the network.
    """
    net.eval()
    total = np.zeros((len(flow_thresholds), len(cellprobs), len(IOUS), 3), np.int64)
    for sample in samples:
        factor = scale(sample)
        maps = predict(net, sample.image, factor)
        for i, flow_threshold in enumerate(flow_thresholds):
            for j, cellprob in enumerate(cellprobs):
                spec = FlowSpec(
                    dynamics="v3",
                    diam_mean=float(net.diam_mean),
                    diam_labels=float(net.diam_labels),
                    tile=224,
                    flow_threshold=flow_threshold,
                    cellprob_threshold=cellprob,
                )
                found = flow.decode(maps, spec, out_shape=sample.labels.shape, threads=1)
                total[i, j] += count(sample.labels, found.labels, [len(found)])[0]
    return [
        Score.of({"flow_threshold": flow_threshold, "cellprob_threshold": cellprob}, total[i, j])
        for i, flow_threshold in enumerate(flow_thresholds)
        for j, cellprob in enumerate(cellprobs)
    ]


@dataclass(frozen=True, kw_only=True)
class FlowKind:
    """How `run` trains a Cellpose network. The fields up to `start` decide a new one; `start` brings its own."""

    n_channels: int = 1
    """Image channels."""
    widths: tuple[int, ...] = (16, 32, 64, 112)
    """Channels of each level, the finest first."""
    diameter: float = 30.0
    """Median diameter that objects are scaled to, pixels."""
    start: CPNet | None = None
    """Network to begin with."""
    start_thresholds: tuple[float, float] = (FlowSpec.flow_threshold, FlowSpec.cellprob_threshold)
    """What a run without held-out images publishes: flow and cellprob; by default Cellpose's own."""
    augmentation: Augmentation
    batch_size: int = 8
    patch_size: int = 128
    normalize: Normalize99Spec = field(default_factory=Normalize99Spec)

    def normalise(self, pixels: NDArray[Any]) -> NDArray[np.float32]:
        """Image (C, Y, X) -> what the network sees, as its manifest will say."""
        return normalize99(pixels.astype(np.float32), self.normalize, threads=1)

    def drawn(self, n: int, seed: int) -> list[Sample]:
        """Synthetic images."""
        return synthetic.cells(seed, n, self.normalise)

    def task(self, sampler: Sampler, samples: Sequence[Sample]) -> FlowTask:
        """What is learned; the diameter of unknown objects is the median of that of `samples`."""
        require_multiple(self.patch_size, 2 ** (len(self.widths) - 1) if self.start is None else self.start.multiple)
        usual = float(np.median([sample.diameter for sample in samples]))

        def network() -> CPNet:
            if self.start is not None:
                return deepcopy(self.start)
            net = CPNet(self.n_channels, self.widths, diam_mean=self.diameter)
            net.diam_labels.fill_(usual)
            return net

        return FlowTask(
            network=network,
            sampler=sampler,
            augmentation=self.augmentation,
            batch_size=self.batch_size,
            patch_size=self.patch_size,
        )

    def quick(self, net: CPNet, samples: Sequence[Sample]) -> list[Score]:
        """How well a network does at a few thresholds, to compare checkpoints by."""
        return evaluate(net, samples, scale=_usual_scale(net), cellprobs=(0.0,), flow_thresholds=(0.4, 0.6))

    def scores(self, net: CPNet, samples: Sequence[Sample]) -> list[Score]:
        """How well a network does at all thresholds worth trying."""
        return evaluate(net, samples, scale=_usual_scale(net), cellprobs=_CELLPROBS, flow_thresholds=_FLOW_THRESHOLDS)

    def choose(self, means: Sequence[float], scores: Sequence[Score]) -> int:
        """The best."""
        return int(np.argmax(means))

    def thresholds(self) -> dict[str, float]:
        """What is published where no image was held out to choose by."""
        return dict(zip(("flow_threshold", "cellprob_threshold"), self.start_thresholds, strict=True))

    def publish(
        self,
        net: CPNet,
        folder: Path,
        name: str,
        thresholds: Mapping[str, float],
        *,
        licence: str | None,
        description: str,
        precision: str,
    ) -> ExportSummary:
        """Write a file that Cellpose opens and the ONNX file beside it."""
        torch.save(net.state_dict(), folder / name)
        return cellpose.export(
            folder / name,
            folder / f"{name}.onnx",
            force=True,
            normalize=self.normalize,
            licence=licence,
            description=description,
            precision=precision,
            flow_threshold=thresholds["flow_threshold"],
            cellprob_threshold=thresholds["cellprob_threshold"],
            tiles="large",  # the fast ways, by which it was evaluated: there are no cells of Cellpose's to agree with
            resample=False,
        )

    @torch.no_grad()
    def maps(self, net: CPNet, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """The network's maps of a batch (N, C, Y, X), to compare with those of the ONNX file."""
        maps: NDArray[np.float32] = net(torch.from_numpy(batch))[0].numpy()
        return maps


def _usual_scale(net: CPNet) -> Callable[[Sample], float]:
    """Images are scaled as `segment` scales them when nobody tells it the diameter."""
    return lambda sample: float(net.diam_mean) / float(net.diam_labels)
