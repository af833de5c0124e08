// One implementation of the inner loops for each instruction set.
#pragma once

#include "native.h"

struct km_kernel {
  // On rows begin to end; sums and counts are added to, for k centroids, a multiple of
  // centroids_together; block has block_bytes for each feature, aligned to 64 bytes.
  void (*e_step)(const km_rows& rows, const void* centroids, int64_t k, int64_t begin,
                 int64_t end, const km_result& result, void* block);
  // potentials (m, a multiple of centroids_together) are added to.
  void (*potentials)(const km_rows& rows, const void* nearest, const void* candidates, int64_t m,
                     int64_t begin, int64_t end, double* potentials, void* block);
  // center is repeated centroids_together times.
  void (*lower)(const km_rows& rows, void* nearest, const void* center, int64_t begin,
                int64_t end, void* block);
  int64_t centroids_together;
  int64_t block_bytes;
};

#if defined(__x86_64__)
extern const km_kernel km_avx512;
extern const km_kernel km_avx2;
#endif
extern const km_kernel km_baseline;
