// Reductions over all threads of a block in a fixed order: the same result in every run.
#pragma once
#include "block_scan.cuh"

namespace trim {
namespace {

struct Sum {
  template <class T>
  __device__ __forceinline__ T operator()(T a, T b) const {
    return a + b;
  }
};
struct Smallest {
  __device__ __forceinline__ double operator()(double a, double b) const { return fmin(a, b); }
};
struct Largest {
  __device__ __forceinline__ double operator()(double a, double b) const { return fmax(a, b); }
};

// Every thread gets the result. Begins with a barrier, so that calls may follow each other.
template <int kThreads, class T, class Combine>
__device__ __forceinline__ T reduce_block(T value, Combine combine) {
  constexpr int kWarps = kThreads / kWarp;
  static_assert((kWarps & (kWarps - 1)) == 0 && kWarps <= kWarp);
  __shared__ T of_warp[kWarps];
#pragma unroll
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
    value = combine(value, __shfl_xor_sync(kWholeWarp, value, distance));
  }
  __syncthreads();
  if (threadIdx.x % kWarp == 0) of_warp[threadIdx.x / kWarp] = value;
  __syncthreads();
  value = of_warp[threadIdx.x % kWarps];
#pragma unroll
  for (int distance = kWarps / 2; distance > 0; distance /= 2) {
    value = combine(value, __shfl_xor_sync(kWholeWarp, value, distance));
  }
  return value;
}

}  // namespace
}  // namespace trim
