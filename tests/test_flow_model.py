"""The doors of a flow model: what segment refuses, and that tiles, batches and repeated decoding change nothing."""

import flow_network
import numpy as np
import pytest

import cellrt
from cellrt.errors import CellrtError, ImageError, ModelError
from cellrt.manifest import Normalize99Spec

DIAMETER = flow_network.DIAMETER


@pytest.fixture(scope="module")
def model():
    return cellrt.load(flow_network.model(), providers=["cpu"], threads=1)


@pytest.mark.parametrize("dynamics", ["v3", "v4"])
def test_finds_every_blob(dynamics):
    model = cellrt.load(flow_network.model(dynamics=dynamics), providers=["cpu"])
    pixels, n_blobs = flow_network.image()
    cells = model.segment(pixels, diameter=DIAMETER)
    assert isinstance(model, cellrt.FlowModel)
    assert isinstance(model, cellrt.Model)
    assert len(cells) == n_blobs == cells.labels.max()
    assert cells.labels.shape == pixels.shape
    assert ((cells.scores > 0.5) & (cells.scores <= 1)).all()
    for outline, (y, x) in zip(cells.polygons(), cells.points, strict=True):
        assert (outline.min(axis=0) < (y, x)).all()
        assert ((y, x) < outline.max(axis=0)).all()


def test_nothing_depends_on_dtype_layout_or_threads(model):
    pixels, _ = flow_network.image()
    whole = np.clip(np.round(pixels * 10_000 + 5000), 0, 65535).astype(np.uint16)
    want = model.segment(whole, diameter=DIAMETER).labels
    other = cellrt.load(flow_network.model(), providers=["cpu"], threads=2)
    for image in (whole.astype(np.float32), np.asfortranarray(whole), whole[..., np.newaxis], whole.astype(">u2")):
        assert np.array_equal(other.segment(image, diameter=DIAMETER).labels, want)
    frozen = whole.copy()
    frozen.flags.writeable = False
    assert np.array_equal(model.segment(frozen, diameter=DIAMETER).labels, want)


def test_a_float_image_is_not_written_to(model):
    pixels, _ = flow_network.image()
    before = pixels.copy()
    model.segment(pixels[np.newaxis], axes="CYX", diameter=DIAMETER)
    model.segment(np.stack([pixels, pixels]), diameter=DIAMETER, normalize=None)
    assert np.array_equal(pixels, before)


def test_decoding_again_needs_no_network(model):
    pixels, n_blobs = flow_network.image()
    maps = model.predict(pixels, diameter=DIAMETER)
    assert maps.flow.shape == (2, *pixels.shape)
    assert maps.cellprob.shape == maps.shape == pixels.shape
    assert maps.style.shape == (flow_network.N_STYLE,)
    assert np.isclose(np.linalg.norm(maps.style), 1, atol=1e-6)
    assert (maps.diameter, maps.steps) == (DIAMETER, 200)
    assert len(model.decode(maps)) == n_blobs
    assert len(model.decode(maps, cellprob_threshold=6.0)) == 0
    assert len(model.decode(maps, min_size=10_000)) == 0
    assert len(model.decode(maps, max_size_fraction=1e-3)) == 0
    loose, strict = model.decode(maps, cellprob_threshold=-2.0), model.decode(maps, cellprob_threshold=3.0)
    assert (loose.labels > 0).sum() > (strict.labels > 0).sum() > 0


@pytest.mark.parametrize("diameter", [8.0, 32.0])
@pytest.mark.parametrize("resample", [True, False])
def test_objects_of_another_size(model, diameter, resample):
    pixels, n_blobs = flow_network.image((160, 200), diameter)
    cells = model.segment(pixels, diameter=diameter, resample=resample)
    assert len(cells) == n_blobs
    assert cells.labels.shape == pixels.shape
    maps = model.predict(pixels, diameter=diameter, resample=resample)
    scaled = (int(160 * DIAMETER / diameter), int(200 * DIAMETER / diameter))
    assert maps.maps.shape[1:] == (pixels.shape if resample else scaled)
    assert maps.steps == (int(200 * diameter / DIAMETER) if resample else 200)


