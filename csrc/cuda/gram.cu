#include "gram.cuh"

#include "launch.h"

TRIM_EXPORT int tk_cuda_gram(const tk_activations* activations, float* acc, int64_t acc_stride,
                             const tk_cuda_call* call) {
  using namespace trim;
  if (activations->dtype != TK_FLOAT32) return cudaErrorInvalidValue;
  const OnDevice device(call->device);
  if (device.status != cudaSuccess) return device.status;
  const int64_t tiles = (activations->columns + kGramTile - 1) / kGramTile;
  const dim3 grid(static_cast<unsigned>(tiles * (tiles + 1) / 2));
  return launch(add_gram, grid, kGramThreads, size_t{2} * kGramStages * kChunkBytes, call->stream,
                Activations<Float32>(*activations), acc, acc_stride);
}
