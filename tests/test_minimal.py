"""What gates a wheel: numpy, ONNX Runtime, pytest and the wheel, nothing else; a few seconds.

A synthetic picture goes through the bundled model, and every room on its way must be there and work.
"""

import subprocess
import sys

import numpy as np
import pytest

import cellrt
from cellrt import kernels


def blobs(side=256, pitch=32, radius=8):
    """Round nuclei on a lattice, uint16, and how many there are."""
    y, x = np.mgrid[:side, :side]
    distance = np.hypot(y % pitch - pitch / 2, x % pitch - pitch / 2)
    image = 200 + 3000 / (1 + np.exp(distance - radius))
    noise = np.random.default_rng(0).normal(0, 30, image.shape)
    return (image + noise).astype(np.uint16), (side // pitch) ** 2


@pytest.fixture(scope="module")
def model():
    return cellrt.load("nuclei", providers=["cpu"])


def test_finds_every_nucleus(model):
    image, n_nuclei = blobs()
    cells = model.segment(image)
    assert len(cells) == n_nuclei
    assert set(np.unique(cells.labels)) == set(range(n_nuclei + 1))
    assert np.all(np.diff(cells.scores) <= 0)
    y, x = cells.points.astype(int).T
    assert np.array_equal(cells.labels[y, x], np.arange(1, n_nuclei + 1))
    areas = np.bincount(cells.labels.ravel())[1:]
    assert np.pi * 7**2 < areas.min() <= areas.max() < np.pi * 10**2  # the edge is a few pixels wide


def test_bytes_do_not_depend_on_threads():
    image, _ = blobs()
    one, two = (cellrt.load("nuclei", providers=["cpu"], threads=n).segment(image) for n in (1, 2))
    assert one.labels.tobytes() == two.labels.tobytes()
    assert one.outlines[0].tobytes() == two.outlines[0].tobytes()


def test_selftest_of_every_bundled_model():
    for name in cellrt.bundled_models():
        assert cellrt.load(name, providers=["cpu"]).selftest().passed


def test_versions_agree():
    major, minor, patch = (int(part) for part in cellrt.__version__.split("."))
    assert kernels.version() == 10000 * major + 100 * minor + patch


def test_import_loads_nothing_heavy():
    code = "import sys, cellrt; print(*sorted(m for m in sys.modules if '.' not in m))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"onnxruntime", "onnx", "torch", "scipy", "skimage", "tifffile", "PIL", "h5py"} & set(loaded)
