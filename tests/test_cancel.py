"""Long calls of kernels end early: on Ctrl-C, and when another thread sets their flag, as a closed stream does."""

from __future__ import annotations

import functools
import gc
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import cellrt
from cellrt import kernels
from cellrt.errors import KernelError
from cellrt.kernels import native

MANY = 2**31 - 1
OCTAHEDRON = (
    np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [-1, 0, 0], [0, -1, 0], [0, 0, -1]], np.float32),
    np.array([[0, 1, 2], [0, 2, 4], [0, 4, 5], [0, 5, 1], [3, 2, 1], [3, 4, 2], [3, 5, 4], [3, 1, 5]], np.int32),
)


def follow_2d() -> None:
    # Steps without an aim: hardly any of these trajectories comes back to where it was within a round.
    flow = np.random.default_rng(8).normal(0, 5, (2, 60, 60)).astype(np.float32)
    options: dict[str, Any] = {"dynamics": "v3", "interpolate": False, "n_iter": MANY, "threads": 2}
    kernels.flow_follow_2d(flow, np.ones((60, 60), np.float32), cellprob_threshold=0.0, **options)


def follow_3d() -> None:
    flow = np.random.default_rng(8).normal(0, 5, (3, 20, 20, 20)).astype(np.float32)
    kernels.flow_follow_3d(flow, np.ones((20, 20, 20), np.float32), cellprob_threshold=0.0, n_iter=MANY, threads=2)


def crowd(n_rays: int, n_axes: int, n: int = 60_000) -> tuple[Any, Any, Any]:
    """Candidates in one place, of which none suppresses another at a threshold of 1."""
    random = np.random.default_rng(0)
    dist = random.uniform(15, 25, (n, n_rays)).astype(np.float32)
    return random.random(n, np.float32), dist, random.integers(0, 100, (n, n_axes)).astype(np.int32)


def suppress_2d() -> None:
    kernels.star_nms_2d(*crowd(32, 2), nms_thresh=1.0, max_pairs=10**15, threads=2)


def suppress_tiles_2d() -> None:
    stream = kernels.StarNms2D(32, 0, 60_000)
    stream.add(*crowd(32, 2), None)
    stream.survivors(1.0, 10**15, 2)


def suppress_3d() -> None:
    kernels.star_nms_3d(*crowd(6, 3), *OCTAHEDRON, nms_thresh=1.0, max_work=10**15, threads=2)


def settle_3d() -> None:
    is_open = np.zeros(60_000, np.uint8)
    kernels.star_settle_3d(*crowd(6, 3), *OCTAHEDRON, is_open, nms_thresh=1.0, max_work=10**15, threads=2)


LONG = [follow_2d, follow_3d, suppress_2d, suppress_tiles_2d, suppress_3d, settle_3d]  # a minute and more


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timer of this system gives a signal")
@pytest.mark.parametrize("call", LONG)
def test_ctrl_c(call: Callable[[], None]) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    start = time.monotonic()
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with pytest.raises(KeyboardInterrupt):
            call()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert time.monotonic() - start < 5


MANY_INTERRUPTS = """
import random, signal, time
from cellrt.kernels.native import cancellable

def call(flag):
    end = time.monotonic() + 30
    while not flag[0] and time.monotonic() < end:
        time.sleep(0.001)

def interrupt(*_):
    raise KeyboardInterrupt

signal.signal(signal.SIGALRM, interrupt)
random.seed(0)
slowest = 0
for _ in range(1500):
    start = time.monotonic()
    try:
        signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-6, 3e-4))
        cancellable(call)
        raise SystemExit("not interrupted")
    except KeyboardInterrupt:
        slowest = max(slowest, time.monotonic() - start)
print(slowest < 5)
"""


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timer of this system gives a signal")
def test_ctrl_c_while_a_call_begins() -> None:
    """It is not lost, and leaves no thread behind that Python waits for when it ends."""
    run = subprocess.run([sys.executable, "-c", MANY_INTERRUPTS], capture_output=True, text=True, timeout=120)
    assert (run.stdout, run.stderr, run.returncode) == ("True\n", "", 0)


def test_an_error_of_a_call_keeps_nothing_alive() -> None:
    class Array(np.ndarray):
        pass

    def fail(flag: Any, array: Any) -> None:
        raise KernelError("no", 1)

    array = np.zeros(3).view(Array)
    alive = weakref.ref(array)
    gc.disable()
    try:
        with pytest.raises(KernelError, match="no"):
            native.cancellable(functools.partial(fail, array=array))
        del array
        assert alive() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("call", LONG)
def test_a_flag_set_by_another_thread(call: Callable[[], None]) -> None:
    flag = np.zeros(1, np.int32)
    errors: list[KernelError] = []

    def work() -> None:
        with kernels.stopped_by(flag):
            try:
                call()
            except KernelError as error:
                errors.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(0.3)
    assert thread.is_alive()
    flag[0] = 1
    thread.join(5)
    assert not thread.is_alive()
    assert [error.status for error in errors] == [kernels.ERROR_CANCELLED]
    assert "cancel" in str(errors[0])


def test_a_closed_stream_does_not_wait_for_a_long_suppression() -> None:
    noise = np.random.default_rng(0).random((512, 512), np.float32)  # every sample is a candidate, none goes
    stream = cellrt.load("nuclei", providers=["cpu"]).stream([noise], prob_thresh=0, nms_thresh=1.0)
    deadline = time.monotonic() + 60
    while stream.profile["network"] == 0 and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)
    start = time.monotonic()
    stream.close()
    assert time.monotonic() - start < 5  # the whole takes 25 seconds


def test_calls_while_python_ends() -> None:
    """When no thread can be started any more, the main one makes the call itself."""
    program = (
        "import atexit, numpy as np\n"
        "from cellrt import kernels\n"
        "kernels.usable_cores()\n"
        "one = np.ones(1, np.float32), np.ones((1, 8), np.float32), np.zeros((1, 2), np.int32)\n"
        "call = lambda: print(kernels.star_nms_2d(*one, nms_thresh=0.5, max_pairs=9, threads=1))\n"
        "atexit.register(call)\n"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert (run.stdout, run.stderr) == ("[0]\n", "")
