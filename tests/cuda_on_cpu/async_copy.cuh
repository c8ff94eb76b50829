// In place of csrc/cuda/ptx/async_copy.cuh: cp.async and the fence of the async proxy.
//
// A copy is done when it is issued or when its thread waits for it, as the seed decides: reading too early, or copying
// to a buffer still in use, gives wrong results under some seeds.
#pragma once
#include <cuda_runtime.h>

#include <unordered_map>

namespace cuda_on_cpu {

struct AsyncCopy {
  unsigned char* shared;
  const void* global;  // null for zeros
  bool done;
  int batch;
};

struct CopyingThread {
  uint64_t block = 0;
  int batch = 0;  // that the next copies will be committed in
  std::vector<AsyncCopy> copies;
};
inline CopyingThread copying_threads[kMostThreads];

// Pieces of 16 bytes that were copied and not yet fenced, with the thread that has to.
struct Unfenced {
  uint64_t block = 0;
  std::unordered_map<const void*, int> owner;
};
inline Unfenced unfenced_pieces;

// State of an earlier block counts as none.
template <class State>
State& of_this_block(State& state) {
  if (state.block != scheduler.blocks_run) state = State{}, state.block = scheduler.blocks_run;
  return state;
}

inline void carry_out(AsyncCopy& copy) {
  if (copy.done) return;
  copy.done = true;
  if (copy.global) std::memcpy(copy.shared, copy.global, 16);
  else std::memset(copy.shared, 0, 16);
}

inline void wait_for_copies(int pending) {
  CopyingThread& thread = of_this_block(copying_threads[scheduler.current]);
  auto& unfenced = of_this_block(unfenced_pieces).owner;
  auto next = thread.copies.begin();
  for (; next != thread.copies.end() && next->batch < thread.batch - pending; ++next) {
    carry_out(*next);
    unfenced[next->shared] = scheduler.current;
  }
  thread.copies.erase(thread.copies.begin(), next);
}

}  // namespace cuda_on_cpu

namespace trim {

inline void copy_16_async(void* shared, const void* global, bool real) {
  using namespace cuda_on_cpu;
  if (reinterpret_cast<uintptr_t>(shared) % 16 || (real && reinterpret_cast<uintptr_t>(global) % 16))
    scheduler.abandon("misaligned address of an asynchronous copy");
  CopyingThread& thread = of_this_block(copying_threads[scheduler.current]);
  thread.copies.push_back({static_cast<unsigned char*>(shared), real ? global : nullptr, false, thread.batch});
  if (scheduler.random(2)) carry_out(thread.copies.back());
}

inline void prefetch_to_l2(const void*) {}

inline void copy_async_commit() {
  using namespace cuda_on_cpu;
  ++of_this_block(copying_threads[scheduler.current]).batch;
}

template <int Pending>
void copy_async_wait() {
  cuda_on_cpu::wait_for_copies(Pending);
}

inline void fence_async_proxy() {
  auto& unfenced = cuda_on_cpu::of_this_block(cuda_on_cpu::unfenced_pieces).owner;
  for (auto piece = unfenced.begin(); piece != unfenced.end();)
    piece = piece->second == cuda_on_cpu::scheduler.current ? unfenced.erase(piece) : std::next(piece);
}

}  // namespace trim
