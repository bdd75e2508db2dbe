"""A star model: image, normalise, (resize,) tile, session, star head.

`StarModel._work` is the table of contents of StarDist's side of this package.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cellrt.errors import CellrtError, ModelError
from cellrt.heads import star
from cellrt.image import as_image, as_volume
from cellrt.instances import Instances
from cellrt.manifest import Manifest, PercentileSpec, StarSpec, pair
from cellrt.memory import MemoryLimit
from cellrt.model import Model
from cellrt.normalize import Normalize, asked_for, normalize_volume
from cellrt.normalize import normalize as normalize_image
from cellrt.planes import PlanesWork, checked_threshold, stitch_instances
from cellrt.pool import Found, Work, complete
from cellrt.resize import require_size, zoom_linear
from cellrt.session import Session
from cellrt.star_work import BATCH_ELSEWHERE, StarWork, cut
from cellrt.stitch import place
from cellrt.stream import Route
from cellrt.tile import Tile, checked, padded, plan

if TYPE_CHECKING:
    from cellrt.large.result import LargeInstances
    from cellrt.large.source import Sliceable

# A full-width StarDist network needs about 0.25 kB per pixel that it reads at once: 1.1 GB. Smaller tiles need less
# memory, but compute their halos more often.
MAX_TILE_PIXELS = 4_400_000
_CANDIDATES_PER_SAMPLE = 0.16  # of the maps, in a field full of cells; with what suppressing them takes


class StarModel(Model):
    """A network whose objects are star-convex polygons (StarDist); `cellrt.load` opens one.

    Attributes
    ----------
    head : StarSpec
        What its maps mean, with thresholds and the like.
    manifest, providers
        As of every `Model`.
    """

    def __init__(
        self, session: Session, manifest: Manifest, *, threads: int, memory: MemoryLimit | None = None
    ) -> None:
        super().__init__(session, manifest, threads=threads, memory=memory)
        if not isinstance(manifest.head, StarSpec) or not isinstance(manifest.normalize, PercentileSpec):
            kinds = f"{manifest.head.kind!r} with {manifest.normalize.kind!r}"
            raise ModelError(f"expected a head with the normalisation of its kind, got {kinds}; export the model again")
        self.head = manifest.head
        self._normalize = manifest.normalize

    def segment(
        self,
        image: ArrayLike,
        *,
        axes: str | None = None,
        channels: int | Sequence[int] | None = None,
        normalize: Normalize = "model",
        prob_thresh: float | None = None,
        nms_thresh: float | None = None,
        scale: float | tuple[float, float] | None = None,
        tiles: tuple[int, int] | None = None,
        stitch_threshold: float | None = None,
    ) -> Instances:
        """Find the objects of one image, or of a volume plane by plane.

        The cells are those of StarDist 0.9.2's `predict_instances` with its defaults (sparse mode). Those of a volume
        are joined over planes as Cellpose joins its own.

        Parameters
        ----------
        image : array (Y, X), (Y, X, C) or (C, Y, X); with `stitch_threshold` (Z, Y, X) or four axes
            Any integer or floating dtype, any strides; read-only and memory-mapped arrays are read in place.
        axes : str, optional
            A letter per axis out of T, Z, C, Y, X. Default: guessed from the number of channels.
        channels : int or sequence of int, optional
            Which channels of the image the network gets. Default: all.
        normalize : "model", (low, high), PercentileSpec or None
            Percentiles that become 0 and 1. Default: as the manifest says. None: the image is normalised already.
        prob_thresh, nms_thresh : float, optional
            In [0, 1]: least probability of a candidate; most overlap (of the smaller area) of two objects. Default:
            the manifest's.
        scale : float or (float, float), optional
            Rescale the image by this for the network, for objects of another size than it was trained on: 0.5 if they
            are twice as large. The result is in pixels of the image as given.
        tiles : (int, int), optional
            Run the network on this many tiles along y and x, to use less memory. Default: as few as stay within
            4.4 megapixels each. The result does not depend on it, apart from float rounding in the network.
        stitch_threshold : float, optional
            The image is a volume: segment its planes one by one, and join objects of neighbouring planes whose
            intersection over union is at least this, above 0: see `cellrt.planes.stitch`. Percentiles are those of the
            volume. It needs 8 bytes per voxel and channel, and candidates of all planes.

        Returns
        -------
        Instances
            Of a volume without outlines, in the order of their first planes; the score of an object is the highest of
            its parts.

        Raises
        ------
        ImageError
            If the image has the wrong rank or channels, no pixels, no contrast, NaN or infinite values.
        CapacityError
            If there are too many candidates to suppress: `prob_thresh` is too low.
        """
        if stitch_threshold is not None:
            checked_threshold(stitch_threshold)
        pixels = self._pixels(image, axes, channels, stack=stitch_threshold is not None)
        work = self._work(
            pixels,
            normalize=normalize,
            prob_thresh=prob_thresh,
            nms_thresh=nms_thresh,
            scale=scale,
            tiles=tiles,
            stitch_threshold=stitch_threshold,
            threads=self._threads,
        )
        found = complete(work, self._network).instances
        assert found is not None
        return found

    def segment_large(
        self,
        source: Sliceable,
        sink: Any,
        *,
        axes: str | None = None,
        channels: int | Sequence[int] | None = None,
        normalize: Normalize = "model",
        lowhigh: tuple[float, float] | None = None,
        prob_thresh: float | None = None,
        nms_thresh: float | None = None,
        scale: float | tuple[float, float] | None = None,
        tile_pixels: int | None = None,
        max_candidates: int = star.MAX_CANDIDATES,
        work: str | Path | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> LargeInstances:
        """Find the objects of an image that need not fit in memory, and write their labels block by block.

        The cells and their labels are those of `segment` on the whole image, apart from float rounding in the network.
        Interrupted, the same call continues at the last finished tile.

        Memory at the peak, beside 0.1 GB for the program and the model: 250 bytes per pixel of a tile (a network of
        full width), 400 bytes per candidate that waits to be decided (at 32 rays; one to two million, or all in two
        rows of tiles of a wider image) and 1 kB per object. The image's size as such does not matter.

        Parameters
        ----------
        source : object with shape, dtype and slices
            As `image` of `segment`: a memory map, a zarr or dask array, ... It is read twice, block by block; once if
            no percentiles are needed, and three times or five if pixels have 32 or 64 bits.
        sink : str, Path or array
            A path that ends in .tif (tiled BigTIFF, uint32) or .zarr (uint32; needs ``cellrt[screen]``), which appears
            when it is whole; or an array of int32, uint32 or 64-bit integers to assign blocks to.
        axes, channels, normalize, prob_thresh, nms_thresh, scale
            As in `segment`. Percentiles are those of the whole image.
        lowhigh : (float, float), optional
            Grey values that become 0 and 1, instead of percentiles.
        tile_pixels : int, optional
            Most pixels that the network reads at once: fewer need less memory, and more time for what tiles have in
            common. Default: 2.5 million, or what a memory limit of the model leaves for the network.
        max_candidates : int
            Most candidates that may wait to be decided: more are an error, before memory ends.
        work : str or Path, optional
            Folder where finished tiles are kept until the run succeeds. Default: for a path, ``<sink>.progress``; for
            an array none, so that an interrupted run begins anew.
        progress : callable, optional
            Called with the numbers of finished and of all tiles after each tile.

        Returns
        -------
        LargeInstances

        Raises
        ------
        ImageError, CapacityError
            As `segment`.
        FileError
            If the sink or the work folder cannot be written, or holds something else.
        """
        from cellrt.large import star as large  # here: most users never need it
        from cellrt.large.source import require_tile_pixels

        head, limit = self.head, self._memory
        most = MAX_TILE_PIXELS
        if limit is not None:
            halo_y, halo_x = padded(self._halo, self._multiple)
            most = limit.tile_pixels(0, least=4 * halo_y * 4 * halo_x, most=most)
        run = large.StarRun(
            axes=axes,
            channels=channels,
            normalize=self._percentiles(normalize),
            lowhigh=None if lowhigh is None else large.require_pair(lowhigh),
            prob_thresh=head.prob_thresh if prob_thresh is None else prob_thresh,
            nms_thresh=head.nms_thresh if nms_thresh is None else nms_thresh,
            factors=_factors(scale, None),
            tile_pixels=require_tile_pixels(tile_pixels, most),
            max_candidates=max_candidates,
            threads=self._threads,
        )
        return large.segment(
            source,
            sink,
            manifest=self.manifest,
            network=self._network,
            run=run,
            work=work,
            progress=progress,
        )

    def predict(
        self,
        image: ArrayLike,
        *,
        axes: str | None = None,
        channels: int | Sequence[int] | None = None,
        normalize: Normalize = "model",
        tiles: tuple[int, int] | None = None,
    ) -> dict[str, NDArray[np.float32]]:
        """The network's raw maps of one image; parameters and errors as in `segment`.

        Returns
        -------
        dict
            ``prob`` float32 (Y / grid, X / grid), ``dist`` float32 (n_rays, Y / grid, X / grid) in pixels, and
            ``class_prob`` float32 (n_classes + 1, Y / grid, X / grid) if the network tells classes apart; sides are
            rounded up.
        """
        pixels = self._pixels(image, axes, channels)
        ready, shape = self._prepare(pixels, normalize, (1.0, 1.0), self._threads)
        head = self.head
        grid_y, grid_x = head.grid
        whole = np.empty((head.n_maps, ready.shape[1] // grid_y, ready.shape[2] // grid_x), np.float32)
        planned, _ = self._plan(ready, tiles, self._needed(pixels, ready) + whole.nbytes)
        for tile in planned:
            batch = np.ascontiguousarray(cut(ready, tile))[np.newaxis]
            # the maps get no name: kept until the next run, they would take memory from it
            place(whole, self._network(batch)["maps"][0], tile, head.grid)
        whole = whole[:, : -(-shape[0] // grid_y), : -(-shape[1] // grid_x)]
        maps_by_name = {"prob": whole[0], "dist": whole[1 : 1 + head.n_rays]}
        if head.n_classes is not None:
            maps_by_name["class_prob"] = whole[1 + head.n_rays :]
        return maps_by_name

    def _streaming(
        self,
        *,
        axes: str | None = None,
        channels: int | Sequence[int] | None = None,
        normalize: Normalize = "model",
        prob_thresh: float | None = None,
        nms_thresh: float | None = None,
        scale: float | tuple[float, float] | None = None,
        tiles: tuple[int, int] | None = None,
        stitch_threshold: float | None = None,
    ) -> Route:
        """How the images of a stream go; the options of `segment`."""
        options: dict[str, Any] = {
            "stitch_threshold": None if stitch_threshold is None else checked_threshold(stitch_threshold),
            "normalize": self._percentiles(normalize),
            "prob_thresh": prob_thresh,
            "nms_thresh": nms_thresh,
            "scale": scale,
            "tiles": tiles,
        }
        for name, value in (("prob_thresh", prob_thresh), ("nms_thresh", nms_thresh)):
            if value is not None:
                star.threshold(name, value)
        checked(tiles)
        _factors(scale, None)
        return Route(
            axes,
            partial(self._pixels, channels=channels, stack=stitch_threshold is not None),
            partial(self._work, threads=1, **options),
        )

    def _pixels(
        self, image: ArrayLike, axes: str | None, channels: int | Sequence[int] | None = None, *, stack: bool = False
    ) -> NDArray[Any]:
        """The channels that the network gets, (C, Y, X), or of a stack (C, Z, Y, X), as they are."""
        return (as_volume if stack else as_image)(image, axes, channels, n_channels=self.manifest.input.n_channels)

    def _work(
        self,
        pixels: NDArray[Any],
        *,
        normalize: Normalize,
        stitch_threshold: float | None,
        threads: int,
        **options: Any,
    ) -> Work:
        """One image (C, Y, X) or stack (C, Z, Y, X) on its way; the options of `_image_work`."""
        if stitch_threshold is None:
            return self._image_work(pixels, normalize=normalize, threads=threads, **options)
        depth, height, width = pixels.shape[1:]
        spec = self._percentiles(normalize)
        volume = normalize_volume(pixels, spec, out_shape=(depth, height, width), threads=threads)
        done: list[StarWork] = []

        def begin(z: int) -> StarWork:
            return self._image_work(volume[:, z], normalize=None, threads=threads, **options)

        def end(_: int, work: StarWork) -> None:
            done.append(work)

        def then() -> Found:
            found = (work.finish().instances for work in done)
            planes = (instances for instances in found if instances is not None)
            return Found(stitch_instances(planes, stitch_threshold, threads=threads))

        return PlanesWork(depth, begin, end, then)

    def _image_work(
        self,
        pixels: NDArray[Any],
        *,
        normalize: Normalize,
        prob_thresh: float | None,
        nms_thresh: float | None,
        scale: float | tuple[float, float] | None,
        tiles: tuple[int, int] | None,
        threads: int,
    ) -> StarWork:
        """One image (C, Y, X) on its way: normalised, cut into tiles; the rest is up to `StarWork`."""
        factors = _factors(scale, (pixels.shape[1], pixels.shape[2]))
        ready, shape = self._prepare(pixels, normalize, factors, threads)
        head = self.head
        collector = star.Collector(
            head,
            shape=shape,
            padded=(ready.shape[1], ready.shape[2]),
            prob_thresh=head.prob_thresh if prob_thresh is None else prob_thresh,
            nms_thresh=head.nms_thresh if nms_thresh is None else nms_thresh,
            threads=threads,
        )
        finish = partial(
            collector.finish,
            out_shape=(pixels.shape[1], pixels.shape[2]),
            scale=(1 / factors[0], 1 / factors[1]),
        )
        planned, max_pixels = self._plan(ready, tiles, self._needed(pixels, ready))
        on_cpu = self.providers[0] == "CPUExecutionProvider"
        batch_size = 1 if on_cpu else min(BATCH_ELSEWHERE, max(1, max_pixels // math.prod(planned[0].shape)))

        def take(tile: Tile, maps: NDArray[np.float32]) -> None:
            collector.add(maps, origin=tile.origin, window=tile.window(head.grid))

        return StarWork(ready, planned, batch_size, take, finish)

    @property
    def _multiple(self) -> tuple[int, int]:
        """What the sides of the network's input are multiples of."""
        return pair(self.manifest.tile.multiple)

    @property
    def _halo(self) -> tuple[int, int]:
        """How far a cut spoils the maps."""
        return pair(self.manifest.tile.halo)

    def _decode_whole(self, maps: NDArray[np.float32]) -> Instances:
        """Instances of the maps of an image that is one tile without padding."""
        grid_y, grid_x = self.head.grid
        shape = (maps.shape[1] * grid_y, maps.shape[2] * grid_x)
        return star.decode(maps, self.head, shape=shape, threads=self._threads)

    def _prepare(
        self, pixels: NDArray[Any], normalize: Normalize, factors: tuple[float, float], threads: int
    ) -> tuple[NDArray[np.float32], tuple[int, int]]:
        """The network's padded input, float32 (C, Y, X), and its shape (y, x) without padding."""
        spec = self._percentiles(normalize)
        shape = (pixels.shape[1], pixels.shape[2])
        if factors == (1.0, 1.0):
            return normalize_image(pixels, spec, out_shape=padded(shape, self._multiple), threads=threads), shape
        scaled = zoom_linear(normalize_image(pixels, spec, out_shape=shape, threads=threads), factors)
        shape = (scaled.shape[1], scaled.shape[2])
        return normalize_image(scaled, None, out_shape=padded(shape, self._multiple), threads=threads), shape

    def _percentiles(self, normalize: Normalize) -> PercentileSpec | None:
        """The normalisation that an argument of `segment` asks for."""
        return asked_for(normalize, self._normalize)

    def _plan(
        self, ready: NDArray[np.float32], tiles: tuple[int, int] | None, needed: int
    ) -> tuple[tuple[Tile, ...], int]:
        """The tiles of a padded image, and how many pixels the network may read at once.

        `needed` are the bytes that the image needs beside the network, for the memory limit if there is one.
        """
        limit = self._memory
        max_pixels = MAX_TILE_PIXELS
        if limit is not None:
            halo_y, halo_x = padded(self._halo, self._multiple)
            least = 4 * halo_y * 4 * halo_x  # in smaller tiles most pixels would be computed more than four times
            max_pixels = limit.tile_pixels(needed, least=least, most=max_pixels)
        shape = (ready.shape[1], ready.shape[2])
        planned = plan(shape, halo=self._halo, multiple=self._multiple, max_pixels=max_pixels, tiles=tiles)
        if limit is not None:
            advice = "allow more, or cut the image" if tiles is None else "allow more, or ask for more tiles"
            limit.require(math.prod(planned[0].shape), needed, advice)
        return planned, max_pixels

    def _needed(self, pixels: NDArray[Any], ready: NDArray[np.float32]) -> int:
        """Bytes that an image (C, Y, X) needs beside the network: it, what the network sees, candidates, labels."""
        grid_y, grid_x = self.head.grid
        n_candidates = _CANDIDATES_PER_SAMPLE * ready[0].size / (grid_y * grid_x)
        labels = 4 * pixels[0].size
        return int(pixels.nbytes + ready.nbytes + n_candidates * 4 * (self.head.n_rays + 8) + labels)


def _factors(scale: float | tuple[float, float] | None, shape: tuple[int, int] | None) -> tuple[float, float]:
    """The factors (y, x) that `scale` asks for, checked against the image's sides where those are known."""
    if scale is None:
        return (1.0, 1.0)
    values = (scale, scale) if isinstance(scale, numbers.Real) else tuple(scale) if isinstance(scale, Iterable) else ()
    if len(values) != 2 or not all(isinstance(value, numbers.Real) and 0 < value < np.inf for value in values):
        raise CellrtError(f"expected scale to be a positive number or two of them (y, x), got {scale!r}")
    factors = (float(values[0]), float(values[1]))
    if shape is not None:
        sizes = [round(side * factor) for side, factor in zip(shape, factors, strict=True)]
        require_size(sizes, shape, f"scale {scale}")
    return factors
