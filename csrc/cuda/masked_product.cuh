// The output of the weights that go, and what of it the row statistics need: the product and its statistics in one
// kernel.
//
// A thread masks its part of the weight in registers on the way to the tensor cores; nothing but the statistics is
// written. One block takes 128 rows and kTokens tokens, a warp 16 rows and all of these tokens, so that rows need no
// sums between warps. The columns pass in blocks of 64: the inputs through a ring of tiles in shared memory, the
// weights through registers, loaded two blocks ahead and masked while the product of the block before is under way.
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

// The ring of input tiles, and behind it the joined sums.
constexpr size_t product_shared(int tokens, int stages) {
  return static_cast<size_t>(stages) * tokens * kInputTokenBytes + sizeof(float) * kProductRows * tokens;
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

// Weights of a thread's two rows in a block of columns.
template <class Dtype>
struct WeightBlock {
  Eight<Dtype> piece[2][2];  // [row][half]

  __device__ __forceinline__ void load(const ScoredRow<Dtype> (&row)[2], int32_t column) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
#pragma unroll
      for (int half = 0; half < 2; ++half) piece[r][half] = row[r].weights(column + 32 * half);
    }
  }

  __device__ __forceinline__ void mask(const ScoredRow<Dtype> (&row)[2], const Threshold (&threshold)[2],
                                       int32_t column, MaskedOperand& out) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int32_t first = column + 32 * half;
      const Eight<Float32> scale = row[0].scales(first);
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        uint32_t key[kVector], words[4];
        if (row[r].score) {
          row[r].keys_of_scores(first, key);
        } else {
          row[r].keys_of_weights(piece[r][half], scale, first, key);
        }
        memcpy(words, &piece[r][half], sizeof words);
        mask_words(key, threshold[r], first, words);
        out.word[2 * half][r] = words[0];
        out.word[2 * half][2 + r] = words[1];
        out.word[2 * half + 1][r] = words[2];
        out.word[2 * half + 1][2 + r] = words[3];
      }
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

template <class Dtype, class Product, int kTokens, int kStages>
__global__ void __launch_bounds__(kProductThreads, 1)
    masked_product(ScoredMatrix<Dtype> matrix, const typename Dtype::Storage* inputs, ProductCall call) {
  constexpr int kTileBytes = kTokens * kInputTokenBytes, kAhead = kStages - Product::kLag;
  const int lane = threadIdx.x % kWarp, q = lane % kLanesPerRow, g = lane / kLanesPerRow;
  const int64_t chain = blockIdx.x % call.chains, tile = blockIdx.x / call.chains;
  const int64_t first_row = static_cast<int64_t>(blockIdx.y) * kProductRows + threadIdx.x / kWarp * kWarpRows + g;
  // Rows beyond the last are the last one again; nothing is written for them.
  const int64_t index[2] = {min(first_row, matrix.rows - 1), min(first_row + 8, matrix.rows - 1)};
  const ScoredRow<Dtype> row[2] = {{matrix, index[0]}, {matrix, index[1]}};
  const Threshold threshold[2] = {threshold_of(call, chain, matrix.rows, index[0]),
                                  threshold_of(call, chain, matrix.rows, index[1])};
  const int blocks = static_cast<int>(call.padded_columns / kColumnBlock);
  const auto* const tokens = inputs + tile * kTokens * call.padded_columns;
  const auto begin_copy = [&](int block) {
    const bool real = block < blocks;
    copy_inputs<typename Dtype::Storage, kTokens>(tokens + (real ? block : 0) * kColumnBlock, call.padded_columns, real,
                                                  trim_dynamic_shared + block % kStages * kTileBytes);
    copy_async_commit();
  };

  float sums[kTokens / 2] = {};
  MaskedOperand operand[2];
  WeightBlock<Dtype> weights;
  for (int block = 0; block < kAhead; ++block) begin_copy(block);
  weights.load(row, 8 * q);
  weights.mask(row, threshold, 8 * q, operand[0]);
  weights.load(row, kColumnBlock + 8 * q);

  const auto step = [&](int block, const MaskedOperand& now, MaskedOperand& next) {
    copy_async_wait<kAhead - 1>();
    Product::publish_copies();
    __syncthreads();
    begin_copy(block + kAhead);
    Product::multiply(sums, now, trim_dynamic_shared + block % kStages * kTileBytes);
    Product::template wait<1>();  // the product before has ended, and with it the use of `next`
    weights.mask(row, threshold, (block + 1) * kColumnBlock + 8 * q, next);
    weights.load(row, (block + 2) * kColumnBlock + 8 * q);
  };
  const JoinedSums<kTokens> joined{trim_dynamic_shared + kStages * kTileBytes};
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

  const bool dense = !call.key;
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
