#include "filters.h"

#include <algorithm>
#include <cmath>

namespace denoise_ext::ops {

std::array<int64_t, 2> odd_kernel_size(const std::vector<int64_t>& kernel_size, const char* op) {
  check_pair(kernel_size, 1, op, "kernel_size");
  for (const int64_t size : kernel_size)
    STD_TORCH_CHECK(size % 2 == 1, op, ": kernel_size must be odd (the window has a centre), got ", size);
  return {kernel_size[0], kernel_size[1]};
}

std::vector<double> sigma_values(const Tensor& sigma, int64_t batch, int64_t per_image, const char* op,
                                 const char* argument) {
  const bool pairs = per_image == 2;
  STD_TORCH_CHECK(sigma.dim() == per_image && (sigma.size(0) == 1 || sigma.size(0) == batch) &&
                      (!pairs || sigma.size(1) == 2),
                  op, ": ", argument, " must have sizes (1 or ", batch, pairs ? ", 2)" : ")", ", got ",
                  sizes_text(sigma));
  STD_TORCH_CHECK(sigma.is_cpu(), op, ": ", argument, " must be on the CPU like input");
  const bool is_double = sigma.scalar_type() == ScalarType::Double;
  STD_TORCH_CHECK(is_double || sigma.scalar_type() == ScalarType::Float, op, ": ", argument,
                  " must be float32 or float64, got dtype number ", static_cast<int>(sigma.scalar_type()));
  std::vector<double> values;
  for (int64_t row = 0; row < sigma.size(0); ++row) {
    for (int64_t i = 0; i < per_image; ++i) {
      const int64_t offset = row * sigma.stride(0) + (pairs ? i * sigma.stride(1) : 0);
      const double value = is_double ? static_cast<const double*>(sigma.data_ptr())[offset]
                                     : static_cast<const float*>(sigma.data_ptr())[offset];
      STD_TORCH_CHECK(value > 0 && std::isfinite(value), op, ": ", argument,
                      " must be finite and > 0 everywhere, got ", value);
      values.push_back(value);
    }
  }
  return values;
}

Tensor1 sigma_view(const std::vector<double>& values) {
  return {values.data(), static_cast<int64_t>(values.size()), 1, DType::kFloat64};
}

Tensor sigma_gradient(const std::vector<double>& sums, const Tensor& sigma) {
  const std::array<int64_t, 2> sizes{sigma.size(0), 2};
  Tensor result = torch::stable::new_empty(sigma, {sizes.data(), static_cast<size_t>(sigma.dim())});
  if (sigma.scalar_type() == ScalarType::Double) {
    std::copy(sums.begin(), sums.end(), static_cast<double*>(result.data_ptr()));
  } else {
    std::transform(sums.begin(), sums.end(), static_cast<float*>(result.data_ptr()),
                   [](double sum) { return static_cast<float>(sum); });
  }
  return result;
}

void check_differentiable(const Tensor& input, const char* op) {
  STD_TORCH_CHECK(to_dtype(input.scalar_type(), op, "input") != DType::kUInt8, op,
                  ": input must be floating point, got uint8, which is not differentiable");
}

Tensor empty_like_image(const Tensor& like) {
  return empty4(like, {like.size(0), like.size(1), like.size(2), like.size(3)}, is_channels_last(like));
}

}  // namespace denoise_ext::ops
