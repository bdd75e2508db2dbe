"""The doors of a model: what load and segment refuse, and that nothing depends on how an image lies in memory."""

import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from test_minimal import blobs

import cellrt
from cellrt.errors import CapacityError, CellrtError, FileError, ImageError, ModelError, ProviderError
from cellrt.heads import star
from cellrt.manifest import METADATA_KEY, PercentileSpec


@pytest.fixture(scope="module")
def model():
    return cellrt.load("nuclei", providers=["cpu"])


@pytest.fixture(scope="module")
def content():
    return cellrt.bundled_models()["nuclei"].read_bytes()


def test_load_from_path_bytes_and_name(content, tmp_path, model):
    path = tmp_path / "copy.onnx"
    path.write_bytes(content)
    assert cellrt.load(path).manifest == cellrt.load(content).manifest == model.manifest
    assert "nuclei" in repr(model)


def test_a_file_is_preferred_to_a_bundled_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nuclei").write_bytes(b"not a model")
    with pytest.raises(ModelError, match="ONNX Runtime cannot load"):
        cellrt.load("nuclei")


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("missing.onnx", FileError, "expected a model file, got missing.onnx .*check the path"),
        ("", ModelError, "bundled models"),
        ("n" * 300, ModelError, "bundled models"),
        ("nucleus", ModelError, "one of the bundled models .*nuclei.*, got 'nucleus'"),
        (b"", ModelError, "expected a whole ONNX model"),
        (b"\x00\x01garbage" * 100, ModelError, "expected a whole ONNX model"),
    ],
)
def test_load_refuses(source, error, message):
    with pytest.raises(error, match=message):
        cellrt.load(source)


def test_load_refuses_a_folder(tmp_path):
    with pytest.raises(FileError, match="expected a model file"):
        cellrt.load(tmp_path)


@pytest.mark.parametrize("fraction", [0.01, 0.5, 0.99])
def test_load_refuses_a_truncated_model(content, fraction):
    with pytest.raises(ModelError, match="copy or export it again"):
        cellrt.load(content[: int(len(content) * fraction)])


def rewritten(content, edit):
    """A model file with its manifest edited; None removes it."""
    onnx = pytest.importorskip("onnx")
    proto = onnx.load_from_string(content)
    (entry,) = [entry for entry in proto.metadata_props if entry.key == METADATA_KEY]
    text = edit(entry.value)
    if text is None:
        proto.metadata_props.remove(entry)
    else:
        entry.value = text
    return proto.SerializeToString()


def test_load_refuses_a_foreign_model(content):
    with pytest.raises(ModelError, match="expected an ONNX file with cellrt's manifest"):
        cellrt.load(rewritten(content, lambda text: None))


def changed_head(key, value):
    """An edit of a manifest: another value in the head, and no self-test."""

    def edit(text):
        data = json.loads(text)
        data["head"][key] = value
        if key == "n_rays":
            data["selftest"] = None
        return json.dumps(data)

    return edit


def test_load_refuses_a_manifest_that_does_not_fit(content):
    with pytest.raises(ModelError, match="as in the manifest"):
        cellrt.load(rewritten(content, changed_head("n_rays", 16)))
    with pytest.raises(ModelError, match="upgrade cellrt"):
        cellrt.load(rewritten(content, lambda text: text.replace('"schema": 1', '"schema": 2')))


def test_a_wrong_grid_is_noticed(content):
    wrong = cellrt.load(rewritten(content, changed_head("grid", [4, 4])))
    with pytest.raises(ModelError, match="expected maps of shape"):
        wrong.segment(blobs()[0])
    with pytest.raises(ModelError, match="expected maps of shape"):
        wrong.selftest()


def test_selftest_counts_cells(content):
    outcome = cellrt.load(rewritten(content, changed_head("prob_thresh", 0.999))).selftest()
    assert outcome.largest_difference < 1e-3
    assert outcome.n_objects < outcome.n_expected
    assert not outcome.passed


