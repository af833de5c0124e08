// Sums of clusters of rows of many features. A float x, 24 digits, is split at a unit 2^u that all
// rows share into two numbers that are summed separately (error-free extraction: Rump, Ogita &
// Oishi, Accurate floating-point summation, 2008):
//
//      x = 0.000110101110|0011010          multiple  = (x + splitter) - splitter, a multiple of 2^u
//                        2^u               remainder = x - multiple, at most 2^(u - 1)
//
// Where n multiples, and n remainders, have no more digits together than a double, 53, no addition
// rounds: sums are exact, the same in whatever order, and rows can be taken off them again.
#pragma once

#include <cstdint>

namespace km {

// The sums that a thread adds rows to, then those of all rows; filled by ExactSums<T>::zero in
// host/exact_sums.cpp, which says when they are exact.
struct ClusterSums {
  double splitter;       // 1.5 · 2^(u + 52); or 0: nothing is split
  double* high;          // (k, d): sums of multiples; of weight · x where splitter is 0
  double* low;           // (k, d): sums of remainders; read only where splitter is not 0
  double* counts;        // (k): sums of weights
  const double* center;  // (d): near the data, for the squares
  double* squares;       // (d): Σ weight · (x - center)² of all clusters
  uint32_t largest;      // IEEE bits of the largest |x| that was split; 0 where none was
  uint32_t smallest;     // IEEE bits of the smallest of them that is not 0; 0 where none was split
};

// A row joins or leaves a cluster: half of a Move, whose label goes from one cluster to another.
struct Change {
  int64_t row;      // 0 to n - 1
  int32_t cluster;  // 0 to k - 1
  bool joins;       // else the row leaves
};

}  // namespace km
