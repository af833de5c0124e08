// The kernels for AVX2 with FMA: 16 registers of 32 bytes.
#include "kernel/targets/region.h"

#define KM_TARGET avx2
// Which intrinsics there are. (Macros of ours: clang defines __AVX2__ for flags alone.)
#define KM_AVX512 0
#define KM_AVX2 1
#define KM_SSE2 1
#define KM_NEON 0
#define KM_FMA 1
#define KM_VECTOR_BYTES 32
// Centroids whose distances to a block of rows are in registers: 2 × kVectors of the 16.
#define KM_CENTROIDS 2
// Rows whose products with sixteen numbers are in registers: 6 × 2 of the 16.
#define KM_ROWS_TOGETHER 6

KM_BEGIN_TARGET("avx2,fma,bmi,popcnt")
#include KM_LOOPS
KM_END_TARGET
