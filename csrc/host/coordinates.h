// The coordinates in which centroids are compared with rows, and the margins for their rounding.
#pragma once

#include <cstdint>
#include <vector>

#include "host/memory.h"
#include "kernel/many/search.h"

namespace km {

// Orthonormal directions that keep most of the variance of the rows (a principal subspace). What a
// row leaves out of them enters as one number more, by Cauchy and Schwarz; see kernel/many.
struct Directions {
  int64_t count = 0;          // p, with p + 1 a multiple of 16; 0: coordinates are the features
  std::vector<float> basis;   // (p / 16 rounded up, d, 16): panels of sixteen directions
  std::vector<float> center;  // (d): the origin; empty: the mean of the centroids
};

// Packs directions from basis (p, d), whose rows are orthonormal, and center (d), null where p is
// 0, into panels.
Directions directions_of(const float* basis, const float* center, int64_t p, int64_t d);

// Makes the Coordinates of the centroids of one call, in three steps: the axes depend on the
// features alone, the coordinates depend on the axes, and the places on the coordinates (neighbors
// get places next to each other).
class CentroidCoordinates {
 public:
  // Chooses origin and axes for centroids (k, stride of d), and the margins for rounding. The
  // result has no coordinates of centroids yet.
  template <typename T>
  const Coordinates& choose_axes(const Directions& directions, const std::vector<T>& centroids,
                                 int64_t k, int64_t d);

  // Measures centroids (k, stride of d) along the axes, in the order of their indices. Returns
  // whether all squared norms are below kTooLarge; above, sums of the bounds could overflow.
  template <typename T>
  bool measure(const std::vector<T>& centroids, int64_t k, int64_t d, int threads);

  // The leading coordinates (k, leading_width) of the centroids, by index, by which neighbors are
  // found.
  int64_t leading_width() const;
  std::vector<float> leading() const;

  // Puts the coordinates into places: place p gets centroid index[p], and places from k to count
  // get a score of -infinity. Valid until the next call of choose_axes.
  const Coordinates& place(const int32_t* index, int64_t count);

 private:
  Coordinates axes_ = {};
  int64_t k_ = 0;
  std::vector<float> center_;  // (stride): features from d on are 0
  Array<int32_t> measured_;    // (k, pitch): by index
  Array<float> norms_;         // (k): squared, by index
  Array<int32_t> placed_;      // (count, pitch): Coordinates::of_centroids
  Array<float> units_;         // (count): length of a whole number, by place
  Array<float> offsets_;       // (count): -½‖c‖², rounded up, by place
};

}  // namespace km
