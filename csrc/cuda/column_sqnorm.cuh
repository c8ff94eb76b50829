// column_sqnorm: the sum of squares of every column, in float64, in two steps of a fixed order.
//
// First a block sums a strip of columns over a range of tokens: each warp its share of the tokens, the warps' sums one
// after another. Then the sums of all ranges are added up, one range after another within eight groups of them.
#pragma once
#include "block_scan.cuh"
#include "scored_rows.cuh"

namespace trim {
namespace {

constexpr int kSquareThreads = 256, kSquareWarps = kSquareThreads / kWarp;
constexpr int kStrip = kWarp * kVector;  // columns of a block

template <class Dtype>
struct Activations {
  using Storage = typename Dtype::Storage;

  explicit Activations(const tk_activations& activations)
      : x(static_cast<const Storage*>(activations.x)),
        token_mask(activations.token_mask),
        tokens(activations.tokens),
        columns(activations.columns),
        stride(activations.stride),
        aligned(is_aligned(activations.x, activations.stride * static_cast<int64_t>(sizeof(Storage)))) {}

  __device__ __forceinline__ bool counts(int64_t token) const { return !token_mask || token_mask[token]; }

  const Storage* x;
  const uint8_t* token_mask;
  int64_t tokens, columns, stride;
  bool aligned;  // 16 bytes that start at a multiple of 16 can be read at once
};

// Loads under way at once: 64 bytes of each thread.
template <class Dtype>
constexpr int kTokensAtOnce = 64 / sizeof(Eight<Dtype>);

// Adds the squares of eight whole columns.
template <class Dtype>
__device__ __forceinline__ void add_squares(const Activations<Dtype>& activations, int64_t column, int64_t token,
                                            int64_t end, double (&sum)[kVector]) {
  for (; token < end; token += kTokensAtOnce<Dtype> * kSquareWarps) {
    Eight<Dtype> raw[kTokensAtOnce<Dtype>] = {};
#pragma unroll
    for (int i = 0; i < kTokensAtOnce<Dtype>; ++i) {
      const int64_t own = token + i * kSquareWarps;
      if (own < end && activations.counts(own)) {
        raw[i] = load_16_byte_pieces<Eight<Dtype>>(activations.x + own * activations.stride + column);
      }
    }
#pragma unroll
    for (int i = 0; i < kTokensAtOnce<Dtype>; ++i) {
#pragma unroll
      for (int e = 0; e < kVector; ++e) {
        const double value = Dtype::widen(raw[i].value[e]);
        sum[e] = fma(value, value, sum[e]);
      }
    }
  }
}

// The same where columns lie in memory in another way, or the last ones are fewer.
template <class Dtype>
__device__ __forceinline__ void add_squares_singly(const Activations<Dtype>& activations, int64_t column, int64_t token,
                                                   int64_t end, double (&sum)[kVector]) {
  for (; token < end; token += kSquareWarps) {
    if (!activations.counts(token)) continue;
#pragma unroll
    for (int e = 0; e < kVector; ++e) {
      if (column + e >= activations.columns) continue;
      const double value = Dtype::widen(activations.x[token * activations.stride + column + e]);
      sum[e] = fma(value, value, sum[e]);
    }
  }
}

// partial [splits, columns]: one block for each strip of columns (x) and range of tokens (y).
template <class Dtype>
__global__ void __launch_bounds__(kSquareThreads, 2) sum_squares(Activations<Dtype> activations, double* partial) {
  __shared__ double sums[kSquareWarps][kStrip];
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int64_t strip = static_cast<int64_t>(blockIdx.x) * kStrip, column = strip + lane * kVector;
  const int64_t begin = activations.tokens * blockIdx.y / gridDim.y;
  const int64_t end = activations.tokens * (blockIdx.y + 1) / gridDim.y;
  double sum[kVector] = {};
  if (activations.aligned && column + kVector <= activations.columns) {
    add_squares(activations, column, begin + warp, end, sum);
  } else {
    add_squares_singly(activations, column, begin + warp, end, sum);
  }
#pragma unroll
  for (int e = 0; e < kVector; ++e) sums[warp][lane * kVector + e] = sum[e];
  __syncthreads();
  const int64_t own = strip + threadIdx.x;
  if (own >= activations.columns) return;
  double total = 0;
#pragma unroll
  for (int i = 0; i < kSquareWarps; ++i) total += sums[i][threadIdx.x];
  partial[blockIdx.y * activations.columns + own] = total;
}

// A warp of a block sums every eighth range for 32 columns; the block adds them up, rounded once, into acc.
template <class Accumulator>
__global__ void __launch_bounds__(kSquareThreads)
    add_partial_sums(const double* partial, int64_t splits, int64_t columns, Accumulator* acc) {
  __shared__ double sums[kSquareWarps][kWarp];
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kWarp + lane;
  double sum = 0;
  if (column < columns) {
#pragma unroll 4
    for (int64_t split = warp; split < splits; split += kSquareWarps) sum += partial[split * columns + column];
  }
  sums[warp][lane] = sum;
  __syncthreads();
  if (warp != 0 || column >= columns) return;
  double total = 0;
#pragma unroll
  for (int i = 0; i < kSquareWarps; ++i) total += sums[i][lane];
  acc[column] = static_cast<Accumulator>(static_cast<double>(acc[column]) + total);
}

}  // namespace
}  // namespace trim
