// row_error_curve: the squared output error of each row after each of its weights goes.
//
// Let d hold the weights of a row that went before weight u, and q[u] = sum over j of d[j] G[j, u]. When u goes,
// d^T G d grows by w[u] (2 q[u] + w[u] G[u, u]). Each q[u] is a sum over the columns j that go before u, in any order:
// so a row of G is read once for many rows of the weight, whole vectors at a time, and a comparison of ranks says which
// lanes count.
#include "kernels.h"
#include "products.h"
#include "row_sort.h"

namespace trim {
namespace {

constexpr int kVecs = kLanes >= 16 ? 8 : 4;  // sums and ranks of so many vectors fit the registers
constexpr int64_t kWidth = kVecs * kLanes;   // columns u summed at once
constexpr int64_t kDepth = 48;               // columns j summed in float32 before the sum joins q: a tile of G in L1
constexpr int64_t kMostRows = 64;            // rows of the weight that share a tile of G

typedef uint32_t RankVec __attribute__((vector_size(kLanes * sizeof(uint32_t)), may_alias));

struct Job {
  const tk_scored& scored;
  const float* gram;
  int64_t stride, first, last, chunk;
  float* curve;
};

// A few rows of the weight on their way through the Gram matrix.
class Rows {
 public:
  explicit Rows(const Job& job)
      : job_(job),
        columns_(job.scored.columns),
        padded_((columns_ + kWidth - 1) / kWidth * kWidth),
        keys_(columns_),
        order_(columns_),
        sort_(columns_),
        weight_(job.chunk * columns_),
        rank_(job.chunk * padded_),
        growth_(job.chunk * job.last),
        tile_(kDepth * kWidth),
        sums_(job.chunk * kWidth) {
    std::memset(rank_, 0, sizeof(uint32_t) * static_cast<size_t>(job.chunk * padded_));
  }

  // Returns a tk_status.
  int run(int64_t begin, int64_t end) {
    begin_ = begin;
    count_ = end - begin;
    for (int64_t i = 0; i < count_; ++i) {
      if (!load(i)) return TK_BAD_VALUE;
    }
    for (int64_t u = 0; u < columns_; u += kWidth) {
      std::memset(sums_, 0, sizeof(double) * static_cast<size_t>(count_ * kWidth));
      for (int64_t j = 0; j < columns_; j += kDepth) {
        copy_tile(j, u);
        for (int64_t i = 0; i < count_; ++i) add_tile(i, j, u);
      }
      for (int64_t i = 0; i < count_; ++i) grow(i, u);
    }
    for (int64_t i = 0; i < count_; ++i) {
      if (!write(i)) return TK_OVERFLOW;
    }
    return TK_OK;
  }

 private:
  // The weights of a row, and the place of each in pruning order.
  bool load(int64_t i) {
    if (!row_keys(job_.scored, begin_ + i, keys_)) return false;
    sort_(keys_, static_cast<int32_t*>(order_));
    uint32_t* rank = rank_ + i * padded_;
    for (int64_t k = 0; k < columns_; ++k) rank[order_[k]] = static_cast<uint32_t>(k);
    float* weight = weight_ + i * columns_;
    with_dtype(job_.scored, [&](auto dtype) {
      using Dtype = decltype(dtype);
      const auto* from = weight_row<Dtype>(job_.scored, begin_ + i);
      for (int64_t j = 0; j < columns_; ++j) weight[j] = Dtype::widen(from[j]);
    });
    return true;
  }

  int64_t depth(int64_t j) const { return columns_ - j < kDepth ? columns_ - j : kDepth; }
  int64_t width(int64_t u) const { return columns_ - u < kWidth ? columns_ - u : kWidth; }

  // Columns u of rows j of G side by side, whatever the stride; zeros beyond the last column.
  void copy_tile(int64_t j, int64_t u) {
    for (int64_t depth = 0; depth < this->depth(j); ++depth) {
      float* to = tile_ + depth * kWidth;
      std::memcpy(to, job_.gram + (j + depth) * job_.stride + u, sizeof(float) * static_cast<size_t>(width(u)));
      if (width(u) < kWidth) zero(to + width(u), kWidth - width(u));
    }
  }

