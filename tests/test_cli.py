"""The command line as a user meets it: exit codes, messages without tracebacks, nothing half-written."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from test_minimal import blobs

import cellrt
from cellrt.cli import main

tifffile = pytest.importorskip("tifffile")
pytest.importorskip("PIL")


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "field.tif"
    tifffile.imwrite(path, blobs()[0])
    return path


def segment(*arguments, output):
    return main(["segment", *map(str, arguments), "--model", "nuclei", "-o", str(output), "--threads", "1"])


def test_every_format(image, tmp_path, capsys):
    output = tmp_path / "new" / "results"
    assert segment(image, "--save", "labels,csv,rois,geojson,overlay", output=output) == 0
    said = capsys.readouterr()
    assert "64 objects" in said.out
    assert "megapixels/s" in said.out
    assert said.err == ""
    assert sorted(path.name for path in output.iterdir()) == [
        "field.csv",
        "field.geojson",
        "field_labels.tif",
        "field_overlay.png",
        "field_rois.zip",
    ]
    labels = tifffile.imread(output / "field_labels.tif")
    assert labels.dtype == np.uint16
    assert np.array_equal(labels, cellrt.load("nuclei").segment(blobs()[0]).labels)
    assert len((output / "field.csv").read_text().splitlines()) == 65
    assert len(json.loads((output / "field.geojson").read_text())["features"]) == 64


def test_one_bad_image_does_not_stop_the_others(image, tmp_path, capsys):
    folder = tmp_path / "plate"
    folder.mkdir()
    whole = image.read_bytes()
    (folder / "a.tif").write_bytes(whole)
    (folder / "b.tif").write_bytes(whole[: len(whole) // 2])
    (folder / "c.tif").write_bytes(b"")
    tifffile.imwrite(folder / "d.tif", np.full((64, 64), 9, np.uint16))
    tifffile.imwrite(folder / "e.tif", np.full((64, 64), np.nan, np.float32))
    tifffile.imwrite(folder / "f.tif", blobs()[0])
    output = tmp_path / "results"
    assert segment(folder, "--save", "labels,csv", output=output) == 1
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    for name in "bcde":
        assert f"{name}.tif: expected" in said.err
    assert "4 of 6 images failed" in said.err
    assert sorted(path.name for path in output.iterdir()) == ["a.csv", "a_labels.tif", "f.csv", "f_labels.tif"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["segment"],
        ["segment", "x.tif", "-o", "out"],
        ["segment", "x.tif", "-o", "out", "-m", "nuclei", "--prob-thresh", "2"],
        ["segment", "x.tif", "-o", "out", "-m", "nuclei", "--nms-thresh", "nan"],
        ["segment", "x.tif", "-o", "out", "-m", "nuclei", "--save", "labels,hologram"],
        ["segment", "x.tif", "-o", "out", "-m", "nuclei", "--scale", "0"],
        ["segment", "x.tif", "-o", "out", "-m", "nuclei", "--tiles", "3"],
        ["segment", "x.tif", "-o", "out", "-m", "nuclei", "--normalize", "99,1"],
        ["segment", "x.tif", "-o", "out", "-m", "nuclei", "--threads", "-1"],
        ["dance"],
        [],
    ],
)
def test_usage_errors_exit_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert "usage: cellrt" in capsys.readouterr().err


def test_nothing_to_segment(tmp_path, capsys):
    assert segment(tmp_path / "nowhere.tif", output=tmp_path / "out") == 1
    assert "cellrt: expected" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_unknown_model(image, tmp_path, capsys):
    assert main(["segment", str(image), "-m", "nucleus", "-o", str(tmp_path / "out")]) == 1
    assert "bundled models" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_output_that_cannot_be_a_folder(image, tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    assert segment(image, output=tmp_path / "file" / "out") == 1
    assert "expected to create the folder" in capsys.readouterr().err


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may write anywhere")
def test_output_without_permission(image, tmp_path, capsys):
    output = tmp_path / "locked"
    output.mkdir(mode=0o500)
    assert segment(image, output=output) == 1
    assert "expected to write into" in capsys.readouterr().err


def test_info_and_selftest(capsys):
    assert main(["info", "nuclei"]) == 0
    said = capsys.readouterr().out
    assert "star: 32 rays" in said
    assert "licence" in said
    assert main(["info", "nuclei", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["head"]["kind"] == "star"
    assert main(["selftest", "nuclei"]) == 0
    assert "passed" in capsys.readouterr().out


def test_module_and_version():
    said = subprocess.run([sys.executable, "-m", "cellrt", "--version"], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == f"cellrt {cellrt.__version__}"
