// Which of the kernels serves: the best one for this processor, or the one that was asked for.
#pragma once

#include "kernel/table.h"

namespace km {

const Kernels& current_kernels();
template <typename T>
const Kernel<T>& current_kernel() {
  return current_kernels().of<T>();
}

// Chooses "avx512", "avx2" or "baseline"; false where the processor does not have it.
bool use_instruction_set(const char* name);

}  // namespace km
