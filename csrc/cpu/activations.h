// The tokens of a matrix of activations, for the kernels that sum over them.
#pragma once
#include "dtypes.h"
#include "parallel.h"
#include "trim_kernels.h"

namespace trim {
namespace {

// Hands out the tokens that count, in order.
template <class Dtype>
class Tokens {
 public:
  using Storage = typename Dtype::Storage;

  explicit Tokens(const tk_activations& activations) : activations_(activations) {}

  // Fills at most `most` pointers to a token's values; returns how many.
  int next(const Storage** tokens, int most) {
    int count = 0;
    for (; count < most && token_ < activations_.tokens; ++token_) {
      if (activations_.token_mask && !activations_.token_mask[token_]) continue;
      tokens[count++] = static_cast<const Storage*>(activations_.x) + token_ * activations_.stride;
    }
    return count;
  }

 private:
  const tk_activations& activations_;
  int64_t token_ = 0;
};

}  // namespace
}  // namespace trim
