"""Record what the original StarDist 0.9.2 does with polyhedra that we make: suppression and painting.

Run in the environment of record_stardist.py (see README.md beside this file), never in the project's:

    OMP_NUM_THREADS=1 python tests/golden/record_polyhedra.py

Makes stardist/kernels/polyhedra_*.npz from formulas and seeds. Does not import cellrt, and does not judge. One thread:
with more the original's sums over all candidates depend on which thread comes first.
"""

import os
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
from stardist.geometry import polyhedron_to_label
from stardist.nms import non_maximum_suppression_3d_inds
from stardist.rays3d import Rays_Cartesian, Rays_GoldenSpiral, Rays_Octo

KERNELS = Path(__file__).resolve().parent / "stardist" / "kernels"
THRESHOLDS = (0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
SHAPE = (26, 44, 41)
SCALE = np.array((1.0, 0.75, 1.25))
CASES = {
    # rays, radius, how ray lengths differ, how many candidates
    "smooth96": (Rays_GoldenSpiral(96), 6.0, "smooth", 150),
    "smooth64": (Rays_GoldenSpiral(64, anisotropy=(2, 1, 1)), 7.0, "smooth", 150),
    "wobbly32": (Rays_GoldenSpiral(32, anisotropy=(2, 1, 1)), 5.0, "wobbly", 150),
    "rough32": (Rays_GoldenSpiral(32), 5.0, "rough", 100),
    "flat64": (Rays_GoldenSpiral(64, anisotropy=(4, 1, 1)), 6.0, "flat", 150),
    "small32": (Rays_GoldenSpiral(32), 2.0, "wobbly", 250),
    "octahedra": (Rays_Octo(), 6.0, "wobbly", 150),
    "thin66": (Rays_Octo(n_level=3), 7.0, "thin", 150),
    "cartesian55": (Rays_Cartesian(11, 5), 5.0, "wobbly", 150),
    "cartesian48": (Rays_Cartesian(8, 6), 6.0, "smooth", 150),
    "thin_cartesian40": (Rays_Cartesian(8, 5), 6.0, "thin", 100),
}


def lengths(random, kind, rays, n, radius):
    """Ray lengths (n, n_rays) of stars of about a radius."""
    shape = (n, len(rays))
    if kind == "wobbly":
        stars = 1 + random.normal(0, 0.06, shape)
    elif kind == "rough":
        stars = random.uniform(0.5, 1.5, shape)
    else:
        squeeze = {"smooth": np.ones(3), "flat": np.array((0.3, 1.0, 1.0)), "thin": np.array((1.0, 0.15, 1.0))}[kind]
        axes = squeeze * random.uniform(0.75, 1.3, (n, 1, 3))
        stars = 1 / np.sqrt(((rays / axes) ** 2).sum(-1)) * (1 + random.normal(0, 0.1, (n, 3)) @ rays.T)
    return np.maximum(0.3, radius * stars * random.uniform(0.7, 1.3, (n, 1))).astype(np.float32)


def main():
    """Write every case."""
    for seed, (name, (rays, radius, kind, n)) in enumerate(CASES.items()):
        random = np.random.default_rng(seed)
        vertices, faces = rays.vertices.astype(np.float32), rays.faces.astype(np.int32)
        objects = random.uniform(0, 1, (12, 3)) * SHAPE
        points = np.rint(objects[random.integers(0, 12, n)] + random.normal(0, 0.35 * radius, (n, 3))).astype(np.int64)
        dist = lengths(random, kind, vertices, n, radius)
        prob = np.sort(random.permutation(np.linspace(0.4, 0.99, n)))[::-1].astype(np.float32)
        keep = np.array(
            [
                non_maximum_suppression_3d_inds(dist, points, rays, prob, thresh=threshold, verbose=False)
                for threshold in THRESHOLDS
            ]
        )
        kept = keep[THRESHOLDS.index(0.3)]
        painted = {"dist": dist[kept], "points": points[kept], "prob": prob[kept], "shape": SHAPE, "verbose": False}
        modes = ("full", "kernel", "hull", "bbox")
        labels = {mode: polyhedron_to_label(rays=rays, mode=mode, **painted) for mode in modes}
        labels["overlap"] = polyhedron_to_label(rays=rays, overlap_label=-3, **painted)
        scaled = painted | {"points": points[kept] * SCALE}
        labels["scaled"] = polyhedron_to_label(rays=rays.copy(scale=SCALE), **scaled)
        np.savez_compressed(
            KERNELS / f"polyhedra_{name}.npz",
            rays=vertices,
            faces=faces,
            points=points,
            dist=dist,
            prob=prob,
            thresholds=np.array(THRESHOLDS),
            keep=keep,
            scale=SCALE,
            scaled_rays=rays.copy(scale=SCALE).vertices.astype(np.float32),
            **{key: value.astype(np.int32) for key, value in labels.items()},
        )
        print(name, len(prob), keep.sum(1), (KERNELS / f"polyhedra_{name}.npz").stat().st_size)


if __name__ == "__main__":
    main()
