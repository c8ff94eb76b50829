// Keys of a scored matrix on the device, eight neighbouring columns at a time.
#pragma once
#include <cuda_runtime.h>

#include "dtypes.h"

namespace trim {
namespace {

constexpr int kVector = 8;                 // columns that a thread takes at once: 16 bytes of halves
constexpr uint32_t kPadding = 0x7fffffffu;  // the key of a column beyond the last: after all scores that are numbers

struct alignas(16) Bytes16 {
  uint32_t word[4];
};

// Raw values of eight columns.
template <class Dtype>
struct alignas(16) Eight {
  typename Dtype::Storage value[kVector];
};

template <class T, class Source>
__device__ __forceinline__ T load_16_byte_pieces(const Source* from) {
  static_assert(sizeof(T) % 16 == 0);
  T result;
  for (size_t i = 0; i < sizeof(T) / 16; ++i) {
    const Bytes16 piece = reinterpret_cast<const Bytes16*>(from)[i];
    memcpy(reinterpret_cast<char*>(&result) + 16 * i, &piece, 16);
  }
  return result;
}

// To global memory and at once, where an assignment would be taken apart as the compiler likes, into single bytes at
// worst. Nothing here reads what is written.
__device__ __forceinline__ void store_16_bytes(void* to, const Bytes16& bytes) {
#ifdef __CUDA_ARCH__
  __stcs(static_cast<uint4*>(to), make_uint4(bytes.word[0], bytes.word[1], bytes.word[2], bytes.word[3]));
#else
  *static_cast<Bytes16*>(to) = bytes;
#endif
}

inline bool is_aligned(const void* pointer, int64_t stride_bytes) {
  return reinterpret_cast<uintptr_t>(pointer) % 16 == 0 && stride_bytes % 16 == 0;
}

template <class Dtype>
struct ScoredMatrix {
  using Storage = typename Dtype::Storage;

  explicit ScoredMatrix(const tk_scored& scored)
      : weight(static_cast<Storage*>(scored.weight)),
        column_scale(scored.column_scale),
        score(scored.score),
        rows(scored.rows),
        stride(scored.stride),
        score_stride(scored.score_stride),
        columns(static_cast<int32_t>(scored.columns)),
        aligned(is_aligned(scored.weight, scored.stride * static_cast<int64_t>(sizeof(Storage))) &&
                is_aligned(scored.column_scale, 0) && is_aligned(scored.score, scored.score_stride * 4)) {}

  // Whether every eight columns that begin at a multiple of eight are aligned, and all there or none, and keys come
  // from weights.
  TRIM_INLINE bool whole() const { return aligned && columns % kVector == 0 && !score; }

  Storage* weight;
  const float *column_scale, *score;
  int64_t rows, stride, score_stride;
  int32_t columns;
  bool aligned;  // eight columns that start at a multiple of eight can be read at once
};

// One row of it. `weight` may point to a copy of the row in shared memory.
template <class Dtype>
struct ScoredRow {
  using Storage = typename Dtype::Storage;

  __device__ ScoredRow(const ScoredMatrix<Dtype>& matrix, int64_t row)
      : weight(matrix.weight + row * matrix.stride),
        column_scale(matrix.column_scale),
        score(matrix.score ? matrix.score + row * matrix.score_stride : nullptr),
        columns(matrix.columns),
        aligned(matrix.aligned) {}

  __device__ __forceinline__ bool whole(int32_t column) const { return aligned && column + kVector <= columns; }

  __device__ __forceinline__ Eight<Dtype> weights(int32_t column) const {
    if (whole(column)) return load_16_byte_pieces<Eight<Dtype>>(weight + column);
    Eight<Dtype> result = {};
#pragma unroll
    for (int e = 0; e < kVector; ++e) {
      if (column + e < columns) result.value[e] = weight[column + e];
    }
    return result;
  }

  __device__ __forceinline__ Eight<Float32> floats(const float* values, int32_t column) const {
    if (whole(column)) return load_16_byte_pieces<Eight<Float32>>(values + column);
    Eight<Float32> result = {};
#pragma unroll
    for (int e = 0; e < kVector; ++e) {
      if (column + e < columns) result.value[e] = bits_of(values[column + e]);
    }
    return result;
  }

  // Keys of eight columns. `column` may lie beyond the last.
  __device__ __forceinline__ void keys(int32_t column, uint32_t (&key)[kVector]) const {
    if (column >= columns) {
#pragma unroll
      for (int e = 0; e < kVector; ++e) key[e] = kPadding;
    } else if (score) {
      keys_of_scores(column, key);
    } else {
      keys_of_weights(weights(column), scales(column), column, key);
    }
  }

  // The key of one column.
  __device__ __forceinline__ uint32_t key(int32_t column) const {
    if (score) return key_of(score[column]);
    return key_of_product(Dtype::widen(weight[column]), column_scale ? column_scale[column] : 1.0f);
  }

  __device__ __forceinline__ void keys_of_scores(int32_t column, uint32_t (&key)[kVector]) const {
    const Eight<Float32> scores = floats(score, column);
#pragma unroll
    for (int e = 0; e < kVector; ++e) key[e] = scores.value[e] & ~kSignBit;
    pad(column, key);
  }

  // From weights and scales that are loaded already.
  __device__ __forceinline__ void keys_of_weights(const Eight<Dtype>& raw, const Eight<Float32>& scale, int32_t column,
                                                  uint32_t (&key)[kVector]) const {
    if (column_scale) {
#pragma unroll
      for (int e = 0; e < kVector; ++e) key[e] = key_of_product(Dtype::widen(raw.value[e]), float_of(scale.value[e]));
    } else {
#pragma unroll
      for (int e = 0; e < kVector; ++e) key[e] = key_of(Dtype::widen(raw.value[e]));
    }
    pad(column, key);
  }

  __device__ __forceinline__ Eight<Float32> scales(int32_t column) const {
    return column_scale ? floats(column_scale, column) : Eight<Float32>{};
  }

  // Whether these columns hold a NaN, an infinity or a negative score. A weight that is not finite has a key from
  // infinity on, whatever its scale: the others, padding aside, need no second look.
  __device__ __forceinline__ bool is_bad(int32_t column, const uint32_t (&key)[kVector]) const {
    uint32_t highest = 0;
#pragma unroll
    for (int e = 0; e < kVector; ++e) highest = max(highest, key[e]);
    if (highest < kInfinityBits && !score) return false;
    bool bad = false;
#pragma unroll 1
    for (int32_t j = column; j < min(column + kVector, columns); ++j) {
      bad |= !Dtype::is_finite(weight[j]);
      if (score) bad |= !Float32::is_finite(bits_of(score[j])) || bits_of(score[j]) > kSignBit;
    }
    return bad;
  }

  __device__ __forceinline__ void pad(int32_t column, uint32_t (&key)[kVector]) const {
    if (column + kVector <= columns) return;
#pragma unroll
    for (int e = 0; e < kVector; ++e) {
      if (column + e >= columns) key[e] = kPadding;
    }
  }

  const Storage* weight;
  const float *column_scale, *score;
  const int32_t columns;
  const bool aligned;
};

}  // namespace
}  // namespace trim
