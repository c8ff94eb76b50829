// nm_mask and prune_nm: the rank of every weight in its group of `of` columns, one row at a time, keys in scratch.
//
// A weight's rank is the number of weights of its group that go before it; it stays if that is enough. Column i goes
// before column j iff key i < key j, or key i <= key j where i < j; keys are below 2^31 - 1, so one comparison of key i
// with key j + (i < j) tells.
#include "kernels.h"
#include "mask_bits.h"
#include "row_keys.h"
#include "vector.h"

namespace trim {
namespace {

constexpr int64_t kChunk = 16;
constexpr int kLargestGroup = 32;
// Vectors may reach this far beyond a row, into memory that holds nothing.
constexpr int64_t kMargin = kLargestGroup + kLanes;

typedef int8_t ByteVec __attribute__((vector_size(kLanes)));

inline IntVec load_keys(const uint32_t* keys) {
  IntVec vector;
  std::memcpy(&vector, keys, sizeof vector);
  return vector;
}

inline void store_kept(uint8_t* kept, IntVec rank, int goes) {
  const ByteVec bytes = __builtin_convertvector(rank >= goes, ByteVec) & 1;
  std::memcpy(kept, &bytes, sizeof bytes);
}

// The lane `shift` lanes further in the group of a lane, which ends where it begins. Groups of `of` lanes lie side by
// side; the lanes that are left over hold no whole group and do not matter.
constexpr int turned(int lane, int of, int shift) {
  return lane < kLanes / of * of ? lane / of * of + (lane % of + shift) % of : lane;
}

template <int of, int shift, size_t... lane>
inline IntVec goes_before(IntVec keys, std::index_sequence<lane...>) {
#if defined(__clang__)
  const IntVec others = __builtin_shufflevector(keys, keys, turned(lane, of, shift)...);
#else
  const IntVec others = __builtin_shuffle(keys, IntVec{turned(lane, of, shift)...});
#endif
  return others < keys + IntVec{(turned(lane, of, shift) < static_cast<int>(lane))...};
}

template <int of, size_t... turn>
inline IntVec ranks([[maybe_unused]] IntVec keys, std::index_sequence<turn...>) {
  IntVec rank = {};
  ((rank -= goes_before<of, turn + 1>(keys, std::make_index_sequence<kLanes>{})), ...);
  return rank;
}

// As many groups as fit into a vector, compared with themselves turned by 1, 2 ... of - 1 lanes. What is said about the
// lanes left over is overwritten by the next vector.
template <int of>
void keep_turned(const uint32_t* keys, int64_t columns, int goes, uint8_t* kept) {
  for (int64_t j = 0; j < columns; j += kLanes / of * of) {
    store_kept(kept + j, ranks<of>(load_keys(keys + j), std::make_index_sequence<of - 1>{}), goes);
  }
}

// One group at a time, of any size: every key is compared with all of its group.
void keep_any(const uint32_t* keys, int64_t columns, int of, int goes, uint8_t* kept) {
  constexpr int kVecs = kLargestGroup / kLanes;
  IntVec lane[kVecs];
  for (int i = 0; i < kLargestGroup; ++i) lane[i / kLanes][i % kLanes] = i;
  for (int64_t first = 0; first < columns; first += of) {
    IntVec own[kVecs], rank[kVecs] = {};
    for (int v = 0; v < kVecs; ++v) own[v] = load_keys(keys + first + v * kLanes);
    for (int i = 0; i < of; ++i) {
      const int32_t other = static_cast<int32_t>(keys[first + i]);
      for (int v = 0; v < kVecs; ++v) rank[v] -= other < own[v] - (lane[v] > i);
    }
    for (int v = 0; v < kVecs; ++v) store_kept(kept + first + v * kLanes, rank[v], goes);
  }
}

template <size_t... index>
void keep_groups(const uint32_t* keys, int64_t columns, int of, int goes, uint8_t* kept,
                 std::index_sequence<index...>) {
  static constexpr void (*kTurned[])(const uint32_t*, int64_t, int, uint8_t*) = {keep_turned<index + 1>...};
  return of <= kLanes ? kTurned[of - 1](keys, columns, goes, kept) : keep_any(keys, columns, of, goes, kept);
}

struct Job {
  const tk_scored& scored;
  int keep, of;
  int packed;
  uint8_t* mask;
};

class RowKeep {
 public:
  explicit RowKeep(const Job& job)
      : job_(job), keys_(job.scored.columns + kMargin), kept_(job.scored.columns + kMargin) {
    std::memset(keys_, 0, sizeof(uint32_t) * static_cast<size_t>(job.scored.columns + kMargin));
  }

