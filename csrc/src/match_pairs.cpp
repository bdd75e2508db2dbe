// match_pairs: pairs (n, 2) of rows and columns with scores (n,) -> which of them form the best one-to-one matching.
//
// Successive shortest paths with prices (Kuhn 1955; Edmonds and Karp 1972; Dijkstra's search per row). Rows come one
// after the other. Every row and column has a price, never negative, such that row price + column price >= weight for
// every pair, with equality for matched ones, and 0 for columns that are free; a search looks for the cheapest way to
// let the new row in: along pairs to a free column, or to a row (perhaps itself) that stays free for its price. Prices
// bound how far a search goes, so that it mostly ends among the neighbours, and never leaves the connected component.
//
// Weights are integers: the score in fixed point, plus, from the threshold on, more than all scores of a matching
// together. Sums are exact that way, and counting comes before scoring without a second pass.
#include "match_pairs.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <functional>
#include <utility>
#include <vector>

#include "status.hpp"

namespace cellrt {
namespace {

constexpr std::int64_t none = -1;

class Matcher {
public:
    Matcher(const std::int32_t* pairs, const double* scores, std::int64_t n_pairs, std::int32_t n_rows,
            std::int32_t n_columns, double threshold, std::int64_t max_steps)
        : pairs_(pairs), weights_(size(n_pairs)), steps_left_(max_steps), first_pair_(size(n_rows) + 1),
          row_prices_(size(n_rows)), column_prices_(size(n_columns)), pair_of_row_(size(n_rows), none),
          pair_of_column_(size(n_columns), none), searched_by_(size(n_columns), none), distances_(size(n_columns)),
          pair_to_(size(n_columns)) {
        // No weight, price or distance is above 2^61, so that sums of a few stay below 2^63.
        int bits = 52;  // of a score: what a double below 1 has
        const auto most_matched = static_cast<double>(std::min(n_rows, n_columns));
        while (std::ldexp(most_matched + 2.0, bits) > std::ldexp(1.0, 61)) --bits;
        const std::int64_t bonus = (std::min(n_rows, n_columns) + std::int64_t{1}) << bits;
        for (std::int64_t pair = 0; pair < n_pairs; ++pair) {
            const double score = scores[pair];
            require(score >= 0.0 && score <= 1.0, CELLRT_ERROR_DATA);
            weights_[size(pair)] = std::llround(std::ldexp(score, bits)) + (score >= threshold ? bonus : 0);
            ++first_pair_[size(row_of(pair)) + 1];
        }
        for (std::size_t row = 1; row < first_pair_.size(); ++row) first_pair_[row] += first_pair_[row - 1];
    }

    // Brings a row into the matching of those before it.
    void match(std::int64_t new_row) {
        row_prices_[size(new_row)] = 0;
        for (std::int64_t pair = first_pair_[size(new_row)]; pair < first_pair_[size(new_row) + 1]; ++pair) {
            const std::int64_t gain = weights_[size(pair)] - column_prices_[size(column_of(pair))];
            row_prices_[size(new_row)] = std::max(row_prices_[size(new_row)], gain);
        }
        reached_.clear();
        open_.clear();
        least_ = row_prices_[size(new_row)];
        last_row_ = new_row;
        last_column_ = none;
        look_from(new_row, new_row, 0);
        while (!open_.empty() && open_.front().first < least_) {
            const auto [distance, column] = open_.front();
            std::pop_heap(open_.begin(), open_.end(), std::greater<>());
            open_.pop_back();
            if (distance > distances_[size(column)]) continue;  // a shorter way came later
            look_from(new_row, row_of(pair_of_column_[size(column)]), distance);
        }
        for (const auto& [row, distance] : reached_) {
            const std::int64_t change = least_ - distance;
            row_prices_[size(row)] -= change;
            if (row != new_row) column_prices_[size(column_of(pair_of_row_[size(row)]))] += change;
        }
        rematch(new_row);
    }

