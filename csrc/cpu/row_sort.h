// Stable ascending sort of a row's keys that carries the columns along: radix sort from the bottom.
#pragma once
#include "row_keys.h"

namespace trim {
namespace {

class RowSort {
 public:
  explicit RowSort(int64_t columns) : size_(columns), front_(columns), back_(columns) {}

  // Pairs of (key << 32 | column) in pruning order; valid until the next call.
  const uint64_t* operator()(const uint32_t* keys) {
    // Few wide digits mean few passes; for a short row, clearing and summing wide histograms costs more than a pass.
    return size_ <= kShort ? sort<8, 8, 8, 7>(keys) : sort<11, 10, 10>(keys);
  }

 private:
  static constexpr int64_t kShort = 1024;

  // The digits' widths add up to the 31 bits of a key.
  template <int... width>
  const uint64_t* sort(const uint32_t* keys) {
    constexpr int kPasses = sizeof...(width);
    constexpr int kWidth[kPasses] = {width...};
    for (int pass = 0; pass < kPasses; ++pass) std::memset(histogram_[pass], 0, sizeof(uint32_t) << kWidth[pass]);
    for (int64_t j = 0; j < size_; ++j) {
      uint32_t key = keys[j];
      for (int pass = 0; pass < kPasses; ++pass) {
        ++histogram_[pass][key & ((1u << kWidth[pass]) - 1)];
        key >>= kWidth[pass];
      }
      front_[j] = uint64_t(keys[j]) << 32 | uint64_t(j);
    }
    uint64_t *from = front_, *to = back_;
    int shift = 32;
    for (int pass = 0; pass < kPasses; shift += kWidth[pass++]) {
      uint32_t* place = histogram_[pass];
      const uint32_t mask = (1u << kWidth[pass]) - 1;
      uint32_t start = 0;
      for (uint32_t digit = 0; digit <= mask; ++digit) {
        const uint32_t count = place[digit];
        place[digit] = start;
        start += count;
      }
      for (int64_t j = 0; j < size_; ++j) to[place[from[j] >> shift & mask]++] = from[j];
      uint64_t* const sorted = to;
      to = from;
      from = sorted;
    }
    return from;
  }

  const int64_t size_;
  uint32_t histogram_[4][2048];
  Buffer<uint64_t> front_, back_;
};

}  // namespace
}  // namespace trim
