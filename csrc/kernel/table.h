// The table of the loops that are compiled once for each instruction set: for each type T that
// distances are computed in, float or double, a function for each thing that host/ has done.
#pragma once

#include "abi/native.h"
#include "kernel/beam/beams.h"
#include "kernel/few/boxes.h"
#include "kernel/limits.h"
#include "kernel/many/search.h"
#include "kernel/many/sums.h"
#include "kernel/result.h"
#include "kernel/sparse/search.h"

namespace km {

// Whether rows are of another type than the one that distances are computed in. (static: no linker
// may take the copy of one instruction set for all.)
static inline bool converts(const km_rows& rows) {
  return rows.element != (rows.is_double ? KM_FLOAT64 : KM_FLOAT32);
}

template <typename T>
struct Kernel {
  // Copies count rows to (count, pitch); what fills up a row is left as it is.
  void (*copy_rows)(const km_rows& rows, int64_t first, int64_t count, int64_t pitch, T* to);
  // Copies count rows to (count, stride), filled up by zeros; for cosine at unit length.
  void (*load)(const km_rows& rows, int64_t first, int64_t count, int64_t stride, T* to);

  // The deciding distance of each row to the centroid of its label, with the bits of the E-step.
  void (*label_distances)(const T* rows,          // (count, stride), as load writes them
                          int64_t count,          // of rows
                          int64_t d,              // features
                          int64_t stride,         // d filled up to 16
                          bool cosine,            // halves distances; a zero row is at distance 1
                          const T* centroids,     // (k, stride), filled up by zeros
                          const int64_t* labels,  // (count), 0 to k - 1
                          T* distances);          // (count), overwritten

  // For few features, on rows begin to end: the result's sums and counts are added to; block
  // has twice Kernels::block_bytes for each feature, and sums (copies, k, terms_of(d)) is all zero.
  void (*scan)(const km_rows& rows, const T* centroids, int64_t k, int64_t begin, int64_t end,
               const Result<T>& result, T* block, double* sums, int64_t copies);
  // The same from boxes of rows down to the rows: nodes part, part + parts, .. of the uppermost.
  // Returns how many pairs of a row and a centroid were measured.
  int64_t (*descend)(const Boxes<T>& boxes, const CandidateLists<T>& lists, int64_t part,
                     int64_t parts, const Result<T>& result, double* sums, int64_t copies);

  // For many features, begin a multiple of kBlock: labels and distances alone. The result's changed
  // is added to, and its inertia but for rows that are not measured; and so is seen.
  void (*search)(const km_rows& rows, const Search<T>& search, int64_t begin, int64_t end,
                 const Result<T>& result, const Scratch<T>& scratch, Seen& seen);
  // Coordinates (count, pitch) and squared norms (count) of rows (count, stride), at most kBlock.
  void (*measure)(const Coordinates& coordinates, const T* rows, int64_t d, int64_t stride,
                  int count, float* centered, float* along, int32_t* to, float* norms);
  // Adds rows begin to end to the sums of their clusters; row (stride) is scratch.
  void (*add_up)(const km_rows& rows, int64_t stride, int64_t begin, int64_t end,
                 const int64_t* labels, ClusterSums& sums, T* row);

  // For seeding, few features in boxes: lowers nearest (n) and what is near by the distances to a
  // center.
  void (*lower_in_boxes)(const Boxes<T>& boxes, const T* center, int64_t part, int64_t parts,
                         T* nearest);
  // Adds to gains (m) by how much the first m of candidates (d, kCandidates) would lower the
  // potential.
  void (*gain_in_boxes)(const Boxes<T>& boxes, const T* candidates, int64_t m, int64_t part,
                        int64_t parts, double* gains);
  // potentials (m, 16 to be added up) are added to; m is a multiple of centroids_together. Bit c of
  // reached (n) says whether candidate c < 16 is nearer to a row than nearest.
  void (*potentials)(const km_rows& rows, const T* nearest, const T* candidates, int64_t m,
                     int64_t begin, int64_t end, double* potentials, uint16_t* reached, T* block);
  // The same for candidates made ready, potentials (m); begin is a multiple of kBlock.
  void (*potentials_by_bounds)(const km_rows& rows, const Search<T>& candidates, const T* nearest,
                               int64_t begin, int64_t end, double* potentials, uint16_t* reached,
                               const Scratch<T>& scratch);
  // Lowers nearest by a candidate, center (stride), where it was reached; row has its size.
  void (*lower_reached)(const km_rows& rows, T* nearest, const T* center, int64_t stride,
                        const uint16_t* reached, int candidate, int64_t begin, int64_t end, T* row);
  // Lowers nearest by center (stride); block has twice block_bytes for each feature or, above
  // kMeasuredFeatures, the size of kBlock rows (stride).
  void (*lower)(const km_rows& rows, T* nearest, const T* center, int64_t stride, int64_t begin,
                int64_t end, T* block);

  // Of x (count, size): lowers low and raises high (size), adds to sums (size) the numbers or,
  // about a center (size) that is not null, the squares of their differences alone.
  void (*moments)(const T* x, int64_t count, int64_t size, const double* center, T* low, T* high,
                  double* sums);
  // The sum of n values as integers, and integers (n) unless null; see km_block_sums.
  int64_t (*count)(const T* values, int64_t n, int exponent, int bits, int64_t* integers);
  // Beam search of rows begin to end.
  void (*beam)(const Beams<T>& beams, int64_t begin, int64_t end, const BeamScratch<T>& scratch);

  // Labels of sparse rows begin to end, and their distances unless null; the result's changed and
  // inertia are added to, its sums are not.
  void (*search_sparse)(const km_sparse& rows, const SparsePlaces<T>& places, int64_t begin,
                        int64_t end, const Result<T>& result, const SparseScratch<T>& scratch);
  // Squared distances of sparse rows begin to end, (·, 16) to points given as columns (d, 16) or,
  // where these are null, (·) to one point (d), whose ‖·‖² are squares.
  void (*measure_sparse)(const km_sparse& rows, const double* columns, const T* point,
                         const double* squares, int64_t begin, int64_t end, double* distances);
  // ‖·‖² (count) of points (count, d).
  void (*squares_of)(const T* points, int64_t count, int64_t d, double* squares);
  // See km_sparse_unit, for rows begin to end.
  void (*unit_sparse)(const km_sparse& rows, int64_t begin, int64_t end, T* values);
};

// What is the same for both types, and the tables of both.
struct Kernels {
  // Changes sums that are exact, which those of floats alone can be; row (stride) is scratch.
  void (*change)(const km_rows& rows, int64_t stride, const Change* changes, int64_t count,
                 const ClusterSums& sums, float* row);
  // For centroids begin to end of count places, k of them taken, their Gaps; the last two may be
  // null.
  void (*separate)(const Coordinates& coordinates, int64_t k, int64_t count, int64_t blocks,
                   int64_t begin, int64_t end, float* nearest, float* pairwise, float* of_sixteen,
                   int32_t* columns);
  Kernel<float> of_float;
  Kernel<double> of_double;
  int64_t centroids_together;
  int64_t block_bytes;  // of a block of rows of few features, for each feature

  template <typename T>
  const Kernel<T>& of() const;
};
template <>
inline const Kernel<float>& Kernels::of<float>() const {
  return of_float;
}
template <>
inline const Kernel<double>& Kernels::of<double>() const {
  return of_double;
}

}  // namespace km
