"""The original's side: StarDist 0.9.2 as its documentation uses it. Runs in its own environment (see peers.py).

OMP_NUM_THREADS and OMP_WAIT_POLICY are set by whoever starts this process: OpenMP reads them once, at import.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
from csbdeep.utils import normalize
from stardist.geometry import polygons_to_label, polyhedron_to_label
from stardist.nms import non_maximum_suppression_3d_sparse, non_maximum_suppression_sparse
from worker import serve


def suppression(inputs, _):
    """Non-maximum suppression of candidates, sorting included."""
    prob, dist, points = inputs["prob"], inputs["dist"], inputs["points"].astype(np.int64)

    def run():
        kept = non_maximum_suppression_sparse(dist, prob, points, nms_thresh=float(inputs["nms_thresh"]))[3]
        return {"kept": kept}

    return run


def painting(inputs, _):
    """Stars into a label image, vertices included."""
    dist, points, prob = inputs["dist"], inputs["points"].astype(np.int64), inputs["prob"]
    shape = tuple(inputs["shape"])
    return lambda: {"labels": polygons_to_label(dist, points, shape=shape, prob=prob)}


class _Rays:
    """Rays as they are given: StarDist's own class for that changes their last digits."""

    def __init__(self, inputs):
        self.vertices, self.faces = inputs["rays"], inputs["faces"]

    def __len__(self):
        return len(self.vertices)


def suppression_3d(inputs, _):
    """Non-maximum suppression of candidates of a stack, sorting included."""
    prob, dist, points, rays = inputs["prob"], inputs["dist"], inputs["points"].astype(np.int64), _Rays(inputs)

    def run():
        thresh = float(inputs["nms_thresh"])
        return {"kept": non_maximum_suppression_3d_sparse(dist, prob, points, rays, nms_thresh=thresh)[3]}

    return run


def painting_3d(inputs, _):
    """Polyhedra into a label volume."""
    stars = {"dist": inputs["dist"], "points": inputs["points"], "prob": inputs["prob"], "rays": _Rays(inputs)}
    shape = tuple(inputs["shape"])
    return lambda: {"labels": polyhedron_to_label(shape=shape, verbose=False, **stars)}


def _open_3d(inputs, threads):
    """A trained network for stacks."""
    from stardist.models import StarDist3D

    _limit_tensorflow(threads)
    folder = Path(str(inputs["folder"]))
    return StarDist3D(None, name=folder.name, basedir=str(folder.parent))


def candidates_3d(inputs, threads):
    """What a trained network finds in a normalised stack, with its rays."""
    from stardist.rays3d import rays_from_json

    model = _open_3d(inputs, threads)

    def run():
        prob, dist, points = model.predict_sparse(inputs["image"])[:3]
        rays = rays_from_json(model.config.rays_json)
        return {
            "prob": prob,
            "dist": dist,
            "points": points,
            "rays": rays.vertices.astype(np.float32),
            "faces": rays.faces.astype(np.int32),
            "nms_thresh": np.float64(model.thresholds.nms),
        }

    return run


def segmentation_3d(inputs, threads):
    """A normalised stack to labels: `predict_instances` with its defaults."""
    model = _open_3d(inputs, threads)
    return lambda: {"labels": model.predict_instances(inputs["image"])[0]}


def normalization(inputs, _):
    """Percentiles 1 and 99.8, then normalise to float32."""
    image = inputs["image"]
    return lambda: {"image": normalize(image, 1, 99.8)}


def _limit_tensorflow(threads):
    """TensorFlow ignores OMP_NUM_THREADS."""
    import tensorflow

    if tensorflow.config.threading.get_intra_op_parallelism_threads() != threads:
        tensorflow.config.threading.set_intra_op_parallelism_threads(threads)
        tensorflow.config.threading.set_inter_op_parallelism_threads(threads)


def _open(folder):
    from stardist.models import StarDist2D

    return StarDist2D(None, name=Path(folder).name, basedir=str(Path(folder).parent))


def segmentation(inputs, threads):
    """A raw image to labels: normalise, then predict_instances with its defaults."""
    _limit_tensorflow(threads)
    model = _open(str(inputs["folder"]))
    image = inputs["image"]

    def run():
        labels, details = model.predict_instances(normalize(image, 1, 99.8), show_tile_progress=False)
        return {"labels": labels, "prob": details["prob"], "points": details["points"]}

    return run


def files(inputs, threads):
    """Files to files, one after the other; the first image is segmented beforehand to warm up."""
    import tifffile

    _limit_tensorflow(threads)
    model = _open(str(inputs["folder"]))
    paths, results = [Path(path) for path in inputs["paths"]], Path(str(inputs["results"]))

    def segment(path):
        image = normalize(tifffile.imread(path), 1, 99.8)
        return model.predict_instances(image, show_tile_progress=False)[0]

    segment(paths[0])

    def run():
        for path in paths:
            labels = segment(path).astype(np.uint16)
            name = results / f"{path.stem}_labels.tif"
            tifffile.imwrite(name, labels, compression="zlib", compressionargs={"level": 1})
        return {}

    return run


def model_folder(inputs, threads):
    """Write a model folder of the published architecture with seeded weights, for machines without a trained one.

    The weights mean nothing, but they make the work of a real model: thresholds and biases are set so that 2 % of
    the samples of `image` become candidates, with rays of about 8 px.
    """
    _limit_tensorflow(threads)
    from stardist.models import Config2D, StarDist2D

    folder = Path(str(inputs["folder"]))
    image = normalize(inputs["image"], 1, 99.8)

    def run():
        config = Config2D(n_rays=32, grid=(2, 2), train_tensorboard=False)
        model = StarDist2D(config, name=folder.name, basedir=str(folder.parent))
        random = np.random.default_rng(0)
        for variable in model.keras_model.weights:
            shape, layer = tuple(variable.shape), variable.path.split("/")[0]
            if variable.path.endswith("kernel"):
                value = random.normal(0, np.sqrt((0.05 if layer == "dist" else 1.9) / np.prod(shape[:-1])), shape)
            else:
                value = np.full(shape, 8.0 if layer == "dist" else 0.01)
            variable.assign(value.astype(np.float32))
        prob = model.predict(image)[0]
        thresholds = {"prob": float(np.clip(np.quantile(prob, 0.98), 1e-6, 1 - 1e-6)), "nms": 0.4}
        model.keras_model.save_weights(str(folder / "weights_best.h5"))
        (folder / "thresholds.json").write_text(json.dumps(thresholds))
        return {}

    return run


if __name__ == "__main__":
    serve(
        {
            "suppression": suppression,
            "painting": painting,
            "suppression_3d": suppression_3d,
            "painting_3d": painting_3d,
            "candidates_3d": candidates_3d,
            "segmentation_3d": segmentation_3d,
            "normalization": normalization,
            "segmentation": segmentation,
            "files": files,
            "model_folder": model_folder,
        },
        {
            name: version(name)
            for name in ("stardist", "csbdeep", "tensorflow-cpu", "keras", "numpy", "scipy", "scikit-image")
        },
    )
