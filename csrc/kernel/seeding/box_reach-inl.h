// Seeding in boxes of rows, down to where a point can be nearer than what is near.
#pragma once

#include "kernel/few/boxes-inl.h"

namespace km::KM_TARGET {
namespace {

// Distances to a center, for seeding: down to where it can be nearer than what is near.
template <typename T, int D>
class Reach {
 public:
  explicit Reach(const Boxes<T>& tree) : tree_(tree) {}

  // Lowers near, and nearest (n), by the distances to a center.
  void lower(int level, int64_t node, const T* center, T* nearest) const {
    const int64_t number = tree_.begin[level] + node;
    T& farthest = tree_.farthest[number];
    if (!reaches(number, center)) return;
    if (level == 0) {
      lower_leaf(node, center, nearest);
      return;
    }
    farthest = 0;
    double potential = 0;
    const int64_t end = least_of(tree_.nodes[level - 1], (node + 1) * kFan);
    for (int64_t child = node * kFan; child < end; ++child) {
      lower(level - 1, child, center, nearest);
      const int64_t below = tree_.begin[level - 1] + child;
      const T farthest_below = tree_.farthest[below];
      farthest = farthest_below > farthest ? farthest_below : farthest;
      potential += tree_.potential[below];
    }
    tree_.potential[number] = potential;
  }

  // Adds to gains by how much each of the candidates (d, kCandidates) would lower the potential;
  // which of them may, a bit each.
  void gain(int level, int64_t node, const T* candidates, uint32_t which, double* gains) const {
    uint32_t reaching = reaching_of(tree_.begin[level] + node, candidates, which);
    if (!reaching) return;
    if (level == 0) {
      for (; reaching; reaching &= reaching - 1) {
        const int c = __builtin_ctz(reaching);
        gains[c] += gain_of_leaf(node, candidates + c);
      }
      return;
    }
    const int64_t end = least_of(tree_.nodes[level - 1], (node + 1) * kFan);
    for (int64_t child = node * kFan; child < end; ++child)
      gain(level - 1, child, candidates, reaching, gains);
  }

 private:
  using V = typename Lanes<T>::Vector;
  static constexpr int R = Lanes<T>::kRows, W = Lanes<T>::kWidth;

  // Which of the candidates may be nearer to a row of a node than what is near.
  uint32_t reaching_of(int64_t number, const T* candidates, uint32_t which) const {
    const T farthest = tree_.farthest[number];
    if (!(farthest > 0)) return 0;
    const T* const middle = tree_.middle + number * D;
    const T* const half = tree_.half + number * D;
    uint32_t reaching = 0;
    for (int c = 0; c < kCandidates && which >> c; c += W) {
      V square = {}, size = {};
      for (int j = 0; j < D; ++j) {
        const V apart = magnitude(V(vector_at(candidates + j * kCandidates + c) - middle[j]));
        const V over = apart - half[j], beyond = over > 0 ? over : V{};
        square += beyond * beyond;
        size += apart * apart + half[j] * half[j];
      }
      const auto reached = square - kMarginOfBox<T> * size - kLeastGap<T> < farthest;
      reaching |= lane_bits<T>(reached) << c;
    }
    return reaching & which;
  }

  // Whether a point may be nearer to a row of a node than what is near.
  bool reaches(int64_t number, const T* point) const {
    const T farthest = tree_.farthest[number];
    const T* const middle = tree_.middle + number * D;
    const T* const half = tree_.half + number * D;
    T square = 0, size = 0;
    for (int j = 0; j < D; ++j) {
      const T apart = magnitude(point[j] - middle[j]), beyond = apart - half[j];
      square += beyond > 0 ? beyond * beyond : T(0);
      size += apart * apart + half[j] * half[j];
    }
    return farthest > 0 && square - kMarginOfBox<T> * size - kLeastGap<T> < farthest;
  }

  void distances_of(int64_t leaf, const T* point, int64_t of_feature,
                    V (&distance)[1][kVectors]) const {
    const T* const block = tree_.rows + leaf * R * D;
    measure<1, D>(block, point, D, 1, of_feature, distance);
  }

  void lower_leaf(int64_t leaf, const T* center, T* nearest) const {
    V distance[1][kVectors];
    distances_of(leaf, center, 1, distance);
    T* const near = tree_.near + leaf * R;
    const int64_t first = leaf * R;
    const int count = static_cast<int>(least_of<int64_t>(R, tree_.n - first));
    V most = {};
    for (int v = 0; v < kVectors; ++v) {
      const V before = vector_at(near + v * W);
      const auto closer = distance[0][v] < before;
      const V now = closer ? distance[0][v] : before;
      most = now > most ? now : most;
      std::memcpy(near + v * W, &now, sizeof(now));
      for (unsigned left = lane_bits<T>(closer); left; left &= left - 1) {
        const int s = v * W + __builtin_ctz(left);
        if (s < count) nearest[tree_.number[first + s]] = near[s];
      }
    }
    T farthest = 0;
    for (int i = 0; i < W; ++i) farthest = most[i] > farthest ? most[i] : farthest;
    tree_.farthest[leaf] = farthest;
    double potential = 0;
    for (int s = 0; s < count; ++s)
      potential += (tree_.weights ? tree_.weights[first + s] : 1.0) * near[s];
    tree_.potential[leaf] = potential;
  }

  double gain_of_leaf(int64_t leaf, const T* candidate) const {
    V distance[1][kVectors];
    distances_of(leaf, candidate, kCandidates, distance);
    const int64_t first = leaf * R;
    const T* const near = tree_.near + first;
    alignas(64) T gained[R];
    for (int v = 0; v < kVectors; ++v) {
      const V gain = vector_at(near + v * W) - distance[0][v];
      const V some = gain > 0 ? gain : V{};
      std::memcpy(gained + v * W, &some, sizeof(some));
    }
    double sum[8] = {};
    if (tree_.weights) {
      for (int s = 0; s < R; ++s) sum[s % 8] += tree_.weights[first + s] * gained[s];
    } else {
      const int count = static_cast<int>(least_of<int64_t>(R, tree_.n - first));
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
