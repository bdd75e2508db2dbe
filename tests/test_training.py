"""The training package: targets, samples, reproducible and resumable runs, fine-tuning, the command line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import reference_star_targets
from scipy.ndimage import gaussian_filter

torch = pytest.importorskip("torch")
pytest.importorskip("h5py")

import cellrt  # noqa: E402
from cellrt import metrics  # noqa: E402
from cellrt.tile import cellpose_padding  # noqa: E402
from cellrt_export.cpnet import CPNet  # noqa: E402
from cellrt_export.star_net import StarNet2D  # noqa: E402
from cellrt_export.training import commands, data, flow, loop, run, star, synthetic  # noqa: E402
from cellrt_export.training.augment import Augmentation, random_patch  # noqa: E402
from cellrt_export.training.sampling import Sampler  # noqa: E402
from cellrt_export.training.targets import edt_probability, star_distances  # noqa: E402

FLUORESCENCE = Augmentation(kind="fluorescence")
STAR = star.StarKind(
    n_rays=8, depth=1, n_filters=4, n_features=8, batch_size=2, patch_size=32, augmentation=FLUORESCENCE
)
FLOW = flow.FlowKind(
    widths=(4, 8),
    diameter=12.0,
    batch_size=2,
    patch_size=32,
    augmentation=Augmentation(kind="contrast", to_diameter=12.0),
)


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
    pixels = ((labels > 0) + rng.normal(0, 0.1, shape)).astype(np.float32)[None]
    return data.Sample(f"set/{seed}", pixels, labels, lambda pixels: pixels, cluster)


def write_set(folder: Path, n: int, *, seed: int = 0, shape: tuple[int, int] = (64, 72)) -> tuple[Path, Path]:
    """Images and masks of discs as a user has them; gives both folders."""
    tifffile = pytest.importorskip("tifffile")
    images, masks = folder / "images", folder / "masks"
    for path in (images, masks):
        path.mkdir(parents=True)
    for k in range(n):
        one = sample(100 * seed + k, shape)
        pixels = (1000 * np.clip(one.pixels[0], 0, None)).astype(np.uint16)
        tifffile.imwrite(images / f"{k}.tif", pixels)
        tifffile.imwrite(masks / f"{k}.tif", one.labels.astype(np.uint16))
    return images, masks


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


@pytest.mark.parametrize("kind", ["fluorescence", "contrast", "stain"])
def test_patches_keep_ids_and_alignment(kind):
    source = sample(4)
    if kind == "stain":  # dark objects, three channels
        pixels = np.repeat(np.clip(230 - 150 * source.pixels, 0, 255), 3, 0).astype(np.uint8)
        source = replace(source, pixels=pixels, normalise=lambda pixels: pixels / np.float32(255))
    contrast = []  # of objects against the ground
    for seed in range(12):
        patch, labels = random_patch(np.random.default_rng(seed), source, Augmentation(kind=kind), size=48)
        again, _ = random_patch(np.random.default_rng(seed), source, Augmentation(kind=kind), size=48)
        assert patch.dtype == np.float32
        assert labels.dtype == np.int32
        assert patch.shape == (len(source.pixels), 48, 48)
        assert np.array_equal(patch, again)
        assert np.isfinite(patch).all()
        assert set(np.unique(labels)) <= set(np.unique(source.labels))
        contrast.append(patch[:, labels > 0].mean() - patch[:, labels == 0].mean())
    assert np.all(np.array(contrast) * (-1 if kind == "stain" else 1) > 0)


def test_patches_are_scaled_to_a_diameter():
    labels = np.zeros((200, 200), np.int32)
    y, x = np.indices(labels.shape)
    for k, (cy, cx) in enumerate([(60, 60), (60, 140), (140, 60), (140, 140)], start=1):
        labels[(y - cy) ** 2 + (x - cx) ** 2 <= 20**2] = k
    source = data.Sample("set/0", (labels > 0)[None].astype(np.float32), labels, lambda pixels: pixels)
    assert source.diameter == pytest.approx(40, rel=0.02)
    spec = Augmentation(kind="contrast", to_diameter=10.0, zoom=(1.0, 1.0))
    for seed in range(5):
        _, cut = random_patch(np.random.default_rng(seed), source, spec, size=40)
        whole = [np.count_nonzero(cut == k) for k in range(1, 5)]
        assert np.sqrt(4 / np.pi * max(whole)) == pytest.approx(10, rel=0.25)


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


def test_masks_are_found_by_name_and_corrected_ones_come_first(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    labels = discs(np.random.default_rng(0), (40, 50), 5)
    for name in ("plain", "labelled", "corrected", "alone"):
        tifffile.imwrite(tmp_path / f"{name}.tif", labels.astype(np.uint16))
    masks = tmp_path / "masks"
    masks.mkdir()
    tifffile.imwrite(masks / "plain.tif", labels)
    for name in ("labelled_labels", "corrected_labels"):
        tifffile.imwrite(masks / f"{name}.tif", labels)
    seg = {"masks": (labels * (labels != 2)).astype(np.uint16), "outlines": labels, "filename": "corrected.tif"}
    np.save(tmp_path / "corrected_seg.npy", seg, allow_pickle=True)
    samples = data.read_set(tmp_path, masks, n_channels=1, normalise=STAR.normalise)
    found = {s.name.split("/")[1]: s.labels for s in samples}
    assert sorted(found) == ["corrected", "labelled", "plain"]
    assert np.array_equal(found["plain"], labels)
    assert not (found["corrected"] == 2).any()


def test_unusable_sets_are_refused(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    with pytest.raises(ValueError, match="expected a folder"):
        data.read_set(tmp_path / "no", tmp_path, n_channels=1, normalise=STAR.normalise)
    with pytest.raises(ValueError, match=r"expected masks in .* they are found by name"):
        data.read_set(tmp_path, tmp_path, n_channels=1, normalise=STAR.normalise)
    images, masks = write_set(tmp_path / "set", 1)
    tifffile.imwrite(masks / "0.tif", np.zeros((9, 9), np.uint16))
    with pytest.raises(ValueError, match=r"expected masks of \(64, 72\) pixels in .*, got \(9, 9\)"):
        data.read_set(images, masks, n_channels=1, normalise=STAR.normalise)
    tifffile.imwrite(masks / "0.tif", np.zeros((64, 72), np.float32))
    with pytest.raises(ValueError, match="expected labels"):
        data.read_set(images, masks, n_channels=1, normalise=STAR.normalise)


@pytest.mark.parametrize("draw", [synthetic.nuclei, synthetic.cells])
def test_drawn_images_are_the_same_for_a_seed_and_their_objects_are_whole(draw):
    samples, again = (draw(3, 3, lambda pixels: pixels) for _ in range(2))
    for one, other in zip(samples, again, strict=True):
        assert np.array_equal(one.pixels, other.pixels)
        assert np.array_equal(one.labels, other.labels)
        areas = np.bincount(one.labels.ravel())[1:]
        assert (areas >= 12).all()  # numbered without gaps
    assert len({s.labels.max() for s in samples}) > 1


def test_sets_and_clusters_are_drawn_by_their_weights():
    sets = [[sample(k, cluster=int(k > 0)) for k in range(5)], [sample(9)]]
    sampler = Sampler(sets, [3, 1])
    rng = np.random.default_rng(0)
    names = [sampler.draw(rng).name for _ in range(4000)]
    share = {name: names.count(name) / len(names) for name in set(names)}
    assert share["set/9"] == pytest.approx(0.25, abs=0.03)
    assert share["set/0"] == pytest.approx(0.75 / 3, abs=0.03)  # alone, against the root of 4
    assert share["set/1"] == pytest.approx(0.75 / 6, abs=0.03)


def test_perfect_maps_score_one():
    labels = np.zeros((80, 96), np.int32)
    y, x = np.indices(labels.shape)
    for label, (cy, cx) in enumerate([(20, 20), (20, 42), (55, 60)], start=1):
        labels[(y - cy) ** 2 + (x - cx) ** 2 <= 100] = label

    class Perfect(StarNet2D):
        def forward(self, image):
            prob = edt_probability(labels, grid=(2, 2))[None]
            maps = np.concatenate([prob, star_distances(labels, n_rays=32, grid=(2, 2))])
            return torch.from_numpy(maps)[None]

    one = data.Sample("set/0", labels[None].astype(np.float32), labels, lambda pixels: pixels)
    (score,) = star.evaluate(Perfect(replace(STAR, n_rays=32).config), [one], probs=(0.5,), nms=(0.4,))
    assert score.precision[:7] == (1.0,) * 7


def test_perfect_flows_score_one():
    labels = discs(np.random.default_rng(1), (90, 100), 14)
    labels[np.isin(labels, np.flatnonzero(np.bincount(labels.ravel()) < 60))] = 0

    class Perfect(CPNet):
        def forward(self, image):
            inside = np.where(labels > 0, 5, -5).astype(np.float32)
            maps = torch.from_numpy(np.concatenate([5 * flow.true_flow(labels), inside[None]]))[None]
            (top, bottom), (left, right) = (cellpose_padding(side, smallest=0) for side in labels.shape)
            assert image.shape[2:] == (top + 90 + bottom, left + 100 + right)
            return torch.nn.functional.pad(maps, (left, right, top, bottom)), maps

    one = data.Sample("set/0", labels[None].astype(np.float32), labels, lambda pixels: pixels)
    (score,) = flow.evaluate(Perfect(1, (4, 8)), [one], scale=lambda _: 1.0, cellprobs=(0.0,), flow_thresholds=(0.4,))
    assert score.precision[:5] == (1.0,) * 5


# the loop


def task_of(kind):
    samples = [sample(1), sample(2)]
    return kind.task(Sampler([samples, [sample(3)]], [1, 1]), samples)


@pytest.mark.parametrize("kind", [STAR, FLOW], ids=["star", "flow"])
def test_seeded_steps_reproduce_the_same_losses(kind):
    plan = loop.Plan(steps=60, seed=5, warmup=6)
    (_, first), (_, second) = loop.train(task_of(kind), plan), loop.train(task_of(kind), plan)
    assert first == second
    assert np.mean(first[-20:]) < np.mean(first[:20])


@pytest.mark.parametrize("kind", [STAR, FLOW], ids=["star", "flow"])
def test_killed_run_resumes_to_the_same_numbers(kind, tmp_path):
    plan = loop.Plan(steps=9, seed=1, checkpoint_every=4)
    whole, losses = loop.train(task_of(kind), plan)

    class Killed(Exception):
        pass

    def kill(net, step: int) -> float:
        if step > 4:
            raise Killed
        return 0.0

    with pytest.raises(Killed):
        loop.train(task_of(kind), plan, checkpoint=tmp_path / "last.pt", at_checkpoint=kill)
    resumed, rest = loop.train(task_of(kind), plan, checkpoint=tmp_path / "last.pt")
    assert rest == losses[4:]
    for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_training_stops_when_nothing_gets_better():
    plan = loop.Plan(steps=50, checkpoint_every=2, patience=3)
    _, losses = loop.train(task_of(STAR), plan, at_checkpoint=lambda net, step: -float(step))
    assert len(losses) == 2 * (1 + 3)


@pytest.mark.parametrize("kind", [STAR, FLOW], ids=["star", "flow"])
def test_training_starts_from_given_weights_and_leaves_statistics_alone(kind):
    torch.manual_seed(11)
    start = task_of(kind).network()
    plan = loop.Plan(steps=2, learning_rate=0.0, freeze_norms=True)
    net, _ = loop.train(task_of(replace(kind, start=start)), plan)
    for a, b in zip(net.state_dict().values(), start.state_dict().values(), strict=True):
        assert torch.equal(a, b)


# whole runs


@pytest.mark.parametrize("kind", ["star", "flow"])
def test_a_model_is_trained_exported_and_fine_tuned_from_the_command_line(kind, tmp_path, capsys):
    images, masks = map(str, write_set(tmp_path / "discs", 6))
    small = {"star": ["--filters", "4", "--features", "8", "--depth", "1"], "flow": ["--widths", "4", "8"]}[kind]
    common = [kind, "--images", images, "--masks", masks, "--batch", "2", "--patch", "32", "--threads", "1"]
    first = [*common, *small, "-o", str(tmp_path / "first"), "--steps", "30", "--every", "10", "--validation", "0.4"]
    first += ["--drawn", "2", "--licence", "CC0-1.0", "--precision", "fp16"]
    assert commands.main(first) == 0
    told = capsys.readouterr().out
    assert "discs: AP" in told
    split = json.loads((tmp_path / "first" / "split.json").read_text())
    assert len(split["validation"]) == 2
    assert len(split["training"]) == 4
    metrics = json.loads((tmp_path / "first" / "metrics.json").read_text())
    assert metrics["torch_against_onnx"] < 1e-2
    model = cellrt.load(str(tmp_path / "first" / "first.onnx"))
    assert model.manifest.head.kind == kind
    assert model.manifest.source.licence == "CC0-1.0"
    assert model.selftest().passed
    model.segment(sample(50).pixels[0])

    tune = [*common, "-o", str(tmp_path / "second"), "--steps", "4", "--start", str(tmp_path / "first" / "first.onnx")]
    assert commands.main(tune) == 0
    tuned = cellrt.load(str(tmp_path / "second" / "second.onnx"))
    assert tuned.manifest.head.kind == kind

    assert commands.main([*first[:-2], "--seed", "1"]) == 1
    assert "got other plan; give the same ones to go on" in capsys.readouterr().err


def test_fine_tuning_a_bundled_model_on_five_images_helps_on_others_of_their_kind(tmp_path):
    """Nuclei that are darker than their ground, which the model has never seen."""
    tifffile = pytest.importorskip("tifffile")
    drawn = [s for s in synthetic.nuclei(7, 14, STAR.normalise) if s.labels.any() and s.diameter > 14][:10]
    dark = [(np.iinfo(np.uint16).max - s.pixels[0], s.labels) for s in drawn]
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for k, (pixels, labels) in enumerate(dark[:5]):
        tifffile.imwrite(tmp_path / "images" / f"{k}.tif", pixels)
        tifffile.imwrite(tmp_path / "masks" / f"{k}.tif", labels.astype(np.uint16))
    folders = ["--images", str(tmp_path / "images"), "--masks", str(tmp_path / "masks"), "-o", str(tmp_path / "dark")]
    options = ["--augmentation", "contrast", "--steps", "40", "--rate", "0.001", "--batch", "4", "--patch", "64"]
    assert commands.main(["star", "--start", "nuclei", *folders, *options, "--threads", "1"]) == 0

    def precision(model):
        pairs = [(labels, model.segment(pixels).labels) for pixels, labels in dark[5:]]
        return metrics.matching_dataset(pairs, threshold=0.5).accuracy

    before, after = (precision(cellrt.load(m)) for m in ("nuclei", str(tmp_path / "dark" / "dark.onnx")))
    assert after > before + 0.2


def test_wrong_commands_are_refused(tmp_path, capsys):
    folder = str(tmp_path)
    assert commands.main(["star", "--images", folder, folder, "--masks", folder, "-o", folder]) == 2
    assert "expected a --masks for each --images" in capsys.readouterr().err
    assert commands.main(["star", "--images", folder, "--masks", folder, "-o", str(tmp_path / "run")]) == 1
    assert "expected masks in" in capsys.readouterr().err


def test_a_run_of_another_kind_is_no_start(tmp_path, capsys):
    images, masks = map(str, write_set(tmp_path / "discs", 2))
    common = ["--images", images, "--masks", masks, "-o", str(tmp_path / "run")]
    assert commands.main(["flow", *common, "--start", "nuclei"]) == 1
    assert "got" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--patch", "100"], 1, "expected --patch as a multiple of 16"),
        (["--batch", "0"], 2, "expected a whole number above 0"),
        (["--steps", "-3"], 2, "expected a whole number above 0"),
    ],
)
def test_numbers_that_cannot_be_are_refused(tmp_path, capsys, options, code, said):
    images, masks = map(str, write_set(tmp_path / "discs", 2))
    common = ["star", "--images", images, "--masks", masks, "-o", str(tmp_path / "run"), "--validation", "0"]
    assert commands.main([*common, *options]) == code
    assert said in capsys.readouterr().err


def test_images_with_nan_are_named_before_training(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    images, masks = write_set(tmp_path / "discs", 2)
    tifffile.imwrite(images / "1.tif", np.full((64, 72), np.nan, np.float32))
    with pytest.raises(ValueError, match=r"1\.tif: expected"):
        data.read_set(images, masks, n_channels=1, normalise=STAR.normalise)


def test_a_checkpoint_that_cannot_be_written_leaves_the_last_one(tmp_path, monkeypatch):
    loop.save(tmp_path / "last.pt", {"step": 1})

    def full(state, path):
        Path(path).write_bytes(b"half")
        raise RuntimeError("no space left")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(ValueError, match="check permissions and disk space"):
        loop.save(tmp_path / "last.pt", {"step": 2})
    assert torch.load(tmp_path / "last.pt", weights_only=True) == {"step": 1}
    assert not (tmp_path / "last.part").exists()


def test_run_needs_images_to_train_on(tmp_path):
    images, masks = write_set(tmp_path / "discs", 2)
    everything = run.ImageSet(images=images, masks=masks, validation=1.0)
    with pytest.raises(ValueError, match="lower --validation"):
        run.run(STAR, [everything], loop.Plan(steps=2), tmp_path / "run")
