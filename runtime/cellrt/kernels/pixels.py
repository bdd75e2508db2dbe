"""Percentiles, normalisation and resizing: what comes before the network."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellrt.errors import KernelError
from cellrt.kernels.native import ERROR_ARGUMENT, MAX_SIDE, _kernels, check_array, check_status, pair, thread_count


def percentiles(image: NDArray[Any], percents: NDArray[np.float64], *, threads: int) -> NDArray[np.float64]:
    """Exact percentiles of all pixels of an image, channels together.

    Parameters
    ----------
    image : uint8, uint16 or float32 (C, Y, X)
        Any strides; read-only is fine. At least one pixel; float32 without NaN or infinity.
    percents : float64 (n,)
        In [0, 100].
    threads : int
        0 uses every usable core.

    Returns
    -------
    float64 (n,)
        Bit for bit ``[numpy.percentile(image, percent) for percent in percents]``: interpolated in double precision,
        but in single precision for float32 pixels. -0.0 counts as 0.0.
    """
    _check_image(image)
    check_array("percents", percents, np.float64, (-1,))
    if not np.all((percents >= 0) & (percents <= 100)):
        raise KernelError(f"expected percents between 0 and 100, got {percents.tolist()}", ERROR_ARGUMENT)
    values = np.empty(len(percents))
    status = _kernels.percentiles(image, percents, thread_count(threads), values)
    check_status(status, "percentiles", "finite pixels, got NaN or infinity: replace them first")
    return values


def normalize(
    image: NDArray[Any],
    low: NDArray[np.float32],
    divisor: NDArray[np.float32],
    *,
    out_shape: tuple[int, int],
    threads: int,
) -> NDArray[np.float32]:
    """Normalise, cast and pad in one pass: ``(float32(image) - low) / divisor``, then mirrored at the far ends.

    Parameters
    ----------
    image : uint8, uint16 or float32 (C, Y, X)
        Any strides; read-only is fine. At least one pixel; float32 without NaN or infinity.
    low, divisor : float32 (C,)
        Finite; no divisor is 0.
    out_shape : (int, int)
        Sides (y, x) of the output, at least those of the image: padding is added at the end of each axis.
    threads : int
        0 uses every usable core.

    Returns
    -------
    float32 (C, out_y, out_x)
        The padding is that of ``numpy.pad(..., mode="reflect")``.
    """
    _check_image(image)
    n_channels, n_y, n_x = image.shape
    check_array("low", low, np.float32, (n_channels,))
    check_array("divisor", divisor, np.float32, (n_channels,))
    if not (np.isfinite(low).all() and np.isfinite(divisor).all() and divisor.all()):
        raise KernelError(
            f"expected finite low and finite divisor other than 0, got {low.tolist()} and {divisor.tolist()}",
            ERROR_ARGUMENT,
        )
    out_y, out_x = pair("out_shape", out_shape, 0, MAX_SIDE)
    if out_y < n_y or out_x < n_x:
        raise KernelError(f"expected out_shape of at least {(n_y, n_x)}, got {tuple(out_shape)}", ERROR_ARGUMENT)
    out = np.empty((n_channels, out_y, out_x), np.float32)
    status = _kernels.normalize(image, low, divisor, thread_count(threads), out)
    check_status(status, "normalize", "finite pixels, got NaN or infinity: replace them first")
    return out


def resize_linear(
    image: NDArray[np.float32], *, out_shape: tuple[int, int], single_precision: bool, threads: int
) -> NDArray[np.float32]:
    """Bilinear resampling of planes, as OpenCV's ``resize(INTER_LINEAR)`` computes it for float32.

    Parameters
    ----------
    image : float32 (C, Y, X)
        Contiguous, at least one pixel.
    out_shape : (int, int)
        Sides (y, x) of the result, at least 1.
    single_precision : bool
        Positions and weights in float32, as OpenCV computes images of two channels; else as it computes all others.
    threads : int
        0 uses every usable core.

    Returns
    -------
    float32 (C, out_y, out_x)
    """
    check_array("image", image, np.float32, (-1, -1, -1))
    if image.size == 0:
        raise KernelError(f"expected an image of at least one pixel, got shape {image.shape}", ERROR_ARGUMENT)
    out = np.empty((len(image), *pair("out_shape", out_shape, 1, MAX_SIDE)), np.float32)
    status = _kernels.resize_linear(image, int(single_precision), thread_count(threads), out)
    check_status(status, "resize_linear", "pixels")
    return out


def _check_image(image: NDArray[Any]) -> None:
    """Refuse anything but pixels (C, Y, X) that the C interface can step through."""
    if not isinstance(image, np.ndarray) or image.dtype not in (np.uint8, np.uint16, np.float32):
        got = getattr(image, "dtype", type(image).__name__)
        raise KernelError(
            f"expected an image of uint8, uint16 or float32, got {got!s}: convert it first", ERROR_ARGUMENT
        )
    if image.ndim != 3 or image.size == 0:
        raise KernelError(f"expected an image (C, Y, X) of at least one pixel, got shape {image.shape}", ERROR_ARGUMENT)
    if not image.flags.aligned or any(stride % image.itemsize for stride in image.strides):
        raise KernelError(
            f"expected an image whose pixels are aligned and whose strides are multiples of {image.itemsize} bytes, "
            f"got strides {image.strides}: use numpy.ascontiguousarray",
            ERROR_ARGUMENT,
        )
