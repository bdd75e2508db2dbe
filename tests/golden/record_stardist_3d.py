"""Record what the original StarDist 0.9.2 answers in three dimensions, as small fixtures for the tests.

Run in an environment of its own, never in the project's (see README.md beside this file):

    OMP_NUM_THREADS=1 python tests/golden/record_stardist_3d.py          # everything, 15 minutes with training
    OMP_NUM_THREADS=1 python tests/golden/record_stardist_3d.py resnet   # only the models named

Volumes are drawn here from formulas and seeds, weights are random or trained here on such volumes. The files hold the
ORIGINAL's outputs only: this script does not import cellrt, and it does not judge.
"""

import argparse
import json
import shutil
import tempfile

import keras
import numpy as np
import scipy.ndimage
from csbdeep.utils import normalize
from record_stardist import GOLDEN as GOLDEN_2D
from record_stardist import as_compact, random_weights, record_versions, save
from stardist.models import Config3D, StarDist3D
from stardist.rays3d import Rays_Cartesian, Rays_GoldenSpiral, Rays_Octo

GOLDEN = GOLDEN_2D.with_name("stardist_3d")
ANISOTROPY = (2, 1, 1)


def draw_cells(shape, count, seed, radius=(4.0, 7.0)):
    """Draw bright ellipsoids on a sloped, noisy background; planes are twice as far apart as rows.

    Returns (volume (Z, Y, X) float32 about 0..1, labels (Z, Y, X) int32, kind (n,) int: 0 round, 1 elongated).
    """
    random = np.random.default_rng(seed)
    grid = np.stack(np.mgrid[: shape[0], : shape[1], : shape[2]].astype(np.float64), -1) * ANISOTROPY
    labels = np.zeros(shape, np.int32)
    volume = 0.1 + 0.1 * grid[..., 2] / shape[2]
    kinds = []
    for _ in range(50 * count):
        if len(kinds) == count:
            break
        centre = random.uniform(0, 1, 3) * shape * ANISOTROPY
        kind = int(random.integers(2))
        longest = random.uniform(*radius)
        shortest = longest * (random.uniform(0.85, 1.0) if kind == 0 else random.uniform(0.5, 0.6))
        direction = random.normal(0, 1, 3)
        direction /= np.linalg.norm(direction)
        offset = grid - centre
        along = offset @ direction
        across = (offset**2).sum(-1) - along**2
        level = (along / longest) ** 2 + across / shortest**2
        inside = level < 1
        if inside.sum() < 40 or (labels[inside] > 0).mean() > 0.05:
            continue
        kinds.append(kind)
        labels[inside & (labels == 0)] = len(kinds)
        volume += random.uniform(0.5, 0.8) / (1 + np.exp(np.minimum(6 * (level - 1), 60)))
    volume += random.normal(0, 0.03, shape)
    return volume.astype(np.float32), labels, np.array(kinds, np.int64)


def stain(volume, seed):
    """Turn a (Z, Y, X) volume into (Z, Y, X, 2): two different mixtures, so that a channel swap shows."""
    random = np.random.default_rng(seed)
    channels = np.stack([0.9 - 0.7 * volume, 0.2 + 0.4 * volume], -1)
    return (channels + random.normal(0, 0.02, channels.shape)).astype(np.float32)


def unet(**others):
    """Arguments of Config3D: a small U-Net."""
    small = {"unet_n_depth": 1, "unet_n_filter_base": 5, "net_conv_after_unet": 12}
    return {"grid": (1, 2, 2), "anisotropy": ANISOTROPY, "train_patch_size": (12, 32, 32)} | small | others


MODELS = {
    "unet": unet(rays=Rays_GoldenSpiral(32, anisotropy=ANISOTROPY)),
    "resnet": {
        "grid": (1, 2, 2),
        "anisotropy": ANISOTROPY,
        "rays": Rays_GoldenSpiral(24, anisotropy=ANISOTROPY),
        "backbone": "resnet",
        "resnet_n_blocks": 2,
        "resnet_n_filter_base": 4,
        "resnet_batch_norm": True,
        "net_conv_after_resnet": 12,
        "train_patch_size": (12, 32, 32),
    },
    "classes": unet(
        rays=Rays_GoldenSpiral(16), anisotropy=None, n_classes=2, unet_batch_norm=True, unet_pool=(1, 2, 2)
    ),
    "channels2": unet(rays=Rays_Octo(n_level=2), n_channel_in=2, grid=(2, 2, 1), unet_pool=(1, 2, 2)),
    "cartesian": unet(rays=Rays_Cartesian(8, 5)),
}

