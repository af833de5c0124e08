// Memory, aligned and filled up.
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

#include "abi/native.h"

namespace km {

struct Free {
  void operator()(void* memory) const { std::free(memory); }
};

// Large pages for memory, where there are: fewer of them are to be found when it is first used.
constexpr size_t kLarge = size_t(2) << 20;
inline void in_large_pages(void* memory, size_t bytes) {
#if defined(MADV_HUGEPAGE)
  const uintptr_t begin = (uintptr_t(memory) + kLarge - 1) / kLarge * kLarge;
  const uintptr_t end = (uintptr_t(memory) + bytes) / kLarge * kLarge;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

// Memory that is not filled, aligned to 64 bytes; much of it in large pages.
template <typename T>
std::unique_ptr<T[], Free> aligned(size_t count) {
  const size_t bytes = (count * sizeof(T) + 127) / 64 * 64;
  const size_t alignment = bytes < 4 * kLarge ? 64 : kLarge;
  void* memory = std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
  if (!memory) throw std::bad_alloc();
  if (alignment == kLarge) in_large_pages(memory, bytes);
  return std::unique_ptr<T[], Free>(static_cast<T*>(memory));
}

// Centroids come by sixteen, as features do.
constexpr int64_t kPlaces = KM_LANES;
inline int64_t filled(int64_t count) { return (count + kPlaces - 1) / kPlaces * kPlaces; }

// A number for each of so many things, not filled, aligned to 64 bytes.
template <typename T>
using Array = std::unique_ptr<T[], Free>;

// Memory of each part, so many numbers.
template <typename T>
std::vector<Array<T>> for_each_part(int64_t parts, size_t count) {
  std::vector<Array<T>> all;
  for (int64_t p = 0; p < parts; ++p) all.push_back(aligned<T>(count));
  return all;
}

// Rows (count, d) filled up by zeros to a multiple of 16 features.
template <typename T>
std::vector<T> filled_up(const T* rows, int64_t count, int64_t d) {
  const int64_t stride = filled(d);
  std::vector<T> all(size_t(count * stride));
  for (int64_t i = 0; i < count; ++i)
    std::memcpy(all.data() + i * stride, rows + i * d, size_t(d) * sizeof(T));
  return all;
}

}  // namespace km
