// The interface of the native kernels: plain C, pointers and sizes, no torch headers. The structs,
// functions and numbers of the interface are written here and nowhere else: csrc/abi/bind.py makes
// kmeans_module/backends/native/interface.py of this file, by its plain style. After a change that
// a caller notices, raise KM_ABI_VERSION; after any change, run `python csrc/abi/bind.py`.
//
// Conventions. Arrays are dense, the last index runs fastest, and shapes stand in parentheses. A
// pointer is aligned to the size of one of the numbers behind it. The
// *computed type*, float or double, is the type that distances are computed in; where a pointer is
// void*, the numbers behind it are of that type unless the line says otherwise. Distances are
// squared Euclidean distances; under the cosine metric an E-step reports half of that distance of
// the row at unit length, 1 - cos. Sizes (n rows, d features, k centroids, m) may be 0 where the
// line gives no range. threads is the most threads that a call may use, at least 1. A function that
// returns int returns 0, or 1 where there is no memory, unless its comment says otherwise; after a
// 1 the contents of the results are void. Denormal numbers count, whatever the caller's mode.
#pragma once

#include <cstdint>

#define KM_API __attribute__((visibility("default")))

extern "C" {

// The version of this file. A library that says another version of itself is not to be called.
#define KM_ABI_VERSION 5

// The order of operations of the deciding distance (csrc/README.md): up to KM_FEW_FEATURES
// features one after the other, above in KM_LANES lanes and by parts of KM_FEATURES_IN_PART.
#define KM_FEW_FEATURES 8
#define KM_LANES 16
#define KM_FEATURES_IN_PART 1024
// Every integer up to this one, 2^24, is a float; beyond, rows are computed in double.
#define KM_MOST_INTEGER_OF_FLOAT 16777216
// Up to so many features a workspace may sort its rows into boxes (km_open).
#define KM_SORTED_FEATURES 16
// Up to so many features seeding measures every distance, since bounds would cost as much:
// directions (km_project) serve seeding above only.
#define KM_MEASURED_FEATURES 23
// Candidates of seeding that are measured together: a row has a mask of 16 bits that tells which
// candidates are nearer to it than its nearest center. More candidates are slower, and as exact.
#define KM_CANDIDATES_TOGETHER 16
// Choices that a beam search keeps, and neighbors that a search finds, at most.
#define KM_MOST_BEAMS 64
// Bits of an integer of the cumulative sums, at most: below 2^52 a double has room to round it.
#define KM_MOST_BITS 51
// Exponents of their scale are from -KM_MOST_EXPONENT to this: two powers of two, each a double.
#define KM_MOST_EXPONENT 2000

// Types of the numbers of rows, by their names in torch.
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

// Rows of one problem: feature j of row i is x[i * row_stride + j * column_stride]. Rows of other
// types are converted to the computed type block by block; results are those of a converted copy.
struct km_rows {
  const void* x;          // numbers of the type element
  int64_t n;              // rows
  int64_t d;              // features, at least 1
  int64_t row_stride;     // in elements; 0 repeats a row
  int64_t column_stride;  // in elements
  const double* weights;  // (n), not negative; null: every row weighs 1
  int32_t is_double;      // computed type: 1 double, 0 float
  int32_t cosine;         // 1: rows are scaled to unit length, and zero rows weigh nothing
  int32_t element;        // km_element: the type of x
  int32_t* beyond;        // (1) or null: becomes 1 where the computed type is float and x holds an
                          // integer beyond KM_MOST_INTEGER_OF_FLOAT; the results are void then
};

// Sparse rows of one problem (CSR): the numbers of row i are values[starts[i]] up to, and without,
// values[starts[i + 1]], of the features columns[..]; all other numbers of the row are 0.
struct km_sparse {
  const int64_t* starts;   // (n + 1), ascending
  const int32_t* columns;  // (starts[n]), 0 to d - 1, ascending within a row
  const void* values;      // (starts[n]); for cosine as km_sparse_unit writes them
  int64_t n;               // rows
  int64_t d;               // features, 1 to 2^31 - 1
  const double* weights;   // (n), not negative; null: every row weighs 1
  int32_t is_double;       // computed type: 1 double, 0 float
  int32_t cosine;          // 1: values have unit length, and zero rows weigh nothing
};

// Where the results of an E-step go. Arrays are overwritten. Without sums, the E-step computes
// labels alone: inertia is then finite if all distances are, and says nothing else.
struct km_result {
  int64_t* labels;   // (n), 0 to k - 1: the nearest centroid, ties to the lowest index; where
                     // warm also read
  void* distances;   // (n) or null: of each row to the centroid of its label
  double* sums;      // (k, d) or null: weighted sums of the rows of each cluster
  double* counts;    // (k), null if sums is: weights of the rows of each cluster
  double* inertia;   // (1): weighted sum of the distances
  int64_t* changed;  // (1): how many labels differ from those before; n where not warm
  int32_t warm;      // 1: labels hold those that the last call with this workspace wrote, for as
                     // many centroids; without a workspace, those of any call
};

// What is remembered of the rows of one problem from one call to the next (bounds, coordinates,
// sums). Memory makes calls faster and never changes a label or a distance. A workspace belongs to
// its rows: all calls with it are about the same km_rows, and only one runs at a time.
struct km_workspace;

// Returns KM_ABI_VERSION as the library was built for.
KM_API int km_abi_version(void);

// Makes a workspace; null where there is no memory.
KM_API km_workspace* km_open(int keep,   // 1: coordinates of the rows may be kept, where they pay
                             int sort);  // 1: rows of up to KM_SORTED_FEATURES may be kept, sorted

// Frees a workspace; it may be null.
KM_API void km_close(km_workspace* workspace);

// Lets the calls that follow discard centroids by few coordinates of a row, its products with the
// directions, and the norm of what the directions leave out (Cauchy and Schwarz), before they
// measure all features. Seeding keeps to the directions of its first call.
KM_API int km_project(km_workspace* workspace,
                      const float* basis,   // (p, d): orthonormal directions, the leading first
                      const float* center,  // (d): the origin of the coordinates, near the mean
                      int64_t p,            // directions: p + 1 a multiple of KM_LANES; 0: none
                      int64_t d);           // features of the rows

// The E-step: labels, distances and statistics of all rows.
KM_API int km_e_step(const km_rows* rows,
                     const void* centroids,  // (k, d)
                     int64_t k,              // at least 1
                     const km_result* result,
                     km_workspace* workspace,  // or null: nothing is remembered
                     int threads);

// The distance of each row to the centroid of a given label: the bits that km_e_step writes for
// that label, at n distances instead of n k. A zero row under cosine is at distance 1.
KM_API int km_label_distances(const km_rows* rows,    // weights are not read
                              const void* centroids,  // (k, d)
                              int64_t k,              // at least 1
                              const int64_t* labels,  // (n), 0 to k - 1
                              void* distances,        // (n), overwritten
                              int threads);

// Seeding (k-means++): lowers the distance of each row to its nearest center, by another center.
// Here a distance is not halved under cosine, and a zero row counts as others do: a caller that
// wants it to weigh nothing, as in an E-step, gives it weight 0.
KM_API int km_lower(const km_rows* rows,
                    void* nearest,       // (n), lowered: infinity before the first center
                    const void* center,  // (d)
                    int unchanged,       // 1: nearest is as the last call for seeding left it, and
                                         // rows->weights are the same; both functions are faster
                    km_workspace* workspace,  // not null
                    int threads);

// Seeding (k-means++): the potential that each candidate would leave, the weighted sum of what
// nearest would be lowered to. Rounding is relative to the potential before, of which a potential
// may be what a candidate's gain leaves.
KM_API int km_potentials(const km_rows* rows,
                         const void* nearest,      // (n), see km_lower
                         const void* candidates,   // (m, d)
                         int64_t m,                // fastest up to KM_CANDIDATES_TOGETHER
                         int unchanged,            // see km_lower
                         double* potentials,       // (m), overwritten
                         km_workspace* workspace,  // not null
                         int threads);

// km_e_step of sparse rows. Labels and distances have the bits of km_e_step of the rows with their
// zeros; inertia without distances comes of products, and differs by rounding. Products discard
// centroids; a row is written out, alone, where products leave more than one.
KM_API int km_sparse_e_step(const km_sparse* rows,
                            const void* centroids,  // (k, d)
                            int64_t k,              // at least 1
                            const km_result* result, int threads);

// km_label_distances of sparse rows, with the same bits as those of the rows with their zeros.
KM_API int km_sparse_label_distances(const km_sparse* rows,  // weights are not read
                                     const void* centroids,  // (k, d)
                                     int64_t k,              // at least 1
                                     const int64_t* labels,  // (n), 0 to k - 1
                                     void* distances,        // (n), overwritten
                                     int threads);

// km_lower of sparse rows, of products in double: equal to km_lower but for rounding.
KM_API int km_sparse_lower(const km_sparse* rows,
                           void* nearest,       // (n), lowered
                           const void* center,  // (d)
                           int threads);

// km_potentials of sparse rows, of products in double: equal to km_potentials but for rounding, and
// for zero rows under cosine, which weigh nothing here.
KM_API int km_sparse_potentials(const km_sparse* rows,
                                const void* nearest,     // (n)
                                const void* candidates,  // (m, d)
                                int64_t m,
                                double* potentials,  // (m), overwritten
                                int threads);

// Distances of sparse rows to all centroids, of products in double; under cosine 1 - cos, and 1 for
// a zero row.
KM_API int km_sparse_distances(const km_sparse* rows,
                               const void* centroids,  // (k, d)
                               int64_t k,
                               void* distances,  // (n, k), overwritten
                               int threads);

// Scales sparse rows to unit length, with the bits of km_load for the rows with their zeros.
KM_API int km_sparse_unit(const km_sparse* rows,  // values as given, cosine is not read
                          void* values,           // (starts[n]), overwritten
                          int threads);

// Sums of consecutive blocks of numbers that count as integers, so that a sum does not depend on
// its order. A number v counts as v * 2^exponent, rounded to the nearest integer (ties to even):
// at least 1 where v is positive, and at most 2^bits.
KM_API int km_block_sums(const void* values,  // (n), not negative; double or float
                         int is_double,       // type of the values: 1 double, 0 float
                         int64_t n,           // such that n 2^bits is less than 2^63
                         int64_t size,        // numbers of a block, at least 1; the last is short
                         int exponent,        // -KM_MOST_EXPONENT to KM_MOST_EXPONENT
                         int bits,            // 0 to KM_MOST_BITS
                         int64_t* sums,       // (n / size rounded up), overwritten
                         int threads);

// Finds, for each target, the first number with which the cumulative sum exceeds the target; beyond
// the total, the last number that counts. A number of 0 is found only where all numbers are 0.
KM_API int km_search_sums(const void* values,  // (n): as for km_block_sums, and so on
                          int is_double,
                          int64_t n,  // at least 1
                          int64_t size, int exponent, int bits,
                          const int64_t* sums,     // (n / size rounded up): of km_block_sums
                          const int64_t* targets,  // (m), not negative
                          int64_t m,
                          int64_t* positions);  // (m), 0 to n - 1, overwritten

// Draws positions in proportion to the values: the target of a number u is u times the total,
// rounded down, and km_search_sums finds its position.
KM_API int km_draw(const void* values,  // (n): as for km_block_sums, and so on
                   int is_double,
                   int64_t n,  // at least 1
                   int64_t size, int exponent, int bits,
                   const double* numbers,  // (m), in [0, 1)
                   int64_t m,
                   int64_t* positions,  // (m), 0 to n - 1, overwritten
                   int threads);

// Copies rows as distances take them: converted and, for cosine, at unit length.
KM_API int km_load(const km_rows* rows,
                   void* to,  // (n, d), overwritten
                   int threads);

// The range of each feature and its sum over all rows; or, about a center, its sum of squared
// differences alone. Rows of weight 0 do not count in sums, nor does the weight of others; cosine
// is not read. Sums are NaN or infinite where a value is.
KM_API int km_spread(const km_rows* rows,
                     const double* center,  // (d) or null: sums are of the values
                     double* low,           // (d), overwritten: infinity where there is no row;
                                            // about a center void
                     double* high,          // (d), as low: -infinity where there is no row
                     double* sums,          // (d), overwritten
                     int threads);

// Residual quantization by beam search: for each row one centroid of each level, which add up near
// to the row. A beam keeps the beam_size nearest choices at each level; ties go to the choices of
// the levels before, then to the lowest index.
KM_API int km_beam_search(const void* x,  // (n, d): double or float
                          int is_double,  // type of all numbers: 1 double, 0 float
                          int64_t n,
                          int64_t d,              // at least 1
                          const void* codebooks,  // (levels, k, d)
                          int64_t levels,         // at least 1
                          int64_t k,              // at least 1
                          int64_t beam_size,      // 1 to KM_MOST_BEAMS
                          int64_t* codes,         // (n, levels), overwritten: 0 to k - 1
                          void* left,             // (n, d), overwritten: x less its centroids
                          int threads);

// The m nearest centroids of each row, nearest first, ties to the lowest index.
KM_API int km_neighbors(const void* x,  // (n, d): double or float
                        int is_double,  // type of all numbers: 1 double, 0 float
                        int64_t n,
                        int64_t d,              // at least 1
                        const void* centroids,  // (k, d)
                        int64_t k,              // at least 1
                        int64_t m,              // 1 to the smaller of k and KM_MOST_BEAMS
                        int64_t* labels,        // (n, m), overwritten
                        void* distances,        // (n, m), overwritten
                        int threads);

// Watches memory into which a file is mapped. Where the file is cut short, the part that the file
// has lost would end the process by SIGBUS; watched, it reads as zeros. Returns the number of the
// mapping for the two functions below, or -1 where that is not possible.
KM_API int km_guard_mapping(const void* start,  // of the mapping
                            int64_t n_bytes);

// Returns 1 where a lost part was read: whatever was computed since is void. Else 0.
KM_API int km_mapping_was_cut(int mapping);  // as km_guard_mapping numbers it

// Ends the watch; the number may then serve another mapping.
KM_API void km_release_mapping(int mapping);  // as km_guard_mapping numbers it

// Tells the library that this process is a forked child, where the library was not loaded before
// the fork: threads of OpenMP are lost there, and std::thread serves instead.
KM_API void km_forked(void);
}
