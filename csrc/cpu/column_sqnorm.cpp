// column_sqnorm: the sum of squares of every column, in float64, token after token.
//
// A square of float32 is exact in float64 and each column is summed in one order, so every instruction set and every
// number of threads gives the same bits.
#include "activations.h"
#include "kernels.h"

namespace trim {
namespace {

constexpr int64_t kStrip = 512;  // columns whose sums stay in the first-level cache
constexpr int kTokens = 8;       // added to a sum before it is stored

struct Job {
  const tk_activations& activations;
  void* acc;
  int acc_is_double;
};

template <class Dtype>
void sum_strip(const tk_activations& activations, int64_t first, int64_t width, double* sums) {
  using Storage = typename Dtype::Storage;
  static constexpr Storage kZeros[kStrip] = {};
  std::memset(sums, 0, sizeof(double) * static_cast<size_t>(width));
  Tokens<Dtype> tokens(activations);
  const Storage* x[kTokens];
  while (const int count = tokens.next(x, kTokens)) {
    for (int i = 0; i < kTokens; ++i) x[i] = i < count ? x[i] + first : kZeros;
    for (int64_t c = 0; c < width; ++c) {
      double sum = sums[c];
      for (int i = 0; i < kTokens; ++i) {
        const double value = Dtype::widen(x[i][c]);
        sum += value * value;
      }
      sums[c] = sum;
    }
  }
}

template <class Accumulator>
void add(void* acc, int64_t first, int64_t width, const double* sums) {
  Accumulator* out = static_cast<Accumulator*>(acc) + first;
  for (int64_t c = 0; c < width; ++c) out[c] = static_cast<Accumulator>(static_cast<double>(out[c]) + sums[c]);
}

void work(const void* context, RowQueue& queue) {
  const Job& job = *static_cast<const Job*>(context);
  alignas(64) double sums[kStrip];
  for (int64_t first, end; queue.take(&first, &end);) {
    with_dtype(job.activations.dtype, [&](auto dtype) {
      sum_strip<decltype(dtype)>(job.activations, first, end - first, sums);
    });
    if (job.acc_is_double) {
      add<double>(job.acc, first, end - first, sums);
    } else {
      add<float>(job.acc, first, end - first, sums);
    }
  }
}

}  // namespace

namespace TRIM_ISA {

int column_sqnorm(const tk_activations* activations, void* acc, int acc_is_double, int threads) {
  const Job job{*activations, acc, acc_is_double};
  // A thread takes longer to begin than to sum so many values.
  constexpr int64_t kWorthAThread = 1 << 19;
  const int64_t worth = 1 + activations->tokens * activations->columns / kWorthAThread;
  return on_threads(activations->columns, kStrip, worth < threads ? static_cast<int>(worth) : threads, work, &job);
}

}  // namespace TRIM_ISA
}  // namespace trim
