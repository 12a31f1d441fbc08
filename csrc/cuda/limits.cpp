// Limits of each architecture, from the tables "Technical Specifications per Compute Capability" of
// the CUDA programming guide (shared memory per block, opt-in) and the largest part of each.
#include "../params/launch.h"

namespace denoise_ext::cuda {

DeviceLimits typical_limits(int compute_capability) {
  constexpr int kKiB = 1024;
  const DeviceLimits known[] = {
      {75, 72, 64 * kKiB},   {80, 108, 163 * kKiB},  {86, 84, 99 * kKiB},   {89, 142, 99 * kKiB},
      {90, 132, 227 * kKiB}, {100, 148, 227 * kKiB}, {120, 188, 99 * kKiB},
  };
  DeviceLimits limits{compute_capability, 72, 48 * kKiB};
  for (const DeviceLimits& entry : known)
    if (entry.compute_capability <= compute_capability) limits = entry;
  limits.compute_capability = compute_capability;
  return limits;
}

}  // namespace denoise_ext::cuda
