// torch.ops.denoise_ext.conv2d_out and conv2d_pack: conv2d for a caller that owns its memory. The result
// goes into a given tensor, weights are packed once, padding can mirror, and the algorithm can be named.
// conv2d_resampled_out: the same between two levels of a U-Net, with upsampling and pooling taken in.
#include "../cpu/conv_pack.h"
#include "../cpu/isa.h"
#include "conv.h"
#include "device.h"
#include "register.h"
#include "results.h"

namespace denoise_ext::ops {
namespace {

ConvAlgorithm parse_algorithm(const std::string& name, const char* op) {
  if (name == "auto") return ConvAlgorithm::kAuto;
  if (name == "direct") return ConvAlgorithm::kDirect;
  if (name == "winograd4") return ConvAlgorithm::kWinograd4;
  if (name == "winograd6") return ConvAlgorithm::kWinograd6;
  STD_TORCH_CHECK(false, op, ": algorithm must be one of auto, direct, winograd4, winograd6, got '", name,
                  "'");
}

#if !defined(DENOISE_EXT_EMULATE_CUDA)
Tensor packed_like(const Tensor& weight, int64_t elements) {
  const ScalarType type = weight.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  const std::array<int64_t, 1> sizes{elements};
  return torch::stable::new_empty(weight, {sizes.data(), 1}, type);
}

template <class Device>
Tensor conv2d_pack(const Tensor& weight, const StringArgument& algorithm_name) {
  constexpr const char* kOp = "conv2d_pack";
  const ConvAlgorithm algorithm = parse_algorithm(algorithm_name, kOp);
  STD_TORCH_CHECK(algorithm != ConvAlgorithm::kAuto, kOp,
                  ": algorithm must be named: what 'auto' takes depends on the image");
  check_weight(weight, kOp);
  const Tensor4 view = view4(weight, kOp, "weight");
  const bool winograd = algorithm != ConvAlgorithm::kDirect;
  STD_TORCH_CHECK(!winograd || (view.size[2] == 3 && view.size[3] == 3 && view.dtype != DType::kFloat64), kOp,
                  ": weight must be (K, C, 3, 3) and not float64 for '", algorithm_name, "', got ",
                  sizes_text(weight));
  const Tensor packed = packed_like(weight, cpu::packed_weight_elements(view.size, view.dtype, algorithm));
  cpu::pack_conv_weight(view, algorithm, packed.data_ptr(), torch_threads());
  return packed;
}
#endif

// What the CUDA kernels cannot do; the CPU's can do all of it.
void check_cuda(const ConvParams& params, const char* op) {
  STD_TORCH_CHECK(params.border == Border::kConstant, op,
                  ": border must be 'constant' on CUDA, whose kernels pad with zeros only");
  STD_TORCH_CHECK(
      params.algorithm == ConvAlgorithm::kAuto || params.algorithm == ConvAlgorithm::kDirect, op,
      ": algorithm must be 'auto' or 'direct' on CUDA, whose kernels have no other that can be named");
  STD_TORCH_CHECK(params.packed_weight.data == nullptr, op,
                  ": packed_weight must be None on CUDA, whose kernels read weights as torch stores them");
}

void check_cpu([[maybe_unused]] const ConvParams& params, [[maybe_unused]] const char* op) {
#if !defined(DENOISE_EXT_EMULATE_CUDA)
  if (params.packed_weight.data != nullptr) {
    const char* mismatch = cpu::packed_weight_mismatch(params, cpu::kernels());
    STD_TORCH_CHECK(mismatch == nullptr, op, ": packed_weight cannot be used here: ", mismatch);
  }
  const char* obstacle = cpu::conv_algorithm_obstacle(params);
  STD_TORCH_CHECK(obstacle == nullptr, op, ": algorithm winograd cannot be used here: ", obstacle);
#endif
}

template <class Device>
void conv2d_out(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& packed_weight,
                const std::optional<Tensor>& bias, const std::vector<int64_t>& stride,
                const std::vector<int64_t>& padding, const std::vector<int64_t>& dilation, int64_t groups,
                const StringArgument& border, const StringArgument& activation, double negative_slope,
                const std::optional<Tensor>& prelu_weight, const std::optional<Tensor>& residual,
                const StringArgument& residual_position, const StringArgument& algorithm, const Tensor& out) {
  constexpr const char* kOp = "conv2d_out";
  const ConvArguments arguments{kOp, stride, padding, dilation, {}, groups, false, Precision::kDefault};
  check_conv_arguments(arguments, input, weight);
  const auto sizes = conv_output_sizes(arguments, input, weight);
  check_same_dtype(out, input, kOp, "out");
  check_sizes(out, {sizes.begin(), sizes.end()}, kOp, "out");
  ConvParams params = conv_params(arguments, input, weight, out);
  set_epilogue(params, kOp, bias, activation, negative_slope, prelu_weight, input);
  set_residual(params, kOp, residual, residual_position, input);
  params.border = parse_border(border, kOp, "border");
  params.algorithm = parse_algorithm(algorithm, kOp);
  params.packed_weight = view1(packed_weight, kOp, "packed_weight");
  if constexpr (Device::kCuda) {
    check_cuda(params, kOp);
  } else {
    check_cpu(params, kOp);
  }
  check_result(params, kOp, "out", params.output);
  check_no_gradients({{"out", out},
                      {"input", input},
                      {"weight", weight},
                      {"bias", bias},
                      {"prelu_weight", prelu_weight},
                      {"residual", residual}},
                     kOp);
  count_change(out);
  if (out.numel() > 0) Device::conv(params, input, kOp);
}

#if !defined(DENOISE_EXT_EMULATE_CUDA)
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
    check_extents(*coarse, op, "coarse");
    check_same_dtype(*coarse, weight, op, "coarse", "weight");
    const std::array<int64_t, 4> read{coarse->size(0), sizes[1] + coarse->size(1), 2 * coarse->size(2),
                                      2 * coarse->size(3)};
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

// A tensor of `sizes` without memory: it tells kernels how large a result is that nobody wants.
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
  ConvParams params{};
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
  STD_TORCH_CHECK(cpu::packed_weight_header(params).algorithm != ConvAlgorithm::kDirect, kOp,
                  ": packed_weight must be packed for 'winograd4' or 'winograd6', got 'direct'");
  check_result(params, kOp, "out", params.output, "fine");
  check_result(params, kOp, "pooled", params.pooled, "fine");
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
  if (sizes[0] * sizes[2] * sizes[3] > 0) Device::conv(params, weight, kOp);
}
#endif

}  // namespace
}  // namespace denoise_ext::ops

