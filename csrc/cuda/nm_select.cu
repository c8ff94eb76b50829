#include "launch.h"
#include "nm_select.cuh"

namespace trim {
namespace {

struct GroupSelection {
  const tk_scored& scored;
  Grouping grouping;
  void* stream;
  int32_t* bad;
};

template <class Dtype, int kGroup, class Wanted>
cudaError_t select_in_registers(const GroupSelection& s) {
  // Enough threads to fill a large GPU; beyond that a thread takes up to 16 rows with one load of the scales.
  constexpr int64_t kThreadsOfGpu = 132 * 2048, kMostRows = 16;
  const int64_t units = s.scored.columns / kUnit<kGroup>;
  const int64_t rows = std::clamp<int64_t>(units * s.scored.rows / kThreadsOfGpu, 1, kMostRows);
  const int64_t apart = (s.scored.rows + rows - 1) / rows;
  const dim3 grid(static_cast<unsigned>((units * apart + kGroupThreads - 1) / kGroupThreads));
  return launch(select_groups<Dtype, kGroup, Wanted>, grid, kGroupThreads, 0, s.stream, ScoredMatrix<Dtype>(s.scored),
                s.grouping, apart, s.bad);
}

template <class Dtype, int kSize, class Wanted>
cudaError_t select_through_shared(const GroupSelection& s) {
  const auto kernel = select_any_groups<Dtype, kSize, Wanted>;
  const int64_t width = int64_t{kGroupThreads} * s.grouping.of;
  const int64_t tasks = (s.scored.columns + width - 1) / width * s.scored.rows;
  const dim3 grid(resident_blocks(kernel, kGroupThreads, 0, tasks));
  return launch(kernel, grid, kGroupThreads, 0, s.stream, ScoredMatrix<Dtype>(s.scored), s.grouping, s.bad);
}

template <class Dtype, class Wanted>
cudaError_t select_any(const GroupSelection& s) {
  if (s.grouping.of <= 8) return select_through_shared<Dtype, 8, Wanted>(s);
  if (s.grouping.of <= 16) return select_through_shared<Dtype, 16, Wanted>(s);
  return select_through_shared<Dtype, 32, Wanted>(s);
}

template <class Dtype, class Wanted, int kGroup>
cudaError_t select_power_of_two(const GroupSelection& s) {
  const bool aligned = ScoredMatrix<Dtype>(s.scored).aligned && reinterpret_cast<uintptr_t>(s.grouping.out) % 8 == 0;
  if (!aligned || s.scored.score || s.scored.columns % kUnit<kGroup> != 0) return select_any<Dtype, Wanted>(s);
  if constexpr (std::is_same_v<Wanted, Part>) {
    if (kGroup == 2 || s.grouping.keep * 2 == kGroup) return select_in_registers<Dtype, kGroup, Half>(s);
    return select_in_registers<Dtype, kGroup == 2 ? 4 : kGroup, Part>(s);
  } else {
    return select_in_registers<Dtype, kGroup, Wanted>(s);
  }
}

template <class Dtype, class Wanted>
cudaError_t select(const GroupSelection& s) {
  switch (s.grouping.of) {
    case 2:
      return select_power_of_two<Dtype, Wanted, 2>(s);
    case 4:
      return select_power_of_two<Dtype, Wanted, 4>(s);
    case 8:
      return select_power_of_two<Dtype, Wanted, 8>(s);
    case 16:
      return select_power_of_two<Dtype, Wanted, 16>(s);
    case 32:
      return select_power_of_two<Dtype, Wanted, 32>(s);
    default:
      return select_any<Dtype, Wanted>(s);
  }
}

template <class Dtype>
cudaError_t look_at_all(const tk_scored& scored, const tk_cuda_call& call) {
  const dim3 grid = grid_over(scored.rows, scored.columns, kGroupThreads * kVector);
  return launch(find_bad<Dtype>, grid, kGroupThreads, 0, call.stream, ScoredMatrix<Dtype>(scored), call.bad);
}

}  // namespace
}  // namespace trim

TRIM_EXPORT int tk_cuda_nm_rank(const tk_scored* scored, int of, uint8_t* rank, const tk_cuda_call* call) {
  const trim::OnDevice device(call->device);
  if (device.status != cudaSuccess) return device.status;
  return trim::with_dtype(*scored, [&](auto dtype) {
    const trim::Grouping grouping{0, of, rank, false, nullptr};  // keeps none, so what fills groups up goes first
    const trim::GroupSelection ranking{*scored, grouping, call->stream, call->bad};
    return static_cast<int>(trim::select<decltype(dtype), trim::Ranks>(ranking));
  });
}

TRIM_EXPORT int tk_cuda_nm_select(const tk_scored* scored, int keep, int of, uint8_t* mask, int packed,
                                  const tk_cuda_call* call) {
  const trim::OnDevice device(call->device);
  if (device.status != cudaSuccess) return device.status;
  return trim::with_dtype(*scored, [&](auto dtype) {
    using Dtype = decltype(dtype);
    const bool looks_first = !mask && call->bad;
    if (looks_first) {
      const cudaError_t status = trim::look_at_all<Dtype>(*scored, *call);
      if (status != cudaSuccess) return static_cast<int>(status);
    }
    trim::Grouping grouping{keep, of, mask, packed != 0, looks_first ? call->bad : nullptr};
    if (keep == 0 || keep == of) {  // whatever the groups
      grouping.keep = keep == 0 ? 0 : 4;
      grouping.of = 4;
    }
    int32_t* const bad = looks_first ? nullptr : call->bad;
    return static_cast<int>(trim::select<Dtype, trim::Part>({*scored, grouping, call->stream, bad}));
  });
}
