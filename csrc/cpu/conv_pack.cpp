#include "conv_pack.h"

#include <algorithm>
#include <cstring>

#include "conv_plan.h"
#include "isa.h"
#include "winograd.h"

namespace denoise_ext::cpu {
namespace {

constexpr char kTag[8] = "dx-pack";
// A whole number of vectors of either accumulation type on every instruction set.
constexpr int64_t kChannelMultiple = 16;

// A convolution of this weight, with nothing else.
ConvParams params_of(const Tensor4& weight, const PackGeometry& geometry) {
  ConvParams params{};
  params.weight = weight;
  params.transposed = geometry.transposed;
  params.groups = 1;
  for (int axis = 0; axis < 2; ++axis) {
    params.stride[axis] = geometry.stride[axis];
    params.padding[axis] = geometry.padding[axis];
    params.dilation[axis] = 1;
  }
  return params;
}

PackedWeightHeader make_header(const Tensor4& weight, const PackGeometry& geometry, ConvAlgorithm algorithm,
                               const KernelTable& table) {
  PackedWeightHeader header{};
  std::memcpy(header.tag, kTag, sizeof kTag);
  header.algorithm = algorithm;
  header.accumulation = accumulation_type(weight.dtype);
  header.vector_bytes = table.vector_bytes;
  header.accumulators = table.accumulators;
  std::copy(weight.size, weight.size + 4, header.size);
  header.transposed = geometry.transposed ? 1 : 0;
  const bool counts = geometry.transposed || algorithm != ConvAlgorithm::kDirect;
  for (int axis = 0; axis < 2; ++axis) {
    const int64_t stride = counts ? geometry.stride[axis] : 1;
    header.stride[axis] = static_cast<uint8_t>(stride);
    header.remainder[axis] = static_cast<uint8_t>(geometry.padding[axis] % stride);
  }
  return header;
}

}  // namespace

int64_t packed_weight_elements(const Tensor4& weight, const PackGeometry& geometry, ConvAlgorithm algorithm) {
  const int64_t header = static_cast<int64_t>(sizeof(PackedWeightHeader)) / accumulation_bytes(weight.dtype);
  if (algorithm != ConvAlgorithm::kDirect)
    return header + winograd_weight_elements(winograd_outputs(algorithm), params_of(weight, geometry));
  const int64_t outputs = weight.size[geometry.transposed ? 1 : 0];
  const int64_t filters = divide_up(outputs, kChannelMultiple) * kChannelMultiple;
  return header + weight.size[2] * weight.size[3] * weight.size[geometry.transposed ? 0 : 1] * filters;
}

const char* pack_obstacle(const Tensor4& weight, const PackGeometry& geometry, ConvAlgorithm algorithm) {
  if (std::max(geometry.stride[0], geometry.stride[1]) > kLargestPackedStride) return "stride is above 255";
  if (algorithm == ConvAlgorithm::kDirect) return nullptr;
  ConvParams params = params_of(weight, geometry);
  params.output.dtype = weight.dtype;
  return winograd_obstacle(params);
}

void pack_conv_weight(const Tensor4& weight, const PackGeometry& geometry, ConvAlgorithm algorithm, void* to,
                      const Threads& threads) {
  const KernelTable& table = kernels();
  const PackedWeightHeader header = make_header(weight, geometry, algorithm, table);
  // The buffer serves every instruction set, so that this one may leave some of it unused.
  const int64_t elements = packed_weight_elements(weight, geometry, algorithm);
  std::memset(to, 0, static_cast<size_t>(elements * accumulation_bytes(header.accumulation)));
  std::memcpy(to, &header, sizeof header);
  void* packed = static_cast<PackedWeightHeader*>(to) + 1;
  const ConvParams params = params_of(weight, geometry);
  if (algorithm == ConvAlgorithm::kDirect) return pack_weight_direct(params, table, packed);
  pack_weight_winograd(winograd_outputs(algorithm), params, table, static_cast<float*>(packed), threads);
}

const PackedWeightHeader& packed_weight_header(const ConvParams& params) {
  return *static_cast<const PackedWeightHeader*>(params.packed_weight.data);
}

const char* packed_weight_mismatch(const ConvParams& params, const KernelTable& table) {
  const Tensor1& packed = params.packed_weight;
  const DType accumulation = accumulation_type(params.weight.dtype);
  if (packed.dtype != accumulation) return "its dtype is not the weight's accumulation type";
  if (packed.stride != 1) return "it is not contiguous";
  if (packed.size * accumulation_bytes(accumulation) < static_cast<int64_t>(sizeof(PackedWeightHeader)))
    return "it is not a result of conv2d_pack";
  const PackedWeightHeader& header = packed_weight_header(params);
  if (std::memcmp(header.tag, kTag, sizeof kTag) != 0) return "it is not a result of conv2d_pack";
  if (!std::equal(header.size, header.size + 4, params.weight.size)) return "weight has other sizes";
  if (params.groups != 1) return "weights are packed for groups = 1 only";
  if ((header.transposed != 0) != params.transposed) return "it was packed for the other kind of convolution";
  PackGeometry geometry{};
  geometry.transposed = params.transposed;
  for (int axis = 0; axis < 2; ++axis) {
    geometry.stride[axis] = params.stride[axis];
    geometry.padding[axis] = params.padding[axis];
  }
  const char* const obstacle = pack_obstacle(params.weight, geometry, header.algorithm);
  if (obstacle != nullptr) return obstacle;
  const PackedWeightHeader wanted = make_header(params.weight, geometry, header.algorithm, table);
  if (std::memcmp(header.stride, wanted.stride, 2) != 0 ||
      std::memcmp(header.remainder, wanted.remainder, 2) != 0)
    return "it was packed for another stride or padding";
  if (packed.size != packed_weight_elements(params.weight, geometry, header.algorithm))
    return "it is not a result of conv2d_pack";
  if (params.algorithm != ConvAlgorithm::kAuto && params.algorithm != header.algorithm)
    return "it was packed for another algorithm";
  if (header.vector_bytes != table.vector_bytes || header.accumulators != table.accumulators)
    return "it was packed for another instruction set";
  if (!params.transposed || header.algorithm != ConvAlgorithm::kDirect) return nullptr;
  if (params.dilation[0] != 1 || params.dilation[1] != 1)
    return "transposed weights are packed for dilation 1";
  for (int axis = 0; axis < 2; ++axis)
    if (params.output.size[2 + axis] < params.stride[axis]) return "the output is smaller than the stride";
  return nullptr;
}

}  // namespace denoise_ext::cpu
