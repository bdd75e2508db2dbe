"""A star model of images. What it shares with that of volumes, the way of an image included, is in `star_base`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cellrt.heads import star
from cellrt.heads.candidates import candidate_limit, threshold
from cellrt.image import as_image, as_volume
from cellrt.instances import Instances
from cellrt.manifest import StarSpec
from cellrt.normalize import Normalize, normalize_volume
from cellrt.normalize import normalize as normalize_image
from cellrt.planes import PlanesWork, checked_threshold, stitch_instances
from cellrt.pool import Found, Work, complete
from cellrt.resize import zoom_linear
from cellrt.star_base import AnyStarModel, factors
from cellrt.star_work import StarWork
from cellrt.stream import Route
from cellrt.tile import padded

if TYPE_CHECKING:
    from cellrt.large.result import LargeInstances
    from cellrt.large.source import Sliceable

# A full-width StarDist network needs about 0.25 kB per pixel that it reads at once: 1.1 GB. Smaller tiles need less
# memory, but compute their halos more often.
MAX_TILE_PIXELS = 4_400_000
_MOST_CANDIDATES = 2**32 - 1  # that suppression can number

_factors = partial(factors, n_axes=2)


class StarModel(AnyStarModel[StarSpec]):
    """A network whose objects are star-convex polygons (StarDist); `cellrt.load` opens one.

    Attributes
    ----------
    head : StarSpec
        What its maps mean, with thresholds and the like.
    manifest, providers
        As of every `Model`.
    """

    _kind = StarSpec
    _collector = star.Collector
    _word = "image"
    _max_tile_pixels = MAX_TILE_PIXELS
    _candidates_per_sample = 0.16
    _normalized = staticmethod(normalize_image)
    _zoomed = staticmethod(zoom_linear)

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
        stitch_threshold: float | None = None,
        tile_pixels: int | None = None,
        max_candidates: int = star.MAX_CANDIDATES,
        work: str | Path | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> LargeInstances:
        """Find the objects of an image or a stack that need not fit in memory, and write their labels block by block.

        The cells and their labels are those of `segment` on the whole image, or with `stitch_threshold` on the whole
        stack, apart from float rounding in the network. Interrupted, the same call continues at the last finished tile
        or plane.

        Memory at the peak, beside 0.1 GB for the program and the model: 250 bytes per pixel of a tile (a network of
        full width), 400 bytes per candidate that waits to be decided (at 32 rays; one to two million, or all in two
        rows of tiles of a wider image) and 1 kB per object. The image's size as such does not matter. Of a stack: what
        `segment` takes for a plane, 256 MB for slabs of planes, 60 bytes per object, and four per object in a plane.

        Parameters
        ----------
        source : object with shape, dtype and slices
            As `image` of `segment`: a memory map, a zarr or dask array, ... It is read twice, block by block; once if
            no percentiles are needed, and three times or five if pixels have 32 or 64 bits. Chunks that go through
            several planes of a stack are read once for all of these, by way of the work folder if they have more than
            128 MB.
        sink : str, Path or array
            A path that ends in .tif (tiled BigTIFF, uint32; of a stack OME-TIFF) or .zarr (uint32; needs
            ``cellrt[screen]``), which appears when it is whole; or an array of int32, uint32 or 64-bit integers to
            assign blocks to.
        axes, channels, normalize, prob_thresh, nms_thresh, scale
            As in `segment`. Percentiles are those of the whole image.
        lowhigh : (float, float), optional
            Grey values that become 0 and 1, instead of percentiles.
        stitch_threshold : float, optional
            As in `segment`: the image is a stack (Z, Y, X) or of four axes, whose single planes fit in memory.
        tile_pixels : int, optional
            Most pixels that the network reads at once: fewer need less memory, and more time for what tiles have in
            common. Default: 2.5 million, or what a memory limit of the model leaves for the network. Not of a stack,
            whose planes are cut as by `segment`.
        max_candidates : int
            Most candidates that may wait to be decided, those of a plane in a stack: more are an error, before memory
            ends.
        work : str or Path, optional
            Folder where finished tiles or planes are kept until the run succeeds. Default: for a path,
            ``<sink>.progress``; for an array none, of a stack a temporary one, so that an interrupted run begins anew.
        progress : callable, optional
            Called with the numbers of finished and of all tiles, or planes, after each.

        Returns
        -------
        LargeInstances
            Of a stack without outlines, in the order of their first planes; the score of an object is the highest of
            its parts.

        Raises
        ------
        ImageError, CapacityError
            As `segment`.
        FileError
            If the sink or the work folder cannot be written, or holds something else.
        """
        from cellrt.large import star as large  # here: most users never need it
        from cellrt.large.planes import Plane
        from cellrt.large.source import refuse_tiles, require_tile_pixels

        if stitch_threshold is not None:
            checked_threshold(stitch_threshold)
            refuse_tiles(tile_pixels=tile_pixels)
        max_candidates = candidate_limit(max_candidates, _MOST_CANDIDATES)
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
        usual: dict[str, Any] = {
            "manifest": self.manifest,
            "network": self._network,
            "run": run,
            "work": work,
            "progress": progress,
        }
        if stitch_threshold is None:
            return large.segment(source, sink, **usual)
        begin = partial(
            self._image_work,
            normalize=None,
            prob_thresh=threshold("prob_thresh", run.prob_thresh),
            nms_thresh=threshold("nms_thresh", run.nms_thresh),
            scale=scale,
            tiles=None,
            threads=self._threads,
            max_candidates=max_candidates,
        )

        def end(plane: Work) -> Plane:
            found = plane.finish()
            assert isinstance(found, Found)
            cells = found.instances
            assert cells is not None
            return Plane(cells.labels, cells.scores, cells.class_prob)

        return large.segment_stack(source, sink, begin=begin, end=end, threshold=float(stitch_threshold), **usual)

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
        return self._maps(self._pixels(image, axes, channels), normalize=normalize, tiles=tiles)

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
        self._check(prob_thresh, nms_thresh, scale, tiles)
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
