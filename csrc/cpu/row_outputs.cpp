// with_row_outputs: the running output of every row, moved from one prune count to the next.
//
// For each row the dense output y and the kept output k stay in memory. Going from count a to count b adds or subtracts
// the |b - a| weights between them in pruning order, each times its input column: a search moves by a few per cent of
// the columns per step, so all its steps together cost less than one dense product.
#include "row_outputs.h"

#include "kernels.h"
#include "products.h"
#include "row_sort.h"

namespace trim {
namespace {

constexpr int32_t kNowhere = -1;

// Column: uint16_t where it suffices, as the table of columns is what limits the size of a matrix.
template <class Column>
class Outputs final : public RowOutputs {
 public:
  Outputs(const tk_scored& scored, const TiledInputs& inputs, int threads)
      : scored_(scored),
        inputs_(inputs),
        team_(Team::size_for(scored.rows, kRows, threads)),
        column_(scored.rows * scored.columns),
        weight_(scored.rows * scored.columns),
        dense_(scored.rows * inputs.padded_tokens()),
        kept_(scored.rows * inputs.padded_tokens()),
        position_(scored.rows),
        first_(scored.rows),
        numbers_(4 * scored.rows) {
    double* numbers = numbers_;
    statistics = {numbers, numbers + scored.rows, numbers + 2 * scored.rows, numbers + 3 * scored.rows};
  }

  int prepare() { return team_.run(scored_.rows, kRows, prepare_rows, this); }

  int evaluate(const int32_t* prune_count) override {
    target_ = prune_count;
    return team_.run(scored_.rows, kRows, move_rows, this);
  }

 private:
  // What a row's first count was worth.
  struct First {
    int32_t count;
    double dropped_sq, cross;
  };

  static void prepare_rows(const void* self, RowQueue& queue);
  static void move_rows(const void* self, RowQueue& queue);

  const float* dense(int64_t row) const { return dense_ + row * inputs_.padded_tokens(); }
  float* kept(int64_t row) const { return kept_ + row * inputs_.padded_tokens(); }

  void load_row(int64_t row, float* weights) const;
  void move(int64_t row, int32_t count) const;
  void add(int64_t row, int64_t from, int64_t to, float sign) const;
  void measure_dense(int64_t row) const;
  void measure(int64_t row) const;
  void recall(int64_t row, bool is_first) const;

