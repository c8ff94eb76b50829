// Runs the blocks of a launch one after another, each CUDA thread as a fiber, in an order that a seed decides.
// Where a GPU would hang or answer with nonsense, the launch ends with a report. One launch runs at a time.
//
// A thread runs undisturbed from one barrier, warp operation or (now and then) atomic operation to the next: a race
// shows only if such an order makes it go wrong. Blocks that wait for other blocks and weak memory order are beyond it.
#pragma once
#include <link.h>

#include <algorithm>
#include <cfenv>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <map>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "fiber.h"

struct uint3 { unsigned x, y, z; };
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
inline uint3 threadIdx, blockIdx;
inline dim3 blockDim, gridDim;

namespace cuda_on_cpu {
constexpr int kBlock = 0, kWarp = 32, kMostThreads = 1024, kPatience = 20000;
constexpr size_t kMostShared = 232448, kMargin = 1024;  // the margin must stay as it was
constexpr unsigned char kPoison = 0xCD;
}  // namespace cuda_on_cpu

namespace trim {
alignas(1024) inline thread_local unsigned char trim_dynamic_shared[cuda_on_cpu::kMostShared + cuda_on_cpu::kMargin];
}  // namespace trim

namespace cuda_on_cpu {

// What a thread brings to a barrier or to a warp operation, and what it takes away.
struct Arrival {
  const char* operation;
  void (*finish)(Arrival* const* members, int size);  // runs when all are there; lanes outside the mask are null
  int group;                                          // kWarp or kBlock
  uint32_t mask;
  const char* file;
  int line;
  uint64_t value = 0, argument = 0, result = 0;
  void* operands = nullptr;
};

class Scheduler {
 public:
  int current = 0;          // linear index of the running thread
  uint64_t blocks_run = 0;  // tells the state of one block from that of the next
  std::string report;
  void (*at_block_end)() = nullptr;

  void seed(uint32_t seed) { random_ = (uint64_t(seed) + 1) * 0x9e3779b97f4a7c15u; }

  uint32_t random(uint64_t below) {
    random_ ^= random_ << 13, random_ ^= random_ >> 7, random_ ^= random_ << 17;
    return uint32_t((random_ >> 32) * below >> 32);
  }

  bool runs() const { return body_ != nullptr; }

  // Whether every thread of every block came to its end; `report` says why not.
  bool run(dim3 grid, dim3 block, size_t dynamic_bytes, const std::function<void()>& body) {
    body_ = &body, count_ = int(block.x * block.y * block.z), blockDim = block, gridDim = grid;
    report.clear();
    const auto [shared, shared_end] = shared_memory();
    const std::vector<unsigned char> before(shared, shared_end);  // the host may have variables there
    std::fenv_t environment;  // a GPU has subnormal numbers, whatever this process wants
    std::fegetenv(&environment), std::fesetenv(FE_DFL_ENV);
    const uint64_t blocks = uint64_t(grid.x) * grid.y * grid.z, first = random(blocks);
    uint64_t stride = random(blocks) + 1;
    while (std::gcd(stride, blocks) != 1) ++stride;
    for (uint64_t i = 0; i < blocks && report.empty(); ++i) {
      const uint64_t b = (first + i * stride) % blocks;
      blockIdx = {unsigned(b % grid.x), unsigned(b / grid.x % grid.y), unsigned(b / grid.x / grid.y)};
      std::fill(shared, shared_end, kPoison);
      run_block();
      const unsigned char* margin = trim::trim_dynamic_shared + dynamic_bytes;
      if (std::any_of(margin, margin + kMargin, [](unsigned char byte) { return byte != kPoison; }))
        fail("written past the end of dynamic shared memory");
      if (at_block_end) at_block_end();
    }
    std::copy(before.begin(), before.end(), shared);
    std::fesetenv(&environment);
    body_ = nullptr;
    return report.empty();
  }

  // Called by the running thread: waits for the other members.
  void meet(Arrival& arrival) {
    threads_[current].arrival = &arrival, ++events_;
    if (!(arrival.mask >> current % kWarp & 1)) fail("thread " + std::to_string(current) + " is not in its own mask");
    leave();
  }

  // Called by the running thread: lets others go first.
  void pause() { ready_[current / kWarp] |= 1u << current % kWarp, leave(); }

  // Called by the running thread: ends the launch.
  void abandon(const std::string& why) { fail("thread " + std::to_string(current) + ": " + why), leave(); }

  // The first report of a launch counts.
  void fail(const std::string& why) {
    if (!report.empty()) return;
    report = why + " in block (" + std::to_string(blockIdx.x) + ", " + std::to_string(blockIdx.y) + ", " +
             std::to_string(blockIdx.z) + ")";
    std::map<std::string, std::vector<int>> threads;
    for (int t = 0; t < count_; ++t) threads[describe(threads_[t])].push_back(t);
    for (const auto& [state, members] : threads) {
      report += "\n  " + std::to_string(members.size()) + " " + state + ": threads";
      size_t shown = 0;
      for (size_t i = 0, end; i < members.size() && shown < 8; i = end, ++shown) {
        for (end = i + 1; end < members.size() && members[end] == members[end - 1] + 1;) ++end;
        report += " " + std::to_string(members[i]) + (end > i + 1 ? "-" + std::to_string(members[end - 1]) : "");
      }
      if (shown == 8) report += " ...";
    }
  }

 private:
  struct Thread {
    Fiber fiber;
    Arrival* arrival = nullptr;  // where it waits
    bool exited = false;
  };

