// What the checker must accept (accept_*) and what it must catch (every other), one kernel each, called
// by name from test_cuda_checker.py. The comment `here` marks the lines that the report must name.
#include "test_library.cuh"

using namespace denoise_ext::cuda;

namespace {

constexpr unsigned kFull = 0xffffffffu;

// ---- To accept ----

struct Params {
  const float* in;
  float* out;
  int n;
  float factors[12];
};
__constant__ float kTable[4] = {1, 2, 3, 4};

__global__ void accept_parameters(Params p) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < p.n) p.out[i] = p.in[i] * p.factors[i % 12] + kTable[i % 4];
}

// Atomics on shared and global memory; a loop that not every thread runs equally often.
__global__ void accept_histogram(const float* in, int* out, int n) {
  __shared__ int bins[16];
  if (threadIdx.x < 16) bins[threadIdx.x] = 0;
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < n; i += static_cast<int>(blockDim.x)) {
    if (in[i] < 0) continue;
    atomicAdd(&bins[static_cast<int>(in[i] * 16) & 15], 1);
  }
  __syncthreads();
  if (threadIdx.x < 16) atomicAdd(out + threadIdx.x, bins[threadIdx.x]);
}

// Vector types; threads that leave before a barrier.
__global__ void accept_vectors_and_early_exit(const float4* in, float4* out) {
  __shared__ float4 tile[64];
  if (threadIdx.x >= 48) return;
  tile[threadIdx.x] = in[threadIdx.x];
  __syncthreads();
  float4 v = tile[47 - threadIdx.x];
  v.x += 1;
  out[threadIdx.x] = v;
}

__global__ void accept_half_warps(const float* in, float* out) {
  __shared__ float tile[32];
  const unsigned mask = threadIdx.x < 16 ? 0xffffu : 0xffff0000u;
  tile[threadIdx.x] = in[threadIdx.x];
  __syncwarp(mask);
  const float v = tile[threadIdx.x ^ 1];
  out[threadIdx.x] = v + __shfl_xor_sync(mask, v, 2);
}

__global__ void accept_broadcast(float* out, int n) {
  __shared__ float value;
  for (int i = 0; i < n; ++i) {
    if (threadIdx.x == 0) value = static_cast<float>(i);
    __syncthreads();
    out[threadIdx.x + 64 * i] = value;
    __syncthreads();
  }
}

__global__ void accept_waiting_for_an_atomic(int* flag) {
  if (threadIdx.x == 1) {
    atomicExch(flag, 1);
  } else {
    while (atomicAdd(flag, 0) == 0) {
    }
  }
}

// A ring of two slots, filled one step ahead: the order of waits and barriers that the kernels use.
__global__ void accept_copy_ring(const float4* in, float4* out, int steps) {
  SharedArena arena;
  float4* const ring[2] = {arena.take<float4>(32), arena.take<float4>(32)};
  const unsigned t = threadIdx.x;
  cp_async16(ring[0] + t, in + t, true);
  cp_async_commit();
  for (int s = 0; s < steps; ++s) {
    if (s + 1 < steps) cp_async16(ring[(s + 1) % 2] + t, in + 32 * (s + 1) + t, true);
    cp_async_commit();
    cp_async_wait<1>();
    __syncthreads();
    out[32 * s + t] = ring[s % 2][31 - t];
    __syncthreads();
  }
}

// ---- Races ----

__global__ void race_broadcast_reused(float* out, int n) {
  __shared__ float value;
  for (int i = 0; i < n; ++i) {
    if (threadIdx.x == 0) value = static_cast<float>(i);  // here
    __syncthreads();
    out[threadIdx.x + 64 * i] = value;  // here
  }
}

__global__ void race_one_slot(float* out) {
  __shared__ float value[1];
  value[0] = static_cast<float>(threadIdx.x);  // here
  __syncthreads();
  out[threadIdx.x] = value[0];
}

__global__ void race_between_blocks(float* out) {
  out[blockIdx.x * 48 + threadIdx.x] = 1;  // here
}

__global__ void race_sum_without_atomic(const float* in, float* sum) {
  if (threadIdx.x == 0) *sum += in[blockIdx.x];  // here
}

