"""Volumes through a flow network, which sees planes: along one axis, or along all three.

`plane_by_plane` keeps what the network says of each plane of z; their objects are stitched later (`decode_planes`).
`orthogonal` adds up what it says of the planes along z, y and x, so that flows have three axes: Cellpose's `do_3D`.
Knows planes and axes; tiles, padding and sizes are those of `FlowModel`.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellrt import kernels
from cellrt.errors import CellrtError
from cellrt.heads import flow, volume
from cellrt.instances import Instances
from cellrt.manifest import FlowSpec
from cellrt.planes import PlanesWork, Stitcher
from cellrt.pool import Found, Job, Work
from cellrt.resize import resize_nearest

Begin = Callable[[NDArray[np.float32]], Job]
"""A plane (C, Y, X) -> its job."""
Then = Callable[[NDArray[np.float32], NDArray[np.float32] | None], Work | Found]
"""Maps of a volume and the style (n_planes, n) of each plane (of x, where there were three passes) -> what follows."""


def plane_by_plane(stack: NDArray[np.float32], begin: Begin, then: Then, *, has_style: bool) -> PlanesWork[Job]:
    """The planes of a stack (C, Z, Y, X) on their way; `then` gets maps (3, Z, y, x)."""
    whole: list[NDArray[np.float32]] = []  # as soon as a plane is back, and its shape known
    styles: list[NDArray[np.float32]] = []

    def end(z: int, job: Job) -> None:
        maps = job.maps()
        if not whole:
            whole.append(np.empty((len(maps), stack.shape[1], *maps.shape[1:]), np.float32))
        whole[0][:, z] = maps
        if has_style:
            styles.append(job.style())

    return PlanesWork(
        stack.shape[1],
        lambda z: begin(np.ascontiguousarray(stack[:, z])),
        end,
        lambda: then(whole.pop(), np.stack(styles) if has_style else None),
    )


def orthogonal(
    scaled: NDArray[np.float32],
    begin: Begin,
    then: Then,
    *,
    has_style: bool,
    axis: int = 0,
    sums: NDArray[np.float32] | None = None,
) -> PlanesWork[Job]:
    """A volume (C, z, y, x) on its way, three times; `then` gets maps (4, z, y, x): flow along z, y, x, cell logit.

    `axis` (0 to 2) is that across whose planes the network goes next, `sums` what came of those before.
    """
    whole = np.zeros((4, *scaled.shape[1:]), np.float32) if sums is None else sums
    first, second = (other for other in range(3) if other != axis)
    styles: list[NDArray[np.float32]] = []

    def plane(of: NDArray[np.float32], index: int) -> NDArray[np.float32]:
        return of[(slice(None),) * (axis + 1) + (index,)]

    def end(index: int, job: Job) -> None:
        of_plane, maps = plane(whole, index), job.maps()
        for channel, values in zip((first, second, 3), maps, strict=True):
            of_plane[channel] += values
        if has_style:
            styles.append(job.style())

    def following() -> Work | Found:
        if axis < 2:
            return orthogonal(scaled, begin, then, has_style=has_style, axis=axis + 1, sums=whole)
        return then(whole, np.stack(styles) if has_style else None)

    return PlanesWork(
        scaled.shape[axis + 1], lambda index: begin(np.ascontiguousarray(plane(scaled, index))), end, following
    )


def decode_planes(
    maps: NDArray[np.float32],
    spec: FlowSpec,
    *,
    stitch_threshold: float,
    steps: int,
    flow_threshold: float | None,
    cellprob_threshold: float | None,
    min_size: int | None,
    max_size_fraction: float,
    interpolate: bool,
    out_shape: tuple[int, int, int],
    threads: int,
) -> Instances:
    """Objects of maps (3, Z, y, x), plane by plane, stitched; parameters and errors as in `flow.decode`.

    Small objects of a plane are kept, those of the volume dropped. (A stack of one plane is decoded as that plane.)
    """
    least = flow.whole("min_size", spec.min_size if min_size is None else min_size, -(1 << 40), 1 << 40)
    stitcher = Stitcher(stitch_threshold, threads=threads)
    n_planes = maps.shape[1]
    labels = np.empty(out_shape, np.int32)
    for z in range(n_planes):
        of_plane, _ = flow.labels_of(
            np.ascontiguousarray(maps[:, z]),
            spec,
            steps=steps,
            flow_threshold=flow_threshold,
            cellprob_threshold=cellprob_threshold,
            min_size=least if n_planes == 1 else -1,
            max_size_fraction=max_size_fraction,
            interpolate=interpolate,
            out_shape=out_shape[1:],
            threads=threads,
        )
        labels[z] = stitcher.add(of_plane)
    n = int(labels.max())
    if n_planes > 1:
        labels, n = kernels.clean_labels_3d(labels, min_size=least, dynamics=spec.dynamics, threads=threads)
    cellprob = maps[2] if maps.shape[1:] == labels.shape else resize_nearest(maps[2], labels.shape)
    return volume.from_labels(labels, n, scores=flow.mean_probability(labels, cellprob, n), threads=threads)


def checked_anisotropy(anisotropy: Any) -> float:
    """How many times as far from one another planes are as pixels, if it is that."""
    if anisotropy is None:
        return 1.0
    is_number = isinstance(anisotropy, numbers.Real) and not isinstance(anisotropy, bool)
    if not is_number or not 0 < anisotropy < math.inf:
        raise CellrtError(
            "expected anisotropy as a positive number, the distance of planes over that of pixels, got "
            f"{anisotropy!r}; leave it out if both are the same"
        )
    return float(anisotropy)
