"""Record what the original StarDist 0.9.2 answers, as small fixtures for the tests.

Run in an environment of its own, never in the project's (see README.md beside this file):

    OMP_NUM_THREADS=1 python tests/golden/record_stardist.py            # everything, about five minutes
    OMP_NUM_THREADS=1 python tests/golden/record_stardist.py rays11     # only the models named

Every image is computed here from a formula and a seed; no image or weight of anybody else is used. Network
weights are random, or trained here for a minute on such images. The files hold the ORIGINAL's outputs only: this
script does not import cellrt, and it does not judge. TensorFlow is not bit-reproducible between machines, so a
second recording differs in the last digits; the committed files are the reference.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import csbdeep
import h5py
import keras
import numpy as np
import scipy
import scipy.ndimage
import skimage
import stardist
import tensorflow
from csbdeep.utils import normalize
from stardist.geometry import dist_to_coord, polygons_to_label, star_dist
from stardist.geometry.geom2d import polygons_to_label_coord
from stardist.models import Config2D, StarDist2D
from stardist.nms import non_maximum_suppression_inds
from stardist.utils import edt_prob

GOLDEN = Path(__file__).resolve().parent / "stardist"


# ---- images -------------------------------------------------------------------------------------------------


def draw_cells(shape, count, seed, radius=(4.0, 7.5)):
    """Draw bright ellipses on a sloped, noisy background.

    Returns (image (Y, X) float32 about 0..1, labels (Y, X) int32, kind (count,) int: 0 round, 1 elongated).
    """
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[: shape[0], : shape[1]].astype(np.float64)
    labels = np.zeros(shape, np.int32)
    image = 0.1 + 0.1 * columns / shape[1]
    kinds = []
    tries = 0
    while len(kinds) < count and tries < 50 * count:
        tries += 1
        row, column = random.uniform(0, shape[0]), random.uniform(0, shape[1])
        kind = int(random.integers(2))
        long_axis = random.uniform(*radius)
        short_axis = long_axis * (random.uniform(0.85, 1.0) if kind == 0 else random.uniform(0.45, 0.6))
        angle = random.uniform(0, np.pi)
        along = (rows - row) * np.sin(angle) + (columns - column) * np.cos(angle)
        across = (rows - row) * np.cos(angle) - (columns - column) * np.sin(angle)
        level = (along / long_axis) ** 2 + (across / short_axis) ** 2
        inside = level < 1
        if inside.sum() < 12 or (labels[inside] > 0).mean() > 0.08:
            continue
        kinds.append(kind)
        labels[inside & (labels == 0)] = len(kinds)
        image += random.uniform(0.5, 0.8) / (1 + np.exp(np.minimum(6 * (level - 1), 60)))
    image += random.normal(0, 0.03, shape)
    return image.astype(np.float32), labels, np.array(kinds, np.int64)


def texture(shape, seed):
    """Smooth random texture with zero mean and unit variance, (Y, X) or (Y, X, C) float32, for random networks."""
    random = np.random.default_rng(seed)
    noise = random.normal(0, 1, shape)
    smooth = scipy.ndimage.gaussian_filter(noise, (1.5, 1.5) + (0,) * (len(shape) - 2))
    mixed = smooth / smooth.std() + 0.3 * noise
    return mixed.astype(np.float32)


def stain(image, seed):
    """Turn a (Y, X) image into (Y, X, 3): three different mixtures, so that a channel swap shows."""
    random = np.random.default_rng(seed)
    channels = [1.0 - 0.8 * image, 0.9 - 0.5 * image, 0.7 - 0.1 * image]
    return (np.stack(channels, -1) + random.normal(0, 0.02, (*image.shape, 3))).astype(np.float32)


# ---- model folders ------------------------------------------------------------------------------------------


def spec(shape, n_rays=8, depth=1, base=4, features=6, **others):
    """Arguments of Config2D, and the shape of the image: one line per model below."""
    arguments = {"n_rays": n_rays, "unet_n_depth": depth, "unet_n_filter_base": base, "net_conv_after_unet": features}
    return arguments | others, shape


# Together these cover what a configuration can say; each is as small as its purpose allows. None is trained: their
# weights are random, see `random_weights`.
RANDOM_MODELS = {
    "depth0": spec((21, 18), n_rays=3, depth=0),
    "depth1": spec((13, 18), features=8),
    "depth3_grid2": spec((33, 42), n_rays=16, depth=3, base=2, features=8, grid=(2, 2)),
    "grid4_kernel5": spec((42, 53), features=8, grid=(4, 4), unet_kernel_size=(5, 5), unet_n_conv_per_depth=1),
    "grid24_kernel35": spec((38, 54), grid=(2, 4), unet_kernel_size=(3, 5)),
    "grid81_kernel1": spec(
        (37, 21), n_rays=4, base=3, features=5, grid=(8, 1), unet_kernel_size=(1, 3), unet_n_conv_per_depth=1
    ),
    "pool42": spec((20, 27), depth=2, grid=(1, 2), unet_pool=(4, 2), unet_n_conv_per_depth=1),
    "pool12": spec((9, 21), depth=2, base=3, unet_pool=(1, 2)),
    "pool3": spec((13, 16), n_rays=6, unet_pool=(3, 3)),
    "kernel_even": spec((13, 14), n_rays=6, unet_kernel_size=(2, 4)),
    "batch_norm": spec((37, 44), depth=2, features=8, grid=(2, 2), unet_batch_norm=True, unet_dropout=0.2),
    "batch_norm_conv3": spec(
        (14, 15),
        base=3,
        features=0,
        unet_batch_norm=True,
        unet_n_conv_per_depth=3,
        unet_activation="elu",
        unet_last_activation="linear",
    ),
    "conv3_dropout": spec(
        (13, 17),
        depth=2,
        base=3,
        unet_n_conv_per_depth=3,
        unet_dropout=0.5,
        unet_activation="tanh",
        unet_last_activation="sigmoid",
    ),
    "selu_softplus": spec((12, 13), n_rays=5, unet_activation="selu", unet_last_activation="softplus"),
    "swish_gelu": spec((12, 13), n_rays=5, unet_activation="swish", unet_last_activation="gelu"),
    "leaky_relu_hard_sigmoid": spec(
        (12, 13), n_rays=5, unet_activation="leaky_relu", unet_last_activation="hard_sigmoid"
    ),
    "expansion1.5_prefix": spec((13, 18), depth=2, base=5, unet_expansion=1.5, unet_prefix="xyz_"),
    "expansion3": spec((13, 18), depth=2, base=3, unet_expansion=3, unet_n_conv_per_depth=1),
    "channels2": spec((14, 17, 2), n_channel_in=2),
    "classes3_no_features": spec((33, 42), base=6, features=0, n_classes=3, grid=(2, 2)),
    "classes1": spec((13, 14), n_classes=1),
    "rays11": spec((14, 15), n_rays=11, features=0, unet_n_conv_per_depth=1),
    "old_config": spec((14, 17), base=3, features=128),
    "old_keras2": spec((34, 40), grid=(2, 2), unet_batch_norm=True),
    "old_nested": spec((34, 40), grid=(2, 2)),
    "offset_names": spec((34, 40), grid=(4, 2), unet_batch_norm=True),
}

# The configurations below are trained for a minute so that they find cells.
TRAINED_MODELS = {
    "cells": spec((53, 62), n_rays=32, depth=2, base=8, features=20, grid=(2, 2)),
    "cells_grid1": spec((33, 38), n_rays=11, depth=2, base=6, features=12),
    "cells_classes": spec((50, 61), n_rays=16, depth=2, base=6, features=12, grid=(2, 2), n_classes=2),
    "cells_rgb": spec(
        (46, 53, 3), n_rays=16, depth=2, base=6, features=16, grid=(2, 2), n_channel_in=3, unet_batch_norm=True
    ),
}

# What StarDist wrote in 2019 (its published 2D_dsb2018): the other keys did not exist yet.
OLD_CONFIG_KEYS = (
    "n_channel_in",
    "n_channel_out",
    "n_rays",
    "net_input_shape",
    "net_mask_shape",
    "unet_n_depth",
    "unet_kernel_size",
    "unet_n_filter_base",
    "unet_n_conv_per_depth",
    "unet_activation",
    "unet_last_activation",
    "unet_batch_norm",
    "unet_dropout",
    "unet_prefix",
    "train_shape_completion",
    "train_completion_crop",
    "train_patch_size",
    "train_dist_loss",
    "train_epochs",
    "train_steps_per_epoch",
    "train_learning_rate",
    "train_batch_size",
    "train_tensorboard",
    "train_reduce_lr",
    "train_checkpoint",
)


def random_weights(keras_model, seed):
    """Weights that make every layer matter: scaled kernels, biases and batch-norm statistics away from 0 and 1."""
    random = np.random.default_rng(seed)
    for variable in keras_model.weights:
        kind, shape = variable.path.split("/")[-1], tuple(variable.shape)
        if kind == "kernel":
            fan_in = np.prod(shape[:-1])
            value = random.normal(0, np.sqrt(1.7 / fan_in), shape)
            if variable.path.split("/")[0] == "dist":
                value = value * 4
        elif kind == "gamma":
            value = random.uniform(0.6, 1.5, shape) * random.choice([-1, 1], shape, p=[0.2, 0.8])
        elif kind == "moving_variance":
            value = random.uniform(0.3, 2.0, shape)
        elif kind == "bias" and variable.path.split("/")[0] == "dist":
            value = random.uniform(2, 6, shape)
        elif kind in ("bias", "beta", "moving_mean"):
            value = random.normal(0, 0.3, shape)
        else:
            raise RuntimeError(f"weight {variable.path} has an unexpected kind")
        variable.assign(value.astype(np.float32))


def train(model, config, n_images=24, epochs=12, steps=40):
    """Train on drawn cells; good enough to find most of them, not more."""
    images, masks, classes = [], [], []
    for seed in range(n_images):
        image, labels, kinds = draw_cells((96, 96), 24, seed=1000 + seed)
        images.append(stain(image, seed) if config.n_channel_in == 3 else image)
        masks.append(labels)
        classes.append({index + 1: int(kind) + 1 for index, kind in enumerate(kinds)})
    axis = (0, 1)
    images = [normalize(image, 1, 99.8, axis=axis) for image in images]
    split = n_images - 4
    arguments = {"validation_data": (images[split:], masks[split:])}
    if config.n_classes is not None:
        arguments = {"validation_data": (images[split:], masks[split:], classes[split:]), "classes": classes[:split]}
    keras.utils.set_random_seed(7)
    model.train(images[:split], masks[:split], epochs=epochs, steps_per_epoch=steps, seed=7, **arguments)


def as_compact(path):
    """Rewrite a weight file with HDF5's newer groups, which halves it: the same tree, names, attributes and values.

    Only the bookkeeping of the container changes. The folder `cells` keeps the file exactly as Keras wrote it.
    """

    def copy(source, target):
        for key, value in source.attrs.items():
            target.attrs[key] = value
        for key, value in source.items():
            if isinstance(value, h5py.Group):
                copy(value, target.create_group(key))
            else:
                target.create_dataset(key, data=value[()])

    written = path.rename(path.with_suffix(".written"))
    with h5py.File(written, "r") as source, h5py.File(path, "w", libver="latest") as target:
        copy(source, target)
    written.unlink()


def as_keras2(path):
    """Rewrite a weight file the way Keras 2.2 with h5py 2 laid it out: ':0' names, fixed-length bytes attributes."""
    with h5py.File(path, "r") as new:
        layer_names = list(new.attrs["layer_names"])
        layers = []
        for name in layer_names:
            group = new[name]
            layers.append([(weight, group[weight][()]) for weight in group.attrs["weight_names"]])
    with h5py.File(path, "w") as old:
        old.attrs["layer_names"] = np.array([name.encode() for name in layer_names])
        old.attrs["backend"] = np.bytes_(b"tensorflow")
        old.attrs["keras_version"] = np.bytes_(b"2.2.4")
        for name, weights in zip(layer_names, layers, strict=True):
            group = old.create_group(name)
            group.attrs["weight_names"] = np.array([f"{weight}:0".encode() for weight, _ in weights])
            for weight, value in weights:
                group.create_dataset(f"{weight}:0", data=value)


def as_nested(path):
    """Rewrite a weight file as `model.save` of Keras 2 did: everything under model_weights, an optimizer beside it."""
    as_keras2(path)
    with h5py.File(path, "a") as file:
        names = list(file)
        nested = file.create_group("model_weights")
        for name in names:
            file.move(name, f"model_weights/{name}")
        for key in ("layer_names", "backend", "keras_version"):
            nested.attrs[key] = file.attrs[key]
        del file.attrs["layer_names"]
        file.attrs["model_config"] = b'{"class_name": "Model", "config": {}}'
        optimizer = file.create_group("optimizer_weights")
        optimizer.create_dataset("training/Adam/iterations:0", data=np.int64(12))


def save_folder(model, name, folder, thresholds):
    """Write the model folder at its final place, with the files that this name is meant to show."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    config = json.loads((model.logdir / "config.json").read_text())
    weights = folder / ("weights_last.h5" if name == "old_config" else "weights_best.h5")
    model.keras_model.save_weights(str(weights))
    if name == "old_config":
        config = {key: config[key] for key in OLD_CONFIG_KEYS}
    if name in ("old_keras2", "old_nested"):
        as_keras2(weights) if name == "old_keras2" else as_nested(weights)
    if name != "cells":
        as_compact(weights)
    (folder / "config.json").write_text(json.dumps(config))
    if thresholds is not None:
        (folder / "thresholds.json").write_text(json.dumps(thresholds))


