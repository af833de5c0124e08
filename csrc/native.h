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

// Chooses an instruction set, "avx512", "avx2" or "baseline", for comparison; by default the
// best one. Returns 0, or 1 where the processor does not have it.
__attribute__((visibility("default"))) int km_use_instruction_set(const char* name);
}
