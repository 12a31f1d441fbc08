// Found before the toolkit's <cuda_runtime.h> when a C++ compiler compiles a kernel file. The
// toolkit's header supplies the host-side types (dim3, float4, cudaError_t, ...), emulated_device.h
// what nvcc knows by itself.
#pragma once
#include_next <cuda_runtime.h>

#include <emulated_device.h>
