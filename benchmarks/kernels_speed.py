"""Are the kernels faster than the original's? Suppression, painting and normalisation, on the same inputs."""

import numpy as np
import scenes
from harness import Report, Worker, arguments, interleave, scratch

REPEATS = {"suppression": 5, "painting": 7, "normalization": 9}
MANY, REPEATS_OF_MANY = 1_000_000, 2  # candidates; on the largest number of threads only: the original takes its time


def agree_on_survivors(original, ours):
    """How many candidates only one side keeps, and whether the order is the same."""
    different = len(np.setxor1d(original["kept"], ours["kept"]))
    same_order = different == 0 and np.array_equal(original["kept"], ours["kept"])
    return f"{len(original['kept'])} survivors, {different} differ" + (", same order" if same_order else "")


def agree_on_labels(original, ours):
    """How many pixels differ."""
    return f"{np.count_nonzero(original['labels'] != ours['labels'])} of {original['labels'].size} pixels differ"


def agree_on_image(original, ours):
    """The largest difference."""
    difference = np.abs(original["image"].astype(np.float64) - ours["image"]).max()
    return "equal to the bit" if np.array_equal(original["image"], ours["image"]) else f"differs by {difference:.1e}"


def main():
    """Run the three comparisons for each number of threads."""
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--many", type=int, default=MANY, help=f"candidates of the largest row (default: {MANY})")
    options = parser.parse_args()
    report = Report("kernels_speed", "How many times faster than StarDist's are the kernels, per thread?")
    prob, dist, points = scenes.candidates(100_000)
    cell_prob, cell_dist, cell_points = scenes.cells(2000, (2048, 2048))
    jobs = (
        (
            "suppression",
            "NMS of 100,000 candidates, 32 rays",
            10,
            agree_on_survivors,
            {"prob": prob, "dist": dist, "points": points, "nms_thresh": np.float64(0.4)},
        ),
        (
            "painting",
            "painting 2,000 cells into 2048 x 2048",
            20,
            agree_on_labels,
            {"prob": cell_prob, "dist": cell_dist, "points": cell_points, "shape": np.array((2048, 2048))},
        ),
        (
            "normalization",
            "percentiles and normalise, 2048 x 2048 uint16",
            10,
            agree_on_image,
            {"image": scenes.camera_image((2048, 2048))},
        ),
    )
    many = dict(zip(("prob", "dist", "points"), scenes.candidates(options.many), strict=True))
    with scratch() as folder:
        for threads in options.threads:
            with Worker("stardist", threads) as original, Worker("cellrt", threads) as ours:
                report.versions(original, ours)
                for job in jobs:
                    compare(report, folder, original, ours, *job, options.repeats or REPEATS[job[0]])
        with Worker("stardist", threads := max(options.threads)) as original, Worker("cellrt", threads) as ours:
            what = f"NMS of {options.many:,} candidates, 32 rays"
            job = ("suppression", what, 10, agree_on_survivors, many | {"nms_thresh": np.float64(0.4)})
            compare(report, folder, original, ours, *job, options.repeats or REPEATS_OF_MANY)
    report.write()


def compare(report, folder, original, ours, task, what, target, agreement, inputs, repeats):
    """One row."""
    path = f"{folder}/{task}.npz"
    np.savez(path, **inputs)
    original.load(task, path)
    ours.load(task, path)
    row = interleave(original, ours, repeats)
    found = agreement(original.result(folder), ours.result(folder))
    report.add({"what": what, "target": f"{target}x", "agreement": found} | row)


if __name__ == "__main__":
    main()