# A residual network would take an hour to learn as much: its weights are random.
EPOCHS = {"unet": 18, "resnet": 0, "classes": 6, "channels2": 6, "cartesian": 24}
PROB_THRESH = {"unet": 0.4, "resnet": 0.57, "classes": 0.07, "channels2": 0.2, "cartesian": 0.3}


def scene(config, shape, count, seed, top=190):
    """A volume of cells as a microscope stores it, uint8; two channels if the network has two."""
    volume = draw_cells(shape, count, seed)[0]
    volume = stain(volume, seed) if config.n_channel_in == 2 else volume
    return np.clip(np.rint(volume * top), 0, 255).astype(np.uint8)


def train(model, config, *, epochs, n_volumes=12, steps=30):
    """Train on drawn cells; good enough to find most of them, not more."""
    volumes, masks, classes = [], [], []
    for seed in range(n_volumes):
        volume, labels, kinds = draw_cells((24, 64, 64), 45, seed=1000 + seed)
        volumes.append(normalize(stain(volume, seed) if config.n_channel_in == 2 else volume, 1, 99.8))
        masks.append(labels)
        classes.append({index + 1: int(kind) + 1 for index, kind in enumerate(kinds)})
    split = n_volumes - 2
    arguments = {"validation_data": (volumes[split:], masks[split:])}
    if config.n_classes is not None:
        arguments = {"validation_data": (*arguments["validation_data"], classes[split:]), "classes": classes[:split]}
    for variable in model.keras_model.weights:  # Keras's own start needs a thousand steps to leave a constant answer
        layer, kind = variable.path.split("/")
        shape = tuple(variable.shape)
        if kind == "kernel" and layer not in ("prob", "dist"):
            variable.assign(np.random.normal(0, np.sqrt(2 / np.prod(shape[:-1])), shape))
        elif kind == "bias" and layer in ("prob", "dist"):
            variable.assign(np.full(shape, -3 if layer == "prob" else 4))
    model.train(volumes[:split], masks[:split], epochs=epochs, steps_per_epoch=steps, seed=7, **arguments)


def trained_model(name, scratch):
    """The model of the folder that is committed, made first if it is not there."""
    folder = GOLDEN / "models" / name
    keras.backend.clear_session()
    if not folder.exists():
        keras.utils.set_random_seed(7)
        config = Config3D(
            **MODELS[name],
            train_batch_size=2,
            train_learning_rate=2e-3,
            train_tensorboard=False,
            train_foreground_only=0.9,
        )
        model = StarDist3D(config, name=name, basedir=scratch)
        if EPOCHS[name]:
            train(model, config, epochs=EPOCHS[name])
        else:
            random_weights(model.keras_model, seed=7)
        folder.mkdir(parents=True)
        shutil.copy(model.logdir / "config.json", folder)
        model.keras_model.save_weights(str(folder / "weights_best.h5"))
        as_compact(folder / "weights_best.h5")
        (folder / "thresholds.json").write_text(json.dumps({"prob": PROB_THRESH[name], "nms": 0.3}))
    # Read it back as a user would: what we record is what the ORIGINAL makes of the folder that we commit.
    return StarDist3D(None, name=name, basedir=GOLDEN / "models")


