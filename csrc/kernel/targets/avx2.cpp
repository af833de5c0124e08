#define KM_VECTOR_BYTES 32
#define KM_CENTROIDS 2
#define KM_ROWS_TOGETHER 6
#define KM_TARGET avx2
#include "kernel/kernel-inl.h"