def pad_input(model, image):
    """The padding of `predict`: at the end of each axis, reflect, to a multiple of what the network divides by."""
    div_by = model._axes_div_by("YX")
    padding = [(0, -size % divisor) for size, divisor in zip(image.shape[:2], div_by, strict=True)]
    padded = np.pad(image, padding + [(0, 0)] * (image.ndim - 2), mode="reflect")
    return padded.reshape((1, *padded.shape[:2], model.config.n_channel_in)), div_by


def record_network(model, name, image):
    """networks/<name>.npz, after checking that `predict` is the crop of the raw outputs that we store."""
    padded, div_by = pad_input(model, image)
    outputs = [output[0] for output in model.keras_model.predict(padded, verbose=0)]
    prob, dist = outputs[0][..., 0], outputs[1]
    predicted = model.predict(image)
    rows, columns = predicted[0].shape
    assert np.array_equal(predicted[0], prob[:rows, :columns])
    assert np.array_equal(predicted[1], np.maximum(1e-3, dist[:rows, :columns]))
    arrays = {
        "image": image,
        "net_prob": prob,
        "net_dist": dist,
        "div_by": np.array(div_by),
        "prob_thresh": np.float64(model.thresholds.prob),
        "nms_thresh": np.float64(model.thresholds.nms),
    }
    if model.config.n_classes is not None:
        arrays["net_prob_class"] = outputs[2]
    if name != "pool3":  # the original measures with an image of 128 px, which a pool of 3 does not divide
        arrays["tile_overlap"] = np.array(model._axes_tile_overlap("YX"))
    save(GOLDEN / "networks" / f"{name}.npz", arrays)
    print(
        f"    prob {prob.min():.3f}..{prob.max():.3f}, dist {dist.min():.2f}..{dist.max():.2f}, "
        f"overlap {arrays.get('tile_overlap')}"
    )


