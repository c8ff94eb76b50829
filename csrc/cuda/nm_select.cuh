// nm_select: of every `of` consecutive columns the last `keep` in pruning order stay. nm_rank: how many of them come
// after each.
//
// To select, the keys of a group are sorted in registers by a network of exchanges. The first one that stays tells
// which others do, and equal ones go from the left until as many are left as shall stay. A shorter last group is filled
// up with keys that go before or stay after all others, so that `keep` is the same everywhere. To rank, every key is
// compared with all others of its group.
#pragma once
#include <type_traits>
#include <utility>

#include "row_select.cuh"

namespace trim {
namespace {

constexpr int kGroupThreads = 128;
constexpr int kLargestGroup = 32;
constexpr uint32_t kGoesFirst = 0xffffffffu, kStaysLast = 0x7fffffffu;  // keys are compared as signed integers

// What is wanted of the groups: half of each, a part of any size, or the ranks of their weights.
struct Half {};
struct Part {};
struct Ranks {};

struct Grouping {
  int32_t keep, of;
  uint8_t* out;  // a mask, or ranks; null: weights that do not stay become zero
  bool packed;
  const int32_t* bad;  // if it holds a 1, nothing is written; may be null

  // How many of the columns that a group lacks stay by name, so that `keep` do in all.
  __device__ __forceinline__ int stay_beyond(int columns) const { return keep - (keep * columns + of - 1) / of; }
};

// Batcher's odd-even merge sort, as a list of exchanges.
template <int kSize>
struct Exchanges {
  constexpr Exchanges() {
    for (int run = 1; run < kSize; run *= 2) {
      for (int distance = run; distance > 0; distance /= 2) {
        for (int begin = distance % run; begin + distance < kSize; begin += 2 * distance) {
          for (int i = begin; i < begin + distance; ++i) {
            if (i + distance < kSize && i / (2 * run) == (i + distance) / (2 * run)) {
              low[count] = i;
              high[count++] = i + distance;
            }
          }
        }
      }
    }
  }

