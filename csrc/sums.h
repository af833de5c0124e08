// Cumulative sums of many values, and a search in them, block by block.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>

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

// The first of n values with which the cumulative sum exceeds a target; where rounding leaves
// none, the last value that is not 0.
template <typename T>
int64_t search_sums(const T* values, int64_t n, int64_t size, const double* sums, double target) {
  const int64_t count = (n + size - 1) / size;
  int64_t found = 0;
  double before = 0;
  for (int64_t block = 0; block < count; ++block) {
    if (!(sums[block] > 0)) continue;
    found = block;
    if (before + sums[block] > target) break;
    before += sums[block];
  }
  int64_t last = found * size;
  double sum = before;
  for (int64_t i = found * size; i < std::min(n, (found + 1) * size); ++i) {
    if (!(values[i] > 0)) continue;
    last = i;
    sum += values[i];
    if (sum > target) break;
  }
  return last;
}
