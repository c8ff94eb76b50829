#include "row_search.cuh"

#include "launch.h"
#include "row_products.h"

namespace trim {
namespace {

// What one search enqueues: a fixed list of kernels, none of which waits for the host.
class RowSearch {
 public:
  RowSearch(const tk_scored& scored, const void* order, const tk_cuda_inputs& inputs, float* dense,
            const SearchProblem& problem, const SearchState& state)
      : scored_(scored), order_(order), inputs_(inputs), dense_(dense), problem_(problem), state_(state) {}

  cudaError_t enqueue(void* stream) const {
    return problem_.search.exact ? enqueue_with<ExactCounts>(stream) : enqueue_with<FloorCounts>(stream);
  }

 private:
  template <class Rounding>
  cudaError_t enqueue_with(void* stream) const {
    const dim3 chains(static_cast<unsigned>(problem_.chains));
    cudaError_t status = launch(begin_search<Rounding>, chains, kSearchThreads, 0, stream, problem_, state_);
    for (int64_t round = 0; round <= problem_.search.iterations && status == cudaSuccess; ++round) {
      const int64_t evaluated = round == 0 ? 1 : problem_.chains;
      status = look_up(evaluated, stream);
      if (status != cudaSuccess) break;
      int64_t tiles = 0;
      const ProductCall call{state_.key, state_.column, dense_, state_.partial, evaluated, 0, 0};
      status = enqueue_products(scored_, inputs_, call, stream, &tiles);
      if (status != cudaSuccess) break;
      status = launch(search_step<Rounding>, chains, kSearchThreads, 0, stream, problem_, state_, tiles, round);
    }
    return status;
  }

  cudaError_t look_up(int64_t chains, void* stream) const {
    const dim3 grid(static_cast<unsigned>((scored_.rows + kLookupThreads - 1) / kLookupThreads),
                    static_cast<unsigned>(chains));
    return with_dtype(scored_, [&](auto dtype) {
      using Dtype = decltype(dtype);
      const ScoredMatrix<Dtype> matrix(scored_);
      if (scored_.columns <= kShortColumns) {
        return launch(look_thresholds_up<Dtype, uint16_t>, grid, kLookupThreads, 0, stream, matrix,
                      static_cast<const uint16_t*>(order_), state_);
      }
      return launch(look_thresholds_up<Dtype, int32_t>, grid, kLookupThreads, 0, stream, matrix,
                    static_cast<const int32_t*>(order_), state_);
    });
  }

  const tk_scored& scored_;
  const void* const order_;
  const tk_cuda_inputs& inputs_;
  float* const dense_;
  const SearchProblem problem_;
  const SearchState state_;
};

// The graph of this thread's last search: the next one of the same shape only changes its arguments. Its launch has
// ended by then, since a search is over when the host has read its trace.
thread_local cudaGraphExec_t last_graph = nullptr;

cudaError_t update_or_instantiate(cudaGraph_t graph) {
  cudaGraphExecUpdateResultInfo unused;
  if (last_graph && cudaGraphExecUpdate(last_graph, graph, &unused) == cudaSuccess) return cudaSuccess;
  cudaGetLastError();
  if (last_graph) cudaGraphExecDestroy(last_graph);
  last_graph = nullptr;
  return cudaGraphInstantiate(&last_graph, graph, 0);
}

// Captures on a stream of its own, as the caller's may be one that cannot be captured.
cudaError_t launch_as_graph(const RowSearch& search, cudaStream_t stream) {
  cudaStream_t recorder;
  cudaError_t status = cudaStreamCreateWithFlags(&recorder, cudaStreamNonBlocking);
  if (status != cudaSuccess) return status;
  cudaGraph_t graph = nullptr;
  status = cudaStreamBeginCapture(recorder, cudaStreamCaptureModeThreadLocal);
  if (status == cudaSuccess) {
    const cudaError_t enqueued = search.enqueue(recorder);
    status = cudaStreamEndCapture(recorder, &graph);
    if (enqueued != cudaSuccess) status = enqueued;
  }
  if (status == cudaSuccess) status = update_or_instantiate(graph);
  if (status == cudaSuccess) status = cudaGraphLaunch(last_graph, stream);
  if (graph) cudaGraphDestroy(graph);
  cudaStreamDestroy(recorder);
  return status;
}

struct Sizes {
  int64_t doubles, ints;
};

// Of the scratch memory.
Sizes scratch_sizes(int64_t rows, int64_t tokens, int64_t chains) {
  const int64_t each = chains * rows;
  return {(2 + tk_cuda_quality_partials(tokens)) * each + chains, 3 * each};
}

}  // namespace
}  // namespace trim

TRIM_EXPORT int64_t tk_cuda_allocate_rows_scratch(int64_t rows, int64_t tokens, int64_t chains) {
  const trim::Sizes sizes = trim::scratch_sizes(rows, tokens, chains);
  return sizes.doubles * static_cast<int64_t>(sizeof(double)) + sizes.ints * static_cast<int64_t>(sizeof(int32_t));
}

TRIM_EXPORT int tk_cuda_allocate_rows(const tk_scored* scored, const void* order, const tk_cuda_inputs* inputs,
                                      float* dense, const double* dense_statistics, const tk_search* search,
                                      int32_t* best, int32_t* uniform, double* trace, void* scratch,
                                      const tk_cuda_call* call) {
  const trim::OnDevice device(call->device);
  if (device.status != cudaSuccess) return device.status;
  const int64_t chains = search->positive_rates + search->negative_rates, each = chains * scored->rows;
  const trim::SearchProblem problem{*search, scored->rows, scored->columns, inputs->tokens, chains};
  double* const doubles = static_cast<double*>(scratch);
  const trim::Sizes sizes = trim::scratch_sizes(scored->rows, inputs->tokens, chains);
  int32_t* const ints = reinterpret_cast<int32_t*>(doubles + sizes.doubles);
  trim::SearchState state = {};
  state.shares = doubles;
  state.row_quality = doubles + each;
  state.partial = doubles + 2 * each;
  state.best_quality = reinterpret_cast<double*>(ints) - chains;
  state.dense = dense_statistics;
  state.counts = ints;
  state.key = ints + each;
  state.column = ints + 2 * each;
  state.best = best;
  state.uniform = uniform;
  state.trace = trace;

  const trim::RowSearch row_search(*scored, order, *inputs, dense, problem, state);
  return trim::launch_as_graph(row_search, static_cast<cudaStream_t>(call->stream));
}
