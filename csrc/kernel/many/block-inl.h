// The nearest centroid so far of each row of a block, and the one distance that decides.
//
// The E-step for many features prunes by bounds and lets the squared distance decide among the
// centroids that are left.
//
// Scores. With coordinates z along directions of a contraction, and r the norm of what the
// directions leave out, Cauchy and Schwarz give
//     ‖x - c‖² >= ‖x‖² + ‖c‖² - 2 (z_x·z_c + r_x r_c),
// so with score = z_x·z_c + r_x r_c - ½‖c‖² a higher score is a nearer centroid, and scores below
// least_winning_score are discarded.
//
// Gaps. A centroid twice as far from a row's centroid as the row is cannot be nearer to the row, by
// the triangle inequality.
//
// Bounds. Upper bounds on the distance of a row to its centroid and lower bounds on the distances
// to groups of centroids are kept from call to call, less the drift of the centroids (Elkan, ICML
// 2003; groups: Ding et al., Yinyang k-means, ICML 2015). Each allows for rounding (margins-inl.h).
#pragma once

#include "kernel/many/block_rows-inl.h"
#include "kernel/many/step_bounds-inl.h"

namespace km::KM_TARGET {
namespace {

// The label of a row in the last call, 0 to k - 1. A result's labels belong to the caller, who may
// have written anything there since: a label out of range counts as 0.
template <typename T>
inline int64_t previous_label(const Search<T>& s, const int64_t* labels, int64_t row) {
  if (s.labels) return s.labels[row];
  return labels[row] >= 0 && labels[row] < s.places.k ? labels[row] : 0;
}

// A block in search of its labels. Sets of rows are uint64_t, a bit each. The constructor is the
// maker; `nearest` and `distance` are void until start_at_labels or set_nearest.
template <typename T>
struct Block {
  Block(const km_rows& x, const Search<T>& s, int64_t begin, int size, const Scratch<T>& scratch)
      : search(s), rows(x, s, begin, size, scratch), bounds(s.bounds, begin) {}

  const Search<T>& search;
  BlockRows<T> rows;
  StepBounds bounds;
  T distance[kBlock];         // squared, to the nearest centroid so far: computed where measured
  int32_t nearest[kBlock];    // the place of the nearest centroid so far, 0 to k - 1
  float least_score[kBlock];  // a centroid whose score is below cannot be nearer
  uint64_t measured = 0;      // rows whose distance was computed (or, cold, bounded by a score)

  // The centroid (stride) at a place.
  const T* centroid(int64_t place) const {
    return search.places.centroids + place * search.places.stride;
  }
  // The deciding distance (squared) of row i and the centroid at a place.
  T distance_to(int i, int64_t place) const {
    return squared_distance(rows.row(i), centroid(place), search.places.stride);
  }

  // Sets the nearest centroid so far of row i, and its squared distance.
  void set_nearest(int i, int64_t place, T squared) {
    nearest[i] = static_cast<int32_t>(place);
    distance[i] = squared;
    least_score[i] = winning_score(i, static_cast<float>(distance[i]));
  }
  // The least score of a centroid whose squared distance to row i is at most `squared`.
  float winning_score(int i, float squared) const {
    return least_winning_score(search.coordinates, rows.norm[i], squared);
  }

  // Whether bounds hold for row i: no square overflows.
  bool bounds_hold(int i) const { return rows.norm[i] < kTooLarge && distance[i] < kTooLarge; }

  // The computed distance to the nearest centroid so far, not squared, rounded up.
  float root(int i) const { return root_above(search.coordinates, distance[i]); }

  // u(x): row i is no farther from its nearest centroid so far, not squared. reach bounds the true
  // distance; slack makes it a bound of the computed one, which is what bounds are compared with.
  float upper_bound(int i) const {
    return measured >> i & 1 ? root(i)
                             : search.upper.reach[rows.first + i] * search.coordinates.slack;
  }

