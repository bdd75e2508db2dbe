/* What a kernel meets on a bad day: nothing at all, one pixel, a crowd, an outlier as large as the image, sides at the
 * limit. Each must end soon, with the right status and within its memory; the sanitizers watch. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cellrt.h"
#include "check.h"

/* A small generator, so that every run is the same: numbers in [0, 1). */
static double random_number(void) {
    static uint32_t state = 12345u;
    state = state * 1664525u + 1013904223u;
    return (state >> 8) / 16777216.0;
}

static void test_nothing(void) {
    int64_t n = -1, offset = 0;
    int32_t n_labels = -1, table = -1;
    CHECK(cellrt_star_candidates_2d(NULL, 32, 0, 0, 0, 0, 0, 0, 0, 0.5f, 1, 1, 0, 0, 0, 0, &n, NULL, NULL, NULL, NULL) ==
          CELLRT_OK);
    CHECK(n == 0);
    CHECK(cellrt_star_distances_2d(NULL, 0, 7, 2, 2, 32, 0, NULL) == CELLRT_OK);
    CHECK(cellrt_object_probability_2d(NULL, 7, 0, 0, 0, NULL) == CELLRT_OK);
    CHECK(cellrt_paint_polygons_2d(NULL, &offset, NULL, 0, 0, 0, 0, NULL) == CELLRT_OK);
    CHECK(cellrt_label_regions_2d(NULL, 0, 7, 0, 0, NULL, NULL, NULL) == CELLRT_OK);
    CHECK(cellrt_label_regions_3d(NULL, 3, 0, 7, 0, 0, NULL, NULL, NULL) == CELLRT_OK);
    CHECK(cellrt_label_regions_3d(NULL, 1 << 20, 1 << 20, 0, 0, 0, NULL, NULL, NULL) == CELLRT_OK);
    CHECK(cellrt_relabel(NULL, 0, 0, 0, &table, NULL, &n_labels) == CELLRT_OK);
    CHECK(n_labels == 0 && table == 0);
    CHECK(cellrt_flow_follow_2d(NULL, NULL, 0, 9, 0.0f, CELLRT_DYNAMICS_V4, 1, 200, NULL, 0, 0, &n, NULL, NULL) ==
          CELLRT_OK);
    CHECK(n == 0);
    CHECK(cellrt_flow_masks_2d(NULL, NULL, 0, 9, 0, 0.4, 0, NULL, &n_labels) == CELLRT_OK);
    CHECK(cellrt_label_flows_2d(NULL, 0, 0, 0, CELLRT_DYNAMICS_V3, 0, 0, NULL) == CELLRT_OK);
    CHECK(cellrt_flow_errors_2d(NULL, NULL, 0, 0, 0, CELLRT_DYNAMICS_V4, 0, NULL) == CELLRT_OK);
    CHECK(cellrt_clean_labels_2d(NULL, 0, 0, 0, 15, CELLRT_DYNAMICS_V3, 0, NULL, &n_labels) == CELLRT_OK);
    CHECK(n_labels == 0);
    CHECK(cellrt_label_outlines_2d(NULL, 0, 0, 0, 0, 0, &offset, NULL) == CELLRT_OK);
    CHECK(offset == 0);
    CHECK(cellrt_label_overlaps(NULL, NULL, 0, 0, 0, &n, NULL, NULL) == CELLRT_OK);
    CHECK(n == 0);
    CHECK(cellrt_match_pairs(NULL, NULL, 0, 0, 0, 0.5, 0, NULL) == CELLRT_OK);
    CHECK(cellrt_match_pairs(NULL, NULL, 0, 7, 9, 0.5, 0, NULL) == CELLRT_OK);
}

