// The E-step for many features, block by block.
// Included by kernel.inc, once per instruction set.
#pragma once

#include "sift.h"
#include "tile.h"

namespace {

// Processor cycles, about: of the score of a row with a centroid among all, of one by itself, and
// of a distance.
inline float cost_among_all(const km_search& s) {
  return 2 + 2.0f / KM_VECTOR_BYTES * static_cast<float>(s.width);
}
inline float cost_by_itself(const km_search& s) {
  return 10 + 6.0f / KM_VECTOR_BYTES * static_cast<float>(s.width);
}
template <typename T>
inline float cost_of_distance(const km_search& s) {
  return 30 + 3.0f * sizeof(T) / KM_VECTOR_BYTES * static_cast<float>(s.stride);
}

// To measure a row from memory.
template <typename T>
inline float cost_of_row(const km_search& s) {
  return cost_of_distance<T>(s) + 0.3f * sizeof(T) * static_cast<float>(s.stride);
}
// The share of the pairs of a row that are spared where it is measured first, about, for each step
// that its centroid has moved.
constexpr float kSparedByStep = 0.25f, kMostSpared = 0.5f;

// How far a centroid has to move that its rows are measured first: pairs and rows are taken to be
// as many as in the last call.
template <typename T>
inline float far_drift(const km_search& s) {
  const float spared = cost_by_itself(s) * s.pairs_before;
  const float share = cost_of_row<T>(s) * (1 - s.looked_before) / spared;
  return share < kMostSpared ? share / (kSparedByStep * s.per_step) : kInfinity;
}

constexpr uint64_t kAllInLanes = (uint64_t{1} << kRowsInLanes) - 1;

// Groups of centroids that bounds of an earlier call do not keep off rows of a block.
template <typename T>
class Nearby {
 public:
  Nearby(Block<T>& block, km_near* near) : block_(block), near_(near) {}

  // Takes a row, as far from its centroid as is known.
  void limit(int i) {
    const uint64_t row = uint64_t{1} << i;
    known_ &= ~row;
    if (!block_.good(i)) return;
    const float far = block_.farthest(i);
    if (!(block_.measured & row)) block_.enough[i] = block_.enough_for(block_.norm[i], far * far);
    const float steps = far * block_.s.per_step - block_.base[i] + kFuzz;
    const bool counts = steps < kMostSteps;
    limit_[i] = counts ? static_cast<uint8_t>(steps > 0 ? steps + 1 : 1) : 0;
    known_ |= row;
    lost_ = counts ? lost_ & ~row : lost_ | row;
  }
  // Rows that are too far from their centroid for steps.
  uint64_t lost() const { return lost_; }

  // Finds the groups; returns the rows, a bit each, that are near any.
  uint64_t find() {
    const km_search& s = block_.s;
    if (s.settled)
      for (int64_t g = 0; g < s.groups; ++g) take_off(block_.bounds + g * kBlock, s.settled[g]);
    const uint64_t known = known_;
    return choose(s.groups, [&](int64_t g) { return km_near{near_rows(known, g), g}; });
  }

  // Keeps, of those that were found, what open rows are near; again: whose limits may be lower.
  void find_again(uint64_t open, uint64_t again) {
    again &= known_;
    open &= known_ & ~again;
    choose(count_, [&](int64_t n) {
      const km_near before = near_[n];
      uint64_t rows = before.rows & open;
      if (before.rows & again) rows |= near_rows(before.rows & again, before.group);
      return km_near{rows, before.group};
    });
  }

  // Looks at the centroids of these groups, if they are few. Returns how many pairs of a row and a
  // centroid were measured, or -1: too many.
  int64_t search() {
    const km_search& s = block_.s;
    const float cost = s.directions ? cost_by_itself(s) : cost_of_distance<T>(s);
    if (cost * static_cast<float>(pairs_) >
        cost_among_all(s) * static_cast<float>(s.k * block_.count))
      return -1;
    for (uint64_t rows = known_ & lost_; rows; rows &= rows - 1)
      block_.set_base(__builtin_ctzll(rows));
    Pairs<T> list(block_);
    if (s.directions) {
      Sift<T> sift(block_, list);
      for_each_centroid([&](uint64_t rows, int64_t where) { sift.add(rows, where); });
      sift.finish();
    } else {
      for_each_centroid([&](uint64_t rows, int64_t where) {
        for (; rows; rows &= rows - 1) list.add(__builtin_ctzll(rows), where, kInfinity);
      });
    }
    list.look();
    looked_ = list.rows();
    return pairs_;
  }
  // Rows that were measured against others than their centroid.
  uint64_t looked() const { return looked_; }

 private:
  // Those of some rows that are near a group.
  uint64_t near_rows(uint64_t rows, int64_t group) const {
    const km_search& s = block_.s;
    return rows & (lost_ | below(block_.bounds + group * kBlock, limit_, s.moved_most[group]));
  }

  // Takes those of so many groups that rows are near; returns these rows.
  template <typename Near>
  uint64_t choose(int64_t groups, const Near& near) {
    uint64_t all = 0;
    int64_t count = 0, pairs = 0;
    for (int64_t n = 0; n < groups; ++n) {
      const km_near found = near(n);
      near_[count] = found;
      count += found.rows != 0;
      pairs += __builtin_popcountll(found.rows);
      all |= found.rows;
    }
    count_ = count;
    pairs_ = pairs * block_.s.together;
    return all;
  }

