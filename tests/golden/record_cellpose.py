"""Record what the original Cellpose 3.1.1.3 and 4.2.1.1 answer, as small fixtures for the tests.

Run in environments of their own, never in the project's (see README.md beside this file), first under Cellpose 3:

    OMP_NUM_THREADS=1 CELLPOSE3/bin/python tests/golden/record_cellpose.py          # everything, about five minutes
    OMP_NUM_THREADS=1 CELLPOSE4/bin/python tests/golden/record_cellpose.py          # what Cellpose 4 makes of that
    OMP_NUM_THREADS=1 CELLPOSE3/bin/python tests/golden/record_cellpose.py tiles    # only the cases named
    OMP_NUM_THREADS=1 CELLPOSE4/bin/python tests/golden/record_cellpose.py volumes  # only what is about volumes

Every image is computed here from a formula and a seed; no image or weight of anybody else is used. The network is
small, and trained here by Cellpose's own trainer on such images. The files hold the ORIGINALS' outputs only: this
script does not import cellrt, and it does not judge. PyTorch is not bit-reproducible between machines, so a second
recording differs in the last digits; the committed files are the reference.
"""

import argparse
import contextlib
import importlib.metadata
import importlib.util
import json
import os
import sys
import tempfile
import types
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

if importlib.util.find_spec("torchvision") is None:
    # Cellpose 4 imports it for functions that nothing here calls.
    vision = types.ModuleType("torchvision.transforms")
    sys.modules["torchvision"] = types.ModuleType("torchvision")
    sys.modules["torchvision.transforms"] = vision
    for part in ("functional", "_functional_tensor"):
        sys.modules[f"torchvision.transforms.{part}"] = types.ModuleType(part)
        setattr(vision, part, sys.modules[f"torchvision.transforms.{part}"])

import cv2
import numpy as np
import scipy.ndimage
import torch
from cellpose import dynamics, transforms, utils

GOLDEN = Path(__file__).resolve().parent / "cellpose"
MODEL = GOLDEN / "models" / "cells"
SIZE_MODEL = GOLDEN / "models" / "cells_size.npy"
MAJOR = int(importlib.metadata.version("cellpose").split(".")[0])

N_BASE = [2, 8, 16, 32, 64]  # channels of the network's levels; the published ones have [2, 32, 64, 128, 256]
DIAM_MEAN = 17.0  # pixels
N_SAMPLED = 600  # pixels of the maps that a case keeps when it does not keep all


# ---- images -------------------------------------------------------------------------------------------------


def draw_cells(shape, diameter, seed, noise=0.03):
    """Draw soft ellipses that touch, each with a bright nucleus, as densely as they go.

    Returns (image (Y, X, 2) float32 about 0..1: bodies, nuclei; labels (Y, X) int32).
    """
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[: shape[0], : shape[1]].astype(np.float64)
    labels = np.zeros(shape, np.int32)
    bodies = 0.08 + 0.08 * columns / shape[1]
    nuclei = np.full(shape, 0.05)
    n_cells = 0
    for _ in range(int(12 * rows.size / diameter**2)):
        row, column = random.uniform(0, shape[0]), random.uniform(0, shape[1])
        long_axis = diameter / 2 * random.uniform(0.95, 1.25)
        short_axis = long_axis * random.uniform(0.65, 1)
        angle = random.uniform(0, np.pi)
        along = (rows - row) * np.sin(angle) + (columns - column) * np.cos(angle)
        across = (rows - row) * np.cos(angle) - (columns - column) * np.sin(angle)
        level = np.sqrt((along / long_axis) ** 2 + (across / short_axis) ** 2)
        inside = level < 1
        if inside.sum() < 12 or (labels[inside] > 0).mean() > 0.04:
            continue
        n_cells += 1
        labels[inside & (labels == 0)] = n_cells
        height = random.uniform(0.5, 0.9)
        bodies = np.maximum(bodies, height * (1.1 - 0.5 * level**2) / (1 + np.exp(np.minimum(14 * (level - 1), 60))))
        nuclei += random.uniform(0.5, 0.8) / (1 + np.exp(np.minimum(14 * (level - 0.45), 60)))
    image = np.stack([bodies, nuclei], -1) + random.normal(0, noise, (*shape, 2))
    return image.astype(np.float32), labels


def as_integers(image, dtype, top):
    """A float image about 0..1 as whole grey values up to about `top`."""
    return np.clip(np.rint(image * top), 0, np.iinfo(dtype).max).astype(dtype)


def draw_rgb(shape, diameter, seed):
    """Draw the two channels into green and blue, and something else into red."""
    image, labels = draw_cells(shape, diameter, seed)
    red = 0.3 + 0.2 * np.sin(np.arange(shape[1]) / 9) + np.zeros(shape)
    return as_integers(np.dstack([red, image[..., 0], image[..., 1]]), np.uint8, 180), labels


# ---- the model ----------------------------------------------------------------------------------------------


def make_network_class():
    """The original's network with our numbers of channels, for where the original builds one with its own."""
    from cellpose.resnet_torch import CPnet

    class SmallNetwork(CPnet):
        """CPnet of `N_BASE`; its style vector is padded with zeros to the 256 values that the original assumes."""

        def __init__(self, nbase, *arguments, **others):
            super().__init__(list(N_BASE), *arguments, **others)

        def forward(self, data):
            maps, style, levels = super().forward(data)
            return maps, torch.nn.functional.pad(style, (0, 256 - N_BASE[-1])), levels

    return SmallNetwork


