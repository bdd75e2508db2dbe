"""Model: open a model file, and run an image through the rooms in order.

`Model.segment` is the table of contents of this package: image, normalise, (resize,) tile, session, head.
"""

from __future__ import annotations

import numbers
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cellrt import selftest
from cellrt.errors import CellrtError, ImageError, ModelError
from cellrt.heads import star
from cellrt.image import as_image
from cellrt.instances import Instances
from cellrt.manifest import METADATA_KEY, Manifest, PercentileSpec
from cellrt.normalize import normalize as normalize_image
from cellrt.resize import zoom_linear
from cellrt.session import Session
from cellrt.stitch import place
from cellrt.tile import Tile, padded, plan

# A full-width StarDist network needs about 0.25 kB per pixel that it reads at once: 1.1 GB. Smaller tiles need less
# memory, but compute their halos more often.
MAX_TILE_PIXELS = 4_400_000
MAX_SCALED_PIXELS = 1 << 28  # 1 GB of float32 per channel

Normalize = PercentileSpec | tuple[float, float] | Literal["model"] | None


def bundled_models() -> dict[str, Path]:
    """Names and files of the models that ship with cellrt."""
    return {path.stem: path for path in sorted((Path(__file__).parent / "models").glob("*.onnx"))}


def load(model: str | Path | bytes, *, providers: Sequence[str] | None = None, threads: int | None = None) -> Model:
    """Open a model.

    Parameters
    ----------
    model : path, bytes or str
        An ONNX file written by ``cellrt export``, its content, or the name of a bundled model ("nuclei").
    providers : sequence of str, optional
        Execution providers in order of preference, such as ``["cuda", "cpu"]``; one that does not become active is an
        error. Default: CUDA where the installed ONNX Runtime has it and it works, else the CPU.
    threads : int, optional
        Threads of network and kernels together. Default: all cores that the process may use.

    Returns
    -------
    Model

    Raises
    ------
    FileError
        If there is no such file.
    ModelError
        If the file is truncated, not an ONNX model, or without cellrt's manifest.
    ProviderError
        If ONNX Runtime is not installed or a provider that was asked for is not available.
    """
    if isinstance(model, str) and not os.path.isfile(model):
        names = bundled_models()
        if model in names:
            return Model(names[model], providers=providers, threads=threads)
        if not model.endswith(".onnx"):
            raise ModelError(
                f"expected a model file or one of the bundled models ({', '.join(names) or 'none'}), got {model!r}"
            )
    return Model(model, providers=providers, threads=threads)


