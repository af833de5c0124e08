// The sizes that host and kernels agree on.
#pragma once

#include <cstdint>

#include "abi/native.h"

namespace km {

// Up to so many features, rows are measured against every centroid or by boxes; above, first by
// bounds.
constexpr int64_t kFewFeatures = KM_FEW_FEATURES;
// Up to so many, seeding measures every distance: bounds cost as much.
constexpr int64_t kMeasuredFeatures = KM_MEASURED_FEATURES;
// Up to so many they are sorted into boxes for seeding.
constexpr int64_t kSortedFeatures = KM_SORTED_FEATURES;
// Numbers that a row of few features adds to its cluster: features, its weight, and what fills up
// fours.
constexpr int64_t terms_of(int64_t d) { return (d + 4) / 4 * 4; }

constexpr int kBlock = 64;             // rows taken together
constexpr int kMostRowsInLanes = 32;   // of them, whose scores are computed together
constexpr int kMostRowsTogether = 8;   // whose coordinates are measured together
constexpr int64_t kMostPlaces = 1024;  // of centroids, whose scores are kept together
// A row's coordinates are whole numbers, of this length together, in units of √norm / kWhole;
// the norm is taken to be kLeastNorm at least.
constexpr float kWhole = 32000;
constexpr float kLeastNorm = 1e-30f;
constexpr int kMostSteps = 127;  // that a group of centroids moves before its bounds are rebased

constexpr int kMostBeams = KM_MOST_BEAMS;
constexpr int kBeamRows = 8;  // whose beams are searched together

// Squared norms above may overflow: bounds are of no use, and all centroids are tried.
constexpr float kTooLarge = 1e36f;

}  // namespace km
