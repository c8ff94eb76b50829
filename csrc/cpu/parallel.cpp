#include "parallel.h"

#include <algorithm>
#include <new>
#include <system_error>

namespace trim {

namespace {

void guarded(Work work, const void* job, RowQueue& queue) {
  try {
    work(job, queue);
  } catch (const std::bad_alloc&) {
    queue.fail(TK_OUT_OF_MEMORY);
  } catch (...) {
    queue.fail(TK_FAILED);
  }
}

// A search asks for a loop every hundred microseconds, and waking a sleeping thread takes about as long: wait awake for
// a moment (some 50 microseconds) before going to sleep.
template <class Ready>
void spin_until(Ready ready) {
  for (int i = 0; i < 4000 && !ready(); ++i) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
  }
}

}  // namespace

bool RowQueue::take(int64_t* begin, int64_t* end) {
  if (status_ != TK_OK) return false;
  *begin = next_.fetch_add(chunk_);
  *end = std::min(*begin + chunk_, rows_);
  return *begin < rows_;
}

Team::Team(int threads) {
  try {
    for (int i = 1; i < threads; ++i) helpers_.emplace_back([this] { help(); });
  } catch (const std::exception&) {
    // Fewer threads than asked for: those that started and the caller's do the work.
  }
}

Team::~Team() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    over_ = true;
  }
  begin_.notify_all();
  for (std::thread& helper : helpers_) helper.join();
}

int Team::size_for(int64_t rows, int64_t chunk, int threads) {
  return static_cast<int>(std::min<int64_t>(threads, (rows + chunk - 1) / chunk));
}

int Team::run(int64_t rows, int64_t chunk, Work work, const void* job) {
  RowQueue queue(rows, chunk);
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    work_ = work;
    job_ = job;
    queue_ = &queue;
    busy_ = helpers_.size();
    ++round_;
  }
  begin_.notify_all();
  guarded(work, job, queue);
  spin_until([this] { return busy_ == 0; });
  std::unique_lock<std::mutex> lock(mutex_);
  done_.wait(lock, [this] { return busy_ == 0; });
  return queue.status();
}

void Team::help() {
  for (int64_t seen = 0;;) {
    const auto called = [&] { return over_ || round_ != seen; };
    spin_until(called);
    {
      std::unique_lock<std::mutex> lock(mutex_);
      begin_.wait(lock, called);
      if (over_) return;
      seen = round_;
    }
    guarded(work_, job_, *queue_);
    const std::lock_guard<std::mutex> lock(mutex_);
    if (--busy_ == 0) done_.notify_one();
  }
}

int on_threads(int64_t rows, int64_t chunk, int threads, Work work, const void* job) {
  return Team(Team::size_for(rows, chunk, threads)).run(rows, chunk, work, job);
}

}  // namespace trim
