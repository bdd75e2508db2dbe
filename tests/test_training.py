"""The training package: targets against slow twins, StarDist folders, reproducible and resumable runs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import reference_star_targets
from scipy.ndimage import gaussian_filter

torch = pytest.importorskip("torch")
pytest.importorskip("h5py")
pytest.importorskip("skimage")

from cellrt_export import nets  # noqa: E402
from cellrt_export.training import data, evaluate, loop  # noqa: E402
from cellrt_export.training.augment import random_patch  # noqa: E402
from cellrt_export.training.targets import edt_probability, star_distances  # noqa: E402

GOLDEN = Path(__file__).parent / "golden" / "stardist"
TINY = nets.StarConfig2D(n_rays=8, unet_n_depth=1, unet_n_filter_base=4, net_conv_after_unet=8)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def discs(rng: np.random.Generator, shape: tuple[int, int], count: int) -> np.ndarray:
    """Label image of overlapping discs, some cut by the frame."""
    labels = np.zeros(shape, np.int32)
    y, x = np.indices(shape)
    for label in range(1, count + 1):
        cy, cx, radius = *rng.uniform(0, shape), rng.uniform(1, 9)
        labels[(y - cy) ** 2 + (x - cx) ** 2 <= radius**2] = label
    return labels


def sample(seed: int, shape: tuple[int, int] = (64, 72), cluster: int = 0) -> data.Sample:
    rng = np.random.default_rng(seed)
    labels = discs(rng, shape, 12)
    image = ((labels > 0) + rng.normal(0, 0.1, shape)).astype(np.float32)
    return data.Sample(name=f"set/{seed}", image=image, labels=labels, cluster=cluster)


# targets


@pytest.mark.parametrize(("grid", "n_rays"), [((1, 1), 8), ((2, 2), 32), ((1, 2), 5)])
def test_star_distances_equal_the_slow_twin(grid, n_rays):
    labels = discs(np.random.default_rng(n_rays), (31, 38), 9)
    expected = reference_star_targets.star_distances_2d(labels, n_rays, grid)
    for kind in (np.uint16, np.int64):
        assert np.array_equal(star_distances(labels.astype(kind), n_rays=n_rays, grid=grid), expected)


@pytest.mark.parametrize("grid", [(1, 1), (2, 2)])
def test_edt_probability_equals_the_slow_twin(grid):
    labels = discs(np.random.default_rng(3), (30, 37), 8)
    expected = reference_star_targets.object_probability_2d(labels[:: grid[0], :: grid[1]])
    for kind in (np.uint16, np.int64):
        assert np.array_equal(edt_probability(labels.astype(kind), grid=grid), expected)


def test_targets_of_one_object_and_of_none():
    assert edt_probability(np.full((9, 9), 3), grid=(1, 1))[4, 4] == pytest.approx(1)
    empty = np.zeros((6, 5), int)
    assert np.array_equal(edt_probability(empty, grid=(2, 2)), np.zeros((3, 3)))
    assert np.array_equal(star_distances(empty, n_rays=4, grid=(2, 2)), np.zeros((4, 3, 3)))


# augmentation


def test_patches_keep_ids_and_alignment():
    source = sample(4)
    bright = [[], []]  # intensity outside and inside of objects
    for seed in range(12):
        patch, labels = random_patch(np.random.default_rng(seed), source.image, source.labels, size=48, diameter=9)
        again, _ = random_patch(np.random.default_rng(seed), source.image, source.labels, size=48, diameter=9)
        assert patch.dtype == np.float32
        assert patch.shape == labels.shape == (48, 48)
        assert np.array_equal(patch, again)
        assert set(np.unique(labels)) <= set(np.unique(source.labels))
        for inside in (0, 1):
            bright[inside].append(patch[(labels > 0) == inside].mean())
    assert np.all(np.greater(bright[1], bright[0]))


# networks and StarDist folders


@pytest.mark.parametrize(
    "name",
    [
        "cells",
        "cells_grid1",
        "channels2",
        "depth0",
        "depth1",
        "depth3_grid2",
        "rays11",
        "old_nested",
        "old_config",
    ],
)
def test_network_answers_as_stardist(name):
    case, folder = GOLDEN / "networks" / f"{name}.npz", GOLDEN / "models" / name
    config = nets.StarConfig2D.from_dict(json.loads((folder / "config.json").read_text()))
    net = nets.StarNet2D(config).eval()
    (weights,) = folder.glob("*.h5")
    nets.load_keras_h5(net, weights)
    with np.load(case) as golden:
        image = golden["image"].reshape(*golden["image"].shape[:2], -1).transpose(2, 0, 1)
        padding = [(0, -size % multiple) for size, multiple in zip(image.shape[1:], net.config.multiple, strict=True)]
        padded = np.pad(image, [(0, 0), *padding], mode="reflect")
        with torch.no_grad():
            maps = net(torch.from_numpy(padded)[None])[0].numpy()
        np.testing.assert_allclose(maps[0], golden["net_prob"], atol=1e-5)
        np.testing.assert_allclose(maps[1:].transpose(1, 2, 0), golden["net_dist"], atol=1e-3)


def test_folder_round_trip(tmp_path):
    torch.manual_seed(0)
    net = nets.StarNet2D(TINY).eval()
    nets.save_keras_folder(net, tmp_path, thresholds={"prob": 0.5, "nms": 0.4}, training={"train_batch_size": 8})
    again = nets.load_keras_folder(tmp_path)
    assert again.config == TINY
    image = torch.rand(1, 1, 16, 24)
    assert torch.equal(net(image), again(image))
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["n_channel_out"], config["train_batch_size"], config["grid"]) == (9, 8, [2, 2])
    assert json.loads((tmp_path / "thresholds.json").read_text()) == {"prob": 0.5, "nms": 0.4}


def test_foreign_configurations_are_refused(tmp_path):
    with pytest.raises(ValueError, match="expected unet_batch_norm = False, got True"):
        nets.StarConfig2D.from_dict({"unet_batch_norm": True})
    with pytest.raises(ValueError, match="expected a grid of powers of 2"):
        nets.StarNet2D(nets.StarConfig2D(grid=(3, 1)))
    nets.save_keras_h5(nets.StarNet2D(TINY), tmp_path / "weights.h5")
    wider = nets.StarConfig2D(n_rays=8, unet_n_depth=1, unet_n_filter_base=5, net_conv_after_unet=8)
    with pytest.raises(ValueError, match="another configuration"):
        nets.load_keras_h5(nets.StarNet2D(wider), tmp_path / "weights.h5")
    deeper = nets.StarConfig2D(n_rays=8, unet_n_depth=2, unet_n_filter_base=4, net_conv_after_unet=8)
    with pytest.raises(ValueError, match="layers with weights, got"):
        nets.load_keras_h5(nets.StarNet2D(deeper), tmp_path / "weights.h5")


# data and evaluation


def test_neighbouring_crops_share_a_cluster_and_a_side_of_the_split():
    rng = np.random.default_rng(0)
    fields = [gaussian_filter(rng.normal(size=(96, 128)), 4) + k for k in range(6)]
    images = [half for field in fields for half in (field[:, :64], field[:, 64:])]
    numbers = data.clusters(images)
    assert numbers == [k // 2 for k in range(12)]
    samples = [sample(k, cluster=number) for k, number in enumerate(numbers)]
    training, validation = data.split(samples, fraction=0.4, seed=0)
    assert len(training) + len(validation) == 12
    assert len(validation) == 4
    assert not {s.cluster for s in training} & {s.cluster for s in validation}


def test_perfect_maps_score_one():
    labels = np.zeros((80, 96), np.int32)
    y, x = np.indices(labels.shape)
    for label, (cy, cx) in enumerate([(20, 20), (20, 42), (55, 60)], start=1):
        labels[(y - cy) ** 2 + (x - cx) ** 2 <= 100] = label
    maps = np.concatenate([edt_probability(labels, grid=(2, 2))[None], star_distances(labels, n_rays=32, grid=(2, 2))])
    decoded = evaluate.decode(maps, labels.shape, grid=(2, 2), prob=0.5, nms=0.4)
    iou = evaluate.overlaps(labels, decoded.labels)
    assert iou.shape == (3, 3)
    assert evaluate.counts(iou, 0.8).tolist() == [3, 0, 0]
    assert evaluate.counts(iou[:, :2], 0.8).tolist() == [2, 0, 1]


# the loop


def test_seeded_steps_reproduce_the_same_losses():
    plan = loop.Plan(steps=100, seed=5, batch_size=1, patch_size=32, warmup=10)
    sets = [[sample(1), sample(2)], [sample(3)]]
    (_, first), (_, second) = loop.train(TINY, sets, plan), loop.train(TINY, sets, plan)
    assert first == second
    assert np.mean(first[-20:]) < np.mean(first[:20])


def test_resumed_run_equals_an_uninterrupted_one(tmp_path):
    plan = loop.Plan(steps=9, seed=1, batch_size=2, patch_size=32, checkpoint_every=4)
    sets = [[sample(1), sample(2)]]
    whole, losses = loop.train(TINY, sets, plan)

    class Killed(Exception):
        pass

    def kill(net: nets.StarNet2D, step: int) -> None:
        raise Killed

    with pytest.raises(Killed):
        loop.train(TINY, sets, plan, checkpoint=tmp_path / "last.pt", at_checkpoint=kill)
    resumed, rest = loop.train(TINY, sets, plan, checkpoint=tmp_path / "last.pt")
    assert rest == losses[4:]
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_training_starts_from_given_weights():
    torch.manual_seed(11)
    initial = nets.StarNet2D(TINY)
    still = loop.Plan(steps=1, batch_size=1, patch_size=32, learning_rate=0.0)
    net, _ = loop.train(TINY, [[sample(1)]], still, initial=initial)
    for a, b in zip(net.parameters(), initial.parameters(), strict=True):
        assert torch.equal(a, b)
