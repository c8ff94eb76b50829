// The kernels of one instruction set. Each <op>.cpp is compiled once per instruction set, with TRIM_ISA naming the
// namespace, and dispatch.cpp picks a table at run time: one binary serves every processor.
#pragma once
#include <cstdint>

#include "row_outputs.h"
#include "trim_kernels.h"

namespace trim {

// Prepares the outputs of a matrix and runs a search on them.
using WithRowOutputs = int (*)(const tk_scored*, const float* inputs, int64_t tokens, int threads, Search, void* state);

struct Kernels {
  const char* name;
  decltype(&tk_row_threshold) row_threshold;
  decltype(&tk_row_mask) row_mask;
  decltype(&tk_prune_rows) prune_rows;
  decltype(&tk_row_order) row_order;
  decltype(&tk_row_quality) row_quality;
  WithRowOutputs with_row_outputs;
  decltype(&tk_nm_rank) nm_rank;
  decltype(&tk_nm_mask) nm_mask;
  decltype(&tk_prune_nm) prune_nm;
  decltype(&tk_column_sqnorm) column_sqnorm;
  decltype(&tk_gram) gram;
  decltype(&tk_obs_update) obs_update;
  decltype(&tk_row_error_curve) row_error_curve;
  decltype(&tk_packing_starts) packing_starts;
  decltype(&tk_pack_values) pack_values;
  decltype(&tk_unpack_values) unpack_values;
};

#define TRIM_DECLARE_KERNELS(isa)                                                                        \
  namespace isa {                                                                                        \
  int row_threshold(const tk_scored*, const int32_t*, int32_t*, int32_t*, int);                          \
  int row_mask(const tk_scored*, const int32_t*, int, uint8_t*, int);                                    \
  int prune_rows(const tk_scored*, const int32_t*, const int32_t*, int);                                 \
  int row_order(const tk_scored*, int32_t*, int);                                                        \
  int row_quality(const tk_scored*, const int32_t*, const float*, int64_t, double*, int);                \
  int with_row_outputs(const tk_scored*, const float*, int64_t, int, Search, void*);                     \
  int nm_rank(const tk_scored*, int, uint8_t*, int);                                                     \
  int nm_mask(const tk_scored*, int, int, int, uint8_t*, int);                                           \
  int prune_nm(const tk_scored*, int, int, int);                                                         \
  int column_sqnorm(const tk_activations*, void*, int, int);                                             \
  int gram(const tk_activations*, float*, int64_t, int);                                                 \
  int obs_update(const tk_elimination*, int);                                                            \
  int row_error_curve(const tk_scored*, const float*, int64_t, int64_t, int64_t, float*, int);           \
  int packing_starts(const tk_packing*, int);                                                            \
  int pack_values(const tk_packing*, int);                                                               \
  int unpack_values(const tk_packing*, int);                                                             \
  constexpr Kernels kernels{#isa,           row_threshold,    row_mask,    prune_rows,      row_order,   \
                            row_quality,    with_row_outputs, nm_rank,     nm_mask,         prune_nm,    \
                            column_sqnorm,  gram,             obs_update,  row_error_curve,              \
                            packing_starts, pack_values,      unpack_values};                            \
  }

TRIM_DECLARE_KERNELS(baseline)
#ifdef TRIM_X86
TRIM_DECLARE_KERNELS(avx2)
TRIM_DECLARE_KERNELS(avx512)
#endif

}  // namespace trim
