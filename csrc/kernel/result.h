// Where the results of an E-step go: km_result with the type that distances are computed in.
#pragma once

#include <cstdint>

namespace km {

template <typename T>
struct Result {
  int64_t* labels;   // (n); also read where warm
  T* distances;      // (n), squared, or null
  double* sums;      // (k, d), or null
  double* counts;    // (k), or null
  double* inertia;   // (1)
  int64_t* changed;  // (1)
  bool warm;         // labels hold good guesses: those of the last call
};

}  // namespace km
