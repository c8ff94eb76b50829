// nm_rank, nm_mask and prune_nm: the rank of every weight in its group of `of` columns, one row at a time, keys in
// scratch.
//
// A weight's rank is the number of weights of its group that come after it; where n of the group stay, a weight stays
// if its rank is below n. Column i goes before column j iff key i < key j, or key i <= key j where i < j; keys are
// below 2^31 - 1, so one comparison of key i with key j + (i < j) tells.
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

inline void store_bytes(uint8_t* bytes, IntVec values) {
  const ByteVec narrow = __builtin_convertvector(values, ByteVec);
  std::memcpy(bytes, &narrow, sizeof narrow);
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
  IntVec rank = IntVec{} + (of - 1);
  ((rank += goes_before<of, turn + 1>(keys, std::make_index_sequence<kLanes>{})), ...);  // -1 for each that does
  return rank;
}

// As many groups as fit into a vector, compared with themselves turned by 1, 2 ... of - 1 lanes. What is said about the
// lanes left over is overwritten by the next vector.
template <int of>
void rank_turned(const uint32_t* keys, int64_t columns, uint8_t* rank) {
  for (int64_t j = 0; j < columns; j += kLanes / of * of) {
    store_bytes(rank + j, ranks<of>(load_keys(keys + j), std::make_index_sequence<of - 1>{}));
  }
}

// One group at a time, of any size: every key is compared with all of its group.
void rank_any(const uint32_t* keys, int64_t columns, int of, uint8_t* ranks) {
  constexpr int kVecs = kLargestGroup / kLanes;
  IntVec lane[kVecs];
  for (int i = 0; i < kLargestGroup; ++i) lane[i / kLanes][i % kLanes] = i;
  for (int64_t first = 0; first < columns; first += of) {
    IntVec own[kVecs], rank[kVecs];
    for (int v = 0; v < kVecs; ++v) {
      own[v] = load_keys(keys + first + v * kLanes);
      rank[v] = IntVec{} + (of - 1);
    }
    for (int i = 0; i < of; ++i) {
      const int32_t other = static_cast<int32_t>(keys[first + i]);
      for (int v = 0; v < kVecs; ++v) rank[v] += other < own[v] - (lane[v] > i);
    }
    for (int v = 0; v < kVecs; ++v) store_bytes(ranks + first + v * kLanes, rank[v]);
  }
}

template <size_t... index>
void rank_groups(const uint32_t* keys, int64_t columns, int of, uint8_t* rank, std::index_sequence<index...>) {
  static constexpr void (*kTurned[])(const uint32_t*, int64_t, uint8_t*) = {rank_turned<index + 1>...};
  return of <= kLanes ? kTurned[of - 1](keys, columns, rank) : rank_any(keys, columns, of, rank);
}

struct Job {
  const tk_scored& scored;
  int of, keep;
  int packed;
  uint8_t* out;  // ranks or a mask
};

class RowRank {
 public:
  RowRank(const tk_scored& scored, int of)
      : scored_(scored), of_(of), keys_(scored.columns + kMargin), rank_(scored.columns + kMargin) {
    std::memset(keys_, 0, sizeof(uint32_t) * static_cast<size_t>(scored.columns + kMargin));
  }

  // One byte a weight of the row, valid until the next call; null if the row holds a bad value.
  template <class Dtype>
  uint8_t* operator()(int64_t row) {
    if (!row_keys<Dtype>(scored_, row, keys_)) return nullptr;
    const int64_t tail = scored_.columns % of_, whole = scored_.columns - tail;
    rank_groups(keys_, whole, of_, rank_, std::make_index_sequence<kLanes>{});
    if (tail) rank_any(keys_ + whole, tail, static_cast<int>(tail), rank_ + whole);
    return rank_;
  }

 private:
  const tk_scored& scored_;
  const int of_;
  Buffer<uint32_t> keys_;
  Buffer<uint8_t> rank_;
};

// Runs finish(row, rank, dtype) for every row of the matrix.
template <class Finish>
void each_row(const Job& job, RowQueue& queue, Finish finish) {
  with_dtype(job.scored, [&](auto dtype) {
    RowRank rank_of(job.scored, job.of);
    for (int64_t begin, end; queue.take(&begin, &end);) {
      for (int64_t row = begin; row < end; ++row) {
        uint8_t* rank = rank_of.operator()<decltype(dtype)>(row);
        if (!rank) return queue.fail(TK_BAD_VALUE);
        finish(row, rank, dtype);
      }
    }
  });
}

void rank_rows(const void* context, RowQueue& queue) {
  const Job& job = *static_cast<const Job*>(context);
  const int64_t columns = job.scored.columns;
  each_row(job, queue, [&](int64_t row, const uint8_t* rank, auto) {
    std::memcpy(job.out + row * columns, rank, static_cast<size_t>(columns));
  });
}

// Turns the ranks of a row into a mask: 1 = stays, and zeros up to a multiple of eight.
void keep_lowest(const Job& job, uint8_t* rank) {
  const int64_t columns = job.scored.columns, tail = columns % job.of;
  const auto keep = static_cast<uint8_t>(job.keep);
  const auto tail_keep = static_cast<uint8_t>((keep * tail + job.of - 1) / job.of);
  for (int64_t j = 0; j < columns - tail; ++j) rank[j] = rank[j] < keep;
  for (int64_t j = columns - tail; j < columns; ++j) rank[j] = rank[j] < tail_keep;
  std::memset(rank + columns, 0, 8);
}

void mask_rows(const void* context, RowQueue& queue) {
  const Job& job = *static_cast<const Job*>(context);
  const int64_t columns = job.scored.columns, bytes = (columns + 7) / 8;
  each_row(job, queue, [&](int64_t row, uint8_t* kept, auto) {
    keep_lowest(job, kept);
    if (job.packed) {
      for (int64_t i = 0; i < bytes; ++i) job.out[row * bytes + i] = pack_byte(kept + i * 8);
    } else {
      std::memcpy(job.out + row * columns, kept, static_cast<size_t>(columns));
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
  each_row(job, queue, [&](int64_t row, uint8_t* kept, auto dtype) {
    keep_lowest(job, kept);
    auto* weight = weight_row<decltype(dtype)>(job.scored, row);
    for (int64_t j = 0; j < job.scored.columns; ++j) weight[j] = kept[j] ? weight[j] : 0;
  });
}

}  // namespace

namespace TRIM_ISA {

int nm_rank(const tk_scored* scored, int of, uint8_t* rank, int threads) {
  const Job job{*scored, of, 0, 0, rank};
  return on_threads(scored->rows, kChunk, threads, rank_rows, &job);
}

int nm_mask(const tk_scored* scored, int keep, int of, int packed, uint8_t* mask, int threads) {
  const Job job{*scored, of, keep, packed, mask};
  return on_threads(scored->rows, kChunk, threads, mask_rows, &job);
}

int prune_nm(const tk_scored* scored, int keep, int of, int threads) {
  const Job job{*scored, of, keep, 0, nullptr};
  Team team(Team::size_for(scored->rows, kChunk, threads));
  // All of the matrix is looked at before any of it changes.
  const int status = team.run(scored->rows, kChunk, check_rows, &job);
  return status == TK_OK ? team.run(scored->rows, kChunk, trim::prune_rows, &job) : status;
}

}  // namespace TRIM_ISA
}  // namespace trim
