// What the compiler calls under -fsanitize=bounds,alignment,shift,... when a check fails. With the
// compiler's own library the process would end; here the fault is an Error like every other.
#include "machine.h"

namespace {

// The first member of every argument block.
struct SanitizerLocation {
  const char* file;
  uint32_t line, column;
};

[[noreturn]] void report(const void* data, const char* what) {
  const auto& where = *static_cast<const SanitizerLocation*>(data);
  const cuda_emulator::SourceLine line{where.file, static_cast<int>(where.line)};
  cuda_emulator::fail("undefined behaviour", std::string(what) + " at " + cuda_emulator::text(line));
}

}  // namespace

// The handlers' further arguments are not used, so each is declared with the location alone.
#define CUDA_EMULATOR_HANDLER(name, what)                                  \
  extern "C" [[noreturn]] void __ubsan_handle_##name##_abort(void* data) { \
    report(data, what);                                                    \
  }

CUDA_EMULATOR_HANDLER(out_of_bounds, "array index out of bounds")
CUDA_EMULATOR_HANDLER(type_mismatch_v1, "misaligned or null address")
CUDA_EMULATOR_HANDLER(alignment_assumption, "misaligned address")
CUDA_EMULATOR_HANDLER(shift_out_of_bounds, "shift by more bits than there are, or of a negative number")
CUDA_EMULATOR_HANDLER(add_overflow, "signed overflow in +")
CUDA_EMULATOR_HANDLER(sub_overflow, "signed overflow in -")
CUDA_EMULATOR_HANDLER(mul_overflow, "signed overflow in *")
CUDA_EMULATOR_HANDLER(negate_overflow, "signed overflow in negation")
CUDA_EMULATOR_HANDLER(divrem_overflow, "division by zero or overflow in /")
CUDA_EMULATOR_HANDLER(pointer_overflow, "pointer arithmetic that overflows")
CUDA_EMULATOR_HANDLER(float_cast_overflow, "floating point to integer conversion that overflows")
CUDA_EMULATOR_HANDLER(vla_bound_not_positive, "array of non-positive size")
CUDA_EMULATOR_HANDLER(load_invalid_value, "a bool or enum holds a value that is none of its own")
CUDA_EMULATOR_HANDLER(nonnull_arg, "null for an argument that must not be")

extern "C" [[noreturn]] void __ubsan_handle_builtin_unreachable(void* data) {
  report(data, "code that cannot be reached");
}
extern "C" [[noreturn]] void __ubsan_handle_missing_return(void* data) {
  report(data, "no return value");
}
