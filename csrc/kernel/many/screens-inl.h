// The steps that strategies are built of: proofs of labels, screens, and searches of all centroids.
//
// "Unproven" is a set of rows of a block, a bit each, that other centroids than the nearest so far
// may be nearer to. Each proof or screen returns the rows that stay unproven:
//
//     every row --proof--> unproven --screens--> unproven --tiles or candidate groups--> decided
//                  |                     |
//               proven                decided
//
// A proof shows, without measuring another centroid, that a row keeps its label; a screen leaves
// few centroids to decide among, and decides. No step depends on the order of rows, so that
// strategies differ in time alone.
#pragma once

#include "kernel/many/candidate_groups-inl.h"
#include "kernel/many/tile-inl.h"

namespace km::KM_TARGET {
namespace {

// One block in the hands of a strategy. Made by search_block.
template <typename T>
struct BlockSearch {
  Block<T>& block;
  const Result<T>& result;
  const Scratch<T>& scratch;
  Seen& seen;
  // The result wants the distances of rows, or sums, whose inertia needs distances.
  const bool wants_distances;
};

// Proof by distances: measures each row against its centroid of the last call; proven by the gap of
// that centroid. Without directions the norms of the rows, and so
// least_score, are not known before Tile::start.
template <typename T>
uint64_t prove_by_distances(const BlockSearch<T>& b) {
  b.block.start_at_labels(b.result.labels);
  const uint64_t every = b.block.rows.every();
  const uint64_t unproven = every & ~b.block.measure_assigned(every);
  b.seen.proven += b.block.rows.count - __builtin_popcountll(unproven);
  return unproven;
}

// Proof by upper bounds: u(x) plus drift, against the gap of the centroid; reads no row.
template <typename T>
uint64_t prove_by_upper_bounds(const BlockSearch<T>& b) {
  b.block.start_at_labels(b.result.labels);
  const uint64_t unproven = b.block.raise_upper_bounds();
  b.seen.proven += b.block.rows.count - __builtin_popcountll(unproven);
  return unproven;
}

// The places whose gap to the centroid of row i is less than the row's squared distance to that
// centroid: no other place can hold a nearer centroid (Elkan, lemma 1). places (most + kLanes) is
// written; returns how many, above `most` where the count was given up.
template <typename T>
int find_within_gaps(const Block<T>& block, int i, int most, int32_t* places) {
  const Search<T>& s = block.search;
  const float* pairwise = s.gaps.pairwise + block.nearest[i] * s.places.count;
  const float* of_sixteen = s.gaps.of_sixteen + block.nearest[i] * s.gaps.blocks;
  const float distance = static_cast<float>(block.distance[i]);
  int count = 0;
  for (int64_t sixteens = 0; sixteens < s.gaps.blocks && count <= most; sixteens += kLanes)
    for (unsigned closer = lanes_below(of_sixteen + sixteens, distance); closer && count <= most;
         closer &= closer - 1) {
      const int64_t first = (sixteens + __builtin_ctz(closer)) * kLanes;
      for (unsigned left = lanes_below(pairwise + first, distance); left; left &= left - 1)
        places[count++] = static_cast<int32_t>(first) + __builtin_ctz(left);
    }
  return count;
}

// Screen by pairwise gaps: decides rows with few places within the gaps, by all distances. Rows
// with more stay unproven: a tile costs less. Needs measured rows.
template <typename T>
uint64_t screen_by_pairwise_gaps(const BlockSearch<T>& b, uint64_t unproven) {
  constexpr int kMost = 256;  // places of a row, in scratch on the stack
  const Search<T>& s = b.block.search;
  const float break_even =
      static_cast<float>(s.places.k) * cost_among_all(s.coordinates) / cost_of_distance<T>(s);
  const int most = static_cast<int>(least_of<float>(kMost, break_even));
  uint64_t left = 0;
  for (; unproven; unproven &= unproven - 1) {
    const int i = __builtin_ctzll(unproven);
    int32_t places[kMost + kLanes];
    const int count = find_within_gaps(b.block, i, most, places);
    if (count > most || !b.block.bounds_hold(i)) {
      left |= uint64_t{1} << i;
      continue;
    }
    for (int n = 0; n < count; ++n) b.block.decide(i, places[n]);
    b.seen.pairs += count;
  }
  return left;
}

// Screen by group bounds: finds the candidate groups of unproven rows, after measuring rows whose
// upper bounds may be too loose. Without directions these are all rows that are not measured yet;
// along directions, where a pair costs little, only rows whose upper bound does not fit a byte.
// Returns the rows that have candidates, with `groups` ready to search.
template <typename T>
uint64_t screen_by_group_bounds(const BlockSearch<T>& b, uint64_t unproven,
                                CandidateGroups<T>& groups) {
  Block<T>& block = b.block;
  groups.limit(unproven);
  unproven = groups.find();
  const uint64_t loose = block.search.coordinates.directions ? groups.beyond_bytes() : ~uint64_t{0};
  const uint64_t at_once = unproven & ~block.measured & loose;
  if (!at_once) return unproven;
  unproven &= ~block.measure_assigned(at_once);
  groups.limit(at_once & unproven);
  groups.find_again(unproven, at_once);
  return unproven;
}

// Searches all centroids for rows of the block, which (count), in tiles.
template <typename T>
void search_tiles_of(const BlockSearch<T>& b, const uint8_t* which, int count) {
  PairQueue<T> queue(b.block);
  for (int first = 0; first < count; first += kRowsInLanes)
    Tile<T>(b.block, which + first, least_of(kRowsInLanes, count - first), b.scratch)
        .search(b.result.warm, b.wants_distances, queue);
  b.seen.pairs += count * b.block.search.places.k;
  b.seen.compared += __builtin_popcountll(queue.compared());
}

// Searches all centroids for a set of rows, which fill as few tiles as they need.
template <typename T>
void search_tiles(const BlockSearch<T>& b, uint64_t rows) {
  if (!rows) return;
  b.block.rows.read(b.block.rows.every());
  uint8_t which[kBlock];
  int count = 0;
  for (; rows; rows &= rows - 1) which[count++] = static_cast<uint8_t>(__builtin_ctzll(rows));
  search_tiles_of(b, which, count);
}

// Searches all centroids for a set of unproven rows, and writes lower bounds of all rows. A tile is
// kRowsInLanes consecutive rows, for the bytes of its bounds; a tile without an unproven row is not
// scored, and its bounds say nothing. Needs all rows measured.
template <typename T>
void search_tiles_and_bound(const BlockSearch<T>& b, uint64_t unproven) {
  constexpr uint64_t kTileOfRows = (uint64_t{1} << kRowsInLanes) - 1;
  Block<T>& block = b.block;
  block.bounds.raise_all();
  block.rows.read(block.rows.every());
  uint8_t which[kBlock];
  int count = 0;
  for (int first = 0; first < block.rows.count; first += kRowsInLanes) {
    const int end = least_of(block.rows.count, first + kRowsInLanes);
    if (unproven >> first & kTileOfRows) {
      for (int i = first; i < end; ++i) which[count++] = static_cast<uint8_t>(i);
    } else {
      block.bounds.clear(first, kRowsInLanes);
      for (int i = first; i < end; ++i) block.bounds.set_base(i, block.root(i));
    }
  }
  search_tiles_of(b, which, count);
}

}  // namespace
}  // namespace km::KM_TARGET
