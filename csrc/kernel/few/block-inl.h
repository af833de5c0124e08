// Blocks of rows of few features, transposed so that a vector holds one feature of several rows. A
// block has kRows rows in kVectors vectors; drawn for d = 3 and AVX2 floats, whose vectors have
// eight lanes, so that a block has 32 rows 0 to 31:
//
//                vector 0        vector 1        vector 2        vector 3
//   feature 0  | x0  .. x7     | x8  .. x15    | x16 .. x23    | x24 .. x31    |
//   feature 1  | y0  .. y7     | y8  .. y15    | y16 .. y23    | y24 .. y31    |
//   feature 2  | z0  .. z7     | z8  .. z15    | z16 .. z23    | z24 .. z31    |
//                                                       (d, kRows) in memory, line after line
//
// A lane computes with its row as one row alone would: each distance is the same sum over the
// features, in the order that csrc/README.md calls the deciding distance, in whatever block, thread
// or batch a row is.
#pragma once

#include "kernel/rows/load-inl.h"
#include "kernel/simd/lanes-inl.h"
#include "kernel/table.h"

namespace km::KM_TARGET {
namespace {

// Σ_j differences(j, v)², differences(j, v) being feature j of the rows of vector v, in the order
// of the deciding distance of more than kFewFeatures features: sixteen partial sums, each of
// features 16 apart in ascending order, are added up by halves (0 and 8, 1 and 9, .. then 0 and 4,
// ..). This is the part of partial sums kFirst, kFirst + kStep, ..; sixteen are kFirst 0 and
// kStep 1. d: at most kFeaturesInPart, beyond which the deciding distance adds up parts.
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
    if (kFirst + kStep >= d) return;  // the second half has no features, and a sum of zero
    V second_half[N];
    sum_lanes<kFirst + kStep, 2 * kStep>(d, differences, second_half);
    for (int v = 0; v < N; ++v) sum[v] += second_half[v];
  }
}

// Squared distances ‖x - c‖² of the rows of a block to C centroids. D is d, or 0 where d is not
// known to the compiler. C × kVectors sums are computed side by side: enough that none waits for
// the last addition, few enough that all stay in registers.
template <int C, int D, typename T>
inline void measure(const T* block,       // (d, kRows)
                    const T* centroids,   // feature j of centroid c at c * of_centroid +
                                          // j * of_feature: one by one, or in columns
                    int64_t d,            // features: 1 to kMeasuredFeatures
                    int64_t of_centroid,  // numbers from one centroid to the next
                    int64_t of_feature,   // numbers from one feature to the next
                    typename Lanes<T>::Vector (&distance)[C][kVectors]) {
  using V = typename Lanes<T>::Vector;
  constexpr int R = Lanes<T>::kRows, W = Lanes<T>::kWidth;
  if (D) d = D;
  auto row = [block](int64_t j, int v) -> const V& {
    return *reinterpret_cast<const V*>(block + j * R + v * W);
  };
  if (d > kFewFeatures) {
    // Adding by halves keeps five sums of each vector alive. With 16 registers, the sums of two
    // vectors fit; four vectors then read a centroid twice, which pays where C is 1.
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

// Scales the rows of a block to unit length, in the steps that csrc/README.md calls the
// normalization for cosine: first by a power of two, so that no square overflows or loses digits,
// then by √ Σ x_j². Rows of zeros stay.
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
  const T origin = 0;  // with both strides 0, every feature of the origin
  measure<1, D>(block, &origin, d, 0, 0, squares);
  for (int v = 0; v < kVectors; ++v) {
    const V norm = largest[v] > 0 ? square_root(squares[0][v]) : V{} + T(1);
    for (int64_t j = 0; j < d; ++j) row(j, v) /= norm;
  }
}

// Transposes rows to a block, and scales them to unit length for cosine; fewer than kRows are
// followed by copies of the last, so that every lane computes with numbers that exist.
template <typename T, int D = 0>
void load_block(const km_rows& rows,  // 1 to kRows rows of T (see rows_of)
                T* block) {           // (d, kRows), written
  constexpr int R = Lanes<T>::kRows;
  const int64_t d = D ? D : rows.d, count = rows.n;
  const T* x = row_at<T>(rows, 0);
  if (D && count == R && rows.column_stride == 1 && rows.row_stride == D) {
    for (int s = 0; s < R; ++s)  // a loop that compilers make shuffles of
      for (int j = 0; j < D; ++j) block[j * R + s] = x[s * D + j];
  } else {
    int64_t done = 0;  // features that are written, sixteen rows × sixteen features at a time
    if constexpr (std::is_same_v<T, float> && R % kLanes == 0) {
      for (; rows.column_stride == 1 && done + kLanes <= d; done += kLanes)
        for (int s = 0; s < R; s += kLanes) {
          const T* row[kLanes];
          for (int i = 0; i < kLanes; ++i)
            row[i] = x + least_of<int64_t>(s + i, count - 1) * rows.row_stride + done;
          transpose(row, block + done * R + s, R);
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