  const tk_scored& scored_;
  const TiledInputs& inputs_;
  Team team_;
  Buffer<Column> column_;  // [rows, columns], each row in pruning order
  Buffer<float> weight_;   // the weights of these columns
  Buffer<float> dense_, kept_;
  Buffer<int32_t> position_;  // the count that kept_ stands for
  Buffer<First> first_;
  Buffer<double> numbers_;
  const int32_t* target_ = nullptr;
};

template <class Column>
void Outputs<Column>::prepare_rows(const void* self, RowQueue& queue) {
  const Outputs& outputs = *static_cast<const Outputs*>(self);
  const tk_scored& scored = outputs.scored_;
  const int64_t columns = scored.columns, width = outputs.inputs_.padded_tokens();
  Buffer<uint32_t> keys(columns);
  Buffer<float> weights(columns * kRows), products(kRows * width);
  RowSort sort(columns);
  zero(weights, columns * kRows);
  for (int64_t begin, end; queue.take(&begin, &end);) {
    for (int64_t row = begin; row < end; ++row) {
      if (!row_keys(scored, row, keys)) return queue.fail(TK_BAD_VALUE);
      sort(keys, outputs.column_ + row * columns);
      outputs.load_row(row, weights + (row - begin));
      outputs.position_[row] = kNowhere;
    }
    multiply_rows(weights, columns, outputs.inputs_, products);
    std::memcpy(outputs.dense_ + begin * width, products, sizeof(float) * static_cast<size_t>((end - begin) * width));
    for (int64_t row = begin; row < end; ++row) {
      outputs.measure_dense(row);
      if (!is_finite(outputs.statistics.dense_sq[row])) return queue.fail(TK_OVERFLOW);
    }
  }
}

// Keeps a row's weights in pruning order, and copies them in column order for multiply_rows.
template <class Column>
void Outputs<Column>::load_row(int64_t row, float* weights) const {
  const int64_t columns = scored_.columns;
  const Column* column = column_ + row * columns;
  float* in_order = weight_ + row * columns;
  with_dtype(scored_, [&](auto dtype) {
    using Dtype = decltype(dtype);
    const auto* weight = weight_row<Dtype>(scored_, row);
    for (int64_t i = 0; i < columns; ++i) {
      in_order[i] = Dtype::widen(weight[column[i]]);
      weights[i * kRows] = Dtype::widen(weight[i]);
    }
  });
}

template <class Column>
void Outputs<Column>::move_rows(const void* self, RowQueue& queue) {
  const Outputs& outputs = *static_cast<const Outputs*>(self);
  for (int64_t begin, end; queue.take(&begin, &end);) {
    for (int64_t row = begin; row < end; ++row) {
      const int32_t here = outputs.position_[row];
      if (here == outputs.target_[row]) continue;
      outputs.move(row, outputs.target_[row]);
      outputs.measure(row);
      if (!is_finite(outputs.statistics.dropped_sq[row])) return queue.fail(TK_OVERFLOW);
      outputs.recall(row, here == kNowhere);
    }
  }
}

// From where k stands, from nothing kept or from everything kept, whichever is nearest: long moves do not let rounding
// errors pile up, and a row that loses nothing has k = y to the bit.
template <class Column>
void Outputs<Column>::move(int64_t row, int32_t count) const {
  const int64_t columns = scored_.columns, width = inputs_.padded_tokens();
  const int32_t here = position_[row];
  const int64_t distance = here == kNowhere ? columns + 1 : here < count ? count - here : here - count;
  if (columns - count <= distance && columns - count <= count) {
    zero(kept(row), width);
    add(row, count, columns, 1);
  } else if (count <= distance) {
    std::memcpy(kept(row), dense(row), sizeof(float) * static_cast<size_t>(width));
    add(row, 0, count, -1);
  } else if (here < count) {
    add(row, here, count, -1);
  } else {
    add(row, count, here, 1);
  }
  position_[row] = count;
}

// k += sign * the part of y from the weights between two places in pruning order.
template <class Column>
void Outputs<Column>::add(int64_t row, int64_t from, int64_t to, float sign) const {
  const Column* column = column_ + row * scored_.columns;
  const float* weight = weight_ + row * scored_.columns;
  constexpr int kVecs = kTile / kLanes;
  const int64_t stride = inputs_.column_stride();
  for (int64_t tile = 0; tile < inputs_.tiles(); ++tile) {
    const float* inputs = inputs_.tile(tile);
    float* out = kept(row) + tile * kTile;
    Vec sums[kVecs];
    std::memcpy(sums, out, sizeof sums);
    for (int64_t i = from; i < to; ++i) {
      const Vec* x = reinterpret_cast<const Vec*>(inputs + column[i] * stride);
      const float w = sign * weight[i];
      for (int v = 0; v < kVecs; ++v) sums[v] += w * x[v];
    }
    std::memcpy(out, sums, sizeof sums);
  }
}

// The padding after the last token is zero in y and in k.
template <class Column>
void Outputs<Column>::measure_dense(int64_t row) const {
  const float* y = dense(row);
  DoubleVec sum = {}, peak = {};
  for (int64_t t = 0; t < inputs_.padded_tokens(); t += kLanes / 2) {
    const DoubleVec value = widen(y + t), square = value * value;
    sum += square;
    peak = square > peak ? square : peak;
  }
  statistics.dense_sq[row] = sum_of(sum);
  double highest = 0;
  for (int lane = 0; lane < kLanes / 2; ++lane) highest = peak[lane] > highest ? peak[lane] : highest;
  statistics.peak[row] = highest;
}

// In float64: what is left of y may be a small difference of large numbers.
template <class Column>
void Outputs<Column>::measure(int64_t row) const {
  const float *y = dense(row), *k = kept(row);
  DoubleVec dropped_sq = {}, cross = {};
  for (int64_t t = 0; t < inputs_.padded_tokens(); t += kLanes / 2) {
    const DoubleVec value = widen(y + t), dropped = value - widen(k + t);
    dropped_sq += dropped * dropped;
    cross += value * dropped;
  }
  statistics.dropped_sq[row] = sum_of(dropped_sq);
  statistics.cross[row] = sum_of(cross);
}

// A row that returns to its first count is worth exactly what it was: otherwise rounding errors on the way could make
// equal counts look better than themselves.
template <class Column>
void Outputs<Column>::recall(int64_t row, bool is_first) const {
  First& first = first_[row];
  if (is_first) first = {position_[row], statistics.dropped_sq[row], statistics.cross[row]};
  if (position_[row] != first.count) return;
  statistics.dropped_sq[row] = first.dropped_sq;
  statistics.cross[row] = first.cross;
}

}  // namespace

namespace TRIM_ISA {

int with_row_outputs(const tk_scored* scored, const float* inputs, int64_t tokens, int threads, Search search,
                     void* state) {
  if (!all_finite(inputs, scored->columns * tokens)) return TK_BAD_VALUE;
  const TiledInputs tiled(inputs, scored->columns, tokens);
  const auto run = [&](auto&& outputs) {
    const int status = outputs.prepare();
    return status == TK_OK ? search(state, outputs) : status;
  };
  if (scored->columns <= 65536) return run(Outputs<uint16_t>(*scored, tiled, threads));
  return run(Outputs<uint32_t>(*scored, tiled, threads));
}

}  // namespace TRIM_ISA
}  // namespace trim
