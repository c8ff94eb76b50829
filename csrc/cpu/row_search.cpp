#include "row_search.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "row_metrics.h"
#include "row_rounding.h"

namespace trim {
namespace {

// 2 rate (d - mean d), d = (quality - min) / (max - min + 1e-6)
void change_of(const std::vector<double>& quality, double rate, std::vector<double>& change) {
  const auto [low, high] = std::minmax_element(quality.begin(), quality.end());
  const double range = *high - *low + 1e-6;
  double sum = 0;
  for (size_t i = 0; i < quality.size(); ++i) sum += change[i] = (quality[i] - *low) / range * (2 * rate);
  const double mean = sum / static_cast<double>(quality.size());
  for (double& value : change) value -= mean;
}

}  // namespace

int search_rows(void* state, RowOutputs& outputs) {
  const RowSearch& search = *static_cast<const RowSearch*>(state);
  const tk_search& options = search.options;
  const int64_t trials = 1 + options.positive_rates + options.negative_rates, width = 1 + options.iterations;
  std::fill(search.trace, search.trace + trials * width, std::numeric_limits<double>::quiet_NaN());

  const auto rounding = make_rounding(search.rows, search.columns, options);
  std::vector<double> row_quality(search.rows), change(search.rows);
  std::vector<int32_t> counts(search.rows);
  double quality = 0;
  int status = TK_OK;
  const auto evaluate = [&](const Shares& shares) {
    rounding->counts(shares, counts.data());
    status = outputs.evaluate(counts.data());
    const Shape shape{search.rows, search.tokens};
    quality = layer_quality(options.layer_metric, outputs.statistics, shape);
    row_qualities(options.row_metric, outputs.statistics, shape, row_quality.data());
    return status == TK_OK;
  };

  const Shares uniform = rounding->uniform();
  if (!evaluate(uniform)) return status;
  const double baseline = quality;
  const std::vector<double> uniform_quality = row_quality;
  search.trace[0] = baseline;

  Shares best_shares = uniform;
  double best_quality = baseline;
  int64_t first = 0;
  for (const int64_t size : {options.positive_rates, options.negative_rates}) {
    double previous = -std::numeric_limits<double>::infinity();
    for (int64_t rate = first; rate < first + size; ++rate) {
      double* trace = search.trace + (1 + rate) * width;
      trace[0] = baseline;
      Shares shares = uniform, found = uniform;
      double found_quality = baseline;
      row_quality = uniform_quality;
      for (int64_t iteration = 1; iteration <= options.iterations; ++iteration) {
        change_of(row_quality, options.rates[rate], change);
        rounding->change(shares, change);
        if (!evaluate(shares)) return status;
        trace[iteration] = quality;
        if (quality > found_quality) {
          found_quality = quality;
          found = shares;
        }
      }
      if (found_quality > best_quality) {
        best_quality = found_quality;
        best_shares = found;
      }
      if (!(found_quality > previous)) break;
      previous = found_quality;
    }
    if (best_quality > baseline) break;
    first += size;
  }
  rounding->finish(best_shares, search.prune_count);
  return TK_OK;
}

}  // namespace trim
