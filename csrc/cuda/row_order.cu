#include "launch.h"
#include "row_order.cuh"

namespace trim {
namespace {

using OrderKernel = void (*)(AnyMatrix, void*, int, int32_t*);

struct NarrowOrder {
  OrderKernel kernel;
  int threads;
  size_t shared;
};

template <int kThreads, int kItems>
NarrowOrder narrow(int64_t columns) {
  return {order_rows<kThreads, kItems>, kThreads, shared_for_order<kThreads>(columns)};
}

// The kernel for rows in shared memory; none for rows that do not fit there.
NarrowOrder narrow_order(int64_t columns) {
  NarrowOrder found{};
  if (columns <= 256 * 20) {
    found = narrow<256, 20>(columns);
  } else if (columns <= 1024 * 14) {
    found = narrow<1024, 14>(columns);
  } else if (columns <= 384 * 77) {
    found = narrow<384, 77>(columns);
  }
  return found.kernel && found.shared <= shared_limit() ? found : NarrowOrder{};
}

unsigned wide_blocks(int64_t rows) { return resident_blocks(order_wide_rows, kWideOrderThreads, 0, rows); }

cudaError_t order(const tk_scored& scored, void* order, int order_bytes, void* scratch, const tk_cuda_call& call) {
  const AnyMatrix matrix(scored);
  const NarrowOrder chosen = narrow_order(scored.columns);
  if (chosen.kernel) {
    const dim3 grid(resident_blocks(chosen.kernel, chosen.threads, chosen.shared, scored.rows));
    return launch(chosen.kernel, grid, chosen.threads, chosen.shared, call.stream, matrix, order, order_bytes,
                  call.bad);
  }
  return launch(order_wide_rows, dim3(wide_blocks(scored.rows)), kWideOrderThreads, 0, call.stream, matrix, order,
                order_bytes, static_cast<KeyAndColumn*>(scratch), call.bad);
}

}  // namespace
}  // namespace trim

TRIM_EXPORT int tk_cuda_row_order(const tk_scored* scored, void* order, int order_bytes, void* scratch,
                                  const tk_cuda_call* call) {
  const trim::OnDevice device(call->device);
  if (device.status != cudaSuccess) return device.status;
  return trim::order(*scored, order, order_bytes, scratch, *call);
}

TRIM_EXPORT int64_t tk_cuda_row_order_scratch(int64_t rows, int64_t columns, int device) {
  const trim::OnDevice current(device);
  if (current.status != cudaSuccess || trim::narrow_order(columns).kernel) return 0;
  return trim::wide_blocks(rows) * trim::scratch_of_block(columns);
}
