// What the functions of the C interface have in common.
#pragma once

#include <new>

#include "host/denormals.h"

namespace km {

// Calls work() with denormal numbers switched on (torch.set_flush_denormal may have switched them
// off), and keeps C++ exceptions from a caller in C. Returns 0, or 1 where there is no memory.
template <typename Work>
int guarded(const Work& work) {
  const WithDenormals counting;
  try {
    work();
    return 0;
  } catch (const std::bad_alloc&) {
    return 1;
  }
}

}  // namespace km
