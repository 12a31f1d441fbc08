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
// The same where the input has phases: U is several times as large and streams by once for each block, which
// takes longer than to read a part of V from the last-level cache.
constexpr int64_t kPhasesBlockBytes = 2400 * 1024, kPhasesFewestBlocks = 8;
// The same where U is larger than this, so that no cache near a core keeps it from block to block: blocks as
// large as V may be, and of filters as many groups as the threads need.
constexpr int64_t kKeptWeightBytes = 1024 * 1024;
constexpr int64_t kStreamedBlockTiles = 48, kTasksOfThread = 2;
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

// How far before its place in its phase the first input of an output is.
int64_t padding_of(const ConvParams& p, int axis) {
  return p.transposed ? -first_input(p, axis) : divide_up(p.padding[axis], p.stride[axis]);
}

// The weight's row or column for input `tap` of the three that an output of the phase `first` reads, or of
// the phase `first` of the inputs; -1 if there is none.
int index_of(const ConvParams& p, int axis, int64_t first, int tap) {
  const int64_t distance = (tap - padding_of(p, axis)) * p.stride[axis];
  const int64_t u = p.transposed ? first + p.padding[axis] - distance : first + p.padding[axis] + distance;
  return u >= 0 && u < p.weight.size[2 + axis] ? static_cast<int>(u) : -1;
}

// Points along one axis at which a phase has weights other than zero.
int64_t points_of(const ConvParams& p, int axis, int64_t first, int outputs) {
  const int before = index_of(p, axis, first, 0), behind = index_of(p, axis, first, 2);
  if (before < 0 && behind < 0 && index_of(p, axis, first, 1) < 0) return 0;
  return outputs + (before >= 0 ? 1 : 0) + (behind >= 0 ? 1 : 0);
}

// Inputs of its phase, from the first on, that an output of an ordinary convolution may read.
int64_t index_reach(const ConvParams& p, int axis) {
  const int64_t last = p.weight.size[2 + axis] - 1 - p.padding[axis];  // of the taps, in pixels
  const int64_t place = last >= 0 ? last / p.stride[axis] : -divide_up(-last, p.stride[axis]);
  return place + padding_of(p, axis) + 1;
}

// Phases along one axis: of a transposed convolution's outputs all, of inputs those that are read.
int64_t phases_of(const ConvParams& p, int axis) {
  if (p.transposed) return p.stride[axis];
  int64_t count = 0;
  for (int64_t first = 0; first < p.stride[axis]; ++first) count += points_of(p, axis, first, 4) > 0 ? 1 : 0;
  return count;
}

WinogradPhases make_phases(const ConvParams& p) {
  WinogradPhases all{};
  const WinogradPhase whole{};
  for (int axis = 0; axis < 2; ++axis) {
    all.dilation[axis] = p.dilation[axis];
    all.input_step[axis] = (p.transposed ? 1 : p.stride[axis]) * p.dilation[axis];
    all.output_step[axis] = (p.transposed ? p.stride[axis] : 1) * p.dilation[axis];
    all.padding[axis] = padding_of(p, axis) / p.dilation[axis];
  }
  std::vector<WinogradPhase>& phases = p.transposed ? all.outputs : all.inputs;
  for (int64_t y = 0; y < p.stride[0]; ++y)
    for (int64_t x = 0; x < p.stride[1]; ++x) {
      const bool read = points_of(p, 0, y, 4) * points_of(p, 1, x, 4) > 0;
      if (!p.transposed && !read) continue;
      WinogradPhase phase{{y, x}, {}};
      for (int tap = 0; tap < 3; ++tap) {
        phase.index[0][tap] = index_of(p, 0, y, tap);
        phase.index[1][tap] = index_of(p, 1, x, tap);
      }
      phases.push_back(phase);
    }
  (p.transposed ? all.inputs : all.outputs).push_back(whole);
  return all;
}

// Whether the phase has weights other than zero at point i of n along one axis.
bool has_point(const WinogradPhase& phase, int axis, int i, int points) {
  const int* index = phase.index[axis];
  if (index[0] < 0 && index[1] < 0 && index[2] < 0) return false;
  return (i > 0 || index[0] >= 0) && (i < points - 1 || index[2] >= 0);
}

// A part's channels in V: whole vectors, and the rest in one that ends with the channels and overlaps the
// vector before, or begins with them where there is none.
void add_part(std::vector<WinogradRun>& runs, WinogradRun part, int64_t lanes) {
  const int64_t whole = part.channels / lanes * lanes, rest = part.channels - whole;
  if (whole > 0) runs.push_back({part.first, whole, part.vector, 0});
  if (rest > 0)
    runs.push_back({part.first + whole, rest, part.vector + whole / lanes, whole > 0 ? lanes - rest : 0});
}

