"""The one door to native code: one function per function of csrc/include/cellrt.h, plus the streaming suppression.

Takes contiguous arrays of one dtype (images may have any strides), allocates the outputs, calls the native function
without the GIL and turns a status that is not 0 into a `KernelError`. Holds no policy and no defaults: callers say
everything. `threads` is 0 for every usable core, or a number; the result is the same to the byte.
"""

from __future__ import annotations

from cellrt.kernels.flow_2d import flow_errors_2d, flow_follow_2d, flow_masks_2d, label_flows_2d
from cellrt.kernels.flow_3d import MaskSeeds3D, flow_follow_3d, flow_follow_window_3d, flow_masks_3d
from cellrt.kernels.labels import (
    clean_labels_2d,
    clean_labels_3d,
    label_outlines_2d,
    label_overlaps,
    label_regions_2d,
    label_regions_3d,
    match_pairs,
    relabel,
)
from cellrt.kernels.native import (
    ERROR_ARGUMENT,
    ERROR_CANCELLED,
    ERROR_CAPACITY,
    ERROR_DATA,
    ERROR_INTERNAL,
    ERROR_MEMORY,
    _kernels,
    stopped_by,
)
from cellrt.kernels.pixels import normalize, percentiles, resize_linear
from cellrt.kernels.star_2d import (
    StarNms2D,
    object_probability_2d,
    paint_polygons_2d,
    star_distances_2d,
    star_nms_2d,
    star_outlines_2d,
)
from cellrt.kernels.star_3d import (
    STAR_DROPPED,
    STAR_KEPT,
    STAR_UNDECIDED,
    paint_polyhedra_3d,
    star_nms_3d,
    star_settle_3d,
)
from cellrt.kernels.star_candidates import Candidates, star_candidates_2d, star_candidates_3d

__all__ = [
    "ERROR_ARGUMENT",
    "ERROR_CANCELLED",
    "ERROR_CAPACITY",
    "ERROR_DATA",
    "ERROR_INTERNAL",
    "ERROR_MEMORY",
    "STAR_DROPPED",
    "STAR_KEPT",
    "STAR_UNDECIDED",
    "Candidates",
    "MaskSeeds3D",
    "StarNms2D",
    "clean_labels_2d",
    "clean_labels_3d",
    "flow_errors_2d",
    "flow_follow_2d",
    "flow_follow_3d",
    "flow_follow_window_3d",
    "flow_masks_2d",
    "flow_masks_3d",
    "label_flows_2d",
    "label_outlines_2d",
    "label_overlaps",
    "label_regions_2d",
    "label_regions_3d",
    "match_pairs",
    "normalize",
    "object_probability_2d",
    "paint_polygons_2d",
    "paint_polyhedra_3d",
    "percentiles",
    "relabel",
    "resize_linear",
    "star_candidates_2d",
    "star_candidates_3d",
    "star_distances_2d",
    "star_nms_2d",
    "star_nms_3d",
    "star_outlines_2d",
    "star_settle_3d",
    "stopped_by",
    "usable_cores",
    "version",
]


def version() -> int:
    """Version of the native code: 10000 * major + 100 * minor + patch."""
    return _kernels.version()


def usable_cores() -> int:
    """Cores this process may use: the affinity mask and, on Linux, the container's CPU quota; read once."""
    return _kernels.usable_cores()
