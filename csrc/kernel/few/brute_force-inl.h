// The E-step for few features by brute force: every distance is measured. It serves calls without
// a workspace, the cosine metric, and numbers too large for a tree of boxes (box_descent-inl.h).
#pragma once

#include "kernel/few/nearest-inl.h"
#include "kernel/few/sums-inl.h"

namespace km::KM_TARGET {
namespace {

// The weights of count rows of a block: 1 where rows have none. Lanes without a row get 1 too.
template <typename T>
inline void read_weights(const km_rows& rows, int64_t first, int count,
                         double (&weights)[Lanes<T>::kRows]) {
  for (int s = 0; s < Lanes<T>::kRows; ++s) weights[s] = 1;
  if (rows.weights) std::memcpy(weights, rows.weights + first, size_t(count) * sizeof(double));
}

// Cosine distances of rows of unit length from squared ones: 1 - cos = ‖x - c‖² / 2. A row of zeros
// has no direction: by definition its distance is 1, its label 0 and its weight 0.
template <int D, typename T>
inline void to_cosine(const T* block, NearestOfRows<T>& nearest,
                      double (&weights)[Lanes<T>::kRows]) {
  using V = typename Lanes<T>::Vector;
  using M = typename Lanes<T>::Mask;
  constexpr int R = Lanes<T>::kRows, W = Lanes<T>::kWidth;
  for (int v = 0; v < kVectors; ++v) {
    M zero = M{} == M{};
    for (int j = 0; j < D; ++j) zero &= vector_at(block + j * R + v * W) == V{};
    const V half = vector_at(nearest.distance + v * W) / 2;
    const V distance = zero ? V{} + T(1) : half;
    std::memcpy(nearest.distance + v * W, &distance, sizeof(distance));
    for (unsigned zeros = lane_bits<T>(zero); zeros; zeros &= zeros - 1) {
      const int s = v * W + __builtin_ctz(zeros);
      nearest.label[s] = 0;
      weights[s] = 0;
    }
  }
}

// Writes the labels of count rows from row first on. Returns how many labels differ from the labels
// of the last call; all count where there was no last call.
template <typename T>
inline int64_t note_labels(const Result<T>& result, int64_t first, int count,
                           const typename Lanes<T>::Int* label) {
  int64_t* const labels = result.labels + first;
  int64_t changed = 0;
  if (result.warm)
    for (int s = 0; s < count; ++s) changed += labels[s] != label[s];
  else
    changed = count;
  for (int s = 0; s < count; ++s) labels[s] = label[s];
  return changed;
}

// Adds count rows to the sums of their clusters, read where they are: continuous rows of weight 1
// under the Euclidean metric. A row's features are next to each other there, as its terms are: one
// vector adds several of them.
template <int D, typename T>
inline void add_rows_in_place(const km_rows& rows, int count, const typename Lanes<T>::Int* label,
                              const SumCopies& sums) {
  const T* row = row_at<T>(rows, 0);
  for (int s = 0; s < count; ++s, row += rows.row_stride) {
    double* const terms = terms_at<D>(sums, s, label[s]);
    for (int j = 0; j < D; ++j) terms[j] += row[j];
    terms[D] += 1;
  }
}

// The same for every other kind of rows, from their block: all products w x come first, in loops
// over rows that compilers make vectors of, then the additions, in loops over features.
template <int D, typename T>
inline void add_rows_of_block(const T* block, int count, const double* weights,  // (kRows)
                              const typename Lanes<T>::Int* label,
                              double* products,  // (kRows, terms_of(D)): zeros after w
                              const SumCopies& sums) {
  constexpr int R = Lanes<T>::kRows, kTerms = terms_of(D);
  for (int s = 0; s < R; ++s) {
    for (int j = 0; j < D; ++j) products[s * kTerms + j] = weights[s] * block[j * R + s];
    products[s * kTerms + D] = weights[s];
  }
  for (int s = 0; s < count; ++s) {
    double* const terms = terms_at<D>(sums, s, label[s]);
    for (int j = 0; j < kTerms; ++j) terms[j] += products[s * kTerms + j];
  }
}

// See Kernel::scan. The sums of each copy, lane and cluster are added up in the order of the rows.
// One block of rows at a time passes all steps while it is in a first-level cache.
template <typename T, int D>
void scan(const km_rows& rows, const T* centroids, int64_t begin, int64_t end,
          const Result<T>& result, T* block, const SumCopies& sums) {
  constexpr int R = Lanes<T>::kRows;
  const int64_t k = sums.k;
  double inertia[kSumLanes] = {};
  T not_finite[kSumLanes] = {};  // Σ 0 ‖x - c‖²: 0, or NaN once a distance is not finite
  int64_t changed = 0;
  NearestOfRows<T> nearest;
  alignas(64) double weights[R], products[R * terms_of(D)] = {};
  for (int64_t first = begin; first < end; first += R) {
    const int count = static_cast<int>(least_of<int64_t>(R, end - first));
    const km_rows batch = rows_of(rows, first, count, block + R * D);
    load_block<T, D>(batch, block);
    find_nearest_of_rows<D>(block, centroids, k, D, 1, nearest);
    read_weights<T>(rows, first, count, weights);
    if (rows.cosine) to_cosine<D>(block, nearest, weights);
    changed += note_labels(result, first, count, nearest.label);
    if (result.distances)
      std::memcpy(result.distances + first, nearest.distance, size_t(count) * sizeof(T));
    if (!result.sums) {
      for (int s = 0; s < R; s += kSumLanes)
        for (int i = 0; i < kSumLanes; ++i) not_finite[i] += 0 * nearest.distance[s + i];
      continue;
    }
    for (int s = count; s < R; ++s) weights[s] = 0, nearest.distance[s] = 0;
    for (int s = 0; s < R; s += kSumLanes)
      for (int i = 0; i < kSumLanes; ++i) inertia[i] += weights[s + i] * nearest.distance[s + i];
    if (!rows.weights && !rows.cosine && batch.column_stride == 1)
      add_rows_in_place<D, T>(batch, count, nearest.label, sums);
    else
      add_rows_of_block<D>(block, count, weights, nearest.label, products, sums);
  }
  *result.inertia = 0;
  for (double lane : inertia) *result.inertia += lane;
  for (T lane : not_finite) *result.inertia += double(lane);
  *result.changed = changed;
  if (result.sums) reduce_copies<D>(sums, result);
}

}  // namespace
}  // namespace km::KM_TARGET
