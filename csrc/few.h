// The E-step for few features, and seeding: every distance is computed.
// Included by kernel.inc, once per instruction set.
//
// Rows are taken in blocks, transposed so that a vector holds one feature of several rows.
// Each distance is the same sum over the features in the same order, in whatever block,
// thread or batch a row is: labels depend on nothing else, and ties go to the lowest index.
#pragma once

#include <type_traits>

#include "kernel.h"
#include "rows.h"

namespace {

constexpr int kVectors = 4;     // per block: with KM_CENTROIDS, the accumulators in registers
constexpr int kPartialSum = 64;  // features added up before they join the total

template <typename T>
struct Lanes {
  using Int = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
  typedef T Vector __attribute__((vector_size(KM_VECTOR_BYTES)));
  typedef Int Mask __attribute__((vector_size(KM_VECTOR_BYTES)));
  static constexpr int kWidth = KM_VECTOR_BYTES / sizeof(T);
  static constexpr int kRows = kWidth * kVectors;
};

// Transposes up to kRows rows; missing ones repeat the last.
template <typename T>
void load_block(const km_rows& rows, int64_t first, int count, T* block) {
  constexpr int R = Lanes<T>::kRows;
  const T* x = static_cast<const T*>(rows.x);
  for (int s = 0; s < R; ++s) {
    const T* row = x + (first + least_of(s, count - 1)) * rows.row_stride;
    for (int64_t j = 0; j < rows.d; ++j) block[j * R + s] = row[j * rows.column_stride];
  }
  for (int s = 0; rows.cosine && s < R; ++s) to_unit_length(block + s, rows.d, R);
}

// Adds the squared distances of the rows of a block to KM_CENTROIDS centroids.
template <typename T>
inline void measure(const T* block, const T* centroids, int64_t d,
                    typename Lanes<T>::Vector (&total)[KM_CENTROIDS][kVectors]) {
  using V = typename Lanes<T>::Vector;
  constexpr int R = Lanes<T>::kRows, W = Lanes<T>::kWidth;
  for (int64_t begin = 0; begin < d; begin += kPartialSum) {
    const int64_t end = least_of<int64_t>(d, begin + kPartialSum);
    V sums[KM_CENTROIDS][kVectors] = {};
    for (int64_t j = begin; j < end; ++j) {
      V x[kVectors];
      for (int v = 0; v < kVectors; ++v)
        x[v] = *reinterpret_cast<const V*>(block + j * R + v * W);
      for (int c = 0; c < KM_CENTROIDS; ++c)
        for (int v = 0; v < kVectors; ++v) {
          const V difference = x[v] - centroids[c * d + j];
          sums[c][v] += difference * difference;
        }
    }
    for (int c = 0; c < KM_CENTROIDS; ++c)
      for (int v = 0; v < kVectors; ++v) total[c][v] += sums[c][v];
  }
}

template <typename T>
void scan(const km_rows& rows, const T* centroids, int64_t k, int64_t begin, int64_t end,
            const km_result& result, T* block) {
  using V = typename Lanes<T>::Vector;
  using M = typename Lanes<T>::Mask;
  using Int = typename Lanes<T>::Int;
  constexpr int R = Lanes<T>::kRows, W = Lanes<T>::kWidth;
  const int64_t d = rows.d;
  const bool in_place = rows.column_stride == 1 && !rows.cosine;
  double inertia = 0;
  int64_t changed = 0;
  for (int64_t first = begin; first < end; first += R) {
    const int count = static_cast<int>(least_of<int64_t>(R, end - first));
    load_block<T>(rows, first, count, block);
    V best[kVectors];
    M label[kVectors];
    for (int v = 0; v < kVectors; ++v) {
      best[v] = V{} + std::numeric_limits<T>::infinity();
      label[v] = M{};
    }
    for (int64_t c = 0; c < k; c += KM_CENTROIDS) {
      V distance[KM_CENTROIDS][kVectors] = {};
      measure<T>(block, centroids + c * d, d, distance);
      for (int i = 0; i < KM_CENTROIDS; ++i)
        for (int v = 0; v < kVectors; ++v) {
          const M closer = distance[i][v] < best[v];
          best[v] = closer ? distance[i][v] : best[v];
          label[v] = closer ? M{} + static_cast<Int>(c + i) : label[v];
        }
    }
    for (int s = 0; s < count; ++s) {
      const int64_t i = first + s;
      T distance = best[s / W][s % W];
      int64_t nearest = label[s / W][s % W];
      double weight = rows.weights ? rows.weights[i] : 1.0;
      if (rows.cosine) {
        distance /= 2;
        bool zero = true;
        for (int64_t j = 0; j < d && zero; ++j) zero = block[j * R + s] == 0;
        if (zero) {
          distance = 1;
          nearest = 0;
          weight = 0;
        }
      }
      changed += !result.warm || result.labels[i] != nearest;
      result.labels[i] = nearest;
      if (result.distances) static_cast<T*>(result.distances)[i] = distance;
      if (!result.sums) {
        inertia += distance;
        continue;
      }
      inertia += weight * distance;
      result.counts[nearest] += weight;
      double* sum = result.sums + nearest * d;
      if (in_place) {
        const T* row = static_cast<const T*>(rows.x) + i * rows.row_stride;
        for (int64_t j = 0; j < d; ++j) sum[j] += weight * row[j];
      } else {
        for (int64_t j = 0; j < d; ++j) sum[j] += weight * block[j * R + s];
      }
    }
  }
  *result.inertia = inertia;
  *result.changed = changed;
}

template <typename T>
void potentials(const km_rows& rows, const T* nearest, const T* candidates, int64_t m,
                int64_t begin, int64_t end, double* potential, T* block) {
  using V = typename Lanes<T>::Vector;
  constexpr int R = Lanes<T>::kRows, W = Lanes<T>::kWidth;
  for (int64_t first = begin; first < end; first += R) {
    const int count = static_cast<int>(least_of<int64_t>(R, end - first));
    load_block<T>(rows, first, count, block);
    V near[kVectors] = {}, weight[kVectors] = {};
    for (int s = 0; s < count; ++s) {
      near[s / W][s % W] = nearest[first + s];
      weight[s / W][s % W] = rows.weights ? static_cast<T>(rows.weights[first + s]) : T(1);
    }
    for (int64_t c = 0; c < m; c += KM_CENTROIDS) {
      V distance[KM_CENTROIDS][kVectors] = {};
      measure<T>(block, candidates + c * rows.d, rows.d, distance);
      for (int i = 0; i < KM_CENTROIDS; ++i) {
        V sum = {};
        for (int v = 0; v < kVectors; ++v)
          sum += weight[v] * (distance[i][v] < near[v] ? distance[i][v] : near[v]);
        for (int lane = 0; lane < W; ++lane) potential[c + i] += sum[lane];
      }
    }
  }
}

template <typename T>
void lower(const km_rows& rows, T* nearest, const T* center, int64_t begin, int64_t end,
           T* block) {
  using V = typename Lanes<T>::Vector;
  constexpr int R = Lanes<T>::kRows, W = Lanes<T>::kWidth;
  for (int64_t first = begin; first < end; first += R) {
    const int count = static_cast<int>(least_of<int64_t>(R, end - first));
    load_block<T>(rows, first, count, block);
    V distance[KM_CENTROIDS][kVectors] = {};
    measure<T>(block, center, rows.d, distance);
    for (int s = 0; s < count; ++s)
      nearest[first + s] = least_of(nearest[first + s], distance[0][s / W][s % W]);
  }
}

}  // namespace
