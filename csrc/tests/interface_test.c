/* Every function of cellrt.h from plain C: a small right answer each, and the arguments that it must refuse. */
#include <math.h>
#include <string.h>

#include "cellrt.h"
#include "check.h"

static void test_status(void) {
    int32_t status;
    CHECK(cellrt_version() == CELLRT_VERSION);
    CHECK(cellrt_usable_cores() >= 1);
    for (status = -1; status <= 7; ++status) CHECK(strlen(cellrt_status_text(status)) > 0);
    CHECK(strcmp(cellrt_status_text(CELLRT_OK), "ok") == 0);
}

static void test_percentiles(void) {
    const uint8_t image8[] = {3, 1, 2, 0, 9, 9};
    const uint16_t image16[] = {300, 100, 200, 0};
    const float image32[] = {3.0f, -1.0f, 2.0f, 0.5f};
    const float not_finite[] = {1.0f, NAN, 2.0f, 3.0f};
    const double percents[] = {0.0, 50.0, 100.0};
    const double wrong[] = {101.0};
    double values[3];

    CHECK(cellrt_percentiles_u8(image8, 1, 2, 3, 6, 3, 1, percents, 3, 1, values) == CELLRT_OK);
    CHECK(values[0] == 0.0 && values[1] == 2.5 && values[2] == 9.0);
    /* Every other column, from the right. */
    CHECK(cellrt_percentiles_u8(image8 + 2, 1, 2, 2, 6, 3, -2, percents, 3, 2, values) == CELLRT_OK);
    CHECK(values[0] == 0.0 && values[1] == 2.5 && values[2] == 9.0);
    CHECK(cellrt_percentiles_u16(image16, 2, 1, 2, 1, 0, 2, percents, 3, 0, values) == CELLRT_OK);
    CHECK(values[0] == 0.0 && values[1] == 150.0 && values[2] == 300.0);
    CHECK(cellrt_percentiles_f32(image32, 1, 4, 1, 0, 1, 0, percents, 3, 1, values) == CELLRT_OK);
    CHECK(values[0] == -1.0 && values[1] == 1.25 && values[2] == 3.0);
    CHECK(cellrt_percentiles_f32(image32, 1, 4, 1, 0, 1, 0, NULL, 0, 1, NULL) == CELLRT_OK);

    CHECK(cellrt_percentiles_f32(not_finite, 1, 2, 2, 4, 2, 1, percents, 3, 1, values) == CELLRT_ERROR_DATA);
    CHECK(cellrt_percentiles_u8(NULL, 1, 2, 3, 6, 3, 1, percents, 3, 1, values) == CELLRT_ERROR_ARGUMENT);
    CHECK(cellrt_percentiles_u8(image8, 0, 2, 3, 6, 3, 1, percents, 3, 1, values) == CELLRT_ERROR_ARGUMENT);
    CHECK(cellrt_percentiles_u8(image8, 1, 2, 3, 6, 3, 1, wrong, 1, 1, values) == CELLRT_ERROR_ARGUMENT);
    CHECK(cellrt_percentiles_u8(image8, 1, 2, 3, 6, 3, 1, percents, 3, -1, values) == CELLRT_ERROR_ARGUMENT);
    CHECK(cellrt_percentiles_u8(image8, 1, 2, 3, 6, INT64_MAX, 1, percents, 3, 1, values) == CELLRT_ERROR_ARGUMENT);
    CHECK(cellrt_percentiles_u8(image8, 1 << 30, 1 << 30, 1 << 30, 0, 0, 0, percents, 3, 1, values) ==
          CELLRT_ERROR_ARGUMENT);
}

static void test_normalize(void) {
    const uint8_t interleaved[] = {1, 10, 2, 20, 3, 30}; /* 1 x 3 pixels of 2 channels */
    const uint16_t image16[] = {5};
    const float image32[] = {1.0f, 2.0f, 4.0f, 8.0f};
    const float infinite[] = {1.0f, -INFINITY};
    const float low[] = {1.0f, 10.0f};
    const float divisor[] = {2.0f, 10.0f};
    const float zero[] = {0.0f, 1.0f};
    const float expected[] = {0.0f, 0.5f, 1.0f, 0.5f, 0.0f, 0.0f, 1.0f, 2.0f, 1.0f, 0.0f};
    float out[18];
    int i;

    CHECK(cellrt_normalize_u8(interleaved, 2, 1, 3, 1, 6, 2, low, divisor, 1, 5, 1, out) == CELLRT_OK);
    CHECK(memcmp(out, expected, sizeof expected) == 0);
    CHECK(cellrt_normalize_u16(image16, 1, 1, 1, 1, 1, 1, low, divisor, 3, 3, 2, out) == CELLRT_OK);
    for (i = 0; i < 9; ++i) CHECK(out[i] == 2.0f);
    CHECK(cellrt_normalize_f32(image32, 1, 2, 2, 4, 2, 1, low, divisor, 2, 2, 1, out) == CELLRT_OK);
    CHECK(out[0] == 0.0f && out[1] == 0.5f && out[2] == 1.5f && out[3] == 3.5f);

    CHECK(cellrt_normalize_f32(infinite, 1, 1, 2, 2, 2, 1, low, divisor, 1, 2, 1, out) == CELLRT_ERROR_DATA);
    CHECK(cellrt_normalize_f32(image32, 1, 2, 2, 4, 2, 1, low, zero, 2, 2, 1, out) == CELLRT_ERROR_ARGUMENT);
    CHECK(cellrt_normalize_f32(image32, 1, 2, 2, 4, 2, 1, low, divisor, 1, 2, 1, out) == CELLRT_ERROR_ARGUMENT);
    CHECK(cellrt_normalize_f32(image32, 1, 2, 2, 4, 2, 1, NULL, divisor, 2, 2, 1, out) == CELLRT_ERROR_ARGUMENT);
}

/* Probability, 4 rays and 2 classes on 2 x 3 samples. */
static void fill_maps(float *maps) {
    int i;
    for (i = 0; i < 7 * 6; ++i) maps[i] = (float)i;
    for (i = 0; i < 6; ++i) maps[i] = i % 2 == 1 ? 0.9f : 0.1f; /* samples (0, 1), (1, 0) and (1, 2) */
}

