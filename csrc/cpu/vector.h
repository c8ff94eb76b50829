// The widest vector of the instruction set that this file is compiled for, by the compiler's vector extension.
#pragma once
#include <cstddef>
#include <cstdint>
#include <utility>

namespace trim {
namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

typedef float Vec __attribute__((vector_size(kLanes * sizeof(float)), may_alias));
// Half as many lanes, in float64.
typedef float HalfVec __attribute__((vector_size(kLanes / 2 * sizeof(float)), may_alias));
typedef double DoubleVec __attribute__((vector_size(kLanes / 2 * sizeof(double))));
typedef int32_t IntVec __attribute__((vector_size(kLanes * sizeof(int32_t))));

// Lane i of the result comes from lane source(i) of a and b laid end to end.
constexpr int source(int lane, int half, bool high) {
  const int segment = lane / (2 * half), from_b = lane / half % 2, offset = lane % half;
  return segment * 2 * half + offset + (high ? half : 0) + (from_b ? kLanes : 0);
}

template <int half, bool high, size_t... lane>
inline Vec pick(Vec a, Vec b, std::index_sequence<lane...>) {
#if defined(__clang__)
  return __builtin_shufflevector(a, b, source(lane, half, high)...);
#else
  return __builtin_shuffle(a, b, IntVec{source(lane, half, high)...});
#endif
}

// Halves the number of vectors: every segment of 2 * half lanes of a vector is folded onto half lanes.
template <int half>
inline void fold(Vec* vectors) {
  using Lanes = std::make_index_sequence<kLanes>;
  for (int i = 0; i < half; ++i) {
    vectors[i] = pick<half, false>(vectors[i], vectors[i + half], Lanes{}) +
                 pick<half, true>(vectors[i], vectors[i + half], Lanes{});
  }
}

// Lane i of the result is the sum of the lanes of vectors[i], for kLanes vectors, which are overwritten.
inline Vec sum_each(Vec* vectors) {
  if constexpr (kLanes >= 16) fold<8>(vectors);
  if constexpr (kLanes >= 8) fold<4>(vectors);
  fold<2>(vectors);
  fold<1>(vectors);
  return vectors[0];
}

// Swaps the halves of segments of 2 * half lanes between vectors that are `half` apart.
template <int half>
inline void exchange(Vec* vectors) {
  using Lanes = std::make_index_sequence<kLanes>;
  for (int i = 0; i < kLanes; ++i) {
    if (i & half) continue;
    const Vec low = pick<half, false>(vectors[i], vectors[i + half], Lanes{});
    vectors[i + half] = pick<half, true>(vectors[i], vectors[i + half], Lanes{});
    vectors[i] = low;
  }
}

// Lane j of vector i becomes lane i of vector j, for kLanes vectors.
inline void transpose(Vec* vectors) {
  if constexpr (kLanes >= 16) exchange<8>(vectors);
  if constexpr (kLanes >= 8) exchange<4>(vectors);
  exchange<2>(vectors);
  exchange<1>(vectors);
}

inline DoubleVec widen(const float* values) {
  return __builtin_convertvector(*reinterpret_cast<const HalfVec*>(values), DoubleVec);
}

inline double sum_of(DoubleVec values) {
  double sum = 0;
  for (int lane = 0; lane < kLanes / 2; ++lane) sum += values[lane];
  return sum;
}

}  // namespace
}  // namespace trim
