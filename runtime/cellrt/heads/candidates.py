"""Candidates of star networks, tile by tile, so that they and not maps are kept: the same for images and volumes.

What becomes of them is in `heads.star` and `heads.star_3d`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Generic, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from cellrt import kernels
from cellrt.errors import CapacityError, CellrtError, DataError
from cellrt.instances import Instances
from cellrt.manifest import Star3DSpec, StarSpec

Spec = TypeVar("Spec", bound=StarSpec | Star3DSpec)


class AnyCollector(ABC, Generic[Spec]):
    """Candidates of one image or volume, tile by tile, in any order.

    Parameters
    ----------
    spec : StarSpec or Star3DSpec
    shape : (int, int) or (int, int, int)
        The image as the network saw it, before padding, (y, x) or (z, y, x): points beyond it are dropped.
    padded : (int, int) or (int, int, int)
        The same with padding: no candidate is taken within `spec.border` samples of its edges.
    prob_thresh : float
        In [0, 1]; a candidate's probability is above it.
    nms_thresh : float
        In [0, 1]; of two objects that overlap by more (of the smaller one's area or volume), the weaker goes.
    threads : int
        0: all usable cores.
    max_candidates : int
        Most candidates that are kept. Default: `MAX_CANDIDATES` of the head.
    """

    _find: ClassVar[Callable[..., kernels.Candidates]]  # the kernel
    _most: ClassVar[int]
    _words: ClassVar[tuple[str, str]]  # what is segmented, and what it is made of

    def __init__(
        self,
        spec: Spec,
        *,
        shape: tuple[int, ...],
        padded: tuple[int, ...],
        prob_thresh: float,
        nms_thresh: float,
        threads: int,
        max_candidates: int | None = None,
    ) -> None:
        self._prob_thresh = threshold("prob_thresh", prob_thresh)
        self._nms_thresh = threshold("nms_thresh", nms_thresh)
        self._spec, self._threads = spec, threads
        self._max_candidates = self._most if max_candidates is None else max_candidates
        # In samples, half open: the border rule holds on the padded map, then points outside the image go.
        self._begin = spec.border
        self._end = [
            min(full // g - spec.border, -(-side // g)) for side, full, g in zip(shape, padded, spec.grid, strict=True)
        ]
        self._start()

    @classmethod
    def of_maps(
        cls,
        maps: NDArray[np.float32],
        spec: Spec,
        *,
        shape: tuple[int, ...],
        prob_thresh: float | None,
        nms_thresh: float | None,
        threads: int,
    ) -> Self:
        """All candidates of the maps of a whole padded image; thresholds of None are those of `spec`."""
        sides, n_axes = maps.shape[1:], len(spec.grid)
        if not len(sides) == len(shape) == n_axes:
            raise CellrtError(
                f"expected maps of {1 + n_axes} axes, channels first, and shape of {n_axes}, got maps {maps.shape} and "
                f"shape {tuple(shape)}"
            )
        collector = cls(
            spec,
            shape=shape,
            padded=tuple(side * g for side, g in zip(sides, spec.grid, strict=True)),
            prob_thresh=spec.prob_thresh if prob_thresh is None else prob_thresh,
            nms_thresh=spec.nms_thresh if nms_thresh is None else nms_thresh,
            threads=threads,
        )
        window = tuple(edge for side in sides for edge in (0, side))
        collector.add(np.ascontiguousarray(maps), origin=(0,) * n_axes, window=window)
        return collector

    @abstractmethod
    def _start(self) -> None:
        """Be ready for the first tile."""

    @abstractmethod
    def __len__(self) -> int:
        """How many candidates there are."""

    @abstractmethod
    def finish(self, *, out_shape: Any, scale: Any) -> Instances:
        """Suppress and paint.

        Parameters
        ----------
        out_shape : (int, int) or (int, int, int)
            The image that the user gave.
        scale : (float, float) or (float, float, float)
            Pixels of that image per pixel of the image that the network saw.
        """

    @abstractmethod
    def take(
        self,
        prob: NDArray[np.float32],
        dist: NDArray[np.float32],
        points: NDArray[np.int32],
        class_prob: NDArray[np.float32] | None,
    ) -> None:
        """Take what `candidates` found, in this run or in an earlier one."""

    def add(self, maps: NDArray[np.float32], *, origin: tuple[int, ...], window: tuple[int, ...]) -> None:
        """Find the candidates of one tile and take them; parameters as in `candidates`."""
        self.take(*self.candidates(maps, origin=origin, window=window))

    def candidates(
        self, maps: NDArray[np.float32], *, origin: tuple[int, ...], window: tuple[int, ...]
    ) -> kernels.Candidates:
        """The candidates of one tile: probability, ray lengths, points and, with classes, their probabilities.

        Parameters
        ----------
        maps : float32 (1 + n_rays + n_class_channels, y, x), or z before y
            The network's output for the tile.
        origin : (int, int) or (int, int, int)
            The tile's first pixel in the padded image, a multiple of the grid.
        window : four or six int
            Begin and end along each axis in turn: which samples of `maps` count, half open.
        """
        spec, (whole, unit) = self._spec, self._words
        spans: list[int] = []
        for axis, (at, g) in enumerate(zip(origin, spec.grid, strict=True)):
            begin, end = window[2 * axis], window[2 * axis + 1]
            begin = min(max(begin, self._begin - at // g), end)
            spans += [begin, max(begin, min(end, self._end[axis] - at // g))]
        if len(maps) != spec.n_maps:
            raise CellrtError(
                f"expected {spec.n_maps} maps (probability, {spec.n_rays} rays, {spec.n_class_channels} class "
                f"probabilities), got {len(maps)}; export the model again"
            )
        try:
            return self._find(
                maps,
                n_rays=spec.n_rays,
                n_class_channels=spec.n_class_channels,
                window=tuple(spans),
                prob_thresh=self._prob_thresh,
                grid=spec.grid,
                origin=origin,
                max_candidates=self._max_candidates - len(self),
                threads=self._threads,
            )
        except CapacityError as error:
            raise self._too_many(error.status) from None
        except DataError:
            raise CellrtError(
                f"expected finite ray lengths from the network, got NaN, infinity or more than 2^20 {unit}; check the "
                f"{whole}'s contrast and normalisation"
            ) from None

    def _too_many(self, status: int) -> CapacityError:
        """The error of too many candidates."""
        return CapacityError(
            f"expected at most {self._max_candidates} candidates, got more with prob_thresh={self._prob_thresh:g}; "
            f"raise prob_thresh, or segment the {self._words[0]} in parts",
            status,
        )


def candidate_limit(value: int, most: int) -> int:
    """The value, if it is a number of candidates up to the most that can be, or an error."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not 1 <= value <= most:
        raise CellrtError(f"expected max_candidates from 1 to {most}, a whole number, got {value!r}")
    return int(value)


def threshold(name: str, value: float) -> float:
    """The value, if it is a number in [0, 1], or an error."""
    if not isinstance(value, (int, float, np.number)) or not 0 <= value <= 1:
        raise CellrtError(f"expected {name} to be a number from 0 to 1, got {value!r}")
    return float(value)
