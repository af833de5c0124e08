// The E-step for few features by filtering (Kanungo et al., "An efficient k-means clustering
// algorithm", TPAMI 2002): centroids descend the tree of boxes, from the uppermost nodes to the
// leaves, and each box passes on only the candidates that may be the nearest to one of its rows.
// All rows of a box with one candidate belong to it, and the moments of the box are added at once.
//
// With z the candidate nearest to the middle of a box, a candidate c is pruned if even the corner
// of the box that lies farthest in the direction c - z is closer to z. With a = z - middle and
// b = c - middle and the box's half sides h, this is so if
//
//   ‖b‖² - ‖a‖² > 2 Σ |b_j - a_j| h_j
//
// by more than rounding. Pruning only discards: labels and distances are those of brute force, bit
// by bit, since leaves measure the candidates that are left as brute_force-inl.h does.
#pragma once

#include "kernel/few/boxes-inl.h"
#include "kernel/few/nearest-inl.h"
#include "kernel/few/sums-inl.h"

namespace km::KM_TARGET {
namespace {

// One thread's part of an E-step.
template <typename T, int D>
class BoxDescent {
 public:
  BoxDescent(const Boxes<T>& tree,            // of D features
             const CandidateLists<T>& lists,  // of this thread; lists.all holds all k centroids
             const Result<T>& result,         // labels in the caller's order; sums, counts added to
             const SumCopies& sums)           // of this thread, all zero
      : tree_(tree), lists_(lists), result_(result), sums_(sums) {}

  // Visits nodes part, part + parts, .. of the uppermost level; part: 0 to parts - 1. Returns how
  // many distances of a row to a centroid were measured.
  int64_t run(int64_t part, int64_t parts) {
    const int top = tree_.levels.count - 1;
    for (int64_t node = part; node < tree_.levels.nodes[top]; node += parts)
      visit(top, node, lists_.all);
    *result_.inertia = inertia_of_boxes_;
    for (double lane : inertia_of_rows_) *result_.inertia += lane;
    *result_.changed = changed_;
    if (result_.sums) reduce_copies<D>(sums_, result_);
    return measured_;
  }

 private:
  using V = typename Lanes<T>::Vector;
  using M = typename Lanes<T>::Mask;
  static constexpr int R = Lanes<T>::kRows, W = Lanes<T>::kWidth;

  // Filters the candidates of a node, and passes on to its children those that are kept. Node:
  // counted from the first node of its level. Where distances are asked for, or the moments of the
  // node would lose digits, single candidates descend to the leaves, too.
  void visit(int level, int64_t node, const Candidates<T>& of_parent) {
    const int64_t number = tree_.levels.begin[level] + node;
    Candidates<T> candidates = of_parent;
    if (of_parent.count > 1) {
      candidates.label = lists_.labels + level * lists_.room;
      candidates.features = lists_.features + level * lists_.room * D;
      prune(number, of_parent, candidates);
    }
    const bool measures =
        result_.distances || (tree_.labels.cancels && tree_.labels.cancels[number]);
    if (candidates.count == 1 && !measures) return assign_box(level, node, candidates.label[0]);
    tree_.labels.of_node[number] = -1;
    if (level == 0) return measure_leaf(node, candidates);
    const int64_t end = end_of_children(tree_.levels, level, node);
    for (int64_t child = node * kFan; child < end; ++child) visit(level - 1, child, candidates);
  }

  // The place in a list of the candidate nearest to the middle of a box; writes the squared
  // distances of all candidates to the middle to lists_.squares. These need not be the deciding
  // distance: any candidate prunes rightly as z, and the nearest prunes most.
  int64_t nearest_to_middle(const T* middle, const Candidates<T>& list) const {
    V least = V{} + kInfinityOf<T>;
    M where = {};
    for (int64_t c = 0; c < list.count; c += W) {
      V square = {};
      for (int j = 0; j < D; ++j) {
        const V b = vector_at(list.features + j * lists_.room + c) - middle[j];
        square += b * b;
      }
      std::memcpy(lists_.squares + c, &square, sizeof(square));
      const M closer = square < least;
      least = closer ? square : least;
      where = closer ? M{} + static_cast<typename Lanes<T>::Int>(c) : where;
    }
    int nearest = 0;
    for (int i = 1; i < W; ++i)
      if (least[i] < least[nearest]) nearest = i;
    return where[nearest] + nearest;
  }

  // Writes to kept the candidates of a box: the candidates of its parent that are not pruned.
  void prune(int64_t number, const Candidates<T>& of_parent, Candidates<T>& kept) const {
    const T* const middle = tree_.sides.middle + number * D;
    const T* const half = tree_.sides.half + number * D;
    const int64_t room = lists_.room;
    const int64_t z = nearest_to_middle(middle, of_parent);
    T a[D], corner = 0;  // ‖h‖²
    for (int j = 0; j < D; ++j) {
      a[j] = of_parent.features[j * room + z] - middle[j];
      corner += half[j] * half[j];
    }
    const T* const squares = lists_.squares;  // ‖b‖²
    const T a_squared = squares[z];
    const T least_gap = kMarginOfBox<T> * (a_squared + corner) + kLeastGap<T>;
    kept.count = 0;
    for (int64_t c = 0; c < of_parent.count; c += W) {
      V farthest_corner = {};  // Σ |b_j - a_j| h_j
      for (int j = 0; j < D; ++j) {
        const V b = vector_at(of_parent.features + j * room + c) - middle[j];
        farthest_corner += magnitude(V(b - a[j])) * half[j];
      }
      const V square = vector_at(squares + c);
      const M pruned =
          square - a_squared - 2 * farthest_corner > kMarginOfBox<T> * square + least_gap;
      unsigned kept_bits = ~lane_bits<T>(pruned) & ((1u << W) - 1);
      if (of_parent.count - c < W) kept_bits &= (1u << (of_parent.count - c)) - 1;
      for (; kept_bits; kept_bits &= kept_bits - 1)
        append(of_parent, c + __builtin_ctz(kept_bits), kept);
    }
    for (int64_t c = kept.count; c % W; ++c)  // up to a whole vector
      for (int j = 0; j < D; ++j) kept.features[j * room + c] = kFarAway<T>;
  }