  static std::string describe(const Thread& thread) {
    if (thread.exited) return "exited";
    if (!thread.arrival) return "can run";
    const std::string file = thread.arrival->file, line = std::to_string(thread.arrival->line);
    char mask[32] = "";
    if (thread.arrival->group == kWarp) std::snprintf(mask, sizeof mask, " with mask %08x", thread.arrival->mask);
    return "at " + (thread.arrival->operation + (mask + (", " + file.substr(file.rfind('/') + 1) + ":" + line)));
  }

  using Region = std::pair<unsigned char*, unsigned char*>;

  // This library's thread-local variables, which __shared__ and trim_dynamic_shared are.
  static Region shared_memory() {
    Region region(trim::trim_dynamic_shared, nullptr);
    const auto find = [](dl_phdr_info* library, size_t, void* result) {
      Region& wanted = *static_cast<Region*>(result);
      const auto start = static_cast<unsigned char*>(library->dlpi_tls_data);
      for (int i = 0; start && i < library->dlpi_phnum; ++i) {
        const auto& segment = library->dlpi_phdr[i];
        if (segment.p_type != PT_TLS || wanted.first < start || wanted.first >= start + segment.p_memsz) continue;
        wanted = {start, start + segment.p_memsz};
        return 1;
      }
      return 0;
    };
    dl_iterate_phdr(find, &region);
    return region;
  }

  void run_block() {
    ++blocks_run, exited_ = 0;
    std::fill(ready_, ready_ + kMostThreads / kWarp, 0);
    for (int t = 0; t < count_; ++t) {
      threads_[t].fiber.start(run_thread, t);
      threads_[t].arrival = nullptr, threads_[t].exited = false, ready_[t / kWarp] |= 1u << t % kWarp;
    }
    const uint32_t stay = "\0\4\7\10"[random(4)];  // in eighths: how far a warp may run ahead
    for (int warp = 0, vain = 0; report.empty() && exited_ < count_;) {
      uint32_t runnable = 0;
      for (int w = 0; w * kWarp < count_; ++w) runnable |= uint32_t(ready_[w] != 0) << w;
      if (!runnable) {
        finish_barrier();
        continue;
      }
      if (vain || !(runnable >> warp & 1) || random(8) >= stay)
        for (warp = int(random(32)); !(runnable >> warp & 1);) warp = (warp + 1) % 32;
      const int events = events_;
      run_warp(warp);
      vain = events == events_ ? vain + 1 : 0;
      if (vain == kPatience) fail("threads wait in a loop for what never comes");
    }
  }

  void run_warp(int warp) {
    const uint32_t ready = ready_[warp], first = random(32), stride = 2 * random(16) + 1;
    for (uint32_t i = 0; i < 32 && report.empty(); ++i) {
      const uint32_t lane = (first + i * stride) % 32, t = uint32_t(warp * kWarp) + lane;
      if (!(ready >> lane & 1)) continue;
      ready_[warp] &= ~(1u << lane), current = int(t);
      threadIdx = {t % blockDim.x, t / blockDim.x % blockDim.y, t / blockDim.x / blockDim.y};
      host_.switch_to(threads_[t].fiber);
    }
    for (int t = warp * kWarp; t < std::min(count_, (warp + 1) * kWarp) && report.empty(); ++t)
      if (threads_[t].arrival && threads_[t].arrival->group == kWarp) finish(warp * kWarp, *threads_[t].arrival);
  }

  static void run_thread();
  void leave() { threads_[current].fiber.switch_to(host_); }

  // Finishes what the group from thread `first` on does together, if all its members are there.
  bool finish(int first, const Arrival& model) {
    const int size = model.group == kBlock ? count_ : kWarp;
    static Arrival* members[kMostThreads];
    for (int i = 0; i < size; ++i) {
      const int t = first + i;
      members[i] = nullptr;
      if (!(model.mask >> i % kWarp & 1)) continue;
      if (t >= count_ || threads_[t].exited)
        return fail("thread " + std::to_string(t) + " has exited and is missed at " + model.operation), false;
      members[i] = threads_[t].arrival;
      if (!members[i] || members[i]->group != model.group || members[i]->mask != model.mask) return false;
    }
    for (int i = 0; i < size; ++i) {
      if (!members[i]) continue;
      const bool same_place = model.group == kWarp || members[i]->line == model.line;
      const char *mine = members[i]->operation, *theirs = model.operation;
      if (!same_place || (mine != theirs && std::strcmp(mine, theirs) != 0))
        return fail("threads of one group are at different operations"), false;
    }
    model.finish(members, size);
    for (int i = 0; i < size; ++i)
      if (members[i]) threads_[first + i].arrival = nullptr, ready_[(first + i) / kWarp] |= 1u << (first + i) % kWarp;
    ++events_;
    return true;
  }

  // When no thread can run, they must all be at one barrier.
  void finish_barrier() {
    const Arrival* model = nullptr;
    for (int t = 0; t < count_; ++t)
      if (!threads_[t].exited && (!model || model->group == kWarp)) model = threads_[t].arrival;
    if (model->group == kWarp || !finish(0, *model)) fail("deadlock: no thread can go on");
  }

  uint64_t random_ = 88172645463325252u;
  const std::function<void()>* body_ = nullptr;
  int count_ = 0, exited_ = 0, events_ = 0;
  uint32_t ready_[kMostThreads / kWarp];  // the threads that can run, by warp
  Thread threads_[kMostThreads];
  Fiber host_;
};

inline Scheduler scheduler;

inline void Scheduler::run_thread() {
  (*scheduler.body_)();
  scheduler.threads_[scheduler.current].exited = true;
  ++scheduler.exited_, ++scheduler.events_;
  scheduler.leave();
}

}  // namespace cuda_on_cpu
