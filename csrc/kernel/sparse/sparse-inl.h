// Rows of which only the numbers that are not 0 are given. Products discard centroids; where they
// leave more than one, the row is written out with its zeros, and the deciding distance decides.
//
#pragma once

#include "kernel/rows/load-inl.h"

namespace km::KM_TARGET {
namespace {

// The numbers of a row that are given.
template <typename T>
struct SparseRow {
  SparseRow(const km_sparse& rows, int64_t i)
      : values(static_cast<const T*>(rows.values) + rows.starts[i]),
        columns(rows.columns + rows.starts[i]),
        count(rows.starts[i + 1] - rows.starts[i]),
        left(rows.starts[rows.n] - rows.starts[i]) {}

  bool is_zero() const {
    for (int64_t n = 0; n < count; ++n)
      if (values[n] != 0) return false;
    return true;
  }
  // Σ xy with a row (d), feature by feature.
  double product(const T* other) const {
    double sum = 0;
    for (int64_t n = 0; n < count; ++n)
      sum = fused(double(values[n]), double(other[columns[n]]), sum);
    return sum;
  }
  // Σ x²: the bits of the product with a row that is equal.
  double squares() const {
    double sum = 0;
    for (int64_t n = 0; n < count; ++n) sum = fused(double(values[n]), double(values[n]), sum);
    return sum;
  }

  const T* const values;
  const int32_t* const columns;
  const int64_t count, left;  // of this row; of this and all that follow
};

// Asks memory for what the number that comes a few places after n, perhaps in the next row, will be
// multiplied with: so many numbers of a table (d, pitch).
template <int kNumbers, typename T, typename P>
inline void fetch_ahead(const SparseRow<T>& row, int64_t n, const P* table, int64_t pitch) {
  constexpr int64_t kAhead = 8, kLine = 64 / sizeof(P);
  if (n + kAhead >= row.left) return;
  const P* const next = table + int64_t{row.columns[n + kAhead]} * pitch;
  for (int64_t j = 0; j < kNumbers; j += kLine) __builtin_prefetch(next + j);
}

// Products of a row with kWide times sixteen centroids; see SparsePlaces::columns.
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

template <typename T>
void multiply_all(const SparseRow<T>& row, const SparsePlaces<T>& s, T* products) {
  constexpr int kWide = 16 / sizeof(T);  // whose sums are in registers
  const T* const columns = s.columns;
  int64_t place = 0;
  for (; place + kWide * kLanes <= s.count; place += kWide * kLanes)
    multiply<kWide>(row, columns + place, s.count, products + place);
  for (; place + 2 * kLanes <= s.count; place += 2 * kLanes)
    multiply<2>(row, columns + place, s.count, products + place);
  if (place < s.count) multiply<1>(row, columns + place, s.count, products + place);
}

// The search for the nearest centroid of one row after the other.
template <typename T>
class SparseSearch {
 public:
  SparseSearch(const SparsePlaces<T>& s, const SparseScratch<T>& scratch)
      : s_(s), halves_(s.halves), norms_(s.norms), lower_(scratch.lower), dense_(scratch.row) {
    const T summed = T(least_of(s.stride, kFeaturesInPart) / kLanes + s.stride / kFeaturesInPart);
    deciding_ = T(1.125) * (summed + 16) * kUnit;
  }

  // Finds label; the distance too where it is asked for, or had to be computed.
  void search(const SparseRow<T>& row, double squares, bool measures) {
    measured = false;
    const int64_t first = screen(row, static_cast<T>(square_root(squares)));
    int64_t candidates = 0;
    for (int64_t c = 0; c < s_.k; ++c) candidates += !(lower_[c] > limit_);
    label = first;
    if (candidates == 1 && !measures && limit_ < kInfinite) return;
    measured = true;
    for (int64_t n = 0; n < row.count; ++n) dense_[row.columns[n]] = row.values[n];
    if (candidates == 1) {
      distance = distance_to(first);
    } else {
      bool any = false;
      for (int64_t c = 0; c < s_.k; ++c) {
        if (lower_[c] > limit_) continue;
        const T found = distance_to(c);
        if (any && !(found < distance)) continue;
        any = true;
        distance = found;
        label = c;
      }
    }
    for (int64_t n = 0; n < row.count; ++n) dense_[row.columns[n]] = 0;
  }

  int64_t label = 0;
  bool measured = false;
  T distance = 0;

 private:
  static constexpr T kUnit = kEpsilonOf<T> / 2;
  static constexpr T kInfinite = kInfinityOf<T>;

  // Lower bounds of the scores ½‖c‖² - x·c, and the limit beyond which a centroid is not the
  // nearest by the deciding distance: an upper bound of the least score, and what rounding may take
  // of the distances that decide. Rounding takes (count + 16) units of ½‖c‖² + ‖x‖‖c‖ of a score at
  // most (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1). Returns the
  // centroid of the least bound.
  int64_t screen(const SparseRow<T>& row, T norm) {
    multiply_all(row, s_, lower_);
    const T margin = T(1.125) * T(row.count + 16) * kUnit;
    Sixteen<T> least = broadcast(kInfinite);
    for (int64_t place = 0; place < s_.count; place += kLanes) {
      const Sixteen<T> half = load(halves_ + place), length = load(norms_ + place);
      Sixteen<T> bound = load(lower_ + place);
      for (int v = 0; v < Sixteen<T>::kParts; ++v) {
        bound.part[v] =
            half.part[v] * (1 - margin) - bound.part[v] - length.part[v] * (margin * norm);
        least.part[v] = bound.part[v] < least.part[v] ? bound.part[v] : least.part[v];
      }
      store(lower_ + place, bound);
    }
    T lanes[kLanes];
    store(lanes, least);
    T lowest = lanes[0];
    for (T bound : lanes) lowest = least_of(bound, lowest);
    int64_t first = 0;
    while (first < s_.k && !(lower_[first] == lowest)) ++first;
    first = least_of(first, s_.k - 1);
    const T upper = lowest + 2 * margin * (halves_[first] + norm * norms_[first]);
    const T underflow = T(4) * T(row.count + s_.d + 8) * kLeastNormalOf<T>;
    limit_ = upper + deciding_ * (2 * upper + norm * norm) + underflow;
    if (!(limit_ < kInfinite)) limit_ = kNanOf<T>;  // all are measured
    return first;
  }

