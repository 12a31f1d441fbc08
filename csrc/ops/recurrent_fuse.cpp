// torch.ops.denoise_ext.recurrent_fuse and its gradients.
#include "../cpu/motion.h"
#include "common.h"
#include "device.h"
#include "filters.h"
#include "motion.h"
#include "register.h"

namespace denoise_ext::ops {

RecurrentFuseParams checked_fuse(const Tensor& input, const Tensor& previous, const Tensor& gate,
                                 const Tensor& level, const char* op) {
  check_dim(input, 4, op, "input");
  check_extents(input, op, "input");
  check_differentiable(input, op);
  check_same_dtype(previous, input, op, "previous");
  check_same_dtype(gate, input, op, "gate");
  check_same_dtype(level, input, op, "level");
  const int64_t n = input.size(0), channels = input.size(1), height = input.size(2), width = input.size(3);
  check_sizes(previous, {n, 2 * channels + 1, height, width}, op, "previous");
  check_sizes(level, {n, 1, height, width}, op, "level");
  check_dim(gate, 4, op, "gate");
  const int64_t factor = gate.size(3) > 0 ? width / gate.size(3) : 1;
  STD_TORCH_CHECK(factor > 0 && gate.size(0) == n && gate.size(1) == factor * factor &&
                      gate.size(2) * factor == height && gate.size(3) * factor == width,
                  op, ": gate must have sizes (", n, ", r r, ", height, " / r, ", width, " / r), got ",
                  sizes_text(gate));
  RecurrentFuseParams params{};
  params.input = view4(input, op, "input");
  params.previous = view4(previous, op, "previous");
  params.gate = view4(gate, op, "gate");
  params.level = view4(level, op, "level");
  return params;
}

namespace {

template <class Device>
Tensor recurrent_fuse(const Tensor& input, const Tensor& previous, const Tensor& gate, const Tensor& level) {
  constexpr const char* kOp = "recurrent_fuse";
  RecurrentFuseParams params = checked_fuse(input, previous, gate, level, kOp);
  const int64_t* size = params.previous.size;
  Tensor output = empty4(input, {size[0], size[1], size[2], size[3]}, is_channels_last(previous));
  params.output = view4(output, kOp, "output", Access::kWrite);
  if (output.numel() > 0) Device::compute(params, input, kOp);
  return output;
}

template <class Device>
std::tuple<Tensor, Tensor, Tensor, Tensor> recurrent_fuse_backward(const Tensor& grad_output,
                                                                   const Tensor& input,
                                                                   const Tensor& previous, const Tensor& gate,
                                                                   const Tensor& level,
                                                                   const std::vector<bool>& output_mask) {
  constexpr const char* kOp = "recurrent_fuse_backward";
  RecurrentFuseGradParams params{};
  params.forward = checked_fuse(input, previous, gate, level, kOp);
  check_same_dtype(grad_output, input, kOp, "grad_output");
  check_sizes(grad_output, {previous.size(0), previous.size(1), previous.size(2), previous.size(3)}, kOp,
              "grad_output");
  STD_TORCH_CHECK(output_mask.size() == 4, kOp, ": output_mask must hold 4 booleans, got ",
                  output_mask.size());
  params.grad_output = view4(grad_output, kOp, "grad_output");
  const Tensor* arguments[4] = {&input, &previous, &gate, &level};
  Tensor4* views[4] = {&params.grad_input, &params.grad_previous, &params.grad_gate, &params.grad_level};
  std::vector<Tensor> gradients;
  for (size_t i = 0; i < 4; ++i) {
    gradients.push_back(output_mask[i] ? empty_like_image(*arguments[i]) : empty_gradient(input));
    if (output_mask[i]) *views[i] = view4(gradients[i], kOp, "gradient", Access::kWrite);
  }
  if (grad_output.numel() > 0) Device::compute(params, input, kOp);
  return {gradients[0], gradients[1], gradients[2], gradients[3]};
}

}  // namespace
}  // namespace denoise_ext::ops

DENOISE_EXT_SCHEMAS(m) {
  m.def("recurrent_fuse(Tensor input, Tensor previous, Tensor gate, Tensor level) -> Tensor");
  m.def(
      "recurrent_fuse_backward(Tensor grad_output, Tensor input, Tensor previous, Tensor gate, Tensor level, "
      "bool[4] output_mask) -> (Tensor grad_input, Tensor grad_previous, Tensor grad_gate, Tensor "
      "grad_level)");
}

DENOISE_EXT_REGISTER(recurrent_fuse)
DENOISE_EXT_REGISTER(recurrent_fuse_backward)
