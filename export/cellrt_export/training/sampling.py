"""Which image a training patch comes from: sets by their weight, clusters by the root of their size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cellrt_export.training.data import Sample


class Sampler:
    """Draws images from several sets.

    A set is drawn in proportion to its weight, and in a set a cluster of near-duplicates in proportion to the root of
    its size, so that rare kinds of images are seen.
    """

    def __init__(self, sets: Sequence[Sequence[Sample]], weights: Sequence[float]) -> None:
        self._sets = [list(samples) for samples in sets]
        self._set_weights = np.asarray(weights, float) / np.sum(weights)
        self._weights = []
        for samples in self._sets:
            clusters = np.array([s.cluster for s in samples])
            share = 1 / np.sqrt(np.bincount(clusters)[clusters])
            self._weights.append(share / share.sum())

    def draw(self, rng: np.random.Generator) -> Sample:
        """One image; everything random from `rng`."""
        index = rng.choice(len(self._sets), p=self._set_weights)
        samples = self._sets[index]
        return samples[rng.choice(len(samples), p=self._weights[index])]
