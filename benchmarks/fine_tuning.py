"""Does fine-tuning a bundled model on five images of another kind help on the others?

`nuclei` knows bright nuclei in fluorescence. It meets dark ones in brightfield cytology (../shared/data), is tuned on
five images by `cellrt train star --start nuclei`, and is measured on the rest before and after, with the product's own
`segment` and metrics. Writes results/fine_tuning.json.
"""

import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime
from bundled_models import DATA, keep, scores
from harness import Report

import cellrt
from cellrt import readers
from cellrt.image import as_image
from cellrt_export.training import commands

SET = "dsb2018_cytology_bf"
N_TUNED = 5
OPTIONS = ["--augmentation", "contrast", "--steps", "300", "--seed", "0"]


def main():
    """Measure, tune, measure again."""
    images = sorted((DATA / SET / "images").glob("*.png")) if DATA.is_dir() else []
    if not images:
        print("the data sets are not here (../shared/data): nothing to measure")
        return
    report = Report("fine_tuning", __doc__.split("\n")[0])
    report.contents["versions"] = {"cellrt": cellrt.__version__, "onnxruntime": onnxruntime.__version__}
    pairs = []
    for path in images:
        pixels, axes = readers.read(path)
        labels, _ = readers.read(DATA / SET / "masks" / path.name)
        pairs.append((as_image(pixels, axes, n_channels=1), labels.astype(np.int32)))
    tuned_on, rest = np.array_split(np.random.default_rng(0).permutation(len(images)), [N_TUNED])
    others = [pairs[k] for k in rest]
    row = {"set": SET, "target": "-"}
    keep(
        report,
        row
        | {"what": f"nuclei on {len(rest)} images of {SET}, before"}
        | scores(cellrt.load("nuclei").segment, others),
    )

    with tempfile.TemporaryDirectory(prefix="cellrt-bench-") as folder:
        for kind in ("images", "masks"):
            (Path(folder) / kind).mkdir()
            for k in tuned_on:
                shutil.copy(DATA / SET / kind / images[k].name, Path(folder) / kind)
        run = Path(folder) / "tuned"
        folders = ["--images", f"{folder}/images", "--masks", f"{folder}/masks", "-o", str(run)]
        start = time.perf_counter()
        if commands.main(["star", *folders, "--start", "nuclei", *OPTIONS]) != 0:
            sys.exit("the training failed")
        seconds = time.perf_counter() - start
        found = scores(cellrt.load(str(run / "tuned.onnx")).segment, others)
    what = f"the same after {' '.join(OPTIONS)} on {N_TUNED} other images"
    keep(report, row | {"what": what, "training_seconds": round(seconds), "target": "better than before"} | found)
    report.write()


if __name__ == "__main__":
    main()
