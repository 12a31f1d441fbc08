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
int parts_for(const ConvWeightGradParams& p, int64_t blocks, int64_t pieces, const DeviceLimits& limits,
              int64_t resident = kResidentBlocks) {
  const int64_t wanted = divide_up(resident * limits.multiprocessors, blocks);
  const int64_t affordable = kWorkspaceBytes / (results(p) * accumulator_bytes(p));
  return static_cast<int>(std::max<int64_t>(1, std::min({wanted, pieces, affordable, int64_t{65535}})));
}

double coarse_pixels(const ConvWeightGradParams& p) {
  return static_cast<double>(p.coarse.size[0]) * static_cast<double>(p.coarse.size[2] * p.coarse.size[3]);
}

int64_t group_columns(const ConvWeightGradParams& p) {
  return p.grad_weight.size[1] * p.grad_weight.size[2] * p.grad_weight.size[3];
}

// Writing the parts, reading them again, and one launch more for that.
double sum_cost(const ConvWeightGradParams& p, int parts, const DeviceLimits& limits) {
  constexpr double kLaunch = 2;
  return kLaunch + memory_cost(2.0 * static_cast<double>(parts * results(p) * accumulator_bytes(p)), limits);
}

// The part of the device that so many blocks keep busy.
double busy_share(int64_t blocks, const DeviceLimits& limits, int64_t resident = kResidentBlocks) {
  return std::min(1.0, static_cast<double>(blocks) / static_cast<double>(resident * limits.multiprocessors));
}

// Lane operations to find and read 16 bytes at once, or one element by itself.
constexpr double kLocateVector = 20, kLocateElement = 14;

// Without the products: the whole tile is summed whether it has channels and columns or not, and its
// elements are found, read and written to shared memory for every piece of it. Of what the taps beside each
// other read, about half comes from the L1 cache.
double gather_cost(const ConvWeightGradParams& p, const WeightGradTile& tile, const DeviceLimits& limits) {
  const WeightGradLayout layout = weight_grad_layout(p);
  const double lanes = 16.0 / static_cast<double>(element_bytes(p.coarse.dtype));
  const double rows = tile.rows * (p.coarse_mask.saved.data == nullptr ? 1.0 : 2.0);
  const double operations = rows * (layout.coarse_vectors ? kLocateVector / lanes : kLocateElement) +
                            tile.cols * (layout.fine_vectors ? kLocateVector / lanes : kLocateElement);
  const double pieces = coarse_pixels(p) * static_cast<double>(weight_grad_tile_blocks(p, tile));
  const double bytes = pieces * (rows + tile.cols / 2.0) * static_cast<double>(element_bytes(p.coarse.dtype));
  return std::max(memory_cost(bytes, limits), multiply_cost(pieces * operations, 1, limits));
}

// The kernel's time, given that of its products at full occupation.
double tile_cost(const ConvWeightGradParams& p, const WeightGradTile& tile, double products,
                 const DeviceLimits& limits) {
  const int parts = weight_grad_tile_parts(p, tile, limits);
  const double busy = busy_share(parts * weight_grad_tile_blocks(p, tile), limits);
  return (products + gather_cost(p, tile, limits)) / busy + sum_cost(p, parts, limits);
}

double tile_products(const ConvWeightGradParams& p, const WeightGradTile& tile) {
  return coarse_pixels(p) * static_cast<double>(weight_grad_tile_blocks(p, tile)) * tile.rows * tile.cols;
}

int64_t tile_workspace(const ConvWeightGradParams& p, const WeightGradTile& tile,
                       const DeviceLimits& limits) {
  return weight_grad_tile_parts(p, tile, limits) * results(p) * accumulator_bytes(p);
}

// The thin tile is for coarse channels that a square one would mostly fill up with zeros.
WeightGradTile tile_of(const ConvWeightGradParams& p, const WeightGradTile& square,
                       const WeightGradTile& thin) {
  return p.coarse.size[1] / p.groups <= thin.rows ? thin : square;
}

const char* too_many_blocks(const ConvWeightGradParams& p, const WeightGradTile& tile) {
  return weight_grad_tile_blocks(p, tile) > kMostBlocks ? "would need more than 2^31 blocks" : nullptr;
}

