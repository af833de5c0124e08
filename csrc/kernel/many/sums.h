// Sums of clusters of rows of many features.
#pragma once

#include <cstdint>

namespace km {

// Adding splitter to a number and taking it off again leaves a multiple of a unit; these and what
// is left are added up apart, so that both sums are exact, in whatever order (Rump, Ogita & Oishi
// 2008).
struct ClusterSums {
  double splitter;             // or 0: plain sums, by weight
  double* high;                // (k, d): of multiples, or plain ones
  double* low;                 // (k, d): of what is left; or null
  double* counts;              // (k): of weights
  const double* center;        // (d)
  double* squares;             // (d): of differences from center, by weight
  uint32_t largest, smallest;  // floats that were added, without their signs: bits of these
};

// A row joins or leaves a cluster.
struct Change {
  int64_t row;
  int32_t cluster;
  bool joins;
};

}  // namespace km
