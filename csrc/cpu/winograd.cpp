#include "winograd.h"

#include <algorithm>
#include <fstream>
#include <limits>

#include "conv_pack.h"
#include "isa.h"
#include "weight_cache.h"
#include "winograd_kernels.h"

namespace denoise_ext::cpu {
namespace {

constexpr int64_t kLineFloats = 16;  // of a 64-byte cache line
// V and M should leave room in a 1 MiB second-level cache for the part of U in use.
constexpr int64_t kBlockBytes = 768 * 1024;
constexpr int64_t kBlockTiles = 24;
// Blocks to be had from one image at least: enough to keep several threads equally busy.
constexpr int64_t kFewestBlocks = 16;
constexpr int64_t kAssumedCacheBytes = 32 * 1024 * 1024;

// From Linux's sysfs ("32768K"). Elsewhere it is assumed, right for most processors.
int64_t last_level_cache_bytes() {
  static const int64_t bytes = [] {
    std::ifstream file("/sys/devices/system/cpu/cpu0/cache/index3/size");
    int64_t size = 0;
    char unit = 0;
    if (!(file >> size >> unit) || size <= 0) return kAssumedCacheBytes;
    return size * (unit == 'M' ? 1024 * 1024 : 1024);
  }();
  return bytes;
}

// Along one axis of a transposed convolution, output = input * stride - padding + index of the weight. The
// first of the inputs that any output of the first `stride` reads, relative to its place in its phase.
int64_t first_input(const ConvParams& p, int axis) {
  const int64_t reach = p.weight.size[2 + axis] - 1 - p.padding[axis];
  return -(reach / p.stride[axis]);  // output 0, the last index that divides
}

int64_t last_input(const ConvParams& p, int axis) {
  return (p.stride[axis] - 1 + p.padding[axis]) / p.stride[axis];  // the last phase, index 0 or the next
}

WinogradPhases make_phases(const ConvParams& p) {
  WinogradPhases all{};
  for (int axis = 0; axis < 2; ++axis) {
    all.step[axis] = p.transposed ? p.stride[axis] : 1;
    all.padding[axis] = p.transposed ? -first_input(p, axis) : p.padding[axis];
  }
  const auto index = [&](int axis, int64_t first, int tap) {
    if (!p.transposed) return tap;
    const int64_t u = first + p.padding[axis] - (tap - all.padding[axis]) * p.stride[axis];
    return u >= 0 && u < p.weight.size[2 + axis] ? static_cast<int>(u) : -1;
  };
  for (int64_t y = 0; y < all.step[0]; ++y)
    for (int64_t x = 0; x < all.step[1]; ++x) {
      WinogradPhase phase{{y, x}, {}};
      for (int tap = 0; tap < 3; ++tap) {
        phase.index[0][tap] = index(0, y, tap);
        phase.index[1][tap] = index(1, x, tap);
      }
      all.phases.push_back(phase);
    }
  return all;
}

// Whether whole vectors of adjacent channels can be read and written in place.
bool is_direct(const Tensor4& x) {
  return x.dtype == DType::kFloat32 && x.stride[1] == 1;
}

bool is_direct_output(const Tensor4& x) {
  return x.data == nullptr || is_direct(x);
}

bool is_aligned(const Tensor4& x, int64_t bytes) {
  const auto element = static_cast<int64_t>(sizeof(float));
  return reinterpret_cast<uintptr_t>(x.data) % static_cast<uintptr_t>(bytes) == 0 &&
         std::all_of(x.stride, x.stride + 4,
                     [&](int64_t stride) { return stride == 1 || stride * element % bytes == 0; });
}

int64_t output_bytes(const Tensor4& x) {
  return x.size[0] * x.size[1] * x.size[2] * x.size[3] * static_cast<int64_t>(sizeof(float));
}

// The layout of the scratch: V, M (or the same place), a patch of input, a tile of outputs.
void lay_out(WinogradPlan& plan, int64_t lanes) {
  const int64_t points = static_cast<int64_t>(plan.points) * plan.points;
  int64_t widest = 0;
  for (const ChannelBlock& block : plan.blocks) widest = std::max(widest, block.vectors * lanes);
  // Whole vectors of the input's channels fit behind the coarse image's.
  const int64_t input_row = divide_up(plan.params.input.size[1], lanes) * lanes;
  plan.v_row = divide_up(plan.params.coarse.size[1] + input_row, lanes) * lanes;
  const bool in_place = plan.phases.phases.size() == 1 && plan.blocks.size() == 1 && widest == plan.v_row;
  // One line more than the block needs: points at a multiple of 4 KiB would share a set of the
  // first-level cache.
  const auto point_stride = [&](int64_t row) {
    return divide_up(plan.block_tiles * row, kLineFloats) * kLineFloats + kLineFloats;
  };
  plan.v_point = point_stride(plan.v_row);
  plan.m_point = in_place ? plan.v_point : point_stride(widest);
  plan.m_offset = in_place ? 0 : points * plan.v_point;
  plan.patch_offset = plan.m_offset + points * plan.m_point;
  plan.sums_offset = plan.patch_offset + divide_up(points * plan.v_row, kLineFloats) * kLineFloats;
  const int64_t sums = static_cast<int64_t>(plan.outputs) * plan.outputs * widest;
  plan.scratch_bytes = static_cast<size_t>(plan.sums_offset + sums) * sizeof(float);
}

void choose_block(WinogradPlan& plan, const KernelTable& table, int64_t lanes) {
  // Whole register tiles of the widest block of filters.
  const int64_t unit = winograd_register_tiles(table.accumulators, plan.blocks.front().vectors);
  const int64_t units = plan.tiles / (unit * kFewestBlocks);
  plan.block_tiles = unit * std::clamp<int64_t>(units, 1, std::max<int64_t>(kBlockTiles / unit, 1));
  const auto block_bytes = [&] {
    lay_out(plan, lanes);
    return plan.patch_offset * static_cast<int64_t>(sizeof(float));
  };
  while (block_bytes() > kBlockBytes && plan.block_tiles > unit) plan.block_tiles -= unit;
  int64_t calls = 0;
  for (const ChannelBlock& block : plan.blocks)
    calls += divide_up(plan.block_tiles, winograd_register_tiles(table.accumulators, block.vectors));
  calls *= static_cast<int64_t>(plan.phases.phases.size());
  plan.prefetch_steps = static_cast<int>(divide_up(plan.block_tiles, calls * plan.points));
}

WinogradPlan make_plan(int outputs, const ConvParams& params, const KernelTable& table) {
  const int64_t lanes = table.vector_bytes / static_cast<int64_t>(sizeof(float));
  WinogradPlan plan{};
  plan.params = params;
  plan.outputs = outputs;
  plan.points = outputs + 2;
  plan.channels = params.input.size[1] + params.coarse.size[1];
  plan.filters = params.output.size[1];
  plan.blocks = channel_blocks(plan.filters, static_cast<int>(lanes), table.accumulators);
  plan.phases = make_phases(params);
  plan.tiles_y = divide_up(params.output.size[2], outputs * plan.phases.step[0]);
  plan.tiles_x = divide_up(params.output.size[3], outputs * plan.phases.step[1]);
  plan.tiles = params.output.size[0] * plan.tiles_y * plan.tiles_x;
  const bool residual = params.residual.data != nullptr;
  plan.direct_input = is_direct(params.input) && params.input.size[1] >= lanes;
  plan.direct_coarse = is_direct(params.coarse) && params.coarse.size[1] >= lanes;
  plan.direct_output = !is_long(params.activation) && is_direct_output(params.output) &&
                       is_direct_output(params.residual) && is_direct_output(params.pooled);
  plan.clamped =
      !residual && (params.activation == Activation::kNone || params.activation == Activation::kRelu);
  plan.lowest = params.activation == Activation::kRelu ? 0.0f : -std::numeric_limits<float>::infinity();
  plan.stream = params.output.data != nullptr && plan.direct_output &&
                is_aligned(params.output, table.vector_bytes) &&
                output_bytes(params.output) > last_level_cache_bytes() / 2;
  choose_block(plan, table, lanes);
  return plan;
}

// A per-channel vector, zeros behind it up to whole vectors; one element serves all.
std::vector<float> padded_channels(const Tensor1& values, int64_t channels) {
  std::vector<float> padded(static_cast<size_t>(divide_up(channels, kLineFloats) * kLineFloats), 0.0f);
  if (values.data == nullptr) return padded;
  with_storage(values.dtype, [&](auto storage) {
    const auto* from = static_cast<const decltype(storage)*>(values.data);
    for (int64_t c = 0; c < channels; ++c)
      padded[static_cast<size_t>(c)] = load_as<float>(from[values.size == 1 ? 0 : c * values.stride]);
  });
  return padded;
}

void pack_weight(int outputs, const ConvParams& params, const KernelTable& table, float* to,
                 const Threads& threads) {
  WinogradPackPlan plan{};
  plan.weight = params.weight;
  plan.transposed = params.transposed;
  plan.phases = make_phases(params);
  plan.filters = params.weight.size[params.transposed ? 1 : 0];
  plan.channels = params.weight.size[params.transposed ? 0 : 1];
  plan.points = outputs + 2;
  const int lanes = table.vector_bytes / static_cast<int>(sizeof(float));
  plan.blocks = channel_blocks(plan.filters, lanes, table.accumulators);
  plan.to = to;
  const auto pack = outputs == 4 ? table.winograd->pack_4 : table.winograd->pack_6;
  for_each_block(threads, plan.channels, [&](int64_t channel, Scratch&) { pack(plan, channel); });
}

// Everything that pack_weight() looks at.
WeightKey key_of_weight(int outputs, const ConvParams& params, const KernelTable& table) {
  const Tensor4& w = params.weight;
  WeightKey key{reinterpret_cast<intptr_t>(w.data), reinterpret_cast<intptr_t>(&table), outputs,
                static_cast<int64_t>(w.dtype)};
  std::copy(w.size, w.size + 4, key.begin() + 4);
  std::copy(w.stride, w.stride + 4, key.begin() + 8);
  if (params.transposed) {  // strides are at least 1: an ordinary convolution has zeros here
    std::copy(params.stride, params.stride + 2, key.begin() + 12);
    std::copy(params.padding, params.padding + 2, key.begin() + 14);
  }
  return key;
}

}  // namespace

const char* winograd_obstacle(const ConvParams& p) {
  if (p.output.dtype == DType::kFloat64) return "float64 is computed directly";
  if (p.groups != 1) return "groups is not 1";
  if (p.dilation[0] != 1 || p.dilation[1] != 1) return "dilation is not 1";
  if (p.transposed) {
    for (int axis = 0; axis < 2; ++axis)
      if (last_input(p, axis) - first_input(p, axis) > 2) return "an output depends on more than 3x3 inputs";
    return nullptr;
  }
  if (p.weight.size[2] != 3 || p.weight.size[3] != 3) return "the kernel is not 3x3";
  if (p.stride[0] != 1 || p.stride[1] != 1) return "stride is not 1";
  return nullptr;
}

int64_t winograd_weight_elements(int outputs, int64_t filters, int64_t channels) {
  return (outputs + 2) * (outputs + 2) * channels * divide_up(filters, kLineFloats) * kLineFloats;
}

void pack_weight_winograd(int outputs, const Tensor4& weight, const KernelTable& table, float* to,
                          const Threads& threads) {
  ConvParams params{};
  params.weight = weight;
  pack_weight(outputs, params, table, to, threads);
}

void run_winograd(int outputs, const ConvParams& params, const Threads& threads) {
  const KernelTable& table = kernels();
  WinogradPlan plan = make_plan(outputs, params, table);
  const std::vector<float> bias = padded_channels(params.bias, plan.filters);
  const std::vector<float> slope = padded_channels(params.prelu_weight, plan.filters);
  plan.bias = bias.data();
  plan.prelu_slope = slope.data();
  // Kept from call to call as a thread's scratch is, unless it is large.
  static thread_local Scratch kept;
  Scratch own;
  std::shared_ptr<const float> shared;
  if (params.packed_weight.data != nullptr) {
    plan.weight = reinterpret_cast<const float*>(&packed_weight_header(params) + 1);
  } else {
    const int64_t elements = winograd_weight_elements(outputs, plan.filters, plan.channels) *
                             static_cast<int64_t>(plan.phases.phases.size());
    const auto pack = [&](void* bits, float* to) {
      ConvParams at = params;
      at.weight.data = bits;
      pack_weight(outputs, at, table, to, threads);
    };
    shared = kept_weight(key_of_weight(outputs, params, table), params.weight, elements, pack);
    plan.weight = shared.get();
    if (!shared) {
      const size_t bytes = static_cast<size_t>(elements) * sizeof(float);
      auto* weight = static_cast<float*>((bytes <= kKeptBytes ? kept : own).reserve(bytes));
      pack(params.weight.data, weight);
      plan.weight = weight;
    }
  }
  const auto block = outputs == 4 ? table.winograd->block_4 : table.winograd->block_6;
  for_each_block_ahead(threads, plan.tasks(), [&](int64_t index, int64_t next, Scratch& scratch) {
    block(plan, index, next, scratch.reserve(plan.scratch_bytes));
  });
}

}  // namespace denoise_ext::cpu