  // Measures the centroid at a place, and keeps the nearer one.
  void decide(int i, int64_t place) {
    if (place == nearest[i] || place >= search.places.k) return;
    keep_nearer(i, place, distance_to(i, place));
  }
  // Keeps the nearer of two centroids, of equal ones the one of lower index; the other one lowers
  // the lower bound of its group.
  void keep_nearer(int i, int64_t place, T squared) {
    if (squared < distance[i] ||
        (squared == distance[i] && search.places.index[place] < search.places.index[nearest[i]])) {
      bounds.lower(i, nearest[i], root_below(search.coordinates, distance[i]));
      set_nearest(i, place, squared);
    } else {
      bounds.lower(i, place, root_below(search.coordinates, squared));
    }
  }

  // Measures row i against every centroid, in the order of their indices, so that the first of
  // equal ones wins; its lower bounds then say nothing. For rows whose squares could overflow.
  void decide_among_all(int i) {
    nearest[i] = search.places.position[0];
    distance[i] = distance_to(i, search.places.position[0]);
    for (int64_t c = 1; c < search.places.k; ++c) {
      const T squared = distance_to(i, search.places.position[c]);
      if (squared < distance[i]) {
        distance[i] = squared;
        nearest[i] = search.places.position[c];
      }
    }
    if (bounds.steps) bounds.clear(i, 1);
  }

  // Starts from the labels of the last call, and writes a label where the result has another one:
  // rows that bounds prove are not written to later.
  void start_at_labels(int64_t* labels) {
    for (int i = 0; i < rows.count; ++i) {
      const int64_t label = previous_label(search, labels, rows.first + i);
      if (labels[rows.first + i] != label) labels[rows.first + i] = label;
      nearest[i] = search.places.position[label];
      distance[i] = 0;
    }
  }

  // Raises the upper bounds by the drift of each row's centroid. Returns the rows that other
  // centroids may be nearer to, since u(x)² exceeds the gap of their centroid.
  uint64_t raise_upper_bounds() {
    constexpr float kRoundedUp = 1 + 4 * kEpsilonOf<float>;
    float* const reach = search.upper.reach + rows.first;
    uint64_t unproven = 0;
    for (int i = 0; i < rows.count; ++i) {
      reach[i] = (reach[i] + search.upper.drift[nearest[i]]) * kRoundedUp;
      const float most = upper_bound(i);
      unproven |= uint64_t{!(search.gaps.nearest && most * most * search.coordinates.slack <=
                                                        search.gaps.nearest[nearest[i]])}
                  << i;
    }
    return unproven;
  }

  // The rows whose centroid has moved farther than `drift`, not squared.
  uint64_t drifted_beyond(float drift) const {
    uint64_t which = 0;
    for (int i = 0; i < rows.count; ++i)
      which |= uint64_t{search.upper.drift[nearest[i]] > drift} << i;
    return which;
  }

  // Measures a set of rows against their nearest centroids so far. Returns the rows whose label
  // the gap of that centroid proves: d(x, c)² <= (½ d(c, c'))² for every other centroid c'.
  uint64_t measure_assigned(uint64_t wanted) {
    rows.read(wanted);
    measured |= wanted;
    uint64_t proven = 0;
    auto keep = [&](int i, T squared) {
      set_nearest(i, nearest[i], squared);
      proven |= uint64_t{search.gaps.nearest &&
                         static_cast<float>(squared) <= search.gaps.nearest[nearest[i]]}
                << i;
    };
    if (search.places.stride <= 2 * kLanes) {  // so short that gathering four takes longer
      for (; wanted; wanted &= wanted - 1) {
        const int i = __builtin_ctzll(wanted);
        keep(i, distance_to(i, nearest[i]));
      }
      return proven;
    }
    while (wanted) {
      int which[kPairsTogether], count = 0;
      const T *four[kPairsTogether], *centroids[kPairsTogether];
      T squared[kPairsTogether];
      for (int n = 0; n < kPairsTogether; ++n) {  // after the last row, the last row again
        if (wanted) which[count++] = __builtin_ctzll(wanted);
        wanted &= wanted - 1;
        four[n] = rows.row(which[count - 1]);
        centroids[n] = centroid(nearest[which[count - 1]]);
      }
      squared_distances(four, centroids, search.places.stride, squared);
      for (int n = 0; n < count; ++n) keep(which[n], squared[n]);
    }
    return proven;
  }
};

}  // namespace
}  // namespace km::KM_TARGET
