// Boxes of leaves and nodes, and the moments of their rows.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "host/cell_sort.h"
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
      : tree_(tree),
        threads_(threads),
        boxes_(size_t(nodes_of(tree.levels))),
        sizes_(tree.labels.cancels ? boxes_.size() * D : 0) {}

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
    if (tree_.labels.cancels) add_sizes(leaf, rows, count);
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
    if (tree_.labels.cancels) unite_sizes(number, begin, end);
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

  // Sizes of a leaf, whose rows are (count, D), and whether its moments cancel.
  void add_sizes(int64_t leaf, const T* rows, int64_t count) {
    const double* const weights = tree_.rows.weights + leaf * tree_.rows.leaf;
    for (int64_t s = 0; s < count; ++s)
      for (int j = 0; j < D; ++j)
        sizes_[size_t(leaf * D + j)] += weights[s] * std::abs(double(rows[s * D + j]));
    tree_.labels.cancels[leaf] = cancels(leaf);
  }

  // The same of a node, whose children are nodes begin to end - 1.
  void unite_sizes(int64_t number, int64_t begin, int64_t end) {
    for (int64_t child = begin; child < end; ++child)
      for (int j = 0; j < D; ++j) sizes_[size_t(number * D + j)] += sizes_[size_t(child * D + j)];
    tree_.labels.cancels[number] = cancels(number);
  }

  // Whether sums and inertia of a node lose digits where they come of its moments W, Q and S (see
  // BoxDescent::assign_box). A middle m is as far away as half sides h reach, and the sum S_j + W
  // m_j rounds W (|m_j| + h_j), though it stands for terms of size Σ w |x_j|; the inertia rounds W
  // ‖h‖², though it is at least Σ w ‖x - mean‖² = Q - ‖S‖² / W. Rows of equal weight keep each pair
  // within a factor of their number, since rows touch the sides. Rows of little or no weight that
  // lie far from the others, as masked rows may, widen the box and add nothing to the terms.
  bool cancels(int64_t number) const {
    constexpr double kMost = 1 << 16;  // times the terms: 37 of the 53 bits of a double are left
    const double* const moments = tree_.labels.moments + number * kMoments;
    const double weight = moments[0];
    double sides = 0, spread = moments[1];
    for (int j = 0; j < D; ++j) {
      const double half = tree_.sides.half[number * D + j], sum = moments[2 + j];
      const double farthest = std::abs(double(tree_.sides.middle[number * D + j])) + half;
      if (weight * farthest > kMost * sizes_[size_t(number * D + j)]) return true;
      sides += half * half;
      spread -= sum * sum / weight;
    }
    return weight * sides > kMost * spread;  // false where nothing weighs, and spread is NaN
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
  std::vector<double> sizes_;     // (nodes, D): Σ w |x_j|; empty where every weight is 1
};

// Fills the rows, sides and moments of a tree; false where CellSort refuses a number. One function
// for each D, so that the loops over features are unrolled.
template <typename T, int D>
bool sort_and_fill(const km_rows& rows, const Boxes<T>& tree, int threads) {
  if (!CellSort<T, D>(rows, tree.rows.leaf, threads, tree.rows.features, tree.rows.number).run())
    return false;
  if (tree.rows.weights) {
    std::fill_n(tree.rows.weights, tree.levels.nodes[0] * tree.rows.leaf, 0.0);
    for (int64_t i = 0; i < rows.n; ++i) tree.rows.weights[i] = rows.weights[tree.rows.number[i]];
  }
  BoxMaker<T, D>(tree, threads).run();
  return true;
}

}  // namespace km
