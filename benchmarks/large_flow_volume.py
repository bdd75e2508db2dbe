"""Has a volume segmented in parts, with flows in three dimensions, the cells of the volume segmented at once?

The stack of ../shared/data/stardist_examples is tiled into a file as in large_volume.py and segmented by the bundled
model `cells` with `do_3D`: once by `segment`, which holds it in memory, and once by `segment_large` into a BigTIFF,
each in a process of its own. Peak memory is the most that the process held (VmHWM), the interpreter and all imports
included; labels are compared voxel by voxel.

Writes results/large_flow_volume.json. The stack is for tests only (see its SOURCE.txt): none of it is in the results.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from harness import Report, arguments, scratch
from large_volume import STACK, RawFile, make
from worker import peak_megabytes

DIAMETER = 22.0  # voxels: of the stack's nuclei, about


def work(how, volume_file, shape, threads, folder):
    """Segment the volume in this process; leaves the labels in the folder and prints figures."""
    import cellrt

    model = cellrt.load("cells", providers=["cpu"], threads=threads)
    volume, options = RawFile(volume_file, shape), {"do_3D": True, "diameter": DIAMETER}
    begin = time.perf_counter()
    if how == "large":
        cells = model.segment_large(volume, folder / "labels.tif", **options)
    else:
        cells = model.segment(volume[:, :, :], **options)
    figures = {"seconds": time.perf_counter() - begin, "peak_mb": peak_megabytes(), "objects": len(cells)}
    if how == "whole":
        np.save(folder / "labels.npy", cells.labels)
    print(json.dumps(figures))


def main():
    """Make, segment twice, compare, report."""
    parser = arguments(__doc__.split("\n")[0])
    parser.add_argument("--shape", type=int, nargs=3, default=(96, 512, 512), help="voxels (default: 96 512 512)")
    parser.add_argument(
        "--large-only", action="store_true", help="leave out the volume at once, which memory may not hold"
    )
    parser.add_argument("--work", nargs=3, help=argparse.SUPPRESS)  # how, volume, folder: in a process of its own
    options = parser.parse_args()
    threads, shape = max(options.threads), tuple(options.shape)
    if options.work is not None:
        how, volume_file, folder = options.work
        work(how, Path(volume_file), shape, threads, Path(folder))
        return
    if not STACK.exists():
        print("the stack of ../shared is not here: nothing to do")
        return
    import onnxruntime
    import tifffile

    import cellrt

    sides = " x ".join(map(str, shape))
    report = Report("large_flow_volume", f"What does it take to segment {sides} voxels in parts, with do_3D?")
    ways = ("large",) if options.large_only else ("large", "whole")
    with scratch() as scratch_folder:
        folder = Path(scratch_folder)
        volume_file = folder / "volume.raw"
        make(volume_file, shape)
        command = [sys.executable, __file__, "--shape", *map(str, shape), "--threads", str(threads), "--work"]
        figures = {
            how: json.loads(
                subprocess.run(
                    [*command, how, str(volume_file), str(folder)], check=True, stdout=subprocess.PIPE, text=True
                ).stdout
            )
            for how in ways
        }
        differing = None
        if not options.large_only:
            whole, parts = np.load(folder / "labels.npy"), tifffile.imread(folder / "labels.tif")
            differing = int(np.count_nonzero(whole != parts))
    report.contents["versions"] = {"cellrt": {"cellrt": cellrt.__version__, "onnxruntime": onnxruntime.__version__}}
    report.contents["figures"] = figures
    what = f"{sides} voxels, {threads} threads"
    for how in ways:
        for name, unit in (("seconds", "s"), ("peak_mb", "MB"), ("objects", "")):
            value = float(f"{figures[how][name]:.4g}")
            report.add({"what": f"{how}: {name} of {what}", "value": value, "unit": unit, "target": "-"})
    if differing is not None:
        report.add({"what": f"voxels that differ, {what}", "value": differing, "unit": "", "target": "0"})
    report.write()


if __name__ == "__main__":
    main()
