"""Segment a real micrograph with a bundled model, in the six lines that matter, and look at the result.

The picture is scikit-image's `immunohistochemistry`: colon tissue, nuclei stained blue with haematoxylin, FHL2 brown
with DAB. The nuclei model takes one channel, bright on dark: the haematoxylin that colour deconvolution finds.

Run it with `make demo`, or: python examples/demo.py [FOLDER]
"""

import sys
import time
from pathlib import Path

import numpy as np
from skimage.color import rgb2hed
from skimage.data import immunohistochemistry

import cellrt
from cellrt.write import write


def main() -> None:
    """Segment, time it, and write labels, table and overlay."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "demo")
    folder.mkdir(parents=True, exist_ok=True)
    picture = immunohistochemistry()
    haematoxylin = rgb2hed(picture)[..., 0].astype(np.float32)

    start = time.perf_counter()
    model = cellrt.load("nuclei")
    loaded = time.perf_counter()
    cells = model.segment(haematoxylin)
    done = time.perf_counter()

    files = write(cells, folder / "ihc", ["labels", "csv", "overlay"], image=np.moveaxis(picture, -1, 0))
    height, width = cells.labels.shape
    areas = np.bincount(cells.labels.ravel(), minlength=len(cells) + 1)[1:]
    print(f"{len(cells)} nuclei in {height} x {width} pixels, median area {np.median(areas):.0f} pixels")
    print(f"load {loaded - start:.2f} s, segment {done - loaded:.2f} s on {', '.join(model.providers)}")
    print("wrote " + ", ".join(str(file) for file in files))


if __name__ == "__main__":
    main()
