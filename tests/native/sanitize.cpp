// Runs every native function on a grid of shapes; tests/backends/test_sanitizers.py builds it with
// sanitizers.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "abi/native.h"
#include "abi/testing.h"

namespace {

unsigned state = 1;
double uniform() { return (state = state * 1664525u + 1013904223u) / 4294967296.0; }

// Exactly as many elements as asked for, on the heap: one too far is seen.
template <typename T>
std::unique_ptr<T[]> random(size_t n) {
  auto values = std::make_unique<T[]>(n);
  for (size_t i = 0; i < n; ++i) values[i] = static_cast<T>(uniform() - 0.5);
  return values;
}

// Rows are numbers of T, or with an element bytes that are read as such.
template <typename T>
int check(int64_t n, int64_t d, int64_t k, bool columns_first, bool weighted, bool cosine,
          int threads, int32_t element = sizeof(T) == 8, int64_t size = sizeof(T)) {
  auto x = std::make_unique<char[]>(n * d * size);
  for (int64_t i = 0; i < n * d * size; ++i) x[i] = char(i * 37 % 120);  // finite in every type
  if (element <= KM_FLOAT64) std::memcpy(x.get(), random<T>(n * d).get(), n * d * size);
  int32_t beyond = 0;
  auto centroids = random<T>(k * d), nearest = random<T>(n);
  auto weights = random<double>(n);
  for (int64_t i = 0; i < n; ++i) weights[i] = std::fabs(weights[i]);
  const km_rows rows = {x.get(),
                        n,
                        d,
                        columns_first ? 1 : d,
                        columns_first ? n : 1,
                        weighted ? weights.get() : nullptr,
                        sizeof(T) == 8,
                        cosine,
                        element,
                        &beyond};
  std::vector<int64_t> labels(n);
  std::vector<T> distances(n);
  std::vector<double> sums(k * d), counts(k), potentials(k), spread(3 * d);
  double inertia = 0;
  int64_t changed = 0;
  km_workspace* workspace = km_open(columns_first, !columns_first);
  if (d > 31) {  // the first features as directions
    std::vector<float> basis(15 * d), center(d);
    for (int64_t i = 0; i < 15; ++i) basis[i * d + i] = 1;
    if (km_project(workspace, basis.data(), center.data(), 15, d)) return 1;
  }
  km_result result = {
      labels.data(), distances.data(), sums.data(), counts.data(), &inertia, &changed, 0};
  int failed = 0;
  for (int call = 0; call < 2; ++call) {  // coordinates are measured, and used again
    failed += km_potentials(&rows, nearest.get(), centroids.get(), k, call, potentials.data(),
                            workspace, threads);
    failed += km_lower(&rows, nearest.get(), centroids.get(), call, workspace, threads);
  }
  std::vector<int64_t> of_blocks((n + 15) / 16);
  failed +=
      km_block_sums(distances.data(), sizeof(T) == 8, n, 16, 30, 40, of_blocks.data(), threads);
  if (n) {
    const int64_t targets[] = {0, 1, int64_t{1} << 62};
    int64_t positions[3];
    failed += km_search_sums(distances.data(), sizeof(T) == 8, n, 16, 30, 40, of_blocks.data(),
                             targets, 3, positions);
    for (int64_t position : positions) failed += position < 0 || position >= n;
  }
  for (int call = 0; call < 7; ++call) {  // bounds are made, used, and used again
    result.distances = call < 4 ? distances.data() : nullptr;  // rows that stay are not measured
    failed += km_e_step(&rows, centroids.get(), k, &result, workspace, threads);
    for (int64_t i = 0; i < n; ++i)
      failed += labels[i] < 0 || labels[i] >= k || !(distances[i] >= 0);
    if (result.distances) {
      std::vector<T> again(n);
      failed += km_label_distances(&rows, centroids.get(), k, labels.data(), again.data(), threads);
      failed += again != distances;
    }
    for (int64_t j = 0; j < k * d; ++j) centroids[j] += static_cast<T>(0.01 * (uniform() - 0.5));
    result.warm = 1;
  }
  km_close(workspace);
  result.distances = nullptr;
  result.sums = result.counts = nullptr;
  failed += km_e_step(&rows, centroids.get(), k, &result, nullptr, threads);
  return failed + km_spread(&rows, nullptr, spread.data(), spread.data() + d, spread.data() + 2 * d,
                            threads);
}

// Rows of which about a fourth of the numbers are given; none, of some rows.
template <typename T>
int check_sparse(int64_t n, int64_t d, int64_t k, bool weighted, bool cosine, int threads) {
  std::vector<int64_t> starts(1);
  std::vector<int32_t> columns;
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < d; ++j)
      if (i % 5 && uniform() < 0.25) columns.push_back(static_cast<int32_t>(j));
    starts.push_back(static_cast<int64_t>(columns.size()));
  }
  auto given = std::make_unique<int32_t[]>(columns.size());
  std::copy(columns.begin(), columns.end(), given.get());
  auto values = random<T>(columns.size()), unit = random<T>(columns.size());
  if (columns.size() > 2) values[0] = T(1e38);  // products overflow
  auto centroids = random<T>(k * d), nearest = random<T>(n);
  auto weights = random<double>(n);
  km_sparse rows = {
      starts.data(),  given.get(), values.get(), n, d, weighted ? weights.get() : nullptr,
      sizeof(T) == 8, cosine};
  int failed = km_sparse_unit(&rows, unit.get(), threads);
  if (cosine) rows.values = unit.get();
  auto labels = std::make_unique<int64_t[]>(n);
  auto distances = std::make_unique<T[]>(n);
  auto sums = std::make_unique<double[]>(k * d), counts = std::make_unique<double[]>(k);
  auto potentials = std::make_unique<double[]>(k);
  double inertia = 0;
  int64_t changed = 0;
  failed +=
      km_sparse_potentials(&rows, nearest.get(), centroids.get(), k, potentials.get(), threads);
  failed += km_sparse_lower(&rows, nearest.get(), centroids.get(), threads);
  auto pairs = std::make_unique<T[]>(n * k);
  failed += km_sparse_distances(&rows, centroids.get(), k, pairs.get(), threads);
  for (int call = 0; call < 4; ++call) {
    const bool sums_up = call != 3;
    const km_result result = {labels.get(),
                              call % 2 ? nullptr : distances.get(),
                              sums_up ? sums.get() : nullptr,
                              sums_up ? counts.get() : nullptr,
                              &inertia,
                              &changed,
                              call > 0};
    failed += km_sparse_e_step(&rows, centroids.get(), k, &result, threads);
    failed +=
        km_sparse_label_distances(&rows, centroids.get(), k, labels.get(), nearest.get(), threads);
    for (int64_t i = 0; i < n; ++i) failed += labels[i] < 0 || labels[i] >= k;
  }
  return failed;
}

