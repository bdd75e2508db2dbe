"""What every door to native code needs: the modules themselves, checks of arguments, statuses as errors."""

from __future__ import annotations

import _thread
import contextlib
import operator
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

from cellrt.errors import CellrtError, DataError, KernelError

try:
    from cellrt import _engine, _kernels
    from cellrt._kernels import (
        DYNAMICS_V3,
        DYNAMICS_V4,
        ERROR_ARGUMENT,
        ERROR_CANCELLED,
        ERROR_CAPACITY,
        ERROR_DATA,
        ERROR_INTERNAL,
        ERROR_MEMORY,
    )
except ImportError as error:
    raise CellrtError(
        f"expected the native modules of cellrt in {Path(__file__).parents[1]}, got: {error}. Reinstall with "
        "`pip install --force-reinstall cellrt`; in a source checkout run `make build`."
    ) from error

T = TypeVar("T")

__all__ = [
    "ERROR_ARGUMENT",
    "ERROR_CANCELLED",
    "ERROR_CAPACITY",
    "ERROR_DATA",
    "ERROR_INTERNAL",
    "ERROR_MEMORY",
    "MAX_COUNT",
    "MAX_INT32",
    "MAX_INT64",
    "MAX_SIDE",
    "_engine",
    "_kernels",
    "cancellable",
    "check_array",
    "check_labels_status",
    "check_status",
    "dynamics_number",
    "pair",
    "stopped_by",
    "thread_count",
    "triple",
    "whole_number",
]

# The limits of the C interface (csrc/include/cellrt.h).
MAX_SIDE = 2**30
MAX_COUNT = 2**40
MAX_INT32 = 2**31 - 1
MAX_INT64 = 2**63 - 1
_DYNAMICS = {"v3": DYNAMICS_V3, "v4": DYNAMICS_V4}
_LOOK = 0.05  # seconds between two looks at whether Python has a signal to handle
_LONGEST_END = 5.0  # seconds that a call may take to end when its flag is set

_of_thread = threading.local()


@contextlib.contextmanager
def stopped_by(flag: NDArray[np.int32]) -> Iterator[None]:
    """Let long calls of this thread end, with `ERROR_CANCELLED`, soon after ``flag[0]`` is set from another one."""
    _of_thread.flag = flag
    try:
        yield
    finally:
        del _of_thread.flag


def cancellable(call: Callable[[NDArray[np.int32]], T]) -> T:
    """Make a long call with the flag that stops it.

    On Python's main thread, which alone handles signals, the call runs on a thread of its own, and what a signal's
    handler raises (Ctrl-C) sets the flag; elsewhere it is that of `stopped_by`.
    """
    flag = getattr(_of_thread, "flag", None)
    if flag is not None or threading.current_thread() is not threading.main_thread():
        return call(np.zeros(1, np.int32) if flag is None else flag)
    flag, done = np.zeros(1, np.int32), _thread.allocate_lock()
    results: list[T] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            results.append(call(flag))
        except BaseException as error:
            errors.append(error)
        finally:
            done.release()

    done.acquire()
    try:
        # Not of `threading`: a signal while that starts a thread can leave a lock behind that the thread waits for.
        try:
            _thread.start_new_thread(work, ())
        except RuntimeError:  # no thread to be had, or Python is about to end: without Ctrl-C, then
            done.release()  # nobody else will
            return call(flag)
        while not done.acquire(timeout=_LOOK):
            pass
    except BaseException:
        flag[0] = 1
        if not results and not errors:
            done.acquire(timeout=_LONGEST_END)
        raise
    if results:
        return results[0]
    try:
        raise errors[0]
    finally:
        errors.clear()  # the error's traceback leads back here, and to all arrays


def check_array(name: str, array: NDArray[Any], dtype: DTypeLike, shape: tuple[int, ...] | None) -> None:
    """Refuse anything but a contiguous array of the dtype and shape (-1: any length; None: any shape)."""
    dtype = np.dtype(dtype)
    if not isinstance(array, np.ndarray) or array.dtype != dtype:
        got = getattr(array, "dtype", type(array).__name__)
        raise KernelError(
            f"expected {name} as a {dtype} array, got {got!s}: use numpy.asarray({name}, ...)", ERROR_ARGUMENT
        )
    if shape is not None and (
        array.ndim != len(shape) or any(n not in (-1, m) for n, m in zip(shape, array.shape, strict=True))
    ):
        wanted = tuple("any" if n == -1 else n for n in shape)
        raise KernelError(f"expected {name} of shape {wanted}, got {array.shape}", ERROR_ARGUMENT)
    if not array.flags.c_contiguous:
        raise KernelError(
            f"expected {name} contiguous, got strides {array.strides}: use numpy.ascontiguousarray", ERROR_ARGUMENT
        )


def thread_count(threads: int) -> int:
    """The number of threads, if it is one; 0 is every usable core."""
    return whole_number("threads", threads, 0, MAX_INT32)


def whole_number(name: str, value: int, low: int, high: int) -> int:
    """The value, if it is a whole number that the C interface can take."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or not low <= number <= high:
        raise KernelError(f"expected {name} to be a whole number from {low} to {high}, got {value!r}", ERROR_ARGUMENT)
    return number


def pair(name: str, values: tuple[int, int], low: int, high: int) -> tuple[int, int]:
    """The values (y, x), if they are whole numbers that the C interface can take."""
    try:
        y, x = values
    except (TypeError, ValueError):
        raise KernelError(f"expected {name} to be two numbers (y, x), got {values!r}", ERROR_ARGUMENT) from None
    return whole_number(f"{name}[0]", y, low, high), whole_number(f"{name}[1]", x, low, high)


def triple(name: str, values: tuple[int, int, int], low: int, high: int) -> tuple[int, int, int]:
    """The values (z, y, x), if they are whole numbers that the C interface can take."""
    try:
        z, y, x = values
    except (TypeError, ValueError):
        raise KernelError(f"expected {name} to be three numbers (z, y, x), got {values!r}", ERROR_ARGUMENT) from None
    return (
        whole_number(f"{name}[0]", z, low, high),
        whole_number(f"{name}[1]", y, low, high),
        whole_number(f"{name}[2]", x, low, high),
    )


def dynamics_number(dynamics: str) -> int:
    """The number of a dialect of Cellpose."""
    if dynamics not in _DYNAMICS:
        raise KernelError(f"expected dynamics to be one of {', '.join(_DYNAMICS)}, got {dynamics!r}", ERROR_ARGUMENT)
    return _DYNAMICS[dynamics]


def check_labels_status(status: int, function: str, labels: NDArray[np.int32], n_labels: int) -> None:
    """`check_status` of a function for which labels beyond `n_labels` are an error."""
    if status == ERROR_ARGUMENT and labels.size:
        raise KernelError(f"expected labels in 0..{n_labels}, got {labels.min()} to {labels.max()}", status)
    check_status(status, function, "finite flows inside labels, got NaN or infinity")


def check_status(status: int, function: str, expected: str) -> None:
    """Turn a status that is not 0 into an error; `expected` says what the data should have been."""
    if status == _kernels.OK:
        return
    if status == ERROR_DATA:
        raise DataError(f"{function}: expected {expected}", status)
    raise KernelError(f"{function}: {_kernels.status_text(status)} (status {status})", status)
