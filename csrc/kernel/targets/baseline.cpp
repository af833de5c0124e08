// The kernels for every processor of the architecture: SSE2 on x86-64, NEON on ARM, elsewhere what
// the compiler makes of vectors of 16 bytes. No region: what the whole build may use.
#include "kernel/targets/region.h"

#define KM_TARGET baseline
#define KM_AVX512 0
#define KM_AVX2 0
#if defined(__x86_64__)
#define KM_SSE2 1
#else
#define KM_SSE2 0
#endif
#if defined(__aarch64__)
#define KM_NEON 1
#else
#define KM_NEON 0
#endif
// x86-64 has FMA only where the whole build is for newer processors (CXXFLAGS=-march=haswell).
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA) || defined(__FP_FAST_FMA)
#define KM_FMA 1
#else
#define KM_FMA 0
#endif
#define KM_VECTOR_BYTES 16
// Centroids whose distances to a block of rows are in registers: 2 × kVectors of the 16.
#define KM_CENTROIDS 2
// Rows whose products with sixteen numbers are in registers: 2 × 4 of the 16.
#define KM_ROWS_TOGETHER 2

#include KM_LOOPS
