// What rows of many features add to the sums of their clusters (see ClusterSums), or take off them
// when their label changes.
#pragma once

#include "kernel/rows/load-inl.h"

namespace km::KM_TARGET {
namespace {

// Rows one by one: where they are if they can be read there, else copied, one at a time.
template <typename T>
class EachRow {
 public:
  // copy (stride) is memory for one row; stride is d filled up to a multiple of 16.
  EachRow(const km_rows& rows, int64_t stride, T* copy)
      : rows_(rows), stride_(stride), copy_(copy), in_place_(can_be_read_in_place(rows, rows.d)) {}

  // Row i (d), for cosine at unit length; a copy is valid until the next call.
  const T* at(int64_t i) const {
    if (in_place_) return row_at<T>(rows_, i);
    load_rows(rows_, i, 1, stride_, copy_);
    return copy_;
  }
  // Asks the caches for row i, which `at` will read soon.
  void expect(int64_t i) const { fetch_row(rows_, i); }
  // The weight of row i, which is row: 1 without weights, 0 where cosine has no direction for it.
  double weight(int64_t i, const T* row) const {
    if (rows_.cosine && is_zero(row, rows_.d)) return 0;
    return rows_.weights ? rows_.weights[i] : 1.0;
  }

 private:
  const km_rows& rows_;
  const int64_t stride_;
  T* const copy_;
  const bool in_place_;
};

// Adds a row (d) to high and low, or takes it off where kSign is -1: each number as a multiple of
// the unit and a remainder. The splitter is so large that the sum of it and a value has no digit
// below the unit: adding it rounds to the nearest multiple, taking it off again is exact, and so is
// value - multiple.
template <int kSign>
void add_split(const float* row, int64_t d, double splitter, double* __restrict high,
               double* __restrict low) {
  for (int64_t j = 0; j < d; ++j) {
    const double value = row[j];
    const double multiple = (value + splitter) - splitter;
    high[j] += kSign * multiple;
    low[j] += kSign * (value - multiple);
  }
}

// Notes the largest and the smallest size of the numbers of a row (d) other than 0: with them the
// host proves that sums were exact. Bits of floats without their signs are ordered as their sizes;
// 0 - 1 wraps to the largest integer, so that no 0 is the smallest.
inline void note_extremes(const float* row, int64_t d, ClusterSums& sums) {
  uint32_t largest = sums.largest, below_smallest = sums.smallest - 1;
  for (int64_t j = 0; j < d; ++j) {
    uint32_t bits;
    std::memcpy(&bits, row + j, sizeof(bits));
    bits &= 0x7fffffff;
    largest = bits > largest ? bits : largest;
    below_smallest = bits - 1 < below_smallest ? bits - 1 : below_smallest;
  }
  sums.largest = largest;
  sums.smallest = below_smallest + 1;
}

// See Kernel::add_up. Splits where sums.splitter is not 0, which it is of floats without weights
// alone; else adds weight · x. copy (stride) is memory for one row.
template <typename T>
void add_up(const km_rows& rows, int64_t stride, int64_t begin, int64_t end, const int64_t* labels,
            ClusterSums& sums, T* copy) {
  const EachRow<T> each(rows, stride, copy);
  const int64_t d = rows.d;
  double* __restrict const squares = sums.squares;
  for (int64_t i = begin; i < end; ++i) {
    const T* const row = each.at(i);
    const double weight = each.weight(i, row);
    const int64_t label = labels[i];
    sums.counts[label] += weight;
    double* __restrict const high = sums.high + label * d;
    for (int64_t j = 0; j < d; ++j) {
      const double from_center = double(row[j]) - sums.center[j];
      squares[j] += weight * from_center * from_center;
    }
    if constexpr (sizeof(T) == 4) {
      if (sums.splitter != 0) {
        add_split<1>(row, d, sums.splitter, high, sums.low + label * d);
        note_extremes(row, d, sums);
        continue;
      }
    }
    for (int64_t j = 0; j < d; ++j) high[j] += weight * row[j];
  }
}

// See Kernels::change: count changes to exact sums, in the order of their clusters. Rows come in no
// order that a processor could foresee, so each is asked for eight changes before it is needed.
inline void change(const km_rows& rows, int64_t stride, const Change* changes, int64_t count,
                   const ClusterSums& sums, float* copy) {
  constexpr int64_t kAhead = 8;
  const EachRow<float> each(rows, stride, copy);
  for (int64_t n = 0; n < count; ++n) {
    if (n + kAhead < count) each.expect(changes[n + kAhead].row);
    const float* const row = each.at(changes[n].row);
    const int64_t cluster = changes[n].cluster;
    auto add = changes[n].joins ? add_split<1> : add_split<-1>;
    add(row, rows.d, sums.splitter, sums.high + cluster * rows.d, sums.low + cluster * rows.d);
    const double weight = each.weight(changes[n].row, row);
    sums.counts[cluster] += changes[n].joins ? weight : -weight;
  }
}

}  // namespace
}  // namespace km::KM_TARGET
