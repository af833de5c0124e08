// Splits the rows over threads, and merges what they find in a fixed order.

#include "native.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <new>
#include <numeric>
#include <vector>

#include "guarded.h"
#include "parts.h"
#include "seeding.h"
#include "sums.h"
#include "tree.h"

namespace {

// Takes a part of the rows, with statistics of its own.
using Part = std::function<void(int64_t part, const km_result& own)>;

// Runs all parts, and adds up what they find in their order.
void merged(const km_rows& rows, int64_t k, const km_result& result, int64_t parts,
            const Part& part) {
  // The first part adds to the result itself, the others to sums of their own.
  const size_t n_sums = result.sums ? size_t(k) * size_t(rows.d) : 0;
  const size_t n_counts = result.sums ? size_t(k) : 0;
  std::vector<std::vector<double>> sums(parts), counts(parts);
  std::vector<double> inertia(parts);
  std::vector<int64_t> changed(parts);
  for (int64_t p = 1; p < parts; ++p) {
    sums[p].assign(n_sums, 0.0);
    counts[p].assign(n_counts, 0.0);
  }
  std::fill_n(result.sums, n_sums, 0.0);
  std::fill_n(result.counts, n_counts, 0.0);
  in_parallel(parts, [&](int64_t p) {
    km_result own = result;
    own.inertia = &inertia[p];
    own.changed = &changed[p];
    if (p && result.sums) own.sums = sums[p].data();
    if (p && result.sums) own.counts = counts[p].data();
    part(p, own);
  });
  *result.inertia = 0;
  *result.changed = 0;
  for (int64_t p = 0; p < parts; ++p) {
    *result.inertia += inertia[p];
    *result.changed += changed[p];
    for (size_t i = 0; p && i < n_sums; ++i) result.sums[i] += sums[p][i];
    for (size_t i = 0; p && i < n_counts; ++i) result.counts[i] += counts[p][i];
  }
}

void scan(const km_rows& rows, const void* centroids, int64_t k, const km_result& result,
          int threads) {
  const km_kernel& kernel = current_kernel();
  const int64_t parts = n_parts(rows, k, threads);
  const auto block = blocks(parts, 2 * size_t(kernel.block_bytes) * size_t(rows.d));
  const Sums sums(parts, k, rows.d);
  merged(rows, k, result, parts, [&](int64_t p, const km_result& own) {
    kernel.scan(rows, centroids, k, begin_of(rows, parts, p), begin_of(rows, parts, p + 1), own,
                block[p].get(), sums.of[p].get(), sums.copies);
  });
}

// Returns the share of all pairs of a row and a centroid that were measured.
template <typename T>
double descend(Tree& tree, const km_rows& rows, const T* centroids, int64_t k,
             const km_result& result, int threads) {
  if (!result.warm) tree.take_labels(nullptr);
  const km_tree& view = tree.view();
  const int64_t parts = n_parts(rows, k, threads);
  const Sums sums(parts, k, rows.d);
  const NearLists<T> lists(view, centroids, k, parts);
  std::vector<int64_t> pairs(parts);
  merged(rows, k, result, parts, [&](int64_t p, const km_result& own) {
    pairs[p] = current_kernel().descend(view, rows.is_double, lists.of[p], p, parts, own,
                                        sums.of[p].get(), sums.copies);
  });
  return double(std::accumulate(pairs.begin(), pairs.end(), int64_t{0})) / double(k * rows.n);
}

// What a part of the rows has found, or all.
struct Found {
  km_seen seen = {};
  double inertia = 0;
  int64_t changed = 0;
};

// Searches all rows, and adds them to totals or writes down moves.
Found search(const km_rows& rows, const km_search& s, const km_result& result, Totals& totals,
             int64_t parts, std::vector<km_move>& moves) {
  const km_kernel& kernel = current_kernel();
  const bool follows = result.sums && totals.follow(), adds = result.sums && !follows;
  const size_t element = rows.is_double ? sizeof(double) : sizeof(float);
  Scratch scratch(s, element, parts);
  const auto row = blocks(parts, size_t(s.stride) * element);
  const int64_t most = rows.n / parts + kAtOnce;  // rows of a part
  const auto moves_of = blocks(follows ? parts : 0, size_t(most) * sizeof(km_move));
  std::vector<Found> own(parts);
  in_parallel(parts, [&](int64_t p) {
    Found& found = own[p];
    km_result its = result;
    its.inertia = &found.inertia;
    its.changed = &found.changed;
    if (follows) scratch.of[p].moves = reinterpret_cast<km_move*>(moves_of[p].get());
    in_turns(rows, parts, p, [&](int64_t begin, int64_t end) {
      kernel.search(rows, s, begin, end, its, scratch.of[p], found.seen);
      if (adds)
        kernel.add_up(rows, s.stride, begin, end, result.labels, totals.of_part(p), row[p].get());
    });
  });
  Found all;
  moves.clear();
  for (int64_t p = 0; p < parts; ++p) {
    all.seen.pairs += own[p].seen.pairs;
    all.seen.plain += own[p].seen.plain;
    all.seen.looked += own[p].seen.looked;
    all.inertia += own[p].inertia;
    all.changed += own[p].changed;
    const km_move* const first = scratch.of[p].moves;
    moves.insert(moves.end(), first, first + own[p].seen.moves);
  }
  return all;
}

template <typename T>
void search(const km_rows& rows, const T* centroids, int64_t k, const km_result& result,
            km_workspace* workspace, int threads) {
  km_workspace passing;
  km_workspace& known = workspace ? *workspace : passing;
  const int64_t parts = n_parts(rows, k, threads);
  km_search s = known.ready(current_kernel(), rows, centroids, k,
                            result.warm ? result.labels : nullptr, workspace && result.sums,
                            result.distances != nullptr, threads);
  Totals& totals = known.totals;
  if (result.sums) totals.start(rows, k, result.warm, parts, s.center);
  std::vector<km_move> moves;
  const Found found = search(rows, s, result, totals, parts, moves);
  known.searched(s, rows.n, found.seen, found.changed);
  *result.changed = found.changed;
  *result.inertia = found.inertia;
  if (!result.sums) return;
  if (totals.follow())
    totals.move(rows, s.stride, moves, threads);
  else
    totals.add_parts(rows, s.stride, result.labels);
  totals.write(result.sums, result.counts, threads);
  const double inertia = totals.inertia(centroids, threads);
  known.knows_inertia = std::isfinite(inertia);
  if (!s.reached) return;
  *result.inertia = rows.cosine ? inertia / 2 : inertia;
  if (known.knows_inertia) return;
  s.reached = false;  // all rows are measured after all
  *result.inertia = search(rows, s, result, totals, parts, moves).inertia;
}

template <typename T>
void e_step(const km_rows& rows, const void* centroids, int64_t k, const km_result& result,
            km_workspace* workspace, int threads) {
  const T* const points = static_cast<const T*>(centroids);
  if (rows.d > kFewFeatures) return search(rows, points, k, result, workspace, threads);
  Tree* const tree = workspace ? workspace->tree(rows, threads) : nullptr;
  if (tree && Tree::measures(points, k * rows.d)) {
    workspace->share_visited = descend(*tree, rows, points, k, result, threads);
    return;
  }
  scan(rows, centroids, k, result, threads);
  if (tree) tree->take_labels(result.labels);
  if (workspace) workspace->share_visited = 1;
}

template <typename T>
void potentials(const km_rows& rows, const void* nearest, const void* candidates, int64_t m,
                bool unchanged, double* result, km_workspace& workspace, int threads) {
  const T* const points = static_cast<const T*>(candidates);
  Tree* const tree = workspace.tree(rows, threads);
  if (tree && Tree::measures(points, m * rows.d) &&
      tree->potentials(static_cast<const T*>(nearest), points, m, unchanged, result, threads))
    return;
  workspace.seeding().potentials(rows, static_cast<const T*>(nearest), points, m, result, threads);
}

template <typename T>
void lower(const km_rows& rows, void* nearest, const void* center, bool unchanged,
           km_workspace& workspace, int threads) {
  const T* const point = static_cast<const T*>(center);
  Tree* const tree = workspace.tree(rows, threads);
  if (tree && Tree::measures(point, rows.d))
    return tree->lower(static_cast<T*>(nearest), point, unchanged, threads);
  workspace.seeding().lower(rows, static_cast<T*>(nearest), point, unchanged,
                            threads);
}

}  // namespace

