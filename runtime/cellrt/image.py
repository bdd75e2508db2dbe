"""Any array -> (C, Y, X) or (C, Z, Y, X): axes, channels and dtypes sorted out at the first door.

The result is a view of the array wherever that is possible: nothing is copied for interleaved, transposed, strided,
read-only or memory-mapped pixels. Knows axis letters and channels; never models.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cellrt.errors import ImageError

_AXES = "TZCSYX"  # S: samples of a pixel (RGB), the same as C here
_DROPPED = "1"  # stands for an axis of length 1 beside one that has the same meaning
_DTYPES = "biuf"  # kinds of dtype: bool, signed, unsigned, floating
_MOST_CHANNELS = 10  # of an image whose axes are guessed without knowing how many channels are wanted
_ADVICE_FOR_PLANES = "name the axes of a stack (axes=, --axes), or use a model for single planes"


def as_image(
    array: ArrayLike, axes: str | None = None, channels: int | Sequence[int] | None = None, *, n_channels: int | None
) -> NDArray[Any]:
    """View an array as (C, Y, X) with the channels that a network takes.

    Parameters
    ----------
    array : array of numbers
        YX, YXC, CYX or, with `axes`, any order; further axes must have length 1.
    axes : str, optional
        A letter per axis out of T, Z, C (or S), Y, X. Default: YX; with three axes the one that has `n_channels`
        entries is C, the last before the first; with `channels` the shorter of the last and the first.
    channels : int or sequence of int, optional
        Which channels to take, in order. Default: all.
    n_channels : int or None
        How many channels the network takes; None: as many as the image has, the shorter of the last and the first axis
        being C.

    Returns
    -------
    array (C, Y, X)
        Native byte order, aligned; bool becomes uint8 and float16 float32, other dtypes stay.

    Raises
    ------
    ImageError
        If the array has no pixels, the wrong rank or channels, or no numeric dtype.
    """
    pixels = np.asarray(array)
    letters = axes_of(pixels, axes, channels, n_channels=n_channels)
    return _in_order("CYX", pixels, letters, channels, n_channels=n_channels, given=axes)


def as_volume(
    array: ArrayLike, axes: str | None = None, channels: int | Sequence[int] | None = None, *, n_channels: int | None
) -> NDArray[Any]:
    """View an array as (C, Z, Y, X) with the channels that a network takes.

    Parameters
    ----------
    array : array of numbers
        ZYX, ZYXC, CZYX, ZCYX or, with `axes`, any order; further axes must have length 1.
    axes : str, optional
        As of `as_image`, Z among them. Default: ZYX; with four axes the one that has `n_channels` entries is C, the
        last before the first before the second; with `channels` the shortest of these.
    channels, n_channels
        As of `as_image`.

    Returns
    -------
    array (C, Z, Y, X)
        As `as_image` gives it.

    Raises
    ------
    ImageError
        As `as_image`, or if there is no Z axis.
    """
    pixels = np.asarray(array)
    letters = volume_axes_of(pixels, axes, channels, n_channels=n_channels)
    return _in_order("CZYX", pixels, letters, channels, n_channels=n_channels, given=axes)


def axes_of(
    pixels: NDArray[Any], axes: str | None, channels: int | Sequence[int] | None, *, n_channels: int | None
) -> str:
    """The axes of an array as `as_image` understands them, a letter each; parameters and errors as there.

    No pixel is looked at: a stand-in of the shape and dtype will do.
    """
    _require_pixels(pixels)
    if axes is not None:
        return _check_axes(pixels, axes)
    return _guess_axes(pixels, n_channels, chosen=channels is not None)


def volume_axes_of(
    pixels: NDArray[Any], axes: str | None, channels: int | Sequence[int] | None, *, n_channels: int | None
) -> str:
    """The axes of an array as `as_volume` understands them, a letter each; the rest as of `axes_of`."""
    _require_pixels(pixels)
    if axes is None:
        return _guess_volume_axes(pixels, n_channels, chosen=channels is not None)
    letters = _check_axes(pixels, axes)
    if "Z" not in letters:
        raise ImageError(f"expected a volume with an axis Z, got axes {letters} {pixels.shape}; {_ADVICE_FOR_PLANES}")
    return letters


def cellpose_numbers(channels: Sequence[int], n_channels: int, pair: bool) -> tuple[int, ...]:
    """Channels by Cellpose's numbers, checked as far as that goes without an image; as in `cellpose_channels`."""
    is_sequence = isinstance(channels, (Sequence, np.ndarray)) and not isinstance(channels, str)
    numbers = tuple(channels) if is_sequence else ()
    if not numbers or not all(isinstance(c, (int, np.integer)) and not isinstance(c, bool) for c in numbers):
        example = "(1, 0)" if pair else "(1, 2, 3)"
        raise ImageError(
            f"expected channels as numbers counted from 1, as Cellpose counts, got {channels!r}; pass {example}"
        )
    if pair and len(numbers) != 2:
        raise ImageError(f"expected channels as two numbers (cells, nuclei), got {channels!r}; pass (0, 0) for grey")
    if len(numbers) > n_channels:
        raise ImageError(f"expected at most {n_channels} channels, got {channels!r}; the network takes no more")
    return tuple(int(number) for number in numbers)


