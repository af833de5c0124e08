// The E-step for many features, block by block.
// Included by kernel.inc, once per instruction set.
#pragma once

#include "tile.h"

namespace {

// Processor cycles, about: of the score of a row with a centroid among all, of one by itself, and
// of a distance.
inline float cost_among_all(const km_search& s) {
  return 2 + 2.0f / KM_VECTOR_BYTES * static_cast<float>(s.width);
}
inline float cost_by_itself(const km_search& s) {
  return 15 + 5.0f / KM_VECTOR_BYTES * static_cast<float>(s.width);
}
template <typename T>
inline float cost_of_distance(const km_search& s) {
  return 30 + 3.0f * sizeof(T) / KM_VECTOR_BYTES * static_cast<float>(s.stride);
}

constexpr uint64_t kAllInLanes = (uint64_t{1} << kRowsInLanes) - 1;

// Looks at what bounds of an earlier call do not keep off the open rows, if that is little.
// Returns how many pairs of a row and a centroid were measured, or -1: too many.
template <typename T>
int64_t search_near(Block<T>& block, uint64_t open, const km_scratch& scratch) {
  const km_search& s = block.s;
  alignas(64) uint8_t limit[kBlock] = {};
  uint64_t known = 0, lost = 0;  // rows, a bit each
  for (uint64_t left = open; left; left &= left - 1) {
    const int i = __builtin_ctzll(left);
    if (!block.good(i)) continue;
    const float steps = block.root_above(block.best[i]) * s.per_step - block.base[i] + kFuzz;
    known |= uint64_t{1} << i;
    if (steps < kMostSteps) {
      limit[i] = static_cast<uint8_t>(steps > 0 ? steps + 1 : 1);
    } else {
      lost |= uint64_t{1} << i;
      block.set_base(i);
    }
  }
  int64_t groups = 0, pairs = 0;
  for (int64_t g = 0; g < s.groups; ++g) {
    uint8_t* bounds = block.bounds + g * kBlock;
    if (s.settled) take_off(bounds, s.settled[g]);
    const uint64_t rows = known & (lost | below(bounds, limit, s.moved_most[g]));
    scratch.near[groups] = {rows, g};
    groups += rows != 0;
    pairs += __builtin_popcountll(rows) * s.together;
  }
  const float cost = s.directions ? cost_by_itself(s) : cost_of_distance<T>(s);
  if (cost * static_cast<float>(pairs) > cost_among_all(s) * static_cast<float>(s.k * block.count))
    return -1;
  Pairs<T> list(block);
  for (int64_t n = 0; n < groups; ++n) {
    const km_near near = scratch.near[n];
    fill_up(block.bounds + near.group * kBlock, near.rows);
    const int64_t end = least_of(s.k, (near.group + 1) * s.together);
    for (int64_t where = near.group * s.together; where < end; ++where) {
      if (s.directions)
        block.sift(near.rows, where, list);
      else
        for (uint64_t rows = near.rows; rows; rows &= rows - 1)
          list.add(__builtin_ctzll(rows), where, kInfinity);
    }
  }
  list.look();
  return pairs;
}

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

// Takes the centroids of the last call; returns the rows, a bit each, of which it is plain that
// these are still the nearest.
template <typename T>
uint64_t take_guesses(Block<T>& block, const int64_t* labels) {
  constexpr int kTogether = 4;
  const km_search& s = block.s;
  const int last = block.count - 1;
  for (int i = 0; i <= last; ++i) {
    const int64_t label = labels[block.first + i];  // which others may have written over
    block.place[i] = s.position[label >= 0 && label < s.k ? label : 0];
  }
  if (s.stride <= 2 * kLanes) {
    for (int i = 0; i <= last; ++i) block.best[i] = block.distance_to(i, block.place[i]);
  } else {
    for (int first = 0; first <= last; first += kTogether) {
      const T *rows[kTogether], *centroids[kTogether];
      T distance[kTogether];
      for (int n = 0; n < kTogether; ++n) {
        const int i = least_of(first + n, last);
        rows[n] = block.row(i);
        centroids[n] = block.centroid(block.place[i]);
      }
      squared_distances(rows, centroids, s.stride, distance);
      for (int n = 0; n < kTogether; ++n) block.best[least_of(first + n, last)] = distance[n];
    }
  }
  for (int i = 0; i <= last; ++i) block.take(i, block.place[i], block.best[i]);
  uint64_t plain = 0;
  for (int i = 0; s.apart && i <= last; ++i)
    plain |= uint64_t{static_cast<float>(block.best[i]) <= s.apart[block.place[i]]} << i;
  return plain;
}

// Finds the nearest centroids of the rows of a block; their squared distances too if exact.
template <typename T>
void find_nearest(Block<T>& block, const km_result& result, bool exact, const km_scratch& scratch,
                  km_seen& seen) {
  const km_search& s = block.s;
  uint64_t open = ~uint64_t{0} >> (kBlock - block.count);  // rows, a bit each
  if (result.warm) open &= ~take_guesses(block, result.labels);
  seen.plain += block.count - __builtin_popcountll(open);
  if (!open && !s.settled) return;  // what is to be taken off is taken off all bounds
  if (s.bounded) {
    const int64_t pairs = search_near(block, open, scratch);
    if (pairs >= 0) {
      seen.pairs += pairs;
      return;
    }
  }
  if (result.warm && s.between) open = search_between(block, open, seen.pairs);
  if (block.bounds) std::memset(block.bounds, 255, size_t(s.groups * kBlock));
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
}

template <typename T>
void search_block(const km_rows& rows, const km_search& s, int64_t first, int count,
                  const km_result& result, const km_scratch& scratch, km_seen& seen) {
  Block<T> block(rows, s, first, count, scratch);
  if (s.places) find_nearest(block, result, result.distances != nullptr, scratch, seen);
  bool all_good = s.places;
  for (int i = 0; i < count; ++i) all_good &= block.good(i);
  for (int i = 0; !all_good && i < count; ++i)
    if (!s.places || !block.good(i)) block.try_all(i);
  int64_t changed = 0;
  double sum = 0;
  for (int i = 0; i < count; ++i) {
    const int64_t row = first + i;
    int64_t label = s.index[block.place[i]];
    T distance = block.best[i];
    if (rows.cosine) {
      const T* features = block.row(i);
      distance /= 2;
      bool zero = true;
      for (int64_t j = 0; j < s.d && zero; ++j) zero = features[j] == 0;
      if (zero) {
        distance = 1;
        label = 0;
      }
    }
    changed += result.labels[row] != label;
    result.labels[row] = label;
    if (result.distances) static_cast<T*>(result.distances)[row] = distance;
    sum += distance;
  }
  *result.changed += result.warm ? changed : count;
  if (!result.distances) *result.inertia += sum;
}

// See km_kernel::search.
template <typename T>
km_seen search_rows(const km_rows& rows, const km_search& s, int64_t begin, int64_t end,
                    const km_result& result, const km_scratch& scratch) {
  km_seen seen = {};
  for (int64_t first = begin; first < end; first += kBlock) {
    const int count = static_cast<int>(least_of<int64_t>(kBlock, end - first));
    search_block<T>(rows, s, first, count, result, scratch, seen);
  }
  return seen;
}

// See km_kernel::add_up.
template <typename T>
void add_up(const km_rows& rows, int64_t stride, int64_t begin, int64_t end,
            const km_result& result, T* copy) {
  const bool read = as_they_are(rows, rows.d);
  double inertia = 0;
  for (int64_t i = begin; i < end; ++i) {
    const T* row = static_cast<const T*>(rows.x) + i * rows.row_stride;
    double weight = rows.weights ? rows.weights[i] : 1.0;
    if (!read) {
      load_row(rows, i, stride, copy);
      row = copy;
      bool zero = rows.cosine;
      for (int64_t j = 0; j < rows.d && zero; ++j) zero = row[j] == 0;
      if (zero) weight = 0;
    }
    const int64_t label = result.labels[i];
    inertia += weight * static_cast<const T*>(result.distances)[i];
    result.counts[label] += weight;
    double* sum = result.sums + label * rows.d;
    for (int64_t j = 0; j < rows.d; ++j) sum[j] += weight * row[j];
  }
  *result.inertia += inertia;
}

}  // namespace