const char* gemm_cannot_run(const ConvWeightGradParams& p, const DeviceLimits& limits) {
  if (p.coarse.dtype == DType::kFloat64) return "takes float16, bfloat16 and, in tf32, float32 only";
  if (p.coarse.dtype == DType::kFloat32 && p.precision != Precision::kFast)
    return "takes float32 in tf32 only, which needs precision='fast' or, by default, that PyTorch allows it "
           "(torch.backends.cudnn.conv.fp32_precision)";
  if (p.coarse.dtype != DType::kFloat16 && limits.compute_capability < 80)
    return "bfloat16 and tf32 need compute capability 8.0";
  return too_many_blocks(p, weight_grad_gemm_tile(p));
}

// About half of the peak.
double gemm_cost(const ConvWeightGradParams& p, const DeviceLimits& limits) {
  const WeightGradTile tile = weight_grad_gemm_tile(p);
  const double share = 0.5 * 2.0 / static_cast<double>(element_bytes(p.coarse.dtype));
  return tile_cost(p, tile, tensor_cost(tile_products(p, tile), share, limits), limits);
}

int64_t gemm_workspace(const ConvWeightGradParams& p, const DeviceLimits& limits) {
  return tile_workspace(p, weight_grad_gemm_tile(p), limits);
}

const char* tiled_cannot_run(const ConvWeightGradParams& p, const DeviceLimits&) {
  if (p.coarse.dtype == DType::kFloat16) return "takes float32, float64 and bfloat16 only";
  return too_many_blocks(p, weight_grad_tiled_tile(p));
}

// A square tile's 32 sums per thread take 3 loads from shared memory per 32 products, a thin one's 16 take 2.
// float64 is at half the rate where it is fastest.
double tiled_cost(const ConvWeightGradParams& p, const DeviceLimits& limits) {
  const WeightGradTile tile = weight_grad_tiled_tile(p);
  const double share = p.coarse.dtype == DType::kFloat64            ? 0.3
                       : tile.rows == kWeightGradTiledThinTile.rows ? 0.5
                                                                    : 0.75;
  return tile_cost(p, tile, multiply_cost(tile_products(p, tile), share, limits), limits);
}

int64_t tiled_workspace(const ConvWeightGradParams& p, const DeviceLimits& limits) {
  return tile_workspace(p, weight_grad_tiled_tile(p), limits);
}

int64_t tap_chunks(const ConvWeightGradParams& p) {
  return divide_up(p.grad_weight.size[2] * p.grad_weight.size[3], kWeightGradTaps);
}

int64_t channel_pairs(const ConvWeightGradParams& p) {
  return p.coarse.size[1] * p.grad_weight.size[1];
}

// Every pair of channels reads both of its planes once per kWeightGradTaps taps; lanes without a pair are
// idle. A product is a load from the L1 cache, its address, a conversion and the multiplication; a
// pixel's place and its factor of the coarse tensor come to about 30 operations.
double taps_cost(const ConvWeightGradParams& p, const DeviceLimits& limits) {
  const int parts = weight_grad_taps_parts(p, limits);
  const double masked = p.coarse_mask.saved.data == nullptr ? 1.0 : 2.0;
  const double passes = coarse_pixels(p) * static_cast<double>(channel_pairs(p) * tap_chunks(p));
  const double fine = static_cast<double>(p.stride[0] * p.stride[1]);
  const double bytes = passes * (masked + std::min(fine, static_cast<double>(kWeightGradTaps))) *
                       static_cast<double>(element_bytes(p.coarse.dtype));
  const double lanes =
      coarse_pixels(p) * static_cast<double>(weight_grad_taps_blocks(p) *
                                             weight_grad_taps_pairs(p));  // those without a pair too
  const double operations = lanes * (30 + 6 * kWeightGradTaps);
  const double busy = busy_share(parts * weight_grad_taps_blocks(p), limits);
  return std::max(memory_cost(bytes, limits), multiply_cost(operations, 1, limits)) / busy +
         sum_cost(p, parts, limits);
}

int64_t taps_workspace(const ConvWeightGradParams& p, const DeviceLimits& limits) {
  return weight_grad_taps_parts(p, limits) * results(p) * accumulator_bytes(p);
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
  const int parts = weight_grad_mma_parts(p, limits);
  const double busy =
      busy_share(parts * weight_grad_mma_blocks(p), limits, weight_grad_mma_resident(p.grad_weight.size[2]));
  return std::max(memory_cost(bytes, limits), tensor_cost(product_count(p), 0.5, limits)) / busy +
         sum_cost(p, parts, limits);
}

int64_t mma_workspace(const ConvWeightGradParams& p, const DeviceLimits& limits) {
  return weight_grad_mma_parts(p, limits) * results(p) * accumulator_bytes(p);
}