def record_instances(
    model, name, case, image=None, raw=None, prob_thresh=None, scale=None, n_tiles=None, candidates=True, dense=False
):
    """instances/<case>.npz: predict_sparse and predict_instances with these arguments."""
    arrays = {"model": np.array(name)}
    if raw is not None:
        arrays["raw"] = raw
        image = normalize(raw, 1, 99.8)
    else:
        arrays["image"] = image
    arrays["prob_thresh"] = np.float64(model.thresholds.prob if prob_thresh is None else prob_thresh)
    arrays["nms_thresh"] = np.float64(model.thresholds.nms)

    def per_axis(values):
        return None if values is None else tuple(values) + (1,) * (image.ndim - 2)

    arguments = {
        "prob_thresh": prob_thresh,
        "scale": per_axis(scale),
        "n_tiles": per_axis(n_tiles),
        "show_tile_progress": False,
    }
    network_input = image
    if scale is not None:
        arrays["scale"] = np.array(scale, np.float64)
        network_input = scipy.ndimage.zoom(image, per_axis(scale), order=1)
        arrays["zoomed"] = network_input
    if n_tiles is not None:
        arrays["n_tiles"] = np.array(n_tiles)
    if candidates:
        found = model.predict_sparse(network_input, prob_thresh=prob_thresh)
        arrays.update(cand_prob=found[0], cand_dist=found[1], cand_points=found[-1])
        if model.config.n_classes is not None:
            arrays["cand_prob_class"] = found[2]
        # Ties have no defined order in the original (an unstable sort), so a fixture must not hold any.
        assert len(np.unique(found[0])) == len(found[0]), f"{case}: tied probabilities, change its seed"
    labels, details = model.predict_instances(image, **arguments)
    if n_tiles is not None:
        untiled = model.predict_instances(image)[0]
        arrays["untiled_same"] = np.array(np.array_equal(labels, untiled))
    arrays.update(labels=labels, **dict(details.items()))
    if dense:
        labels, details = model.predict_instances(image, sparse=False, **arguments)
        arrays.update(
            dense_labels=labels,
            dense_points=details["points"],
            dense_prob=details["prob"],
            dense_coord=details["coord"],
        )
    save(GOLDEN / "instances" / f"{case}.npz", arrays)
    counts = f"{len(arrays['cand_prob'])} candidates, " if candidates else ""
    dense_count = f", dense {len(arrays['dense_prob'])}" if dense else ""
    print(f"    {case}: {counts}{len(arrays['prob'])} cells{dense_count}")


