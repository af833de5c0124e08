// The C interface of the native kernels: plain pointers and sizes, no torch headers.
#pragma once

#include <cstdint>

#define KM_API __attribute__((visibility("default")))

extern "C" {

// The version of this interface: a library that was built for another one does not serve.
#define KM_ABI_VERSION 4
KM_API int km_abi_version(void);

// Types of the numbers of rows.
enum km_element {
  KM_FLOAT32 = 0,
  KM_FLOAT64 = 1,
  KM_FLOAT16 = 2,
  KM_BFLOAT16 = 3,
  KM_BOOL = 4,
  KM_UINT8 = 5,
  KM_INT8 = 6,
  KM_UINT16 = 7,
  KM_INT16 = 8,
  KM_UINT32 = 9,
  KM_INT32 = 10,
  KM_UINT64 = 11,
  KM_INT64 = 12,
};

// Rows of one problem: sample i, feature j is x[i * row_stride + j * column_stride]. They are
// converted block by block to the type that is computed in, which says nothing else than copies
// of all rows in that type would.
struct km_rows {
  const void* x;
  int64_t n, d;
  int64_t row_stride, column_stride;  // in elements
  const double* weights;              // (n) or null for weight 1
  int32_t is_double;                  // computed in double, else in float
  int32_t cosine;                     // scale rows to unit length; zero rows weigh nothing
  int32_t element;                    // km_element: the type of x
  int32_t* beyond;                    // or null: becomes 1 where x has integers beyond 2^24, which
                                      // are not to be computed in float: results are void then
};

// Rows of one problem of which only some numbers are given, the others being 0 (CSR): those of row
// i are values[starts[i]] to values[starts[i + 1] - 1], of the features columns[..], which ascend.
struct km_sparse {
  const int64_t* starts;  // (n + 1)
  const int32_t* columns;
  const void* values;  // of the type that is computed in; for cosine as km_sparse_unit says
  int64_t n, d;
  const double* weights;  // (n) or null for weight 1
  int32_t is_double;      // computed in double, else in float
  int32_t cosine;         // rows have unit length; zero rows weigh nothing
};

// Where the results go. Distances may be null, sums and counts together; without sums of inertia
// it only counts whether it is finite.
struct km_result {
  int64_t* labels;   // (n); also read where warm
  void* distances;   // (n), squared, of the type that is computed in
  double* sums;      // (k, d), overwritten
  double* counts;    // (k), overwritten
  double* inertia;   // (1), overwritten
  int64_t* changed;  // (1), overwritten: labels that differ from what they were, n if not warm
  int32_t warm;      // labels hold good guesses: those of the last call
};

// What makes repeated calls on the same rows faster; it never changes a result.
struct km_workspace;
// keep: coordinates of the rows may be kept in memory, where they pay. sort: rows of up to 16
// features may be, sorted. Null without memory.
KM_API km_workspace* km_open(int keep, int sort);
KM_API void km_close(km_workspace* workspace);

// Lets the calls that follow measure along few directions before they measure all features:
// basis (p, d) has orthonormal rows, leading ones first, and center (d) is near the data; p + 1 is
// a multiple of 16, or p is 0 for all features. Seeding keeps to the directions of its first call.
KM_API int km_project(km_workspace* workspace, const float* basis, const float* center, int64_t p,
                      int64_t d);

// Labels, distances and statistics for centroids (k, d), contiguous and of the type that is
// computed in.
// workspace may be null. Returns 0, or 1 where there is no memory.
KM_API int km_e_step(const km_rows* rows, const void* centroids, int64_t k, const km_result* result,
                     km_workspace* workspace, int threads);

// For seeding: lowers nearest (n), squared distances to the nearest centre so far, by those to
// one centre (d); all of the type that is computed in, full ones for cosine too. unchanged: nearest
// is as the last call for seeding left it, and rows.weights are the same; then both functions are
// faster.
KM_API int km_lower(const km_rows* rows, void* nearest, const void* center, int unchanged,
                    km_workspace* workspace, int threads);

// For seeding: potentials (m), the weighted sum of what nearest would be lowered to by each of
// the candidates (m, d).
KM_API int km_potentials(const km_rows* rows, const void* nearest, const void* candidates,
                         int64_t m, int unchanged, double* potentials, km_workspace* workspace,
                         int threads);

// The three above for sparse rows, which are never written out with their zeros but one by one,
// where products do not tell the nearest centroid. Labels and distances are those of km_e_step of
// the whole rows, bit for bit; distances of seeding are those but for rounding.
KM_API int km_sparse_e_step(const km_sparse* rows, const void* centroids, int64_t k,
                            const km_result* result, int threads);
KM_API int km_sparse_lower(const km_sparse* rows, void* nearest, const void* center, int threads);
KM_API int km_sparse_potentials(const km_sparse* rows, const void* nearest, const void* candidates,
                                int64_t m, double* potentials, int threads);

// Squared distances (n, k) of sparse rows to centroids (k, d), of the type that is computed in,
// from products in double; half of that for cosine, and 1 for a zero row.
KM_API int km_sparse_distances(const km_sparse* rows, const void* centroids, int64_t k,
                               void* distances, int threads);

// Writes the values of sparse rows at unit length, which are those of the whole rows.
KM_API int km_sparse_unit(const km_sparse* rows, void* values, int threads);

// Sums of consecutive blocks of n values, each of so many, the last one short. A value v counts as
// v * 2^exponent, rounded to the nearest integer (ties to even): at least 1 where v is positive,
// and 2^bits, bits from 0 to 51, at most. Exponents are from -2000 to 2000.
KM_API int km_block_sums(const void* values, int is_double, int64_t n, int64_t size, int exponent,
                         int bits, int64_t* sums, int threads);

// Positions (m) where the cumulative sum of n values, none negative, exceeds targets (m). sums are
// those of blocks; a value of 0 is found where all are 0 only.
KM_API int km_search_sums(const void* values, int is_double, int64_t n, int64_t size, int exponent,
                          int bits, const int64_t* sums, const int64_t* targets, int64_t m,
                          int64_t* positions);

// Positions (m) where the cumulative sum exceeds the shares numbers (m), in [0, 1), of the total,
// rounded down: both of the above at once.
KM_API int km_draw(const void* values, int is_double, int64_t n, int64_t size, int exponent,
                   int bits, const double* numbers, int64_t m, int64_t* positions, int threads);

// Copies rows to (n, d), contiguous; for cosine at unit length, as distances take them.
KM_API int km_load(const km_rows* rows, void* to, int threads);

// Smallest and largest value (d) of each feature, and the sums (d) of the values or, about a
// center (d), of squared differences; rows of weight 0 do not count in sums. Cosine is not
// looked at. Sums are NaN or infinite where a value is.
KM_API int km_spread(const km_rows* rows, const double* center, double* low, double* high,
                     double* sums, int threads);

// For each row of x (n, d) the codes (n, levels) whose centroids add up nearest to it, as a beam
// search finds them that keeps the beam_size nearest choices, from 1 to 64, at each level; ties by
// the choices of the levels before, then by the lowest code. left (n, d) is what they leave.
// codebooks are (levels, k, d). All are contiguous, of double or else of float.
KM_API int km_beam_search(const void* x, int is_double, int64_t n, int64_t d, const void* codebooks,
                          int64_t levels, int64_t k, int64_t beam_size, int64_t* codes, void* left,
                          int threads);

// For each row of x (n, d) the m nearest of the centroids (k, d), m from 1 to the smaller of k and
// 64: labels (n, m), and squared distances (n, m) of the type of x, nearest first; ties by the
// lowest index. All are contiguous, of double or else of float.
KM_API int km_neighbors(const void* x, int is_double, int64_t n, int64_t d, const void* centroids,
                        int64_t k, int64_t m, int64_t* labels, void* distances, int threads);

// Share of the pairs of a row and a centroid that the last E-step looked at, 0 to 1.
KM_API double km_share_visited(const km_workspace* workspace);

// Watches memory (n_bytes) into which a file is mapped: where the file is cut short, what it has
// lost reads as zeros, and the process does not end by SIGBUS. Returns the number of the mapping
// for the two functions below, or -1 where that is not possible.
KM_API int km_guard_mapping(const void* start, int64_t n_bytes);
// Whether lost memory was read: what was computed since is worth nothing.
KM_API int km_mapping_was_cut(int mapping);
KM_API void km_release_mapping(int mapping);

// Says that this process is a forked child, where the library was not loaded before the fork.
KM_API void km_forked(void);

// Chooses an instruction set, "avx512", "avx2" or "baseline", for comparison and for new
// workspaces; by default the best one. Returns 0, or 1 where the processor does not have it.
KM_API int km_use_instruction_set(const char* name);
}
