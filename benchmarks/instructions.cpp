// Runs a phase of k-means by a compiled library on rows from a file: instructions.py says the
// layout of the file, runs this program under callgrind, or asks it for seconds.
//
//     instructions LIBRARY FILE PHASE ITERATIONS THREADS
//
// Each line of the standard input asks for one run; the answer is a line with the seconds that the
// library took and a hash of what it computed.
#include <dlfcn.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <limits>
#include <string>
#include <vector>

#include "native.h"

namespace {

[[noreturn]] void fail(const std::string& reason) {
  std::fprintf(stderr, "%s\n", reason.c_str());
  std::exit(1);
}

// The functions of the library that are measured.
struct Library {
  decltype(&km_open) open;
  decltype(&km_close) close;
  decltype(&km_project) project;
  decltype(&km_e_step) e_step;
  decltype(&km_lower) lower;
  decltype(&km_potentials) potentials;
  decltype(&km_neighbors) neighbors;

  explicit Library(const char* path) {
    void* const opened = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!opened) fail(dlerror());
    const auto version =
        reinterpret_cast<decltype(&km_abi_version)>(dlsym(opened, "km_abi_version"));
    if (!version || version() != KM_ABI_VERSION)
      fail(std::string(path) + " has another interface than the native.h it is called by");
    find(opened, "km_open", open);
    find(opened, "km_close", close);
    find(opened, "km_project", project);
    find(opened, "km_e_step", e_step);
    find(opened, "km_lower", lower);
    find(opened, "km_potentials", potentials);
    find(opened, "km_neighbors", neighbors);
  }

 private:
  template <typename Function>
  static void find(void* opened, const char* name, Function& function) {
    function = reinterpret_cast<Function>(dlsym(opened, name));
    if (!function) fail(std::string("no function ") + name);
  }
};

// Orthonormal directions (p, d) and the origin (d) of km_project.
struct Directions {
  int64_t p;
  std::vector<float> basis, center;
};

// What the file holds: rows (n, d), initial centroids (k, d), directions of the search and of
// seeding; numbers of rows and centroids are double where is_double, else float.
struct Problem {
  int64_t n, d, k, is_double;
  std::vector<char> x, centroids;
  Directions search, seeding;

  explicit Problem(const char* path) {
    std::ifstream file(path, std::ios::binary);
    int64_t head[6];
    read(file, head, sizeof(head));
    n = head[0], d = head[1], k = head[2], is_double = head[3];
    const int64_t size = is_double ? 8 : 4;
    x.resize(n * d * size), centroids.resize(k * d * size);
    read(file, x.data(), x.size());
    read(file, centroids.data(), centroids.size());
    fill(file, head[4], search);
    fill(file, head[5], seeding);
  }

  km_rows rows() const {
    km_rows rows = {};
    rows.x = x.data(), rows.n = n, rows.d = d;
    rows.row_stride = d, rows.column_stride = 1;
    rows.is_double = static_cast<int32_t>(is_double);
    rows.element = is_double ? KM_FLOAT64 : KM_FLOAT32;
    return rows;
  }

 private:
  static void read(std::ifstream& file, void* to, size_t n_bytes) {
    if (!file.read(static_cast<char*>(to), static_cast<std::streamsize>(n_bytes)))
      fail("the file of the problem is too short");
  }
  void fill(std::ifstream& file, int64_t p, Directions& directions) const {
    directions.p = p;
    directions.basis.resize(p * d), directions.center.resize(d);
    read(file, directions.basis.data(), p * d * sizeof(float));
    read(file, directions.center.data(), d * sizeof(float));
  }
};

// Seconds that calls of the library took, and what they returned.
struct Watch {
  double seconds = 0;
  uint64_t hash = 14695981039346656037u;  // FNV-1a

  template <typename Call>
  void operator()(const Call& call) {
    const auto begin = std::chrono::steady_clock::now();
    if (call()) fail("no memory");
    seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  }
  template <typename T>
  void note(const std::vector<T>& values) {
    const auto* bytes = reinterpret_cast<const unsigned char*>(values.data());
    for (size_t i = 0; i < values.size() * sizeof(T); ++i)
      hash = (hash ^ bytes[i]) * 1099511628211u;
  }
};

struct Run {
  const Library& library;
  const Problem& problem;
  int64_t iterations;
  int threads;
};

// A workspace as the package opens one, closed in the end.
class Workspace {
 public:
  Workspace(const Run& run, const Directions& directions, Watch& watch) : library_(run.library) {
    constexpr int64_t kSorted = 4096;  // rows from which the package has them sorted
    watch([&] { return !(handle = library_.open(1, run.problem.n >= kSorted)); });
    if (directions.p)
      watch([&] {
        return library_.project(handle, directions.basis.data(), directions.center.data(),
                                directions.p, run.problem.d);
      });
  }
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;
  ~Workspace() { library_.close(handle); }

  km_workspace* handle = nullptr;

 private:
  const Library& library_;
};

