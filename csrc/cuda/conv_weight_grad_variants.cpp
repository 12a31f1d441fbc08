// The weight-gradient kernels and how one is chosen (host code, no CUDA).
#include "conv_weight_grad_variants.h"

#include <algorithm>

#include "conv_conditions.h"
#include "variants.h"

namespace denoise_ext::cuda {
namespace {

// Blocks that a multiprocessor runs at a time: 2 of 256 threads with up to 128 registers.
constexpr int64_t kResidentBlocks = 2;
// Partial gradients may take this much memory.
constexpr int64_t kWorkspaceBytes = int64_t{256} << 20;

double product_count(const ConvWeightGradParams& p) {
  double products =
      static_cast<double>(p.grad_weight.size[1] * p.grad_weight.size[2] * p.grad_weight.size[3]);
  for (const int64_t size : p.coarse.size) products *= static_cast<double>(size);
  return products;
}

// Weights, and biases if wanted.
int64_t results(const ConvWeightGradParams& p) {
  const int64_t* size = p.grad_weight.size;
  return size[0] * size[1] * size[2] * size[3] + (p.grad_bias != nullptr ? p.coarse.size[1] : 0);
}

int64_t accumulator_bytes(const ConvWeightGradParams& p) {
  return p.coarse.dtype == DType::kFloat64 ? 8 : 4;
}

// Enough parts to fill the device, no more than there are pieces of work, within the workspace.
int parts_for(const ConvWeightGradParams& p, int64_t blocks, int64_t pieces, const DeviceLimits& limits) {
  const int64_t wanted = divide_up(kResidentBlocks * limits.multiprocessors, blocks);
  const int64_t affordable = kWorkspaceBytes / (results(p) * accumulator_bytes(p));
  return static_cast<int>(std::max<int64_t>(1, std::min({wanted, pieces, affordable, int64_t{65535}})));
}

// Lane operations for the place of one element: divisions in 64 bits, which are mostly short.
constexpr double kLocate = 64;
// Blocks of the direct kernel that a multiprocessor runs at a time.
constexpr double kDirectResidentBlocks = 3;

double coarse_pixels(const ConvWeightGradParams& p) {
  return static_cast<double>(p.coarse.size[0]) * static_cast<double>(p.coarse.size[2] * p.coarse.size[3]);
}

// What memory gives for one element of each `step`-th pixel of a row, one channel of it: a sector of 32
// bytes, if pixels lie that far apart.
double element_traffic(const Tensor4& t, int64_t step) {
  constexpr int64_t kSector = 32;
  if (t.data == nullptr) return 0;
  const int64_t bytes = element_bytes(t.dtype);
  return static_cast<double>(std::clamp(bytes * step * t.stride[3], bytes, kSector));
}

// A thread has no reuse in registers, so it locates and reads both factors of every product. The blocks
// of one channel read the same memory about the same time, but the L2 cache gives little more a second.
double direct_cost(const ConvWeightGradParams& p, const DeviceLimits& limits) {
  const double products = product_count(p);
  const double bytes = element_traffic(p.coarse, 1) + element_traffic(p.coarse_mask.saved, 1) +
                       element_traffic(p.fine, p.stride[1]);
  const double busy =
      std::min(1.0, static_cast<double>(results(p)) / (kDirectResidentBlocks * limits.multiprocessors));
  return std::max(memory_cost(products * bytes, limits), multiply_cost(products * kLocate, 1, limits)) / busy;
}

// Sums 64 x 64 channels whether they are there or not, at half the rate (one shared load per 2 products).
// Every tap and tile locates and reads its elements of both tensors again.
double tiled_cost(const ConvWeightGradParams& p, const DeviceLimits& limits) {
  const double taps = static_cast<double>(p.grad_weight.size[2] * p.grad_weight.size[3]);
  const double coarse_tiles = static_cast<double>(divide_up(p.coarse.size[1] / p.groups, kWeightGradTile));
  const double fine_tiles = static_cast<double>(divide_up(p.grad_weight.size[1], kWeightGradTile));
  const double tiles = coarse_tiles * fine_tiles * static_cast<double>(p.groups);
  const double steps = coarse_pixels(p) * taps * tiles;
  const double coarse = tensor_bytes(p.coarse) + tensor_bytes(p.coarse_mask.saved);
  const double bytes = taps * (coarse * fine_tiles + tensor_bytes(p.fine) * coarse_tiles);
  return std::max(memory_cost(bytes, limits),
                  multiply_cost(steps * kWeightGradTile * kWeightGradTile, 0.5, limits) +
                      multiply_cost(steps * 2 * kWeightGradTile * kLocate, 1, limits));
}

int64_t tiled_workspace(const ConvWeightGradParams& p, const DeviceLimits& limits) {
  return weight_grad_tiled_parts(p, limits) * results(p) * accumulator_bytes(p);
}

const char* mma_cannot_run(const ConvWeightGradParams& p, const DeviceLimits& limits) {
  const int64_t size = p.grad_weight.size[2];
  if (!is_16_bit(p.coarse.dtype)) return "takes float16 and bfloat16 only";
  // sm_75 has no asynchronous copies, and staging through registers would spill the sums.
  if (limits.compute_capability < 80) return "needs compute capability 8.0";
  if (size != p.grad_weight.size[3] || (size != 1 && size != 3)) return "takes 1x1 and 3x3 kernels only";
  if (p.groups != 1) return "takes groups = 1 only";
  if (p.stride[0] != 1 || p.stride[1] != 1 || p.dilation[0] != 1 || p.dilation[1] != 1)
    return "takes stride 1 and dilation 1 only";
  const bool wide_mask = p.coarse_mask.saved.data == nullptr || has_wide_pixels(p.coarse_mask.saved);
  if (!has_wide_pixels(p.coarse) || !has_wide_pixels(p.fine) || !wide_mask)
    return "needs channels_last tensors with 16-byte aligned pixels (channels a multiple of 8)";
  return nullptr;
}

// Reads both tensors once per block of the other's channels; 512 products per clock and multiprocessor
// at about half the peak.
double mma_cost(const ConvWeightGradParams& p, const DeviceLimits& limits) {
  const double coarse = tensor_bytes(p.coarse) + tensor_bytes(p.coarse_mask.saved);
  const double bytes =
      coarse * static_cast<double>(divide_up(p.fine.size[1], kWeightGradMmaFine)) +
      tensor_bytes(p.fine) * static_cast<double>(divide_up(p.coarse.size[1], kWeightGradMmaCoarse));
  return std::max(memory_cost(bytes, limits), multiply_cost(product_count(p), 4.0, limits));
}

int64_t mma_workspace(const ConvWeightGradParams& p, const DeviceLimits& limits) {
  return weight_grad_mma_parts(p, limits) * results(p) * accumulator_bytes(p);
}

const Variant<ConvWeightGradParams> kVariants[] = {
    {"conv_weight_grad_mma", mma_cannot_run, mma_cost, mma_workspace, weight_grad_mma_launch},
    {"conv_weight_grad_tiled", always, tiled_cost, tiled_workspace, weight_grad_tiled_launch},
    {"conv_weight_grad_direct", always, direct_cost, nullptr, weight_grad_direct_launch},
};

}  // namespace

int64_t weight_grad_tiled_blocks(const ConvWeightGradParams& p) {
  return p.groups * divide_up(p.coarse.size[1] / p.groups, kWeightGradTile) *
         divide_up(p.grad_weight.size[1], kWeightGradTile) * p.grad_weight.size[2] * p.grad_weight.size[3];
}

int weight_grad_tiled_parts(const ConvWeightGradParams& p, const DeviceLimits& limits) {
  // A part of fewer than 256 pixels would cost more in adding up than it brings.
  const int64_t pixels = p.coarse.size[0] * p.coarse.size[2] * p.coarse.size[3];
  return parts_for(p, weight_grad_tiled_blocks(p), divide_up(pixels, 256), limits);
}

int64_t weight_grad_mma_blocks(const ConvWeightGradParams& p) {
  return divide_up(p.coarse.size[1], kWeightGradMmaCoarse) * divide_up(p.fine.size[1], kWeightGradMmaFine);
}

int weight_grad_mma_parts(const ConvWeightGradParams& p, const DeviceLimits& limits) {
  const int64_t segments =
      p.coarse.size[0] * p.coarse.size[2] * divide_up(p.coarse.size[3], kWeightGradMmaPixels);
  return parts_for(p, weight_grad_mma_blocks(p), segments, limits);
}

int run(const ConvWeightGradParams& params, const LaunchContext& context) {
  return choose(kVariants, params, context.limits).launch(params, context);
}

int64_t workspace_bytes(const ConvWeightGradParams& params, const DeviceLimits& limits) {
  return workspace_of(kVariants, params, limits);
}

void explain(const ConvWeightGradParams& params, const DeviceLimits& limits, char* text, int bytes) {
  explain(kVariants, params, limits, text, bytes);
}

}  // namespace denoise_ext::cuda