static void test_one_pixel(void) {
    const uint16_t pixel = 7;
    const float point[] = {0.0f, 0.0f};
    const int64_t offsets[] = {0, 1}, order[] = {0};
    const double percents[] = {0.0, 1.0, 99.8, 100.0};
    double values[4];
    const float low = 7.0f, divisor = 1e-20f;
    float out[16];
    int32_t label = -1, box[6];
    int64_t area;
    double centroid[3];
    int i;

    /* Any stride will do for a side of one pixel. */
    CHECK(cellrt_percentiles_u16(&pixel, 1, 1, 1, INT64_MIN, INT64_MAX, 0, percents, 4, 0, values) == CELLRT_OK);
    for (i = 0; i < 4; ++i) CHECK(values[i] == 7.0);
    CHECK(cellrt_normalize_u16(&pixel, 1, 1, 1, INT64_MIN, INT64_MAX, 0, &low, &divisor, 4, 4, 0, out) == CELLRT_OK);
    for (i = 0; i < 16; ++i) CHECK(out[i] == 0.0f);
    CHECK(cellrt_paint_polygons_2d(point, offsets, order, 1, 1, 1, 0, &label) == CELLRT_OK);
    CHECK(label == 1);
    CHECK(cellrt_label_regions_2d(&label, 1, 1, 1, 0, &area, box, centroid) == CELLRT_OK);
    CHECK(area == 1 && box[2] == 1 && centroid[0] == 0.0);
    CHECK(cellrt_label_regions_3d(&label, 1, 1, 1, 1, 0, &area, box, centroid) == CELLRT_OK);
    CHECK(area == 1 && box[0] == 0 && box[5] == 1 && centroid[2] == 0.0);
}

/* A side of one pixel has no distance to normalise by, and a flow there nowhere to go. */
static void test_flows_of_one_pixel(void) {
    const float flow[] = {1e30f, -1e30f, 1e30f, -1e30f, 1e30f, -1e30f}, cellprob[] = {1.0f, 1.0f, 1.0f};
    int64_t n, pixels[3];
    int32_t dynamics, labels[3], n_labels;
    float positions[6], label_flow[6];
    double error;
    int i;

    for (dynamics = CELLRT_DYNAMICS_V3; dynamics <= CELLRT_DYNAMICS_V4; ++dynamics) {
        for (i = 1; i <= 3; i += 2) {
            CHECK(cellrt_flow_follow_2d(flow, cellprob, 1, i, 0.0f, dynamics, 1, 1000000000, NULL, 3, 0, &n, pixels,
                                        positions) == CELLRT_OK);
            CHECK(n == i && positions[0] == 0.0f);
            CHECK(positions[1] >= 0.0f && positions[1] <= 2.0f);
            CHECK(cellrt_flow_masks_2d(pixels, positions, n, 1, i, 1.0, 0, labels, &n_labels) == CELLRT_OK);
            CHECK(n_labels == 0); /* no more than ten pixels ended anywhere */
        }
        labels[0] = 1;
        CHECK(cellrt_label_flows_2d(labels, 1, 1, 1, dynamics, 0, 0, label_flow) == CELLRT_OK);
        CHECK(label_flow[0] == 0.0f && label_flow[1] == 0.0f);
        CHECK(cellrt_flow_errors_2d(labels, label_flow, 1, 1, 1, dynamics, 0, &error) == CELLRT_OK);
        CHECK(error == 0.0);
    }
}

