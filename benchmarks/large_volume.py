"""Is a volume larger than memory segmented within a stated amount of it, with the cells of the whole volume?

A file is tiled from the stack of ../shared/data/stardist_examples, every second copy mirrored along each axis, and
segmented into a BigTIFF by the StarDist 3D U-Net of ../shared/reference in a process of its own, under a memory limit.
Voxels are read with `pread`: of a memory map, the pages that the system keeps would count as the process's. Peak memory
is the most that the process held (VmHWM), the interpreter and all imports included. The time is set against what the
network alone took for the same tiles in the same run. At last a crop is segmented untiled, by the same grey values, and
its cells compared.

Writes results/large_volume.json. The stack is for tests only (see its SOURCE.txt): none of it is in the results.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from harness import ROOT, Report, arguments, scratch
from worker import peak_megabytes

STACK = ROOT.parent / "shared" / "data" / "stardist_examples" / "images" / "img3d.tif"
UNET = ROOT.parent / "shared" / "reference" / "stardist" / "models" / "3d_unet"
CROP = (96, 224, 224)  # voxels: sides of what is segmented untiled
EDGE = (32, 64, 64)  # voxels: cells nearer to the crop's faces may know that it has any
MEMORY = 3000  # MB: the limit


class RawFile:
    """A uint16 volume in a file without a header, read row by row."""

    dtype = np.dtype(np.uint16)

    def __init__(self, path, shape):
        self.shape = tuple(shape)
        self._file = os.open(path, os.O_RDONLY)

    def __getitem__(self, index):
        """The voxels of three slices."""
        spans = [one.indices(side)[:2] for one, side in zip(index, self.shape, strict=True)]
        (front, back), (top, bottom), (left, _) = spans
        block = np.empty([end - begin for begin, end in spans], np.uint16)
        _, height, width = self.shape
        for z in range(front, back):
            for y in range(top, bottom):
                os.preadv(self._file, [block[z - front, y - top]], 2 * ((z * height + y) * width + left))
        return block


def mirrored(side, length):
    """Which voxels of an axis of `length` a longer one has: there and back again."""
    return np.resize(np.concatenate([np.arange(length), np.arange(length)[::-1]]), side)


def make(path, shape):
    """Write the volume, plane by plane."""
    import tifffile

    stack = tifffile.imread(STACK)
    z, y, x = (mirrored(side, length) for side, length in zip(shape, stack.shape, strict=True))
    with path.open("wb") as file:
        for plane in z:
            stack[plane][y][:, x].tofile(file)


def work(model_file, volume_file, shape, threads, folder):
    """Segment the volume in this process; leaves the labels in the folder and prints figures."""
    import cellrt

    model = cellrt.load(model_file, providers=["cpu"], threads=threads, memory=f"{MEMORY}MB")
    run, in_network = model._network, []

    def timed(batch):
        begin = time.perf_counter()
        outputs = run(batch)
        in_network.append((time.perf_counter() - begin, math.prod(batch.shape[2:])))
        return outputs

    model._network = timed
    begin = time.perf_counter()
    cells = model.segment_large(RawFile(volume_file, shape), folder / "labels.tif")
    seconds = time.perf_counter() - begin
    figures = {
        "seconds": seconds,
        "network_seconds": sum(one for one, _ in in_network),
        "network_voxels": sum(voxels for _, voxels in in_network),
        "peak_mb": peak_megabytes(),
        "objects": len(cells),
        "tiles": cells.n_tiles,
    }
    print(json.dumps(figures))


def compare(model_file, volume_file, shape, folder):
    """The cells of a crop that is segmented untiled, against those of the large volume there."""
    import tifffile

    import cellrt
    from cellrt import metrics
    from cellrt.large.percentiles import percentiles
    from cellrt.large.source import Source

    model = cellrt.load(model_file, providers=["cpu"])
    spec = model.manifest.normalize
    volume = RawFile(volume_file, shape)
    source = Source(volume, axes="ZYX", channels=None, n_channels=1, n_axes=3)
    low, high = percentiles(source, (spec.low, spec.high), joint=True)[0].astype(np.float32)
    sides = [min(side, most) for side, most in zip(shape, CROP, strict=True)]
    begins = [(side - crop) // 2 // 8 * 8 for side, crop in zip(shape, sides, strict=True)]  # on the network's grid
    window = tuple(slice(begin, begin + side) for begin, side in zip(begins, sides, strict=True))
    voxels = (volume[window].astype(np.float32) - low) / (high - low + np.float32(spec.eps))
    inside = tuple(
        slice(edge if begin > 0 else 0, side - edge if begin + side < whole else side)
        for edge, begin, side, whole in zip(EDGE, begins, sides, shape, strict=True)
    )
    planes = tifffile.imread(folder / "labels.tif", key=range(begins[0], begins[0] + sides[0]))
    want, got = (
        np.ascontiguousarray(labels[inside]).astype(np.int32).reshape(-1, labels[inside].shape[2])
        for labels in (
            model.segment(voxels, normalize=None).labels,
            planes.reshape(sides[0], *shape[1:])[(slice(None), *window[1:])],
        )
    )
    exact, close = (metrics.matching(want, got, threshold=threshold) for threshold in (1.0, 0.9))
    return {
        "cells": close.n_true,
        "differing": close.fp + close.fn,  # that no cell of the other overlaps by 0.9
        "not_to_the_voxel": exact.fn,
        "voxels": int(np.count_nonzero((want > 0) != (got > 0))),
    }


def main():
    """Make, segment, compare, report."""
    parser = arguments(__doc__.split("\n")[0])
    parser.add_argument("--shape", type=int, nargs=3, default=(512, 1024, 1024), help="voxels (default: 512 1024 1024)")
    parser.add_argument("--work", nargs=3, help=argparse.SUPPRESS)  # model, volume, folder: in a process of its own
    options = parser.parse_args()
    threads, shape = max(options.threads), tuple(options.shape)
    if options.work is not None:
        model_file, volume_file, folder = map(Path, options.work)
        work(model_file, volume_file, shape, threads, folder)
        return
    if not STACK.exists() or not UNET.exists():
        print("the stack and the model of ../shared are not here: nothing to do")
        return
    import onnxruntime

    import cellrt
    from cellrt_export import stardist

    sides = " x ".join(map(str, shape))
    report = Report("large_volume", f"How much time and memory does a {sides} volume take?")
    with scratch() as scratch_folder:
        folder = Path(scratch_folder)
        model_file, volume_file = folder / "model.onnx", folder / "volume.raw"
        stardist.export(UNET, model_file)
        make(volume_file, shape)
        command = [sys.executable, __file__, "--shape", *map(str, shape), "--threads", str(threads), "--work"]
        command += [str(model_file), str(volume_file), str(folder)]
        figures = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        figures["sink_mb"] = (folder / "labels.tif").stat().st_size / 1e6
        agreement = compare(model_file, volume_file, shape, folder)
    report.contents["versions"] = {"cellrt": {"cellrt": cellrt.__version__, "onnxruntime": onnxruntime.__version__}}
    report.contents["figures"] = {name: float(f"{value:.5g}") for name, value in figures.items()}
    report.contents["agreement"] = agreement
    what = f"{sides} voxels, {threads} threads"
    ratio = figures["seconds"] / figures["network_seconds"]
    for name, value, unit, target in (
        (f"peak memory of {what}", figures["peak_mb"], "MB", f"at most {MEMORY} MB"),
        (f"time of {what}", figures["seconds"], "s", "-"),
        (f"time over the network's, {what}", ratio, "x", "-"),
        (f"cells that differ from an untiled crop's, of {agreement['cells']}", agreement["differing"], "", "0"),
    ):
        report.add({"what": name, "value": float(f"{value:.4g}"), "unit": unit, "target": target})
    report.write()


if __name__ == "__main__":
    main()
