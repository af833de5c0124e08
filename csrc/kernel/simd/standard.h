// What the loops of kernel/ use of the standard library and of the compiler.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#define KM_PRAGMA(words) _Pragma(#words)
#if defined(__clang__)
#define KM_BEGIN_TARGET(names) \
  KM_PRAGMA(clang attribute push(__attribute__((target(names))), apply_to = function))
#define KM_END_TARGET _Pragma("clang attribute pop")
#else
#define KM_BEGIN_TARGET(names) _Pragma("GCC push_options") KM_PRAGMA(GCC target(names))
#define KM_END_TARGET _Pragma("GCC pop_options")
#endif
