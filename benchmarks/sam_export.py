"""Does the export of Cellpose-SAM hold at its real size? Differences, time per tile, memory, file sizes.

The weights are drawn at random, in the published shapes (ViT-L: 24 blocks, 1024 wide, 16 heads), because the published
ones are 1.2 GB of somebody else's; the arithmetic is the same. Needs 10 GB of memory and 8 GB of disk.

This file is also the original's worker: `sam_export.py serve`, run in the environment of Cellpose 4.
"""

import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import numpy as np
from harness import HERE, Report, Worker, arguments, interleave, scratch
from worker import serve

SIDE = 256
TARGET = "within 1e-4"  # of maps of the order of 1
ROWS_GLOBAL, ROWS_WINDOW = 127, 27  # of a table of distances: blocks that SAM gave all tokens, and a window of 14


def start_original(threads):
    """A worker of Cellpose 4, with this file as its program."""
    return Worker("cellpose4", threads, [__file__, "serve"])


def serve_original():
    """Answer commands with Cellpose's own model and forward pass."""
    # torchvision is asked for by name when Cellpose is imported, and used for augmentation in training only.
    for name in ("", ".ops", ".ops.boxes", ".transforms", ".transforms.functional"):
        sys.modules[f"torchvision{name}"] = mock.MagicMock()
    from importlib.metadata import version

    import torch
    from cellpose.core import _forward
    from cellpose.models import CellposeModel

    def network(inputs, threads):
        torch.set_num_threads(threads)
        half = bool(inputs["bfloat16"])
        model = CellposeModel(gpu=False, pretrained_model=str(inputs["weights"]), use_bfloat16=half)
        return lambda: {"maps": _forward(model.net, inputs["tiles"])[0]}

    serve({"network": network}, {name: version(name) for name in ("cellpose", "torch", "numpy")})


def draw_weights(path):
    """Write a state dict of the published shapes; returns the number of its parameters."""
    import torch

    from cellrt_export.sam_graph import SamSizes

    random = np.random.default_rng(0)
    sizes = SamSizes(n_channels=3, patch=8, grid=32, width=1024, depth=24, head_width=64, hidden=4096, features=256)
    state = {"diam_labels": torch.tensor([30.0]), "diam_mean": torch.tensor([30.0])}
    for name, shape in sizes.shapes():
        if name == "W2":
            value = np.eye(shape[0]).reshape(shape)
        elif "rel_pos" in name:
            last_of_six = int(name.split(".")[2]) % 6 == 5
            value = random.standard_normal((ROWS_GLOBAL if last_of_six else ROWS_WINDOW, shape[1])) * 0.1
        elif name.endswith("weight") and len(shape) == 1:
            value = random.uniform(0.5, 1.5, shape)  # of a norm
        else:  # sums of about the size of what is summed, with a residual that grows slowly over the blocks
            value = random.standard_normal(shape) / np.sqrt(max(64, np.prod(shape[1:])))
        state[name] = torch.from_numpy(np.asarray(value, np.float32))
    torch.save(state, path)
    return sum(value.numel() for value in state.values())


def export(weights, output, precision):
    """Export in a process of its own; returns seconds and peak memory, the imports included in both."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[4]); from worker import peak_megabytes; "
        "from cellrt_export import cellpose_sam; cellpose_sam.export(sys.argv[1], sys.argv[2], precision=sys.argv[3]); "
        "print(peak_megabytes())"
    )
    start = time.perf_counter()
    command = [sys.executable, "-c", code, str(weights), str(output), precision, str(HERE)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return {"export_seconds": round(time.perf_counter() - start, 1), "export_megabytes": round(float(printed))}


def to_half_arithmetic(model, output):
    """Make every weight and operator of an exported file float16, with a cast at each end: what is not shipped."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    proto = onnx.load(model)
    for tensor in proto.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    for node in proto.graph.node:
        node.input[:] = ["image_half" if name == "image" else name for name in node.input]
        node.output[:] = ["maps_half" if name == "maps" else name for name in node.output]
    first = helper.make_node("Cast", ["image"], ["image_half"], to=TensorProto.FLOAT16)
    last = helper.make_node("Cast", ["maps_half"], ["maps"], to=TensorProto.FLOAT)
    nodes = [first, *proto.graph.node, last]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    onnx.save(proto, output)


