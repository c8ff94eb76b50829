// row_threshold, row_mask and prune_rows: one row at a time, keys in scratch, the weight read once.
#include "kernels.h"
#include "mask_bits.h"
#include "row_keys.h"

namespace trim {
namespace {

constexpr int64_t kChunk = 16;

// Runs finish(row, keys, threshold) for every row of the matrix.
template <class Finish>
void select_rows(const tk_scored& scored, const int32_t* prune_count, RowQueue& queue, Finish finish) {
  Buffer<uint32_t> keys(scored.columns);
  RowSelect select(scored.columns);
  for (int64_t begin, end; queue.take(&begin, &end);) {
    for (int64_t row = begin; row < end; ++row) {
      if (!row_keys(scored, row, keys)) return queue.fail(TK_BAD_VALUE);
      finish(row, static_cast<const uint32_t*>(keys), select(keys, prune_count[row]));
    }
  }
}

void write_mask(const uint32_t* keys, int64_t columns, Threshold threshold, uint8_t* mask) {
  for (int64_t j = 0; j < columns; ++j) mask[j] = threshold.keeps(keys[j], static_cast<int32_t>(j));
}

}  // namespace

namespace TRIM_ISA {

int row_threshold(const tk_scored* scored, const int32_t* prune_count, int32_t* key, int32_t* column, int threads) {
  struct Job {
    const tk_scored* scored;
    const int32_t* prune_count;
    int32_t *key, *column;
  } const job{scored, prune_count, key, column};
  return on_threads(
      scored->rows, kChunk, threads,
      [](const void* context, RowQueue& queue) {
        const Job& job = *static_cast<const Job*>(context);
        select_rows(*job.scored, job.prune_count, queue, [&](int64_t row, const uint32_t*, Threshold threshold) {
          job.key[row] = static_cast<int32_t>(threshold.key);
          job.column[row] = threshold.column;
        });
      },
      &job);
}

int row_mask(const tk_scored* scored, const int32_t* prune_count, int packed, uint8_t* mask, int threads) {
  struct Job {
    const tk_scored* scored;
    const int32_t* prune_count;
    int packed;
    uint8_t* mask;
  } const job{scored, prune_count, packed, mask};
  return on_threads(
      scored->rows, kChunk, threads,
      [](const void* context, RowQueue& queue) {
        const Job& job = *static_cast<const Job*>(context);
        const int64_t columns = job.scored->columns, bytes = (columns + 7) / 8;
        Buffer<uint8_t> unpacked(bytes * 8);
        std::memset(unpacked, 0, static_cast<size_t>(bytes * 8));
        select_rows(*job.scored, job.prune_count, queue, [&](int64_t row, const uint32_t* keys, Threshold threshold) {
          if (!job.packed) return write_mask(keys, columns, threshold, job.mask + row * columns);
          write_mask(keys, columns, threshold, unpacked);
          for (int64_t i = 0; i < bytes; ++i) job.mask[row * bytes + i] = pack_byte(unpacked + i * 8);
        });
      },
      &job);
}

int prune_rows(const tk_scored* scored, const int32_t* key, const int32_t* column, int threads) {
  struct Job {
    const tk_scored* scored;
    const int32_t *key, *column;
  } const job{scored, key, column};
  return on_threads(
      scored->rows, kChunk, threads,
      [](const void* context, RowQueue& queue) {
        const Job& job = *static_cast<const Job*>(context);
        const tk_scored& scored = *job.scored;
        Buffer<uint32_t> keys(scored.columns);
        for (int64_t begin, end; queue.take(&begin, &end);) {
          for (int64_t row = begin; row < end; ++row) {
            const Threshold threshold{static_cast<uint32_t>(job.key[row]), job.column[row]};
            with_dtype(scored, [&](auto dtype) {
              using Dtype = decltype(dtype);
              if (!row_keys<Dtype>(scored, row, keys)) return queue.fail(TK_BAD_VALUE);
              auto* weight = weight_row<Dtype>(scored, row);
              for (int64_t j = 0; j < scored.columns; ++j) {
                weight[j] = threshold.keeps(keys[j], static_cast<int32_t>(j)) ? weight[j] : 0;
              }
            });
          }
        }
      },
      &job);
}

}  // namespace TRIM_ISA
}  // namespace trim
