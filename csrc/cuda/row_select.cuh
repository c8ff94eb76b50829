// row_select and prune_rows: one block a row, persistent; few long rows are row_select_split.cuh's. The weight is read
// from memory once; what is pruned in place is written from registers, or where these have no room for it read again
// from the cache that the first read filled.
#pragma once
#include <type_traits>

#include "block_select.cuh"
#include "dynamic_shared.cuh"

namespace trim {
namespace {

// The next row's weights on their way to registers, if its pieces of eight columns are whole and aligned: memory is at
// work while the block selects, and all loads of a row are under way before the first is waited for. A row that is
// pruned keeps these registers until it is written.
template <class Dtype, int kThreads, int kVectors>
struct RowOnItsWay {
  // Registers have room for the next row beside this one's keys where weights are halves, and threads not too many.
  static constexpr bool kFits = sizeof(typename Dtype::Storage) == 2 && kThreads * kVectors <= 1728;

  __device__ __forceinline__ static bool suits(const ScoredMatrix<Dtype>& matrix) {
    return kFits && matrix.whole();
  }

  __device__ __forceinline__ void load(const ScoredMatrix<Dtype>& matrix, int64_t index) {
    const auto* const weight = matrix.weight + index * matrix.stride;
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      const int32_t column = (v * kThreads + threadIdx.x) * kVector;
      if (column < matrix.columns) piece[v] = *reinterpret_cast<const Bytes16*>(weight + column);
    }
  }

  // Taken apart no earlier than they are wanted: that would wait for them.
  __device__ __forceinline__ Eight<Dtype> weights(int v) const {
    Eight<Dtype> result;
    memcpy(&result, &piece[v], sizeof piece[v]);
    return result;
  }

  Bytes16 piece[kVectors];
};

// Keys of a row in registers: thread t holds the columns 8 * (v * kThreads + t) to + 7.
template <class Dtype, int kThreads, int kVectors>
struct RowInRegisters {
  static constexpr int64_t kColumns = int64_t{kThreads} * kVectors * kVector;

  __device__ __forceinline__ void read(const ScoredRow<Dtype>& row) {
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      one_by_one();
      row.keys(column(v), key[v]);
    }
  }

  __device__ __forceinline__ void take(const ScoredRow<Dtype>& row,
                                       const RowOnItsWay<Dtype, kThreads, kVectors>& loaded) {
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      one_by_one();
      if (column(v) < row.columns) {
        row.keys_of_weights(loaded.weights(v), row.scales(column(v)), column(v), key[v]);
      } else {
#pragma unroll
        for (int e = 0; e < kVector; ++e) key[v][e] = kPadding;
      }
    }
  }

  __device__ __forceinline__ static int32_t column(int v) { return (v * kThreads + threadIdx.x) * kVector; }

  template <class Visit>
  __device__ __forceinline__ void each(Visit visit) const {
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      one_by_one();
      visit(column(v), key[v]);
    }
  }

  // Else the compiler has what belongs to all columns on its way, and no registers left for a further block.
  __device__ __forceinline__ static void one_by_one() { asm volatile("" ::: "memory"); }

  uint32_t key[kVectors][kVector];
};

// Keys of a row made anew in each pass, for rows that registers cannot hold.
template <class Dtype, int kThreads>
struct RowReread {
  __device__ RowReread(const ScoredRow<Dtype>& row) : row(row) {}

  template <class Visit>
  __device__ __forceinline__ void each(Visit visit) const {
    for (int32_t first = 0; first < row.columns; first += kThreads * kVector) {
      const int32_t column = first + static_cast<int32_t>(threadIdx.x) * kVector;
      uint32_t key[kVector];
      row.keys(column, key);
      visit(column, key);
    }
  }

  const ScoredRow<Dtype>& row;
};

// One bit for each of eight columns: whether it stays.
__device__ __forceinline__ uint32_t kept_bits(const uint32_t (&key)[kVector], Threshold threshold, int32_t column) {
  uint32_t bits = 0;
  const int32_t going = threshold.column - column;  // so many of these columns go if their key is the threshold's
#pragma unroll
  for (int e = 0; e < kVector; ++e) bits |= (key[e] >= threshold.key + (e < going) ? 1u : 0u) << e;
  return bits;
}

