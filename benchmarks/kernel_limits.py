"""How far is each kernel from what the machine allows? And suppression: size, memory, adversaries.

The floor of a kernel is the larger of two times: that of the bytes it must move, at the rate at which numpy copies a
large array into new memory, and that of the operations it must do, at the rate at which numpy multiplies float32
numbers that stay in the cache. Both rates are measured in the same run, with as many threads. What must be moved is
each input once and each output once; what must be done is written beside each kernel below. A kernel that stops early
may be faster than its floor.
"""

import sys
import threading
import time

import numpy as np
import scenes
from cellrt_worker import MAX_PAIRS_PER_CANDIDATE, errors, following, suppression
from harness import Report, Worker, arguments, scratch, summary
from worker import serve

import cellrt
from cellrt import kernels

SIZES = (10_000, 30_000, 100_000, 300_000, 1_000_000)
REPEATS = 7
LARGEST_SLOPE = 1.05
LARGEST_MEGABYTES = 300
LARGEST_RATIO = 3  # of an adversary's time to the usual one; for those that must also compare no more than usual


# ---- In the worker: one kernel each, nothing else in the closure ---------------------------------------------------


def in_threads(work, threads):
    """Call work(part) on each of `threads` threads."""
    others = [threading.Thread(target=work, args=(part,)) for part in range(1, threads)]
    for thread in others:
        thread.start()
    work(0)
    for thread in others:
        thread.join()


def copying(inputs, threads):
    """Copies of 64 MB into new memory, one per thread."""
    sources = np.ones((threads, 1 << 24), np.float32)
    return lambda: in_threads(lambda part: sources[part].copy(), threads) or {}


def multiplying(inputs, threads):
    """Products of 16,384 numbers in the cache, two thousand times per thread."""
    numbers, out = np.ones((threads, 1 << 14), np.float32), np.empty((threads, 1 << 14), np.float32)

    def work(part):
        for _ in range(2000):
            np.multiply(numbers[part], numbers[part], out=out[part])

    return lambda: in_threads(work, threads) or {}


def collecting(inputs, threads):
    """Suppression of candidates that arrive in tiles of 20,000."""
    prob, dist, points = inputs["prob"], inputs["dist"], inputs["points"].astype(np.int32)

    def run():
        stream = kernels.StarNms2D(dist.shape[1], 0, len(prob))
        for begin in range(0, len(prob), 20_000):
            tile = slice(begin, begin + 20_000)
            stream.add(prob[tile], dist[tile], points[tile], None)
        survivors = stream.survivors(float(inputs["nms_thresh"]), MAX_PAIRS_PER_CANDIDATE * len(prob), threads)
        return {"points": survivors[2]}

    return run


def calling(function):
    """A task of one kernel: `function` takes the inputs and the threads."""
    return lambda inputs, threads: lambda: {"result": function(inputs, threads)}


def masks(inputs, threads):
    """End positions to masks."""
    pixels, positions = inputs["pixels"], inputs["positions"]
    shape = tuple(int(side) for side in inputs["shape"])
    return lambda: {
        "labels": kernels.flow_masks_2d(pixels, positions, shape=shape, max_size_fraction=0.4, threads=threads)[0]
    }


TASKS = {
    "copying": copying,
    "multiplying": multiplying,
    "suppression": suppression,
    "collecting": collecting,
    "following": following,
    "errors": errors,
    "masks": masks,
    "percentiles": calling(
        lambda inputs, threads: kernels.percentiles(inputs["image"], np.array([1, 99.8]), threads=threads)
    ),
    "normalize": calling(
        lambda inputs, threads: kernels.normalize(
            inputs["image"],
            np.array([300], np.float32),
            np.array([2000], np.float32),
            out_shape=inputs["image"].shape[1:],
            threads=threads,
        )
    ),
    "candidates": calling(
        lambda inputs, threads: kernels.star_candidates_2d(
            inputs["maps"],
            n_rays=len(inputs["maps"]) - 1,
            n_class_channels=0,
            window=(0, inputs["maps"].shape[1], 0, inputs["maps"].shape[2]),
            prob_thresh=0.5,
            grid=(2, 2),
            origin=(0, 0),
            max_candidates=1 << 22,
            threads=threads,
        )[0]
    ),
    "outlines": calling(
        lambda inputs, threads: kernels.star_outlines_2d(
            inputs["dist"], inputs["points"], scale=(1.0, 1.0), threads=threads
        )
    ),
    "painting": calling(
        lambda inputs, threads: kernels.paint_polygons_2d(
            inputs["coords"],
            inputs["offsets"],
            np.arange(len(inputs["offsets"]) - 1),
            shape=tuple(int(side) for side in inputs["shape"]),
            threads=threads,
        )
    ),
    "cleaning": calling(
        lambda inputs, threads: kernels.clean_labels_2d(
            inputs["labels"],
            min_size=15,
            dynamics="v3",
            threads=threads,
        )[0]
    ),
    "regions": calling(
        lambda inputs, threads: kernels.label_regions_2d(
            inputs["labels"], n_labels=int(inputs["n_labels"]), threads=threads
        )[0]
    ),
    "tracing": calling(
        lambda inputs, threads: kernels.label_outlines_2d(
            inputs["labels"], n_labels=int(inputs["n_labels"]), threads=threads
        )[0]
    ),
    "resizing": calling(
        lambda inputs, threads: kernels.resize_linear(
            inputs["image"],
            out_shape=(2 * inputs["image"].shape[1], 2 * inputs["image"].shape[2]),
            single_precision=False,
            threads=threads,
        )
    ),
}


