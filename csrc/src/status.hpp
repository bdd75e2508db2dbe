// The one exception type of the kernels; capi.cpp turns it into a status code.
#pragma once

#include <cstdint>
#include <exception>

#include "cellrt.h"

namespace cellrt {

class Failure : public std::exception {
public:
    explicit Failure(std::int32_t status) noexcept : status_(status) {}
    std::int32_t status() const noexcept { return status_; }
    const char* what() const noexcept override { return cellrt_status_text(status_); }

private:
    std::int32_t status_;
};

inline void require(bool condition, std::int32_t status = CELLRT_ERROR_ARGUMENT) {
    if (!condition) throw Failure(status);
}

}  // namespace cellrt
