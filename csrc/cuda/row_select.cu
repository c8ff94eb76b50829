#include "launch.h"
#include "row_select_split.cuh"

namespace trim {
namespace {

struct Selection {
  const tk_scored& scored;
  const int32_t* prune_count;
  const tk_cuda_selected& out;
  uint32_t* scratch;
  const tk_cuda_call& call;
};

// Whether one block a row would leave most of the device idle.
bool is_split(int64_t rows, int64_t columns) {
  return rows > 0 && columns >= kSplitColumns && 2 * rows <= attribute(cudaDevAttrMultiProcessorCount);
}

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

template <class Dtype, int kPass>
cudaError_t count_split(const Selection& s, dim3 grid, bool ties) {
  return launch(split_count<Dtype, kPass>, grid, kSplitThreads, 0, s.call.stream, ScoredMatrix<Dtype>(s.scored),
                s.prune_count, s.scratch, ties, s.call.bad);
}

template <class Dtype>
cudaError_t select_split(const Selection& s) {
  const int64_t rows = s.scored.rows, pieces = s.scored.columns / (kSplitThreads * kVector);
  const int64_t blocks = resident_blocks(split_count<Dtype, 0>, kSplitThreads, 0, rows * pieces) / rows;
  const dim3 grid(static_cast<unsigned>(blocks), static_cast<unsigned>(rows));
  const bool ties = s.out.key != nullptr;
  cudaError_t status = cudaSuccess;
  for (const auto count : {count_split<Dtype, 0>, count_split<Dtype, 1>, count_split<Dtype, 2>, count_split<Dtype, 3>,
                           count_split<Dtype, 4>, count_split<Dtype, 5>}) {
    if (status == cudaSuccess) status = count(s, grid, ties);
  }
  if (status != cudaSuccess) return status;
  return launch(split_write<Dtype>, grid, kSplitThreads, 0, s.call.stream, ScoredMatrix<Dtype>(s.scored),
                s.prune_count, s.scratch, ties, s.out);
}

// As few registers as the row needs, and as many threads as leave few idle: rows of 5120, 8192 and 13824 halves fit
// exactly.
template <class Dtype>
cudaError_t select(const Selection& s) {
  const int64_t columns = s.scored.columns;
  if (is_split(s.scored.rows, columns)) return select_split<Dtype>(s);
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
                                   uint32_t* scratch, const tk_cuda_call* call) {
  const trim::OnDevice device(call->device);
  if (device.status != cudaSuccess) return device.status;
  return trim::with_dtype(*scored, [&](auto dtype) {
    return static_cast<int>(trim::select<decltype(dtype)>({*scored, prune_count, *out, scratch, *call}));
  });
}

TRIM_EXPORT int64_t tk_cuda_row_select_scratch(int64_t rows, int64_t columns, int device) {
  const trim::OnDevice current(device);
  if (current.status != cudaSuccess || !trim::is_split(rows, columns)) return 0;
  return rows * trim::kSplitCounters;
}

TRIM_EXPORT int tk_cuda_prune_rows(const tk_scored* scored, const int32_t* key, const int32_t* column,
                                   const tk_cuda_call* call) {
  const trim::OnDevice device(call->device);
  if (device.status != cudaSuccess) return device.status;
  return trim::with_dtype(*scored, [&](auto dtype) {
    return static_cast<int>(trim::prune<decltype(dtype)>(*scored, key, column, *call));
  });
}
