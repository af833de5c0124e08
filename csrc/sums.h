// Cumulative sums of many values, and a search in them, block by block.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <vector>

#include "threads.h"

// Sums of blocks of so many of n values.
template <typename T>
void block_sums(const T* values, int64_t n, int64_t size, double* sums, int threads) {
  constexpr int kSums = 16;  // that need not wait for each other
  constexpr int64_t kWorthThreads = 1 << 17;
  const int64_t count = (n + size - 1) / size;
  const int64_t parts = n < kWorthThreads ? 1 : std::min<int64_t>(threads, count);
  in_parallel(parts, [&](int64_t p) {
    for (int64_t block = count * p / parts; block < count * (p + 1) / parts; ++block) {
      double sum[kSums] = {};
      const int64_t end = std::min(n, (block + 1) * size);
      int64_t i = block * size;
      for (; i + kSums <= end; i += kSums)
        for (int lane = 0; lane < kSums; ++lane) sum[lane] += values[i + lane];
      for (; i < end; ++i) sum[0] += values[i];
      sums[block] = std::accumulate(sum, sum + kSums, 0.0);
    }
  });
}

// For each target the first of n values, none negative, with which the cumulative sum exceeds it;
// where rounding leaves none, the last one that is not 0.
template <typename T>
void search_sums(const T* values, int64_t n, int64_t size, const double* sums,
                 const double* targets, int64_t m, int64_t* positions) {
  std::vector<double> ends(size_t((n + size - 1) / size));
  std::partial_sum(sums, sums + ends.size(), ends.begin());
  for (int64_t t = 0; t < m; ++t) {
    auto end = std::upper_bound(ends.begin(), ends.end(), targets[t]);
    if (end == ends.end()) end = std::lower_bound(ends.begin(), ends.end() - 1, ends.back());
    const int64_t block = end - ends.begin();
    double sum = block ? ends[size_t(block - 1)] : 0;
    positions[t] = block * size;
    for (int64_t i = block * size; i < std::min(n, (block + 1) * size); ++i) {
      if (!(values[i] > 0)) continue;
      positions[t] = i;
      sum += values[i];
      if (sum > targets[t]) break;
    }
  }
}
