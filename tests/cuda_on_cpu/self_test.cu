// Tiny kernels that try the fakes of this folder, right ones and wrong ones.
#include <async_copy.cuh>
#include <cuda_runtime.h>
#include <tensor_core.cuh>

#include <cstdint>

#include "score_key.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace trim {

alignas(1024) extern __shared__ unsigned char trim_dynamic_shared[];

namespace {

constexpr unsigned kAll = 0xffffffffu;

template <bool ask = true, class... Parameters, class... Arguments>
int launch(void (*kernel)(Parameters...), unsigned blocks, unsigned threads, size_t shared, void* stream,
           Arguments... arguments) {
  const int wanted = static_cast<int>(shared);
  if (wanted && ask) cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, wanted);
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(blocks);
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = shared;
  config.stream = static_cast<cudaStream_t>(stream);
  return cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...);
}

// Each thread adds up its neighbours' values; without the barrier it may come too early.
template <int kThreads, bool kBarrier>
__global__ void __launch_bounds__(kThreads)
    sum_of_block(const uint32_t* __restrict__ value, uint32_t* __restrict__ sum) {
  __shared__ uint32_t all[kThreads];
  all[threadIdx.x] = value[blockIdx.x * kThreads + threadIdx.x];
  if (kBarrier) __syncthreads();
  uint32_t total = 0;
  for (int i = 0; i < kThreads; ++i) total += all[i];
  sum[blockIdx.x * kThreads + threadIdx.x] = total;
}

__global__ void warp_operations(const int* value, int64_t* out) {
  const int lane = threadIdx.x % 32, v = value[lane];
  const int64_t results[] = {
      __shfl_sync(kAll, v, 5),
      __shfl_sync(kAll, v, lane + 1, 8),
      __shfl_up_sync(kAll, v, 3),
      __shfl_down_sync(kAll, v, 3, 16),
      __shfl_xor_sync(kAll, int64_t{v} << 33, 9),
      __ballot_sync(kAll, v > 3),
      __any_sync(kAll, v == 3),
      __all_sync(kAll, v < 7),
      __match_any_sync(kAll, v),
      __reduce_add_sync(kAll, static_cast<unsigned>(v)),
      __reduce_min_sync(kAll, v),
      __reduce_max_sync(kAll, v),
      __syncthreads_count(v > 3),
      __syncthreads_or(v == 3),
      __syncthreads_and(v < 7),
      lane < 7 ? __ballot_sync(0x7f, v & 1) : __ballot_sync(~0x7fu, v & 1),
  };
  for (int i = 0; i < 16; ++i) out[i * 32 + lane] = results[i];
}

__global__ void bits(uint32_t x, uint32_t y, uint32_t* out) {
  const uint32_t results[] = {
      static_cast<uint32_t>(__popc(x)),
      static_cast<uint32_t>(__clz(static_cast<int>(y))),
      static_cast<uint32_t>(__ffs(static_cast<int>(y))),
      __brev(x),
      __funnelshift_r(x, y, 36),
      __funnelshift_l(x, y, 4),
      __byte_perm(x, y, 0x7041),
      __byte_perm(x, y, 0x800b),
      __float_as_uint(__uint_as_float(x)),
      max(x, 3u),
      min(y, 5),
      __float_as_uint(__fmaf_rn(0x1.000002p0f, 0x1.000002p0f, -1.0f)),
      __float_as_uint(__fmul_rn(0x1p-100f, 0x1p-40f)),
  };
  for (int i = 0; i < 13; ++i) out[i] = results[i];
}

__global__ void count(int rounds, uint32_t* number, float* sum, int* largest, unsigned long long* flags) {
  for (int i = 0; i < rounds; ++i) {
    atomicAdd(number, 1u);
    atomicAdd(sum, 0.5f);
    atomicMax(largest, static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x));
    atomicOr(flags, 1ull << threadIdx.x);
  }
}

__global__ void poison(int* fresh) {
  __shared__ uint32_t words[64];
  *fresh = words[threadIdx.x] == 0xcdcdcdcdu && trim_dynamic_shared[threadIdx.x] == 0xcd;
  words[threadIdx.x] = trim_dynamic_shared[threadIdx.x] = 0;
}

