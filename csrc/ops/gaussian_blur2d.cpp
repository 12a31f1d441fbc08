// torch.ops.denoise_ext.gaussian_blur2d and its gradients.
//
// uint8 results are bit-identical to cv2.GaussianBlur's (see cpu/gaussian.h); the other dtypes have
// exact taps and sums in float (float64: double).
#include "../cpu/gaussian.h"
#include "filters.h"

namespace denoise_ext::ops {
namespace {

GaussianParams gaussian_params(const Tensor& input, const Tensor& output,
                               const std::array<int64_t, 2>& kernel_size, const std::vector<double>& sigma,
                               Border border, const char* op) {
  GaussianParams params{};
  params.input = view4(input, op, "input");
  params.output = view4(output, op, "output");
  params.sigma = sigma_view(sigma);
  params.kernel_size[0] = kernel_size[0];
  params.kernel_size[1] = kernel_size[1];
  params.border = border;
  return params;
}

Tensor gaussian_blur2d_cpu(const Tensor& input, const std::vector<int64_t>& kernel_size, const Tensor& sigma,
                           const std::string& border_type) {
  constexpr const char* kOp = "gaussian_blur2d";
  check_dim(input, 4, kOp, "input");
  const auto size = odd_kernel_size(kernel_size, kOp);
  const auto values = sigma_values(sigma, input.size(0), 2, kOp, "sigma");
  const Border border = parse_border(border_type, kOp);
  Tensor output = empty_like_image(input);
  const GaussianParams params = gaussian_params(input, output, size, values, border, kOp);
  if (output.numel() > 0) cpu::run_gaussian(params, torch_threads());
  return output;
}

std::tuple<Tensor, Tensor> gaussian_blur2d_backward_cpu(const Tensor& grad_output, const Tensor& input,
                                                        const std::vector<int64_t>& kernel_size,
                                                        const Tensor& sigma, const std::string& border_type,
                                                        const std::vector<bool>& output_mask) {
  constexpr const char* kOp = "gaussian_blur2d_backward";
  check_dim(input, 4, kOp, "input");
  check_differentiable(input, kOp);
  check_same_dtype(grad_output, input, kOp, "grad_output");
  check_sizes(grad_output, {input.size(0), input.size(1), input.size(2), input.size(3)}, kOp, "grad_output");
  STD_TORCH_CHECK(output_mask.size() == 2, kOp, ": output_mask must hold 2 booleans, got ",
                  output_mask.size());
  const auto size = odd_kernel_size(kernel_size, kOp);
  const auto values = sigma_values(sigma, input.size(0), 2, kOp, "sigma");
  const Border border = parse_border(border_type, kOp);
  Tensor grad_input = empty_gradient(input), grad_sigma = empty_gradient(input);
  if (output_mask[0]) {
    grad_input = empty_like_image(input);
    GaussianParams params = gaussian_params(grad_output, grad_input, size, values, border, kOp);
    params.adjoint = true;
    if (input.numel() > 0) cpu::run_gaussian(params, torch_threads());
  }
  if (output_mask[1]) {
    std::vector<double> sums(values.size(), 0.0);
    GaussianSigmaGradParams params{};
    params.grad_output = view4(grad_output, kOp, "grad_output");
    params.input = view4(input, kOp, "input");
    params.sigma = sigma_view(values);
    params.grad_sigma = sums.data();
    params.kernel_size[0] = size[0];
    params.kernel_size[1] = size[1];
    params.border = border;
    if (input.numel() > 0) cpu::run_gaussian_sigma_grad(params, torch_threads());
    grad_sigma = sigma_gradient(sums, sigma);
  }
  return {grad_input, grad_sigma};
}

}  // namespace
}  // namespace denoise_ext::ops

STABLE_TORCH_LIBRARY_FRAGMENT(denoise_ext, m) {
  m.def("gaussian_blur2d(Tensor input, int[2] kernel_size, Tensor sigma, str border_type) -> Tensor");
  m.def(
      "gaussian_blur2d_backward(Tensor grad_output, Tensor input, int[2] kernel_size, Tensor sigma, "
      "str border_type, bool[2] output_mask) -> (Tensor grad_input, Tensor grad_sigma)");
}

STABLE_TORCH_LIBRARY_IMPL(denoise_ext, CPU, m) {
  m.impl("gaussian_blur2d", TORCH_BOX(&denoise_ext::ops::gaussian_blur2d_cpu));
  m.impl("gaussian_blur2d_backward", TORCH_BOX(&denoise_ext::ops::gaussian_blur2d_backward_cpu));
}
