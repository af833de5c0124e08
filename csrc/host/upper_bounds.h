// Upper bounds on the distance of each row to its centroid, and how far the centroids move.
#pragma once

#include <cstdint>
#include <vector>

#include "host/memory.h"
#include "host/policy.h"
#include "kernel/many/search.h"

namespace km {

// Makes UpperBounds (Elkan's and Hamerly's u(x)). The kernel writes the distance of each row that
// it measures; the drift of a centroid, ‖c - c'‖ since the last call, is what the triangle
// inequality adds for rows that it does not measure.
template <typename T>
class KeptUpperBounds {
 public:
  // Finds out how far the centroids (k, d) have moved since the last call, and remembers them.
  // Kept: bounds of the last call hold; else the drift is 0, since there is nothing to add it to.
  void follow(const T* centroids, const Places<T>& places, bool kept, int threads);
  // The drift (k) of each centroid, by index, at least as far as it moved.
  const std::vector<double>& drift() const { return drift_; }

  // For n rows. Readable: bounds of the last call may prove labels in this one.
  UpperBounds make(const Places<T>& places, int64_t n, const LastSearch& last, bool skips_rows);

  // The number of rows or of centroids is another one now.
  void release();

 private:
  Array<float> reach_;                 // (n)
  std::vector<T> previous_;            // (k, d): centroids of the last call
  std::vector<double> drift_;          // (k), by index
  std::vector<float> drift_of_place_;  // (count)
};

}  // namespace km
