// From the dtype of a call to the type that stands for it.
#pragma once
#include "score_key.h"
#include "trim_kernels.h"

namespace trim {
namespace {

template <class Visit>
auto with_dtype(int32_t dtype, Visit visit) {
  switch (dtype) {
    case TK_BFLOAT16:
      return visit(BFloat16{});
    case TK_FLOAT16:
      return visit(Float16{});
    default:
      return visit(Float32{});
  }
}

// Calls visit with the type that stands for the weight's dtype.
template <class Visit>
auto with_dtype(const tk_scored& scored, Visit visit) {
  return with_dtype(scored.dtype, visit);
}

}  // namespace
}  // namespace trim
