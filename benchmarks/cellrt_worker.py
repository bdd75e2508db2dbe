"""Our side: the same jobs as those of the originals' workers, through cellrt's rooms, in the project's environment."""

import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
from worker import serve

import cellrt
from cellrt import kernels, readers
from cellrt.heads import flow as flow_head
from cellrt.heads import flow_3d
from cellrt.manifest import FlowSpec, PercentileSpec
from cellrt.normalize import normalize
from cellrt.session import Session
from cellrt.write import write

# Pairs that may be compared: as many as the `star` head allows per candidate.
MAX_PAIRS_PER_CANDIDATE = 4096
MAX_WORK_PER_CANDIDATE = 1 << 18  # rows of voxels


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


def suppression_3d(inputs, threads):
    """Non-maximum suppression of candidates of a stack, sorting included."""
    points = inputs["points"].astype(np.int32)
    stars = inputs["prob"], inputs["dist"], points, inputs["rays"], inputs["faces"]
    options = {"nms_thresh": float(inputs["nms_thresh"]), "max_work": MAX_WORK_PER_CANDIDATE * len(points)}
    return lambda: {"kept": kernels.star_nms_3d(*stars, threads=threads, **options)}


def painting_3d(inputs, threads):
    """Polyhedra into a label volume."""
    stars = inputs["dist"], inputs["points"].astype(np.float64), inputs["rays"], inputs["faces"]
    shape = tuple(int(side) for side in inputs["shape"])
    options = {"origin": (0, 0, 0), "shape": shape, "mode": "full", "overlap_label": None, "threads": threads}

    def run():
        order = np.argsort(-inputs["prob"], kind="stable")
        return {"labels": kernels.paint_polyhedra_3d(*stars, order, **options)}

    return run


def segmentation_3d(inputs, threads):
    """A normalised stack to labels: `segment` with its defaults."""
    model = cellrt.load(str(inputs["model"]), providers=["cpu"], threads=threads)
    return lambda: {"labels": model.segment(inputs["image"], normalize=None).labels}


def normalization(inputs, threads):
    """Percentiles 1 and 99.8, then normalise to float32."""
    image, spec = inputs["image"][np.newaxis], PercentileSpec(low=1, high=99.8)
    return lambda: {"image": normalize(image, spec, out_shape=image.shape[1:], threads=threads)[0]}


def segmentation(inputs, threads):
    """A raw image to labels: `segment` with its defaults, in as little memory as is asked for."""
    limit = {"memory": str(inputs["memory"])} if "memory" in inputs else {}
    model = cellrt.load(str(inputs["model"]), providers=["cpu"], threads=threads, **limit)
    image = inputs["image"]

    def run():
        cells = model.segment(image, normalize=(1, 99.8))
        return {"labels": cells.labels, "prob": cells.scores, "points": cells.points}

    return run


def _files(inputs, threads):
    """Model, paths and what the results of a path begin with; the first image is segmented to warm up."""
    model = cellrt.load(str(inputs["model"]), providers=["cpu"], threads=threads)
    paths, results = [Path(path) for path in inputs["paths"]], Path(str(inputs["results"]))
    model.segment(readers.read(paths[0])[0], normalize=(1, 99.8))
    return model, paths, lambda path: results / path.stem


def files(inputs, threads):
    """Files to files, one after the other."""
    model, paths, stem = _files(inputs, threads)

    def run():
        for path in paths:
            image, axes = readers.read(path)
            write(model.segment(image, axes=axes, normalize=(1, 99.8)), stem(path), ["labels"])
        return {}

    return run


def streaming(inputs, threads):
    """Files to files, read, computed and written at the same time."""
    model, paths, stem = _files(inputs, threads)

    def save(result):
        write(result.instances, stem(result.source), ["labels"])

    def run():
        with model.stream(paths, normalize=(1, 99.8), write=save) as stream:
            for result in stream:
                if result.error is not None:
                    raise result.error
        return {"profile": np.array(json.dumps(stream.profile))}

    return run


def multiplication(inputs, threads):
    """A product of two square float32 matrices, whose time says what the processor can do."""
    side = int(inputs["side"])
    random = np.random.default_rng(0)
    first, second = (random.random((side, side), np.float32) for _ in range(2))
    return lambda: {"corner": (first @ second)[:1, :1]}


