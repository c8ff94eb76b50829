#include <type_traits>

#include "float_product.cuh"
#include "launch.h"
#include "row_products.h"

namespace trim {
namespace {

constexpr int kHopper = 9;
constexpr int kNarrow = 128, kWide = 256;  // tokens of a tile
constexpr int kCombineThreads = 128;

bool on_tensor_cores(const tk_scored& scored, int32_t inputs_dtype) {
  return scored.dtype != TK_FLOAT32 && inputs_dtype == scored.dtype;
}

// One fragment of the inputs serves 16 rows only: wider tiles would gain little, and take registers that there are not.
template <class Dtype>
cudaError_t enqueue_warp_products(const tk_scored& scored, const void* inputs, const ProductCall& call, void* stream) {
  constexpr int kStages = 2;  // with the joined sums what GPUs of 99 KB have
  const ScoredMatrix<Dtype> matrix(scored);
  using Product = WarpProduct<Dtype, kNarrow>;
  const auto kernel = matrix.whole() ? masked_product<Dtype, Product, kNarrow, kStages, true>
                                     : masked_product<Dtype, Product, kNarrow, kStages, false>;
  const dim3 grid = product_grid(call, call.padded_tokens / kNarrow, scored.rows, kProductRows);
  return launch(kernel, grid, kProductThreads, product_shared(kNarrow, kStages), stream, matrix,
                static_cast<const typename Dtype::Storage*>(inputs), call);
}

// Wide tiles mask each weight for more tokens; narrow ones are more, where wide ones would not fill the GPU.
bool wants_wide_tiles(const ProductCall& call, int64_t rows) {
  if (call.padded_tokens % kWide != 0) return false;
  const dim3 grid = product_grid(call, call.padded_tokens / kWide, rows, kProductRows);
  return static_cast<int64_t>(grid.x) * grid.y >= attribute(cudaDevAttrMultiProcessorCount);
}

// One thread a row and chain.
__global__ void __launch_bounds__(kCombineThreads)
    combine(const double* partial, int64_t tiles, int64_t size, bool maximum, double* statistics, int32_t* bad) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kCombineThreads + threadIdx.x;
  if (i >= size) return;
  double first = 0, second = 0;
  for (int64_t tile = 0; tile < tiles; ++tile) {
    first += partial[tile * 2 * size + i];
    const double other = partial[(tile * 2 + 1) * size + i];
    second = maximum ? fmax(second, other) : second + other;
  }
  // Infinity and NaN alike; a maximum would let a NaN pass, the sum beside it does not.
  if (bad && !(first - first == 0 && second - second == 0)) atomicOr(bad, 2);
  statistics[i] = first;
  statistics[size + i] = second;
}

}  // namespace

cudaError_t enqueue_products(const tk_scored& scored, const tk_cuda_inputs& inputs, ProductCall call, void* stream,
                             int64_t* tiles) {
  call.padded_columns = padded(scored.columns, kColumnPadding);
  call.padded_tokens = padded(inputs.tokens, kTokenPadding);
  if (!inputs.transposed) {
    *tiles = call.padded_tokens / kFloatTile;
    const dim3 grid = product_grid(call, *tiles, scored.rows, kFloatTile);
    return with_dtype(scored, [&](auto dtype) {
      using Dtype = decltype(dtype);
      return launch(float_product<Dtype>, grid, kFloatThreads, 0, stream, ScoredMatrix<Dtype>(scored),
                    static_cast<const float*>(inputs.values), call);
    });
  }
  if (attribute(cudaDevAttrComputeCapabilityMajor) == kHopper) {
    const bool wide = wants_wide_tiles(call, scored.rows);
    *tiles = call.padded_tokens / (wide ? kWide : kNarrow);
    return enqueue_hopper_products(scored, inputs.values, call, wide, stream);
  }
  *tiles = call.padded_tokens / kNarrow;
  if (scored.dtype == TK_BFLOAT16) return enqueue_warp_products<BFloat16>(scored, inputs.values, call, stream);
  return enqueue_warp_products<Float16>(scored, inputs.values, call, stream);
}

