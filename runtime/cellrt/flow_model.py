"""A flow model: image, channels, normalise, resize, pad, tile, session, blend, flow head.

`FlowModel._work` is the table of contents of Cellpose's side of this package.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cellrt import kernels
from cellrt.errors import CellrtError, ImageError, ModelError
from cellrt.heads import flow
from cellrt.image import as_image, cellpose_channels, cellpose_numbers
from cellrt.instances import Instances
from cellrt.manifest import FLOW_TILES, FlowSpec, Manifest, Normalize99Spec, pair
from cellrt.memory import MemoryLimit
from cellrt.model import Model
from cellrt.normalize99 import normalize99
from cellrt.pool import Found, Job, Work, complete
from cellrt.resize import require_size
from cellrt.session import Session
from cellrt.stream import Route
from cellrt.tile import cellpose_padding, halving, largest, overlapping

Normalize = Normalize99Spec | tuple[float, float] | Literal["model"] | None
Tiles = Literal["upstream", "large"]
_OVERLAP = 0.1  # share of a tile, upstream's default

if TYPE_CHECKING:
    from cellrt.large.result import LargeInstances
    from cellrt.large.source import Sliceable

# CPnet needs about 0.7 kB per pixel that it reads at once: 0.4 GB. Twice as large tiles are hardly faster.
MAX_TILE_PIXELS = 600_000
_LARGE_OVERLAP = 64  # pixels that large tiles have in common: beyond, the blend of two differs little from one


@dataclass(frozen=True, eq=False)
class FlowMaps:
    """What the network says about one image: what `FlowModel.decode` makes instances of, again and again if you like.

    Attributes
    ----------
    maps : float32 (3, y, x)
        Flow along y and x (5 per pixel and step) and the logit of being inside a cell; of the image's shape, or with
        ``resample=False`` of the shape that the network saw.
    shape : (int, int)
        The image's sides (Y, X).
    style : float32 (n,) or None
        The image's style vector, of length 1; None if the network has none.
    diameter : float
        Of the objects, in pixels of the image: as given or estimated.
    steps : int
        Of the integration: upstream's rule for this diameter.
    """

    maps: NDArray[np.float32] = field(repr=False)
    shape: tuple[int, int]
    style: NDArray[np.float32] | None = field(repr=False)
    diameter: float
    steps: int

    @property
    def flow(self) -> NDArray[np.float32]:
        """The flow, float32 (2, y, x): along y, along x."""
        return self.maps[:2]

    @property
    def cellprob(self) -> NDArray[np.float32]:
        """The logit of being inside a cell, float32 (y, x)."""
        cellprob: NDArray[np.float32] = self.maps[2]
        return cellprob


_NOTHING = FlowMaps(np.full((3, 1, 1), -1, np.float32), (1, 1), None, 1.0, 1)


class FlowModel(Model):
    """A network whose objects are where flows end (Cellpose); `cellrt.load` opens one.

    Attributes
    ----------
    head : FlowSpec
        What its maps mean, with thresholds and the like.
    manifest, providers
        As of every `Model`.
    """

    def __init__(
        self, session: Session, manifest: Manifest, *, threads: int, memory: MemoryLimit | None = None
    ) -> None:
        super().__init__(session, manifest, threads=threads, memory=memory)
        if not isinstance(manifest.head, FlowSpec) or not isinstance(manifest.normalize, Normalize99Spec):
            kinds = f"{manifest.head.kind!r} with {manifest.normalize.kind!r}"
            raise ModelError(f"expected a head with the normalisation of its kind, got {kinds}; export the model again")
        self.head = manifest.head
        self._normalize = manifest.normalize
        style = session.outputs.get("style", [0, 0])[1:]
        if style != [self.head.n_style]:
            raise ModelError(
                f"expected {self.head.n_style} style values from the network, as in the manifest, got {style}; export "
                "the model again"
            )

    def segment(
        self,
        image: ArrayLike,
        *,
        axes: str | None = None,
        channels: Sequence[int] | None = None,
        diameter: float | None = None,
        normalize: Normalize = "model",
        invert: bool | None = None,
        flow_threshold: float | None = None,
        cellprob_threshold: float | None = None,
        niter: int | None = None,
        resample: bool | None = None,
        augment: bool = False,
        min_size: int | None = None,
        max_size_fraction: float = flow.MAX_SIZE_FRACTION,
        interpolate: bool = True,
        tiles: Tiles | None = None,
        tile_overlap: float = _OVERLAP,
        batch_size: int = 4,
    ) -> Instances:
        """Find the objects of one image.

        The cells are those of Cellpose 3.1's or 4.2's `eval` with the same options, whichever the model came from.

        Parameters
        ----------
        image : array (Y, X), (Y, X, C) or (C, Y, X)
            Any integer or floating dtype, any strides; not written to.
        axes : str, optional
            A letter per axis out of T, Z, C, Y, X. Default: the shorter of the last and the first axis of three is C.
        channels : sequence of int, optional
            By Cellpose's numbers, from 1. Models of Cellpose 1 to 3 take two: the channel to segment (0: the mean of
            all) and the one of nuclei (0: none). Models of Cellpose 4 take up to three. Default: the first ones.
        diameter : float, optional
            Of the objects, in pixels. Default: estimated by the model's size model where it has one (two more runs of
            the network), else that of the objects it was trained on.
        normalize : "model", (low, high), Normalize99Spec or None
            Percentiles that become 0 and 1, or all of Cellpose's options. None: the image is normalised already.
        invert : bool, optional
            For dark cells on a bright ground. Default: as `normalize` says.
        flow_threshold, cellprob_threshold, min_size, max_size_fraction, interpolate
            As in `decode`.
        niter : int, optional
            Steps of the integration. Default, or 0: 200, more for objects that are larger than the network knows.
        resample : bool, optional
            Follow flows at the image's resolution; False: at the network's, faster where that is lower. Default: as the
            manifest says; True for models that were Cellpose's.
        augment : bool
            Run the network on flipped tiles that overlap by half, and average.
        tiles : "upstream" or "large", optional
            Upstream's tiles of 224 pixels, for the same cells; or the whole image, or as large tiles as memory allows:
            faster, and cells differ here and there. Default: as the manifest says; "upstream" for models that were
            Cellpose's, and with `augment`.
        tile_overlap : float
            Share of a tile that neighbours have in common, 0.05 to 0.5.
        batch_size : int
            Tiles that the network runs on at once: more need more memory.

        Returns
        -------
        Instances

        Raises
        ------
        ImageError
            If the image has the wrong rank, lacks a channel, has no pixels, NaN or infinite values.
        CellrtError
            If an option is out of range.
        """
        maps = self.predict(
            image,
            axes=axes,
            channels=channels,
            diameter=diameter,
            normalize=normalize,
            invert=invert,
            resample=resample,
            augment=augment,
            tiles=tiles,
            tile_overlap=tile_overlap,
            batch_size=batch_size,
        )
        return self.decode(
            maps,
            flow_threshold=flow_threshold,
            cellprob_threshold=cellprob_threshold,
            niter=niter,
            min_size=min_size,
            max_size_fraction=max_size_fraction,
            interpolate=interpolate,
        )

    def segment_large(
        self,
        source: Sliceable,
        sink: Any,
        *,
        axes: str | None = None,
        channels: Sequence[int] | None = None,
        diameter: float | None = None,
        normalize: Normalize = "model",
        invert: bool | None = None,
        flow_threshold: float | None = None,
        cellprob_threshold: float | None = None,
        niter: int | None = None,
        resample: bool | None = None,
        augment: bool = False,
        min_size: int | None = None,
        max_size_fraction: float = flow.MAX_SIZE_FRACTION,
        interpolate: bool = True,
        tiles: Tiles | None = None,
        tile_overlap: float = _OVERLAP,
        batch_size: int = 4,
        halo: int | None = None,
        tile_pixels: int | None = None,
        work: str | Path | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> LargeInstances:
        """Find the objects of an image that need not fit in memory, and write their labels block by block.

        The image is cut into overlapping tiles; each is segmented by itself, with the grey values of the whole image.
        Where tiles overlap, their objects are compared: those that share more than half of the smaller one's pixels are
        the same, and the one that lies most inside its tile stays, whole. Objects that are cut off in every tile are
        united over the seams. Cells differ from those of `segment` on the whole image by a pixel here and there: the
        network's style is that of a tile. Numbers run by tiles, in rows, and within a tile as `segment` gives them.
        Interrupted, the same call continues at the last finished tile.

        Memory at the peak, beside 0.1 GB for the program and the model: 0.4 GB for the network (CPnet), 100 bytes per
        pixel of a tile, 128 MB of labels and 100 bytes per object.

        Parameters
        ----------
        source : object with shape, dtype and slices
            As `image` of `segment`: a memory map, a zarr or dask array, ... It is read twice, block by block.
        sink : str, Path or array
            A path that ends in .tif (tiled BigTIFF, uint32) or .zarr (uint32; needs ``cellrt[screen]``), which appears
            when it is whole; or an array of int32, uint32 or 64-bit integers to assign blocks to.
        axes, channels, invert, flow_threshold, cellprob_threshold, niter, resample, augment, min_size, interpolate
            As in `segment`.
        diameter : float, optional
            Of the objects, in pixels. Default: that of the objects the model was trained on. It is not estimated here:
            `estimate_diameter` does that for a part of the image.
        normalize : "model", (low, high), Normalize99Spec or None
            As in `segment`, of the whole image, but without smoothing, sharpening and percentiles of blocks.
        max_size_fraction : float
            An object of more than this share of a tile is dropped.
        tiles, tile_overlap, batch_size
            How the network runs within a tile, as in `segment`. Default: "large" where it can.
        halo : int, optional
            Pixels that a tile reads beyond what it keeps, at least; more than the longest object. Default: three
            diameters, at least 64.
        tile_pixels : int, optional
            Most pixels of a tile. Default: 2.5 million, as far as the network does not see more of them than that; more
            where halos are wide.
        work : str or Path, optional
            Folder where finished tiles are kept until the run succeeds, about a byte per pixel. Default: for a path,
            ``<sink>.progress``; for an array a temporary one, so that an interrupted run begins anew.
        progress : callable, optional
            Called with the numbers of finished and of all tiles after each tile.

        Returns
        -------
        LargeInstances
            Without outlines.

        Raises
        ------
        ImageError, CellrtError
            As `segment`.
        FileError
            If the sink or the work folder cannot be written, or holds something else.
        """
        from cellrt.large import flow as large  # here: most users never need it
        from cellrt.large.source import TILE_PIXELS, require_tile_pixels

        known = self.head.diam_labels if diameter is None else diameter
        if tiles is None:
            tiles = "upstream" if augment or self.head.fixed_tile else "large"
        option = self._option(
            known, tiles, tile_overlap, batch_size, resample=resample, augment=augment, threads=self._threads
        )
        network = {name: value for name, value in asdict(option).items() if name not in ("threads", "batch_size")}
        numbers = self._numbers(channels)
        decoding: dict[str, Any] = {
            "flow_threshold": flow_threshold,
            "cellprob_threshold": cellprob_threshold,
            "niter": niter,
            "min_size": min_size,
            "max_size_fraction": max_size_fraction,
            "interpolate": interpolate,
        }
        self._decode(_NOTHING, threads=1, **decoding)  # it checks them
        rescale = self._rescale(known)
        halo = max(64, math.ceil(3 * known)) if halo is None else _pixels("halo", halo)
        most = max(int(TILE_PIXELS / max(1.0, float(rescale) ** 2)), (4 * halo) ** 2)

        def decode(pixels: NDArray[np.float32]) -> Instances:
            maps = complete(self._work(pixels, option, lambda maps: Found(None, maps)), self._network).maps
            assert isinstance(maps, FlowMaps)
            return self.decode(maps, **decoding)

        return large.segment(
            source,
            sink,
            manifest=self.manifest,
            choose=lambda pixels: cellpose_channels(
                pixels, numbers, n_channels=self.manifest.input.n_channels, pair=self._pair
            ),
            decode=decode,
            run=large.FlowRun(
                axes=axes,
                normalize=self._normalization(normalize, invert),
                rescale=rescale,
                halo=halo,
                tile_pixels=most if tile_pixels is None else require_tile_pixels(tile_pixels, most),
                threads=self._threads,
                options={"channels": numbers, "network": network, "decoding": decoding},
            ),
            work=work,
            progress=progress,
        )

    def predict(
        self,
        image: ArrayLike,
        *,
        axes: str | None = None,
        channels: Sequence[int] | None = None,
        diameter: float | None = None,
        normalize: Normalize = "model",
        invert: bool | None = None,
        resample: bool | None = None,
        augment: bool = False,
        tiles: Tiles | None = None,
        tile_overlap: float = _OVERLAP,
        batch_size: int = 4,
    ) -> FlowMaps:
        """Run the network on one image; parameters and errors as in `segment`."""
        option = self._option(
            diameter, tiles, tile_overlap, batch_size, resample=resample, augment=augment, threads=self._threads
        )
        pixels = as_image(image, axes, None, n_channels=None)
        ready = self._ready(pixels, self._numbers(channels), self._normalization(normalize, invert), self._threads)
        maps = complete(self._work(ready, option, lambda maps: Found(None, maps)), self._network).maps
        assert isinstance(maps, FlowMaps)
        return maps

    def _streaming(
        self,
        *,
        axes: str | None = None,
        channels: Sequence[int] | None = None,
        diameter: float | None = None,
        normalize: Normalize = "model",
        invert: bool | None = None,
        flow_threshold: float | None = None,
        cellprob_threshold: float | None = None,
        niter: int | None = None,
        resample: bool | None = None,
        augment: bool = False,
        min_size: int | None = None,
        max_size_fraction: float = flow.MAX_SIZE_FRACTION,
        interpolate: bool = True,
        tiles: Tiles | None = None,
        tile_overlap: float = _OVERLAP,
        batch_size: int = 4,
    ) -> Route:
        """How the images of a stream go; the options of `segment`."""
        option = self._option(diameter, tiles, tile_overlap, batch_size, resample=resample, augment=augment, threads=1)
        spec, numbers = self._normalization(normalize, invert), self._numbers(channels)
        decoding: dict[str, Any] = {
            "flow_threshold": flow_threshold,
            "cellprob_threshold": cellprob_threshold,
            "niter": niter,
            "min_size": min_size,
            "max_size_fraction": max_size_fraction,
            "interpolate": interpolate,
        }
        self._decode(_NOTHING, threads=1, **decoding)  # it checks them

        def found(maps: FlowMaps) -> Found:
            return Found(self._decode(maps, threads=1, **decoding), maps)

        return Route(
            axes,
            partial(as_image, channels=None, n_channels=None),
            lambda pixels: self._work(self._ready(pixels, numbers, spec, threads=1), option, found),
        )

    def decode(
        self,
        maps: FlowMaps,
        *,
        flow_threshold: float | None = None,
        cellprob_threshold: float | None = None,
        niter: int | None = None,
        min_size: int | None = None,
        max_size_fraction: float = flow.MAX_SIZE_FRACTION,
        interpolate: bool = True,
    ) -> Instances:
        """Make instances of what `predict` gave, without running the network again.

        Parameters
        ----------
        maps : FlowMaps
        flow_threshold : float, optional
            Largest error of a mask's flow; 0 keeps every mask. Default: the manifest's.
        cellprob_threshold : float, optional
            Pixels whose logit exceeds this are inside a cell: lower it for more and larger cells. Default: the
            manifest's.
        niter : int, optional
            Steps of the integration. Default, or 0: ``maps.steps``.
        min_size : int, optional
            Pixels that an object must have; 0 keeps all. Default: the manifest's.
        max_size_fraction : float
            An object of more than this share of the image is dropped.
        interpolate : bool
            Follow the flow between pixels. False (Cellpose 1 to 3 only): in steps from pixel to pixel.
        """
        return self._decode(
            maps,
            flow_threshold=flow_threshold,
            cellprob_threshold=cellprob_threshold,
            niter=niter,
            min_size=min_size,
            max_size_fraction=max_size_fraction,
            interpolate=interpolate,
            threads=self._threads,
        )

    def _decode(self, maps: FlowMaps, *, niter: int | None, threads: int, **options: Any) -> Instances:
        """Instances of maps; the options of `decode`."""
        steps = niter or maps.steps
        return flow.decode(maps.maps, self.head, steps=steps, out_shape=maps.shape, threads=threads, **options)

    def estimate_diameter(
        self,
        image: ArrayLike,
        *,
        axes: str | None = None,
        channels: Sequence[int] | None = None,
        normalize: Normalize = "model",
        invert: bool | None = None,
        augment: bool = False,
        batch_size: int = 4,
    ) -> tuple[float, float]:
        """Estimate the diameter of the objects of one image, as Cellpose's `SizeModel.eval` does.

        Returns
        -------
        diameter : float
            Pixels: the median of the objects that the network finds at the size that the style suggests.
        diameter_from_style : float
            Pixels: what the style alone suggests.

        Raises
        ------
        CellrtError
            If the model has no size model.
        """
        if self.head.size_model is None:
            raise CellrtError(
                "expected a model with a size model, got one without; give the diameter, or export the model with "
                "--size-model"
            )
        option = self._option(
            None, "upstream", _OVERLAP, batch_size, resample=False, augment=augment, threads=self._threads
        )
        pixels = as_image(image, axes, None, n_channels=None)
        ready = self._ready(pixels, self._numbers(channels), self._normalization(normalize, invert), self._threads)
        sizes = complete(self._sized(ready, option, lambda *sizes: Found(None, sizes)), self._network).maps
        return sizes[0], sizes[1]

    def style(
        self,
        image: ArrayLike,
        *,
        axes: str | None = None,
        channels: Sequence[int] | None = None,
        diameter: float | None = None,
        normalize: Normalize = "model",
        invert: bool | None = None,
    ) -> NDArray[np.float32]:
        """The style vector of one image, float32 (n,) of length 1; parameters and errors as in `segment`."""
        maps = self.predict(
            image,
            axes=axes,
            channels=channels,
            diameter=self.head.diam_labels if diameter is None else diameter,
            normalize=normalize,
            invert=invert,
            resample=False,
        )
        if maps.style is None:
            raise CellrtError("expected a network with a style output, got one without; use a model of Cellpose 1 to 3")
        return maps.style

    def _decode_whole(self, maps: NDArray[np.float32]) -> Instances:
        """Instances of the maps of an image that is one tile without padding."""
        return flow.decode(maps, self.head, threads=self._threads)

    def _check(self, run: _Run) -> None:
        """Refuse options that this network cannot run with."""
        if run.tiles not in FLOW_TILES:
            raise CellrtError(f"expected tiles='upstream' or 'large', got {run.tiles!r}")
        if run.tiles == "large" and (run.augment or self.head.fixed_tile):
            why = "augment=True" if run.augment else f"a network that takes {self.head.tile} x {self.head.tile} only"
            raise CellrtError(f"expected tiles='upstream' with {why}, got 'large'; leave it out")
        if not isinstance(run.overlap, numbers.Real) or not 0.05 <= run.overlap <= 0.5:
            raise CellrtError(f"expected tile_overlap from 0.05 to 0.5, got {run.overlap!r}")
        if not isinstance(run.batch_size, numbers.Integral) or run.batch_size < 1:
            raise CellrtError(f"expected batch_size as a whole number of at least 1, got {run.batch_size!r}")

    @property
    def _pair(self) -> bool:
        """Whether channels are chosen as Cellpose 1 to 3 do: cells, then nuclei."""
        return self.head.dynamics == "v3"

    def _option(
        self,
        diameter: float | None,
        tiles: Tiles | None,
        overlap: float,
        batch_size: int,
        *,
        resample: bool | None,
        augment: bool,
        threads: int,
    ) -> _Run:
        """Options of `predict`, checked."""
        usual = "upstream" if augment else self.head.tiles
        run = _Run(
            diameter=None if diameter is None else _positive(diameter),
            resample=self.head.resample if resample is None else resample,
            augment=augment,
            tiles=usual if tiles is None else tiles,
            overlap=overlap,
            batch_size=batch_size,
            threads=threads,
        )
        self._check(run)
        return run

    def _numbers(self, channels: Sequence[int] | None) -> tuple[int, ...] | None:
        """Channels by Cellpose's numbers, checked."""
        return None if channels is None else cellpose_numbers(channels, self.manifest.input.n_channels, self._pair)

    def _ready(
        self, image: NDArray[Any], channels: tuple[int, ...] | None, spec: Normalize99Spec | None, threads: int
    ) -> NDArray[np.float32]:
        """The channels that the network gets of an image (C, Y, X), normalised; float32 (C, Y, X)."""
        pixels = cellpose_channels(image, channels, n_channels=self.manifest.input.n_channels, pair=self._pair)
        if spec is not None:
            return normalize99(pixels, spec, threads=threads)
        if not np.isfinite(pixels).all():
            raise ImageError(
                "expected finite pixels, got NaN or infinity; replace them first, for example with numpy.nan_to_num"
            )
        return pixels

    def _normalization(self, normalize: Normalize, invert: bool | None) -> Normalize99Spec | None:
        """The normalisation that arguments of `segment` ask for, by the rules of this model's Cellpose."""
        if normalize is None:
            if invert:
                raise CellrtError("expected a normalisation with invert=True, got normalize=None; invert the image")
            return None
        if isinstance(normalize, Normalize99Spec):
            spec = replace(normalize, rules=self._normalize.rules)
        elif isinstance(normalize, str) and normalize == "model":
            spec = self._normalize
        else:
            try:
                low, high = (float(percent) for percent in normalize)
                spec = replace(self._normalize, low=low, high=high, lowhigh=None)
            except (TypeError, ValueError):
                raise CellrtError(
                    "expected normalize to be two percentiles 0 <= low < high <= 100, a Normalize99Spec, None or "
                    f"'model', got {normalize!r}"
                ) from None
        return spec if invert is None else replace(spec, invert=bool(invert))

    def _work(self, image: NDArray[np.float32], run: _Run, then: Callable[[FlowMaps], Found]) -> Job:
        """A normalised image on its way to its maps, by way of its diameter if that is to be estimated."""

        def known(diameter: float, rescale: np.floating[Any]) -> Job:
            return self._job(image, rescale, diameter, run, lambda job: then(self._maps(job, run)))

        if run.diameter is None and self.head.size_model is not None:
            plain = replace(run, augment=False, overlap=_OVERLAP)  # upstream's estimate takes neither option
            diam_mean = self.head.diam_mean
            return self._sized(image, plain, lambda estimate, _: known(estimate, np.float64(diam_mean / estimate)))
        diameter = self.head.diam_labels if run.diameter is None else run.diameter
        return known(diameter, self._rescale(diameter))

    def _sized(self, image: NDArray[np.float32], run: _Run, then: Callable[[float, float], Work | Found]) -> Job:
        """A normalised image on its way to the estimate of its diameter and what its style alone says of it."""
        model = self.head.size_model
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
                self.head,
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

        unknown = self.head.diam_labels
        return self._job(image, self._rescale(unknown), unknown, run, style_known)

    def _rescale(self, diameter: float) -> np.floating[Any]:
        """What an image is resized by for objects of a known diameter; in the precision that upstream has it in.

        Cellpose 1 to 3 keep the network's diameter as a float32, which decides the last pixel of a size and the last
        step. (An estimated diameter is a double there, and so is the diameter of its built-in models when they are
        opened by name: there a side can differ by a pixel and the steps by one, at one diameter in twenty.)
        """
        precision = np.float32 if self.head.dynamics == "v3" else np.float64
        return precision(precision(self.head.diam_mean) / precision(diameter))

    def _job(
        self,
        image: NDArray[np.float32],
        rescale: np.floating[Any],
        diameter: float,
        run: _Run,
        then: Callable[[Job], Work | Found],
    ) -> Job:
        """An image resized, padded and cut into tiles."""
        precision = type(rescale)
        shape, scaled = (image.shape[1], image.shape[2]), image
        if rescale != 1:
            size = (int(precision(shape[0]) * rescale), int(precision(shape[1]) * rescale))
            require_size(size, shape, f"diameter {diameter:.4g} for a network of {self.head.diam_mean:.4g}")
            scaled = _resized(image, size, run.threads)
        side = self.head.tile
        smallest = side if self.head.fixed_tile else 0
        pads = [cellpose_padding(length, smallest=smallest) for length in scaled.shape[1:]]
        if run.augment:  # a tile is never smaller than its side then
            sums = [length + sum(pad) for length, pad in zip(scaled.shape[1:], pads, strict=True)]
            pads = [(before, after + max(0, side - total)) for (before, after), total in zip(pads, sums, strict=True)]
        padded = np.pad(scaled, [(0, self.manifest.input.n_channels - len(scaled)), *pads])
        sides = (padded.shape[1], padded.shape[2])
        needed = _needed(image, padded)
        max_pixels = MAX_TILE_PIXELS
        if self._memory is not None:
            max_pixels = self._memory.tile_pixels(needed, least=side * side, most=max_pixels)
        if run.augment:
            rows, columns = halving(sides, side=side)
        elif run.tiles == "large":
            rows, columns = largest(
                sides, multiple=pair(self.manifest.tile.multiple), overlap=_LARGE_OVERLAP, max_pixels=max_pixels
            )
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
            n_maps=self.head.n_maps,
            batch_size=min(run.batch_size, max(1, max_pixels // tile_pixels)),
            then=then,
        )

    def _maps(self, job: Job, run: _Run) -> FlowMaps:
        """What came out for an image, at its own resolution if that was asked for."""
        maps = job.maps()
        shape = (job.image.shape[1], job.image.shape[2])
        if run.resample and job.rescale != 1:
            maps = _resized(maps, shape, run.threads)
        steps = flow.STEPS
        if run.resample:
            precision = type(job.rescale)
            # 1 / rescale * 200 and 200 / rescale are not the same number
            v3 = self.head.dynamics == "v3"
            one, many = precision(1), precision(flow.STEPS)
            steps = int(one / job.rescale * many if v3 else many / job.rescale)
        style = job.style() if self.head.n_style else None
        return FlowMaps(maps, shape, style, job.diameter, min(steps, flow.MAX_STEPS))


@dataclass(frozen=True)
class _Run:
    """How the network is run."""

    diameter: float | None
    resample: bool
    augment: bool
    tiles: str
    overlap: float
    batch_size: int
    threads: int


def _resized(planes: NDArray[np.float32], shape: tuple[int, int], threads: int) -> NDArray[np.float32]:
    """Planes (C, Y, X) at another shape, by the routine that OpenCV has for as many channels."""
    single_precision = len(planes) not in (1, 3, 4) or 1 in planes.shape[1:]
    return kernels.resize_linear(planes, out_shape=shape, single_precision=single_precision, threads=threads)


def _needed(image: NDArray[np.float32], padded: NDArray[np.float32]) -> int:
    """Bytes that an image (C, Y, X) needs beside the network: it, what the network sees, then maps or masks."""
    blending = 32 * padded[0].size  # maps as a sum and without padding, weights
    decoding = 44 * image[0].size  # maps, and where the flow leads from every second pixel
    return int(2 * image.nbytes + padded.nbytes + max(blending, decoding))


def _pixels(name: str, value: Any) -> int:
    """The value, if it is a whole number of pixels."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 0:
        raise CellrtError(f"expected {name} as a whole number of pixels, got {value!r}")
    return int(value)


def _positive(diameter: Any) -> float:
    """The diameter, if it is one."""
    if isinstance(diameter, bool) or not isinstance(diameter, (int, float, np.number)) or not 0 < diameter < math.inf:
        raise CellrtError(
            f"expected diameter as a positive number of pixels, or None to have it estimated, got {diameter!r}"
        )
    return float(diameter)
