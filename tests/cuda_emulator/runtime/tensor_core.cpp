// ldmatrix and mma. Fragment layouts: csrc/cuda/primitives.cuh.
#include <algorithm>
#include <cstring>

#include "machine.h"

namespace cuda_emulator {
namespace {

struct LdmatrixArguments {
  uint32_t* registers;
  int count;
  bool transposed;
  const void* row;
};
struct MmaArguments {
  MatrixType type;
  float* c;
  const uint32_t *a, *b;
};

constexpr uint32_t kAllLanes = 0xffffffffu;

bool same_line(SourceLine a, SourceLine b) {
  return a.line == b.line && std::strcmp(a.file, b.file) == 0;
}

// The instructions are .aligned: the whole warp executes the very same one.
void check_aligned(const Rendezvous& meeting, const char* instruction) {
  const int first = __builtin_ctz(meeting.arrived);
  if (meeting.arrived != kAllLanes)
    fail("divergent warp", std::string(instruction) + " with lanes missing at " + text(meeting.lines[first]));
  for (int lane = 1; lane < 32; ++lane)
    if (!same_line(meeting.lines[lane], meeting.lines[0]))
      fail("divergent warp", std::string(instruction) + " at " + text(meeting.lines[0]) + " by lane 0, at " +
                                 text(meeting.lines[lane]) + " by lane " + std::to_string(lane));
}

void check_row(const void* row, int lane, SourceLine line) {
  const auto message = [&](const char* what) {
    return "ldmatrix: the row address of lane " + std::to_string(lane) + what + " at " + text(line);
  };
  if (reinterpret_cast<uintptr_t>(row) % 16 != 0) fail("misaligned", message(" is not a multiple of 16"));
  if (!is_shared(row)) fail("out of bounds", message(" is not in shared memory"));
  check_access(row, 16, Access::kRead, line, true);
}

// Shared memory delivers 128 bytes at once from distinct banks; the same row twice is one access.
uint64_t wavefronts(const void* const (&rows)[8]) {
  uint64_t used[8] = {};
  for (int i = 0; i < 8; ++i)
    if (std::find(rows, rows + i, rows[i]) == rows + i) ++used[reinterpret_cast<uintptr_t>(rows[i]) / 16 % 8];
  return *std::max_element(used, used + 8);
}

float f16_value(uint32_t bits) {
  return value_of_float16(static_cast<uint16_t>(bits));
}
float bf16_value(uint32_t bits) {
  return __uint_as_float(bits << 16);
}
float tf32_value(uint32_t bits) {
  return __uint_as_float(bits & 0xffffe000u);
}

struct Operands {
  float a[16][16], b[16][8], c[16][8];  // a (M, K), b (K, N), c (M, N)
  int depth;
};

void gather(Operands& o, const MmaArguments& m, int g, int t) {
  if (m.type == MatrixType::kTF32) {
    for (int i = 0; i < 4; ++i) o.a[g + i % 2 * 8][t + i / 2 * 4] = tf32_value(m.a[i]);
    for (int i = 0; i < 2; ++i) o.b[t + 4 * i][g] = tf32_value(m.b[i]);
  } else {
    const auto value = m.type == MatrixType::kF16 ? f16_value : bf16_value;
    for (int i = 0; i < 4; ++i) {
      float* const element = &o.a[g + i % 2 * 8][2 * t + i / 2 * 8];
      element[0] = value(m.a[i]);
      element[1] = value(m.a[i] >> 16);
    }
    for (int i = 0; i < 2; ++i) {
      o.b[2 * t + 8 * i][g] = value(m.b[i]);
      o.b[2 * t + 8 * i + 1][g] = value(m.b[i] >> 16);
    }
  }
  for (int i = 0; i < 4; ++i) o.c[g + i / 2 * 8][2 * t + i % 2] = m.c[i];
}

}  // namespace

void run_ldmatrix(const Rendezvous& meeting) {
  check_aligned(meeting, "ldmatrix");
  const auto arguments = [&](int lane) -> LdmatrixArguments& {
    return *static_cast<LdmatrixArguments*>(meeting.arguments[lane]);
  };
  for (int m = 0; m < arguments(0).count; ++m) {
    uint16_t matrix[8][8];
    const void* rows[8];
    for (int i = 0; i < 8; ++i) {
      const int lane = 8 * m + i;
      rows[i] = arguments(lane).row;
      check_row(rows[i], lane, meeting.lines[lane]);
      std::memcpy(matrix[i], rows[i], 16);
    }
    ++machine.statistics.matrices_loaded;
    machine.statistics.matrix_wavefronts += wavefronts(rows);
    for (int lane = 0; lane < 32; ++lane) {
      const LdmatrixArguments& a = arguments(lane);
      const int row = lane / 4, column = lane % 4 * 2;
      const uint32_t low = a.transposed ? matrix[column][row] : matrix[row][column];
      const uint32_t high = a.transposed ? matrix[column + 1][row] : matrix[row][column + 1];
      a.registers[m] = low | high << 16;
    }
  }
}

// Products are exact and sums rounded to nearest in order of k; the hardware rounds otherwise (and
// truncates), which tests must allow for.
void run_mma(const Rendezvous& meeting) {
  check_aligned(meeting, "mma");
  ++machine.statistics.matrix_multiplies;
  Operands o;
  const auto arguments = [&](int lane) -> MmaArguments& {
    return *static_cast<MmaArguments*>(meeting.arguments[lane]);
  };
  o.depth = arguments(0).type == MatrixType::kTF32 ? 8 : 16;
  for (int lane = 0; lane < 32; ++lane) gather(o, arguments(lane), lane / 4, lane % 4);
  for (auto row = 0; row < 16; ++row)
    for (int k = 0; k < o.depth; ++k)
      for (int column = 0; column < 8; ++column) o.c[row][column] += o.a[row][k] * o.b[k][column];
  for (int lane = 0; lane < 32; ++lane)
    for (int i = 0; i < 4; ++i) arguments(lane).c[i] = o.c[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2];
}

void load_matrices(uint32_t* registers, int count, bool transposed, const void* row, SourceLine line) {
  LdmatrixArguments arguments{registers, count, transposed, row};
  meet(Collective::kLdmatrix, kAllLanes, &arguments, line);
}

void multiply_matrices(MatrixType type, float* c, const uint32_t* a, const uint32_t* b, SourceLine line) {
  MmaArguments arguments{type, c, a, b};
  meet(Collective::kMma, kAllLanes, &arguments, line);
}

}  // namespace cuda_emulator
