"""Folders of images and masks -> training samples, split by cluster.

Images are whatever `cellrt segment` reads. Masks are label images (0 = background) of the same base name, which may end
in `_masks`, `_labels` or `_cp_masks`, or Cellpose's `name_seg.npy` beside the image or in the folder of masks.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellrt import readers
from cellrt.errors import CellrtError, FileError
from cellrt.image import as_image
from cellrt.seg_file import SUFFIX, read_seg

log = logging.getLogger(__name__)

Normalise = Callable[[NDArray[Any]], NDArray[np.float32]]
Split = tuple[list["Sample"], list["Sample"]]

_MASK_SUFFIXES = ("", "_masks", "_labels", "_cp_masks", "_mask", "_label")


@dataclass(frozen=True, eq=False)
class Sample:
    """One image with its labels."""

    name: str
    """`<set>/<base name>`."""
    pixels: NDArray[Any]
    """(C, Y, X), as in the file."""
    labels: NDArray[np.int32]
    """(Y, X), 0 = background."""
    normalise: Normalise
    """What the network's manifest will ask for: (C, Y, X) -> float32 (C, Y, X)."""
    cluster: int = 0
    """Images of one field of view, as far as can be told, share this number within their set."""

    @cached_property
    def image(self) -> NDArray[np.float32]:
        """float32 (C, Y, X), normalised."""
        return self.normalise(self.pixels)

    @cached_property
    def diameter(self) -> float:
        """Median diameter of the objects, pixels (of circles of the same area); 20 where there is none."""
        areas = np.bincount(self.labels.ravel())[1:]
        return float(np.sqrt(4 / np.pi * np.median(areas[areas > 0]))) if areas.any() else 20.0


def read_set(images: str | Path, masks: str | Path, *, n_channels: int, normalise: Normalise) -> list[Sample]:
    """Read every image of a folder that has masks, in the order of the file names.

    Parameters
    ----------
    images, masks : path
        Folders; they may be one. An image without masks is left out with a warning.
    n_channels : int
        Channels that the network takes; a colour image for one channel becomes its mean.
    normalise : callable
        See `Sample`.

    Raises
    ------
    FileError
        If a folder or every pair of files is missing, or a file cannot be read.
    CellrtError
        If masks and image differ in size, masks are no labels, or an image has NaN or no contrast.
    """
    images, masks = Path(images), Path(masks)
    found = _pairs(images, masks)
    pixels = [_read_image(path, n_channels) for path, _ in found]
    numbers = clusters([p.mean(0) for p in pixels])
    name = images.parent.name if images.name == "images" else images.name
    samples = []
    for (path, mask), image, cluster in zip(found, pixels, numbers, strict=True):
        labels = _read_labels(mask)
        if labels.shape != image.shape[1:]:
            raise CellrtError(
                f"expected masks of {image.shape[1:]} pixels in {mask}, got {labels.shape}; check the pair"
            )
        sample = Sample(f"{name}/{path.stem}", image, labels, normalise, cluster)
        try:
            _ = sample.image  # here: not hours later, when the first patch of it is drawn
        except CellrtError as error:
            raise CellrtError(f"{path}: {error}") from error
        samples.append(sample)
    log.info("%s: %d images in %d clusters", name, len(samples), len(set(numbers)))
    return samples


def split(samples: Sequence[Sample], *, fraction: float, seed: int) -> Split:
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


def clusters(images: Sequence[NDArray[Any]]) -> list[int]:
    """Number the groups of images (Y, X) that seem to be crops of one field of view.

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


def _pairs(images: Path, masks: Path) -> list[tuple[Path, Path]]:
    """Image files with their files of masks."""
    for folder in (images, masks):
        if not folder.is_dir():
            raise FileError(f"expected a folder, got {folder}; give --images and --masks as folders")
    mask_files = {path.name: path for path in sorted(masks.iterdir())}
    found, alone = [], []
    for path in sorted(images.iterdir()):
        if path.suffix.lower() not in readers.EXTENSIONS or path.name.endswith(SUFFIX):
            continue
        if images == masks and any(path.stem.endswith(suffix) for suffix in _MASK_SUFFIXES[1:]):
            continue
        mask = _mask_of(path, mask_files, images == masks)
        if mask is None:
            alone.append(path.name)
        else:
            found.append((path, mask))
    if alone:
        log.warning("%s: %d images without masks are left out: %s", images, len(alone), ", ".join(alone[:5]))
    if not found:
        raise FileError(
            f"expected masks in {masks} for the images in {images}, got none; they are found by name: "
            f"cell.tif and cell.png, cell_masks.tif, cell_labels.tif or cell{SUFFIX}"
        )
    return found


def _mask_of(image: Path, files: dict[str, Path], same_folder: bool) -> Path | None:
    """The file of masks of an image; corrected ones (`_seg.npy`) come first."""
    if (seg := files.get(image.stem + SUFFIX) or image.with_name(image.stem + SUFFIX)).exists():
        return seg
    for suffix in _MASK_SUFFIXES[same_folder:]:
        for extension in readers.EXTENSIONS:
            if (path := files.get(image.stem + suffix + extension)) is not None:
                return path
    return None


def _read_image(path: Path, n_channels: int) -> NDArray[Any]:
    """(C, Y, X) with the channels that the network takes."""
    array, axes = readers.read(path)
    if n_channels == 1 and array.ndim == 3 and array.shape[-1] in (3, 4):
        colour = array[..., :3]
        array, axes = (colour[..., 0] if (colour == colour[..., :1]).all() else colour.mean(-1)), "YX"
    return as_image(array, axes, tuple(range(n_channels)) if array.ndim == 3 else None, n_channels=n_channels)


def _read_labels(path: Path) -> NDArray[np.int32]:
    """Labels int32 (Y, X)."""
    if path.name.endswith(SUFFIX):
        return read_seg(path).labels
    array, _ = readers.read(path)
    if array.ndim != 2 or array.dtype.kind not in "iu" or array.size == 0 or array.min() < 0 or array.max() >= 2**31:
        raise CellrtError(f"expected labels (Y, X) of whole numbers from 0 in {path}, got {array.dtype} {array.shape}")
    return array.astype(np.int32)
