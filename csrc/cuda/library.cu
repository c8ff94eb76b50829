// What the library is, and where it runs.
#include "launch.h"

#ifndef TRIM_ARCHITECTURES
#define TRIM_ARCHITECTURES "the CPU"
#endif

namespace trim {
namespace {

__global__ void probe() {}

}  // namespace
}  // namespace trim

TRIM_EXPORT int tk_cuda_usable(int device) {
  const trim::OnDevice current(device);
  if (current.status != cudaSuccess) return current.status;
  cudaFuncAttributes attributes;
  return cudaFuncGetAttributes(&attributes, trim::probe);
}

TRIM_EXPORT const char* tk_cuda_architectures(void) { return TRIM_ARCHITECTURES; }

TRIM_EXPORT const char* tk_cuda_error(int error) { return cudaGetErrorString(static_cast<cudaError_t>(error)); }

TRIM_EXPORT int tk_cuda_abi(void) { return TK_CUDA_ABI; }
