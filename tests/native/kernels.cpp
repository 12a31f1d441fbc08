// Kernels against plain loops, without PyTorch: for processors that are emulated or cross-compiled for.
// Prints one line per kernel, and returns 1 when an error is above its bound.
#include <cmath>
#include <cstdio>
#include <random>
#include <thread>
#include <vector>

#include "../../csrc/cpu/conv.h"
#include "../../csrc/cpu/conv_backward.h"
#include "../../csrc/cpu/gaussian.h"
#include "../../csrc/cpu/isa.h"

using namespace denoise_ext;

namespace {

constexpr cpu::Threads kThreads{2, [](int count, void (*body)(void*, int), void* context) {
                                  std::vector<std::thread> threads;
                                  for (int i = 0; i < count; ++i) threads.emplace_back(body, context, i);
                                  for (std::thread& thread : threads) thread.join();
                                }};

struct Image {
  std::vector<float> values;
  Tensor4 view{};

  Image(int64_t n, int64_t c, int64_t h, int64_t w, bool channels_last) : values(n * c * h * w) {
    static std::mt19937 generator(0);
    for (float& x : values) x = std::uniform_real_distribution<float>(-0.5f, 0.5f)(generator);
    view = {values.data(), {n, c, h, w}, {c * h * w, h * w, w, 1}, DType::kFloat32};
    if (channels_last) view = {values.data(), {n, c, h, w}, {c * h * w, 1, w * c, c}, DType::kFloat32};
  }
  double at(int64_t n, int64_t c, int64_t y, int64_t x) const {
    return values[n * view.stride[0] + c * view.stride[1] + y * view.stride[2] + x * view.stride[3]];
  }
};

// The largest error of a 3x3 convolution with padding 1, bias and relu.
double conv_error(bool channels_last, int64_t groups, int64_t stride) {
  constexpr int64_t n = 2, channels = 10, filters = 20, h = 17, w = 23;
  const int64_t out_h = (h - 1) / stride + 1, out_w = (w - 1) / stride + 1;
  const Image input(n, channels, h, w, channels_last), bias(1, filters, 1, 1, false);
  const Image weight(filters, channels / groups, 3, 3, false);
  const Image output(n, filters, out_h, out_w, channels_last);
  cpu::ConvParams params{};
  params.input = input.view;
  params.weight = weight.view;
  params.output = output.view;
  params.bias = {bias.values.data(), filters, 1, DType::kFloat32};
  for (int axis : {0, 1}) {
    params.stride[axis] = stride;
    params.padding[axis] = params.dilation[axis] = 1;
  }
  params.groups = groups;
  params.activation = Activation::kRelu;
  cpu::run(params, kThreads);
  const auto expected = [&](int64_t image, int64_t k, int64_t oy, int64_t ox) {
    double sum = bias.values[k];
    for (int64_t c = 0; c < channels / groups; ++c) {
      for (int64_t u = 0; u < 3; ++u) {
        for (int64_t v = 0; v < 3; ++v) {
          const int64_t y = oy * stride + u - 1, x = ox * stride + v - 1;
          if (y < 0 || y >= h || x < 0 || x >= w) continue;
          const int64_t group = k / (filters / groups);
          sum += input.at(image, group * (channels / groups) + c, y, x) * weight.at(k, c, u, v);
        }
      }
    }
    return std::max(sum, 0.0);
  };
  double worst = 0;
  for (int64_t image = 0; image < n; ++image)
    for (int64_t k = 0; k < filters; ++k)
      for (int64_t y = 0; y < out_h; ++y)
        for (int64_t x = 0; x < out_w; ++x)
          worst = std::max(worst, std::abs(expected(image, k, y, x) - output.at(image, k, y, x)));
  return worst;
}

// The largest error of the gradient of a 3x3 convolution's weight, padding 1.
double weight_grad_error(bool channels_last, int64_t channels, int64_t filters, Precision precision) {
  constexpr int64_t n = 2, h = 17, w = 23;
  const Image input(n, channels, h, w, channels_last), gradient(n, filters, h, w, channels_last);
  const Image result(filters, channels, 3, 3, channels_last);
  ConvWeightGradParams params{};
  params.coarse = gradient.view;
  params.fine = input.view;
  params.grad_weight = result.view;
  for (int axis : {0, 1}) params.stride[axis] = params.padding[axis] = params.dilation[axis] = 1;
  params.groups = 1;
  params.precision = precision;
  cpu::run(params, kThreads);
  const auto expected = [&](int64_t k, int64_t c, int64_t u, int64_t v) {
    double sum = 0;
    for (int64_t image = 0; image < n; ++image)
      for (int64_t y = std::max<int64_t>(0, 1 - u); y < std::min(h, h + 1 - u); ++y)
        for (int64_t x = std::max<int64_t>(0, 1 - v); x < std::min(w, w + 1 - v); ++x)
          sum += gradient.at(image, k, y, x) * input.at(image, c, y + u - 1, x + v - 1);
    return sum;
  };
  double worst = 0;
  for (int64_t k = 0; k < filters; ++k)
    for (int64_t c = 0; c < channels; ++c)
      for (int64_t u = 0; u < 3; ++u)
        for (int64_t v = 0; v < 3; ++v)
          worst = std::max(worst, std::abs(expected(k, c, u, v) - result.at(k, c, u, v)));
  return worst;
}

// The largest error of a 9x9 Gaussian, sigma (1.7, 2.3), with the image mirrored at its border.
double gaussian_error(bool channels_last) {
  constexpr int64_t channels = 3, h = 19, w = 31, radius = 4;
  const double sigma[2] = {1.7, 2.3};
  const Image input(1, channels, h, w, channels_last), output(1, channels, h, w, channels_last);
  GaussianParams params{};
  params.input = input.view;
  params.output = output.view;
  params.sigma = {sigma, 2, 1, DType::kFloat64};
  params.kernel_size[0] = params.kernel_size[1] = 2 * radius + 1;
  params.border = Border::kReflect;
  cpu::run(params, kThreads);
  const auto mirrored = [](int64_t i, int64_t size) { return i < 0 ? -i : i >= size ? 2 * size - 2 - i : i; };
  double worst = 0;
  for (int64_t c = 0; c < channels; ++c) {
    for (int64_t y = 0; y < h; ++y) {
      for (int64_t x = 0; x < w; ++x) {
        double sum = 0, total = 0;
        for (int64_t u = -radius; u <= radius; ++u) {
          for (int64_t v = -radius; v <= radius; ++v) {
            const double a = u / sigma[0], b = v / sigma[1];
            const double tap = std::exp(-(a * a + b * b) / 2);
            sum += tap * input.at(0, c, mirrored(y + u, h), mirrored(x + v, w));
            total += tap;
          }
        }
        worst = std::max(worst, std::abs(sum / total - output.at(0, c, y, x)));
      }
    }
  }
  return worst;
}

bool report(const char* kernel, double error, double bound) {
  std::printf("%s: error %.3g, at most %.3g\n", kernel, error, bound);
  return error <= bound;
}

}  // namespace

