# cython: boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
# cython: freethreading_compatible=True
"""Cython over the C interface: arrays in, arrays out, one call without the GIL per function, the status returned.

No policy and no checks: cellrt.kernels is the only caller, allocates the outputs and sees to it that shapes agree.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t

cimport cellrt as c

ctypedef fused pixel:
    uint8_t
    uint16_t
    float

OK = c.CELLRT_OK
ERROR_ARGUMENT = c.CELLRT_ERROR_ARGUMENT
ERROR_MEMORY = c.CELLRT_ERROR_MEMORY
ERROR_CAPACITY = c.CELLRT_ERROR_CAPACITY
ERROR_CANCELLED = c.CELLRT_ERROR_CANCELLED
ERROR_INTERNAL = c.CELLRT_ERROR_INTERNAL
ERROR_DATA = c.CELLRT_ERROR_DATA
DYNAMICS_V3 = c.CELLRT_DYNAMICS_V3
DYNAMICS_V4 = c.CELLRT_DYNAMICS_V4
STAR_DROPPED = c.CELLRT_STAR_DROPPED
STAR_KEPT = c.CELLRT_STAR_KEPT
STAR_UNDECIDED = c.CELLRT_STAR_UNDECIDED
POLYHEDRON_FULL = c.CELLRT_POLYHEDRON_FULL
POLYHEDRON_KERNEL = c.CELLRT_POLYHEDRON_KERNEL
POLYHEDRON_HULL = c.CELLRT_POLYHEDRON_HULL
POLYHEDRON_BBOX = c.CELLRT_POLYHEDRON_BBOX


def version():
    return c.cellrt_version()


def status_text(int32_t status):
    return c.cellrt_status_text(status).decode("ascii")


def usable_cores():
    cdef int32_t count
    with nogil:
        count = c.cellrt_usable_cores()
    return count


def percentiles(const pixel[:, :, :] image, const double[::1] percents, int32_t n_threads, double[::1] values):
    cdef int32_t status
    cdef int32_t n_percents = <int32_t>percents.shape[0]
    cdef int64_t item = sizeof(pixel)
    with nogil:
        if pixel is uint8_t:
            status = c.cellrt_percentiles_u8(
                &image[0, 0, 0], image.shape[0], image.shape[1], image.shape[2], image.strides[0] // item,
                image.strides[1] // item, image.strides[2] // item, &percents[0], n_percents, n_threads, &values[0])
        elif pixel is uint16_t:
            status = c.cellrt_percentiles_u16(
                &image[0, 0, 0], image.shape[0], image.shape[1], image.shape[2], image.strides[0] // item,
                image.strides[1] // item, image.strides[2] // item, &percents[0], n_percents, n_threads, &values[0])
        else:
            status = c.cellrt_percentiles_f32(
                &image[0, 0, 0], image.shape[0], image.shape[1], image.shape[2], image.strides[0] // item,
                image.strides[1] // item, image.strides[2] // item, &percents[0], n_percents, n_threads, &values[0])
    return status


def normalize(const pixel[:, :, :] image, const float[::1] low, const float[::1] divisor, int32_t n_threads,
              float[:, :, ::1] out):
    cdef int32_t status
    cdef int64_t item = sizeof(pixel)
    with nogil:
        if pixel is uint8_t:
            status = c.cellrt_normalize_u8(
                &image[0, 0, 0], image.shape[0], image.shape[1], image.shape[2], image.strides[0] // item,
                image.strides[1] // item, image.strides[2] // item, &low[0], &divisor[0], out.shape[1], out.shape[2],
                n_threads, &out[0, 0, 0])
        elif pixel is uint16_t:
            status = c.cellrt_normalize_u16(
                &image[0, 0, 0], image.shape[0], image.shape[1], image.shape[2], image.strides[0] // item,
                image.strides[1] // item, image.strides[2] // item, &low[0], &divisor[0], out.shape[1], out.shape[2],
                n_threads, &out[0, 0, 0])
        else:
            status = c.cellrt_normalize_f32(
                &image[0, 0, 0], image.shape[0], image.shape[1], image.shape[2], image.strides[0] // item,
                image.strides[1] // item, image.strides[2] // item, &low[0], &divisor[0], out.shape[1], out.shape[2],
                n_threads, &out[0, 0, 0])
    return status


def count_star_candidates_2d(const float[:, :, ::1] maps, int32_t n_rays, int32_t n_class_channels,
                             int64_t y_begin, int64_t y_end, int64_t x_begin, int64_t x_end, float prob_thresh,
                             int32_t grid_y, int32_t grid_x, int32_t origin_y, int32_t origin_x, int32_t n_threads):
    cdef int32_t status
    cdef int64_t n_candidates = 0
    with nogil:
        status = c.cellrt_star_candidates_2d(
            &maps[0, 0, 0], n_rays, n_class_channels, maps.shape[1], maps.shape[2], y_begin, y_end, x_begin, x_end,
            prob_thresh, grid_y, grid_x, origin_y, origin_x, 0, n_threads, &n_candidates, NULL, NULL, NULL, NULL)
    return status, n_candidates


def star_candidates_2d(const float[:, :, ::1] maps, int32_t n_rays, int32_t n_class_channels,
                       int64_t y_begin, int64_t y_end, int64_t x_begin, int64_t x_end, float prob_thresh,
                       int32_t grid_y, int32_t grid_x, int32_t origin_y, int32_t origin_x, int32_t n_threads,
                       float[::1] prob, float[:, ::1] dist, int32_t[:, ::1] points, float[:, ::1] class_prob):
    cdef int32_t status
    cdef int64_t n_candidates = 0
    with nogil:
        status = c.cellrt_star_candidates_2d(
            &maps[0, 0, 0], n_rays, n_class_channels, maps.shape[1], maps.shape[2], y_begin, y_end, x_begin, x_end,
            prob_thresh, grid_y, grid_x, origin_y, origin_x, prob.shape[0], n_threads, &n_candidates, &prob[0],
            &dist[0, 0], &points[0, 0], &class_prob[0, 0])
    return status


def star_nms_2d(const float[::1] prob, const float[:, ::1] dist, const int32_t[:, ::1] points, float nms_thresh,
                int64_t max_pairs, const int32_t[::1] cancel, int32_t n_threads, int64_t[::1] kept):
    cdef int32_t status
    cdef int32_t n_rays = <int32_t>dist.shape[1]
    cdef int64_t n_kept = 0
    with nogil:
        status = c.cellrt_star_nms_2d(&prob[0], &dist[0, 0], &points[0, 0], prob.shape[0], n_rays, nms_thresh,
                                      max_pairs, &cancel[0], n_threads, &n_kept, &kept[0])
    return status, n_kept


def star_outlines_2d(const float[:, ::1] dist, const double[:, ::1] points, double scale_y, double scale_x,
                     int32_t n_threads, float[:, :, ::1] coords):
    cdef int32_t status
    cdef int32_t n_rays = <int32_t>dist.shape[1]
    with nogil:
        status = c.cellrt_star_outlines_2d(&dist[0, 0], &points[0, 0], dist.shape[0], n_rays, scale_y, scale_x,
                                           n_threads, &coords[0, 0, 0])
    return status


def star_distances_2d(const int32_t[:, ::1] labels, int32_t grid_y, int32_t grid_x, int32_t n_threads,
                      float[:, :, ::1] dist):
    cdef int32_t status
    cdef int32_t n_rays = <int32_t>dist.shape[0]
    with nogil:
        status = c.cellrt_star_distances_2d(&labels[0, 0], labels.shape[0], labels.shape[1], grid_y, grid_x, n_rays,
                                            n_threads, &dist[0, 0, 0])
    return status


def object_probability_2d(const int32_t[:, ::1] labels, int32_t n_labels, int32_t n_threads, float[:, ::1] prob):
    cdef int32_t status
    with nogil:
        status = c.cellrt_object_probability_2d(&labels[0, 0], labels.shape[0], labels.shape[1], n_labels, n_threads,
                                                &prob[0, 0])
    return status


def paint_polygons_2d(const float[:, ::1] coords, const int64_t[::1] offsets, const int64_t[::1] order,
                      int32_t n_threads, int32_t[:, ::1] labels):
    cdef int32_t status
    with nogil:
        status = c.cellrt_paint_polygons_2d(&coords[0, 0], &offsets[0], &order[0], offsets.shape[0] - 1,
                                            labels.shape[0], labels.shape[1], n_threads, &labels[0, 0])
    return status


def label_regions_2d(const int32_t[:, ::1] labels, int32_t n_threads, int64_t[::1] areas, int32_t[:, ::1] boxes,
                     double[:, ::1] centroids):
    cdef int32_t status
    cdef int32_t n_labels = <int32_t>areas.shape[0]
    with nogil:
        status = c.cellrt_label_regions_2d(&labels[0, 0], labels.shape[0], labels.shape[1], n_labels, n_threads,
                                           &areas[0], &boxes[0, 0], &centroids[0, 0])
    return status


def label_regions_3d(const int32_t[:, :, ::1] labels, int32_t n_threads, int64_t[::1] areas, int32_t[:, ::1] boxes,
                     double[:, ::1] centroids):
    cdef int32_t status
    cdef int32_t n_labels = <int32_t>areas.shape[0]
    with nogil:
        status = c.cellrt_label_regions_3d(&labels[0, 0, 0], labels.shape[0], labels.shape[1], labels.shape[2],
                                           n_labels, n_threads, &areas[0], &boxes[0, 0], &centroids[0, 0])
    return status


def relabel(const int32_t[::1] labels, int32_t n_threads, int32_t[::1] table, int32_t[::1] relabelled):
    cdef int32_t status
    cdef int32_t max_label = <int32_t>(table.shape[0] - 1)
    cdef int32_t n_labels = 0
    with nogil:
        status = c.cellrt_relabel(&labels[0], labels.shape[0], max_label, n_threads, &table[0], &relabelled[0],
                                  &n_labels)
    return status, n_labels


def resize_linear(const float[:, :, ::1] image, int32_t single_precision, int32_t n_threads, float[:, :, ::1] out):
    cdef int32_t status
    with nogil:
        status = c.cellrt_resize_linear_f32(&image[0, 0, 0], image.shape[0], image.shape[1], image.shape[2],
                                            out.shape[1], out.shape[2], single_precision, n_threads, &out[0, 0, 0])
    return status


def count_flow_follow_2d(const float[:, :, ::1] flow, const float[:, ::1] cellprob, float cellprob_thresh,
                         int32_t dynamics, int32_t n_threads):
    cdef int32_t status
    cdef int64_t n_pixels = 0
    with nogil:
        status = c.cellrt_flow_follow_2d(&flow[0, 0, 0], &cellprob[0, 0], cellprob.shape[0], cellprob.shape[1],
                                         cellprob_thresh, dynamics, 1, 0, NULL, 0, n_threads, &n_pixels, NULL, NULL)
    return status, n_pixels


def flow_follow_2d(const float[:, :, ::1] flow, const float[:, ::1] cellprob, float cellprob_thresh, int32_t dynamics,
                   int32_t interpolate, int32_t n_iter, const int32_t[::1] cancel, int32_t n_threads,
                   int64_t[::1] pixels, float[:, ::1] positions):
    cdef int32_t status
    cdef int64_t n_pixels = 0
    with nogil:
        status = c.cellrt_flow_follow_2d(&flow[0, 0, 0], &cellprob[0, 0], cellprob.shape[0], cellprob.shape[1],
                                         cellprob_thresh, dynamics, interpolate, n_iter, &cancel[0], pixels.shape[0],
                                         n_threads, &n_pixels, &pixels[0], &positions[0, 0])
    return status


def flow_masks_2d(const int64_t[::1] pixels, const float[:, ::1] positions, double max_size_fraction,
                  int32_t n_threads, int32_t[:, ::1] labels):
    cdef int32_t status
    cdef int32_t n_labels = 0
    with nogil:
        status = c.cellrt_flow_masks_2d(&pixels[0], &positions[0, 0], pixels.shape[0], labels.shape[0],
                                        labels.shape[1], max_size_fraction, n_threads, &labels[0, 0], &n_labels)
    return status, n_labels


def label_flows_2d(const int32_t[:, ::1] labels, int32_t n_labels, int32_t dynamics, int32_t n_iter,
                   int32_t n_threads, float[:, :, ::1] flow):
    cdef int32_t status
    with nogil:
        status = c.cellrt_label_flows_2d(&labels[0, 0], labels.shape[0], labels.shape[1], n_labels, dynamics, n_iter,
                                         n_threads, &flow[0, 0, 0])
    return status


def flow_errors_2d(const int32_t[:, ::1] labels, const float[:, :, ::1] flow, int32_t dynamics, int32_t n_threads,
                   double[::1] errors):
    cdef int32_t status
    cdef int32_t n_labels = <int32_t>errors.shape[0]
    with nogil:
        status = c.cellrt_flow_errors_2d(&labels[0, 0], &flow[0, 0, 0], labels.shape[0], labels.shape[1], n_labels,
                                         dynamics, n_threads, &errors[0])
    return status


def clean_labels_2d(const int32_t[:, ::1] labels, int32_t max_label, int64_t min_size, int32_t dynamics,
                    int32_t n_threads, int32_t[:, ::1] cleaned):
    cdef int32_t status
    cdef int32_t n_labels = 0
    with nogil:
        status = c.cellrt_clean_labels_2d(&labels[0, 0], labels.shape[0], labels.shape[1], max_label, min_size,
                                          dynamics, n_threads, &cleaned[0, 0], &n_labels)
    return status, n_labels


def count_flow_follow_3d(const float[:, :, :, ::1] flow, const float[:, :, ::1] cellprob, float cellprob_thresh,
                         int32_t n_threads):
    cdef int32_t status
    cdef int64_t n_voxels = 0
    with nogil:
        status = c.cellrt_flow_follow_3d(&flow[0, 0, 0, 0], &cellprob[0, 0, 0], cellprob.shape[0], cellprob.shape[1],
                                         cellprob.shape[2], cellprob_thresh, 0, NULL, 0, n_threads, &n_voxels, NULL, NULL)
    return status, n_voxels


def flow_follow_3d(const float[:, :, :, ::1] flow, const float[:, :, ::1] cellprob, float cellprob_thresh, int32_t n_iter,
                   const int32_t[::1] cancel, int32_t n_threads, int64_t[::1] voxels, float[:, ::1] positions):
    cdef int32_t status
    cdef int64_t n_voxels = 0
    with nogil:
        status = c.cellrt_flow_follow_3d(&flow[0, 0, 0, 0], &cellprob[0, 0, 0], cellprob.shape[0], cellprob.shape[1],
                                         cellprob.shape[2], cellprob_thresh, n_iter, &cancel[0], voxels.shape[0], n_threads,
                                         &n_voxels, &voxels[0], &positions[0, 0])
    return status


def count_flow_follow_window_3d(const float[:, :, :, ::1] flow, const float[:, :, ::1] cellprob,
                                const int64_t[::1] volume, const int64_t[::1] origin, const int64_t[::1] keep,
                                float cellprob_thresh, int32_t n_threads):
    cdef int32_t status
    cdef int64_t n_voxels = 0
    with nogil:
        status = c.cellrt_flow_follow_window_3d(&flow[0, 0, 0, 0], &cellprob[0, 0, 0], cellprob.shape[0],
                                                cellprob.shape[1], cellprob.shape[2], &volume[0], &origin[0], &keep[0],
                                                cellprob_thresh, 0, NULL, 0, n_threads, &n_voxels, NULL, NULL)
    return status, n_voxels


def flow_follow_window_3d(const float[:, :, :, ::1] flow, const float[:, :, ::1] cellprob, const int64_t[::1] volume,
                          const int64_t[::1] origin, const int64_t[::1] keep, float cellprob_thresh, int32_t n_iter,
                          const int32_t[::1] cancel, int32_t n_threads, int64_t[::1] voxels, float[:, ::1] positions):
    cdef int32_t status
    cdef int64_t n_voxels = 0
    with nogil:
        status = c.cellrt_flow_follow_window_3d(&flow[0, 0, 0, 0], &cellprob[0, 0, 0], cellprob.shape[0],
                                                cellprob.shape[1], cellprob.shape[2], &volume[0], &origin[0], &keep[0],
                                                cellprob_thresh, n_iter, &cancel[0], voxels.shape[0], n_threads,
                                                &n_voxels, &voxels[0], &positions[0, 0])
    return status


def flow_masks_3d(const int64_t[::1] voxels, const float[:, ::1] positions, double max_size_fraction,
                  int32_t n_threads, int32_t[:, :, ::1] labels):
    cdef int32_t status
    cdef int32_t n_labels = 0
    with nogil:
        status = c.cellrt_flow_masks_3d(&voxels[0], &positions[0, 0], voxels.shape[0], labels.shape[0], labels.shape[1],
                                        labels.shape[2], max_size_fraction, n_threads, &labels[0, 0, 0], &n_labels)
    return status, n_labels


def clean_labels_3d(const int32_t[:, :, ::1] labels, int32_t max_label, int64_t min_size, int32_t dynamics,
                    int32_t n_threads, int32_t[:, :, ::1] cleaned):
    cdef int32_t status
    cdef int32_t n_labels = 0
    with nogil:
        status = c.cellrt_clean_labels_3d(&labels[0, 0, 0], labels.shape[0], labels.shape[1], labels.shape[2], max_label,
                                          min_size, dynamics, n_threads, &cleaned[0, 0, 0], &n_labels)
    return status, n_labels


def label_outlines_2d(const int32_t[:, ::1] labels, int32_t n_threads, int64_t[::1] offsets, float[:, ::1] coords):
    cdef int32_t status
    cdef int32_t n_labels = <int32_t>(offsets.shape[0] - 1)
    cdef int64_t capacity = coords.shape[0]
    with nogil:
        status = c.cellrt_label_outlines_2d(&labels[0, 0], labels.shape[0], labels.shape[1], n_labels, capacity,
                                            n_threads, &offsets[0], &coords[0, 0])
    return status


def label_overlaps(const int32_t[::1] truth, const int32_t[::1] predicted, int32_t n_threads, int32_t[:, ::1] pairs,
                   int64_t[::1] counts):
    cdef int32_t status
    cdef int64_t n_pairs = 0
    with nogil:
        status = c.cellrt_label_overlaps(&truth[0], &predicted[0], truth.shape[0], counts.shape[0], n_threads, &n_pairs,
                                         &pairs[0, 0], &counts[0])
    return status, n_pairs


def match_pairs(const int32_t[:, ::1] pairs, const double[::1] scores, int32_t n_rows, int32_t n_columns,
                double threshold, int64_t max_steps, uint8_t[::1] is_matched):
    cdef int32_t status
    with nogil:
        status = c.cellrt_match_pairs(&pairs[0, 0], &scores[0], scores.shape[0], n_rows, n_columns, threshold, max_steps,
                                      &is_matched[0])
    return status


def count_star_candidates_3d(const float[:, :, :, ::1] maps, int32_t n_rays, int32_t n_class_channels,
                             int64_t z_begin, int64_t z_end, int64_t y_begin, int64_t y_end, int64_t x_begin,
                             int64_t x_end, float prob_thresh, int32_t grid_z, int32_t grid_y, int32_t grid_x,
                             int32_t origin_z, int32_t origin_y, int32_t origin_x, int32_t n_threads):
    cdef int32_t status
    cdef int64_t n_candidates = 0
    with nogil:
        status = c.cellrt_star_candidates_3d(
            &maps[0, 0, 0, 0], n_rays, n_class_channels, maps.shape[1], maps.shape[2], maps.shape[3], z_begin, z_end,
            y_begin, y_end, x_begin, x_end, prob_thresh, grid_z, grid_y, grid_x, origin_z, origin_y, origin_x, 0,
            n_threads, &n_candidates, NULL, NULL, NULL, NULL)
    return status, n_candidates


def star_candidates_3d(const float[:, :, :, ::1] maps, int32_t n_rays, int32_t n_class_channels,
                       int64_t z_begin, int64_t z_end, int64_t y_begin, int64_t y_end, int64_t x_begin,
                       int64_t x_end, float prob_thresh, int32_t grid_z, int32_t grid_y, int32_t grid_x,
                       int32_t origin_z, int32_t origin_y, int32_t origin_x, int32_t n_threads, float[::1] prob,
                       float[:, ::1] dist, int32_t[:, ::1] points, float[:, ::1] class_prob):
    cdef int32_t status
    cdef int64_t n_candidates = 0
    with nogil:
        status = c.cellrt_star_candidates_3d(
            &maps[0, 0, 0, 0], n_rays, n_class_channels, maps.shape[1], maps.shape[2], maps.shape[3], z_begin, z_end,
            y_begin, y_end, x_begin, x_end, prob_thresh, grid_z, grid_y, grid_x, origin_z, origin_y, origin_x,
            prob.shape[0], n_threads, &n_candidates, &prob[0], &dist[0, 0], &points[0, 0], &class_prob[0, 0])
    return status


def paint_polyhedra_3d(const float[:, ::1] dist, const float[:, ::1] points, const int64_t[::1] order,
                       const float[:, ::1] rays, const int32_t[:, ::1] faces, int32_t origin_z, int32_t origin_y,
                       int32_t origin_x, int32_t mode, int32_t marks_overlap, int32_t overlap_label,
                       const int32_t[::1] cancel, int32_t n_threads, int32_t[:, :, ::1] labels):
    cdef int32_t status
    cdef int32_t n_rays = <int32_t>rays.shape[0]
    cdef int32_t n_faces = <int32_t>faces.shape[0]
    with nogil:
        status = c.cellrt_paint_polyhedra_3d(
            &dist[0, 0], &points[0, 0], &order[0], dist.shape[0], &rays[0, 0], n_rays, &faces[0, 0], n_faces, origin_z,
            origin_y, origin_x, labels.shape[0], labels.shape[1], labels.shape[2], mode, marks_overlap, overlap_label,
            &cancel[0], n_threads, &labels[0, 0, 0])
    return status


def star_nms_3d(const float[::1] prob, const float[:, ::1] dist, const int32_t[:, ::1] points,
                const float[:, ::1] rays, const int32_t[:, ::1] faces, float nms_thresh, int64_t max_work,
                const int32_t[::1] cancel, int32_t n_threads, int64_t[::1] kept):
    cdef int32_t status
    cdef int32_t n_rays = <int32_t>rays.shape[0]
    cdef int32_t n_faces = <int32_t>faces.shape[0]
    cdef int64_t n_kept = 0
    with nogil:
        status = c.cellrt_star_nms_3d(&prob[0], &dist[0, 0], &points[0, 0], prob.shape[0], &rays[0, 0], n_rays,
                                      &faces[0, 0], n_faces, nms_thresh, max_work, &cancel[0], n_threads, &n_kept,
                                      &kept[0])
    return status, n_kept


def star_settle_3d(const float[::1] prob, const float[:, ::1] dist, const int32_t[:, ::1] points,
                   const float[:, ::1] rays, const int32_t[:, ::1] faces, const uint8_t[::1] is_open, float nms_thresh,
                   int64_t max_work, const int32_t[::1] cancel, int32_t n_threads, uint8_t[::1] states):
    cdef int32_t status
    cdef int32_t n_rays = <int32_t>rays.shape[0]
    cdef int32_t n_faces = <int32_t>faces.shape[0]
    with nogil:
        status = c.cellrt_star_settle_3d(&prob[0], &dist[0, 0], &points[0, 0], prob.shape[0], &rays[0, 0], n_rays,
                                         &faces[0, 0], n_faces, &is_open[0], nms_thresh, max_work, &cancel[0], n_threads,
                                         &states[0])
    return status
