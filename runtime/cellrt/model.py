"""A model: a network that is ready to run, and what its file says about it. What all kinds of models share.

`star_model` and `flow_model` hold the kinds; `catalogue.load` opens a file as the right one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cellrt import selftest
from cellrt.errors import ModelError
from cellrt.instances import Instances
from cellrt.manifest import Manifest
from cellrt.session import Session


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

    def __init__(self, session: Session, manifest: Manifest, *, threads: int) -> None:
        self._threads = threads
        self._session = session
        self.providers = session.providers
        self.manifest = manifest
        want = [manifest.input.n_channels, manifest.head.n_maps]
        got = [session.inputs.get("image", [])[1:2], session.outputs.get("maps", [])[1:2]]
        if got != [[n] for n in want]:
            raise ModelError(f"expected {want} channels of image and maps as in the manifest, got {got}; export again")

    def __repr__(self) -> str:
        kind, name = type(self).__name__, self.manifest.name
        return f"{kind}({name!r}, head={self.manifest.head.kind!r}, providers={list(self.providers)})"

    @abstractmethod
    def segment(self, image: ArrayLike, *args: Any, **options: Any) -> Instances:
        """Find the objects of one image; the options are those of `StarModel.segment` or `FlowModel.segment`."""

    @abstractmethod
    def _decode_whole(self, maps: NDArray[np.float32]) -> Instances:
        """Instances of the maps (C, Y, X) of an image that is one tile without padding."""

    def selftest(self) -> selftest.Outcome:
        """Run the manifest's self-test; raises `ModelError` if the file has none."""
        spec = self.manifest.selftest
        if spec is None:
            raise ModelError("expected a model with a self-test, got none; export it again with this cellrt")
        maps = self._run_batch(selftest.recipe(self.manifest.input.n_channels, spec.shape))["maps"][0]
        return selftest.compare(maps, self._decode_whole(maps), spec)

    def _run_batch(self, batch: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """The network's outputs by name for float32 (N, C, y, x); the shape of its maps is checked."""
        outputs = self._session.run(batch)
        head = self.manifest.head
        want = (len(batch), head.n_maps, batch.shape[2] // head.grid[0], batch.shape[3] // head.grid[1])
        if outputs["maps"].shape != want:
            raise ModelError(
                f"expected maps of shape {want} as the manifest has it, got {outputs['maps'].shape}; export again"
            )
        return outputs
