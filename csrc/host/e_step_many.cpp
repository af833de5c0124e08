#include "host/e_step_many.h"

#include <cmath>
#include <vector>

#include "host/dispatch.h"
#include "host/search_scratch.h"
#include "host/split.h"

namespace km {

namespace {

// What becomes of the rows that a search has labeled.
enum class Sums {
  kNone,   // nothing: no sums are asked for, or they are there
  kAdded,  // each row is added to the sums of its part
  kMoved,  // rows whose label changed are written down, to be moved from one sum to another
};

// What a search measured, for a part of the rows or for all.
struct SearchOutcome {
  Seen seen = {};
  double inertia = 0;       // Σ w d, of the rows that were measured
  int64_t changed = 0;      // labels
  std::vector<Move> moves;  // where sums are kMoved
};

// Memory of one part of a search: for the kernel's search, and for a row (stride) to be added.
template <typename T>
struct PartMemory {
  Scratch<T> search;
  T* row;
};

// Searches the rows of part p, and adds them to the part's sums while they are in a cache.
template <typename T>
void search_part(const km_rows& rows, const Search<T>& s, const Result<T>& result, Sums sums,
                 int64_t parts, int64_t p, const PartMemory<T>& memory, ExactSums<T>& totals,
                 SearchOutcome& outcome) {
  const Kernel<T>& kernel = current_kernel<T>();
  Result<T> part_result = result;
  part_result.inertia = &outcome.inertia;
  part_result.changed = &outcome.changed;
  in_turns(rows, parts, p, [&](int64_t begin, int64_t end) {
    kernel.search(rows, s, begin, end, part_result, memory.search, outcome.seen);
    if (sums == Sums::kAdded)
      kernel.add_up(rows, s.places.stride, begin, end, result.labels, totals.of_part(p),
                    memory.row);
  });
}

// Searches all rows, and adds up the outcomes of the parts, in the order of the parts. Writes
// labels, and distances where they are asked for, to result; its other fields stay as they are.
template <typename T>
SearchOutcome search_all(const km_rows& rows, const Search<T>& s, const Result<T>& result,
                         Sums sums, int64_t parts, ExactSums<T>& totals) {
  const int64_t most_moves = sums == Sums::kMoved ? rows.n / parts + kAtOnce : 0;  // rows of a part
  const SearchScratch<T> scratch(s, parts, most_moves);
  const auto row = for_each_part<T>(parts, size_t(s.places.stride));
  std::vector<SearchOutcome> of_parts(static_cast<size_t>(parts));
  in_parallel(parts, [&](int64_t p) {
    search_part(rows, s, result, sums, parts, p, {scratch.of_part(p), row[size_t(p)].get()}, totals,
                of_parts[size_t(p)]);
  });
  SearchOutcome all;
  for (int64_t p = 0; p < parts; ++p) {
    const SearchOutcome& part = of_parts[size_t(p)];
    all.seen.pairs += part.seen.pairs;
    all.seen.proven += part.seen.proven;
    all.seen.compared += part.seen.compared;
    all.inertia += part.inertia;
    all.changed += part.changed;
    const Move* const first = scratch.of_part(p).moves;
    if (first) all.moves.insert(all.moves.end(), first, first + part.seen.moves);
  }
  return all;
}

}  // namespace

// Three steps: make a search, run it, and take its sums. Sums of floats are exact where they can
// be, so that rows whose label changed are moved between them; other sums are added up anew.
template <typename T>
void e_step_by_bounds(const km_rows& rows, const T* centroids, int64_t k, const Result<T>& result,
                      Workspace<T>& workspace, bool keeps, int threads) {
  const int64_t parts = n_parts(rows, k, threads);
  const WorkspaceSettings& settings = workspace.settings;
  ExactSums<T>& totals = workspace.totals;
  // Bounds and labels are kept with the sums of the same labels. A call that asks for no sums is
  // mostly the last one, so it keeps none, and ends what the calls before have kept.
  Search<T> s = workspace.search.make(
      rows, centroids, k,
      {settings.directions, settings.keep, result.warm ? result.labels : nullptr,
       keeps && result.sums, result.distances != nullptr, threads});
  Sums sums = Sums::kNone;
  if (result.sums) {
    totals.start(rows, k, result.warm, parts, s.coordinates.center);
    sums = totals.follow() ? Sums::kMoved : Sums::kAdded;
  } else {
    totals.forget();
  }
  const SearchOutcome outcome = search_all(rows, s, result, sums, parts, totals);
  workspace.search.finish(s, rows.n, outcome.seen, outcome.changed);
  workspace.settings.share_visited = workspace.search.last().share_visited;
  *result.changed = outcome.changed;
  *result.inertia = outcome.inertia;
  if (!result.sums) return;
  if (sums == Sums::kMoved)
    totals.move(rows, s.places.stride, outcome.moves, threads);
  else
    totals.add_parts(rows, s.places.stride, result.labels);
  totals.write(result.sums, result.counts, threads);
  const double inertia = totals.inertia(centroids, threads);
  const bool follows_from_sums = std::isfinite(inertia);
  workspace.search.note_inertia(follows_from_sums);
  if (!s.upper.skips_rows)
    return;  // all rows were measured: the sum of their distances is the inertia
  *result.inertia = rows.cosine ? inertia / 2 : inertia;
  if (follows_from_sums) return;
  // Rows were skipped, since the inertia of the last call followed from its sums, but that of this
  // one does not: clusters have become so tight that it would be lost to cancellation. So all rows
  // are measured after all, for their distances alone: labels, moves and sums are there. This
  // happens once, as the next call skips no row.
  s.upper.skips_rows = false;
  *result.inertia = search_all(rows, s, result, Sums::kNone, parts, totals).inertia;
}

template void e_step_by_bounds(const km_rows&, const float*, int64_t, const Result<float>&,
                               Workspace<float>&, bool, int);
template void e_step_by_bounds(const km_rows&, const double*, int64_t, const Result<double>&,
                               Workspace<double>&, bool, int);

}  // namespace km
