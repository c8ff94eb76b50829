// row_order: a stable radix sort of each row by one block, from the lowest digit of eight bits to the highest.
//
// A warp owns a stretch of the row and takes it 32 columns at a time. In each pass it counts its digits; when all warps
// have, the counts are turned into the places where each warp's digits begin, and the columns move there. Lanes with
// one digit find each other by a match, which keeps their order.
#pragma once
#include "block_scan.cuh"
#include "dynamic_shared.cuh"
#include "scored_rows.cuh"

namespace trim {
namespace {

constexpr int kDigitBits = 8, kDigits8 = 1 << kDigitBits, kPasses = 4;

// The matrix in its dtype, chosen on the device: sorting is the same for all.
struct AnyMatrix {
  explicit AnyMatrix(const tk_scored& scored)
      : dtype(scored.dtype), single(scored), brain(scored), half(scored), rows(scored.rows), columns(single.columns) {}

  // The keys of eight columns of a row; tells the caller of bad values.
  __device__ __forceinline__ void keys(int64_t row, int32_t column, int32_t* bad, uint32_t (&key)[kVector]) const {
    switch (dtype) {
      case TK_BFLOAT16:
        return keys_of(brain, row, column, bad, key);
      case TK_FLOAT16:
        return keys_of(half, row, column, bad, key);
      default:
        return keys_of(single, row, column, bad, key);
    }
  }

  template <class Dtype>
  __device__ __forceinline__ static void keys_of(const ScoredMatrix<Dtype>& matrix, int64_t row, int32_t column,
                                                 int32_t* bad, uint32_t (&key)[kVector]) {
    const ScoredRow<Dtype> scored(matrix, row);
    scored.keys(column, key);
    if (bad && scored.is_bad(column, key)) atomicOr(bad, 1);
  }

  int32_t dtype;
  ScoredMatrix<Float32> single;
  ScoredMatrix<BFloat16> brain;
  ScoredMatrix<Float16> half;
  int64_t rows;
  int32_t columns;
};

__device__ __forceinline__ uint32_t digit_of(uint32_t key, int pass) {
  return key >> pass * kDigitBits & (kDigits8 - 1);
}

// The place of the lane's item among those of its warp with this digit, which `next` counts on. All lanes take part.
__device__ __forceinline__ uint32_t take_place(uint32_t digit, uint32_t* next) {
  const int lane = threadIdx.x % kWarp;
  const uint32_t alike = __match_any_sync(kWholeWarp, digit);
  const uint32_t place = next[digit] + __popc(alike & ((1u << lane) - 1));
  __syncwarp();
  if (alike >> lane == 1) next[digit] = place + 1;  // the last of them
  __syncwarp();
  return place;
}

template <int kThreads>
struct alignas(16) OrderShared {
  static constexpr int kWarps = kThreads / kWarp;

  // The warp's own counters, zero.
  __device__ __forceinline__ uint32_t* clear() {
    uint32_t* const own = counter[threadIdx.x / kWarp];
    for (int i = threadIdx.x % kWarp; i < kDigits8; i += kWarp) own[i] = 0;
    __syncwarp();
    return own;
  }

  // From how often each warp has each digit to where its first one goes. Between two barriers.
  __device__ __forceinline__ void counts_to_places() {
    const int digit = threadIdx.x;
    uint32_t sum = 0;
    if (digit < kDigits8) {
      for (int warp = 0; warp < kWarps; ++warp) sum += counter[warp][digit];
    }
    uint32_t place = sum_before(sum, scan);
    if (digit < kDigits8) {
      for (int warp = 0; warp < kWarps; ++warp) {
        const uint32_t count = counter[warp][digit];
        counter[warp][digit] = place;
        place += count;
      }
    }
    __syncthreads();
  }