def test_an_output_folder_of_its_name_does_not_hide_a_bundled_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nuclei").mkdir()
    assert cellrt.load("nuclei").manifest.name == "nuclei"


def test_providers():
    assert cellrt.load("nuclei", providers="cpu").providers == ("CPUExecutionProvider",)
    with pytest.raises(ProviderError, match=r"expected one of the providers .*CPUExecutionProvider.*, got Abacus"):
        cellrt.load("nuclei", providers=["Abacus"])
    with pytest.raises(ProviderError, match="at least one provider"):
        cellrt.load("nuclei", providers=[])
    with pytest.raises(CellrtError, match="expected threads"):
        cellrt.load("nuclei", threads=-1)


def test_without_onnxruntime_the_error_says_what_to_install():
    code = (
        "import sys; sys.modules['onnxruntime'] = None\n"
        "import cellrt\n"
        "try: cellrt.load('nuclei')\n"
        "except cellrt.ProviderError as error: print(error)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert 'pip install "cellrt[cpu]"' in said


def test_layout_does_not_matter(model):
    image, _ = blobs(side=192)
    expected = model.segment(image).labels
    views = {
        "YXC": image[..., np.newaxis],
        "CYX": image[np.newaxis],
        "fortran": np.asfortranarray(image),
        "swapped bytes": image.astype(image.dtype.newbyteorder()),
        "int32": image.astype(np.int32),
        "float32": image.astype(np.float32),
        "float64": image.astype(np.float64),
        "read-only": np.frombuffer(image.tobytes(), image.dtype).reshape(image.shape),
        "every second": np.repeat(np.repeat(image, 2, 0), 2, 1)[::2, ::2],
    }
    for name, view in views.items():
        assert np.array_equal(model.segment(view).labels, expected), name
    stack = np.stack([np.zeros_like(image), image, image + 7], axis=-1)
    assert np.array_equal(model.segment(stack, channels=1).labels, expected)
    assert np.array_equal(model.segment(image.T, axes="XY").labels, expected)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((64, 64), np.uint8), "expected contrast"),
        (np.full((1, 1), 3, np.uint16), "expected contrast"),
        (np.zeros((0, 64)), "with pixels"),
        (np.full((64, 64), np.nan), "expected finite pixels"),
        (np.where(np.eye(64) > 0, np.inf, 1).astype(np.float32), "expected finite pixels"),
        (np.zeros((64, 64, 3)), "choose among its channels"),
        (np.zeros((3, 64, 64, 64)), "name them"),
    ],
)
def test_bad_images_are_refused(model, image, message):
    with pytest.raises(ImageError, match=message):
        model.segment(image)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prob_thresh": 1.5}, "expected prob_thresh to be a number from 0 to 1, got 1.5"),
        ({"prob_thresh": "high"}, "expected prob_thresh"),
        ({"nms_thresh": -0.1}, "expected nms_thresh"),
        ({"nms_thresh": float("nan")}, "expected nms_thresh"),
        ({"scale": 0}, "expected scale"),
        ({"scale": (1, 2, 3)}, "expected scale"),
        ({"scale": 1e9}, "expected a rescaled image of 1 to"),
        ({"scale": 300.0}, "expected a rescaled image of 1 to"),
        ({"scale": float("nan")}, "expected scale"),
        ({"tiles": (0, 1)}, "expected tiles"),
        ({"tiles": 2}, "expected tiles"),
        ({"tiles": (1.5, 2)}, "expected tiles"),
        ({"axes": 3}, "expected axes"),
        ({"normalize": (99, 1)}, "expected normalize"),
        ({"normalize": "auto"}, "expected normalize"),
        ({"axes": "ZYX"}, "expected 3 axes"),
    ],
)
def test_bad_arguments_are_refused(model, arguments, message):
    with pytest.raises(CellrtError, match=message):
        model.segment(blobs(side=64)[0], **arguments)


