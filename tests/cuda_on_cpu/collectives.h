// Barriers and warp operations.
#pragma once
#include "intrinsics.h"
#include "scheduler.h"

#define CUDA_ON_CPU_SITE const char *file = __builtin_FILE(), int line = __builtin_LINE()

namespace cuda_on_cpu {

inline uint64_t barrier(const char* operation, bool value, const char* file, int line) {
  const auto count = [](Arrival* const* members, int size) {
    uint64_t total = 0;
    for (int i = 0; i < size; ++i) total += members[i]->value;
    for (int i = 0; i < size; ++i) members[i]->result = total;
  };
  Arrival arrival{operation, count, kBlock, ~0u, file, line, value};
  scheduler.meet(arrival);
  return arrival.result;
}

template <class Finish>
uint64_t warp_operation(const char* operation, uint32_t mask, uint64_t value, uint64_t argument, const char* file,
                        int line, Finish finish) {
  Arrival arrival{operation, finish, kWarp, mask, file, line, value, argument};
  scheduler.meet(arrival);
  return arrival.result;
}

inline uint32_t vote(const char* operation, uint32_t mask, bool value, const char* file, int line) {
  return uint32_t(warp_operation(operation, mask, value, 0, file, line, [](Arrival* const* members, int) {
    uint64_t ballot = 0;
    for (int i = 0; i < kWarp; ++i) ballot |= uint64_t(members[i] && members[i]->value) << i;
    for (int i = 0; i < kWarp; ++i)
      if (members[i]) members[i]->result = ballot;
  }));
}

// `source` gives the lane to read, from a lane's number within its segment; beyond the segment a lane reads itself.
template <class T, class Source>
T shuffle(const char* operation, uint32_t mask, T value, int step, int width, const char* file, int line, Source) {
  const uint64_t argument = uint64_t(uint32_t(width)) << 32 | uint32_t(step);
  return bits<T>(warp_operation(operation, mask, bits<uint64_t>(value), argument, file, line,
                                [](Arrival* const* members, int) {
    for (int i = 0; i < kWarp; ++i) {
      if (!members[i]) continue;
      const int width = int(members[i]->argument >> 32), step = int(uint32_t(members[i]->argument));
      const int source = Source::lane(i, step, width, i & -width);
      members[i]->result = members[source] ? members[source]->value : 0xdeaddeaddeaddeadu;
    }
  }));
}
struct FromIndex { static int lane(int, int step, int width, int first) { return first + (step & (width - 1)); } };
struct FromBelow { static int lane(int i, int step, int, int first) { return i - step < first ? i : i - step; } };
struct FromAbove {
  static int lane(int i, int step, int width, int first) { return i + step >= first + width ? i : i + step; }
};
struct FromXor {
  static int lane(int i, int step, int width, int first) { return (i ^ step) >= first + width ? i : i ^ step; }
};

template <class T, class Combine>
T reduce(const char* operation, uint32_t mask, T value, const char* file, int line, Combine) {
  return bits<T>(warp_operation(operation, mask, bits<uint64_t>(value), 0, file, line,
                                [](Arrival* const* members, int) {
    const Arrival* first = nullptr;
    T total{};
    for (int i = 0; i < kWarp; ++i) {
      if (!members[i]) continue;
      total = first ? Combine::of(total, bits<T>(members[i]->value)) : bits<T>(members[i]->value);
      first = members[i];
    }
    for (int i = 0; i < kWarp; ++i)
      if (members[i]) members[i]->result = bits<uint64_t>(total);
  }));
}

}  // namespace cuda_on_cpu

inline void __syncthreads(CUDA_ON_CPU_SITE) { cuda_on_cpu::barrier("__syncthreads", false, file, line); }
inline int __syncthreads_count(int p, CUDA_ON_CPU_SITE) {
  return int(cuda_on_cpu::barrier("__syncthreads_count", p, file, line));
}
inline int __syncthreads_or(int p, CUDA_ON_CPU_SITE) {
  return cuda_on_cpu::barrier("__syncthreads_or", p, file, line) != 0;
}
inline int __syncthreads_and(int p, CUDA_ON_CPU_SITE) {
  return cuda_on_cpu::barrier("__syncthreads_and", !p, file, line) == 0;
}
inline void __syncwarp(uint32_t mask = ~0u, CUDA_ON_CPU_SITE) {
  cuda_on_cpu::vote("__syncwarp", mask, false, file, line);
}
inline uint32_t __ballot_sync(uint32_t mask, int p, CUDA_ON_CPU_SITE) {
  return cuda_on_cpu::vote("__ballot_sync", mask, p, file, line);
}
inline int __any_sync(uint32_t mask, int p, CUDA_ON_CPU_SITE) {
  return cuda_on_cpu::vote("__any_sync", mask, p, file, line) != 0;
}
inline int __all_sync(uint32_t mask, int p, CUDA_ON_CPU_SITE) {
  return cuda_on_cpu::vote("__all_sync", mask, !p, file, line) == 0;
}
template <class T>
uint32_t __match_any_sync(uint32_t mask, T value, CUDA_ON_CPU_SITE) {
  using namespace cuda_on_cpu;
  return uint32_t(warp_operation("__match_any_sync", mask, bits<uint64_t>(value), 0, file, line,
                                 [](Arrival* const* members, int) {
    for (int i = 0; i < kWarp * kWarp; ++i) {
      Arrival *lane = members[i / kWarp], *other = members[i % kWarp];
      if (lane && other) lane->result |= uint64_t(lane->value == other->value) << i % kWarp;
    }
  }));
}
#define CUDA_ON_CPU_SHUFFLE(name, Source)                                                    \
  template <class T>                                                                         \
  T name(uint32_t mask, T value, int step, int width = cuda_on_cpu::kWarp, CUDA_ON_CPU_SITE) { \
    return cuda_on_cpu::shuffle(#name, mask, value, step, width, file, line, Source{});      \
  }
CUDA_ON_CPU_SHUFFLE(__shfl_sync, cuda_on_cpu::FromIndex)
CUDA_ON_CPU_SHUFFLE(__shfl_up_sync, cuda_on_cpu::FromBelow)
CUDA_ON_CPU_SHUFFLE(__shfl_down_sync, cuda_on_cpu::FromAbove)
CUDA_ON_CPU_SHUFFLE(__shfl_xor_sync, cuda_on_cpu::FromXor)
#define CUDA_ON_CPU_REDUCE(name, combined)                                       \
  template <class T>                                                             \
  T name(uint32_t mask, T value, CUDA_ON_CPU_SITE) {                             \
    struct Combine { static T of(T a, T b) { return combined; } };               \
    return cuda_on_cpu::reduce(#name, mask, value, file, line, Combine{});       \
  }
CUDA_ON_CPU_REDUCE(__reduce_add_sync, T(a + b))
CUDA_ON_CPU_REDUCE(__reduce_min_sync, b < a ? b : a)
CUDA_ON_CPU_REDUCE(__reduce_max_sync, a < b ? b : a)
CUDA_ON_CPU_REDUCE(__reduce_or_sync, T(a | b))
CUDA_ON_CPU_REDUCE(__reduce_and_sync, T(a & b))
