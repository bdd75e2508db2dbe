// label_flows_2d: labels (Y, X) -> flow (2, Y, X), unit vectors; flow_errors_2d: labels, flow (2, Y, X) -> errors (n,).
//
// In each step of the diffusion 1 is added to the heat of a mask's centre, and every pixel takes the mean of the 3 x 3
// pixels around it, those outside the mask counting as 0. Nothing but its own pixels matters to a mask, so each is
// diffused on its own, in a box that fits the fastest cache. Three things save work and change no bit:
//   - heat spreads a pixel per step, and never to other pieces of the mask than the centre's;
//   - heat only grows from step to step, since sums, products and rounding keep order. It stays finite, so that at last
//     a step changes nothing, and then none does (masks much smaller than the largest, under V4's common number of
//     steps);
//   - a large mask is cut into tiles that fit the cache, and they go several steps at a time, each with a margin for
//     what comes in from its neighbours, on all threads.
// Sums over 3 x 3 are taken in the original's order: where a symmetric mask has no gradient, its flow points wherever
// rounding errors do, and counts as much as any. (Under V4 such pixels can differ from the original's in masks that
// have one of the image's last few pixels inside a mask, up to 31: torch adds those up in an order that depends on the
// processor. Beyond 40 million pixels the original goes over to single precision; this does not.)
#include "label_flows_2d.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <utility>
#include <vector>

#include "mask_pieces_2d.hpp"
#include "parallel.hpp"
#include "status.hpp"

namespace cellrt {
namespace {

constexpr std::int64_t largest_plate = 131072;     // pixels of a box that is diffused in one piece: 2 MiB of heat
constexpr std::int32_t tile_side = 128;            // pixels; with margins still less than 1 MiB
constexpr std::int32_t steps_per_round = 16;       // of tiles, between exchanges of margins
constexpr std::int64_t steps_between_checks = 16;  // for heat that does not change any more
constexpr std::int64_t rows_per_grain = 64;
constexpr std::int64_t tile_grains_per_thread = 4;
constexpr std::int64_t masks_per_grain = 16;
constexpr std::int32_t pixels_at_once = 256;
constexpr double smallest_length = 1e-60;          // of a gradient, added to all

bool is_equal(const HeatField& a, const HeatField& b, const Box& box) {
    const std::size_t n_bytes = static_cast<std::size_t>(box.width()) * sizeof(double);
    for (std::int32_t y = box.y_begin; y < box.y_end; ++y) {
        if (std::memcmp(a.at(y, box.x_begin), b.at(y, box.x_begin), n_bytes) != 0) return false;
    }
    return true;
}

// A part of a large mask, with as much around it as matters to it during a round of steps.
struct Tile {
    Box core, region;
    HeatPlate plate;  // of the region, around the core
};

// The diffusion of the heat of one mask.
class Diffusion {
public:
    Diffusion(const Mask& mask, std::int64_t n_steps, Average average)
        : mask_(mask),
          n_steps_(n_steps),
          average_(average),
          centre_{mask.centre_y, mask.centre_x, mask.centre_y + 1, mask.centre_x + 1},
          // One pixel farther than heat gets: that pixel's gradient is not 0.
          box_(expanded(centre_, n_steps + 1, mask.piece)) {}

    bool is_large() const noexcept { return box_.height() * box_.width() > largest_plate; }

    // The heat after n_steps; both ways to the same bytes.
    HeatField in_one_piece() const;
    HeatField in_tiles(int n_threads) const;

private:
    std::vector<Tile> tiles(int n_threads) const;

