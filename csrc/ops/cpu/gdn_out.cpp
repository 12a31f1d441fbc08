// torch.ops.denoise_ext.gdn_out: generalised divisive normalisation into given memory, on the CPU.
#include "../../cpu/gdn.h"
#include "../conv.h"
#include "../conv2d_out.h"
#include "../device.h"
#include "../register.h"
#include "../results.h"

namespace denoise_ext::ops {
namespace {

template <class Device>
void gdn_out(const Tensor& input, const Tensor& weight, const Tensor& packed_weight,
             const std::optional<Tensor>& bias, bool inverse, const Tensor& out) {
  constexpr const char* kOp = "gdn_out";
  const std::vector<int64_t> ones{1, 1}, zeros{0, 0};
  const ConvArguments arguments{kOp, ones, zeros, ones, {}, 1, false, Precision::kStrict};
  check_conv_arguments(arguments, input, weight);
  const int64_t channels = input.size(1);
  check_sizes(weight, {channels, channels, 1, 1}, kOp, "weight");
  const auto sizes = conv_output_sizes(arguments, input, weight);
  check_same_dtype(out, input, kOp, "out");
  check_sizes(out, {sizes.begin(), sizes.end()}, kOp, "out");
  cpu::GdnParams params{{conv_params(arguments, input, weight, out), {}}, inverse};
  set_epilogue(params.conv, kOp, bias, "none", 0.0, std::nullopt, input);
  params.conv.packed_weight = view1(packed_weight, kOp, "packed_weight");
  params.conv.algorithm = cpu::ConvAlgorithm::kDirect;
  const char* const obstacle = cpu::gdn_obstacle(params);
  STD_TORCH_CHECK(obstacle == nullptr, kOp, ": input of sizes ", sizes_text(input), ": ", obstacle);
  STD_TORCH_CHECK(params.conv.packed_weight.data != nullptr, kOp,
                  ": packed_weight must be a result of conv2d_pack, got an empty tensor");
  check_cpu(params.conv, kOp);
  check_result(params.conv, kOp, "out", params.conv.output);
  check_no_overlap({"out", params.conv.output}, {named("packed_weight", params.conv.packed_weight)}, kOp);
  check_no_gradients({{"out", out}, {"input", input}, {"weight", weight}, {"bias", bias}}, kOp);
  count_change(out);
  if (out.numel() > 0) Device::compute(params, input, kOp);
}

}  // namespace
}  // namespace denoise_ext::ops

DENOISE_EXT_SCHEMAS(m) {
  m.def(
      "gdn_out(Tensor input, Tensor weight, Tensor packed_weight, Tensor? bias, bool inverse, Tensor(a!) "
      "out) "
      "-> ()");
}

DENOISE_EXT_REGISTER_FOR_(CPU, gdn_out, Cpu)
