#include "row_metrics.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace trim {
namespace {

constexpr double kEpsilon = 1e-8;        // added to each norm of a cosine
constexpr double kPowerEpsilon = 1e-10;  // added to the error power inside a logarithm

double cosine(double dense_sq, double dropped_sq, double cross) {
  const double kept_sq = std::max(dense_sq - 2 * cross + dropped_sq, 0.0);
  const double norms = (std::sqrt(dense_sq) + kEpsilon) * (std::sqrt(kept_sq) + kEpsilon);
  return std::clamp((dense_sq - cross) / norms, -1.0, 1.0);
}

double decibel(double power, double error) { return power > 0 ? 10 * std::log10(power / (error + kPowerEpsilon)) : 0; }

template <class Value>
double sum_over(int64_t rows, Value value) {
  double sum = 0;
  for (int64_t i = 0; i < rows; ++i) sum += value(i);
  return sum;
}

double sum_of(const double* values, int64_t rows) {
  return sum_over(rows, [=](int64_t i) { return values[i]; });
}

double row_quality(tk_row_metric metric, const RowStatistics& s, int64_t tokens, int64_t i) {
  const double mse = s.dropped_sq[i] / static_cast<double>(tokens);
  switch (metric) {
    case TK_ROW_MSE:
      return -mse;
    case TK_ROW_PSNR:
      return decibel(s.peak[i], mse);
    default:
      return cosine(s.dense_sq[i], s.dropped_sq[i], s.cross[i]);
  }
}

double mean_over_rows(tk_row_metric metric, const RowStatistics& statistics, Shape shape) {
  const double sum = sum_over(shape.rows, [&](int64_t i) { return row_quality(metric, statistics, shape.tokens, i); });
  return sum / static_cast<double>(shape.rows);
}

}  // namespace

void row_qualities(tk_row_metric metric, const RowStatistics& statistics, Shape shape, double* quality) {
  for (int64_t i = 0; i < shape.rows; ++i) quality[i] = row_quality(metric, statistics, shape.tokens, i);
}

double layer_quality(tk_layer_metric metric, const RowStatistics& statistics, Shape shape) {
  const double size = static_cast<double>(shape.rows) * static_cast<double>(shape.tokens);
  const double dense_sq = sum_of(statistics.dense_sq, shape.rows);
  const double dropped_sq = sum_of(statistics.dropped_sq, shape.rows);
  const double mse = dropped_sq / size;
  switch (metric) {
    case TK_LAYER_COSINE_ROWS:
      return mean_over_rows(TK_ROW_COSINE, statistics, shape);
    case TK_LAYER_MSE_ROWS:
      return mean_over_rows(TK_ROW_MSE, statistics, shape);
    case TK_LAYER_PSNR_ROWS:
      return mean_over_rows(TK_ROW_PSNR, statistics, shape);
    case TK_LAYER_MSE:
      return -mse;
    case TK_LAYER_SNR:
      return mse < kPowerEpsilon ? std::numeric_limits<double>::infinity() : decibel(dense_sq / size, mse);
    case TK_LAYER_PSNR:
      return decibel(*std::max_element(statistics.peak, statistics.peak + shape.rows), mse);
    default:
      return cosine(dense_sq, dropped_sq, sum_of(statistics.cross, shape.rows));
  }
}

}  // namespace trim
