"""How long does one image take when it comes again and again, and how much does that vary? A warm model, one process.

What an instrument sees: the model is loaded once and its memory kept between images. The first call, of a model that
was just opened, stands beside the others.
"""

import time

import numpy as np
import scenes
from harness import Report, arguments, in_turn, scratch

import cellrt

SIDE = 512
QUANTILES = (50, 90, 99, 100)


def main():
    """Export the full-width network, then run each model for each number of threads."""
    options = arguments(__doc__.splitlines()[0], threads=(2,)).parse_args()
    report = Report("latency", "How long does one image of 512 x 512 take, again and again?")
    report.own_versions()
    from cellrt_export import stardist as exporter

    with scratch() as folder:
        stardist_folder, report.contents["model"] = scenes.model_folder(folder)
        full_width = f"{folder}/model.onnx"
        exporter.export(stardist_folder, full_width)
        fluorescence, report.contents["image"] = scenes.microscope_image((SIDE, SIDE))
        cells, cells_are = scenes.cell_image(SIDE)
        report.contents["image"] += f"; {cells_are}"
        for what, model, image in (
            ("full-width StarDist network", full_width, fluorescence),
            ("nuclei", "nuclei", fluorescence),
            ("cells", "cells", cells),
        ):
            for threads in options.threads:
                report.add(measure(what, model, image, threads, options.repeats or 100))
    report.write()


def measure(what, path, image, threads, repeats):
    """A row: quantiles of the times of `segment`, and the first call."""
    start = time.perf_counter()
    model = cellrt.load(path, providers=["cpu"], threads=threads)
    loaded = time.perf_counter()
    n_cells = len(model.segment(image).scores)
    first = time.perf_counter()
    (times,) = in_turn([lambda: model.segment(image)], repeats)
    found = np.percentile(times, QUANTILES)
    return {
        "what": f"{what}, {SIDE} x {SIDE}, {n_cells} cells",
        "threads": threads,
        "value": float(found[0]),
        "unit": "s",
        "target": "-",
        "quantiles": {str(percent): float(f"{value:.4g}") for percent, value in zip(QUANTILES, found, strict=True)},
        "load_seconds": float(f"{loaded - start:.4g}"),
        "first_seconds": float(f"{first - loaded:.4g}"),
        "runs": repeats,
        "all": [float(f"{value:.4g}") for value in times],
    }


if __name__ == "__main__":
    main()
