// Sums of rows of few features.
#pragma once

#include <algorithm>
#include <memory>
#include <vector>

#include "host/memory.h"
#include "kernel/limits.h"

namespace km {

// Of sums that are kept several times over.
constexpr int64_t kSumBytes = 16 << 10;

// Sums of each part for few features, all zero: (copies, k, terms_of(d)).
struct CopiedSums {
  CopiedSums(int64_t parts, int64_t k, int64_t d) {
    const int64_t terms = k * terms_of(d);
    copies = terms * int64_t(4 * sizeof(double)) <= kSumBytes ? 4 : 1;
    for (int64_t p = 0; p < parts; ++p) {
      of.push_back(aligned<double>(size_t(copies * terms)));
      std::fill_n(of.back().get(), copies * terms, 0.0);
    }
  }
  std::vector<std::unique_ptr<double[], Free>> of;
  int64_t copies;
};

}  // namespace km
