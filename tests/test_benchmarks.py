"""What the benchmarks compute beside times: agreement, slopes, multiply-adds, pairs, plots; tables are current."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from conftest import ROOT

BENCHMARKS = ROOT / "benchmarks"
SVG = "{http://www.w3.org/2000/svg}"
STAGES = ("read", "network", "write")


@pytest.fixture(autouse=True)
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scripts import each other by name."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def curves() -> str:
    import plots

    sizes = [2.0**16, 2.0**18, 2.0**20]
    series = [
        ("theirs & <others>", list(zip(sizes, (0.3, 1.1, 4.4), strict=True))),
        ("ours", [(x, x * 1e-7) for x in sizes]),
    ]
    return plots.curves("Time", "pixels", "time, seconds", series, [(x, f"{x:.0f}") for x in sizes])


def bars() -> str:
    import plots

    rows = [("one", (1.0, 7.0, 2.0), "1 s & 7 s"), ("two", (0.0, 5.0, 0.0), "only one")]
    return plots.bars("Stages", "share, %", STAGES, rows)


def text_of(figure: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(figure).iter(f"{SVG}text")]


def test_the_tables_and_plots_are_those_of_the_committed_results() -> None:
    done = subprocess.run([sys.executable, BENCHMARKS / "tables.py", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("draw", [curves, bars])
def test_a_plot_is_well_formed_titled_and_readable_on_dark_pages(draw: Any) -> None:
    figure = draw()
    root = ElementTree.fromstring(figure)
    _, _, width, height = (float(number) for number in root.attrib["viewBox"].split())
    assert root.find(f"{SVG}title") is not None
    style = root.find(f"{SVG}style")
    assert style is not None
    light, dark = (style.text or "").split("@media (prefers-color-scheme: dark)")
    for name in ("text {", ".page", ".grid", ".axis", ".ink0", ".ink1", ".ink2", ".ink3", ".ink4"):
        assert name in light
        assert name in dark
    for element in root.iter():
        for key, limit in (("x", width), ("y", height), ("cx", width), ("cy", height), ("x2", width), ("y2", height)):
            assert 0 <= float(element.attrib.get(key, 0)) <= limit
    assert draw() == figure


def test_curves_have_units_names_and_places_in_order() -> None:
    figure = curves()
    assert {"Time", "pixels", "time, seconds", "theirs & <others>", "ours", "65536"} <= set(text_of(figure))
    lines = [line.attrib["points"].split() for line in ElementTree.fromstring(figure).iter(f"{SVG}polyline")]
    theirs, ours = (np.array([pair.split(",") for pair in line], np.float64) for line in lines)
    assert np.all(theirs[:, 0] == ours[:, 0])
    assert np.all(np.diff(ours[:, 0]) > 0)
    assert np.all(theirs[:, 1] < ours[:, 1]), "more seconds are further up"
    steps = np.diff(ours, axis=0)
    assert np.allclose(steps[0], steps[1], atol=0.2), "in proportion is a straight line"


def test_bars_are_shares_of_their_row() -> None:
    parts = list(ElementTree.fromstring(bars()).iter(f"{SVG}rect"))
    widths = [float(part.attrib["width"]) for part in parts if part.attrib.get("height") == "24"]
    first, second = widths[:3], widths[3:]
    assert np.allclose(np.array(first) / sum(first), (0.1, 0.7, 0.2), atol=1e-3)
    assert np.allclose(np.array(second) / sum(second), (0, 1, 0))
    assert sum(first) == pytest.approx(sum(second), abs=0.2)
    assert {*STAGES, "share, %", "1 s & 7 s"} <= set(text_of(bars()))


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_a_slope_is_the_power_of_the_size(power: float) -> None:
    scaling = pytest.importorskip("scaling", reason="the runtime's requirements are not installed")
    sizes = [10.0, 100.0, 1000.0, 5000.0]
    assert scaling.slope(sizes, [3 * size**power for size in sizes]) == pytest.approx(power)


def test_agreement_counts_objects_and_pixels_of_both_sides() -> None:
    from agreement import agree_on_images, agree_on_labels

    labels = np.zeros((20, 20), np.int32)
    labels[1:6, 1:6], labels[1:6, 10:15], labels[12:17, 1:6] = 1, 2, 3
    other = labels.astype(np.uint16)
    other[labels == 2] = 9  # another number, the same object
    assert agree_on_labels(labels, other) == "3 and 3 cells, AP 1.0000 at IoU 0.9, 0 mask pixels differ"
    other[labels == 3] = 0
    other[1, 1] = 0  # IoU 24 / 25: still the same
    assert agree_on_labels(labels, other) == "3 and 2 cells, AP 0.6667 at IoU 0.9, 26 mask pixels differ"
    both = agree_on_images([(labels, other), (labels, labels)])
    assert both == f"6 and 5 cells, AP {5 / 6:.4f} at IoU 0.9, 26 mask pixels differ"


class Fake:
    """A worker whose runs take what they are told to."""

    def __init__(self, name: str, seconds: list[float], log: list[str]) -> None:
        self.name, self.threads, self._log = name, 2, log
        self._seconds: Iterator[float] = iter(seconds)

    def ask(self, *, do: str) -> dict[str, float]:
        self._log.append(self.name)
        return {"seconds": (taken := next(self._seconds)), "cpu_seconds": 2 * taken}


def test_workers_run_in_turn_and_the_ratio_is_that_of_pairs() -> None:
    from harness import interleave

    log: list[str] = []
    row = interleave(Fake("theirs", [9, 4, 8, 30], log), Fake("cellrt", [9, 2, 2, 3], log), 3)
    assert log == ["theirs", "cellrt"] * 4
    assert row["ratio"]["all"] == [2, 4, 10], "the first pair warms up"
    assert row["ratio"]["median"] == 4
    assert row["cellrt"]["cpu_seconds"]["median"] == 4
    assert (row["peer"], row["threads"]) == ("theirs", 2)


def test_fields_are_distinct_and_of_the_size_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scenes = pytest.importorskip("scenes")
    tifffile = pytest.importorskip("tifffile")
    image = np.zeros((4096, 4096), np.uint8)
    image[1::2048, 2::2048] = [[1, 2], [3, 4]]  # a mark beside the corner of each crop
    monkeypatch.setattr(scenes, "microscope_image", lambda shape: (image, "marks"))
    assert scenes.fields(tmp_path, 32, side=2048) == "marks, 32 fields of 2048 x 2048"
    fields = [tifffile.imread(path) for path in sorted(tmp_path.iterdir())]
    assert {field.shape for field in fields} == {(2048, 2048)}
    assert len({(int(field.max()), int(field.argmax())) for field in fields}) == 32


def test_multiply_adds_are_those_of_the_convolutions(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="the exporter's requirements are not installed")
    overhead = pytest.importorskip("overhead", reason="ONNX Runtime is not installed")
    helper, float32 = onnx.helper, onnx.TensorProto.FLOAT
    weights = [np.zeros(shape, np.float32) for shape in ((8, 2, 3, 3), (5, 8, 1, 1))]
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["image", "w0"], ["a"], pads=[1, 1, 1, 1]),
            helper.make_node("MaxPool", ["a"], ["b"], kernel_shape=[2, 2], strides=[2, 2]),
            helper.make_node("Conv", ["b", "w1"], ["maps"]),
        ],
        "two",
        [helper.make_tensor_value_info("image", float32, ["n", 2, "y", "x"])],
        [helper.make_tensor_value_info("maps", float32, ["n", 5, "v", "u"])],
        [onnx.numpy_helper.from_array(array, f"w{k}") for k, array in enumerate(weights)],
    )
    path = tmp_path / "two.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
    wanted = 3 * (16 * 24 * 8 * 2 * 9 + 8 * 12 * 5 * 8)
    assert overhead.multiply_adds(str(path), (3, 2, 16, 24)) == wanted


def test_the_floor_runs_on_the_tiles_of_segment() -> None:
    overhead = pytest.importorskip("overhead", reason="ONNX Runtime or the exporter's requirements are not installed")
    import cellrt

    model = cellrt.load("nuclei", providers=["cpu"], threads=1)
    image = np.random.default_rng(0).integers(0, 255, (64, 96), np.uint8)
    tiles, bare = overhead.tiles_of(model, image)
    assert [tile.shape for tile in tiles] == [(1, 1, 64, 96)]
    (maps,) = bare.run(None, {"image": tiles[0]})
    found = model.predict(image, normalize=(1, 99.8))
    assert np.array_equal(maps[0, 0], found["prob"])


def test_every_script_that_make_bench_runs_is_there_and_described() -> None:
    import run

    text = (BENCHMARKS / "README.md").read_text(encoding="utf-8")
    for script in run.SCRIPTS:
        assert (BENCHMARKS / f"{script}.py").is_file()
        assert f"benchmarks/{script}.py" in text


def test_the_overview_shows_the_rows_of_the_most_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    import tables

    def speed(what: str, threads: int, ratio: float) -> dict[str, Any]:
        side = {"seconds": {"median": 2.0}}
        found = {"what": what, "peer": "stardist", "threads": threads, "agreement": "the same", "target": "2x"}
        return found | {"stardist": side, "cellrt": side, "ratio": {"median": ratio, "min": ratio, "max": ratio}}

    memory = {"what": "peak", "unit": "x", "peer": "stardist", "value": 0.5, "target": "below 0.67"}
    memory |= {"peer_megabytes": 2000, "cellrt_megabytes": 1000}
    rows = [speed("segment 512 x 512", 1, 3.0), memory, speed("segment 512 x 512", 2, 4.0), memory]
    monkeypatch.setattr(tables, "results", lambda: [{"name": "segment_speed", "rows": rows}])
    lines = tables.highlights().split("\n")
    assert len(lines) == 3
    assert "2.00 s, 2000 MB | 2.00 s, 1000 MB | **4.0x** | the same" in lines[2]