__global__ void race_across_half_warps(const float* in, float* out) {
  __shared__ float tile[32];
  const unsigned mask = threadIdx.x < 16 ? 0xffffu : 0xffff0000u;
  tile[threadIdx.x] = 0;  // here
  __syncthreads();
  tile[threadIdx.x] = in[threadIdx.x];  // here
  __syncwarp(mask);
  out[threadIdx.x] = tile[threadIdx.x ^ 16];  // here
}

// A shuffle makes lanes meet, but does not order their memory.
__global__ void race_shuffle_is_no_barrier(const float* in, float* out) {
  __shared__ float tile[32];
  tile[threadIdx.x] = 0;  // here
  __syncthreads();
  tile[threadIdx.x] = __shfl_xor_sync(kFull, in[threadIdx.x], 1);  // here
  __shfl_xor_sync(kFull, 1, 1);
  out[threadIdx.x] = tile[threadIdx.x ^ 1];  // here
}

// Structures of an odd size are copied in one go.
struct Triple {
  float values[6];
};
__global__ void race_structures(Triple* out) {
  __shared__ Triple shared;
  shared = Triple{{1, 2, 3, 4, 5, static_cast<float>(threadIdx.x)}};  // here
  __syncthreads();
  out[threadIdx.x] = shared;
}

// ---- Uninitialised ----

__global__ void uninitialised_shared(float* out) {
  __shared__ float tile[64];
  if (threadIdx.x < 63) tile[threadIdx.x] = 1;
  __syncthreads();
  out[threadIdx.x] = tile[threadIdx.x];  // here
}

__global__ void uninitialised_global(const float* in, float* out) {
  out[threadIdx.x] = in[threadIdx.x];  // here
}

// Shared memory keeps nothing from the block before.
__global__ void uninitialised_from_last_block(float* out) {
  __shared__ float value;
  if (blockIdx.x == 0 && threadIdx.x == 0) value = 1;
  __syncthreads();
  out[blockIdx.x * 32 + threadIdx.x] = value;  // here
}

// ---- Out of bounds ----

__global__ void out_of_bounds_past_the_end(const float* in, float* out, int n) {
  for (int i = static_cast<int>(threadIdx.x); i <= n; i += 64) out[threadIdx.x] = in[i];  // here
}

__global__ void out_of_bounds_between_rows(const float* in, float* out) {
  out[threadIdx.x] = in[threadIdx.x];  // here
}

__global__ void out_of_bounds_write_to_input(const float* in) {
  const_cast<float*>(in)[threadIdx.x] = 1;  // here
}

__global__ void out_of_bounds_null(float* out) {
  out[threadIdx.x] = 1;  // here
}

__global__ void out_of_bounds_arena_neighbour(float* out) {
  SharedArena arena;
  float* const first = arena.take<float>(64);
  float* const second = arena.take<float>(64);
  first[threadIdx.x] = 1;
  second[threadIdx.x] = 2;
  __syncthreads();
  out[threadIdx.x] = first[threadIdx.x + 1];  // here
}

__global__ void out_of_bounds_arena_too_small(float* out) {
  SharedArena arena;
  float* const array = arena.take<float>(512);  // here
  array[threadIdx.x] = 1;
  out[threadIdx.x] = array[threadIdx.x];
}

__global__ void out_of_bounds_copy_to_global(const float4* in, float4* out) {
  cp_async16(out + threadIdx.x, in + threadIdx.x, true);  // here
  cp_async_commit();
  cp_async_wait<0>();
}

__global__ void undefined_static_index(float* out, int k) {
  __shared__ float tile[4][8];
  tile[threadIdx.x / 8][threadIdx.x % 8 + k] = 1;  // here
  __syncthreads();
  out[threadIdx.x] = tile[threadIdx.x / 8][threadIdx.x % 8];
}

__global__ void undefined_local_index(float* out, int k) {
  const float values[4] = {1, 2, 3, 4};
  out[threadIdx.x] = values[k + static_cast<int>(threadIdx.x)];  // here
}

__global__ void undefined_misaligned(const float* in, float* out) {
  out[threadIdx.x] = reinterpret_cast<const float4*>(in + 1)->x;  // here
}

// ---- Asynchronous copies ----

__global__ void copy_read_before_wait(const float4* in, float4* out) {
  SharedArena arena;
  float4* const tile = arena.take<float4>(32);
  cp_async16(tile + threadIdx.x, in + threadIdx.x, true);  // here
  cp_async_commit();
  cp_async_wait<1>();
  out[threadIdx.x] = tile[threadIdx.x];  // here
}

