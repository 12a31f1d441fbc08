// The CUDA versions of this machine's driver and of the runtime that is linked into this build.
#pragma once

namespace denoise_ext::cuda {

// As CUDA counts: 1000 * major + 10 * minor.
struct Versions {
  int driver;  // the newest CUDA that the driver serves; 0 where there is no driver
  int runtime;
};

Versions versions();

// Whether the driver is too old for the runtime. Then every CUDA call fails, and `text` gets one sentence
// that names both versions.
bool driver_is_too_old(const Versions& versions, char* text, int bytes);

}  // namespace denoise_ext::cuda
