// An operator's CUDA kernels as data: what each is called, why it cannot run, what it costs.
#pragma once

#include <cstdint>
#include <cstdio>

#include "../params/launch.h"

namespace denoise_ext::cuda {

template <class Params>
struct Variant {
  const char* name;
  // nullptr where it can run, else the reason why not, in words for a user.
  const char* (*cannot_run)(const Params& params, const DeviceLimits& limits);
  // An estimate in microseconds, for comparing variants of the same operator only.
  double (*cost)(const Params& params, const DeviceLimits& limits);
  // Temporary memory; nullptr for none.
  int64_t (*workspace_bytes)(const Params& params, const DeviceLimits& limits);
  // Enqueues the work; returns 0 or a CUDA error code.
  int (*launch)(const Params& params, const LaunchContext& context);
};

// A cannot_run for the variant that takes any call.
template <class Params>
const char* always(const Params&, const DeviceLimits&) {
  return nullptr;
}

// The cost that counts in a comparison: `cost`, or less than any where the variant is preferred
// (params/preferred.h). Tests, which run every variant that can take a call, link another definition
// (tests/cuda_emulator/runtime/torch_hooks.cpp).
double compared_cost(const char* variant, double cost);

// The cheapest variant that can run. Every table ends with one that always can.
template <class Params, int kCount>
const Variant<Params>& choose(const Variant<Params> (&table)[kCount], const Params& params,
                              const DeviceLimits& limits) {
  const Variant<Params>* best = nullptr;
  double best_cost = 0;
  for (const Variant<Params>& variant : table) {
    if (variant.cannot_run(params, limits) != nullptr) continue;
    const double cost = compared_cost(variant.name, variant.cost(params, limits));
    if (best == nullptr || cost < best_cost) {
      best = &variant;
      best_cost = cost;
    }
  }
  return *best;
}

// The temporary memory of the chosen variant, in bytes.
template <class Params, int kCount>
int64_t workspace_of(const Variant<Params> (&table)[kCount], const Params& params,
                     const DeviceLimits& limits) {
  const Variant<Params>& variant = choose(table, params, limits);
  return variant.workspace_bytes == nullptr ? 0 : variant.workspace_bytes(params, limits);
}

// One line per variant: the chosen one with its cost, the others that could run, and why the rest cannot.
template <class Params, int kCount>
void explain(const Variant<Params> (&table)[kCount], const Params& params, const DeviceLimits& limits,
             char* text, int bytes) {
  const Variant<Params>& best = choose(table, params, limits);
  int used = std::snprintf(text, static_cast<size_t>(bytes), "%s: chosen, estimated at %.1f us", best.name,
                           best.cost(params, limits));
  for (const Variant<Params>& variant : table) {
    if (&variant == &best || used >= bytes) continue;
    const char* reason = variant.cannot_run(params, limits);
    char* const to = text + used;
    const auto room = static_cast<size_t>(bytes - used);
    used += reason != nullptr ? std::snprintf(to, room, "\n%s: %s", variant.name, reason)
                              : std::snprintf(to, room, "\n%s: could run, estimated at %.1f us", variant.name,
                                              variant.cost(params, limits));
  }
}

}  // namespace denoise_ext::cuda
