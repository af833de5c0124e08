// How far the centroids are from each other.
#pragma once

#include <cstdint>

#include "host/memory.h"
#include "kernel/many/search.h"

namespace km {

// Makes Gaps, anew for each call, from the scores of the centroids with each other. A gap is
// (½ d(c, c'))², less a margin for rounding. By the triangle inequality, a row whose squared
// distance to its centroid c is at most the gap of c and c' is not nearer to c' (Elkan's lemma 1):
// at most `nearest`, s(c)², and the row keeps its centroid (Hamerly).
class CentroidGaps {
 public:
  // Of the centroids of these places. Without pairwise only the nearest other centroid of each.
  Gaps make(const Coordinates& coordinates, int64_t k, int64_t places, bool pairwise, int threads);

 private:
  Array<float> nearest_;     // (places)
  Array<float> pairwise_;    // (k, places)
  Array<float> of_sixteen_;  // (k, places / 16 filled up to a multiple of 16)
};

}  // namespace km
