"""`cellrt evaluate` as a user meets it: pairs of files, the table, reports that are whole, exit codes."""

from __future__ import annotations

import csv
import json
import math
from typing import Any

import numpy as np
import pytest
from conftest import GOLDEN_METRICS
from numpy.typing import NDArray
from test_minimal import blobs

from cellrt import metrics
from cellrt.cli import main

tifffile = pytest.importorskip("tifffile")
image_module = pytest.importorskip("PIL.Image")

NAMES = ("dense", "far", "loose", "nothing")


@pytest.fixture(scope="module")
def cases() -> dict[str, tuple[NDArray[Any], NDArray[Any]]]:
    with np.load(GOLDEN_METRICS / "labels.npz") as file:
        return {name: (file[f"{name}_truth"], file[f"{name}_predicted"]) for name in NAMES}


@pytest.fixture
def folders(cases, tmp_path):
    """Predictions as cellrt names them, truths as PNG."""
    predicted, truth = tmp_path / "predicted", tmp_path / "truth"
    predicted.mkdir()
    truth.mkdir()
    for name, (true_labels, labels) in cases.items():
        tifffile.imwrite(predicted / f"{name}_labels.tif", labels)
        image_module.fromarray(true_labels).save(truth / f"{name}.png")
    return predicted, truth


def evaluate(*arguments: object) -> int:
    return main(["evaluate", *map(str, arguments)])


def test_table_and_reports(folders, cases, tmp_path, capsys):
    predicted, truth = folders
    report, sheet = tmp_path / "new" / "report.json", tmp_path / "sheet.csv"
    assert evaluate("--pred", predicted, "--truth", truth, "--json", report, "--csv", sheet) == 0
    said = capsys.readouterr()
    assert said.err == ""
    heading, *lines = said.out.splitlines()
    assert heading.split()[:4] == ["true", "found", "AP@0.5", "AP@0.55"]
    assert [line.split()[0] for line in lines] == [*NAMES, "pooled"]
    assert lines[3].split() == ["nothing", "0", "0", *["-"] * 13]

    content = json.loads(report.read_text())
    assert content["thresholds"] == [0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9]
    for entry in content["images"]:
        found = metrics.matching(*cases[entry["name"]], threshold=content["thresholds"])
        assert entry["tp"] == [one.tp for one in found]
        assert entry["n_true"] == found[0].n_true
        if entry["name"] != "nothing":
            assert [entry[f"AP@{one.threshold:g}"] for one in found] == [one.accuracy for one in found]
            assert math.isclose(entry["mean AP"], sum(one.accuracy for one in found) / 9)
            assert (entry["F1@0.5"], entry["PQ@0.5"]) == (found[0].f1, found[0].panoptic_quality)
            assert entry["AJI"] == metrics.aggregated_jaccard_index(*cases[entry["name"]])
    assert content["images"][3]["AJI"] is None
    pooled = metrics.matching_dataset(cases.values(), threshold=[0.5, 0.75])
    assert [content["pooled"][key] for key in ("AP@0.5", "AP@0.75")] == [one.accuracy for one in pooled]
    assert content["pooled"]["F1@0.5"] == pooled[0].f1

    rows = list(csv.DictReader(sheet.read_text().splitlines()))
    assert [row["name"] for row in rows] == list(NAMES)
    assert [float(row["AP@0.5"] or "nan") for row in rows[:3]] == [
        round(entry["AP@0.5"], 6) for entry in content["images"][:3]
    ]
    assert rows[3]["AJI"] == ""


def test_thresholds_of_ones_own(folders, capsys):
    predicted, truth = folders
    assert (
        evaluate("--pred", predicted / "loose_labels.tif", "--truth", truth / "loose.png", "--threshold", "0.2,1") == 0
    )
    assert capsys.readouterr().out.split()[:8] == ["true", "found", "AP@0.2", "AP@1", "mean", "AP", "F1@0.5", "PQ@0.5"]


def test_files_belong_together_by_name(cases, tmp_path, capsys):
    """Whatever the program that wrote them calls them, and whatever lies beside them."""
    true_labels, labels = cases["loose"]
    predicted, truth = tmp_path / "predicted", tmp_path / "truth"
    predicted.mkdir()
    truth.mkdir()
    np.save(predicted / "a_seg.npy", np.array({"masks": labels}, object))
    tifffile.imwrite(predicted / "a.tif", np.zeros((8, 9), np.float32))  # the image that Cellpose saw
    tifffile.imwrite(predicted / "b_cp_masks.tif", labels)
    tifffile.imwrite(predicted / "c_masks.ome.tif", labels)
    np.save(predicted / "d_labels.npy", labels)
    (predicted / "d.csv").write_text("not an image")
    for name in ("a", "b_masks", "c", "d_cp_masks"):
        tifffile.imwrite(truth / f"{name}.tif", true_labels)
    assert evaluate("--pred", predicted, "--truth", f"{truth}/*.tif") == 0
    _, *lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["a", "b", "c", "d", "pooled"]
    assert len({line.split(maxsplit=1)[1] for line in lines[:4]}) == 1