static void test_star_candidates(void) {
    float maps[7 * 6];
    float prob[3], dist[3 * 4], class_prob[3 * 2];
    int32_t points[3 * 2];
    int64_t n = -1;

    fill_maps(maps);
    maps[6 + 1] = -5.0f; /* the first ray of sample (0, 1) */
    CHECK(cellrt_star_candidates_2d(maps, 4, 2, 2, 3, 0, 2, 0, 3, 0.5f, 2, 4, 10, 20, 0, 1, &n, NULL, NULL, NULL,
                                    NULL) == CELLRT_ERROR_CAPACITY);
    CHECK(n == 3);
    CHECK(cellrt_star_candidates_2d(maps, 4, 2, 2, 3, 0, 2, 0, 3, 0.5f, 2, 4, 10, 20, 3, 2, &n, prob, dist, points,
                                    class_prob) == CELLRT_OK);
    CHECK(n == 3 && prob[0] == 0.9f);
    CHECK(points[0] == 10 && points[1] == 24 && points[2] == 12 && points[3] == 20 && points[5] == 28);
    CHECK(dist[0] == 1e-3f && dist[1] == 13.0f && dist[4] == 9.0f && dist[11] == 29.0f);
    CHECK(class_prob[0] == 31.0f && class_prob[5] == 41.0f);
    /* No sample of the window passes: no outputs are needed. */
    CHECK(cellrt_star_candidates_2d(maps, 4, 2, 2, 3, 0, 1, 0, 1, 0.5f, 1, 1, 0, 0, 0, 1, &n, NULL, NULL, NULL,
                                    NULL) == CELLRT_OK);
    CHECK(n == 0);

    maps[12 + 3] = NAN;
    CHECK(cellrt_star_candidates_2d(maps, 4, 2, 2, 3, 0, 2, 0, 3, 0.5f, 1, 1, 0, 0, 3, 1, &n, prob, dist, points,
                                    class_prob) == CELLRT_ERROR_DATA);
    CHECK(cellrt_star_candidates_2d(maps, 4, 2, 2, 3, 0, 3, 0, 3, 0.5f, 1, 1, 0, 0, 3, 1, &n, prob, dist, points,
                                    class_prob) == CELLRT_ERROR_ARGUMENT);
    CHECK(cellrt_star_candidates_2d(maps, 2, 2, 2, 3, 0, 2, 0, 3, 0.5f, 1, 1, 0, 0, 3, 1, &n, prob, dist, points,
                                    class_prob) == CELLRT_ERROR_ARGUMENT);
    CHECK(cellrt_star_candidates_2d(maps, 4, 2, 2, 3, 0, 2, 0, 3, 0.5f, 1, 1, 0, 0, 3, 1, &n, prob, dist, points,
                                    NULL) == CELLRT_ERROR_ARGUMENT);
}

static void test_star_nms(void) {
    const float prob[] = {0.5f, 0.9f, 0.7f};
    float dist[3 * 8];
    const int32_t points[] = {50, 50, 51, 50, 90, 90}; /* the first two overlap */
    const int32_t cancel = 1;
    int64_t kept[3], n_kept = -1;
    int i;

    for (i = 0; i < 3 * 8; ++i) dist[i] = 10.0f;
    CHECK(cellrt_star_nms_2d(prob, dist, points, 3, 8, 0.4f, 1000, NULL, 1, &n_kept, kept) == CELLRT_OK);
    CHECK(n_kept == 2 && kept[0] == 1 && kept[1] == 2);
    CHECK(cellrt_star_nms_2d(prob, dist, points, 3, 8, 1.0f, 1000, NULL, 2, &n_kept, kept) == CELLRT_OK);
    CHECK(n_kept == 3 && kept[0] == 1 && kept[1] == 2 && kept[2] == 0);
    CHECK(cellrt_star_nms_2d(NULL, NULL, NULL, 0, 8, 0.4f, 0, NULL, 1, &n_kept, NULL) == CELLRT_OK);
    CHECK(n_kept == 0);

    CHECK(cellrt_star_nms_2d(prob, dist, points, 3, 8, 0.4f, 1000, &cancel, 1, &n_kept, kept) ==
          CELLRT_ERROR_CANCELLED);
    CHECK(cellrt_star_nms_2d(prob, dist, points, 3, 8, 0.4f, 0, NULL, 1, &n_kept, kept) == CELLRT_ERROR_CAPACITY);
    CHECK(cellrt_star_nms_2d(prob, dist, points, 3, 8, 1.1f, 1000, NULL, 1, &n_kept, kept) == CELLRT_ERROR_ARGUMENT);
    CHECK(cellrt_star_nms_2d(prob, dist, points, 3, 2, 0.4f, 1000, NULL, 1, &n_kept, kept) == CELLRT_ERROR_ARGUMENT);
    CHECK(cellrt_star_nms_2d(prob, NULL, points, 3, 8, 0.4f, 1000, NULL, 1, &n_kept, kept) == CELLRT_ERROR_ARGUMENT);
    dist[5] = NAN;
    CHECK(cellrt_star_nms_2d(prob, dist, points, 3, 8, 0.4f, 1000, NULL, 1, &n_kept, kept) == CELLRT_ERROR_DATA);
}

/* An octahedron: rays along the axes, faces turned as StarDist's are. */
static const float octahedron_rays[18] = {-1, 0, 0, 1, 0, 0, 0, -1, 0, 0, 1, 0, 0, 0, -1, 0, 0, 1};
static const int32_t octahedron_faces[24] = {1, 5, 3, 1, 3, 4, 1, 4, 2, 1, 2, 5, 0, 3, 5, 0, 4, 3, 0, 2, 4, 0, 5, 2};

/* The same with four rays at either pole, as Cartesian rays have them: faces between these enclose nothing. */
static const float many_poles_rays[36] = {-1, 0, 0, -1, 0, 0, -1, 0, 0, -1, 0, 0, 0, 1, 0, 0, 0,  1,
                                          0,  -1, 0, 0, 0, -1, 1, 0, 0, 1, 0, 0, 1, 0, 0, 1, 0,  0};

static void test_star_candidates_3d(void) {
    float maps[4 * 2 * 3 * 2];
    for (int i = 0; i < 48; ++i) maps[i] = i < 12 ? (float)(i % 5) / 10.0f : (float)i;
    int64_t n = -1;
    CHECK(cellrt_star_candidates_3d(maps, 3, 0, 2, 3, 2, 0, 2, 0, 3, 0, 2, 0.35f, 1, 2, 3, 10, 20, 30, 0, 1, &n, NULL, NULL,
                                    NULL, NULL) == CELLRT_ERROR_CAPACITY);
    CHECK(n == 2);
    float prob[2], dist[6];
    int32_t points[6];
    CHECK(cellrt_star_candidates_3d(maps, 3, 0, 2, 3, 2, 0, 2, 0, 3, 0, 2, 0.35f, 1, 2, 3, 10, 20, 30, 2, 2, &n, prob, dist,
                                    points, NULL) == CELLRT_OK);
    /* Samples 4 and 9 are (0, 2, 0) and (1, 1, 1). */
    CHECK(points[0] == 10 && points[1] == 24 && points[2] == 30);
    CHECK(points[3] == 11 && points[4] == 22 && points[5] == 33);
    CHECK(dist[0] == 16.0f && dist[1] == 28.0f && dist[5] == 45.0f);
    CHECK(cellrt_star_candidates_3d(maps, 3, 0, 2, 3, 2, 0, 3, 0, 3, 0, 2, 0.35f, 1, 2, 3, 10, 20, 30, 2, 2, &n, prob, dist,
                                    points, NULL) == CELLRT_ERROR_ARGUMENT);
}

