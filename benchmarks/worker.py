"""The loop that both sides of a comparison run: commands in on stdin, answers out on stdout, one JSON per line.

Runs in the environment of cellrt and in that of the original, so it imports numpy only. Arrays travel in npz files.
A task is a function (inputs, threads) -> closure; the closure is what is timed, and returns a dict of arrays. What
goes into a closure is decided by cellrt_worker.py and stardist_worker.py.
"""

import gc
import json
import os
import platform
import resource
import sys
import time
from pathlib import Path

import numpy as np


def peak_megabytes():
    """Most memory that this process has held, in MB (1e6 bytes)."""
    status = Path("/proc/self/status")
    if status.exists():
        # VmHWM is this program's own; ru_maxrss also counts what the process was before it became this program.
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024 / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def serve(tasks, versions):
    """Answer commands until stdin ends.

    {"do": "load", "task": name, "inputs": npz or null, "threads": n}   -> {"seconds": ...}
    {"do": "run"}                                                       -> {"seconds": ..., "cpu_seconds": ...}
    {"do": "save", "path": npz}                                         -> {}: what the last run returned
    {"do": "peak"}                                                      -> {"megabytes": ...}
    {"do": "versions"}                                                  -> {name: version, ...}
    """
    # Libraries print to stdout as they please: answers go to a copy of it that only this loop knows.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    closure, result = None, None
    for line in sys.stdin:
        command = json.loads(line)
        action = command["do"]
        if action == "load":
            inputs = {}
            if command["inputs"]:
                with np.load(command["inputs"]) as stored:
                    inputs = {key: stored[key] for key in stored.files}
            start = time.perf_counter()
            closure = tasks[command["task"]](inputs, command["threads"])
            answer = {"seconds": time.perf_counter() - start}
        elif action == "run":
            result = None
            gc.collect()
            start, start_cpu = time.perf_counter(), time.process_time()
            result = closure()
            answer = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - start_cpu}
        elif action == "save":
            np.savez(command["path"], **result)
            answer = {}
        elif action == "peak":
            answer = {"megabytes": peak_megabytes()}
        elif action == "versions":
            answer = {"python": platform.python_version()} | versions
        else:
            raise ValueError(f"expected a known command, got {action!r}")
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
