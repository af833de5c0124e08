// What rows of many features add to their clusters.
//
#pragma once

#include "kernel/rows/load-inl.h"

namespace km::KM_TARGET {
namespace {

// Rows one by one, as they are or copied.
template <typename T>
class EachRow {
 public:
  EachRow(const km_rows& rows, int64_t stride, T* copy)
      : rows_(rows), stride_(stride), copy_(copy), read_(as_they_are(rows, rows.d)) {}

  const T* at(int64_t i) const {
    if (read_) return static_cast<const T*>(rows_.x) + i * rows_.row_stride;
    load_rows(rows_, i, 1, stride_, copy_);
    return copy_;
  }
  void expect(int64_t i) const { fetch_row(rows_, i); }
  double weight(int64_t i, const T* row) const {
    if (rows_.cosine && is_zero(row, rows_.d)) return 0;
    return rows_.weights ? rows_.weights[i] : 1.0;
  }

 private:
  const km_rows& rows_;
  const int64_t stride_;
  T* const copy_;
  const bool read_;
};

// See ClusterSums; sign is 1 or -1.
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

inline void note_extremes(const float* row, int64_t d, ClusterSums& sums) {
  uint32_t largest = sums.largest, below_smallest = sums.smallest - 1;
  for (int64_t j = 0; j < d; ++j) {
    uint32_t bits;
    std::memcpy(&bits, row + j, sizeof(bits));
    bits &= 0x7fffffff;
    largest = bits > largest ? bits : largest;
    below_smallest = bits - 1 < below_smallest ? bits - 1 : below_smallest;  // 0 is no number here
  }
  sums.largest = largest;
  sums.smallest = below_smallest + 1;
}

// See Kernel::add_up.
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
      const double apart = double(row[j]) - sums.center[j];
      squares[j] += weight * apart * apart;
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

// See Kernel::change.
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
