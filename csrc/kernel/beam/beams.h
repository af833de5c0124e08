// Codebooks made ready for a beam search; see km_beam_search.
#pragma once

#include <cstdint>

#include "abi/native.h"

namespace km {

template <typename T>
struct Beams {
  const T* x;          // (n, d)
  const T* codebooks;  // (levels, k, stride)
  // Up to kFewFeatures: (levels, blocks, d, block), a block being Kernel::block rows.
  const T* blocks;
  // Above: (levels, panels, 1 + d, 16): -½‖c‖² raised by the margin and c, both less the origin of
  // the level; infinity and zeros where ‖c‖² is too large.
  const float* panels;
  const int64_t* origins;                   // (levels): which centroid of the level is the origin
  int64_t d, stride, levels, k, beam_size;  // stride: d, above kFewFeatures filled up to 16
  // Rounding of the least and the most of a squared distance, relative to the squared norms of
  // both; and for a number that has been raised by it, 4 margin / (1 - margin).
  float margin, margin_of_half;
  int64_t* codes;  // (n, levels); of a search for neighbors (n, beam_size)
  T* left;         // (n, d), or null
  T* distances;    // (n, beam_size) of the only level, or null: no search for neighbors
};

// Memory of one thread for kBeamRows rows of beam_size beams.
template <typename T>
struct BeamScratch {
  T *left, *next;               // (rows, beams, stride)
  float* centered;              // (rows, beams, stride)
  int32_t *codes, *next_codes;  // (rows, beams, levels)
};

}  // namespace km
