// torch.ops.denoise_ext.bilateral_blur, joint_bilateral_blur and their gradients.
#include "../cpu/bilateral.h"
#include "filters.h"

namespace denoise_ext::ops {
namespace {

// The arguments that are not images, as the schemas pass them.
struct BilateralArguments {
  const char* op;
  const std::vector<int64_t>& kernel_size;
  const Tensor &sigma_color, &sigma_space;
  const std::string &border_type, &color_distance_type, &window;
};

// Params that own the values their sigmas point to.
struct CheckedParams {
  std::vector<double> sigma_color, sigma_space;
  BilateralParams params{};
};

void check_like(const Tensor& tensor, int64_t channels, const Tensor& input, const char* op,
                const char* argument) {
  check_same_dtype(tensor, input, op, argument);
  check_sizes(tensor, {input.size(0), channels, input.size(2), input.size(3)}, op, argument);
}

// Checks everything but the output, which the caller fills in.
CheckedParams checked_params(const BilateralArguments& a, const Tensor& input, const Tensor& guidance) {
  check_dim(input, 4, a.op, "input");
  check_dim(guidance, 4, a.op, "guidance");
  check_like(guidance, guidance.size(1), input, a.op, "guidance");
  STD_TORCH_CHECK(guidance.size(1) > 0 || input.numel() == 0, a.op,
                  ": guidance must have at least 1 channel, got sizes ", sizes_text(guidance));
  CheckedParams checked;
  BilateralParams& params = checked.params;
  const auto size = odd_kernel_size(a.kernel_size, a.op);
  params.kernel_size[0] = size[0];
  params.kernel_size[1] = size[1];
  checked.sigma_color = sigma_values(a.sigma_color, input.size(0), 1, a.op, "sigma_color");
  checked.sigma_space = sigma_values(a.sigma_space, input.size(0), 2, a.op, "sigma_space");
  params.sigma_color = sigma_view(checked.sigma_color);
  params.sigma_space = sigma_view(checked.sigma_space);
  params.border = parse_border(a.border_type, a.op);
  STD_TORCH_CHECK(a.color_distance_type == "l1" || a.color_distance_type == "l2", a.op,
                  ": color_distance_type must be 'l1' or 'l2', got '", a.color_distance_type, "'");
  params.distance = a.color_distance_type == "l1" ? ColorDistance::kL1 : ColorDistance::kL2;
  STD_TORCH_CHECK(a.window == "square" || a.window == "circle", a.op,
                  ": window must be 'square' or 'circle', got '", a.window, "'");
  params.circle = a.window == "circle";
  STD_TORCH_CHECK(!params.circle || size[0] == size[1], a.op,
                  ": kernel_size must be the same in both directions for window='circle', got (", size[0],
                  ", ", size[1], ")");
  params.input = view4(input, a.op, "input");
  params.guidance = view4(guidance, a.op, "guidance");
  return checked;
}

Tensor filter(const BilateralArguments& arguments, const Tensor& input, const Tensor& guidance) {
  CheckedParams checked = checked_params(arguments, input, guidance);
  Tensor output = empty_like_image(input);
  checked.params.output = view4(output, arguments.op, "output");
  if (output.numel() > 0) cpu::run_bilateral(checked.params, torch_threads());
  return output;
}

Tensor bilateral_blur_cpu(const Tensor& input, const std::vector<int64_t>& kernel_size,
                          const Tensor& sigma_color, const Tensor& sigma_space,
                          const std::string& border_type, const std::string& color_distance_type,
                          const std::string& window) {
  return filter(
      {"bilateral_blur", kernel_size, sigma_color, sigma_space, border_type, color_distance_type, window},
      input, input);
}

Tensor joint_bilateral_blur_cpu(const Tensor& input, const Tensor& guidance,
                                const std::vector<int64_t>& kernel_size, const Tensor& sigma_color,
                                const Tensor& sigma_space, const std::string& border_type,
                                const std::string& color_distance_type, const std::string& window) {
  return filter({"joint_bilateral_blur", kernel_size, sigma_color, sigma_space, border_type,
                 color_distance_type, window},
                input, guidance);
}

std::tuple<Tensor, Tensor, Tensor, Tensor> joint_bilateral_blur_backward_cpu(
    const Tensor& grad_output, const Tensor& input, const Tensor& guidance, const Tensor& output,
    const std::vector<int64_t>& kernel_size, const Tensor& sigma_color, const Tensor& sigma_space,
    const std::string& border_type, const std::string& color_distance_type, const std::string& window,
    const std::vector<bool>& output_mask) {
  constexpr const char* kOp = "joint_bilateral_blur_backward";
  CheckedParams checked =
      checked_params({kOp, kernel_size, sigma_color, sigma_space, border_type, color_distance_type, window},
                     input, guidance);
  check_differentiable(input, kOp);
  check_like(grad_output, input.size(1), input, kOp, "grad_output");
  check_like(output, input.size(1), input, kOp, "output");
  STD_TORCH_CHECK(output_mask.size() == 4, kOp, ": output_mask must hold 4 booleans, got ",
                  output_mask.size());
  Tensor grad_input = output_mask[0] ? empty_like_image(input) : empty_gradient(input);
  Tensor grad_guidance = output_mask[1] ? empty_like_image(guidance) : empty_gradient(input);
  std::vector<double> color_sums(checked.sigma_color.size(), 0.0),
      space_sums(checked.sigma_space.size(), 0.0);

  BilateralGradParams params{};
  params.forward = checked.params;
  params.forward.output = view4(output, kOp, "output");
  params.grad_output = view4(grad_output, kOp, "grad_output");
  if (output_mask[0]) params.grad_input = view4(grad_input, kOp, "grad_input");
  if (output_mask[1]) params.grad_guidance = view4(grad_guidance, kOp, "grad_guidance");
  if (output_mask[2]) params.grad_sigma_color = color_sums.data();
  if (output_mask[3]) params.grad_sigma_space = space_sums.data();
  const bool wanted = output_mask[0] || output_mask[1] || output_mask[2] || output_mask[3];
  if (input.numel() > 0) {
    if (wanted) cpu::run_bilateral_grad(params, torch_threads());
  } else if (output_mask[1]) {
    torch::stable::zero_(grad_guidance);  // input may lack channels that the guidance has
  }
  return {grad_input, grad_guidance,
          output_mask[2] ? sigma_gradient(color_sums, sigma_color) : empty_gradient(input),
          output_mask[3] ? sigma_gradient(space_sums, sigma_space) : empty_gradient(input)};
}

}  // namespace
}  // namespace denoise_ext::ops