@pytest.mark.parametrize("options", [{"tiles": "large"}, {"batch_size": 1}, {"tile_overlap": 0.5}, {"augment": True}])
def test_tiles_change_hardly_anything(model, options):
    pixels, n_blobs = flow_network.image((300, 420))
    want = model.segment(pixels, diameter=DIAMETER)
    got = model.segment(pixels, diameter=DIAMETER, **options)
    assert len(got) == len(want) == n_blobs
    assert np.mean((got.labels > 0) != (want.labels > 0)) < 1e-3


def test_large_tiles_are_cut_where_memory_ends(model, monkeypatch):
    from cellrt import flow_work

    pixels, n_blobs = flow_network.image((300, 420))
    want = model.segment(pixels, diameter=DIAMETER, tiles="large")
    monkeypatch.setattr(flow_work, "MAX_TILE_PIXELS", 40_000)
    got = model.segment(pixels, diameter=DIAMETER, tiles="large")
    assert len(got) == len(want) == n_blobs
    assert np.mean(got.labels != want.labels) < 1e-3


def test_a_size_model_estimates_in_two_steps():
    model = cellrt.load(flow_network.model(size_model=True), providers=["cpu"])
    pixels, n_blobs = flow_network.image((160, 200), 22.0)
    diameter, from_style = model.estimate_diameter(pixels)
    assert np.isclose(from_style, DIAMETER * np.exp(0.3), rtol=1e-6)  # weights of 0 leave the offset
    assert abs(diameter - 22) < 3
    assert model.predict(pixels).diameter == diameter
    assert len(model.segment(pixels)) == n_blobs
    with model.stream([pixels, pixels[::-1]]) as results:
        assert next(results).maps.diameter == diameter
        assert abs(next(results).maps.diameter - diameter) < 1
    nothing = np.zeros((64, 64), np.float32)
    assert model.estimate_diameter(nothing)[0] == DIAMETER  # no cells: the size model's own


def test_an_unknown_diameter_without_size_model_is_the_training_one(model):
    pixels, _ = flow_network.image()
    assert model.predict(pixels).diameter == DIAMETER
    with pytest.raises(CellrtError, match="expected a model with a size model, got one without; give the diameter"):
        model.estimate_diameter(pixels)


def test_networks_of_one_size_get_tiles_of_that_size():
    model = cellrt.load(flow_network.model(dynamics="v4", fixed_tile=True, n_style=0, n_channels=3), providers=["cpu"])
    for shape in ((40, 50), (245, 300), (256, 256)):
        pixels, n_blobs = flow_network.image(shape)
        cells = model.segment(pixels, diameter=DIAMETER)
        assert len(cells) == n_blobs
        assert model.predict(pixels).style is None
    with pytest.raises(CellrtError, match="expected tiles='upstream' with a network that takes 256 x 256 only"):
        model.segment(pixels, tiles="large")
    with pytest.raises(CellrtError, match="expected a network with a style output"):
        model.style(pixels)


def test_no_cells(model):
    for pixels in (np.zeros((40, 50)), np.full((40, 50), 7, np.uint8)):
        cells = model.segment(pixels, diameter=DIAMETER)
        assert len(cells) == 0
        assert cells.labels.shape == (40, 50)
        assert not cells.labels.any()


