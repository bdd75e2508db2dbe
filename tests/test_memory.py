"""The memory limit: sizes as people write them, tiles that keep to it, and processes that do."""

import re
import subprocess
import sys

import flow_network
import numpy as np
import pytest
from test_minimal import blobs

import cellrt
from cellrt import cli, memory
from cellrt.errors import CellrtError
from cellrt.manifest import MemorySpec
from cellrt.memory import MemoryLimit

# Segments one image and prints the most memory that the process has held, in bytes. /proc knows it of this program
# alone; what getrusage says includes what the process was before it became this program.
SEGMENT = """
import sys
import numpy as np
import cellrt
name, image, limit, options = sys.argv[1], np.load(sys.argv[2]), sys.argv[3], eval(sys.argv[4])
cells = cellrt.load(name, providers=["cpu"], memory=None if limit == "none" else limit).segment(image, **options)
line = next(line for line in open("/proc/self/status") if line.startswith("VmHWM:"))
print(int(line.split()[1]) * 1024)
"""


def peak(model, image, limit, **options):
    command = [sys.executable, "-c", SEGMENT, model, str(image), limit, repr(options)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return int(result.stdout)


@pytest.mark.parametrize(
    ("written", "size"),
    [
        (500_000_000, 500_000_000),
        (np.int64(7), 7),
        ("500MB", 500_000_000),
        ("1.5GB", 1_500_000_000),
        ("800 MiB", 800 << 20),
        ("2g", 2_000_000_000),
        (" 64kb ", 64_000),
        ("123456789", 123_456_789),
        ("10 B", 10),
    ],
)
def test_sizes(written, size):
    assert memory.parse(written) == size


@pytest.mark.parametrize(
    "written", ["", "MB", "12x", "-5MB", "1e9", "nan", "0", 0, -1, 1.5e9, True, None, "5MBB", "9" * 30]
)
def test_sizes_that_are_none(written):
    with pytest.raises(CellrtError, match=r"expected memory as bytes or a text such as '500MB'.*, got"):
        memory.parse(written)
    if written is not None:
        with pytest.raises(CellrtError, match="expected memory"):
            cellrt.load("nuclei", memory=written)


def test_the_formula():
    spec = MemorySpec(bytes_per_pixel=200, weights=10_000_000)
    limit = MemoryLimit.of("300MB", spec, kind="star", n_bytes=4_000_000)
    assert limit.fixed == memory.BASE + 10_000_000
    assert limit.pixels(50_000_000) == (300_000_000 - limit.fixed - 50_000_000) // 200
    limit.require(limit.pixels(50_000_000), 50_000_000, "advice")
    with pytest.raises(CellrtError, match="expected a memory limit of at least 301 MB for this, got 300 MB; advice"):
        limit.require(limit.pixels(50_000_000) + 1, 50_000_000, "advice")


def test_tiles_are_never_too_small():
    limit = MemoryLimit(total=memory.BASE + 20_000_000, fixed=memory.BASE, bytes_per_pixel=100)
    assert limit.tile_pixels(0, least=1000, most=10**6) == 200_000
    assert limit.tile_pixels(0, least=1000, most=150_000) == 150_000
    assert limit.tile_pixels(19_990_000, least=1000, most=10**6) == 1000  # `require` says that it does not fit


@pytest.mark.parametrize("kind", ["star", "flow"])
def test_files_that_do_not_say_are_taken_for_wide_networks(kind):
    limit = MemoryLimit.of("1GB", None, kind=kind, n_bytes=6_000_000)
    assert limit.fixed == memory.BASE + 18_000_000
    assert limit.bytes_per_pixel >= {"star": 256, "flow": 650}[kind]


def least(error):
    return re.search(r"at least (\d+) MB", str(error.value)).group(0).removeprefix("at least ")


def test_a_limit_changes_tiles_and_not_cells(monkeypatch):
    image, n_nuclei = blobs(1024)
    want = cellrt.load("nuclei", providers=["cpu"]).segment(image)
    model = cellrt.load("nuclei", providers=["cpu"], memory="260MB")
    shapes = []
    run = model._session.run
    monkeypatch.setattr(model._session, "run", lambda batch: shapes.append(batch.shape) or run(batch))
    got = model.segment(image)
    assert len(shapes) > 1
    assert len(got) == n_nuclei
    assert np.array_equal(got.labels, want.labels)
    assert model.predict(image)["prob"].shape == (512, 512)


def test_a_star_model_says_the_least_that_would_do():
    image, n_nuclei = blobs(1024)
    with pytest.raises(CellrtError, match=r"at least .* MB for this, got 150 MB; allow more, or cut") as error:
        cellrt.load("nuclei", providers=["cpu"], memory="150MB").segment(image)
    model = cellrt.load("nuclei", providers=["cpu"], memory=least(error))
    assert len(model.segment(image)) == n_nuclei
    with pytest.raises(CellrtError, match="allow more, or ask for more tiles"):
        model.segment(image, tiles=(1, 1))


@pytest.mark.parametrize("tiles", ["upstream", "large"])
def test_a_flow_model_says_the_least_that_would_do(tiles, monkeypatch):
    image, n_blobs = flow_network.image((340, 340))
    options = {"diameter": flow_network.DIAMETER, "tiles": tiles}
    with pytest.raises(CellrtError, match=r"at least .* MB for this, got 95 MB; allow more, or cut the image") as error:
        cellrt.load(flow_network.model(), providers=["cpu"], memory="95MB").segment(image, **options)
    model = cellrt.load(flow_network.model(), providers=["cpu"], memory=least(error))
    batches = []
    run = model._session.run
    monkeypatch.setattr(model._session, "run", lambda batch: batches.append(len(batch)) or run(batch))
    cells = model.segment(image, **options)
    assert len(cells) == n_blobs
    assert set(batches) == {1}


def test_a_limit_below_the_model_is_refused_when_it_is_opened():
    with pytest.raises(CellrtError, match=r"at least 1\d\d MB for this, got 80 MB; allow more, or choose a small"):
        cellrt.load("nuclei", providers=["cpu"], memory="80MB")


def test_the_command_line_takes_a_limit(tmp_path, capsys):
    path = tmp_path / "image.npy"
    np.save(path, blobs(256)[0])
    arguments = ["segment", str(path), "-o", str(tmp_path), "--save", "csv", "--memory"]
    assert cli.main([*arguments, "200MB"]) == cli.OK
    assert cli.main([*arguments, "95MB"]) == cli.FAILED
    assert "expected a memory limit of at least" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main([*arguments, "much"])
    assert "expected memory as bytes or a text" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of one process is read from /proc")
@pytest.mark.parametrize(
    ("model", "side", "limits", "options"),
    [
        ("nuclei", 1216, ("230MB", "270MB"), {}),
        ("cells", 512, ("150MB", "170MB"), {"diameter": 22.0, "tiles": "large", "niter": 20}),
        ("cells", 400, ("160MB", "180MB"), {"diameter": 22.0, "tiles": "upstream", "batch_size": 16, "niter": 20}),
    ],
)
def test_a_process_stays_below_its_limit(model, side, limits, options, tmp_path):
    image = tmp_path / "image.npy"
    np.save(image, blobs(side)[0])
    for limit in limits:
        assert peak(model, image, limit, **options) < memory.parse(limit)
    assert peak(model, image, "none", **options) > memory.parse(limits[-1])  # it is the limit that kept them there
