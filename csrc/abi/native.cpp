// The C interface: each function finds the computed type (see native.h) once, gives the numbers
// behind its pointers that type, and calls host/.

#include "abi/native.h"

#include <new>

#include "abi/guarded.h"
#include "host/beam.h"
#include "host/e_step.h"
#include "host/label_distances.h"
#include "host/mapped_files.h"
#include "host/memory.h"
#include "host/moments.h"
#include "host/sampling.h"
#include "host/seeding_step.h"
#include "host/sparse_e_step.h"
#include "host/sparse_rows.h"
#include "host/sparse_seeding.h"
#include "host/threads.h"
#include "host/unit_rows.h"

using namespace km;

namespace {

// The computed type T, as a value that a generic lambda can take (C++17 has no lambdas with a
// template parameter). Called with a void* of the interface, it says what the pointer points to,
// and functions of host/ find their T from that.
template <typename T>
struct Computed {
  using Type = T;

  T* operator()(void* numbers) const { return static_cast<T*>(numbers); }
  const T* operator()(const void* numbers) const { return static_cast<const T*>(numbers); }

  Result<T> operator()(const km_result& result) const {
    return {result.labels,  (*this)(result.distances), result.sums, result.counts, result.inertia,
            result.changed, result.warm != 0};
  }
};

// Calls work(Computed<double>{}) or work(Computed<float>{}); returns what an interface function
// returns.
template <typename Work>
int typed(bool is_double, const Work& work) {
  return guarded([&] { is_double ? work(Computed<double>{}) : work(Computed<float>{}); });
}

}  // namespace

extern "C" int km_abi_version(void) { return KM_ABI_VERSION; }

// --- Workspaces

extern "C" km_workspace* km_open(int keep, int sort) {
  km_workspace* const opened = new (std::nothrow) km_workspace;
  if (opened) opened->settings.keep = keep, opened->settings.sort = sort;
  return opened;
}

extern "C" void km_close(km_workspace* workspace) { delete workspace; }

extern "C" int km_project(km_workspace* workspace, const float* basis, const float* center,
                          int64_t p, int64_t d) {
  return guarded([&] { workspace->project(basis, center, p, d); });
}

// --- E-steps and seeding of dense rows

extern "C" int km_e_step(const km_rows* rows, const void* centroids, int64_t k,
                         const km_result* result, km_workspace* workspace, int threads) {
  return typed(rows->is_double,
               [&](auto as) { e_step(*rows, as(centroids), k, as(*result), workspace, threads); });
}

extern "C" int km_label_distances(const km_rows* rows, const void* centroids, int64_t k,
                                  const int64_t* labels, void* distances, int threads) {
  return typed(rows->is_double, [&](auto as) {
    label_distances(*rows, as(centroids), k, labels, as(distances), threads);
  });
}

extern "C" int km_lower(const km_rows* rows, void* nearest, const void* center, int unchanged,
                        km_workspace* workspace, int threads) {
  return typed(rows->is_double, [&](auto as) {
    using T = typename decltype(as)::Type;
    lower(*rows, as(nearest), as(center), unchanged, workspace->of<T>(), threads);
  });
}

extern "C" int km_potentials(const km_rows* rows, const void* nearest, const void* candidates,
                             int64_t m, int unchanged, double* result, km_workspace* workspace,
                             int threads) {
  return typed(rows->is_double, [&](auto as) {
    using T = typename decltype(as)::Type;
    potentials(*rows, as(nearest), as(candidates), m, unchanged, result, workspace->of<T>(),
               threads);
  });
}

// --- Sparse rows

extern "C" int km_sparse_e_step(const km_sparse* rows, const void* centroids, int64_t k,
                                const km_result* result, int threads) {
  return typed(rows->is_double,
               [&](auto as) { sparse_e_step(*rows, as(centroids), k, as(*result), threads); });
}

extern "C" int km_sparse_label_distances(const km_sparse* rows, const void* centroids, int64_t k,
                                         const int64_t* labels, void* distances, int threads) {
  return typed(rows->is_double, [&](auto as) {
    sparse_label_distances(*rows, as(centroids), k, labels, as(distances), threads);
  });
}