DENOISE_EXT_SCHEMAS(m) {
  m.def(
      "conv2d_out(Tensor input, Tensor weight, Tensor? packed_weight, Tensor? bias, int[2] stride, "
      "int[2] padding, int[2] dilation, int groups, str border, str activation, float negative_slope, "
      "Tensor? prelu_weight, Tensor? residual, str residual_position, str algorithm, Tensor(a!) out) -> ()");
#if !defined(DENOISE_EXT_EMULATE_CUDA)
  m.def("conv2d_pack(Tensor weight, str algorithm) -> Tensor");
  m.def(
      "conv2d_resampled_out(Tensor? coarse, Tensor? fine, Tensor weight, Tensor packed_weight, Tensor? bias, "
      "str border, str activation, float negative_slope, Tensor? prelu_weight, Tensor? residual, "
      "str residual_position, str pooling, Tensor(a!)? out, Tensor(b!)? pooled) -> ()");
#endif
}

DENOISE_EXT_REGISTER(conv2d_out)
#if !defined(DENOISE_EXT_EMULATE_CUDA)
DENOISE_EXT_REGISTER_FOR_(CPU, conv2d_pack, Cpu)
DENOISE_EXT_REGISTER_FOR_(CPU, conv2d_resampled_out, Cpu)
#endif
