/* cellrt.h - the C interface of cellrt's kernels. BSD-3-Clause.
 *
 * What it does: everything that a StarDist or a Cellpose network needs around it. Percentiles, normalisation and
 * resizing before the network; after it candidates, non-maximum suppression and outlines of stars, or integration and
 * quality control of flows; painting, cleaning, tracing and measuring of labels; the training targets of stars. The
 * network itself runs elsewhere (ONNX Runtime); nothing here knows about it.
 *
 * Rules that hold for every function
 *   - Row-major arrays, y before x. "Pixels" are those of the image given to the network; pixel centres have integer
 *     coordinates, so pixel (0, 0) covers [-0.5, 0.5) x [-0.5, 0.5).
 *   - Arguments come in this order: inputs, sizes, parameters, n_threads, outputs.
 *   - The return value is a status (0 = ok). Nothing is printed, no errno is set, no exception leaves the library.
 *     On any status but 0 the contents of the outputs are undefined, except where a comment says otherwise.
 *   - The caller allocates every output. No function keeps a pointer after it returns.
 *   - n_threads: 0 uses cellrt_usable_cores(); 1 stays on the calling thread. Worker threads live only during the call.
 *     The bytes of every output are the same for any number of threads.
 *   - Every function may be called from several threads at once, provided that their outputs do not overlap.
 *   - Limits: any side of an image is at most 2^30, any count at most 2^40, n_rays 3..1024.
 */
#ifndef CELLRT_H
#define CELLRT_H

#include <stdint.h>

#if defined(CELLRT_STATIC)
#define CELLRT_API
#elif defined(_WIN32)
#ifdef CELLRT_BUILD
#define CELLRT_API __declspec(dllexport)
#else
#define CELLRT_API __declspec(dllimport)
#endif
#else
#define CELLRT_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Status and version ------------------------------------------------------------------------------------- */

#define CELLRT_OK 0
#define CELLRT_ERROR_ARGUMENT 1  /* a size, a parameter or a pointer is out of range: a mistake in the calling code */
#define CELLRT_ERROR_MEMORY 2    /* the system refused memory */
#define CELLRT_ERROR_CAPACITY 3  /* an output or a work limit was too small; a needed size, where there is one, is written */
#define CELLRT_ERROR_CANCELLED 4 /* the caller's cancel flag was set */
#define CELLRT_ERROR_INTERNAL 5  /* a defect of this library */
#define CELLRT_ERROR_DATA 6      /* the data cannot be used: NaN or infinite values, or ray lengths beyond 2^20 pixels */

#define CELLRT_VERSION 100 /* 10000 * major + 100 * minor + patch; functions are only added within a major version */

/* The version of the library that is loaded; compare with CELLRT_VERSION. */
CELLRT_API int32_t cellrt_version(void);

/* A constant English sentence for a status; never NULL. */
CELLRT_API const char *cellrt_status_text(int32_t status);

/* Cores this process may use: the affinity mask and, on Linux, the container's CPU quota; at least 1. Read once, at the
 * first call that needs it; later changes of the mask or the quota are not seen. */
CELLRT_API int32_t cellrt_usable_cores(void);

/* ---- Before the network ------------------------------------------------------------------------------------- */

/* Exact percentiles of all pixels of an image (channels together), with linear interpolation between order
 * statistics, bit for bit as numpy.percentile(image, percent) computes them: u8 and u16 in double precision, f32 in
 * single precision (0 and -0 are taken to be the same number, and written as 0).
 *
 * image      first element of n_channels x n_y x n_x pixels at the given strides
 * strides    in elements, of channel, y and x; may be negative or interleaved (a view of YXC or CYX data); 0 is allowed
 * percents   n_percents values in [0, 100]
 * values     n_percents doubles
 *
 * O(pixels) time. u8 and u16: one histogram pass. f32: two radix-histogram passes for up to two percents, one more for
 * every further two; no copy of the image. Scratch: 4 MiB, and 1 MiB per thread. f32 with NaN or infinity:
 * CELLRT_ERROR_DATA. No pixels: CELLRT_ERROR_ARGUMENT. */
CELLRT_API int32_t cellrt_percentiles_u8(const uint8_t *image, int64_t n_channels, int64_t n_y, int64_t n_x,
                                         int64_t stride_channel, int64_t stride_y, int64_t stride_x,
                                         const double *percents, int32_t n_percents, int32_t n_threads, double *values);
CELLRT_API int32_t cellrt_percentiles_u16(const uint16_t *image, int64_t n_channels, int64_t n_y, int64_t n_x,
                                          int64_t stride_channel, int64_t stride_y, int64_t stride_x,
                                          const double *percents, int32_t n_percents, int32_t n_threads, double *values);
CELLRT_API int32_t cellrt_percentiles_f32(const float *image, int64_t n_channels, int64_t n_y, int64_t n_x,
                                          int64_t stride_channel, int64_t stride_y, int64_t stride_x,
                                          const double *percents, int32_t n_percents, int32_t n_threads, double *values);

/* Normalise, cast and pad in one pass: out[c, y, x] = ((float)image[c, y', x'] - low[c]) / divisor[c], in float32,
 * where y' and x' mirror the padding back into the image without repeating the edge pixel (numpy.pad "reflect",
 * repeatedly where the padding is longer than the image; a side of 1 repeats its pixel).
 *
 * image, strides   as above
 * low, divisor     n_channels floats each; divisor finite and not 0
 * out_y, out_x     sides of the output, at least n_y and n_x: padding is added at the end of each axis only
 * out              n_channels * out_y * out_x floats, contiguous
 *
 * f32: NaN or infinity in the image gives CELLRT_ERROR_DATA. */
