// Which thread of the block runs, block-wide barriers, and how a fault ends the launch.
#include <cstdlib>
#include <cstring>
#include <map>

#include "machine.h"

namespace cuda_emulator {

Machine machine;
BuiltinVariables builtin;

uint32_t random_number() {
  uint64_t& x = machine.random_state;  // xorshift64
  x ^= x << 13;
  x ^= x >> 7;
  x ^= x << 17;
  return static_cast<uint32_t>(x >> 16);
}

namespace {

std::string describe_deadlock() {
  std::map<std::string, std::pair<int, const Thread*>> groups;  // where they wait: how many, the first
  for (const Thread& thread : machine.threads) {
    if (thread.exited) continue;
    auto& group = groups[std::string(thread.waits_in) + " at " + text(thread.waits_at)];
    if (group.first++ == 0) group.second = &thread;
  }
  std::string message = "no thread can go on:";
  for (const auto& [place, group] : groups)
    message += "\n  " + std::to_string(group.first) + " thread(s), the first " + text(*group.second) +
               ", wait in " + place;
  const size_t exited = machine.threads.size() - static_cast<size_t>(machine.alive);
  return message + "\n  " + std::to_string(exited) + " thread(s) have exited";
}

Thread& next_thread() {
  std::deque<int>& ready = machine.ready;
  if (ready.empty()) fail("deadlock", describe_deadlock());
  if (machine.options.seed == 1) {
    Thread& thread = machine.threads[static_cast<size_t>(ready.back())];
    ready.pop_back();
    return thread;
  }
  if (machine.options.seed > 1) std::swap(ready.front(), ready[random_number() % ready.size()]);
  Thread& thread = machine.threads[static_cast<size_t>(ready.front())];
  ready.pop_front();
  return thread;
}

void make_current(Thread& thread) {
  machine.current = &thread;
  builtin.thread_index = thread.index;
}

void switch_to(Thread& to) {
  Thread* const from = machine.current;
  if (from == &to) return;
  ++machine.statistics.switches;
  make_current(to);
  void* saved = nullptr;
  before_switch(machine.stacks.begin(to.stack), Stacks::usable_bytes(), from->exited, &saved);
  Context::swap(from->context, to.context);
  after_switch(saved);
}

void leave_block() {
  before_switch(nullptr, 0, true, nullptr);
  Thread* const from = machine.current;
  machine.current = nullptr;
  Context::swap(from->context, machine.main);
  std::abort();  // nothing resumes a thread that has left
}

void release_barrier() {
  machine.at_barrier = 0;
  ++machine.barriers;
  for (Warp& warp : machine.warps) {
    if (warp.synchronisations == 0) continue;
    warp.synchronisations = 0;
    std::memset(warp.known, 0, sizeof warp.known);
  }
  machine.outcome = machine.votes;
  machine.votes = {0, 1, 0};
  for (Thread& thread : machine.threads)
    if (!thread.exited && thread.waiting) wake(thread);
}

Machine::Votes pass_barrier(int predicate, SourceLine line) {
  ++machine.statistics.barriers;
  const SourceLine& other = machine.barrier_line;
  if (machine.at_barrier > 0 && (other.line != line.line || std::strcmp(other.file, line.file) != 0))
    fail("divergent barrier",
         "__syncthreads reached at " + text(line) + " while other threads wait at " + text(other));
  machine.barrier_line = line;
  machine.votes.any |= predicate != 0;
  machine.votes.all &= predicate != 0;
  machine.votes.count += predicate != 0;
  if (++machine.at_barrier == machine.alive) {
    release_barrier();
  } else {
    wait_in("__syncthreads", line);
  }
  return machine.outcome;
}

// The first function on every thread's stack.
void run_thread() {
  after_first_switch();
  machine.body(machine.closure);
  Thread& thread = *machine.current;
  thread.exited = true;
  --machine.alive;
  leave_warp(thread);
  // A barrier counts the threads that are left.
  if (machine.alive > 0 && machine.at_barrier == machine.alive) release_barrier();
  if (machine.alive > 0) switch_to(next_thread());
  leave_block();
}

}  // namespace

void wait_in(const char* operation, SourceLine line) {
  Thread& thread = *machine.current;
  thread.waiting = true;
  thread.waits_in = operation;
  thread.waits_at = line;
  switch_to(next_thread());
}

void wake(Thread& thread) {
  thread.waiting = false;
  machine.ready.push_back(thread.linear);
}

void yield() {
  // Behind all others, whichever end the next thread is taken from.
  if (machine.options.seed == 1) {
    machine.ready.push_front(machine.current->linear);
  } else {
    machine.ready.push_back(machine.current->linear);
  }
  switch_to(next_thread());
}

void fail(const char* kind, const std::string& message) {
  machine.checking = true;
  std::string where = "\n  block (" + std::to_string(blockIdx.x) + "," + std::to_string(blockIdx.y) + "," +
                      std::to_string(blockIdx.z) + ")";
  if (machine.current == nullptr) throw Error(kind, message);
  where += ", " + text(*machine.current) + ", seed " + std::to_string(machine.options.seed);
  machine.error = std::make_unique<Error>(kind, message + where);
  leave_block();
  std::abort();
}

void start_block() {
  for (Thread& thread : machine.threads) {
    unpoison(machine.stacks.begin(thread.stack), Stacks::usable_bytes());
    thread.context.prepare(machine.stacks.begin(thread.stack), Stacks::usable_bytes(), run_thread);
    machine.ready.push_back(thread.linear);
  }
  Thread& first = next_thread();
  make_current(first);
  void* saved = nullptr;
  before_switch(machine.stacks.begin(first.stack), Stacks::usable_bytes(), false, &saved);
  Context::swap(machine.main, first.context);
  after_switch(saved);
}

void synchronise_block(SourceLine line) {
  pass_barrier(0, line);
}
int block_vote_any(int predicate, SourceLine line) {
  return pass_barrier(predicate, line).any;
}
int block_vote_all(int predicate, SourceLine line) {
  return pass_barrier(predicate, line).all;
}
int block_vote_count(int predicate, SourceLine line) {
  return pass_barrier(predicate, line).count;
}

void trap(SourceLine line) {
  fail("trap", "__trap() at " + text(line));
}

void before_atomic(const void* address, size_t bytes, SourceLine line) {
  constexpr int kPatience = 256;
  if (++machine.atomics_in_a_row >= kPatience) {
    machine.atomics_in_a_row = 0;
    yield();
  }
  check_access(address, bytes, Access::kAtomic, line);
}

}  // namespace cuda_emulator