  // Appends the candidate at a place of one list to another, which may not be the same.
  void append(const Candidates<T>& from, int64_t place, Candidates<T>& to) const {
    to.label[to.count] = from.label[place];
    for (int j = 0; j < D; ++j)
      to.features[j * lists_.room + to.count] = from.features[j * lists_.room + place];
    ++to.count;
  }

  // Assigns all rows of a box to one centroid c, whose number is label. About the middle m of the
  // box, with e = c - m and the moments W = Σ w and S = Σ w (x - m):
  //
  //   Σ w x = S + W m,   Σ w ‖x - c‖² = Σ w ‖x - m‖² + Σ_j e_j (W e_j - 2 S_j)
  void assign_box(int level, int64_t node, int32_t label) {
    const int64_t number = tree_.levels.begin[level] + node;
    if (tree_.labels.of_node[number] != label) relabel_box(level, node, label);
    if (!result_.sums) return;
    const double* const moments = tree_.labels.moments + number * (2 + D);
    const double weight = moments[0];
    const T* const centroid = lists_.all.features + label;
    double squares = moments[1];
    for (int j = 0; j < D; ++j) {
      const double middle = tree_.sides.middle[number * D + j];
      const double sum = moments[2 + j], offset = centroid[j * lists_.room] - middle;
      squares += offset * (weight * offset - 2 * sum);
      result_.sums[label * D + j] += sum + weight * middle;
    }
    result_.counts[label] += weight;
    inertia_of_boxes_ += squares > 0 ? squares : 0;  // rounding may leave less than 0
  }

  // Writes one label for a node, for all nodes below, and for the rows of the node. Late in a fit
  // most boxes keep their label: assign_box sees it in of_node, and touches no row.
  void relabel_box(int level, int64_t node, int32_t label) {
    int64_t begin = node, end = node + 1;  // descendants of the node, on one level after the other
    for (int below = level; below >= 0; --below) {
      end = least_of(end, tree_.levels.nodes[below]);
      int32_t* const of_node = tree_.labels.of_node + tree_.levels.begin[below];
      for (int64_t each = begin; each < end; ++each) of_node[each] = label;
      const int64_t fan = below ? kFan : R;
      begin *= fan;
      end *= fan;
    }
    end = least_of(end, tree_.rows.n);
    for (int64_t row = begin; row < end; ++row) set_label(row, label);
  }

  // Row: by position. The caller's labels are in another order, so only changes are written: most
  // rows keep their label from call to call.
  void set_label(int64_t row, int32_t label) {
    if (tree_.labels.of_row[row] == label) return;
    tree_.labels.of_row[row] = label;
    result_.labels[tree_.rows.number[row]] = label;
    ++changed_;
  }

  // Measures the rows of a leaf, which is a block, against its candidates.
  void measure_leaf(int64_t leaf, const Candidates<T>& candidates) {
    const T* const block = tree_.rows.features + leaf * R * D;
    const int64_t first = leaf * R;
    const int count = static_cast<int>(least_of<int64_t>(R, tree_.rows.n - first));
    NearestOfRows<T> nearest;
    find_nearest_of_rows<D>(block, candidates.features, candidates.count, 1, lists_.room, nearest);
    measured_ += count * candidates.count;
    int32_t label[R];
    for (int s = 0; s < R; ++s) label[s] = candidates.label[nearest.label[s]];
    for (int s = 0; s < count; ++s) set_label(first + s, label[s]);
    if (result_.distances)
      for (int s = 0; s < count; ++s)
        result_.distances[tree_.rows.number[first + s]] = nearest.distance[s];
    if (!result_.sums) return;
    const double* const weights = tree_.rows.weights ? tree_.rows.weights + first : nullptr;
    for (int s = count; s < R; ++s) nearest.distance[s] = 0;
    for (int s = 0; s < R; s += kSumLanes)
      for (int i = 0; i < kSumLanes; ++i)
        inertia_of_rows_[i] +=
            weights ? weights[s + i] * nearest.distance[s + i] : double(nearest.distance[s + i]);
    for (int s = 0; s < count; ++s) {
      double* const terms = terms_at<D>(sums_, s, label[s]);
      const double weight = weights ? weights[s] : 1.0;
      for (int j = 0; j < D; ++j) terms[j] += weight * block[j * R + s];
      terms[D] += weight;
    }
  }

  const Boxes<T>& tree_;
  const CandidateLists<T>& lists_;
  const Result<T>& result_;
  const SumCopies sums_;                    // by value: stores to sums leave it in registers
  double inertia_of_boxes_ = 0;             // Σ w ‖x - c‖² of rows that are assigned by box
  double inertia_of_rows_[kSumLanes] = {};  // Σ w ‖x - c‖² of rows that are measured
  int64_t changed_ = 0;                     // labels that differ from those of the last call
  int64_t measured_ = 0;                    // distances of a row to a centroid
};

}  // namespace
}  // namespace km::KM_TARGET
