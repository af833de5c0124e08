#include "host/box_tree.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "host/cell_sort.h"
#include "host/dispatch.h"
#include "host/split.h"
#include "kernel/features.h"

namespace km {

namespace {

constexpr int64_t kMostInLeaf = 64;

// Boxes of leaves and nodes, and what their rows add up to.
template <typename T, int D>
class BoxMaker {
 public:
  BoxMaker(const Boxes<T>& tree, int threads)
      : tree_(tree),
        threads_(threads),
        boxes_(size_t(tree.begin[tree.levels - 1] + tree.nodes[tree.levels - 1])) {
    for (int level = 0; level < tree.levels; ++level) {
      const int64_t nodes = tree.nodes[level];
      const int64_t parts = std::min<int64_t>(threads, nodes / 64 + 1);
      in_parallel(parts, [&](int64_t p) {
        for (int64_t node = nodes * p / parts; node < nodes * (p + 1) / parts; ++node)
          level ? unite(level, node) : fill(node);
      });
    }
  }

 private:
  // The rows of a leaf, which are sorted by rows so far, one feature after the other.
  void fill(int64_t leaf) {
    const int64_t size = tree_.leaf, first = leaf * size;
    const int64_t count = std::min(size, tree_.n - first);
    T* const rows = tree_.rows + first * D;
    T copy[kMostInLeaf * D];
    std::copy_n(rows, count * D, copy);
    Box<T, D> box;
    for (int64_t s = 0; s < count; ++s) box.add(copy + s * D);
    close(leaf, box);
    for (int64_t s = 0; s < size; ++s)
      for (int j = 0; j < D; ++j) rows[j * size + s] = copy[std::min(s, count - 1) * D + j];
    if (!tree_.moments) return;
    double* const moments = tree_.moments + leaf * (2 + D);
    const T* const middle = tree_.middle + leaf * D;
    std::fill_n(moments, 2 + D, 0.0);
    for (int64_t s = 0; s < count; ++s) {
      const double weight = tree_.weights ? tree_.weights[first + s] : 1.0;
      moments[0] += weight;
      for (int j = 0; j < D; ++j) {
        const double apart = double(copy[s * D + j]) - double(middle[j]);
        moments[1] += weight * apart * apart;
        moments[2 + j] += weight * apart;
      }
    }
  }

  void unite(int level, int64_t node) {
    const int64_t number = tree_.begin[level] + node, below = tree_.begin[level - 1];
    const int64_t begin = below + node * kFan;
    const int64_t end = below + std::min(tree_.nodes[level - 1], (node + 1) * kFan);
    Box<T, D> box;
    for (int64_t child = begin; child < end; ++child) box.add(boxes_[child]);
    close(number, box);
    if (!tree_.moments) return;
    double* const moments = tree_.moments + number * (2 + D);
    const T* const middles = tree_.middle;
    std::fill_n(moments, 2 + D, 0.0);
    for (int64_t child = begin; child < end; ++child) {
      const double* const its = tree_.moments + child * (2 + D);
      moments[0] += its[0];
      moments[1] += its[1];
      for (int j = 0; j < D; ++j) {
        const double apart = double(middles[child * D + j]) - double(middles[number * D + j]);
        moments[1] += apart * (2 * its[2 + j] + its[0] * apart);
        moments[2 + j] += its[2 + j] + its[0] * apart;
      }
    }
  }

  void close(int64_t number, const Box<T, D>& box) {
    constexpr T kRoundedUp = 1 + 4 * std::numeric_limits<T>::epsilon();
    boxes_[number] = box;
    for (int j = 0; j < D; ++j) {
      const T middle = (box.low[j] + box.high[j]) / 2;
      tree_.middle[number * D + j] = middle;
      tree_.half[number * D + j] = std::max(box.high[j] - middle, middle - box.low[j]) * kRoundedUp;
    }
  }