    const Mask& mask_;
    std::int64_t n_steps_;
    Average average_;
    Box centre_;
    Box box_;
};

HeatField Diffusion::in_one_piece() const {
    const HeatPlate plate(mask_.first, mask_.last, box_, centre_, average_);
    HeatField heat, next;
    heat.reset(box_);
    next.reset(box_);
    heat.clear();
    next.clear();
    for (std::int64_t step = 1; step <= n_steps_; ++step) {
        double& source = *heat.at(mask_.centre_y, mask_.centre_x);
        const double before = source;
        source += 1.0;
        plate.step(heat, next, step);
        source = before;
        std::swap(heat, next);
        if (step % steps_between_checks == 0 && is_equal(heat, next, box_)) break;
    }
    return heat;
}

// The tiles that have a pixel of the mask.
std::vector<Tile> Diffusion::tiles(int n_threads) const {
    const auto n_across = static_cast<std::size_t>((box_.width() - 1) / tile_side + 1);
    std::vector<bool> is_needed(n_across * static_cast<std::size_t>((box_.height() - 1) / tile_side + 1));
    for (const Run* run = mask_.first; run != mask_.last; ++run) {
        const Box pixels = intersection({run->y, run->x_begin, run->y + 1, run->x_end}, box_);
        if (pixels.is_empty()) continue;
        const std::size_t row = static_cast<std::size_t>((pixels.y_begin - box_.y_begin) / tile_side) * n_across;
        const auto first = row + static_cast<std::size_t>((pixels.x_begin - box_.x_begin) / tile_side);
        const auto last = row + static_cast<std::size_t>((pixels.x_end - 1 - box_.x_begin) / tile_side);
        for (std::size_t i = first; i <= last; ++i) is_needed[i] = true;
    }
    std::vector<Tile> tiles;
    for (std::size_t i = 0; i < is_needed.size(); ++i) {
        if (!is_needed[i]) continue;
        const auto y = box_.y_begin + static_cast<std::int32_t>(i / n_across) * tile_side;
        const auto x = box_.x_begin + static_cast<std::int32_t>(i % n_across) * tile_side;
        const Box core = intersection({y, x, y + tile_side, x + tile_side}, box_);
        tiles.push_back({core, expanded(core, steps_per_round, box_), {}});
    }
    parallel_for(static_cast<std::int64_t>(tiles.size()), 1, n_threads, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) {
            Tile& tile = tiles[static_cast<std::size_t>(i)];
            tile.plate = HeatPlate(mask_.first, mask_.last, tile.region, tile.core, average_);
        }
    });
    return tiles;
}

HeatField Diffusion::in_tiles(int n_threads) const {
    HeatField heat, next;
    heat.reset(box_);
    next.reset(box_);
    parallel_for(box_.height(), rows_per_grain, n_threads, [&](std::int64_t begin, std::int64_t end) {
        const auto y_begin = static_cast<std::int32_t>(box_.y_begin + begin);
        const auto y_end = static_cast<std::int32_t>(box_.y_begin + end);
        heat.clear(y_begin, y_end);
        next.clear(y_begin, y_end);
    });

    const std::vector<Tile> tiles = this->tiles(n_threads);
    const auto n_tiles = static_cast<std::int64_t>(tiles.size());
    const std::int64_t grain = n_tiles / (tile_grains_per_thread * thread_count(n_threads)) + 1;
    for (std::int64_t done = 0; done < n_steps_;) {
        const auto n_steps = static_cast<std::int32_t>(std::min<std::int64_t>(steps_per_round, n_steps_ - done));
        done += n_steps;
        const Box reached = expanded(centre_, done, box_);
        std::atomic<bool> changes{false};
        parallel_for(n_tiles, grain, n_threads, [&](std::int64_t begin, std::int64_t end) {
            HeatField scratch, scratch_next;
            for (std::int64_t i = begin; i < end; ++i) {
                const Tile& tile = tiles[static_cast<std::size_t>(i)];
                if (intersection(tile.core, reached).is_empty()) continue;
                scratch.reset(tile.region);
                scratch_next.reset(tile.region);
                scratch.clear();
                scratch_next.clear();
                scratch.copy_from(heat, tile.region);
                const bool has_source = tile.region.contains(mask_.centre_y, mask_.centre_x);
                for (std::int32_t step = 1; step <= n_steps; ++step) {
                    if (has_source) *scratch.at(mask_.centre_y, mask_.centre_x) += 1.0;
                    tile.plate.step(scratch, scratch_next, n_steps - step);
                    std::swap(scratch, scratch_next);
                }
                next.copy_from(scratch, tile.core);
                if (!changes && !is_equal(heat, next, tile.core)) changes = true;
            }
        });
        std::swap(heat, next);
        if (!changes) break;
    }
    return heat;
}

