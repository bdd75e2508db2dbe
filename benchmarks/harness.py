"""Two programs, one after the other and over again, and the ratio of each pair.

A comparison starts a worker process per side, gives both the same inputs and then runs them in turn: A B A B ... The
first pair warms up and is dropped. Times on a shared machine drift; the two runs of a pair see the same drift, so the
median of the pairs' ratios is what is reported, with the smallest and the largest beside it.

Knows how to start, time and write down; what is run is in the workers, what is asked is in the scripts.
"""

import argparse
import contextlib
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from importlib import metadata
from pathlib import Path

import numpy as np
import peers

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
ROOT = HERE.parent


class Worker:
    """A process that runs tasks; see worker.py for the commands.

    `program`: its own, instead of the side's; `name`: what its rows call it, where one side runs twice.
    """

    def __init__(self, side, threads, program=None, name=None):
        self.side, self.threads, self.name = side, threads, name or side
        python = sys.executable if side == "cellrt" else peers.python_of(side)
        environment = dict(os.environ)
        if side != "cellrt":
            environment.pop("PYTHONPATH", None)
        # Passive: the original opens a parallel region per kept polygon, and threads that spin between them make it
        # ten times slower on a busy machine. That would flatter us.
        environment |= {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "passive", "PYTHONUNBUFFERED": "1"}
        self._process = subprocess.Popen(
            # one for both versions of Cellpose
            [str(python), *(program or [str(HERE / f"{side.rstrip('34')}_worker.py")])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            text=True,
        )
        # Read in the background: a full pipe would block the worker. Shown only if the worker ends early.
        self._log = []
        self._reader = threading.Thread(target=lambda: self._log.extend(self._process.stderr), daemon=True)
        self._reader.start()

    def ask(self, **command):
        """Send one command and return the answer."""
        answer = ""
        with contextlib.suppress(BrokenPipeError):  # the worker has ended: said below
            self._process.stdin.write(json.dumps(command) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        if not answer:
            self._process.wait()
            self._reader.join(timeout=5)
            raise RuntimeError(f"the {self.side} worker ended at {command}:\n{''.join(self._log[-20:])}")
        return json.loads(answer)

    def load(self, task, inputs):
        """Prepare a task; `inputs` is the path of an npz file."""
        return self.ask(do="load", task=task, inputs=str(inputs), threads=self.threads)

    def result(self, folder):
        """The arrays that the last run returned."""
        path = Path(folder) / f"{self.name}-{self.threads}.npz"
        self.ask(do="save", path=str(path))
        with np.load(path) as stored:
            return {key: stored[key] for key in stored.files}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()


def interleave(first, second, repeats):
    """Run two loaded workers in turn; returns one row of timings. `ratio` is first / second."""
    return comparison(first, second, rounds((first, second), repeats))


def rounds(workers, repeats, *, warm_up=True):
    """Run loaded workers in turn: a list per round, of each worker's answer. Without the round that warms up."""
    taken = [[worker.ask(do="run") for worker in workers] for _ in range(repeats + warm_up)]
    return taken[warm_up:]


def comparison(first, second, runs):
    """A row of two workers' timings, out of pairs of answers; `ratio` is first / second."""
    row = {"threads": second.threads, "peer": first.name}
    for position, worker in enumerate((first, second)):
        row[worker.name] = {
            "seconds": summary([pair[position]["seconds"] for pair in runs]),
            "cpu_seconds": summary([pair[position]["cpu_seconds"] for pair in runs]),
        }
    row["ratio"] = summary([pair[0]["seconds"] / pair[1]["seconds"] for pair in runs])
    row["cpu_ratio"] = summary([pair[0]["cpu_seconds"] / pair[1]["cpu_seconds"] for pair in runs])
    return row


def in_turn(functions, repeats):
    """Run functions of this process in turn; the times of each, without those of the round that warms up."""
    rows = []
    for _ in range(repeats + 1):
        row = []
        for function in functions:
            start = time.perf_counter()
            function()
            row.append(time.perf_counter() - start)
        rows.append(row)
    return list(zip(*rows[1:], strict=True))


def summary(values):
    """Median, extremes and all values, four digits of each."""
    values = [float(f"{value:.4g}") for value in values]
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "all": values}


class Report:
    """What a script found out: rows, and where, when and with what they were measured. Written as JSON."""

    def __init__(self, name, question):
        self.name = name
        self.contents = {
            "question": question,
            "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
            "machine": machine(),
            # Below 0 the runs had priority over whatever else the machine did.
            "niceness": os.nice(0),
            "load_average": {"before": os.getloadavg()},
            "versions": {},
            "rows": [],
        }
        self._ticks, self._start = processor_ticks(), time.perf_counter()

    def versions(self, *workers):
        """Note the versions that each side runs."""
        for worker in workers:
            self.contents["versions"].setdefault(worker.side, worker.ask(do="versions"))

    def own_versions(self):
        """Note ours, where no worker runs it."""
        names = ("cellrt", "numpy", "onnxruntime")
        found = {"python": platform.python_version()} | {name: metadata.version(name) for name in names}
        self.contents["versions"]["cellrt"] = found

    def add(self, row):
        """Keep one row and print it."""
        self.contents["rows"].append(row)
        print(line(row), flush=True)

    def write(self):
        """Write results/<name>.json."""
        self.contents["load_average"]["after"] = os.getloadavg()
        total, stolen = (after - before for after, before in zip(processor_ticks(), self._ticks, strict=True))
        # What the host of a virtual machine gave to others meanwhile: above a few percent, times say little.
        self.contents["stolen_share"] = round(stolen / total, 3) if total else 0.0
        self.contents["minutes"] = round((time.perf_counter() - self._start) / 60, 1)
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"{self.name}.json"
        path.write_text(json.dumps(self.contents, indent=1) + "\n")
        print(f"wrote benchmarks/results/{path.name}")


def line(row):
    """One row, for the terminal."""
    if "ratio" not in row:
        value = f"{row['value']:.1%}" if row["unit"] == "%" else f"{row['value']:.3g} {row['unit']}"
        return f"{row['what']:<80} {value:>12} (asked: {row['target']})"
    sides = "  ".join(f"{side} {row[side]['seconds']['median']:.4g} s" for side in (row["peer"], "cellrt"))
    ratio = row["ratio"]
    return (
        f"{row['what']:<48} {row['threads']} threads  {sides}  {ratio['median']:.3g}x "
        f"({ratio['min']:.3g} to {ratio['max']:.3g}; asked: {row['target']})  {row['agreement']}"
    )


def machine():
    """What the figures were measured on; no names."""
    model = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.exists():
        names = [text.split(":", 1)[1].strip() for text in information.read_text().splitlines() if "model name" in text]
        model = names[0] if names else model
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found = {"processor": model, "cores": cores, "system": f"{platform.system()} {platform.machine()}"}
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        found["memory_gb"] = round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9)
    return found


def processor_ticks():
    """Time of all processors since the machine started, and how much of it the host took away (Linux; else 0)."""
    path = Path("/proc/stat")
    if not path.exists():
        return 0, 0
    ticks = [int(word) for word in path.read_text().split("\n", 1)[0].split()[1:9]]
    return sum(ticks), ticks[7]


def arguments(description, threads=(1, 2)):
    """The options that every script has; `threads`: what it runs on by itself."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--repeats", type=int, help="runs per row (default: the script's own)")
    told = " ".join(map(str, threads))
    parser.add_argument(
        "--threads", type=int, nargs="+", default=list(threads), help=f"thread counts (default: {told})"
    )
    return parser


def scratch():
    """A temporary folder for the arrays that travel between processes."""
    return tempfile.TemporaryDirectory(prefix="cellrt-bench-")
