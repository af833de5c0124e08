// The sizes that host/ and the kernels agree on. Which loops serve, by the number of features d
// (measured on AVX2 and AVX-512 processors; no result depends on them):
//
//   d                   1 ..  8        9 .. 16          17 .. 23      24 ..
//   E-step              scan, boxes    bounds           bounds        bounds
//   seeding, sorted     boxes          boxes            distances     bounds
//   seeding, else       distances      distances        distances     bounds
#pragma once

#include <cstdint>

#include "abi/native.h"

namespace km {

// Few features: rows are measured against every centroid, or discarded by boxes. Above, many.
constexpr int64_t kFewFeatures = KM_FEW_FEATURES;
// Features up to which seeding measures every distance: bounds cost as much.
constexpr int64_t kMeasuredFeatures = KM_MEASURED_FEATURES;
// Features up to which rows are sorted into boxes for seeding: boxes of more features overlap.
constexpr int64_t kSortedFeatures = KM_SORTED_FEATURES;
// Numbers that a row of d few features adds to its cluster's sum, in doubles: the features, its
// weight, and zeros up to a multiple of 4 (a register of AVX2).
// (static: no linker may take the copy of one instruction set for all.)
static constexpr int64_t terms_of(int64_t d) { return (d + 4) / 4 * 4; }

// Rows of a block, which share the loads of centroids and bounds: a bit each of a uint64_t.
constexpr int kBlock = 64;
// Rows whose scores are computed together, a row to a lane, at most: two registers of AVX-512.
constexpr int kMostRowsInLanes = 32;
// Rows whose coordinates are measured together, at most: KM_ROWS_TOGETHER of AVX-512.
constexpr int kMostRowsTogether = 8;
// Places of centroids whose scores of a tile are kept together: 128 KB, within the second cache.
constexpr int64_t kMostPlaces = 1024;
// Coordinates of a row are whole numbers of 16 bits in units of √norm / kWhole, so that their
// vector has length kWhole: below 2^15 each, and no product of two rows exceeds 32 bits.
constexpr float kWhole = 32000;
// The least squared norm that a unit is computed from: the unit of a zero row is not zero.
constexpr float kLeastNorm = 1e-30f;
// Steps that a group of centroids drifts, at most, before its bounds are rebased: half of a byte's
// range is left for the bounds themselves.
constexpr int kMostSteps = 127;

// Beams of a beam search and neighbors of a search, at most; the C ABI promises it.
constexpr int kMostBeams = KM_MOST_BEAMS;
// Rows whose beams are searched together: they share the loads of a codebook.
constexpr int kBeamRows = 8;

// Squared norms above may overflow where they are added up (the largest float is 3e38): bounds are
// of no use then, and every centroid is tried.
constexpr float kTooLarge = 1e36f;

}  // namespace km