def test_dark_cells(model):
    pixels, n_blobs = flow_network.image()
    assert len(model.segment(-pixels, diameter=DIAMETER, invert=True)) == n_blobs
    assert len(model.segment(-pixels, diameter=DIAMETER, normalize=Normalize99Spec(invert=True))) == n_blobs


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"diameter": 0}, CellrtError, "expected diameter as a positive number of pixels, or None.* got 0"),
        ({"diameter": -3.0}, CellrtError, "expected diameter as a positive number"),
        ({"diameter": float("nan")}, CellrtError, "expected diameter as a positive number.*nan"),
        ({"diameter": float("inf")}, CellrtError, "expected diameter as a positive number.*inf"),
        ({"diameter": "30"}, CellrtError, "expected diameter as a positive number"),
        ({"diameter": 1e-4}, ImageError, "expected a rescaled image of 1 to .* choose another"),
        ({"diameter": 1e6}, ImageError, "expected a rescaled image of 1 to"),
        ({"channels": (3, 0)}, ImageError, "expected channels in 0..2, counted from 1 as Cellpose counts, got 3"),
        ({"channels": (1, 2, 3)}, ImageError, "expected channels as two numbers"),
        ({"normalize": (99, 1)}, CellrtError, "0 <= low < high <= 100"),
        ({"normalize": "all"}, CellrtError, "expected normalize to be two percentiles"),
        ({"normalize": None, "invert": True}, CellrtError, "expected a normalisation with invert=True"),
        ({"flow_threshold": -1}, CellrtError, "expected flow_threshold to be a number of at least 0, got -1"),
        ({"flow_threshold": float("nan")}, CellrtError, "expected flow_threshold"),
        ({"cellprob_threshold": "0"}, CellrtError, "expected cellprob_threshold to be a number, got '0'"),
        ({"cellprob_threshold": float("nan")}, CellrtError, "expected cellprob_threshold to be a number, got nan"),
        ({"niter": -1}, CellrtError, "expected niter"),
        ({"niter": 10**9}, CellrtError, "expected niter as a whole number from 0 to 100000, got"),
        ({"niter": 1.5}, CellrtError, "expected niter as a whole number"),
        ({"min_size": "15"}, CellrtError, "expected min_size as a whole number"),
        ({"min_size": float("inf")}, CellrtError, "expected min_size as a whole number"),
        ({"interpolate": None}, CellrtError, "expected interpolate to be True or False, got None"),
        ({"channels": 5.0}, ImageError, "expected channels as numbers counted from 1"),
        ({"max_size_fraction": -0.1}, CellrtError, "expected max_size_fraction"),
        ({"tiles": (2, 2)}, CellrtError, "expected tiles='upstream' or 'large'"),
        ({"tiles": "large", "augment": True}, CellrtError, "expected tiles='upstream' with augment=True"),
        ({"tile_overlap": 0.9}, CellrtError, "expected tile_overlap from 0.05 to 0.5, got 0.9"),
        ({"batch_size": 0}, CellrtError, "expected batch_size as a whole number of at least 1, got 0"),
    ],
)
def test_bad_options_are_refused(model, options, error, message):
    pixels, _ = flow_network.image()
    with pytest.raises(error, match=message):
        model.segment(np.stack([pixels, pixels], axis=-1), **options)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.full((40, 50), np.nan), "expected finite pixels, got NaN"),
        (np.full((40, 50), np.inf, np.float32), "expected finite pixels, got NaN or infinity"),
        (np.zeros((0, 50)), "expected an image with pixels"),
        (np.zeros((24, 40, 50)), "segment the planes of a stack one by one"),
        (np.zeros(50), "expected an image with 2 or 3 axes"),
        (np.zeros((40, 50), complex), "expected an image of numbers"),
    ],
)
@pytest.mark.parametrize("normalize", ["model", None])
def test_bad_images_are_refused(model, image, message, normalize):
    with pytest.raises(ImageError, match=message):
        model.segment(image, diameter=DIAMETER, normalize=normalize)


def test_interpolation_between_pixels_is_not_optional_in_version_4():
    model = cellrt.load(flow_network.model(dynamics="v4"), providers=["cpu"])
    with pytest.raises(CellrtError, match="interpolate"):
        model.segment(flow_network.image()[0], diameter=DIAMETER, interpolate=False)


