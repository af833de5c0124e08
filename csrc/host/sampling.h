// Cumulative sums of many values, and a search in them, block by block: draws in proportion to the
// values. Values count as integers (kernel/sums), so that nothing depends on the order in which
// they are added up, on threads or on ranks. A header alone: abi/native.cpp is the only user.
//
//   values     | 3 1 0 2 | 5 0 0 1 | 2 2 |     size 4
//   sums             6         6       4       block_sums, km_block_sums
//   target 7: 6 are before block 1, and 6 + 5 > 7, so position 4     search_sums, km_search_sums
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <vector>

#include "host/dispatch.h"
#include "host/threads.h"

namespace km {

// n values that are not negative, in blocks of so many, the last one short; filled by the interface
// functions. A value v counts as v · 2^exponent, rounded, from 1 (where v > 0) to 2^bits.
template <typename T>
struct Values {
  const T* first;  // (n)
  int64_t n;
  int64_t size;  // values of a block, at least 1
  int exponent;  // -2000 to 2000
  int bits;      // 0 to 51; the caller sees to it that n · 2^bits fits 63 bits

  // The sum of a block, as integers; writes these to integers (size) unless null.
  int64_t sum(int64_t block, int64_t* integers = nullptr) const {
    return current_kernel<T>().count(first + block * size, length(block), exponent, bits, integers);
  }
  int64_t length(int64_t block) const { return std::min(size, n - block * size); }
  int64_t blocks() const { return (n + size - 1) / size; }
};

// Writes the sums (blocks) of all blocks.
template <typename T>
void block_sums(const Values<T>& values, int64_t* sums, int threads) {
  constexpr int64_t kWorthThreads = 1 << 17;  // values that take as long as starting threads
  const int64_t count = values.blocks();
  const int64_t parts = values.n < kWorthThreads ? 1 : std::min<int64_t>(threads, count);
  in_parallel(parts, [&](int64_t p) {
    for (int64_t block = count * p / parts; block < count * (p + 1) / parts; ++block)
      sums[block] = values.sum(block);
  });
}

// Writes for each of targets (m) the position of the first value with which the cumulative sum
// exceeds it; for targets beyond the total, that of the last value that does not count as 0. sums
// (blocks) come from block_sums: only the block of a target is counted again.
template <typename T>
void search_sums(const Values<T>& values, const int64_t* sums, const int64_t* targets, int64_t m,
                 int64_t* positions) {
  std::vector<int64_t> ends(size_t(values.blocks())), integers(size_t(values.size));
  std::partial_sum(sums, sums + ends.size(), ends.begin());
  for (int64_t t = 0; t < m; ++t) {
    auto end = std::upper_bound(ends.begin(), ends.end(), targets[t]);
    // Beyond the total: the last block whose sum is not 0.
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

// Writes positions (m) drawn in proportion to the values: shares (m) of the total, in [0, 1), are
// rounded down to targets.
template <typename T>
void draw(const Values<T>& values, const double* shares, int64_t m, int64_t* positions,
          int threads) {
  std::vector<int64_t> sums(size_t(values.blocks())), targets(static_cast<size_t>(m));
  block_sums(values, sums.data(), threads);
  const int64_t total = std::accumulate(sums.begin(), sums.end(), int64_t{0});
  for (int64_t i = 0; i < m; ++i) {
    // double(total) may round up, and a share near 1 reach the total: the last value then.
    const auto target = int64_t(std::floor(shares[i] * double(total)));
    targets[size_t(i)] = std::max(std::min(target, total - 1), int64_t{0});
  }
  search_sums(values, sums.data(), targets.data(), m, positions);
}

}  // namespace km
