// One small kernel per primitive of csrc/cuda/primitives.cuh, called from test_cuda_primitives.py with
// host arrays. The same file runs in the emulator and, compiled by nvcc, on a GPU.
#include "test_library.cuh"

using namespace denoise_ext::cuda;

namespace {

constexpr int kLanes = 32;

// memory: (8 N, 8) 16-bit elements; registers: (32, N)
template <int N, bool kTransposed>
__global__ void ldmatrix_kernel(const uint16_t* memory, uint32_t* registers) {
  SharedArena arena;
  uint16_t* const tile = arena.take<uint16_t>(64 * N);
  const int lane = static_cast<int>(threadIdx.x);
  for (int i = lane; i < 64 * N; i += kLanes) tile[i] = memory[i];
  __syncthreads();
  uint32_t r[N];
  // Lanes beyond 8 N are asked for nothing; any row will do.
  const uint16_t* const row = tile + lane % (8 * N) * 8;
  if constexpr (kTransposed) {
    ldmatrix_trans(r, row);
  } else {
    ldmatrix(r, row);
  }
  for (int i = 0; i < N; ++i) registers[lane * N + i] = r[i];
}

template <int N>
int run_ldmatrix(bool transposed, const uint16_t* memory, uint32_t* registers) {
  return guarded([&] {
    Buffer<uint16_t> source(memory, 64 * N);
    Buffer<uint32_t> result(kLanes * N);
    const auto kernel = transposed ? ldmatrix_kernel<N, true> : ldmatrix_kernel<N, false>;
    const int code = launch(kernel, dim3(1), dim3(kLanes), SharedArena::bytes<uint16_t>(64 * N), nullptr,
                            source.data(), result.data());
    result.read(registers);
    return code;
  });
}

enum MatrixType { kF16, kBF16, kTF32 };

// a: (32, 4), b: (32, 2), c: (32, 4), by lane
__global__ void mma_kernel(int type, const uint32_t* a, const uint32_t* b, float* c) {
  const int lane = static_cast<int>(threadIdx.x);
  uint32_t ra[4], rb[2];
  float rc[4];
  for (int i = 0; i < 4; ++i) ra[i] = a[lane * 4 + i];
  for (int i = 0; i < 2; ++i) rb[i] = b[lane * 2 + i];
  for (int i = 0; i < 4; ++i) rc[i] = c[lane * 4 + i];
  if (type == kF16) mma_m16n8k16_f16(rc, ra, rb);
  if (type == kBF16) mma_m16n8k16_bf16(rc, ra, rb);
  if (type == kTF32) mma_m16n8k8_tf32(rc, ra, rb);
  for (int i = 0; i < 4; ++i) c[lane * 4 + i] = rc[i];
}

// Three groups of copies, one element of 16 bytes per thread and group: source and result (3, 32, 16),
// valid (3, 32). The first two groups are read while the third may still be on its way.
__global__ void copy_kernel(const uint4* source, const uint8_t* valid, uint4* result) {
  SharedArena arena;
  uint4* const tile = arena.take<uint4>(3 * kLanes);
  const int lane = static_cast<int>(threadIdx.x);
  for (int group = 0; group < 3; ++group) {
    const int i = group * kLanes + lane;
    cp_async16(tile + i, valid[i] != 0 ? source + i : nullptr, valid[i] != 0);
    cp_async_commit();
  }
  // Other threads' elements: a barrier behind the wait.
  const int other = kLanes - 1 - lane;
  cp_async_wait<1>();
  __syncthreads();
  for (int group = 0; group < 2; ++group) result[group * kLanes + other] = tile[group * kLanes + other];
  cp_async_wait<0>();
  __syncthreads();
  result[2 * kLanes + other] = tile[2 * kLanes + other];
}

enum ShuffleMode { kIndex, kUp, kDown, kXor };

__global__ void shuffle_kernel(int mode, int argument, int width, const float* values, float* result) {
  const float value = values[threadIdx.x];
  float r = 0.0f;
  if (mode == kIndex) r = __shfl_sync(0xffffffffu, value, argument, width);
  if (mode == kUp) r = __shfl_up_sync(0xffffffffu, value, static_cast<unsigned>(argument), width);
  if (mode == kDown) r = __shfl_down_sync(0xffffffffu, value, static_cast<unsigned>(argument), width);
  if (mode == kXor) r = __shfl_xor_sync(0xffffffffu, value, argument, width);
  result[threadIdx.x] = r;
}

// result: (4, 64): ballot, any, all of each warp; the block's count
__global__ void vote_kernel(const int* predicates, uint32_t* result) {
  const int i = static_cast<int>(threadIdx.x), predicate = predicates[i];
  result[i] = __ballot_sync(0xffffffffu, predicate);
  result[64 + i] = static_cast<uint32_t>(__any_sync(0xffffffffu, predicate) != 0);
  result[128 + i] = static_cast<uint32_t>(__all_sync(0xffffffffu, predicate) != 0);
  result[192 + i] = static_cast<uint32_t>(__syncthreads_count(predicate));
}

__global__ void exp2_kernel(const float* x, float* y, int n) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < n) y[i] = exp2_approx(x[i]);
}

__global__ void tf32_kernel(const float* x, uint32_t* y, int n) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < n) y[i] = to_tf32(x[i]);
}

// x: (n); y: (3, n): the bits of float16 and of bfloat16, and what the first stand for as a float.
__global__ void sixteen_bits_kernel(const float* x, uint32_t* y, int n) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i >= n) return;
  const uint16_t half = to_float16(x[i]);
  y[i] = half;
  y[n + i] = to_bfloat16(x[i]);
  y[2 * n + i] = __float_as_uint(from_float16(half));
}

