// Which instruction set serves: the best one that this processor has, or the one that was asked
// for. A wheel has the kernels of all of them.
#pragma once

#include "kernel/table.h"

namespace km {

// The loops that serve now; chosen at the first call.
const Kernels& current_kernels();
// The same for the type T, float or double, that distances are computed in.
template <typename T>
const Kernel<T>& current_kernel() {
  return current_kernels().of<T>();
}

// Chooses "avx512", "avx2" or "baseline" for calls that follow. Workspaces that exist are void
// then: their memory is laid out for the last choice. Returns false, and changes nothing, where the
// processor does not have it.
bool use_instruction_set(const char* name);

}  // namespace km