class Model:
    """A trained network with everything around it; `load` opens one.

    Attributes
    ----------
    manifest : Manifest
        What the file says about itself.
    providers : tuple of str
        The execution providers that are active.

    Several threads may use a model at once.
    """

    def __init__(
        self, model: bytes | str | Path, *, providers: Sequence[str] | None = None, threads: int | None = None
    ) -> None:
        self._threads = threads or 0
        self._session = Session(model, providers=providers, threads=threads)
        self.providers = self._session.providers
        source = f"{len(model)} bytes" if isinstance(model, bytes) else str(model)
        text = self._session.metadata.get(METADATA_KEY)
        if text is None:
            raise ModelError(
                f"expected an ONNX file with cellrt's manifest, got {source} without one; export it with: cellrt export"
            )
        self.manifest = Manifest.from_json(text)
        want = [self.manifest.input.n_channels, self.manifest.head.n_maps]
        got = [self._session.inputs.get("image", [])[1:2], self._session.outputs.get("maps", [])[1:2]]
        if got != [[n] for n in want]:
            raise ModelError(f"expected {want} channels of image and maps as in the manifest, got {got}; export again")

    def __repr__(self) -> str:
        return f"Model({self.manifest.name!r}, head={self.manifest.head.kind!r}, providers={list(self.providers)})"

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
    ) -> Instances:
        """Find the objects of one image.

        The cells are those of StarDist 0.9.2's `predict_instances` with its defaults (sparse mode).

        Parameters
        ----------
        image : array (Y, X), (Y, X, C) or (C, Y, X)
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

        Returns
        -------
        Instances

        Raises
        ------
        ImageError
            If the image has the wrong rank or channels, no pixels, no contrast, NaN or infinite values.
        CapacityError
            If there are too many candidates to suppress: `prob_thresh` is too low.
        """
        pixels = as_image(image, axes, channels, n_channels=self.manifest.input.n_channels)
        factors = _factors(scale, (pixels.shape[1], pixels.shape[2]))
        ready, shape = self._prepare(pixels, normalize, factors)
        head = self.manifest.head
        collector = star.Collector(
            head,
            shape=shape,
            padded=(ready.shape[1], ready.shape[2]),
            prob_thresh=head.prob_thresh if prob_thresh is None else prob_thresh,
            nms_thresh=head.nms_thresh if nms_thresh is None else nms_thresh,
            threads=self._threads,
        )
        for tile, maps in self._run(ready, tiles):
            collector.add(maps, origin=tile.origin, window=tile.window(head.grid))
        return collector.finish(out_shape=(pixels.shape[1], pixels.shape[2]), scale=(1 / factors[0], 1 / factors[1]))

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
        pixels = as_image(image, axes, channels, n_channels=self.manifest.input.n_channels)
        ready, shape = self._prepare(pixels, normalize, (1.0, 1.0))
        head = self.manifest.head
        grid_y, grid_x = head.grid
        whole = np.empty((head.n_maps, ready.shape[1] // grid_y, ready.shape[2] // grid_x), np.float32)
        for tile, maps in self._run(ready, tiles):
            place(whole, maps, tile, head.grid)
        whole = whole[:, : -(-shape[0] // grid_y), : -(-shape[1] // grid_x)]
        maps_by_name = {"prob": whole[0], "dist": whole[1 : 1 + head.n_rays]}
        if head.n_classes is not None:
            maps_by_name["class_prob"] = whole[1 + head.n_rays :]
        return maps_by_name

    def selftest(self) -> selftest.Outcome:
        """Run the manifest's self-test; raises `ModelError` if the file has none."""
        spec = self.manifest.selftest
        if spec is None:
            raise ModelError("expected a model with a self-test, got none; export it again with this cellrt")
        image = selftest.recipe(self.manifest.input.n_channels, spec.shape)
        cells = self.segment(image[0], axes="CYX", normalize=None)
        return selftest.compare(self._session.run(image)["maps"][0], cells, spec)

    def _prepare(
        self, pixels: NDArray[Any], normalize: Normalize, factors: tuple[float, float]
    ) -> tuple[NDArray[np.float32], tuple[int, int]]:
        """The network's padded input, float32 (C, Y, X), and its shape (y, x) without padding."""
        spec = self._percentiles(normalize)
        shape = (pixels.shape[1], pixels.shape[2])
        multiple = self.manifest.tile.multiple
        if factors == (1.0, 1.0):
            return normalize_image(pixels, spec, out_shape=padded(shape, multiple), threads=self._threads), shape
        scaled = zoom_linear(normalize_image(pixels, spec, out_shape=shape, threads=self._threads), factors)
        shape = (scaled.shape[1], scaled.shape[2])
        return normalize_image(scaled, None, out_shape=padded(shape, multiple), threads=self._threads), shape

    def _percentiles(self, normalize: Normalize) -> PercentileSpec | None:
        """The normalisation that an argument of `segment` asks for."""
        if normalize is None or isinstance(normalize, PercentileSpec):
            return normalize
        default = self.manifest.normalize
        if isinstance(normalize, str) and normalize == "model":
            return default
        try:
            low, high = (float(percent) for percent in normalize)
            return PercentileSpec(low=low, high=high, joint=default.joint, eps=default.eps)
        except (TypeError, ValueError):
            raise CellrtError(
                f"expected normalize to be two percentiles 0 <= low < high <= 100, None or 'model', got {normalize!r}"
            ) from None

    def _run(
        self, ready: NDArray[np.float32], tiles: tuple[int, int] | None
    ) -> Iterator[tuple[Tile, NDArray[np.float32]]]:
        """Each tile and its maps, float32 (C, y, x)."""
        spec = self.manifest.tile
        for tile in plan(
            (ready.shape[1], ready.shape[2]),
            halo=spec.halo,
            multiple=spec.multiple,
            max_pixels=MAX_TILE_PIXELS,
            tiles=tiles,
        ):
            batch = np.ascontiguousarray(ready[np.newaxis, :, slice(*tile.read_y), slice(*tile.read_x)])
            maps = self._session.run(batch)["maps"]
            head = self.manifest.head
            want = (1, head.n_maps, batch.shape[2] // head.grid[0], batch.shape[3] // head.grid[1])
            if maps.shape != want:
                raise ModelError(
                    f"expected maps of shape {want} as the manifest has it, got {maps.shape}; export the model again"
                )
            yield tile, maps[0]


def _factors(scale: float | tuple[float, float] | None, shape: tuple[int, int]) -> tuple[float, float]:
    """The factors (y, x) that `scale` asks for, checked against the image's sides."""
    if scale is None:
        return (1.0, 1.0)
    values = (scale, scale) if isinstance(scale, numbers.Real) else tuple(scale) if isinstance(scale, Iterable) else ()
    if len(values) != 2 or not all(isinstance(value, numbers.Real) and 0 < value < np.inf for value in values):
        raise CellrtError(f"expected scale to be a positive number or two of them (y, x), got {scale!r}")
    factors = (float(values[0]), float(values[1]))
    sides = [round(side * factor) for side, factor in zip(shape, factors, strict=True)]
    if min(sides) < 1 or sides[0] * sides[1] > MAX_SCALED_PIXELS:
        raise ImageError(
            f"expected a scale that leaves 1 to {MAX_SCALED_PIXELS} pixels, got {sides[0]} x {sides[1]} from "
            f"{shape[0]} x {shape[1]} times {scale}"
        )
    return factors
