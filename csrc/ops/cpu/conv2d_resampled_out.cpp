// torch.ops.denoise_ext.conv2d_resampled_out: conv2d_out between two levels of a U-Net, with upsampling and
// pooling taken in.
#include "../../cpu/conv.h"
#include "../../cpu/conv_pack.h"
#include "../conv.h"
#include "../conv2d_out.h"
#include "../device.h"
#include "../register.h"
#include "../results.h"

namespace denoise_ext::ops {
namespace {

Pooling parse_pooling(const std::string& name, const char* op) {
  if (name == "max") return Pooling::kMaximum;
  if (name == "average") return Pooling::kAverage;
  STD_TORCH_CHECK(false, op, ": pooling must be 'max' or 'average', got '", name, "'");
}

// (N, C, H, W) of what the convolution reads: `coarse`, every pixel 2x2 times, and behind it `fine`.
std::array<int64_t, 4> resampled_sizes(const std::optional<Tensor>& coarse, const std::optional<Tensor>& fine,
                                       const Tensor& weight, const char* op) {
  STD_TORCH_CHECK(coarse.has_value() || fine.has_value(), op, ": coarse or fine must be given");
  std::array<int64_t, 4> sizes{};
  if (fine.has_value()) {
    check_dim(*fine, 4, op, "fine");
    check_extents(*fine, op, "fine");
    check_same_dtype(*fine, weight, op, "fine", "weight");
    for (int64_t axis = 0; axis < 4; ++axis) sizes[static_cast<size_t>(axis)] = fine->size(axis);
  }
  if (coarse.has_value()) {
    check_dim(*coarse, 4, op, "coarse");
    check_same_dtype(*coarse, weight, op, "coarse", "weight");
    const std::array<int64_t, 4> read{coarse->size(0), sizes[1] + coarse->size(1), 2 * coarse->size(2),
                                      2 * coarse->size(3)};
    STD_TORCH_CHECK(read[2] <= kLargestExtent && read[3] <= kLargestExtent, op, ": coarse must have at most ",
                    kLargestExtent / 2, " rows and columns, got ", sizes_text(*coarse));
    const bool halves = read[0] == sizes[0] && read[2] == sizes[2] && read[3] == sizes[3];
    STD_TORCH_CHECK(!fine.has_value() || halves, op,
                    ": coarse must have half as many rows and columns as fine, got ", sizes_text(*coarse));
    sizes = read;
  }
  check_weight(weight, op);
  STD_TORCH_CHECK(weight.size(2) == 3 && weight.size(3) == 3 && weight.size(1) == sizes[1], op,
                  ": weight must be (K, ", sizes[1], ", 3, 3), got ", sizes_text(weight));
  return sizes;
}

// A tensor of `sizes` without memory: the size of a result that is computed and not written.
Tensor4 sizes_alone(const std::array<int64_t, 4>& sizes, DType dtype) {
  Tensor4 view{};
  std::copy(sizes.begin(), sizes.end(), view.size);
  view.dtype = dtype;
  return view;
}

Tensor4 result_view(const std::optional<Tensor>& result, const std::array<int64_t, 4>& sizes,
                    const Tensor& weight, const char* op, const char* name) {
  if (!result.has_value()) return sizes_alone(sizes, to_dtype(weight.scalar_type(), op, "weight"));
  check_same_dtype(*result, weight, op, name, "weight");
  check_sizes(*result, {sizes.begin(), sizes.end()}, op, name);
  return view4(*result, op, name, Access::kWrite);
}

template <class Device>
void conv2d_resampled_out(const std::optional<Tensor>& coarse, const std::optional<Tensor>& fine,
                          const Tensor& weight, const Tensor& packed_weight,
                          const std::optional<Tensor>& bias, const StringArgument& border,
                          const StringArgument& activation, double negative_slope,
                          const std::optional<Tensor>& prelu_weight, const std::optional<Tensor>& residual,
                          const StringArgument& residual_position, const StringArgument& pooling,
                          const std::optional<Tensor>& out, const std::optional<Tensor>& pooled) {
  constexpr const char* kOp = "conv2d_resampled_out";
  const auto sizes = resampled_sizes(coarse, fine, weight, kOp);
  STD_TORCH_CHECK(out.has_value() || pooled.has_value(), kOp, ": out or pooled must be given");
  const int64_t filters = weight.size(0);
  cpu::ConvParams params{};
  params.weight = view4(weight, kOp, "weight");
  params.coarse = view4(coarse, kOp, "coarse");
  params.input = fine.has_value() ? view4(fine, kOp, "fine") : params.coarse;
  if (!fine.has_value()) {  // no channels of a tensor as large as it would be
    const std::array<int64_t, 4> none{sizes[0], 0, sizes[2], sizes[3]};
    std::copy(none.begin(), none.end(), params.input.size);
  }
  params.output = result_view(out, {sizes[0], filters, sizes[2], sizes[3]}, weight, kOp, "out");
  if (pooled.has_value())
    params.pooled =
        result_view(pooled, {sizes[0], filters, sizes[2] / 2, sizes[3] / 2}, weight, kOp, "pooled");
  for (size_t axis = 0; axis < 2; ++axis)
    params.stride[axis] = params.padding[axis] = params.dilation[axis] = 1;
  params.groups = 1;
  params.precision = Precision::kDefault;
  params.border = parse_border(border, kOp, "border");
  params.pooling = parse_pooling(pooling, kOp);
  set_epilogue(params, kOp, bias, activation, negative_slope, prelu_weight, weight);
  set_residual(params, kOp, residual, residual_position, weight);
  params.packed_weight = view1(packed_weight, kOp, "packed_weight");
  STD_TORCH_CHECK(params.packed_weight.data != nullptr, kOp,
                  ": packed_weight must be a result of conv2d_pack, got an empty tensor");
  check_cpu(params, kOp);
  STD_TORCH_CHECK(cpu::packed_weight_header(params).algorithm != cpu::ConvAlgorithm::kDirect, kOp,
                  ": packed_weight must be packed for 'winograd2', 'winograd4' or 'winograd6', got 'direct'");
  const NamedView coarse_view{"coarse", params.coarse}, packed = named("packed_weight", params.packed_weight);
  check_result(params, kOp, "out", params.output, "fine");
  check_no_overlap({"out", params.output}, {coarse_view, packed}, kOp);
  check_result(params, kOp, "pooled", params.pooled, "fine");
  check_no_overlap({"pooled", params.pooled}, {coarse_view, packed}, kOp);
  check_no_overlap({"pooled", params.pooled}, {{"out", params.output}, {"residual", params.residual}}, kOp);
  check_no_gradients({{"out", out},
                      {"pooled", pooled},
                      {"coarse", coarse},
                      {"fine", fine},
                      {"bias", bias},
                      {"prelu_weight", prelu_weight},
                      {"residual", residual}},
                     kOp);
  for (const std::optional<Tensor>* result : {&out, &pooled})
    if (result->has_value()) count_change(**result);
  if (sizes[0] * sizes[2] * sizes[3] > 0) Device::compute(params, weight, kOp);
}

}  // namespace
}  // namespace denoise_ext::ops

DENOISE_EXT_SCHEMAS(m) {
  m.def(
      "conv2d_resampled_out(Tensor? coarse, Tensor? fine, Tensor weight, Tensor packed_weight, Tensor? bias, "
      "str border, str activation, float negative_slope, Tensor? prelu_weight, Tensor? residual, "
      "str residual_position, str pooling, Tensor(a!)? out, Tensor(b!)? pooled) -> ()");
}

DENOISE_EXT_REGISTER_FOR_(CPU, conv2d_resampled_out, Cpu)
