// The E-step for few features, and seeding: every distance is computed.
// Included by kernel.inc, once per instruction set.
//
// Rows are taken in blocks, transposed so that a vector holds one feature of several rows.
// Each distance is the same sum over the features in the order of README.md, in whatever block,
// thread or batch a row is: labels depend on nothing else, and ties go to the lowest index.
#pragma once

#include <type_traits>

#include "kernel.h"
#include "rows.h"

namespace {

constexpr int kVectors = 4;     // per block: with KM_CENTROIDS, the accumulators in registers

template <typename T>
struct Lanes {
  using Int = IntOf<T>;
  typedef T Vector __attribute__((vector_size(KM_VECTOR_BYTES)));
  typedef Int Mask __attribute__((vector_size(KM_VECTOR_BYTES)));
  typedef double Doubles __attribute__((vector_size(KM_VECTOR_BYTES / sizeof(T) * 8)));
  static constexpr int kWidth = KM_VECTOR_BYTES / sizeof(T);
  static constexpr int kRows = kWidth * kVectors;
};

// Sums of squares of differences(j, v), feature j of the rows of vector v, over lanes kFirst, kFirst
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

// Squared distances of the rows of a block to C centroids, feature j of centroid c at c * of_centroid +
// j * of_feature; D is d, or 0 where it is not known to the compiler.
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
    for (int v = 0; v < kVectors; ++v) largest[v] = larger_of(largest[v], size_of(row(j, v)));
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

template <typename T>
struct Nearest {
  typename Lanes<T>::Vector distance[kVectors];
  typename Lanes<T>::Mask label[kVectors];

  Nearest() {
    for (int v = 0; v < kVectors; ++v) {
      distance[v] = typename Lanes<T>::Vector{} + std::numeric_limits<T>::infinity();
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
          const km_result& result, T* block, double* sums, int64_t copies) {
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
      std::memcpy(static_cast<T*>(result.distances) + first, distance, size_t(count) * sizeof(T));
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

// For features up to kMeasuredFeatures; see km_kernel::lower.
template <typename T>
void lower(const km_rows& rows, T* nearest, const T* center, int64_t begin, int64_t end,
           T* block) {
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
