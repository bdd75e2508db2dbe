"""How much does cellrt add to the network, and how near is the network to what the processor can do?

The floor is ONNX Runtime alone: the same session, called on the same tiles, in the same process and in turn with
`segment`. Beside it stands ONNX Runtime with all its defaults, and the network's rate in multiply-adds against that of
a large product of float32 matrices, which is the most that these cores do.
"""

from unittest import mock

import numpy as np
import onnx
import onnxruntime
import scenes
from harness import Report, Worker, arguments, in_turn, scratch, summary

import cellrt
from cellrt.session import INPUT, Session

SIDE = 2048
MATRIX = 3072  # side: 58 billion operations


def tiles_of(model, image):
    """The batches that one `segment` runs the network on, and the session that it runs them with."""
    taken = []

    def note(session, batch):
        taken.append((session, batch.copy()))
        return run(session, batch)

    run = Session.run
    with mock.patch.object(Session, "run", note):
        model.segment(image, normalize=(1, 99.8))
    return [batch for _, batch in taken], taken[0][0]._session


def multiply_adds(path, shape):
    """Multiply-adds of a network's convolutions for an input of a shape; other layers that multiply are refused."""
    network = onnx.load(path)
    for dimension, length in zip(network.graph.input[0].type.tensor_type.shape.dim, shape, strict=True):
        dimension.ClearField("dim_param")
        dimension.dim_value = length
    network = onnx.shape_inference.infer_shapes(network)
    weights = {tensor.name: list(tensor.dims) for tensor in network.graph.initializer}
    shapes = {
        value.name: [dimension.dim_value for dimension in value.type.tensor_type.shape.dim]
        for value in (*network.graph.value_info, *network.graph.output)
    }
    total = 0
    for node in network.graph.node:
        if node.op_type == "Conv":
            total += int(np.prod(shapes[node.output[0]])) * int(np.prod(weights[node.input[1]][1:]))
        elif node.op_type in ("MatMul", "Gemm", "ConvTranspose"):
            raise ValueError(f"expected convolutions only, got {node.op_type}; count it as well")
    return total


def main():
    """Export the model, then compare for each number of threads."""
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=SIDE, help=f"side of the image (default: {SIDE})")
    options = parser.parse_args()
    side = options.side
    report = Report("overhead", "How much does `segment` take beyond the network, and how good is the network?")
    report.own_versions()
    from cellrt_export import stardist as exporter

    with scratch() as folder:
        stardist_folder, model_is = scenes.model_folder(folder)
        path = f"{folder}/model.onnx"
        exporter.export(stardist_folder, path)
        image, image_is = scenes.microscope_image((side, side))
        report.contents |= {"model": model_is, "image": image_is}
        np.savez(f"{folder}/matrix.npz", side=MATRIX)
        for threads in options.threads:
            model = cellrt.load(path, providers=["cpu"], threads=threads)
            tiles, bare = tiles_of(model, image)
            with Worker("cellrt", threads) as worker:
                worker.load("multiplication", f"{folder}/matrix.npz")
                peak = 2 * MATRIX**3 / min(worker.ask(do="run")["seconds"] for _ in range(5)) / 1e9
            measure(report, model, image, tiles, bare, threads, options.repeats or 7)
            add_rate(report, sum(multiply_adds(path, tile.shape) for tile in tiles), peak, threads)
            model.release()
            add_defaults(report, path, tiles, bare, threads, options.repeats or 3)
    report.write()


def measure(report, model, image, tiles, bare, threads, repeats):
    """The row of `segment` against the bare session."""

    def floor():
        for tile in tiles:
            bare.run(None, {INPUT: tile})

    whole, network = in_turn((lambda: model.segment(image, normalize=(1, 99.8)), floor), repeats)
    shares = summary([ours / theirs - 1 for ours, theirs in zip(whole, network, strict=True)])
    report.add(
        {
            "what": f"segment {image.shape[0]} x {image.shape[1]}, beyond ONNX Runtime on the same tiles",
            "threads": threads,
            "value": shares["median"],
            "unit": "%",
            "target": "at most 6 %",
            "tiles": [list(tile.shape) for tile in tiles],
            "share": shares,
            "segment_seconds": summary(whole),
            "network_seconds": summary(network),
        }
    )


def add_rate(report, n_operations, peak, threads):
    """The row of the network's rate, out of the floor's time in the row before."""
    seconds = report.contents["rows"][-1]["network_seconds"]["median"]
    rate = 2 * n_operations / seconds / 1e9
    report.add(
        {
            "what": f"the network's arithmetic: {rate:.0f} of the {peak:.0f} GFLOP/s of a float32 matrix product",
            "threads": threads,
            "value": rate / peak,
            "unit": "%",
            "target": "-",
            "gflops": round(rate, 1),
            "peak_gflops": round(peak, 1),
            "multiply_adds": n_operations,
        }
    )


def add_defaults(report, path, tiles, bare, threads, repeats):
    """The row of ONNX Runtime as it comes: threads that spin, an arena of its own."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    plain = onnxruntime.InferenceSession(path, sess_options=options, providers=["CPUExecutionProvider"])
    times = in_turn(
        [lambda session=session: [session.run(None, {INPUT: tile}) for tile in tiles] for session in (plain, bare)],
        repeats,
    )
    shares = summary([default / ours - 1 for default, ours in zip(*times, strict=True)])
    report.add(
        {
            "what": "ONNX Runtime with its defaults, beyond the same with cellrt's options",
            "threads": threads,
            "value": shares["median"],
            "unit": "%",
            "target": "-",
            "share": shares,
        }
    )


if __name__ == "__main__":
    main()
