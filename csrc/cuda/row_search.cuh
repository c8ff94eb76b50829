// TRIM's search on the device: the shares of every learning rate, a chain, side by side; the CUDA side of batched.py.
#pragma once
#include "block_reduce.cuh"
#include "block_select.cuh"
#include "row_quality.h"

namespace trim {
namespace {

constexpr int kSearchThreads = 512;
constexpr int kLookupThreads = 128;
constexpr int64_t kShortColumns = 65536;  // up to here a column of an order takes 2 bytes

// What the search needs to know; `search.rates` lies on the device.
struct SearchProblem {
  tk_search search;
  int64_t rows, columns, tokens, chains;
};

// Memory of the search; [chains, rows] but where said otherwise.
struct SearchState {
  double *shares, *row_quality;
  double* best_quality;     // [chains]
  const double* dense;      // [2, rows]: |y|^2, max y^2
  double* partial;          // [tiles, 2, chains, rows]: <y, e>, |e|^2; of the first evaluation [tiles, 2, 1, rows]
  int32_t *counts, *key, *column;
  int32_t* best;            // the counts of each chain's best candidate
  int32_t* uniform;         // [rows]: the counts of equal shares
  double* trace;            // [1 + chains, 1 + iterations]
};

// calls visit(row) for this thread's rows
template <class Visit>
__device__ __forceinline__ void for_rows(int64_t rows, Visit visit) {
  for (int64_t row = threadIdx.x; row < rows; row += kSearchThreads) visit(row);
}

template <class Value>
__device__ __forceinline__ double sum_of_rows(int64_t rows, Value value) {
  double sum = 0;
  for_rows(rows, [&](int64_t row) { sum += value(row); });
  return reduce_block<kSearchThreads>(sum, Sum{});
}

// Rows in the order in which they get one more weight to lose: largest remainder first, then by row.
struct ByRemainder {
  template <class Visit>
  __device__ __forceinline__ void each(Visit visit) const {
    for (int64_t first = 0; first < rows; first += kSearchThreads * kVector) {
      const int64_t row = first + static_cast<int64_t>(threadIdx.x) * kVector;
      uint32_t own[kVector];
#pragma unroll
      for (int e = 0; e < kVector; ++e) own[e] = row + e < rows ? key(row + e) : kPadding;
      visit(static_cast<int32_t>(row), own);
    }
  }

  __device__ __forceinline__ uint32_t key(int64_t row) const {
    const double wanted = shares[row] * columns, base = fmin(floor(wanted), cap);
    if (base >= cap) return static_cast<uint32_t>(kNothingStays);
    return bits_of(1.0f) - bits_of(static_cast<float>(wanted - base));
  }

  const double* shares;
  int64_t rows;
  double columns, cap;
};

// Shares projected onto {0 <= share <= cap, mean = target}, counts by largest remainder; see rounding.py.
struct ExactCounts {
  __device__ ExactCounts(const SearchProblem& problem)
      : rows(problem.rows),
        total(problem.search.total),
        columns(static_cast<double>(problem.columns)),
        cap(static_cast<double>(problem.search.cap)) {}

  __device__ double uniform() const { return static_cast<double>(total) / (static_cast<double>(rows) * columns); }

  // clip(shares + t) for the t that makes the sum right. The sum rises with t, in straight pieces: Newton steps, kept
  // between bounds that halve, end on the right piece, where one step is exact.
  __device__ void confine(double* shares) const {
    const double limit = cap / columns, target = static_cast<double>(total) / columns;
    for_rows(rows, [&](int64_t row) { shares[row] = fmin(fmax(shares[row], 0.0), limit); });
    double low = -limit, high = limit, shift = 0;
    for (int step = 0; step < 100; ++step) {
      double sum = 0, moving = 0;
      for_rows(rows, [&](int64_t row) {
        const double moved = shares[row] + shift;
        sum += fmin(fmax(moved, 0.0), limit);
        moving += moved > 0 && moved < limit;
      });
      sum = reduce_block<kSearchThreads>(sum, Sum{});
      moving = reduce_block<kSearchThreads>(moving, Sum{});
      const double missing = target - sum;
      if (fabs(missing) <= 1e-12 * target) break;
      (missing > 0 ? low : high) = shift;
      const double newton = moving > 0 ? shift + missing / moving : high + 1;
      shift = newton > low && newton < high ? newton : (low + high) / 2;
    }
    for_rows(rows, [&](int64_t row) { shares[row] = fmin(fmax(shares[row] + shift, 0.0), limit); });
  }

