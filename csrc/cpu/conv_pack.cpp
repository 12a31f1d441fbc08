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

PackedWeightHeader make_header(const Tensor4& weight, ConvAlgorithm algorithm, const KernelTable& table) {
  PackedWeightHeader header{};
  std::memcpy(header.tag, kTag, sizeof kTag);
  header.algorithm = algorithm;
  header.accumulation = accumulation_type(weight.dtype);
  header.vector_bytes = table.vector_bytes;
  header.accumulators = table.accumulators;
  std::copy(weight.size, weight.size + 4, header.size);
  return header;
}

}  // namespace

int64_t packed_weight_elements(const int64_t size[4], DType dtype, ConvAlgorithm algorithm) {
  const int64_t header = static_cast<int64_t>(sizeof(PackedWeightHeader)) / accumulation_bytes(dtype);
  if (algorithm != ConvAlgorithm::kDirect)
    return header + winograd_weight_elements(winograd_outputs(algorithm), size[0], size[1]);
  const int64_t filters = divide_up(size[0], kChannelMultiple) * kChannelMultiple;
  return header + size[2] * size[3] * size[1] * filters;
}

void pack_conv_weight(const Tensor4& weight, ConvAlgorithm algorithm, void* to, const Threads& threads) {
  const KernelTable& table = kernels();
  const PackedWeightHeader header = make_header(weight, algorithm, table);
  // The buffer serves every instruction set, so that this one may leave some of it unused.
  const int64_t elements = packed_weight_elements(weight.size, weight.dtype, algorithm);
  std::memset(to, 0, static_cast<size_t>(elements * accumulation_bytes(header.accumulation)));
  std::memcpy(to, &header, sizeof header);
  void* packed = static_cast<PackedWeightHeader*>(to) + 1;
  if (algorithm == ConvAlgorithm::kDirect) return pack_weight_direct(weight, table, packed);
  const int outputs = winograd_outputs(algorithm);
  pack_weight_winograd(outputs, weight, table, static_cast<float*>(packed), threads);
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
  if (packed.size != packed_weight_elements(header.size, accumulation, header.algorithm))
    return "it is not a result of conv2d_pack";
  if (params.groups != 1) return "weights are packed for groups = 1 only";
  if (params.algorithm != ConvAlgorithm::kAuto && params.algorithm != header.algorithm)
    return "it was packed for another algorithm";
  if (header.vector_bytes != table.vector_bytes || header.accumulators != table.accumulators)
    return "it was packed for another instruction set";
  return nullptr;
}

}  // namespace denoise_ext::cpu
