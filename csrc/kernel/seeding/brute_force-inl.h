// Seeding: every distance is computed.
#pragma once

#include "kernel/few/block-inl.h"

namespace km::KM_TARGET {
namespace {

// D is d, or 0 where it is not known to the compiler.
template <typename T, int D>
void potentials(const km_rows& rows, const T* nearest, const T* candidates, int64_t m,
                int64_t begin, int64_t end, double* potential, uint16_t* reached, T* block) {
  using V = typename Lanes<T>::Vector;
  using M = typename Lanes<T>::Mask;
  using Int = typename Lanes<T>::Int;
  constexpr int R = Lanes<T>::kRows, W = Lanes<T>::kWidth;
  for (int64_t first = begin; first < end; first += R) {
    const int count = static_cast<int>(least_of<int64_t>(R, end - first));
    load_block<T, D>(rows_of(rows, first, count, block + R * rows.d), block);
    V near[kVectors], weight[kVectors];
    M closer_to[kVectors] = {};
    const bool plain = count == R && !rows.weights;
    alignas(64) T nearest_of[R] = {}, weights[R] = {};
    for (int s = 0; !plain && s < count; ++s) {
      nearest_of[s] = nearest[first + s];
      weights[s] = rows.weights ? static_cast<T>(rows.weights[first + s]) : T(1);
    }
    const T* const near_from = plain ? nearest + first : nearest_of;
    for (int v = 0; v < kVectors; ++v) {
      std::memcpy(&near[v], near_from + v * W, sizeof(V));
      weight[v] = plain ? V{} + T(1) : *reinterpret_cast<const V*>(weights + v * W);
    }
    for (int64_t c = 0; c < m; c += KM_CENTROIDS) {
      V distance[KM_CENTROIDS][kVectors];
      measure<KM_CENTROIDS, D>(block, candidates + c * rows.d, rows.d, rows.d, 1, distance);
      for (int i = 0; i < KM_CENTROIDS; ++i) {
        V sum = {};
        for (int v = 0; v < kVectors; ++v) {
          const M closer = distance[i][v] < near[v];
          sum += weight[v] * (closer ? distance[i][v] : near[v]);
          if (c + i < 16) closer_to[v] |= closer & (M{} + (Int(1) << (c + i)));
        }
        typename Lanes<T>::Doubles lanes;
        std::memcpy(&lanes, potential + (c + i) * kLanes, sizeof(lanes));
        lanes += __builtin_convertvector(sum, typename Lanes<T>::Doubles);
        std::memcpy(potential + (c + i) * kLanes, &lanes, sizeof(lanes));
      }
    }
    Int bits[R];
    std::memcpy(bits, closer_to, sizeof(bits));
    if (count == R)  // a loop that compilers make vectors of
      for (int s = 0; s < R; ++s) reached[first + s] = static_cast<uint16_t>(bits[s]);
    else
      for (int s = 0; s < count; ++s) reached[first + s] = static_cast<uint16_t>(bits[s]);
  }
}

// For features up to kMeasuredFeatures; see Kernel::lower.
template <typename T>
void lower(const km_rows& rows, T* nearest, const T* center, int64_t begin, int64_t end, T* block) {
  using V = typename Lanes<T>::Vector;
  constexpr int R = Lanes<T>::kRows, W = Lanes<T>::kWidth;
  for (int64_t first = begin; first < end; first += R) {
    const int count = static_cast<int>(least_of<int64_t>(R, end - first));
    load_block<T>(rows_of(rows, first, count, block + R * rows.d), block);
    V distance[1][kVectors];
    measure<1, 0>(block, center, rows.d, rows.d, 1, distance);
    for (int s = 0; s < count; ++s)
      nearest[first + s] = least_of(nearest[first + s], distance[0][s / W][s % W]);
  }
}

}  // namespace
}  // namespace km::KM_TARGET