__global__ void faulty(int fault, int* memory) {
  const unsigned t = threadIdx.x;
  if (fault == 0 && t < 40) __syncthreads();
  if (fault == 1 && t < 16) __shfl_sync(kAll, 1, 0);
  if (fault == 1) __syncthreads();
  if (fault == 2) t < 16 ? __shfl_sync(kAll, 1, 0) : __shfl_xor_sync(kAll, 1, 1);
  if (fault == 3 && t % 32 != 7) __syncwarp();
  if (fault == 4) {
    if (t < 16) {
      __syncthreads();
    } else {
      __syncthreads();
    }
  }
  if (fault == 5) __ballot_sync(0xffff, 1);
  if (fault == 6) {
    while (atomicAdd(memory, 0) == 0) __nanosleep(1);
  }
  if (fault == 7) trim_dynamic_shared[64] = 1;
  if (fault == 8) memory[0] = reinterpret_cast<int2*>(memory + t % 2)->x;
  if (fault == 9) memory[0] = 0x7fffffff + static_cast<int>(t);
  if (fault == 10) memory[0] = 1 << t;
}

template <class Dtype>
__global__ void multiply_warp(const uint16_t* a, const uint16_t* b, float* d) {  // a [16, 16], b [8, 16], d [16, 8]
  const int group = threadIdx.x / 4, pair = threadIdx.x % 4 * 2;
  const auto two = [](const uint16_t* at) { return uint32_t{at[0]} | uint32_t{at[1]} << 16; };
  const uint32_t fragment_a[4] = {two(a + group * 16 + pair), two(a + (group + 8) * 16 + pair),
                                  two(a + group * 16 + pair + 8), two(a + (group + 8) * 16 + pair + 8)};
  const uint32_t fragment_b[2] = {two(b + group * 16 + pair), two(b + group * 16 + pair + 8)};
  float fragment_d[4] = {1, 1, 1, 1};
  mma_m16n8k16(fragment_d, fragment_a, fragment_b, Dtype{});
  for (int i = 0; i < 4; ++i) d[(group + i / 2 * 8) * 8 + pair + i % 2] = fragment_d[i];
}

enum Mistake { kNone, kNoWait, kNoFence, kNoProxyFence, kNoBarrier, kOverwrite, kOtherDescriptor, kTouched };

// a [64, 64], b [64, 64] with k inside, d [64, 64]: four steps of 16 through one swizzled tile.
template <class Dtype>
__global__ void multiply_warpgroup(const uint16_t* a, const uint16_t* b, float* d, int mistake) {
  constexpr int N = 64;
  const int t = threadIdx.x, row = t / 32 * 16 + t % 32 / 4, pair = t % 4 * 2;
  for (int i = t; i < N * 8; i += 128) {
    const int n = i / 8, piece = i % 8;
    copy_16_async(trim_dynamic_shared + n * 128 + (piece ^ n % 8) * 16, b + n * 64 + piece * 8, true);
  }
  copy_async_commit();
  copy_async_wait<0>();
  if (mistake != kNoProxyFence) fence_async_proxy();
  if (mistake != kNoBarrier) __syncthreads();
  const auto two = [](const uint16_t* at) { return uint32_t{at[0]} | uint32_t{at[1]} << 16; };
  float sum[N / 2] = {};
  if (mistake != kNoFence) wgmma_fence();
  const uint64_t descriptor = swizzled_descriptor(trim_dynamic_shared);
  for (int k = 0; k < 64; k += 16) {
    const uint16_t* from = a + row * 64 + k + pair;
    const uint32_t fragment[4] = {two(from), two(from + 8 * 64), two(from + 8), two(from + 8 * 64 + 8)};
    const int step = mistake == kOtherDescriptor && t >= 96 ? 0 : k / 8;
    wgmma_m64k16<N>(sum, fragment, descriptor + step, Dtype{});
  }
  wgmma_commit();
  if (mistake == kOverwrite) trim_dynamic_shared[t] = 0;
  if (mistake == kTouched) sum[0] = 0;
  if (mistake != kNoWait) wgmma_wait<0>();
  for (int i = 0; i < N / 2; ++i) d[(row + i / 2 % 2 * 8) * N + i / 4 * 8 + pair + i % 2] = sum[i];
  if (mistake == kNoWait) wgmma_wait<0>();
}

// Each thread copies 16 bytes for itself, in two batches, and looks at the first when `Pending` may be under way.
template <int Pending>
__global__ void copy_through(const uint32_t* from, uint32_t* to, int real) {
  const int t = threadIdx.x;
  uint32_t* first = reinterpret_cast<uint32_t*>(trim_dynamic_shared) + t * 4;
  copy_16_async(first, from + t * 4, t < real);
  copy_async_commit();
  copy_16_async(first + blockDim.x * 4, from, true);
  copy_async_commit();
  copy_async_wait<Pending>();
  for (int i = 0; i < 4; ++i) to[t * 4 + i] = first[i];
}

