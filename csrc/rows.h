// Rows as they come, made contiguous; and the distance that decides.
// Included by kernel.inc, once per instruction set.
#pragma once

#include "lanes.h"
#include "native.h"

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
void load_rows(const km_rows& rows, int64_t first, int count, int64_t stride, T* to) {
  const T* x = static_cast<const T*>(rows.x);
  for (int s = 0; s < count; ++s, to += stride) {
    const T* row = x + (first + s) * rows.row_stride;
    if (rows.column_stride == 1) {
      std::memcpy(to, row, size_t(rows.d) * sizeof(T));
    } else {
      for (int64_t j = 0; j < rows.d; ++j) to[j] = row[j * rows.column_stride];
    }
    for (int64_t j = rows.d; j < stride; ++j) to[j] = 0;
    if (rows.cosine) to_unit_length(to, rows.d, 1);
  }
}

// Asks memory for a row that will be needed soon.
template <typename T>
inline void fetch(const T* row, int64_t count) {
  constexpr int64_t kLine = 64 / sizeof(T);
  for (int64_t j = 0; j < count; j += kLine) __builtin_prefetch(row + j);
}

// Squared distance of two rows (stride): features 16 apart are added up in order, by parts of
// 1,024 features, then the lanes. Wherever two rows meet, the distance has the same bits.
template <typename T>
inline T squared_distance(const T* a, const T* b, int64_t stride) {
  constexpr int64_t kPart = 1024;
  if (stride <= kPart) {
    Sixteen<T> sum = {};
    for (int64_t j = 0; j < stride; j += kLanes)
      add_square_of_difference(sum, load(a + j), load(b + j));
    return total(sum);
  }
  Sixteen<T> all = {};
  for (int64_t begin = 0; begin < stride; begin += kPart) {
    Sixteen<T> sum = {};
    for (int64_t j = begin; j < least_of(stride, begin + kPart); j += kLanes)
      add_square_of_difference(sum, load(a + j), load(b + j));
    add(all, sum);
  }
  return total(all);
}

}  // namespace
