// The table of the loops that are compiled once for each instruction set: for each type T that
// distances are computed in, float or double, a pointer to each loop that host/ calls. host/ sees
// this table and the structs that it names, and nothing of the -inl.h files behind it.
#pragma once

#include "abi/native.h"
#include "kernel/beam/beams.h"
#include "kernel/few/boxes.h"
#include "kernel/few/sum_copies.h"
#include "kernel/limits.h"
#include "kernel/many/search.h"
#include "kernel/many/sums.h"
#include "kernel/result.h"
#include "kernel/rows/rows.h"
#include "kernel/sparse/search.h"

namespace km {

// The loops of one instruction set for one type T that distances are computed in. host/ calls each
// of them from every thread, for the rows [begin, end) or the nodes of that thread; results that a
// loop adds to belong to the thread. Distances are squared everywhere.
//
// Words: k centroids of d features; kBlock = 64 rows make a block; stride is d, above kFewFeatures
// filled up by zeros to a multiple of 16; pitch is the coordinates of a row in pairs, a multiple of
// 16.
template <typename T>
struct Kernel {
  // --- rows/ ---

  // Copies rows and converts them to T.
  void (*copy_rows)(
      const km_rows& rows,
      int64_t first,  // row, 0 to n - count
      int64_t count,  // of rows, at least 0
      int64_t pitch,  // from one copy to the next, at least d; numbers from d on are left
      T* to);         // (count, pitch), written
  // Copies rows as distances take them: at unit length for cosine, filled up by zeros.
  void (*load)(const km_rows& rows,
               int64_t first,   // row, 0 to n - count
               int64_t count,   // of rows, at least 0
               int64_t stride,  // from one copy to the next
               T* to);          // (count, stride), written
  // The deciding distance of each row to the centroid of its label, with the bits of the E-step.
  void (*label_distances)(const T* rows,          // (count, stride), as load writes them
                          int64_t count,          // of rows
                          int64_t d,              // features
                          int64_t stride,         // d filled up to 16
                          bool cosine,            // halves distances; a zero row is at distance 1
                          const T* centroids,     // (k, stride), filled up by zeros
                          const int64_t* labels,  // (count), 0 to k - 1
                          T* distances);          // (count), overwritten
  // Of each feature extremes and sums or, about a center, squared differences alone.
  void (*moments)(const T* x,            // (count, size)
                  int64_t count,         // of rows
                  int64_t size,          // features: d
                  const double* center,  // (size); or null for extremes and sums
                  T* low,                // (size), lowered to the least number; without center
                  T* high,               // (size), raised to the largest; without center
                  double* sums);         // (size), added to: x_j, or (x_j - center_j)²

  // --- few/: d up to kFewFeatures ---

  // The E-step by every distance (Lloyd): labels, distances, sums and counts.
  void (*scan)(const km_rows& rows,
               const T* centroids,       // (k, d)
               int64_t begin,            // first row
               int64_t end,              // behind the last row
               const Result<T>& result,  // sums and counts are added to
               T* block,                 // scratch: 2 · Kernels::block_bytes · d bytes
               const SumCopies& sums);   // of k centroids, scratch that is zero
  // The same by boxes (Kanungo): nodes part, part + parts, .. of the uppermost level. Returns how
  // many pairs of a row and a centroid were measured.
  int64_t (*descend)(const Boxes<T>& boxes,
                     const CandidateLists<T>& lists,  // of this thread
                     int64_t part,                    // 0 to parts - 1
                     int64_t parts,                   // threads, at least 1
                     const Result<T>& result,         // sums and counts are added to
                     const SumCopies& sums);          // of k centroids, scratch that is zero

  // --- many/: d above kFewFeatures ---

  // Labels and distances by bounds (Elkan, Hamerly, Yinyang).
  void (*search)(const km_rows& rows,
                 const Search<T>& search,    // centroids, bounds
                 int64_t begin,              // first row, a multiple of kBlock
                 int64_t end,                // behind the last row
                 const Result<T>& result,    // changed and, of measured rows, inertia are added to
                 const Scratch<T>& scratch,  // of this thread
                 Seen& seen);                // added to
  // Coordinates of rows: 16-bit numbers, in units of ‖x‖ / kWhole.
  void (*measure)(const Coordinates& coordinates,
                  const T* rows,    // (count, stride)
                  int64_t d,        // features
                  int64_t stride,   // of rows
                  int count,        // 1 to kBlock
                  float* centered,  // (count, stride), scratch
                  float* along,     // (kMostRowsTogether, directions + 1), scratch
                  int32_t* to,      // (count, pitch), written
                  float* norms);    // (count), written: squared, about the center
  // The M-step's sums, exact or by weight.
  void (*add_up)(const km_rows& rows,
                 int64_t stride,         // of rows
                 int64_t begin,          // first row
                 int64_t end,            // behind the last row
                 const int64_t* labels,  // (n), 0 to k - 1
                 ClusterSums& sums,      // of this thread, added to
                 T* row);                // (stride), scratch

  // --- seeding/ ---

