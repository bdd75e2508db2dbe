"""Many images through one model, with reading, the network, decoding and writing at the same time; bounded memory.

            workers                    one thread                workers
    read, pixels, prepare  ->  batches through the network  ->  finish, write  ->  iterator

Workers prefer what was begun to what is new, and begin an image only while fewer than `in_flight` are on their way.
The network runs on whatever tiles wait for it: a full batch where images come faster than it works. Knows threads and
order; never models: `Route` says how an image becomes tiles and tiles become instances.
"""

from __future__ import annotations

import contextlib
import numbers
import os
import threading
import time
import traceback
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cellrt import kernels, readers
from cellrt.errors import CellrtError
from cellrt.instances import Instances
from cellrt.pool import Found, Network, Queue, Work, run_batch

STAGES = ("read", "normalise", "network", "decode", "write")
_LOOK = 0.2  # seconds between two looks at whether somebody wants to stop: not every system wakes a wait for Ctrl-C
_MOST_PIXELS = 1 << 26  # of all channels of all images under way, beyond which no other is begun: about a gigabyte


class Route(NamedTuple):
    """How an image goes through a model."""

    axes: str | None
    """Of arrays that come without."""
    pixels: Callable[[ArrayLike, str | None], NDArray[Any]]
    """Array and axes -> (C, Y, X), or of a volume (C, Z, Y, X)."""
    work: Callable[[NDArray[Any]], Work]
    """Those pixels, normalised and cut into tiles."""


@dataclass(eq=False)
class Segmented:
    """One image of a stream, and what was found in it.

    Attributes
    ----------
    index : int
        Its place among the images, from 0.
    source : path or None
        The file, where the image was one.
    instances : Instances or None
        None if it failed.
    error : exception or None
        Why it failed: a `CellrtError`, an `OSError`, a `MemoryError`, or what a function of yours raised.
    pixels : array (C, Y, X), (C, Z, Y, X) or None
        The image as it was read; None if that failed.
    maps : FlowMaps or None
        What the network of a flow model said.
    seconds : dict of str to float
        Time that each of "read", "normalise", "network", "decode" and "write" took for it. Several images are worked
        on at once, so these add up to more than the time that passes.
    """

    index: int
    source: str | os.PathLike[str] | None = None
    instances: Instances | None = None
    error: BaseException | None = None
    pixels: NDArray[Any] | None = field(default=None, repr=False)
    maps: Any = field(default=None, repr=False)
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))


