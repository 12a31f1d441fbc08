// Whether the driver serves the runtime (host code, no CUDA).
#include "../params/driver.h"

#include <cstdio>

namespace denoise_ext::cuda {

// CUDA's minor version compatibility: a driver serves every runtime of its own major version and of older
// ones. https://docs.nvidia.com/deploy/cuda-compatibility
bool driver_is_too_old(const Versions& v, char* text, int bytes) {
  if (v.driver == 0 || v.driver / 1000 >= v.runtime / 1000) return false;
  std::snprintf(
      text, static_cast<size_t>(bytes),
      "this build uses CUDA %d.%d, which needs a driver for CUDA %d, but the driver of this machine is "
      "for CUDA %d.%d: update the driver, or build denoise_ext with nvcc of CUDA %d",
      v.runtime / 1000, v.runtime % 1000 / 10, v.runtime / 1000, v.driver / 1000, v.driver % 1000 / 10,
      v.driver / 1000);
  return true;
}

}  // namespace denoise_ext::cuda