// The same for pairs, x: (2, n); y: (4, n): words of float16 and of bfloat16, and both floats of the first.
__global__ void pairs_kernel(const float* x, uint32_t* y, int n) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i >= n) return;
  y[i] = to_float16_pair(x[i], x[n + i]);
  y[n + i] = to_bfloat16_pair(x[i], x[n + i]);
  const float2 pair = from_float16_pair(y[i]);
  y[2 * n + i] = __float_as_uint(pair.x);
  y[3 * n + i] = __float_as_uint(pair.y);
}

// Fills the whole of a large dynamic allocation and returns its sum: the opt-in above 48 KiB.
__global__ void large_shared_kernel(int n, uint32_t* sum) {
  SharedArena arena;
  uint32_t* const values = arena.take<uint32_t>(static_cast<size_t>(n));
  for (int i = static_cast<int>(threadIdx.x); i < n; i += kLanes) values[i] = static_cast<uint32_t>(i);
  __syncthreads();
  uint32_t total = 0;
  for (int i = static_cast<int>(threadIdx.x); i < n; i += kLanes) total += values[n - 1 - i];
  for (int offset = 16; offset > 0; offset /= 2) total += __shfl_xor_sync(0xffffffffu, total, offset);
  if (threadIdx.x == 0) *sum = total;
}

dim3 blocks_for(int n) {
  return dim3(static_cast<unsigned>((n + 127) / 128));
}

}  // namespace

EXPORT int check_ldmatrix(int count, int transposed, const uint16_t* memory, uint32_t* registers) {
  if (count == 1) return run_ldmatrix<1>(transposed != 0, memory, registers);
  if (count == 2) return run_ldmatrix<2>(transposed != 0, memory, registers);
  return run_ldmatrix<4>(transposed != 0, memory, registers);
}

EXPORT int check_mma(int type, const uint32_t* a, const uint32_t* b, float* c) {
  return guarded([&] {
    Buffer<uint32_t> da(a, kLanes * 4), db(b, kLanes * 2);
    Buffer<float> dc(c, kLanes * 4);
    const int code =
        launch(mma_kernel, dim3(1), dim3(kLanes), 0, nullptr, type, da.data(), db.data(), dc.data());
    dc.read(c);
    return code;
  });
}

EXPORT int check_copy(const uint8_t* source, const uint8_t* valid, uint8_t* result) {
  return guarded([&] {
    Buffer<uint4> from(reinterpret_cast<const uint4*>(source), 3 * kLanes), to(3 * kLanes);
    Buffer<uint8_t> flags(valid, 3 * kLanes);
    const int code = launch(copy_kernel, dim3(1), dim3(kLanes), SharedArena::bytes<uint4>(3 * kLanes),
                            nullptr, from.data(), flags.data(), to.data());
    to.read(reinterpret_cast<uint4*>(result));
    return code;
  });
}

EXPORT int check_shuffle(int mode, int argument, int width, const float* values, float* result) {
  return guarded([&] {
    Buffer<float> from(values, kLanes), to(kLanes);
    const int code = launch(shuffle_kernel, dim3(1), dim3(kLanes), 0, nullptr, mode, argument, width,
                            from.data(), to.data());
    to.read(result);
    return code;
  });
}

EXPORT int check_vote(const int* predicates, uint32_t* result) {
  return guarded([&] {
    Buffer<int> from(predicates, 64);
    Buffer<uint32_t> to(4 * 64);
    const int code = launch(vote_kernel, dim3(1), dim3(64), 0, nullptr, from.data(), to.data());
    to.read(result);
    return code;
  });
}

EXPORT int check_exp2(int n, const float* x, float* y) {
  return guarded([&] {
    Buffer<float> from(x, static_cast<size_t>(n)), to(static_cast<size_t>(n));
    const int code = launch(exp2_kernel, blocks_for(n), dim3(128), 0, nullptr, from.data(), to.data(), n);
    to.read(y);
    return code;
  });
}

EXPORT int check_tf32(int n, const float* x, uint32_t* y) {
  return guarded([&] {
    Buffer<float> from(x, static_cast<size_t>(n));
    Buffer<uint32_t> to(static_cast<size_t>(n));
    const int code = launch(tf32_kernel, blocks_for(n), dim3(128), 0, nullptr, from.data(), to.data(), n);
    to.read(y);
    return code;
  });
}

EXPORT int check_sixteen_bits(int n, const float* x, uint32_t* y) {
  return guarded([&] {
    Buffer<float> from(x, static_cast<size_t>(n));
    Buffer<uint32_t> to(static_cast<size_t>(3 * n));
    const int code =
        launch(sixteen_bits_kernel, blocks_for(n), dim3(128), 0, nullptr, from.data(), to.data(), n);
    to.read(y);
    return code;
  });
}

EXPORT int check_pairs(int n, const float* x, uint32_t* y) {
  return guarded([&] {
    Buffer<float> from(x, static_cast<size_t>(2 * n));
    Buffer<uint32_t> to(static_cast<size_t>(4 * n));
    const int code = launch(pairs_kernel, blocks_for(n), dim3(128), 0, nullptr, from.data(), to.data(), n);
    to.read(y);
    return code;
  });
}

EXPORT int check_large_shared(int n, uint32_t* sum) {
  return guarded([&] {
    Buffer<uint32_t> to(1);
    const int code = launch(large_shared_kernel, dim3(1), dim3(kLanes),
                            SharedArena::bytes<uint32_t>(static_cast<size_t>(n)), nullptr, n, to.data());
    to.read(sum);
    return code;
  });
}