def train_model():
    """models/cells and models/cells_size.npy: as the original's trainers write them."""
    from cellpose import train

    images, labels = [], []
    for index in range(28):
        image, cells = draw_cells((120, 136), 9 + 0.8 * index, 1000 + index, noise=0.02 + 0.002 * (index % 9))
        if index % 3 == 0:
            image[..., 1] = 0  # as the original makes of a grey image
        images.append(image)
        labels.append(cells)
    torch.manual_seed(7)
    network = make_network_class()(None, 3, sz=3, diam_mean=DIAM_MEAN)
    with tempfile.TemporaryDirectory() as scratch:
        written, losses, _ = train.train_seg(
            network,
            train_data=images,
            train_labels=labels,
            channels=[1, 2],
            n_epochs=320,
            nimg_per_epoch=16,
            batch_size=8,
            bsize=96,
            learning_rate=0.005,
            save_path=scratch,
            model_name="cells",
        )
        print(f"    loss {losses[10]:.3f} .. {losses[-1]:.3f}")
        size = train.train_size(
            network,
            written,
            train_data=images,
            train_labels=labels,
            channels=[1, 2],
            nimg_per_epoch=28,
            batch_size=28,
            bsize=160,
            n_epochs=12,
        )
        MODEL.parent.mkdir(parents=True, exist_ok=True)
        MODEL.write_bytes(Path(written).read_bytes())
    # The columns that only pad the style have weight 0; leave them out, so that the file fits the network.
    size |= {"A": size["A"][: N_BASE[-1]], "smean": size["smean"][: N_BASE[-1]]}
    np.save(SIZE_MODEL, size)


def load_model():
    """The original's CellposeModel and SizeModel of the files; only the class of the network is exchanged."""
    from cellpose import models

    models.CPnet = make_network_class()
    model = models.CellposeModel(pretrained_model=str(MODEL))
    size = np.load(SIZE_MODEL, allow_pickle=True).item()
    n_padding = 256 - N_BASE[-1]
    size |= {key: np.pad(size[key], (0, n_padding)) for key in ("A", "smean")}
    with tempfile.TemporaryDirectory() as scratch:
        padded = Path(scratch) / "size.npy"
        np.save(padded, size)
        size_model = models.SizeModel(model, pretrained_size=str(padded))
    return model, size_model


# ---- cases --------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def watched(*functions):
    """Keep copies of what functions of the original are given and return: name -> (arguments, results), the last."""
    seen = {}

    def copied(value):
        if isinstance(value, tuple):
            return tuple(map(copied, value))
        if torch.is_tensor(value):
            return value.detach().cpu().numpy().copy()
        return value.copy() if isinstance(value, np.ndarray) else value

    def watch(name, function):
        def call(*arguments, **others):
            given = copied(arguments)
            result = function(*arguments, **others)
            seen[name] = given, copied(result)
            seen[f"{name} named"] = others
            return result

        return call

    originals = [(module, name, getattr(module, name)) for module, name in functions]
    for module, name, function in originals:
        setattr(module, name, watch(name, function))
    try:
        yield seen
    finally:
        for module, name, function in originals:
            setattr(module, name, function)


def scene_two_channels():
    image, labels = draw_cells((84, 92), 23, 1)
    return as_integers(image, np.uint8, 200), labels


def scene_grey():
    image, labels = draw_cells((77, 91), 17, 2)
    return as_integers(image[..., 0], np.uint8, 200), labels


def scene_big_cells():
    image, labels = draw_cells((95, 84), 34, 3)
    return as_integers(image[..., 0], np.uint16, 3000), labels


def scene_small_cells():
    image, labels = draw_cells((52, 61), 9, 4)
    return as_integers(image, np.uint8, 220), labels


def scene_noisy():
    image, labels = draw_cells((70, 83), 17, 5, noise=0.25)
    return as_integers(image, np.uint8, 150), labels


def scene_large():
    image, labels = draw_cells((260, 300), 17, 6)
    return as_integers(image[..., 0], np.uint8, 200), labels


def scene_tall():
    image, labels = draw_cells((245, 66), 17, 7)
    return as_integers(image, np.uint8, 200), labels


def scene_tiny():
    image, labels = draw_cells((40, 50), 17, 8)
    return as_integers(image, np.uint16, 40000), labels


def scene_float():
    image, labels = draw_cells((60, 66), 17, 13)
    return image * np.float32(1.3), labels


def scene_dark():
    image, labels = draw_cells((75, 90), 17, 9)
    return 255 - as_integers(image[..., 0], np.uint8, 200), labels


def scene_shaded():
    """Cells under a light that fades to a tenth, and a corner without any."""
    image, labels = draw_cells((110, 120), 17, 10)
    image[60:, 70:] = 0.1
    labels[60:, 70:] = 0
    light = np.linspace(1, 0.1, 120)[:, np.newaxis]
    return as_integers(image * light, np.uint16, 3000), labels


def scene_constant_second():
    image, labels = scene_grey()
    return np.stack([image, np.full_like(image, 7)], -1), labels


def scene_rgb():
    return draw_rgb((70, 81), 17, 11)


def scene_giant():
    """One cell that fills more than 0.4 of the image."""
    rows, columns = np.mgrid[:60, :58]
    level = np.hypot(rows - 30, columns - 28) / 25
    return as_integers(0.1 + 0.8 / (1 + np.exp(6 * (level - 1))), np.uint8, 200), (level < 1).astype(np.int32)


def scene_blank():
    return np.full((45, 52), 9, np.uint8), np.zeros((45, 52), np.int32)


