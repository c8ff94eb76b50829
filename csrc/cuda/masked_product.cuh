// The output of the weights that go, and what of it the row statistics need: the product and its statistics in one
// kernel.
//
// A thread masks its part of the weight in registers on the way to the tensor cores; nothing but the statistics is
// written. One block takes 128 rows and kTokens tokens, a warp 16 rows and all of these tokens, so that rows need no
// sums between warps. The columns pass in blocks of 64: inputs and scales through a ring in shared memory, the weights
// through registers, loaded two blocks ahead and masked while the product of the block before is under way.
#pragma once
#include <async_copy.cuh>
#include <tensor_core.cuh>

#include "block_scan.cuh"
#include "dynamic_shared.cuh"
#include "row_products.h"
#include "scored_rows.cuh"
#include "staged_inputs.cuh"

namespace trim {
namespace {

constexpr int kProductRows = 128, kProductThreads = 256, kWarpRows = 16, kLanesPerRow = 4;
constexpr int kInputTokenBytes = kColumnBlock * 2, kPieces = kInputTokenBytes / 16;

// Blocks of columns after which the sums join those in shared memory. Tensor cores cut off what they add up, toward
// zero: over 29568 columns that would cost |y|^2 its fourth digit, in stretches of 2048 it costs the sixth.
constexpr int kJoinBlocks = 2048 / kColumnBlock;

// Blocks of columns after which a weight is wanted when it is asked for from memory.
constexpr int kPrefetchBlocks = 8;

// The rings of input tiles and of scales, and between them the joined sums.
constexpr size_t product_shared(int tokens, int stages) {
  return static_cast<size_t>(stages) * (tokens * kInputTokenBytes + sizeof(float) * kColumnBlock) +
         sizeof(float) * kProductRows * tokens;
}

constexpr Threshold kEverythingGoes{0xffffffffu, 0};

__device__ __forceinline__ Threshold threshold_of(const ProductCall& call, int64_t chain, int64_t rows, int64_t row) {
  if (!call.key) return kEverythingGoes;
  return {static_cast<uint32_t>(call.key[chain * rows + row]), call.column[chain * rows + row]};
}

// What a row's outputs add to its two statistics.
struct Sums {
  double first = 0, second = 0;

  __device__ __forceinline__ void add(bool dense, float y, float e) {
    const double wide_y = y, wide_e = e;
    first += wide_y * wide_e;
    second = dense ? fmax(second, wide_y * wide_y) : second + wide_e * wide_e;
  }

  // Over `lanes` neighbouring lanes, a power of two; all of them get the result.
  __device__ __forceinline__ void reduce(bool dense, int lanes) {
    for (int distance = 1; distance < lanes; distance *= 2) {
      first += __shfl_xor_sync(kWholeWarp, first, distance);
      const double other = __shfl_xor_sync(kWholeWarp, second, distance);
      second = dense ? fmax(second, other) : second + other;
    }
  }

  __device__ __forceinline__ void write(const ProductCall& call, int64_t tile, int64_t chain, int64_t rows,
                                        int64_t row) const {
    call.partial[((tile * 2 + 0) * call.chains + chain) * rows + row] = first;
    call.partial[((tile * 2 + 1) * call.chains + chain) * rows + row] = second;
  }
};

// The operand of four products: the weights that go, the others zero, of a thread's two rows and 16 columns.
struct MaskedOperand {
  uint32_t word[4][4];
};

// Weights of a thread's two rows in a block of columns. With kWhole every eight of them are aligned and all there or
// none: where the columns that are there had to be found one by one, a thread would wait for each load in turn.
template <class Dtype, bool kWhole>
struct WeightBlock {
  Bytes16 piece[2][2];  // [row][half]

  __device__ __forceinline__ void load(const ScoredRow<Dtype> (&row)[2], int32_t column) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
#pragma unroll
      for (int half = 0; half < 2; ++half) piece[r][half] = eight(row[r], column + 32 * half);
    }
  }

