#include "row_rounding.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace trim {
namespace {

double sum_of(const std::vector<double>& values) { return std::accumulate(values.begin(), values.end(), 0.0); }

// TRIM's code: float32 shares, clipped and then recentred (which may leave the limits again), counts truncated.
class FloorRounding final : public Rounding {
 public:
  FloorRounding(int64_t rows, int64_t columns, const tk_search& options)
      : rows_(rows),
        columns_(columns),
        sparsity_(static_cast<float>(options.sparsity)),
        max_sparsity_(static_cast<float>(options.max_sparsity)) {}

  Shares uniform() const override { return Shares(rows_, sparsity_); }

  void change(Shares& shares, const std::vector<double>& change) const override {
    for (size_t i = 0; i < shares.size(); ++i) shares[i] = static_cast<float>(shares[i] + change[i]);
    confine(shares);
  }

  void counts(const Shares& shares, int32_t* prune_count) const override {
    for (size_t i = 0; i < shares.size(); ++i) {
      const float wanted = static_cast<float>(columns_) * static_cast<float>(shares[i]);
      prune_count[i] = static_cast<int32_t>(std::clamp(wanted, 0.0f, static_cast<float>(columns_)));
    }
  }

  void finish(Shares& shares, int32_t* prune_count) const override {
    confine(shares);
    counts(shares, prune_count);
  }

 private:
  void confine(Shares& shares) const {
    for (double& share : shares) share = std::clamp(static_cast<float>(share), 0.0f, max_sparsity_);
    const float mean = static_cast<float>(sum_of(shares) / static_cast<double>(rows_));
    for (double& share : shares) share = static_cast<float>(share) - mean + sparsity_;
  }

  const int64_t rows_, columns_;
  const float sparsity_, max_sparsity_;
};

// Shares projected onto {0 <= share <= cap, mean = target}, counts by largest remainder.
class ExactRounding final : public Rounding {
 public:
  ExactRounding(int64_t rows, int64_t columns, const tk_search& options)
      : rows_(rows),
        columns_(columns),
        total_(options.total),
        cap_(options.cap),
        limit_(static_cast<double>(options.cap) / static_cast<double>(columns)) {}

  Shares uniform() const override {
    return Shares(rows_, static_cast<double>(total_) / static_cast<double>(rows_ * columns_));
  }

  // clip(clip(shares + change) + t) for the t that makes the sum right. The sum rises with t, in straight pieces:
  // Newton steps, kept between bounds that halve, end on the right piece, where one step is exact.
  void change(Shares& shares, const std::vector<double>& change) const override {
    for (size_t i = 0; i < shares.size(); ++i) shares[i] = std::clamp(shares[i] + change[i], 0.0, limit_);
    const double target = static_cast<double>(total_) / static_cast<double>(columns_);
    double low = -limit_, high = limit_, shift = 0;
    for (int step = 0; step < 100; ++step) {
      double sum = 0;
      int64_t moving = 0;
      for (const double share : shares) {
        const double moved = share + shift;
        sum += std::clamp(moved, 0.0, limit_);
        moving += moved > 0 && moved < limit_;
      }
      const double missing = target - sum;
      if (std::abs(missing) <= 1e-12 * target) break;
      (missing > 0 ? low : high) = shift;
      const double newton = moving ? shift + missing / static_cast<double>(moving) : high + 1;
      shift = newton > low && newton < high ? newton : (low + high) / 2;
    }
    for (double& share : shares) share = std::clamp(share + shift, 0.0, limit_);
  }

  void counts(const Shares& shares, int32_t* prune_count) const override {
    std::vector<double> remainder(shares.size());
    int64_t missing = total_;
    for (size_t i = 0; i < shares.size(); ++i) {
      const double wanted = shares[i] * static_cast<double>(columns_);
      const double base = std::clamp(std::floor(wanted), 0.0, static_cast<double>(cap_));
      remainder[i] = wanted - base;
      prune_count[i] = static_cast<int32_t>(base);
      missing -= prune_count[i];
    }
    // The largest remainders take one each, the smallest give one back; ties go by row.
    while (missing != 0) {
      const int32_t one = missing > 0 ? 1 : -1;
      std::vector<size_t> candidates;
      for (size_t i = 0; i < shares.size(); ++i) {
        if (one > 0 ? prune_count[i] < cap_ : prune_count[i] > 0) candidates.push_back(i);
      }
      const size_t taken = std::min(candidates.size(), static_cast<size_t>(std::abs(missing)));
      std::nth_element(candidates.begin(), candidates.begin() + static_cast<int64_t>(taken) - 1, candidates.end(),
                       [&](size_t a, size_t b) {
                         if (remainder[a] != remainder[b]) return (remainder[a] > remainder[b]) == (one > 0);
                         return (a < b) == (one > 0);
                       });
      for (size_t i = 0; i < taken; ++i) prune_count[candidates[i]] += one;
      missing -= one * static_cast<int64_t>(taken);
    }
  }

  void finish(Shares& shares, int32_t* prune_count) const override { counts(shares, prune_count); }

 private:
  const int64_t rows_, columns_, total_, cap_;
  const double limit_;
};

}  // namespace

std::unique_ptr<Rounding> make_rounding(int64_t rows, int64_t columns, const tk_search& options) {
  if (options.exact) return std::make_unique<ExactRounding>(rows, columns, options);
  return std::make_unique<FloorRounding>(rows, columns, options);
}

}  // namespace trim
