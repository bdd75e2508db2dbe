"""Arrays that need not fit in memory: large ones are in a file that goes away with them."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from cellrt.errors import FileError
from cellrt.memory import written

_HELD = 1 << 27  # bytes: larger arrays are on disk
_PIECE = 1 << 24  # bytes that are written at once


def scratch(shape: tuple[int, ...], dtype: DTypeLike, folder: Path) -> NDArray[Any]:
    """An array of any content; above `_HELD` in a nameless file in a folder, mapped into memory.

    Raises `FileError` if there is no room for it.
    """
    n_bytes = math.prod(shape) * np.dtype(dtype).itemsize
    if n_bytes <= _HELD:
        return np.empty(shape, dtype)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            # A full disk is found here: later, when pages of the map are written, it would end the process.
            for begin in range(0, n_bytes, _PIECE):
                file.write(bytes(min(_PIECE, n_bytes - begin)))
            file.flush()
            return np.memmap(file, dtype, "r+", shape=shape)
    except OSError as error:
        raise FileError(
            f"expected {written(n_bytes)} of space in {folder}, got: {error.strerror or error}; free space there or "
            "choose another folder with work="
        ) from error