__global__ void copy_without_commit(const float4* in, float4* out) {
  SharedArena arena;
  float4* const tile = arena.take<float4>(32);
  cp_async16(tile + threadIdx.x, in + threadIdx.x, true);  // here
  cp_async_wait<0>();
  out[threadIdx.x] = tile[threadIdx.x];  // here
}

__global__ void race_copy_without_barrier(const float4* in, float4* out) {
  SharedArena arena;
  float4* const tile = arena.take<float4>(64);
  if (threadIdx.x < 32) cp_async16(tile + threadIdx.x, in + threadIdx.x, true);  // here
  cp_async_commit();
  cp_async_wait<0>();
  if (threadIdx.x < 32) __syncwarp();
  if (threadIdx.x >= 32) tile[threadIdx.x] = make_float4(0, 0, 0, 0);
  if (threadIdx.x == 63) tile[0] = make_float4(1, 1, 1, 1);  // here
  out[threadIdx.x] = tile[threadIdx.x];                      // here
}

// ---- Warps and barriers ----

__global__ void divergent_barrier(float* out) {
  if (threadIdx.x < 32) {
    __syncthreads();  // here
    out[threadIdx.x] = 1;
  } else {
    out[threadIdx.x] = 2;
    __syncthreads();  // here
  }
}

__global__ void divergent_warp(float* out) {
  if (threadIdx.x % 2 == 0) {
    __syncwarp();  // here
  } else {
    out[threadIdx.x] = __shfl_sync(kFull, 1.0f, 0);  // here
  }
}

__global__ void bad_mask(float* out) {
  out[threadIdx.x] = __shfl_sync(0xffffu, 1.0f, 0);  // here
}

__global__ void bad_shuffle(const float* in, float* out) {
  const unsigned mask = __ballot_sync(kFull, threadIdx.x < 20);
  if (threadIdx.x < 20) out[threadIdx.x] = __shfl_down_sync(mask, in[threadIdx.x], 1);  // here
}

__global__ void deadlock(float* out) {
  if (threadIdx.x < 32) {
    if (threadIdx.x < 16) __syncwarp();  // here
    __syncthreads();                     // here
  }
  out[threadIdx.x] = 1;
}

__global__ void divergent_mma(float* out) {
  float c[4] = {};
  const uint32_t a[4] = {}, b[2] = {};
  if (threadIdx.x < 16) return;
  mma_m16n8k16_f16(c, a, b);  // here
  out[threadIdx.x] = c[0];
}

__global__ void misaligned_ldmatrix(float* out) {
  SharedArena arena;
  float* const tile = arena.take<float>(256);
  for (int i = static_cast<int>(threadIdx.x); i < 256; i += 32) tile[i] = 1;
  __syncthreads();
  uint32_t r[4];
  ldmatrix(r, tile + threadIdx.x * 4 + 2);  // here
  out[threadIdx.x] = static_cast<float>(r[0]);
}

// The source must be aligned even where nothing is read of it.
__global__ void misaligned_copy_of_nothing(const float4* in, float4* out) {
  SharedArena arena;
  float4* const tile = arena.take<float4>(32);
  cp_async16(tile + threadIdx.x, reinterpret_cast<const float*>(in) + 1, false);  // here
  cp_async_commit();
  cp_async_wait<0>();
  out[threadIdx.x] = tile[threadIdx.x];
}

__global__ void trap(float* out) {
  if (threadIdx.x == 5) __trap();  // here
  out[threadIdx.x] = 1;
}

// ---- Running them ----

template <class... Parameters, class... Arguments>
void run(void (*kernel)(Parameters...), int blocks, int threads, size_t shared, Arguments... arguments) {
  launch(kernel, dim3(static_cast<unsigned>(blocks)), dim3(static_cast<unsigned>(threads)), shared, nullptr,
         arguments...);
}

