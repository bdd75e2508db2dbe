"""Many images through one model: the same cells, in order, bounded, whatever fails and whenever it is stopped."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import time
import weakref

import flow_network
import numpy as np
import pytest

import cellrt
from cellrt.errors import CapacityError, CellrtError, FileError, ImageError
from cellrt.heads.star import Collector
from cellrt.stream import STAGES

DIAMETER = flow_network.DIAMETER


@pytest.fixture(scope="module")
def star():
    return cellrt.load("nuclei", providers=["cpu"])


@pytest.fixture(scope="module")
def flow():
    return cellrt.load(flow_network.model(), providers=["cpu"])


def blobs(shape, seed):
    return flow_network.image(shape, seed=seed)[0]


def threads_of_streams():
    return [thread for thread in threading.enumerate() if thread.name == "cellrt-stream"]


def ended(seconds=10.0):
    """Whether all threads of streams end in that time."""
    end = time.monotonic() + seconds
    while threads_of_streams() and time.monotonic() < end:
        time.sleep(0.01)
    return not threads_of_streams()


@pytest.mark.parametrize("kind", ["star", "flow"])
@pytest.mark.parametrize("options", [{}, {"workers": 1, "in_flight": 1}, {"workers": 5, "in_flight": 20}])
def test_the_cells_of_segment_in_the_order_of_the_images(kind, options, star, flow):
    model, more = (star, {}) if kind == "star" else (flow, {"diameter": DIAMETER, "batch_size": 3})
    images = [blobs((60 + 40 * (i % 2), 70 + 10 * (i % 3)), seed=i) for i in range(12)]
    results = list(model.stream(iter(images), **options, **more))
    assert [result.index for result in results] == list(range(12))
    for image, result in zip(images, results, strict=True):
        want = model.segment(image, **more)
        assert result.error is None
        assert np.array_equal(result.instances.labels, want.labels)
        assert np.array_equal(result.instances.scores, want.scores)
        assert np.array_equal(result.pixels[0], image)
        assert (result.maps is None) == (kind == "star")
    assert ended()


def test_as_they_are_done(star):
    """The first image waits for the second; in order the first would block the second, which waits to be given."""
    go = threading.Event()

    def slow():
        assert go.wait(10)
        return blobs((64, 64), 0)

    with star.stream([slow, blobs((64, 64), 1)], ordered=False, workers=2) as results:
        assert next(results).index == 1
        go.set()
        assert next(results).index == 0
        assert next(results, None) is None


def test_images_are_taken_as_they_are_needed(star):
    """No more images are begun than may be in flight, those that wait to be given included."""
    taken = []

    def images():
        for i in range(40):
            taken.append(i)
            yield blobs((48, 48), i)

    with star.stream(images(), in_flight=3, workers=4) as results:
        for n_given in range(1, 41):
            next(results)
            time.sleep(0.01)
            assert len(taken) <= n_given + 3


def test_tiles_of_several_images_share_batches(flow, monkeypatch):
    """Batches are full while images wait: here all images are there before the network is let go."""
    batches, go, network = [], threading.Event(), flow._network

    def waiting(batch):
        assert go.wait(10)
        batches.append(batch.shape[0])
        return network(batch)

    monkeypatch.setattr(flow, "_network", waiting)
    n_read = threading.Semaphore(0)

    def image(i):
        n_read.release()
        return blobs((60, 70), i)

    sources = [lambda i=i: image(i) for i in range(10)]
    with flow.stream(sources, diameter=DIAMETER, batch_size=4, in_flight=10, workers=2) as results:
        for _ in sources:
            n_read.acquire(timeout=10)
        time.sleep(0.2)  # the last of them is prepared
        go.set()
        assert all(result.error is None for result in results)
    # the network took what there was when it was idle, one image or a few, and full batches from then on
    assert sum(batches) == 10
    assert batches[1:-1] == [4] * len(batches[1:-1])


def test_other_devices_get_batches(star, monkeypatch):
    """Where the network does not run on the CPU it gets several images at once; here the CPU plays the part."""
    images = [blobs((64, 64), i) for i in range(9)]
    want = [star.segment(image).labels for image in images]
    batches, network = [], star._network
    monkeypatch.setattr(
        star, "_network", lambda batch: batches.append(batch.shape[0]) or time.sleep(0.1) or network(batch)
    )
    monkeypatch.setattr(star, "providers", ("CUDAExecutionProvider", "CPUExecutionProvider"))
    found = list(star.stream(images, workers=2, in_flight=9))
    assert all(np.array_equal(a.instances.labels, b) for a, b in zip(found, want, strict=True))
    assert sum(batches) == 9
    assert max(batches) > 1


def test_a_size_model_runs_three_times(star):
    model = cellrt.load(flow_network.model(size_model=True), providers=["cpu"])
    images = [flow_network.image((160, 200), diameter, seed=i)[0] for i, diameter in enumerate((22.0, 12.0, 17.0))]
    for image, result in zip(images, model.stream(images), strict=True):
        want = model.predict(image)
        assert result.maps.diameter == want.diameter
        assert np.array_equal(result.instances.labels, model.decode(want).labels)


def test_paths_functions_and_axes(star, tmp_path):
    tifffile = pytest.importorskip("tifffile")
    image = blobs((64, 80), 0)
    tifffile.imwrite(tmp_path / "a.tif", image)
    sources = [
        tmp_path / "a.tif",
        str(tmp_path / "a.tif"),
        lambda: image,
        lambda: (image[..., None], "YXC"),
        image[None],
    ]
    results = list(star.stream(sources))
    want = star.segment(image).labels
    assert all(np.array_equal(result.instances.labels, want) for result in results)
    assert [result.source for result in results] == [*sources[:2], None, None, None]
    (turned,) = star.stream([image.T], axes="XY")
    assert np.array_equal(turned.instances.labels, want)


def test_an_image_that_fails_is_told_and_the_others_go_on(star, flow, tmp_path):
    good = blobs((64, 64), 0)

    def broken():
        raise RuntimeError("shutter")

    sources = [good, np.full((64, 64), np.nan), tmp_path / "none.tif", broken, "text of no file", good]
    for model in (star, flow):
        results = list(model.stream(sources))
        errors = [type(result.error) for result in results]
        assert errors == [type(None), ImageError, FileError, RuntimeError, FileError, type(None)]
        assert [result.instances is None for result in results] == [False, True, True, True, True, False]


def test_a_network_that_fails_costs_its_images_only(star, monkeypatch):
    network = star._network

    def failing(batch):
        if batch.shape[2:] == (96, 96):
            raise CellrtError("no memory")
        return network(batch)

    monkeypatch.setattr(star, "_network", failing)
    images = [blobs((side, side), 0) for side in (64, 96, 64)]
    assert [result.error is None for result in star.stream(images)] == [True, False, True]


def test_what_was_before_an_iterable_that_fails_comes_out(star):
    def camera():
        yield blobs((64, 64), 0)
        yield blobs((64, 64), 1)
        raise OSError("camera gone")

    results = star.stream(camera())
    assert [next(results).index, next(results).index] == [0, 1]
    with pytest.raises(OSError, match="camera gone"):
        next(results)
    assert ended()
    assert next(results, None) is None


def test_writing(star):
    """`write` runs in other threads, with everything at hand; what it raises is that image's error."""
    seen = {}

    def write(result):
        assert threading.current_thread() is not threading.main_thread()
        seen[result.index] = len(result.instances)
        if result.index == 1:
            raise OSError("disk full")

    images = [blobs((64, 64), i) for i in range(3)]
    results = list(star.stream(images, write=write))
    assert [str(result.error) for result in results] == ["None", "disk full", "None"]
    assert results[1].instances is None
    assert seen == {i: len(star.segment(image)) for i, image in enumerate(images)}


