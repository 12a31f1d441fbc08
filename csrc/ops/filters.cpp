#include "filters.h"

#include <sys/mman.h>

#include <cmath>

#include "explain.h"

namespace denoise_ext::ops {

std::array<int64_t, 2> odd_kernel_size(const std::vector<int64_t>& kernel_size, int64_t largest,
                                       const char* op) {
  check_pair(kernel_size, 1, largest, op, "kernel_size");
  for (const int64_t size : kernel_size) {
    STD_TORCH_CHECK(size % 2 == 1, op, ": kernel_size must be odd (the window has a centre), got ", size);
    check_at_most(size, largest, op, "kernel_size");
  }
  return {kernel_size[0], kernel_size[1]};
}

namespace {

std::vector<double> checked_values(const Tensor& sigma, const char* op, const char* argument) {
  const bool pairs = sigma.dim() == 2, is_double = sigma.scalar_type() == ScalarType::Double;
  std::vector<double> values;
  for (int64_t row = 0; row < sigma.size(0); ++row) {
    for (int64_t i = 0; i < (pairs ? 2 : 1); ++i) {
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

// A sigma of several rows, or in device memory, flattened for a CUDA kernel to read.
Tensor device_values(const Tensor& sigma, const Tensor& input, const char* op, const char* argument) {
  STD_TORCH_CHECK(same_device(sigma, input), op, ": ", argument,
                  " must be on input's device, or hold one value for all images");
  const std::array<int64_t, 1> flat{sigma.numel()};
  return torch::stable::view(torch::stable::contiguous(sigma), {flat.data(), 1});
}

}  // namespace

SigmaArgument sigma_argument(const Tensor& sigma, const Tensor& input, int64_t per_image, bool for_cuda,
                             const char* op, const char* argument) {
  const bool pairs = per_image == 2;
  const int64_t batch = input.size(0);
  STD_TORCH_CHECK(sigma.dim() == per_image && (sigma.size(0) == 1 || sigma.size(0) == batch) &&
                      (!pairs || sigma.size(1) == 2),
                  op, ": ", argument, " must have sizes (1 or ", batch, pairs ? ", 2)" : ")", ", got ",
                  sizes_text(sigma));
  STD_TORCH_CHECK(for_cuda || same_device(sigma, input), op, ": ", argument,
                  " must be on the CPU like input");
  STD_TORCH_CHECK(sigma.scalar_type() == ScalarType::Double || sigma.scalar_type() == ScalarType::Float, op,
                  ": ", argument, " must be float32 or float64, got dtype number ",
                  static_cast<int>(sigma.scalar_type()));
  SigmaArgument result{};
  if (Explanation::current() != nullptr) {  // no kernel is chosen by its values, and there may be none
    result.view = {nullptr, sigma.numel(), 1, DType::kFloat64};
    return result;
  }
  if (sigma.is_cpu()) result.values = checked_values(sigma, op, argument);
  result.view = {result.values.data(), static_cast<int64_t>(result.values.size()), 1, DType::kFloat64};
  if (!for_cuda) return result;
  if (!sigma.is_cpu() || sigma.size(0) != 1) {
    result.tensor = device_values(sigma, input, op, argument);
    result.view = view1(*result.tensor, op, argument);
    return result;
  }
  result.view.data = nullptr;
  for (int64_t i = 0; i < per_image; ++i) result.row[i] = result.values[static_cast<size_t>(i)];
  return result;
}

SigmaSums::SigmaSums(const Tensor& sigma, const Tensor& input, const char* op) {
  const std::array<int64_t, 1> flat{sigma.numel()};
  tensor = torch::stable::new_zeros(input, {flat.data(), 1}, ScalarType::Double);
  data = static_cast<double*>(const_cast<void*>(view1(tensor, op, "sums", Access::kUpdate).data));
}

Tensor SigmaSums::gradient(const Tensor& sigma) const {
  const std::array<int64_t, 2> sizes{sigma.size(0), 2};
  const torch::headeronly::IntHeaderOnlyArrayRef shape{sizes.data(), static_cast<size_t>(sigma.dim())};
  Tensor result = torch::stable::new_empty(sigma, shape);
  torch::stable::copy_(result, torch::stable::view(tensor, shape));
  return result;
}

void check_differentiable(const Tensor& input, const char* op) {
  STD_TORCH_CHECK(to_dtype(input.scalar_type(), op, "input") != DType::kUInt8, op,
                  ": input must be floating point, got uint8, which is not differentiable");
}

namespace {

// Memory of 32 MiB and more comes fresh from the system with every call (the most that glibc's threshold
// for that grows to), and filling it page by page costs more than a filter of it does: 2 MiB pages cost a
// third. An advice, whose outcome makes no other difference.
void advise_huge_pages(const Tensor& tensor) {
  constexpr uintptr_t kPage = uintptr_t{2} << 20, kSmallest = uintptr_t{32} << 20;
  const uintptr_t bytes = static_cast<uintptr_t>(tensor.numel()) * tensor.element_size();
  if (!tensor.is_cpu() || bytes < kSmallest) return;
  const auto data = reinterpret_cast<uintptr_t>(tensor.data_ptr());
  const uintptr_t begin = (data + kPage - 1) / kPage * kPage, end = (data + bytes) / kPage * kPage;
  madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
}

}  // namespace

Tensor empty_like_image(const Tensor& like) {
  Tensor image =
      empty4(like, {like.size(0), like.size(1), like.size(2), like.size(3)}, is_channels_last(like));
  advise_huge_pages(image);
  return image;
}

}  // namespace denoise_ext::ops
