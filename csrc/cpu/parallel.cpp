#include "parallel.h"

#include <algorithm>
#include <new>
#include <system_error>
#include <thread>
#include <vector>

namespace trim {

bool RowQueue::take(int64_t* begin, int64_t* end) {
  if (status_ != TK_OK) return false;
  *begin = next_.fetch_add(chunk_);
  *end = std::min(*begin + chunk_, rows_);
  return *begin < rows_;
}

int on_threads(int64_t rows, int64_t chunk, int threads, void (*work)(const void* job, RowQueue& queue),
               const void* job) {
  RowQueue queue(rows, chunk);
  auto guarded = [&] {
    try {
      work(job, queue);
    } catch (const std::bad_alloc&) {
      queue.fail(TK_OUT_OF_MEMORY);
    }
  };
  // Threads live for one call: starting one costs about 20 microseconds, less than a handful of rows.
  std::vector<std::thread> helpers;
  try {
    const int64_t chunks = (rows + chunk - 1) / chunk;
    for (int64_t i = 1; i < std::min<int64_t>(threads, chunks); ++i) helpers.emplace_back(guarded);
  } catch (const std::exception&) {
    // Fewer threads than asked for: those that started and this one do the work.
  }
  guarded();
  for (std::thread& helper : helpers) helper.join();
  return queue.status();
}

}  // namespace trim
