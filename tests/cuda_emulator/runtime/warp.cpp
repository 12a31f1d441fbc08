// Operations that lanes of a warp do together. Lanes meet by their mask; the last to arrive does the
// work of all.
#include <algorithm>

#include "machine.h"

namespace cuda_emulator {
namespace {

struct ShuffleArguments {
  uint64_t value, result;
  Shuffle mode;
  int argument, width;
};
struct BallotArguments {
  int predicate;
  uint32_t result;
};

const char* name(Collective operation) {
  switch (operation) {
    case Collective::kSyncwarp: return "__syncwarp";
    case Collective::kShuffle: return "a shuffle";
    case Collective::kBallot: return "a vote";
    case Collective::kLdmatrix: return "ldmatrix";
    case Collective::kMma: return "mma";
  }
  return "?";
}

template <class F>
void for_each_lane(uint32_t lanes, const F& f) {
  for (; lanes != 0; lanes &= lanes - 1) f(__builtin_ctz(lanes));
}

// Every lane now knows what any of them knew, and what each has done.
void run_syncwarp(Warp& warp, uint32_t lanes) {
  ++warp.synchronisations;
  uint16_t known[32] = {};
  for_each_lane(lanes, [&](int lane) {
    for (int other = 0; other < 32; ++other) known[other] = std::max(known[other], warp.known[lane][other]);
  });
  for_each_lane(lanes, [&](int lane) { known[lane] = warp.synchronisations; });
  for_each_lane(lanes, [&](int lane) { std::copy(known, known + 32, warp.known[lane]); });
}

int shuffle_source(int lane, const ShuffleArguments& a) {
  const int first = lane & ~(a.width - 1), end = first + a.width;
  switch (a.mode) {
    case Shuffle::kIndex: return first + (a.argument & (a.width - 1));
    case Shuffle::kUp: return lane - a.argument < first ? lane : lane - a.argument;
    case Shuffle::kDown: return lane + a.argument >= end ? lane : lane + a.argument;
    case Shuffle::kXor: return (lane ^ a.argument) >= end ? lane : lane ^ a.argument;
  }
  return lane;
}

void run_shuffle(const Rendezvous& meeting) {
  for_each_lane(meeting.arrived, [&](int lane) {
    auto& a = *static_cast<ShuffleArguments*>(meeting.arguments[lane]);
    const int source = shuffle_source(lane, a);
    if ((meeting.arrived >> source & 1) == 0)
      fail("bad shuffle", "lane " + std::to_string(lane) + " reads lane " + std::to_string(source) +
                              ", which takes no part, at " + text(meeting.lines[lane]));
    a.result = static_cast<ShuffleArguments*>(meeting.arguments[source])->value;
  });
}

void run_ballot(const Rendezvous& meeting) {
  uint32_t result = 0;
  for_each_lane(meeting.arrived, [&](int lane) {
    if (static_cast<BallotArguments*>(meeting.arguments[lane])->predicate != 0) result |= 1u << lane;
  });
  for_each_lane(meeting.arrived,
                [&](int lane) { static_cast<BallotArguments*>(meeting.arguments[lane])->result = result; });
}

// All lanes are there: does the work and lets them go on. `current` is the caller, which never waited.
void complete(Warp& warp, size_t index) {
  const Rendezvous meeting = warp.meetings[index];
  warp.meetings.erase(warp.meetings.begin() + static_cast<std::ptrdiff_t>(index));
  switch (meeting.operation) {
    case Collective::kSyncwarp: run_syncwarp(warp, meeting.arrived); break;
    case Collective::kShuffle: run_shuffle(meeting); break;
    case Collective::kBallot: run_ballot(meeting); break;
    case Collective::kLdmatrix: run_ldmatrix(meeting); break;
    case Collective::kMma: run_mma(meeting); break;
  }
  const size_t first = static_cast<size_t>(&warp - machine.warps.data()) * 32;
  for_each_lane(meeting.arrived, [&](int lane) {
    Thread& thread = machine.threads[first + static_cast<size_t>(lane)];
    if (&thread != machine.current) wake(thread);
  });
}

bool is_complete(const Warp& warp, const Rendezvous& meeting) {
  return (meeting.mask & warp.live) == meeting.arrived;
}

}  // namespace

void meet(Collective operation, uint32_t mask, void* arguments, SourceLine line) {
  ++machine.statistics.collectives;
  const Thread& thread = *machine.current;
  Warp& warp = machine.warps[static_cast<size_t>(thread.warp)];
  const uint32_t bit = 1u << thread.lane;
  if ((mask & bit) == 0)
    fail("bad mask",
         std::string(name(operation)) + " at " + text(line) + ": the calling lane is not in its own mask");
  size_t index = 0;
  for (; index < warp.meetings.size(); ++index) {
    const Rendezvous& other = warp.meetings[index];
    if ((other.mask & mask) == 0) continue;
    if (other.operation == operation && other.mask == mask && (other.arrived & bit) == 0) break;
    fail("divergent warp",
         std::string(name(operation)) + " at " + text(line) + " meets " + name(other.operation) + " at " +
             text(other.lines[__builtin_ctz(other.arrived)]) + " in the same warp; their masks overlap");
  }
  if (index == warp.meetings.size()) warp.meetings.push_back(Rendezvous{operation, mask, 0, {}, {}});
  Rendezvous& meeting = warp.meetings[index];
  meeting.arrived |= bit;
  meeting.arguments[thread.lane] = arguments;
  meeting.lines[thread.lane] = line;
  if (is_complete(warp, meeting)) {
    complete(warp, index);
  } else {
    wait_in(name(operation), line);
  }
}

void leave_warp(Thread& thread) {
  Warp& warp = machine.warps[static_cast<size_t>(thread.warp)];
  warp.live &= ~(1u << thread.lane);
  for (size_t i = 0; i < warp.meetings.size();) {
    if (is_complete(warp, warp.meetings[i])) {
      complete(warp, i);
    } else {
      ++i;
    }
  }
}

void synchronise_warp(uint32_t mask, SourceLine line) {
  meet(Collective::kSyncwarp, mask, nullptr, line);
}

uint64_t shuffle(uint64_t value, uint32_t mask, Shuffle mode, int argument, int width, SourceLine line) {
  ShuffleArguments arguments{value, 0, mode, argument, width};
  meet(Collective::kShuffle, mask, &arguments, line);
  return arguments.result;
}

uint32_t ballot(uint32_t mask, int predicate, SourceLine line) {
  BallotArguments arguments{predicate, 0};
  meet(Collective::kBallot, mask, &arguments, line);
  return arguments.result;
}

}  // namespace cuda_emulator
