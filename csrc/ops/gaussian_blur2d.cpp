// torch.ops.denoise_ext.gaussian_blur2d and its gradients.
//
// uint8 results are bit-identical to cv2.GaussianBlur's (see cpu/gaussian.h); the other dtypes have
// exact taps and sums in float (float64: double).
#include "../cpu/gaussian.h"
#include "../params/gaussian.h"
#include "device.h"
#include "filters.h"
#include "register.h"

namespace denoise_ext::ops {
namespace {

template <class Device>
std::array<int64_t, 2> window_size(const std::vector<int64_t>& kernel_size, const char* op) {
  const auto size = odd_kernel_size(kernel_size, kLargestGaussian, op);
  if constexpr (Device::kCuda)
    check_at_most(size[0] * size[1], kMostCudaGaussianTaps, op, "kernel_size's product on CUDA");
  return size;
}

template <class Params>
void set_window(Params& params, const std::array<int64_t, 2>& kernel_size, const SigmaArgument& sigma,
                Border border) {
  params.sigma = sigma.view;
  for (size_t axis = 0; axis < 2; ++axis) {
    params.sigma_row[axis] = sigma.row[axis];
    params.kernel_size[axis] = kernel_size[axis];
  }
  params.border = border;
}

template <class Device>
Tensor gaussian_blur2d(const Tensor& input, const std::vector<int64_t>& kernel_size, const Tensor& sigma,
                       const StringArgument& border_type) {
  constexpr const char* kOp = "gaussian_blur2d";
  check_dim(input, 4, kOp, "input");
  check_extents(input, kOp, "input");
  const auto size = window_size<Device>(kernel_size, kOp);
  const SigmaArgument values = sigma_argument(sigma, input, 2, Device::kCuda, kOp, "sigma");
  const Border border = parse_border(border_type, kOp);
  Tensor output = empty_like_image(input);
  GaussianParams params{};
  params.input = view4(input, kOp, "input");
  params.output = view4(output, kOp, "output", Access::kWrite);
  set_window(params, size, values, border);
  if (output.numel() > 0) Device::compute(params, input, kOp);
  return output;
}

template <class Device>
std::tuple<Tensor, Tensor> gaussian_blur2d_backward(const Tensor& grad_output, const Tensor& input,
                                                    const std::vector<int64_t>& kernel_size,
                                                    const Tensor& sigma, const StringArgument& border_type,
                                                    const std::vector<bool>& output_mask) {
  constexpr const char* kOp = "gaussian_blur2d_backward";
  check_dim(input, 4, kOp, "input");
  check_extents(input, kOp, "input");
  check_differentiable(input, kOp);
  check_same_dtype(grad_output, input, kOp, "grad_output");
  check_sizes(grad_output, {input.size(0), input.size(1), input.size(2), input.size(3)}, kOp, "grad_output");
  STD_TORCH_CHECK(output_mask.size() == 2, kOp, ": output_mask must hold 2 booleans, got ",
                  output_mask.size());
  const auto size = window_size<Device>(kernel_size, kOp);
  const SigmaArgument values = sigma_argument(sigma, input, 2, Device::kCuda, kOp, "sigma");
  const Border border = parse_border(border_type, kOp);
  Tensor grad_input = empty_gradient(input), grad_sigma = empty_gradient(input);
  if (output_mask[0]) {
    if (input.numel() > 0) explain_step("grad_input");
    grad_input = empty_like_image(input);
    GaussianParams params{};
    params.input = view4(grad_output, kOp, "grad_output");
    params.output = view4(grad_input, kOp, "grad_input", Access::kWrite);
    set_window(params, size, values, border);
    params.adjoint = true;
    if (input.numel() > 0) Device::compute(params, input, kOp);
  }
  if (output_mask[1]) {
    if (input.numel() > 0) explain_step("grad_sigma");
    const SigmaSums sums(sigma, input, kOp);
    GaussianSigmaGradParams params{};
    params.grad_output = view4(grad_output, kOp, "grad_output");
    params.input = view4(input, kOp, "input");
    set_window(params, size, values, border);
    params.grad_sigma = sums.data;
    if (input.numel() > 0) Device::compute(params, input, kOp);
    grad_sigma = sums.gradient(sigma);
  }
  return {grad_input, grad_sigma};
}

}  // namespace
}  // namespace denoise_ext::ops

DENOISE_EXT_SCHEMAS(m) {
  m.def("gaussian_blur2d(Tensor input, int[2] kernel_size, Tensor sigma, str border_type) -> Tensor");
  m.def(
      "gaussian_blur2d_backward(Tensor grad_output, Tensor input, int[2] kernel_size, Tensor sigma, "
      "str border_type, bool[2] output_mask) -> (Tensor grad_input, Tensor grad_sigma)");
}

DENOISE_EXT_REGISTER(gaussian_blur2d)
DENOISE_EXT_REGISTER(gaussian_blur2d_backward)
