"""What a flow network says of images, stacks and volumes -> instances: which head's `decode`, with which options.

Knows `FlowMaps` and heads; no networks, images and normalisation.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellrt import flow_volume
from cellrt.errors import CellrtError
from cellrt.flow_work import FlowMaps
from cellrt.heads import flow, flow_3d
from cellrt.heads.flow_3d import Smoothing
from cellrt.instances import Instances
from cellrt.manifest import FlowSpec
from cellrt.planes import checked_threshold
from cellrt.resize import resize_nearest


def decode(
    maps: FlowMaps,
    head: FlowSpec,
    *,
    niter: int | None,
    stitch_threshold: float | None = None,
    flow3D_smooth: Smoothing = 0,
    threads: int,
    **options: Any,
) -> Instances:
    """Instances of maps; the options of `FlowModel.decode`."""
    usual: dict[str, Any] = {"steps": niter or maps.steps, "out_shape": maps.shape, "threads": threads}
    is_3d, is_stack = len(maps.maps) == 4, maps.maps.ndim == 4 and len(maps.maps) == 3
    if is_stack != (stitch_threshold is not None):
        wanted = "a stitch_threshold with maps of a stack" if is_stack else "no stitch_threshold with these maps"
        raise CellrtError(f"expected {wanted}, got {stitch_threshold}; give the options that predict had")
    if not is_3d and any(flow_3d.checked_smoothing(flow3D_smooth)):
        raise CellrtError(f"expected flow3D_smooth with do_3D=True only, got {flow3D_smooth!r}; leave it out")
    if stitch_threshold is not None:
        return flow_volume.decode_planes(maps.maps, head, stitch_threshold=stitch_threshold, **usual, **options)
    if not is_3d:
        return flow.decode(maps.maps, head, **usual, **options)
    interpolate = options.pop("interpolate")
    if not isinstance(interpolate, (bool, np.bool_)) or not interpolate:
        raise CellrtError(f"expected interpolate=True with do_3D=True, got {interpolate!r}; leave it out")
    threshold = options.pop("flow_threshold")  # of no effect here, but no nonsense either
    flow.number("flow_threshold", 0 if threshold is None else threshold, 0)
    return flow_3d.decode(maps.maps, head, flow_smooth=flow3D_smooth, **usual, **options)


def decode_plane(
    maps: FlowMaps, head: FlowSpec, *, niter: int | None, threads: int, **options: Any
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Labels of a plane and the probability of each of its pixels to be in a cell, (Y, X); the options of `decode`."""
    labels, _ = flow.labels_of(
        maps.maps, head, steps=niter or maps.steps, out_shape=(maps.shape[0], maps.shape[1]), threads=threads, **options
    )
    cellprob = maps.cellprob if maps.cellprob.shape == labels.shape else resize_nearest(maps.cellprob, labels.shape)
    return labels, flow.probability(cellprob)


def check(shape: tuple[int, ...], head: FlowSpec, **options: Any) -> None:
    """Refuse options of `decode` for maps of such a shape, before there are any."""
    decode(FlowMaps(np.full(shape, -1, np.float32), shape[1:], None, 1.0, 1), head, threads=1, **options)


def check_options(do_3D: Any, stitch_threshold: Any, flow3D_smooth: Smoothing) -> None:
    """Refuse options of volumes that do not go together."""
    if not isinstance(do_3D, (bool, np.bool_)):
        raise CellrtError(f"expected do_3D to be True or False, got {do_3D!r}")
    if stitch_threshold is not None:
        checked_threshold(stitch_threshold)
        if do_3D:
            raise CellrtError("expected do_3D=True or a stitch_threshold, got both; choose one")
    if any(flow_3d.checked_smoothing(flow3D_smooth)) and not do_3D:
        raise CellrtError(f"expected flow3D_smooth with do_3D=True only, got {flow3D_smooth!r}; leave it out")
