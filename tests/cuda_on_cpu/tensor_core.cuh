// In place of csrc/cuda/ptx/tensor_core.cuh: mma.sync and wgmma by the PTX ISA (fragments: 9.7.14.5.8 and 9.7.15.5.1).
//
// A wgmma reads shared memory when it is issued or when it is waited for, as the seed decides; until it is waited for,
// its accumulator is NaN. The warps of a group do not wait for each other: nothing says that they do on a GPU.
#pragma once
#include <async_copy.cuh>

#include <cmath>
#include <limits>
#include <memory>

#include "score_key.h"

namespace cuda_on_cpu {

// Where a lane's pair of elements begins, in a 16 x 16 matrix A as well as in an accumulator of 16 rows.
constexpr int row_of(int lane, int pair) { return lane / 4 + pair % 2 * 8; }
constexpr int column_of(int lane, int pair) { return lane % 4 * 2 + pair / 2 * 8; }

template <class Dtype>
float element(uint32_t pair, int which) {
  return Dtype::widen(static_cast<typename Dtype::Storage>(pair >> 16 * which));
}

template <class Dtype>
void spread_a(const uint32_t* registers, int lane, float (*a)[16]) {
  for (int i = 0; i < 8; ++i)
    a[row_of(lane, i / 2)][column_of(lane, i / 2) + i % 2] = element<Dtype>(registers[i / 2], i % 2);
}

// Tensor cores add without rounding and cut off what float32 cannot hold.
inline float cut_off(double sum) {
  const float nearest = float(sum);
  return std::fabs(double(nearest)) > std::fabs(sum) ? std::nextafter(nearest, 0.0f) : nearest;
}

struct MmaOperands {
  float* d;
  const uint32_t *a, *b;
};

template <class Dtype>
void finish_mma(Arrival* const* lanes, int) {
  float a[16][16], b[16][8];
  for (int lane = 0; lane < kWarp; ++lane) {
    const auto* of = static_cast<const MmaOperands*>(lanes[lane]->operands);
    spread_a<Dtype>(of->a, lane, a);
    for (int i = 0; i < 4; ++i) b[lane % 4 * 2 + i % 2 + i / 2 * 8][lane / 4] = element<Dtype>(of->b[i / 2], i % 2);
  }
  for (int lane = 0; lane < kWarp; ++lane) {
    float* d = static_cast<const MmaOperands*>(lanes[lane]->operands)->d;
    for (int i = 0; i < 4; ++i) {
      double sum = d[i];
      for (int k = 0; k < 16; ++k) sum += double(a[row_of(lane, i / 2)][k]) * b[k][column_of(lane, i / 2) + i % 2];
      d[i] = cut_off(sum);
    }
  }
}

// The accumulator of one warp while wgmmas have it.
struct Accumulator {
  int size;
  float* registers[kWarp];
  std::vector<float> value[kWarp];
};

// The part of one warp, a quarter of the rows.
struct Wgmma {
  int columns, batch;
  uint64_t descriptor;
  float (*widen)(uint16_t);
  float a[16][16];
  std::shared_ptr<Accumulator> d;
  bool done;
};

struct WgmmaWarp {
  uint64_t block = 0;
  int batch = 0;  // that the next wgmmas will be committed in
  bool fenced = false;
  std::vector<std::pair<int, uint64_t>> issued;  // columns and descriptor: the same in all warps of the group
  std::vector<Wgmma> in_flight;
};
inline WgmmaWarp wgmma_warps[kMostThreads / kWarp];

inline WgmmaWarp& this_warp() { return of_this_block(wgmma_warps[scheduler.current / kWarp]); }

// Eight elements of row n of B: rows of 128 bytes in groups of eight, pieces of 16 bytes exchanged within the group.
inline void read_b(uint64_t descriptor, int n, int k, uint16_t* eight) {
  const uint64_t start = (descriptor & 0x3fff) << 4, group_stride = (descriptor >> 32 & 0x3fff) << 4;
  uint64_t address = start + n / 8 * group_stride + n % 8 * 128 + k * 2;
  address ^= (address >> 7 & 7) << 4;
  if (address + 16 > kMostShared) return scheduler.fail("a wgmma reads beyond shared memory");
  const unsigned char* piece = trim::trim_dynamic_shared + address;
  if (of_this_block(unfenced_pieces).owner.count(piece))
    scheduler.fail("a wgmma reads what a thread copied and did not pass on with fence_async_proxy");
  std::memcpy(eight, piece, 16);
}

inline void carry_out(Wgmma& product) {
  if (product.done) return;
  product.done = true;
  std::vector<uint16_t> b(product.columns * 16);
  for (int n = 0; n < product.columns; ++n)
    for (int k = 0; k < 16; k += 8) read_b(product.descriptor, n, k, &b[n * 16 + k]);
  for (int lane = 0; lane < kWarp; ++lane) {
    for (int i = 0; i < product.columns / 2; ++i) {
      const float* a = product.a[row_of(lane, i / 2)];
      const uint16_t* column = &b[(column_of(lane, i / 2) + i % 2) * 16];
      double sum = product.d->value[lane][i];
      for (int k = 0; k < 16; ++k) sum += double(a[k]) * product.widen(column[k]);
      product.d->value[lane][i] = cut_off(sum);
    }
  }
}

// Gives the registers back when no wgmma has them any more.
inline void release(const Accumulator& d) {
  for (int lane = 0; lane < kWarp; ++lane) {
    float* const registers = d.registers[lane];
    if (!std::all_of(registers, registers + d.size, [](float value) { return std::isnan(value); }))
      return scheduler.fail("an accumulator changed while a wgmma had it");
    std::copy(d.value[lane].begin(), d.value[lane].end(), registers);
  }
}

struct WgmmaOperands {
  float* d;
  const uint32_t* a;
};

template <int N, class Dtype>
void issue_wgmma(Arrival* const* lanes, int) {
  const auto operands = [&](int lane) { return *static_cast<const WgmmaOperands*>(lanes[lane]->operands); };
  const auto widen = [](uint16_t raw) { return Dtype::widen(raw); };
  WgmmaWarp& warp = this_warp();
  Wgmma product{N, warp.batch, lanes[0]->value, widen, {}, nullptr, false};
  for (const Wgmma& earlier : warp.in_flight)
    if (earlier.d->registers[0] == operands(0).d) product.d = earlier.d;
  const bool fresh = !product.d;
  if (fresh && !warp.fenced) return scheduler.fail("a wgmma without a wgmma_fence since the last wait");
  if (product.descriptor >> 62 != 1 || (product.descriptor >> 32 & 0x3fff) != 1024 >> 4)
    return scheduler.fail("a wgmma with a descriptor that swizzled_descriptor did not make");
  if (fresh) product.d = std::make_shared<Accumulator>(), product.d->size = N / 2;
  for (int lane = 0; lane < kWarp; ++lane) {
    if (lanes[lane]->value != product.descriptor) return scheduler.fail("lanes with different wgmma descriptors");
    spread_a<Dtype>(operands(lane).a, lane, product.a);
    if (!fresh) continue;
    float* d = product.d->registers[lane] = operands(lane).d;
    product.d->value[lane].assign(d, d + N / 2);
    std::fill_n(d, N / 2, std::numeric_limits<float>::quiet_NaN());
  }
  warp.issued.emplace_back(N, product.descriptor);
  const int number = scheduler.current / kWarp, first = number - number % 4;
  for (int w = first; w < first + 4; ++w) {
    const auto& others = of_this_block(wgmma_warps[w]).issued;
    if (others.size() >= warp.issued.size() && others[warp.issued.size() - 1] != warp.issued.back())
      return scheduler.fail("the warps of a warpgroup issue different wgmmas");
  }
  const bool in_turn = std::all_of(warp.in_flight.begin(), warp.in_flight.end(), [](auto& one) { return one.done; });
  if (in_turn && scheduler.random(2)) carry_out(product);
  warp.in_flight.push_back(std::move(product));
}

inline void wait_for_wgmma(Arrival* const* lanes, int) {
  WgmmaWarp& warp = this_warp();
  std::vector<Wgmma> left, ended;
  for (Wgmma& product : warp.in_flight) {
    const bool ends = product.batch < warp.batch - int(lanes[0]->value);
    if (ends) carry_out(product);
    (ends ? ended : left).push_back(std::move(product));
  }
  warp.in_flight = std::move(left), warp.fenced = false;
  const auto last = [](const auto& product) { return product.d.use_count() == 1; };
  for (; !ended.empty(); ended.pop_back())
    if (last(ended.back())) release(*ended.back().d);
}

inline void check_wgmma_at_block_end() {
  for (int w = 0; w * kWarp < kMostThreads; ++w) {
    if (!of_this_block(wgmma_warps[w]).in_flight.empty()) scheduler.fail("a warp exited before its wgmma had ended");
    if (of_this_block(wgmma_warps[w]).issued.size() != of_this_block(wgmma_warps[w - w % 4]).issued.size())
      scheduler.fail("the warps of a warpgroup issue different numbers of wgmmas");
  }
}
inline const bool wgmma_is_checked = (scheduler.at_block_end = check_wgmma_at_block_end, true);

inline void of_whole_warp(const char* operation, void (*finish)(Arrival* const*, int), uint64_t value, void* operands,
                          const char* file, int line) {
  Arrival arrival{operation, finish, kWarp, ~0u, file, line, value, 0, 0, operands};
  scheduler.meet(arrival);
}

}  // namespace cuda_on_cpu