static void test_polyhedra(void) {
    const float prob[3] = {0.5f, 0.9f, 0.8f};
    float dist[18];
    for (int i = 0; i < 18; ++i) dist[i] = 3.5f;
    const int32_t points[9] = {5, 5, 5, 5, 6, 5, 5, 5, 12};
    int64_t n_kept = -1, kept[3];
    CHECK(cellrt_star_nms_3d(prob, dist, points, 3, octahedron_rays, 6, octahedron_faces, 8, 0.3f, 100000, NULL, 2, &n_kept,
                             kept) == CELLRT_OK);
    CHECK(n_kept == 2 && kept[0] == 1 && kept[1] == 2);
    CHECK(cellrt_star_nms_3d(prob, dist, points, 3, octahedron_rays, 6, octahedron_faces, 8, 0.9f, 100000, NULL, 1, &n_kept,
                             kept) == CELLRT_OK);
    CHECK(n_kept == 3 && kept[2] == 0);
    CHECK(cellrt_star_nms_3d(NULL, NULL, NULL, 0, octahedron_rays, 6, octahedron_faces, 8, 0.3f, 0, NULL, 1, &n_kept, NULL) ==
          CELLRT_OK);
    CHECK(n_kept == 0);
    CHECK(cellrt_star_nms_3d(prob, dist, points, 3, octahedron_rays, 6, octahedron_faces, 8, 0.3f, 3, NULL, 1, &n_kept,
                             kept) == CELLRT_ERROR_CAPACITY);
    const int32_t cancel = 1;
    CHECK(cellrt_star_nms_3d(prob, dist, points, 3, octahedron_rays, 6, octahedron_faces, 8, 0.3f, 100000, &cancel, 1,
                             &n_kept, kept) == CELLRT_ERROR_CANCELLED);
    CHECK(cellrt_star_nms_3d(prob, dist, points, INT64_C(1) << 23, octahedron_rays, 6, octahedron_faces, 8, 0.3f, 100000,
                             NULL, 1, &n_kept, kept) == CELLRT_ERROR_CAPACITY);
    CHECK(cellrt_star_nms_3d(prob, dist, points, 3, octahedron_rays, 5, octahedron_faces, 8, 0.3f, 100000, NULL, 1, &n_kept,
                             kept) == CELLRT_ERROR_ARGUMENT);
    CHECK(cellrt_star_nms_3d(prob, dist, points, 3, octahedron_rays, 6, octahedron_faces, 0, 0.3f, 100000, NULL, 1, &n_kept,
                             kept) == CELLRT_ERROR_ARGUMENT);

    const uint8_t strongest_is_open[3] = {0, 1, 0}, weakest_is_open[3] = {1, 0, 0};
    uint8_t states[3];
    CHECK(cellrt_star_settle_3d(prob, dist, points, 3, octahedron_rays, 6, octahedron_faces, 8, strongest_is_open, 0.3f,
                                100000, NULL, 2, states) == CELLRT_OK);
    CHECK(states[0] == CELLRT_STAR_UNDECIDED && states[1] == CELLRT_STAR_UNDECIDED && states[2] == CELLRT_STAR_KEPT);
    CHECK(cellrt_star_settle_3d(prob, dist, points, 3, octahedron_rays, 6, octahedron_faces, 8, weakest_is_open, 0.3f,
                                100000, NULL, 1, states) == CELLRT_OK);
    CHECK(states[0] == CELLRT_STAR_DROPPED && states[1] == CELLRT_STAR_KEPT && states[2] == CELLRT_STAR_KEPT);
    CHECK(cellrt_star_settle_3d(NULL, NULL, NULL, 0, octahedron_rays, 6, octahedron_faces, 8, NULL, 0.3f, 0, NULL, 1, NULL) ==
          CELLRT_OK);
    CHECK(cellrt_star_settle_3d(prob, dist, points, 3, octahedron_rays, 6, octahedron_faces, 8, NULL, 0.3f, 100000, NULL, 1,
                                states) == CELLRT_ERROR_ARGUMENT);
    CHECK(cellrt_star_settle_3d(prob, dist, points, 3, octahedron_rays, 6, octahedron_faces, 8, weakest_is_open, 0.3f, 3,
                                NULL, 1, states) == CELLRT_ERROR_CAPACITY);
    CHECK(cellrt_star_settle_3d(prob, dist, points, 3, octahedron_rays, 6, octahedron_faces, 8, weakest_is_open, 0.3f,
                                100000, &cancel, 1, states) == CELLRT_ERROR_CANCELLED);

    /* The octahedron |z| + |y| + |x| <= 3.5 around (5, 5, 5): 7 layers of 1, 5, 13, 25, 13, 5, 1 voxels. */
    static int32_t labels[11 * 11 * 11], cancelled[11 * 11 * 11], block[2 * 3 * 4];
    const float centres[9] = {5, 5, 5, 5, 6, 5, 5, 5, 12};
    const int64_t order[3] = {1, 0, 2};
    const int32_t modes[2] = {CELLRT_POLYHEDRON_FULL, CELLRT_POLYHEDRON_HULL};
    for (int m = 0; m < 2; ++m) {
        CHECK(cellrt_paint_polyhedra_3d(dist, centres, order + 2, 0, octahedron_rays, 6, octahedron_faces, 8, 0, 0, 0, 11, 11,
                                        11, modes[m], 0, 0, NULL, 1, labels) == CELLRT_OK);
        CHECK(labels[5 * 121 + 5 * 11 + 5] == 0);
        const int64_t first[1] = {0};
        CHECK(cellrt_paint_polyhedra_3d(dist, centres, first, 1, octahedron_rays, 6, octahedron_faces, 8, 0, 0, 0, 11, 11, 11,
                                        modes[m], 0, 0, NULL, 1, labels) == CELLRT_OK);
        int n_painted = 0;
        for (int i = 0; i < 11 * 11 * 11; ++i) n_painted += labels[i];
        CHECK(n_painted == 63);
    }
    CHECK(cellrt_paint_polyhedra_3d(dist, centres, order, 3, octahedron_rays, 6, octahedron_faces, 8, 0, 0, 0, 11, 11, 11,
                                    CELLRT_POLYHEDRON_FULL, 1, -7, NULL, 2, labels) == CELLRT_OK);
    CHECK(labels[5 * 121 + 5 * 11 + 5] == -7 && labels[5 * 121 + 2 * 11 + 5] == 1 && labels[5 * 121 + 9 * 11 + 5] == 2);
    CHECK(cellrt_paint_polyhedra_3d(dist, centres, order, 3, octahedron_rays, 6, octahedron_faces, 8, 5, 4, 3, 2, 3, 4,
                                    CELLRT_POLYHEDRON_FULL, 1, -7, NULL, 1, block) == CELLRT_OK);
    CHECK(cellrt_paint_polyhedra_3d(dist, centres, order, 3, octahedron_rays, 6, octahedron_faces, 8, 0, 0, 0, 11, 11, 11,
                                    CELLRT_POLYHEDRON_FULL, 0, 0, &cancel, 2, cancelled) == CELLRT_ERROR_CANCELLED);
    for (int i = 0; i < 24; ++i)
        CHECK(block[i] == labels[(5 + i / 12) * 121 + (4 + i / 4 % 3) * 11 + 3 + i % 4]);
    CHECK(cellrt_paint_polyhedra_3d(dist, centres, order, 3, octahedron_rays, 6, octahedron_faces, 8, 0, 0, 0, 11, 11, 11, 4,
                                    0, 0, NULL, 1, labels) == CELLRT_ERROR_ARGUMENT);
    dist[7] = 0.0f;
    CHECK(cellrt_paint_polyhedra_3d(dist, centres, order, 3, octahedron_rays, 6, octahedron_faces, 8, 0, 0, 0, 11, 11, 11,
                                    CELLRT_POLYHEDRON_BBOX, 0, 0, NULL, 1, labels) == CELLRT_ERROR_DATA);
    CHECK(cellrt_star_nms_3d(prob, dist, points, 3, octahedron_rays, 6, octahedron_faces, 8, 0.3f, 100000, NULL, 1, &n_kept,
                             kept) == CELLRT_ERROR_DATA);
}

