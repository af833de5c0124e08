// The nearest centroids of the rows of a block, by brute force. Shared by the E-step over all rows
// (brute_force-inl.h) and by the leaves of a tree of boxes (box_descent-inl.h).
#pragma once

#include "kernel/few/block-inl.h"

namespace km::KM_TARGET {
namespace {

// The nearest of the centroids compared so far: one vector of each kind for each vector of rows.
template <typename T>
struct Nearest {
  typename Lanes<T>::Vector distance[kVectors];  // squared; infinite before the first comparison
  typename Lanes<T>::Mask label[kVectors];       // which centroid: an integer in each lane

  Nearest() {
    for (int v = 0; v < kVectors; ++v) {
      distance[v] = typename Lanes<T>::Vector{} + kInfinityOf<T>;
      label[v] = typename Lanes<T>::Mask{};
    }
  }

  // Compares with C centroids from c on; strides as for measure. Only a smaller distance replaces
  // one, and centroids come in ascending order: ties go to the lowest index.
  template <int C, int D>
  void compare(const T* block, const T* centroids, int64_t c, int64_t of_centroid,
               int64_t of_feature) {
    using M = typename Lanes<T>::Mask;
    typename Lanes<T>::Vector squares[C][kVectors];
    measure<C, D>(block, centroids + c * of_centroid, D, of_centroid, of_feature, squares);
    for (int i = 0; i < C; ++i)
      for (int v = 0; v < kVectors; ++v) {
        const M closer = squares[i][v] < distance[v];
        distance[v] = closer ? squares[i][v] : distance[v];
        label[v] = closer ? M{} + static_cast<typename Lanes<T>::Int>(c + i) : label[v];
      }
  }
};

// The same, a number for each row.
template <typename T>
struct NearestOfRows {
  alignas(64) T distance[Lanes<T>::kRows];                    // squared
  alignas(64) typename Lanes<T>::Int label[Lanes<T>::kRows];  // 0 to count - 1
};

// Compares the rows of a block with count centroids, KM_CENTROIDS at a time: with kVectors vectors
// of rows, so many sums fill the registers of the instruction set. Always inline, since of_centroid
// and of_feature are constants of each caller. count is a reference, which leaves open to the
// compiler how many centroids are left for the second loop: knowing that these are fewer than
// KM_CENTROIDS, compilers unroll the loop, and the nearest centroids leave the registers.
template <int D, typename T>
[[gnu::always_inline]] inline void find_nearest_of_rows(
    const T* block,        // (D, kRows)
    const T* centroids,    // feature j of centroid c at c * of_centroid + j * of_feature
    const int64_t& count,  // centroids: at least 1
    int64_t of_centroid,   // numbers from one centroid to the next
    int64_t of_feature,    // numbers from one feature to the next
    NearestOfRows<T>& rows) {
  Nearest<T> nearest;
  int64_t c = 0;
  for (; c + KM_CENTROIDS <= count; c += KM_CENTROIDS)
    nearest.template compare<KM_CENTROIDS, D>(block, centroids, c, of_centroid, of_feature);
  for (; c < count; ++c)
    nearest.template compare<1, D>(block, centroids, c, of_centroid, of_feature);
  std::memcpy(rows.distance, nearest.distance, sizeof(rows.distance));
  std::memcpy(rows.label, nearest.label, sizeof(rows.label));
}

}  // namespace
}  // namespace km::KM_TARGET