int main() {
  constexpr double eps = 1.2e-7;  // float32: the distance from 1 to the next number
  std::printf("instruction set: %s\n", cpu::kernels().isa);
  bool good = true;
  for (bool channels_last : {false, true}) {
    for (int64_t groups : {1, 5, 10})
      for (int64_t stride : {1, 2})
        // A sum of 91 numbers, each at most 1/4: every addition rounds a partial sum below 91/4.
        good &= report("conv2d", conv_error(channels_last, groups, stride), 91 * eps * 91 / 4);
    // A sum of 782 products, each at most 1/4.
    for (int64_t channels : {1, 20, 37})
      for (int64_t filters : {3, 21})
        good &=
            report("weight gradient", weight_grad_error(channels_last, channels, filters, Precision::kStrict),
                   782 * eps * 782 / 4);
    // Winograd's algorithm: 60 tiles, 40 roundings more in the transforms; for 16 outputs of a tile its
    // absolute terms add up to at most 68.5 times 16 / 4.
    good &= report("weight gradient, winograd", weight_grad_error(channels_last, 20, 37, Precision::kDefault),
                   (60 + 40) * eps * 60 * 68.5 * 16 / 4);
    // Two sums of 9, of numbers at most 1/2 with weights that add up to 1; the taps are rounded too.
    good &= report("gaussian_blur2d", gaussian_error(channels_last), 20 * eps / 2);
  }
  return good ? 0 : 1;
}
