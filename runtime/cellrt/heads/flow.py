"""The `flow` head: flows and cell logits -> instances (Cellpose, Stringer et al., Nature Methods 2021).

`decode` follows the flow from every pixel inside a cell, makes a mask of the pixels that end together, drops masks
whose own flow is not the network's, fills holes and drops small ones: as Cellpose 3.1 or 4 does, whichever the spec's
`dynamics` names. Knows no files, sessions or normalisation.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from cellrt import kernels
from cellrt.errors import CellrtError, DataError
from cellrt.instances import Instances
from cellrt.manifest import FlowSpec
from cellrt.resize import resize_nearest

MAX_SIZE_FRACTION = 0.4  # upstream's default: a larger share of the image is background that was taken for a cell
MAX_STEPS = 100_000  # of the integration: far more than any image needs, and seconds on a small one
NOT_FINITE = "expected finite flows from the network, got NaN or infinity; check the image's contrast and normalisation"
STEPS = 200  # upstream's number where objects have the size that the network knows


def decode(
    maps: NDArray[np.float32],
    spec: FlowSpec,
    *,
    steps: int = STEPS,
    flow_threshold: float | None = None,
    cellprob_threshold: float | None = None,
    min_size: int | None = None,
    max_size_fraction: float = MAX_SIZE_FRACTION,
    interpolate: bool = True,
    out_shape: tuple[int, int] | None = None,
    threads: int = 0,
) -> Instances:
    """Instances of whole maps.

    Parameters
    ----------
    maps : float32 (3, Y, X)
        The network's output: flow along y and x, cell logit. Contiguous.
    spec : FlowSpec
    steps : int
        Of the integration (upstream's `niter`).
    flow_threshold : float, optional
        Largest mean squared difference between the network's flow and the one that a mask should have; 0 keeps all
        masks. Default: the spec's.
    cellprob_threshold : float, optional
        A pixel is inside a cell where the logit exceeds this. Default: the spec's.
    min_size : int, optional
        Pixels that a mask must have; 0 keeps all. Default: the spec's.
    max_size_fraction : float
        A mask of more than this fraction of the image is dropped.
    interpolate : bool
        Follow the flow between pixels, not in steps from pixel to pixel (False: v3 only).
    out_shape : (int, int), optional
        Sides (y, x) of the labels, where they differ from those of the maps: the masks are resized.
    threads : int
        0: all usable cores.

    Returns
    -------
    Instances
        `scores` are the mean cell probability of each mask, `points` the mean of its pixels, outlines run along the
        edges of its pixels.
    """
    labels, n = labels_of(
        maps,
        spec,
        steps=steps,
        flow_threshold=flow_threshold,
        cellprob_threshold=cellprob_threshold,
        min_size=min_size,
        max_size_fraction=max_size_fraction,
        interpolate=interpolate,
        out_shape=out_shape,
        threads=threads,
    )
    cellprob = maps[2] if maps.shape[1:] == labels.shape else resize_nearest(maps[2], labels.shape)
    return from_labels(labels, n, scores=mean_probability(labels, cellprob, n), threads=threads)


def labels_of(
    maps: NDArray[np.float32],
    spec: FlowSpec,
    *,
    steps: int,
    flow_threshold: float | None,
    cellprob_threshold: float | None,
    min_size: int | None,
    max_size_fraction: float,
    interpolate: bool,
    out_shape: tuple[int, int] | None,
    threads: int,
) -> tuple[NDArray[np.int32], int]:
    """The labels (Y, X) of whole maps, and the largest of them; parameters and errors as in `decode`."""
    flow_threshold = number("flow_threshold", spec.flow_threshold if flow_threshold is None else flow_threshold, 0)
    limit = spec.cellprob_threshold if cellprob_threshold is None else cellprob_threshold
    limit = number("cellprob_threshold", limit, -math.inf)
    min_size = whole("min_size", spec.min_size if min_size is None else min_size, -(1 << 40), 1 << 40)
    max_size_fraction = number("max_size_fraction", max_size_fraction, 0)
    steps = whole("niter", steps, 0, MAX_STEPS)
    if not isinstance(interpolate, (bool, np.bool_)):
        raise CellrtError(f"expected interpolate to be True or False, got {interpolate!r}")
    if (
        not isinstance(maps, np.ndarray)
        or maps.ndim != 3
        or len(maps) != 3
        or maps.dtype != np.float32
        or not maps.size
    ):
        got = f"{maps.dtype} {maps.shape}" if isinstance(maps, np.ndarray) else type(maps).__name__
        raise CellrtError(f"expected maps as float32 (3, Y, X) with pixels, got {got}")
    flow, cellprob = maps[:2], maps[2]
    try:
        pixels, positions = kernels.flow_follow_2d(
            flow,
            cellprob,
            cellprob_threshold=limit,
            dynamics=spec.dynamics,
            interpolate=interpolate,
            n_iter=steps,
            threads=threads,
        )
    except DataError:
        raise CellrtError(NOT_FINITE) from None
    labels, n = kernels.flow_masks_2d(
        pixels, positions, shape=cellprob.shape, max_size_fraction=max_size_fraction, threads=threads
    )
    if n and flow_threshold > 0:
        errors = kernels.flow_errors_2d(labels, flow, n_labels=n, dynamics=spec.dynamics, threads=threads)
        labels = _without(labels, errors > flow_threshold, renumber=spec.dynamics == "v4")
    if out_shape is not None and out_shape != labels.shape:
        labels = resize_nearest(labels, out_shape)
    return kernels.clean_labels_2d(labels, min_size=min_size, dynamics=spec.dynamics, threads=threads)


def from_labels(
    labels: NDArray[np.int32], n_labels: int, *, scores: NDArray[np.float32] | None = None, threads: int = 0
) -> Instances:
    """Instances of a label image, int32 (Y, X) in 0..n_labels; `scores` (n_labels,) are 1 by default."""
    _, _, centroids = kernels.label_regions_2d(labels, n_labels=n_labels, threads=threads)
    outlines = kernels.label_outlines_2d(labels, n_labels=n_labels, threads=threads)
    if scores is None:
        scores = np.ones(n_labels, np.float32)
    return Instances(labels, scores, centroids.astype(np.float32), outlines)


def _without(labels: NDArray[np.int32], bad: NDArray[np.bool_], *, renumber: bool) -> NDArray[np.int32]:
    """Labels less the bad ones. They are numbered by first appearance before, so keeping their order keeps that."""
    table = np.arange(len(bad) + 1, dtype=np.int32)
    table[1:][bad] = 0
    if renumber:
        table[1:][~bad] = np.arange(1, np.count_nonzero(~bad) + 1, dtype=np.int32)
    return table[labels]


def mean_probability(labels: NDArray[np.int32], cellprob: NDArray[np.float32], n_labels: int) -> NDArray[np.float32]:
    """Mean of the logistic function of the cell logit over each label; 0 for one that does not occur."""
    inside = np.flatnonzero(labels)
    found = labels.reshape(-1)[inside]
    sums = np.bincount(found, probability(cellprob.reshape(-1)[inside]), n_labels + 1)[1:]
    counts = np.bincount(found, minlength=n_labels + 1)[1:]
    mean: NDArray[np.float32] = (sums / np.maximum(counts, 1)).astype(np.float32)
    return mean


def probability(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """The logistic function of cell logits, as far as float32 tells it from 0 and 1."""
    one = np.float32(1)
    of_logits: NDArray[np.float32] = one / (one + np.exp(-np.clip(logits, -50, 50)))
    return of_logits


def number(name: str, value: float, least: float) -> float:
    """The value, if it is a number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)) or not value >= least:
        at_least = "" if least == -math.inf else f" of at least {least:g}"
        raise CellrtError(f"expected {name} to be a number{at_least}, got {value!r}")
    return float(value)


def whole(name: str, value: int, least: int, most: int) -> int:
    """The value, if it is a whole number from `least` to `most`."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not least <= value <= most:
        raise CellrtError(f"expected {name} as a whole number from {least} to {most}, got {value!r}")
    return int(value)