// Calls use(mask, its heat) for every mask, for several masks at once.
template <typename Use>
void for_each_heat(const std::vector<Mask>& masks, std::int32_t dynamics, std::int64_t n_iter, int n_threads,
                   const Use& use) {
    const bool is_v3 = dynamics == CELLRT_DYNAMICS_V3;
    const Average average = is_v3 ? Average::times_a_ninth : Average::divided_by_nine;
    std::int64_t longest = 0;
    for (const Mask& mask : masks) longest = std::max(longest, mask.box.height() + mask.box.width());
    const auto diffusion_of = [&](const Mask& mask) {
        const std::int64_t by_rule = 2 * (is_v3 ? mask.box.height() + mask.box.width() + 4 : longest + 2);
        return Diffusion(mask, n_iter > 0 ? n_iter : by_rule, average);
    };

    std::vector<const Mask*> small_masks;
    for (const Mask& mask : masks) {
        const Diffusion diffusion = diffusion_of(mask);
        if (diffusion.is_large()) {
            use(mask, diffusion.in_tiles(n_threads));
        } else {
            small_masks.push_back(&mask);
        }
    }
    // The largest first: a thread that comes to one last would keep the others waiting.
    std::stable_sort(small_masks.begin(), small_masks.end(),
                     [](const Mask* a, const Mask* b) { return a->area > b->area; });
    const auto n_small = static_cast<std::int64_t>(small_masks.size());
    parallel_for(n_small, 1, n_threads, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) {
            const Mask& mask = *small_masks[static_cast<std::size_t>(i)];
            use(mask, diffusion_of(mask).in_one_piece());
        }
    });
}

// Calls take(y, x, n, flow_y, flow_x) with the flow of all pixels of a mask by rows, n pixels from (y, x) on at a time.
template <typename Take>
void for_each_flow(const Mask& mask, const HeatField& heat, const Take& take) {
    double flow_y[pixels_at_once], flow_x[pixels_at_once];
    for (const Run* run = mask.first; run != mask.last; ++run) {
        for (std::int32_t x = run->x_begin; x < run->x_end; x += pixels_at_once) {
            const std::int32_t n = std::min(pixels_at_once, run->x_end - x);
            std::fill(flow_y, flow_y + n, 0.0);
            std::fill(flow_x, flow_x + n, 0.0);
            const Box heated = intersection({run->y, x, run->y + 1, x + n}, heat.box());
            if (!heated.is_empty()) {
                const double* const here = heat.at(run->y, heated.x_begin);
                const double* const above = here - heat.pitch();
                const double* const below = here + heat.pitch();
                double* const y_components = flow_y + (heated.x_begin - x);
                double* const x_components = flow_x + (heated.x_begin - x);
                for (std::int64_t i = 0; i < heated.width(); ++i) {
                    const double dy = below[i] - above[i], dx = here[i + 1] - here[i - 1];
                    const double length = smallest_length + std::sqrt(dy * dy + dx * dx);
                    y_components[i] = dy / length;
                    x_components[i] = dx / length;
                }
            }
            take(run->y, x, n, flow_y, flow_x);
        }
    }
}