  int count = 0, low[192] = {}, high[192] = {};
};

__device__ __forceinline__ void exchange(int32_t& low, int32_t& high) {
  const int32_t lower = min(low, high);
  high = max(low, high);
  low = lower;
}

template <int kSize, size_t... index>
__device__ __forceinline__ void run_exchanges(int32_t* key, std::index_sequence<index...>) {
  constexpr Exchanges<kSize> kNetwork;
  (exchange(key[kNetwork.low[index]], key[kNetwork.high[index]]), ...);
}

template <int kSize>
__device__ __forceinline__ void sort_ascending(int32_t* key) {
  run_exchanges<kSize>(key, std::make_index_sequence<Exchanges<kSize>{}.count>{});
}

// key[place], without an index: indexed registers would go to memory.
template <int kSize>
__device__ __forceinline__ int32_t at(int32_t* key, int place) {
  if constexpr (kSize == 1) {
    return key[0];
  } else {
    int32_t upper = place & (kSize / 2) ? -1 : 0;
    asm("" : "+r"(upper));  // the compiler would find the index in this
#pragma unroll
    for (int i = 0; i < kSize / 2; ++i) key[i] = (key[i] & ~upper) | (key[i + kSize / 2] & upper);
    return at<kSize / 2>(key, place);
  }
}

// The lowest key that stays when `keep` do, which is not 0; with kHalf, when half of them do.
template <int kSize, bool kHalf>
__device__ __forceinline__ uint32_t first_to_stay(const uint32_t (&key)[kSize], int keep) {
  int32_t sorted[kSize];
#pragma unroll
  for (int i = 0; i < kSize; ++i) sorted[i] = static_cast<int32_t>(key[i]);
  if (kHalf) {
    // The higher ones of two ascending runs, the second turned around, are those that stay.
    constexpr int kRun = kSize / 2;
    sort_ascending<kRun>(sorted);
    sort_ascending<kRun>(sorted + kRun);
    int32_t first = max(sorted[0], sorted[kSize - 1]);
#pragma unroll
    for (int i = 1; i < kRun; ++i) first = min(first, max(sorted[i], sorted[kSize - 1 - i]));
    return static_cast<uint32_t>(first);
  }
  sort_ascending<kSize>(sorted);
  return static_cast<uint32_t>(at<kSize>(sorted, kSize - keep));
}

// One bit a key, whether it stays if all do that are no lower than `first`.
template <int kSize>
__device__ __forceinline__ uint32_t not_below(const uint32_t (&key)[kSize], uint32_t first) {
  uint32_t below = 0;
#pragma unroll
  for (int i = kSize - 1; i >= 0; --i) below = __funnelshift_l(key[i] - first, below, 1);  // the difference's sign
  return ~below & (0xffffffffu >> (32 - kSize));
}

// Takes away the leftmost keys that equal `first`, until `keep` are left.
template <int kSize>
__device__ __forceinline__ uint32_t without_ties(const uint32_t (&key)[kSize], uint32_t first, uint32_t kept,
                                                 int keep) {
  uint32_t equal = kept;
#pragma unroll
  for (int i = 0; i < kSize; ++i) equal &= key[i] == first ? ~0u : ~(1u << i);
#pragma unroll 1
  for (int excess = __popc(kept) - keep; excess > 0; --excess) {
    kept ^= equal & (0u - equal);
    equal &= equal - 1;
  }
  return kept;
}

// One bit a key, whether it stays, for groups of kGroup keys that lie side by side.
template <int kGroup, bool kHalf, int kSize>
__device__ __forceinline__ uint32_t kept_of_groups(const uint32_t (&key)[kSize], int keep) {
  constexpr int kGroups = kSize / kGroup;
  if (keep == 0) return 0;
  uint32_t group[kGroups][kGroup], first[kGroups], kept = 0;
#pragma unroll
  for (int g = 0; g < kGroups; ++g) {
#pragma unroll
    for (int i = 0; i < kGroup; ++i) group[g][i] = key[g * kGroup + i];
    first[g] = first_to_stay<kGroup, kHalf>(group[g], keep);
    kept |= not_below(group[g], first[g]) << g * kGroup;
  }
  if (__popc(kept) == kGroups * keep) return kept;
  uint32_t with_ties = kept;
  kept = 0;
#pragma unroll
  for (int g = 0; g < kGroups; ++g) {
    const uint32_t own = with_ties >> g * kGroup & (0xffffffffu >> (32 - kGroup));
    kept |= without_ties(group[g], first[g], own, keep) << g * kGroup;
  }
  return kept;
}

// Ranks of groups of kGroup keys that lie side by side, a byte each.
template <int kGroup, int kSize>
__device__ __forceinline__ void rank_groups(const uint32_t (&key)[kSize], uint64_t (&ranks)[kSize / 8]) {
  uint32_t after[kSize];
#pragma unroll
  for (int i = 0; i < kSize; ++i) after[i] = kGroup - 1 - i % kGroup;
#pragma unroll
  for (int i = 0; i < kSize; ++i) {
#pragma unroll
    for (int j = i + 1; j < (i / kGroup + 1) * kGroup; ++j) {
      const int32_t goes_before = static_cast<int32_t>(key[j] - key[i]) >> 31;  // the difference's sign: -1 if j does
      after[i] += goes_before;
      after[j] -= goes_before;
    }
  }
#pragma unroll
  for (int i = 0; i < kSize; i += 8) {
    const uint32_t low = after[i] | after[i + 1] << 8 | after[i + 2] << 16 | after[i + 3] << 24;
    const uint32_t high = after[i + 4] | after[i + 5] << 8 | after[i + 6] << 16 | after[i + 7] << 24;
    ranks[i / 8] = static_cast<uint64_t>(high) << 32 | low;
  }
}

__device__ __forceinline__ void write_ranks(uint8_t* out, const uint8_t* ranks, int32_t left) {
  if (left >= kVector && reinterpret_cast<uintptr_t>(out) % 8 == 0) {
    *reinterpret_cast<uint64_t*>(out) = *reinterpret_cast<const uint64_t*>(ranks);
    return;
  }
  for (int e = 0; e < kVector && e < left; ++e) out[e] = ranks[e];
}

// The columns of a thread, a multiple of its groups.
template <int kGroup>
constexpr int kUnit = kGroup < kVector ? kVector : kGroup;

// Raw values of some columns, in words: halves by themselves would be taken apart and put together again.
template <class Dtype, int kColumns>
struct Words {
  using Storage = typename Dtype::Storage;
  static constexpr int kPerWord = 4 / sizeof(Storage), kCount = kColumns / kPerWord;

  __device__ __forceinline__ void load(const Storage* from) {
#pragma unroll
    for (int i = 0; i < kCount; i += 4) {
      const Bytes16 piece = reinterpret_cast<const Bytes16*>(from)[i / 4];
#pragma unroll
      for (int j = 0; j < 4; ++j) word[i + j] = piece.word[j];
    }
  }

  __device__ __forceinline__ Storage value(int i) const {
    return static_cast<Storage>(kPerWord == 1 ? word[i] : word[i / 2] >> i % 2 * 16);
  }

