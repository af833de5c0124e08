// SSE2 on x86-64, NEON on ARM, whatever else there is elsewhere.
#include "kernel/simd/standard.h"

#define KM_TARGET baseline
#define KM_AVX512 0
#define KM_AVX2 0
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA) || defined(__FP_FAST_FMA)
#define KM_FMA 1
#else
#define KM_FMA 0
#endif
#define KM_VECTOR_BYTES 16
#define KM_CENTROIDS 2
#define KM_ROWS_TOGETHER 2

#include "kernel/kernel-inl.h"
