// row_quality: dense and dropped products of four rows side by side, then their statistics in float64.
#include "kernels.h"
#include "products.h"

namespace trim {
namespace {

constexpr int kPairs = kRows / 2;

struct Job {
  const tk_scored& scored;
  const int32_t* prune_count;
  const TiledInputs& inputs;
  int64_t tokens;
  double* statistics;
};

// Writes a row's weights and their dropped part into the columns of the interleaved operand.
template <class Dtype>
void split_row(const tk_scored& scored, int64_t row, const uint32_t* keys, Threshold threshold, float* dense,
               float* dropped) {
  const auto* weight = weight_row<Dtype>(scored, row);
  for (int64_t j = 0; j < scored.columns; ++j) {
    const float value = Dtype::widen(weight[j]);
    dense[j * kRows] = value;
    dropped[j * kRows] = threshold.keeps(keys[j], static_cast<int32_t>(j)) ? 0.0f : value;
  }
}

// False if an output is beyond float32.
bool write_statistics(const Job& job, int64_t row, const float* dense, const float* dropped) {
  double dense_sq = 0, dropped_sq = 0, cross = 0, peak = 0;
  for (int64_t t = 0; t < job.tokens; ++t) {
    const double y = dense[t], e = dropped[t];
    dense_sq += y * y;
    dropped_sq += e * e;
    cross += y * e;
    peak = y * y > peak ? y * y : peak;
  }
  const double values[4] = {dense_sq, dropped_sq, cross, peak};
  for (int i = 0; i < 4; ++i) job.statistics[i * job.scored.rows + row] = values[i];
  return is_finite(dense_sq) && is_finite(dropped_sq);
}

void work(const void* context, RowQueue& queue) {
  const Job& job = *static_cast<const Job*>(context);
  const tk_scored& scored = job.scored;
  const int64_t stride = job.inputs.padded_tokens();
  Buffer<uint32_t> keys(scored.columns);
  Buffer<float> weights(scored.columns * kRows), outputs(kRows * stride);
  RowSelect select(scored.columns);
  zero(weights, scored.columns * kRows);
  for (int64_t begin, end; queue.take(&begin, &end);) {
    for (int64_t row = begin; row < end; ++row) {
      if (!row_keys(scored, row, keys)) return queue.fail(TK_BAD_VALUE);
      const Threshold threshold = select(keys, job.prune_count[row]);
      float* dense = weights + (row - begin);
      with_dtype(scored, [&](auto dtype) {
        split_row<decltype(dtype)>(scored, row, keys, threshold, dense, dense + kPairs);
      });
    }
    multiply_rows(weights, scored.columns, job.inputs, outputs);
    for (int64_t row = begin; row < end; ++row) {
      const float* dense = outputs + (row - begin) * stride;
      if (!write_statistics(job, row, dense, dense + kPairs * stride)) return queue.fail(TK_OVERFLOW);
    }
  }
}

}  // namespace

namespace TRIM_ISA {

int row_quality(const tk_scored* scored, const int32_t* prune_count, const float* inputs, int64_t tokens,
                double* statistics, int threads) {
  if (!all_finite(inputs, scored->columns * tokens)) return TK_BAD_VALUE;
  const TiledInputs tiled(inputs, scored->columns, tokens);
  const Job job{*scored, prune_count, tiled, tokens, statistics};
  return on_threads(scored->rows, kPairs, threads, work, &job);
}

}  // namespace TRIM_ISA
}  // namespace trim
