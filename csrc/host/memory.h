// Memory of arrays: aligned to cache lines, in large pages, and of lengths filled up to multiples
// of 16.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "kernel/limits.h"

namespace km {

// Gives back what std::aligned_alloc gave.
struct Free {
  void operator()(void* memory) const { std::free(memory); }
};

// Numbers that nobody has set yet, aligned to 64 bytes.
template <typename T>
using Array = std::unique_ptr<T[], Free>;

constexpr size_t kLargePage = size_t(2) << 20;  // bytes: of x86-64, and most often of arm64

// Asks for large pages in memory that was not used yet: its first use then costs one page fault for
// 2 MB instead of 512, and lookups of addresses miss less often. A wish: errors do not matter.
inline void in_large_pages(void* memory, size_t bytes) {
#if defined(MADV_HUGEPAGE)
  const uintptr_t begin = (uintptr_t(memory) + kLargePage - 1) / kLargePage * kLargePage;
  const uintptr_t end = (uintptr_t(memory) + bytes) / kLargePage * kLargePage;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

// An array of count numbers. At least 64 bytes lie behind the last one, so that a loop may read a
// whole vector there. From 8 MB on it is in large pages; of smaller ones the last page would be too
// large a share. Throws std::bad_alloc.
template <typename T>
Array<T> aligned(size_t count) {
  const size_t bytes = (count * sizeof(T) + 127) / 64 * 64;
  const size_t alignment = bytes < 4 * kLargePage ? 64 : kLargePage;
  void* memory = std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
  if (!memory) throw std::bad_alloc();
  if (alignment == kLargePage) in_large_pages(memory, bytes);
  return Array<T>(static_cast<T*>(memory));
}

// count filled up to a multiple of kLanes, 16.
inline int64_t filled(int64_t count) { return (count + kLanes - 1) / kLanes * kLanes; }

// An array of count numbers for each part, in cache lines of its own: threads that write to one
// cache line by turns slow each other down. Throws std::bad_alloc, hence is called before threads
// start.
template <typename T>
std::vector<Array<T>> for_each_part(int64_t parts, size_t count) {
  std::vector<Array<T>> all;
  for (int64_t p = 0; p < parts; ++p) all.push_back(aligned<T>(count));
  return all;
}

// Copies rows (count, d) to (count, filled(d)), filled up by zeros.
template <typename T>
std::vector<T> filled_up(const T* rows, int64_t count, int64_t d) {
  const int64_t stride = filled(d);
  std::vector<T> all(size_t(count * stride));
  for (int64_t i = 0; i < count; ++i)
    std::memcpy(all.data() + i * stride, rows + i * d, size_t(d) * sizeof(T));
  return all;
}

}  // namespace km
