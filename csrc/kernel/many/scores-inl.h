// Scores of a tile of rows with one centroid after the other: products of integers, a row to a
// lane.
#pragma once

#include "kernel/many/margins-inl.h"
#include "kernel/many/tile_coordinates-inl.h"

namespace km::KM_TARGET {
namespace {

constexpr int kCentroidsInTurn = KM_VECTOR_BYTES / 8;  // whose sums fit into the registers

// The two highest scores of each of sixteen rows, and the places of their centroids; of equal
// scores the first. Made with -infinity and place 0.
struct TopTwo {
  Sixteen<float> highest = broadcast(-kInfinity), second = broadcast(-kInfinity);
  Sixteen<int32_t> highest_place = {}, second_place = {};

  // Scores of the sixteen rows with the centroid at a place.
  void add(const Sixteen<float>& score, int32_t place) {
    for (int part = 0; part < Sixteen<float>::kParts; ++part) {
      const auto value = score.part[part], most = highest.part[part], less = second.part[part];
      const auto before = highest_place.part[part], here = before * 0 + place;
      const auto beats_highest = value > most, beats_second = value > less;
      second_place.part[part] = beats_highest  ? before
                                : beats_second ? here
                                               : second_place.part[part];
      second.part[part] = beats_highest ? most : beats_second ? value : less;
      highest.part[part] = beats_highest ? value : most;
      highest_place.part[part] = beats_highest ? here : before;
    }
  }
};

// score = z_x·z_c + r_x r_c - ½‖c‖² of each row of a tile with the centroids at place(0), ..,
// place(kCentroidsInTurn - 1). The products of coordinates are sums of 32 bits, exact; one product
// of floats puts in the units of row and centroid.
template <typename PlaceAt>
inline void score_places(const Coordinates& c, const PlaceAt& place, const TileCoordinates& tile,
                         PerRow (&score)[kCentroidsInTurn]) {
  const int32_t* centroid[kCentroidsInTurn];
  for (int i = 0; i < kCentroidsInTurn; ++i) centroid[i] = c.of_centroids + place(i) * c.pitch;
  Sixteen<int32_t> sum[kCentroidsInTurn][kRowVectors];
  for (int i = 0; i < kCentroidsInTurn; ++i)
    for (int v = 0; v < kRowVectors; ++v) sum[i][v] = broadcast(0);
  for (int64_t j = 0; j < c.width; ++j)
    for (int v = 0; v < kRowVectors; ++v) {
      const Sixteen<int32_t> pair = load(tile.pairs + (j * kRowVectors + v) * kLanes);
      for (int i = 0; i < kCentroidsInTurn; ++i)
        add_products_of_pairs(sum[i][v], pair, broadcast(centroid[i][j]));
    }
  for (int i = 0; i < kCentroidsInTurn; ++i)
    for (int v = 0; v < kRowVectors; ++v) {
      const Sixteen<float> units = times(load(tile.unit + v * kLanes), c.units[place(i)]);
      score[i][v] = broadcast(c.offsets[place(i)]);
      add_products(score[i][v], as_floats(sum[i][v]), units);
    }
}

// Writes the scores (end - begin, kRowsInLanes) of a tile with the centroids at places begin to
// end, and of places that fill up the last turn; raises the two highest. begin is a multiple of a
// turn.
KM_NOINLINE void score_rows(const Coordinates& c, const TileCoordinates& tile, int64_t begin,
                            int64_t end, float* scores, TopTwo (&top)[kRowVectors]) {
  for (int64_t place = begin; place < end; place += kCentroidsInTurn) {
    PerRow score[kCentroidsInTurn];
    score_places(c, [&](int i) { return place + i; }, tile, score);
    for (int v = 0; v < kRowVectors; ++v) {
      TopTwo two = top[v];  // in registers
      for (int i = 0; i < kCentroidsInTurn; ++i) {
        store(scores + (i * kRowVectors + v) * kLanes, score[i][v]);
        two.add(score[i][v], static_cast<int32_t>(place + i));
      }
      top[v] = two;
    }
    scores += kCentroidsInTurn * kRowsInLanes;
  }
}

}  // namespace
}  // namespace km::KM_TARGET
