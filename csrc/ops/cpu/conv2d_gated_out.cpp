// torch.ops.denoise_ext.conv2d_gated_out: the product of two convolutions of one geometry, one of them
// activated, into given memory, on the CPU. Neither convolution is written.
#include "../../cpu/conv.h"
#include "../../cpu/conv_plan.h"
#include "../conv.h"
#include "../conv2d_out.h"
#include "../device.h"
#include "../register.h"
#include "../results.h"

namespace denoise_ext::ops {
namespace {

constexpr const char* kOp = "conv2d_gated_out";

// Raises where the packed weight is none of the convolution's.
void check_packed(cpu::ConvParams params, const Tensor1& packed) {
  params.packed_weight = packed;
  check_cpu(params, kOp);
}

template <class Device>
void conv2d_gated_out(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& packed_weight,
                      const std::optional<Tensor>& bias, const std::optional<Tensor>& gate_input,
                      const Tensor& gate_weight, const std::optional<Tensor>& packed_gate_weight,
                      const std::optional<Tensor>& gate_bias, const StringArgument& gate,
                      const std::vector<int64_t>& stride, const std::vector<int64_t>& padding,
                      const std::vector<int64_t>& dilation, int64_t groups, const Tensor& out) {
  const ConvArguments arguments{kOp, stride, padding, dilation, {}, groups, false, Precision::kStrict};
  check_conv_arguments(arguments, input, weight);
  const auto sizes = conv_output_sizes(arguments, input, weight);
  check_same_dtype(out, input, kOp, "out");
  check_sizes(out, {sizes.begin(), sizes.end()}, kOp, "out");
  if (gate_input.has_value()) {
    check_same_dtype(*gate_input, input, kOp, "gate_input");
    check_sizes(*gate_input, {input.size(0), input.size(1), input.size(2), input.size(3)}, kOp, "gate_input");
  }
  check_same_dtype(gate_weight, input, kOp, "gate_weight");
  check_sizes(gate_weight, {weight.size(0), weight.size(1), weight.size(2), weight.size(3)}, kOp,
              "gate_weight");
  cpu::ConvParams params{conv_params(arguments, input, weight, out), {}};
  set_epilogue(params, kOp, gate_bias, gate, 0.0, std::nullopt, input);
  params.gate = {gate_input.has_value() ? view4(gate_input, kOp, "gate_input") : params.input,
                 view4(gate_weight, kOp, "gate_weight"), params.bias,
                 view1(packed_gate_weight, kOp, "packed_gate_weight"), params.activation};
  set_epilogue(params, kOp, bias, "none", 0.0, std::nullopt, input);
  params.algorithm = cpu::ConvAlgorithm::kDirect;
  check_packed(params, params.gate.packed_weight);
  params.packed_weight = view1(packed_weight, kOp, "packed_weight");
  check_packed(params, params.packed_weight);
  const char* const obstacle = cpu::gate_obstacle(params, cpu::kernels());
  STD_TORCH_CHECK(obstacle == nullptr, kOp, ": input of sizes ", sizes_text(input), ": ", obstacle);
  STD_TORCH_CHECK(cpu::choose_conv_algorithm(params) == cpu::ConvAlgorithm::kDirect, kOp,
                  ": packed_weight must be packed for 'direct'");
  check_result(params, kOp, "out", params.output);
  check_no_overlap({"out", params.output},
                   {{"gate_input", params.gate.input},
                    {"gate_weight", params.gate.weight},
                    named("gate_bias", params.gate.bias),
                    named("packed_weight", params.packed_weight),
                    named("packed_gate_weight", params.gate.packed_weight)},
                   kOp);
  check_no_gradients({{"out", out},
                      {"input", input},
                      {"weight", weight},
                      {"bias", bias},
                      {"gate_input", gate_input},
                      {"gate_weight", gate_weight},
                      {"gate_bias", gate_bias}},
                     kOp);
  count_change(out);
  if (out.numel() > 0) Device::compute(params, input, kOp);
}

}  // namespace
}  // namespace denoise_ext::ops

DENOISE_EXT_SCHEMAS(m) {
  m.def(
      "conv2d_gated_out(Tensor input, Tensor weight, Tensor? packed_weight, Tensor? bias, Tensor? "
      "gate_input, "
      "Tensor gate_weight, Tensor? packed_gate_weight, Tensor? gate_bias, str gate, int[2] stride, "
      "int[2] padding, int[2] dilation, int groups, Tensor(a!) out) -> ()");
}

DENOISE_EXT_REGISTER_FOR_(CPU, conv2d_gated_out, Cpu)
