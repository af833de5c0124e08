// Cumulative sums of many values, and a search in them, block by block: over integers, so that
// nothing depends on the order in which they are added up.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <vector>

#include "host/dispatch.h"
#include "host/threads.h"

namespace km {

// Many values that count as integers; see km_block_sums.
template <typename T>
struct Values {
  const T* first;
  int64_t n, size;  // of all, and of a block
  int exponent, bits;

  // The sum of a block, and its integers (size) where they are asked for.
  int64_t sum(int64_t block, int64_t* integers = nullptr) const {
    return current_kernel<T>().count(first + block * size, length(block), exponent, bits, integers);
  }
  int64_t length(int64_t block) const { return std::min(size, n - block * size); }
  int64_t blocks() const { return (n + size - 1) / size; }
};

template <typename T>
void block_sums(const Values<T>& values, int64_t* sums, int threads) {
  constexpr int64_t kWorthThreads = 1 << 17;
  const int64_t count = values.blocks();
  const int64_t parts = values.n < kWorthThreads ? 1 : std::min<int64_t>(threads, count);
  in_parallel(parts, [&](int64_t p) {
    for (int64_t block = count * p / parts; block < count * (p + 1) / parts; ++block)
      sums[block] = values.sum(block);
  });
}

// For each target the first of the values with which the cumulative sum exceeds it; beyond the
// total the last one that is not 0.
template <typename T>
void search_sums(const Values<T>& values, const int64_t* sums, const int64_t* targets, int64_t m,
                 int64_t* positions) {
  std::vector<int64_t> ends(size_t(values.blocks())), integers(size_t(values.size));
  std::partial_sum(sums, sums + ends.size(), ends.begin());
  for (int64_t t = 0; t < m; ++t) {
    auto end = std::upper_bound(ends.begin(), ends.end(), targets[t]);
    if (end == ends.end()) end = std::lower_bound(ends.begin(), ends.end() - 1, ends.back());
    const int64_t block = end - ends.begin();
    int64_t sum = block ? ends[size_t(block - 1)] : 0;
    values.sum(block, integers.data());
    positions[t] = block * values.size;
    for (int64_t i = 0; i < values.length(block); ++i) {
      if (!integers[size_t(i)]) continue;
      positions[t] = block * values.size + i;
      sum += integers[size_t(i)];
      if (sum > targets[t]) break;
    }
  }
}

// Positions (m) drawn in proportion to the values: numbers in [0, 1) decide.
template <typename T>
void draw(const Values<T>& values, const double* numbers, int64_t m, int64_t* positions,
          int threads) {
  std::vector<int64_t> sums(size_t(values.blocks())), targets(static_cast<size_t>(m));
  block_sums(values, sums.data(), threads);
  const int64_t total = std::accumulate(sums.begin(), sums.end(), int64_t{0});
  for (int64_t i = 0; i < m; ++i) {
    const auto target = int64_t(std::floor(numbers[i] * double(total)));
    targets[size_t(i)] = std::max(std::min(target, total - 1), int64_t{0});
  }
  search_sums(values, sums.data(), targets.data(), m, positions);
}

}  // namespace km
