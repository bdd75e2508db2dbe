"""The errors of cellrt.

Every error that a user can cause is a `CellrtError`. A message reads "expected X, got Y" and ends with what to do.
"""


class CellrtError(ValueError):
    """Something about the input, the model or the installation that the message says how to mend."""


class ModelError(CellrtError):
    """A model file or folder cannot be used: truncated, foreign, from a newer cellrt, or of an unsupported kind."""


class ImageError(CellrtError):
    """An image cannot be used: wrong rank, axes or channels, no pixels, no contrast, NaN or infinite values."""


class FileError(CellrtError):
    """A file or folder cannot be read or written."""


class KernelError(CellrtError):
    """A native kernel refused its input; `status` is the C interface's code."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class DataError(KernelError):
    """Values that a kernel cannot use: NaN, infinity, or ray lengths beyond 2^20 pixels."""


class CapacityError(KernelError):
    """A limit on candidates or on work was reached: more candidates than the cap, or more pairs than allowed."""


class ProviderError(CellrtError):
    """ONNX Runtime is missing, or an execution provider that was asked for is not available."""
