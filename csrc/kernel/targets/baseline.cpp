// SSE2 on x86-64, NEON on ARM, whatever else there is elsewhere.
#define KM_VECTOR_BYTES 16
#define KM_CENTROIDS 2
#define KM_ROWS_TOGETHER 2
#define KM_TARGET baseline
#include "kernel/kernel-inl.h"
