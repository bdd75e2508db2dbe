"""Stacks and volumes on the command line: what is written, what is said, which options belong to which model."""

import flow_network
import numpy as np
import pytest
import star_network_3d

import cellrt
from cellrt.cli import main

tifffile = pytest.importorskip("tifffile")
pytest.importorskip("PIL")


@pytest.fixture(scope="module")
def balls(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "balls.onnx"
    path.write_bytes(star_network_3d.ball_model(anisotropy=(2.0, 1.0, 1.0)))
    return path


@pytest.fixture(scope="module")
def gradient(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "gradient.onnx"
    path.write_bytes(flow_network.model())
    return path


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    path = tmp_path_factory.mktemp("stacks") / "stack.tif"
    tifffile.imwrite(path, star_network_3d.balls()[0], metadata={"axes": "ZYX"})
    return path


def segment(*arguments, model, output):
    return main(["segment", *map(str, arguments), "--model", str(model), "-o", str(output), "--threads", "1"])


def test_every_format_of_a_volume(balls, stack, tmp_path, capsys):
    assert segment(stack, "--save", "labels,csv,ply,obj,overlay", model=balls, output=tmp_path) == 0
    said = capsys.readouterr()
    n = len(cellrt.load(balls, providers=["cpu"]).segment(star_network_3d.balls()[0]))
    assert f"{n} objects" in said.out
    assert "megavoxels/s" in said.out
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "stack.csv",
        "stack.obj",
        "stack.ply",
        "stack_labels.tif",
        "stack_overlay.png",
    ]
    labels = tifffile.imread(tmp_path / "stack_labels.tif")
    assert labels.shape == star_network_3d.balls()[0].shape
    assert labels.max() == n
    assert len((tmp_path / "stack.csv").read_text().splitlines()) == n + 1


def test_options_of_volumes_reach_the_model(balls, stack, tmp_path):
    given = ["--tiles", "2,2,2", "--scale", "1,1,1", "--mode", "bbox", "--overlap-label", "-5", "--nms-thresh", "0.9"]
    assert segment(stack, *given, "--save", "labels,csv,overlay,ply", model=balls, output=tmp_path) == 0
    want = cellrt.load(balls, providers=["cpu"]).segment(
        star_network_3d.balls()[0], mode="bbox", overlap_label=-5, nms_thresh=0.9
    )
    labels = tifffile.imread(tmp_path / "stack_labels.tif")
    assert np.array_equal(
        labels.astype(np.int64), np.maximum(want.labels, 0) if labels.dtype.kind == "u" else want.labels
    )


def test_planes_are_stitched(stack, tmp_path, capsys):
    assert segment(stack, "--stitch-threshold", "0.3", model="nuclei", output=tmp_path) == 0
    labels = tifffile.imread(tmp_path / "stack_labels.tif")
    planes = star_network_3d.balls()[0]
    assert labels.shape == planes.shape
    want = cellrt.load("nuclei", providers=["cpu"]).segment(planes, axes="ZYX", stitch_threshold=0.3)
    assert np.array_equal(labels, want.labels)
    assert f"{len(want)} objects" in capsys.readouterr().out


@pytest.mark.parametrize(
    "given", [["--do-3D", "--anisotropy", "1.5", "--flow3D-smooth", "1,0.5,0"], ["--stitch-threshold", "0.2"]]
)
def test_volumes_of_a_flow_model(gradient, tmp_path, given):
    planes = np.stack([flow_network.image((40, 48))[0]] * 6 + [np.zeros((40, 48), np.float32)] * 6)
    tifffile.imwrite(tmp_path / "planes.tif", planes, metadata={"axes": "ZYX"})
    assert segment(tmp_path / "planes.tif", *given, "--save", "labels,csv,seg", model=gradient, output=tmp_path) == 0
    labels = tifffile.imread(tmp_path / "planes_labels.tif")
    options = (
        {"stitch_threshold": 0.2}
        if len(given) == 2
        else {
            "do_3D": True,
            "anisotropy": 1.5,
            "flow3D_smooth": (1.0, 0.5, 0.0),
        }
    )
    want = cellrt.load(gradient, providers=["cpu"]).segment(planes, axes="ZYX", **options)
    assert labels.max() == len(want) > 0
    assert np.array_equal(labels, want.labels)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("gradient", ("--stitch-threshold", "0.2")),
        ("nuclei", ("--stitch-threshold", "0.2")),
        ("gradient", ("--do-3D", "--anisotropy", "1.3", "--flow3D-smooth", "0.5", "--min-size", "30")),
    ],
)
def test_large_stacks_have_the_labels_of_others(gradient, stack, tmp_path, capsys, kind, options):
    model = gradient if kind == "gradient" else kind
    if kind == "gradient":
        stack = tmp_path / "planes.tif"
        planes = np.stack([flow_network.image((40, 48))[0]] * 6 + [np.zeros((40, 48), np.float32)] * 2)
        tifffile.imwrite(stack, planes, metadata={"axes": "ZYX"}, compression="zlib")
    given = [stack, *options]
    assert segment(*given, model=model, output=tmp_path / "whole") == 0
    assert segment(*given, "--large", model=model, output=tmp_path / "parts") == 0
    whole, parts = capsys.readouterr().out.splitlines()
    assert whole.split("  ")[1] == parts.split("  ")[1] != "0 objects"
    assert "megavoxels/s" in parts
    name = f"{stack.stem}_labels.tif"
    labels = tifffile.imread(tmp_path / "parts" / name)
    assert np.array_equal(labels, tifffile.imread(tmp_path / "whole" / name))
    assert labels.ndim == 3
    assert [path.name for path in (tmp_path / "parts").iterdir()] == [name]


