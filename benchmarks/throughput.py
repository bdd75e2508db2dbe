"""How long do many images take, from files to files? A stream against a plain loop, the original's and our own.

Every side reads TIFF files, segments them and writes label images as TIFF, compressed in the same way. The files were
just written, so they are in the system's cache. Models are loaded and warm when the time begins to run.
"""

import json
from pathlib import Path

import numpy as np
import scenes
import tifffile
from agreement import agree_on_images
from harness import Report, Worker, arguments, comparison, rounds, scratch, summary

N_IMAGES = 200
SIDE = 512
LARGE = 2048
OURS = "loop"  # our own plain loop, as the rows call it


def main():
    """Write the images, then run the three in turn for each number of threads."""
    parser = arguments(__doc__.splitlines()[0], threads=(2,))
    parser.add_argument("--images", type=int, default=N_IMAGES, help=f"how many (default: {N_IMAGES})")
    options = parser.parse_args()
    report = Report("throughput", "How long do many images take, from files to files?")
    from cellrt_export import stardist as exporter

    with scratch() as folder:
        stardist_folder, report.contents["model"] = scenes.model_folder(folder)
        model = f"{folder}/model.onnx"
        exporter.export(stardist_folder, model)
        images = Path(folder) / "images"
        images.mkdir()
        report.contents["image"] = scenes.fields(images, options.images, SIDE)
        paths = sorted(str(path) for path in images.iterdir())
        for threads in options.threads:
            compare(report, folder, paths, model, stardist_folder, threads, options.repeats or 3)
            add_large(report, folder, model, threads, options.repeats or 3)
    report.write()


def compare(report, folder, paths, model, stardist_folder, threads, repeats):
    """Rows of time and of how busy the cores were."""
    with (
        Worker("stardist", threads) as original,
        Worker("cellrt", threads, name=OURS) as loop,
        Worker("cellrt", threads) as stream,
    ):
        report.versions(original, stream)
        for worker, task in ((original, "files"), (loop, "files"), (stream, "streaming")):
            results = Path(folder) / f"results-{worker.name}"
            results.mkdir(exist_ok=True)
            inputs = f"{folder}/{worker.name}.npz"
            np.savez(inputs, paths=paths, results=str(results), model=model, folder=str(stardist_folder))
            worker.load(task, inputs)
        runs = rounds((original, loop, stream), repeats, warm_up=False)
        profile = json.loads(str(stream.result(folder)["profile"]))
    what = f"{len(paths)} images of {SIDE} x {SIDE}, files to files"
    for first, position, target in ((original, 0, "2.2x"), (loop, 1, "1.1x")):
        row = {"what": what, "target": target, "agreement": agree_on_files(folder, first.name)}
        report.add(row | comparison(first, stream, [(run[position], run[2]) for run in runs]))
    busy = summary([run[2]["cpu_seconds"] / run[2]["seconds"] / threads for run in runs])
    report.add(
        {
            "what": f"cores busy, stream of {what}",
            "threads": threads,
            "value": busy["median"],
            "unit": "%",
            "target": "at least 90 %",
            "busy": busy,
            "stages_of": what,
            "stages": {key: round(seconds, 4) for key, seconds in profile.items()},
            "images": len(paths),
        }
    )


def add_large(report, folder, model, threads, repeats):
    """The row of one large image through a stream, whose stages follow one another."""
    image, image_is = scenes.microscope_image((LARGE, LARGE))
    path, results = Path(folder) / "large.tif", Path(folder) / "results-large"
    tifffile.imwrite(path, image, compression="zlib")
    results.mkdir(exist_ok=True)
    inputs = f"{folder}/large.npz"
    np.savez(inputs, paths=[str(path)], results=str(results), model=model)
    with Worker("cellrt", threads) as stream:
        stream.load("streaming", inputs)
        taken = summary([stream.ask(do="run")["seconds"] for _ in range(repeats)])
        profile = json.loads(str(stream.result(folder)["profile"]))
    what = f"1 image of {LARGE} x {LARGE}, file to file"
    report.add(
        {
            "what": what,
            "threads": threads,
            "value": taken["median"],
            "unit": "s",
            "target": "-",
            "image": image_is,
            "seconds": taken,
            "stages_of": what,
            "stages": {key: round(seconds, 4) for key, seconds in profile.items()},
            "images": 1,
        }
    )


def agree_on_files(folder, peer):
    """How far the label images that a peer wrote agree with ours."""
    theirs, ours = Path(folder) / f"results-{peer}", Path(folder) / "results-cellrt"
    names = sorted(path.name for path in theirs.iterdir())
    return agree_on_images([(tifffile.imread(theirs / name), tifffile.imread(ours / name)) for name in names])


if __name__ == "__main__":
    main()
