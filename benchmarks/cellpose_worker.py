"""The originals' side: Cellpose 3.1.1.3 or 4.2.1.1, whichever the environment has, as its own `eval` uses its parts.

OMP_NUM_THREADS and OMP_WAIT_POLICY are set by whoever starts this process.
"""

import json
import sys
from importlib import import_module
from importlib.metadata import version
from unittest import mock

import numpy as np
import torch
from worker import serve

NEW = version("cellpose").startswith("4")
if NEW:  # it names torchvision at import, uses it in training only, and no build for CPUs is to be had everywhere
    for name in ("", ".ops", ".ops.boxes", ".transforms", ".transforms.functional"):
        sys.modules[f"torchvision{name}"] = mock.MagicMock()
dynamics = import_module("cellpose.dynamics")
CPU = torch.device("cpu")
THRESHOLDS = {"cellprob_threshold": 0.0, "flow_threshold": 0.4}


def following(inputs, threads):
    """Flows to end positions, as `compute_masks` calls it."""
    torch.set_num_threads(threads)
    flow, cellprob, niter = inputs["flow"], inputs["cellprob"], int(inputs["niter"])

    def run():
        inside = cellprob > 0
        positions = dynamics.follow_flows(flow * inside / 5.0, np.nonzero(inside), niter=niter, device=CPU)
        return {"positions": np.asarray(positions, np.float32).T}

    return run


def errors(inputs, threads):
    """Quality control: the flows that masks should have, against the network's."""
    torch.set_num_threads(threads)
    if NEW:
        flow_error = dynamics.flow_error
    else:
        from cellpose.metrics import flow_error
    labels, flow = inputs["labels"], inputs["flow"]
    return lambda: {"errors": flow_error(labels, flow, device=CPU)[0]}


def masks(inputs, threads):
    """The whole post-processing: flows and logits to labels."""
    torch.set_num_threads(threads)
    flow, cellprob, niter = inputs["flow"], inputs["cellprob"], int(inputs["niter"])

    def run():
        labels = dynamics.resize_and_compute_masks(flow, cellprob, niter=niter, device=CPU, **THRESHOLDS)
        return {"labels": labels.astype(np.int32)}

    return run


def masks_3d(inputs, threads):
    """The same for a volume."""
    torch.set_num_threads(threads)
    flow, cellprob, niter = inputs["flow"], inputs["cellprob"], int(inputs["niter"])

    def run():
        labels = dynamics.resize_and_compute_masks(flow, cellprob, niter=niter, device=CPU, do_3D=True, **THRESHOLDS)
        return {"labels": labels.astype(np.int32)}

    return run


def _open(inputs, threads):
    from cellpose.models import CellposeModel

    torch.set_num_threads(threads)
    return CellposeModel(gpu=False, pretrained_model=str(inputs["weights"]))


def network(inputs, threads):
    """The network on tiles, in batches of eight as upstream has it."""
    from cellpose.core import _forward

    model, tiles = _open(inputs, threads), inputs["tiles"]

    def run():
        maps = [_forward(model.net, tiles[begin : begin + 8])[0] for begin in range(0, len(tiles), 8)]
        return {"maps": np.concatenate(maps)}

    return run


def segmentation(inputs, threads):
    """A raw image to labels: `eval` with its defaults at a given diameter."""
    model, image, diameter = _open(inputs, threads), inputs["image"], float(inputs["diameter"])

    def run():
        return {"labels": model.eval(image, channels=[1, 2], diameter=diameter)[0].astype(np.int32)}

    return run


def volume(inputs, threads):
    """A raw volume to labels: `eval` with recorded arguments."""
    model, image, parameters = _open(inputs, threads), inputs["image"], json.loads(str(inputs["params"]))
    return lambda: {"labels": model.eval(image, **parameters)[0].astype(np.int32)}


if __name__ == "__main__":
    serve(
        {
            "following": following,
            "following_3d": following,
            "errors": errors,
            "masks": masks,
            "masks_3d": masks_3d,
            "network": network,
            "segmentation": segmentation,
            "volume": volume,
        },
        {name: version(name) for name in ("cellpose", "torch", "numpy", "scipy")},
    )
