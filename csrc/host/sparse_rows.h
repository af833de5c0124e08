// Sparse rows (km_sparse, CSR: only numbers other than 0 are given) for what host/ does with them:
// their weights, their unit length, and how they are split over threads.
#pragma once

#include <algorithm>
#include <cstdint>

#include "abi/native.h"
#include "host/split.h"
#include "kernel/rows/rows.h"

namespace km {

// Whether all numbers of row i, 0 <= i < n, are 0.
template <typename T>
bool is_zero(const km_sparse& rows, int64_t i) {
  const T* const values = values_of<T>(rows);
  return std::all_of(values + rows.starts[i], values + rows.starts[i + 1],
                     [](T value) { return value == 0; });
}

// The weight of row i: 1 without weights; 0 where it has no direction, under the cosine metric.
template <typename T>
double weight_of(const km_sparse& rows, int64_t i) {
  if (rows.cosine && is_zero<T>(rows, i)) return 0;
  return rows.weights ? rows.weights[i] : 1.0;
}

// Rows split over threads: parts are consecutive rows with about as many numbers each, since the
// time of a row is in proportion to its numbers. split.h splits dense rows.
class SparseParts {
 public:
  // For work with k centroids; at most so many parts as threads, rows, and kWorkPerThread allow.
  SparseParts(const km_sparse& rows, int64_t k, int threads) : rows_(rows) {
    const double work = double(numbers_before(rows.n)) * double(k);
    count_ = std::max<int64_t>(
        1, std::min<int64_t>({threads, rows.n, int64_t(work / kWorkPerThread) + 1}));
  }

  // How many parts there are, at least 1.
  int64_t count() const { return count_; }

  // Calls work(part, begin, end) for each part, of rows begin to end - 1, at the same time.
  template <typename Work>
  void each(const Work& work) const {
    in_parallel(count_, [&](int64_t p) { work(p, begin_of(p), begin_of(p + 1)); });
  }

 private:
  // What a row costs beside its numbers (its label, its bounds), as if it had so many more.
  static constexpr int64_t kNumbersPerRow = 8;

  // Numbers of rows 0 to i - 1, which ascend with i.
  int64_t numbers_before(int64_t i) const {
    return rows_.starts[i] - rows_.starts[0] + i * kNumbersPerRow;
  }

  // The first row of a part, by bisection: the first that has a share p / count of all numbers
  // before it. n for p = count.
  int64_t begin_of(int64_t p) const {
    const int64_t target = numbers_before(rows_.n) * p / count_;
    int64_t low = 0, high = rows_.n;
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (numbers_before(middle) < target)
        low = middle + 1;
      else
        high = middle;
    }
    return p == count_ ? rows_.n : low;
  }

  const km_sparse& rows_;
  int64_t count_;
};

// See km_sparse_unit: writes values, as many as rows has.
template <typename T>
void sparse_unit(const km_sparse& rows, T* values, int threads);

}  // namespace km
