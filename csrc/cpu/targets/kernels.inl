// The kernel bodies and the table made of them, included by every target inside its region.
// Includes no header: one opened inside a target region would be compiled for that ISA alone.

#include "../kernels/conv.inl"
#include "../kernels/simd.inl"

constexpr KernelTable kernel_table(const char* isa) {
  KernelTable table{};
  table.isa = isa;
  table.vector_bytes = kVectorBytes;
  table.accumulators = kAccumulators;
  table.conv_task_f32 = conv_task<float>;
  table.conv_task_f64 = conv_task<double>;
  return table;
}
