"""Parity with Cellpose 3.1.1.3 and 4.2.1.1: what the originals recorded, held against what cellrt computes.

Network outputs agree to 1e-4: two libraries add the same products in different orders. From recorded maps on, nothing
is added in another order, so where pixels end, the flows of masks and the masks themselves must be equal to the bit;
errors of masks are means, which the original of Cellpose 4 takes in another order, and agree to 1e-12.
"""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import GOLDEN_CELLPOSE, REFERENCE_CELLPOSE, cellpose_reference_file

import cellrt
from cellrt import kernels
from cellrt.heads import flow
from cellrt.image import as_image, cellpose_channels
from cellrt.manifest import FlowSpec, Normalize99Spec
from cellrt.normalize99 import normalize99
from cellrt.resize import resize_nearest

REFERENCE_CASES = (
    "v3_synth2ch",
    "v3_stardist_img2d_crop",
    "v3_synth_noresample_nointerp",
    "v3_synth_augment_tilenorm",
)
CASES = [path.stem for path in sorted((GOLDEN_CELLPOSE / "cases").glob("*.npz"))]
WHOLE_CASES = [path.stem for path in sorted((GOLDEN_CELLPOSE / "dynamics_v4").glob("*.npz"))]
ESTIMATED = [name for name in CASES if name.startswith("size_model")]
EVERY_CASE = [*CASES, *REFERENCE_CASES]
# These differ from others in what is made of the same maps.
SAME_MAPS = ("all_flows", "cautious", "few_steps", "generous", "giant_kept", "large_only", "nothing", "strict_flows")
EVERY_WHOLE_CASE = [*WHOLE_CASES, *REFERENCE_CASES]


def golden_kernels(pattern: str) -> list[str]:
    return [path.stem for path in sorted((GOLDEN_CELLPOSE / "kernels").glob(f"{pattern}.npz"))]


def kernel_fixture(name: str) -> dict[str, np.ndarray]:
    return dict(np.load(GOLDEN_CELLPOSE / "kernels" / f"{name}.npz"))


def load(name: str) -> dict[str, np.ndarray]:
    """A case; what the large recordings have from inside the original has an axis for planes more."""
    if name not in REFERENCE_CASES:
        return dict(np.load(GOLDEN_CELLPOSE / "cases" / f"{name}.npz"))
    case = dict(np.load(cellpose_reference_file(f"{name}.npz")))
    for key in ("normalized", "net_out_netres"):
        case[key] = case[key][0]
    return case


def load_v4(name: str) -> dict[str, np.ndarray]:
    """What Cellpose 4 makes of the maps of a case."""
    if name not in REFERENCE_CASES:
        return dict(np.load(GOLDEN_CELLPOSE / "dynamics_v4" / f"{name}.npz"))
    recorded = np.load(cellpose_reference_file("v4_dynamics_on_v3_flows.npz"))
    names = {"masks": "masks", "p_final": "p", "flows_from_masks": "mu", "flow_errors": "err"}
    if f"{name}_masks" not in recorded:
        pytest.skip(f"{name} was not recorded with Cellpose 4")
    return {ours: recorded[f"{name}_{theirs}"] for ours, theirs in names.items()}


def model_file(name: str) -> Path:
    if name in REFERENCE_CASES:
        return cellpose_reference_file("models", "cpnet_synth")
    return GOLDEN_CELLPOSE / "models" / "cells"


def maps_of(case: dict[str, np.ndarray]) -> np.ndarray:
    """The maps that masks were made of, (3, y, x)."""
    if "dP" in case:
        return np.concatenate([case["dP"], case["cellprob"][np.newaxis]])
    return np.ascontiguousarray(case["net_out_netres"].transpose(2, 0, 1))


def spec(dynamics: str = "v3") -> FlowSpec:
    return FlowSpec(dynamics=dynamics, diam_mean=17, diam_labels=17, tile=224)


