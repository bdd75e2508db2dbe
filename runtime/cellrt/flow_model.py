"""A flow model: image, channels, normalise, (flow_work:) resize, pad, tile, session, blend, flow head."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cellrt import flow_decoding, flow_volume
from cellrt.errors import CellrtError, ImageError, ModelError
from cellrt.flow_work import OVERLAP, FlowMaps, FlowRunner, Run
from cellrt.heads import flow
from cellrt.heads.flow_3d import Smoothing
from cellrt.image import as_image, as_volume, cellpose_channels, cellpose_numbers
from cellrt.instances import Instances
from cellrt.manifest import FlowSpec, Manifest, Normalize99Spec, pair
from cellrt.memory import MemoryLimit
from cellrt.model import Model
from cellrt.normalize99 import normalize99
from cellrt.pool import Found, complete
from cellrt.session import Session
from cellrt.stream import Route

Normalize = Normalize99Spec | tuple[float, float] | Literal["model"] | None
Tiles = Literal["upstream", "large"]

if TYPE_CHECKING:
    from cellrt.large.result import LargeInstances
    from cellrt.large.source import Sliceable


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
        tile_overlap: float = OVERLAP,
        batch_size: int = 4,
        do_3D: bool = False,
        stitch_threshold: float | None = None,
        anisotropy: float | None = None,
        flow3D_smooth: Smoothing = 0,
    ) -> Instances:
        """Find the objects of one image, or of a volume.

        The cells are those of Cellpose 3.1's or 4.2's `eval` with the same options, whichever the model came from.

        Memory for a volume of V voxels of which the network sees V' (as resized), beside the network's: with
        ``do_3D=True`` at most 4 (V + V') bytes per channel, 16 V' and 48 V; with `stitch_threshold` 4 V per channel,
        12 (V + V') and 16 V. Planes are padded and cut into tiles as the network comes to them.

        Parameters
        ----------
        image : array (Y, X), (Y, X, C) or (C, Y, X); for volumes (Z, Y, X) or four axes
            Any integer or floating dtype, any strides; not written to.
        axes : str, optional
            A letter per axis out of T, Z, C, Y, X. Default: the shorter of the last and the first axis of three is C;
            volumes are ZYX, and of four axes the shortest of the last, the first and the second is C.
        channels : sequence of int, optional
            By Cellpose's numbers, from 1. Models of Cellpose 1 to 3 take two: the channel to segment (0: the mean of
            all) and the one of nuclei (0: none). Models of Cellpose 4 take up to three. Default: the first ones.
        diameter : float, optional
            Of the objects, in pixels. Default: estimated by the model's size model where it has one (two more runs of
            the network), else that of the objects it was trained on. In volumes it is not estimated.
        normalize : "model", (low, high), Normalize99Spec or None
            Percentiles that become 0 and 1, or all of Cellpose's options; of a volume as a whole. None: the image is
            normalised already.
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
            Tiles that the network runs on at once: more need more memory. Those of all planes of a volume are pooled.
        do_3D : bool
            Follow flows through a volume: the network sees the planes along z, y and x. `flow_threshold` has no effect.
        stitch_threshold : float, optional
            Segment the planes of a volume one by one, and join objects of neighbouring planes whose intersection over
            union is at least this, above 0: see `cellrt.planes.stitch`. `min_size` counts for the objects joined.
        anisotropy : float, optional
            With `do_3D`: the distance of planes over that of pixels; the volume is resized by it along z.
        flow3D_smooth : float or three of them
            With `do_3D`: smooth the flow by a Gaussian of this standard deviation, in voxels (of z, y and x).

        Returns
        -------
        Instances
            Of a volume without outlines.

        Raises
        ------
        ImageError
            If the image has the wrong rank, lacks a channel, has no pixels, NaN or infinite values; if a volume has one
            plane with ``do_3D=True``.
        CellrtError
            If an option is out of range, or does not go with others.
        """
        flow_decoding.check_options(do_3D, stitch_threshold, flow3D_smooth)
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
            do_3D=do_3D,
            stack=stitch_threshold is not None,
            anisotropy=anisotropy,
        )
        return self.decode(
            maps,
            flow_threshold=flow_threshold,
            cellprob_threshold=cellprob_threshold,
            niter=niter,
            min_size=min_size,
            max_size_fraction=max_size_fraction,
            interpolate=interpolate,
            stitch_threshold=stitch_threshold,
            flow3D_smooth=flow3D_smooth,
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
        tile_overlap: float = OVERLAP,
        batch_size: int = 4,
        do_3D: bool = False,
        stitch_threshold: float | None = None,
        anisotropy: float | None = None,
        flow3D_smooth: Smoothing = 0,
        halo: int | None = None,
        tile_pixels: int | None = None,
        work: str | Path | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> LargeInstances:
        """Find the objects of an image or a volume that need not fit in memory, and write their labels block by block.

        The image is cut into overlapping tiles; each is segmented by itself, with the grey values of the whole image.
        Where tiles overlap, their objects are compared: those that share more than half of the smaller one's pixels are
        the same, and the one that lies most inside its tile stays, whole. Objects that are cut off in every tile are
        united over the seams. Cells differ from those of `segment` on the whole image by a pixel here and there: the
        network's style is that of a tile. Numbers run by tiles, in rows, and within a tile as `segment` gives them.
        Interrupted, the same call continues at the last finished tile or plane.

        With `stitch_threshold` a stack is segmented plane by plane, and the result is that of `segment` on the whole
        stack: the same labels, numbers and points, scores but for float rounding.

        With ``do_3D=True``, the cells are those of `segment` on the whole volume, and numbered as there: the network
        sees whole planes, what it says of the volume is kept in a file, and all that follows is done in blocks that
        know as much of their surroundings as they need. Two differences: an object that is longer than `halo`, or than
        160 voxels, along an axis keeps its cavities, and voxels from which the flow leads more than 97 voxels away may
        belong to no object (a warning says how many). And with a memory limit of the model, large tiles may have
        another size here than in `segment`. Interrupted, the same call continues at the last finished planes.

        Memory at the peak, beside 0.1 GB for the program and the model: 0.4 GB for the network (CPnet), 100 bytes per
        pixel of a tile, 128 MB of labels and 100 bytes per object. Of a stack: a plane for a tile, 256 MB for slabs of
        planes, 80 MB per channel for percentiles, 100 bytes per object, and four per object in a plane; where equal
        parts of an object close a ring in many planes in a row, these planes at once, 20 bytes per voxel. With `do_3D`
        0.6 GB for planes or, if that is more, 100 bytes per pixel of the largest one; then 0.6 GB, 1.1 GB where flows
        lead far, and 200 bytes per object.

        Parameters
        ----------
        source : object with shape, dtype and slices
            As `image` of `segment`: a memory map, a zarr or dask array, ... It is read twice, block by block. Chunks
            that go through several planes of a stack are read once for all of these, by way of the work folder if they
            have more than 128 MB.
        sink : str, Path or array
            A path that ends in .tif (tiled BigTIFF, uint32; of a stack OME-TIFF) or .zarr (uint32; needs
            ``cellrt[screen]``), which appears when it is whole; or an array of int32, uint32 or 64-bit integers to
            assign blocks to.
        axes, channels, invert, flow_threshold, cellprob_threshold, niter, resample, augment, min_size, interpolate
            As in `segment`.
        diameter : float, optional
            Of the objects, in pixels. Default: that of the objects the model was trained on. It is not estimated here:
            `estimate_diameter` does that for a part of the image.
        normalize : "model", (low, high), Normalize99Spec or None
            As in `segment`, of the whole image, but without smoothing, sharpening and percentiles of blocks.
        max_size_fraction : float
            An object of more than this share of a tile, a plane of a stack, or the volume is dropped.
        tiles, tile_overlap, batch_size
            How the network runs within a tile, as in `segment`. Default: "large" where it can; of stacks and volumes as
            in `segment`.
        do_3D, anisotropy, flow3D_smooth
            As in `segment`.
        stitch_threshold : float, optional
            As in `segment`: the image is a stack (Z, Y, X) or of four axes, whose single planes fit in memory.
        halo : int, optional
            Pixels that a tile reads beyond what it keeps, at least; more than the longest object. Default: three
            diameters, at least 64. Not of a stack.
        tile_pixels : int, optional
            Most pixels of a tile. Default: 2.5 million, as far as the network does not see more of them than that; more
            where halos are wide. Not of a stack or a volume.
        work : str or Path, optional
            Folder where finished tiles or planes are kept until the run succeeds, about a byte per pixel; with `do_3D`
            28 bytes per voxel and 4 per channel, 16 more if the flow is smoothed, and more if the volume is resized.
            Default: for a path, ``<sink>.progress``; for an array a temporary one, so that an interrupted run begins
            anew.
        progress : callable, optional
            Called with the numbers of finished and of all tiles, planes, or steps with `do_3D`, after each.

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
        from cellrt.flow_large import LargeFlow  # here: most users never need it

        flow_decoding.check_options(do_3D, stitch_threshold, flow3D_smooth)
        if tiles is None and not do_3D and stitch_threshold is None:
            tiles = "upstream" if augment or self.head.fixed_tile else "large"
        option = self._option(
            self.head.diam_labels if diameter is None else diameter,
            tiles,
            tile_overlap,
            batch_size,
            resample=resample,
            augment=augment,
            threads=self._threads,
            do_3D=do_3D,
            anisotropy=anisotropy,
        )
        decoding: dict[str, Any] = {
            "flow_threshold": flow_threshold,
            "cellprob_threshold": cellprob_threshold,
            "niter": niter,
            "min_size": min_size,
            "max_size_fraction": max_size_fraction,
            "interpolate": interpolate,
        }
        flow_decoding.check((4, 1, 1, 1) if do_3D else (3, 1, 1), self.head, **decoding)
        numbers = self._numbers(channels)
        large = LargeFlow(
            self.manifest,
            self.head,
            self._runner,
            self._network,
            axes=axes,
            numbers=numbers,
            choose=partial(
                cellpose_channels, channels=numbers, n_channels=self.manifest.input.n_channels, pair=self._pair
            ),
            normalize=self._normalization(normalize, invert),
            option=option,
            decoding=decoding,
            work=work,
            progress=progress,
        )
        if stitch_threshold is not None:
            return large.stack(source, sink, stitch_threshold, halo=halo, tile_pixels=tile_pixels)
        if do_3D:
            return large.volume(source, sink, flow3D_smooth, halo=halo, tile_pixels=tile_pixels)
        return large.image(source, sink, halo=halo, tile_pixels=tile_pixels)

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
        tile_overlap: float = OVERLAP,
        batch_size: int = 4,
        do_3D: bool = False,
        stack: bool = False,
        anisotropy: float | None = None,
    ) -> FlowMaps:
        """Run the network on one image; parameters and errors as in `segment`.

        With ``stack=True`` the image is a volume whose planes are looked at one by one.
        """
        option = self._option(
            diameter,
            tiles,
            tile_overlap,
            batch_size,
            resample=resample,
            augment=augment,
            threads=self._threads,
            do_3D=do_3D,
            stack=stack,
            anisotropy=anisotropy,
        )
        pixels = (as_volume if option.is_volume else as_image)(image, axes, None, n_channels=None)
        ready = self._ready(pixels, self._numbers(channels), self._normalization(normalize, invert), self._threads)
        maps = complete(self._runner.work(ready, option, lambda maps: Found(None, maps)), self._network).maps
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
        tile_overlap: float = OVERLAP,
        batch_size: int = 4,
        do_3D: bool = False,
        stitch_threshold: float | None = None,
        anisotropy: float | None = None,
        flow3D_smooth: Smoothing = 0,
    ) -> Route:
        """How the images of a stream go; the options of `segment`."""
        flow_decoding.check_options(do_3D, stitch_threshold, flow3D_smooth)
        option = self._option(
            diameter,
            tiles,
            tile_overlap,
            batch_size,
            resample=resample,
            augment=augment,
            threads=1,
            do_3D=do_3D,
            stack=stitch_threshold is not None,
            anisotropy=anisotropy,
        )
        spec, numbers = self._normalization(normalize, invert), self._numbers(channels)
        decoding: dict[str, Any] = {
            "flow_threshold": flow_threshold,
            "cellprob_threshold": cellprob_threshold,
            "niter": niter,
            "min_size": min_size,
            "max_size_fraction": max_size_fraction,
            "interpolate": interpolate,
            "stitch_threshold": stitch_threshold,
            "flow3D_smooth": flow3D_smooth,
        }
        sides = (4, 1, 1, 1) if do_3D else (3, 1, 1, 1) if option.is_volume else (3, 1, 1)
        flow_decoding.check(sides, self.head, **decoding)

        def found(maps: FlowMaps) -> Found:
            return Found(flow_decoding.decode(maps, self.head, threads=1, **decoding), maps)

        return Route(
            axes,
            partial(as_volume if option.is_volume else as_image, channels=None, n_channels=None),
            lambda pixels: self._runner.work(self._ready(pixels, numbers, spec, threads=1), option, found),
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
        stitch_threshold: float | None = None,
        flow3D_smooth: Smoothing = 0,
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
            Follow the flow between pixels. False (Cellpose 1 to 3 only, no `do_3D`): in steps from pixel to pixel.
        stitch_threshold : float, optional
            As in `segment`; for maps of a stack, and only for those.
        flow3D_smooth : float or three of them
            As in `segment`; for maps of ``do_3D=True``.
        """
        return flow_decoding.decode(
            maps,
            self.head,
            flow_threshold=flow_threshold,
            cellprob_threshold=cellprob_threshold,
            niter=niter,
            min_size=min_size,
            max_size_fraction=max_size_fraction,
            interpolate=interpolate,
            stitch_threshold=stitch_threshold,
            flow3D_smooth=flow3D_smooth,
            threads=self._threads,
        )

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
            None, "upstream", OVERLAP, batch_size, resample=False, augment=augment, threads=self._threads
        )
        pixels = as_image(image, axes, None, n_channels=None)
        ready = self._ready(pixels, self._numbers(channels), self._normalization(normalize, invert), self._threads)
        sizes = complete(self._runner.sized(ready, option, lambda *sizes: Found(None, sizes)), self._network).maps
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

    @property
    def _runner(self) -> FlowRunner:
        """What brings images through the network."""
        tile, n_channels = self.manifest.tile, self.manifest.input.n_channels
        return FlowRunner(self.head, n_channels=n_channels, multiple=pair(tile.multiple), memory=self._memory)

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
        do_3D: bool = False,
        stack: bool = False,
        anisotropy: float | None = None,
    ) -> Run:
        """Options of `predict`, checked."""
        if do_3D and stack:
            raise CellrtError("expected do_3D=True or stack=True, got both; choose one")
        if anisotropy is not None and not do_3D:
            raise CellrtError(f"expected anisotropy with do_3D=True only, got {anisotropy!r}; leave it out")
        usual = "upstream" if augment else self.head.tiles
        run = Run(
            diameter=None if diameter is None else _positive(diameter),
            resample=self.head.resample if resample is None else resample,
            augment=augment,
            tiles=usual if tiles is None else tiles,
            overlap=overlap,
            batch_size=batch_size,
            threads=threads,
            do_3D=bool(do_3D),
            stack=bool(stack),
            anisotropy=flow_volume.checked_anisotropy(anisotropy),
        )
        run.check(self.head)
        return run

    def _numbers(self, channels: Sequence[int] | None) -> tuple[int, ...] | None:
        """Channels by Cellpose's numbers, checked."""
        return None if channels is None else cellpose_numbers(channels, self.manifest.input.n_channels, self._pair)

    def _ready(
        self, image: NDArray[Any], channels: tuple[int, ...] | None, spec: Normalize99Spec | None, threads: int
    ) -> NDArray[np.float32]:
        """The channels that the network gets of an image (C, Y, X) or volume, normalised; float32, of as many axes."""
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


def _positive(diameter: Any) -> float:
    """The diameter, if it is one."""
    if isinstance(diameter, bool) or not isinstance(diameter, (int, float, np.number)) or not 0 < diameter < math.inf:
        raise CellrtError(
            f"expected diameter as a positive number of pixels, or None to have it estimated, got {diameter!r}"
        )
    return float(diameter)