/* The same in volumes, along each axis. */
static void test_flows_of_one_voxel(void) {
    const float flow[] = {1e30f, -1e30f, 1e30f, -1e30f, 1e30f, -1e30f, 1e30f, -1e30f, 1e30f}, cellprob[] = {1, 1, 1};
    int64_t n, voxels[3];
    const int32_t cancel = 1;
    int32_t labels[3], n_labels;
    float positions[9];
    int axis, i;

    for (axis = 0; axis < 3; ++axis) {
        for (i = 1; i <= 3; i += 2) {
            const int64_t n_z = axis == 0 ? i : 1, n_y = axis == 1 ? i : 1, n_x = axis == 2 ? i : 1;
            CHECK(cellrt_flow_follow_3d(flow, cellprob, n_z, n_y, n_x, 0.0f, 1, &cancel, 3, 0, &n, voxels, positions) ==
                  CELLRT_ERROR_CANCELLED);
            CHECK(cellrt_flow_follow_3d(flow, cellprob, n_z, n_y, n_x, 0.0f, 1000000000, NULL, 3, 0, &n, voxels,
                                        positions) == CELLRT_OK);
            CHECK(n == i && positions[axis] >= 0.0f && positions[axis] <= 2.0f);
            CHECK(cellrt_flow_masks_3d(voxels, positions, n, n_z, n_y, n_x, 1.0, 0, labels, &n_labels) == CELLRT_OK);
            CHECK(n_labels == 0); /* no more than ten voxels ended anywhere */
            CHECK(cellrt_clean_labels_3d(labels, n_z, n_y, n_x, 0, 15, CELLRT_DYNAMICS_V4, 0, labels, &n_labels) ==
                  CELLRT_OK);
            CHECK(n_labels == 0);
        }
    }
}

/* As many labels as fit, each with a box as large as the volume; and every voxel in the cavity of some label. */
static void test_labels_all_over_the_volume(void) {
    enum { side = 60, n_voxels = side * side * side, n_labels = n_voxels / 2 };
    int32_t *const labels = malloc(n_voxels * sizeof *labels), *const cleaned = malloc(n_voxels * sizeof *cleaned);
    int32_t i, dynamics, n_cleaned;

    for (i = 0; i < n_labels; ++i) labels[i] = labels[n_voxels - 1 - i] = i + 1;
    for (dynamics = CELLRT_DYNAMICS_V3; dynamics <= CELLRT_DYNAMICS_V4; ++dynamics) {
        CHECK(cellrt_clean_labels_3d(labels, side, side, side, n_labels, 1, dynamics, 2, cleaned, &n_cleaned) ==
              CELLRT_OK);
        CHECK(n_cleaned > 0 && n_cleaned <= n_labels);
    }
    /* A lattice of single voxels, each in the cavity of label 1. */
    for (i = 0; i < n_voxels; ++i) {
        const int z = i / (side * side), y = i / side % side, x = i % side;
        labels[i] = z % 2 && y % 2 && x % 2 && z < side - 1 && y < side - 1 && x < side - 1 ? i + 2 : 1;
    }
    CHECK(cellrt_clean_labels_3d(labels, side, side, side, n_voxels + 1, 0, CELLRT_DYNAMICS_V4, 3, cleaned,
                                 &n_cleaned) == CELLRT_OK);
    CHECK(n_cleaned == 1);
    for (i = 0; i < n_voxels; ++i) CHECK(cleaned[i] == 1);
    free(labels);
    free(cleaned);
}

