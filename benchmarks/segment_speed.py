"""Is a whole image segmented faster, in less memory, with the same cells? From the raw pixels to the labels.

Each side loads its model once; what is timed is normalisation, network, suppression and painting. Peak memory is that
of a process of its own that loads the model and segments the image, the imports included.
"""

import numpy as np
import scenes
from harness import Report, Worker, arguments, interleave, scratch

SHAPE = (2048, 2048)


def average_precision(labels, others, least=0.9):
    """Average precision at an IoU threshold above 0.5: matched / (matched + unmatched of either side)."""
    pairs, overlap = np.unique(labels.ravel().astype(np.int64) << 32 | others.ravel(), return_counts=True)
    first, second = pairs >> 32, pairs & 0xFFFFFFFF
    areas, other_areas = np.bincount(labels.ravel()), np.bincount(others.ravel())
    both = (first > 0) & (second > 0)
    union = areas[first[both]] + other_areas[second[both]] - overlap[both]
    matched = np.count_nonzero(overlap[both] / union >= least)
    found, expected = np.count_nonzero(areas[1:]), np.count_nonzero(other_areas[1:])
    return matched / max(1, found + expected - matched)


def agree_on_cells(original, ours):
    """Numbers of cells, average precision at IoU 0.9, pixels that differ."""
    precision = average_precision(original["labels"], ours["labels"])
    pixels = np.count_nonzero((original["labels"] > 0) != (ours["labels"] > 0))
    counts = f"{len(original['prob'])} and {len(ours['prob'])} cells"
    return f"{counts}, AP {precision:.4f} at IoU 0.9, {pixels} mask pixels differ"


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
                agreement = agree_on_cells(original.result(folder), ours.result(folder))
            report.add(
                {"what": "segment 2048 x 2048", "target": "2x", "agreement": agreement, "load_seconds": loading} | row
            )
            report.add(
                {
                    "what": f"peak memory of segmenting 2048 x 2048, {threads} threads",
                    "unit": "x",
                    "stardist_megabytes": round(peaks["stardist"]),
                    "cellrt_megabytes": round(peaks["cellrt"]),
                    "threads": threads,
                    "value": peaks["cellrt"] / peaks["stardist"],
                    "target": "below 0.75",
                }
            )
    report.write()


if __name__ == "__main__":
    main()
