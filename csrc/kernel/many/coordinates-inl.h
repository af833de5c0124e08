// Coordinates of rows: integers of 16 bits, two to an int32_t. Each row has a unit.
//
// A row z becomes q = z / unit, rounded, with unit = ‖z‖ / kWhole, so that the product of two rows
// is a sum of 32 bits that cannot overflow (‖q‖² is about kWhole² < 2^30). Rounding moves z by half
// a unit at most in each coordinate: by ½ √numbers / kWhole of its length, which
// Coordinates.margin allows for. Along directions, a last coordinate is the norm of what the
// directions leave out:
//
//     z = (x - center)·b_0, .., (x - center)·b_(p-1), √(‖x - center‖² - Σ of these squares)
#pragma once

#include "kernel/rows/load-inl.h"

namespace km::KM_TARGET {
namespace {

constexpr int kRowsTogether = KM_ROWS_TOGETHER;  // whose sums of products are in registers
static_assert(kRowsTogether <= kMostRowsTogether);

// The unit ‖x‖ / kWhole of a row whose squared norm is `norm`; never 0, since rows are divided by
// it. The second function does the same for sixteen rows.
inline float unit_of(float norm) {
  return square_root(norm > kLeastNorm ? norm : kLeastNorm) * (1 / kWhole);
}
inline Sixteen<float> unit_of(const Sixteen<float>& norm) {
  return times(square_root(raised_to(norm, kLeastNorm)), 1 / kWhole);
}

// Rounds numbers (count, a multiple of sixteen) to pairs (pitch >= count / 2), zeros behind them.
// The first number of a pair is in the low half.
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

// Adds to score the products of R rows (width) with sixteen directions, a panel (width, 16). The
// sums are local, which keeps them in registers.
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

// ‖·‖² of numbers (count, a multiple of sixteen).
inline float squared_norm(const float* numbers, int64_t count) {
  Sixteen<float> sum = {};
  for (int64_t j = 0; j < count; j += kLanes)
    add_square_of_difference(sum, load(numbers + j), Sixteen<float>{});
  return sum_of_lanes(sum);
}

// Products of `together` rows (1 to kRowsTogether; centered, stride apart) with all directions:
// along (together, directions + 1), whose last number is left free. Sums of kProductsInPart
// products join the total one by one, since short partial sums round less.
inline void measure_along(const Coordinates& c, int64_t d, int64_t stride, int together,
                          const float* centered, float* along) {
  const int64_t numbers = c.directions + 1;
  for (int64_t direction = 0; direction < c.directions; direction += kLanes) {
    Sixteen<float> all[kRowsTogether] = {};
    for (int64_t begin = 0; begin < d; begin += kProductsInPart) {
      const float* row[kRowsTogether];
      for (int r = 0; r < kRowsTogether; ++r)  // after the last row, the last row again
        row[r] = centered + least_of(r, together - 1) * stride + begin;
      Sixteen<float> sum[kRowsTogether] = {};
      add_products(row, c.basis + (direction * d + begin * kLanes),
                   least_of(kProductsInPart, d - begin), sum);
      for (int r = 0; r < kRowsTogether; ++r) add(all[r], sum[r]);
    }
    for (int r = 0; r < together; ++r) {
      float lanes[kLanes];
      store(lanes, all[r]);
      std::memcpy(along + r * numbers + direction, lanes,
                  size_t(least_of<int64_t>(kLanes, c.directions - direction)) * sizeof(float));
    }
  }
}

// Coordinates (count, pitch) and squared norms (count) of rows: row_at(i) is row i (stride) of d
// features, padded by zeros. centered (count, stride) and along (kMostRowsTogether, directions + 1)
// are scratch. blur makes the norm left out too large rather than too small, as Cauchy and Schwarz
// need it.
template <typename RowAt>
void measure_rows(const Coordinates& c, const RowAt& row_at, int64_t d, int64_t stride, int count,
                  float* centered, float* along, int32_t* coordinates, float* norms) {
  for (int i = 0; i < count; ++i) {
    const auto* row = row_at(i);
    Sixteen<float> squares = {};
    for (int64_t j = 0; j < stride; j += kLanes) {
      const Sixteen<float> difference = minus(load(row + j), load(c.center + j));
      store(centered + i * stride + j, difference);
      add_square_of_difference(squares, difference, Sixteen<float>{});
    }
    norms[i] = sum_of_lanes(squares);
    if (!c.directions)
      round_row(centered + i * stride, stride, unit_of(norms[i]), c.pitch,
                coordinates + i * c.pitch);
  }
  if (!c.directions) return;
  const int64_t numbers = c.directions + 1;
  for (int first = 0; first < count; first += kRowsTogether) {
    const int together = least_of(kRowsTogether, count - first);
    measure_along(c, d, stride, together, centered + first * stride, along);
    for (int r = 0; r < together; ++r) {
      const float norm = norms[first + r];
      float* const z = along + r * numbers;
      z[c.directions] = 0;
      const float residual = norm - squared_norm(z, numbers);
      z[c.directions] = square_root((residual > 0 ? residual : 0) + c.blur * norm);
      round_row(z, numbers, unit_of(norm), c.pitch, coordinates + (first + r) * c.pitch);
    }
  }
}

}  // namespace
}  // namespace km::KM_TARGET
