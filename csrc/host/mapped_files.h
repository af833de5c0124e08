// Files that are mapped into memory and cut short while somebody reads them. The pages that the
// file has lost would end the process by SIGBUS; here they read as zeros, and the mapping is
// marked, so that the caller can refuse what was computed from it. See km_guard_mapping.
#pragma once

#include <cstdint>

namespace km {

int guard_mapping(const void* start, int64_t n_bytes);
int mapping_was_cut(int mapping);
void release_mapping(int mapping);

}  // namespace km
