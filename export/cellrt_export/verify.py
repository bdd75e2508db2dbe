"""The same input through the original and through an exported file: the table of differences.

Passes the door: an exported file and a .npz that was recorded with the original program. For star models two kinds are
understood, by their keys: `image`, `net_prob`, `net_dist` (what the Keras network gave for the padded image), or `norm`
(or `image`), `prob`, `dist` (what StarDist's `predict` gave: cropped, lengths of at least 1e-3). Optional:
`net_prob_class` or `prob_class`. Images are ([Z,] Y, X) or ([Z,] Y, X, C) and already normalised. For flow models, what
the network of Cellpose was given and gave: `net_input` (N, C, Y, X), `net_maps` (N, 3, Y, X), optional `net_style`
(N, S).
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cellrt.errors import FileError, ModelError
from cellrt.manifest import METADATA_KEY, Manifest, Star3DSpec, StarSpec
from cellrt.session import Session

# Largest differences that float32 arithmetic in another order explains; classes are probabilities too.
PROB_TOLERANCE = 1e-5
DIST_TOLERANCE = 1e-3  # pixels
FLOW_TOLERANCE = 1e-4  # of flows and logits, whose magnitude is about 5
STYLE_TOLERANCE = 1e-5  # of vectors of length 1
_LEAST_DIST = 1e-3  # StarDist's `predict` clips lengths there

Arrays = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Difference:
    """How far one kind of map is from the recorded one."""

    maps: str  # "prob", "dist", "prob_class"; "maps", "style"
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
        A file that ``cellrt export`` wrote.
    recorded : path
        A .npz; see the module's first lines for its keys.

    Returns
    -------
    list of Difference
        For prob, dist and, if recorded, prob_class; of a flow model for maps and, if recorded, style.

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
    if isinstance(manifest.head, StarSpec | Star3DSpec):
        return _verify_star(session, manifest, manifest.head, arrays, recorded)
    return _verify_flow(session, manifest, arrays, recorded)


def _verify_star(
    session: Session, manifest: Manifest, head: StarSpec | Star3DSpec, arrays: Arrays, recorded: str | Path
) -> list[Difference]:
    """Compare probabilities and lengths."""
    raw = "net_prob" in arrays
    prefix = "net_" if raw else ""
    image = arrays.get("norm", arrays.get("image"))
    keys = [f"{prefix}{key}" for key in ("prob", "dist", "prob_class")]
    if image is None or keys[0] not in arrays or keys[1] not in arrays:
        raise ModelError(
            f"expected image (or norm), prob and dist in {recorded}, got {', '.join(sorted(arrays))}; "
            "save what StarDist's predict gives with numpy.savez"
        )
    maps = np.moveaxis(session.run(_as_input(image, manifest))["maps"][0], 0, -1)

    first_class = 1 + head.n_rays
    parts = (maps[..., 0], maps[..., 1:first_class], maps[..., first_class:])
    tolerances = (PROB_TOLERANCE, DIST_TOLERANCE, PROB_TOLERANCE)
    differences = []
    for key, ours, tolerance in zip(keys, parts, tolerances, strict=True):
        if key not in arrays:
            continue
        theirs = arrays[key]
        ours = ours[tuple(slice(side) for side in theirs.shape[: len(head.grid)])]
        _require_shape(key, ours, theirs, recorded)
        if key == "dist":
            ours, theirs = np.maximum(ours, _LEAST_DIST), np.maximum(theirs, _LEAST_DIST)
        differences.append(Difference(key.removeprefix("net_"), _largest(ours, theirs), tolerance))
    return differences


def _verify_flow(session: Session, manifest: Manifest, arrays: Arrays, recorded: str | Path) -> list[Difference]:
    """Compare maps and styles."""
    image = arrays.get("net_input")
    if image is None or "net_maps" not in arrays:
        raise ModelError(
            f"expected net_input and net_maps in {recorded}, got {', '.join(sorted(arrays))}; save a batch and what "
            "the network of a CellposeModel gives for it with numpy.savez"
        )
    if image.ndim != 4 or image.shape[1] != manifest.input.n_channels:
        raise ModelError(
            f"expected net_input (N, C, Y, X) with {manifest.input.n_channels} channels, got {image.shape}; record a "
            "batch that fits the model"
        )
    outputs = session.run(np.ascontiguousarray(image, np.float32))
    differences = []
    for key, tolerance in (("maps", FLOW_TOLERANCE), ("style", STYLE_TOLERANCE)):
        if key in outputs and f"net_{key}" in arrays:
            theirs = arrays[f"net_{key}"]
            _require_shape(f"net_{key}", outputs[key], theirs, recorded)
            differences.append(Difference(key, _largest(outputs[key], theirs), tolerance))
    return differences


def _require_shape(key: str, ours: NDArray[np.float32], theirs: NDArray[np.float32], recorded: str | Path) -> None:
    """Refuse maps of another model or image."""
    if ours.shape != theirs.shape:
        raise ModelError(
            f"expected {key} of shape {ours.shape} in {recorded}, got {theirs.shape}; record this model's maps"
        )


def _largest(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> float:
    """The largest difference; NaN if there is one."""
    return float(np.abs(ours.astype(np.float64) - theirs).max(initial=0))


def _load(path: Path) -> Arrays:
    """The arrays of a .npz, none of them pickled."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return {key: file[key] for key in file.files if file[key].dtype.kind in "fiu"}
    except FileNotFoundError:
        raise FileError(f"expected a .npz at {path}, got no such file; check the path") from None
    except (OSError, ValueError, AttributeError, zipfile.BadZipFile) as error:
        raise FileError(f"expected a .npz at {path}, got something else ({error}); save it with numpy.savez") from error


def _as_input(image: NDArray[np.float32], manifest: Manifest) -> NDArray[np.float32]:
    """([Z,] Y, X[, C]) -> (1, C, [Z,] Y, X), padded at the end of each axis by reflection, as StarDist does."""
    axes = manifest.input.axes
    channels = image[..., None] if image.ndim == len(axes) else image
    if channels.ndim != len(axes) + 1 or channels.shape[-1] != manifest.input.n_channels:
        sides = ", ".join(axes)
        raise ModelError(
            f"expected an image ({sides}) or ({sides}, C) with {manifest.input.n_channels} channels, got "
            f"{image.shape}; record one that fits the model"
        )
    pads = [(0, -size % step) for size, step in zip(channels.shape, manifest.tile.multiple, strict=False)]
    padded = np.pad(channels, [*pads, (0, 0)], mode="reflect")
    return np.ascontiguousarray(np.moveaxis(padded, -1, 0)[None], np.float32)
