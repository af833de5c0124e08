// Files that are mapped into memory (numpy.memmap, torch.from_file) and cut short by another
// process while somebody reads them. Reading a page that the file has lost would end this process
// by SIGBUS; here such pages read as zeros, and the mapping is marked, so that the caller refuses
// what was computed from them. See km_guard_mapping.
#pragma once

#include <cstdint>

namespace km {

// Guards memory (n_bytes) that a file is mapped into. Returns the number of the mapping for the two
// functions below; -1 where that is not possible: all places are taken, n_bytes is not positive, or
// the system has no SIGBUS.
int guard_mapping(const void* start, int64_t n_bytes);
// Whether a lost page was read since guard_mapping: 0 or 1.
int mapping_was_cut(int mapping);
// Ends the guard, before the memory is unmapped.
void release_mapping(int mapping);

}  // namespace km