def endless():
    image = blobs((64, 64), 0)
    while True:
        yield image


def test_images_of_one_tile_shape_and_other_batches(star, monkeypatch):
    """How many tiles a batch may have depends on the image; tiles of both kinds wait for the network together."""
    images = [blobs((208, 200), 0), blobs((224, 200), 1), blobs((208, 200), 2)]
    want = [star.segment(image, tiles=(2, 1)).labels for image in images]
    monkeypatch.setattr(star, "providers", ("CUDAExecutionProvider",))
    monkeypatch.setattr("cellrt.star_model.StarModel._max_tile_pixels", 100_000)
    for _ in range(3):
        found = list(star.stream(images, tiles=(2, 1), workers=3))
        assert all(np.array_equal(result.instances.labels, labels) for result, labels in zip(found, want, strict=True))


def test_an_image_that_cannot_take_its_maps_costs_no_other(star, monkeypatch):
    """Nine images in batches; the candidates of one are too many."""
    images = [blobs((64, 64), i) for i in range(9)]
    monkeypatch.setattr(star, "providers", ("CUDAExecutionProvider",))
    add, seen = Collector.add, []

    def adding(self, maps, **where):
        seen.append(self)
        if len(seen) == 5:
            raise CapacityError("too many", -3)
        add(self, maps, **where)

    monkeypatch.setattr(Collector, "add", adding)
    network = star._network
    monkeypatch.setattr(star, "_network", lambda batch: time.sleep(0.1) or network(batch))
    found = list(star.stream(images, workers=2, in_flight=9))
    assert [type(result.error) for result in found].count(CapacityError) == 1
    assert sum(result.error is None for result in found) == 8


