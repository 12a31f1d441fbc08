// torch.ops.denoise_ext.conv2d_pack: a weight in the order in which kernels read it, for conv2d_out.
#include "../params/conv_packed.h"

#include "conv.h"
#include "conv2d_out.h"
#include "device.h"
#include "register.h"

namespace denoise_ext::ops {

#if defined(DENOISE_EXT_WITH_CUDA)
namespace {

// Numbers rounded to tf32 are not for kernels that want all bits: their tensor has another type.
ScalarType packed_type(const cuda::PackedLayout& layout) {
  if (layout.tf32) return ScalarType::Int;
  switch (layout.dtype) {
    case DType::kFloat16: return ScalarType::Half;
    case DType::kBFloat16: return ScalarType::BFloat16;
    default: return ScalarType::Float;
  }
}

bool has_layout(const Tensor& packed, cuda::PackedLayout* layout) {
  if (packed.dim() > 6 || !packed.is_contiguous()) return false;
  layout->dims = static_cast<int>(packed.dim());
  for (int d = 0; d < layout->dims; ++d) layout->size[d] = packed.size(d);
  for (const DType dtype : {DType::kFloat32, DType::kFloat16, DType::kBFloat16})
    for (const bool tf32 : {false, true}) {
      layout->dtype = dtype;
      layout->tf32 = tf32;
      if ((!tf32 || dtype == DType::kFloat32) && packed_type(*layout) == packed.scalar_type()) return true;
    }
  return false;
}

}  // namespace

Tensor pack_on_cuda(const Tensor& weight, const std::string& kernel, int64_t groups, Precision precision,
                    const char* op) {
  // An image of one output pixel: the weight is packed alike for all.
  cuda::ConvParams params{};
  params.weight = view4(weight, op, "weight");
  const int64_t* const size = params.weight.size;
  const DType dtype = params.weight.dtype;
  params.input = {nullptr, {1, size[1] * groups, size[2], size[3]}, {}, dtype};
  params.output = {nullptr, {1, size[0], 1, 1}, {}, dtype};
  for (int axis = 0; axis < 2; ++axis) params.stride[axis] = params.dilation[axis] = 1;
  params.groups = groups;
  params.precision = Cuda::precision(precision, weight);
  cuda::PackedLayout layout{};
  const char* const reason = packed_layout(params, kernel.c_str(), Cuda::limits(weight, op), &layout);
  STD_TORCH_CHECK(reason == nullptr, op, ": algorithm '", kernel, "' cannot take weight of sizes ",
                  sizes_text(weight), " on CUDA: ", reason);
  const Tensor packed =
      torch::stable::new_empty(weight, {layout.size, static_cast<size_t>(layout.dims)}, packed_type(layout));
  CudaCall(weight, op).launch(cuda::ConvPacking{params, kernel.c_str(), memory_of(packed, Access::kWrite)});
  return packed;
}

PackedView packed_view(const cuda::ConvParams& params, const std::optional<Tensor>& packed,
                       const Tensor& input, const char* op) {
  if (!packed.has_value()) return {};
  STD_TORCH_CHECK(same_device(*packed, input), op, ": packed_weight is on ", device_text(*packed),
                  ", but input on ", device_text(input));
  cuda::PackedLayout layout{};
  const char* kernel = nullptr;
  if (has_layout(*packed, &layout)) kernel = kernel_of_packed(params, layout, Cuda::limits(input, op));
  STD_TORCH_CHECK(kernel != nullptr, op,
                  ": packed_weight must be what conv2d_pack makes of weight for a kernel of this call, got "
                  "sizes ",
                  sizes_text(*packed));
  void* const data = memory_of(*packed, Access::kRead);
  STD_TORCH_CHECK(reinterpret_cast<uintptr_t>(data) % 16 == 0, op,
                  ": packed_weight must be 16-byte aligned, as conv2d_pack returns it");
  const auto bytes = packed->numel() * static_cast<int64_t>(packed->element_size());
  return {kernel, {data, bytes, 1, DType::kUInt8}};
}
#endif

namespace {

template <class Device>
Tensor conv2d_pack(const Tensor& weight, const StringArgument& algorithm, int64_t groups,
                   const StringArgument& precision, const std::vector<int64_t>& stride,
                   const std::vector<int64_t>& padding, bool transposed) {
  constexpr const char* kOp = "conv2d_pack";
  const Precision wanted = parse_precision(precision, kOp);
  check_weight(weight, kOp);
  check_pair(stride, 1, kLargestExtent, kOp, "stride");
  check_pair(padding, 0, kLargestExtent, kOp, "padding");
  STD_TORCH_CHECK(groups >= 1 && weight.size(0) % groups == 0, kOp,
                  ": groups must divide weight's first size ", weight.size(0), ", got ", groups);
  if constexpr (Device::kCuda) {
    STD_TORCH_CHECK(!transposed, kOp,
                    ": transposed must be False on CUDA, whose kernels pack no such weight");
    return pack_on_cuda(weight, algorithm, groups, wanted, kOp);
  } else {
    return pack_on_cpu(weight, algorithm, groups,
                       {{stride[0], stride[1]}, {padding[0], padding[1]}, transposed}, kOp);
  }
}

}  // namespace
}  // namespace denoise_ext::ops

DENOISE_EXT_SCHEMAS(m) {
  m.def(
      "conv2d_pack(Tensor weight, str algorithm, int groups=1, str precision='default', int[2] stride=1, "
      "int[2] padding=0, bool transposed=False) -> Tensor");
}

DENOISE_EXT_REGISTER(conv2d_pack)
