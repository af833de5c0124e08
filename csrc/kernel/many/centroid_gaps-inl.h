// How far the centroids are from each other.
//
#pragma once

#include "kernel/many/scores-inl.h"

namespace km::KM_TARGET {
namespace {

// See Kernel::separate.
inline void separate(const Coordinates& s, int64_t k, int64_t count, int64_t blocks, int64_t begin,
                     int64_t end, float* nearest, float* pairwise, float* closest_of_sixteen,
                     int32_t* pairs) {
  Columns columns;
  columns.pairs = pairs;
  for (int64_t first = begin; first < end; first += kRowsInLanes) {
    auto place = [&](int r) { return least_of(first + r, count - 1); };
    columns.fill(s.pitch, [&](int r) { return s.of_centroids + place(r) * s.pitch; });
    for (int r = 0; r < kRowsInLanes; ++r) columns.unit[r] = s.units[place(r)];
    const int64_t some = least_of<int64_t>(kRowsInLanes, count - first);
    float own[kRowsInLanes], least[kRowsInLanes], of_sixteen[kRowsInLanes];
    for (int r = 0; r < kRowsInLanes; ++r) {
      own[r] = r < some ? s.offsets[first + r] : -kInfinity;
      least[r] = of_sixteen[r] = kInfinity;
    }
    for (int64_t where = 0; where < k; where += kCentroidsInTurn) {
      Row score[kCentroidsInTurn];
      score_places(s, [&](int i) { return where + i; }, columns, score);
      for (int i = 0; i < kCentroidsInTurn && where + i < k; ++i) {
        float lanes[kRowsInLanes];
        for (int v = 0; v < kRowVectors; ++v) store(lanes + v * kLanes, score[i][v]);
        for (int r = 0; r < kRowsInLanes; ++r) {
          // a quarter of the squared distance between the two, but for rounding
          const float quarter = (-0.5f * (own[r] + lanes[r]) - 2 * kTiny * kTiny) / s.slack;
          lanes[r] = first + r == where + i ? kInfinity : quarter;
          of_sixteen[r] = least_of(of_sixteen[r], lanes[r]);
        }
        if (pairwise)
          std::memcpy(pairwise + (where + i) * count + first, lanes, size_t(some) * sizeof(float));
        if ((where + i + 1) % kLanes && where + i + 1 < k) continue;
        for (int r = 0; r < kRowsInLanes; ++r) {
          least[r] = least_of(least[r], of_sixteen[r]);
          if (closest_of_sixteen && first + r < k)
            closest_of_sixteen[(first + r) * blocks + (where + i) / kLanes] = of_sixteen[r];
          of_sixteen[r] = kInfinity;
        }
      }
    }
    for (int64_t r = 0; r < some; ++r) nearest[first + r] = least_of(least[r], kTooLarge);
  }
}

}  // namespace
}  // namespace km::KM_TARGET