/* As many labels as fit, each with a box as large as the image: work must not be labels times pixels. */
static void test_labels_all_over_the_image(void) {
    enum { side = 700, n_labels = side * side / 2 };
    int32_t *const labels = malloc(side * side * sizeof *labels), *const cleaned = malloc(side * side * sizeof *cleaned);
    float *const flow = malloc(2 * side * side * sizeof *flow), *const coords = malloc(n_labels * 8 * sizeof *coords);
    float *const dist = malloc(4 * side * side * sizeof *dist);
    int64_t *const offsets = malloc((n_labels + 1) * sizeof *offsets);
    double *const errors = malloc(n_labels * sizeof *errors);
    int32_t i, dynamics, n_cleaned;

    /* Two pixels of every label, point-symmetric about the middle of the image. */
    for (i = 0; i < n_labels; ++i) labels[i] = labels[side * side - 1 - i] = i + 1;
    for (dynamics = CELLRT_DYNAMICS_V3; dynamics <= CELLRT_DYNAMICS_V4; ++dynamics) {
        CHECK(cellrt_clean_labels_2d(labels, side, side, n_labels, 1, dynamics, 2, cleaned, &n_cleaned) == CELLRT_OK);
        CHECK(n_cleaned > 0 && n_cleaned <= n_labels);
        CHECK(cellrt_label_flows_2d(labels, side, side, n_labels, dynamics, 50, 2, flow) == CELLRT_OK);
    }
    CHECK(cellrt_flow_errors_2d(labels, flow, side, side, n_labels, CELLRT_DYNAMICS_V3, 2, errors) == CELLRT_OK);
    CHECK(cellrt_object_probability_2d(labels, side, side, n_labels, 2, flow) == CELLRT_OK);
    for (i = 0; i < side * side; ++i) CHECK(flow[i] == 1.0f);
    CHECK(cellrt_star_distances_2d(labels, side, side, 1, 1, 4, 2, dist) == CELLRT_OK);
    CHECK(cellrt_label_outlines_2d(labels, side, side, n_labels, n_labels * 4, 2, offsets, coords) == CELLRT_OK);
    CHECK(offsets[n_labels] == (int64_t)n_labels * 4); /* a square or an oblong each */
    free(labels);
    free(cleaned);
    free(flow);
    free(dist);
    free(coords);
    free(offsets);
    free(errors);
}

/* One object as long as an image may be, and a grid that is longer still. */
static void test_targets_at_the_limit(void) {
    enum { side = 1 << 20, n_rays = 3 };
    int32_t *const labels = malloc(side * sizeof *labels);
    float *const out = malloc(side * sizeof *out);
    int32_t i;
    for (i = 0; i < side; ++i) labels[i] = i < side - 1;
    CHECK(cellrt_object_probability_2d(labels, 1, side, 1, 2, out) == CELLRT_OK);
    CHECK(out[0] == 1.0f && out[side - 1] == 0.0f);
    CHECK(cellrt_object_probability_2d(labels, side, 1, 1, 2, out) == CELLRT_OK);
    CHECK(out[0] == 1.0f && out[side - 1] == 0.0f);
    CHECK(cellrt_star_distances_2d(labels, 1, side, 1, 1 << 30, n_rays, 2, out) == CELLRT_OK);
    CHECK(out[0] == side - 1.5f && out[1] > 0.5f && out[1] < 1.5f);
    CHECK(cellrt_star_distances_2d(labels, side, 1, 1 << 30, 1, n_rays, 2, out) == CELLRT_OK);
    CHECK(out[0] == 0.5f);
    free(labels);
    free(out);
}

