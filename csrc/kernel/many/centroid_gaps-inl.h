// Gaps between centroids, ¼ d(c, c')², from the scores of pairs of centroids: k² products of few
// coordinates instead of distances of all features. Rounded down, as a gap proves labels.
#pragma once

#include "kernel/many/scores-inl.h"

namespace km::KM_TARGET {
namespace {

// Gaps (see struct Gaps) of the centroids at places begin to end, begin a multiple of
// kMostRowsInLanes; k of count places hold a centroid. Centroids stand in the lanes as rows do in
// other tiles. A score of two centroids is z·z' - ½‖c'‖², and offset = -½‖c‖², so
//     -½ (offset + score) = ¼ (‖c‖² + ‖c'‖² - 2 z·z') <= ¼ d(c, c')².
// nearest (count); pairwise (k, count) and closest_of_sixteen (k, blocks) may be null together;
// pairs (pitch, kMostRowsInLanes) is scratch.
inline void separate(const Coordinates& c, int64_t k, int64_t count, int64_t blocks, int64_t begin,
                     int64_t end, float* nearest, float* pairwise, float* closest_of_sixteen,
                     int32_t* pairs) {
  TileCoordinates tile;
  tile.pairs = pairs;
  for (int64_t first = begin; first < end; first += kRowsInLanes) {
    auto place_of = [&](int r) { return least_of(first + r, count - 1); };
    tile.fill(
        c.pitch, [&](int r) { return c.of_centroids + place_of(r) * c.pitch; },
        [&](int r) { return c.units[place_of(r)]; });
    const int64_t lanes_in_use = least_of<int64_t>(kRowsInLanes, count - first);
    float offset[kRowsInLanes], least[kRowsInLanes], of_sixteen[kRowsInLanes];
    for (int r = 0; r < kRowsInLanes; ++r) {
      offset[r] = r < lanes_in_use ? c.offsets[first + r] : -kInfinity;
      least[r] = of_sixteen[r] = kInfinity;
    }
    for (int64_t place = 0; place < k; place += kCentroidsInTurn) {
      PerRow score[kCentroidsInTurn];
      score_places(c, [&](int i) { return place + i; }, tile, score);
      for (int i = 0; i < kCentroidsInTurn && place + i < k; ++i) {
        float gaps[kRowsInLanes];
        for (int v = 0; v < kRowVectors; ++v) store(gaps + v * kLanes, score[i][v]);
        for (int r = 0; r < kRowsInLanes; ++r) {
          const float quarter = (-0.5f * (offset[r] + gaps[r]) - 2 * kTiny * kTiny) / c.slack;
          gaps[r] = first + r == place + i ? kInfinity : quarter;
          of_sixteen[r] = least_of(of_sixteen[r], gaps[r]);
        }
        if (pairwise)
          std::memcpy(pairwise + (place + i) * count + first, gaps,
                      size_t(lanes_in_use) * sizeof(float));
        if ((place + i + 1) % kLanes && place + i + 1 < k) continue;  // sixteen are not complete
        for (int r = 0; r < kRowsInLanes; ++r) {
          least[r] = least_of(least[r], of_sixteen[r]);
          if (closest_of_sixteen && first + r < k)
            closest_of_sixteen[(first + r) * blocks + (place + i) / kLanes] = of_sixteen[r];
          of_sixteen[r] = kInfinity;
        }
      }
    }
    for (int64_t r = 0; r < lanes_in_use; ++r) nearest[first + r] = least_of(least[r], kTooLarge);
  }
}

}  // namespace
}  // namespace km::KM_TARGET
