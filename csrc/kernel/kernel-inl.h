// The table of the inner loops, compiled once per instruction set by targets/*.cpp, which define
// what the instruction set is called (KM_TARGET, a namespace), how wide its vectors are
// (KM_VECTOR_BYTES), how many centroids (KM_CENTROIDS) and how many rows (KM_ROWS_TOGETHER) its
// registers take together, and which intrinsics it has (KM_AVX512, KM_AVX2, KM_SSE2, KM_NEON,
// KM_FMA: 0 or 1).
//
// Every function is in km::KM_TARGET and, being in an anonymous namespace, of this file alone: a
// function with one name for all files would be kept once, perhaps that for newer processors.
#pragma once

#include "kernel/beam/beam-inl.h"
#include "kernel/features.h"
#include "kernel/few/box_descent-inl.h"
#include "kernel/few/brute_force-inl.h"
#include "kernel/many/accumulate-inl.h"
#include "kernel/many/centroid_gaps-inl.h"
#include "kernel/many/search-inl.h"
#include "kernel/rows/label_distances-inl.h"
#include "kernel/rows/moments-inl.h"
#include "kernel/seeding/bounded-inl.h"
#include "kernel/seeding/box_reach-inl.h"
#include "kernel/seeding/brute_force-inl.h"
#include "kernel/sparse/measure-inl.h"
#include "kernel/sparse/normalization-inl.h"
#include "kernel/sparse/search-inl.h"
#include "kernel/sums/counted-inl.h"

namespace km::KM_TARGET {
namespace {

// Below, one function for each member of Kernel<T> (table.h) that has to choose first: a loop that
// is compiled for each number of few features, or one of two loops.

template <typename T>
void scan_few(const km_rows& rows, const T* centroids, int64_t begin, int64_t end,
              const Result<T>& result, T* block, const SumCopies& sums) {
  with_features<kFewFeatures>(rows.d, [&](auto d) {
    scan<T, decltype(d)::value>(rows, centroids, begin, end, result, block, sums);
  });
}

template <typename T>
void potentials_few(const km_rows& rows, const T* nearest, const T* candidates, int64_t m,
                    int64_t begin, int64_t end, double* potential, uint16_t* reached, T* block) {
  if (rows.d > kFewFeatures)
    return potentials<T, 0>(rows, nearest, candidates, m, begin, end, potential, reached, block);
  with_features<kFewFeatures>(rows.d, [&](auto d) {
    potentials<T, decltype(d)::value>(rows, nearest, candidates, m, begin, end, potential, reached,
                                      block);
  });
}

template <typename T>
void lower_all(const km_rows& rows, T* nearest, const T* center, int64_t stride, int64_t begin,
               int64_t end, T* block) {
  if (rows.d > kMeasuredFeatures)
    return lower_each(rows, nearest, center, stride, begin, end, block);
  lower(rows, nearest, center, begin, end, block);
}

template <typename T>
int64_t descend(const Boxes<T>& boxes, const CandidateLists<T>& lists, int64_t part, int64_t parts,
                const Result<T>& result, const SumCopies& sums) {
  return with_features<kFewFeatures>(boxes.rows.d, [&](auto d) {
    return BoxDescent<T, decltype(d)::value>(boxes, lists, result, sums).run(part, parts);
  });
}

template <typename T>
void lower_in_boxes(const Boxes<T>& boxes, const T* center, int64_t part, int64_t parts,
                    T* nearest) {
  with_features<kSortedFeatures>(boxes.rows.d, [&](auto d) {
    BoxReach<T, decltype(d)::value>(boxes).lower(center, part, parts, nearest);
  });
}

template <typename T>
void gain_in_boxes(const Boxes<T>& boxes, const T* candidates, int64_t m, int64_t part,
                   int64_t parts, double* gains) {
  with_features<kSortedFeatures>(boxes.rows.d, [&](auto d) {
    BoxReach<T, decltype(d)::value>(boxes).gain(candidates, m, part, parts, gains);
  });
}

template <typename T>
void measure_block(const Coordinates& coordinates, const T* rows, int64_t d, int64_t stride,
                   int count, float* centered, float* along, int32_t* to, float* norms) {
  measure_rows(
      coordinates, [&](int i) { return rows + i * stride; }, d, stride, count, centered, along, to,
      norms);
}

template <typename T>
void measure_sparse(const km_sparse& rows, const double* columns, const T* point,
                    const double* squares, int64_t begin, int64_t end, double* distances) {
  if (columns)
    measure_sparse_sixteen<T>(rows, columns, squares, begin, end, distances);
  else
    measure_sparse_one(rows, point, squares, begin, end, distances);
}

template <typename T>
constexpr Kernel<T> kernel_of() {
  Kernel<T> kernel = {};
  kernel.copy_rows = copy_rows<T>;
  kernel.load = load_rows<T>;
  kernel.label_distances = label_distances<T>;
  kernel.scan = scan_few<T>;
  kernel.descend = descend<T>;
  kernel.search = search_rows<T>;
  kernel.measure = measure_block<T>;
  kernel.add_up = add_up<T>;
  kernel.lower_in_boxes = lower_in_boxes<T>;
  kernel.gain_in_boxes = gain_in_boxes<T>;
  kernel.potentials = potentials_few<T>;
  kernel.potentials_by_bounds = potentials_by_bounds<T>;
  kernel.lower_reached = lower_reached<T>;
  kernel.lower = lower_all<T>;
  kernel.moments = moments<T>;
  kernel.count = count<T>;
  kernel.beam = beam_rows<T>;
  kernel.search_sparse = search_sparse<T>;
  kernel.measure_sparse = measure_sparse<T>;
  kernel.squares_of = squares_of<T>;
  kernel.unit_sparse = unit_sparse<T>;
  return kernel;
}

}  // namespace

extern const Kernels kernels;
const Kernels kernels = {change,
                         separate,
                         kernel_of<float>(),
                         kernel_of<double>(),
                         KM_CENTROIDS,
                         KM_VECTOR_BYTES * kVectors};

}  // namespace km::KM_TARGET
