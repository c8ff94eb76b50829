// Atomics, bits and arithmetic of device code.
#pragma once
#include <cmath>
#include <type_traits>

#include "scheduler.h"

namespace cuda_on_cpu {

template <class To, class From>
To bits(From from) {
  static_assert(sizeof(From) <= 8 && sizeof(To) <= 8 && std::is_trivially_copyable_v<From>);
  uint64_t wide = 0;
  To to;
  std::memcpy(&wide, &from, sizeof from), std::memcpy(&to, &wide, sizeof to);
  return to;
}

// An atomic operation now and then lets other threads go first.
template <class T, class Change>
T atomic(T* address, Change change) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8);
  if (scheduler.random(64) == 0) scheduler.pause();
  const T before = *address;
  *address = change(before);
  return before;
}

}  // namespace cuda_on_cpu

#define CUDA_ON_CPU_ATOMIC(name, changed)                                              \
  template <class T>                                                                   \
  T name(T* address, std::common_type_t<T> value) {                                    \
    return cuda_on_cpu::atomic(address, [=](T old) { return T(changed); });            \
  }
CUDA_ON_CPU_ATOMIC(atomicAdd, old + value)
CUDA_ON_CPU_ATOMIC(atomicSub, old - value)
CUDA_ON_CPU_ATOMIC(atomicMax, old < value ? value : old)
CUDA_ON_CPU_ATOMIC(atomicMin, value < old ? value : old)
CUDA_ON_CPU_ATOMIC(atomicOr, old | value)
CUDA_ON_CPU_ATOMIC(atomicAnd, old& value)
CUDA_ON_CPU_ATOMIC(atomicXor, old ^ value)
CUDA_ON_CPU_ATOMIC(atomicExch, (void(old), value))
template <class T>
T atomicCAS(T* address, std::common_type_t<T> expected, std::common_type_t<T> value) {
  return cuda_on_cpu::atomic(address, [=](T old) { return old == expected ? value : old; });
}

inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __threadfence_system() {}
inline void __nanosleep(unsigned) { cuda_on_cpu::scheduler.pause(); }
inline void __trap() { cuda_on_cpu::scheduler.abandon("__trap"); }

template <class T> T __ldg(const T* p) { return *p; }
template <class T> T __ldcs(const T* p) { return *p; }
template <class T> T __ldcg(const T* p) { return *p; }
template <class T> void __stcs(T* p, T value) { *p = value; }
template <class T> void __stcg(T* p, T value) { *p = value; }

inline int __popc(uint32_t x) { return __builtin_popcount(x); }
inline int __popcll(uint64_t x) { return __builtin_popcountll(x); }
inline int __clz(int x) { return x ? __builtin_clz(unsigned(x)) : 32; }
inline int __clzll(long long x) { return x ? __builtin_clzll(uint64_t(x)) : 64; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline uint32_t __brev(uint32_t x) {
  uint32_t reversed = 0;
  for (int i = 0; i < 32; ++i) reversed |= (x >> i & 1) << (31 - i);
  return reversed;
}
inline uint32_t __funnelshift_r(uint32_t low, uint32_t high, uint32_t shift) {
  return uint32_t((uint64_t(high) << 32 | low) >> (shift & 31));
}
inline uint32_t __funnelshift_l(uint32_t low, uint32_t high, uint32_t shift) {
  return uint32_t((uint64_t(high) << 32 | low) << (shift & 31) >> 32);
}
inline uint32_t __byte_perm(uint32_t x, uint32_t y, uint32_t selector) {
  const uint64_t bytes = uint64_t(y) << 32 | x;
  uint32_t chosen = 0;
  for (int i = 0; i < 4; ++i) {
    const uint32_t nibble = selector >> 4 * i & 15, byte = uint32_t(bytes >> 8 * (nibble & 7)) & 255;
    chosen |= (nibble & 8 ? (byte & 128 ? 255u : 0u) : byte) << 8 * i;  // the high bit asks for copies of the sign
  }
  return chosen;
}

inline float __uint_as_float(uint32_t x) { return cuda_on_cpu::bits<float>(x); }
inline float __int_as_float(int x) { return cuda_on_cpu::bits<float>(x); }
inline uint32_t __float_as_uint(float x) { return cuda_on_cpu::bits<uint32_t>(x); }
inline int __float_as_int(float x) { return cuda_on_cpu::bits<int>(x); }
inline long long __double_as_longlong(double x) { return cuda_on_cpu::bits<long long>(x); }
inline double __longlong_as_double(long long x) { return cuda_on_cpu::bits<double>(x); }
inline float __fmul_rn(float x, float y) { return x * y; }
inline float __fadd_rn(float x, float y) { return x + y; }
inline float __fmaf_rn(float x, float y, float z) { return std::fma(x, y, z); }
inline float __fdiv_rn(float x, float y) { return x / y; }
inline float __fsqrt_rn(float x) { return std::sqrt(x); }
inline double __dmul_rn(double x, double y) { return x * y; }
inline double __dadd_rn(double x, double y) { return x + y; }
inline double __fma_rn(double x, double y, double z) { return std::fma(x, y, z); }
inline float __double2float_rn(double x) { return float(x); }
template <class T, class U>
constexpr std::enable_if_t<std::is_arithmetic_v<T> && std::is_arithmetic_v<U>, std::common_type_t<T, U>> min(T x, U y) {
  using Common = std::common_type_t<T, U>;
  return Common(y) < Common(x) ? Common(y) : Common(x);
}
template <class T, class U>
constexpr std::enable_if_t<std::is_arithmetic_v<T> && std::is_arithmetic_v<U>, std::common_type_t<T, U>> max(T x, U y) {
  using Common = std::common_type_t<T, U>;
  return Common(x) < Common(y) ? Common(y) : Common(x);
}
