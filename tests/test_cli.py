"""The command line as a user meets it: exit codes, messages without tracebacks, nothing half-written."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import flow_network
import numpy as np
import pytest
from test_minimal import blobs

import cellrt
from cellrt.cli import main
from cellrt.seg_file import read_seg

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
        ["segment", "x.tif", "-o", "out", "-m", "nuclei", "--prob-thresh", "2"],
        ["segment", "x.tif", "-o", "out", "-m", "nuclei", "--nms-thresh", "nan"],
        ["segment", "x.tif", "-o", "out", "-m", "nuclei", "--save", "labels,hologram"],
        ["segment", "x.tif", "-o", "out", "-m", "nuclei", "--scale", "0"],
        ["segment", "x.tif", "-o", "out", "-m", "nuclei", "--tiles", "3"],
        ["segment", "x.tif", "-o", "out", "-m", "nuclei", "--tiles", "huge"],
        ["segment", "x.tif", "-o", "out", "-m", "nuclei", "--channels", "-1"],
        ["segment", "x.tif", "-o", "out", "-m", "nuclei", "--diameter", "0"],
        ["segment", "x.tif", "-o", "out", "-m", "nuclei", "--diameter", "large"],
        ["segment", "x.tif", "-o", "out", "-m", "nuclei", "--flow-threshold", "-0.1"],
        ["segment", "x.tif", "-o", "out", "-m", "nuclei", "--cellprob-threshold", "inf"],
        ["segment", "x.tif", "-o", "out", "-m", "nuclei", "--niter", "0"],
        ["segment", "x.tif", "-o", "out", "-m", "nuclei", "--niter", "1000000"],
        ["segment", "x.tif", "-o", "out", "-m", "nuclei", "--min-size", "2.5"],
        ["segment", "x.tif", "-o", "out", "-m", "nuclei", "--min-size", "-1"],
        ["segment", "x.tif", "-o", "out", "-m", "nuclei", "--normalize", "99,1"],
        ["segment", "x.tif", "-o", "out", "-m", "nuclei", "--threads", "-1"],
        ["segment", "x.tif", "-o", "out", "-m", "nuclei", "--threads", "99999999999"],
        ["segment", "x.tif", "-o", "out", "-m", "nuclei", "--threads", "1,2"],
        ["segment", "x.tif", "-o", "out", "-m", "nuclei", "--axes", "QYX"],
        ["segment", "x.tif", "-o", "out", "-m", "nuclei", "--axes", "CY"],
        ["segment", "x.tif", "-o", "out", "-m", "nuclei", "--axes", "YXX"],
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


# ---- flow models


@pytest.fixture(scope="module")
def flow_model(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "flow.onnx"
    path.write_bytes(flow_network.model(size_model=True))
    return path


@pytest.fixture
def field(tmp_path):
    """An image of blobs, and how many there are."""
    pixels, n = flow_network.image()
    path = tmp_path / "field.tif"
    tifffile.imwrite(path, np.clip(np.round(pixels * 10_000 + 5000), 0, 65535).astype(np.uint16))
    return path, n


def flow(*arguments, model, output):
    return main(["segment", *map(str, arguments), "-m", str(model), "-o", str(output), "--threads", "1"])


def test_every_format_of_a_flow_model(field, flow_model, tmp_path, capsys):
    path, n = field
    output = tmp_path / "results"
    assert flow(path, "--save", "labels,csv,rois,geojson,overlay,seg,outlines", model=flow_model, output=output) == 0
    said = capsys.readouterr()
    assert f"{n} objects  diameter 15." in said.out  # estimated: 16 is what it was trained on
    assert said.err == ""
    names = [".csv", ".geojson", "_cp_outlines.txt", "_labels.tif", "_overlay.png", "_rois.zip", "_seg.npy"]
    assert sorted(found.name for found in output.iterdir()) == [f"field{name}" for name in names]
    model = cellrt.load(flow_model, threads=1)
    maps = model.predict(tifffile.imread(path))
    labels = model.decode(maps).labels
    assert np.array_equal(tifffile.imread(output / "field_labels.tif"), labels)
    seg = read_seg(output / "field_seg.npy")
    assert np.array_equal(seg.labels, labels)
    assert np.array_equal(seg.maps, maps.maps)
    assert (seg.filename, seg.diameter) == (str(path), maps.diameter)
    assert len((output / "field_cp_outlines.txt").read_text().splitlines()) == n
    # corrected by hand: not to be replaced
    np.save(output / "field_seg.npy", np.array({"masks": labels}, object))
    assert flow(path, "--save", "seg", model=flow_model, output=output) == 1
    assert "expected to replace only what cellrt wrote" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (["--diameter", "12"], {"diameter": 12}),
        (["--diameter", "model"], {"diameter": flow_network.DIAMETER}),
        (["--diameter", "8", "--no-resample"], {"diameter": 8, "resample": False}),
        (["--diameter", "16", "--augment", "--invert"], {"diameter": 16, "augment": True, "invert": True}),
        (["--diameter", "16", "--tiles", "large", "--channels", "0,0"], {"tiles": "large", "channels": (0, 0)}),
        (["--normalize", "5,95", "--niter", "20"], {"normalize": (5, 95), "niter": 20}),
        (["--flow-threshold", "0", "--cellprob-threshold", "-2"], {"flow_threshold": 0, "cellprob_threshold": -2}),
        (["--flow-threshold", "0.01", "--min-size", "0"], {"flow_threshold": 0.01, "min_size": 0}),
        (["--min-size", "190", "--normalize", "none"], {"min_size": 190, "normalize": None}),
    ],
)
def test_options_of_flow_models_reach_the_model(field, flow_model, tmp_path, capsys, given, wanted):
    path, _ = field
    assert flow(path, *given, "--save", "labels", model=flow_model, output=tmp_path / "out") == 0
    assert ("diameter" in capsys.readouterr().out) == ("--diameter" not in given)
    if "tiles" in wanted:
        wanted = {"diameter": 16, **wanted}
    labels = cellrt.load(flow_model, threads=1).segment(tifffile.imread(path), **wanted).labels
    assert np.array_equal(tifffile.imread(tmp_path / "out" / "field_labels.tif"), labels)


def test_channels_of_flow_models_are_cellposes(field, flow_model, tmp_path, capsys):
    gray, n = field
    pixels = tifffile.imread(gray)
    path = tmp_path / "three.tif"
    colours = np.stack([np.zeros_like(pixels), pixels, pixels[::-1]])
    tifffile.imwrite(path, colours, imagej=True, metadata={"axes": "CYX"})
    for given in ("2,3", "2,0"):
        arguments = ["--diameter", "16", "--channels", given, "--save", "seg,overlay"]
        assert flow(path, *arguments, model=flow_model, output=tmp_path / "out") == 0
        assert f"{n} objects" in capsys.readouterr().out
        content = np.load(tmp_path / "out" / "three_seg.npy", allow_pickle=True).item()
        assert content["chan_choose"] == list(map(int, given.split(",")))
    assert flow(path, "--channels", "4,0", model=flow_model, output=tmp_path / "out") == 1
    assert "three.tif: expected channels" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        ("flow", ["--prob-thresh", "0.3", "--scale", "2"], "got --prob-thresh, --scale for star models (StarDist); "),
        ("flow", ["--nms-thresh", "0.3"], "got --nms-thresh for star models (StarDist); leave that out, or choose"),
        ("flow", ["--tiles", "2,3"], "expected --tiles upstream or large for flow models (Cellpose), got 2,3; "),
        ("star", ["--diameter", "30", "--no-resample"], "got --diameter, --[no-]resample for flow models (Cellpose); "),
        ("star", ["--niter", "9", "--min-size", "1"], "got --niter, --min-size for flow models (Cellpose); "),
        ("star", ["--flow-threshold", "0", "--cellprob-threshold", "0"], "got --flow-threshold, --cellprob-threshold"),
        ("star", ["--augment", "--invert"], "got --invert, --augment for flow"),
        ("star", ["--tiles", "large"], "expected --tiles Y,X for star models (StarDist), got large; "),
    ],
)
def test_options_of_the_other_kind_are_an_error(image, flow_model, tmp_path, capsys, kind, given, message):
    model = flow_model if kind == "flow" else "nuclei"
    assert flow(image, *given, model=model, output=tmp_path / "out") == 1
    said = capsys.readouterr()
    assert message in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""
    assert not (tmp_path / "out").exists()


def test_info_of_a_flow_model(flow_model, tmp_path, capsys):
    assert main(["info", str(flow_model)]) == 0
    said = capsys.readouterr().out
    for text in (
        "flow: dynamics v3",
        "trained on 16",
        "size model        yes",
        "flow error 0.4, cell logit 0",
        "224 x 224",
    ):
        assert text in said
    assert "style             4 values" in said
    assert main(["info", str(flow_model), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["head"]["kind"] == "flow"
    other = tmp_path / "other.onnx"
    other.write_bytes(flow_network.model(dynamics="v4", n_style=0, fixed_tile=True))
    assert main(["info", str(other)]) == 0
    said = capsys.readouterr().out
    for text in (
        "dynamics v4 (Cellpose 4)",
        "size model        no",
        "256 x 256 pixels, no others",
        "style             none",
    ):
        assert text in said


# ---- what is there already


def test_an_image_is_never_replaced(image, tmp_path, capsys):
    (tmp_path / "field_labels.tif").write_bytes(image.read_bytes())  # the user's own, beside it
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    # as an input of the run, whatever the path to it; as a file that only lies there; among a folder's images
    for arguments in ([image, tmp_path / "field_labels.tif"], [image], [tmp_path]):
        assert segment(*arguments, output=tmp_path / "." / ".." / tmp_path.name) == 1
        said = capsys.readouterr()
        assert said.err.count("\n") == 1
        assert "field_labels.tif, which" in said.err
        assert said.err.endswith("choose another -o\n")
        assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_table_of_somebody_else_is_not_replaced(image, tmp_path, capsys):
    output = tmp_path / "out"
    output.mkdir()
    (output / "field.csv").write_text("name,count\n")
    assert segment(image, output=output) == 1
    assert "expected to replace only what cellrt wrote" in capsys.readouterr().err
    assert [path.name for path in output.iterdir()] == ["field.csv"]
    assert segment(image, "--save", "labels", output=output) == 0  # the table is not of this run


def test_results_beside_the_images_are_replaced_and_not_segmented(image, tmp_path, capsys):
    formats = ["--save", "labels,csv,rois,geojson,overlay"]
    for what in (tmp_path, tmp_path, tmp_path / "*", tmp_path / "*.tif"):
        assert segment(what, *formats, output=tmp_path) == 0
        assert capsys.readouterr().out.count("objects") == 1
    assert len(list(tmp_path.iterdir())) == 6
    # a shell's expansion names the label image as an input
    assert segment(image, tmp_path / "field_labels.tif", *formats, output=tmp_path) == 1
    assert "also an image of this run" in capsys.readouterr().err


def test_results_of_an_earlier_run_do_not_pass_for_those_of_an_image_that_fails(image, tmp_path, capsys):
    output = tmp_path / "out"
    assert segment(image, output=output) == 0
    good = (output / "field.csv").read_bytes()
    image.write_bytes(image.read_bytes()[:1000])
    for kept in (True, False):
        assert segment(image, output=output) == 1
        message = "(results of an earlier run are kept as field_labels.tif.old, field.csv.old)"
        assert (message in capsys.readouterr().err) == kept
        assert sorted(path.name for path in output.iterdir()) == ["field.csv.old", "field_labels.tif.old"]
        assert (output / "field.csv.old").read_bytes() == good  # a wrong option must not cost last night's results


def test_a_name_that_is_too_long_for_its_results_does_not_stop_the_others(image, tmp_path, capsys):
    long = image.with_name("n" * 248 + ".tif")
    long.write_bytes(image.read_bytes())
    assert segment(long, image, output=tmp_path / "out") == 1
    said = capsys.readouterr()
    assert "too long" in said.err
    assert "1 of 2 images failed" in said.err
    assert len(list((tmp_path / "out").iterdir())) == 2


def test_a_result_that_cannot_be_set_aside_is_named(image, tmp_path, capsys, monkeypatch):
    assert segment(image, output=tmp_path / "out") == 0
    image.write_bytes(b"")

    def held(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "replace", held)
    assert segment(image, output=tmp_path / "out") == 1
    assert "(field_labels.tif, field.csv: still of an earlier run)" in capsys.readouterr().err


def test_stale_temporary_files_are_swept(image, tmp_path):
    output = tmp_path / "out"
    output.mkdir()
    stale = output / ".cellrt-0123456789ab.part"
    stale.touch()
    os.utime(stale, (1e9, 1e9))
    assert segment(image, "--save", "csv", output=output) == 0
    assert [path.name for path in output.iterdir()] == ["field.csv"]


# ---- before the first image


@pytest.mark.parametrize(("module", "formats"), [("tifffile", "csv"), ("PIL", "overlay,csv")])
def test_a_missing_package_is_noticed_before_the_model_is_loaded(tmp_path, capsys, monkeypatch, module, formats):
    path = tmp_path / ("field.tif" if module == "tifffile" else "field.npy")
    path.touch()
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr("cellrt.cli.load", None)
    assert segment(path, "--save", formats, output=tmp_path / "out") == 1
    said = capsys.readouterr().err
    assert "to be installed" in said
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_axes_of_length_1_can_be_named(tmp_path, capsys):
    path = tmp_path / "stack.tif"
    tifffile.imwrite(path, blobs()[0][None, None, None], imagej=True)
    for axes in ("TZCYX", "cyx", "YX"):
        assert segment(path, "--axes", axes, output=tmp_path / "out") == 0
        assert "64 objects" in capsys.readouterr().out


# ---- streams and signals, in a process of its own


def run(*arguments, stdout, **environment):
    """Run the command line in a process, with the buffers that a user's has."""
    return subprocess.run(
        [sys.executable, "-m", "cellrt", *map(str, arguments)],
        stdout=stdout,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": "", **environment},
        timeout=120,
    )


