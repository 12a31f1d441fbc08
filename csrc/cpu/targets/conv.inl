// The kernel bodies of the direct convolutions and the table made of them, for every target's region.
// Includes no header: one opened inside a target region would be compiled for that ISA alone.

// The order matters (vectors, packing, then kernels); the blank lines keep clang-format from sorting.
#include "../kernels/simd.inl"

#include "../kernels/pack.inl"

#include "../kernels/conv_input.inl"

#include "../kernels/activate.inl"

#include "../kernels/conv_epilogue.inl"

#include "../kernels/conv_few_outputs.inl"

#include "../kernels/conv.inl"

#include "../kernels/conv_weight_grad.inl"

#include "../kernels/activation_grad.inl"

constexpr ConvKernels kernel_table() {
  ConvKernels table{};
  table.task_f32 = conv_task<float>;
  table.task_f64 = conv_task<double>;
  table.weight_grad_task_f32 = conv_weight_grad_task<float>;
  table.weight_grad_task_f64 = conv_weight_grad_task<double>;
  table.activation_grad_strip = activation_grad_strip;
  return table;
}
