"""The `star3d` head: probability and ray lengths -> star-convex bodies (StarDist 3D, Weigert et al., WACV 2020).

`decode` takes whole maps; `Collector3D` takes them tile by tile, so that candidates and not maps are kept. Both give
the cells of StarDist 0.9.2's default (sparse) mode. Knows no files, sessions or normalisation.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellrt import kernels
from cellrt.errors import CapacityError, CellrtError
from cellrt.heads.candidates import AnyCollector
from cellrt.instances import Instances, Polyhedra
from cellrt.manifest import Star3DSpec

MODES = ("full", "kernel", "hull", "bbox")
MAX_CANDIDATES = 1 << 22  # 1.7 GB at 96 rays
# In the unit of the kernel, of 0.2 to 0.5 microseconds. Recorded stacks need 150 to 300 at usual thresholds, 6,000 at
# nms_thresh=0.9; ten thousand candidates at this limit take two minutes of one core.
MAX_WORK_PER_CANDIDATE = 1 << 15
MAX_WORK = 1 << 32  # of all together: half an hour of a core, and 500 for each of as many candidates as may be


@dataclass(frozen=True)
class Painting:
    """How bodies become labels."""

    mode: str = "full"
    """Which voxels a body has: "full" (all inside it), "kernel" (those that see its whole surface), "hull" (those of
    its convex hull), "bbox" (those of its box)."""
    overlap_label: int | None = None
    """What voxels of several bodies become. None: the label of the most probable one."""

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise CellrtError(f"expected mode to be one of {', '.join(MODES)}, got {self.mode!r}")
        label = self.overlap_label
        if label is not None and (isinstance(label, bool) or not isinstance(label, (int, np.integer))):
            raise CellrtError(f"expected overlap_label as a whole number or None, got {label!r}")
        if label is not None and not -(2**31) < label < 2**31:  # the kernel has no use for -2^31
            raise CellrtError(f"expected overlap_label from {1 - 2**31} to {2**31 - 1}, got {label}")


class Collector3D(AnyCollector[Star3DSpec]):
    """Candidates of one volume, tile by tile, in any order; parameters as of `AnyCollector`."""

    _find = staticmethod(kernels.star_candidates_3d)
    _most = MAX_CANDIDATES
    _words = ("volume", "voxels")

    def _start(self) -> None:
        """Be ready for the first tile."""
        self._groups: list[kernels.Candidates] = []
        self._n = 0

    def __len__(self) -> int:
        """How many candidates there are."""
        return self._n

    def take(
        self,
        prob: NDArray[np.float32],
        dist: NDArray[np.float32],
        points: NDArray[np.int32],
        class_prob: NDArray[np.float32] | None,
    ) -> None:
        """Take what `candidates` found, in this run or in an earlier one."""
        if self._n + len(prob) > self._max_candidates:
            raise self._too_many(kernels.ERROR_CAPACITY)
        self._groups.append((prob, dist, points, class_prob))
        self._n += len(prob)

    def finish(
        self,
        *,
        out_shape: tuple[int, int, int],
        scale: tuple[float, float, float] = (1.0, 1.0, 1.0),
        painting: Painting | None = None,
    ) -> Instances:
        """Suppress and paint.

        Parameters
        ----------
        out_shape : (int, int, int)
            The volume that the user gave, (z, y, x).
        scale : (float, float, float)
            Voxels of that volume per voxel of the one that the network saw.
        painting : Painting, optional
            Default: all voxels inside, those of several bodies to the most probable one.
        """
        prob, dist, points, class_prob = self.survivors()
        bodies = polyhedra(self._spec, dist, scale=scale)
        centres = points.astype(np.float64) * scale
        painting = painting or Painting()
        labels = paint(bodies, centres, painting, origin=(0, 0, 0), shape=out_shape, threads=self._threads)
        return Instances(
            labels,
            prob,
            centres.astype(np.float32),
            outlines=None,
            classes=None if class_prob is None else class_prob.argmax(axis=1).astype(np.int32),
            class_prob=class_prob,
            polyhedra=bodies,
            overlap_label=painting.overlap_label,
        )

    def survivors(self) -> kernels.Candidates:
        """The candidates that no stronger one suppresses, in descending order of probability."""
        prob, dist, points, class_prob = self._all()
        kept = suppress(self._spec, prob, dist, points, nms_thresh=self._nms_thresh, threads=self._threads)
        return prob[kept], dist[kept], points[kept], None if class_prob is None else class_prob[kept]

    def _all(self) -> kernels.Candidates:
        """All candidates as one group, in the order of their points: ties fall the same way for all tilings."""
        groups, self._groups = self._groups, []
        if not groups:
            n_rays, n_classes = self._spec.n_rays, self._spec.n_class_channels
            groups = [
                (
                    np.zeros(0, np.float32),
                    np.zeros((0, n_rays), np.float32),
                    np.zeros((0, 3), np.int32),
                    np.zeros((0, n_classes), np.float32) if n_classes else None,
                )
            ]
        if len(groups) == 1:
            whole = groups[0]
        else:
            class_prob = [group[3] for group in groups if group[3] is not None]
            points = np.concatenate([group[2] for group in groups])
            order = np.lexsort(points.T[::-1])
            whole = (
                np.concatenate([group[0] for group in groups])[order],
                np.concatenate([group[1] for group in groups])[order],
                points[order],
                np.concatenate(class_prob)[order] if class_prob else None,
            )
        self._groups = [whole]
        return whole


def directions(spec: Star3DSpec) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """The rays float32 (n_rays, 3), (z, y, x), and the faces int32 (n_faces, 3) between them."""
    return np.array(spec.rays.vertices, np.float32), np.array(spec.rays.faces, np.int32)


def suppress(
    spec: Star3DSpec,
    prob: NDArray[np.float32],
    dist: NDArray[np.float32],
    points: NDArray[np.int32],
    *,
    nms_thresh: float,
    threads: int,
) -> NDArray[np.int64]:
    """Which candidates no stronger one suppresses, in descending order of probability; equal ones in their order."""
    options: dict[str, Any] = {"nms_thresh": nms_thresh, "max_work": _max_work(prob), "threads": threads}
    with _bounded(len(prob), nms_thresh):
        return kernels.star_nms_3d(prob, dist, points, *directions(spec), **options)


def settle(
    spec: Star3DSpec,
    prob: NDArray[np.float32],
    dist: NDArray[np.float32],
    points: NDArray[np.int32],
    is_open: NDArray[np.bool_],
    *,
    nms_thresh: float,
    threads: int,
) -> NDArray[np.uint8]:
    """What becomes of candidates, as `kernels.star_settle_3d` has it, whatever others may come near the open ones."""
    options: dict[str, Any] = {"nms_thresh": nms_thresh, "max_work": _max_work(prob), "threads": threads}
    with _bounded(len(prob), nms_thresh):
        return kernels.star_settle_3d(prob, dist, points, *directions(spec), is_open.view(np.uint8), **options)


def _max_work(prob: NDArray[np.float32]) -> int:
    """Of a suppression."""
    return min(MAX_WORK_PER_CANDIDATE * max(len(prob), 1024), MAX_WORK)


@contextlib.contextmanager
def _bounded(n: int, nms_thresh: float) -> Iterator[None]:
    """Say in the model's terms that a suppression of n candidates needs too much work."""
    try:
        yield
    except CapacityError as error:
        raise CapacityError(
            f"expected to suppress {n} candidates within {MAX_WORK_PER_CANDIDATE} steps each, {MAX_WORK} in all, got "
            f"more with nms_thresh={nms_thresh:g}; raise prob_thresh or lower nms_thresh",
            error.status,
        ) from None


