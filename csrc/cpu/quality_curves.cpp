// quality_curves: what each row's output is worth at every prune count, in about one dense product.
//
// A row's weights are taken from the most to the least important while the running output k stays in registers; after
// each one <y, k> and |k|^2 belong to the next lower count. Starting from the important end keeps k accurate where
// little is left of y.
#include "kernels.h"
#include "products.h"
#include "row_sort.h"

namespace trim {
namespace {

struct Job {
  const tk_scored& scored;
  const PackedInputs& inputs;
  int64_t tokens;
  float *kept_dense, *kept_sq;
  double *dense_sq, *peak;
};

// A row in descending order of importance, padded with zero weights to whole vectors of columns.
struct Walk {
  explicit Walk(int64_t columns)
      : size((columns + kLanes - 1) / kLanes * kLanes), column(size), weight(size), kept_dense(size), kept_sq(size) {
    std::memset(column, 0, sizeof(int32_t) * static_cast<size_t>(size));
    std::memset(weight, 0, sizeof(float) * static_cast<size_t>(size));
  }

  const int64_t size;
  Buffer<int32_t> column;
  Buffer<float> weight;
  Buffer<float> kept_dense, kept_sq;  // [i]: with the i + 1 most important weights kept
};

// Adds one tile of tokens to the walk's curves.
void walk_tile(const float* inputs, const float* dense, Walk& walk) {
  constexpr int kVecs = kTile / kLanes;
  Vec y[kVecs], kept[kVecs] = {};
  std::memcpy(y, dense, sizeof y);
  for (int64_t first = 0; first < walk.size; first += kLanes) {
    Vec dots[kLanes], squares[kLanes];
    for (int i = 0; i < kLanes; ++i) {
      const Vec* x = reinterpret_cast<const Vec*>(inputs + int64_t(walk.column[first + i]) * kTile);
      const float weight = walk.weight[first + i];
      for (int v = 0; v < kVecs; ++v) kept[v] += weight * x[v];
      Vec dot[2] = {y[0] * kept[0], y[1] * kept[1]}, square[2] = {kept[0] * kept[0], kept[1] * kept[1]};
      for (int v = 2; v < kVecs; ++v) {
        dot[v % 2] += y[v] * kept[v];
        square[v % 2] += kept[v] * kept[v];
      }
      dots[i] = dot[0] + dot[1];
      squares[i] = square[0] + square[1];
    }
    *reinterpret_cast<Vec*>(walk.kept_dense + first) += sum_each(dots);
    *reinterpret_cast<Vec*>(walk.kept_sq + first) += sum_each(squares);
  }
}

template <class Dtype>
void load_walk(const tk_scored& scored, int64_t row, const uint64_t* sorted, Walk& walk) {
  const auto* weight = weight_row<Dtype>(scored, row);
  for (int64_t i = 0; i < scored.columns; ++i) {
    const int32_t column = static_cast<int32_t>(sorted[scored.columns - 1 - i]);
    walk.column[i] = column;
    walk.weight[i] = Dtype::widen(weight[column]);
  }
}

void write_row(const Job& job, int64_t row, const float* dense, const Walk& walk) {
  double dense_sq = 0, peak = 0;
  for (int64_t t = 0; t < job.tokens; ++t) {
    const double y = dense[t];
    dense_sq += y * y;
    peak = y * y > peak ? y * y : peak;
  }
  job.dense_sq[row] = dense_sq;
  job.peak[row] = peak;
  const int64_t columns = job.scored.columns;
  float* kept_dense = job.kept_dense + row * (columns + 1);
  float* kept_sq = job.kept_sq + row * (columns + 1);
  for (int64_t count = 0; count < columns; ++count) {
    kept_dense[count] = walk.kept_dense[columns - 1 - count];
    kept_sq[count] = walk.kept_sq[columns - 1 - count];
  }
  kept_dense[columns] = kept_sq[columns] = 0;
}

void work(const void* context, RowQueue& queue) {
  const Job& job = *static_cast<const Job*>(context);
  const tk_scored& scored = job.scored;
  const int64_t stride = job.inputs.padded_tokens(), columns = scored.columns;
  Buffer<uint32_t> keys(columns);
  Buffer<float> weights(columns * kRows), outputs(kRows * stride);
  RowSort sort(columns);
  Walk walk(columns);
  zero(weights, columns * kRows);
  for (int64_t begin, end; queue.take(&begin, &end);) {
    for (int64_t row = begin; row < end; ++row) {
      with_dtype(scored, [&](auto dtype) {
        using Dtype = decltype(dtype);
        const auto* weight = weight_row<Dtype>(scored, row);
        for (int64_t j = 0; j < columns; ++j) weights[j * kRows + (row - begin)] = Dtype::widen(weight[j]);
      });
    }
    multiply_rows(weights, columns, job.inputs, outputs);
    for (int64_t row = begin; row < end; ++row) {
      if (!row_keys(scored, row, keys)) return queue.fail(TK_BAD_VALUE);
      const uint64_t* sorted = sort(keys);
      with_dtype(scored, [&](auto dtype) { load_walk<decltype(dtype)>(scored, row, sorted, walk); });
      zero(walk.kept_dense, walk.size);
      zero(walk.kept_sq, walk.size);
      const float* dense = outputs + (row - begin) * stride;
      for (int64_t tile = 0; tile < job.inputs.tiles(); ++tile) {
        walk_tile(job.inputs.tile(tile), dense + tile * kTile, walk);
      }
      write_row(job, row, dense, walk);
    }
  }
}

}  // namespace

namespace TRIM_ISA {

int quality_curves(const tk_scored* scored, const float* inputs, int64_t tokens, float* kept_dense, float* kept_sq,
                   double* dense_sq, double* peak, int threads) {
  if (!all_finite(inputs, scored->columns * tokens)) return TK_BAD_VALUE;
  const PackedInputs packed(inputs, scored->columns, tokens);
  const Job job{*scored, packed, tokens, kept_dense, kept_sq, dense_sq, peak};
  return on_threads(scored->rows, kRows, threads, work, &job);
}

}  // namespace TRIM_ISA
}  // namespace trim
