// What the parts of a search cost, about.
#pragma once

#include "kernel/many/block-inl.h"

namespace km::KM_TARGET {
namespace {

// Processor cycles, about: of the score of a row with a centroid among all, of one by itself, and
// of a distance.
inline float cost_among_all(const Coordinates& s) {
  return 2 + 2.0f / KM_VECTOR_BYTES * static_cast<float>(s.width);
}
inline float cost_by_itself(const Coordinates& s) {
  return 10 + 6.0f / KM_VECTOR_BYTES * static_cast<float>(s.width);
}
template <typename T>
inline float cost_of_distance(const Search<T>& s) {
  return 30 + 3.0f * sizeof(T) / KM_VECTOR_BYTES * static_cast<float>(s.places.stride);
}

// To measure a row from memory.
template <typename T>
inline float cost_of_row(const Search<T>& s) {
  return cost_of_distance<T>(s) + 0.3f * sizeof(T) * static_cast<float>(s.places.stride);
}
// The share of the pairs of a row that are spared where it is measured first, about, for each step
// that its centroid has moved.
constexpr float kSparedByStep = 0.25f, kMostSpared = 0.5f;

// How far a centroid has to move that its rows are measured first: pairs and rows are taken to be
// as many as in the last call.
template <typename T>
inline float far_drift(const Search<T>& s) {
  const float spared = cost_by_itself(s.coordinates) * s.upper.pairs_before;
  const float share = cost_of_row<T>(s) * (1 - s.upper.compared_before) / spared;
  return share < kMostSpared ? share / (kSparedByStep * s.bounds.per_step) : kInfinity;
}

}  // namespace
}  // namespace km::KM_TARGET