def batch(folder: Path, names) -> list[str]:
    """A folder of images, and the arguments that segment it into `out` beside it."""
    folder.mkdir()
    for name in names:
        tifffile.imwrite(folder / name, blobs()[0])
    arguments = ["segment", folder, "-m", "nuclei", "-o", folder.parent / "out", "--save", "csv", "--threads", "1"]
    return list(map(str, arguments))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="names of any bytes are Linux's")
def test_names_that_the_console_cannot_show(tmp_path):
    names = ["a.tif", os.fsdecode(b"n\xff.tif"), "\u6838.tif"]
    arguments = batch(tmp_path / "plate", names)
    (tmp_path / "plate" / os.fsdecode(b"bad\xff.tif")).touch()
    done = run(*arguments, stdout=subprocess.PIPE, PYTHONIOENCODING="ascii")
    assert done.returncode == 1
    assert done.stdout.count(b"64 objects") == 3
    assert b"\\u6838.tif  64 objects" in done.stdout
    assert b"1 of 4 images failed" in done.stderr
    assert b"Traceback" not in done.stderr
    assert len(list((tmp_path / "out").iterdir())) == 3


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_stdout_that_cannot_be_written_does_not_stop_the_batch(tmp_path):
    arguments = batch(tmp_path / "plate", ["a.tif", "b.tif"])
    reader, writer = os.pipe()
    os.close(reader)
    with open("/dev/full", "w") as full, os.fdopen(writer, "w") as closed:
        for stdout in (full, closed):
            done = run(*arguments, stdout=stdout)
            assert done.returncode == 1
            assert done.stderr.startswith(b"cellrt: expected to print a line for each image, got a stdout that cannot")
            assert done.stderr.count(b"\n") == 1
            assert len(list((tmp_path / "out").iterdir())) == 2
        for arguments in (["info", "nuclei"], ["--help"]):
            done = run(*arguments, stdout=full)
            assert (done.returncode, done.stderr.count(b"\n")) == (1, 1)
            assert done.stderr.startswith(b"cellrt: expected ")
            done = run(*arguments, stdout=closed)
            assert (done.returncode, done.stderr) == (1, b"")


