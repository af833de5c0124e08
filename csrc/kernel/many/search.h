// The inputs and outputs of a search for the nearest centroid of rows of many features.
//
// Search<T> has six structs, for the bounds and for the data that bounds are computed from. The
// host fills each of them once per E-step (or per call of k-means++), before the kernel runs; the
// kernel reads sizes and pointers, and writes through the pointers that are not const. A null
// pointer says that the quantity is not kept; which strategy (strategies-inl.h) serves then, the
// kernel derives itself.
//
// Words of shapes: n rows, k centroids, d features; stride = d rounded up to a multiple of 16;
// places = k rounded up to a multiple of 16; blocks of kBlock = 64 rows.
#pragma once

#include "kernel/limits.h"

namespace km {

// The centroids, in the order of their groups. A place is a position in that order, and holds a
// centroid, or (from k on) zeros that fill up sixteen. Centroids of one group are neighbors in
// space and stand side by side. Made by CentroidPlaces (host/centroid_places.h).
template <typename T>
struct Places {
  int64_t k, d, stride;     // k, d >= 1; stride: d rounded up to a multiple of 16, with zeros
  int64_t count;            // places, k rounded up to a multiple of 16; 0: no bounds, try all
  const T* centroids;       // (count, stride), or (k, stride) where count is 0
  const int32_t* index;     // (count): place -> centroid, 0 to k - 1
  const int32_t* position;  // (k): centroid -> place, 0 to k - 1
};

// Coordinates, by which a search screens: integers of 16 bits, two to an int32_t (a pair), in units
// of ‖z‖ / kWhole. z is a row less the origin: all features; or few directions of an orthonormal
// basis and, as the last number, the norm of what the directions leave out. All norms of rows and
// centroids are about that origin. Made by CentroidCoordinates (host/coordinates.h).
struct Coordinates {
  int64_t pitch;                // pairs from one row to the next, a multiple of 16
  int64_t width;                // pairs in use, 1 to pitch; the pairs behind them are 0
  int64_t directions;           // of the basis, 0 to d; 0: all features, nothing is left out
  const float* basis;           // (directions / 16 rounded up, d, 16), orthonormal; or null
  const float* center;          // (stride): the origin
  const int32_t* of_centroids;  // (places, pitch)
  const float* units;           // (places): ‖z‖ / kWhole of each centroid
  const float* offsets;  // (places): -½‖c‖², rounded up; -infinity at places without centroid
  float margin;          // error of a score, relative to ‖x‖² + ‖c‖²; 0 < margin << 1
  float blur;            // error of the squared norm left out, relative to ‖x‖²
  float slack;           // factor above 1: a computed Σ(x - c)² times slack is no less than
                         // the true one, and divided by slack no more
};

// Coordinates of the rows, kept from call to call so that a search need not read the rows; all of
// the pointers may be null. E-steps keep `coordinates`, k-means++ keeps `columns`. Made by
// KeptCoordinates (host/row_coordinates.h) or Seeding (host/seeding.h).
struct RowCoordinates {
  int32_t* coordinates;  // (n, pitch)
  float* norms;          // (n): ‖x‖² about the origin; for `columns` rounded up to blocks
  int32_t* columns;      // (n rounded up to blocks / lanes, width, lanes): a row to a lane
  bool measured;         // norms, and coordinates or columns, hold numbers; else the kernel writes
};

// Lower bounds l(x, g) on the distances of rows to groups of centroids (Elkan; Yinyang), one byte
// for each row and group, kept from call to call. A group is `together` neighboring places. Made by
// KeptLowerBounds (host/lower_bounds.h).
//
// The unit is a step. With step = steps[i / kBlock, g, i % kBlock], every centroid of group g
// except the centroid of row i is at least
//     l(i, g) = (base[i] + step - drift_above[g]) / per_step
// away from row i. base[i] keeps the distance of a row to its centroid within a byte:
//
//     row i      base                  u(i)                            base + 255
//     distance ---|----- 32 steps ------|---- bounds that can prune ------|----->   (in steps)
//     step        0                     32                               255
struct LowerBounds {
  uint8_t* steps;              // (n / kBlock rounded up, groups, kBlock), 0 to 255; or null
  float* base;                 // (n rounded up to blocks), in steps; may be negative
  int64_t groups, together;    // groups of `together` places, the last one short; 0 without steps
  const int32_t* group_of;     // (places), 0 to groups - 1
  float per_step;              // steps per unit of distance, above 0
  const uint8_t* drift_above;  // (groups), in steps, rounded up: 0 to kMostSteps
  const float* drift_below;    // (groups), in steps, rounded down
  const float (*terms)[4];     // (places): Coordinates.units, .offsets, drift_below of the group, 0
  const uint8_t* rebase;       // (groups): steps to take off all bounds of a group before they are
                               // read, when its drift would not fit into a byte; or null
  bool valid;  // steps and base hold bounds that go with the labels of the last call
};

// Gaps between centroids, ¼ d(c, c')² each: rounded down, so that rounding never discards. A row
// whose squared distance to c is at most the gap of c and c' is not nearer to c' (Elkan, lemma 1).
// Each pointer may be null; pairwise and of_sixteen come together. Made by CentroidGaps
// (host/centroid_gaps.h).
struct Gaps {
  const float* nearest;     // (places): to the nearest other centroid: Elkan's s(c)²
  const float* pairwise;    // (k, places): to each centroid; infinite to itself
  const float* of_sixteen;  // (k, blocks): the least of sixteen places of pairwise
  int64_t blocks;           // places / 16, rounded up to a multiple of 16 by infinite gaps
};

// Upper bounds u(x) on the distance of each row to its centroid (Hamerly), kept from call to call.
// Made by KeptUpperBounds (host/upper_bounds.h).
struct UpperBounds {
  float* reach;        // (n), not squared: as of the last call, the kernel adds the drift; or null
  const float* drift;  // (places), not squared: how far a centroid has moved since the last call
  float pairs_before;  // pairs of a row and a centroid measured per row in the last call, 0 to k
  float compared_before;  // share of rows measured against other centroids in the last call, 0 to 1
  bool skips_rows;        // reach holds bounds, and rows whose label bounds prove need no distance
};

// Everything a search reads. Made by SearchMaker (host/search_maker.h) for an E-step, by Seeding
// for k-means++.
template <typename T>
struct Search {
  Places<T> places;
  Coordinates coordinates;
  RowCoordinates rows;
  LowerBounds bounds;
  Gaps gaps;
  UpperBounds upper;
  int32_t* labels;  // (n), 0 to k - 1: labels of the last call, which the kernel updates; or null
};

// A row whose label has changed. The kernel makes it.
struct Move {
  int64_t row;       // 0 to n - 1
  int32_t from, to;  // centroids
};

// A group that may hold the nearest centroid of rows of a block. Made by CandidateGroups.
struct CandidateGroup {
  uint64_t rows;  // of the block, a bit each: rows whose lower bound does not rule the group out
  int64_t group;  // 0 to groups - 1
};

// Memory of one thread, each array aligned to 64 bytes. The host makes it.
template <typename T>
struct Scratch {
  T* rows;                 // (kBlock, stride): copies of rows
  int32_t* coordinates;    // (kBlock, pitch)
  float* centered;         // (kBlock, stride): rows less the origin
  float* along;            // (kMostRowsTogether, directions + 1): coordinates before rounding
  int32_t* columns;        // (pitch, kMostRowsInLanes): coordinates of a tile, a row to a lane
  float* scores;           // (least of kMostPlaces and places, kMostRowsInLanes)
  CandidateGroup* groups;  // (groups + 1)
  Move* moves;             // (rows of the thread), or null: not asked for
};

// What a search counts, for the policy of the host. The kernel adds to it.
struct Seen {
  int64_t pairs;     // pairs of a row and a centroid that were scored or measured
  int64_t proven;    // rows whose label the gaps proved
  int64_t compared;  // rows measured against other centroids than that of their label
  int64_t moves;     // entries of Scratch.moves
};

}  // namespace km
