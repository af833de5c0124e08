// What functions of the C interface return where memory is lacking.
#pragma once

#include <new>

// 0, or 1 where there is no memory.
template <typename Work>
int guarded(const Work& work) {
  try {
    work();
    return 0;
  } catch (const std::bad_alloc&) {
    return 1;
  }
}
