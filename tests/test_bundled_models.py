"""The models that ship with cellrt: small, described, licensed, measured, and as good as their figures say."""

from __future__ import annotations

import json

import numpy as np
import pytest
from conftest import DATA, ROOT

import cellrt
from cellrt import metrics, readers
from cellrt.catalogue import bundled_figures
from cellrt.cli import main

FOLDER = ROOT / "runtime" / "cellrt" / "models"
NAMES = ("cells", "nuclei", "tissue")
LARGEST = 3_000_000  # bytes of a file


def test_they_are_what_the_readme_says():
    assert sorted(cellrt.bundled_models()) == list(NAMES)
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in NAMES:
        assert f"[`{name}`](runtime/cellrt/models/{name}.md)" in text


@pytest.mark.parametrize("name", NAMES)
def test_each_is_small_described_licensed_and_has_a_card(name):
    path = cellrt.bundled_models()[name]
    assert path.stat().st_size <= LARGEST
    manifest = cellrt.load(name, providers=["cpu"]).manifest
    assert manifest.name == name
    assert manifest.description
    assert manifest.source.licence == "BSD-3-Clause"
    assert manifest.selftest is not None
    card = (FOLDER / f"{name}.md").read_text(encoding="utf-8")
    assert "@" not in card.replace("@0.5", "")  # no number left to be filled in
    head = manifest.head
    said = [f"{head.prob_thresh:g}", f"{head.nms_thresh:g}"] if head.kind == "star" else [f"{head.diam_labels:.0f}"]
    assert all(number in card for number in said)
    assert (FOLDER / "pictures" / f"{name}.png").is_file()


def test_they_are_listed_with_what_was_measured(capsys):
    figures = bundled_figures()
    assert sorted(figures) == list(NAMES)
    results = json.loads((ROOT / "benchmarks" / "results" / "bundled_models.json").read_text(encoding="utf-8"))
    for name, found in figures.items():
        (row,) = (r for r in results["rows"] if r["model"] == name and r["what"].endswith("as they are"))
        assert (found.ap50, found.mean_ap, found.images) == (row["ap"][0], row["mean_ap"], row["images"])
    assert main(["models"]) == 0
    heading, *lines = capsys.readouterr().out.splitlines()
    assert heading.split()[0] == "NAME"
    assert [line.split()[0] for line in lines] == list(NAMES)
    assert all("BSD-3-Clause" in line and "images" in line for line in lines)


@pytest.mark.parametrize("name", NAMES)
def test_held_out_images_are_not_trained_on(name):
    split = json.loads((ROOT / "benchmarks" / "splits" / f"{name}.json").read_text(encoding="utf-8"))
    assert split["training"]
    assert split["validation"]
    assert not set(split["training"]) & set(split["validation"])


@pytest.mark.parametrize("name", NAMES)
def test_each_finds_the_cells_of_held_out_images(name):
    """A sample of what the benchmark measures: four images, at an overlap of 0.5."""
    if not DATA.is_dir():
        pytest.skip("the real images are not here (../shared/data)")
    figures = bundled_figures()[name]
    split = json.loads((ROOT / "benchmarks" / "splits" / f"{name}.json").read_text(encoding="utf-8"))
    names = sorted(n for n in split["validation"] if n.startswith(f"{figures.set}/"))
    model = cellrt.load(name, providers=["cpu"])
    pairs = []
    for each in names[:: max(1, len(names) // 4)][:4]:
        folder, stem = each.split("/")
        (path,), (mask,) = ((DATA / folder / kind).glob(f"{stem}.*") for kind in ("images", "masks"))
        pixels, axes = readers.read(path)
        labels, _ = readers.read(mask)
        pairs.append((labels.astype(np.int32), model.segment(pixels, axes=axes).labels))
    assert metrics.matching_dataset(pairs, threshold=0.5).accuracy > figures.ap50 - 0.2