  void add_tile(int64_t i, int64_t j, int64_t u) {
    const float* weight = weight_ + i * columns_ + j;
    const uint32_t *rank = rank_ + i * padded_, last = static_cast<uint32_t>(job_.last);
    RankVec ranks[kVecs];
    std::memcpy(ranks, rank + u, sizeof ranks);
    Vec sums[kVecs] = {};
    for (int64_t depth = 0; depth < this->depth(j); ++depth) {
      const uint32_t before = rank[j + depth];
      if (before >= last) continue;
      const float w = weight[depth];
      const Vec* g = reinterpret_cast<const Vec*>(tile_ + depth * kWidth);
      for (int v = 0; v < kVecs; ++v) sums[v] = ranks[v] > before ? sums[v] + w * g[v] : sums[v];
    }
    double* total = sums_ + i * kWidth;
    const float* parts = reinterpret_cast<const float*>(sums);
    for (int64_t lane = 0; lane < kWidth; ++lane) total[lane] += parts[lane];
  }

  // What each of the columns adds to the error, in pruning order.
  void grow(int64_t i, int64_t u) {
    for (int64_t lane = 0; lane < width(u); ++lane) {
      const int64_t column = u + lane, rank = (rank_ + i * padded_)[column];
      if (rank >= job_.last) continue;
      const double w = weight_[i * columns_ + column], square = job_.gram[column * job_.stride + column];
      growth_[i * job_.last + rank] = w * (2 * sums_[i * kWidth + lane] + w * square);
    }
  }

  // False if an error is beyond float32.
  bool write(int64_t i) {
    const double* growth = growth_ + i * job_.last;
    float* curve = job_.curve + (begin_ + i) * (job_.last - job_.first + 1);
    double error = 0;
    bool finite = true;
    for (int64_t k = 0; k <= job_.last; ++k) {
      if (k >= job_.first) {
        curve[k - job_.first] = static_cast<float>(error);
        finite &= is_finite(curve[k - job_.first]);
      }
      if (k < job_.last) error += growth[k];
    }
    return finite;
  }

  const Job& job_;
  const int64_t columns_, padded_;
  int64_t begin_ = 0, count_ = 0;
  Buffer<uint32_t> keys_;
  Buffer<int32_t> order_;
  RowSort sort_;
  Buffer<float> weight_;
  Buffer<uint32_t> rank_;
  Buffer<double> growth_;  // [rows, last]
  Buffer<float> tile_;
  Buffer<double> sums_;  // [rows, kWidth]: q of the columns at hand
};

// Equal shares, none above kMostRows, such that all threads end together.
int64_t chunk_rows(int64_t rows, int threads) {
  const int64_t rounds = (rows + threads * kMostRows - 1) / (threads * kMostRows), chunks = rounds * threads;
  return chunks ? (rows + chunks - 1) / chunks : 1;
}

}  // namespace

namespace TRIM_ISA {

int row_error_curve(const tk_scored* scored, const float* gram, int64_t gram_stride, int64_t first, int64_t last,
                    float* curve, int threads) {
  for (int64_t j = 0; j < scored->columns; ++j) {
    if (!all_finite(gram + j * gram_stride, scored->columns)) return TK_BAD_VALUE;
  }
  const int64_t chunk = chunk_rows(scored->rows, threads);
  const Job job{*scored, gram, gram_stride, first, last, chunk, curve};
  return on_threads(
      scored->rows, chunk, threads,
      [](const void* context, RowQueue& queue) {
        const Job& job = *static_cast<const Job*>(context);
        Rows rows(job);
        for (int64_t begin, end; queue.take(&begin, &end);) {
          const int status = rows.run(begin, end);
          if (status != TK_OK) return queue.fail(status);
        }
      },
      &job);
}

}  // namespace TRIM_ISA
}  // namespace trim
