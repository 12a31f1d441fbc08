#include <cuda_runtime.h>

#include <cstring>

#include "../params/device_list.h"
#include "../params/driver.h"
#include "../params/launch.h"

namespace denoise_ext::cuda {

const char* error_text(int code) {
  return cudaGetErrorString(static_cast<cudaError_t>(code));
}

Versions versions() {
  Versions found{};  // a query that fails leaves its 0
  cudaDriverGetVersion(&found.driver);
  cudaRuntimeGetVersion(&found.runtime);
  return found;
}

int device_count(const char** error) {
  int count = 0;
  const cudaError_t code = cudaGetDeviceCount(&count);
  if (code == cudaSuccess) return count;
  *error = cudaGetErrorString(code);
  return -1;
}

int device_properties(int device, char* name, int name_bytes, int* major, int* minor) {
  cudaDeviceProp properties;
  const cudaError_t code = cudaGetDeviceProperties(&properties, device);
  if (code != cudaSuccess) return static_cast<int>(code);
  std::strncpy(name, properties.name, static_cast<size_t>(name_bytes) - 1);
  name[name_bytes - 1] = '\0';
  *major = properties.major;
  *minor = properties.minor;
  return 0;
}

int device_limits(int device, DeviceLimits* limits) {
  int major = 0, minor = 0;
  const struct {
    int* value;
    cudaDeviceAttr attribute;
  } wanted[] = {
      {&major, cudaDevAttrComputeCapabilityMajor},
      {&minor, cudaDevAttrComputeCapabilityMinor},
      {&limits->multiprocessors, cudaDevAttrMultiProcessorCount},
      {&limits->shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin},
  };
  for (const auto& entry : wanted) {
    const cudaError_t code = cudaDeviceGetAttribute(entry.value, entry.attribute, device);
    if (code != cudaSuccess) return static_cast<int>(code);
  }
  limits->compute_capability = 10 * major + minor;
  return 0;
}

}  // namespace denoise_ext::cuda
