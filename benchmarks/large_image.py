"""Is an image larger than memory segmented within a stated amount of it, at the speed of the network, with its cells?

A file of side x side pixels is tiled from ../shared/data/large_mosaic, every second copy mirrored, and segmented into a
tiled TIFF by a full-width StarDist network in a process of its own. Pixels are read with `pread`: of a memory map, the
pages that the system keeps would count as the process's. Peak memory is the most that the process held (VmHWM), the
interpreter and all imports included. The time is set against what the network alone took for the same tiles in the same
run. At last a crop is segmented untiled, by the same grey values, and its cells compared.

Writes results/large_image.json.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from harness import ROOT, Report, arguments, scratch
from worker import peak_megabytes

MOSAIC = ROOT.parent / "shared" / "data" / "large_mosaic" / "images" / "nuclei_4160x4176.tif"
FULL_WIDTH = ROOT.parent / "shared" / "reference" / "stardist" / "models" / "2d_fluo"
CROP = 2048  # pixels: side of what is segmented untiled
EDGE = 256  # pixels: cells nearer to the crop's edge may know that it is one
MOST_MEMORY = 1500  # MB
MOST_TIME = 1.1  # times the network's


class RawFile:
    """A square uint8 image in a file without a header, read row by row."""

    dtype = np.dtype(np.uint8)

    def __init__(self, path, side):
        self.shape = (side, side)
        self._file = os.open(path, os.O_RDONLY)

    def __getitem__(self, index):
        """The pixels of two slices."""
        (top, bottom, _), (left, right, _) = (one.indices(side) for one, side in zip(index, self.shape, strict=True))
        block = np.empty((bottom - top, right - left), np.uint8)
        if block.shape[1] == self.shape[1]:
            os.preadv(self._file, [block], top * self.shape[1])
        else:
            for y, row in enumerate(block, start=top):
                os.preadv(self._file, [row], y * self.shape[1] + left)
        return block


def make(path, side):
    """Write the image, a row of copies at a time."""
    import tifffile

    copy = tifffile.imread(MOSAIC)
    height, width = copy.shape
    with path.open("wb") as file:
        for i in range(-(-side // height)):
            rows = copy[::-1] if i % 2 else copy
            row = np.concatenate([rows[:, ::-1] if j % 2 else rows for j in range(-(-side // width))], axis=1)
            row[: min(height, side - i * height), :side].tofile(file)


def work(model_file, image_file, side, threads, folder):
    """Segment the image in this process; leaves the labels in the folder and prints figures."""
    import cellrt

    model = cellrt.load(model_file, providers=["cpu"], threads=threads)
    run, in_network = model._network, []

    def timed(batch):
        begin = time.perf_counter()
        outputs = run(batch)
        in_network.append((time.perf_counter() - begin, batch.shape[2] * batch.shape[3]))
        return outputs

    model._network = timed
    begin = time.perf_counter()
    cells = model.segment_large(RawFile(image_file, side), folder / "labels.tif")
    seconds = time.perf_counter() - begin
    figures = {
        "seconds": seconds,
        "network_seconds": sum(one for one, _ in in_network),
        "network_pixels": sum(pixels for _, pixels in in_network),
        "peak_mb": peak_megabytes(),
        "objects": len(cells),
        "tiles": cells.n_tiles,
    }
    print(json.dumps(figures))


def compare(model_file, image_file, side, folder):
    """The cells of a crop that is segmented untiled, against those of the large image there."""
    import tifffile

    import cellrt
    from cellrt import kernels, metrics

    model = cellrt.load(model_file, providers=["cpu"])
    spec = model.manifest.normalize
    image = np.memmap(image_file, np.uint8, "r", shape=(1, side, side))
    low, high = kernels.percentiles(image, np.array([spec.low, spec.high]), threads=0).astype(np.float32)
    crop = min(CROP, side)
    begin = (side - crop) // 2 // 16 * 16  # samples of the network fall together there
    window = slice(begin, begin + crop)
    pixels = (image[0, window, window].astype(np.float32) - low) / (high - low + np.float32(spec.eps))
    whole = tifffile.imread(folder / "labels.tif")
    want, got = (
        np.ascontiguousarray(labels[EDGE:-EDGE, EDGE:-EDGE]).astype(np.int32)
        for labels in (model.segment(pixels, normalize=None).labels, whole[window, window])
    )
    exact, close = (metrics.matching(want, got, threshold=threshold) for threshold in (1.0, 0.9))
    return {
        "cells": close.n_true,
        "differing": close.fp + close.fn,  # that no cell of the other overlaps by 0.9
        "not_to_the_pixel": exact.fn,
        "pixels": int(np.count_nonzero((want > 0) != (got > 0))),
    }


def main():
    """Make, segment, compare, report."""
    parser = arguments(__doc__.split("\n")[0])
    parser.add_argument("--side", type=int, default=20_000, help="pixels (default: 20000)")
    parser.add_argument("--work", nargs=3, help=argparse.SUPPRESS)  # model, image, folder: in a process of its own
    options = parser.parse_args()
    threads = max(options.threads)
    if options.work is not None:
        model_file, image_file, folder = map(Path, options.work)
        work(model_file, image_file, options.side, threads, folder)
        return
    if not MOSAIC.exists() or not FULL_WIDTH.exists():
        print("the images and models of ../shared are not here: nothing to do")
        return
    import onnxruntime

    import cellrt
    from cellrt_export import stardist

    report = Report("large_image", f"How much time and memory does a {options.side} x {options.side} image take?")
    with scratch() as scratch_folder:
        folder = Path(scratch_folder)
        model_file, image_file = folder / "model.onnx", folder / "image.raw"
        stardist.export(FULL_WIDTH, model_file)
        make(image_file, options.side)
        command = [sys.executable, __file__, "--side", str(options.side), "--threads", str(threads), "--work"]
        command += [str(model_file), str(image_file), str(folder)]
        figures = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        figures["sink_mb"] = (folder / "labels.tif").stat().st_size / 1e6
        agreement = compare(model_file, image_file, options.side, folder)
    report.contents["versions"] = {"cellrt": {"cellrt": cellrt.__version__, "onnxruntime": onnxruntime.__version__}}
    report.contents["figures"] = {name: float(f"{value:.5g}") for name, value in figures.items()}
    report.contents["agreement"] = agreement
    what = f"{options.side} x {options.side} pixels, {threads} threads"
    ratio = figures["seconds"] / figures["network_seconds"]
    for name, value, unit, target in (
        (f"peak memory of {what}", figures["peak_mb"], "MB", f"at most {MOST_MEMORY} MB"),
        (f"time of {what}", figures["seconds"], "s", "-"),
        (f"time over the network's, {what}", ratio, "x", f"at most {MOST_TIME}"),
        (f"cells that differ from an untiled crop's, of {agreement['cells']}", agreement["differing"], "", "0"),
    ):
        report.add({"what": name, "value": float(f"{value:.4g}"), "unit": unit, "target": target})
    report.write()


if __name__ == "__main__":
    main()