static void test_polyhedra_with_many_poles(void) {
    int32_t faces[48], n_faces = 0;
    for (int ring = 0; ring < 8; ring += 4)
        for (int k = 0; k < 4; ++k) {
            const int32_t a = ring + k, b = ring + (k + 1) % 4;
            const int32_t two[6] = {a, b + 4, b, a, a + 4, b + 4};
            for (int i = 0; i < 6; ++i) faces[3 * n_faces + i] = two[i];
            n_faces += 2;
        }
    CHECK(n_faces == 16);
    float dist[36];
    for (int i = 0; i < 36; ++i) dist[i] = 3.5f;
    const float prob[3] = {0.5f, 0.9f, 0.8f}, centre[3] = {5, 5, 5};
    const int32_t points[9] = {5, 5, 5, 5, 6, 5, 5, 5, 12};
    const int64_t order[1] = {0};
    int64_t n_kept = -1, kept[3];
    CHECK(cellrt_star_nms_3d(prob, dist, points, 3, many_poles_rays, 12, faces, 16, 0.3f, 100000, NULL, 2, &n_kept, kept) ==
          CELLRT_OK);
    CHECK(n_kept == 2 && kept[0] == 1 && kept[1] == 2);
    CHECK(cellrt_star_nms_3d(prob, dist, points, 3, many_poles_rays, 12, faces, 16, 0.9f, 100000, NULL, 2, &n_kept, kept) ==
          CELLRT_OK);
    CHECK(n_kept == 3 && kept[2] == 0);
    /* With rays of one length at a pole it is the octahedron. With others there are steps between them, in the planes of the
     * axes: behind all of these is only a part of it, but the planes are filled up to the hull. */
    static int32_t labels[11 * 11 * 11];
    const int32_t modes[3] = {CELLRT_POLYHEDRON_FULL, CELLRT_POLYHEDRON_HULL, CELLRT_POLYHEDRON_KERNEL};
    for (int uneven = 0; uneven < 2; ++uneven) {
        for (int m = 0; m < 3; ++m) {
            CHECK(cellrt_paint_polyhedra_3d(dist, centre, order, 1, many_poles_rays, 12, faces, 16, 0, 0, 0, 11, 11, 11,
                                            modes[m], 0, 0, NULL, 1, labels) == CELLRT_OK);
            int n_painted = 0;
            for (int i = 0; i < 11 * 11 * 11; ++i) n_painted += labels[i];
            CHECK(n_painted == (uneven && modes[m] == CELLRT_POLYHEDRON_KERNEL ? 28 : 63));
        }
        dist[1] = dist[10] = 2.5f;
    }
}

static void test_star_outlines(void) {
    const float dist[] = {1.0f, 2.0f, 3.0f, 4.0f};
    const double points[] = {10.0, 20.0};
    const float expected[] = {10.0f, 20.5f, 14.0f, 20.0f, 10.0f, 18.5f, 2.0f, 20.0f};
    float coords[8];
    int i;

    CHECK(cellrt_star_outlines_2d(dist, points, 1, 4, 2.0, 0.5, 1, coords) == CELLRT_OK);
    for (i = 0; i < 8; ++i) CHECK(fabsf(coords[i] - expected[i]) < 1e-5f);
    CHECK(cellrt_star_outlines_2d(NULL, NULL, 0, 4, 1.0, 1.0, 1, NULL) == CELLRT_OK);
    CHECK(cellrt_star_outlines_2d(dist, points, 1, 4, NAN, 1.0, 1, coords) == CELLRT_ERROR_ARGUMENT);
    CHECK(cellrt_star_outlines_2d(dist, points, -1, 4, 1.0, 1.0, 1, coords) == CELLRT_ERROR_ARGUMENT);
    CHECK(cellrt_star_outlines_2d(dist, points, 1, 1025, 1.0, 1.0, 1, coords) == CELLRT_ERROR_ARGUMENT);
}