void run_pattern(const std::string& name) {
  std::vector<float> numbers(512);
  for (size_t i = 0; i < numbers.size(); ++i) numbers[i] = static_cast<float>(i % 37) / 37.0f;
  std::vector<int> zeros(16);
  Buffer<float> in(numbers.data(), 512), out(512), unwritten(64);
  Buffer<int> counters(zeros.data(), 16);
  const auto in4 = reinterpret_cast<float4*>(in.data());
  const auto out4 = reinterpret_cast<float4*>(out.data());
  constexpr size_t kTile = 1024;
#define PATTERN(kernel, blocks, threads, shared, ...) \
  if (name == #kernel) return run(kernel, blocks, threads, shared, __VA_ARGS__)
  PATTERN(accept_parameters, 4, 32, 0, Params{in.data(), out.data(), 100, {}});
  PATTERN(accept_histogram, 2, 64, 0, in.data(), counters.data(), 512);
  PATTERN(accept_vectors_and_early_exit, 1, 64, 0, in4, out4);
  PATTERN(accept_half_warps, 1, 32, 0, in.data(), out.data());
  PATTERN(accept_broadcast, 1, 64, 0, out.data(), 4);
  PATTERN(accept_waiting_for_an_atomic, 1, 64, 0, counters.data());
  PATTERN(accept_copy_ring, 1, 32, kTile, in4, out4, 4);
  PATTERN(race_broadcast_reused, 1, 64, 0, out.data(), 4);
  PATTERN(race_one_slot, 1, 64, 0, out.data());
  PATTERN(race_between_blocks, 2, 64, 0, out.data());
  PATTERN(race_sum_without_atomic, 3, 32, 0, in.data(), in.data() + 400);
  PATTERN(race_across_half_warps, 1, 32, 0, in.data(), out.data());
  PATTERN(race_shuffle_is_no_barrier, 1, 32, 0, in.data(), out.data());
  PATTERN(race_structures, 1, 64, 0, reinterpret_cast<Triple*>(out.data()));
  PATTERN(race_copy_without_barrier, 1, 64, kTile, in4, out4);
  PATTERN(uninitialised_shared, 1, 64, 0, out.data());
  PATTERN(uninitialised_global, 1, 64, 0, unwritten.data(), out.data());
  PATTERN(uninitialised_from_last_block, 2, 32, 0, out.data());
  PATTERN(out_of_bounds_past_the_end, 1, 64, 0, in.data(), out.data(), 512);
  PATTERN(out_of_bounds_null, 1, 32, 0, static_cast<float*>(nullptr));
  PATTERN(out_of_bounds_arena_neighbour, 1, 64, 512, out.data());
  PATTERN(out_of_bounds_arena_too_small, 1, 64, 512, out.data());
  PATTERN(out_of_bounds_copy_to_global, 1, 32, 0, in4, out4);
  PATTERN(undefined_static_index, 1, 32, 0, out.data(), 1);
  PATTERN(undefined_local_index, 1, 2, 0, out.data(), 3);
  PATTERN(undefined_misaligned, 1, 32, 0, in.data(), out.data());
  PATTERN(copy_read_before_wait, 1, 32, kTile, in4, out4);
  PATTERN(copy_without_commit, 1, 32, kTile, in4, out4);
  PATTERN(divergent_barrier, 1, 64, 0, out.data());
  PATTERN(divergent_warp, 1, 32, 0, out.data());
  PATTERN(bad_mask, 1, 32, 0, out.data());
  PATTERN(bad_shuffle, 1, 32, 0, in.data(), out.data());
  PATTERN(deadlock, 1, 64, 0, out.data());
  PATTERN(divergent_mma, 1, 32, 0, out.data());
  PATTERN(misaligned_ldmatrix, 1, 32, kTile, out.data());
  PATTERN(misaligned_copy_of_nothing, 1, 32, kTile, in4, out4);
  PATTERN(trap, 1, 32, 0, out.data());
  if (name == "launch") return run(out_of_bounds_null, 1, 1025, 0, out.data());
  // Two columns of a tensor of four: what lies between them is none of the kernel's business.
  const int64_t sizes[] = {8, 2}, strides[] = {4, 1};
  cuda_emulator::forget_memory();
  using cuda_emulator::Use;
  cuda_emulator::use_memory(in.data(), 2, sizes, strides, sizeof(float), Use::kRead);
  PATTERN(out_of_bounds_write_to_input, 1, 2, 0, in.data());
  const int64_t size = 64, stride = 1;
  cuda_emulator::use_memory(out.data(), 1, &size, &stride, sizeof(float), Use::kFill);
  PATTERN(out_of_bounds_between_rows, 1, 32, 0, in.data(), out.data());
#undef PATTERN
  throw cuda_emulator::Error("unknown", name);
}

}  // namespace

EXPORT int pattern(const char* name) {
  return guarded([&] {
    run_pattern(name);
    return 0;
  });
}