  uint32_t counter[kWarps][kDigits8];
  ScanShared<kThreads> scan;
};

// Eight columns of the order in their places, in the bytes that the caller wants.
__device__ __forceinline__ void write_order(void* order, int order_bytes, int64_t place,
                                            const uint32_t (&column)[kVector], int32_t left) {
  char* const to = static_cast<char*>(order) + place * order_bytes;
  const bool whole = left >= kVector && reinterpret_cast<uintptr_t>(to) % 16 == 0;
  if (order_bytes == 2) {
    Bytes16 packed;
#pragma unroll
    for (int i = 0; i < 4; ++i) packed.word[i] = column[2 * i] | column[2 * i + 1] << 16;
    if (whole) {
      *reinterpret_cast<Bytes16*>(to) = packed;
    } else {
#pragma unroll
      for (int e = 0; e < kVector; ++e) {
        if (e < left) reinterpret_cast<uint16_t*>(to)[e] = static_cast<uint16_t>(column[e]);
      }
    }
  } else if (whole) {
    reinterpret_cast<Bytes16*>(to)[0] = {{column[0], column[1], column[2], column[3]}};
    reinterpret_cast<Bytes16*>(to)[1] = {{column[4], column[5], column[6], column[7]}};
  } else {
#pragma unroll
    for (int e = 0; e < kVector; ++e) {
      if (e < left) reinterpret_cast<uint32_t*>(to)[e] = column[e];
    }
  }
}

// Two numbers below 2^16 in each register. An even one is set before the odd one after it.
template <int kCount>
struct Pairs {
  __device__ __forceinline__ void set(int i, uint32_t value) {
    pair[i / 2] = i % 2 ? pair[i / 2] | value << 16 : value;
  }
  __device__ __forceinline__ void add(int i, uint32_t value) { pair[i / 2] += i % 2 ? value << 16 : value; }
  __device__ __forceinline__ uint32_t get(int i) const { return i % 2 ? pair[i / 2] >> 16 : pair[i / 2] & 0xffffu; }

