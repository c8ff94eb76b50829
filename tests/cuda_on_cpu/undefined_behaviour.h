// The calls that -fsanitize makes g++ write before a misaligned access, an overflow and the like. A GPU faults there
// too, or gives another result than this processor.
#pragma once
#include <cstdio>
#include <cstdlib>

#include "scheduler.h"

namespace cuda_on_cpu {

struct Place { const char* file; uint32_t line, column; };

inline void undefined(const char* what, const Place* place) {
  const std::string text = std::string(what) + " at " + place->file + ":" + std::to_string(place->line);
  if (scheduler.runs()) scheduler.abandon(text);
  std::fprintf(stderr, "host code: %s\n", text.c_str()), std::abort();
}

}  // namespace cuda_on_cpu

// A handler's first argument begins with the place in the source.
#define CUDA_ON_CPU_UNDEFINED(name, what)                                                  \
  extern "C" [[gnu::used]] inline void __ubsan_handle_##name(cuda_on_cpu::Place* place) { \
    cuda_on_cpu::undefined(what, place);                                                   \
  }
CUDA_ON_CPU_UNDEFINED(type_mismatch_v1, "misaligned access")
CUDA_ON_CPU_UNDEFINED(out_of_bounds, "index out of bounds")
CUDA_ON_CPU_UNDEFINED(shift_out_of_bounds, "shift by more than the width")
CUDA_ON_CPU_UNDEFINED(divrem_overflow, "division by zero")
CUDA_ON_CPU_UNDEFINED(add_overflow, "signed overflow")
CUDA_ON_CPU_UNDEFINED(sub_overflow, "signed overflow")
CUDA_ON_CPU_UNDEFINED(mul_overflow, "signed overflow")
CUDA_ON_CPU_UNDEFINED(negate_overflow, "signed overflow")
