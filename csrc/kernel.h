// What the inner loops need, and one implementation of them for each instruction set.
#pragma once

#include "native.h"

// Up to so many features, rows are measured against every centroid; above, first by bounds.
constexpr int64_t kFewFeatures = 8;
// Up to so many, seeding measures every distance: bounds cost as much.
constexpr int64_t kMeasuredFeatures = 23;
// Up to so many they are sorted for seeding.
constexpr int64_t kSortedFeatures = 16;
// Numbers that a row adds to its cluster there: features, its weight, and what fills up fours.
constexpr int64_t terms_of(int64_t d) { return (d + 4) / 4 * 4; }

constexpr int kBlock = 64;              // rows taken together
constexpr int kMostRowsInLanes = 32;    // of them, whose scores are computed together
constexpr int kMostRowsTogether = 8;    // whose coordinates are measured together
constexpr int64_t kMostPlaces = 1024;   // of centroids, whose scores are kept together
// A row's coordinates are whole numbers, of this length together, in units of √norm / kWhole;
// the norm is taken to be kLeastNorm at least.
constexpr float kWhole = 32000;
constexpr float kLeastNorm = 1e-30f;

// Centroids made ready for km_kernel::search. A place holds a centroid, or fills up sixteen.
struct km_search {
  int64_t k, d, stride;     // stride: d filled up to a multiple of 16, by zeros
  int64_t places;           // k filled up to a multiple of 16; 0: every centroid is tried
  const void* centroids;    // (places, stride), of the type that is computed in
  const int32_t* index;     // (places): which centroid
  const int32_t* position;  // (k)

  // Coordinates of rows and centroids: all features, or directions and the norm of the rest;
  // pairs of whole numbers of 16 bits, in units of √norm / kWhole.
  int64_t pitch;            // pairs from one row to the next, a multiple of 16
  int64_t width;            // how many of them are there, not zeros
  int64_t directions;       // how many directions there are; 0: all features, no rest
  const float* basis;       // (directions / 16 rounded up, d, 16)
  const float* center;      // (stride): the origin
  const int32_t* coordinates_of_centroids;  // (places, pitch)
  const float* units;       // (places)
  const float* offsets;     // (places): -½‖c‖², rounded up; -infinity where there is no centroid
  // Rounding, relative to the squared norms: of scores, of the rest's square. And slack,
  // relative to a squared distance: more than 1.
  float margin, blur, slack;

  // Of the rows, kept from call to call; all may be null.
  int32_t* labels;          // (n)
  int32_t* coordinates;     // (n, pitch)
  float* norms;             // (n), squared
  int32_t* columns;         // for seeding: (n filled up to blocks / lanes, width, lanes)
  bool measured;            // coordinates or columns, and norms are there
  // A group is so many places. With bound = bounds[i / kBlock, g, i % kBlock], all centroids
  // of group g but its own are (base[i] + bound - moved_most[g]) step from row i, at least.
  uint8_t* bounds;          // (n / kBlock rounded up, groups, kBlock)
  float* base;              // (n rounded up to blocks)
  int64_t groups, together;
  const int32_t* group_of;  // (places)
  float per_step;           // 1 / step
  const uint8_t* moved_most;   // (groups), in steps, rounded up: at most kMostSteps
  const float* moved_least;    // (groups), in steps, rounded down
  const float (*terms)[4];     // (places): of units, offsets and moved_least; 0
  const uint8_t* settled;      // (groups): what to take off all bounds first; or null
  bool bounded;             // bounds are there

  // A row whose squared distance to its centroid, as it is computed, is at most apart of that is
  // nearer to no other; if it is less than between of that and another, it is not nearer to that.
  const float* apart;       // (places), or null
  const float* between;     // (k, places), or null
  const float* closest;     // (k, blocks): the least of sixteen of between
  int64_t blocks;           // places / 16 filled up to a multiple of 16, by infinity

  // A row is so far from its centroid at most, as of the last call; and how far, at most, the
  // centroids (places) have moved since. May be null.
  float* reach;             // (n)
  const float* drift;
  float pairs_before, looked_before;  // of the last call: of each row; rows as a share
  bool reached;             // they are there, and rows that they settle need not be measured
};

