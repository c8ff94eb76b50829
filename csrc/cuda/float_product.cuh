// masked_product for weights or inputs in float32: plain multiply-adds, every bit of float32 kept.
#pragma once
#include "masked_product.cuh"

namespace trim {
namespace {

constexpr int kFloatTile = 64, kFloatColumns = 32, kFloatThreads = 256, kPerThread = 4;

// One block takes 64 rows and 64 tokens, a thread 4 and 4.
template <class Dtype>
__global__ void __launch_bounds__(kFloatThreads)
    float_product(ScoredMatrix<Dtype> matrix, const float* inputs, ProductCall call) {
  constexpr int kAcross = kFloatTile / kPerThread, kPiecesPerRow = kFloatColumns / kVector;
  __shared__ float going[kFloatColumns][kFloatTile + 1];
  alignas(16) __shared__ float token_values[kFloatColumns][kFloatTile];
  const int64_t chain = blockIdx.x % call.chains, tile = blockIdx.x / call.chains;
  const int64_t first_row = static_cast<int64_t>(blockIdx.y) * kFloatTile;
  const int tx = threadIdx.x % kAcross, ty = threadIdx.x / kAcross;

  const int loaded_row = threadIdx.x / kPiecesPerRow, loaded_column = threadIdx.x % kPiecesPerRow * kVector;
  const int64_t index = min(first_row + loaded_row, matrix.rows - 1);
  const ScoredRow<Dtype> row(matrix, index);
  const Threshold threshold = threshold_of(call, chain, matrix.rows, index);

  float sums[kPerThread][kPerThread] = {};
  for (int32_t first = 0; first < matrix.columns; first += kFloatColumns) {
    const int32_t column = first + loaded_column;
    uint32_t key[kVector];
    row.keys(column, key);
    const Eight<Dtype> raw = row.weights(column);
#pragma unroll
    for (int e = 0; e < kVector; ++e) {
      const bool goes = !threshold.keeps(key[e], column + e);
      going[loaded_column + e][loaded_row] = goes ? Dtype::widen(raw.value[e]) : 0.0f;
    }
    for (int i = threadIdx.x; i < kFloatColumns * kFloatTile; i += kFloatThreads) {
      const int c = i / kFloatTile, t = i % kFloatTile;
      token_values[c][t] = inputs[(first + c) * call.padded_tokens + tile * kFloatTile + t];
    }
    __syncthreads();
#pragma unroll 8
    for (int c = 0; c < kFloatColumns; ++c) {
      const float4 x = *reinterpret_cast<const float4*>(&token_values[c][tx * kPerThread]);
#pragma unroll
      for (int i = 0; i < kPerThread; ++i) {
        const float w = going[c][ty * kPerThread + i];
        sums[i][0] = fmaf(w, x.x, sums[i][0]);
        sums[i][1] = fmaf(w, x.y, sums[i][1]);
        sums[i][2] = fmaf(w, x.z, sums[i][2]);
        sums[i][3] = fmaf(w, x.w, sums[i][3]);
      }
    }
    __syncthreads();
  }

  const bool dense = !call.key;
#pragma unroll
  for (int i = 0; i < kPerThread; ++i) {
    const int64_t out_row = first_row + ty * kPerThread + i;
    const bool real = out_row < matrix.rows;
    float* const outputs = call.dense + min(out_row, matrix.rows - 1) * call.padded_tokens + tile * kFloatTile +
                           tx * kPerThread;
    Sums statistics;
#pragma unroll
    for (int j = 0; j < kPerThread; ++j) {
      if (dense && real) outputs[j] = sums[i][j];
      statistics.add(dense, dense ? sums[i][j] : outputs[j], sums[i][j]);
    }
    statistics.reduce(dense, kAcross);
    if (tx == 0 && real) statistics.write(call, tile, chain, matrix.rows, out_row);
  }
}

}  // namespace
}  // namespace trim