  // One byte a weight of the row, 1 = stays, and zeros up to a multiple of eight; null if the row holds a bad value.
  template <class Dtype>
  const uint8_t* operator()(int64_t row) {
    if (!row_keys<Dtype>(job_.scored, row, keys_)) return nullptr;
    const int64_t columns = job_.scored.columns;
    const int tail = static_cast<int>(columns % job_.of);
    keep_groups(keys_, columns - tail, job_.of, job_.of - job_.keep, kept_, std::make_index_sequence<kLanes>{});
    if (tail) {
      const int tail_keep = (job_.keep * tail + job_.of - 1) / job_.of;
      keep_any(keys_ + columns - tail, tail, tail, tail - tail_keep, kept_ + columns - tail);
    }
    std::memset(kept_ + columns, 0, 8);
    return kept_;
  }

 private:
  const Job& job_;
  Buffer<uint32_t> keys_;
  Buffer<uint8_t> kept_;
};

// Runs finish(row, kept, dtype) for every row of the matrix.
template <class Finish>
void keep_rows(const Job& job, RowQueue& queue, Finish finish) {
  with_dtype(job.scored, [&](auto dtype) {
    RowKeep keep(job);
    for (int64_t begin, end; queue.take(&begin, &end);) {
      for (int64_t row = begin; row < end; ++row) {
        const uint8_t* kept = keep.operator()<decltype(dtype)>(row);
        if (!kept) return queue.fail(TK_BAD_VALUE);
        finish(row, kept, dtype);
      }
    }
  });
}

void mask_rows(const void* context, RowQueue& queue) {
  const Job& job = *static_cast<const Job*>(context);
  const int64_t columns = job.scored.columns, bytes = (columns + 7) / 8;
  keep_rows(job, queue, [&](int64_t row, const uint8_t* kept, auto) {
    if (job.packed) {
      for (int64_t i = 0; i < bytes; ++i) job.mask[row * bytes + i] = pack_byte(kept + i * 8);
    } else {
      std::memcpy(job.mask + row * columns, kept, static_cast<size_t>(columns));
    }
  });
}

void check_rows(const void* context, RowQueue& queue) {
  const tk_scored& scored = static_cast<const Job*>(context)->scored;
  Buffer<uint32_t> keys(scored.columns);
  for (int64_t begin, end; queue.take(&begin, &end);) {
    for (int64_t row = begin; row < end; ++row) {
      if (!row_keys(scored, row, keys)) return queue.fail(TK_BAD_VALUE);
    }
  }
}

void prune_rows(const void* context, RowQueue& queue) {
  const Job& job = *static_cast<const Job*>(context);
  keep_rows(job, queue, [&](int64_t row, const uint8_t* kept, auto dtype) {
    auto* weight = weight_row<decltype(dtype)>(job.scored, row);
    for (int64_t j = 0; j < job.scored.columns; ++j) weight[j] = kept[j] ? weight[j] : 0;
  });
}

}  // namespace

namespace TRIM_ISA {

int nm_mask(const tk_scored* scored, int keep, int of, int packed, uint8_t* mask, int threads) {
  const Job job{*scored, keep, of, packed, mask};
  return on_threads(scored->rows, kChunk, threads, mask_rows, &job);
}

int prune_nm(const tk_scored* scored, int keep, int of, int threads) {
  const Job job{*scored, keep, of, 0, nullptr};
  Team team(Team::size_for(scored->rows, kChunk, threads));
  // All of the matrix is looked at before any of it changes.
  const int status = team.run(scored->rows, kChunk, check_rows, &job);
  return status == TK_OK ? team.run(scored->rows, kChunk, trim::prune_rows, &job) : status;
}

}  // namespace TRIM_ISA
}  // namespace trim
