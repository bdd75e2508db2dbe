"""How accurate are the models that ship with cellrt, how robust, and how fast?

Accuracy is measured on images that were held out of the training, listed in splits/<model>.json, with the product's own
`segment` and metrics; the torch port of StarDist (star_torch.py) runs on the same images of nuclei. Speed is that of a
full-width StarDist network, by cellrt as well. The images are those of ../shared/data; without them it does nothing.

Writes results/bundled_models.json, and the figures that `cellrt models` shows.
"""

import json
import os
import time
from functools import cache

import numpy as np
import onnxruntime
from harness import HERE, ROOT, Report, arguments, summary
from scipy import ndimage

import cellrt
from cellrt import metrics, readers
from cellrt.image import as_image
from cellrt.manifest import PercentileSpec
from cellrt.normalize import normalize

DATA = ROOT.parent / "shared" / "data"
REFERENCE = ROOT.parent / "shared" / "reference"
TORCH = REFERENCE / "weights" / "stardist_pytorch_dsb2018" / "model_weights.t7"
FULL_WIDTH = REFERENCE / "stardist" / "models" / "2d_fluo"
FIGURES = ROOT / "runtime" / "cellrt" / "models" / "models.json"

THRESHOLDS = tuple(round(0.5 + 0.05 * k, 2) for k in range(9))
# set, model, what is asked of AP at 0.5 and of the mean over THRESHOLDS
ACCURACY = (
    ("dsb2018_fluo", "nuclei", 0.87, 0.65),
    ("dsb2018_he", "tissue", 0.60, None),
    ("usiigaci_phase", "cells", 0.75, None),
)
# options that a model does not take by default: the tiles and the resolution of flows of Cellpose
OTHERWISE = {"cells": {"tiles": "upstream", "resample": True}}
SIDE = 1024  # pixels, of the image whose time is measured
MOST_TIME = 1 / 3  # of the full-width network's


@cache
def held_out(set_name, model):
    """Images (C, Y, X) and labels of a set that a model was not trained on."""
    names = json.loads((HERE / "splits" / f"{model}.json").read_text())["validation"]
    n_channels = cellrt.load(model).manifest.input.n_channels
    pairs = []
    for name in sorted(name for name in names if name.startswith(f"{set_name}/")):
        stem = name.split("/")[1]
        (path,) = (DATA / set_name / "images").glob(f"{stem}.*")
        (mask,) = (DATA / set_name / "masks").glob(f"{stem}.*")
        pixels, axes = readers.read(path)
        if n_channels == 1 and pixels.ndim == 3:
            pixels, axes = pixels[..., :3].mean(-1), "YX"
        chosen = tuple(range(n_channels)) if pixels.ndim == 3 else None
        labels, _ = readers.read(mask)
        pairs.append((as_image(pixels, axes, chosen, n_channels=n_channels), labels.astype(np.int32)))
    return pairs


def scores(segment, pairs):
    """Average precision at THRESHOLDS over all objects, its mean, and at 0.5 the mean over images."""
    found = [segment(image).labels for image, _ in pairs]
    truth = [labels for _, labels in pairs]
    by_image, tp, fp, fn = metrics.average_precision(truth, found, thresholds=THRESHOLDS)
    pooled = tp.sum(0) / np.maximum(tp.sum(0) + fp.sum(0) + fn.sum(0), 1)
    return {
        "images": len(pairs),
        "objects": int(sum(len(np.unique(labels)) - 1 for labels in truth)),
        "ap": [round(float(value), 4) for value in pooled],
        "mean_ap": round(float(pooled.mean()), 4),
        "ap50_by_image": round(float(np.nanmean(by_image[:, 0])), 4),
    }


def scaled(factor):
    """Objects of another size; labels by nearest neighbour."""

    def change(image, labels, _):
        planes = [
            ndimage.zoom(plane.astype(np.float32), factor, order=1, grid_mode=True, mode="nearest") for plane in image
        ]
        return np.stack(planes), ndimage.zoom(labels, factor, order=0, grid_mode=True, mode="nearest")

    return change


def noisy(image, labels, random):
    """Gaussian noise of a tenth of the contrast."""
    low, high = np.percentile(image, (1, 99.8))
    return image + random.normal(0, 0.1 * (high - low), image.shape).astype(np.float32), labels


def uneven(image, labels, _):
    """Light that falls to a third from one corner to the other."""
    fall = np.linspace(1, 1 / 3, sum(image.shape[1:]) - 1, dtype=np.float32)
    y, x = np.indices(image.shape[1:])
    return image * fall[y + x], labels


def sixteen_bits(image, labels, _):
    """The same picture as uint16 in a part of its range, as cameras give it."""
    low, high = float(image.min()), float(image.max())
    return (400 + (image - low) * (9000 / (high - low))).astype(np.uint16), labels


CHANGES = {
    "as they are": lambda image, labels, _: (image, labels),
    "half the size": scaled(0.5),
    "twice the size": scaled(2.0),
    "noise of a tenth of the contrast": noisy,
    "light falling to a third": uneven,
    "uint16, a part of its range": sixteen_bits,
}


