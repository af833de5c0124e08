// The E-step for few features: every distance is computed. Ties go to the lowest index.
#pragma once

#include "kernel/few/block-inl.h"

namespace km::KM_TARGET {
namespace {

template <typename T>
struct Nearest {
  typename Lanes<T>::Vector distance[kVectors];
  typename Lanes<T>::Mask label[kVectors];

  Nearest() {
    for (int v = 0; v < kVectors; ++v) {
      distance[v] = typename Lanes<T>::Vector{} + kInfinityOf<T>;
      label[v] = typename Lanes<T>::Mask{};
    }
  }

  // Compares with C centroids from c on; see measure.
  template <int C, int D>
  void compare(const T* block, const T* centroids, int64_t c, int64_t of_centroid,
               int64_t of_feature) {
    using M = typename Lanes<T>::Mask;
    typename Lanes<T>::Vector found[C][kVectors];
    measure<C, D>(block, centroids + c * of_centroid, D, of_centroid, of_feature, found);
    for (int i = 0; i < C; ++i)
      for (int v = 0; v < kVectors; ++v) {
        const M closer = found[i][v] < distance[v];
        distance[v] = closer ? found[i][v] : distance[v];
        label[v] = closer ? M{} + static_cast<typename Lanes<T>::Int>(c + i) : label[v];
      }
  }
};

// sums (copies, k, terms): rows take the copies by turns, so that additions need not wait for
// each other; copies is a power of two.
template <typename T, int D>
void scan(const km_rows& rows, const T* centroids, int64_t k, int64_t begin, int64_t end,
          const Result<T>& result, T* block, double* sums, int64_t copies) {
  constexpr int R = Lanes<T>::kRows;
  constexpr int kTerms = terms_of(D);
  double inertia[8] = {};
  T finite[8] = {};
  int64_t changed = 0;
  alignas(64) T distance[R];
  alignas(64) typename Lanes<T>::Int label[R];
  alignas(64) double weight[R], term[R * kTerms] = {};
  for (int64_t first = begin; first < end; first += R) {
    const int count = static_cast<int>(least_of<int64_t>(R, end - first));
    const km_rows some = rows_of(rows, first, count, block + R * D);
    load_block<T, D>(some, block);
    Nearest<T> nearest;
    int64_t c = 0;
    for (; c + KM_CENTROIDS <= k; c += KM_CENTROIDS)
      nearest.template compare<KM_CENTROIDS, D>(block, centroids, c, D, 1);
    for (; c < k; ++c) nearest.template compare<1, D>(block, centroids, c, D, 1);
    std::memcpy(distance, nearest.distance, sizeof(distance));
    std::memcpy(label, nearest.label, sizeof(label));

    for (int s = 0; s < R; ++s) weight[s] = 1;
    if (rows.weights) std::memcpy(weight, rows.weights + first, size_t(count) * sizeof(double));
    for (int s = 0; rows.cosine && s < R; ++s) {
      bool zero = true;
      for (int j = 0; j < D; ++j) zero &= block[j * R + s] == 0;
      distance[s] = zero ? 1 : distance[s] / 2;
      if (zero) label[s] = 0, weight[s] = 0;
    }
    int64_t* labels = result.labels + first;
    if (result.warm)
      for (int s = 0; s < count; ++s) changed += labels[s] != label[s];
    else
      changed += count;
    for (int s = 0; s < count; ++s) labels[s] = label[s];
    if (result.distances)
      std::memcpy(result.distances + first, distance, size_t(count) * sizeof(T));
    if (!result.sums) {
      for (int s = 0; s < R; s += 8)
        for (int l = 0; l < 8; ++l) finite[l] += 0 * distance[s + l];  // or NaN
      continue;
    }
    for (int s = count; s < R; ++s) weight[s] = 0, distance[s] = 0;
    for (int s = 0; s < R; s += 8)
      for (int l = 0; l < 8; ++l) inertia[l] += weight[s + l] * distance[s + l];
    if (!rows.weights && !rows.cosine && some.column_stride == 1) {
      const T* row = static_cast<const T*>(some.x);
      for (int s = 0; s < count; ++s, row += some.row_stride) {
        double* sum = sums + ((s & (copies - 1)) * k + label[s]) * kTerms;
        for (int j = 0; j < D; ++j) sum[j] += row[j];
        sum[D] += 1;
      }
      continue;
    }
    for (int s = 0; s < R; ++s) {
      for (int j = 0; j < D; ++j) term[s * kTerms + j] = weight[s] * block[j * R + s];
      term[s * kTerms + D] = weight[s];
    }
    for (int s = 0; s < count; ++s) {
      double* sum = sums + ((s & (copies - 1)) * k + label[s]) * kTerms;
      for (int j = 0; j < kTerms; ++j) sum[j] += term[s * kTerms + j];
    }
  }
  *result.inertia = 0;
  for (double part : inertia) *result.inertia += part;
  for (T part : finite) *result.inertia += double(part);
  *result.changed = changed;
  if (!result.sums) return;
  for (int64_t c = 0; c < k; ++c) {
    for (int64_t copy = 0; copy < copies; ++copy) {
      const double* sum = sums + (copy * k + c) * kTerms;
      for (int j = 0; j < D; ++j) result.sums[c * D + j] += sum[j];
      result.counts[c] += sum[D];
    }
  }
}

}  // namespace
}  // namespace km::KM_TARGET