def polyhedra(spec: Star3DSpec, dist: NDArray[np.float32], *, scale: tuple[float, float, float]) -> Polyhedra:
    """The bodies that have these ray lengths, (n, n_rays), in voxels of the user's volume; `scale` as in `finish`."""
    rays, faces = directions(spec)
    return Polyhedra(dist, (rays * scale).astype(np.float32), faces)


def paint(
    bodies: Polyhedra,
    points: NDArray[np.float64],
    painting: Painting,
    *,
    origin: tuple[int, int, int],
    shape: tuple[int, int, int],
    threads: int,
) -> NDArray[np.int32]:
    """The labels of bodies, given in descending order of probability, in a window of the volume.

    Parameters
    ----------
    bodies : Polyhedra
        The n bodies.
    points : float64 (n, 3)
        Where they are, (z, y, x) in voxels.
    painting : Painting
    origin, shape : (int, int, int)
        The window's first voxel, and its sides.
    threads : int
        0: all usable cores.
    """
    return kernels.paint_polyhedra_3d(
        bodies.dist,
        points.astype(np.float32),
        bodies.rays,
        bodies.faces,
        np.arange(len(bodies), dtype=np.int64),
        origin=origin,
        shape=shape,
        mode=painting.mode,
        overlap_label=painting.overlap_label,
        threads=threads,
    )


def decode(
    maps: NDArray[np.float32],
    spec: Star3DSpec,
    *,
    shape: tuple[int, int, int],
    prob_thresh: float | None = None,
    nms_thresh: float | None = None,
    painting: Painting | None = None,
    threads: int = 0,
) -> Instances:
    """Instances of whole maps.

    Parameters
    ----------
    maps : float32 (1 + n_rays + n_class_channels, Z / grid[0], Y / grid[1], X / grid[2])
        The network's output for the padded volume.
    spec : Star3DSpec
    shape : (int, int, int)
        The volume without padding, (z, y, x).
    prob_thresh, nms_thresh : float, optional
        Default: those of `spec`.
    painting : Painting, optional
        As of `Collector3D.finish`.
    threads : int
        0: all usable cores.
    """
    options: dict[str, Any] = {"prob_thresh": prob_thresh, "nms_thresh": nms_thresh, "threads": threads}
    return Collector3D.of_maps(maps, spec, shape=shape, **options).finish(out_shape=shape, painting=painting)
