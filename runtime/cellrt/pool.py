"""Images cut into tiles, and the tiles of one or several images through the network in full batches.

A `Work` is one image on its way: tiles to run and what follows when they came back, which may be another `Work` (the
size of the objects is known now). A `Queue` hands out batches of tiles of one shape, those of the oldest image first;
`run_batch` runs one, `complete` a whole image. `Job` is the work of networks whose tiles are blended. Knows batches,
flips and order; never what the maps mean, nor the session.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cellrt.instances import Instances
from cellrt.stitch import Blend
from cellrt.tile import Span

# float32 (N, C, y, x) -> ``maps`` float32 (N, M, y, x) and, where the network has one, ``style`` float32 (N, n); with z
# before y for networks of volumes
Network = Callable[[NDArray[np.float32]], dict[str, NDArray[np.float32]]]


@dataclass(frozen=True, eq=False)
class Found:
    """What became of an image."""

    instances: Instances | None
    """None where only the maps were asked for."""
    maps: Any = None
    """What `FlowModel.predict` gives, of a flow model."""


class Work(Protocol):
    """One image on its way through the network."""

    @property
    def n_tiles(self) -> int:
        """Calls of the network that it needs."""

    @property
    def tile_shape(self) -> tuple[int, ...]:
        """What each of them reads, pixels (y, x) or (z, y, x)."""

    @property
    def batch_size(self) -> int:
        """Tiles that the network should run on at once."""

    @property
    def is_done(self) -> bool:
        """Whether all tiles came back."""

    def tile(self, index: int) -> NDArray[np.float32]:
        """The network's input for one tile, (C, y, x) or (C, z, y, x)."""

    def take(self, index: int, maps: NDArray[np.float32], style: NDArray[np.float32] | None) -> None:
        """Take the network's output for one tile, of which only copies should be kept: the memory is the network's.

        Tiles come in order.
        """

    def finish(self) -> Work | Found:
        """Once all tiles came back: the result, or what the network has to do next."""


class Queue:
    """Works whose tiles wait for the network."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[Work, int]] = deque()  # with the first tile that was not handed out

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, work: Work, *, first: bool = False) -> None:
        """Add a work; `first`: it is of an older image than those that wait."""
        if first:
            self._waiting.appendleft((work, 0))
        else:
            self._waiting.append((work, 0))

    def batch(self) -> list[tuple[Work, int]]:
        """The next tiles, all of one shape; fewer than a full batch only where no more wait behind one another."""
        tiles: list[tuple[Work, int]] = []
        while self._waiting:
            work, begin = self._waiting[0]
            if tiles and (work.tile_shape != tiles[0][0].tile_shape or len(tiles) >= work.batch_size):
                break
            end = min(work.n_tiles, begin + work.batch_size - len(tiles))
            tiles += ((work, index) for index in range(begin, end))
            if end < work.n_tiles:
                self._waiting[0] = (work, end)
                break
            self._waiting.popleft()
        return tiles

    def drop(self, work: Work) -> None:
        """Forget a work's tiles."""
        self._waiting = deque(entry for entry in self._waiting if entry[0] is not work)


def run_batch(tiles: Sequence[tuple[Work, int]], network: Network) -> tuple[list[Work], dict[Work, Exception]]:
    """Run the network on tiles of one shape.

    Returns the works of which all tiles came back now, and those that could not take theirs, with the reason. An error
    of the network itself is raised.
    """
    images = [work.tile(index) for work, index in tiles]
    batch = np.stack(images) if len(images) > 1 else np.ascontiguousarray(images[0])[np.newaxis]
    outputs = network(batch)
    styles = outputs.get("style", itertools.repeat(None))
    failed: dict[Work, Exception] = {}
    for (work, index), maps, style in zip(tiles, outputs["maps"], styles, strict=False):
        if work not in failed:
            try:
                work.take(index, maps, style)
            except Exception as error:  # of this image: the others in the batch are none the worse
                failed[work] = error
    return [work for work in dict.fromkeys(work for work, _ in tiles) if work.is_done and work not in failed], failed


def complete(work: Work, network: Network) -> Found:
    """Take one image all the way."""
    result: Work | Found = work
    while not isinstance(result, Found):
        queue = Queue()
        queue.put(result)
        while queue:
            _, failed = run_batch(queue.batch(), network)
            for error in failed.values():
                raise error
        result = result.finish()
    return result


