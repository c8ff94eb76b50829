// The score of one weight as an ordered integer. Shared by every kernel, on CPU and GPU, so that all of them order
// weights alike. Internal linkage on purpose: files compiled for different instruction sets must not share the emitted
// code.
#pragma once
#include <cstdint>
#include <cstring>

#ifdef __CUDACC__
#define TRIM_INLINE __host__ __device__ __forceinline__
#else
#define TRIM_INLINE inline
#endif

namespace trim {
namespace {

constexpr uint32_t kInfinityBits = 0x7f800000u;
constexpr uint32_t kSignBit = 0x80000000u;
constexpr int32_t kNothingStays = 0x7fffffff;

TRIM_INLINE uint32_t bits_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

TRIM_INLINE float float_of(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// The key of a product or of a given score: the sign of a zero does not count.
TRIM_INLINE uint32_t key_of(float score) { return bits_of(score) & ~kSignBit; }

TRIM_INLINE uint32_t key_of_product(float weight, float scale) {
#ifdef __CUDA_ARCH__
  return bits_of(fabsf(weight) * fabsf(scale));  // the signs go at no cost, and that of a NaN made here is positive
#else
  return key_of(weight * scale);
#endif
}

struct Float32 {
  using Storage = uint32_t;
  TRIM_INLINE static float widen(Storage raw) { return float_of(raw); }
  TRIM_INLINE static bool is_finite(Storage raw) { return (raw & kInfinityBits) != kInfinityBits; }
};

struct BFloat16 {
  using Storage = uint16_t;
  TRIM_INLINE static float widen(Storage raw) { return float_of(uint32_t(raw) << 16); }
  TRIM_INLINE static bool is_finite(Storage raw) { return (raw & 0x7f80u) != 0x7f80u; }
};

struct Float16 {
  using Storage = uint16_t;
  // No float32 operation meets a subnormal number: a process may have told the processor to take those for zero.
  TRIM_INLINE static float widen(Storage raw) {
#ifdef __CUDA_ARCH__
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(raw));
    return value;
#else
    // Masks and no choices: compilers turn only the former into vectors. The exponent's bias goes from 15 to 127; that
    // of infinity and NaN goes up once more.
    constexpr uint32_t kRebias = 112u << 23;
    const uint32_t exponent = raw & 0x7c00u, special = -uint32_t(exponent == 0x7c00u) & kRebias;
    const uint32_t normal = (uint32_t(raw & 0x7fffu) << 13) + kRebias + special;
    const uint32_t subnormal = bits_of(static_cast<float>(static_cast<int32_t>(raw & 0x3ffu)) * 0x1p-24f);
    const uint32_t is_normal = -uint32_t(exponent != 0);
    return float_of((normal & is_normal) | (subnormal & ~is_normal) | uint32_t(raw & 0x8000u) << 16);
#endif
  }
  TRIM_INLINE static bool is_finite(Storage raw) { return (raw & 0x7c00u) != 0x7c00u; }
};

// The first weight of a row that stays. A weight goes iff it comes before in pruning order.
struct Threshold {
  uint32_t key;
  int32_t column;

  TRIM_INLINE bool keeps(uint32_t other_key, int32_t other_column) const {
    return (other_key > key) | ((other_key == key) & (other_column >= column));
  }
};

}  // namespace
}  // namespace trim
