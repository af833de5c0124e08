// The region of an instruction set: between KM_BEGIN_TARGET and KM_END_TARGET every function, also
// of a template and of a lambda, is compiled for the processors that have it, as -m flags for the
// whole file would do. What was included before is compiled for every processor, though: an inline
// function of the standard library, of which the linker keeps one copy for all files, must not be
// one that needs AVX-512 (tests/backends/test_objects.py looks at the objects).
//
// features: names as in GCC's target attribute, "avx2,fma"; host/dispatch.cpp asks the processor
// for the same ones.
#pragma once

#include "kernel/simd/standard.h"

#define KM_PRAGMA(words) _Pragma(#words)
#if defined(__clang__)
#define KM_BEGIN_TARGET(features) \
  KM_PRAGMA(clang attribute push(__attribute__((target(features))), apply_to = function))
#define KM_END_TARGET _Pragma("clang attribute pop")
#else
#define KM_BEGIN_TARGET(features) _Pragma("GCC push_options") KM_PRAGMA(GCC target(features))
#define KM_END_TARGET _Pragma("GCC pop_options")
#endif

// What is compiled in the region: the kernels, or the checks of tests/native/.
#if !defined(KM_LOOPS)
#define KM_LOOPS "kernel/kernel-inl.h"
#endif
