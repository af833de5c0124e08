#define KM_VECTOR_BYTES 64
#define KM_CENTROIDS 4
#define KM_ROWS_TOGETHER 8
#define KM_TARGET avx512
#include "kernel/kernel-inl.h"
