// Where a CUDA launcher runs: device, stream, limits. No CUDA header: a stream is an opaque pointer.
#pragma once

#include <cstdint>

namespace denoise_ext::cuda {

// The device's limits that the choice of a kernel depends on.
struct DeviceLimits {
  int compute_capability;  // 10 * major + minor, e.g. 90
  int multiprocessors;
  int shared_bytes;  // shared memory one block may ask for (opt-in maximum)
};

// Launchers allocate nothing and wait for nothing, so that a CUDA graph can record them: temporary
// memory comes in `workspace`, as much as the operator's *_workspace_bytes() asked for.
struct LaunchContext {
  DeviceLimits limits;
  void* stream;  // cudaStream_t
  void* workspace;
  int64_t workspace_bytes;
};

// The limits of a device of this process; returns 0 or a CUDA error code.
int device_limits(int device, DeviceLimits* limits);

// The limits of an architecture without having one, for explain(): from NVIDIA's published tables.
DeviceLimits typical_limits(int compute_capability);

const char* error_text(int code);

}  // namespace denoise_ext::cuda
