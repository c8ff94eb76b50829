// The outputs of every row while a search tries prune counts: what the kernels of an instruction set offer the search.
#pragma once
#include <cstdint>

namespace trim {

// Per row, with y the dense output and e its part from pruned weights.
struct RowStatistics {
  double *dense_sq, *dropped_sq, *cross, *peak;
};

class RowOutputs {
 public:
  // Brings the statistics to these counts. Returns a tk_status.
  virtual int evaluate(const int32_t* prune_count) = 0;

  RowStatistics statistics;

 protected:
  ~RowOutputs() = default;
};

// Runs a search on the outputs of a matrix; returns a tk_status.
using Search = int (*)(void* search, RowOutputs& outputs);

}  // namespace trim
