// What host code calls: launches, streams, graphs, and what it asks about the device.
// A stream does at once what it is given, or records it while it captures.
#pragma once
#include <cmath>
#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <tuple>
#include <utility>

#include "scheduler.h"

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorInsufficientDriver = 35,
  cudaErrorNoDevice = 100,
  cudaErrorInvalidDevice = 101,
  cudaErrorNoKernelImageForDevice = 209,
  cudaErrorLaunchFailure = 719,
  cudaErrorNotSupported = 801,
  cudaErrorStreamCaptureUnsupported = 900,
  cudaErrorGraphExecUpdateFailure = 910,
};
enum cudaDeviceAttr {
  cudaDevAttrMultiProcessorCount = 16,
  cudaDevAttrComputeCapabilityMajor = 75,
  cudaDevAttrComputeCapabilityMinor = 76,
  cudaDevAttrMaxSharedMemoryPerBlockOptin = 97,
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
enum cudaStreamCaptureMode { cudaStreamCaptureModeGlobal, cudaStreamCaptureModeThreadLocal,
                             cudaStreamCaptureModeRelaxed };
enum cudaGraphExecUpdateResult { cudaGraphExecUpdateSuccess, cudaGraphExecUpdateError };
constexpr unsigned cudaStreamDefault = 0, cudaStreamNonBlocking = 1;

struct cudaGraphExecUpdateResultInfo { cudaGraphExecUpdateResult result; };
struct cudaFuncAttributes { size_t sharedSizeBytes; int maxThreadsPerBlock, numRegs, maxDynamicSharedSizeBytes; };

namespace cuda_on_cpu {
struct Node {
  const void* kernel;  // null for a copy or a fill
  std::function<cudaError_t()> run;
};
using Nodes = std::vector<Node>;
}  // namespace cuda_on_cpu

struct CUgraph_st { cuda_on_cpu::Nodes nodes; };
struct CUgraphExec_st { cuda_on_cpu::Nodes nodes; };
struct CUstream_st { std::unique_ptr<CUgraph_st> capture; };
using cudaGraph_t = CUgraph_st*;
using cudaGraphExec_t = CUgraphExec_st*;
using cudaStream_t = CUstream_st*;

struct cudaLaunchAttribute { int id; union { int programmaticStreamSerializationAllowed; } val; };
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
  cudaLaunchAttribute* attrs;
  unsigned numAttrs;
};

namespace cuda_on_cpu {

struct Host {
  std::mutex one_at_a_time;
  std::string report;
  cudaError_t last_error = cudaSuccess;
  std::map<const void*, size_t> dynamic_limit;  // of the kernels that asked for more than the usual 48 KB
};
inline Host host;

inline size_t shared_bytes_of_device() {
  const char* chosen = std::getenv("TRIM_SHIM_SHARED_BYTES");
  return chosen ? std::min(size_t(std::atoll(chosen)), kMostShared) : kMostShared;
}

inline int capability_of_device() {
  const char* chosen = std::getenv("TRIM_SHIM_CAPABILITY");
  return int(std::lround(std::atof(chosen ? chosen : "9.0") * 10));
}

inline int multiprocessors_of_device() {
  const char* chosen = std::getenv("TRIM_SHIM_MULTIPROCESSORS");
  return chosen ? std::atoi(chosen) : 3;
}

inline cudaError_t noted(cudaError_t error) {
  if (error) host.last_error = error;
  return error;
}

inline bool captures(cudaStream_t stream) {
  return stream > reinterpret_cast<cudaStream_t>(2) && stream->capture;  // 1 and 2 are names of the default stream
}

inline cudaError_t do_or_record(cudaStream_t stream, Node node) {
  if (!captures(stream)) return noted(node.run());
  stream->capture->nodes.push_back(std::move(node));
  return cudaSuccess;
}

inline size_t dynamic_limit_of(const void* kernel) {
  const std::lock_guard<std::mutex> lock(host.one_at_a_time);
  const auto asked = host.dynamic_limit.find(kernel);
  // A GPU gives 48 KB unasked, less what the kernel declares itself, which nobody knows here: so ask always.
  return asked == host.dynamic_limit.end() ? 0 : asked->second;
}

inline cudaError_t launch(dim3 grid, dim3 block, size_t dynamic_bytes, const std::function<void()>& body) {
  const std::lock_guard<std::mutex> lock(host.one_at_a_time);
  if (scheduler.run(grid, block, dynamic_bytes, body)) return cudaSuccess;
  host.report = scheduler.report;
  return cudaErrorLaunchFailure;
}

}  // namespace cuda_on_cpu

template <class... P, class... A>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(P...), A&&... arguments) {
  using namespace cuda_on_cpu;
  const dim3 grid = config->gridDim, block = config->blockDim;
  const size_t bytes = config->dynamicSmemBytes;
  const auto* address = reinterpret_cast<const void*>(kernel);
  const uint64_t threads = uint64_t(block.x) * block.y * block.z;
  if (threads < 1 || threads > kMostThreads || block.z > 64) return noted(cudaErrorInvalidConfiguration);
  if (!grid.x || !grid.y || !grid.z || grid.x > 0x7fffffff || grid.y > 0xffff || grid.z > 0xffff)
    return noted(cudaErrorInvalidConfiguration);
  if (bytes > dynamic_limit_of(address)) return noted(cudaErrorInvalidValue);
  const std::tuple<std::decay_t<P>...> values(std::forward<A>(arguments)...);
  return do_or_record(config->stream, {address, [=] {
    return launch(grid, block, bytes, [&] { std::apply(kernel, values); });
  }});
}

