// gram of float32: the lower triangle of x^T x in square tiles, each by one block, tokens in order.
//
// Tokens pass in chunks through a ring in shared memory. A tile's product is summed over 128 tokens, then joined to
// what came before: the error of a long sum grows with its length.
#pragma once
#include <async_copy.cuh>

#include "column_sqnorm.cuh"
#include "dynamic_shared.cuh"

namespace trim {
namespace {

constexpr int kGramTile = 128, kGramThreads = 256, kGramStages = 3;
constexpr int kTokensOfProduct = 128;  // summed before they are joined to the rest
constexpr int kSide = 8;               // a thread has kSide x kSide elements of the tile

// Products in float32: plain multiply-adds, every bit kept.
struct Tile {
  static constexpr int kTokens = 16;
  static constexpr int kTokenBytes = kGramTile * 4;

  __device__ __forceinline__ static int row(int r) { return in_halves(threadIdx.x / 16, r); }
  __device__ __forceinline__ static int column(int c) { return in_halves(threadIdx.x % 16, c); }
  __device__ __forceinline__ static constexpr int place(int r, int c) { return r * kSide + c; }

  __device__ __forceinline__ static void multiply(const unsigned char* left, const unsigned char* right,
                                                  float (&products)[kSide * kSide]) {
#pragma unroll 4
    for (int t = 0; t < kTokens; ++t) {
      float a[kSide], b[kSide];
#pragma unroll
      for (int half = 0; half < kSide; half += 4) {
        load(left + t * kTokenBytes + row(half) * 4, a + half);
        load(right + t * kTokenBytes + column(half) * 4, b + half);
      }
#pragma unroll
      for (int r = 0; r < kSide; ++r) {
#pragma unroll
        for (int c = 0; c < kSide; ++c) products[place(r, c)] = fmaf(a[r], b[c], products[place(r, c)]);
      }
    }
  }

 private:
  // Four of one half of the tile, four of the other: a quarter of a warp then loads 128 bytes that lie together.
  __device__ __forceinline__ static int in_halves(int thread, int i) { return i / 4 * 64 + thread * 4 + i % 4; }
  __device__ __forceinline__ static void load(const unsigned char* from, float* values) {
    const float4 four = *reinterpret_cast<const float4*>(from);
    values[0] = four.x, values[1] = four.y, values[2] = four.z, values[3] = four.w;
  }
};

// Where a thread's piece of 16 bytes of a token lies, for one operand.
struct PieceOfTokens {
  using Storage = Float32::Storage;
  static constexpr int kColumns = 4;

  __device__ __forceinline__ PieceOfTokens(const Activations<Float32>& activations, int64_t token, int64_t column)
      : next(activations.x + token * activations.stride + column),
        columns(static_cast<int>(min(max(activations.columns - column, int64_t{0}), int64_t{kColumns}))),
        whole(activations.aligned && columns == kColumns) {}

  // Zeros for what is not there. Neither way waits.
  __device__ __forceinline__ void copy(int64_t distance, bool counts, unsigned char* to) const {
    const Storage* const from = next + distance;
    if (whole) return copy_16_async(to, from, counts);
    Storage values[kColumns];
#pragma unroll
    for (int e = 0; e < kColumns; ++e) values[e] = counts && e < columns ? from[e] : Storage{0};
    Bytes16 piece;
    memcpy(&piece, values, sizeof piece);
    *reinterpret_cast<Bytes16*>(to) = piece;
  }

  const Storage* next;
  int columns;  // that are there
  bool whole;   // and can be read at once
};

constexpr int kChunkBytes = Tile::kTokens * Tile::kTokenBytes;  // of one operand

// Brings chunks of tokens to shared memory, for the tile's rows and, off the diagonal, for its columns.
class Chunks {
 public:
  __device__ __forceinline__ Chunks(const Activations<Float32>& activations, int64_t row, int64_t column)
      : activations_(activations),
        row_(activations, own_token(), row + own_column()),
        column_(activations, own_token(), column + own_column()),
        diagonal_(row == column) {
    look_at_mask();
  }

  // Begins to copy the next chunk.
  __device__ __forceinline__ void copy(int stage) {
    unsigned char* const to = left(stage) + own_token() * Tile::kTokenBytes + own_column() * sizeof(Storage);
#pragma unroll
    for (int i = 0; i < kPieces; ++i) {
      const int64_t distance = i * kTokensAtOnce * activations_.stride;
      unsigned char* const place = to + i * kTokensAtOnce * Tile::kTokenBytes;
      row_.copy(distance, counts_[i], place);
      if (!diagonal_) column_.copy(distance, counts_[i], place + kChunkBytes);
    }
    copy_async_commit();
    row_.next += Tile::kTokens * activations_.stride;
    column_.next += Tile::kTokens * activations_.stride;
    token_ += Tile::kTokens;
    look_at_mask();
  }

