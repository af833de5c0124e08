// Boxes of leaves and nodes, and the moments of their rows.
#pragma once

#include <algorithm>
#include <limits>
#include <vector>

#include "host/cells.h"
#include "host/threads.h"
#include "kernel/few/boxes.h"

namespace km {

// Threads for the nodes of a level: as many as get kNodesPerThread nodes each, since fewer nodes
// cost less than waking a thread.
inline int64_t parts_of_level(const BoxLevels& levels, int level, int threads) {
  constexpr int64_t kNodesPerThread = 64;
  return std::min<int64_t>(threads, levels.nodes[level] / kNodesPerThread + 1);
}

// Calls work(node) for all nodes of a level, counted from the first of them.
template <typename Work>
void for_each_node(const BoxLevels& levels, int level, int threads, const Work& work) {
  const int64_t nodes = levels.nodes[level], parts = parts_of_level(levels, level, threads);
  in_parallel(parts, [&](int64_t p) {
    const int64_t end = nodes * (p + 1) / parts;
    for (int64_t node = nodes * p / parts; node < end; ++node) work(node);
  });
}

// Fills the sides and moments of a tree, level after level from the leaves up, and turns each leaf
// from rows into a block: features of all its rows one after the other.
template <typename T, int D>
class BoxMaker {
 public:
  // tree: rows.features holds sorted rows (n, D).
  BoxMaker(const Boxes<T>& tree, int threads)
      : tree_(tree), threads_(threads), boxes_(size_t(nodes_of(tree.levels))) {}

  // Nodes of a level are independent of each other, and read the level below alone: each thread
  // fills its nodes, and the results do not depend on how many threads there are.
  void run() {
    for_each_node(tree_.levels, 0, threads_, [&](int64_t leaf) { fill(leaf); });
    for (int level = 1; level < tree_.levels.count; ++level)
      for_each_node(tree_.levels, level, threads_, [&](int64_t node) { unite(level, node); });
  }

 private:
  static constexpr int64_t kMostInLeaf = 64;  // rows: floats in four vectors of 64 bytes
  static constexpr int kMoments = 2 + D;      // see BoxLabels

  // Box and moments of a leaf, and its rows as a block. Lanes without a row get copies of the last
  // one, so that kernels compute whole vectors of numbers that exist.
  void fill(int64_t leaf) {
    const int64_t size = tree_.rows.leaf, first = leaf * size;
    const int64_t count = std::min(size, tree_.rows.n - first);
    T* const features = tree_.rows.features + first * D;
    T rows[kMostInLeaf * D];
    std::copy_n(features, count * D, rows);
    Box<T, D> box;
    for (int64_t s = 0; s < count; ++s) box.add(rows + s * D);
    set_sides(leaf, box);
    for (int64_t s = 0; s < size; ++s)
      for (int j = 0; j < D; ++j) features[j * size + s] = rows[std::min(s, count - 1) * D + j];
    if (tree_.labels.moments) add_moments(leaf, rows, count);
  }

  // Moments of a leaf, whose rows are (count, D): about its middle, in double, since Σ w ‖x - c‖²
  // from moments about the origin would cancel where a box is small and far away.
  void add_moments(int64_t leaf, const T* rows, int64_t count) {
    double* const moments = tree_.labels.moments + leaf * kMoments;
    const T* const middle = tree_.sides.middle + leaf * D;
    const double* const weights =
        tree_.rows.weights ? tree_.rows.weights + leaf * tree_.rows.leaf : nullptr;
    std::fill_n(moments, kMoments, 0.0);
    for (int64_t s = 0; s < count; ++s) {
      const double weight = weights ? weights[s] : 1.0;
      moments[0] += weight;
      for (int j = 0; j < D; ++j) {
        const double offset = double(rows[s * D + j]) - double(middle[j]);
        moments[1] += weight * offset * offset;
        moments[2 + j] += weight * offset;
      }
    }
  }

  // The box of a node contains the boxes of its children, and touches them: it is the smallest one
  // of its rows, too.
  void unite(int level, int64_t node) {
    const int64_t number = tree_.levels.begin[level] + node;
    const int64_t below = tree_.levels.begin[level - 1];
    const int64_t begin = below + node * kFan;
    const int64_t end = below + end_of_children(tree_.levels, level, node);
    Box<T, D> box;
    for (int64_t child = begin; child < end; ++child) box.add(boxes_[child]);
    set_sides(number, box);
    if (tree_.labels.moments) unite_moments(number, begin, end);
  }

  // Moments about the middle m of a node from those of its children, W, Q and S about middles m':
  // with e = m' - m, Σ w ‖x - m‖² = Q + Σ_j e_j (2 S_j + W e_j) and Σ w (x - m) = S + W e.
  void unite_moments(int64_t number, int64_t begin, int64_t end) {
    double* const moments = tree_.labels.moments + number * kMoments;
    const T* const middles = tree_.sides.middle;
    std::fill_n(moments, kMoments, 0.0);
    for (int64_t child = begin; child < end; ++child) {
      const double* const of_child = tree_.labels.moments + child * kMoments;
      moments[0] += of_child[0];
      moments[1] += of_child[1];
      for (int j = 0; j < D; ++j) {
        const double offset = double(middles[child * D + j]) - double(middles[number * D + j]);
        moments[1] += offset * (2 * of_child[2 + j] + of_child[0] * offset);
        moments[2 + j] += of_child[2 + j] + of_child[0] * offset;
      }
    }
  }

  // Middle and half sides of a box, such that |x_j - middle_j| <= half_j for each row x in it, also
  // as rounded numbers: what is pruned by a box is pruned for all of its rows.
  void set_sides(int64_t number, const Box<T, D>& box) {
    // Each of the two differences and the product is rounded once: by ε / 2, relatively.
    constexpr T kRoundedUp = 1 + 4 * std::numeric_limits<T>::epsilon();
    boxes_[number] = box;
    for (int j = 0; j < D; ++j) {
      const T middle = (box.low[j] + box.high[j]) / 2;
      tree_.sides.middle[number * D + j] = middle;
      tree_.sides.half[number * D + j] =
          std::max(box.high[j] - middle, middle - box.low[j]) * kRoundedUp;
    }
  }

  const Boxes<T>& tree_;
  const int threads_;
  std::vector<Box<T, D>> boxes_;  // (nodes)
};

}  // namespace km
