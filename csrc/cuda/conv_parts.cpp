#include "conv_parts.h"

#include <algorithm>

#include "conv_conditions.h"
#include "conv_rowring_plan.h"
#include "conv_variants.h"

namespace denoise_ext::cuda {
namespace {

constexpr int64_t kMostParts = 64;
constexpr int64_t kFewChannels = 8;  // of a group: matrix products of fewer are mostly zeros

// Of one axis: residues of the output's rows (columns), each a part.
int64_t residues(const ConvParams& p, int axis) {
  return std::min(p.transposed ? std::max(p.stride[axis], p.dilation[axis]) : p.dilation[axis],
                  p.output.size[2 + axis]);
}

int64_t part_count(const ConvParams& p) {
  return p.groups * residues(p, 0) * residues(p, 1);
}

// Rows `first`, first + step, ... of one axis; of none of them nothing is read.
void take_every(Tensor4& t, int dimension, int64_t first, int64_t step) {
  if (t.data == nullptr) return;
  const int64_t size = t.size[dimension];
  if (first < size)
    t.data = static_cast<char*>(t.data) + first * t.stride[dimension] * element_bytes(t.dtype);
  t.size[dimension] = first < size ? divide_up(size - first, step) : 0;
  t.stride[dimension] *= step;
}

void take_channels(Tensor4& t, int dimension, int64_t first, int64_t count) {
  if (t.data == nullptr) return;
  t.data = static_cast<char*>(t.data) + first * t.stride[dimension] * element_bytes(t.dtype);
  t.size[dimension] = count;
}

void take_channels(Tensor1& t, int64_t first, int64_t count) {
  if (t.data == nullptr || t.size == 1) return;  // one slope for all channels
  t.data = static_cast<const char*>(t.data) + first * t.stride * element_bytes(t.dtype);
  t.size = count;
}

// Restricts `part` to the outputs residue, residue + step, ... of one axis.
//   conv2d:            output y reads input y - padding + u dilation
//   conv_transpose2d:  output y reads input i where y + padding = i stride + u dilation
// In steps of the dilation (or stride) both are convolutions of stride 1 again, with another padding.
void take_residue(ConvParams& part, int axis, int64_t residue) {
  const int64_t stride = part.stride[axis], dilation = part.dilation[axis];
  const int64_t step = std::max(stride, dilation);
  if (step == 1) return;
  take_every(part.output, 2 + axis, residue, step);
  take_every(part.residual, 2 + axis, residue, step);
  const int64_t reached = part.transposed ? residue + part.padding[axis] : residue - part.padding[axis];
  const int64_t within = (reached % step + step) % step, shift = (reached - within) / step;
  if (stride > 1) {
    take_every(part.weight, 2 + axis, within, step);
  } else {
    take_every(part.input, 2 + axis, within, step);
  }
  part.padding[axis] = part.transposed ? shift : -shift;
  part.stride[axis] = part.dilation[axis] = 1;
}

// Part number i: groups outermost, so that parts of one group have the same sizes as those of another.
ConvParams part_of(const ConvParams& p, int64_t i) {
  const int64_t columns = residues(p, 1), rows = residues(p, 0);
  ConvParams part = p;
  const int64_t group = i / (columns * rows);
  const int64_t inputs = p.input.size[1] / p.groups, outputs = p.output.size[1] / p.groups;
  take_channels(part.input, 1, group * inputs, inputs);
  take_channels(part.output, 1, group * outputs, outputs);
  take_channels(part.residual, 1, group * outputs, outputs);
  take_channels(part.weight, 0, group * (p.transposed ? inputs : outputs), p.transposed ? inputs : outputs);
  take_channels(part.bias, group * outputs, outputs);
  take_channels(part.prelu_weight, group * outputs, outputs);
  part.groups = 1;
  take_residue(part, 0, i / columns % rows);
  take_residue(part, 1, i % columns);
  return part;
}

}  // namespace

const char* conv_parts_cannot_run(const ConvParams& p, const DeviceLimits& limits) {
  for (int axis = 0; axis < 2; ++axis) {
    if (!p.transposed && p.stride[axis] != 1) return "takes strides of conv_transpose2d only";
    if (p.stride[axis] != 1 && p.dilation[axis] != 1) return "takes a stride or a dilation, not both";
  }
  if (part_count(p) == 1) return "has nothing to divide: groups, dilation and stride are 1";
  if (part_count(p) > kMostParts) return "would need more than 64 launches";
  if (p.input.size[1] / p.groups < kFewChannels && p.output.size[1] / p.groups < kFewChannels)
    return "needs 8 input or output channels per group";
  for (int64_t i = 0; i < part_count(p) / p.groups; ++i)
    if (row_ring_cannot_run(part_of(p, i), limits) != nullptr)
      return "has a part that conv_rowring does not take: its dtype and precision, or a kernel of other "
             "sizes than 1x1, 3x3 and 5x5";
  return nullptr;
}

double conv_parts_cost(const ConvParams& p, const DeviceLimits& limits) {
  double cost = 0;
  for (int64_t i = 0; i < part_count(p) / p.groups; ++i) cost += row_ring_cost(part_of(p, i), limits);
  return cost * static_cast<double>(p.groups);
}

// The parts run one after the other and use the same memory.
int64_t conv_parts_workspace(const ConvParams& p, const DeviceLimits& limits) {
  int64_t bytes = 0;
  for (int64_t i = 0; i < part_count(p) / p.groups; ++i)
    bytes = std::max(bytes, row_ring_workspace_bytes(part_of(p, i), limits));
  return bytes;
}

int conv_parts_launch(const ConvParams& p, const LaunchContext& context) {
  for (int64_t i = 0; i < part_count(p); ++i) {
    const int code = conv_rowring_launch(part_of(p, i), context);
    if (code != 0) return code;
  }
  return 0;
}

}  // namespace denoise_ext::cuda