def record_random_model(name, scratch):
    """One folder with random weights, and what its network answers."""
    arguments, shape = RANDOM_MODELS[name]
    keras.backend.clear_session()
    if name == "offset_names":
        # Keras numbers automatic layer names per process: a file saved late in a session starts at conv2d_7.
        for _ in range(7):
            keras.layers.Conv2D(1, 1, name=None)
        for _ in range(12):
            keras.layers.BatchNormalization()
            keras.layers.MaxPooling2D()
    config = Config2D(**arguments, train_tensorboard=False)
    model = StarDist2D(config, name=name, basedir=scratch)
    seed = sum(map(ord, name))
    random_weights(model.keras_model, seed)
    thresholds = {"prob": 0.45, "nms": 0.35}
    if name in ("depth0", "old_nested"):
        thresholds = None
    elif name == "rays11":
        thresholds = {"prob": 1.5, "nms": 0.35}
    save_folder(model, name, GOLDEN / "models" / name, thresholds)
    # Read it back as a user would: what we record is what the ORIGINAL makes of the folder that we commit.
    model = StarDist2D(None, name=name, basedir=GOLDEN / "models")
    record_network(model, name, texture(shape, seed))
    if name == "old_config":
        # Added last, because the original refuses a key that it does not know; cellrt warns and goes on.
        path = GOLDEN / "models" / name / "config.json"
        config = json.loads(path.read_text())
        config["train_written_by_a_later_version"] = 3
        path.write_text(json.dumps(config))