/* 2,000 polygons on 64 spots, one of them 2^20 pixels long: suppressed, outlined and painted. */
static void test_crowd_with_an_outlier(void) {
    enum { n = 2000, n_rays = 32, side = 300 };
    float *const prob = malloc(n * sizeof *prob);
    float *const dist = malloc(n * n_rays * sizeof *dist);
    int32_t *const points = malloc(n * 2 * sizeof *points);
    double *const centres = malloc(n * 2 * sizeof *centres);
    float *const coords = malloc(n * n_rays * 2 * sizeof *coords);
    int64_t *const offsets = malloc((n + 1) * sizeof *offsets);
    int64_t *const kept = malloc(n * sizeof *kept);
    int64_t *const kept_again = malloc(n * sizeof *kept_again);
    int32_t *const labels = malloc((size_t)side * side * sizeof *labels);
    int32_t *const labels_again = malloc((size_t)side * side * sizeof *labels_again);
    int64_t n_kept = -1, n_again = -1;
    int i;

    for (i = 0; i < n; ++i) {
        int ray;
        prob[i] = (float)random_number();
        points[2 * i] = 30 * (int32_t)(8 * random_number()) + 30;
        points[2 * i + 1] = 30 * (int32_t)(8 * random_number()) + 30;
        centres[2 * i] = points[2 * i];
        centres[2 * i + 1] = points[2 * i + 1];
        for (ray = 0; ray < n_rays; ++ray) dist[i * n_rays + ray] = (float)(5 + 8 * random_number());
        offsets[i] = (int64_t)i * n_rays;
    }
    offsets[n] = n * n_rays;
    for (i = 0; i < n_rays; ++i) dist[77 * n_rays + i] = i % 2 == 0 ? 1048576.0f : 1e-3f;

    CHECK(cellrt_star_nms_2d(prob, dist, points, n, n_rays, 0.4f, 100000000, NULL, 1, &n_kept, kept) == CELLRT_OK);
    CHECK(n_kept >= 64 && n_kept < n);
    CHECK(cellrt_star_nms_2d(prob, dist, points, n, n_rays, 0.4f, 100000000, NULL, 3, &n_again, kept_again) == CELLRT_OK);
    CHECK(n_kept == n_again && memcmp(kept, kept_again, (size_t)n_kept * sizeof *kept) == 0);
    CHECK(cellrt_star_nms_2d(prob, dist, points, n, n_rays, 0.4f, 10, NULL, 3, &n_again, kept_again) ==
          CELLRT_ERROR_CAPACITY);

    CHECK(cellrt_star_outlines_2d(dist, centres, n, n_rays, 1.0, 1.0, 3, coords) == CELLRT_OK);
    for (i = 0; i < n; ++i) kept_again[i] = i;
    CHECK(cellrt_paint_polygons_2d(coords, offsets, kept_again, n, side, side, 1, labels) == CELLRT_OK);
    CHECK(cellrt_paint_polygons_2d(coords, offsets, kept_again, n, side, side, 3, labels_again) == CELLRT_OK);
    CHECK(memcmp(labels, labels_again, (size_t)side * side * sizeof *labels) == 0);

    free(prob);
    free(dist);
    free(points);
    free(centres);
    free(coords);
    free(offsets);
    free(kept);
    free(kept_again);
    free(labels);
    free(labels_again);
}

