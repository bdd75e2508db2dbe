"""What the comparisons run on: candidates, images and models, made here from seeds or read from ../shared.

Nothing is downloaded. Where the reference data is there (../shared beside this repository), the images and the model
are real; elsewhere they are drawn, and the original writes a model folder of the same architecture.
"""

from pathlib import Path

import numpy as np
from harness import ROOT, Worker

SHARED = ROOT.parent / "shared"
TRAINED = SHARED / "reference" / "stardist" / "models" / "2d_fluo"
TRAINED_3D = SHARED / "reference" / "stardist" / "models" / "3d_unet"
STACK = SHARED / "reference" / "stardist" / "cases" / "3d_unet_img3d.npz"  # StarDist's example, normalised
MOSAIC = SHARED / "data" / "large_mosaic" / "images"
PHASE = SHARED / "data" / "usiigaci_phase" / "images" / "set03.tif"  # held out of the training of `cells`
CPNET = SHARED / "reference" / "cellpose" / "models" / "cpnet_synth"
CELLPOSE_CASE = SHARED / "reference" / "cellpose" / "v3_synth2ch.npz"


def candidates(n, n_rays=32, per_object=35, seed=0, spacing=27):
    """Candidates as a trained network gives them: about 35 per object, on a grid of 2 px inside it.

    Objects are ellipses of radius 8 to 14 px, spaced like nuclei in a dense field; the rays of a candidate end at its
    object's outline, within 3 %, and its probability falls from the centre. All probabilities are distinct, because
    the original has no defined order for equal ones. `spacing`: pixels from one object to the next.

    Returns prob (n,) float32, dist (n, n_rays) float32, points (n, 2) int64, in row-major order of the points.
    """
    random = np.random.default_rng(seed)
    n_objects = -(-n // per_object)
    side = int(np.ceil(np.sqrt(n_objects)))
    corner = np.stack(np.divmod(np.arange(n_objects), side), 1) * spacing + 20
    centres = corner + random.uniform(-6, 6, (n_objects, 2))
    long_axis = random.uniform(8, 14, n_objects)
    short_axis = long_axis * random.uniform(0.65, 1.0, n_objects)
    turn = random.uniform(0, np.pi, n_objects)

    owner = np.repeat(np.arange(n_objects), per_object)[:n]
    # The `per_object` samples nearest to the centre, as thresholding a bell-shaped probability leaves them.
    steps = np.stack(np.meshgrid(np.arange(-8, 9), np.arange(-8, 9), indexing="ij"), -1).reshape(-1, 2) * 2
    nearest = steps[np.argsort((steps**2).sum(1), kind="stable")[:per_object]]
    points = np.rint(centres[owner] / 2).astype(np.int64) * 2 + nearest[np.arange(n) % per_object]

    # Distance from a point inside an ellipse to its outline along each ray: the positive root of a quadratic.
    offset = points - centres[owner]
    cosine, sine = np.cos(turn[owner]), np.sin(turn[owner])
    start = np.stack(
        [
            (offset[:, 0] * cosine + offset[:, 1] * sine) / long_axis[owner],
            (-offset[:, 0] * sine + offset[:, 1] * cosine) / short_axis[owner],
        ],
        1,
    )
    start *= np.minimum(1, 0.9 / np.maximum(1e-9, np.hypot(start[:, 0], start[:, 1])))[:, np.newaxis]
    angle = np.arange(n_rays) * 2 * np.pi / n_rays
    cosine, sine = cosine[:, np.newaxis], sine[:, np.newaxis]
    along = (np.sin(angle) * cosine + np.cos(angle) * sine) / long_axis[owner, np.newaxis]
    across = (np.cos(angle) * cosine - np.sin(angle) * sine) / short_axis[owner, np.newaxis]
    a = along**2 + across**2
    b = start[:, :1] * along + start[:, 1:] * across
    c = (start**2).sum(1)[:, np.newaxis] - 1
    dist = (np.sqrt(b**2 - a * c) - b) / a * random.normal(1, 0.03, (n, n_rays))

    prob = 0.95 - 0.4 * np.hypot(start[:, 0], start[:, 1]) + random.normal(0, 0.03, n)
    prob = (np.argsort(np.argsort(prob)) + 1) / (n + 1) * 0.6 + 0.39
    order = np.lexsort((points[:, 1], points[:, 0]))
    assert len(np.unique(prob.astype(np.float32))) == n
    return prob[order].astype(np.float32), np.maximum(1e-3, dist[order]).astype(np.float32), points[order]


def cells(n, shape, n_rays=32, seed=1):
    """Surviving objects of an image: prob, dist and points of `n` cells of 8 to 20 px, some across its border."""
    random = np.random.default_rng(seed)
    points = np.stack([random.integers(0, side, n) for side in shape], 1)
    angle = np.arange(n_rays) * 2 * np.pi / n_rays
    phase, height = random.uniform(0, 6.3, (3, n, 1)), random.normal(0, 0.12, (3, n, 1))
    wave = sum(height[k - 1] / k * np.cos(k * angle + phase[k - 1]) for k in (1, 2, 3))
    dist = random.uniform(8, 20, (n, 1)) * (1 + wave)
    prob = random.permutation(np.linspace(0.4, 0.95, n))
    return prob.astype(np.float32), np.maximum(1e-3, dist).astype(np.float32), points


def spiral_rays(n_rays):
    """Rays on a golden spiral and the faces of their hull, turned as StarDist's are: (n_rays, 3) and (n_faces, 3)."""
    from scipy.spatial import ConvexHull

    z, angle = np.linspace(-1, 1, n_rays), (3 - np.sqrt(5)) * np.pi * np.arange(n_rays)
    radius = np.sqrt(1 - z**2)
    ends = np.stack([z, radius * np.sin(angle), radius * np.cos(angle)], 1)
    faces = [face if np.linalg.det(ends[face]) < 0 else face[::-1] for face in ConvexHull(ends).simplices]
    return ends.astype(np.float32), np.array(faces, np.int32)


def stack_candidates(n, n_rays, per_object=60, seed=3, spacing=18):
    """Candidates of a stack as a trained network gives them: about 60 per object, on a grid of (1, 2, 2) voxels in it.

    Objects are ellipsoids with half axes of 5 to 9 voxels, spaced like nuclei in a dense tissue; the rays of a
    candidate end at its object's surface, within 3 %, and its probability, distinct from all others, falls from the
    centre.

    Returns prob (n,), dist (n, n_rays), points (n, 3) in row-major order, and rays and faces.
    """
    rays, faces = spiral_rays(n_rays)
    random = np.random.default_rng(seed)
    n_objects = -(-n // per_object)
    side = int(np.ceil(n_objects ** (1 / 3)))
    corner = np.stack(np.unravel_index(np.arange(n_objects), (side,) * 3), 1) * spacing + 20
    centres = corner + random.uniform(-3, 3, (n_objects, 3))
    axes = random.uniform(5, 9, (n_objects, 3))
    steps = np.stack(np.meshgrid(np.arange(-4, 5), np.arange(-4, 5) * 2, np.arange(-4, 5) * 2, indexing="ij"), -1)
    steps = steps.reshape(-1, 3)
    nearest = steps[np.argsort((steps**2).sum(1), kind="stable")[:per_object]]
    owner = np.repeat(np.arange(n_objects), per_object)[:n]
    points = np.rint(centres[owner] / (1, 2, 2)).astype(np.int64) * (1, 2, 2) + nearest[np.arange(n) % per_object]

    # Distance from a point inside an ellipsoid to its surface along each ray: the positive root of a quadratic.
    start = (points - centres[owner]) / axes[owner]
    start *= np.minimum(1, 0.9 / np.maximum(1e-9, np.linalg.norm(start, axis=1)))[:, np.newaxis]
    dist = np.empty((n, n_rays), np.float32)
    for begin in range(0, n, 10_000):  # bounds the memory
        some = slice(begin, begin + 10_000)
        along = rays[np.newaxis] / axes[owner[some], np.newaxis]
        a, c = (along**2).sum(2), (start[some] ** 2).sum(1)[:, np.newaxis] - 1
        b = (along * start[some, np.newaxis]).sum(2)
        dist[some] = (np.sqrt(b**2 - a * c) - b) / a * random.normal(1, 0.03, a.shape)
    prob = 0.95 - 0.4 * np.linalg.norm(start, axis=1) + random.normal(0, 0.03, n)
    prob = (np.argsort(np.argsort(prob)) + 1) / (n + 1) * 0.6 + 0.39
    order = np.lexsort(points.T[::-1])
    return {
        "prob": prob[order].astype(np.float32),
        "dist": np.maximum(1e-3, dist[order]),
        "points": points[order],
        "rays": rays,
        "faces": faces,
    }


def stack_cells(n, n_rays, shape, seed=4):
    """Surviving objects of a stack, of 6 to 12 voxels, some across its border."""
    rays, faces = spiral_rays(n_rays)
    random = np.random.default_rng(seed)
    axes = random.uniform(0.75, 1.3, (n, 1, 3))
    dist = random.uniform(6, 12, (n, 1)) / np.sqrt(((rays / axes) ** 2).sum(2))
    dist *= 1 + random.normal(0, 0.1, (n, 3)) @ rays.T
    return {
        "prob": random.permutation(np.linspace(0.4, 0.95, n)).astype(np.float32),
        "dist": np.maximum(1e-3, dist).astype(np.float32),
        "points": np.stack([random.integers(0, side, n) for side in shape], 1),
        "rays": rays,
        "faces": faces,
    }


def camera_image(shape, seed=2):
    """A drawn fluorescence image, uint16: an ellipse per 900 pixels, a sloped background, shot noise."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    image = 300 + 200 * columns / shape[1]
    for _ in range(shape[0] * shape[1] // 900):
        row, column = random.uniform(0, shape[0]), random.uniform(0, shape[1])
        long_axis = random.uniform(7, 12)
        short_axis, turn = long_axis * random.uniform(0.65, 1), random.uniform(0, np.pi)
        reach = int(long_axis * 2)
        box = tuple(slice(max(0, int(at) - reach), int(at) + reach) for at in (row, column))
        y, x = rows[box] - row, columns[box] - column
        level = ((y * np.cos(turn) + x * np.sin(turn)) / long_axis) ** 2
        level += ((x * np.cos(turn) - y * np.sin(turn)) / short_axis) ** 2
        image[box] += random.uniform(600, 3000) / (1 + np.exp(np.minimum(6 * (level - 1), 60)))
    return np.clip(random.poisson(image) + random.normal(0, 8, shape), 0, 65535).astype(np.uint16)


def microscope_image(shape):
    """A real image of at least `shape` cut to it (uint8), or a drawn one (uint16); and what it is."""
    files = sorted(MOSAIC.glob("*.tif*")) if MOSAIC.exists() else []
    if files:
        import tifffile

        return tifffile.imread(files[0])[: shape[0], : shape[1]].copy(), "crop of a mosaic of DSB 2018 images (CC0)"
    return camera_image(shape), "drawn image"


def cell_image(side):
    """Whole cells as the bundled model for them knows them: a phase contrast image, or a drawn one; and what it is."""
    if PHASE.exists():
        from cellrt import readers

        return readers.read(PHASE)[0][:side, :side].copy(), "crop of an image of Usiigaci (phase contrast)"
    return camera_image((side, side)), "drawn image"


def fields(folder, n, side=512):
    """Write `n` fields of view as TIFF files: crops of a large image, turned and mirrored; what they are.

    Up to 512 differ (of 512 pixels): 64 crops in 8 positions.
    """
    import tifffile

    large = 4096
    image, what = microscope_image((large, large))
    corners_of = [(y, x) for y in range(0, large - side + 1, side) for x in range(0, large - side + 1, side)]
    for index in range(n):
        y, x = corners_of[index % len(corners_of)]
        turn, mirror = divmod(index // len(corners_of) % 8, 2)
        field = np.rot90(image[y : y + side, x : x + side], turn)
        tifffile.imwrite(
            Path(folder) / f"field{index:03d}.tif", field[:, ::-1] if mirror else field, compression="zlib"
        )
    return f"{what}, {n} fields of {side} x {side}"


def model_folder(scratch):
    """A StarDist folder of the published architecture: the trained one if it is there, else one that StarDist writes.

    Returns (folder, what it is).
    """
    if TRAINED.exists():
        return TRAINED, "2D_versatile_fluo's architecture, trained"
    folder = Path(scratch) / "seeded"
    inputs = Path(scratch) / "seeded.npz"
    np.savez(inputs, folder=str(folder), image=camera_image((256, 256)))
    with Worker("stardist", 1) as original:
        original.load("model_folder", inputs)
        original.ask(do="run")
    return folder, "2D_versatile_fluo's architecture, seeded weights"


def flows(side):
    """Flows, cell logits and masks of an image of side x side pixels with about 1000 cells per megapixel.

    Returns flow (2, side, side) float32, cellprob (side, side) float32, labels (side, side) uint16 or uint32, and what
    they are.
    """
    from cellrt import kernels

    if CELLPOSE_CASE.exists():
        with np.load(CELLPOSE_CASE) as case:
            flow, cellprob, what = case["dP"], case["cellprob"], "recorded flows of a trained CPnet, tiled"
    else:
        centres = np.stack(np.meshgrid(np.arange(16, 256, 32), np.arange(16, 256, 32), indexing="ij"), -1).reshape(
            -1, 2
        )
        y, x = np.mgrid[:256, :256]
        distance = np.hypot(y[..., None] - centres[:, 0], x[..., None] - centres[:, 1])
        drawn = np.where(distance.min(axis=-1) < 13, distance.argmin(axis=-1) + 1, 0).astype(np.int32)
        random = np.random.default_rng(3)
        exact = kernels.label_flows_2d(drawn, n_labels=len(centres), dynamics="v3", n_iter=0, threads=1)
        flow = (5 * exact + random.normal(0, 0.3, exact.shape)).astype(np.float32)
        cellprob = np.where(drawn > 0, 5, -5).astype(np.float32)
        what = "drawn flows, tiled"
    times = [-(-side // length) for length in cellprob.shape]
    flow = np.ascontiguousarray(np.tile(flow, (1, *times))[:, :side, :side])
    cellprob = np.ascontiguousarray(np.tile(cellprob, times)[:side, :side])
    pixels, positions = kernels.flow_follow_2d(
        flow, cellprob, cellprob_threshold=0.0, dynamics="v3", interpolate=True, n_iter=200, threads=0
    )
    labels, n = kernels.flow_masks_2d(pixels, positions, shape=(side, side), max_size_fraction=0.4, threads=0)
    return flow, cellprob, labels.astype(np.uint16 if n < 2**16 else np.uint32), what


def volume_of_flows(shape):
    """Flows and cell logits of a volume with about 170 cells per million voxels.

    Returns flow (3, *shape) float32, cellprob float32, and what they are.
    """
    recorded = CELLPOSE_CASE.with_name("v3_3d.npz")
    if recorded.exists():
        with np.load(recorded) as case:
            flow, cellprob, what = case["dP"], case["cellprob"], "recorded flows of a trained CPnet, tiled"
    else:
        random, radius = np.random.default_rng(3), 9
        to_centre = radius - np.indices((2 * radius,) * 3, np.float32)
        distance = np.linalg.norm(to_centre, axis=0)
        flow = 5 * to_centre / np.maximum(distance, 1.5) + random.normal(0, 0.3, to_centre.shape)
        cellprob, what = radius - 1 - distance, "drawn flows, tiled"
    times = [-(-side // length) for side, length in zip(shape, cellprob.shape, strict=True)]
    inside = tuple(slice(side) for side in shape)
    flow = np.ascontiguousarray(np.tile(flow, (1, *times))[(slice(None), *inside)], np.float32)
    return flow, np.ascontiguousarray(np.tile(cellprob, times)[inside], np.float32), what


def two_channel_image(side):
    """Drawn cells with nuclei, (side, side, 2) float32, of the size that the trained CPnet knows; their diameter."""
    from cellrt import kernels

    with np.load(CELLPOSE_CASE) as case:
        image, scale = np.ascontiguousarray(case["image"].transpose(2, 0, 1)), 17 / 28
    shape = (int(image.shape[1] * scale), int(image.shape[2] * scale))
    small = kernels.resize_linear(image, out_shape=shape, single_precision=True, threads=1).transpose(1, 2, 0)
    times = [-(-side // length) for length in shape]
    return np.ascontiguousarray(np.tile(small, (*times, 1))[:side, :side]), 17.0


def corners(side, tile):
    """Corners (y, x) of tiles that cover side x side pixels, evenly spread, with a tenth in common."""
    begins = np.linspace(0, side - tile, int(np.ceil(1.2 * side / tile))).astype(int)
    return [(y, x) for y in begins for x in begins]