  __device__ __forceinline__ static Bytes16 eight(const ScoredRow<Dtype>& row, int32_t column) {
    if constexpr (kWhole) {
      return column < row.columns ? *reinterpret_cast<const Bytes16*>(row.weight + column) : Bytes16{};
    } else {
      const Eight<Dtype> values = row.weights(column);
      Bytes16 bytes;
      memcpy(&bytes, &values, sizeof bytes);
      return bytes;
    }
  }

  // `scale`: of this thread's columns of the block.
  __device__ __forceinline__ void mask(const ScoredRow<Dtype> (&row)[2], const Threshold (&threshold)[2],
                                       const float* scale, int32_t column, MaskedOperand& out) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int32_t first = column + 32 * half;
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        uint32_t words[4];
        memcpy(words, &piece[r][half], sizeof words);
        uint32_t key[kVector];
        if (!kWhole && row[r].score) {
          row[r].keys_of_scores(first, key);
        } else {
          keys(words, scale + 32 * half, key);
        }
        mask_words(key, threshold[r], first, words);
        out.word[2 * half][r] = words[0];
        out.word[2 * half][2 + r] = words[1];
        out.word[2 * half + 1][r] = words[2];
        out.word[2 * half + 1][2 + r] = words[3];
      }
    }
  }

  // Beyond the last column weights are zero: whether they go makes no difference.
  __device__ __forceinline__ static void keys(const uint32_t (&words)[4], const float* scale,
                                              uint32_t (&key)[kVector]) {
#pragma unroll
    for (int e = 0; e < kVector; ++e) {
      const auto raw = static_cast<typename Dtype::Storage>(words[e / 2] >> (e % 2 * 16));
      key[e] = key_of_product(Dtype::widen(raw), scale[e]);
    }
  }

  __device__ __forceinline__ static void mask_words(const uint32_t (&key)[kVector], Threshold threshold, int32_t column,
                                                    uint32_t (&words)[4]) {
    // Of the weights with the threshold's key those before its column go: all, none, or in one piece of the row some.
    const int32_t ties = threshold.column - column;
    uint32_t limit = threshold.key + (ties >= kVector);
    if (ties > 0 && ties < kVector) {
#pragma unroll
      for (int e = 0; e < kVector; ++e) {
        if (key[e] >= threshold.key + (e < ties)) words[e / 2] &= e % 2 ? 0x0000ffffu : 0xffff0000u;
      }
      limit = 0xffffffffu;
    }
#pragma unroll
    for (int e = 0; e < kVector; e += 2) {
      words[e / 2] = (key[e] < limit ? words[e / 2] & 0x0000ffffu : 0u) |
                     (key[e + 1] < limit ? words[e / 2] & 0xffff0000u : 0u);
    }
  }
};

// Copies one tile of inputs to shared memory: rows of 128 bytes, piece p of row n at p ^ n % 8.
template <class Storage, int kTokens>
__device__ __forceinline__ void copy_inputs(const Storage* inputs, int64_t padded_columns, bool real,
                                            unsigned char* tile) {
  constexpr int kAtOnce = kProductThreads / kPieces;  // tokens; a multiple of 8
  const int token = threadIdx.x / kPieces, piece = threadIdx.x % kPieces;
  const Storage* from = inputs + token * padded_columns + piece * 8;
  unsigned char* const to = tile + token * kInputTokenBytes + (piece ^ token % 8) * 16;
#pragma unroll
  for (int i = 0; i < kTokens / kAtOnce; ++i) {
    copy_16_async(to + i * kAtOnce * kInputTokenBytes, from, real);
    from += kAtOnce * padded_columns;
  }
}

// The scales of the columns, in shared memory: ones where there are none. A stage serves the block after the one whose
// tile it is filled with, which is over when the stage is wanted again.
template <int kStages>
struct ScaleRing {
  __device__ ScaleRing(const float* scale, int32_t columns, bool aligned, unsigned char* place)
      : scale(scale), columns(columns), aligned(aligned), memory(reinterpret_cast<float*>(place)) {
    if (scale) return;
    for (int i = threadIdx.x; i < kStages * kColumnBlock; i += kProductThreads) memory[i] = 1.0f;
  }

  __device__ __forceinline__ const float* at(int block) const { return memory + block % kStages * kColumnBlock; }