extern "C" int km_abi_version(void) { return KM_ABI_VERSION; }

extern "C" int km_e_step(const km_rows* rows, const void* centroids, int64_t k,
                         const km_result* result, km_workspace* workspace, int threads) {
  return guarded([&] {
    if (workspace) workspace->end_seeding();
    if (!result->warm) in_large_pages(result->labels, size_t(rows->n) * sizeof(int64_t));
    auto run = rows->is_double ? e_step<double> : e_step<float>;
    run(*rows, centroids, k, *result, workspace, threads);
  });
}

extern "C" km_workspace* km_open(int keep, int sort) {
  km_workspace* const opened = new (std::nothrow) km_workspace;
  if (opened) opened->keep = keep, opened->sort = sort;
  return opened;
}

extern "C" void km_close(km_workspace* workspace) { delete workspace; }

extern "C" int km_project(km_workspace* workspace, const float* basis, const float* center,
                          int64_t p, int64_t d) {
  return guarded([&] { workspace->project(basis, center, p, d); });
}

extern "C" double km_share_visited(const km_workspace* workspace) {
  return workspace->share_visited;
}

extern "C" int km_lower(const km_rows* rows, void* nearest, const void* center, int unchanged,
                        km_workspace* workspace, int threads) {
  return guarded([&] {
    auto run = rows->is_double ? lower<double> : lower<float>;
    run(*rows, nearest, center, unchanged, *workspace, threads);
  });
}

