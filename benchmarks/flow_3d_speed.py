"""Are volumes followed, masked and segmented faster than by Cellpose? Versions 3 and 4, which follow in the same way.

The flows are a network's, recorded, and tiled to the size; without ../shared they are drawn, and nothing is segmented:
that needs the trained CPnet. Cellpose 4 has no network to compare with there.
"""

import json

import numpy as np
import scenes
from agreement import agree_on_labels
from flow_speed import agree_on_masks, agree_on_positions
from harness import Report, Worker, arguments, interleave, scratch

SHAPE = (64, 256, 256)
TARGETS = {"following_3d": "10x", "masks_3d": "10x"}
WHAT = {"following_3d": "flow integration, 200 steps", "masks_3d": "whole post-processing of flows"}
AGREEMENT = {"following_3d": agree_on_positions, "masks_3d": agree_on_masks}


def main():
    """Run every job against each version for each number of threads, then segment a volume."""
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--shape", type=int, nargs=3, default=SHAPE, help="sides of the volume of flows")
    options = parser.parse_args()
    report = Report("flow_3d_speed", "How many times faster than Cellpose are volumes?")
    with scratch() as folder:
        flow, cellprob, report.contents["image"] = scenes.volume_of_flows(options.shape)
        for dynamics, peer in (("v3", "cellpose3"), ("v4", "cellpose4")):
            path = f"{folder}/flows-{dynamics}.npz"
            np.savez(path, flow=flow, cellprob=cellprob, niter=200, dynamics=dynamics)
            for threads in options.threads:
                with Worker(peer, threads) as original, Worker("cellrt", threads) as ours:
                    report.versions(original, ours)
                    for task, what in WHAT.items():
                        original.load(task, path)
                        ours.load(task, path)
                        row = interleave(original, ours, options.repeats or 2)
                        found = AGREEMENT[task](original.result(folder), ours.result(folder))
                        name = f"{what}, {' x '.join(map(str, options.shape))}"
                        report.add({"what": name, "target": TARGETS[task], "agreement": found} | row)
        if scenes.CPNET.exists():
            segment(report, folder, options)
    report.write()


def segment(report, folder, options):
    """Rows of a whole volume, seen along three axes, and of its planes, stitched."""
    from cellrt_export import cellpose as exporter

    model = f"{folder}/model.onnx"
    exporter.export(scenes.CPNET, model)
    report.contents["model"] = "CPnet of Cellpose's own size, trained"
    for name, what in (("v3_3d", "do_3D"), ("v3_stitch", "planes stitched")):
        with np.load(scenes.CELLPOSE_CASE.with_name(f"{name}.npz")) as case:
            image, parameters = case["image"], json.loads(str(case["params"]))
        path = f"{folder}/{name}.npz"
        np.savez(path, image=image, params=json.dumps(parameters), weights=str(scenes.CPNET), model=model)
        threads = options.threads[-1]
        with Worker("cellpose3", threads) as original, Worker("cellrt", threads) as ours:
            report.versions(original, ours)
            for worker in (original, ours):
                worker.load("volume", path)
            row = interleave(original, ours, options.repeats or 1)
            found = agree_on_labels(original.result(folder)["labels"], ours.result(folder)["labels"])
        size = " x ".join(map(str, image.shape))
        report.add({"what": f"segment {size}, {what}", "target": "1.8x", "agreement": found} | row)


if __name__ == "__main__":
    main()
