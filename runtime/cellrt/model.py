"""A model: a network that is ready to run, and what its file says about it. What all kinds of models share.

`star_model` and `flow_model` hold the kinds; `catalogue.load` opens a file as the right one.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cellrt import kernels, selftest
from cellrt.errors import ModelError
from cellrt.instances import Instances
from cellrt.manifest import Manifest
from cellrt.memory import MemoryLimit
from cellrt.session import Outputs, Session
from cellrt.stream import Route, Segmented, Stream


class Model(ABC):
    """A trained network with everything around it; `cellrt.load` opens one.

    Attributes
    ----------
    manifest : Manifest
        What the file says about itself.
    providers : tuple of str
        The execution providers that are active.

    Several threads may use a model at once.
    """

    def __init__(
        self, session: Session, manifest: Manifest, *, threads: int, memory: MemoryLimit | None = None
    ) -> None:
        self._threads = threads
        self._memory = memory
        self._session = session
        self.providers = session.providers
        self.manifest = manifest
        want = [manifest.input.n_channels, manifest.head.n_maps]
        got = [session.inputs.get("image", [])[1:2], session.outputs.get("maps", [])[1:2]]
        if got != [[n] for n in want]:
            raise ModelError(f"expected {want} channels of image and maps as in the manifest, got {got}; export again")
        if memory is not None:
            memory.require(math.prod(manifest.tile.multiple), 0, "allow more, or choose a smaller network")

    def __repr__(self) -> str:
        kind, name = type(self).__name__, self.manifest.name
        return f"{kind}({name!r}, head={self.manifest.head.kind!r}, providers={list(self.providers)})"

    @abstractmethod
    def segment(self, image: ArrayLike, *args: Any, **options: Any) -> Instances:
        """Find the objects of one image; the options are those of `StarModel.segment` or `FlowModel.segment`."""

    def stream(
        self,
        images: Iterable[Any],
        *,
        in_flight: int | None = None,
        workers: int | None = None,
        ordered: bool = True,
        write: Callable[[Segmented], None] | None = None,
        **options: Any,
    ) -> Stream:
        """Find the objects of many images, one after the other, while others are read, decoded and written.

        The cells are those of `segment` with the same options.

        Parameters
        ----------
        images : iterable
            Arrays; paths of image files; or functions without parameters that give an array, or an array and its axes
            (a letter each). Taken one by one as they are needed, by other threads, one at a time.
        in_flight : int, optional
            Images that may be on their way at once, those that wait for you included. They bound the memory: of each
            there are its pixels, what the network sees, its results. Beside images above 64 megapixels together
            (channels added up) no other is begun, whatever this says. Default: twice the workers and 2; with a limit
            of memory, which counts one image, 1.
        workers : int, optional
            Threads that read, normalise, decode and write beside the one that runs the network. Default: as many as
            the model has, 2 to 8. One alone cannot decode while it waits for a slow iterable.
        ordered : bool
            Give results in the order of the images; False: as they are done.
        write : callable, optional
            Called in a worker with each result that has instances, before you get it: write files there, and they are
            written while the network works. What it raises becomes the image's error.
        **options
            Those of `segment`. `axes` is for arrays: files and functions may know better.

        Returns
        -------
        Stream
            An iterator over `Segmented`. An image that fails is one with an `error`, and the others go on. What the
            iterable itself raises is raised after the results before it. Leaving a `with` block, `close()` or letting
            go of the iterator ends all threads.

        Raises
        ------
        CellrtError
            If an option is out of range.
        """
        if workers is None:
            workers = min(8, max(2, self._threads or kernels.usable_cores()))
        if in_flight is None:
            in_flight = 2 * workers + 2 if self._memory is None else 1
        return Stream(
            images,
            self._streaming(**options),
            self._network,
            in_flight=in_flight,
            workers=workers,
            ordered=ordered,
            write=write,
        )

    @abstractmethod
    def _streaming(self, *args: Any, **options: Any) -> Route:
        """How the images of a stream go, with the options of `segment`, which are checked here."""

    @abstractmethod
    def _decode_whole(self, maps: NDArray[np.float32]) -> Instances:
        """Instances of the maps (C, [Z,] Y, X) of an image that is one tile without padding."""

    def release(self) -> None:
        """Give the memory that the network's last run needed back to the system.

        It is kept for the next run, so that images of one shape are segmented faster. Call this before a long pause.
        """
        self._session.release()

    def selftest(self) -> selftest.Outcome:
        """Run the manifest's self-test; raises `ModelError` if the file has none."""
        spec = self.manifest.selftest
        if spec is None:
            raise ModelError("expected a model with a self-test, got none; export it again with this cellrt")
        maps = self._network(selftest.recipe(self.manifest.input.n_channels, spec.shape))["maps"][0]
        return selftest.compare(maps, self._decode_whole(maps), spec)

    def _network(self, batch: NDArray[np.float32]) -> Outputs:
        """The network's outputs by name for float32 (N, C, [z,] y, x); the shape of its maps is checked."""
        outputs = self._session.run(batch)
        head = self.manifest.head
        samples = (side // step for side, step in zip(batch.shape[2:], head.grid, strict=True))
        want = (len(batch), head.n_maps, *samples)
        if outputs["maps"].shape != want:
            raise ModelError(
                f"expected maps of shape {want} as the manifest has it, got {outputs['maps'].shape}; export again"
            )
        return outputs
