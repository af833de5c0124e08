// Where each centroid stands.
#pragma once

#include <cstdint>
#include <vector>

#include "host/memory.h"
#include "kernel/many/search.h"

namespace km {

// Makes Places. Kernels take centroids by place, sixteen at a time, and lower bounds are kept for
// groups of consecutive places: the tighter a group, the more its one bound discards. So
// neighbors get places next to each other, and this order stays while bounds are kept.
//
//   place   0  1  2 | 3  4  5 | 6  7  8 | 9  -  -  ..     k = 10 centroids in groups of 3;
//   index   4  0  7 | 1  9  3 | 2  8  5 | 6  -  -  ..     places from k to count = 16 are empty
template <typename T>
class CentroidPlaces {
 public:
  // Place p holds centroid p.
  void order_by_index(int64_t k);
  // Groups of so many neighbors, by coordinates (k, width).
  void order_in_groups(const std::vector<float>& coordinates, int64_t width, int64_t k,
                       int64_t together);

  // Copies centroids (k, stride of d) to their places, in the order that was chosen last, which has
  // to be one of k centroids. Unscreened: no bounds are to be used, every centroid is tried, and
  // there are no places to fill up. Valid until the next call.
  Places<T> make(const std::vector<T>& centroids, int64_t k, int64_t d, bool screened);

 private:
  std::vector<int32_t> index_, position_;
  Array<T> centroids_;  // (count, stride), or (k, stride) where count is 0
};

}  // namespace km
