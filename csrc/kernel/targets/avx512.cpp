#include "kernel/simd/standard.h"

#define KM_TARGET avx512
#define KM_AVX512 1
#define KM_AVX2 1
#define KM_FMA 1
#define KM_VECTOR_BYTES 64
#define KM_CENTROIDS 4
#define KM_ROWS_TOGETHER 8

KM_BEGIN_TARGET("avx512f,avx512bw,avx512dq,fma,bmi,popcnt,prefer-vector-width=512")
#include "kernel/kernel-inl.h"
KM_END_TARGET
