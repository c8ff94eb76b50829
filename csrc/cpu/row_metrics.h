// Qualities that follow from the statistics of the rows; the C++ side of metrics.py.
#pragma once
#include <cstdint>

#include "row_outputs.h"
#include "trim_kernels.h"

namespace trim {

struct Shape {
  int64_t rows, tokens;
};

// Quality of each row, in [rows].
void row_qualities(tk_row_metric metric, const RowStatistics& statistics, Shape shape, double* quality);

double layer_quality(tk_layer_metric metric, const RowStatistics& statistics, Shape shape);

}  // namespace trim
