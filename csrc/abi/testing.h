// Hooks for tests and measurements, which the library exports beside its interface. No promise:
// they may change without notice, KM_ABI_VERSION does not count them, and the package calls none.
#pragma once

#include "abi/native.h"

extern "C" {

// Chooses the loops of an instruction set for all calls that follow, which may be with workspaces
// opened since alone: leaves of boxes and coordinates that an older one keeps are laid out for the
// loops it was opened with, and others would misread them. Without a call, the best set of the
// processor serves. Returns 0, or 1 where the processor does not have the set.
KM_API int km_use_instruction_set(const char* name);  // "avx512", "avx2" or "baseline"

// Returns the share, 0 to 1, of all pairs of a row and a centroid that the last E-step with this
// workspace visited: by a score, a bound on a box of rows, or a distance.
KM_API double km_share_visited(const km_workspace* workspace);
}
