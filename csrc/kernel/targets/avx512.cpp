// The kernels for AVX-512 (F, BW, DQ: processors since Skylake-X and Zen 4): 32 registers of 64
// bytes.
#include "kernel/targets/region.h"

#define KM_TARGET avx512
#define KM_AVX512 1
#define KM_AVX2 1  // its intrinsics are there too
#define KM_SSE2 1
#define KM_NEON 0
#define KM_FMA 1
#define KM_VECTOR_BYTES 64
// Centroids whose distances to a block of rows are in registers: 4 × kVectors of the 32.
#define KM_CENTROIDS 4
// Rows whose products with sixteen numbers are in registers: 8 of the 32.
#define KM_ROWS_TOGETHER 8

// GCC makes vectors of 32 bytes of plain loops unless told so; clang takes no such word here.
#if defined(__clang__)
KM_BEGIN_TARGET("avx512f,avx512bw,avx512dq,fma,bmi,popcnt")
#else
KM_BEGIN_TARGET("avx512f,avx512bw,avx512dq,fma,bmi,popcnt,prefer-vector-width=512")
#endif
#include KM_LOOPS
KM_END_TARGET