STABLE_TORCH_LIBRARY_FRAGMENT(denoise_ext, m) {
  m.def(
      "bilateral_blur(Tensor input, int[2] kernel_size, Tensor sigma_color, Tensor sigma_space, "
      "str border_type, str color_distance_type, str window) -> Tensor");
  m.def(
      "joint_bilateral_blur(Tensor input, Tensor guidance, int[2] kernel_size, Tensor sigma_color, "
      "Tensor sigma_space, str border_type, str color_distance_type, str window) -> Tensor");
  m.def(
      "joint_bilateral_blur_backward(Tensor grad_output, Tensor input, Tensor guidance, Tensor output, "
      "int[2] kernel_size, Tensor sigma_color, Tensor sigma_space, str border_type, "
      "str color_distance_type, str window, bool[4] output_mask) -> (Tensor grad_input, "
      "Tensor grad_guidance, Tensor grad_sigma_color, Tensor grad_sigma_space)");
}

STABLE_TORCH_LIBRARY_IMPL(denoise_ext, CPU, m) {
  m.impl("bilateral_blur", TORCH_BOX(&denoise_ext::ops::bilateral_blur_cpu));
  m.impl("joint_bilateral_blur", TORCH_BOX(&denoise_ext::ops::joint_bilateral_blur_cpu));
  m.impl("joint_bilateral_blur_backward", TORCH_BOX(&denoise_ext::ops::joint_bilateral_blur_backward_cpu));
}