  __device__ __forceinline__ static unsigned char* left(int stage) {
    return trim_dynamic_shared + stage * 2 * kChunkBytes;
  }
  __device__ __forceinline__ unsigned char* right(int stage) const {
    return left(stage) + (diagonal_ ? 0 : kChunkBytes);
  }

 private:
  using Storage = Float32::Storage;
  static constexpr int kPiecesOfToken = kGramTile * sizeof(Storage) / 16;
  static constexpr int kTokensAtOnce = kGramThreads / kPiecesOfToken;
  static constexpr int kPieces = Tile::kTokens / kTokensAtOnce;  // of a thread

  __device__ __forceinline__ static int own_token() { return threadIdx.x / kPiecesOfToken; }
  __device__ __forceinline__ static int own_column() { return threadIdx.x % kPiecesOfToken * (16 / sizeof(Storage)); }

  // One chunk ahead, so that the copies need not wait for the mask.
  __device__ __forceinline__ void look_at_mask() {
#pragma unroll
    for (int i = 0; i < kPieces; ++i) {
      const int64_t token = token_ + i * kTokensAtOnce;
      counts_[i] = token < activations_.tokens && activations_.counts(token);
    }
  }

  const Activations<Float32>& activations_;
  PieceOfTokens row_, column_;
  const bool diagonal_;
  int64_t token_ = own_token();
  bool counts_[kPieces];
};

// Adds four neighbouring elements of the lower triangle.
__device__ __forceinline__ void add_four(float* acc, const float (&sums)[4], int64_t row, int64_t column) {
  if (column + 3 <= row && reinterpret_cast<uintptr_t>(acc) % 16 == 0) {
    float4 four = *reinterpret_cast<float4*>(acc);
    four.x += sums[0], four.y += sums[1], four.z += sums[2], four.w += sums[3];
    *reinterpret_cast<float4*>(acc) = four;
    return;
  }
#pragma unroll
  for (int e = 0; e < 4; ++e) {
    if (column + e <= row) acc[e] += sums[e];
  }
}

// Tiles of the lower triangle are numbered row after row.
__device__ __forceinline__ int64_t row_of_tile(int64_t index) {
  int64_t row = static_cast<int64_t>(sqrtf(2.0f * static_cast<float>(index)));
  while (row * (row + 1) / 2 > index) --row;
  while ((row + 1) * (row + 2) / 2 <= index) ++row;
  return row;
}

__global__ void __launch_bounds__(kGramThreads, 1)
    add_gram(Activations<Float32> activations, float* acc, int64_t acc_stride) {
  constexpr int kChunksOfProduct = kTokensOfProduct / Tile::kTokens;
  const int64_t tile_row = row_of_tile(blockIdx.x);
  const int64_t first_row = tile_row * kGramTile;
  const int64_t first_column = (blockIdx.x - tile_row * (tile_row + 1) / 2) * kGramTile;
  const int64_t chunks = (activations.tokens + Tile::kTokens - 1) / Tile::kTokens;
  Chunks ring(activations, first_row, first_column);
  float sums[kSide * kSide] = {};
#pragma unroll
  for (int stage = 0; stage < kGramStages - 1; ++stage) ring.copy(stage);
  int stage = 0;
  for (int64_t begin = 0; begin < chunks; begin += kChunksOfProduct) {
    float products[kSide * kSide] = {};
#pragma unroll 1
    for (int64_t chunk = begin; chunk < min(begin + kChunksOfProduct, chunks); ++chunk) {
      copy_async_wait<kGramStages - 2>();
      __syncthreads();
      ring.copy((stage + kGramStages - 1) % kGramStages);
      Tile::multiply(ring.left(stage), ring.right(stage), products);
      stage = (stage + 1) % kGramStages;
    }
#pragma unroll
    for (int i = 0; i < kSide * kSide; ++i) sums[i] += products[i];
  }
  copy_async_wait<0>();
#pragma unroll
  for (int r = 0; r < kSide; ++r) {
    const int64_t row = first_row + Tile::row(r);
    if (row >= activations.columns) continue;
#pragma unroll
    for (int c = 0; c < kSide; c += 4) {
      const int64_t column = first_column + Tile::column(c);
      const float four[4] = {sums[Tile::place(r, c)], sums[Tile::place(r, c + 1)], sums[Tile::place(r, c + 2)],
                             sums[Tile::place(r, c + 3)]};
      add_four(acc + row * acc_stride + column, four, row, column);
    }
  }
}

}  // namespace
}  // namespace trim
