// Coordinates of a tile: up to 32 (AVX-512) or 16 rows, a row to a lane, so that one load gives the
// same pair of coordinates of all rows.
//
//                  lane 0   lane 1   ...  lane 31
//     pair 0     [ x0,x1  | x0,x1  |     | x0,x1 ]   int32_t, two coordinates of 16 bits each
//     pair 1     [ x2,x3  | x2,x3  |     | x2,x3 ]
//       ...
//     pair w - 1 [ x..,x. |        |     |       ]   w = Coordinates.width
//     unit       [ ‖x‖/kWhole of each row        ]   float
#pragma once

#include "kernel/many/block_rows-inl.h"

namespace km::KM_TARGET {
namespace {

constexpr int kRowVectors = KM_VECTOR_BYTES >= 64 ? 2 : 1;  // of sixteen rows each
constexpr int kRowsInLanes = kRowVectors * kLanes;
static_assert(kRowsInLanes <= kMostRowsInLanes);

// A number of each row of a tile.
using PerRow = Sixteen<float>[kRowVectors];

// Made by `fill` for coordinates that are known, by fill_tile for rows of a block, and by
// find_tile (seeding/bounded-inl.h) for coordinates that seeding keeps.
struct TileCoordinates {
  int32_t* pairs;            // (pitch or, where only width is used, width; kRowsInLanes)
  float unit[kRowsInLanes];  // ‖x‖ / kWhole

  // From coordinates_of(r), (pitch), and unit_at(r) of each lane r, by transposes of 16 x 16 pairs.
  template <typename CoordinatesOf, typename UnitAt>
  void fill(int64_t pitch, const CoordinatesOf& coordinates_of, const UnitAt& unit_at) {
    for (int first = 0; first < kRowsInLanes; first += kLanes)
      for (int64_t j = 0; j < pitch; j += kLanes) {
        const int32_t* rows[kLanes];
        for (int r = 0; r < kLanes; ++r) rows[r] = coordinates_of(first + r) + j;
        transpose(rows, pairs + j * kRowsInLanes + first, kRowsInLanes);
      }
    for (int r = 0; r < kRowsInLanes; ++r) unit[r] = unit_at(r);
  }
};

// Fills a tile with `count` rows of a block (1 to kRowsInLanes), whose numbers are in `which`;
// lanes without a row repeat the last one. Along directions the block has the coordinates. Else
// they are made here, from rows that the block has read: a row less the origin, rounded in units of
// its norm; the block then learns the norms.
template <typename T>
void fill_tile(BlockRows<T>& block, const uint8_t* which, int count, const Scratch<T>& scratch,
               TileCoordinates& tile) {
  const Coordinates& c = block.search.coordinates;
  tile.pairs = scratch.columns;
  auto row_at = [&](int r) { return which[least_of(r, count - 1)]; };
  if (c.directions) {
    tile.fill(
        c.pitch, [&](int r) { return block.coordinates_of(row_at(r)); },
        [&](int r) { return block.unit[row_at(r)]; });
    return;
  }
  for (int first = 0; first < kRowsInLanes; first += kLanes) {
    float* const feature = scratch.centered;  // (stride, kLanes): less the origin, a row to a lane
    Sixteen<float> squares = {};
    for (int64_t j = 0; j < block.search.places.stride; j += kLanes) {
      alignas(64) float copies[kLanes][kLanes];
      const float* rows[kLanes];
      for (int r = 0; r < kLanes; ++r) {
        rows[r] = copies[r];
        store(copies[r], minus(load(block.row(row_at(first + r)) + j), load(c.center + j)));
      }
      transpose(rows, feature + j * kLanes, kLanes);
      for (int i = 0; i < kLanes; ++i)
        add_square_of_difference(squares, load(feature + (j + i) * kLanes), Sixteen<float>{});
    }
    float norm[kLanes];
    store(norm, squares);
    for (int r = 0; r < kLanes; ++r) block.norm[row_at(first + r)] = norm[r];
    const Sixteen<float> units = unit_of(squares), scale = reciprocal(units);
    store(tile.unit + first, units);
    for (int64_t j = 0; j < c.width; ++j)
      store(tile.pairs + j * kRowsInLanes + first,
            pairs_of(rounded(times(load(feature + 2 * j * kLanes), scale)),
                     rounded(times(load(feature + (2 * j + 1) * kLanes), scale))));
  }
}

}  // namespace
}  // namespace km::KM_TARGET
