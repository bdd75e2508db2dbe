"""Cellpose's `_seg.npy`: a pickled dict of masks, outlines and flows, which its program opens for correction by hand.

The keys and shapes are those of Cellpose's `masks_flows_to_seg` and of its graphical program, 3.1 and 4.2. The file
holds plain arrays, lists, strings and numbers, under names that every version of NumPy has. `seg_file.read_seg` reads
it back, also after somebody worked on it.
"""

from __future__ import annotations

import os
import pickle
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from cellrt import kernels
from cellrt.write.contours import contours

# The first entry of the dict, as it is pickled: Cellpose's program leaves it out when it saves a corrected file, which
# is somebody's work then and no longer a result to be replaced.
SEG_MARK = b"\x8c\x08software\x94\x8c\x06cellrt\x94"
_PROTOCOL = 4  # the mark is of this one; Python 3.4 and later read it
_NO_FLOWS: list[Any] = [[], [], [], [], [[]]]  # what the program itself begins with


def write_seg(
    labels: NDArray[np.int32],
    maps: NDArray[np.float32] | None,
    *,
    channels: tuple[int, int],
    diameter: float | None,
    source: str | os.PathLike[str] | None,
    file: BinaryIO,
) -> None:
    """Write the file.

    Parameters
    ----------
    labels : int32 (Y, X) or (Z, Y, X)
        Of a volume the outlines are those of its planes, as the program draws them.
    maps : float32 (3, y, x), optional
        Flow along y and x and the cell logit, at the resolution of the labels or another; of an image. Without them
        the program shows no flows and cannot apply other thresholds.
    channels : (int, int)
        Cellpose's numbers of the channels that were segmented.
    diameter : float, optional
        Of the objects, pixels.
    source : path, optional
        The image, which the program opens with the file.
    file : binary file
    """
    n = int(labels.max(initial=0))
    dtype = np.uint16 if n < np.iinfo(np.uint16).max else np.uint32  # where the program changes over
    outlines = np.zeros(labels.shape, dtype)
    height, width = labels.shape[-2:]
    for outlined, plane in zip(outlines.reshape(-1, height, width), labels.reshape(-1, height, width), strict=True):
        rows, columns = contours(plane)[0].T
        outlined[rows, columns] = plane[rows, columns]
    content = {
        "software": "cellrt",
        "outlines": outlines,
        "masks": labels.astype(dtype),
        "chan_choose": list(channels),
        "ismanual": np.zeros(n, bool),
        "filename": "" if source is None else os.path.abspath(source),
        "flows": _NO_FLOWS if maps is None else _flows(maps, (height, width)),
        "diameter": float("nan") if diameter is None else float(diameter),
    }
    whole = np.empty((), object)
    whole[()] = content
    header = {"descr": "|O", "fortran_order": False, "shape": ()}
    np.lib.format.write_array_header_1_0(file, header)
    _Pickler(file, _PROTOCOL).dump(whole)


class _Pickler(pickle.Pickler):
    """Pickles arrays without the name of a function that NumPy 1 and 2 have in different places."""

    def reducer_override(self, value: Any) -> Any:
        """An array as an empty one that is then filled."""
        if type(value) is np.ndarray:
            state = value.__reduce__()[2]
            return np.ndarray, ((0,), "b"), state
        return NotImplemented


def _flows(maps: NDArray[np.float32], shape: tuple[int, int]) -> list[Any]:
    """The program's five entries.

    0 and 1 are pictures of the flow and of the logit. 2 and 3 are flow and logit where Cellpose 4 looks for them when
    a threshold is changed (Cellpose's own command leaves nothing there), 4 is both together where Cellpose 1 to 3 do.
    """
    if maps.shape[1:] != shape:
        maps = kernels.resize_linear(np.ascontiguousarray(maps), out_shape=shape, single_precision=False, threads=1)
    flow, logit = maps[:2], maps[2]
    logit_picture = (_stretched(logit) * 255).astype(np.uint8)
    return [_flow_picture(flow)[np.newaxis], logit_picture[np.newaxis], flow[np.newaxis], logit[np.newaxis], maps]


def _flow_picture(flow: NDArray[np.float32]) -> NDArray[np.uint8]:
    """(2, Y, X) -> uint8 (Y, X, 3): the direction is the hue, the length the brightness."""
    half = _stretched(np.sqrt(np.sum(flow**2, axis=0))) * 255 / 2
    angle = np.arctan2(flow[1], flow[0]) + np.float32(np.pi)
    picture = np.empty((*half.shape, 3), np.uint8)
    for channel in range(3):
        picture[..., channel] = np.clip(half * (np.cos(angle + 2 * channel * np.pi / 3) + 1), 0, 255)
    return picture


def _stretched(plane: NDArray[np.float32]) -> NDArray[np.float32]:
    """The plane with its percentiles 1 and 99 at 0 and 1, and clipped there; 0 if it is nearly constant."""
    low, high = kernels.percentiles(plane[np.newaxis], np.array([1.0, 99.0]), threads=1).astype(np.float32)
    if high - low <= np.float32(1e-3):
        return np.zeros_like(plane)
    stretched: NDArray[np.float32] = np.clip((plane - low) / (high - low), 0, 1)
    return stretched