  const Boxes<T>& tree_;
  const int threads_;
  std::vector<Box<T, D>> boxes_;
};

template <typename T, int D>
bool sort_and_fill(const km_rows& rows, const Boxes<T>& tree, int threads) {
  const Sorted<T, D> sorted(rows, tree.leaf, threads, tree.rows, tree.number);
  if (!sorted.good()) return false;
  if (tree.weights) {
    std::fill_n(tree.weights, tree.nodes[0] * tree.leaf, 0.0);
    for (int64_t i = 0; i < rows.n; ++i) tree.weights[i] = rows.weights[tree.number[i]];
  }
  BoxMaker<T, D>(tree, threads);
  return true;
}

}  // namespace

template <typename T>
std::unique_ptr<BoxTree<T>> BoxTree<T>::of(const km_rows& rows, int threads) {
  if (rows.cosine || rows.n < 1 || rows.n > std::numeric_limits<uint32_t>::max()) return nullptr;
  auto tree = std::make_unique<BoxTree>();
  return tree->build(rows, threads) ? std::move(tree) : nullptr;
}

template <typename T>
bool BoxTree<T>::build(const km_rows& rows, int threads) {
  Boxes<T>& t = tree_;
  t.n = rows.n;
  t.d = rows.d;
  t.leaf = current_kernels().block_bytes / int64_t(sizeof(T));
  int64_t nodes = (t.n + t.leaf - 1) / t.leaf, all = 0;
  do {
    if (t.levels) nodes = (nodes + kFan - 1) / kFan;
    t.begin[t.levels] = all;
    t.nodes[t.levels++] = nodes;
    all += nodes;
  } while (nodes > kMostTopNodes);
  const size_t in_leaves = size_t(t.nodes[0] * t.leaf), d = size_t(t.d);
  rows_ = aligned<T>(in_leaves * d);
  middle_ = aligned<T>(size_t(all) * d);
  half_ = aligned<T>(size_t(all) * d);
  number_ = aligned<uint32_t>(size_t(t.n));
  if (t.d <= kFewFeatures) {
    moments_ = aligned<double>(size_t(all) * (2 + d));
    owner_ = aligned<int32_t>(size_t(all));
    label_ = aligned<int32_t>(size_t(t.n));
  }
  if (rows.weights) weights_ = aligned<double>(in_leaves);
  t.rows = rows_.get();
  t.weights = weights_.get();
  t.number = number_.get();
  t.middle = middle_.get();
  t.half = half_.get();
  t.moments = moments_.get();
  t.label = label_.get();
  t.owner = owner_.get();
  return with_features<kSortedFeatures>(
      t.d, [&](auto d) { return sort_and_fill<T, decltype(d)::value>(rows, t, threads); });
}

template <typename T>
bool BoxTree<T>::measures(const T* points, int64_t count) {
  return std::all_of(points, points + count,
                     [](T value) { return std::abs(value) <= kMostOfTree<T>; });
}

template <typename T>
void BoxTree<T>::take_labels(const int64_t* labels) {
  for (int64_t i = 0; i < tree_.n; ++i)
    label_[i] = labels ? static_cast<int32_t>(labels[number_[i]]) : -1;
  std::fill_n(owner_.get(), all_nodes(), -1);
}

template <typename T>
void BoxTree<T>::read_nearest(const T* nearest, int threads) {
  Boxes<T>& t = tree_;
  if (!t.near) {
    near_ = aligned<T>(size_t(t.nodes[0] * t.leaf));
    farthest_ = aligned<T>(size_t(all_nodes()));
    potential_ = aligned<double>(size_t(all_nodes()));
    t.near = near_.get();
    t.farthest = farthest_.get();
    t.potential = potential_.get();
  }
  T *const near = t.near, *const farthest = t.farthest;
  for (int level = 0; level < t.levels; ++level) {
    const int64_t parts = std::min<int64_t>(threads, t.nodes[level] / 64 + 1);
    in_parallel(parts, [&](int64_t p) {
      const int64_t last = t.nodes[level] * (p + 1) / parts;
      for (int64_t node = t.nodes[level] * p / parts; node < last; ++node) {
        T most = 0;
        double potential = 0;
        if (level) {
          const int64_t below = t.begin[level - 1];
          const int64_t end = below + std::min(t.nodes[level - 1], (node + 1) * kFan);
          for (int64_t child = below + node * kFan; child < end; ++child) {
            most = std::max(most, farthest[child]);
            potential += t.potential[child];
          }
        } else {
          const int64_t end = std::min(t.n, (node + 1) * t.leaf);
          for (int64_t i = node * t.leaf; i < (node + 1) * t.leaf; ++i) {
            near[i] = nearest[t.number[std::min(i, end - 1)]];
            most = std::max(most, near[i]);
            if (i < end) potential += (t.weights ? t.weights[i] : 1.0) * near[i];
          }
        }
        farthest[t.begin[level] + node] = most;
        t.potential[t.begin[level] + node] = potential;
      }
    });
  }
}

template <typename T>
bool BoxTree<T>::potentials(const T* nearest, const T* candidates, int64_t m, bool unchanged,
                            double* potentials, int threads) {
  if (!unchanged || !tree_.near) read_nearest(nearest, threads);
  const int top = tree_.levels - 1;
  const double* const of_top = tree_.potential + tree_.begin[top];
  const double potential = std::accumulate(of_top, of_top + tree_.nodes[top], 0.0);
  if (!std::isfinite(potential)) return false;
  const int64_t parts = std::min<int64_t>(threads, tree_.nodes[0] / 32 + 1);
  std::vector<double> gains(size_t(parts * m));
  for (int64_t first = 0; first < m; first += kCandidates) {
    const int64_t some = std::min<int64_t>(kCandidates, m - first);
    std::vector<T> columns(size_t(tree_.d * kCandidates), kFarAway<T>);
    for (int64_t c = 0; c < some; ++c)
      for (int64_t j = 0; j < tree_.d; ++j)
        columns[j * kCandidates + c] = candidates[(first + c) * tree_.d + j];
    in_parallel(parts, [&](int64_t p) {
      current_kernel<T>().gain_in_boxes(tree_, columns.data(), some, p, parts,
                                        gains.data() + p * m + first);
    });
  }
  for (int64_t c = 0; c < m; ++c) {
    potentials[c] = potential;
    for (int64_t p = 0; p < parts; ++p) potentials[c] -= gains[p * m + c];
  }
  return true;
}

template <typename T>
void BoxTree<T>::lower(T* nearest, const T* center, bool unchanged, int threads) {
  if (!unchanged || !tree_.near) read_nearest(nearest, threads);
  const int64_t parts = std::min<int64_t>(threads, tree_.nodes[0] / 32 + 1);
  in_parallel(parts, [&](int64_t p) {
    current_kernel<T>().lower_in_boxes(tree_, center, p, parts, nearest);
  });
}

template <typename T>
void BoxTree<T>::end_seeding() {
  tree_.near = tree_.farthest = nullptr;
  tree_.potential = nullptr;
  near_.reset();
  farthest_.reset();
  potential_.reset();
}

template class BoxTree<float>;
template class BoxTree<double>;

}  // namespace km
