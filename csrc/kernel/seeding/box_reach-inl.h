// Seeding in a tree of boxes: a center or candidate descends only to boxes that it may reach, where
// it may be nearer to a row than the nearest center so far. With p the point, m the middle of a box
// and h its half sides, no row of the box is nearer to p than
//
//   Σ_j max(0, |p_j - m_j| - h_j)²,
//
// and the point reaches the box only if this is less than the farthest of its rows is from their
// nearest centers, but for rounding.
#pragma once

#include "kernel/few/boxes-inl.h"

namespace km::KM_TARGET {
namespace {

// For k-means++ with several candidates for each center (Arthur and Vassilvitskii, 2007):
// potentials of candidates are asked for, the best one becomes a center, and the nearest distances
// are lowered.
template <typename T, int D>
class BoxReach {
 public:
  explicit BoxReach(const Boxes<T>& tree) : tree_(tree) {}

  // See Kernel::lower_in_boxes: one thread's part, nodes part, part + parts, .. of the uppermost
  // level. By itself, once for each D: inlined into one function for every D, compilers choose by
  // its size whether w × distance + potential is rounded once or twice.
  KM_NOINLINE void lower(const T* center, int64_t part, int64_t parts, T* nearest) const {
    const int top = tree_.levels.count - 1;
    for (int64_t node = part; node < tree_.levels.nodes[top]; node += parts)
      lower_node(top, node, center, nearest);
  }

  // See Kernel::gain_in_boxes; m: 1 to kCandidates.
  KM_NOINLINE void gain(const T* candidates, int64_t m, int64_t part, int64_t parts,
                        double* gains) const {
    const int top = tree_.levels.count - 1;
    for (int64_t node = part; node < tree_.levels.nodes[top]; node += parts)
      gain_of_node(top, node, candidates, ~uint32_t{0} >> (kCandidates - m), gains);
  }

 private:
  using V = typename Lanes<T>::Vector;
  static constexpr int R = Lanes<T>::kRows, W = Lanes<T>::kWidth;

  // Lowers nearest (n), in the caller's order, and what the tree keeps of a node's rows by the
  // distances to a center (D). Node: counted from the first node of its level.
  void lower_node(int level, int64_t node, const T* center, T* nearest) const {
    const int64_t number = tree_.levels.begin[level] + node;
    T& farthest = tree_.seeding.farthest[number];
    if (!reaches(number, center)) return;
    if (level == 0) {
      lower_leaf(node, center, nearest);
      return;
    }
    farthest = 0;  // anew from the children, some of which have been lowered
    double potential = 0;
    const int64_t end = end_of_children(tree_.levels, level, node);
    for (int64_t child = node * kFan; child < end; ++child) {
      lower_node(level - 1, child, center, nearest);
      const int64_t below = tree_.levels.begin[level - 1] + child;
      const T farthest_below = tree_.seeding.farthest[below];
      farthest = farthest_below > farthest ? farthest_below : farthest;
      potential += tree_.seeding.potential[below];
    }
    tree_.seeding.potential[number] = potential;
  }

  // Adds to gains (kCandidates) by how much each of the candidates (D, kCandidates) whose bit is
  // set would lower the potential of a node's rows.
  void gain_of_node(int level, int64_t node, const T* candidates, uint32_t candidate_bits,
                    double* gains) const {
    uint32_t reaching = reaching_bits(tree_.levels.begin[level] + node, candidates, candidate_bits);
    if (!reaching) return;
    if (level == 0) {
      for (; reaching; reaching &= reaching - 1) {
        const int c = __builtin_ctz(reaching);
        gains[c] += gain_of_leaf(node, candidates + c);
      }
      return;
    }
    const int64_t end = end_of_children(tree_.levels, level, node);
    for (int64_t child = node * kFan; child < end; ++child)
      gain_of_node(level - 1, child, candidates, reaching, gains);
  }

  // Which of the candidates whose bit is set may reach a box, a bit each: none where every row of
  // the box is a center. Vectors hold candidates, not rows, since a box has one middle.
  uint32_t reaching_bits(int64_t number, const T* candidates, uint32_t candidate_bits) const {
    const T farthest = tree_.seeding.farthest[number];
    if (!(farthest > 0)) return 0;
    const T* const middle = tree_.sides.middle + number * D;
    const T* const half = tree_.sides.half + number * D;
    uint32_t reaching = 0;
    for (int c = 0; c < kCandidates && candidate_bits >> c; c += W) {
      V square = {}, size = {};  // of the margin: ‖p - m‖² + ‖h‖²
      for (int j = 0; j < D; ++j) {
        const V offset = magnitude(V(vector_at(candidates + j * kCandidates + c) - middle[j]));
        const V over = offset - half[j], beyond = over > 0 ? over : V{};
        square += beyond * beyond;
        size += offset * offset + half[j] * half[j];
      }
      const auto reached = square - kMarginOfBox<T> * size - kLeastGap<T> < farthest;
      reaching |= lane_bits<T>(reached) << c;
    }
    return reaching & candidate_bits;
  }