class Job:
    """The work of a network whose tiles are blended.

    Parameters
    ----------
    image : float32 (C, Y, X)
        Normalised; kept for whoever asks.
    padded : float32 (C, y, x)
        The image resized by `rescale` and padded.
    rescale, diameter : float
        Kept for whoever asks, the first as the numpy scalar that it was computed as.
    rows, columns : sequence of (begin, end)
        What each row and each column of tiles covers of `padded`; all of one size.
    crop : ((begin, end), (begin, end))
        Where the resized image lies in `padded`, along y and x.
    augment : bool
        Every second column of tiles is shown to the network upside down, every second row mirrored.
    n_maps : int
        Channels that come out.
    batch_size : int
        As of every `Work`.
    then : callable
        What `finish` does with the job.
    """

    def __init__(
        self,
        image: NDArray[np.float32],
        padded: NDArray[np.float32],
        *,
        rescale: np.floating[Any],
        diameter: float,
        rows: Sequence[Span],
        columns: Sequence[Span],
        crop: tuple[Span, Span],
        augment: bool,
        n_maps: int,
        batch_size: int,
        then: Callable[[Job], Work | Found],
    ) -> None:
        self.image, self.rescale, self.diameter = image, rescale, diameter
        self.batch_size = batch_size
        self._padded, self._crop, self._augment, self._then = padded, crop, augment, then
        self._tiles = [(row, column) for row in rows for column in columns]
        self._n_columns = len(columns)
        self.tile_shape = (rows[0][1] - rows[0][0], columns[0][1] - columns[0][0])
        self.n_tiles = self._left = len(self._tiles)
        self._blend = Blend(n_maps, rows, columns) if self.n_tiles > 1 else None
        self._maps: NDArray[np.float32] | None = None
        self._style: NDArray[np.float32] | None = None

    @property
    def is_done(self) -> bool:
        """Whether all tiles came back."""
        return self._left == 0

    def tile(self, index: int) -> NDArray[np.float32]:
        """The network's input for one tile, (C, y, x); flipped where the image is augmented."""
        row, column = self._tiles[index]
        return self._padded[:, slice(*row), slice(*column)][self._flip(index)]

    def take(self, index: int, maps: NDArray[np.float32], style: NDArray[np.float32] | None) -> None:
        """Take the network's output for one tile; tiles come in order."""
        if self._augment:
            _, flip_y, flip_x = self._flip(index)
            maps = maps[:, flip_y, flip_x].copy()
            for axis, flip in enumerate((flip_y, flip_x)):
                if flip.step == -1:
                    maps[axis] *= -1  # the flow along a flipped axis points the other way
        if self._blend is not None:
            self._blend.add(maps, *self._tiles[index])
        if style is not None:
            self._style = style.copy() if self._style is None else self._style + style
        self._left -= 1
        if self.is_done:
            whole = maps if self._blend is None else self._blend.finish()
            # a copy: the network uses the memory of its outputs again
            self._maps = whole[:, slice(*self._crop[0]), slice(*self._crop[1])].copy()
            self._padded, self._blend = self._padded[:, :0].copy(), None  # the job may wait for others

    def finish(self) -> Work | Found:
        """Whatever follows."""
        return self._then(self)

    def maps(self) -> NDArray[np.float32]:
        """The maps without padding, contiguous; handed over once, when the job is done."""
        maps, self._maps = self._maps, None
        assert maps is not None
        return maps

    def style(self) -> NDArray[np.float32]:
        """The sum of the tiles' styles, made one of length 1."""
        assert self._style is not None  # asked for only where the network has one
        with np.errstate(invalid="ignore"):  # upstream divides by 0 as well
            style: NDArray[np.float32] = self._style / np.sqrt((self._style**2).sum())
        return style

    def _flip(self, index: int) -> tuple[slice, slice, slice]:
        """Every second column of tiles is seen upside down, every second row mirrored."""
        row, column = divmod(index, self._n_columns)
        steps = (-1 if self._augment and odd % 2 else 1 for odd in (column, row))
        flip_y, flip_x = (slice(None, None, step) for step in steps)
        return slice(None), flip_y, flip_x