// Eight bits as eight bytes of 0 or 1, the lowest first.
__device__ __forceinline__ uint64_t bytes_of(uint32_t bits) {
  // Each half of the product has one bit of the nibble at the bottom of each byte.
  const uint32_t low = (bits & 15u) * 0x00204081u & 0x01010101u, high = (bits >> 4) * 0x00204081u & 0x01010101u;
  return static_cast<uint64_t>(high) << 32 | low;
}

__device__ __forceinline__ void write_bytes(uint8_t* mask, uint32_t bits, int32_t left) {
  if (left >= kVector && reinterpret_cast<uintptr_t>(mask) % 8 == 0) {
    *reinterpret_cast<uint64_t*>(mask) = bytes_of(bits);
    return;
  }
  for (int e = 0; e < kVector && e < left; ++e) mask[e] = bits >> e & 1u;
}

// Zeroes the weights whose bit is 0.
template <class Dtype>
__device__ __forceinline__ void zero_others(const ScoredRow<Dtype>& row, typename Dtype::Storage* weight,
                                            int32_t column, uint32_t bits) {
  if (bits == 0xffu) return;
  if (row.whole(column)) {
    Eight<Dtype> raw = row.weights(column);
#pragma unroll
    for (int e = 0; e < kVector; ++e) raw.value[e] = bits >> e & 1u ? raw.value[e] : 0;
#pragma unroll
    for (size_t i = 0; i < sizeof raw / 16; ++i) {
      Bytes16 piece;
      memcpy(&piece, reinterpret_cast<const char*>(&raw) + 16 * i, sizeof piece);
      store_16_bytes(reinterpret_cast<char*>(weight + column) + 16 * i, piece);
    }
    return;
  }
  for (int e = 0; e < kVector && column + e < row.columns; ++e) {
    if (!(bits >> e & 1u)) weight[column + e] = 0;
  }
}

// Writes eight halves of which some go, as they are in registers.
__device__ __forceinline__ void write_others(Bytes16 halves, void* weight, uint32_t bits) {
  if (bits == 0xffu) return;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    halves.word[i] &= (bits >> 2 * i & 1u ? 0x0000ffffu : 0u) | (bits >> (2 * i + 1) & 1u ? 0xffff0000u : 0u);
  }
  store_16_bytes(weight, halves);
}

// What a selection wants of one row.
template <class Dtype, class Row>
__device__ __forceinline__ void write_row(const ScoredMatrix<Dtype>& matrix, const ScoredRow<Dtype>& scored,
                                          const Row& row, int64_t index, Threshold threshold,
                                          const tk_cuda_selected& out) {
  if (out.key && threadIdx.x == 0) {
    out.key[index] = static_cast<int32_t>(threshold.key);
    out.column[index] = threshold.column;
  }
  if (!out.mask && !out.prune) return;
  const int32_t columns = matrix.columns;
  uint8_t* const mask = out.mask + index * (out.packed ? (columns + 7) / 8 : columns);
  typename Dtype::Storage* const weight = matrix.weight + index * matrix.stride;
  row.each([&](int32_t column, const uint32_t(&key)[kVector]) {
    if (column >= columns) return;
    const uint32_t bits = kept_bits(key, threshold, column);
    if (out.prune) {
      zero_others(scored, weight, column, bits);
    } else if (out.packed) {
      const int32_t left = columns - column;
      mask[column / 8] = static_cast<uint8_t>(left < kVector ? bits & ((1u << left) - 1) : bits);
    } else {
      write_bytes(mask + column, bits, columns - column);
    }
  });
}

// Finds the threshold of one row.
template <class Dtype, class Row, int kThreads>
__device__ __forceinline__ Threshold select_in_row(const ScoredRow<Dtype>& scored, const Row& row, int32_t count,
                                                   bool ties, int32_t* bad, SelectShared<kThreads>& shared) {
  const int32_t columns = scored.columns;
  if (bad) {
    bool found = count < 0 || count > columns;
    row.each([&](int32_t column, const uint32_t(&key)[kVector]) { found |= scored.is_bad(column, key); });
    if (found) atomicOr(bad, 1);
  }
  Threshold threshold{static_cast<uint32_t>(kNothingStays), columns};
  if (count < columns) {
    const uint32_t rank = static_cast<uint32_t>(max(count, 0));
    threshold = find_threshold<kThreads>(row, columns, rank, ties, shared);
  }
  return threshold;
}

