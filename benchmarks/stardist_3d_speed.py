"""Are volumes segmented faster than by the original? Suppression, painting, and whole stacks, on the same inputs."""

import numpy as np
import scenes
from harness import Report, Worker, arguments, comparison, rounds, scratch

# What the original is given of the largest row: it needs some milliseconds for each candidate.
MANY, PART = 300_000, 3_000
REPEATS = {"suppression_3d": 2, "painting_3d": 5, "segmentation_3d": 2}
ONCE = ("suppression_3d", "segmentation_3d")  # take the original minutes: warming up would change nothing but the time


def agree_on_survivors(original, ours):
    """How many candidates only one side keeps, and whether the order is the same."""
    different = len(np.setxor1d(original["kept"], ours["kept"]))
    same_order = different == 0 and np.array_equal(original["kept"], ours["kept"])
    return f"{len(original['kept'])} survivors, {different} differ" + (", same order" if same_order else "")


def agree_on_labels(original, ours):
    """How many voxels differ."""
    return f"{np.count_nonzero(original['labels'] != ours['labels'])} of {original['labels'].size} voxels differ"


def main():
    """Run the comparisons for each number of threads, then what the original would take too long for."""
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--many", type=int, default=MANY, help=f"candidates of the largest row (default: {MANY})")
    options = parser.parse_args()
    report = Report("stardist_3d_speed", "How many times faster than StarDist's are the kernels for volumes?")
    cells = scenes.stack_cells(150, 96, (48, 160, 160))
    with scratch() as folder:
        whole = whole_stacks(folder)
        stacks = stacks_of_candidates(folder)
        for threads in options.threads:
            with Worker("stardist", threads) as original, Worker("cellrt", threads) as ours:
                report.versions(original, ours)
                for what, stack in stacks.items():
                    title = f"3D NMS of {len(stack['prob']):,} candidates, {what}"
                    job = ("suppression_3d", title, 50, agree_on_survivors)
                    compare(report, folder, original, ours, *job, stack, options.repeats)
                for what, stack in whole.items():
                    job = ("segmentation_3d", f"segment {what}", 1, agree_on_labels)
                    compare(report, folder, original, ours, *job, stack, options.repeats)
                inputs = cells | {"shape": np.array((48, 160, 160))}
                job = ("painting_3d", "painting 150 polyhedra into 48 x 160 x 160", 10, agree_on_labels)
                compare(report, folder, original, ours, *job, inputs, options.repeats)
        with Worker("cellrt", threads := max(options.threads)) as ours:
            many = scenes.stack_candidates(options.many, 96) | {"nms_thresh": np.float64(0.3)}
            np.savez(f"{folder}/many.npz", **many)
            before = ours.ask(do="peak")["megabytes"]
            ours.load("suppression_3d", f"{folder}/many.npz")
            loaded = ours.ask(do="peak")["megabytes"]
            seconds = ours.ask(do="run")["seconds"]
            grown = ours.ask(do="peak")["megabytes"] - max(before, loaded)
            what = f"3D NMS of {options.many:,} candidates, 96 rays: drawn"
            row = {"threads": threads, "agreement": "-"}
            report.add(row | {"what": what, "value": seconds, "unit": "s", "target": "60 s"})
            what = f"{what}: memory beyond its inputs"
            report.add(row | {"what": what, "value": grown, "unit": "MB", "target": "-"})
    report.write()


def whole_stacks(folder):
    """Normalised stacks by name, with the trained network: StarDist's example and four of it, where it is."""
    if not (scenes.TRAINED_3D.exists() and scenes.STACK.exists()):
        return {}
    from cellrt_export import stardist as exporter

    model = f"{folder}/model_3d.onnx"
    exporter.export(scenes.TRAINED_3D, model)
    with np.load(scenes.STACK) as case:
        image = case["norm"]
    network = {"folder": str(scenes.TRAINED_3D), "model": model}
    stacks = (np.tile(image, tiles) for tiles in ((1, 1, 1), (1, 2, 2)))
    return {f"{' x '.join(map(str, stack.shape))} voxels": network | {"image": stack} for stack in stacks}


def stacks_of_candidates(folder):
    """Candidates by name: of StarDist's example and of four of it, where the reference data is; and drawn ones."""
    stacks = {}
    if scenes.TRAINED_3D.exists() and scenes.STACK.exists():
        with np.load(scenes.STACK) as case, Worker("stardist", 2) as original:
            for what, tiles in (("StarDist's example", (1, 1, 1)), ("four of it", (1, 2, 2))):
                path = f"{folder}/stack.npz"
                np.savez(path, image=np.tile(case["norm"], tiles), folder=str(scenes.TRAINED_3D))
                original.load("candidates_3d", path)
                original.ask(do="run")
                stacks[f"64 rays: {what}"] = original.result(folder)
    stacks["96 rays: drawn"] = scenes.stack_candidates(PART, 96) | {"nms_thresh": np.float64(0.3)}
    return stacks


def compare(report, folder, original, ours, task, what, target, agreement, inputs, repeats):
    """One row."""
    path = f"{folder}/{task}.npz"
    np.savez(path, **inputs)
    original.load(task, path)
    ours.load(task, path)
    runs = rounds((original, ours), repeats or REPEATS[task], warm_up=task not in ONCE)
    row = comparison(original, ours, runs)
    found = agreement(original.result(folder), ours.result(folder))
    report.add({"what": what, "target": f"{target}x", "agreement": found} | row)


if __name__ == "__main__":
    main()
