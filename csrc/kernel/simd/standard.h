// What the loops (-inl.h) and the headers that they share with host/ need from outside: types of
// the standard library, memcpy and memset, and the intrinsics. Every <header> that kernel/ includes
// is named here, and nowhere else: targets/*.cpp include this file before they open the region of
// their instruction set, so that a function of these headers is compiled for every processor.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <new>
#include <type_traits>

#if defined(__x86_64__)
// GCC 12 makes "any value" for its intrinsics by __m512 y = y, and warns of it where it inlines
// them.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>
#pragma GCC diagnostic pop
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

// An inner loop that gets registers of its own: inlined into a larger function, its accumulators
// would be spilled to memory in each round.
#define KM_NOINLINE __attribute__((noinline))
