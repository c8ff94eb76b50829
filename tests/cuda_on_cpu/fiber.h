// A stack of its own for each CUDA thread, and the switch between two of them.
#pragma once
#include <sys/mman.h>
#if !defined(__x86_64__)
#include <ucontext.h>
#endif
#include <cstddef>

namespace cuda_on_cpu {

constexpr size_t kStackBytes = 128 << 10, kPage = 4096;

#if defined(__x86_64__)
// swapcontext would make two system calls.
[[gnu::naked, gnu::noipa]] inline void switch_stack(void** /*leave*/, void* /*enter*/) {
  asm("push %rbp; push %rbx; push %r12; push %r13; push %r14; push %r15; mov %rsp, (%rdi); mov %rsi, %rsp;"
      "pop %r15; pop %r14; pop %r13; pop %r12; pop %rbx; pop %rbp; ret");
}
#endif

class Fiber {
 public:
  void start(void (*entry)(), int number) {
    if (!stack_) map_stack();
    // Stacks that began at the same place of a page would share a few lines of the cache.
    const size_t bytes = kStackBytes - number % 32 * 128;
#if defined(__x86_64__)
    void** frame = reinterpret_cast<void**>(stack_ + bytes) - 8;  // six registers, the entry, no return address
    for (int i = 0; i < 8; ++i) frame[i] = i == 6 ? reinterpret_cast<void*>(entry) : nullptr;
    top_ = frame;
#else
    getcontext(&context_);
    context_.uc_stack.ss_sp = stack_, context_.uc_stack.ss_size = bytes, context_.uc_link = nullptr;
    makecontext(&context_, entry, 0);
#endif
  }

#if defined(__x86_64__)
  void switch_to(Fiber& other) { switch_stack(&top_, other.top_); }
#else
  void switch_to(Fiber& other) { swapcontext(&context_, &other.context_); }
#endif

 private:
  void map_stack() {
    const int kind = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    stack_ = static_cast<char*>(mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE, kind, -1, 0));
    mprotect(stack_, kPage, PROT_NONE);  // an overflow ends here
  }

  char* stack_ = nullptr;
#if defined(__x86_64__)
  void* top_ = nullptr;
#else
  ucontext_t context_;
#endif
};

}  // namespace cuda_on_cpu
