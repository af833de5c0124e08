// Blocks of rows of few features, transposed so that a vector holds one feature of several rows.
// Each distance is the same sum over the features in the order of README.md, in whatever block,
// thread or batch a row is.
#pragma once

#include "kernel/rows/load-inl.h"
#include "kernel/simd/lanes-inl.h"
#include "kernel/table.h"

namespace km::KM_TARGET {
namespace {

// Sums of squares of differences(j, v), feature j of the rows of vector v, over lanes kFirst,
// kFirst
// + kStep, .. of sixteen: features 16 apart are added up in order, then the lanes by halves. There
// are no more than kFeaturesInPart of them.
template <int kFirst, int kStep, int N, typename V, typename Differences>
inline void sum_lanes(int64_t d, const Differences& differences, V (&sum)[N]) {
  for (V& of_rows : sum) of_rows = V{};
  if constexpr (kStep == kLanes) {
    for (int64_t j = kFirst; j < d; j += kLanes)
      for (int v = 0; v < N; ++v) {
        const V difference = differences(j, v);
        sum[v] = fused(difference, difference, sum[v]);
      }
  } else {
    sum_lanes<kFirst, 2 * kStep>(d, differences, sum);
    if (kFirst + kStep >= d) return;  // others are zero
    V others[N];
    sum_lanes<kFirst + kStep, 2 * kStep>(d, differences, others);
    for (int v = 0; v < N; ++v) sum[v] += others[v];
  }
}

// Squared distances of the rows of a block to C centroids, feature j of centroid c at c *
// of_centroid + j * of_feature; D is d, or 0 where it is not known to the compiler.
template <int C, int D, typename T>
inline void measure(const T* block, const T* centroids, int64_t d, int64_t of_centroid,
                    int64_t of_feature, typename Lanes<T>::Vector (&distance)[C][kVectors]) {
  using V = typename Lanes<T>::Vector;
  constexpr int R = Lanes<T>::kRows, W = Lanes<T>::kWidth;
  if (D) d = D;
  auto row = [block](int64_t j, int v) -> const V& {
    return *reinterpret_cast<const V*>(block + j * R + v * W);
  };
  if (d > kFewFeatures) {
    // Five sums of each are alive; one centroid alone pays for keeping them in registers.
    constexpr int kAtOnce = KM_VECTOR_BYTES >= 64 || C > 1 ? kVectors : kVectors / 2;
    for (int c = 0; c < C; ++c)
      for (int first = 0; first < kVectors; first += kAtOnce) {
        V sums[kAtOnce];
        sum_lanes<0, 1>(
            d,
            [&](int64_t j, int v) -> V {
              return row(j, first + v) - centroids[c * of_centroid + j * of_feature];
            },
            sums);
        for (int v = 0; v < kAtOnce; ++v) distance[c][first + v] = sums[v];
      }
    return;
  }
  V sums[C][kVectors] = {};
  for (int64_t j = 0; j < d; ++j) {
    V x[kVectors];
    for (int v = 0; v < kVectors; ++v) x[v] = row(j, v);
    for (int c = 0; c < C; ++c)
      for (int v = 0; v < kVectors; ++v) {
        const V difference = x[v] - centroids[c * of_centroid + j * of_feature];
        sums[c][v] = fused(difference, difference, sums[c][v]);
      }
  }
  for (int c = 0; c < C; ++c)
    for (int v = 0; v < kVectors; ++v) distance[c][v] = sums[c][v];
}

// Scales the rows of a block to unit length; rows of zeros stay.
template <int D, typename T>
inline void to_unit_lengths(T* block, int64_t d) {
  using V = typename Lanes<T>::Vector;
  constexpr int R = Lanes<T>::kRows, W = Lanes<T>::kWidth;
  if (D) d = D;
  auto row = [block](int64_t j, int v) -> V& {
    return *reinterpret_cast<V*>(block + j * R + v * W);
  };
  V largest[kVectors] = {}, squares[1][kVectors];
  for (int64_t j = 0; j < d; ++j)
    for (int v = 0; v < kVectors; ++v) largest[v] = larger_of(largest[v], magnitude(row(j, v)));
  for (int v = 0; v < kVectors; ++v) {
    const V scale = scale_of<T, typename Lanes<T>::Mask>(largest[v]);
    for (int64_t j = 0; j < d; ++j) row(j, v) *= scale;
  }
  const T origin = 0;
  measure<1, D>(block, &origin, d, 0, 0, squares);
  for (int v = 0; v < kVectors; ++v) {
    const V norm = largest[v] > 0 ? square_root(squares[0][v]) : V{} + T(1);
    for (int64_t j = 0; j < d; ++j) row(j, v) /= norm;
  }
}

// Transposes up to kRows rows of T; missing ones repeat the last.
template <typename T, int D = 0>
void load_block(const km_rows& rows, T* block) {
  constexpr int R = Lanes<T>::kRows;
  const int64_t d = D ? D : rows.d, count = rows.n;
  const T* x = static_cast<const T*>(rows.x);
  if (D && count == R && rows.column_stride == 1 && rows.row_stride == D) {
    for (int s = 0; s < R; ++s)  // a loop that compilers make shuffles of
      for (int j = 0; j < D; ++j) block[j * R + s] = x[s * D + j];
  } else {
    int64_t done = 0;
    if constexpr (std::is_same_v<T, float> && R % kLanes == 0) {
      for (; rows.column_stride == 1 && done + kLanes <= d; done += kLanes)
        for (int s = 0; s < R; s += kLanes) {
          const T* some[kLanes];
          for (int i = 0; i < kLanes; ++i)
            some[i] = x + least_of<int64_t>(s + i, count - 1) * rows.row_stride + done;
          transpose(some, block + done * R + s, R);
        }
    }
    for (int s = 0; s < R; ++s) {
      const T* row = x + least_of<int64_t>(s, count - 1) * rows.row_stride;
      for (int64_t j = done; j < d; ++j) block[j * R + s] = row[j * rows.column_stride];
    }
  }
  if (rows.cosine) to_unit_lengths<D>(block, d);
}

}  // namespace
}  // namespace km::KM_TARGET
