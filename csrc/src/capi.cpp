// The C interface: checks every argument, calls the kernel, turns what it throws into a status.
#include "cellrt.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <new>
#include <stdexcept>

#include "clean_labels.hpp"
#include "flow_follow_2d.hpp"
#include "flow_follow_3d.hpp"
#include "flow_masks_2d.hpp"
#include "flow_masks_3d.hpp"
#include "label_flows_2d.hpp"
#include "label_outlines_2d.hpp"
#include "label_overlaps.hpp"
#include "label_regions_2d.hpp"
#include "label_regions_3d.hpp"
#include "match_pairs.hpp"
#include "normalize.hpp"
#include "object_probability_2d.hpp"
#include "paint_polygons_2d.hpp"
#include "paint_polyhedra_3d.hpp"
#include "parallel.hpp"
#include "percentiles.hpp"
#include "relabel.hpp"
#include "resize_linear.hpp"
#include "star_candidates_2d.hpp"
#include "star_candidates_3d.hpp"
#include "star_distances_2d.hpp"
#include "star_nms_2d.hpp"
#include "star_nms_3d.hpp"
#include "star_outlines_2d.hpp"
#include "status.hpp"

namespace {

using cellrt::require;
using cellrt::StridedImage;

constexpr std::int64_t largest_side = std::int64_t{1} << 30;
constexpr std::int64_t largest_count = std::int64_t{1} << 40;
constexpr std::int64_t largest_label = INT32_MAX;

// Runs a kernel; no exception leaves it.
template <typename Kernel>
std::int32_t status_of(const Kernel& kernel) noexcept {
    try {
        kernel();
        return CELLRT_OK;
    } catch (const cellrt::Failure& failure) {
        return failure.status();
    } catch (const std::bad_alloc&) {
        return CELLRT_ERROR_MEMORY;
    } catch (const std::length_error&) {
        return CELLRT_ERROR_MEMORY;
    } catch (...) {
        return CELLRT_ERROR_INTERNAL;
    }
}

void require_range(std::int64_t value, std::int64_t smallest, std::int64_t largest) {
    require(value >= smallest && value <= largest);
}

void require_threads(std::int32_t n_threads) { require(n_threads >= 0); }

// The product of counts, each up to 2^40, which must be at most 2^40 itself.
std::int64_t checked_product(std::initializer_list<std::int64_t> factors) {
    std::int64_t product = 1;
    for (const std::int64_t factor : factors) {
        require_range(factor, 0, largest_count);
        require(factor == 0 || product <= largest_count / factor);
        product *= factor;
    }
    return product;
}

// A pointer to `count` elements; NULL will do for none.
template <typename Element>
void require_array(const Element* pointer, std::int64_t count) {
    require(pointer != nullptr || count == 0);
}

// The image of cellrt_percentiles_*() and cellrt_normalize_*(): at least one pixel.
template <typename Pixel>
StridedImage<Pixel> checked_image(const Pixel* image, std::int64_t n_channels, std::int64_t n_y, std::int64_t n_x,
                                  std::int64_t stride_channel, std::int64_t stride_y, std::int64_t stride_x) {
    require(image != nullptr);
    for (const std::int64_t side : {n_channels, n_y, n_x}) require_range(side, 1, largest_side);
    checked_product({n_channels, n_y, n_x});
    // Keeps the sum of all offsets far from overflow; real strides are limited by memory.
    const std::int64_t n[] = {n_channels, n_y, n_x};
    const std::int64_t strides[] = {stride_channel, stride_y, stride_x};
    for (int axis = 0; axis < 3; ++axis) {
        const std::int64_t largest_stride = (std::int64_t{1} << 58) / n[axis];
        if (n[axis] > 1) require_range(strides[axis], -largest_stride, largest_stride);
    }
    return {image, {n_channels, n_y, n_x}, {stride_channel, stride_y, stride_x}};
}

template <typename Pixel>
std::int32_t percentiles_status(const Pixel* image, std::int64_t n_channels, std::int64_t n_y, std::int64_t n_x,
                                std::int64_t stride_channel, std::int64_t stride_y, std::int64_t stride_x,
                                const double* percents, std::int32_t n_percents, std::int32_t n_threads,
                                double* values) noexcept {
    return status_of([&] {
        const auto checked = checked_image(image, n_channels, n_y, n_x, stride_channel, stride_y, stride_x);
        require(n_percents >= 0);
        require_array(percents, n_percents);
        require_array(values, n_percents);
        for (std::int32_t i = 0; i < n_percents; ++i) require(percents[i] >= 0.0 && percents[i] <= 100.0);
        require_threads(n_threads);
        cellrt::percentiles(checked, percents, n_percents, n_threads, values);
    });
}

template <typename Pixel>
std::int32_t normalize_status(const Pixel* image, std::int64_t n_channels, std::int64_t n_y, std::int64_t n_x,
                              std::int64_t stride_channel, std::int64_t stride_y, std::int64_t stride_x,
                              const float* low, const float* divisor, std::int64_t out_y, std::int64_t out_x,
                              std::int32_t n_threads, float* out) noexcept {
    return status_of([&] {
        const auto checked = checked_image(image, n_channels, n_y, n_x, stride_channel, stride_y, stride_x);
        require(low != nullptr && divisor != nullptr && out != nullptr);
        for (std::int64_t channel = 0; channel < n_channels; ++channel) {
            require(std::isfinite(low[channel]) && std::isfinite(divisor[channel]) && divisor[channel] != 0.0f);
        }
        require_range(out_y, n_y, largest_side);
        require_range(out_x, n_x, largest_side);
        checked_product({n_channels, out_y, out_x});
        require_threads(n_threads);
        cellrt::normalize(checked, low, divisor, out_y, out_x, n_threads, out);
    });
}

void require_dynamics(std::int32_t dynamics) { require(dynamics == CELLRT_DYNAMICS_V3 || dynamics == CELLRT_DYNAMICS_V4); }

// The number of pixels of an image, or of one of its planes; none is allowed.
std::int64_t checked_plane(std::int64_t n_y, std::int64_t n_x) {
    require_range(n_y, 0, largest_side);
    require_range(n_x, 0, largest_side);
    return checked_product({n_y, n_x});
}

// The same for training targets. Up to here float32 tells halves of pixels apart, and products of a side and a squared
// distance have 63 bits.
std::int64_t checked_target_plane(std::int64_t n_y, std::int64_t n_x) {
    constexpr std::int64_t largest_target_side = std::int64_t{1} << 20;
    require_range(n_y, 0, largest_target_side);
    require_range(n_x, 0, largest_target_side);
    return checked_product({n_y, n_x});
}

// The number of voxels of a volume of flows. Up to these sides float32 tells 16ths of voxels apart, and rows have numbers
// of 31 bits.
std::int64_t checked_flow_volume(std::int64_t n_z, std::int64_t n_y, std::int64_t n_x) {
    constexpr std::int64_t largest_volume_side = std::int64_t{1} << 20;
    for (const std::int64_t side : {n_z, n_y, n_x}) require_range(side, 0, largest_volume_side);
    require(n_z * n_y <= INT32_MAX);
    return checked_product({n_z, n_y, n_x});
}

// The last pixel coordinate of a row or column of samples must be one that cellrt_star_nms_2d() accepts.
void require_samples(std::int64_t n, std::int32_t grid, std::int32_t origin) {
    require_range(n, 0, largest_side);
    require_range(grid, 1, largest_side);
    require_range(origin, -largest_side, largest_side);
    require(n == 0 || origin + (n - 1) * grid <= largest_side);
}

// The number of voxels of a volume; none is allowed.
std::int64_t checked_volume(std::int64_t n_z, std::int64_t n_y, std::int64_t n_x) {
    for (const std::int64_t side : {n_z, n_y, n_x}) require_range(side, 0, largest_side);
    return checked_product({n_z, n_y, n_x});
}

// Rays and faces of polyhedra.
cellrt::StarMesh3D checked_mesh(const float* rays, std::int32_t n_rays, const std::int32_t* faces, std::int32_t n_faces) {
    require_range(n_rays, 3, 1024);
    require_range(n_faces, 1, 2 * 1024);
    require(rays != nullptr && faces != nullptr);
    for (std::int32_t i = 0; i < 3 * n_rays; ++i) require(std::fabs(rays[i]) <= 1024.0f, CELLRT_ERROR_DATA);
    for (std::int32_t i = 0; i < 3 * n_faces; ++i) require(faces[i] >= 0 && faces[i] < n_rays);
    return {rays, n_rays, faces, n_faces};
}

}  // namespace

