// Coordinates of rows: whole numbers of 16 bits, two to a lane, in units of each row's own.
//
//
// A row z becomes q, z over its unit ‖z‖ / kWhole, rounded; products of two rows are whole sums
// of 32 bits. The error of z is half a unit at most in each coordinate: ½ √width / kWhole of its
// length, which bounds allow for (Search::margin).
#pragma once

#include "kernel/rows/load-inl.h"

namespace km::KM_TARGET {
namespace {

constexpr int kRowsTogether = KM_ROWS_TOGETHER;  // whose products are in registers
static_assert(kRowsTogether <= kMostRowsTogether);
constexpr float kInfinity = kInfinityOf<float>;
constexpr float kTiny = 1e-14f;  // squares below may lose all their digits

// Of a row of some squared norm; of sixteen rows.
inline float unit_of(float norm) {
  return square_root(norm > kLeastNorm ? norm : kLeastNorm) * (1 / kWhole);
}
inline Sixteen<float> unit_of(const Sixteen<float>& norm) {
  return times(square_root(raised_to(norm, kLeastNorm)), 1 / kWhole);
}

// Rounds a multiple of sixteen numbers to (pitch), filled up by zeros.
inline void round_row(const float* numbers, int64_t count, float unit, int64_t pitch,
                      int32_t* pairs) {
  const float per_unit = 1 / unit;
  for (int64_t j = 0; j < count; j += kLanes) {
    int32_t whole[kLanes];
    store(whole, rounded(times(load(numbers + j), per_unit)));
    for (int i = 0; i < kLanes / 2; ++i)
      pairs[j / 2 + i] = (whole[2 * i] & 0xffff) | int32_t(uint32_t(whole[2 * i + 1]) << 16);
  }
  for (int64_t pair = count / 2; pair < pitch; ++pair) pairs[pair] = 0;
}

// Products of a few rows with sixteen others, added to sum.
template <int R>
inline void add_products(const float* const (&row)[R], const float* panel, int64_t width,
                         Sixteen<float> (&score)[R]) {
  Sixteen<float> sum[R];
  for (int r = 0; r < R; ++r) sum[r] = score[r];
  for (int64_t j = 0; j < width; ++j) {
    const Sixteen<float> column = load(panel + j * kLanes);
    for (int r = 0; r < R; ++r) add_product(sum[r], column, row[r][j]);
  }
  for (int r = 0; r < R; ++r) score[r] = sum[r];
}

// Of a multiple of sixteen numbers.
inline float squared_norm(const float* numbers, int64_t count) {
  Sixteen<float> sum = {};
  for (int64_t j = 0; j < count; j += kLanes)
    add_square_of_difference(sum, load(numbers + j), Sixteen<float>{});
  return sum_of_lanes(sum);
}

// Coordinates (count, pitch) and squared norms (count) of rows.
// centered (count, stride) and along (kMostRowsTogether, directions + 1) are scratch.
template <typename RowAt>
void measure_rows(const Coordinates& s, const RowAt& row_at, int64_t d, int64_t stride, int count,
                  float* centered, float* along, int32_t* coordinates, float* norms) {
  for (int i = 0; i < count; ++i) {
    const auto* row = row_at(i);
    Sixteen<float> squares = {};
    for (int64_t j = 0; j < stride; j += kLanes) {
      const Sixteen<float> difference = minus(load(row + j), load(s.center + j));
      store(centered + i * stride + j, difference);
      add_square_of_difference(squares, difference, Sixteen<float>{});
    }
    norms[i] = sum_of_lanes(squares);
    if (!s.directions)
      round_row(centered + i * stride, stride, unit_of(norms[i]), s.pitch,
                coordinates + i * s.pitch);
  }
  if (!s.directions) return;
  constexpr int64_t kPart = 128;  // partial sums keep rounding small
  const int64_t p = s.directions, numbers = p + 1;
  for (int first = 0; first < count; first += kRowsTogether) {
    const int together = least_of(kRowsTogether, count - first);
    for (int64_t direction = 0; direction < p; direction += kLanes) {
      Sixteen<float> all[kRowsTogether] = {};
      for (int64_t begin = 0; begin < d; begin += kPart) {
        const float* row[kRowsTogether];
        for (int r = 0; r < kRowsTogether; ++r)
          row[r] = centered + (first + least_of(r, together - 1)) * stride + begin;
        Sixteen<float> sum[kRowsTogether] = {};
        add_products(row, s.basis + (direction * d + begin * kLanes), least_of(kPart, d - begin),
                     sum);
        for (int r = 0; r < kRowsTogether; ++r) add(all[r], sum[r]);
      }
      for (int r = 0; r < together; ++r) {
        float lanes[kLanes];
        store(lanes, all[r]);
        std::memcpy(along + r * numbers + direction, lanes,
                    size_t(least_of<int64_t>(kLanes, p - direction)) * sizeof(float));
      }
    }
    for (int r = 0; r < together; ++r) {
      const float norm = norms[first + r];
      float* const z = along + r * numbers;
      z[p] = 0;
      const float rest = norm - squared_norm(z, numbers);
      z[p] = square_root((rest > 0 ? rest : 0) + s.blur * norm);
      round_row(z, numbers, unit_of(norm), s.pitch, coordinates + (first + r) * s.pitch);
    }
  }
}

}  // namespace
}  // namespace km::KM_TARGET
