"""Flow models on volumes larger than memory: Cellpose's `do_3D`, with the cells of the whole volume.

The network sees whole planes across each axis, some at a time, and what it says of them is added up in a file; that is
kept, so that an interrupted run goes on. Then `flow_masks` makes labels of the file. All that lies in files in between
is as large as the volume; what is in memory is as large as some planes, or as a block with what is around it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellrt import kernels
from cellrt.errors import FileError, ImageError
from cellrt.heads.flow_3d import smoothed
from cellrt.large import flow_masks
from cellrt.large.bricks import SIDE, Bricks, Triple, n_bytes
from cellrt.large.flow import require_parts, scaling_of
from cellrt.large.journal import Journal, journal_for
from cellrt.large.result import LargeInstances
from cellrt.large.scratch import scratch
from cellrt.large.sink import open_sink, require_space
from cellrt.large.source import Sliceable, Source, boxes
from cellrt.manifest import Manifest, Normalize99Spec
from cellrt.normalize99 import Scaling99, scaled99
from cellrt.resize import resize_linear
from cellrt.tile import Span

_SLAB = 1 << 29  # bytes of planes that are in memory at once, with the sums of what the network said of them
_PIECE = 1 << 26  # bytes of those that the network gets at once, with what it says of them
_N_MAPS = 4  # flow along z, y, x, and the logit of being inside a cell


@dataclass(frozen=True)
class VolumeRun:
    """How a flow model is run on a large volume; units and defaults are those of `FlowModel.segment_large`."""

    axes: str | None
    normalize: Normalize99Spec | None
    rescaled: Callable[[Triple], Triple]  # sides of the volume -> as the network sees it
    resample: bool
    flow_smooth: tuple[float, float, float]
    decoding: flow_masks.Decoding
    threads: int
    options: dict[str, Any]  # whatever else the maps depend on, as JSON has it


def segment(
    source: Sliceable,
    sink: Any,
    *,
    manifest: Manifest,
    choose: Callable[[NDArray[Any]], NDArray[np.float32]],
    network: Callable[[NDArray[np.float32]], NDArray[np.float32]],
    run: VolumeRun,
    work: str | Path | None,
    progress: Callable[[int, int], None] | None,
) -> LargeInstances:
    """Segment a volume; see `FlowModel.segment_large`.

    `choose` takes voxels (C, z, y, x) and gives the channels that the network gets; `network` takes planes (C, n, y, x)
    of the volume as it sees it, and gives maps (3, n, y, x).
    """
    require_parts(run.normalize)
    image = Source(source, axes=run.axes, channels=None, n_channels=None, convert=choose, n_axes=3)
    n_channels, depth, height, width = image.shape
    shape: Triple = (depth, height, width)
    if depth == 1:
        raise ImageError(
            f"expected a volume of several planes with do_3D=True, got shape {shape}; segment the plane as an image"
        )
    scaled_shape = run.rescaled(shape)
    decoded_shape = shape if run.resample else scaled_shape
    out = open_sink(sink, shape)
    slabs = list(_slabs(scaled_shape, n_channels))
    n_steps = len(slabs) + flow_masks.n_steps(decoded_shape, shape, run.decoding)
    n_done = 0

    def step() -> None:
        nonlocal n_done
        n_done += 1
        if progress is not None:
            progress(n_done, n_steps)

    with journal_for(sink, work, _key(image, manifest, run) | {"slabs": slabs}, scratch=True) as journal:
        assert journal is not None  # there is one in any case
        folder = journal.folder
        _require_room(folder, n_channels, shape, scaled_shape, decoded_shape, run)
        scaling = scaling_of(image, run.normalize, journal, threads=run.threads)
        n_resumed = _n_added(journal, len(slabs))
        sums = _sums(journal, scaled_shape, keep=n_resumed > 0)
        marker = len(slabs)  # after it what is pending for each slab
        for index in range(n_resumed):
            journal.drop(marker + 1 + index)
            step()
        if n_resumed < len(slabs):
            seen = _seen(image, scaled_shape, scaling, run, journal, marker=marker)
            for index, slab in enumerate(slabs[n_resumed:], n_resumed):
                pending = marker + 1 + index
                _add(index, *slab, seen=seen, sums=sums, network=network, journal=journal, pending=pending)
                step()
            seen.remove()
        maps = _resized(sums, decoded_shape, "maps", threads=run.threads)
        if any(run.flow_smooth):
            unsmoothed, maps = maps, _smoothed(maps, run.flow_smooth)
            if unsmoothed is not sums:
                unsmoothed.remove()
        masks = flow_masks.decode(maps, run.decoding, shape=shape, folder=folder, step=step)
        out.write(masks.labels)
        for bricks in (sums, maps, *masks.files):
            bricks.remove()
    return LargeInstances(
        shape,
        masks.scores,
        masks.points,
        None,
        None,
        None,
        n_tiles=len(slabs),
        n_resumed=n_resumed,
    )


def _slabs(shape: Triple, n_channels: int) -> Iterator[tuple[int, Span]]:
    """Which planes the network sees at a time: the axis that they lie across, and from where to where on it."""
    for axis, side in enumerate(shape):
        for span in _spans(side, 4 * (n_channels + _N_MAPS) * math.prod(shape) // side):
            yield axis, span


def _key(image: Source, manifest: Manifest, run: VolumeRun) -> dict[str, Any]:
    """What makes a run the same: all that the maps depend on."""
    return {
        "model": hashlib.sha256(manifest.to_json().encode()).hexdigest(),
        "cellrt": kernels.version(),
        "image": image.fingerprint(),
        "normalize": None if run.normalize is None else dataclasses.asdict(run.normalize),
        **run.options,
    }


def _require_room(
    folder: Path, n_channels: int, shape: Triple, scaled: Triple, decoded: Triple, run: VolumeRun
) -> None:
    """Refuse to begin what has no room for its files."""
    needed = n_bytes(n_channels, shape, np.float32) + n_bytes(_N_MAPS, scaled, np.float32)
    needed += n_bytes(n_channels, scaled, np.float32) if scaled != shape else 0
    needed += n_bytes(_N_MAPS, decoded, np.float32) if scaled != decoded else 0
    needed += n_bytes(_N_MAPS, decoded, np.float32) if any(run.flow_smooth) else 0
    needed += flow_masks.n_bytes(decoded, shape)
    require_space(folder / "sums.bricks", max(0, needed - sum(map(_taken, folder.glob("*.bricks")))))


def _taken(path: Path) -> int:
    """What a file takes of the disk."""
    stat = path.stat()
    blocks: int | None = getattr(stat, "st_blocks", None)  # of 512 bytes; Windows does not tell, nor leave out zeros
    return stat.st_size if blocks is None else 512 * blocks


def _n_added(journal: Journal, n_slabs: int) -> int:
    """How many slabs an earlier run added to the sums; it took one after the other."""
    n_added = sum(journal.holds(index) for index in range(n_slabs))
    missing = [index for index in range(n_added) if not journal.holds(index)]
    if missing:  # nobody knows what the sums hold
        raise FileError(
            f"expected tile {missing[0]} in {journal.folder}, got later ones without it: somebody removed it; remove "
            "the folder to start anew"
        )
    return n_added


def _sums(journal: Journal, shape: Triple, *, keep: bool) -> Bricks:
    """The file of what the network said so far."""
    path = journal.folder / "sums.bricks"
    if keep and not path.exists():
        raise FileError(
            f"expected {path} beside what an earlier run finished, got none; remove the folder to start anew"
        )
    return Bricks(path, _N_MAPS, shape, np.float32, keep=keep)


def _seen(
    image: Source, shape: Triple, scaling: Scaling99 | None, run: VolumeRun, journal: Journal, *, marker: int
) -> Bricks:
    """The volume as the network sees it, normalised and resized; from an earlier run if that wrote all of it."""
    n_channels, depth, height, width = image.shape
    path = journal.folder / "seen.bricks"
    if journal.holds(marker) and path.exists():
        return Bricks(path, n_channels, shape, np.float32, keep=True)
    is_resized = shape != (depth, height, width)
    volume = Bricks(
        path.with_name("volume.bricks") if is_resized else path, n_channels, (depth, height, width), np.float32
    )
    for corner, voxels in _voxels(image, journal.folder):
        volume.write(_normalized(voxels, scaling, run), *corner)
    seen = _resized(volume, shape, "seen", threads=run.threads)
    if seen is not volume:
        volume.remove()
    seen.sync()
    journal.write(marker, compress=False)
    return seen


def _voxels(image: Source, folder: Path) -> Iterator[tuple[Triple, NDArray[Any]]]:
    """The voxels (C, z, y, x) of an image and where they begin: whole bricks, by way of the folder if they are many.

    They are read once, or some twice where chunks of the source are no multiples of bricks.
    """
    n_channels, depth, height, width = image.shape
    n_planes, *block = image.block_shape()
    n_planes = -(-n_planes // SIDE) * SIDE
    for front in range(0, depth, n_planes):
        back = min(depth, front + n_planes)
        slab = scratch((n_channels, back - front, height, width), image.dtype, folder)
        for rows, columns in boxes((height, width), (block[0], block[1])):
            slab[:, :, slice(*rows), slice(*columns)] = image.read((front, back), rows, columns)
        for top, bottom in _spans(height, 12 * n_channels * (back - front) * width):
            yield (front, top, 0), np.asarray(slab[:, :, top:bottom])


def _normalized(block: NDArray[Any], scaling: Scaling99 | None, run: VolumeRun) -> NDArray[np.float32]:
    """Voxels (C, z, y, x) as the network gets them."""
    with np.errstate(over="ignore"):
        voxels = np.asarray(block, np.float32)
    if not np.isfinite(voxels).all():
        raise ImageError("expected voxels that fit float32, got larger ones; rescale the image")
    if run.normalize is None:
        return voxels
    rows = voxels.reshape(len(voxels), -1, voxels.shape[-1])
    return scaled99(rows, scaling, run.normalize, threads=run.threads).reshape(voxels.shape)


def _add(
    index: int,
    axis: int,
    span: Span,
    *,
    seen: Bricks,
    sums: Bricks,
    network: Callable[[NDArray[np.float32]], NDArray[np.float32]],
    journal: Journal,
    pending: int,
) -> None:
    """Add what the network says of some planes across an axis to the sums.

    The new sums are kept in the journal first, and put into the file from there, so that nothing is added twice: until
    tile `index` says that they are in the file, they are in tile `pending`. No file of these takes another's place.
    """
    spans = tuple(span if other == axis else (0, side) for other, side in enumerate(seen.shape))
    if journal.holds(pending):
        stored = journal.read(pending)
        if stored is None:  # some of it may be in the sums
            raise FileError(
                f"expected what an earlier run noted in {journal.folder}, got a damaged tile {pending}; remove the "
                "folder to start anew"
            )
        total = stored["sums"]
    else:
        planes = np.moveaxis(seen.read(*spans), axis + 1, 1)
        total = sums.read(*spans)
        of_planes = np.moveaxis(total, axis + 1, 1)
        first, second = (other for other in range(3) if other != axis)
        n_at_once = max(1, _PIECE // (4 * (len(planes) + 3) * planes[0, 0].size))
        for begin in range(0, planes.shape[1], n_at_once):
            piece = slice(begin, begin + n_at_once)
            maps = network(np.ascontiguousarray(planes[:, piece]))
            for channel, values in zip((first, second, 3), maps, strict=True):
                of_planes[channel, piece] += values
        journal.write(pending, compress=False, sums=total)
    sums.write(total, *(begin for begin, _ in spans))
    sums.sync()
    journal.write(index, compress=False)
    journal.drop(pending)


def _resized(volume: Bricks, shape: Triple, name: str, *, threads: int) -> Bricks:
    """The volume at another shape, in a file of that name: as `resize.resize_linear_volume`, some planes at a time."""
    depth, height, width = shape
    n_channels, n_planes = volume.n_channels, volume.shape[0]
    path = volume.path.with_name(f"{name}.bricks")
    out = volume
    if volume.shape[1:] != (height, width):
        is_last = n_planes == depth
        out = Bricks(
            path if is_last else path.with_name("rows.bricks"), n_channels, (n_planes, height, width), np.float32
        )
        for begin, end in _spans(n_planes, 4 * n_channels * (math.prod(volume.shape[1:]) + height * width)):
            planes = volume.read((begin, end), *((0, side) for side in volume.shape[1:]))
            resized = [_plane(planes[:, z], (height, width), threads) for z in range(end - begin)]
            out.write(np.stack(resized, axis=1), begin, 0, 0)
    if n_planes == depth:
        return out
    rows, out = out, Bricks(path, n_channels, shape, np.float32)
    for begin, end in _spans(height, 4 * n_channels * (n_planes + depth) * width):
        slab = rows.read((0, n_planes), (begin, end), (0, width))
        resized = [_plane(slab[:, :, y], (depth, width), threads) for y in range(end - begin)]
        out.write(np.stack(resized, axis=2), 0, begin, 0)
    if rows is not volume:
        rows.remove()
    return out


def _smoothed(maps: Bricks, sigmas: tuple[float, float, float]) -> Bricks:
    """Maps (4, z, y, x) with their flow as `heads.flow_3d.smoothed`, in another file: axis by axis, in whole lines."""
    out = Bricks(maps.path.with_name("smooth.bricks"), maps.n_channels, maps.shape, np.float32)
    source = maps
    for axis in (axis for axis, sigma in enumerate(sigmas) if sigma > 0):
        sigma_z, sigma_y, sigma_x = (sigma if other == axis else 0.0 for other, sigma in enumerate(sigmas))
        across = 1 if axis == 0 else 0
        side = maps.shape[across]
        for span in _spans(side, 12 * maps.n_channels * math.prod(maps.shape) // side):
            spans = [(0, length) for length in maps.shape]
            spans[across] = span
            slab = source.read(*spans)
            for component in slab[:-1]:
                component[:] = smoothed(component, (sigma_z, sigma_y, sigma_x))
            out.write(slab, *(begin for begin, _ in spans))
        source = out
    return out


def _plane(plane: NDArray[np.float32], shape: tuple[int, int], threads: int) -> NDArray[np.float32]:
    """A plane (C, y, x) at another shape."""
    return resize_linear(np.ascontiguousarray(plane), shape, threads=threads)


def _spans(side: int, per_plane: int) -> Iterator[Span]:
    """Planes of an axis, as many at a time as memory is meant for."""
    n_planes = max(1, _SLAB // per_plane)
    n_planes = n_planes // SIDE * SIDE or n_planes
    for begin in range(0, side, n_planes):
        yield begin, min(side, begin + n_planes)
