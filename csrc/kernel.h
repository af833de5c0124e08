// What the inner loops need, and one implementation of them for each instruction set.
#pragma once

#include "native.h"

// Up to so many features, rows are measured against every centroid; above, first by bounds.
constexpr int64_t kFewFeatures = 8;
// Numbers that a row adds to its cluster there: features, its weight, and what fills up fours.
constexpr int64_t terms_of(int64_t d) { return (d + 4) / 4 * 4; }

// Centroids made ready for km_kernel::search, sixteen to a panel. A position is a place in the
// panels; the last panel is filled up with places that hold no centroid.
struct km_search {
  int64_t k, d, stride;     // stride: d filled up to a multiple of 16, by zeros
  int64_t panels;           // 0: every centroid is tried
  int64_t block;            // rows taken together, a multiple of 16
  int tile;                 // of them, whose scores are kept together
  const void* centroids;    // (16 panels, stride), of the type of the rows
  const int32_t* index;     // (16 panels): which centroid
  const int32_t* position;  // (k)

  // Coordinates of rows and centroids: all features, or directions and the norm of the rest.
  int64_t pitch;            // numbers from one row to the next
  int64_t coarse;           // how many scores are made of, before the norm of their rest
  int64_t fine;             // how many a second bound is made of, a multiple of 16, or 0
  int64_t directions;       // how many directions there are; 0: all features, no rest
  const float* basis;       // (directions / 16 rounded up, d, 16)
  const float* center;      // (stride): the origin
  const float* packed;      // (panels, 1 + coarse + 1, 16): -½‖c‖², coordinates, rest
  const float* coordinates_of_centroids;  // (16 panels, pitch)
  const float* norms_of_centroids;        // (16 panels), squared
  // Rounding, relative to the squared norms: of scores, of the second bound, of the rest's
  // square. And slack, relative to a squared distance: more than 1.
  float margin, fine_margin, blur, slack;

  // Of the rows, kept from call to call; all may be null.
  float* coordinates;       // (n, pitch)
  float* norms;             // (n), squared
  bool measured;            // coordinates and norms are there
  // bounds[i / block, g, i % block] - moved[g] is a lower bound of the distance, not squared,
  // of row i to all centroids but its own in the panels from g * together on.
  float* bounds;            // (n / block rounded up, groups, block)
  int64_t groups, together;
  const float* moved_most;   // (groups), rounded up
  const float* moved_least;  // (groups), rounded down
  bool bounded;             // bounds are there
};

constexpr int kMostRows = 128;  // in a block

// Memory for one thread, aligned to 64 bytes.
struct km_scratch {
  void* rows;          // (block, stride)
  float* coordinates;  // (block, pitch)
  float* centered;     // (block, stride)
  float* scores;       // (tile, 16 panels), for rows without a guess
  uint8_t* lists;      // (panels, block)
  int32_t* counts;     // (panels)
};

#define KM_MOST_BEAMS 64
constexpr int kBeamRows = 8;  // whose beams are searched together

// What a beam search needs; see km_beam_search.
struct km_beam {
  const float* x;          // (n, d)
  const float* codebooks;  // (levels, k, d)
  const float* packed;     // (levels, panels, 1 + d, 16): -½‖c‖², centroids
  int64_t d, levels, k, beam_size;
  int64_t* codes;          // (n, levels)
  float* left;             // (n, d)
};

struct km_kernel {
  // For few features, on rows begin to end: the result's sums and counts are added to; block
  // has block_bytes for each feature, and sums (copies, k, terms_of(d)) is all zero.
  void (*scan)(const km_rows& rows, const void* centroids, int64_t k, int64_t begin, int64_t end,
               const km_result& result, void* block, double* sums, int64_t copies);
  // The same for many features; begin is a multiple of the block. Returns the number of pairs
  // of a row and a panel that were looked at.
  int64_t (*search)(const km_rows& rows, const km_search& search, int64_t begin, int64_t end,
                    const km_result& result, const km_scratch& scratch);
  // Coordinates (count, pitch) and squared norms (count) of rows (count, stride).
  void (*measure)(const km_search& search, bool is_double, const void* rows, int count,
                  float* centered, float* coordinates, float* norms);
  // potentials (m, a multiple of centroids_together) are added to. Bit c of reached (n) says
  // whether candidate c < 16 is nearer to a row than nearest.
  void (*potentials)(const km_rows& rows, const void* nearest, const void* candidates, int64_t m,
                     int64_t begin, int64_t end, double* potentials, uint16_t* reached,
                     void* block);
  // The same for candidates made ready in panels; begin is a multiple of the block.
  void (*potentials_by_bounds)(const km_rows& rows, const km_search& candidates,
                               const void* nearest, int64_t begin, int64_t end,
                               double* potentials, uint16_t* reached, const km_scratch& scratch);
  // Lowers nearest by a candidate, center (stride), where it was reached; row has its size.
  void (*lower_reached)(const km_rows& rows, void* nearest, const void* center, int64_t stride,
                        const uint16_t* reached, int candidate, int64_t begin, int64_t end,
                        void* row);
  // center is repeated centroids_together times.
  void (*lower)(const km_rows& rows, void* nearest, const void* center, int64_t begin,
                int64_t end, void* block);
  // Rows begin to end; vectors (2, kBeamRows beam_size, d) and codes (2, ·, levels) are scratch.
  void (*beam)(const km_beam& beam, int64_t begin, int64_t end, float* vectors, int32_t* codes);
  int64_t centroids_together;
  int rows_together;
  int64_t block_bytes;
};

#if defined(__x86_64__)
extern const km_kernel km_avx512;
extern const km_kernel km_avx2;
#endif
extern const km_kernel km_baseline;
