#include "conv.h"

#include <array>
#include <cstdio>

#include "conv_pack.h"
#include "conv_plan.h"
#include "isa.h"
#include "winograd.h"

namespace denoise_ext::cpu {
namespace {

constexpr std::array kAlgorithms{ConvAlgorithm::kWinograd4, ConvAlgorithm::kWinograd6,
                                 ConvAlgorithm::kDirect};

// The estimates below count multiply-adds of whole vectors, the unit of all three inner loops. What is
// not one was measured, on one core of a Zen 4 with AVX-512, as the number of them that take as long.
constexpr double kPackDirect = 30, kPackWinograd = 7;  // a vector of packed weights
constexpr double kLoadInput = 2;   // a vector of input channels, where it serves a few sums alone
constexpr double kCopyInput = 24;  // a vector of a transformed point, where inputs are copied first

// A vector of one of the n^2 points, in the input and in the output transform.
struct TransformCost {
  double input, output;
};
constexpr TransformCost kTransform4{12, 8}, kTransform6{20, 16};

int64_t lanes() {
  return kernels().vector_bytes / static_cast<int64_t>(sizeof(float));
}

double vectors_of(int64_t channels) {
  return static_cast<double>(divide_up(channels, lanes()));
}

double direct_cost(const ConvParams& p) {
  const int64_t* out = p.output.size;
  const int64_t inputs = p.input.size[1] / p.groups, outputs = out[1] / p.groups;
  const double products = has_few_outputs(p, lanes())
                              ? vectors_of(inputs) * (static_cast<double>(outputs) + kLoadInput)
                              : static_cast<double>(inputs * p.groups) * vectors_of(outputs);
  const double weights = static_cast<double>(p.weight.size[2] * p.weight.size[3]) * products;
  // Where the stride spreads the outputs of an input, each is a sum of that many fewer.
  const int64_t spread = p.transposed ? p.stride[0] * p.stride[1] : 1;
  const double pixels = static_cast<double>(out[0]) * static_cast<double>(out[2] * out[3]);
  return weights * (pixels / static_cast<double>(spread) + kPackDirect);
}

double winograd_cost(const ConvParams& p, int outputs) {
  const TransformCost transform = outputs == 4 ? kTransform4 : kTransform6;
  const int64_t* out = p.output.size;
  const double channels = static_cast<double>(p.input.size[1]), filters = vectors_of(out[1]);
  const double points = (outputs + 2) * (outputs + 2);
  const int64_t step_y = p.transposed ? p.stride[0] : 1, step_x = p.transposed ? p.stride[1] : 1;
  const double phases = static_cast<double>(step_y * step_x);
  const auto products = static_cast<double>(winograd_products(p, outputs));
  const double tiles = static_cast<double>(out[0]) *
                       static_cast<double>(divide_up(out[2], outputs * step_y)) *
                       static_cast<double>(divide_up(out[3], outputs * step_x));
  const bool copied = p.input.stride[1] != 1 || p.input.dtype != DType::kFloat32;
  const double input = transform.input + (copied ? kCopyInput : 0);
  const double transforms =
      points * (input * vectors_of(p.input.size[1]) + phases * transform.output * filters);
  return tiles * (transforms + products * channels * filters) +
         points * phases * kPackWinograd * channels * filters;
}

double cost(const ConvParams& params, ConvAlgorithm algorithm) {
  return algorithm == ConvAlgorithm::kDirect ? direct_cost(params)
                                             : winograd_cost(params, winograd_outputs(algorithm));
}

// Why the automatic choice leaves `algorithm` out, or nullptr.
const char* obstacle(const ConvParams& params, ConvAlgorithm algorithm) {
  if (algorithm == ConvAlgorithm::kDirect) return nullptr;
  if (params.dilation[0] != 1 || params.dilation[1] != 1) return "dilation is not 1";
  if (const char* reason = winograd_obstacle(params)) return reason;
  if (!params.transposed && params.stride[0] > 1)
    return "stride is not 1: the weights of four phases are transformed once, by conv2d_pack, or not at all";
  if (params.precision == Precision::kStrict) return "precision is 'strict'";
  if (algorithm == ConvAlgorithm::kWinograd6 && params.precision != Precision::kFast)
    return "precision is not 'fast'";
  return nullptr;
}

const char* name_of(const ConvParams& params, ConvAlgorithm algorithm) {
  if (algorithm == ConvAlgorithm::kWinograd2) return "conv_winograd2";
  if (algorithm == ConvAlgorithm::kWinograd4) return "conv_winograd4";
  if (algorithm == ConvAlgorithm::kWinograd6) return "conv_winograd6";
  return params.groups > 1 && params.input.size[1] == params.groups ? "conv_depthwise" : "conv_direct";
}

}  // namespace

ConvAlgorithm choose_conv_algorithm(const ConvParams& params) {
  if (params.packed_weight.data != nullptr) return packed_weight_header(params).algorithm;
  if (params.algorithm != ConvAlgorithm::kAuto) return params.algorithm;
  ConvAlgorithm best = ConvAlgorithm::kDirect;
  for (const ConvAlgorithm algorithm : kAlgorithms)
    if (obstacle(params, algorithm) == nullptr && cost(params, algorithm) < cost(params, best))
      best = algorithm;
  return best;
}

const char* conv_algorithm_obstacle(const ConvParams& params) {
  const ConvAlgorithm algorithm = choose_conv_algorithm(params);
  return algorithm == ConvAlgorithm::kDirect ? nullptr : winograd_obstacle(params);
}

std::string explain(const ConvParams& params, const KernelTable& table) {
  const ConvAlgorithm chosen = choose_conv_algorithm(params);
  std::string text = chosen_line(name_of(params, chosen), table);
  for (const ConvAlgorithm algorithm : kAlgorithms) {
    if (algorithm == chosen) continue;
    text += "\n" + std::string(name_of(params, algorithm)) + ": ";
    if (const char* reason = obstacle(params, algorithm)) {
      text += reason;
    } else {
      char ratio[64];
      std::snprintf(ratio, sizeof ratio, "estimated to take %.2f times as long",
                    cost(params, algorithm) / cost(params, chosen));
      text += ratio;
    }
  }
  return text;
}

void run(const ConvParams& params, const Threads& threads) {
  const ConvAlgorithm algorithm = choose_conv_algorithm(params);
  if (algorithm == ConvAlgorithm::kDirect) return run_conv_direct(params, threads);
  run_winograd(winograd_outputs(algorithm), params, threads);
}

}  // namespace denoise_ext::cpu
