// Memory for sums of clusters of rows of few features, for each part of the rows.
#pragma once

#include <algorithm>
#include <vector>

#include "host/memory.h"
#include "kernel/few/sum_copies.h"
#include "kernel/limits.h"

namespace km {

// All copies of a part's sums are at most so many bytes: half of a first-level cache of 32 KB,
// which a block of rows shares.
constexpr int64_t kMostSumBytes = 16 << 10;
// Copies where they fit: an addition takes about four cycles, in which more rows arrive.
constexpr int64_t kSumCopies = 4;

// Makes SumCopies, all zero. A kernel adds to the copies of its part, and at the end the copies to
// the part's result (reduce_copies).
class SumsOfParts {
 public:
  SumsOfParts(int64_t parts, int64_t k, int64_t d) {
    const int64_t terms = k * terms_of(d);  // numbers of one copy
    const int64_t bytes = terms * kSumCopies * int64_t(sizeof(double));
    const int64_t copies = bytes <= kMostSumBytes ? kSumCopies : 1;
    memory_ = for_each_part<double>(parts, size_t(copies * terms));
    for (const Array<double>& of_part : memory_) {
      std::fill_n(of_part.get(), copies * terms, 0.0);
      sums_.push_back({k, copies, of_part.get()});
    }
  }
  const SumCopies& of_part(int64_t part) const { return sums_[size_t(part)]; }

 private:
  std::vector<Array<double>> memory_;  // (parts) of (copies, k, terms_of(d))
  std::vector<SumCopies> sums_;        // (parts)
};

}  // namespace km
