// The GPUs of this machine, for `info`. Present only in builds with CUDA.
#pragma once

namespace denoise_ext::cuda {

// Number of usable GPUs; on failure -1, and *error points to the CUDA runtime's own words.
int device_count(const char** error);

// Writes the name and compute capability of one GPU; returns 0, or a CUDA error code.
int device_properties(int device, char* name, int name_bytes, int* major, int* minor);

}  // namespace denoise_ext::cuda