  T distance_to(int64_t c) const {
    const T* const centroid = s_.centroids + c * s_.stride;
    return s_.d > kFewFeatures ? squared_distance(dense_, centroid, s_.stride)
                               : squared_distance_of_few(dense_, centroid, s_.d);
  }

  const SparsePlaces<T>& s_;
  const T* const halves_;
  const T* const norms_;
  T* const lower_;
  T* const dense_;
  T deciding_, limit_ = 0;
};

// See Kernel::search_sparse.
template <typename T>
void search_sparse(const km_sparse& rows, const SparsePlaces<T>& s, int64_t begin, int64_t end,
                   const Result<T>& result, const SparseScratch<T>& scratch) {
  SparseSearch<T> search(s, scratch);
  int64_t changed = 0;
  double inertia = 0;
  for (int64_t i = begin; i < end; ++i) {
    const SparseRow<T> row(rows, i);
    const double squares = row.squares();
    search.search(row, squares, result.distances != nullptr);
    int64_t label = search.label;
    double weight = rows.weights ? rows.weights[i] : 1.0, distance = double(search.distance);
    if (!search.measured && result.sums) {
      const T* const centroid = s.centroids + label * s.stride;
      distance = larger_of((squares + s.squares[label]) - 2 * row.product(centroid), 0.0);
    } else if (!search.measured) {
      distance = 0;  // finite, as all that is asked
    }
    if (rows.cosine) {
      distance /= 2;
      if (row.is_zero()) label = 0, distance = 1, weight = 0;
    }
    changed += !result.warm || result.labels[i] != label;
    result.labels[i] = label;
    if (result.distances) result.distances[i] = static_cast<T>(distance);
    inertia += weight * distance;
  }
  *result.changed += changed;
  *result.inertia += inertia;
}

// See Kernel::measure_sparse; both have the same bits.
template <typename T>
void measure_sparse_one(const km_sparse& rows, const T* point, const double* squares, int64_t begin,
                        int64_t end, double* distances) {
  for (int64_t i = begin; i < end; ++i) {
    const SparseRow<T> row(rows, i);
    *distances++ = larger_of((row.squares() + *squares) - 2 * row.product(point), 0.0);
  }
}

template <typename T>
void measure_sparse_sixteen(const km_sparse& rows, const double* columns, const double* squares,
                            int64_t begin, int64_t end, double* distances) {
  for (int64_t i = begin; i < end; ++i, distances += kLanes) {
    const SparseRow<T> row(rows, i);
    const double own = row.squares();
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
      distances[c] = larger_of((own + squares[c]) - 2 * distances[c], 0.0);
  }
}

// See Kernel::squares_of.
template <typename T>
void squares_of(const T* points, int64_t count, int64_t d, double* squares) {
  for (int64_t i = 0; i < count; ++i, points += d) {
    double sum = 0;
    for (int64_t j = 0; j < d; ++j) sum = fused(double(points[j]), double(points[j]), sum);
    squares[i] = sum;
  }
}

// Numbers of rows at unit length: the bits that the whole row would get, since zeros add nothing.
template <typename T>
void unit_sparse(const km_sparse& rows, int64_t begin, int64_t end, T* to) {
  for (int64_t i = begin; i < end; ++i) {
    const SparseRow<T> row(rows, i);
    T* const unit = to + rows.starts[i];
    T most = 0;
    for (int64_t n = 0; n < row.count; ++n) most = larger_of(most, magnitude(row.values[n]));
    const T scale = most > 0 ? scale_of<T, IntOf<T>>(most) : T(1);
    for (int64_t n = 0; n < row.count; ++n) unit[n] = row.values[n] * scale;
    if (!(most > 0)) continue;
    T squares = 0;
    if (rows.d <= kFewFeatures) {
      for (int64_t n = 0; n < row.count; ++n) squares = fused(unit[n], unit[n], squares);
    } else {
      T lane[kLanes] = {}, all[kLanes] = {};
      int64_t part = 0;
      auto end_part = [&] {
        for (int l = 0; l < kLanes; ++l) all[l] += lane[l], lane[l] = 0;
      };
      for (int64_t n = 0; n < row.count; ++n) {
        if (row.columns[n] / kFeaturesInPart != part) end_part();
        part = row.columns[n] / kFeaturesInPart;
        T& sum = lane[row.columns[n] % kLanes];
        sum = fused(unit[n], unit[n], sum);
      }
      end_part();
      squares = sum_of_lanes(load(all));
    }
    const T norm = square_root(squares);
    for (int64_t n = 0; n < row.count; ++n) unit[n] /= norm;
  }
}

}  // namespace
}  // namespace km::KM_TARGET
