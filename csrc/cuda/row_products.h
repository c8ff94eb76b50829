// The products that row_quality and allocate_rows share; see masked_product.cuh.
#pragma once
#include <cuda_runtime.h>

#include "trim_kernels_cuda.h"

namespace trim {

// Products of all rows, for one threshold per chain and row; without thresholds the dense outputs, which are stored.
struct ProductCall {
  const int32_t *key, *column;  // [chains, rows], or NULL
  float* dense;                 // [rows, padded tokens]: written without thresholds, read with them
  double* partial;              // [token tiles, 2, chains, rows]: sum y^2, max y^2 of the dense y; or <y, e>, |e|^2
  int64_t chains, padded_tokens, padded_columns;
};

// Enqueues the products of one matrix with staged inputs; `call` without its tile's and padding's sizes. Returns in
// `tiles` how many token tiles the partial statistics have.
cudaError_t enqueue_products(const tk_scored& scored, const tk_cuda_inputs& inputs, ProductCall call, void* stream,
                             int64_t* tiles);

// enqueue_products on a Hopper GPU, whose tensor cores wgmma drives; for 16-bit weights.
cudaError_t enqueue_hopper_products(const tk_scored& scored, const void* inputs, const ProductCall& call,
                                    bool wide_tiles, void* stream);

// statistics [2, chains, rows] from the partial ones, tile by tile: two sums, or of dense outputs a sum and a maximum.
cudaError_t enqueue_combine(const ProductCall& call, int64_t tiles, int64_t rows, double* statistics, int32_t* bad,
                            void* stream);

inline dim3 product_grid(const ProductCall& call, int64_t tiles, int64_t rows, int rows_per_block) {
  return dim3(static_cast<unsigned>(call.chains * tiles),
              static_cast<unsigned>((rows + rows_per_block - 1) / rows_per_block));
}

}  // namespace trim