// Calls use(mask, heat) with heat from which the gradient is to be taken: that of the mask alone, or of all masks.
template <typename Use>
void for_each_gradient(const MaskPieces& pieces, std::int64_t n_y, std::int64_t n_x, std::int32_t dynamics,
                       std::int64_t n_iter, int n_threads, const Use& use) {
    const std::vector<Mask>& masks = pieces.masks();
    if (masks.empty()) return;
    if (dynamics == CELLRT_DYNAMICS_V3) {
        for_each_heat(masks, dynamics, n_iter, n_threads, use);
        return;
    }
    HeatField all;
    all.reset({0, 0, static_cast<std::int32_t>(n_y), static_cast<std::int32_t>(n_x)});
    parallel_for(n_y, rows_per_grain, n_threads, [&](std::int64_t begin, std::int64_t end) {
        all.clear(static_cast<std::int32_t>(begin), static_cast<std::int32_t>(end));
    });
    for_each_heat(masks, dynamics, n_iter, n_threads, [&](const Mask& mask, const HeatField& heat) {
        for (const Run* run = mask.first; run != mask.last; ++run) {
            const Box heated = intersection({run->y, run->x_begin, run->y + 1, run->x_end}, heat.box());
            if (!heated.is_empty()) all.copy_from(heat, heated);
        }
    });
    const auto n_masks = static_cast<std::int64_t>(masks.size());
    parallel_for(n_masks, masks_per_grain, n_threads, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) use(masks[static_cast<std::size_t>(i)], all);
    });
}

}  // namespace

void label_flows_2d(const std::int32_t* labels, std::int64_t n_y, std::int64_t n_x, std::int32_t n_labels,
                    std::int32_t dynamics, std::int32_t n_iter, int n_threads, float* flow) {
    const MaskPieces pieces(labels, n_y, n_x, n_labels, dynamics, n_threads);
    float* const planes[] = {flow, flow + n_y * n_x};
    for (float* const plane : planes) {
        parallel_for(n_y, rows_per_grain, n_threads, [&](std::int64_t begin, std::int64_t end) {
            std::fill(plane + begin * n_x, plane + end * n_x, 0.0F);
        });
    }
    for_each_gradient(pieces, n_y, n_x, dynamics, n_iter, n_threads, [&](const Mask& mask, const HeatField& heat) {
        for_each_flow(mask, heat, [&](std::int64_t y, std::int64_t x, std::int32_t n, const double* flow_y,
                                      const double* flow_x) {
            float* const y_components = planes[0] + y * n_x + x;
            float* const x_components = planes[1] + y * n_x + x;
            for (std::int32_t i = 0; i < n; ++i) {
                y_components[i] = static_cast<float>(flow_y[i]);
                x_components[i] = static_cast<float>(flow_x[i]);
            }
        });
    });
}

void flow_errors_2d(const std::int32_t* labels, const float* flow, std::int64_t n_y, std::int64_t n_x,
                    std::int32_t n_labels, std::int32_t dynamics, int n_threads, double* errors) {
    const MaskPieces pieces(labels, n_y, n_x, n_labels, dynamics, n_threads);
    const float* const planes[] = {flow, flow + n_y * n_x};
    std::fill(errors, errors + n_labels, 0.0);
    for_each_gradient(pieces, n_y, n_x, dynamics, 0, n_threads, [&](const Mask& mask, const HeatField& heat) {
        double sum_y = 0.0, sum_x = 0.0;
        for_each_flow(mask, heat, [&](std::int64_t y, std::int64_t x, std::int32_t n, const double* flow_y,
                                      const double* flow_x) {
            const float* const y_components = planes[0] + y * n_x + x;
            const float* const x_components = planes[1] + y * n_x + x;
            double squares_y[pixels_at_once], squares_x[pixels_at_once];
            for (std::int32_t i = 0; i < n; ++i) {
                const double dy = flow_y[i] - static_cast<double>(y_components[i] / 5.0F);
                const double dx = flow_x[i] - static_cast<double>(x_components[i] / 5.0F);
                squares_y[i] = dy * dy;
                squares_x[i] = dx * dx;
            }
            for (std::int32_t i = 0; i < n; ++i) {  // one by one, as the original adds them; so not in the loop above
                sum_y += squares_y[i];
                sum_x += squares_x[i];
            }
        });
        const auto area = static_cast<double>(mask.area);
        const double error = sum_y / area + sum_x / area;
        // A float squared is far from the largest double: nothing but NaN or infinity in the flow makes it not finite.
        require(std::isfinite(error), CELLRT_ERROR_DATA);
        errors[mask.label - 1] = error;
    });
}

}  // namespace cellrt
