// row_order: the columns of each row in pruning order.
#include "kernels.h"
#include "row_sort.h"

namespace trim {
namespace TRIM_ISA {

int row_order(const tk_scored* scored, int32_t* order, int threads) {
  struct Job {
    const tk_scored* scored;
    int32_t* order;
  } const job{scored, order};
  return on_threads(
      scored->rows, 8, threads,
      [](const void* context, RowQueue& queue) {
        const Job& job = *static_cast<const Job*>(context);
        const int64_t columns = job.scored->columns;
        Buffer<uint32_t> keys(columns);
        RowSort sort(columns);
        for (int64_t begin, end; queue.take(&begin, &end);) {
          for (int64_t row = begin; row < end; ++row) {
            if (!row_keys(*job.scored, row, keys)) return queue.fail(TK_BAD_VALUE);
            sort(keys, job.order + row * columns);
          }
        }
      },
      &job);
}

}  // namespace TRIM_ISA
}  // namespace trim
