#include "host/e_step.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <new>
#include <numeric>
#include <vector>

#include "host/box_tree.h"
#include "host/candidate_memory.h"
#include "host/dispatch.h"
#include "host/search_scratch.h"
#include "host/seeding.h"
#include "host/split.h"
#include "host/sums_of_parts.h"

namespace km {

namespace {

// Takes a part of the rows, with statistics of its own.
template <typename T>
using Part = std::function<void(int64_t part, const Result<T>& own)>;

// Runs all parts, and adds up what they find in their order.
template <typename T>
void merged(const km_rows& rows, int64_t k, const Result<T>& result, int64_t parts,
            const Part<T>& part) {
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
    Result<T> own = result;
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

template <typename T>
void scan(const km_rows& rows, const T* centroids, int64_t k, const Result<T>& result,
          int threads) {
  const int64_t parts = n_parts(rows, k, threads);
  const size_t block_size = 2 * size_t(current_kernels().block_bytes) / sizeof(T);
  const auto block = for_each_part<T>(parts, block_size * size_t(rows.d));
  const SumsOfParts sums(parts, k, rows.d);
  merged<T>(rows, k, result, parts, [&](int64_t p, const Result<T>& own) {
    current_kernel<T>().scan(rows, centroids, begin_of(rows, parts, p),
                             begin_of(rows, parts, p + 1), own, block[p].get(), sums.of_part(p));
  });
}

// Returns the share of all pairs of a row and a centroid that were measured.
template <typename T>
double descend(BoxTree<T>& tree, const km_rows& rows, const T* centroids, int64_t k,
               const Result<T>& result, int threads) {
  if (!result.warm) tree.take_labels(nullptr);
  const Boxes<T>& view = tree.view();
  const int64_t parts = n_parts(rows, k, threads);
  const SumsOfParts sums(parts, k, rows.d);
  const CandidateMemory<T> lists(view, centroids, k, parts);
  std::vector<int64_t> pairs(parts);
  merged<T>(rows, k, result, parts, [&](int64_t p, const Result<T>& own) {
    pairs[p] = current_kernel<T>().descend(view, lists.of_part(p), p, parts, own, sums.of_part(p));
  });
  return double(std::accumulate(pairs.begin(), pairs.end(), int64_t{0})) / double(k * rows.n);
}

// What a part of the rows has found, or all.
struct Found {
  Seen seen = {};
  double inertia = 0;
  int64_t changed = 0;
};

// Searches all rows, and adds them to totals or writes down moves.
template <typename T>
Found search(const km_rows& rows, const Search<T>& s, const Result<T>& result, ExactSums<T>& totals,
             int64_t parts, std::vector<Move>& moves) {
  const Kernel<T>& kernel = current_kernel<T>();
  const bool follows = result.sums && totals.follow(), adds = result.sums && !follows;
  SearchScratch<T> scratch(s, parts);
  const auto row = for_each_part<T>(parts, size_t(s.places.stride));
  const int64_t most = rows.n / parts + kAtOnce;  // rows of a part
  const auto moves_of = for_each_part<Move>(follows ? parts : 0, size_t(most));
  std::vector<Found> own(parts);
  in_parallel(parts, [&](int64_t p) {
    Found& found = own[p];
    Result<T> its = result;
    its.inertia = &found.inertia;
    its.changed = &found.changed;
    if (follows) scratch.of[p].moves = moves_of[p].get();
    in_turns(rows, parts, p, [&](int64_t begin, int64_t end) {
      kernel.search(rows, s, begin, end, its, scratch.of[p], found.seen);
      if (adds)
        kernel.add_up(rows, s.places.stride, begin, end, result.labels, totals.of_part(p),
                      row[p].get());
    });
  });
  Found all;
  moves.clear();
  for (int64_t p = 0; p < parts; ++p) {
    all.seen.pairs += own[p].seen.pairs;
    all.seen.plain += own[p].seen.plain;
    all.seen.compared += own[p].seen.compared;
    all.inertia += own[p].inertia;
    all.changed += own[p].changed;
    const Move* const first = scratch.of[p].moves;
    moves.insert(moves.end(), first, first + own[p].seen.moves);
  }
  return all;
}

template <typename T>
void search(const km_rows& rows, const T* centroids, int64_t k, const Result<T>& result,
            Workspace<T>& known, bool keeps, int threads) {
  const int64_t parts = n_parts(rows, k, threads);
  Search<T> s = known.ready(rows, centroids, k, result.warm ? result.labels : nullptr,
                            keeps && result.sums, result.distances != nullptr, threads);
  ExactSums<T>& totals = known.totals;
  if (result.sums) totals.start(rows, k, result.warm, parts, s.coordinates.center);
  std::vector<Move> moves;
  const Found found = search(rows, s, result, totals, parts, moves);
  known.searched(s, rows.n, found.seen, found.changed);
  *result.changed = found.changed;
  *result.inertia = found.inertia;
  if (!result.sums) return;
  if (totals.follow())
    totals.move(rows, s.places.stride, moves, threads);
  else
    totals.add_parts(rows, s.places.stride, result.labels);
  totals.write(result.sums, result.counts, threads);
  const double inertia = totals.inertia(centroids, threads);
  known.knows_inertia = std::isfinite(inertia);
  if (!s.upper.valid) return;
  *result.inertia = rows.cosine ? inertia / 2 : inertia;
  if (known.knows_inertia) return;
  s.upper.valid = false;  // all rows are measured after all
  *result.inertia = search(rows, s, result, totals, parts, moves).inertia;
}

}  // namespace

template <typename T>
void e_step(const km_rows& rows, const T* centroids, int64_t k, const Result<T>& result,
            km_workspace* workspace, int threads) {
  if (workspace) workspace->end_seeding();
  if (!result.warm) in_large_pages(result.labels, size_t(rows.n) * sizeof(int64_t));
  if (rows.d > kFewFeatures) {
    WorkspaceSettings settings;
    Workspace<T> passing(settings);
    return search(rows, centroids, k, result, workspace ? workspace->of<T>() : passing,
                  workspace != nullptr, threads);
  }
  BoxTree<T>* const tree = workspace ? workspace->of<T>().tree(rows, threads) : nullptr;
  if (tree && BoxTree<T>::measures(centroids, k * rows.d)) {
    workspace->settings.share_visited = descend(*tree, rows, centroids, k, result, threads);
    return;
  }
  scan(rows, centroids, k, result, threads);
  if (tree) tree->take_labels(result.labels);
  if (workspace) workspace->settings.share_visited = 1;
}

template <typename T>
void potentials(const km_rows& rows, const T* nearest, const T* candidates, int64_t m,
                bool unchanged, double* result, Workspace<T>& workspace, int threads) {
  BoxTree<T>* const tree = workspace.tree(rows, threads);
  if (tree && BoxTree<T>::measures(candidates, m * rows.d) &&
      tree->potentials(nearest, candidates, m, unchanged, result, threads))
    return;
  workspace.seeding().potentials(rows, nearest, candidates, m, result, threads);
}

template <typename T>
void lower(const km_rows& rows, T* nearest, const T* center, bool unchanged,
           Workspace<T>& workspace, int threads) {
  BoxTree<T>* const tree = workspace.tree(rows, threads);
  if (tree && BoxTree<T>::measures(center, rows.d))
    return tree->lower(nearest, center, unchanged, threads);
  workspace.seeding().lower(rows, nearest, center, unchanged, threads);
}

template <typename T>
void load(const km_rows& rows, T* to, int threads) {
  const int64_t stride = filled(rows.d), parts = n_parts(rows, 1, threads);
  const auto block = for_each_part<T>(parts, size_t(kBlock) * size_t(stride));
  in_parts(rows, parts, [&](int64_t p, int64_t begin, int64_t end) {
    for (int64_t first = begin; first < end; first += kBlock) {
      const int64_t count = std::min<int64_t>(kBlock, end - first);
      current_kernel<T>().load(rows, first, count, stride, block[p].get());
      for (int64_t i = 0; i < count; ++i)
        std::memcpy(to + (first + i) * rows.d, block[p].get() + i * stride,
                    size_t(rows.d) * sizeof(T));
    }
  });
}

template void e_step(const km_rows&, const float*, int64_t, const Result<float>&, km_workspace*,
                     int);
template void potentials(const km_rows&, const float*, const float*, int64_t, bool, double*,
                         Workspace<float>&, int);
template void lower(const km_rows&, float*, const float*, bool, Workspace<float>&, int);
template void load(const km_rows&, float*, int);

template void e_step(const km_rows&, const double*, int64_t, const Result<double>&, km_workspace*,
                     int);
template void potentials(const km_rows&, const double*, const double*, int64_t, bool, double*,
                         Workspace<double>&, int);
template void lower(const km_rows&, double*, const double*, bool, Workspace<double>&, int);
template void load(const km_rows&, double*, int);

}  // namespace km
