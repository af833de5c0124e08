// One level of a beam search for a few rows: which choices are nearest, by the deciding distance.
// Each row has beams, vectors v, and each choice leaves v - c. Up to kFewFeatures all choices are
// measured; above, screen-inl.h hands over the choices that scores cannot discard.
#pragma once

#include "kernel/beam/beams.h"
#include "kernel/beam/choices-inl.h"
#include "kernel/few/block-inl.h"

namespace km::KM_TARGET {
namespace {

// Made by BeamBlock::level_of.
template <typename T>
struct Level {
  const Beams<T>& search;
  const int64_t level;     // 0 to levels - 1
  const T* const vectors;  // (rows, beams, stride): v of each beam
  const int rows;          // at most kBeamRows
  const int beams;         // of each row
  Choices<T>* const best;  // (rows), started

  // Centroid code, 0 to k - 1, of this level: (stride).
  const T* centroid(int64_t code) const {
    return search.codebooks.centroids + (level * search.sizes.k + code) * search.codebooks.stride;
  }

  // Measures all choices of at most kFewFeatures features, with centroids in the lanes of vectors
  // (few/block-inl.h): a block of R centroids at a time, of which the nearer ones are offered.
  void measure_all() const {
    constexpr int R = Lanes<T>::kRows;
    const int64_t k = search.sizes.k, d = search.sizes.d;
    const int64_t blocks = (k + R - 1) / R;
    const T* const packed = search.codebooks.blocks + level * blocks * d * R;
    for (int v = 0; v < rows * beams; ++v) {
      Choices<T>& of_row = best[v / beams];
      for (int64_t begin = 0; begin < k; begin += R) {
        typename Lanes<T>::Vector measured[1][kVectors];
        measure<1, 0>(packed + begin * d, vectors + v * search.codebooks.stride, d, d, 1, measured);
        alignas(64) T distance[R];
        std::memcpy(distance, measured, sizeof(distance));
        for (int c = 0; c < R; c += kCompared)
          for (unsigned lanes = nearer(distance + c, of_row); lanes; lanes &= lanes - 1) {
            const int64_t code = begin + c + __builtin_ctz(lanes);
            if (code < k) of_row.add(distance[code - begin], v % beams * k + code);
          }
      }
    }
  }

  // Measures the candidates of a row, 0 to rows - 1, that the limit, lower by now, still leaves;
  // four at a time, see squared_distances.
  void measure_candidates(int row) const {
    const int64_t k = search.sizes.k, stride = search.codebooks.stride;
    Choices<T>& of_row = best[row];
    int left = 0;
    for (int n = 0; n < of_row.candidates; ++n)
      if (!(of_row.least[n] > of_row.limit)) of_row.candidate[left++] = of_row.candidate[n];
    for (int n = 0; n < left; n += kPairsTogether) {
      const T *v[kPairsTogether], *c[kPairsTogether];
      T distance[kPairsTogether];
      for (int t = 0; t < kPairsTogether; ++t) {  // the last candidate fills up the four
        const int64_t choice = of_row.candidate[least_of(n + t, left - 1)];
        v[t] = vectors + (row * beams + choice / k) * stride;
        c[t] = centroid(choice % k);
      }
      squared_distances(v, c, stride, distance);
      for (int t = 0; t < least_of(kPairsTogether, left - n); ++t)
        of_row.add(distance[t], of_row.candidate[n + t]);
    }
    of_row.candidates = 0;
  }

 private:
  // Distances that are compared at once: the lanes of below, or fewer where blocks are smaller.
  static constexpr int kCompared = Lanes<T>::kRows < kLanes ? Lanes<T>::kRows : kLanes;

  // Which of kCompared distances are less than the farthest of a full list, a bit each. Not less or
  // equal: choices come in the order of their numbers, so that a later one loses ties.
  static unsigned nearer(const float* distance, const Choices<T>& of_row) {
    static_assert(Lanes<float>::kRows >= kLanes);
    return of_row.is_full() ? lanes_below(distance, of_row.distance[of_row.wanted - 1]) : 0xffffu;
  }
  static unsigned nearer(const double* distance, const Choices<T>& of_row) {
    unsigned lanes = 0;
    for (int c = 0; c < kCompared; ++c)
      lanes |= unsigned(!of_row.is_full() || distance[c] < of_row.distance[of_row.wanted - 1]) << c;
    return lanes;
  }
};

}  // namespace
}  // namespace km::KM_TARGET
