#include "fiber.h"

#include <sys/mman.h>

#include <new>

namespace cuda_emulator {

#if defined(__x86_64__)

// swapcontext() makes a system call for the signal mask at every switch; this saves just what the ABI
// says a function must preserve.
extern "C" void cuda_emulator_switch(void** save, void* load);
asm(R"(
.text
.globl cuda_emulator_switch
.hidden cuda_emulator_switch
.type cuda_emulator_switch,@function
cuda_emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size cuda_emulator_switch,.-cuda_emulator_switch
)");

void Context::prepare(char* stack, size_t bytes, void (*entry)()) {
  auto top = reinterpret_cast<void**>(stack + bytes);
  *--top = nullptr;  // entry's "return address": at its first instruction rsp % 16 is 8, as the ABI wants
  *--top = reinterpret_cast<void*>(entry);
  for (int i = 0; i < 6; ++i) *--top = nullptr;  // the six registers that the switch pops
  stack_pointer_ = top;
}

void Context::swap(Context& from, Context& to) {
  cuda_emulator_switch(&from.stack_pointer_, to.stack_pointer_);
}

#else

void Context::prepare(char* stack, size_t bytes, void (*entry)()) {
  getcontext(&context_);
  context_.uc_stack.ss_sp = stack;
  context_.uc_stack.ss_size = bytes;
  context_.uc_link = nullptr;
  makecontext(&context_, entry, 0);
}

void Context::swap(Context& from, Context& to) {
  swapcontext(&from.context_, &to.context_);
}

#endif

void Stacks::reserve(size_t count) {
  if (count <= count_) return;
  if (memory_ != nullptr) munmap(memory_, count_ * kBytes);
  void* const memory = mmap(nullptr, count * kBytes, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  memory_ = static_cast<char*>(memory);
  count_ = count;
  for (size_t i = 0; i < count; ++i) mprotect(memory_ + i * kBytes, kGuard, PROT_NONE);
}

}  // namespace cuda_emulator
