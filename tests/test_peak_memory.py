"""What the exporter says of a network's memory: by hand for small graphs, against ONNX Runtime for real networks."""

import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import REFERENCE, REFERENCE_CELLPOSE

pytest.importorskip("onnx", reason="the exporter's requirements are not installed")

import onnx

import cellrt
from cellrt import cli
from cellrt.manifest import MemorySpec
from cellrt_export import peak_memory
from cellrt_export.onnxfile import GraphBuilder

# How much the peak of a process grows from an image of 128 x 128 to one of 512 x 512, in bytes per pixel more. /proc
# knows it of this program alone.
GROWTH = """
import sys
import numpy as np
from cellrt.session import Session
session = Session(sys.argv[1], providers=["cpu"], threads=2)
peaks = []
for side in (128, 512):
    image = np.ones((1, session.inputs["image"][1], side, side), np.float32)
    outputs = [value.copy() for value in session.run(image).values()]
    line = next(line for line in open("/proc/self/status") if line.startswith("VmHWM:"))
    peaks.append(int(line.split()[1]) * 1024)
print((peaks[1] - peaks[0]) / (512**2 - 128**2))
"""


def measured(path):
    # The C library keeps freed blocks below a threshold that it adapts: with a fixed one, they do not blur the figure.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "131072"}
    command = [sys.executable, "-c", GROWTH, str(path)]
    result = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return float(result.stdout)


def said(graph, **options):
    """Numbers alive per pixel, without the margin."""
    return peak_memory.spec(graph, n_channels=1, multiple=(8, 8), **options).bytes_per_pixel / (17 / 16) / 4


def convolution(graph, name, source, n_in, n_out):
    weight = graph.constant(f"{name}_weight", np.zeros((n_out, n_in, 3, 3), np.float32))
    return graph.node("Conv", name, [source, weight], pads=[1, 1, 1, 1])


def test_a_chain_holds_two_layers():
    """Image, two layers, of which one gives way to the maps, and the maps once more, for whoever asked."""
    graph = GraphBuilder()
    first = graph.node("Relu", "first_relu", [convolution(graph, "first", "image", 1, 8)])  # where its input lay
    second = convolution(graph, "second", first, 8, 8)
    convolution(graph, "maps", second, 8, 2)
    assert said(graph) == pytest.approx(1 + 8 + 8 + 2, abs=0.25)


def test_what_is_remembered_counts():
    graph = GraphBuilder()
    skip = convolution(graph, "skip", "image", 1, 8)
    deeper = convolution(graph, "deeper", convolution(graph, "deep", skip, 8, 8), 8, 8)
    graph.node("Concat", "maps", [deeper, skip], axis=1)
    assert said(graph) == pytest.approx(1 + 8 + 8 + 8 + 16 + 16, abs=0.25)


def test_a_node_that_knows_no_blocks_has_its_input_copied():
    graph = GraphBuilder()
    layer = convolution(graph, "layer", "image", 1, 8)
    graph.node("Softsign", "maps", [layer])
    assert said(graph) == pytest.approx(1 + 8 + 8 + 8, abs=0.25)  # the layer gives way to the maps


def test_weights_are_counted_as_they_are_computed_with():
    graph = GraphBuilder()
    half = graph.constant("half", np.zeros((2, 1, 40, 40), np.float16))
    weight = graph.node("Cast", "weight", [half], to=1)
    graph.node("Conv", "maps", ["image", weight], pads=[20, 20, 19, 19])
    spec = peak_memory.spec(graph, n_channels=1, multiple=(1, 1), copies=1.5)
    assert spec == MemorySpec(bytes_per_pixel=spec.bytes_per_pixel, weights=1.5 * 4 * 3200)
    assert spec.bytes_per_pixel < 24  # once: they are no activation


def bundled(name):
    """The graph of a bundled model, and its file."""
    path = cellrt.bundled_models()[name]
    stored, graph = onnx.load(path).graph, GraphBuilder()
    graph.nodes = list(stored.node)
    for tensor in stored.initializer:
        graph.constant(tensor.name, onnx.numpy_helper.to_array(tensor))
    return graph, path


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of one process is read from /proc")
def test_a_narrow_network_takes_what_is_said():
    graph, path = bundled("nuclei")
    spec = peak_memory.spec(graph, n_channels=1, multiple=(16, 16))
    assert 0.8 < spec.bytes_per_pixel / measured(path) < 1.2


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of one process is read from /proc")
@pytest.mark.parametrize("name", ["2d_fluo", "cpnet_synth"])
def test_real_networks_take_what_is_said(name, exported, exported_cellpose, capsys):
    source = REFERENCE_CELLPOSE / "models" / name if name.startswith("cp") else REFERENCE / "models" / name
    if not source.exists():
        pytest.skip(f"the reference network {name} is not here")
    path = (exported_cellpose if name.startswith("cp") else exported)(source)
    manifest = cellrt.load(path, providers=["cpu"]).manifest
    assert 0.8 < manifest.memory.bytes_per_pixel / measured(path) < 1.2
    assert cli.main(["info", str(path)]) == cli.OK
    assert (
        f"memory            about {manifest.memory.bytes_per_pixel / 1000:.2f} kB per pixel" in capsys.readouterr().out
    )
