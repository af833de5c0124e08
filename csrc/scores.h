// Scores of some rows with one centroid after the other, a row to a lane.
// Included by kernel.inc, once per instruction set.
#pragma once

#include "many.h"

namespace {

constexpr int kRowVectors = KM_VECTOR_BYTES >= 64 ? 2 : 1;
constexpr int kRowsInLanes = kRowVectors * kLanes;
constexpr int kCentroidsInTurn = KM_VECTOR_BYTES / 8;  // whose scores are in registers

using Row = Sixteen<float>[kRowVectors];  // a number of each row

// The highest and the second highest score of each row.
struct Highest {
  Sixteen<float> first = filled(-kInfinity), second = filled(-kInfinity);
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

// Sixteen numbers from each of sixteen rows at a time become columns (pitch, kRowsInLanes).
template <typename RowAt>
inline void fill_columns(int64_t pitch, float* columns, const RowAt& row_at) {
  for (int first = 0; first < kRowsInLanes; first += kLanes)
    for (int64_t j = 0; j < pitch; j += kLanes) {
      const float* rows[kLanes];
      for (int r = 0; r < kLanes; ++r) rows[r] = row_at(first + r) + j;
      transpose(rows, columns + j * kRowsInLanes + first, kRowsInLanes);
    }
}

// Coordinates of some rows of a block as columns; missing rows repeat the last one.
template <typename T>
void fill_columns(const Block<T>& block, const uint8_t* which, int some, float* columns) {
  const km_search& s = block.s;
  if (s.directions) {
    fill_columns(s.pitch, columns, [&](int r) {
      return block.coordinates_of(which[least_of(r, some - 1)]);
    });
    return;
  }
  for (int first = 0; first < kRowsInLanes; first += kLanes)
    for (int64_t j = 0; j < s.pitch; j += kLanes) {
      alignas(64) float copies[kLanes][kLanes];
      const float* rows[kLanes];
      for (int r = 0; r < kLanes; ++r) {
        rows[r] = copies[r];
        store(copies[r], minus(load(block.row(which[least_of(first + r, some - 1)]) + j),
                               load(s.center + j)));
      }
      transpose(rows, columns + j * kRowsInLanes + first, kRowsInLanes);
    }
}

// Scores of the rows with a few centroids.
inline void score_in_turn(const float* const (&centroid)[kCentroidsInTurn],
                          const float (&offset)[kCentroidsInTurn], const float* columns,
                          int64_t width, Row (&score)[kCentroidsInTurn]) {
  Row sum[kCentroidsInTurn];
  for (int i = 0; i < kCentroidsInTurn; ++i)
    for (int v = 0; v < kRowVectors; ++v) sum[i][v] = filled(offset[i]);
  for (int64_t j = 0; j < width; ++j)
    for (int v = 0; v < kRowVectors; ++v) {
      const Sixteen<float> column = load(columns + (j * kRowVectors + v) * kLanes);
      for (int i = 0; i < kCentroidsInTurn; ++i) add_product(sum[i][v], column, centroid[i][j]);
    }
  for (int i = 0; i < kCentroidsInTurn; ++i)
    for (int v = 0; v < kRowVectors; ++v) score[i][v] = sum[i][v];
}

// The same with the centroids at some places.
template <typename Place>
inline void score_places(const km_search& s, const Place& place, const float* columns,
                         Row (&score)[kCentroidsInTurn]) {
  const float* centroid[kCentroidsInTurn];
  float offset[kCentroidsInTurn];
  for (int i = 0; i < kCentroidsInTurn; ++i) {
    centroid[i] = s.coordinates_of_centroids + place(i) * s.pitch;
    offset[i] = s.offsets[place(i)];
  }
  score_in_turn(centroid, offset, columns, s.width, score);
}

// Scores (end - begin, kRowsInLanes) with the centroids at places begin to end, and some that
// fill up the last turn; begin is a multiple of a turn.
KM_BY_ITSELF void score_rows(const km_search& s, const float* columns, int64_t begin, int64_t end,
                       float* scores, Highest (&highest)[kRowVectors]) {
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
