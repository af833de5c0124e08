// Splits the rows over threads, and merges what they find in a fixed order.

#include "native.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <new>
#include <system_error>
#include <thread>
#include <vector>

#include "e_step.h"

namespace {

// Work (rows × centroids × features) below which a thread more costs more than it saves.
constexpr double kWorkPerThread = 1 << 18;

struct Choice {
  const char* name;
  const km_kernel* kernel;
  bool available;
};

// The best first.
const std::vector<Choice>& choices() {
  static const std::vector<Choice> all = {
#if defined(__x86_64__)
      {"avx512", &km_avx512,
       __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq")},
      {"avx2", &km_avx2, __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")},
#endif
      {"baseline", &km_baseline, true},
  };
  return all;
}

const km_kernel* best_kernel() {
  for (const Choice& choice : choices())
    if (choice.available) return choice.kernel;
  return &km_baseline;
}

std::atomic<const km_kernel*> kernel_in_use{nullptr};

const km_kernel& current_kernel() {
  const km_kernel* chosen = kernel_in_use.load();
  if (!chosen) kernel_in_use.store(chosen = best_kernel());
  return *chosen;
}

struct Free {
  void operator()(void* memory) const { std::free(memory); }
};

std::unique_ptr<void, Free> aligned(size_t bytes) {
  void* memory = std::aligned_alloc(64, (bytes + 63) / 64 * 64);
  if (!memory) throw std::bad_alloc();
  return std::unique_ptr<void, Free>(memory);
}

// Centroids filled up to a multiple, with ones that no row is near.
template <typename T>
std::vector<T> padded(const void* centroids, int64_t k, int64_t d, int64_t multiple) {
  const T* begin = static_cast<const T*>(centroids);
  std::vector<T> all((k + multiple - 1) / multiple * multiple * d,
                     std::numeric_limits<T>::infinity());
  std::copy(begin, begin + k * d, all.begin());
  return all;
}

// Calls work(part, begin, end, block) for consecutive ranges of the rows, each in its own
// thread; how many there are depends on the sizes and on threads only.
template <typename Work>
void in_parts(const km_rows& rows, const km_kernel& kernel, int64_t parts, const Work& work) {
  std::vector<std::unique_ptr<void, Free>> blocks;
  for (int64_t p = 0; p < parts; ++p)
    blocks.push_back(aligned(size_t(kernel.block_bytes) * size_t(rows.d)));
  auto part = [&](int64_t p) {
    work(p, rows.n * p / parts, rows.n * (p + 1) / parts, blocks[p].get());
  };
  std::vector<std::thread> others;
  for (int64_t p = 1; p < parts; ++p) {
    try {
      others.emplace_back(part, p);
    } catch (const std::system_error&) {  // no thread to be had: do its part here
      part(p);
    }
  }
  part(0);
  for (std::thread& other : others) other.join();
}

int64_t n_parts(const km_rows& rows, int64_t k, int threads) {
  const double work = double(rows.n) * double(k) * double(rows.d);
  return std::max<int64_t>(
      1, std::min<int64_t>({threads, rows.n, static_cast<int64_t>(work / kWorkPerThread) + 1}));
}

template <typename T>
void e_step(const km_rows& rows, const void* given, int64_t k, const km_result& result,
            int threads) {
  const km_kernel& kernel = current_kernel();
  const std::vector<T> centroids = padded<T>(given, k, rows.d, kernel.centroids_together);
  const int64_t k_padded = static_cast<int64_t>(centroids.size()) / rows.d;
  const int64_t parts = n_parts(rows, k, threads);

  // The first part adds to the result itself, the others to sums of their own.
  const size_t n_sums = result.sums ? size_t(k) * size_t(rows.d) : 0;
  const size_t n_counts = result.sums ? size_t(k) : 0;
  std::vector<std::vector<double>> sums(parts), counts(parts);
  std::vector<double> inertia(parts);
  for (int64_t p = 1; p < parts; ++p) {
    sums[p].assign(n_sums, 0.0);
    counts[p].assign(n_counts, 0.0);
  }
  std::fill_n(result.sums, n_sums, 0.0);
  std::fill_n(result.counts, n_counts, 0.0);
  in_parts(rows, kernel, parts, [&](int64_t p, int64_t begin, int64_t end, void* block) {
    km_result own = result;
    own.inertia = &inertia[p];
    if (p && result.sums) own.sums = sums[p].data();
    if (p && result.sums) own.counts = counts[p].data();
    kernel.e_step(rows, centroids.data(), k_padded, begin, end, own, block);
  });

  *result.inertia = 0;
  for (int64_t p = 0; p < parts; ++p) {
    *result.inertia += inertia[p];
    for (size_t i = 0; p && i < n_sums; ++i) result.sums[i] += sums[p][i];
    for (size_t i = 0; p && i < n_counts; ++i) result.counts[i] += counts[p][i];
  }
}

template <typename T>
void potentials(const km_rows& rows, const void* nearest, const void* given, int64_t m,
                double* result, int threads) {
  const km_kernel& kernel = current_kernel();
  const std::vector<T> candidates = padded<T>(given, m, rows.d, kernel.centroids_together);
  const int64_t m_padded = static_cast<int64_t>(candidates.size()) / rows.d;
  const int64_t parts = n_parts(rows, m, threads);
  std::vector<std::vector<double>> own(parts, std::vector<double>(m_padded, 0.0));
  in_parts(rows, kernel, parts, [&](int64_t p, int64_t begin, int64_t end, void* block) {
    kernel.potentials(rows, nearest, candidates.data(), m_padded, begin, end, own[p].data(),
                      block);
  });
  for (int64_t c = 0; c < m; ++c) {
    result[c] = 0;
    for (int64_t p = 0; p < parts; ++p) result[c] += own[p][c];
  }
}

template <typename T>
void lower(const km_rows& rows, void* nearest, const void* given, int threads) {
  const km_kernel& kernel = current_kernel();
  const std::vector<T> center = padded<T>(given, 1, rows.d, kernel.centroids_together);
  in_parts(rows, kernel, n_parts(rows, 1, threads),
           [&](int64_t, int64_t begin, int64_t end, void* block) {
             kernel.lower(rows, nearest, center.data(), begin, end, block);
           });
}

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

}  // namespace

extern "C" int km_e_step(const km_rows* rows, const void* centroids, int64_t k,
                         const km_result* result, int threads) {
  return guarded([&] {
    auto run = rows->is_double ? e_step<double> : e_step<float>;
    run(*rows, centroids, k, *result, threads);
  });
}

extern "C" int km_lower(const km_rows* rows, void* nearest, const void* center, int threads) {
  return guarded([&] {
    auto run = rows->is_double ? lower<double> : lower<float>;
    run(*rows, nearest, center, threads);
  });
}

extern "C" int km_potentials(const km_rows* rows, const void* nearest, const void* candidates,
                             int64_t m, double* result, int threads) {
  return guarded([&] {
    auto run = rows->is_double ? potentials<double> : potentials<float>;
    run(*rows, nearest, candidates, m, result, threads);
  });
}

extern "C" int km_use_instruction_set(const char* name) {
  for (const Choice& choice : choices())
    if (choice.available && std::strcmp(choice.name, name) == 0) {
      kernel_in_use.store(choice.kernel);
      return 0;
    }
  return 1;
}