  // Whether one point (D) may reach a box.
  bool reaches(int64_t number, const T* point) const {
    const T farthest = tree_.seeding.farthest[number];
    const T* const middle = tree_.sides.middle + number * D;
    const T* const half = tree_.sides.half + number * D;
    T square = 0, size = 0;
    for (int j = 0; j < D; ++j) {
      const T offset = magnitude(point[j] - middle[j]), beyond = offset - half[j];
      square += beyond > 0 ? beyond * beyond : T(0);
      size += offset * offset + half[j] * half[j];
    }
    return farthest > 0 && square - kMarginOfBox<T> * size - kLeastGap<T> < farthest;
  }

  // Squared distances of the rows of a leaf to one point: feature j at point[j * of_feature].
  void distances_of(int64_t leaf, const T* point, int64_t of_feature,
                    V (&distance)[1][kVectors]) const {
    const T* const block = tree_.rows.features + leaf * R * D;
    measure<1, D>(block, point, D, 1, of_feature, distance);
  }

  // See lower_node. Rows keep nearest twice: in the order of the leaf, for vectors, and in the
  // caller's, where only what has changed is written.
  void lower_leaf(int64_t leaf, const T* center, T* nearest) const {
    V distance[1][kVectors];
    distances_of(leaf, center, 1, distance);
    T* const nearest_in_leaf = tree_.seeding.nearest + leaf * R;
    const int64_t first = leaf * R;
    const int count = static_cast<int>(least_of<int64_t>(R, tree_.rows.n - first));
    V most = {};
    for (int v = 0; v < kVectors; ++v) {
      const V before = vector_at(nearest_in_leaf + v * W);
      const auto closer = distance[0][v] < before;
      const V now = closer ? distance[0][v] : before;
      most = now > most ? now : most;
      std::memcpy(nearest_in_leaf + v * W, &now, sizeof(now));
      for (unsigned lowered = lane_bits<T>(closer); lowered; lowered &= lowered - 1) {
        const int s = v * W + __builtin_ctz(lowered);
        if (s < count) nearest[tree_.rows.number[first + s]] = nearest_in_leaf[s];
      }
    }
    T farthest = 0;  // lanes without a row repeat the last row: they change nothing
    for (int i = 0; i < W; ++i) farthest = most[i] > farthest ? most[i] : farthest;
    tree_.seeding.farthest[leaf] = farthest;
    double potential = 0;
    for (int s = 0; s < count; ++s)
      potential += (tree_.rows.weights ? tree_.rows.weights[first + s] : 1.0) * nearest_in_leaf[s];
    tree_.seeding.potential[leaf] = potential;
  }

  // Σ w max(0, nearest - ‖x - c‖²) over the rows of a leaf, for a candidate c whose feature j is at
  // candidate[j * kCandidates].
  double gain_of_leaf(int64_t leaf, const T* candidate) const {
    V distance[1][kVectors];
    distances_of(leaf, candidate, kCandidates, distance);
    const int64_t first = leaf * R;
    const T* const nearest = tree_.seeding.nearest + first;
    alignas(64) T gained[R];
    for (int v = 0; v < kVectors; ++v) {
      const V lowered = vector_at(nearest + v * W) - distance[0][v];
      const V gain = lowered > 0 ? lowered : V{};
      std::memcpy(gained + v * W, &gain, sizeof(gain));
    }
    double sum[8] = {};  // sum[i]: rows i, i + 8, .. of the leaf
    if (tree_.rows.weights) {
      for (int s = 0; s < R; ++s) sum[s % 8] += tree_.rows.weights[first + s] * gained[s];
    } else {
      const int count = static_cast<int>(least_of<int64_t>(R, tree_.rows.n - first));
      for (int s = count; s < R; ++s) gained[s] = 0;
      for (int s = 0; s < R; s += 8)
        for (int i = 0; i < 8; ++i) sum[i] += gained[s + i];
    }
    return ((sum[0] + sum[1]) + (sum[2] + sum[3])) + ((sum[4] + sum[5]) + (sum[6] + sum[7]));
  }

  const Boxes<T>& tree_;
};

}  // namespace
}  // namespace km::KM_TARGET
