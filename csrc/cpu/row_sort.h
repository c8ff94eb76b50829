// Stable ascending sort of a row's keys that carries the columns along: radix sort, 11 + 10 + 10 bits from the bottom.
#pragma once
#include "row_keys.h"

namespace trim {
namespace {

class RowSort {
 public:
  explicit RowSort(int64_t columns) : size_(columns), front_(columns), back_(columns) {}

  // Pairs of (key << 32 | column) in pruning order; valid until the next call.
  const uint64_t* operator()(const uint32_t* keys) {
    std::memset(histogram_, 0, sizeof histogram_);
    for (int64_t j = 0; j < size_; ++j) {
      const uint32_t key = keys[j];
      ++histogram_[0][key & 2047];
      ++histogram_[1][key >> 11 & 1023];
      ++histogram_[2][key >> 21];
      front_[j] = uint64_t(key) << 32 | uint64_t(j);
    }
    uint64_t *from = front_, *to = back_;
    constexpr int kShift[3] = {32, 43, 53};
    constexpr uint32_t kMask[3] = {2047, 1023, 1023};
    for (int pass = 0; pass < 3; ++pass) {
      uint32_t* place = histogram_[pass];
      uint32_t start = 0;
      for (uint32_t digit = 0; digit <= kMask[pass]; ++digit) {
        const uint32_t count = place[digit];
        place[digit] = start;
        start += count;
      }
      for (int64_t j = 0; j < size_; ++j) to[place[from[j] >> kShift[pass] & kMask[pass]]++] = from[j];
      uint64_t* const sorted = to;
      to = from;
      from = sorted;
    }
    return from;
  }

 private:
  const int64_t size_;
  uint32_t histogram_[3][2048];
  Buffer<uint64_t> front_, back_;
};

}  // namespace
}  // namespace trim