extern "C" int km_sparse_lower(const km_sparse* rows, void* nearest, const void* center,
                               int threads) {
  return typed(rows->is_double,
               [&](auto as) { sparse_lower(*rows, as(nearest), as(center), threads); });
}

extern "C" int km_sparse_potentials(const km_sparse* rows, const void* nearest,
                                    const void* candidates, int64_t m, double* result,
                                    int threads) {
  return typed(rows->is_double, [&](auto as) {
    sparse_potentials(*rows, as(nearest), as(candidates), m, result, threads);
  });
}

extern "C" int km_sparse_distances(const km_sparse* rows, const void* centroids, int64_t k,
                                   void* distances, int threads) {
  return typed(rows->is_double,
               [&](auto as) { sparse_distances(*rows, as(centroids), k, as(distances), threads); });
}

extern "C" int km_sparse_unit(const km_sparse* rows, void* values, int threads) {
  return typed(rows->is_double, [&](auto as) { sparse_unit(*rows, as(values), threads); });
}

// --- Cumulative sums and draws

extern "C" int km_block_sums(const void* values, int is_double, int64_t n, int64_t size,
                             int exponent, int bits, int64_t* sums, int threads) {
  return typed(is_double, [&](auto as) {
    using T = typename decltype(as)::Type;
    block_sums<T>({as(values), n, size, exponent, bits}, sums, threads);
  });
}

extern "C" int km_search_sums(const void* values, int is_double, int64_t n, int64_t size,
                              int exponent, int bits, const int64_t* sums, const int64_t* targets,
                              int64_t m, int64_t* positions) {
  return typed(is_double, [&](auto as) {
    using T = typename decltype(as)::Type;
    search_sums<T>({as(values), n, size, exponent, bits}, sums, targets, m, positions);
  });
}

extern "C" int km_draw(const void* values, int is_double, int64_t n, int64_t size, int exponent,
                       int bits, const double* numbers, int64_t m, int64_t* positions,
                       int threads) {
  return typed(is_double, [&](auto as) {
    using T = typename decltype(as)::Type;
    draw<T>({as(values), n, size, exponent, bits}, numbers, m, positions, threads);
  });
}

// --- Rows as they are

extern "C" int km_load(const km_rows* rows, void* to, int threads) {
  return typed(rows->is_double, [&](auto as) { load(*rows, as(to), threads); });
}

extern "C" int km_spread(const km_rows* rows, const double* center, double* low, double* high,
                         double* sums, int threads) {
  return typed(rows->is_double, [&](auto as) {
    using T = typename decltype(as)::Type;
    moments<T>(*rows, center, low, high, sums, threads);
  });
}

// --- Beam search; the nearest centroids are the beam of a single level

extern "C" int km_beam_search(const void* x, int is_double, int64_t n, int64_t d,
                              const void* codebooks, int64_t levels, int64_t k, int64_t beam_size,
                              int64_t* codes, void* left, int threads) {
  return typed(is_double, [&](auto as) {
    beam_search<typename decltype(as)::Type>({n, d, levels, k, beam_size}, as(x), as(codebooks),
                                             {codes, as(left), nullptr}, threads);
  });
}

extern "C" int km_neighbors(const void* x, int is_double, int64_t n, int64_t d,
                            const void* centroids, int64_t k, int64_t m, int64_t* labels,
                            void* distances, int threads) {
  return typed(is_double, [&](auto as) {
    beam_search<typename decltype(as)::Type>({n, d, 1, k, m}, as(x), as(centroids),
                                             {labels, nullptr, as(distances)}, threads);
  });
}

// --- Files that are mapped into memory, and forks

extern "C" int km_guard_mapping(const void* start, int64_t n_bytes) {
  return guard_mapping(start, n_bytes);
}

extern "C" int km_mapping_was_cut(int mapping) { return mapping_was_cut(mapping); }

extern "C" void km_release_mapping(int mapping) { release_mapping(mapping); }

extern "C" void km_forked(void) { note_fork(); }
