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

// Scales a row of more than kFewFeatures features, filled up by zeros to stride, to unit length; a row
// of zeros stays.
template <typename T>
KM_BY_ITSELF void to_unit_length(T* row, int64_t stride) {
  Sixteen<T> sizes = filled(T(0));
  for (int64_t j = 0; j < stride; j += kLanes) raise_to_size(sizes, load(row + j));
  const T most = largest(sizes);
  if (!(most > 0)) return;
  const T scale = scale_of<T, IntOf<T>>(most);
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
  const T norm = std::sqrt(total(all));
  for (int64_t j = 0; j < stride; j += kLanes) store(row + j, divided(load(row + j), norm));
}

// The same of few features (d).
template <typename T>
void to_unit_length_of_few(T* row, int64_t d) {
  T most = 0, squares = 0;
  for (int64_t j = 0; j < d; ++j) most = larger_of(most, size_of(row[j]));
  if (!(most > 0)) return;
  const T scale = scale_of<T, IntOf<T>>(most);
  for (int64_t j = 0; j < d; ++j) {
    row[j] *= scale;
    squares = fused(row[j], row[j], squares);
  }
  const T norm = std::sqrt(squares);
  for (int64_t j = 0; j < d; ++j) row[j] /= norm;
}

// Copies rows to (count, stride), filled up by zeros.
template <typename T>
void load_rows(const km_rows& rows, int64_t first, int64_t count, int64_t stride, T* to) {
  copy_rows(rows, first, count, stride, to);
  if (stride == rows.d && !rows.cosine) return;
  T* const end = to + count * stride;
  for (T* row = to; row < end; row += stride)
    for (int64_t j = rows.d; j < stride; ++j) row[j] = 0;
  if (!rows.cosine) return;
  for (T* row = to; row < end; row += stride) {  // once they are written: vectors read them
    if (rows.d > kFewFeatures)
      to_unit_length(row, stride);
    else
      to_unit_length_of_few(row, rows.d);
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