static void test_star_targets(void) {
    /* One object in a corner, another of a single pixel, and a pixel that is no object but a border. */
    const int32_t labels[] = {3, 3, 3, 0, 3, 3, 3, 0, 3, 3, 3, 9, 0, 0, -1, -1};
    const int32_t whole[] = {2, 2, 2};
    float dist[4 * 16], prob[16];
    int i;

    CHECK(cellrt_star_distances_2d(labels, 4, 4, 1, 1, 4, 1, dist) == CELLRT_OK);
    /* Of pixel (0, 1): right, down, left and up. */
    CHECK(dist[1] == 1.5f && dist[16 + 1] == 2.5f && dist[32 + 1] == 1.5f && dist[48 + 1] == 0.5f);
    CHECK(dist[3] == 0.0f && dist[11] == 0.5f && dist[32 + 15] == 1.5f);
    CHECK(cellrt_star_distances_2d(labels, 4, 4, 3, 2, 4, 2, dist) == CELLRT_OK);
    CHECK(dist[0] == 2.5f && dist[1] == 0.5f && dist[2] == 0.0f && dist[3] == 1.5f); /* of 2 x 2 samples, to the right */

    CHECK(cellrt_object_probability_2d(labels, 4, 4, 9, 2, prob) == CELLRT_OK);
    CHECK(prob[0] == 1.0f && fabsf(prob[1] - 2.0f / 3.0f) < 1e-6f && fabsf(prob[10] - 1.0f / 3.0f) < 1e-6f);
    CHECK(prob[11] == 1.0f && prob[3] == 0.0f && prob[14] == 0.0f);
    CHECK(cellrt_object_probability_2d(whole, 1, 3, 2, 1, prob) == CELLRT_OK);
    for (i = 0; i < 3; ++i) CHECK(prob[i] == 1.0f);

    CHECK(cellrt_star_distances_2d(labels, 4, 4, 1, 1, 2, 1, dist) == CELLRT_ERROR_ARGUMENT);
    CHECK(cellrt_star_distances_2d(labels, 4, 4, 0, 1, 4, 1, dist) == CELLRT_ERROR_ARGUMENT);
    CHECK(cellrt_star_distances_2d(labels, 4, 4, 1, 1, 4, -1, dist) == CELLRT_ERROR_ARGUMENT);
    CHECK(cellrt_star_distances_2d(labels, 4, -1, 1, 1, 4, 1, dist) == CELLRT_ERROR_ARGUMENT);
    CHECK(cellrt_star_distances_2d(labels, 1, (1 << 20) + 1, 1, 1, 4, 1, dist) == CELLRT_ERROR_ARGUMENT);
    CHECK(cellrt_star_distances_2d(NULL, 4, 4, 1, 1, 4, 1, dist) == CELLRT_ERROR_ARGUMENT);
    CHECK(cellrt_star_distances_2d(labels, 4, 4, 1, 1, 4, 1, NULL) == CELLRT_ERROR_ARGUMENT);
    CHECK(cellrt_object_probability_2d(labels, 4, 4, 8, 1, prob) == CELLRT_ERROR_ARGUMENT);
    CHECK(cellrt_object_probability_2d(whole, 1, 3, 1, 1, prob) == CELLRT_ERROR_ARGUMENT);
    CHECK(cellrt_object_probability_2d(labels, 4, 4, -1, 1, prob) == CELLRT_ERROR_ARGUMENT);
    CHECK(cellrt_object_probability_2d(labels, (1 << 20) + 1, 1, 9, 1, prob) == CELLRT_ERROR_ARGUMENT);
    CHECK(cellrt_object_probability_2d(labels, 4, 4, 9, 1, NULL) == CELLRT_ERROR_ARGUMENT);
}

static void test_labels(void) {
    /* A square of 3 x 3 pixels (edges belong to it) and a triangle over its corner. */
    const float coords[] = {0, 0, 0, 2, 2, 2, 2, 0, 1, 1, 1, 3, 3, 1};
    const int64_t offsets[] = {0, 4, 7};
    const int64_t falling[] = {0, 4, 3};
    const int64_t order[] = {0, 1};
    const int64_t too_high[] = {0, 2};
    const int32_t expected[] = {1, 1, 1, 0, 1, 2, 2, 2, 1, 2, 2, 0, 0, 2, 0, 0};
    const int32_t sparse[] = {0, 70, 5, 70, 0, 6};
    const int32_t renumbered[] = {0, 3, 1, 3, 0, 2};
    const float not_finite[] = {0, 0, 0, 2, 2, 2, 2, NAN, 1, 1, 1, 3, 3, 1};
    int32_t labels[16], boxes[3 * 6], table[71], relabelled[6], n_labels = -1;
    int64_t areas[3];
    double centroids[3 * 3];

    CHECK(cellrt_paint_polygons_2d(coords, offsets, order, 2, 4, 4, 2, labels) == CELLRT_OK);
    CHECK(memcmp(labels, expected, sizeof expected) == 0);
    CHECK(cellrt_paint_polygons_2d(not_finite, offsets, order, 2, 4, 4, 1, labels) == CELLRT_ERROR_DATA);
    CHECK(cellrt_paint_polygons_2d(coords, falling, order, 2, 4, 4, 1, labels) == CELLRT_ERROR_ARGUMENT);
    CHECK(cellrt_paint_polygons_2d(coords, offsets, too_high, 2, 4, 4, 1, labels) == CELLRT_ERROR_ARGUMENT);
    CHECK(cellrt_paint_polygons_2d(coords, offsets, order, 2, 4, 4, 1, NULL) == CELLRT_ERROR_ARGUMENT);

    CHECK(cellrt_label_regions_2d(expected, 4, 4, 3, 2, areas, boxes, centroids) == CELLRT_OK);
    CHECK(areas[0] == 5 && areas[1] == 6 && areas[2] == 0);
    CHECK(boxes[4] == 1 && boxes[5] == 1 && boxes[6] == 4 && boxes[7] == 4 && boxes[8] == 0 && boxes[11] == 0);
    CHECK(centroids[0] == 0.6 && centroids[1] == 0.6 && centroids[4] == -1.0);
    CHECK(cellrt_label_regions_2d(expected, 4, 4, 1, 1, areas, boxes, centroids) == CELLRT_ERROR_ARGUMENT);

    /* The same labels as two planes of two rows: label 2 begins in the last row of the first. */
    CHECK(cellrt_label_regions_3d(expected, 2, 2, 4, 3, 2, areas, boxes, centroids) == CELLRT_OK);
    CHECK(areas[0] == 5 && areas[1] == 6 && areas[2] == 0);
    CHECK(boxes[6] == 0 && boxes[7] == 0 && boxes[8] == 1 && boxes[9] == 2 && boxes[10] == 2 && boxes[11] == 4);
    CHECK(boxes[12] == 0 && boxes[17] == 0);
    CHECK(centroids[3] == 0.5 && centroids[4] == 4.0 / 6.0 && centroids[5] == 10.0 / 6.0 && centroids[6] == -1.0);
    CHECK(cellrt_label_regions_3d(expected, 2, 2, 4, 1, 1, areas, boxes, centroids) == CELLRT_ERROR_ARGUMENT);
    CHECK(cellrt_label_regions_3d(expected, 2, -1, 4, 3, 1, areas, boxes, centroids) == CELLRT_ERROR_ARGUMENT);
    CHECK(cellrt_label_regions_3d(expected, 2, 2, 4, 3, -1, areas, boxes, centroids) == CELLRT_ERROR_ARGUMENT);
    CHECK(cellrt_label_regions_3d(NULL, 2, 2, 4, 3, 1, areas, boxes, centroids) == CELLRT_ERROR_ARGUMENT);

    CHECK(cellrt_relabel(sparse, 6, 70, 1, table, relabelled, &n_labels) == CELLRT_OK);
    CHECK(n_labels == 3 && memcmp(relabelled, renumbered, sizeof renumbered) == 0);
    CHECK(table[70] == 3 && table[6] == 2 && table[5] == 1 && table[1] == 0);
    CHECK(cellrt_relabel(sparse, 6, 69, 1, table, relabelled, &n_labels) == CELLRT_ERROR_ARGUMENT);
    CHECK(cellrt_relabel(sparse, 6, -1, 1, table, relabelled, &n_labels) == CELLRT_ERROR_ARGUMENT);
}

