"""Are the flow kernels faster than Cellpose's? Integration, quality control, all post-processing; versions 3 and 4.

The flows are a network's, recorded, and tiled to the size; without ../shared they are drawn.
"""

import numpy as np
import scenes
from agreement import agree_on_labels
from harness import Report, Worker, arguments, interleave, scratch

SIDES = (512, 2048)
REPEATS = {512: 5, 2048: 2}
LARGE = 2048  # from here on the parts are not timed one by one, and one thread is not: the original takes minutes
TARGETS = {
    ("following", "v3"): "10x",
    ("following", "v4"): "6x",
    ("errors", "v3"): "10x",
    ("errors", "v4"): "50x",
    ("masks", "v3", 2048): "15x",
    ("masks", "v4", 2048): "30x",
}
WHAT = {
    "following": "flow integration, 200 steps",
    "errors": "quality control of flows",
    "masks": "whole post-processing of flows",
}


def agree_on_positions(original, ours):
    """Share of the pixels that end within 1e-3 px of where the original has them."""
    distance = np.abs(original["positions"] - ours["positions"]).max(axis=1)
    same = np.array_equal(original["positions"], ours["positions"])
    return "equal to the bit" if same else f"{np.mean(distance < 1e-3):.4%} of {len(distance)} pixels within 1e-3 px"


def agree_on_errors(original, ours):
    """The largest difference of an error, and how many masks only one side drops."""
    largest = np.abs(original["errors"] - ours["errors"]).max()
    different = np.count_nonzero((original["errors"] > 0.4) != (ours["errors"] > 0.4))
    return f"{len(ours['errors'])} masks, {different} decisions differ, errors within {largest:.1e}"


def agree_on_masks(original, ours):
    """Cells, average precision, pixels."""
    return agree_on_labels(original["labels"], ours["labels"])


AGREEMENT = {"following": agree_on_positions, "errors": agree_on_errors, "masks": agree_on_masks}


def main():
    """Run every job at every size for each version and number of threads."""
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--sides", type=int, nargs="+", default=SIDES, help="sides of the image")
    options = parser.parse_args()
    report = Report("flow_speed", "How many times faster than Cellpose's are the flow kernels?")
    with scratch() as folder:
        for side in options.sides:
            flow, cellprob, labels, report.contents["image"] = scenes.flows(side)
            for dynamics, peer in (("v3", "cellpose3"), ("v4", "cellpose4")):
                path = f"{folder}/flows-{side}-{dynamics}.npz"
                np.savez(path, flow=flow, cellprob=cellprob, labels=labels, niter=200, dynamics=dynamics)
                for threads in options.threads if side < LARGE else options.threads[-1:]:
                    with Worker(peer, threads) as original, Worker("cellrt", threads) as ours:
                        report.versions(original, ours)
                        for task, what in WHAT.items():
                            if side >= LARGE and task == "errors":
                                continue
                            original.load(task, path)
                            ours.load(task, path)
                            row = interleave(original, ours, options.repeats or REPEATS.get(side, 2))
                            target = TARGETS.get((task, dynamics), TARGETS.get((task, dynamics, side), "-"))
                            found = AGREEMENT[task](original.result(folder), ours.result(folder))
                            name = f"{what}, {side} x {side}"
                            report.add({"what": name, "target": target, "agreement": found} | row)
    report.write()


if __name__ == "__main__":
    main()
