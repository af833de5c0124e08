// The C interface of the native kernels: plain pointers and sizes, no torch headers.
#pragma once

#include <cstdint>

extern "C" {

// Rows of one problem: sample i, feature j is x[i * row_stride + j * column_stride].
struct km_rows {
  const void* x;
  int64_t n, d;
  int64_t row_stride, column_stride;  // in elements
  const double* weights;              // (n) or null for weight 1
  int32_t is_double;                  // else float
  int32_t cosine;                     // scale rows to unit length; zero rows weigh nothing
};

// Where the results go; distances may be null, and so may sums and counts together.
struct km_result {
  int64_t* labels;   // (n)
  void* distances;   // (n), squared, of the type of x
  double* sums;      // (k, d), overwritten
  double* counts;    // (k), overwritten
  double* inertia;   // (1), overwritten
};

// Labels, distances and statistics for centroids (k, d), contiguous and of the type of x.
// Returns 0, or 1 where there is no memory.
__attribute__((visibility("default"))) int km_e_step(const km_rows* rows, const void* centroids, int64_t k, const km_result* result,
              int threads);

// For seeding: lowers nearest (n), squared distances to the nearest centre so far, by those to
// one centre (d); all of the type of x, full ones for cosine too.
__attribute__((visibility("default"))) int km_lower(const km_rows* rows, void* nearest,
                                                    const void* center, int threads);

// For seeding: potentials (m), the weighted sum of what nearest would be lowered to by each of
// the candidates (m, d).
__attribute__((visibility("default"))) int km_potentials(const km_rows* rows, const void* nearest,
                                                         const void* candidates, int64_t m,
                                                         double* potentials, int threads);

// Chooses an instruction set, "avx512", "avx2" or "baseline", for comparison; by default the
// best one. Returns 0, or 1 where the processor does not have it.
__attribute__((visibility("default"))) int km_use_instruction_set(const char* name);
}