def test_a_head_with_the_wrong_normalisation_is_refused():
    from test_model import rewritten

    wrong = rewritten(flow_network.model(), lambda text: text.replace('"normalize99"', '"percentile"'))
    with pytest.raises(ModelError, match="expected a head with the normalisation of its kind"):
        cellrt.load(wrong)


def test_flows_that_never_converge_end(model):
    """Every pixel is inside a cell and flows point anywhere: bounded work, no error."""
    random = np.random.default_rng(0)
    maps = random.normal(0, 50, (3, 128, 128)).astype(np.float32)
    maps[2] = 1
    from cellrt.flow_work import FlowMaps

    noise = FlowMaps(maps, (128, 128), None, DIAMETER, 200)
    assert model.decode(noise, niter=2000).labels.shape == (128, 128)


def test_more_than_65535_masks(model):
    """Labels are 32 bits wide."""
    from cellrt.flow_work import FlowMaps

    side = 1320
    pattern = np.zeros((5, 5), bool)
    pattern[:4, :4] = True
    inside = np.tile(pattern, (side // 5, side // 5))
    y, x = np.mgrid[:side, :side]
    maps = np.zeros((3, side, side), np.float32)
    maps[0], maps[1], maps[2] = 5 * np.sign(1 - y % 5), 5 * np.sign(1 - x % 5), np.where(inside, 1, -1)
    cells = model.decode(FlowMaps(maps, (side, side), None, DIAMETER, 20), flow_threshold=0, min_size=0)
    assert len(cells) == (side // 5) ** 2 > 65535
    assert cells.labels.max() == len(cells)


def test_a_zoo_picks_the_closest(model):
    zoo = cellrt.zoo.Zoo(model)
    round_ones = [flow_network.image(seed=i)[0] for i in range(3)]
    dim = [np.random.default_rng(i).normal(size=(96, 120)) for i in range(3)]
    zoo.add("round", model, round_ones[:2], diameter=DIAMETER)
    zoo.add("noise", model, dim[:2], diameter=DIAMETER)
    assert zoo.closest(round_ones[2], diameter=DIAMETER) == "round"
    assert zoo.closest(dim[2], diameter=DIAMETER) == "noise"
    again = cellrt.zoo.Zoo(model)
    for name, styles in zoo.styles.items():
        again.add(name, zoo.models[name], styles=styles)
    assert again.closest(dim[2], diameter=DIAMETER) == "noise"


def test_what_a_zoo_refuses(model):
    zoo = cellrt.zoo.Zoo(model)
    with pytest.raises(CellrtError, match="expected a zoo with models, got an empty one"):
        zoo.closest(flow_network.image()[0])
    with pytest.raises(CellrtError, match=r"expected images, or styles of shape \(k, 4\)"):
        zoo.add("a", model)
    zoo.add("a", model, styles=np.eye(4)[:2])
    with pytest.raises(CellrtError, match="expected a new name, got 'a'"):
        zoo.add("a", model, styles=np.eye(4)[:2])
    without = cellrt.load(flow_network.model(n_style=0), providers=["cpu"])
    with pytest.raises(CellrtError, match="expected a network with a style output"):
        cellrt.zoo.Zoo(without)


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (8, 8), (3, 500)])
@pytest.mark.parametrize("options", [{}, {"tiles": "large"}, {"augment": True}, {"resample": False, "diameter": 9.0}])
def test_odd_shapes(model, shape, options):
    pixels = np.random.default_rng(0).random(shape)
    assert model.segment(pixels, **{"diameter": DIAMETER} | options).labels.shape == shape


PREDICTING = ("axes", "channels", "diameter", "normalize", "invert", "resample", "augment", "tiles", "tile_overlap")


def test_every_option_goes_through_a_stream(model):
    pixels, _ = flow_network.image((60, 70))
    options = {
        "axes": "YX",
        "channels": (0, 0),
        "diameter": 12.0,
        "normalize": (2, 98),
        "invert": False,
        "flow_threshold": 0.3,
        "cellprob_threshold": -0.5,
        "niter": 150,
        "resample": False,
        "augment": True,
        "min_size": 5,
        "max_size_fraction": 0.5,
        "interpolate": False,
        "tiles": "upstream",
        "tile_overlap": 0.2,
        "batch_size": 2,
    }
    import inspect

    of_volumes = {"do_3D", "stitch_threshold", "anisotropy", "flow3D_smooth"}  # see test_stacks
    assert set(options) == set(inspect.signature(model.segment).parameters) - of_volumes - {"image"}
    (result,) = model.stream([pixels], **options)
    assert np.array_equal(result.instances.labels, model.segment(pixels, **options).labels)
    assert np.array_equal(result.maps.maps, model.predict(pixels, **{k: options[k] for k in PREDICTING}).maps)
    with pytest.raises(TypeError, match="colour"):
        model.stream([pixels], colour="red")
    for bad in ({"diameter": -3}, {"flow_threshold": -1}, {"niter": -1}, {"tiles": "small"}, {"channels": (9,)}):
        with pytest.raises(CellrtError, match="expected"):
            model.stream([], **bad)


def test_percentiles_given_replace_grey_values_of_the_manifest():
    from test_model import rewritten

    content = rewritten(flow_network.model(), lambda text: text.replace('"lowhigh": null', '"lowhigh": [0.0, 1.0]'))
    model = cellrt.load(content, providers=["cpu"])
    pixels, _ = flow_network.image()
    first, second = (model.predict(factor * pixels, normalize=(1, 99), diameter=DIAMETER).maps for factor in (1, 5))
    assert np.allclose(first, second, atol=1e-3)
    assert not np.allclose(model.predict(5 * pixels, diameter=DIAMETER).maps, first, atol=0.1)


def test_a_manifest_that_lies_about_the_style_is_refused():
    from test_model import rewritten

    for n_style in (0, 3):
        content = rewritten(
            flow_network.model(), lambda text, n=n_style: text.replace('"n_style": 4', f'"n_style": {n}')
        )
        with pytest.raises(ModelError, match=f"expected {n_style} style values from the network"):
            cellrt.load(content)


def test_missing_channels_are_zero_behind_the_normalisation(monkeypatch):
    """Cellpose 4 leaves channels out that the image does not have; zeros in the network's input are the same."""
    model = cellrt.load(flow_network.model(dynamics="v4", fixed_tile=True, n_style=0, n_channels=3), providers=["cpu"])
    seen = []
    run = model._network
    monkeypatch.setattr(model, "_network", lambda batch: seen.append(batch) or run(batch))
    pixels, _ = flow_network.image((200, 210))
    for normalize in (Normalize99Spec(lowhigh=(5.0, 9.0)), Normalize99Spec(tile_blocksize=64, invert=True)):
        model.predict(np.stack([pixels, 2 * pixels]), normalize=normalize, diameter=DIAMETER)
        assert seen[-1].shape[1] == 3
        assert not seen[-1][:, 2].any()
        assert seen[-1][:, 1].any()


def test_a_manifest_may_ask_for_the_fast_ways():
    """Large tiles and no resampling by default, which options override; augmentation keeps its own tiles."""
    from test_model import rewritten

    fast = rewritten(
        flow_network.model(),
        lambda text: text.replace('"tiles": "upstream"', '"tiles": "large"').replace(
            '"resample": true', '"resample": false'
        ),
    )
    model, plain = (cellrt.load(content, providers=["cpu"]) for content in (fast, flow_network.model()))
    pixels, _ = flow_network.image((300, 330))
    options = {"tiles": "large", "resample": False}
    assert np.array_equal(model.predict(pixels, diameter=22).maps, plain.predict(pixels, diameter=22, **options).maps)
    options = {"tiles": "upstream", "resample": True}
    assert np.array_equal(model.predict(pixels, diameter=22, **options).maps, plain.predict(pixels, diameter=22).maps)
    assert model.predict(pixels, augment=True).maps.shape == plain.predict(pixels, augment=True).maps.shape
