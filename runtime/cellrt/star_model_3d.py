"""A star model of volumes: volume, normalise, (resize,) tile, session, star3d head.

`StarModel3D._work` is the table of contents of StarDist 3D's side of this package; `star_model` is its twin for images.
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
from cellrt.heads import star_3d
from cellrt.heads.star import threshold
from cellrt.image import as_volume
from cellrt.instances import Instances
from cellrt.manifest import Manifest, PercentileSpec, Star3DSpec, triple
from cellrt.memory import MemoryLimit
from cellrt.model import Model
from cellrt.normalize import Normalize, asked_for, normalize_volume
from cellrt.pool import complete
from cellrt.resize import require_size, zoom_linear_3d
from cellrt.session import Session
from cellrt.star_work import BATCH_ELSEWHERE, StarWork, cut
from cellrt.stitch import place_3d
from cellrt.stream import Route
from cellrt.tile import Tile3D, checked_3d, padded, plan_3d

if TYPE_CHECKING:
    from cellrt.large.result import LargeInstances
    from cellrt.large.source import Sliceable

# A network of the usual width needs about 0.4 kB per voxel that it reads at once: 1.2 GB.
MAX_TILE_VOXELS = 3_000_000
_CANDIDATES_PER_SAMPLE = 0.1  # of the maps, in a volume full of cells
# Of what the network needs for a tile of a volume larger than memory. With halos of 46 voxels, tiles of half the size
# compute twice as many voxels in all.
_LARGE_TILE_BYTES = 1_800_000_000
_BYTES_PER_VOXEL = 500.0  # of models whose files do not tell
_BESIDE_LARGE_TILES = 900_000_000  # bytes: candidates that wait, what they are decided with, and a slab of labels

Factors = tuple[float, float, float]


class StarModel3D(Model):
    """A network whose objects are star-convex bodies in a volume (StarDist 3D); `cellrt.load` opens one.

    Attributes
    ----------
    head : Star3DSpec
        What its maps mean, with thresholds and the like.
    manifest, providers
        As of every `Model`.
    """

    def __init__(
        self, session: Session, manifest: Manifest, *, threads: int, memory: MemoryLimit | None = None
    ) -> None:
        super().__init__(session, manifest, threads=threads, memory=memory)
        if not isinstance(manifest.head, Star3DSpec) or not isinstance(manifest.normalize, PercentileSpec):
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
            trained on: 0.5 if objects are twice as large. The result is in voxels of the volume as given.
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
        work = self._work(
            self._voxels(image, axes, channels),
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

            85 MB + weights + bytes_per_pixel * (voxels of a tile)
            + 8 * (n_rays + 20) * (candidates that wait) + 8 * (n_rays + 8) * (objects)
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
            common. Default: what the network needs 1.8 GB for, or a memory limit of the model less 0.9 GB.
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
        if isinstance(max_candidates, bool) or not 1 <= max_candidates <= star_3d.MAX_CANDIDATES:
            raise CellrtError(f"expected max_candidates from 1 to {star_3d.MAX_CANDIDATES}, got {max_candidates!r}")
        memory = self.manifest.memory
        most = int(_LARGE_TILE_BYTES / (_BYTES_PER_VOXEL if memory is None else memory.bytes_per_pixel))
        if limit is not None:
            least = math.prod(4 * side for side in padded(triple(spec.halo), triple(spec.multiple)))
            most = max(limit.pixels(_BESIDE_LARGE_TILES), min(least, most))
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
        voxels = self._voxels(image, axes, channels)
        ready, shape = self._prepare(voxels, normalize, (1.0, 1.0, 1.0), self._threads)
        head = self.head
        whole = np.empty(
            (head.n_maps, *(side // g for side, g in zip(ready.shape[1:], head.grid, strict=True))), np.float32
        )
        planned, _ = self._plan(ready, tiles, self._needed(voxels, ready) + whole.nbytes)
        for tile in planned:
            batch = np.ascontiguousarray(cut(ready, tile))[np.newaxis]
            place_3d(whole, self._network(batch)["maps"][0], tile, head.grid)
        inside = tuple(slice(-(-side // g)) for side, g in zip(shape, head.grid, strict=True))
        whole = whole[(slice(None), *inside)]
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
        scale: float | Factors | None = None,
        tiles: tuple[int, int, int] | None = None,
        mode: str = "full",
        overlap_label: int | None = None,
    ) -> Route:
        """How the volumes of a stream go; the options of `segment`."""
        for name, value in (("prob_thresh", prob_thresh), ("nms_thresh", nms_thresh)):
            if value is not None:
                threshold(name, value)
        checked_3d(tiles)
        _factors(scale, None)
        return Route(
            axes,
            partial(self._voxels, channels=channels),
            partial(
                self._work,
                normalize=asked_for(normalize, self._normalize),
                prob_thresh=prob_thresh,
                nms_thresh=nms_thresh,
                scale=scale,
                tiles=tiles,
                painting=star_3d.Painting(mode, overlap_label),
                threads=1,
            ),
        )

    def _voxels(self, image: ArrayLike, axes: str | None, channels: int | Sequence[int] | None = None) -> NDArray[Any]:
        """The channels that the network gets, (C, Z, Y, X), as they are."""
        return as_volume(image, axes, channels, n_channels=self.manifest.input.n_channels)

    def _work(
        self,
        voxels: NDArray[Any],
        *,
        normalize: Normalize,
        prob_thresh: float | None,
        nms_thresh: float | None,
        scale: float | Factors | None,
        tiles: tuple[int, int, int] | None,
        painting: star_3d.Painting,
        threads: int,
    ) -> StarWork:
        """One volume (C, Z, Y, X) on its way: normalised, cut into tiles; the rest is up to `StarWork`."""
        out_shape = _sides(voxels)
        factors = _factors(scale, out_shape)
        ready, shape = self._prepare(voxels, normalize, factors, threads)
        head = self.head
        collector = star_3d.Collector3D(
            head,
            shape=shape,
            padded=_sides(ready),
            prob_thresh=head.prob_thresh if prob_thresh is None else prob_thresh,
            nms_thresh=head.nms_thresh if nms_thresh is None else nms_thresh,
            threads=threads,
        )
        finish = partial(
            collector.finish,
            out_shape=out_shape,
            scale=(1 / factors[0], 1 / factors[1], 1 / factors[2]),
            painting=painting,
        )
        planned, max_voxels = self._plan(ready, tiles, self._needed(voxels, ready))
        on_cpu = self.providers[0] == "CPUExecutionProvider"
        batch_size = 1 if on_cpu else min(BATCH_ELSEWHERE, max(1, max_voxels // math.prod(planned[0].shape)))

        def take(tile: Tile3D, maps: NDArray[np.float32]) -> None:
            collector.add(maps, origin=tile.origin, window=tile.window(head.grid))

        return StarWork(ready, planned, batch_size, take, finish)

    def _decode_whole(self, maps: NDArray[np.float32]) -> Instances:
        """Instances of the maps of a volume that is one tile without padding."""
        depth, height, width = (side * g for side, g in zip(maps.shape[1:], self.head.grid, strict=True))
        return star_3d.decode(maps, self.head, shape=(depth, height, width), threads=self._threads)

    def _prepare(
        self, voxels: NDArray[Any], normalize: Normalize, factors: Factors, threads: int
    ) -> tuple[NDArray[np.float32], tuple[int, int, int]]:
        """The network's padded input, float32 (C, Z, Y, X), and its shape (z, y, x) without padding."""
        spec = asked_for(normalize, self._normalize)
        shape, multiple = _sides(voxels), triple(self.manifest.tile.multiple)
        if factors == (1.0, 1.0, 1.0):
            return normalize_volume(voxels, spec, out_shape=padded(shape, multiple), threads=threads), shape
        scaled = zoom_linear_3d(normalize_volume(voxels, spec, out_shape=shape, threads=threads), factors)
        shape = _sides(scaled)
        return normalize_volume(scaled, None, out_shape=padded(shape, multiple), threads=threads), shape

    def _plan(
        self, ready: NDArray[np.float32], tiles: tuple[int, int, int] | None, needed: int
    ) -> tuple[tuple[Tile3D, ...], int]:
        """The tiles of a padded volume, and how many voxels the network may read at once.

        `needed` are the bytes that the volume needs beside the network, for the memory limit if there is one.
        """
        spec, limit = self.manifest.tile, self._memory
        multiple, halo = triple(spec.multiple), triple(spec.halo)
        max_voxels = MAX_TILE_VOXELS
        if limit is not None:
            # in smaller tiles most voxels would be computed more than eight times
            least = math.prod(4 * side for side in padded(halo, multiple))
            max_voxels = limit.tile_pixels(needed, least=min(least, max_voxels), most=max_voxels)
        planned = plan_3d(_sides(ready), halo=halo, multiple=multiple, max_voxels=max_voxels, tiles=tiles)
        if limit is not None:
            advice = "allow more, or cut the volume" if tiles is None else "allow more, or ask for more tiles"
            limit.require(math.prod(planned[0].shape), needed, advice)
        return planned, max_voxels

    def _needed(self, voxels: NDArray[Any], ready: NDArray[np.float32]) -> int:
        """Bytes that a volume needs beside the network: it, what the network sees, candidates twice, labels."""
        n_candidates = _CANDIDATES_PER_SAMPLE * ready[0].size / math.prod(self.head.grid)
        labels = 4 * voxels[0].size
        return int(voxels.nbytes + ready.nbytes + n_candidates * 8 * (self.head.n_rays + 8) + labels)


def _sides(volume: NDArray[Any]) -> tuple[int, int, int]:
    """Z, Y, X of (C, Z, Y, X)."""
    _, depth, height, width = volume.shape
    return depth, height, width


def _factors(scale: float | Factors | None, shape: tuple[int, int, int] | None) -> Factors:
    """The factors (z, y, x) that `scale` asks for, checked against the volume's sides where those are known."""
    if scale is None:
        return (1.0, 1.0, 1.0)
    values = (scale,) * 3 if isinstance(scale, numbers.Real) else tuple(scale) if isinstance(scale, Iterable) else ()
    if len(values) != 3 or not all(isinstance(value, numbers.Real) and 0 < value < np.inf for value in values):
        raise CellrtError(f"expected scale to be a positive number or three of them (z, y, x), got {scale!r}")
    factors = (float(values[0]), float(values[1]), float(values[2]))
    if shape is not None:
        sizes = [round(side * factor) for side, factor in zip(shape, factors, strict=True)]
        require_size(sizes, shape, f"scale {scale}")
    return factors
