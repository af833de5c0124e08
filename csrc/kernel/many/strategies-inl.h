// The strategies of a search: which bounds a block is searched by, and which it writes.
//
// One is chosen per call, from what the host has filled in of Search<T>. Names say which bounds are
// read; "and_bound" says that lower bounds are written for the first time. Every strategy but the
// first leaves the distances from which write_results writes upper bounds, where they are kept
// (UpperBounds.reach).
//
//     strategy                          reads                          writes lower bounds
//     try_all_centroids                 nothing                        none are kept
//     search_cold                       nothing: no labels             none are kept
//     search_cold_and_bound             nothing: no labels             first
//     search_by_gaps                    labels, gaps                   none are kept
//     search_by_gaps_and_bound          labels, nearest gaps           first
//     search_by_upper_bounds            labels, upper bounds, gaps     none are kept
//     search_by_lower_bounds            labels, nearest gaps, lower    of candidate groups
//     search_by_upper_and_lower_bounds  the same and upper bounds      of candidate groups
//
// Gaps are read where there are any (Gaps.nearest or pairwise not null). Where candidate groups are
// too many, the last two search tiles, and write the lower bounds of all groups. A strategy goes
// from the cheapest proof to the dearest: upper bounds against gaps (no row is read), measured
// distances against gaps, lower bounds of groups, scores of coordinates, and at last the deciding
// distance.
//
// Where a further screen goes. A screen discards pairs of a row and a centroid at less cost than
// the next screen, and never decides. Products of 8 bits, for example, are
//   - in tiles: a pass in Tile::search before score_rows (scores-inl.h), which then skips the turns
//     of centroids whose rough scores are all too low; the rough score, raised by its margin,
//     bounds the group in Tile::screen_and_bound;
//   - in candidate groups: a class with `add` and `finish` like PairFilter, whose survivors go to
//     PairFilter; CandidateGroups::search puts the two in a row;
//   - their coordinates: fields beside Coordinates.of_centroids and RowCoordinates.coordinates,
//     rounded in coordinates-inl.h, with a margin in margins-inl.h;
//   - their cost: in costs-inl.h, if the screen does not always pay.
// A screen of whole rows, before all of that, is a function in screens-inl.h that takes and returns
// unproven rows, called by the strategies that have what it reads; a new quantity to read is a new
// strategy, and a line in strategy_for.
#pragma once

#include "kernel/many/screens-inl.h"

namespace km::KM_TARGET {
namespace {

// Finds the labels of a block: `measured`, `nearest` and `distance` of rows whose label may have
// changed. Rows that are not in `measured` keep their labels.
template <typename T>
using Strategy = void (*)(const BlockSearch<T>&);

// Few centroids, or numbers so large that bounds could overflow: write_results decides among all
// centroids for every row, as for single rows whose bounds do not hold.
template <typename T>
void try_all_centroids(const BlockSearch<T>& b) {
  b.block.rows.read(b.block.rows.every());
  b.block.measured = b.block.rows.every();
  for (float& norm : b.block.rows.norm) norm = kInfinity;
}

template <typename T>
void search_cold(const BlockSearch<T>& b) {
  b.block.rows.find_coordinates_along_directions();
  b.block.measured = b.block.rows.every();
  search_tiles(b, b.block.measured);
}

template <typename T>
void search_cold_and_bound(const BlockSearch<T>& b) {
  b.block.rows.find_coordinates_along_directions();
  b.block.measured = b.block.rows.every();
  search_tiles_and_bound(b, b.block.measured);
}

template <typename T>
void search_by_gaps(const BlockSearch<T>& b) {
  b.block.rows.find_coordinates_along_directions();
  uint64_t unproven = prove_by_distances(b);
  if (b.block.search.gaps.pairwise) unproven = screen_by_pairwise_gaps(b, unproven);
  search_tiles(b, unproven);
}

template <typename T>
void search_by_gaps_and_bound(const BlockSearch<T>& b) {
  b.block.rows.find_coordinates_along_directions();
  search_tiles_and_bound(b, prove_by_distances(b));
}

template <typename T>
void search_by_upper_bounds(const BlockSearch<T>& b) {
  uint64_t unproven = prove_by_upper_bounds(b);
  if (!unproven) return;
  b.block.rows.find_coordinates_along_directions();
  unproven &= ~b.block.measure_assigned(unproven);
  if (b.block.search.gaps.pairwise) unproven = screen_by_pairwise_gaps(b, unproven);
  search_tiles(b, unproven);
}

// The last steps of both strategies by lower bounds: candidate groups one by one where they are
// few, else a tile of all centroids, which writes all lower bounds afresh.
template <typename T>
void search_groups_or_tiles(const BlockSearch<T>& b, uint64_t unproven) {
  Block<T>& block = b.block;
  CandidateGroups<T> groups(block, b.scratch.groups);
  unproven = screen_by_group_bounds(b, unproven, groups);
  if (groups.few()) {
    b.seen.pairs += groups.search();
    b.seen.compared += __builtin_popcountll(groups.compared());
    return;
  }
  unproven &= ~block.measure_assigned(unproven & ~block.measured);
  block.measure_assigned(block.rows.every() & ~block.measured);
  search_tiles_and_bound(b, unproven);
}

template <typename T>
void search_by_lower_bounds(const BlockSearch<T>& b) {
  b.block.rows.find_coordinates_along_directions();
  const uint64_t unproven = prove_by_distances(b);
  if (!unproven && !b.block.search.bounds.rebase) return;  // a rebase concerns proven rows too
  search_groups_or_tiles(b, unproven);
}

template <typename T>
void search_by_upper_and_lower_bounds(const BlockSearch<T>& b) {
  const Search<T>& s = b.block.search;
  uint64_t unproven = prove_by_upper_bounds(b);
  if (!unproven && !s.bounds.rebase) return;  // a rebase concerns proven rows too
  b.block.rows.find_coordinates_along_directions();
  if (s.coordinates.directions)
    unproven &= ~b.block.measure_assigned(unproven & b.block.drifted_beyond(far_drift<T>(s)));
  search_groups_or_tiles(b, unproven);
}

// The strategy of a call. warm: the result's labels are those of the last call. Without labels no
// bounds are valid; upper bounds are valid only together with lower bounds or gaps.
template <typename T>
Strategy<T> strategy_for(const Search<T>& s, bool warm) {
  if (!s.places.count) return try_all_centroids<T>;
  if (!warm) return s.bounds.steps ? search_cold_and_bound<T> : search_cold<T>;
  if (s.bounds.valid)
    return s.upper.skips_rows ? search_by_upper_and_lower_bounds<T> : search_by_lower_bounds<T>;
  if (s.bounds.steps) return search_by_gaps_and_bound<T>;
  return s.upper.skips_rows ? search_by_upper_bounds<T> : search_by_gaps<T>;
}

}  // namespace
}  // namespace km::KM_TARGET
