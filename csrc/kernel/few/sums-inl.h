// Where the rows of a block add to the sums of an E-step: to lanes of inertia, and to copies of the
// sums and counts of clusters.
#pragma once

#include "kernel/few/sum_copies.h"
#include "kernel/limits.h"
#include "kernel/result.h"
#include "kernel/simd/lanes-inl.h"

namespace km::KM_TARGET {
namespace {

// Sums that go on side by side, so that one addition need not wait for the last; row s of a block
// adds to lane s % kSumLanes on every instruction set.
constexpr int kSumLanes = 8;

// Where row s of a block adds its terms_of(D) numbers if its cluster is label: 0 to k - 1.
template <int D>
inline double* terms_at(const SumCopies& sums, int s, int64_t label) {
  return sums.terms + ((s & (sums.copies - 1)) * sums.k + label) * terms_of(D);
}

// Adds the copies of all sums to the result's sums (k, D) and counts (k), copy after copy.
template <int D, typename T>
inline void reduce_copies(const SumCopies& sums, const Result<T>& result) {
  for (int64_t c = 0; c < sums.k; ++c)
    for (int64_t copy = 0; copy < sums.copies; ++copy) {
      const double* const terms = sums.terms + (copy * sums.k + c) * terms_of(D);
      for (int j = 0; j < D; ++j) result.sums[c * D + j] += terms[j];
      result.counts[c] += terms[D];
    }
}

}  // namespace
}  // namespace km::KM_TARGET
