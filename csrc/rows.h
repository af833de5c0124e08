// Rows as they come, made contiguous, and normalized; and the distance that decides. The order of
// operations of both is that of README.md.
// Included by kernel.inc, once per instruction set.
#pragma once

#include "elements.h"
#include "lanes.h"

namespace {

template <typename T>
inline T least_of(T a, T b) {
  return a < b ? a : b;
}

// Squared distance of two rows (stride) of more than kFewFeatures features: features 16 apart are
// added up in order, by parts of 1,024 features, then the lanes. Wherever two rows meet, the distance
// has the same bits.
constexpr int64_t kFeaturesInPart = 1024;

template <typename T>
inline T squared_distance(const T* a, const T* b, int64_t stride) {
  Sixteen<T> all = filled(T(0));
  if (stride <= kFeaturesInPart) {
    for (int64_t j = 0; j < stride; j += kLanes)
      add_square_of_difference(all, load(a + j), load(b + j));
    return total(all);
  }
  for (int64_t begin = 0; begin < stride; begin += kFeaturesInPart) {
    Sixteen<T> sum = filled(T(0));
    for (int64_t j = begin; j < least_of(stride, begin + kFeaturesInPart); j += kLanes)
      add_square_of_difference(sum, load(a + j), load(b + j));
    add(all, sum);
  }
  return total(all);
}

// The same of four pairs of rows, whose sums need not wait for each other.
template <typename T>
KM_BY_ITSELF void squared_distances(const T* const (&a)[4], const T* const (&b)[4],
                                    int64_t stride, T (&distance)[4]) {
  if (stride > kFeaturesInPart) {
    for (int i = 0; i < 4; ++i) distance[i] = squared_distance(a[i], b[i], stride);
    return;
  }
  Sixteen<T> sum[4];
  for (int i = 0; i < 4; ++i) sum[i] = filled(T(0));
  for (int64_t j = 0; j < stride; j += kLanes)
    for (int i = 0; i < 4; ++i) add_square_of_difference(sum[i], load(a[i] + j), load(b[i] + j));
  for (int i = 0; i < 4; ++i) distance[i] = total(sum[i]);
}

// The same of few features (d): one after the other.
template <typename T>
inline T squared_distance_of_few(const T* a, const T* b, int64_t d) {
  T sum = 0;
  for (int64_t j = 0; j < d; ++j) {
    const T difference = a[j] - b[j];
    sum = fused(difference, difference, sum);
  }
  return sum;
}

// Scales a row of d features, filled up by zeros to stride, to unit length; a row of zeros stays.
template <typename T>
KM_BY_ITSELF void to_unit_length(T* row, int64_t d, int64_t stride) {
  using Int = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
  Sixteen<T> sizes = filled(T(0));
  for (int64_t j = 0; j < stride; j += kLanes) raise_to_size(sizes, load(row + j));
  T lanes[kLanes], largest = 0;
  store(lanes, sizes);
  for (T lane : lanes) largest = larger_of(largest, lane);
  if (!(largest > 0)) return;
  const T scale = scale_of<T, Int>(largest);
  Sixteen<T> all = filled(T(0));
  for (int64_t begin = 0; begin < stride; begin += kFeaturesInPart) {
    Sixteen<T> sum = filled(T(0));
    for (int64_t j = begin; j < least_of(stride, begin + kFeaturesInPart); j += kLanes) {
      const Sixteen<T> scaled = times(load(row + j), scale);
      store(row + j, scaled);
      add_square(sum, scaled);
    }
    add(all, sum);
  }
  T squares = total(all);
  if (d <= kFewFeatures) {
    squares = 0;
    for (int64_t j = 0; j < d; ++j) squares = fused(row[j], row[j], squares);
  }
  const T norm = std::sqrt(squares);
  for (int64_t j = 0; j < stride; j += kLanes) store(row + j, divided(load(row + j), norm));
}

// Copies rows to (count, stride), filled up by zeros.
template <typename T>
void load_rows(const km_rows& rows, int64_t first, int64_t count, int64_t stride, T* to) {
  copy_rows(rows, first, count, stride, to);
  if (stride == rows.d && !rows.cosine) return;
  for (T* const end = to + count * stride; to < end; to += stride) {
    for (int64_t j = rows.d; j < stride; ++j) to[j] = 0;
    if (rows.cosine) to_unit_length(to, rows.d, stride);
  }
}

// Whether a row weighs nothing under the cosine metric.
template <typename T>
inline bool is_zero(const T* row, int64_t d) {
  for (int64_t j = 0; j < d; ++j)
    if (row[j] != 0) return false;
  return true;
}

// Whether rows can be read where they are, as whole vectors.
inline bool as_they_are(const km_rows& rows, int64_t stride) {
  return rows.column_stride == 1 && !rows.cosine && stride == rows.d && !converts(rows);
}

}  // namespace