  __device__ void counts(const double* shares, int32_t* out, SelectShared<kSearchThreads>& shared) const {
    const ByRemainder order{shares, rows, columns, cap};
    __syncthreads();  // the shares of all threads are written
    const double floors = sum_of_rows(rows, [&](int64_t row) { return fmin(floor(shares[row] * columns), cap); });
    // As the shares are projected, fewer are missing than rows have room.
    const int64_t missing = total - static_cast<int64_t>(floors);
    clear_counters(shared);
    __syncthreads();
    Threshold last{static_cast<uint32_t>(kNothingStays), static_cast<int32_t>(rows)};
    if (missing < rows) {
      const uint32_t rank = static_cast<uint32_t>(missing > 0 ? missing : 0);
      last = find_threshold(order, static_cast<int32_t>(rows), rank, true, shared);
    }
    for_rows(rows, [&](int64_t row) {
      const bool more = !last.keeps(order.key(row), static_cast<int32_t>(row));
      out[row] = static_cast<int32_t>(fmin(floor(shares[row] * columns), cap)) + more;
    });
  }

  __device__ void finish(double*, const double* shares, int32_t* out, SelectShared<kSearchThreads>& shared) const {
    counts(shares, out, shared);
  }

  __device__ static double narrow(double share) { return share; }

  int64_t rows, total;
  double columns, cap;
};

// TRIM's code: float32 shares, clipped and then recentred, which may leave the limits again; counts truncated.
struct FloorCounts {
  __device__ FloorCounts(const SearchProblem& problem)
      : rows(problem.rows),
        columns(static_cast<float>(problem.columns)),
        sparsity(static_cast<float>(problem.search.sparsity)),
        max_sparsity(static_cast<float>(problem.search.max_sparsity)) {}

  __device__ double uniform() const { return sparsity; }

  __device__ void confine(double* shares) const {
    const double sum = sum_of_rows(rows, [&](int64_t row) {
      const float clipped = fminf(fmaxf(static_cast<float>(shares[row]), 0.0f), max_sparsity);
      shares[row] = clipped;
      return static_cast<double>(clipped);
    });
    const float mean = static_cast<float>(sum / static_cast<double>(rows));
    for_rows(rows, [&](int64_t row) { shares[row] = static_cast<float>(shares[row]) - mean + sparsity; });
  }

  __device__ void counts(const double* shares, int32_t* out, SelectShared<kSearchThreads>&) const {
    for_rows(rows, [&](int64_t row) {
      const float wanted = columns * static_cast<float>(shares[row]);
      out[row] = static_cast<int32_t>(fminf(fmaxf(wanted, 0.0f), columns));
    });
  }

  // The authors' code recentres the best shares once more; `scratch` keeps the search's own as they are.
  __device__ void finish(double* scratch, const double* shares, int32_t* out,
                         SelectShared<kSearchThreads>& shared) const {
    for_rows(rows, [&](int64_t row) { scratch[row] = shares[row]; });
    confine(scratch);
    counts(scratch, out, shared);
  }

  __device__ static double narrow(double share) { return static_cast<float>(share); }

