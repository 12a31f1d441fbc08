// What the build and the machine offer on the CUDA side. Present only in builds with CUDA.
#pragma once

namespace denoise_ext {

// Number of usable GPUs; on failure -1, and *error points to the CUDA runtime's own words.
int cuda_device_count(const char** error);

// Writes the name and compute capability of one GPU; returns 0, or a CUDA error code.
int cuda_device_properties(int device, char* name, int name_bytes, int* major, int* minor);

// The CUDA runtime's words for an error code.
const char* cuda_error_text(int code);

}  // namespace denoise_ext