def test_results_of_cellrt_are_labels_and_nothing_else(tmp_path, capsys):
    image, results = tmp_path / "field.tif", tmp_path / "results"
    tifffile.imwrite(image, blobs()[0])
    formats = ["--save", "labels,csv,overlay"]
    assert main(["segment", str(image), "-m", "nuclei", "-o", str(results), *formats]) == 0
    assert evaluate("--pred", results, "--truth", results) == 0
    assert capsys.readouterr().out.splitlines()[-1].split() == ["pooled", "64", "64", *["1.000"] * 13]


def test_what_cannot_be_compared_is_reported_and_the_rest_compared(folders, cases, tmp_path, capsys):
    predicted, truth = folders
    (truth / "far.png").unlink()
    tifffile.imwrite(truth / "alone.tif", cases["far"][0])
    tifffile.imwrite(predicted / "dense_labels.tif", cases["far"][1])
    tifffile.imwrite(truth / "loose_masks.tif", cases["loose"][0])
    tifffile.imwrite(truth / "loose_labels.tif", cases["loose"][0])
    for name, pixels in (("colour", np.zeros((9, 9, 3), np.uint8)), ("grey", np.zeros((9, 9), np.float32))):
        tifffile.imwrite(predicted / f"{name}.tif", pixels)
        tifffile.imwrite(truth / f"{name}.tif", np.zeros((9, 9), np.uint8))
    (predicted / "torn.tif").write_bytes(b"II*\0")
    tifffile.imwrite(truth / "torn.tif", cases["far"][0])
    report = tmp_path / "report.json"
    assert evaluate("--pred", predicted, "--truth", truth, "--json", report) == 1
    said = capsys.readouterr()
    assert [line.split()[0] for line in said.out.splitlines()[1:]] == ["nothing", "pooled"]
    assert "Traceback" not in said.err
    for message in (
        f"far: expected true labels for {predicted / 'far_labels.tif'}, got no file of that name; rename it",
        f"alone: expected predicted labels for {truth / 'alone.tif'}, got no file of that name; rename it",
        "dense: expected predicted of shape (128, 128) as truth, got (90, 90); check",
        f"loose: expected one file of true labels, got {truth / 'loose_labels.tif'}, {truth / 'loose_masks.tif'}; name",
        "colour: expected a label image with one number per pixel, got YXC (9, 9, 3) in",
        "grey: expected predicted as an array of integer labels, got dtype float32; number",
        "torn: expected a whole TIFF, got",
        "7 of 8 images were not compared",
    ):
        assert f"cellrt: {message}" in said.err
    content = json.loads(report.read_text())
    assert len(content["problems"]) == 7
    assert [entry["name"] for entry in content["images"]] == ["nothing"]


def test_nothing_to_compare_leaves_no_report(folders, tmp_path, capsys):
    predicted, truth = folders
    report = tmp_path / "report.json"
    arguments = ("--pred", predicted / "far_labels.tif", "--truth", truth / "loose.png", "--json", report)
    assert evaluate(*arguments) == 1
    assert capsys.readouterr().out == ""
    assert not report.exists()
    assert evaluate("--pred", tmp_path / "nowhere", "--truth", truth) == 1
    assert "cellrt: expected an image file, a folder or a pattern" in capsys.readouterr().err


def test_reports_never_take_the_place_of_labels_and_replace_older_ones_whole(folders, tmp_path, capsys):
    predicted, truth = folders
    both = ("--pred", predicted, "--truth", truth)
    before = (truth / "far.png").read_bytes()
    assert evaluate(*both, "--csv", truth / "far.png") == 1
    assert "expected files of their own for the reports" in capsys.readouterr().err
    assert (truth / "far.png").read_bytes() == before
    assert evaluate(*both, "--csv", tmp_path / "report", "--json", tmp_path / "report") == 1
    report = tmp_path / "report.json"
    report.write_text("older")
    assert evaluate(*both, "--json", report, "--csv", predicted) == 1  # a folder: neither is written
    assert report.read_text() == "older"
    assert evaluate(*both, "--json", report) == 0
    assert json.loads(report.read_text())["program"].startswith("cellrt ")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["predicted", "report.json", "truth"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--pred", "x"],
        ["--truth", "x"],
        *(["--pred", "x", "--truth", "x", "--threshold", value] for value in ("0", "1.1", "half", "0.5,", "nan")),
    ],
)
def test_usage_errors_exit_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        evaluate(*arguments)
    assert stop.value.code == 2
    assert "usage: cellrt evaluate" in capsys.readouterr().err
