// Where the results of an E-step go: km_result of abi/native.h with the type that distances are
// computed in, made of it by host/e_step.cpp and host/sparse.cpp.
#pragma once

#include <cstdint>

namespace km {

template <typename T>
struct Result {
  int64_t* labels;   // (n), 0 to k - 1, written; read first where warm
  T* distances;      // (n), squared, written; or null
  double* sums;      // (k, d) of rows by weight, added to; or null, then counts is null too
  double* counts;    // (k): weights of the rows of a cluster, added to; or null
  double* inertia;   // (1): squared distances by weight, added to
  int64_t* changed;  // (1): labels that differ from the last call, added to; n where not warm
  bool warm;         // labels hold the labels of the last call: first guesses, and changed compares
};

}  // namespace km