def difference(maps, wanted):
    """Largest and root mean square difference, and the size of what is compared; as a sentence."""
    apart = (maps - wanted).astype(np.float64)
    return (
        f"maps within {np.abs(apart).max():.1e}, {np.sqrt(np.mean(apart**2)):.1e} rms, "
        f"of maps with a deviation of {wanted.std():.2f}"
    )


def compare(report, original, model, inputs, folder, what, repeats, target="-"):
    """One row: the original in float32 against a file of ours; returns the original's maps."""
    size = Path(model).stat().st_size / 1e6
    np.savez(f"{folder}/ours.npz", model=str(model), tiles=inputs)
    with Worker("cellrt", original.threads) as ours:
        report.versions(original, ours)
        opened = ours.load("network", f"{folder}/ours.npz")["seconds"]
        row = interleave(original, ours, repeats)
        maps, wanted = ours.result(folder)["maps"], original.result(folder)["maps"]
        peaks = {worker.side: round(worker.ask(do="peak")["megabytes"]) for worker in (original, ours)}
    report.add(
        {"what": what, "target": target, "agreement": difference(maps, wanted)}
        | {"file_megabytes": round(size, 1), "open_seconds": round(opened, 2), "peak_megabytes": peaks}
        | row
    )
    return wanted


def main():
    """Draw weights, export them in both precisions, and run one tile everywhere."""
    parser = arguments(__doc__.splitlines()[0])
    parser.set_defaults(threads=[2], repeats=2)
    parser.add_argument("--bfloat16", action="store_true", help="run the original as it comes, too (may take minutes)")
    options = parser.parse_args()
    report = Report("sam_export", "Does the export of Cellpose-SAM hold at its real size?")
    report.contents["model"] = "Cellpose-SAM's shapes (ViT-L), weights drawn at random"
    tile = np.random.default_rng(1).random((1, 3, SIDE, SIDE), np.float32)
    with scratch() as folder:
        weights = Path(folder) / "weights.pth"
        report.contents["parameters"] = draw_weights(weights)
        report.contents["weights_megabytes"] = round(weights.stat().st_size / 1e6, 1)
        models = {precision: Path(folder) / f"{precision}.onnx" for precision in ("fp32", "fp16")}
        report.contents["export"] = {
            precision: export(weights, model, precision) for precision, model in models.items()
        }
        print(report.contents["export"], flush=True)
        for threads in options.threads:
            with start_original(threads) as original:
                np.savez(f"{folder}/original.npz", weights=str(weights), tiles=tile, bfloat16=False)
                opened = original.load("network", f"{folder}/original.npz")["seconds"]
                report.contents["original_open_seconds"] = round(opened, 2)
                what = f"one tile of {SIDE} x {SIDE}, "
                wanted = compare(
                    report, original, models["fp32"], tile, folder, f"{what}float32", options.repeats, TARGET
                )
                compare(report, original, models["fp16"], tile, folder, f"{what}float16 weights", 1)
                half = Path(folder) / "half.onnx"
                to_half_arithmetic(models["fp32"], half)
                compare(report, original, half, tile, folder, f"{what}float16 arithmetic (not shipped)", 1)
            if options.bfloat16:
                with start_original(threads) as original:
                    np.savez(f"{folder}/original.npz", weights=str(weights), tiles=tile, bfloat16=True)
                    original.load("network", f"{folder}/original.npz")
                    taken = original.ask(do="run")
                    found = difference(original.result(folder)["maps"], wanted)
                    report.contents["original_bfloat16"] = {"seconds": round(taken["seconds"], 1), "agreement": found}
                    print(report.contents["original_bfloat16"], flush=True)
    report.write()


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        serve_original()
    else:
        main()