extern "C" {

std::int32_t cellrt_version(void) { return CELLRT_VERSION; }

const char* cellrt_status_text(std::int32_t status) {
    switch (status) {
        case CELLRT_OK: return "ok";
        case CELLRT_ERROR_ARGUMENT: return "a size, a parameter or a pointer is out of range";
        case CELLRT_ERROR_MEMORY: return "the system refused memory";
        case CELLRT_ERROR_CAPACITY: return "an output or a work limit was too small";
        case CELLRT_ERROR_CANCELLED: return "cancelled by the caller";
        case CELLRT_ERROR_INTERNAL: return "a defect of this library";
        case CELLRT_ERROR_DATA: return "the data cannot be used: NaN or infinite values, or numbers out of range";
        default: return "an unknown status";
    }
}

std::int32_t cellrt_usable_cores(void) { return cellrt::usable_cores(); }

std::int32_t cellrt_percentiles_u8(const std::uint8_t* image, std::int64_t n_channels, std::int64_t n_y, std::int64_t n_x,
    std::int64_t stride_channel, std::int64_t stride_y, std::int64_t stride_x, const double* percents,
    std::int32_t n_percents, std::int32_t n_threads, double* values) {
    return percentiles_status(image, n_channels, n_y, n_x, stride_channel, stride_y, stride_x, percents, n_percents,
                              n_threads, values);
}

std::int32_t cellrt_percentiles_u16(const std::uint16_t* image, std::int64_t n_channels, std::int64_t n_y, std::int64_t n_x,
    std::int64_t stride_channel, std::int64_t stride_y, std::int64_t stride_x, const double* percents,
    std::int32_t n_percents, std::int32_t n_threads, double* values) {
    return percentiles_status(image, n_channels, n_y, n_x, stride_channel, stride_y, stride_x, percents, n_percents,
                              n_threads, values);
}

std::int32_t cellrt_percentiles_f32(const float* image, std::int64_t n_channels, std::int64_t n_y, std::int64_t n_x,
    std::int64_t stride_channel, std::int64_t stride_y, std::int64_t stride_x, const double* percents,
    std::int32_t n_percents, std::int32_t n_threads, double* values) {
    return percentiles_status(image, n_channels, n_y, n_x, stride_channel, stride_y, stride_x, percents, n_percents,
                              n_threads, values);
}

std::int32_t cellrt_normalize_u8(const std::uint8_t* image, std::int64_t n_channels, std::int64_t n_y, std::int64_t n_x,
    std::int64_t stride_channel, std::int64_t stride_y, std::int64_t stride_x, const float* low, const float* divisor,
    std::int64_t out_y, std::int64_t out_x, std::int32_t n_threads, float* out) {
    return normalize_status(image, n_channels, n_y, n_x, stride_channel, stride_y, stride_x, low, divisor, out_y, out_x,
                            n_threads, out);
}

std::int32_t cellrt_normalize_u16(const std::uint16_t* image, std::int64_t n_channels, std::int64_t n_y, std::int64_t n_x,
    std::int64_t stride_channel, std::int64_t stride_y, std::int64_t stride_x, const float* low, const float* divisor,
    std::int64_t out_y, std::int64_t out_x, std::int32_t n_threads, float* out) {
    return normalize_status(image, n_channels, n_y, n_x, stride_channel, stride_y, stride_x, low, divisor, out_y, out_x,
                            n_threads, out);
}

std::int32_t cellrt_normalize_f32(const float* image, std::int64_t n_channels, std::int64_t n_y, std::int64_t n_x,
    std::int64_t stride_channel, std::int64_t stride_y, std::int64_t stride_x, const float* low, const float* divisor,
    std::int64_t out_y, std::int64_t out_x, std::int32_t n_threads, float* out) {
    return normalize_status(image, n_channels, n_y, n_x, stride_channel, stride_y, stride_x, low, divisor, out_y, out_x,
                            n_threads, out);
}

std::int32_t cellrt_star_candidates_2d(const float* maps, std::int32_t n_rays, std::int32_t n_class_channels,
    std::int64_t n_y, std::int64_t n_x, std::int64_t y_begin, std::int64_t y_end, std::int64_t x_begin,
    std::int64_t x_end, float prob_thresh, std::int32_t grid_y, std::int32_t grid_x, std::int32_t origin_y,
    std::int32_t origin_x, std::int64_t capacity, std::int32_t n_threads, std::int64_t* n_candidates, float* prob,
    float* dist, std::int32_t* points, float* class_prob) {
    return status_of([&] {
        require_range(n_rays, 3, 1024);
        require_range(n_class_channels, 0, 1 << 20);
        require_samples(n_y, grid_y, origin_y);
        require_samples(n_x, grid_x, origin_x);
        require_array(maps, checked_product({1 + n_rays + n_class_channels, n_y, n_x}));
        require(y_begin >= 0 && y_begin <= y_end && y_end <= n_y);
        require(x_begin >= 0 && x_begin <= x_end && x_end <= n_x);
        require(!std::isnan(prob_thresh));
        require_range(capacity, 0, largest_count);
        require_threads(n_threads);
        require(n_candidates != nullptr);
        require_array(prob, capacity);
        require_array(dist, checked_product({capacity, n_rays}));
        require_array(points, capacity);
        require_array(class_prob, checked_product({capacity, n_class_channels}));
        cellrt::star_candidates_2d(maps, n_rays, n_class_channels, n_y, n_x, {y_begin, y_end, x_begin, x_end},
                                   prob_thresh, {grid_y, grid_x, origin_y, origin_x}, capacity, n_threads, n_candidates,
                                   prob, dist, points, class_prob);
    });
}

std::int32_t cellrt_star_nms_2d(const float* prob, const float* dist, const std::int32_t* points, std::int64_t n,
    std::int32_t n_rays, float nms_thresh, std::int64_t max_pairs, const std::int32_t* cancel, std::int32_t n_threads,
    std::int64_t* n_kept, std::int64_t* kept) {
    return status_of([&] {
        require_range(n, 0, largest_count);
        require_range(n_rays, 3, 1024);
        require_array(prob, n);
        require_array(dist, checked_product({n, n_rays}));
        require_array(points, n);
        require(nms_thresh >= 0.0f && nms_thresh <= 1.0f);
        require(max_pairs >= 0);
        require_threads(n_threads);
        require(n_kept != nullptr);
        require_array(kept, n);
        cellrt::star_nms_2d(prob, dist, points, n, n_rays, nms_thresh, max_pairs, cancel, n_threads, n_kept, kept);
    });
}

std::int32_t cellrt_star_outlines_2d(const float* dist, const double* points, std::int64_t n, std::int32_t n_rays,
    double scale_y, double scale_x, std::int32_t n_threads, float* coords) {
    return status_of([&] {
        require_range(n, 0, largest_count);
        require_range(n_rays, 3, 1024);
        const std::int64_t n_vertices = checked_product({n, n_rays});
        require_array(dist, n_vertices);
        require_array(points, n);
        require(std::isfinite(scale_y) && std::isfinite(scale_x));
        require_threads(n_threads);
        require_array(coords, n_vertices);
        cellrt::star_outlines_2d(dist, points, n, n_rays, scale_y, scale_x, n_threads, coords);
    });
}

std::int32_t cellrt_star_distances_2d(const std::int32_t* labels, std::int64_t n_y, std::int64_t n_x, std::int32_t grid_y,
    std::int32_t grid_x, std::int32_t n_rays, std::int32_t n_threads, float* dist) {
    return status_of([&] {
        require_array(labels, checked_target_plane(n_y, n_x));
        require_range(grid_y, 1, largest_side);
        require_range(grid_x, 1, largest_side);
        require_range(n_rays, 3, 1024);
        require_threads(n_threads);
        require_array(dist, checked_product({n_rays, (n_y + grid_y - 1) / grid_y, (n_x + grid_x - 1) / grid_x}));
        cellrt::star_distances_2d(labels, n_y, n_x, grid_y, grid_x, n_rays, n_threads, dist);
    });
}

std::int32_t cellrt_object_probability_2d(const std::int32_t* labels, std::int64_t n_y, std::int64_t n_x,
    std::int32_t n_labels, std::int32_t n_threads, float* prob) {
    return status_of([&] {
        const std::int64_t n_pixels = checked_target_plane(n_y, n_x);
        require_array(labels, n_pixels);
        require(n_labels >= 0);
        require_threads(n_threads);
        require_array(prob, n_pixels);
        cellrt::object_probability_2d(labels, n_y, n_x, n_labels, n_threads, prob);
    });
}

std::int32_t cellrt_star_candidates_3d(const float* maps, std::int32_t n_rays, std::int32_t n_class_channels,
    std::int64_t n_z, std::int64_t n_y, std::int64_t n_x, std::int64_t z_begin, std::int64_t z_end, std::int64_t y_begin,
    std::int64_t y_end, std::int64_t x_begin, std::int64_t x_end, float prob_thresh, std::int32_t grid_z,
    std::int32_t grid_y, std::int32_t grid_x, std::int32_t origin_z, std::int32_t origin_y, std::int32_t origin_x,
    std::int64_t capacity, std::int32_t n_threads, std::int64_t* n_candidates, float* prob, float* dist,
    std::int32_t* points, float* class_prob) {
    return status_of([&] {
        require_range(n_rays, 3, 1024);
        require_range(n_class_channels, 0, 1 << 20);
        require_samples(n_z, grid_z, origin_z);
        require_samples(n_y, grid_y, origin_y);
        require_samples(n_x, grid_x, origin_x);
        require_array(maps, checked_product({1 + n_rays + n_class_channels, n_z, n_y, n_x}));
        require(z_begin >= 0 && z_begin <= z_end && z_end <= n_z);
        require(y_begin >= 0 && y_begin <= y_end && y_end <= n_y);
        require(x_begin >= 0 && x_begin <= x_end && x_end <= n_x);
        require(!std::isnan(prob_thresh));
        require_range(capacity, 0, largest_count);
        require_threads(n_threads);
        require(n_candidates != nullptr);
        require_array(prob, capacity);
        require_array(dist, checked_product({capacity, n_rays}));
        require_array(points, capacity);
        require_array(class_prob, checked_product({capacity, n_class_channels}));
        cellrt::star_candidates_3d(maps, n_rays, n_class_channels, n_z, n_y, n_x,
                                   {z_begin, z_end, y_begin, y_end, x_begin, x_end}, prob_thresh,
                                   {grid_z, grid_y, grid_x, origin_z, origin_y, origin_x}, capacity, n_threads,
                                   n_candidates, prob, dist, points, class_prob);
    });
}

constexpr std::int64_t most_polyhedra = 1 << 22;

std::int32_t cellrt_star_nms_3d(const float* prob, const float* dist, const std::int32_t* points, std::int64_t n,
    const float* rays, std::int32_t n_rays, const std::int32_t* faces, std::int32_t n_faces, float nms_thresh,
    std::int64_t max_work, const std::int32_t* cancel, std::int32_t n_threads, std::int64_t* n_kept, std::int64_t* kept) {
    return status_of([&] {
        require_range(n, 0, largest_count);
        const cellrt::StarMesh3D mesh = checked_mesh(rays, n_rays, faces, n_faces);
        require_array(prob, n);
        require_array(dist, checked_product({n, n_rays}));
        require_array(points, n);
        require(nms_thresh >= 0.0f && nms_thresh <= 1.0f);
        require(max_work >= 0);
        require_threads(n_threads);
        require(n_kept != nullptr);
        require_array(kept, n);
        require(n <= most_polyhedra, CELLRT_ERROR_CAPACITY);
        cellrt::star_nms_3d(prob, dist, points, n, mesh, nms_thresh, max_work, cancel, n_threads, n_kept, kept);
    });
}

std::int32_t cellrt_star_settle_3d(const float* prob, const float* dist, const std::int32_t* points, std::int64_t n,
    const float* rays, std::int32_t n_rays, const std::int32_t* faces, std::int32_t n_faces, const std::uint8_t* is_open,
    float nms_thresh, std::int64_t max_work, const std::int32_t* cancel, std::int32_t n_threads, std::uint8_t* states) {
    return status_of([&] {
        require_range(n, 0, largest_count);
        const cellrt::StarMesh3D mesh = checked_mesh(rays, n_rays, faces, n_faces);
        require_array(prob, n);
        require_array(dist, checked_product({n, n_rays}));
        require_array(points, n);
        require_array(is_open, n);
        require(nms_thresh >= 0.0f && nms_thresh <= 1.0f);
        require(max_work >= 0);
        require_threads(n_threads);
        require_array(states, n);
        require(n <= most_polyhedra, CELLRT_ERROR_CAPACITY);
        cellrt::star_settle_3d(prob, dist, points, n, mesh, is_open, nms_thresh, max_work, cancel, n_threads, states);
    });
}

std::int32_t cellrt_paint_polyhedra_3d(const float* dist, const float* points, const std::int64_t* order, std::int64_t n,
    const float* rays, std::int32_t n_rays, const std::int32_t* faces, std::int32_t n_faces, std::int32_t origin_z,
    std::int32_t origin_y, std::int32_t origin_x, std::int64_t n_z, std::int64_t n_y, std::int64_t n_x, std::int32_t mode,
    std::int32_t marks_overlap, std::int32_t overlap_label, const std::int32_t* cancel, std::int32_t n_threads,
    std::int32_t* labels) {
    return status_of([&] {
        require_range(n, 0, largest_label);
        const cellrt::StarMesh3D mesh = checked_mesh(rays, n_rays, faces, n_faces);
        require_array(dist, checked_product({n, n_rays}));
        require_array(points, n);
        require_array(order, n);
        for (std::int64_t i = 0; i < n; ++i) require(order[i] >= 0 && order[i] < n);
        for (const std::int32_t origin : {origin_z, origin_y, origin_x}) require_range(origin, -largest_side, largest_side);
        require_range(mode, CELLRT_POLYHEDRON_FULL, CELLRT_POLYHEDRON_BBOX);
        require(marks_overlap == 0 || marks_overlap == 1);
        require_threads(n_threads);
        require_array(labels, checked_volume(n_z, n_y, n_x));
        cellrt::paint_polyhedra_3d(dist, points, order, n, mesh, {origin_z, origin_y, origin_x, n_z, n_y, n_x},
                                   {mode, marks_overlap != 0, overlap_label}, cancel, n_threads, labels);
    });
}

std::int32_t cellrt_paint_polygons_2d(const float* coords, const std::int64_t* offsets, const std::int64_t* order,
    std::int64_t n, std::int64_t n_y, std::int64_t n_x, std::int32_t n_threads, std::int32_t* labels) {
    return status_of([&] {
        require_range(n, 0, largest_label);
        require(offsets != nullptr);
        require(offsets[0] == 0);
        for (std::int64_t i = 0; i < n; ++i) require(offsets[i] <= offsets[i + 1]);
        require_range(offsets[n], 0, largest_count);
        require_array(coords, offsets[n]);
        require_array(order, n);
        for (std::int64_t i = 0; i < n; ++i) require(order[i] >= 0 && order[i] < n);
        require_range(n_y, 0, largest_side);
        require_range(n_x, 0, largest_side);
        require_array(labels, checked_product({n_y, n_x}));
        require_threads(n_threads);
        cellrt::paint_polygons_2d(coords, offsets, order, n, n_y, n_x, n_threads, labels);
    });
}

std::int32_t cellrt_label_regions_2d(const std::int32_t* labels, std::int64_t n_y, std::int64_t n_x,
    std::int32_t n_labels, std::int32_t n_threads, std::int64_t* areas, std::int32_t* boxes, double* centroids) {
    return status_of([&] {
        require_range(n_y, 0, largest_side);
        require_range(n_x, 0, largest_side);
        const std::int64_t n_pixels = checked_product({n_y, n_x});
        // The sums of coordinates have 63 bits.
        require(n_pixels == 0 || n_pixels <= INT64_MAX / 2 / std::max(n_y, n_x));
        require_array(labels, n_pixels);
        require(n_labels >= 0);
        require_threads(n_threads);
        require_array(areas, n_labels);
        require_array(boxes, n_labels);
        require_array(centroids, n_labels);
        cellrt::label_regions_2d(labels, n_y, n_x, n_labels, n_threads, areas, boxes, centroids);
    });
}

std::int32_t cellrt_label_regions_3d(const std::int32_t* labels, std::int64_t n_z, std::int64_t n_y, std::int64_t n_x,
    std::int32_t n_labels, std::int32_t n_threads, std::int64_t* areas, std::int32_t* boxes, double* centroids) {
    return status_of([&] {
        for (const std::int64_t side : {n_z, n_y, n_x}) require_range(side, 0, largest_side);
        const std::int64_t n_voxels = checked_product({n_z, n_y, n_x});
        // The sums of coordinates have 63 bits.
        require(n_voxels == 0 || n_voxels <= INT64_MAX / 2 / std::max({n_z, n_y, n_x}));
        require_array(labels, n_voxels);
        require(n_labels >= 0);
        require_threads(n_threads);
        require_array(areas, n_labels);
        require_array(boxes, n_labels);
        require_array(centroids, n_labels);
        cellrt::label_regions_3d(labels, n_z, n_y, n_x, n_labels, n_threads, areas, boxes, centroids);
    });
}

std::int32_t cellrt_relabel(const std::int32_t* labels, std::int64_t n_pixels, std::int32_t max_label,
    std::int32_t n_threads, std::int32_t* table, std::int32_t* relabelled, std::int32_t* n_labels) {
    return status_of([&] {
        require_range(n_pixels, 0, largest_count);
        require_array(labels, n_pixels);
        require(max_label >= 0);
        require_threads(n_threads);
        require(table != nullptr && n_labels != nullptr);
        require_array(relabelled, n_pixels);
        cellrt::relabel(labels, n_pixels, max_label, n_threads, table, relabelled, n_labels);
    });
}

std::int32_t cellrt_resize_linear_f32(const float* image, std::int64_t n_planes, std::int64_t n_y, std::int64_t n_x,
    std::int64_t out_y, std::int64_t out_x, std::int32_t single_precision, std::int32_t n_threads, float* out) {
    return status_of([&] {
        for (const std::int64_t side : {n_y, n_x, out_y, out_x}) require_range(side, 1, largest_side);
        require(single_precision == 0 || single_precision == 1);
        require_array(image, checked_product({n_planes, n_y, n_x}));
        require_array(out, checked_product({n_planes, out_y, out_x}));
        require_threads(n_threads);
        cellrt::resize_linear(image, n_planes, n_y, n_x, out_y, out_x, single_precision != 0, n_threads, out);
    });
}

std::int32_t cellrt_flow_follow_2d(const float* flow, const float* cellprob, std::int64_t n_y, std::int64_t n_x,
    float cellprob_thresh, std::int32_t dynamics, std::int32_t interpolate, std::int32_t n_iter,
    const std::int32_t* cancel, std::int64_t capacity, std::int32_t n_threads, std::int64_t* n_pixels,
    std::int64_t* pixels, float* positions) {
    return status_of([&] {
        const std::int64_t n_plane = checked_plane(n_y, n_x);
        checked_product({2, n_plane});
        require_array(flow, n_plane);
        require_array(cellprob, n_plane);
        require(!std::isnan(cellprob_thresh));
        require_dynamics(dynamics);
        require(interpolate == 1 || (interpolate == 0 && dynamics == CELLRT_DYNAMICS_V3));
        require(n_iter >= 0);
        require_range(capacity, 0, largest_count);
        require_threads(n_threads);
        require(n_pixels != nullptr);
        require_array(pixels, capacity);
        require_array(positions, capacity);
        *n_pixels = cellrt::count_cell_pixels(cellprob, n_plane, cellprob_thresh, n_threads);
        require(*n_pixels <= capacity, CELLRT_ERROR_CAPACITY);
        cellrt::flow_follow_2d(flow, cellprob, n_y, n_x, cellprob_thresh, dynamics, interpolate != 0, n_iter, cancel,
                               *n_pixels, n_threads, pixels, positions);
    });
}

std::int32_t cellrt_flow_masks_2d(const std::int64_t* pixels, const float* positions, std::int64_t n, std::int64_t n_y,
    std::int64_t n_x, double max_size_fraction, std::int32_t n_threads, std::int32_t* labels, std::int32_t* n_labels) {
    return status_of([&] {
        const std::int64_t n_plane = checked_plane(n_y, n_x);
        require_range(n, 0, n_plane);
        require_array(pixels, n);
        require_array(positions, n);
        for (std::int64_t i = 0; i < n; ++i) require(pixels[i] >= 0 && pixels[i] < n_plane && (i == 0 || pixels[i - 1] < pixels[i]));
        require(max_size_fraction >= 0.0);
        require_threads(n_threads);
        require_array(labels, n_plane);
        require(n_labels != nullptr);
        *n_labels = cellrt::flow_masks_2d(pixels, positions, n, n_y, n_x, max_size_fraction, n_threads, labels);
    });
}

std::int32_t cellrt_flow_follow_3d(const float* flow, const float* cellprob, std::int64_t n_z, std::int64_t n_y,
    std::int64_t n_x, float cellprob_thresh, std::int32_t n_iter, const std::int32_t* cancel, std::int64_t capacity,
    std::int32_t n_threads, std::int64_t* n_voxels, std::int64_t* voxels, float* positions) {
    return status_of([&] {
        const std::int64_t n_volume = checked_flow_volume(n_z, n_y, n_x);
        checked_product({4, n_z + 2, n_y + 2, n_x + 2});
        require_array(flow, n_volume);
        require_array(cellprob, n_volume);
        require(!std::isnan(cellprob_thresh));
        require(n_iter >= 0);
        require_range(capacity, 0, largest_count);
        require_threads(n_threads);
        require(n_voxels != nullptr);
        require_array(voxels, capacity);
        require_array(positions, capacity);
        *n_voxels = cellrt::count_cell_pixels(cellprob, n_volume, cellprob_thresh, n_threads);
        require(*n_voxels <= capacity, CELLRT_ERROR_CAPACITY);
        const cellrt::FlowWindow3D whole{{n_z, n_y, n_x}, {0, 0, 0}, {0, 0, 0}, {n_z, n_y, n_x}};
        cellrt::flow_follow_3d(flow, cellprob, n_z, n_y, n_x, whole, cellprob_thresh, n_iter, cancel, *n_voxels,
                               n_threads, voxels, positions);
    });
}

std::int32_t cellrt_flow_follow_window_3d(const float* flow, const float* cellprob, std::int64_t n_z, std::int64_t n_y,
    std::int64_t n_x, const std::int64_t* volume, const std::int64_t* origin, const std::int64_t* keep,
    float cellprob_thresh, std::int32_t n_iter, const std::int32_t* cancel, std::int64_t capacity, std::int32_t n_threads,
    std::int64_t* n_voxels, std::int64_t* voxels, float* positions) {
    return status_of([&] {
        const std::int64_t n_window = checked_flow_volume(n_z, n_y, n_x);
        checked_product({4, n_z + 2, n_y + 2, n_x + 2});
        require(volume != nullptr && origin != nullptr && keep != nullptr);
        checked_flow_volume(volume[0], volume[1], volume[2]);
        cellrt::FlowWindow3D window{};
        const std::array<std::int64_t, 3> sides{n_z, n_y, n_x};
        for (std::size_t axis = 0; axis < 3; ++axis) {
            window.volume[axis] = volume[axis];
            window.origin[axis] = origin[axis];
            require_range(origin[axis], 0, volume[axis] - sides[axis]);
            window.keep_begin[axis] = keep[2 * axis];
            window.keep_end[axis] = keep[2 * axis + 1];
            require_range(window.keep_begin[axis], window.is_cut_before(axis) ? 1 : 0, sides[axis]);
            require_range(window.keep_end[axis], window.keep_begin[axis],
                          sides[axis] - (window.is_cut_after(axis, sides[axis]) ? 1 : 0));
        }
        require_array(flow, n_window);
        require_array(cellprob, n_window);
        require(!std::isnan(cellprob_thresh));
        require(n_iter >= 0);
        require_range(capacity, 0, largest_count);
        require_threads(n_threads);
        require(n_voxels != nullptr);
        require_array(voxels, capacity);
        require_array(positions, capacity);
        *n_voxels = cellrt::count_followed_3d(cellprob, n_z, n_y, n_x, window, cellprob_thresh);
        require(*n_voxels <= capacity, CELLRT_ERROR_CAPACITY);
        cellrt::flow_follow_3d(flow, cellprob, n_z, n_y, n_x, window, cellprob_thresh, n_iter, cancel, *n_voxels,
                               n_threads, voxels, positions);
    });
}

std::int32_t cellrt_flow_masks_3d(const std::int64_t* voxels, const float* positions, std::int64_t n, std::int64_t n_z,
    std::int64_t n_y, std::int64_t n_x, double max_size_fraction, std::int32_t n_threads, std::int32_t* labels,
    std::int32_t* n_labels) {
    return status_of([&] {
        const std::int64_t n_volume = checked_flow_volume(n_z, n_y, n_x);
        require_range(n, 0, n_volume);
        require_array(voxels, n);
        require_array(positions, n);
        for (std::int64_t i = 0; i < n; ++i) require(voxels[i] >= 0 && voxels[i] < n_volume && (i == 0 || voxels[i - 1] < voxels[i]));
        require(max_size_fraction >= 0.0);
        require_threads(n_threads);
        require_array(labels, n_volume);
        require(n_labels != nullptr);
        *n_labels = cellrt::flow_masks_3d(voxels, positions, n, n_z, n_y, n_x, max_size_fraction, n_threads, labels);
    });
}

std::int32_t cellrt_label_flows_2d(const std::int32_t* labels, std::int64_t n_y, std::int64_t n_x, std::int32_t n_labels,
    std::int32_t dynamics, std::int32_t n_iter, std::int32_t n_threads, float* flow) {
    return status_of([&] {
        const std::int64_t n_plane = checked_plane(n_y, n_x);
        checked_product({2, n_plane});
        require_array(labels, n_plane);
        require(n_labels >= 0);
        require_dynamics(dynamics);
        require(n_iter >= 0);
        require_threads(n_threads);
        require_array(flow, n_plane);
        cellrt::label_flows_2d(labels, n_y, n_x, n_labels, dynamics, n_iter, n_threads, flow);
    });
}

std::int32_t cellrt_flow_errors_2d(const std::int32_t* labels, const float* flow, std::int64_t n_y, std::int64_t n_x,
    std::int32_t n_labels, std::int32_t dynamics, std::int32_t n_threads, double* errors) {
    return status_of([&] {
        const std::int64_t n_plane = checked_plane(n_y, n_x);
        checked_product({2, n_plane});
        require_array(labels, n_plane);
        require_array(flow, n_plane);
        require(n_labels >= 0);
        require_dynamics(dynamics);
        require_threads(n_threads);
        require_array(errors, n_labels);
        cellrt::flow_errors_2d(labels, flow, n_y, n_x, n_labels, dynamics, n_threads, errors);
    });
}

std::int32_t cellrt_clean_labels_2d(const std::int32_t* labels, std::int64_t n_y, std::int64_t n_x,
    std::int32_t max_label, std::int64_t min_size, std::int32_t dynamics, std::int32_t n_threads, std::int32_t* cleaned,
    std::int32_t* n_labels) {
    return status_of([&] {
        const std::int64_t n_plane = checked_plane(n_y, n_x);
        require_array(labels, n_plane);
        require(max_label >= 0);
        require_dynamics(dynamics);
        require_threads(n_threads);
        require_array(cleaned, n_plane);
        require(n_labels != nullptr);
        *n_labels = cellrt::clean_labels_2d(labels, n_y, n_x, max_label, min_size, dynamics, n_threads, cleaned);
    });
}

std::int32_t cellrt_clean_labels_3d(const std::int32_t* labels, std::int64_t n_z, std::int64_t n_y, std::int64_t n_x,
    std::int32_t max_label, std::int64_t min_size, std::int32_t dynamics, std::int32_t n_threads, std::int32_t* cleaned,
    std::int32_t* n_labels) {
    return status_of([&] {
        const std::int64_t n_volume = checked_flow_volume(n_z, n_y, n_x);
        require_array(labels, n_volume);
        require(max_label >= 0);
        require_dynamics(dynamics);
        require_threads(n_threads);
        require_array(cleaned, n_volume);
        require(n_labels != nullptr);
        *n_labels = cellrt::clean_labels_3d(labels, n_z, n_y, n_x, max_label, min_size, dynamics, n_threads, cleaned);
    });
}

std::int32_t cellrt_label_outlines_2d(const std::int32_t* labels, std::int64_t n_y, std::int64_t n_x,
    std::int32_t n_labels, std::int64_t capacity, std::int32_t n_threads, std::int64_t* offsets, float* coords) {
    return status_of([&] {
        const std::int64_t n_plane = checked_plane(n_y, n_x);
        require_array(labels, n_plane);
        require(n_labels >= 0);
        require_range(capacity, 0, largest_count);
        require_threads(n_threads);
        require(offsets != nullptr);
        require_array(coords, capacity);
        cellrt::label_outlines_2d(labels, n_y, n_x, n_labels, capacity, n_threads, offsets, coords);
    });
}

std::int32_t cellrt_label_overlaps(const std::int32_t* truth, const std::int32_t* predicted, std::int64_t n_pixels,
    std::int64_t capacity, std::int32_t n_threads, std::int64_t* n_pairs, std::int32_t* pairs, std::int64_t* counts) {
    return status_of([&] {
        require_range(n_pixels, 0, largest_count);
        require_array(truth, n_pixels);
        require_array(predicted, n_pixels);
        require_range(capacity, 0, largest_count);
        require_threads(n_threads);
        require(n_pairs != nullptr);
        require_array(pairs, capacity);
        require_array(counts, capacity);
        cellrt::label_overlaps(truth, predicted, n_pixels, capacity, n_threads, n_pairs, pairs, counts);
    });
}

std::int32_t cellrt_match_pairs(const std::int32_t* pairs, const double* scores, std::int64_t n_pairs,
    std::int32_t n_rows, std::int32_t n_columns, double threshold, std::int64_t max_steps, std::uint8_t* is_matched) {
    return status_of([&] {
        require_range(n_pairs, 0, largest_count);
        require_array(pairs, n_pairs);
        require_array(scores, n_pairs);
        require(n_rows >= 0 && n_columns >= 0);
        for (std::int64_t i = 0; i < n_pairs; ++i) {
            const std::int32_t row = pairs[2 * i], column = pairs[2 * i + 1];
            require(row >= 0 && row < n_rows && column >= 0 && column < n_columns);
            require(i == 0 || pairs[2 * i - 2] < row || (pairs[2 * i - 2] == row && pairs[2 * i - 1] < column));
        }
        require(!std::isnan(threshold));
        require(max_steps >= 0);
        require_array(is_matched, n_pairs);
        cellrt::match_pairs(pairs, scores, n_pairs, n_rows, n_columns, threshold, max_steps, is_matched);
    });
}

}  // extern "C"
