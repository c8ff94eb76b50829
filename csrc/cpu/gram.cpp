// gram: the lower triangle of x^T x in square tiles, each by one thread.
//
// For some tokens at a time a tile's columns are widened into panels that a register-blocked product reads in order. It
// sums these tokens in float32 and joins them to the tile in float64: the tile is rounded once, into acc.
#include "activations.h"
#include "kernels.h"
#include "vector.h"

namespace trim {
namespace {

#if defined(__AVX512F__)
constexpr int kVecs = 2, kRows = 8;  // vectors of a panel's columns, and rows, whose sums stay in registers
#else
constexpr int kVecs = 3, kRows = 4;
#endif
constexpr int kPanel = kVecs * kLanes;  // columns of a panel
constexpr int kTile = 192;              // columns of a tile
constexpr int kDepth = 128;             // tokens summed in float32
constexpr int kPanels = kTile / kPanel;
static_assert(kTile % kPanel == 0 && kPanel % kRows == 0);

struct Job {
  const tk_activations& activations;
  float* acc;
  int64_t stride;
};

// Columns [first, first + kTile) of some tokens as panels [kPanels][kDepth][kPanel]; zeros beyond the last column.
template <class Dtype>
void pack(const typename Dtype::Storage* const* tokens, int count, int64_t first, int64_t columns, float* panels) {
  const int width = static_cast<int>(kTile < columns - first ? kTile : columns - first);
  for (int t = 0; t < count; ++t) {
    const auto* x = tokens[t] + first;
    for (int begin = 0; begin < kTile; begin += kPanel) {
      float* out = panels + begin * kDepth + t * kPanel;
      if (begin + kPanel <= width) {
        for (int c = 0; c < kPanel; ++c) out[c] = Dtype::widen(x[begin + c]);
      } else {
        for (int c = 0; c < kPanel; ++c) out[c] = begin + c < width ? Dtype::widen(x[begin + c]) : 0.0f;
      }
    }
  }
}

// sums[row][column] += sum over tokens of left[token][row] * right[token][column], for kRows rows and a whole panel.
inline void multiply(const float* left, const float* right, int tokens, double* sums) {
  Vec products[kRows][kVecs] = {};
  for (int t = 0; t < tokens; ++t) {
    const float* a = left + t * kPanel;
    const Vec* b = reinterpret_cast<const Vec*>(right + t * kPanel);
    for (int row = 0; row < kRows; ++row) {
      for (int v = 0; v < kVecs; ++v) products[row][v] += a[row] * b[v];
    }
  }
  for (int row = 0; row < kRows; ++row) {
    const float* product = reinterpret_cast<const float*>(products[row]);
    DoubleVec* out = reinterpret_cast<DoubleVec*>(sums + row * kTile);
    for (int v = 0; v < 2 * kVecs; ++v) out[v] += widen(product + v * (kLanes / 2));
  }
}

class Tile {
 public:
  // Adds rows [row, row + kTile) and columns [column, column + kTile) of the lower triangle of x^T x to acc.
  template <class Dtype>
  void add(const Job& job, int64_t row, int64_t column) {
    const int64_t columns = job.activations.columns;
    const bool diagonal = row == column;
    std::memset(sums_, 0, sizeof sums_);
    Tokens<Dtype> tokens(job.activations);
    const typename Dtype::Storage* x[kDepth];
    while (const int count = tokens.next(x, kDepth)) {
      pack<Dtype>(x, count, column, columns, right_);
      if (!diagonal) pack<Dtype>(x, count, row, columns, left_);
      multiply_panels(diagonal ? right_ : left_, right_, count, diagonal);
    }
    for (int64_t i = row; i < row + kTile && i < columns; ++i) {
      float* out = job.acc + i * job.stride + column;
      const double* sums = sums_ + (i - row) * kTile;
      const int64_t width = diagonal ? i - row + 1 : kTile;
      for (int64_t j = 0; j < width; ++j) out[j] = static_cast<float>(out[j] + sums[j]);
    }
  }

 private:
  void multiply_panels(const float* left, const float* right, int tokens, bool diagonal) {
    for (int panel = 0; panel < kPanels; ++panel) {
      const int column = panel * kPanel;
      for (int row = diagonal ? column : 0; row < kTile; row += kRows) {
        multiply(left + row / kPanel * kPanel * kDepth + row % kPanel, right + column * kDepth, tokens,
                 sums_ + row * kTile + column);
      }
    }
  }

  alignas(64) float left_[kTile * kDepth], right_[kTile * kDepth];  // panels
  alignas(64) double sums_[kTile * kTile];
};

// Tiles of the lower triangle are numbered row after row.
void work(const void* context, RowQueue& queue) {
  const Job& job = *static_cast<const Job*>(context);
  Tile* const tile = new Tile;  // too large for a thread's stack
  int64_t row = 0;
  for (int64_t index, end; queue.take(&index, &end);) {
    while ((row + 1) * (row + 2) / 2 <= index) ++row;
    const int64_t column = index - row * (row + 1) / 2;
    with_dtype(job.activations.dtype,
               [&](auto dtype) { tile->add<decltype(dtype)>(job, row * kTile, column * kTile); });
  }
  delete tile;
}

}  // namespace

namespace TRIM_ISA {

int gram(const tk_activations* activations, float* acc, int64_t stride, int threads) {
  const int64_t tiles = (activations->columns + kTile - 1) / kTile;
  const Job job{*activations, acc, stride};
  return on_threads(tiles * (tiles + 1) / 2, 1, threads, work, &job);
}

}  // namespace TRIM_ISA
}  // namespace trim
