// Sums over the threads of a block, in thread order.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>

namespace trim {
namespace {

constexpr unsigned kWholeWarp = 0xffffffffu;
constexpr int kWarp = 32;

template <int kThreads>
struct ScanShared {
  uint32_t warp_sum[kThreads / kWarp];
};

// The sum of `value` over the threads before this one. The caller puts a barrier between this and the next use of
// `shared`.
template <int kThreads>
__device__ __forceinline__ uint32_t sum_before(uint32_t value, ScanShared<kThreads>& shared) {
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  uint32_t through = value;
#pragma unroll
  for (int distance = 1; distance < kWarp; distance *= 2) {
    const uint32_t other = __shfl_up_sync(kWholeWarp, through, distance);
    if (lane >= distance) through += other;
  }
  if (lane == kWarp - 1) shared.warp_sum[warp] = through;
  __syncthreads();
  uint32_t before = through - value;
#pragma unroll
  for (int i = 0; i < kThreads / kWarp; ++i) before += i < warp ? shared.warp_sum[i] : 0u;
  return before;
}

}  // namespace
}  // namespace trim