@pytest.mark.parametrize("fault", ["pixels", "write"])
def test_failed_images_are_let_go_without_the_collector(star, fault):
    """An error holds its frames, and a frame the image: thousands of failures must not pile up until gc runs."""

    def write(_):
        raise OSError("disk full")

    image = np.full((64, 64), np.nan) if fault == "pixels" else blobs((64, 64), 0)
    alive = []
    gc.collect()
    gc.disable()
    try:
        for result in star.stream([image.copy() for _ in range(20)], write=write):
            assert result.error is not None
            alive.append(weakref.ref(result.pixels))
        del result
        assert sum(ref() is not None for ref in alive) <= 1
    finally:
        gc.enable()


def test_large_images_are_not_begun_together(star, monkeypatch):
    monkeypatch.setattr("cellrt.stream._MOST_PIXELS", 64 * 64)
    taken = []

    def images():
        for i in range(6):
            taken.append(i)
            yield blobs((64, 64), i)

    with star.stream(images(), workers=3, in_flight=6) as results:
        time.sleep(0.5)
        assert len(taken) <= 4  # one is under way; each worker may have begun before it was read
        assert sum(result.error is None for result in results) == 6


@pytest.mark.parametrize("how", ["close", "exit"])
def test_an_iterable_that_waits_for_ever_does_not_hold_up_the_end(how):
    """A camera that gives nothing more: closing and the end of the program do not wait for it."""
    program = (
        "import itertools, queue, sys, numpy as np, cellrt\n"
        "images = queue.Queue()\n"
        "images.put(np.random.default_rng(0).random((64, 64), np.float32))\n"
        "results = cellrt.load('nuclei', providers=['cpu']).stream(images.get() for _ in itertools.count())\n"
        "next(results)\n" + ("results.close()\n" if how == "close" else "") + "sys.exit(7)"
    )
    assert subprocess.run([sys.executable, "-c", program], timeout=60, check=False).returncode == 7


def test_a_stream_that_is_dropped_in_its_own_thread_ends(star):
    """The collector frees a ring of objects in whichever thread it happens to run."""
    held = []

    def write(_):
        held.clear()
        gc.collect()

    ring = {"stream": star.stream(endless(), write=write)}
    ring["ring"] = ring
    held.append(ring)
    del ring
    assert ended()


def test_closing_again_after_an_interrupted_close(star):
    """The first Ctrl-C stops a stream, a second one its closing: the next close still waits for all threads."""
    results = star.stream(endless(), write=lambda _: time.sleep(0.3))
    next(results)
    stop, calls = results._line.stop, []

    def interrupted():
        calls.append(1)
        if len(calls) == 1:
            raise KeyboardInterrupt
        stop()

    results._line.stop = interrupted
    with pytest.raises(KeyboardInterrupt), results:
        pass
    results.close()
    assert not threads_of_streams()


@pytest.mark.parametrize("how", ["close", "with", "let go", "exception"])
def test_no_thread_is_left(star, how):
    results = star.stream(endless())
    next(results)
    assert threads_of_streams()
    if how == "close":
        results.close()
        results.close()
        assert next(results, None) is None
    elif how == "with":
        with results:
            pass
    elif how == "let go":
        del results
        gc.collect()
    else:
        with pytest.raises(KeyboardInterrupt), results:
            raise KeyboardInterrupt
    assert ended()


def test_an_interrupted_program_ends():
    """A program that stops in the middle of a stream, or forgets it, ends at once and with its own exit code."""
    program = (
        "import itertools, sys, numpy as np, cellrt\n"
        "image = np.random.default_rng(0).random((64, 64), np.float32)\n"
        "results = cellrt.load('nuclei', providers=['cpu']).stream(itertools.repeat(image))\n"
        "next(results)\n"
        "sys.exit(7)"
    )
    assert subprocess.run([sys.executable, "-c", program], timeout=60, check=False).returncode == 7


def test_options_are_checked_before_any_image(star):
    for options, message in (
        ({"in_flight": 0}, "expected in_flight as a whole number of at least 1, got 0"),
        ({"workers": 1.5}, "expected workers"),
        ({"workers": True}, "expected workers"),
        ({"prob_thresh": 2}, "expected prob_thresh"),
        ({"tiles": (0, 1)}, "expected tiles"),
        ({"scale": -1}, "expected scale"),
        ({"normalize": (9, 3)}, "expected normalize"),
    ):
        with pytest.raises(CellrtError, match=message):
            star.stream(endless(), **options)
    with pytest.raises(TypeError, match="colour"):
        star.stream(endless(), colour="red")
    with pytest.raises(CellrtError, match="expected images to go through one by one, got 'folder'"):
        star.stream("folder")
    assert star.stream([], workers=np.int64(2)) is not None
    assert ended()


def test_profile(star):
    images = [blobs((200, 200), i) for i in range(4)]
    with star.stream(images, write=lambda _: time.sleep(0.05)) as results:
        found = list(results)
    profile = results.profile
    for stage in STAGES:
        assert profile[stage] == pytest.approx(sum(result.seconds[stage] for result in found))
    assert profile["write"] >= 0.2
    assert 0 <= profile["idle"] == pytest.approx(profile["passed"] - profile["network"])
    assert results.profile == profile  # the clock stands still