CELLRT_API int32_t cellrt_normalize_u8(const uint8_t *image, int64_t n_channels, int64_t n_y, int64_t n_x,
                                       int64_t stride_channel, int64_t stride_y, int64_t stride_x, const float *low,
                                       const float *divisor, int64_t out_y, int64_t out_x, int32_t n_threads, float *out);
CELLRT_API int32_t cellrt_normalize_u16(const uint16_t *image, int64_t n_channels, int64_t n_y, int64_t n_x,
                                        int64_t stride_channel, int64_t stride_y, int64_t stride_x, const float *low,
                                        const float *divisor, int64_t out_y, int64_t out_x, int32_t n_threads, float *out);
CELLRT_API int32_t cellrt_normalize_f32(const float *image, int64_t n_channels, int64_t n_y, int64_t n_x,
                                        int64_t stride_channel, int64_t stride_y, int64_t stride_x, const float *low,
                                        const float *divisor, int64_t out_y, int64_t out_x, int32_t n_threads, float *out);

/* Bilinear resampling of planes between grids that share their outer edges, as OpenCV's resize(INTER_LINEAR) computes it
 * for float32: sample d of the output lies at (d + 0.5) * n / out - 0.5, clamped to the image.
 *
 * image             n_planes * n_y * n_x floats; n_y and n_x at least 1
 * out_y, out_x      sides of the output, at least 1
 * single_precision  1: positions and weights in float32, as OpenCV computes images of two channels or with a side of one
 *                   pixel; where both sides halve, the mean of four pixels. 0: positions in double precision and one
 *                   rounding, as it computes all others (on x86-64)
 * out               n_planes * out_y * out_x floats; not the same array as image */
CELLRT_API int32_t cellrt_resize_linear_f32(const float *image, int64_t n_planes, int64_t n_y, int64_t n_x, int64_t out_y,
                                            int64_t out_x, int32_t single_precision, int32_t n_threads, float *out);

/* ---- StarDist, 2D (Schmidt et al., MICCAI 2018) -------------------------------------------------------------- */

/* Grid samples whose probability exceeds a threshold, gathered in row-major order.
 *
 * maps             (1 + n_rays + n_class_channels) * n_y * n_x floats, the network's output: probability, ray lengths
 *                  in pixels, then class probabilities (n_class_channels = 0, or number of classes + 1, background first)
 * y_begin..x_end   the window of samples to look at, half open, inside the map: the core of a tile, less any border
 * prob_thresh      strict: prob > prob_thresh; a NaN probability is no candidate
 * grid_y, grid_x   pixels per sample
 * origin_y/x       pixel of sample (0, 0), added to every point: the corner of the tile
 * capacity         most candidates that fit in the outputs
 * n_candidates     how many there are; written also with CELLRT_ERROR_CAPACITY, when the other outputs are untouched.
 *                  A call with capacity 0 and NULL outputs therefore counts.
 * prob             capacity floats
 * dist             capacity * n_rays floats, clipped below at 1e-3 as upstream does
 * points           capacity * 2 int32: y, x in pixels
 * class_prob       capacity * n_class_channels floats; may be NULL when n_class_channels is 0
 *
 * A candidate with a NaN or infinite length, or one beyond 2^20 pixels, gives CELLRT_ERROR_DATA. */
CELLRT_API int32_t cellrt_star_candidates_2d(const float *maps, int32_t n_rays, int32_t n_class_channels, int64_t n_y,
                                             int64_t n_x, int64_t y_begin, int64_t y_end, int64_t x_begin, int64_t x_end,
                                             float prob_thresh, int32_t grid_y, int32_t grid_x, int32_t origin_y,
                                             int32_t origin_x, int64_t capacity, int32_t n_threads,
                                             int64_t *n_candidates, float *prob, float *dist, int32_t *points,
                                             float *class_prob);

/* Greedy non-maximum suppression of star-convex polygons, with StarDist 0.9.2's decisions.
 *
 * Candidates are taken in descending order of probability, ties in ascending order of index. A candidate is dropped if
 * a kept one overlaps it by more than nms_thresh, overlap being intersection area / the smaller area. Vertices are
 * truncated to integers and crossing points rounded, as the original does through Clipper.
 *
 * prob        n floats, not NaN
 * dist        n * n_rays floats, finite, 0 < dist <= 2^20; ray k points along (y, x) = (sin, cos)(2 pi k / n_rays)
 * points      n * 2 int32: y, x in pixels, magnitude at most 2^30
 * nms_thresh  overlap above which the weaker candidate is dropped, in [0, 1]
 * max_pairs   limit on the work; more gives CELLRT_ERROR_CAPACITY. Each comparison of a candidate with a kept polygon
 *             whose box touches its own counts as one pair; so do every 64 cells and boxes that one search of the grid
 *             of kept polygons looks at (at most three searches per candidate). Independent of n_threads.
 * cancel      NULL, or a flag that another thread sets to non-zero to stop the call (CELLRT_ERROR_CANCELLED)
 * n_kept      how many candidates survive
 * kept        n int64: the indices of the survivors in descending order of probability; the rest is left alone
 *
 * Fastest where neighbours in the image are neighbours in the arrays, as in row-major order. Scratch: about 5 bytes per
 * candidate, and at most some 300 for each that survives or that nothing kept when its chunk begins suppresses. */
