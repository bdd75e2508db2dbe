"""Our side: the same jobs as stardist_worker.py, through cellrt's rooms. Runs in the project's environment."""

from importlib.metadata import version

import numpy as np
from worker import serve

import cellrt
from cellrt import kernels
from cellrt.manifest import PercentileSpec
from cellrt.normalize import normalize

# Pairs that may be compared: as many as the `star` head allows per candidate.
MAX_PAIRS_PER_CANDIDATE = 4096


def suppression(inputs, threads):
    """Non-maximum suppression of candidates, sorting included."""
    prob, dist, points = inputs["prob"], inputs["dist"], inputs["points"].astype(np.int32)
    nms_thresh, max_pairs = float(inputs["nms_thresh"]), MAX_PAIRS_PER_CANDIDATE * len(prob)

    def run():
        kept = kernels.star_nms_2d(prob, dist, points, nms_thresh=nms_thresh, max_pairs=max_pairs, threads=threads)
        return {"kept": kept}

    return run


def painting(inputs, threads):
    """Stars into a label image, vertices included."""
    dist, prob = inputs["dist"], inputs["prob"]
    points = inputs["points"].astype(np.float64)
    shape = tuple(int(side) for side in inputs["shape"])

    def run():
        coords = kernels.star_outlines_2d(dist, points, scale=(1.0, 1.0), threads=threads).reshape(-1, 2)
        offsets = np.arange(len(prob) + 1, dtype=np.int64) * dist.shape[1]
        order = np.argsort(prob, kind="stable")
        return {"labels": kernels.paint_polygons_2d(coords, offsets, order, shape=shape, threads=threads)}

    return run


def normalization(inputs, threads):
    """Percentiles 1 and 99.8, then normalise to float32."""
    image, spec = inputs["image"][np.newaxis], PercentileSpec(low=1, high=99.8)
    return lambda: {"image": normalize(image, spec, out_shape=image.shape[1:], threads=threads)[0]}


def segmentation(inputs, threads):
    """A raw image to labels: `segment` with its defaults."""
    model = cellrt.load(str(inputs["model"]), providers=["cpu"], threads=threads)
    image = inputs["image"]

    def run():
        cells = model.segment(image, normalize=(1, 99.8))
        return {"labels": cells.labels, "prob": cells.scores, "points": cells.points}

    return run


if __name__ == "__main__":
    serve(
        {
            "suppression": suppression,
            "painting": painting,
            "normalization": normalization,
            "segmentation": segmentation,
        },
        {"cellrt": cellrt.__version__, "numpy": np.__version__, "onnxruntime": version("onnxruntime")},
    )
