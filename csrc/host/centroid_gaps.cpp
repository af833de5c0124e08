#include "host/centroid_gaps.h"

#include <algorithm>
#include <limits>

#include "host/dispatch.h"
#include "host/threads.h"

namespace km {

// A part takes whole blocks of places and writes only their gaps, so that parts never write to the
// same numbers. Each gap of a pair is computed twice, once from either side: k² / 2 scores more,
// which cost less than threads that wait for each other.
Gaps CentroidGaps::make(const Coordinates& coordinates, int64_t k, int64_t places, bool pairwise,
                        int threads) {
  Gaps gaps = {};
  gaps.blocks = filled(places / kLanes);
  nearest_ = aligned<float>(size_t(places));
  if (pairwise) {
    pairwise_ = aligned<float>(size_t(k * places));
    of_sixteen_ = aligned<float>(size_t(k * gaps.blocks));
    // The last blocks only fill up sixteen: an infinite gap, which discards them all.
    std::fill_n(of_sixteen_.get(), k * gaps.blocks, std::numeric_limits<float>::infinity());
  }
  float* const all_pairs = pairwise ? pairwise_.get() : nullptr;
  float* const least = pairwise ? of_sixteen_.get() : nullptr;
  const int64_t blocks = (places + kBlock - 1) / kBlock;
  const int64_t parts = std::min<int64_t>(threads, blocks);
  const auto columns = for_each_part<int32_t>(parts, size_t(coordinates.pitch) * kMostRowsInLanes);
  in_parallel(parts, [&](int64_t p) {
    current_kernels().separate(coordinates, k, places, gaps.blocks, blocks * p / parts * kBlock,
                               std::min(places, blocks * (p + 1) / parts * kBlock), nearest_.get(),
                               all_pairs, least, columns[size_t(p)].get());
  });
  gaps.nearest = nearest_.get();
  gaps.pairwise = all_pairs;
  gaps.of_sixteen = least;
  return gaps;
}

}  // namespace km