CELLRT_API int32_t cellrt_star_nms_2d(const float *prob, const float *dist, const int32_t *points, int64_t n,
                                      int32_t n_rays, float nms_thresh, int64_t max_pairs, const int32_t *cancel,
                                      int32_t n_threads, int64_t *n_kept, int64_t *kept);

/* Vertices of star-convex polygons, as StarDist's dist_to_coord computes them (double, rounded to float32 after each
 * step): coords[i, k] = points[i] + scale * dist[i, k] * (sin, cos)(2 pi k / n_rays).
 *
 * dist              n * n_rays floats
 * points            n * 2 doubles: y, x, already scaled
 * scale_y, scale_x  1 unless the network saw a rescaled image
 * coords            n * n_rays * 2 floats: y, x
 *
 * A vertex that is not finite (NaN or infinity in dist or points, or an overflow): CELLRT_ERROR_DATA. */
CELLRT_API int32_t cellrt_star_outlines_2d(const float *dist, const double *points, int64_t n, int32_t n_rays,
                                           double scale_y, double scale_x, int32_t n_threads, float *coords);

/* Training targets: the length of each ray from each grid sample to the border of its object, as StarDist's star_dist. A ray
 * goes in steps of one pixel, summed up in float32, to the first whose pixel (coordinates rounded, ties to even) has another
 * label or lies outside the image; then 1 - 0.5 / max(|sin|, |cos|) of a step is taken back, for the border lies between the
 * last two pixels. Sines and cosines are rounded from double precision, so as to be the same everywhere. With 8, 16 or 32
 * rays that is StarDist bit for bit; the C library (glibc) that it takes them from rounds one in a hundred of others, of one
 * ray out of 64, 96 or 128, to the next number, and that ray's lengths differ in their last digit.
 *
 * labels          n_y * n_x int32, sides at most 2^20; 0 is the background. (The original wraps labels around at 2^16.)
 * grid_y, grid_x  pixels per sample: every grid_y-th row and grid_x-th column is sampled, from the first on
 * dist            n_rays * ceil(n_y / grid_y) * ceil(n_x / grid_x) floats, pixels; 0 in the background. Ray k points along
 *                 (y, x) = (sin, cos)(2 pi k / n_rays)
 *
 * O(samples * n_rays * length of the longest rays) time; a ray has at most 1.5 * max(n_y, n_x) + 2 steps. Scratch: a copy
 * of the labels with background around them, about 4 * (n_y + 4) * (n_x + 18 * min(grid_x, n_x)) bytes; per thread 24 bytes
 * for each step of the longest ray. */
CELLRT_API int32_t cellrt_star_distances_2d(const int32_t *labels, int64_t n_y, int64_t n_x, int32_t grid_y,
                                            int32_t grid_x, int32_t n_rays, int32_t n_threads, float *dist);

/* Training targets: the object probability of each pixel, which is its Euclidean distance to the nearest pixel of another
 * label over the largest such distance in its own label (plus 1e-10), as StarDist's edt_prob computes it with scipy: in
 * double precision, then rounded to float32.
 *
 * labels  n_y * n_x int32 at most n_labels, sides at most 2^20; larger ones give CELLRT_ERROR_ARGUMENT. 0 is the background,
 *         and a negative label is no object but a border to others. A label in parts is one object.
 * prob    n_y * n_x floats in [0, 1]; 0 where there is no object
 *
 * The frame of the image is not a border, so that an object cut by it may be highest there; only for an object that covers
 * the whole image it is. O(pixels + n_labels) time; scratch 8 bytes per pixel and per label. */
CELLRT_API int32_t cellrt_object_probability_2d(const int32_t *labels, int64_t n_y, int64_t n_x, int32_t n_labels,
                                                int32_t n_threads, float *prob);

/* ---- StarDist, 3D (Weigert et al., WACV 2020) ---------------------------------------------------------------- */

/* Arrays of volumes are z before y before x, and so are coordinates. Polyhedra share rays (n_rays unit vectors z, y, x) and
 * faces (triples of indices of rays: the triangles between their ends, each so oriented that the determinant of its three
 * rays is negative; all together they cover every direction from the centre once, as StarDist's do). Rays may have the same
 * direction, within 1e-6, and the surface be open between these, as where the poles of StarDist's Cartesian rays are. Vertex k
 * of a polyhedron is point + dist[k] * ray[k], in float32. */

/* The 3D cellrt_star_candidates_2d(): grid samples whose probability exceeds a threshold, gathered in row-major order.
 *
 * maps            (1 + n_rays + n_class_channels) * n_z * n_y * n_x floats
 * z_begin..x_end  the window of samples to look at, half open, inside the map
 * grid, origin    voxels per sample, and the voxel of sample (0, 0, 0): z, y, x
 * points          capacity * 3 int32: z, y, x in voxels
 *
 * Everything else as in 2D, errors included. */