// Lloyd's iterations: E-steps without distances, the last one with them.
template <typename T>
Watch lloyd(const Run& run) {
  const Problem& problem = run.problem;
  const int64_t n = problem.n, d = problem.d, k = problem.k;
  std::vector<T> centroids(k * d), distances(n);
  std::memcpy(centroids.data(), problem.centroids.data(), problem.centroids.size());
  std::vector<int64_t> labels(n), changed(1);
  std::vector<double> sums(k * d), counts(k), inertia(1);
  Watch watch;
  const Workspace workspace(run, problem.search, watch);
  const km_rows rows = problem.rows();
  for (int64_t i = 0; i < run.iterations; ++i) {
    km_result result = {};
    result.labels = labels.data(), result.sums = sums.data(), result.counts = counts.data();
    result.inertia = inertia.data(), result.changed = changed.data(), result.warm = i > 0;
    if (i == run.iterations - 1) result.distances = distances.data();
    watch([&] {
      return run.library.e_step(&rows, centroids.data(), k, &result, workspace.handle, run.threads);
    });
    for (int64_t c = 0; c < k; ++c)
      for (int64_t j = 0; j < d && counts[c] > 0; ++j)
        centroids[c * d + j] = static_cast<T>(sums[c * d + j] / counts[c]);
    watch.note(labels), watch.note(sums), watch.note(inertia), watch.note(changed);
  }
  watch.note(distances);
  return watch;
}

// Greedy k-means++ of a center for each iteration: the best of candidates, which are drawn by
// their squared distance to the nearest center.
template <typename T>
Watch seeding(const Run& run) {
  const Problem& problem = run.problem;
  const int64_t n = problem.n, d = problem.d;
  constexpr int64_t m = 16;  // candidates of the package for each center
  const T* const x = reinterpret_cast<const T*>(problem.x.data());
  std::vector<T> nearest(n, std::numeric_limits<T>::infinity()), candidates(m * d);
  std::vector<double> cumulative(n), potentials(m);
  uint64_t state = 1;
  Watch watch;
  const Workspace workspace(run, problem.seeding, watch);
  const km_rows rows = problem.rows();
  std::vector<T> center(x, x + d);
  for (int64_t i = 0; i < run.iterations; ++i) {
    watch([&] {
      return run.library.lower(&rows, nearest.data(), center.data(), i > 0, workspace.handle,
                               run.threads);
    });
    double sum = 0;
    for (int64_t row = 0; row < n; ++row) cumulative[row] = sum += nearest[row];
    for (int64_t c = 0; c < m; ++c) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      const double target = static_cast<double>(state >> 11) * 0x1p-53 * sum;
      const int64_t row =
          std::upper_bound(cumulative.begin(), cumulative.end() - 1, target) - cumulative.begin();
      std::copy(x + row * d, x + (row + 1) * d, candidates.begin() + c * d);
    }
    watch([&] {
      return run.library.potentials(&rows, nearest.data(), candidates.data(), m, 1,
                                    potentials.data(), workspace.handle, run.threads);
    });
    const int64_t best =
        std::min_element(potentials.begin(), potentials.end()) - potentials.begin();
    std::copy(candidates.begin() + best * d, candidates.begin() + (best + 1) * d, center.begin());
    watch.note(potentials);
  }
  watch.note(nearest);
  return watch;
}

// The eight nearest centroids of each row, as often as there are iterations.
template <typename T>
Watch neighbors(const Run& run) {
  const Problem& problem = run.problem;
  const int64_t n = problem.n, k = problem.k, m = k < 8 ? k : 8;
  std::vector<int64_t> labels(n * m);
  std::vector<T> distances(n * m);
  Watch watch;
  for (int64_t i = 0; i < run.iterations; ++i)
    watch([&] {
      return run.library.neighbors(problem.x.data(), sizeof(T) == 8, n, problem.d,
                                   problem.centroids.data(), k, m, labels.data(), distances.data(),
                                   run.threads);
    });
  watch.note(labels), watch.note(distances);
  return watch;
}

template <typename T>
Watch measure(const std::string& phase, const Run& run) {
  if (phase == "lloyd") return lloyd<T>(run);
  if (phase == "seeding") return seeding<T>(run);
  if (phase == "neighbors") return neighbors<T>(run);
  fail("no phase " + phase);
}

}  // namespace

int main(int n_arguments, char** arguments) {
  if (n_arguments != 6) fail("instructions LIBRARY FILE PHASE ITERATIONS THREADS");
  const Library library(arguments[1]);
  const Problem problem(arguments[2]);
  const Run run = {library, problem, std::atoll(arguments[4]), std::atoi(arguments[5])};
  while (std::getchar() != EOF) {
    const Watch watch =
        problem.is_double ? measure<double>(arguments[3], run) : measure<float>(arguments[3], run);
    std::printf("%.9f %016llx\n", watch.seconds, static_cast<unsigned long long>(watch.hash));
    std::fflush(stdout);
  }
}
