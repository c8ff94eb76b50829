// Copies from global to shared memory that a thread does not wait for until it says so.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>

namespace trim {
namespace {

// 16 bytes, or 16 zeros.
__device__ __forceinline__ void copy_16_async(void* shared, const void* global, bool real) {
  const uint32_t to = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global), "r"(real ? 16 : 0) : "memory");
}

// Asks for the 128 bytes around an address, so that a later load need not wait for memory.
__device__ __forceinline__ void prefetch_to_l2(const void* global) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(global));
}

__device__ __forceinline__ void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until no more than kPending of this thread's latest batches are under way.
template <int kPending>
__device__ __forceinline__ void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// What this thread wrote to shared memory is there for wgmma too.
__device__ __forceinline__ void fence_async_proxy() {
#if __CUDA_ARCH__ >= 900
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

}  // namespace
}  // namespace trim
