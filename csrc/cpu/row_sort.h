// Columns of a row in pruning order: a stable radix sort of the keys, from the bottom, that carries the columns along.
#pragma once
#include "row_keys.h"

namespace trim {
namespace {

class RowSort {
 public:
  explicit RowSort(int64_t columns) : size_(columns), front_(columns), back_(columns) {}

  template <class Column>
  void operator()(const uint32_t* keys, Column* order) {
    // Few wide digits mean few passes; for a short row, clearing and summing wide histograms costs more than a pass.
    if (size_ <= kShort) {
      sort<8, 8, 8, 7>(keys, order);
    } else {
      sort<11, 10, 10>(keys, order);
    }
  }

 private:
  static constexpr int64_t kShort = 1024;

  // The digits' widths add up to the 31 bits of a key. The first pass reads the keys, the last one writes columns only;
  // between them go pairs of (key << 32 | column).
  template <int... width, class Column>
  void sort(const uint32_t* keys, Column* order) {
    constexpr int kPasses = sizeof...(width);
    constexpr int kWidth[kPasses] = {width...};
    for (int pass = 0; pass < kPasses; ++pass) std::memset(place_[pass], 0, sizeof(uint32_t) << kWidth[pass]);
    for (int64_t j = 0; j < size_; ++j) {
      uint32_t key = keys[j];
      for (int pass = 0; pass < kPasses; ++pass) {
        ++place_[pass][key & mask(kWidth[pass])];
        key >>= kWidth[pass];
      }
    }
    for (int pass = 0; pass < kPasses; ++pass) count_to_place(place_[pass], mask(kWidth[pass]));
    uint64_t *from = front_, *to = back_;
    for (int64_t j = 0; j < size_; ++j) {
      from[place_[0][keys[j] & mask(kWidth[0])]++] = uint64_t(keys[j]) << 32 | uint64_t(j);
    }
    int shift = 32 + kWidth[0];
    for (int pass = 1; pass < kPasses - 1; shift += kWidth[pass++]) {
      uint32_t* place = place_[pass];
      for (int64_t j = 0; j < size_; ++j) to[place[from[j] >> shift & mask(kWidth[pass])]++] = from[j];
      uint64_t* const sorted = to;
      to = from;
      from = sorted;
    }
    uint32_t* place = place_[kPasses - 1];
    for (int64_t j = 0; j < size_; ++j) order[place[from[j] >> shift]++] = static_cast<Column>(from[j]);
  }

  static constexpr uint32_t mask(int width) { return (1u << width) - 1; }

  static void count_to_place(uint32_t* place, uint32_t last) {
    uint32_t start = 0;
    for (uint32_t digit = 0; digit <= last; ++digit) {
      const uint32_t count = place[digit];
      place[digit] = start;
      start += count;
    }
  }

  const int64_t size_;
  uint32_t place_[4][2048];
  Buffer<uint64_t> front_, back_;
};

}  // namespace
}  // namespace trim