  __device__ __forceinline__ bool is_finite() const {
    bool finite = true;
#pragma unroll
    for (int i = 0; i < kColumns; ++i) finite &= Dtype::is_finite(value(i));
    return finite;
  }

  // Stores the vectors that change when the values whose bit is 0 become zero.
  __device__ __forceinline__ void store_kept(Storage* to, uint32_t kept) const {
#pragma unroll
    for (int i = 0; i < kCount; i += 4) {
      const uint32_t bits = kept >> i * kPerWord;
      Bytes16 piece;
      uint32_t changed = 0;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        piece.word[j] = word[i + j] & (kPerWord == 1 ? 0u - (bits >> j & 1u) : halves(bits >> 2 * j));
        changed |= piece.word[j] ^ word[i + j];
      }
      if (changed) reinterpret_cast<Bytes16*>(to)[i / 4] = piece;
    }
  }

  // Two bits as two halves of a word, all ones or zeros.
  __device__ __forceinline__ static uint32_t halves(uint32_t bits) {
    return ((bits & 1u) | (bits & 2u) << 15) * 0xffffu;
  }

  uint32_t word[kCount];
};

// Blocks per multiprocessor that the registers must allow.
template <int kGroup>
constexpr int kResidentGroups = kGroup <= 8 ? 8 : kGroup == 16 ? 4 : 2;

// Groups of a power of two in an aligned matrix that they divide, without a matrix of scores. A thread takes kUnit
// columns of every `apart`-th row, and keeps their scales; the next row is on its way meanwhile.
template <class Dtype, int kGroup, class Wanted>
__global__ void __launch_bounds__(kGroupThreads, kResidentGroups<kGroup>)
    select_groups(ScoredMatrix<Dtype> matrix, Grouping grouping, int64_t apart, int32_t* bad) {
  constexpr int kColumns = kUnit<kGroup>;
  const int64_t units = matrix.columns / kColumns;
  const int64_t task = static_cast<int64_t>(blockIdx.x) * kGroupThreads + threadIdx.x;
  const int64_t first_row = task / units, column = (task - first_row * units) * kColumns;
  if (first_row >= apart || (grouping.bad && *grouping.bad)) return;

  float scale[kColumns];
  if (matrix.column_scale) {
    Words<Float32, kColumns> words;
    words.load(reinterpret_cast<const uint32_t*>(matrix.column_scale + column));
#pragma unroll
    for (int i = 0; i < kColumns; ++i) scale[i] = float_of(words.word[i]);
  } else {
#pragma unroll
    for (int i = 0; i < kColumns; ++i) scale[i] = 1.0f;
  }

  auto* place = matrix.weight + first_row * matrix.stride + column;
  const int64_t out_bytes = grouping.packed ? matrix.columns / 8 : matrix.columns;
  uint8_t* out = grouping.out + first_row * out_bytes + (grouping.packed ? column / 8 : column);
  Words<Dtype, kColumns> next;
  next.load(place);
#pragma unroll 1
  for (int64_t row = first_row; row < matrix.rows; row += apart) {
    const auto weights = next;
    auto* const next_place = place + apart * matrix.stride;
    if (row + apart < matrix.rows) next.load(next_place);

    uint32_t key[kColumns], highest = 0;
#pragma unroll
    for (int i = 0; i < kColumns; ++i) key[i] = key_of_product(Dtype::widen(weights.value(i)), scale[i]);
    if (bad) {
      // A weight that is not finite has a key from infinity on, whatever its scale: others need no second look.
#pragma unroll
      for (int i = 0; i < kColumns; ++i) highest = max(highest, key[i]);
      if (highest >= kInfinityBits && !weights.is_finite()) atomicOr(bad, 1);
    }
    if constexpr (std::is_same_v<Wanted, Ranks>) {
      uint64_t ranks[kColumns / 8];
      rank_groups<kGroup>(key, ranks);
#pragma unroll
      for (int i = 0; i < kColumns / 8; ++i) reinterpret_cast<uint64_t*>(out)[i] = ranks[i];
    } else {
      constexpr bool kHalf = std::is_same_v<Wanted, Half>;
      const uint32_t kept = kept_of_groups<kGroup, kHalf>(key, kHalf ? kGroup / 2 : grouping.keep);
      if (!grouping.out) {
        weights.store_kept(place, kept);
      } else if (!grouping.packed) {
#pragma unroll
        for (int i = 0; i < kColumns; i += 8) *reinterpret_cast<uint64_t*>(out + i) = bytes_of(kept >> i & 0xffu);
      } else if (kColumns == 8) {
        *out = static_cast<uint8_t>(kept);
      } else if (kColumns == 16) {
        *reinterpret_cast<uint16_t*>(out) = static_cast<uint16_t>(kept);
      } else {
        *reinterpret_cast<uint32_t*>(out) = kept;
      }
    }
    place = next_place;
    out += apart * out_bytes;
  }
}

// Groups of any size up to kSize: keys and results pass through shared memory, a thread takes one group.
template <class Dtype, int kSize, class Wanted>
__global__ void __launch_bounds__(kGroupThreads)
    select_any_groups(ScoredMatrix<Dtype> matrix, Grouping grouping, int32_t* bad) {
  alignas(16) __shared__ uint32_t keys[kGroupThreads * kSize];
  // Of these two the compiler keeps the one that is used.
  __shared__ uint32_t kept[kGroupThreads * kSize / 32];
  alignas(8) __shared__ uint8_t ranks[kGroupThreads * kSize];
  constexpr bool kRanks = std::is_same_v<Wanted, Ranks>;
  if (grouping.bad && *grouping.bad) return;
  const int32_t width = kGroupThreads * grouping.of;  // columns of a block: whole groups, whole bytes
  const int64_t strips = (matrix.columns + width - 1) / width;
  for (int64_t task = blockIdx.x; task < matrix.rows * strips; task += gridDim.x) {
    const int64_t index = task / strips;
    const int32_t first = static_cast<int32_t>(task - index * strips) * width;
    const ScoredRow<Dtype> row(matrix, index);
    for (int32_t i = threadIdx.x * kVector; i < width; i += kGroupThreads * kVector) {
      uint32_t key[kVector];
      row.keys(first + i, key);
      if (bad && row.is_bad(first + i, key)) atomicOr(bad, 1);
      memcpy(&keys[i], key, sizeof key);
    }
    if constexpr (!kRanks) {
      for (int i = threadIdx.x; i < kGroupThreads * kSize / 32; i += kGroupThreads) kept[i] = 0;
    }
    __syncthreads();

    const int begin = threadIdx.x * grouping.of;
    const int real = min(max(matrix.columns - first - begin, 0), grouping.of);
    const int stay_beyond = grouping.stay_beyond(real);
    uint32_t key[kSize];
#pragma unroll
    for (int i = 0; i < kSize; ++i) {
      key[i] = i < real ? keys[begin + i] : i < real + stay_beyond ? kStaysLast : kGoesFirst;
    }
    if constexpr (kRanks) {
      uint64_t eight[kSize / 8];
      rank_groups<kSize>(key, eight);
#pragma unroll
      for (int i = 0; i < kSize; ++i) {
        if (i < real) ranks[begin + i] = static_cast<uint8_t>(eight[i / 8] >> i % 8 * 8);
      }
    } else {
      const uint32_t bits = kept_of_groups<kSize, false>(key, grouping.keep) & ((uint64_t{1} << real) - 1);
      atomicOr(&kept[begin / 32], bits << begin % 32);
      if (begin % 32 + grouping.of > 32) atomicOr(&kept[begin / 32 + 1], bits >> (32 - begin % 32));
    }
    __syncthreads();

    for (int32_t i = threadIdx.x * kVector; i < width && first + i < matrix.columns; i += kGroupThreads * kVector) {
      uint8_t* const out = grouping.out + index * matrix.columns + first + i;
      if constexpr (kRanks) {
        write_ranks(out, &ranks[i], matrix.columns - first - i);
      } else {
        const uint32_t byte = kept[i / 32] >> i % 32 & 0xffu;
        if (!grouping.out) {
          zero_others(row, matrix.weight + index * matrix.stride, first + i, byte);
        } else if (grouping.packed) {
          grouping.out[index * ((matrix.columns + 7) / 8) + (first + i) / 8] = static_cast<uint8_t>(byte);
        } else {
          write_bytes(out, byte, matrix.columns - first - i);
        }
      }
    }
    __syncthreads();
  }
}

// Only looks at all values. A thread takes eight columns of every gridDim.y-th row.
template <class Dtype>
__global__ void __launch_bounds__(kGroupThreads) find_bad(ScoredMatrix<Dtype> matrix, int32_t* bad) {
  const int32_t column = static_cast<int32_t>(blockIdx.x * kGroupThreads + threadIdx.x) * kVector;
  if (column >= matrix.columns) return;
  bool found = false;
#pragma unroll 4
  for (int64_t index = blockIdx.y; index < matrix.rows; index += gridDim.y) {
    const ScoredRow<Dtype> row(matrix, index);
    uint32_t key[kVector];
    row.keys(column, key);
    found |= row.is_bad(column, key);
  }
  if (found) atomicOr(bad, 1);
}

}  // namespace
}  // namespace trim
