// Runs the plans of conv_plan.h: weights in the order of the kernels, then task by task.
#include <algorithm>
#include <vector>

#include "conv_kernels.h"
#include "conv_pack.h"
#include "conv_plan.h"
#include "isa.h"
#include "storage.h"

namespace denoise_ext::cpu {
namespace {

// The weight of output channel k and input channel c, both within their group g, at (tap.u, tap.v).
template <class Storage, class T>
T weight_at(const ConvParams& p, const Tensor4& w, int64_t g, int64_t k, int64_t c, const ConvTap& tap) {
  const int64_t rows_per_group = w.size[0] / p.groups;
  const int64_t row = g * rows_per_group + (p.transposed ? c : k);
  const int64_t col = p.transposed ? k : c;
  return load_as<T>(static_cast<const Storage*>(
      w.data)[row * w.stride[0] + col * w.stride[1] + tap.u * w.stride[2] + tap.v * w.stride[3]]);
}

// Elements of the packed weight.
int64_t weight_elements(const ConvPlan& plan) {
  if (plan.few_outputs)
    return static_cast<int64_t>(plan.taps.size()) * plan.packed_channels * plan.group_outputs;
  const int64_t slices = plan.depthwise ? 1 : plan.params.groups * plan.group_inputs;
  return static_cast<int64_t>(plan.taps.size()) * slices * plan.padded_outputs;
}

// Fills `packed`, which holds weight_elements() zeros, with `w`: the plan's weight or its gate's.
template <class T>
void pack_weight(const ConvPlan& plan, const Tensor4& w, T* packed) {
  const ConvParams& p = plan.params;
  with_storage(w.dtype, [&](auto storage) {
    using Storage = decltype(storage);
    if (plan.depthwise) {
      const int64_t per_group = plan.group_outputs / p.groups;
      const auto* weight = static_cast<const Storage*>(w.data);
      for (int64_t k = 0; k < plan.group_outputs; ++k) {
        const int64_t row = p.transposed ? k / per_group : k, col = p.transposed ? k % per_group : 0;
        const Storage* from = weight + row * w.stride[0] + col * w.stride[1];
        T* to = packed + k;
        for (const ConvTap& tap : plan.taps) {
          *to = load_as<T>(from[tap.u * w.stride[2] + tap.v * w.stride[3]]);
          to += plan.padded_outputs;
        }
      }
      return;
    }
    T* to = packed;
    if (plan.few_outputs) {
      for (const ConvTap& tap : plan.taps)
        for (int64_t slice = 0; slice < plan.packed_channels; slice += plan.lanes)
          for (int64_t k = 0; k < plan.group_outputs; ++k)
            for (int64_t c = slice; c < slice + plan.lanes; ++c, ++to)
              if (c < plan.group_inputs) *to = weight_at<Storage, T>(p, w, 0, k, c, tap);
      return;
    }
    for (int64_t g = 0; g < p.groups; ++g)
      for (const ConvPhase& phase : plan.phases)
        for (const ChannelBlock& block : plan.blocks)
          for (int64_t t = phase.tap_begin; t < phase.tap_begin + phase.tap_count; ++t)
            for (int64_t c = 0; c < plan.group_inputs; ++c)
              for (int64_t k = block.first; k < block.first + block.vectors * plan.lanes; ++k, ++to)
                if (k < plan.group_outputs)
                  *to = weight_at<Storage, T>(p, w, g, k, c, plan.taps[static_cast<size_t>(t)]);
  });
}

// A per-channel vector as [group][padded_outputs]; one element serves all channels; absent is zero.
template <class T>
std::vector<T> pack_channels(const ConvPlan& plan, const Tensor1& values) {
  const int64_t groups = plan.depthwise ? 1 : plan.params.groups;
  std::vector<T> packed(static_cast<size_t>(groups * plan.padded_outputs), T(0));
  if (values.data == nullptr) return packed;
  with_storage(values.dtype, [&](auto storage) {
    using Storage = decltype(storage);
    const auto* from = static_cast<const Storage*>(values.data);
    for (int64_t g = 0; g < groups; ++g)
      for (int64_t k = 0; k < plan.group_outputs; ++k) {
        const int64_t channel = values.size == 1 ? 0 : g * plan.group_outputs + k;
        packed[static_cast<size_t>(g * plan.padded_outputs + k)] = load_as<T>(from[channel * values.stride]);
      }
  });
  return packed;
}

template <class T>
void run_plan(ConvPlan& plan, void (*task)(const ConvPlan&, int64_t, void*), const Threads& threads) {
  const ConvParams& params = plan.params;
  const ConvGate& gate = params.gate;
  std::vector<T> weight, gate_weight;
  const auto packed = [&](const Tensor4& given, const Tensor1& before, std::vector<T>& now) -> const void* {
    if (before.data != nullptr) return static_cast<const PackedWeightHeader*>(before.data) + 1;
    now.resize(static_cast<size_t>(weight_elements(plan)), T(0));
    pack_weight<T>(plan, given, now.data());
    return now.data();
  };
  plan.weight = packed(params.weight, params.packed_weight, weight);
  const std::vector<T> bias = pack_channels<T>(plan, params.bias);
  const std::vector<T> prelu_slope = pack_channels<T>(plan, params.prelu_weight);
  std::vector<T> gate_bias;
  if (plan.sides == 2) {
    plan.gate_weight = packed(gate.weight, gate.packed_weight, gate_weight);
    gate_bias = pack_channels<T>(plan, gate.bias);
    plan.gate_bias = gate_bias.data();
  }
  plan.bias = bias.data();
  if (plan.sides == 1) {  // never read
    plan.gate_weight = plan.weight;
    plan.gate_bias = plan.bias;
  }
  plan.prelu_slope = prelu_slope.data();
  for_each_block(threads, plan.tasks(), [&](int64_t index, Scratch& scratch) {
    task(plan, index, scratch.reserve(plan.scratch_bytes));
  });
}

}  // namespace

void pack_weight_direct(const ConvParams& given, const KernelTable& table, void* to) {
  // The order of the weights depends on no image: any will do that has an output of each phase. Of an
  // ordinary convolution it does not depend on the geometry either.
  ConvParams params = given;
  const Tensor4& weight = given.weight;
  const bool transposed = given.transposed;
  params.input.size[0] = params.output.size[0] = 1;
  params.input.size[1] = weight.size[transposed ? 0 : 1];
  params.output.size[1] = weight.size[transposed ? 1 : 0];
  params.output.dtype = weight.dtype;
  params.packed_weight.data = to;  // every tap has its place
  for (int axis = 0; axis < 2; ++axis) {
    params.input.size[2 + axis] = weight.size[2 + axis];
    params.output.size[2 + axis] = transposed ? params.stride[axis] : 1;
    if (!transposed) params.stride[axis] = 1;
    if (!transposed) params.padding[axis] = 0;
  }
  const ConvPlan plan = make_conv_plan(params, table);
  const auto fill = [&](auto zero) {
    using T = decltype(zero);
    std::fill_n(static_cast<T*>(to), weight_elements(plan), zero);
    pack_weight<T>(plan, params.weight, static_cast<T*>(to));
  };
  plan.is_double() ? fill(0.0) : fill(0.0f);
}

void run_conv_direct(const ConvParams& params, const Threads& threads) {
  const KernelTable& table = kernels();
  ConvPlan plan = make_conv_plan(params, table);
  if (plan.is_double()) {
    run_plan<double>(plan, table.conv->task_f64, threads);
  } else {
    run_plan<float>(plan, table.conv->task_f32, threads);
  }
}

}  // namespace denoise_ext::cpu
