// One sparse row: the numbers that are given, and their products with rows of all features.
#pragma once

#include "kernel/rows/load-inl.h"

namespace km::KM_TARGET {
namespace {

// Numbers values[0 .. count - 1] of features columns[0 .. count - 1], which ascend; all other
// features are 0. Made for row i of rows, 0 <= i < n.
template <typename T>
struct SparseRow {
  SparseRow(const km_sparse& rows, int64_t i)
      : values(values_of<T>(rows) + rows.starts[i]),
        columns(rows.columns + rows.starts[i]),
        count(rows.starts[i + 1] - rows.starts[i]),
        until_last(rows.starts[rows.n] - rows.starts[i]) {}

  // Whether all numbers that are given are 0: a row without direction, which weighs nothing under
  // the cosine metric.
  bool is_zero() const {
    for (int64_t n = 0; n < count; ++n)
      if (values[n] != 0) return false;
    return true;
  }

  // x·c with a row c (d), feature by feature, in double.
  double product(const T* c) const {
    double sum = 0;
    for (int64_t n = 0; n < count; ++n) sum = fused(double(values[n]), double(c[columns[n]]), sum);
    return sum;
  }

  // ‖x‖²: the same operations as product with a row that is equal, so that ‖x‖² + ‖c‖² - 2 x·c of a
  // row that is its centroid is 0.
  double squares() const {
    double sum = 0;
    for (int64_t n = 0; n < count; ++n) sum = fused(double(values[n]), double(values[n]), sum);
    return sum;
  }

  const T* const values;
  const int32_t* const columns;
  const int64_t count;       // numbers of this row
  const int64_t until_last;  // numbers of this row and of all that follow, which are behind it
};

// Asks the caches for the line of table (d, pitch) that number n + 8, perhaps of the next row, will
// be multiplied with: kNumbers of it. Lines come in no order that a processor could foresee, and
// eight products later is about when memory has answered.
template <int kNumbers, typename T, typename P>
inline void fetch_ahead(const SparseRow<T>& row, int64_t n, const P* table, int64_t pitch) {
  constexpr int64_t kAhead = 8, kLine = 64 / sizeof(P);
  if (n + kAhead >= row.until_last) return;
  const P* const line = table + int64_t{row.columns[n + kAhead]} * pitch;
  for (int64_t j = 0; j < kNumbers; j += kLine) __builtin_prefetch(line + j);
}

// Products x·c (kWide * 16) of a row with kWide * 16 centroids: a strip of SparsePlaces::columns,
// whose lines are `places` numbers apart.
template <int kWide, typename T>
KM_NOINLINE void multiply(const SparseRow<T>& row, const T* columns, int64_t places, T* products) {
  Sixteen<T> sum[kWide];
  for (int w = 0; w < kWide; ++w) sum[w] = broadcast(T(0));
  for (int64_t n = 0; n < row.count; ++n) {
    fetch_ahead<kWide * kLanes>(row, n, columns, places);
    const T* const column = columns + int64_t{row.columns[n]} * places;
    for (int w = 0; w < kWide; ++w) add_product(sum[w], load(column + w * kLanes), row.values[n]);
  }
  for (int w = 0; w < kWide; ++w) store(products + w * kLanes, sum[w]);
}

// Products x·c (s.count) of a row with all centroids, by strips: as wide as sums fit in registers
// (64 floats or 32 doubles), and what is left over by narrower ones.
template <typename T>
void multiply_all(const SparseRow<T>& row, const SparsePlaces<T>& s, T* products) {
  constexpr int kWide = 16 / sizeof(T);
  const T* const columns = s.columns;
  int64_t place = 0;
  for (; place + kWide * kLanes <= s.count; place += kWide * kLanes)
    multiply<kWide>(row, columns + place, s.count, products + place);
  for (; place + 2 * kLanes <= s.count; place += 2 * kLanes)
    multiply<2>(row, columns + place, s.count, products + place);
  if (place < s.count) multiply<1>(row, columns + place, s.count, products + place);
}

}  // namespace
}  // namespace km::KM_TARGET