def test_a_closed_stderr_changes_nothing(image, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    assert segment(image, output=tmp_path / "out") == 0
    assert segment(tmp_path / "none.tif", output=tmp_path / "out") == 1


def test_an_unexpected_error_of_the_system_is_one_line(capsys, monkeypatch):
    def fail(*_, **__):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("cellrt.cli.load", fail)
    assert main(["info", "nuclei"]) == 1
    assert capsys.readouterr().err.startswith("cellrt: expected files and streams to work, got: [Errno 5] Input/output")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM to catch")
def test_sigterm_stops_cleanly(image, tmp_path, capsys, monkeypatch):
    output = tmp_path / "out"
    before = signal.getsignal(signal.SIGTERM)

    def kill_while_writing(*_):
        assert any(path.name.endswith(".part") for path in output.iterdir())
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)

    monkeypatch.setattr("cellrt.write.write_geojson", kill_while_writing)
    assert segment(image, "--save", "csv,geojson", output=output) == 143
    assert capsys.readouterr().err == "cellrt: terminated\n"
    # what was being written is written whole
    assert sorted(path.name for path in output.iterdir()) == ["field.csv", "field.geojson"]
    assert signal.getsignal(signal.SIGTERM) is before


def test_main_runs_in_any_thread(capsys):
    codes = []
    thread = threading.Thread(target=lambda: codes.append(main(["info", "nuclei"])))
    thread.start()
    thread.join()
    assert codes == [0]
    assert "licence" in capsys.readouterr().out