def record_trained_model(name, scratch):
    """One folder trained here (unless it is there), what its network answers, and the instances in several images."""
    arguments, shape = TRAINED_MODELS[name]
    keras.backend.clear_session()
    config = Config2D(
        **arguments,
        train_patch_size=(64, 64),
        train_batch_size=8,
        train_learning_rate=2e-3,
        train_tensorboard=False,
        train_foreground_only=0.9,
    )
    if not (GOLDEN / "models" / name).exists():
        keras.utils.set_random_seed(7)
        model = StarDist2D(config, name=name, basedir=scratch)
        train(model, config)
        save_folder(model, name, GOLDEN / "models" / name, {"prob": 0.4, "nms": 0.4})
    model = StarDist2D(None, name=name, basedir=GOLDEN / "models")

    def scene(size, count, seed):
        image = draw_cells(size[:2], count, seed)[0]
        return stain(image, seed) if config.n_channel_in == 3 else image

    def stored(image, dtype, top):
        return np.clip(np.rint(image * top), 0, np.iinfo(dtype).max).astype(dtype)

    image = normalize(scene(shape, 12, 51), 1, 99.8, axis=(0, 1))
    record_network(model, name, image)
    record_instances(model, name, name, image=image, dense=True)
    if name == "cells":
        record_instances(
            model,
            name,
            "cells__scale_0.5",
            image=normalize(scene((90, 76), 10, 3), 1, 99.8),
            scale=(0.5, 0.5),
            dense=True,
        )
        record_instances(model, name, "cells__scale_1.5", image=image[:38, :45], scale=(1.5, 1.5), candidates=False)
        record_instances(model, name, "cells__scale_0.7_1.3", image=image, scale=(0.7, 1.3), candidates=False)
        record_instances(model, name, "cells__low_thresh", image=image, prob_thresh=0.08)
        record_instances(model, name, "cells__nothing", image=image, prob_thresh=0.99)
        raw = stored(scene((187, 142), 60, 8), np.uint16, 3000)
        record_instances(model, name, "cells__tiles", raw=raw, n_tiles=(3, 2), candidates=False)
        record_instances(model, name, "cells__tiny", image=image[:9, :7], dense=True)
    else:
        record_instances(model, name, f"{name}__raw", raw=stored(scene((62, 67), 15, 9), np.uint8, 190), dense=True)


