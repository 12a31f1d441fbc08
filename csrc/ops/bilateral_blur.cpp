// torch.ops.denoise_ext.bilateral_blur, joint_bilateral_blur and their gradients.
#include "../cpu/bilateral.h"
#include "../params/bilateral.h"
#include "device.h"
#include "filters.h"
#include "register.h"

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
  SigmaArgument sigma_color, sigma_space;
  BilateralParams params{};
};

void check_like(const Tensor& tensor, int64_t channels, const Tensor& input, const char* op,
                const char* argument) {
  check_same_dtype(tensor, input, op, argument);
  check_sizes(tensor, {input.size(0), channels, input.size(2), input.size(3)}, op, argument);
}

// Checks everything but the output, which the caller fills in.
CheckedParams checked_params(const BilateralArguments& a, const Tensor& input, const Tensor& guidance,
                             bool for_cuda) {
  check_dim(input, 4, a.op, "input");
  check_extents(input, a.op, "input");
  check_dim(guidance, 4, a.op, "guidance");
  check_like(guidance, guidance.size(1), input, a.op, "guidance");
  STD_TORCH_CHECK(guidance.size(1) > 0 || input.numel() == 0, a.op,
                  ": guidance must have at least 1 channel, got sizes ", sizes_text(guidance));
  check_at_most(guidance.size(1), kMostGuideChannels, a.op, "guidance's channels");
  CheckedParams checked;
  BilateralParams& params = checked.params;
  const auto size = odd_kernel_size(a.kernel_size, kLargestBilateral, a.op);
  params.kernel_size[0] = size[0];
  params.kernel_size[1] = size[1];
  checked.sigma_color = sigma_argument(a.sigma_color, input, 1, for_cuda, a.op, "sigma_color");
  checked.sigma_space = sigma_argument(a.sigma_space, input, 2, for_cuda, a.op, "sigma_space");
  params.sigma_color = checked.sigma_color.view;
  params.sigma_space = checked.sigma_space.view;
  params.sigma_color_value = checked.sigma_color.row[0];
  for (size_t axis = 0; axis < 2; ++axis) params.sigma_space_row[axis] = checked.sigma_space.row[axis];
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

template <class Device>
Tensor filter(const BilateralArguments& arguments, const Tensor& input, const Tensor& guidance) {
  CheckedParams checked = checked_params(arguments, input, guidance, Device::kCuda);
  Tensor output = empty_like_image(input);
  checked.params.output = view4(output, arguments.op, "output", Access::kWrite);
  if (output.numel() > 0) Device::compute(checked.params, input, arguments.op);
  return output;
}

template <class Device>
Tensor bilateral_blur(const Tensor& input, const std::vector<int64_t>& kernel_size, const Tensor& sigma_color,
                      const Tensor& sigma_space, const StringArgument& border_type,
                      const StringArgument& color_distance_type, const StringArgument& window) {
  return filter<Device>(
      {"bilateral_blur", kernel_size, sigma_color, sigma_space, border_type, color_distance_type, window},
      input, input);
}

template <class Device>
Tensor joint_bilateral_blur(const Tensor& input, const Tensor& guidance,
                            const std::vector<int64_t>& kernel_size, const Tensor& sigma_color,
                            const Tensor& sigma_space, const StringArgument& border_type,
                            const StringArgument& color_distance_type, const StringArgument& window) {
  return filter<Device>({"joint_bilateral_blur", kernel_size, sigma_color, sigma_space, border_type,
                         color_distance_type, window},
                        input, guidance);
}

template <class Device>
std::tuple<Tensor, Tensor, Tensor, Tensor> joint_bilateral_blur_backward(
    const Tensor& grad_output, const Tensor& input, const Tensor& guidance, const Tensor& output,
    const std::vector<int64_t>& kernel_size, const Tensor& sigma_color, const Tensor& sigma_space,
    const StringArgument& border_type, const StringArgument& color_distance_type,
    const StringArgument& window, const std::vector<bool>& output_mask) {
  constexpr const char* kOp = "joint_bilateral_blur_backward";
  CheckedParams checked =
      checked_params({kOp, kernel_size, sigma_color, sigma_space, border_type, color_distance_type, window},
                     input, guidance, Device::kCuda);
  check_differentiable(input, kOp);
  check_like(grad_output, input.size(1), input, kOp, "grad_output");
  check_like(output, input.size(1), input, kOp, "output");
  STD_TORCH_CHECK(output_mask.size() == 4, kOp, ": output_mask must hold 4 booleans, got ",
                  output_mask.size());
  Tensor grad_input = output_mask[0] ? empty_like_image(input) : empty_gradient(input);
  Tensor grad_guidance = output_mask[1] ? empty_like_image(guidance) : empty_gradient(input);
  const SigmaSums color_sums(sigma_color, input, kOp), space_sums(sigma_space, input, kOp);

  BilateralGradParams params{};
  params.forward = checked.params;
  params.forward.output = view4(output, kOp, "output");
  params.grad_output = view4(grad_output, kOp, "grad_output");
  if (output_mask[0]) params.grad_input = view4(grad_input, kOp, "grad_input", Access::kWrite);
  if (output_mask[1]) params.grad_guidance = view4(grad_guidance, kOp, "grad_guidance", Access::kWrite);
  if (output_mask[2]) params.grad_sigma_color = color_sums.data;
  if (output_mask[3]) params.grad_sigma_space = space_sums.data;
  const bool wanted = output_mask[0] || output_mask[1] || output_mask[2] || output_mask[3];
  if (input.numel() > 0) {
    if (wanted) Device::compute(params, input, kOp);
  } else if (output_mask[1]) {
    torch::stable::zero_(grad_guidance);  // input may lack channels that the guidance has
  }
  return {grad_input, grad_guidance,
          output_mask[2] ? color_sums.gradient(sigma_color) : empty_gradient(input),
          output_mask[3] ? space_sums.gradient(sigma_space) : empty_gradient(input)};
}

}  // namespace
}  // namespace denoise_ext::ops

DENOISE_EXT_SCHEMAS(m) {
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

DENOISE_EXT_REGISTER(bilateral_blur)
DENOISE_EXT_REGISTER(joint_bilateral_blur)
DENOISE_EXT_REGISTER(joint_bilateral_blur_backward)
