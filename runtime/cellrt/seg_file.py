"""Cellpose's `_seg.npy` files: the masks that its program saved, with or without corrections by hand.

Reads what Cellpose 1 to 4 and `cellrt.write` make. Nothing in the file is run: see `safe_pickle`.

    seg = read_seg("cell_seg.npy")
    seg.labels                             # int32 (Y, X) or (Z, Y, X), numbered with gaps where masks were deleted
    cells = cellrt.heads.flow.from_labels(seg.labels, seg.labels.max())
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellrt.errors import FileError
from cellrt.safe_pickle import RefusedPickle, load_npy

SUFFIX = "_seg.npy"


@dataclass(frozen=True, eq=False)
class SegFile:
    """What a `_seg.npy` file holds; arrays are read-only.

    Attributes
    ----------
    labels : int32 (Y, X) or (Z, Y, X)
        0 is background; the numbers may have gaps.
    outlines : int32 of the same shape, or None
        The labels on the outermost pixels of each, 0 elsewhere; None where the file lists points instead, as the first
        versions of Cellpose did.
    is_manual : bool (n,)
        Whether each label was drawn by hand; of the n labels that the file tells it of.
    filename : str
        The image's path where the file was made; "" if it does not tell.
    diameter : float or None
        Of the objects, pixels.
    maps : float32 (3, y, x) or None
        Flow along y and x and the cell logit, as `FlowMaps.maps`; None if the file has none, or a volume's.
    """

    labels: NDArray[np.int32]
    outlines: NDArray[np.int32] | None
    is_manual: NDArray[np.bool_]
    filename: str
    diameter: float | None
    maps: NDArray[np.float32] | None

    def __repr__(self) -> str:
        sides, unit = " x ".join(map(str, self.labels.shape)), "voxels" if self.labels.ndim == 3 else "pixels"
        n = np.count_nonzero(np.unique(self.labels))
        return f"SegFile({n} masks in {sides} {unit} of {self.filename!r})"


def read_seg(path: str | Path) -> SegFile:
    """Read a `_seg.npy` file.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    SegFile

    Raises
    ------
    FileError
        If the file cannot be read, is truncated, holds anything but plain data, or has no masks of an image or volume.
    """
    try:
        content = load_npy(path)
    except OSError as error:
        raise FileError(
            f"expected a file of Cellpose, got {path}: {error.strerror or error}; check the path"
        ) from error
    except RefusedPickle as error:
        raise FileError(
            f"expected a _seg.npy file of Cellpose, got {path}: {error}; save it again with Cellpose or cellrt"
        ) from error
    if not isinstance(content, dict) or "masks" not in content:
        what = f"one with {', '.join(map(str, content))[:80] or 'nothing'}" if isinstance(content, dict) else "another"
        raise FileError(
            f"expected a dict with 'masks' in a _seg.npy file of Cellpose, got {what} in {path}; name such a file"
        )
    labels = _labels(content["masks"], "masks", path)
    outlines = _labels(content["outlines"], "outlines", path) if _is_array(content.get("outlines")) else None
    if outlines is not None and outlines.shape != labels.shape:
        raise FileError(
            f"expected outlines of shape {labels.shape} as the masks' in {path}, got {outlines.shape}; save it again "
            "with Cellpose"
        )
    filename, diameter = content.get("filename"), content.get("diameter")
    is_manual = np.asarray(content.get("ismanual", ()))
    return SegFile(
        labels=labels,
        outlines=outlines,
        is_manual=is_manual.astype(bool) if is_manual.ndim == 1 and is_manual.dtype.kind in "bi" else np.zeros(0, bool),
        filename=filename if isinstance(filename, str) else "",
        diameter=float(diameter) if isinstance(diameter, int | float | np.floating) and diameter > 0 else None,
        maps=_maps(content.get("flows")),
    )


def _is_array(value: object) -> bool:
    """Whether it is one."""
    return isinstance(value, np.ndarray)


def _labels(array: Any, name: str, path: str | Path) -> NDArray[np.int32]:
    """Masks or outlines as int32 (Y, X) or (Z, Y, X)."""
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "iu" or array.size == 0:
        got = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
        raise FileError(f"expected {name} as a label image in {path}, got {got}; save it again with Cellpose")
    plane = array[0] if array.ndim == 3 and len(array) == 1 else array
    if plane.ndim not in (2, 3):
        raise FileError(
            f"expected {name} (Y, X) or (Z, Y, X) in {path}, got shape {array.shape}; save it again with Cellpose"
        )
    low, high = int(plane.min()), int(plane.max())
    if low == -1:  # files of the first versions count from there
        plane, low, high = plane.astype(np.int64) + 1, 0, high + 1
    if low < 0 or high > np.iinfo(np.int32).max:
        raise FileError(
            f"expected {name} from 0 to {np.iinfo(np.int32).max} in {path}, got {low} to {high}; number them again"
        )
    labels = plane.astype(np.int32, order="C")
    labels.flags.writeable = False
    return labels


def _maps(flows: Any) -> NDArray[np.float32] | None:
    """Flow and logit out of the entries of `flows`: together in the fifth, or apart in the third and fourth."""
    if not isinstance(flows, list):
        return None
    entries = [flow if isinstance(flow, np.ndarray) and flow.dtype.kind == "f" else np.zeros(0) for flow in flows]
    if len(entries) > 4 and entries[4].ndim == 3 and len(entries[4]) == 3:
        maps = entries[4]
    elif len(entries) > 3 and entries[2].ndim == 4 and entries[2].shape[:2] == (1, 2):
        if entries[3].shape != (1, *entries[2].shape[2:]):
            return None
        maps = np.concatenate([entries[2][0], entries[3]])
    else:
        return None
    plain: NDArray[np.float32] = np.ascontiguousarray(maps, np.float32)
    plain.flags.writeable = False
    return plain