template <typename T>
int check_beams(int64_t n, int64_t d, int64_t k, int64_t beam_size, int threads) {
  const int64_t levels = 3;
  auto x = random<T>(n * d), codebooks = random<T>(levels * k * d);
  if (n > 2) x[0] = T(1e30);  // what screens overflows
  auto codes = std::make_unique<int64_t[]>(n * levels);
  auto left = std::make_unique<T[]>(n * d);
  int failed = km_beam_search(x.get(), sizeof(T) == 8, n, d, codebooks.get(), levels, k, beam_size,
                              codes.get(), left.get(), threads);
  for (int64_t i = 0; i < n * levels; ++i) failed += codes[i] < 0 || codes[i] >= k;
  return failed;
}

}  // namespace

int main() {
  int failed = 0, instruction_sets = 0;
  for (const char* name : {"baseline", "avx2", "avx512"}) {
    if (km_use_instruction_set(name)) continue;
    ++instruction_sets;
    for (int64_t n : {0, 1, 15, 64, 65, 1000})
      for (int64_t d : {1, 8, 9, 24, 65})
        for (int64_t k : {1, 5, 33}) {
          for (int64_t beam_size : {1, 5, 64})
            if (n < 1000 || beam_size < 64) {
              failed += check_beams<float>(n, d, k, beam_size, 3);
              failed += check_beams<double>(n, d, k, beam_size, 3);
            }
          for (int options = 0; options < 8; ++options) {
            const int threads = options & 4 ? 3 : 1;
            failed += check_sparse<float>(n, d, k, options & 1, options & 2, threads);
            failed += check_sparse<double>(n, d, k, options & 1, options & 2, threads);
          }
          for (int options = 0; options < 8; ++options)
            for (int threads : {1, 3}) {
              const bool a = options & 1, b = options & 2, c = options & 4;
              failed += check<float>(n, d, k, a, b, c, threads);
              failed += check<double>(n, d, k, a, b, c, threads);
              constexpr int64_t kSizes[] = {4, 8, 2, 2, 1, 1, 1, 2, 2, 4, 4, 8, 8};
              for (int32_t element = KM_FLOAT16; n == 65 && element <= KM_INT64; ++element) {
                failed += check<float>(n, d, k, a, b, c, threads, element, kSizes[element]);
                failed += check<double>(n, d, k, a, b, c, threads, element, kSizes[element]);
              }
            }
        }
  }
  std::printf("%d instruction sets, %d failed\n", instruction_sets, failed);
  return failed || !instruction_sets;
}
