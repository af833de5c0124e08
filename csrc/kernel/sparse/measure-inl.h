// Squared distances of sparse rows to a few points, ‖x‖² + ‖p‖² - 2 x·p with products in double:
// for seeding and for distances that are only reported. No label depends on them. Cancellation
// leaves an error of about 1e-16 of ‖x‖² + ‖p‖²; negative results are 0.
#pragma once

#include "kernel/sparse/row-inl.h"

namespace km::KM_TARGET {
namespace {

// Distances (end - begin) of rows begin to end - 1 to one point (d), whose ‖p‖² is *squares. The
// same bits as measure_sparse_sixteen: for each pair, products are added in the order of the
// features.
template <typename T>
void measure_sparse_one(const km_sparse& rows, const T* point, const double* squares, int64_t begin,
                        int64_t end, double* distances) {
  for (int64_t i = begin; i < end; ++i) {
    const SparseRow<T> row(rows, i);
    *distances++ = larger_of((row.squares() + *squares) - 2 * row.product(point), 0.0);
  }
}

// Distances (end - begin, 16) of rows begin to end - 1 to sixteen points, given as columns (d, 16),
// and by their ‖p‖², squares (16).
template <typename T>
void measure_sparse_sixteen(const km_sparse& rows, const double* columns, const double* squares,
                            int64_t begin, int64_t end, double* distances) {
  for (int64_t i = begin; i < end; ++i, distances += kLanes) {
    const SparseRow<T> row(rows, i);
    const double row_squares = row.squares();
    Sixteen<double> product = broadcast(0.0);
    for (int64_t n = 0; n < row.count; ++n) {
      fetch_ahead<kLanes>(row, n, columns, kLanes);
      const Sixteen<double> column = load(columns + int64_t{row.columns[n]} * kLanes);
      const auto value = Sixteen<double>::Vector{} + double(row.values[n]);
      for (int v = 0; v < Sixteen<double>::kParts; ++v)
        product.part[v] = fused(column.part[v], value, product.part[v]);
    }
    store(distances, product);
    for (int c = 0; c < kLanes; ++c)
      distances[c] = larger_of((row_squares + squares[c]) - 2 * distances[c], 0.0);
  }
}

// See Kernel::squares_of. The same operations as SparseRow::squares, to which zeros add nothing.
template <typename T>
void squares_of(const T* points, int64_t count, int64_t d, double* squares) {
  for (int64_t i = 0; i < count; ++i, points += d) {
    double sum = 0;
    for (int64_t j = 0; j < d; ++j) sum = fused(double(points[j]), double(points[j]), sum);
    squares[i] = sum;
  }
}

}  // namespace
}  // namespace km::KM_TARGET
