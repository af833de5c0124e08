// How rows and centroids are split over threads: rows into parts, centroids into shares. How many
// there are depends on sizes and on `threads` only, never on how busy the machine is, so that equal
// calls add up equal numbers in an equal order.
//
//   in_parts   each part has consecutive rows:      0 0 0 0 1 1 1 1 2 2 2 2
//   in_turns   parts take turns, kAtOnce rows each: 0 1 2 0 1 2 0 1 2 0 1 2
//   in_shares  each share has consecutive centroids
#pragma once

#include <algorithm>
#include <cstdint>

#include "abi/native.h"
#include "host/threads.h"
#include "kernel/limits.h"

namespace km {

// The first row of part p, 0 <= p <= parts: a multiple of kBlock, or n at the end.
inline int64_t begin_of(const km_rows& rows, int64_t parts, int64_t p) {
  const int64_t blocks = (rows.n + kBlock - 1) / kBlock;
  return std::min(rows.n, blocks * p / parts * kBlock);
}

// Calls work(part, begin, end) for each part, of rows begin to end - 1, at the same time.
template <typename Work>
void in_parts(const km_rows& rows, int64_t parts, const Work& work) {
  in_parallel(parts,
              [&](int64_t p) { work(p, begin_of(rows, parts, p), begin_of(rows, parts, p + 1)); });
}

// Rows of a turn, a multiple of kBlock: they are searched, then added up while a cache has them.
constexpr int64_t kAtOnce = 16 * kBlock;

// Calls work(begin, end) for each turn of part p, one after the other, in the thread that calls.
// Turns are for work whose amount depends on the rows: rows that follow each other are often alike
// (sorted data), and consecutive parts would take unequal times.
template <typename Work>
void in_turns(const km_rows& rows, int64_t parts, int64_t p, const Work& work) {
  const int64_t at_once = std::min(kAtOnce, (rows.n / parts + kBlock) / kBlock * kBlock);
  for (int64_t begin = p * at_once; begin < rows.n; begin += parts * at_once)
    work(begin, std::min(rows.n, begin + at_once));
}

// Work (rows × centroids × features) below which a thread more costs more than it saves: some tens
// of microseconds.
constexpr double kWorkPerThread = 1 << 18;

// Parts for work that measures all rows against k centroids, 1 to threads.
inline int64_t n_parts(const km_rows& rows, int64_t k, int threads) {
  const double work = double(rows.n) * double(k) * double(rows.d);
  return std::max<int64_t>(
      1, std::min<int64_t>({threads, rows.n, static_cast<int64_t>(work / kWorkPerThread) + 1}));
}

// Shares for work that goes through the numbers of k centroids of d features once, 1 to threads.
inline int64_t n_shares(int64_t k, int64_t d, int threads) {
  constexpr int64_t kNumbersPerThread = 1 << 14;  // below, a thread more costs more than it saves
  return std::min<int64_t>({threads, k, k * d / kNumbersPerThread + 1});
}

// Calls work(share, begin, end) for each share, of centroids begin to end - 1, at the same time.
template <typename Work>
void in_shares(int64_t k, int64_t shares, const Work& work) {
  in_parallel(shares, [&](int64_t p) { work(p, k * p / shares, k * (p + 1) / shares); });
}

}  // namespace km
