// Where the rows of a call are in memory. km_rows::x is a `const void*`, since 13 types of numbers
// come through one C interface, and so is km_sparse::values; the functions below are the only
// places that cast them.
//
// Functions are static: a linker keeps one copy of an inline function for all objects, and that
// copy could be the one for AVX-512, on a processor without it.
#pragma once

#include "abi/native.h"

namespace km {

// Whether rows hold another type than T, the float or double that distances are computed in: they
// are then to be converted before a loop reads them as T.
static inline bool converts(const km_rows& rows) {
  return rows.element != (rows.is_double ? KM_FLOAT64 : KM_FLOAT32);
}

// Address of row i, 0 <= i < n, whatever its type: element_bytes is the size of one number.
static inline const char* bytes_of_row(const km_rows& rows, int64_t i, int64_t element_bytes) {
  return static_cast<const char*>(rows.x) + i * rows.row_stride * element_bytes;
}

// Row i, 0 <= i < n, as numbers of T: feature j is row_at<T>(rows, i)[j * rows.column_stride].
// Legal only where T is the type that distances are computed in and !converts(rows); rows_of and
// can_be_read_in_place (load-inl.h) make or tell such rows.
template <typename T>
static inline const T* row_at(const km_rows& rows, int64_t i) {
  return static_cast<const T*>(rows.x) + i * rows.row_stride;
}

// The numbers of all sparse rows, which always are of the type T that distances are computed in:
// row i has the numbers from rows.starts[i] to rows.starts[i + 1] - 1.
template <typename T>
static inline const T* values_of(const km_sparse& rows) {
  return static_cast<const T*>(rows.values);
}

}  // namespace km