def scene_dim():
    """Noise only: its percentiles are spread over 0..1 like those of any image."""
    noise = np.random.default_rng(12).normal(100, 5, (64, 60))
    return np.rint(noise).astype(np.uint8), np.zeros((64, 60), np.int32)


# name: scene, arguments of CellposeModel.eval. `diameter` "size model" asks the original's SizeModel first.
GREY, BOTH = {"channels": [0, 0]}, {"channels": [1, 2]}
CASES = {
    "two_channels": (scene_two_channels, BOTH | {"diameter": 23.0}),
    "grey": (scene_grey, GREY | {"diameter": 17.0}),
    "no_resample": (scene_big_cells, GREY | {"diameter": 34.0, "resample": False, "interp": False}),
    "noisy": (scene_noisy, BOTH | {"diameter": 15.5}),
    "no_resample_interpolated": (scene_big_cells, GREY | {"diameter": 31.0, "resample": False}),
    "own_diameter": (scene_small_cells, BOTH),
    "upscaled": (scene_small_cells, BOTH | {"diameter": 9.0}),
    "size_model": (scene_two_channels, BOTH | {"diameter": "size model"}),
    "size_model_small": (scene_small_cells, BOTH | {"diameter": "size model"}),
    "size_model_nothing": (scene_blank, GREY | {"diameter": "size model"}),
    # The original divides in single precision here: 84 columns where double precision gives 85, 239 steps for 240.
    "rounded_rescale": (scene_grey, GREY | {"diameter": 18.2}),
    "rounded_steps": (scene_two_channels, BOTH | {"diameter": 20.4}),
    "tiles": (scene_large, GREY | {"diameter": 17.0}),
    "tiles_overlap": (scene_tall, BOTH | {"diameter": 15.0, "tile_overlap": 0.3}),
    "augment": (scene_grey, GREY | {"diameter": 17.0, "augment": True}),
    "augment_tall": (scene_tall, BOTH | {"diameter": 17.0, "augment": True}),
    "tiny": (scene_tiny, BOTH | {"diameter": 17.0}),
    "invert": (scene_dark, GREY | {"diameter": 17.0, "invert": True}),
    "tile_norm": (scene_shaded, BOTH | {"diameter": 17.0, "normalize": {"tile_norm_blocksize": 50}}),
    "tile_norm_sharpen": (
        scene_shaded,
        BOTH
        | {"diameter": 17.0, "normalize": {"tile_norm_blocksize": 60, "sharpen_radius": 5, "percentile": [2.0, 99.5]}},
    ),
    "smooth": (scene_noisy, BOTH | {"diameter": 17.0, "normalize": {"smooth_radius": 1.5}}),
    "smooth_sharpen": (
        scene_noisy,
        BOTH | {"diameter": 17.0, "normalize": {"smooth_radius": 1, "sharpen_radius": 12.0, "invert": False}},
    ),
    "lowhigh": (scene_grey, GREY | {"diameter": 17.0, "normalize": {"lowhigh": [12, 160]}}),
    "lowhigh_channels": (
        scene_rgb,
        {"channels": [2, 3], "diameter": 17.0, "normalize": {"lowhigh": [[15, 140], [5, 130.5]]}},
    ),
    "percentiles": (scene_rgb, {"channels": [2, 3], "diameter": 17.0, "normalize": {"percentile": [4.0, 90.5]}}),
    "not_normalized": (scene_float, BOTH | {"diameter": 17.0, "normalize": False}),
    "constant_second": (scene_constant_second, BOTH | {"diameter": 17.0}),
    "rgb": (scene_rgb, {"channels": [2, 3], "diameter": 17.0}),
    "rgb_mean": (scene_rgb, {"channels": [0, 0], "diameter": 17.0}),
    "rgb_one": (scene_rgb, {"channels": [2, 0], "diameter": 17.0}),
    "rgb_no_channels": (scene_rgb, {"diameter": 17.0}),
    "blank": (scene_blank, GREY | {"diameter": 17.0}),
    "dim": (scene_dim, GREY | {"diameter": 17.0}),
    "few_steps": (scene_grey, GREY | {"diameter": 17.0, "niter": 6}),
    "all_flows": (scene_noisy, BOTH | {"diameter": 15.5, "flow_threshold": 0.0}),
    "strict_flows": (scene_noisy, BOTH | {"diameter": 15.5, "flow_threshold": 0.12}),
    "cautious": (scene_grey, GREY | {"diameter": 17.0, "cellprob_threshold": 2.5}),
    "generous": (scene_noisy, BOTH | {"diameter": 15.5, "cellprob_threshold": -3.0}),
    "nothing": (scene_grey, GREY | {"diameter": 17.0, "cellprob_threshold": 30.0}),
    "large_only": (scene_grey, GREY | {"diameter": 17.0, "min_size": 200}),
    "all_sizes": (scene_noisy, BOTH | {"diameter": 13.0, "min_size": -1, "flow_threshold": 0.0}),
    "giant": (scene_giant, GREY | {"diameter": 50.0}),
    "giant_kept": (scene_giant, GREY | {"diameter": 50.0, "max_size_fraction": 0.9}),
}
# These keep every intermediate array; the others a sample of the maps, and the masks.
WHOLE_CASES = ("two_channels", "grey", "no_resample", "noisy")


