"""Pickled objects without pickle: what `numpy.save` made of a dict is read, and nothing in the file is ever called.

A pickle is a program for a small stack machine, one of whose instructions imports any function and another calls it.
Here is such a machine that knows neither: of the names in the program it only takes those by which NumPy describes
arrays, scalars and dtypes, and builds these itself. Anything else is refused.

Takes a path; gives dicts, lists, tuples, strings, numbers and arrays of numbers. Knows nothing of what they mean.
"""

from __future__ import annotations

import math
import mmap
import pickletools
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
from numpy.typing import NDArray

_DEPTH = 32  # of containers in each other: real files have five
_DTYPE = re.compile(r"b1|i[1248]|u[1248]|f[248]|[SU][1-9][0-9]{0,8}|O8?")
_DAMAGED = "it is truncated or damaged"
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_VALUES = {  # instructions whose argument is the value
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "SHORT_BINBYTES", "BINBYTES", "BINBYTES8"),
}
_ARRAY_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray")  # of NumPy 1 and 2


_T = TypeVar("_T")


class RefusedPickle(ValueError):
    """The file is truncated, damaged, or holds more than plain data; the text says what, in a few words."""


def load_npy(path: str | Path) -> object:
    """Read the object that ``numpy.save(path, object)`` wrote, without running anything that the file holds.

    Parameters
    ----------
    path : str or Path
        A .npy file with one Python object in it (an object array without axes, as `numpy.save` makes of a dict).

    Returns
    -------
    object
        Made of dicts, lists, tuples, strings, bytes, numbers, None, numpy scalars and arrays. File paths become
        strings. The arrays are read-only.

    Raises
    ------
    RefusedPickle
        If the file is no such file, is truncated, or asks for anything else. The caller knows what the file should
        have been and says so: "expected ..., got `path`: `error`; ...".
    OSError
        If the file cannot be read.
    """
    with Path(path).open("rb") as file:
        try:
            _check_header(file)
            # mapped: reading from a map never makes room for more bytes than there are, whatever a length in it says
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                content.seek(file.tell())
                whole = _resolve(_Machine().run(content), {}, 0)
        except (RefusedPickle, OSError):
            raise
        except Exception as error:  # damage shows as anything: ValueError, IndexError, TypeError, MemoryError, ...
            raise RefusedPickle(_DAMAGED) from error
    if not isinstance(whole, np.ndarray) or whole.shape != () or whole.dtype != object:
        raise RefusedPickle(_DAMAGED)
    return whole.item()


def _check_header(file: BinaryIO) -> None:
    """Read the header of a .npy file, and refuse arrays."""
    if file.read(6) != b"\x93NUMPY":
        raise RefusedPickle("it is no .npy file")
    file.seek(0)
    version = np.lib.format.read_magic(file)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read_header(file)
    if dtype != np.dtype(object) or shape != ():
        raise RefusedPickle(f"it holds an array of {dtype} and shape {shape}, not a Python object")


