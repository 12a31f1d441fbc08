// A weight in the order in which the CPU's kernels read it.
#include "../../cpu/conv_pack.h"

#include "../../cpu/conv.h"
#include "../../cpu/isa.h"
#include "../conv.h"
#include "../conv2d_out.h"
#include "../device.h"

namespace denoise_ext::ops {

void check_cpu(const cpu::ConvParams& params, const char* op) {
  if (params.packed_weight.data != nullptr) {
    const char* mismatch = cpu::packed_weight_mismatch(params, cpu::kernels());
    STD_TORCH_CHECK(mismatch == nullptr, op, ": packed_weight cannot be used here: ", mismatch);
  }
  const char* obstacle = cpu::conv_algorithm_obstacle(params);
  STD_TORCH_CHECK(obstacle == nullptr, op, ": algorithm winograd cannot be used here: ", obstacle);
}

namespace {

Tensor packed_like(const Tensor& weight, int64_t elements) {
  const ScalarType type = weight.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  const std::array<int64_t, 1> sizes{elements};
  return torch::stable::new_empty(weight, {sizes.data(), 1}, type);
}

}  // namespace

Tensor pack_on_cpu(const Tensor& weight, const std::string& algorithm_name, int64_t groups,
                   const cpu::PackGeometry& geometry, const char* op) {
  const auto algorithm = parse_algorithm(algorithm_name, op);
  STD_TORCH_CHECK(algorithm != cpu::ConvAlgorithm::kAuto, op,
                  ": algorithm must be named: what 'auto' takes depends on the image");
  STD_TORCH_CHECK(groups == 1, op, ": groups must be 1 on the CPU, got ", groups);
  const Tensor4 view = view4(weight, op, "weight");
  const char* const obstacle = cpu::pack_obstacle(view, geometry, algorithm);
  STD_TORCH_CHECK(obstacle == nullptr, op, ": weight of sizes ", sizes_text(weight),
                  " cannot be packed for algorithm '", algorithm_name, "': ", obstacle);
  const Tensor packed = packed_like(weight, cpu::packed_weight_elements(view, geometry, algorithm));
  cpu::pack_conv_weight(view, geometry, algorithm, packed.data_ptr(), torch_threads());
  return packed;
}

}  // namespace denoise_ext::ops