static void test_resize(void) {
    const float image[] = {0.0f, 2.0f, 4.0f, 6.0f};
    const float expected[] = {0.0f, 0.5f, 1.5f, 2.0f, 1.0f, 1.5f, 2.5f, 3.0f, 3.0f, 3.5f, 4.5f, 5.0f, 4.0f, 4.5f, 5.5f, 6.0f};
    float out[16];
    int i;

    CHECK(cellrt_resize_linear_f32(image, 1, 2, 2, 4, 4, 0, 1, out) == CELLRT_OK);
    for (i = 0; i < 16; ++i) CHECK(fabsf(out[i] - expected[i]) < 1e-6f);
    CHECK(cellrt_resize_linear_f32(image, 1, 2, 2, 4, 4, 1, 1, out) == CELLRT_OK);
    for (i = 0; i < 16; ++i) CHECK(fabsf(out[i] - expected[i]) < 1e-6f);
    CHECK(cellrt_resize_linear_f32(image, 1, 2, 2, 4, 4, 2, 1, out) == CELLRT_ERROR_ARGUMENT);
    CHECK(cellrt_resize_linear_f32(image, 2, 1, 2, 1, 2, 0, 2, out) == CELLRT_OK); /* the same size: a copy */
    CHECK(memcmp(out, image, sizeof image) == 0);
    CHECK(cellrt_resize_linear_f32(NULL, 0, 1, 1, 4, 4, 0, 1, NULL) == CELLRT_OK);
    CHECK(cellrt_resize_linear_f32(image, 1, 0, 2, 4, 4, 0, 1, out) == CELLRT_ERROR_ARGUMENT);
    CHECK(cellrt_resize_linear_f32(image, 1, 2, 2, 0, 4, 0, 1, out) == CELLRT_ERROR_ARGUMENT);
    CHECK(cellrt_resize_linear_f32(image, -1, 2, 2, 4, 4, 0, 1, out) == CELLRT_ERROR_ARGUMENT);
    CHECK(cellrt_resize_linear_f32(NULL, 1, 2, 2, 4, 4, 0, 1, out) == CELLRT_ERROR_ARGUMENT);
    CHECK(cellrt_resize_linear_f32(image, INT64_C(1) << 20, 1 << 30, 1 << 30, 4, 4, 0, 1, out) == CELLRT_ERROR_ARGUMENT);
}

/* A cell of 5 x 5 pixels in the middle of 9 x 9, whose flow points at its centre. */
enum { flow_side = 9, flow_pixels = 81, cell_pixels = 25 };

static void draw_flow(float *flow, float *cellprob) {
    int y, x;
    for (y = 0; y < flow_side; ++y) {
        for (x = 0; x < flow_side; ++x) {
            const int at = flow_side * y + x;
            cellprob[at] = y >= 2 && y <= 6 && x >= 2 && x <= 6 ? 1.0f : -1.0f;
            flow[at] = y < 4 ? 5.0f : y > 4 ? -5.0f : 0.0f;
            flow[flow_pixels + at] = x < 4 ? 5.0f : x > 4 ? -5.0f : 0.0f;
        }
    }
}

static void test_flows(void) {
    const int32_t stop = 1;
    float flow[2 * flow_pixels], cellprob[flow_pixels], positions[2 * cell_pixels], label_flow[2 * flow_pixels];
    int64_t pixels[cell_pixels], n = -1;
    int32_t labels[flow_pixels], n_labels = -1, dynamics;
    double error;
    int i;

    draw_flow(flow, cellprob);
    for (dynamics = CELLRT_DYNAMICS_V3; dynamics <= CELLRT_DYNAMICS_V4; ++dynamics) {
        CHECK(cellrt_flow_follow_2d(flow, cellprob, flow_side, flow_side, 0.0f, dynamics, 1, 50, NULL, 0, 1, &n, NULL,
                                    NULL) == CELLRT_ERROR_CAPACITY);
        CHECK(n == cell_pixels);
        CHECK(cellrt_flow_follow_2d(flow, cellprob, flow_side, flow_side, 0.0f, dynamics, 1, 50, NULL, n, 2, &n, pixels,
                                    positions) == CELLRT_OK);
        CHECK(pixels[0] == 2 * flow_side + 2 && pixels[24] == 6 * flow_side + 6);
        for (i = 0; i < 2 * cell_pixels; ++i) CHECK(fabsf(positions[i] - 4.0f) < 1.0f);
        CHECK(cellrt_flow_masks_2d(pixels, positions, n, flow_side, flow_side, 0.4, 2, labels, &n_labels) == CELLRT_OK);
        CHECK(n_labels == 1);
        for (i = 0; i < flow_pixels; ++i) CHECK(labels[i] == (cellprob[i] > 0.0f));

        CHECK(cellrt_label_flows_2d(labels, flow_side, flow_side, 1, dynamics, 0, 1, label_flow) == CELLRT_OK);
        CHECK(fabsf(label_flow[2 * flow_side + 4] - 1.0f) < 1e-6f && label_flow[0] == 0.0f);
        CHECK(fabsf(label_flow[flow_pixels + 4 * flow_side + 6] + 1.0f) < 1e-6f);
        for (i = 0; i < 2 * flow_pixels; ++i) label_flow[i] *= 5.0f;
        CHECK(cellrt_flow_errors_2d(labels, label_flow, flow_side, flow_side, 1, dynamics, 1, &error) == CELLRT_OK);
        CHECK(error >= 0.0 && error < 1e-12);
        label_flow[4 * flow_side + 4] = NAN;
        CHECK(cellrt_flow_errors_2d(labels, label_flow, flow_side, flow_side, 1, dynamics, 1, &error) ==
              CELLRT_ERROR_DATA);
        CHECK(cellrt_label_flows_2d(labels, flow_side, flow_side, 0, dynamics, 0, 1, label_flow) ==
              CELLRT_ERROR_ARGUMENT);
        CHECK(cellrt_flow_errors_2d(labels, flow, flow_side, flow_side, 0, dynamics, 1, &error) ==
              CELLRT_ERROR_ARGUMENT);
    }

    CHECK(cellrt_flow_follow_2d(flow, cellprob, flow_side, flow_side, 0.0f, CELLRT_DYNAMICS_V3, 0, 50, NULL,
                                cell_pixels, 1, &n, pixels, positions) == CELLRT_OK);
    CHECK(cellrt_flow_follow_2d(flow, cellprob, flow_side, flow_side, 0.0f, CELLRT_DYNAMICS_V3, 1, 50, &stop,
                                cell_pixels, 1, &n, pixels, positions) == CELLRT_ERROR_CANCELLED);
    flow[4 * flow_side + 4] = INFINITY;
    CHECK(cellrt_flow_follow_2d(flow, cellprob, flow_side, flow_side, 0.0f, CELLRT_DYNAMICS_V3, 1, 50, NULL,
                                cell_pixels, 1, &n, pixels, positions) == CELLRT_ERROR_DATA);
    CHECK(cellrt_flow_follow_2d(flow, cellprob, flow_side, flow_side, 0.0f, CELLRT_DYNAMICS_V4, 0, 50, NULL,
                                cell_pixels, 1, &n, pixels, positions) == CELLRT_ERROR_ARGUMENT);
    CHECK(cellrt_flow_follow_2d(flow, cellprob, flow_side, flow_side, 0.0f, 5, 1, 50, NULL, cell_pixels, 1, &n, pixels,
                                positions) == CELLRT_ERROR_ARGUMENT);
    CHECK(cellrt_flow_follow_2d(flow, cellprob, flow_side, flow_side, 0.0f, CELLRT_DYNAMICS_V3, 1, -1, NULL, cell_pixels,
                                1, &n, pixels, positions) == CELLRT_ERROR_ARGUMENT);
    CHECK(cellrt_flow_follow_2d(flow, cellprob, flow_side, flow_side, NAN, CELLRT_DYNAMICS_V3, 1, 1, NULL, cell_pixels,
                                1, &n, pixels, positions) == CELLRT_ERROR_ARGUMENT);
    positions[7] = NAN;
    CHECK(cellrt_flow_masks_2d(pixels, positions, cell_pixels, flow_side, flow_side, 0.4, 1, labels, &n_labels) ==
          CELLRT_ERROR_DATA);
    pixels[3] = pixels[2];
    CHECK(cellrt_flow_masks_2d(pixels, positions, cell_pixels, flow_side, flow_side, 0.4, 1, labels, &n_labels) ==
          CELLRT_ERROR_ARGUMENT);
}

