#include "explain.h"

#include <stdexcept>

#include "cpu/conv.h"
#include "cpu/conv_backward.h"
#include "cpu/isa.h"
#include "params/bilateral.h"
#include "params/conv.h"
#include "params/gaussian.h"
#include "params/limits.h"

namespace py = pybind11;

namespace denoise_ext {
namespace {

DType dtype_of(const std::string& name) {
  if (name == "float64") return DType::kFloat64;
  if (name == "bfloat16") return DType::kBFloat16;
  if (name == "float16") return DType::kFloat16;
  if (name == "uint8") return DType::kUInt8;
  return DType::kFloat32;
}

// A tensor's description. Nothing is at its address, but it is not null, which would mean "not given",
// and it is aligned, as what torch allocates is.
Tensor4 tensor4(const py::handle& description) {
  Tensor4 tensor{};
  if (description.is_none()) return tensor;
  tensor.data = reinterpret_cast<void*>(uintptr_t{256});
  for (int i = 0; i < 4; ++i) {
    tensor.size[i] = description["size"][py::int_(i)].cast<int64_t>();
    tensor.stride[i] = description["stride"][py::int_(i)].cast<int64_t>();
  }
  tensor.dtype = dtype_of(description["dtype"].cast<std::string>());
  return tensor;
}

Activation activation_of(const std::string& name) {
  const std::pair<const char*, Activation> names[] = {
      {"relu", Activation::kRelu},   {"leaky_relu", Activation::kLeakyRelu},
      {"prelu", Activation::kPrelu}, {"sigmoid", Activation::kSigmoid},
      {"tanh", Activation::kTanh},
  };
  for (const auto& [known, activation] : names)
    if (name == known) return activation;
  return Activation::kNone;
}

Precision precision_of(const std::string& name) {
  return name == "strict" ? Precision::kStrict : name == "fast" ? Precision::kFast : Precision::kDefault;
}

// An element of a pair, checked as the operators check it.
int64_t element_of(const py::dict& call, const char* name, int i, int64_t lowest, int64_t most) {
  const int64_t value = call[name][py::int_(i)].cast<int64_t>();
  if (value < lowest || value > most)
    throw std::invalid_argument(std::string(name) + " must be from " + std::to_string(lowest) + " to " +
                                std::to_string(most) + ", got " + std::to_string(value));
  return value;
}

template <class Params>
void set_geometry(Params& params, const py::dict& call) {
  for (int i = 0; i < 2; ++i) {
    params.stride[i] = element_of(call, "stride", i, 1, kLargestExtent);
    params.padding[i] = element_of(call, "padding", i, 0, kLargestExtent);
    params.dilation[i] = element_of(call, "dilation", i, 1, kLargestExtent);
  }
  params.groups = call["groups"].cast<int64_t>();
  params.precision = precision_of(call["precision"].cast<std::string>());
}

ConvParams conv_params(const py::dict& call, bool transposed) {
  ConvParams params{};
  params.input = tensor4(call["input"]);
  params.output = tensor4(call["output"]);
  params.weight = tensor4(call["weight"]);
  if (call.contains("residual")) params.residual = tensor4(call["residual"]);
  set_geometry(params, call);
  params.transposed = transposed;
  params.activation = activation_of(call["activation"].cast<std::string>());
  return params;
}

std::string explain_cpu(const std::string& kernel) {
  return kernel + ": chosen (CPU, " + cpu::kernels().isa + ")";
}

// Asks the operator's table of CUDA kernels; nullptr in a build without them.
template <class Params>
using ExplainFunction = void (*)(const Params&, const DeviceLimits&, char*, int);

#ifdef DENOISE_EXT_WITH_CUDA
constexpr ExplainFunction<ConvParams> kConv = cuda::conv_explain;
constexpr ExplainFunction<ConvWeightGradParams> kConvWeightGrad = cuda::conv_weight_grad_explain;
constexpr ExplainFunction<GaussianParams> kGaussian = cuda::gaussian_explain;
constexpr ExplainFunction<GaussianSigmaGradParams> kGaussianSigmaGrad = cuda::gaussian_sigma_grad_explain;
constexpr ExplainFunction<BilateralParams> kBilateral = cuda::bilateral_explain;
constexpr ExplainFunction<BilateralGradParams> kBilateralGrad = cuda::bilateral_grad_explain;

template <class Params>
std::string explain_cuda(const Params& params, int compute_capability, ExplainFunction<Params> function) {
  char text[4096];
  function(params, cuda::typical_limits(compute_capability), text, sizeof text);
  return text;
}

bool masks_input(const ConvParams& params, int compute_capability) {
  return cuda::conv_masks_input(params, cuda::typical_limits(compute_capability));
}
#else
constexpr ExplainFunction<ConvParams> kConv = nullptr;
constexpr ExplainFunction<ConvWeightGradParams> kConvWeightGrad = nullptr;
constexpr ExplainFunction<GaussianParams> kGaussian = nullptr;
constexpr ExplainFunction<GaussianSigmaGradParams> kGaussianSigmaGrad = nullptr;
constexpr ExplainFunction<BilateralParams> kBilateral = nullptr;
constexpr ExplainFunction<BilateralGradParams> kBilateralGrad = nullptr;

template <class Params>
std::string explain_cuda(const Params&, int, ExplainFunction<Params>) {
  return "none: this build has no CUDA kernels (nvcc was not found, or DENOISE_EXT_CUDA=0, when it was "
         "built)";
}

bool masks_input(const ConvParams&, int) {
  return false;
}
#endif

std::string explain_conv(const py::dict& call, bool transposed, int compute_capability) {
  const ConvParams params = conv_params(call, transposed);
  if (compute_capability == 0) return cpu::explain_conv(params);
  return explain_cuda(params, compute_capability, kConv);
}

// The steps of a backward: the same decisions as in ops/conv_backward.cpp.
std::string explain_conv_backward(const py::dict& call, bool transposed, int compute_capability) {
  const py::sequence wanted = call["output_mask"];
  const auto is_wanted = [&](size_t i) { return i < wanted.size() && wanted[i].cast<bool>(); };
  const py::sequence gradients = call["output"];
  ActivationGradParams activation{};
  activation.grad_output = tensor4(call["grad_output"]);
  activation.saved = tensor4(call["saved"]);
  activation.activation = activation_of(call["activation"].cast<std::string>());
  ConvParams input{};
  input.input = activation.grad_output;
  input.weight = tensor4(call["weight"]);
  input.transposed = !transposed;
  set_geometry(input, call);
  if (is_wanted(0)) input.output = tensor4(gradients[0]);
  ConvWeightGradParams weight{};
  weight.coarse = tensor4(call[transposed ? "input" : "grad_output"]);
  weight.fine = tensor4(call[transposed ? "grad_output" : "input"]);
  weight.grad_weight = tensor4(call["weight"]);
  set_geometry(weight, call);

  const bool cuda = compute_capability != 0;
  const bool masked = cuda && !transposed && !is_wanted(4) && is_mask(activation) &&
                      (!is_wanted(0) || masks_input(input, compute_capability));
  if (masked) weight.coarse_mask = mask_of(activation);
  std::string text = "activation gradient:\n";
  if (activation.activation == Activation::kNone) {
    text += "none: there is no activation";
  } else if (masked) {
    text += "none: the kernels below read grad_output through the activation's mask";
  } else {
    text += "activation_grad: chosen, into a temporary tensor of grad_output's size";
  }
  if (is_wanted(0))
    text += "\ninput gradient:\n" +
            (cuda ? explain_cuda(input, compute_capability, kConv) : cpu::explain_conv(input));
  if (is_wanted(1))
    text += "\nweight gradient:\n" + (cuda ? explain_cuda(weight, compute_capability, kConvWeightGrad)
                                           : cpu::explain_conv_weight_grad(weight));
  return text;
}

template <class Params>
void set_kernel_size(Params& params, const py::dict& call) {
  for (int i = 0; i < 2; ++i) params.kernel_size[i] = element_of(call, "kernel_size", i, 1, kLargestGaussian);
}

std::string explain_gaussian(const py::dict& call, int compute_capability) {
  if (compute_capability == 0) return explain_cpu("gaussian_ring");
  GaussianParams params{};
  params.input = tensor4(call["input"]);
  params.output = tensor4(call["output"]);
  set_kernel_size(params, call);
  return explain_cuda(params, compute_capability, kGaussian);
}

// The gradients with respect to input and sigma are kernels of their own, each under its name.
std::string explain_gaussian_backward(const py::dict& call, int compute_capability) {
  const auto wanted = [&](int i) { return call["output_mask"][py::int_(i)].cast<bool>(); };
  std::string text;
  if (wanted(0)) {
    GaussianParams params{};
    params.input = tensor4(call["grad_output"]);
    params.output = tensor4(call["output"][py::int_(0)]);
    params.adjoint = true;
    set_kernel_size(params, call);
    text += "grad_input:\n" + (compute_capability == 0 ? explain_cpu("gaussian_ring")
                                                       : explain_cuda(params, compute_capability, kGaussian));
  }
  if (wanted(1)) {
    GaussianSigmaGradParams params{};
    params.grad_output = tensor4(call["grad_output"]);
    params.input = tensor4(call["input"]);
    set_kernel_size(params, call);
    text += std::string(text.empty() ? "" : "\n") + "grad_sigma:\n" +
            (compute_capability == 0 ? explain_cpu("gaussian_sigma_ring")
                                     : explain_cuda(params, compute_capability, kGaussianSigmaGrad));
  }
  return text;
}

BilateralParams bilateral_params(const py::dict& call, const char* guidance) {
  BilateralParams params{};
  params.input = params.output = tensor4(call["input"]);
  params.guidance = tensor4(call[guidance]);
  set_kernel_size(params, call);
  const bool l1 = call["color_distance_type"].cast<std::string>() == "l1";
  params.distance = l1 ? ColorDistance::kL1 : ColorDistance::kL2;
  params.circle = call["window"].cast<std::string>() == "circle";
  return params;
}

std::string explain_bilateral(const py::dict& call, bool joint, int compute_capability) {
  if (compute_capability == 0) return explain_cpu("bilateral_tile");
  static char another_image;
  BilateralParams params = bilateral_params(call, joint ? "guidance" : "input");
  if (joint) params.guidance.data = &another_image;
  return explain_cuda(params, compute_capability, kBilateral);
}

// A guidance like the input counts as the input, as in the gradients of the filter that is not joint.
std::string explain_bilateral_backward(const py::dict& call, int compute_capability) {
  if (compute_capability == 0) return explain_cpu("bilateral_grad_tile");
  BilateralGradParams params{};
  params.forward = bilateral_params(call, "guidance");
  params.grad_output = tensor4(call["grad_output"]);
  return explain_cuda(params, compute_capability, kBilateralGrad);
}

}  // namespace

std::string explain(const std::string& op, const py::dict& call, int compute_capability) {
  if (op == "conv2d") return explain_conv(call, false, compute_capability);
  if (op == "conv_transpose2d") return explain_conv(call, true, compute_capability);
  if (op == "conv2d_backward") return explain_conv_backward(call, false, compute_capability);
  if (op == "conv_transpose2d_backward") return explain_conv_backward(call, true, compute_capability);
  if (op == "gaussian_blur2d") return explain_gaussian(call, compute_capability);
  if (op == "bilateral_blur") return explain_bilateral(call, false, compute_capability);
  if (op == "joint_bilateral_blur") return explain_bilateral(call, true, compute_capability);
  if (op == "gaussian_blur2d_backward") return explain_gaussian_backward(call, compute_capability);
  if (op == "joint_bilateral_blur_backward") return explain_bilateral_backward(call, compute_capability);
  throw std::invalid_argument("explain: there is no operator '" + op + "'");
}

}  // namespace denoise_ext
