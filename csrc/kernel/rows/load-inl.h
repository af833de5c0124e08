// Rows made continuous, and normalized.
#pragma once

#include "kernel/rows/elements-inl.h"
#include "kernel/rows/unit_length-inl.h"

namespace km::KM_TARGET {
namespace {

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
}  // namespace km::KM_TARGET