def accuracy(report):
    """Rows of accuracy and robustness; gives the figures of each model."""
    figures = {}
    for set_name, name, ap50, mean_ap in ACCURACY:
        model = cellrt.load(name, providers=["cpu"])
        pairs = held_out(set_name, name)
        for what, change in CHANGES.items():
            random = np.random.default_rng(0)
            changed = [change(image, labels, random) for image, labels in pairs]
            found = scores(model.segment, changed)
            target = f"AP at 0.5 of {ap50}" + ("" if mean_ap is None else f", mean of {mean_ap}")
            asked = target if what == "as they are" else "-"
            row = {"what": f"{name} on held-out {set_name}, {what}", "target": asked, "model": name, "set": set_name}
            keep(report, row | found)
            figures.setdefault(name, found | {"set": set_name})
        if name in OTHERWISE:
            found = scores(lambda image, model=model, name=name: model.segment(image, **OTHERWISE[name]), pairs)
            row = {"what": f"{name} on held-out {set_name}, {told(OTHERWISE[name])}", "target": "-", "model": name}
            keep(report, row | {"set": set_name} | found)
    if TORCH.exists():
        from star_torch import StarTorch

        peer, spec = StarTorch(TORCH), PercentileSpec()

        def segment(image):
            return peer.segment(normalize(image, spec, out_shape=image.shape[1:], threads=0)[0])

        row = {"what": "StarDist's torch port on held-out dsb2018_fluo", "target": "-", "model": "star_torch"}
        # its training images are not listed anywhere: some of these are among them
        keep(report, row | {"set": "dsb2018_fluo"} | scores(segment, held_out("dsb2018_fluo", "nuclei")))
    return figures


def told(options):
    """Options of `segment`, as text."""
    return ", ".join(f"{key}={value!r}" for key, value in options.items())


def keep(report, row):
    """Keep one row of accuracy and print it."""
    report.contents["rows"].append(row)
    print(
        f"{row['what']:<70} AP {row['ap'][0]:.3f} at 0.5, mean {row['mean_ap']:.3f} (asked: {row['target']})",
        flush=True,
    )


def speed(report, repeats, threads):
    """Rows of time: `segment` of one image by each model, in turn with a full-width StarDist network."""
    from cellrt_export import stardist

    full = HERE / "results" / "full_width.onnx"
    stardist.export(FULL_WIDTH, full, force=True)
    try:
        models = {"full width": cellrt.load(full, providers=["cpu"], threads=threads)}
    finally:
        full.unlink()
    models |= {name: cellrt.load(name, providers=["cpu"], threads=threads) for _, name, *_ in ACCURACY}
    images = {"full width": view("dsb2018_fluo", "nuclei")} | {
        name: view(set_name, name) for set_name, name, *_ in ACCURACY
    }
    runs = [(name, {}) for name in models] + list(OTHERWISE.items())
    times = [[] for _ in runs]
    for _ in range(repeats + 1):
        for (name, options), taken in zip(runs, times, strict=True):
            start = time.perf_counter()
            models[name].segment(images[name], **options)
            taken.append(time.perf_counter() - start)
    figures = {}
    full_width = times[0][1:]
    for (name, options), taken in zip(runs[1:], times[1:], strict=True):
        with_options = f" with {told(options)}" if options else ""
        row = {
            "what": f"{name}: segment {SIDE} x {SIDE}{with_options}",
            "threads": threads,
            "model": name,
            "options": options,
            "seconds": summary(taken[1:]),
            "full_width_seconds": summary(full_width),
            "share": summary([ours / theirs for ours, theirs in zip(taken[1:], full_width, strict=True)]),
            "target": f"at most {MOST_TIME:.2f} of the time of a full-width StarDist network",
        }
        report.contents["rows"].append(row)
        seconds, share = row["seconds"]["median"], row["share"]["median"]
        print(f"{row['what']:<70} {threads} threads {seconds:.3f} s, {share:.3f} (asked: {row['target']})", flush=True)
        shown = {"seconds": seconds, "threads": threads, "full_width_seconds": row["full_width_seconds"]["median"]}
        figures.setdefault(name, shown)
    return figures


def view(set_name, name):
    """One image uint8 (C, SIDE, SIDE): held-out images of a set side by side, each scaled to the same range."""
    pairs = [image for image, _ in held_out(set_name, name)]
    side = SIDE + 1
    canvas = np.zeros((len(pairs[0]), side, side), np.float32)
    y = 0
    while y < side:
        x, height = 0, side
        while x < side:
            image = pairs[(y * 7 + x) % len(pairs)].astype(np.float32)
            low, high = np.percentile(image, (1, 99.8))
            part = (255 * (image - low) / max(high - low, 1))[:, : side - y, : side - x]
            canvas[:, y : y + part.shape[1], x : x + part.shape[2]] = part
            x, height = x + part.shape[2], min(height, part.shape[1])
        y += height
    return canvas[:, :SIDE, :SIDE].clip(0, 255).astype(np.uint8)


def main():
    """Measure and write."""
    options = arguments(__doc__.split("\n")[0]).parse_args()
    if not DATA.is_dir():
        print("the data sets are not here (../shared/data): nothing to measure")
        return
    report = Report("bundled_models", __doc__.split("\n")[0])
    report.contents["versions"] = {"cellrt": cellrt.__version__, "onnxruntime": onnxruntime.__version__}
    found = accuracy(report)
    threads = max(options.threads)
    if FULL_WIDTH.is_dir():
        timed = speed(report, options.repeats or 7, threads)
        shown = {
            name: {
                "set": figures["set"],
                "images": figures["images"],
                "ap50": figures["ap"][0],
                "mean_ap": figures["mean_ap"],
                "side": SIDE,
                **timed[name],
            }
            for name, figures in found.items()
        }
        part = FIGURES.with_suffix(".part")
        part.write_text(json.dumps(shown, indent=1) + "\n")
        os.replace(part, FIGURES)
    report.write()


if __name__ == "__main__":
    main()
