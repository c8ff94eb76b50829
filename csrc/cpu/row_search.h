// TRIM's search over the prune counts of the rows; the C++ side of search.py.
#pragma once
#include "row_outputs.h"
#include "trim_kernels.h"

namespace trim {

struct RowSearch {
  const tk_search& options;
  int64_t rows, columns, tokens;
  int32_t* prune_count;  // [rows], the result
  double* trace;         // [1 + rates, 1 + iterations], NaN where nothing was tried
};

// A Search (see row_outputs.h) whose state is a RowSearch.
int search_rows(void* state, RowOutputs& outputs);

}  // namespace trim
