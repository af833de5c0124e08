// The normalization for cosine of csrc/README.md, of sparse rows: zeros change neither m nor a sum
// of squares, so that the numbers get the bits that they would get in the whole row. m, p, y, lane,
// totals and norm have the names of the pseudo-code.
#pragma once

#include "kernel/sparse/row-inl.h"

namespace km::KM_TARGET {
namespace {

// sum_of_squares(y, d) of the row whose numbers are y (row.count) at the columns of row.
template <typename T>
inline T sum_of_squares_of_sparse(const SparseRow<T>& row, const T* y, int64_t d) {
  if (d <= kFewFeatures) {
    T s = 0;
    for (int64_t n = 0; n < row.count; ++n) s = fused(y[n], y[n], s);
    return s;
  }
  // Columns ascend, so that parts of kFeaturesInPart come one after the other; a part without
  // numbers would add zeros, and is left out.
  T lane[kLanes] = {}, totals[kLanes] = {};
  int64_t part = 0;
  auto end_part = [&] {
    for (int l = 0; l < kLanes; ++l) totals[l] += lane[l], lane[l] = 0;
  };
  for (int64_t n = 0; n < row.count; ++n) {
    if (row.columns[n] / kFeaturesInPart != part) end_part();
    part = row.columns[n] / kFeaturesInPart;
    T& sum = lane[row.columns[n] % kLanes];
    sum = fused(y[n], y[n], sum);
  }
  end_part();
  return sum_of_lanes(load(totals));
}

// See Kernel::unit_sparse. A row of zeros stays as it is.
template <typename T>
void unit_sparse(const km_sparse& rows, int64_t begin, int64_t end, T* to) {
  for (int64_t i = begin; i < end; ++i) {
    const SparseRow<T> row(rows, i);
    T* const y = to + rows.starts[i];
    T m = 0;
    for (int64_t n = 0; n < row.count; ++n) m = larger_of(m, magnitude(row.values[n]));
    const T p = m > 0 ? scale_of<T, IntOf<T>>(m) : T(1);
    for (int64_t n = 0; n < row.count; ++n) y[n] = row.values[n] * p;
    if (!(m > 0)) continue;
    const T norm = square_root(sum_of_squares_of_sparse(row, y, rows.d));
    for (int64_t n = 0; n < row.count; ++n) y[n] /= norm;
  }
}

}  // namespace
}  // namespace km::KM_TARGET
