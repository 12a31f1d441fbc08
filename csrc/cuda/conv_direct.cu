// Convolution and transposed convolution, one thread per output: any kernel size, stride, dilation,
// groups, dtype and layout. Always correct, never the fast one.
#include "common.cuh"
#include "conv_variants.h"
#include "primitives.cuh"

namespace denoise_ext::cuda {
namespace {

constexpr int kThreads = 256;
// Blocks per multiprocessor to leave registers for: 64 a thread. Without it, ptxas gives the float64
// kernel 48 on sm_80 and spills the rest. erf of a double needs more than 64.
template <class Acc>
constexpr int kBlocks = sizeof(Acc) == sizeof(double) ? 2 : 4;

// The input row or column that tap u of output position i reads, or -1 where there is none.
__device__ __forceinline__ int64_t tap_source(const ConvParams& p, int axis, int64_t i, int64_t u) {
  int64_t source = 0;
  if (p.transposed) {
    const int64_t scaled = i + p.padding[axis] - u * p.dilation[axis];
    if (scaled < 0 || scaled % p.stride[axis] != 0) return -1;
    source = scaled / p.stride[axis];
  } else {
    source = i * p.stride[axis] - p.padding[axis] + u * p.dilation[axis];
  }
  return source >= 0 && source < p.input.size[2 + axis] ? source : -1;
}

template <class Storage, class Acc>
__global__ void __launch_bounds__(kThreads, kBlocks<Acc>) conv_direct_kernel(ConvParams p, int64_t outputs) {
  const int64_t channels = p.output.size[1], rows = p.output.size[2], cols = p.output.size[3];
  const int64_t group_outputs = channels / p.groups, group_inputs = p.input.size[1] / p.groups;
  const bool channels_innermost = p.output.stride[1] == 1;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < outputs;
       i += static_cast<int64_t>(gridDim.x) * kThreads) {
    // Neighbouring threads take neighbouring elements in memory.
    const int64_t k = channels_innermost ? i % channels : i / (rows * cols) % channels;
    const int64_t pixel = channels_innermost ? i / channels % (rows * cols) : i % (rows * cols);
    const int64_t n = i / (channels * rows * cols), y = pixel / cols, x = pixel % cols;
    const int64_t first_input = k / group_outputs * group_inputs;
    Acc sum = 0;
    for (int64_t u = 0; u < p.weight.size[2]; ++u) {
      const int64_t sy = tap_source(p, 0, y, u);
      if (sy < 0) continue;
      for (int64_t v = 0; v < p.weight.size[3]; ++v) {
        const int64_t sx = tap_source(p, 1, x, v);
        if (sx < 0) continue;
        const Storage* in = element<Storage>(p.input, n, first_input, sy, sx);
        const Storage* w = p.transposed ? element<Storage>(p.weight, first_input, k % group_outputs, u, v)
                                        : element<Storage>(p.weight, k, 0, u, v);
        const int64_t w_step = p.transposed ? p.weight.stride[0] : p.weight.stride[1];
        for (int64_t c = 0; c < group_inputs; ++c)
          sum += to_acc<Acc>(in[c * p.input.stride[1]]) * to_acc<Acc>(w[c * w_step]);
      }
    }
    *element<Storage>(p.output, n, k, y, x) =
        FromAcc<Storage>::convert(finish_output<Storage, Acc>(p, sum, n, k, y, x));
  }
}

}  // namespace

int conv_direct_launch(const ConvParams& params, const LaunchContext& context) {
  return with_storage(params.output.dtype, [&](auto storage) {
    using Storage = decltype(storage);
    const int64_t* size = params.output.size;
    const int64_t outputs = size[0] * size[1] * size[2] * size[3];
    const int64_t blocks = (outputs + kThreads - 1) / kThreads;
    // 32 blocks of 256 threads fill a multiprocessor several times over; the loop does the rest.
    const int64_t most = 32 * static_cast<int64_t>(context.limits.multiprocessors);
    return launch(conv_direct_kernel<Storage, typename AccOf<Storage>::type>,
                  dim3(static_cast<unsigned>(blocks < most ? blocks : most)), dim3(kThreads), 0,
                  static_cast<cudaStream_t>(context.stream), params, outputs);
  });
}

}  // namespace denoise_ext::cuda
