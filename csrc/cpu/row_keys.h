// What the kernels of one instruction set share: scratch memory, keys of a row, selection in a row. Internal linkage
// and no standard containers on purpose: code emitted for AVX-512 must not be linked into the baseline.
#pragma once
#include <cstdint>
#include <new>

#include "dtypes.h"
#include "parallel.h"
#include "score_key.h"
#include "trim_kernels.h"

namespace trim {
namespace {

// Cache-line aligned scratch of trivially copyable values, not initialised.
template <class T>
class Buffer {
 public:
  explicit Buffer(int64_t size)
      : data_(static_cast<T*>(::operator new(sizeof(T) * static_cast<size_t>(size), std::align_val_t(64)))) {}
  ~Buffer() { ::operator delete(data_, std::align_val_t(64)); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  operator T*() const { return data_; }

 private:
  T* data_;
};

template <class Dtype>
typename Dtype::Storage* weight_row(const tk_scored& scored, int64_t row) {
  return static_cast<typename Dtype::Storage*>(scored.weight) + row * scored.stride;
}

// Keys of one row. False if the row holds a NaN, an infinity or a negative score.
template <class Dtype>
bool row_keys(const tk_scored& scored, int64_t row, uint32_t* keys) {
  const auto* weight = weight_row<Dtype>(scored, row);
  const int64_t columns = scored.columns;
  uint32_t bad = 0;
  if (scored.score) {
    const float* score = scored.score + row * scored.score_stride;
    for (int64_t j = 0; j < columns; ++j) {
      const uint32_t bits = bits_of(score[j]);
      keys[j] = bits & ~kSignBit;
      bad |= (keys[j] >= kInfinityBits) | (bits > kSignBit) | !Dtype::is_finite(weight[j]);
    }
  } else if (scored.column_scale) {
    const float* scale = scored.column_scale;
    for (int64_t j = 0; j < columns; ++j) {
      keys[j] = key_of(Dtype::widen(weight[j]) * scale[j]);
      bad |= !Dtype::is_finite(weight[j]);
    }
  } else {
    for (int64_t j = 0; j < columns; ++j) {
      keys[j] = key_of(Dtype::widen(weight[j]));
      bad |= !Dtype::is_finite(weight[j]);
    }
  }
  return bad == 0;
}

bool row_keys(const tk_scored& scored, int64_t row, uint32_t* keys) {
  return with_dtype(scored, [&](auto dtype) { return row_keys<decltype(dtype)>(scored, row, keys); });
}

// Finds the weight of a given rank in a row's pruning order: radix selection, 11 + 10 + 10 bits from the top.
class RowSelect {
 public:
  explicit RowSelect(int64_t columns) : size_(static_cast<int32_t>(columns)), keys_(columns), columns_(columns) {}

  // The threshold that lets `count` of the row's weights go.
  Threshold operator()(const uint32_t* keys, int32_t count) {
    if (count == size_) return {uint32_t(kNothingStays), size_};
    int32_t rank = count;
    // Two histograms, so that neighbours with the same digit do not wait for each other's increment.
    std::memset(histogram_, 0, sizeof histogram_);
    int32_t j = 0;
    for (; j + 1 < size_; j += 2) {
      ++histogram_[0][keys[j] >> 20];
      ++histogram_[1][keys[j + 1] >> 20];
    }
    if (j < size_) ++histogram_[0][keys[j] >> 20];
    uint32_t digit = 0;
    for (int32_t here; rank >= (here = histogram_[0][digit] + histogram_[1][digit]); ++digit) rank -= here;
    int32_t left = 0;
    for (j = 0; j < size_; ++j) {
      keys_[left] = keys[j];
      columns_[left] = j;
      left += keys[j] >> 20 == digit;
    }
    left = keep_digit(left, 10, &rank);
    keep_digit(left, 0, &rank);
    return {keys_[rank], columns_[rank]};
  }

 private:
  // Among the survivors keeps those whose 10-bit digit is that of the weight of this rank, in column order.
  int32_t keep_digit(int32_t left, int shift, int32_t* rank) {
    if (left == 1) return 1;
    int32_t* histogram = histogram_[0];
    std::memset(histogram, 0, sizeof(int32_t) * 1024);
    for (int32_t i = 0; i < left; ++i) ++histogram[keys_[i] >> shift & 1023];
    uint32_t digit = 0;
    for (; *rank >= histogram[digit]; ++digit) *rank -= histogram[digit];
    int32_t kept = 0;
    for (int32_t i = 0; i < left; ++i) {
      const uint32_t key = keys_[i];
      keys_[kept] = key;
      columns_[kept] = columns_[i];
      kept += (key >> shift & 1023) == digit;
    }
    return kept;
  }

  const int32_t size_;
  int32_t histogram_[2][2048];
  Buffer<uint32_t> keys_;
  Buffer<int32_t> columns_;
};

}  // namespace
}  // namespace trim
