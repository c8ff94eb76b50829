#include "row_metrics.h"

#include <algorithm>

#include "row_quality.h"

namespace trim {
namespace {

Statistics of_row(const RowStatistics& s, int64_t i) { return {s.dense_sq[i], s.dropped_sq[i], s.cross[i], s.peak[i]}; }

}  // namespace

void row_qualities(tk_row_metric metric, const RowStatistics& statistics, Shape shape, double* quality) {
  for (int64_t i = 0; i < shape.rows; ++i) quality[i] = row_quality(metric, of_row(statistics, i), shape.tokens);
}

double layer_quality(tk_layer_metric metric, const RowStatistics& statistics, Shape shape) {
  tk_row_metric row_metric;
  const bool is_mean = is_mean_over_rows(metric, &row_metric);
  Statistics sums = {};
  double mean = 0;
  for (int64_t i = 0; i < shape.rows; ++i) {
    const Statistics row = of_row(statistics, i);
    sums.dense_sq += row.dense_sq;
    sums.dropped_sq += row.dropped_sq;
    sums.cross += row.cross;
    sums.peak = std::max(sums.peak, row.peak);
    if (is_mean) mean += row_quality(row_metric, row, shape.tokens);
  }
  const double rows = static_cast<double>(shape.rows);
  return is_mean ? mean / rows : layer_quality(metric, sums, rows * static_cast<double>(shape.tokens));
}

}  // namespace trim
