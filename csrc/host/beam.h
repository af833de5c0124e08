// Beam searches, and searches for neighbors, which are beam searches of a single level: codebooks
// are made ready, rows split over threads. See km_beam_search and km_neighbors.
#pragma once

#include "kernel/beam/beams.h"

namespace km {

// Searches for the codes of x (n, d) in codebooks (levels, k, d), both contiguous. result.distances
// is null, or sizes.levels is 1 and result.residuals is null.
template <typename T>
void beam_search(const BeamSizes& sizes, const T* x, const T* codebooks,
                 const BeamResult<T>& result, int threads);

}  // namespace km
