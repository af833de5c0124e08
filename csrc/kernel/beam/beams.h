// What a beam search reads and writes. A row of x is to be a sum of centroids, one of each level:
//
//   level 0     level 1     level 2          codebooks (levels, k, d): k centroids a level
//   c0[7]    +  c1[2]    +  c2[5]  ~  x      codes (n, levels): here 7, 2, 5
//
// A beam is a prefix of such a sum, of which the vector v = x - c0[7] - c1[2] is left. A search for
// the neighbors of x is a search of a single level, which keeps distances instead of vectors.
#pragma once

#include <cstdint>

#include "abi/native.h"

namespace km {

// Filled by the callers of host/beam.h, km_beam_search and km_neighbors.
struct BeamSizes {
  int64_t n;          // rows
  int64_t d;          // features
  int64_t levels;     // of codebooks; 1 for neighbors
  int64_t k;          // centroids of each level
  int64_t beam_size;  // beams that each level keeps of a row, 1 to kMostBeams
};

// Where results go; filled by the callers of host/beam.h. Either residuals or distances is null.
template <typename T>
struct BeamResult {
  int64_t* codes;  // (n, levels) of the best beam; for neighbors (n, beam_size), nearest first
  T* residuals;    // (n, d): x less its centroids; null for neighbors
  T* distances;    // (n, beam_size), squared, ascending; null but for neighbors
};

// Codebooks made ready, by CodebookMaker in host/beam.cpp. Memory is aligned to 64 bytes.
template <typename T>
struct Codebooks {
  int64_t stride;      // d, above kFewFeatures filled up to a multiple of 16
  const T* centroids;  // (levels, k, stride), filled up by zeros
  // Up to kFewFeatures, centroids in the lanes of vectors: (levels, blocks, d, rows of a block), a
  // block being Kernels::block_bytes of each feature. Null above.
  const T* blocks;
  // Above kFewFeatures, for scores: (levels, panels, 1 + d, 16), a panel being 16 centroids: their
  // -½‖w‖², raised by the margin, and below it the numbers of w = c - origin, feature by feature.
  // Where ‖w‖² >= kTooLarge, infinity above zeros: such a choice is always measured; beyond
  // centroid k - 1, -infinity above zeros: never. Null up to kFewFeatures.
  const float* panels;
  const int64_t* origins;  // (levels): the centroid, 0 to k - 1, that is the origin of its level
  // Bounds on the rounding of ‖v - c‖², relative to ‖z‖² + ‖w‖², and what a score's upper bound
  // takes off: 4 margin / (1 - margin). See margin_of in host/beam.cpp.
  float margin, margin_of_half;
};

// A beam search; made by beam_search in host/beam.cpp.
template <typename T>
struct Beams {
  BeamSizes sizes;
  const T* x;  // (n, d), contiguous
  Codebooks<T> codebooks;
  BeamResult<T> result;
};

// Memory of one thread for the beams of kBeamRows rows; filled by beam_search in host/beam.cpp. A
// level reads vectors and codes and writes the next ones; then they change places.
template <typename T>
struct BeamScratch {
  T *vectors, *next_vectors;    // (kBeamRows, beam_size, stride): v of each beam
  float* centered;              // (kBeamRows, beam_size, stride): z = v - origin of the level
  int32_t *codes, *next_codes;  // (kBeamRows, beam_size, levels)
};

}  // namespace km
