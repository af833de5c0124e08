#include "host/box_tree.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "host/box_maker.h"
#include "host/dispatch.h"
#include "host/fill_few.h"
#include "host/fill_seeding.h"
#include "kernel/limits.h"

namespace km {

namespace {

// Threads for a walk of seeding through a tree: as many as get kLeavesPerThread leaves each.
template <typename T>
int64_t parts_of_walk(const Boxes<T>& tree, int threads) {
  constexpr int64_t kLeavesPerThread = 32;
  return std::min<int64_t>(threads, tree.levels.nodes[0] / kLeavesPerThread + 1);
}

// Candidates first to first + count of (m, d) as columns (d, kCandidates), filled up by points that
// are far from every row.
template <typename T>
std::vector<T> in_columns(const T* candidates, int64_t d, int64_t first, int64_t count) {
  std::vector<T> columns(size_t(d * kCandidates), kFarAway<T>);
  for (int64_t c = 0; c < count; ++c)
    for (int64_t j = 0; j < d; ++j) columns[j * kCandidates + c] = candidates[(first + c) * d + j];
  return columns;
}

}  // namespace

template <typename T>
std::unique_ptr<BoxTree<T>> BoxTree<T>::of(const km_rows& rows, int threads) {
  // The tree holds rows as they are, not at unit length as cosine measures them.
  if (rows.cosine || rows.n < 1 || rows.n > std::numeric_limits<uint32_t>::max()) return nullptr;
  auto tree = std::make_unique<BoxTree>();
  return tree->build(rows, threads) ? std::move(tree) : nullptr;
}

template <typename T>
bool BoxTree<T>::build(const km_rows& rows, int threads) {
  lay_out_levels(rows);
  take_memory(rows.weights != nullptr);
  return rows.d > kFewFeatures ? fill_seeding(rows, tree_, threads)
                               : fill_few(rows, tree_, threads);
}

// How many leaves the rows fill, and how many nodes of each level the nodes below. A leaf is a
// block of the instruction set in use, which must not change while a tree exists.
template <typename T>
void BoxTree<T>::lay_out_levels(const km_rows& rows) {
  LeafRows<T>& r = tree_.rows;
  r.n = rows.n;
  r.d = rows.d;
  r.leaf = current_kernels().block_bytes / int64_t(sizeof(T));
  BoxLevels& levels = tree_.levels;
  int64_t nodes = (r.n + r.leaf - 1) / r.leaf, below = 0;
  do {
    if (levels.count) nodes = (nodes + kFan - 1) / kFan;
    levels.begin[levels.count] = below;
    levels.nodes[levels.count++] = nodes;
    below += nodes;
  } while (nodes > kMostTopNodes);
}

// Arrays of the sizes that boxes.h gives. Above kFewFeatures a tree serves seeding alone, and the
// E-step's are left out.
template <typename T>
void BoxTree<T>::take_memory(bool weighted) {
  const size_t in_leaves = size_t(tree_.levels.nodes[0] * tree_.rows.leaf);
  const size_t nodes = size_t(nodes_of(tree_.levels));
  const size_t n = size_t(tree_.rows.n), d = size_t(tree_.rows.d);
  memory_.features = aligned<T>(in_leaves * d);
  memory_.middle = aligned<T>(nodes * d);
  memory_.half = aligned<T>(nodes * d);
  memory_.number = aligned<uint32_t>(n);
  if (tree_.rows.d <= kFewFeatures) {
    memory_.moments = aligned<double>(nodes * (2 + d));
    memory_.label_of_node = aligned<int32_t>(nodes);
    memory_.label_of_row = aligned<int32_t>(n);
    if (weighted) memory_.cancels = aligned<uint8_t>(nodes);
  }
  if (weighted) memory_.weights = aligned<double>(in_leaves);
  tree_.rows.features = memory_.features.get();
  tree_.rows.weights = memory_.weights.get();
  tree_.rows.number = memory_.number.get();
  tree_.sides = {memory_.middle.get(), memory_.half.get()};
  tree_.labels = {memory_.moments.get(), memory_.label_of_row.get(), memory_.label_of_node.get(),
                  memory_.cancels.get()};
}

template <typename T>
bool BoxTree<T>::measures(const T* points, int64_t count) {
  return std::all_of(points, points + count,
                     [](T value) { return std::abs(value) <= kMostOfTree<T>; });  // NaN: false
}

// Labels of nodes are not derived from those of rows: -1 costs one visit of each node at the next
// E-step, and no label.
template <typename T>
void BoxTree<T>::take_labels(const int64_t* labels) {
  for (int64_t i = 0; i < tree_.rows.n; ++i)
    tree_.labels.of_row[i] = labels ? static_cast<int32_t>(labels[tree_.rows.number[i]]) : -1;
  std::fill_n(tree_.labels.of_node, nodes_of(tree_.levels), -1);
}

// Only while seeding: later E-steps have no use for these.
template <typename T>
void BoxTree<T>::take_seeding_memory() {
  const size_t nodes = size_t(nodes_of(tree_.levels));
  seeding_memory_.nearest = aligned<T>(size_t(tree_.levels.nodes[0] * tree_.rows.leaf));
  seeding_memory_.farthest = aligned<T>(nodes);
  seeding_memory_.potential = aligned<double>(nodes);
  tree_.seeding = {seeding_memory_.nearest.get(), seeding_memory_.farthest.get(),
                   seeding_memory_.potential.get()};
}

template <typename T>
void BoxTree<T>::end_seeding() {
  tree_.seeding = {};
  seeding_memory_ = {};
}

// Fills what seeding keeps, from the leaves up, for nearest (n) in the caller's order. Needed where
// the caller has changed nearest, or the weights, since the last call.
template <typename T>
void BoxTree<T>::read_nearest(const T* nearest, int threads) {
  if (!tree_.seeding.nearest) take_seeding_memory();
  for_each_node(tree_.levels, 0, threads, [&](int64_t leaf) { read_leaf(leaf, nearest); });
  for (int level = 1; level < tree_.levels.count; ++level)
    for_each_node(tree_.levels, level, threads, [&](int64_t node) { unite_children(level, node); });
}

// Lanes without a row repeat the last row's distance, as the features do, and weigh nothing.
template <typename T>
void BoxTree<T>::read_leaf(int64_t leaf, const T* nearest) {
  const LeafRows<T>& rows = tree_.rows;
  const int64_t begin = leaf * rows.leaf, end = std::min(rows.n, begin + rows.leaf);
  T farthest = 0;
  double potential = 0;
  for (int64_t i = begin; i < begin + rows.leaf; ++i) {
    const T squared = nearest[rows.number[std::min(i, end - 1)]];
    tree_.seeding.nearest[i] = squared;
    farthest = std::max(farthest, squared);
    if (i < end) potential += (rows.weights ? rows.weights[i] : 1.0) * squared;
  }
  tree_.seeding.farthest[leaf] = farthest;
  tree_.seeding.potential[leaf] = potential;
}

// A node's largest distance and potential, from those of its children.
template <typename T>
void BoxTree<T>::unite_children(int level, int64_t node) {
  const int64_t number = tree_.levels.begin[level] + node, below = tree_.levels.begin[level - 1];
  const int64_t end = below + end_of_children(tree_.levels, level, node);
  T farthest = 0;
  double potential = 0;
  for (int64_t child = below + node * kFan; child < end; ++child) {
    farthest = std::max(farthest, tree_.seeding.farthest[child]);
    potential += tree_.seeding.potential[child];
  }
  tree_.seeding.farthest[number] = farthest;
  tree_.seeding.potential[number] = potential;
}

// A candidate's potential is that of all rows less what the candidate would gain: few boxes are
// near enough to a candidate to gain, and all others are not visited. Each part has gains of its
// own, which are taken off in the order of the parts.
template <typename T>
bool BoxTree<T>::potentials(const T* nearest, const T* candidates, int64_t m, bool unchanged,
                            double* potentials, int threads) {
  if (!unchanged || !tree_.seeding.nearest) read_nearest(nearest, threads);
  const int top = tree_.levels.count - 1;
  const double* const of_top = tree_.seeding.potential + tree_.levels.begin[top];
  const double potential = std::accumulate(of_top, of_top + tree_.levels.nodes[top], 0.0);
  if (!std::isfinite(potential)) return false;
  const int64_t parts = parts_of_walk(tree_, threads);
  std::vector<double> gains(size_t(parts * m));
  for (int64_t first = 0; first < m; first += kCandidates) {
    const int64_t count = std::min<int64_t>(kCandidates, m - first);
    const std::vector<T> columns = in_columns(candidates, tree_.rows.d, first, count);
    in_parallel(parts, [&](int64_t p) {
      current_kernel<T>().gain_in_boxes(tree_, columns.data(), count, p, parts,
                                        gains.data() + p * m + first);
    });
  }
  for (int64_t c = 0; c < m; ++c) {
    potentials[c] = potential;
    for (int64_t p = 0; p < parts; ++p) potentials[c] -= gains[p * m + c];
  }
  return true;
}

// Parts take whole uppermost nodes: no two of them write to the same rows or nodes.
template <typename T>
void BoxTree<T>::lower(T* nearest, const T* center, bool unchanged, int threads) {
  if (!unchanged || !tree_.seeding.nearest) read_nearest(nearest, threads);
  const int64_t parts = parts_of_walk(tree_, threads);
  in_parallel(parts, [&](int64_t p) {
    current_kernel<T>().lower_in_boxes(tree_, center, p, parts, nearest);
  });
}

template class BoxTree<float>;
template class BoxTree<double>;

}  // namespace km