def test_profile(image, tmp_path, capsys):
    assert segment(image, "--profile", output=tmp_path / "out") == 0
    said = capsys.readouterr()
    assert len(said.out.splitlines()) == 1
    stages = [line.split()[0] for line in said.err.splitlines()[1:]]
    assert stages == ["read", "normalise", "network", "decode", "write", "idle", "passed"]


def test_large_images(image, tmp_path, capsys):
    """The same labels, written part by part; what fails is told, and the others go on."""
    import tifffile

    assert segment(image, output=tmp_path / "whole") == 0
    assert segment(image, "--large", output=tmp_path / "parts") == 0
    found = [tifffile.imread(tmp_path / folder / f"{image.stem}_labels.tif") for folder in ("whole", "parts")]
    assert np.array_equal(*found)
    assert [path.name for path in (tmp_path / "parts").iterdir()] == [f"{image.stem}_labels.tif"]
    bad = tmp_path / "bad.tif"
    bad.write_bytes(b"II*\0")
    capsys.readouterr()
    assert segment(bad, str(image), "--large", output=tmp_path / "parts") == 1
    said = capsys.readouterr()
    assert [line.split("  ")[1][:6] for line in said.out.splitlines()] == ["failed", f"{found[0].max()} objects"[:6]]
    assert "bad.tif: expected" in said.err


@pytest.mark.parametrize("given", [("--save", "labels,csv"), ("--profile",), ("--tiles", "2,2")])
def test_what_large_images_do_not_take(image, tmp_path, capsys, given):
    with pytest.raises(SystemExit, match="2"):
        segment(image, "--large", *given, output=tmp_path / "out")
    assert f"expected --large without {given[0]}" in capsys.readouterr().err


def test_large_zarr(image, tmp_path):
    zarr = pytest.importorskip("zarr")
    import tifffile

    zarr.save_array(tmp_path / "field.zarr", tifffile.imread(image))
    assert segment(tmp_path / "field.zarr", "--large", output=tmp_path / "out") == 0
    assert segment(image, output=tmp_path / "whole") == 0
    found = [tifffile.imread(tmp_path / path) for path in ("out/field_labels.tif", f"whole/{image.stem}_labels.tif")]
    assert np.array_equal(*found)
