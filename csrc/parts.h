// Rows split over threads, and the memory that each of them works in.
#pragma once

#include <algorithm>
#include <memory>
#include <vector>

#include "kernel.h"
#include "threads.h"
#include "workspace.h"

// The first row of a part: parts are consecutive, and begin with a block. How many there are
// depends on the sizes and on threads only.
inline int64_t begin_of(const km_rows& rows, int64_t parts, int64_t p) {
  const int64_t blocks = (rows.n + kBlock - 1) / kBlock;
  return std::min(rows.n, blocks * p / parts * kBlock);
}

// Calls work(part, begin, end) for each part.
template <typename Work>
void in_parts(const km_rows& rows, int64_t parts, const Work& work) {
  in_parallel(parts, [&](int64_t p) {
    work(p, begin_of(rows, parts, p), begin_of(rows, parts, p + 1));
  });
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

// Memory of each part for blocks of rows, so many bytes.
inline std::vector<std::unique_ptr<char[], Free>> blocks(int64_t parts, size_t bytes) {
  std::vector<std::unique_ptr<char[], Free>> all;
  for (int64_t p = 0; p < parts; ++p) all.push_back(aligned<char>(bytes));
  return all;
}

// Memory of each part for a search.
struct Scratch {
  Scratch(const km_search& s, size_t element, int64_t parts) : of(parts) {
    const size_t numbers = kBlock * size_t(s.stride);
    const size_t places = size_t(std::min(kMostPlaces, s.places));
    for (km_scratch& own : of) {
      own.rows = take<char>(numbers * element);
      own.coordinates = take<int32_t>(kBlock * size_t(s.pitch));
      own.centered = take<float>(numbers);
      own.along = take<float>(kMostRowsTogether * size_t(s.directions + 1));
      own.columns = take<int32_t>(size_t(s.pitch) * kMostRowsInLanes);
      own.scores = take<float>(places * kMostRowsInLanes);
      own.near = take<km_near>(s.bounds ? size_t(s.groups) + 1 : 0);
      own.moves = nullptr;
    }
  }
  std::vector<km_scratch> of;

 private:
  template <typename T>
  T* take(size_t count) {
    memory_.push_back(aligned<char>(count * sizeof(T)));
    return reinterpret_cast<T*>(memory_.back().get());
  }
  std::vector<std::unique_ptr<char[], Free>> memory_;
};

// Of sums that are kept several times over.
constexpr int64_t kSumBytes = 16 << 10;

// Sums of each part for few features, all zero: (copies, k, terms_of(d)).
struct Sums {
  Sums(int64_t parts, int64_t k, int64_t d) {
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
