"""Cellpose's size model, a dict that `numpy.save` pickled -> `SizeModelSpec`; nothing in the file is run.

Not here: estimating diameters, which is the runtime's.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cellrt.errors import FileError, ModelError
from cellrt.manifest import SizeModelSpec
from cellrt.safe_pickle import RefusedPickle, load_npy

_KEYS = ("A", "smean", "diam_mean", "ymean")  # weights, mean style, diameter in pixels, offset
_MOST_BYTES = 1 << 24  # of the file: a thousand times what it needs
_ADVICE = "use the *_size.npy that Cellpose wrote beside these weights"


def read(path: str | Path, *, n_style: int) -> SizeModelSpec:
    """Read a size model.

    Parameters
    ----------
    path : path
        The `*_size.npy` that Cellpose 1 to 3 keeps beside the weights of a network.
    n_style : int
        Values of the network's style.

    Returns
    -------
    SizeModelSpec

    Raises
    ------
    FileError
        If the file cannot be read.
    ModelError
        If it is truncated, asks for anything but numbers, or does not fit the network.
    """
    path = Path(path)
    try:
        n_bytes = path.stat().st_size
        if n_bytes > _MOST_BYTES:
            raise ModelError(f"expected a size model in {path.name}, got a file of {n_bytes:,} bytes; {_ADVICE}")
        content = load_npy(path)
    except RefusedPickle as error:
        raise ModelError(
            f"expected a size model in {path.name}, got a file that is none: {error}; {_ADVICE}"
        ) from error
    except OSError as error:
        reason = error.strerror or error
        raise FileError(f"expected to read {path}, got {reason}; check the path and its permissions") from error
    if not isinstance(content, dict) or not all(key in content for key in _KEYS):
        keys = [str(key)[:40] for key in content] if isinstance(content, dict) else []
        got = f"a dict of {', '.join(keys[:8]) or 'nothing'}" if isinstance(content, dict) else type(content).__name__
        raise ModelError(f"expected {', '.join(_KEYS)} in {path.name}, got {got}; {_ADVICE}")
    sizes = {"A": n_style, "smean": n_style, "diam_mean": 1, "ymean": 1}
    values = {key: _numbers(content[key], key, sizes[key], path.name) for key in _KEYS}
    return SizeModelSpec(
        weights=tuple(values["A"].tolist()),
        style_mean=tuple(values["smean"].tolist()),
        diam_mean=float(values["diam_mean"][0]),
        offset=float(values["ymean"][0]),
    )


def _numbers(value: object, key: str, size: int, name: str) -> NDArray[np.float64]:
    """As many finite numbers; a number stands for one."""
    # not lists: what refers to itself a few times over becomes an array of any size
    numbers = np.asarray(value if isinstance(value, int | float | np.generic | np.ndarray) else None)
    if numbers.dtype.kind not in "fiu" or numbers.size != size:
        count = f"{size} numbers, one per value of the style," if key in ("A", "smean") else "one number"
        got = f"{numbers.size}" if numbers.dtype.kind in "fiu" else type(value).__name__
        raise ModelError(f"expected {count} as {key} in {name}, got {got}; {_ADVICE}")
    numbers = numbers.astype(np.float64).reshape(-1)
    if not np.isfinite(numbers).all():
        raise ModelError(f"expected finite numbers as {key} in {name}, got NaN or infinity; {_ADVICE}")
    return numbers
