"""Is a whole image segmented faster, in less memory, with the same cells? From the raw pixels to the labels.

Each side loads its model once; what is timed is normalisation, network, suppression and painting. Peak memory is that
of a process of its own that loads the model and segments the image, the imports included.
"""

import numpy as np
import scenes
from agreement import agree_on_labels
from harness import Report, Worker, arguments, interleave, scratch

SHAPE = (2048, 2048)


def main():
    """Export the model, then compare for each number of threads."""
    options = arguments(__doc__.splitlines()[0]).parse_args()
    report = Report("segment_speed", "How long does a 2048 x 2048 image take, and how much memory?")
    from cellrt_export import stardist as exporter

    with scratch() as folder:
        stardist_folder, model_is = scenes.model_folder(folder)
        model = f"{folder}/model.onnx"
        exporter.export(stardist_folder, model)
        image, image_is = scenes.microscope_image(SHAPE)
        report.contents |= {"model": model_is, "image": image_is}
        inputs = f"{folder}/segmentation.npz"
        np.savez(inputs, image=image, folder=str(stardist_folder), model=model)
        for threads in options.threads:
            with Worker("stardist", threads) as original, Worker("cellrt", threads) as ours:
                report.versions(original, ours)
                loading = {worker.side: worker.load("segmentation", inputs)["seconds"] for worker in (original, ours)}
                row = interleave(original, ours, options.repeats or 3)
                peaks = {worker.side: worker.ask(do="peak")["megabytes"] for worker in (original, ours)}
                results = [worker.result(folder)["labels"] for worker in (original, ours)]
            report.add(
                {
                    "what": "segment 2048 x 2048",
                    "target": "2x",
                    "agreement": agree_on_labels(*results),
                    "load_seconds": loading,
                }
                | row
            )
            report.add(
                {
                    "what": f"peak memory of segmenting 2048 x 2048, {threads} threads",
                    "unit": "x",
                    "peer": "stardist",
                    "peer_megabytes": round(peaks["stardist"]),
                    "cellrt_megabytes": round(peaks["cellrt"]),
                    "threads": threads,
                    "value": peaks["cellrt"] / peaks["stardist"],
                    "target": "below 0.75",
                }
            )
    report.write()


if __name__ == "__main__":
    main()
