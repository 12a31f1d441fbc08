// torch.ops.denoise_ext.layer_norm2d, group_norm, and both into given memory.
#include "../cpu/norm.h"
#include "device.h"
#include "register.h"
#include "results.h"

namespace denoise_ext::ops {
namespace {

struct NormArguments {
  const char* op;
  const Tensor& input;
  const std::optional<Tensor>& weight;
  const std::optional<Tensor>& bias;
  double eps;
  const StringArgument& activation;
  double negative_slope;
};

void check_channels(const std::optional<Tensor>& values, const NormArguments& a, const char* name) {
  if (!values.has_value()) return;
  check_same_dtype(*values, a.input, a.op, name);
  check_sizes(*values, {a.input.size(1)}, a.op, name);
}

// Everything but the output, checked.
template <class Params>
Params checked_norm(const NormArguments& a) {
  check_dim(a.input, 4, a.op, "input");
  STD_TORCH_CHECK(to_dtype(a.input.scalar_type(), a.op, "input") != DType::kUInt8, a.op,
                  ": input must be floating point, got uint8");
  check_extents(a.input, a.op, "input");
  check_channels(a.weight, a, "weight");
  check_channels(a.bias, a, "bias");
  STD_TORCH_CHECK(a.eps >= 0, a.op, ": eps must be at least 0, got ", a.eps);
  Params params{};
  params.input = view4(a.input, a.op, "input");
  params.weight = view1(a.weight, a.op, "weight");
  params.bias = view1(a.bias, a.op, "bias");
  params.eps = a.eps;
  params.activation = parse_activation(a.activation, a.op);
  STD_TORCH_CHECK(params.activation != Activation::kPrelu, a.op, ": activation must not be prelu");
  params.negative_slope = a.negative_slope;
  return params;
}

void check_groups(const Tensor& input, int64_t groups, const char* op) {
  STD_TORCH_CHECK(groups >= 1 && input.size(1) % groups == 0, op,
                  ": num_groups must be at least 1 and divide the channels of input, ", sizes_text(input),
                  ", got ", groups);
}

Tensor new_result(const NormArguments& a, NormParams& params) {
  const int64_t* size = params.input.size;
  Tensor output = empty4(a.input, {size[0], size[1], size[2], size[3]}, is_channels_last(a.input));
  params.output = view4(output, a.op, "output", Access::kWrite);
  return output;
}

void set_result(const NormArguments& a, NormParams& params, const Tensor& out) {
  check_same_dtype(out, a.input, a.op, "out");
  check_sizes(out, {params.input.size, params.input.size + 4}, a.op, "out");
  check_no_gradients({{"input", a.input}, {"weight", a.weight}, {"bias", a.bias}, {"out", out}}, a.op);
  const bool in_place = is_same_view(view4(out, a.op, "out"), params.input);
  params.output = view4(out, a.op, "out", in_place ? Access::kUpdate : Access::kWrite);
  const Tensor4 other = in_place ? Tensor4{} : params.input;
  check_no_overlap({"out", params.output},
                   {{"input", other}, named("weight", params.weight), named("bias", params.bias)}, a.op);
  count_change(out);
}

template <class Device>
Tensor layer_norm2d(const Tensor& input, const std::optional<Tensor>& weight,
                    const std::optional<Tensor>& bias, double eps, const StringArgument& activation,
                    double negative_slope) {
  const NormArguments a{"layer_norm2d", input, weight, bias, eps, activation, negative_slope};
  LayerNorm2dParams params = checked_norm<LayerNorm2dParams>(a);
  Tensor output = new_result(a, params);
  if (output.numel() > 0) Device::compute(params, input, a.op);
  return output;
}

template <class Device>
void layer_norm2d_out(const Tensor& input, const std::optional<Tensor>& weight,
                      const std::optional<Tensor>& bias, double eps, const StringArgument& activation,
                      double negative_slope, const Tensor& out) {
  const NormArguments a{"layer_norm2d_out", input, weight, bias, eps, activation, negative_slope};
  LayerNorm2dParams params = checked_norm<LayerNorm2dParams>(a);
  set_result(a, params, out);
  if (out.numel() > 0) Device::compute(params, input, a.op);
}

template <class Device>
Tensor group_norm(const Tensor& input, int64_t num_groups, const std::optional<Tensor>& weight,
                  const std::optional<Tensor>& bias, double eps, const StringArgument& activation,
                  double negative_slope) {
  const NormArguments a{"group_norm", input, weight, bias, eps, activation, negative_slope};
  GroupNormParams params = checked_norm<GroupNormParams>(a);
  check_groups(input, num_groups, a.op);
  params.groups = num_groups;
  Tensor output = new_result(a, params);
  if (output.numel() > 0) Device::compute(params, input, a.op);
  return output;
}

template <class Device>
void group_norm_out(const Tensor& input, int64_t num_groups, const std::optional<Tensor>& weight,
                    const std::optional<Tensor>& bias, double eps, const StringArgument& activation,
                    double negative_slope, const Tensor& out) {
  const NormArguments a{"group_norm_out", input, weight, bias, eps, activation, negative_slope};
  GroupNormParams params = checked_norm<GroupNormParams>(a);
  check_groups(input, num_groups, a.op);
  params.groups = num_groups;
  set_result(a, params, out);
  if (out.numel() > 0) Device::compute(params, input, a.op);
}

}  // namespace
}  // namespace denoise_ext::ops

DENOISE_EXT_SCHEMAS(m) {
  m.def(
      "layer_norm2d(Tensor input, Tensor? weight, Tensor? bias, float eps, str activation, "
      "float negative_slope) -> Tensor");
  m.def(
      "layer_norm2d_out(Tensor input, Tensor? weight, Tensor? bias, float eps, str activation, "
      "float negative_slope, Tensor(a!) out) -> ()");
  m.def(
      "group_norm(Tensor input, int num_groups, Tensor? weight, Tensor? bias, float eps, str activation, "
      "float negative_slope) -> Tensor");
  m.def(
      "group_norm_out(Tensor input, int num_groups, Tensor? weight, Tensor? bias, float eps, "
      "str activation, float negative_slope, Tensor(a!) out) -> ()");
}

DENOISE_EXT_REGISTER(layer_norm2d)
DENOISE_EXT_REGISTER(layer_norm2d_out)
DENOISE_EXT_REGISTER(group_norm)
DENOISE_EXT_REGISTER(group_norm_out)