def normalization(parameters: dict) -> Normalize99Spec | None:
    """Our name of what the original was asked for."""
    options = parameters.get("normalize", True)
    if options is False:
        return None
    options = {} if options is True else options
    low, high = options.get("percentile", (1.0, 99.0))
    lowhigh = options.get("lowhigh")
    return Normalize99Spec(
        low=low,
        high=high,
        lowhigh=None if lowhigh is None else tuple(float(value) for value in np.ravel(lowhigh)),
        smooth_radius=options.get("smooth_radius", 0.0),
        sharpen_radius=options.get("sharpen_radius", 0.0),
        tile_blocksize=options.get("tile_norm_blocksize", 0),
        invert=options.get("invert", parameters.get("invert", False)),
    )


def prediction(parameters: dict) -> dict:
    """Arguments of our `predict`."""
    same = {key: parameters[key] for key in ("resample", "augment", "tile_overlap") if key in parameters}
    diameter = parameters.get("diameter")
    channels = parameters.get("channels")
    return same | {
        "diameter": None if diameter == "size model" else diameter,
        "channels": None if channels is None else tuple(channels),
        "normalize": normalization(parameters),
    }


def decoding(parameters: dict) -> dict:
    """Arguments of our `decode`."""
    keys = ("flow_threshold", "cellprob_threshold", "niter", "min_size", "max_size_fraction")
    same = {key: parameters[key] for key in keys if key in parameters}
    return same | {"interpolate": parameters.get("interp", True)}


def own_diameter(model: cellrt.FlowModel, parameters: dict) -> dict:
    """`prediction`, where None means the diameter of the training, as it does without a size model."""
    arguments = prediction(parameters)
    if parameters.get("diameter") is None:
        arguments["diameter"] = model.head.diam_labels
    return arguments


def average_precision(found: np.ndarray, truth: np.ndarray, least_iou: float) -> float:
    """True positives over true positives, false positives and false negatives; 1 where there is nothing."""
    found_labels, truth_labels = np.unique(found[found > 0]), np.unique(truth[truth > 0])
    matched = 0
    for label in truth_labels:
        cell = truth == label
        candidates, overlaps = np.unique(found[cell], return_counts=True)
        matched += any(
            overlap / (cell.sum() + (found == candidate).sum() - overlap) >= least_iou
            for candidate, overlap in zip(candidates, overlaps, strict=True)
            if candidate > 0
        )
    wrong = len(found_labels) + len(truth_labels) - 2 * matched
    return matched / (matched + wrong) if matched + wrong else 1.0


def assert_same_values(values: np.ndarray, recorded: np.ndarray) -> None:
    """Equal but for rounding: the original has the rank of a percentile and its filters in single precision."""
    assert np.abs(values - recorded).max() <= 1e-5 * max(1, np.abs(recorded).max())


@pytest.fixture(scope="module")
def opened(exported_cellpose: Callable[[Path], Path]) -> Callable[[Path], cellrt.FlowModel]:
    """Open the model of a Cellpose file once."""
    models: dict[Path, cellrt.FlowModel] = {}

    def open_model(source: Path) -> cellrt.FlowModel:
        if source not in models:
            models[source] = cellrt.load(exported_cellpose(source))
        return models[source]

    return open_model


def test_the_measure_of_precision():
    truth = np.zeros((10, 30), int)
    truth[:, :10], truth[:, 10:20] = 1, 2
    found = np.zeros_like(truth)
    found[:, :10], found[:8, 10:20] = 7, 3
    assert average_precision(found, truth, 0.8) == 1.0
    assert average_precision(found, truth, 0.81) == 1 / 3
    assert average_precision(0 * truth, truth, 0.5) == 0.0
    assert average_precision(0 * truth, 0 * truth, 0.5) == 1.0


# ---- the network


@pytest.mark.parametrize("name", EVERY_WHOLE_CASE)
def test_network(name, opened):
    case = load(name)
    parameters = json.loads(str(case["params"]))
    model = opened(model_file(name))
    arguments = own_diameter(model, parameters) | {"normalize": None, "resample": False, "channels": None}
    maps = model.predict(case["normalized"], axes="YXC", **arguments)
    assert np.abs(maps.maps - case["net_out_netres"].transpose(2, 0, 1)).max() <= 1e-4
    assert np.abs(maps.style - case["style"]).max() <= 1e-5


