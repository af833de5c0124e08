// The E-step for few features, from boxes of rows down to the rows: of a box that no other centroid
// can reach, all rows are settled at once.
//
// With z the centroid nearest to the middle of a box, another one c can be the nearest to one of
// its rows only if c is nearer than z to the corner that lies farthest towards c (Kanungo et al.,
// "An efficient k-means clustering algorithm", TPAMI 2002). With a = z - middle, b = c - middle and
// half the box's sides h it is not, where ‖b‖² - ‖a‖² > 2 Σ |b_j - a_j| h_j, by more than rounding.
#pragma once

#include "kernel/few/boxes-inl.h"
#include "kernel/few/brute_force-inl.h"

namespace km::KM_TARGET {
namespace {

// Centroids that may be the nearest to rows of a box, in the order of their numbers; up to a whole
// vector others follow that are far from everything.
template <typename T>
struct Near {
  int32_t* index;
  T* features;  // (d, room)
  int64_t count;
};

template <typename T, int D>
class Descent {
 public:
  // all: every centroid; lists: memory for such lists, one for each level, and a number for each.
  Descent(const Boxes<T>& tree, const CandidateLists<T>& lists, const Result<T>& result,
          double* sums, int64_t copies)
      : tree_(tree), lists_(lists), result_(result), sums_(sums), copies_(copies) {}

  // Every so many of the uppermost nodes; returns how many distances were measured.
  int64_t run(int64_t part, int64_t parts) {
    const Near<T> all = {lists_.all_index, lists_.all, lists_.k};
    const int top = tree_.levels - 1;
    for (int64_t node = part; node < tree_.nodes[top]; node += parts) visit(top, node, all);
    *result_.inertia = inertia_;
    for (double part_of_it : lanes_) *result_.inertia += part_of_it;
    *result_.changed = changed_;
    for (int64_t c = 0; result_.sums && c < lists_.k; ++c)
      for (int64_t copy = 0; copy < copies_; ++copy) {
        const double* sum = sums_ + (copy * lists_.k + c) * kTerms;
        for (int j = 0; j < D; ++j) result_.sums[c * D + j] += sum[j];
        result_.counts[c] += sum[D];
      }
    return pairs_;
  }

 private:
  using V = typename Lanes<T>::Vector;
  using M = typename Lanes<T>::Mask;
  static constexpr int R = Lanes<T>::kRows, W = Lanes<T>::kWidth, kTerms = terms_of(D);

  void visit(int level, int64_t node, const Near<T>& from) {
    const int64_t number = tree_.begin[level] + node;
    Near<T> near = from;
    if (from.count > 1) {
      near.index = lists_.index + level * lists_.room;
      near.features = lists_.features + level * lists_.room * D;
      narrow(number, from, near);
    }
    if (near.count == 1 && !result_.distances) return settle(level, node, near.index[0]);
    tree_.owner[number] = -1;
    if (level == 0) return measure_rows_of(node, near);
    const int64_t end = least_of(tree_.nodes[level - 1], (node + 1) * kFan);
    for (int64_t child = node * kFan; child < end; ++child) visit(level - 1, child, near);
  }

  // Which centroids may be the nearest to a row of the box.
  void narrow(int64_t number, const Near<T>& from, Near<T>& to) const {
    const T* const middle = tree_.middle + number * D;
    const T* const half = tree_.half + number * D;
    const int64_t room = lists_.room;
    T* const squares = lists_.squares;
    V least = V{} + kInfinityOf<T>;
    M where = {};
    for (int64_t c = 0; c < from.count; c += W) {
      V square = {};
      for (int j = 0; j < D; ++j) {
        const V b = vector_at(from.features + j * room + c) - middle[j];
        square += b * b;
      }
      std::memcpy(squares + c, &square, sizeof(square));
      const M closer = square < least;
      least = closer ? square : least;
      where = closer ? M{} + static_cast<typename Lanes<T>::Int>(c) : where;
    }
    int nearest = 0;
    for (int i = 1; i < W; ++i)
      if (least[i] < least[nearest]) nearest = i;
    const int64_t z = where[nearest] + nearest;
    T a[D], corner = 0;
    for (int j = 0; j < D; ++j) {
      a[j] = from.features[j * room + z] - middle[j];
      corner += half[j] * half[j];
    }
    const T a_squared = squares[z];
    const T least_gap = kMarginOfBox<T> * (a_squared + corner) + kLeastGap<T>;
    to.count = 0;
    for (int64_t c = 0; c < from.count; c += W) {
      V reach = {};
      for (int j = 0; j < D; ++j) {
        const V b = vector_at(from.features + j * room + c) - middle[j];
        reach += magnitude(V(b - a[j])) * half[j];
      }
      const V square = vector_at(squares + c);
      const M beaten = square - a_squared - 2 * reach > kMarginOfBox<T> * square + least_gap;
      unsigned left = ~lane_bits<T>(beaten) & ((1u << W) - 1);
      if (from.count - c < W) left &= (1u << (from.count - c)) - 1;
      for (; left; left &= left - 1) {
        const int64_t which = c + __builtin_ctz(left);
        to.index[to.count] = from.index[which];
        for (int j = 0; j < D; ++j)
          to.features[j * room + to.count] = from.features[j * room + which];
        ++to.count;
      }
    }
    for (int64_t c = to.count; c % W; ++c)
      for (int j = 0; j < D; ++j) to.features[j * room + c] = kFarAway<T>;
  }