class Stream(Iterator[Segmented]):
    """The results of `Model.stream`, which see; an iterator and a context manager."""

    def __init__(
        self,
        images: Iterable[Any],
        route: Route,
        network: Network,
        *,
        in_flight: int,
        workers: int,
        ordered: bool,
        write: Callable[[Segmented], None] | None,
    ) -> None:
        for name, value in (("workers", workers), ("in_flight", in_flight)):
            if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < 1:
                raise CellrtError(f"expected {name} as a whole number of at least 1, got {value!r}")
        if isinstance(images, (str, os.PathLike)):
            raise CellrtError(f"expected images to go through one by one, got {images!r}; put it into a list")
        self._line = _Line(iter(images), route, network, in_flight=int(in_flight), ordered=ordered, write=write)
        # the threads know the line only, so that a stream which nobody holds any more ends, and them with it
        self._end = weakref.finalize(self, self._line.stop)
        self._line.start(int(workers))

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> Segmented:
        try:
            result = self._line.take()
        except BaseException:
            self.close()
            raise
        if result is None:
            self.close()
            raise StopIteration
        return result

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all threads; images that were not begun are left, what is being written is written whole.

        A thread that waits for the iterable ends as soon as that gives an image, or ends itself.
        """
        self._line.stop()
        self._end.detach()

    @property
    def profile(self) -> dict[str, float]:
        """Seconds that the stages took so far, by `STAGES`, added up over images; "passed": since the start; "idle":
        of those, how long the network waited."""
        return self._line.profile()


class _Entry:
    """An image on its way."""

    def __init__(self, result: Segmented) -> None:
        self.result = result
        self.work: Work | None = None


class _Line:
    """The threads of a stream and what they share."""

    def __init__(
        self,
        images: Iterator[Any],
        route: Route,
        network: Network,
        *,
        in_flight: int,
        ordered: bool,
        write: Callable[[Segmented], None] | None,
    ) -> None:
        self._images, self._route, self._network, self._write = images, route, network, write
        self._in_flight, self._ordered = in_flight, ordered
        self._changed = threading.Condition()  # held for all that follows
        self._queue = Queue()
        self._entries: dict[Work, _Entry] = {}  # of the works that the network has
        self._decodable: deque[_Entry] = deque()
        self._done: dict[int, Segmented] = {}
        self._n_begun = self._n_given = self._n_pixels = 0
        self._puller: threading.Thread | None = None  # who takes an image from the iterable
        self._exhausted = self._stopped = False
        self._failure: BaseException | None = None  # of the iterable, or a defect of ours
        self._seconds = dict.fromkeys(STAGES, 0.0)
        self._started = time.perf_counter()
        self._ended: float | None = None
        self._threads: list[threading.Thread] = []
        self._cancel = np.zeros(1, np.int32)  # of kernels that would take long

    def start(self, workers: int) -> None:
        """Start all threads. Daemons: a program that ends does not wait for them, `weakref.finalize` stops them."""
        loops = [self._feed_network, *[self._work] * workers]
        self._threads = [
            threading.Thread(target=self._guarded, args=(loop,), name="cellrt-stream", daemon=True) for loop in loops
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Ask all threads to end, and wait for them, but not for one that waits for the iterable."""
        # the last reference to a stream may be dropped by one of its threads, even where that holds the lock
        own = threading.current_thread() in self._threads
        with self._changed:
            self._stopped = True
            self._cancel[0] = 1
            self._changed.notify_all()
            while not own and any(thread.is_alive() and thread is not self._puller for thread in self._threads):
                self._changed.wait(0.01)
            self._ended = self._ended or time.perf_counter()
            if not own:
                self._done.clear()
                self._decodable.clear()
                self._entries.clear()

    def take(self) -> Segmented | None:
        """The next result, None after the last; raises what the iterable raised."""
        with self._changed:
            while True:
                index = self._n_given if self._ordered else next(iter(self._done), -1)
                if index in self._done:
                    result = self._done.pop(index)
                    self._n_given += 1
                    self._n_pixels -= 0 if result.pixels is None else result.pixels.size
                    self._changed.notify_all()
                    return result
                if self._stopped or (self._exhausted and self._n_given == self._n_begun):
                    failure, self._failure = self._failure, None
                    if failure is not None:
                        raise failure
                    return None
                self._changed.wait(_LOOK)

    def profile(self) -> dict[str, float]:
        """See `Stream.profile`."""
        with self._changed:
            passed = (self._ended or time.perf_counter()) - self._started
            return self._seconds | {"passed": passed, "idle": passed - self._seconds["network"]}

    def _guarded(self, loop: Callable[[], None]) -> None:
        """Run a thread's loop; what must not happen is raised where the results are taken, and stops the others."""
        try:
            with kernels.stopped_by(self._cancel):
                loop()
        except BaseException as error:
            with self._changed:
                self._failure, self._stopped = error, True
                self._changed.notify_all()

    def _work(self) -> None:
        """Finish what came back from the network, else begin another image, else wait."""
        while True:
            with self._changed:
                while not self._stopped and not self._decodable and not self._may_begin():
                    if self._is_over():
                        return
                    self._changed.wait()
                if self._stopped:
                    return
                entry = self._decodable.popleft() if self._decodable else None
                if entry is None:
                    self._puller = threading.current_thread()
            if entry is None:
                self._begin()
            else:
                self._finish(entry)
            del entry  # a thread that waits must not hold an image

    def _may_begin(self) -> bool:
        """Whether there may be another image, room for it, and nobody who takes it already."""
        n_under_way = self._n_begun - self._n_given
        has_room = n_under_way == 0 or (n_under_way < self._in_flight and self._n_pixels < _MOST_PIXELS)
        return has_room and not self._exhausted and self._puller is None

    def _is_over(self) -> bool:
        """Whether nothing is left that could come back."""
        return self._exhausted and self._n_given + len(self._done) == self._n_begun

    def _begin(self) -> None:
        """Take the next image, and bring it to the network."""
        item: Any = None
        failure: BaseException | None = None
        try:
            item = next(self._images)
            exhausted = False
        except StopIteration:
            exhausted = True
        except BaseException as error:
            exhausted, failure = True, error
        with self._changed:
            self._puller = None
            self._exhausted, self._failure = exhausted, self._failure or failure
            index = self._n_begun
            self._n_begun += not exhausted
            self._changed.notify_all()
        if exhausted or self._stopped:
            return
        entry = _Entry(Segmented(index, item if isinstance(item, (str, os.PathLike)) else None))
        try:
            self._prepare(entry, item)
        except BaseException as error:  # of whatever kind: a thread that dies would leave the others waiting
            self._deliver(entry, error)
        del entry, item  # see _deliver

    def _prepare(self, entry: _Entry, item: Any) -> None:
        """Read, normalise and cut an image."""
        with self._timed(entry, "read"):
            array, axes = self._read(item)
            pixels = self._route.pixels(array, axes)
        del item, array
        with self._changed:
            entry.result.pixels = pixels
            self._n_pixels += pixels.size
        with self._timed(entry, "normalise"):
            work = self._route.work(pixels)
        self._to_network(entry, work)

    def _read(self, item: Any) -> tuple[ArrayLike, str | None]:
        """An image in whichever form it came, and its axes."""
        if isinstance(item, (str, os.PathLike)):
            return readers.read(Path(item), self._route.axes)
        if callable(item):
            item = item()
        if isinstance(item, tuple) and len(item) == 2 and (item[1] is None or isinstance(item[1], str)):
            return item[0], item[1] or self._route.axes
        return item, self._route.axes

    def _to_network(self, entry: _Entry, work: Work, *, first: bool = False) -> None:
        entry.work = work
        with self._changed:
            self._entries[work] = entry
            self._queue.put(work, first=first)
            self._changed.notify_all()

    def _feed_network(self) -> None:
        """Run batches while there are any."""
        while True:
            with self._changed:
                while not self._stopped and not self._queue:
                    if self._is_over():
                        return
                    self._changed.wait()
                if self._stopped:
                    return
                tiles = self._queue.batch()
            self._run(tiles)
            del tiles  # a thread that waits must not hold an image

    def _run(self, tiles: list[tuple[Work, int]]) -> None:
        """Run the network on a batch, and hand on what it completes."""
        begin = time.perf_counter()
        done, failed = self._outcome(tiles)
        seconds = time.perf_counter() - begin
        with self._changed:
            self._seconds["network"] += seconds
            for work, _ in tiles:
                self._entries[work].result.seconds["network"] += seconds / len(tiles)
            for work in done:
                self._decodable.append(self._entries.pop(work))
            for work, error in failed.items():
                self._queue.drop(work)
                self._deliver(self._entries.pop(work), error)
            self._changed.notify_all()

    def _outcome(self, tiles: list[tuple[Work, int]]) -> tuple[list[Work], Mapping[Work, BaseException]]:
        """As of `run_batch`; if the network fails, it fails all: which of them it was is not known."""
        try:
            return run_batch(tiles, self._network)
        except BaseException as error:
            return [], dict.fromkeys((work for work, _ in tiles), error)

    def _finish(self, entry: _Entry) -> None:
        """Make instances of what came back, and write them; or send the image to the network again."""
        try:
            if self._decode(entry):
                self._deliver(entry, None)
        except BaseException as error:
            entry.result.instances = None
            self._deliver(entry, error)
        del entry  # see _deliver

    def _decode(self, entry: _Entry) -> bool:
        """Whether that was the end of it."""
        with self._timed(entry, "decode"):
            assert entry.work is not None
            found = entry.work.finish()
        if not isinstance(found, Found):
            self._to_network(entry, found, first=True)
            return False
        entry.result.instances, entry.result.maps = found.instances, found.maps
        if self._write is not None:
            with self._timed(entry, "write"):
                self._write(entry.result)
        return True

    def _deliver(self, entry: _Entry, error: BaseException | None) -> None:
        entry.work = None  # the result is all that is kept
        entry.result.error = error
        if error is not None and error.__traceback__ is not None:
            # Frames hold pixels and, through the result, the error itself: a ring that would keep both for long. That
            # of the caller cannot be cleared, since it runs, and has to forget the entry itself.
            traceback.clear_frames(error.__traceback__)
        with self._changed:
            self._done[entry.result.index] = entry.result
            self._changed.notify_all()

    @contextlib.contextmanager
    def _timed(self, entry: _Entry, stage: str) -> Iterator[None]:
        """Note what a stage takes."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - begin
            with self._changed:
                self._seconds[stage] += seconds
                entry.result.seconds[stage] += seconds
