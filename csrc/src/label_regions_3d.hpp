// Volume, bounding box and centroid of every label of a volume.
#pragma once

#include <cstdint>

namespace cellrt {

// See cellrt_label_regions_3d() in cellrt.h: shapes and units. Throws Failure.
void label_regions_3d(const std::int32_t* labels, std::int64_t n_z, std::int64_t n_y, std::int64_t n_x,
                      std::int32_t n_labels, int n_threads, std::int64_t* areas, std::int32_t* boxes,
                      double* centroids);

}  // namespace cellrt
