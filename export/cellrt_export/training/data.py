"""Folders of images and masks -> normalised training images, split by cluster.

A set is a folder with `images/` and `masks/` whose files share base names; masks hold instance labels,
0 = background. Colour images are read as their haematoxylin channel, so that nuclei are bright everywhere.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage import color, io

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Sample:
    """One image with its labels."""

    name: str
    """`<set>/<base name>`."""
    image: NDArray[np.float32]
    """(Y, X), percentiles 1 and 99.8 mapped to 0 and 1."""
    labels: NDArray[np.int32]
    """(Y, X), 0 = background."""
    cluster: int
    """Images of one field of view, as far as can be told, share this number within their set."""

    @cached_property
    def diameter(self) -> float:
        """Median diameter of the objects, pixels (of circles of the same area); 20 where there is none."""
        areas = np.bincount(self.labels.ravel())[1:]
        return float(np.sqrt(4 / np.pi * np.median(areas[areas > 0]))) if areas.any() else 20.0


def normalise(image: NDArray[Any]) -> NDArray[np.float32]:
    """Map percentiles 1 and 99.8 of image (Y, X) to 0 and 1, as StarDist's examples do before prediction."""
    low, high = np.percentile(image, (1, 99.8))
    return ((image.astype(np.float32) - np.float32(low)) / np.float32(high - low + 1e-20)).astype(np.float32)


def read_set(folder: str | Path) -> list[Sample]:
    """Read every image of a set, in the order of the file names."""
    folder = Path(folder)
    paths = sorted((folder / "images").iterdir())
    raw = [_read_gray(path) for path in paths]
    masks = {path.stem: path for path in (folder / "masks").iterdir()}
    samples = [
        Sample(
            name=f"{folder.name}/{path.stem}",
            image=normalise(image),
            labels=io.imread(masks[path.stem]).astype(np.int32),
            cluster=cluster,
        )
        for path, image, cluster in zip(paths, raw, clusters(raw), strict=True)
    ]
    log.info("%s: %d images in %d clusters", folder.name, len(samples), len({s.cluster for s in samples}))
    return samples


def split(samples: list[Sample], *, fraction: float, seed: int) -> tuple[list[Sample], list[Sample]]:
    """Divide one set into training and validation images, whole clusters at a time.

    Clusters go to validation in a random order until it holds `fraction` of the images; a cluster that would
    overfill it stays in training.
    """
    order = np.random.default_rng(seed).permutation(sorted({s.cluster for s in samples}))
    room = round(fraction * len(samples))
    held_out: set[int] = set()
    for cluster in order:
        size = sum(s.cluster == cluster for s in samples)
        if size <= room:
            held_out.add(int(cluster))
            room -= size
    training = [s for s in samples if s.cluster not in held_out]
    return training, [s for s in samples if s.cluster in held_out]


def clusters(images: list[NDArray[Any]]) -> list[int]:
    """Number the groups of images that seem to be crops of one field of view.

    Two images of the same shape are linked when an edge of one continues the opposite edge of the other
    (correlation of the two pixel rows above 0.95, at levels that agree), or when their intensity statistics
    nearly coincide (all of seven percentiles within 1 % of the range). Linked images form one group, transitively.
    """
    group = list(range(len(images)))

    def root(i: int) -> int:
        while group[i] != i:
            i = group[i]
        return i

    floats = [np.asarray(image, np.float64) for image in images]
    percentiles = [np.percentile(image, (1, 10, 25, 50, 75, 90, 99)) for image in floats]
    for i, a in enumerate(floats):
        for j in range(i):
            b = floats[j]
            if a.shape != b.shape or root(i) == root(j):
                continue
            span = max(np.ptp(percentiles[i]), np.ptp(percentiles[j]))
            alike = np.abs(percentiles[i] - percentiles[j]).max() <= 0.01 * span
            pairs = ((a[0], b[-1]), (a[-1], b[0]), (a[:, 0], b[:, -1]), (a[:, -1], b[:, 0]))
            if alike or any(_continues(p, q, span) for p, q in pairs):
                group[root(i)] = root(j)
    roots = [root(i) for i in range(len(images))]
    numbers = {r: k for k, r in enumerate(dict.fromkeys(roots))}
    return [numbers[r] for r in roots]


def _continues(p: NDArray[np.float64], q: NDArray[np.float64], span: float) -> bool:
    """Whether two pixel rows could be neighbours; rows without structure tell nothing."""
    if min(p.std(), q.std()) < 0.05 * span or np.abs(p - q).mean() > 0.15 * span:
        return False
    return bool(np.corrcoef(p, q)[0, 1] > 0.95)


def _read_gray(path: Path) -> NDArray[Any]:
    """An image (Y, X): as it is, or the haematoxylin channel of a colour image."""
    image = io.imread(path)
    if image.ndim == 2:
        return np.asarray(image)
    return np.asarray(color.rgb2hed(image[..., :3])[..., 0], np.float32)
