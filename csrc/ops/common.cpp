#include "common.h"

#include <sstream>
#include <utility>

#include "explain.h"

namespace denoise_ext::ops {

cpu::Threads torch_threads() {
  const auto run = [](int count, void (*body)(void*, int), void* context) {
    torch::stable::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
      for (int64_t worker = begin; worker < end; ++worker) body(context, static_cast<int>(worker));
    });
  };
  return {static_cast<int>(torch::stable::get_num_threads()), run};
}

DType to_dtype(ScalarType type, const char* op, const char* argument) {
  switch (type) {
    case ScalarType::Float: return DType::kFloat32;
    case ScalarType::Double: return DType::kFloat64;
    case ScalarType::BFloat16: return DType::kBFloat16;
    case ScalarType::Half: return DType::kFloat16;
    case ScalarType::Byte: return DType::kUInt8;
    default: break;
  }
  STD_TORCH_CHECK(false, op, ": ", argument, " has dtype number ", static_cast<int>(type),
                  "; allowed are float32, float64, bfloat16, float16 (and uint8 for the filters)");
}

namespace {

// In an explanation a tensor has no memory, but it is given: a null pointer would mean that it is not. 256
// is as aligned as what torch allocates.
void* data_of(const Tensor& tensor, Access access) {
  void* data = memory_of(tensor, access);
  if (data != nullptr || Explanation::current() == nullptr) return data;
  return reinterpret_cast<void*>(uintptr_t{256});
}

}  // namespace

Tensor4 view4(const Tensor& tensor, const char* op, const char* argument, Access access) {
  check_dim(tensor, 4, op, argument);
  Tensor4 view{};
  view.data = data_of(tensor, access);
  view.dtype = to_dtype(tensor.scalar_type(), op, argument);
  for (int i = 0; i < 4; ++i) {
    view.size[i] = tensor.size(i);
    view.stride[i] = tensor.stride(i);
  }
  return view;
}

Tensor4 view4(const std::optional<Tensor>& tensor, const char* op, const char* argument) {
  return tensor.has_value() ? view4(*tensor, op, argument) : Tensor4{};
}

Tensor1 view1(const Tensor& tensor, const char* op, const char* argument, Access access) {
  check_dim(tensor, 1, op, argument);
  return {data_of(tensor, access), tensor.size(0), tensor.stride(0),
          to_dtype(tensor.scalar_type(), op, argument)};
}

Tensor1 view1(const std::optional<Tensor>& tensor, const char* op, const char* argument) {
  return tensor.has_value() ? view1(*tensor, op, argument) : Tensor1{};
}

bool is_channels_last(const Tensor& tensor) {
  if (tensor.dim() != 4 || tensor.stride(1) == 0) return false;
  int64_t least = 0;
  for (const int d : {1, 3, 2, 0}) {
    if (tensor.size(d) == 0 || tensor.stride(d) < least) return false;
    // N111 tensors satisfy both layouts; torch calls them contiguous.
    if (d == 0 && least == tensor.stride(1)) return false;
    least = tensor.stride(d) * (tensor.size(d) > 1 ? tensor.size(d) : 1);
  }
  return true;
}

Tensor empty4(const Tensor& like, const std::array<int64_t, 4>& sizes, bool channels_last) {
  return torch::stable::empty({sizes.data(), 4}, like.scalar_type(), std::nullopt, like.device(),
                              std::nullopt,
                              channels_last ? torch::headeronly::MemoryFormat::ChannelsLast
                                            : torch::headeronly::MemoryFormat::Contiguous);
}

Tensor empty_gradient(const Tensor& like) {
  const std::array<int64_t, 1> none{0};
  return torch::stable::new_empty(like, {none.data(), 1});
}

void check_dim(const Tensor& tensor, int64_t dim, const char* op, const char* argument) {
  STD_TORCH_CHECK(tensor.dim() == dim, op, ": ", argument, " must have ", dim, " dimensions, got ",
                  tensor.dim(), " with sizes ", sizes_text(tensor));
}

bool same_device(const Tensor& tensor, const Tensor& input) {
  if (tensor.is_cpu() || input.is_cpu()) return tensor.is_cpu() == input.is_cpu();  // it may have an index
  return tensor.get_device_index() == input.get_device_index();
}

std::string device_text(const Tensor& tensor) {
  return tensor.is_cpu() ? "cpu" : "cuda:" + std::to_string(tensor.get_device_index());
}

