// The flows that masks should have, and how far a network's are from them.
#pragma once

#include <cstdint>

namespace cellrt {

// See cellrt_label_flows_2d() in cellrt.h. Throws Failure.
void label_flows_2d(const std::int32_t* labels, std::int64_t n_y, std::int64_t n_x, std::int32_t n_labels,
                    std::int32_t dynamics, std::int32_t n_iter, int n_threads, float* flow);

// See cellrt_flow_errors_2d().
void flow_errors_2d(const std::int32_t* labels, const float* flow, std::int64_t n_y, std::int64_t n_x,
                    std::int32_t n_labels, std::int32_t dynamics, int n_threads, double* errors);

}  // namespace cellrt
