// Seeding by brute force: every distance of a row to a candidate is measured. It serves up to
// kMeasuredFeatures where no tree of boxes does.
#pragma once

#include "kernel/few/block-inl.h"

namespace km::KM_TARGET {
namespace {

// What seeding knows of the rows of a block: a number for each row.
template <typename T>
struct SeedingRows {
  typename Lanes<T>::Vector nearest[kVectors];  // squared distance to the nearest center so far
  typename Lanes<T>::Vector weight[kVectors];   // 0 where there is no row
  typename Lanes<T>::Mask reached[kVectors];    // bit c: candidate c is nearer than nearest
};

// Reads what is known of rows first to first + count. Fewer than fill the block, and rows with
// weights, are copied: vectors read whole blocks, and weights are doubles.
template <typename T>
inline void read_seeding_rows(const km_rows& rows, const T* nearest, int64_t first, int count,
                              SeedingRows<T>& of_block) {
  using V = typename Lanes<T>::Vector;
  constexpr int R = Lanes<T>::kRows, W = Lanes<T>::kWidth;
  const bool in_place = count == R && !rows.weights;  // read where they are, with weight 1
  alignas(64) T copies[R] = {}, weights[R] = {};
  for (int s = 0; !in_place && s < count; ++s) {
    copies[s] = nearest[first + s];
    weights[s] = rows.weights ? static_cast<T>(rows.weights[first + s]) : T(1);
  }
  const T* const from = in_place ? nearest + first : copies;
  for (int v = 0; v < kVectors; ++v) {
    std::memcpy(&of_block.nearest[v], from + v * W, sizeof(V));
    of_block.weight[v] = in_place ? V{} + T(1) : *reinterpret_cast<const V*>(weights + v * W);
    of_block.reached[v] = typename Lanes<T>::Mask{};
  }
}

// Adds Σ w min(nearest, ‖x - c‖²) of a block for candidate c, by the lanes of a vector: lane i of
// potential (kWidth) sums rows i, i + kWidth, ..
template <typename T>
inline void add_potential(const typename Lanes<T>::Vector (&distance)[kVectors], int64_t c,
                          SeedingRows<T>& rows, double* potential) {
  using V = typename Lanes<T>::Vector;
  using M = typename Lanes<T>::Mask;
  V sum = {};
  for (int v = 0; v < kVectors; ++v) {
    const M closer = distance[v] < rows.nearest[v];
    sum += rows.weight[v] * (closer ? distance[v] : rows.nearest[v]);
    if (c < kReportedCandidates)
      rows.reached[v] |= closer & (M{} + (typename Lanes<T>::Int(1) << c));
  }
  typename Lanes<T>::Doubles lanes;
  std::memcpy(&lanes, potential, sizeof(lanes));
  lanes += __builtin_convertvector(sum, typename Lanes<T>::Doubles);
  std::memcpy(potential, &lanes, sizeof(lanes));
}

// Bit c of reached (count): whether candidate c is nearer to a row than the nearest center so far.
template <typename T>
inline void write_reached(const SeedingRows<T>& rows, int count, uint16_t* reached) {
  constexpr int R = Lanes<T>::kRows;
  typename Lanes<T>::Int bits[R];
  std::memcpy(bits, rows.reached, sizeof(bits));
  if (count == R)  // a loop that compilers make vectors of
    for (int s = 0; s < R; ++s) reached[s] = static_cast<uint16_t>(bits[s]);
  else
    for (int s = 0; s < count; ++s) reached[s] = static_cast<uint16_t>(bits[s]);
}

// See Kernel::potentials. D is d, or 0 where d is not known to the compiler. A block of rows stays
// in registers and the first-level cache while all candidates pass by, KM_CENTROIDS at a time; sums
// of a block are added up in T, sums of all blocks in double.
template <typename T, int D>
void potentials(const km_rows& rows, const T* nearest, const T* candidates, int64_t m,
                int64_t begin, int64_t end, double* potential, uint16_t* reached, T* block) {
  constexpr int R = Lanes<T>::kRows;
  for (int64_t first = begin; first < end; first += R) {
    const int count = static_cast<int>(least_of<int64_t>(R, end - first));
    load_block<T, D>(rows_of(rows, first, count, block + R * rows.d), block);
    SeedingRows<T> of_block;
    read_seeding_rows(rows, nearest, first, count, of_block);
    for (int64_t c = 0; c < m; c += KM_CENTROIDS) {
      typename Lanes<T>::Vector distance[KM_CENTROIDS][kVectors];
      measure<KM_CENTROIDS, D>(block, candidates + c * rows.d, rows.d, rows.d, 1, distance);
      for (int i = 0; i < KM_CENTROIDS; ++i)
        add_potential<T>(distance[i], c + i, of_block, potential + (c + i) * kLanes);
    }
    write_reached(of_block, count, reached + first);
  }
}

// See Kernel::lower; for features up to kMeasuredFeatures. One center alone is bound by memory: no
// code for each number of features pays.
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