namespace trim {

template <class Dtype>
void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Dtype, CUDA_ON_CPU_SITE) {
  cuda_on_cpu::MmaOperands operands{d, a, b};
  cuda_on_cpu::of_whole_warp("mma_m16n8k16", cuda_on_cpu::finish_mma<Dtype>, 0, &operands, file, line);
}

template <int N, class Dtype>
void wgmma_m64k16(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t b_descriptor, Dtype, CUDA_ON_CPU_SITE) {
  static_assert(N % 8 == 0 && N <= 256);
  cuda_on_cpu::WgmmaOperands operands{d, a};
  cuda_on_cpu::of_whole_warp("wgmma_m64k16", cuda_on_cpu::issue_wgmma<N, Dtype>, b_descriptor, &operands, file, line);
}

inline void wgmma_fence(CUDA_ON_CPU_SITE) {
  const auto finish = [](cuda_on_cpu::Arrival* const*, int) { cuda_on_cpu::this_warp().fenced = true; };
  cuda_on_cpu::of_whole_warp("wgmma_fence", finish, 0, nullptr, file, line);
}

inline void wgmma_commit(CUDA_ON_CPU_SITE) {
  const auto finish = [](cuda_on_cpu::Arrival* const*, int) { ++cuda_on_cpu::this_warp().batch; };
  cuda_on_cpu::of_whole_warp("wgmma_commit", finish, 0, nullptr, file, line);
}

template <int Pending>
void wgmma_wait(CUDA_ON_CPU_SITE) {
  cuda_on_cpu::of_whole_warp("wgmma_wait", cuda_on_cpu::wait_for_wgmma, Pending, nullptr, file, line);
}

// Start address, leading offset (of no account), stride between groups of eight rows, 128-byte swizzle. As on a device,
// but addresses count from the start of dynamic shared memory.
inline uint64_t swizzled_descriptor(const void* shared) {
  const auto offset = static_cast<const unsigned char*>(shared) - trim_dynamic_shared;
  if (offset < 0 || offset >= ptrdiff_t(cuda_on_cpu::kMostShared) || offset % 16)
    cuda_on_cpu::scheduler.abandon("a descriptor of what is not aligned dynamic shared memory");
  return uint64_t(offset >> 4) | uint64_t{1} << 16 | uint64_t{1024 >> 4} << 32 | uint64_t{1} << 62;
}

}  // namespace trim
