#include <type_traits>

#include "gram.cuh"
#include "launch.h"

namespace trim {
namespace {

template <class Dtype>
cudaError_t gram(const tk_activations& activations, float* acc, int64_t acc_stride, void* stream) {
  using Tile = std::conditional_t<std::is_same<Dtype, Float32>::value, FloatTile, TensorTile<Dtype>>;
  const int64_t tiles = (activations.columns + kGramTile - 1) / kGramTile;
  const dim3 grid(static_cast<unsigned>(tiles * (tiles + 1) / 2));
  return launch(add_gram<Dtype, Tile>, grid, kGramThreads, size_t{2} * kGramStages * kChunkBytes<Tile>, stream,
                Activations<Dtype>(activations), acc, acc_stride);
}

}  // namespace
}  // namespace trim

TRIM_EXPORT int tk_cuda_gram(const tk_activations* activations, float* acc, int64_t acc_stride,
                             const tk_cuda_call* call) {
  const trim::OnDevice device(call->device);
  if (device.status != cudaSuccess) return device.status;
  return trim::with_dtype(activations->dtype, [&](auto dtype) {
    return static_cast<int>(trim::gram<decltype(dtype)>(*activations, acc, acc_stride, call->stream));
  });
}
