// torch.ops.denoise_ext.deviation_norm_out: layer_norm2d_out without its mean and bias, on the CPU.
#include "../../cpu/norm.h"
#include "../device.h"
#include "../register.h"
#include "../results.h"

namespace denoise_ext::ops {
namespace {

template <class Device>
void deviation_norm_out(const Tensor& input, const std::optional<Tensor>& weight, double eps,
                        const Tensor& out) {
  constexpr const char* kOp = "deviation_norm_out";
  check_dim(input, 4, kOp, "input");
  STD_TORCH_CHECK(to_dtype(input.scalar_type(), kOp, "input") != DType::kUInt8, kOp,
                  ": input must be floating point, got uint8");
  check_extents(input, kOp, "input");
  if (weight.has_value()) {
    check_same_dtype(*weight, input, kOp, "weight");
    check_sizes(*weight, {input.size(1)}, kOp, "weight");
  }
  STD_TORCH_CHECK(eps >= 0, kOp, ": eps must be at least 0, got ", eps);
  check_same_dtype(out, input, kOp, "out");
  check_sizes(out, {input.size(0), input.size(1), input.size(2), input.size(3)}, kOp, "out");
  cpu::DeviationParams params{};
  params.norm.input = view4(input, kOp, "input");
  params.norm.weight = view1(weight, kOp, "weight");
  params.norm.eps = eps;
  params.norm.output = view4(out, kOp, "out", Access::kWrite);
  check_no_overlap({"out", params.norm.output},
                   {{"input", params.norm.input}, named("weight", params.norm.weight)}, kOp);
  check_no_gradients({{"input", input}, {"weight", weight}, {"out", out}}, kOp);
  count_change(out);
  if (out.numel() > 0) Device::compute(params, input, kOp);
}

}  // namespace
}  // namespace denoise_ext::ops

DENOISE_EXT_SCHEMAS(m) {
  m.def("deviation_norm_out(Tensor input, Tensor? weight, float eps, Tensor(a!) out) -> ()");
}

DENOISE_EXT_REGISTER_FOR_(CPU, deviation_norm_out, Cpu)