# ---- low level ----------------------------------------------------------------------------------------------


def candidates_around(n_objects, per_object, n_rays, size, radius, roughness, seed):
    """Candidate stars as a network gives them: several per object, near its centre, each a little different.

    Returns points (n, 2) int64, dist (n, n_rays) float32, prob (n,) float32, sorted by descending prob, distinct.
    """
    random = np.random.default_rng(seed)
    centres = random.uniform(-0.03 * size, 1.03 * size, (n_objects, 2))
    angles = np.linspace(0, 2 * np.pi, n_rays, endpoint=False)
    points, dist = [], []
    for centre in centres:
        base = random.uniform(*radius)
        shape = 1 + sum(
            random.normal(0, roughness / k) * np.cos(k * angles + random.uniform(0, 6.3)) for k in (1, 2, 3, 5)
        )
        for _ in range(per_object):
            offset = random.normal(0, 0.25 * base, 2)
            points.append(np.rint(centre + offset))
            wobble = 1 + random.normal(0, 0.06, n_rays)
            dist.append(np.maximum(1e-3, base * shape * wobble - 0.3 * np.hypot(*offset)))
    points, dist = np.array(points, np.int64), np.array(dist, np.float32)
    order = random.permutation(len(points))
    prob = np.linspace(0.97, 0.31, len(points)).astype(np.float32)
    assert len(np.unique(prob)) == len(prob)
    return points[order], dist[order], prob


