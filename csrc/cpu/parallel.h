// Rows over threads.
#pragma once
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

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

// Takes chunks of rows until none is left; may allocate. Runs once on each thread.
using Work = void (*)(const void* job, RowQueue& queue);

// Threads that live for one call of the library and share its loops over rows.
class Team {
 public:
  explicit Team(int threads);
  ~Team();
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  // How many threads find a chunk to work on.
  static int size_for(int64_t rows, int64_t chunk, int threads);

  // Returns a tk_status.
  int run(int64_t rows, int64_t chunk, Work work, const void* job);

 private:
  void help();

  std::mutex mutex_;
  std::condition_variable begin_, done_;
  Work work_ = nullptr;
  const void* job_ = nullptr;
  RowQueue* queue_ = nullptr;
  std::atomic<int64_t> round_{0};
  std::atomic<size_t> busy_{0};
  std::atomic<bool> over_{false};
  std::vector<std::thread> helpers_;
};

// One loop over rows.
int on_threads(int64_t rows, int64_t chunk, int threads, Work work, const void* job);

}  // namespace trim