def record_cases(names):
    """cases/<case>.npz: CellposeModel.eval and what went on inside."""
    from cellpose import metrics, models

    model, size_model = load_model()
    defaults = dict(models.normalize_default)
    for name in names:
        scene, parameters = CASES[name]
        image, truth = scene()
        arguments = dict(parameters)
        arrays = {"image": image, "params": np.array(json.dumps(parameters))}
        models.normalize_default.update(defaults)  # the original changes its own defaults from call to call
        if arguments.get("diameter") == "size model":
            diameter, from_style = size_model.eval(image.copy(), channels=arguments["channels"])
            arguments["diameter"] = diameter
            arrays |= {"diam": np.float64(diameter), "diam_style": np.float64(np.squeeze(from_style))}
        with watched(
            (models.transforms, "normalize_img"),
            (models, "run_net"),
            (dynamics, "follow_flows"),
            (dynamics, "get_masks_torch"),
            (metrics, "flow_error"),
        ) as seen:
            masks, (_, flow, cellprob), style = model.eval(image.copy(), **arguments)
        maps = np.concatenate([flow, cellprob[np.newaxis]])
        normalized = seen["run_net"][0][1][0]
        net_out = seen["run_net"][1][0][0]
        arrays |= {"masks": masks, "style": style[: N_BASE[-1]]}
        if "follow_flows" in seen:
            # The original hands a float on and cuts it off at the last moment.
            arrays["niter"] = np.uint32(seen["follow_flows named"]["niter"])
        if name in WHOLE_CASES:
            arrays |= {"normalized": normalized, "net_out_netres": net_out}
            if net_out.shape[:2] != cellprob.shape:
                arrays |= {"dP": flow, "cellprob": cellprob}
            arrays |= {
                "p_final": seen["follow_flows"][1],
                "masks_before_qc": seen["get_masks_torch"][1],
                "flow_errors": seen["flow_error"][1][0],
                "flows_from_masks": seen["flow_error"][1][1].astype(np.float32),
            }
        else:
            pixels = np.random.default_rng(0).permutation(cellprob.size)[:N_SAMPLED]
            arrays |= {
                "sample": np.sort(pixels).astype(np.int32),
                "sample_maps": maps.reshape(3, -1)[:, np.sort(pixels)],
                "sample_normalized": normalized.reshape(-1, 2)[:: max(1, len(image) * image.shape[1] // N_SAMPLED)].T,
            }
        save(GOLDEN / "cases" / f"{name}.npz", arrays)
        precision = metrics.average_precision([truth], [masks.astype(np.int32)], threshold=[0.5, 0.75, 0.9])[0][0]
        found = seen["get_masks_torch"][1].max() if "get_masks_torch" in seen else 0
        print(
            f"    {name}: {image.shape} -> {net_out.shape[:2]}, {truth.max()} cells, masks {found} before QC, "
            f"{masks.max()}; AP {np.round(precision, 2)}, diameter {arguments.get('diameter')} "
            f"{arrays.get('diam_style', '')}"
        )


def record_dynamics():
    """dynamics_v4/<case>.npz: the post-processing of Cellpose 4 on the flows that Cellpose 3's network gave."""
    for name in WHOLE_CASES:
        case = np.load(GOLDEN / "cases" / f"{name}.npz")
        net_out = case["net_out_netres"].transpose(2, 0, 1)
        flow, cellprob = (case["dP"], case["cellprob"]) if "dP" in case else (net_out[:2], net_out[2])
        shape = case["image"].shape[:2]
        with watched((dynamics, "follow_flows"), (dynamics, "get_masks_torch"), (dynamics, "flow_error")) as seen:
            masks = dynamics.resize_and_compute_masks(
                flow, cellprob, niter=int(case["niter"]), resize=None if cellprob.shape == shape else shape
            )
        arrays = {
            "p_final": seen["follow_flows"][1],
            "masks_before_qc": seen["get_masks_torch"][1],
            "flow_errors": seen["flow_error"][1][0],
            "flows_from_masks": seen["flow_error"][1][1].astype(np.float32),
            "masks": masks,
        }
        save(GOLDEN / "dynamics_v4" / f"{name}.npz", arrays)
        print(f"    {name}: masks {arrays['masks_before_qc'].max()} before QC, {masks.max()}")


# ---- volumes ------------------------------------------------------------------------------------------------


def draw_volume(shape, diameter, seed, flatness=1.0, noise=0.03):
    """Draw soft ellipsoids as `draw_cells` draws ellipses, flatter along z by a factor.

    Returns (volume (Z, Y, X, 2) float32: bodies, nuclei; labels (Z, Y, X) int32).
    """
    random = np.random.default_rng(seed)
    axes = np.meshgrid(*(np.arange(side, dtype=np.float64) for side in shape), indexing="ij")
    labels = np.zeros(shape, np.int32)
    bodies = 0.08 + 0.08 * axes[2] / shape[2]
    nuclei = np.full(shape, 0.05)
    n_cells = 0
    for _ in range(int(40 * labels.size * flatness / diameter**3)):
        centre = [random.uniform(0, side) for side in shape]
        radii = diameter / 2 * random.uniform(0.8, 1.15, 3) / [flatness, 1, 1]
        level = np.sqrt(sum(((a - c) / r) ** 2 for a, c, r in zip(axes, centre, radii, strict=True)))
        inside = level < 1
        if inside.sum() < 40 or (labels[inside] > 0).mean() > 0.04:
            continue
        n_cells += 1
        labels[inside & (labels == 0)] = n_cells
        height = random.uniform(0.5, 0.9)
        bodies = np.maximum(bodies, height * (1.1 - 0.5 * level**2) / (1 + np.exp(np.minimum(14 * (level - 1), 60))))
        nuclei += random.uniform(0.5, 0.8) / (1 + np.exp(np.minimum(14 * (level - 0.45), 60)))
    volume = np.stack([bodies, nuclei], -1) + random.normal(0, noise, (*shape, 2))
    return volume.astype(np.float32), labels


def scene_volume():
    volume, labels = draw_volume((13, 41, 46), 15, 71)
    return as_integers(volume[..., 0], np.uint8, 200), labels


def scene_two_channel_volume():
    volume, labels = draw_volume((12, 38, 34), 15, 72)
    return as_integers(volume, np.uint16, 30000), labels


def scene_flat_volume():
    """Planes twice as far from one another as pixels."""
    volume, labels = draw_volume((8, 50, 44), 20, 73, flatness=2)
    return as_integers(volume[..., 0], np.uint8, 180), labels


def scene_uneven_stack():
    """Objects in the first plane, none in the second; light that fades from plane to plane; a plane without any."""
    volume, labels = draw_volume((12, 45, 52), 17, 74)
    volume[1] = volume[8] = 0.1
    labels[1] = labels[8] = 0
    light = np.linspace(1, 0.4, 12)[:, np.newaxis, np.newaxis]
    return as_integers(volume[..., 0] * light, np.uint8, 220), labels


THROUGH, STACK = {"channels": [0, 0], "z_axis": 0, "do_3D": True}, {"channels": [0, 0], "z_axis": 0}
VOLUMES = {
    "volume": (scene_volume, THROUGH | {"diameter": 17.0}),
    "volume_own_diameter": (scene_volume, THROUGH | {"min_size": 200, "max_size_fraction": 0.06}),
    "volume_smooth": (scene_volume, THROUGH | {"diameter": 17.0, "flow3D_smooth": 1, "cellprob_threshold": 0.8}),
    "volume_two_channels": (
        scene_two_channel_volume,
        THROUGH | {"channels": [1, 2], "channel_axis": 3, "diameter": 15.5, "niter": 40},
    ),
    "volume_anisotropic": (scene_flat_volume, THROUGH | {"diameter": 20.4, "anisotropy": 2.0}),
    "volume_no_resample": (scene_flat_volume, THROUGH | {"diameter": 21.0, "anisotropy": 1.7, "resample": False}),
    "volume_tile_norm": (scene_volume, THROUGH | {"diameter": 17.0, "normalize": {"tile_norm_blocksize": 25}}),
    "volume_augment": (scene_two_channel_volume, THROUGH | {"channel_axis": 3, "diameter": 17.0, "augment": True}),
    "stack": (scene_uneven_stack, STACK | {"diameter": 17.0, "stitch_threshold": 0.3}),
    "stack_resized": (scene_two_channel_volume, STACK | {
        "channels": [2, 1], "channel_axis": 3, "diameter": 13.0, "stitch_threshold": 0.1, "min_size": 120,
        "normalize": {"smooth_radius": 1, "percentile": [2.0, 99.5]},
    }),
    "stack_no_resample": (scene_flat_volume, STACK | {
        "diameter": 26.0, "stitch_threshold": 0.25, "resample": False, "min_size": -1, "flow_threshold": 0.0,
    }),
}  # fmt: skip


def record_volumes():
    """volumes/<case>.npz: CellposeModel.eval of a volume; dynamics_v4/volume.npz: what Cellpose 4 makes of its maps."""
    if MAJOR == 4:
        case = np.load(GOLDEN / "volumes" / "volume.npz")
        for name, smooth in (("volume", 0), ("volume_smooth", [2, 1, 0.5])):
            flow = scipy.ndimage.gaussian_filter(case["maps"][:3], [0, *smooth]) if smooth else case["maps"][:3]
            with watched((dynamics, "follow_flows"), (dynamics, "get_masks_torch")) as seen:
                masks = dynamics.resize_and_compute_masks(flow, case["maps"][3], niter=150, do_3D=True)
            arrays = {"niter": np.array(150), "flow3D_smooth": np.array(smooth, np.float64), "masks": masks}
            arrays |= {"p_final": np.asarray(seen["follow_flows"][1]), "masks_uncleaned": seen["get_masks_torch"][1]}
            save(GOLDEN / "dynamics_v4" / "volumes" / f"{name}.npz", arrays)
            print(f"    {name}: masks {arrays['masks_uncleaned'].max()} before cleaning, {masks.max()}")
        return
    from cellpose import metrics, models

    model, _ = load_model()
    defaults = dict(models.normalize_default)
    for name, (scene, parameters) in VOLUMES.items():
        volume, truth = scene()
        models.normalize_default.clear()
        models.normalize_default.update(defaults)
        run = "run_3D" if parameters.get("do_3D") else "run_net"
        with watched((models, run)) as seen:
            masks, (_, flow, cellprob), style = model.eval(volume.copy(), **parameters)
        maps = np.concatenate([flow, cellprob[np.newaxis]])
        arrays = {"image": volume, "params": np.array(json.dumps(parameters)), "masks": masks}
        arrays["style"] = style[..., : N_BASE[-1]]
        if name == "volume":
            arrays["maps"] = maps
        else:
            voxels = np.sort(np.random.default_rng(0).permutation(cellprob.size)[:N_SAMPLED])
            arrays |= {"sample": voxels.astype(np.int32), "sample_maps": maps.reshape(len(maps), -1)[:, voxels]}
        save(GOLDEN / "volumes" / f"{name}.npz", arrays)
        precision = metrics.average_precision([truth], [masks.astype(np.int32)], threshold=[0.5, 0.75])[0][0]
        print(
            f"    {name}: {volume.shape} -> {seen[run][1][0].shape}, {truth.max()} cells, {masks.max()}; AP {precision}"
        )


def label_volumes():
    """Label volumes that are hard to clean: name -> (Z, Y, X) int32."""
    random = np.random.default_rng(81)
    z, y, x = np.mgrid[:13, :15, :17]

    def ball(centre, radius):
        return (z - centre[0]) ** 2 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2 < radius**2

    balls = np.zeros(z.shape, np.int32)
    for label in range(1, 16):
        balls[ball(random.uniform(0, 15, 3), random.uniform(1, 4.5))] = label
    shells = np.zeros(z.shape, np.int32)
    for label, radius in ((3, 6.9), (0, 5.5), (1, 4.4), (0, 3.2), (4, 2.1), (0, 1.1)):
        shells[ball((6, 7, 8), radius)] = label
    shells[0, 7, 8] = 2
    open_ones = np.zeros(z.shape, np.int32)
    open_ones[1:5, 1:6, 1:6] = 1
    open_ones[2:4, 2:5, 2:5] = 0
    open_ones[1, 3, 3] = 0  # through a face: no cavity
    open_ones[1:5, 1:6, 9:14] = 2
    open_ones[2:4, 2:5, 10:13] = 0
    open_ones[1, 1, 9] = 0  # through a corner only: a cavity
    open_ones[7:10, 0:5, 0:5] = 3
    open_ones[8, 0, 2] = 0  # at the border
    open_ones[11, 6:12, 6:12] = 4
    open_ones[11, 8:10, 8:10] = 0  # a ring in one plane
    for corner in ((8, 10, 12), (6, 10, 12), (7, 9, 12), (7, 11, 12), (7, 10, 11), (7, 10, 13)):
        open_ones[corner] = 5  # six voxels around one, none of which touch by a face
    specks = (random.random(z.shape) < 0.3) * random.integers(1, 30, z.shape).astype(np.int32)
    full = random.integers(1, 3, z.shape).astype(np.int32)
    gaps = np.where(np.isin(balls, (2, 3, 9)), 0, balls) * 3
    return {
        "balls": balls,
        "shells": shells,
        "open": open_ones,
        "specks": specks,
        "full": full,
        "gaps": gaps,
        "plane": balls[4:5],
    }


def record_volume_kernels():
    """kernels/v<major>_3d_*.npz and v<major>_stitch.npz: follow_flows, get_masks_torch, cleaning and stitch3D."""
    for name, labels in label_volumes().items():
        arrays = {"labels": labels, "min_sizes": np.array([15, -1, 1, 60])}
        for index, min_size in enumerate(arrays["min_sizes"]):
            arrays[f"cleaned_{index}"] = utils.fill_holes_and_remove_small_masks(labels.copy(), min_size=int(min_size))
        save(GOLDEN / "kernels" / f"v{MAJOR}_3d_clean_{name}.npz", arrays)
    for name, shape, smoothness, strength, n_iter in (
        ("swirls", (13, 17, 15), 2.5, 40.0, 60),
        ("slow", (9, 14, 16), 2.0, 12.0, 25),
        ("rough", (10, 11, 12), 0.0, 6.0, 13),
        ("thin", (2, 5, 60), 2.0, 12.0, 60),
    ):
        random = np.random.default_rng(91)
        flow = scipy.ndimage.gaussian_filter(random.normal(0, 1, (3, *shape)), (0, *[smoothness] * 3))
        flow = (flow * strength * 0.2 / flow.std()).astype(np.float32)
        cellprob = (scipy.ndimage.gaussian_filter(random.normal(0, 1, shape), 1.5) + 0.1).astype(np.float32)
        inside = cellprob > 0
        places = np.nonzero(inside)
        final = dynamics.follow_flows(flow * inside / 5.0, inds=places, niter=n_iter)
        arrays = {"flow": flow, "cellprob": cellprob, "n_iter": np.array(n_iter), "p_final": np.asarray(final)}
        positions = torch.from_numpy(arrays["p_final"].copy()).int()
        arrays["masks"] = dynamics.get_masks_torch(positions, places, flow.shape[1:], max_size_fraction=0.4)
        save(GOLDEN / "kernels" / f"v{MAJOR}_3d_follow_{name}.npz", arrays)
        print(f"    follow {name}: {inside.sum()} voxels, {arrays['masks'].max()} masks")
    random = np.random.default_rng(95)
    arrays = {}
    for index, (n_planes, n_labels) in enumerate(((6, 5), (7, 9), (5, 3), (9, 20), (1, 4))):
        blocks = random.integers(0, n_labels + 1, (n_planes, 6, 7))
        blocks[1:] = np.where(random.random(blocks[1:].shape) < 0.6, blocks[:-1], blocks[1:])
        stack = np.kron(blocks, np.ones((1, 4, 3), int)).astype(np.uint16)
        stack[random.random(stack.shape) < 0.15] = 0
        for plane in ((), (1,), (0,), (3, 4), ())[index]:
            stack[plane] = 0
        arrays[f"planes_{index}"] = stack
        for threshold in (0.05, 0.3, 0.8):
            arrays[f"stitched_{index}_{threshold}"] = utils.stitch3D(stack.copy(), stitch_threshold=threshold)
    save(GOLDEN / "kernels" / f"v{MAJOR}_stitch.npz", arrays)


# ---- low level ----------------------------------------------------------------------------------------------


def label_images():
    """Label images that are hard to clean: name -> (Y, X) int32."""
    random = np.random.default_rng(31)
    rows, columns = np.mgrid[:47, :53]

    def disc(row, column, radius):
        return (rows - row) ** 2 + (columns - column) ** 2 < radius**2

    discs = np.zeros((47, 53), np.int32)
    for label in range(1, 26):
        discs[disc(random.integers(47), random.integers(53), random.uniform(1, 7))] = label
    gaps = np.where(np.isin(discs, (2, 3, 9, 20)), 0, discs) * 3
    nested = np.zeros((47, 53), np.int32)
    for label, radius in ((3, 21), (0, 18), (1, 14), (0, 10), (4, 7), (0, 4), (2, 2)):
        nested[disc(23, 26, radius)] = label
    nested[:6, :6] = 5
    nested[2, 2] = 0
    nested[0, 3] = 0  # open to the image's edge: not a hole
    pieces = (discs % 4).astype(np.int32)
    pieces[10:13, 5:30] = 6  # a bar through others, and gaps in the numbering
    rings = np.zeros((47, 53), np.int32)
    for label in range(1, 9):
        row, column, radius = random.integers(6, 41), random.integers(6, 47), random.uniform(4, 9)
        rings[disc(row, column, radius) & ~disc(row, column, radius - 2)] = label
    # A hole that only diagonal steps lead out of, and one that a straight step does.
    diagonal = np.zeros((47, 53), np.int32)
    diagonal[5:12, 5:12] = 1
    diagonal[6:11, 6:11] = 0
    diagonal[5, 5] = 0
    diagonal[25:32, 5:12] = 2
    diagonal[26:31, 6:11] = 0
    diagonal[25, 8] = 0
    specks = (random.random((47, 53)) < 0.3) * random.integers(1, 40, (47, 53)).astype(np.int32)
    return {
        "discs": discs,
        "gaps": gaps,
        "nested": nested,
        "pieces": pieces,
        "rings": rings,
        "diagonal": diagonal,
        "specks": specks,
        "blank": np.zeros((5, 4), np.int32),
        "full": np.full((6, 5), 2, np.int32),
    }


def record_cleaning():
    """kernels/v<major>_clean_*.npz: fill_holes_and_remove_small_masks."""
    for name, labels in label_images().items():
        arrays = {"labels": labels, "min_sizes": np.array([15, -1, 1, 40])}
        for index, min_size in enumerate(arrays["min_sizes"]):
            arrays[f"cleaned_{index}"] = utils.fill_holes_and_remove_small_masks(labels.copy(), min_size=int(min_size))
        save(GOLDEN / "kernels" / f"v{MAJOR}_clean_{name}.npz", arrays)


def record_label_flows():
    """kernels/v<major>_flows_*.npz: masks_to_flows, and flow_error against an arbitrary flow."""
    if MAJOR == 3:
        from cellpose.metrics import flow_error
    else:
        flow_error = dynamics.flow_error
    images = label_images()
    odd = np.zeros((30, 34), np.int32)
    odd[0, 0] = 1  # one pixel in a corner
    odd[2, 4:20] = 2  # a line
    odd[5:20, 3:16] = 3  # a horseshoe: its mean is outside
    odd[5:16, 7:12] = 0
    odd[5:12, 7:10] = 4  # between its legs, touching one
    odd[22:30, 28:34] = 5  # at the far corner
    odd[21, 1:12:2] = 6  # not connected
    touching = np.kron(np.arange(1, 13).reshape(3, 4), np.ones((9, 11))).astype(np.int32)
    random = np.random.default_rng(33)
    for name in ("odd", "touching", "discs", "rings"):
        labels = {"odd": odd, "touching": touching}.get(name, images.get(name))
        # Cellpose 4 wants every number up to the largest to occur.
        labels = np.unique(labels, return_inverse=True)[1].reshape(labels.shape).astype(np.int32)
        flow = (5 * scipy.ndimage.gaussian_filter(random.normal(0, 3, (2, *labels.shape)), (0, 2, 2))).astype(
            np.float32
        )
        errors, flows = flow_error(labels, flow, device=torch.device("cpu"))
        save(
            GOLDEN / "kernels" / f"v{MAJOR}_flows_{name}.npz",
            {"labels": labels, "flow": flow, "errors": errors, "flows": flows.astype(np.float32)},
        )


def record_following():
    """kernels/v<major>_follow_*.npz: follow_flows through an arbitrary flow, and get_masks_torch of where it ends."""
    for name, shape, smoothness, strength, n_iter in (
        ("swirls", (37, 45), 4.0, 40.0, 60),  # to and along the edges
        ("slow", (31, 28), 2.0, 12.0, 25),
        ("rough", (29, 40), 0.0, 6.0, 13),
        ("thin", (2, 70), 3.0, 12.0, 60),
    ):
        random = np.random.default_rng(41)
        flow = scipy.ndimage.gaussian_filter(random.normal(0, 1, (2, *shape)), (0, smoothness, smoothness))
        flow = (flow * strength * 0.2 / flow.std()).astype(np.float32)
        cellprob = (scipy.ndimage.gaussian_filter(random.normal(0, 1, shape), 2) + 0.15).astype(np.float32)
        inside = cellprob > 0
        arrays = {"flow": flow, "cellprob": cellprob, "n_iter": np.array(n_iter)}
        places = np.nonzero(inside)
        variants = (
            {"p_final": {"interp": True}, "p_final_nearest": {"interp": False}} if MAJOR == 3 else {"p_final": {}}
        )
        for key, arguments in variants.items():
            final = dynamics.follow_flows(flow * inside / 5.0, inds=places, niter=n_iter, **arguments)
            arrays[key] = np.asarray(final)
        positions = torch.from_numpy(arrays["p_final"].copy()).int()
        arrays["masks"] = dynamics.get_masks_torch(positions, places, flow.shape[1:], max_size_fraction=0.4)
        save(GOLDEN / "kernels" / f"v{MAJOR}_follow_{name}.npz", arrays)
        print(f"    follow {name}: {inside.sum()} pixels, {arrays['masks'].max()} masks")


def record_resizing():
    """kernels/resize.npz: resize_image, linear for images and maps, nearest for masks."""
    random = np.random.default_rng(51)
    image = random.normal(0, 3, (27, 19, 3)).astype(np.float32)
    masks = random.integers(0, 70, (27, 19)).astype(np.uint16)
    arrays = {"image": image, "masks": masks}
    for index, (rows, columns) in enumerate(((27, 19), (54, 38), (13, 9), (41, 23), (8, 50), (1, 1), (26, 20))):
        arrays[f"linear_{index}"] = transforms.resize_image(image, rows, columns)
        arrays[f"pair_{index}"] = transforms.resize_image(image[..., :2].copy(), rows, columns)
        arrays[f"nearest_{index}"] = transforms.resize_image(
            masks, rows, columns, no_channels=True, interpolation=cv2.INTER_NEAREST
        )
    arrays["one_row"] = transforms.resize_image(image[:1], 5, 17)
    arrays["wide"] = random.integers(0, 256, (3, 1200, 2)).astype(np.float32)
    arrays["wide_pair"] = transforms.resize_image(arrays["wide"], 2, 887)
    save(GOLDEN / "kernels" / "resize.npz", arrays)


def record_normalisation():
    """kernels/v<major>_normalize.npz: normalize_img with every option, on three kinds of image."""
    random = np.random.default_rng(61)
    cells = draw_cells((45, 38), 9, 62)[0]
    cells[:16, :22] = 0.1  # blocks without contrast
    images = {
        "float": cells * np.float32(7) - np.float32(2),
        "whole": as_integers(cells, np.uint16, 30000).astype(np.float32),
        "constant": np.dstack([as_integers(cells[..., 0], np.uint8, 200), np.full((45, 38), 7)]).astype(np.float32),
        "faint": (cells[:21, 23:] * np.float32(1e-3)).astype(np.float32),
        "outliers": (random.random((40, 13, 2)) < 0.004).astype(np.float32) * 900,
    }
    options = {
        "plain": {},
        "percentile": {"percentile": (3.0, 99.8)},
        "invert": {"invert": True},
        "lowhigh": {"lowhigh": [0.25, 4.5], "invert": True},
        "lowhigh_channels": {"lowhigh": [[0, 3], [1.5, 90]]},
        "smooth": {"smooth_radius": 2},
        "sharpen": {"sharpen_radius": 6.5},
        "both": {"smooth_radius": 1.5, "sharpen_radius": 9},
        "tiles": {"tile_norm_blocksize": 15},
        "tiles_invert": {"tile_norm_blocksize": 18, "invert": True, "percentile": (2.0, 98.0)},
        "tiles_sharpen": {"tile_norm_blocksize": 100, "sharpen_radius": 4},
    }
    if MAJOR == 4:  # what Cellpose 4 does in another way, and little else
        options = {name: options[name] for name in ("plain", "invert", "lowhigh", "tiles", "tiles_invert")}
    arrays = {"options": np.array(json.dumps(options))}
    for image_name, image in images.items():
        arrays[image_name] = image
        for option, arguments in options.items():
            if image_name == "float" or option in ("plain", "invert") or (image_name, option) == ("constant", "tiles"):
                # `eval` hands over a stack of one plane; for an image without that axis, blocks go wrong.
                planes = transforms.normalize_img(image[np.newaxis].copy(), **arguments)
                arrays[f"{image_name}__{option}"] = planes[0]
    save(GOLDEN / "kernels" / f"v{MAJOR}_normalize.npz", arrays)


# ---- the run ------------------------------------------------------------------------------------------------


def save(path, arrays):
    """Write one compressed npz."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **arrays)


def write_versions():
    """versions.json: what the files were recorded with, one entry for each Cellpose."""
    path = GOLDEN / "versions.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    versions = json.loads(path.read_text()) if path.exists() else {}
    packages = ("cellpose", "torch", "numpy", "scipy", "opencv-python-headless", "fastremap", "fill-voids", "numba")
    versions[f"cellpose{MAJOR}"] = {"python": sys.version.split()[0]} | {
        package: importlib.metadata.version(package) for package in packages if package != "numba" or MAJOR == 3
    }
    path.write_text(json.dumps(versions, indent=2, sort_keys=True) + "\n")


def main():
    """Record the cases named on the command line, or everything that this Cellpose answers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="cases, 'kernels' or 'volumes'; all when none is named")
    names = parser.parse_args().names or ["kernels", *CASES, "volumes"]
    torch.set_num_threads(1)
    write_versions()
    if "kernels" in names:
        print("kernels", flush=True)
        record_cleaning()
        record_label_flows()
        record_following()
        record_normalisation()
        if MAJOR == 3:
            record_resizing()
    if "volumes" in names and MODEL.exists():
        print("volumes", flush=True)
        record_volume_kernels()
        record_volumes()
    names = [name for name in names if name not in ("kernels", "volumes")]
    if not names:
        return
    if MAJOR == 4:
        print("dynamics", flush=True)
        record_dynamics()
        return
    if not MODEL.exists():
        print("training", flush=True)
        train_model()
    print("cases", flush=True)
    record_cases(names)


if __name__ == "__main__":
    main()