@dataclass(frozen=True)
class _Name:
    """What the pickle calls by module and name."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"[:80]


class _Mark:
    """The place in the stack that a tuple, list or dict begins at."""


_MARK = _Mark()


class _Dtype:
    """A dtype that is being described: by its code, then by its byte order."""

    def __init__(self, code: object, *_: object) -> None:
        if not isinstance(code, str) or not _DTYPE.fullmatch(code):
            raise RefusedPickle(f"it asks for the dtype {str(code)[:40]!r}")
        self.dtype: np.dtype[Any] = np.dtype(code)

    def set_state(self, state: Any) -> None:
        """(version, byte order, subdtype, names, fields, ...): of plain dtypes the order is all that is left open."""
        _, order, *structure = state
        if any(part is not None for part in structure[:3]) or order not in ("<", ">", "=", "|"):
            raise RefusedPickle("it asks for a structured dtype")
        self.dtype = self.dtype.newbyteorder(order)


class _Array:
    """An array that is being described: first nothing is known of it, then all at once."""

    def __init__(self, *_: object) -> None:  # the arguments stand for an array of no values
        self.state: tuple[tuple[int, ...], np.dtype[Any], bool, Any] | None = None

    def set_state(self, state: Any) -> None:
        """(version, shape, dtype, whether in Fortran's order, bytes or objects)."""
        _, shape, dtype, fortran, data = state
        if not isinstance(dtype, _Dtype) or not all(type(side) is int and side >= 0 for side in shape):
            raise RefusedPickle(_DAMAGED)
        self.state = tuple(shape), dtype.dtype, bool(fortran), data

    def values(self, resolve: Callable[[Any], Any]) -> NDArray[Any]:
        """The array; `resolve` makes values of the objects in it."""
        if self.state is None:
            raise RefusedPickle(_DAMAGED)
        shape, dtype, fortran, data = self.state
        if dtype.hasobject:
            if not isinstance(data, list) or len(data) != math.prod(shape):
                raise RefusedPickle(_DAMAGED)
            objects = np.empty(len(data), object)
            for index, value in enumerate(data):
                objects[index] = resolve(value)
            return _shaped(objects, shape, fortran=False)  # a list of objects is in C's order always
        if not isinstance(data, bytes) or len(data) != math.prod(shape) * dtype.itemsize:
            raise RefusedPickle(_DAMAGED)
        return _shaped(np.frombuffer(data, dtype), shape, fortran=fortran)


def _shaped(values: NDArray[Any], shape: tuple[int, ...], *, fortran: bool) -> NDArray[Any]:
    """The values as an array of this shape, read-only."""
    array: NDArray[Any] = values.reshape(shape[::-1]).T if fortran else values.reshape(shape)
    array.flags.writeable = False
    return array


def _scalar(dtype: object, data: object) -> Any:
    """A numpy scalar from its dtype and bytes."""
    if not isinstance(dtype, _Dtype) or dtype.dtype.hasobject or not isinstance(data, bytes):
        raise RefusedPickle(_DAMAGED)
    return np.frombuffer(data, dtype.dtype, 1)[0]


def _latin1(text: object = "", encoding: object = "latin1") -> bytes:
    """Bytes, as protocol 2 writes them."""
    if not isinstance(text, str) or encoding != "latin1":
        raise RefusedPickle(_DAMAGED)
    return text.encode("latin1")


def _path(*parts: object) -> str:
    """A path as a string."""
    if not all(isinstance(part, str) for part in parts):
        raise RefusedPickle(_DAMAGED)
    return str(Path(*map(str, parts)))


_BUILDERS: dict[_Name, Callable[..., Any]] = {
    _Name("numpy", "dtype"): _Dtype,
    _Name("numpy", "ndarray"): _Array,  # also an argument of _reconstruct
    _Name("_codecs", "encode"): _latin1,
    _Name("__builtin__", "bytes"): _latin1,  # only called without arguments, for no bytes
    **{_Name(module, "_reconstruct"): _Array for module in _ARRAY_MODULES},
    **{_Name(module, "scalar"): _scalar for module in _ARRAY_MODULES},
    **{
        _Name(module, name): _path
        for module in ("pathlib", "pathlib._local")
        for name in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")
    },
}


class _Machine:
    """The stack and the memo of the pickle machine."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self, content: Any) -> Any:
        """The object that the instructions leave."""
        for opcode, argument, _ in pickletools.genops(content):
            if opcode.name in _VALUES:
                self.stack.append(argument)
            elif opcode.name in _CONSTANTS:
                self.stack.append(_CONSTANTS[opcode.name])
            else:
                self.step(opcode.name, argument)
        (whole,) = self.stack
        return whole

    def step(self, name: str, argument: Any) -> None:
        """Carry out an instruction."""
        match name:
            case "PROTO" | "FRAME" | "STOP":
                pass
            case "MARK":
                self.stack.append(_MARK)
            case "POP":
                self.stack.pop()
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = self.stack[-1]
            case "MEMOIZE":
                self.memo[len(self.memo)] = self.stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                self.stack.append(self.memo[argument])
            case "EMPTY_LIST":
                self.stack.append([])
            case "EMPTY_TUPLE":
                self.stack.append(())
            case "EMPTY_DICT":
                self.stack.append({})
            case "LIST":
                self.stack.append(self.group())
            case "TUPLE":
                self.stack.append(tuple(self.group()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                self.stack.append(tuple(self.take(int(name[-1]))))
            case "DICT":
                self.stack.append(_set_items({}, self.group()))
            case "APPEND" | "APPENDS":
                values = self.take(1) if name == "APPEND" else self.group()
                _of_type(list, self.stack[-1]).extend(values)
            case "SETITEM" | "SETITEMS":
                values = self.take(2) if name == "SETITEM" else self.group()
                _set_items(_of_type(dict, self.stack[-1]), values)
            case "GLOBAL":
                self.stack.append(_known(_Name(*argument.split(" ", 1))))
            case "STACK_GLOBAL":
                self.stack.append(_known(_Name(*self.take(2))))
            case "REDUCE":
                called, arguments = self.take(2)
                self.stack.append(_BUILDERS[_of_type(_Name, called)](*_of_type(tuple, arguments)))
            case "BUILD":
                described, state = self.take(2)
                if not isinstance(described, _Array | _Dtype):
                    raise RefusedPickle(_DAMAGED)
                described.set_state(_of_type(tuple, state))
                self.stack.append(described)
            case _:
                raise RefusedPickle(f"it uses the instruction {name}, which plain data does not need")

    def group(self) -> list[Any]:
        """Take what was put down since the last mark."""
        begin = len(self.stack) - 1
        while self.stack[begin] is not _MARK:
            begin -= 1
            if begin < 0:
                raise RefusedPickle(_DAMAGED)
        values = self.stack[begin + 1 :]
        del self.stack[begin:]
        return values

    def take(self, count: int) -> list[Any]:
        """Take the last values."""
        values = self.stack[-count:]
        if len(values) < count or any(value is _MARK for value in values):
            raise RefusedPickle(_DAMAGED)
        del self.stack[-count:]
        return values


def _known(asked: _Name) -> _Name:
    """The name, if it is one of those that describe plain data."""
    if asked not in _BUILDERS:
        raise RefusedPickle(f"it asks for {asked}")
    return asked


def _of_type(wanted: type[_T], value: object) -> _T:
    """The value, if it is of this type."""
    if type(value) is not wanted:
        raise RefusedPickle(_DAMAGED)
    return value


def _set_items(items: dict[Any, Any], values: list[Any]) -> dict[Any, Any]:
    """The dict, with keys and values that take turns put into it."""
    for key, value in zip(values[::2], values[1::2], strict=True):
        if type(key) not in (str, bytes, int, float, bool, type(None)):
            raise RefusedPickle("it has a dict whose keys are neither strings nor numbers")
        items[key] = value
    return items


def _resolve(value: Any, done: dict[int, Any], depth: int) -> Any:
    """Containers with arrays in the place of their descriptions; `done` holds those that occur several times."""
    if depth > _DEPTH:
        raise RefusedPickle("its containers lie too deep in each other")
    if not isinstance(value, dict | list | tuple | _Array):
        if isinstance(value, _Name | _Dtype | _Mark):
            raise RefusedPickle(_DAMAGED)
        return value
    if id(value) in done:
        return done[id(value)]

    def resolve(item: Any) -> Any:
        return _resolve(item, done, depth + 1)

    result: Any
    if isinstance(value, dict):
        result = {key: resolve(item) for key, item in value.items()}
    elif isinstance(value, list):
        result = [resolve(item) for item in value]
    elif isinstance(value, tuple):
        result = tuple(map(resolve, value))
    else:
        result = value.values(resolve)
    done[id(value)] = result
    return result
