// The E-step for many features, block by block.
//
#pragma once

#include "kernel/many/groups-inl.h"
#include "kernel/many/tile-inl.h"

namespace km::KM_TARGET {
namespace {

constexpr uint64_t kAllInLanes = (uint64_t{1} << kRowsInLanes) - 1;

// Looks at the centroids that are not too far from those of the open rows, where they are few.
// Returns the rows that are left, a bit each; adds to pairs.
template <typename T>
uint64_t search_between(Block<T>& block, uint64_t open, int64_t& pairs) {
  constexpr int kMost = 256;
  const Search<T>& s = block.s;
  const int most = static_cast<int>(least_of<float>(
      kMost,
      static_cast<float>(s.places.k) * cost_among_all(s.coordinates) / cost_of_distance<T>(s)));
  uint64_t left = 0;
  for (; open; open &= open - 1) {
    const int i = __builtin_ctzll(open);
    const float* between = s.gaps.pairwise + block.place[i] * s.places.count;
    const float* closest = s.gaps.of_sixteen + block.place[i] * s.gaps.blocks;
    const float distance = static_cast<float>(block.best[i]);
    int32_t near[kMost + kLanes];
    int count = 0;
    for (int64_t group = 0; group < s.gaps.blocks && count <= most; group += kLanes)
      for (unsigned near_blocks = lanes_below(closest + group, distance);
           near_blocks && count <= most; near_blocks &= near_blocks - 1) {
        const int64_t first = (group + __builtin_ctz(near_blocks)) * kLanes;
        for (unsigned some = lanes_below(between + first, distance); some; some &= some - 1)
          near[count++] = static_cast<int32_t>(first) + __builtin_ctz(some);
      }
    if (count > most || !block.good(i)) {
      left |= uint64_t{1} << i;
      continue;
    }
    for (int n = 0; n < count; ++n) block.look(i, near[n]);
    pairs += count;
  }
  return left;
}

// Finds the nearest centroids of the rows of a block; their squared distances too if exact. Rows
// that are not measured keep their labels.
template <typename T>
void find_nearest(Block<T>& block, const Result<T>& result, bool exact, const Scratch<T>& scratch,
                  Seen& seen) {
  const Search<T>& s = block.s;
  const uint64_t all = ~uint64_t{0} >> (kBlock - block.count);  // rows, a bit each
  const bool first_bounds = block.bounds && !s.bounds.valid;
  Nearby<T> nearby(block, scratch.near);
  uint64_t open = all;
  if (!s.upper.valid) block.find_coordinates();
  if (result.warm) {
    block.take_places(result.labels);
    open = s.upper.valid ? block.take_reach() : all & ~block.measure_own(all);
    seen.plain += block.count - __builtin_popcountll(open);
  }
  // What is to be taken off is taken off all bounds.
  if (!open && !s.bounds.rebase && !first_bounds) return;
  if (s.upper.valid) {
    block.find_coordinates();
    if (s.bounds.valid && s.coordinates.directions)
      open &= ~block.measure_own(open & block.drifted(far_drift<T>(s)));
  }
  if (s.bounds.valid) {
    for (uint64_t left = open; left; left &= left - 1) nearby.limit(__builtin_ctzll(left));
    open = nearby.find();
    const uint64_t at_once =
        open & ~block.measured & (s.coordinates.directions ? nearby.lost() : all);
    if (at_once) {
      open &= ~block.measure_own(at_once);
      for (uint64_t left = at_once & open; left; left &= left - 1)
        nearby.limit(__builtin_ctzll(left));
      nearby.find_again(open, at_once);
    }
    const int64_t pairs = nearby.search();
    if (pairs >= 0) {
      seen.pairs += pairs;
      seen.compared += __builtin_popcountll(nearby.compared());
      return;
    }
  }
  if (result.warm) {
    open &= ~block.measure_own(open & ~block.measured);
    if (s.gaps.pairwise) open = search_between(block, open, seen.pairs);
    if (block.bounds) block.measure_own(all & ~block.measured);
  } else {
    block.measured = all;
  }
  if (block.bounds) std::memset(block.bounds, 255, size_t(s.bounds.groups * kBlock));
  block.read();
  uint8_t which[kBlock];
  int count = 0;
  for (int first = 0; first < block.count; first += kRowsInLanes) {
    if (block.bounds && !(open >> first & kAllInLanes)) {  // nothing is known of them
      for (int64_t g = 0; g < s.bounds.groups; ++g)
        std::memset(block.bounds + g * kBlock + first, 0, kRowsInLanes);
      for (int i = first; i < least_of(block.count, first + kRowsInLanes); ++i) block.set_base(i);
      continue;
    }
    for (int i = first; i < least_of(block.count, first + kRowsInLanes); ++i)
      if (block.bounds || open >> i & 1) which[count++] = static_cast<uint8_t>(i);
  }
  Pairs<T> pairs(block);
  for (int first = 0; first < count; first += kRowsInLanes)
    Tile<T>(block, which + first, least_of(kRowsInLanes, count - first), scratch)
        .search(result.warm, exact, pairs);
  seen.pairs += count * s.places.k;
  seen.compared += __builtin_popcountll(pairs.rows());
}

template <typename T>
void search_block(const km_rows& rows, const Search<T>& s, int64_t first, int count,
                  const Result<T>& result, const Scratch<T>& scratch, Seen& seen) {
  const bool exact = result.distances || result.sums;
  Block<T> block(rows, s, first, count, scratch);
  if (s.places.count) {
    find_nearest(block, result, exact, scratch, seen);
    if (!block.measured) return;
  } else {
    block.read();
    block.measured = ~uint64_t{0} >> (kBlock - count);
  }
  int64_t changed = 0;
  double sum = 0;
  for (uint64_t left = block.measured; left; left &= left - 1) {
    const int i = __builtin_ctzll(left);
    const int64_t row = first + i;
    const bool good = s.places.count && block.good(i);
    if (!good) block.try_all(i);
    int64_t label = s.places.index[block.place[i]];
    T distance = block.best[i];
    double weight = rows.weights ? rows.weights[row] : 1.0;
    if (s.upper.reach) s.upper.reach[row] = good ? block.root_above(distance) : kInfinity;
    if (rows.cosine) {
      distance /= 2;
      if (is_zero(block.row(i), s.places.d)) {
        distance = 1;
        label = 0;
        weight = 0;
        if (s.upper.reach) s.upper.reach[row] = kInfinity;  // it is as far from all
      }
    }
    const int64_t before = result.warm ? label_before(s, result.labels, row) : label;
    if (before != label) {
      ++changed;
      if (scratch.moves)
        scratch.moves[seen.moves++] = {row, static_cast<int32_t>(before),
                                       static_cast<int32_t>(label)};
    }
    result.labels[row] = label;
    if (s.labels) s.labels[row] = static_cast<int32_t>(label);
    if (result.distances) result.distances[row] = distance;
    sum += weight * distance;
  }
  *result.changed += result.warm ? changed : count;
  *result.inertia += sum;
}

// See Kernel::search.
template <typename T>
void search_rows(const km_rows& rows, const Search<T>& s, int64_t begin, int64_t end,
                 const Result<T>& result, const Scratch<T>& scratch, Seen& seen) {
  for (int64_t first = begin; first < end; first += kBlock) {
    const int count = static_cast<int>(least_of<int64_t>(kBlock, end - first));
    search_block<T>(rows, s, first, count, result, scratch, seen);
  }
}

}  // namespace
}  // namespace km::KM_TARGET