// Which channels of V count at which point. Runs that touch are one.
void choose_runs(WinogradPlan& plan, int64_t lanes) {
  const bool transposed = plan.params.transposed;
  const int64_t coarse = plan.params.coarse.size[1], channels = plan.params.input.size[1];
  for (const WinogradPhase& output : plan.phases.outputs)
    for (int i = 0; i < plan.points; ++i)
      for (int j = 0; j < plan.points; ++j) {
        std::vector<WinogradRun> parts;
        add_part(parts, {0, coarse, 0, 0}, lanes);
        WinogradRun at{coarse, channels, plan.part_vectors[0], 0};
        for (const WinogradPhase& input : plan.phases.inputs) {
          const WinogradPhase& taps = transposed ? output : input;
          if (has_point(taps, 0, i, plan.points) && has_point(taps, 1, j, plan.points))
            add_part(parts, at, lanes);
          at.first += channels;
          at.vector += plan.part_vectors[1];
        }
        const auto begin = static_cast<int>(plan.runs.size());
        for (const WinogradRun& part : parts) {
          WinogradRun* last = static_cast<int>(plan.runs.size()) > begin ? &plan.runs.back() : nullptr;
          if (last != nullptr && part.lane == 0 && last->first + last->channels == part.first &&
              (last->vector * lanes + last->channels == part.vector * lanes)) {
            last->channels += part.channels;
          } else {
            plan.runs.push_back(part);
          }
        }
        plan.runs_at.push_back({begin, static_cast<int>(plan.runs.size())});
      }
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
  const int64_t v_row = plan.v_vectors * lanes;
  const bool in_place = plan.phases.outputs.size() == 1 && plan.blocks.size() == 1 && widest == v_row;
  const auto lines = [](int64_t floats) { return divide_up(floats, kLineFloats) * kLineFloats; };
  plan.vector_step = lines(plan.block_tiles * winograd_tile_step(plan.points, lanes));
  plan.m_offset = in_place ? 0 : v_row / lanes * plan.vector_step;
  plan.patch_offset = plan.m_offset + widest / lanes * plan.vector_step;
  plan.sums_offset = plan.patch_offset + lines(points * v_row);
  const int64_t sums = static_cast<int64_t>(plan.outputs) * plan.outputs * widest;
  plan.scratch_bytes = static_cast<size_t>(plan.sums_offset + sums) * sizeof(float);
}

int64_t block_bytes(WinogradPlan& plan, int64_t tiles, int64_t lanes) {
  plan.block_tiles = tiles;
  lay_out(plan, lanes);
  return plan.patch_offset * static_cast<int64_t>(sizeof(float));
}

// Tiles of a block where U streams by with each: blocks of one size, the largest that fits.
int64_t streamed_block_tiles(WinogradPlan& plan, int64_t unit, int64_t lanes) {
  int64_t most = std::max(unit, kStreamedBlockTiles / unit * unit);
  while (block_bytes(plan, most, lanes) > kPhasesBlockBytes && most > unit) most -= unit;
  const int64_t blocks = divide_up(plan.tiles, most);
  return divide_up(divide_up(plan.tiles, blocks), unit) * unit;
}

int64_t kept_block_tiles(WinogradPlan& plan, int64_t unit, int64_t lanes) {
  const bool whole = plan.phases.inputs.size() == 1;
  const int64_t units = plan.tiles / (unit * (whole ? kFewestBlocks : kPhasesFewestBlocks));
  int64_t tiles = unit * std::clamp<int64_t>(units, 1, std::max<int64_t>(kBlockTiles / unit, 1));
  while (block_bytes(plan, tiles, lanes) > (whole ? kBlockBytes : kPhasesBlockBytes) && tiles > unit)
    tiles -= unit;
  return tiles;
}