static void test_label_shapes(void) {
    /* A ring of 8 pixels around another label, a pixel by itself, and a label of two parts. */
    const int32_t labels[] = {3, 3, 3, 0, 0, 3, 7, 3, 0, 9, 3, 3, 3, 0, 0, 0, 0, 0, 0, 9, 5, 0, 0, 0, 9};
    const int32_t filled[] = {1, 1, 1, 0, 0, 1, 1, 1, 0, 2, 1, 1, 1, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 2};
    const float outline[] = {-0.5f, -0.5f, -0.5f, 2.5f, 2.5f, 2.5f, 2.5f, -0.5f};
    int32_t cleaned[25], n_labels = -1;
    int64_t offsets[10];
    float coords[64];

    CHECK(cellrt_clean_labels_2d(labels, 5, 5, 9, 2, CELLRT_DYNAMICS_V4, 1, cleaned, &n_labels) == CELLRT_OK);
    CHECK(n_labels == 2 && memcmp(cleaned, filled, sizeof filled) == 0);
    CHECK(cellrt_clean_labels_2d(labels, 5, 5, 8, 2, CELLRT_DYNAMICS_V4, 1, cleaned, &n_labels) ==
          CELLRT_ERROR_ARGUMENT);
    CHECK(cellrt_clean_labels_2d(labels, 5, 5, 9, 2, 2, 1, cleaned, &n_labels) == CELLRT_ERROR_ARGUMENT);

    CHECK(cellrt_label_outlines_2d(labels, 5, 5, 9, 0, 1, offsets, NULL) == CELLRT_ERROR_CAPACITY);
    CHECK(offsets[0] == 0 && offsets[2] == 0 && offsets[3] == 4 && offsets[9] == 16);
    CHECK(cellrt_label_outlines_2d(labels, 5, 5, 9, 32, 2, offsets, coords) == CELLRT_OK);
    CHECK(memcmp(coords, outline, sizeof outline) == 0);
    CHECK(coords[2 * 12] == 2.5f && coords[2 * 12 + 1] == 3.5f); /* of label 9, the larger part */
    CHECK(cellrt_label_outlines_2d(labels, 5, 5, 8, 32, 1, offsets, coords) == CELLRT_ERROR_ARGUMENT);
}

