// Sixteen numbers that are computed with together: all operations.
//
//   vec16_type-inl.h        the type, load, store
//   vec16_arithmetic-inl.h  lane by lane: sums, products, the step of the deciding distance
//   vec16_integers-inl.h    pairs of 16-bit coordinates
//   vec16_masks-inl.h       comparisons, a bit for each lane
//   vec16_reduce-inl.h      the sum and the largest of the lanes
//   vec16_transpose-inl.h   rows to columns
//
// Each operation is written with vector types where compilers make good code of it, else with
// intrinsics of AVX-512 and AVX2 and as a plain loop for the rest. tests/native/simd_ops-inl.h
// compares each with a plain loop on each instruction set.
#pragma once

#include "kernel/simd/vec16_arithmetic-inl.h"
#include "kernel/simd/vec16_integers-inl.h"
#include "kernel/simd/vec16_masks-inl.h"
#include "kernel/simd/vec16_reduce-inl.h"
#include "kernel/simd/vec16_transpose-inl.h"