def record(model, name, case, raw, *, maps=False, scale=None, n_tiles=None, **arguments):
    """cases/<case>.npz: predict, predict_sparse and predict_instances of one volume with these arguments."""
    per_channel = (1,) * (raw.ndim - 3)
    volume = normalize(raw, 1, 99.8)
    thresholds = {
        "prob_thresh": arguments.get("prob_thresh", model.thresholds.prob),
        "nms_thresh": arguments.get("nms_thresh", model.thresholds.nms),
    }
    arrays = {
        "model": np.array(name),
        "raw": raw,
        "tile_overlap": np.array(model._axes_tile_overlap("ZYX")),
    }
    arrays |= {key: np.float64(value) for key, value in thresholds.items()}
    given = dict(arguments)
    if scale is not None:
        arrays["scale"] = np.array(scale, np.float64)
        given["scale"] = (*scale, *per_channel)
    if n_tiles is not None:
        arrays["n_tiles"] = np.array(n_tiles)
        given["n_tiles"] = (*n_tiles, *per_channel)
    if "overlap_label" in arguments:
        arrays["overlap_label"] = np.array(arguments["overlap_label"])
    if maps:
        found = model.predict(volume)
        arrays.update(norm=volume, prob=found[0], dist=found[1])
        if model.config.n_classes is not None:
            arrays["prob_class"] = found[2]
    zoomed = volume if scale is None else scipy.ndimage.zoom(volume, given["scale"], order=1)
    found = model.predict_sparse(zoomed, prob_thresh=thresholds["prob_thresh"])
    # Ties have no defined order in the original (an unstable sort), so a fixture must not hold any.
    assert len(np.unique(found[0])) == len(found[0]), f"{case}: tied probabilities, change its seed"
    if n_tiles is None and scale is None:
        arrays.update(cand_prob=found[0], cand_dist=found[1], cand_points=found[-1].astype(np.int64))
        if model.config.n_classes is not None:
            arrays["cand_prob_class"] = found[2]
    labels, details = model.predict_instances(volume, show_tile_progress=False, **given)
    if n_tiles is not None:
        arrays["untiled_same"] = np.array(np.array_equal(labels, model.predict_instances(volume)[0]))
    arrays |= {"labels": labels} | {f"sparse_{key}": details[key] for key in ("points", "prob", "dist")}
    arrays |= {key: details[key] for key in ("rays_vertices", "rays_faces")}
    if model.config.n_classes is not None:
        arrays.update(class_prob=details["class_prob"], class_id=details["class_id"])
    if maps:
        labels, details = model.predict_instances(volume, sparse=False, **given)
        arrays |= {"dense_labels": labels} | {f"dense_{key}": details[key] for key in ("points", "prob", "dist")}
    save(GOLDEN / "cases" / f"{case}.npz", arrays)
    n_painted = np.count_nonzero(np.unique(arrays["labels"]) > 0)
    size = (GOLDEN / "cases" / f"{case}.npz").stat().st_size
    print(f"    {case}: {len(found[0])} candidates, {len(arrays['sparse_prob'])} cells, {n_painted} seen, {size} bytes")


def record_model(name, scratch):
    """One folder, made here unless it is there, and what it answers to several volumes."""
    model = trained_model(name, scratch)
    config = model.config
    record(model, name, name, scene(config, (20, 48, 40), 16, 51))
    depth = 9 if config.grid[0] == 1 else 13  # the border takes four samples
    record(model, name, f"{name}__odd", scene(config, (depth, 23, 21), 4, 52), maps=True)
    if name != "unet":
        return
    raw = scene(config, (17, 38, 42), 18, 53)
    record(model, name, "unet__scale", raw, scale=(1, 0.75, 0.75))
    record(model, name, "unet__overlap", raw, prob_thresh=0.3, nms_thresh=0.6, overlap_label=-3)
    record(model, name, "unet__hidden", raw, prob_thresh=0.1, nms_thresh=0.95)
    record(model, name, "unet__tiles", scene(config, (12, 116, 38), 40, 54), n_tiles=(1, 2, 1))
    # two samples at each side are border: nothing is left of three planes
    record(model, name, "unet__thin", raw[6:9])


def main():
    """Record the models named on the command line, or all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="models; all when none is named")
    names = parser.parse_args().names or MODELS
    record_versions(GOLDEN)
    with tempfile.TemporaryDirectory() as scratch:
        for name in names:
            print(name, flush=True)
            record_model(name, scratch)


if __name__ == "__main__":
    main()
