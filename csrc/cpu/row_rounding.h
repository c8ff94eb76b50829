// From the share of weights that each row loses to whole numbers of weights; the C++ side of rounding.py.
#pragma once
#include <cstdint>
#include <memory>
#include <vector>

#include "trim_kernels.h"

namespace trim {

using Shares = std::vector<double>;

class Rounding {
 public:
  virtual ~Rounding() = default;
  // The shares to start from, all equal.
  virtual Shares uniform() const = 0;
  // Adds a change of mean 0 and brings the shares back to their limits and their mean.
  virtual void change(Shares& shares, const std::vector<double>& change) const = 0;
  virtual void counts(const Shares& shares, int32_t* prune_count) const = 0;
  // The counts to return for the best shares.
  virtual void finish(Shares& shares, int32_t* prune_count) const = 0;
};

std::unique_ptr<Rounding> make_rounding(int64_t rows, int64_t columns, const tk_search& options);

}  // namespace trim
