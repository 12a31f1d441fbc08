// The launchers of kernels for which a weight can be packed once; see conv_packed.cpp.
#pragma once

#include "../params/conv.h"
#include "../params/launch.h"

namespace denoise_ext::cuda {

// Pack the weight into `packed`.
int conv_rowring_pack(const ConvParams& params, const LaunchContext& context, void* packed);
int conv_tiled_pack(const ConvParams& params, const LaunchContext& context, void* packed);
int conv_gemm_mma_pack(const ConvParams& params, const LaunchContext& context, void* packed);

// Run with the weight that is packed in `packed`.
int conv_rowring_launch_packed(const ConvParams& params, const LaunchContext& context, const void* packed);
int conv_tiled_launch_packed(const ConvParams& params, const LaunchContext& context, const void* packed);
int conv_gemm_mma_launch_packed(const ConvParams& params, const LaunchContext& context, const void* packed);

}  // namespace denoise_ext::cuda
