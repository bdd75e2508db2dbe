"""Is a whole image segmented faster than by Cellpose 3, in less memory, with the same cells? And its network alone?

Needs a trained CPnet in ../shared. The image is drawn cells that the network knows, at the size that it knows: 36 tiles
of 224 pixels. Peak memory is that of a process of its own that loads the model and segments the image, the imports
included.
"""

import sys

import numpy as np
import scenes
from agreement import agree_on_labels
from harness import Report, Worker, arguments, interleave, scratch

SIDE = 1024
TILINGS = (("upstream", "1.8x"), ("large", "3x"))


def main():
    """Export the model, then compare network and segmentation for each number of threads."""
    options = arguments(__doc__.splitlines()[0], threads=(2,)).parse_args()
    if not scenes.CPNET.exists():
        sys.exit(f"expected a trained CPnet at {scenes.CPNET}, got none: nothing was measured")
    report = Report("cellpose_speed", f"How long does a {SIDE} x {SIDE} image take, and how much memory?")
    from cellrt_export import cellpose as exporter

    with scratch() as folder:
        model = f"{folder}/model.onnx"
        exporter.export(scenes.CPNET, model)
        image, diameter = scenes.two_channel_image(SIDE)
        report.contents |= {"model": "CPnet of Cellpose's own size, trained", "image": "drawn cells, tiled"}
        common = {"image": image, "diameter": diameter, "weights": str(scenes.CPNET), "model": model}
        tiles = np.stack([image.transpose(2, 0, 1)[:, y : y + 224, x : x + 224] for y, x in scenes.corners(SIDE, 224)])
        np.savez(f"{folder}/network.npz", tiles=tiles.astype(np.float32), **common)
        for tiling, _ in TILINGS:
            np.savez(f"{folder}/{tiling}.npz", tiling=tiling, **common)
        for threads in options.threads:
            with Worker("cellpose3", threads) as original, Worker("cellrt", threads) as ours:
                report.versions(original, ours)
                for worker in (original, ours):
                    worker.load("network", f"{folder}/network.npz")
                row = interleave(original, ours, options.repeats or 2)
                largest = np.abs(original.result(folder)["maps"] - ours.result(folder)["maps"]).max()
            what = f"CPnet, {len(tiles)} tiles of 224 x 224"
            report.add({"what": what, "target": "1.85x", "agreement": f"maps within {largest:.1e}"} | row)
            for tiling, target in TILINGS:
                with Worker("cellpose3", threads) as original, Worker("cellrt", threads) as ours:
                    original.load("segmentation", f"{folder}/{tiling}.npz")
                    ours.load("flow_segmentation", f"{folder}/{tiling}.npz")
                    row = interleave(original, ours, options.repeats or 2)
                    peaks = {worker.side: worker.ask(do="peak")["megabytes"] for worker in (original, ours)}
                    found = agree_on_labels(original.result(folder)["labels"], ours.result(folder)["labels"])
                what = f"segment {SIDE} x {SIDE}, {tiling} tiles"
                report.add({"what": what, "target": target, "agreement": found} | row)
                report.add(
                    {
                        "what": f"peak memory of that, {threads} threads, {tiling} tiles",
                        "unit": "x",
                        "peer": "cellpose3",
                        "peer_megabytes": round(peaks["cellpose3"]),
                        "cellrt_megabytes": round(peaks["cellrt"]),
                        "threads": threads,
                        "value": peaks["cellrt"] / peaks["cellpose3"],
                        "target": "below 0.5",
                    }
                )
    report.write()


if __name__ == "__main__":
    main()
