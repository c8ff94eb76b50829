// obs_update: some rows of a block of columns at a time, transposed so that a vector holds one column of them.
//
// The columns go in steps of a few whose errors stay in registers, while each column to the right is read and written
// once for the whole step. A column that is done holds the error where a weight went, and the weight where it stays.
#include <cstring>
#include <memory>

#include "kernels.h"
#include "parallel.h"
#include "vector.h"

namespace trim {
namespace {

constexpr int kVecs = 2;                // vectors of rows: two chains of operations side by side
constexpr int kRows = kVecs * kLanes;   // rows of a tile
constexpr int kStep = 8;                // columns whose errors stay in registers

typedef uint8_t Bytes __attribute__((vector_size(kLanes)));

template <class T>
inline T load(const void* from, int64_t count) {
  T value = {};
  std::memcpy(&value, from, count * (sizeof(T) / kLanes));
  return value;
}

// Whole vectors have a path of their own: a copy of known size is one instruction.
template <class T>
inline T load_some(const void* from, int64_t count) {
  return count >= kLanes ? load<T>(from, kLanes) : load<T>(from, count);
}

inline void store_some(float* to, Vec value, int64_t count) {
  if (count >= kLanes) {
    std::memcpy(to, &value, sizeof value);
  } else {
    std::memcpy(to, &value, count * sizeof(float));
  }
}

// All bits set where a weight goes.
inline IntVec goes(const uint8_t* kept, int64_t count) {
  return __builtin_convertvector(load_some<Bytes>(kept, count), IntVec) == 0;
}

class Tile {
 public:
  explicit Tile(const tk_elimination& job)
      : job_(job), values_(new Column[padded(job.columns)]), goes_(new Column[padded(job.columns)]) {}

  void eliminate(int64_t first_row) {
    first_ = first_row;
    read();
    for (int64_t j = 0; j < job_.columns; j += kStep) step(j);
    write();
  }

 private:
  struct alignas(64) Column {
    Vec rows[kVecs];
  };

  static int64_t padded(int64_t columns) { return (columns + kLanes - 1) / kLanes * kLanes; }

  int64_t rows_left(int v) const {
    const int64_t left = job_.rows - first_ - v * kLanes;
    return left < 0 ? 0 : left < kLanes ? left : kLanes;
  }

  void read() {
    for (int v = 0; v < kVecs; ++v) {
      const int64_t rows = rows_left(v), row = first_ + v * kLanes;
      for (int64_t j = 0; j < job_.columns; j += kLanes) {
        Vec values[kLanes] = {}, going[kLanes] = {};
        for (int64_t i = 0; i < rows; ++i) {
          values[i] = load_some<Vec>(job_.weight + (row + i) * job_.stride + j, job_.columns - j);
          going[i] = reinterpret_cast<Vec>(goes(job_.kept + (row + i) * job_.kept_stride + j, job_.columns - j));
        }
        transpose(values);
        transpose(going);
        for (int c = 0; c < kLanes; ++c) {
          values_[j + c].rows[v] = values[c];
          goes_[j + c].rows[v] = going[c];
        }
      }
    }
  }

  void step(int64_t first) {
    const int64_t columns = job_.columns;
    const int count = static_cast<int>(columns - first < kStep ? columns - first : kStep);
    const float* const factor = job_.factor + first * columns;
    Vec errors[kStep][kVecs];
    for (int s = 0; s < count; ++s) {
      Column& column = values_[first + s];
      const float* const row = factor + s * columns + first;
      for (int v = 0; v < kVecs; ++v) {
        const IntVec going = reinterpret_cast<IntVec>(goes_[first + s].rows[v]);
        const IntVec error = reinterpret_cast<IntVec>(column.rows[v] / row[s]) & going;
        errors[s][v] = reinterpret_cast<Vec>(error);
        column.rows[v] = reinterpret_cast<Vec>(error | (reinterpret_cast<IntVec>(column.rows[v]) & ~going));
      }
      for (int t = s + 1; t < count; ++t) {
        for (int v = 0; v < kVecs; ++v) values_[first + t].rows[v] -= errors[s][v] * row[t];
      }
    }
    for (int64_t k = first + kStep; k < columns; ++k) {
      Column column = values_[k];
      for (int s = 0; s < kStep; ++s) {
        const float share = factor[s * columns + k];
        for (int v = 0; v < kVecs; ++v) column.rows[v] -= errors[s][v] * share;
      }
      values_[k] = column;
    }
  }

  void write() {
    for (int v = 0; v < kVecs; ++v) {
      const int64_t rows = rows_left(v), row = first_ + v * kLanes;
      for (int64_t j = 0; j < job_.columns; j += kLanes) {
        Vec values[kLanes];
        for (int c = 0; c < kLanes; ++c) values[c] = values_[j + c].rows[v];
        transpose(values);
        for (int64_t i = 0; i < rows; ++i) {
          const IntVec value = reinterpret_cast<IntVec>(values[i]);
          const IntVec going = goes(job_.kept + (row + i) * job_.kept_stride + j, job_.columns - j);
          float* const weight = job_.weight + (row + i) * job_.stride + j;
          float* const error = job_.errors + (row + i) * job_.errors_stride + j;
          store_some(weight, reinterpret_cast<Vec>(value & ~going), job_.columns - j);
          store_some(error, reinterpret_cast<Vec>(value & going), job_.columns - j);
        }
      }
    }
  }

  const tk_elimination& job_;
  int64_t first_ = 0;
  const std::unique_ptr<Column[]> values_, goes_;
};

void work(const void* context, RowQueue& queue) {
  const tk_elimination& job = *static_cast<const tk_elimination*>(context);
  Tile tile(job);
  for (int64_t begin, end; queue.take(&begin, &end);) {
    for (int64_t row = begin; row < end; row += kRows) tile.eliminate(row);
  }
}

}  // namespace

namespace TRIM_ISA {

int obs_update(const tk_elimination* job, int threads) {
  return on_threads(job->rows, kRows, threads, work, job);
}

}  // namespace TRIM_ISA
}  // namespace trim
