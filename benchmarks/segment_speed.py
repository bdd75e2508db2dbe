"""Is a whole image segmented faster, in less memory, with the same cells? From the raw pixels to the labels.

Each side loads its model once; what is timed is normalisation, network, suppression and painting. Peak memory is that
of a process of its own that loads the model and segments the image, the imports included. One row asks cellrt for a
quarter of the original's memory.
"""

from dataclasses import dataclass

import numpy as np
import scenes
from agreement import agree_on_labels
from harness import Report, Worker, arguments, interleave, scratch


@dataclass(frozen=True)
class Job:
    """An image's side, what cellrt is allowed, what is asked of speed and memory, pairs of runs."""

    side: int
    memory: str | None
    speed: str
    most_memory: str
    repeats: int


JOBS = (
    Job(512, None, "2x", "below 0.67", 9),
    Job(2048, None, "2.2x", "below 0.67", 3),
    Job(2048, "500MB", "1.4x", "below 0.25", 3),
)


def main():
    """Export the model, then compare every job for each number of threads."""
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--sides", type=int, nargs="+", default=[512, 2048], help="sides of the image (default: both)")
    options = parser.parse_args()
    report = Report("segment_speed", "How long does an image take, and how much memory?")
    from cellrt_export import stardist as exporter

    with scratch() as folder:
        stardist_folder, model_is = scenes.model_folder(folder)
        model = f"{folder}/model.onnx"
        exporter.export(stardist_folder, model)
        for job in JOBS:
            if job.side not in options.sides:
                continue
            image, image_is = scenes.microscope_image((job.side, job.side))
            report.contents |= {"model": model_is, "image": image_is}
            inputs = f"{folder}/segmentation.npz"
            limit = {} if job.memory is None else {"memory": job.memory}
            np.savez(inputs, image=image, folder=str(stardist_folder), model=model, **limit)
            for threads in options.threads:
                compare(report, job, inputs, folder, threads, options.repeats or job.repeats)
    report.write()


def compare(report, job, inputs, folder, threads, repeats):
    """Rows of time and of memory."""
    with Worker("stardist", threads) as original, Worker("cellrt", threads) as ours:
        report.versions(original, ours)
        loading = {worker.side: worker.load("segmentation", inputs)["seconds"] for worker in (original, ours)}
        row = interleave(original, ours, repeats)
        peaks = {worker.side: worker.ask(do="peak")["megabytes"] for worker in (original, ours)}
        results = [worker.result(folder)["labels"] for worker in (original, ours)]
    what = f"segment {job.side} x {job.side}" + (f' with memory="{job.memory}"' if job.memory else "")
    told = {"what": what, "target": job.speed, "agreement": agree_on_labels(*results), "load_seconds": loading}
    report.add(told | row)
    report.add(
        {
            "what": f"peak memory, {what}, {threads} threads",
            "unit": "x",
            "peer": "stardist",
            "peer_megabytes": round(peaks["stardist"]),
            "cellrt_megabytes": round(peaks["cellrt"]),
            "threads": threads,
            "value": peaks["cellrt"] / peaks["stardist"],
            "target": job.most_memory,
        }
    )


if __name__ == "__main__":
    main()