  // All rows of a node have the same label.
  void settle(int level, int64_t node, int32_t label) {
    const int64_t number = tree_.begin[level] + node;
    if (tree_.owner[number] != label) relabel(level, node, label);
    if (!result_.sums) return;
    const double* const moments = tree_.moments + number * (2 + D);
    const double weight = moments[0];
    const T* const centroid = lists_.all + label;
    double squares = moments[1];
    for (int j = 0; j < D; ++j) {
      const double middle = tree_.middle[number * D + j];
      const double sum = moments[2 + j], apart = centroid[j * lists_.room] - middle;
      squares += apart * (weight * apart - 2 * sum);
      result_.sums[label * D + j] += sum + weight * middle;
    }
    result_.counts[label] += weight;
    inertia_ += squares > 0 ? squares : 0;
  }

  void relabel(int level, int64_t node, int32_t label) {
    int64_t begin = node, end = node + 1;
    for (int below = level; below >= 0; --below) {
      end = least_of(end, tree_.nodes[below]);
      int32_t* const owner = tree_.owner + tree_.begin[below];
      for (int64_t each = begin; each < end; ++each) owner[each] = label;
      const int64_t fan = below ? kFan : R;
      begin *= fan;
      end *= fan;
    }
    end = least_of(end, tree_.n);
    for (int64_t row = begin; row < end; ++row) set_label(row, label);
  }

  void set_label(int64_t row, int32_t label) {
    if (tree_.label[row] == label) return;
    tree_.label[row] = label;
    result_.labels[tree_.number[row]] = label;
    ++changed_;
  }

  void measure_rows_of(int64_t leaf, const Near<T>& near) {
    const T* const block = tree_.rows + leaf * R * D;
    const int64_t first = leaf * R, room = lists_.room;
    const int count = static_cast<int>(least_of<int64_t>(R, tree_.n - first));
    Nearest<T> nearest;
    int64_t c = 0;
    for (; c + KM_CENTROIDS <= near.count; c += KM_CENTROIDS)
      nearest.template compare<KM_CENTROIDS, D>(block, near.features, c, 1, room);
    for (; c < near.count; ++c) nearest.template compare<1, D>(block, near.features, c, 1, room);
    pairs_ += count * near.count;
    alignas(64) T distance[R];
    alignas(64) typename Lanes<T>::Int place[R];
    std::memcpy(distance, nearest.distance, sizeof(distance));
    std::memcpy(place, nearest.label, sizeof(place));
    int32_t label[R];
    for (int s = 0; s < R; ++s) label[s] = near.index[place[s]];
    for (int s = 0; s < count; ++s) set_label(first + s, label[s]);
    if (result_.distances)
      for (int s = 0; s < count; ++s) result_.distances[tree_.number[first + s]] = distance[s];
    if (!result_.sums) return;
    const double* const weights = tree_.weights ? tree_.weights + first : nullptr;
    for (int s = count; s < R; ++s) distance[s] = 0;
    for (int s = 0; s < R; s += 8)
      for (int i = 0; i < 8; ++i)
        lanes_[i] += weights ? weights[s + i] * distance[s + i] : double(distance[s + i]);
    for (int s = 0; s < count; ++s) {
      double* const sum = sums_ + ((s & (copies_ - 1)) * lists_.k + label[s]) * kTerms;
      const double weight = weights ? weights[s] : 1.0;
      for (int j = 0; j < D; ++j) sum[j] += weight * block[j * R + s];
      sum[D] += weight;
    }
  }

  const Boxes<T>& tree_;
  const CandidateLists<T>& lists_;
  const Result<T>& result_;
  double* const sums_;  // (copies, k, kTerms)
  const int64_t copies_;
  double inertia_ = 0, lanes_[8] = {};
  int64_t changed_ = 0, pairs_ = 0;
};

}  // namespace
}  // namespace km::KM_TARGET
