// What an E-step of sparse rows reads beside the rows. A product of a row with all centroids adds,
// for each number of the row, a line of the centroids' transpose:
//
//                         place 0   1   2  ..  count - 1
//   row  (3: 0.5)    column 3  [ ........................ ] · 0.5
//        (7: 2.0)  + column 7  [ ........................ ] · 2.0   = x·c of all c at once
#pragma once

#include <cstdint>

namespace km {

// Centroids made ready, by SparseCentroids in host/sparse_centroids.h. Centroid c has place c;
// places beyond k, which fill up sixteens, hold no centroid.
template <typename T>
struct SparsePlaces {
  int64_t k, d;           // centroids, features
  int64_t stride;         // d, above kFewFeatures filled up to a multiple of 16
  int64_t count;          // places: k filled up to a multiple of 16
  const T* columns;       // (d, count): feature j of all centroids; 0 where there is none
  const T* halves;        // (count): ½‖c‖²; infinity where there is none
  const T* norms;         // (count): ‖c‖; 0 where there is none
  const double* squares;  // (k): ‖c‖², of which halves and norms are rounded
  const T* centroids;     // (k, stride), filled up by zeros
};

// Memory of one thread; filled by sparse_e_step in host/sparse_e_step.cpp.
template <typename T>
struct SparseScratch {
  T* row;    // (stride), zeros: a row is written out here, and taken out again
  T* lower;  // (count): products, then lower bounds of scores
};

}  // namespace km