CELLRT_API int32_t cellrt_star_candidates_3d(const float *maps, int32_t n_rays, int32_t n_class_channels, int64_t n_z,
                                             int64_t n_y, int64_t n_x, int64_t z_begin, int64_t z_end, int64_t y_begin,
                                             int64_t y_end, int64_t x_begin, int64_t x_end, float prob_thresh,
                                             int32_t grid_z, int32_t grid_y, int32_t grid_x, int32_t origin_z,
                                             int32_t origin_y, int32_t origin_x, int64_t capacity, int32_t n_threads,
                                             int64_t *n_candidates, float *prob, float *dist, int32_t *points,
                                             float *class_prob);

/* Greedy non-maximum suppression of star-convex polyhedra, with StarDist 0.9.2's decisions.
 *
 * Candidates are taken in descending order of probability, ties in ascending order of index. A candidate is dropped if
 * a kept one overlaps it by more than nms_thresh, overlap being shared volume / the smaller volume of the two meshes. What
 * the shared volume is, the original decides in steps, and so does this: bounds by boxes and spheres (these in a space
 * stretched by the ratios of the mean sides of all boxes, which the original sums up with a data race: here as it does with
 * one thread), bounds by the intersections of kernels and of convex hulls, then the count of the voxels inside both. The
 * bounds by kernels and hulls are only computed where the count is close enough to the threshold for them to matter: within
 * 2 + 5 * cbrt(v) + v / 8 voxels of the volume v that it takes to drop the candidate, which is far more than the count and
 * the volume were seen to differ; and where the boxes share no more than three voxels along an axis. With rays of the same
 * direction the original also counts voxels outside of a polyhedron, in the planes of faces between them; so does this.
 *
 * prob         n floats, not NaN
 * dist         n * n_rays floats, voxels, 0 < dist <= 2^20
 * points       n * 3 int32: z, y, x in voxels, magnitude at most 2^20; n at most 2^22, more give CELLRT_ERROR_CAPACITY
 * rays, faces  n_rays * 3 floats, n_faces * 3 int32 in 0..n_rays - 1; n_faces 1..2 * 1024
 * nms_thresh   overlap above which the weaker candidate is dropped, in [0, 1]
 * max_work     limit on the work; more gives CELLRT_ERROR_CAPACITY. A pair of polyhedra whose boxes overlap counts 1 and, if
 *              voxels are counted, n_faces more and 1 for each row of up to 64 voxels and each voxel on a border; every 8
 *              pairs of half spaces whose intersection is measured, and every 8 cells and boxes that a search for kept
 *              polyhedra looks at, count 1. Independent of n_threads
 * cancel       NULL, or a flag that another thread sets to non-zero to stop the call (CELLRT_ERROR_CANCELLED)
 * n_kept       how many candidates survive
 * kept         n int64: the indices of the survivors in descending order of probability; the rest is left alone
 *
 * Fastest where neighbours in the volume are neighbours in the arrays, as in row-major order. Scratch: about 60 bytes per
 * candidate, and per thread some MiB. */
CELLRT_API int32_t cellrt_star_nms_3d(const float *prob, const float *dist, const int32_t *points, int64_t n,
                                      const float *rays, int32_t n_rays, const int32_t *faces, int32_t n_faces,
                                      float nms_thresh, int64_t max_work, const int32_t *cancel, int32_t n_threads,
                                      int64_t *n_kept, int64_t *kept);

/* Outcomes for a candidate */
#define CELLRT_STAR_DROPPED 0
#define CELLRT_STAR_KEPT 1
#define CELLRT_STAR_UNDECIDED 2

/* What cellrt_star_nms_3d() decides about some candidates whatever others may come: for volumes whose candidates do not fit in
 * memory together. A candidate is dropped if one that is kept in any case suppresses it; undecided if it is open, or if an
 * undecided one would suppress it; else kept. Give the undecided ones again together with those that came since, and none of
 * the others: in the end, with none open, all that were kept are the survivors of all candidates together. (But for one bound:
 * the spheres are stretched by the mean sides of the boxes that are given at a time.)
 *
 * is_open  n uint8: 1 where candidates that are not given may overlap this one, else 0
 * states   n uint8: CELLRT_STAR_...
 *
 * Everything else as in cellrt_star_nms_3d(). Of equal probabilities the smaller index comes first here too: keep the order of
 * candidates the same from call to call. */
CELLRT_API int32_t cellrt_star_settle_3d(const float *prob, const float *dist, const int32_t *points, int64_t n,
                                         const float *rays, int32_t n_rays, const int32_t *faces, int32_t n_faces,
                                         const uint8_t *is_open, float nms_thresh, int64_t max_work,
                                         const int32_t *cancel, int32_t n_threads, uint8_t *states);

/* Which voxels a polyhedron has, as StarDist's polyhedron_to_label decides. The half spaces and the tetrahedra are
 * evaluated with the original's roundings; the hull's are our own. Where rays of the same direction have different lengths
 * there are steps between them, and little or nothing is behind every face; in the planes of these steps, where they go
 * through voxels exactly, the original takes all voxels of the hull to be inside. */
#define CELLRT_POLYHEDRON_FULL 0   /* those of its kernel; of the others, those in its hull and inside of it */
#define CELLRT_POLYHEDRON_KERNEL 1 /* those that are behind every face */
#define CELLRT_POLYHEDRON_HULL 2   /* those of the convex hull of its vertices; none if these lie in one plane */
#define CELLRT_POLYHEDRON_BBOX 3   /* those of the bounding box of its vertices, rounded to voxels */