# ---- Inputs, and what each kernel must do with them ------------------------------------------------------------------


def star_maps(side):
    """Maps (33, side, side) float32 of a network with 32 rays, in which about a fifth of the samples are candidates."""
    random = np.random.default_rng(7)
    y, x = (np.arange(side) % 13 - 6.0 for _ in range(2))
    prob = np.exp(-(y[:, np.newaxis] ** 2 + x**2) / 14).astype(np.float32)
    return np.concatenate([prob[np.newaxis], random.uniform(5, 15, (32, side, side)).astype(np.float32)])


def kernel_rows(side):
    """(what, task, inputs, bytes that must be moved, operations that must be done), for images of `side` pixels."""
    n_pixels = side * side
    image = scenes.camera_image((side, side))[np.newaxis]
    yield "percentiles, uint16", "percentiles", {"image": image}, 2 * n_pixels, n_pixels
    yield "percentiles, float32", "percentiles", {"image": image.astype(np.float32)}, 4 * n_pixels, n_pixels
    # One subtraction and one division.
    yield "normalize, uint16", "normalize", {"image": image}, 6 * n_pixels, 2 * n_pixels
    yield (
        "resize to twice the sides",
        "resizing",
        {"image": image[:, ::2, ::2].astype(np.float32)},
        5 * n_pixels,
        (
            # Per pixel of the result a product and two sums down; half of that along, for half of the rows.
            4.5 * n_pixels
        ),
    )

    maps = star_maps(side // 2)
    n = int((maps[0] > 0.5).sum())
    what = f"candidates of {side // 2} x {side // 2} samples"
    yield what, "candidates", {"maps": maps}, 4 * maps[0].size + n * (32 * 8 + 12), 33 * n

    n = side * side * 100_000 // 2048**2
    prob, dist, points = scenes.candidates(n)
    # Per ray two products and sums, two conversions, four comparisons for the box, three for the area.
    inputs = {"prob": prob, "dist": dist, "points": points.astype(np.int32), "nms_thresh": np.float64(0.4)}
    yield f"suppression of {n:,} candidates", "suppression", inputs, n * 140, 13 * 32 * n
    n = side * side * 2000 // 2048**2
    prob, dist, points = scenes.cells(n, (side, side))
    centres = points.astype(np.float64)
    yield f"vertices of {n:,} stars", "outlines", {"dist": dist, "points": centres}, n * (16 + 32 * 12), n * 32 * 6
    coords = kernels.star_outlines_2d(dist, centres, scale=(1.0, 1.0), threads=1).reshape(-1, 2)
    inputs = {"coords": coords, "offsets": np.arange(n + 1, dtype=np.int64) * 32, "shape": np.array((side, side))}
    yield f"painting {n:,} stars", "painting", inputs, 4 * n_pixels + coords.nbytes, n_pixels

    flow, cellprob, labels, _ = scenes.flows(side)
    labels, n_labels = labels.astype(np.int32), int(labels.max())
    n_inside = int((cellprob > 0).sum())
    for dynamics in ("v3", "v4"):
        inputs = {"flow": flow, "cellprob": cellprob, "niter": np.int64(200), "dynamics": np.array(dynamics)}
        # Per step and pixel: four products and sums in two dimensions, weights, clamps. Without stopping early.
        what = f"following flows 200 steps, {dynamics}"
        yield what, "following", inputs, 12 * n_pixels + 16 * n_inside, 200 * n_inside * 24
    pixels, positions = kernels.flow_follow_2d(
        flow, cellprob, cellprob_threshold=0.0, dynamics="v3", interpolate=True, n_iter=200, threads=0
    )
    inputs = {"pixels": pixels, "positions": positions, "shape": np.array((side, side))}
    yield "masks of end positions", "masks", inputs, 16 * n_inside + 4 * n_pixels, 2 * n_inside
    _, boxes, _ = kernels.label_regions_2d(labels, n_labels=n_labels, threads=0)
    areas = np.bincount(labels.ravel(), minlength=n_labels + 1)[1:]
    steps = 2 * (boxes[:, 2] - boxes[:, 0] + boxes[:, 3] - boxes[:, 1] + 4)
    for dynamics, n_steps in (("v3", steps), ("v4", np.full(n_labels, steps.max() // 2))):
        inputs = {"flow": flow, "labels": labels, "dynamics": np.array(dynamics)}
        # Per step and pixel of a mask nine sums in double precision, which count twice.
        operations = 18 * int((areas * n_steps).sum())
        yield f"errors of flows, {dynamics}", "errors", inputs, 12 * n_pixels, operations
    inputs = {"labels": labels, "n_labels": np.int64(n_labels)}
    yield "cleaning labels", "cleaning", inputs, 8 * n_pixels, n_pixels
    yield "regions of labels", "regions", inputs, 4 * n_pixels, n_pixels
    yield "outlines of labels", "tracing", inputs, 4 * n_pixels, n_pixels


def adversaries(n):
    """(what, inputs, most times the usual or None): the usual candidates first, then what could take longer."""
    prob, dist, points = scenes.candidates(n)
    points = points.astype(np.int32)
    random = np.random.default_rng(5)
    angle = np.arange(32) * 2 * np.pi / 32

    def lattice(spacing):
        side = int(np.ceil(np.sqrt(n)))
        return (np.stack(np.divmod(np.arange(n), side), 1) * spacing + 20).astype(np.int32)

    distinct = (random.permutation(n).astype(np.float32) + 1) / np.float32(n + 1)
    apart = 10 * random.uniform(0.8, 1, (n, 1)) * (1 + 0.15 * np.cos(2 * angle + random.uniform(0, 6, (n, 1))))
    apart = apart.astype(np.float32)
    turn = random.uniform(0, np.pi, (n, 1))
    slender = (1 / np.hypot(np.cos(angle - turn) / 26, np.sin(angle - turn) / 2)).astype(np.float32)

    def with_one(lengths, rank):
        changed_prob, changed_dist = prob.copy(), dist.copy()
        changed_prob[n // 2], changed_dist[n // 2] = rank, lengths
        return changed_prob, changed_dist, points

    needle = np.full(32, 1e-3)
    needle[[0, 8]] = 2.0**20
    two_sizes = dist.copy()
    two_sizes[random.random(n) < 0.01] *= 100
    yield "usual", (prob, dist, points), 1
    yield "apart: nothing is suppressed", (distinct, apart, lattice(26)), LARGEST_RATIO
    yield "one of 5000 px, the strongest", with_one(5000, 0.999), LARGEST_RATIO
    yield "one of 5000 px, the weakest", with_one(5000, 0.01), LARGEST_RATIO
    yield "one needle of 2^20 px, the strongest", with_one(needle, 0.999), LARGEST_RATIO
    yield "one of 200 px, the strongest", with_one(200, 0.999), LARGEST_RATIO
    yield "one in 100 is 100 times as large", (prob, two_sizes, points), LARGEST_RATIO
    yield "all in one place", (distinct, dist, np.zeros_like(points)), None
    yield "equal probabilities", (np.full(n, 0.7, np.float32), dist, points), LARGEST_RATIO
    yield "slender 13:1, any way round, apart", (distinct, slender, lattice(54)), None
    order = random.permutation(n)  # in memory; the decisions are the same
    yield "shuffled", (prob[order], dist[order], points[order]), LARGEST_RATIO


# ---- The runs --------------------------------------------------------------------------------------------------------


def timed(worker, repeats):
    """Seconds of `repeats` runs after one to warm up."""
    worker.ask(do="run")
    return summary([worker.ask(do="run")["seconds"] for _ in range(repeats)])


def start(threads):
    """A fresh process for the tasks of this file."""
    return Worker("cellrt", threads, [__file__, "--serve"])


def suppression_inputs(candidates):
    """What the task takes."""
    return dict(zip(("prob", "dist", "points"), candidates, strict=True)) | {"nms_thresh": np.float64(0.4)}


def rates(threads):
    """Bytes per second (read and written) and float32 operations per second."""
    with start(threads) as worker:
        worker.ask(do="load", task="copying", inputs=None, threads=threads)
        copied = timed(worker, 5)["median"]
        worker.ask(do="load", task="multiplying", inputs=None, threads=threads)
        multiplied = timed(worker, 5)["median"]
    return threads * 2 * 4 * 2**24 / copied, threads * 2000 * 2**14 / multiplied


def against_floors(report, folder, options):
    """A row per kernel and number of threads."""
    measured = {threads: rates(threads) for threads in options.threads}
    report.contents["rates"] = {
        threads: {"gigabytes_per_second": round(moved / 1e9, 2), "gigaoperations_per_second": round(done / 1e9, 2)}
        for threads, (moved, done) in measured.items()
    }
    for what, task, inputs, n_bytes, operations in kernel_rows(options.side):
        path = f"{folder}/{task}.npz"
        np.savez(path, **inputs)
        for threads in options.threads:
            moved, done = measured[threads]
            floors = {"bytes": n_bytes / moved, "operations": operations / done}
            bound = max(floors, key=floors.get)
            with start(threads) as worker:
                worker.load(task, path)
                seconds = timed(worker, options.repeats or REPEATS)
            times = seconds["median"] / floors[bound]
            report.add(
                {
                    "what": f"{what}, {threads} threads",
                    "value": float(f"{times:.3g}"),
                    "unit": "x",
                    "target": f"1 x its floor, {floors[bound] * 1e3:.3g} ms by {bound}; takes "
                    f"{seconds['median'] * 1e3:.3g} ms",
                    "threads": threads,
                    "seconds": seconds,
                    "bytes": int(n_bytes),
                    "operations": int(operations),
                    "floor_seconds": {name: float(f"{value:.3g}") for name, value in floors.items()},
                }
            )


def by_size(report, folder, options):
    """Time and memory of suppression by the number of candidates, in one call and tile by tile."""
    medians = {threads: [] for threads in options.threads}
    for n in options.sizes:
        path = f"{folder}/candidates.npz"
        prob, dist, points = scenes.candidates(n)
        np.savez(path, **suppression_inputs((prob, dist, points.astype(np.int32))))
        for task, how in (("suppression", "in one call"), ("collecting", "tile by tile")):
            for threads in options.threads:
                with start(threads) as worker:
                    worker.load(task, path)
                    before = worker.ask(do="peak")["megabytes"]
                    worker.ask(do="run")
                    megabytes = worker.ask(do="peak")["megabytes"] - before
                    seconds = summary([worker.ask(do="run")["seconds"] for _ in range(options.repeats or REPEATS)])
                if task == "suppression":
                    medians[threads].append(seconds["median"])
                what = f"suppression of {n:,} candidates, {how}, {threads} threads"
                report.add(
                    {
                        "what": what,
                        "value": seconds["median"],
                        "unit": "s",
                        "target": f"below 1 s and {LARGEST_MEGABYTES} MB for a million; takes {megabytes:.3g} MB",
                        "threads": threads,
                        "seconds": seconds,
                        "megabytes": round(megabytes, 1),
                    }
                )
    for threads, times in medians.items():
        if len(times) > 1:
            slope = np.polyfit(np.log(options.sizes), np.log(times), 1)[0]
            what = f"log time per log candidates, {threads} threads"
            row = {"what": what, "value": round(float(slope), 3), "unit": "", "target": f"at most {LARGEST_SLOPE}"}
            report.add(row | {"threads": threads})


def by_adversary(report, folder, options):
    """Time of suppression of what could take longer, relative to the usual case of the same size in the same run."""
    usual = {}
    for what, candidates, most in adversaries(options.adversaries):
        path = f"{folder}/adversary.npz"
        np.savez(path, **suppression_inputs(candidates))
        for threads in options.threads:
            with start(threads) as worker:
                worker.load("suppression", path)
                seconds = timed(worker, options.repeats or REPEATS)
            times = seconds["median"] / usual.setdefault(threads, seconds["median"])
            mark = f"at most {most} x the usual" if most else "bounded by max_pairs"
            report.add(
                {
                    "what": f"{what}, {threads} threads",
                    "value": float(f"{times:.3g}"),
                    "unit": "x",
                    "target": f"{mark}; takes {seconds['median'] * 1e3:.3g} ms",
                    "threads": threads,
                    "candidates": options.adversaries,
                    "seconds": seconds,
                }
            )


def main():
    """Floors, sizes, adversaries."""
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=2048, help="side of the images (default: 2048)")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="numbers of candidates")
    parser.add_argument("--adversaries", type=int, default=100_000, help="candidates of each adversary")
    options = parser.parse_args()
    began = time.perf_counter()
    report = Report("kernel_limits", "How far is each kernel from what the machine allows?")
    with scratch() as folder:
        with start(1) as worker:
            report.versions(worker)
        against_floors(report, folder, options)
        by_size(report, folder, options)
        by_adversary(report, folder, options)
    report.contents["minutes"] = round((time.perf_counter() - began) / 60, 1)
    report.write()


if __name__ == "__main__":
    if sys.argv[1:] == ["--serve"]:
        serve(TASKS, {"cellrt": cellrt.__version__, "numpy": np.__version__})
    else:
        main()
