// Every function that the CUDA library exports; trim_kernels.h has the words. No torch, no Python: device pointers,
// sizes, a device and its stream. Nothing here waits for the device.
#pragma once
#include "trim_kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

// Raised with every change of a function or a struct below; callers compare it with tk_cuda_abi().
#define TK_CUDA_ABI 4

// Where and for whom a call runs. All functions return 0 or a cudaError_t.
typedef struct {
  int32_t device;
  void* stream;
  // int32 [1], or NULL. Becomes 1 where weight, score or inputs hold NaN or infinity, a score is negative or a prune
  // count is out of range, 2 where an output is beyond float32. What such rows yield is unspecified, but memory stays
  // safe.
  int32_t* bad;
} tk_cuda_call;

// What a selection writes; NULL where nothing is wanted.
typedef struct {
  int32_t *key, *column;  // [rows], as tk_row_threshold
  uint8_t* mask;          // as tk_row_mask
  int32_t packed;
  int32_t prune;  // zeroes the weight in place; nothing else is written then
} tk_cuda_selected;

// scratch: as many zeros as tk_cuda_row_select_scratch says, or NULL if that is 0.
int tk_cuda_row_select(const tk_scored*, const int32_t* prune_count, const tk_cuda_selected*, uint32_t* scratch,
                       const tk_cuda_call*);
int64_t tk_cuda_row_select_scratch(int64_t rows, int64_t columns, int device);

// Zeroes every weight before the threshold of its row.
int tk_cuda_prune_rows(const tk_scored*, const int32_t* key, const int32_t* column, const tk_cuda_call*);

// order [rows, columns]: the columns of each row in pruning order, in `order_bytes` (2 or 4) each. scratch: bytes as
// tk_cuda_row_order_scratch says, or NULL if that is 0.
int tk_cuda_row_order(const tk_scored*, void* order, int order_bytes, void* scratch, const tk_cuda_call*);
int64_t tk_cuda_row_order_scratch(int64_t rows, int64_t columns, int device);

// rank [rows, columns]: as tk_nm_rank.
int tk_cuda_nm_rank(const tk_scored*, int of, uint8_t* rank, const tk_cuda_call*);

// Keeps `keep` of each `of` consecutive columns: a mask (see tk_row_mask), or NULL to zero the others in place.
int tk_cuda_nm_select(const tk_scored*, int keep, int of, uint8_t* mask, int packed, const tk_cuda_call*);

// acc [columns] += the sum of squares of each column, in float64. partial: float64 [splits, columns], see below.
int tk_cuda_column_sqnorm(const tk_activations*, void* acc, int acc_is_double, double* partial, const tk_cuda_call*);
int64_t tk_cuda_column_sqnorm_splits(int64_t tokens, int64_t columns);

// Lower triangle of acc [columns, columns] += x^T x, of float32 only.
int tk_cuda_gram(const tk_activations*, float* acc, int64_t acc_stride, const tk_cuda_call*);

// Inputs laid out for products with one matrix; see tk_cuda_stage_inputs.
typedef struct {
  void* values;
  int64_t tokens;
  int32_t transposed;  // for tensor cores, in the weight's 16-bit dtype; otherwise in float32
} tk_cuda_inputs;

// Lays inputs [columns, tokens] (contiguous, of `dtype`) out in staged->values, tk_cuda_staged_bytes large, and fills
// the rest of `staged`.
int tk_cuda_stage_inputs(const tk_scored*, const void* inputs, int dtype, int64_t tokens, tk_cuda_inputs* staged,
                         const tk_cuda_call*);
int64_t tk_cuda_staged_bytes(const tk_scored*, int dtype, int64_t tokens);

// With y = weight * inputs and e = the part of y from weights before the thresholds: without thresholds (NULL) writes
// dense [rows, tk_cuda_padded_tokens] = y and statistics [2, rows] = |y|^2, max y^2; with thresholds reads dense and
// writes statistics = <y, e>, |e|^2. partial: float64 [tk_cuda_quality_partials, rows].
int tk_cuda_row_products(const tk_scored*, const int32_t* key, const int32_t* column, const tk_cuda_inputs*,
                         float* dense, double* partial, double* statistics, const tk_cuda_call*);
int64_t tk_cuda_padded_tokens(int64_t tokens);
int64_t tk_cuda_quality_partials(int64_t tokens);

// tk_allocate_rows for all rates at once, whatever the earlier ones bring: trace [1 + rates, 1 + iterations], and for
// each rate the counts of its best step, best [rates, rows]; uniform [rows]: the counts of equal shares. search->rates
// and all else lie on the device. order as tk_cuda_row_order writes it, in 2 bytes up to 65536 columns and in 4 beyond;
// dense and dense_statistics from tk_cuda_row_products; scratch: tk_cuda_allocate_rows_scratch bytes. rates >= 1, rows
// >= 1.
int tk_cuda_allocate_rows(const tk_scored*, const void* order, const tk_cuda_inputs*, float* dense,
                          const double* dense_statistics, const tk_search*, int32_t* best, int32_t* uniform,
                          double* trace, void* scratch, const tk_cuda_call*);
int64_t tk_cuda_allocate_rows_scratch(int64_t rows, int64_t tokens, int64_t rates);

// 0 if this device can run the library's kernels, else a cudaError_t.
int tk_cuda_usable(int device);
// "sm_80 sm_90a ...": what the library was compiled for.
const char* tk_cuda_architectures(void);
const char* tk_cuda_error(int error);
int tk_cuda_abi(void);

#ifdef __cplusplus
}
#endif