/* Paint polyhedra into a block of a label volume: the voxels that painting the whole volume would give this block.
 *
 * dist               n * n_rays floats, voxels, 0 < dist <= 2^20
 * points             n * 3 floats: z, y, x, magnitude at most 2^20
 * order              n int64: the polyhedra in painting order; the first to come to a voxel has it. Each index at most once
 * rays               n_rays * 3 floats: of a rescaled image, multiplied by its scale; vertices are to lie within 2^21
 * faces              n_faces * 3 int32 in 0..n_rays - 1; n_faces 1..2 * 1024
 * origin_z, _y, _x   the block's first voxel, magnitude at most 2^30
 * mode               CELLRT_POLYHEDRON_*
 * marks_overlap      1: a voxel that another polyhedron comes to gets overlap_label; 0: it stays as it is
 * cancel             NULL, or a flag that another thread sets to non-zero to stop the call (CELLRT_ERROR_CANCELLED)
 * labels             n_z * n_y * n_x int32, overwritten: 0 where no polyhedron is, polyhedron i paints i + 1
 *
 * Values beyond these limits, or NaN: CELLRT_ERROR_DATA. A polyhedron takes O(n_faces * (rows of its box in the block) +
 * voxels) time, and n_faces more for each voxel that is as close to a face as float32 can tell, which are few unless it is
 * flat; a hull, where it is needed, O(n_rays^2). Scratch: at most 64 MiB, and 64 bytes per 2^20 voxels of a polyhedron. */
CELLRT_API int32_t cellrt_paint_polyhedra_3d(const float *dist, const float *points, const int64_t *order, int64_t n,
                                             const float *rays, int32_t n_rays, const int32_t *faces, int32_t n_faces,
                                             int32_t origin_z, int32_t origin_y, int32_t origin_x, int64_t n_z,
                                             int64_t n_y, int64_t n_x, int32_t mode, int32_t marks_overlap,
                                             int32_t overlap_label, const int32_t *cancel, int32_t n_threads,
                                             int32_t *labels);

/* ---- Cellpose, 2D (Stringer et al., Nature Methods 2021) ------------------------------------------------------ */

/* The two programs differ in how they integrate flows, compare masks with flows, and clean masks. Each function below
 * that takes a `dynamics` reproduces one of them, defects included. */
#define CELLRT_DYNAMICS_V3 3 /* Cellpose 3.1 on a CPU, and versions 1 and 2: positions in pixels, diffusion per mask */
#define CELLRT_DYNAMICS_V4 4 /* Cellpose 4: positions in [-1, 1] sampled half a pixel off, masks touch in the gradient */

/* Follow the flow from every pixel inside a cell: Euler steps of flow / 5, clamped to the image.
 *
 * flow             2 * n_y * n_x floats: y, then x component, as the network gives them (5 per pixel and step); it counts
 *                  as 0 where cellprob does not exceed the threshold
 * cellprob         n_y * n_x floats: a pixel is inside a cell where cellprob > cellprob_thresh; NaN is outside
 * dynamics         V3: bilinear between pixel centres, mostly in double precision, as numba compiles it; neighbours
 *                  clamped to the image. V4: torch's grid_sample(align_corners=False) in float32, with fused
 *                  multiply-add where its vector code has it, on coordinates that were normalised for align_corners=True;
 *                  zero beyond the image. (An axis of one pixel, where the original divides by zero, is not moved along.)
 * interpolate      0: the flow of the pixel that the position truncates to (V3 only); 1: bilinear
 * n_iter           steps, at least 0. A trajectory that provably repeats is not followed to its end
 * cancel           NULL, or a flag that another thread sets to non-zero to stop the call (CELLRT_ERROR_CANCELLED)
 * capacity         most pixels that fit in the outputs
 * n_pixels         how many there are; written also with CELLRT_ERROR_CAPACITY, when the other outputs are untouched.
 *                  A call with capacity 0 and NULL outputs therefore counts.
 * pixels           capacity int64: y * n_x + x of each pixel inside a cell, ascending
 * positions        capacity * 2 floats: y, x where it ends, in pixels
 *
 * NaN or infinity in the flow of a pixel inside a cell: CELLRT_ERROR_DATA. O(pixels * n_iter) time at most;
 * scratch 8 bytes per pixel. */
CELLRT_API int32_t cellrt_flow_follow_2d(const float *flow, const float *cellprob, int64_t n_y, int64_t n_x,
                                         float cellprob_thresh, int32_t dynamics, int32_t interpolate, int32_t n_iter,
                                         const int32_t *cancel, int64_t capacity, int32_t n_threads, int64_t *n_pixels,
                                         int64_t *pixels, float *positions);

/* Masks from where the pixels ended: peaks of the histogram of end positions (more than 10, the largest of 5 x 5), each
 * grown five times by the neighbours that hold more than 2, within 11 x 11; where two meet, the one with the higher peak
 * has the pixel, of equals the one that torch's argsort puts later on a CPU under Linux. A pixel gets the label of the mask that it ended in.
 *
 * pixels             n int64, ascending: y * n_x + x of each pixel
 * positions          n * 2 floats: y, x where it ended; truncated to integers, then clamped to [-20, side - 1]
 * max_size_fraction  a mask of more than this fraction of the image's pixels is dropped, as upstream does it
 * labels             n_y * n_x int32, overwritten: 0, or the mask; numbered in order of first appearance by rows
 * n_labels           how many there are
 *
 * Positions that are not finite: CELLRT_ERROR_DATA. O(n + pixels + seeds log seeds) time. Scratch: 4 bytes per given pixel
 * and at most 4 more for seeds; only where a position is at -1 or below also 4 bytes per pixel of the image with a margin
 * of 20; up to 16 bytes per pixel that ends in another thread's rows. More than 2^31 seeds: CELLRT_ERROR_CAPACITY. */
