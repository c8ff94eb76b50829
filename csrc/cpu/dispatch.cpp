// The exported functions: each calls the kernel of the best instruction set of this processor.
#include <cstring>
#include <new>

#include "kernels.h"
#include "row_search.h"

namespace {

using trim::Kernels;

#ifdef TRIM_X86
const Kernels* const kTables[] = {&trim::avx512::kernels, &trim::avx2::kernels, &trim::baseline::kernels};

bool runs_here(const Kernels& table) {
  __builtin_cpu_init();
  if (&table == &trim::avx512::kernels) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  }
  if (&table == &trim::avx2::kernels) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  return true;
}
#else
const Kernels* const kTables[] = {&trim::baseline::kernels};

bool runs_here(const Kernels&) { return true; }
#endif

const Kernels* best() {
  for (const Kernels* table : kTables) {
    if (runs_here(*table)) return table;
  }
  return &trim::baseline::kernels;
}

const Kernels*& active() {
  static const Kernels* table = best();
  return table;
}

// No exception leaves the library.
template <class Call>
int guarded(Call call) {
  try {
    return call();
  } catch (const std::bad_alloc&) {
    return TK_OUT_OF_MEMORY;
  } catch (...) {
    return TK_FAILED;
  }
}

}  // namespace

#define TRIM_EXPORT extern "C" __attribute__((visibility("default")))

TRIM_EXPORT int tk_row_threshold(const tk_scored* scored, const int32_t* prune_count, int32_t* key, int32_t* column,
                                 int threads) {
  return guarded([=] { return active()->row_threshold(scored, prune_count, key, column, threads); });
}

TRIM_EXPORT int tk_row_mask(const tk_scored* scored, const int32_t* prune_count, int packed, uint8_t* mask,
                            int threads) {
  return guarded([=] { return active()->row_mask(scored, prune_count, packed, mask, threads); });
}

TRIM_EXPORT int tk_prune_rows(const tk_scored* scored, const int32_t* key, const int32_t* column, int threads) {
  return guarded([=] { return active()->prune_rows(scored, key, column, threads); });
}

TRIM_EXPORT int tk_row_order(const tk_scored* scored, int32_t* order, int threads) {
  return guarded([=] { return active()->row_order(scored, order, threads); });
}

TRIM_EXPORT int tk_row_quality(const tk_scored* scored, const int32_t* prune_count, const float* inputs,
                               int64_t tokens, double* statistics, int threads) {
  return guarded([=] { return active()->row_quality(scored, prune_count, inputs, tokens, statistics, threads); });
}

TRIM_EXPORT int tk_allocate_rows(const tk_scored* scored, const float* inputs, int64_t tokens,
                                 const tk_search* options, int32_t* prune_count, double* trace, int threads) {
  return guarded([=] {
    trim::RowSearch search{*options, scored->rows, scored->columns, tokens, prune_count, trace};
    return active()->with_row_outputs(scored, inputs, tokens, threads, trim::search_rows, &search);
  });
}

TRIM_EXPORT int tk_nm_rank(const tk_scored* scored, int of, uint8_t* rank, int threads) {
  return guarded([=] { return active()->nm_rank(scored, of, rank, threads); });
}

TRIM_EXPORT int tk_nm_mask(const tk_scored* scored, int keep, int of, int packed, uint8_t* mask, int threads) {
  return guarded([=] { return active()->nm_mask(scored, keep, of, packed, mask, threads); });
}

TRIM_EXPORT int tk_prune_nm(const tk_scored* scored, int keep, int of, int threads) {
  return guarded([=] { return active()->prune_nm(scored, keep, of, threads); });
}

TRIM_EXPORT int tk_column_sqnorm(const tk_activations* activations, void* acc, int acc_is_double, int threads) {
  return guarded([=] { return active()->column_sqnorm(activations, acc, acc_is_double, threads); });
}

TRIM_EXPORT int tk_gram(const tk_activations* activations, float* acc, int64_t stride, int threads) {
  return guarded([=] { return active()->gram(activations, acc, stride, threads); });
}

TRIM_EXPORT int tk_obs_update(const tk_elimination* elimination, int threads) {
  return guarded([=] { return active()->obs_update(elimination, threads); });
}

TRIM_EXPORT int tk_row_error_curve(const tk_scored* scored, const float* gram, int64_t gram_stride, int64_t first,
                                   int64_t last, float* curve, int threads) {
  return guarded(
      [=] { return active()->row_error_curve(scored, gram, gram_stride, first, last, curve, threads); });
}

TRIM_EXPORT int tk_packing_starts(const tk_packing* packing, int threads) {
  return guarded([=] { return active()->packing_starts(packing, threads); });
}

TRIM_EXPORT int tk_pack_values(const tk_packing* packing, int threads) {
  return guarded([=] { return active()->pack_values(packing, threads); });
}

TRIM_EXPORT int tk_unpack_values(const tk_packing* packing, int threads) {
  return guarded([=] { return active()->unpack_values(packing, threads); });
}

TRIM_EXPORT int tk_abi(void) { return TK_ABI; }

TRIM_EXPORT const char* tk_instruction_set(void) { return active()->name; }

TRIM_EXPORT int tk_use_instruction_set(const char* name) {
  for (const Kernels* table : kTables) {
    if (std::strcmp(table->name, name) == 0 && runs_here(*table)) {
      active() = table;
      return TK_OK;
    }
  }
  return TK_UNSUPPORTED;
}