  // Calls something with the rows near a group and with each of its centroids, which all get new
  // bounds.
  template <typename Call>
  void for_each_centroid(const Call& call) {
    const km_search& s = block_.s;
    for (int64_t n = 0; n < count_; ++n) {
      const km_near near = near_[n];
      fill_up(block_.bounds + near.group * kBlock, near.rows);
      const int64_t end = least_of(s.k, (near.group + 1) * s.together);
      for (int64_t where = near.group * s.together; where < end; ++where) call(near.rows, where);
    }
  }

  Block<T>& block_;
  km_near* const near_;
  alignas(64) uint8_t limit_[kBlock] = {};  // in steps
  uint64_t known_ = 0, lost_ = 0;  // rows that have one; that are too far away for it
  uint64_t looked_ = 0;
  int64_t count_ = 0, pairs_ = 0;
};

// Looks at the centroids that are not too far from those of the open rows, where they are few.
// Returns the rows that are left, a bit each; adds to pairs.
template <typename T>
uint64_t search_between(Block<T>& block, uint64_t open, int64_t& pairs) {
  constexpr int kMost = 256;
  const km_search& s = block.s;
  const int most = static_cast<int>(least_of<float>(
      kMost, static_cast<float>(s.k) * cost_among_all(s) / cost_of_distance<T>(s)));
  uint64_t left = 0;
  for (; open; open &= open - 1) {
    const int i = __builtin_ctzll(open);
    const float* between = s.between + block.place[i] * s.places;
    const float* closest = s.closest + block.place[i] * s.blocks;
    const float distance = static_cast<float>(block.best[i]);
    int32_t near[kMost + kLanes];
    int count = 0;
    for (int64_t group = 0; group < s.blocks && count <= most; group += kLanes)
      for (unsigned near_blocks = below(closest + group, distance); near_blocks && count <= most;
           near_blocks &= near_blocks - 1) {
        const int64_t first = (group + __builtin_ctz(near_blocks)) * kLanes;
        for (unsigned some = below(between + first, distance); some; some &= some - 1)
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
void find_nearest(Block<T>& block, const km_result& result, bool exact, const km_scratch& scratch,
                  km_seen& seen) {
  const km_search& s = block.s;
  const uint64_t all = ~uint64_t{0} >> (kBlock - block.count);  // rows, a bit each
  const bool first_bounds = block.bounds && !s.bounded;
  Nearby<T> nearby(block, scratch.near);
  uint64_t open = all;
  if (!s.reached) block.find_coordinates();
  if (result.warm) {
    block.take_places(result.labels);
    open = s.reached ? block.take_reach() : all & ~block.measure_own(all);
    seen.plain += block.count - __builtin_popcountll(open);
  }
  // What is to be taken off is taken off all bounds.
  if (!open && !s.settled && !first_bounds) return;
  if (s.reached) {
    block.find_coordinates();
    if (s.bounded && s.directions)
      open &= ~block.measure_own(open & block.drifted(far_drift<T>(s)));
  }
  if (s.bounded) {
    for (uint64_t left = open; left; left &= left - 1) nearby.limit(__builtin_ctzll(left));
    open = nearby.find();
    const uint64_t at_once = open & ~block.measured & (s.directions ? nearby.lost() : all);
    if (at_once) {
      open &= ~block.measure_own(at_once);
      for (uint64_t left = at_once & open; left; left &= left - 1)
        nearby.limit(__builtin_ctzll(left));
      nearby.find_again(open, at_once);
    }
    const int64_t pairs = nearby.search();
    if (pairs >= 0) {
      seen.pairs += pairs;
      seen.looked += __builtin_popcountll(nearby.looked());
      return;
    }
  }
  if (result.warm) {
    open &= ~block.measure_own(open & ~block.measured);
    if (s.between) open = search_between(block, open, seen.pairs);
    if (block.bounds) block.measure_own(all & ~block.measured);
  } else {
    block.measured = all;
  }
  if (block.bounds) std::memset(block.bounds, 255, size_t(s.groups * kBlock));
  block.read();
  uint8_t which[kBlock];
  int count = 0;
  for (int first = 0; first < block.count; first += kRowsInLanes) {
    if (block.bounds && !(open >> first & kAllInLanes)) {  // nothing is known of them
      for (int64_t g = 0; g < s.groups; ++g)
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
  seen.pairs += count * s.k;
  seen.looked += __builtin_popcountll(pairs.rows());
}

template <typename T>
void search_block(const km_rows& rows, const km_search& s, int64_t first, int count,
                  const km_result& result, const km_scratch& scratch, km_seen& seen) {
  const bool exact = result.distances || result.sums;
  Block<T> block(rows, s, first, count, scratch);
  if (s.places) {
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
    const bool good = s.places && block.good(i);
    if (!good) block.try_all(i);
    int64_t label = s.index[block.place[i]];
    T distance = block.best[i];
    double weight = rows.weights ? rows.weights[row] : 1.0;
    if (s.reach) s.reach[row] = good ? block.root_above(distance) : kInfinity;
    if (rows.cosine) {
      distance /= 2;
      if (is_zero(block.row(i), s.d)) {
        distance = 1;
        label = 0;
        weight = 0;
        if (s.reach) s.reach[row] = kInfinity;  // it is as far from all
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
    if (result.distances) static_cast<T*>(result.distances)[row] = distance;
    sum += weight * distance;
  }
  *result.changed += result.warm ? changed : count;
  *result.inertia += sum;
}

// See km_kernel::search.
template <typename T>
void search_rows(const km_rows& rows, const km_search& s, int64_t begin, int64_t end,
                 const km_result& result, const km_scratch& scratch, km_seen& seen) {
  for (int64_t first = begin; first < end; first += kBlock) {
    const int count = static_cast<int>(least_of<int64_t>(kBlock, end - first));
    search_block<T>(rows, s, first, count, result, scratch, seen);
  }
}

}  // namespace