void check_same_dtype(const Tensor& tensor, const Tensor& input, const char* op, const char* argument,
                      const char* input_name) {
  STD_TORCH_CHECK(tensor.scalar_type() == input.scalar_type(), op, ": ", argument, " and ", input_name,
                  " must have the same dtype");
  STD_TORCH_CHECK(same_device(tensor, input), op, ": ", argument, " is on ", device_text(tensor), ", but ",
                  input_name, " on ", device_text(input), "; they must be on the same device");
}

void check_sizes(const Tensor& tensor, const std::vector<int64_t>& sizes, const char* op,
                 const char* argument) {
  bool equal = tensor.dim() == static_cast<int64_t>(sizes.size());
  for (size_t i = 0; equal && i < sizes.size(); ++i) equal = tensor.size(static_cast<int64_t>(i)) == sizes[i];
  std::ostringstream expected;
  for (size_t i = 0; i < sizes.size(); ++i) expected << (i ? ", " : "") << sizes[i];
  STD_TORCH_CHECK(equal, op, ": ", argument, " must have sizes (", expected.str(), "), got ",
                  sizes_text(tensor));
}

void check_pair(const std::vector<int64_t>& pair, int64_t lowest, int64_t largest, const char* op,
                const char* argument) {
  STD_TORCH_CHECK(pair.size() == 2, op, ": ", argument, " must hold 2 numbers, got ", pair.size());
  for (const int64_t value : pair) {
    STD_TORCH_CHECK(value >= lowest, op, ": ", argument, " must be at least ", lowest, ", got ", value);
    check_at_most(value, largest, op, argument);
  }
}

void check_at_most(int64_t value, int64_t most, const char* op, const char* what) {
  STD_TORCH_CHECK(value <= most, op, ": ", what, " must be at most ", most, ", got ", value);
}

void check_extents(const Tensor& tensor, const char* op, const char* argument) {
  STD_TORCH_CHECK(tensor.size(2) <= kLargestExtent && tensor.size(3) <= kLargestExtent, op, ": ", argument,
                  " must have at most ", kLargestExtent, " rows and columns, got ", sizes_text(tensor));
}

Activation parse_activation(const std::string& name, const char* op) {
  constexpr std::pair<const char*, Activation> kNames[] = {{"none", Activation::kNone},
                                                           {"relu", Activation::kRelu},
                                                           {"leaky_relu", Activation::kLeakyRelu},
                                                           {"prelu", Activation::kPrelu},
                                                           {"sigmoid", Activation::kSigmoid},
                                                           {"tanh", Activation::kTanh},
                                                           {"gelu", Activation::kGelu},
                                                           {"gelu_tanh", Activation::kGeluTanh},
                                                           {"silu", Activation::kSilu},
                                                           {"hardswish", Activation::kHardswish},
                                                           {"hardsigmoid", Activation::kHardsigmoid},
                                                           {"relu6", Activation::kRelu6}};
  std::string allowed;
  for (const auto& [known, activation] : kNames) {
    if (name == known) return activation;
    allowed += (allowed.empty() ? "" : ", ") + std::string(known);
  }
  STD_TORCH_CHECK(false, op, ": activation must be one of ", allowed, ", got '", name, "'");
  return Activation::kNone;  // not reached; some compilers cannot see it
}

ResidualPosition parse_residual_position(const std::string& name, const char* op) {
  if (name == "before") return ResidualPosition::kBeforeActivation;
  if (name == "after") return ResidualPosition::kAfterActivation;
  STD_TORCH_CHECK(false, op, ": residual_position must be 'before' or 'after', got '", name, "'");
}

Precision parse_precision(const std::string& name, const char* op) {
  if (name == "strict") return Precision::kStrict;
  if (name == "default") return Precision::kDefault;
  if (name == "fast") return Precision::kFast;
  STD_TORCH_CHECK(false, op, ": precision must be 'strict', 'default' or 'fast', got '", name, "'");
}

Border parse_border(const std::string& name, const char* op, const char* argument) {
  if (name == "reflect") return Border::kReflect;
  if (name == "replicate") return Border::kReplicate;
  if (name == "constant") return Border::kConstant;
  if (name == "circular") return Border::kCircular;
  STD_TORCH_CHECK(false, op, ": ", argument, " must be one of reflect, replicate, constant, circular, got '",
                  name, "'");
}

std::string sizes_text(const Tensor& tensor) {
  std::ostringstream text;
  text << "(";
  for (int64_t i = 0; i < tensor.dim(); ++i) text << (i ? ", " : "") << tensor.size(i);
  text << ")";
  return text.str();
}

}  // namespace denoise_ext::ops