extern "C" int km_potentials(const km_rows* rows, const void* nearest, const void* candidates,
                             int64_t m, int unchanged, double* result, km_workspace* workspace,
                             int threads) {
  return guarded([&] {
    auto run = rows->is_double ? potentials<double> : potentials<float>;
    run(*rows, nearest, candidates, m, unchanged, result, *workspace, threads);
  });
}

extern "C" int km_block_sums(const void* values, int is_double, int64_t n, int64_t size,
                             int exponent, int bits, int64_t* sums, int threads) {
  return guarded([&] {
    block_sums({values, bool(is_double), n, size, exponent, bits}, sums, threads);
  });
}

extern "C" int km_search_sums(const void* values, int is_double, int64_t n, int64_t size,
                              int exponent, int bits, const int64_t* sums, const int64_t* targets,
                              int64_t m, int64_t* positions) {
  return guarded([&] {
    search_sums({values, bool(is_double), n, size, exponent, bits}, sums, targets, m, positions);
  });
}

extern "C" int km_draw(const void* values, int is_double, int64_t n, int64_t size, int exponent,
                       int bits, const double* numbers, int64_t m, int64_t* positions,
                       int threads) {
  return guarded([&] {
    draw({values, bool(is_double), n, size, exponent, bits}, numbers, m, positions, threads);
  });
}

extern "C" int km_load(const km_rows* rows, void* to, int threads) {
  return guarded([&] {
    const size_t element = rows->is_double ? sizeof(double) : sizeof(float);
    const int64_t stride = filled(rows->d);
    const int64_t parts = n_parts(*rows, 1, threads);
    const auto block = blocks(parts, size_t(kBlock) * size_t(stride) * element);
    in_parts(*rows, parts, [&](int64_t p, int64_t begin, int64_t end) {
      for (int64_t first = begin; first < end; first += kBlock) {
        const int64_t last = std::min(end, first + kBlock);
        current_kernel().load(*rows, first, last, stride, block[p].get());
        for (int64_t i = first; i < last; ++i)
          std::memcpy(static_cast<char*>(to) + size_t(i * rows->d) * element,
                      block[p].get() + size_t((i - first) * stride) * element,
                      size_t(rows->d) * element);
      }
    });
  });
}