cudaError_t enqueue_combine(const ProductCall& call, int64_t tiles, int64_t rows, double* statistics, int32_t* bad,
                            void* stream) {
  const int64_t size = call.chains * rows;
  const dim3 grid(static_cast<unsigned>((size + kCombineThreads - 1) / kCombineThreads));
  return launch(combine, grid, kCombineThreads, 0, stream, call.partial, tiles, size, call.key == nullptr, statistics,
                bad);
}

}  // namespace trim

TRIM_EXPORT int64_t tk_cuda_padded_tokens(int64_t tokens) { return trim::padded(tokens, trim::kTokenPadding); }

TRIM_EXPORT int64_t tk_cuda_quality_partials(int64_t tokens) {
  return 2 * (trim::padded(tokens, trim::kTokenPadding) / trim::kFloatTile);
}

TRIM_EXPORT int64_t tk_cuda_staged_bytes(const tk_scored* scored, int dtype, int64_t tokens) {
  return trim::padded(scored->columns, trim::kColumnPadding) * trim::padded(tokens, trim::kTokenPadding) *
         (trim::on_tensor_cores(*scored, dtype) ? 2 : 4);
}

TRIM_EXPORT int tk_cuda_stage_inputs(const tk_scored* scored, const void* inputs, int dtype, int64_t tokens,
                                     tk_cuda_inputs* staged, const tk_cuda_call* call) {
  const trim::OnDevice device(call->device);
  if (device.status != cudaSuccess) return device.status;
  staged->tokens = tokens;
  staged->transposed = trim::on_tensor_cores(*scored, dtype);
  return trim::with_dtype(dtype, [&](auto type) {
    using Dtype = decltype(type);
    const trim::InputMatrix<Dtype> matrix{static_cast<const typename Dtype::Storage*>(inputs), scored->columns, tokens,
                                          trim::padded(scored->columns, trim::kColumnPadding),
                                          trim::padded(tokens, trim::kTokenPadding)};
    if constexpr (!std::is_same<Dtype, trim::Float32>::value) {
      if (staged->transposed) {
        const dim3 grid(static_cast<unsigned>(matrix.padded_columns / trim::kStageTile),
                        static_cast<unsigned>(matrix.padded_tokens / trim::kStageTile));
        auto* const out = static_cast<typename Dtype::Storage*>(staged->values);
        return static_cast<int>(trim::launch(trim::stage_transposed<Dtype>, grid, trim::kStageThreads, 0, call->stream,
                                             matrix, out, call->bad));
      }
    }
    const int64_t blocks = matrix.padded_columns * matrix.padded_tokens / trim::kStageThreads;
    const dim3 grid(trim::resident_blocks(trim::stage_widened<Dtype>, trim::kStageThreads, 0, blocks));
    return static_cast<int>(trim::launch(trim::stage_widened<Dtype>, grid, trim::kStageThreads, 0, call->stream, matrix,
                                         static_cast<float*>(staged->values), call->bad));
  });
}

TRIM_EXPORT int tk_cuda_row_products(const tk_scored* scored, const int32_t* key, const int32_t* column,
                                     const tk_cuda_inputs* inputs, float* dense, double* partial, double* statistics,
                                     const tk_cuda_call* call) {
  const trim::OnDevice device(call->device);
  if (device.status != cudaSuccess) return device.status;
  const trim::ProductCall products{key, column, dense, partial, 1, 0, 0};
  int64_t tiles = 0;
  const cudaError_t status = trim::enqueue_products(*scored, *inputs, products, call->stream, &tiles);
  if (status != cudaSuccess) return status;
  return trim::enqueue_combine(products, tiles, scored->rows, statistics, call->bad, call->stream);
}