  __device__ __forceinline__ void copy(int block) const {
    if (!scale) return;
    float* const to = memory + block % kStages * kColumnBlock;
    const int32_t first = block * kColumnBlock;
    if (aligned) {
      const int32_t place = threadIdx.x * 4;
      const bool real = first + place < columns;
      if (place < kColumnBlock) copy_16_async(to + place, real ? scale + first + place : scale, real);
    } else if (threadIdx.x < kColumnBlock) {
      const int32_t column = first + static_cast<int32_t>(threadIdx.x);
      to[threadIdx.x] = column < columns ? scale[column] : 0.0f;
    }
  }

  const float* scale;
  int32_t columns;
  bool aligned;  // four of them that begin at a multiple of four are all there or none
  float* memory;
};

// mma.sync, for every GPU from sm_80 on.
template <class Dtype, int kTokens>
struct WarpProduct {
  static constexpr int kLag = 1;  // blocks whose tile may still be read when the next barrier has passed

  __device__ __forceinline__ static void multiply(float (&sums)[kTokens / 2], const MaskedOperand& a,
                                                  const unsigned char* tile) {
    const int q = threadIdx.x % kLanesPerRow, g = threadIdx.x % kWarp / kLanesPerRow;
#pragma unroll
    for (int step = 0; step < 4; ++step) {
#pragma unroll
      for (int n = 0; n < kTokens / 8; ++n) {
        const unsigned char* const token = tile + (n * 8 + g) * kInputTokenBytes;
        uint32_t b[2];
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          b[j] = *reinterpret_cast<const uint32_t*>(token + ((2 * step + j) ^ g) * 16 + q * 4);
        }
        mma_m16n8k16(reinterpret_cast<float(&)[4]>(sums[n * 4]), a.word[step], b, Dtype{});
      }
    }
  }
  template <int kPending>
  __device__ __forceinline__ static void wait() {}
  __device__ __forceinline__ static void publish_copies() {}
};

// Sums that left the registers, each thread's own: four at a time, side by side with those of its neighbours.
template <int kTokens>
struct JoinedSums {
  __device__ __forceinline__ float4& four(int i) const {
    return reinterpret_cast<float4*>(memory)[i * kProductThreads + threadIdx.x];
  }

  // Adds the sums, or puts them there if they are the first; they begin anew.
  __device__ __forceinline__ void take(float (&sums)[kTokens / 2], bool first) const {
#pragma unroll
    for (int i = 0; i < kTokens / 8; ++i) {
      const float4 before = first ? make_float4(0, 0, 0, 0) : four(i);
      four(i) = make_float4(before.x + sums[4 * i], before.y + sums[4 * i + 1], before.z + sums[4 * i + 2],
                            before.w + sums[4 * i + 3]);
      sums[4 * i] = sums[4 * i + 1] = sums[4 * i + 2] = sums[4 * i + 3] = 0;
    }
  }

  __device__ __forceinline__ void give(float (&sums)[kTokens / 2]) const {
#pragma unroll
    for (int i = 0; i < kTokens / 8; ++i) {
      const float4 before = four(i);
      sums[4 * i] += before.x;
      sums[4 * i + 1] += before.y;
      sums[4 * i + 2] += before.z;
      sums[4 * i + 3] += before.w;
    }
  }

  unsigned char* memory;
};

