// Products of a few weight rows with all inputs: the part that row_quality and allocate_rows share.
#pragma once
#include "row_keys.h"
#include "vector.h"

namespace trim {
namespace {

constexpr int kTile = 8 * kLanes;  // tokens whose running sums stay in registers
constexpr int kRows = 8;           // weight rows multiplied at once
constexpr int64_t kBlock = 256;    // columns summed before the sum joins the result: shorter sums round less
constexpr int64_t kInPlace = 256;  // tokens up to which tiles of the inputs as they come use the caches well enough

// Inputs [columns, tokens] as tiles of kTile tokens, the last one padded with zeros, so that every access is aligned
// and whole and a tile's columns lie close together. Where the inputs are so already, they are not copied.
class TiledInputs {
 public:
  TiledInputs(const float* inputs, int64_t columns, int64_t tokens)
      : tiles_((tokens + kTile - 1) / kTile),
        in_place_(tokens <= kInPlace && tokens % kTile == 0 &&
                  reinterpret_cast<uintptr_t>(inputs) % alignof(Vec) == 0),
        tile_stride_(in_place_ ? kTile : columns * kTile),
        column_stride_(in_place_ ? tokens : kTile),
        copy_(in_place_ ? 0 : tiles_ * columns * kTile),
        data_(in_place_ ? inputs : copy_) {
    if (in_place_) return;
    float* out = copy_;
    for (int64_t tile = 0; tile < tiles_; ++tile) {
      const int64_t first = tile * kTile, width = kTile < tokens - first ? kTile : tokens - first;
      for (int64_t column = 0; column < columns; ++column, out += kTile) {
        std::memcpy(out, inputs + column * tokens + first, sizeof(float) * static_cast<size_t>(width));
        std::memset(out + width, 0, sizeof(float) * static_cast<size_t>(kTile - width));
      }
    }
  }
  int64_t tiles() const { return tiles_; }
  int64_t padded_tokens() const { return tiles_ * kTile; }
  int64_t column_stride() const { return column_stride_; }
  const float* tile(int64_t index) const { return data_ + index * tile_stride_; }

 private:
  const int64_t tiles_;
  const bool in_place_;
  const int64_t tile_stride_, column_stride_;
  Buffer<float> copy_;
  const float* const data_;
};

inline void zero(float* values, int64_t size) { std::memset(values, 0, sizeof(float) * static_cast<size_t>(size)); }

inline bool all_finite(const float* values, int64_t size) {
  uint32_t bad = 0;
  for (int64_t i = 0; i < size; ++i) bad |= !Float32::is_finite(bits_of(values[i]));
  return bad == 0;
}

// False for infinity and for NaN. Not the standard library's, whose code this file must not emit.
inline bool is_finite(double value) { return value - value == 0; }

// out[row][token] = sum over columns of weights[column][row] * inputs[column][token], for kRows rows.
inline void multiply_rows(const float* weights, int64_t columns, const TiledInputs& inputs, float* out) {
  constexpr int kWidth = kLanes >= 16 ? 2 : 1;  // vectors of tokens at once: 8 * kWidth sums fill the registers
  const int64_t stride = inputs.padded_tokens();
  zero(out, kRows * stride);
  for (int64_t tile = 0; tile < inputs.tiles(); ++tile) {
    for (int64_t first = 0; first < columns; first += kBlock) {
      const int64_t last = first + kBlock < columns ? first + kBlock : columns;
      for (int part = 0; part < kTile; part += kWidth * kLanes) {
        Vec sums[kRows][kWidth] = {};
        for (int64_t column = first; column < last; ++column) {
          const Vec* x = reinterpret_cast<const Vec*>(inputs.tile(tile) + column * inputs.column_stride() + part);
          const float* w = weights + column * kRows;
          for (int row = 0; row < kRows; ++row) {
            for (int v = 0; v < kWidth; ++v) sums[row][v] += w[row] * x[v];
          }
        }
        for (int row = 0; row < kRows; ++row) {
          Vec* y = reinterpret_cast<Vec*>(out + row * stride + tile * kTile + part);
          for (int v = 0; v < kWidth; ++v) y[v] += sums[row][v];
        }
      }
    }
  }
}

}  // namespace
}  // namespace trim
