"""Record what the originals StarDist 0.9.2 and Cellpose 4.2.1.1 say of random label images, as small fixtures.

Run in environments of their own, never in the project's (see README.md beside this file), or in one that has both:

    STARDIST/bin/python tests/golden/record_metrics.py     # labels.npz if it is not there, and stardist.npz
    FOUR/bin/python tests/golden/record_metrics.py         # cellpose.npz

Every label image is computed here from a seed. The files hold the ORIGINALS' outputs only: this script does not import
cellrt, and it does not judge.
"""

import importlib.metadata
import importlib.util
import json
import sys
import types
import warnings
from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).resolve().parent / "metrics"
THRESHOLDS = np.round(np.arange(0.1, 1.01, 0.1), 1)
CRITERIA = ("iou", "iot", "iop")
FIELDS = (
    *("fp", "tp", "fn", "precision", "recall", "accuracy", "f1", "n_true", "n_pred"),
    *("mean_true_score", "mean_matched_score", "panoptic_quality"),
)


def discs(shape, count, seed, radius):
    """Draw discs (balls) with random centres and radii, later ones over earlier ones; uint16."""
    random = np.random.default_rng(seed)
    places = np.indices(shape)
    labels = np.zeros(shape, np.uint16)
    for label in range(1, count + 1):
        centre = [random.uniform(0, side) for side in shape]
        squares = sum((place - at) ** 2 for place, at in zip(places, centre, strict=True))
        labels[squares < random.uniform(*radius) ** 2] = label
    return labels


def disturb(labels, seed, amount):
    """Turn a truth into a prediction: moved pixel by pixel, objects dropped, merged and split, numbered with gaps."""
    random = np.random.default_rng(seed)
    places = np.indices(labels.shape)
    moved = [
        np.clip(np.rint(place + random.normal(0, amount, labels.shape)).astype(int), 0, side - 1)
        for place, side in zip(places, labels.shape, strict=True)
    ]
    predicted = labels[tuple(moved)].astype(np.int64)
    numbers = np.arange(labels.max() + 1)
    for number in numbers[1:]:
        kind = random.random()
        if kind < 0.1:
            numbers[number] = 0
        elif kind < 0.25:
            numbers[number] = numbers[random.integers(1, labels.max() + 1)]
        elif kind < 0.4:
            predicted[(predicted == number) & (places[-1] > np.mean(places[-1][labels == number]))] = -number
    predicted = np.where(
        predicted < 0, labels.max() - predicted, np.append(numbers, numbers[0])[np.maximum(predicted, 0)]
    )
    order = np.append(0, 1 + random.permutation(3 * labels.max())).astype(np.uint16)
    return order[predicted]


def label_images():
    """(truth, predicted) by name."""
    nothing, one = np.zeros((20, 30), np.uint16), np.zeros((20, 30), np.uint16)
    one[3:9, 4:12] = 7
    halves = np.where(one > 0, np.arange(30, dtype=np.uint16) // 8 + 1, 0).astype(np.uint16)
    cases = {
        "nothing": (nothing, nothing),
        "nothing_true": (nothing, one),
        "nothing_found": (one, nothing),
        "equal": (one, one),
        "halves": (one, halves),  # two of exactly half the intersection over union
    }
    for seed, (name, shape, count, radius, amount) in enumerate(
        [
            ("loose", (120, 110), 30, (4, 9), 1.0),
            ("dense", (128, 128), 160, (5, 11), 1.5),
            ("crowd", (100, 140), 250, (4, 14), 4.0),
            ("far", (90, 90), 40, (5, 12), 9.0),
            ("volume", (14, 40, 44), 60, (4, 8), 1.2),
        ]
    ):
        truth = discs(shape, count, 10 + seed, radius)
        cases[name] = (truth, disturb(truth, 20 + seed, amount))
    return cases


def load_labels():
    """The label images of the file, which is made if it is not there."""
    path = GOLDEN / "labels.npz"
    if not path.exists():
        GOLDEN.mkdir(exist_ok=True)
        cases = label_images()
        arrays = {
            f"{name}_{which}": array
            for name, pair in cases.items()
            for which, array in zip(("truth", "predicted"), pair, strict=True)
        }
        np.savez_compressed(path, names=list(cases), **arrays)
    with np.load(path) as file:
        return {str(name): (file[f"{name}_truth"], file[f"{name}_predicted"]) for name in file["names"]}


def note_version(package, *others):
    """Add the versions of the original and of what it ran on to versions.json."""
    path = GOLDEN / "versions.json"
    versions = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    versions[package] = {name: importlib.metadata.version(name) for name in (package, "numpy", "scipy", *others)}
    path.write_text(json.dumps(versions, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def record_stardist(cases):
    """`matching` of every case and `matching_dataset` of all, at every threshold and criterion."""
    from stardist.matching import matching, matching_dataset

    def numbers(found):
        return np.array([[float(getattr(one, field)) for field in FIELDS] for one in found])

    recorded = {"thresholds": THRESHOLDS, "fields": np.array(FIELDS)}
    for criterion in CRITERIA:
        for name, pair in cases.items():
            found = matching(*pair, thresh=THRESHOLDS.tolist(), criterion=criterion, report_matches=True)
            recorded[f"{name}_{criterion}"] = numbers(found)
            matched = [one.matched_pairs[i] for one in found for i in one.matched_tps]
            recorded[f"{name}_{criterion}_pairs"] = np.array(matched, np.int32).reshape(-1, 2)
            scores = [one.matched_scores[i] for one in found for i in one.matched_tps]
            recorded[f"{name}_{criterion}_scores"] = np.array(scores, np.float32)
        truths, predictions = zip(*cases.values(), strict=True)
        for by_image in (False, True):
            found = matching_dataset(
                truths, predictions, THRESHOLDS.tolist(), criterion, by_image=by_image, show_progress=False
            )
            recorded[f"dataset_{criterion}_{by_image}"] = numbers(found)
    np.savez_compressed(GOLDEN / "stardist.npz", **recorded)
    note_version("stardist", "numba")


def record_cellpose(cases):
    """`average_precision` and `aggregated_jaccard_index` of all cases."""
    # Only the file with the measures is loaded: they need neither PyTorch nor the rest, which need not be installed.
    package = importlib.util.find_spec("cellpose").submodule_search_locations
    sys.modules["cellpose"] = types.ModuleType("cellpose")
    sys.modules["cellpose"].__path__ = package
    sys.modules["cellpose.utils"] = sys.modules["cellpose"].utils = types.ModuleType("cellpose.utils")
    from cellpose import metrics

    truths, predictions = map(list, zip(*cases.values(), strict=True))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of 0 / 0
        ap, tp, fp, fn = metrics.average_precision(truths, predictions, THRESHOLDS.tolist())
        index = metrics.aggregated_jaccard_index(truths, predictions)
    np.savez_compressed(
        GOLDEN / "cellpose.npz", thresholds=THRESHOLDS, names=list(cases), ap=ap, tp=tp, fp=fp, fn=fn, index=index
    )
    note_version("cellpose")


if __name__ == "__main__":
    label_images_of = load_labels()
    if importlib.util.find_spec("stardist"):
        record_stardist(label_images_of)
    if importlib.util.find_spec("cellpose"):
        record_cellpose(label_images_of)