CELLRT_API int32_t cellrt_flow_masks_2d(const int64_t *pixels, const float *positions, int64_t n, int64_t n_y, int64_t n_x,
                                        double max_size_fraction, int32_t n_threads, int32_t *labels, int32_t *n_labels);

/* The flow that masks should have: heat from the centre of each mask diffuses inside it, and the flow is the direction of
 * the gradient of what arrives, of length 1.
 *
 * labels    n_y * n_x int32 in 0..n_labels; others give CELLRT_ERROR_ARGUMENT
 * dynamics  V3: each mask alone in its box. V4: as many steps for all masks as the largest needs, and the gradient is
 *           taken across masks that touch
 * n_iter    steps of diffusion; 0: the rule of the dynamics, 2 * (height + width + 4) or 2 * max(height + width + 2) of
 *           the masks' boxes
 * flow      2 * n_y * n_x floats: y, then x component; 0 outside masks
 *
 * O(pixels * steps) time at most: a mask of 4096 x 4096 pixels takes minutes (estimated), cells of 30 pixels some 50 ns per pixel.
 * Scratch: at most 28 bytes per run of equal labels in a row and about 80 per label; V4: 8 bytes per pixel; 18 bytes per
 * pixel of the box of each mask that is being diffused (one per thread; large ones one at a time). */
CELLRT_API int32_t cellrt_label_flows_2d(const int32_t *labels, int64_t n_y, int64_t n_x, int32_t n_labels,
                                         int32_t dynamics, int32_t n_iter, int32_t n_threads, float *flow);

/* How far the network's flow is from the one that each mask should have (quality control): the mean over a mask's pixels
 * of |label flow - flow / 5|^2, in double precision from flows in double precision.
 *
 * labels, dynamics  as for cellrt_label_flows_2d(), with its own rule for the number of steps
 * flow              2 * n_y * n_x floats, the network's
 * errors            n_labels doubles; 0 for a label that does not occur
 *
 * NaN or infinity in the flow inside a mask: CELLRT_ERROR_DATA. */
CELLRT_API int32_t cellrt_flow_errors_2d(const int32_t *labels, const float *flow, int64_t n_y, int64_t n_x,
                                         int32_t n_labels, int32_t dynamics, int32_t n_threads, double *errors);

/* Fill the holes of every label and drop labels that are too small, with Cellpose's order of events: drop small labels
 * and renumber by first appearance; fill the holes of each in ascending order, where a hole takes whatever lies in it;
 * drop small ones and renumber again.
 *
 * labels    n_y * n_x int32 in 0..max_label
 * min_size  pixels that a label must have; at most 0: none is dropped, and labels are numbered by rank, where one that
 *           was swallowed leaves its number out
 * dynamics  V3: the n-th label that occurs counts as label n when small ones are dropped, as upstream has it: with gaps in
 *           the numbering it drops others. V4: real labels. In both, without background the smallest label counts as
 *           the background then.
 * cleaned   n_y * n_x int32; may be the same array as labels
 * n_labels  the largest label in cleaned
 *
 * O(pixels + runs log runs) time, a run being equal labels side by side in a row. Scratch: 24 bytes per run and about 80
 * per hole. More than 2^31 holes: CELLRT_ERROR_CAPACITY. Labels outside 0..max_label: CELLRT_ERROR_ARGUMENT. */
CELLRT_API int32_t cellrt_clean_labels_2d(const int32_t *labels, int64_t n_y, int64_t n_x, int32_t max_label,
                                          int64_t min_size, int32_t dynamics, int32_t n_threads, int32_t *cleaned,
                                          int32_t *n_labels);

/* ---- Cellpose, 3D -------------------------------------------------------------------------------------------- */

/* Cellpose 3 and 4 follow flows and make masks of volumes in the same way; only cleaning differs, as in 2D. Each side of a
 * volume is at most 2^20, n_z * n_y below 2^31. */

/* Follow the flow from every voxel inside a cell: Euler steps of flow / 5, clamped to the volume. torch's grid_sample with
 * align_corners=False in float32, on coordinates that were normalised for align_corners=True; zero beyond the volume. (An
 * axis of one voxel, where the original divides by zero, is not moved along.)
 *
 * flow             3 * n_z * n_y * n_x floats: z, then y, then x component, 5 per voxel and step; it counts as 0 where
 *                  cellprob does not exceed the threshold
 * cellprob         n_z * n_y * n_x floats: a voxel is inside a cell where cellprob > cellprob_thresh; NaN is outside
 * n_iter           steps, at least 0. A trajectory that provably repeats is not followed to its end
 * cancel, capacity, n_voxels  as for cellrt_flow_follow_2d()
 * voxels           capacity int64: (z * n_y + y) * n_x + x of each voxel inside a cell, ascending
 * positions        capacity * 3 floats: z, y, x where it ends, in voxels
 *
 * NaN or infinity in the flow of a voxel inside a cell: CELLRT_ERROR_DATA. O(voxels * n_iter) time at most; scratch
 * 16 bytes per voxel of a volume with a margin of 1, 8 bytes per row, and 0.2 MB per thread. */