/* 20,000 polyhedra, one of them 2^20 voxels long: apart from each other, all in one place, and smaller than a voxel. */
static void test_polyhedra_with_an_outlier(void) {
    enum { n = 20000, n_rays = 6, n_faces = 8, side = 40 };
    static const float rays[3 * n_rays] = {-1, 0, 0, 1, 0, 0, 0, -1, 0, 0, 1, 0, 0, 0, -1, 0, 0, 1};
    static const int32_t faces[3 * n_faces] = {1, 5, 3, 1, 3, 4, 1, 4, 2, 1, 2, 5, 0, 3, 5, 0, 4, 3, 0, 2, 4, 0, 5, 2};
    float *const prob = malloc(n * sizeof *prob);
    float *const dist = malloc(n * n_rays * sizeof *dist);
    int32_t *const points = malloc(n * 3 * sizeof *points);
    float *const centres = malloc(n * 3 * sizeof *centres);
    int64_t *const kept = malloc(n * sizeof *kept);
    int64_t *const kept_again = malloc(n * sizeof *kept_again);
    int32_t *const labels = malloc((size_t)side * side * side * sizeof *labels);
    int32_t *const labels_again = malloc((size_t)side * side * side * sizeof *labels_again);
    int64_t n_kept = -1, n_again = -1;
    int i, mode, spacing;

    for (spacing = 9; spacing >= 0; spacing -= 9) {
        for (i = 0; i < n; ++i) {
            int ray;
            prob[i] = (float)random_number();
            points[3 * i] = spacing * (i / 784);
            points[3 * i + 1] = spacing * (i / 28 % 28);
            points[3 * i + 2] = spacing * (i % 28);
            for (ray = 0; ray < 3; ++ray) centres[3 * i + ray] = (float)points[3 * i + ray];
            for (ray = 0; ray < n_rays; ++ray) dist[i * n_rays + ray] = (float)(2.5 + random_number());
        }
        for (i = 0; i < n_rays; ++i) dist[77 * n_rays + i] = i % 2 == 0 ? 1048576.0f : 1e-3f;
        CHECK(cellrt_star_nms_3d(prob, dist, points, n, rays, n_rays, faces, n_faces, 0.4f, 100000000, NULL, 1, &n_kept,
                                 kept) == CELLRT_OK);
        CHECK(spacing == 0 ? n_kept >= 1 && n_kept < n / 10 : n_kept >= n - 1);
        CHECK(cellrt_star_nms_3d(prob, dist, points, n, rays, n_rays, faces, n_faces, 0.4f, 100000000, NULL, 3, &n_again,
                                 kept_again) == CELLRT_OK);
        CHECK(n_kept == n_again && memcmp(kept, kept_again, (size_t)n_kept * sizeof *kept) == 0);
    }
    /* Nothing is suppressed in a crowd: as many pairs as there are. */
    CHECK(cellrt_star_nms_3d(prob, dist, points, n, rays, n_rays, faces, n_faces, 1.0f, 100000, NULL, 3, &n_again,
                             kept_again) == CELLRT_ERROR_CAPACITY);

    for (i = 0; i < n; ++i) kept[i] = i;
    for (mode = CELLRT_POLYHEDRON_FULL; mode <= CELLRT_POLYHEDRON_BBOX; ++mode) {
        CHECK(cellrt_paint_polyhedra_3d(dist, centres, kept, 200, rays, n_rays, faces, n_faces, -20, -20, -20, side, side,
                                        side, mode, 0, 0, NULL, 1, labels) == CELLRT_OK);
        CHECK(cellrt_paint_polyhedra_3d(dist, centres, kept, 200, rays, n_rays, faces, n_faces, -20, -20, -20, side, side,
                                        side, mode, 0, 0, NULL, 3, labels_again) == CELLRT_OK);
        CHECK(memcmp(labels, labels_again, (size_t)side * side * side * sizeof *labels) == 0);
    }
    for (i = 0; i < n * n_rays; ++i) dist[i] = 1e-3f;
    CHECK(cellrt_star_nms_3d(prob, dist, points, n, rays, n_rays, faces, n_faces, 0.4f, 1000000, NULL, 2, &n_kept, kept) ==
          CELLRT_OK);
    CHECK(n_kept == n);

    free(prob);
    free(dist);
    free(points);
    free(centres);
    free(kept);
    free(kept_again);
    free(labels);
    free(labels_again);
}

/* A zigzag of 1,000 vertices that crosses every row of a tall image, at the largest coordinates there may be. */
static void test_huge_polygon(void) {
    enum { n_vertices = 1000, n_y = 20000, n_x = 3 };
    const float far = 1099511627776.0f;
    float coords[2 * n_vertices];
    const int64_t offsets[] = {0, n_vertices}, order[] = {0};
    int32_t *const labels = malloc((size_t)n_y * n_x * sizeof *labels);
    int i;
    for (i = 0; i < n_vertices; ++i) {
        coords[2 * i] = i % 2 == 0 ? -far : far;
        coords[2 * i + 1] = (float)(i * 1e-3);
    }
    CHECK(cellrt_paint_polygons_2d(coords, offsets, order, 1, n_y, n_x, 2, labels) == CELLRT_OK);
    coords[7] = 2 * far;
    CHECK(cellrt_paint_polygons_2d(coords, offsets, order, 1, n_y, n_x, 2, labels) == CELLRT_ERROR_DATA);
    free(labels);
}

