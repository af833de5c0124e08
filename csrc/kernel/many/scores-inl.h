// Scores of some rows with one centroid after the other, a row to a lane.
//
#pragma once

#include "kernel/many/block-inl.h"

namespace km::KM_TARGET {
namespace {

constexpr int kRowVectors = KM_VECTOR_BYTES >= 64 ? 2 : 1;
constexpr int kRowsInLanes = kRowVectors * kLanes;
constexpr int kCentroidsInTurn = KM_VECTOR_BYTES / 8;  // whose scores are in registers

using Row = Sixteen<float>[kRowVectors];  // a number of each row

// The highest and the second highest score of each row.
struct Highest {
  Sixteen<float> first = broadcast(-kInfinity), second = broadcast(-kInfinity);
  Sixteen<int32_t> place = {}, next = {};  // where they are

  void add(const Sixteen<float>& score, int32_t where) {
    for (int part = 0; part < Sixteen<float>::kParts; ++part) {
      const auto value = score.part[part], most = first.part[part], less = second.part[part];
      const auto highest = place.part[part], here = highest * 0 + where;
      const auto higher = value > most, high = value > less;
      next.part[part] = higher ? highest : high ? here : next.part[part];
      second.part[part] = higher ? most : high ? value : less;
      first.part[part] = higher ? value : most;
      place.part[part] = higher ? here : highest;
    }
  }
};

// Coordinates of some rows with their units, a row to a lane.
struct Columns {
  int32_t* pairs;  // (pitch, kRowsInLanes)
  float unit[kRowsInLanes];

  // Of rows whose coordinates are known.
  template <typename RowAt>
  void fill(int64_t pitch, const RowAt& coordinates_of) {
    for (int first = 0; first < kRowsInLanes; first += kLanes)
      for (int64_t j = 0; j < pitch; j += kLanes) {
        const int32_t* rows[kLanes];
        for (int r = 0; r < kLanes; ++r) rows[r] = coordinates_of(first + r) + j;
        transpose(rows, pairs + j * kRowsInLanes + first, kRowsInLanes);
      }
  }
};

// Of some rows of a block, which learns their squared norms; missing rows repeat the last one.
template <typename T>
void fill_columns(Block<T>& block, const uint8_t* which, int some, const Scratch<T>& scratch,
                  Columns& columns) {
  const Search<T>& s = block.s;
  columns.pairs = scratch.columns;
  auto row_at = [&](int r) { return which[least_of(r, some - 1)]; };
  if (s.coordinates.directions) {
    columns.fill(s.coordinates.pitch, [&](int r) { return block.coordinates_of(row_at(r)); });
    for (int r = 0; r < kRowsInLanes; ++r) columns.unit[r] = block.unit[row_at(r)];
    return;
  }
  for (int first = 0; first < kRowsInLanes; first += kLanes) {
    float* const feature = scratch.centered;  // (stride, kLanes)
    Sixteen<float> squares = {};
    for (int64_t j = 0; j < s.places.stride; j += kLanes) {
      alignas(64) float copies[kLanes][kLanes];
      const float* rows[kLanes];
      for (int r = 0; r < kLanes; ++r) {
        rows[r] = copies[r];
        store(copies[r],
              minus(load(block.row(row_at(first + r)) + j), load(s.coordinates.center + j)));
      }
      transpose(rows, feature + j * kLanes, kLanes);
      for (int i = 0; i < kLanes; ++i)
        add_square_of_difference(squares, load(feature + (j + i) * kLanes), Sixteen<float>{});
    }
    float norm[kLanes];
    store(norm, squares);
    for (int r = 0; r < kLanes; ++r) block.norm[row_at(first + r)] = norm[r];
    const Sixteen<float> units = unit_of(squares), scale = reciprocal(units);
    store(columns.unit + first, units);
    for (int64_t j = 0; j < s.coordinates.width; ++j)
      store(columns.pairs + j * kRowsInLanes + first,
            pairs_of(rounded(times(load(feature + 2 * j * kLanes), scale)),
                     rounded(times(load(feature + (2 * j + 1) * kLanes), scale))));
  }
}

// Scores of the rows with the centroids at a few places.
template <typename Place>
inline void score_places(const Coordinates& s, const Place& place, const Columns& columns,
                         Row (&score)[kCentroidsInTurn]) {
  const int32_t* centroid[kCentroidsInTurn];
  for (int i = 0; i < kCentroidsInTurn; ++i) centroid[i] = s.of_centroids + place(i) * s.pitch;
  Sixteen<int32_t> sum[kCentroidsInTurn][kRowVectors];
  for (int i = 0; i < kCentroidsInTurn; ++i)
    for (int v = 0; v < kRowVectors; ++v) sum[i][v] = broadcast(0);
  for (int64_t j = 0; j < s.width; ++j)
    for (int v = 0; v < kRowVectors; ++v) {
      const Sixteen<int32_t> column = load(columns.pairs + (j * kRowVectors + v) * kLanes);
      for (int i = 0; i < kCentroidsInTurn; ++i)
        add_products_of_pairs(sum[i][v], column, broadcast(centroid[i][j]));
    }
  for (int i = 0; i < kCentroidsInTurn; ++i)
    for (int v = 0; v < kRowVectors; ++v) {
      const Sixteen<float> units = times(load(columns.unit + v * kLanes), s.units[place(i)]);
      score[i][v] = broadcast(s.offsets[place(i)]);
      add_products(score[i][v], as_floats(sum[i][v]), units);
    }
}

// Scores (end - begin, kRowsInLanes) with the centroids at places begin to end, and some that
// fill up the last turn; begin is a multiple of a turn.
KM_NOINLINE void score_rows(const Coordinates& s, const Columns& columns, int64_t begin,
                            int64_t end, float* scores, Highest (&highest)[kRowVectors]) {
  for (int64_t where = begin; where < end; where += kCentroidsInTurn) {
    Row score[kCentroidsInTurn];
    score_places(s, [&](int i) { return where + i; }, columns, score);
    for (int v = 0; v < kRowVectors; ++v) {
      Highest all = highest[v];
      for (int i = 0; i < kCentroidsInTurn; ++i) {
        store(scores + (i * kRowVectors + v) * kLanes, score[i][v]);
        all.add(score[i][v], static_cast<int32_t>(where + i));
      }
      highest[v] = all;
    }
    scores += kCentroidsInTurn * kRowsInLanes;
  }
}

}  // namespace
}  // namespace km::KM_TARGET