static void test_overlaps_and_matching(void) {
    const int32_t truth[] = {0, 7, 7, 7, 0, 2147483647}, predicted[] = {5, 5, 5, 1, 1, 0};
    const int32_t negative[] = {0, 7, 7, -7, 0, 2};
    const int32_t expected[] = {0, 1, 0, 5, 7, 1, 7, 5, 2147483647, 0};
    /* The best pair keeps two others that reach the threshold from being matched. */
    const int32_t chain[] = {0, 0, 1, 0, 1, 1}, unsorted[] = {1, 0, 0, 0, 1, 1}, twice[] = {0, 0, 0, 0, 1, 1};
    const double scores[] = {0.3, 0.9, 0.3}, wrong[] = {0.3, NAN, 0.3}, too_large[] = {0.3, 1.5, 0.3};
    int32_t pairs[2 * 5];
    int64_t counts[5], n = -1;
    uint8_t is_matched[3];

    CHECK(cellrt_label_overlaps(truth, predicted, 6, 0, 1, &n, NULL, NULL) == CELLRT_ERROR_CAPACITY);
    CHECK(n == 5);
    CHECK(cellrt_label_overlaps(truth, predicted, 6, 5, 2, &n, pairs, counts) == CELLRT_OK);
    CHECK(n == 5 && memcmp(pairs, expected, sizeof expected) == 0);
    CHECK(counts[0] == 1 && counts[1] == 1 && counts[2] == 1 && counts[3] == 2 && counts[4] == 1);
    CHECK(cellrt_label_overlaps(negative, predicted, 6, 5, 1, &n, pairs, counts) == CELLRT_ERROR_ARGUMENT);
    CHECK(cellrt_label_overlaps(truth, negative, 6, 5, 1, &n, pairs, counts) == CELLRT_ERROR_ARGUMENT);
    CHECK(cellrt_label_overlaps(truth, NULL, 6, 5, 1, &n, pairs, counts) == CELLRT_ERROR_ARGUMENT);
    CHECK(cellrt_label_overlaps(truth, predicted, 6, 5, 1, &n, pairs, NULL) == CELLRT_ERROR_ARGUMENT);
    CHECK(cellrt_label_overlaps(truth, predicted, -1, 5, 1, &n, pairs, counts) == CELLRT_ERROR_ARGUMENT);

    CHECK(cellrt_match_pairs(chain, scores, 3, 2, 2, 0.1, 100, is_matched) == CELLRT_OK);
    CHECK(is_matched[0] == 1 && is_matched[1] == 0 && is_matched[2] == 1);
    CHECK(cellrt_match_pairs(chain, scores, 3, 2, 2, 0.5, 100, is_matched) == CELLRT_OK);
    CHECK(is_matched[0] == 0 && is_matched[1] == 1 && is_matched[2] == 0);
    CHECK(cellrt_match_pairs(chain, scores, 3, 2, 2, 0.1, 2, is_matched) == CELLRT_ERROR_CAPACITY);
    CHECK(cellrt_match_pairs(chain, wrong, 3, 2, 2, 0.1, 100, is_matched) == CELLRT_ERROR_DATA);
    CHECK(cellrt_match_pairs(chain, too_large, 3, 2, 2, 0.1, 100, is_matched) == CELLRT_ERROR_DATA);
    CHECK(cellrt_match_pairs(unsorted, scores, 3, 2, 2, 0.1, 100, is_matched) == CELLRT_ERROR_ARGUMENT);
    CHECK(cellrt_match_pairs(twice, scores, 3, 2, 2, 0.1, 100, is_matched) == CELLRT_ERROR_ARGUMENT);
    CHECK(cellrt_match_pairs(chain, scores, 3, 2, 1, 0.1, 100, is_matched) == CELLRT_ERROR_ARGUMENT);
    CHECK(cellrt_match_pairs(chain, scores, 3, 1, 2, 0.1, 100, is_matched) == CELLRT_ERROR_ARGUMENT);
    CHECK(cellrt_match_pairs(chain, scores, 3, 2, 2, NAN, 100, is_matched) == CELLRT_ERROR_ARGUMENT);
    CHECK(cellrt_match_pairs(chain, scores, 3, 2, 2, 0.1, -1, is_matched) == CELLRT_ERROR_ARGUMENT);
    CHECK(cellrt_match_pairs(chain, scores, 3, 2, 2, 0.1, 100, NULL) == CELLRT_ERROR_ARGUMENT);
}

/* A window of a volume of 20 planes, in which everything flows along z. */
static void test_flow_window(void) {
    enum { n_z = 8, n_y = 3, n_x = 3, n_window = n_z * n_y * n_x };
    const int64_t volume[] = {20, n_y, n_x}, origin[] = {6, 0, 0}, keep[] = {1, 7, 0, n_y, 0, n_x};
    const int64_t of_edge[] = {0, 7, 0, n_y, 0, n_x}, too_far[] = {13, 0, 0}, flat[] = {20, 0, n_x};
    const int32_t stop = 1;
    float flow[3 * n_window] = {0}, cellprob[n_window], positions[3 * n_window];
    int64_t voxels[n_window], n = -1, i;

    for (i = 0; i < n_window; ++i) {
        cellprob[i] = 1.0f;
        flow[i] = 5.0f;
    }
    CHECK(cellrt_flow_follow_window_3d(flow, cellprob, n_z, n_y, n_x, volume, origin, keep, 0.0f, 2, NULL, 0, 1, &n, NULL,
                                       NULL) == CELLRT_ERROR_CAPACITY);
    CHECK(n == 6 * n_y * n_x);
    CHECK(cellrt_flow_follow_window_3d(flow, cellprob, n_z, n_y, n_x, volume, origin, keep, 0.0f, 2, NULL, n, 2, &n, voxels,
                                       positions) == CELLRT_OK);
    /* In the middle of the second plane: two voxels on. The first and the last would have to know what lies beyond. */
    CHECK(voxels[13] == 2 * n_y * n_x + 4 && fabsf(positions[3 * 13] - 10.0f) < 0.01f && positions[3 * 13 + 1] == 1.0f);
    CHECK(isnan(positions[0]) && isnan(positions[3 * (n - 1)]));
    CHECK(cellrt_flow_follow_window_3d(flow, cellprob, n_z, n_y, n_x, volume, origin, keep, 0.0f, 2, &stop, n, 1, &n,
                                       voxels, positions) == CELLRT_ERROR_CANCELLED);
    CHECK(cellrt_flow_follow_window_3d(flow, cellprob, n_z, n_y, n_x, volume, origin, of_edge, 0.0f, 2, NULL, n_window, 1,
                                       &n, voxels, positions) == CELLRT_ERROR_ARGUMENT);
    CHECK(cellrt_flow_follow_window_3d(flow, cellprob, n_z, n_y, n_x, volume, too_far, keep, 0.0f, 2, NULL, n_window, 1, &n,
                                       voxels, positions) == CELLRT_ERROR_ARGUMENT);
    CHECK(cellrt_flow_follow_window_3d(flow, cellprob, n_z, n_y, n_x, flat, origin, keep, 0.0f, 2, NULL, n_window, 1, &n,
                                       voxels, positions) == CELLRT_ERROR_ARGUMENT);
    CHECK(cellrt_flow_follow_window_3d(flow, cellprob, n_z, n_y, n_x, NULL, origin, keep, 0.0f, 2, NULL, n_window, 1, &n,
                                       voxels, positions) == CELLRT_ERROR_ARGUMENT);
    CHECK(cellrt_flow_follow_window_3d(flow, cellprob, n_z, n_y, n_x, volume, NULL, keep, 0.0f, 2, NULL, n_window, 1, &n,
                                       voxels, positions) == CELLRT_ERROR_ARGUMENT);
    CHECK(cellrt_flow_follow_window_3d(flow, cellprob, n_z, n_y, n_x, volume, origin, NULL, 0.0f, 2, NULL, n_window, 1, &n,
                                       voxels, positions) == CELLRT_ERROR_ARGUMENT);
    flow[10] = INFINITY;
    CHECK(cellrt_flow_follow_window_3d(flow, cellprob, n_z, n_y, n_x, volume, origin, keep, 0.0f, 2, NULL, n_window, 1, &n,
                                       voxels, positions) == CELLRT_ERROR_DATA);
}

int main(void) {
    test_status();
    test_percentiles();
    test_normalize();
    test_star_candidates();
    test_star_nms();
    test_star_candidates_3d();
    test_polyhedra();
    test_polyhedra_with_many_poles();
    test_star_outlines();
    test_star_targets();
    test_labels();
    test_resize();
    test_flows();
    test_flow_window();
    test_label_shapes();
    test_overlaps_and_matching();
    return n_failed == 0 ? 0 : 1;
}