  uint32_t pair[(kCount + 1) / 2];
};

// Dynamic shared memory: the counters, the row's keys, its columns in two bytes each.
template <int kThreads>
size_t shared_for_order(int64_t columns) {
  const size_t rounded = static_cast<size_t>(columns + kVector - 1) / kVector * kVector;
  return sizeof(OrderShared<kThreads>) + rounded * (sizeof(uint32_t) + sizeof(uint16_t));
}

// Rows that fit into shared memory: each thread holds its items in registers while they change places.
template <int kThreads, int kItems>
__global__ void __launch_bounds__(kThreads, kThreads == 256 ? 4 : 1)
    order_rows(AnyMatrix matrix, void* order, int order_bytes, int32_t* bad) {
  auto& shared = *reinterpret_cast<OrderShared<kThreads>*>(trim_dynamic_shared);
  uint32_t* const keys = reinterpret_cast<uint32_t*>(&shared + 1);
  const int32_t columns = matrix.columns;
  uint16_t* const sorted = reinterpret_cast<uint16_t*>(keys + (columns + kVector - 1) / kVector * kVector);
  const int items = (columns + kThreads - 1) / kThreads;
  const int first = static_cast<int>(threadIdx.x / kWarp * kWarp * items + threadIdx.x % kWarp);
  const int real = min(max(columns - first + kWarp - 1, 0) / kWarp, items);  // of the thread's items

  for (int64_t row = blockIdx.x; row < matrix.rows; row += gridDim.x) {
    for (int32_t column = threadIdx.x * kVector; column < columns; column += kThreads * kVector) {
      uint32_t key[kVector];
      matrix.keys(row, column, bad, key);
      memcpy(&keys[column], key, sizeof key);
    }
    __syncthreads();
#pragma unroll 1
    for (int pass = 0; pass < kPasses; ++pass) {
      uint32_t* const counter = shared.clear();
      uint32_t key[kItems];
      Pairs<kItems> place;
#pragma unroll
      for (int i = 0; i < kItems; ++i) key[i] = i < real ? keys[first + i * kWarp] : kPadding;
#pragma unroll
      for (int i = 0; i < kItems; ++i) {
        place.set(i, i < items ? take_place(digit_of(key[i], pass), counter) : 0);
      }
      __syncthreads();
      shared.counts_to_places();
#pragma unroll
      for (int i = 0; i < kItems; ++i) {
        place.add(i, counter[digit_of(key[i], pass)]);
        if (i < real) keys[place.get(i)] = key[i];
      }
      asm volatile("" ::: "memory");  // registers hold the keys, then the columns
      Pairs<kItems> column;
#pragma unroll
      for (int i = 0; i < kItems; ++i) {
        const int at = first + i * kWarp;
        column.set(i, pass > 0 && i < real ? sorted[at] : static_cast<uint32_t>(at));
      }
      __syncthreads();
#pragma unroll
      for (int i = 0; i < kItems; ++i) {
        if (i < real) sorted[place.get(i)] = static_cast<uint16_t>(column.get(i));
      }
      __syncthreads();
    }
    for (int32_t at = threadIdx.x * kVector; at < columns; at += kThreads * kVector) {
      uint32_t column[kVector];
#pragma unroll
      for (int e = 0; e < kVector; ++e) column[e] = sorted[at + e];
      write_order(order, order_bytes, row * columns + at, column, columns - at);
    }
  }
}

constexpr int kWideOrderThreads = 1024;

struct KeyAndColumn {
  uint32_t key, column;
};

// Bytes of global memory that a block needs for two copies of a row.
inline int64_t scratch_of_block(int64_t columns) { return 2 * columns * static_cast<int64_t>(sizeof(KeyAndColumn)); }

// Rows of any width, which go to and fro in global memory.
__global__ void __launch_bounds__(kWideOrderThreads)
    order_wide_rows(AnyMatrix matrix, void* order, int order_bytes, KeyAndColumn* scratch, int32_t* bad) {
  __shared__ OrderShared<kWideOrderThreads> shared;
  const int32_t columns = matrix.columns;
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const int32_t stretch = (columns + kWideOrderThreads - 1) / kWideOrderThreads * kWarp;
  const int32_t first = min(warp * static_cast<int64_t>(stretch), static_cast<int64_t>(columns));
  const int32_t last = min(first + static_cast<int64_t>(stretch), static_cast<int64_t>(columns));
  KeyAndColumn* from = scratch + blockIdx.x * (2 * static_cast<int64_t>(columns));
  KeyAndColumn* to = from + columns;

  for (int64_t row = blockIdx.x; row < matrix.rows; row += gridDim.x) {
    for (int64_t column = threadIdx.x * kVector; column < columns; column += kWideOrderThreads * kVector) {
      uint32_t key[kVector];
      matrix.keys(row, static_cast<int32_t>(column), bad, key);
#pragma unroll
      for (int e = 0; e < kVector; ++e) {
        if (column + e < columns) from[column + e] = {key[e], static_cast<uint32_t>(column + e)};
      }
    }
    __syncthreads();
#pragma unroll 1
    for (int pass = 0; pass < kPasses; ++pass) {
      uint32_t* const counter = shared.clear();
      for (int32_t at = first + lane; at < last; at += kWarp) atomicAdd(&counter[digit_of(from[at].key, pass)], 1u);
      __syncthreads();
      shared.counts_to_places();
      for (int32_t begin = first; begin < last; begin += kWarp) {
        const int32_t at = begin + lane;
        const KeyAndColumn item = at < last ? from[at] : KeyAndColumn{kPadding, 0};
        const uint32_t place = take_place(digit_of(item.key, pass), counter);
        if (at < last) to[place] = item;
      }
      __syncthreads();
      KeyAndColumn* const sorted = to;
      to = from;
      from = sorted;
    }
    for (int64_t at = threadIdx.x * kVector; at < columns; at += kWideOrderThreads * kVector) {
      uint32_t column[kVector];
#pragma unroll
      for (int e = 0; e < kVector; ++e) column[e] = at + e < columns ? from[at + e].column : 0;
      write_order(order, order_bytes, row * columns + at, column, static_cast<int32_t>(columns - at));
    }
    __syncthreads();
  }
}

}  // namespace
}  // namespace trim
