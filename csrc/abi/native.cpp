// The C interface: each function finds the type that distances are computed in, once, and calls
// host/.

#include "abi/native.h"

#include <new>

#include "abi/guarded.h"
#include "host/beam.h"
#include "host/dispatch.h"
#include "host/e_step.h"
#include "host/mapped_files.h"
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

// Numbers of the type that is computed in, of which the interface says nothing.
struct Numbers {
  void* first;
  template <typename T>
  operator T*() const {
    return static_cast<T*>(first);
  }
};
struct ConstNumbers {
  const void* first;
  template <typename T>
  operator const T*() const {
    return static_cast<const T*>(first);
  }
};

// Calls work with a number of the type that is computed in; returns what an interface function
// does.
template <typename Work>
int typed(bool is_double, const Work& work) {
  return guarded([&] { is_double ? work(double{}) : work(float{}); });
}

template <typename T>
Result<T> result_of(const km_result& result) {
  return {result.labels,  Numbers{result.distances}, result.sums, result.counts, result.inertia,
          result.changed, result.warm != 0};
}

}  // namespace

extern "C" int km_abi_version(void) { return KM_ABI_VERSION; }

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

extern "C" double km_share_visited(const km_workspace* workspace) {
  return workspace->settings.share_visited;
}

extern "C" int km_e_step(const km_rows* rows, const void* centroids, int64_t k,
                         const km_result* result, km_workspace* workspace, int threads) {
  return typed(rows->is_double, [&](auto zero) {
    using T = decltype(zero);
    e_step<T>(*rows, ConstNumbers{centroids}, k, result_of<T>(*result), workspace, threads);
  });
}

extern "C" int km_lower(const km_rows* rows, void* nearest, const void* center, int unchanged,
                        km_workspace* workspace, int threads) {
  return typed(rows->is_double, [&](auto zero) {
    using T = decltype(zero);
    lower<T>(*rows, Numbers{nearest}, ConstNumbers{center}, unchanged, workspace->of<T>(), threads);
  });
}

extern "C" int km_potentials(const km_rows* rows, const void* nearest, const void* candidates,
                             int64_t m, int unchanged, double* result, km_workspace* workspace,
                             int threads) {
  return typed(rows->is_double, [&](auto zero) {
    using T = decltype(zero);
    potentials<T>(*rows, ConstNumbers{nearest}, ConstNumbers{candidates}, m, unchanged, result,
                  workspace->of<T>(), threads);
  });
}

extern "C" int km_sparse_e_step(const km_sparse* rows, const void* centroids, int64_t k,
                                const km_result* result, int threads) {
  return typed(rows->is_double, [&](auto zero) {
    using T = decltype(zero);
    sparse_e_step<T>(*rows, ConstNumbers{centroids}, k, result_of<T>(*result), threads);
  });
}

extern "C" int km_sparse_lower(const km_sparse* rows, void* nearest, const void* center,
                               int threads) {
  return typed(rows->is_double, [&](auto zero) {
    sparse_lower<decltype(zero)>(*rows, Numbers{nearest}, ConstNumbers{center}, threads);
  });
}

extern "C" int km_sparse_potentials(const km_sparse* rows, const void* nearest,
                                    const void* candidates, int64_t m, double* result,
                                    int threads) {
  return typed(rows->is_double, [&](auto zero) {
    sparse_potentials<decltype(zero)>(*rows, ConstNumbers{nearest}, ConstNumbers{candidates}, m,
                                      result, threads);
  });
}

extern "C" int km_sparse_distances(const km_sparse* rows, const void* centroids, int64_t k,
                                   void* distances, int threads) {
  return typed(rows->is_double, [&](auto zero) {
    sparse_distances<decltype(zero)>(*rows, ConstNumbers{centroids}, k, Numbers{distances},
                                     threads);
  });
}

extern "C" int km_sparse_unit(const km_sparse* rows, void* values, int threads) {
  return typed(rows->is_double,
               [&](auto zero) { sparse_unit<decltype(zero)>(*rows, Numbers{values}, threads); });
}

extern "C" int km_block_sums(const void* values, int is_double, int64_t n, int64_t size,
                             int exponent, int bits, int64_t* sums, int threads) {
  return typed(is_double, [&](auto zero) {
    block_sums<decltype(zero)>({ConstNumbers{values}, n, size, exponent, bits}, sums, threads);
  });
}

extern "C" int km_search_sums(const void* values, int is_double, int64_t n, int64_t size,
                              int exponent, int bits, const int64_t* sums, const int64_t* targets,
                              int64_t m, int64_t* positions) {
  return typed(is_double, [&](auto zero) {
    search_sums<decltype(zero)>({ConstNumbers{values}, n, size, exponent, bits}, sums, targets, m,
                                positions);
  });
}

extern "C" int km_draw(const void* values, int is_double, int64_t n, int64_t size, int exponent,
                       int bits, const double* numbers, int64_t m, int64_t* positions,
                       int threads) {
  return typed(is_double, [&](auto zero) {
    draw<decltype(zero)>({ConstNumbers{values}, n, size, exponent, bits}, numbers, m, positions,
                         threads);
  });
}

extern "C" int km_load(const km_rows* rows, void* to, int threads) {
  return typed(rows->is_double,
               [&](auto zero) { load<decltype(zero)>(*rows, Numbers{to}, threads); });
}

extern "C" int km_spread(const km_rows* rows, const double* center, double* low, double* high,
                         double* sums, int threads) {
  return typed(rows->is_double, [&](auto zero) {
    moments<decltype(zero)>(*rows, center, low, high, sums, threads);
  });
}

extern "C" int km_beam_search(const void* x, int is_double, int64_t n, int64_t d,
                              const void* codebooks, int64_t levels, int64_t k, int64_t beam_size,
                              int64_t* codes, void* left, int threads) {
  return typed(is_double, [&](auto zero) {
    using T = decltype(zero);
    beam_search<T>({n, d, levels, k, beam_size}, ConstNumbers{x}, ConstNumbers{codebooks},
                   {codes, Numbers{left}, nullptr}, threads);
  });
}

extern "C" int km_neighbors(const void* x, int is_double, int64_t n, int64_t d,
                            const void* centroids, int64_t k, int64_t m, int64_t* labels,
                            void* distances, int threads) {
  return typed(is_double, [&](auto zero) {
    using T = decltype(zero);
    beam_search<T>({n, d, 1, k, m}, ConstNumbers{x}, ConstNumbers{centroids},
                   {labels, nullptr, Numbers{distances}}, threads);
  });
}

extern "C" int km_guard_mapping(const void* start, int64_t n_bytes) {
  return guard_mapping(start, n_bytes);
}
extern "C" int km_mapping_was_cut(int mapping) { return mapping_was_cut(mapping); }
extern "C" void km_release_mapping(int mapping) { release_mapping(mapping); }

extern "C" void km_forked(void) { note_fork(); }

extern "C" int km_use_instruction_set(const char* name) { return !use_instruction_set(name); }
