// The E-step of sparse rows. Scores from products discard centroids; where they leave more than
// one, the row is written out with its zeros, and the deciding distance decides.
#pragma once

#include "kernel/sparse/row-inl.h"

namespace km::KM_TARGET {
namespace {

// The search for the nearest centroid of one row after the other. The score here is ½‖c‖² - x·c,
// half of ‖x - c‖² - ‖x‖²: the lower the nearer.
template <typename T>
class SparseSearch {
 public:
  SparseSearch(const SparsePlaces<T>& s, const SparseScratch<T>& scratch)
      : s_(s), halves_(s.halves), norms_(s.norms), lower_(scratch.lower), dense_(scratch.row) {
    // The deciding distance is a sum of squares of rounded differences: it is within additions + 3
    // roundings of Σ (x - c)², relative to it (Higham, section 3.1); additions of a lane, of parts
    // and of lanes by halves. 16 leaves room for these and for d <= kFewFeatures, 1.125 for
    // products of roundings: γ_n = n u / (1 - n u) <= 1.125 n u up to n u = 1/9.
    const T additions =
        T(least_of(s.stride, kFeaturesInPart) / kLanes + s.stride / kFeaturesInPart);
    deciding_margin_ = T(1.125) * (additions + 16) * kUnit;
  }

  // Finds label, the nearest centroid of a row, whose ‖x‖² is squares. Computes distance too, and
  // sets measured, where `measures` asks for it or where scores leave more than one centroid.
  void search(const SparseRow<T>& row, double squares, bool measures) {
    measured = false;
    const int64_t lowest = screen(row, static_cast<T>(square_root(squares)));
    int64_t candidates = 0;
    for (int64_t c = 0; c < s_.k; ++c) candidates += !(lower_[c] > limit_);
    label = lowest;
    if (candidates == 1 && !measures && limit_ < kInfinite) return;
    measured = true;
    for (int64_t n = 0; n < row.count; ++n) dense_[row.columns[n]] = row.values[n];
    if (candidates == 1)
      distance = distance_to(lowest);
    else
      decide();
    for (int64_t n = 0; n < row.count; ++n) dense_[row.columns[n]] = 0;
  }

  int64_t label = 0;      // 0 to k - 1
  bool measured = false;  // whether distance is that of this row
  T distance = 0;         // squared, to centroid label

 private:
  static constexpr T kUnit = kEpsilonOf<T> / 2;  // u, of one rounding
  static constexpr T kInfinite = kInfinityOf<T>;

  // Writes lower bounds of the scores to lower_, and limit_: a centroid whose bound is beyond
  // cannot be the nearest by the deciding distance. Returns the centroid of the least bound.
  //
  // A sum of count products is off by count roundings of Σ |x c| <= ‖x‖‖c‖ at most (Higham,
  // Accuracy and Stability of Numerical Algorithms, section 3.1); 16 leaves room for the roundings
  // of ‖x‖, of ‖c‖ and of the line that makes a bound of them, 1.125 as in the constructor. So a
  // score is within margin (½‖c‖² + ‖x‖‖c‖) of what it would be without rounding.
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
    // The score of that centroid is at most upper. Another one with a higher score s is farther by
    // the deciding distance too where (2 s + ‖x‖²) > (2 upper + ‖x‖²) (1 + 2 deciding_margin_).
    const T upper = lowest + 2 * margin * (halves_[first] + norm * norms_[first]);
    // Products and squares that underflow lose less than the least normal number each.
    const T underflow = T(4) * T(row.count + s_.d + 8) * kLeastNormalOf<T>;
    limit_ = upper + deciding_margin_ * (2 * upper + norm * norm) + underflow;
    // Overflow: no bound is above NaN, so that all centroids are measured.
    if (!(limit_ < kInfinite)) limit_ = kNanOf<T>;
    return first;
  }

  // Measures all centroids that the limit leaves; the least distance wins, ties to the lowest
  // index. A distance of NaN compares with none: where the first one is NaN, its centroid stays.
  void decide() {
    bool any = false;
    for (int64_t c = 0; c < s_.k; ++c) {
      if (lower_[c] > limit_) continue;
      const T measured_distance = distance_to(c);
      if (any && !(measured_distance < distance)) continue;
      any = true;
      distance = measured_distance;
      label = c;
    }
  }

  // The deciding distance of the row in dense_.
  T distance_to(int64_t c) const {
    const T* const centroid = s_.centroids + c * s_.stride;
    return s_.d > kFewFeatures ? squared_distance(dense_, centroid, s_.stride)
                               : squared_distance_of_few(dense_, centroid, s_.d);
  }

  const SparsePlaces<T>& s_;
  const T* const halves_;  // (count), as in s_, and norms_
  const T* const norms_;
  T* const lower_;     // (count): lower bounds of scores
  T* const dense_;     // (stride): the row with its zeros while it is measured, else zeros
  T deciding_margin_;  // relative error of a deciding distance
  T limit_ = 0;        // beyond which a score is not the nearest's; NaN where nothing is discarded
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
      // From a product in double, whose rounding does not show in the inertia.
      const T* const centroid = s.centroids + label * s.stride;
      distance = larger_of((squares + s.squares[label]) - 2 * row.product(centroid), 0.0);
    } else if (!search.measured) {
      distance = 0;  // without sums the inertia only says whether distances are finite: it is
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

}  // namespace
}  // namespace km::KM_TARGET
