"""What star models of images and of volumes have in common: image, normalise, (resize,) tile, session, star head.

`AnyStarModel._image_work` is the table of contents of StarDist's side of this package. What users call is in
`star_model` and `star_model_3d`, with what 2D and 3D do not share.
"""

from __future__ import annotations

import math
import numbers
from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, ClassVar, Generic

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cellrt.errors import CellrtError, ModelError
from cellrt.heads.candidates import AnyCollector, Spec, threshold
from cellrt.instances import Instances
from cellrt.manifest import Manifest, PercentileSpec
from cellrt.memory import MemoryLimit
from cellrt.model import Model
from cellrt.normalize import Normalize, asked_for
from cellrt.resize import require_size
from cellrt.session import Session
from cellrt.star_work import BATCH_ELSEWHERE, StarWork, cut
from cellrt.stitch import place
from cellrt.tile import Tile, checked, padded, plan

Scale = float | tuple[float, ...] | None
_LEAST_SCALE = 1 / 1024  # of volumes: painting takes rays for no longer than that


class AnyStarModel(Model, Generic[Spec]):
    """A network whose objects are star-convex, in images or in volumes."""

    head: Spec
    _kind: ClassVar[type[Any]]  # of head
    _collector: ClassVar[type[AnyCollector[Any]]]
    _word: ClassVar[str]  # for what is segmented
    _max_tile_pixels: ClassVar[int]
    _candidates_per_sample: ClassVar[float]  # of the maps, where all is full of cells; with what suppressing them takes
    _normalized: ClassVar[Callable[..., NDArray[np.float32]]]
    _zoomed: ClassVar[Callable[..., NDArray[np.float32]]]

    def __init__(
        self, session: Session, manifest: Manifest, *, threads: int, memory: MemoryLimit | None = None
    ) -> None:
        super().__init__(session, manifest, threads=threads, memory=memory)
        if not isinstance(manifest.head, self._kind) or not isinstance(manifest.normalize, PercentileSpec):
            kinds = f"{manifest.head.kind!r} with {manifest.normalize.kind!r}"
            raise ModelError(f"expected a head with the normalisation of its kind, got {kinds}; export the model again")
        self.head = manifest.head
        self._normalize = manifest.normalize

    @abstractmethod
    def _pixels(self, image: ArrayLike, axes: str | None, channels: int | Sequence[int] | None) -> NDArray[Any]:
        """The channels that the network gets, (C, Y, X) or (C, Z, Y, X), as they are."""

    def _maps(
        self, pixels: NDArray[Any], *, normalize: Normalize, tiles: tuple[int, ...] | None
    ) -> dict[str, NDArray[np.float32]]:
        """What `predict` gives for the channels that the network gets."""
        head = self.head
        ready, shape = self._prepare(pixels, normalize, (1.0,) * len(head.grid), self._threads)
        samples = (side // g for side, g in zip(ready.shape[1:], head.grid, strict=True))
        whole = np.empty((head.n_maps, *samples), np.float32)
        planned, _ = self._plan(ready, tiles, self._needed(pixels, ready) + whole.nbytes)
        for tile in planned:
            batch = np.ascontiguousarray(cut(ready, tile))[np.newaxis]
            # the maps get no name: kept until the next run, they would take memory from it
            place(whole, self._network(batch)["maps"][0], tile, head.grid)
        inside = (slice(-(-side // g)) for side, g in zip(shape, head.grid, strict=True))
        whole = whole[(slice(None), *inside)]
        maps_by_name = {"prob": whole[0], "dist": whole[1 : 1 + head.n_rays]}
        if head.n_classes is not None:
            maps_by_name["class_prob"] = whole[1 + head.n_rays :]
        return maps_by_name

    def _image_work(
        self,
        pixels: NDArray[Any],
        *,
        normalize: Normalize,
        prob_thresh: float | None,
        nms_thresh: float | None,
        scale: Scale,
        tiles: tuple[int, ...] | None,
        threads: int,
        max_candidates: int | None = None,
        **finishing: Any,
    ) -> StarWork:
        """One image or volume on its way: normalised, cut into tiles; the rest is up to `StarWork`.

        `finishing` are options of the collector's `finish`.
        """
        head, out_shape = self.head, pixels.shape[1:]
        zoom = factors(scale, out_shape, n_axes=len(head.grid))
        ready, shape = self._prepare(pixels, normalize, zoom, threads)
        collector = self._collector(
            head,
            shape=shape,
            padded=ready.shape[1:],
            prob_thresh=head.prob_thresh if prob_thresh is None else prob_thresh,
            nms_thresh=head.nms_thresh if nms_thresh is None else nms_thresh,
            threads=threads,
            max_candidates=max_candidates,
        )
        back = tuple(1 / factor for factor in zoom)
        finish = partial(collector.finish, out_shape=out_shape, scale=back, **finishing)
        planned, max_pixels = self._plan(ready, tiles, self._needed(pixels, ready))
        on_cpu = self.providers[0] == "CPUExecutionProvider"
        batch_size = 1 if on_cpu else min(BATCH_ELSEWHERE, max(1, max_pixels // math.prod(planned[0].shape)))

        def take(tile: Tile, maps: NDArray[np.float32]) -> None:
            collector.add(maps, origin=tile.origin, window=tile.window(head.grid))

        return StarWork(ready, planned, batch_size, take, finish)

    def _check(
        self, prob_thresh: float | None, nms_thresh: float | None, scale: Scale, tiles: tuple[int, ...] | None
    ) -> None:
        """Refuse options of `segment` before the first image of a stream is there."""
        for name, value in (("prob_thresh", prob_thresh), ("nms_thresh", nms_thresh)):
            if value is not None:
                threshold(name, value)
        checked(tiles, len(self.head.grid))
        factors(scale, None, n_axes=len(self.head.grid))

    def _decode_whole(self, maps: NDArray[np.float32]) -> Instances:
        """Instances of the maps of an image that is one tile without padding."""
        grid = self.head.grid
        shape = tuple(side * g for side, g in zip(maps.shape[1:], grid, strict=True))
        options: dict[str, Any] = {"prob_thresh": None, "nms_thresh": None, "threads": self._threads}
        collector = self._collector.of_maps(maps, self.head, shape=shape, **options)
        return collector.finish(out_shape=shape, scale=(1.0,) * len(grid))

    def _percentiles(self, normalize: Normalize) -> PercentileSpec | None:
        """The normalisation that an argument of `segment` asks for."""
        return asked_for(normalize, self._normalize)

    @property
    def _multiple(self) -> tuple[int, ...]:
        """What the sides of the network's input are multiples of."""
        return self.manifest.tile.multiple

    @property
    def _halo(self) -> tuple[int, ...]:
        """How far a cut spoils the maps."""
        return self.manifest.tile.halo

    def _prepare(
        self, pixels: NDArray[Any], normalize: Normalize, zoom: tuple[float, ...], threads: int
    ) -> tuple[NDArray[np.float32], tuple[int, ...]]:
        """The network's padded input, float32 (C, Y, X) or (C, Z, Y, X), and its sides without padding."""
        spec, shape = self._percentiles(normalize), pixels.shape[1:]
        normalized = partial(self._normalized, threads=threads)
        if all(factor == 1 for factor in zoom):
            return normalized(pixels, spec, out_shape=padded(shape, self._multiple)), shape
        zoomed = self._zoomed(normalized(pixels, spec, out_shape=shape), zoom)
        shape = zoomed.shape[1:]
        return normalized(zoomed, None, out_shape=padded(shape, self._multiple)), shape

    def _plan(
        self, ready: NDArray[np.float32], tiles: tuple[int, ...] | None, needed: int
    ) -> tuple[tuple[Tile, ...], int]:
        """The tiles of a padded image, and how many pixels the network may read at once.

        `needed` are the bytes that the image needs beside the network, for the memory limit if there is one.
        """
        halo, multiple, limit = self._halo, self._multiple, self._memory
        max_pixels = self._max_tile_pixels
        if limit is not None:
            # in smaller tiles most pixels would be computed more than four times, and most voxels eight times
            least = math.prod(4 * side for side in padded(halo, multiple))
            max_pixels = limit.tile_pixels(needed, least=least, most=max_pixels)
        planned = plan(ready.shape[1:], halo=halo, multiple=multiple, max_pixels=max_pixels, tiles=tiles)
        if limit is not None:
            advice = "ask for more tiles" if tiles is not None else f"cut the {self._word}"
            limit.require(math.prod(planned[0].shape), needed, f"allow more, or {advice}")
        return planned, max_pixels

    def _needed(self, pixels: NDArray[Any], ready: NDArray[np.float32]) -> int:
        """Bytes that an image needs beside the network: it, what the network sees, candidates, labels."""
        n_candidates = self._candidates_per_sample * ready[0].size / math.prod(self.head.grid)
        labels = 4 * pixels[0].size
        return int(pixels.nbytes + ready.nbytes + n_candidates * 4 * (self.head.n_rays + 8) + labels)


def factors(scale: Scale, shape: tuple[int, ...] | None, *, n_axes: int) -> tuple[float, ...]:
    """The factor along each axis that `scale` asks for, checked against the image's sides where those are known."""
    if scale is None:
        return (1.0,) * n_axes
    values = (
        (scale,) * n_axes if isinstance(scale, numbers.Real) else tuple(scale) if isinstance(scale, Iterable) else ()
    )
    if len(values) != n_axes or not all(isinstance(value, numbers.Real) and 0 < value < np.inf for value in values):
        wanted = "two of them (y, x)" if n_axes == 2 else "three of them (z, y, x)"
        raise CellrtError(f"expected scale to be a positive number or {wanted}, got {scale!r}")
    zoom = tuple(float(value) for value in values)
    if n_axes == 3 and min(zoom) < _LEAST_SCALE:
        raise CellrtError(f"expected scale of a volume to be at least 1/1024, got {scale!r}; shrink the volume before")
    if shape is not None:
        sizes = [round(side * factor) for side, factor in zip(shape, zoom, strict=True)]
        require_size(sizes, shape, f"scale {scale}")
    return zoom
