"""The same input through the original and through an exported file: the table of differences.

Passes the door: an exported file and a .npz that was recorded with the original program. Two kinds are understood,
by their keys: `image`, `net_prob`, `net_dist` (what the Keras network gave for the padded image), or `norm` (or
`image`), `prob`, `dist` (what `StarDist2D.predict` gave: cropped, lengths of at least 1e-3). Optional: `net_prob_class`
or `prob_class`. Images are (Y, X) or (Y, X, C) and already normalised.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cellrt.errors import FileError, ModelError
from cellrt.manifest import METADATA_KEY, Manifest
from cellrt.session import Session

# Largest differences that float32 arithmetic in another order explains; classes are probabilities too.
PROB_TOLERANCE = 1e-5
DIST_TOLERANCE = 1e-3  # pixels
_LEAST_DIST = 1e-3  # StarDist's `predict` clips lengths there


@dataclass(frozen=True)
class Difference:
    """How far one kind of map is from the recorded one."""

    maps: str  # "prob", "dist" or "prob_class"
    largest: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether float32 rounding explains it."""
        return self.largest <= self.tolerance

    def __str__(self) -> str:
        verdict = "ok" if self.passed else "DIFFERS"
        return f"{self.maps:<16} largest difference {self.largest:.2g} (tolerance {self.tolerance:g}): {verdict}"


def verify(model: str | Path | bytes, recorded: str | Path) -> list[Difference]:
    """Compare an exported file with what the original program answered.

    Parameters
    ----------
    model : path or bytes
        A file that `cellrt export stardist` wrote.
    recorded : path
        A .npz; see the module's first lines for its keys.

    Returns
    -------
    list of Difference
        For prob, dist and, if recorded, prob_class.

    Raises
    ------
    FileError, ModelError
        If a file cannot be read, or lacks the keys or has maps of another shape.
    """
    session = Session(model, providers=["cpu"])
    if METADATA_KEY not in session.metadata:
        raise ModelError("expected a file with cellrt's manifest, got one without; export it with: cellrt export")
    manifest = Manifest.from_json(session.metadata[METADATA_KEY])
    arrays = _load(Path(recorded))
    raw = "net_prob" in arrays
    prefix = "net_" if raw else ""
    image = arrays.get("norm", arrays.get("image"))
    keys = [f"{prefix}{key}" for key in ("prob", "dist", "prob_class")]
    if image is None or keys[0] not in arrays or keys[1] not in arrays:
        raise ModelError(
            f"expected image (or norm), prob and dist in {recorded}, got {', '.join(sorted(arrays))}; "
            "save what StarDist2D.predict gives with numpy.savez"
        )
    maps = session.run(_as_input(image, manifest))["maps"][0].transpose(1, 2, 0)

    first_class = 1 + manifest.head.n_rays
    parts = (maps[..., 0], maps[..., 1:first_class], maps[..., first_class:])
    tolerances = (PROB_TOLERANCE, DIST_TOLERANCE, PROB_TOLERANCE)
    differences = []
    for key, ours, tolerance in zip(keys, parts, tolerances, strict=True):
        if key not in arrays:
            continue
        theirs = arrays[key]
        ours = ours[: theirs.shape[0], : theirs.shape[1]]
        if ours.shape != theirs.shape:
            raise ModelError(
                f"expected {key} of shape {ours.shape} in {recorded}, got {theirs.shape}; record this model's maps"
            )
        if key == "dist":
            ours, theirs = np.maximum(ours, _LEAST_DIST), np.maximum(theirs, _LEAST_DIST)
        largest = float(np.abs(ours.astype(np.float64) - theirs).max(initial=0))
        differences.append(Difference(key.removeprefix("net_"), largest, tolerance))
    return differences


def _load(path: Path) -> Mapping[str, NDArray[np.float32]]:
    """The arrays of a .npz, none of them pickled."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return {key: file[key] for key in file.files if file[key].dtype.kind in "fiu"}
    except FileNotFoundError:
        raise FileError(f"expected a .npz at {path}, got no such file; check the path") from None
    except (OSError, ValueError, AttributeError, zipfile.BadZipFile) as error:
        raise FileError(f"expected a .npz at {path}, got something else ({error}); save it with numpy.savez") from error


def _as_input(image: NDArray[np.float32], manifest: Manifest) -> NDArray[np.float32]:
    """(Y, X[, C]) -> (1, C, Y, X), padded at the end of each axis by reflection to a legal size, as StarDist does."""
    channels = image[..., None] if image.ndim == 2 else image
    if channels.ndim != 3 or channels.shape[2] != manifest.input.n_channels:
        raise ModelError(
            f"expected an image (Y, X) or (Y, X, C) with {manifest.input.n_channels} channels, got {image.shape}; "
            "record one that fits the model"
        )
    pads = [(0, -size % step) for size, step in zip(channels.shape, manifest.tile.multiple, strict=False)]
    padded = np.pad(channels, [*pads, (0, 0)], mode="reflect")
    return np.ascontiguousarray(padded.transpose(2, 0, 1)[None], np.float32)