  int64_t rows;
  float columns, sparsity, max_sparsity;
};

// Equal shares for every chain; their counts for the first evaluation, which all chains have in common.
template <class Rounding>
__global__ void __launch_bounds__(kSearchThreads, 1) begin_search(SearchProblem problem, SearchState state) {
  __shared__ SelectShared<kSearchThreads> shared;
  const Rounding rounding(problem);
  double* const shares = state.shares + blockIdx.x * problem.rows;
  for_rows(problem.rows, [&](int64_t row) { shares[row] = rounding.uniform(); });
  if (blockIdx.x != 0) return;
  rounding.counts(shares, state.counts, shared);
  __syncthreads();
  rounding.finish(state.row_quality, shares, state.uniform, shared);
}

// The thresholds that the prune counts mean.
template <class Dtype, class Column>
__global__ void __launch_bounds__(kLookupThreads)
    look_thresholds_up(ScoredMatrix<Dtype> matrix, const Column* order, SearchState state) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kLookupThreads + threadIdx.x;
  if (row >= matrix.rows) return;
  const int64_t place = blockIdx.y * matrix.rows + row;
  const int32_t count = state.counts[place];
  Threshold threshold{static_cast<uint32_t>(kNothingStays), matrix.columns};
  if (count < matrix.columns) {
    const int32_t column = static_cast<int32_t>(order[row * matrix.columns + count]);
    threshold = {ScoredRow<Dtype>(matrix, row).key(column), column};
  }
  state.key[place] = static_cast<int32_t>(threshold.key);
  state.column[place] = threshold.column;
}

// Judges the candidates of one round, a block a chain, and makes those of the next. Round 0 is the evaluation of equal
// shares, whose statistics have one chain.
template <class Rounding>
__global__ void __launch_bounds__(kSearchThreads, 1)
    search_step(SearchProblem problem, SearchState state, int64_t tiles, int64_t round) {
  __shared__ SelectShared<kSearchThreads> shared;
  const int64_t chain = blockIdx.x, rows = problem.rows, width = 1 + problem.search.iterations;
  const int64_t evaluated = round == 0 ? 1 : problem.chains, of = round == 0 ? 0 : chain;
  double* const shares = state.shares + chain * rows;
  double* const row_quality_of = state.row_quality + chain * rows;

  tk_row_metric averaged;
  const bool is_mean = is_mean_over_rows(problem.search.layer_metric, &averaged);
  Statistics sums = {};
  double mean = 0, low = INFINITY, high = -INFINITY;
  for_rows(rows, [&](int64_t row) {
    Statistics s{state.dense[row], 0, 0, state.dense[rows + row]};
    for (int64_t tile = 0; tile < tiles; ++tile) {
      s.cross += state.partial[((tile * 2 + 0) * evaluated + of) * rows + row];
      s.dropped_sq += state.partial[((tile * 2 + 1) * evaluated + of) * rows + row];
    }
    sums.dense_sq += s.dense_sq;
    sums.dropped_sq += s.dropped_sq;
    sums.cross += s.cross;
    sums.peak = fmax(sums.peak, s.peak);
    if (is_mean) mean += row_quality(averaged, s, problem.tokens);
    const double quality = row_quality(problem.search.row_metric, s, problem.tokens);
    row_quality_of[row] = quality;
    low = fmin(low, quality);
    high = fmax(high, quality);
  });
  sums.dense_sq = reduce_block<kSearchThreads>(sums.dense_sq, Sum{});
  sums.dropped_sq = reduce_block<kSearchThreads>(sums.dropped_sq, Sum{});
  sums.cross = reduce_block<kSearchThreads>(sums.cross, Sum{});
  sums.peak = reduce_block<kSearchThreads>(sums.peak, Largest{});
  if (is_mean) mean = reduce_block<kSearchThreads>(mean, Sum{}) / static_cast<double>(rows);
  const double size = static_cast<double>(rows) * static_cast<double>(problem.tokens);
  double quality = is_mean ? mean : layer_quality(problem.search.layer_metric, sums, size);
  // Outputs beyond float32 must not look like a quality.
  if (!(sums.dropped_sq - sums.dropped_sq == 0 && sums.dense_sq - sums.dense_sq == 0)) quality = NAN;

  const bool better = round > 0 && quality > state.best_quality[chain];
  __syncthreads();
  if (threadIdx.x == 0) {
    if (round == 0 || better) state.best_quality[chain] = quality;
    state.trace[(1 + chain) * width + round] = quality;
    if (round == 0 && chain == 0) state.trace[0] = quality;
  }
  const Rounding rounding(problem);
  // The chain's own part of the statistics has been read.
  if (better) rounding.finish(state.partial + chain * rows, shares, state.best + chain * rows, shared);
  if (round == problem.search.iterations) return;

  // shares += 2 rate (d - mean d), d = (quality - low) / (high - low + 1e-6)
  low = reduce_block<kSearchThreads>(low, Smallest{});
  high = reduce_block<kSearchThreads>(high, Largest{});
  const double range = high - low + 1e-6, rate = problem.search.rates[chain];
  const auto change = [&](int64_t row) { return (row_quality_of[row] - low) / range * (2 * rate); };
  const double mean_change = sum_of_rows(rows, change) / static_cast<double>(rows);
  for_rows(rows, [&](int64_t row) { shares[row] = Rounding::narrow(shares[row] + (change(row) - mean_change)); });
  rounding.confine(shares);
  rounding.counts(shares, state.counts + chain * rows, shared);
}

}  // namespace
}  // namespace trim
