// The kernel bodies and the table made of them, included by every target inside its region.
// Includes no header: one opened inside a target region would be compiled for that ISA alone.

// The order matters (vectors, packing, then kernels); the blank lines keep clang-format from sorting.
#include "../kernels/simd.inl"

#include "../kernels/pack.inl"

#include "../kernels/conv_input.inl"

#include "../kernels/conv_epilogue.inl"

#include "../kernels/conv_few_outputs.inl"

#include "../kernels/conv.inl"

#include "../kernels/winograd_transforms.inl"

#include "../kernels/winograd_gemm.inl"

#include "../kernels/winograd.inl"

#include "../kernels/winograd_pack.inl"

#include "../kernels/conv_weight_grad.inl"

#include "../kernels/winograd_weight_grad.inl"

#include "../kernels/activation_grad.inl"

#include "../kernels/image_row.inl"

#include "../kernels/gaussian.inl"

#include "../kernels/gaussian_dense.inl"

#include "../kernels/interleave_channels.inl"

#include "../kernels/bilateral.inl"

#include "../kernels/bilateral_fused.inl"

#include "../kernels/bilateral_grad.inl"

constexpr KernelTable kernel_table(const char* isa) {
  KernelTable table{};
  table.isa = isa;
  table.vector_bytes = kVectorBytes;
  table.accumulators = kAccumulators;
  table.conv_task_f32 = conv_task<float>;
  table.conv_task_f64 = conv_task<double>;
  table.winograd_block_4 = winograd_block<Winograd4>;
  table.winograd_block_6 = winograd_block<Winograd6>;
  table.winograd_pack_4 = winograd_pack<Winograd4>;
  table.winograd_pack_6 = winograd_pack<Winograd6>;
  table.conv_weight_grad_task_f32 = conv_weight_grad_task<float>;
  table.conv_weight_grad_task_f64 = conv_weight_grad_task<double>;
  table.winograd_weight_grad_task = winograd_weight_grad_task;
  table.activation_grad_strip = activation_grad_strip;
  table.gaussian_task_f32 = gaussian_task<float>;
  table.gaussian_task_f64 = gaussian_task<double>;
  table.gaussian_dense_task_f32 = gaussian_dense_task<float>;
  table.gaussian_dense_task_u8 = gaussian_dense_task<uint8_t>;
  table.gaussian_sigma_task_f32 = gaussian_sigma_task<float>;
  table.gaussian_sigma_task_f64 = gaussian_sigma_task<double>;
  table.bilateral_task_f32 = bilateral_task<float>;
  table.bilateral_fused_task = bilateral_fused_task;
  table.bilateral_task_f64 = bilateral_task<double>;
  table.bilateral_normalise_task_f32 = bilateral_normalise_task<float>;
  table.bilateral_normalise_task_f64 = bilateral_normalise_task<double>;
  table.bilateral_grad_task_f32 = bilateral_grad_task<float>;
  table.bilateral_grad_task_f64 = bilateral_grad_task<double>;
  return table;
}