def following(inputs, threads):
    """Flows to end positions."""
    flow, cellprob, niter = inputs["flow"], inputs["cellprob"], int(inputs["niter"])

    def run():
        _, positions = kernels.flow_follow_2d(
            flow,
            cellprob,
            cellprob_threshold=0.0,
            dynamics=str(inputs["dynamics"]),
            interpolate=True,
            n_iter=niter,
            threads=threads,
        )
        return {"positions": positions}

    return run


def errors(inputs, threads):
    """Quality control: the flows that masks should have, against the network's."""
    labels, flow = inputs["labels"].astype(np.int32), inputs["flow"]
    n_labels, dynamics = int(labels.max()), str(inputs["dynamics"])

    def run():
        found = kernels.flow_errors_2d(labels, flow, n_labels=n_labels, dynamics=dynamics, threads=threads)
        return {"errors": found}

    return run


def masks(inputs, threads):
    """The whole post-processing: flows and logits to labels, and on to outlines and scores."""
    maps = np.concatenate([inputs["flow"], inputs["cellprob"][np.newaxis]])
    spec = FlowSpec(dynamics=str(inputs["dynamics"]), diam_mean=30, diam_labels=30, tile=224)
    steps = int(inputs["niter"])
    return lambda: {"labels": flow_head.decode(maps, spec, steps=steps, threads=threads).labels}


def following_3d(inputs, threads):
    """Flows of a volume to end positions."""
    flow, cellprob, niter = inputs["flow"], inputs["cellprob"], int(inputs["niter"])

    def run():
        _, positions = kernels.flow_follow_3d(flow, cellprob, cellprob_threshold=0.0, n_iter=niter, threads=threads)
        return {"positions": positions}

    return run


def masks_3d(inputs, threads):
    """The whole post-processing of a volume: flows and logits to labels, and on to scores."""
    maps = np.concatenate([inputs["flow"], inputs["cellprob"][np.newaxis]])
    spec = FlowSpec(dynamics=str(inputs["dynamics"]), diam_mean=30, diam_labels=30, tile=224)
    steps = int(inputs["niter"])
    return lambda: {"labels": flow_3d.decode(maps, spec, steps=steps, threads=threads).labels}


def volume(inputs, threads):
    """A raw volume to labels: `segment` with the arguments that Cellpose was given."""
    model = cellrt.load(str(inputs["model"]), providers=["cpu"], threads=threads)
    image, parameters = inputs["image"], json.loads(str(inputs["params"]))
    names = ("channels", "diameter", "do_3D", "stitch_threshold", "anisotropy")
    options = {name: parameters[name] for name in names if name in parameters}
    return lambda: {"labels": model.segment(image, axes="ZYX", **options).labels}


def network(inputs, threads):
    """The network on tiles, in batches of four, which is what `segment` does."""
    session, tiles = Session(str(inputs["model"]), providers=["cpu"], threads=threads), inputs["tiles"]

    def run():
        maps = [session.run(tiles[begin : begin + 4])["maps"] for begin in range(0, len(tiles), 4)]
        return {"maps": np.concatenate(maps)}

    return run


def flow_segmentation(inputs, threads):
    """A raw image to labels: `segment` with its defaults at a given diameter."""
    model = cellrt.load(str(inputs["model"]), providers=["cpu"], threads=threads)
    image, diameter, tiles = inputs["image"], float(inputs["diameter"]), str(inputs["tiling"])
    return lambda: {"labels": model.segment(image, channels=(1, 2), diameter=diameter, tiles=tiles).labels}


if __name__ == "__main__":
    serve(
        {
            "suppression": suppression,
            "painting": painting,
            "suppression_3d": suppression_3d,
            "painting_3d": painting_3d,
            "segmentation_3d": segmentation_3d,
            "normalization": normalization,
            "segmentation": segmentation,
            "files": files,
            "streaming": streaming,
            "multiplication": multiplication,
            "following": following,
            "following_3d": following_3d,
            "errors": errors,
            "masks": masks,
            "masks_3d": masks_3d,
            "volume": volume,
            "network": network,
            "flow_segmentation": flow_segmentation,
        },
        {"cellrt": cellrt.__version__, "numpy": np.__version__, "onnxruntime": version("onnxruntime")},
    )