__global__ void multiply_add(int* x, int factor, int summand) { x[threadIdx.x] = x[threadIdx.x] * factor + summand; }

int record(cudaStream_t stream, int* x, int factor, cudaGraph_t* graph) {
  cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal);
  cudaMemsetAsync(x, 0, 32 * sizeof *x, stream);
  for (int i = 1; i <= 3; ++i) launch(multiply_add, 1, 32, 0, stream, x, factor, i);
  return cudaStreamEndCapture(stream, graph);
}

}  // namespace
}  // namespace trim

using namespace trim;

EXPORT int self_test_sum(const uint32_t* value, uint32_t* sum, int blocks, int barrier) {
  return launch(barrier ? sum_of_block<256, true> : sum_of_block<256, false>, blocks, 256, 0, nullptr, value, sum);
}
EXPORT int self_test_warp(const int* value, int64_t* out) {
  return launch(warp_operations, 1, 32, 0, nullptr, value, out);
}
EXPORT int self_test_bits(uint32_t x, uint32_t y, uint32_t* out) { return launch(bits, 1, 1, 0, nullptr, x, y, out); }
EXPORT int self_test_count(int rounds, uint32_t* number, float* sum, int* largest, unsigned long long* flags) {
  return launch(count, 5, 64, 0, nullptr, rounds, number, sum, largest, flags);
}
EXPORT int self_test_poison(int* fresh) { return launch(poison, 9, 64, 64, nullptr, fresh); }
EXPORT int self_test_fault(int fault, int* memory) { return launch(faulty, 2, 64, 64, nullptr, fault, memory); }
EXPORT int self_test_mma(const uint16_t* a, const uint16_t* b, float* d, int bfloat) {
  return launch(bfloat ? multiply_warp<BFloat16> : multiply_warp<Float16>, 1, 32, 0, nullptr, a, b, d);
}
EXPORT int self_test_wgmma(const uint16_t* a, const uint16_t* b, float* d, int bfloat, int mistake) {
  const auto kernel = bfloat ? multiply_warpgroup<BFloat16> : multiply_warpgroup<Float16>;
  return launch(kernel, 1, 128, 64 * 128, nullptr, a, b, d, mistake);
}
EXPORT int self_test_copy(const uint32_t* from, uint32_t* to, int real, int pending) {
  const auto kernel = pending == 0 ? copy_through<0> : pending == 1 ? copy_through<1> : copy_through<2>;
  return launch(kernel, 1, 32, 32 * 32, nullptr, from, to, real);
}
EXPORT int self_test_shared_limit(int bytes, int ask) {
  if (ask) {
    const cudaError_t error = cudaFuncSetAttribute(poison, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    if (error != cudaSuccess) return error;
  }
  static int fresh;
  return launch<false>(poison, 1, 64, static_cast<size_t>(bytes), nullptr, &fresh);
}
EXPORT int self_test_capability() {
  int major = 0, minor = 0;
  cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0);
  cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, 0);
  return major * 10 + minor;
}
EXPORT const char* self_test_error(int error) { return cudaGetErrorString(static_cast<cudaError_t>(error)); }

// x [32] after the capture, after one launch of the graph, and after a launch of it updated to another factor.
EXPORT int self_test_graph(int* x, int* history, int factor, int other_factor, int* synchronized) {
  cudaStream_t stream;
  cudaGraph_t graph, other;
  cudaGraphExec_t exec;
  cudaGraphExecUpdateResultInfo info;
  cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
  if (int error = record(stream, x, factor, &graph)) return error;
  history[0] = x[31];
  cudaGraphInstantiate(&exec, graph, 0);
  if (int error = cudaGraphLaunch(exec, stream)) return error;
  history[1] = x[31];
  if (int error = record(stream, x, other_factor, &other)) return error;
  if (int error = cudaGraphExecUpdate(exec, other, &info)) return error;
  if (int error = cudaGraphLaunch(exec, stream)) return error;
  history[2] = x[31];
  cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal);
  *synchronized = cudaStreamSynchronize(stream);
  cudaGraph_t empty;
  cudaStreamEndCapture(stream, &empty);
  const int update = cudaGraphExecUpdate(exec, empty, &info);
  for (cudaGraph_t each : {graph, other, empty}) cudaGraphDestroy(each);
  cudaGraphExecDestroy(exec);
  cudaStreamDestroy(stream);
  return update;
}
