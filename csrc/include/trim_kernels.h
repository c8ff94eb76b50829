// Every function that the CPU library exports. No torch, no Python: pointers, sizes and a status.
//
// A matrix is row-major with unit column stride; strides count elements. The score of weight (i, j) is
// |weight| * column_scale[j] (one float32 product), or score[i, j], or |weight|; its key is the score's float32 bits.
// Pruning order is ascending (key, column).
#pragma once
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// Raised with every change of a function or a struct below; callers compare it with tk_abi().
#define TK_ABI 5

enum tk_dtype { TK_FLOAT32 = 0, TK_BFLOAT16 = 1, TK_FLOAT16 = 2 };

enum tk_status {
  TK_OK = 0,
  TK_BAD_VALUE = 1,      // NaN or infinity in what is read, or a negative score; outputs are unspecified
  TK_OUT_OF_MEMORY = 2,  // scratch memory or threads could not be had
  TK_UNSUPPORTED = 3,    // this processor has no such instruction set
  TK_OVERFLOW = 4,       // an output, or a part of one, is beyond float32
  TK_FAILED = 5,         // anything else; a bug
};

typedef enum { TK_ROW_COSINE = 0, TK_ROW_MSE = 1, TK_ROW_PSNR = 2 } tk_row_metric;

typedef enum {
  TK_LAYER_COSINE = 0,
  TK_LAYER_COSINE_ROWS = 1,
  TK_LAYER_MSE = 2,
  TK_LAYER_MSE_ROWS = 3,
  TK_LAYER_SNR = 4,
  TK_LAYER_PSNR = 5,
  TK_LAYER_PSNR_ROWS = 6,
} tk_layer_metric;

typedef struct {
  void* weight;  // only tk_prune_rows and tk_prune_nm write it
  int64_t rows, columns, stride;
  int32_t dtype;              // tk_dtype
  const float* column_scale;  // [columns], finite and >= 0, or NULL
  const float* score;         // [rows, columns], or NULL; excludes column_scale
  int64_t score_stride;
} tk_scored;

typedef struct {
  const void* x;  // [tokens, columns]
  int64_t tokens, columns, stride;
  int32_t dtype;              // tk_dtype
  const uint8_t* token_mask;  // [tokens], 1 = the token counts, or NULL: all count
} tk_activations;

typedef struct {
  float* weight;  // [rows, columns], changed in place
  int64_t rows, columns, stride;
  const uint8_t* kept;  // [rows, columns], 0 = the weight goes
  int64_t kept_stride;
  const float* factor;  // [columns, columns], contiguous, upper triangular with positive diagonal
  float* errors;        // [rows, columns], written
  int64_t errors_stride;
} tk_elimination;

typedef struct {
  void* weight;  // [rows, columns]; only tk_unpack_values writes it
  int64_t rows, columns, stride;
  int32_t dtype;        // tk_dtype
  const uint8_t* kept;  // packed bits [rows, ceil(columns / 8)], contiguous; spare bits of a last byte are not read
  void* values;         // [starts[rows]], of the weight's dtype; only tk_pack_values writes them
  int64_t* starts;      // [rows + 1]: how many weights are kept before each row, and in all
} tk_packing;

// Prune counts are in [0, columns]; the caller checks. `threads` >= 1.

// key, column [rows]: the first weight in pruning order that stays; (2^31 - 1, columns) when none stays.
int tk_row_threshold(const tk_scored*, const int32_t* prune_count, int32_t* key, int32_t* column, int threads);

// mask: 1 = kept; bytes [rows, columns], or packed bits [rows, ceil(columns / 8)], lowest column in the lowest bit.
int tk_row_mask(const tk_scored*, const int32_t* prune_count, int packed, uint8_t* mask, int threads);

// Zeroes every weight before the thresholds that tk_row_threshold found for the same scores.
int tk_prune_rows(const tk_scored*, const int32_t* key, const int32_t* column, int threads);

