// What is known of some rows from one call to the next, and the centroids made ready.
#pragma once

#include <array>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "kernel.h"
#include "totals.h"

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
constexpr int64_t kPlaces = 16;
inline int64_t filled(int64_t count) { return (count + kPlaces - 1) / kPlaces * kPlaces; }

constexpr float kTooLargeNorm = 1e36f;  // squared; bounds could overflow
// Memory for each thread that bounds may take beyond what each row may, or distances between
// centroids instead of them.
constexpr int64_t kBoundsOfThread = 40 << 20;

// Rows (count, d) filled up by zeros to a multiple of 16 features.
template <typename T>
std::vector<T> filled_up(const T* rows, int64_t count, int64_t d) {
  const int64_t stride = filled(d);
  std::vector<T> all(size_t(count * stride));
  for (int64_t i = 0; i < count; ++i)
    std::memcpy(all.data() + i * stride, rows + i * d, size_t(d) * sizeof(T));
  return all;
}

struct km_seeding;
class Tree;

struct km_workspace {
  // Makes the centroids (k, d) ready for a search; what it says holds until the next call.
  // labels (n) are those of the last call, or null; keeps says that others will follow; all, that
  // every row is to be measured.
  template <typename T>
  km_search ready(const km_kernel& kernel, const km_rows& rows, const T* centroids, int64_t k,
                  const int64_t* labels, bool keeps, bool all, int threads);
  // To be called after each search of n rows, with what it saw, and how many labels have changed.
  void searched(const km_search& search, int64_t n, const km_seen& seen, int64_t changed);

  // See km_project.
  void project(const float* basis, const float* center, int64_t p, int64_t d);
  // The rows, sorted, where they have few features and can be kept so; else null.
  Tree* tree(const km_rows& rows, int threads);
  // What it knows for seeding, until that ends with the next E-step.
  km_seeding& seeding();
  void end_seeding();

  km_workspace();
  ~km_workspace();

  bool keep = false;         // coordinates of rows
  bool sort = false;         // rows, up to kSortedFeatures
  int64_t directions = 0;    // how many; 0: all features
  std::vector<float> basis;  // (directions / 16 rounded up, d, 16)
  std::vector<float> given_center;   // empty: the mean of the centroids
  int64_t few_centroids = 8;  // not worth bounds: all distances are computed
  double share_visited = 1;
  Totals totals;
  bool knows_inertia = false;  // from totals; distances of rows are not needed for it

 private:
  template <typename T>
  void keep_coordinates_of(const km_rows& rows, km_search& s);
  template <typename T>
  void pack(const km_kernel& kernel, const T* centroids, int threads, km_search& s);
  template <typename T>
  void follow(const T* centroids, int threads, km_search& s);
  void move(km_search& s);
  void choose_bounds(const km_rows& rows, size_t element, int threads, km_search& s);
  void arrange(const std::vector<float>& coordinates, int64_t axes, int32_t* begin, int32_t* end);
  void separate(const km_kernel& kernel, const km_rows& rows, int threads, km_search& s);

  std::vector<int32_t> index_, position_, group_of_;
  std::unique_ptr<char[], Free> centroids_;
  std::unique_ptr<int32_t[], Free> placed_, coordinates_, labels_;
  std::unique_ptr<float[], Free> units_, offsets_, norms_, base_, apart_, between_, closest_,
      reach_;
  std::unique_ptr<uint8_t[], Free> bounds_;
  std::vector<float> center_, moved_least_;
  std::vector<std::array<float, 4>> terms_;
  std::vector<uint8_t> moved_most_, settled_;
  std::vector<double> moved_;
  std::vector<char> before_;  // centroids (k, d) of the last call
  std::vector<double> shifts_;  // (k): how far they have moved since
  std::vector<float> drift_;    // (places)
  int64_t n_ = -1, k_ = -1, groups_ = 0, together_ = 1;
  double spent_ = 0;  // share of pairs visited by distances between centroids, to bring it to rest
  double share_looked_ = 0;  // rows measured against others than their centroid
  double typical_ = 0, step_ = 1;  // distance of a typical row; of bounds
  bool bounded_ = false, arranged_ = false, between_pays_ = true;
  bool followed_ = false;  // reach is there, and before_
  int pause_ = 0, pause_of_apart_ = 0;  // calls that do without
  bool measured_ = false;    // coordinates of rows
  std::unique_ptr<km_seeding> seeding_;
  std::unique_ptr<Tree> tree_;
  bool sorted_ = false;  // or tried to
};
