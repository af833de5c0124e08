// Seeding where bounds tell most candidates to be farther than the nearest centre so far.
// Included by kernel.inc, once per instruction set.
#pragma once

#include "many.h"

namespace {

// See km_kernel::potentials_by_bounds.
template <typename T>
void potentials_by_bounds(const km_rows& rows, const km_search& s, const T* nearest, int64_t begin,
                          int64_t end, double* potential, uint16_t* reached,
                          const km_scratch& scratch) {
  double total = 0;
  for (int64_t first = begin; first < end; first += s.block) {
    const int count = static_cast<int>(least_of(s.block, end - first));
    int64_t row_pitch = 0;
    const T* x = rows_of_block<T>(rows, s, first, count, scratch, row_pitch);
    float* coordinates = s.coordinates ? s.coordinates + first * s.pitch : scratch.coordinates;
    Block<T> block{s, x, row_pitch, coordinates, nullptr, count, {}, {}, {}, {}};
    coordinates_of_block(s, x, row_pitch, first, count, scratch, coordinates, block.norm);
    float rests[kMostRows];
    uint8_t everyone[kMostRows];
    for (int i = 0; i < count; ++i) {
      everyone[i] = static_cast<uint8_t>(i);
      rests[i] = rest_norm(s, coordinates + i * s.pitch, block.norm[i]);
      block.take(i, 0, nearest[first + i]);
      const double weight = rows.weights ? rows.weights[first + i] : 1.0;
      if (nearest[first + i] < std::numeric_limits<T>::infinity())
        total += weight * nearest[first + i];
      reached[first + i] = 0;
    }
    for (int64_t panel = 0; panel < s.panels; ++panel) {
      // Rows are fetched from memory together, and measured when they have come.
      uint8_t row_of[kMostRows * kLanes], lane_of[kMostRows * kLanes];
      int pairs = 0;
      for_each_score(
          s, coordinates, rests, panel, everyone, count,
          [&](int from, const Sixteen<float>(&score)[kRowsTogether]) {
            for (int r = 0; r < kRowsTogether && from + r < count; ++r) {
              const int i = from + r;
              unsigned lanes = block.good(i) ? at_least(score[r], block.enough[i]) : 0xffffu;
              const int before = pairs;
              for (; lanes; lanes &= lanes - 1) {
                const int lane = __builtin_ctz(lanes);
                const int64_t where = panel * kLanes + lane;
                if (where >= s.k || block.too_far(i, where)) continue;
                row_of[pairs] = static_cast<uint8_t>(i);
                lane_of[pairs++] = static_cast<uint8_t>(lane);
              }
              if (pairs > before) fetch(block.row(i), s.stride);
            }
          });
      for (int pair = 0; pair < pairs; ++pair) {
        const int i = row_of[pair];
        const int64_t where = panel * kLanes + lane_of[pair];
        const T distance = block.distance_to(i, where), near = block.best[i];
        if (!(distance < near)) continue;
        const double weight = rows.weights ? rows.weights[first + i] : 1.0;
        const bool first_centre = near == std::numeric_limits<T>::infinity();
        potential[where] += weight * (first_centre ? distance : double(distance) - near);
        if (where < 16) reached[first + i] |= static_cast<uint16_t>(1u << where);
      }
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
    if (rows.cosine || rows.column_stride != 1 || (rows.d > kFewFeatures && rows.d != stride)) {
      load_rows(rows, i, 1, stride, row);
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
