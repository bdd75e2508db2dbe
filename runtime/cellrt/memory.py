"""How much memory segmenting may take: "500MB" -> bytes, and a limit -> pixels that the network may read at once.

The formula, in bytes, for a process that does nothing else:

    BASE + weights + what the image needs + bytes per pixel of the network * pixels that it reads at once <= limit

BASE and weights are measured; a model's file says the last two factors (`MemorySpec`), and the models, which know their
images, the third term. Nothing here looks at the machine or the process: tiles depend on the limit, the model and the
image alone, and so do the cells. Knows numbers; never arrays, sessions or tiles.
"""

from __future__ import annotations

import numbers
import re
from dataclasses import dataclass
from typing import Self

from cellrt.errors import CellrtError
from cellrt.manifest import MemorySpec

# Python, numpy, the kernels and ONNX Runtime after a first run, on Linux: 72 MB; and readers of image files.
BASE = 85_000_000
# Of files that do not say it. A convolution's weights stay in memory three times: as read, unpacked, and in blocks.
_WEIGHTS_PER_BYTE = 3
_BYTES_PER_PIXEL = {"star": 320.0, "flow": 700.0, "star3d": 500.0}  # networks of the usual width

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30}
_WRITTEN = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([kmgt]|[kmg]i)?(b?)\s*", re.IGNORECASE)


def parse(memory: int | str) -> int:
    """Bytes that a number or a text such as "500MB", "1.5 GB", "800 MiB" means.

    Raises `CellrtError` for anything else. MB are 10^6 bytes, MiB 2^20.
    """
    size = 0.0
    if isinstance(memory, numbers.Integral) and not isinstance(memory, bool):
        size = int(memory)
    elif isinstance(memory, str) and (found := _WRITTEN.fullmatch(memory)):
        number, unit, _ = found.groups()
        size = float(number) * _UNITS[(unit or "").lower()]
    if not 1 <= size < 1 << 60:
        raise CellrtError(f"expected memory as bytes or a text such as '500MB', '1.5GB' or '800MiB', got {memory!r}")
    return int(size)


def written(size: float) -> str:
    """Bytes as people write them, rounded up to whole MB: "312 MB"."""
    return f"{-(-int(size) // 1_000_000)} MB"


@dataclass(frozen=True)
class MemoryLimit:
    """How much memory a process may hold while a model segments."""

    total: int
    """bytes"""
    fixed: int
    """bytes, once the model is open"""
    bytes_per_pixel: float
    """of what the network reads at once"""

    @classmethod
    def of(cls, memory: int | str, spec: MemorySpec | None, *, kind: str, n_bytes: int) -> Self:
        """The limit of a model: what its file says, or if it is of an older cellrt, what its kind and size suggest.

        Parameters
        ----------
        memory : int or str
            As in `parse`.
        spec : MemorySpec, optional
            Of the file.
        kind : "star", "flow" or "star3d"
        n_bytes : int
            Of the file, and of weights beside it.
        """
        weights = _WEIGHTS_PER_BYTE * n_bytes if spec is None else spec.weights
        per_pixel = _BYTES_PER_PIXEL[kind] if spec is None else spec.bytes_per_pixel
        return cls(parse(memory), BASE + weights, per_pixel)

    def pixels(self, image: int) -> int:
        """How many pixels the network may read at once, beside `image` bytes that the image needs; 0 or less: none."""
        return int((self.total - self.fixed - image) // self.bytes_per_pixel)

    def tile_pixels(self, image: int, *, least: int, most: int) -> int:
        """How many pixels a tile may read: as many as `pixels` says, within `least` and `most`.

        Smaller tiles than `least` are of no use. Where the limit does not allow them, `require` is there to say so.
        """
        return min(most, max(self.pixels(image), least))

    def require(self, pixels: int, image: int, advice: str) -> None:
        """Raise `CellrtError`, with the least that would do, unless the network may read that many pixels at once."""
        if pixels > self.pixels(image):
            least = self.fixed + image + self.bytes_per_pixel * pixels
            raise CellrtError(
                f"expected a memory limit of at least {written(least)} for this, got {written(self.total)}; {advice}"
            )
