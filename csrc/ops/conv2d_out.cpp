// torch.ops.denoise_ext.conv2d_out: conv2d for a caller that owns its memory. The result goes into a given
// tensor, weights are packed once (conv2d_pack.cpp), padding can mirror, and the algorithm can be named.
#include "conv2d_out.h"

#include "../cpu/conv.h"
#include "../params/conv_packed.h"
#include "conv.h"
#include "device.h"
#include "register.h"
#include "results.h"

namespace denoise_ext::ops {

cpu::ConvAlgorithm parse_algorithm(const std::string& name, const char* op) {
  if (name == "auto") return cpu::ConvAlgorithm::kAuto;
  if (name == "direct") return cpu::ConvAlgorithm::kDirect;
  if (name == "winograd2") return cpu::ConvAlgorithm::kWinograd2;
  if (name == "winograd4") return cpu::ConvAlgorithm::kWinograd4;
  if (name == "winograd6") return cpu::ConvAlgorithm::kWinograd6;
  STD_TORCH_CHECK(false, op,
                  ": algorithm must be one of auto, direct, winograd2, winograd4, winograd6, got '", name,
                  "'");
}

namespace {

// What the CUDA kernels cannot do; the CPU's can do all of it.
[[maybe_unused]] void check_cuda(const cpu::ConvOptions& options, const char* op) {
  STD_TORCH_CHECK(options.border == Border::kConstant, op,
                  ": border must be 'constant' on CUDA, whose kernels pad with zeros only");
  STD_TORCH_CHECK(
      options.algorithm == cpu::ConvAlgorithm::kAuto || options.algorithm == cpu::ConvAlgorithm::kDirect, op,
      ": algorithm must be 'auto' or 'direct' on CUDA, whose kernels have no other that can be named");
}

template <class Device>
void conv2d_out(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& packed_weight,
                const std::optional<Tensor>& bias, const std::vector<int64_t>& stride,
                const std::vector<int64_t>& padding, const std::vector<int64_t>& dilation, int64_t groups,
                const StringArgument& border, const StringArgument& activation, double negative_slope,
                const std::optional<Tensor>& prelu_weight, const std::optional<Tensor>& residual,
                const StringArgument& residual_position, const StringArgument& algorithm, const Tensor& out,
                const StringArgument& precision) {
  constexpr const char* kOp = "conv2d_out";
  const Precision allowed = Device::precision(parse_precision(precision, kOp), input);
  const ConvArguments arguments{kOp, stride, padding, dilation, {}, groups, false, allowed};
  check_conv_arguments(arguments, input, weight);
  const auto sizes = conv_output_sizes(arguments, input, weight);
  check_same_dtype(out, input, kOp, "out");
  check_sizes(out, {sizes.begin(), sizes.end()}, kOp, "out");
  typename Device::ConvParams params{conv_params(arguments, input, weight, out), {}};
  set_epilogue(params, kOp, bias, activation, negative_slope, prelu_weight, input);
  set_residual(params, kOp, residual, residual_position, input);
  cpu::ConvOptions options{};
  options.border = parse_border(border, kOp, "border");
  options.algorithm = parse_algorithm(algorithm, kOp);
  [[maybe_unused]] PackedView on_gpu{};
  Tensor1 packed{};
  if constexpr (Device::kCuda) {
    check_cuda(options, kOp);
    on_gpu = packed_view(params, packed_weight, input, kOp);
    packed = on_gpu.memory;
  } else {
    packed = options.packed_weight = view1(packed_weight, kOp, "packed_weight");
    static_cast<cpu::ConvOptions&>(params) = options;
    check_cpu(params, kOp);
  }
  check_result(params, kOp, "out", params.output);
  check_no_overlap({"out", params.output}, {named("packed_weight", packed)}, kOp);
  check_no_gradients({{"out", out},
                      {"input", input},
                      {"weight", weight},
                      {"bias", bias},
                      {"prelu_weight", prelu_weight},
                      {"residual", residual}},
                     kOp);
  count_change(out);
  if (out.numel() == 0) return;
  if constexpr (Device::kCuda) {
    if (on_gpu.kernel != nullptr)
      return Device::compute(cuda::PackedConv{params, on_gpu.kernel, packed.data}, input, kOp);
  }
  Device::compute(params, input, kOp);
}

}  // namespace
}  // namespace denoise_ext::ops

DENOISE_EXT_SCHEMAS(m) {
  m.def(
      "conv2d_out(Tensor input, Tensor weight, Tensor? packed_weight, Tensor? bias, int[2] stride, "
      "int[2] padding, int[2] dilation, int groups, str border, str activation, float negative_slope, "
      "Tensor? prelu_weight, Tensor? residual, str residual_position, str algorithm, Tensor(a!) out, "
      "str precision='default') -> ()");
}

DENOISE_EXT_REGISTER(conv2d_out)
