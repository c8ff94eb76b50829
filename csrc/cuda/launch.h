// How host code starts kernels: on the call's device and stream, as many blocks as find room.
#pragma once
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>

#include "trim_kernels_cuda.h"

#define TRIM_EXPORT extern "C" __attribute__((visibility("default")))

namespace trim {
namespace {

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

// Without asking a kernel gets 48 KB, what it declares itself included.
template <class Kernel>
cudaError_t allow_shared(Kernel kernel, size_t shared) {
  if (shared == 0) return cudaSuccess;
  return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared));
}

// Whether a block of this kernel can have so much dynamic shared memory on the current device.
template <class Kernel>
bool fits_shared(Kernel kernel, size_t shared) {
  cudaFuncAttributes attributes;
  if (cudaFuncGetAttributes(&attributes, kernel) != cudaSuccess) return false;
  return attributes.sharedSizeBytes + shared <= shared_limit();
}

template <class... Parameters, class... Arguments>
cudaError_t launch(void (*kernel)(Parameters...), dim3 grid, int threads, size_t shared, void* stream,
                   Arguments... arguments) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return cudaSuccess;
  const cudaError_t status = allow_shared(kernel, shared);
  if (status != cudaSuccess) return status;
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = shared;
  config.stream = static_cast<cudaStream_t>(stream);
  return cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...);
}

// Blocks of threads that each take the same columns of several rows: across so many columns at a time, and down as many
// as fill a large GPU.
inline dim3 grid_over(int64_t rows, int64_t columns, int64_t columns_of_block) {
  constexpr int64_t kBlocks = 132 * 16, kMostDown = 65535;
  const int64_t across = (columns + columns_of_block - 1) / columns_of_block;
  const int64_t down = std::min({rows, std::max<int64_t>(1, kBlocks / across), kMostDown});
  return dim3(static_cast<unsigned>(across), static_cast<unsigned>(down));
}

// Blocks that are resident at once, but no more than there are tasks: each takes tasks in turn.
template <class Kernel>
unsigned resident_blocks(Kernel kernel, int threads, size_t shared, int64_t tasks) {
  allow_shared(kernel, shared);
  int per_multiprocessor = 0;
  cudaOccupancyMaxActiveBlocksPerMultiprocessor(&per_multiprocessor, kernel, threads, shared);
  const int64_t multiprocessors = attribute(cudaDevAttrMultiProcessorCount);
  const int64_t resident = std::max(per_multiprocessor, 1) * multiprocessors;
  return static_cast<unsigned>(std::min(resident, tasks));
}

}  // namespace
}  // namespace trim
