// pack_values, unpack_values: the kept weights of a row side by side, and back. Bits are moved, never computed with.
//
// A vector of weights is compressed (or expanded) by the bits of its mask: in one instruction of AVX-512, by a table of
// permutations in AVX2, bit by bit elsewhere and where a whole vector would reach beyond its row.
#include <cstring>

#ifdef TRIM_X86
#include <immintrin.h>
#endif

#include "kernels.h"
#include "parallel.h"

namespace trim {
namespace {

constexpr int64_t kChunk = 1 << 16;  // weights that a thread takes at once

int64_t rows_of_chunk(int64_t columns) { return columns < kChunk ? kChunk / columns : 1; }

int64_t mask_bytes(int64_t columns) { return (columns + 7) / 8; }

// The bits of `count` <= 8 columns.
inline unsigned some_bits(uint8_t byte, int64_t count) { return count >= 8 ? byte : byte & ((1u << count) - 1); }

template <class Value>
inline Value* pack_bits(const Value* weight, unsigned bits, Value* values) {
  for (; bits != 0; bits &= bits - 1) *values++ = weight[__builtin_ctz(bits)];
  return values;
}

template <class Value>
inline const Value* unpack_bits(const Value* values, unsigned bits, Value* weight, int64_t count) {
  for (int64_t i = 0; i < count; ++i) weight[i] = bits >> i & 1 ? *values++ : Value{0};
  return values;
}

#if defined(__AVX512F__)

constexpr int kColumns = 16;  // of a vector

inline unsigned bits_of(const uint8_t* kept) { return kept[0] | kept[1] << 8; }

inline __mmask16 lowest(int count) { return static_cast<__mmask16>((1u << count) - 1); }

inline uint32_t* pack(const uint32_t* weight, unsigned bits, uint32_t* values, const uint32_t*) {
  const int count = __builtin_popcount(bits);
  const __m512i packed = _mm512_maskz_compress_epi32(static_cast<__mmask16>(bits), _mm512_loadu_si512(weight));
  _mm512_mask_storeu_epi32(values, lowest(count), packed);
  return values + count;
}

inline uint16_t* pack(const uint16_t* weight, unsigned bits, uint16_t* values, const uint16_t*) {
  const int count = __builtin_popcount(bits);
  const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(weight)));
  const __m512i packed = _mm512_maskz_compress_epi32(static_cast<__mmask16>(bits), wide);
  _mm256_mask_storeu_epi16(values, lowest(count), _mm512_cvtepi32_epi16(packed));
  return values + count;
}

inline const uint32_t* unpack(const uint32_t* values, unsigned bits, uint32_t* weight, const uint32_t*) {
  const int count = __builtin_popcount(bits);
  const __m512i packed = _mm512_maskz_loadu_epi32(lowest(count), values);
  _mm512_storeu_si512(weight, _mm512_maskz_expand_epi32(static_cast<__mmask16>(bits), packed));
  return values + count;
}

inline const uint16_t* unpack(const uint16_t* values, unsigned bits, uint16_t* weight, const uint16_t*) {
  const int count = __builtin_popcount(bits);
  const __m512i packed = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(lowest(count), values));
  const __m512i spread = _mm512_maskz_expand_epi32(static_cast<__mmask16>(bits), packed);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(weight), _mm512_cvtepi32_epi16(spread));
  return values + count;
}

#elif defined(__AVX2__)

constexpr int kColumns = 8;

inline unsigned bits_of(const uint8_t* kept) { return *kept; }

// For each byte of a mask: the columns that stay, in order; and for each column how many stay before it.
struct Lanes {
  uint64_t kept[256] = {}, before[256] = {};

  constexpr Lanes() {
    for (int bits = 0; bits < 256; ++bits) {
      int count = 0;
      for (int i = 0; i < 8; ++i) {
        before[bits] |= static_cast<uint64_t>(count) << 8 * i;
        if (bits >> i & 1) kept[bits] |= static_cast<uint64_t>(i) << 8 * count++;
      }
    }
  }
};

constexpr Lanes kLanesOf;

inline __m256i lanes(uint64_t bytes) { return _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(static_cast<int64_t>(bytes))); }

// The two bytes of each 16-bit lane.
inline __m128i halves(uint64_t bytes) {
  const __m128i lane = _mm_cvtepu8_epi16(_mm_cvtsi64_si128(static_cast<int64_t>(bytes)));
  return _mm_add_epi16(_mm_mullo_epi16(lane, _mm_set1_epi16(0x0202)), _mm_set1_epi16(0x0100));
}

inline uint32_t* pack(const uint32_t* weight, unsigned bits, uint32_t* values, const uint32_t* end) {
  if (end - values < kColumns) return pack_bits(weight, bits, values);
  const __m256i dense = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(weight));
  const __m256i packed = _mm256_permutevar8x32_epi32(dense, lanes(kLanesOf.kept[bits]));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(values), packed);
  return values + __builtin_popcount(bits);
}

inline uint16_t* pack(const uint16_t* weight, unsigned bits, uint16_t* values, const uint16_t* end) {
  if (end - values < kColumns) return pack_bits(weight, bits, values);
  const __m128i dense = _mm_loadu_si128(reinterpret_cast<const __m128i*>(weight));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(values), _mm_shuffle_epi8(dense, halves(kLanesOf.kept[bits])));
  return values + __builtin_popcount(bits);
}

inline const uint32_t* unpack(const uint32_t* values, unsigned bits, uint32_t* weight, const uint32_t* end) {
  if (end - values < kColumns) return unpack_bits(values, bits, weight, kColumns);
  const __m256i packed = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(values));
  const __m256i spread = _mm256_permutevar8x32_epi32(packed, lanes(kLanesOf.before[bits]));
  const __m256i bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  const __m256i stays = _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(static_cast<int>(bits)), bit), bit);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(weight), _mm256_and_si256(spread, stays));
  return values + __builtin_popcount(bits);
}