def cellpose_channels(
    pixels: NDArray[Any], channels: tuple[int, ...] | None, *, n_channels: int, pair: bool
) -> NDArray[np.float32]:
    """The channels that a Cellpose network gets, by Cellpose's numbers; float32 (C, Y, X), a new array.

    Parameters
    ----------
    pixels : array (C, Y, X)
    channels : tuple of int, optional
        Counted from 1. With `pair`: the channel to segment, 0 for the mean of all; then the one of nuclei, 0 for none.
        Without: the channels to use, in order. Default: the first ones.
    n_channels : int
        How many the network takes.
    pair : bool
        Whether the numbers are such a pair (Cellpose 1 to 3), which counts for nothing in an image of one channel. Then
        what is missing of `n_channels` is added as zeros; else (Cellpose 4) there are just fewer channels.

    Raises
    ------
    ImageError
        If the image does not have a channel.
    """
    numbers = tuple(range(1, min(n_channels, len(pixels)) + 1)) if channels is None else channels
    if pair and len(pixels) == 1:
        numbers = (1,)
    for number in numbers:
        if not (0 if pair else 1) <= number <= len(pixels):
            raise ImageError(
                f"expected channels in {0 if pair else 1}..{len(pixels)}, counted from 1 as Cellpose counts, got "
                f"{number} for an image with {_count(len(pixels))}; check channels="
            )
    chosen = np.zeros((n_channels if pair else len(numbers), *pixels.shape[1:]), np.float32)
    with np.errstate(over="ignore"):  # what does not fit float32 becomes infinite, and is refused later
        if numbers[0] == 0:
            chosen[0] = pixels.mean(axis=0, dtype=np.float32)
            return chosen
        for place, number in enumerate(numbers):
            if number:
                chosen[place] = pixels[number - 1]
    return chosen


def _require_pixels(pixels: NDArray[Any]) -> None:
    """Refuse arrays of something else, and empty ones."""
    if pixels.dtype.kind not in _DTYPES:
        raise ImageError(f"expected an image of numbers, got dtype {pixels.dtype}; convert it first")
    if pixels.size == 0:
        raise ImageError(f"expected an image with pixels, got shape {pixels.shape}; check how it was read")


def _in_order(
    order: str,
    pixels: NDArray[Any],
    letters: str,
    channels: int | Sequence[int] | None,
    *,
    n_channels: int | None,
    given: str | None,
) -> NDArray[Any]:
    """The array with its axes in this order, others dropped, and the channels that were asked for."""
    wanted, shape = None if channels is None else _as_tuple(channels), pixels.shape
    for axis in reversed(range(pixels.ndim)):
        if letters[axis] not in order:
            if pixels.shape[axis] != 1:
                one, them = ("plane", "planes") if order == "CYX" else ("volume", "volumes")
                raise ImageError(
                    f"expected one {one}, got axis {letters[axis]} of length {pixels.shape[axis]} in {letters} "
                    f"{pixels.shape}; segment the {them} one by one"
                )
            pixels = pixels.squeeze(axis)
            letters = letters[:axis] + letters[axis + 1 :]
    if "C" not in letters:
        pixels, letters = pixels[np.newaxis], "C" + letters
    pixels = pixels.transpose([letters.index(letter) for letter in order])

    if wanted is not None:
        pixels = _take_channels(pixels, wanted)
    if n_channels is not None and len(pixels) != n_channels:
        advice = "choose among them (channels=0, or --channels 0)" if len(pixels) > n_channels else "check the axes"
        raise ImageError(
            f"expected an image with {_count(n_channels)}, got {_count(len(pixels))} "
            f"(shape {shape}, axes {given or 'not given'}); {advice}"
        )
    return _native(pixels)


def _count(n: int) -> str:
    """'1 channel', '3 channels'."""
    return "1 channel" if n == 1 else f"{n} channels"


def _as_tuple(channels: int | Sequence[int]) -> tuple[int, ...]:
    """Channels as a tuple of int."""
    wanted = (channels,) if isinstance(channels, (int, np.integer)) else tuple(channels)
    if not wanted or not all(isinstance(c, (int, np.integer)) and not isinstance(c, bool) for c in wanted):
        raise ImageError(f"expected channels as numbers counted from 0, got {channels!r}; pass 0 or (0, 1, 2)")
    return tuple(int(c) for c in wanted)


