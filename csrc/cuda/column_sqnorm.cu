#include "column_sqnorm.cuh"
#include "launch.h"

namespace trim {
namespace {

int64_t strips(int64_t columns) { return (columns + kStrip - 1) / kStrip; }

template <class Accumulator>
cudaError_t add_up(const tk_activations& activations, void* acc, const double* partial, int64_t splits, void* stream) {
  const dim3 grid(static_cast<unsigned>((activations.columns + kWarp - 1) / kWarp));
  return launch(add_partial_sums<Accumulator>, grid, kSquareThreads, 0, stream, partial, splits, activations.columns,
                static_cast<Accumulator*>(acc));
}

cudaError_t square(const tk_activations& activations, double* partial, int64_t splits, void* stream) {
  const dim3 grid(static_cast<unsigned>(strips(activations.columns)), static_cast<unsigned>(splits));
  return with_dtype(activations.dtype, [&](auto dtype) {
    using Dtype = decltype(dtype);
    return launch(sum_squares<Dtype>, grid, kSquareThreads, 0, stream, Activations<Dtype>(activations), partial);
  });
}

}  // namespace
}  // namespace trim

TRIM_EXPORT int tk_cuda_column_sqnorm(const tk_activations* activations, void* acc, int acc_is_double, double* partial,
                                      const tk_cuda_call* call) {
  const trim::OnDevice device(call->device);
  if (device.status != cudaSuccess) return device.status;
  const int64_t splits = tk_cuda_column_sqnorm_splits(activations->tokens, activations->columns);
  const cudaError_t status = trim::square(*activations, partial, splits, call->stream);
  if (status != cudaSuccess) return status;
  return acc_is_double ? trim::add_up<double>(*activations, acc, partial, splits, call->stream)
                       : trim::add_up<float>(*activations, acc, partial, splits, call->stream);
}

// Enough blocks to fill a large GPU twice, of 128 tokens at least. The same on every device, and so are the sums.
TRIM_EXPORT int64_t tk_cuda_column_sqnorm_splits(int64_t tokens, int64_t columns) {
  constexpr int64_t kBlocks = 132 * 8 * 2, kFewestTokens = 128;
  const int64_t most = std::max<int64_t>(1, (tokens + kFewestTokens - 1) / kFewestTokens);
  return std::clamp<int64_t>(kBlocks / trim::strips(columns), 1, most);
}
