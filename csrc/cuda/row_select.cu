#include "launch.h"
#include "row_select.cuh"

namespace trim {
namespace {

struct Selection {
  const tk_scored& scored;
  const int32_t* prune_count;
  const tk_cuda_selected& out;
  const tk_cuda_call& call;
};

template <class Dtype, int kThreads, int kVectors>
cudaError_t select_narrow(const Selection& s) {
  const auto kernel = select_rows<Dtype, kThreads, kVectors>;
  const dim3 grid(resident_blocks(kernel, kThreads, 0, s.scored.rows));
  return launch(kernel, grid, kThreads, 0, s.call.stream, ScoredMatrix<Dtype>(s.scored), s.prune_count, s.out,
                s.call.bad);
}

template <class Dtype>
cudaError_t select_wide(const Selection& s) {
  const auto kernel = select_wide_rows<Dtype>;
  const size_t row = static_cast<size_t>(s.scored.columns + kVector) * sizeof(typename Dtype::Storage);
  const bool staged = !s.scored.score && fits_shared(kernel, row);
  const size_t shared = staged ? row : 0;
  const dim3 grid(resident_blocks(kernel, kWideThreads, shared, s.scored.rows));
  return launch(kernel, grid, kWideThreads, shared, s.call.stream, ScoredMatrix<Dtype>(s.scored), s.prune_count, s.out,
                s.call.bad, staged);
}

// As few registers as the row needs, and as many threads as leave few idle: rows of 5120, 8192 and 13824 halves fit
// exactly.
template <class Dtype>
cudaError_t select(const Selection& s) {
  const int64_t columns = s.scored.columns;
  if (columns <= RowInRegisters<Dtype, 128, 2>::kColumns) return select_narrow<Dtype, 128, 2>(s);
  if (columns <= RowInRegisters<Dtype, 128, 5>::kColumns) return select_narrow<Dtype, 128, 5>(s);
  if (columns <= RowInRegisters<Dtype, 256, 4>::kColumns) return select_narrow<Dtype, 256, 4>(s);
  constexpr int kMany = sizeof(typename Dtype::Storage) == 2 ? 576 : 448, kFew = kMany == 576 ? 3 : 4;
  if (columns <= RowInRegisters<Dtype, kMany, kFew>::kColumns) return select_narrow<Dtype, kMany, kFew>(s);
  if (columns <= RowInRegisters<Dtype, 512, 5>::kColumns) return select_narrow<Dtype, 512, 5>(s);
  return select_wide<Dtype>(s);
}

template <class Dtype>
cudaError_t prune(const tk_scored& scored, const int32_t* key, const int32_t* column, const tk_cuda_call& call) {
  constexpr int kThreads = 128;
  const dim3 grid = grid_over(scored.rows, scored.columns, kThreads * kVector);
  return launch(prune_below<Dtype>, grid, kThreads, 0, call.stream, ScoredMatrix<Dtype>(scored), key, column);
}

}  // namespace
}  // namespace trim

TRIM_EXPORT int tk_cuda_row_select(const tk_scored* scored, const int32_t* prune_count, const tk_cuda_selected* out,
                                   const tk_cuda_call* call) {
  const trim::OnDevice device(call->device);
  if (device.status != cudaSuccess) return device.status;
  return trim::with_dtype(*scored, [&](auto dtype) {
    return static_cast<int>(trim::select<decltype(dtype)>({*scored, prune_count, *out, *call}));
  });
}

TRIM_EXPORT int tk_cuda_prune_rows(const tk_scored* scored, const int32_t* key, const int32_t* column,
                                   const tk_cuda_call* call) {
  const trim::OnDevice device(call->device);
  if (device.status != cudaSuccess) return device.status;
  return trim::with_dtype(*scored, [&](auto dtype) {
    return static_cast<int>(trim::prune<decltype(dtype)>(*scored, key, column, *call));
  });
}
