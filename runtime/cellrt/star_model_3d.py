"""A star model of volumes. What it shares with that of images, the way of a volume included, is in `star_base`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cellrt.heads import star_3d
from cellrt.heads.candidates import candidate_limit
from cellrt.image import as_volume
from cellrt.instances import Instances
from cellrt.manifest import Star3DSpec, triple
from cellrt.normalize import Normalize, asked_for, normalize_volume
from cellrt.pool import complete
from cellrt.resize import zoom_linear_3d
from cellrt.star_base import AnyStarModel, factors
from cellrt.stream import Route
from cellrt.tile import padded

if TYPE_CHECKING:
    from cellrt.large.result import LargeInstances
    from cellrt.large.source import Sliceable

# A network of the usual width needs about 0.4 kB per voxel that it reads at once: 1.2 GB.
MAX_TILE_VOXELS = 3_000_000
# Of what the network needs for a tile of a volume larger than memory. With halos of 46 voxels, tiles of half the size
# compute twice as many voxels in all.
_LARGE_TILE_BYTES = 1_800_000_000
_BYTES_PER_VOXEL = 500.0  # of models whose files do not tell
_BESIDE_LARGE_TILES = 900_000_000  # bytes: candidates that wait, what they are decided with, and a slab of labels

Factors = tuple[float, float, float]
_factors = partial(factors, n_axes=3)


class StarModel3D(AnyStarModel[Star3DSpec]):
    """A network whose objects are star-convex bodies in a volume (StarDist 3D); `cellrt.load` opens one.

    Attributes
    ----------
    head : Star3DSpec
        What its maps mean, with thresholds and the like.
    manifest, providers
        As of every `Model`.
    """

    _kind = Star3DSpec
    _collector = star_3d.Collector3D
    _word = "volume"
    _max_tile_pixels = MAX_TILE_VOXELS
    _candidates_per_sample = 0.2  # a tenth of the maps, twice
    _normalized = staticmethod(normalize_volume)
    _zoomed = staticmethod(zoom_linear_3d)

    def segment(
        self,
        image: ArrayLike,
        *,
        axes: str | None = None,
        channels: int | Sequence[int] | None = None,
        normalize: Normalize = "model",
        prob_thresh: float | None = None,
        nms_thresh: float | None = None,
        scale: float | Factors | None = None,
        tiles: tuple[int, int, int] | None = None,
        mode: str = "full",
        overlap_label: int | None = None,
    ) -> Instances:
        """Find the objects of one volume.

        The cells are those of StarDist 0.9.2's `StarDist3D.predict_instances` with its defaults (sparse mode), but an
        object that others cover completely keeps its label, which then does not occur in `labels`: label i + 1 is
        always object i. Nor is a positive `overlap_label` renumbered, as it is there.

        Parameters
        ----------
        image : array (Z, Y, X), (Z, Y, X, C), (C, Z, Y, X) or (Z, C, Y, X)
            Any integer or floating dtype, any strides; read-only and memory-mapped arrays are read in place.
        axes : str, optional
            A letter per axis out of T, Z, C, Y, X. Default: guessed from the number of channels.
        channels : int or sequence of int, optional
            Which channels of the volume the network gets. Default: all.
        normalize : "model", (low, high), PercentileSpec or None
            Percentiles that become 0 and 1. Default: as the manifest says. None: the volume is normalised already.
        prob_thresh, nms_thresh : float, optional
            In [0, 1]: least probability of a candidate; most overlap (of the smaller volume) of two objects. Default:
            the manifest's.
        scale : float or (float, float, float), optional
            Rescale the volume by this for the network, (z, y, x), for objects or voxels of another size than it was
            trained on: 0.5 if objects are twice as large; at least 1/1024. The result is in voxels of the volume as
            given.
        tiles : (int, int, int), optional
            Run the network on this many tiles along z, y and x, to use less memory. Default: as few as stay within 3
            million voxels each, more where the network sees far. The result does not depend on it, apart from float
            rounding in the network.
        mode : "full", "kernel", "hull" or "bbox"
            Which voxels an object has: all inside it, those that see its whole surface, those of its convex hull, or
            of its box.
        overlap_label : int, optional
            What voxels of several objects become. Default: the label of the most probable one.

        Returns
        -------
        Instances
            With labels (Z, Y, X) and `polyhedra`.

        Raises
        ------
        ImageError
            If the volume has the wrong rank or channels, no voxels, no contrast, NaN or infinite values.
        CapacityError
            If there are too many candidates to suppress: `prob_thresh` is too low.
        """
        work = self._image_work(
            self._pixels(image, axes, channels),
            normalize=normalize,
            prob_thresh=prob_thresh,
            nms_thresh=nms_thresh,
            scale=scale,
            tiles=tiles,
            painting=star_3d.Painting(mode, overlap_label),
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
        scale: float | Factors | None = None,
        tile_voxels: int | None = None,
        max_candidates: int = star_3d.MAX_CANDIDATES,
        mode: str = "full",
        overlap_label: int | None = None,
        work: str | Path | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> LargeInstances:
        """Find the objects of a volume that need not fit in memory, and write their labels block by block.

        The cells and their labels are those of `segment` on the whole volume, apart from float rounding in the network,
        and from one bound of the suppression: StarDist stretches spheres by the mean sides of all candidates' boxes,
        and here these are means of the candidates that are decided together, a million or so.

        Memory at the peak, with the `weights` and `bytes_per_pixel` of `manifest.memory`, in bytes:

            85 MB + weights + (bytes_per_pixel + 4 * channels of the maps / voxels of a grid cell) * (voxels of a tile)
            + 5 * (n_rays + 20) * (candidates that wait) + 8 * (n_rays + 8) * (objects)
            + 128 MB for a TIFF; 16 MB, or four bytes per voxel of a chunk, for other sinks

        Candidates wait that lie in a row of tiles, or within twice the extent of the largest object from where more may
        come; up to 42 million / (n_rays + 8) wait in any case. The volume's size as such does not matter.

        Parameters
        ----------
        source : object with shape, dtype and slices
            As `image` of `segment`: a memory map, a zarr or dask array, ... It is read twice, block by block; once if
            no percentiles are needed, and three times or five if voxels have 32 or 64 bits.
        sink : str, Path or array
            A path that ends in .tif (OME-TIFF, BigTIFF, uint32, a tiled page per plane) or .zarr (uint32, chunks of
            64 x 256 x 256; needs ``cellrt[screen]``), which appears when it is whole; or an array of int32, uint32 or
            64-bit integers to assign blocks to.
        axes, channels, normalize, prob_thresh, nms_thresh, scale, mode, overlap_label
            As in `segment`. Percentiles are those of the whole volume. Only arrays of signed integers take a negative
            `overlap_label`.
        lowhigh : (float, float), optional
            Grey values that become 0 and 1, instead of percentiles.
        tile_voxels : int, optional
            Most voxels that the network reads at once: fewer need less memory, and more time for what tiles have in
            common. Default: what the network needs 1.8 GB for, or a memory limit of the model less 0.9 GB and the maps.
        max_candidates : int
            Most candidates that may wait to be decided, up to the default: more are an error, before memory ends.
        work : str or Path, optional
            Folder where finished tiles are kept until the run succeeds: 4 * (n_rays + 4) bytes per candidate. Default:
            for a path, ``<sink>.progress``; for an array none, so that an interrupted run begins anew.
        progress : callable, optional
            Called with the numbers of finished and of all tiles after each tile.

        Returns
        -------
        LargeInstances
            With points (z, y, x) and `polyhedra`.

        Raises
        ------
        ImageError, CapacityError
            As `segment`.
        FileError
            If the sink or the work folder cannot be written, or holds something else, or the disk is full: then the
            same call continues once there is space.
        """
        from cellrt.large import star as large  # here: most users never need it
        from cellrt.large.source import require_tile_pixels

        head, spec, limit = self.head, self.manifest.tile, self._memory
        max_candidates = candidate_limit(max_candidates, star_3d.MAX_CANDIDATES)
        memory = self.manifest.memory
        most = int(_LARGE_TILE_BYTES / (_BYTES_PER_VOXEL if memory is None else memory.bytes_per_pixel))
        if limit is not None:
            least = math.prod(4 * side for side in padded(triple(spec.halo), triple(spec.multiple)))
            # The maps of a tile are decided while the network has the next.
            maps = 4 * head.n_maps / math.prod(head.grid)
            with_maps = replace(limit, bytes_per_pixel=limit.bytes_per_pixel + maps)
            most = max(with_maps.pixels(_BESIDE_LARGE_TILES), min(least, most))
        run = large.StarRun(
            axes=axes,
            channels=channels,
            normalize=asked_for(normalize, self._normalize),
            lowhigh=None if lowhigh is None else large.require_pair(lowhigh),
            prob_thresh=head.prob_thresh if prob_thresh is None else prob_thresh,
            nms_thresh=head.nms_thresh if nms_thresh is None else nms_thresh,
            factors=_factors(scale, None),
            tile_pixels=most if tile_voxels is None else require_tile_pixels(tile_voxels, most, name="tile_voxels"),
            max_candidates=max_candidates,
            threads=self._threads,
            painting=star_3d.Painting(mode, overlap_label),
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
        tiles: tuple[int, int, int] | None = None,
    ) -> dict[str, NDArray[np.float32]]:
        """The network's raw maps of one volume; parameters and errors as in `segment`.

        Returns
        -------
        dict
            ``prob`` float32 (Z / grid, Y / grid, X / grid), ``dist`` float32 (n_rays, Z / grid, Y / grid, X / grid) in
            voxels, and ``class_prob`` float32 (n_classes + 1, ...) if the network tells classes apart; sides are
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
        scale: float | Factors | None = None,
        tiles: tuple[int, int, int] | None = None,
        mode: str = "full",
        overlap_label: int | None = None,
    ) -> Route:
        """How the volumes of a stream go; the options of `segment`."""
        self._check(prob_thresh, nms_thresh, scale, tiles)
        return Route(
            axes,
            partial(self._pixels, channels=channels),
            partial(
                self._image_work,
                normalize=self._percentiles(normalize),
                prob_thresh=prob_thresh,
                nms_thresh=nms_thresh,
                scale=scale,
                tiles=tiles,
                painting=star_3d.Painting(mode, overlap_label),
                threads=1,
            ),
        )

    def _pixels(self, image: ArrayLike, axes: str | None, channels: int | Sequence[int] | None = None) -> NDArray[Any]:
        """The channels that the network gets, (C, Z, Y, X), as they are."""
        return as_volume(image, axes, channels, n_channels=self.manifest.input.n_channels)
