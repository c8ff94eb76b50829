// Selection by one block: the key and column of a given rank in ascending (key, column) order.
//
// Radix selection from the top, digits of 10 + 10 + 11 bits: fewer bits first, because keys crowd in few exponents and
// counters that many lanes of a warp share would be taken in turns.
#pragma once
#include "block_scan.cuh"
#include "scored_rows.cuh"

namespace trim {
namespace {

struct Digit {
  int shift, bits;
  int counters;  // where they begin
};
constexpr Digit kDigits[] = {{21, 10, 0}, {11, 10, 1 << 10}, {0, 11, 2 << 10}};
constexpr int kCounters = (1 << 10) + (1 << 10) + (1 << 11);

template <int kThreads>
struct SelectShared {
  alignas(16) uint32_t counters[kCounters];
  ScanShared<kThreads> scan;
  uint32_t digit, rank, count, key;
  int32_t column;
};

// What a block selects from is a Row, whose each(visit) calls visit(int32_t column, const uint32_t (&key)[kVector]) for
// all columns of the thread, eight at a time.

template <int kThreads>
__device__ __forceinline__ void clear_counters(SelectShared<kThreads>& shared) {
  Bytes16* counters = reinterpret_cast<Bytes16*>(shared.counters);
  for (int i = threadIdx.x; i < kCounters / 4; i += kThreads) counters[i] = {};
}

// The digit of the key of this rank, the rank among the keys with that digit, and how many have it.
template <int kThreads, int kBins>
__device__ __forceinline__ void find_digit(const uint32_t* counters, uint32_t rank, SelectShared<kThreads>& shared) {
  constexpr int kOwn = (kBins + kThreads - 1) / kThreads;
  const int first = threadIdx.x * kOwn;
  uint32_t sum = 0;
#pragma unroll
  for (int i = 0; i < kOwn; ++i) sum += first + i < kBins ? counters[first + i] : 0u;
  const uint32_t before = sum_before(sum, shared.scan);
  if (before <= rank && rank < before + sum) {  // one thread
    uint32_t left = rank - before;
    int bin = first;
    while (counters[bin] <= left) left -= counters[bin++];
    shared.digit = static_cast<uint32_t>(bin);
    shared.rank = left;
    shared.count = counters[bin];
  }
  __syncthreads();
}

// Counts the digits of the keys from `base` on that share all digits above.
template <int kDigit, class Row>
__device__ __forceinline__ void count_digits(const Row& row, int32_t columns, uint32_t base, uint32_t* counters) {
  constexpr Digit kThis = kDigits[kDigit];
  counters += kThis.counters;
  row.each([&](int32_t column, const uint32_t(&key)[kVector]) {
    if (column >= columns) return;
#pragma unroll
    for (int e = 0; e < kVector; ++e) {
      const uint32_t above = key[e] - base;
      // The first digit of every key counts. That of padding behind the last column comes after all others.
      if (kDigit == 0 || above < 1u << (kThis.shift + kThis.bits)) atomicAdd(&counters[above >> kThis.shift], 1u);
    }
  });
}

// Moves base and rank to the digit found.
template <int kThreads, int kDigit>
__device__ __forceinline__ void find_in(const uint32_t* counters, uint32_t& base, uint32_t& rank,
                                        SelectShared<kThreads>& shared) {
  constexpr Digit kThis = kDigits[kDigit];
  find_digit<kThreads, 1 << kThis.bits>(counters + kThis.counters, rank, shared);
  base += shared.digit << kThis.shift;
  rank = shared.rank;
}

// Both, for a row that is this block's alone.
template <int kThreads, int kDigit, class Row>
__device__ __forceinline__ void count_and_find(const Row& row, int32_t columns, uint32_t& base, uint32_t& rank,
                                               SelectShared<kThreads>& shared) {
  count_digits<kDigit>(row, columns, base, shared.counters);
  __syncthreads();
  find_in<kThreads, kDigit>(shared.counters, base, rank, shared);
}

// The columns of the weights with one key, as keys.
template <class Row>
struct ColumnsOf {
  template <class Visit>
  __device__ __forceinline__ void each(Visit visit) const {
    row.each([&](int32_t column, const uint32_t(&key)[kVector]) {
      uint32_t own[kVector];
#pragma unroll
      for (int e = 0; e < kVector; ++e) own[e] = key[e] == wanted ? static_cast<uint32_t>(column + e) : kPadding;
      visit(column, own);
    });
  }

  const Row& row;
  const uint32_t wanted;
};

// The threshold at this rank, which is less than the number of columns. With `ties` false the column may be 0 instead,
// where every weight with the threshold's key stays. Starts after a barrier that follows clear_counters, ends at one.
template <int kThreads, class Row>
__device__ __forceinline__ Threshold find_threshold(const Row& row, int32_t columns, uint32_t rank, bool ties,
                                                    SelectShared<kThreads>& shared) {
  uint32_t key_found = 0;
  count_and_find<kThreads, 0>(row, columns, key_found, rank, shared);
  count_and_find<kThreads, 1>(row, columns, key_found, rank, shared);
  if (shared.count == 1) {
    // Most rows end here: the one key that begins so is the wanted one.
    row.each([&](int32_t column, const uint32_t(&key)[kVector]) {
#pragma unroll
      for (int e = 0; e < kVector; ++e) {
        if (key[e] - key_found < 1u << kDigits[1].shift) {
          shared.key = key[e];
          shared.column = column + e;
        }
      }
    });
    __syncthreads();
    return {shared.key, shared.column};
  }
  count_and_find<kThreads, 2>(row, columns, key_found, rank, shared);
  if (rank == 0 && !ties) return {key_found, 0};
  clear_counters(shared);
  __syncthreads();
  const ColumnsOf<Row> equal{row, key_found};
  uint32_t column_found = 0;
  if (columns > 1 << kDigits[0].shift) count_and_find<kThreads, 0>(equal, columns, column_found, rank, shared);
  count_and_find<kThreads, 1>(equal, columns, column_found, rank, shared);
  count_and_find<kThreads, 2>(equal, columns, column_found, rank, shared);
  return {key_found, static_cast<int32_t>(column_found)};
}

}  // namespace
}  // namespace trim