// Blocks per multiprocessor that the registers must allow, so that some count while others wait. Elsewhere than on
// Hopper a fourth would cost local memory.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ != 900
constexpr int kResidentNarrow = 3;
#else
constexpr int kResidentNarrow = 4;
#endif
template <int kThreads>
constexpr int kResident = kThreads <= 128 ? kResidentNarrow : kThreads <= 256 ? 2 : 1;

template <class Dtype, int kThreads, int kVectors>
__global__ void __launch_bounds__(kThreads, kResident<kThreads>)
    select_rows(ScoredMatrix<Dtype> matrix, const int32_t* prune_count, tk_cuda_selected out, int32_t* bad) {
  using OnItsWay = RowOnItsWay<Dtype, kThreads, kVectors>;
  __shared__ SelectShared<kThreads> shared;
  const bool suits = OnItsWay::suits(matrix);
  OnItsWay loaded;
  if (suits) loaded.load(matrix, blockIdx.x);
  for (int64_t index = blockIdx.x; index < matrix.rows; index += gridDim.x) {
    clear_counters(shared);
    __syncthreads();
    const ScoredRow<Dtype> scored(matrix, index);
    RowInRegisters<Dtype, kThreads, kVectors> row;
    const auto load_next = [&] { loaded.load(matrix, min(index + gridDim.x, matrix.rows - 1)); };
    if (suits) {
      row.take(scored, loaded);
      if (!out.prune) load_next();  // while this row is worked on
    } else {
      row.read(scored);
    }
    const Threshold threshold = select_in_row(scored, row, prune_count[index], out.key != nullptr, bad, shared);
    if constexpr (OnItsWay::kFits) {
      if (suits && out.prune) {
        auto* const weight = matrix.weight + index * matrix.stride;
#pragma unroll
        for (int v = 0; v < kVectors; ++v) {
          const int32_t column = row.column(v);
          if (column < matrix.columns) {
            write_others(loaded.piece[v], weight + column, kept_bits(row.key[v], threshold, column));
          }
        }
        load_next();
        continue;
      }
    }
    write_row(matrix, scored, row, index, threshold, out);
  }
}

constexpr int kWideThreads = 1024;

// Rows wider than registers hold. With `staged` a row's weights are copied to shared memory first.
template <class Dtype>
__global__ void __launch_bounds__(kWideThreads) select_wide_rows(ScoredMatrix<Dtype> matrix, const int32_t* prune_count,
                                                                 tk_cuda_selected out, int32_t* bad, bool staged) {
  using Storage = typename Dtype::Storage;
  __shared__ SelectShared<kWideThreads> shared;
  Storage* const copy = reinterpret_cast<Storage*>(trim_dynamic_shared);
  for (int64_t index = blockIdx.x; index < matrix.rows; index += gridDim.x) {
    ScoredRow<Dtype> scored(matrix, index);
    if (staged) {
      for (int32_t column = threadIdx.x * kVector; column < matrix.columns; column += kWideThreads * kVector) {
        *reinterpret_cast<Eight<Dtype>*>(copy + column) = scored.weights(column);
      }
      scored.weight = copy;  // of which a thread reads only what it wrote
    }
    clear_counters(shared);
    __syncthreads();
    const RowReread<Dtype, kWideThreads> row(scored);
    const Threshold threshold = select_in_row(scored, row, prune_count[index], out.key != nullptr, bad, shared);
    write_row(matrix, scored, row, index, threshold, out);
  }
}

// Zeroes every weight before the threshold of its row; one thread for eight columns, at every kRows-th row.
template <class Dtype>
__global__ void prune_below(ScoredMatrix<Dtype> matrix, const int32_t* key, const int32_t* column) {
  const int32_t first = static_cast<int32_t>(blockIdx.x * blockDim.x + threadIdx.x) * kVector;
  if (first >= matrix.columns) return;
  for (int64_t index = blockIdx.y; index < matrix.rows; index += gridDim.y) {
    const ScoredRow<Dtype> row(matrix, index);
    uint32_t keys[kVector];
    row.keys(first, keys);
    const Threshold threshold{static_cast<uint32_t>(key[index]), column[index]};
    zero_others(row, matrix.weight + index * matrix.stride, first, kept_bits(keys, threshold, first));
  }
}

}  // namespace
}  // namespace trim
