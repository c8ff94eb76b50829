// row_select of few rows that are too long for one block each: many blocks count the digits of one row's keys, and what
// they counted meets in global memory. A launch for each digit, and one that writes; each begins by finding the
// digits counted before it.
#pragma once
#include "row_select.cuh"

namespace trim {
namespace {

constexpr int kSplitThreads = 512;
constexpr int64_t kSplitColumns = 65536;
constexpr int kDigitsOfKey = sizeof kDigits / sizeof kDigits[0];
constexpr int kSplitPasses = 2 * kDigitsOfKey;  // digits of the key, then those of the column among all with that key

// Of each row, zeroed before the first launch: of the key's digits, then of the column's.
constexpr int kSplitCounters = 2 * kCounters;

// What one block takes of a row: every gridDim.x-th piece.
template <class Row>
struct PartOfRow {
  template <class Visit>
  __device__ __forceinline__ void each(Visit visit) const {
    constexpr int64_t kPiece = kSplitThreads * kVector;
    for (int64_t first = blockIdx.x * kPiece; first < row.columns; first += gridDim.x * kPiece) {
      const int32_t column = static_cast<int32_t>(first) + static_cast<int32_t>(threadIdx.x) * kVector;
      uint32_t key[kVector];
      row.keys(column, key);
      visit(column, key);
    }
  }

  const Row& row;
};

// What the passes so far have found: the digits of the threshold that are known, and its rank among those that share
// them. `settled` where no further pass is needed.
struct Found {
  uint32_t key, column, rank;
  bool settled;
  Threshold threshold;
};

template <int kPasses>
__device__ __forceinline__ Found found_by(const uint32_t* counters, int32_t count, int32_t columns, bool ties,
                                          SelectShared<kSplitThreads>& shared) {
  Found found{0, 0, static_cast<uint32_t>(max(count, 0)), false, {static_cast<uint32_t>(kNothingStays), columns}};
  if (count >= columns) {
    found.settled = true;
    return found;
  }
  if constexpr (kPasses > 0) find_in<kSplitThreads, 0>(counters, found.key, found.rank, shared);
  if constexpr (kPasses > 1) find_in<kSplitThreads, 1>(counters, found.key, found.rank, shared);
  if constexpr (kPasses > 2) {
    find_in<kSplitThreads, 2>(counters, found.key, found.rank, shared);
    found.settled = found.rank == 0 && !ties;
  }
  if (!found.settled) {
    const uint32_t* const of_column = counters + kCounters;
    if constexpr (kPasses > 3) find_in<kSplitThreads, 0>(of_column, found.column, found.rank, shared);
    if constexpr (kPasses > 4) find_in<kSplitThreads, 1>(of_column, found.column, found.rank, shared);
    if constexpr (kPasses > 5) find_in<kSplitThreads, 2>(of_column, found.column, found.rank, shared);
  }
  found.threshold = {found.key, static_cast<int32_t>(found.column)};
  return found;
}

// One digit of a row's keys, or of the columns that have the key found.
template <class Dtype, int kPass>
__global__ void __launch_bounds__(kSplitThreads)
    split_count(ScoredMatrix<Dtype> matrix, const int32_t* prune_count, uint32_t* counters, bool ties, int32_t* bad) {
  __shared__ SelectShared<kSplitThreads> shared;
  constexpr int kDigit = kPass % kDigitsOfKey, kFirst = kDigits[kDigit].counters, kBins = 1 << kDigits[kDigit].bits;
  const int64_t index = blockIdx.y;
  const int32_t columns = matrix.columns, count = prune_count[index];
  const ScoredRow<Dtype> scored(matrix, index);
  const PartOfRow<ScoredRow<Dtype>> part{scored};
  uint32_t* const of_row = counters + index * kSplitCounters;
  if (kPass == 0 && bad) {
    bool found = count < 0 || count > columns;
    part.each([&](int32_t column, const uint32_t(&key)[kVector]) { found |= scored.is_bad(column, key); });
    if (found) atomicOr(bad, 1);
  }
  const Found found = found_by<kPass>(of_row, count, columns, ties, shared);
  if (found.settled) return;
  clear_counters(shared);
  __syncthreads();
  if constexpr (kPass < kDigitsOfKey) {
    count_digits<kDigit>(part, columns, found.key, shared.counters);
  } else {
    const ColumnsOf<PartOfRow<ScoredRow<Dtype>>> equal{part, found.key};
    count_digits<kDigit>(equal, columns, found.column, shared.counters);
  }
  __syncthreads();
  uint32_t* const to = of_row + kPass / kDigitsOfKey * kCounters;
  for (int bin = kFirst + threadIdx.x; bin < kFirst + kBins; bin += kSplitThreads) {
    const uint32_t own = shared.counters[bin];
    if (own) atomicAdd(&to[bin], own);
  }
}

template <class Dtype>
__global__ void __launch_bounds__(kSplitThreads)
    split_write(ScoredMatrix<Dtype> matrix, const int32_t* prune_count, const uint32_t* counters, bool ties,
                tk_cuda_selected out) {
  __shared__ SelectShared<kSplitThreads> shared;
  const int64_t index = blockIdx.y;
  const ScoredRow<Dtype> scored(matrix, index);
  const Threshold threshold =
      found_by<kSplitPasses>(counters + index * kSplitCounters, prune_count[index], matrix.columns, ties, shared)
          .threshold;
  write_row(matrix, scored, PartOfRow<ScoredRow<Dtype>>{scored}, index, threshold, out);
}

}  // namespace
}  // namespace trim
