// Estimated costs of the steps of a search, in processor cycles: a constant, and a term for each
// vector of numbers. The estimates are rough, and choose only between ways to the same labels.
#pragma once

#include "kernel/many/block-inl.h"

namespace km::KM_TARGET {
namespace {

// The score of a row with one centroid in a tile of all centroids (tile-inl.h).
inline float cost_among_all(const Coordinates& c) {
  return 2 + 2.0f / KM_VECTOR_BYTES * static_cast<float>(c.width);
}
// The score of a single pair of a row and a centroid (pair_filter-inl.h).
inline float cost_by_itself(const Coordinates& c) {
  return 10 + 6.0f / KM_VECTOR_BYTES * static_cast<float>(c.width);
}
// The deciding distance of a row that is in the cache.
template <typename T>
inline float cost_of_distance(const Search<T>& s) {
  return 30 + 3.0f * sizeof(T) / KM_VECTOR_BYTES * static_cast<float>(s.places.stride);
}
// The same, of a row that comes from memory: 0.3 cycles a byte.
template <typename T>
inline float cost_of_row(const Search<T>& s) {
  return cost_of_distance<T>(s) + 0.3f * sizeof(T) * static_cast<float>(s.places.stride);
}

// A row whose centroid has drifted has a loose upper bound, and so many candidates. Measuring the
// row tightens the bound, and spares about this share of the row's pairs for each step of drift.
constexpr float kSparedByStep = 0.25f;
// No more than this share is ever spared, so where measuring costs more, no row is measured first.
constexpr float kMostSpared = 0.5f;

// The drift (not squared) of a centroid above which its rows are measured before their groups are
// searched; infinity for never. Pairs per row, and the share of rows that are measured anyhow, are
// taken to be those of the last call:
//     cost of reading a row · (1 - share compared) < cost of a pair · pairs · share spared(drift).
template <typename T>
inline float far_drift(const Search<T>& s) {
  const float spared = cost_by_itself(s.coordinates) * s.upper.pairs_before;
  const float share = cost_of_row<T>(s) * (1 - s.upper.compared_before) / spared;
  return share < kMostSpared ? share / (kSparedByStep * s.bounds.per_step) : kInfinity;
}

}  // namespace
}  // namespace km::KM_TARGET
