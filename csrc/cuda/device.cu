#include <cuda_runtime.h>

#include <cstring>

#include "../params/device.h"

namespace denoise_ext {

const char* cuda_error_text(int code) {
  return cudaGetErrorString(static_cast<cudaError_t>(code));
}

int cuda_device_count(const char** error) {
  int count = 0;
  const cudaError_t code = cudaGetDeviceCount(&count);
  if (code == cudaSuccess) return count;
  *error = cudaGetErrorString(code);
  return -1;
}

int cuda_device_properties(int device, char* name, int name_bytes, int* major, int* minor) {
  cudaDeviceProp properties;
  const cudaError_t code = cudaGetDeviceProperties(&properties, device);
  if (code != cudaSuccess) return static_cast<int>(code);
  std::strncpy(name, properties.name, static_cast<size_t>(name_bytes) - 1);
  name[name_bytes - 1] = '\0';
  *major = properties.major;
  *minor = properties.minor;
  return 0;
}

}  // namespace denoise_ext
