// How host code starts kernels: on the call's device and stream, as many blocks as find room.
#pragma once
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>

#include "trim_kernels_cuda.h"

#define TRIM_EXPORT extern "C" __attribute__((visibility("default")))

namespace trim {
namespace {

constexpr size_t kSharedWithoutAsking = 48 << 10;

// The call's device is current while this lives.
class OnDevice {
 public:
  explicit OnDevice(int device) {
    cudaGetDevice(&before_);
    status = cudaSetDevice(device);
  }
  ~OnDevice() { cudaSetDevice(before_); }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

  cudaError_t status;

 private:
  int before_ = 0;
};

inline int attribute(cudaDeviceAttr what) {
  int device = 0, value = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&value, what, device);
  return value;
}

// The largest dynamic shared memory of a block on the current device.
inline size_t shared_limit() { return static_cast<size_t>(attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin)); }

template <class... Parameters, class... Arguments>
cudaError_t launch(void (*kernel)(Parameters...), dim3 grid, int threads, size_t shared, void* stream,
                   Arguments... arguments) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return cudaSuccess;
  if (shared > kSharedWithoutAsking) {
    const cudaError_t status =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared));
    if (status != cudaSuccess) return status;
  }
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = shared;
  config.stream = static_cast<cudaStream_t>(stream);
  return cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...);
}

// Blocks that are resident at once, but no more than there are tasks: each takes tasks in turn.
template <class Kernel>
unsigned resident_blocks(Kernel kernel, int threads, size_t shared, int64_t tasks) {
  if (shared > kSharedWithoutAsking) {
    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared));
  }
  int per_multiprocessor = 0;
  cudaOccupancyMaxActiveBlocksPerMultiprocessor(&per_multiprocessor, kernel, threads, shared);
  const int64_t resident = static_cast<int64_t>(std::max(per_multiprocessor, 1)) * attribute(cudaDevAttrMultiProcessorCount);
  return static_cast<unsigned>(std::min(resident, tasks));
}

}  // namespace
}  // namespace trim
