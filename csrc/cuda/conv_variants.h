// Launchers of the convolution kernels; each is a row of a table in conv_variants.cpp.
#pragma once

#include "../params/conv.h"
#include "../params/launch.h"

namespace denoise_ext::cuda {

// conv2d and conv_transpose2d: any case.
int conv_direct_launch(const ConvParams& params, const LaunchContext& context);

// Stride 1, 1x1, 3x3 and 5x5 kernels, float16 and bfloat16: on the tensor cores.
int conv_rowring_launch(const ConvParams& params, const LaunchContext& context);

// Any geometry up to 11 x 11 as a product of matrices, with multiply-adds in float.
int conv_tiled_launch(const ConvParams& params, const LaunchContext& context);

// The same on the tensor cores.
int conv_gemm_mma_launch(const ConvParams& params, const LaunchContext& context);

// Groups, dilation, transposed convolution of any stride: as several calls of the one before.
int conv_parts_launch(const ConvParams& params, const LaunchContext& context);

// Depthwise conv2d with channels innermost, and plane by plane.
int conv_depthwise_rows_launch(const ConvParams& params, const LaunchContext& context);
int conv_depthwise_planes_launch(const ConvParams& params, const LaunchContext& context);

// conv2d of 1 to 4 input channels to many, and of many to 1 to 4.
int conv_first_launch(const ConvParams& params, const LaunchContext& context);
int conv_last_launch(const ConvParams& params, const LaunchContext& context);

// conv_transpose2d of stride 2.
int conv_transpose_phases_launch(const ConvParams& params, const LaunchContext& context);

}  // namespace denoise_ext::cuda