const Variant<ConvWeightGradParams> kVariants[] = {
    {"conv_weight_grad_mma", mma_cannot_run, mma_cost, mma_workspace, weight_grad_mma_launch},
    {"conv_weight_grad_gemm", gemm_cannot_run, gemm_cost, gemm_workspace, weight_grad_gemm_launch},
    {"conv_weight_grad_tiled", tiled_cannot_run, tiled_cost, tiled_workspace, weight_grad_tiled_launch},
    {"conv_weight_grad_taps", always, taps_cost, taps_workspace, weight_grad_taps_launch},
};

}  // namespace

WeightGradLayout weight_grad_layout(const ConvWeightGradParams& p) {
  const int64_t lanes = 16 / element_bytes(p.coarse.dtype);
  const bool wide_mask = p.coarse_mask.saved.data == nullptr || has_wide_pixels(p.coarse_mask.saved);
  WeightGradLayout layout{};
  layout.coarse_vectors = has_wide_pixels(p.coarse) && wide_mask && p.coarse.size[1] / p.groups % lanes == 0;
  layout.fine_vectors = has_wide_pixels(p.fine) && p.grad_weight.size[1] % lanes == 0;
  layout.coarse_along_pixels = !layout.coarse_vectors && p.coarse.stride[3] < p.coarse.stride[1];
  layout.fine_along_pixels = !layout.fine_vectors && p.fine.stride[3] < p.fine.stride[1];
  return layout;
}

int64_t weight_grad_tile_blocks(const ConvWeightGradParams& p, const WeightGradTile& tile) {
  return p.groups * divide_up(p.coarse.size[1] / p.groups, tile.rows) *
         divide_up(group_columns(p), tile.cols);
}

int weight_grad_tile_parts(const ConvWeightGradParams& p, const WeightGradTile& tile,
                           const DeviceLimits& limits) {
  // A part of fewer pixels would cost more in adding up than it brings.
  constexpr int64_t kFewestPixels = 256;
  const int64_t pixels = p.coarse.size[0] * p.coarse.size[2] * p.coarse.size[3];
  return parts_for(p, weight_grad_tile_blocks(p, tile), divide_up(pixels, kFewestPixels), limits);
}

WeightGradTile weight_grad_gemm_tile(const ConvWeightGradParams& p) {
  return tile_of(p, kWeightGradGemmTile, kWeightGradGemmThinTile);
}

WeightGradTile weight_grad_tiled_tile(const ConvWeightGradParams& p) {
  if (p.coarse.dtype == DType::kFloat64) return kWeightGradTiledDoubleTile;
  if (p.coarse.dtype == DType::kBFloat16) return kWeightGradTiledTile;
  return tile_of(p, kWeightGradTiledTile, kWeightGradTiledThinTile);
}

int weight_grad_taps_pairs(const ConvWeightGradParams& p) {
  const int64_t count = channel_pairs(p);
  constexpr int kMost = 32;
  // Beside each other in memory, or too many for a grid that has a block for each.
  if (p.coarse.stride[3] < p.coarse.stride[1] && count * tap_chunks(p) <= kMostBlocks) return 1;
  int pairs = 1;
  while (pairs < kMost && pairs < count) pairs *= 2;
  return pairs;
}

int64_t weight_grad_taps_blocks(const ConvWeightGradParams& p) {
  return divide_up(channel_pairs(p), weight_grad_taps_pairs(p)) * tap_chunks(p);
}

int weight_grad_taps_parts(const ConvWeightGradParams& p, const DeviceLimits& limits) {
  // A thread has at least so many pixels, for what it costs to add up the lanes.
  constexpr int64_t kFewestPixels = 16;
  const int64_t pixels = p.coarse.size[0] * p.coarse.size[2] * p.coarse.size[3];
  const int64_t lanes = kWeightGradTapsThreads / weight_grad_taps_pairs(p);
  return parts_for(p, weight_grad_taps_blocks(p), divide_up(pixels, lanes * kFewestPixels), limits);
}

int64_t weight_grad_mma_blocks(const ConvWeightGradParams& p) {
  return divide_up(p.coarse.size[1], kWeightGradMmaCoarse) * divide_up(p.fine.size[1], kWeightGradMmaFine);
}

int weight_grad_mma_parts(const ConvWeightGradParams& p, const DeviceLimits& limits) {
  const int64_t segments =
      p.coarse.size[0] * p.coarse.size[2] * divide_up(p.coarse.size[3], kWeightGradMmaPixels);
  return parts_for(p, weight_grad_mma_blocks(p), segments, limits,
                   weight_grad_mma_resident(p.grad_weight.size[2]));
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