// order [rows, columns]: the columns of each row in pruning order.
int tk_row_order(const tk_scored*, int32_t* order, int threads);

// With y = weight * inputs and e = the part of y from pruned weights, writes [4, rows]: |y|^2, |e|^2, <y, e>, max y^2.
// inputs: [columns, tokens], contiguous.
int tk_row_quality(const tk_scored*, const int32_t* prune_count, const float* inputs, int64_t tokens,
                   double* statistics, int threads);

// curve [rows, last - first + 1]: d^T G d, where d holds the k weights of a row that go first, for k = first ... last.
// gram: [columns, columns], symmetric, finite; both triangles are read. 0 <= first <= last <= columns.
int tk_row_error_curve(const tk_scored*, const float* gram, int64_t gram_stride, int64_t first, int64_t last,
                       float* curve, int threads);

// How tk_allocate_rows searches; see trim_kernels.allocate_rows. `exact` takes total and cap, otherwise the shares
// count.
typedef struct {
  tk_layer_metric layer_metric;
  tk_row_metric row_metric;
  int32_t exact;
  double sparsity, max_sparsity;
  int64_t total, cap;   // weights that go in all; the most that one row may lose: 0 <= total <= rows * cap
  const double* rates;  // the positive ones, then the negative ones
  int64_t positive_rates, negative_rates, iterations;
} tk_search;

// prune_count [rows]; trace [1 + rates, 1 + iterations]: [0, 0] the quality of uniform rows, [1 + r, i] that of rate r
// after i steps, NaN where nothing was tried. rows >= 1.
int tk_allocate_rows(const tk_scored*, const float* inputs, int64_t tokens, const tk_search*, int32_t* prune_count,
                     double* trace, int threads);

// 1 <= of <= 32, 0 <= keep <= of. Of every `of` consecutive columns the last `keep` in pruning order stay; of a shorter
// last group of `tail` columns, ceil(keep * tail / of).

// rank [rows, columns]: how many weights of its group come after a weight in pruning order, so that `rank < keep` says
// whether it stays, in a shorter last group `rank < ceil(keep * tail / of)`.
int tk_nm_rank(const tk_scored*, int of, uint8_t* rank, int threads);

// mask: as that of tk_row_mask.
int tk_nm_mask(const tk_scored*, int keep, int of, int packed, uint8_t* mask, int threads);

// Zeroes every weight that does not stay; after TK_BAD_VALUE the weight is as it was.
int tk_prune_nm(const tk_scored*, int keep, int of, int threads);

// acc [columns], float64 or float32: += sum over tokens of x[token, column]^2, in float64, rounded once.
int tk_column_sqnorm(const tk_activations*, void* acc, int acc_is_double, int threads);

// acc [columns, columns]: its lower triangle, diagonal included, += x^T x; the upper triangle stays as it is.
int tk_gram(const tk_activations*, float* acc, int64_t stride, int threads);

// For each column j from the left: errors[:, j] = weight[:, j] / factor[j, j] where the weight goes, else 0; then
// weight[:, k] -= errors[:, j] * factor[j, k] for k > j; and what goes is 0. Values are finite; the caller checks.
int tk_obs_update(const tk_elimination*, int threads);

// Writes starts; weight, stride, dtype and values are not read.
int tk_packing_starts(const tk_packing*, int threads);

// values: the kept weights, row after row, columns ascending; their bits are moved as they are.
int tk_pack_values(const tk_packing*, int threads);

// The weights that tk_pack_values took from; what is not kept becomes +0.
int tk_unpack_values(const tk_packing*, int threads);

// The TK_ABI that this binary was compiled with.
int tk_abi(void);

// The instruction set in use: "avx512", "avx2" or "baseline".
const char* tk_instruction_set(void);

// Use another instruction set of this binary, for tests and benchmarks. Not to be called beside running kernels.
int tk_use_instruction_set(const char* name);

#ifdef __cplusplus
}
#endif