  // Lowers the distances to the nearest center, few features in boxes.
  void (*lower_in_boxes)(const Boxes<T>& boxes,  // near, farthest and potential are lowered too
                         const T* center,        // (d)
                         int64_t part,           // 0 to parts - 1
                         int64_t parts,          // threads, at least 1
                         T* nearest);            // (n), squared
  // By how much candidates would lower the potential, few features in boxes.
  void (*gain_in_boxes)(const Boxes<T>& boxes,
                        const T* candidates,  // (d, kCandidates)
                        int64_t m,            // how many of them there are, 1 to kCandidates
                        int64_t part,         // 0 to parts - 1
                        int64_t parts,        // threads, at least 1
                        double* gains);       // (m), added to: weighted squared distances
  // The potentials that candidates would leave, by every distance.
  void (*potentials)(const km_rows& rows,
                     const T* nearest,     // (n), squared
                     const T* candidates,  // (m, d)
                     int64_t m,            // a multiple of Kernels::centroids_together
                     int64_t begin,        // first row
                     int64_t end,          // behind the last row
                     double* potentials,   // (m, 16), added to; a potential is the sum of its 16
                     uint16_t* reached,    // (n), written: bit c, candidate c < 16 is nearer
                     T* block);            // scratch: 2 · Kernels::block_bytes · d bytes
  // The same by bounds, for many features.
  void (*potentials_by_bounds)(const km_rows& rows,
                               const Search<T>& candidates,  // m made ready as centroids are
                               const T* nearest,             // (n), squared
                               int64_t begin,                // first row, a multiple of kBlock
                               int64_t end,                  // behind the last row
                               double* potentials,           // (m), added to
                               uint16_t* reached,            // (n), written, as above
                               const Scratch<T>& scratch);   // of this thread
  // Lowers nearest by a candidate where the last potentials say that it is nearer.
  void (*lower_reached)(const km_rows& rows,
                        T* nearest,               // (n), squared
                        const T* center,          // (stride)
                        int64_t stride,           // of centers
                        const uint16_t* reached,  // (n), of the last potentials
                        int candidate,            // the number of center among them, 0 to 15
                        int64_t begin,            // first row
                        int64_t end,              // behind the last row
                        T* row);                  // (stride), scratch
  // Lowers nearest by any center.
  void (*lower)(const km_rows& rows,
                T* nearest,       // (n), squared
                const T* center,  // (stride)
                int64_t stride,   // of centers
                int64_t begin,    // first row
                int64_t end,      // behind the last row
                T* block);        // scratch: 2 · Kernels::block_bytes · d bytes or, above
                                  // kMeasuredFeatures, (kBlock, stride)

  // --- sums/, beam/, sparse/ ---

  // The sum of values as integers, v · 2^exponent rounded: see km_block_sums. Returns it.
  int64_t (*count)(const T* values,     // (n), none negative
                   int64_t n,           // at least 0
                   int exponent,        // -2000 to 2000
                   int bits,            // 0 to 51: no integer is above 2^bits
                   int64_t* integers);  // (n), written; or null
  // Beam search: codes, or the nearest centroids.
  void (*beam)(const Beams<T>& beams,           // codebooks made ready, and the results
               int64_t begin,                   // first row
               int64_t end,                     // behind the last row
               const BeamScratch<T>& scratch);  // of this thread
  // The E-step of sparse rows but for sums and counts.
  void (*search_sparse)(const km_sparse& rows,
                        const SparsePlaces<T>& places,     // the centroids, transposed
                        int64_t begin,                     // first row
                        int64_t end,                       // behind the last row
                        const Result<T>& result,           // changed and inertia are added to
                        const SparseScratch<T>& scratch);  // of this thread
  // Distances of sparse rows to sixteen points, or to one.
  void (*measure_sparse)(const km_sparse& rows,
                         const double* columns,  // (d, 16): sixteen points; or null for one
                         const T* point,         // (d): the one
                         const double* squares,  // (16) or (1): ‖point‖²
                         int64_t begin,          // first row
                         int64_t end,            // behind the last row
                         double* distances);     // (end - begin, 16) or (end - begin), squared
  // Squared norms of dense points.
  void (*squares_of)(const T* points,   // (count, d)
                     int64_t count,     // of points
                     int64_t d,         // features
                     double* squares);  // (count), written
  // Values of sparse rows at unit length: see km_sparse_unit.
  void (*unit_sparse)(const km_sparse& rows,
                      int64_t begin,  // first row
                      int64_t end,    // behind the last row
                      T* values);     // as many as rows.values, written from starts[begin] on
};

// The loops of one instruction set: those that take float alone, and the tables of both types.
// Filled at the end of kernel-inl.h, once in each of targets/*.cpp.
struct Kernels {
  // Applies changes of labels to exact sums, which only sums of floats can be.
  void (*change)(const km_rows& rows,
                 int64_t stride,           // of rows
                 const Change* changes,    // (count)
                 int64_t count,            // at least 0
                 const ClusterSums& sums,  // added to, or taken off
                 float* row);              // (stride), scratch
  // Gaps between centroids [begin, end): lower bounds on (½ d(c, c'))², for many features.
  void (*separate)(const Coordinates& coordinates,
                   int64_t k,          // centroids
                   int64_t count,      // of places: k filled up to a multiple of 16
                   int64_t blocks,     // count / 16, filled up to a multiple of 16
                   int64_t begin,      // first place, a multiple of kBlock
                   int64_t end,        // behind the last place
                   float* nearest,     // (count), written
                   float* pairwise,    // (k, count), written; or null
                   float* of_sixteen,  // (k, blocks), written; or null
                   int32_t* columns);  // (pitch, kMostRowsInLanes), scratch
  Kernel<float> of_float;
  Kernel<double> of_double;
  int64_t centroids_together;  // 2 or 4: candidates of `potentials` come in multiples of it
  int64_t block_bytes;         // 64 to 256: a block of rows of few features has as many per feature

  // The table of a type. host/ alone calls it.
  template <typename T>
  const Kernel<T>& of() const {
    if constexpr (sizeof(T) == sizeof(float))
      return of_float;
    else
      return of_double;
  }
};

}  // namespace km
