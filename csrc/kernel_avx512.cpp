#define KM_VECTOR_BYTES 64
#define KM_CENTROIDS 4
#define KM_ROWS_TOGETHER 8
#define KM_NAME km_avx512
#include "kernel.inc"
