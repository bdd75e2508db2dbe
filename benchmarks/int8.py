"""What do networks in 8 bits gain in time, and what do they cost in accuracy?

Each network is made int8 as `cellrt export --precision int8` does it, calibrated with images that it is not measured
on. The objects of both precisions are compared with each other, and with the masks where there are any; the times are
those of `segment` on one larger image, in turn. Needs the data and models of ../shared. Writes results/int8.json.
"""

import json
import sys

import numpy as np
import onnxruntime
import scenes
from bundled_models import DATA, FULL_WIDTH, held_out
from harness import HERE, Report, arguments, in_turn, scratch, summary

import cellrt
from cellrt import metrics, readers
from cellrt.image import as_image
from cellrt_export import calibration, cellpose, cpnet_graph, onnx_graph, onnxfile, star_graph, stardist

N_CALIBRATION = 8
SIDE = 1024  # pixels, of the image whose time is measured
IOUS = (0.5, 0.9)


def stored(model):
    """Graph and manifest of a float32 file or a bundled model, and the nodes that stay in float32."""
    held = onnx_graph.read(model)
    if held.manifest.head.kind == "star":
        config, kernels = star_graph.read(held)
        layers = star_graph.network(config)
        return star_graph.build(layers, kernels, keras_version=3), held.manifest, star_graph.last_nodes(layers)
    weights = cpnet_graph.read(held)
    return cpnet_graph.build(cpnet_graph.sizes(weights), weights), held.manifest, cpnet_graph.LAST_NODES


def pair(model, images, threads, **options):
    """Both models, float32 and int8, and the bytes of their files."""
    graph, manifest, keep = stored(model)

    def assemble(graph, manifest):
        head = manifest.head
        return onnxfile.assemble(
            graph,
            n_channels=manifest.input.n_channels,
            n_maps=head.n_maps,
            grid=head.grid,
            version=cellrt.__version__,
            manifest=manifest,
            n_style=getattr(head, "n_style", 0),
        )

    rounded, _ = calibration.quantize_graph(graph, assemble, manifest, images, keep=keep, **options)
    files = [assemble(one, manifest) for one in (graph, rounded)]
    return [cellrt.load(file, providers=["cpu"], threads=threads) for file in files], [len(file) for file in files]


def calibration_images(name, set_name):
    """Images of a set that a bundled model was trained on, spread over their names, (C, Y, X)."""
    names = json.loads((HERE / "splits" / f"{name}.json").read_text())["training"]
    names = sorted(one for one in names if one.startswith(f"{set_name}/"))
    found = []
    for one in names[:: max(1, len(names) // N_CALIBRATION)][:N_CALIBRATION]:
        (path,) = (DATA / set_name / "images").glob(f"{one.split('/')[1]}.*")
        pixels, axes = readers.read(path)
        if pixels.ndim == 3:
            pixels, axes = pixels[..., :3].mean(-1), "YX"
        found.append(as_image(pixels, axes, None, n_channels=1))
    return found


def compare(report, what, models, sizes, pairs, timed, repeats, threads, **options):
    """One row: objects on pairs of an image and its masks; times on one more image, `timed`, with its options."""
    found = [[model.segment(image, **options).labels for image, _ in pairs] for model in models]
    truth = [labels for _, labels in pairs]
    at = metrics.matching_dataset(zip(*found, strict=True), threshold=IOUS)
    on_truth = [metrics.matching_dataset(zip(truth, one, strict=True), threshold=IOUS[0]).accuracy for one in found]
    picture, known = timed
    times = in_turn([lambda model=model: model.segment(picture, **known) for model in models], repeats)
    row = {
        "what": what,
        "threads": threads,
        "target": "-",
        "images": len(pairs),
        "objects": [int(sum(labels.max() for labels in one)) for one in found],
        "ap": [round(float(one.accuracy), 4) for one in at],
        "ap50_on_truth": [round(float(value), 4) for value in on_truth],
        "file_megabytes": [round(size / 1e6, 2) for size in sizes],
        "image": list(np.shape(picture)),
        "seconds": {name: summary(one) for name, one in zip(("fp32", "int8"), times, strict=True)},
        "ratio": summary([before / after for before, after in zip(*times, strict=True)]),
    }
    report.contents["rows"].append(row)
    masks = row["ap50_on_truth"]
    print(
        f"{what:<44} {threads} threads  {row['ratio']['median']:.2f}x  AP against float32 {row['ap'][0]:.3f} at 0.5, "
        f"{row['ap'][1]:.3f} at 0.9; on the masks {masks[1]:.3f} (float32: {masks[0]:.3f})",
        flush=True,
    )


def main():
    """Make every network int8, compare, write."""
    options = arguments(__doc__.splitlines()[0], threads=(2,)).parse_args()
    if not (DATA.is_dir() and FULL_WIDTH.is_dir() and scenes.CPNET.exists()):
        sys.exit("expected the data and models of ../shared, got none: nothing was measured")
    report = Report("int8", __doc__.splitlines()[0])
    report.contents["versions"] = {"cellrt": {"cellrt": cellrt.__version__, "onnxruntime": onnxruntime.__version__}}
    fluorescence, phase = calibration_images("nuclei", "dsb2018_fluo"), calibration_images("cells", "usiigaci_phase")
    nuclei, cells = held_out("dsb2018_fluo", "nuclei"), held_out("usiigaci_phase", "cells")
    mosaic, whole = scenes.microscope_image((SIDE, SIDE))[0], scenes.cell_image(SIDE)[0]
    with np.load(scenes.CELLPOSE_CASE) as case:
        drawn, masks, known = case["image"], case["gt"].astype(np.int32), {"channels": (1, 2), "diameter": 28.0}
    half_y, half_x = (side // 2 for side in masks.shape)  # calibrated on the left half, measured on the right one
    quarters = [drawn[:half_y, :half_x], drawn[half_y:, :half_x]]
    two_channels, diameter = scenes.two_channel_image(SIDE // 2)
    repeats = options.repeats or 5
    with scratch() as folder:
        stardist.export(FULL_WIDTH, f"{folder}/star.onnx")
        cellpose.export(scenes.CPNET, f"{folder}/cpnet.onnx")
        for threads in options.threads:
            for what, model in (("StarDist of full width, nuclei", f"{folder}/star.onnx"), ("`nuclei`", "nuclei")):
                compare(report, what, *pair(model, fluorescence, threads), nuclei, (mosaic, {}), repeats, threads)
            compare(report, "`cells`", *pair("cells", phase, threads), cells, (whole, {}), repeats, threads)
            models = pair(f"{folder}/cpnet.onnx", quarters, threads, diameter=known["diameter"])
            right, timed = [(drawn[:, half_x:], masks[:, half_x:])], (two_channels, known | {"diameter": diameter})
            compare(report, "CPnet, drawn cells and nuclei", *models, right, timed, repeats, threads, **known)
    report.write()


if __name__ == "__main__":
    main()
