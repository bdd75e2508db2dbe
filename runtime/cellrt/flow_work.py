"""An image or a volume on its way through a flow network: resized, padded, cut into tiles; maps out.

`FlowRunner.work` takes a normalised image to its `FlowMaps`, by way of its diameter if that is to be estimated. Knows
sizes, diameters and memory; never channels, normalisation, nor what instances are made of.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellrt import flow_volume
from cellrt.errors import CellrtError, ImageError
from cellrt.heads import flow
from cellrt.manifest import FLOW_TILES, FlowSpec
from cellrt.memory import MemoryLimit
from cellrt.pool import Found, Job, Work
from cellrt.resize import require_size, resize_linear, resize_linear_volume
from cellrt.tile import cellpose_padding, halving, largest, overlapping

OVERLAP = 0.1  # share of a tile, upstream's default
_ENDLESS = 1 << 60  # pixels: longer than any side

# CPnet needs about 0.7 kB per pixel that it reads at once: 0.4 GB. Twice as large tiles are hardly faster.
MAX_TILE_PIXELS = 600_000
_LARGE_OVERLAP = 64  # pixels that large tiles have in common: beyond, the blend of two differs little from one


@dataclass(frozen=True, eq=False)
class FlowMaps:
    """What the network says about one image: what `FlowModel.decode` makes instances of, again and again if you like.

    Attributes
    ----------
    maps : float32 (3, y, x), (3, Z, y, x) or (4, z, y, x)
        Flow along y and x (5 per pixel and step) and the logit of being inside a cell; of the image's shape, or with
        ``resample=False`` of the shape that the network saw. Of a stack, that of each plane; of a volume with
        ``do_3D=True`` flow along z, y and x and logit, sums over the passes.
    shape : (int, int) or (int, int, int)
        The image's sides (Y, X) or (Z, Y, X).
    style : float32 (n,), (n_planes, n) or None
        The image's style vector, of length 1; None if the network has none. Of a stack, that of each plane; of a volume
        with ``do_3D=True`` that of each plane along x, the last ones that the network saw.
    diameter : float
        Of the objects, in pixels of the image: as given or estimated.
    steps : int
        Of the integration: upstream's rule for this diameter.
    """

    maps: NDArray[np.float32] = field(repr=False)
    shape: tuple[int, ...]
    style: NDArray[np.float32] | None = field(repr=False)
    diameter: float
    steps: int

    @property
    def flow(self) -> NDArray[np.float32]:
        """The flow, float32 (2, y, x): along y, along x; of a volume (3, z, y, x)."""
        return self.maps[:-1]

    @property
    def cellprob(self) -> NDArray[np.float32]:
        """The logit of being inside a cell, float32 (y, x) or (z, y, x)."""
        cellprob: NDArray[np.float32] = self.maps[-1]
        return cellprob


@dataclass(frozen=True)
class Run:
    """How the network is run."""

    diameter: float | None
    resample: bool
    augment: bool
    tiles: str
    overlap: float
    batch_size: int
    threads: int
    do_3D: bool
    stack: bool
    anisotropy: float

    @property
    def is_volume(self) -> bool:
        """Whether the image has an axis z."""
        return self.do_3D or self.stack

    def check(self, head: FlowSpec) -> None:
        """Refuse options that a network cannot run with."""
        if self.tiles not in FLOW_TILES:
            raise CellrtError(f"expected tiles='upstream' or 'large', got {self.tiles!r}")
        if self.tiles == "large" and (self.augment or head.fixed_tile):
            why = "augment=True" if self.augment else f"a network that takes {head.tile} x {head.tile} only"
            raise CellrtError(f"expected tiles='upstream' with {why}, got 'large'; leave it out")
        if not isinstance(self.overlap, numbers.Real) or not 0.05 <= self.overlap <= 0.5:
            raise CellrtError(f"expected tile_overlap from 0.05 to 0.5, got {self.overlap!r}")
        if not isinstance(self.batch_size, numbers.Integral) or self.batch_size < 1:
            raise CellrtError(f"expected batch_size as a whole number of at least 1, got {self.batch_size!r}")


class FlowRunner:
    """Brings normalised images through the network of a flow model.

    Parameters
    ----------
    head : FlowSpec
        What the maps mean, and for which diameters.
    n_channels : int
        That the network takes; what an image lacks is zeros.
    multiple : (int, int)
        What the sides of its input are multiples of.
    memory : MemoryLimit, optional
    """

    def __init__(
        self, head: FlowSpec, *, n_channels: int, multiple: tuple[int, int], memory: MemoryLimit | None
    ) -> None:
        self._head, self._n_channels, self._multiple, self._memory = head, n_channels, multiple, memory

    def work(self, image: NDArray[np.float32], run: Run, then: Callable[[FlowMaps], Found]) -> Work:
        """A normalised image on its way to its maps, by way of its diameter if that is to be estimated."""
        if run.is_volume:
            return self._volume_work(image, run, then)

        def known(diameter: float, rescale: np.floating[Any]) -> Job:
            return self._job(image, rescale, diameter, run, lambda job: then(self._maps(job, run)))

        if run.diameter is None and self._head.size_model is not None:
            plain = replace(run, augment=False, overlap=OVERLAP)  # upstream's estimate takes neither option
            diam_mean = self._head.diam_mean
            return self.sized(image, plain, lambda estimate, _: known(estimate, np.float64(diam_mean / estimate)))
        diameter = self._head.diam_labels if run.diameter is None else run.diameter
        return known(diameter, self.rescale(diameter))

    def _volume_work(self, volume: NDArray[np.float32], run: Run, then: Callable[[FlowMaps], Found]) -> Work:
        """A normalised volume (C, Z, Y, X) on its way to its maps."""
        diameter = self._head.diam_labels if run.diameter is None else run.diameter
        rescale = self.rescale(diameter)
        depth, height, width = shape = (volume.shape[1], volume.shape[2], volume.shape[3])
        has_style = self._head.n_style > 0
        sides = (_resized(height, rescale), _resized(width, rescale)) if rescale != 1 else shape[1:]

        def of(maps: NDArray[np.float32], style: NDArray[np.float32] | None) -> Found:
            return then(FlowMaps(maps, shape, style, diameter, self.steps(rescale, run)))

        def of_planes(maps: NDArray[np.float32], style: NDArray[np.float32] | None) -> Found:
            if run.resample and rescale != 1:
                small, maps = maps, np.empty((len(maps), *shape), np.float32)
                for z in range(depth):
                    plane = np.ascontiguousarray(small[:, z])
                    maps[:, z] = resize_linear(plane, (height, width), threads=run.threads)
            return of(maps, style)

        def of_passes(maps: NDArray[np.float32], style: NDArray[np.float32] | None) -> Found:
            return of(resize_linear_volume(maps, shape, threads=run.threads) if run.resample else maps, style)

        def begin(plane: NDArray[np.float32], rescale: np.floating[Any]) -> Job:
            return self._job(plane, rescale, diameter, run, lambda _: Found(None), beside=beside)

        if run.stack:
            n_voxels, n_seen = volume[0].size, depth * math.prod(sides)
            beside = volume.nbytes + 12 * (n_voxels + n_seen) + 16 * n_voxels
            return flow_volume.plane_by_plane(volume, partial(begin, rescale=rescale), of_planes, has_style=has_style)
        if depth == 1:
            raise ImageError(
                f"expected a volume of several planes with do_3D=True, got shape {shape}; segment the plane as an image"
            )
        scaled_shape = self.volume_shape(shape, run)
        scaled = resize_linear_volume(volume, scaled_shape, threads=run.threads)
        beside = volume.nbytes + scaled.nbytes + 16 * scaled[0].size + 48 * volume[0].size
        unscaled = partial(begin, rescale=type(rescale)(1))
        return flow_volume.orthogonal(scaled, unscaled, of_passes, has_style=has_style)

    def volume_shape(self, shape: tuple[int, int, int], run: Run) -> tuple[int, int, int]:
        """The sides (z, y, x) of a volume as the network sees it, with `do_3D`."""
        diameter = self._head.diam_labels if run.diameter is None else run.diameter
        rescale = self.rescale(diameter)
        depth, height, width = shape
        scaled_depth = _resized(depth * run.anisotropy, rescale)
        scaled = (
            (scaled_depth, _resized(height, rescale), _resized(width, rescale))
            if rescale != 1
            else (scaled_depth, height, width)
        )
        if scaled != shape:
            why = f"diameter {diameter:.4g} for a network of {self._head.diam_mean:.4g}, anisotropy {run.anisotropy:g}"
            require_size(scaled, shape, why)
        return scaled

    def planes_work(self, planes: NDArray[np.float32], run: Run) -> Work:
        """Planes (C, n, y, x) of a volume, as the network sees it, on their way to maps (3, n, y, x)."""
        diameter = self._head.diam_labels if run.diameter is None else run.diameter
        one = type(self.rescale(diameter))(1)
        beside = 4 * planes[0].size * (len(planes) + 11)  # the planes, what comes out, and sums twice
        return flow_volume.plane_by_plane(
            planes,
            lambda plane: self._job(plane, one, diameter, run, lambda _: Found(None), beside=beside),
            lambda maps, _: Found(None, maps),
            has_style=False,
        )

    def sized(self, image: NDArray[np.float32], run: Run, then: Callable[[float, float], Work | Found]) -> Job:
        """A normalised image on its way to the estimate of its diameter and what its style alone says of it."""
        model = self._head.size_model
        assert model is not None  # the callers ask
        run = replace(run, resample=False, tiles="upstream")

        def style_known(job: Job) -> Job:
            log_ratio = float(np.array(model.weights) @ (job.style() - np.array(model.style_mean))) + model.offset
            # a style of zeros has no direction: NaN, for which upstream takes the mean too
            from_style = model.diam_mean * math.exp(log_ratio) if log_ratio < 50 else model.diam_mean
            from_style = max(5.0, from_style)
            rescale = np.float64(model.diam_mean / from_style)
            return self._job(image, rescale, from_style, run, cells_known)

        def cells_known(job: Job) -> Work | Found:
            cells = flow.decode(
                self._maps(job, run).maps,
                self._head,
                flow_threshold=0.4,
                cellprob_threshold=0.0,
                min_size=15,  # upstream's defaults, whatever the model's
                interpolate=False,
                out_shape=(image.shape[1], image.shape[2]),
                threads=run.threads,
            )
            areas = np.bincount(cells.labels.reshape(-1))[1:]
            found = areas[areas > 0]
            diameter = float(np.median(np.sqrt(found)) / (math.sqrt(math.pi) / 2)) if found.size else model.diam_mean
            return then(diameter, job.diameter)

        unknown = self._head.diam_labels
        return self._job(image, self.rescale(unknown), unknown, run, style_known)

    def rescale(self, diameter: float) -> np.floating[Any]:
        """What an image is resized by for objects of a known diameter; in the precision that upstream has it in.

        Cellpose 1 to 3 keep the network's diameter as a float32, which decides the last pixel of a size and the last
        step. (An estimated diameter is a double there, and so is the diameter of its built-in models when they are
        opened by name: there a side can differ by a pixel and the steps by one, at one diameter in twenty.)
        """
        precision = np.float32 if self._head.dynamics == "v3" else np.float64
        with np.errstate(over="ignore"):  # an image of no such size is refused later
            return precision(precision(self._head.diam_mean) / precision(diameter))

    def _job(
        self,
        image: NDArray[np.float32],
        rescale: np.floating[Any],
        diameter: float,
        run: Run,
        then: Callable[[Job], Work | Found],
        *,
        beside: int = 0,
    ) -> Job:
        """An image resized, padded and cut into tiles; `beside` are bytes that are needed beside it."""
        shape, scaled = (image.shape[1], image.shape[2]), image
        if rescale != 1:
            size = (_resized(shape[0], rescale), _resized(shape[1], rescale))
            require_size(size, shape, f"diameter {diameter:.4g} for a network of {self._head.diam_mean:.4g}")
            scaled = resize_linear(image, size, threads=run.threads)
        side = self._head.tile
        smallest = side if self._head.fixed_tile else 0
        pads = [cellpose_padding(length, smallest=smallest) for length in scaled.shape[1:]]
        if run.augment:  # a tile is never smaller than its side then
            sums = [length + sum(pad) for length, pad in zip(scaled.shape[1:], pads, strict=True)]
            pads = [(before, after + max(0, side - total)) for (before, after), total in zip(pads, sums, strict=True)]
        padded = np.pad(scaled, [(0, self._n_channels - len(scaled)), *pads])
        sides = (padded.shape[1], padded.shape[2])
        needed = _needed(image, padded) + beside
        max_pixels = MAX_TILE_PIXELS
        if self._memory is not None:
            max_pixels = self._memory.tile_pixels(needed, least=side * side, most=max_pixels)
        if run.augment:
            rows, columns = halving(sides, side=side)
        elif run.tiles == "large":
            rows, columns = largest(sides, multiple=self._multiple, overlap=_LARGE_OVERLAP, max_pixels=max_pixels)
        else:
            rows, columns = overlapping(sides, side=side, overlap=run.overlap)
        tile_pixels = (rows[0][1] - rows[0][0]) * (columns[0][1] - columns[0][0])
        if self._memory is not None:
            self._memory.require(tile_pixels, needed, "allow more, or cut the image")
        crop_y, crop_x = ((before, before + length) for (before, _), length in zip(pads, scaled.shape[1:], strict=True))
        return Job(
            image,
            padded,
            rescale=rescale,
            diameter=diameter,
            rows=rows,
            columns=columns,
            crop=(crop_y, crop_x),
            augment=run.augment,
            n_maps=self._head.n_maps,
            batch_size=min(run.batch_size, max(1, max_pixels // tile_pixels)),
            then=then,
        )

    def _maps(self, job: Job, run: Run) -> FlowMaps:
        """What came out for an image, at its own resolution if that was asked for."""
        maps = job.maps()
        shape = (job.image.shape[1], job.image.shape[2])
        if run.resample and job.rescale != 1:
            maps = resize_linear(maps, shape, threads=run.threads)
        style = job.style() if self._head.n_style else None
        return FlowMaps(maps, shape, style, job.diameter, self.steps(job.rescale, run))

    def steps(self, rescale: np.floating[Any], run: Run) -> int:
        """Steps of the integration: more where objects are larger than the network knows, and their flow too."""
        if not run.resample:
            return flow.STEPS
        precision = type(rescale)
        # 1 / rescale * 200 and 200 / rescale are not the same number
        one, many = precision(1), precision(flow.STEPS)
        steps = int(one / rescale * many if self._head.dynamics == "v3" else many / rescale)
        return min(steps, flow.MAX_STEPS)


def _resized(side: float, rescale: np.floating[Any]) -> int:
    """A side times a factor, in the precision of that and truncated, as upstream has it."""
    with np.errstate(over="ignore"):
        return int(min(type(rescale)(side) * rescale, type(rescale)(_ENDLESS)))


def _needed(image: NDArray[np.float32], padded: NDArray[np.float32]) -> int:
    """Bytes that an image (C, Y, X) needs beside the network: it, what the network sees, then maps or masks."""
    blending = 32 * padded[0].size  # maps as a sum and without padding, weights
    decoding = 44 * image[0].size  # maps, and where the flow leads from every second pixel
    return int(2 * image.nbytes + padded.nbytes + max(blending, decoding))
