// Qualities of rows and layers from their statistics: the formulas of trim_kernels.RowQuality, for CPU and GPU.
#pragma once
#include <cmath>

#include "score_key.h"
#include "trim_kernels.h"

namespace trim {
namespace {

constexpr double kEpsilon = 1e-8;        // added to each norm of a cosine
constexpr double kPowerEpsilon = 1e-10;  // added to the error power inside a logarithm

// With y the dense output of a row (or of the whole layer) and e its part from pruned weights.
struct Statistics {
  double dense_sq, dropped_sq, cross, peak;  // |y|^2, |e|^2, <y, e>, max y^2
};

TRIM_INLINE double cosine_of(const Statistics& s) {
  const double difference = s.dense_sq - 2 * s.cross + s.dropped_sq;
  const double kept_sq = difference > 0 ? difference : 0;
  const double norms = (sqrt(s.dense_sq) + kEpsilon) * (sqrt(kept_sq) + kEpsilon);
  const double cosine = (s.dense_sq - s.cross) / norms;
  return cosine < -1 ? -1 : cosine > 1 ? 1 : cosine;
}

TRIM_INLINE double decibel(double power, double error) {
  return power > 0 ? 10 * log10(power / (error + kPowerEpsilon)) : 0;
}

TRIM_INLINE double row_quality(tk_row_metric metric, const Statistics& s, int64_t tokens) {
  const double mse = s.dropped_sq / static_cast<double>(tokens);
  switch (metric) {
    case TK_ROW_MSE:
      return -mse;
    case TK_ROW_PSNR:
      return decibel(s.peak, mse);
    default:
      return cosine_of(s);
  }
}

// Whether a layer metric is the mean of a row metric, and of which.
TRIM_INLINE bool is_mean_over_rows(tk_layer_metric metric, tk_row_metric* of) {
  switch (metric) {
    case TK_LAYER_COSINE_ROWS:
      *of = TK_ROW_COSINE;
      return true;
    case TK_LAYER_MSE_ROWS:
      *of = TK_ROW_MSE;
      return true;
    case TK_LAYER_PSNR_ROWS:
      *of = TK_ROW_PSNR;
      return true;
    default:
      return false;
  }
}

// The other layer metrics, from the sums (of the peaks the maximum) over all rows; size = rows * tokens.
TRIM_INLINE double layer_quality(tk_layer_metric metric, const Statistics& sums, double size) {
  const double mse = sums.dropped_sq / size;
  switch (metric) {
    case TK_LAYER_MSE:
      return -mse;
    case TK_LAYER_SNR:
      return mse < kPowerEpsilon ? static_cast<double>(INFINITY) : decibel(sums.dense_sq / size, mse);
    case TK_LAYER_PSNR:
      return decibel(sums.peak, mse);
    default:
      return cosine_of(sums);
  }
}

}  // namespace
}  // namespace trim
