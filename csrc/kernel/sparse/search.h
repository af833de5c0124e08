// Centroids made ready for a search of sparse rows.
#pragma once

#include <cstdint>

namespace km {

template <typename T>
struct SparsePlaces {
  int64_t k, d, stride;   // stride: d, above kFewFeatures filled up to a multiple of 16, by zeros
  int64_t count;          // of places: k filled up to a multiple of 16
  const T* columns;       // (d, count): feature by feature
  const T* halves;        // (count): ½‖c‖²; infinity where there is no centroid
  const T* norms;         // (count): ‖c‖
  const double* squares;  // (k): ‖c‖²
  const T* centroids;     // (k, stride)
};

// Memory of one thread.
template <typename T>
struct SparseScratch {
  T* row;    // (stride), zeros
  T* lower;  // (count)
};

}  // namespace km
