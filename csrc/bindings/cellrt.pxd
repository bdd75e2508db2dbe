# The C interface (csrc/include/cellrt.h), declaration by declaration. tests/test_codebase.py compares the two.
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t

cdef extern from "cellrt.h" nogil:
    const int32_t CELLRT_OK
    const int32_t CELLRT_ERROR_ARGUMENT
    const int32_t CELLRT_ERROR_MEMORY
    const int32_t CELLRT_ERROR_CAPACITY
    const int32_t CELLRT_ERROR_CANCELLED
    const int32_t CELLRT_ERROR_INTERNAL
    const int32_t CELLRT_ERROR_DATA
    const int32_t CELLRT_DYNAMICS_V3
    const int32_t CELLRT_DYNAMICS_V4
    const int32_t CELLRT_STAR_DROPPED
    const int32_t CELLRT_STAR_KEPT
    const int32_t CELLRT_STAR_UNDECIDED
    const int32_t CELLRT_POLYHEDRON_FULL
    const int32_t CELLRT_POLYHEDRON_KERNEL
    const int32_t CELLRT_POLYHEDRON_HULL
    const int32_t CELLRT_POLYHEDRON_BBOX
    const int32_t CELLRT_VERSION

    int32_t cellrt_version()
    const char *cellrt_status_text(int32_t status)
    int32_t cellrt_usable_cores()
    int32_t cellrt_percentiles_u8(
        const uint8_t *image, int64_t n_channels, int64_t n_y, int64_t n_x, int64_t stride_channel,
        int64_t stride_y, int64_t stride_x, const double *percents, int32_t n_percents, int32_t n_threads,
        double *values)
    int32_t cellrt_percentiles_u16(
        const uint16_t *image, int64_t n_channels, int64_t n_y, int64_t n_x, int64_t stride_channel,
        int64_t stride_y, int64_t stride_x, const double *percents, int32_t n_percents, int32_t n_threads,
        double *values)
    int32_t cellrt_percentiles_f32(
        const float *image, int64_t n_channels, int64_t n_y, int64_t n_x, int64_t stride_channel,
        int64_t stride_y, int64_t stride_x, const double *percents, int32_t n_percents, int32_t n_threads,
        double *values)
    int32_t cellrt_normalize_u8(
        const uint8_t *image, int64_t n_channels, int64_t n_y, int64_t n_x, int64_t stride_channel,
        int64_t stride_y, int64_t stride_x, const float *low, const float *divisor, int64_t out_y,
        int64_t out_x, int32_t n_threads, float *out)
    int32_t cellrt_normalize_u16(
        const uint16_t *image, int64_t n_channels, int64_t n_y, int64_t n_x, int64_t stride_channel,
        int64_t stride_y, int64_t stride_x, const float *low, const float *divisor, int64_t out_y,
        int64_t out_x, int32_t n_threads, float *out)
    int32_t cellrt_normalize_f32(
        const float *image, int64_t n_channels, int64_t n_y, int64_t n_x, int64_t stride_channel,
        int64_t stride_y, int64_t stride_x, const float *low, const float *divisor, int64_t out_y,
        int64_t out_x, int32_t n_threads, float *out)
    int32_t cellrt_star_candidates_2d(
        const float *maps, int32_t n_rays, int32_t n_class_channels, int64_t n_y, int64_t n_x,
        int64_t y_begin, int64_t y_end, int64_t x_begin, int64_t x_end, float prob_thresh, int32_t grid_y,
        int32_t grid_x, int32_t origin_y, int32_t origin_x, int64_t capacity, int32_t n_threads,
        int64_t *n_candidates, float *prob, float *dist, int32_t *points, float *class_prob)
    int32_t cellrt_star_nms_2d(
        const float *prob, const float *dist, const int32_t *points, int64_t n, int32_t n_rays,
        float nms_thresh, int64_t max_pairs, const int32_t *cancel, int32_t n_threads, int64_t *n_kept,
        int64_t *kept)
    int32_t cellrt_star_outlines_2d(
        const float *dist, const double *points, int64_t n, int32_t n_rays, double scale_y, double scale_x,
        int32_t n_threads, float *coords)
    int32_t cellrt_star_distances_2d(
        const int32_t *labels, int64_t n_y, int64_t n_x, int32_t grid_y, int32_t grid_x, int32_t n_rays,
        int32_t n_threads, float *dist)
    int32_t cellrt_object_probability_2d(
        const int32_t *labels, int64_t n_y, int64_t n_x, int32_t n_labels, int32_t n_threads, float *prob)
    int32_t cellrt_flow_follow_3d(
        const float *flow, const float *cellprob, int64_t n_z, int64_t n_y, int64_t n_x,
        float cellprob_thresh, int32_t n_iter, const int32_t *cancel, int64_t capacity,
        int32_t n_threads, int64_t *n_voxels, int64_t *voxels, float *positions)
    int32_t cellrt_flow_follow_window_3d(
        const float *flow, const float *cellprob, int64_t n_z, int64_t n_y, int64_t n_x, const int64_t *volume,
        const int64_t *origin, const int64_t *keep, float cellprob_thresh, int32_t n_iter, const int32_t *cancel,
        int64_t capacity, int32_t n_threads, int64_t *n_voxels, int64_t *voxels, float *positions)
    int32_t cellrt_flow_masks_3d(
        const int64_t *voxels, const float *positions, int64_t n, int64_t n_z, int64_t n_y, int64_t n_x,
        double max_size_fraction, int32_t n_threads, int32_t *labels, int32_t *n_labels)
    int32_t cellrt_clean_labels_3d(
        const int32_t *labels, int64_t n_z, int64_t n_y, int64_t n_x, int32_t max_label,
        int64_t min_size, int32_t dynamics, int32_t n_threads, int32_t *cleaned, int32_t *n_labels)
    int32_t cellrt_paint_polygons_2d(
        const float *coords, const int64_t *offsets, const int64_t *order, int64_t n, int64_t n_y,
        int64_t n_x, int32_t n_threads, int32_t *labels)
    int32_t cellrt_label_regions_2d(
        const int32_t *labels, int64_t n_y, int64_t n_x, int32_t n_labels, int32_t n_threads,
        int64_t *areas, int32_t *boxes, double *centroids)
    int32_t cellrt_label_regions_3d(
        const int32_t *labels, int64_t n_z, int64_t n_y, int64_t n_x, int32_t n_labels, int32_t n_threads,
        int64_t *areas, int32_t *boxes, double *centroids)
    int32_t cellrt_relabel(
        const int32_t *labels, int64_t n_pixels, int32_t max_label, int32_t n_threads, int32_t *table,
        int32_t *relabelled, int32_t *n_labels)
    int32_t cellrt_resize_linear_f32(
        const float *image, int64_t n_planes, int64_t n_y, int64_t n_x, int64_t out_y, int64_t out_x,
        int32_t single_precision, int32_t n_threads, float *out)
    int32_t cellrt_flow_follow_2d(
        const float *flow, const float *cellprob, int64_t n_y, int64_t n_x, float cellprob_thresh,
        int32_t dynamics, int32_t interpolate, int32_t n_iter, const int32_t *cancel, int64_t capacity,
        int32_t n_threads, int64_t *n_pixels, int64_t *pixels, float *positions)
    int32_t cellrt_flow_masks_2d(
        const int64_t *pixels, const float *positions, int64_t n, int64_t n_y, int64_t n_x,
        double max_size_fraction, int32_t n_threads, int32_t *labels, int32_t *n_labels)
    int32_t cellrt_label_flows_2d(
        const int32_t *labels, int64_t n_y, int64_t n_x, int32_t n_labels, int32_t dynamics, int32_t n_iter,
        int32_t n_threads, float *flow)
    int32_t cellrt_flow_errors_2d(
        const int32_t *labels, const float *flow, int64_t n_y, int64_t n_x, int32_t n_labels,
        int32_t dynamics, int32_t n_threads, double *errors)
    int32_t cellrt_clean_labels_2d(
        const int32_t *labels, int64_t n_y, int64_t n_x, int32_t max_label, int64_t min_size,
        int32_t dynamics, int32_t n_threads, int32_t *cleaned, int32_t *n_labels)
    int32_t cellrt_label_outlines_2d(
        const int32_t *labels, int64_t n_y, int64_t n_x, int32_t n_labels, int64_t capacity,
        int32_t n_threads, int64_t *offsets, float *coords)
    int32_t cellrt_label_overlaps(
        const int32_t *truth, const int32_t *predicted, int64_t n_pixels, int64_t capacity,
        int32_t n_threads, int64_t *n_pairs, int32_t *pairs, int64_t *counts)
    int32_t cellrt_match_pairs(
        const int32_t *pairs, const double *scores, int64_t n_pairs, int32_t n_rows, int32_t n_columns,
        double threshold, int64_t max_steps, uint8_t *is_matched)
    int32_t cellrt_star_candidates_3d(
        const float *maps, int32_t n_rays, int32_t n_class_channels, int64_t n_z, int64_t n_y, int64_t n_x,
        int64_t z_begin, int64_t z_end, int64_t y_begin, int64_t y_end, int64_t x_begin, int64_t x_end,
        float prob_thresh, int32_t grid_z, int32_t grid_y, int32_t grid_x, int32_t origin_z,
        int32_t origin_y, int32_t origin_x, int64_t capacity, int32_t n_threads, int64_t *n_candidates,
        float *prob, float *dist, int32_t *points, float *class_prob)
    int32_t cellrt_paint_polyhedra_3d(
        const float *dist, const float *points, const int64_t *order, int64_t n, const float *rays,
        int32_t n_rays, const int32_t *faces, int32_t n_faces, int32_t origin_z, int32_t origin_y,
        int32_t origin_x, int64_t n_z, int64_t n_y, int64_t n_x, int32_t mode, int32_t marks_overlap,
        int32_t overlap_label, const int32_t *cancel, int32_t n_threads, int32_t *labels)
    int32_t cellrt_star_nms_3d(
        const float *prob, const float *dist, const int32_t *points, int64_t n, const float *rays,
        int32_t n_rays, const int32_t *faces, int32_t n_faces, float nms_thresh, int64_t max_work,
        const int32_t *cancel, int32_t n_threads, int64_t *n_kept, int64_t *kept)
    int32_t cellrt_star_settle_3d(
        const float *prob, const float *dist, const int32_t *points, int64_t n, const float *rays,
        int32_t n_rays, const int32_t *faces, int32_t n_faces, const uint8_t *is_open, float nms_thresh,
        int64_t max_work, const int32_t *cancel, int32_t n_threads, uint8_t *states)
