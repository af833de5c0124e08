// AVX2 with FMA: 16 registers of 32 bytes. Only functions of this file's region use the
// instruction set; host/dispatch.cpp calls them where the processor has it.
#include "kernel/simd/standard.h"

#define KM_TARGET avx2
#define KM_AVX512 0
#define KM_AVX2 1
#define KM_FMA 1
#define KM_VECTOR_BYTES 32
#define KM_CENTROIDS 2
#define KM_ROWS_TOGETHER 6

KM_BEGIN_TARGET("avx2,fma,bmi,popcnt")
#include "kernel/kernel-inl.h"
KM_END_TARGET