    bool is_matched(std::int64_t pair) const { return pair_of_row_[size(row_of(pair))] == pair; }

private:
    static std::size_t size(std::int64_t n) { return static_cast<std::size_t>(n); }
    std::int64_t row_of(std::int64_t pair) const { return pairs_[2 * pair]; }
    std::int64_t column_of(std::int64_t pair) const { return pairs_[2 * pair + 1]; }

    // Extends the search from a row at a distance to the columns that it is in a pair with.
    void look_from(std::int64_t new_row, std::int64_t row, std::int64_t distance) {
        reached_.emplace_back(row, distance);
        if (distance + row_prices_[size(row)] < least_) {
            least_ = distance + row_prices_[size(row)];
            last_row_ = row;
            last_column_ = none;
        }
        steps_left_ -= first_pair_[size(row) + 1] - first_pair_[size(row)];
        require(steps_left_ >= 0, CELLRT_ERROR_CAPACITY);
        for (std::int64_t pair = first_pair_[size(row)]; pair < first_pair_[size(row) + 1]; ++pair) {
            const std::size_t column = size(column_of(pair));
            const std::int64_t surplus = row_prices_[size(row)] + column_prices_[column] - weights_[size(pair)];
            const std::int64_t further = distance + surplus;
            const bool is_known = searched_by_[column] == new_row && distances_[column] <= further;
            if (further >= least_ || is_known) continue;
            searched_by_[column] = new_row;
            distances_[column] = further;
            pair_to_[column] = pair;
            if (pair_of_column_[column] == none) {
                least_ = further;
                last_column_ = column_of(pair);
            } else {
                open_.emplace_back(further, column_of(pair));
                std::push_heap(open_.begin(), open_.end(), std::greater<>());
            }
        }
    }

    // Goes back along the way found and gives every row on it the column that it was left by.
    void rematch(std::int64_t new_row) {
        std::int64_t column = last_column_;
        if (column == none) {
            if (last_row_ == new_row) return;
            column = column_of(pair_of_row_[size(last_row_)]);
            pair_of_row_[size(last_row_)] = none;
        }
        for (;;) {
            const std::int64_t pair = pair_to_[size(column)], row = row_of(pair);
            const std::int64_t given_up = pair_of_row_[size(row)];
            pair_of_row_[size(row)] = pair;
            pair_of_column_[size(column)] = pair;
            if (row == new_row) return;
            column = column_of(given_up);
        }
    }

    const std::int32_t* pairs_;
    std::vector<std::int64_t> weights_;
    std::int64_t steps_left_;
    std::vector<std::int64_t> first_pair_;  // of every row, and the end
    std::vector<std::int64_t> row_prices_, column_prices_;
    std::vector<std::int64_t> pair_of_row_, pair_of_column_;  // the matching so far

    // The search for the row searched_by_: distances to columns, the pair that each was reached by.
    std::vector<std::int64_t> searched_by_, distances_, pair_to_;
    std::vector<std::pair<std::int64_t, std::int64_t>> reached_;  // rows and their distances
    std::vector<std::pair<std::int64_t, std::int64_t>> open_;     // a heap of distances and columns, nearest first
    std::int64_t least_ = 0;                                      // of the ways in that are known
    std::int64_t last_row_ = none, last_column_ = none;           // where that way ends: a column, if there is one
};

}  // namespace

void match_pairs(const std::int32_t* pairs, const double* scores, std::int64_t n_pairs, std::int32_t n_rows,
                 std::int32_t n_columns, double threshold, std::int64_t max_steps, std::uint8_t* is_matched) {
    Matcher matcher(pairs, scores, n_pairs, n_rows, n_columns, threshold, max_steps);
    for (std::int64_t row = 0; row < n_rows; ++row) matcher.match(row);
    for (std::int64_t pair = 0; pair < n_pairs; ++pair) is_matched[pair] = matcher.is_matched(pair) ? 1 : 0;
}

}  // namespace cellrt