@pytest.mark.parametrize(
    ("options", "tile", "message"),
    [
        (("--stitch-threshold", "0.2"), 3, "3 of 6 planes were done before"),
        (("--do-3D",), 1, "1 of 3 groups of planes were done before"),
    ],
)
def test_a_large_stack_that_was_interrupted_continues(gradient, tmp_path, capsys, monkeypatch, options, tile, message):
    planes = np.stack([flow_network.image((40, 48))[0]] * 6)
    tifffile.imwrite(tmp_path / "planes.tif", planes, metadata={"axes": "ZYX"})
    given = [tmp_path / "planes.tif", *options, "--large"]
    from cellrt.large.journal import Journal

    write = Journal.write

    def interrupted(self, index, **arrays):
        if index == tile:
            raise KeyboardInterrupt
        write(self, index, **arrays)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "write", interrupted)
        assert segment(*given, model=gradient, output=tmp_path) == 130
    assert segment(*given, model=gradient, output=tmp_path) == 0
    assert message in capsys.readouterr().out


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        ("balls", ["--tiles", "2,2"], "expected --tiles Z,Y,X for star models of volumes (StarDist 3D), got 2,2"),
        ("balls", ["--stitch-threshold", "0.5"], "got --stitch-threshold for models of images"),
        ("balls", ["--diameter", "20"], "got --diameter for flow models"),
        ("balls", ["--save", "rois"], "expected formats for volumes"),
        ("nuclei", ["--mode", "hull"], "got --mode for star models of volumes"),
        ("nuclei", ["--do-3D"], "got --do-3D for flow models"),
        ("nuclei", ["--tiles", "2,2,2"], "expected --tiles Y,X"),
        ("nuclei", ["--save", "ply"], "expected formats for images"),
        ("nuclei", ["--stitch-threshold", "0.5", "--save", "geojson"], "expected formats for volumes"),
        ("nuclei", ["--stitch-threshold", "0.5", "--save", "csv,obj"], "expected objects with polyhedra"),
        ("gradient", ["--do-3D", "--save", "ply"], "expected objects with polyhedra"),
        ("gradient", ["--do-3D", "--stitch-threshold", "0.5"], "do_3D"),
        ("gradient", ["--anisotropy", "2"], "anisotropy"),
        ("balls", ["--large", "--stitch-threshold", "0.5"], "got --stitch-threshold for models of images"),
    ],
)
def test_options_that_do_not_fit_are_an_error(balls, gradient, stack, tmp_path, capsys, kind, given, message):
    model = {"balls": balls, "gradient": gradient}.get(kind, kind)
    assert segment(stack, *given, model=model, output=tmp_path / "results") == 1
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    "given",
    [
        ["--anisotropy", "0"],
        ["--anisotropy", "-1"],
        ["--anisotropy", "101"],
        ["--stitch-threshold", "2"],
        ["--mode", "half"],
        ["--scale", "1,1,1,1"],
    ],
)
def test_values_that_cannot_be_exit_with_2(stack, tmp_path, given):
    with pytest.raises(SystemExit) as stopped:
        segment(stack, *given, model="nuclei", output=tmp_path)
    assert stopped.value.code == 2


def test_an_image_for_a_model_of_volumes_is_told(balls, stack, tmp_path, capsys):
    tifffile.imwrite(tmp_path / "plane.tif", np.zeros((64, 64), np.uint16))
    assert segment(stack, tmp_path / "plane.tif", model=balls, output=tmp_path / "results") == 1
    said = capsys.readouterr()
    assert "plane.tif: expected a volume with an axis Z, got axes YX" in said.err
    assert "1 of 2 images failed" in said.err
    assert (tmp_path / "results" / "stack_labels.tif").exists()


def test_what_a_model_of_volumes_says_of_itself(balls, capsys):
    assert main(["info", str(balls)]) == 0
    said = capsys.readouterr().out
    assert "star3d" in said
    assert "32 rays, grid 1 x 2 x 2" in said
    assert "Rays_GoldenSpiral, anisotropy 2 x 1 x 1 (z, y, x)" in said


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--anisotropy", "2"], "expected anisotropy with do_3D=True only"),
        (["--stitch-threshold", "0.5", "--flow3D-smooth", "2"], "expected flow3D_smooth with do_3D=True only"),
        (["--stitch-threshold", "0.5", "--do-3D"], "expected do_3D=True or a stitch_threshold, got both"),
    ],
)
def test_options_of_large_volumes_that_do_not_fit_fail_each_image(gradient, stack, tmp_path, capsys, given, message):
    assert segment(stack, "--large", *given, model=gradient, output=tmp_path / "results") == 1
    assert message in capsys.readouterr().err
    assert not any(path.is_file() for path in tmp_path.rglob("*"))