def test_more_candidates_than_the_cap(model, monkeypatch):
    monkeypatch.setattr(star.Collector, "_most", 50)
    with pytest.raises(CapacityError, match=r"expected at most 50 candidates.*raise prob_thresh"):
        model.segment(blobs()[0], prob_thresh=0.01)


def test_pixels_that_need_no_contrast(model):
    one = model.segment(np.full((1, 1), 0.5, np.float32), normalize=None)
    assert one.labels.shape == (1, 1)
    dark = model.segment(np.zeros((70, 90), np.float32), normalize=None)
    assert len(dark) == 0
    assert dark.labels.dtype == np.int32
    assert not dark.labels.any()
    assert dark.outlines[1].tolist() == [0]


def test_scale_and_normalize(model):
    image, n_nuclei = blobs(side=256, pitch=64, radius=20)
    cells = model.segment(image, scale=np.float32(0.5), normalize=PercentileSpec(low=2, high=99))
    assert cells.labels.shape == image.shape
    assert len(cells) == n_nuclei
    areas = np.bincount(cells.labels.ravel())[1:]
    assert np.pi * 18**2 < areas.min() <= areas.max() < np.pi * 24**2


def test_predict(model):
    image, _ = blobs(side=100)
    maps = model.predict(image)
    assert maps["prob"].shape == (50, 50)
    assert maps["dist"].shape == (32, 50, 50)
    tiled = model.predict(image, tiles=(1, 2))
    assert np.allclose(tiled["dist"], maps["dist"], atol=1e-4)


def test_several_threads_may_use_one_model(model):
    image, _ = blobs(side=192)
    expected = model.segment(image)
    results = []
    workers = [threading.Thread(target=lambda: results.append(model.segment(image))) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [cells.labels.tobytes() for cells in results] == [expected.labels.tobytes()] * 4


def test_instances_are_read_only(model):
    cells = model.segment(blobs(side=128)[0])
    with pytest.raises(ValueError, match="read-only"):
        cells.labels[0, 0] = 1
    assert "objects in 128 x 128 pixels" in repr(cells)
    assert [len(outline) for outline in cells.polygons()] == [32] * len(cells)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
def test_memory_of_runs_is_kept_for_the_next_and_given_back():
    """Twice the same shape takes no new memory the second time; another shape or `release` gives it back."""
    program = """
import sys
import numpy as np
from cellrt.catalogue import find
from cellrt.session import Session

def megabytes():
    lines = open("/proc/self/status").read().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024

session = Session(find("nuclei"), providers=["cpu"], threads=1)
image = np.random.default_rng(0).random((1, 1, 1024, 1024), np.float32)
first = session.run(image)["maps"].copy()
before = megabytes()
session.run(image[:, :, ::-1].copy())
assert np.array_equal(session.run(image)["maps"], first)
assert abs(megabytes() - before) < 20, "kept"
session.run(image[:, :, :64, :64].copy())
assert megabytes() < before - 60, "another shape"
session.run(image)
session.release()
assert megabytes() < before - 60, "released"
session.release()
assert np.array_equal(session.run(image)["maps"], first)
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


def test_outputs_stay_what_they_are(model):
    """Outputs of one run are not those of a later one or of another thread's, of one shape and of several."""
    images = [np.full((1, 1, 64 + 32 * (i % 2), 64), 0.1 * i, np.float32) for i in range(6)]
    want = [model._session.run(image)["maps"].copy() for image in images]
    barrier = threading.Barrier(len(images))

    def hold(index):
        for _ in range(20):
            maps = model._session.run(images[index])["maps"]
            barrier.wait(30)
            if not np.array_equal(maps, want[index]):
                return False
        return True

    with ThreadPoolExecutor(len(images)) as pool:
        assert all(pool.map(hold, range(len(images))))
    model.release()
