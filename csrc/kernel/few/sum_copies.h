// Sums of clusters of rows of few features.
#pragma once

#include <cstdint>

namespace km {

// Memory of one thread. An addition has to wait for the one before where both go to one cluster; so
// the rows of a block take several copies of all sums by turns: row s adds to copy s % copies.
// Made by SumsOfParts.
struct SumCopies {
  int64_t k;       // clusters
  int64_t copies;  // 1, 2 or 4: a power of two
  double* terms;   // (copies, k, terms_of(d)): Σ w x, Σ w, zeros; all zero when a call begins
};

}  // namespace km