template <class Dtype, class Product, int kTokens, int kStages, bool kWhole>
__global__ void __launch_bounds__(kProductThreads, 1)
    masked_product(ScoredMatrix<Dtype> matrix, const typename Dtype::Storage* inputs, ProductCall call) {
  constexpr int kTileBytes = kTokens * kInputTokenBytes, kAhead = kStages - Product::kLag;
  const int lane = threadIdx.x % kWarp, q = lane % kLanesPerRow, g = lane / kLanesPerRow;
  const int64_t chain = blockIdx.x % call.chains, tile = blockIdx.x / call.chains;
  const int64_t block_row = static_cast<int64_t>(blockIdx.y) * kProductRows;
  const int64_t first_row = block_row + threadIdx.x / kWarp * kWarpRows + g;
  // Rows beyond the last are the last one again; nothing is written for them.
  const int64_t index[2] = {min(first_row, matrix.rows - 1), min(first_row + 8, matrix.rows - 1)};
  const ScoredRow<Dtype> row[2] = {{matrix, index[0]}, {matrix, index[1]}};
  const Threshold threshold[2] = {threshold_of(call, chain, matrix.rows, index[0]),
                                  threshold_of(call, chain, matrix.rows, index[1])};
  const bool dense = !call.key;
  const int blocks = static_cast<int>(call.padded_columns / kColumnBlock);
  const auto* const tokens = inputs + tile * kTokens * call.padded_columns;
  const JoinedSums<kTokens> joined{trim_dynamic_shared + kStages * kTileBytes};
  const ScaleRing<kStages> scales(matrix.column_scale, matrix.columns, kWhole,
                                  joined.memory + sizeof(float) * kProductRows * kTokens);
  const auto begin_copy = [&](int block) {
    const bool real = block < blocks;
    copy_inputs<typename Dtype::Storage, kTokens>(tokens + (real ? block : 0) * kColumnBlock, call.padded_columns, real,
                                                  trim_dynamic_shared + block % kStages * kTileBytes);
    scales.copy(block + 1);  // wanted a block before its tile: weights are masked ahead of their product
    copy_async_commit();
  };
  // A thread a row: the 128 bytes that the block's threads will ask for.
  const auto* const ahead =
      matrix.weight + min(block_row + static_cast<int64_t>(threadIdx.x), matrix.rows - 1) * matrix.stride;
  const auto prefetch = [&](int block) {
    if (kWhole && threadIdx.x < kProductRows && block * kColumnBlock < matrix.columns) {
      prefetch_to_l2(ahead + block * kColumnBlock);
    }
  };

  float sums[kTokens / 2] = {};
  MaskedOperand operand[2];
  WeightBlock<Dtype, kWhole> weights;
  for (int block = 2; block < kPrefetchBlocks; ++block) prefetch(block);
  scales.copy(0);
  for (int block = 0; block < kAhead; ++block) begin_copy(block);
  weights.load(row, 8 * q);
  copy_async_wait<kAhead - 1>();
  __syncthreads();  // the first two blocks' scales are there
  weights.mask(row, threshold, scales.at(0) + 8 * q, 8 * q, operand[0]);
  weights.load(row, kColumnBlock + 8 * q);

  const auto step = [&](int block, const MaskedOperand& now, MaskedOperand& next) {
    copy_async_wait<kAhead - 1>();
    Product::publish_copies();
    __syncthreads();
    begin_copy(block + kAhead);
    prefetch(block + kPrefetchBlocks);
    Product::multiply(sums, now, trim_dynamic_shared + block % kStages * kTileBytes);
    Product::template wait<1>();  // the product before has ended, and with it the use of `next`
    weights.mask(row, threshold, scales.at(block + 1) + 8 * q, (block + 1) * kColumnBlock + 8 * q, next);
    weights.load(row, (block + 2) * kColumnBlock + 8 * q);
  };
  for (int block = 0; block < blocks; block += 2) {
    if (block > 0 && block % kJoinBlocks == 0) {
      Product::template wait<0>();
      joined.take(sums, block == kJoinBlocks);
    }
    step(block, operand[0], operand[1]);
    step(block + 1, operand[1], operand[0]);
  }
  Product::template wait<0>();
  copy_async_wait<0>();
  if (blocks > kJoinBlocks) joined.give(sums);

#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float* const outputs = call.dense + index[r] * call.padded_tokens + tile * kTokens + 2 * q;
    const bool real = first_row + 8 * r < matrix.rows;
    Sums statistics;
#pragma unroll
    for (int n = 0; n < kTokens / 8; ++n) {
      const float2 e = make_float2(sums[4 * n + 2 * r], sums[4 * n + 2 * r + 1]);
      float2* const place = reinterpret_cast<float2*>(outputs + 8 * n);
      if (dense && real) *place = e;
      const float2 y = dense ? e : *place;
      statistics.add(dense, y.x, e.x);
      statistics.add(dense, y.y, e.y);
    }
    statistics.reduce(dense, kLanesPerRow);
    if (q == 0 && real) statistics.write(call, tile, chain, matrix.rows, first_row + 8 * r);
  }
}

}  // namespace
}  // namespace trim
