"""Tiles of several images through one network, in full batches.

A `Job` is one image cut into tiles; `pooled` takes jobs one after the other, runs their tiles in batches of one shape
and gives the jobs back in order, each as soon as its last tile came back. Knows batches, flips and order; never what
the maps mean, nor the session.
"""

from __future__ import annotations

import itertools
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellrt.stitch import Blend
from cellrt.tile import Span

# Images that wait for their last tiles to fill a batch: together at most so many, and so many pixels.
_MAX_WAITING_IMAGES = 64
_MAX_WAITING_PIXELS = 1 << 24


class Job:
    """One image on its way through the network: its tiles, and what came out of them so far.

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
    ) -> None:
        self.image, self.rescale, self.diameter = image, rescale, diameter
        self._padded, self._crop, self._augment = padded, crop, augment
        self._tiles = [(row, column) for row in rows for column in columns]
        self._n_columns = len(columns)
        self.tile_shape = (rows[0][1] - rows[0][0], columns[0][1] - columns[0][0])
        self.n_tiles = self._left = len(self._tiles)
        self._blend = Blend(n_maps, rows, columns) if self.n_tiles > 1 else None
        self._maps: NDArray[np.float32] | None = None
        self._style: NDArray[np.float32] | None = None

    @property
    def n_pixels(self) -> int:
        """What it holds on to: pixels of the image and, until all tiles came back, of what the network sees."""
        return int(self.image[0].size + self._padded[0].size)

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
            self._maps = np.ascontiguousarray(whole[:, slice(*self._crop[0]), slice(*self._crop[1])])
            self._padded, self._blend = self._padded[:, :0].copy(), None  # the job may wait for others

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


def pooled(
    jobs: Iterable[Job],
    run: Callable[[NDArray[np.float32]], dict[str, NDArray[np.float32]]],
    *,
    batch_size: int,
    max_pixels: int,
) -> Iterator[Job]:
    """Run the tiles of all jobs; yields the jobs in order. An error of `jobs` is raised after those before it came out.

    Parameters
    ----------
    jobs : iterable of Job
        Taken one by one, as they are needed.
    run : callable
        float32 (N, C, y, x) -> ``maps`` float32 (N, M, y, x) and, where the network has one, ``style`` float32 (N, n).
    batch_size : int
        Tiles in a batch, as far as `max_pixels` allows; the last ones of a shape may be fewer.
    max_pixels : int
        Of all tiles in a batch.
    """
    waiting: deque[Job] = deque()
    queues: defaultdict[tuple[int, int], list[tuple[Job, int]]] = defaultdict(list)

    def flush(queue: list[tuple[Job, int]]) -> None:
        if queue:
            outputs = run(np.stack([job.tile(index) for job, index in queue]))
            styles = outputs.get("style", itertools.repeat(None))
            for (job, index), maps, style in zip(queue, outputs["maps"], styles, strict=False):
                job.take(index, maps, style)
            queue.clear()

    jobs = iter(jobs)
    failure: Exception | None = None
    while True:
        try:
            job = next(jobs)
        except StopIteration:
            break
        except Exception as error:  # what came before it is finished first
            failure = error
            break
        waiting.append(job)
        queue = queues[job.tile_shape]
        full = min(batch_size, max(1, max_pixels // (job.tile_shape[0] * job.tile_shape[1])))
        for index in range(job.n_tiles):
            queue.append((job, index))
            if len(queue) >= full:
                flush(queue)
        if len(waiting) >= _MAX_WAITING_IMAGES or sum(one.n_pixels for one in waiting) > _MAX_WAITING_PIXELS:
            for queue in queues.values():
                flush(queue)
        while waiting and waiting[0].is_done:
            yield waiting.popleft()
    for queue in queues.values():
        flush(queue)
    while waiting:
        yield waiting.popleft()
    if failure is not None:
        raise failure
