// Rows and centroids split over threads. How many parts there are depends on the sizes and on
// threads only.
#pragma once

#include <algorithm>
#include <cstdint>

#include "abi/native.h"
#include "host/threads.h"
#include "kernel/limits.h"

namespace km {

// The first row of a part: parts are consecutive, and begin with a block. How many there are
// depends on the sizes and on threads only.
inline int64_t begin_of(const km_rows& rows, int64_t parts, int64_t p) {
  const int64_t blocks = (rows.n + kBlock - 1) / kBlock;
  return std::min(rows.n, blocks * p / parts * kBlock);
}

// Calls work(part, begin, end) for each part.
template <typename Work>
void in_parts(const km_rows& rows, int64_t parts, const Work& work) {
  in_parallel(parts,
              [&](int64_t p) { work(p, begin_of(rows, parts, p), begin_of(rows, parts, p + 1)); });
}

// Rows that are taken at once: while they are in a cache, they are searched and added up.
constexpr int64_t kAtOnce = 16 * kBlock;

// Calls work(begin, end) for the rows of part p where the parts take them by turns: work that
// depends on the rows is even then, if neighbours are alike.
template <typename Work>
void in_turns(const km_rows& rows, int64_t parts, int64_t p, const Work& work) {
  const int64_t at_once = std::min(kAtOnce, (rows.n / parts + kBlock) / kBlock * kBlock);
  for (int64_t begin = p * at_once; begin < rows.n; begin += parts * at_once)
    work(begin, std::min(rows.n, begin + at_once));
}

// Work (rows × centroids × features) below which a thread more costs more than it saves.
constexpr double kWorkPerThread = 1 << 18;

inline int64_t n_parts(const km_rows& rows, int64_t k, int threads) {
  const double work = double(rows.n) * double(k) * double(rows.d);
  return std::max<int64_t>(
      1, std::min<int64_t>({threads, rows.n, static_cast<int64_t>(work / kWorkPerThread) + 1}));
}

// Centroids split over threads, where they have numbers enough.
inline int64_t n_shares(int64_t k, int64_t d, int threads) {
  constexpr int64_t kNumbersPerThread = 1 << 14;
  return std::min<int64_t>({threads, k, k * d / kNumbersPerThread + 1});
}

// Calls work(share, begin, end) for each share.
template <typename Work>
void in_shares(int64_t k, int64_t shares, const Work& work) {
  in_parallel(shares, [&](int64_t p) { work(p, k * p / shares, k * (p + 1) / shares); });
}

}  // namespace km