# n_objects, per_object, n_rays, size, radius, roughness, seed
NMS_SETS = {
    "nms_smooth32": (22, 14, 32, 150, (7, 14), 0.06, 1),
    "nms_rough16": (24, 14, 16, 110, (5, 15), 0.35, 2),
    "nms_small8": (70, 6, 8, 60, (0.4, 3.5), 0.15, 3),
    "nms_large64": (14, 9, 64, 900, (40, 160), 0.1, 4),
    "nms_odd11": (26, 13, 11, 120, (5, 12), 0.15, 5),
    "nms_triangles": (26, 10, 3, 100, (5, 14), 0.2, 6),
}
NMS_THRESHOLDS = (0.01, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def record_suppression():
    """kernels/nms_*.npz: keep flags of the original's non-maximum suppression; one set with an outlier of 500 px."""
    for name, arguments in NMS_SETS.items():
        points, dist, prob = candidates_around(*arguments)
        if name == "nms_smooth32":
            dist[len(dist) // 2] = 500.0
        keep = np.stack(
            [
                non_maximum_suppression_inds(dist, points, scores=prob, thresh=thresh, verbose=0)
                for thresh in NMS_THRESHOLDS
            ]
        )
        save(
            GOLDEN / "kernels" / f"{name}.npz",
            {
                "points": points,
                "dist": dist,
                "prob": prob,
                "thresholds": np.array(NMS_THRESHOLDS),
                "keep": keep.astype(bool),
            },
        )
        print(f"    {name}: {len(prob)} candidates, kept {keep.sum(1).tolist()}")


def record_painting():
    """kernels/paint_*.npz: stars painted into label images, and the fill rule on awkward polygons."""
    for name, n_rays, roughness, seed in (
        ("paint_smooth32", 32, 0.06, 11),
        ("paint_rough16", 16, 0.45, 12),
        ("paint_odd5", 5, 0.2, 13),
    ):
        points, dist, prob = candidates_around(40, 1, n_rays, 90, (2, 14), roughness, seed)
        prob[5:9] = prob[5]  # ties: the later index wins, by a stable sort
        points[0], points[1] = (-6, 40), (200, 300)
        shape = (80, 97)
        save(
            GOLDEN / "kernels" / f"{name}.npz",
            {
                "points": points,
                "dist": dist,
                "prob": prob,
                "shape": np.array(shape),
                "coord": dist_to_coord(dist, points),
                "labels": polygons_to_label(dist, points, shape=shape, prob=prob),
                "scale": np.array((2.0, 0.7)),
                "scaled_points": points * np.array((2.0, 0.7)),
                "scaled_coord": dist_to_coord(dist, points * np.array((2.0, 0.7)), scale_dist=(2.0, 0.7)),
                "scaled_labels": polygons_to_label(
                    dist, points * np.array((2.0, 0.7)), shape=(150, 70), prob=prob, scale_dist=(2.0, 0.7)
                ),
            },
        )
    random = np.random.default_rng(14)
    # Corners on pixel centres and halves: edges run exactly through centres, and shapes cross themselves.
    coord = (random.integers(-6, 60, (60, 2, 7)) / 2).astype(np.float32)
    coord[0] = [[3, 3, 9, 9, 9, 3, 3], [3, 9, 9, 3, 3, 3, 3]]
    coord[1] = 12
    coord[2] = [[20, 20, 20, 20, 20, 20, 20], [1, 2, 5, 9, 5, 2, 1]]
    each = np.stack([polygons_to_label_coord(polygon[None], shape=(24, 26)) > 0 for polygon in coord])
    save(GOLDEN / "kernels" / "paint_corners.npz", {"coord": coord, "shape": np.array((24, 26)), "inside": each})


def record_normalisation():
    """kernels/normalize_*.npz: csbdeep's normalize on integer and float images, jointly and per channel."""
    random = np.random.default_rng(21)
    smooth = draw_cells((25, 22), 6, 22, radius=(3, 5))[0]
    rgb = stain(smooth, 23)
    images = {
        "u8": np.clip(smooth * 200, 0, 255).astype(np.uint8),
        "u16": np.clip(smooth * 30000 + random.normal(0, 40, smooth.shape), 0, 65535).astype(np.uint16),
        "f32": (smooth * 7 - 2).astype(np.float32),
        "f64": smooth.astype(np.float64) * 1e3 + random.normal(0, 1, smooth.shape),
        "i16": (smooth * 900 - 300).astype(np.int16),
        "rgb_u8": np.clip(rgb * 255, 0, 255).astype(np.uint8),
        "rgb_f32": rgb,
        "constant_u8": np.full((9, 11), 7, np.uint8),
        "two_values_u16": random.integers(0, 2, (16, 9)).astype(np.uint16) * 4000,
    }
    for name, image in images.items():
        ranges = ((1, 99.8), (3, 99.8), (0, 100), (2, 60.5))
        arrays = {"image": image, "ranges": np.array(ranges[: 2 if image.ndim == 3 else 4])}
        for index, (low, high) in enumerate(arrays["ranges"]):
            for axes, axis in (("joint", None),) + ((("per_channel", (0, 1)),) if image.ndim == 3 else ()):
                arrays[f"{axes}_{index}"] = normalize(image, low, high, axis=axis)
                arrays[f"{axes}_{index}_percentiles"] = np.stack(
                    [np.percentile(image, low, axis=axis), np.percentile(image, high, axis=axis)]
                )
        save(GOLDEN / "kernels" / f"normalize_{name}.npz", arrays)


def record_activations():
    """kernels/activations.npz: every Keras activation that works value by value, by its name in config.json."""
    x = np.concatenate([np.linspace(-8, 8, 129), [-30, -1e-4, 1e-4, 30]]).astype(np.float32)
    names = sorted(
        {name for name in dir(keras.activations) if name.islower() and not name.startswith("_")}
        | {"swish", "hard_swish"}
    )
    arrays = {}
    for name in names:
        if name in ("deserialize", "serialize", "get", "glu", "threshold"):
            continue  # glu halves the channels and threshold needs arguments: neither can stand in a config.json
        one, other = np.stack([x, x + 1], 1), np.stack([x, x - 1], 1)
        values, check = (np.asarray(keras.activations.get(name)(tensorflow.constant(pair))) for pair in (one, other))
        # softmax and its kin mix the channels: not a value-by-value function, so not a table.
        if np.array_equal(values[:, 0], check[:, 0]):
            arrays[name] = values[:, 0]
    save(GOLDEN / "kernels" / "activations.npz", dict(x=x, **arrays))
    print("    activations:", ", ".join(sorted(arrays)))


def record_zoom():
    """kernels/zoom.npz: scipy.ndimage.zoom(order=1), which StarDist's `scale` uses."""
    image = texture((17, 23), 31)
    arrays = {"image": image, "rgb": texture((9, 11, 3), 32)}
    for index, scale in enumerate(((0.5, 0.5), (1.5, 1.5), (0.7, 1.3), (2.0, 1.0), (0.1, 3.3))):
        arrays[f"scale_{index}"] = np.array(scale)
        arrays[f"zoomed_{index}"] = scipy.ndimage.zoom(image, scale, order=1)
        arrays[f"rgb_zoomed_{index}"] = scipy.ndimage.zoom(arrays["rgb"], (*scale, 1), order=1)
    save(GOLDEN / "kernels" / "zoom.npz", arrays)


def record_targets():
    """kernels/targets.npz: what star_dist and edt_prob (with scipy) make of labels."""
    noise = np.random.default_rng(41).integers(0, 4, (9, 8)).repeat(4, 0).repeat(3, 1)
    arrays = {"whole_prob": edt_prob(np.full((7, 12), 3))}
    for name, labels in (("cells", draw_cells((44, 51), 9, 42)[1]), ("noise", noise.astype(np.int32))):
        arrays[f"{name}_labels"] = labels
        arrays[f"{name}_prob"] = edt_prob(labels)
        for n_rays, *grid in ((32, 1, 1), (32, 2, 2), (11, 1, 3), (12, 3, 2)):
            key = f"{name}_dist_{n_rays}_{grid[0]}_{grid[1]}"
            arrays[key] = star_dist(labels, n_rays, grid=tuple(grid), mode="cpp")
    save(GOLDEN / "kernels" / "targets.npz", arrays)


# ---- the run ------------------------------------------------------------------------------------------------


def save(path, arrays):
    """Write one compressed npz."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **arrays)


def record_versions(folder):
    """versions.json of a folder of recordings: the original and what it runs on."""
    versions = dict(
        stardist=stardist.__version__,
        csbdeep=csbdeep.__version__,
        tensorflow=tensorflow.__version__,
        keras=keras.__version__,
        numpy=np.__version__,
        scipy=scipy.__version__,
        h5py=h5py.__version__,
        **{"scikit-image": skimage.__version__},
        python=sys.version.split()[0],
    )
    folder.mkdir(exist_ok=True)
    (folder / "versions.json").write_text(json.dumps(versions, indent=2, sort_keys=True) + "\n")


def main():
    """Record the models named on the command line, or everything."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="models, or 'kernels'; all when none is named")
    names = parser.parse_args().names or ["kernels", *RANDOM_MODELS, *TRAINED_MODELS]
    record_versions(GOLDEN)
    with tempfile.TemporaryDirectory() as scratch:
        for name in names:
            print(name, flush=True)
            if name == "kernels":
                record_suppression()
                record_painting()
                record_normalisation()
                record_activations()
                record_zoom()
                record_targets()
            elif name in RANDOM_MODELS:
                record_random_model(name, scratch)
            else:
                record_trained_model(name, scratch)


if __name__ == "__main__":
    main()
