"""Flows: integration, masks, and how well masks agree with the flows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cellrt.errors import KernelError
from cellrt.kernels.native import (
    ERROR_ARGUMENT,
    ERROR_CAPACITY,
    MAX_INT32,
    MAX_SIDE,
    _kernels,
    cancellable,
    check_array,
    check_labels_status,
    check_status,
    dynamics_number,
    pair,
    thread_count,
    whole_number,
)


def flow_follow_2d(
    flow: NDArray[np.float32],
    cellprob: NDArray[np.float32],
    *,
    cellprob_threshold: float,
    dynamics: str,
    interpolate: bool,
    n_iter: int,
    threads: int,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Follow the flow from every pixel inside a cell: Euler steps of ``flow / 5``, clamped to the image.

    Parameters
    ----------
    flow : float32 (2, Y, X)
        (y, x) components as the network gives them, 5 per pixel and step. Contiguous; finite inside cells.
    cellprob : float32 (Y, X)
        A pixel is inside a cell where this exceeds `cellprob_threshold`.
    cellprob_threshold : float
        Compared in float32.
    dynamics : "v3" or "v4"
        Which Cellpose's integration.
    interpolate : bool
        False takes the flow of the nearest pixel below (v3 only).
    n_iter : int
        Number of steps.
    threads : int
        0 uses every usable core.

    Returns
    -------
    pixels : int64 (n,)
        Flat index of each pixel inside a cell, ascending.
    positions : float32 (n, 2)
        Where it ends, (y, x) in pixels.
    """
    check_array("flow", flow, np.float32, (2, -1, -1))
    check_array("cellprob", cellprob, np.float32, flow.shape[1:])
    version, n_threads = dynamics_number(dynamics), thread_count(threads)
    n_iter = whole_number("n_iter", n_iter, 0, MAX_INT32)
    if not interpolate and dynamics != "v3":
        raise KernelError(f"expected interpolate=True with dynamics {dynamics!r}, got False", ERROR_ARGUMENT)
    if np.isnan(cellprob_threshold):
        raise KernelError("expected cellprob_threshold to be a number, got NaN", ERROR_ARGUMENT)
    status, n = _kernels.count_flow_follow_2d(flow, cellprob, cellprob_threshold, version, n_threads)
    pixels, positions = np.empty(n, np.int64), np.empty((n, 2), np.float32)
    if status == ERROR_CAPACITY:
        how = (cellprob_threshold, version, int(interpolate), n_iter)
        status = cancellable(
            lambda cancel: _kernels.flow_follow_2d(flow, cellprob, *how, cancel, n_threads, pixels, positions)
        )
    check_status(status, "flow_follow_2d", "finite flows inside cells, got NaN or infinity")
    return pixels, positions


def flow_masks_2d(
    pixels: NDArray[np.int64],
    positions: NDArray[np.float32],
    *,
    shape: tuple[int, int],
    max_size_fraction: float,
    threads: int,
) -> tuple[NDArray[np.int32], int]:
    """Masks from where the pixels ended: Cellpose's ``get_masks``.

    Parameters
    ----------
    pixels : int64 (n,)
        Flat index of each pixel, ascending.
    positions : float32 (n, 2)
        Where it ended, (y, x) in pixels; finite.
    shape : (int, int)
        Sides (y, x) of the image.
    max_size_fraction : float
        A mask of more than this fraction of the image is dropped.
    threads : int
        0 uses every usable core.

    Returns
    -------
    labels : int32 (y, x)
        Numbered in order of first appearance by rows.
    n_labels : int
    """
    check_array("pixels", pixels, np.int64, (-1,))
    check_array("positions", positions, np.float32, (len(pixels), 2))
    if not max_size_fraction >= 0:
        raise KernelError(f"expected max_size_fraction of at least 0, got {max_size_fraction}", ERROR_ARGUMENT)
    labels = np.empty(pair("shape", shape, 0, MAX_SIDE), np.int32)
    status, n_labels = _kernels.flow_masks_2d(pixels, positions, max_size_fraction, thread_count(threads), labels)
    if status == ERROR_ARGUMENT:
        raise KernelError(f"expected pixels ascending inside {labels.shape}, got others", status)
    check_status(status, "flow_masks_2d", "finite positions, got NaN or infinity")
    return labels, n_labels


def label_flows_2d(
    labels: NDArray[np.int32], *, n_labels: int, dynamics: str, n_iter: int, threads: int
) -> NDArray[np.float32]:
    """The flow that labels should have: the gradient of heat that diffuses from their centres, of length 1.

    Parameters
    ----------
    labels : int32 (Y, X)
        Contiguous, 0..n_labels.
    n_labels : int
    dynamics : "v3" or "v4"
        Each mask alone, or (v4) as many steps for all and gradients across masks that touch.
    n_iter : int
        Steps of diffusion; 0 for the rule of `dynamics`.
    threads : int
        0 uses every usable core.

    Returns
    -------
    float32 (2, Y, X)
        (y, x) components; 0 outside labels.
    """
    check_array("labels", labels, np.int32, (-1, -1))
    n_labels = whole_number("n_labels", n_labels, 0, MAX_INT32)
    n_iter = whole_number("n_iter", n_iter, 0, MAX_INT32)
    flow = np.empty((2, *labels.shape), np.float32)
    status = _kernels.label_flows_2d(labels, n_labels, dynamics_number(dynamics), n_iter, thread_count(threads), flow)
    check_labels_status(status, "label_flows_2d", labels, n_labels)
    return flow


def flow_errors_2d(
    labels: NDArray[np.int32], flow: NDArray[np.float32], *, n_labels: int, dynamics: str, threads: int
) -> NDArray[np.float64]:
    """How far the network's flow is from the one each label should have: the mean of ``|label flow - flow / 5|^2``.

    Parameters
    ----------
    labels : int32 (Y, X)
        Contiguous, 0..n_labels.
    flow : float32 (2, Y, X)
        As the network gives it; finite inside labels.
    n_labels : int
    dynamics : "v3" or "v4"
    threads : int
        0 uses every usable core.

    Returns
    -------
    float64 (n_labels,)
        0 for a label that does not occur.
    """
    check_array("labels", labels, np.int32, (-1, -1))
    check_array("flow", flow, np.float32, (2, *labels.shape))
    errors = np.empty(whole_number("n_labels", n_labels, 0, MAX_INT32), np.float64)
    status = _kernels.flow_errors_2d(labels, flow, dynamics_number(dynamics), thread_count(threads), errors)
    check_labels_status(status, "flow_errors_2d", labels, n_labels)
    return errors