inline const uint16_t* unpack(const uint16_t* values, unsigned bits, uint16_t* weight, const uint16_t* end) {
  if (end - values < kColumns) return unpack_bits(values, bits, weight, kColumns);
  const __m128i packed = _mm_loadu_si128(reinterpret_cast<const __m128i*>(values));
  const __m128i spread = _mm_shuffle_epi8(packed, halves(kLanesOf.before[bits]));
  const __m128i bit = _mm_setr_epi16(1, 2, 4, 8, 16, 32, 64, 128);
  const __m128i stays = _mm_cmpeq_epi16(_mm_and_si128(_mm_set1_epi16(static_cast<int16_t>(bits)), bit), bit);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(weight), _mm_and_si128(spread, stays));
  return values + __builtin_popcount(bits);
}

#else

constexpr int kColumns = 8;

inline unsigned bits_of(const uint8_t* kept) { return *kept; }

template <class Value>
inline Value* pack(const Value* weight, unsigned bits, Value* values, const Value*) {
  return pack_bits(weight, bits, values);
}

template <class Value>
inline const Value* unpack(const Value* values, unsigned bits, Value* weight, const Value*) {
  return unpack_bits(values, bits, weight, kColumns);
}

#endif

// `end`: where the values of the row end.
template <class Value>
void pack_row(const Value* weight, const uint8_t* kept, int64_t columns, Value* values, const Value* end) {
  int64_t j = 0;
  for (; j + kColumns <= columns; j += kColumns) values = pack(weight + j, bits_of(kept + j / 8), values, end);
  for (; j < columns; j += 8) values = pack_bits(weight + j, some_bits(kept[j / 8], columns - j), values);
}

// `end`: where all values end.
template <class Value>
void unpack_row(const Value* values, const uint8_t* kept, int64_t columns, Value* weight, const Value* end) {
  int64_t j = 0;
  for (; j + kColumns <= columns; j += kColumns) values = unpack(values, bits_of(kept + j / 8), weight + j, end);
  for (; j < columns; j += 8) {
    const int64_t count = columns - j < 8 ? columns - j : 8;
    values = unpack_bits(values, some_bits(kept[j / 8], count), weight + j, count);
  }
}

// Calls visit(packing, row, weight, kept, values) for the rows of the queue.
template <class Value, class Visit>
void each_row(const tk_packing& packing, RowQueue& queue, Visit visit) {
  Value* const values = static_cast<Value*>(packing.values);
  for (int64_t row, end; queue.take(&row, &end);) {
    for (; row < end; ++row) {
      visit(row, static_cast<Value*>(packing.weight) + row * packing.stride,
            packing.kept + row * mask_bytes(packing.columns), values + packing.starts[row]);
    }
  }
}

template <class Value>
void pack_rows(const tk_packing& packing, RowQueue& queue) {
  const Value* const values = static_cast<const Value*>(packing.values);
  each_row<Value>(packing, queue, [&](int64_t row, const Value* weight, const uint8_t* kept, Value* of_row) {
    pack_row(weight, kept, packing.columns, of_row, values + packing.starts[row + 1]);
  });
}

template <class Value>
void unpack_rows(const tk_packing& packing, RowQueue& queue) {
  const Value* const end = static_cast<const Value*>(packing.values) + packing.starts[packing.rows];
  each_row<Value>(packing, queue, [&](int64_t, Value* weight, const uint8_t* kept, const Value* of_row) {
    unpack_row(of_row, kept, packing.columns, weight, end);
  });
}

// Each row's number of kept weights, at the place after the row's own.
void count_rows(const tk_packing& packing, RowQueue& queue) {
  const int64_t bytes = mask_bytes(packing.columns), whole = packing.columns / 8;
  for (int64_t row, end; queue.take(&row, &end);) {
    for (; row < end; ++row) {
      const uint8_t* const kept = packing.kept + row * bytes;
      int64_t count = 0, b = 0;
      for (; b + 8 <= whole; b += 8) {
        uint64_t word;
        std::memcpy(&word, kept + b, sizeof word);
        count += __builtin_popcountll(word);
      }
      for (; b < bytes; ++b) count += __builtin_popcount(some_bits(kept[b], packing.columns - 8 * b));
      packing.starts[row + 1] = count;
    }
  }
}

using OfRows = void (*)(const tk_packing&, RowQueue&);

struct Job {
  const tk_packing& packing;
  OfRows rows;
};

void work(const void* context, RowQueue& queue) {
  const Job& job = *static_cast<const Job*>(context);
  job.rows(job.packing, queue);
}

int run(const tk_packing* packing, OfRows rows, int threads) {
  const Job job{*packing, rows};
  return on_threads(packing->rows, rows_of_chunk(packing->columns), threads, work, &job);
}

}  // namespace

namespace TRIM_ISA {

int packing_starts(const tk_packing* packing, int threads) {
  const int status = run(packing, count_rows, threads);
  packing->starts[0] = 0;
  for (int64_t row = 0; row < packing->rows; ++row) packing->starts[row + 1] += packing->starts[row];
  return status;
}

int pack_values(const tk_packing* packing, int threads) {
  return run(packing, packing->dtype == TK_FLOAT32 ? pack_rows<uint32_t> : pack_rows<uint16_t>, threads);
}

int unpack_values(const tk_packing* packing, int threads) {
  return run(packing, packing->dtype == TK_FLOAT32 ? unpack_rows<uint32_t> : unpack_rows<uint16_t>, threads);
}

}  // namespace TRIM_ISA
}  // namespace trim