constexpr int kMostSteps = 127;

// Rows of few features, sorted so that neighbours are near each other: leaves hold rows, and nodes
// kFan leaves, or nodes, that follow each other. Level 0 are the leaves. Each is in a box.
constexpr int64_t kFan = 8;
constexpr int64_t kMostTopNodes = 512;
constexpr int kMostLevels = 16;
constexpr int kCandidates = 32;  // of seeding, at once
// What numbers of rows and centroids do not exceed, and where there is nothing.
template <typename T>
constexpr T kMostOfTree = sizeof(T) == 4 ? T(1e15) : T(1e140);
template <typename T>
constexpr T kFarAway = sizeof(T) == 4 ? T(1e17) : T(1e150);

struct km_tree {
  int64_t n, d, leaf;           // leaf: rows of each; the last one repeats its last row
  int levels;
  int64_t nodes[kMostLevels];   // of each level; of the uppermost at most kMostTopNodes
  int64_t begin[kMostLevels];   // number of the first of them
  void* rows;                   // (leaves, d, leaf)
  double* weights;              // (leaves, leaf), 0 where there is no row; or null for weight 1
  uint32_t* number;             // (n): which row
  void* middle;                 // (nodes, d)
  void* half;                   // (nodes, d): how far the box reaches to either side
  // For the E-step, up to kFewFeatures, or null.
  double* moments;              // (nodes, 2 + d): weight; squared distances to the middle, and
                                // differences from it, added up by weight
  int32_t* label;               // (n): as of the last call, or -1
  int32_t* owner;               // (nodes): label of all rows, or -1
  // For seeding, or null.
  void* near;                   // (leaves, leaf): squared distances to the nearest centre
  void* farthest;               // (nodes): the largest of them
  double* potential;            // (nodes): added up by weight
};

// Centroids that may be near, one list for each level, and memory for a number of each centroid.
// Features are (d, room); room is k filled up.
struct km_near_lists {
  int64_t k, room;
  int32_t* all_index;  // (room): 0 to k - 1
  void* all;           // features of all centroids, others far away
  int32_t* index;      // (levels, room)
  void* features;      // (levels, d, room)
  void* squares;       // (room)
};

// A row whose label has changed.
struct km_move {
  int64_t row;
  int32_t from, to;
};

// The same for one of the two clusters: a row joins or leaves it.
struct km_change {
  int64_t row;
  int32_t cluster;
  bool joins;
};

// Sums of clusters. Adding splitter to a number and taking it off again leaves a multiple of a unit;
// these and what is left are added up apart, so that both sums are exact, in whatever order.
struct km_sums {
  double splitter;       // or 0: plain sums, by weight
  double* high;          // (k, d): of multiples, or plain ones
  double* low;           // (k, d): of what is left; or null
  double* counts;        // (k): of weights
  const double* center;  // (d)
  double* squares;       // (d): of differences from center, by weight
  uint32_t largest, smallest;  // floats that were added, without their signs: bits of these
};

// Rows of a block, a bit each, that may be near a group.
struct km_near {
  uint64_t rows;
  int64_t group;
};

// Memory for one thread, aligned to 64 bytes.
struct km_scratch {
  void* rows;            // (kBlock, stride)
  int32_t* coordinates;  // (kBlock, pitch)
  float* centered;       // (kBlock, stride)
  float* along;          // (kMostRowsTogether, directions + 1)
  int32_t* columns;      // (pitch, kMostRowsInLanes)
  float* scores;         // (kMostPlaces or, if less, places; kMostRowsInLanes)
  km_near* near;         // (groups)
  km_move* moves;        // (rows of the thread), or null
};

#define KM_MOST_BEAMS 64
constexpr int kBeamRows = 8;  // whose beams are searched together