def test_network_of_a_stack(opened):
    case = np.load(cellpose_reference_file("v3_stitch.npz"))
    model = opened(cellpose_reference_file("models", "cpnet_synth"))
    for image, net_out, style in zip(case["normalized"], case["net_out_netres"], case["style"], strict=True):
        plane = model.predict(image, axes="YXC", diameter=model.head.diam_mean, normalize=None)
        assert np.abs(plane.maps - net_out.transpose(2, 0, 1)).max() <= 1e-4
        assert np.abs(plane.style - style).max() <= 1e-5


@pytest.mark.parametrize("name", EVERY_CASE)
def test_normalization(name):
    case = load(name)
    parameters = json.loads(str(case["params"]))
    pixels = as_image(case["image"], None, None, n_channels=None)
    chosen = cellpose_channels(pixels, prediction(parameters)["channels"], n_channels=2, pair=True)
    options = normalization(parameters)
    normalized = chosen if options is None else normalize99(chosen, options, threads=1)
    recorded = case["normalized"].transpose(2, 0, 1) if "normalized" in case else case["sample_normalized"]
    if "normalized" not in case:
        flat = normalized.reshape(2, -1)
        normalized = flat[:, :: max(1, flat.shape[1] // 600)]
    assert_same_values(normalized, recorded)


@pytest.mark.parametrize("name", [name for name in CASES if name not in SAME_MAPS])
def test_maps(name, opened):
    case = load(name)
    parameters = json.loads(str(case["params"]))
    model = opened(model_file(name))
    arguments = own_diameter(model, parameters)
    if "diam" in case:
        arguments["diameter"] = float(case["diam"])
    maps = model.predict(case["image"], **arguments)
    if "sample" in case:
        ours, recorded = maps.maps.reshape(3, -1)[:, case["sample"]], case["sample_maps"]
    else:
        ours, recorded = maps.maps, maps_of(case)
    assert np.abs(ours - recorded).max() <= 1e-4 * max(1, np.abs(recorded).max())
    assert np.abs(maps.style - case["style"]).max() <= 1e-5
    if "niter" in case and "niter" not in parameters:
        assert maps.steps == int(case["niter"])


# ---- from recorded maps on


@pytest.mark.parametrize("name", EVERY_WHOLE_CASE)
@pytest.mark.parametrize("dynamics", ["v3", "v4"])
def test_where_pixels_end(name, dynamics):
    case = load(name)
    parameters = json.loads(str(case["params"]))
    interpolate = parameters.get("interp", True) or dynamics == "v4"
    maps, recorded = maps_of(case), (case if dynamics == "v3" else load_v4(name))["p_final"].T
    pixels, positions = kernels.flow_follow_2d(
        maps[:2],
        maps[2],
        cellprob_threshold=0.0,
        dynamics=dynamics,
        interpolate=interpolate,
        n_iter=int(case["niter"]),
        threads=2,
    )
    assert np.array_equal(pixels, np.flatnonzero(maps[2] > 0))
    assert np.array_equal(positions, recorded)


@pytest.mark.parametrize("name", EVERY_WHOLE_CASE)
@pytest.mark.parametrize("dynamics", ["v3", "v4"])
def test_masks_of_recorded_positions(name, dynamics):
    case = load(name)
    recorded = case if dynamics == "v3" else load_v4(name)
    if "masks_before_qc" not in recorded:
        pytest.skip("the masks before quality control were not recorded")
    cellprob = maps_of(case)[2]
    labels, n_labels = kernels.flow_masks_2d(
        np.flatnonzero(cellprob > 0),
        np.ascontiguousarray(recorded["p_final"].T),
        shape=cellprob.shape,
        max_size_fraction=0.4,
        threads=2,
    )
    assert n_labels == recorded["masks_before_qc"].max()
    assert np.array_equal(labels, recorded["masks_before_qc"])


@pytest.mark.parametrize("name", EVERY_WHOLE_CASE)
@pytest.mark.parametrize("dynamics", ["v3", "v4"])
def test_quality_control(name, dynamics):
    case = load(name)
    recorded = case if dynamics == "v3" else load_v4(name)
    if "masks_before_qc" not in recorded:
        pytest.skip("the masks before quality control were not recorded")
    labels = recorded["masks_before_qc"].astype(np.int32)
    n_labels = int(labels.max())
    network_flow = maps_of(case)[:2]
    flows = kernels.label_flows_2d(labels, n_labels=n_labels, dynamics=dynamics, n_iter=0, threads=2)
    assert np.array_equal(flows, recorded["flows_from_masks"])
    errors = kernels.flow_errors_2d(labels, network_flow, n_labels=n_labels, dynamics=dynamics, threads=2)
    assert np.abs(errors - recorded["flow_errors"]).max() <= 1e-12
    assert np.array_equal(errors > 0.4, recorded["flow_errors"] > 0.4)


@pytest.mark.parametrize("name", EVERY_WHOLE_CASE)
@pytest.mark.parametrize("dynamics", ["v3", "v4"])
@pytest.mark.parametrize("threads", [1, 2])
def test_head_from_recorded_maps(name, dynamics, threads):
    case = load(name)
    recorded = case if dynamics == "v3" else load_v4(name)
    parameters = json.loads(str(case["params"]))
    cells = flow.decode(
        maps_of(case),
        spec(dynamics),
        steps=int(case["niter"]),
        interpolate=parameters.get("interp", True) or dynamics == "v4",
        out_shape=recorded["masks"].shape,
        threads=threads,
    )
    assert np.array_equal(cells.labels, recorded["masks"])


# ---- end to end


@pytest.mark.parametrize("name", EVERY_CASE)
def test_end_to_end(name, opened):
    case = load(name)
    parameters = json.loads(str(case["params"]))
    model = opened(model_file(name))
    estimated = parameters.get("diameter") == "size model"
    arguments = prediction(parameters) if estimated else own_diameter(model, parameters)
    cells = model.segment(case["image"], **arguments, **decoding(parameters))
    assert len(cells) == case["masks"].max()
    assert average_precision(cells.labels, case["masks"], 0.9) == 1.0


@pytest.mark.parametrize("name", [*ESTIMATED, "v3_size_16", "v3_size_38"])
def test_diameter(name, opened):
    if name in ESTIMATED:
        case, file = load(name), GOLDEN_CELLPOSE / "models" / "cells"
        channels = tuple(json.loads(str(case["params"]))["channels"])
    else:
        case, channels = np.load(cellpose_reference_file(f"{name}.npz")), (1, 2)
        file = cellpose_reference_file("models", "cpnet_synth")
    model = opened(file)
    diameter, from_style = model.estimate_diameter(case["image"], channels=channels)
    assert from_style == pytest.approx(float(case["diam_style"]), rel=1e-3)
    assert diameter == pytest.approx(float(case["diam"]), rel=0.01)


def test_many_images_as_one_by_one(opened):
    model = opened(GOLDEN_CELLPOSE / "models" / "cells")
    cases = [load(name) for name in ("two_channels", "tiny", "augment_tall", "upscaled")]
    found = model.stream([case["image"] for case in cases], channels=(1, 2), diameter=17.0)
    for case, result in zip(cases, found, strict=True):
        alone = model.segment(case["image"], channels=(1, 2), diameter=17.0)
        assert average_precision(result.instances.labels, alone.labels, 0.9) == 1.0


# ---- one function each


@pytest.mark.parametrize("name", golden_kernels("v?_clean_*"))
@pytest.mark.parametrize("threads", [1, 2])
def test_cleaning(name, threads):
    fixture = kernel_fixture(name)
    for index, min_size in enumerate(fixture["min_sizes"]):
        recorded = fixture[f"cleaned_{index}"]
        cleaned, n_labels = kernels.clean_labels_2d(
            fixture["labels"], min_size=int(min_size), dynamics=name[:2], threads=threads
        )
        assert np.array_equal(cleaned, recorded), f"min_size {min_size}"
        assert n_labels == recorded.max()


@pytest.mark.parametrize("name", golden_kernels("v?_flows_*"))
@pytest.mark.parametrize("threads", [1, 2])
def test_flows_of_labels(name, threads):
    fixture = kernel_fixture(name)
    labels, n_labels = fixture["labels"], int(fixture["labels"].max())
    flows = kernels.label_flows_2d(labels, n_labels=n_labels, dynamics=name[:2], n_iter=0, threads=threads)
    assert np.array_equal(flows, fixture["flows"])
    errors = kernels.flow_errors_2d(labels, fixture["flow"], n_labels=n_labels, dynamics=name[:2], threads=threads)
    assert np.abs(errors - fixture["errors"]).max() <= 1e-12


@pytest.mark.parametrize("name", golden_kernels("v?_follow_*"))
@pytest.mark.parametrize("interpolate", [True, False], ids=["between_pixels", "from_pixel_to_pixel"])
def test_following(name, interpolate):
    fixture = kernel_fixture(name)
    if not interpolate and name.startswith("v4"):
        pytest.skip("Cellpose 4 only interpolates")
    pixels, positions = kernels.flow_follow_2d(
        fixture["flow"],
        fixture["cellprob"],
        cellprob_threshold=0.0,
        dynamics=name[:2],
        interpolate=interpolate,
        n_iter=int(fixture["n_iter"]),
        threads=2,
    )
    recorded = fixture["p_final" if interpolate else "p_final_nearest"].T
    assert np.array_equal(positions, recorded)
    if interpolate:
        labels, _ = kernels.flow_masks_2d(
            pixels,
            np.ascontiguousarray(recorded),
            shape=fixture["cellprob"].shape,
            max_size_fraction=0.4,
            threads=2,
        )
        assert np.array_equal(labels, fixture["masks"])


def test_resizing():
    fixture = kernel_fixture("resize")
    image, masks = fixture["image"], fixture["masks"]
    planes = np.ascontiguousarray(image.transpose(2, 0, 1))
    for index in range(sum(key.startswith("linear_") for key in fixture)):
        linear, nearest = fixture[f"linear_{index}"], fixture[f"nearest_{index}"]
        ours = kernels.resize_linear(planes, out_shape=nearest.shape, single_precision=False, threads=2)
        assert np.array_equal(ours, linear.transpose(2, 0, 1))
        assert np.array_equal(resize_nearest(masks, nearest.shape), nearest)
    # OpenCV has another routine for sides of one pixel, see below.
    one_row = kernels.resize_linear(
        np.ascontiguousarray(planes[:, :1]), out_shape=(5, 17), single_precision=False, threads=1
    )
    assert np.abs(one_row - fixture["one_row"].transpose(2, 0, 1)).max() <= 1e-5


@pytest.mark.parametrize("index", [2, 3, 4, "wide"])
def test_resizing_of_two_channels(index):
    fixture = kernel_fixture("resize")
    image = fixture["wide"] if index == "wide" else fixture["image"][..., :2]
    recorded = fixture["wide_pair" if index == "wide" else f"pair_{index}"].transpose(2, 0, 1)
    planes = np.ascontiguousarray(image.transpose(2, 0, 1))
    ours = kernels.resize_linear(planes, out_shape=recorded.shape[1:], single_precision=True, threads=2)
    assert np.abs(ours - recorded).max() <= 1e-7 * np.abs(recorded).max()


def normalizations() -> list[tuple[str, str, str]]:
    """Version, image and option of every recorded normalisation."""
    found = []
    for name in golden_kernels("v?_normalize"):
        found += [(name[:2], *key.split("__")) for key in kernel_fixture(name) if "__" in key]
    return found


@pytest.mark.parametrize(("version", "image", "option"), normalizations())
def test_normalization_options(version, image, option):
    fixture = kernel_fixture(f"{version}_normalize")
    recorded = fixture[f"{image}__{option}"].transpose(2, 0, 1)
    chosen = normalization({"normalize": json.loads(str(fixture["options"]))[option]})
    assert chosen is not None
    pixels = np.ascontiguousarray(fixture[image].transpose(2, 0, 1))
    ours = normalize99(pixels, Normalize99Spec(**(vars(chosen) | {"rules": version})), threads=2)
    assert_same_values(ours, recorded)


def test_the_large_recordings_are_all_used():
    if not REFERENCE_CELLPOSE.exists():
        pytest.skip("the recorded outputs of Cellpose are not here")
    known = {*REFERENCE_CASES, "v3_size_16", "v3_size_38", "v3_stitch", "v4_dynamics_on_v3_flows"}
    # Volumes, and the network of Cellpose 4, are for other tests.
    assert {path.stem for path in REFERENCE_CELLPOSE.glob("*.npz")} == known | {"v3_3d", "v4_tiny_forward"}
