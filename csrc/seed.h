// Seeding where bounds tell most candidates to be farther than the nearest centre so far.
// Included by kernel.inc, once per instruction set.
#pragma once

#include "scores.h"

namespace {

// Adds to the potentials of sixteen candidates, from place begin on, what they change for some
// rows. Rows are fetched from memory together, and measured when they have come.
template <typename T>
void offer(const Block<T>& block, int tile, int some, int64_t begin, const double* weights,
           double* potential, uint16_t* reached, const km_scratch& scratch) {
  const km_search& s = block.s;
  uint8_t row_of[kRowsInLanes * kLanes], lane_of[kRowsInLanes * kLanes];
  int pairs = 0;
  Highest highest[kRowVectors];  // not asked for
  score_rows(s, scratch.columns, begin, least_of(s.k, begin + kLanes), scratch.scores, highest);
  Row limit;
  float enough[kRowsInLanes];
  for (int r = 0; r < kRowsInLanes; ++r) enough[r] = r < some ? block.enough[tile + r] : kInfinity;
  for (int v = 0; v < kRowVectors; ++v) limit[v] = load(enough + v * kLanes);
  for (int lane = 0; lane < kLanes && begin + lane < s.k; ++lane) {
    uint32_t near = 0;
    for (int v = 0; v < kRowVectors; ++v)
      near |= at_least(load(scratch.scores + (lane * kRowVectors + v) * kLanes), limit[v])
              << (v * kLanes);
    for (; near; near &= near - 1) {
      row_of[pairs] = static_cast<uint8_t>(tile + __builtin_ctz(near));
      lane_of[pairs++] = static_cast<uint8_t>(lane);
    }
  }
  for (int pair = 0; pair < pairs; ++pair) fetch(block.row(row_of[pair]), s.stride);
  for (int pair = 0; pair < pairs; ++pair) {
    const int i = row_of[pair];
    const int64_t where = begin + lane_of[pair];
    const T distance = block.distance_to(i, where), near = block.best[i];
    if (!(distance < near)) continue;
    const double weight = weights ? weights[block.first + i] : 1.0;
    const bool first_centre = near == std::numeric_limits<T>::infinity();
    potential[where] += weight * (first_centre ? distance : double(distance) - near);
    if (where < 16) reached[block.first + i] |= static_cast<uint16_t>(1u << where);
  }
}

// See km_kernel::potentials_by_bounds.
template <typename T>
void potentials_by_bounds(const km_rows& rows, const km_search& s, const T* nearest, int64_t begin,
                          int64_t end, double* potential, uint16_t* reached,
                          const km_scratch& scratch) {
  double total = 0;
  for (int64_t first = begin; first < end; first += kBlock) {
    const int count = static_cast<int>(least_of<int64_t>(kBlock, end - first));
    Block<T> block(rows, s, first, count, scratch);
    uint8_t which[kBlock];
    for (int i = 0; i < count; ++i) {
      block.take(i, 0, nearest[first + i]);
      if (!block.good(i)) block.enough[i] = -kInfinity;
      const double weight = rows.weights ? rows.weights[first + i] : 1.0;
      if (nearest[first + i] < std::numeric_limits<T>::infinity())
        total += weight * nearest[first + i];
      reached[first + i] = 0;
      which[i] = static_cast<uint8_t>(i);
    }
    for (int tile = 0; tile < count; tile += kRowsInLanes) {
      const int some = least_of(kRowsInLanes, count - tile);
      fill_columns(block, which + tile, some, scratch.columns);
      for (int64_t place = 0; place < s.places; place += kLanes)
        offer(block, tile, some, place, rows.weights, potential, reached, scratch);
    }
  }
  for (int64_t c = 0; c < s.k; ++c) potential[c] += total;
}

// See km_kernel::lower_reached.
template <typename T>
void lower_reached(const km_rows& rows, T* nearest, const T* center, int64_t stride,
                   const uint16_t* reached, int candidate, int64_t begin, int64_t end, T* row) {
  const uint64_t in_four = uint64_t{0x0001000100010001} << candidate;
  for (int64_t i = begin; i < end; ++i) {
    uint64_t four = 0;
    if (end - i >= 4) {
      std::memcpy(&four, reached + i, sizeof(four));
      if (!(four & in_four)) {
        i += 3;
        continue;
      }
    }
    if (!(reached[i] >> candidate & 1)) continue;
    const T* x = static_cast<const T*>(rows.x) + i * rows.row_stride;
    if (!as_they_are(rows, rows.d > kFewFeatures ? stride : rows.d)) {
      load_row(rows, i, stride, row);
      x = row;
    }
    T distance = 0;
    if (rows.d > kFewFeatures)
      distance = squared_distance(x, center, stride);
    else
      for (int64_t j = 0; j < rows.d; ++j) distance += (x[j] - center[j]) * (x[j] - center[j]);
    nearest[i] = least_of(nearest[i], distance);
  }
}

}  // namespace