void choose_block(WinogradPlan& plan, const KernelTable& table, int64_t lanes, int threads) {
  // Whole register tiles of the widest block of filters.
  const int64_t unit = winograd_register_tiles(table.accumulators, plan.blocks.front().vectors);
  const int64_t points = static_cast<int64_t>(plan.points) * plan.points;
  const auto element = static_cast<int64_t>(sizeof(float));
  const bool whole = plan.phases.inputs.size() == 1 && plan.phases.outputs.size() == 1;
  const bool streamed = whole && points * plan.channels * plan.filters * element > kKeptWeightBytes;
  block_bytes(plan, streamed ? streamed_block_tiles(plan, unit, lanes) : kept_block_tiles(plan, unit, lanes),
              lanes);
  plan.groups = 1;
  if (streamed && threads > 1) {
    const int64_t wanted = divide_up(kTasksOfThread * threads, divide_up(plan.tiles, plan.block_tiles));
    plan.groups = std::min<int64_t>(wanted, static_cast<int64_t>(plan.blocks.size()));
  }
  int64_t calls = 0;
  for (const ChannelBlock& block : plan.blocks)
    calls += divide_up(plan.block_tiles, winograd_register_tiles(table.accumulators, block.vectors));
  calls *= static_cast<int64_t>(plan.phases.outputs.size());
  const int64_t pixels = plan.block_tiles * plan.outputs * plan.outputs;
  const int64_t lines = pixels * divide_up(plan.v_vectors * lanes, kLineFloats);
  plan.input_lines = divide_up(lines, calls * plan.points * plan.points);
}

WinogradPlan make_plan(int outputs, const ConvParams& params, const KernelTable& table, int threads) {
  const int64_t lanes = table.vector_bytes / static_cast<int64_t>(sizeof(float));
  WinogradPlan plan{};
  plan.params = params;
  plan.outputs = outputs;
  plan.points = outputs + 2;
  plan.phases = make_phases(params);
  const auto inputs = static_cast<int64_t>(plan.phases.inputs.size());
  plan.channels = inputs * params.input.size[1] + params.coarse.size[1];
  plan.filters = params.output.size[1];
  plan.blocks = channel_blocks(plan.filters, static_cast<int>(lanes), table.accumulators);
  plan.part_vectors[0] = divide_up(params.coarse.size[1], lanes);
  plan.part_vectors[1] = divide_up(params.input.size[1], lanes);
  plan.v_vectors = plan.part_vectors[0] + inputs * plan.part_vectors[1];
  choose_runs(plan, lanes);
  plan.tiles_y = divide_up(params.output.size[2], outputs * plan.phases.output_step[0]);
  plan.tiles_x = divide_up(params.output.size[3], outputs * plan.phases.output_step[1]);
  plan.tiles =
      params.output.size[0] * plan.phases.dilation[0] * plan.phases.dilation[1] * plan.tiles_y * plan.tiles_x;
  const bool residual = params.residual.data != nullptr;
  plan.direct_input = is_direct(params.input) && params.input.size[1] >= lanes;
  plan.direct_coarse = is_direct(params.coarse) && params.coarse.size[1] >= lanes;
  plan.direct_output = !is_long(params.activation) && is_direct_output(params.output) &&
                       is_direct_output(params.residual) && is_direct_output(params.pooled);
  plan.clamped = params.activation == Activation::kNone ||
                 (params.activation == Activation::kRelu &&
                  (!residual || params.residual_position == ResidualPosition::kBeforeActivation));
  plan.lowest = params.activation == Activation::kRelu ? 0.0f : -std::numeric_limits<float>::infinity();
  const bool in_caches = params.residual.data == params.output.data;  // it has just been read
  plan.stream = params.output.data != nullptr && plan.direct_output && !in_caches &&
                is_aligned(params.output, table.vector_bytes) &&
                output_bytes(params.output) > last_level_cache_bytes() / 2;
  choose_block(plan, table, lanes, threads);
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
  const WinogradKernels& kernels = *table.winograd;
  const auto pack = outputs == 2 ? kernels.pack_2 : outputs == 4 ? kernels.pack_4 : kernels.pack_6;
  for_each_block(threads, plan.channels, [&](int64_t channel, Scratch&) { pack(plan, channel); });
}

// Everything that pack_weight() looks at.
WeightKey key_of_weight(int outputs, const ConvParams& params, const KernelTable& table) {
  const Tensor4& w = params.weight;
  WeightKey key{reinterpret_cast<intptr_t>(w.data), reinterpret_cast<intptr_t>(&table), outputs,
                static_cast<int64_t>(w.dtype)};
  std::copy(w.size, w.size + 4, key.begin() + 4);
  std::copy(w.stride, w.stride + 4, key.begin() + 8);
  if (params.transposed || params.stride[0] * params.stride[1] > 1) {  // else zeros
    const int64_t sign = params.transposed ? -1 : 1;
    std::transform(params.stride, params.stride + 2, key.begin() + 12,
                   [&](int64_t stride) { return sign * stride; });
    std::copy(params.padding, params.padding + 2, key.begin() + 14);
  }
  return key;
}

}  // namespace

