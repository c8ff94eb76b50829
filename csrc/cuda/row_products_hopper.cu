// masked_product with wgmma: compiled for sm_90a only.
#include "launch.h"
#include "masked_product.cuh"

namespace trim {
namespace {

template <class Dtype, int kTokens>
struct GroupProduct {
  static constexpr int kLag = 2;  // the product of the block before may still be under way

  __device__ __forceinline__ static void multiply(float (&sums)[kTokens / 2], const MaskedOperand& a,
                                                  const unsigned char* tile) {
    const uint64_t inputs = swizzled_descriptor(tile);
    wgmma_fence();
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      wgmma_m64k16<kTokens>(sums, a.word[step], inputs + step * (32 >> 4), Dtype{});
    }
    wgmma_commit();
  }

  template <int kPending>
  __device__ __forceinline__ static void wait() {
    wgmma_wait<kPending>();
  }

  __device__ __forceinline__ static void publish_copies() { fence_async_proxy(); }
};

template <class Dtype, int kTokens, int kStages>
cudaError_t enqueue(const tk_scored& scored, const void* inputs, const ProductCall& call, void* stream) {
  const ScoredMatrix<Dtype> matrix(scored);
  using Product = GroupProduct<Dtype, kTokens>;
  const auto kernel = matrix.whole() ? masked_product<Dtype, Product, kTokens, kStages, true>
                                     : masked_product<Dtype, Product, kTokens, kStages, false>;
  const dim3 grid = product_grid(call, call.padded_tokens / kTokens, scored.rows, kProductRows);
  return launch(kernel, grid, kProductThreads, product_shared(kTokens, kStages), stream, matrix,
                static_cast<const typename Dtype::Storage*>(inputs), call);
}

template <class Dtype>
cudaError_t enqueue(const tk_scored& scored, const void* inputs, const ProductCall& call, bool wide_tiles,
                    void* stream) {
  return wide_tiles ? enqueue<Dtype, 256, 3>(scored, inputs, call, stream)
                    : enqueue<Dtype, 128, 6>(scored, inputs, call, stream);
}

}  // namespace

cudaError_t enqueue_hopper_products(const tk_scored& scored, const void* inputs, const ProductCall& call,
                                    bool wide_tiles, void* stream) {
  if (scored.dtype == TK_BFLOAT16) return enqueue<BFloat16>(scored, inputs, call, wide_tiles, stream);
  return enqueue<Float16>(scored, inputs, call, wide_tiles, stream);
}

}  // namespace trim