def _check_axes(pixels: NDArray[Any], axes: str) -> str:
    """The given axes, upper case, S as C."""
    letters = axes.upper() if isinstance(axes, str) else "?"
    known = all(letter in _AXES for letter in letters)
    if not known or len(set(letters)) != len(letters) or not {"Y", "X"} <= set(letters):
        raise ImageError(f"expected axes of the letters {_AXES}, Y and X among them, each once, got {axes!r}")
    if len(letters) != pixels.ndim:
        raise ImageError(f"expected {len(letters)} axes ({letters}), got an array of shape {pixels.shape}")
    if {"C", "S"} <= set(letters):
        # one of the two must have length 1 to be dropped; the other holds the channels
        c_is_single = pixels.shape[letters.index("C")] == 1
        return letters.replace("C", _DROPPED).replace("S", "C") if c_is_single else letters
    return letters.replace("S", "C")


def _guess_axes(pixels: NDArray[Any], n_channels: int | None, chosen: bool) -> str:
    """Axes of an array that came without: YX, YXC or CYX, and T for axes of length 1."""
    shape = pixels.shape
    if pixels.ndim == 2:
        return "YX"
    if pixels.ndim == 3:
        if chosen or (n_channels is None and min(shape[0], shape[2]) <= _MOST_CHANNELS):
            return "YXC" if shape[2] <= shape[0] else "CYX"  # picked by number: their axis is the short one
        if n_channels is None:
            raise ImageError(
                f"expected an image with up to {_MOST_CHANNELS} channels, got shape {shape}; segment the planes of a "
                "stack one by one, or name the axes (axes=, --axes)"
            )
        if shape[2] == n_channels:
            return "YXC"
        if shape[0] == n_channels:
            return "CYX"
        if 1 in (shape[0], shape[2]):
            return "YXC" if shape[2] == 1 else "CYX"
        raise ImageError(
            f"expected an image with {_count(n_channels)}, got shape {shape}; choose among its channels (channels=0, "
            "--channels 0), or name its axes if it is a stack (axes=, --axes)"
        )
    raise ImageError(f"expected an image with 2 or 3 axes, got shape {shape}; name them, for example axes='TCYX'")


def _guess_volume_axes(pixels: NDArray[Any], n_channels: int | None, chosen: bool) -> str:
    """Axes of an array that came without: ZYX, ZYXC, CZYX or ZCYX."""
    shape = pixels.shape
    if pixels.ndim == 3:
        return "ZYX"
    if pixels.ndim == 2:
        raise ImageError(f"expected a volume with 3 or 4 axes, got an image of shape {shape}; {_ADVICE_FOR_PLANES}")
    if pixels.ndim != 4:
        raise ImageError(f"expected a volume with 3 or 4 axes, got shape {shape}; name them, for example axes='TCZYX'")
    orders = {3: "ZYXC", 0: "CZYX", 1: "ZCYX"}
    if n_channels is not None and not chosen:
        for axis, order in orders.items():
            if shape[axis] == n_channels:
                return order
        raise ImageError(
            f"expected a volume with {_count(n_channels)}, got shape {shape}; choose among its channels (channels=0, "
            "--channels 0), or name its axes (axes=, --axes)"
        )
    shortest = min(orders, key=lambda axis: shape[axis])
    if not chosen and shape[shortest] > _MOST_CHANNELS:
        raise ImageError(
            f"expected a volume with up to {_MOST_CHANNELS} channels, got shape {shape}; name the axes (axes=, --axes)"
        )
    return orders[shortest]


def _take_channels(pixels: NDArray[Any], wanted: tuple[int, ...]) -> NDArray[Any]:
    """The wanted channels of (C, Y, X); a view if they are one run."""
    for channel in wanted:
        if not 0 <= channel < len(pixels):
            raise ImageError(f"expected channels in 0..{len(pixels) - 1}, got {channel}; check channels=")
    if wanted == tuple(range(wanted[0], wanted[0] + len(wanted))):
        return pixels[wanted[0] : wanted[0] + len(wanted)]
    return pixels[list(wanted)]


def _native(pixels: NDArray[Any]) -> NDArray[Any]:
    """The pixels as something that the kernels can address."""
    if pixels.dtype.kind == "b":
        return pixels.view(np.uint8)
    if pixels.dtype == np.float16:
        return pixels.astype(np.float32)
    whole = all(stride % pixels.itemsize == 0 for stride in pixels.strides)
    if not pixels.dtype.isnative or not pixels.flags.aligned or not whole:
        return pixels.astype(pixels.dtype.newbyteorder("="), order="C")
    return pixels
