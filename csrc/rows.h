// Rows as they come, made contiguous; and the distance that decides.
// Included by kernel.inc, once per instruction set.
#pragma once

#include "elements.h"
#include "lanes.h"

namespace {

template <typename T>
inline T least_of(T a, T b) {
  return a < b ? a : b;
}

// Scales count numbers, step apart, to unit length; returns whether all are zero.
template <typename T>
bool to_unit_length(T* values, int64_t count, int64_t step) {
  T largest = 0, squares = 0;
  for (int64_t j = 0; j < count; ++j) {
    const T size = std::abs(values[j * step]);
    largest = size > largest ? size : largest;
  }
  if (!(largest > 0)) return true;
  for (int64_t j = 0; j < count; ++j) {
    const T value = values[j * step] /= largest;
    squares += value * value;
  }
  const T norm = std::sqrt(squares);
  for (int64_t j = 0; j < count; ++j) values[j * step] /= norm;
  return false;
}

// Copies rows to (count, stride), filled up by zeros.
template <typename T>
void load_rows(const km_rows& rows, int64_t first, int64_t count, int64_t stride, T* to) {
  copy_rows(rows, first, count, stride, to);
  if (stride == rows.d && !rows.cosine) return;
  for (T* const end = to + count * stride; to < end; to += stride) {
    for (int64_t j = rows.d; j < stride; ++j) to[j] = 0;
    if (rows.cosine) to_unit_length(to, rows.d, 1);
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

// Squared distance of two rows (stride): features 16 apart are added up in order, by parts of
// 1,024 features, then the lanes. Wherever two rows meet, the distance has the same bits.
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

}  // namespace