// Codebooks made ready for km_kernel::beam; see km_beam_search.
struct km_beam {
  const void* x;          // (n, d)
  const void* codebooks;  // (levels, k, stride), of the type of x
  // Up to kFewFeatures: (levels, blocks, d, block), of the type of x, a block being block_bytes
  // for each feature. Above (levels, panels, 1 + d, 16) floats: -½‖c‖² raised by the margin and c,
  // both less the origin of the level; infinity and zeros where ‖c‖² is too large.
  const void* packed;
  const int64_t* origins;  // (levels): which centroid of the level is the origin
  int64_t d, stride, levels, k, beam_size;  // stride: d, above kFewFeatures filled up to 16
  // Rounding of the least and the most of a squared distance, relative to the squared norms of
  // both; and for a number that has been raised by it, 4 margin / (1 - margin).
  float margin, margin_of_half;
  int64_t* codes;          // (n, levels); of a search for neighbors (n, beam_size)
  void* left;              // (n, d), or null
  void* distances;         // (n, beam_size) of the only level, or null: no search for neighbors
};

// Memory of one thread for kBeamRows rows of beam_size beams.
struct km_beam_scratch {
  void *left, *next;  // (rows, beams, stride)
  float* centered;    // (rows, beams, stride)
  int32_t *codes, *next_codes;  // (rows, beams, levels)
};

// Centroids made ready for km_kernel::search_sparse.
struct km_sparse_search {
  int64_t k, d, stride;   // stride: d, above kFewFeatures filled up to a multiple of 16, by zeros
  int64_t places;         // k filled up to a multiple of 16
  const void* columns;    // (d, places): feature by feature
  const void* halves;     // (places): ½‖c‖²; infinity where there is no centroid
  const void* norms;      // (places): ‖c‖
  const double* squares;  // (k): ‖c‖²
  const void* centroids;  // (k, stride)
};

// Memory of one thread.
struct km_sparse_scratch {
  void* row;    // (stride), zeros
  void* lower;  // (places)
};

// What a search has seen.
struct km_seen {
  int64_t pairs;  // of a row and a centroid that were measured
  int64_t plain;  // rows of which it was plain at once that their centroid stays the nearest
  int64_t looked;  // rows that were measured against others than their centroid
  int64_t moves;  // that were written down
};

// Whether rows are of another type than the one that distances are computed in.
inline bool converts(const km_rows& rows) {
  return rows.element != (rows.is_double ? KM_FLOAT64 : KM_FLOAT32);
}