template <class Kernel>
cudaError_t cudaFuncSetAttribute(Kernel* kernel, cudaFuncAttribute, int value) {
  using namespace cuda_on_cpu;
  if (value < 0 || size_t(value) > shared_bytes_of_device()) return noted(cudaErrorInvalidValue);
  const std::lock_guard<std::mutex> lock(host.one_at_a_time);
  host.dynamic_limit[reinterpret_cast<const void*>(kernel)] = size_t(value);
  return cudaSuccess;
}

template <class Kernel>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, Kernel*) {
  *attributes = {0, cuda_on_cpu::kMostThreads, 32, 48 << 10};
  return cudaSuccess;
}

template <class Kernel>
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, Kernel*, int, size_t) {
  *blocks = 1;
  return cudaSuccess;
}

inline const char* cudaGetErrorString(cudaError_t error) {
  static thread_local std::string text;
  text = "CUDA error " + std::to_string(int(error));
  if (error == cudaErrorLaunchFailure) text += ": " + cuda_on_cpu::host.report;
  return error == cudaSuccess ? "no error" : text.c_str();
}
inline cudaError_t cudaGetLastError() { return std::exchange(cuda_on_cpu::host.last_error, cudaSuccess); }

inline cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
inline cudaError_t cudaSetDevice(int device) {
  return device == 0 ? cudaSuccess : cuda_on_cpu::noted(cudaErrorInvalidDevice);
}
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  switch (attribute) {
    case cudaDevAttrMultiProcessorCount: return *value = cuda_on_cpu::multiprocessors_of_device(), cudaSuccess;
    case cudaDevAttrComputeCapabilityMajor: return *value = cuda_on_cpu::capability_of_device() / 10, cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor: return *value = cuda_on_cpu::capability_of_device() % 10, cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      return *value = int(cuda_on_cpu::shared_bytes_of_device()), cudaSuccess;
  }
  return cuda_on_cpu::noted(cudaErrorInvalidValue);
}

inline cudaError_t cudaMemsetAsync(void* target, int value, size_t bytes, cudaStream_t stream = nullptr) {
  return cuda_on_cpu::do_or_record(stream, {nullptr, [=] { return std::memset(target, value, bytes), cudaSuccess; }});
}

inline cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  return *stream = new CUstream_st, cudaSuccess;
}
inline cudaError_t cudaStreamDestroy(cudaStream_t stream) { return delete stream, cudaSuccess; }
inline cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  return cuda_on_cpu::captures(stream) ? cuda_on_cpu::noted(cudaErrorStreamCaptureUnsupported) : cudaSuccess;
}
inline cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  if (stream <= reinterpret_cast<cudaStream_t>(2)) return cuda_on_cpu::noted(cudaErrorStreamCaptureUnsupported);
  stream->capture = std::make_unique<CUgraph_st>();
  return cudaSuccess;
}
inline cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  return *graph = stream->capture.release(), *graph ? cudaSuccess : cuda_on_cpu::noted(cudaErrorInvalidValue);
}

inline cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long = 0) {
  return *exec = new CUgraphExec_st{graph->nodes}, cudaSuccess;
}
inline cudaError_t cudaGraphDestroy(cudaGraph_t graph) { return delete graph, cudaSuccess; }
inline cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) { return delete exec, cudaSuccess; }
// The new graph must have the kernels of the old one, in their order; arguments and grids may differ.
inline cudaError_t cudaGraphExecUpdate(cudaGraphExec_t exec, cudaGraph_t graph, cudaGraphExecUpdateResultInfo* info) {
  const auto same = [](const auto& one, const auto& other) { return one.kernel == other.kernel; };
  const auto &old = exec->nodes, &now = graph->nodes;
  const bool fits = std::equal(old.begin(), old.end(), now.begin(), now.end(), same);
  *info = {fits ? cudaGraphExecUpdateSuccess : cudaGraphExecUpdateError};
  if (fits) exec->nodes = now;
  return fits ? cudaSuccess : cuda_on_cpu::noted(cudaErrorGraphExecUpdateFailure);
}
inline cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
  for (const auto& node : exec->nodes)
    if (const cudaError_t error = cuda_on_cpu::do_or_record(stream, node)) return error;
  return cudaSuccess;
}

// For the tests.
extern "C" [[gnu::used, gnu::visibility("default")]] inline void cuda_on_cpu_seed(uint32_t seed) {
  cuda_on_cpu::scheduler.seed(seed);
}
extern "C" [[gnu::used, gnu::visibility("default")]] inline const char* cuda_on_cpu_report() {
  return cuda_on_cpu::host.report.c_str();
}
