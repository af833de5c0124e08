// Makes codebooks ready for beam searches, and splits the rows over threads. A search for
// neighbors is one of a single level.
#pragma once

#include "kernel/beam/beams.h"

namespace km {

// beams has what km_beam_search and km_neighbors are given; the rest is filled in. codebooks are
// (levels, k, d), contiguous.
template <typename T>
void beam_search(Beams<T> beams, const T* codebooks, int64_t n, int threads);

}  // namespace km