const char* winograd_obstacle(const ConvParams& p) {
  if (p.output.dtype == DType::kFloat64) return "float64 is computed directly";
  if (p.groups != 1) return "groups is not 1";
  const bool dilated = p.dilation[0] != 1 || p.dilation[1] != 1;
  if (dilated && p.transposed) return "dilation of a transposed convolution is not 1";
  if (dilated && (p.stride[0] != 1 || p.stride[1] != 1)) return "neither dilation nor stride is 1";
  for (int axis = 0; axis < 2 && dilated; ++axis) {
    if (p.padding[axis] % p.dilation[axis] != 0) return "padding is no multiple of dilation";
    if (p.dilation[axis] > p.output.size[2 + axis]) return "dilation is larger than the output";
  }
  if (p.transposed) {
    for (int axis = 0; axis < 2; ++axis) {
      if (last_input(p, axis) - first_input(p, axis) > 2) return "an output depends on more than 3x3 inputs";
      if (p.stride[axis] > p.weight.size[2 + axis]) return "an axis has more phases than taps";
    }
    return nullptr;
  }
  if (p.stride[0] != p.stride[1] || p.stride[0] > 2) return "stride is neither 1 nor 2";
  if (p.stride[0] == 1)
    return p.weight.size[2] == 3 && p.weight.size[3] == 3 ? nullptr : "the kernel is not 3x3";
  for (int axis = 0; axis < 2; ++axis) {
    if (p.weight.size[2 + axis] < 4) return "with stride 2 the kernel has fewer than 4x4 taps";
    if (index_reach(p, axis) > 3) return "an output depends on more than 3x3 inputs of a phase";
  }
  return nullptr;
}

int64_t winograd_input_phases(const ConvParams& params) {
  return params.transposed ? 1 : phases_of(params, 0) * phases_of(params, 1);
}

int64_t winograd_output_phases(const ConvParams& params) {
  return params.transposed ? phases_of(params, 0) * phases_of(params, 1) : 1;
}

int64_t winograd_products(const ConvParams& params, int outputs) {
  int64_t products = 1;
  for (int axis = 0; axis < 2; ++axis) {
    int64_t sum = 0;
    for (int64_t first = 0; first < params.stride[axis]; ++first)
      sum += points_of(params, axis, first, outputs);
    products *= sum;
  }
  return products;
}

int64_t winograd_weight_elements(int outputs, const ConvParams& params) {
  const int64_t points = (outputs + 2) * (outputs + 2);
  const int64_t filters = params.weight.size[params.transposed ? 1 : 0];
  const int64_t channels = params.weight.size[params.transposed ? 0 : 1];
  const int64_t phases = winograd_input_phases(params) * winograd_output_phases(params);
  return points * phases * channels * divide_up(filters, kLineFloats) * kLineFloats;
}

void pack_weight_winograd(int outputs, const ConvParams& params, const KernelTable& table, float* to,
                          const Threads& threads) {
  pack_weight(outputs, params, table, to, threads);
}

void run_winograd(int outputs, const ConvParams& params, const Threads& threads) {
  const KernelTable& table = kernels();
  WinogradPlan plan = make_plan(outputs, params, table, threads.count);
  const std::vector<float> bias = padded_channels(params.bias, plan.filters);
  const std::vector<float> slope = padded_channels(params.prelu_weight, plan.filters);
  plan.bias = bias.data();
  plan.prelu_slope = slope.data();
  // Kept from call to call as a thread's scratch is, unless it is large.
  static thread_local Scratch kept;
  Scratch large;
  std::shared_ptr<const float> shared;
  if (params.packed_weight.data != nullptr) {
    plan.weight = reinterpret_cast<const float*>(&packed_weight_header(params) + 1);
  } else {
    const int64_t elements = winograd_weight_elements(outputs, params);
    const auto pack = [&](void* bits, float* to) {
      ConvParams at = params;
      at.weight.data = bits;
      pack_weight(outputs, at, table, to, threads);
    };
    shared = kept_weight(key_of_weight(outputs, params, table), params.weight, elements, pack);
    plan.weight = shared.get();
    if (!shared) {
      const size_t bytes = static_cast<size_t>(elements) * sizeof(float);
      auto* weight = static_cast<float*>((bytes <= kKeptBytes ? kept : large).reserve(bytes));
      pack(params.weight.data, weight);
      plan.weight = weight;
    }
  }
  const WinogradKernels& own = *table.winograd;
  const auto block = outputs == 2 ? own.block_2 : outputs == 4 ? own.block_4 : own.block_6;
  for_each_block_ahead(threads, plan.tasks(), [&](int64_t index, int64_t next, Scratch& scratch) {
    block(plan, index, next, scratch.reserve(plan.scratch_bytes));
  });
}

}  // namespace denoise_ext::cpu