CELLRT_API int32_t cellrt_flow_follow_3d(const float *flow, const float *cellprob, int64_t n_z, int64_t n_y, int64_t n_x,
                                         float cellprob_thresh, int32_t n_iter, const int32_t *cancel, int64_t capacity,
                                         int32_t n_threads, int64_t *n_voxels, int64_t *voxels, float *positions);

/* The same for a window of a volume that does not fit in memory: every voxel ends where it would end in the whole, bit for
 * bit, if all that its trajectory comes by lies in the window.
 *
 * flow, cellprob, n_z, n_y, n_x  of the window. Its outermost voxels are not used on sides where the volume goes on
 * volume      3 int64: sides z, y, x of the whole volume
 * origin      3 int64: the window's first voxel in it
 * keep        6 int64: begin and end along z, y and x of the voxels to follow, in the window; none of those not used
 * voxels      capacity int64: (z * n_y + y) * n_x + x in the window
 * positions   capacity * 3 floats: z, y, x in the whole volume; NaN where the trajectory needs voxels that are not there:
 *             a larger window may tell
 * all others  as for cellrt_flow_follow_3d() */
CELLRT_API int32_t cellrt_flow_follow_window_3d(const float *flow, const float *cellprob, int64_t n_z, int64_t n_y,
                                                int64_t n_x, const int64_t *volume, const int64_t *origin,
                                                const int64_t *keep, float cellprob_thresh, int32_t n_iter,
                                                const int32_t *cancel, int64_t capacity, int32_t n_threads,
                                                int64_t *n_voxels, int64_t *voxels, float *positions);

/* Masks from where the voxels ended: as cellrt_flow_masks_2d(), with peaks of 5 x 5 x 5 bins and windows of 11 x 11 x 11.
 *
 * voxels             n int64, ascending: (z * n_y + y) * n_x + x of each voxel
 * positions          n * 3 floats: z, y, x where it ended; truncated to integers, then clamped to [-20, side - 1]
 * max_size_fraction  a mask of more than this fraction of the volume is dropped
 * labels             n_z * n_y * n_x int32, overwritten: 0, or the mask; numbered in order of first appearance
 * n_labels           how many there are
 *
 * Positions that are not finite: CELLRT_ERROR_DATA. O(n + voxels + seeds log seeds) time. Scratch: 4 bytes per given voxel,
 * 16 per seed (fewer than n / 10) and 1 MB; only where a position is at -1 or below also 4 bytes per voxel of the volume
 * with a margin of 20; up to 16 bytes per voxel that ends in another thread's planes. More than 2^31 seeds:
 * CELLRT_ERROR_CAPACITY. */
CELLRT_API int32_t cellrt_flow_masks_3d(const int64_t *voxels, const float *positions, int64_t n, int64_t n_z, int64_t n_y,
                                        int64_t n_x, double max_size_fraction, int32_t n_threads, int32_t *labels,
                                        int32_t *n_labels);

/* As cellrt_clean_labels_2d(), for volumes: what is filled are cavities, pieces of everything else that are connected by
 * faces of voxels and do not touch the border of the volume. A ring in one plane has none.
 *
 * labels   n_z * n_y * n_x int32 in 0..max_label
 * cleaned  n_z * n_y * n_x int32; may be the same array as labels */
CELLRT_API int32_t cellrt_clean_labels_3d(const int32_t *labels, int64_t n_z, int64_t n_y, int64_t n_x, int32_t max_label,
                                          int64_t min_size, int32_t dynamics, int32_t n_threads, int32_t *cleaned,
                                          int32_t *n_labels);

/* ---- Labels -------------------------------------------------------------------------------------------------- */

/* Fill polygons into a label image. A pixel belongs to a polygon if its centre is inside by the even-odd rule or lies
 * on an edge or a vertex: the rule of skimage.draw.polygon, in double precision.
 *
 * coords       offsets[n] * 2 floats: the vertices (y, x) of all polygons, one after the other
 * offsets      n + 1 int64: polygon i has the vertices offsets[i] .. offsets[i + 1] - 1; offsets[0] is 0
 * order        n int64: the polygons in painting order, later over earlier; each index at most once
 * labels       n_y * n_x int32, overwritten: 0 where no polygon is, polygon i paints i + 1
 *
 * Coordinates that are not finite or beyond 2^40: CELLRT_ERROR_DATA. O(pixels + painted pixels + vertices * rows they
 * cross). */
CELLRT_API int32_t cellrt_paint_polygons_2d(const float *coords, const int64_t *offsets, const int64_t *order,
                                            int64_t n, int64_t n_y, int64_t n_x, int32_t n_threads, int32_t *labels);

/* Area, bounding box and centroid of every label 1..n_labels of a label image.
 *
 * labels     n_y * n_x int32 in 0..n_labels; others give CELLRT_ERROR_ARGUMENT
 * areas      n_labels int64: pixels of label i + 1 (0 if absent)
 * boxes      n_labels * 4 int32: y_begin, x_begin, y_end, x_end, half open; all 0 if absent
 * centroids  n_labels * 2 doubles: mean y, mean x; -1 if absent */
