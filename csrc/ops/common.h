// What every operator needs between torch's tensors and the torch-free kernels.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "../cpu/threads.h"
#include "../params/limits.h"
#include "../params/types.h"
#include "string_argument.h"

namespace denoise_ext::ops {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// torch's own thread pool (at::parallel_for), sized by torch.set_num_threads.
cpu::Threads torch_threads();

// What a kernel does with a tensor. kWrite: fills it, so nothing in it may be read before; kUpdate: reads
// and writes what is there.
enum class Access { kRead, kWrite, kUpdate };

// The tensor's memory, which a kernel is about to use. Tests link another definition, which keeps account
// of it (tests/cuda_emulator/runtime/torch_hooks.cpp).
void* memory_of(const Tensor& tensor, Access access);

// The kernel's view of a tensor. Raises for a dtype the kernels do not know.
DType to_dtype(ScalarType type, const char* op, const char* argument);
Tensor4 view4(const Tensor& tensor, const char* op, const char* argument, Access access = Access::kRead);
Tensor4 view4(const std::optional<Tensor>& tensor, const char* op, const char* argument);
Tensor1 view1(const Tensor& tensor, const char* op, const char* argument, Access access = Access::kRead);
Tensor1 view1(const std::optional<Tensor>& tensor, const char* op, const char* argument);

// torch's rule (c10 is_channels_last_strides_2d) for what layout a convolution's output takes.
bool is_channels_last(const Tensor& tensor);

// A new 4-D tensor like `like` (dtype, device) in one of the two dense layouts.
Tensor empty4(const Tensor& like, const std::array<int64_t, 4>& sizes, bool channels_last);
// What a backward returns for a gradient nobody asked for.
Tensor empty_gradient(const Tensor& like);

// Checks; each message names the operator and the argument.
void check_dim(const Tensor& tensor, int64_t dim, const char* op, const char* argument);
bool same_device(const Tensor& tensor, const Tensor& input);
std::string device_text(const Tensor& tensor);  // as torch writes it
// The device as well as the dtype.
void check_same_dtype(const Tensor& tensor, const Tensor& input, const char* op, const char* argument,
                      const char* input_name = "input");
void check_sizes(const Tensor& tensor, const std::vector<int64_t>& sizes, const char* op,
                 const char* argument);
void check_pair(const std::vector<int64_t>& pair, int64_t lowest, int64_t largest, const char* op,
                const char* argument);
void check_at_most(int64_t value, int64_t most, const char* op, const char* what);
// The rows and columns of a 4-D tensor.
void check_extents(const Tensor& tensor, const char* op, const char* argument);

Activation parse_activation(const std::string& name, const char* op);
ResidualPosition parse_residual_position(const std::string& name, const char* op);
Precision parse_precision(const std::string& name, const char* op);
Border parse_border(const std::string& name, const char* op, const char* argument = "border_type");

std::string sizes_text(const Tensor& tensor);

}  // namespace denoise_ext::ops
