// Sixteen rows to columns: numbers that are next to each other in memory get into the same lane of
// different registers, one register for each feature.
//
//   rows in memory            columns in registers (or memory)
//   row 0:   a0 a1 a2 ..      number 0: a0 b0 c0 ..
//   row 1:   b0 b1 b2 ..      number 1: a1 b1 c1 ..
//   row 2:   c0 c1 c2 ..      number 2: a2 b2 c2 ..
#pragma once

#include "kernel/simd/vec16_type-inl.h"

namespace km::KM_TARGET {
namespace {

// columns[j], lane r, is table[which[r]][j]: four terms of each of sixteen rows or centroids, which
// a table (·, 4) keeps together so that one load brings them. which (16): lines of the table.
inline void gather(const float (*table)[4], const int32_t* which, Sixteen<float> (&columns)[4]) {
#if KM_AVX512
  auto row = [&](int r) { return _mm_loadu_ps(table[which[r]]); };
  __m512 rows[4];
  for (int r = 0; r < 4; ++r) {
    const __m512 two = _mm512_insertf32x4(_mm512_castps128_ps512(row(r)), row(4 + r), 1);
    rows[r] = _mm512_insertf32x4(_mm512_insertf32x4(two, row(8 + r), 2), row(12 + r), 3);
  }
  const __m512 low[2] = {_mm512_unpacklo_ps(rows[0], rows[1]),
                         _mm512_unpacklo_ps(rows[2], rows[3])};
  const __m512 high[2] = {_mm512_unpackhi_ps(rows[0], rows[1]),
                          _mm512_unpackhi_ps(rows[2], rows[3])};
  columns[0].part[0] = _mm512_shuffle_ps(low[0], low[1], 0x44);
  columns[1].part[0] = _mm512_shuffle_ps(low[0], low[1], 0xee);
  columns[2].part[0] = _mm512_shuffle_ps(high[0], high[1], 0x44);
  columns[3].part[0] = _mm512_shuffle_ps(high[0], high[1], 0xee);
#elif KM_AVX2
  auto row = [&](int r) { return _mm_loadu_ps(table[which[r]]); };
  for (int v = 0; v < 2; ++v) {
    __m256 rows[4];
    for (int r = 0; r < 4; ++r) rows[r] = _mm256_set_m128(row(8 * v + 4 + r), row(8 * v + r));
    const __m256 low[2] = {_mm256_unpacklo_ps(rows[0], rows[1]),
                           _mm256_unpacklo_ps(rows[2], rows[3])};
    const __m256 high[2] = {_mm256_unpackhi_ps(rows[0], rows[1]),
                            _mm256_unpackhi_ps(rows[2], rows[3])};
    columns[0].part[v] = _mm256_shuffle_ps(low[0], low[1], 0x44);
    columns[1].part[v] = _mm256_shuffle_ps(low[0], low[1], 0xee);
    columns[2].part[v] = _mm256_shuffle_ps(high[0], high[1], 0x44);
    columns[3].part[v] = _mm256_shuffle_ps(high[0], high[1], 0xee);
  }
#else
  for (int j = 0; j < 4; ++j) {
    float lanes[kLanes];
    for (int r = 0; r < kLanes; ++r) lanes[r] = table[which[r]][j];
    columns[j] = load(lanes);
  }
#endif
}

// to[j * step + r] = rows[r][j] for sixteen j and r. rows (16): addresses of sixteen numbers of
// four bytes each, which need not be aligned. step: at least 16, in numbers.
template <typename T>
inline void transpose(const T* const (&rows)[kLanes], T* to, int64_t step) {
  static_assert(sizeof(T) == sizeof(float));
#if KM_AVX512
  __m512 a[16], b[16];
  for (int r = 0; r < 16; ++r) a[r] = _mm512_loadu_ps(reinterpret_cast<const float*>(rows[r]));
  for (int r = 0; r < 16; r += 2) {
    b[r] = _mm512_unpacklo_ps(a[r], a[r + 1]);
    b[r + 1] = _mm512_unpackhi_ps(a[r], a[r + 1]);
  }
  for (int r = 0; r < 16; r += 4)
    for (int half = 0; half < 2; ++half) {
      a[r + 2 * half] = _mm512_shuffle_ps(b[r + half], b[r + 2 + half], 0x44);
      a[r + 2 * half + 1] = _mm512_shuffle_ps(b[r + half], b[r + 2 + half], 0xee);
    }
  float* const columns = reinterpret_cast<float*>(to);
  for (int j = 0; j < 4; ++j) {  // number j of each four, of all rows
    const __m512 low = _mm512_shuffle_f32x4(a[j], a[4 + j], 0x88);
    const __m512 high = _mm512_shuffle_f32x4(a[j], a[4 + j], 0xdd);
    const __m512 more_low = _mm512_shuffle_f32x4(a[8 + j], a[12 + j], 0x88);
    const __m512 more_high = _mm512_shuffle_f32x4(a[8 + j], a[12 + j], 0xdd);
    _mm512_storeu_ps(columns + j * step, _mm512_shuffle_f32x4(low, more_low, 0x88));
    _mm512_storeu_ps(columns + (8 + j) * step, _mm512_shuffle_f32x4(low, more_low, 0xdd));
    _mm512_storeu_ps(columns + (4 + j) * step, _mm512_shuffle_f32x4(high, more_high, 0x88));
    _mm512_storeu_ps(columns + (12 + j) * step, _mm512_shuffle_f32x4(high, more_high, 0xdd));
  }
#elif KM_AVX2
  for (int first = 0; first < kLanes; first += 8)      // eight rows
    for (int begin = 0; begin < kLanes; begin += 8) {  // eight columns
      __m256 a[8], b[8];
      for (int r = 0; r < 8; ++r)
        a[r] = _mm256_loadu_ps(reinterpret_cast<const float*>(rows[first + r] + begin));
      for (int r = 0; r < 8; r += 2) {
        b[r] = _mm256_unpacklo_ps(a[r], a[r + 1]);
        b[r + 1] = _mm256_unpackhi_ps(a[r], a[r + 1]);
      }
      for (int r = 0; r < 8; r += 4)
        for (int half = 0; half < 2; ++half) {
          a[r + 2 * half] = _mm256_shuffle_ps(b[r + half], b[r + 2 + half], 0x44);
          a[r + 2 * half + 1] = _mm256_shuffle_ps(b[r + half], b[r + 2 + half], 0xee);
        }
      float* const block = reinterpret_cast<float*>(to) + begin * step + first;
      for (int j = 0; j < 4; ++j) {
        _mm256_storeu_ps(block + j * step, _mm256_permute2f128_ps(a[j], a[4 + j], 0x20));
        _mm256_storeu_ps(block + (4 + j) * step, _mm256_permute2f128_ps(a[j], a[4 + j], 0x31));
      }
    }
#else
  for (int r = 0; r < kLanes; ++r)
    for (int j = 0; j < kLanes; ++j) to[j * step + r] = rows[r][j];
#endif
}

}  // namespace
}  // namespace km::KM_TARGET
