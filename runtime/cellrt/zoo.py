"""A zoo of models: the one whose training images are closest in style to an image (Cellpose 2.0's model zoo).

The style vector of an image says what kind it is of: the same network, run on images of one microscope and kind of
cell, gives vectors that lie together (Pachitariu and Stringer, Nature Methods 2022). A zoo holds models with styles of
images that each is good at, all measured by one network, and picks by the vote of the nearest.

    zoo = cellrt.zoo.Zoo(cellrt.load("cyto.onnx"))
    zoo.add("tissue", cellrt.load("tn1.onnx"), tissue_images, channels=(1, 2))
    zoo.add("phase", cellrt.load("lc2.onnx"), phase_images, channels=(0, 0))
    name = zoo.closest(image, channels=(0, 0))
    cells = zoo.models[name].segment(image, channels=(0, 0))
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cellrt.errors import CellrtError
from cellrt.flow_model import FlowModel

N_NEAREST = 5  # as many vote as in the paper's classifier


class Zoo:
    """Models, and what the images look like that each is for.

    Parameters
    ----------
    reader : FlowModel
        The network that measures styles: a generalist with a style output. It need not be one of the zoo's.

    Attributes
    ----------
    models : dict of str to FlowModel
    styles : dict of str to float32 (k, n)
        Styles of k images for each model, each of length 1.
    """

    def __init__(self, reader: FlowModel) -> None:
        if not reader.head.n_style:
            raise CellrtError("expected a network with a style output, got one without; use a model of Cellpose 1 to 3")
        self._reader = reader
        self.models: dict[str, FlowModel] = {}
        self.styles: dict[str, NDArray[np.float32]] = {}

    def add(
        self,
        name: str,
        model: FlowModel,
        images: Iterable[ArrayLike] = (),
        *,
        styles: ArrayLike | None = None,
        axes: str | None = None,
        channels: Sequence[int] | None = None,
        diameter: float | None = None,
    ) -> None:
        """Add a model with images that it is good at, or with their styles as `styles` of a zoo gave them.

        Parameters
        ----------
        name : str
            What `closest` calls it.
        model : FlowModel
        images : iterable of array
            A few are enough, better of different days; `axes`, `channels` and `diameter` as in `FlowModel.segment`.
        styles : float (k, n), optional
            Instead of images.
        """
        if name in self.models:
            raise CellrtError(f"expected a new name, got {name!r}, which the zoo has; choose another")
        if styles is None:
            styles = [self._reader.style(one, axes=axes, channels=channels, diameter=diameter) for one in images]
        self.styles[name] = self._directions(styles)
        self.models[name] = model

    def closest(
        self,
        image: ArrayLike,
        *,
        axes: str | None = None,
        channels: Sequence[int] | None = None,
        diameter: float | None = None,
    ) -> str:
        """The name of the model whose images are closest in style to this one; parameters as in `FlowModel.segment`."""
        return self.closest_to_style(self._reader.style(image, axes=axes, channels=channels, diameter=diameter))

    def closest_to_style(self, style: NDArray[np.float32]) -> str:
        """The same for a style vector (n,): the vote of the five nearest, between equals the nearest one's.

        Distances are Euclidean between vectors of length 1.
        """
        if not self.models:
            raise CellrtError("expected a zoo with models, got an empty one; add some")
        (direction,) = self._directions([style])
        names = [name for name, vectors in self.styles.items() for _ in vectors]
        vectors = np.concatenate(list(self.styles.values()))
        distances = np.linalg.norm(vectors - direction, axis=1)
        nearest = [names[index] for index in np.argsort(distances, kind="stable")[:N_NEAREST]]
        winner: str = max(nearest, key=lambda name: (nearest.count(name), -nearest.index(name)))
        return winner

    def _directions(self, styles: ArrayLike) -> NDArray[np.float32]:
        """Styles (k, n) of length 1, or an error that says what they are not."""
        n_style = self._reader.head.n_style
        try:
            vectors = np.asarray(styles, np.float32)
        except (TypeError, ValueError) as error:
            raise CellrtError(f"expected styles of shape (k, {n_style}), got something else: {error}") from None
        if vectors.ndim != 2 or vectors.shape[1] != n_style or len(vectors) == 0:
            raise CellrtError(
                f"expected images, or styles of shape (k, {n_style}), got {vectors.shape}; give at least one"
            )
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        if not (np.isfinite(lengths).all() and lengths.all()):
            raise CellrtError("expected finite styles other than 0, got others; check the images that they are of")
        directions: NDArray[np.float32] = vectors / lengths
        return directions
