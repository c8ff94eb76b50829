// Rows over threads.
#pragma once
#include <atomic>
#include <cstdint>

#include "trim_kernels.h"

namespace trim {

// Hands out chunks of rows. Which thread takes which chunk does not matter to the results: rows are independent.
class RowQueue {
 public:
  RowQueue(int64_t rows, int64_t chunk) : rows_(rows), chunk_(chunk) {}
  bool take(int64_t* begin, int64_t* end);
  void fail(int status) { status_ = status; }
  int status() const { return status_; }

 private:
  const int64_t rows_, chunk_;
  std::atomic<int64_t> next_{0};
  std::atomic<int> status_{TK_OK};
};

// Calls work(job, queue) once on each thread; work takes chunks until none is left, and may allocate. Returns a tk_status.
int on_threads(int64_t rows, int64_t chunk, int threads, void (*work)(const void* job, RowQueue& queue),
               const void* job);

}  // namespace trim
