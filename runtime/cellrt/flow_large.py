"""A flow model's ways through images larger than memory: tile by tile, plane by plane, and in three dimensions.

What `FlowModel.segment_large` was asked for becomes what the rooms of `large` take. Knows heads, runs of the network
and their maps; nothing of files, tiles and seams.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellrt import flow_decoding
from cellrt.errors import CellrtError
from cellrt.flow_work import FlowMaps, FlowRunner, Run
from cellrt.heads import flow_3d
from cellrt.heads.flow_3d import Smoothing
from cellrt.instances import Instances
from cellrt.large import flow, flow_masks, flow_volume
from cellrt.large.planes import Plane
from cellrt.large.result import LargeInstances
from cellrt.large.source import TILE_PIXELS, Sliceable, refuse_tiles, require_tile_pixels
from cellrt.manifest import FlowSpec, Manifest, Normalize99Spec
from cellrt.pool import Found, Network, Work, complete


@dataclass(frozen=True, eq=False)
class LargeFlow:
    """What all ways have in common; options are those of `FlowModel.segment_large`, checked."""

    manifest: Manifest
    head: FlowSpec
    runner: FlowRunner
    network: Network
    axes: str | None
    numbers: tuple[int, ...] | None
    """channels by Cellpose's numbers"""
    choose: Callable[[NDArray[Any]], NDArray[np.float32]]
    """which takes them"""
    normalize: Normalize99Spec | None
    option: Run
    """with a diameter"""
    decoding: Mapping[str, Any]
    """options of `flow_decoding.decode`"""
    work: str | Path | None
    progress: Callable[[int, int], None] | None

    def image(self, source: Sliceable, sink: Any, *, halo: int | None, tile_pixels: int | None) -> LargeInstances:
        """An image, tile by tile."""
        halo, rescale = self._halo(halo), self.runner.rescale(self._diameter)
        most = max(int(TILE_PIXELS / max(1.0, float(rescale) ** 2)), (4 * halo) ** 2)

        def decode(pixels: NDArray[np.float32]) -> Instances:
            maps = complete(self._begin(pixels), self.network).maps
            assert isinstance(maps, FlowMaps)
            return flow_decoding.decode(maps, self.head, threads=self.option.threads, **self.decoding)

        return flow.segment(
            source,
            sink,
            manifest=self.manifest,
            choose=self.choose,
            decode=decode,
            run=flow.FlowRun(
                axes=self.axes,
                normalize=self.normalize,
                rescale=rescale,
                halo=halo,
                tile_pixels=most if tile_pixels is None else require_tile_pixels(tile_pixels, most),
                threads=self.option.threads,
                options=self._options() | {"decoding": self.decoding},
            ),
            work=self.work,
            progress=self.progress,
        )

    def stack(
        self, source: Sliceable, sink: Any, threshold: float, *, halo: int | None, tile_pixels: int | None
    ) -> LargeInstances:
        """A stack, plane by plane."""
        refuse_tiles(halo=halo, tile_pixels=tile_pixels)

        def end(plane: Work, least: int) -> Plane:
            found = plane.finish()
            assert isinstance(found, Found)
            options = {**self.decoding, "min_size": least}
            labels, probability = flow_decoding.decode_plane(
                found.maps, self.head, threads=self.option.threads, **options
            )
            return Plane(labels, probability=probability)

        return flow.segment_stack(
            source,
            sink,
            manifest=self.manifest,
            choose=self.choose,
            begin=self._begin,
            end=end,
            network=self.network,
            threshold=float(threshold),
            min_size=self._min_size,
            dynamics=self.head.dynamics,
            run=flow.StackRun(
                axes=self.axes,
                normalize=self.normalize,
                threads=self.option.threads,
                options=self._options() | {"decoding": self.decoding},
            ),
            work=self.work,
            progress=self.progress,
        )

    def volume(
        self, source: Sliceable, sink: Any, smoothing: Smoothing, *, halo: int | None, tile_pixels: int | None
    ) -> LargeInstances:
        """A volume, with flows along three axes."""
        if tile_pixels is not None:
            raise CellrtError(f"expected no tile_pixels with do_3D=True, got {tile_pixels!r}; leave it out")
        option, limit = self.option, self.decoding["cellprob_threshold"]

        def network(planes: NDArray[np.float32]) -> NDArray[np.float32]:
            maps: NDArray[np.float32] = complete(self.runner.planes_work(planes, option), self.network).maps
            return maps

        return flow_volume.segment(
            source,
            sink,
            manifest=self.manifest,
            choose=self.choose,
            network=network,
            run=flow_volume.VolumeRun(
                axes=self.axes,
                normalize=self.normalize,
                rescaled=lambda shape: self.runner.volume_shape(shape, option),
                resample=option.resample,
                flow_smooth=flow_3d.checked_smoothing(smoothing),
                decoding=flow_masks.Decoding(
                    steps=self.decoding["niter"] or self.runner.steps(self.runner.rescale(self._diameter), option),
                    cellprob_threshold=float(self.head.cellprob_threshold if limit is None else limit),
                    min_size=self._min_size,
                    max_size_fraction=float(self.decoding["max_size_fraction"]),
                    dynamics=self.head.dynamics,
                    reach=math.ceil(self._diameter if option.resample else self.head.diam_mean),
                    longest=self._halo(halo),
                    threads=option.threads,
                ),
                threads=option.threads,
                options=self._options(),
            ),
            work=self.work,
            progress=self.progress,
        )

    @property
    def _diameter(self) -> float:
        """Of the objects, in pixels of the image."""
        assert self.option.diameter is not None  # it is not estimated here
        return self.option.diameter

    @property
    def _min_size(self) -> int:
        """Pixels or voxels that an object must have."""
        min_size = self.decoding["min_size"]
        return self.head.min_size if min_size is None else int(min_size)

    def _halo(self, halo: int | None) -> int:
        """As asked for, or wide enough for usual objects."""
        if halo is None:
            return max(64, math.ceil(3 * self._diameter))
        if isinstance(halo, bool) or not isinstance(halo, (int, np.integer)) or halo < 0:
            raise CellrtError(f"expected halo as a whole number of pixels, got {halo!r}")
        return int(halo)

    def _begin(self, pixels: NDArray[np.float32]) -> Work:
        """A normalised image on its way to its maps."""
        return self.runner.work(pixels, self.option, lambda maps: Found(None, maps))

    def _options(self) -> dict[str, Any]:
        """What the maps depend on, as JSON has it."""
        network = {name: value for name, value in asdict(self.option).items() if name not in ("threads", "batch_size")}
        return {"channels": self.numbers, "network": network}
