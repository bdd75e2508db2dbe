# Types of csrc/bindings/_kernels.pyx. Every function returns the status of the C function of the same name.
from typing import Any

import numpy as np
from numpy.typing import NDArray

OK: int
ERROR_ARGUMENT: int
ERROR_MEMORY: int
ERROR_CAPACITY: int
ERROR_CANCELLED: int
ERROR_INTERNAL: int
ERROR_DATA: int
DYNAMICS_V3: int
DYNAMICS_V4: int
STAR_DROPPED: int
STAR_KEPT: int
STAR_UNDECIDED: int
POLYHEDRON_FULL: int
POLYHEDRON_KERNEL: int
POLYHEDRON_HULL: int
POLYHEDRON_BBOX: int

def version() -> int: ...
def status_text(status: int) -> str: ...
def usable_cores() -> int: ...
def percentiles(
    image: NDArray[Any], percents: NDArray[np.float64], n_threads: int, values: NDArray[np.float64]
) -> int: ...
def normalize(
    image: NDArray[Any],
    low: NDArray[np.float32],
    divisor: NDArray[np.float32],
    n_threads: int,
    out: NDArray[np.float32],
) -> int: ...
def count_star_candidates_2d(
    maps: NDArray[np.float32],
    n_rays: int,
    n_class_channels: int,
    y_begin: int,
    y_end: int,
    x_begin: int,
    x_end: int,
    prob_thresh: float,
    grid_y: int,
    grid_x: int,
    origin_y: int,
    origin_x: int,
    n_threads: int,
) -> tuple[int, int]: ...
def star_candidates_2d(
    maps: NDArray[np.float32],
    n_rays: int,
    n_class_channels: int,
    y_begin: int,
    y_end: int,
    x_begin: int,
    x_end: int,
    prob_thresh: float,
    grid_y: int,
    grid_x: int,
    origin_y: int,
    origin_x: int,
    n_threads: int,
    prob: NDArray[np.float32],
    dist: NDArray[np.float32],
    points: NDArray[np.int32],
    class_prob: NDArray[np.float32],
) -> int: ...
def star_nms_2d(
    prob: NDArray[np.float32],
    dist: NDArray[np.float32],
    points: NDArray[np.int32],
    nms_thresh: float,
    max_pairs: int,
    cancel: NDArray[np.int32],
    n_threads: int,
    kept: NDArray[np.int64],
) -> tuple[int, int]: ...
def star_outlines_2d(
    dist: NDArray[np.float32],
    points: NDArray[np.float64],
    scale_y: float,
    scale_x: float,
    n_threads: int,
    coords: NDArray[np.float32],
) -> int: ...
def star_distances_2d(
    labels: NDArray[np.int32], grid_y: int, grid_x: int, n_threads: int, dist: NDArray[np.float32]
) -> int: ...
def object_probability_2d(
    labels: NDArray[np.int32], n_labels: int, n_threads: int, prob: NDArray[np.float32]
) -> int: ...
def paint_polygons_2d(
    coords: NDArray[np.float32],
    offsets: NDArray[np.int64],
    order: NDArray[np.int64],
    n_threads: int,
    labels: NDArray[np.int32],
) -> int: ...
def label_regions_2d(
    labels: NDArray[np.int32],
    n_threads: int,
    areas: NDArray[np.int64],
    boxes: NDArray[np.int32],
    centroids: NDArray[np.float64],
) -> int: ...
def label_regions_3d(
    labels: NDArray[np.int32],
    n_threads: int,
    areas: NDArray[np.int64],
    boxes: NDArray[np.int32],
    centroids: NDArray[np.float64],
) -> int: ...
def relabel(
    labels: NDArray[np.int32], n_threads: int, table: NDArray[np.int32], relabelled: NDArray[np.int32]
) -> tuple[int, int]: ...
def resize_linear(
    image: NDArray[np.float32], single_precision: int, n_threads: int, out: NDArray[np.float32]
) -> int: ...
def count_flow_follow_2d(
    flow: NDArray[np.float32], cellprob: NDArray[np.float32], cellprob_thresh: float, dynamics: int, n_threads: int
) -> tuple[int, int]: ...
def flow_follow_2d(
    flow: NDArray[np.float32],
    cellprob: NDArray[np.float32],
    cellprob_thresh: float,
    dynamics: int,
    interpolate: int,
    n_iter: int,
    cancel: NDArray[np.int32],
    n_threads: int,
    pixels: NDArray[np.int64],
    positions: NDArray[np.float32],
) -> int: ...
def flow_masks_2d(
    pixels: NDArray[np.int64],
    positions: NDArray[np.float32],
    max_size_fraction: float,
    n_threads: int,
    labels: NDArray[np.int32],
) -> tuple[int, int]: ...
def label_flows_2d(
    labels: NDArray[np.int32], n_labels: int, dynamics: int, n_iter: int, n_threads: int, flow: NDArray[np.float32]
) -> int: ...
def flow_errors_2d(
    labels: NDArray[np.int32],
    flow: NDArray[np.float32],
    dynamics: int,
    n_threads: int,
    errors: NDArray[np.float64],
) -> int: ...
def clean_labels_2d(
    labels: NDArray[np.int32],
    max_label: int,
    min_size: int,
    dynamics: int,
    n_threads: int,
    cleaned: NDArray[np.int32],
) -> tuple[int, int]: ...
def count_flow_follow_3d(
    flow: NDArray[np.float32], cellprob: NDArray[np.float32], cellprob_thresh: float, n_threads: int
) -> tuple[int, int]: ...
def flow_follow_3d(
    flow: NDArray[np.float32],
    cellprob: NDArray[np.float32],
    cellprob_thresh: float,
    n_iter: int,
    cancel: NDArray[np.int32],
    n_threads: int,
    voxels: NDArray[np.int64],
    positions: NDArray[np.float32],
) -> int: ...
def count_flow_follow_window_3d(
    flow: NDArray[np.float32],
    cellprob: NDArray[np.float32],
    volume: NDArray[np.int64],
    origin: NDArray[np.int64],
    keep: NDArray[np.int64],
    cellprob_thresh: float,
    n_threads: int,
) -> tuple[int, int]: ...
def flow_follow_window_3d(
    flow: NDArray[np.float32],
    cellprob: NDArray[np.float32],
    volume: NDArray[np.int64],
    origin: NDArray[np.int64],
    keep: NDArray[np.int64],
    cellprob_thresh: float,
    n_iter: int,
    cancel: NDArray[np.int32],
    n_threads: int,
    voxels: NDArray[np.int64],
    positions: NDArray[np.float32],
) -> int: ...
def flow_masks_3d(
    voxels: NDArray[np.int64],
    positions: NDArray[np.float32],
    max_size_fraction: float,
    n_threads: int,
    labels: NDArray[np.int32],
) -> tuple[int, int]: ...
def clean_labels_3d(
    labels: NDArray[np.int32],
    max_label: int,
    min_size: int,
    dynamics: int,
    n_threads: int,
    cleaned: NDArray[np.int32],
) -> tuple[int, int]: ...
def label_outlines_2d(
    labels: NDArray[np.int32], n_threads: int, offsets: NDArray[np.int64], coords: NDArray[np.float32]
) -> int: ...
def label_overlaps(
    truth: NDArray[np.int32],
    predicted: NDArray[np.int32],
    n_threads: int,
    pairs: NDArray[np.int32],
    counts: NDArray[np.int64],
) -> tuple[int, int]: ...
def match_pairs(
    pairs: NDArray[np.int32],
    scores: NDArray[np.float64],
    n_rows: int,
    n_columns: int,
    threshold: float,
    max_steps: int,
    is_matched: NDArray[np.uint8],
) -> int: ...
def count_star_candidates_3d(
    maps: NDArray[np.float32],
    n_rays: int,
    n_class_channels: int,
    z_begin: int,
    z_end: int,
    y_begin: int,
    y_end: int,
    x_begin: int,
    x_end: int,
    prob_thresh: float,
    grid_z: int,
    grid_y: int,
    grid_x: int,
    origin_z: int,
    origin_y: int,
    origin_x: int,
    n_threads: int,
) -> tuple[int, int]: ...
def star_candidates_3d(
    maps: NDArray[np.float32],
    n_rays: int,
    n_class_channels: int,
    z_begin: int,
    z_end: int,
    y_begin: int,
    y_end: int,
    x_begin: int,
    x_end: int,
    prob_thresh: float,
    grid_z: int,
    grid_y: int,
    grid_x: int,
    origin_z: int,
    origin_y: int,
    origin_x: int,
    n_threads: int,
    prob: NDArray[np.float32],
    dist: NDArray[np.float32],
    points: NDArray[np.int32],
    class_prob: NDArray[np.float32],
) -> int: ...
def paint_polyhedra_3d(
    dist: NDArray[np.float32],
    points: NDArray[np.float32],
    order: NDArray[np.int64],
    rays: NDArray[np.float32],
    faces: NDArray[np.int32],
    origin_z: int,
    origin_y: int,
    origin_x: int,
    mode: int,
    marks_overlap: int,
    overlap_label: int,
    cancel: NDArray[np.int32],
    n_threads: int,
    labels: NDArray[np.int32],
) -> int: ...
def star_nms_3d(
    prob: NDArray[np.float32],
    dist: NDArray[np.float32],
    points: NDArray[np.int32],
    rays: NDArray[np.float32],
    faces: NDArray[np.int32],
    nms_thresh: float,
    max_work: int,
    cancel: NDArray[np.int32],
    n_threads: int,
    kept: NDArray[np.int64],
) -> tuple[int, int]: ...
def star_settle_3d(
    prob: NDArray[np.float32],
    dist: NDArray[np.float32],
    points: NDArray[np.int32],
    rays: NDArray[np.float32],
    faces: NDArray[np.int32],
    is_open: NDArray[np.uint8],
    nms_thresh: float,
    max_work: int,
    cancel: NDArray[np.int32],
    n_threads: int,
    states: NDArray[np.uint8],
) -> int: ...
