// Rows as the loops need them: of T, the float or double that distances are computed in, contiguous
// and, for cosine, at unit length. From the cheapest to the dearest:
//
//   can_be_read_in_place   row_at<T> (rows.h) reads them where they are
//   rows_of                in place where they are of T, whatever their strides; else copied
//   copy_rows              converted to T, gaps between numbers closed
//   load_rows              the same, filled up by zeros to stride and normalized for cosine
#pragma once

#include "kernel/rows/elements-inl.h"
#include "kernel/rows/normalization-inl.h"
#include "kernel/rows/rows.h"

namespace km::KM_TARGET {
namespace {

// Whether loops may read row_at<T>(rows, i)[0 .. stride - 1] as whole vectors: numbers of T one
// after the other, none to be filled up, none to be normalized.
inline bool can_be_read_in_place(const km_rows& rows, int64_t stride) {
  return rows.column_stride == 1 && !rows.cosine && stride == rows.d && !converts(rows);
}

// Copies rows first to first + count - 1 to (count, pitch), pitch >= d, as T. Numbers d to pitch -
// 1 of each copy keep what they held. An integer that T cannot hold sets rows.beyond.
template <typename T>
__attribute__((noinline)) void copy_rows(const km_rows& rows, int64_t first, int64_t count,
                                         int64_t pitch, T* to) {
  with_element(rows.element, [&](auto zero) {
    using S = decltype(zero);
    constexpr int64_t kSize = sizeof(S);
    const char* row = bytes_of_row(rows, first, kSize);
    const bool gapless = rows.row_stride == rows.d && pitch == rows.d && rows.column_stride == 1;
    bool beyond = false;
    if (gapless)  // one long row
      beyond = convert<S>(row, count * rows.d, 1, to);
    else
      for (int64_t i = 0; i < count; ++i, row += rows.row_stride * kSize)
        beyond |= convert<S>(row, rows.d, rows.column_stride, to + i * pitch);
    // Relaxed: threads only ever write 1, and the caller reads it after they have joined.
    if (beyond && rows.beyond) __atomic_store_n(rows.beyond, 1, __ATOMIC_RELAXED);
  });
}

// Copies rows first to first + count - 1 to (count, stride), filled up by zeros, stride >= d; for
// cosine at unit length, where a stride of more than kFewFeatures is a multiple of 16.
template <typename T>
void load_rows(const km_rows& rows, int64_t first, int64_t count, int64_t stride, T* to) {
  copy_rows(rows, first, count, stride, to);
  if (stride == rows.d && !rows.cosine) return;
  T* const end = to + count * stride;
  for (T* row = to; row < end; row += stride)
    for (int64_t j = rows.d; j < stride; ++j) row[j] = 0;
  if (!rows.cosine) return;
  // A second loop over the rows: a vector read right after narrower writes of the same bytes
  // stalls.
  for (T* row = to; row < end; row += stride) {
    if (rows.d > kFewFeatures)
      normalize(row, stride);
    else
      normalize_few(row, rows.d);
  }
}

// Rows first to first + count - 1, for which row_at<T> is legal: a view of rows, or of copies
// (count, d) that hold them converted. Nothing is normalized, and a view may have strides.
template <typename T>
inline km_rows rows_of(const km_rows& rows, int64_t first, int64_t count, T* copies) {
  km_rows view = rows;
  view.n = count;
  if (converts(rows)) {
    copy_rows(rows, first, count, rows.d, copies);
    view.x = copies;
    view.element = sizeof(T) == 8 ? KM_FLOAT64 : KM_FLOAT32;
    view.row_stride = rows.d;
    view.column_stride = 1;
  } else {
    view.x = row_at<T>(rows, first);
  }
  return view;
}

// Whether all features of a row (d) are 0: such a row has no direction, and no weight under cosine.
template <typename T>
inline bool is_zero(const T* row, int64_t d) {
  for (int64_t j = 0; j < d; ++j)
    if (row[j] != 0) return false;
  return true;
}

// Asks the caches for row i, which will be needed soon: one prefetch for each line of 64 bytes.
inline void fetch_row(const km_rows& rows, int64_t i) {
  if (rows.column_stride != 1) return;
  const int64_t size = with_element(rows.element, [](auto zero) { return int64_t(sizeof(zero)); });
  const char* const row = bytes_of_row(rows, i, size);
  for (int64_t byte = 0; byte < rows.d * size; byte += 64) __builtin_prefetch(row + byte);
}

}  // namespace
}  // namespace km::KM_TARGET