struct km_kernel {
  // Copies count rows to (count, pitch), of the type that is computed in; what fills up a row is
  // left as it is.
  void (*copy_rows)(const km_rows& rows, int64_t first, int64_t count, int64_t pitch, void* to);
  // For few features, on rows begin to end: the result's sums and counts are added to; block
  // has twice block_bytes for each feature, and sums (copies, k, terms_of(d)) is all zero.
  void (*scan)(const km_rows& rows, const void* centroids, int64_t k, int64_t begin, int64_t end,
               const km_result& result, void* block, double* sums, int64_t copies);
  // The same from boxes of rows down to the rows: nodes part, part + parts, .. of the uppermost.
  // Returns how many pairs of a row and a centroid were measured.
  int64_t (*descend)(const km_tree& tree, bool is_double, const km_near_lists& lists, int64_t part,
                     int64_t parts, const km_result& result, double* sums, int64_t copies);
  // For seeding, there: lowers nearest (n) and what is near by the distances to a centre.
  void (*lower_in_tree)(const km_tree& tree, bool is_double, const void* center, int64_t part,
                        int64_t parts, void* nearest);
  // Adds to gains (m) by how much the first m of candidates (d, kCandidates) would lower the
  // potential.
  void (*gain_in_tree)(const km_tree& tree, bool is_double, const void* candidates, int64_t m,
                       int64_t part, int64_t parts, double* gains);
  // For many features, begin a multiple of kBlock: labels and distances alone. The result's changed
  // is added to, and its inertia but for rows that are not measured; and so is seen.
  void (*search)(const km_rows& rows, const km_search& search, int64_t begin, int64_t end,
                 const km_result& result, const km_scratch& scratch, km_seen& seen);
  // Adds rows begin to end to the sums of their clusters; row (stride) is scratch.
  void (*add_up)(const km_rows& rows, int64_t stride, int64_t begin, int64_t end,
                 const int64_t* labels, km_sums& sums, void* row);
  // Changes sums that are exact; row (stride) is scratch.
  void (*change)(const km_rows& rows, int64_t stride, const km_change* changes, int64_t count,
                 const km_sums& sums, void* row);
  // For centroids begin to end what km_search::apart, between and closest say; the last two may
  // be null.
  void (*separate)(const km_search& search, int64_t begin, int64_t end, float* apart,
                   float* between, float* closest, int32_t* columns);
  // Coordinates (count, pitch) and squared norms (count) of rows (count, stride), at most kBlock.
  void (*measure)(const km_search& search, bool is_double, const void* rows, int count,
                  const km_scratch& scratch, int32_t* coordinates, float* norms);
  // potentials (m, 16 to be added up) are added to; m is a multiple of centroids_together. Bit c of
  // reached (n) says whether candidate c < 16 is nearer to a row than nearest.
  void (*potentials)(const km_rows& rows, const void* nearest, const void* candidates, int64_t m,
                     int64_t begin, int64_t end, double* potentials, uint16_t* reached,
                     void* block);
  // The same for candidates made ready, potentials (m); begin is a multiple of kBlock.
  void (*potentials_by_bounds)(const km_rows& rows, const km_search& candidates,
                               const void* nearest, int64_t begin, int64_t end,
                               double* potentials, uint16_t* reached, const km_scratch& scratch);
  // Lowers nearest by a candidate, center (stride), where it was reached; row has its size.
  void (*lower_reached)(const km_rows& rows, void* nearest, const void* center, int64_t stride,
                        const uint16_t* reached, int candidate, int64_t begin, int64_t end,
                        void* row);
  // Lowers nearest by center (stride); block has twice block_bytes for each feature or, above
  // kMeasuredFeatures, the size of kBlock rows (stride).
  void (*lower)(const km_rows& rows, void* nearest, const void* center, int64_t stride,
                int64_t begin, int64_t end, void* block);
  // Of x (count, size): lowers low and raises high (size), adds to sums (size) the numbers or,
  // about a center (size) that is not null, the squares of their differences alone.
  void (*spread)(const void* x, bool is_double, int64_t count, int64_t size, const double* center,
                 void* low, void* high, double* sums);
  // Rows begin to end.
  void (*beam)(const km_beam& beam, bool is_double, int64_t begin, int64_t end,
               const km_beam_scratch& scratch);
  // The sum of n values as integers, and integers (n) unless null; see km_block_sums.
  int64_t (*count)(const void* values, bool is_double, int64_t n, int exponent, int bits,
                   int64_t* integers);
  // Copies rows begin to end to (·, stride), filled up by zeros; for cosine at unit length.
  void (*load)(const km_rows& rows, int64_t begin, int64_t end, int64_t stride, void* to);
  // Labels of sparse rows begin to end, and their distances unless null; the result's changed and
  // inertia are added to, its sums are not.
  void (*search_sparse)(const km_sparse& rows, const km_sparse_search& search, int64_t begin,
                        int64_t end, const km_result& result, const km_sparse_scratch& scratch);
  // Squared distances of sparse rows begin to end, (·, 16) to points given as columns (d, 16) or, where
  // these are null, (·) to one point (d), whose ‖·‖² are squares.
  void (*measure_sparse)(const km_sparse& rows, const double* columns, const void* point,
                         const double* squares, int64_t begin, int64_t end, double* distances);
  // ‖·‖² (count) of points (count, d).
  void (*squares_of)(const void* points, bool is_double, int64_t count, int64_t d,
                     double* squares);
  // See km_sparse_unit, for rows begin to end.
  void (*unit_sparse)(const km_sparse& rows, int64_t begin, int64_t end, void* values);
  int64_t centroids_together;
  int64_t block_bytes;
};

// The best one for this processor, or the one that km_use_instruction_set chose.
const km_kernel& current_kernel();

#if defined(__x86_64__)
extern const km_kernel km_avx512;
extern const km_kernel km_avx2;
#endif
extern const km_kernel km_baseline;