/* All pixels equal, and all different: the histograms' best and worst case. */
static void test_flat_and_noisy_images(void) {
    enum { side = 700 };
    uint16_t *const image = calloc((size_t)side * side, sizeof *image);
    float *const noise = malloc((size_t)side * side * sizeof *noise);
    const double percents[] = {0.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0, 100.0};
    double one[11], three[11];
    int i;
    CHECK(cellrt_percentiles_u16(image, 1, side, side, 0, side, 1, percents, 11, 3, one) == CELLRT_OK);
    for (i = 0; i < 11; ++i) CHECK(one[i] == 0.0);
    for (i = 0; i < side * side; ++i) noise[i] = (float)ldexp(random_number() - 0.5, (int)(200 * random_number()) - 100);
    CHECK(cellrt_percentiles_f32(noise, 1, side, side, 0, side, 1, percents, 11, 1, one) == CELLRT_OK);
    CHECK(cellrt_percentiles_f32(noise, 1, side, side, 0, side, 1, percents, 11, 3, three) == CELLRT_OK);
    CHECK(memcmp(one, three, sizeof one) == 0);
    for (i = 1; i < 11; ++i) CHECK(one[i - 1] < one[i]);
    free(image);
    free(noise);
}

/* As many pairs of labels as pixels, with the largest labels that there may be. */
static void test_overlaps_all_different(void) {
    enum { n_pixels = 600000 };
    int32_t *const labels = malloc(n_pixels * sizeof *labels), *const pairs = malloc(2 * n_pixels * sizeof *pairs);
    int64_t *const counts = malloc(n_pixels * sizeof *counts);
    int64_t n = -1;
    int i;

    for (i = 0; i < n_pixels; ++i) labels[i] = INT32_MAX - (i * INT64_C(7919)) % n_pixels * 3001;
    for (i = 1; i <= 3; ++i) {
        CHECK(cellrt_label_overlaps(labels, labels, n_pixels, n_pixels - 1, i, &n, pairs, counts) ==
              CELLRT_ERROR_CAPACITY);
        CHECK(n == n_pixels);
        CHECK(cellrt_label_overlaps(labels, labels, n_pixels, n_pixels, i, &n, pairs, counts) == CELLRT_OK);
        CHECK(pairs[2 * n_pixels - 1] == INT32_MAX && counts[n_pixels - 1] == 1);
    }
    free(labels);
    free(pairs);
    free(counts);
}

/* A chain in which every new row wants the column that the row before it has: the work is the square of its length. */
static void test_matching_of_a_chain(void) {
    enum { n = 20000, n_short = 1000, n_pairs = 2 * n - 1 };
    int32_t *const pairs = malloc(2 * n_pairs * sizeof *pairs);
    double *const scores = malloc(n_pairs * sizeof *scores);
    uint8_t *const is_matched = malloc(n_pairs * sizeof *is_matched);
    int i, n_matched = 0;

    /* Row 0 has one column, the last; row i column n - 1 - i or, better, the one after that. */
    for (i = 0; i < n_pairs; ++i) {
        const int row = (i + 1) / 2, is_better = i % 2 == 0 && i > 0;
        pairs[2 * i] = row;
        pairs[2 * i + 1] = n - 1 - row + is_better;
        scores[i] = 0.9 - 0.7 * row / n + (is_better ? 1e-5 : 0.0);
    }
    CHECK(cellrt_match_pairs(pairs, scores, 2 * n_short - 1, n, n, 0.1, 2 * n_short * n_short, is_matched) == CELLRT_OK);
    for (i = 0; i < 2 * n_short - 1; ++i) n_matched += is_matched[i];
    CHECK(n_matched == n_short && is_matched[0] == 1);
    CHECK(cellrt_match_pairs(pairs, scores, n_pairs, n, n, 0.1, 1000000, is_matched) == CELLRT_ERROR_CAPACITY);
    free(pairs);
    free(scores);
    free(is_matched);
}

int main(void) {
    test_nothing();
    test_one_pixel();
    test_flows_of_one_pixel();
    test_flows_of_one_voxel();
    test_labels_all_over_the_volume();
    test_labels_all_over_the_image();
    test_targets_at_the_limit();
    test_crowd_with_an_outlier();
    test_polyhedra_with_an_outlier();
    test_huge_polygon();
    test_flat_and_noisy_images();
    test_overlaps_all_different();
    test_matching_of_a_chain();
    return n_failed == 0 ? 0 : 1;
}
