"""Does time grow no faster than the work? Against pixels, cells, candidates; and what does a second thread bring?

Of each series the times, and the slope of their logarithms by least squares: 1 is proportional. The original's times
stand beside ours where its images need no tiles.
"""

import numpy as np
import scenes
from harness import Report, Worker, arguments, in_turn, interleave, scratch, summary

import cellrt
from cellrt import kernels
from cellrt.heads import flow, star
from cellrt.manifest import FlowSpec, StarSpec

SIDES = (256, 512, 1024, 2048, 4096)
LARGEST_OF_THE_ORIGINAL = 2048
OBJECTS = (300, 1200, 4800)  # in an image of FIELD x FIELD pixels
FIELD = 2048
CANDIDATES = (10_000, 31_600, 100_000, 316_000, 1_000_000)
FLOW_SIDES = (512, 1024, 2048)
STEEPEST = 1.05


def main():
    """Export the model, then run every series."""
    parser = arguments(__doc__.splitlines()[0], threads=(2,))
    parser.add_argument("--shorter", type=int, default=0, help="leave out this many of the largest sizes (default: 0)")
    options = parser.parse_args()
    sizes = {
        name: values[: max(2, len(values) - options.shorter)]
        for name, values in (("sides", SIDES), ("objects", OBJECTS), ("candidates", CANDIDATES), ("flow", FLOW_SIDES))
    }
    report = Report("scaling", "Does time grow no faster than the work?")
    report.own_versions()
    repeats = options.repeats or 3
    from cellrt_export import stardist as exporter

    with scratch() as folder:
        stardist_folder, report.contents["model"] = scenes.model_folder(folder)
        model = f"{folder}/model.onnx"
        exporter.export(stardist_folder, model)
        for threads in options.threads:
            image, report.contents["image"] = scenes.microscope_image((max(sizes["sides"]),) * 2)
            pixels(report, folder, stardist_folder, model, image, sizes["sides"], threads, repeats)
            cells(report, sizes["objects"], threads, repeats)
            candidates(report, sizes["candidates"], threads, repeats)
            flows(report, sizes["flow"], threads, repeats)
        second_thread(report, model, image[:FIELD, :FIELD], repeats)
    report.write()


def series(report, what, of, sizes, times, threads, **more):
    """The row of one series: times by size, and their slope."""
    medians = [summary(taken)["median"] for taken in times]
    row = {
        "what": what,
        "threads": threads,
        "value": round(slope(sizes, medians), 3),
        "unit": "slope",
        "target": f"at most {STEEPEST}",
        "against": of,
        "sizes": list(sizes),
        "seconds": [summary(taken) for taken in times],
    }
    report.add(row | more)


def slope(sizes, seconds):
    """Of log(seconds) against log(size), by least squares."""
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def pixels(report, folder, stardist_folder, model, image, sides, threads, repeats):
    """A whole segmentation against the pixels of the image, both programs in turn where both can."""
    ours, theirs = [], []
    with Worker("stardist", threads) as original, Worker("cellrt", threads) as worker:
        report.versions(original, worker)
        for side in sides:
            inputs = f"{folder}/pixels.npz"
            np.savez(inputs, image=image[:side, :side], folder=str(stardist_folder), model=model)
            worker.load("segmentation", inputs)
            if side <= LARGEST_OF_THE_ORIGINAL:
                original.load("segmentation", inputs)
                row = interleave(original, worker, repeats)
                theirs.append(row["stardist"]["seconds"])
                ours.append(row["cellrt"]["seconds"]["all"])
            else:
                taken = [worker.ask(do="run")["seconds"] for _ in range(repeats + 1)]
                ours.append(taken[1:])
    n_pixels = [side * side for side in sides]
    series(report, "segment", "pixels", n_pixels, ours, threads, peer="stardist", peer_seconds=theirs)


def cells(report, objects, threads, repeats):
    """Decoding maps of one size with more and more cells."""
    spec = StarSpec(n_rays=32, grid=(2, 2), prob_thresh=0.39, nms_thresh=0.4)
    times, counts = [], []
    for n in objects:
        # as far apart as the image has room for
        prob, dist, points = scenes.candidates(35 * n, spacing=(FIELD - 40) / np.ceil(np.sqrt(n)))
        maps = np.zeros((33, FIELD // 2, FIELD // 2), np.float32)
        maps[:, points[:, 0] // 2, points[:, 1] // 2] = np.vstack([prob, dist.T])

        def decode(maps=maps):
            return star.decode(maps, spec, shape=(FIELD, FIELD), threads=threads)

        counts.append(len(decode().scores))
        times += in_turn([decode], repeats)
    what = f"maps of {FIELD} x {FIELD} pixels to labels (candidates, NMS, painting)"
    series(report, what, "cells", counts, times, threads)


def candidates(report, counts, threads, repeats):
    """Suppression alone."""
    times = []
    for n in counts:
        prob, dist, points = scenes.candidates(n)
        points = points.astype(np.int32)

        def suppress(prob=prob, dist=dist, points=points):
            most = star.MAX_PAIRS_PER_CANDIDATE * len(prob)
            kernels.star_nms_2d(prob, dist, points, nms_thresh=0.4, max_pairs=most, threads=threads)

        times += in_turn([suppress], repeats)
    series(report, "NMS of 32 rays", "candidates", counts, times, threads)


def flows(report, sides, threads, repeats):
    """Flows and logits to labels, by the rules of Cellpose 3."""
    spec = FlowSpec(dynamics="v3", diam_mean=30, diam_labels=30, tile=224)
    times = []
    for side in sides:
        flow_maps, cellprob, *_ = scenes.flows(side)
        maps = np.concatenate([flow_maps, cellprob[np.newaxis]])
        times += in_turn([lambda maps=maps: flow.decode(maps, spec, steps=200, threads=threads)], repeats)
    series(report, "post-processing of flows", "pixels", [side * side for side in sides], times, threads)


def second_thread(report, path, image, repeats):
    """How much faster two threads are than one: the whole, and the kernels alone."""
    models = [cellrt.load(path, providers=["cpu"], threads=threads) for threads in (1, 2)]
    prob, dist, points = scenes.candidates(100_000)
    points = points.astype(np.int32)
    most = star.MAX_PAIRS_PER_CANDIDATE * len(prob)
    spec = FlowSpec(dynamics="v3", diam_mean=30, diam_labels=30, tile=224)
    flow_maps, cellprob, *_ = scenes.flows(FLOW_SIDES[1])
    maps = np.concatenate([flow_maps, cellprob[np.newaxis]])
    for what, functions in (
        (
            f"segment {image.shape[0]} x {image.shape[1]}",
            [lambda model=model: model.segment(image, normalize=(1, 99.8)) for model in models],
        ),
        (
            "NMS of 100,000 candidates",
            [
                lambda n=n: kernels.star_nms_2d(prob, dist, points, nms_thresh=0.4, max_pairs=most, threads=n)
                for n in (1, 2)
            ],
        ),
        (
            f"post-processing of flows, {FLOW_SIDES[1]} x {FLOW_SIDES[1]}",
            [lambda n=n: flow.decode(maps, spec, steps=200, threads=n) for n in (1, 2)],
        ),
    ):
        one, two = in_turn(functions, repeats)
        gain = summary([first / second for first, second in zip(one, two, strict=True)])
        report.add(
            {
                "what": f"{what}: two threads against one",
                "value": gain["median"],
                "unit": "x",
                "target": "-",
                "gain": gain,
                "seconds": [summary(one), summary(two)],
                "threads": 2,
            }
        )


if __name__ == "__main__":
    main()