CELLRT_API int32_t cellrt_label_regions_2d(const int32_t *labels, int64_t n_y, int64_t n_x, int32_t n_labels,
                                           int32_t n_threads, int64_t *areas, int32_t *boxes, double *centroids);

/* Volume, bounding box and centroid of every label 1..n_labels of a label image of three dimensions.
 *
 * labels     n_z * n_y * n_x int32 in 0..n_labels; others give CELLRT_ERROR_ARGUMENT
 * areas      n_labels int64: voxels of label i + 1 (0 if absent)
 * boxes      n_labels * 6 int32: z_begin, y_begin, x_begin, z_end, y_end, x_end, half open; all 0 if absent
 * centroids  n_labels * 3 doubles: mean z, mean y, mean x; -1 if absent */
CELLRT_API int32_t cellrt_label_regions_3d(const int32_t *labels, int64_t n_z, int64_t n_y, int64_t n_x,
                                           int32_t n_labels, int32_t n_threads, int64_t *areas, int32_t *boxes,
                                           double *centroids);

/* The outer boundary of every label as a polygon along the edges of its pixels, vertices only at corners. Of a label in
 * several parts (4-connected) the largest is traced, of equal ones the first by rows; holes are not traced. Painting the
 * polygons gives the parts back, pixel for pixel, where they have no holes.
 *
 * labels      n_y * n_x int32 in 0..n_labels; others give CELLRT_ERROR_ARGUMENT
 * capacity    most vertices that fit in coords
 * offsets     n_labels + 1 int64: label i + 1 has the vertices offsets[i] .. offsets[i + 1] - 1; none if it does not occur.
 *             Written also with CELLRT_ERROR_CAPACITY, so that a call with capacity 0 and coords NULL counts:
 *             offsets[n_labels] vertices are needed.
 * coords      capacity * 2 floats: y, x, half way between pixel centres; from the topmost, then leftmost corner on, with the
 *             label to the right of the way (clockwise on a screen)
 *
 * O(pixels) time. */
CELLRT_API int32_t cellrt_label_outlines_2d(const int32_t *labels, int64_t n_y, int64_t n_x, int32_t n_labels,
                                            int64_t capacity, int32_t n_threads, int64_t *offsets, float *coords);

/* Renumber labels to 1..n without gaps, keeping their order; 0 stays 0.
 *
 * labels     n_pixels int32, none negative
 * max_label  at least the largest label; the table below has max_label + 1 entries
 * table      max_label + 1 int32: new label of each old one, 0 if it does not occur
 * relabelled n_pixels int32; may be the same array as labels
 * n_labels   how many labels there are */
CELLRT_API int32_t cellrt_relabel(const int32_t *labels, int64_t n_pixels, int32_t max_label, int32_t n_threads,
                                  int32_t *table, int32_t *relabelled, int32_t *n_labels);

/* How two label images overlap: every pair of labels that have pixels in common, background (0) included, and how many
 * pixels. The area of a label is the sum over its pairs.
 *
 * truth, predicted  n_pixels int32 each, none negative; images of any number of dimensions, compared pixel by pixel
 * capacity          most pairs that fit in the outputs
 * n_pairs           how many there are; written also with CELLRT_ERROR_CAPACITY, when the other outputs are untouched.
 *                   A call with capacity 0 and NULL outputs therefore counts.
 * pairs             capacity * 2 int32: label in truth, label in predicted; ascending by the first, then the second
 * counts            capacity int64: pixels that have both labels
 *
 * O(pixels + pairs log pairs) time, as a hash table has it; scratch at most 128 bytes per pair and thread, however large
 * the labels are. */
CELLRT_API int32_t cellrt_label_overlaps(const int32_t *truth, const int32_t *predicted, int64_t n_pixels,
                                         int64_t capacity, int32_t n_threads, int64_t *n_pairs, int32_t *pairs,
                                         int64_t *counts);

/* Match rows and columns one to one, such as true and predicted objects by their overlap: out of a list of pairs, the
 * matching with the most pairs whose score reaches a threshold; of those with as many, the one with the largest sum of
 * scores, pairs below the threshold included. Where several are as good, the same one every time.
 *
 * pairs       n_pairs * 2 int32: row in 0..n_rows - 1, column in 0..n_columns - 1; ascending by row, then column, each
 *             once. What is in no pair is not matched
 * scores      n_pairs doubles in [0, 1], else CELLRT_ERROR_DATA; they count as multiples of 2^-bits, so that sums are
 *             exact: bits is 52 for up to 510 rows or columns, whichever are fewer; 46 for 20,000; at least 29
 * threshold   not NaN
 * max_steps   limit on the work; more gives CELLRT_ERROR_CAPACITY. Each look at a pair in the search for a row's partner
 *             counts one
 * is_matched  n_pairs uint8: 1 for the pairs of the matching, else 0
 *
 * A search takes O(pairs log pairs) of the connected component at most, and mostly ends among a row's neighbours; there is
 * one per row, one after the other on the calling thread. Scratch: 8 bytes per pair, 24 per row, 40 per column, and 16 for
 * each row and pair that a search reaches. */
CELLRT_API int32_t cellrt_match_pairs(const int32_t *pairs, const double *scores, int64_t n_pairs, int32_t n_rows,
                                      int32_t n_columns, double threshold, int64_t max_steps, uint8_t *is_matched);

#ifdef __cplusplus
}
#endif

#endif /* CELLRT_H */
