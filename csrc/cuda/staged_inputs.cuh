// The inputs of products, laid out once for all products with them.
//
// Tensor cores take 16-bit inputs [padded tokens, padded columns]: a token's columns lie together, permuted within each
// 64. A thread of a warp, q = lane % 4, then finds its operand of four products of 16 columns in two pieces of eight
// columns that lie together in the weight: those from 8 q and those from 32 + 8 q. All other products take float32
// [padded columns, padded tokens].
#pragma once
#include <cuda_runtime.h>

#include "dtypes.h"

namespace trim {
namespace {

constexpr int kColumnBlock = 64;
constexpr int kTokenPadding = 128, kColumnPadding = 2 * kColumnBlock;
constexpr int kStageTile = 64;
constexpr int kStageThreads = 256;

inline int64_t padded(int64_t size, int64_t to) { return (size + to - 1) / to * to; }

// Where the column 32 half + 8 q + 4 odd + 2 j + i of a block goes: product 2 half + odd, place 8 j + 2 q + i.
__device__ __forceinline__ int place_in_block(int column) {
  const int half = column >> 5, q = column >> 3 & 3, odd = column >> 2 & 1, j = column >> 1 & 1, i = column & 1;
  return (2 * half + odd) * 16 + 8 * j + 2 * q + i;
}

template <class Dtype>
struct InputMatrix {
  const typename Dtype::Storage* values;  // [columns, tokens]
  int64_t columns, tokens, padded_columns, padded_tokens;
};

template <class Dtype>
__device__ __forceinline__ typename Dtype::Storage read_input(const InputMatrix<Dtype>& inputs, int64_t column,
                                                              int64_t token, int32_t* bad) {
  if (column >= inputs.columns || token >= inputs.tokens) return 0;
  const auto raw = inputs.values[column * inputs.tokens + token];
  if (bad && !Dtype::is_finite(raw)) atomicOr(bad, 1);
  return raw;
}

// One block a tile of 64 columns and 64 tokens.
template <class Dtype>
__global__ void __launch_bounds__(kStageThreads) stage_transposed(InputMatrix<Dtype> inputs,
                                                                  typename Dtype::Storage* out, int32_t* bad) {
  __shared__ typename Dtype::Storage tile[kStageTile][kStageTile + 2];
  const int64_t first_column = static_cast<int64_t>(blockIdx.x) * kStageTile;
  const int64_t first_token = static_cast<int64_t>(blockIdx.y) * kStageTile;
  for (int i = threadIdx.x; i < kStageTile * kStageTile; i += kStageThreads) {
    const int column = i / kStageTile, token = i % kStageTile;
    tile[token][place_in_block(column)] = read_input(inputs, first_column + column, first_token + token, bad);
  }
  __syncthreads();
  for (int i = threadIdx.x; i < kStageTile * kStageTile; i += kStageThreads) {
    const int token = i / kStageTile, place = i % kStageTile;
    out[(first_token + token) * inputs.padded_columns + first_column + place] = tile[token][place];
  }
}

template <class Dtype>
__global__ void __launch_bounds__(kStageThreads) stage_widened(InputMatrix<Dtype> inputs, float* out, int32_t* bad) {
  const int64_t size = inputs.padded_columns * inputs.padded_tokens;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kStageThreads + threadIdx.x; i < size;
       i += static_cast<int64_t>(gridDim.x) * kStageThreads) {
    out[i] = Dtype::widen(read_input(inputs, i / inputs.padded_tokens, i % inputs.padded_tokens, bad));
  }
}

}  // namespace
}  // namespace trim
